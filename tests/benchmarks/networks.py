"""Networks of the shapes that people train, with random weights, for benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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


class Skip(nn.Module):
    """Three convolutions around a skip connection, as in the tiny autoencoder of Stable Diffusion: no norms."""

    def __init__(self, c: int) -> None:
        super().__init__()
        layers = [layer for _ in range(3) for layer in (nn.Conv2d(c, c, 3, padding=1), nn.ReLU())]
        self.body = nn.Sequential(*layers[:-1])

    def forward(self, h: Tensor) -> Tensor:
        return torch.relu(h + self.body(h))


def autoencoder_tiny(side: int, width: int = 16) -> nn.Module:
    """The shape of TAESD: 4 x side x side latents, blocks without norms, nearest up-sampling to 8 times the side."""
    up = [
        layer
        for _ in range(3)
        for layer in (nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1), Skip(width))
    ]
    return nn.Sequential(
        nn.Unflatten(1, (4, side, side)), nn.Conv2d(4, width, 3, padding=1), nn.ReLU(), Skip(width), *up,
        nn.Conv2d(width, 3, 3, padding=1),
    )  # fmt: skip


def realistic(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch normalisations statistics of their own."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_var is not None
            layer.running_var.copy_(torch.rand(layer.running_var.shape, generator=generator) + 0.5)
    return network.eval().requires_grad_(False)
