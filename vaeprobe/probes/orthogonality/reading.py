"""What is read off Gram matrices, each quantity once, when it is first asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.geometry import gram
from vaeprobe.geometry.axes import TIE, distance_to_axes
from vaeprobe.geometry.best_rotation import RotationFit, joint_diagonalise
from vaeprobe.geometry.entropies import pairs_of, pairwise_information, seam_entropies, shared_information
from vaeprobe.geometry.rotations import Alignment, alignment, haar, rotate, rotated_contrast
from vaeprobe.geometry.row_space import row_space
from vaeprobe.geometry.turns import Turn
from vaeprobe.intervals import mean_interval
from vaeprobe.probes.orthogonality.energy import Whole
from vaeprobe.probes.orthogonality.repair import Repair, RowSpace, repair_of
from vaeprobe.probes.parts import channels_and_sites, random_sites

if TYPE_CHECKING:
    from vaeprobe.decoder import Decoder
    from vaeprobe.engine.rounding import Lost
    from vaeprobe.probes.parts import ColumnBlock

__all__ = ["Reading", "Wider"]

# Active latents above which the best rotation is not searched.
LARGEST_SEARCH = 128
# Multiplications that the rotation null may take (in units of one product of k x k matrices, k^3), and the
# fewest latents it is taken over: half a minute of one core for hundreds of latents.
NULL_BUDGET = 3e11
FEWEST_NULL = 16
# Random rotations at least, where time is limited: the fewest that can tell p = 0.05.
FEWEST_ROTATIONS = 19
# As many for what costs some k^3 at each latent, beside the null.
FRAME_BUDGET = 1e9

# Latents beyond which a few random bases do: means over pairs hardly differ from one to another.
MANY = 128


@dataclass(frozen=True)
class Wider:
    """What float64 finds of the rank at a few latents where float32 finds J rank-deficient.

    Attributes:
        at: how many latents were looked at.
        ranks: lowest and highest rank in float64.
        more: whether one is higher than in float32.
        apart: whether all active columns are independent there at one of them.
    """

    at: int
    ranks: tuple[int, int]
    more: bool
    apart: bool


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
        per_sample: the values behind the metrics that are means, by id, where no latent was left out.
        rounding: which active columns are rounding, so that nothing is known of them, or None.
        no_pairs: why there are no pairs of columns, or None.
        singular: why the contrast is undefined, or None.
        wider: what float64 finds of the rank, None where it was not asked.
        more: what would bring latents besides these.
    """

    wider: Wider | None = None
    more: str = "more --samples"

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
        block: ColumnBlock | None = None,
        rounding: Lost | None = None,
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
        self.rounding = rounding
        self.no_pairs = rounding.why if rounding else self._why_no_pairs()
        self.singular = self.no_pairs or self._why_singular()
        self.rotations = rotations or int(min(999, max(99, 3e10 // (len(self.G) * max(a, 1) ** 3 + 1))))
        self.restarts = (4 if a <= 16 else 2) if restarts is None else restarts

    def _why_no_pairs(self) -> str | None:
        if len(self.G) < 2:
            if self.overflowed:
                return f"the Jacobian is finite at {len(self.G)} of {self.overflowed + len(self.G)} latents"
            return f"{len(self.G)} latent is too few for a spread over latents"
        if not self.G.any():
            if self.block is not None:
                return f"every column that was measured is zero: none of {self.block.words} moves the output"
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
            return f"J is rank-deficient: {m} output{'s' * (m > 1)} cannot hold {a} independent columns"
        lost = n - int(self.regular.sum())
        if 2 * lost > n or n - lost < 2:
            return f"J is rank-deficient at {lost} of {n} latents: {self.lost_how}"
        return None

    @property
    def lost_how(self) -> str:
        """What makes J rank-deficient where it is."""
        zero = int((self.zero_columns & ~self.regular).sum())
        dependent = int((~self.regular).sum()) - zero
        parts = [f"a column of length zero at {zero}"] if zero else []
        parts += (
            [f"columns linearly dependent to {self.tolerance**0.5:.0e} at {dependent}"] if dependent else []
        )
        names = [self.names[i] for i in self.active.tolist()]
        alike = "" if zero else gram.alike_words(self.sub, names, self.tolerance)
        return ", ".join(parts) + alike

    @cached_property
    def zero_columns(self) -> Tensor:
        """Where an active column has length zero, shape (n,)."""
        return (self.sub.diagonal(dim1=-2, dim2=-1) <= 0).any(1)

    # -- quantities --------------------------------------------------------------------------------

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """|C_ij| of pairs i < j and whether both columns have a length, each (n, pairs)."""
        i, j = cpu.triu_indices(len(self.active), len(self.active), 1)
        lengths = self.cosines.diagonal(dim1=-2, dim2=-1) > 0
        return self.cosines[:, i, j].abs(), lengths[:, i] & lengths[:, j]

    @property
    def share_drawn(self) -> float:
        """The share of all latents that were drawn to be measured at every point, 1 where none was."""
        if self.block is None or self.block.kind == "channels":
            return 1.0
        return len(self.names) / self.block.whole

    def moved_by_columns(self, H: Tensor) -> Tensor | None:
        """Return what each active column moves a mean over latents and pairs of columns by, shape (a,), of mean 0.

        The jackknife's pseudo-values, as of a sample from finitely many columns; None where all are measured or fewer
        than three are active.

        Args:
            H: mean over latents of what is averaged over pairs, shape (a, a), symmetric; its diagonal says nothing.

        Source: Efron and Stein (1981), Ann. Statist. 9, 586-596: no narrower than the truth on average.
        """
        a = len(self.active)
        if self.share_drawn == 1 or a < 3:
            return None
        each = H.where(~cpu.eye(a, dtype=torch.bool), 0.0).sum(1) / (a - 1)
        return 2 * (a - 1) / (a - 2) * math.sqrt(1 - self.share_drawn) * (each - each.mean())

    @cached_property
    def cosine_matrix(self) -> tuple[tuple[float | None, ...], ...] | None:
        """Mean |C_ij| over the latents where both columns have a length, if those are half or more, active x active."""
        if self.no_pairs:
            return None
        means, count = self.mean_cosines
        return tuple(
            tuple(mean if known else None for mean, known in zip(*row, strict=True))
            for row in zip(means.tolist(), (2 * count >= len(self.cosines)).tolist(), strict=True)
        )

    @cached_property
    def mean_cosines(self) -> tuple[Tensor, Tensor]:
        """Mean |C_ij| over the latents where both columns have a length, 0 where there is none, and how many there are."""
        lengths = (self.cosines.diagonal(dim1=-2, dim2=-1) > 0).double()
        count = lengths.T @ lengths
        return self.cosines.abs().sum(0) / count.clamp_min(1), count

    @cached_property
    def mean_norms(self) -> Tensor:
        """Mean column norm of each continuous latent, shape (k,)."""
        return gram.column_norms(self.G).mean(0) if len(self.G) else cpu.zeros(len(self.names))

    @cached_property
    def usable(self) -> Tensor:
        """Pullback metrics over the active latents where J has full rank."""
        return self.sub if self.regular.all() else self.sub[self.regular]

    @cached_property
    def known_contrast(self) -> Tensor:
        """The contrast where all active columns have a length, what it is at least where they are dependent, shape (n',)."""
        known, dependent = self.contrast.clone(), ~self.regular & ~self.zero_columns
        if dependent.any():
            known[dependent] = gram.least_contrast(self.sub[dependent], self.tolerance)
        return known[~self.zero_columns] if self.zero_columns.any() else known

    @property
    def left_out(self) -> str | None:
        """At which latents contrasts are larger than is known, or infinite; None where at none."""
        lost, n = int((~self.regular).sum()), len(self.G)
        return f"J is rank-deficient at {lost} of {n} latents" if lost else None

    @cached_property
    def frame(self) -> tuple[Tensor, Tensor]:
        """Singular values and right singular vectors of the active columns where J has full rank.

        At the first latents only where hundreds are active: each frame costs some k^3.
        """
        return gram.singular_frame(self.usable[: self._framed])

    @cached_property
    def singular_values(self) -> Tensor:
        """Singular values of the active columns at every latent, shape (n, a), at the first ones only as in `frame`."""
        if self.usable is self.sub and not self.singular:
            return self.frame[0]
        return gram.singular_frame(self.sub[: self._framed])[0]

    @property
    def _framed(self) -> int:
        return max(FEWEST_NULL, int(FRAME_BUDGET // max(len(self.active), 1) ** 3))

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
        return self.frame[0].square().mean(0).sqrt() if self.singular is None else cpu.zeros(0)

    @cached_property
    def alignment(self) -> Alignment | None:
        if self.singular:
            return None
        rows = max(FEWEST_NULL, int(NULL_BUDGET // (self.rotations * len(self.active) ** 3)))
        G = self.sub if self.usable is self.sub else self.sub[~self.zero_columns]
        return alignment(
            G[:rows],
            count=self.rotations,
            least=FEWEST_ROTATIONS,
            seed=self.seed,
            tolerance=self.tolerance,
            contrast=self.known_contrast[:rows],
        )

    @property
    def on_a_map(self) -> tuple[int, int] | None:
        """How many channels at how many sites latents have whose rotations mix sites; None where none do."""
        return channels_and_sites(self.decoder) if self.kind == "latents" else None

    @cached_property
    def channels_alone(self) -> Alignment | None:
        """The alignment of all channels at one random site of each latent; None where not all columns of a map are here."""
        if self.on_a_map is None or self.block is not None:
            return None
        channels, sites = self.on_a_map
        at = random_sites(channels, sites, len(self.G), self.seed)
        G = self.G[cpu.arange(len(at))[:, None, None], at[:, :, None], at[:, None, :]]
        tolerance = gram.singular_tolerance(channels, self.dtype)
        G = G[torch.isfinite(gram.ima_contrast(G, tolerance=tolerance))]
        return alignment(G, count=self.rotations, seed=self.seed, tolerance=tolerance) if len(G) else None

    @cached_property
    def gap_alignment(self) -> Alignment | None:
        """The rotation test on the mean-field gap, which is finite where J is rank-deficient; None without pairs.

        The gap is the contrast of I + G / (beta sigma^2) over the active latents, and rotations leave I alone.
        """
        if self.no_pairs:
            return None
        k = len(self.active)
        rows = max(FEWEST_NULL, int(NULL_BUDGET // (self.rotations * k**3)))
        Lambda = cpu.eye(k, dtype=self.G.dtype) + self.sub[:rows] / self.beta_sigma2
        if not torch.isfinite(gram.ima_contrast(Lambda)).all():  # columns so long that I is lost beside them
            return None
        return alignment(Lambda, count=self.rotations, least=FEWEST_ROTATIONS, seed=self.seed)

    @property
    def resolution(self) -> float:
        """The share of the largest singular value under which G, which squares J, does not tell one from 0."""
        return float(gram.singular_tolerance(max(len(self.names), 1), self.dtype) ** 0.5)

    @cached_property
    def rank(self) -> tuple[int, int]:
        """Lowest and highest number of singular values above the resolution, over latents."""
        counts = gram.ranks(self.all_singular_values, self.resolution)
        return int(counts.min()), int(counts.max())

    @property
    def rank_words(self) -> str:
        """The rank, and as far as what it is known."""
        low, high = self.rank
        count = str(low) if low == high else f"{low} to {high}"
        among = len(self.names) if self.block is None else f"the {len(self.names)} measured"
        return f"rank {count} of {among} (singular values over {self.resolution:.0e} of the largest)"

    @property
    def least_contrast(self) -> float:
        """The contrast in nats that columns have at least which cannot be told from dependent ones."""
        return -0.5 * math.log(self.tolerance)

    @cached_property
    def low_rank(self) -> bool:
        """Whether J has fewer dimensions than active latents, and is not singular for a reason that ends the matter.

        Those reasons: too few outputs, two latents that move the output alike, no dimension left for a pair.
        """
        if not self.singular or self.no_pairs or self.decoder.data_dim < len(self.active) or self.rank[0] < 2:
            return False
        i, j = cpu.triu_indices(len(self.active), len(self.active), 1)
        alike = gram.alike_columns(self.sub, self.tolerance)[:, i, j].any(1)
        found = self.gap_alignment
        return found is not None and found.value is not None and float(alike.double().mean()) < 0.5

    @cached_property
    def row_space(self) -> RowSpace | None:
        """The subspace of the active latents that all Jacobians see, where it is smaller and J has full rank on it."""
        if not self.singular or self.no_pairs:
            return None
        G = self.sub
        B = row_space(G, self.tolerance)
        if B is None or B.shape[1] > LARGEST_SEARCH:
            return None
        inside = B.T @ self.sub @ B
        regular = torch.isfinite(gram.ima_contrast(inside, tolerance=self.tolerance))
        inside = inside[regular]
        if 2 * int(regular.sum()) <= len(G) or len(inside) < 4:
            return None
        fitted, held = inside[::2], inside[1::2]
        found = joint_diagonalise(fitted, restarts=self.restarts, seed=self.seed, tolerance=self.tolerance)
        best = rotated_contrast(held, found.R[None], tolerance=self.tolerance)[0]
        null = alignment(held, count=min(self.rotations, 99), seed=self.seed, tolerance=self.tolerance)
        return RowSpace(B.shape[1], repair_of(null.null.numpy(), best.numpy()))

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
    def turn(self) -> Turn | None:
        """R* as a rotation of the whole latent space, or None."""
        if isinstance(self.search, str):
            return None
        if self.block is not None:
            R = cpu.eye(len(self.names), dtype=torch.float64)
            R[self.active[:, None], self.active] = self.search.R
            return self.block.turned_by(R, self.decoder)
        at = cpu.tensor(self.decoder.continuous)[self.active]
        return Turn(self.search.R, self.decoder.latent_dim, at)

    @cached_property
    def chance(self) -> tuple[float, float]:
        """The mean |cos| under random rotations, and the mean distance of random V to the axes."""
        a = len(self.active)
        cosine = torch.stack([cosine for cosine, _ in self.turned]).mean()
        # the more latents, the less do draws differ, and the dearer is each
        V = haar(a, min(64, max(4, 64 * 64 // a)), self.seed + 1)
        spread = cpu.arange(a, 0, -1, dtype=V.dtype).expand(len(V), a)
        return float(cosine), float(distance_to_axes(spread, V).mean())

    @cached_property
    def turned(self) -> list[tuple[Tensor, Tensor]]:
        """Mean |cos|, and mean information of pairs at each of the first latents, in each of a few random bases."""
        a = len(self.active)
        G = self.usable[: max(FEWEST_NULL, min(128, int(FRAME_BUDGET // a**3)))]
        found = []
        for R in haar(a, 20 if a <= MANY else 8, self.seed):
            cosines = pairs_of(gram.column_cosines(rotate(G, R)))
            found.append((cosines.abs().mean(), shared_information(cosines).mean(1)))
        return found

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
        pairs = zip(*cpu.triu_indices(a, a, 1).tolist(), strict=True)
        for (i, j), value in zip(pairs, pairwise_information(self.usable).mean(0).tolist(), strict=True):
            out[i][j] = out[j][i] = value
        return tuple(tuple(row) for row in out)

    @property
    def noise(self) -> str:
        """What the mean-field gap supposes: beta alone where the likelihood's metric carries the noise."""
        return f"{'beta' if self.likelihood else 'beta sigma^2'} = {self.beta_sigma2:g}"
