"""From a blueprint and tensors to a network of `torch.nn` modules, and back.

`assemble` makes each layer of the file's own tensors, without copying them, and passes a batch of no rows
through it: that checks every shape, and explains a wrong blueprint, before anything is computed.  `describe` goes the other way.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from vaeprobe.checkpoints.blueprint import KINDS, Blueprint, BlueprintError, EncoderPlan, Latents, Layer
from vaeprobe.decoder import Encoder, Group
from vaeprobe.errors import ArchitectureError, ResourceError, did_you_mean
from vaeprobe.report import Finding

__all__ = ["GaussianEncoder", "Parts", "Residual", "Uninitialised", "assemble", "describe"]

Shape = tuple[int, ...]
LARGEST_ROW = 1 << 28  # numbers in one row of an activation: 1 GB in float32


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a checkpoint gives to a `vaeprobe.Decoder`.

    Attributes:
        decoder: maps (n, latent_dim) to (n, ...), last activation included.
        natural: the same without its last activation, where that makes it the natural parameter.
        latent_dim: number of latents d.
        prior: groups of latents in order.
        parameter: "mean" or "natural".
        likelihood: its name, where it is known.
        encoder: the encoder, where there is one.
        architecture: how the network was known, in words.
        notes: what the reader should know: unused tensors, weights cast up, assumptions of a draft.
        blueprint: the blueprint, where there was one.
    """

    decoder: Callable[[Tensor], Any]
    natural: Callable[[Tensor], Any] | None = None
    latent_dim: int
    prior: tuple[Group, ...] = ()
    parameter: Literal["mean", "natural"] = "mean"
    likelihood: str | None = None
    encoder: Encoder | None = None
    architecture: str = ""
    notes: tuple[Finding, ...] = ()
    blueprint: Blueprint | None = None


# -- modules that torch.nn does not have ------------------------------------------------------------


class Residual(nn.Module):
    """x -> skip(x) + body(x)."""

    def __init__(self, body: nn.Module, skip: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.skip(x) + self.body(x)
        return out


class Exp(nn.Module):
    """x -> e^x."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


class Sine(nn.Module):
    """x -> sin(frequency x)."""

    def __init__(self, frequency: float) -> None:
        super().__init__()
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * x)


class Affine(nn.Module):
    """x -> factor x + amount."""

    def __init__(self, factor: float = 1.0, amount: float = 0.0) -> None:
        super().__init__()
        self.factor = factor
        self.amount = amount

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x + self.amount


class Clamp(nn.Module):
    """x -> min(max(x, low), high)."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low = low
        self.high = high

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)


class Slice(nn.Module):
    """x -> x[:, first:stop]."""

    def __init__(self, first: int, stop: int) -> None:
        super().__init__()
        self.first = first
        self.stop = stop

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.first : self.stop]


