"""What numbers, findings and errors mean, as text: `vaeprobe explain` and the table of all metrics."""

from __future__ import annotations

import inspect
import math
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from vaeprobe.errors import ERRORS
from vaeprobe.findings import FINDINGS
from vaeprobe.likelihood_names import LIKELIHOODS
from vaeprobe.probes import PROBES
from vaeprobe.report import MetricSpec

if TYPE_CHECKING:
    from vaeprobe.probes.base import Question


def codes() -> dict[str, tuple[str, str]]:
    """Return the meaning and the remedy of every code of a finding or an error."""
    errors = {code: (cls.meaning, cls.remedy) for code, cls in ERRORS.items()}
    return errors | {code: (spec.meaning, spec.remedy) for code, spec in FINDINGS.items()}


def _wrap(text: str, hang: str = "  ") -> str:
    return textwrap.fill(" ".join(text.split()), width=79, initial_indent="  ", subsequent_indent=hang)


def of_metric(spec: MetricSpec) -> str:
    """Return the page of a metric."""
    better = {"lower": "lower is better", "higher": "higher is better", None: "descriptive"}[spec.better]
    unit = f", {spec.unit}" if spec.unit else ""
    parts = [f"{spec.id}: {spec.title} ({better}{unit})"]
    fields = {
        "formula": spec.formula,
        "range": spec.range,
        "source": spec.source,
        "how to read it": spec.meaning,
        "how it misleads": spec.misleads,
        "what to do": spec.remedy,
        "limit on the command line": spec.option or "",
    }
    parts += [f"{name}\n{_wrap(text)}" for name, text in fields.items() if text]
    return "\n\n".join(parts) + "\n"


def of_command(name: str, help: str) -> str:
    """Return what a command is for: the first paragraph of its help."""
    words = help.split("\n\n", 1)[0]
    return f"vaeprobe {name}\n{_wrap(words)}\n  `vaeprobe {name} --help` lists its options, with examples\n"


def of_verdicts(id: str, cls: type[Question]) -> str:
    """Return what each verdict of a probe means.

    Args:
        id: what rules call its verdict.
    """
    more = sorted(cls.OPEN_VERDICTS & cls.VERDICTS.keys())
    lines = [
        f"{id}: the verdicts of `vaeprobe {cls.NAME.replace('_', '-')}`",
        "",
        _columns([*cls.VERDICTS.items()]),
        "",
    ]
    lines += (
        [_wrap(f"More samples may turn {' and '.join(f'`{word}`' for word in more)} into another.")]
        if more
        else []
    )
    rule = shlex.quote(f"{id}={next(iter(cls.VERDICTS))}")
    words = _wrap(f"A rule names those that pass: `vaeprobe check MODEL --rule {rule}`.")
    return "\n".join([*lines, words]) + "\n"


def likelihoods() -> str:
    """Return what a likelihood is asked for, and the list of them."""
    from vaeprobe.likelihoods import Likelihood, classes
    from vaeprobe.probes.base import Probe
    from vaeprobe.probes.settings import option_of

    option = next(option_of(f) for f in fields(Probe) if f.name == "likelihood")
    rows = [(name, _paragraphs(cls)[0]) for name, cls in classes().items()]
    what = _paragraphs(Likelihood)
    parts = [
        f"likelihood: {what[0]}",
        f"--likelihood NAME\n{_wrap(option.help)}",
        _columns(rows),
        _wrap(what[2]),
        _wrap("`vaeprobe explain NAME` says more of each."),
    ]
    return "\n\n".join(parts) + "\n"


def of_likelihood(name: str) -> str:
    """Return what a likelihood models, what its outputs are, and its parameters."""
    from vaeprobe.likelihoods import classes

    cls = classes()[name]
    first, *rest = (words.replace("Attributes:", "Parameters:") for words in _paragraphs(cls))
    low, high = cls.domain
    means = (
        f"Means lie in {'(' if math.isinf(low) else '['}{low:g}, {high:g}{')' if math.isinf(high) else ']'}"
    )
    if cls.mean_is_natural:
        natural = "they are the natural parameters themselves"
    elif cls.activation:
        natural = f"`{cls.activation}` makes them of natural parameters"
    else:
        natural = "no one layer makes them of natural parameters"
    parts = [
        f"{name}: a likelihood",
        _wrap(first),
        *map(_wrap, rest),
        f"outputs\n{_wrap(f'{means}; {natural}.')}",
    ]
    if cls.outputs:
        parts.append(
            _wrap(f"A network may return them apart, as {' and '.join(f'`{o}`' for o in cls.outputs)}.")
        )
    if cls.aliases:
        parts.append(
            _wrap(f"In files and in Python it is called {', '.join(f'`{a}`' for a in cls.aliases)} too.")
        )
    return "\n\n".join(parts) + "\n"


