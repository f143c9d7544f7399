"""What a program takes besides its latents, held at one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe.errors import InputError, UsageError, did_you_mean
from vaeprobe.files.source import quoted
from vaeprobe.findings import CONDITION_HELD
from vaeprobe.report import Finding

__all__ = ["Held", "hold"]


@dataclass(frozen=True)
class Held:
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
    conditions: Mapping[str, float],
    notes: list[Finding],
) -> dict[str, Held]:
    """Return what each input is held at, and note those for which nobody chose.

    Args:
        inputs: type, sizes of one row and whether there is a batch axis, by name.
        conditions: values that were asked for, by name.
        notes: where to note.

    Raises:
        UsageError: a condition is no input, or no class of it.
        InputError: an input is absurdly large.
    """
    unknown = next((name for name in conditions if name not in inputs), None)
    if unknown is not None:
        raise UsageError(
            f"the model has no input {quoted(unknown)} besides its latents",
            hint=did_you_mean(unknown, inputs),
        )
    held = {}
    for name, (dtype, sizes, batched) in inputs.items():
        if any(not 0 <= n <= 1 << 20 for n in sizes) or len(sizes) > 3:
            raise InputError(
                f"the model's input {quoted(name)} of {tuple(sizes)} numbers cannot be held at one value"
            )
        held[name] = Held(dtype, tuple(sizes), conditions.get(name, 0.0), batched)
        if held[name].one_hot and not 0 <= held[name].value < sizes[0]:
            raise UsageError(
                f"the model's input {quoted(name)} has the classes 0 to {sizes[0] - 1}, not {conditions[name]:g}"
            )
        if name not in conditions:
            notes.append(
                Finding(
                    CONDITION_HELD,
                    f"the input {quoted(name)} is held at 0, since nothing else was asked for",
                    hint=f"--condition {name}=1 holds it at 1, ...",
                )
            )
    return held
