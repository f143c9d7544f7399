"""How fast Jacobians and Gram matrices are, against what the same floating-point work costs at best.

    python tests/benchmarks/bench_jacobian.py [--points 64] [--rounds 7] [NAME ...]

FWD = 1 is the plain forward pass on n * d latents (channels last, best of several chunk sizes): as many
multiplications as n * d tangents take.  Everything is timed in turns in one process, and the ratios are of
medians, so that they survive a busy machine.  Networks have random weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from vaeprobe.decoder import Decoder
from vaeprobe.engine.chunks import Size
from vaeprobe.engine.methods import choose, mapped
from vaeprobe.engine.verbs import gram, jacobian, pushforward

Work = Callable[[], object]


@dataclass(frozen=True)
class Goal:
    """A ratio to FWD that must be reached, and one to aim for."""

    must: float
    ambitious: float


def burgess(size: int = 32, channels: int = 1) -> nn.Module:
    """The decoder of Burgess et al. (2018), as in disvae: d = 10."""
    up = [
        layer
        for _ in range(3 if size == 64 else 2)
        for layer in (nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.ReLU())
    ]
    return nn.Sequential(
        nn.Linear(10, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 512), nn.ReLU(),
        nn.Unflatten(1, (32, 4, 4)), *up, nn.ConvTranspose2d(32, channels, 4, 2, 1), nn.Sigmoid(),
    )  # fmt: skip


def mlp(m: int) -> nn.Module:
    """32-512-512-512-m."""
    return nn.Sequential(
        nn.Linear(32, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, m)
    )  # fmt: skip


def dcgan(width: int = 64) -> nn.Module:
    """The generator of Radford et al. (2016): d = 100, batch normalisation, 64 x 64 x 3."""
    layers: list[nn.Module] = [
        nn.Unflatten(1, (100, 1, 1)),
        nn.ConvTranspose2d(100, 8 * width, 4, 1, 0, bias=False),
    ]
    for wide in (8, 4, 2):
        layers += [nn.BatchNorm2d(wide * width), nn.ReLU(True)]
        layers += [nn.ConvTranspose2d(wide * width, wide * width // 2, 4, 2, 1, bias=False)]
    return nn.Sequential(
        *layers,
        nn.BatchNorm2d(width),
        nn.ReLU(True),
        nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False),
        nn.Tanh(),
    )


class Residual(nn.Module):
    """Group normalisation, SiLU and a 3 x 3 convolution, twice, around a skip connection."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *[nn.Sequential(nn.GroupNorm(8, c), nn.SiLU(), nn.Conv2d(c, c, 3, padding=1)) for _ in range(2)]
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.body(h)


def autoencoder_kl(width: int = 32) -> nn.Module:
    """The shape of a latent-diffusion decoder: 4 x 8 x 8 latents, residual blocks, nearest up-sampling."""
    return nn.Sequential(
        nn.Unflatten(1, (4, 8, 8)), nn.Conv2d(4, 2 * width, 3, padding=1), Residual(2 * width), Residual(2 * width),
        nn.Upsample(scale_factor=2), nn.Conv2d(2 * width, 2 * width, 3, padding=1), Residual(2 * width),
        nn.Upsample(scale_factor=2), nn.Conv2d(2 * width, width, 3, padding=1), Residual(width),
        nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, Goal]] = {
    "burgess-32": (burgess, 10, Goal(0.85, 0.60)),
    "burgess-64": (lambda: burgess(64, 3), 10, Goal(0.85, 0.60)),
    "mlp-784": (lambda: mlp(784), 32, Goal(1.25, 1.10)),
    "mlp-12288": (lambda: mlp(12288), 32, Goal(0.2, 0.13)),
    "dcgan": (dcgan, 100, Goal(1.25, 1.10)),
}


