"""How many latents: Minka's evidence, BIC and held-out likelihood, all reported; one chosen and named."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from vaeprobe.budget import budget, pause, timely
from vaeprobe.errors import InputError
from vaeprobe.linear import spectrum as spectra
from vaeprobe.linear.closed_form import LOG_2PI
from vaeprobe.linear.eigenpairs import Spectrum
from vaeprobe.linear.moments import Moments, accumulate, total
from vaeprobe.processes import ALONE, Processes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vaeprobe.data import Data
    from vaeprobe.linear.moments import Array

FOLDS = 5
Criterion = Literal["minka", "bic", "held-out"]


@dataclass(frozen=True, eq=False)
class DimensionScores:
    """Scores of PPCA with k = 1, 2, ... latents.

    Attributes:
        candidates: the k's, shape (c,).
        minka: log evidence by Laplace's method, nats; None where it is not defined.
        bic: Bayesian information criterion, lower is better.
        held_out: log-likelihood of rows left out, mean over folds, nats per row; None where not computed.
        by: the criterion that chose.
        dimension: its choice.
        reason: why that criterion.
    """

    candidates: NDArray[np.int64]
    minka: Array | None
    bic: Array
    held_out: Array | None
    by: Criterion
    reason: str

    def best(self, criterion: Criterion) -> int | None:
        """Return what a criterion would choose, or None where it is not defined."""
        scores = {"minka": self.minka, "bic": -self.bic, "held-out": self.held_out}[criterion]
        return None if scores is None else int(self.candidates[int(np.argmax(scores))])

    @property
    def dimension(self) -> int:
        chosen = self.best(self.by)
        assert chosen is not None
        return chosen


def choose(spectrum: Spectrum, data: Data, *, seed: int = 0, processes: Processes = ALONE) -> DimensionScores:
    """Return the scores of all dimensions and a choice.

    Minka's evidence chooses where it is defined and has its maximum inside the candidates (on real data it
    often runs to the last one, where hardly any noise is left); else held-out likelihood; else BIC.

    Raises:
        InputError: the rows are too few, or lie in too few dimensions, to leave any noise over.
    """
    values, n, m = spectrum.values, spectrum.n, spectrum.free  # a constant column says nothing about noise
    top = min(m - 1, n - 2, spectrum.rank - (0 if spectrum.rank < len(values) else 1), len(values))
    some = top
    while top > 0 and spectrum.rest(top) <= spectrum.resolution * (m - top):
        top -= 1
    if top < 1:
        raise InputError(
            f"{n} rows of {spectrum.m} columns leave no noise to choose a dimension by",
            hint="give --latent-dim a number"
            + ("" if spectrum.m > 1 and n > 2 else ", and --sigma2 another"),
        )
    candidates = np.arange(1, top + 1)
    minka = minka_evidence(values, n, m)[:top] if spectrum.complete and n > m else None
    inside = minka is not None and int(np.argmax(minka)) + 1 < top

    def held_out() -> Array | None:
        return _held_out(data, spectrum, top, seed, processes)

    held = timely(held_out) if inside else held_out()  # beside Minka's evidence it is only shown
    by: Criterion
    if inside:
        by, reason = "minka", "Minka's evidence"
        if budget().over and held is None:
            reason = f"{reason}, beside which no time was left for held-out likelihood"
    elif held is not None:
        by = "held-out"
        why = "needs more rows than columns" if minka is None else "runs to the last candidate"
        reason = f"held-out likelihood, for Minka's evidence {why}"
    else:
        by, reason = "bic", "BIC, for the spectrum is known in part only"
    if top < some:
        reason += f"; {top + 1} latents fit the rows exactly, with no noise"
    return DimensionScores(candidates, minka, bic(spectrum, top), held, by, reason)


def profile_loglik(spectrum: Spectrum, top: int) -> Array:
    """Return PPCA's maximum log-likelihood per row for k = 1..top latents, nats."""
    k = np.arange(1, top + 1)
    m, logs = spectrum.free, np.cumsum(np.log(spectrum.values[:top]))
    noise = spectrum.noise(top)
    return np.asarray(-0.5 * (m * (LOG_2PI + 1) + logs + (m - k) * np.log(noise)))


def bic(spectrum: Spectrum, top: int) -> Array:
    """Return -2 n loglik + p log n for k = 1..top, p = m (mean) + m k - k (k - 1) / 2 (columns) + 1 (sigma^2)."""
    k = np.arange(1, top + 1)
    m, n = spectrum.free, spectrum.n
    p = m + m * k - k * (k - 1) / 2 + 1
    return np.asarray(-2 * n * profile_loglik(spectrum, top) + p * math.log(n))


