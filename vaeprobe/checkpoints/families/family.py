"""What a family of decoders is: how its files are recognised, the network that they hold, and what its loss implies.

Names and shapes never tell the activations; a family's published code does.  So a family is recognised only where
every tensor of its decoder has the name and the shape that this code gives it, and no other tensor stands among them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from vaeprobe.checkpoints.blueprint import KINDS, Blueprint, EncoderPlan, LatentGroups, Layer
from vaeprobe.recipe import Recipe

__all__ = ["Clues", "Family", "Recognised", "Shaped", "Shapes", "below", "places", "prefixes", "solve"]

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
COUNTERS = ("num_batches_tracked",)  # say nothing of the network
LEAVES = re.compile(
    r"weight|bias|gamma|alpha|beta|running_(mean|var)|weight_(orig|u|v|g)|parametrizations\.weight\.[\w.]+"
    r"|(weight|bias)_[ih]h_l\d+(_reverse)?"
)


class Shaped(Protocol):
    """A tensor, or what a file's header says of it."""

    @property
    def shape(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class Clues:
    """What a family is recognised by.

    Attributes:
        shapes: of the tensors, by name.
        said: what stands beside them, by where it stands: a folder's "config.json", a file's "hyper_parameters", ...
        size: of the map of latents, where the user chose it.
        shaped: the tensors, in the order of the file.
    """

    shapes: Shapes
    said: Mapping[str, object] = field(default_factory=dict)
    size: Shape | None = None
    shaped: Mapping[str, Shaped] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        tensors: Mapping[str, Shaped],
        said: Mapping[str, object] | None = None,
        size: Shape | None = None,
    ) -> Clues:
        """Return the clues that tensors are; only names and shapes are looked at."""
        shapes = {k: tuple(t.shape) for k, t in tensors.items() if not k.endswith(COUNTERS)}
        return cls(shapes, said or {}, size, tensors)

    def table(self, name: str) -> Mapping[str, object]:
        """Return what is said in one place; empty where nothing is."""
        found = self.said.get(name)
        return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True)
class Recognised:
    """A network that a family's file holds.

    Attributes:
        blueprint: the network.
        scope: names, or beginnings of names that end in a dot: every tensor there must have a place in the decoder.
        encoder_scope: likewise for the encoder, which is left out where one has not.
        assumed: what tensors do not tell, in words.
        recipe: what the loss says of beta.
        warnings: what a user of this file should know before believing numbers.
        log_dispersion: name of the tensor of log inverse dispersions of a negative binomial, where there is one.
        dispersion_of: the condition at whose class a table of dispersions, a column a class, is taken.
        total: name of the condition that is a data row's total, and multiplies the output of means.
        pseudo_inputs: name of the linear layer of a VampPrior, whose clamped outputs are the pseudo-inputs: the prior is
            the mixture of the posteriors that the encoder gives to them.
    """

    blueprint: Blueprint
    scope: tuple[str, ...] = ()
    encoder_scope: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    recipe: Recipe | None = None
    warnings: tuple[str, ...] = ()
    log_dispersion: str = ""
    dispersion_of: str = ""
    total: str = ""
    pseudo_inputs: str = ""

    def takes(self, name: str) -> bool:
        """Return whether a tensor has a place in the decoder or the encoder."""
        plan = self.blueprint.encoder
        stems = {**_decoder_keys(self.blueprint), **(_encoder_keys(plan) if plan is not None else {})}
        beside = (self.log_dispersion, *(f"{self.pseudo_inputs}.{k}" for k in ("weight", "bias")))
        return name.startswith(tuple(stems)) or name in beside


def for_library(config: Mapping[str, object], own: Mapping[str, Sequence[str]]) -> bool:
    """Return whether a config of diffusers asks for what the library can build and the layers here cannot.

    Args:
        config: what `config.json` says.
        own: the words that the layers here know, by setting.
    """
    said = config.get("_class_name")
    asked = ((config[key], words) for key, words in own.items() if key in config)
    return isinstance(said, str) and any(isinstance(v, str) and v not in words for v, words in asked)


@dataclass(frozen=True)
class Family:
    """A family of decoders.

    Attributes:
        name: as `--blueprint NAME` calls it.
        title: what it is, in a few words.
        source: where its code was read.
        recognise: what the clues hold, or None where they are of another family.
    """

    name: str
    title: str
    source: str
    recognise: Callable[[Clues], Recognised | None]

    def match(self, clues: Clues) -> Recognised | None:
        """Return what the clues hold, or None where they are of another family or a tensor would be left over."""
        found = self.recognise(clues)
        if found is None:
            return None
        bp = found.blueprint
        if any(_leftover(clues.shapes, found.scope or (bp.prefix,), _decoder_keys(bp))):
            return None
        plan, beside = bp.encoder, found.encoder_scope
        if plan is not None and beside and any(_leftover(clues.shapes, beside, _encoder_keys(plan))):
            bp = replace(bp, encoder=None)
        bp = replace(bp, name=self.name, origin=f"preset {self.name}")
        return replace(found, blueprint=bp)


# -- which tensors a blueprint has a place for ------------------------------------------------------------


