"""Published models, measured: a table, and where they lie on the sensitivity law.

    python sample_models/gallery.py FOLDER             # writes sample_models/GALLERY.md and sensitivity.svg
    python sample_models/gallery.py FOLDER celeba      # the rows whose path holds that word alone

FOLDER holds the models under the names below, as their authors published them; the weights are theirs and not part of
this project.  The numbers are facts about them, the picture is ours.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Literal

import numpy as np
import torch

import vaeprobe
from vaeprobe.geometry.sensitivity import FAMILIES, sensitivity
from vaeprobe.intervals import binomial_interval
from vaeprobe.latents import Prior
from vaeprobe.report import Metric

HERE = Path(__file__).parent
PAGE, KEPT = HERE / "GALLERY.md", HERE / "gallery.json"  # the page is written from what was kept
DISVAE = "[disentangling-vae](https://github.com/YannDubs/disentangling-vae), MIT"
RIEMANN = (
    "[Riemannian geometry](https://github.com/shagunuppal/Riemannian_Geometry_of_Deep_Generative_Models), MIT"
)
JOINT = "[beta-vae-demo](https://github.com/jhb300/beta-vae-demo), MIT"
MODELS = {
    **{
        f"disvae/{kind}_{data}/model.pt": (f"{words}, {data}", DISVAE)
        for data in ("mnist", "dsprites")
        for kind, words in (("VAE", "VAE"), ("betaH", "beta-VAE, beta = 4"), ("btcvae", "beta-TCVAE"))
    },
    "jointvae/fashion.pt": ("JointVAE, fashion", JOINT),
    "jointvae/chairs.pt": ("JointVAE, chairs", JOINT),
    "riemann/mnist.pth": ("VAE, mnist", RIEMANN),
    "riemann/celeba.pth": ("VAE, celeba", RIEMANN),
    "inverse_micro/vae.pth": (
        "VAE, microstructures",
        "[inverse-micro](https://github.com/agenerale/inverse-micro), MIT",
    ),
    "goldsmdn_keras/decoder.keras": (
        "VAE (Keras), mnist",
        "[Streamlit](https://github.com/goldsmdn/Streamlit), Apache-2.0",
    ),
    "wgangp/generator.pt": (
        "WGAN-GP generator, mnist",
        "[WGAN-GP](https://github.com/akanametov/WGAN-GP), MIT",
    ),
    "taef2/taef2_decoder.pth": (
        "TAEF2, latents of FLUX.2",
        "[taesd](https://github.com/madebyollin/taesd), MIT",
    ),
}
# the same decoders as other programs keep them: held against their row at the same latents
FORMATS = {
    "formats/btcvae_dsprites_dyn.pt2": "disvae/btcvae_dsprites/model.pt",
    "formats/btcvae_dsprites_script.ts": "disvae/btcvae_dsprites/model.pt",
    "formats/jointvae_fashion.safetensors": "jointvae/fashion.pt",
    "formats/jointvae_fashion_trace.ts": "jointvae/fashion.pt",
    "formats/jointvae_fashion_dynamo.onnx": "jointvae/fashion.pt",
}
LEFT_OUT = {
    "goldsmdn_keras/encoder.keras": "an encoder, from images to latents: the gallery is of decoders",
    "refuse/dcwgan_generator.pkl": "a pickle of classes of its own, which vaeprobe does not import (exit code 4)",
    "refuse/lightning_classifier.ckpt": "a classifier, with settings that would import other packages (exit code 4)",
}
SAMPLES, SEARCHED = 96, 24


@dataclass(frozen=True)
class Measured:
    """What is kept of one model.

    Attributes:
        cells: of the table.
        point: violation and dependence per pair of active latents (nats); None where one is undefined.
        twins, searched: latents that have another with the same output, among so many; 0 and 0 where none was looked for.
    """

    cells: tuple[str, ...]
    point: tuple[float, float] | None
    twins: int
    searched: int


def measure(folder: Path, path: str) -> Measured:
    """Measure one model; of latents with space the channels at one site, the others drawn and given."""
    decoder = vaeprobe.load(folder / path)
    part: Literal["channels", "auto"] = "channels" if decoder.latent_shape else "auto"
    latents = decoder.latent_shape[0] if decoder.latent_shape else len(decoder.continuous)
    o = vaeprobe.orthogonality(decoder, part=part, samples=SAMPLES, rotations=99, restarts=1, seed=0)
    most = max(SAMPLES, 3 * latents)
    f = vaeprobe.factorise(
        decoder, part=part, samples=most, max_samples=most, permutations=19, sheets=SEARCHED, seed=0
    )
    found = f["factorise.sheets"]
    searched = (found.n or 0) if isinstance(found.value, float) else 0
    return Measured(
        row(path, o, f, latents, math.prod(decoder.latent_shape) > latents),
        point(f),
        round(float(found.value) * searched) if isinstance(found.value, float) else 0,
        searched,
    )


def row(
    path: str, o: vaeprobe.result.Result, f: vaeprobe.result.Result, latents: int, space: bool
) -> tuple[str, ...]:
    """Return the cells of a model's row."""
    name, source = MODELS[path]
    what = "channels" if space else ""
    return (
        f"{name}<br>*{source}*",
        f"{o['latents.active'].value} of {latents} {what}".strip(),
        shown(o["orthogonality.ima_contrast"]),
        shown(o["orthogonality.ima_contrast_null"]),
        shown(o["orthogonality.alignment"]),
        shown(o["orthogonality.alignment_p"], 2),
        shown(f["factorise.dependence"]),
        shown(f["factorise.explained"]),
        shown(f["factorise.sheets"], 2),
        f"{o.verdict}, {f.verdict}",
    )


