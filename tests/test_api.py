"""The functions of the package: real signatures, for Python and for type checkers, and files that are written.

`python tests/test_api.py` writes the stub `vaeprobe/api.pyi` from the list of probes.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
import textwrap
import traceback
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

import vaeprobe
from vaeprobe.likelihood_names import LIKELIHOODS
from vaeprobe.probes import PROBES, asks_decoder, question_class
from vaeprobe.probes.functions import documentation, result_class

ROOT = Path(__file__).parents[1]
STUB = ROOT / "vaeprobe" / "api.pyi"
HEAD = '''"""The probes as functions.  Written by `python tests/test_api.py`."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Literal

'''
# whether a decoder is asked -> the subject, and what else the function takes besides settings
SUBJECTS = {
    True: ("decoder: DecoderLike", "    latent_dim: int | None = None,\n"),
    False: ("data: object", ""),
}


def annotation(text: str) -> str:
    """A path may be a text in Python, and a likelihood is one of their names."""
    names = ", ".join(f'"{name}"' for name in LIKELIHOODS)
    return text.replace("Path", "str | PathLike[str]").replace("LikelihoodName", f"Literal[{names}]")


def stub() -> str:
    """What `api.pyi` must be."""
    imports, functions = ["from vaeprobe.probes.functions import DecoderLike"], []
    for name in PROBES:
        cls = question_class(name)
        result = result_class(cls)
        imports.append(f"from {result.__module__} import {result.__name__}")
        settings = "".join(f"    {f.name}: {annotation(str(f.type))} = {f.default!r},\n" for f in fields(cls))
        doc = textwrap.indent(f'"""{documentation(cls)}\n"""', "    ")
        subject, more = SUBJECTS[asks_decoder(cls)]
        functions.append(
            f"def {name}(\n    {subject},\n    *,\n{settings}{more}"
            f"    limits: Mapping[str, float] | None = None,\n) -> {result.__name__}:\n{doc}\n"
        )
    return formatted(HEAD + "\n".join(sorted(imports)) + "\n\n" + "\n".join(functions))


def formatted(source: str) -> str:
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(STUB), "-"]
    return subprocess.run(
        command, input=source, capture_output=True, text=True, encoding="utf-8", check=True, cwd=ROOT
    ).stdout


def linear(path: Path) -> str:
    np.save(path, np.random.default_rng(0).standard_normal((12, 3)))
    return str(path)


def sheet() -> vaeprobe.Decoder:
    torch.manual_seed(0)
    layers = torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 16), torch.nn.Unflatten(1, (1, 4, 4))
    return vaeprobe.Decoder(torch.nn.Sequential(*layers), 2)


def test_the_stub_is_written_anew() -> None:
    assert STUB.read_text(encoding="utf-8") == stub()


@pytest.mark.parametrize("name", PROBES)
def test_signatures_list_the_settings_with_their_defaults_and_types(name: str) -> None:
    parameters = inspect.signature(getattr(vaeprobe, name)).parameters
    cls = question_class(name)
    subject, *more = ("decoder", "latent_dim") if asks_decoder(cls) else ("data",)
    assert list(parameters) == [subject, *(f.name for f in fields(cls)), *more, "limits"]
    for f in fields(cls):
        assert parameters[f.name].default == f.default
    assert parameters["seed"].annotation is int
    assert f.name in (getattr(vaeprobe, name).__doc__ or "")


def test_wrong_settings_do_not_type_check(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import vaeprobe\n"
        "vaeprobe.orthogonality('m.npy', samples=64, seed=3, save_rotation='r.npy', likelihood='bernoulli')\n"
        "vaeprobe.trace('m.npy', save='t.npz').paths\n"
        "vaeprobe.orthogonality('m.npy', sede=3)\n"
        "vaeprobe.factorise('m.npy', samples='many')\n"
        "vaeprobe.posterior('m.npy', likelihood='bernouli')\n"
        "vaeprobe.beta('m.npy').pahts\n"
    )
    mypy = [sys.executable, "-m", "mypy", "--no-site-packages", "--ignore-missing-imports"]
    mypy += ["--config-file", os.devnull]  # torch's own types take a minute
    done = subprocess.run(
        [*mypy, "--cache-dir", str(tmp_path / "cache"), str(program)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("program.py") and "error" in line]
    assert [int(line.split(":")[1]) for line in lines] == [4, 5, 6, 7], done.stdout + done.stderr


def test_hints_reach_the_traceback(tmp_path: Path) -> None:
    path = linear(tmp_path / "m.npy")
    for call, words in (
        (lambda: vaeprobe.orthogonality(path, sampels=3), "did you mean `samples`?"),
        (lambda: vaeprobe.trace(path, starts=3), "in Python it is `samples`"),
        (lambda: vaeprobe.train_linear(path, method=["em"]), "in Python it is `methods`"),
        (lambda: vaeprobe.train_linear(path, methods="em"), "takes a list of texts, not `em`"),
        (lambda: vaeprobe.orthogonality(path, likelihood="bernouli"), "did you mean `bernoulli`?"),
        (lambda: vaeprobe.load(tmp_path / "mm.npy"), "hint: "),
    ):
        with pytest.raises(vaeprobe.VaeprobeError) as caught:
            call()
        assert words in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("setting", "name", "begins"),
    [("save", "t.npz", b"PK"), ("svg", "t.svg", b"<svg"), ("images", "t.png", b"\x89PNG")],
)
def test_trace_writes_what_it_is_asked_for(setting: str, name: str, begins: bytes, tmp_path: Path) -> None:
    vaeprobe.trace(sheet(), samples=2, length=0.5, **{setting: str(tmp_path / name)})
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_orthogonality_writes_the_rotation(tmp_path: Path) -> None:
    path = linear(tmp_path / "m.npy")
    result = vaeprobe.orthogonality(path, samples=8, rotations=9, save_rotation=tmp_path / "r.npy")
    assert np.array_equal(np.load(tmp_path / "r.npy"), result.rotation.numpy())


def test_files_that_cannot_be_written_are_refused_before_the_work(tmp_path: Path) -> None:
    path = linear(tmp_path / "m.npy")

    def work(z: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the decoder was called")

    for settings, words in (
        ({"save": tmp_path / "no" / "t.npz"}, "is missing"),
        ({"images": "t.jpg"}, "writes .png files"),
        ({"row": 3}, "needs data"),
        ({"row": 30, "data": path}, "the data have 12 rows"),
        ({"save": tmp_path / "a", "images": tmp_path / "a"}, "two outputs"),
    ):
        with pytest.raises(vaeprobe.VaeprobeError, match=words):
            vaeprobe.trace(work, latent_dim=2, **settings)
    with pytest.raises(vaeprobe.VaeprobeError, match="would be overwritten"):
        vaeprobe.orthogonality(path, save_rotation=path)
    for name in ("posterior", "beta"):
        with pytest.raises(vaeprobe.VaeprobeError, match="needs data"):
            getattr(vaeprobe, name)(work, latent_dim=2)
    with pytest.raises(vaeprobe.VaeprobeError, match="no file matches"):
        vaeprobe.beta(work, latent_dim=2, data=str(tmp_path / "x.npy"))


def test_print_shows_the_page(tmp_path: Path) -> None:
    result = vaeprobe.orthogonality(linear(tmp_path / "m.npy"), samples=8, rotations=9)
    lines = str(result).splitlines()
    assert lines[0].startswith("vaeprobe orthogonality")
    assert any(line.startswith("ima contrast c") for line in lines)
    with pytest.raises(KeyError, match=r"orthogonality\.alignment"):
        result["orthogonality.alignmnt"]


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")


@pytest.mark.parametrize("name", ["submodule", "samples"])
def test_hints_name_what_python_takes_beside_the_option(name: str) -> None:
    """An error is raised in Python as well as on the command line, where alone there are options."""
    asked = 0
    for path in Path(vaeprobe.__file__).parent.rglob("*.py"):
        if path.parent.name == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if not (called.endswith("Error") or called == "check_memory"):
                continue
            texts = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
            words = " ".join(text for text in texts if isinstance(text, str))
            if re.search(rf"--{name}\b", words):
                asked += 1
                assert f"{name}=" in words, f"{path.name}: {words}"
    assert asked
