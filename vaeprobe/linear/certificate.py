"""What training reached, held against the closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from vaeprobe.linear.closed_form import Solution
from vaeprobe.linear.training import BREAKS_SYMMETRY, Covariance, Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vaeprobe.linear.moments import Array

CONVERGED = 1e-6  # nats per row
ALIGNED = 0.01  # distance of R to a signed permutation
TIE = 1e-6  # relative difference under which eigenvalues count as equal

Verdict = Literal["optimum on the axes", "optimum, rotated", "optimum, tied block", "not converged"]


@dataclass(frozen=True, eq=False)
class Certificate:
    """One run against the closed form; q is the number of active latents there.

    Attributes:
        run: the training run.
        angles: principal angles between the learned columns' span and the true one, radians, shape (q,).
        cosines: abs cosine of each true column with its learned partner, shape (q,).
        norm_ratios: learned over true column norm, shape (q,).
        partners: index of the learned column that stands for each true one, shape (q,).
        max_abs_cosine: largest abs cosine between learned columns; None for fewer than two.
        blocks: index ranges [first, last] (from 0) of active columns whose eigenvalues are equal: any rotation among them
            is as good.
        rotation_distance: ||R - P||_F to the nearest signed permutation P, tied blocks aligned first; None where no latent
            is active, or all that are make one block, in which there are no axes to be far from.
        mean_field_gap: nats that a diagonal posterior loses on the learned columns.
        sigma2_ratio: learned over closed-form sigma2.
        kl: KL of each learned latent's marginal posterior, nats, in the order of the true columns, shape (d,).
    """

    run: Run
    angles: Array
    cosines: Array
    norm_ratios: Array
    partners: NDArray[np.int64]
    max_abs_cosine: float | None
    blocks: tuple[tuple[int, int], ...]
    rotation_distance: float | None
    mean_field_gap: float
    sigma2_ratio: float
    kl: Array

    @property
    def max_angle(self) -> float | None:
        """Largest principal angle, radians; None where no latent is active."""
        return float(self.angles.max()) if len(self.angles) else None

    @property
    def converged(self) -> bool:
        return self.run.gap <= CONVERGED

    @property
    def verdict(self) -> Verdict:
        if not self.converged:
            return "not converged"
        R = self.rotation_distance
        if R is not None and R > ALIGNED:
            free = self.run.method not in BREAKS_SYMMETRY and float(self.angles.max()) <= ALIGNED
            return "optimum, rotated" if free else "optimum, tied block"
        return "optimum, tied block" if self.blocks else "optimum on the axes"

    @property
    def one_block(self) -> bool:
        """Whether all active columns, two or more, make one tied block."""
        return bool(self.blocks) and self.blocks[0] == (0, len(self.angles) - 1)

    @property
    def sentence(self) -> str:
        """The verdict and its cause, as a researcher would write it."""
        run, R = self.run, self.rotation_distance
        if not self.converged:
            why = {
                "steps": (f"after {run.steps} steps", "a saddle or too few steps"),
                "stalled": (f"without progress at step {run.steps}", "a saddle or too few steps"),
                "time": (f"at step {run.steps}", "no time was left"),
            }
            when, cause = why.get(run.stopped, ("", ""))
            return f"`{run.method}` ended {when} {run.gap:.2g} nats short of the optimum: {cause}."
        cause = {
            "elbo": "the diagonal posterior breaks the rotation symmetry",
            "det-elbo": "putting in the diagonal optimum breaks the rotation symmetry",
            "elbo-full": "a full posterior covariance leaves the rotation free",
            "det-elbo-literal": "Eq. 10 as printed puts in the full-covariance optimum and leaves the rotation free",
            "em": "EM uses the exact posterior and leaves the rotation free",
        }[run.method]
        reached = f"`{run.method}` reached the optimum (gap {max(run.gap, 0.0):.1e} nats)"
        if self.one_block:
            last = self.blocks[0][1]
            return (
                f"{reached}; all {last + 1} active columns are one tied block: their eigenvalues are equal, "
                "and nothing determines the axes within."
            )
        if R is None:
            return f"{reached}; {cause}; no latent is active."
        where = f"R is {R:.2g} from a signed permutation"
        if R > ALIGNED and self.verdict == "optimum, tied block":
            where += ": eigenvalues so close to each other, or to beta sigma^2, that the objective hardly feels a rotation"
        elif self.blocks:
            which = " and of ".join(f"z{first} to z{last}" for first, last in self.blocks)
            where += f", once the tied block of {which} is aligned, in which nothing determines the axes"
        return f"{reached}; {cause}; {where}."


def certify(run: Run, solution: Solution, S: Covariance) -> Certificate:
    """Return how a run compares with the closed form."""
    import torch

    from vaeprobe.geometry.axes import assignment
    from vaeprobe.geometry.gram import mean_field_gap

    q = int(solution.active.sum())
    W, U = run.W, solution.vectors[:, :q]
    norms = np.linalg.norm(W, axis=0)
    tau = solution.beta * run.sigma2
    used = norms**2 > 1e-6 * tau

    # angles of the learned subspace, by sines, which are accurate where cosines are not
    P = np.linalg.svd(W, full_matrices=False)[0][:, :q]
    sines = np.linalg.svd(P - U @ (U.T @ P), compute_uv=False) if q else np.zeros(0)
    angles = np.arcsin(np.minimum(sines, 1.0))

    lengths = np.sqrt(solution.square_norms[:q])
    R = _aligned((U.T @ W) / lengths[:, None], solution.values[:q])
    blocks = tuple((b.start, b.stop - 1) for b in tied(solution.values[:q]) if b.stop - b.start > 1)
    partners = assignment(np.abs(R)[None])[0]
    hits = np.abs(R[np.arange(q), partners]) if q else np.zeros(0)
    free = q == 0 or blocks == ((0, q - 1),)
    distance = float(np.sqrt(max(float(np.square(R).sum()) + q - 2 * float(hits.sum()), 0.0)))

    unit = W / np.where(norms > 0, norms, 1.0)
    between = np.abs(unit[:, used].T @ unit[:, used])
    np.fill_diagonal(between, 0.0)
    energy = np.einsum("ij,ji->i", run.E, S.product(run.E.T))
    variance = np.diag(run.posterior)
    kl = 0.5 * (energy + variance - np.log(variance) - 1)
    order = np.concatenate([partners, np.setdiff1d(np.arange(solution.d), partners)]).astype(np.int64)
    G = torch.from_numpy(W.T @ W)[None]
    return Certificate(
        run=run,
        angles=angles,
        cosines=np.minimum(_block_cosines(U, unit[:, partners], solution.values[:q]), 1.0),
        norm_ratios=norms[partners] / lengths,
        partners=partners,
        max_abs_cosine=float(between.max()) if used.sum() > 1 else None,
        blocks=blocks,
        rotation_distance=None if free else distance,
        mean_field_gap=float(mean_field_gap(G, tau)[0]),
        sigma2_ratio=run.sigma2 / solution.sigma2,
        kl=kl[order],
    )


def tied(values: Array, tolerance: float = TIE) -> list[slice]:
    """Return the runs of (numerically) equal neighbours in descending values, single ones included."""
    cuts = [0, *(k for k in range(1, len(values)) if values[k - 1] - values[k] > tolerance * values[k - 1])]
    return [slice(a, b) for a, b in zip(cuts, [*cuts[1:], len(values)], strict=True)] if len(values) else []


def _aligned(R: Array, values: Array) -> Array:
    """Return R with the arbitrary rotation inside each block of tied eigenvalues taken out."""
    out = R.copy()
    for block in tied(values):
        size = block.stop - block.start
        if size > 1:
            columns = np.sort(np.argsort(-np.linalg.norm(R[block], axis=0), kind="stable")[:size])
            A, _, B = np.linalg.svd(R[block][:, columns])
            out[block] = (A @ B).T @ R[block]
    return out


def _block_cosines(U: Array, learned: Array, values: Array) -> Array:
    """Return the cosine of each learned column with the span of its true column's tied block."""
    overlap = U.T @ learned
    out = np.zeros(len(values))
    for block in tied(values):
        out[block] = np.linalg.norm(overlap[block, block], axis=0)
    return out
