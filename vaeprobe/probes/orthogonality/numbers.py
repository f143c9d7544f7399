"""The numbers of `orthogonality`: what is read off Gram matrices, each with its null and its interval."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from vaeprobe.geometry import gram
from vaeprobe.geometry.entropies import isometry_defect, pairwise_information, seam_entropies
from vaeprobe.geometry.nulls import expected_abs_cosine, expected_contrast, expected_isometry_defect
from vaeprobe.geometry.rotations import (
    TIE,
    Alignment,
    RotationFit,
    alignment,
    distance_to_axes,
    haar,
    joint_diagonalise,
    rotate,
    rotated_contrast,
)
from vaeprobe.intervals import LEVEL, mean_interval, median_interval
from vaeprobe.probes.orthogonality.energy import Whole
from vaeprobe.probes.orthogonality.metrics import SPECS
from vaeprobe.report import Metric

if TYPE_CHECKING:
    from vaeprobe.decoder import Decoder
    from vaeprobe.intervals import Array
    from vaeprobe.probes.parts import Block

# Active latents above which the best rotation is not searched.
LARGEST_SEARCH = 128
# Multiplications that the rotation null may take (in units of one product of k x k matrices, k^3), and the
# fewest latents it is taken over: half a minute of one core for hundreds of latents.
NULL_BUDGET = 3e11
FEWEST_NULL = 16
FRAME_BUDGET = 1e9
TINY = 1e-300
# Two columns are one where the cosine between them is this near to 1.
COLLINEAR = 1e-6


@dataclass(frozen=True)
class Repair:
    """What the best rotation does on held-out latents.

    Attributes:
        before: the contrast at the axes.
        left: the contrast that it leaves.
        left_ci: its interval.
        fell: whether it lowers the contrast for sure.
        share: interval of the share of the contrast that it removes; not above 0 where that is not sure.
    """

    before: float
    left: float
    left_ci: tuple[float, float]
    fell: bool
    share: tuple[float, float]


def repair_of(given: Array, turned: Array) -> Repair:
    """Return what a rotation does to the contrasts of held-out latents, each shape (n,), n at least 2."""
    before, left = float(given.mean()), float(turned.mean())
    share = (0.0, 0.0)
    if before > 0:
        # what one latent moves the ratio of two means by, to first order
        rest = left / before
        share = mean_interval(1 - rest + (rest * given - turned) / before, high=1.0) or share
    paired = mean_interval(given - turned)
    fell = paired is not None and paired[0] > 0
    if not fell:
        share = (min(share[0], 0.0), share[1])
    return Repair(before, left, mean_interval(turned, low=0.0) or (left, left), fell, share)


@dataclass(frozen=True)
class RowSpace:
    """The subspace of latents that J sees everywhere.

    Attributes:
        dim: its dimension.
        repair: what its best basis does beside random bases of it, on held-out latents.
    """

    dim: int
    repair: Repair


class Reading:
    """Gram matrices, and all that can be read off them; each number once, when it is first asked for.

    Attributes:
        G: finite pullback metrics over the continuous latents, shape (n, k, k).
        whole: what is known of the whole of G, of which these may be a part.
        overflowed: latents left out since their Gram matrix is not finite.
        names: name of each continuous latent.
        active: indices of the active latents, shape (a,).
        sub: pullback metrics over the active latents, shape (n, a, a).
        contrast: ima contrast of `sub`, shape (n,); inf where J is rank-deficient.
        regular: where it is finite, shape (n,).
        per_sample: the values behind the means, by metric id, where no latent was left out.
        no_pairs: why there are no pairs of columns, or None.
        singular: why the contrast is undefined, or None.
    """

    def __init__(
        self,
        G: Tensor,
        decoder: Decoder,
        *,
        isotropic: bool,
        seed: int,
        active_threshold: float,
        rotations: int | None,
        restarts: int | None,
        beta_sigma2: float,
        likelihood: str | None,
        whole: Whole | None = None,
        block: Block | None = None,
    ) -> None:
        finite = torch.isfinite(G).flatten(1).all(1)
        dtype = decoder.dtype or torch.float64
        self.decoder, self.isotropic, self.dtype = decoder, isotropic, dtype
        self.seed, self.active_threshold = seed, active_threshold
        self.beta_sigma2, self.likelihood = beta_sigma2, likelihood
        self.per_sample: dict[str, tuple[float, ...]] = {}
        self.samples = len(G)
        self.G, self.overflowed = G[finite], int((~finite).sum())
        self.block = block
        self.whole = whole or Whole(None, G.shape[-1], why="not measured")
        self.names = decoder.latent_names if block is None else block.names
        self.kind = "latents" if block is None else block.kind
        self.tie = max(TIE, 1000 * float(torch.finfo(dtype).eps))
        self.active = gram.active_latents(self.G, active_threshold).nonzero().flatten()
        a = len(self.active)
        self.sub = self.G if a == len(self.names) else self.G[:, self.active[:, None], self.active]
        self.tolerance = gram.singular_tolerance(max(a, 1), dtype)
        self.contrast = gram.ima_contrast(self.sub, tolerance=self.tolerance)
        self.regular = torch.isfinite(self.contrast)
        self.cosines = gram.column_cosines(self.sub)
        self.no_pairs = self._why_no_pairs()
        self.singular = self.no_pairs or self._why_singular()
        self.rotations = rotations or int(min(999, max(99, 3e10 // (len(self.G) * max(a, 1) ** 3 + 1))))
        self.restarts = (4 if a <= 16 else 2) if restarts is None else restarts

    def _why_no_pairs(self) -> str | None:
        if len(self.G) < 2:
            return f"the Jacobian is finite at {len(self.G)} of {self.overflowed + len(self.G)} latents"
        if not self.G.any():
            return "every column of the Jacobian is zero: no latent moves the output"
        if len(self.active) == 0:
            return f"no column of the Jacobian is longer than {self.active_threshold:g} of the longest"
        if len(self.names) == 1:
            return "the only latent makes no pair of columns"
        if len(self.active) == 1:
            return f"{self.names[int(self.active[0])]} alone is active, and makes no pair of columns"
        return None

    def _why_singular(self) -> str | None:
        n, a, m = len(self.G), len(self.active), self.decoder.data_dim
        if m < a:
            return f"J is rank-deficient: {m} outputs cannot hold {a} independent columns"
        lost = n - int(self.regular.sum())
        if 2 * lost > n or n - lost < 2:
            return f"J is rank-deficient at {lost} of {n} latents: {self.lost_how}"
        return None

    @property
    def lost_how(self) -> str:
        """What makes J rank-deficient where it is."""
        zero = int((self._zero_columns & ~self.regular).sum())
        dependent = int((~self.regular).sum()) - zero
        parts = [f"a column of length zero at {zero}"] if zero else []
        parts += [f"columns linearly dependent at {dependent}"] if dependent else []
        return ", ".join(parts)

    @cached_property
    def _zero_columns(self) -> Tensor:
        """Where an active column has length zero, shape (n,)."""
        return (self.sub.diagonal(dim1=-2, dim2=-1) <= 0).any(1)

    # -- quantities --------------------------------------------------------------------------------

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """|C_ij| of pairs i < j and whether both columns have a length, each (n, pairs)."""
        i, j = torch.triu_indices(len(self.active), len(self.active), 1)
        lengths = self.cosines.diagonal(dim1=-2, dim2=-1) > 0
        return self.cosines[:, i, j].abs(), lengths[:, i] & lengths[:, j]

    @cached_property
    def cosine_matrix(self) -> tuple[tuple[float | None, ...], ...] | None:
        """Mean |C_ij| over the latents where both columns have a length, active x active."""
        if self.no_pairs:
            return None
        lengths = (self.cosines.diagonal(dim1=-2, dim2=-1) > 0).double()
        count = lengths.T @ lengths
        total = self.cosines.abs().sum(0)
        return tuple(
            tuple(float(t / c) if c > 0 else None for t, c in zip(ts, cs, strict=True))
            for ts, cs in zip(total, count, strict=True)
        )

    @cached_property
    def mean_norms(self) -> Tensor:
        """Mean column norm of each continuous latent, shape (k,)."""
        return gram.column_norms(self.G).mean(0) if len(self.G) else torch.zeros(len(self.names))

    @cached_property
    def usable(self) -> Tensor:
        """Pullback metrics over the active latents where J has full rank."""
        return self.sub if self.regular.all() else self.sub[self.regular]

    @cached_property
    def frame(self) -> tuple[Tensor, Tensor]:
        """Singular values and right singular vectors of the active columns where J has full rank.

        At the first latents only where hundreds are active: each frame costs some k^3.
        """
        rows = max(FEWEST_NULL, int(FRAME_BUDGET // max(len(self.active), 1) ** 3))
        return gram.singular_frame(self.usable[:rows])

    @cached_property
    def all_singular_values(self) -> Tensor:
        """Singular values of all continuous columns at every latent, shape (n, k)."""
        if self.usable is self.G:
            return self.frame[0]
        rows = max(FEWEST_NULL, int(FRAME_BUDGET // len(self.names) ** 3))
        return gram.singular_frame(self.G[:rows])[0]

    @cached_property
    def rms_singular_values(self) -> Tensor:
        """Root-mean-square singular values of the active columns, descending; none where undefined."""
        return self.frame[0].square().mean(0).sqrt() if self.singular is None else torch.zeros(0)

    @cached_property
    def alignment(self) -> Alignment | None:
        if self.singular:
            return None
        rows = max(FEWEST_NULL, int(NULL_BUDGET // (self.rotations * len(self.active) ** 3)))
        G = self.usable[:rows]
        return alignment(G, count=self.rotations, seed=self.seed, tolerance=self.tolerance)

    @cached_property
    def gap_alignment(self) -> Alignment | None:
        """The rotation test on the mean-field gap, which is finite where J is rank-deficient; None without pairs.

        The gap is the contrast of I + G / (beta sigma^2) over the active latents, and rotations leave I alone.
        """
        if self.no_pairs:
            return None
        k = len(self.active)
        rows = max(FEWEST_NULL, int(NULL_BUDGET // (self.rotations * k**3)))
        Lambda = torch.eye(k, dtype=self.G.dtype) + self.sub[:rows] / self.beta_sigma2
        if not torch.isfinite(gram.ima_contrast(Lambda)).all():  # columns so long that I is lost beside them
            return None
        return alignment(Lambda, count=self.rotations, seed=self.seed)

    @cached_property
    def rank(self) -> tuple[int, int]:
        """Lowest and highest number of singular values above rounding, over latents."""
        s = self.all_singular_values
        rounding = gram.singular_tolerance(s.shape[1], self.dtype) ** 0.5
        counts = (s > rounding * s[:, :1]).sum(1)
        return int(counts.min()), int(counts.max())

    @cached_property
    def low_rank(self) -> bool:
        """Whether J has fewer dimensions than active latents, and is not singular for a reason that ends the matter.

        Those reasons: too few outputs, two latents that move the output alike, no dimension left for a pair.
        """
        if not self.singular or self.no_pairs or self.decoder.data_dim < len(self.active) or self.rank[0] < 2:
            return False
        cosine, _ = self.pairs
        alike = cosine.amax(1) > 1 - COLLINEAR
        found = self.gap_alignment
        return found is not None and found.value is not None and float(alike.double().mean()) < 0.5

    @cached_property
    def row_space(self) -> RowSpace | None:
        """The subspace of the active latents that all Jacobians see, where it is smaller and J has full rank on it."""
        if not self.singular or self.no_pairs:
            return None
        # each latent has one vote, however long its columns
        G = self.sub / self.sub.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(TINY)[:, None, None]
        values, vectors = torch.linalg.eigh(G.mean(0))
        seen = values > self.tolerance * values[-1]
        r = int(seen.sum())
        if not 2 <= r < len(self.active) or r > LARGEST_SEARCH:
            return None
        B = vectors[:, seen].flip(1)
        inside = B.T @ self.sub @ B
        regular = torch.isfinite(gram.ima_contrast(inside, tolerance=self.tolerance))
        inside = inside[regular]
        if 2 * int(regular.sum()) <= len(G) or len(inside) < 4:
            return None
        fitted, held = inside[::2], inside[1::2]
        found = joint_diagonalise(fitted, restarts=self.restarts, seed=self.seed, tolerance=self.tolerance)
        best = rotated_contrast(held, found.R[None], tolerance=self.tolerance)[0]
        null = alignment(held, count=min(self.rotations, 99), seed=self.seed, tolerance=self.tolerance)
        return RowSpace(r, repair_of(null.null.numpy(), best.numpy()))

    @cached_property
    def halves(self) -> tuple[Tensor, Tensor]:
        """Pullback metrics of every other latent: to fit R* on, and to judge it on."""
        largest = max(64, 4_000_000 // len(self.active) ** 2)
        return self.usable[::2][:largest], self.usable[1::2]

    @cached_property
    def search(self) -> RotationFit | str:
        """The best rotation of the active latents, or why there is none."""
        if self.singular:
            return self.singular
        if len(self.active) > LARGEST_SEARCH:
            return f"the best of all rotations is not searched for more than {LARGEST_SEARCH} active latents"
        fit, held = self.halves
        if len(held) < 2:
            return f"{len(fit) + len(held)} latents are too few to fit a rotation on one half and judge it on the other"
        return joint_diagonalise(fit, restarts=self.restarts, seed=self.seed, tolerance=self.tolerance)

    @cached_property
    def held_out(self) -> tuple[Tensor, Tensor] | None:
        """The contrasts of the latents that R* was not fitted on, at the axes and at R*; None without R*."""
        if isinstance(self.search, str):
            return None
        held = self.halves[1]
        given = gram.ima_contrast(held, tolerance=self.tolerance)
        return given, rotated_contrast(held, self.search.R[None], contrast=given, tolerance=self.tolerance)[0]

    @cached_property
    def repair(self) -> Repair | None:
        """What R* does to them, or None."""
        return None if self.held_out is None else repair_of(*(c.numpy() for c in self.held_out))

    @cached_property
    def rotation(self) -> Tensor | None:
        """R* over the whole latent space, shape (latent, latent), or None."""
        if isinstance(self.search, str):
            return None
        if self.block is not None:
            R = torch.eye(len(self.names), dtype=torch.float64)
            R[self.active[:, None], self.active] = self.search.R
            return self.block.lifted(R, self.decoder)
        R = torch.eye(self.decoder.latent_dim, dtype=torch.float64)
        at = torch.tensor(self.decoder.continuous)[self.active]
        R[at[:, None], at] = self.search.R
        return R

    @cached_property
    def chance(self) -> tuple[float, float]:
        """The mean |cos| under random rotations, and the mean distance of random V to the axes."""
        a = len(self.active)
        i, j = torch.triu_indices(a, a, 1)
        cosine = torch.stack([gram.column_cosines(G)[:, i, j].abs().mean() for G in self._rotated()]).mean()
        V = haar(a, 64, self.seed + 1)
        spread = torch.arange(a, 0, -1, dtype=V.dtype).expand(len(V), a)
        return float(cosine), float(distance_to_axes(spread, V).mean())

    def _rotated(self) -> Iterator[Tensor]:
        """Yield the metrics of the first latents in a few random bases."""
        G = self.usable[:128]
        return (rotate(G, R) for R in haar(len(self.active), 20, self.seed))

    @cached_property
    def entropies(self) -> tuple[tuple[float, tuple[float, float] | None], ...] | None:
        """Entropy of each active latent in nats, with its interval; None where J has not full rank."""
        if self.singular:
            return None
        H = seam_entropies(self.usable)
        return tuple(
            (float(x), mean_interval(column)) for x, column in zip(H.mean(0), H.T.numpy(), strict=True)
        )

    @cached_property
    def information(self) -> tuple[tuple[float | None, ...], ...] | None:
        """Mean -1/2 log(1 - C_ij^2) of each pair in nats, active x active; None where J has not full rank."""
        if self.singular:
            return None
        a = len(self.active)
        out: list[list[float | None]] = [[None] * a for _ in range(a)]
        pairs = zip(*torch.triu_indices(a, a, 1).tolist(), strict=True)
        for (i, j), value in zip(pairs, pairwise_information(self.usable).mean(0).tolist(), strict=True):
            out[i][j] = out[j][i] = value
        return tuple(tuple(row) for row in out)

    # -- metrics -----------------------------------------------------------------------------------

    def _mean(
        self,
        id: str,
        values: Tensor,
        *,
        why: str | None = None,
        method: Literal["mean", "median"] = "mean",
        low: float = 0.0,
        high: float = math.inf,
    ) -> Metric:
        """Return a metric that is the mean (or median) of one value per latent, with its interval.

        Args:
            low, high: what it cannot pass.
        """
        x, n = values.double().numpy(), len(values)
        if why is None and n == 0:
            why = "no latent has a value"
        if why is not None:
            return Metric.undefined(SPECS[id], why)
        if method == "median":
            value, ci, how = float(np.median(x)), median_interval(x), "order statistics"
        else:
            value, ci, how = float(np.mean(x)), mean_interval(x, low=low, high=high), "Student's t, skewness"
            if n == self.samples:
                self.per_sample[id] = tuple(x.tolist())
        how = f"{method} over latents" + (f", interval by {how}" if ci else "")
        return Metric(SPECS[id], value, ci=ci, level=LEVEL if ci else None, n=n, method=how)

    def metrics(self) -> list[Metric]:
        """Return every metric, in the order of the page."""
        return [
            Metric(SPECS["latents.dim"], self.decoder.latent_dim),
            Metric(
                SPECS["latents.active"],
                len(self.active),
                n=len(self.G),
                method="" if self.block is None else f"of {self.block.words}",
            ),
            *self._cosine_metrics(),
            *self._contrast_metrics(),
            *self._rotation_metrics(),
            self._mean_field_gap(),
            *self.whole.metrics,
            *self._frame_metrics(),
            *self._nats_metrics(),
            *self._isometry_metrics(),
        ]

    def _cosine_metrics(self) -> list[Metric]:
        cosine, both = self.pairs
        some = both.any(1)
        cosine, both = torch.where(both, cosine, 0.0)[some], both[some]
        mean = cosine.sum(1) / both.sum(1)
        largest = cosine.amax(1) if cosine.shape[1] else mean
        null = Metric(
            SPECS["orthogonality.mean_abs_cosine_gaussian"], expected_abs_cosine(self.decoder.data_dim)
        )
        return [
            self._mean("orthogonality.mean_abs_cosine", mean, why=self.no_pairs, high=1.0),
            self._mean("orthogonality.max_abs_cosine", largest, why=self.no_pairs, high=1.0),
            null,
        ]

    def _contrast_metrics(self) -> list[Metric]:
        c = self.contrast[self.regular]
        gaussian_id = "orthogonality.ima_contrast_gaussian"
        out = [self._mean("orthogonality.ima_contrast", c, why=self.singular)]
        found = self.alignment
        if found is None:
            why = self.singular or ""
            ids = ("ima_contrast_null", "ima_contrast_gaussian")
            out += [Metric.undefined(SPECS[f"orthogonality.{name}"], why) for name in ids]
            return out + self._alignment_metrics(
                self.gap_alignment if self.low_rank else None, f"of the mean-field gap, {self.noise}; "
            )
        null, draws = found.null.numpy(), found.draws.numpy()
        expected = float(null.mean())
        if len(null) == self.samples:  # a baseline draws the same rotations, so that latents can be paired
            self.per_sample["orthogonality.ima_contrast_null"] = tuple(null.tolist())
        how = f"{self.rotations} Haar rotations, the same at every latent"
        out.append(
            Metric(
                SPECS["orthogonality.ima_contrast_null"],
                expected,
                ci=mean_interval(null, draws - draws.mean(), low=0.0),
                level=LEVEL if self.rotations > 1 else None,
                n=len(null),
                method=f"mean over latents and {how}; interval over both",
            )
        )
        gaussian = expected_contrast(len(self.active), self.decoder.data_dim)
        out.append(Metric(SPECS[gaussian_id], gaussian, method="closed form"))
        return out + self._alignment_metrics(found)

    def _alignment_metrics(self, found: Alignment | None, of: str = "") -> list[Metric]:
        """Return the alignment and its p-value.

        Args:
            of: what they are of, where it is not the contrast, as the start of the method.
        """
        if found is None or found.value is None or found.p_value is None:
            why = "G is a multiple of the identity: every basis of the latent space is orthogonal"
            if found is None:
                why = self.singular or ""
            return [
                Metric.undefined(SPECS[f"orthogonality.{name}"], why) for name in ("alignment", "alignment_p")
            ]
        null, draws, given = found.null.numpy(), found.draws.numpy(), found.contrast.numpy()
        expected = float(null.mean())
        how = f"{of}{self.rotations} Haar rotations, the same at every latent"
        # what one latent and one rotation move the ratio of two means by, to first order
        rest = given.mean() / expected
        by_latent, by_rotation = (rest * null - given) / expected, rest * (draws - draws.mean()) / expected
        value = Metric(
            SPECS["orthogonality.alignment"],
            found.value,
            ci=mean_interval(found.value + by_latent, by_rotation, high=1.0),
            level=LEVEL if self.rotations > 1 else None,
            n=len(given),
            method=f"{how}; interval over latents and rotations",
        )
        p = Metric(
            SPECS["orthogonality.alignment_p"],
            found.p_value,
            n=self.rotations,
            method=f"Monte Carlo, {how}",
        )
        return [value, p]

    def _rotation_metrics(self) -> list[Metric]:
        ids = [
            f"orthogonality.{name}" for name in ("ima_contrast_held_out", "ima_contrast_rotated", "fixable")
        ]
        if isinstance(self.search, str):
            return [Metric.undefined(SPECS[id], self.search) for id in ids]
        assert self.held_out is not None
        given, turned = self.held_out
        return [
            self._mean(id, x, low=low)
            for id, x, low in zip(ids, (given, turned, given - turned), (0.0, 0.0, -math.inf), strict=True)
        ]

    def _nats_metrics(self) -> list[Metric]:
        """Entropies of latents and what pairs of them share, beside random axes and random columns."""
        names = ("entropy", "mutual_information", "mutual_information_null", "mutual_information_gaussian")
        specs = [SPECS[f"orthogonality.{name}"] for name in names]
        if self.singular or self.entropies is None:
            return [Metric.undefined(spec, self.singular or "") for spec in specs]
        shared = pairwise_information(self.usable).mean(1)
        by_rotation = torch.stack([pairwise_information(G).mean(1) for G in self._rotated()])
        null, draws = by_rotation.mean(0).numpy(), by_rotation.mean(1).numpy()
        return [
            Metric(
                specs[0],
                [value for value, _ in self.entropies],
                n=len(self.usable),
                method="mean over latents; intervals in the table",
            ),
            self._mean(specs[1].id, shared),
            Metric(
                specs[2],
                float(null.mean()),
                ci=mean_interval(null, draws - draws.mean(), low=0.0),
                level=LEVEL,
                n=len(null),
                method=f"mean over latents and {len(draws)} Haar rotations; interval over both",
            ),
            Metric(specs[3], expected_contrast(2, self.decoder.data_dim), method="closed form"),
        ]

    def _isometry_metrics(self) -> list[Metric]:
        spec, beside = (SPECS[f"orthogonality.isometry_defect{end}"] for end in ("", "_gaussian"))
        if self.no_pairs or self.decoder.data_dim < len(self.active):
            why = self.no_pairs or self.singular or ""
            return [Metric.undefined(spec, why), Metric.undefined(beside, why)]
        s = self.frame[0] if not self.singular else gram.singular_frame(self.sub)[0]
        value, moved = isometry_defect(s)
        return [
            Metric(
                spec,
                value,
                ci=mean_interval(moved.numpy(), low=0.0, high=1.0),
                level=LEVEL,
                n=len(s),
                method="ratio of means over latents; interval by their influence",
            ),
            Metric(
                beside,
                expected_isometry_defect(len(self.active), self.decoder.data_dim),
                method="200 draws of a Gaussian matrix",
            ),
        ]

    def _mean_field_gap(self) -> Metric:
        id, b = "orthogonality.mean_field_gap", self.beta_sigma2
        why = None if len(self.G) else self.no_pairs
        metric = self._mean(id, gram.mean_field_gap(self.G, b), why=why)
        return replace(metric, method=f"{self.noise}; {metric.method}") if metric.defined else metric

    @property
    def noise(self) -> str:
        """What the mean-field gap supposes: beta alone where the likelihood's metric carries the noise."""
        return f"{'beta' if self.likelihood else 'beta sigma^2'} = {self.beta_sigma2:g}"

    def _frame_metrics(self) -> list[Metric]:
        def undefined(name: str) -> Metric:
            return Metric.undefined(SPECS[f"orthogonality.{name}"], self.singular or "")

        whole = ~self._zero_columns
        why = None if len(self.G) else self.no_pairs
        rank = self._mean(
            "orthogonality.effective_rank", gram.effective_rank(self.all_singular_values), why=why
        )
        logs = gram.conformality(self.sub[whole]) if self.no_pairs is None else self.contrast
        spread = self._mean("orthogonality.conformality", logs, why=self.no_pairs)
        if self.singular:
            names = ("condition_number", "smallest_gap")
            return [undefined("distance_to_axes"), spread, rank, *(undefined(name) for name in names)]
        s, V = self.frame
        return [
            self._mean("orthogonality.distance_to_axes", distance_to_axes(s, V, tie=self.tie)),
            spread,
            rank,
            self._mean("orthogonality.condition_number", gram.condition_number(s), method="median"),
            self._mean("orthogonality.smallest_gap", gram.smallest_gap(s), method="median"),
        ]
