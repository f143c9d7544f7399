"""From what a family or blueprint says a file holds to the parts of a decoder, as the user wants it held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from vaeprobe.checkpoints.blueprint import Blueprint
from vaeprobe.checkpoints.blueprint.condition import held
from vaeprobe.checkpoints.families import Recognised
from vaeprobe.checkpoints.network.assemble import assemble
from vaeprobe.checkpoints.network.parts import Parts, at_conditions, unchosen
from vaeprobe.findings import ASSUMED, FAMILY_WARNING
from vaeprobe.prior import LearnedPrior
from vaeprobe.report import Finding

__all__ = ["parts_of"]


def parts_of(
    found: Recognised,
    tensors: Mapping[str, Tensor],
    *,
    size: tuple[int, ...] | None = None,
    condition: Mapping[str, str | float] | None = None,
) -> Parts:
    """Return the network, with a map of latents of a size, and held at conditions.

    Raises:
        UsageError: its latents are no map, or it has no such condition.
        BlueprintError: as `assemble`.
    """
    bp = found.blueprint if size is None else found.blueprint.with_size(size)
    bp = replace(bp, conditions=held(bp.conditions, condition or {}))
    pseudo = {
        k: t for k, t in tensors.items() if found.pseudo_inputs and k.startswith(f"{found.pseudo_inputs}.")
    }
    parts = assemble(bp, {k: t for k, t in tensors.items() if k not in pseudo})
    return replace(
        parts,
        learned=_vamp_prior(parts, list(pseudo.values())) if pseudo else parts.learned,
        architecture=at_conditions(parts.architecture, bp.conditions),
        latent_shape=bp.latent_shape,
        conditions=bp.conditions,
        recipe=found.recipe,
        dispersion=_dispersion(found, bp, tensors) if found.log_dispersion else parts.dispersion,
        totalled=_totalled(found, bp),
        notes=(*parts.notes, *_notes(found, bp)),
    )


def _dispersion(found: Recognised, bp: Blueprint, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Return the inverse dispersions that the file holds, those of the class that the decoder is held at."""
    if not found.log_dispersion:
        return None
    logs = tensors[found.log_dispersion].detach().double()
    if not found.dispersion_of:
        return logs.exp()
    held_at = {c.name: int(c.value) for c in bp.conditions}
    column = held_at.get(found.dispersion_of, 0)
    return logs[:, column].exp() if column < logs.shape[1] else None


def _totalled(found: Recognised, bp: Blueprint) -> str | None:
    """Return the output that a row's total multiplies, where it is held at 1 and the user chose nothing."""
    left = any(c.name == found.total and not c.chosen and c.value == 1 for c in bp.conditions)
    if not left:
        return None
    return bp.layers[-1].branches[0][0] if bp.layers[-1].branches else ""


def _vamp_prior(parts: Parts, pseudo: Sequence[Tensor]) -> LearnedPrior | None:
    """Return the mixture of the posteriors of pseudo-inputs, None without an encoder.

    Args:
        pseudo: weight, shape (m, components), and bias, shape (m,), of the layer that makes them of one-hot rows.

    Source: Tomczak and Welling (2018), arXiv:1705.07120, equation 9.
    """
    if parts.encoder is None:
        return None
    weight, bias = sorted((t.detach() for t in pseudo), key=lambda t: -t.ndim)
    mean, log_variance = parts.encoder((weight.T + bias).clamp(0, 1))
    return LearnedPrior(mean, (0.5 * log_variance.double()).exp())


def _notes(found: Recognised, bp: Blueprint) -> Iterator[Finding]:
    if found.assumed:
        yield Finding(ASSUMED, f"tensors do not tell, and it was assumed: {'; '.join(found.assumed)}")
    yield from unchosen(bp.conditions)
    for warning in found.warnings:
        yield Finding(FAMILY_WARNING, warning)
