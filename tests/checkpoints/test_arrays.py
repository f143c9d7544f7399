"""Matrices as linear decoders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import vaeprobe
from vaeprobe.errors import UsageError

from hostile_files import saved

W = np.random.default_rng(0).standard_normal((7, 3))
Z = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_npy_is_a_linear_decoder_in_its_own_precision(tmp_path: Path) -> None:
    np.save(tmp_path / "W.npy", W)
    decoder = vaeprobe.load(tmp_path / "W.npy")
    assert decoder.dtype == torch.float64
    assert decoder.artifact is not None
    assert decoder.artifact.architecture == "linear, 7 x 3 matrix"
    torch.testing.assert_close(decoder(Z), Z @ torch.from_numpy(W).T, atol=1e-14, rtol=0)


def test_npz_takes_its_one_matrix_and_an_offset(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "pca.npz", W=W, mean=np.arange(7.0), variances=np.ones(3))
    decoder = vaeprobe.load(tmp_path / "pca.npz")
    torch.testing.assert_close(decoder(Z), Z @ torch.from_numpy(W).T + torch.arange(7.0), atol=1e-14, rtol=0)


def test_several_matrices_need_a_key(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", first=W, second=2 * W)
    with pytest.raises(UsageError, match="2 matrices: `first` 7 x 3, `second` 7 x 3") as error:
        vaeprobe.load(tmp_path / "x.npz")
    assert error.value.hint == "choose one with --key"
    torch.testing.assert_close(
        vaeprobe.load(tmp_path / "x.npz", key="second")(Z), 2 * Z @ torch.from_numpy(W).T, atol=1e-14, rtol=0
    )
    with pytest.raises(UsageError, match="no array `secnd`") as error:
        vaeprobe.load(tmp_path / "x.npz", key="secnd")
    assert error.value.hint == "did you mean `second`?"


def test_a_wide_matrix_is_probably_transposed(tmp_path: Path) -> None:
    np.save(tmp_path / "W.npy", W.T)
    (note,) = vaeprobe.load(tmp_path / "W.npy").notes
    assert (note.level, note.code) == ("warning", "wide-matrix")
    assert "components_" in (note.hint or "")


def test_one_latent(tmp_path: Path) -> None:
    np.save(tmp_path / "W.npy", W[:, :1])
    assert vaeprobe.load(tmp_path / "W.npy").latent_dim == 1


def test_bare_tensors_are_matrices_too(tmp_path: Path) -> None:
    matrix = torch.from_numpy(W)
    (tmp_path / "W.pt").write_bytes(saved(matrix))
    save_file({"D": matrix, "other": matrix + 1}, tmp_path / "W.safetensors")
    (tmp_path / "dict.pt").write_bytes(saved({"D": matrix, "other": matrix + 1}))
    for path, key in (("W.pt", None), ("W.safetensors", "D"), ("dict.pt", "D")):
        torch.testing.assert_close(
            vaeprobe.load(tmp_path / path, key=key)(Z), Z @ matrix.T, atol=1e-14, rtol=0
        )


def test_int64_too_large_for_float64_is_said(tmp_path: Path) -> None:
    np.save(tmp_path / "W.npy", np.array([[2**53 + 1], [1]]))
    (note,) = vaeprobe.load(tmp_path / "W.npy").notes
    assert note.code == "rounded"


def test_latent_dim_and_dtype_are_checked(tmp_path: Path) -> None:
    np.save(tmp_path / "W.npy", W)
    with pytest.raises(UsageError, match="has 3 latents, not 4"):
        vaeprobe.load(tmp_path / "W.npy", latent_dim=4)
    assert vaeprobe.load(tmp_path / "W.npy", latent_dim=3, dtype="float32").dtype == torch.float32
    with pytest.raises(UsageError, match="no precision `float23`") as error:
        vaeprobe.load(tmp_path / "W.npy", dtype="float23")
    assert "`float32`" in (error.value.hint or "")
