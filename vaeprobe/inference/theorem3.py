"""Theorem 3 on circles: what beta does to a VAE, sigma^2 does too, and only their product shows.

Small VAEs are trained on points of two concentric circles in the plane (after Rezende and Viola 2018, "Taming
VAEs", arXiv:1810.00597) with a fixed Gaussian likelihood, once by sigma^2 at beta = 1 and once by beta at sigma^2
= 0.02; beta sigma^2 is recovered from each encoder, and the reconstructions are drawn (Allen 2024, Figure 3).
The two differ in their seeds too: from one seed Adam, which does not see the scale of the objective, would take
both along the very same path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.inference.beta import estimate_beta
from vaeprobe.inference.moments import posterior_moments
from vaeprobe.inference.overlap import nearest_overlap
from vaeprobe.inference.training import train_vae
from vaeprobe.intervals import stream
from vaeprobe.likelihoods import Gaussian
from vaeprobe.report import Json, Section, Svg, Table
from vaeprobe.result import Result
from vaeprobe.writing import write_text

__all__ = ["Theorem3", "Trained", "circles", "figure", "judged", "theorem3"]

SIGMA2 = 0.02
ROWS = 256
RECOVERED = 0.1  # relative error of the product
ALIKE = 0.05  # difference of the sizes
PANEL = 150  # pixels
COLOURS = ("#0072b2", "#d55e00")


@dataclass(frozen=True)
class Trained:
    """One trained model and what its encoder gives away.

    Attributes:
        beta, sigma2: what it was trained at.
        estimate: beta sigma^2 as recovered, None where every latent collapsed.
        ci: its bootstrap interval.
        overlap: mean Bhattacharyya coefficient of each posterior with its nearest neighbour's.
        reconstruction: f(e(x)), shape (n, 2).
        size: mean |f(e(x))| over mean |x|.
    """

    beta: float
    sigma2: float
    estimate: float | None
    ci: tuple[float, float] | None
    overlap: float
    reconstruction: Tensor
    size: float


def circles(n: int = 512) -> Tensor:
    """Return points on circles of radius 1 and 0.5, shape (n, 2), float32."""
    angle = cpu.linspace(0, 2 * math.pi, n // 2 + 1)[:-1]
    ring = torch.stack([angle.cos(), angle.sin()], dim=1)
    return torch.cat([ring, 0.5 * ring])


def trained(x: Tensor, beta: float, sigma2: float, *, steps: int, seed: int = 0) -> Trained:
    """Return one VAE trained on x, shape (n, 2), and what its encoder gives away."""
    vae = train_vae(
        x,
        lambda x, y: -0.5 * (x - y).square().sum(1) / sigma2,
        beta,
        latents=2,
        steps=steps,
        seed=seed,
        description=f"training, beta {beta:g}, sigma^2 {sigma2:g}",
    )
    encoder = Encoder(vae.posterior, 2, input_shape=(2,))
    decoder = Decoder(vae.decoder, 2, likelihood="gaussian", encoder=encoder)
    rows = torch.from_numpy(stream(seed, "data rows").permutation(len(x))[:ROWS])
    moments = posterior_moments(decoder, encoder, x[rows.sort().values], Gaussian(), seed=seed)
    found = estimate_beta(moments, seed=seed)
    reconstruction = vae.decoder(vae.posterior(x)[0])
    return Trained(
        beta=beta,
        sigma2=sigma2,
        estimate=None if found is None else found.stein.value,
        ci=None if found is None else found.stein.ci,
        overlap=float(nearest_overlap(moments.mean, moments.variance).mean()),
        reconstruction=reconstruction,
        size=float(reconstruction.norm(dim=1).mean() / x.norm(dim=1).mean()),
    )


def theorem3(products: Sequence[float] = (0.01, 0.03, 0.1), *, steps: int = 1000, seed: int = 0) -> Theorem3:
    """Return, for each product, a model trained by sigma^2 at beta = 1 and one by beta at sigma^2 = 0.02."""
    x = circles()
    pairs = [
        (
            trained(x, 1.0, tau, steps=steps, seed=seed),
            trained(x, tau / SIGMA2, SIGMA2, steps=steps, seed=seed + 1),
        )
        for tau in products
    ]
    verdict, summary = judged(pairs)
    return Theorem3(
        metrics={},
        verdict=verdict,
        summary=summary,
        settings={"products": list(products), "steps": steps, "seed": seed},
        pairs=pairs,
        x=x,
    )


def judged(pairs: Sequence[tuple[Trained, Trained]]) -> tuple[str, str]:
    """Return the verdict and its sentences: models of one product must agree in everything that was measured."""
    errors = [abs(m.estimate / (m.beta * m.sigma2) - 1) for p in pairs for m in p if m.estimate is not None]
    worst = max(errors, default=0.0)
    gap = max(abs(a.size - b.size) for a, b in pairs)
    one_sided = any((a.estimate is None) != (b.estimate is None) for a, b in pairs)
    if not errors:
        return "collapsed", "Every model collapsed onto the prior: there is no product to recover."
    if one_sided or worst > RECOVERED or gap > ALIKE:
        return "disagree", (
            f"Models of one product differ, by up to {gap:.1%} in the size of their circles, and the product is "
            f"recovered within {worst:.0%} only: train for more steps."
        )
    collapsed = sum(a.estimate is None for a, _ in pairs)
    also = f" At {collapsed} of the products both ways collapse." if collapsed else ""
    return "agree", (
        "beta and sigma^2 do the same to a VAE: models of one product have posteriors that overlap alike and "
        f"circles that shrink alike, and the encoder gives the product away, here within {worst:.1%}.{also}"
    )


@dataclass(frozen=True, kw_only=True)
class Theorem3(Result):
    """Models trained at equal products beta sigma^2, in pairs.

    Attributes:
        pairs: for each product the model trained by sigma^2 and the one trained by beta.
        x: the data, shape (n, 2).
    """

    command: ClassVar[str] = "demo"

    pairs: Sequence[tuple[Trained, Trained]]
    x: Tensor

    def sections(self) -> tuple[Section, ...]:
        table = Table(
            title="beta and sigma^2 on circles, trained here",
            columns=("beta", "sigma^2", "product", "recovered", "95% CI", "overlap", "|f| / |x|"),
            rows=[
                [
                    m.beta,
                    m.sigma2,
                    m.beta * m.sigma2,
                    m.estimate,
                    None if m.ci is None else f"{m.ci[0]:.3g} .. {m.ci[1]:.3g}",
                    m.overlap,
                    m.size,
                ]
                for pair in self.pairs
                for m in pair
            ],
            note="overlap: of nearest posteriors (Bhattacharyya); |f| / |x|: size of the reconstructed circles",
        )
        alt = "Reconstructed circles: those of equal beta sigma^2 look alike, and shrink as it grows."
        return table, Svg(title="Reconstructions (Figure 3)", svg=figure(self.pairs, self.x), alt=alt)

    def details(self) -> Json:
        names = ("beta", "sigma2", "estimate", "ci", "overlap", "size")
        return {"models": [{n: getattr(m, n) for n in names} for pair in self.pairs for m in pair]}

    def files(self) -> Mapping[str, Callable[[Path], None]]:
        return {"figure": lambda path: write_text(path, figure(self.pairs, self.x))}


def figure(pairs: Sequence[tuple[Trained, Trained]], x: Tensor) -> str:
    """Return the figure as SVG: a column per product, data in grey, reconstructions in colour."""
    parts = []
    for column, pair in enumerate(pairs):
        for row, (model, colour) in enumerate(zip(pair, COLOURS, strict=True)):
            cx, cy = (column + 0.5) * PANEL, (row + 0.5) * PANEL + 20
            for points, fill, radius in ((x, "#bbbbbb", 0.8), (model.reconstruction, colour, 1.3)):
                marks = "".join(f"M{cx + 55 * a:.1f} {cy - 55 * b:.1f}h0" for a, b in points[::2].tolist())
                parts.append(
                    f'<path d="{marks}" stroke="{fill}" stroke-width="{2 * radius}" stroke-linecap="round"/>'
                )
            label = f"beta {model.beta:g}, sigma² {model.sigma2:g}"
            parts.append(f'<text x="{cx}" y="{cy + 72}" text-anchor="middle">{label}</text>')
        parts.append(
            f'<text x="{(column + 0.5) * PANEL}" y="14" text-anchor="middle">beta sigma² = '
            f"{pair[0].beta * pair[0].sigma2:g}</text>"
        )
    width, height = PANEL * len(pairs), 2 * PANEL + 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="10"><rect width="100%" height="100%" fill="white"/>'
        + "\n".join(parts)
        + "</svg>\n"
    )
