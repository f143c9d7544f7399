"""The README is true: transcripts are what commands print, Python blocks run, the table of files is what loaded.

`python tests/test_readme.py` rewrites transcripts and the table in place.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import vaeprobe
from vaeprobe.checkpoints.families import names

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"```console\n\$ (vaeprobe [^\n]*|python [^\n]*)\n(.*?)```", re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
SPEED = re.compile(r"(<!-- speed -->\n).*?(<!-- /speed -->)", re.DOTALL)
LOADS = re.compile(r"(<!-- loads -->\n).*?(<!-- /loads -->)", re.DOTALL)
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
# another processor may differ in the last digits, which a p-value or a rotation search amplifies
TOLERANCE = 0.05


def readme() -> str:
    return README.read_text(encoding="utf-8")


def transcripts() -> list[tuple[str, str]]:
    return BLOCK.findall(readme())


def output(command: str) -> str:
    program, *arguments = shlex.split(command)
    done = subprocess.run(
        [sys.executable, *(["-m", "vaeprobe"] if program == "vaeprobe" else []), *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    text = done.stdout + done.stderr
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def words(text: str) -> list[str]:
    """The text without numbers, bars and spacing, which may differ in the last digit."""
    return re.sub(r"[█▏▎▍▌▋▊▉│\s⠀-⣿]+", " ", NUMBER.sub("#", text)).split()


# -- what loads, and how ----------------------------------------------------------------------------


def example(latents: int = 10) -> dict[str, torch.Tensor]:
    """Weights under the names of the VAE of PyTorch's own examples."""
    torch.manual_seed(0)
    sizes = {
        "fc1": (784, 400),
        "fc21": (400, latents),
        "fc22": (400, latents),
        "fc3": (latents, 400),
        "fc4": (400, 784),
    }
    layers = {name: nn.Linear(*size) for name, size in sizes.items()}
    return {f"{n}.{k}": p.detach() for n, layer in layers.items() for k, p in layer.named_parameters()}


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Small files of each kind, and the samples, with what they are called in the table."""
    samples = ROOT / "sample_models"
    network = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 64), nn.Unflatten(1, (1, 8, 8)))
    torch.save(example(), folder / "weights.pt")
    yield "weights of a known family (`state_dict`, Lightning `.ckpt`)", folder / "weights.pt"
    save_file(small_taesd(), folder / "taesd.safetensors")
    yield "the same as safetensors, of one file or shards with their index", folder / "taesd.safetensors"
    config = {
        "_class_name": "AutoencoderTiny",
        "decoder_block_out_channels": [8, 8],
        "num_decoder_blocks": [1, 1],
    }
    (folder / "diffusers").mkdir()
    (folder / "diffusers/config.json").write_text(json.dumps(config))
    own = {f"decoder.layers.{int(k[0]) - 1}{k[1:]}": t for k, t in small_taesd().items()}
    save_file(own, folder / "diffusers/diffusion_pytorch_model.safetensors")
    yield "folder or pipeline of diffusers (its other classes with `[diffusers]`)", folder / "diffusers"
    (folder / "pythae").mkdir()
    config = {"name": "BetaVAEConfig", "input_dim": [1, 8, 8], "beta": 2.0, "reconstruction_loss": "bce"}
    (folder / "pythae/model_config.json").write_text(json.dumps(config))
    sizes = {"layers.0.0": (3, 512), "layers.1.0": (512, 64)}
    torch.save({"model_state_dict": dense(sizes, "decoder.")}, folder / "pythae/model.pt")
    yield "folder of pythae", folder / "pythae"
    (folder / "scvi").mkdir()
    torch.save({"model_state_dict": small_scvi(), "attr_dict": {}}, folder / "scvi/model.pt")
    yield "folder of scvi-tools, held at its conditions", folder / "scvi"
    torch.save(network, folder / "module.pt")
    yield "whole pickled module of torch's layers", folder / "module.pt"
    yield "safetensors with a blueprint inside or beside", samples / "digits_conv.safetensors"
    yield "weights with a blueprint beside", samples / "digits_conv.pt"
    yield "`torch.export` program", samples / "digits_conv.pt2"
    torch.jit.save(torch.jit.trace(network, torch.zeros(2, 6)), folder / "script.pt")
    yield "TorchScript", folder / "script.pt"
    (folder / "model.onnx").write_bytes(small_onnx())
    yield "ONNX, `[onnx]`", folder / "model.onnx"
    for suffix in ("keras", "h5"):
        keras_model().save(folder / f"model.{suffix}")
    yield "Keras 3 `.keras`, `[keras]`", folder / "model.keras"
    yield "Keras `.h5`, `[keras]`", folder / "model.h5"
    np.save(folder / "matrix.npy", np.eye(64, 6))
    yield "matrix, outputs x latents (`.npy`, `.npz`)", folder / "matrix.npy"


def dense(sizes: dict[str, tuple[int, int]], prefix: str = "") -> dict[str, torch.Tensor]:
    layers = {name: nn.Linear(*size) for name, size in sizes.items()}
    named = [(f"{prefix}{n}.{k}", p) for n, layer in layers.items() for k, p in layer.named_parameters()]
    return {name: p.detach().clone() for name, p in named}


def small_taesd() -> dict[str, torch.Tensor]:
    """The decoder of a TAESD of one doubling, its places counted with the clamp that it begins with."""
    shapes = {"1": (8, 4), "3.conv.0": (8, 8), "3.conv.2": (8, 8), "3.conv.4": (8, 8), "5": (8, 8)}
    shapes |= {"6.conv.0": (8, 8), "6.conv.2": (8, 8), "6.conv.4": (8, 8), "7": (3, 8)}
    state = {f"{k}.weight": torch.randn(*s, 3, 3) / 9 for k, s in shapes.items()}
    return state | {f"{k}.bias": torch.randn(s[0]) for k, s in shapes.items() if k != "5"}


def small_scvi() -> dict[str, torch.Tensor]:
    """The VAE of scVI for 20 genes, with a batch of two."""
    heads = {f"decoder.{k}": (8, 20) for k in ("px_scale_decoder.0", "px_r_decoder", "px_dropout_decoder")}
    layers = {
        "decoder.px_decoder.fc_layers.Layer 0.0": (5, 8),
        "z_encoder.encoder.fc_layers.Layer 0.0": (20, 8),
    }
    state = dense(heads | layers | {f"z_encoder.{k}": (8, 3) for k in ("mean_encoder", "var_encoder")})
    return state | {"px_r": torch.zeros(20)}


def small_onnx() -> bytes:
    onnx = pytest.importorskip("onnx")
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    W = onnx.numpy_helper.from_array(np.random.default_rng(0).standard_normal((6, 64), np.float32), "W")
    nodes = [helper.make_node("MatMul", ["z", "W"], ["h"]), helper.make_node("Sigmoid", ["h"], ["x"])]
    ends = [[helper.make_tensor_value_info(name, real, ["n", size])] for name, size in (("z", 6), ("x", 64))]
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(helper.make_graph(nodes, "decoder", *ends, [W]), opset_imports=opsets)
    return bytes(model.SerializeToString())


def keras_model() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras", minversion="3.8")
        layers = keras.layers
        parts = [
            keras.Input((6,)),
            layers.Dense(48, "tanh"),
            layers.Reshape((4, 4, 3)),
            layers.UpSampling2D(),
        ]
        return keras.Sequential(parts)


def table() -> str:
    rows = ["| file | read as | architecture from | latents -> outputs |", "| --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as folder:
        for kind, path in files(Path(folder)):
            decoder = vaeprobe.load(path)
            assert decoder.artifact is not None
            shape = " x ".join(map(str, decoder.output_shape))
            how = decoder.artifact.architecture.replace(str(ROOT) + os.sep, "")
            latents = " x ".join(map(str, decoder.latent_shape)) if decoder.is_map else decoder.latent_dim
            rows.append(f"| {kind} | {decoder.artifact.format} | {how} | {latents} -> {shape} |")
    known = ", ".join(f"`{name}`" for name in names())
    return "\n".join(rows) + f"\n\nKnown families: {known}.\n"


# -- tests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "shown"), transcripts(), ids=[c for c, _ in transcripts()])
def test_a_transcript_is_what_the_command_prints(command: str, shown: str) -> None:
    real = output(command)
    assert words(shown) == words(real)
    for a, b in zip(NUMBER.findall(shown), NUMBER.findall(real), strict=True):
        x, y = float(a), float(b)
        assert abs(x - y) <= TOLERANCE * max(abs(x), abs(y), 0.1), f"{a} in the README, {b} now"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:keras")  # torch.jit, keras
def test_the_table_of_files_is_what_loads() -> None:
    assert table() in readme()


@pytest.mark.parametrize("block", PYTHON.findall(readme()))
def test_python_blocks_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = example()
    torch.save(state, "model.pt")
    np.save("x.npy", np.random.default_rng(0).random((48, 784)).astype(np.float32))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 64))

        def decode(self, z: torch.Tensor) -> torch.Tensor:
            return self.layers(z)

    exec(compile(block, "README.md", "exec"), {"network": Network()})
    if "save=" in block:
        assert Path("paths.npz").exists()


def test_the_pytest_example_passes_as_it_is_written(tmp_path: Path) -> None:
    (block,) = (b for b in PYTHON.findall(readme()) if "def test_" in b)
    (tmp_path / "test_decoder.py").write_text(block)

    def run(text: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_decoder.py").write_text(text)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
        return subprocess.run(
            [*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
        )

    done = run(block)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    failed = run(re.sub(r"cosine=[\d.]+", "cosine=0.05", block))
    assert failed.returncode == 1
    assert "fail: orthogonality.mean_abs_cosine is" in failed.stdout


def test_toml_blocks_are_read(tmp_path: Path) -> None:
    from vaeprobe.checkpoints.blueprint import Blueprint
    from vaeprobe.gate import policy_file

    blocks = re.findall(r"^```toml\n(.*?)^```", readme(), re.DOTALL | re.MULTILINE)
    policies = [block for block in blocks if "check" in tomllib.loads(block)]
    for block in blocks:
        if block not in policies:
            assert Blueprint.from_toml(block).latents
    for block in policies:
        (tmp_path / "vaeprobe.toml").write_text(block)
        assert len(policy_file.read(tmp_path / "vaeprobe.toml").rules) == 3
    assert len(policies) == 1 < len(blocks)


def test_the_set_up_commands_are_those_that_ci_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    start = readme().split("## Start", 1)[1].split("\n## ", 1)[0]
    commands = re.findall(r"^(pip install .*)$", start, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert command in script


def test_files_commands_and_options_named_in_the_readme_exist() -> None:
    from vaeprobe.cli.app import COMMANDS, QUESTIONS, options

    text = readme()
    for line in re.findall(r"(?:`|^|\$ |-m )vaeprobe ([a-z-]+[^`\n]*)", text, re.MULTILINE):
        command, *rest = line.split(" #")[0].split()
        if command not in ("in",):
            assert command in {*COMMANDS, *QUESTIONS}, line
            for word in rest:
                if word.startswith("-") and word != "-":
                    assert word.split("=")[0] in options([command]), line
    for path in re.findall(r"(?:sample_models|tests|\.github)/[\w./-]+\w", text):
        assert (ROOT / path).exists(), path


def test_the_commands_for_ci_run_with_its_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vaeprobe.cli import run

    section = readme().split("## In CI", 1)[1].split("\n## ", 1)[0]
    commands = re.findall(r"^vaeprobe (.*)$", section, re.MULTILINE)
    policy = re.findall(r"^```toml\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    Path("vaeprobe.toml").write_text(policy[0])
    Path("models").mkdir()
    rows = np.random.default_rng(0).normal(size=(200, 4)) * [3.0, 2.0, 1.0, 0.1]
    found = vaeprobe.train_linear(rows, latent_dim=3)  # orthogonal along its axes, then almost
    model = replace(found.model, W=found.model.W @ (np.eye(3) + 0.1 * np.eye(3, k=1)))
    from vaeprobe.linear import export

    about = {"sigma2": model.sigma2, "beta": 1.0, "rows": len(rows)}
    export.save(Path("models/linear.safetensors"), model, found.fit.row_shape, about)
    assert [run(shlex.split(command)) for command in commands] == [0, 0]
    assert {path.name for path in tmp_path.glob("*")} >= {"vaeprobe-baseline.json", "out.sarif", "out.xml"}


def test_the_readme_is_short() -> None:
    text = SPEED.sub("", LOADS.sub("", BLOCK.sub("", readme())))
    assert len([line for line in text.splitlines() if line.strip()]) <= 110
    assert max(map(len, text.splitlines())) <= 140


def rewrite() -> None:
    """Put fresh transcripts and a fresh table into the README."""
    text = BLOCK.sub(lambda m: f"```console\n$ {m[1]}\n{output(m[1])}```", readme())
    text = LOADS.sub(lambda m: m[1] + table() + m[2], text)
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    rewrite()