class GaussianEncoder(nn.Module):
    """x -> (mean, log variance) of a diagonal Gaussian posterior, each (n, latent).

    Args:
        trunk: what comes before the two.
        output: "interleaved" or "chunked" where the trunk gives 2d numbers, "heads".
        second: what the second output is (`EncoderPlan.second`).
        mean, spread: the heads.
    """

    def __init__(
        self,
        trunk: nn.Module,
        output: Literal["interleaved", "chunked", "heads"],
        second: str,
        mean: nn.Module,
        spread: nn.Module,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.output: Literal["interleaved", "chunked", "heads"] = output
        self.second = second
        self.mean = mean
        self.spread = spread

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        if self.output == "heads":
            mean, second = self.mean(h).flatten(1), self.spread(h).flatten(1)
        elif self.output == "interleaved":
            mean, second = h.flatten(1).unflatten(1, (-1, 2)).unbind(2)
        else:
            mean, second = h.flatten(1).chunk(2, dim=1)
        if self.second.startswith("softplus"):
            second = F.softplus(second)
        match self.second.removeprefix("softplus_"):
            case "log_sd":
                second = 2 * second
            case "variance":
                second = second.log()
            case "sd":
                second = 2 * second.log()
        return mean, second


# -- tensors by name --------------------------------------------------------------------------------


@dataclass
class Weights:
    """The tensors of a file, and which of them were used."""

    tensors: Mapping[str, Tensor]
    origin: str
    used: set[str] = field(default_factory=set)

    @cached_property
    def dtype(self) -> torch.dtype:
        """What to compute in: half precision is cast up, and the widest type of the file wins."""
        return (
            torch.float64 if any(t.dtype == torch.float64 for t in self.tensors.values()) else torch.float32
        )

    def get(self, name: str) -> Tensor | None:
        tensor = self.tensors.get(name)
        if tensor is None:
            return None
        self.used.add(name)
        if not tensor.is_floating_point():
            raise ArchitectureError(
                f"tensor `{name}` is {str(tensor.dtype).removeprefix('torch.')}, and weights must be real numbers",
                hint="quantised and complex weights are not supported: save the model in float32",
            )
        return tensor

    def need(self, name: str) -> Tensor:
        tensor = self.get(name)
        if tensor is None:
            tail = name.rpartition(".")[0].rpartition(".")[2]
            others = sorted(self.tensors, key=lambda k: tail not in k)
            raise BlueprintError(
                f"`{self.origin}` asks for the tensor `{name}`, which the file does not hold",
                hint=did_you_mean(name, others)
                or f"it holds {len(others)} tensors: {', '.join(f'`{k}`' for k in others[:4])}{', ...' if len(others) > 4 else ''}",
            )
        return tensor

    def weight(self, key: str, *, outputs: int = 0) -> Tensor:
        """Return `key.weight`, folding in weight or spectral normalisation; `outputs` is the axis of the outputs."""
        v, g = self.get(f"{key}weight_v"), self.get(f"{key}weight_g")
        if v is None:
            g, v = (
                self.get(f"{key}parametrizations.weight.original0"),
                self.get(f"{key}parametrizations.weight.original1"),
            )
        if v is not None and g is not None:
            lone = next((i for i, n in enumerate(g.shape) if n > 1), 0)  # the axis that keeps its own length
            return torch._weight_norm(v, g, lone)
        raw, left, right = (self.get(f"{key}weight_{part}") for part in ("orig", "u", "v"))
        if raw is None:
            raw, left, right = (
                self.get(f"{key}parametrizations.weight.{part}") for part in ("original", "0._u", "0._v")
            )
        if raw is not None and left is not None and right is not None:
            return raw / (left @ (raw.transpose(0, outputs).flatten(1) @ right))
        return self.need(f"{key}weight")

    def put(self, module: nn.Module, **tensors: Tensor | None) -> nn.Module:
        """Give a module without memory its tensors, as they are: nothing is copied but what is cast up."""
        state = {k: t.detach().to(self.dtype) for k, t in tensors.items() if t is not None}
        try:
            module.load_state_dict(state, strict=False, assign=True)
        except RuntimeError:
            shapes = ", ".join(f"{k} {_shown(t.shape)}" for k, t in state.items())
            raise Misfit(f"its tensors do not fit one another: {shapes}") from None
        return module


class Uninitialised(TorchFunctionMode):
    """Makes modules without drawing their initial weights, which would be thrown away."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("uniform_", "normal_", "fill_", "zero_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


# -- one layer --------------------------------------------------------------------------------------


class Misfit(BlueprintError):
    """A layer does not fit its input or its tensors."""

    part: str = ""
    index: int = 0


def _shown(shape: Sequence[int]) -> str:
    return f"({shape[0]},)" if len(shape) == 1 else f"({', '.join(map(str, shape))})"


def _axes(value: int | list[int] | str) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _linear(layer: Layer, key: str, weights: Weights, shape: Shape) -> nn.Module:
    W, b = weights.weight(key), weights.get(f"{key}bias")
    if W.ndim != 2:
        kinds = "conv or conv_transpose" if W.ndim in (3, 4, 5) else "a normalisation"
        raise Misfit(
            f"`{key}weight` has shape {_shown(W.shape)}, and a linear layer's has two axes",
            hint=f"is it {kinds}?",
        )
    if shape[-1] != W.shape[1]:
        raise Misfit(
            f"`{key}weight` of shape {_shown(W.shape)} takes {W.shape[1]} numbers, and its input has shape {_shown(shape)}"
        )
    module = nn.Linear(W.shape[1], W.shape[0], bias=b is not None, device="meta", dtype=W.dtype)
    return weights.put(module, weight=W, bias=b)


def _conv(layer: Layer, key: str, weights: Weights, shape: Shape) -> nn.Module:
    transpose = layer.kind == "conv_transpose"
    W, b = weights.weight(key, outputs=int(transpose)), weights.get(f"{key}bias")
    axes = W.ndim - 2
    if axes not in (1, 2, 3):
        raise Misfit(
            f"`{key}weight` has shape {_shown(W.shape)}, and a convolution's has three to five axes",
            hint="is it a linear layer?" if axes == 0 else None,
        )
    groups = layer["groups"]
    n_in, n_out = (W.shape[0], W.shape[1] * groups) if transpose else (W.shape[1] * groups, W.shape[0])
    if len(shape) != axes + 1 or shape[0] != n_in:
        raise Misfit(
            f"`{key}weight` of shape {_shown(W.shape)} takes {n_in} channels and {axes} more "
            f"{'axis' if axes == 1 else 'axes'}, and its input has shape {_shown(shape)}"
        )
    table: Mapping[tuple[int, bool], Any] = {
        (1, False): nn.Conv1d, (2, False): nn.Conv2d, (3, False): nn.Conv3d,
        (1, True): nn.ConvTranspose1d, (2, True): nn.ConvTranspose2d, (3, True): nn.ConvTranspose3d,
    }  # fmt: skip
    extra = (
        {"output_padding": _axes(layer["output_padding"])}
        if transpose
        else {"padding_mode": layer["padding_mode"]}
    )
    try:
        module = table[axes, transpose](
            n_in, n_out, tuple(W.shape[2:]), stride=_axes(layer["stride"]), padding=_axes(layer["padding"]),
            dilation=_axes(layer["dilation"]), groups=groups, bias=b is not None, device="meta", dtype=W.dtype, **extra,
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        raise Misfit(f"`{key}weight` of shape {_shown(W.shape)}: {error}") from None
    return weights.put(module, weight=W, bias=b)


def _channel_norm(layer: Layer, key: str, weights: Weights, shape: Shape) -> nn.Module:
    """Batch, instance and group normalisation: statistics or scales per channel."""
    W, b = weights.get(f"{key}weight"), weights.get(f"{key}bias")
    tracked = layer.kind == "batch_norm"
    mean = weights.need(f"{key}running_mean") if tracked else weights.get(f"{key}running_mean")
    variance = weights.need(f"{key}running_var") if tracked or mean is not None else None
    known = W if W is not None else mean if mean is not None else weights.need(f"{key}weight")
    if known.ndim != 1 or known.shape[0] != shape[0]:
        raise Misfit(
            f"`{key}weight` of shape {_shown(known.shape)} takes {known.shape[0]} channels, and its input has shape {_shown(shape)}"
        )
    kind: dict[str, Any] = {
        "eps": layer["eps"],
        "affine": W is not None,
        "device": "meta",
        "dtype": known.dtype,
    }
    if layer.kind == "group_norm":
        if shape[0] % layer["groups"]:
            raise Misfit(f"{shape[0]} channels do not make {layer['groups']} groups")
        return weights.put(nn.GroupNorm(layer["groups"], shape[0], **kind), weight=W, bias=b)
    rank = max(len(shape) - 1, 1)
    table: Mapping[tuple[str, int], Any] = {
        ("batch_norm", 1): nn.BatchNorm1d, ("batch_norm", 2): nn.BatchNorm2d, ("batch_norm", 3): nn.BatchNorm3d,
        ("instance_norm", 1): nn.InstanceNorm1d, ("instance_norm", 2): nn.InstanceNorm2d, ("instance_norm", 3): nn.InstanceNorm3d,
    }  # fmt: skip
    module = table[layer.kind, rank](shape[0], track_running_stats=mean is not None, **kind)
    if mean is not None:
        module.num_batches_tracked = (
            None  # counts training steps, says nothing in eval mode, and not every file has it
        )
    return weights.put(module, weight=W, bias=b, running_mean=mean, running_var=variance)


def _layer_norm(layer: Layer, key: str, weights: Weights, shape: Shape) -> nn.Module:
    W, b = weights.need(f"{key}weight"), weights.get(f"{key}bias")
    if tuple(W.shape) != shape[len(shape) - W.ndim :]:
        raise Misfit(f"`{key}weight` has shape {_shown(W.shape)}, and its input has shape {_shown(shape)}")
    module = nn.LayerNorm(tuple(W.shape), eps=layer["eps"], bias=b is not None, device="meta", dtype=W.dtype)
    return weights.put(module, weight=W, bias=b)


def _prelu(layer: Layer, key: str, weights: Weights, shape: Shape) -> nn.Module:
    W = weights.need(f"{key}weight")
    if W.ndim != 1 or W.shape[0] not in (1, shape[0]):
        raise Misfit(f"`{key}weight` has shape {_shown(W.shape)}, and its input has shape {_shown(shape)}")
    return weights.put(nn.PReLU(W.shape[0], device="meta", dtype=W.dtype), weight=W)


def _reshape(layer: Layer, shape: Shape) -> nn.Module:
    wanted = tuple(layer["shape"])
    if math.prod(wanted) != math.prod(shape):
        raise Misfit(
            f"cannot make {_shown(wanted)}, {math.prod(wanted)} numbers, of {_shown(shape)}, {math.prod(shape)}"
        )
    unflatten = nn.Unflatten(1, wanted)
    return unflatten if len(shape) == 1 else nn.Sequential(nn.Flatten(1), unflatten)


def _pool(layer: Layer, shape: Shape) -> nn.Module:
    table: Mapping[tuple[str, int], Any] = {
        ("avg_pool", 1): nn.AvgPool1d, ("avg_pool", 2): nn.AvgPool2d, ("avg_pool", 3): nn.AvgPool3d,
        ("max_pool", 1): nn.MaxPool1d, ("max_pool", 2): nn.MaxPool2d, ("max_pool", 3): nn.MaxPool3d,
    }  # fmt: skip
    if (layer.kind, len(shape) - 1) not in table:
        raise Misfit(f"takes channels and one to three more axes, and its input has shape {_shown(shape)}")
    module: nn.Module = table[layer.kind, len(shape) - 1](
        _axes(layer["kernel"]), stride=_axes(layer["stride"]) or None, padding=_axes(layer["padding"])
    )
    return module


def _upsample(layer: Layer, shape: Shape) -> nn.Module:
    mode = layer["mode"]
    return nn.Upsample(
        scale_factor=tuple(map(float, layer["factor"]))
        if isinstance(layer["factor"], list)
        else float(layer["factor"]),
        mode=mode,
        align_corners=None if mode == "nearest" else layer["align_corners"],
    )


def _sliced(layer: Layer, shape: Shape) -> nn.Module:
    first, stop = layer["range"]
    if stop > shape[0]:
        raise Misfit(f"cannot take [{first}, {stop}) of an input of shape {_shown(shape)}")
    return Slice(first, stop)


WEIGHTED: Mapping[str, Callable[[Layer, str, Weights, Shape], nn.Module]] = {
    "linear": _linear,
    "conv": _conv,
    "conv_transpose": _conv,
    "batch_norm": _channel_norm,
    "instance_norm": _channel_norm,
    "group_norm": _channel_norm,
    "layer_norm": _layer_norm,
    "prelu": _prelu,
}
PLAIN: Mapping[str, Callable[[Layer, Shape], nn.Module]] = {
    "relu": lambda layer, shape: nn.ReLU(),
    "leaky_relu": lambda layer, shape: nn.LeakyReLU(layer["slope"]),
    "elu": lambda layer, shape: nn.ELU(layer["alpha"]),
    "celu": lambda layer, shape: nn.CELU(layer["alpha"]),
    "selu": lambda layer, shape: nn.SELU(),
    "gelu": lambda layer, shape: nn.GELU(layer["approximate"]),
    "silu": lambda layer, shape: nn.SiLU(),
    "mish": lambda layer, shape: nn.Mish(),
    "tanh": lambda layer, shape: nn.Tanh(),
    "sigmoid": lambda layer, shape: nn.Sigmoid(),
    "softplus": lambda layer, shape: nn.Softplus(layer["beta"]),
    "exp": lambda layer, shape: Exp(),
    "sine": lambda layer, shape: Sine(layer["frequency"]),
    "softmax": lambda layer, shape: nn.Softmax(1),
    "hardtanh": lambda layer, shape: nn.Hardtanh(),
    "identity": lambda layer, shape: nn.Identity(),
    "flatten": lambda layer, shape: nn.Flatten(1),
    "pixel_shuffle": lambda layer, shape: nn.PixelShuffle(layer["factor"]),
    "scale": lambda layer, shape: Affine(factor=layer["factor"]),
    "shift": lambda layer, shape: Affine(amount=layer["amount"]),
    "clamp": lambda layer, shape: Clamp(*layer["range"]),
    "dropout": lambda layer, shape: nn.Dropout(layer["rate"]),
    "reshape": _reshape,
    "upsample": _upsample,
    "avg_pool": _pool,
    "max_pool": _pool,
    "slice": _sliced,
}


# -- a chain of layers --------------------------------------------------------------------------------


def _chain(
    layers: Sequence[Layer], prefix: str, weights: Weights, shape: Shape, part: str
) -> tuple[nn.Sequential, Shape]:
    """Return the layers as modules without memory, and the shape that comes out."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for index, layer in enumerate(layers):
        try:
            if layer.kind == "residual":
                module, after = _residual(layer, prefix, weights, shape, part)
            else:
                module = _module(layer, prefix, weights, shape)
                after = _after(module, shape, weights)
        except Misfit as error:
            if not error.part:
                error.part, error.index = part, index
                place = f"layer {index + 1} of the {part}, `{layer}`"
                error = _renamed(error, f"`{weights.origin}`: {place}: {error.message}")
            elif layer.kind == "residual":
                error.index = index
            raise error from None
        name = (layer.key or layer.kind).replace(".", "_")
        modules[name if name not in modules else f"{name}_{index}"] = module
        shape = after
    return nn.Sequential(modules), shape


def _renamed(error: Misfit, message: str) -> Misfit:
    new = Misfit(message, hint=error.hint)
    new.part, new.index = error.part, error.index
    return new


def _module(layer: Layer, prefix: str, weights: Weights, shape: Shape) -> nn.Module:
    if layer.key is None:
        return PLAIN[layer.kind](layer, shape)
    return WEIGHTED[layer.kind](layer, _stem(prefix + layer.key), weights, shape)


def _stem(key: str) -> str:
    """Return what comes before `weight` and `bias`."""
    return key if not key or key.endswith(".") else f"{key}."


def _residual(
    layer: Layer, prefix: str, weights: Weights, shape: Shape, part: str
) -> tuple[nn.Module, Shape]:
    inner = prefix + layer.prefix
    body, after = _chain(layer.body, inner, weights, shape, f"{part}'s residual block")
    skip, beside = _chain(layer.skip, inner, weights, shape, f"{part}'s skip")
    if after != beside:
        raise Misfit(
            f"its layers return shape {_shown(after)}, and {'its skip' if layer.skip else 'its input has'} {_shown(beside)}",
            hint="a stride or padding inside it, or a missing `skip = [{ conv = ... }]`",
        )
    return Residual(body, skip if len(skip) else nn.Identity()), after


def _after(module: nn.Module, shape: Shape, weights: Weights) -> Shape:
    """Return the shape that comes out of a module: it is given no rows, so that nothing is computed."""
    if isinstance(module, (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)):
        return shape  # refuses a batch of no rows
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    try:
        with torch.no_grad():
            after = tuple(module.eval()(torch.empty(0, *shape, dtype=dtype)).shape[1:])
    except (RuntimeError, ValueError, NotImplementedError, IndexError) as error:
        reason = (str(error).strip().splitlines() or ["does not fit"])[0]
        raise Misfit(f"cannot take an input of shape {_shown(shape)}: {reason[:160]}") from None
    if math.prod(after) > LARGEST_ROW:
        raise ResourceError(
            f"`{weights.origin}` asks for an activation of shape {_shown(after)}",
            hint="is a factor or a stride of the blueprint too large?",
        )
    return after


# -- the whole blueprint ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Network:
    decoder: nn.Sequential
    output: Shape
    latents: Latents
    encoder: GaussianEncoder | None


def _walk(bp: Blueprint, weights: Weights) -> _Network:
    latents = bp.latents or _first_latents(bp, weights)
    d = sum(size for _, size in latents)
    decoder, output = _chain(bp.layers, bp.prefix, weights, (d,), "decoder")
    encoder = None
    if bp.encoder is not None:
        free = sum(size for kind, size in latents if kind == "normal")
        encoder = _encoder(bp.encoder, weights, free, bp.origin)
        if math.prod(bp.encoder.input) != math.prod(output):
            error = Misfit(
                f"`{bp.origin}`: the decoder returns shape {_shown(output)}, and the encoder takes {_shown(bp.encoder.input)}"
            )
            error.part, error.index = "decoder", len(bp.layers)
            raise error
    return _Network(decoder, output, latents, encoder)


def _encoder(plan: EncoderPlan, weights: Weights, free: int, origin: str) -> GaussianEncoder:
    trunk, h = _chain(plan.layers, plan.prefix, weights, plan.input, "encoder")
    mean, first = _chain(plan.mean, plan.prefix, weights, h, "encoder's mean")
    spread, second = _chain(plan.spread, plan.prefix, weights, h, f"encoder's {plan.second}")
    sizes = (math.prod(first), math.prod(second)) if plan.output == "heads" else (math.prod(h) / 2,) * 2
    if sizes != (free, free):
        got = (
            f"{sizes[0]} means and {sizes[1]} variances"
            if plan.output == "heads"
            else f"{math.prod(h)} numbers"
        )
        error = Misfit(
            f"`{origin}`: the encoder returns {got}, and {free} normal latents need "
            + (f"{free} of each" if plan.output == "heads" else f"{2 * free}")
        )
        error.part, error.index = "encoder", len(plan.layers)
        raise error
    return GaussianEncoder(trunk, plan.output, plan.second, mean, spread)


def _first_latents(bp: Blueprint, weights: Weights) -> Latents:
    """Return the latents that the first layer takes."""
    for layer in bp.layers:
        if layer.kind == "linear":
            W = weights.weight(_stem(f"{bp.prefix}{layer.key}"))
            if W.ndim == 2:
                return (("normal", W.shape[1]),)
        if layer.kind == "reshape":
            return (("normal", math.prod(layer["shape"])),)
        if layer.kind not in PLAIN or layer.kind in ("flatten", "slice"):
            break
    raise BlueprintError(
        f"`{bp.origin}` does not say how many latents there are", hint="write latents = 10 at its top"
    )


def assemble(bp: Blueprint, tensors: Mapping[str, Tensor]) -> Parts:
    """Return the network that a blueprint and tensors make.

    The tensors are not copied, except that half precision is cast up to float32.

    Args:
        bp: the architecture.
        tensors: by name.

    Raises:
        BlueprintError: a tensor is missing, or a layer does not fit; the hint is the nearest repair found.
        ArchitectureError: a tensor is no weight (quantised, complex).
        ResourceError: an activation would be absurdly large.
    """
    if not bp.layers:
        raise BlueprintError(
            f"`{bp.origin}` has no decoder layers, and this file holds bare weights",
            hint="add [decoder] and its layers",
        )
    weights = Weights(tensors, bp.origin)
    try:
        with Uninitialised():
            network = _walk(bp, weights)
    except Misfit as error:
        if error.hint is None:
            error.hint = repair(bp, tensors, error)
        raise BlueprintError(error.message, hint=error.hint) from None
    for module in filter(None, (network.decoder, network.encoder)):
        module.eval().requires_grad_(False)
    free = sum(size for kind, size in network.latents if kind == "normal")
    return Parts(
        decoder=network.decoder,
        natural=natural_of(network.decoder, bp),
        latent_dim=sum(size for _, size in network.latents),
        prior=tuple(Group(kind, size) for kind, size in network.latents),
        parameter=bp.parameter,
        likelihood=bp.likelihood,
        encoder=Encoder(network.encoder, free, input_shape=bp.encoder.input, dtype=weights.dtype)
        if network.encoder is not None and bp.encoder is not None
        else None,
        architecture=bp.origin,
        notes=tuple(_notes(bp, weights)),
        blueprint=replace(bp, latents=network.latents),
    )


def natural_of(decoder: nn.Sequential, bp: Blueprint) -> nn.Module | None:
    """Return the decoder without its last activation, where that makes its output the natural parameter.

    A sigmoid belongs to a Bernoulli mean, an exponential to a Poisson rate and a softmax to class
    probabilities; a Gaussian's natural parameter is its mean.
    """
    modules = list(decoder)
    shaping = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout)
    last = next((i for i in reversed(range(len(modules))) if not isinstance(modules[i], shaping)), None)
    if bp.parameter != "mean" or last is None:
        return None
    belongs = {nn.Sigmoid: "bernoulli", Exp: "poisson", nn.Softmax: "categorical"}.get(type(modules[last]))
    if belongs is None or bp.likelihood not in (None, belongs):
        return None
    return nn.Sequential(*modules[:last], *modules[last + 1 :])


