"""Autoencoders of diffusers that this package has no layers for, built by the library itself (extra `[diffusers]`).

The class is chosen from a list by the config's `_class_name`, built from the config alone, and given the folder's own tensors:
nothing is downloaded, and no code of the folder is run.  A first build on the meta device shows that config and tensors
agree before any memory is asked for.

Source: diffusers 0.42, `models/autoencoders`, Apache-2.0.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vaeprobe import cpu
from vaeprobe.checkpoints import filling
from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.encoder import Encoder
from vaeprobe.errors import ArchitectureError, InputError, MissingExtraError
from vaeprobe.files.source import quoted
from vaeprobe.findings import ASSUMED, FAMILY_WARNING
from vaeprobe.report import Finding

__all__ = ["parts_of", "said_class"]

SIDE = 4
CHANNELS = ("latent_channels", "z_dim", "z_channels", "latent_dim")


@dataclass(frozen=True)
class DecoderClass:
    """How a class takes its latents.

    Attributes:
        axes: after the channels: 2 for images, 3 for videos (time first; one frame), 1 for sound.
        channels: the config's name for the number of channels, where not a usual one.
        decode: further arguments of `decode`.
        off: settings that must be off, since with them the map is random or needs an input more.
        frames: the fewest frames that a video's decoder takes.
        alone: whether rows are decoded one at a time, since the class takes no batches.
        square: the config's names for an image's side and what it is divided by, where the map has one size.
        needs: a package that the class is built with, beside diffusers.
    """

    axes: int
    channels: str = ""
    decode: tuple[tuple[str, object], ...] = ()
    off: tuple[str, ...] = ()
    frames: int = 1
    alone: bool = False
    square: tuple[str, str] | None = None
    needs: str = ""


SOUND, IMAGE, VIDEO = DecoderClass(1), DecoderClass(2), DecoderClass(3)
ALONE = DecoderClass(3, alone=True)  # their attention masks fit a batch of one
LTX = DecoderClass(3, off=("timestep_conditioning", "decoder_inject_noise"))
ALLOWED: Mapping[str, DecoderClass] = {
    **dict.fromkeys(("AutoencoderKL", "AutoencoderKLFlux2", "AutoencoderKLHunyuanImage", "AutoencoderKLKVAE"), IMAGE),
    **dict.fromkeys(("AutoencoderDC", "AutoencoderTiny", "AsymmetricAutoencoderKL"), IMAGE),
    **dict.fromkeys(("AutoencoderKLWan", "AutoencoderKLQwenImage", "AutoencoderKLQwenImage21"), VIDEO),
    **dict.fromkeys(("AutoencoderKLHunyuanVideo15", "AutoencoderKLHunyuanImageRefiner"), ALONE),
    **dict.fromkeys(("AutoencoderKLHunyuanVideo", "AutoencoderKLMagvit", "Kandinsky6SRVAE"), VIDEO),
    **dict.fromkeys(("AutoencoderKLCogVideoX", "AutoencoderKLCosmos", "AutoencoderVidTok"), VIDEO),
    **dict.fromkeys(("AutoencoderKLMochi", "AutoencoderKLKVAEVideo"), VIDEO),
    **dict.fromkeys(("AutoencoderKLLTXVideo", "AutoencoderKLLTX2Video"), LTX),
    **dict.fromkeys(("AutoencoderKLMiniMaxH3Audio", "AutoencoderSAME", "LongCatAudioDiTVae", "MMAudioVAE"), SOUND),
    "AutoencoderKLTemporalDecoder": DecoderClass(2, decode=(("num_frames", 1),), alone=True),  # a batch is its frames
    "VQModel": DecoderClass(2, decode=(("force_not_quantize", True),)),
    "AutoencoderRAE": DecoderClass(2, channels="encoder_hidden_size", square=("encoder_input_size", "encoder_patch_size"), needs="transformers"),
    "AutoencoderKLMiniMaxH3": DecoderClass(3, frames=5),
    "AutoencoderOobleck": DecoderClass(1, channels="decoder_input_channels"),
    "AutoencoderKLKVAEAudio": DecoderClass(1, channels="codebook_dim"),
    "Cosmos3AVAEAudioTokenizer": DecoderClass(1, channels="vocoder_input_dim"),
    "AutoencoderKLLTX2Audio": IMAGE,  # of mel spectrograms
}  # fmt: skip
# why a class of the library is not on the list
REFUSED = {
    "AutoencoderKLAllegro": "it decodes in tiles alone, which blends their edges",
    "ConsistencyDecoderVAE": "it decodes by drawing noise and iterating",
    "LTX2VideoDiffusionDecoderModel": "it decodes by drawing noise and iterating",
    "RFD4ProteinaAutoencoder": "its decoder takes a structure beside the latents",
    "MMAudioVocoder": "it has no latents",
    "MiniMaxMusic3Vocoder": "it has no latents",
}


class Decoding(nn.Module):
    """z, shape (n, latents) -> what the library's `decode` returns for maps of latents."""

    def __init__(self, model: nn.Module, shape: tuple[int, ...], kind: DecoderClass) -> None:
        super().__init__()
        self.model = model
        self.shape = shape
        self.kind = kind

    def forward(self, z: Tensor) -> Tensor:
        maps = z.reshape(len(z), *self.shape)
        with _Double() if z.dtype == torch.float64 else nullcontext():
            if self.kind.alone and len(z) > 1:
                return torch.cat([self._decoded(row[None]) for row in maps])
            return self._decoded(maps)

    def _decoded(self, maps: Tensor) -> Tensor:
        out: Any = self.model.decode(maps, **dict(self.kind.decode))  # type: ignore[operator]
        out = out if isinstance(out, Tensor) else out[0] if isinstance(out, tuple) else out.sample
        tensor: Tensor = out
        return tensor


