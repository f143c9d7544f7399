"""Blueprints: the architecture of a decoder (and its encoder) as data.

A state dict records weights and their shapes, and nothing else: no activation, stride, padding or
reshape.  A blueprint is the small TOML file that says the rest.  It runs no code, so it is safe to accept
from strangers and the form to use in CI.  Sizes are never written where a tensor tells them.

A decoder of linear layers, with nothing left out:

```toml
latents = 20                     # d; may be left out where the first layer tells it
likelihood = "bernoulli"         # gaussian, bernoulli, poisson or categorical; leave out where it is not known
parameter = "mean"               # what the output is: "mean" (the default), or "natural" for logits, log-rates

[decoder]
layers = [
    { linear = "fc3" }, "relu",  # uses the tensors `fc3.weight` and `fc3.bias`
    { linear = "fc4" }, "sigmoid",
]
```

A convolutional VAE with its encoder; the last encoder layer gives 20 numbers, (mean, log variance) of latent 1,
then of latent 2, ...:

```toml
latents = 10
likelihood = "bernoulli"

[decoder]
prefix = "decoder."              # put before every name
layers = [
    { linear = "lin1" }, "relu",
    { linear = "lin2" }, "relu",
    { reshape = [32, 4, 4] },
    { conv_transpose = "convT1", stride = 2, padding = 1 }, "relu",
    { conv_transpose = "convT2", stride = 2, padding = 1 }, "sigmoid",
]

[encoder]
prefix = "encoder."
input = [1, 16, 16]
layers = [
    { conv = "conv1", stride = 2, padding = 1 }, "relu",
    { conv = "conv2", stride = 2, padding = 1 }, "relu",
    "flatten",
    { linear = "mu_logvar" },
]
output = "interleaved"           # or "chunked": all means, then all log variances
```

One with batch normalisation, residual blocks, two encoder heads, and a prior of ten normal latents followed by a one-hot code
of four classes:

```toml
latents = [{ normal = 10 }, { onehot = 4 }]

[decoder]
layers = [
    { linear = "dec.0" }, { reshape = [32, 7, 7] },
    { batch_norm = "dec.1" }, { leaky_relu = 0.2 },
    { residual = [{ conv = "0", padding = 1 }, "relu", { conv = "2", padding = 1 }], prefix = "dec.3.block." },
    { upsample = 2, mode = "nearest" },
    { residual = [{ conv = "a", padding = 1 }], skip = [{ conv = "b" }], prefix = "dec.4." }, "silu",
    { conv = "dec.5", padding = 1 }, "tanh",
]

[encoder]
input = [784]
layers = [{ linear = "enc.0" }, "relu"]
mean = [{ linear = "enc.mean" }]
log_variance = [{ linear = "enc.log_variance" }]     # or log_sd, variance, sd
```

Layers with weights, named by the common part of their tensors' names: `linear`, `conv`, `conv_transpose` (1, 2 or 3
dimensions, as the weight has), `batch_norm`, `instance_norm`, `group_norm`, `layer_norm`, `prelu`.  Weight and spectral
normalisation are folded in.  Without weights: `relu`, `leaky_relu`, `elu`, `celu`, `selu`, `gelu`, `silu`, `mish`, `tanh`, `sigmoid`,
`softplus`, `exp`, `sine`, `softmax`, `hardtanh`, `identity`, `reshape`, `flatten`, `upsample`, `pixel_shuffle`, `avg_pool`, `max_pool`,
`scale`, `shift`, `clamp`, `slice`, `dropout` (which does nothing once training is over).  `residual` adds its input, or
what `skip` makes of it, to what its layers return.

A blueprint without layers says what a self-contained program (`.pt2`, TorchScript) does not: latents, likelihood, parameter.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from vaeprobe.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from vaeprobe.checkpoints.layers import Parts

__all__ = ["Blueprint", "BlueprintError", "EncoderPlan", "Layer", "Latents", "METADATA_KEY", "assemble"]

METADATA_KEY = "vaeprobe.blueprint"
LARGEST = 1 << 20  # characters of TOML: a blueprint of a thousand layers has a tenth of this
LIKELIHOODS = ("gaussian", "bernoulli", "poisson", "categorical")
SECOND_OUTPUTS = ("log_variance", "log_sd", "variance", "sd", "softplus_variance", "softplus_sd")
HEADS = ("log_variance", "log_sd", "variance", "sd")

Latents: TypeAlias = tuple[tuple[Literal["normal", "onehot"], int], ...]


class BlueprintError(UsageError):
    """A blueprint is malformed, or does not fit the tensors (exit code 2)."""

    code = "blueprint"


# -- what a layer may say -------------------------------------------------------------------------

Check: TypeAlias = Callable[[Any], bool]


def _whole(low: int) -> Check:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v < 1 << 31


def _number(v: Any) -> bool:
    return isinstance(v, (int, float)) and not isinstance(v, bool)


def _sizes(low: int) -> Check:
    one = _whole(low)
    return lambda v: one(v) or (isinstance(v, list) and 1 <= len(v) <= 3 and all(map(one, v)))


def _either(*words: str) -> Check:
    return lambda v: v in words


@dataclass(frozen=True)
class Option:
    """A setting of a layer: how to check it, its default (None: it must be given), and what it must be."""

    check: Check
    default: Any
    wants: str


_STRIDE = Option(_sizes(1), 1, "a positive whole number, or one per axis")
_PADDING = Option(lambda v: _sizes(0)(v) or v == "same", 0, 'a whole number, one per axis, or "same"')
_OUTPUT_PADDING = Option(_sizes(0), 0, "a whole number, or one per axis")
_DILATION = Option(_sizes(1), 1, "a positive whole number, or one per axis")
_GROUPS = Option(_whole(1), 1, "a positive whole number")
_EPS = Option(lambda v: _number(v) and v > 0, 1e-5, "a small positive number")
_FILL = Option(
    _either("zeros", "reflect", "replicate", "circular"), "zeros", "zeros, reflect, replicate or circular"
)
_SHAPE = Option(
    lambda v: isinstance(v, list) and 1 <= len(v) <= 5 and all(map(_whole(1), v)),
    None,
    "a list of positive whole numbers",
)
_PAIR = Option(
    lambda v: isinstance(v, list) and len(v) == 2 and all(map(_number, v)) and v[0] < v[1],
    None,
    "[low, high]",
)


def _real(default: float | None) -> Option:
    return Option(_number, default, "a number")


@dataclass(frozen=True)
class Kind:
    """A kind of layer.

    Attributes:
        main: what the value beside its name is: "key" (a tensor name), "layers", or one of the options.
        options: further settings.
    """

    main: str | None = None
    options: Mapping[str, Option] = field(default_factory=dict)

    @property
    def weighted(self) -> bool:
        return self.main == "key"

    @property
    def bare(self) -> bool:
        """Whether the name alone will do."""
        return self.main not in ("key", "layers") and all(
            o.default is not None for o in self.options.values()
        )


_CONV = {
    "stride": _STRIDE,
    "padding": _PADDING,
    "dilation": _DILATION,
    "groups": _GROUPS,
    "padding_mode": _FILL,
}
_CONV_TRANSPOSE = {
    "stride": _STRIDE,
    "padding": Option(_sizes(0), 0, "a whole number, or one per axis"),
    "output_padding": _OUTPUT_PADDING,
    "dilation": _DILATION,
    "groups": _GROUPS,
}
_POOL = {
    "kernel": Option(_sizes(1), None, "a positive whole number, or one per axis"),
    "stride": Option(_sizes(0), 0, "a whole number"),
    "padding": _OUTPUT_PADDING,
}

KINDS: Mapping[str, Kind] = {
    "linear": Kind("key"),
    "conv": Kind("key", _CONV),
    "conv_transpose": Kind("key", _CONV_TRANSPOSE),
    "batch_norm": Kind("key", {"eps": _EPS}),
    "instance_norm": Kind("key", {"eps": _EPS}),
    "group_norm": Kind("key", {"groups": Option(_whole(1), None, "a positive whole number"), "eps": _EPS}),
    "layer_norm": Kind("key", {"eps": _EPS}),
    "prelu": Kind("key"),
    "residual": Kind("layers"),
    "relu": Kind(),
    "leaky_relu": Kind("slope", {"slope": _real(0.01)}),
    "elu": Kind("alpha", {"alpha": _real(1.0)}),
    "celu": Kind("alpha", {"alpha": _real(1.0)}),
    "selu": Kind(),
    "gelu": Kind("approximate", {"approximate": Option(_either("none", "tanh"), "none", '"none" or "tanh"')}),
    "silu": Kind(),
    "mish": Kind(),
    "tanh": Kind(),
    "sigmoid": Kind(),
    "softplus": Kind("beta", {"beta": Option(lambda v: _number(v) and v > 0, 1.0, "a positive number")}),
    "exp": Kind(),
    "sine": Kind("frequency", {"frequency": _real(1.0)}),
    "softmax": Kind(),
    "hardtanh": Kind(),
    "identity": Kind(),
    "reshape": Kind("shape", {"shape": _SHAPE}),
    "flatten": Kind(),
    "upsample": Kind(
        "factor",
        {
            "factor": Option(_sizes(1), None, "a positive whole number, or one per axis"),
            "mode": Option(_either("nearest", "bilinear", "linear", "bicubic", "trilinear"), "nearest", "nearest, bilinear, ..."),
            "align_corners": Option(lambda v: isinstance(v, bool), False, "true or false"),
        },
    ),
    "pixel_shuffle": Kind("factor", {"factor": Option(_whole(1), None, "a positive whole number")}),
    "avg_pool": Kind("kernel", _POOL),
    "max_pool": Kind("kernel", _POOL),
    "scale": Kind("factor", {"factor": _real(None)}),
    "shift": Kind("amount", {"amount": _real(None)}),
    "clamp": Kind("range", {"range": _PAIR}),
    "slice": Kind("range", {"range": Option(lambda v: _PAIR.check(v) and all(map(_whole(0), v)), None, "[first, one past the last]")}),
    "dropout": Kind("rate", {"rate": Option(lambda v: _number(v) and 0 <= v <= 1, 0.5, "a number in [0, 1]")}),
}  # fmt: skip

ALIASES = {"swish": "silu", "lrelu": "leaky_relu", "leakyrelu": "leaky_relu", "view": "reshape", "unflatten": "reshape", "convT": "conv_transpose",
           "conv2d": "conv", "conv1d": "conv", "conv_transpose2d": "conv_transpose", "conv_transpose1d": "conv_transpose",
           "batchnorm": "batch_norm", "groupnorm": "group_norm", "layernorm": "layer_norm", "logits": "identity", "sin": "sine"}  # fmt: skip


# -- the data -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        kind: a key of `KINDS`.
        key: common part of its tensors' names, without the prefix; None for layers without weights.
        options: settings that differ from the defaults.
        body, skip: layers of a residual block.
        prefix: put before every name inside a residual block.
        comment: written beside it in TOML; not part of its meaning.
    """

    kind: str
    key: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    body: tuple[Layer, ...] = ()
    skip: tuple[Layer, ...] = ()
    prefix: str = ""
    comment: str = field(default="", compare=False)

    def __getitem__(self, option: str) -> Any:
        """Return a setting, or its default."""
        return self.options.get(option, KINDS[self.kind].options[option].default)

    def with_options(self, **changes: Any) -> Layer:
        """Return the layer with other settings."""
        merged = {**self.options, **changes}
        known = KINDS[self.kind].options
        return replace(
            self, options={k: merged[k] for k in known if merged.get(k, known[k].default) != known[k].default}
        )

    def to_toml(self) -> str:
        """Return the layer as one TOML value, without its comment."""
        kind = KINDS[self.kind]
        main = self.key if kind.weighted else self.options.get(kind.main or "")
        parts = [f"{self.kind} = {_layers_inline(self.body) if kind.main == 'layers' else _value(main)}"]
        parts += [f"{name} = {_value(v)}" for name, v in self.options.items() if name != kind.main]
        if self.skip:
            parts.append(f"skip = {_layers_inline(self.skip)}")
        if self.prefix:
            parts.append(f"prefix = {_value(self.prefix)}")
        if main is None and not self.body:
            return (
                _value(self.kind)
                if len(parts) == 1
                else f"{{ {', '.join([f'{self.kind} = true', *parts[1:]])} }}"
            )
        return f"{{ {', '.join(parts)} }}"

    def __str__(self) -> str:
        return self.to_toml()


