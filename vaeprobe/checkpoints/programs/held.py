"""What a program takes besides its latents, held at one value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe.checkpoints.blueprint.condition import Condition, held
from vaeprobe.errors import InputError
from vaeprobe.files.source import quoted

__all__ = ["HeldInput", "condition_of", "hold", "kinds_of"]

FACTORS = frozenset(("library", "library_size", "libsize", "size_factor", "size_factors", "exposure"))
"""Inputs that multiply the output, by their names: held at 1, where 0 would leave nothing."""


@dataclass(frozen=True)
class HeldInput:
    """An input at one value: called with the latents, it returns as many rows of it.

    Attributes:
        dtype: of the input; real numbers take the latents' precision.
        sizes: of one row, without the batch.
        value: a class, or a number; a row of several reals is one-hot at it.
        batched: whether the input has a batch axis.
    """

    dtype: torch.dtype
    sizes: tuple[int, ...]
    value: float
    batched: bool = True

    def __call__(self, z: Tensor) -> Tensor:
        rows = [z.shape[0]] if self.batched else []
        kind = z.dtype if self.dtype.is_floating_point else self.dtype
        if not self.one_hot:
            return torch.full([*rows, *self.sizes], self.value, dtype=kind, device=z.device)
        out = torch.zeros(*rows, *self.sizes, dtype=kind, device=z.device)
        out[..., int(self.value)] = 1
        return out

    @property
    def one_hot(self) -> bool:
        """Whether the value is a class and the input a one-hot vector of it."""
        return self.dtype.is_floating_point and len(self.sizes) == 1 and self.sizes[0] > 1


def hold(
    inputs: Mapping[str, tuple[torch.dtype, Sequence[int], bool]],
    values: Mapping[str, str | float],
    classes: Mapping[str, int] | None = None,
) -> tuple[dict[str, HeldInput], tuple[Condition, ...]]:
    """Return what each input is held at, to compute with and to report.

    Args:
        inputs: type, sizes of one row and whether there is a batch axis, by name.
        values: what was asked for, by name.
        classes: how many there are to choose from, by name, where it is known.

    Raises:
        UsageError: a condition is no input, or no class of it.
        InputError: an input is absurdly large.
    """
    conditions = []
    for name, (dtype, sizes, _) in inputs.items():
        if any(not 0 <= n <= 1 << 20 for n in sizes) or len(sizes) > 3:
            raise InputError(
                f"the model's input {quoted(name)} of {tuple(sizes)} numbers cannot be held at one value"
            )
        if not dtype.is_floating_point:
            conditions.append(Condition(name, "embedding", (classes or {}).get(name, 0)))
        else:
            kind = "onehot" if len(sizes) == 1 and sizes[0] > 1 else "number"
            conditions.append(condition_of(name, sizes, kind))
    at = held(tuple(conditions), values)
    rows = {
        c.name: HeldInput(inputs[c.name][0], tuple(inputs[c.name][1]), c.value, inputs[c.name][2]) for c in at
    }
    return rows, at


TensorKind = tuple[torch.dtype, tuple[int, ...], str]


def kinds_of(
    takes: Sequence[int], d: int, value: str | float | None, said: Sequence[int] = ()
) -> Iterator[TensorKind]:
    """Yield what an argument could be, the likeliest first: a class by its number or one-hot, or a real number.

    Vectors that only fit some layer come last: what is multiplied with a number takes those of its own length as well.

    Args:
        takes: how many numbers each layer takes.
        d: number of latents.
        value: what it is to be held at, if that was said.
        said: numbers of classes that the network says.
    """
    if _is_whole_number(value):
        yield torch.int64, (), "embedding"
        yield from ((torch.float32, (k,), "onehot") for k in _each(*said, *(n - d for n in takes)))
    yield torch.float32, (1,), "number"
    yield torch.float32, (), "number"
    if _is_whole_number(value):
        yield from ((torch.float32, (k,), "onehot") for k in _each(*takes))


def _each(*sizes: int) -> list[int]:
    return [n for n in dict.fromkeys(sizes) if n > 1]


def _is_whole_number(value: str | float | None) -> bool:
    try:
        return value is None or float(value).is_integer()
    except ValueError:
        return True


def condition_of(name: str, row: Sequence[int], kind: str) -> Condition:
    """Return the condition that an argument of such a kind is."""
    match kind:
        case "onehot":
            return Condition(name, "onehot", row[0])
        case "embedding":
            return Condition(name, "embedding")
        case _:
            return Condition(name, "number", value=float(name.lower() in FACTORS))
