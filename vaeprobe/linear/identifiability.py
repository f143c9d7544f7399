"""Which columns the data determine: intervals of eigenvalues, tied blocks, and bootstrap of directions.

A direction is determined only as far as its eigenvalue differs from its neighbours' (Anderson 1963; Allen
2024, Corollary 1.1): two sample eigenvalues always differ, so the question is whether the population's do.  Where
the rows run out of rank the next eigenvalue is 0 of necessity, which is no evidence of a gap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from vaeprobe.intervals import LEVEL, stream
from vaeprobe.kept import kept_arrays
from vaeprobe.linear.eigenpairs import Spectrum
from vaeprobe.linear.rows import WITHIN
from vaeprobe.progress import tell

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vaeprobe.data import Data
    from vaeprobe.linear.moments import Array

EXTRA = 16  # directions beyond the d columns that the bootstrap lets them turn into
MOST_GROUPS = 1000
GROUP_NUMBERS = 2**22  # numbers of all groups' second moments, at most
BLOCK = 2048
MOST_ROWS = 2**17  # that tell how far resampled moments stray
LOOSE = math.pi / 4  # a column that turns by more may be another one's neighbour rather than its own


@dataclass(frozen=True, eq=False)
class Identifiability:
    """What n rows say about d columns.

    Attributes:
        intervals: of the eigenvalues, shape (d, 2).
        gaps: lambda_i - lambda_{i+1}, shape (d,).
        gap_intervals: their intervals, shape (d, 2).
        p_values: of equality of lambda_i and lambda_{i+1}, shape (d,); 0 where there is no other direction.
        blocks: index ranges [first, last] (from 0) of active columns that are told apart only from outside;
            `last` may be the number of active columns, which says that the block reaches into those that are
            collapsed or discarded.
        angles: bootstrap 95 % quantile of the angle between column i and its resampled self, radians, or None.
        directions: number of leading eigenvectors that the bootstrap let the columns turn into.
    """

    intervals: Array
    gaps: Array
    gap_intervals: Array
    p_values: Array
    blocks: tuple[tuple[int, int], ...]
    angles: Array | None = None
    directions: int = 0

    @property
    def loose(self) -> tuple[int, ...]:
        """Return the columns of no block that resampled rows turn by more than 45 degrees, against what the test says."""
        if self.angles is None:
            return ()
        inside = self._inside
        return tuple(int(i) for i in np.flatnonzero(self.angles > LOOSE) if int(i) not in inside)

    def alone(self, active: NDArray[np.bool_]) -> int:
        """Return the number of active columns that are determined one by one."""
        doubtful = self._inside.union(self.loose)
        return sum(1 for i in np.flatnonzero(active) if int(i) not in doubtful)

    @property
    def _inside(self) -> frozenset[int]:
        return frozenset(i for first, last in self.blocks for i in range(first, last + 1))


def of_spectrum(spectrum: Spectrum, d: int, active: Sequence[bool]) -> Identifiability:
    """Return what the eigenvalues say, for Gaussian rows.

    Intervals are `lambda exp(+- z sqrt(2 / n))`, for n large against m (Anderson 1963).  Neighbours are compared by the
    likelihood-ratio test of equality, `(4 a b / (a + b)^2)^((k - 1) / 2)`, whose p-value is exact for two columns and k
    degrees of freedom (Mauchly 1940); i larger eigenvalues leave k = n - 1 - i of them (James 1969).  The last direction
    that n rows have, the (n - 1)st, has k = 1 and so p = 1.
    """
    n, values = spectrum.n, spectrum.values
    lead = np.zeros(d + 1)
    lead[: min(d + 1, len(values))] = values[: d + 1]
    if spectrum.m > d and (len(values) <= d or spectrum.solver == "em"):
        lead[d] = min(_edge(spectrum, d), lead[d - 1])
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    spread = math.exp(z * math.sqrt(2 / n))
    intervals = np.stack([lead[:d] / spread, lead[:d] * spread], axis=1)
    gaps = lead[:-1] - lead[1:]
    half = z * math.sqrt(2 / n) * np.hypot(lead[:-1], lead[1:])  # squares may overflow
    a, b = np.maximum(lead[:-1], 1e-300), np.maximum(lead[1:], 1e-300)
    ratio = np.maximum(2 * np.log((a + b) / 2) - np.log(a) - np.log(b), 0.0)
    p_values = np.exp(-ratio * np.maximum(n - 2 - np.arange(d), 0) / 2)
    p_values[spectrum.m - 1 :] = 0.0  # nothing is left to be equal to
    q = sum(bool(on) for on in active)
    blocks = tuple(_blocks(p_values[:q], 1 - LEVEL))
    return Identifiability(intervals, gaps, np.stack([gaps - half, gaps + half], axis=1), p_values, blocks)


def _edge(spectrum: Spectrum, d: int) -> float:
    """Return how large the next eigenvalue of n rows may be where only the mean of those after the first d is known.

    It is the upper edge of equal ones (Marchenko and Pastur 1967).
    """
    left, more = spectrum.m - d, max(spectrum.n - 1 - d, 1)
    return spectrum.rest(d) / left * (1 + math.sqrt(left / more)) ** 2


def _blocks(p_values: Array, alpha: float) -> Iterable[tuple[int, int]]:
    first, q = 0, len(p_values)
    for i in range(q):
        if p_values[i] <= alpha:
            if i > first:
                yield first, i
            first = i + 1
    if first < q:
        yield first, q


def bootstrap_angles(
    data: Data, spectrum: Spectrum, d: int, *, resamples: int = 200, seed: int = 0
) -> tuple[Array, int]:
    """Return the quantile of each column's angle to its resampled self, shape (d,), and the directions used.

    Rows are resampled in up to 1000 interleaved groups (single rows where n <= 1000), inside the span of the
    d columns and the 16 next eigenvectors: a column from the last direction of few rows on has nowhere to turn there,
    which says nothing, and its angle is a right one.  Of more than `MOST_ROWS` rows some blocks, evenly spread, say how far
    resampled second moments stray, which goes with the root of their number (Bickel, Goetze and van Zwet 1997).
    """
    K = min(spectrum.rank, d + EXTRA, spectrum.vectors.shape[1])
    leading = spectrum.values[:K], spectrum.vectors[:, :K], spectrum.mean, spectrum.n

    def made_of() -> tuple[object, ...]:
        return "bootstrap", data.identity(), leading, d, resamples, seed, LEVEL

    (angles,) = kept_arrays(made_of, lambda: (_angles(data, spectrum, d, K, resamples, seed),))
    return angles, K


def _angles(data: Data, spectrum: Spectrum, d: int, K: int, resamples: int, seed: int) -> Array:
    groups = max(min(spectrum.n, MOST_GROUPS, GROUP_NUMBERS // (K * K)), 2)
    outer, sums, counts = _groups(data, spectrum, K, groups)
    flat = outer.reshape(groups, -1)

    def moments(weight: Array) -> Array:
        """Return the covariances of rows whose groups count so many times, weight (r, groups), shape (r, K, K)."""
        n = np.maximum(weight @ counts, 1.0)[:, None]
        centre = weight @ sums / n
        return (weight @ flat / n).reshape(-1, K, K) - centre[:, :, None] * centre[:, None, :]

    rng = stream(seed, "bootstrap columns")
    # in the basis of the eigenvectors
    S, whole, share = np.diag(spectrum.values[:K]), moments(np.ones((1, groups))), counts.sum() / spectrum.n
    found = []
    at_once = max(1, GROUP_NUMBERS // (K * K))
    for first in range(0, resamples, at_once):
        count = min(at_once, resamples - first)
        weight = rng.multinomial(groups, np.full(groups, 1 / groups), size=count).astype(np.float64)
        V = np.linalg.eigh(S + math.sqrt(share) * (moments(weight) - whole))[1][:, :, ::-1]
        found.append(np.minimum(np.abs(np.diagonal(V, axis1=1, axis2=2))[:, :d], 1.0))
    angles = np.full(d, math.pi / 2)
    known = np.arccos(np.concatenate(found))
    angles[: known.shape[1]] = np.quantile(known, LEVEL, axis=0)
    if spectrum.m > spectrum.n - 1:
        angles[max(spectrum.n - 2, 0) :] = math.pi / 2
    return angles


def _groups(data: Data, spectrum: Spectrum, K: int, groups: int) -> tuple[Array, Array, Array]:
    """Return second moments, sums and counts of the scores of interleaved groups of rows.

    Returns:
        shapes (groups, K, K), (groups, K) and (groups,).
    """
    if not WITHIN[0] < spectrum.n * spectrum.total < WITHIN[1]:
        data = data.widened()
    kind, every = data.dtype, max(1, data.rows // MOST_ROWS)
    U, mean = spectrum.vectors[:, :K].astype(kind), spectrum.mean.astype(kind)
    outer, sums, counts = np.zeros((groups, K, K)), np.zeros((groups, K)), np.zeros(groups)
    turns = max(1, min(GROUP_NUMBERS // (2 * groups * K), -(-data.rows // groups)))
    held, there = np.zeros((turns * groups, K), kind), 0

    def add() -> None:
        scores = held.reshape(turns, groups, K)
        np.add(outer, np.matmul(scores.transpose(1, 2, 0), scores.transpose(1, 0, 2)), out=outer)
        np.add(sums, scores.sum(axis=0, dtype=np.float64), out=sums)
        np.add(counts, np.bincount(np.arange(there) % groups, minlength=groups), out=counts)

    done = 0
    for block in data.blocks(BLOCK, every=every):
        scores = (block - mean) @ U
        done += len(scores)
        while len(scores):
            taken = scores[: len(held) - there]
            held[there : there + len(taken)] = taken
            there, scores = there + len(taken), scores[len(taken) :]
            if there == len(held):
                add()
                there = 0
        tell("bootstrap, scores", min(done * every, data.rows), data.rows)
    held[there:] = 0
    add()
    tell("bootstrap, scores", data.rows, data.rows)
    return outer, sums, counts