@dataclass(frozen=True)
class EncoderPlan:
    """The encoder: a trunk, and how the posterior's mean and variance come out of it.

    Attributes:
        layers: the trunk.
        input: shape of one data row.
        output: "interleaved" or "chunked" where the trunk gives both, "heads" where `mean` and `spread` do.
        second: what the second output is: log_variance, log_sd, variance, sd, softplus_variance, softplus_sd.
        mean, spread: the heads.
        prefix: put before every tensor name.
    """

    layers: tuple[Layer, ...]
    input: tuple[int, ...]
    output: Literal["interleaved", "chunked", "heads"] = "chunked"
    second: str = "log_variance"
    mean: tuple[Layer, ...] = ()
    spread: tuple[Layer, ...] = ()
    prefix: str = ""


@dataclass(frozen=True)
class Blueprint:
    """The architecture of a decoder.

    Attributes:
        layers: the decoder's; empty for a self-contained program.
        latents: groups of latents in order; empty where the first layer tells their number.
        likelihood: gaussian, bernoulli, poisson, categorical, or None where it is not known.
        parameter: whether the output is the likelihood's mean or its natural parameter.
        prefix: put before every tensor name of the decoder.
        encoder: the encoder, where it is described.
        name: what to call it: a preset's name.
        assumptions: what a draft had to guess, in words; reported until somebody takes them out.
        origin: where it came from: a file, "preset burgess", "draft"; not part of its meaning.
    """

    layers: tuple[Layer, ...] = ()
    latents: Latents = ()
    likelihood: str | None = None
    parameter: Literal["mean", "natural"] = "mean"
    prefix: str = ""
    encoder: EncoderPlan | None = None
    name: str = ""
    assumptions: tuple[str, ...] = ()
    origin: str = field(default="blueprint", compare=False)

    @property
    def latent_dim(self) -> int | None:
        """Number of latents, where the blueprint says it."""
        return sum(size for _, size in self.latents) or None

    # -- reading ---------------------------------------------------------------------------------

    @classmethod
    def from_toml(cls, text: str, origin: str = "blueprint") -> Blueprint:
        """Return the blueprint that a TOML text describes.

        Raises:
            BlueprintError: the text is no TOML, or says something a blueprint cannot say.
        """
        if len(text) > LARGEST:
            raise BlueprintError(f"`{origin}` has {len(text):,} characters: too long for a blueprint")
        try:
            table = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
            raise BlueprintError(
                f"`{origin}` is no TOML: {str(error).splitlines()[0][:200]}",
                hint='for example: latents = 20, and below [decoder]: layers = [{ linear = "fc3" }, "relu", { linear = "fc4" }, "sigmoid"]',
            ) from None
        try:
            return _Reader(origin).blueprint(table)
        except RecursionError:
            raise BlueprintError(f"`{origin}` nests its layers too deeply") from None

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
            lines.append(f"name = {_value(self.name)}")
        if len(self.latents) == 1 and self.latents[0][0] == "normal":
            lines.append(f"latents = {self.latents[0][1]}")
        elif self.latents:
            lines.append(f"latents = [{', '.join(f'{{ {kind} = {size} }}' for kind, size in self.latents)}]")
        if self.likelihood:
            lines.append(f"likelihood = {_value(self.likelihood)}")
        if self.parameter != "mean":
            lines.append(f"parameter = {_value(self.parameter)}")
        if self.assumptions:
            lines.append("# what was guessed: check each line, mend the layers below, and delete it here")
            lines.append("assumptions = [")
            lines += [f"    {_value(a)}," for a in self.assumptions]
            lines.append("]")
        if self.layers:
            lines += ["", "[decoder]"]
            if self.prefix:
                lines.append(f"prefix = {_value(self.prefix)}")
            lines += _layers_block("layers", self.layers)
        if self.encoder:
            e = self.encoder
            lines += ["", "[encoder]"]
            if e.prefix:
                lines.append(f"prefix = {_value(e.prefix)}")
            lines.append(f"input = {_value(list(e.input))}")
            lines += _layers_block("layers", e.layers)
            if e.output == "heads":
                lines += _layers_block("mean", e.mean)
                lines += _layers_block(e.second, e.spread)
            else:
                lines.append(f"output = {_value(e.output)}")
                if e.second != "log_variance":
                    lines.append(f"second = {_value(e.second)}")
        return "\n".join(lines) + "\n"


