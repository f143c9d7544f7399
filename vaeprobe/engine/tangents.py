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

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaeprobe.autograd import jvp, over_directions
from vaeprobe.engine.by_pixel import is_by_pixel
from vaeprobe.engine.columns import Columns, Deferred, Known, LinearOutput
from vaeprobe.engine.convolutions import are_channels_last, convolution, convolved, laid_out
from vaeprobe.engine.factors import FACTORS, normalised
from vaeprobe.engine.functions import (
    ADDITIONS,
    ANY_LAYOUT,
    CONVOLUTIONS,
    ELEMENTWISE,
    FIRST_ALONE,
    JOINS,
    LINEAR,
    LINEAR_PER_SAMPLE,
    MULTILINEAR,
    OF_MEMORY,
    RESHAPES,
    SIZES,
    Arguments,
    Function,
    Keywords,
    plain_name,
    writes,
)
from vaeprobe.engine.local import Local, LocalMap, latents
from vaeprobe.engine.local_rules import ALONG_CHANNELS, along_channels, moved
from vaeprobe.engine.nested import Tree, leaves_of, mapped, tensors_in
from vaeprobe.engine.norms import group_norm, layer_norm
from vaeprobe.engine.upsampling import Doubled
from vaeprobe.engine.windows import Spread
from vaeprobe.errors import VaeprobeError, out_of_memory

__all__ = ["Dual", "Unsupported", "located", "push", "push_alone"]


class Unsupported(Exception):
    """Tangents cannot be carried through this call."""


class Later:
    """What a linear layer writes to the memory of its outputs once somebody asks for these numbers.

    Nobody does of the last layer's where Gram matrices follow from its weight alone.
    """

    def __init__(self, memory: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self._memory = memory.data  # whose version stays: nobody has read it
        self._made_of: tuple[Tensor, Tensor, Tensor | None] | None = (x, weight, bias)
        self._versions = _versions(x, weight, bias)

    def write(self) -> None:
        """Write the numbers, once.

        Raises:
            Unsupported: what they are made of was written to meanwhile.
        """
        if self._made_of is None:
            return
        x, weight, bias = self._made_of
        if self._versions != _versions(x, weight, bias):
            raise Unsupported("what a linear layer took was written to before its output was needed")
        if bias is None:
            torch.mm(x, weight.mT, out=self._memory)
        else:
            torch.addmm(bias, x, weight.mT, out=self._memory)
        self._made_of = None


def _versions(*tensors: Tensor | None) -> list[int]:
    return [t._version for t in tensors if t is not None]


class Dual(Tensor):
    """A tensor that carries tangents; made by `push` alone.

    Attributes:
        memory: the plain tensor, in the same memory.
        later: what is to be written to it before anybody reads it.
        columns: its tangents.
        version: the primal's version counter when the tangents were taken: a later one means that somebody
            wrote to the memory behind our back.
        copies: memory that holds the same numbers where the user's own layout would have one for both, with its version.
    """

    memory: Tensor
    later: Later | None
    columns: Columns
    version: int
    copies: tuple[tuple[Tensor, int], ...]

    @property
    def primal(self) -> Tensor:
        """The plain tensor, in the same memory."""
        if any(copy._version != version for copy, version in self.copies):
            raise Unsupported("a tensor was written to through a view that lies in other memory here")
        if self.later is not None:
            self.later.write()
            self.later = None
        return self.memory

    @classmethod
    def __torch_function__(
        cls,
        func: Function,
        types: Iterable[type],
        args: Sequence[object] = (),
        kwargs: Keywords | None = None,
    ) -> object:
        with torch._C.DisableTorchFunctionSubclass():
            try:
                return _propagate(func, tuple(args), kwargs or {})
            except Spread as error:
                raise Spread(error.by or plain_name(func)) from None
            except (AttributeError, IndexError, KeyError, TypeError) as error:  # a call that no rule expects
                raise Unsupported(f"`{plain_name(func)}` is called in a way that is not followed") from error

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Function,
        types: Iterable[type],
        args: Sequence[object] = (),
        kwargs: Keywords | None = None,
    ) -> object:
        """Refuse what comes from below the functions of Python: `vmap`, `grad`, TorchScript, which know no tangents."""
        raise Unsupported(f"`{plain_name(func)}` is called from where tangents cannot be followed")


