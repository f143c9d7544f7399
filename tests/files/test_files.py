"""Formats by their bytes, zip archives, and safetensors, held against the libraries that write them."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from vaeprobe.checkpoints.weights import realise
from vaeprobe.errors import InputError, ResourceError
from vaeprobe.files import source
from vaeprobe.files.safetensors import read as read_safetensors
from vaeprobe.files.sniff import sniff
from vaeprobe.files.source import Source, printable, read_source
from vaeprobe.files.tensors import nonfinite
from vaeprobe.files.zips import open_archive

from hostile_files import entries, safetensors, saved, state, zipped


def _npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.eye(2))
    return stream.getvalue()


FILES = {
    "torch zip": saved(state()),
    "torch legacy": saved(state(), legacy=True),
    "pickle": b"\x80\x04}.",
    "safetensors": safetensors({}),
    "npy": _npy(),
    "npz": zipped({"a.npy": _npy()}),
    "keras": zipped({"metadata.json": b"{}", "config.json": b"{}", "model.weights.h5": b""}),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "onnx": b"\x08\x0a\x12\x07pytorch\x3a\x02\x12\x00\x42\x02\x10\x12",
    "torchscript": zipped({"a/data.pkl": b"", "a/constants.pkl": b"", "a/code/x.py": b""}),
    "pt2": zipped({"a/archive_format": b"pt2", "a/models/model.json": b"{}", "a/data/weights/weight_0": b""}),
}


@pytest.mark.parametrize("format", FILES)
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "model"])
def test_the_bytes_tell_the_format(format: str, name: str) -> None:
    assert sniff(Source(Path(name), FILES[format])) == format


def test_real_files(models: Path) -> None:
    found = {sniff(read_source(path)) for path in (models / "formats").iterdir()}
    assert found == {"pt2", "torchscript", "onnx", "safetensors"}
    assert sniff(read_source(models / "goldsmdn_keras" / "decoder.keras")) == "keras"


def test_a_zip_of_something_else_shows_its_entries() -> None:
    with pytest.raises(InputError, match=r"holds no checkpoint \(entries: `photo.png`"):
        sniff(Source(Path("x.zip"), zipped({"photo.png": b"", "b.txt": b""})))


def test_archive_records_are_views_below_the_root() -> None:
    data = saved(state())
    archive = open_archive(data)
    expected = entries(data)
    assert archive.root == "archive"
    assert {f"archive/{k}": bytes(v) for k, v in archive.records.items()} == expected


@pytest.mark.parametrize("cut", [22, 23, 100, 1000])
def test_a_truncated_zip_says_so(cut: int) -> None:
    with pytest.raises(InputError, match="truncated"):
        open_archive(saved(state())[:-cut])


def test_printable_escapes_what_a_terminal_would_obey() -> None:
    assert printable("a\x1b[31mb\n\u202ec\x9b") == "a\\x1b[31mb\\n\\u202ec\\x9b"
    assert printable("\ud800") == "\\ud800"
    assert printable("Größe 日本") == "Größe 日本"
    assert len(printable("x" * 1000)) == 120


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "bfloat16", "int64", "bool", "float8_e5m2"]
)
def test_safetensors_are_what_the_library_reads(dtype: str) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "a": torch.rand(3, 2, generator=generator).to(getattr(torch, dtype)),
        "empty": torch.ones(0, 4).to(getattr(torch, dtype)),
        "scalar": torch.tensor(1.0).to(getattr(torch, dtype)),
    }
    data = save_safetensors(tensors, metadata={"note": "x"})
    specs, metadata = read_safetensors(data)
    assert metadata == {"note": "x"}
    read = realise(specs).tensors
    expected = load_safetensors(data)
    assert set(read) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(read[name].to(tensor.dtype).float(), tensor.float())
        assert read[name].shape == tensor.shape


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e5m2", "int32"])
@pytest.mark.parametrize("shape", [(4, 3), (0, 3), ()])
def test_counting_nan_without_torch_agrees_with_torch(dtype: str, shape: tuple[int, ...]) -> None:
    tensor = torch.arange(float(np.prod(shape) or 0 if 0 in shape else np.prod(shape))).reshape(shape)
    if dtype != "int32" and tensor.numel() > 1:
        tensor = tensor.index_put(
            (torch.tensor([0, 1]), torch.tensor([1, 2])), torch.tensor([torch.nan, -torch.inf])
        )
    tensor = tensor.to(getattr(torch, dtype))
    specs, _ = read_safetensors(save_safetensors({"w": tensor}))
    assert nonfinite(specs["w"]) == int((~torch.isfinite(tensor.float())).sum())


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_a_mask_of_attention_is_no_broken_weight(dtype: str) -> None:
    def counted(tensor: torch.Tensor) -> int:
        specs, _ = read_safetensors(save_safetensors({"w": tensor.to(getattr(torch, dtype))}))
        return nonfinite(specs["w"])

    mask = torch.full((3, 3), -torch.inf).triu(1)
    assert counted(mask) == 0
    assert counted(-mask) == 3
    assert counted(mask + torch.eye(3)) == 3
    assert counted(torch.full((3, 3), -torch.inf)) == 9


def test_a_file_beyond_the_address_space_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.npy").write_bytes(bytes(100))
    window = source.open_window(str(tmp_path / "x.npy"))

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(source.mmap, "mmap", refused)
    with pytest.raises(ResourceError, match=r"x\.npy.* is larger than the address space"):
        window.mapped()
