"""Diagonal against full-covariance posteriors: are the axes found by one and not by the other?

Trains both on data of known truth over several seeds and prints, per run, how well the latent axes match the true
factors, the alignment of the decoder's Jacobian with its p-value against random rotations, and the loss both
reach.  Nothing is asserted here; `tests/probes/test_posterior.py` holds the stored models to it.

    python tests/benchmarks/bench_posterior_covariance.py [seeds]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "sample_models"))

from posterior_covariance import factors_and_data, matched_correlation, train

from vaeprobe.decoder import Decoder
from vaeprobe.engine.verbs import gram
from vaeprobe.geometry.rotations import alignment
from vaeprobe.latents import Prior


def main(seeds: int = 3) -> None:
    torch.set_num_threads(1)
    print(f"{'truth':<8} {'posterior':<9} {'seed':>4} {'|rho| with factors':>19} {'alignment':>10} {'p':>7}")
    for truth in ("linear", "curved"):
        factors, x = factors_and_data(truth)
        for posterior in ("diagonal", "full"):
            for seed in range(1, seeds + 1):
                vae = train(truth, posterior, seed=seed)
                decoder = Decoder(vae.decoder, factors.shape[1])
                found = alignment(gram(decoder, Prior().draw(decoder, 256, seed=seed)), count=499)
                rho = matched_correlation(vae.encoder(x)[:, : factors.shape[1]], factors)
                value = "undefined" if found.value is None else f"{found.value:.3f}"
                p = "" if found.p_value is None else f"{found.p_value:.3f}"
                print(f"{truth:<8} {posterior:<9} {seed:>4} {rho:>19.3f} {value:>10} {p:>7}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