def layers_unused(bp: Blueprint) -> Iterator[Finding]:
    """Yield what to say of a blueprint that describes layers, given for a program that has its own."""
    if bp.layers or bp.encoder is not None:
        yield Finding(
            code="unused-layers",
            level="note",
            message=f"the program is self-contained: of {bp.origin} only latents, likelihood and parameter are used",
        )


def _notes(bp: Blueprint, weights: Weights) -> Iterator[Finding]:
    unused = [k for k in weights.tensors if k not in weights.used and not k.endswith("num_batches_tracked")]
    if unused:
        families = OrderedDict((k.partition(".")[0] if "." in k else k, None) for k in unused)
        shown = ", ".join(f"`{name}`" for name in list(families)[:5])
        yield Finding(
            code="unused-tensors",
            level="note",
            message=f"{len(unused)} of {len(weights.tensors)} tensors have no place in {bp.origin}: "
            f"{shown}{', ...' if len(families) > 5 else ''}",
        )
    half = {
        str(weights.tensors[k].dtype).removeprefix("torch.")
        for k in weights.used
        if weights.tensors[k].itemsize < 4
    }
    if half:
        yield Finding(
            code="cast-up",
            level="note",
            message=f"{' and '.join(sorted(half))} weights were cast up to float32",
        )
    yield from assumptions_of(bp)


