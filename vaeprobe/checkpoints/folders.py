"""Folders that hold one model: which files its weights are, and what the folder says of it.

Nothing outside the folder is read: a name that leads out of it, by `..` or by a symbolic link, is refused (but for the links
of the Hugging Face Hub's cache to its own store).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from vaeprobe.checkpoints import said
from vaeprobe.errors import InputError, UnsafeError
from vaeprobe.files import addresses, distributed
from vaeprobe.files.source import Source, quoted, read_source

__all__ = ["Folder", "InFolder", "is_distributed", "joined", "open_folder", "read", "said_beside", "shards"]

T = TypeVar("T")
PARTS = ("vae", "vqvae", "movq")  # where a pipeline's folder has its autoencoder
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
INDEX = ".index.json"
LIBRARYS = (
    "diffusion_pytorch_model"  # how diffusers calls weights, whose architecture stands in the config beside
)
LARGEST_INDEX = 200_000  # tensors


@dataclass(frozen=True)
class Folder:
    """A model in a folder.

    Attributes:
        path: as the user gave it.
        weights: the files of its weights.
        said: what its configs say, by file name.
        placed: of sharded weights, the file of each tensor.
    """

    path: Path
    weights: tuple[Path, ...]
    said: Mapping[str, object] = field(default_factory=dict)
    placed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class InFolder(Source):
    """The weights of a model in a folder.

    Attributes:
        folder: the folder.
        shards: the files of sharded weights after the first.
    """

    folder: Folder = field(default_factory=lambda: Folder(Path(), ()))
    shards: tuple[Source, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the bytes that were read, of all files in order."""
        digest = hashlib.sha256(self.data)
        for shard in self.shards:
            digest.update(shard.data)
        return digest.hexdigest()

    @property
    def size(self) -> int:
        """Number of bytes of all files."""
        return len(self.data) + sum(shard.size for shard in self.shards)

    @property
    def shown(self) -> str:
        """The folder as the user gave it."""
        return self.address or str(self.folder.path)


def read(path: str | os.PathLike[str]) -> Source:
    """Read a file, or the weights of the model in a folder, by its path or address (see `vaeprobe.files.addresses`).

    Raises:
        InputError, ResourceError: as `read_source` and `open_folder`; a link, or a name of the Hub, without `hf:`.
        UnsafeError: the folder leads out of itself.
        UsageError: the address has a form that is not known.
    """
    if addresses.is_address(path):
        return replace(read(addresses.local(path)), address=str(path))
    addresses.refuse_others(path)
    if str(path).endswith(INDEX) and os.path.isfile(path):
        folder = _of_index(Path(path))
    elif os.path.isdir(path):
        folder = open_folder(Path(path))
    else:
        return _alone(read_source(path))
    if os.path.isdir(path) and folder.weights[0].name == distributed.INDEX:
        return _distributed(Path(path), folder.weights[0])
    first, *shards = (read_source(file) for file in folder.weights)
    return InFolder(first.path, first.data, folder=folder, shards=tuple(shards))


def _distributed(path: Path, index: Path) -> Source:
    """Read a distributed checkpoint: its index, and the files that this names."""
    first = read_source(index)
    names = distributed.read(first.data, _shown(path)).files
    for name in names:
        if not os.path.isfile(path / name):
            raise InputError(
                f"{_shown(path)} lacks {quoted(name)}, which its index names", hint="fetch the missing file"
            )
    files = tuple(read_source(_inside(path, path / name)) for name in names)
    # its blueprint stands beside the folder, as that of a file does
    return InFolder(path, first.data, folder=Folder(path, (index,)), shards=files)


def is_distributed(source: Source) -> bool:
    """Return whether a source is a distributed checkpoint."""
    return isinstance(source, InFolder) and [f.name for f in source.folder.weights] == [distributed.INDEX]


def said_beside(source: Source) -> Mapping[str, object]:
    """Return what the configs beside the weights say, by file name."""
    return source.folder.said if isinstance(source, InFolder) else {}


def shards(source: Source) -> tuple[Source, ...]:
    """Return the files of sharded weights after the first."""
    return source.shards if isinstance(source, InFolder) else ()


