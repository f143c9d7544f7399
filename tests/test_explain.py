"""Everything that vaeprobe can say has a page: metrics, findings, errors."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from vaeprobe import __version__, credit, errors, explain, findings
from vaeprobe.cli import app, run
from vaeprobe.errors import VaeprobeError
from vaeprobe.explain import torchrun
from vaeprobe.findings import FINDINGS
from vaeprobe.likelihood_names import LIKELIHOODS
from vaeprobe.probes import PROBES, question_class
from vaeprobe.report import Finding

PACKAGE = Path(errors.__file__).parent
NAMES = {name for name, value in vars(findings).items() if isinstance(value, findings.FindingSpec)}


def used() -> set[str]:
    """Names of findings that the package makes."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name == "findings.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in NAMES}
    return found


def test_no_finding_is_left_over() -> None:
    assert NAMES - used() == set()


def test_findings_are_listed_by_their_code() -> None:
    assert len(FINDINGS) == len(NAMES) > 40
    assert all(code == spec.code and spec.meaning and spec.remedy for code, spec in FINDINGS.items())


def test_a_finding_weighs_what_its_kind_does_unless_it_says_so() -> None:
    assert Finding(findings.SATURATED, "x").level == findings.SATURATED.level == "note"
    assert Finding(findings.SATURATED, "x", level="warning").level == "warning"
    again = Finding(findings.SATURATED, "x", hint="y", level="warning")
    assert Finding.from_dict(again.to_dict()) == again


def test_every_error_says_what_it_means() -> None:
    import vaeprobe.checkpoints.loading  # noqa: F401  (would define an error of its own)

    def all_of(cls: type[VaeprobeError]) -> set[type[VaeprobeError]]:
        return {cls}.union(*(all_of(sub) for sub in cls.__subclasses__()))

    assert {cls.code for cls in all_of(VaeprobeError)} == set(errors.ERRORS)
    assert all("meaning" in vars(cls) and "remedy" in vars(cls) for cls in errors.ERRORS.values())


@pytest.mark.parametrize("code", sorted(explain.codes()))
def test_pages_fit_a_terminal(code: str) -> None:
    page = explain.of_code(code)
    assert max(map(len, page.splitlines())) <= 80
    assert "what to do" in page


def test_bibtex_names_the_paper_its_forerunners_and_this_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "--bibtex"]) == 0
    text = capsys.readouterr().out
    for wanted in (
        "eprint = {2410.22559}",
        "Lucas, James",
        "Kumar, Abhishek",
        "Reizinger, Patrik",
        "@software{vaeprobe,",
    ):
        assert wanted in text
    assert text.count("{") == text.count("}")
    keys = re.findall(r"^@[a-z]+\{([a-z0-9]+),$", text, re.MULTILINE)
    assert len(keys) == len(set(keys)) == text.count("@")


def test_bibtex_of_a_metric_is_what_its_source_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "orthogonality.ima_contrast", "--bibtex"]) == 0
    text = capsys.readouterr().out
    assert re.findall(r"^@[a-z]+\{([a-z0-9]+),$", text, re.MULTILINE) == [
        "vaeprobe",
        "allen2024unpicking",
        "gresele2021independent",
    ]
    assert run(["explain", "policy", "--bibtex"]) == 2
    assert "--bibtex takes a metric" in capsys.readouterr().err


def test_every_paper_that_sources_cite_by_arxiv_number_is_credited_or_named_in_full() -> None:
    """A name with a year in a metric's source that is among the credited works must be found by `behind`."""
    for work in credit.WORKS:
        assert credit.behind(f"{work.named} ({work.year}), a title") == (work,)


