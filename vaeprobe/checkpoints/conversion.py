"""Decoders written to files that say everything by themselves: safetensors with a blueprint, or .pt2."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from vaeprobe import cpu
from vaeprobe.checkpoints.blueprint import Blueprint, BlueprintError, EncoderPlan
from vaeprobe.checkpoints.blueprint.prior import PriorPlan
from vaeprobe.checkpoints.network.describe import conditions_of, describe
from vaeprobe.checkpoints.network.modules import GaussianEncoder
from vaeprobe.decoder import Decoder
from vaeprobe.errors import UsageError, VaeprobeError
from vaeprobe.findings import DRAFT_BLUEPRINT, ENCODER_LEFT_OUT
from vaeprobe.latents import Prior
from vaeprobe.report import Finding, Metric, MetricSpec, Section, Table, metric_map
from vaeprobe.result import Measured, Result

__all__ = ["Conversion", "METRICS", "SUFFIXES", "blueprint_of", "convert", "write"]

SAME = 1e-4  # of the largest output: another kernel's rounding, not another network
SUFFIXES = (".safetensors", ".pt2")
AS_MODULE = "make it an nn.Module whose `forward` takes latents: a factory that returns one converts to .pt2"
METRICS = (
    MetricSpec(
        id="convert.largest_difference",
        title="largest difference of outputs",
        unit="",
        range="[0, inf), relative to the largest output",
        formula="max abs(f_new(z) - f_old(z)) / max abs(f_old(z)) over 16 prior latents",
        meaning="how exactly the written file computes what the old one did; 0 is bit for bit",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Conversion(Result):
    """What was written.

    Attributes:
        tensors: shapes of the tensors written, by name.
        blueprint: the architecture written with them, as TOML.
        sidecar: where the blueprint stands, if not in the file.
    """

    command: ClassVar[str] = "convert"

    largest_difference = Measured("convert.largest_difference")

    output: str
    tensors: Mapping[str, tuple[int, ...]]
    blueprint: str
    sidecar: str | None = None

    def sections(self) -> tuple[Section, ...]:
        rows = [[name, " x ".join(map(str, shape))] for name, shape in self.tensors.items()]
        return (Table(title="Tensors", columns=["name", "shape"], rows=rows),) if rows else ()

    def renamed(self, path: Path) -> Conversion:
        """Return the result for the file under its final name."""
        summary = self.summary.replace(Path(self.output).name, path.name, 1)
        return replace(
            self,
            output=str(path),
            summary=summary,
            sidecar=str(sidecar_of(path)) if self.sidecar is not None else None,
        )

    def details(self) -> dict[str, object]:
        shapes = {name: list(shape) for name, shape in self.tensors.items()}
        return {
            "output": self.output,
            "tensors": shapes,
            "blueprint": self.blueprint,
            "sidecar": self.sidecar,
        }


def blueprint_of(decoder: Decoder) -> tuple[Blueprint, dict[str, Tensor]]:
    """Return the blueprint of a decoder made of known layers, and its tensors by the names that it uses.

    Raises:
        BlueprintError: the decoder is no network of layers that a blueprint knows.
    """
    if decoder.module is None:
        raise BlueprintError(
            "the decoder is a function, not a network of layers, and a blueprint cannot describe it",
            hint=AS_MODULE,
        )
    layers, tensors = describe(decoder.module, "decoder.")
    bp = Blueprint(
        layers=layers,
        latents=tuple(("onehot" if g.kind == "onehot" else "normal", g.size) for g in decoder.prior),
        prior=_prior(decoder),
        likelihood=decoder.likelihood,
        parameter=decoder.parameter,
        prefix="decoder.",
        conditions=conditions_of(decoder.module, "decoder."),
        assumptions=_assumptions(decoder),
        dispersion="dispersion" if decoder.dispersion is not None else "",
    )
    if decoder.dispersion is not None:
        tensors["dispersion"] = decoder.dispersion.to(decoder.dtype)
    if decoder.sigma2 is not None:
        tensors["log_sigma2"] = cpu.tensor(decoder.sigma2, dtype=decoder.dtype).log()
    plan, own = _plan_of(decoder)
    return replace(bp, encoder=plan), {**tensors, **own}


def _prior(decoder: Decoder) -> PriorPlan | None:
    """Return the prior of a decoder in numbers, where it is not N(0, I)."""
    learned = decoder.learned
    if learned is None:
        return None
    assert learned.weights is not None
    if learned.components == 1:
        return PriorPlan(tuple(learned.mean[0].tolist()), tuple(learned.scale[0].tolist()))
    mean, scale = (tuple(map(tuple, t.tolist())) for t in (learned.mean, learned.scale))
    return PriorPlan(mean, scale, third=tuple(learned.weights.tolist()))


def _assumptions(decoder: Decoder) -> tuple[str, ...]:
    """Return what the decoder's architecture rests on: a guess stays one when it is written to another file."""
    drafts = [note.message for note in decoder.notes if note.spec is DRAFT_BLUEPRINT]
    return tuple(message.partition(": ")[2] for message in drafts)


def _plan_of(decoder: Decoder) -> tuple[EncoderPlan | None, dict[str, Tensor]]:
    """Return the encoder's part of the blueprint and its tensors; None where there is no encoder of known layers."""
    encoder = decoder.encoder
    if encoder is None or encoder.input_shape is None or not isinstance(encoder.function, GaussianEncoder):
        return None, {}
    network = encoder.function
    layers, tensors = describe(network.trunk, "encoder.")
    plan = EncoderPlan(
        layers=layers,
        input=tuple(encoder.input_shape),
        output=network.output,
        second=network.second,
        prefix="encoder.",
        limits=network.limits,
    )
    if network.output == "heads":
        mean, own = describe(network.mean, "encoder.", "mean")
        spread, more = describe(network.spread, "encoder.", network.second)
        tensors |= {**own, **more}
        plan = replace(plan, mean=mean, spread=spread)
    return plan, tensors


