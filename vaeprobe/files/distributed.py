"""Distributed checkpoints of torch: a folder of `.distcp` files, and an index that says where in them each tensor lies.

The index, `.metadata`, is a pickle of torch's own classes; it is read as data, and refused if it asks for any other name.
A `.distcp` file is a row of torch files, one for each part of a tensor, which are read and scanned as every torch file is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vaeprobe.errors import InputError, ResourceError, UnsafeError
from vaeprobe.files import torch_pickles
from vaeprobe.files.inert import Built, Global, Node, Opaque, Pickle
from vaeprobe.files.pickles import PickleError, interpret
from vaeprobe.files.source import quoted
from vaeprobe.files.tensors import DTYPES, TensorSpec, contiguous
from vaeprobe.files.torch_pickles import CUT, text_of
from vaeprobe.files.trust import foreign, misuse, named, refuse_dangerous

__all__ = ["INDEX", "Distributed", "SUFFIX", "is_distributed", "read", "tensors"]

INDEX = ".metadata"
SUFFIX = ".distcp"
PACKAGE = "torch.distributed.checkpoint"
# what torch's own index is made of
OWN = frozenset(
    f"{PACKAGE}.{name}"
    for name in [
        "metadata.Metadata",
        "metadata.TensorStorageMetadata",
        "metadata.BytesStorageMetadata",
        "metadata.TensorProperties",
        "metadata.ChunkStorageMetadata",
        "metadata.MetadataIndex",
        "metadata.StorageMeta",
        "metadata._MEM_FORMAT_ENCODING",
        "filesystem._StorageInfo",
    ]
)
CONVERT = (
    "of one of your own, python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER model.pt makes a file"
    " (in Python, dcp_to_torch_save)"
)
MOST_PARTS = 200_000


@dataclass(frozen=True)
class Piece:
    """One part of a tensor: where it begins in the tensor, its shape, and the bytes of a file that hold it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int
    length: int


@dataclass(frozen=True)
class Stored:
    """A tensor of the index: its type, its shape, its parts, and the keys that led to it when it was saved."""

    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Piece, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Distributed:
    """What an index says: its tensors by name."""

    stored: Mapping[str, Stored]

    @property
    def files(self) -> tuple[str, ...]:
        """The files that hold them, in order, once each."""
        return tuple(dict.fromkeys(part.file for tensor in self.stored.values() for part in tensor.parts))


def is_distributed(names: Iterable[str]) -> bool:
    """Return whether a folder of these names holds a distributed checkpoint."""
    names = set(names)
    return INDEX in names and any(name.endswith(SUFFIX) for name in names)


def read(data: bytes, name: str) -> Distributed:
    """Read an index; `name` is how messages call the folder.

    Raises:
        UnsafeError: it asks for names that torch's own index does not, or leads out of the folder.
        InputError: it is damaged, or laid out in a way that is not known.
    """
    what = f"{name} is a distributed checkpoint of torch"
    try:
        pickle = interpret(data)
        _refuse(pickle, what)
        return Distributed(dict(_tensors(pickle.root, what)))
    except PickleError as error:
        refuse_dangerous(name, error.globals)
        unknown = [g for g in foreign(error.globals) if str(g) not in OWN]
        if unknown:
            raise UnsafeError(f"{what}, whose index would import {named(unknown)}", about=name) from None
        raise InputError(
            f"{what}, whose index is damaged: {error.message}", hint=CONVERT, about=name
        ) from None
    except (AttributeError, TypeError, KeyError, ValueError, IndexError):
        raise InputError(f"{what}, in a layout that is not known", hint=CONVERT, about=name) from None


def _refuse(pickle: Pickle, what: str) -> None:
    refuse_dangerous("its index", pickle.globals)
    unknown = [g for g in foreign(pickle.globals) if str(g) not in OWN]
    why = misuse(pickle)
    if unknown or why:
        said = f"import {named(unknown)}" if unknown else str(why)
        raise UnsafeError(
            f"{what}, whose index would {said}: nothing of it was read",
            hint="torch's own index asks for no such thing: do not open it with another tool",
            about=what,
        )


def _tensors(root: Node, what: str) -> Iterator[tuple[str, Stored]]:
    state = _state(root, "metadata.Metadata")
    places = {}
    for key, info in state["storage_data"].items():
        index = _state(key.value if isinstance(key, Opaque) else key, "metadata.MetadataIndex")
        at = _state(info, "filesystem._StorageInfo")
        if at.get("transform_descriptors"):
            raise InputError(f"{what} whose tensors are compressed", hint=CONVERT, about=what)
        offset = index.get("offset")
        places[index["fqn"], None if offset is None else _sizes(offset)] = at
    led = state.get("planner_data") or {}
    if len(places) > MOST_PARTS:
        raise ResourceError(f"{what} in {len(places):,} parts, more than any decoder's", about=what)
    for name, entry in state["state_dict_metadata"].items():
        if not entry.by(f"{PACKAGE}.metadata.TensorStorageMetadata"):
            continue  # a step, a name, a setting: an object pickled by itself
        tensor = entry.state
        dtype = _dtype(tensor["properties"])
        parts = tuple(_part(places, name, chunk.state) for chunk in tensor["chunks"])
        keys = led.get(name, (name,))
        yield (
            text_of(name),
            Stored(dtype, _sizes(tensor["size"]), parts, tuple(str(k) for k in keys)),
        )