def push(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> tuple[Tensor, Columns]:
    """Return f(x) and the tangents J v.

    Args:
        f: any function of torch operations, rows independent.
        x: shape (n, latent).
        v: directions, shape (d, n, latent); stride 0 along the points where they are the same at every one.

    Raises:
        Unsupported: `f` does something to its argument that tangents cannot follow.
    """
    out = _carried(f, x, Known(v))
    return out.primal, _columns_of(out)


def push_alone(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Columns:
    """Return the tangents J v, as `push` does, and leave outputs that nothing needs uncomputed."""
    return _columns_of(_carried(f, x, Known(v)))


def located(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, LocalMap]:
    """Return f(x), and its derivative for any columns, of which each latent reaches only a window.

    Args:
        f: as for `push`.
        x: shape (n, latent).

    Raises:
        Spread: an operation mixes all places, or is not known not to.
        Unsupported: as for `push`.
    """
    root = latents(x)
    out = _carried(f, x, root)
    return out.primal, LocalMap(x, root, _columns_of(out))


def _carried(f: Callable[[Tensor], Tensor], x: Tensor, columns: Columns) -> Dual:
    """Return f of latents that carry tangents.

    Raises:
        Unsupported: its output carries none, or it raises what it may not raise of a plain tensor: TorchScript's own error, say.
    """
    try:
        with torch.no_grad():
            out = f(_dual(x.detach(), columns))
    except (Unsupported, Spread, VaeprobeError):
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        raise Unsupported(f"the decoder fails on tangents: {error}") from error
    if not isinstance(out, Dual):
        raise Unsupported(f"the output is a {type(out).__name__} without tangents")
    return out


def _dual(primal: Tensor, columns: Columns, later: Later | None = None) -> Dual:
    primal = primal.detach() if primal.requires_grad else primal
    out: Dual = primal.as_subclass(Dual)
    out.memory, out.later, out.columns, out.version, out.copies = primal, later, columns, primal._version, ()
    return out


def _columns_of(x: Dual) -> Columns:
    if x.memory._version != x.version:
        raise Unsupported("a tensor was written to through another one that shares its memory")
    return x.columns


def _propagate(func: Function, args: Arguments, kwargs: Keywords) -> object:
    name = plain_name(func)
    if name == "iter":
        return leaves_of(_propagate(torch.unbind, args, kwargs))
    if name == "setitem" or kwargs.get("out") is not None or (writes(func) and not isinstance(args[0], Dual)):
        raise Unsupported(f"`{name}` writes into a tensor without tangents")
    if name in OF_MEMORY:
        raise Unsupported(f"`{name}` asks how numbers lie in memory, which here is not as elsewhere")
    if isinstance(func, torch.jit.ScriptFunction | torch._C.ScriptMethod):
        raise Unsupported("TorchScript takes plain tensors only")
    if writes(func):
        return _written(func, args, kwargs)
    x = args[0] if args else None
    if isinstance(x, Dual) and name in SIZES:
        return func(x.memory, *args[1:], **kwargs)
    if name not in ANY_LAYOUT:
        _settle((args, kwargs), Tensor.contiguous if name in RESHAPES else laid_out)
    if isinstance(x, Dual) and name in RESHAPES:
        return _reshaped(func, name, x, *_plain((args[1:], kwargs))[1])
    if isinstance(x, Dual) and name == "linear" and _are_rows(x, *args[1:], **kwargs):
        return _linear_layer(x, *args[1:], **kwargs)
    duals, (plain_args, plain_kwargs) = _plain((args, kwargs))
    if name in FIRST_ALONE and args:
        if not isinstance(args[0], Dual):
            return func(*plain_args, **plain_kwargs)
        args, kwargs, duals = (args[0], *plain_args[1:]), plain_kwargs, [args[0]]
    if name in ELEMENTWISE:
        return _elementwise(func, name, args, kwargs, duals)
    if name in ADDITIONS:
        return _addition(name, args, kwargs, func(*plain_args, **plain_kwargs))
    local = any(isinstance(dual.columns, Local) for dual in duals)
    if isinstance(x, Dual) and len(duals) == 1 and not local:
        if name in CONVOLUTIONS:
            return _dual(*convolved(func, name, _columns_of(x), plain_args, plain_kwargs))
        if name == "linear":
            y = func(*plain_args, **plain_kwargs)
            weight = plain_args[1] if len(plain_args) > 1 else plain_kwargs["weight"]
            return _dual(y, LinearOutput(_columns_of(x), weight, y.shape))
        if name in ("matmul", "mm") and x.primal.ndim >= 2 and plain_args[1].ndim == 2:
            y = func(*plain_args)
            return _dual(y, LinearOutput(_columns_of(x), plain_args[1].mT, y.shape))
        if name in LINEAR_PER_SAMPLE or (name == "pad" and x.primal.ndim > 2):
            return _per_sample(func, name, x, plain_args, plain_kwargs)
        if name == "group_norm":
            return _dual(*group_norm(_columns_of(x), x.primal, plain_args, plain_kwargs))
        if name == "layer_norm":
            return _dual(*layer_norm(func, _columns_of(x), x.primal, plain_args, plain_kwargs))
    fast = local and name in CONVOLUTIONS and bool(plain_args)
    y = convolution(func, name, plain_args, plain_kwargs) if fast else func(*plain_args, **plain_kwargs)
    if not any(t.is_floating_point() or t.is_complex() for t in tensors_in(y)):
        return y  # sizes, comparisons, indices
    if name.endswith("_like") or name.startswith("new_"):
        return y
    if len(duals) == 1 and y is duals[0].primal:
        return duals[0]
    if name in ("clone", "contiguous", "alias") and isinstance(x, Dual):
        return _dual(y, _columns_of(x))
    if local and name in ALONG_CHANNELS and len(duals) == 1 and isinstance(x, Dual):
        return _dual(y, along_channels(name, x.primal, _columns_of(x), plain_args, plain_kwargs))
    if local:
        call_args, call_kwargs = mapped(
            (args, kwargs), lambda leaf: _columns_of(leaf) if isinstance(leaf, Dual) else leaf
        )
        return _with_columns(y, moved(func, name, call_args, call_kwargs, y))
    if name in LINEAR:
        return _linear(func, name, args, kwargs, duals, y)
    if name in MULTILINEAR:
        return _multilinear(func, args, kwargs, duals, y)
    return _differentiated(func, args, kwargs, duals, y)


def _reshaped(func: Function, name: str, x: Dual, args: Arguments, kwargs: Keywords) -> Dual:
    """The same numbers in another shape, which need not be known yet."""

    def reshaped(t: Tensor) -> Tensor:
        # `reshape` for `view`: our own memory layout must not fail where the user's would not
        if name in ("view", "_unsafe_view") and not _is_dtype(args, kwargs):
            return t.reshape(*(args or kwargs.values()))
        out: Tensor = func(t, *args, **kwargs)
        return out

    y = reshaped(x.memory)
    copied = y.untyped_storage().data_ptr() != x.memory.untyped_storage().data_ptr()
    if x.later is not None and copied:
        y = reshaped(x.primal)  # a copy, of what is written now
    if y is x.memory:
        return x
    out = _dual(y, _columns_of(x).reshaped(y.shape), x.later)
    out.copies = x.copies
    if copied and are_channels_last(x.memory):
        out.copies, x.copies = (*x.copies, (x.memory, x.version)), (*x.copies, (out.memory, out.version))
    return out


def _are_rows(x: Dual, weight: object, bias: object = None) -> bool:
    """Whether a linear layer is a product of plain matrices of one type on rows, and nothing else."""
    given = [x.memory, weight] if bias is None else [x.memory, weight, bias]
    tensors = [t for t in given if isinstance(t, Tensor) and type(t) in (Tensor, nn.Parameter)]
    return (
        len(tensors) == len(given)
        and [t.ndim for t in tensors] == [2, 2, 1][: len(tensors)]
        and [t.shape[-1] for t in tensors]
        == [tensors[1].shape[1]] * 2 + [len(tensors[1])] * (bias is not None)
        and len({(t.dtype, t.device) for t in tensors}) == 1
        and not isinstance(x.columns, Local)
        and not torch.is_autocast_enabled(x.memory.device.type)
    )


def _linear_layer(x: Dual, weight: Tensor, bias: Tensor | None = None) -> Dual:
    y = x.memory.new_empty(len(x.memory), len(weight))
    later = Later(y, x.primal, weight.detach(), None if bias is None else bias.detach())
    return _dual(y, LinearOutput(_columns_of(x), weight, y.shape), later)


def _is_dtype(args: Arguments, kwargs: Keywords) -> bool:
    return "dtype" in kwargs or any(isinstance(a, torch.dtype) for a in args)


def _settle(tree: Tree, laid_out: Callable[[Tensor], Tensor]) -> None:
    """Lay maps out that lie pixel by pixel, as torch's own functions like them: nobody has a view of their memory yet."""
    for leaf in leaves_of(tree):
        if isinstance(leaf, Dual) and is_by_pixel(leaf.memory):
            memory = laid_out(leaf.memory)
            if leaf.memory._version == leaf.version:
                leaf.memory, leaf.version = memory, memory._version


def _plain(tree: Tree) -> tuple[list[Dual], Tree]:
    """Return the distinct duals in nested arguments, and the arguments with the plain tensors in their places."""
    duals: dict[int, Dual] = {}

    def plain(leaf: object) -> object:
        if not isinstance(leaf, Dual):
            return leaf
        duals[id(leaf)] = leaf
        return leaf.primal

    tree = mapped(tree, plain)
    return list(duals.values()), tree


def _substituted(tree: Tree, duals: list[Dual], values: Sequence[Tensor]) -> Tree:
    """Return nested arguments with `values` in the places of `duals`."""
    table = {id(dual): value for dual, value in zip(duals, values, strict=True)}
    return mapped(tree, lambda leaf: table.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf)


def _elementwise(func: Function, name: str, args: Arguments, kwargs: Keywords, duals: list[Dual]) -> object:
    """The derivative is one factor per number, taken on the primal by reverse mode where it has no rule here."""
    if name in FACTORS and len(duals) == 1 and args and isinstance(args[0], Dual):
        found = _by_rule(func, name, args, kwargs)
        if found is not None:
            return found
    columns = [_columns_of(dual) for dual in duals]
    leaves = [dual.primal for dual in duals]
    if len(leaves) > 1:
        shape = np.broadcast_shapes(*[tuple(t.shape) for t in tensors_in((args, kwargs))])
        leaves = [leaf.expand(shape) for leaf in leaves]
    y, moved, factors = _factors(func, args, kwargs, duals, leaves)
    if not factors:
        return duals[0]
    if len(leaves) == 1 and y.shape != leaves[0].shape:
        y, moved, factors = _factors(func, args, kwargs, duals, [leaves[0].expand(y.shape)])
    if not y.is_floating_point():
        return y
    terms: list[Columns] = [
        _broadcast(c, y.shape).scaled(factor)
        for c, factor in zip(columns, factors, strict=True)
        if factor is not None
    ]
    result = _sum(terms or [_broadcast(columns[0], y.shape).scaled(y.new_zeros(()))])
    return _overwritten(args[0], y, result) if moved and isinstance(args[0], Dual) else _dual(y, result)


def _by_rule(func: Function, name: str, args: Arguments, kwargs: Keywords) -> Dual | None:
    """Apply a common function by its written derivative; None where the call is not of the usual kind."""
    x: Dual = args[0]
    columns, primal = _columns_of(x), x.primal
    rule = FACTORS[name](primal, args[1:], kwargs)
    if rule is None:
        return None
    y = normalised(primal, args[1:], kwargs) if name == "batch_norm" and is_by_pixel(primal) else None
    y = func(primal, *args[1:], **kwargs) if y is None else y
    # of windows all derivatives are kept: where kinks lie takes a quarter of the memory of numbers
    result = columns.scaled(y > 0 if name == "relu" and isinstance(columns, Local) else rule(y))
    return _overwritten(x, y, result) if y is primal or primal._version != x.version else _dual(y, result)


def _factors(
    func: Function, args: Arguments, kwargs: Keywords, duals: list[Dual], leaves: list[Tensor]
) -> tuple[Tensor, bool, Sequence[Tensor | None]]:
    """Return an element-wise function's value, whether it wrote to its argument, and its partial derivatives: none where it gave
    the argument itself, as dropout does that is switched off.
    """
    with torch.enable_grad():
        leaves = [leaf.detach().requires_grad_(True) for leaf in leaves]
        # the function may write to its argument, and must not write to a leaf
        copies = [leaf.clone() for leaf in leaves]
        call_args, call_kwargs = _substituted((args, kwargs), duals, copies)
        y: Tensor = func(*call_args, **call_kwargs)
        if y is copies[0] and not y._version:
            return y, False, ()
        if y.is_complex():
            raise Unsupported("complex numbers")
        factors: Sequence[Tensor | None] = [None] * len(leaves)
        if y.requires_grad:
            factors = torch.autograd.grad(y.sum(), leaves, allow_unused=True)
    return y.detach(), copies[0]._version > 0, factors


def _addition(name: str, args: Arguments, kwargs: Keywords, y: Tensor) -> object:
    first, second = args[0], args[1] if len(args) > 1 else kwargs["other"]
    alpha = kwargs.get("alpha", 1)
    signs = {"add": (1, alpha), "radd": (1, 1), "rsub": (-alpha, 1)}.get(name, (1, -alpha))
    terms = [
        (_columns_of(x), sign) for x, sign in zip((first, second), signs, strict=True) if isinstance(x, Dual)
    ]
    return _dual(y, _sum([_times(_broadcast(columns, y.shape), sign) for columns, sign in terms]))


def _times(columns: Columns, number: float) -> Columns:
    return columns if number == 1 else columns.times(number)


def _sum(terms: Sequence[Columns]) -> Columns:
    return terms[0] if len(terms) == 1 else terms[0].plus(terms[1:])


def _broadcast(columns: Columns, shape: torch.Size) -> Columns:
    if columns.shape == shape:
        return columns
    value = columns.value()
    value = value.reshape(columns.directions, *[1] * (len(shape) - len(columns.shape)), *columns.shape)
    return Known(value.expand(columns.directions, *shape))


def _written(func: Function, args: Arguments, kwargs: Keywords) -> object:
    """An in-place operation, by the one that is not in place."""
    x = args[0]
    out_of_place = getattr(Tensor, plain_name(func), None) or getattr(torch, plain_name(func), None)
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


def _per_sample(func: Function, name: str, x: Dual, args: Arguments, kwargs: Keywords) -> object:
    columns = _columns_of(x)
    y = func(*args, **kwargs)
    if y.shape[0] != x.primal.shape[0]:  # padded along the batch, or no batch axis
        return _differentiated(func, (x, *args[1:]), kwargs, [x], y)
    if name == "pad":
        # what is padded with a constant has no derivative
        pads = args[1] if len(args) > 1 else kwargs["pad"]
        mode = args[2] if len(args) > 2 else kwargs.get("mode", "constant")
        return _dual(y, Deferred(columns, y.shape, lambda t: F.pad(t, pads, mode)))

    def along(t: Tensor) -> Tensor:
        out: Tensor = func(t, *args[1:], **kwargs)
        return out

    return _dual(y, (Doubled if _doubled(x.primal, y, along) else Deferred)(columns, y.shape, along))


def _doubled(x: Tensor, y: Tensor, operation: Callable[[Tensor], Tensor]) -> bool:
    """Whether an operation repeats each pixel twice along both sides: a map tells, whatever its arguments are called."""
    if x.ndim != 4 or y.shape != (*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]):
        return False
    places = torch.arange(x[0, 0].numel(), dtype=torch.float64, device=x.device).view(1, 1, *x.shape[2:])
    return torch.equal(operation(places), places.repeat_interleave(2, 2).repeat_interleave(2, 3))


def _linear(
    func: Function, name: str, args: Arguments, kwargs: Keywords, duals: list[Dual], y: object
) -> object:
    """Linear in all tensors together: the same call on the tangents, with 0 for tensors that have none.

    What is neither joined nor floating is an index, and stays.
    """
    tensors = [leaf for leaf in leaves_of((args, kwargs)) if isinstance(leaf, Tensor)]
    held = [t for t in tensors if not isinstance(t, Dual) and (name in JOINS or t.is_floating_point())]
    held = list({id(t): t for t in held}.values())
    zeros = [torch.zeros_like(t) for t in held]

    def along(*tangents: Tensor) -> tuple[Tensor, ...]:
        table = {id(x): t for x, t in zip([*duals, *held], [*tangents, *zeros], strict=True)}
        call_args, call_kwargs = mapped(
            (args, kwargs), lambda leaf: table.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf
        )
        return tuple(_differentiable(func(*call_args, **call_kwargs)))

    return _paired(y, over_directions(along, *[_columns_of(x).value() for x in duals]))


def _multilinear(func: Function, args: Arguments, kwargs: Keywords, duals: list[Dual], y: Tensor) -> object:
    """Linear in each tensor: the product rule."""
    total: Tensor | None = None
    places = [leaf for leaf in leaves_of((args, kwargs)) if isinstance(leaf, Dual)]
    for place in range(len(places)):

        def along(t: Tensor, place: int = place) -> Tensor:
            count = iter(range(len(places)))

            def change(leaf: object) -> object:
                if not isinstance(leaf, Dual):
                    return leaf
                return t if next(count) == place else leaf.primal

            call_args, call_kwargs = mapped((args, kwargs), change)
            product: Tensor = func(*call_args, **call_kwargs)
            return product

        term = over_directions(along, _columns_of(places[place]).value())
        total = term if total is None else total + term
    assert total is not None
    return _dual(y, Known(total))


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
        moved: tuple[Tensor, ...] = jvp(call, primals, directions)[1]
        return moved

    try:
        moved = over_directions(along, *tangents)
    except (RuntimeError, TypeError):
        try:
            each = [along(*[t[i].contiguous() for t in tangents]) for i in range(len(tangents[0]))]
        except (RuntimeError, TypeError) as error:
            raise Unsupported(f"`{plain_name(func)}` has no forward-mode derivative") from error
        moved = tuple(torch.stack(outputs) for outputs in zip(*each, strict=True))
    return _paired(y, moved)


def _differentiable(tree: object) -> Iterator[Tensor]:
    return (t for t in tensors_in(tree) if t.is_floating_point())


def _paired(y: object, tangents: Iterable[Tensor]) -> object:
    return _with_columns(y, map(Known, tangents))


def _with_columns(y: object, columns: Iterable[Columns]) -> object:
    """Return the outputs of a function with the tangents of those that have a derivative, in order."""
    rest = iter(columns)
    return mapped(
        y,
        lambda leaf: (
            _dual(leaf, next(rest)) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
        ),
    )
