"""Theorem 3 on circles: what beta does to a VAE, sigma^2 does too, and only their product shows.

Trains small VAEs on points of two concentric circles in the plane (after Rezende and Viola 2018, "Taming VAEs")
with a fixed Gaussian likelihood, once by sigma^2 at beta = 1 and once by beta at sigma^2 = 0.01, recovers
beta sigma^2 from each encoder, and draws the reconstructions (Allen 2024, Figure 3): the larger the product,
the more the posteriors of neighbours overlap and the more the circles shrink into their means.

    python sample_models/circles.py          # two minutes; prints the table, writes circles.svg
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from train_betas import TrainedVAE, train

from vaeprobe.decoder import Decoder, Encoder
from vaeprobe.probes.beta import Beta

PRODUCTS = (0.003, 0.01, 0.03, 0.1, 0.3)
SIGMA2 = 0.01
FILE = Path(__file__).with_name("circles.svg")
PANEL = 150  # pixels


@dataclass(frozen=True)
class Trained:
    """One trained model: its beta and sigma2, what was recovered, and reconstructions of the data."""

    beta: float
    sigma2: float
    estimate: float | None
    ci: tuple[float, float] | None
    overlap: float
    reconstruction: Tensor


def circles(n: int = 512) -> Tensor:
    """Return points on circles of radius 1 and 0.5, shape (n, 2), float32."""
    angle = torch.linspace(0, 2 * math.pi, n // 2 + 1)[:-1]
    ring = torch.stack([angle.cos(), angle.sin()], dim=1)
    return torch.cat([ring, 0.5 * ring])


def measured(x: Tensor, beta: float, sigma2: float, *, steps: int) -> Trained:
    """Train one VAE and recover beta sigma^2 from it."""
    vae: TrainedVAE = train(x, "gaussian", beta, sigma2=sigma2, latents=2, width=64, steps=steps)

    def encode(rows: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = vae.encoder(rows).chunk(2, 1)
        return mean, log_variance

    decoder = Decoder(vae.decoder, 2, likelihood="gaussian", encoder=Encoder(encode, 2, input_shape=(2,)))
    result = Beta(data=x).measure(decoder)
    product, overlap = result["beta.estimate"], result["posterior.overlap"].value
    assert isinstance(overlap, float)
    mean, _ = encode(x)
    return Trained(
        beta=beta,
        sigma2=sigma2,
        estimate=product.value if isinstance(product.value, float) else None,
        ci=product.ci,
        overlap=overlap,
        reconstruction=vae.decoder(mean),
    )


def both_ways(products: Sequence[float] = PRODUCTS, *, steps: int = 1500) -> list[tuple[Trained, Trained]]:
    """Return, for each product, the model trained by sigma^2 at beta = 1 and the one by beta at sigma^2 = 0.01."""
    x = circles()
    return [
        (measured(x, 1.0, tau, steps=steps), measured(x, tau / SIGMA2, SIGMA2, steps=steps))
        for tau in products
    ]


def figure(pairs: Sequence[tuple[Trained, Trained]], x: Tensor) -> str:
    """Return the figure as SVG: a column per product, data in grey, reconstructions in colour."""
    parts = []
    for column, pair in enumerate(pairs):
        for row, (model, colour) in enumerate(zip(pair, ("#0072b2", "#d55e00"), strict=True)):
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


def main() -> None:
    torch.set_num_threads(1)
    pairs = both_ways()
    print(
        f"{'beta':>8} {'sigma^2':>8} {'product':>8} {'recovered':>10}  {'95 % CI':<18} {'overlap':>8} {'|f| / |x|':>9}"
    )
    x = circles()
    for pair in pairs:
        for model in pair:
            shrunk = float(model.reconstruction.norm(dim=1).mean() / x.norm(dim=1).mean())
            found = "collapsed" if model.estimate is None else f"{model.estimate:.4f}"
            interval = "" if model.ci is None else f"{model.ci[0]:.4f} .. {model.ci[1]:.4f}"
            print(
                f"{model.beta:8g} {model.sigma2:8g} {model.beta * model.sigma2:8g} {found:>10}  {interval:<18} "
                f"{model.overlap:8.3f} {shrunk:9.3f}"
            )
    FILE.write_text(figure(pairs, x), encoding="utf-8")
    print(f"wrote {FILE.name}")


if __name__ == "__main__":
    main()
