"""Forward-mode differentiation in many directions at once: tensors that carry their tangents along.

A `Dual` is a tensor of shape (n, ...) with tangents of shape (d, n, ...).  Every torch function called on one
comes to `Dual.__torch_function__`, which applies the function to the primal (n rows) and its derivative to the
tangents (d n rows), so that d directions share the primal, and derivatives of activations are taken on n rows
only.  Nothing is traced: control flow, skip connections and foreign modules are fine.

Functions fall into a few families, told apart by name; most rules call the very function they
differentiate, and so need not know its arguments.  A function of no known family is differentiated by
`torch.func` at that one call.  Where even that is impossible, `Unsupported` is raised.

Source: Griewank and Walther (2008), Evaluating Derivatives, chapter 3 (vector forward mode).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vaeprobe.engine.columns import (
    Changed,
    Columns,
    Deferred,
    Known,
    LinearOutput,
    Reshaped,
    Scaled,
    Upsampling,
    on_every_point,
    upsampled,
    upsampled_by_quarters,
)

__all__ = ["Dual", "Unsupported", "push"]

# a call of torch's as it came: its arguments are of any kind, and most rules hand them on without a look
Function: TypeAlias = Callable[..., Any]
Arguments: TypeAlias = tuple[Any, ...]
Keywords: TypeAlias = dict[str, Any]
Tree = TypeVar("Tree")  # nested lists, tuples and mappings


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# the same numbers in the same order, in another shape
RESHAPES = _names("view reshape flatten unflatten squeeze unsqueeze view_as reshape_as ravel _unsafe_view")

# linear in all their tensors together
LINEAR = _names("""
    permute transpose swapaxes swapdims movedim moveaxis t T mT H mH adjoint expand expand_as broadcast_to
    chunk split split_with_sizes tensor_split unsafe_chunk unsafe_split unbind getitem narrow select slice
    index_select gather take_along_dim flip fliplr flipud roll rot90 repeat tile repeat_interleave
    cat concat concatenate stack hstack vstack dstack column_stack sum mean cumsum diff
    to type type_as double float half bfloat16 _to_copy diagonal diag diag_embed tril triu trace unfold
