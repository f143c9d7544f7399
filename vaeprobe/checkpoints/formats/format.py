"""What a format is: a name, what it claims, and how a file of it is read and looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from vaeprobe.errors import UsageError
from vaeprobe.files.sniff import Container
from vaeprobe.files.source import Bytes, Source, quoted
from vaeprobe.files.zips import directory, is_zip

if TYPE_CHECKING:
    from vaeprobe.checkpoints.inspection import Inspection
    from vaeprobe.checkpoints.request import Found, Request
    from vaeprobe.checkpoints.weights import Weights

__all__ = ["Contents", "Format"]


@dataclass(frozen=True)
class Contents:
    """A file that passed the refusals of `vaeprobe.files.sniff`, which come before every claim.

    Attributes:
        source: the file.
        container: what `sniff` took it for; None for none that it knows.
    """

    source: Source
    container: Container | None = None

    @property
    def data(self) -> Bytes:
        """The bytes of the file."""
        return self.source.data

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names in a zip archive, none in another file."""
        return tuple(entry.name for entry in directory(self.data)) if is_zip(self.data) else ()


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of checkpoint files.

    Attributes:
        name: as errors call it.
        claims: whether a file is of this format, by its bytes, or the names in it.
        read: returns what a file holds; raises the errors of `vaeprobe.load`.
        look: returns what a file holds (of it, the entry of a key) for `inspect`, if it can without torch.
        sized: looks at a file that does not record the size of the maps of latents, which is given; None where files record it
            or hold weights alone.  It returns None for a file that records it.
        weights: the tensors by name and what holds them, for the user's own network; None where a format has no bare weights.
        settings: the hyper-parameters that a file says beside its weights.
        keyed: whether a file has entries by name, of which a key chooses one.
    """

    name: str
    claims: Callable[[Contents], bool]
    read: Callable[[Request], Found]
    look: Callable[[Source, str | None], Inspection]
    sized: Callable[[Source, tuple[int, ...]], Inspection | None] | None = None
    weights: Callable[[Request], tuple[Weights, str]] | None = None
    settings: Callable[[Source], Mapping[str, object]] | None = None
    keyed: bool = True

    def refuse_key(self, key: str | None, name: str) -> None:
        """Refuse a key of a file, `name`, that has no entries."""
        if key is not None and not self.keyed:
            raise UsageError(
                f"{name} holds one thing, which has no name, and so no entry {quoted(key)}",
                hint="leave out --key",
                about=name,
            )
