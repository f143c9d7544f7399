"""What the user asks of a file, and what it turns out to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vaeprobe.checkpoints import architecture, naming
from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.files.source import Source
from vaeprobe.report import Finding

__all__ = ["Found", "Request"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user said about a file."""

    source: Source
    arch: str | None = None
    blueprint: architecture.BlueprintLike = None
    key: str | None = None
    submodule: str | None = None
    latent_dim: int | None = None
    weights: naming.Set | None = None
    arch_args: Mapping[str, object] = field(default_factory=dict)
    output: int | str | None = None
    latent_size: tuple[int, ...] | None = None
    condition: Mapping[str, str | float] = field(default_factory=dict)
    allow_code: bool = False

    @property
    def name(self) -> str:
        return self.source.name


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a file turned out to be.

    Attributes:
        format: as reports name it.
        notes: beyond those in `parts`.
        output_taken: whether the output that was asked for is the only one left.
        size_taken: whether the size of maps of latents that was asked for is known to be theirs.
    """

    parts: Parts
    format: str
    notes: tuple[Finding, ...] = ()
    output_taken: bool = False
    size_taken: bool = False
    details: Mapping[str, object] = field(default_factory=dict)