""")

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

# channels out of a transposed convolution up to which, and channels and pixels of its map from and to which, it is
# faster as a convolution per parity of the output (measured)
FEW, MANY, SMALL_MAP = 16, 128, 25

ADDITIONS = _names("add sub subtract radd rsub")


class Unsupported(Exception):
    """Tangents cannot be carried through this call."""


class Dual(Tensor):
    """A tensor that carries tangents; made by `push` alone.

    Attributes:
        primal: the plain tensor, in the same memory.
        columns: its tangents.
        version: the primal's version counter when the tangents were taken: a later one means that somebody
            wrote to the memory behind our back.
    """

    primal: Tensor
    columns: Columns
    version: int

    @classmethod
    def __torch_function__(
        cls,
        func: Function,
        types: Iterable[type],
        args: Sequence[object] = (),
        kwargs: Keywords | None = None,
    ) -> object:
        with torch._C.DisableTorchFunctionSubclass():
            return _propagate(func, tuple(args), kwargs or {})


def push(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> tuple[Tensor, Columns]:
    """Return f(x) and the tangents J v.

    Args:
        f: any function of torch operations, rows independent.
        x: shape (n, latent).
        v: directions, shape (d, n, latent); stride 0 along the points where they are the same at every one.

    Raises:
        Unsupported: `f` does something to its argument that tangents cannot follow.
    """
    with torch.no_grad():
        out = f(_dual(x.detach(), Known(v)))
    if not isinstance(out, Dual):
        raise Unsupported(f"the output is a {type(out).__name__} without tangents")
    return out.primal, _columns_of(out)


def _dual(primal: Tensor, columns: Columns) -> Dual:
    primal = primal.detach()
    out: Dual = primal.as_subclass(Dual)
    out.primal, out.columns, out.version = primal, columns, primal._version
    return out


def _columns_of(x: Dual) -> Columns:
    if x.primal._version != x.version:
        raise Unsupported("a tensor was written to through another one that shares its memory")
    return x.columns


# -- dispatch ------------------------------------------------------------------------------------------


def _name(func: Any) -> str:
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


def _writes(func: Function) -> bool:
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


def _propagate(func: Function, args: Arguments, kwargs: Keywords) -> object:
    name = _name(func)
    duals = list(_duals_in((args, kwargs)))
    if name == "iter":
        return _leaves(_propagate(torch.unbind, args, kwargs))
    if name == "setitem" or "out" in kwargs or (_writes(func) and not isinstance(args[0], Dual)):
        raise Unsupported(f"`{name}` writes into a tensor without tangents")
    if isinstance(func, torch.jit.ScriptFunction | torch._C.ScriptMethod):
        raise Unsupported("TorchScript takes plain tensors only")
    if _writes(func):
        return _written(func, args, kwargs)
    plain_args, plain_kwargs = _plain((args, kwargs))
    if name in ELEMENTWISE:
        return _elementwise(func, name, args, kwargs, duals)
    if name in ADDITIONS:
        return _addition(func, name, args, kwargs)
    if name in RESHAPES:
        # `reshape` for `view`: our own memory layout must not fail where the user's would not
        y = (
            plain_args[0].reshape(plain_args[1:] or plain_kwargs["shape"])
            if name in ("view", "_unsafe_view") and not _is_dtype(args, kwargs)
            else func(*plain_args, **plain_kwargs)
        )
        return args[0] if y is plain_args[0] else _dual(y, Reshaped(_columns_of(args[0]), y.shape))
    x = args[0] if args else None
    if isinstance(x, Dual) and len(duals) == 1:
        if name in CONVOLUTIONS:
            return _convolution(func, name, x, plain_args, plain_kwargs)
        if name == "linear":
            y = func(*plain_args, **plain_kwargs)
            weight = plain_args[1] if len(plain_args) > 1 else plain_kwargs["weight"]
            return _dual(y, LinearOutput(_columns_of(x).value(), weight, y.shape))
        if name in ("matmul", "mm") and x.primal.ndim >= 2 and plain_args[1].ndim == 2:
            y = func(*plain_args)
            return _dual(y, LinearOutput(_columns_of(x).value(), plain_args[1].mT, y.shape))
        if name in LINEAR_PER_SAMPLE or (name == "pad" and x.primal.ndim > 2):
            return _per_sample(func, name, x, plain_args, plain_kwargs)
        if name == "group_norm":
            return _group_norm(x, plain_args, plain_kwargs)
        if name == "layer_norm":
            return _layer_norm(func, x, plain_args, plain_kwargs)
    y = func(*plain_args, **plain_kwargs)
    if not any(t.is_floating_point() or t.is_complex() for t in _tensors_in(y)):
        return y  # sizes, comparisons, indices
    if name.endswith("_like") or name.startswith("new_"):
        return y
    if len(duals) == 1 and y is duals[0].primal:
        return duals[0]
    if name in ("clone", "contiguous", "alias") and isinstance(x, Dual):
        return _dual(y, _columns_of(x))
    if name in LINEAR:
        return _linear(func, args, kwargs, y)
    if name in MULTILINEAR:
        return _multilinear(func, args, kwargs, duals, y)
    return _differentiated(func, args, kwargs, duals, y)


def _is_dtype(args: Arguments, kwargs: Keywords) -> bool:
    return "dtype" in kwargs or any(isinstance(a, torch.dtype) for a in args)


def _duals_in(tree: object) -> Iterator[Dual]:
    """Yield the distinct duals in nested arguments."""
    seen: set[int] = set()
    for leaf in _leaves(tree):
        if isinstance(leaf, Dual) and id(leaf) not in seen:
            seen.add(id(leaf))
            yield leaf


def _tensors_in(tree: object) -> Iterator[Tensor]:
    return (leaf for leaf in _leaves(tree) if isinstance(leaf, Tensor))


def _leaves(tree: object) -> Iterator[object]:
    if isinstance(tree, list | tuple):
        for branch in tree:
            yield from _leaves(branch)
    elif isinstance(tree, dict):
        for branch in tree.values():
            yield from _leaves(branch)
    else:
        yield tree


def _mapped(tree: Tree, change: Callable[[object], object]) -> Tree:
    """Return nested arguments with every leaf changed."""
    if isinstance(tree, list | tuple):
        branches = [_mapped(branch, change) for branch in tree]
        kind: Function = type(tree)
        return cast(Tree, kind(*branches) if hasattr(tree, "_fields") else kind(branches))
    if isinstance(tree, dict):
        return cast(Tree, {key: _mapped(branch, change) for key, branch in tree.items()})
    return cast(Tree, change(tree))


def _plain(tree: Tree) -> Tree:
    return _mapped(tree, lambda leaf: leaf.primal if isinstance(leaf, Dual) else leaf)


def _substituted(tree: Tree, duals: list[Dual], values: Sequence[Tensor]) -> Tree:
    """Return nested arguments with `values` in the places of `duals`."""
    table = {id(dual): value for dual, value in zip(duals, values, strict=True)}
    return _mapped(tree, lambda leaf: table.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf)


# -- rules ---------------------------------------------------------------------------------------------


def _elementwise(func: Function, name: str, args: Arguments, kwargs: Keywords, duals: list[Dual]) -> object:
    """The derivative is one factor per number, taken on the primal by reverse mode where it has no rule here."""
    if name in FACTORS and len(duals) == 1 and args and isinstance(args[0], Dual):
        found = _by_rule(func, name, args, kwargs)
        if found is not None:
            return found
    columns = [_columns_of(dual) for dual in duals]
    leaves = [dual.primal for dual in duals]
    if len(leaves) > 1:
        shape = np.broadcast_shapes(*[tuple(t.shape) for t in _tensors_in((args, kwargs))])
        leaves = [leaf.expand(shape) for leaf in leaves]
    y, moved, factors = _factors(func, args, kwargs, duals, leaves)
    if len(leaves) == 1 and y.shape != leaves[0].shape:
        y, moved, factors = _factors(func, args, kwargs, duals, [leaves[0].expand(y.shape)])
    if not y.is_floating_point():
        return y
    terms: list[Columns] = [
        Scaled(_broadcast(c, y.shape), factor)
        for c, factor in zip(columns, factors, strict=True)
        if factor is not None
    ]
    result = _sum(terms) if terms else Known(y.new_zeros(()).expand(columns[0].directions, *y.shape))
    return _overwritten(args[0], y, result) if moved and isinstance(args[0], Dual) else _dual(y, result)


def _by_rule(func: Function, name: str, args: Arguments, kwargs: Keywords) -> Dual | None:
    """Apply a common function by its written derivative; None where the call is not of the usual kind."""
    x: Dual = args[0]
    columns, primal = _columns_of(x), x.primal
    rule = FACTORS[name](primal, args[1:], kwargs)
    if rule is None:
        return None
    y: Tensor = func(primal, *args[1:], **kwargs)
    result = Scaled(columns, rule(y))
    return _overwritten(x, y, result) if y is primal or primal._version != x.version else _dual(y, result)


Rule: TypeAlias = Callable[[Tensor], Tensor]
"""The derivative of an element-wise function, from its value."""


def _bare(args: Arguments, kwargs: Keywords) -> bool:
    """Whether nothing but the argument, and perhaps `inplace`, was given."""
    return set(kwargs) <= {"inplace"} and all(isinstance(a, bool) for a in args)


def _relu(x: Tensor, args: Arguments, kwargs: Keywords) -> Rule | None:
    return (lambda y: (y <= 0).logical_not_().to(y.dtype)) if _bare(args, kwargs) else None


def _leaky_relu(x: Tensor, args: Arguments, kwargs: Keywords) -> Rule | None:
    settings = {**dict(zip(("negative_slope", "inplace"), args, strict=False)), **kwargs}
    slope = settings.get("negative_slope", 0.01)
    if not isinstance(slope, int | float) or slope <= 0 or not set(settings) <= {"negative_slope", "inplace"}:
        return None
    return lambda y: torch.where(y > 0, y.new_tensor(1.0), y.new_tensor(slope))


def _sigmoid(x: Tensor, args: Arguments, kwargs: Keywords) -> Rule | None:
    return (lambda y: y * (1 - y)) if _bare(args, kwargs) else None


def _tanh(x: Tensor, args: Arguments, kwargs: Keywords) -> Rule | None:
    return (lambda y: 1 - y * y) if _bare(args, kwargs) else None


def _silu(x: Tensor, args: Arguments, kwargs: Keywords) -> Rule | None:
    if not _bare(args, kwargs):
        return None
    s = torch.sigmoid(x)
    factor = torch.addcmul(s, s * (1 - s), x)
    return lambda y: factor


def _batch_norm(x: Tensor, args: Arguments, kwargs: Keywords) -> Rule | None:
    names = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    settings = {**dict(zip(names, args, strict=False)), **kwargs}
    variance, weight = settings.get("running_var"), settings.get("weight")
    if settings.get("training") or variance is None:
        return None
    rate = (variance + settings.get("eps", 1e-5)).rsqrt()
    rate = rate if weight is None else rate * weight
    rate = rate.detach().to(x.dtype).reshape(1, -1, *[1] * (x.ndim - 2))
    return lambda y: rate


FACTORS: dict[str, Callable[[Tensor, Arguments, Keywords], Rule | None]] = {
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "silu": _silu,
    "batch_norm": _batch_norm,
}
"""Written derivatives of the commonest functions, which spare reverse mode's copies of the primal."""