def minka_evidence(values: Array, n: int, m: int) -> Array:
    """Return the log evidence of k = 1..m-1 latents by Laplace's method (Minka 2000, Eq. 30), nats.

    Args:
        values: all m eigenvalues, descending.
    """
    eps = np.finfo(np.float64).eps
    full = np.zeros(m)
    full[: min(len(values), m)] = values[:m]
    full = np.maximum(full, eps**2 * full[0])
    k = np.arange(1, m)
    noise = np.cumsum(full[::-1])[::-1][1:] / (m - k)
    j = np.arange(1, m)
    uniform = -k * math.log(2) + np.cumsum([math.lgamma((m - i + 1) / 2) for i in j])
    uniform = uniform - np.cumsum(math.log(math.pi) * (m - j + 1) / 2)
    fit = -0.5 * n * (np.cumsum(np.log(full))[:-1] + (m - k) * np.log(noise))
    volume = 0.5 * math.log(2 * math.pi) * (m * k - k * (k + 1) / 2 + k)
    # log det of the Hessian: pairs (i, j) with i <= k, the discarded eigenvalues replaced by their mean
    above = np.triu(np.ones((m, m), bool), 1)
    least = eps * full[:, None]  # equal eigenvalues differ by their rounding
    differences = np.log(np.maximum(full[:, None] - full[None, :], least), where=above, out=np.zeros((m, m)))
    inverse = 1 / full
    curvature = np.log(
        np.maximum(inverse[None, :] - inverse[:, None], eps * inverse[None, :]),
        where=above,
        out=np.zeros((m, m)),
    )
    spread = np.cumsum(differences.sum(axis=1))[:-1]
    inner = np.cumsum(curvature.sum(axis=0))[:-1]
    outer = np.array(
        [(m - q) * np.log(np.maximum(1 / noise[q - 1] - inverse[:q], eps / noise[q - 1])).sum() for q in k]
    )
    pairs = m * k - k * (k + 1) / 2
    hessian = spread + inner + outer + pairs * math.log(n)
    return np.asarray(uniform + fit + volume - 0.5 * hessian - 0.5 * k * math.log(n))


def _held_out(data: Data, spectrum: Spectrum, top: int, seed: int, processes: Processes) -> Array | None:
    if spectrum.solver == "exact":
        parts = spectrum.parts
        if len(parts) != FOLDS:
            parts = accumulate(data, folds=FOLDS, seed=seed, processes=processes)
        if min(p.n for p in parts) < 1 or spectrum.n < 2 * FOLDS:
            return None
        scores = []
        for k, test in enumerate(parts):
            pause()
            train = spectra.of_moments(total((*parts[:k], *parts[k + 1 :])))
            scores.append(_score(train, test, top))
        return np.asarray(np.mean(scores, axis=0))
    if spectrum.solver == "dual" and spectrum.n >= 2 * FOLDS:
        from vaeprobe.data import in_memory
        from vaeprobe.intervals import stream

        rows = data.read(dtype=np.float64).reshape(-1, data.columns)
        owner = stream(seed, "folds").permutation(len(rows)) % FOLDS
        scores = []
        for k in range(FOLDS):
            pause()
            train = spectra.compute(in_memory(rows[owner != k]), top, solver="dual")
            test_rows = rows[owner == k]
            mean = test_rows.mean(axis=0)
            centred = test_rows - mean
            scores.append(_score_rows(train, centred, mean, top))
        return np.asarray(np.mean(scores, axis=0))
    return None


def _score(train: Spectrum, test: Moments, top: int) -> Array:
    step = test.mean - train.mean
    U = train.vectors[:, :top]
    along = np.einsum("ij,ij->j", U, test.covariance @ U) + (step @ U) ** 2
    return _gaussian(train, along, float(np.trace(test.covariance) + step @ step), top)


def _score_rows(train: Spectrum, centred: Array, mean: Array, top: int) -> Array:
    step = mean - train.mean
    U = train.vectors[:, :top]
    along = np.square(centred @ U).mean(axis=0) + (step @ U) ** 2
    return _gaussian(train, along, float(np.square(centred).sum() / len(centred) + step @ step), top)


def _gaussian(train: Spectrum, along: Array, whole: float, top: int) -> Array:
    """Return the mean log-likelihood of test rows with second moments `along` the train eigenvectors, by k."""
    known = min(top, len(along))
    k = np.arange(1, known + 1)
    values = train.values[:known]
    noise = train.noise(known) if train.free > known else np.zeros(known)
    out = np.full(top, -np.inf)
    good = noise > train.resolution
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.cumsum(np.log(values) + along[:known] / values)
        outside = (train.free - k) * np.log(noise) + (whole - np.cumsum(along[:known])) / noise
        score = -0.5 * (train.free * LOG_2PI + inside + outside)
    out[:known][good] = score[good]
    return out
