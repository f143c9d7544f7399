"""Safetensors: a JSON header and a block of numbers, every claim of the header checked against the block.

Source: the format's description, https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from typing import Any

from vaeprobe.errors import InputError
from vaeprobe.files.source import quoted
from vaeprobe.files.tensors import DTYPES, TensorSpec, contiguous

__all__ = ["read"]

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


def read(data: bytes) -> tuple[dict[str, TensorSpec], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Raises:
        InputError: a header that is no JSON, repeats a key, or claims bytes that are not there, are shared, or are
            left over.
    """
    header, block = _split(data)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InputError("the metadata of the safetensors file is not text by name")
    specs: dict[str, TensorSpec] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        begin, end, specs[name] = _entry(name, entry, block)
        spans.append((begin, end, name))
    _check_cover(spans, len(block))
    return specs, metadata


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """Return the parsed header and the block of numbers."""
    if len(data) < 8:
        raise InputError("the safetensors file ends before its header", hint=CUT)
    (length,) = struct.unpack_from("<Q", data)
    if length > min(len(data) - 8, MAX_HEADER):
        raise InputError(
            f"the safetensors header claims {length:,} bytes and {len(data) - 8:,} follow", hint=CUT
        )
    try:
        header = json.loads(
            data[8 : 8 + length].decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except RecursionError:
        raise InputError("the safetensors header is nested too deeply") from None
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"the safetensors header is no JSON: {error}", hint=CUT) from None
    if not isinstance(header, dict):
        raise InputError("the safetensors header is no JSON object", hint=CUT)
    return header, memoryview(data)[8 + length :]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise InputError(
                f"the safetensors header holds {quoted(key)} twice, so that two readers can differ"
            )
        out[key] = value
    return out


def _no_constant(text: str) -> Any:
    raise InputError(f"the safetensors header holds {text}, which is no JSON")


def _entry(name: str, entry: Any, block: memoryview) -> tuple[int, int, TensorSpec]:
    """Return where a tensor's numbers begin and end, and its description."""
    match entry:
        case {"dtype": str(code), "shape": list(sizes), "data_offsets": [int(begin), int(end)]} if (
            len(entry) == 3
        ):
            pass
        case _:
            raise InputError(f"the safetensors header does not describe tensor {quoted(name)}", hint=CUT)
    if code not in _NAMES:
        raise InputError(f"tensor {quoted(name)} has dtype {quoted(code)}, which no decoder's weights have")
    if len(sizes) > 32 or not all(type(n) is int and n >= 0 for n in sizes):
        raise InputError(f"tensor {quoted(name)} has no valid shape", hint=CUT)
    dtype, shape = _NAMES[code], tuple(sizes)
    if not 0 <= begin <= end <= len(block):
        raise InputError(
            f"tensor {quoted(name)} lies at bytes {begin:,} to {end:,} of a block of {len(block):,}", hint=CUT
        )
    if math.prod(shape) * DTYPES[dtype] != end - begin:
        raise InputError(
            f"tensor {quoted(name)} of shape {list(sizes)} and dtype {dtype} comes with {end - begin:,} bytes",
            hint=CUT,
        )
    return begin, end, TensorSpec(dtype, shape, contiguous(shape), 0, block[begin:end])


def _check_cover(spans: list[tuple[int, int, str]], size: int) -> None:
    """Check that the tensors cover the block, each byte once."""
    spans = sorted((begin, end, name) for begin, end, name in spans if end > begin)
    for (_, end, name), (begin, _, other) in itertools.pairwise(spans):
        if begin < end:
            raise InputError(f"tensors {quoted(name)} and {quoted(other)} overlap in the safetensors file")
        if begin > end:
            raise InputError(f"{begin - end:,} bytes of the safetensors file belong to no tensor")
    first, last = (spans[0][0], spans[-1][1]) if spans else (0, 0)
    if first > 0 or last < size:
        raise InputError(
            f"{first + size - last:,} bytes of the safetensors file belong to no tensor", hint=CUT
        )
