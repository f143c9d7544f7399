"""Models named by address, against a cache of the Hugging Face Hub laid out by hand; no socket is opened."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import vaeprobe
from vaeprobe.errors import InputError, UnsafeError, UsageError
from vaeprobe.files import addresses

REVISION = "0123456789012345678901234567890123456789"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the repository `me/model` in an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")

    def closed(*args: object, **how: object) -> NoReturn:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", closed)
    for module in ("file_download", "_snapshot_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.HF_HUB_CACHE", str(tmp_path), raising=False)
    repo = tmp_path / "models--me--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(REVISION)
    (repo / "blobs").mkdir()
    (repo / "snapshots" / REVISION).mkdir(parents=True)
    return repo


def put(repo: Path, name: str, data: bytes) -> None:
    blob = repo / "blobs" / f"blob-{name.replace('/', '-')}"
    blob.write_bytes(data)
    link = repo / "snapshots" / REVISION / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(blob)


@pytest.mark.parametrize(
    "address",
    ["hf:me/model/W.npy", "hf:me/model@main/W.npy", f"hf:me/model@{REVISION}/W.npy", "hf://me/model/W.npy"],
)
def test_a_file_of_the_hub(cache: Path, tmp_path: Path, address: str) -> None:
    np.save(tmp_path / "W.npy", np.arange(8.0).reshape(4, 2))
    put(cache, "W.npy", (tmp_path / "W.npy").read_bytes())
    decoder = vaeprobe.load(address)
    assert decoder.latent_dim == 2
    assert decoder.artifact is not None
    assert decoder.artifact.path == address
    assert vaeprobe.inspect(address).artifact.path == address  # type: ignore[union-attr]


def test_a_whole_repository_and_what_its_links_may_point_at(cache: Path, tmp_path: Path) -> None:
    sizes = {"fc1": (784, 400), "fc21": (400, 2), "fc22": (400, 2), "fc3": (2, 400), "fc4": (400, 784)}
    layers = {name: torch.nn.Linear(*size) for name, size in sizes.items()}
    state = {f"{n}.{k}": t.detach() for n, layer in layers.items() for k, t in layer.named_parameters()}
    save_file(state, tmp_path / "model.safetensors")
    put(cache, "model.safetensors", (tmp_path / "model.safetensors").read_bytes())
    assert vaeprobe.load("hf:me/model").latent_dim == 2
    outside = cache / "snapshots" / REVISION / "model.safetensors"
    outside.unlink()
    outside.symlink_to(tmp_path / "model.safetensors")
    with pytest.raises(UnsafeError, match="leads out of its folder"):
        vaeprobe.load("hf:me/model")


def test_what_is_not_there_is_said(cache: Path) -> None:
    with pytest.raises(InputError, match="cannot be had"):
        vaeprobe.load("hf:me/other/W.npy")


@pytest.mark.parametrize(
    "address", ["hf:me", "hf:", "hf:me/model/../x", "hf:me/model@a b/x", "file://elsewhere/x"]
)
def test_other_forms_are_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"is no address|on another machine"):
        vaeprobe.load(address)


def test_file_addresses(tmp_path: Path) -> None:
    path = tmp_path / "W 1.npy"
    np.save(path, np.eye(4, 2))
    assert vaeprobe.load(path.as_uri()).latent_dim == 2
    assert addresses.local(f"file:{path}") == path


def test_a_file_of_such_a_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.eye(4, 2))
    Path("x.npy").rename("hf:x")
    assert vaeprobe.load("hf:x").latent_dim == 2


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("somebody/sd-vae-ft-mse", "hf:somebody/sd-vae-ft-mse"),
        ("somebody/name/vae/model.safetensors", "hf:somebody/name/vae/model.safetensors"),
        ("huggingface.co/somebody/name", "hf:somebody/name"),
        ("https://huggingface.co/somebody/name", "hf:somebody/name"),
        ("https://huggingface.co/somebody/name/tree/main", "hf:somebody/name"),
        ("https://hf.co/somebody/name/blob/main/vae/x.safetensors", "hf:somebody/name/vae/x.safetensors"),
        ("https://huggingface.co/somebody/name/resolve/v1.0/x.pt?download=true", "hf:somebody/name@v1.0/x.pt"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [str, Path])
def test_a_name_or_link_of_the_hub_is_told_how_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, right: str, kind: type
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        vaeprobe.load(kind(written))
    assert str(caught.value.hint).endswith(f"write it as {right}")
    assert addresses.is_address(right)


@pytest.mark.parametrize("written", ["runs/model.pt", "here/model", "/nowhere/model", "../a/b", "a/../b"])
def test_a_path_that_is_missing_is_no_name_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(InputError, match="there is no file") as caught:
        vaeprobe.load(written)
    assert "hf:" not in str(caught.value.hint)


@pytest.mark.parametrize("written", ["https://example.com/model.pt", "s3://bucket/model.pt"])
def test_other_addresses_are_to_be_fetched_first(written: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"`{written}` is an address")) as caught:
        vaeprobe.load(Path(written))
    assert "fetch it first" in str(caught.value.hint)
