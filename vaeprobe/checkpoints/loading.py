"""From a file to a `Decoder`: sniff, check, read, find the architecture, build."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vaeprobe.checkpoints import (
    architecture,
    diffusers_library,
    factory,
    families,
    folders,
    naming,
    recognised,
    said,
    selection,
)
from vaeprobe.checkpoints.blueprint import Blueprint
from vaeprobe.checkpoints.blueprint.condition import held
from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.checkpoints.weights import Weights, realise
from vaeprobe.decoder import Decoder, Encoder
from vaeprobe.errors import (
    ContractError,
    InputError,
    ResourceError,
    UnsafeError,
    UsageError,
    VaeprobeError,
    did_you_mean,
    out_of_memory,
)
from vaeprobe.files import limits, safetensors
from vaeprobe.files.sniff import sniff
from vaeprobe.files.source import Source, quoted
from vaeprobe.files.torch_pickles import TorchFile
from vaeprobe.files.torch_pickles import read as read_torch_file
from vaeprobe.files.zips import directory, is_zip, open_archive
from vaeprobe.findings import CHOSEN_ENTRY, CODE_WAS_RUN, DRAFT_BLUEPRINT, NONFINITE_WEIGHTS
from vaeprobe.report import Artifact, Finding

if TYPE_CHECKING:
    from vaeprobe.files.pickles import Built

__all__ = ["load"]

# what training scripts call a pickled network, the likeliest to be probed first
NETWORKS = ("G_ema", "ema", "decoder", "generator", "G", "vae", "model")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user said about a file."""

    source: Source
    arch: str | None = None
    blueprint: architecture.Given = None
    key: str | None = None
    submodule: str | None = None
    latent_dim: int | None = None
    weights: naming.Set | None = None
    arch_args: Mapping[str, Any] = field(default_factory=dict)
    output: int | str | None = None
    latent_size: tuple[int, ...] | None = None
    condition: Mapping[str, str | float] = field(default_factory=dict)
    allow_code: bool = False

    @property
    def name(self) -> str:
        return self.source.name


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a file turned out to be.

    Attributes:
        format: as reports name it.
        notes: beyond those in `parts`.
        output_taken: whether the output that was asked for is the only one left.
    """

    parts: Parts
    format: str
    notes: tuple[Finding, ...] = ()
    output_taken: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)


def load(
    path: str | os.PathLike[str],
    *,
    arch: str | Callable[..., Any] | None = None,
    arch_args: str | Mapping[str, Any] | None = None,
    blueprint: architecture.Given = None,
    key: str | None = None,
    submodule: str | None = None,
    latent_dim: int | None = None,
    weights: naming.Set | None = None,
    output: int | str | None = None,
    latent_size: str | Sequence[int] | None = None,
    condition: Mapping[str, str | float] | None = None,
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
    source = folders.read(path)
    request = Request(
        source=source,
        arch=arch if isinstance(arch, str) else None,
        blueprint=blueprint,
        key=key,
        submodule=submodule,
        latent_dim=latent_dim,
        weights=_set(weights),
        arch_args=_arguments(arch_args),
        output=output,
        latent_size=_size(latent_size),
        condition=condition or {},
        allow_code=allow_code,
    )
    with _naming(source, whole=arch is None), limits.loading(source.size):
        if arch is not None:
            maker = arch if callable(arch) else factory.find(arch)
            found = _by_factory(request, maker)
        else:
            found = _READERS[sniff(source)](request)
        return _decoder(found, request, _dtype(dtype), torch.device(device))


@contextmanager
def _naming(source: Source, *, whole: bool = True) -> Iterator[None]:
    """Put the file's name before messages that do not have it.

    Args:
        whole: whether what is left over, that no reader foresaw, is the file's fault, and not that of code of the user's.
    """
    try:
        yield
    except VaeprobeError as error:
        if source.name not in error.message:
            error.message = f"{source.name}: {error.message}"
            error.args = (error.message,)
        raise
    except Exception as error:
        if not whole or os.environ.get("VAEPROBE_DEBUG"):
            raise
        if out_of_memory(error):
            raise ResourceError(f"{source.name} takes more memory than there is") from error
        why = (str(error).strip().splitlines() or ["?"])[0]
        raise InputError(
            f"{source.name} cannot be read: {type(error).__name__}: {quoted(why)}",
            hint="is it damaged? if other tools read it, please report it",
        ) from error


def _size(size: str | Sequence[int] | None) -> tuple[int, ...] | None:
    """Return the size of a map of latents: "8x8" is (8, 8)."""
    if size is None:
        return None
    parts = size.lower().split("x") if isinstance(size, str) else [str(n) for n in size]
    if not 1 <= len(parts) <= 3 or not all(p.isdecimal() and 0 < int(p) < 1 << 16 for p in parts):
        raise UsageError(f"{quoted(str(size))} is no size of a map", hint="write it as 8x8")
    return tuple(map(int, parts))


def _set(weights: str | None) -> naming.Set | None:
    if weights is not None and weights not in ("ema", "raw"):
        raise UsageError(
            f"there are no weights {quoted(str(weights))}",
            hint=did_you_mean(str(weights), ("ema", "raw")) or "ema or raw",
        )
    return "ema" if weights == "ema" else "raw" if weights == "raw" else None


def _arguments(given: str | Mapping[str, Any] | None) -> Mapping[str, Any]:
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


# -- formats ----------------------------------------------------------------------------------------


def _torch_file(request: Request) -> Found:
    """Read a file of torch.save or a plain pickle."""
    if request.allow_code:
        return _unpickled(request)
    container: Any = sniff(request.source)
    file = read_torch_file(request.source.data, request.name, container)
    chosen = selection.select(file, request.name, request.key, request.weights)
    if selection.is_module(chosen.node):
        found = _module(request, file, chosen.node)
    elif request.submodule is not None:
        raise UsageError(
            f"{request.name} holds bare weights, which have no submodules",
            hint="the `prefix` of a blueprint, or --key, takes the weights of a part",
        )
    else:
        specs = selection.tensors_of(file, chosen.node)
        for shard in _shards(request):
            other = read_torch_file(shard.data, shard.name, sniff(shard))  # type: ignore[arg-type]
            specs |= selection.tensors_of(other, selection.select(other, shard.name).node)
        told = said.in_file(file)
        matrix = file.is_tensor(chosen.node)
        found = _weights(request, realise(specs), "state_dict", matrix=matrix, told=told)
    details = {"container": container, **({"key": chosen.key} if chosen.key else {})}
    return replace(found, notes=(*chosen.notes, *found.notes), details={**found.details, **details})


def _module(request: Request, file: TorchFile, node: Built) -> Found:
    """Read a whole pickled module: rebuilt if it is made of torch's layers, else its weights by a blueprint."""
    from vaeprobe.checkpoints import modules

    if request.submodule is None:
        if str(request.blueprint) == "draft":
            request = replace(request, blueprint=_draft(file, node))
        bp = _blueprint_given(request)
        if bp is not None or request.blueprint is not None:
            return _weights(request, realise(selection.tensors_of(file, node)), "module")
        if modules.foreign_parts(node):
            weights = realise(selection.tensors_of(file, node))
            network = _network(request, weights, said.in_file(file))
            if network is not None:
                return Found(parts=network, format="module", notes=weights.notes)
    where = node if request.submodule is None else selection.module_at(node, request.submodule)
    name = (
        request.name if request.submodule is None else f"part {quoted(request.submodule)} of {request.name}"
    )
    module, notes = modules.rebuild(file, where, name)
    layers = f"pickled {where.maker.name}" + (
        f", part {quoted(request.submodule)}" if request.submodule else ""
    )
    parts = modules.parts_of(module, latent_dim=request.latent_dim, architecture=layers)
    if isinstance(parts.decoder, nn.Module):
        modules.rehearse(parts.decoder, parts.latent_dim)
    return Found(parts=parts, format="module", notes=notes)


