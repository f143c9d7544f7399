"""Encoders and decoders whose posteriors are known in closed form.

`linear_vae` is the optimum of a linear beta-VAE, every term of which is known; `encoder_of` makes an encoder
of arbitrary posteriors of given data rows, for decoders whose averages under a Gaussian are known.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.likelihoods import Gaussian

SAMPLES = Path(__file__).parents[1] / "sample_models"


def trainer() -> ModuleType:
    """Return the script that trains the sample models of known beta."""
    spec = importlib.util.spec_from_file_location("train_betas", SAMPLES / "train_betas.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, eq=False)
class LinearVAE:
    """The optimum of a linear beta-VAE with a diagonal posterior (Allen 2024, Eqs. 2-4).

    Attributes:
        decoder: z -> W z with its encoder, float64.
        x: data whose covariance (divided by n) has exactly the given eigenvalues, shape (n, m).
        W: shape (m, d); column i is u_i sqrt((lambda_i - beta sigma2)_+), rotated by R.
        variance: posterior variances, shape (d,).
        likelihood: Gaussian of variance sigma2.
    """

    decoder: Decoder
    x: Tensor
    W: Tensor
    variance: Tensor
    likelihood: Gaussian


def exact_data(eigenvalues: Tensor, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return data of zero mean and covariance with these eigenvalues, to rounding, and its eigenvectors."""
    rng = np.random.default_rng(seed)
    Z = torch.from_numpy(rng.standard_normal((n, len(eigenvalues))))
    Z = torch.linalg.qr(Z - Z.mean(0)).Q * n**0.5
    U = torch.linalg.qr(torch.from_numpy(rng.standard_normal((len(eigenvalues), len(eigenvalues))))).Q
    return Z * eigenvalues.sqrt() @ U.T, U


def linear_vae(
    eigenvalues: tuple[float, ...] = (9.0, 4.0, 2.0, 0.3, 0.3, 0.3),
    d: int = 3,
    *,
    beta: float = 1.0,
    sigma2: float = 0.3,
    n: int = 64,
    R: Tensor | None = None,
    factor: float | Tensor = 1.0,
    noise: float = 0.0,
    seed: int = 0,
) -> LinearVAE:
    """Return a linear beta-VAE at its optimum, its latents rotated by R where one is given.

    Args:
        factor: scales 1/Sigma - 1, as if the variances were those of beta / factor.
        noise: sd of the log-variances from row to row; encode the rows in their order, from the first.
        seed: seed of the noise.
    """
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    x, U = exact_data(values, n)
    W = U[:, :d] * (values[:d] - beta * sigma2).clamp_min(0).sqrt()
    W = W if R is None else W @ R
    precision = torch.eye(d, dtype=torch.float64) + W.T @ W / (beta * sigma2)
    variance = 1 / precision.diagonal()  # the best diagonal posterior: mean exact, precisions the diagonal
    mean_map = torch.linalg.solve(precision, W.T) / (beta * sigma2)

    variance = 1 / (1 + (1 / variance - 1) * factor)
    jitter = noise * torch.from_numpy(np.random.default_rng(seed).standard_normal((n, d)))

    def encode(rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows @ mean_map.T, variance.log() + jitter[: len(rows)]

    decoder = Decoder(
        lambda z: z @ W.T,
        d,
        dtype=torch.float64,
        likelihood="gaussian",
        encoder=Encoder(encode, d, input_shape=(len(eigenvalues),), dtype=torch.float64),
    )
    return LinearVAE(decoder, x, W, variance, Gaussian(sigma2))


def encoder_of(mean: Tensor, variance: Tensor) -> Encoder:
    """Return an encoder that gives these posteriors, row by row, shape (n, k) each, for n rows of anything."""
    return Encoder(lambda x: (mean[: len(x)], variance.log()[: len(x)]), mean.shape[1], dtype=torch.float64)
