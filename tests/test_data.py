"""Rows from files: exact conversion, every format, and what is refused."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import vaeprobe
from vaeprobe.data import NonfiniteRowsError, in_memory, open_data
from vaeprobe.errors import InputError, MissingExtraError, ResourceError, UnsafeError, UsageError

A = np.random.default_rng(0).normal(size=(103, 3, 4))


def save(path: Path, array: np.ndarray, **how: bool) -> Path:
    np.save(path, array, **how)
    return path


# -- what is read, and exactly ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["f8", "f4", "f2", ">f8", ">f4", "g", "i1", "i2", ">i4", "i8", "u2", "u4", "u8", "?"]
)
@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("archive", [False, True])
def test_numbers_are_converted_exactly(tmp_path: Path, kind: str, fortran: bool, archive: bool) -> None:
    array = np.abs(A * 9).astype(kind) if kind.startswith("u") else (A * 9).astype(kind)
    array = np.asfortranarray(array) if fortran else array
    path = tmp_path / ("x.npz" if archive else "x.npy")
    np.savez_compressed(path, x=array) if archive else np.save(path, array)
    data = open_data(path)
    assert data.shape == A.shape
    assert data.read().dtype in (np.float32, np.float64)
    np.testing.assert_array_equal(data.read(), array.astype(np.float64))
    blocks = np.concatenate([b.copy() for b in data.blocks(10)])
    np.testing.assert_array_equal(blocks, array.astype(np.float64).reshape(103, 12))


def test_integers_that_no_float_holds_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", np.array([[2**53 + 1, 0]]))
    with pytest.raises(InputError, match=r"beyond 2\^53"):
        open_data(path).read()


def test_uint8_is_divided_by_255_and_says_so(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = save(tmp_path / "x.npy", pixels)
    data = open_data(path)
    np.testing.assert_array_equal(data.read(dtype=np.float64), pixels / 255)
    assert "divided by 255" in data.notes[0].message
    np.testing.assert_array_equal(open_data(path, scale="none").read(), pixels)
    np.testing.assert_allclose(open_data(path, scale="1/16").read(), pixels / 16)
    with pytest.raises(UsageError, match="no scale"):
        open_data(path, scale="pixels")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_torch_and_safetensors(tmp_path: Path, suffix: str) -> None:
    import torch
    from safetensors.torch import save_file

    x = torch.from_numpy(A).bfloat16()
    path = tmp_path / f"x.{suffix}"
    if suffix == "pt":
        torch.save({"x": x, "y": x * 2}, path)
    else:
        save_file({"x": x, "y": x * 2}, path)
    with pytest.raises(UsageError, match="2 arrays"):
        open_data(path)
    np.testing.assert_array_equal(open_data(path, key="x").read(), x.double().numpy())
    with pytest.raises(UsageError, match="no array `z`"):
        open_data(path, key="z")


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('a,b\n1,2.5\n\n3,"4e2"\n', encoding="utf-8-sig")
    np.testing.assert_array_equal(open_data(path).read(), [[1, 2.5], [3, 400]])
    path.write_text("1 2 3\n4 5 6\n")
    np.testing.assert_array_equal(open_data(path).read(), [[1, 2, 3], [4, 5, 6]])
    path.write_text("1;2\nNA;\n")
    gaps = open_data(path, nonfinite="keep").read()
    assert np.isnan(gaps[1]).all()
    path.write_text("1,2\n3,oops\n")
    with pytest.raises(InputError, match="line 2, column 2 holds 'oops'"):
        open_data(path).read()
    path.write_text("1,2\n3,4,5\n")
    with pytest.raises(InputError, match="line 2 has 3 columns"):
        open_data(path).read()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("# a,b\n1,2\n3,4\n", [[1, 2], [3, 4]]), ("# a b\n# c\n\na,b\n1,2\n3,4\n", [[1, 2], [3, 4]]),
        ("# a b\n1 2\n3 4\n", [[1, 2], [3, 4]]), ("#\n1,2\n", [[1, 2]]),
        ("0,1,2\n3,4,5\n", [[0, 1, 2], [3, 4, 5]]), ("0.0,1.0,2.0\n1.5,2,3\n", [[0, 1, 2], [1.5, 2, 3]]),
        ("0,1\n1.5,2\n", [[0, 1], [1.5, 2]]), ("1,2,4\n1.5,2,4\n", [[1, 2, 4], [1.5, 2, 4]]), ("0,1,2\n", [[0, 1, 2]]),
    ],
)  # fmt: skip
def test_comments_names_and_rows_are_told_apart(text: str, rows: list[list[float]], tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    data = open_data(path)
    assert data.rows == len(rows)
    np.testing.assert_array_equal(data.read(), rows)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (",a,b\n0,1.5,2\n1,3,4\n", "a first column without a name"), (",0,1,2\n0,1.5,2,3\n", "a first column without a name"),
        ("a,b\n0,1.5,2\n", "names 2 columns, and its rows have 3"), ('"a" "b"\n"1" 1.5 2\n', "names 2 columns, and its rows have 3"),
        ("0,1,2\n1.5,2,3\n", "starts with 0, 1, 2, ...: are these"), ("1,2,3,4\n.5,2,3,4\n", "starts with 1, 2, 3, ...: are these"),
        ("a,b\n1_0,2\n", "holds '1_0'"), ("# a\n# b\n", "no file of numbers: it starts with '# a'"), ("", "is empty"), ("a\n", "no file of numbers"),
    ],
)  # fmt: skip
def test_what_looks_like_data_and_is_none_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        open_data(path).read()


def test_names_of_columns_may_be_in_any_encoding(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes("Größe,Länge\n1,2\n3,4\n".encode("latin-1"))
    assert open_data(path).read().tolist() == [[1, 2], [3, 4]]
    path.write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="in no format known here"):
        open_data(path)
    path.write_text("one\ttwo\nthree\tfour\n")
    with pytest.raises(InputError, match=r"it starts with 'one\\ttwo'"):
        open_data(path)


def test_decimal_commas_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("0,5;1,5\n2,5;3,5\n")
    with pytest.raises(InputError, match="holds '5;1'") as refused:
        open_data(path).read()
    assert "decimal=','" in str(refused.value.hint)


def test_shards_follow_each_other_in_order(tmp_path: Path) -> None:
    for k in range(3):
        save(tmp_path / f"part{k}.npy", A[k * 30 : (k + 1) * 30])
    data = open_data(str(tmp_path / "part*.npy"))
    np.testing.assert_array_equal(data.read(), A[:90])
    shares = [data.share(rank, 4).read() for rank in range(4)]
    np.testing.assert_array_equal(np.concatenate(shares), A[:90])
    save(tmp_path / "part3.npy", A.reshape(103, 12))
    with pytest.raises(InputError, match="rows of shape"):
        open_data(str(tmp_path / "part*.npy"))
    with pytest.raises(InputError, match="no file matches"):
        open_data(str(tmp_path / "nothing*.npy"))


# -- rows that are not finite -----------------------------------------------------------------------


def test_rows_with_nan_are_counted_named_and_refused(tmp_path: Path) -> None:
    array = A.copy()
    array[[4, 77], 0, 0] = [np.nan, np.inf]
    path = save(tmp_path / "x.npy", array)
    with pytest.raises(InputError, match=r"2 of 103 rows hold NaN or infinity \(counted from 0: 4, 77\)"):
        open_data(path).read()
    assert len(open_data(path, nonfinite="drop").read()) == 101
    assert len(open_data(path, nonfinite="keep").read()) == 103


def test_a_column_without_a_number_is_named_as_no_row_is_left_without_it(tmp_path: Path) -> None:
    array = A.copy().reshape(103, -1)
    array[:, 2] = np.nan
    with pytest.raises(InputError, match=r"column 2 \(counted from 0\) has no finite value") as caught:
        open_data(save(tmp_path / "x.npy", array)).read()
    assert type(caught.value) is InputError  # nobody advises to leave rows out
    array[0, 2] = 1.0
    with pytest.raises(InputError, match="102 of 103 rows hold NaN"):
        open_data(save(tmp_path / "x.npy", array)).read()


def test_large_finite_numbers_are_not_taken_for_infinity() -> None:
    big = np.full((4, 3), 3e38, np.float32)
    np.testing.assert_array_equal(in_memory(big).read(), big)


# -- what is refused --------------------------------------------------------------------------------


def test_object_arrays_and_pickles_are_refused_as_unsafe(tmp_path: Path) -> None:
    with pytest.raises(UnsafeError, match="Python objects"):
        open_data(save(tmp_path / "x.npy", np.array([[{}]], dtype=object), allow_pickle=True))
    (tmp_path / "y.npy").write_bytes(b"\x80\x04cjson\nloads\nX\x01\x00\x00\x001\x85R.")
    with pytest.raises(UnsafeError, match="more than tensors"):
        open_data(tmp_path / "y.npy")
    (tmp_path / "y.npy").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(InputError, match="no dense tensor"):
        open_data(tmp_path / "y.npy")


def test_torch_files_that_ask_for_code_are_refused(tmp_path: Path) -> None:
    import torch

    torch.save(subprocess.Popen, tmp_path / "x.pt")
    with pytest.raises(UnsafeError, match=r"would call `subprocess\.Popen`"):
        open_data(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "array",
    [np.array([["a"]]), np.zeros((2, 2), "M8[s]"), np.zeros((2, 2), "f4,i4"), np.zeros((2, 2), complex)],
)
def test_types_that_are_no_real_numbers(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(InputError, match="not real numbers"):
        open_data(save(tmp_path / "x.npy", array))


@pytest.mark.parametrize(
    ("array", "columns"),
    [(np.zeros(4, "f4,i4,U3"), 2), (np.ones((4, 3), np.complex64), 3), (np.ones((4, 3), complex), 3)],
)
def test_the_hint_for_numbers_that_are_not_real_works(
    array: np.ndarray, columns: int, tmp_path: Path
) -> None:
    path = save(tmp_path / "x.npy", array)
    with pytest.raises(InputError, match="not real numbers") as refused:
        open_data(path)
    for code in str(refused.value.hint).split(" or "):
        code = code.partition("for both parts")[0].partition(" of those that")[0].strip().rstrip(",")
        if not code.startswith("numpy.save"):
            code = f"numpy.save(path, {code})"
        exec(code, {"numpy": np, "array": np.load(path), "path": tmp_path / "y.npy"})
        assert open_data(tmp_path / "y.npy").read().shape[:2] == (4, columns)


@pytest.mark.parametrize("shape", [(), (5,)])
def test_rows_need_two_axes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="two axes") as caught:
        open_data(save(tmp_path / "x.npy", np.zeros(shape)))
    assert "x[:, None]" in str(caught.value.hint)


@pytest.mark.parametrize(("shape", "what"), [((0, 3), "rows"), ((3, 0), "columns")])
def test_empty_arrays(tmp_path: Path, shape: tuple[int, ...], what: str) -> None:
    with pytest.raises(InputError, match=f"has no {what}"):
        open_data(save(tmp_path / "x.npy", np.zeros(shape)))


def _npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY\x01",
        _npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000, 1000)}", bytes(80)),
        _npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 3)}", bytes(80)),
        _npy("{'descr': '<f8', 'fortran_order': False, 'shape': (9" + "9" * 40 + ", 3)}", bytes(80)),
        _npy("__import__('os').system('true')", bytes(80)),
        _npy("(" * 5000, bytes(80)),
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 60_000) + b"(" * 60_000,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
        b"<!DOCTYPE html><html>404</html>",
        bytes(range(1, 65)),
    ],
    ids=["empty", "short", "lie", "negative", "overflow", "code", "nesting", "bomb", "lfs", "html", "noise"],
)
def test_damaged_npy_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(InputError):
        open_data(path)


def test_trailing_bytes_make_a_warning(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", A)
    with open(path, "ab") as file:
        file.write(b"more")
    data = open_data(path)
    np.testing.assert_array_equal(data.read(), A)
    assert (data.notes[0].code, data.notes[0].level) == ("trailing-bytes", "warning")


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", A)
    data = open_data(path)
    os.truncate(path, 500)
    with pytest.raises(InputError, match="ended while it was read"):
        data.read()


def test_archive_bombs_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (40_000, 1000)}
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        member.write(header.getvalue())
        for _ in range(320):
            member.write(bytes(1_000_000))
    with pytest.raises(ResourceError, match="expands"):
        open_data(path)
    np.savez_compressed(path, x=A)
    content = bytearray(path.read_bytes())
    content[500] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"another size|damaged|checksum"):
        open_data(path).read()


def test_folders_pipes_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        open_data(tmp_path)
    with pytest.raises(InputError, match="there is no file"):
        open_data(tmp_path / "x.npy")
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(InputError, match="not a regular file"):
        open_data(tmp_path / "pipe.npy")


@pytest.mark.parametrize("count", [100_000, pytest.param(800_000, marks=pytest.mark.slow)])
def test_a_large_file_is_streamed_in_little_memory(tmp_path: Path, count: int) -> None:
    """A sparse file of 400 MB (slow: 3.2 GB) under 120 MB of resident memory above the imports."""
    path = tmp_path / "x.npy"
    header = _npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, 1000)}}")
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + count * 1000 * 4)
    # VmHWM, for ru_maxrss also counts what the parent held when it forked
    script = f"""