def joined(source: Source, tensors: Callable[[Source], Mapping[str, T]]) -> dict[str, T]:
    """Return the tensors of a file and its shards, held against the index where there is one.

    Args:
        tensors: reads those of one file.

    Raises:
        InputError: a tensor is in two shards, in none, in another than the index says, or not in the index.
    """
    found: dict[str, T] = {}
    where: dict[str, str] = {}
    files = (source, *shards(source))
    for file in files:
        name = file.path.name
        for key, tensor in tensors(file).items():
            if key in found:
                raise InputError(
                    f"tensor {quoted(key)} is in two shards, {quoted(where[key])} and {quoted(name)}",
                    hint="shards of two saves lie in one folder: take one of them away, or fetch the model again",
                )
            found[key], where[key] = tensor, name
    placed = source.folder.placed if isinstance(source, InFolder) else {}
    wrong = _astray(placed, where) if placed else None
    if wrong is not None:
        raise InputError(wrong, hint="index and shards are of two saves: fetch them again together")
    return found


def _astray(placed: Mapping[str, str], where: Mapping[str, str]) -> str | None:
    """Return what of an index is not so, None where all is."""
    for key, file in placed.items():
        if key not in where:
            return f"the index places tensor {quoted(key)} in {quoted(file)}, which does not hold it"
        if where[key] != file:
            return (
                f"the index places tensor {quoted(key)} in {quoted(file)}, and it is in {quoted(where[key])}"
            )
    extra = [key for key in where if key not in placed]
    if extra:
        more = f", and {len(extra) - 1} more" if len(extra) > 1 else ""
        return (
            f"{quoted(where[extra[0]])} holds tensor {quoted(extra[0])}{more}, which the index does not list"
        )
    return None


def open_folder(path: Path) -> Folder:
    """Return the model in a folder.

    Raises:
        InputError: there is none, or more than one could be meant.
        UnsafeError: a file of it lies outside.
    """
    names = _names(path)
    if distributed.is_distributed(names):
        return Folder(path, (_inside(path, path / distributed.INDEX),))
    if "model_index.json" in names:
        part = next((p for p in PARTS if (path / p / "config.json").is_file()), None)
        if part is None:
            raise InputError(
                f"{_shown(path)} is a pipeline without an autoencoder: it has none of the folders {', '.join(PARTS)}"
            )
        _inside(path, path / part)
        inner = open_folder(path / part)
        return Folder(path, inner.weights, inner.said, inner.placed)
    if "model_config.json" in names and "model.pt" in names:
        config = said.in_json(_inside(path, path / "model_config.json"))
        return Folder(path, (_inside(path, path / "model.pt"),), {"model_config.json": config})
    if "config.json" not in names and (below := _trained(path)) is not None:
        _inside(path, below)
        inner = open_folder(below)
        return Folder(path, inner.weights, inner.said, inner.placed)
    configs: dict[str, object] = {}
    if "config.json" in names:
        configs["config.json"] = said.in_json(_inside(path, path / "config.json"))
    best = _best(names)
    if best is None:
        raise InputError(f"{_shown(path)} is a directory without a model in it", hint=_hint(names))
    chosen = _inside(path, path / best)
    if best.endswith(INDEX):
        return replace(_of_index(chosen), path=path, said=configs)
    return Folder(path, (chosen,), configs)


def _of_index(index: Path) -> Folder:
    """Return the model whose shards an index names."""
    placed = _placed(index)
    files = tuple(_inside(index.parent, index.parent / name) for name in dict.fromkeys(placed.values()))
    return Folder(index, files, placed=placed)


def _alone(source: Source) -> Source:
    """Return a file, with its library's config where that stands beside it, unless it is one shard of several.

    Raises:
        InputError: it is.
    """
    name = source.path.name
    if name.endswith(distributed.SUFFIX) or name == distributed.INDEX:
        raise InputError(
            f"{source.name} is one part of a distributed checkpoint of torch",
            hint=f"give the folder, {quoted(str(source.path.parent))}",
            about=source.name,
        )
    shard = re.fullmatch(r"(.+)-\d{5}-of-\d{5}(\.\w+)", source.path.name)
    index = source.path.with_name(f"{shard[1]}{shard[2]}{INDEX}") if shard else None
    if index is not None and os.path.isfile(index):
        raise InputError(
            f"{source.name} is one shard of several, and holds a part of the tensors",
            hint=f"give the index beside it, {quoted(str(index))}, or the folder",
            about=source.name,
        )
    config = source.path.with_name("config.json")
    if source.path.name.startswith(LIBRARYS) and os.path.isfile(config):
        configs = {"config.json": said.in_json(_inside(config.parent, config))}
        return InFolder(source.path, source.data, folder=Folder(source.path, (source.path,), configs))
    return source