def test_the_citation_file_is_of_this_version_and_paper() -> None:
    text = (Path(__file__).parents[1] / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in text
    assert credit.PAPER.title in text
    assert credit.PAPER.arxiv in text


def test_the_citation_file_has_what_its_format_asks_for_and_nothing_else() -> None:
    """The Citation File Format 1.2.0: required keys, known keys, entities and persons."""
    yaml = pytest.importorskip("yaml")
    body = yaml.safe_load((Path(__file__).parents[1] / "CITATION.cff").read_text(encoding="utf-8"))
    assert body["cff-version"] == "1.2.0"
    assert {"cff-version", "message", "title", "authors"} <= body.keys()
    assert body.keys() <= {
        "abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers", "keywords", "license",
        "license-url", "message", "preferred-citation", "references", "repository", "repository-artifact",
        "repository-code", "title", "type", "url", "version",
    }  # fmt: skip
    assert body["type"] in ("software", "dataset")
    for entry in (body, *body["references"]):
        assert entry["title"]
        for author in entry["authors"]:  # an entity has a name, a person the parts of one
            assert author.keys() <= {"name"} or author.keys() <= {"family-names", "given-names", "orcid"}
            assert all(isinstance(value, str) and value for value in author.values())
    for reference in body["references"]:
        assert reference["type"] in ("article", "conference-paper", "generic", "report", "software")
        assert isinstance(reference["year"], int)
        for one in reference["identifiers"]:
            assert one["type"] in ("doi", "url", "swh", "other")
            assert isinstance(one["value"], str)


def test_pages_about_how_runs_go_fit_a_terminal() -> None:
    for page in (torchrun(), explain.budget()):
        assert max(map(len, page.splitlines())) <= 80


@pytest.mark.parametrize("word", ["budget", "time", "resume", "part", "forecast"])
def test_long_runs_are_explained_by_any_of_their_words(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", word]) == 0
    assert capsys.readouterr().out == explain.budget()


def test_its_script_for_slurm_is_one_that_bash_and_torchrun_read(tmp_path: Path) -> None:
    # as it is copied from the terminal: a shebang stands in the first column
    script = "#!/bin/bash\n" + torchrun().partition("\n#!/bin/bash\n")[2].partition("\nKubernetes:")[0]
    asked = dict(re.findall(r"^#SBATCH --(\S+?)=(\S+)$", script, re.MULTILINE))
    assert (asked["nodes"], asked["ntasks-per-node"]) == ("2", "1")
    # that sbatch sets
    known = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": asked["nodes"], "SLURM_JOB_ID": "7"}
    known["SLURM_CPUS_PER_TASK"] = asked["cpus-per-task"]
    assert set(re.findall(r"\$(SLURM\w+)", script)) == set(known)
    for name, body in {"scontrol": "printf 'n1\\nn2\\n'", "srun": 'printf "%s\\n" "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-eu"], input=script, env={**known, "PATH": path}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    cores, command, *arguments = done.stdout.splitlines()
    assert cores == "--cpus-per-task=16"  # srun does not ask what sbatch was told of it
    assert command == "torchrun"
    read = get_args_parser().parse_args(arguments)
    assert (read.nnodes, read.nproc_per_node, read.rdzv_backend, read.rdzv_id) == ("2", "16", "c10d", "7")
    assert read.rdzv_endpoint == "n1:29500"
    assert (read.module, read.training_script) == (True, "vaeprobe")
    assert read.training_script_args == ["check", "models/*.safetensors", "-o", "report.json"]


def test_its_manifest_for_kubernetes_names_one_service_and_its_first_pod() -> None:
    yaml = pytest.importorskip("yaml")
    service, job = yaml.safe_load_all(
        "apiVersion" + torchrun().partition("\napiVersion")[2].partition("\nUnder a scheduler")[0]
    )
    name = service["metadata"]["name"]
    assert service["spec"] == {"clusterIP": "None", "selector": {"job-name": job["metadata"]["name"]}}
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == name  # which makes the names of pods
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    container = pod["containers"][0]
    assert {v["name"] for v in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    command, *arguments = container["command"]
    assert command == "torchrun"
    # that an indexed job sets; by c10d the first pod knows itself by its name alone, which may not resolve yet
    read = get_args_parser().parse_args([a.replace("$(JOB_COMPLETION_INDEX)", "1") for a in arguments])
    assert (read.rdzv_backend, read.node_rank) == ("static", 1)
    assert (read.master_addr, read.master_port) == (f"{job['metadata']['name']}-0.{name}", 29500)
    assert (read.nnodes, read.training_script) == ("2", "vaeprobe")
    assert read.training_script_args[:2] == ["orthogonality", "/models/vae.safetensors"]


def test_its_command_for_one_machine_is_one_that_torchrun_reads() -> None:
    line = next(line for line in torchrun().splitlines() if "--standalone" in line)
    read = get_args_parser().parse_args(line.split()[1:])
    assert read.standalone
    assert read.training_script_args == ["orthogonality", "MODEL"]


def test_every_command_says_what_it_is_for_and_where_its_help_is(capsys: pytest.CaptureFixture[str]) -> None:
    for name in (*app.QUESTIONS, *app.COMMANDS):
        assert run(["explain", name]) == 0
        page = capsys.readouterr().out
        assert run([name, "--help"]) == 0
        said = " ".join(capsys.readouterr().out.split())
        first = page.partition("`vaeprobe")[0].split()[2:]
        assert " ".join(first) in said
        assert f"`vaeprobe {name} --help`" in page
        assert max(map(len, page.splitlines())) <= 80
    assert run(["explain", "factorize"]) == 0
    assert "factorise.gap" in capsys.readouterr().out


def test_every_verdict_has_a_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    for name in PROBES:
        assert run(["explain", f"{name}.verdict"]) == 0
        page = capsys.readouterr().out
        for word, meaning in question_class(name).VERDICTS.items():
            assert word in page
            assert "".join(meaning.split()) in "".join(page.split())
        assert max(map(len, page.splitlines())) <= 80


def test_every_likelihood_says_what_it_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "likelihood"]) == 0
    listed = capsys.readouterr().out
    for name in LIKELIHOODS:
        assert name in listed
        assert run(["explain", name]) == 0
        page = capsys.readouterr().out
        assert page.startswith(f"{name}: a likelihood\n\n  x ")
        assert "outputs\n" in page
        assert max(map(len, page.splitlines())) <= 80
    assert run(["explain", "categorical"]) == 0
    page = capsys.readouterr().out
    assert "Outputs have shape (n, K, ...)" in page
    assert "Parameters: classes: K, at least 2." in page
    assert run(["explain", "categorial"]) == 2
    assert "did you mean `categorical`" in capsys.readouterr().err


def test_what_several_processes_refuse_is_told() -> None:
    text = " ".join(torchrun().split())
    assert "refuses --missing em and --batch-size, which run in one process" in text
