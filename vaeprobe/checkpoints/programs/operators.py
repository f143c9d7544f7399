"""The operators that a self-contained program may use: mathematics on tensors, and nothing else.

Both `.pt2` and TorchScript say what to compute as names of torch's `aten` operators.  `operator` turns such a name
into the function, if it is in the list below; whatever can read or write a file, run code, or draw random numbers
is not.  In-place forms (`relu_`) of listed operators are listed too.
"""

from __future__ import annotations

import math
import operator as python_operator
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from vaeprobe.checkpoints.programs.shapes import with_shapes
from vaeprobe.errors import InputError, ResourceError
from vaeprobe.files.harm import refuse_operator
from vaeprobe.files.source import quoted

__all__ = [
    "ASSERTIONS",
    "LARGEST",
    "PYTHON",
    "SizeGuard",
    "bounded",
    "charge",
    "grows",
    "numbers_only",
    "operator",
    "small",
]

LARGEST = 1 << 30  # numbers in one tensor of a program: 4 GB in float32


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MATHS = _words(
    # products, convolutions, normalisation, attention, recurrence
    "linear addmm mm matmul bmm baddbmm mv dot outer einsum conv1d conv2d conv3d conv_transpose1d conv_transpose2d"
    " conv_transpose3d convolution _convolution batch_norm native_batch_norm _native_batch_norm_legit_no_training"
    " instance_norm group_norm native_group_norm layer_norm native_layer_norm rms_norm linalg_vector_norm"
    " scaled_dot_product_attention lstm gru lstm_cell gru_cell embedding bilinear _convolution_mode _weight_norm"
    " _weight_norm_interface inner vdot cdist linalg_cross cross linalg_inv linalg_inv_ex linalg_matrix_exp"
    " matrix_exp linalg_cholesky linalg_cholesky_ex linalg_solve _linalg_solve_ex linalg_solve_triangular linalg_det _linalg_det"
    " linalg_slogdet _linalg_slogdet logdet linalg_qr linalg_norm trace"
    # activations
    " relu relu6 leaky_relu rrelu elu selu celu gelu silu mish tanh sigmoid softplus hardtanh hardswish hardsigmoid prelu"
    " _prelu_kernel threshold softmax _softmax log_softmax _log_softmax log_sigmoid glu hardshrink softshrink"
    " dropout feature_dropout alpha_dropout dropout2d"
    # element by element
    " add sub mul div rsub neg abs exp exp2 expm1 log log1p log2 log10 sqrt rsqrt square pow reciprocal sin cos tan"
    " asin acos atan atan2 sinh cosh asinh acosh atanh erf erfc clamp clamp_min clamp_max minimum maximum where"
    " sign floor ceil round trunc frac fmod remainder floor_divide floordiv true_divide lerp addcmul addcdiv logaddexp"
    " sinc nan_to_num masked_fill logical_not logical_and logical_or logical_xor eq ne lt le gt ge isnan isinf isfinite"
    " bitwise_not bitwise_and bitwise_or __and__ __or__ __xor__ hypot xlogy logit lgamma"
    # sums over axes
    " sum mean amax amin max min var std var_mean prod cumsum cumprod median logsumexp logcumsumexp argmax argmin any all norm sort"
    " argsort topk searchsorted bucketize cummax cummin"
    # shapes
    " view view_as reshape reshape_as flatten unflatten permute transpose t mT mH numpy_T squeeze unsqueeze expand expand_as repeat"
    " tile cat concat stack split split_with_sizes chunk unbind select slice narrow index gather index_select flip roll"
    " contiguous clone detach detach_ alias _unsafe_view _reshape_alias movedim swapaxes pad constant_pad_nd"
    " reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d pixel_shuffle pixel_unshuffle broadcast_to"
    " broadcast_tensors lift_fresh lift_fresh_copy lift repeat_interleave tril triu one_hot col2im im2col meshgrid"
    " to _to_copy type_as copy fill zero slice_scatter select_scatter index_put scatter scatter_add scatter_reduce"
    " index_add index_copy take_along_dim diagonal diag_embed unsafe_chunk unsafe_split triu_indices tril_indices size dim numel"
    " is_floating_point hstack vstack"
    # resolution
    " upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d"
    " upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d avg_pool1d avg_pool2d avg_pool3d"
    " max_pool1d max_pool2d adaptive_avg_pool1d adaptive_avg_pool2d grid_sampler affine_grid_generator"
    # spectra
    " fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftshift fft_ifftshift view_as_complex"
    " view_as_real real imag complex polar conj _conj resolve_conj"
    # new tensors, filled
    " zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full arange linspace eye scalar_tensor tensor"
)
# what can return far more numbers than it takes: a program with one of these is rehearsed without memory first
GROWING = _words(
    "zeros ones full new_zeros new_ones new_full arange linspace eye repeat tile expand broadcast_to pad constant_pad_nd"
    " reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d repeat_interleave one_hot col2im im2col"
    " meshgrid outer einsum upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d"
    " _upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d"
    " adaptive_avg_pool1d adaptive_avg_pool2d affine_grid_generator cdist diag_embed triu_indices tril_indices linalg_qr"
    " fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2"
)
SYMBOLIC = _words("sym_size sym_numel sym_stride")
ASSERTIONS = _words(
    "_assert_scalar _assert_tensor_metadata _assert_async sym_constrain_range sym_constrain_range_for_size"
)


