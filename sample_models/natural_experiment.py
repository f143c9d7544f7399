"""Do diagonal posteriors align the channels of autoencoders?  A natural experiment, by a protocol fixed beforehand.

    python sample_models/natural_experiment.py diagonal=sd-vae/ diagonal=flux-vae/ shared=ltx-vae/ none=taesd.pth
    python sample_models/natural_experiment.py --control none=taesd.pth      # and each with random weights

Autoencoders of images differ in the posterior that they were trained with: *diagonal*, a variance per entry (most of
them); *shared*, one variance for all (LTX-Video); *none* (TAESD, DC-AE).  The paper's claim makes a prediction, written
down here before any of them is measured:

    channels are aligned with the latent axes in the first group, and no more than by chance in the others.

A rotation of the channels, the same at every site, leaves N(0, I) unchanged, so that the test of `vaeprobe orthogonality
--part channels` is exact.  L1, perceptual and adversarial losses and normalisation favour axes too, whatever the
posterior: hence the contrast between the groups is the claim, and alignment within the first alone says little.  A network
that decodes another's latents (a distilled one) belongs to the group of the autoencoder whose latents they are.

Decided before: 64 latents of the prior, 199 rotations (40 for each model where that is more, or no p could be as small as is
asked), seed 0.  A model is *aligned* where p is at most 0.05 over the number of models, and the interval of the alignment lies above 0.2; it has *no alignment* where p is larger or the interval lies
under 0.2; else it is *open*.  The prediction *holds* where the interval (Welch) of the mean alignment of the first group
less that of the others lies above 0, *fails* where it lies under 0, and is *open* otherwise, or with fewer than two models on
either side.  Beside it stands how often a relabelling of the models sets the groups as far apart (exact where there are
few relabellings), which supposes no distribution; with few models it cannot be small, and the smallest that it can be is said.

Added after: models with flat latents, whose whole latent space is rotated instead.  The rule is the same; whether to mix
them with images' autoencoders is for whoever names the models.

Controls have the same layers with weights drawn from a normal distribution of each tensor's own mean square, whose columns no
rotation of the latents changes.  Shuffled weights would be no control: a few large entries among them, as training leaves them,
favour the axes, which is seen as alignment of up to 0.75.  What a network does to single channels before its first weights
(the tanh at the door of TAESD and its kin) favours them too, and stays.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import vaeprobe
from vaeprobe.errors import VaeprobeError
from vaeprobe.intervals import mean_interval, stream

Group: TypeAlias = Literal["diagonal", "shared", "none", "random"]
GROUPS: tuple[Group, ...] = ("diagonal", "shared", "none")
SAMPLES, ROTATIONS, SEED = 64, 199, 0
CLEAR, LEVEL = 0.2, 0.05
MOST, DRAWS = 20_000, 9_999  # relabellings that are all looked at, and else so many of them


@dataclass(frozen=True)
class Reading:
    """The alignment of one autoencoder's channels.

    Attributes:
        name, group: which model, and how it was trained.
        value, ci, p: alignment, its interval and p-value; None where the axes cannot matter.
        reason: why, then.
    """

    name: str
    group: Group
    value: float | None
    ci: tuple[float, float] | None
    p: float | None
    reason: str = ""

    def word(self, models: int) -> str:
        """Return aligned, no alignment or open, among so many models."""
        if self.value is None or self.p is None or self.ci is None:
            return "undefined"
        if self.p > LEVEL / models or self.ci[1] < CLEAR:
            return "no alignment"
        return "aligned" if self.ci[0] > CLEAR else "open"


def rotations_for(models: int) -> int:
    """Return the number of rotations whose smallest p-value is half of what is asked of one among so many models."""
    return max(ROTATIONS, math.ceil(2 * models / LEVEL) - 1)


def read(
    name: str, group: Group, decoder: vaeprobe.Decoder, samples: int = SAMPLES, rotations: int = ROTATIONS
) -> Reading:
    """Measure the alignment of a decoder's channels, or of its latents where they have no space."""
    found = vaeprobe.orthogonality(
        decoder,
        part="channels" if decoder.latent_shape else "auto",
        samples=samples,
        rotations=rotations,
        restarts=0,
        seed=SEED,
    )
    alignment, p = found["orthogonality.alignment"], found["orthogonality.alignment_p"]
    if not isinstance(alignment.value, float) or not isinstance(p.value, float):
        return Reading(name, group, None, None, None, alignment.reason or p.reason or "")
    return Reading(name, group, alignment.value, alignment.ci, p.value)


def random(decoder: vaeprobe.Decoder, seed: int = SEED) -> vaeprobe.Decoder:
    """Return the decoder with normal weights of the same sizes, nothing learnt; gains and biases stay as they are.

    Raises:
        ValueError: it has no weights that could be drawn: it is no module of torch, or a program of fixed numbers.
    """
    network = copy.deepcopy(decoder.function) if isinstance(decoder.function, nn.Module) else nn.Identity()
    weights = [weight for weight in network.parameters() if weight.ndim > 1]
    if not weights:
        raise ValueError("a program of fixed numbers has no weights to draw anew")
    rng = stream(seed, "random weights")
    with torch.no_grad():
        for weight in weights:
            drawn = torch.from_numpy(rng.standard_normal(tuple(weight.shape)))
            weight.copy_(drawn * weight.double().square().mean().sqrt())
    return decoder.with_function(network, name=f"{decoder.name}, random weights", natural=None, encoder=None)