def _names(path: Path) -> list[str]:
    try:
        return sorted(p.name for p in path.iterdir() if p.is_file())
    except OSError as error:
        raise InputError(
            f"{_shown(path)} cannot be listed: {(error.strerror or str(error)).lower()}"
        ) from None


def _shown(path: Path) -> str:
    return quoted(str(path), limit=200)


def _inside(folder: Path, path: Path) -> Path:
    """Return a path in a folder.

    Raises:
        UnsafeError: it leads out of it.
    """
    real = os.path.realpath(path)
    if not any(os.path.commonpath([root, real]) == root for root in _roots(folder)):
        raise UnsafeError(
            f"{_shown(path)} leads out of its folder, and was not read",
            hint="give the file that it points at, or copy it into the folder",
        )
    return path


def _roots(folder: Path) -> list[str]:
    """Return the folder and, of one in the Hub's cache (`snapshots/REVISION`), where that keeps the files (`blobs`)."""
    root = os.path.realpath(folder)
    for parent in Path(root).parents:
        if parent.name == "snapshots" and (parent.parent / "blobs").is_dir():
            return [root, str(parent.parent / "blobs")]
    return [root]


def _trained(path: Path) -> Path | None:
    """Return the folder of a trainer's last model: `final_model`, or the latest `checkpoint_epoch_N`."""
    final = path / "final_model"
    if (final / "model_config.json").is_file():
        return final
    found: dict[int, Path] = {
        int(m[1]): p
        for p in path.iterdir()
        if (m := re.fullmatch(r"checkpoint_epoch_(\d{1,9})", p.name)) and (p / "model_config.json").is_file()
    }
    return found[max(found)] if found else None


def _best(names: list[str]) -> str | None:
    """Return the likeliest file of weights, None where several are as likely."""
    model = [n for n in names if n.startswith(("diffusion_pytorch_model", "model", "pytorch_model"))]
    index = [n for n in model if n.endswith(INDEX)]
    for suffix in WEIGHTS:
        whole = [n for n in model if n.endswith(suffix) and not re.search(r"-\d+-of-\d+\.", n)]
        plain = [n for n in whole if n.count(".") == 1]
        chosen = plain or whole or [n for n in index if n.endswith(suffix + INDEX)]
        if chosen:
            return min(chosen, key=lambda n: (n.count("."), n))
    alone = [n for n in names if n.endswith(WEIGHTS)]
    return alone[0] if len(alone) == 1 else None


def _hint(names: list[str]) -> str:
    found = [n for n in names if n.endswith(WEIGHTS)]
    listed = ", ".join(map(quoted, found[:4]))
    return f"give one of its files: {listed}" if found else "give the file of weights itself"


def _placed(index: Path) -> Mapping[str, str]:
    """Return the file of each tensor, as an index says it.

    Raises:
        InputError: it is no index.
        UnsafeError: it names a file elsewhere.
    """
    table = said.in_json(index).get("weight_map")
    entries = dict(_entries(table)) if isinstance(table, dict) and len(table) <= LARGEST_INDEX else {}
    if not entries:
        raise InputError(f"{_shown(index)} has no `weight_map` from tensors to files")
    for name in set(entries.values()):
        if name != os.path.basename(name) or name in ("", ".", "..") or "\\" in name:
            raise UnsafeError(f"{_shown(index)} names the file {quoted(name)}, which is not beside it")
        if not os.path.isfile(index.parent / name):
            raise InputError(
                f"{_shown(index)} names {quoted(name)}, which is not there", hint="fetch the missing shard"
            )
    return entries


def _entries(table: Mapping[object, object]) -> Iterator[tuple[str, str]]:
    for tensor, name in table.items():
        if isinstance(tensor, str) and isinstance(name, str):
            yield tensor, name