def _factors(
    func: Function, args: Arguments, kwargs: Keywords, duals: list[Dual], leaves: list[Tensor]
) -> tuple[Tensor, bool, Sequence[Tensor | None]]:
    """Return an element-wise function's value, whether it wrote to its argument, and its partial derivatives."""
    with torch.enable_grad():
        leaves = [leaf.detach().requires_grad_(True) for leaf in leaves]
        # the function may write to its argument, and must not write to a leaf
        copies = [leaf.clone() for leaf in leaves]
        call_args, call_kwargs = _substituted((args, kwargs), duals, copies)
        y: Tensor = func(*call_args, **call_kwargs)
        if y.is_complex():
            raise Unsupported("complex numbers")
        factors: Sequence[Tensor | None] = [None] * len(leaves)
        if y.requires_grad:
            factors = torch.autograd.grad(y.sum(), leaves, allow_unused=True)
    return y.detach(), copies[0]._version > 0, factors


def _addition(func: Function, name: str, args: Arguments, kwargs: Keywords) -> object:
    plain_args, plain_kwargs = _plain((args, kwargs))
    first, second = args[0], args[1] if len(args) > 1 else kwargs["other"]
    alpha = kwargs.get("alpha", 1)
    signs = {"add": (1, alpha), "radd": (1, 1), "rsub": (-alpha, 1)}.get(name, (1, -alpha))
    terms = [
        (_columns_of(x), sign) for x, sign in zip((first, second), signs, strict=True) if isinstance(x, Dual)
    ]
    y = func(*plain_args, **plain_kwargs)
    return _dual(y, _sum([_times(_broadcast(columns, y.shape), sign) for columns, sign in terms]))


