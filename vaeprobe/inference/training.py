"""A small beta-VAE trained here, for demonstrations whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from vaeprobe import cpu
from vaeprobe.progress import track

__all__ = ["TrainedVAE", "train_vae"]


@dataclass(frozen=True)
class TrainedVAE:
    """A trained encoder (its 2k outputs are the means, then the log-variances) and decoder (before any sigmoid)."""

    encoder: nn.Sequential
    decoder: nn.Sequential

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior means and log-variances of data rows, each of shape (n, k)."""
        mean, log_variance = self.encoder(x).chunk(2, 1)
        return mean, log_variance


def train_vae(
    x: Tensor,
    log_likelihood: Callable[[Tensor, Tensor], Tensor],
    beta: float,
    *,
    latents: int,
    width: int = 64,
    steps: int,
    batch: int = 256,
    seed: int = 0,
    description: str = "training",
) -> TrainedVAE:
    """Return a beta-VAE trained by Adam with a cosine step size; the same seed gives the same weights.

    Encoder and decoder have one hidden layer of ReLUs, and the posterior is a diagonal Gaussian.

    Args:
        x: data rows, shape (n, m), float32.
        log_likelihood: takes data and decoder outputs, both (b, m), returns log p(x|y) up to a constant, (b,).
        beta: weight of the KL.
        latents, width: sizes of the latent space and of the hidden layers.
        steps, batch: Adam steps, and rows drawn for each.
        seed: seed of weights, batches and noise; the global random state is left alone.
    """
    generator = torch.Generator().manual_seed(seed)
    m = x.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = partial(nn.Linear, device="cpu", dtype=torch.float32)
        encoder = nn.Sequential(layer(m, width), nn.ReLU(), layer(width, 2 * latents))
        decoder = nn.Sequential(layer(latents, width), nn.ReLU(), layer(width, m))
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda t: 0.5 * (1 + math.cos(math.pi * t / steps))
    )
    for _ in track(range(steps), description):
        some = x[cpu.randint(len(x), (batch,), generator=generator)]
        mean, log_variance = encoder(some).chunk(2, 1)
        noise = cpu.randn(mean.shape, generator=generator)
        z = mean + (0.5 * log_variance).exp() * noise
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        loss = (beta * kl - log_likelihood(some, decoder(z))).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return TrainedVAE(encoder.eval().requires_grad_(False), decoder.eval().requires_grad_(False))
