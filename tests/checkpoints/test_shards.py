"""Weights in several files: an index and its shards, and distributed checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

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


def test_a_distributed_checkpoint_is_named_with_the_tool_for_it(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(b"\x80\x04.")
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    with pytest.raises(InputError, match="distributed checkpoint of torch") as error:
        vaeprobe.load(tmp_path)
    assert "dcp_to_torch_save" in str(error.value.hint)
    assert "of your own" in str(error.value.hint)
