"""Rows with a known covariance, for the tests of linear VAEs."""

from __future__ import annotations

import math

import numpy as np

LAMBDA = (9.0, 5.0, 3.0, 1.5, 0.5, 0.3, 0.2)


def rows_with(values: tuple[float, ...], n: int = 400, offset: float = 0.0, seed: int = 0) -> np.ndarray:
    """Rows whose covariance (divided by n) has exactly these eigenvalues."""
    rng = np.random.default_rng(seed)
    m = len(values)
    white = rng.normal(size=(n, m))
    white -= white.mean(axis=0)
    white = white @ np.linalg.inv(np.linalg.cholesky(white.T @ white / n)).T
    Q = np.linalg.qr(rng.normal(size=(m, m)))[0]
    return (white * np.sqrt(values)) @ Q.T + offset


def dense_loglik(X: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    Y = X - mean
    log_det = np.linalg.slogdet(covariance)[1]
    square = np.einsum("ij,ij->i", Y, np.linalg.solve(covariance, Y.T).T)
    return float(-0.5 * (X.shape[1] * math.log(2 * math.pi) + log_det + square).mean())