def _times(columns: Columns, number: float) -> Columns:
    if number == 1:
        return columns
    value = columns.value()
    return Deferred(columns.directions, columns.shape, lambda: value * number)


def _sum(terms: Sequence[Columns]) -> Columns:
    if len(terms) == 1:
        return terms[0]
    values = [term.value() for term in terms]

    def total() -> Tensor:
        out = values[0] + values[1]
        for value in values[2:]:
            out += value
        return out

    return Deferred(terms[0].directions, terms[0].shape, total)


def _broadcast(columns: Columns, shape: torch.Size) -> Columns:
    if columns.shape == shape:
        return columns
    value = columns.value()
    value = value.reshape(columns.directions, *[1] * (len(shape) - len(columns.shape)), *columns.shape)
    return Known(value.expand(columns.directions, *shape))


def _written(func: Function, args: Arguments, kwargs: Keywords) -> object:
    """An in-place operation, by the one that is not in place."""
    x = args[0]
    out_of_place = getattr(Tensor, _name(func), None) or getattr(torch, _name(func), None)
    if out_of_place is None:
        raise Unsupported(f"`{func.__name__}` writes in place")
    y = _propagate(out_of_place, args, kwargs)
    if not isinstance(y, Dual) or y.shape != x.primal.shape:
        raise Unsupported(f"`{func.__name__}` writes in place")
    return _overwritten(x, y.primal, y.columns)


