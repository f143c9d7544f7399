"""Weights in several files: an index and its shards, and distributed checkpoints."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import vaeprobe
from vaeprobe.errors import InputError, UnsafeError

TOML = 'latents = 2\n[decoder]\nlayers = [{linear = "0"}, "tanh", {linear = "2"}]\n'


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))


def sharded(folder: Path, suffix: str, weight_map: dict[str, str] | None = None) -> Path:
    state = network().state_dict()
    names = [f"model-0000{k}-of-00002.{suffix}" for k in (1, 2)]
    for name, keys in zip(names, (("0.weight", "0.bias"), ("2.weight", "2.bias")), strict=True):
        part = {k: state[k].clone() for k in keys}
        save_file(part, folder / name) if suffix == "safetensors" else torch.save(part, folder / name)
    index = folder / f"model.{suffix}.index.json"
    placed = {k: names[int(k.startswith("2"))] for k in state} if weight_map is None else weight_map
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": placed}))
    (folder / "model.toml").write_text(TOML)
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_an_index_loads_as_the_one_file_would(tmp_path: Path, suffix: str) -> None:
    index = sharded(tmp_path, suffix)
    z = torch.randn(5, 2)
    decoder = vaeprobe.load(index, blueprint=tmp_path / "model.toml")
    torch.testing.assert_close(decoder(z), network()(z).detach())
    with pytest.raises(InputError, match="one shard of several") as error:
        vaeprobe.load(tmp_path / f"model-00001-of-00002.{suffix}")
    assert f"{index}" in str(error.value.hint)


def test_an_index_leads_nowhere_else(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(UnsafeError, match="not beside it"):
        vaeprobe.load(sharded(inner, "safetensors", {"0.weight": "../other.safetensors"}))
    with pytest.raises(InputError, match="is not there"):
        vaeprobe.load(sharded(inner, "safetensors", {"0.weight": "missing.safetensors"}))


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (
            "missing",
            r"the index places tensor `4.weight` in `model-00001-of-00002\.\w+`, which does not hold it",
        ),
        (
            "moved",
            r"the index places tensor `2.bias` in `model-00001-of-00002\.\w+`, and it is in `model-00002",
        ),
        ("extra", r"holds tensor `2.bias`, which the index does not list"),
        ("twice", r"tensor `0.bias` is in two shards, `model-00001-of-00002\.\w+` and `model-00002"),
    ],
)
@pytest.mark.parametrize("how", ["load", "inspect", "arch"])
def test_an_index_and_its_shards_agree(tmp_path: Path, suffix: str, fault: str, why: str, how: str) -> None:
    first, second = (f"model-0000{k}-of-00002.{suffix}" for k in (1, 2))
    placed = {"0.weight": first, "0.bias": first, "2.weight": second, "2.bias": second}
    if fault == "missing":
        placed["4.weight"] = first
    if fault == "moved":
        placed["2.bias"] = first
    if fault == "extra":
        del placed["2.bias"]
    index = sharded(tmp_path, suffix, placed)
    if fault == "twice":
        part = {k: v.clone() for k, v in network().state_dict().items() if k != "0.weight"}
        save_file(part, tmp_path / second) if suffix == "safetensors" else torch.save(part, tmp_path / second)
    run = {
        "load": lambda: vaeprobe.load(index, blueprint=tmp_path / "model.toml"),
        "inspect": lambda: vaeprobe.inspect(index),
        "arch": lambda: vaeprobe.load(index, arch=network),
    }
    with pytest.raises(InputError, match=why) as error:
        run[how]()
    assert "again" in str(error.value.hint)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_the_users_own_network_takes_all_shards(tmp_path: Path, suffix: str) -> None:
    index = sharded(tmp_path, suffix)
    z = torch.randn(5, 2)
    torch.testing.assert_close(vaeprobe.load(index, arch=network)(z), network()(z).detach())
    assert len(vaeprobe.inspect(index).tensors) == 4


# -- distributed checkpoints ---------------------------------------------------------------------------


def distributed(folder: Path, state: dict[str, Any]) -> Path:
    """Save by torch itself, in one process."""
    dcp = pytest.importorskip("torch.distributed.checkpoint")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder, no_dist=True)
    folder.with_name(f"{folder.name}.toml").write_text(TOML)
    return folder


def in_parts(folder: Path, tensors: dict[str, Tensor], *, lost: int = 0, shift: int = 0) -> Path:
    """Write a checkpoint of two ranks with torch's own classes, each tensor cut in two along its first axis."""
    meta = pytest.importorskip("torch.distributed.checkpoint.metadata")
    filesystem = pytest.importorskip("torch.distributed.checkpoint.filesystem")
    folder.mkdir()
    files = {"__0_0.distcp": b"", "__1_0.distcp": b""}
    described, stored = {}, {}
    for name, tensor in tensors.items():
        half = len(tensor) // 2
        chunks = []
        for file, start, part in zip(files, (0, half), (tensor[:half], tensor[half:]), strict=True):
            buffer = io.BytesIO()
            torch.save(part.clone(), buffer)
            offsets = torch.Size([start + (shift if start else 0), *[0] * (tensor.ndim - 1)])
            chunks.append(meta.ChunkStorageMetadata(offsets, part.shape))
            where = filesystem._StorageInfo(file, len(files[file]), len(buffer.getvalue()))
            stored[meta.MetadataIndex(name, offsets)] = where
            files[file] += buffer.getvalue()
        properties = meta.TensorProperties(dtype=tensor.dtype)
        described[name] = meta.TensorStorageMetadata(properties, tensor.shape, chunks[: len(chunks) - lost])
    index = meta.Metadata(described, storage_data=stored)
    (folder / ".metadata").write_bytes(pickle.dumps(index))
    for file, data in files.items():
        (folder / file).write_bytes(data)
    folder.with_name(f"{folder.name}.toml").write_text(TOML)
    return folder


