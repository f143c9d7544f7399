"""Which latents of each model were measured, and which numbers may be set against each other then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from vaeprobe.budget import budget, share_of
from vaeprobe.decoder import Decoder
from vaeprobe.findings import DIFFERENT_PARTS, PART_OF_JACOBIAN, PART_OF_LATENTS, TIME_LIMIT
from vaeprobe.probes.orthogonality.probe import Orthogonality
from vaeprobe.report import Finding
from vaeprobe.result import Result

ALL = "all latents"
NAMED = 6  # models that are named one by one


def same_part(results: Sequence[Result]) -> bool:
    """Whether all are of the same latents, or of all of each model's."""
    return len({r.part for r in results}) < 2


def comparable(results: Sequence[Result], id: str) -> bool:
    """Whether a number says the same of every model: it is that of all latents, or that of the same part of them."""
    return same_part(results) or all(r.metrics[id].for_all for r in results if id in r.metrics)


def letters_of(n: int) -> list[str]:
    """Return short names of models: A, B, ..., and numbers where letters do not reach."""
    return [chr(ord("A") + k) for k in range(n)] if n <= 26 else [str(k) for k in range(n)]


def findings(models: Sequence[Mapping[str, Result]], short: Sequence[bool | None]) -> Iterator[Finding]:
    """Yield what was measured along a part of the latents, and whether along the same one of all models.

    Args:
        short: of which models time lasted for some columns only.
    """
    cut = [letter for letter, some in zip(letters_of(len(models)), short, strict=True) if some]
    if cut:
        columns = f"all columns of {_some(cut)} at a few latents"
        yield Finding(
            TIME_LIMIT, f"orthogonality: the time given does not last for {columns}: some were measured"
        )
    differing: dict[str, str] = {}
    for probe in models[0]:
        parts = _by_part(models, probe)
        if len(parts) > 1:
            differing[probe] = f"{probe} of {' and '.join(f'{what} ({who})' for what, who in parts.items())}"
        elif ALL not in parts:
            spec = PART_OF_JACOBIAN if probe == "orthogonality" else PART_OF_LATENTS
            yield Finding(spec, f"{probe}: {next(iter(parts))}, were measured, the same ones of each model")
    if differing:
        yield Finding(
            DIFFERENT_PARTS,
            f"different parts were measured: {'; '.join(differing.values())}. What they leave open of all latents ranks no model "
            "and has no difference",
            hint=f"`vaeprobe {next(iter(differing))} MODEL --part all` measures one model along all its latents",
        )


def _by_part(models: Sequence[Mapping[str, Result]], probe: str) -> dict[str, str]:
    """Return who was measured along which part."""
    found: dict[str, list[str]] = {}
    for letter, results in zip(letters_of(len(models)), models, strict=True):
        if probe in results:
            found.setdefault(results[probe].part or ALL, []).append(letter)
    return {what: _some(who) for what, who in found.items()}


def _some(who: Sequence[str]) -> str:
    more = len(who) - NAMED
    return ", ".join(who[:NAMED]) + (f" and {more} more" if more > 0 else "")


def shortened_alike(
    decoders: Sequence[Decoder], share: float, *, samples: int, seed: int
) -> list[bool | None]:
    """Return of each model whether limited time lasts for some of its columns only: of those of the same latents alike.

    Args:
        share: of the time that is left, what the columns of one model may take.
    """
    if not budget().bounded:
        return [None] * len(decoders)
    probe = Orthogonality(samples=samples, seed=seed)
    alike = [(len(d.continuous), d.latent_shape) for d in decoders]
    short = set()
    for decoder, kind in zip(decoders, alike, strict=True):
        with share_of(share):
            if not probe.affords_all(decoder):
                short.add(kind)
    return [kind in short for kind in alike]
