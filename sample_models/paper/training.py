"""Many small VAEs at once: one stack of weights, one batched product per layer.

The models share data, sizes and kind of posterior, and differ in seed, beta and noise.  Those of one seed start from
the same weights and see the same rows and the same noise, so that what differs between them is what was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.progress import track

BATCH = 128
RATE = 1e-2


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one model differs from its neighbours.

    Attributes:
        seed: of weights, rows and noise.
        beta: weight of the KL.
        sigma2: variance of a Gaussian likelihood, fixed; None learns it.
    """

    seed: int
    beta: float = 1.0
    sigma2: float | None = 0.05


@dataclass(frozen=True)
class Model:
    """One trained model.

    Attributes:
        decoder: latents to means, or to logits for a Bernoulli likelihood; its encoder where the posterior is diagonal.
        means: posterior means of the data, shape (n, k).
        sigma2: variance of the likelihood at the end.
        loss: beta-ELBO on the data, nats per row, negative.
    """

    decoder: Decoder
    means: Tensor
    sigma2: float
    loss: float


class Stack(nn.Module):
    """Networks of one hidden layer of tanh, side by side."""

    def __init__(self, seeds: Sequence[int], sizes: tuple[int, int, int]) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        generators = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]
        for inside, outside in ((sizes[0], sizes[1]), (sizes[1], sizes[2])):
            bound = 1 / math.sqrt(inside)
            drawn = torch.stack([torch.rand(inside + 1, outside, generator=g) for g in generators])
            drawn = (2 * drawn - 1) * bound
            self.weights.append(nn.Parameter(drawn[:, :-1].clone()))
            self.biases.append(nn.Parameter(drawn[:, -1:].clone()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of all networks, shape (models, n, out), for inputs of the same shape."""
        hidden = torch.baddbmm(self.biases[0], x, self.weights[0]).tanh()
        return torch.baddbmm(self.biases[1], hidden, self.weights[1])

    def one(self, index: int) -> nn.Sequential:
        """Return one of the networks."""
        layers = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            layer = nn.Linear(weight.shape[1], weight.shape[2])
            layer.weight.data, layer.bias.data = (
                weight[index].detach().T.clone(),
                bias[index, 0].detach().clone(),
            )
            layers.append(layer)
        return nn.Sequential(layers[0], nn.Tanh(), layers[1]).requires_grad_(False)


def train(
    x: Tensor,
    recipes: Sequence[Recipe],
    *,
    latents: int,
    steps: int,
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian",
    posterior: Literal["diagonal", "full"] = "diagonal",
    width: int = 48,
    description: str = "training",
) -> list[Model]:
    """Train a VAE for each recipe, by Adam with a cosine step size.

    Args:
        x: data rows, shape (n, m), float32.
        posterior: of the encoder, N(e(x), diag) or N(e(x), L L^T).
    """
    k, m = latents, x.shape[1]
    below = torch.tril_indices(k, k, -1)
    extra = below.shape[1] if posterior == "full" else 0
    seeds = [r.seed for r in recipes]
    encoder, decoder = Stack(seeds, (m, width, 2 * k + extra)), Stack(seeds, (k, width, m))
    kinds = sorted(set(seeds))
    place = torch.tensor([kinds.index(seed) for seed in seeds])
    generators = [torch.Generator().manual_seed(seed) for seed in kinds]
    beta = torch.tensor([r.beta for r in recipes])[:, None]
    learned = torch.tensor([r.sigma2 is None for r in recipes])[:, None]
    fixed = torch.tensor([math.log(r.sigma2 or 1.0) for r in recipes])[:, None]
    free = nn.Parameter(torch.full((len(recipes), 1), math.log(0.5)))

    def losses(rows: Tensor, noise: Tensor) -> Tensor:
        """Return minus the beta-ELBO of each row, shape (models, b)."""
        out = encoder(rows)
        mean, log_sd = out[..., :k], out[..., k : 2 * k]
        z = mean + log_sd.exp() * noise
        spread = (2 * log_sd).exp().sum(-1)
        if posterior == "full":
            L = torch.zeros(*out.shape[:2], k, k)
            L[..., below[0], below[1]] = out[..., 2 * k :]
            z = z + (L @ noise[..., None])[..., 0]
            spread = spread + out[..., 2 * k :].square().sum(-1)
        kl = 0.5 * (mean.square().sum(-1) + spread - k) - log_sd.sum(-1)
        y = decoder(z)
        if likelihood == "bernoulli":
            error = nn.functional.binary_cross_entropy_with_logits(y, rows, reduction="none").sum(-1)
        else:
            log_sigma2 = torch.where(learned, free, fixed)
            error = 0.5 * (
                (rows - y).square().sum(-1) / log_sigma2.exp() + m * (log_sigma2 + math.log(2 * math.pi))
            )
        return error + beta * kl

    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), free], lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda t: 0.5 * (1 + math.cos(math.pi * t / steps))
    )

    def drawn(n: int) -> Tensor:
        return torch.stack([torch.randn(n, k, generator=g) for g in generators])[place]

    for _ in track(range(steps), f"{description}, {len(recipes)} models"):
        rows = torch.stack([x[torch.randint(len(x), (BATCH,), generator=g)] for g in generators])[place]
        optimiser.zero_grad()
        losses(rows, drawn(BATCH)).mean(1).sum().backward()
        optimiser.step()
        schedule.step()
    models = []
    with torch.no_grad():
        final = losses(x.expand(len(recipes), -1, -1), drawn(len(x))).mean(1)
        for i, recipe in enumerate(recipes):
            inner, outer = encoder.one(i), decoder.one(i)

            def moments(rows: Tensor, inner: nn.Sequential = inner) -> tuple[Tensor, Tensor]:
                out = inner(rows.flatten(1))
                return out[:, :k], 2 * out[:, k : 2 * k]

            eyes = Encoder(moments, k, input_shape=(m,)) if posterior == "diagonal" else None
            parameter: Literal["natural", "mean"] = "natural" if likelihood == "bernoulli" else "mean"
            net = Decoder(outer, k, parameter=parameter, likelihood=likelihood, encoder=eyes)
            sigma2 = float(free[i].exp()) if recipe.sigma2 is None else recipe.sigma2
            models.append(Model(net, inner(x)[:, :k], sigma2, float(final[i])))
    return models