def convert(decoder: Decoder, path: Path, *, sidecar: bool = False) -> Conversion:
    """Write a decoder to a file, read it back, and compare.

    Args:
        path: ends in .safetensors (weights, and the architecture as a blueprint) or .pt2 (the program itself).
        sidecar: write the blueprint beside the file, as `<path>.toml`, instead of into it.

    Raises:
        UsageError: another suffix, or the decoder cannot be written in that form.
        VaeprobeError: what was written computes something else.
    """
    from vaeprobe.checkpoints.loading import load

    bp, tensors = write(decoder, path, sidecar=sidecar)
    again = load(path, blueprint=sidecar_of(path) if sidecar else None)
    z = Prior().draw(decoder, 16)
    with torch.no_grad():
        old, new = decoder.flat(z).double().cpu(), again.flat(z).double().cpu()
    difference = float((new - old).abs().max() / old.abs().max().clamp_min(torch.finfo(torch.float32).tiny))
    if not difference < SAME:
        raise VaeprobeError(
            f"the file written computes something else than the decoder (by {difference:.1e} of the largest output)",
            hint="this is a bug of vaeprobe: please report it with the decoder's layers",
        )
    same = "bit for bit" if difference == 0 else f"to {difference:.1e} of the largest output"
    encoder_lost = decoder.encoder is not None and bp.encoder is None
    kept_elsewhere = encoder_lost and path.suffix == ".pt2" and _keeps_encoder(decoder)
    findings = [f for f in decoder.notes if f.level != "note"]
    if encoder_lost:
        findings.append(
            Finding(
                ENCODER_LEFT_OUT,
                "the encoder was not written: probes of the posterior need it",
                hint="write to .safetensors to keep it" if kept_elsewhere else None,
            )
        )
    what = (
        "the program with its weights"
        if path.suffix == ".pt2"
        else f"{len(tensors)} tensors and their blueprint"
    )
    return Conversion(
        metrics=metric_map(
            [Metric(METRICS[0], difference, n=len(z), method="both files on the same latents")]
        ),
        verdict="converted",
        summary=f"{path.name} holds {what}; read back, it computes the same outputs {same}.",
        findings=tuple(findings),
        artifact=decoder.artifact,
        output=str(path),
        tensors={name: tuple(t.shape) for name, t in tensors.items()},
        blueprint=bp.to_toml(),
        sidecar=str(sidecar_of(path)) if sidecar else None,
    )


def write(decoder: Decoder, path: Path, *, sidecar: bool = False) -> tuple[Blueprint, dict[str, Tensor]]:
    """Write a decoder to a .safetensors or .pt2 file, and return what says its architecture and its tensors.

    Raises:
        UsageError: another suffix, or the decoder cannot be written in that form.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"cannot write `{path.suffix or path.name}`",
            hint=f"name the output *{SUFFIXES[0]} or *{SUFFIXES[1]}",
        )
    if path.suffix == ".pt2":
        return _write_pt2(decoder, path), {}
    from safetensors.torch import save_file

    bp, tensors = blueprint_of(decoder)
    dense = {
        name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()
    }  # tied weights are written twice
    save_file(dense, path, metadata={"format": "pt"} if sidecar else {"format": "pt", **bp.to_metadata()})
    if sidecar:
        sidecar_of(path).write_text(bp.to_toml(), encoding="utf-8")
    return bp, tensors


def sidecar_of(path: Path) -> Path:
    """Return where the blueprint of a file stands that does not carry its own."""
    return path.with_name(path.name + ".toml")


def _keeps_encoder(decoder: Decoder) -> bool:
    """Return whether a .safetensors file can hold a decoder with its encoder."""
    return _has_blueprint(decoder) and _plan_of(decoder)[0] is not None


def _has_blueprint(decoder: Decoder) -> bool:
    """Return whether a .safetensors file can hold a decoder."""
    try:
        blueprint_of(decoder)
    except BlueprintError:
        return False
    return True


def _write_pt2(decoder: Decoder, path: Path) -> Blueprint:
    if decoder.module is None:
        raise UsageError("the decoder is a function, not a network, and cannot be exported", hint=AS_MODULE)
    bp = Blueprint(
        latents=tuple(("onehot" if g.kind == "onehot" else "normal", g.size) for g in decoder.prior),
        prior=_prior(decoder),
        likelihood=decoder.likelihood,
        parameter=decoder.parameter,
        assumptions=_assumptions(decoder),
    )
    z = Prior().draw(decoder, 3).to(device=decoder.device, dtype=decoder.dtype)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(decoder.module, (z,), dynamic_shapes=_any_batch(decoder.module))
            torch.export.save(program, path, extra_files={"vaeprobe.toml": bp.to_toml()})
    except (
        RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError, AttributeError, LookupError
    ) as error:  # fmt: skip
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"torch.export cannot trace the decoder: {reason[:200]}",
            hint="write to .safetensors instead"
            if _has_blueprint(decoder)
            else "probe the file as it is, or write what cannot be traced with tensors: torch.where for an `if`",
        ) from None
    return bp


def _any_batch(module: nn.Module) -> tuple[object, ...]:
    """Return the `dynamic_shapes` of latents of any number, in the structure of the arguments of `forward`.

    Latents that are the first of `*args` stand in a tuple of these.
    """
    rows = {0: torch.export.Dim.DYNAMIC}
    first = next(iter(inspect.signature(module.forward).parameters.values()))
    return ((rows,),) if first.kind is inspect.Parameter.VAR_POSITIONAL else (rows,)
