"""Claims about linear VAEs and PPCA, whose optima are known in closed form (Sections 2 and 3, Eqs. 2-4 and 10)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vaeprobe.linear.closed_form import Solution, beta_elbo, solve
from vaeprobe.linear.eigenpairs import Spectrum
from vaeprobe.linear.moments import Moments
from vaeprobe.linear.spectrum import of_moments
from vaeprobe.linear.training import Covariance, Training, TrainingMethod, train

from paper.claim import Claim, Effort, Evidence, Part, over_seeds

LATENTS, COLUMNS, ROWS = 3, 8, 500
SIGMA2 = 0.5
VALUES = (6.0, 3.5, 2.0, 0.9, 0.45, 0.4, 0.35, 0.3)
ORTHOGONAL = 1e-3  # largest |cos| of columns that count as orthogonal: what training to 1e-10 nats leaves
OBLIQUE = 0.05


def seeds(effort: Effort) -> range:
    """Return the seeds: six or more, for training in closed form is cheap."""
    return range(max(6, effort.seeds))


def data(seed: int, values: tuple[float, ...] = VALUES) -> NDArray[np.float64]:
    """Return normal rows, shape (500, m), whose population has these eigenvalues in random directions."""
    rng = np.random.default_rng(seed)
    m = len(values)
    Q = np.linalg.qr(rng.standard_normal((m, m)))[0]
    rows: NDArray[np.float64] = (rng.standard_normal((ROWS, m)) * np.sqrt(values)) @ Q.T
    return rows


def spectrum(X: NDArray[np.float64]) -> Spectrum:
    """Return eigenvalues and eigenvectors of the rows' covariance."""
    mean = X.mean(0)
    return of_moments(Moments(len(X), mean, (X - mean).T @ (X - mean)))


def solution(seed: int, *, beta: float = 1.0, sigma2: float | None = SIGMA2) -> tuple[Spectrum, Solution]:
    """Return the spectrum of some data, and the optimum for three latents."""
    found = spectrum(data(seed))
    return found, solve(found, LATENTS, beta=beta, sigma2=sigma2)


def largest_cosine(W: NDArray[np.float64]) -> float:
    """Return the largest |cos| of two columns."""
    unit = W / np.linalg.norm(W, axis=0)
    return float(np.abs(np.triu(unit.T @ unit, 1)).max())


def cosines(method: TrainingMethod, effort: Effort) -> list[float]:
    """Train a linear VAE by a method from each seed; return the largest |cos| of its columns."""
    out = []
    for seed in seeds(effort):
        found, best = solution(seed)
        run = train(method, Covariance.of_spectrum(found), best, Training(tolerance=1e-12), seed=seed)
        out.append(largest_cosine(run.W))
    return out


def symmetry(effort: Effort) -> Evidence:
    return Evidence(
        over_seeds("largest |cos| of columns, linear VAE", cosines("elbo", effort), "under", ORTHOGONAL),
        beside=(
            over_seeds("the same, PPCA by EM", cosines("em", effort), "over", OBLIQUE),
            over_seeds("the same, full posterior", cosines("elbo-full", effort), "over", OBLIQUE),
        ),
    )


def eq10(effort: Effort) -> Evidence:
    return Evidence(
        over_seeds(
            "largest |cos|, Eq. 10 as printed", cosines("det-elbo-literal", effort), "under", ORTHOGONAL
        ),
        over_seeds("with the diagonal optimum", cosines("det-elbo", effort), "under", ORTHOGONAL),
    )


def theorem1(effort: Effort) -> Evidence:
    """Log-density of a linear push-forward against the sum of its seam factors, along the singular vectors."""
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(effort.samples):
        W = rng.standard_normal((COLUMNS, LATENTS))
        s, V = (part for part in np.linalg.svd(W, full_matrices=False)[1:])
        z = rng.standard_normal((100, LATENTS))
        covariance = W @ W.T
        # log N(W z; 0, W W^T) on the span of W, by the pseudo-inverse and the product of eigenvalues
        x = z @ W.T
        inverse = np.linalg.pinv(covariance, rcond=1e-10, hermitian=True)
        values = np.linalg.eigvalsh(covariance)[-LATENTS:]
        whole = -0.5 * ((x @ inverse * x).sum(1) + np.log(values).sum() + LATENTS * math.log(2 * math.pi))
        factors = -0.5 * (z @ V.T) ** 2 - np.log(s) - 0.5 * math.log(2 * math.pi)
        gaps.append(float(np.abs(whole - factors.sum(1)).max()))
    part = Part("largest |log p - sum log p_i|, nats", max(gaps), None, "under", 1e-8)
    return Evidence(part)


def theorem3(effort: Effort) -> Evidence:
    """What the optimum of (1, beta sigma^2) loses under (beta, sigma^2); where sigma^2 is learned, where tau ends."""
    losses, moved = [], []
    for seed in seeds(effort):
        found, one = solution(seed, beta=3.0)
        other = solve(found, LATENTS, beta=1.0, sigma2=3.0 * SIGMA2)
        losses.append(one.elbo - beta_elbo(found, replace(other.model(), sigma2=SIGMA2), 3.0))
        at_one, at_three = (solve(found, LATENTS, beta=b) for b in (1.0, 3.0))
        moved.append(at_three.tau / at_one.tau - 1)
    return Evidence(
        Part("nats lost by the other's optimum", max(map(abs, losses)), None, "under", 1e-9),
        beside=(over_seeds("learned: beta sigma^2 at 3 over that at 1, less 1", moved, "over", 0.05),),
    )


