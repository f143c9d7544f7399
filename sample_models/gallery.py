"""Published models, measured: a table, and where they lie on the sensitivity law.

    python sample_models/gallery.py FOLDER         # writes sample_models/GALLERY.md and sensitivity.svg

FOLDER holds the models under the names below, as their authors published them; the weights are theirs and not part of
this project.  The numbers are facts about them, the picture is ours.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch

import vaeprobe
from vaeprobe.geometry.sensitivity import FAMILIES, sensitivity
from vaeprobe.intervals import binomial_interval
from vaeprobe.report import Metric

HERE = Path(__file__).parent
DISVAE = "[disentangling-vae](https://github.com/YannDubs/disentangling-vae), MIT"
RIEMANN = (
    "[Riemannian geometry](https://github.com/shagunuppal/Riemannian_Geometry_of_Deep_Generative_Models), MIT"
)
MODELS = {
    **{
        f"disvae/{kind}_{data}/model.pt": (f"{words}, {data}", DISVAE)
        for data in ("mnist", "dsprites")
        for kind, words in (("VAE", "VAE"), ("betaH", "beta-VAE, beta = 4"), ("btcvae", "beta-TCVAE"))
    },
    "jointvae/fashion.pt": (
        "JointVAE, fashion",
        "[beta-vae-demo](https://github.com/jhb300/beta-vae-demo), MIT",
    ),
    "riemann/mnist.pth": ("VAE, mnist", RIEMANN),
    "inverse_micro/vae.pth": (
        "VAE, microstructures",
        "[inverse-micro](https://github.com/agenerale/inverse-micro), MIT",
    ),
    "wgangp/generator.pt": (
        "WGAN-GP generator, mnist",
        "[WGAN-GP](https://github.com/akanametov/WGAN-GP), MIT",
    ),
}
SAMPLES, SEARCHED = 96, 24


@dataclass(frozen=True)
class Measured:
    """What is said of one model."""

    name: str
    source: str
    loaded: str
    orthogonality: vaeprobe.result.Result
    factorise: vaeprobe.result.Result


def measure(folder: Path, path: str) -> Measured:
    """Measure one model."""
    decoder = vaeprobe.load(folder / path)
    latents = len(decoder.continuous)
    name, source = MODELS[path]
    preset = "" if decoder.artifact is None else str(decoder.artifact.architecture or "")
    return Measured(
        name,
        source,
        preset,
        vaeprobe.orthogonality(decoder, samples=SAMPLES, rotations=99, restarts=1, seed=0),
        vaeprobe.factorise(
            decoder,
            samples=max(SAMPLES, 3 * latents),
            max_samples=max(SAMPLES, 3 * latents),
            permutations=19,
            sheets=SEARCHED,
            seed=0,
        ),
    )


def shown(metric: Metric, digits: int = 3) -> str:
    """Return a number with its interval, as a table shows it."""
    if not isinstance(metric.value, (int, float)):
        return "undefined"
    value = f"{metric.value:.{digits}g}"
    return value if metric.ci is None else f"{value} ({metric.ci[0]:.{digits}g} .. {metric.ci[1]:.{digits}g})"


def table(rows: Sequence[Measured]) -> str:
    """Return the table, as Markdown."""
    lines = [
        "| model | active | c (nats) | random axes | alignment | p | dependence (nats) | explained | twins | verdicts |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        o, f = row.orthogonality, row.factorise
        cells = (
            f"{row.name}<br>*{row.source}*",
            f"{o['latents.active'].value} of {o['latents.dim'].value}",
            shown(o["orthogonality.ima_contrast"]),
            shown(o["orthogonality.ima_contrast_null"]),
            shown(o["orthogonality.alignment"]),
            shown(o["orthogonality.alignment_p"], 2),
            shown(f["factorise.dependence"]),
            shown(f["factorise.explained"]),
            shown(f["factorise.sheets"], 2),
            f"{o.verdict}, {f.verdict}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def twins(rows: Sequence[Measured]) -> str:
    """Return, of all models together, how many latents have another with the same output."""
    found = [m for row in rows if (m := row.factorise["factorise.sheets"]).defined]
    hits = sum(round(float(m.value) * (m.n or 0)) for m in found)  # type: ignore[arg-type]
    searched = sum(m.n or 0 for m in found)
    low, high = binomial_interval(hits, searched)
    return (
        f"Of {searched} latents at which another with the same output was looked for, {hits} have one "
        f"({hits / searched:.1%}; 95 % interval {low:.1%} to {high:.1%}, latents of all models alike). None found is a bound and "
        "no proof: the search starts from far latents with near outputs."
    )


# -- the sensitivity law ------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, BOTTOM = 640, 400, 70, 50
X, Y = (1e-4, 30.0), (1e-5, 10.0)
COLOURS = {"polar": "#0072b2", "sheared": "#009e73", "turned": "#d55e00"}


def place(x: float, y: float) -> tuple[float, float]:
    """Return where a violation and a dependence lie, both on logarithmic axes, held inside them."""
    u = (math.log(min(max(x, X[0]), X[1])) - math.log(X[0])) / math.log(X[1] / X[0])
    v = (math.log(min(max(y, Y[0]), Y[1])) - math.log(Y[0])) / math.log(Y[1] / Y[0])
    return LEFT + u * (WIDTH - LEFT - 20), HEIGHT - BOTTOM - v * (HEIGHT - BOTTOM - 20)


def figure(points: Sequence[tuple[str, float, float]]) -> str:
    """Return the curves of the exact families and points of models, as SVG.

    Args:
        points: name, violation per pair (nats), dependence per pair (nats).
    """
    parts = []
    for family in FAMILIES:
        law = sensitivity(family, tuple(np.geomspace(0.01, 1.4, 40)))
        size = np.maximum(law.gap, np.square(law.cross))
        line = " ".join(
            f"{x:.1f},{y:.1f}"
            for s, d in zip(size, law.dependence, strict=True)
            if d > Y[0]
            for x, y in [place(float(s), float(d))]
        )
        if line:
            parts.append(
                f'<polyline points="{line}" fill="none" stroke="{COLOURS[family]}" stroke-width="2"/>'
            )
    for k, family in enumerate(FAMILIES):
        word = f"{family}: independent at every size" if family == "sheared" else family
        parts.append(f'<text x="{LEFT + 12}" y="{34 + 18 * k}" fill="{COLOURS[family]}">{word}</text>')
    for name, x, y in points:
        u, v = place(x, y)
        parts.append(
            f'<circle cx="{u:.1f}" cy="{v:.1f}" r="4" fill="#333"><title>{escape(name)}</title></circle>'
        )
        parts.append(
            f'<text x="{u - 7:.1f}" y="{v + 4:.1f}" text-anchor="end" font-size="10">{escape(name)}</text>'
        )
    for tick in (1e-4, 1e-3, 1e-2, 0.1, 1, 10):
        u, _ = place(tick, Y[0])
        parts.append(f'<text x="{u:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:g}</text>')
    for tick in (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10):
        _, v = place(X[0], tick)
        parts.append(f'<text x="{LEFT - 8}" y="{v + 4:.1f}" text-anchor="end">{tick:g}</text>')
    frame = f'<path d="M{LEFT} 20 V{HEIGHT - BOTTOM} H{WIDTH - 20}" fill="none" stroke="#888"/>'
    labels = (
        f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">violation per pair of latents: the larger of gap '
        "and largest cross squared (nats)</text>"
        f'<text x="14" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 14 {HEIGHT / 2})">dependence per pair (nats)</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" role="img">'
        "<title>Dependence of seam factors against violation of C1 and C2</title>"
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>{frame}{"".join(parts)}{labels}</svg>\n'
    )


def point(row: Measured) -> tuple[str, float, float] | None:
    """Return where a model lies, per pair of active latents; None where a number is undefined."""
    f = row.factorise
    gap, cross, dependence = (f[f"factorise.{k}"].value for k in ("gap", "modulation", "dependence"))
    active = f["latents.active"].value
    if not all(isinstance(v, float) for v in (gap, cross, dependence)) or not isinstance(active, int):
        return None
    pairs = active * (active - 1) / 2
    return row.name, max(gap / pairs, cross**2), dependence / pairs  # type: ignore[operator]


def page(rows: Sequence[Measured]) -> str:
    """Return the gallery as a page."""
    return f"""# Published models, measured

