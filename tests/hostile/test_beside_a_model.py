"""What is given beside a model goes through the same door: latents, factors, a dispersion, data; the same codes everywhere."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import vaeprobe
from vaeprobe.checkpoints.programs import program
from vaeprobe.cli import check
from vaeprobe.errors import InputError, ResourceError, UnsafeError, UsageError
from vaeprobe.files.matrices import read_matrix
from vaeprobe.files.sniff import sniff
from vaeprobe.files.source import Source
from vaeprobe.gate.policy import Policy
from vaeprobe.probes import probe_class

from hostile_files import Touch, saved, zipped

SIDES = (
    'latents = 2\n[decoder]\nlayers = [{ linear = "d" }]\n[encoder]\ninput = [3]\nlayers = [{ linear = "e" }]\n'
    'output = "chunked"\n'
)


def vae(folder: Path) -> Path:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    shapes = {"d.weight": (3, 2), "d.bias": (3,), "e.weight": (4, 3), "e.bias": (4,)}
    tensors = {k: torch.randn(n) for k, n in shapes.items()}
    save_file(tensors, folder / "vae.safetensors", metadata={"vaeprobe.blueprint": SIDES})
    return folder / "vae.safetensors"


def evil(marker: Path) -> dict[str, bytes]:
    objects = io.BytesIO()
    np.save(objects, np.array([[Touch(marker)]], object), allow_pickle=True)
    return {
        "a pickle": pickle.dumps(Touch(marker)),
        "a torch file": saved({"x": Touch(marker)}),
        "objects": objects.getvalue(),
    }


@pytest.mark.parametrize("what", ["a pickle", "a torch file", "objects"])
def test_what_would_run_is_unsafe_wherever_it_is_given(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(evil(tmp_path / "marker")[what])
    model = vae(tmp_path)
    rows = np.random.default_rng(0).normal(size=(20, 3))
    for attempt in (
        lambda: read_matrix(path),
        lambda: vaeprobe.orthogonality(model, latents=str(path)),
        lambda: vaeprobe.compare([model, model], data=rows, factors=path, samples=16),
        lambda: vaeprobe.survey(vaeprobe.load(model), data=path, samples=16),
    ):
        with pytest.raises(UnsafeError):
            attempt()
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("data", [saved({"x": torch.zeros(2)}), pickle.dumps(1), b"x,y\n1,2\n"])
def test_what_is_no_matrix_is_unreadable(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"is no \.npy matrix"):
        read_matrix(path)


def test_a_matrix_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6).reshape(3, 2))
    assert read_matrix(tmp_path / "x.npy").tolist() == [[0, 1], [2, 3], [4, 5]]


def test_a_page_of_data_that_cannot_be_read_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "rows.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(InputError):
        vaeprobe.survey(vae(tmp_path), data=tmp_path / "rows.npy", samples=16)


def test_names_that_no_system_takes_are_no_files(tmp_path: Path) -> None:
    """`Path.is_file` raises on them; an index of shards may hold any."""
    long = "a" * 300
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": long}}))
    for attempt in (
        lambda: vaeprobe.load(tmp_path / "m.safetensors.index.json"),
        lambda: vaeprobe.load(long),
        lambda: vaeprobe.orthogonality(vae(tmp_path), latents=long),
        lambda: probe_class("beta")(data=long).check_ready(),
    ):
        with pytest.raises((InputError, UsageError)):
            attempt()


def test_data_beyond_the_range_of_numbers_are_unreadable(tmp_path: Path) -> None:
    signs = np.sign(np.random.default_rng(0).normal(size=(20, 3)))
    with pytest.raises(InputError, match="codes of the data"):
        vaeprobe.traverse(vaeprobe.load(vae(tmp_path)), data=1e308 * signs)


def test_a_glob_of_a_policy_matches_so_many_files_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "MOST_MODELS", 3)
    policy = Policy(models=["*.npy"], origin=str(tmp_path / "vaeprobe.toml"))
    monkeypatch.chdir(tmp_path)
    for k in range(3):
        (tmp_path / f"{k}.npy").touch()
    assert len(check._targets([], policy)) == 3
    (tmp_path / "3.npy").touch()
    with pytest.raises(ResourceError, match="over 3 files match"):
        check._targets([], policy)


def test_programs_of_tens_of_thousands_of_steps_are_a_limit() -> None:
    step = program.Step("neg", torch.neg, (program.Value("z"),), {}, ("z",))
    most = [step] * program.MOST_STEPS
    program.Program({}, most, "z", program.Value("z"), (2,))
    with pytest.raises(ResourceError, match="20,001 steps"):
        program.Program({}, [*most, step], "z", program.Value("z"), (2,))


def test_every_part_of_a_keras_archive_but_its_arrays_is_looked_at(tmp_path: Path) -> None:
    parts = {"metadata.json": b"{}", "config.json": b"{}", "model.weights.h5": b"\x89HDF\r\n\x1a\n"}
    assert sniff(Source(tmp_path, zipped({**parts, "assets/words.txt": b"one\ntwo\n"}))) == "keras"
    for name in ("assets/x.pkl", "model.weights.npz"):
        with pytest.raises(UnsafeError):
            sniff(Source(tmp_path, zipped({**parts, name: pickle.dumps(Touch(tmp_path / "marker"))})))
