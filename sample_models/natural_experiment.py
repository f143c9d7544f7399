"""Do diagonal posteriors align the channels of autoencoders?  A natural experiment, by a protocol fixed beforehand.

    python sample_models/natural_experiment.py diagonal=sd-vae/ diagonal=flux-vae/ shared=ltx-vae/ none=taesd.pth
    python sample_models/natural_experiment.py --control none=taesd.pth      # and each with its weights shuffled

Autoencoders of images differ in the posterior that they were trained with: *diagonal*, a variance per entry (most of
them); *shared*, one variance for all (LTX-Video); *none* (TAESD, DC-AE).  The paper's claim makes a prediction, written
down here before any of them is measured:

    channels are aligned with the latent axes in the first group, and no more than by chance in the others.

A rotation of the channels, the same at every site, leaves N(0, I) unchanged, so that the test of `vaeprobe orthogonality
--part channels` is exact.  L1, perceptual and adversarial losses and normalisation favour axes too, whatever the
posterior: hence the contrast between the groups is the claim, and alignment within the first alone says little.  A network
that decodes another's latents (a distilled one) belongs to the group of the autoencoder whose latents they are.

Decided before: 64 latents of the prior, 199 rotations, seed 0.  A model is *aligned* where p is at most 0.05 over the number
of models, and the interval of the alignment lies above 0.2; it has *no alignment* where p is larger or the interval lies
under 0.2; else it is *open*.  The prediction *holds* where the interval (Welch) of the mean alignment of the first group
less that of the others lies above 0, *fails* where it lies under 0, and is *open* otherwise, or with fewer than two models on
either side.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import nn

import vaeprobe
from vaeprobe.errors import VaeprobeError
from vaeprobe.intervals import mean_interval, stream

Group: TypeAlias = Literal["diagonal", "shared", "none", "shuffled"]
GROUPS: tuple[Group, ...] = ("diagonal", "shared", "none")
SAMPLES, ROTATIONS, SEED = 64, 199, 0
CLEAR, LEVEL = 0.2, 0.05


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


def read(name: str, group: Group, decoder: vaeprobe.Decoder, samples: int = SAMPLES) -> Reading:
    """Measure the alignment of a decoder's channels."""
    found = vaeprobe.orthogonality(
        decoder, part="channels", samples=samples, rotations=ROTATIONS, restarts=0, seed=SEED
    )
    alignment, p = found["orthogonality.alignment"], found["orthogonality.alignment_p"]
    if not isinstance(alignment.value, float) or not isinstance(p.value, float):
        return Reading(name, group, None, None, None, alignment.reason or p.reason or "")
    return Reading(name, group, alignment.value, alignment.ci, p.value)


def shuffled(decoder: vaeprobe.Decoder, seed: int = SEED) -> vaeprobe.Decoder:
    """Return the decoder with the entries of every weight in random order: same sizes, nothing learnt.

    Raises:
        ValueError: it is no module of torch, and has no weights to shuffle.
    """
    if not isinstance(decoder.function, nn.Module):
        raise ValueError("a program has no weights to shuffle")
    network = copy.deepcopy(decoder.function)
    rng = stream(seed, "shuffled weights")
    with torch.no_grad():
        for weight in network.parameters():
            order = torch.from_numpy(rng.permutation(weight.numel()))
            weight.copy_(weight.flatten()[order].reshape(weight.shape))
    return decoder.with_function(network, name=f"{decoder.name}, shuffled", natural=None, encoder=None)


def contrast(readings: Sequence[Reading]) -> tuple[str, tuple[float, float] | None]:
    """Return whether the prediction holds, and the interval of the difference of the groups' means."""
    first = np.array([r.value for r in readings if r.group == "diagonal" and r.value is not None])
    others = np.array([r.value for r in readings if r.group in ("shared", "none") and r.value is not None])
    if min(len(first), len(others)) < 2:
        return "open", None
    interval = mean_interval(first, -others)
    assert interval is not None
    low, high = interval
    return "holds" if low > 0 else "fails" if high < 0 else "open", interval


def report(readings: Sequence[Reading]) -> str:
    """Return the readings and the decision as text."""
    lines = [f"{'group':10} {'alignment':>22} {'p':>6}  {'':13} model"]
    for r in readings:
        numbers = (
            f"{r.value:6.2f} ({r.ci[0]:.2f} .. {r.ci[1]:.2f})"
            if r.value is not None and r.ci is not None
            else "undefined"
        )
        p = "" if r.p is None else f"{r.p:.3f}"
        lines.append(f"{r.group:10} {numbers:>22} {p:>6}  {r.word(len(readings)):13} {r.name}")
        if r.reason:
            lines.append(f"  {r.reason}")
    verdict, interval = contrast(readings)
    if interval is None:
        lines.append("prediction: open; it takes two models with diagonal posteriors and two without")
    else:
        lines.append(
            f"prediction: {verdict}; first group less the others {interval[0]:.2f} .. {interval[1]:.2f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        epilog="MODEL is what `vaeprobe` loads: a file, a folder of diffusers, or hf:owner/name.",
    )
    parser.add_argument("models", nargs="+", metavar="GROUP=MODEL", help=f"group: {', '.join(GROUPS)}")
    parser.add_argument("--control", action="store_true", help="measure each with shuffled weights too")
    asked = parser.parse_args(arguments)
    named = [entry.partition("=") for entry in asked.models]
    for group, sign, _ in named:
        if not sign or group not in GROUPS:
            parser.error(
                f"`{group}{sign}` names no group: write one of {', '.join(g + '=MODEL' for g in GROUPS)}"
            )
    torch.set_num_threads(1)
    readings = []
    for group, _, path in named:
        try:
            decoder = vaeprobe.load(path)
            readings.append(read(Path(path).name or path, group, decoder))  # type: ignore[arg-type]
            if asked.control:
                readings.append(read(f"{Path(path).name}, shuffled", "shuffled", shuffled(decoder)))
        except VaeprobeError as error:
            print(f"{path}: {error.message}", file=sys.stderr)
            return error.exit_code
    print(report(readings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