def assumptions_of(bp: Blueprint) -> Iterator[Finding]:
    """Yield what to say of a blueprint that rests on guesses."""
    if bp.assumptions:
        count = len(bp.assumptions)
        yield Finding(
            code="draft-blueprint",
            level="warning",
            message=f"the architecture is a draft that rests on {count} assumption{'s' * (count > 1)}: "
            + "; ".join(bp.assumptions),
            hint="write it with `vaeprobe inspect MODEL --draft-blueprint OUT`, check it, and pass it as --blueprint OUT",
        )


# -- the nearest repair ---------------------------------------------------------------------------------


def repair(bp: Blueprint, tensors: Mapping[str, Tensor], misfit: Misfit) -> str | None:
    """Return the smallest change of a blueprint that makes all its layers fit, in words.

    Where no single change does, the first that gets past the layer that does not fit.
    """
    past = None
    for words, changed in _changes(bp, tensors, misfit):
        try:
            with Uninitialised():
                _walk(changed, Weights(tensors, bp.origin))
        except Misfit as other:
            if past is None and other.part == misfit.part and other.index > misfit.index + ("put" in words):
                past = words
        except (BlueprintError, ArchitectureError, ResourceError):
            continue
        else:
            return words
    return past


def _changes(bp: Blueprint, tensors: Mapping[str, Tensor], misfit: Misfit) -> Iterator[tuple[str, Blueprint]]:
    """Yield changed blueprints, the likeliest first."""
    in_encoder = misfit.part.startswith("encoder")
    plan = bp.encoder
    layers = plan.layers if in_encoder and plan else bp.layers
    prefix = plan.prefix if in_encoder and plan else bp.prefix
    at = misfit.index if misfit.part in ("decoder", "encoder") else len(layers)

    def rebuilt(new: Sequence[Layer]) -> Blueprint:
        if in_encoder and plan:
            return replace(bp, encoder=replace(plan, layers=tuple(new)))
        return replace(bp, layers=tuple(new))

    def weight(layer: Layer) -> Tensor | None:
        return tensors.get(f"{_stem(prefix + layer.key)}weight") if layer.key is not None else None

    if at < len(layers):
        layer, W = layers[at], weight(layers[at])
        if not in_encoder and W is not None and not any(earlier.key for earlier in layers[:at]):
            n = W.shape[1] if layer.kind == "linear" else W.shape[0]
            yield f"write latents = {n}, not {bp.latent_dim}", replace(bp, latents=(("normal", int(n)),))
        yield 'put "flatten" before it', rebuilt([*layers[:at], Layer("flatten"), *layers[at:]])
        if W is not None and W.ndim > 2:
            channels = int(W.shape[0] if layer.kind == "conv_transpose" else W.shape[1])
            for side in (4, 1, 2, 3, 5, 6, 7, 8, 12, 14, 16, 28, 32):
                shape = [channels, *([side] * (W.ndim - 2))]
                new = Layer("reshape", options={"shape": shape})
                yield f"put {new} before it", rebuilt([*layers[:at], new, *layers[at:]])
        if layer.kind in ("reshape", "flatten"):
            yield f"take layer {at + 1}, `{layer}`, out", rebuilt([*layers[:at], *layers[at + 1 :]])
    else:
        yield 'put "flatten" at its end', rebuilt([*layers, Layer("flatten")])
    if in_encoder and plan:
        weights = Weights(tensors, bp.origin)
        d = sum(size for _, size in bp.latents or _first_latents(bp, weights))
        _, returned = _chain(bp.layers, bp.prefix, weights, (d,), "decoder")
        words = f"write input = {list(returned)}, as the decoder returns"
        yield words, replace(bp, encoder=replace(plan, input=returned))
    for i in reversed(range(min(at + 1, len(layers)))):
        for changed in _otherwise(layers[i]):
            yield (
                f"write {changed} for layer {i + 1}, `{layers[i]}`",
                rebuilt([*layers[:i], changed, *layers[i + 1 :]]),
            )