def _draft(file: TorchFile, node: Built) -> Blueprint:
    """Return a draft of a pickled module, with what the module records of its layers."""
    from vaeprobe.checkpoints.draft import draft
    from vaeprobe.checkpoints.recorded import recorded

    return draft(naming.for_matching(selection.tensors_of(file, node)), recorded(node))


def _unpickled(request: Request) -> Found:
    """Unpickle with torch: code in the file runs, because the user said so."""
    from vaeprobe.checkpoints import modules, whole

    loaded = _objects(request)
    warning = Finding(CODE_WAS_RUN, "the file was unpickled with --allow-code: its code ran")
    if request.key is not None:
        for step in (
            [request.key] if isinstance(loaded, Mapping) and request.key in loaded else request.key.split(".")
        ):
            if not isinstance(loaded, Mapping) or step not in loaded:
                raise UsageError(f"{request.name} has no entry {quoted(request.key)}")
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
        return replace(_torch_file(replace(request, allow_code=False)), notes=notes)
    how = f"unpickled {type(loaded).__name__}"
    if request.submodule is None and whole.is_whole(loaded):
        parts = whole.halves(loaded, latent_dim=request.latent_dim, architecture=how)
        return Found(parts=parts, format="module", notes=notes)
    part = factory.pick(loaded.float() if _is_half(loaded) else loaded, request.submodule)
    d = request.latent_dim or whole.latents_named(loaded)
    return Found(parts=modules.parts_of(part, latent_dim=d, architecture=how), format="module", notes=notes)