def _part(places: Mapping[Any, Any], name: str, chunk: Any) -> Piece:
    offsets = _sizes(chunk["offsets"])
    at = places.get((name, offsets)) or places[name, None]
    file, start, length = at["relative_path"], at["offset"], at["length"]
    if not isinstance(file, str) or "/" in file or "\\" in file or not file.endswith(SUFFIX):
        raise UnsafeError(f"the index names the file {quoted(str(file))}, which is not beside it")
    if type(start) is not int or type(length) is not int or start < 0 or length < 0:
        raise ValueError
    return Piece(offsets, _sizes(chunk["sizes"]), file, start, length)


def _state(node: Node, kind: str) -> Any:
    """Return the attributes of an object of torch's own."""
    if not isinstance(node, Built) or not node.by(f"{PACKAGE}.{kind}") or not isinstance(node.state, dict):
        raise ValueError
    return node.state


def _dtype(properties: Built) -> str:
    state = properties.state
    if not isinstance(state, (dict, tuple, list)):
        raise ValueError
    first = state["dtype"] if isinstance(state, dict) else state[0]
    if not isinstance(first, Global) or first.name not in DTYPES:
        raise ValueError
    return first.name


def _sizes(node: Node) -> tuple[int, ...]:
    values = node.args[0] if isinstance(node, Built) and node.by("torch.Size") and node.args else node
    if isinstance(node, Built) and not node.args:
        return ()
    if not isinstance(values, (tuple, list)) or not all(type(n) is int and n >= 0 for n in values):
        raise ValueError
    return tuple(values)


# -- the numbers --------------------------------------------------------------------------------------


def tensors(index: Distributed, files: Mapping[str, bytes], name: str) -> dict[str, TensorSpec]:
    """Return the tensors of an index, each put together of its parts.

    Args:
        files: the bytes of `index.files`.
        name: how messages call the folder.

    Raises:
        UnsafeError: a part asks for more than tensors.
        InputError: a part is missing, overlaps another, or is not what the index says.
    """
    held = sum(map(len, files.values()))
    claimed = sum(math.prod(t.shape) * DTYPES[t.dtype] for t in index.stored.values())
    if claimed > held:
        raise InputError(
            f"{name} has an index of {claimed:,} bytes of numbers, and files of {held:,} bytes",
            hint=CUT,
            about=name,
        )
    return {key: _whole(key, tensor, files, name) for key, tensor in index.stored.items()}


def _whole(key: str, tensor: Stored, files: Mapping[str, bytes], name: str) -> TensorSpec:
    """Return a tensor, put together of its parts."""
    wrong = f"{name}: the parts of tensor {quoted(key)} are not those of its shape {list(tensor.shape)}"
    if sum(math.prod(part.sizes) for part in tensor.parts) != math.prod(tensor.shape):
        raise InputError(wrong, hint="was a file lost, or the save interrupted?", about=name)
    found = [(part, _read(key, part, tensor.dtype, files, name)) for part in tensor.parts]
    if len(found) == 1 and tensor.parts[0].sizes == tensor.shape:
        return found[0][1]
    import numpy as np

    size = DTYPES[tensor.dtype]
    kind = np.dtype(f"V{size}")
    out = np.zeros(tensor.shape, kind)
    filled = np.zeros(tensor.shape, bool)
    for part, spec in found:
        ends = [o + n for o, n in zip(part.offsets, part.sizes, strict=True)]
        where = tuple(slice(o, e) for o, e in zip(part.offsets, ends, strict=True))
        if len(ends) != len(tensor.shape) or any(e > n for e, n in zip(ends, tensor.shape, strict=True)):
            raise InputError(wrong, about=name)
        numbers = np.frombuffer(spec.data[: len(spec.data) // size * size], kind)
        steps = tuple(s * size for s in spec.stride)
        out[where] = np.lib.stride_tricks.as_strided(numbers[spec.offset :], spec.shape, steps)
        filled[where] = True
    if not filled.all():
        raise InputError(wrong, hint="was a file lost, or the save interrupted?", about=name)
    return TensorSpec(tensor.dtype, tensor.shape, contiguous(tensor.shape), 0, memoryview(out.tobytes()))


def _read(key: str, part: Piece, dtype: str, files: Mapping[str, bytes], name: str) -> TensorSpec:
    data = files.get(part.file)
    where = f"tensor {quoted(key)} in {quoted(part.file)}"
    if data is None or part.start + part.length > len(data):
        raise InputError(f"{name} lacks the bytes of {where}", hint=CUT, about=name)
    file = torch_pickles.read(data[part.start : part.start + part.length], where, "torch zip")
    unknown = foreign(file.globals)
    if unknown:
        raise UnsafeError(f"{name}: {where} would import {named(unknown)} when it is unpickled", about=name)
    if not file.is_tensor(file.root):
        raise InputError(f"{name}: {where} is no tensor", hint=CUT, about=name)
    spec = file.spec(file.root)
    if spec.shape != part.sizes or spec.dtype != dtype or spec.big_endian:
        raise InputError(f"{name}: {where} is not what the index says", hint=CUT, about=name)
    return spec
