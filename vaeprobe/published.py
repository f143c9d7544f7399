"""Where a model stands: what `orthogonality` finds on published checkpoints, a table of facts.

Measured with the default settings (256 latents of the prior, the Euclidean metric, seed 0);
`python tests/published_facts.py FOLDER` measures them anew.
"""

from __future__ import annotations

from typing import NamedTuple


class Fact(NamedTuple):
    """A published checkpoint.

    Attributes:
        name: model and data.
        source: repository on GitHub that published the weights.
        active: active latents.
        contrast: ima contrast, in nats.
        null: the same under random rotations of the latent space.
        alignment: of its axes.
    """

    name: str
    source: str
    active: int
    contrast: float
    null: float
    alignment: float


FACTS = (
    Fact("VAE, MNIST", "YannDubs/disentangling-vae", active=10, contrast=1.94, null=4.09, alignment=0.525),
    Fact(
        "beta-VAE (4), MNIST",
        "YannDubs/disentangling-vae",
        active=10,
        contrast=2.48,
        null=8.13,
        alignment=0.695,
    ),
    Fact(
        "beta-TCVAE, MNIST", "YannDubs/disentangling-vae", active=8, contrast=1.51, null=6.12, alignment=0.753
    ),
    Fact("VAE, dSprites", "YannDubs/disentangling-vae", active=9, contrast=6.54, null=12.2, alignment=0.466),
    Fact(
        "beta-VAE (4), dSprites",
        "YannDubs/disentangling-vae",
        active=8,
        contrast=3.53,
        null=9.38,
        alignment=0.624,
    ),
    Fact(
        "beta-TCVAE, dSprites",
        "YannDubs/disentangling-vae",
        active=5,
        contrast=0.84,
        null=3.7,
        alignment=0.773,
    ),
    Fact(
        "JointVAE, FashionMNIST", "jhb300/beta-vae-demo", active=4, contrast=0.346, null=1.01, alignment=0.657
    ),
    Fact("JointVAE, Chairs", "jhb300/beta-vae-demo", active=7, contrast=1.02, null=2.39, alignment=0.574),
    Fact(
        "VAE, MNIST",
        "shagunuppal/Riemannian_Geometry_of_Deep_Generative_Models",
        active=20,
        contrast=8.36,
        null=13.2,
        alignment=0.367,
    ),
    Fact(
        "VAE, CelebA",
        "shagunuppal/Riemannian_Geometry_of_Deep_Generative_Models",
        active=32,
        contrast=2.34,
        null=14.0,
        alignment=0.833,
    ),
    Fact(
        "VAE, microstructures",
        "agenerale/inverse-micro",
        active=5,
        contrast=0.297,
        null=4.37,
        alignment=0.932,
    ),
    Fact("VAE, MNIST", "goldsmdn/Streamlit", active=2, contrast=0.157, null=0.131, alignment=-0.196),
    Fact("WGAN-GP, MNIST", "akanametov/WGAN-GP", active=64, contrast=162.0, null=162.0, alignment=-0.00371),
)


def below(alignment: float) -> int:
    """Return how many of the published models are less aligned."""
    return sum(fact.alignment < alignment for fact in FACTS)


def place(alignment: float) -> str:
    """Return where an alignment stands among published models, as a sentence."""
    count = below(alignment)
    return f"Of {len(FACTS)} published models {count} {'is' if count == 1 else 'are'} less aligned."