Written by `python sample_models/gallery.py FOLDER` with vaeprobe {vaeprobe.__version__}: {SAMPLES} latents from the prior for each
model, in the Euclidean metric of its outputs. The weights are their authors', named with each; none is part of this project.

**c** is the ima contrast at the latent axes, beside that of **random axes** of the same latent space; **alignment** compares the
two (1: perfect, 0: no better than random), with its p-value. **Dependence** is a lower bound of the total correlation
of the log seam factors, **explained** the share of the log-density's variance that the factors explain. **Twins**: the share of {SEARCHED}
latents that have another latent with the same output. Intervals are of 95 %. *entangled* and *dependent* are strict verdicts;
the numbers between rank what all fail.

{table(rows)}

{twins(rows)}

## On the sensitivity law

How much dependence of the seam factors a violation of C1 (the gap) and C2 (the cross) buys: curves are maps of two latents in closed form
(`vaeprobe.geometry.sensitivity`), points the models above, per pair of active latents.

![Dependence against violation: curves of exact families, points of published models](sensitivity.svg)
"""


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rows = []
    for path in MODELS:
        if not (folder / path).exists():
            print(f"no {path}: left out", file=sys.stderr)
            continue
        rows.append(measure(folder, path))
        print(rows[-1].name, rows[-1].orthogonality.verdict, rows[-1].factorise.verdict, flush=True)
    points = [p for row in rows if (p := point(row)) is not None]
    (HERE / "sensitivity.svg").write_text(figure(points), encoding="utf-8")
    (HERE / "GALLERY.md").write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
