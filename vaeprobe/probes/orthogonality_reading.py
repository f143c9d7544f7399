"""What Gram matrices say about orthogonality: metrics, tables beside chance, findings and the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from vaeprobe.findings import (
    APPROXIMATE_P_VALUE,
    BORDERLINE_LATENTS,
    FEW_LATENTS,
    ILL_CONDITIONED,
    INACTIVE_LATENTS,
    NOT_CONVERGED,
    NOT_FINITE,
    RANK_DEFICIENT,
    TIED_SINGULAR_VALUES,
)
from vaeprobe.geometry import gram
from vaeprobe.geometry.nulls import expected_abs_cosine, expected_contrast
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
from vaeprobe.probes.orthogonality_metrics import SPECS
from vaeprobe.report import Finding, Metric, Table, Value

if TYPE_CHECKING:
    from vaeprobe.decoder import Decoder
    from vaeprobe.intervals import Array
    from vaeprobe.probes.orthogonality import Orthogonality

# Columns are called orthogonal where three things hold: their root-mean-square cosine, as the contrast implies it,
# is under ORTHOGONAL; the alignment is at least FAR, so that c is a fifth of what random axes have or less; and
# c is at most half of what random columns of the same lengths have, or NEGLIGIBLE nats: in high dimensions
# random columns have small cosines too.
ORTHOGONAL = 0.05
FAR = 0.8
NEGLIGIBLE = 1e-3
# The alignment from which on axes are called aligned: a smaller one is an effect too small for the word, however
# significant it is.
ALIGNED = 0.2
# The contrast in nats under random rotations, up to which G counts as a multiple of the identity.  In high
# dimensions random columns look orthogonal too, at a contrast of many nats.
CONFORMAL = 0.05
SIGNIFICANT = 0.05
"""Significance of the rotation test."""
# The share of the contrast that a rotation must remove to explain it, and to explain a part of it.
REPAIRED = 0.9
PARTLY = 0.5
# Condition number of the normalised columns above which float32 Jacobians lose digits that matter.
LARGEST_CONDITION = 1e3
# Latents within this factor of the line between active and inactive are pointed out.
BORDER = 1.25
# Active latents above which the best rotation is not searched.
LARGEST_SEARCH = 128
# Multiplications that the rotation null may take (in units of one product of k x k matrices, k^3), and the
# fewest latents it is taken over: half a minute of one core for hundreds of latents.
NULL_BUDGET = 3e11
FEWEST_NULL = 16
FRAME_BUDGET = 1e9


class Reading:
    """Gram matrices, and all that can be read off them; each number once, when it is first asked for.

    Attributes:
        G: finite pullback metrics over the continuous latents, shape (n, k, k).
        overflowed: latents left out since their Gram matrix is not finite.
        active: indices of the active latents, shape (a,).
        sub: pullback metrics over the active latents, shape (n, a, a).
        contrast: ima contrast of `sub`, shape (n,); inf where J is rank-deficient.
        regular: where it is finite, shape (n,).
        per_sample: the values behind the means, by metric id, where no latent was left out.
        no_pairs: why there are no pairs of columns, or None.
        singular: why the contrast is undefined, or None.
    """

    def __init__(self, G: Tensor, decoder: Decoder, probe: Orthogonality, *, isotropic: bool) -> None:
        finite = torch.isfinite(G).flatten(1).all(1)
        dtype = decoder.dtype or torch.float64
        self.decoder, self.probe, self.isotropic, self.dtype = decoder, probe, isotropic, dtype
        self.per_sample: dict[str, tuple[float, ...]] = {}
        self.samples = len(G)
        self.G, self.overflowed = G[finite], int((~finite).sum())
        self.names = tuple(f"z{i}" for i in decoder.continuous)
        self.tie = max(TIE, 1000 * float(torch.finfo(dtype).eps))
        self.active = gram.active_latents(self.G, probe.active_threshold).nonzero().flatten()
        a = len(self.active)
        self.sub = self.G if a == len(self.names) else self.G[:, self.active[:, None], self.active]
        self.tolerance = gram.singular_tolerance(max(a, 1), dtype)
        self.contrast = gram.ima_contrast(self.sub, tolerance=self.tolerance)
        self.regular = torch.isfinite(self.contrast)
        self.cosines = gram.column_cosines(self.sub)
        self.no_pairs = self._why_no_pairs()
        self.singular = self.no_pairs or self._why_singular()
        self.rotations = probe.rotations or int(min(999, max(99, 3e10 // (len(self.G) * max(a, 1) ** 3 + 1))))
        self.restarts = (4 if a <= 16 else 2) if probe.restarts is None else probe.restarts

    def _why_no_pairs(self) -> str | None:
        if len(self.G) < 2:
            return f"the Jacobian is finite at {len(self.G)} of {self.overflowed + len(self.G)} latents"
        if not self.G.any():
            return "every column of the Jacobian is zero: no latent moves the output"
        if len(self.active) == 0:
            return f"no column of the Jacobian is longer than {self.probe.active_threshold:g} of the longest"
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
            return f"J is rank-deficient at {lost} of {n} latents: {self._lost_how()}"
        return None

    def _lost_how(self) -> str:
        """Say what makes J rank-deficient where it is."""
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
        return alignment(G, count=self.rotations, seed=self.probe.seed, tolerance=self.tolerance)

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
        return joint_diagonalise(fit, restarts=self.restarts, seed=self.probe.seed, tolerance=self.tolerance)

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
        R = torch.eye(self.decoder.latent_dim, dtype=torch.float64)
        at = torch.tensor(self.decoder.continuous)[self.active]
        R[at[:, None], at] = self.search.R
        return R

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
            Metric(SPECS["latents.active"], len(self.active), n=len(self.G)),
            *self._cosine_metrics(),
            *self._contrast_metrics(),
            *self._rotation_metrics(),
            self._mean_field_gap(),
            *self._frame_metrics(),
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
            ids = ("ima_contrast_null", "ima_contrast_gaussian", "alignment", "alignment_p")
            return out + [Metric.undefined(SPECS[f"orthogonality.{name}"], why) for name in ids]
        null, draws = found.null.numpy(), found.draws.numpy()
        expected = float(null.mean())
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
        if found.value is None or found.p_value is None:
            why = "G is a multiple of the identity: every basis of the latent space is orthogonal"
            return out + [
                Metric.undefined(SPECS[f"orthogonality.{name}"], why) for name in ("alignment", "alignment_p")
            ]
        given = c.numpy()[: len(null)]
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
        return [*out, value, p]

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

    def _mean_field_gap(self) -> Metric:
        id, b = "orthogonality.mean_field_gap", self.probe.beta_sigma2
        why = None if len(self.G) else self.no_pairs
        metric = self._mean(id, gram.mean_field_gap(self.G, b), why=why)
        return replace(metric, method=f"{self.noise}; {metric.method}") if metric.defined else metric

    @property
    def noise(self) -> str:
        """What the mean-field gap supposes: beta alone where the likelihood's metric carries the noise."""
        return f"{'beta' if self.probe.likelihood else 'beta sigma^2'} = {self.probe.beta_sigma2:g}"

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

    # -- tables and findings -----------------------------------------------------------------------

    def tables(self, metrics: Mapping[str, Metric]) -> list[Table]:
        """Return values beside what chance gives, and what a rotation repairs."""
        if self.no_pairs or self.singular or self.alignment is None:
            return []

        def value(name: str) -> Value:
            return metrics[f"orthogonality.{name}"].value

        draws = self.alignment.draws
        low, high = (float(q) for q in draws.quantile(draws.new_tensor([0.05, 0.95])))
        cosine, distance = self._chance()
        beside = Table(
            title="Beside chance",
            columns=["", "these axes", "random axes", "their 5-95 %", "Gaussian columns"],
            rows=[
                ["mean |cos|", value("mean_abs_cosine"), cosine, None, value("mean_abs_cosine_gaussian")],
                ["ima contrast", value("ima_contrast"), value("ima_contrast_null"), f"{low:.3g} - {high:.3g}",
                 value("ima_contrast_gaussian")],
                ["distance to axes", value("distance_to_axes"), distance, None, None],
            ],
            note=f"the mean-field gap above supposes {self.noise} (--beta-sigma2)",
        )  # fmt: skip
        if isinstance(self.search, str):
            return [beside]
        fit, held = self.halves
        search = self.search
        stay = search.R.diagonal()
        repair = Table(
            title="What a rotation R* repairs",
            columns=["ima contrast (nats)", "these axes", "at R*"],
            rows=[
                [f"{len(fit)} it was fitted on", search.start, search.contrast],
                [f"{len(held)} held out", value("ima_contrast_held_out"), value("ima_contrast_rotated")],
            ],
            note=f"{search.agreeing} of {search.starts} starts agree; R* keeps "
            f"{int((stay > 0.98).sum())} of {len(stay)} axes to a cosine of 0.98",
        )
        return [beside, repair]

    def _chance(self) -> tuple[float, float]:
        """Return the mean |cos| under random rotations, and the mean distance of random V to the axes."""
        a = len(self.active)
        G = self.usable[:128]
        R = haar(a, 20, self.probe.seed)
        i, j = torch.triu_indices(a, a, 1)
        cosine = torch.stack([gram.column_cosines(rotate(G, r))[:, i, j].abs().mean() for r in R]).mean()
        V = haar(a, 64, self.probe.seed + 1)
        spread = torch.arange(a, 0, -1, dtype=V.dtype).expand(len(V), a)
        return float(cosine), float(distance_to_axes(spread, V).mean())

    def findings(self) -> list[Finding]:
        """Return what a reader has to know about these numbers."""
        found = []
        if self.overflowed:
            found.append(
                Finding(
                    NOT_FINITE,
                    f"the Jacobian is not finite at {self.overflowed} of {self.overflowed + len(self.G)} "
                    "latents, which are left out",
                    hint="--dtype float64 widens the range",
                )
            )
        idle = [name for i, name in enumerate(self.names) if i not in set(self.active.tolist())]
        if idle and len(self.G):
            found.append(
                Finding(
                    INACTIVE_LATENTS,
                    f"{_some(idle)} {'is' if len(idle) == 1 else 'are'} inactive: mean column norm within "
                    f"{self.probe.active_threshold:g} of the largest",
                    hint="angles are measured among active latents; --active-threshold moves the line",
                )
            )
        share = (
            self.mean_norms
            / self.mean_norms.max().clamp_min(1e-300)
            / max(self.probe.active_threshold, 1e-300)
        )
        near = [name for name, x in zip(self.names, share.tolist(), strict=True) if 1 / BORDER < x < BORDER]
        if near and self.no_pairs is None:
            found.append(
                Finding(
                    BORDERLINE_LATENTS,
                    f"{_some(near)} {'is' if len(near) == 1 else 'are'} near the line between active and "
                    "inactive: the contrasts depend on which side they fall",
                    hint="see the bars, and set --active-threshold in a gap between them",
                )
            )
        lost = int((~self.regular).sum())
        if lost and self.no_pairs is None and self.decoder.data_dim >= len(self.active):
            found.append(
                Finding(
                    RANK_DEFICIENT,
                    f"J is rank-deficient at {lost} of {len(self.G)} latents ({self._lost_how()}): the "
                    "contrast is infinite there, and averaged over the others",
                    hint="the mean-field gap is finite at all of them",
                )
            )
        if self.singular:
            return found
        found += self._precision_findings()
        if not self.isotropic:
            found.append(
                Finding(
                    APPROXIMATE_P_VALUE,
                    "the p-value of the alignment is exact for latents from the prior, approximate for these",
                )
            )
        fit, _ = self.halves
        angles = len(self.active) * (len(self.active) - 1) // 2
        if not isinstance(self.search, str):
            if len(fit) * len(self.active) < 2 * angles:
                found.append(
                    Finding(
                        FEW_LATENTS,
                        f"the best rotation has {angles} angles, fitted on {len(fit)} latents",
                        hint=f"--samples {8 * len(self.active)} or more",
                    )
                )
            if not self.search.converged:
                found.append(
                    Finding(
                        NOT_CONVERGED,
                        f"the search for the best rotation was still improving after {self.search.steps} steps",
                        hint="its contrast is an upper bound of what a rotation can reach",
                    )
                )
        return found

    def _precision_findings(self) -> list[Finding]:
        found = []
        eigenvalues = torch.linalg.eigvalsh(self.cosines[self.regular]).flip(-1).clamp_min(0)
        condition = float(gram.condition_number(eigenvalues.sqrt()).median())
        if condition > LARGEST_CONDITION and self.dtype != torch.float64:
            found.append(
                Finding(
                    ILL_CONDITIONED,
                    f"the normalised columns have condition number {condition:.1e}, more than "
                    f"{str(self.dtype).removeprefix('torch.')} Jacobians resolve",
                    hint="--dtype float64",
                )
            )
        s = self.frame[0]
        tied = float(((s[:, :-1] - s[:, 1:]) <= self.tie * s[:, :-1]).any(1).double().mean())
        if tied > 0:
            found.append(
                Finding(
                    TIED_SINGULAR_VALUES,
                    f"singular values coincide at {tied:.0%} of the latents: V is arbitrary there, and is "
                    "rotated to the nearest axes",
                )
            )
        return found