class Encoding(nn.Module):
    """x, shape (n, *image) -> mean and log variance of the library's posterior, shape (n, latents) each."""

    def __init__(self, model: nn.Module, kind: DecoderClass) -> None:
        super().__init__()
        self.model = model
        self.kind = kind

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with _Double() if x.dtype == torch.float64 else nullcontext():
            found = [self._posterior(row) for row in (torch.split(x, 1) if self.kind.alone else (x,))]
        mean, variance = (torch.cat(both).flatten(1) for both in zip(*found, strict=True))
        return mean, variance.log()

    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        posterior: Any = self.model.encode(x).latent_dist  # type: ignore[operator]
        return posterior.mean, posterior.var


def _encoder(decoder: Decoding, latents: int) -> Encoder | None:
    """Return the encoder, where the class has one that makes a posterior over these latents of what the decoder returns."""
    weight = next(decoder.parameters())
    encoding = Encoding(decoder.model, decoder.kind)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = decoder(cpu.zeros(1, latents, dtype=weight.dtype))
            mean, _ = encoding(image)
    except (AttributeError, RuntimeError, TypeError, ValueError, IndexError):
        return None  # it returns no posterior, or takes other data than the decoder returns
    if mean.shape != (1, latents):
        return None
    return Encoder(encoding, latents, input_shape=tuple(image.shape[1:]), dtype=weight.dtype)


class _Double(TorchFunctionMode):
    """Leaves out the casts to single precision inside the library: in float64 they would round what is differentiated.

    The library makes them for the sake of half precision (norms, upsampling, constants).  A derivative goes through such
    a cast unharmed, differences do not.
    """

    def __torch_function__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        func = Tensor.double if func is Tensor.float else func
        args = tuple(_wide(x) for x in args)
        return func(*args, **{k: _wide(v) for k, v in (kwargs or {}).items()})


def _wide(value: object) -> object:
    return torch.float64 if value is torch.float32 else value


def _contiguous(module: nn.Module, inputs: tuple[object, ...]) -> tuple[object, ...]:
    """Make what a group normalisation takes contiguous: it has no forward mode for other strides."""
    return tuple(x.contiguous() if isinstance(x, Tensor) else x for x in inputs)


def said_class(said: Mapping[str, object]) -> str | None:
    """Return the class that a folder's config names, None where there is no config of diffusers."""
    config = said.get("config.json")
    name = config.get("_class_name") if isinstance(config, Mapping) else None
    return name if isinstance(name, str) else None


