"""The probes as functions.  Written by `python tests/test_api.py`."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Literal

from vaeprobe.probes.beta.probe import BetaResult
from vaeprobe.probes.factorise.probe import FactoriseResult
from vaeprobe.probes.functions import DecoderLike
from vaeprobe.probes.orthogonality.probe import OrthogonalityResult
from vaeprobe.probes.posterior.probe import PosteriorResult
from vaeprobe.probes.trace.probe import TraceResult
from vaeprobe.probes.train_linear.probe import LinearResult

def orthogonality(
    decoder: DecoderLike,
    *,
    time: float | None = None,
    resume: str | PathLike[str] | None = None,
    samples: int = 256,
    latents: object = "prior",
    data: object = None,
    seed: int = 0,
    likelihood: Literal[
        "bernoulli",
        "categorical",
        "gaussian",
        "multinomial",
        "negative_binomial",
        "poisson",
        "zero_inflated_negative_binomial",
    ]
    | None = None,
    sigma2: float | None = None,
    dispersion: object = None,
    chunk: int | None = None,
    beta_sigma2: float = 1.0,
    rotations: int | None = None,
    restarts: int | None = None,
    save_rotation: str | PathLike[str] | None = None,
    active_threshold: float = 0.05,
    part: Literal["auto", "all", "channels", "some"] = "auto",
    probes: int = 8,
    posterior_draws: int = 8,
    latent_dim: int | None = None,
    limits: Mapping[str, float] | None = None,
) -> OrthogonalityResult:
    """Are the columns of the decoder's Jacobian orthogonal, and is it the latent axes' doing?

    Measures the angles between the Jacobian's columns (cosines, ima contrast, mean-field gap), holds them
    against random rotations of the latent space (alignment, with an exact p-value), and looks for the
    rotation that makes them most orthogonal (what a rotation repairs, and what it cannot).

    Args:
        decoder: a `Decoder`, an `nn.Module` (a VAE or a decoder), a callable with `latent_dim`, or the path of a checkpoint.
        time: Seconds that the run may take: what does not fit is left out, and said, but for the least that can be told.
        resume: Keep what is measured in this file, and go on from what it holds.
        samples: Latents to draw.
        latents: prior, posterior, posterior-means, grid, or a .npy file of latents.
        data: Data rows (.npy, .npz, .safetensors, .pt, a folder of PNG).
        seed: Seed of every draw.
        likelihood: Weight the Jacobian by this likelihood's metric (Eq. 7).
        sigma2: Variance of a Gaussian likelihood (default: the learned one that the file holds, else 1).
        dispersion: Inverse dispersion of a negative binomial: a number, or a .npy file with one per count.
        chunk: Latents per block (default: by memory).
        beta_sigma2: Beta times noise variance, for the mean-field gap.
        rotations: Random rotations for the null (default: 999, fewer for many latents).
        restarts: Random starts of the search for the best rotation (default: 4, fewer for many).
        save_rotation: Write the best rotation to this .npy file.
        active_threshold: Share of the largest mean column norm above which a latent is active.
        part: Columns to measure: all, the channels at a random site, some random latents; auto takes a part of hundreds, and as many samples as take about a minute.
        probes: Random probes of all columns where only a part is measured (0: none).
        posterior_draws: Draws per data row with --latents posterior; G is averaged over them.
        latent_dim: number of latents, where the decoder leaves it open.
        limits: limit per metric id; the result then carries checks.
    """

def factorise(
    decoder: DecoderLike,
    *,
    time: float | None = None,
    resume: str | PathLike[str] | None = None,
    samples: int = 256,
    latents: object = "prior",
    data: object = None,
    seed: int = 0,
    likelihood: Literal[
        "bernoulli",
        "categorical",
        "gaussian",
        "multinomial",
        "negative_binomial",
        "poisson",
        "zero_inflated_negative_binomial",
    ]
    | None = None,
    sigma2: float | None = None,
    dispersion: object = None,
    chunk: int | None = None,
    max_samples: int = 4096,
    margin: float = 0.0001,
    permutations: int = 499,
    sheets: int = 48,
    active_threshold: float = 0.05,
    part: Literal["auto", "all", "channels", "some"] = "auto",
    latent_dim: int | None = None,
    limits: Mapping[str, float] | None = None,
) -> FactoriseResult:
    """Does the generated density factorise, along which seams, and into independent components?

    Tests whether the columns of the Jacobian are orthogonal (C1), whether the length of each depends on its
    own latent alone (C2, without which orthogonal columns do not make independent components), whether one
    rotation of the latent space achieves the first, and whether curved seams are independent. Latents are
    drawn until the verdict is decided.

    Args:
        decoder: a `Decoder`, an `nn.Module` (a VAE or a decoder), a callable with `latent_dim`, or the path of a checkpoint.
        time: Seconds that the run may take: what does not fit is left out, and said, but for the least that can be told.
        resume: Keep what is measured in this file, and go on from what it holds.
        samples: Latents to draw.
        latents: prior, posterior, posterior-means, grid, or a .npy file of latents.
        data: Data rows (.npy, .npz, .safetensors, .pt, a folder of PNG).
        seed: Seed of every draw.
        likelihood: Weight the Jacobian by this likelihood's metric (Eq. 7).
        sigma2: Variance of a Gaussian likelihood (default: the learned one that the file holds, else 1).
        dispersion: Inverse dispersion of a negative binomial: a number, or a .npy file with one per count.
        chunk: Latents per block (default: by memory).
        max_samples: Latents to draw at most, to decide the verdict.
        margin: Gap in nats that counts as none.
        permutations: Permutations of the tests of dependence.
        sheets: Latents at which others with the same output are looked for (0: none).
        active_threshold: Share of the largest mean column norm above which a latent is active.
        part: Latents to measure along, the others given: all, the channels at a random site, some random ones; auto takes a part of hundreds.
        latent_dim: number of latents, where the decoder leaves it open.
        limits: limit per metric id; the result then carries checks.
    """

def trace(
    decoder: DecoderLike,
    *,
    time: float | None = None,
    resume: str | PathLike[str] | None = None,
    samples: int = 4,
    latents: object = "prior",
    data: object = None,
    seed: int = 0,
    likelihood: Literal[
        "bernoulli",
        "categorical",
        "gaussian",
        "multinomial",
        "negative_binomial",
        "poisson",
        "zero_inflated_negative_binomial",
    ]
    | None = None,
    sigma2: float | None = None,
    dispersion: object = None,
    chunk: int | None = None,
    row: int | None = None,
    components: object = None,
    length: float | None = None,
    radius: float | None = None,
    tolerance: float | None = None,
    scheme: Literal["auto", "smooth", "kinks", "rough"] = "auto",
    part: Literal["auto", "all", "channels", "some"] = "auto",
    frames: int = 11,
    save: str | PathLike[str] | None = None,
    images: str | PathLike[str] | None = None,
    image_shape: str | None = None,
    svg: str | PathLike[str] | None = None,
    latent_dim: int | None = None,
    limits: Mapping[str, float] | None = None,
) -> TraceResult:
    """Follow the right singular vectors of the Jacobian through latent and data space.

    A seam is the path through a latent whose tangent is one right singular vector v_i of the Jacobian
    everywhere: the paper's sub-manifold M_i.  Every component is followed both ways from every start, by
    continuity through crossings and ties, and each stop and event is recorded with its place.

    With a part of the latents the others keep their place at the start: the Jacobian is that of the part.

    Args:
        decoder: a `Decoder`, an `nn.Module` (a VAE or a decoder), a callable with `latent_dim`, or the path of a checkpoint.
        time: Seconds that the run may take: what does not fit is left out, and said, but for the least that can be told.
        resume: Keep what is measured in this file, and go on from what it holds.
        samples: Starting points.
        latents: prior, posterior, posterior-means, grid, or a .npy file of latents.
        data: Data rows (.npy, .npz, .safetensors, .pt, a folder of PNG).
        seed: Seed of every draw.
        likelihood: Weight the Jacobian by this likelihood's metric (Eq. 7).
        sigma2: Variance of a Gaussian likelihood (default: the learned one that the file holds, else 1).
        dispersion: Inverse dispersion of a negative binomial: a number, or a .npy file with one per count.
        chunk: Latents per block (default: by memory).
        row: Start at the encoder's mean of this row of --data.
        components: Which seams, 0 the largest singular value (default: up to 10 that matter, 4 beyond 16 latents, 2 beyond 64).
        length: Latent length per direction (default: 3, a full turn for two latents).
        radius: Latent radius to stop at (default: 99 % of the prior).
        tolerance: Error per step (default: by scheme and precision).
        scheme: How to step; auto looks at the decoder.
        part: Latents to trace among, the others given: all, the channels at a random site, some random ones; auto takes the channels where a map has hundreds of latents, at fewer starts.
        frames: Pictures per seam in --images.
        save: Write the seams to an .npz file.
        images: Write traversals along seams and axes to a PNG file.
        image_shape: How outputs are images, e.g. 28x28 or 3x64x64.
        svg: Write the net of seams (two latents) to an SVG file.
        latent_dim: number of latents, where the decoder leaves it open.
        limits: limit per metric id; the result then carries checks.
    """

def posterior(
    decoder: DecoderLike,
    *,
    time: float | None = None,
    resume: str | PathLike[str] | None = None,
    samples: int = 256,
    latents: object = "posterior",
    data: object = None,
    seed: int = 0,
    likelihood: Literal[
        "bernoulli",
        "categorical",
        "gaussian",
        "multinomial",
        "negative_binomial",
        "poisson",
        "zero_inflated_negative_binomial",
    ]
    | None = None,
    sigma2: float | None = None,
    dispersion: object = None,
    chunk: int | None = None,
    encoder: object = None,
    pairs: int = 8,
    beta: float | None = None,
    rotations: int = 999,
    latent_dim: int | None = None,
    limits: Mapping[str, float] | None = None,
) -> PosteriorResult:
    """Hold the encoder's posteriors against the likelihood's Hessian, and the ELBO against its expansion.

    Needs the encoder and data.  At the optimum of a (beta-)VAE each posterior precision is 1 + h/beta, h the
    likelihood's curvature averaged over the posterior; this compares the two per latent and row, asks
    whether the averaged Hessian is diagonal, and splits the ELBO into its terms.

    Args:
        decoder: a `Decoder`, an `nn.Module` (a VAE or a decoder), a callable with `latent_dim`, or the path of a checkpoint.
        time: Seconds that the run may take: what does not fit is left out, and said, but for the least that can be told.
        resume: Keep what is measured in this file, and go on from what it holds.
        samples: Data rows to measure.
        latents: Always the posteriors of the data.
        data: Data rows (.npy, .npz, .safetensors, .pt, a folder of PNG).
        seed: Seed of every draw.
        likelihood: Likelihood of the training objective (default: the checkpoint's own).
        sigma2: Variance of a Gaussian likelihood (default: the learned one that the file holds, else 1).
        dispersion: Inverse dispersion of a negative binomial: a number, or a .npy file with one per count.
        chunk: Latents per block (default: by memory).
        encoder: The encoder, where it is in a file of its own.
        pairs: Antithetic pairs of posterior draws per row.
        beta: Beta the model was trained at (default: estimated).
        rotations: Random rotations of the null.
        latent_dim: number of latents, where the decoder leaves it open.
        limits: limit per metric id; the result then carries checks.
    """

def beta(
    decoder: DecoderLike,
    *,
    time: float | None = None,
    resume: str | PathLike[str] | None = None,
    samples: int = 256,
    latents: object = "posterior",
    data: object = None,
    seed: int = 0,
    likelihood: Literal[
        "bernoulli",
        "categorical",
        "gaussian",
        "multinomial",
        "negative_binomial",
        "poisson",
        "zero_inflated_negative_binomial",
    ]
    | None = None,
    sigma2: float | None = None,
    dispersion: object = None,
    chunk: int | None = None,
    encoder: object = None,
    pairs: int = 8,
    beta: float | None = None,
    latent_dim: int | None = None,
    limits: Mapping[str, float] | None = None,
) -> BetaResult:
    """Recover the beta that a checkpoint was trained at from its encoder, its decoder and data.

    For a Gaussian likelihood the posteriors show the product beta sigma^2 alone: the estimate is beta for the
    --sigma2 that is given, beta sigma^2 where none is, and with --beta it gives sigma^2.  Also: whether one beta
    explains all latents, means and rows, which latents collapsed by four rules and at which beta they would, and
    the overlap of neighbouring posteriors.

    Args:
        decoder: a `Decoder`, an `nn.Module` (a VAE or a decoder), a callable with `latent_dim`, or the path of a checkpoint.
        time: Seconds that the run may take: what does not fit is left out, and said, but for the least that can be told.
        resume: Keep what is measured in this file, and go on from what it holds.
        samples: Data rows to measure.
        latents: Always the posteriors of the data.
        data: Data rows (.npy, .npz, .safetensors, .pt, a folder of PNG).
        seed: Seed of every draw.
        likelihood: Likelihood of the training objective (default: the checkpoint's own).
        sigma2: Variance of a Gaussian likelihood (default: the learned one that the file holds, else 1).
        dispersion: Inverse dispersion of a negative binomial: a number, or a .npy file with one per count.
        chunk: Latents per block (default: by memory).
        encoder: The encoder, where it is in a file of its own.
        pairs: Antithetic pairs of posterior draws per row.
        beta: Nominal beta, to hold the estimate against; gives sigma^2 of a Gaussian.
        latent_dim: number of latents, where the decoder leaves it open.
        limits: limit per metric id; the result then carries checks.
    """

def train_linear(
    data: object,
    *,
    time: float | None = None,
    resume: str | PathLike[str] | None = None,
    latent_dim: int | Literal["auto"] = "auto",
    beta: float = 1.0,
    sigma2: float | Literal["ml"] = "ml",
    theorem3: bool = False,
    bootstrap: int | None = None,
    methods: Sequence[str] = (),
    optimiser: Literal["lbfgs", "adam"] = "lbfgs",
    steps: int = 5000,
    tolerance: float = 1e-10,
    learning_rate: float = 0.02,
    batch_size: int | None = None,
    restarts: int = 1,
    seed: int = 0,
    key: str | None = None,
    scale: str | float = "auto",
    missing: Literal["refuse", "em"] = "refuse",
    drop_nonfinite: bool = False,
    solver: Literal["auto", "exact", "dual", "randomized"] = "auto",
    backend: Literal["gloo", "nccl"] = "gloo",
    timeout: float = 300.0,
    model: str | PathLike[str] | None = None,
    plot: str | PathLike[str] | None = None,
    limits: Mapping[str, float] | None = None,
) -> LinearResult:
    """Fit PPCA and linear VAEs, hold training against their closed forms, and save the decoder.

    The closed form is always computed; training runs are certified against it.  The saved model works with every
    other command.  Under `torchrun`, each process reads its share of the rows.

    Args:
        data: rows as an array or tensor, a path, a glob, or several of them.
        time: Seconds that the run may take: what does not fit is left out, and said, but for the least that can be told.
        resume: Keep what is measured in this file, and go on from what it holds.
        latent_dim: Number of latents, or auto.
        beta: Weight of the KL term.
        sigma2: Noise variance, or ml to learn it.
        theorem3: Show (beta, s) against (1, beta s).
        bootstrap: Resamples for the columns' angles (default: by cost).
        methods: Also train: elbo, elbo-full, det-elbo, det-elbo-literal, em, or all; repeatable.
        optimiser: How to follow the gradient.
        steps: Most steps per run.
        tolerance: Gap to the optimum at which to stop (nats).
        learning_rate: Of Adam, decaying to 0.
        batch_size: Rows per step of Adam (default: all).
        restarts: Starting points per method; the best counts.
        seed: Seed of every draw.
        key: Which array of the file.
        scale: auto (uint8 / 255), none, or a factor.
        missing: What NaN means: an error, or a value to infer.
        drop_nonfinite: Leave rows with NaN or infinity out.
        solver: How to get the eigenpairs.
        backend: Between processes of torchrun.
        timeout: Seconds after which a silent process is dead.
        model: Save decoder and encoder (.safetensors): the first method's, else the closed form.
        plot: Draw spectrum, curves and columns (.png, .svg, .pdf).
        limits: limit per metric id; the result then carries checks.
    """
