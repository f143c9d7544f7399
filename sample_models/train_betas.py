"""Train the small VAEs of known beta in `sample_models/betas`: ten models, about three minutes on one core.

Each is a beta-VAE on scikit-learn's 8 x 8 digits (1797 images), trained close to the optimum of

    E_q[log p(x|z)] - beta KL(q(z|x) || N(0, I))

with a fixed seed, at beta = 0.5, 1, 2, 4 and 8: a Gaussian likelihood of fixed variance 0.05 on the grey
levels in [0, 1], and a Bernoulli likelihood on the images binarised at one half, each pixel repeated 2 x 2
(binary 8 x 8 images carry too little to survive beta = 8).  `manifest.json` keeps the truth (beta, sigma2,
seed) and the sha256 of each file; `gaussian.npy` and `bernoulli.npy` hold 512 and
256 of the training images, uint8.

    python sample_models/train_betas.py
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from vaeprobe.inference.training import TrainedVAE, train_vae

FOLDER = Path(__file__).parent / "betas"
BETAS = (0.5, 1.0, 2.0, 4.0, 8.0)
SIGMA2 = 0.05
LATENTS = 6
WIDTHS = {"gaussian": 96, "bernoulli": 40}
KEPT = {"gaussian": 512, "bernoulli": 256}  # images kept as data
STEPS = 4000
SEED = 0


def images(likelihood: str) -> NDArray[np.uint8]:
    """Return the training images, uint8: (1797, 8, 8) grey, or (1797, 16, 16) black and white for Bernoulli."""
    grey = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    if likelihood == "gaussian":
        return grey
    binary = np.where(grey > 127, 255, 0).astype(np.uint8)
    return binary.repeat(2, axis=1).repeat(2, axis=2)


def rows(likelihood: str) -> Tensor:
    """Return the training images as rows in [0, 1], float32."""
    return torch.from_numpy(images(likelihood)).flatten(1).float() / 255


def log_likelihood(x: Tensor, y: Tensor, likelihood: str, sigma2: float) -> Tensor:
    """Return log p(x|y) up to a constant, shape (n,)."""
    if likelihood == "bernoulli":
        return -nn.functional.binary_cross_entropy_with_logits(y, x, reduction="none").sum(1)
    return -0.5 * (x - y).square().sum(1) / sigma2


def train(
    x: Tensor,
    likelihood: str,
    beta: float,
    *,
    sigma2: float = SIGMA2,
    latents: int = LATENTS,
    width: int = 64,
    steps: int = STEPS,
    batch: int = 256,
    seed: int = SEED,
) -> TrainedVAE:
    """Return a beta-VAE trained on x, shape (n, m); the same seed gives the same weights."""
    return train_vae(
        x,
        lambda x, y: log_likelihood(x, y, likelihood, sigma2),
        beta,
        latents=latents,
        width=width,
        steps=steps,
        batch=batch,
        seed=seed,
    )


def blueprint(likelihood: str) -> str:
    """Return the blueprint that goes into each file."""
    side = 8 if likelihood == "gaussian" else 16
    last = ', "sigmoid"' if likelihood == "bernoulli" else ""
    return f"""latents = {LATENTS}
likelihood = "{likelihood}"

[decoder]
prefix = "decoder."
layers = [{{ linear = "0" }}, "relu", {{ linear = "2" }}{last}]

[encoder]
prefix = "encoder."
input = [{side * side}]
layers = [{{ linear = "0" }}, "relu", {{ linear = "2" }}]
output = "chunked"
"""


def save(vae: TrainedVAE, path: Path, likelihood: str) -> str:
    """Write a model as safetensors with its blueprint; return the sha256 of the file."""
    tensors = {
        f"{part}.{name}": tensor.contiguous()
        for part, net in (("encoder", vae.encoder), ("decoder", vae.decoder))
        for name, tensor in net.state_dict().items()
    }
    save_file(tensors, path, metadata={"vaeprobe.blueprint": blueprint(likelihood)})
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    models = []
    for likelihood, width in WIDTHS.items():
        x = rows(likelihood)
        picked = np.random.default_rng(SEED).permutation(len(x))[: KEPT[likelihood]]
        np.save(FOLDER / f"{likelihood}.npy", images(likelihood)[np.sort(picked)])
        for beta in BETAS:
            vae = train(x, likelihood, beta, width=width)
            path = FOLDER / f"{likelihood}_beta{beta:g}.safetensors"
            models.append(
                {
                    "file": path.name,
                    "data": f"{likelihood}.npy",
                    "likelihood": likelihood,
                    "beta": beta,
                    "sigma2": SIGMA2 if likelihood == "gaussian" else None,
                    "seed": SEED,
                    "steps": STEPS,
                    "sha256": save(vae, path, likelihood),
                }
            )
            print(path.name)
    (FOLDER / "manifest.json").write_text(json.dumps({"models": models}, indent=2) + "\n")


if __name__ == "__main__":
    # what is asked for help, or given a word that it does not know, trains nothing
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