def _otherwise(layer: Layer) -> Iterator[Layer]:
    """Yield a layer with other settings that change the size of what it returns."""
    if layer.kind in ("conv", "conv_transpose"):
        for stride, padding in (
            (2, 1),
            (1, 0),
            (1, 1),
            (2, 0),
            (2, 2),
            (2, layer["padding"]),
            (1, layer["padding"]),
        ):
            if (stride, padding) != (layer["stride"], layer["padding"]):
                yield layer.with_options(stride=stride, padding=padding)
        if layer.kind == "conv_transpose" and not layer["output_padding"]:
            yield layer.with_options(output_padding=1)
        common = {k: v for k, v in layer.options.items() if k not in ("padding_mode", "output_padding")}
        yield replace(layer, kind={"conv": "conv_transpose"}.get(layer.kind, "conv"), options=common)
    elif layer.kind == "reshape" and len(layer["shape"]) == 3:
        numbers = math.prod(layer["shape"])
        for side in (4, 7, 8, 1, 2, 3, 5, 6, 16, 14):
            if numbers % side**2 == 0 and side != layer["shape"][-1]:
                yield layer.with_options(shape=[numbers // side**2, side, side])
    elif layer.kind == "upsample" and isinstance(layer["factor"], int):
        yield from (layer.with_options(factor=n) for n in (2, 4, 3) if n != layer["factor"])


# -- the way back ---------------------------------------------------------------------------------------


def describe(
    module: nn.Module, prefix: str = "", name: str = ""
) -> tuple[tuple[Layer, ...], dict[str, Tensor]]:
    """Return the layers of a network of known modules, and its tensors by the names that the layers use.

    Args:
        module: an `nn.Sequential` (possibly nested) of modules that a blueprint knows, or one such module.
        prefix: put before every tensor's name, and not in the layers.
        name: put before every tensor's name, and in the layers.

    Raises:
        BlueprintError: a module is none that a blueprint knows.
    """
    tensors: dict[str, Tensor] = {}
    layers = tuple(_described(module, name, tensors))
    return layers, {f"{prefix}{key}": t for key, t in tensors.items()}


def _described(module: nn.Module, name: str, tensors: dict[str, Tensor]) -> Iterator[Layer]:
    if isinstance(module, nn.Sequential):
        for child, part in module._modules.items():  # named_children leaves out what comes twice
            if part is None:
                continue
            yield from _described(part, f"{name}.{child}" if name else child, tensors)
        return
    if isinstance(module, Residual):
        yield Layer(
            "residual",
            body=tuple(_described(module.body, f"{name}.body" if name else "body", tensors)),
            skip=tuple(_described(module.skip, f"{name}.skip" if name else "skip", tensors))
            if not isinstance(module.skip, nn.Identity)
            else (),
        )
        return
    found = _kind_of(module)
    if found is None or not all(KINDS[found[0]].options[k].check(v) for k, v in found[1].items()):
        raise BlueprintError(
            f"a blueprint has no layer for `{type(module).__name__}`"
            + (" with these settings" if found else ""),
            hint="convert to .pt2 instead, which takes any network",
        )
    kind, options = found
    own = {k: t for k, t in module.state_dict().items() if k != "num_batches_tracked"}
    tensors.update({f"{name}.{k}" if name else k: t for k, t in own.items()})
    defaults = KINDS[kind].options
    kept = {k: v for k, v in options.items() if v != defaults[k].default}
    yield Layer(kind, key=name if kind in WEIGHTED else None, options=kept)


def _listed(value: Any) -> Any:
    """Return a setting of a convolution as a blueprint writes it."""
    if isinstance(value, tuple):
        return value[0] if len(set(value)) == 1 else list(value)
    return value


def _kind_of(module: nn.Module) -> tuple[str, dict[str, Any]] | None:
    """Return the kind and settings of a module, None where a blueprint has no such layer."""
    m: Any = module
    match module:
        case nn.Linear():
            return "linear", {}
        case nn.ConvTranspose1d() | nn.ConvTranspose2d() | nn.ConvTranspose3d():
            names = ("stride", "padding", "output_padding", "dilation", "groups")
            return "conv_transpose", {k: _listed(getattr(m, k)) for k in names}
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            names = ("stride", "padding", "dilation", "groups", "padding_mode")
            options = {k: _listed(getattr(m, k)) for k in names}
            return "conv", {**options, "padding": 0} if m.padding == "valid" else options
        case nn.BatchNorm1d() | nn.BatchNorm2d() | nn.BatchNorm3d() if m.running_mean is not None:
            return "batch_norm", {"eps": m.eps}
        case nn.InstanceNorm1d() | nn.InstanceNorm2d() | nn.InstanceNorm3d() if m.affine:
            return "instance_norm", {"eps": m.eps}
        case nn.GroupNorm() if m.affine:
            return "group_norm", {"groups": m.num_groups, "eps": m.eps}
        case nn.LayerNorm() if m.elementwise_affine:
            return "layer_norm", {"eps": m.eps}
        case nn.PReLU():
            return "prelu", {}
        case nn.LeakyReLU():
            return "leaky_relu", {"slope": m.negative_slope}
        case nn.ELU() | nn.CELU():
            return type(m).__name__.lower(), {"alpha": m.alpha}
        case nn.GELU():
            return "gelu", {"approximate": m.approximate}
        case nn.Softplus() if m.threshold == 20:
            return "softplus", {"beta": m.beta}
        case nn.Softmax() if m.dim == 1:
            return "softmax", {}
        case nn.Hardtanh() if type(m) is nn.Hardtanh and (m.min_val, m.max_val) == (-1.0, 1.0):
            return "hardtanh", {}
        case nn.Unflatten() if m.dim == 1:
            return "reshape", {"shape": list(m.unflattened_size)}
        case nn.Flatten() if (m.start_dim, m.end_dim) == (1, -1):
            return "flatten", {}
        case nn.Upsample() if m.size is None:
            factor = (
                [int(n) for n in m.scale_factor] if isinstance(m.scale_factor, tuple) else int(m.scale_factor)
            )
            exact = factor == (list(m.scale_factor) if isinstance(factor, list) else m.scale_factor)
            options = {"factor": factor, "mode": m.mode, "align_corners": bool(m.align_corners)}
            return ("upsample", options) if exact and not m.recompute_scale_factor else None
        case nn.PixelShuffle():
            return "pixel_shuffle", {"factor": m.upscale_factor}
        case nn.Dropout() | nn.Dropout1d() | nn.Dropout2d() | nn.Dropout3d():
            return "dropout", {"rate": m.p}
        case Sine():
            return "sine", {"frequency": m.frequency}
        case Affine() if m.amount == 0:
            return "scale", {"factor": m.factor}
        case Affine() if m.factor == 1:
            return "shift", {"amount": m.amount}
        case Clamp():
            return "clamp", {"range": [m.low, m.high]}
        case Slice():
            return "slice", {"range": [m.first, m.stop]}
    plain = {nn.ReLU: "relu", nn.SELU: "selu", nn.SiLU: "silu", nn.Mish: "mish", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", Exp: "exp",
             nn.Identity: "identity"}  # fmt: skip
    name = plain.get(type(module))
    return (name, {}) if name else None