def _paragraphs(cls: type) -> list[str]:
    """Return the paragraphs of a class's docstring, each as one line."""
    return [" ".join(part.split()) for part in inspect.cleandoc(cls.__doc__ or "").split("\n\n")]


def of_probe(name: str, specs: Mapping[str, MetricSpec]) -> str:
    """Return what the numbers of a command mean, the first sentence of each."""
    lines = [f"{s.id}: {s.title}\n{_wrap(_sentence(s.meaning))}" for s in specs.values()]
    more = "`vaeprobe explain METRIC` says the formula, how it misleads and what to do"
    return "\n".join([f"the numbers of `vaeprobe {name}`", "", *lines, "", more]) + "\n"


def _sentence(text: str) -> str:
    """Return the first sentence of a text."""
    return re.split(r"(?<=[a-z)0-9])\. (?=[A-Z`])", " ".join(text.split()), maxsplit=1)[0].rstrip(".")


def of_code(name: str) -> str:
    """Return the page of a finding or error code."""
    meaning, remedy = codes()[name]
    return f"{name}\n\n{_wrap(meaning)}\n\nwhat to do\n{_wrap(remedy)}\n"


def index(specs: Mapping[str, MetricSpec]) -> str:
    """Return the list of everything that can be explained."""
    width = max(len(name) for name in [*specs, *codes()])
    metrics = [f"  {id.ljust(width)}  {spec.title}" for id, spec in specs.items()]
    others = [
        f"  {name.ljust(width)}  {textwrap.shorten(meaning, 60, placeholder=' …')}"
        for name, (meaning, _) in sorted(codes().items())
    ]
    topics = [
        f"  {'budget'.ljust(width)}  --time, --resume, --part, and what long runs say first",
        f"  {'COMMAND'.ljust(width)}  what a command of `vaeprobe --help` is for, and its numbers",
        f"  {'PROBE.verdict'.ljust(width)}  what the verdicts of {', '.join(PROBES)} mean",
        f"  {'likelihood'.ljust(width)}  what --likelihood takes: {', '.join(LIKELIHOODS)}",
        f"  {'policy'.ljust(width)}  keys, precedence and exit codes of `vaeprobe check`",
        f"  {'torchrun'.ljust(width)}  several processes or machines; Slurm and Kubernetes",
    ]
    return "\n".join(["topics", *topics, "", "metrics", *metrics, "", "findings and errors", *others]) + "\n"


PRECEDENCE = (
    "--config FILE, else vaeprobe.toml or [tool.vaeprobe] in pyproject.toml, here or above",
    "MODEL arguments before `models`; --data before [PROBE] data before a model's override before `data`",
    "--baseline before `baseline`; --rule METRIC=X before overrides of models before [check.rules]",
    "a later override before an earlier one; a waiver before the rule that it covers, until its date",
)


def policy() -> str:
    """Return the page about policies: their keys, what comes before what, exit codes."""
    from vaeprobe.gate.outcome import EXIT_CODES
    from vaeprobe.gate.policy_file import KEYS

    rows = [
        ("key of [check]", "default", "meaning"),
        *((k, default, text) for k, (default, text) in KEYS.items()),
    ]
    codes = [(str(code), text) for code, text in EXIT_CODES.items()]
    return (
        "\n\n".join(
            [
                "policy: vaeprobe.toml, or the tables under [tool.vaeprobe] in pyproject.toml",
                _columns(rows),
                "what comes before what\n" + "\n".join(_wrap(line, hang="    ") for line in PRECEDENCE),
                "exit codes of `vaeprobe check`, of several models the first that any has\n"
                + _columns(codes),
                _wrap(
                    f"Tables {', '.join(f'[{name}]' for name in PROBES)} hold settings as on the command "
                    "line. Nothing in a policy grants trust: --arch, --allow-code, --submodule are for the command line."
                ),
            ]
        )
        + "\n"
    )


