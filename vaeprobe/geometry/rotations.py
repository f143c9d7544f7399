"""Rotations of the latent space and the null they give.

A rotation R of the latents takes f(z) to f(R z) and G to R^T G R, and leaves det G alone, so that every
contrast here follows from the quadratic forms r_i^T G r_i of R's columns.  "Rotation" means orthogonal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.budget import share_of
from vaeprobe.engine.dense import bands_of
from vaeprobe.files.limits import check_memory
from vaeprobe.geometry.gram import column_cosines, column_norms, ima_contrast, singular_tolerance
from vaeprobe.geometry.threads import one_thread_below
from vaeprobe.intervals import mean_interval, stream
from vaeprobe.kept import kept, signature
from vaeprobe.progress import tell

__all__ = ["Alignment", "alignment", "haar", "null_contrasts", "rotate", "rotated_contrast"]

# Latents from which columns under a rotation are measured by a triangular factor of G, not by its pairs of entries.
FACTORED = 24
# Latents whose factors are multiplied together: a third to a half less time than one by one (measured).
TOGETHER = 8
# Multiply-adds of the rotations that are drawn and measured at a time.
AT_ONCE = 400_000_000


def haar(k: int, count: int, seed: int = 0) -> Tensor:
    """Return orthogonal matrices drawn from the Haar measure on O(k), shape (count, k, k), float64."""
    return next(_haar(k, count, seed, count))


def _haar(k: int, count: int, seed: int, at_once: int) -> Iterator[Tensor]:
    """Yield the same, so many at a time."""
    check_memory(
        f"{min(at_once, count)} rotations of {k} latents", 8 * min(at_once, count) * k**2, "fewer of them"
    )
    of = stream(seed, f"haar/{k}")
    for first in range(0, max(1, count), max(1, at_once)):
        draw = torch.from_numpy(of.standard_normal((min(at_once, count - first), k, k)))
        for matrix in draw:  # in place: a hundred of five hundred latents are two hundred MB
            Q, T = torch.linalg.qr(matrix)  # numpy's has threads of its own, which a busy machine holds up
            matrix.copy_(Q * T.diagonal().sign())
        yield draw


def rotate(G: Tensor, R: Tensor) -> Tensor:
    """Return R^T G R, shape (n, k, k): the pullback metrics of z -> f(R z)."""
    return R.mT @ G @ R


def rotated_contrast(
    G: Tensor, R: Tensor, *, contrast: Tensor | None = None, tolerance: float | None = None
) -> Tensor:
    """Return the ima contrast of every latent under every rotation, shape (count, n).

    Args:
        G: pullback metrics, shape (n, k, k); inf where one is singular within the tolerance.
        R: rotations, shape (count, k, k).
        contrast: `ima_contrast` of G, where it is known already.
    """
    contrast = ima_contrast(G, tolerance=tolerance) if contrast is None else contrast
    return _under_rotations(G, contrast)(R)


def null_contrasts(
    G: Tensor, contrast: Tensor, *, count: int, least: int | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the ima contrast of every latent, mean over random rotations, and that of every rotation, mean over the latents.

    Args:
        G: pullback metrics, shape (n, k, k).
        contrast: of each, shape (n,), as `rotated_contrast` takes it.
        count: number of rotations K.
        least: where time is limited, K is what fits into half of what is left, and no fewer than this; None for all.

    Returns:
        shapes (n,) and (K,).
    """
    k, total, means, drawn = G.shape[-1], torch.zeros_like(contrast), [], 0
    under, known_by = _under_rotations(G, contrast), cache(lambda: signature((G, contrast)))

    def measured(block: Tensor) -> Tensor:
        made_of = lambda: ("random rotations", known_by(), block)  # noqa: E731
        return kept(made_of, lambda: (under(block),), together=False)[0]

    with one_thread_below(len(G) * k**3), share_of(1 / 2) as share:
        for block in _haar(k, count, seed, max(1, AT_ONCE // (len(G) * k**3 + 1))):
            c = measured(block)
            total += c.sum(0)
            means.append(c.mean(1))
            drawn += len(block)
            tell("random rotations", drawn, count)
            if least is not None and drawn >= least and share.over:
                break
    return total / drawn, torch.cat(means)


def _under_rotations(G: Tensor, contrast: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what takes rotations to the contrasts under them, see `rotated_contrast`; what G asks for is done once."""
    # log det G = sum_i log G_ii - 2 c, and R leaves it alone
    n, k = G.shape[:2]
    half_log_det = 0.5 * G.diagonal(dim1=-2, dim2=-1).clamp_min(_tiny(G)).log().sum(-1) - contrast
    if n * k == 0:
        return lambda R: G.new_zeros(len(R), n)
    half_log_norms = _by_pairs(G) if k < FACTORED else _by_factors(G)
    return lambda R: (half_log_norms(R) - half_log_det).clamp_min(0)


def _by_pairs(G: Tensor) -> Callable[[Tensor], Tensor]:
    """Return R -> sum_i log sqrt(r_i^T G r_i), shape (count, n): one product of all r_i r_i^T and all G."""
    n, k = G.shape[:2]
    upper = cpu.triu_indices(k, k)
    packed = G[:, upper[0], upper[1]].T
    twice = torch.where(upper[0] == upper[1], 1.0, 2.0).to(G.dtype)

    def of(R: Tensor) -> Tensor:
        out = []
        for block in torch.split(R, max(1, 2_000_000 // (k * max(n, len(twice))))):
            columns = block.mT.reshape(-1, k)
            products = columns[:, upper[0]] * columns[:, upper[1]] * twice
            squares = (products @ packed).clamp_min(_tiny(G))
            out.append(0.5 * squares.log().reshape(len(block), k, n).sum(1))
        return torch.cat(out)

    return of


def _by_factors(G: Tensor) -> Callable[[Tensor], Tensor]:
    """Return R -> sum_i log sqrt(r_i^T G r_i), shape (count, n), from the lengths of U r_i, G = U^T U.

    U is triangular, and its rows are taken a quarter at a time without the columns where they are zero: over a third
    of the work is spared, beside the half that G r_i takes.
    """
    n, k = G.shape[:2]
    C = column_cosines(G)
    L, failed = torch.linalg.cholesky_ex(C)
    U, singular = L.mT, failed > 0
    if singular.any():
        values, Q = torch.linalg.eigh(C[singular])
        U[singular] = torch.linalg.qr(values.clamp_min(0).sqrt()[:, :, None] * Q.mT).R
    U = U * column_norms(G)[:, None, :]
    bands = bands_of(U)

    def of(R: Tensor) -> Tensor:
        columns = R.movedim(0, 1).reshape(k, -1)
        out = R.new_empty(len(R), n)
        for first in range(0, n, TOGETHER):
            some = slice(first, first + TOGETHER)
            squares = sum(_squared_lengths(band[some], columns[-band.shape[2] :]) for band in bands)
            logs = cpu.as_tensor(squares).clamp_min(_tiny(G)).log_()
            out[:, some] = 0.5 * logs.view(len(logs), len(R), k).sum(2).T
        return out

    return of


def _squared_lengths(U: Tensor, V: Tensor) -> Tensor:
    """Return the squared lengths of the columns of every U, shape (n, rows, k), times V, shape (k, columns)."""
    products = U.flatten(0, 1) @ V
    return products.view(*U.shape[:2], V.shape[1]).square_().sum(1)


def _tiny(G: Tensor) -> float:
    return float(torch.finfo(G.dtype).tiny)


@dataclass(frozen=True, eq=False)
class Alignment:
    """How much better the given axes are than random ones.

    Attributes:
        value: A = 1 - mean c / mean null; None where the null is 0, since every basis is orthogonal then.
        p_value: (1 + #{draws <= c}) / (K + 1); None with `value`.
        contrast: c per latent at the given axes, shape (n,).
        null: c per latent, mean over the rotations, shape (n,).
        draws: mean c over the latents per rotation, shape (K,).
    """

    value: float | None
    p_value: float | None
    contrast: Tensor
    null: Tensor
    draws: Tensor

    def interval(self, moved: Tensor | float = 0.0) -> tuple[float, float] | None:
        """Return the interval of `value` over latents and rotations; None without value, or for one of either.

        Args:
            moved: by what each latent moves `value` besides, through something the metrics were scaled by that is of
                the same latents, shape (n,), of mean 0.
        """
        if self.value is None:
            return None
        by_latent, by_rotation = self._influence()
        return mean_interval(self.value + by_latent + np.asarray(moved), by_rotation, high=1.0)

    def change(self, after: Alignment) -> tuple[float, tuple[float, float]] | None:
        """Return `after.value - self.value` and its interval over the same latents; None without values.

        Rotations that are the same for both, as those of one seed and number of latents are, are paired too.
        """
        if self.value is None or after.value is None:
            return None
        (old, old_turns), (new, new_turns) = self._influence(), after._influence()
        turns = (new_turns - old_turns,) if len(new_turns) == len(old_turns) else (new_turns, -old_turns)
        more = after.value - self.value
        interval = mean_interval(more + new - old, *(t for t in turns if len(t) > 1))
        return None if interval is None else (more, interval)

    def _influence(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what one latent and one rotation move the ratio of two means by, to first order, shapes (n,) and (K,)."""
        null, draws, given = self.null.numpy(), self.draws.numpy(), self.contrast.numpy()
        expected = float(null.mean())
        rest = given.mean() / expected
        return (rest * null - given) / expected, rest * (draws - draws.mean()) / expected


def alignment(
    G: Tensor,
    *,
    count: int = 999,
    least: int | None = None,
    seed: int = 0,
    tolerance: float | None = None,
    contrast: Tensor | None = None,
) -> Alignment:
    """Compare the ima contrast at the given axes with that at Haar-random ones, the same at every latent.

    An exact Monte-Carlo test of "the basis is a random rotation of any other" where the latents are
    isotropic, as N(0, I) is.

    Args:
        G: pullback metrics, shape (n, k, k), no column of length zero.
        count: number of rotations K.
        least: where time is limited, K is what fits into half of what is left, and no fewer than this; None for all.
        tolerance: squared relative rounding of G, see `singular_tolerance`.
        contrast: of each G, or what it is at least, shape (n,): what rotations change about it does not depend on that,
            so that p is the same. By default G's own.

    Raises:
        ValueError: a G is singular, whose contrast is infinite in every basis, and no other was given.
    """
    k = G.shape[-1]
    tolerance = singular_tolerance(k) if tolerance is None else tolerance
    contrast = ima_contrast(G, tolerance=tolerance) if contrast is None else contrast
    if not torch.isfinite(contrast).all():
        raise ValueError("a singular Gram matrix has an infinite contrast in every basis")
    null, means = null_contrasts(G, contrast, count=count, least=least, seed=seed)
    observed, expected = float(contrast.mean()), float(means.mean())
    if expected <= k**2 * tolerance:
        return Alignment(None, None, contrast, null, means)
    p_value = (1 + int((means <= observed).sum())) / (len(means) + 1)
    return Alignment(1 - observed / expected, p_value, contrast, null, means)
