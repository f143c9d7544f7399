"""`vaeprobe check` as a CI job runs it: exit codes, files, streams, baselines, interrupted runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from vaeprobe import kept
from vaeprobe.cli import run, streams
from vaeprobe.gate.formats import FORMATS
from vaeprobe.render import schema

DOCUMENT = jsonschema.Draft202012Validator(schema.document())
REPOSITORY = Path(__file__).parents[2]
COSINE = "orthogonality.mean_abs_cosine"
CONTRAST = "orthogonality.ima_contrast"
POLICY = f'[check]\nsamples = 16\nmax-samples = 32\n[check.rules]\n"{COSINE}" = 0.1\n'
GOOD, BAD = np.eye(6)[:, :3] * [3, 2, 1], np.ones((6, 3)) + np.eye(6)[:, :3]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a policy, a model that passes and one that fails; the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    np.save("good.npy", GOOD)
    np.save("bad.npy", BAD)
    Path("vaeprobe.toml").write_text(POLICY)
    return tmp_path


class Done:
    """What a run in this process left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def document(self) -> Any:
        document = json.loads(self.out)
        DOCUMENT.validate(document)
        assert document["exit_code"] == self.code
        return document


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> Done:
        code = run(["check", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Done(code, out, err)

    return call


def statuses(document: Any) -> dict[str, list[str]]:
    return {m["model"]: [o["status"] for o in m["outcomes"]] for m in document["models"]}


def policy(text: str) -> None:
    Path("vaeprobe.toml").write_text(text)


# -- exit codes -------------------------------------------------------------------------------------


def test_0_where_all_pass(check: Any) -> None:
    done = check("good.npy")
    assert done.code == 0
    assert done.out.splitlines()[-1] == "1 passed (exit code 0)"
    assert done.err == ""


def test_1_where_one_fails(check: Any) -> None:
    done = check("good.npy", "bad.npy")
    assert done.code == 1
    assert "at most 0.1" in done.out
    assert done.out.splitlines()[-1] == "1 failed, 1 passed (exit code 1)"


def test_2_where_the_policy_is_wrong(check: Any) -> None:
    policy('[check.rules]\n"orthogonality.mean_cosine" = 1')
    done = check("good.npy")
    assert (done.code, done.out) == (2, "")
    assert "mean_abs_cosine" in done.err


def test_2_and_an_example_where_there_is_no_policy(check: Any) -> None:
    Path("vaeprobe.toml").unlink()
    done = check("good.npy")
    assert done.code == 2
    assert "there is no vaeprobe.toml here or above" in done.err
    assert '"orthogonality.mean_abs_cosine" = 0.2' in done.err


def test_3_where_nothing_decides(check: Any) -> None:
    np.save("one.npy", np.ones((4, 1)))
    assert check("one.npy", "good.npy").code == 3
    policy("[check]\nsamples = 16")
    done = check("good.npy")
    assert done.code == 3
    assert "no rule applies to this model" in done.out


def test_4_where_a_file_is_refused(check: Any) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch owned",)

    Path("evil.pt").write_bytes(pickle.dumps(Evil()))
    done = check("good.npy", "bad.npy", "evil.pt", "missing.pt", "--json")
    assert done.code == 4
    assert [m["exit_code"] for m in done.document["models"]] == [0, 1, 4, 5]
    assert not Path("owned").exists()


def test_5_where_a_file_is_damaged(check: Any) -> None:
    Path("torn.npy").write_bytes(Path("good.npy").read_bytes()[:100])
    done = check("torn.npy", "bad.npy")
    assert done.code == 5
    assert done.out.splitlines()[-1] == "1 unreadable, 1 failed (exit code 5)"


def test_70_of_one_model_keeps_the_reports_of_the_others(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vaeprobe.cli import loading

    load = loading.load

    def broken(path: Path, **settings: Any) -> Any:
        if path.name == "bad.npy":
            raise ZeroDivisionError("oh")
        return load(path, **settings)

    monkeypatch.setattr(loading, "load", broken)
    monkeypatch.delenv("VAEPROBE_DEBUG", raising=False)
    document = check("bad.npy", "good.npy", "--json")
    assert document.code == 70
    assert statuses(document.document) == {"bad.npy": [], "good.npy": ["pass"]}
    assert "ZeroDivisionError: oh" in document.document["models"][0]["error"]["message"]


# -- what is checked --------------------------------------------------------------------------------


def test_globs_and_repeats(check: Any) -> None:
    assert list(statuses(check("*.npy", "good.npy", "--json").document)) == ["bad.npy", "good.npy"]
    done = check("*.pt")
    assert done.code == 2
    assert "no file matches `*.pt`" in done.err


def test_a_name_like_a_glob_is_a_name(check: Any) -> None:
    np.save("a[1].npy", GOOD)
    assert list(statuses(check("a[1].npy", "--json").document)) == ["a[1].npy"]


def test_models_of_the_policy_stand_beside_it(
    check: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy(POLICY.replace("[check]", '[check]\nmodels = ["g*.npy"]'))
    assert list(statuses(check("--json").document)) == ["good.npy"]
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert list(statuses(check("--json").document)) == ["../good.npy"]


def test_no_model_is_a_usage_error(check: Any) -> None:
    done = check()
    assert done.code == 2
    assert "no model to check" in done.err


def test_rules_of_the_command_line(check: Any) -> None:
    Path("vaeprobe.toml").unlink()
    done = check("bad.npy", "--rule", f"{COSINE}=0.99", "--rule", f"{CONTRAST} = 0.001", "--json")
    assert statuses(done.document) == {"bad.npy": ["pass", "fail"]}
    for text, words in (
        (COSINE, "is no rule"),
        ("orthogonality.cos=1", "no metric"),
        (f"{COSINE}=x", "is no rule"),
    ):
        done = check("bad.npy", "--rule", text)
        assert done.code == 2
        assert words in done.err


@pytest.mark.parametrize("form", ["text", "json", "markdown", "junit", "github"])
def test_outcomes_say_which_part_of_a_model_was_measured(check: Any, form: str) -> None:
    Path("vaeprobe.toml").unlink()
    np.save("wide.npy", np.random.default_rng(0).standard_normal((90, 70)))
    rules = ("--rule", f"{COSINE}=0.001", "--format", form)
    words = "of 70 columns, those of 64 random latents were measured"
    policy('[check]\nsamples = 16\nmax-samples = 16\n[orthogonality]\npart = "some"\n')
    assert words in " ".join(check("wide.npy", *rules).out.split())
    policy(
        '[check]\nsamples = 16\nmax-samples = 16\n[orthogonality]\npart = "all"\n'
    )  # as the finding's hint says
    assert "random latents" not in check("wide.npy", *rules).out


def test_config_and_pyproject(check: Any) -> None:
    Path("lenient.toml").write_text(POLICY.replace("0.1", "0.99"))
    assert check("bad.npy", "--config", "lenient.toml").code == 0
    Path("vaeprobe.toml").unlink()
    Path("pyproject.toml").write_text(f'[tool.vaeprobe.check.rules]\n"{COSINE}" = 0.99\n')
    assert check("bad.npy").code == 0
    assert check("bad.npy", "--config", "none.toml").code == 5


def test_overrides_waivers_and_formats(check: Any) -> None:
    override = f'[[check.overrides]]\nmodels = "bad*"\nrules = {{ "{COSINE}" = 0.99 }}\n'
    policy(POLICY + override)
    assert check("good.npy", "bad.npy").code == 0
    waiver = f'[[check.waivers]]\nrule = "{COSINE}"\nmodels = "bad.npy"\nreason = "known"\nexpires = %s\n'
    policy(POLICY + waiver % "2999-01-01")
    done = check("bad.npy")
    assert done.code == 0
    assert "waived" in done.out
    policy(POLICY + waiver % "2001-01-01")
    done = check("bad.npy")
    assert done.code == 1
    assert "expired on 2001-01-01: known" in " ".join(done.out.split())
    policy(POLICY.replace("[check]", '[check]\nformats = ["safetensors", "pt2"]'))
    done = check("good.npy")
    assert done.code == 1
    assert "the format npy is not among safetensors, pt2" in " ".join(done.out.split())


def test_trust_is_not_read_from_a_file(check: Any) -> None:
    policy(POLICY + '[orthogonality]\narch = "evil:build"')
    done = check("good.npy")
    assert done.code == 2
    assert "--arch" in done.err


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('likelihood = "bernouli"', "did you mean `bernoulli`"),
        ("rotations = 2.5", "a whole number"),
        ("active-threshold = 7", "between 0 and 1"),
        ("seed = -1", "at least 0"),
        ('save-rotation = "R.npy"', "the gate writes none"),
    ],
)
def test_settings_are_checked_before_any_model(setting: str, words: str, check: Any) -> None:
    policy(POLICY + f"[orthogonality]\n{setting}\n")
    done = check("good.npy")
    assert (done.code, done.out) == (2, "")
    assert words in done.err


def test_data_of_a_policy_stands_beside_it(check: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save("z.npy", np.random.default_rng(0).standard_normal((40, 3)))
    policy(POLICY + '[orthogonality]\nlatents = "z.npy"\n')
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert check("../good.npy").code == 0


def test_a_metric_in_words_takes_no_limit(check: Any) -> None:
    policy('[check]\nsamples = 16\n[check.rules]\n"factorise.verdict" = { max = 1 }')
    done = check("good.npy")
    assert done.code == 2
    assert "is a word and takes no limit" in done.err


# -- documents --------------------------------------------------------------------------------------


def test_several_reports_in_one_run(check: Any, folder: Path) -> None:
    (folder / "out").mkdir()
    reports = [x for f in FORMATS for x in ("--report", f"{f}=out/{f}")]
    assert check("good.npy", "bad.npy", *reports, "-o", "out/page").code == 1
    assert sorted(os.listdir("out")) == sorted([*FORMATS, "page"])
    assert json.loads(Path("out/sarif").read_text())["version"] == "2.1.0"
    assert Path("out/page").read_text() == Path("out/text").read_text()


def test_report_mistakes(check: Any) -> None:
    for text, words in (("sarif", "FORMAT=FILE"), ("sarf=x", "sarif"), ("sarif=no/such/x", "cannot write")):
        done = check("good.npy", "--report", text)
        assert done.code == 2
        assert words in done.err


def test_a_folder_that_cannot_be_written(check: Any, folder: Path) -> None:
    (folder / "file").write_text("")
    for arguments in (
        ("-o", "file/x"),
        ("--resume", "file/x"),
        ("--update-baseline", "--baseline", "file/x"),
    ):
        done = check("good.npy", *arguments)
        assert done.code == 2
        assert "cannot write `file/x`" in done.err


def test_github_appends_a_job_summary(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("summary.md").write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    assert check("bad.npy", "--format", "github").out.startswith("::error file=bad.npy,title=")
    summary = Path("summary.md").read_text()
    assert summary.startswith("before\n# vaeprobe check: failed")
    check("bad.npy")
    assert Path("summary.md").read_text() == summary
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "no/such/summary.md")
    done = check("bad.npy", "--format", "github")
    assert done.code == 2
    assert "cannot write the job summary" in done.err


def test_jsonl_streams_a_line_per_model(check: Any) -> None:
    done = check("good.npy", "bad.npy", "--format", "jsonl")
    lines = [json.loads(line) for line in done.out.splitlines()]
    for line in lines:
        DOCUMENT.validate(line)
    assert [line["kind"] for line in lines] == ["model", "model", "run"]
    assert done.code == lines[-1]["exit_code"] == 1


def test_an_error_is_one_line_of_jsonl(check: Any) -> None:
    done = check("*.pt", "--format", "jsonl")
    (line,) = done.out.splitlines()
    assert json.loads(line)["exit_code"] == done.code == 2


def test_quiet_leaves_out_what_passes(check: Any) -> None:
    done = check("good.npy", "--quiet")
    assert done.out.splitlines() == ["good.npy  passed", "1 passed (exit code 0)"]


# -- baselines --------------------------------------------------------------------------------------

REGRESSION = (
    f'[check]\nsamples = 16\nmax-samples = 64\n[check.rules]\n"{CONTRAST}" = {{ regression = "3 %" }}\n'
)


def test_a_baseline_catches_a_regression(check: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy(REGRESSION)
    done = check("bad.npy", "--update-baseline", "--baseline", "base.json")
    assert done.code == 0
    assert "1 measured, 1 in all" in done.err
    done = check("bad.npy", "--baseline", "base.json")
    assert done.code == 0
    assert "the very artifact of the baseline" in done.out
    np.save("bad.npy", BAD + 0.05)
    done = check("bad.npy", "--baseline", "base.json")
    assert done.code == 1
    assert "no more than 3 % worse than the baseline" in done.out
    # the same checkout from elsewhere
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert check("../bad.npy", "--baseline", "../base.json").code == 1
    assert check(folder / "bad.npy", "--baseline", folder / "base.json").code == 1


def test_an_update_keeps_other_models(check: Any) -> None:
    policy(REGRESSION)
    check("bad.npy", "--update-baseline", "--baseline", "base.json")
    assert "2 in all" in check("good.npy", "--update-baseline", "--baseline", "base.json").err
    assert set(json.loads(Path("base.json").read_text())["models"]) == {"good.npy", "bad.npy"}


def test_an_update_tries_every_model_and_tells_all_that_fail(check: Any, loaded: list[str]) -> None:
    policy(REGRESSION)
    Path("damaged.npy").write_bytes(b"\x93NUMPY\x01\x00 and no more")
    done = check("none.npy", "bad.npy", "damaged.npy", "good.npy", "--update-baseline")
    assert done.code == 5
    assert loaded == ["none.npy", "bad.npy", "damaged.npy", "good.npy"]
    assert "no baseline was written, for 2 of 4 models cannot be measured: `none.npy`: " in done.err
    assert "; `damaged.npy`: " in done.err
    assert not Path("vaeprobe-baseline.json").exists()
    policy(REGRESSION + '"compare.mcc" = 0.9\n')  # which needs data
    done = check("bad.npy", "none.npy", "--update-baseline")
    assert done.code == 5, "a damaged file comes before a mistake"
    assert "`bad.npy`: a rule on agreement with the baseline needs data" in done.err
    alone = check("none.npy", "--update-baseline")
    assert alone.code == 5
    assert "no baseline was written" not in alone.err


def test_what_a_baseline_cannot_answer(check: Any) -> None:
    policy(REGRESSION)
    done = check("bad.npy")
    assert done.code == 2
    assert "add --baseline FILE" in done.out
    done = check("bad.npy", "--baseline", "none.json")
    assert done.code == 5
    assert "--update-baseline" in done.err
    check("bad.npy", "--update-baseline", "--baseline", "base.json")
    policy(REGRESSION + "[orthogonality]\nseed = 5\n")
    done = check("bad.npy", "--baseline", "base.json")
    assert done.code == 2
    assert "another method (seed 0 -> 5)" in done.out


# -- many models ------------------------------------------------------------------------------------


def test_fail_fast_stops(check: Any) -> None:
    done = check("bad.npy", "good.npy", "--fail-fast", "--json")
    assert list(statuses(done.document)) == ["bad.npy"]


def test_jobs_give_the_same_document(check: Any) -> None:
    alone = check("good.npy", "bad.npy", "--json").document
    assert check("good.npy", "bad.npy", "--json", "--jobs", "2").document == alone


DEADLY = """
import os, sys
from vaeprobe.cli import loading, main
whole = loading.load
def load(path, **how):
    name, _, number = path.stem.partition("-")
    if number == "0":
        os._exit(0)
    if number:
        os.kill(os.getpid(), int(number))
    return whole(path, **how)
loading.load = load
if __name__ == "__main__":
    main()
"""


def with_deadly_models(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a check in which `crash-11.npy` ends its process by signal 11."""
    for name in ("crash-11.npy", "large-9.npy", "exit-0.npy"):
        np.save(name, GOOD)
    Path("deadly.py").write_text(textwrap.dedent(DEADLY))
    command = [sys.executable, "deadly.py", "check", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


MIXED = ("good.npy", "crash-11.npy", "bad.npy", "large-9.npy", "linear.npy")


@pytest.fixture
def mixed() -> list[dict[str, Any]]:
    """The results without the deadly models."""
    np.save("linear.npy", GOOD)
    command = [sys.executable, "-m", "vaeprobe", "check", "good.npy", "bad.npy", "linear.npy", "--json"]
    models: list[dict[str, Any]] = json.loads(
        subprocess.run(command, capture_output=True, check=False).stdout
    )["models"]
    return models


@pytest.mark.parametrize("options", [(), ("--time", "100"), ("--resume", "run.jsonl")])
def test_a_model_that_ends_its_process_costs_no_other_result(mixed: Any, options: Sequence[str]) -> None:
    done = with_deadly_models(*MIXED, "--json", *options)
    document = json.loads(done.stdout)
    DOCUMENT.validate(document)
    models = document["models"]
    assert [m["model"] for m in models] == list(MIXED)
    assert [m["exit_code"] for m in models] == [0, 6, 1, 6, 0]
    if not options:
        assert [models[k] for k in (0, 2, 4)] == mixed
    assert "`crash-11.npy` made native code crash (SIGSEGV)" in models[1]["error"]["message"]
    assert "too much memory" in models[3]["error"]["message"]
    assert done.returncode == document["exit_code"] == 6
    if "--resume" in options:  # what failed is tried again, what stands is not
        again = json.loads(with_deadly_models(*MIXED, "--json", *options).stdout)
        assert again["models"] == models


def test_native_code_that_ends_the_process_is_no_pass() -> None:
    done = with_deadly_models("good.npy", "exit-0.npy", "bad.npy", "--json")
    assert [m["exit_code"] for m in json.loads(done.stdout)["models"]] == [0, 6, 1]
    assert "`exit-0.npy` made native code end the process (exit 0)" in done.stdout
    assert done.returncode == 6


@pytest.mark.parametrize("limit", ["no room", "no folder"])
def test_a_check_goes_on_where_nothing_can_be_carried(folder: Path, limit: str) -> None:
    np.save("crash-11.npy", GOOD)
    extra = {
        "no room": "from vaeprobe.cli import carried\ncarried.os.write = lambda *a: (_ for _ in ()).throw(OSError(28, 'full'))\n",
        "no folder": "import tempfile\ntempfile.tempdir = '/nowhere'\n",
    }[limit]
    Path("deadly.py").write_text(extra + textwrap.dedent(DEADLY))
    for models, code in ((("good.npy", "bad.npy"), 1), (("good.npy", "crash-11.npy", "bad.npy"), 6)):
        command = [sys.executable, "deadly.py", "check", *models, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == code
        assert "Traceback" not in done.stderr
        assert json.loads(done.stdout)["exit_code"] == code


def test_each_line_is_streamed_once_whatever_dies() -> None:
    np.save("linear.npy", GOOD)
    for options in ((), ("--resume", "run.jsonl"), ("--resume", "run.jsonl")):
        done = with_deadly_models(*MIXED, "--format", "jsonl", *options)
        *models, last = map(json.loads, done.stdout.splitlines())
        assert sorted(m["model"] for m in models) == sorted(MIXED)
        assert last["models"] == len(MIXED)
        assert last["exit_code"] == done.returncode == 6


def test_a_dead_model_is_the_last_one_of_a_run_that_fails_fast() -> None:
    done = with_deadly_models(*MIXED, "--json", "--fail-fast")
    assert [m["model"] for m in json.loads(done.stdout)["models"]] == ["good.npy", "crash-11.npy"]


def test_no_baseline_is_written_where_a_model_ends_its_process() -> None:
    done = with_deadly_models("good.npy", "crash-11.npy", "--update-baseline")
    assert done.returncode == 6
    assert "made native code crash" in done.stderr
    assert not Path("vaeprobe-baseline.json").exists()


def test_a_model_that_ends_a_process_of_several_costs_no_other_result(mixed: Any) -> None:
    done = with_deadly_models(*MIXED, "--json", "--jobs", "2")
    models = json.loads(done.stdout)["models"]
    assert [m["exit_code"] for m in models] == [0, 6, 1, 6, 0]
    assert [models[k] for k in (0, 2, 4)] == mixed
    assert "was killed" in models[1]["error"]["message"]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were loaded."""
    from vaeprobe.cli import loading

    seen: list[str] = []
    load = loading.load

    def spy(path: Path, **settings: Any) -> Any:
        seen.append(path.name)
        return load(path, **settings)

    monkeypatch.setattr(loading, "load", spy)
    return seen


def test_an_interrupted_run_resumes(check: Any, loaded: list[str]) -> None:
    first = check("good.npy", "--resume", "run.jsonl", "--json")
    both = ("good.npy", "bad.npy", "--resume", "run.jsonl", "--json")
    second = check(*both)
    assert loaded == ["good.npy", "bad.npy"]
    assert second.document["models"][0] == first.document["models"][0]
    assert check(*both).document == second.document
    assert loaded == ["good.npy", "bad.npy"]
    assert check("bad.npy", "good.npy", "--resume", "run.jsonl", "--fail-fast", "--json").code == 1


def test_an_interrupted_run_says_where_it_goes_on_from(
    check: Any, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "place", None)
    check("good.npy")
    assert streams.stopped() == "vaeprobe: stopped; no partial output was written"
    check("good.npy", "--resume", "run.jsonl")
    assert streams.stopped() == "vaeprobe: stopped; the same command goes on from what is kept in run.jsonl"


def test_what_other_processes_of_a_run_finished_is_taken_too(check: Any, loaded: list[str]) -> None:
    both = ("good.npy", "bad.npy", "--resume", "run.jsonl", "--json")
    whole = check(*both)
    first, second = Path("run.jsonl").read_text().splitlines(keepends=True)
    Path("run.jsonl").write_text(first)
    Path("run.jsonl.1").write_text(second)
    assert check(*both).document == whole.document
    Path("run.jsonl").unlink()
    assert check(*both).document == whole.document
    assert loaded == ["good.npy", "bad.npy", "good.npy"]


def test_what_changed_is_judged_anew(check: Any, loaded: list[str]) -> None:
    arguments = ("good.npy", "--resume", "run.jsonl")
    assert check(*arguments).code == 0
    np.save("good.npy", BAD)
    assert check(*arguments).code == 1
    policy(POLICY.replace("0.1", "0.99"))
    assert check(*arguments).code == 0
    policy(
        POLICY.replace("0.1", "0.99")
        + f'[[check.waivers]]\nrule = "{COSINE}"\nreason = "x"\nexpires = 2999-01-01'
    )
    assert check(*arguments).code == 0
    assert len(loaded) == 4
    assert check(*arguments).code == 0
    assert len(loaded) == 4


def test_a_failed_load_is_tried_again(check: Any) -> None:
    assert check("later.npy", "--resume", "run.jsonl").code == 5
    np.save("later.npy", GOOD)
    assert check("later.npy", "--resume", "run.jsonl").code == 0


def test_a_torn_last_line_is_dropped(check: Any, loaded: list[str]) -> None:
    check("good.npy", "bad.npy", "--resume", "run.jsonl")
    whole = Path("run.jsonl").read_text()
    Path("run.jsonl").write_text(whole[:-20])
    assert check("good.npy", "bad.npy", "--resume", "run.jsonl").code == 1
    assert loaded == ["good.npy", "bad.npy", "bad.npy"]
    assert Path("run.jsonl").read_text() == whole


@pytest.mark.parametrize("content", ["hello\n", '{"kind": "model"}\n', "[]\n", "\x00\n", "[" * 50_000 + "\n"])
def test_another_file_is_no_resume_file(content: str, check: Any) -> None:
    Path("run.jsonl").write_text(content)
    done = check("good.npy", "--resume", "run.jsonl")
    assert done.code == 5
    assert "no result file of vaeprobe" in done.err
    assert Path("run.jsonl").read_text() == content


def test_a_resume_file_has_one_suffix(check: Any) -> None:
    done = check("good.npy", "--resume", "run.kept")
    assert done.code == 2
    assert "--resume writes .jsonl files, not `.kept`" in done.err
    assert "name it `run.jsonl`" in done.err
    assert not Path("run.kept").exists()


# -- the action -------------------------------------------------------------------------------------


def test_the_action_pastes_no_input_into_its_script(folder: Path) -> None:
    action = (REPOSITORY / ".github" / "actions" / "check" / "action.yml").read_text(encoding="utf-8")
    scripts = re.findall(r"run: \|\n((?: {8}.*\n)+)", action)
    assert len(scripts) == 2
    assert not any("${{" in text for text in scripts)
    script = textwrap.dedent(scripts[1])
    (folder / "vaeprobe").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 3\n')
    (folder / "vaeprobe").chmod(0o755)
    inputs = {
        "MODELS": "*.npy a.pt;id $(id)",
        "CONFIG": "my policy.toml",
        "BASELINE": "",
        "DATA": "rows of data.npy",
        "SARIF": "out.sarif",
    }
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        env={"PATH": f"{folder}:{os.environ['PATH']}", **inputs},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines() == [
        "check", "--format", "github", "--no-progress", "--config", "my policy.toml", "--data", "rows of data.npy", "--report", "sarif=out.sarif",
        "--", "*.npy", "a.pt;id", "$(id)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("version", "installed"), [("", "/a b/.github/actions/check/../../.."), ("vaeprobe==9", "vaeprobe==9")]
)
def test_the_action_installs_its_own_checkout_or_what_is_asked(
    folder: Path, version: str, installed: str
) -> None:
    action = (REPOSITORY / ".github" / "actions" / "check" / "action.yml").read_text(encoding="utf-8")
    script = textwrap.dedent(re.findall(r"run: \|\n((?: {8}.*\n)+)", action)[0])
    (folder / "python").write_text('#!/bin/sh\nfor last; do :; done; echo "$last"\n')
    (folder / "python").chmod(0o755)
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        env={
            "PATH": f"{folder}:{os.environ['PATH']}", "VERSION": version,
            "GITHUB_ACTION_PATH": "/a b/.github/actions/check",
        },
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == installed


@pytest.mark.parametrize(
    "name", ["m.pt", "m.safetensors", "m.toml", "vaeprobe.toml", "x.npy", "x.csv", "vaeprobe-baseline.json"]
)
def test_the_hook_runs_where_a_model_its_blueprint_data_or_policy_changed(name: str) -> None:
    hook = (REPOSITORY / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    (pattern,) = re.findall(r"^ +files: (.*)$", hook, re.MULTILINE)
    assert re.search(pattern, name)
    assert not re.search(pattern, "README.md")
    assert "pass_filenames: false" in hook


def test_the_hook_is_a_command_that_exists(check: Any) -> None:
    hook = (REPOSITORY / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    match = re.search(r"^ +entry: vaeprobe check(.*)$", hook, re.MULTILINE)
    assert match
    assert check(*match[1].split(), "good.npy").code == 0


# -- the process ------------------------------------------------------------------------------------


def test_a_poor_environment_is_enough(folder: Path) -> None:
    done = subprocess.run(
        f"'{sys.executable}' -m vaeprobe check good.npy bad.npy <&- | head -n 1",
        shell=True,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C", "COLUMNS": "40", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (b"good.npy  passed\n", b"")


# -- first policies, data, verdicts -----------------------------------------------------------------


def test_init_writes_a_policy_that_the_models_pass(check: Any, folder: Path) -> None:
    Path("vaeprobe.toml").unlink()
    (folder / "sub").mkdir()
    done = check("--init", "good.npy", "bad.npy", "--baseline", "base.json")
    assert (done.code, done.out) == (0, "")
    assert "`vaeprobe check` holds them" in done.err
    text = Path("vaeprobe.toml").read_text()
    assert '"factorise.verdict" = "linear"' in text
    assert 'models = ["good.npy", "bad.npy"]' in text
    again = check("--json")
    assert again.code == 0
    assert set(statuses(again.document)) == {"good.npy", "bad.npy"}
    refused = check("--init", "good.npy")
    assert refused.code == 2
    assert "exists and is not overwritten" in refused.err
    assert Path("vaeprobe.toml").read_text() == text
    elsewhere = check("--init", "good.npy", "--config", "sub/mine.toml")
    assert elsewhere.code == 0
    assert 'models = ["../good.npy"]' in Path("sub/mine.toml").read_text()
    assert check("--config", "sub/mine.toml").code == 0


def test_init_writes_how_models_are_loaded(check: Any) -> None:
    import torch
    from safetensors.torch import save_file

    toml = (
        'latents = 2\n[condition.label]\nonehot = 3\n[condition."the size"]\nnumber = 1.0\n[decoder]\n'
        'layers = [{ concat = "label" }, { concat = "the size" }, { linear = "fc" }]\n'
    )
    Path("net 1.toml").write_text(toml)
    save_file({"fc.weight": torch.randn(4, 6), "fc.bias": torch.zeros(4)}, "a.safetensors")
    Path("vaeprobe.toml").unlink()
    held = ("--condition", "label=2", "--condition", "the size=1.5", "--latent-dim", "2")
    done = check("--init", "a.safetensors", "--blueprint", "net 1.toml", "--dtype", "float64", *held)
    assert done.code == 0, done.err
    assert re.search(r"\d rules for 1 model;", done.err)
    # a policy says how models are loaded, but not of which network they are
    assert "`vaeprobe check --blueprint 'net 1.toml' --dtype float64` holds them" in done.err
    again = check("--blueprint", "net 1.toml", "--dtype", "float64", "--json")
    assert again.code == 0
    (model,) = again.document["models"]
    assert "label = 2 of 3" in model["artifact"]["architecture"]
    assert "1.5" in model["artifact"]["architecture"]
    assert 'condition = { "label" = "2", "the size" = "1.5" }\n' in Path("vaeprobe.toml").read_text()
    assert "latent-dim = 2\n" in Path("vaeprobe.toml").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
@pytest.mark.parametrize(
    "options",
    [
        ("--report", "sarif=/dev/full", "--json"),
        ("--json", "-o", "/dev/full"),
        ("--report", "sarif=/dev/full", "--json", "-o", "out.json"),
        ("--report", "sarif=/dev/full", "--format", "jsonl"),
    ],
)
def test_what_was_checked_is_told_where_a_file_cannot_be_written(check: Any, options: Sequence[str]) -> None:
    done = check("good.npy", *options)
    assert done.code == 2
    assert "cannot write `/dev/full`" in done.err
    text = Path("out.json").read_text() if "out.json" in options else done.out
    if "jsonl" in options:
        first, last = map(json.loads, text.splitlines())
        assert (first["exit_code"], last["exit_code"]) == (0, 2)
    else:
        document = json.loads(text)
        DOCUMENT.validate(document)
        assert statuses(document) == {"good.npy": ["pass"]}
        assert document["exit_code"] == 2


def test_a_summary_that_cannot_be_written_costs_no_report(
    check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "nowhere/summary.md")
    done = check("good.npy", "bad.npy", "--format", "github")
    assert done.code == 2
    assert "cannot write the job summary" in done.err
    assert "::error" in done.out


@pytest.mark.parametrize("name", ["\N{GRINNING FACE}.npy", "a\x7fb.npy", 'a"b\\c.npy', "a\nb.npy"])
def test_a_policy_names_models_of_any_name(check: Any, name: str) -> None:
    Path("vaeprobe.toml").unlink()
    np.save(name, GOOD)
    assert check("--init", name).code == 0
    assert list(statuses(check("--json").document)) == [name]


def test_a_name_that_is_no_text_is_told(check: Any) -> None:
    Path("vaeprobe.toml").unlink()
    name = os.fsdecode(b"a\xff.npy")
    try:
        np.save(name, GOOD)
    except OSError:
        pytest.skip("the system has no such names")
    done = check("--init", name)
    assert done.code == 2
    assert "rename the file" in done.err
    assert not Path("vaeprobe.toml").exists()


def test_files_that_settings_name_are_judged_by_what_they_hold(check: Any, loaded: list[str]) -> None:
    rng = np.random.default_rng(0)
    np.save("z.npy", rng.standard_normal((64, 3)))
    policy(POLICY + '[orthogonality]\nlatents = "z.npy"\n')
    arguments = ("good.npy", "--resume", "run.jsonl")
    check(*arguments)
    check(*arguments)
    assert loaded == ["good.npy"]
    np.save("z.npy", rng.standard_normal((64, 3)))
    check(*arguments)
    assert loaded == ["good.npy", "good.npy"]


def test_files_named_as_words_and_links_that_lead_nowhere_are_none(check: Any, folder: Path) -> None:
    policy(REGRESSION + '[orthogonality]\nlatents = "prior"\n')
    (folder / "prior").write_bytes(b"1")
    assert check("bad.npy", "--update-baseline", "--baseline", "base.json").code == 0
    (folder / "prior").write_bytes(b"2")
    assert check("bad.npy", "--baseline", "base.json").code == 0
    (folder / "prior").unlink()
    (folder / "prior").mkdir()
    (folder / "prior" / "dangling").symlink_to("nowhere")
    assert check("bad.npy", "--baseline", "base.json").code == 0
    done = check(
        "bad.npy",
        "--rule",
        f"{COSINE}=0.5",
        "--data",
        "prior",
        "--config",
        "vaeprobe.toml",
        "--baseline",
        "base.json",
    )
    assert done.code != 70
    policy(POLICY + f'[orthogonality]\nlatents = "{"z" * 5000}"\n')
    assert check("bad.npy").code in (2, 5)


@pytest.mark.parametrize(
    ("setting", "other"),
    [
        ("seed = 0", "seed = 1"),
        ('latents = "prior"', 'latents = "grid"'),
        ("sigma2 = 1.0", "sigma2 = 2.0"),
        ("beta-sigma2 = 1", "beta-sigma2 = 2"),
        ("active-threshold = 0.05", "active-threshold = 0.1"),
        ('part = "auto"', None),
        ("rotations = 1000", None),
    ],
)
def test_a_setting_that_says_its_default_is_the_default(check: Any, setting: str, other: str | None) -> None:
    policy(REGRESSION)
    assert check("bad.npy", "--update-baseline", "--baseline", "base.json").code == 0
    policy(f"{REGRESSION}[orthogonality]\n{setting}\n")
    assert check("bad.npy", "--baseline", "base.json").code == 0
    assert check("bad.npy", "--baseline", "base.json", "--dtype", "float64").code == 0
    if other is not None:
        policy(f"{REGRESSION}[orthogonality]\n{other}\n")
        done = check("bad.npy", "--baseline", "base.json")
        assert (done.code, "by another method" in done.out) == (2, True)


def test_a_baseline_at_other_latents_of_the_same_name_is_another_one(check: Any) -> None:
    rng = np.random.default_rng(0)
    np.save("z.npy", rng.standard_normal((64, 3)))
    policy(REGRESSION + '[orthogonality]\nlatents = "z.npy"\n')
    assert check("bad.npy", "--update-baseline", "--baseline", "base.json").code == 0
    assert check("bad.npy", "--baseline", "base.json").code == 0
    np.save("z.npy", rng.standard_normal((64, 3)))
    done = check("bad.npy", "--baseline", "base.json")
    assert done.code == 2
    assert "another method (file of latents" in done.out


def test_a_check_of_sharded_weights_and_of_folders_resumes(
    check: Any, loaded: list[str], folder: Path
) -> None:
    from safetensors.numpy import save_file

    for name, place in (("a", "."), ("b", "sub")):
        (folder / place).mkdir(exist_ok=True)
        for k, part in enumerate(
            ({"0.weight": GOOD[:4].astype("float32")}, {"2.weight": np.eye(5, 4, dtype="float32")})
        ):
            save_file(part, folder / place / f"{name}-0000{k + 1}-of-00002.safetensors")
        placed = {f"{2 * k}.weight": f"{name}-0000{k + 1}-of-00002.safetensors" for k in (0, 1)}
        (folder / place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    Path("net.toml").write_text('latents = 3\n[decoder]\nlayers = [{linear = "0"}, "tanh", {linear = "2"}]\n')
    models = ("model.safetensors.index.json", "sub/model.safetensors.index.json")
    arguments = (*models, "--blueprint", "net.toml", "--resume", "run.jsonl", "--json")
    first = check(*arguments)
    assert [m["error"] for m in first.document["models"]] == [None, None]
    assert check(*arguments).document == first.document
    assert len(loaded) == 2
    save_file({"2.weight": np.eye(5, 4, dtype="float32") * 2}, folder / "a-00002-of-00002.safetensors")
    check(*arguments)
    assert len(loaded) == 3


def test_init_takes_no_other_task(check: Any) -> None:
    assert check("--init", "good.npy", "--rule", f"{COSINE}=1", "--config", "new.toml").code == 2
    assert check("--init", "--config", "new.toml").code == 2
    assert not Path("new.toml").exists()


def test_a_verdict_on_the_command_line(check: Any) -> None:
    policy("")
    assert check("good.npy", "--rule", "factorise.verdict=linear").code == 0
    done = check("good.npy", "--rule", "factorise.verdict=curved,rotated")
    assert done.code == 1
    assert "factorise.verdict is linear, rule: curved or rotated" in " ".join(done.out.split())


def test_the_command_line_comes_before_overrides(check: Any) -> None:
    policy(f'[[check.overrides]]\nmodels = "bad.npy"\nrules = {{ "{COSINE}" = 0.99 }}\n')
    assert check("bad.npy").code == 0
    assert check("bad.npy", "--rule", f"{COSINE}=0.1").code == 1


def test_the_policy_names_its_baseline(check: Any) -> None:
    policy(f'[check]\nsamples = 16\nmax-samples = 32\nbaseline = "b.json"\n[check.rules]\n"{COSINE}" = 0.9')
    assert check("good.npy").code == 0  # no rule needs it yet
    policy(Path("vaeprobe.toml").read_text().replace("0.9", "{ regression = 0.1 }"))
    assert check("good.npy").code == 5
    assert check("good.npy", "--update-baseline").code == 0
    assert Path("b.json").is_file()
    assert check("good.npy").code == 0


def test_1_comes_before_3(check: Any) -> None:
    policy('[check]\nsamples = 16\n[check.rules]\n"orthogonality.mean_abs_cosine" = 0.1')
    np.save("one.npy", np.ones((6, 1)))
    assert check("one.npy").code == 3
    assert check("one.npy", "bad.npy").code == 1


def test_other_peoples_projects_do_not_matter(
    check: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "pyproject.toml").write_text("[tool.x\nbroken = =")
    (folder / "vaeprobe.toml").rename(folder / "mine.toml")
    (folder / "deep").mkdir()
    monkeypatch.chdir(folder / "deep")
    assert check("../good.npy", "--config", "../mine.toml").code == 0
    assert check("../good.npy", "--rule", f"{COSINE}=0.1").code == 0


def test_a_policy_says_how_each_model_is_loaded(folder: Path, check: Any) -> None:
    import torch
    from safetensors.torch import save_file

    toml = 'latents = 2\n[condition.label]\nonehot = 3\n[decoder]\nlayers = [{ concat = "label" }, { linear = "fc" }]\n'
    weights = {"fc.weight": torch.randn(4, 5), "fc.bias": torch.zeros(4)}
    for name in ("a", "b"):
        save_file(weights, folder / f"{name}.safetensors", metadata={"vaeprobe.blueprint": toml})
    (folder / "vaeprobe.toml").write_text(
        """
        [check]
        models = ["a.safetensors", "b.safetensors"]
        condition = { label = 1 }
        [check.rules]
        "latents.dim" = { max = 2 }
        [[check.overrides]]
        models = "b.*"
        condition = { label = 2 }
        """
    )

    def held(*more: str) -> list[str]:
        done = check("--json", *more)
        assert done.code == 0, done.err
        return [m["artifact"]["architecture"].rpartition(" at ")[2] for m in done.document["models"]]

    assert held() == ["label = 1 of 3", "label = 2 of 3"]
    assert held("--condition", "label=0") == ["label = 0 of 3", "label = 0 of 3"]


def test_a_baseline_of_another_condition_is_refused(check: Any) -> None:
    import torch
    from safetensors.torch import save_file

    toml = 'latents = 2\n[condition.label]\nonehot = 3\n[decoder]\nlayers = [{ concat = "label" }, { linear = "fc" }]\n'
    weights = {"fc.weight": torch.randn(4, 5), "fc.bias": torch.zeros(4)}
    save_file(weights, "a.safetensors", metadata={"vaeprobe.blueprint": toml})
    policy(REGRESSION)
    held = ("a.safetensors", "--baseline", "base.json", "--condition")
    assert check(*held, "label=1", "--update-baseline").code == 0
    assert "the very artifact" in check(*held, "label=1").out
    done = check(*held, "label=2")
    assert done.code == 2
    assert "another method (condition label=1 -> label=2)" in " ".join(done.out.split())
    assert "the very artifact" not in done.out


def test_a_check_takes_a_time(check: Any) -> None:
    timed = check("good.npy", "--time", "3600", "--json")
    assert timed.document["settings"]["time"] == 3600
    assert timed.document["models"] == check("good.npy", "--json").document["models"]
    assert "at least 1" in check("good.npy", "--time", "0").err
    refused = check("--update-baseline", "good.npy", "--time", "60")
    assert (refused.code, "whole measurements" in refused.err) == (2, True)