TORCHRUN = """\
torchrun: several processes, or machines, that share one run

  torchrun --standalone --nproc-per-node 8 -m vaeprobe orthogonality MODEL

torchrun comes with torch, in the same environment as vaeprobe; `python -m
torch.distributed.run` is the same.

The processes of every probe share chunks of latents and rows, or the directions
at each where there are few latents; so do those of `report` and `traverse`;
`check` and `compare` give each process models of its own where there are
enough; `train-linear` gives each its share of the rows, but for solvers that
take all rows in memory, which each runs by itself, and refuses --missing em and
--batch-size, which run in one process. A command without --resume runs in the
first process alone. Draws are the same and chunks too, so that the numbers are
those of one process; with --time the first one's clock decides for all. The
first process writes documents and files. Every process loads the model: give
all of them the same files. With --device cuda or auto each takes the GPU of its
local rank; sums go over NCCL with --device cuda, else over gloo.

All processes end together, with one exit code: that of the first that failed.
What it says is said once, after `process 1 of 2 failed:` where the others did
not fail alike within 5 seconds. One that is killed leaves the others with exit
code 6, at their next sum, or after 60 seconds without a sign of life. (torchrun
itself ends with 1 where the exit code is not 0; its report names the code.)

Slurm: sbatch this; one task a node, which starts that node's processes

#!/bin/bash
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=01:00:00
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \\
  torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_CPUS_PER_TASK" \\
  --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d \\
  --rdzv-endpoint "$head:29500" \\
  -m vaeprobe check 'models/*.safetensors' -o report.json

Kubernetes: an indexed Job behind a headless Service, which names its pods

apiVersion: v1
kind: Service
metadata: {name: vaeprobe}
spec: {clusterIP: None, selector: {job-name: vaeprobe}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: vaeprobe}
spec:
  completions: 2
  parallelism: 2
  completionMode: Indexed
  template:
    spec:
      subdomain: vaeprobe
      restartPolicy: Never
      containers:
      - name: vaeprobe
        image: YOUR_IMAGE
        command: [torchrun, --nnodes=2, --nproc-per-node=4,
          --node-rank=$(JOB_COMPLETION_INDEX),  # so that pod 0 knows its part
          --master-addr=vaeprobe-0.vaeprobe, --master-port=29500,
          -m, vaeprobe, orthogonality, /models/vae.safetensors,
          --resume, /models/run.kept, -o, /models/orthogonality.json]
        volumeMounts: [{name: models, mountPath: /models}]
      volumes:
      - name: models  # a claim that both pods may write to: ReadWriteMany
        persistentVolumeClaim: {claimName: models}

Under a scheduler's own time limit, give --time some minutes less: what does not
fit is left out and said. --resume FILE keeps what is measured (of `check`, what
is finished), each process in a file of its own beside it, and a run that was
ended goes on from there, by any number of processes.
"""


def torchrun() -> str:
    """Return the page about several processes."""
    return TORCHRUN


BUDGETS = ("budget", "time", "resume", "part", "forecast")
"""Words that the page about long runs is found by."""

BUDGET = """\
budget: how long a run takes, and what to do where that is too long

Forecasts. Work that will take 20 seconds or more is foretold on stderr, from
what decoding a few latents takes: `256 latents of 10 columns: about 3 minutes`.
Where its pace turns out otherwise, by half or more, that is said once too. A
terminal shows a bar with the time left; --no-progress and -q say nothing.

--time SECONDS bounds a run, loading included. Fewer samples are measured, each
of them exactly, so that intervals are wider; what explains a verdict is left
out before what decides it. A finding `time-limit` says what did not fit and
what all of it would take. The rows that an answer needs are measured in any
case: where these alone take longer, the run does, and says how long the least
that can be told took. Give it some minutes less than a scheduler does.
`inspect`, `convert`, `demo` and `selftest` do work of one size, mostly seconds,
and have no --time.
Without --time no number depends on the clock.

--resume FILE.kept keeps what is measured, piece by piece, and goes on from what
the file holds: after Ctrl-C, a kill, or a --time that was too short. A piece is
known by the weights, latents and rows that it was made of: another model or
seed takes nothing that is not its own, more --samples take what is there, and
the numbers are those of a run in one go. A file of another version of vaeprobe
is refused; what is faster to compute than to write is not kept. `check` keeps
the outcomes that are finished, in a FILE.jsonl.

--part says along which latents `orthogonality`, `factorise` and `trace` measure
a decoder of hundreds of them: `channels` those of one site of a map, `some`
random ones, `all` every one; `auto` takes a part where all would take long, and
says which. The verdict of a part is marked, a limit on what it leaves open of
all latents is undecided (exit 3), and `compare` sets no numbers of different
parts against each other.

`vaeprobe explain torchrun`: several processes or machines share a run.
"""


def budget() -> str:
    """Return the page about how long runs take."""
    return BUDGET


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows in aligned columns, the last one wrapped."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        head = "  " + "".join(cell.ljust(width + 2) for cell, width in zip(row, widths, strict=False))
        lines.append(textwrap.fill(row[-1], width=79, initial_indent=head, subsequent_indent=" " * len(head)))
    return "\n".join(lines)


def markdown_table(specs: Mapping[str, MetricSpec]) -> str:
    """Return the README's table of metrics."""
    from vaeprobe.render.markdown import grid

    better = {"lower": "lower", "higher": "higher", None: ""}
    return grid(
        ["metric", "what it is", "range", "better", "source"],
        [[f"{s.id}", s.title, s.range, better[s.better], s.source] for s in specs.values()],
    )
