"""The command line as a user meets it: exit codes, streams, documents, errors."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from torch import nn

from vaeprobe.cli import run
from vaeprobe.render import schema

SAMPLES = Path(__file__).parents[1] / "sample_models"
LINEAR = str(SAMPLES / "linear.npy")
ROTATED = str(SAMPLES / "linear_rotated.npy")


def call(
    *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vaeprobe", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        check=False,
    )


def json_of(text: str) -> dict[str, object]:
    document: dict[str, object] = json.loads(text)
    jsonschema.validate(document, schema.document())
    return document


def test_a_measurement_without_limits_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["orthogonality", LINEAR, "--samples", "16"]) == 0
    assert "orthogonal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "limit", "code"),
    [(LINEAR, "0.01", 0), (ROTATED, "0.01", 1)],
)
def test_a_limit_turns_it_into_a_check(
    model: str, limit: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    returned = run(["orthogonality", model, "--samples", "16", "--json", "--max-mean-abs-cosine", limit])
    document = json_of(capsys.readouterr().out)
    assert returned == document["exit_code"] == code
    (check,) = document["checks"]  # type: ignore[misc]
    assert check["status"] == {0: "pass", 1: "fail"}[code]


def test_an_undefined_metric_never_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    np.save(tmp_path / "one.npy", np.ones((5, 1)))
    code = run(
        ["orthogonality", str(tmp_path / "one.npy"), "--samples", "8", "--max-mean-abs-cosine", "1", "--json"]
    )
    document = json_of(capsys.readouterr().out)
    assert code == 3
    metric = document["metrics"]["orthogonality.mean_abs_cosine"]  # type: ignore[index]
    assert metric["value"] is None
    assert "latent" in metric["reason"]


def test_json_carries_what_a_pipeline_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["orthogonality", LINEAR, "--samples", "16", "--json", "--seed", "3"]) == 0
    document = json_of(capsys.readouterr().out)
    assert document["settings"]["seed"] == 3  # type: ignore[index]
    assert len(document["artifact"]["sha256"]) == 64  # type: ignore[index]
    for id in (
        "latents.dim",
        "latents.active",
        "orthogonality.mean_abs_cosine",
        "orthogonality.max_abs_cosine",
        "orthogonality.ima_contrast",
        "orthogonality.ima_contrast_null",
        "orthogonality.alignment",
        "orthogonality.alignment_p",
        "orthogonality.ima_contrast_rotated",
        "orthogonality.mean_field_gap",
        "orthogonality.distance_to_axes",
    ):
        assert id in document["metrics"]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("file", "extra", "begins"),
    [
        ("page.html", [], "<!doctype html>"),
        ("page.json", [], "{"),
        ("page.md", [], "# "),
        ("page.txt", [], "vaeprobe orthogonality"),
        ("page.html", ["--format", "markdown"], "# "),
        ("page.html", ["--json"], "{"),
    ],
)
def test_a_document_has_the_format_of_its_suffix(
    file: str, extra: list[str], begins: str, tmp_path: Path
) -> None:
    assert run(["orthogonality", LINEAR, "--samples", "16", "-o", str(tmp_path / file), *extra]) == 0
    assert (tmp_path / file).read_text(encoding="utf-8").lower().startswith(begins)


def imported(command: str, file: str, *modules: str) -> str:
    """Return which of the modules a measurement in a process of its own imports, as a list is printed."""
    code = (
        "import sys; from vaeprobe.cli import run\n"
        f"assert run([{command!r}, {file!r}, '--samples', '16']) == 0\n"
        f"print([m for m in {modules!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("command", "file"),
    [("orthogonality", LINEAR), ("factorise", str(SAMPLES / "digits_conv.safetensors"))],
)
def test_a_measurement_does_not_load_torchs_compiler(command: str, file: str) -> None:
    """Each of these imports costs half a second or more, at every start; zero tangents of weights are the trap."""
    assert imported(command, file, "torch._dynamo", "sympy", "torch.fx.experimental.symbolic_shapes") == "[]"


def test_a_pickled_module_does_not_load_torchs_compiler(tmp_path: Path) -> None:
    """It is run on tensors without memory first, for whose sizes torch imports its compiler (two seconds)."""
    path = str(tmp_path / "module.pt")
    torch.save(nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 5)).eval(), path)
    assert imported("orthogonality", path, "torch._dynamo") == "[]"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["orthogonality"], 2, "missing argument"),
        (["orthogonalty", "x"], 2, "orthogonality"),
        (["orthogonality", LINEAR, "--samples", "many"], 2, "--samples"),
        (["orthogonality", LINEAR, "--device", "warp:9"], 2, "device"),
        (["orthogonality", "no/such/file.pt"], 5, "no/such/file.pt"),
        (["orthogonality", str(SAMPLES)], 5, "directory"),
        (["explain", "orthogonality.alignmen"], 2, "orthogonality.alignment"),
    ],
)
def test_errors_are_one_line_and_a_hint(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err.lower() if words.islower() else words in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 2
    assert err.startswith("error: ")


def test_errors_are_json_where_json_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["orthogonality", "no/such/file.pt", "--json"]) == 5
    document = json_of(capsys.readouterr().out)
    assert document["exit_code"] == 5
    assert "no/such/file.pt" in document["error"]["message"]  # type: ignore[index]


def test_a_bug_of_ours_exits_70(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("vaeprobe.cli.loading.load", broken)
    assert run(["orthogonality", LINEAR]) == 70
    assert "bug" in capsys.readouterr().err


def test_output_goes_to_a_file_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for format, start in (
        ("json", "{"),
        ("markdown", "# "),
        ("html", "<!doctype html>"),
        ("text", "vaeprobe"),
    ):
        path = tmp_path / f"report.{format}"
        assert run(["orthogonality", LINEAR, "--samples", "16", "--format", format, "-o", str(path)]) == 0
        assert path.read_text(encoding="utf-8").startswith(start)
    assert capsys.readouterr().out == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "report.html",
        "report.json",
        "report.markdown",
        "report.text",
    ]


def test_an_unwritable_output_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["orthogonality", LINEAR, "--samples", "16", "--json", "-o", "/no/such/folder/x.json"]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_quiet_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["orthogonality", LINEAR, "--samples", "16", "--quiet"]) == 0
    assert len(capsys.readouterr().out.splitlines()) <= 8


@pytest.mark.parametrize("document", [[], ["-q"], ["-q", "-o", "page.txt"], ["--json"]])
@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ([[1, 0], [0, 2], [1, -1]], ""),
        ([[1, 0], [0, 0], [1, 0]], "no net of seams was drawn: a seam through "),
        ([[0, 0], [0, 0], [0, 0]], "no seam has any length"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_said_however_quiet(
    columns: list[list[float]], why: str, document: list[str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    np.save("m.npy", np.array(columns, dtype=np.float64))
    wanted = ["--svg", "n.svg", "--save", "p.npz", "--no-progress"]
    assert run(["trace", "m.npy", "--samples", "1", *wanted, *document]) == 0
    err = capsys.readouterr().err.splitlines()
    told = [line for line in err if line.startswith("warning: `n.svg` was not written: ")]
    assert len(told) == bool(why)
    assert all(why in line for line in told)
    assert Path("n.svg").exists() == (not why)
    assert Path("p.npz").exists()
    if "-q" in document:
        assert err == told


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_any_width_and_no_colour(columns: str) -> None:
    done = call("orthogonality", LINEAR, "--samples", "16", env={"COLUMNS": columns, "NO_COLOR": "1"})
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout


def test_a_poor_environment_is_enough(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vaeprobe", "orthogonality", LINEAR, "--samples", "16"],
        env={
            "PATH": os.environ["PATH"],
            "LC_ALL": "C",
            "PYTHONIOENCODING": "",
            "PYTHONPATH": str(SAMPLES.parent),
        },
        capture_output=True,
        stdin=subprocess.DEVNULL,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")


def test_a_closed_pipe_is_quiet() -> None:
    line = f"{sys.executable} -m vaeprobe explain | head -n 1"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, cwd=SAMPLES.parent, check=False
    )
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_no_partial_output(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "vaeprobe",
            "orthogonality",
            LINEAR,
            "--samples",
            "3000000",
            "--json",
            "-o",
            str(out),
        ],
        stderr=subprocess.PIPE,
        cwd=SAMPLES.parent,
        # what shells start in the background ignores interrupts, and so would what it starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        try:
            time.sleep(6)
            process.send_signal(sent)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == code, err
    assert list(tmp_path.iterdir()) == []
    assert b"Traceback" not in err


def test_explain_covers_every_metric_and_code(capsys: pytest.CaptureFixture[str]) -> None:
    from vaeprobe import explain
    from vaeprobe.probes import metric_specs

    for id, spec in metric_specs().items():
        assert run(["explain", id]) == 0
        page = capsys.readouterr().out
        for text in (
            spec.title,
            spec.formula,
            spec.source,
            spec.meaning,
            spec.misleads,
            spec.remedy,
            spec.range,
        ):
            assert text, f"{id} leaves something unsaid"
        assert spec.title in page
    for code in explain.codes():
        assert run(["explain", code]) == 0
        assert capsys.readouterr().out.startswith(code)


def test_schema_is_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema"]) == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("probe", ["posterior", "beta"])
def test_settings_that_a_probe_ignores_are_no_options(probe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([probe, "--help"]) == 0
    assert "--latents" not in capsys.readouterr().out
    assert run([probe, LINEAR, "--latents", "prior"]) == 2
    assert "no such option: --latents" in capsys.readouterr().err
    assert run(["orthogonality", "--help"]) == 0
    assert "--latents" in capsys.readouterr().out


def test_demo_trains_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "circles.svg"
    assert run(["demo", "theorem3", "--steps", "3", "--json", "-o", str(figure)]) == 0
    document = json_of(capsys.readouterr().out)
    assert len(document["details"]["models"]) == 6  # type: ignore[index]
    assert figure.read_text(encoding="utf-8").startswith("<svg")
    assert run(["demo", "theorem3", "--steps", "1", "-o", str(tmp_path / "circles.pdf")]) == 2
    assert "*.svg" in capsys.readouterr().err
    assert run(["demo", "theorem4"]) == 2


def test_several_inspections_are_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no model")
    assert run(["inspect", LINEAR, str(broken), ROTATED, "--json"]) == 5
    document = json_of(capsys.readouterr().out)
    first, second, third = document["models"]  # type: ignore[misc]
    assert first["artifact"]["path"] == LINEAR
    assert (second["model"], second["exit_code"], second["error"]["code"]) == (str(broken), 5, "unreadable")
    for part in (first, second, third):
        jsonschema.validate(part, schema.document())


def test_explain_all_is_a_table_of_every_metric(capsys: pytest.CaptureFixture[str]) -> None:
    from vaeprobe.probes import metric_specs

    assert run(["explain", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [line.split(" | ")[0].removeprefix("| ").replace("\\", "") for line in lines[2:]]
    assert set(cells) >= set(metric_specs())
    assert len(cells) == len(set(cells))
    assert run(["explain", "--all", "latents.dim"]) == 2


def test_a_users_own_code_ends_as_python_does(tmp_path: Path) -> None:
    """What it has open is written, and its exit functions run: in this process, which a worker does not stand for."""
    torch.save(nn.Linear(4, 10).state_dict(), tmp_path / "w.pt")
    (tmp_path / "own.py").write_text(
        "import atexit, sys\n"
        "from pathlib import Path\n"
        "from torch import nn\n"
        "log = open(Path(__file__).with_name('log'), 'w')\n"
        "atexit.register(print, 'bye', file=sys.stderr)\n"
        "def decoder():\n"
        "    log.write('built')\n"
        "    return nn.Linear(4, 10)\n"
    )
    command = [
        sys.executable,
        "-m",
        "vaeprobe",
        "orthogonality",
        tmp_path / "w.pt",
        "--no-progress",
        "--quiet",
    ]
    own = ["--arch", f"{tmp_path / 'own.py'}:decoder", "--allow-code"]
    done = subprocess.run([*command, *own], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "bye" in done.stderr
    assert (tmp_path / "log").read_text().startswith("built")


def test_a_result_whose_files_cannot_be_written_any_more_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vaeprobe import writing

    given = ["train-linear", str(SAMPLES / "digits.npy"), "--latent-dim", "2", "--json"]
    place = ["-o", str(tmp_path / "m.safetensors")]
    assert run([*given, *place]) == 0
    capsys.readouterr()

    def full(real: Path, writer: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "_write_beside", full)
    assert run([*given, *place]) == 2
    out, err = capsys.readouterr()
    document = json.loads(out)  # one, that of the result
    assert (document["verdict"], document["exit_code"]) == ("closed form", 2)
    assert "no space left" in err


def test_a_limit_of_an_option_names_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "x.pt", "--time", "0.5"]) == 2
    assert "`--time` must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "begins"), [
    (["orthogonality", LINEAR, "-n", "16", "-q"], "vaeprobe orthogonality"),
    (["orthogonality", LINEAR, "-n", "16", "--json"], "{"),
    (["traverse", LINEAR, "-n", "8", "-q"], "vaeprobe traverse"),
    (["report", LINEAR, "-n", "16", "-q"], "<!doctype html>"),
    (["compare", LINEAR, ROTATED, "-n", "16", "-q"], "vaeprobe compare"),
    (["compare", LINEAR, ROTATED, "-n", "16", "--format", "csv"], "model,"),
    (["inspect", LINEAR, "-q"], "vaeprobe inspect"),
    (["check", LINEAR, "--rule", "orthogonality.alignment=0.1", "--json"], "{"),
])  # fmt: skip
def test_a_document_goes_to_stdout_where_its_file_is_a_dash(
    command: list[str],
    begins: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*command, "-o", "-"]) == 0
    assert capsys.readouterr().out.startswith(begins)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [
    ["train-linear", str(SAMPLES / "digits.npy"), "-o", "-"],
    ["train-linear", str(SAMPLES / "digits.npy"), "--plot", "-"],
    ["convert", LINEAR, "-o", "-"],
    ["demo", "theorem3", "-o", "-"],
    ["orthogonality", LINEAR, "--save-rotation", "-"],
    ["orthogonality", LINEAR, "--resume", "-"],
    ["trace", LINEAR, "--images", "-"],
    ["inspect", LINEAR, "--draft-blueprint", "-"],
    ["check", LINEAR, "--rule", "orthogonality.alignment=0.1", "--report", "junit=-"],
    ["check", LINEAR, "--update-baseline", "--baseline", "-"],
])  # fmt: skip
def test_no_other_file_is_a_dash(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert " name " in err.partition("hint:")[2]
    assert list(tmp_path.iterdir()) == []
