"""Train the small VAEs of known beta in `sample_models/betas`: ten models, about three minutes on one core.

Each is a beta-VAE on scikit-learn's 8 x 8 digits (1797 images), trained close to the optimum of

    E_q[log p(x|z)] - beta KL(q(z|x) || N(0, I))

with a fixed seed: a Gaussian likelihood of fixed variance 0.05 on the grey levels in [0, 1], and a Bernoulli
likelihood on the images binarised at one half, at beta = 0.5, 1, 2, 4 and 8.  `manifest.json` keeps the
truth (beta, sigma2, seed) and the sha256 of each file.

    python sample_models/train_betas.py
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "betas"
BETAS = (0.5, 1.0, 2.0, 4.0, 8.0)
SIGMA2 = 0.05
LATENTS = 6
WIDTH = 96
STEPS = 4000


@dataclass(frozen=True)
class TrainedVAE:
    """A trained encoder (its 2 k outputs are the mean, then the log-variance) and decoder (before any sigmoid)."""

    encoder: nn.Sequential
    decoder: nn.Sequential
    loss: float


def digits(likelihood: str) -> Tensor:
    """Return the digits as rows, shape (1797, 64), float32: grey levels in [0, 1], or binarised for Bernoulli."""
    x = torch.from_numpy(load_digits().data / 16.0).float()
    return (x > 0.5).float() if likelihood == "bernoulli" else x


def log_likelihood(x: Tensor, y: Tensor, likelihood: str, sigma2: float) -> Tensor:
    """Return log p(x|y) up to a constant, shape (n,)."""
    if likelihood == "bernoulli":
        return -nn.functional.binary_cross_entropy_with_logits(y, x, reduction="none").sum(1)
    return -0.5 * (x - y).square().sum(1) / sigma2


def train(
    x: Tensor,
    likelihood: str,
    beta: float,
    *,
    sigma2: float = SIGMA2,
    latents: int = LATENTS,
    width: int = WIDTH,
    steps: int = STEPS,
    batch: int = 256,
    seed: int = 0,
) -> TrainedVAE:
    """Return a beta-VAE trained by Adam with a cosine step size; the same seed gives the same weights."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    m = x.shape[1]
    encoder = nn.Sequential(nn.Linear(m, width), nn.ReLU(), nn.Linear(width, 2 * latents))
    decoder = nn.Sequential(nn.Linear(latents, width), nn.ReLU(), nn.Linear(width, m))
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda t: 0.5 * (1 + math.cos(math.pi * t / steps))
    )
    for _ in range(steps):
        rows = x[torch.randint(len(x), (batch,), generator=generator)]
        mean, log_variance = encoder(rows).chunk(2, 1)
        noise = torch.randn(mean.shape, generator=generator)
        z = mean + (0.5 * log_variance).exp() * noise
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        loss = (beta * kl - log_likelihood(rows, decoder(z), likelihood, sigma2)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return TrainedVAE(encoder.eval().requires_grad_(False), decoder.eval().requires_grad_(False), float(loss))
