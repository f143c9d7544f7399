"""What somebody's own `decode(z, y)` takes beside its latents, held at one value.

Nothing says whether `y` is a class, a one-hot vector or a number: each is tried, and the first that the network takes
is told in the header.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vaeprobe import cpu
from vaeprobe.checkpoints.blueprint.condition import Condition, held
from vaeprobe.checkpoints.plain import widths
from vaeprobe.checkpoints.programs.held import HeldInput, condition_of, kinds_of
from vaeprobe.errors import UsageError
from vaeprobe.frozen import MethodModule
from vaeprobe.outputs import picked

__all__ = ["Conditioned", "conditioned", "others", "zeros"]

CLASSES = (
    *("num_classes", "n_classes", "classes", "class_dim", "n_labels", "num_labels", "label_dim", "n_class"),
    *("cond_dim", "condition_dim", "context_dim", "c_dim", "y_dim", "n_conditions", "conditional_dim"),
)
MOST = 3  # arguments beside the latents that are tried out together


class Conditioned(nn.Module):
    """A part of a network with every argument but the first held.

    Args:
        part: takes rows, then the others by name.
        others: what each of the others is held at.
    """

    def __init__(self, part: nn.Module, others: Mapping[str, HeldInput]) -> None:
        super().__init__()
        self.part = part
        self.others = dict(others)

    def forward(self, rows: Tensor) -> object:
        return self.part(rows, **{name: at(rows) for name, at in self.others.items()})


def others(function: Callable[..., object], values: Mapping[str, str | float] | None = None) -> list[str]:
    """Return the arguments beside the first that a part of a network needs, and the optional ones that have a value."""
    owner = function.forward if isinstance(function, nn.Module) else function
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = [p for p in inspect.signature(owner).parameters.values() if p.kind in kinds]
    except (ValueError, TypeError):
        return []
    empty = inspect.Parameter.empty
    return [p.name for p in parameters[1:] if p.default is empty or p.name in (values or {})]


@dataclass(frozen=True)
class Holding:
    """A decoder of latents alone.

    Attributes:
        latent_dim: number of latents.
        decoder: with the other arguments held.
        conditions: what they are held at.
        output: what it makes of two latents at 0.
    """

    latent_dim: int
    decoder: Conditioned
    conditions: tuple[Condition, ...]
    output: Tensor


def conditioned(
    whole: nn.Module, name: str | None, sizes: Sequence[int], values: Mapping[str, str | float]
) -> Holding | None:
    """Return the decoder whose arguments beside the latents are held; None where no kind of argument is taken.

    Args:
        whole: the network.
        name: of its part that decodes, None for the network itself.
        sizes: numbers of latents that could be, the likeliest first.
        values: what was asked for, by name of the argument.

    Raises:
        UsageError: a condition was asked for that is no argument, or no class of it.
    """
    part: Callable[..., object] = whole if name is None else getattr(whole, name)
    names = others(part, values)
    if not 0 < len(names) <= MOST:
        return None
    decode = whole if name is None else MethodModule(whole, name)
    takes = widths(whole)
    said = [v for v in (getattr(whole, n, None) for n in CLASSES) if type(v) is int and v > 1]
    for d in sizes:
        z = zeros(whole, d)
        for chosen in itertools.product(*(list(kinds_of(takes, d, values.get(n), said)) for n in names)):
            kinds = dict(zip(names, chosen, strict=True))
            first = Conditioned(decode, {n: HeldInput(dtype, row, 0) for n, (dtype, row, _) in kinds.items()})
            try:
                if _decoded(first, z).shape[0] != 2:
                    continue
            except Exception:  # whatever foreign code raises on what it does not take
                continue
            conditions = held(
                tuple(condition_of(n, row, kind) for n, (_, row, kind) in kinds.items()), values
            )
            at = {c.name: replace(first.others[c.name], value=c.value) for c in conditions}
            decoder = Conditioned(decode, at).eval()
            return Holding(d, decoder, conditions, _decoded_at(conditions, decoder, z))
    return None


def zeros(module: nn.Module, d: int) -> Tensor:
    """Return two latents at 0, shape (2, d), of the precision and on the device of a network."""
    first = next((p for p in module.parameters() if p.is_floating_point()), cpu.zeros(()))
    return torch.zeros(2, d, dtype=first.dtype, device=first.device)


def _decoded(decoder: Conditioned, z: Tensor) -> Tensor:
    with torch.no_grad():
        return picked(decoder(z))


def _decoded_at(conditions: Sequence[Condition], decoder: Conditioned, z: Tensor) -> Tensor:
    try:
        return _decoded(decoder, z)
    except Exception as error:  # of the network's own code, which takes another value
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"the network takes no {' and '.join(map(str, conditions))}: {said}",
            hint="give a class that it knows, counted from 0",
        ) from error