def _overwritten(x: Dual, y: Tensor, columns: Columns) -> Dual:
    if y is not x.primal:
        x.primal.copy_(y)
    x.columns, x.version = columns, x.primal._version
    return x


def _convolution(func: Function, name: str, x: Dual, args: Arguments, kwargs: Keywords) -> Dual:
    columns, primal = _columns_of(x), args[0]
    weight = args[1] if len(args) > 1 else kwargs["weight"]

    def along(t: Tensor) -> Tensor:
        out: Tensor = (
            func(_laid_out(t), weight, None, *args[3:], **kwargs)
            if len(args) > 2
            else func(_laid_out(t), *args[1:], **{**kwargs, "bias": None})
        )
        return out

    doubles = name == "conv_transpose2d" and _doubles(args, kwargs)
    if doubles and primal.ndim == 4 and weight.shape[1] <= FEW:
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        inputs, y = columns.value(), upsampled(_laid_out(primal), weight, bias)
        return _dual(y, Upsampling(inputs, weight, y.shape))
    y = func(_laid_out(primal), *args[1:], **kwargs)
    inputs = columns.value()
    if primal.ndim == weight.ndim - 1:  # a single sample, without the batch axis
        inputs = inputs.unsqueeze(1)
        return _dual(
            y, Deferred(columns.directions, y.shape, lambda: on_every_point(along, inputs).squeeze(1))
        )

    if doubles and primal.ndim == 4 and min(weight.shape[:2]) >= MANY and primal[0, 0].numel() <= SMALL_MAP:
        return _dual(
            y,
            Deferred(
                columns.directions,
                y.shape,
                lambda: on_every_point(lambda t: upsampled_by_quarters(_laid_out(t), weight), inputs),
            ),
        )
    return _dual(y, Deferred(columns.directions, y.shape, lambda: on_every_point(along, inputs)))