def sides(readings: Sequence[Reading]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the alignments of models with diagonal posteriors, and of those without."""
    first = [r.value for r in readings if r.group == "diagonal" and r.value is not None]
    others = [r.value for r in readings if r.group in ("shared", "none") and r.value is not None]
    return np.array(first), np.array(others)


def contrast(readings: Sequence[Reading]) -> tuple[str, tuple[float, float] | None]:
    """Return whether the prediction holds, and the interval of the difference of the groups' means."""
    first, others = sides(readings)
    if min(len(first), len(others)) < 2:
        return "open", None
    interval = mean_interval(first, -others)
    assert interval is not None
    low, high = interval
    return "holds" if low > 0 else "fails" if high < 0 else "open", interval


def relabelled(first: NDArray[np.float64], others: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the share of relabellings with a difference of means as large or larger, and the smallest it can be.

    Exact over all of them up to 20,000, else of 9,999 random ones and the one that was seen; None for an empty group.

    Source: Pitman (1937), Suppl. J. R. Statist. Soc. 4, 119-130.
    """
    n, k = len(first) + len(others), len(first)
    if not 0 < k < n:
        return None
    values = np.concatenate([first, others])
    seen, total = (
        first.sum() - 1e-12 * np.abs(values).sum(),
        math.comb(n, k),
    )  # ties count, as rounding leaves them
    if total <= MOST:
        sums = np.array([values[list(chosen)].sum() for chosen in combinations(range(n), k)])
        return float((sums >= seen).mean()), 1 / total
    rng = stream(SEED, "relabelled models")
    sums = np.array([rng.permutation(values)[:k].sum() for _ in range(DRAWS)])
    return (1 + int((sums >= seen).sum())) / (1 + DRAWS), 1 / (1 + DRAWS)


def summary(readings: Sequence[Reading]) -> list[str]:
    """Return a line per group: how many models, how many of them aligned, the mean of their alignments and its interval."""
    lines, models = [], sum(r.group != "random" for r in readings)
    for group in (*GROUPS, "random"):
        inside = [r for r in readings if r.group == group]
        values = np.array([r.value for r in inside if r.value is not None])
        if not len(values):
            continue
        interval = mean_interval(values, high=1.0)
        words = [r.word(models) for r in inside]
        lines.append(
            f"{group:10} {values.mean():6.2f} "
            + (f"({interval[0]:.2f} .. {interval[1]:.2f})" if interval else " " * 14)
            + f"  {words.count('aligned')} of {len(inside)} aligned, {words.count('no alignment')} without"
        )
    return lines


def report(readings: Sequence[Reading]) -> str:
    """Return the readings and the decision as text."""
    models = sum(r.group != "random" for r in readings)
    lines = [f"{'group':10} {'alignment':>22} {'p':>6}  {'':13} model"]
    for r in readings:
        numbers = (
            f"{r.value:6.2f} ({r.ci[0]:.2f} .. {r.ci[1]:.2f})"
            if r.value is not None and r.ci is not None
            else "undefined"
        )
        p = "" if r.p is None else f"{r.p:.3f}"
        lines.append(f"{r.group:10} {numbers:>22} {p:>6}  {r.word(models):13} {r.name}")
        if r.reason:
            lines.append(f"  {r.reason}")
    verdict, interval = contrast(readings)
    lines += ["", *summary(readings)]
    if interval is None:
        lines.append("prediction: open; it takes two models with diagonal posteriors and two without")
    else:
        lines.append(
            f"prediction: {verdict}; first group less the others {interval[0]:.2f} .. {interval[1]:.2f}"
        )
    chance = relabelled(*sides(readings))
    if chance is not None:
        lines.append(f"relabelled as far apart: {chance[0]:.3g} of the time (at least {chance[1]:.2g})")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        epilog="MODEL is what `vaeprobe` loads: a file, a folder of diffusers, or hf:owner/name.",
    )
    parser.add_argument("models", nargs="+", metavar="GROUP=MODEL", help=f"group: {', '.join(GROUPS)}")
    parser.add_argument("--control", action="store_true", help="measure each with random weights too")
    asked = parser.parse_args(arguments)
    named = [entry.partition("=") for entry in asked.models]
    for group, sign, _ in named:
        if not sign or group not in GROUPS:
            parser.error(
                f"`{group}{sign}` names no group: write one of {', '.join(g + '=MODEL' for g in GROUPS)}"
            )
    torch.set_num_threads(1)
    readings, rotations = [], rotations_for(len(named))
    for group, _, path in named:
        name = "/".join(Path(path).parts[-2:])
        try:
            decoder = vaeprobe.load(path)
            readings.append(read(name, group, decoder, rotations=rotations))  # type: ignore[arg-type]
            if asked.control:
                control = random(decoder)
                readings.append(read(f"{name}, random weights", "random", control, rotations=rotations))
        except VaeprobeError as error:
            print(f"{path}: {error.message}", file=sys.stderr)
            return error.exit_code
        except ValueError as error:
            print(f"{path}: no control, {error}", file=sys.stderr)
    print(report(readings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