def _objects(request: Request) -> Any:
    """Unpickle a file of torch.save or a plain pickle.

    A class of a script that was run by itself is looked for in the scripts beside the user, which is where it was.
    """
    import io
    import pickle

    sniffed = sniff(request.source)

    def read() -> Any:
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
        ) from error


def _is_half(module: nn.Module) -> bool:
    return any(p.is_floating_point() and p.itemsize < 4 for p in module.parameters())


def _safetensors(request: Request) -> Found:
    specs, metadata = safetensors.read(request.source.data)
    for shard in _shards(request):
        specs = {**specs, **safetensors.read(shard.data)[0]}
    specs, is_matrix = selection.under_key(specs, request.name, request.key)
    return _weights(request, realise(specs, metadata), "safetensors", matrix=is_matrix)


def _shards(request: Request) -> tuple[Source, ...]:
    """Return the files of sharded weights after the first."""
    return request.source.shards if isinstance(request.source, folders.InFolder) else ()


def _npy(request: Request) -> Found:
    from vaeprobe.checkpoints import matrix
    from vaeprobe.files import npy

    array, notes = npy.read_npy(request.source.data, request.name)
    tensor, rounded = matrix.tensor_of(array, request.name)
    return Found(
        parts=matrix.parts_of({"matrix": tensor}, request.name), format="npy", notes=(*notes, *rounded)
    )


def _npz(request: Request) -> Found:
    from vaeprobe.checkpoints import matrix
    from vaeprobe.files import npy

    if {"indices.npy", "data.npy", "shape.npy"} <= {entry.name for entry in directory(request.source.data)}:
        raise InputError(
            f"{request.name} is a sparse matrix, as scipy.sparse.save_npz writes it",
            hint="save it dense: numpy.save(path, scipy.sparse.load_npz(path).toarray())",
        )
    notes: list[Finding] = []
    tensors: dict[str, Tensor] = {}
    for name, (array, own) in npy.read_npz(request.source.data, request.name).items():
        tensors[name], rounded = matrix.tensor_of(array, f"array {quoted(name)}")
        notes += [*own, *rounded]
    if _blueprint_given(request) is not None:
        return _weights(request, Weights(tensors, {}, tuple(notes)), "npz")
    return Found(
        parts=matrix.parts_of(tensors, request.name, key=request.key), format="npz", notes=tuple(notes)
    )


def _pt2(request: Request) -> Found:
    from vaeprobe.checkpoints.programs import exported

    archive = open_archive(request.source.data)
    parts = exported.read(archive, blueprint=_blueprint_given(request), latent_dim=request.latent_dim)
    return Found(parts=parts, format="pt2")


def _torchscript(request: Request) -> Found:
    from vaeprobe.checkpoints.programs import torchscript

    archive = open_archive(request.source.data)
    parts = torchscript.read(
        archive,
        blueprint=_blueprint_given(request),
        latent_dim=request.latent_dim,
        submodule=request.submodule,
    )
    return Found(parts=parts, format="torchscript")


def _onnx(request: Request) -> Found:
    from vaeprobe.checkpoints.programs.onnx import graph

    parts = graph.read(
        request.source.data,
        request.source.path.parent,
        blueprint=_blueprint_given(request),
        latent_dim=request.latent_dim,
        output=request.output,
        conditions=request.condition,
    )
    return Found(parts=parts, format="onnx", output_taken=True)


def _keras(request: Request) -> Found:
    from vaeprobe.checkpoints.programs.keras import graph

    data = request.source.data
    parts = graph.read(
        open_archive(data) if is_zip(data) else data,
        blueprint=_blueprint_given(request),
        latent_dim=request.latent_dim,
        part=request.submodule or request.key,
        conditions=request.condition,
    )
    return Found(parts=parts, format="keras")


_READERS: dict[str, Callable[[Request], Found]] = {
    "torch zip": _torch_file,
    "torch legacy": _torch_file,
    "pickle": _torch_file,
    "safetensors": _safetensors,
    "npy": _npy,
    "npz": _npz,
    "pt2": _pt2,
    "torchscript": _torchscript,
    "onnx": _onnx,
    "keras": _keras,
    "hdf5": _keras,
}