def parts_of(
    config: Mapping[str, object], tensors: Mapping[str, Tensor], size: tuple[int, ...] | None = None
) -> Parts:
    """Return the decoder that a config and tensors make.

    Args:
        config: what `config.json` says.
        size: of the map of latents; 4 x 4, of one frame, unless the user says another.

    Raises:
        InputError: the class is no autoencoder that can be probed.
        MissingExtraError: diffusers is not installed.
        ArchitectureError: config and tensors do not agree.
    """
    name = str(config.get("_class_name"))
    kind = ALLOWED.get(name)
    if kind is None:
        why = REFUSED.get(name, "vaeprobe knows no decoder of latents by that name")
        raise InputError(f"the folder holds a {quoted(name)} of diffusers: {why}")
    if kind.needs and not _is_there(kind.needs):
        raise MissingExtraError(
            f"diffusers builds a {name} with {kind.needs}, which is not installed",
            hint=f"pip install {kind.needs}",
        )
    on = [key for key in kind.off if _on(config.get(key))]
    if on:
        raise InputError(
            f"this {name} has {', '.join(quoted(k) for k in on)} on: its decoder draws noise or needs a time step beside the latents"
        )
    model = _built(name, config, tensors)
    channels = _channels(kind, config, name)
    size = _size(kind, size, config)
    shape = (channels, *size)
    count = channels
    for n in size:
        count *= n
    notes = [
        Finding(
            ASSUMED,
            f"tensors do not tell, and it was assumed: the map of latents is {' x '.join(map(str, shape))}",
        ),
        Finding(FAMILY_WARNING, "its latents are N(0, 1) in name only; prefer latents of encoded data"),
    ]
    decoder = Decoding(model, shape, kind).eval().requires_grad_(False)
    return Parts(
        decoder=decoder,
        latent_dim=count,
        encoder=_encoder(decoder, count),
        architecture=f"diffusers {name}",
        notes=tuple(notes),
        latent_shape=shape,
    )


def _is_there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _on(value: object) -> bool:
    return any(map(_on, value)) if isinstance(value, (list, tuple)) else bool(value)


def _size(kind: DecoderClass, size: tuple[int, ...] | None, config: Mapping[str, object]) -> tuple[int, ...]:
    """Return the size of the map; the fewest frames where the user gives height and width of a video's."""
    if size is None and kind.square is not None:
        image, patch = (config.get(key) for key in kind.square)
        if isinstance(image, int) and isinstance(patch, int) and patch > 0:
            return (max(image // patch, 1),) * 2
    if size is None:
        return (kind.frames, SIDE, SIDE)[-kind.axes :] if kind.axes > 1 else (2 * SIDE,)
    size = (kind.frames, *size) if kind.axes == 3 and len(size) == 2 else size
    if len(size) != kind.axes:
        raise InputError(
            f"its latents have {kind.axes} axes beside the channels, and --latent-size gives {len(size)}"
        )
    return size


def _channels(kind: DecoderClass, config: Mapping[str, object], name: str) -> int:
    for key in (kind.channels, *CHANNELS):
        value = config.get(key)
        if isinstance(value, int) and 0 < value <= 1 << 16:
            return value
    raise ArchitectureError(f"the config of this {name} does not say how many channels its latents have")


def _built(name: str, config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return the library's model with the tensors in it."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when it is first imported
    try:
        import diffusers
    except ImportError as error:
        raise MissingExtraError(
            f"a {name} is built by diffusers, which is not installed",
            hint="pip install 'vaeprobe[diffusers]'",
        ) from error
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    cls = getattr(diffusers, name, None)
    if cls is None:
        raise MissingExtraError(
            f"diffusers {diffusers.__version__} has no {name}", hint="pip install --upgrade diffusers"
        )
    settings = {k: v for k, v in config.items() if not k.startswith("_")}
    with torch.device("meta"):
        ghost = _made(cls, settings, name)
    own = ghost.state_dict()
    tensors = filling.as_normalised(own, tensors)  # weight normalisation is read as one weight
    wanted = {k: tuple(t.shape) for k, t in own.items()}
    held = {k: tuple(t.shape) for k, t in tensors.items()}
    odd = next((k for k in sorted({*wanted, *held}) if wanted.get(k) != held.get(k)), None)
    if odd is not None:
        raise ArchitectureError(
            f"the config makes {quoted(odd)} {_shape(wanted.get(odd))}, and the weights have {_shape(held.get(odd))}",
            hint="are these the weights that belong to this config?",
        )
    model = _made(cls, settings, name)  # again with memory: buffers that are not saved need their values
    model.load_state_dict(dict(tensors), strict=True, assign=True)
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(_contiguous)
    wide = torch.float64 if any(t.dtype == torch.float64 for t in tensors.values()) else torch.float32
    return nn.Module.to(model.eval(), wide)  # the library's own `to` warns


def _made(cls: Callable[..., object], settings: Mapping[str, object], name: str) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made: nn.Module = cls.from_config(dict(settings))  # type: ignore[attr-defined]
    except Exception as error:  # what a config can break in a library is not to be listed
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ArchitectureError(f"diffusers cannot build a {name} from this config: {reason[:200]}") from None
    return made


def _shape(shape: tuple[int, ...] | None) -> str:
    return "x".join(map(str, shape)) or "a scalar" if shape is not None else "no such tensor"
