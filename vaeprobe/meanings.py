"""What numbers, findings and errors mean, as text: `vaeprobe explain` and the README's table of metrics."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from vaeprobe.report import MetricSpec


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a finding's or error's code means, and what to do about it."""

    what: str
    remedy: str


# codes of errors (vaeprobe.errors) and findings; a test holds this against the code
CODES: dict[str, Meaning] = {
    "approximate-p-value": Meaning(
        "The rotation test is exact when the latents' distribution does not change under rotations, as N(0, I) "
        "does not. Latents from posteriors, a grid or a file have no such symmetry.",
        "Read the p-value as a description, or take --latents prior.",
    ),
    "borderline-latents": Meaning(
        "Mean column norms of these latents lie within a factor 1.25 of the line between active and inactive, "
        "so that another sample may count them on the other side, and every contrast moves with it.",
        "Look at the bars and put --active-threshold in a gap; compare models at the same set of latents.",
    ),
    "few-latents": Meaning(
        "The rotation R* has d (d - 1) / 2 angles, and there are few latents to fit them on: R* follows the "
        "sample, and the contrast on held-out latents does not fall as far as it could.",
        "Draw more latents (--samples).",
    ),
    "ill-conditioned": Meaning(
        "The columns, scaled to unit length, are so nearly dependent that the rounding of the network's own "
        "precision shows in contrasts and singular vectors.",
        "Run in double precision: --dtype float64.",
    ),
    "inactive-latents": Meaning(
        "These latents hardly move the output: their Jacobian columns are under 5 % of the longest, on average. "
        "The direction of such a column means nothing, so it is left out of cosines and contrasts.",
        "Many of them mean posterior collapse. --active-threshold moves the line.",
    ),
    "not-converged": Meaning(
        "The search for the best rotation was stopped while it still improved.",
        "Its contrast is an upper bound. Another --restarts or --seed may end earlier.",
    ),
    "not-finite": Meaning(
        "The Jacobian overflows or is NaN at some latents, which are left out of every number.",
        "Use --dtype float64; a decoder that overflows at prior samples often has an exponential output.",
    ),
    "rank-deficient": Meaning(
        "At some latents a column of the Jacobian is zero or depends on others, so that log det G is -inf and the "
        "ima contrast infinite. ReLU and saturated outputs do that. The contrast is averaged over the rest.",
        "Read the mean-field gap, which is finite everywhere, beside it.",
    ),
    "saturated": Meaning(
        "Some outputs are exactly 0 or 1 in the decoder's precision. A Bernoulli has no variance there, so they "
        "carry no weight in the likelihood's metric.",
        "Describe the last activation in the blueprint: the natural parameter does not saturate.",
    ),
    "tied-singular-values": Meaning(
        "Singular values of J coincide at some latents. Singular vectors are arbitrary within such a block, and "
        "are rotated to the nearest axes before they are compared with them.",
        "Use numbers that do without V: cosines, contrast, alignment.",
    ),
}


def _wrap(text: str, indent: str = "  ") -> str:
    return textwrap.fill(" ".join(text.split()), width=79, initial_indent=indent, subsequent_indent=indent)


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


def of_code(name: str, meaning: Meaning) -> str:
    """Return the page of a finding or error code."""
    return f"{name}\n\n{_wrap(meaning.what)}\n\nwhat to do\n{_wrap(meaning.remedy)}\n"


def index(specs: Mapping[str, MetricSpec]) -> str:
    """Return the list of everything that can be explained."""
    width = max(len(name) for name in [*specs, *CODES])
    metrics = [f"  {id.ljust(width)}  {spec.title}" for id, spec in specs.items()]
    codes = [
        f"  {name.ljust(width)}  {textwrap.shorten(m.what, 60, placeholder=' …')}"
        for name, m in sorted(CODES.items())
    ]
    return "\n".join(["metrics", *metrics, "", "findings and errors", *codes]) + "\n"


def markdown_table(specs: Mapping[str, MetricSpec]) -> str:
    """Return the README's table of metrics."""
    from vaeprobe.render.markdown import grid

    better = {"lower": "lower", "higher": "higher", None: ""}
    return grid(
        ["metric", "what it is", "range", "better", "source"],
        [[f"{s.id}", s.title, s.range, better[s.better], s.source] for s in specs.values()],
    )
