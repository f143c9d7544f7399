"""Functions of torch by name: families that share a rule of differentiation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

__all__ = [
    "ADDITIONS",
    "ANY_LAYOUT",
    "CONVOLUTIONS",
    "ELEMENTWISE",
    "FIRST_ALONE",
    "JOINS",
    "LINEAR",
    "LINEAR_PER_SAMPLE",
    "MULTILINEAR",
    "OF_MEMORY",
    "RESHAPES",
    "SIZES",
    "Arguments",
    "Function",
    "Keywords",
    "plain_name",
    "writes",
]


# a call of torch's as it came: its arguments are of any kind, and most rules hand them on without a look
Function: TypeAlias = Callable[..., Any]
Arguments: TypeAlias = tuple[Any, ...]
Keywords: TypeAlias = dict[str, Any]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# the same numbers in the same order, in another shape
RESHAPES = _names("view reshape flatten unflatten squeeze unsqueeze view_as reshape_as ravel _unsafe_view")
# what is asked of a tensor whatever its numbers are
SIZES = _names("""
    shape size dim ndim ndimension numel nelement len stride is_contiguous dtype device layout requires_grad
    is_floating_point is_complex is_cpu is_cuda itemsize element_size nbytes
""")
# what is as the numbers lie in memory
OF_MEMORY = _names("as_strided as_strided_scatter set resize resize_as storage untyped_storage")
# linear in all their tensors together
LINEAR = _names("""
    permute transpose swapaxes swapdims movedim moveaxis t T mT H mH adjoint expand expand_as broadcast_to
    chunk split split_with_sizes tensor_split unsafe_chunk unsafe_split unbind getitem narrow select slice
    index_select gather take_along_dim flip fliplr flipud roll rot90 repeat tile repeat_interleave
    cat concat concatenate stack hstack vstack dstack column_stack sum mean cumsum diff
    to type type_as double float half bfloat16 _to_copy diagonal diag diag_embed tril triu trace unfold
""")
# linear in their first tensor: of another they take no more than its type or its shape
FIRST_ALONE = _names("to type type_as _to_copy expand_as view_as reshape_as")
# linear in whatever tensors they join, of numbers of any kind
JOINS = _names("cat concat concatenate stack hstack vstack dstack column_stack diff")
# linear, and one sample at a time along the first axis
LINEAR_PER_SAMPLE = _names("""
    pixel_shuffle pixel_unshuffle channel_shuffle interpolate upsample upsample_nearest upsample_bilinear
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_linear1d
    upsample_trilinear3d upsample_bicubic2d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d
""")
# linear in their first tensor, with a weight second and a bias third
CONVOLUTIONS = _names("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution")
# linear in each of their tensors
MULTILINEAR = _names("matmul mm bmm mv dot vdot einsum tensordot outer inner kron")
# every number of the result depends on the numbers at the same place (after broadcasting) alone
ELEMENTWISE = _names("""
    relu relu6 leaky_relu elu selu celu gelu silu mish softplus softsign sigmoid logsigmoid log_sigmoid tanh
    tanhshrink softshrink hardshrink hardtanh hardswish hardsigmoid threshold prelu
    clamp clip clamp_min clamp_max
    exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square pow float_power reciprocal abs absolute neg negative
    positive sin cos tan asin acos atan sinh cosh asinh acosh atanh arctan arcsin arccos arctanh sinc
    erf erfc erfinv lgamma digamma logit expit nan_to_num deg2rad rad2deg
    mul multiply div divide true_divide truediv rdiv rtruediv rpow atan2 arctan2 hypot maximum minimum fmax fmin
    logaddexp logaddexp2 xlogy where addcmul addcdiv lerp masked_fill batch_norm
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout
""")
ADDITIONS = _names("add sub subtract radd rsub")
# as fast on maps pixel by pixel (see `vaeprobe.engine.by_pixel`), and give others laid out so
ANY_LAYOUT = _names("""
    relu relu6 leaky_relu elu selu silu sigmoid tanh hardtanh hardswish softplus clamp batch_norm group_norm
    conv_transpose2d
""")


def plain_name(func: Any) -> str:
    """Return the plain name of a torch function: `add` for torch.add, Tensor.__iadd__, aten.add.Tensor."""
    if hasattr(func, "_opname"):
        name: str = func._opname
    elif func.__name__ == "__get__":
        name = func.__self__.__name__
    else:
        name = func.__name__
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
        return name[1:] if name in ("iadd", "isub", "imul", "itruediv", "idiv", "ipow") else name
    return name.rstrip("_") or name


def writes(func: Function) -> bool:
    name: str = getattr(func, "_opname", None) or func.__name__
    if name.startswith("__"):
        return name in (
            "__iadd__",
            "__isub__",
            "__imul__",
            "__itruediv__",
            "__idiv__",
            "__ipow__",
            "__setitem__",
        )
    return bool(name.endswith("_"))
