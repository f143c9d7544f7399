"""Inputs of a graph: the latents, and weights and constants from their raw bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.checkpoints.programs.exported.document import at, items, name_of, parsed, table_of, union
from vaeprobe.errors import InputError, ResourceError, UnsafeError
from vaeprobe.files.harm import HINT_SAVE_ANEW
from vaeprobe.files.source import quoted
from vaeprobe.files.tensors import countable
from vaeprobe.files.zips import Archive

__all__ = ["DTYPES", "inputs_of"]

# torch/_export/serde/schema.py, ScalarType
DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
LARGEST_VIEW = 1 << 28  # bytes of a tensor that repeats its numbers (strides of 0)


def inputs_of(archive: Archive, stem: str, signature: object) -> Iterator[tuple[str, str, Tensor | None]]:
    """Yield (graph name, kind, tensor or None) of every input of the graph."""
    weights, constants = _payload(archive, stem, "weights"), _payload(archive, stem, "constants")
    for spec in items(signature, "input_specs"):
        kind, body = union(spec)
        if kind == "user_input":
            what, arg = union(at(body, "arg"))
            if what != "as_tensor":
                raise InputError(f"the program takes an input that is no tensor ({quoted(what)})")
            yield name_of(at(arg, "name")), kind, None
            continue
        key = {
            "parameter": "parameter_name",
            "buffer": "buffer_name",
            "tensor_constant": "tensor_constant_name",
        }.get(kind)
        if key is None:
            raise UnsafeError(f"the program has an input of kind {quoted(kind)}", hint=HINT_SAVE_ANEW)
        path, name = str(at(body, key)), name_of(at(body, "arg", "name"))
        meta = weights.get(path) or constants.get(path)
        if meta is None:
            raise InputError(f"the archive holds no tensor {quoted(path)}", hint="is the file truncated?")
        yield name, kind, _tensor(archive, meta, "weights" if path in weights else "constants", path)


def _payload(archive: Archive, stem: str, folder: str) -> Mapping[str, object]:
    name = f"data/{folder}/{stem}_{folder}_config.json"
    there = folder == "weights" or name in archive
    config = table_of(at(parsed(archive, name), "config")) if there else {}
    for key, meta in config.items():
        path = at(meta, "path_name")
        if table_of(meta).get("use_pickle") or not re.fullmatch(r"(weight|tensor)_\d+", str(path)):
            raise UnsafeError(
                f"the program keeps {quoted(key)} as a pickle, which torch.export.load would run",
                hint=HINT_SAVE_ANEW,
            )
    return config


def _tensor(archive: Archive, meta: object, folder: str, key: str) -> Tensor:
    path = f"data/{folder}/{at(meta, 'path_name')}"
    if path not in archive:
        raise InputError(f"the archive holds no {quoted(path)}", hint="is the file truncated?")
    raw = archive.records[path]
    info = at(meta, "tensor_meta")
    code = at(info, "dtype")
    dtype = DTYPES.get(code) if isinstance(code, int) else None
    if dtype is None:
        raise InputError(f"tensor {quoted(key)} has a type that is not supported (code {code})")
    sizes, strides = ([_size(n) for n in items(info, k)] for k in ("sizes", "strides"))
    offset = _size(at(info, "storage_offset"))
    if len(sizes) != len(strides) or not countable(sizes, dtype.itemsize):
        raise InputError(f"tensor {quoted(key)} is described in a way that torch never writes")
    last = offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    count = math.prod(sizes)
    if len(raw) % dtype.itemsize or (count and last >= len(raw) // dtype.itemsize):
        raise InputError(
            f"tensor {quoted(key)} claims {count:,} numbers that its {len(raw):,} bytes do not hold"
        )
    if count * dtype.itemsize > max(len(raw), LARGEST_VIEW):
        raise ResourceError(
            f"tensor {quoted(key)} claims {count:,} numbers, and its {len(raw):,} bytes repeat"
        )
    if not count:
        return cpu.zeros(sizes, dtype=dtype)
    flat = torch.frombuffer(bytearray(raw), dtype=dtype)  # a copy: the file's bytes are read-only
    return flat.as_strided(sizes, strides, offset)


def _size(value: object) -> int:
    kind, n = union(value)
    if kind != "as_int" or type(n) is not int or not 0 <= n < 1 << 48:
        raise InputError("a stored tensor of the program has no fixed size")
    return n
