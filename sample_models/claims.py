"""The paper, claim by claim: train what is needed, measure, and say what holds.

    python sample_models/claims.py                 # every claim, some minutes; writes sample_models/CLAIMS.md
    python sample_models/claims.py eq10 beta       # some of them, to the terminal alone
    python sample_models/claims.py --full          # more seeds, more steps: hours; what is done is kept at once
    python sample_models/claims.py --full beta -w  # one of them, and its row on the page
    python sample_models/claims.py --list

A verdict is reached by a rule that stands in the code: *holds* where the whole 95 %
interval is on the claimed side of a bound, *in expectation* or *needs a condition* where it is not but the interval of
the statement on average, or under the condition, is, *fails* where it is not either, and *open* where an interval
contains the bound.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vaeprobe import __version__

from paper import linear, maps, trained
from paper.claim import FULL, SMALL, USUAL, Claim, Effort, Evidence, Part, as_record, from_record

PAGE = Path(__file__).parent / "CLAIMS.md"
KEPT = (
    Path(__file__).parent / "claims.json"
)  # what the page is written from: a claim measured anew replaces its row
CLAIMS: tuple[Claim, ...] = (*trained.CLAIMS, *linear.CLAIMS, *maps.CLAIMS)


def number(value: float) -> str:
    """Return a number as a table shows it."""
    if value and not 1e-3 <= abs(value) < 1e4:
        return f"{value:.1e}"
    return f"{value:.3g}"


def measured(part: Part) -> tuple[str, str]:
    """Return what a part measured, and its interval."""
    sign = "<" if part.side == "under" else ">"
    interval = "exact" if part.ci is None else f"{number(part.ci[0])} .. {number(part.ci[1])}"
    return f"{part.what}: {number(part.value)} ({sign} {part.limit:g})", interval


def cell(*lines: str) -> str:
    """Return lines as one cell of a table."""
    return "<br>".join(line.replace("|", "\\|") for line in lines)


@dataclass(frozen=True)
class Row:
    """A claim as the page holds it.

    Attributes:
        claim, evidence, effort: what was measured, and how.
        short: verdict of the short run where the row is of the full one; None where it was not run.
    """

    claim: Claim
    evidence: Evidence
    effort: Effort
    short: str | None = None

    @property
    def flips(self) -> bool:
        """Whether the short run ends in another verdict."""
        return self.short not in (None, self.evidence.verdict)


def kept() -> list[Row]:
    """Return the rows of the page, in the order of the claims."""
    records = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    return [
        Row(claim, *from_record(records[claim.name]), records[claim.name].get("short"))
        for claim in CLAIMS
        if claim.name in records
    ]


def keep(claim: Claim, evidence: Evidence, effort: Effort) -> None:
    """Write a row beside those of other claims, and the page; of a short run beside a full row the verdict alone."""
    rows = {row.claim.name: row for row in kept()}
    old = rows.get(claim.name)
    if old is not None and old.effort == FULL and effort == USUAL:
        rows[claim.name] = replace(old, short=evidence.verdict)
    else:
        short = old.short if old is not None and old.effort == FULL else None
        if old is not None and old.effort == USUAL and effort == FULL:
            short = old.evidence.verdict
        rows[claim.name] = Row(claim, evidence, effort, short)
    found = {name: {**as_record(r.evidence, r.effort), "short": r.short} for name, r in rows.items()}
    KEPT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(kept()), encoding="utf-8")


def repeat(claim: Claim, effort: Effort) -> str:
    """Return the command that measures a claim with this effort."""
    return f"claims.py {claim.name}{' --full' if effort == FULL else ''}"


def table(rows: Sequence[Row]) -> str:
    """Return the table of claims, as Markdown."""
    lines = [
        "| claim | in the paper | measured (bound) | 95 % interval | verdict | repeat with |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        claim, evidence = row.claim, row.evidence
        parts = [evidence.claimed, *([evidence.instead] if evidence.instead else []), *evidence.beside]
        numbers, intervals = zip(*map(measured, parts), strict=True)
        cells = (
            cell(claim.statement, *([f"*{claim.note}*"] if claim.note else [])),
            f"{claim.equation} ({claim.version})",
            cell(*numbers),
            cell(*intervals),
            cell(f"**{evidence.verdict}**", *([f"*short run: {row.short}*"] if row.flips else [])),
            f"`{repeat(claim, row.effort)}`",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def efforts(rows: Sequence[Row]) -> str:
    """Return of which effort the rows are, and how many verdicts the short run repeats."""
    full, both = [r for r in rows if r.effort == FULL], [r for r in rows if r.short is not None]
    words = [f"{len(full)} of {len(rows)} rows are of the full run ({FULL.words})"]
    if len(full) < len(rows):
        words.append(f"the others, which do not say `--full`, of the short one ({USUAL.words})")
    if both:
        same = sum(not r.flips for r in both)
        words.append(
            f"the short run ({USUAL.words}; the same command without `--full`) ends in the same verdict for {same} of "
            f"{len(both)}"
            + ("" if same == len(both) else "; where it does not, the row says in which it ends")
        )
    return textwrap.fill("; ".join(words) + ".", 120)


def page(rows: Sequence[Row]) -> str:
    """Return the page of all claims."""
    return f"""# The paper's claims, measured