def _some(names: Sequence[str], limit: int = 6) -> str:
    """Return a few names and how many more there are."""
    if len(names) <= limit:
        return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]
    return f"{', '.join(names[:limit])} and {len(names) - limit} more"


# -- the verdict ---------------------------------------------------------------------------------


def verdict(metrics: Mapping[str, Metric], reading: Reading) -> tuple[str, str]:
    """Return the verdict in a word or two, and as a researcher would write it."""

    def number(name: str) -> float:
        value = metrics[f"orthogonality.{name}"].value
        assert isinstance(value, float)
        return value

    def interval(name: str) -> tuple[float, float]:
        return metrics[f"orthogonality.{name}"].ci or (number(name), number(name))

    a, k = len(reading.active), len(reading.names)
    if reading.singular:
        gap = metrics["orthogonality.mean_field_gap"]
        rest = ""
        if isinstance(gap.value, float):
            rest = f" The mean-field gap is {nats(gap.value)} ({reading.noise})."
        return "undefined", f"Orthogonality is undefined: {reading.singular}.{rest}"
    small = 0.5 * a * (a - 1) / 2 * ORTHOGONAL**2  # of columns whose root-mean-square cosine is ORTHOGONAL
    c, null, gaussian = number("ima_contrast"), number("ima_contrast_null"), number("ima_contrast_gaussian")
    c_high = interval("ima_contrast")[1]
    among = f"the {a} active latents" if a < k else f"the {a} latents"
    if c_high <= small and interval("ima_contrast_null")[1] <= min(small, CONFORMAL):
        return "conformal", (
            f"The Jacobian's columns are orthogonal in every basis of {among} (ima contrast {nats(c)}, "
            f"{nats(null)} under random rotations): the axes are not special."
        )
    A, p = number("alignment"), number("alignment_p")
    A_low, A_high = interval("alignment")
    metric = f" in the {reading.probe.likelihood.capitalize()} metric" if reading.probe.likelihood else ""
    evidence = (
        f"ima contrast {nats(c)}{metric} against {nats(null)} under random rotations of the latent space "
        f"(alignment {A:.2f}, p = {p:.2g})"
    )
    if c_high <= min(small, max(gaussian / 2, NEGLIGIBLE)) and A_low >= FAR:
        return "orthogonal", f"The Jacobian's columns are orthogonal along the axes of {among}: {evidence}."
    repair = reading.repair
    searched = not isinstance(reading.search, str)
    tail = f" {repair.words[0].upper()}{repair.words[1:]}." if repair else f" {_unsearched(reading)}"
    random = ""
    if c <= small and gaussian / 2 < c < 2 * gaussian:
        random = f" The columns meet as random directions of the output space do ({nats(gaussian)})."
    tail = random + tail
    if repair and repair.share[0] >= REPAIRED and repair.after[1] <= small:
        return "rotated", (
            f"The Jacobian's columns are not orthogonal along the given axes, {evidence}, but one rotation of the "
            f"latent space makes them so: {repair.words}.{random}"
        )
    if p <= SIGNIFICANT and A_low >= ALIGNED:
        return (
            "aligned",
            f"The axes of {among} are more orthogonal than chance, not perfectly so: {evidence}.{tail}",
        )
    if repair and repair.share[0] >= PARTLY:
        return "partly rotated", (
            f"The given axes of {among} are {_beside_chance(p)}, but a rotation of them is: {evidence}.{tail}"
        )
    if p <= SIGNIFICANT and A_high >= ALIGNED:
        return "undecided", (
            f"It is open by how much the axes of {among} are more orthogonal than chance: {evidence}; more --samples "
            f"would decide it.{tail}"
        )
    if p > SIGNIFICANT and p * (reading.rotations + 1) < 1.5:
        return "undecided", (
            f"{reading.rotations} random rotations are too few to tell the axes of {among} from random ones: "
            f"{evidence}; --rotations 19 or more would.{tail}"
        )
    word = "entangled" if searched else "unaligned"
    return word, f"The axes of {among} are {_beside_chance(p)}: {evidence}.{tail}"


