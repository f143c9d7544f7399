"""From a file to a `Decoder`: sniff, check, read, find the architecture, build."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from vaeprobe.autograd import device_named
from vaeprobe.checkpoints import architecture, factory, folders, formats, naming, users_code
from vaeprobe.checkpoints.blueprint.condition import held
from vaeprobe.checkpoints.blueprint.plan import size_of
from vaeprobe.checkpoints.request import Found, Request
from vaeprobe.contract import NotFiniteError
from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.errors import (
    InputError,
    ResourceError,
    UsageError,
    VaeprobeError,
    did_you_mean,
    out_of_memory,
)
from vaeprobe.files import limits
from vaeprobe.files.source import Source, quoted
from vaeprobe.findings import DRAFT_BLUEPRINT, NONFINITE_WEIGHTS
from vaeprobe.frozen import cast
from vaeprobe.given import check_given
from vaeprobe.report import Artifact, Finding

__all__ = ["load"]


def load(
    path: str | os.PathLike[str],
    *,
    arch: str | Callable[..., object] | None = None,
    arch_args: str | Mapping[str, object] | None = None,
    blueprint: architecture.BlueprintLike = None,
    key: str | None = None,
    submodule: str | None = None,
    latent_dim: int | None = None,
    weights: naming.Set | None = None,
    output: int | str | None = None,
    latent_size: str | Sequence[int] | None = None,
    condition: Mapping[str, str | float] | None = None,
    class_axis: int | None = None,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device = "cpu",
    allow_code: bool = False,
) -> Decoder:
    """Return the decoder in a checkpoint file; nothing in the file is executed.

    The format is told from the bytes.  Where a file holds weights alone, their architecture comes from, in this
    order: `arch`; `blueprint`; a blueprint in the file's own metadata (safetensors); one beside the file
    (`model.pt.toml`, `model.blueprint.toml`, `model.toml`); a preset, by the names and shapes of all the decoder's tensors.

    Args:
        path: the file, or the folder of one model (diffusers, pythae, scVI).
        arch: `package.module:factory`, or the factory or class itself: your code, see `vaeprobe.checkpoints.factory`.
        arch_args: arguments for it, {"latent_dim": 10} or "latent_dim=10"; by default the file's hyper-parameters.
        blueprint: a TOML file, a `Blueprint`, the name of a preset, or "draft" for a marked guess.
        key: the entry of the file that holds the weights, or the matrix.
        submodule: the part of a pickled module, or of what `arch` builds, that decodes.
        latent_dim: number of latents, where the file leaves it open; checked where it does not.
        weights: "ema" or "raw", where a file holds weights averaged over training beside the last ones; by
            default the average.
        output: which output to probe, where the network returns several: its key, or its place from 0.
        latent_size: size of the map of latents of a convolutional decoder, "8x8" or (8, 8).
        condition: what a conditional decoder is held at, by name: {"label": 3}.
        class_axis: axis of the outputs, shape (n, ...), that runs over the classes of a categorical likelihood: -1 for
            (n, positions, classes); by default the one over which they are probabilities, else 1.
        dtype: precision of the network; by default the file's, at least float32.
        device: where to compute.
        allow_code: unpickle the file with torch, which runs whatever code it asks for.

    Raises:
        UnsafeError: the file asks to run code.
        InputError: it is damaged, or in no known format.
        ArchitectureError: it holds weights, and nothing says of which network.
        UsageError: an argument does not fit the file.
        ContractError: the network is no decoder (see `vaeprobe.Decoder`).
        ResourceError: it claims more memory than makes sense.

    Example:
        >>> import numpy, tempfile, vaeprobe
        >>> path = tempfile.mkdtemp() + "/W.npy"
        >>> numpy.save(path, numpy.eye(4, 2))
        >>> vaeprobe.load(path).latent_dim
        2
    """
    check_given(load, locals())
    if arch is None and arch_args:
        raise UsageError("there is no network to give arguments to", hint="--arch names it (arch=...)")
    # what is wrong with these is no fault of the file, which may take long to read
    place, precision = device_named(device), _dtype(dtype)
    source = folders.read(path)
    limits.note_reading(source.name)
    request = Request(
        source=source,
        arch=arch if isinstance(arch, str) else None,
        blueprint=blueprint,
        key=key,
        submodule=submodule,
        latent_dim=latent_dim,
        weights=weights,
        arch_args=_arguments(arch_args),
        output=output,
        latent_size=size_of(latent_size),
        condition=condition or {},
        allow_code=allow_code,
    )
    formats.every()  # one of ours that cannot be imported is no fault of the file
    with _naming(source, whole=arch is None):
        with limits.loading(source.size):
            if arch is not None:
                maker = arch if callable(arch) else factory.find(arch)
                found = users_code.by_factory(request, maker, formats.of)
            else:
                format = formats.of(source)
                format.refuse_key(request.key, source.name)
                found = format.read(request)
        return _decoder(found, request, precision, place, class_axis)


@contextmanager
def _naming(source: Source, *, whole: bool = True) -> Iterator[None]:
    """Put the file's name before messages that name no file.

    Args:
        whole: whether what is left over, that no reader foresaw, is the file's fault, and not that of code of the user's.
    """
    try:
        yield
    except VaeprobeError as error:
        error.within(source.name)
        raise
    except Exception as error:
        if not whole or os.environ.get("VAEPROBE_DEBUG"):
            raise
        if out_of_memory(error):
            raise ResourceError(
                f"{source.name} takes {limits.more_than_there_is()}",
                hint=limits.with_more_memory("free some memory"),
                about=source.name,
            ) from error
        why = (str(error).strip().splitlines() or ["?"])[0]
        raise InputError(
            f"{source.name} cannot be read: {type(error).__name__}: {quoted(why)}",
            hint="is it damaged? if other tools read it, please report it",
            about=source.name,
        ) from error


def _arguments(given: str | Mapping[str, object] | None) -> Mapping[str, object]:
    return factory.parse_arguments(given) if isinstance(given, str) else given or {}


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    known = {"float32": torch.float32, "float64": torch.float64}
    if dtype not in known:
        raise UsageError(
            f"there is no precision {quoted(dtype)}", hint=did_you_mean(dtype, known) or "float32 or float64"
        )
    return known[dtype]


# -- the decoder ------------------------------------------------------------------------------------------


def _decoder(
    found: Found, request: Request, dtype: torch.dtype | None, device: torch.device, class_axis: int | None
) -> Decoder:
    """Check the contract of `Decoder`."""
    parts, source = found.parts, request.source
    if request.latent_dim not in (None, parts.latent_dim):
        raise UsageError(
            f"{source.name} has {parts.latent_dim} latents, not {request.latent_dim}",
            hint="leave out --latent-dim",
            about=source.name,
        )
    held(parts.conditions, request.condition)  # what was asked for and is not there is refused
    size = None if found.size_taken else request.latent_size
    if size is not None and not parts.latent_shape and math.prod(size) > 1:
        raise UsageError(
            f"the latents of {source.name} are no map", hint="leave out --latent-size", about=source.name
        )
    notes = (*found.notes, *parts.notes)
    artifact = Artifact(
        path=source.shown,
        sha256=source.sha256,
        size=source.size,
        format=found.format,
        architecture=parts.architecture + _drafted(notes),
        details={**found.details, **({"recipe": parts.recipe.to_dict()} if parts.recipe else {})},
    )
    shape = parts.latent_shape[1:]
    if parts.latent_shape == size:  # tokens, of so many numbers
        shape = size
    # of a video a size may leave out the frames, which its family knows
    if size is not None and shape and shape[-len(size) :] != size:
        raise UsageError(
            f"{source.name} takes maps of {' x '.join(map(str, shape))}, not of {' x '.join(map(str, size))}",
            hint="leave out --latent-size",
            about=source.name,
        )
    try:
        return Decoder(
            _moved(parts.decoder, dtype, device),
            parts.latent_dim,
            name=source.folder.path.name if isinstance(source, folders.InFolder) else source.path.stem,
            dtype=dtype,
            device=device,
            prior=parts.prior,
            learned=parts.learned,
            parameter=parts.parameter,
            natural=_moved(parts.natural, dtype, device) if parts.natural is not None else None,
            likelihood=parts.likelihood,
            output=None if found.output_taken else parts.output if request.output is None else request.output,
            encoder=_moved_encoder(parts.encoder, dtype, device) if parts.encoder is not None else None,
            artifact=artifact,
            notes=notes,
            latent_shape=parts.latent_shape,
            recipe=parts.recipe,
            dispersion=parts.dispersion,
            class_axis=class_axis,
            sigma2=parts.sigma2,
            totalled=parts.totalled,
        )
    except NotFiniteError as error:
        broken = next((note for note in notes if note.spec is NONFINITE_WEIGHTS), None)
        if broken is None:
            raise
        raise NotFiniteError(f"{error.message}; {broken.message}", hint=broken.hint) from None


def _drafted(notes: Sequence[Finding]) -> str:
    """Return what a header says of an architecture that is a guess."""
    return ", a draft that rests on guesses" if any(note.spec is DRAFT_BLUEPRINT for note in notes) else ""


def _moved(
    function: Callable[[Tensor], object], dtype: torch.dtype | None, device: torch.device
) -> Callable[[Tensor], object]:
    return cast(function, dtype, device) if isinstance(function, nn.Module) else function


def _moved_encoder(encoder: Encoder, dtype: torch.dtype | None, device: torch.device) -> Encoder:
    function = encoder.function
    if isinstance(function, nn.Module):
        function = cast(function, dtype, device)
    return replace(encoder, function=function, dtype=dtype or encoder.dtype, device=device)
