"""What runs code on a load, because the user said so: the user's own factory (`arch`), or the file's pickle (`allow_code`).

No other file of this package runs code because the user said so; none runs code because a file does.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping

import torch
from torch import nn

from vaeprobe.checkpoints import factory, filling, plain, scale, whole
from vaeprobe.checkpoints.formats.format import Format
from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.checkpoints.request import Found, Request
from vaeprobe.checkpoints.weights import Weights
from vaeprobe.decoder import Decoder
from vaeprobe.errors import InputError, UnsafeError, UsageError
from vaeprobe.files.sniff import sniff
from vaeprobe.files.source import Source, quoted
from vaeprobe.findings import CHOSEN_ENTRY, CODE_WAS_RUN
from vaeprobe.report import Finding

__all__ = ["by_factory", "unpickled"]

# what training scripts call a pickled network, the likeliest to be probed first
NETWORKS = ("G_ema", "ema", "decoder", "generator", "G", "vae", "model")


def by_factory(
    request: Request, maker: Callable[..., object], format_of: Callable[[Source], Format]
) -> Found:
    """Let the user's factory build the network, and load the file's weights into it.

    Args:
        maker: the factory.
        format_of: tells the format of the file, where the factory does not read it itself.
    """
    how = f"arch {request.arch or getattr(maker, '__name__', 'factory')}"
    settings = _settings(request, format_of)
    arguments, reads = factory.arguments(maker, request.arch_args, settings, request.source.path)
    built = factory.call(maker, **arguments)
    notes: tuple[Finding, ...] = ()
    format = "read by the factory"
    if not reads:
        weights, format = _bare_weights(request, format_of(request.source))
        module = built.module if isinstance(built, Decoder) else built
        if not isinstance(module, nn.Module):
            raise UsageError(
                f"the factory returned {type(built).__name__}, not an nn.Module to load weights into",
                hint="a factory that reads the file itself takes its path: def factory(path): ...",
            )
        notes = (*weights.notes, *filling.fill(module.eval(), weights.tensors))
    parts = _of(built, request, settings, how)
    network = built.module if isinstance(built, Decoder) else built
    if isinstance(network, nn.Module):
        parts = scale.with_variance(parts, scale.learned(network.state_dict()))
    return Found(parts=parts, format=format, notes=notes)


def _of(built: object, request: Request, settings: Mapping[str, object], how: str) -> Parts:
    """Return the part that decodes of what a factory built, and its encoder where it has one."""
    if isinstance(built, Decoder):
        return _of_decoder(built, how)
    if request.submodule is None and isinstance(built, nn.Module):
        return _of_network(built, request, how, settings)
    part = factory.pick(built, request.submodule)
    if isinstance(part, nn.Module) and (request.latent_dim is None or request.latent_size is not None):
        d = request.latent_dim
        if d is None and request.latent_size is None:  # what is named so counts channels of maps
            d = whole.latents_named(built, settings)
        parts = plain.parts_of(part, latent_dim=d, architecture=how, latent_size=request.latent_size)
        return whole.with_encoder(parts, built)
    if request.latent_dim is None:
        raise UsageError("a callable does not say how many latents it takes", hint="add --latent-dim D")
    if isinstance(part, nn.Module):
        return whole.with_encoder(plain.as_it_is(part, request.latent_dim, how), built)
    return Parts(decoder=part, latent_dim=request.latent_dim, architecture=how)


def _settings(request: Request, format_of: Callable[[Source], Format]) -> Mapping[str, object]:
    """Return the hyper-parameters that a file says beside its weights; none where it says none that can be read."""
    try:
        format = format_of(request.source)
        return format.settings(request.source) if format.settings is not None else {}
    except (InputError, UnsafeError):  # the factory may read what vaeprobe does not
        return {}


def _bare_weights(request: Request, format: Format) -> tuple[Weights, str]:
    """Return the weights of a file by name, and what holds them."""
    if format.weights is None:
        raise UsageError(
            f"{request.name} is {format.name}, and --arch needs bare weights",
            hint="leave out --arch",
            about=request.name,
        )
    return format.weights(request)


def _of_decoder(decoder: Decoder, how: str) -> Parts:
    """Return the pieces of a decoder that a factory returned, to be checked again with the file's weights."""
    return Parts(
        decoder=decoder.module or decoder.function,
        natural=decoder.natural,
        latent_dim=decoder.latent_dim,
        prior=decoder.prior,
        learned=decoder.learned,
        parameter=decoder.parameter,
        likelihood=decoder.likelihood,
        encoder=decoder.encoder,
        sigma2=decoder.sigma2,
        architecture=how,
        notes=decoder.notes,
    )