def test_a_distributed_checkpoint_loads_as_the_one_file_would(tmp_path: Path) -> None:
    net = network()
    optimiser = torch.optim.Adam(net.parameters())
    net(torch.randn(3, 2)).sum().backward()
    optimiser.step()
    state = {"model": net.state_dict(), "optim": optimiser.state_dict(), "epoch": 3, "note": "words"}
    path = distributed(tmp_path / "step-3", state)
    decoder = vaeprobe.load(path)
    z = torch.randn(5, 2)
    torch.testing.assert_close(decoder(z), net(z).detach())
    assert decoder.artifact is not None
    assert decoder.artifact.format == "dcp"
    assert vaeprobe.load(path, key="model.2.weight").output_shape == (3,)
    before = decoder.artifact.sha256
    net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()})
    again = vaeprobe.load(distributed(tmp_path / "step-4", {"model": net.state_dict()}))
    assert again.artifact is not None
    assert again.artifact.sha256 != before


def test_tensors_in_parts_are_put_together(tmp_path: Path) -> None:
    state = {k: v.clone() for k, v in network().state_dict().items()}
    z = torch.randn(5, 2)
    decoder = vaeprobe.load(in_parts(tmp_path / "ck", state))
    torch.testing.assert_close(decoder(z), network()(z).detach())
    found = vaeprobe.inspect(tmp_path / "ck")
    assert {t.name: t.shape for t in found.tensors} == {k: tuple(v.shape) for k, v in state.items()}


def test_torch_reads_the_same_parts(tmp_path: Path) -> None:
    """The folder that this file writes is one that torch's own loader reads."""
    dcp = pytest.importorskip("torch.distributed.checkpoint")
    state = {k: v.clone() for k, v in network().state_dict().items()}
    path = in_parts(tmp_path / "ck", state)
    empty = {k: torch.zeros_like(v) for k, v in state.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(empty, checkpoint_id=path, no_dist=True)
    for name, tensor in state.items():
        assert torch.equal(empty[name], tensor)


@pytest.mark.parametrize(("lost", "shift"), [(1, 0), (0, 1), (0, -1)])
def test_parts_that_do_not_make_the_tensor_are_refused(tmp_path: Path, lost: int, shift: int) -> None:
    state = {k: v.clone() for k, v in network().state_dict().items()}
    with pytest.raises(InputError, match=r"parts of tensor `.*` are not those of its shape"):
        vaeprobe.load(in_parts(tmp_path / "ck", state, lost=lost, shift=shift))


def test_a_lost_file_and_a_short_one_are_named(tmp_path: Path) -> None:
    path = in_parts(tmp_path / "ck", {k: v.clone() for k, v in network().state_dict().items()})
    file = path / "__1_0.distcp"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"lacks the bytes of tensor `2.bias`"):
        vaeprobe.load(path)
    file.unlink()
    with pytest.raises(InputError, match=r"lacks `__1_0.distcp`, which its index names"):
        vaeprobe.load(path)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_a_part_of_a_distributed_checkpoint_is_sent_to_its_folder(tmp_path: Path, name: str) -> None:
    path = in_parts(tmp_path / "ck", {"0.weight": torch.randn(4, 2)})
    with pytest.raises(InputError, match="one part of a distributed checkpoint") as error:
        vaeprobe.load(path / name)
    assert f"give the folder, `{path}`" in str(error.value.hint)


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("true",))


@pytest.mark.parametrize(
    ("what", "why"),
    [(Runs(), "call `posix.system`"), (argparse.Namespace(), "would import `argparse.Namespace`")],
)
def test_an_index_that_asks_for_more_is_refused(tmp_path: Path, what: object, why: str) -> None:
    path = in_parts(tmp_path / "ck", {"0.weight": torch.randn(4, 2)})
    (path / ".metadata").write_bytes(pickle.dumps({"state_dict_metadata": {}, "planner_data": what}))
    with pytest.raises(UnsafeError, match=why):
        vaeprobe.load(path)
    (path / ".metadata").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match="distributed checkpoint of torch, whose index is damaged") as error:
        vaeprobe.load(path)
    assert "dcp_to_torch_save" in str(error.value.hint)
    assert "of your own" in str(error.value.hint)


def test_a_part_that_asks_for_more_is_refused(tmp_path: Path) -> None:
    path = in_parts(tmp_path / "ck", {"0.weight": torch.randn(4, 2)})
    buffer = io.BytesIO()
    torch.save({"w": Runs()}, buffer)
    size = (path / "__0_0.distcp").stat().st_size
    (path / "__0_0.distcp").write_bytes(buffer.getvalue().ljust(size, b"\0")[:size])
    with pytest.raises((UnsafeError, InputError)):
        vaeprobe.load(path)