Claims of *Unpicking Data at the Seams: VAEs, Disentanglement and Independent Components* (Carl Allen, arXiv:2410.22559),
since retitled *Disentanglement as Identifiable Pushforward Factorisation*; equations and theorems are numbered as in its
first version (v1), and the author's v6 and v7 state the condition C2 that Theorem 2 needs. Written by
`python sample_models/claims.py` with vaeprobe {__version__}. Each row repeats by the command that ends it.
{efforts(rows)}

How to read a row: the first number is the claim's, beside the bound that makes it true or false; bounds are those of the
program's own verdicts where there are any (rms cosine 0.05, alignment 0.2). A claim *holds* where the whole 95 % interval is on the claimed side of the bound. Where it does not, the second number is that of
the statement *in expectation* or *under a condition*, which the claim names after its semicolon. Further numbers decide
nothing. A row says what these small models and maps do: it is evidence for or against a claim, and a proof of neither,
except where the number is exact.

{table(rows)}

Small models: one hidden layer of 48 tanh units, Adam with a cosine step size. Data: scikit-learn's 8 x 8 digits, points of
two known factors, normal rows of known covariance, and maps in closed form. To cite the
paper and this program: `vaeprobe explain --bibtex`.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The paper, claim by claim.")
    parser.add_argument("names", nargs="*", metavar="CLAIM", help="claims to measure (default: all)")
    parser.add_argument("--full", action="store_true", help="20 seeds and 6000 steps: hours")
    parser.add_argument("--small", action="store_true", help="seconds; most verdicts stay open")
    parser.add_argument("--list", action="store_true", help="names and statements alone")
    parser.add_argument(
        "-w", "--write", action="store_true", help=f"put rows on {PAGE.name} (the default with all claims)"
    )
    asked = parser.parse_args(arguments)
    if asked.list:
        for claim in CLAIMS:
            print(f"{claim.name:18} {claim.equation:38} {claim.statement}")
        return 0
    known = {claim.name: claim for claim in CLAIMS}
    unknown = [name for name in asked.names if name not in known]
    if unknown:
        parser.error(f"no claim is called {unknown[0]}; --list names them")
    effort = FULL if asked.full else SMALL if asked.small else USUAL
    torch.set_num_threads(1)
    write = asked.write or (not asked.names and effort != SMALL)
    for claim in [known[name] for name in asked.names] or CLAIMS:
        evidence = claim.measure(effort)
        if write:
            keep(claim, evidence, effort)
        print(f"{claim.name}: {evidence.verdict}")
        print(f"  {claim.statement}  [{claim.equation}]")
        for part in (evidence.claimed, evidence.instead, *evidence.beside):
            if part:
                print("  - {}   {}".format(*measured(part)))
        sys.stdout.flush()
    if write:
        print(f"wrote {PAGE} and {KEPT}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
