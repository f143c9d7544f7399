"""Files that another reader runs: each is shown to run there, and is refused as unsafe here, as a model and as data."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import vaeprobe
from vaeprobe.data import open_data
from vaeprobe.errors import UnsafeError

from hostile_files import Calls, Touch, entries, saved, state, zipped

TORCH = "import torch, sys; torch.load(sys.argv[1], weights_only=False)"
UNPICKLE = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
SCRIPT = "import torch, sys; torch.jit.load(sys.argv[1])"
EXPORT = "import torch, sys; torch.export.load(sys.argv[1])"

MAKERS: list[tuple[str, Callable[[Path], bytes]]] = []


def runs(reader: str) -> Callable[[Callable[[Path], bytes]], Callable[[Path], bytes]]:
    """Register a maker of a file that a reader runs; it is given the marker that the payload touches."""

    def register(make: Callable[[Path], bytes]) -> Callable[[Path], bytes]:
        MAKERS.append((reader, make))
        return make

    return register


def evil(marker: Path) -> bytes:
    return pickle.dumps(Touch(marker), 2)


class Rebuilt:
    """Unpickles to `_rebuild_from_type_v2(callee, Tensor, args, {})`, which calls the callee."""

    def __init__(self, callee: object, *args: object) -> None:
        self.call = torch._tensor._rebuild_from_type_v2, (callee, torch.Tensor, args, {})  # type: ignore[attr-defined]

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


def loader() -> object:
    return torch.storage._load_from_bytes


def imported(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


# -- pickles ------------------------------------------------------------------------------------------


@runs(TORCH)
def loader_handed_to_a_rebuilder(marker: Path) -> bytes:
    return saved({**state(), "x": Rebuilt(loader(), saved(Touch(marker), legacy=True))})


@runs(TORCH)
def rebuilder_handed_to_itself(marker: Path) -> bytes:
    inner = (loader(), torch.Tensor, (saved(Touch(marker), legacy=True),), {})
    return saved({"x": Rebuilt(torch._tensor._rebuild_from_type_v2, *inner)})  # type: ignore[attr-defined]


@runs(UNPICKLE)
def loader_of_a_zip(marker: Path) -> bytes:
    return pickle.dumps({"w": Calls(loader(), saved(Touch(marker)))})


@runs(UNPICKLE)
def loader_of_text_encoded(marker: Path) -> bytes:
    loads, encodes = imported("torch.storage", "_load_from_bytes"), imported("_codecs", "encode")
    text = evil(marker).decode("latin-1").encode()
    arguments = b"X" + struct.pack("<I", len(text)) + text + b"X\x06\x00\x00\x00latin1\x86R"
    return b"\x80\x02" + loads + encodes + arguments + b"\x85R."


@runs(UNPICKLE)
def call_of_what_a_dispatcher_returns(marker: Path) -> bytes:
    loads = imported("torch.storage", "_load_from_bytes")
    dispatch = (
        imported("torch.nn.functional", "boolean_dispatch") + b"(X\x01\x00\x00\x00qK\x05\x89" + loads + loads
    )
    data = saved(Touch(marker), legacy=True)
    call = dispatch + b"X\x01\x00\x00\x00mX\x01\x00\x00\x00ftR"
    return b"\x80\x04" + call + b"B" + struct.pack("<I", len(data)) + data + b"\x85R."


@runs(TORCH)
def first_head_of_a_legacy_file(marker: Path) -> bytes:
    """The magic number comes last in the first pickle; what comes before it is run."""
    good = saved(state(), legacy=True)
    end = good.index(b".", 14)
    return good[:end] + b"0" + evil(marker)[2:-1] + b"0" + good[2:end] + good[end:]


@runs(TORCH)
def third_head_of_a_legacy_file(marker: Path) -> bytes:
    good = saved(state(), legacy=True)
    at = good.index(b"\x80\x02}")
    return good[: at + 2] + evil(marker)[2:-1] + b"0" + good[at + 2 :]


@runs(UNPICKLE)
def state_that_is_replaced(marker: Path) -> bytes:
    """The first of two states holds the call; what is kept is harmless."""
    made = imported("torch.nn.modules.module", "Module") + b")\x81"
    return b"\x80\x02" + made + evil(marker)[2:-1] + b"0}b}b."


@runs(UNPICKLE)
def after_a_whole_number_without_end(marker: Path) -> bytes:
    return b"\x80\x02\x8b" + struct.pack("<i", 20_000) + b"\x01" * 20_000 + b"0" + evil(marker)[2:]


@runs(UNPICKLE)
def after_many_marks(marker: Path) -> bytes:
    return b"\x80\x02" + b"(" * 2000 + b"t" * 2000 + b"0" + evil(marker)[2:]


# -- pickles that begin like something else --------------------------------------------------------------


def _protocol_0(marker: Path) -> bytes:
    return b"cposix\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."


@runs(UNPICKLE)
def pickle_that_begins_with_a_number(marker: Path) -> bytes:
    return b"I1\n0" + _protocol_0(marker)


@runs(UNPICKLE)
def pickle_that_begins_like_json(marker: Path) -> bytes:
    return b"]0" + _protocol_0(marker)


@runs(UNPICKLE)
def pickle_within_sound_safetensors(marker: Path) -> bytes:
    """A header without a fault, of which an unpickler sees texts alone, and a payload among the numbers."""
    payload = b"0" + _protocol_0(marker)
    payload += bytes(-len(payload) % 4)
    first = 40  # `U n` eats n bytes: from the beginning of the file, text after text, up to the numbers
    length = ord("U") + 256 * first
    table = {"w": {"dtype": "U8", "shape": [len(payload)], "data_offsets": [0, len(payload)]}}
    head, tail = '{"__metadata__": {"a": "', '"}, ' + json.dumps(table)[1:]
    body = bytearray((head + "a" * (length - len(head) - len(tail)) + tail).encode())
    at, end = 2 + first, 8 + length
    hops = -(-(end - at) // 120)
    for k in range(hops):
        step = (end - at) // (hops - k)
        body[at - 8 : at - 6] = bytes((ord("U"), step - 2))
        at += step
    json.loads(body)
    return struct.pack("<Q", length) + bytes(body) + payload


@runs(TORCH)
def tar_of_any_beginning(marker: Path) -> bytes:
    """The oldest tar has no magic: its first hundred bytes are a name, here that of a .npy."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("\x93NUMPY", "sys_info", "pickle", "storages", "tensors"):
            content = evil(marker) if name == "pickle" else pickle.dumps(0, 2) + pickle.dumps([], 2)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    data = bytearray(stream.getvalue())
    data[257:265] = bytes(8)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