from vaeprobe.data import open_data
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) // 1024
before = peak()
rows = sum(len(b) for b in open_data({str(path)!r}).blocks())
print(rows, peak() - before)
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    rows, grown = map(int, out.split())
    assert rows == count
    assert grown < 120


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv"])
def test_one_of_several_blocks(tmp_path: Path, suffix: str) -> None:
    X = np.arange(46.0).reshape(23, 2)
    path = tmp_path / f"x.{suffix}"
    if suffix == "csv":
        np.savetxt(path, X, delimiter=",")
    else:
        (np.save if suffix == "npy" else np.savez_compressed)(path, X)
    data = open_data([path, path])
    blocks = [block.copy() for block in data.blocks(4, every=3)]
    assert [len(block) for block in blocks] == [4, 4, 4, 4]
    np.testing.assert_array_equal(blocks[1], X[12:16])
    np.testing.assert_array_equal(blocks[3], X[12:16])


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_some_rows_for_all_are_evenly_spread(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaeprobe.data.rows.RUN", 4)
    X = np.arange(50.0).reshape(25, 2)
    path = tmp_path / f"x.{suffix}"
    (np.save if suffix == "npy" else np.savez_compressed)(path, X)
    some = open_data([path, path]).thinned(3)
    expected = np.concatenate([X[0:4], X[12:16], X[24:25]] * 2)
    assert some.rows == len(expected)
    np.testing.assert_array_equal(some.read(), expected)
    np.testing.assert_array_equal(np.concatenate(list(some.blocks(3))), expected)
    np.testing.assert_array_equal(some.share(1, 2).read(), expected[9:])
    np.testing.assert_array_equal(some.thinned(2).read(), np.concatenate([X[0:4], X[24:25]] * 2))
    X[13, 0] = np.nan
    with pytest.raises(NonfiniteRowsError, match=r"1 of 25 rows .*: 13"):
        in_memory(X).thinned(3).read()
    assert in_memory(np.ones((25, 2))).array()[1]
    assert not in_memory(np.ones((25, 2))).thinned(3).array()[1]
    assert in_memory(X).head(7).rows == 7


def test_who_sums_rows_up_anyway_asks_about_numbers_that_are_not_finite() -> None:
    X = np.ones((5, 2))
    X[3, 1] = np.inf
    data = in_memory(X)
    assert sum(len(block) for block in replace(data, nonfinite="keep").blocks(2)) == 5
    data.refuse(X[:3])
    with pytest.raises(NonfiniteRowsError, match=r"1 of 5 rows hold NaN or infinity .*: 3"):
        data.refuse(X[2:4], 2)
    dropping = in_memory(X, nonfinite="drop")
    assert [len(block) for block in dropping.blocks(2)] == [2, 1, 1]
    assert [len(block) for block in dropping.blocks(2, after=1)] == [1, 1]
    assert [dropping.in_blocks(k, 2) for k in range(4)] == [0, 2, 4, 5]
    assert dropping.count_blocks(2) == 3
    assert dropping.finite(X[2:4]).tolist() == [[1, 1]]
    in_memory(X, nonfinite="keep").refuse(X)


# -- folders of images ----------------------------------------------------------------------------


def save_png(path: Path, pixels: np.ndarray) -> None:
    Image = pytest.importorskip("PIL.Image")
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3)])
def test_a_folder_of_png_is_read_in_the_order_of_names(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, *shape)).astype(np.uint8)
    for i in (3, 0, 4, 1, 2):
        save_png(tmp_path / f"{i}.{'PNG' if i == 2 else 'png'}", pixels[i])
    (tmp_path / "readme.txt").write_text("not an image")
    data = open_data(tmp_path)
    expected = pixels[:, None] if len(shape) == 2 else pixels.transpose(0, 3, 1, 2)
    assert data.shape == expected.shape
    assert (data.read() == expected.astype(np.float32) / 255).all()
    assert data.read().dtype == np.float32
    assert [note.code for note in data.notes] == ["scaled"]
    assert (open_data(tmp_path, scale="none").read(3) == expected[:3]).all()
    assert (
        np.concatenate(list(data.share(1, 2).blocks(2))) == expected.reshape(5, -1)[2:] / np.float32(255)
    ).all()


