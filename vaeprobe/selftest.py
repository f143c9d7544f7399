"""Every probe on maps whose answers are known in closed form, on this machine: expected against measured.

The maps are small, the answers are formulae of the theory, and nothing here is compared with an earlier run.  Users run it to
trust an installation; so does CI.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vaeprobe.report import Check, Metric, MetricSpec, Section, Table, metric_map
from vaeprobe.result import Result

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vaeprobe.decoder import Decoder

__all__ = ["METRICS", "Answer", "SelftestResult", "selftest"]

WRONG = MetricSpec(
    id="selftest.wrong",
    title="answers that are wrong",
    better="lower",
    range="0 .. number of answers",
    formula="answers further from their closed form than their tolerance",
    source="closed forms",
    meaning="0 on a sound installation. Each answer is a number or a word of a probe on a map where it is known exactly.",
    misleads="It covers the probes on small maps, not the reading of files.",
    remedy="Report it with the output of `vaeprobe selftest --json` and `vaeprobe --version`.",
)
ANSWERS = MetricSpec(
    id="selftest.answers",
    title="answers compared",
    range="1, 2, ...",
    formula="numbers and verdicts held against their closed form",
    source="closed forms",
    meaning="How much was compared.",
)
METRICS = (WRONG, ANSWERS)
# relative error that rounding may leave, by precision: the maps' condition numbers are under 100
TOLERANCE = {"float32": 2e-4, "float64": 1e-8}


@dataclass(frozen=True)
class Answer:
    """One answer: what was asked, what is right, what came out.

    Attributes:
        asked: probe, map, number.
        expected: in closed form.
        measured: by the probe; None where it had no answer.
        tolerance: absolute; 0 for words.
    """

    asked: str
    expected: float | str
    measured: float | str | None
    tolerance: float = 0.0

    @property
    def right(self) -> bool:
        """Whether the two agree."""
        if isinstance(self.expected, str) or not isinstance(self.measured, (int, float)):
            return self.expected == self.measured
        return abs(self.expected - self.measured) <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class SelftestResult(Result):
    """What came out; `answers` by precision."""

    command: ClassVar[str] = "selftest"

    answers: Sequence[tuple[str, Answer]]

    def sections(self) -> tuple[Section, ...]:
        rows = [
            (p, a.asked, a.expected, a.measured, "right" if a.right else "WRONG") for p, a in self.answers
        ]
        return (
            Table(title="Answers", columns=("precision", "asked", "expected", "measured", ""), rows=rows),
        )


def selftest(device: str = "cpu") -> SelftestResult:
    """Run every probe on maps with known answers, in float32 and float64.

    Args:
        device: where to compute.
    """
    import torch

    start = time.perf_counter()
    answers: list[tuple[str, Answer]] = []
    for name, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        for ask in (_engine, _orthogonality, _factorise, _trace, _beta):
            answers += [(name, a) for a in ask(dtype, torch.device(device), TOLERANCE[name])]
    answers += [("float64", a) for a in _linear()]
    wrong = [a for _, a in answers if not a.right]
    count = Metric(WRONG, len(wrong), n=len(answers))
    if wrong:
        first = wrong[0]
        summary = f"{len(wrong)} of {len(answers)} answers are wrong, the first: {first.asked} is {first.measured}, not {first.expected}."
    else:
        summary = f"All {len(answers)} answers are right."
    return SelftestResult(
        metrics=metric_map((count, Metric(ANSWERS, len(answers)))),
        verdict="wrong" if wrong else "sound",
        summary=f"{summary} ({time.perf_counter() - start:.0f} s on {device})",
        settings={"device": device},
        checks=(Check(metric=count, side="max", limit=0),),
        answers=answers,
    )


# -- maps -------------------------------------------------------------------------------------------


def _decoder(f: Callable[[Tensor], Tensor], d: int, dtype: torch.dtype, device: torch.device) -> Decoder:
    from vaeprobe.decoder import Decoder

    return Decoder(f, d, dtype=dtype, device=device)


def _stretched(z: Tensor) -> Tensor:
    """Columns diag(a_i cosh b_i z_i): independent seams along the axes."""
    import torch

    return torch.stack([1.5 * z[:, 0].sinh(), 0.6 * (1.5 * z[:, 1]).sinh(), z[:, 0] * 0], -1)


def _turned(z: Tensor) -> Tensor:
    """The same map of latents turned by 30 degrees: orthogonal after one rotation."""
    import torch

    c, s = math.cos(math.pi / 6), math.sin(math.pi / 6)
    return _stretched(torch.stack([c * z[:, 0] - s * z[:, 1], s * z[:, 0] + c * z[:, 1]], -1))


def _spiral(z: Tensor) -> Tensor:
    """Polar coordinates, G = exp(2 z_0) diag(1, k^2), k = 2: orthogonal columns, dependent seams."""
    import torch

    return torch.stack([z[:, 0].exp() * (2 * z[:, 1]).cos(), z[:, 0].exp() * (2 * z[:, 1]).sin()], -1)


def _bent(z: Tensor) -> Tensor:
    """(z_0, z_1 / 2 + z_0^2), a parabola: entangled."""
    import torch

    return torch.stack([z[:, 0], 0.5 * z[:, 1] + z[:, 0] ** 2], -1)


def _folded(z: Tensor) -> Tensor:
    """(|z_0|, 1.2 sinh z_1): every output has two latents, of the same density."""
    import torch

    return torch.stack([z[:, 0].abs(), 1.2 * z[:, 1].sinh()], -1)


def _circles(z: Tensor) -> Tensor:
    """(log rho, 0.7 z / rho): seams are rays and circles."""
    import torch

    rho = z.square().sum(-1, keepdim=True).sqrt()
    return torch.cat([rho.log(), 0.7 * z / rho], -1)


# -- questions --------------------------------------------------------------------------------------


def _engine(dtype: torch.dtype, device: torch.device, tolerance: float) -> Iterator[Answer]:
    import torch

    from vaeprobe import cpu
    from vaeprobe.engine import gram, jacobian

    generator = torch.Generator().manual_seed(0)
    A, B = (
        cpu.randn(m, n, generator=generator, dtype=torch.float64).to(device, dtype)
        for m, n in ((6, 3), (5, 6))
    )
    z = cpu.randn(4, 3, generator=generator, dtype=torch.float64).to(device, dtype)

    def network(z: Tensor) -> Tensor:
        return (z @ A.T).tanh() @ B.T

    J = B @ ((1 - (z @ A.T).tanh() ** 2).unsqueeze(-1) * A)  # the chain rule, by hand
    size = float(J.abs().max())
    error = float((jacobian(network, z) - J).abs().max())
    yield Answer("engine: Jacobian of a tanh network, largest error", 0.0, error, tolerance * size)
    G = J.double().mT @ J.double()
    error = float((gram(network, z) - G).abs().max())
    yield Answer("engine: its Gram matrix, largest error", 0.0, error, tolerance * size**2 * 6)


def _orthogonality(dtype: torch.dtype, device: torch.device, tolerance: float) -> Iterator[Answer]:
    import torch

    from vaeprobe import cpu
    from vaeprobe.probes.orthogonality import Orthogonality

    few = {"samples": 64, "rotations": 99, "seed": 0}
    straight = Orthogonality.asked(few).measure(_decoder(_stretched, 2, dtype, device))
    yield Answer(
        "orthogonality: sinh along the axes, contrast",
        0.0,
        _number(straight, "orthogonality.ima_contrast"),
        tolerance,
    )
    yield Answer("orthogonality: sinh along the axes, verdict", "orthogonal", straight.verdict)
    turned = Orthogonality.asked(few).measure(_decoder(_turned, 2, dtype, device))
    yield Answer("orthogonality: the same turned by 30 degrees, verdict", "rotated", turned.verdict)
    yield Answer(
        "orthogonality: its contrast at the best rotation",
        0.0,
        _number(turned, "orthogonality.ima_contrast_rotated"),
        1e-5,
    )
    z = cpu.randn(64, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    bent = Orthogonality(samples=64, rotations=99, seed=0, latents=z).measure(
        _decoder(_bent, 2, dtype, device)
    )
    # G = [[1 + 4 z^2, z], [z, 1/4]]: c = 1/2 log(G_00 G_11 / det G) = 1/2 log(1 + 4 z^2)
    right = float(0.5 * torch.log1p(4 * z[:, 0] ** 2).mean())
    yield Answer(
        "orthogonality: a parabola, contrast",
        right,
        _number(bent, "orthogonality.ima_contrast"),
        20 * tolerance,
    )
    yield Answer(
        "orthogonality: a parabola, nats that the pair shares",
        right,
        _number(bent, "orthogonality.mutual_information"),
        20 * tolerance,
    )
    # n_0 = sqrt(1 + 4 z^2), n_1 = 1/2
    entropies = bent["orthogonality.entropy"].value
    yield Answer(
        "orthogonality: a parabola, entropy of the bent latent",
        right + 0.5 * math.log(2 * math.pi * math.e),
        entropies[0] if isinstance(entropies, list) else None,
        20 * tolerance,
    )


def _factorise(dtype: torch.dtype, device: torch.device, tolerance: float) -> Iterator[Answer]:
    from vaeprobe.probes.factorise import Factorise

    few = {"samples": 128, "permutations": 99, "seed": 0}
    linear = Factorise.asked(few).measure(_decoder(lambda z: z * 2, 2, dtype, device))
    yield Answer("factorise: twice the identity, verdict", "linear", linear.verdict)
    straight = Factorise.asked(few).measure(_decoder(_stretched, 2, dtype, device))
    yield Answer("factorise: sinh along the axes, verdict", "independent", straight.verdict)
    yield Answer(
        "factorise: its largest cross", 0.0, _number(straight, "factorise.modulation"), 10 * tolerance
    )
    turned = Factorise.asked(few).measure(_decoder(_turned, 2, dtype, device))
    yield Answer("factorise: the same turned by 30 degrees, verdict", "rotated", turned.verdict)
    spiral = Factorise.asked(few).measure(_decoder(_spiral, 2, dtype, device))
    yield Answer("factorise: polar coordinates, verdict", "dependent", spiral.verdict)
    yield Answer("factorise: their gap", 0.0, _number(spiral, "factorise.gap"), tolerance)
    # log n_1 = z_0 + log k: the other latent moves it by sd 1, here within 4 standard errors
    yield Answer(
        "factorise: their largest cross", 1.0, _number(spiral, "factorise.modulation"), 4 / math.sqrt(2 * 128)
    )
    bent = Factorise.asked(few).measure(_decoder(_bent, 2, dtype, device))
    yield Answer("factorise: a parabola, verdict", "entangled", bent.verdict)
    folded = Factorise.asked(few).measure(_decoder(_folded, 2, dtype, device))
    # the search starts from far latents with near outputs, and may miss one in fifty
    yield Answer(
        "factorise: a fold, share of latents with a twin", 1.0, _number(folded, "factorise.sheets"), 0.04
    )
    yield Answer("factorise: its true gap, log 2", math.log(2), _number(folded, "factorise.true_gap"), 0.03)


def _trace(dtype: torch.dtype, device: torch.device, tolerance: float) -> Iterator[Answer]:
    import torch

    from vaeprobe import cpu
    from vaeprobe.probes.trace import Trace

    z = cpu.tensor([[1.2, 0.3], [0.4, -1.5], [-1.0, -0.9]], dtype=torch.float64)
    seams = Trace(samples=3, length=1.0, latents=z).measure(_decoder(_stretched, 2, dtype, device))
    yield Answer(
        "trace: sinh along the axes, chord over length",
        1.0,
        _number(seams, "trace.straightness"),
        10 * tolerance,
    )
    yield Answer(
        "trace: overlap with the nearest axis", 1.0, _number(seams, "trace.axis_overlap"), 10 * tolerance
    )
    rings = Trace(samples=3, length=1.0, latents=z).measure(_decoder(_circles, 2, dtype, device))
    radii = z.square().sum(-1).sqrt()
    # an arc of length 2 on each circle, and rays that are straight
    arcs = torch.sin(1.0 / radii) * radii
    right = float((arcs.mean() + 1) / 2)
    yield Answer(
        "trace: rays and circles, chord over length", right, _number(rings, "trace.straightness"), 0.02
    )


def _beta(dtype: torch.dtype, device: torch.device, tolerance: float) -> Iterator[Answer]:
    import numpy as np
    import torch

    from vaeprobe.decoder import Decoder
    from vaeprobe.encoder import Encoder
    from vaeprobe.probes.beta import Beta
    from vaeprobe.probes.posterior import Posterior

    # the optimum of a linear VAE at beta = 2, sigma^2 = 0.15, on data with exactly these eigenvalues
    beta, sigma2, rng = 2.0, 0.15, np.random.default_rng(0)
    lam = np.array([9.0, 4.0, 2.0, 0.3, 0.3, 0.3])
    Z = rng.standard_normal((400, 6))
    Z = np.linalg.qr(Z - Z.mean(0))[0] * math.sqrt(400)
    U = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    x = torch.tensor(Z * np.sqrt(lam) @ U.T, device=device, dtype=dtype)
    W = torch.tensor(U[:, :3] * np.sqrt(lam[:3] - beta * sigma2), device=device, dtype=dtype)
    precision = 1 + (W**2).sum(0) / (beta * sigma2)
    E = (W / (beta * sigma2) / precision).T
    encoder = Encoder(
        lambda rows: (rows @ E.T, (1 / precision).log().expand(len(rows), 3)),
        3,
        input_shape=(6,),
        dtype=dtype,
        device=device,
    )
    decoder = Decoder(
        lambda z: z @ W.T, 3, dtype=dtype, device=device, likelihood="gaussian", encoder=encoder
    )
    found = Beta(data=x, sigma2=sigma2, seed=0).measure(decoder)
    yield Answer("beta: a linear VAE of beta = 2", 2.0, _number(found, "beta.estimate"), 100 * tolerance)
    yield Answer("beta: verdict", "consistent", found.verdict)
    posterior = Posterior(data=x, samples=len(x), sigma2=sigma2, beta=beta, rotations=99, seed=0).measure(
        decoder
    )
    ratios = posterior["posterior.precision_ratio"].value
    yield Answer(
        "posterior: its precisions over 1 + h / beta, the worst",
        1.0,
        max(ratios, key=lambda r: abs(r - 1)) if isinstance(ratios, list) else None,
        100 * tolerance,
    )
    yield Answer(
        "posterior: KL of its first latent, nats",
        0.5 * math.log(lam[0] / (beta * sigma2)),
        posterior["kl.per_latent"].value[0],  # type: ignore[index]
        100 * tolerance,
    )


def _linear() -> Iterator[Answer]:
    import numpy as np

    from vaeprobe.linear.estimators import PPCA

    X = np.random.default_rng(0).standard_normal((300, 6)) * np.array([3.0, 2.0, 1.5, 0.5, 0.4, 0.3])
    lam = np.linalg.eigvalsh(np.cov(X.T, bias=True))[::-1]
    fitted = PPCA(2).fit(X)
    sigma2 = float(lam[2:].mean())
    yield Answer("train-linear: noise variance of PPCA", sigma2, float(fitted.noise_variance_), 1e-12)
    loglik = -150 * (6 * math.log(2 * math.pi) + float(np.log(lam[:2]).sum()) + 4 * math.log(sigma2) + 6)
    yield Answer("train-linear: its log-likelihood", loglik, float(fitted.score(X)) * 300, 1e-6)


def _number(result: Result, id: str) -> float | None:
    value = result[id].value
    return float(value) if isinstance(value, (int, float)) else None