def unpickled(request: Request) -> tuple[Found | None, tuple[Finding, ...]]:
    """Unpickle with torch: code in the file runs, because the user said so.

    Returns:
        the network, None where the file holds none but weights alone; and what to say of it.
    """
    loaded = _objects(request)
    warning = Finding(CODE_WAS_RUN, "the file was unpickled with --allow-code: its code ran")
    if request.key is not None:
        for step in (
            [request.key] if isinstance(loaded, Mapping) and request.key in loaded else request.key.split(".")
        ):
            if not isinstance(loaded, Mapping) or step not in loaded:
                raise UsageError(f"{request.name} has no entry {quoted(request.key)}", about=request.name)
            loaded = loaded[step]
    notes: tuple[Finding, ...] = (warning,)
    if isinstance(loaded, Mapping) and request.submodule is None:
        networks = {str(k): v for k, v in loaded.items() if isinstance(v, nn.Module)}
        best: str | None = next((k for k in NETWORKS if k in networks), None)
        if best is not None or len(networks) == 1:
            best = best or next(iter(networks))
            loaded = networks[best]
            others = ", ".join(quoted(k) for k in networks if k != best)
            message = f"the network is entry {quoted(best)}" + (
                f"; the file also holds {others}" if others else ""
            )
            notes = (*notes, Finding(CHOSEN_ENTRY, message, hint="choose another with --key"))
    if not isinstance(loaded, nn.Module):
        return None, notes
    how = f"unpickled {type(loaded).__name__}"
    if request.submodule is None:
        network = loaded.float() if _is_half(loaded) else loaded
        parts = scale.with_variance(
            _of_network(network, request, how, {}), scale.learned(network.state_dict())
        )
        return Found(parts=parts, format="module", notes=notes), notes
    part = factory.pick(loaded.float() if _is_half(loaded) else loaded, request.submodule)
    d = request.latent_dim
    if d is None and request.latent_size is None:  # what is named so counts channels of maps
        d = whole.latents_named(loaded)
    parts = plain.parts_of(part, latent_dim=d, architecture=how, latent_size=request.latent_size)
    return Found(parts=whole.with_encoder(parts, loaded), format="module", notes=notes), notes


def _of_network(network: nn.Module, request: Request, how: str, settings: Mapping[str, object]) -> Parts:
    return whole.parts(
        network,
        latent_dim=request.latent_dim,
        settings=settings,
        architecture=how,
        condition=request.condition,
        latent_size=request.latent_size,
    )


def _objects(request: Request) -> object:
    """Unpickle a file of torch.save or a plain pickle.

    A class of a script that was run by itself is looked for in the scripts beside the user, which is where it was.
    """
    sniffed = sniff(request.source)

    def read() -> object:
        data = io.BytesIO(request.source.data)
        if sniffed == "pickle":
            return pickle.load(data)
        return torch.load(data, map_location="cpu", weights_only=False)

    try:
        with factory.working_directory_importable():
            return read()
    except Exception as error:
        missing = isinstance(error, (AttributeError, ImportError, ModuleNotFoundError))
        raise InputError(
            f"unpickling {request.name} raised {type(error).__name__}: {error}",
            hint="the class is not importable here: run where its module is, or give it: --arch path/to/script.py:CLASS"
            " loads the weights into it without unpickling"
            if missing
            else None,
            about=request.name,
        ) from error


def _is_half(module: nn.Module) -> bool:
    return any(p.is_floating_point() and p.itemsize < 4 for p in module.parameters())