# -- archives ------------------------------------------------------------------------------------------


class Writes(torch.nn.Module):
    """Writes a file while it is loaded."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return 1, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        # what is not used is not kept
        self.training = (
            bool(torch.from_file("MARKER", True, 4, dtype=torch.uint8).fill_(65).any()) and state[1]
        )


def script(marker: Path) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Writes()), stream)
    parts = entries(stream.getvalue())
    return zipped(
        {n: d.replace(b"MARKER", str(marker).encode()) if n.endswith(".py") else d for n, d in parts.items()}
    )


def program() -> bytes:
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU()).eval()
    stream = io.BytesIO()
    torch.export.save(torch.export.export(net, (torch.zeros(5, 4),)), stream)
    return stream.getvalue()


def root(parts: dict[str, bytes]) -> str:
    return next(iter(parts)).split("/")[0]


@runs(EXPORT)
def sample_inputs_that_are_a_program(marker: Path) -> bytes:
    parts = entries(program())
    (name,) = (n for n in parts if "sample_inputs" in n)
    return zipped({**parts, name: script(marker)})


@runs(TORCH)
def checkpoint_that_is_a_program_too(marker: Path) -> bytes:
    parts = entries(saved(state()))
    inner = entries(script(marker))
    extra = {f"{root(parts)}/{n.partition('/')[2]}": d for n, d in inner.items()}
    return zipped({**parts, **extra})


@runs(TORCH)
def program_with_a_checkpoint(marker: Path) -> bytes:
    parts = entries(program())
    return zipped({**parts, f"{root(parts)}/data.pkl": evil(marker), f"{root(parts)}/version": b"3\n"})


@runs(SCRIPT)
def script_among_the_numbers_of_safetensors(marker: Path) -> bytes:
    """The archive is the last tensor, and its offsets count from the beginning of the file."""
    inner = script(marker)
    table = {"w": {"dtype": "U8", "shape": [len(inner)], "data_offsets": [0, len(inner)]}}
    text = json.dumps(table).encode()
    head = struct.pack("<Q", len(text)) + text
    moved = bytearray(inner)
    end = moved.rindex(b"PK\x05\x06")
    count, length, start = struct.unpack_from("<HII", moved, end + 10)
    struct.pack_into("<I", moved, end + 16, start + len(head))
    at = start
    for _ in range(count):
        names = sum(struct.unpack_from("<3H", moved, at + 28))
        (offset,) = struct.unpack_from("<I", moved, at + 42)
        struct.pack_into("<I", moved, at + 42, offset + len(head))
        at += 46 + names
    assert at == start + length
    return head + bytes(moved)


def _local(name: bytes, data: bytes) -> bytes:
    sizes = (zlib.crc32(data), len(data), len(data), len(name), 0)
    return struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 0, 0, 0, 0, *sizes) + name + data


def _central(name: bytes, data: bytes, at: int) -> bytes:
    sizes = (zlib.crc32(data), len(data), len(data), len(name), 0, 0, 0, 0, 0, at)
    return struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, 0, 0, 0, 0, *sizes) + name


def _two_directories(first: dict[str, bytes], second: dict[str, bytes]) -> bytes:
    """Return a zip64 whose locator names the first directory, the second being right before it."""
    body, places = b"", []
    for name, data in [*second.items(), *first.items()]:
        places.append(len(body))
        body += _local(name.encode(), data)
    ends = []
    for parts, own in ((first, places[len(second) :]), (second, places[: len(second)])):
        start = len(body)
        body += b"".join(_central(n.encode(), d, p) for (n, d), p in zip(parts.items(), own, strict=True))
        ends.append(len(body))
        counts = (44, 45, 45, 0, 0, len(parts), len(parts), ends[-1] - start, start)
        body += struct.pack("<IQHHIIQQQQ", 0x06064B50, *counts)
    body += struct.pack("<IIQI", 0x07064B50, 0, ends[0], 1)
    return body + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)


@runs(TORCH)
def zip_with_two_directories(marker: Path) -> bytes:
    good = entries(saved(state()))
    bad = {n: evil(marker) if n.endswith("data.pkl") else d for n, d in good.items()}
    return _two_directories(bad, good)


@pytest.mark.parametrize(("reader", "make"), MAKERS, ids=[make.__name__ for _, make in MAKERS])
def test_what_another_reader_runs_is_refused(
    tmp_path: Path, reader: str, make: Callable[[Path], bytes]
) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "model.bin"
    path.write_bytes(make(marker))
    for read in (vaeprobe.load, open_data):
        with pytest.raises(UnsafeError):
            read(path)
    assert vaeprobe.inspect(path).exit_code == 4
    assert not marker.exists()
    subprocess.run([sys.executable, "-c", reader, str(path)], capture_output=True, check=False, timeout=120)
    assert marker.exists(), "the other reader does not run it: the test shows nothing"
