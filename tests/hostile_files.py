"""Makers of hostile and broken checkpoints, and what must hold of every one of them.

A payload does nothing but touch a marker file, which must never appear.
"""

from __future__ import annotations

import io
import os
import pickle
import resource
import struct
import time
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import vaeprobe
from vaeprobe.errors import VaeprobeError

STOP = b"."


class Touch:
    """Unpickles to `os.system("touch MARKER")`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


class Calls:
    """Unpickles to a call of any function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def state() -> OrderedDict[str, torch.Tensor]:
    """Return the weights of a decoder with two latents and three outputs."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).state_dict()


def saved(value: Any, *, legacy: bool = False) -> bytes:
    """Return what torch.save writes."""
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def entries(data: bytes) -> dict[str, bytes]:
    """Return the entries of a zip."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def zipped(parts: Mapping[str, bytes] | list[tuple[str, bytes]], *, deflated: tuple[str, ...] = ()) -> bytes:
    """Return a zip of the entries, stored; a list may repeat a name."""
    import warnings

    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w") as archive:
        warnings.simplefilter("ignore", UserWarning)  # duplicate names are meant
        for name, content in parts.items() if isinstance(parts, Mapping) else parts:
            how = zipfile.ZIP_DEFLATED if name in deflated else zipfile.ZIP_STORED
            archive.writestr(name, content, compress_type=how)
    return stream.getvalue()


def with_pickle(pickled: bytes) -> bytes:
    """Return a torch zip whose `data.pkl` is another pickle."""
    parts = entries(saved(state()))
    (name,) = (k for k in parts if k.endswith("/data.pkl"))
    return zipped({**parts, name: pickled})


def safetensors(header: Any, block: bytes = b"", *, length: int | None = None) -> bytes:
    """Return a safetensors file of any header: an object, or raw bytes."""
    import json

    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + block


def npy(header: str, block: bytes = b"") -> bytes:
    """Return a .npy file of any header."""
    raw = header.encode().ljust(118 - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + block


def patch_zip(data: bytes, name: str, *, crc: int | None = None, flags: int | None = None) -> bytes:
    """Return a zip with the checksum or the flags of one entry changed in both of its headers."""
    out = bytearray(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        info = archive.getinfo(name)
        at = info.header_offset
        record = struct.pack("<4sI", b"PK\x07\x08", info.CRC)  # as torch writes it after the entry
        after = data.find(record, at)
        central = data.index(b"PK\x01\x02", archive.start_dir)
        while data[central + 46 : central + 46 + len(name)] != name.encode():
            central = data.index(b"PK\x01\x02", central + 4)
    if crc is not None:
        struct.pack_into("<I", out, at + 14, crc)
        struct.pack_into("<I", out, central + 16, crc)
        if after >= 0:
            struct.pack_into("<I", out, after + 4, crc)
    if flags is not None:
        struct.pack_into("<H", out, at + 6, flags)
        struct.pack_into("<H", out, central + 8, flags)
    return bytes(out)


def outcome(path: Path, **how: Any) -> VaeprobeError | None:
    """Load a file and return the error, None where it loads; holds what must hold of every hostile file."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    names = sorted(path.parent.iterdir())
    start = time.process_time()
    error: VaeprobeError | None = None
    try:
        vaeprobe.load(path, **how)
    except VaeprobeError as caught:
        error = caught
    assert time.process_time() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "resident memory, KB"
    assert sorted(path.parent.iterdir()) == names, "a file was written"
    if error is not None:
        text = f"{error.message}{error.hint or ''}"
        assert text.isprintable(), "control characters in a message"
        assert len(text) < 1500
    return error


def refused(folder: Path, data: bytes, code: int, *, name: str = "model.pt", **how: Any) -> str:
    """Write a file, check that it is refused with an exit code, and return the message and the hint."""
    path = folder / name
    path.write_bytes(data)
    error = outcome(path, **how)
    assert error is not None, "it loaded"
    assert error.exit_code == code, error.message
    assert not (folder / "marker").exists(), "code in the file was run"
    return f"{error.message} {error.hint or ''}"


def crc(data: bytes) -> int:
    """Return the checksum that a zip carries."""
    return zlib.crc32(data)


def nested_tuples(depth: int) -> bytes:
    """Return a pickle of 2^depth empty tuples in `3 depth` bytes, by DUP."""
    return b"\x80\x02)" + b"2\x86" * depth + STOP


def raw_pickle(value: Any, protocol: int = 4) -> bytes:
    """Return a plain pickle."""
    return pickle.dumps(value, protocol)