def _laid_out(x: Tensor) -> Tensor:
    """Return a tensor with channels last, which makes transposed convolutions up to twice as fast on CPUs."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.contiguous()


def _doubles(args: Arguments, kwargs: Keywords) -> bool:
    """Whether this is a transposed convolution of kernel 4, stride 2, padding 1: one that doubles the sides."""
    names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    settings = {**dict(zip(names, args, strict=False)), **kwargs}

    def both(name: str, wanted: int) -> bool:
        value = settings.get(name, wanted)
        return all(v == wanted for v in (value if isinstance(value, list | tuple) else (value,)))

    return (
        tuple(settings["weight"].shape[2:]) == (4, 4)
        and "stride" in settings
        and both("stride", 2)
        and "padding" in settings
        and both("padding", 1)
        and both("output_padding", 0)
        and both("dilation", 1)
        and settings.get("groups", 1) == 1
    )


def _per_sample(func: Function, name: str, x: Dual, args: Arguments, kwargs: Keywords) -> object:
    columns = _columns_of(x)
    y = func(*args, **kwargs)
    if y.shape[0] != x.primal.shape[0]:  # padded along the batch, or no batch axis
        return _differentiated(func, (x, *args[1:]), kwargs, [x], y)
    inputs = columns.value()
    if name == "pad":
        # what is padded with a constant has no derivative
        pads = args[1] if len(args) > 1 else kwargs["pad"]
        mode = args[2] if len(args) > 2 else kwargs.get("mode", "constant")
        return _dual(
            y,
            Deferred(
                columns.directions, y.shape, lambda: on_every_point(lambda t: F.pad(t, pads, mode), inputs)
            ),
        )
    return _dual(
        y,
        Deferred(
            columns.directions,
            y.shape,
            lambda: on_every_point(lambda t: func(t, *args[1:], **kwargs), inputs),
        ),
    )


def _group_norm(x: Dual, args: Arguments, kwargs: Keywords) -> Dual:
    """Group normalisation: x_hat = (x - mean) / sd, so its tangent is (t - mean t - x_hat mean(x_hat t)) / sd.

    Sums over pixels first and over the channels of a group then, so that either layout is read as it lies.  The
    variance is that of the centred numbers: torch's kernel for channels last takes it as a difference of squares.
    """
    settings = {**dict(zip(("input", "num_groups", "weight", "bias", "eps"), args, strict=False)), **kwargs}
    columns, primal = _columns_of(x), x.primal
    groups, c, eps = int(settings["num_groups"]), primal.shape[1], settings.get("eps", 1e-5)
    pixels, around = primal[0, 0].numel(), [1] * (primal.ndim - 2)

    def mean(t: Tensor) -> Tensor:
        """Return means over groups, spread over their channels, of a tensor of shape (..., c, *pixels)."""
        sums = t.sum(tuple(range(-len(around), 0))) if around else t
        sums = sums.reshape(*sums.shape[:-1], groups, c // groups).sum(-1, keepdim=True)
        means = (sums / (pixels * (c // groups))).expand(*sums.shape[:-1], c // groups)
        return means.reshape(*means.shape[:-2], c, *around)

    weight, bias = (
        None if parameter is None else parameter.detach().reshape(-1, *around)
        for parameter in (settings.get("weight"), settings.get("bias"))
    )
    hat = primal - mean(primal)
    rate = (mean(hat.square()) + eps).rsqrt()
    hat = hat.mul_(rate)
    y = hat if weight is None else hat * weight

    def centred(t: Tensor, mine: bool) -> Tensor:
        shift, slope = mean(t), mean(t * hat)
        return (t.sub_(shift) if mine else t - shift).addcmul_(hat, slope, value=-1)

    tangents = Scaled(Changed(columns, centred), rate if weight is None else rate * weight)
    # `hat` is kept: what is given out may be written to
    return _dual(y.clone() if y is hat and bias is None else y if bias is None else y + bias, tangents)


def _layer_norm(func: Function, x: Dual, args: Arguments, kwargs: Keywords) -> Dual:
    """Layer normalisation: as group normalisation, over the last axes."""
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    settings = {**dict(zip(names, args, strict=False)), **kwargs}
    columns, primal = _columns_of(x), x.primal
    y = func(*args, **kwargs)
    weight, eps = settings.get("weight"), settings.get("eps", 1e-5)
    lead = tuple(primal.shape[: primal.ndim - len(tuple(settings["normalized_shape"]))])
    rows = primal.reshape(*lead, -1)
    variance, mean = torch.var_mean(rows, -1, correction=0, keepdim=True)
    rate = (variance + eps).rsqrt()
    hat = (rows - mean) * rate
    inputs = columns.value()

    def compute() -> Tensor:
        t = inputs.reshape(columns.directions, *lead, -1)
        both = torch.stack([torch.ones_like(hat), hat], -1) / hat.shape[-1]
        moments = torch.einsum("d...l,...lc->d...c", t, both)
        out = torch.addcmul(t - moments[..., :1], hat, moments[..., 1:], value=-1).mul_(rate)
        out = out.reshape(columns.directions, *y.shape)
        return out if weight is None else out.mul_(weight)

    return _dual(y, Deferred(columns.directions, y.shape, compute))


def _linear(func: Function, args: Arguments, kwargs: Keywords, y: object) -> object:
    """Linear in all tensors together: the same call on the tangents, with 0 for tensors that have none."""
    tensors = [
        leaf for leaf in _leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.is_floating_point()
    ]
    duals = list(_duals_in((args, kwargs)))
    held = list({id(t): t for t in tensors if not isinstance(t, Dual)}.values())
    zeros = [torch.zeros_like(t) for t in held]

    def along(*tangents: Tensor) -> tuple[Tensor, ...]:
        table = {id(x): t for x, t in zip([*duals, *held], [*tangents, *zeros], strict=True)}
        call_args, call_kwargs = _mapped(
            (args, kwargs), lambda leaf: table.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf
        )
        return tuple(_differentiable(func(*call_args, **call_kwargs)))

    return _paired(y, torch.func.vmap(along)(*[_columns_of(x).value() for x in duals]))


def _multilinear(func: Function, args: Arguments, kwargs: Keywords, duals: list[Dual], y: Tensor) -> object:
    """Linear in each tensor: the product rule."""
    total: Tensor | None = None
    places = [leaf for leaf in _leaves((args, kwargs)) if isinstance(leaf, Dual)]
    for place in range(len(places)):

        def along(t: Tensor, place: int = place) -> Tensor:
            count = iter(range(len(places)))

            def change(leaf: object) -> object:
                if not isinstance(leaf, Dual):
                    return leaf
                return t if next(count) == place else leaf.primal

            call_args, call_kwargs = _mapped((args, kwargs), change)
            product: Tensor = func(*call_args, **call_kwargs)
            return product

        term = torch.func.vmap(along)(_columns_of(places[place]).value())
        total = term if total is None else total + term
    assert total is not None
    return _dual(y, Known(total))


_forward_mode = threading.Lock()
"""Forward-mode differentiation of torch is not thread safe."""


def _differentiated(
    func: Function, args: Arguments, kwargs: Keywords, duals: list[Dual], y: object
) -> object:
    """Any function: torch's own forward mode, at this one call."""
    # forward mode of some functions fails on channels last
    primals = tuple(dual.primal.contiguous() for dual in duals)
    tangents = tuple(_columns_of(dual).value() for dual in duals)

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        call_args, call_kwargs = _substituted((args, kwargs), duals, values)
        return tuple(_differentiable(func(*call_args, **call_kwargs)))

    def along(*directions: Tensor) -> tuple[Tensor, ...]:
        moved: tuple[Tensor, ...] = torch.func.jvp(call, primals, directions)[1]
        return moved

    with _forward_mode:
        try:
            moved = torch.func.vmap(along)(*tangents)
        except (RuntimeError, TypeError):
            try:
                each = [along(*[t[i].contiguous() for t in tangents]) for i in range(len(tangents[0]))]
            except (RuntimeError, TypeError) as error:
                raise Unsupported(f"`{_name(func)}` has no forward-mode derivative") from error
            moved = tuple(torch.stack(outputs) for outputs in zip(*each, strict=True))
    return _paired(y, moved)


def _differentiable(tree: object) -> Iterator[Tensor]:
    return (t for t in _tensors_in(tree) if t.is_floating_point())


def _paired(y: object, tangents: Iterable[Tensor]) -> object:
    """Return the outputs of a function with the tangents of those that have a derivative, in order."""
    rest = iter(tangents)
    return _mapped(
        y,
        lambda leaf: (
            _dual(leaf, Known(next(rest))) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
        ),
    )