def _keys(layers: Iterable[Layer], prefix: str) -> Iterator[tuple[str, bool]]:
    """Yield the stems of the layers' names, and whether parts with names of their own stand below."""
    for layer in layers:
        inner = prefix + layer.prefix
        yield from _keys(layer.inner, inner)
        if layer.key is not None and KINDS[layer.kind].weighted:
            stem = prefix + layer.key
            yield (stem if not stem or stem.endswith(".") else f"{stem}."), layer.kind == "attention"


def _decoder_keys(bp: Blueprint) -> dict[str, bool]:
    tables = {(k if k.endswith(".") else f"{k}."): False for c in bp.conditions if (k := c.key)}
    return {**dict(_keys(bp.layers, bp.prefix)), **tables}


def _encoder_keys(plan: EncoderPlan) -> dict[str, bool]:
    return dict(_keys((*plan.layers, *plan.mean, *plan.spread), plan.prefix))


def _leftover(shapes: Shapes, scope: tuple[str, ...], keys: Mapping[str, bool]) -> Iterator[str]:
    deep = tuple(stem for stem, below in keys.items() if below)
    for name in shapes:
        if not any(name == s or (name.startswith(s) and (not s or s.endswith("."))) for s in scope):
            continue
        if deep and name.startswith(deep):
            continue
        if not any(name.startswith(stem) and LEAVES.fullmatch(name[len(stem) :]) for stem in keys):
            yield name


# -- words for shapes -----------------------------------------------------------------------------------


def prefixes(shapes: Shapes, name: str) -> Iterator[str]:
    """Yield what may stand before `name`: "", "decoder.", "module.vae.decoder.", ..."""
    for key in shapes:
        if key == name or key.endswith("." + name):
            yield key[: len(key) - len(name)]


def below(shapes: Shapes, prefix: str) -> dict[str, Shape]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {k[len(prefix) :]: v for k, v in shapes.items() if k.startswith(prefix)}


def places(shapes: Shapes, name: str) -> list[int]:
    """Return the places of a module list at which there are weights, in order."""
    return sorted(int(m[1]) for k in shapes if (m := re.fullmatch(rf"{name}\.(\d+)\.weight", k)))


def solve(own: Shapes, layers: Mapping[str, str], **known: int) -> dict[str, int] | None:
    """Return the numbers behind the letters of a fingerprint, None where the tensors are others.

    A fingerprint says of each layer its kind and the shape of its weight in numbers and letters: "linear 256 d",
    "conv 64 3 3 3", "conv_transpose 64 32 4 4", "norm 64" (scale and shift), "batch_norm 64", "tensor 10 d" (a bare
    one); a minus at the end says that there is no bias.  The tensors must be exactly these.

    Args:
        own: shapes by name.
        layers: fingerprint by the layer's name.
        known: letters whose numbers are given.
    """
    letters, names = dict(known), set[str]()
    for layer, text in layers.items():
        kind, *sizes = text.split()
        biased = sizes[-1] != "-"
        sizes = sizes if biased else sizes[:-1]
        out = sizes[1] if kind == "conv_transpose" else sizes[0]
        wanted = {layer: sizes} if kind == "tensor" else {f"{layer}.weight": sizes}
        if biased and kind != "tensor":
            wanted[f"{layer}.bias"] = [out]
        if kind == "batch_norm":
            wanted |= {f"{layer}.running_mean": [out], f"{layer}.running_var": [out]}
        for name, symbols in wanted.items():
            shape = own.get(name)
            if shape is None or len(shape) != len(symbols):
                return None
            for symbol, n in zip(symbols, shape, strict=True):
                if letters.setdefault(symbol, int(symbol) if symbol.isdigit() else n) != n:
                    return None
            names.add(name)
    extra = [k for k in own if k not in names and not k.endswith(COUNTERS)]
    return None if extra else letters


# -- words for layers -----------------------------------------------------------------------------------


def linear(key: str) -> Layer:
    """Return a linear layer."""
    return Layer("linear", key)


def conv(key: str, stride: int = 1, padding: int = 1) -> Layer:
    """Return a convolution, 3 x 3 without change of size by default."""
    return Layer("conv", key).with_options(stride=stride, padding=padding)


def conv_transpose(key: str, stride: int = 2, padding: int = 1, output_padding: int = 0) -> Layer:
    """Return a transposed convolution, a doubling by 4 x 4 kernels by default."""
    layer = Layer("conv_transpose", key)
    return layer.with_options(stride=stride, padding=padding, output_padding=output_padding)


def batch_norm(key: str, eps: float = 1e-5) -> Layer:
    """Return a batch normalisation."""
    return Layer("batch_norm", key).with_options(eps=eps)


def reshape(*shape: int) -> Layer:
    """Return what makes a map of a row."""
    return Layer("reshape", options={"shape": list(shape)})


def leaky_relu(slope: float) -> Layer:
    """Return a leaky relu."""
    return Layer("leaky_relu").with_options(slope=slope)


def doubling() -> Layer:
    """Return a nearest-neighbour doubling of the map."""
    return Layer("upsample", options={"factor": 2})


RELU, SILU, SIGMOID, TANH, FLATTEN = map(Layer, ("relu", "silu", "sigmoid", "tanh", "flatten"))


def normal(d: int) -> LatentGroups:
    """Return d latents of N(0, 1)."""
    return (("normal", d),)
