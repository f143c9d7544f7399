"""Train the sample models: `python sample_models/train.py` (about two minutes on two cores).

Needs scikit-learn for its digits (8 x 8 real handwritten digits).  Runs are deterministic on one machine;
another processor may differ in the last bits, which training then amplifies, so the manifest's hashes are
those of the files that stand here.

linear.npy            x = W z with known truth: orthogonal columns of known length
linear_rotated.npy    the same after a known rotation of the latents
digits.npy            those digits, pixels in [0, 1], shape (1797, 1, 8, 8)
digits_mlp.*          MLP beta-VAE, beta 1, Bernoulli likelihood: safetensors + blueprint, state_dict + sidecar
digits_conv.*         convolutional beta-VAE, beta 0.5, Bernoulli: safetensors + blueprint, .pt2 (decoder alone)
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from vaeprobe.checkpoints.blueprint import Blueprint

HERE = Path(__file__).parent
LATENTS = 6
SEED = 0


class VAE(nn.Module):
    """A VAE with a diagonal Gaussian posterior; the encoder returns mean and log-variance in two halves."""

    def __init__(self, encoder: nn.Sequential, decoder: nn.Sequential) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def loss(self, x: Tensor, beta: float) -> Tensor:
        """Return the negative beta-ELBO per row, in nats; the decoder's outputs are logits here."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        misfit = binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").flatten(1).sum(1)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return (misfit + beta * kl).mean()


def digits() -> Tensor:
    """Return scikit-learn's digits as pixels in [0, 1], shape (1797, 1, 8, 8)."""
    from sklearn.datasets import load_digits

    return torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16


def mlp() -> VAE:
    encoder = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 2 * LATENTS),
    )
    decoder = nn.Sequential(
        nn.Linear(LATENTS, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.Unflatten(1, (1, 8, 8)),
    )
    return VAE(encoder, decoder)


def conv() -> VAE:
    encoder = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.SiLU(),
        nn.Flatten(), nn.Linear(128, 2 * LATENTS),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(LATENTS, 128), nn.SiLU(), nn.Unflatten(1, (32, 2, 2)),
        nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1),
    )  # fmt: skip
    return VAE(encoder, decoder)


def train(model: VAE, x: Tensor, *, beta: float, epochs: int) -> float:
    """Train with Adam and a cosine schedule; return the last epoch's mean loss in nats."""
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    total = 0.0
    for _ in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(x)).split(128):
            optimiser.zero_grad()
            loss = model.loss(x[rows], beta)
            loss.backward()
            optimiser.step()
            total += loss.item() * len(rows)
        schedule.step()
    return total / len(x)


MLP_BLUEPRINT = """
latents = 6
likelihood = "bernoulli"

[decoder]
prefix = "decoder."
layers = [{ linear = "0" }, "relu", { linear = "2" }, "relu", { linear = "4" }, { reshape = [1, 8, 8] }, "sigmoid"]

[encoder]
prefix = "encoder."
input = [1, 8, 8]
layers = ["flatten", { linear = "1" }, "relu", { linear = "3" }, "relu", { linear = "5" }]
output = "chunked"
"""

CONV_BLUEPRINT = """
latents = 6
likelihood = "bernoulli"

[decoder]
prefix = "decoder."
layers = [
    { linear = "0" }, "silu", { reshape = [32, 2, 2] },
    { conv_transpose = "3", stride = 2, padding = 1 }, "silu",
    { conv_transpose = "5", stride = 2, padding = 1 }, "sigmoid",
]

[encoder]
prefix = "encoder."
input = [1, 8, 8]
layers = [
    { conv = "0", stride = 2, padding = 1 }, "silu",
    { conv = "2", stride = 2, padding = 1 }, "silu",
    "flatten", { linear = "5" },
]
output = "chunked"
"""


def linear_truth() -> dict[str, Any]:
    """Write the linear decoders and return what is known of them."""
    rng = np.random.default_rng(SEED)
    basis = np.linalg.qr(rng.standard_normal((64, LATENTS)))[0]
    lengths = np.array([3.0, 2.5, 2.0, 1.5, 1.0, 0.5])
    rotation = np.linalg.qr(rng.standard_normal((LATENTS, LATENTS)))[0]
    np.save(HERE / "linear.npy", basis * lengths)
    np.save(HERE / "linear_rotated.npy", (basis * lengths) @ rotation)
    gram = rotation.T @ np.diag(lengths**2) @ rotation
    contrast = 0.5 * (np.log(np.diag(gram)).sum() - 2 * np.log(lengths).sum())
    return {
        "linear.npy": {"column_lengths": lengths.tolist(), "ima_contrast": 0.0, "verdict": "linear"},
        "linear_rotated.npy": {
            "singular_values": lengths.tolist(),
            "ima_contrast": float(contrast),
            "rotation": rotation.tolist(),
        },
    }


def save(model: VAE, name: str, blueprint: str) -> None:
    """Write a model as safetensors with its blueprint inside, and as a state dict with a sidecar."""
    parsed = Blueprint.from_toml(blueprint, origin=name)
    save_file(model.state_dict(), HERE / f"{name}.safetensors", metadata=parsed.to_metadata())
    torch.save(model.state_dict(), HERE / f"{name}.pt")
    (HERE / f"{name}.toml").write_text(blueprint.lstrip())


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    truth = linear_truth()
    x = digits()
    recipes = {"digits_mlp": (mlp, MLP_BLUEPRINT, 1.0, 400), "digits_conv": (conv, CONV_BLUEPRINT, 0.5, 400)}
    for name, (make, blueprint, beta, epochs) in recipes.items():
        torch.manual_seed(SEED)
        model = make()
        loss = train(model, x, beta=beta, epochs=epochs)
        model.eval()
        save(model, name, blueprint)
        facts = {
            "beta": beta,
            "likelihood": "bernoulli",
            "seed": SEED,
            "epochs": epochs,
            "loss": round(loss, 3),
        }
        for suffix in (".safetensors", ".pt"):
            truth[name + suffix] = facts
        print(f"{name}: {loss:.2f} nats per image at beta {beta:g}")
        if name == "digits_conv":
            decoder = nn.Sequential(*model.decoder, nn.Sigmoid())
            batch = torch.export.Dim("batch", min=1)
            program = torch.export.export(decoder, (torch.zeros(4, LATENTS),), dynamic_shapes=({0: batch},))
            torch.export.save(program, HERE / f"{name}.pt2")
            truth[f"{name}.pt2"] = facts
    np.save(HERE / "digits.npy", x.half().numpy())  # sixteenths: exact in half precision
    manifest = {
        file: {"sha256": hashlib.sha256((HERE / file).read_bytes()).hexdigest(), **known}
        for file, known in truth.items()
    }
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main()
