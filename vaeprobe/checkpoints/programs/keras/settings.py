"""The settings of a layer or an operation in a Keras file: JSON, each read as the kind of value that it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vaeprobe.errors import InputError
from vaeprobe.files.source import quoted

__all__ = ["Settings", "damaged", "number", "table_of"]


def damaged() -> InputError:
    """Return the error that a configuration cannot be read."""
    return InputError("the configuration of the Keras model is damaged", hint="fetch the file again")


def table_of(value: object) -> Mapping[str, object]:
    """Return a table as it is.

    Raises:
        InputError: it is none.
    """
    if not isinstance(value, Mapping):
        raise damaged()
    return value


@dataclass(frozen=True)
class Settings:
    """The settings of one layer or operation.

    Attributes:
        table: as the file has them.
        owner: whose they are, for messages.
    """

    table: Mapping[str, object]
    owner: str

    def get(self, name: str) -> object:
        """Return a setting as it stands, None where it is left out."""
        return self.table.get(name)

    def whole(self, name: str, default: int | None = None) -> int:
        """Return a setting that is a whole number.

        Raises:
            InputError: it is something else, or left out without a default; so do those that follow.
        """
        found = _whole(self.table.get(name, default))
        if found is None:
            raise self._odd(name)
        return found

    def number(self, name: str, default: float) -> float:
        """Return a setting that is a number, which old files keep as an array in a table; null is the default."""
        found = number(self.get(name))
        if found is None and self.get(name) is not None:
            raise self._odd(name)
        return default if found is None else found

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a setting that is true or false; null is false."""
        value = self.table.get(name, default)
        if not isinstance(value, (bool, int)) and value is not None:
            raise self._odd(name)
        return bool(value)

    def text(self, name: str, default: str) -> str:
        """Return a setting that is a word."""
        value = self.table.get(name, default)
        if not isinstance(value, str):
            raise self._odd(name)
        return value

    def wholes(self, name: str, default: Sequence[int] | int | None = None) -> list[int]:
        """Return a setting that is a list of whole numbers; a single one is a list of one."""
        value = self.table.get(name, default)
        found = [_whole(item) for item in (value if isinstance(value, (list, tuple)) else [value])]
        if None in found:
            raise self._odd(name)
        return [n for n in found if n is not None]

    def _odd(self, name: str) -> InputError:
        value = self.table.get(name)
        what = f"is {quoted(str(value))}, which it cannot be" if name in self.table else "is missing"
        return InputError(
            f"the setting {quoted(name)} of {self.owner} {what}", hint="is the file damaged? fetch it again"
        )


def _whole(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) else None


def number(value: object) -> float | None:
    """Return a number, or the one that old files keep as an array in a table; None of anything else."""
    if isinstance(value, Mapping):
        inner = value.get("config")
        value = (
            value.get("value") if not isinstance(inner, Mapping) else inner.get("value", value.get("value"))
        )
    return float(value) if isinstance(value, (int, float)) else None