# -- the architecture of bare weights ------------------------------------------------------------------


def _weights(
    request: Request,
    weights: Weights,
    format: str,
    *,
    matrix: bool = False,
    told: Mapping[str, Any] | None = None,
) -> Found:
    """Find the network that weights belong to; `told` is what the file says beside them."""
    if matrix:
        from vaeprobe.checkpoints import matrix as linear

        return Found(parts=linear.parts_of(weights.tensors, request.name), format=format, notes=weights.notes)
    bp = _blueprint_given(request, weights)
    if bp is None or not architecture.names_all(bp, weights.tensors):
        weights = _one_set(request, weights)
    network = _network(request, weights, {**(told or {}), **folders.said_beside(request.source)})
    if network is None:
        raise architecture.unknown(request.name, weights.tensors)
    return Found(parts=network, format=format, notes=weights.notes)


def _network(request: Request, weights: Weights, told: Mapping[str, Any]) -> Parts | None:
    """Return the network of a blueprint or a family, held at its conditions; None where neither is known."""
    bp = _blueprint_given(request, weights)
    if bp is not None:
        found: families.Found | None = families.Found(bp)
    else:
        clues = families.Clues.of(weights.tensors, told, request.latent_size)
        found = architecture.found(request.blueprint, clues, weights.metadata)
    if found is None and request.blueprint is None and diffusers_library.said_class(told) is not None:
        return diffusers_library.parts_of(told["config.json"], weights.tensors, request.latent_size)
    if found is None:
        return None
    return recognised.parts_of(found, weights.tensors, size=request.latent_size, condition=request.condition)


def _blueprint_given(request: Request, weights: Weights | None = None) -> Blueprint | None:
    """Return the blueprint that the user gave, or that stands beside the file where it carries none itself."""
    own = Blueprint.from_metadata(weights.metadata) if weights is not None else None
    return architecture.given(request.blueprint, request.source.path, own)


def _one_set(request: Request, weights: Weights, *, fold: bool = True) -> Weights:
    """Return one set of weights by their plain names; `fold` joins what weight normalisation split."""
    chosen = naming.chosen_set(weights.tensors, request.weights)
    tensors = {name: weights.tensors[own] for name, own in chosen.names.items()}
    if fold:
        tensors = naming.folded(tensors, naming.joined)
    return replace(weights, tensors=tensors, notes=(*chosen.notes, *weights.notes))


# -- the user's own code ----------------------------------------------------------------------------------


def _by_factory(request: Request, maker: Callable[..., Any]) -> Found:
    """Let the user's factory build the network, and load the file's weights into it."""
    from vaeprobe.checkpoints import modules, whole

    how = f"arch {request.arch or getattr(maker, '__name__', 'factory')}"
    settings = _settings(request)
    arguments, reads = factory.arguments(maker, request.arch_args, settings, request.source.path)
    built = factory.call(maker, **arguments)
    notes: tuple[Finding, ...] = ()
    format = "read by the factory"
    if not reads:
        weights, format = _bare_weights(request)
        module = built.module if isinstance(built, Decoder) else built
        if not isinstance(module, nn.Module):
            raise UsageError(
                f"the factory returned {type(built).__name__}, not an nn.Module to load weights into",
                hint="a factory that reads the file itself takes its path: def factory(path): ...",
            )
        notes = (*weights.notes, *factory.fill(module.eval(), weights.tensors))
    if isinstance(built, Decoder):
        return Found(parts=_parts_of_decoder(built, how), format=format, notes=notes)
    if request.submodule is None and whole.is_whole(built):
        d = request.latent_dim or whole.latents_named(built, settings)
        return Found(parts=whole.halves(built, latent_dim=d, architecture=how), format=format, notes=notes)
    part = factory.pick(built, request.submodule)
    if isinstance(part, nn.Module) and request.latent_dim is None:
        parts = modules.parts_of(part, latent_dim=whole.latents_named(built, settings), architecture=how)
        return Found(parts=parts, format=format, notes=notes)
    if request.latent_dim is None:
        raise UsageError("a callable does not say how many latents it takes", hint="add --latent-dim D")
    plain = Parts(decoder=part, latent_dim=request.latent_dim, architecture=how)
    return Found(parts=plain, format=format, notes=notes)