def assemble(bp: Blueprint, tensors: Mapping[str, Tensor]) -> Parts:
    """Return the network that a blueprint and tensors make; see `vaeprobe.checkpoints.layers.assemble`."""
    from vaeprobe.checkpoints import layers  # torch comes with it, and `inspect` reads blueprints without

    return layers.assemble(bp, tensors)


# -- TOML in --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reader:
    """Turns a parsed TOML table into a blueprint, and says where it is wrong."""

    origin: str

    def fail(self, message: str, hint: str | None = None) -> BlueprintError:
        return BlueprintError(f"`{self.origin}`: {message}", hint=hint)

    def known(self, table: Mapping[str, Any], keys: Sequence[str], place: str) -> None:
        for key in table:
            if key not in keys:
                raise self.fail(
                    f"{place} has no setting `{key}`",
                    did_you_mean(key, keys)
                    or (f"known settings: {', '.join(f'`{k}`' for k in keys)}" if keys else "it takes none"),
                )

    def text(
        self, table: Mapping[str, Any], key: str, default: str, place: str, words: Sequence[str] = ()
    ) -> str:
        value = table.get(key, default)
        if not isinstance(value, str):
            raise self.fail(f"`{key}` of {place} must be a text, not {_value(value)}")
        if words and value not in words and value != default:
            raise self.fail(
                f"`{key}` of {place} cannot be `{value}`",
                did_you_mean(value, words) or f"one of {', '.join(words)}",
            )
        return value

    def blueprint(self, table: Mapping[str, Any]) -> Blueprint:
        place = "the blueprint"
        self.known(
            table, ("name", "latents", "likelihood", "parameter", "assumptions", "decoder", "encoder"), place
        )
        decoder = self.table(table, "decoder")
        self.known(decoder, ("prefix", "layers"), "[decoder]")
        assumptions = table.get("assumptions", [])
        if not isinstance(assumptions, list) or not all(isinstance(a, str) for a in assumptions):
            raise self.fail("`assumptions` must be a list of texts")
        if "decoder" in table and not decoder.get("layers"):
            raise self.fail(
                "[decoder] has no `layers`", 'write them as layers = [{ linear = "fc1" }, "relu", ...]'
            )
        return Blueprint(
            layers=self.layers(decoder.get("layers", []), "the decoder"),
            latents=self.latents(table.get("latents")),
            likelihood=self.text(table, "likelihood", "", place, LIKELIHOODS) or None,
            parameter=cast(
                Literal["mean", "natural"], self.text(table, "parameter", "mean", place, ("mean", "natural"))
            ),
            prefix=self.text(decoder, "prefix", "", "[decoder]"),
            encoder=self.encoder(self.table(table, "encoder")) if "encoder" in table else None,
            name=self.text(table, "name", "", place),
            assumptions=tuple(assumptions),
            origin=self.origin,
        )

    def table(self, table: Mapping[str, Any], key: str) -> dict[str, Any]:
        value = table.get(key, {})
        if not isinstance(value, dict):
            raise self.fail(f"`{key}` must be a table", f"write [{key}] on a line of its own")
        return value

    def latents(self, value: Any) -> Latents:
        hint = "write latents = 10, or latents = [{ normal = 10 }, { onehot = 4 }]"
        if value is None:
            return ()
        if _whole(1)(value):
            return (("normal", value),)
        if not isinstance(value, list) or not value:
            raise self.fail(f"`latents` cannot be {_value(value)}", hint)
        groups = []
        for group in value:
            if not isinstance(group, dict) or len(group) != 1:
                raise self.fail(f"`latents` cannot hold {_value(group)}", hint)
            ((kind, size),) = group.items()
            if kind not in ("normal", "onehot") or not _whole(1)(size):
                raise self.fail(
                    f"`latents` cannot hold {_value(group)}", did_you_mean(kind, ("normal", "onehot")) or hint
                )
            groups.append((kind, size))
        return tuple(groups)

    def encoder(self, table: Mapping[str, Any]) -> EncoderPlan:
        place = "[encoder]"
        self.known(table, ("prefix", "input", "layers", "output", "second", "mean", *HEADS), place)
        shape = table.get("input")
        if _whole(1)(shape):
            shape = [shape]
        if not _SHAPE.check(shape):
            raise self.fail(
                "[encoder] needs `input`, the shape of one data row", "for example input = [1, 28, 28]"
            )
        heads = [h for h in HEADS if h in table]
        if ("mean" in table) != bool(heads) or len(heads) > 1:
            raise self.fail(
                "two heads are `mean` and one of log_variance, log_sd, variance, sd",
                'or leave them out and say output = "chunked" or "interleaved"',
            )
        if heads and ("output" in table or "second" in table):
            raise self.fail(
                "[encoder] has heads, so `output` and `second` have nothing to say", "take them out"
            )
        if not heads and "output" not in table:
            raise self.fail(
                "[encoder] does not say where the mean and the log variance are",
                'output = "chunked", output = "interleaved", or heads: mean = [...] and log_variance = [...]',
            )
        output = "heads" if heads else self.text(table, "output", "", place, ("interleaved", "chunked"))
        return EncoderPlan(
            layers=self.layers(table.get("layers", []), "the encoder"),
            input=tuple(cast(list[int], shape)),
            output=cast(Literal["interleaved", "chunked", "heads"], output),
            second=heads[0] if heads else self.text(table, "second", "log_variance", place, SECOND_OUTPUTS),
            mean=self.layers(table.get("mean", []), "the encoder's mean"),
            spread=self.layers(table[heads[0]], f"the encoder's {heads[0]}") if heads else (),
            prefix=self.text(table, "prefix", "", place),
        )

    def layers(self, value: Any, place: str) -> tuple[Layer, ...]:
        if not isinstance(value, list):
            raise self.fail(
                f"the layers of {place} must be a list", 'for example [{ linear = "fc1" }, "relu"]'
            )
        return tuple(self.layer(item, f"layer {i} of {place}") for i, item in enumerate(value, start=1))

    def layer(self, item: Any, place: str) -> Layer:
        if isinstance(item, str):
            name = self.kind([item], place)
            if not KINDS[name].bare:
                wants = {"key": '"NAME"', "layers": "[...]"}.get(KINDS[name].main or "", "...")
                raise self.fail(f"{place}: `{name}` alone says too little", f"write {{ {name} = {wants} }}")
            return Layer(name)
        if not isinstance(item, dict) or not item:
            raise self.fail(f"{place} cannot be {_value(item)}", 'a layer is "relu" or { linear = "NAME" }')
        given = {ALIASES.get(k, k): v for k, v in cast(dict[str, Any], item).items()}
        name = self.kind(list(item), place)
        kind = KINDS[name]
        main = given.pop(name)
        own = kind.main or ""
        nested = ("skip", "prefix") if kind.main == "layers" else ()
        self.known(given, (*(o for o in kind.options if o != kind.main), *nested), f"{place} (`{name}`)")
        if kind.weighted:
            if not isinstance(main, str):
                raise self.fail(f"{place}: `{name}` takes the name of its tensors, not {_value(main)}")
            return Layer(name, key=main, options=self.options(kind, given, place))
        if kind.main == "layers":
            return Layer(
                name,
                body=self.layers(main, place),
                skip=self.layers(given.get("skip", []), f"the skip of {place}"),
                prefix=self.text(given, "prefix", "", place),
            )
        if own and not (main is True and kind.options[own].default is not None):
            given = {own: main, **given}
        elif main is not True:
            raise self.fail(f"{place}: `{name}` takes no value", f'write "{name}"')
        return Layer(name, options=self.options(kind, given, place))

    def kind(self, words: Sequence[str], place: str) -> str:
        words = [ALIASES.get(w, w) for w in words]
        found = [w for w in words if w in KINDS]
        if len(found) != 1:
            what = " and ".join(f"`{w}`" for w in found) if found else f"`{words[0]}`"
            message = f"{place} is {what} at once" if found else f"{place}: no layer is called {what}"
            raise self.fail(
                message,
                None if found else did_you_mean(words[0], KINDS) or f"known layers: {', '.join(KINDS)}",
            )
        return found[0]

    def options(self, kind: Kind, given: Mapping[str, Any], place: str) -> dict[str, Any]:
        for name, value in given.items():
            if not kind.options[name].check(value):
                raise self.fail(f"{place}: `{name}` must be {kind.options[name].wants}, not {_value(value)}")
        for name, option in kind.options.items():
            if option.default is None and name not in given:
                raise self.fail(f"{place} needs `{name}`, {option.wants}")
        return {
            k: given[k]
            for k, option in kind.options.items()
            if given.get(k, option.default) != option.default
        }


# -- TOML out -------------------------------------------------------------------------------------


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{k} = {_value(v)}' for k, v in value.items())} }}"
    return repr(value)


def _layers_inline(layers: Sequence[Layer]) -> str:
    return f"[{', '.join(layer.to_toml() for layer in layers)}]"


def _layers_block(name: str, layers: Sequence[Layer]) -> Iterator[str]:
    """Yield the lines of a list of layers: an activation stands beside the layer it follows."""
    yield f"{name} = ["
    line, comments = "", list[str]()
    for layer in layers:
        follows = (
            layer.key is None and not layer.body and layer.kind not in ("reshape", "flatten", "upsample")
        )
        if line and not (follows and len(line) < 90):
            yield _commented(line, comments)
            line, comments = "", []
        line = f"{line} {layer.to_toml()}," if line else f"    {layer.to_toml()},"
        if layer.comment:
            comments.append(layer.comment)
    if line:
        yield _commented(line, comments)
    yield "]"


def _commented(line: str, comments: Sequence[str]) -> str:
    return f"{line}  # {'; '.join(comments)}" if comments else line