def numbers_only(function: Callable[..., object]) -> Callable[..., object]:
    """Return a function of Python that takes numbers alone: texts and lists multiply, format and grow without end."""

    def on_numbers(*args: object) -> object:
        for arg in args:
            if not isinstance(arg, (int, float, torch.SymInt, torch.SymFloat, torch.SymBool, Tensor)):
                raise InputError(
                    f"the program computes with {quoted(type(arg).__name__)} as if with a number"
                )
        out = function(*args)
        if type(out) is int and not -(1 << 63) <= out < 1 << 63:
            raise InputError("the program computes a whole number beyond 64 bits")
        return out

    return on_numbers


_ARITHMETIC: dict[str, Callable[..., object]] = {
    "_operator.add": python_operator.add, "_operator.sub": python_operator.sub, "_operator.mul": python_operator.mul,
    "_operator.floordiv": python_operator.floordiv, "_operator.truediv": python_operator.truediv,
    "_operator.mod": python_operator.mod, "_operator.neg": python_operator.neg,
    "_operator.eq": python_operator.eq, "_operator.ne": python_operator.ne, "_operator.lt": python_operator.lt,
    "_operator.le": python_operator.le, "_operator.gt": python_operator.gt, "_operator.ge": python_operator.ge,
    "_operator.and_": python_operator.and_, "_operator.or_": python_operator.or_,
    "math.floor": math.floor, "math.ceil": math.ceil, "math.trunc": math.trunc, "math.sqrt": math.sqrt,
    "torch.sym_float": float, "torch.sym_int": int, "torch.sym_max": max, "torch.sym_min": min, "torch.sym_not": python_operator.not_,
}  # fmt: skip
PYTHON = {name: numbers_only(function) for name, function in _ARITHMETIC.items()} | {
    "_operator.getitem": python_operator.getitem
}


def operator(name: str, overload: str | None = None) -> Callable[..., object]:
    """Return an operator of torch's `aten` namespace: one overload, or all of them behind one function.

    Raises:
        UnsafeError: it is not in the list of operators known to be harmless.
    """
    base = name.removesuffix("_") if not name.startswith("__") else name
    if base not in MATHS and name not in MATHS and name not in SYMBOLIC:
        raise refuse_operator(f"aten.{name}")
    found = getattr(torch.ops.aten, name, None)
    if found is not None and overload is not None:
        found = getattr(found, overload) if overload in found.overloads() else None
    if found is None:
        raise refuse_operator(
            f"aten.{name}" + (f".{overload}" if overload else ""), "this version of torch does not have it"
        )
    return with_shapes(name, found)


def bounded(arguments: Iterable[object]) -> None:
    """Check that no list of whole numbers among the arguments is the shape of an absurdly large tensor.

    Raises:
        ResourceError: one is.
    """
    for value in arguments:
        if isinstance(value, (list, tuple, torch.Size)) and value and all(type(n) is int for n in value):
            if math.prod(max(n, 1) for n in value) > LARGEST:
                raise ResourceError(
                    f"the program asks for a tensor of shape {tuple(value)}, more than {LARGEST:,} numbers"
                )
        elif type(value) is int and LARGEST < value < (1 << 63) - 1:
            raise ResourceError(f"the program asks for {value:,} of something, more than {LARGEST:,}")


def grows(name: str, arguments: Iterable[object]) -> bool:
    """Return whether an operator could return a tensor far larger than its inputs."""
    numbers = (n for a in arguments for n in (a if isinstance(a, (list, tuple)) else (a,)) if type(n) is int)
    if name.startswith(("conv", "_conv")):
        return any(n > 16 for n in numbers)  # a stride, a padding
    return name.removesuffix("_") in GROWING


def charge(shape: Iterable[int]) -> None:
    """Check the size of a result before it is computed.

    Raises:
        ResourceError: it is absurdly large.
    """
    # while a program is traced a size is no number yet: it may be bounded, not converted
    sizes = tuple(n if isinstance(n, torch.SymInt) else int(n) for n in shape)
    if math.prod(max(n, 1) for n in sizes) > LARGEST:
        raise ResourceError(
            f"the program makes a tensor of shape {sizes}, more than {LARGEST:,} numbers",
            hint="is this the decoder alone?",
        )


def small(out: object) -> None:
    """Check that no tensor that an operator returned (on the meta device) is absurdly large.

    Raises:
        ResourceError: one is.
    """
    for tensor in out if isinstance(out, (tuple, list)) else (out,):
        # while a program is traced a size is no number yet: it may be bounded, not converted
        if isinstance(tensor, Tensor) and tensor.numel() > LARGEST:
            charge(tensor.shape)


class SizeGuard:
    """Checks what the steps of a program return on the meta device: each, and all that is kept together.

    Raises:
        ResourceError: it is absurdly large.
    """

    def __init__(self) -> None:
        self.numbers = 0

    def __call__(self, out: object) -> None:
        small(out)
        parts = out if isinstance(out, (tuple, list)) else (out,)
        self.numbers += sum(t.numel() for t in parts if isinstance(t, Tensor) and not t._is_view())
        if self.numbers > 4 * LARGEST:
            raise ResourceError(
                f"the program makes over {4 * LARGEST:,} numbers for two latents",
                hint="is this the decoder alone?",
            )
