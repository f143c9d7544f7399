"""`vaeprobe explain`: what a number, a finding or an error means."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from vaeprobe.errors import UsageError, did_you_mean


def explain(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A command, metric, verdict (PROBE.verdict), likelihood, finding, error, `budget`, `policy` or `torchrun`; "
            "none lists all.",
            show_default=False,
        ),
    ] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="The table of all metrics, as Markdown.")] = False,
    bibtex: Annotated[
        bool,
        typer.Option(
            "--bibtex", help="BibTeX of this program and of the work behind it, or behind a metric."
        ),
    ] = False,
) -> None:
    """What a metric, verdict, finding or error code means: formula, source, range, how it misleads, what to do.

    Examples:
        vaeprobe explain
        vaeprobe explain orthogonality.alignment
        vaeprobe explain --all > METRICS.md
        vaeprobe explain --bibtex > vaeprobe.bib
    """
    from vaeprobe import explain as pages
    from vaeprobe.cli import app
    from vaeprobe.comparison.metrics import SPECS as COMPARED
    from vaeprobe.gate.policy import VERDICT
    from vaeprobe.likelihood_names import LIKELIHOODS
    from vaeprobe.probes import PROBES, metric_specs, question_class
    from vaeprobe.report import specs_by_id
    from vaeprobe.selftest import METRICS as SELFTEST
    from vaeprobe.traversal.metrics import SPECS as TRAVERSED

    specs = {**metric_specs(), **specs_by_id(SELFTEST), **COMPARED, **TRAVERSED}
    if bibtex:
        from vaeprobe import credit

        if everything or (name is not None and name not in specs):
            raise UsageError("--bibtex takes a metric, or nothing", hint="vaeprobe explain --bibtex")
        works = credit.WORKS if name is None else credit.behind(specs[name].source)
        sys.stdout.write(credit.bibtex(works))
        return
    if everything:
        if name is not None:
            raise UsageError("--all lists every metric and takes no name", hint=f"vaeprobe explain {name}")
        sys.stdout.write(pages.markdown_table(specs) + "\n")
        return
    if name is None:
        sys.stdout.write(pages.index(specs))
        return
    topics: dict[str, Callable[[], str]] = {
        "policy": pages.policy,
        "torchrun": pages.torchrun,
        **dict.fromkeys(pages.BUDGETS, pages.budget),
        "likelihood": pages.likelihoods,
        **{likelihood: partial(pages.of_likelihood, likelihood) for likelihood in LIKELIHOODS},
    }
    if name in topics:
        sys.stdout.write(topics[name]())
        return
    others = {
        "compare": tuple(COMPARED.values()),
        "traverse": tuple(TRAVERSED.values()),
    }
    probes = {probe.replace("_", "-"): probe for probe in PROBES}
    commands = (*probes, *app.COMMANDS, *app.ALIASES)
    if name in commands:
        command = app.ALIASES.get(name, name)
        sys.stdout.write(pages.of_command(command, str(app.built(command).help)))
        if command in (*probes, *others):
            own = others[command] if command in others else question_class(probes[command]).METRICS
            sys.stdout.write("\n" + pages.of_probe(command, specs_by_id(own)))
        return
    if name in specs:
        sys.stdout.write(pages.of_metric(specs[name]))
        return
    verdicts = {f"{probe}.{VERDICT}": probe for probe in PROBES}
    if name in verdicts:
        sys.stdout.write(pages.of_verdicts(name, question_class(verdicts[name])))
        return
    codes = pages.codes()
    if name not in codes:
        known = [*topics, *commands, *specs, *verdicts, *codes]
        raise UsageError(
            f"nothing is called `{name}`",
            hint=did_you_mean(name, known) or "`vaeprobe explain` lists everything",
        )
    sys.stdout.write(pages.of_code(name))