def test_folders_of_other_things(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without PNG images"):
        open_data(tmp_path)
    save_png(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    save_png(tmp_path / "b.png", np.zeros((5, 4), np.uint8))
    with pytest.raises(InputError, match=r"a\.png` has shape \(1, 4, 4\).*b\.png` \(1, 5, 4\)"):
        open_data(tmp_path)
    save_png(tmp_path / "b.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"a\.png` has shape \(1, 4, 4\).*b\.png` \(3, 4, 4\)"):
        open_data(tmp_path)
    save_png(tmp_path / "b.png", np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(InputError, match="mode RGBA"):
        open_data(tmp_path)
    (tmp_path / "b.png").write_bytes(b"GIF89a")
    with pytest.raises(InputError, match=r"b\.png` is no PNG image"):
        open_data(tmp_path)


def test_a_damaged_png(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:1000])
    with pytest.raises(InputError, match="damaged PNG"):
        open_data(tmp_path).read()


def test_images_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match="not installed") as caught:
        open_data(tmp_path)
    assert caught.value.hint == "pip install 'vaeprobe[images]'"


def test_a_sparse_matrix_is_named(tmp_path: Path) -> None:
    parts = {"indices": [0, 1], "indptr": [0, 1, 2], "format": b"csr", "shape": [2, 7], "data": [1.0, 1.0]}
    np.savez(tmp_path / "sparse.npz", **{name: np.array(part) for name, part in parts.items()})
    with pytest.raises(InputError, match="a sparse matrix of scipy"):
        open_data(tmp_path / "sparse.npz")


@pytest.mark.parametrize(
    ("head", "word"),
    [
        (b"PAR1" + b"\x15\x04" * 20, "Parquet"),
        (bytes([0, 0, 8, 3, 0, 0, 0, 4]) + bytes(40), "IDX"),
        (b"SQLite format 3\0", "SQLite"),
        ("a,b\n1,2\n3,4\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_files_of_other_programs_are_named(tmp_path: Path, head: bytes, word: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(head)
    with pytest.raises(InputError, match=word) as error:
        open_data(str(path))
    assert ("numpy.save" if word != "UTF-16" else "utf-8") in (error.value.hint or "")


def test_one_row_of_many_tells_files_apart(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    rows = np.zeros((300_000, 4), np.float32)
    prints = set()
    for row in (None, 0, 1, 123_456, 299_999):
        if row is not None:
            rows[:] = 0
            rows[row, 1] = 1
        np.save(path, rows)
        prints.add(open_data([str(path)]).fingerprint)
    assert len(prints) == 5


def test_a_key_is_refused_where_there_is_nothing_to_choose(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(6, 3))
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "x.csv").write_text("1,2\n3,4\n5,7\n")
    torch.save(torch.from_numpy(X), tmp_path / "x.pt")
    for name in ("x.npy", "x.csv", "x.pt"):
        assert open_data(tmp_path / name).rows > 2
        with pytest.raises(
            UsageError, match="holds one array, which has no name, and so no array `q`"
        ) as caught:
            open_data(tmp_path / name, key="q")
        assert caught.value.hint == "leave out --key"
    with pytest.raises(UsageError, match="an array, which has no entry `q`"):
        vaeprobe.train_linear(X, key="q")
    np.savez(tmp_path / "x.npz", q=X, r=X + 1)
    np.testing.assert_array_equal(open_data(tmp_path / "x.npz", key="q").read(), X)


@pytest.mark.parametrize("name", ["linear.npy", "digits_conv.pt2"])
def test_a_key_of_a_model_without_entries_is_refused(name: str) -> None:
    path = Path(__file__).parents[1] / "sample_models" / name
    for door in (vaeprobe.load, vaeprobe.inspect):
        with pytest.raises(UsageError, match="and so no entry `q`"):
            door(path, key="q")
        door(path)


def test_hints_name_options_of_commands_that_have_them_alone(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3))
    np.savez(tmp_path / "x.npz", q=rows, r=rows[:, 0])
    with pytest.raises(UsageError) as caught:
        vaeprobe.train_linear(tmp_path / "x.npz")
    assert "key" in (caught.value.hint or "")
    assert vaeprobe.train_linear(tmp_path / "x.npz", key="q", latent_dim=1).verdict
    encoder = vaeprobe.Encoder(lambda x: (x[:, :1], 0 * x[:, :1]), 1)
    decoder = vaeprobe.Decoder(lambda z: torch.cat([z, z, z], 1), 1, likelihood="gaussian", encoder=encoder)
    with pytest.raises(UsageError) as caught:
        vaeprobe.beta(decoder, data=tmp_path / "x.npz")
    assert caught.value.hint == "save the rows in a file of their own, one of: q, r"
    assert vaeprobe.beta(decoder, data=save(tmp_path / "q.npy", rows)).verdict

    save(tmp_path / "a.npy", rows)
    save(tmp_path / "b.npy", np.zeros((3, 3), "u1"))
    both = [tmp_path / "a.npy", tmp_path / "b.npy"]
    with pytest.raises(InputError) as refused:
        vaeprobe.beta(decoder, data=both)
    assert refused.value.hint == "store all of them alike"
    with pytest.raises(InputError) as refused:
        vaeprobe.train_linear(both)
    assert "scale" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("shape", "wanted", "hint"),
    [
        ((3, 40), (3,), "transposed, x.T, the rows have 3 numbers"),
        ((4, 40), (3,), "the columns that the model was trained on"),
        ((3, 5, 8), (3,), "resize or pad the images"),
        ((3, 40), (1, 1, 3), "resize or pad the images"),
    ],
)
def test_rows_of_another_size_are_told_what_fits(
    shape: tuple[int, ...], wanted: tuple[int, ...], hint: str
) -> None:
    encoder = vaeprobe.Encoder(lambda x: (x.flatten(1)[:, :1],) * 2, 1, input_shape=wanted)
    decoder = vaeprobe.Decoder(lambda z: z.repeat(1, 3).view(-1, *wanted), 1, likelihood="gaussian")
    with pytest.raises(UsageError) as caught:
        vaeprobe.beta(decoder, data=np.ones(shape), encoder=encoder)
    assert hint in (caught.value.hint or "")
    with pytest.raises(UsageError) as caught:
        encoder(torch.ones(shape))
    assert hint in (caught.value.hint or "")


def of_one_latent() -> vaeprobe.Decoder:
    """A decoder of one latent whose encoder returns the first column."""
    encoder = vaeprobe.Encoder(lambda x: (x[:, :1], 0 * x[:, :1] - 1), 1, dtype=torch.float64)
    return vaeprobe.Decoder(
        lambda z: torch.cat([z, 2 * z, z], 1), 1, likelihood="gaussian", encoder=encoder, dtype=torch.float64
    )


OF_DATA = {
    "beta": lambda x: vaeprobe.beta(of_one_latent(), data=x, samples=200),
    "posterior": lambda x: vaeprobe.posterior(of_one_latent(), data=x, samples=200),
    "orthogonality": lambda x: vaeprobe.orthogonality(
        of_one_latent(), data=x, latents="posterior-means", samples=200
    ),
    "factorise": lambda x: vaeprobe.factorise(of_one_latent(), data=x, latents="posterior", samples=200),
    "trace": lambda x: vaeprobe.trace(of_one_latent(), data=x, row=150, length=0.1),
    "compare": lambda x: vaeprobe.compare([of_one_latent()] * 2, data=x, samples=200),
    "traverse": lambda x: vaeprobe.traverse(of_one_latent(), data=x),
}


@pytest.mark.parametrize("command", OF_DATA)
def test_rows_in_memory_are_refused_as_those_of_files_are(command: str) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 1)) * [1, 2, 1]
    for given in (rows, torch.from_numpy(rows).requires_grad_(True)):
        assert OF_DATA[command](given).metrics
    for wrong in (np.nan, np.inf):
        rows[150, 0] = wrong  # beyond the rows that are looked at first
        for given in (rows, torch.from_numpy(rows)):
            with pytest.raises(NonfiniteRowsError, match=r"1 of 200 rows.*: 150\)"):
                OF_DATA[command](given)
    for large in (1e160, 1e308):  # a number, and its square is none
        rows[150, 0] = large
        with pytest.raises(InputError, match=r"no numbers below 1e\+100") as caught:
            OF_DATA[command](rows)
        assert "scaled" in (caught.value.hint or "")
    with pytest.raises(InputError, match="complex"):
        OF_DATA[command](torch.from_numpy(rows).to(torch.complex64))


@pytest.mark.parametrize("command", ["beta", "posterior"])
def test_a_likelihood_that_is_no_number_is_said(command: str) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 1)) * [1, 2, 1]
    rows[150, 2] = 1e30
    assert OF_DATA[command](rows).metrics
    rows[150, 2] = 1e160  # of a column that the encoder does not see
    with pytest.raises(InputError, match="the likelihood of 1 of 200 data rows is no number below"):
        OF_DATA[command](rows)


def test_how_an_encoder_is_read_otherwise_is_said_for_functions_too() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 1)) * [1, 2, 1]
    decoder = of_one_latent()
    for second, refused in ((torch.log, False), (torch.sqrt, True)):
        encoder = vaeprobe.Encoder(
            lambda x, second=second: (
                x @ torch.tensor([[1.0], [2], [1]]).double() / 7,
                second(0 * x[:, :1] + 1 / 7),
            ),
            1,
            dtype=torch.float64,
        )
        if not refused:
            assert vaeprobe.beta(decoder, data=rows, encoder=encoder, sigma2=0.1).verdict
            continue
        with pytest.raises(InputError, match="laid out otherwise") as caught:
            vaeprobe.beta(decoder, data=rows, encoder=encoder, sigma2=0.1)
        assert "blueprint's [encoder], or let a function of your own return (mean, log" in (
            caught.value.hint or ""
        )
