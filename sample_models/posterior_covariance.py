"""Diagonal against full-covariance posteriors: the same data, decoder and seed, trained both ways.

The paper's core claim is that the axes come from the diagonal posterior.  Two data sets of known truth, with
factors z ~ N(0, I) and Gaussian noise of standard deviation 0.3:

* linear: x = W z, columns of W orthogonal with lengths 2, 1.4 and 1, in R^8;
* curved: x = E (phi(z_1), phi(z_2)), phi(z) = e^{0.25 z} (cos, sin)(0.9 z), lengths 2 and 0.8, in R^6: independent
  seams that bend, G diagonal at every z.

The encoder and decoder are linear for the first, whose ELBO is known in closed form and maximised by L-BFGS, and
have one hidden layer for the second, trained by Adam.  The encoder gives the mean and either log-variances (diagonal) or a lower-triangular factor L with a positive diagonal (full):
q(z|x) = N(e(x), L L^T).  With the full posterior any rotation of the latent space does equally well, and the axes
that training ends on are those it happened to start from.

    python sample_models/posterior_covariance.py      # writes sample_models/covariance/
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "covariance"
NOISE = 0.3
ROWS = 2000
STEPS = 4000
SEED = 3

Posterior = Literal["diagonal", "full"]


def factors_and_data(truth: str) -> tuple[Tensor, Tensor]:
    """Return the true factors, shape (2000, d), and the data, shape (2000, m), float32."""
    rng = np.random.default_rng(0)
    d, k, m = (3, 3, 8) if truth == "linear" else (2, 4, 6)
    z = rng.standard_normal((ROWS, d))
    E = np.linalg.qr(rng.standard_normal((m, k)))[0]
    if truth == "linear":
        inner = z * np.array([2.0, 1.4, 1.0])
    else:
        size = np.exp(0.25 * z) * np.array([2.0, 0.8])
        inner = np.stack([size * np.cos(0.9 * z), size * np.sin(0.9 * z)], axis=2).reshape(ROWS, 4)
    x = inner @ E.T + NOISE * rng.standard_normal((ROWS, m))
    return torch.from_numpy(z).float(), torch.from_numpy(x).float()


def network(sizes: tuple[int, ...]) -> nn.Sequential:
    """Return linear layers with tanh between."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Tanh(), nn.Linear(a, b)] if layers else [nn.Linear(a, b)]
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Trained:
    """A trained pair; the encoder's first d outputs are the means."""

    encoder: nn.Sequential
    decoder: nn.Sequential


def train(truth: str, posterior: Posterior, *, seed: int = SEED, steps: int = STEPS) -> Trained:
    """Return a VAE trained on one of the data sets with one kind of posterior."""
    z, x = factors_and_data(truth)
    if truth == "linear":
        return train_linear(x, z.shape[1], posterior, seed=seed)
    return train_curved(x, z.shape[1], posterior, seed=seed, steps=steps)