def theorem3_learned(effort: Effort) -> Evidence:
    """The same theorem with a learned sigma^2: beta would only rename it, and beta sigma^2 would not move."""
    fixed, learned = [], []
    for seed in seeds(effort):
        found, one = solution(seed, beta=3.0)
        other = solve(found, LATENTS, beta=1.0, sigma2=3.0 * SIGMA2)
        fixed.append(float(np.abs(one.W - other.W).max()))
        at_one, at_three = (solve(found, LATENTS, beta=b) for b in (1.0, 3.0))
        learned.append(float(np.abs(at_three.W - at_one.W).max()))
    return Evidence(
        over_seeds("largest difference of columns, sigma^2 learned", learned, "under", 1e-9),
        Part("with sigma^2 fixed", max(fixed), None, "under", 1e-9),
    )


def collapse(effort: Effort) -> Evidence:
    """Train at betas on both sides of every eigenvalue: which columns vanish?"""
    wrong = total = 0
    for seed in seeds(effort):
        found = spectrum(data(seed))
        for beta in (0.5, 1.0, 2.0, 4.0, 8.0):
            best = solve(found, LATENTS, beta=beta, sigma2=SIGMA2)
            run = train("elbo", Covariance.of_spectrum(found), best, Training(tolerance=1e-12), seed=seed)
            lengths = np.sort((run.W**2).sum(0))[::-1]
            used = lengths > 1e-3 * found.values[0]
            wrong += int((used != (found.values[:LATENTS] > beta * SIGMA2)).sum())
            total += LATENTS
    return Evidence(Part(f"latents of {total} on the wrong side", wrong, None, "under", 1))


def turned_by_perturbation(effort: Effort) -> Evidence:
    """Two factors of lengths 1.5 and 1.42; the perturbation, 9 % of the variance, follows their sum."""
    plain, perturbed, cosine = [], [], []
    for seed in seeds(effort):
        rng = np.random.default_rng(seed)
        z = rng.standard_normal((40 * ROWS, 2))
        E = np.linalg.qr(rng.standard_normal((COLUMNS, 3)))[0]
        noise = math.sqrt(0.05) * rng.standard_normal((len(z), COLUMNS))
        x = z @ (E[:, :2] * [1.5, 1.42]).T + noise
        y = x + 0.7 * ((z[:, 0] + z[:, 1]) / math.sqrt(2))[:, None] * E[:, 2]
        for rows, found in ((x, plain), (y, perturbed)):
            best = solve(spectrum(rows), 2, sigma2=0.05)
            codes = (rows - rows.mean(0)) @ best.model().E.T
            C = np.abs(np.corrcoef(codes.T, z.T)[:2, 2:])
            found.append(max(C[0, 0] + C[1, 1], C[0, 1] + C[1, 0]) / 2)
        cosine.append(largest_cosine(best.W))
    return Evidence(
        over_seeds("correlation with the factors, perturbed data", perturbed, "over", 0.95, high=1.0),
        over_seeds("with data as they were", plain, "over", 0.95, high=1.0),
        beside=(Part("largest |cos| of columns, perturbed", max(cosine), None, "under", ORTHOGONAL),),
    )


CLAIMS = (
    Claim(
        name="symmetry",
        statement="A linear VAE with a diagonal posterior breaks the rotation symmetry of PPCA.",
        equation="Section 2, Eqs. 2-4",
        measure=symmetry,
        note=f"{LATENTS} latents, {COLUMNS} columns, trained to 1e-12 nats of the closed form",
    ),
    Claim(
        name="eq10",
        statement="Maximising Eq. 10 makes columns orthogonal; with sum log(1 + |d_i|^2/s) for its last line.",
        equation="Eq. 10",
        measure=eq10,
        note="the printed line puts in the optimum of a full covariance, and gives the symmetry back",
    ),
    Claim(
        name="theorem1",
        statement="The density of a linear decoder factorises along the singular vectors of its matrix.",
        equation="Theorem 1",
        measure=theorem1,
    ),
    Claim(
        name="theorem3",
        statement="beta at variance s and 1 at variance beta s have the same optimum, s fixed.",
        equation="Theorem 3",
        measure=theorem3,
        note="in Lucas et al. (2019), Kumar and Poole (2020) and Reizinger et al. (2022) before",
    ),
    Claim(
        name="theorem3-learned",
        statement="The same where s is learned; where it is fixed.",
        equation="Theorem 3",
        measure=theorem3_learned,
        note="the normaliser of the likelihood is scaled by beta too",
    ),
    Claim(
        name="collapse",
        statement="A latent of a linear VAE collapses exactly where its eigenvalue is at most beta s.",
        equation="Corollary 3.1",
        measure=collapse,
    ),
    Claim(
        name="perturbed-data",
        statement="The axes that are found are the factors of the data; where these are the local principal axes.",
        equation="Corollary 2.1; Zietlow et al. (2021)",
        measure=turned_by_perturbation,
        note="columns stay orthogonal, along other axes: orthogonality is not disentanglement",
    ),
)
