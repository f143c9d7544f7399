"""Which model to keep, by stated criteria, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.comparison.numbers import Pair, Seen
from vaeprobe.comparison.parts import comparable
from vaeprobe.geometry.agreement import best_matched, correlations, ranks, udr
from vaeprobe.intervals import stream
from vaeprobe.result import Result

RESAMPLES = 200
# criterion -> what it is, in words; more is better in each
CRITERIA = {
    "udr": "median UDR with the others",
    "agreement": "mean MCC with the others",
    "alignment": "alignment with the axes",
    "elbo": "ELBO (nats per row)",
}


@dataclass(frozen=True, eq=False)
class Ranking:
    """Models by one criterion.

    Attributes:
        criterion: a key of `CRITERIA`.
        values: of each model; more is better.
        draws: the same on resampled rows or latents, the same ones for all models, shape (resamples, models).
        part: which latents it is of, the same ones of each model; "" where it is of all.
    """

    criterion: str
    values: tuple[float, ...]
    draws: Tensor
    part: str = ""

    @property
    def order(self) -> tuple[int, ...]:
        """The models, the best first."""
        return tuple(sorted(range(len(self.values)), key=lambda k: -self.values[k]))

    def first(self) -> list[float]:
        """Return the share of resamples in which each model comes first; ties are shared out."""
        top = self.draws == self.draws.amax(1, keepdim=True)
        return (top.double() / top.sum(1, keepdim=True)).mean(0).tolist()

    def places(self) -> list[tuple[int, int]]:
        """Return between which places (from 1) each model lies in 95 of 100 resamples."""
        better = (self.draws[:, None, :] > self.draws[:, :, None]).sum(2) + 1
        low, high = torch.quantile(
            better.double(), better.new_tensor([0.025, 0.975], dtype=torch.float64), dim=0
        )
        return [(int(a.floor()), int(b.ceil())) for a, b in zip(low, high, strict=True)]


def rankings(
    results: Sequence[Mapping[str, Result]], seen: Sequence[Seen], pairs: Sequence[Pair], *, seed: int
) -> tuple[Ranking, ...]:
    """Return the models by every criterion that tells them apart: UDR and agreement need three of them.

    What was measured along different parts of the latents is no criterion.
    """
    rng, k = stream(seed, "ranking"), len(results)
    found = []
    if k > 2 and pairs:
        n = len(seen[0].codes)
        picks = [cpu.arange(n), *torch.from_numpy(rng.integers(0, n, (RESAMPLES, n)))]
        tables = torch.stack([torch.stack(_pairwise(seen, pick)) for pick in picks])  # resamples, 2, k, k
        others = ~cpu.eye(k, dtype=torch.bool)
        apart = tables[:, :, others].reshape(len(picks), 2, k, k - 1)
        for name, score in (("udr", _median(apart[:, 0])), ("agreement", apart[:, 1].mean(2))):
            found.append(Ranking(name, tuple(score[0].tolist()), score[1:]))
    for name, probe, ids in (
        ("alignment", "orthogonality", ("orthogonality.ima_contrast", "orthogonality.ima_contrast_null")),
        ("elbo", "posterior", ("elbo.value",)),
    ):
        samples = [[_column(r, probe, id) for id in ids] for r in results]
        sizes = {len(c) for columns in samples for c in columns}
        metric = "elbo.value" if name == "elbo" else "orthogonality.alignment"
        if len(sizes) != 1 or 0 in sizes or not comparable(measured := [r[probe] for r in results], metric):
            continue
        n = sizes.pop()
        pick = torch.from_numpy(rng.integers(0, n, (RESAMPLES, n)))
        pick = torch.cat([cpu.arange(n)[None], pick])
        means = [[cpu.tensor(c, dtype=torch.float64)[pick].mean(1) for c in columns] for columns in samples]
        table = torch.stack([m[0] if len(m) == 1 else 1 - m[0] / m[1] for m in means], 1)
        # the criterion itself is the metric, which may rest on more than the values that are resampled
        whole = [r.metrics[metric].value for r in measured]
        if all(isinstance(v, float) for v in whole):
            values = tuple(float(v) for v in whole if isinstance(v, float))
            found.append(Ranking(name, values, table[1:], measured[0].part))
    return tuple(found)


def _column(results: Mapping[str, Result], probe: str, id: str) -> Sequence[float]:
    return results[probe].per_sample().get(id, ()) if probe in results else ()


def _median(scores: Tensor) -> Tensor:
    """Return the median over the last axis, that of an even number in the middle."""
    return torch.quantile(scores, 0.5, dim=-1)


def _pairwise(seen: Sequence[Seen], pick: Tensor) -> list[Tensor]:
    """Return UDR and MCC of each two models on some rows, each shape (k, k)."""
    k = len(seen)
    out = [cpu.zeros(k, k, dtype=torch.float64) for _ in range(2)]
    codes = [s.codes[pick] for s in seen]
    orders = [ranks(c) for c in codes]
    for i, j in combinations(range(k), 2):
        out[0][i, j] = out[0][j, i] = udr(correlations(orders[i], orders[j]))
        out[1][i, j] = out[1][j, i] = best_matched(correlations(codes[i], codes[j])[None])[0]
    return out