def train_linear(x: Tensor, d: int, posterior: Posterior, *, seed: int) -> Trained:
    """Maximise the linear VAE's exact ELBO over decoder W, encoder A and the shared posterior covariance."""
    X = (x - x.mean(0)).double()
    S, m = X.T @ X / len(X), x.shape[1]
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(m, d, generator=generator, dtype=torch.float64).requires_grad_(True)
    A = (0.1 * torch.randn(d, m, generator=generator, dtype=torch.float64)).requires_grad_(True)
    log_sd = torch.zeros(d, dtype=torch.float64, requires_grad=True)
    below = torch.zeros(d, d, dtype=torch.float64, requires_grad=True)
    free = [W, A, log_sd, *([below] if posterior == "full" else [])]
    optimiser = torch.optim.LBFGS(
        free, max_iter=3000, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        L = torch.diag(log_sd.exp()) + below.tril(-1)
        left = torch.eye(m, dtype=torch.float64) - W @ A
        error = (left @ S @ left.T).trace() + (W @ L).square().sum()
        kl = 0.5 * (L.square().sum() + (A @ S @ A.T).trace() - d) - log_sd.sum()
        total: Tensor = 0.5 * error / NOISE**2 + kl
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(loss)
    encoder, decoder = network((m, 2 * d)), network((d, m))
    with torch.no_grad():
        encoder[0].weight.copy_(torch.cat([A, torch.zeros(d, m)]))
        encoder[0].bias.copy_(torch.cat([-A @ x.mean(0).double(), log_sd]))
        decoder[0].weight.copy_(W)
        decoder[0].bias.copy_(x.mean(0))
    return Trained(encoder.eval().requires_grad_(False), decoder.eval().requires_grad_(False))


def train_curved(x: Tensor, d: int, posterior: Posterior, *, seed: int, steps: int) -> Trained:
    """Train by Adam on the reparametrised ELBO, with a cosine step size."""
    m = x.shape[1]
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    outputs = 2 * d if posterior == "diagonal" else 2 * d + d * (d - 1) // 2
    encoder, decoder = network((m, 48, outputs)), network((d, 48, m))
    below = torch.tril_indices(d, d, -1)
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda t: 0.5 * (1 + math.cos(math.pi * t / steps))
    )
    for _ in range(steps):
        some = x[torch.randint(len(x), (256,), generator=generator)]
        out = encoder(some)
        mean, log_scale = out[:, :d], out[:, d : 2 * d]
        L = torch.diag_embed(log_scale.exp())
        if posterior == "full":
            L[:, below[0], below[1]] = out[:, 2 * d :]
        noise = torch.randn(mean.shape, generator=generator)
        code = mean + torch.einsum("nij,nj->ni", L, noise)
        kl = 0.5 * (mean.square().sum(1) + L.square().sum((1, 2)) - d) - log_scale.sum(1)
        loss = (kl + 0.5 * (some - decoder(code)).square().sum(1) / NOISE**2).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return Trained(encoder.eval().requires_grad_(False), decoder.eval().requires_grad_(False))


def matched_correlation(codes: Tensor, factors: Tensor) -> float:
    """Return the mean absolute rank correlation of factors with the codes they are best matched to (1: axes found)."""
    from scipy.optimize import linear_sum_assignment
    from scipy.stats import spearmanr

    d = factors.shape[1]
    correlation = np.abs(spearmanr(codes.numpy(), factors.numpy()).statistic[:d, d:])
    rows, columns = linear_sum_assignment(-correlation)
    return float(correlation[rows, columns].mean())


def blueprint(truth: str, posterior: Posterior, d: int, m: int) -> str:
    """Return the blueprint; a full-covariance encoder is not one that a blueprint describes."""
    layers = '[{ linear = "0" }]' if truth == "linear" else '[{ linear = "0" }, "tanh", { linear = "2" }]'
    text = f'latents = {d}\nlikelihood = "gaussian"\n\n[decoder]\nprefix = "decoder."\nlayers = {layers}\n'
    if posterior == "full":
        return text
    return (
        f'{text}\n[encoder]\nprefix = "encoder."\ninput = [{m}]\nlayers = {layers}\noutput = "chunked"\n'
        'second = "log_sd"\n'
    )


def main() -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    models = []
    for truth in ("linear", "curved"):
        factors, x = factors_and_data(truth)
        np.save(FOLDER / f"{truth}.npy", x[:500].numpy())
        for posterior in ("diagonal", "full"):
            vae = train(truth, posterior)
            codes = vae.encoder(x)[:, : factors.shape[1]]
            path = FOLDER / f"{truth}_{posterior}.safetensors"
            tensors = {f"decoder.{k}": v.contiguous() for k, v in vae.decoder.state_dict().items()}
            if posterior == "diagonal":
                tensors |= {f"encoder.{k}": v.contiguous() for k, v in vae.encoder.state_dict().items()}
            text = blueprint(truth, posterior, factors.shape[1], x.shape[1])
            save_file(tensors, path, metadata={"vaeprobe.blueprint": text})
            path.chmod(0o644)
            models.append(
                {
                    "file": path.name,
                    "data": f"{truth}.npy",
                    "truth": truth,
                    "posterior": posterior,
                    "beta": 1.0,
                    "sigma2": NOISE**2,
                    "seed": SEED,
                    "matched_rank_correlation": round(matched_correlation(codes, factors), 4),
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                }
            )
            print(path.name, models[-1]["matched_rank_correlation"])
    (FOLDER / "manifest.json").write_text(json.dumps({"models": models}, indent=2) + "\n")


if __name__ == "__main__":
    # what is asked for help, or given a word that it does not know, trains nothing
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
