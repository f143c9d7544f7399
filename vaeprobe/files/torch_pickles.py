"""Files of torch.save (zip, and the older non-zip form) and plain pickles of tensors, without torch.

`read` finds the pickle and the storages, and `TorchFile.spec` says of a value in the pickle which tensor it
describes: dtype, shape, strides and the bytes behind it, every claim checked against the bytes that are there.

Source: torch/serialization.py, `_save`, `_legacy_save` and `_legacy_load`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeGuard

from vaeprobe.errors import InputError, ResourceError, UnsafeError
from vaeprobe.files.inert import Built, Global, Named, Node, Persistent, Pickle, unfolded
from vaeprobe.files.pickles import PickleError, interpret
from vaeprobe.files.source import quoted
from vaeprobe.files.tensors import DTYPES, TensorSpec, contiguous
from vaeprobe.files.trust import LOADER, STORAGES, foreign, is_named_value, misuse, named, refuse_dangerous
from vaeprobe.files.zips import END_RECORD, Archive, has_zip_end, open_archive

__all__ = ["LEGACY_HEAD", "TorchFile", "from_archive", "read", "text_of"]

TorchContainer = Literal["torch zip", "torch legacy", "pickle"]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_HEAD = b"\x80\x02\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little")
DEEPEST = 4  # storages within storages
MOST_UNFOLDED = 1_000_000  # containers on all paths; large checkpoints have some thousands
LARGEST_VIEW = 1 << 30  # bytes of a tensor that is larger than its storage (strides of 0)
CUT = "the file is truncated or damaged: fetch it again"


@dataclass(frozen=True)
class TorchFile:
    """What a torch file or a pickle holds, nothing of it built.

    Attributes:
        container: how it is packed.
        root: the value that it holds, inert.
        globals: every name that unpickling it would import.
        called: those of them that it would call; of other classes it makes objects, named values (members of
            enumerations), or keeps them as values.
    """

    container: TorchContainer
    root: Node
    globals: tuple[Global, ...]
    called: frozenset[Global] = frozenset()
    _storages: Mapping[str, memoryview] = field(default_factory=dict, repr=False)
    _big_endian: bool = False
    _nested: Mapping[int, TorchFile] = field(default_factory=dict, repr=False)
    _specs: dict[int, TensorSpec | None] = field(default_factory=dict, repr=False)

    def is_tensor(self, node: Node) -> TypeGuard[Named]:
        """Return whether a value describes a tensor or an array, of any kind."""
        return isinstance(node, Built) and isinstance(node.maker, Global) and _tensor_maker(node.maker)

    def spec(self, node: Node) -> TensorSpec:
        """Return the dense tensor that a value describes.

        Raises:
            InputError: it is no dense tensor of numbers, or claims numbers that the file does not hold.
            ResourceError: it claims over 1 GiB that the file does not hold (strides of zero).
        """
        try:
            return self._dense(node)
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError("a tensor is described in a way that torch never writes", hint=CUT) from None

    def _dense(self, node: Node) -> TensorSpec:
        if not isinstance(node, Built) or not isinstance(node.maker, Global):
            raise TypeError("a tensor that nothing makes")
        args, state = node.args, node.state
        match node.maker.name:
            case "_rebuild_tensor_v2" | "_rebuild_tensor":
                return self._strided(*args[:4])
            case "_rebuild_tensor_v3":
                kind = args[6]
                if not isinstance(kind, Global):
                    raise TypeError("a tensor without a type of numbers")
                return self._strided(*args[:4], dtype=kind.name)
            case "_rebuild_parameter" | "_rebuild_parameter_with_state":
                return self._dense(args[0])
            case "_rebuild_from_type_v2":
                if not isinstance(args[2], tuple):
                    raise TypeError("a tensor made of no arguments")
                return self._dense(Built(args[0], args[2]))
            case "Parameter" | "Buffer":
                return self._dense(args[0] if args else _items(state)[0])
            case "_reconstruct":
                _, shape, dtype, fortran, raw = _items(state)
                return _array(raw, dtype, shape, bool(fortran))
            case "_frombuffer":
                raw, dtype, shape, order = args[:4]
                return _array(raw, dtype, shape, order == "F")
            case name if name.endswith("Tensor") and isinstance(state, tuple):  # torch < 0.4
                return self._strided(*state[:4])
            case name:
                kind = name.removeprefix("_rebuild_").removesuffix("_tensor").replace("qtensor", "quantised")
                raise InputError(
                    f"a tensor in the file is {kind.replace('_', ' ')}, which has no dense weights to read",
                    hint="save dense float weights: tensor.to_dense() or tensor.dequantize() before torch.save",
                )

    def _strided(
        self,
        storage: Node,
        first: Node,
        sizes: Node,
        steps: Node,
        *,
        dtype: str | None = None,
    ) -> TensorSpec:
        stored, data, start = self._storage(storage)
        dtype = dtype or stored
        shape, stride = _sizes(sizes), _sizes(steps)
        if type(first) is not int:
            raise TypeError("a tensor that begins nowhere")
        offset = first
        offset += start
        size = DTYPES[dtype]
        if len(shape) != len(stride) or len(shape) > 32 or offset < 0:
            raise InputError("a tensor is described in a way that torch never writes", hint=CUT)
        spec = TensorSpec(dtype, shape, stride, offset, data, self._big_endian)
        if 0 in shape:
            return spec
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if (last + 1) * size > len(data):
            raise InputError(
                f"a tensor of shape {list(shape)} claims {(last + 1) * size:,} bytes of a storage of {len(data):,}",
                hint=CUT,
            )
        if spec.nbytes > len(data) and spec.nbytes > LARGEST_VIEW:
            raise ResourceError(
                f"a tensor of shape {list(shape)} repeats {len(data):,} bytes into {spec.nbytes:,}",
                hint="no decoder needs that: ask for the weights as safetensors",
            )
        return spec

    def _storage(self, node: Node) -> tuple[str, memoryview, int]:
        """Return the dtype, the bytes, and the first number of a storage."""
        if isinstance(node, Built) and id(node) in self._nested:
            inner = self._nested[id(node)]
            return inner._storage(inner.root)
        if isinstance(node, Built) and node.by("torch.storage.TypedStorage"):
            raise InputError("a storage is described in a way that torch never writes", hint=CUT)
        dtype, key, numel, view = _storage_id(node)
        data = self._storages.get(key)
        if data is None:
            raise InputError(f"the file lacks the numbers of storage {quoted(key)}", hint=CUT)
        if numel * DTYPES[dtype] != len(data):
            raise InputError(
                f"storage {quoted(key)} claims {numel:,} numbers of {dtype} and holds {len(data):,} bytes",
                hint=CUT,
            )
        return dtype, data, view


def read(data: bytes, file: str, container: TorchContainer) -> TorchFile:
    """Read the structure of a file; `file` is how messages call it.

    Raises:
        UnsafeError: it asks for a name made to run something, is two files in one, or its zip is unsafe.
        InputError: it is damaged, or holds the same values in more places than a walk through it could visit.
        ResourceError: it describes more than fits.
    """
    try:
        found = _READERS[container](data)
    except PickleError as error:
        refuse_dangerous(file, error.globals)
        unknown = foreign(error.globals)
        if unknown:
            raise UnsafeError(
                f"{file} would import {named(unknown)} before it breaks off: {error.message}",
                hint=error.hint,
                about=file,
            ) from None
        raise InputError(f"{file}: {error.message}", hint=error.hint, about=file) from None
    refuse_dangerous(file, found.globals)
    if unfolded(found.root, MOST_UNFOLDED) == MOST_UNFOLDED:
        raise InputError(
            f"{file} has over {MOST_UNFOLDED:,} values within values, counting each wherever it is held",
            hint="no checkpoint needs that: ask for the weights alone, as safetensors",
            about=file,
        )
    return found


# -- the three containers -------------------------------------------------------------------------


def _read_zip(data: bytes) -> TorchFile:
    archive = open_archive(data)
    if "data.pkl" not in archive:
        raise InputError("the zip archive has no `data.pkl`: it is no file of torch.save")
    return from_archive("torch zip", archive, "data.pkl", "data/")


def from_archive(container: TorchContainer, archive: Archive, name: str, folder: str) -> TorchFile:
    """Return what a pickle of an archive holds, whose storages lie in a folder of it.

    Raises:
        UnsafeError: it uses harmless names to do harm.
        PickleError: it is damaged.
    """
    reader = _Reader()
    pickle = reader.read(archive.read(name))
    storages = {n[len(folder) :]: record for n, record in archive.records.items() if n.startswith(folder)}
    big_endian = "byteorder" in archive and archive.read("byteorder") == b"big"
    return reader.file(container, pickle, storages, big_endian=big_endian)


def _read_legacy(data: bytes, depth: int = 0) -> TorchFile:
    reader = _Reader(depth)
    at = 0
    heads = []
    for _ in range(3):  # a magic number, the protocol's version, the writer's machine
        heads.append(reader.read(data, at))
        at = heads[-1].end
    machine = heads[2].root if isinstance(heads[2].root, dict) else {}
    body = reader.read(data, at)
    keys = reader.read(data, body.end)
    big_endian = machine.get("little_endian") is False
    storages, end = _legacy_storages(data, keys, body, big_endian)
    _refuse_tail(data, end)
    return reader.file("torch legacy", body, storages, big_endian=big_endian)


def _legacy_storages(
    data: bytes, keys: Pickle, body: Pickle, big_endian: bool
) -> tuple[dict[str, memoryview], int]:
    """Return the bytes of each storage, which follow the pickles in the order of `keys`, and where they end."""
    types: dict[str, str] = {}
    for reference in body.persistent:
        dtype, key, _, _ = _storage_id(reference)
        types.setdefault(key, dtype)
    view = memoryview(data)
    out: dict[str, memoryview] = {}
    at = keys.end
    if not isinstance(keys.root, list):
        raise PickleError("the list of storages is missing", body.globals)
    for name in keys.root:
        key = text_of(name)
        if key not in types or at + 8 > len(data):
            raise PickleError(f"the numbers of storage {quoted(key)} are missing", body.globals)
        (count,) = struct.unpack_from(">q" if big_endian else "<q", data, at)
        size = count * DTYPES[types[key]]
        if count < 0 or at + 8 + size > len(data):
            raise PickleError(
                f"storage {quoted(key)} claims {size:,} bytes and {len(data) - at - 8:,} follow", body.globals
            )
        out[key] = view[at + 8 : at + 8 + size]
        at += 8 + size
    return out, at


def _read_pickle(data: bytes) -> TorchFile:
    reader = _Reader()
    pickle = reader.read(data)
    _refuse_tail(data, pickle.end)
    return reader.file("pickle", pickle, {})


class _Reader:
    """Reads the pickles of one file, and the torch files inside them, which plain pickles of tensors have as storages.

    Attributes:
        names: every name that unpickling would import, so far.
        called: those that it would call, for more than a named value.
        nested: the torch files, by the id of the call that would load them.
    """

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth
        self.names: dict[Global, None] = {}
        self.called: set[Global] = set()
        self.nested: dict[int, TorchFile] = {}

    def read(self, data: bytes, at: int = 0) -> Pickle:
        """Read a pickle.

        Raises:
            UnsafeError: it uses harmless names to do harm, if only before it breaks off.
            PickleError: it is damaged.
        """
        try:
            pickle = interpret(data, at)
            self.judge(pickle)
        except PickleError as error:
            if error.partial is not None:
                self.judge(error.partial)
            raise PickleError(error.message, (*self.names, *error.globals)) from None
        return pickle

    def judge(self, pickle: Pickle) -> None:
        self.names.update(dict.fromkeys(pickle.globals))
        self.called.update(
            c.maker
            for c in pickle.calls
            if isinstance(c.maker, Global) and (c.args or not c.new) and not is_named_value(c)
        )
        for call in pickle.calls:
            data = _bytes_of(call.args[0]) if call.by(LOADER) and len(call.args) == 1 else None
            if data is not None and data.startswith(LEGACY_HEAD) and self.depth < DEEPEST:
                inner = _read_legacy(data, self.depth + 1)
                self.nested[id(call)] = inner
                self.names.update(dict.fromkeys(inner.globals))
                self.called |= inner.called
        why = misuse(pickle, self.nested)
        if why:
            refuse_dangerous("the file", self.names)
            raise UnsafeError(
                f"the file would {why} when it is unpickled: nothing of it was run",
                hint="no library writes such a checkpoint: do not open it with another tool; ask for safetensors",
            )

    def file(
        self,
        container: TorchContainer,
        pickle: Pickle,
        storages: Mapping[str, memoryview],
        *,
        big_endian: bool = False,
    ) -> TorchFile:
        return TorchFile(
            container,
            pickle.root,
            tuple(self.names),
            frozenset(self.called),
            storages,
            big_endian,
            self.nested,
        )


_READERS = {"torch zip": _read_zip, "torch legacy": _read_legacy, "pickle": _read_pickle}


def _refuse_tail(data: bytes, end: int) -> None:
    if end == len(data):
        return
    if END_RECORD in data[end:] and has_zip_end(data):
        raise UnsafeError(
            "the file is a pickle and a zip archive at once, so that two readers can see two different files",
            hint="ask for a file as torch.save writes it",
        )
    raise InputError(f"{len(data) - end:,} bytes follow the end of the checkpoint", hint=CUT)


# -- values ---------------------------------------------------------------------------------------


def text_of(node: Node) -> str:
    """Return text that may have been written as bytes."""
    return node.decode("ascii", "replace") if isinstance(node, bytes) else str(node)


def _bytes_of(node: Node) -> bytes | None:
    """Return bytes, which protocol 2 writes as `_codecs.encode(text, "latin1")`; None for anything else."""
    if isinstance(node, Built) and node.by("_codecs.encode") and node.args and isinstance(node.args[0], str):
        try:
            return node.args[0].encode("latin-1")
        except UnicodeEncodeError:
            return None
    if isinstance(node, Built) and node.by("builtins.bytes") and not node.args:
        return b""
    return bytes(node) if isinstance(node, bytes) else None


def _storage_id(node: Node) -> tuple[str, str, int, int]:
    """Return dtype, key, number of elements and first element of a persistent id ("storage", ...)."""
    id = node.id if isinstance(node, Persistent) else None
    if (
        not isinstance(id, tuple)
        or len(id) < 5
        or text_of(id[0]) != "storage"
        or not isinstance(id[1], Global)
    ):
        raise PickleError("a reference to something that is no storage", ())
    dtype = STORAGES.get(id[1].name)
    if dtype is None or not isinstance(id[4], int) or id[4] < 0:
        raise PickleError(f"a storage of unknown type {quoted(str(id[1]))}", ())
    view = id[5] if len(id) > 5 else None
    start = view[1] if isinstance(view, tuple) and len(view) == 3 and isinstance(view[1], int) else 0
    return dtype, text_of(id[2]), id[4], start


def _sizes(node: Node) -> tuple[int, ...]:
    """Return a shape, which may be a tuple or a torch.Size."""
    if isinstance(node, Built) and node.by("torch.Size"):
        (node,) = node.args
    if not isinstance(node, (tuple, list)) or not all(type(n) is int and n >= 0 for n in node):
        raise InputError("a tensor has a shape that is none", hint=CUT)
    return tuple(node)


def _tensor_maker(maker: Global) -> bool:
    """Return whether a global makes tensors or arrays."""
    if maker.module in ("torch._utils", "torch._tensor"):
        return maker.name.startswith("_rebuild_")
    if maker.module in ("torch", "torch.cuda"):
        return maker.name.endswith("Tensor")
    if maker.module.startswith(("numpy.core.", "numpy._core.")):
        return maker.name in ("_reconstruct", "_frombuffer")
    return maker.module == "torch.nn.parameter"


# numpy's codes, without the byte order
_NUMPY = {
    "f8": "float64",
    "f4": "float32",
    "f2": "float16",
    "i8": "int64",
    "i4": "int32",
    "i2": "int16",
    "i1": "int8",
    "u8": "uint64",
    "u4": "uint32",
    "u2": "uint16",
    "u1": "uint8",
    "b1": "bool",
    "c8": "complex64",
    "c16": "complex128",
}


def _items(node: Node) -> Sequence[Node]:
    if not isinstance(node, (tuple, list)):
        raise TypeError("a state that is no sequence")
    return node


def _array(raw: Node, dtype: Node, sizes: Node, fortran: bool) -> TensorSpec:
    """Return a numpy array in a pickle."""
    if not isinstance(dtype, Built):
        raise TypeError("an array without a type of numbers")
    code = dtype.args[0]
    if not isinstance(code, str) or code not in _NUMPY:
        raise InputError(
            f"an array in the file holds {quoted(str(code))}, not numbers", hint="save numeric arrays alone"
        )
    data = memoryview(_bytes_of(raw) or b"")
    shape = _sizes(sizes)
    size = DTYPES[_NUMPY[code]]
    if math.prod(shape) * size != len(data):
        raise InputError(f"an array of shape {list(shape)} comes with {len(data):,} bytes", hint=CUT)
    stride = contiguous(shape[::-1])[::-1] if fortran else contiguous(shape)
    big = isinstance(dtype.state, tuple) and len(dtype.state) > 1 and dtype.state[1] == ">"
    return TensorSpec(_NUMPY[code], shape, stride, 0, data, big)