def apart(folder: Path, path: str, other: str) -> float:
    """Return the largest difference of two decoders' outputs, over 16 latents of the prior (outputs lie in [0, 1])."""
    one, two = vaeprobe.load(folder / path), vaeprobe.load(folder / other)
    z = Prior().draw(two, 16)
    return float((one(z.to(one.dtype)).double() - two(z.to(two.dtype)).double()).abs().max())


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
        *(f"| {' | '.join(row.cells)} |" for row in rows),
    ]
    return "\n".join(lines)


def twins(rows: Sequence[Measured]) -> str:
    """Return, of all models together, how many latents have another with the same output."""
    hits, searched = sum(row.twins for row in rows), sum(row.searched for row in rows)
    if not searched:
        return "At no latent was another with the same output looked for."
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


def point(f: vaeprobe.result.Result) -> tuple[float, float] | None:
    """Return where a model lies, per pair of active latents; None where a number is undefined."""
    gap, cross, dependence = (f[f"factorise.{k}"].value for k in ("gap", "modulation", "dependence"))
    active = f["latents.active"].value
    if not all(isinstance(v, float) for v in (gap, cross, dependence)) or not isinstance(active, int):
        return None
    pairs = active * (active - 1) / 2
    return max(gap / pairs, cross**2), dependence / pairs  # type: ignore[operator]


def page(rows: Sequence[Measured], formats: Mapping[str, float]) -> str:
    """Return the gallery as a page."""
    return f"""# Published models, measured

Written by `python sample_models/gallery.py FOLDER` with vaeprobe {vaeprobe.__version__}: {SAMPLES} latents from the prior for each
model, in the Euclidean metric of its outputs. The weights are their authors', named with each; none is part of this project.

**c** is the ima contrast at the latent axes, beside that of **random axes** of the same latent space; **alignment** compares the
two (1: perfect, 0: no better than random), with its p-value. **Dependence** is a lower bound of the total correlation
of the log seam factors, **explained** the share of the log-density's variance that the factors explain. **Twins**: the share of {SEARCHED}
latents that have another latent with the same output. Intervals are of 95 %. *entangled* and *dependent* are strict verdicts;
the numbers between rank what all fail. Of a model whose latents have space the row is of the channels: one rotation of them, the same at
every site, for c and its null; those at one site, the others drawn and given, for the rest.

{table(rows)}

{twins(rows)}

## Other formats, and what is left out

The decoders above as other programs keep them: the largest difference of their outputs at 16 latents of the prior.

{chr(10).join(f"- `{path}`: {f'{far:.0e} from' if far else 'the same numbers as'} `{FORMATS[path]}`" for path, far in formats.items())}

Not measured:

{chr(10).join(f"- `{path}`: {why}" for path, why in LEFT_OUT.items())}

## On the sensitivity law

How much dependence of the seam factors a violation of C1 (the gap) and C2 (the cross) buys: curves are maps of two latents in closed form
(`vaeprobe.geometry.sensitivity`), points the models above, per pair of active latents.

![Dependence against violation: curves of exact families, points of published models](sensitivity.svg)
"""


def kept() -> tuple[dict[str, Measured], dict[str, float]]:
    """Return what was measured of models, and of the same in other formats, by path."""
    found = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {"models": {}, "formats": {}}
    models = {
        path: Measured(
            tuple(m["cells"]), tuple(m["point"]) if m["point"] else None, m["twins"], m["searched"]
        )
        for path, m in found["models"].items()
    }
    return models, found["formats"]


def write(models: Mapping[str, Measured], formats: Mapping[str, float]) -> None:
    """Keep what was measured, and write the page and the picture."""
    models = {path: models[path] for path in MODELS if path in models}
    formats = {path: formats[path] for path in FORMATS if path in formats}
    body = {"models": {path: asdict(m) for path, m in models.items()}, "formats": formats}
    KEPT.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    points = [(MODELS[path][0], *m.point) for path, m in models.items() if m.point]
    (HERE / "sensitivity.svg").write_text(figure(points), encoding="utf-8")
    PAGE.write_text(page(list(models.values()), formats), encoding="utf-8")


def main(folder: Path, words: Sequence[str] = ()) -> None:
    torch.set_num_threads(1)
    for path in (*MODELS, *FORMATS):
        if words and not any(word in path for word in words):
            continue
        if not (folder / path).exists():
            print(f"no {path}: left as it is", file=sys.stderr)
            continue
        models, formats = kept()
        if path in MODELS:
            models[path] = measure(folder, path)
            print(path, *models[path].cells[1:], flush=True)
        else:
            formats[path] = apart(folder, path, FORMATS[path])
            print(path, formats[path], flush=True)
        write(models, formats)  # what is done is kept at once


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
