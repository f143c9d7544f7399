"""The second derivative of a network in two directions, carried along with its tangents in both.

Three tangents do it: J u, J v and D^2 f[u, v].  Whatever is linear takes the third as it takes the others
(`tangents`), an element-wise function phi adds phi''(x) t_u t_v to it, and most networks with kinks add nothing at
all.  Functions of other kinds raise `Unsupported`.

Source: Griewank and Walther (2008), Evaluating Derivatives, chapter 13 (Taylor arithmetic).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from vaeprobe.autograd import differentiable_kernels, jvp
from vaeprobe.engine.columns import Known
from vaeprobe.engine.functions import (
    ADDITIONS,
    CONVOLUTIONS,
    ELEMENTWISE,
    LINEAR,
    LINEAR_PER_SAMPLE,
    MULTILINEAR,
    RESHAPES,
    Function,
    Keywords,
    plain_name,
)
from vaeprobe.engine.nested import leaves_of, mapped
from vaeprobe.engine.tangents import Dual, Unsupported, push

__all__ = ["nested_derivatives", "second_derivative"]

# where a single tensor has tangents: linear in it, or made of straight pieces
STRAIGHT = (
    RESHAPES | LINEAR | LINEAR_PER_SAMPLE | CONVOLUTIONS | MULTILINEAR | ADDITIONS
    | {"linear", "pad", "clone", "contiguous", "alias", "relu", "relu6", "leaky_relu", "threshold", "neg", "negative"}
    | {"positive", "mul", "multiply", "batch_norm", "dropout", "dropout1d", "dropout2d", "dropout3d"}
)  # fmt: skip
# linear in all their tensors together
JOINTLY = LINEAR | ADDITIONS


# Activations whose fused kernels have one forward-mode derivative and no second one, as primitives that do.
PRIMITIVES: dict[str, Callable[..., Tensor]] = {
    "silu": lambda x, inplace=False: x * torch.sigmoid(x),
    "mish": lambda x, inplace=False: x * torch.tanh(F.softplus(x)),
    "hardsigmoid": lambda x, inplace=False: F.relu6(x + 3) / 6,
    "glu": lambda x, dim=-1: x.chunk(2, dim)[0] * torch.sigmoid(x.chunk(2, dim)[1]),
}


class _Primitives(TorchFunctionMode):
    """Computes activations from primitives that can be differentiated again and again."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return PRIMITIVES.get(plain_name(func), func)(*args, **(kwargs or {}))


@contextmanager
def nested_derivatives() -> Iterator[None]:
    """Within it, torch's forward mode of torch's forward mode works."""
    with torch.no_grad(), differentiable_kernels(), _Primitives():
        yield


def second_derivative(
    f: Callable[[Tensor], Tensor], x: Tensor, u: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return f(x), J u, J v and D^2 f[u, v], each of shape (n, ...).

    Args:
        f: any function of torch operations, rows independent.
        x: shape (n, latent).
        u, v: directions, shape (n, latent).

    Raises:
        Unsupported: `f` does something that is not followed here.
    """
    with torch.no_grad(), differentiable_kernels(), _Second():
        y, columns = push(f, x, torch.stack([u, v, torch.zeros_like(u)]))
    t = columns.value()
    return y, t[0], t[1], t[2]


class _Second(TorchFunctionMode):
    """Within it, the last of three tangents is the second derivative along the other two."""

    def __torch_function__(
        self,
        func: Function,
        types: Iterable[type],
        args: Sequence[object] = (),
        kwargs: Keywords | None = None,
    ) -> object:
        args, kwargs = tuple(args), kwargs or {}
        duals = [leaf for leaf in leaves_of((args, kwargs)) if isinstance(leaf, Dual)]
        name = plain_name(func)
        if not duals or (name in STRAIGHT and (len(duals) == 1 or name in JOINTLY)):
            return func(*args, **kwargs)
        if name not in ELEMENTWISE or any(dual is not duals[0] for dual in duals):
            out = func(*args, **kwargs)
            if any(isinstance(leaf, Dual) for leaf in leaves_of(out)):
                raise Unsupported(f"no second derivative of `{name}` is carried along")
            return out  # sizes, comparisons
        x = duals[0]
        t = x.columns.value()
        bend = _bend(lambda a: func(*mapped(args, _swap(x, a)), **mapped(kwargs, _swap(x, a))), x.primal)
        out = func(*args, **kwargs)
        if not isinstance(out, Dual) or out.primal.shape != bend.shape:
            raise Unsupported(f"no second derivative of `{name}` is carried along")
        moved = out.columns.value().clone()
        moved[2].addcmul_(bend * t[0], t[1])
        out.columns = Known(moved)
        return out


def _swap(old: Tensor, new: Tensor) -> Callable[[object], object]:
    return lambda leaf: new if leaf is old else leaf


def _bend(phi: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return phi'' of an element-wise function, which may write to what it is given."""
    x = x.contiguous()  # of channels that come last, torch asks its compiler how large a product is
    one = torch.ones_like(x)

    def slope(a: Tensor) -> Tensor:
        moved: Tensor = jvp(lambda b: phi(b.clone()), (a,), (one,))[1]
        return moved

    with nested_derivatives():
        bend: Tensor = jvp(slope, (x,), (one,))[1]
    return bend
