"""What a decoder takes beside its latents, and what it is held at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from vaeprobe.errors import UsageError, did_you_mean

__all__ = ["Condition", "held"]


@dataclass(frozen=True)
class Condition:
    """A class, or a number, that the decoder is given beside its latents.

    Attributes:
        name: as `--condition NAME=VALUE` calls it.
        kind: "onehot" (a class as a one-hot vector), "embedding" (a class as a row of a table) or "number".
        size: number of classes of a one-hot vector.
        key: name of the tensor of an embedding, without `.weight`.
        value: the class, counted from 0, or the number.
        names: of the classes, where the file tells them.
        chosen: whether somebody chose the value; else it is the default.
    """

    name: str
    kind: Literal["onehot", "embedding", "number"]
    size: int = 0
    key: str = ""
    value: float = 0
    names: tuple[str, ...] = ()
    chosen: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        if self.kind == "number":
            return f"{self.name} = {self.value:g}"
        which = int(self.value)
        of = f" of {self.size}" if self.size else ""
        return f"{self.name} = {which}{of}" + (f" (`{self.names[which]}`)" if which < len(self.names) else "")

    def example(self) -> str:
        """Return an example of `NAME=VALUE`."""
        if self.kind == "number":
            return f"{self.name}=1000"
        return f"{self.name}={self.names[-1] if self.names else 1}"

    def at(self, value: str | float) -> Condition:
        """Return the condition held at a value: a number, or the name of a class.

        Raises:
            UsageError: it has no such class.
        """
        if isinstance(value, str) and value in self.names:
            return replace(self, value=self.names.index(value), chosen=True)
        try:
            number = float(value)
        except ValueError:
            raise UsageError(
                f"condition `{self.name}` cannot be `{value}`",
                hint=did_you_mean(str(value), self.names) or self._range(),
            ) from None
        whole = self.kind != "number"
        if (
            number != number
            or abs(number) == float("inf")
            or (whole and (number != int(number) or number < 0))
        ):
            raise UsageError(f"condition `{self.name}` cannot be {value}", hint=self._range())
        if whole and self.size and number >= self.size:
            raise UsageError(f"condition `{self.name}` has no class {int(number)}", hint=self._range())
        return replace(self, value=number, chosen=True)

    def _range(self) -> str:
        if self.kind == "number":
            return "give a number"
        classes = f"a class from 0 to {self.size - 1}" if self.size else "a class, counted from 0"
        shown = ", ".join(f"`{n}`" for n in self.names[:8])
        return f"give {classes}" + (
            f", or one of {shown}{', ...' if len(self.names) > 8 else ''}" if shown else ""
        )


def held(conditions: tuple[Condition, ...], values: Mapping[str, str | float]) -> tuple[Condition, ...]:
    """Return conditions held at the values given by name.

    Raises:
        UsageError: the decoder has no such condition, or the condition no such class.
    """
    known = [c.name for c in conditions]
    for name in values:
        if name not in known:
            listed = ", ".join(_each(conditions))
            raise UsageError(
                f"the decoder has no condition `{name}`",
                hint=did_you_mean(name, known) or (f"it has {listed}" if known else "leave out --condition"),
            )
    return tuple(c.at(values[c.name]) if c.name in values else c for c in conditions)


def _each(conditions: tuple[Condition, ...]) -> Iterator[str]:
    for c in conditions:
        yield f"`{c.name}`" + (f" ({c.size} classes)" if c.size else "")
