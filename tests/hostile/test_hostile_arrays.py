"""Safetensors, .npy and .npz files that lie, as far as they are decoders."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vaeprobe

from hostile_files import npy, outcome, refused, safetensors, zipped

F32 = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def test_header_of_2_62_bytes(tmp_path: Path) -> None:
    data = safetensors({"w": F32}, bytes(16), length=1 << 62)
    assert "claims 4,611,686,018,427,387,904 bytes" in refused(tmp_path, data, 5)


@pytest.mark.parametrize("offsets", [[0, 32], [-4, 12], [16, 0], [1 << 62, (1 << 62) + 16], [0.0, 16.0], [0]])
def test_offsets_out_of_bounds(tmp_path: Path, offsets: list[Any]) -> None:
    refused(tmp_path, safetensors({"w": {**F32, "data_offsets": offsets}}, bytes(16)), 5)


@pytest.mark.parametrize(
    "shape", [[1 << 32, 1 << 32], [1 << 62, 4], [-2, -2], [2.0, 2], [True, 4], "22", [2] * 40, [3, 2]]
)
def test_shape_overflow(tmp_path: Path, shape: Any) -> None:
    refused(tmp_path, safetensors({"w": {**F32, "shape": shape}}, bytes(16)), 5)


@pytest.mark.parametrize("shape", [[0, 1 << 62], [1 << 70, 0], [0, 1 << 48]])
def test_sizes_beside_an_empty_axis(tmp_path: Path, shape: list[int]) -> None:
    data = safetensors({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}})
    assert "no library writes" in refused(tmp_path, data, 5)


def test_overlap(tmp_path: Path) -> None:
    header = {"a": F32, "b": {**F32, "data_offsets": [8, 24]}}
    assert "tensors `a` and `b` overlap" in refused(tmp_path, safetensors(header, bytes(24)), 5)


def test_trailing_bytes_and_holes(tmp_path: Path) -> None:
    assert "4 bytes" in refused(tmp_path, safetensors({"w": F32}, bytes(20)), 5)
    hole = {"a": F32, "b": {**F32, "data_offsets": [20, 36]}}
    assert "belong to no tensor" in refused(tmp_path, safetensors(hole, bytes(36)), 5)


def test_duplicate_keys(tmp_path: Path) -> None:
    entry = '{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}'
    raw = f'{{"w":{entry},"w":{entry}}}'.encode()
    assert "`w` twice" in refused(tmp_path, safetensors(raw, bytes(16)), 5)


@pytest.mark.parametrize("opening", [b'{"a":' * 20_000, b'{"a":' + b"[" * 60_000])
def test_deep_json(tmp_path: Path, opening: bytes) -> None:
    refused(tmp_path, safetensors(opening), 5)


@pytest.mark.parametrize(
    "raw", [b"{", b"{]", b'{"w":NaN}', b"{}garbage", b'{"w":1}', b'{"__metadata__":{"a":1}}']
)
def test_no_json(tmp_path: Path, raw: bytes) -> None:
    refused(tmp_path, safetensors(raw), 5)


def test_object_arrays(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([[1, "a"]], dtype=object), allow_pickle=True)
    assert "Python objects" in refused(tmp_path, stream.getvalue(), 4)
    assert "Python objects" in refused(tmp_path, zipped({"W.npy": stream.getvalue()}), 4, name="model.npz")


def _npz(block: bytes, count: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("W.npy", "w") as entry:
        entry.write(npy("{'descr': '<f8', 'fortran_order': False, 'shape': (200000000, 1)}"))
        for _ in range(count):
            entry.write(block)
    return stream.getvalue()


def test_npz_that_claims_to_unpack_to_2_gb(tmp_path: Path) -> None:
    data = bytearray(_npz(bytes(1 << 20), 1))
    for at in (data.rindex(b"PK\x01\x02") + 24, 22):  # its size, in both headers
        struct.pack_into("<I", data, at, 2_000_000_000)
    assert "to 2,000,000,000 bytes" in refused(tmp_path, bytes(data), 6, name="model.npz")


@pytest.mark.slow
def test_npz_bomb(tmp_path: Path) -> None:
    data = _npz(bytes(1 << 24), 96)
    assert len(data) < 2_000_000
    assert "expands" in refused(tmp_path, data, 6, name="model.npz")


def test_npz_that_says_less_than_it_unpacks_to(tmp_path: Path) -> None:
    data = bytearray(
        zipped(
            {"W.npy": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000, 1)}", bytes(8000))},
            deflated=("W.npy",),
        )
    )
    for at in (data.rindex(b"PK\x01\x02") + 24, 22):
        struct.pack_into("<I", data, at, 100)
    refused(tmp_path, bytes(data), 5, name="model.npz")


@pytest.mark.parametrize(
    "shape", ["(1000000, 100)", "(-2, 2)", "(2.0, 2)", "2", "(1 << 40, 2)", "(4611686018427387904, 4)"]
)
def test_npy_shape_lie(tmp_path: Path, shape: str) -> None:
    refused(tmp_path, npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}", bytes(32)), 5)


@pytest.mark.parametrize(
    "header",
    [
        "(" * 50_000,
        "-" * 60_000 + "1",
        "[" * 60_000,
        "__import__('os').system('touch marker')",
        "{'descr': '<f8'}",
        "{'descr': 'nonsense', 'fortran_order': False, 'shape': (2, 2)}",
    ],
    ids=["parentheses", "minus", "brackets", "call", "missing", "dtype"],
)
def test_header_bomb(tmp_path: Path, header: str) -> None:
    refused(tmp_path, npy(header, bytes(32)), 5)


def test_truncated(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.eye(5, 3))
    whole = safetensors({"w": F32}, bytes(16))
    for data in (stream.getvalue(), whole):
        for end in (9, 40, len(data) - 1):
            refused(tmp_path, data[:end], 5)


def test_trailing_bytes_of_npy_are_a_warning(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.eye(5, 3))
    path = tmp_path / "W.npy"
    path.write_bytes(stream.getvalue() + b"more")
    (note,) = vaeprobe.load(path).notes
    assert (note.level, note.code) == ("warning", "trailing-bytes")
    assert "4 bytes after its array" in note.message


def test_nan_rows_are_counted(tmp_path: Path) -> None:
    matrix = np.ones((5, 3))
    matrix[1, 2] = np.nan
    matrix[3, 0] = np.inf
    path = tmp_path / "W.npy"
    np.save(path, matrix)
    error = outcome(path)
    assert error is not None
    assert error.exit_code == 5
    assert "NaN or infinity in 2 of 5 rows, the first is row 1" in error.message


@pytest.mark.parametrize("dtype", ["<i8", "u1", "?", "<f2", ">f8", ">f4", ">i4", "<g"])
def test_numbers_of_every_kind_are_converted_exactly(tmp_path: Path, dtype: str) -> None:
    matrix = np.array([[1, 0], [0, 1], [1, 1]]).astype(dtype)
    path = tmp_path / "W.npy"
    np.save(path, matrix)
    decoder = vaeprobe.load(path)
    assert not decoder.notes
    z = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    assert decoder(z).double().tolist() == [[2.0, 3.0, 5.0]]


@pytest.mark.parametrize(
    "array",
    [
        np.array([["a", "b"]]),
        np.array([["2020-01-01"]], dtype="M8[D]"),
        np.zeros((2, 2), dtype=[("a", "f4")]),
        np.zeros((2, 2), dtype=complex),
    ],
    ids=["text", "dates", "records", "complex"],
)
def test_what_is_no_number_is_refused(tmp_path: Path, array: Any) -> None:
    stream = io.BytesIO()
    np.save(stream, array)
    assert "not real numbers" in refused(tmp_path, stream.getvalue(), 5)


def test_fortran_order_is_c_order(tmp_path: Path) -> None:
    matrix = np.arange(12.0).reshape(4, 3)
    np.save(tmp_path / "c.npy", matrix)
    np.save(tmp_path / "f.npy", np.asfortranarray(matrix))
    z = torch.randn(5, 3, dtype=torch.float64)
    c, f = (vaeprobe.load(tmp_path / f"{order}.npy") for order in "cf")
    assert torch.equal(c(z), f(z))


@pytest.mark.parametrize(
    ("shape", "hint"), [((), "reshape(-1, 1)"), ((4,), "reshape(-1, 1)"), ((2, 3, 4), "array.shape[-1]")]
)
def test_shapes_that_are_no_matrix_get_a_hint(tmp_path: Path, shape: tuple[int, ...], hint: str) -> None:
    stream = io.BytesIO()
    np.save(stream, np.ones(shape))
    assert hint in refused(tmp_path, stream.getvalue(), 5)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_no_rows_or_columns(tmp_path: Path, shape: tuple[int, ...]) -> None:
    stream = io.BytesIO()
    np.save(stream, np.ones(shape))
    assert "maps nothing" in refused(tmp_path, stream.getvalue(), 5)
