"""A blueprint: the architecture of a decoder as data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from vaeprobe.checkpoints.blueprint import reading
from vaeprobe.checkpoints.blueprint.condition import Condition
from vaeprobe.checkpoints.blueprint.layer import EncoderPlan, LatentGroups, Layer, block, toml_key, toml_value
from vaeprobe.checkpoints.blueprint.prior import Numbers, PriorPlan
from vaeprobe.errors import UsageError
from vaeprobe.files.source import quoted

__all__ = ["Blueprint", "METADATA_KEY", "size_of"]

METADATA_KEY = "vaeprobe.blueprint"


@dataclass(frozen=True)
class Blueprint:
    """The architecture of a decoder.

    Attributes:
        layers: the decoder's; empty for a self-contained program.
        latents: groups of latents in order; empty where the first layer tells their number.
        likelihood: gaussian, bernoulli, poisson, categorical, or None where it is not known.
        parameter: whether the output is the likelihood's mean or its natural parameter.
        dispersion: name of the tensor of inverse dispersions of a negative binomial, one number an output.
        prefix: put before every tensor name of the decoder.
        encoder: the encoder, where it is described.
        name: what to call it: a preset's name.
        conditions: what the decoder takes beside its latents.
        prior: of the continuous latents, where it is not N(0, I).
        assumptions: what a draft had to guess, in words; reported until somebody takes them out.
        origin: where it came from: a file, "preset burgess", "draft"; not part of its meaning.
    """

    layers: tuple[Layer, ...] = ()
    latents: LatentGroups = ()
    likelihood: str | None = None
    parameter: Literal["mean", "natural"] = "mean"
    dispersion: str = ""
    prefix: str = ""
    encoder: EncoderPlan | None = None
    conditions: tuple[Condition, ...] = ()
    prior: PriorPlan | None = None
    name: str = ""
    assumptions: tuple[str, ...] = ()
    origin: str = field(default="blueprint", compare=False)

    @property
    def latent_dim(self) -> int | None:
        """Number of latents, where the blueprint says it."""
        return sum(size for _, size in self.latents) or None

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape in which the network takes its latents, where it begins by making a map of them."""
        first = self.layers[0] if self.layers else None
        if first is None or first.kind != "reshape" or math.prod(first["shape"]) != self.latent_dim:
            return ()
        return tuple(first["shape"])

    def with_size(self, size: tuple[int, ...]) -> Blueprint:
        """Return the blueprint for a map of latents of another size; the encoder's images grow with it.

        Raises:
            UsageError: its latents are no map of so many axes.
        """
        old = self.latent_shape[1:]
        if len(old) != len(size) or math.prod(old) == 1:
            what = f"a map of {' x '.join(map(str, old))}" if math.prod(old) > 1 else "no map"
            raise UsageError(
                f"a size of {'x'.join(map(str, size))} does not fit: the latents are {what}",
                hint="leave out --latent-size",
            )
        if old == size:
            return self
        channels = self.latent_shape[0]
        first = self.layers[0].with_options(shape=[channels, *size])
        encoder = self.encoder
        if encoder is not None:
            grown = [n * new // was for n, new, was in zip(encoder.input[1:], size, old, strict=False)]
            encoder = replace(encoder, input=(encoder.input[0], *grown))
        latents: LatentGroups = (("normal", channels * math.prod(size)),)
        return replace(self, layers=(first, *self.layers[1:]), latents=latents, encoder=encoder)

    # -- reading ---------------------------------------------------------------------------------

    @classmethod
    def from_toml(cls, text: str, origin: str = "blueprint") -> Blueprint:
        """Return the blueprint that a TOML text describes.

        Raises:
            BlueprintError: the text is no TOML, or says something a blueprint cannot say.
        """
        return cls(**reading.fields(text, origin), origin=origin)

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, str], origin: str = "safetensors metadata"
    ) -> Blueprint | None:
        """Return the blueprint embedded in the metadata of a safetensors file, or None.

        Raises:
            BlueprintError: there is one and it is malformed.
        """
        text = metadata.get(METADATA_KEY)
        return cls.from_toml(text, origin) if text is not None else None

    # -- writing ---------------------------------------------------------------------------------

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata that embeds this blueprint in a safetensors file."""
        return {METADATA_KEY: self.to_toml()}

    def to_toml(self) -> str:
        """Return the blueprint as TOML; `from_toml` gives it back."""
        lines = []
        if self.name:
            lines.append(f"name = {toml_value(self.name)}")
        if len(self.latents) == 1 and self.latents[0][0] == "normal":
            lines.append(f"latents = {self.latents[0][1]}")
        elif self.latents:
            lines.append(f"latents = [{', '.join(f'{{ {kind} = {size} }}' for kind, size in self.latents)}]")
        if self.likelihood:
            lines.append(f"likelihood = {toml_value(self.likelihood)}")
        if self.parameter != "mean":
            lines.append(f"parameter = {toml_value(self.parameter)}")
        if self.dispersion:
            lines.append(f"dispersion = {toml_value(self.dispersion)}")
        if self.assumptions:
            lines.append("# what was guessed: check each line, mend the layers below, and delete it here")
            lines.append("assumptions = [")
            lines += [f"    {toml_value(a)}," for a in self.assumptions]
            lines.append("]")
        if self.prior is not None:
            p = self.prior
            lines += ["", "[prior]", f"mean = {_numbers(p.mean)}", f"{p.spread} = {_numbers(p.second)}"]
            lines += [f"{p.mixing} = {_numbers(p.third)}"] if p.third is not None else []
        for c in self.conditions:
            lines += ["", f"[condition.{toml_key(c.name)}]"]
            first = {"onehot": c.size, "embedding": c.key, "number": c.value}[c.kind]
            lines.append(f"{c.kind} = {toml_value(first)}")
            if c.kind != "number" and (c.value or c.chosen):
                lines.append(f"value = {int(c.value)}")
            if c.names:
                lines.append(f"names = {toml_value(list(c.names))}")
        if self.layers:
            lines += ["", "[decoder]"]
            if self.prefix:
                lines.append(f"prefix = {toml_value(self.prefix)}")
            lines += block("layers", self.layers)
        if self.encoder:
            e = self.encoder
            lines += ["", "[encoder]"]
            if e.prefix:
                lines.append(f"prefix = {toml_value(e.prefix)}")
            lines.append(f"input = {toml_value(list(e.input))}")
            lines += block("layers", e.layers)
            if e.output == "heads":
                lines += block("mean", e.mean)
                lines += block(e.second, e.spread)
            else:
                lines.append(f"output = {toml_value(e.output)}")
                if e.second != "log_variance":
                    lines.append(f"second = {toml_value(e.second)}")
            if e.limits:
                lines.append(f"limits = {toml_value(list(e.limits))}")
        return "\n".join(lines) + "\n"


def _numbers(value: Numbers) -> str:
    return f"[{', '.join(map(_numbers, value))}]" if isinstance(value, tuple) else toml_value(value)


def size_of(size: str | Sequence[int] | None) -> tuple[int, ...] | None:
    """Return the size of a map of latents: "8x8" is (8, 8).

    Raises:
        UsageError: it is no size.
    """
    if size is None:
        return None
    if isinstance(size, str):
        parts = size.lower().split("x")
    else:
        parts = [str(n) for n in size] if isinstance(size, Iterable) else []
    if not 1 <= len(parts) <= 3 or not all(p.isdecimal() and 0 < int(p) < 1 << 16 for p in parts):
        raise UsageError(f"{quoted(str(size))} is no size of a map", hint="write it as 8x8")
    return tuple(map(int, parts))
