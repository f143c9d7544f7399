"""Measure the table of `vaeprobe.published` anew: `python tests/published_facts.py FOLDER` prints its rows.

FOLDER holds the checkpoints that `SOURCES` names, laid out as in their repositories' downloads.
"""

from __future__ import annotations

import sys
from pathlib import Path

import vaeprobe

# file -> (name, source); facts are measured by `orthogonality` as it comes
SOURCES = {
    "disvae/VAE_mnist/model.pt": ("VAE, MNIST", "YannDubs/disentangling-vae"),
    "disvae/betaH_mnist/model.pt": ("beta-VAE (4), MNIST", "YannDubs/disentangling-vae"),
    "disvae/btcvae_mnist/model.pt": ("beta-TCVAE, MNIST", "YannDubs/disentangling-vae"),
    "disvae/VAE_dsprites/model.pt": ("VAE, dSprites", "YannDubs/disentangling-vae"),
    "disvae/betaH_dsprites/model.pt": ("beta-VAE (4), dSprites", "YannDubs/disentangling-vae"),
    "disvae/btcvae_dsprites/model.pt": ("beta-TCVAE, dSprites", "YannDubs/disentangling-vae"),
    "jointvae/fashion.pt": ("JointVAE, FashionMNIST", "jhb300/beta-vae-demo"),
    "jointvae/chairs.pt": ("JointVAE, Chairs", "jhb300/beta-vae-demo"),
    "riemann/mnist.pth": ("VAE, MNIST", "shagunuppal/Riemannian_Geometry_of_Deep_Generative_Models"),
    "riemann/celeba.pth": ("VAE, CelebA", "shagunuppal/Riemannian_Geometry_of_Deep_Generative_Models"),
    "inverse_micro/vae.pth": ("VAE, microstructures", "agenerale/inverse-micro"),
    "goldsmdn_keras/decoder.keras": ("VAE, MNIST", "goldsmdn/Streamlit"),
    "wgangp/generator.pt": ("WGAN-GP, MNIST", "akanametov/WGAN-GP"),
}


def fact(path: Path) -> dict[str, float | int | None]:
    """What the table says of a checkpoint, three significant digits."""
    found = vaeprobe.orthogonality(str(path))
    values = {
        "active": found.latents_active.value,
        "contrast": found.ima_contrast.value,
        "null": found.ima_contrast_null.value,
        "alignment": found.alignment.value,
    }
    return {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in values.items()}


if __name__ == "__main__":
    for file, (name, source) in SOURCES.items():
        row = ", ".join(f"{k}={v!r}" for k, v in fact(Path(sys.argv[1]) / file).items())
        print(f'    Fact("{name}", "{source}", {row}),', flush=True)
