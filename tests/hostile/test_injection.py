"""Names in a file or of a file that a terminal, a log or a page would obey."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
import torch

from vaeprobe.cli import run

from hostile_files import safetensors, saved

NAMES = {
    "osc": "a\x1b]0;title\x07b.weight",
    "csi": "a\x1b[31mred.weight",
    "c1": "a\x9b31mred.weight",
    "bidi": "a\u202egpj.weight",
    "markup": "a[/nope][red].weight",
    "workflow": "a\n::error::b.weight",
    "html": "<script>alert(1)</script>.weight",
    "csv": "=HYPERLINK(1).weight",
    "xml": "a\ufffe\x00b.weight",
    "surrogate": "a\ud800b.weight",
}


def _fit(text: str) -> bool:
    return all(c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") for c in text)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "command", [["inspect"], ["inspect", "--json"], ["orthogonality"], ["orthogonality", "--json"]]
)
def test_to_77_names_of_tensors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, command: list[str]
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(
        safetensors({NAMES[name]: {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}, bytes(16))
    )
    code = run([command[0], str(path), *command[1:]])
    captured = capsys.readouterr()
    assert code == (0 if command[0] == "inspect" else 5)
    assert _fit(captured.out)
    assert _fit(captured.err)
    assert "\n::error::" not in captured.out + captured.err
    assert "Traceback" not in captured.err
    if "--json" in command:
        assert json.loads(captured.out)["exit_code"] == code


@pytest.mark.parametrize("name", ["a\x1b[31m.pt", "a\nb.pt", "a[red].pt", "a\u202eb.pt"])
def test_names_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = tmp_path / name
    path.write_bytes(saved({"w": torch.eye(2)}))
    for command in (["inspect"], ["orthogonality"], ["inspect", "--json"]):
        run([command[0], str(path), *command[1:]])
        captured = capsys.readouterr()
        assert _fit(captured.out)
        assert _fit(captured.err)
        assert "[31m" not in captured.err or "\x1b[31m" not in captured.err