def _beside_chance(p: float) -> str:
    return (
        "hardly more orthogonal than random ones"
        if p <= SIGNIFICANT
        else "no more orthogonal than random ones"
    )


def _unsearched(reading: Reading) -> str:
    """Say that no rotation was looked for, and why."""
    assert isinstance(reading.search, str)
    return f"Whether a rotation repairs it was not searched: {reading.search}."


@dataclass(frozen=True)
class Repair:
    """What the best rotation does on held-out latents.

    Attributes:
        share: interval of the share of the contrast that it removes.
        after: interval of the contrast that it leaves.
        words: the same in words.
    """

    share: tuple[float, float]
    after: tuple[float, float]
    words: str


def repair_of(given: Array, turned: Array) -> Repair:
    """Return what a rotation does to the contrasts of held-out latents, each shape (n,), n at least 2."""
    before, after = float(given.mean()), float(turned.mean())
    share = (-math.inf, 0.0)
    if before > 0:
        # what one latent moves the ratio of two means by, to first order
        rest = after / before
        share = mean_interval(1 - rest + (rest * given - turned) / before, high=1.0) or share
    fell = mean_interval(given - turned)
    if fell and fell[0] > 0:
        words = (
            f"the best rotation lowers the contrast from {nats(before)} to {nats(after)} on held-out latents"
        )
    else:
        clearly = "" if after >= before else "clearly "
        words = f"no rotation does {clearly}better ({nats(before)} at the axes, {nats(after)} at the best found, held out)"
        share = (min(share[0], 0.0), share[1])
    return Repair(share, mean_interval(turned, low=0.0) or (after, after), words)


def nats(value: float) -> str:
    """Return an amount in nats; rounding noise as 0."""
    return f"{value:.3g} nats" if value > 1e-9 else "0 nats"
