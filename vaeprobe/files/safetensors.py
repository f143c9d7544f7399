"""Safetensors: a JSON header and a block of numbers, every claim of the header checked against the block.

Source: the format's description, https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import NoReturn

from vaeprobe.errors import InputError
from vaeprobe.files.source import Bytes, quoted
from vaeprobe.files.tensors import DTYPES, TensorSpec, contiguous, countable

__all__ = ["Described", "layout", "read"]

MAX_HEADER = 100_000_000
CUT = "the file is truncated or damaged: fetch it again"
_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}


@dataclass(frozen=True, slots=True)
class Described:
    """A tensor as the header describes it.

    Attributes:
        dtype: in torch's words ("float32").
        shape: sizes.
        begin, end: where its numbers lie in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read(data: bytes) -> tuple[dict[str, TensorSpec], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Raises:
        InputError: a header that is no JSON, repeats a key, or claims bytes that are not there, are shared, or are
            left over.
    """
    view = memoryview(data)
    layouts, metadata = layout(data)
    specs = {
        name: TensorSpec(e.dtype, e.shape, contiguous(e.shape), 0, view[e.begin : e.end])
        for name, e in layouts.items()
    }
    return specs, metadata


def layout(data: Bytes) -> tuple[dict[str, Described], dict[str, str]]:
    """Return where the tensors of a safetensors file lie, and its metadata, reading the header alone.

    Raises:
        InputError: as `read`.
    """
    header, start = _header(data)
    metadata = header.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata  # null is what some writers make of no metadata
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InputError("the metadata of the safetensors file is not text by name")
    layouts = {name: _entry(name, entry, start, len(data)) for name, entry in header.items()}
    _check_cover([(e.begin, e.end, name) for name, e in layouts.items()], start, len(data))
    return layouts, metadata


def _header(data: Bytes) -> tuple[dict[str, object], int]:
    """Return the parsed header, and where the numbers begin."""
    if len(data) < 8:
        raise InputError("the safetensors file ends before its header", hint=CUT)
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(len(data) - 8, MAX_HEADER):
        raise InputError(
            f"the safetensors header claims {length:,} bytes and {len(data) - 8:,} follow", hint=CUT
        )
    try:
        header = json.loads(
            bytes(data[8 : 8 + length]).decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
        )
    except RecursionError:
        raise InputError("the safetensors header is nested too deeply") from None
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"the safetensors header is no JSON: {error}", hint=CUT) from None
    if not isinstance(header, dict):
        raise InputError("the safetensors header is no JSON object", hint=CUT)
    return header, 8 + length


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    out: dict[str, object] = {}
    for key, value in pairs:
        if key in out:
            raise InputError(
                f"the safetensors header holds {quoted(key)} twice, so that two readers can differ"
            )
        out[key] = value
    return out


def _no_constant(text: str) -> NoReturn:
    raise InputError(f"the safetensors header holds {text}, which is no JSON")


def _entry(name: str, entry: object, start: int, size: int) -> Described:
    """Return what the header says of a tensor, checked against the numbers that begin at `start`."""
    match entry:
        case {"dtype": str(code), "shape": list(sizes), "data_offsets": [begin, end], **more} if not more:
            pass
        case _:
            raise InputError(f"the safetensors header does not describe tensor {quoted(name)}", hint=CUT)
    if code not in _NAMES:
        raise InputError(f"tensor {quoted(name)} has dtype {quoted(code)}, which no decoder's weights have")
    if not all(type(n) is int for n in sizes) or not countable(sizes, DTYPES[_NAMES[code]]):
        raise InputError(f"tensor {quoted(name)} has a shape that no library writes", hint=CUT)
    if type(begin) is not int or type(end) is not int or not 0 <= begin <= end <= size - start:
        raise InputError(
            f"tensor {quoted(name)} lies outside of the {size - start:,} bytes that the file holds", hint=CUT
        )
    dtype, shape = _NAMES[code], tuple(sizes)
    if math.prod(shape) * DTYPES[dtype] != end - begin:
        raise InputError(
            f"tensor {quoted(name)} of shape {list(sizes)} and dtype {dtype} comes with {end - begin:,} bytes",
            hint=CUT,
        )
    return Described(dtype, shape, start + begin, start + end)


def _check_cover(spans: list[tuple[int, int, str]], start: int, size: int) -> None:
    """Check that the tensors cover the block of numbers, each byte once."""
    at, last = start, ""
    for begin, end, name in sorted(span for span in spans if span[1] > span[0]):
        if begin < at:
            raise InputError(f"tensors {quoted(last)} and {quoted(name)} overlap in the safetensors file")
        if begin > at:
            raise InputError(f"{begin - at:,} bytes of the safetensors file belong to no tensor")
        at, last = end, name
    if at < size:
        raise InputError(f"{size - at:,} bytes of the safetensors file belong to no tensor", hint=CUT)
