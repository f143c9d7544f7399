"""What losses that are no beta-ELBO look like to `vaeprobe beta`, on networks trained here (minutes).

    python sample_models/objectives.py             # writes sample_models/OBJECTIVES.md
    python sample_models/objectives.py --steps 60  # seconds, to the terminal alone

Digits, one hidden layer of 48 tanh units, 6 latents, a Gaussian likelihood of fixed variance.  What may be said in closed
form of linear models stands in `tests/test_objectives.py`; here is what is left of it where networks are trained.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vaeprobe import __version__
from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.probes.beta import Beta, BetaResult

from paper.trained import digits

PAGE = Path(__file__).parent / "OBJECTIVES.md"
LATENTS, WIDTH, BATCH, RATE, SIGMA2, STEPS, SEEDS = 6, 48, 128, 1e-2, 0.05, 1500, 2


def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def total_correlation(z: Tensor, mean: Tensor, log_variance: Tensor, rows: int) -> Tensor:
    """Return the total correlation of the aggregate posterior by minibatch weighted sampling.

    Source: Chen et al. (2018), arXiv:1802.04942, Eq. S4.
    """
    logs = -0.5 * ((z[:, None] - mean).square() / log_variance.exp() + log_variance + math.log(2 * math.pi))
    size = math.log(len(z) * rows)
    joint = logs.sum(2).logsumexp(1) - size
    return (joint - (logs.logsumexp(1) - size).sum(1)).mean()


Penalty = Callable[
    [Tensor, Tensor, Tensor, float], Tensor
]  # z, mean, log variance, share of the training done


@dataclass(frozen=True)
class Objective:
    """What is added to the reconstruction error.

    Attributes:
        name: as the table calls it.
        expected: what the reading should be, in words.
        penalty: nats.
    """

    name: str
    expected: str
    penalty: Penalty


def objectives(rows: int) -> tuple[Objective, ...]:
    """Return the losses that are compared, for data of so many rows."""

    def weighted(weight: Callable[[float], float]) -> Penalty:
        return lambda z, mean, v, done: weight(done) * kl(mean, v).mean()

    return (
        Objective("KL", "1", weighted(lambda done: 1.0)),
        Objective("4 KL", "4", weighted(lambda done: 4.0)),
        Objective(
            "a KL, a from 0 to 4 over the first half", "4", weighted(lambda done: 4 * min(1, 2 * done))
        ),
        Objective("a KL, a from 0 to 4 until the end", "under 4", weighted(lambda done: 4 * done)),
        Objective("a KL, a from 0 to 4, stopped at 2", "under 2", weighted(lambda done: 2 * done)),
        Objective(
            "30 abs(KL - 8)",
            "the multiplier of the constraint",
            lambda z, mean, v, done: 30 * (kl(mean, v).mean() - 8).abs(),
        ),
        Objective(
            "KL + 5 TC",
            "1 of sharp latents, more of mild ones",
            lambda z, mean, v, done: kl(mean, v).mean() + 5 * total_correlation(z, mean, v, rows),
        ),
    )


def train(x: Tensor, objective: Objective, seed: int, steps: int) -> Decoder:
    """Train a VAE by Adam with a cosine step size."""
    torch.manual_seed(seed)
    m = x.shape[1]
    encoder = nn.Sequential(nn.Linear(m, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 2 * LATENTS))
    decoder = nn.Sequential(nn.Linear(LATENTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, m))
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        rows = x[torch.randint(len(x), (BATCH,))]
        mean, log_variance = encoder(rows).chunk(2, 1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        error = (rows - decoder(z)).square().sum(1).mean() / (2 * SIGMA2)
        optimiser.zero_grad()
        (error + objective.penalty(z, mean, log_variance, step / steps)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    eyes = Encoder(lambda rows: encoder(rows).chunk(2, 1), LATENTS, input_shape=(m,))
    return Decoder(decoder.requires_grad_(False), LATENTS, likelihood="gaussian", encoder=eyes)


def row(objective: Objective, results: Sequence[BetaResult]) -> str:
    """Return the line of one objective: each number from the first training to the last."""

    def listed(id: str, digits: int = 3) -> str:
        values = [r[id].value for r in results]
        return ", ".join(f"{v:.{digits}g}" if isinstance(v, float | int) else "-" for v in values)

    squares = [
        float(v)
        for r in results
        for v, on in zip(r.moments.squares.mean(0), r.active.precision, strict=True)
        if on
    ]
    cells = (
        objective.name,
        objective.expected,
        listed("beta.estimate"),
        listed("beta.mean_identity"),
        listed("beta.consistency"),
        listed("kl.total"),
        f"{min(squares):.2f} .. {max(squares):.2f}" if squares else "-",
        ", ".join(r.verdict for r in results),
    )
    return f"| {' | '.join(cells)} |"


HEAD = """| loss besides the error | beta to expect | by variances | by means | consistency | total KL, nats | mean squares | verdict |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def page(lines: Sequence[str], steps: int) -> str:
    """Return the page."""
    table = "\n".join(lines)
    return f"""# What other losses look like to `beta`

Written by `python sample_models/objectives.py` with vaeprobe {__version__}: {SEEDS} trainings of {steps} steps each, on scikit-learn's
digits, {LATENTS} latents, a Gaussian likelihood of variance {SIGMA2} that `beta` is given (`--sigma2 {SIGMA2}`), read on 512 training rows.

{HEAD}
{table}

{READ}"""


READ = """How to read it:

- One beta for variances, means and all latents reads as the weight of the KL at the end of training, within 5 %. Annealing that
  ends before training does leaves no trace; one that never settles reads 4 to 10 % low, and calls itself consistent.
- A hard constraint on the total KL keeps the KL at its capacity. Its multiplier jumps between both signs from step to step, so that
  networks end where variances and means ask for different betas: `inconsistent`, and codes that do not fill the prior. At the
  optimum, which linear models reach, it would read as one beta.
- A penalty on the total correlation reads as a beta between 1 and its weight, of variances and means alike, and may pass for a
  beta-ELBO: `beta` says so beside every consistent answer.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What other losses look like to beta.")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="of Adam; the page is written at the default alone"
    )
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    x, lines = digits(), []
    for objective in objectives(len(x)):
        results = [
            Beta(data=x, sigma2=SIGMA2, samples=512, seed=seed).measure(
                train(x, objective, seed, asked.steps)
            )
            for seed in range(SEEDS)
        ]
        lines.append(row(objective, results))
        print(lines[-1], flush=True)
    if asked.steps == STEPS:
        PAGE.write_text(page(lines, asked.steps), encoding="utf-8")
        print(f"wrote {PAGE}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
