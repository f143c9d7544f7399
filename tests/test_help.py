"""Help pages and refusals: what a command takes, told in our own words, with the nearest name."""

from __future__ import annotations

import platform
import re
import shlex
from importlib import metadata
from pathlib import Path

import pytest

from vaeprobe import __version__
from vaeprobe.cli import run
from vaeprobe.cli.app import ALIASES, COMMANDS, QUESTIONS, SUMMARIES, built, options
from vaeprobe.cli.loading import LOADING
from vaeprobe.cli.refusals import fitting
from vaeprobe.errors import did_you_mean

ROOT = Path(__file__).parents[1]
LINEAR = str(ROOT / "sample_models" / "linear.npy")
NAMES = [*QUESTIONS, *COMMANDS]


@pytest.fixture(autouse=True)
def eighty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def page(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run([*arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_a_page_lists_every_option_within_the_width(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, name, "--help")
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"<[\w|. ]+>", text)
    assert "Examples:\n" in text
    for flag in options([name]):
        assert re.search(rf"(?<![\w-]){flag}(?![\w-])", text), flag
    own = text[: text.index("Other:")]
    assert "--help" not in own.replace("`vaeprobe explain --help`", "")


def test_the_first_page_has_a_line_for_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, "--help")
    assert (
        set(COMMANDS) <= set(SUMMARIES) <= set(NAMES)
    )  # a probe's own first sentence serves where there is no line
    for name in NAMES:
        assert re.search(rf"^  {name} +\w.*$", text, re.MULTILINE), name
    for code in (
        "0 every check",
        "1 a check failed",
        "2 usage",
        "3 undecided",
        "4 refused",
        "5 unreadable",
        "70 a bug",
    ):
        assert code in " ".join(text.split())


def test_no_command_shows_the_help_and_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    first = page(capsys, "--help")
    assert run([]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == (first, "")


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_commands_that_parse(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, name, "--help")
    lines = text.split("Examples:\n")[1].strip().splitlines()
    for line in lines:
        program, command, *arguments = shlex.split(line.partition(" > ")[0])
        assert (program, command) == ("vaeprobe", name)
        built(name).make_context(name, arguments)  # raises where one does not fit


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("ortho x", "did you mean `orthogonality`?"),
        ("insepct x", "did you mean `inspect`?"),
        ("orthogonality x --sampels 3", "did you mean `--samples`?"),
        ("trace x --strats 3", "did you mean `--starts`?"),
        ("--vesion", "did you mean `--version`?"),
        ("orthogonality x --likelihood bernouli", "did you mean `bernoulli`?"),
        ("orthogonality x --dtype flaot64", "did you mean `float64`"),
        ("orthogonality x --format htlm", "did you mean `html`?"),
        ("check x --format sarfi", "did you mean `sarif`?"),
        ("trace x --scheme smoth", "did you mean `smooth`?"),
        ("demo theorm3", "did you mean `theorem3`?"),
        ("train-linear x --optimiser adma", "did you mean `adam`?"),
        ("explain orthogonality.alignmen", "did you mean `orthogonality.alignment`"),
        (f"orthogonality {LINEAR} --device cup", "did you mean `cpu`"),
    ],
)
def test_mistyped_names_get_a_suggestion(
    arguments: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments.split()) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("orthogonality x --samples many", "`--samples` takes a whole number, not `many`"),
        ("orthogonality x --samples 2.5", "`--samples` takes a whole number, not `2.5`"),
        ("orthogonality x --samples 1", "`--samples` must be at least 2, not 1"),
        ("orthogonality x --sigma2 nan", "`--sigma2` takes a number, not `nan`"),
        ("orthogonality x --min-alignment high", "`--min-alignment` takes a number, not `high`"),
        ("trace x --frames 200", "`--frames` must be between 3 and 101, not 200"),
        ("train-linear x --steps 0", "`--steps` must be at least 1, not 0"),
        ("check x --jobs two", "`--jobs` takes a whole number, not `two`"),
        ("orthogonality", "missing argument `MODEL`"),
        ("convert x", "missing option `--output`"),
        ("orthogonality x --seed", "option `--seed` requires an argument"),
        ("orthogonality x -o page.pdf", "no document of this command ends in `.pdf`"),
        ("orthogonality x -o page.xml", "no document of this command ends in `.xml`"),
        ("check x --rule orthogonality.alignment=0.5 -o page.html", "ends in `.html`"),
        ("orthogonality x --json --format html", "two documents"),
        ("trace x --images seams.jpg", "writes .png files, not `.jpg`"),
        ("orthogonality x --save-rotation R.npz", "writes .npy files, not `.npz`"),
        ("trace x --row 3", "needs data"),
        ("posterior x", "needs data"),
        (f"trace x --data {LINEAR} --row 64", "the data have 64 rows"),
        (f"beta x --data {LINEAR} -o no/such/page.html", "`no/such` is missing"),
        (f"orthogonality {LINEAR} -o {LINEAR}", "no document of this command ends in `.npy`"),
        (f"orthogonality {LINEAR} -o {LINEAR} --format json", "would be overwritten"),
        (f"orthogonality {LINEAR} --save-rotation {LINEAR}", "would be overwritten"),
    ],
)
def test_refusals_are_in_our_own_words_and_come_first(
    arguments: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaeprobe.cli.loading.load", None)  # nothing is loaded
    assert run(arguments.split()) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Input should be" not in err


def test_missing_data_is_refused_before_the_model_is_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaeprobe.cli.loading.load", None)
    for name in ("orthogonality", "beta"):
        assert run([name, LINEAR, "--data", "no-such-rows.npy"]) == 5
        assert "no file matches `no-such-rows.npy`" in capsys.readouterr().err


def test_hints_name_only_options_of_the_command() -> None:
    known = options(["beta"])
    assert fitting("--drop-nonfinite leaves such rows out", known) is None
    assert (
        fitting("--samples 9 is enough; --drop-nonfinite leaves rows out", known) == "--samples 9 is enough"
    )
    whole = "run `vaeprobe inspect m.pt --draft-blueprint m.toml`, or give --blueprint"
    assert fitting(whole, known) == whole
    assert fitting("--anything", ()) == "--anything"  # no command, no knowledge


def test_nearest_names() -> None:
    assert did_you_mean("ORTHO", NAMES) == "did you mean `orthogonality`?"
    assert did_you_mean("factorize", [*NAMES, *ALIASES]) == "did you mean `factorize`?"
    assert did_you_mean("t", NAMES) is None
    assert did_you_mean("quux", NAMES) is None
    assert did_you_mean("alignmnt", ["orthogonality.alignment", "trace.turning"]) == (
        "did you mean `orthogonality.alignment`?"
    )
    assert did_you_mean("x", []) is None
    ids = ["factorise.gap", "factorise.gap_null", "beta-unknown", "orthogonality.ima_contrast"]
    assert did_you_mean("gap", ids) == "did you mean `factorise.gap` or `factorise.gap_null`?"
    assert did_you_mean("beta_unknown", ids) == "did you mean `beta-unknown`?"
    assert did_you_mean("ima contrast", ids) == "did you mean `orthogonality.ima_contrast`?"
    assert did_you_mean("--only", ["--json", "--color"]) is None


def test_the_version_says_what_a_bug_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"vaeprobe {__version__}"
    assert lines[1].startswith(f"python {platform.python_version()} ")
    assert lines[2] == ", ".join(
        f"{name} {metadata.version(name)}" for name in ("numpy", "rich", "safetensors", "torch", "typer")
    )
    assert lines[3].startswith("extras: ")
    assert "pytest" not in lines[3]


def test_a_library_that_is_missing_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == "safetensors":
            raise metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(metadata, "version", version)
    assert run(["--version"]) == 0
    assert "safetensors MISSING" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [
        "orthogonality",
        "factorise",
        "trace",
        "posterior",
        "beta",
        "traverse",
        "report",
        "compare",
        "check",
        "convert",
    ],
)
def test_every_command_that_loads_a_decoder_takes_all_that_says_how(name: str) -> None:
    wanted = {f"--{option.replace('_', '-')}" for option in LOADING} - (
        {"--device"} if name == "convert" else set()
    )
    assert wanted <= set(options([name]))


@pytest.mark.parametrize("name", NAMES)
def test_the_suffix_of_a_file_that_is_no_document_says_nothing_of_its_format(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(page(capsys, name, "--help").split())
    assert ("by -o's suffix" in text) == ("Write the document to a file" in text)