def realistic(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch normalisations statistics of their own."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_var is not None
            layer.running_var.copy_(torch.rand(layer.running_var.shape, generator=generator) + 0.5)
    return network.eval().requires_grad_(False)


def clock() -> float:
    """Return processor time on one thread, which other programs do not add to, else wall time."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def medians(works: dict[str, Work], rounds: int) -> dict[str, float]:
    """Return the median time of each piece of work, in seconds, all done in turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            start = clock()
            work()
            if turn:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def forward(network: nn.Module, z: Tensor, rows: int) -> Work:
    """Return the plain forward pass in chunks of so many rows."""

    def work() -> None:
        with torch.no_grad():
            for part in z.split(rows):
                network(part)

    return work


def tuned(network: nn.Module, z: Tensor) -> Work:
    """Return the fastest of several plain forward passes."""
    last = realistic(network).to(memory_format=torch.channels_last)
    works = {
        str(rows): forward(last, z, rows) for rows in (40, 160, 640, 2560) if rows <= max(40, 2 * len(z))
    }
    best = min(medians(works, 3).items(), key=lambda pair: pair[1])
    return works[best[0]]


def ratios(name: str, points: int, rounds: int) -> dict[str, float]:
    """Return times of one network relative to FWD."""
    torch.manual_seed(0)
    make, d, _ = NETWORKS[name]
    network = realistic(make())
    decoder = Decoder(network, d)
    z = torch.randn(points, d)
    choice = choose(decoder)
    eye = torch.eye(d)

    def by_vmap() -> Tensor:
        size = Size.fitting(choice.widest, 4, d).points
        return torch.cat(
            [
                torch.einsum("inm,jnm->nij", t, t)
                for part in z.split(size)
                for t in [mapped(decoder.flat, part, eye[:, None].expand(d, len(part), d))[1].value()]
            ]
        )

    def naive() -> Tensor:
        J = torch.func.vmap(torch.func.jacfwd(lambda x: decoder.flat(x[None])[0]))(z)
        return J.mT @ J

    works: dict[str, Work] = {
        "FWD": tuned(make(), z.repeat(d, 1)),
        "gram": lambda: gram(decoder, z),
        "jacobian": lambda: jacobian(decoder, z),
        "J v": lambda: pushforward(decoder, z, torch.ones(d, points, d)),
        "vmap(jvp)": by_vmap,
        "vmap(jacfwd), naive": naive,
    }
    times = medians(works, rounds)
    return {work: seconds / times["FWD"] for work, seconds in times.items()}


def probe_ratio(points: int, rounds: int) -> float:
    """Return the time of one J v, four sharing the primal, relative to one forward pass, for a KL decoder."""
    torch.manual_seed(0)
    network = realistic(autoencoder_kl())
    decoder = Decoder(network, 256)
    z, v = torch.randn(points, 256), torch.randn(4, points, 256)
    times = medians(
        {
            "forward": forward(network, z, points),
            "last": tuned(network, z),
            "probes": lambda: pushforward(decoder, z, v),
        },
        rounds,
    )
    return times["probes"] / 4 / min(times["forward"], times["last"])


def reverse_ratio(rounds: int) -> float:
    """Return how many times faster `jacobian` is than torch.autograd.functional.jacobian, m = 12288."""
    network = realistic(mlp(12288))
    decoder = Decoder(network, 32)
    z = torch.randn(1, 32)
    times = medians(
        {
            "ours": lambda: gram(decoder, z.expand(64, -1)),
            "functional": lambda: torch.autograd.functional.jacobian(network, z),
        },
        rounds,
    )
    return times["functional"] / (times["ours"] / 64)


def verdict(value: float, goal: Goal) -> str:
    return "ambitious" if value <= goal.ambitious else "must" if value <= goal.must else "MISSED"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NETWORKS)}, kl, reverse")
    parser.add_argument("--points", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    wanted = options.names or [*NETWORKS, "kl", "reverse"]
    print(
        f"times relative to FWD, {options.points} latents, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for name in wanted:
        if name in NETWORKS:
            found = ratios(
                name, min(options.points, 8) if name == "dcgan" else options.points, options.rounds
            )
            goal = NETWORKS[name][2]
            line = "  ".join(f"{work} {value:.2f}" for work, value in found.items() if work != "FWD")
            print(
                f"{name:11} {line}   (gram: must {goal.must}, ambitious {goal.ambitious}: {verdict(found['gram'], goal)})"
            )
            speedup = found["vmap(jacfwd), naive"] / found["gram"]
            print(f"{'':11} gram is {speedup:.1f} times faster than naive vmap(jacfwd)")
    if "kl" in wanted:
        value = probe_ratio(4, options.rounds)
        print(
            f"kl          J v per probe {value:.2f}   (must 1.5, ambitious 1.2: {verdict(value, Goal(1.5, 1.2))})"
        )
    if "reverse" in wanted:
        value = reverse_ratio(1)
        print(
            f"reverse     gram is {value:.0f} times faster than functional.jacobian (must 1500, ambitious 3500)"
        )


@pytest.mark.benchmark
def test_benchmark_runs() -> None:
    found = ratios("burgess-32", 2, 1)
    assert set(found) >= {"FWD", "gram", "jacobian"}


if __name__ == "__main__":
    main()
