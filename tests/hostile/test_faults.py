"""Files that are no checkpoints, damaged ones, and odd weights."""

from __future__ import annotations

import contextlib
import io
import os
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_safetensors

import vaeprobe
from vaeprobe.errors import InputError, VaeprobeError

from hostile_files import refused, saved, state
from programs import exported, network, scripted

BLUEPRINT = 'latents = 2\n[decoder]\nlayers = [{linear = "0"}, "tanh", {linear = "2"}]\n'


def wrote(folder: Path, data: bytes, blueprint: str = BLUEPRINT) -> Path:
    """Write a checkpoint with a blueprint beside it."""
    path = folder / "model.pt"
    path.write_bytes(data)
    (folder / "model.pt.toml").write_text(blueprint)
    return path


def test_directory(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="is a directory"):
        vaeprobe.load(tmp_path)


def test_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    errors: list[BaseException] = []

    def attempt() -> None:
        try:
            vaeprobe.load(tmp_path / "pipe")
        except InputError as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert "is a FIFO, not a regular file" in str(errors[0])


def test_device() -> None:
    with pytest.raises(InputError, match="is a device"):
        vaeprobe.load("/dev/zero")


def test_missing_file_offers_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "decoder.pt").touch()
    with pytest.raises(InputError, match="there is no file") as error:
        vaeprobe.load(tmp_path / "decodr.pt")
    assert error.value.hint == "did you mean `decoder.pt`?"


def test_empty(tmp_path: Path) -> None:
    assert "is empty (0 bytes)" in refused(tmp_path, b"", 5)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_truncated(tmp_path: Path, legacy: bool, part: float) -> None:
    data = saved(state(), legacy=legacy)
    message = refused(tmp_path, data[: int(part * len(data))], 5)
    assert "truncated" in message


def test_git_lfs_pointer(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    message = refused(tmp_path, pointer, 5)
    assert "git-LFS pointer" in message
    assert "git lfs pull" in message


@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html><html>404", b"\n\n  <html><body>", b"\xef\xbb\xbf<?xml version='1.0'?>"]
)
def test_web_page(tmp_path: Path, page: bytes) -> None:
    assert "is a web page" in refused(tmp_path, page, 5)


@pytest.mark.parametrize(
    "data", [b"\x1f\x8b\x08\x00abc", b"GGUF\x03\x00\x00\x00", b"hello", b"\x00" * 64, b"P", b"\x80"]
)
def test_strangers(tmp_path: Path, data: bytes) -> None:
    refused(tmp_path, data, 5)


def _formats() -> dict[str, bytes]:
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, np.eye(3, 2))
    np.savez_compressed(npz, W=np.eye(3, 2))
    tensors = {k: v.clone() for k, v in state().items()}
    return {
        "zip": saved(state()),
        "legacy": saved(state(), legacy=True),
        "safetensors": save_safetensors(tensors),
        "npy": npy.getvalue(),
        "npz": npz.getvalue(),
        "module": saved(torch.nn.Sequential(torch.nn.Linear(2, 3))),
    }


def _code(path: Path) -> int:
    """Return the exit code of loading a file; any exception that is not ours fails the test, of `inspect` too."""
    with contextlib.suppress(VaeprobeError):
        assert vaeprobe.inspect(path).exit_code in (0, 1, 4, 5)
    try:
        vaeprobe.load(path)
    except VaeprobeError as error:
        return error.exit_code
    return 0


def _fuzz(folder: Path, data: bytes, mutations: int, seed: int) -> set[int]:
    """Flip bytes at random; return the exit codes seen, 0 for a file that still loads."""
    rng = random.Random(seed)
    codes = set()
    for _ in range(mutations):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        codes.add(_code(wrote(folder, bytes(broken))))
    return codes


@pytest.mark.parametrize("format", sorted(_formats()))
def test_flipped_bits(tmp_path: Path, format: str) -> None:
    assert _fuzz(tmp_path, _formats()[format], 40, 0) <= {0, 2, 4, 5, 6}


@pytest.mark.slow
@pytest.mark.parametrize("format", sorted(_formats()))
def test_thousand_mutations(tmp_path: Path, format: str) -> None:
    assert _fuzz(tmp_path, _formats()[format], 1000, 1) <= {0, 2, 4, 5, 6}


def test_nan_weights_are_counted_per_tensor(tmp_path: Path) -> None:
    weights = state()
    weights["0.weight"][0, 0] = torch.nan
    weights["2.bias"][:] = torch.inf
    path = wrote(tmp_path, saved(weights))
    counted = "`2.bias` has 3 of 3, `0.weight` has 1 of 8"
    with pytest.raises(vaeprobe.errors.ContractError, match="NaN or infinite weights") as error:
        vaeprobe.load(path)
    assert counted in error.value.message
    found = vaeprobe.inspect(path)
    assert found.exit_code == 1
    assert counted in found.findings[0].message


