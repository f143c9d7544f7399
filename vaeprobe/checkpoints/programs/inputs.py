"""The input of a program: how many latents it takes, and what may be unknown of it, as errors that a caller can answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TypeVar

from torch import Tensor

from vaeprobe.errors import BlueprintError, InputError, UsageError

T = TypeVar("T")
Size = tuple[int, ...]


class OpenSizeError(InputError):
    """The file leaves the number of latents open (exit code 5): a number from outside settles it, or the size of a map.

    Attributes:
        of_map: whether it is the size.
        state: the tensors of the program by name.
    """

    of_map: bool = False
    state: Mapping[str, Tensor] = MappingProxyType({})


class UnsupportedError(InputError):
    """A program uses what we do not run, whatever it is given (exit code 5)."""


class NoFlatRowsError(InputError):
    """The program does not run on flat rows, and its file does not say which shape it takes (exit code 5)."""


def row_of(row: Sequence[int | None], asked: int | None, size: Size | None, said: str) -> Size:
    """Return the shape of one row of latents, what the file leaves open of it (None) filled in.

    Args:
        row: as the file records it.
        asked: the number of latents that the user gives, which says one open size.
        size: of the map of latents that the user gives: the open sizes in their order, or the whole row.
        said: what is left open, as a sentence without its end.

    Raises:
        OpenSizeError: more is open than the user said.
        UsageError: the size is not of such a row.
    """
    opens = [k for k, n in enumerate(row) if n is None]
    known = math.prod(n for n in row if n is not None)
    if not opens or (size is None and asked is None):
        given: Sequence[int] = ()
    elif size is None:
        given = [asked // known] if asked and len(opens) == 1 and known and asked % known == 0 else ()
    elif len(size) == len(opens):
        given = size
    elif len(size) == len(row) and all(n in (None, own) for n, own in zip(row, size, strict=True)):
        given = [size[k] for k in opens]
    else:
        shown = " x ".join("?" if n is None else str(n) for n in row)
        raise UsageError(
            f"{said}: it takes rows of {shown}, which {'x'.join(map(str, size))} does not fill",
            hint=f"say the {len(opens)} open sizes: --latent-size {'x'.join(['8'] * len(opens))}",
        )
    if len(given) < len(opens):
        many = len(opens) > 1
        error = OpenSizeError(
            said,
            hint=f"add --latent-size {'x'.join(['8'] * len(opens))}, the {len(opens)} sizes that are open"
            if many
            else f"add --latent-dim D{f', a multiple of {known}' if known > 1 else ''}",
        )
        error.of_map = many
        raise error
    filled = iter(given)
    return tuple(next(filled) if n is None else n for n in row)


@contextmanager
def with_state(state: Callable[[], Mapping[str, Tensor]]) -> Iterator[None]:
    """Give an `OpenSizeError` within the tensors of the program, for what is told of it without running it."""
    try:
        yield
    except OpenSizeError as error:
        error.state = state()
        raise


def where_open(look: Callable[[Size | None], T], size: Size) -> T | None:
    """Return what is told of a program with a size of its latents, None where its file records one."""
    try:
        look(None)
    except OpenSizeError:
        return look(size)
    return None


def latents_of(row: Sequence[int], asked: int | None, what: str = "program") -> int:
    """Return how many latents an input row of this shape holds.

    Args:
        asked: the number that the user gives.
        what: what takes them, in words.

    Raises:
        BlueprintError: the user says another number.
    """
    d = math.prod(row)
    if asked not in (None, d):
        raise BlueprintError(
            f"the {what} takes {d} latents, not {asked}", hint=f"leave out --latent-dim, or write {d}"
        )
    return d