def _settings(request: Request) -> dict[str, Any]:
    """Return the hyper-parameters that a file says beside its weights; none where it is no torch file."""
    try:
        format = sniff(request.source)
        if format not in ("torch zip", "torch legacy", "pickle"):
            return {}
        file = read_torch_file(request.source.data, request.name, format)
        told = said.in_file(file)
    except (InputError, UnsafeError):  # the factory may read what vaeprobe does not
        return {}
    root = file.root if isinstance(file.root, dict) else {}
    plain = {str(k): v for k, v in root.items() if isinstance(v, (bool, int, float, str))}
    return plain | {str(k): v for entry in told.values() if isinstance(entry, dict) for k, v in entry.items()}


def _parts_of_decoder(decoder: Decoder, how: str) -> Parts:
    """Return the pieces of a decoder that a factory returned, to be checked again with the file's weights."""
    return Parts(
        decoder=decoder.module or decoder.function,
        natural=decoder.natural,
        latent_dim=decoder.latent_dim,
        prior=decoder.prior,
        parameter=decoder.parameter,
        likelihood=decoder.likelihood,
        encoder=decoder.encoder,
        architecture=how,
        notes=decoder.notes,
    )


def _bare_weights(request: Request) -> tuple[Weights, str]:
    """Return the weights of a file by name, whatever holds them."""
    format = sniff(request.source)
    if format in ("torch zip", "torch legacy", "pickle"):
        file = read_torch_file(request.source.data, request.name, format)
        chosen = selection.select(file, request.name, request.key, request.weights)
        weights = _one_set(request, realise(selection.tensors_of(file, chosen.node)), fold=False)
        return replace(weights, notes=(*chosen.notes, *weights.notes)), "state_dict"
    if format == "safetensors":
        specs, metadata = safetensors.read(request.source.data)
        weights = realise(selection.under_key(specs, request.name, request.key)[0], metadata)
        return _one_set(request, weights, fold=False), "safetensors"
    raise UsageError(f"{request.name} is {format}, and --arch needs bare weights", hint="leave out --arch")


# -- the decoder ------------------------------------------------------------------------------------------


def _decoder(found: Found, request: Request, dtype: torch.dtype | None, device: torch.device) -> Decoder:
    """Check the contract of `Decoder`."""
    parts, source = found.parts, request.source
    if request.latent_dim not in (None, parts.latent_dim):
        raise UsageError(
            f"{source.name} has {parts.latent_dim} latents, not {request.latent_dim}",
            hint="leave out --latent-dim",
        )
    held(parts.conditions, request.condition)  # what was asked for and is not there is refused
    if request.latent_size is not None and not parts.latent_shape:
        raise UsageError(f"the latents of {source.name} are no map", hint="leave out --latent-size")
    notes = (*found.notes, *parts.notes)
    artifact = Artifact(
        path=source.shown,
        sha256=source.sha256,
        size=source.size,
        format=found.format,
        architecture=parts.architecture + _drafted(notes),
        details={**found.details, **({"recipe": parts.recipe.to_dict()} if parts.recipe else {})},
    )
    try:
        return Decoder(
            _moved(parts.decoder, dtype, device),
            parts.latent_dim,
            name=source.folder.path.name if isinstance(source, folders.InFolder) else source.path.stem,
            dtype=dtype,
            device=device,
            prior=parts.prior,
            parameter=parts.parameter,
            natural=_moved(parts.natural, dtype, device) if parts.natural is not None else None,
            likelihood=parts.likelihood,
            output=None if found.output_taken else request.output,
            encoder=_moved_encoder(parts.encoder, dtype, device) if parts.encoder is not None else None,
            artifact=artifact,
            notes=notes,
            latent_shape=parts.latent_shape,
            recipe=parts.recipe,
            dispersion=parts.dispersion,
        )
    except ContractError as error:
        broken = next((note for note in notes if note.spec is NONFINITE_WEIGHTS), None)
        if broken is not None and "NaN" in error.message:
            raise ContractError(f"{error.message}; {broken.message}", hint=broken.hint) from None
        raise


def _drafted(notes: Sequence[Finding]) -> str:
    """Return what a header says of an architecture that is a guess."""
    return ", a draft that rests on guesses" if any(note.spec is DRAFT_BLUEPRINT for note in notes) else ""


def _moved(
    function: Callable[[Tensor], Any], dtype: torch.dtype | None, device: torch.device
) -> Callable[[Tensor], Any]:
    return function.to(device=device, dtype=dtype) if isinstance(function, nn.Module) else function


def _moved_encoder(encoder: Encoder, dtype: torch.dtype | None, device: torch.device) -> Encoder:
    function = encoder.function
    if isinstance(function, nn.Module):
        function = function.to(device=device, dtype=dtype)
    return replace(encoder, function=function, dtype=dtype or encoder.dtype, device=device)