@pytest.mark.parametrize("suffix", [".pt2", ".pt"])
def test_nan_weights_of_programs_are_counted(tmp_path: Path, suffix: str) -> None:
    broken = network()
    next(broken.parameters())[0, 0] = torch.nan
    path = tmp_path / f"m{suffix}"
    path.write_bytes(exported(broken, torch.zeros(3, 2)) if suffix == ".pt2" else scripted(broken))
    found = vaeprobe.inspect(path)
    assert found.exit_code == 1
    assert "0.weight` has 1 of 16" in found.findings[0].message.replace("p_0_weight", "0.weight")
    with pytest.raises(vaeprobe.errors.ContractError, match=r"NaN or infinite weights.* has 1 of 16"):
        vaeprobe.load(path)


def test_nan_in_a_part_that_is_not_used_is_a_finding(tmp_path: Path) -> None:
    weights = {**state(), "encoder.weight": torch.full((2, 2), torch.nan)}
    notes = {n.code: n for n in vaeprobe.load(wrote(tmp_path, saved(weights))).notes}
    assert notes["nonfinite-weights"].level == "error"


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float16", 1e-2), ("bfloat16", 1e-1), ("float8_e4m3fn", 1.0), ("float64", 1e-6)]
)
def test_low_and_high_precision_weights(tmp_path: Path, dtype: str, tolerance: float) -> None:
    exact = vaeprobe.load(wrote(tmp_path, saved(state())))
    kind = getattr(torch, dtype)
    decoder = vaeprobe.load(wrote(tmp_path, saved({k: v.to(kind) for k, v in state().items()})))
    assert decoder.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    z = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(decoder(z).float(), exact(z), atol=tolerance, rtol=0)
    assert [n.code for n in decoder.notes] == ([] if dtype == "float64" else ["cast-up"])


@pytest.mark.parametrize(
    ("weight", "word"),
    [
        (torch.ones(4, 2, dtype=torch.complex64), "complex64"),
        (torch.eye(4, 2).to_sparse(), "sparse"),
        (torch.empty(4, 2, device="meta"), "meta"),
        (torch.ones(4, 2, dtype=torch.int8), "int8"),
    ],
    ids=["complex", "sparse", "meta", "int8"],
)
def test_weights_that_are_no_dense_floats(tmp_path: Path, weight: Any, word: str) -> None:
    path = wrote(tmp_path, saved({**state(), "0.weight": weight}))
    with pytest.raises(VaeprobeError, match=word) as error:
        vaeprobe.load(path)
    assert error.value.exit_code == 5


def test_shared_and_non_contiguous_weights(tmp_path: Path) -> None:
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    weights = {
        "0.weight": base.T[2:6, :2],
        "0.bias": base[:, 0],
        "2.weight": base[:3, :4],
        "2.bias": base[1, :3],
    }
    assert not weights["0.weight"].is_contiguous()
    copies = {k: v.clone() for k, v in weights.items()}
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(2))
    expected = vaeprobe.load(wrote(tmp_path, saved(copies)))(z)
    for legacy in (False, True):
        torch.testing.assert_close(vaeprobe.load(wrote(tmp_path, saved(weights, legacy=legacy)))(z), expected)


def test_training_mode_and_dropout_of_a_pickled_module(tmp_path: Path) -> None:
    module = torch.nn.Sequential(
        torch.nn.Linear(2, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)
    ).train()
    path = tmp_path / "module.pt"
    path.write_bytes(saved(module))
    decoder = vaeprobe.load(path)
    z = torch.randn(6, 2)
    torch.testing.assert_close(decoder(z), module.eval()(z))
    (note,) = decoder.notes
    assert note.message == "BatchNorm1d and Dropout layers were saved in training mode: probed in eval mode"


def test_the_bytes_hashed_are_the_bytes_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    first, second = saved(state()), saved({k: v + 1 for k, v in state().items()})
    path = wrote(tmp_path, first)
    from vaeprobe.checkpoints import formats

    original = formats.sniff

    def replaced(source: Any) -> Any:
        path.write_bytes(second)  # somebody replaces the file while it is read
        return original(source)

    monkeypatch.setattr(formats, "sniff", replaced)
    decoder = vaeprobe.load(path)
    assert decoder.artifact is not None
    assert decoder.artifact.sha256 == hashlib.sha256(first).hexdigest()
    assert decoder.artifact.size == len(first)
    assert torch.equal(decoder.module.state_dict()["0.weight"], state()["0.weight"])  # type: ignore[union-attr]
