"""Jacobians that are rounding, in closed form: terms that cancel, and networks that compute otherwise in float64."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

import vaeprobe
from vaeprobe.decoder import Decoder
from vaeprobe.derivatives import LOST
from vaeprobe.encoder import Encoder
from vaeprobe.engine import rounding
from vaeprobe.engine.rounding import column_errors, lost_columns, typical
from vaeprobe.engine.verbs import pushforward
from vaeprobe.geometry.gram import alike_words
from vaeprobe.intervals import stream
from vaeprobe.likelihoods import by_name
from vaeprobe.probes.base import Probe
from vaeprobe.probes.beta import Beta
from vaeprobe.probes.beta.probe import OF_DERIVATIVES
from vaeprobe.probes.factorise import Factorise
from vaeprobe.probes.orthogonality import Orthogonality
from vaeprobe.probes.posterior import Posterior
from vaeprobe.probes.posterior.probe import WITHOUT_DERIVATIVES
from vaeprobe.probes.trace import Trace


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(stream(seed, "rounding").standard_normal(shape))


def linear(W: Tensor, b: Tensor) -> nn.Linear:
    layer = nn.Linear(W.shape[1], W.shape[0])
    layer.load_state_dict({"weight": W.float(), "bias": b.float()})
    return layer


def cancelling(lengths: tuple[float, ...], scale: float = 1.0) -> nn.Sequential:
    """B A z - B A z + C z + b: the columns of C have these lengths, and the others are `scale` long until they cancel.

    Where a length is 0, so that the column of C is, the Jacobian's column is the rounding of the sum alone; where it is
    not, A has none.
    """
    k = len(lengths)
    sizes = torch.tensor(lengths, dtype=torch.float64)
    A = scale * normal(16, k, seed=1) * (sizes == 0)
    C = nn.functional.normalize(normal(24, k, seed=2), dim=0) * sizes
    B = normal(24, 16, seed=3) / 4
    first = linear(
        torch.cat([A, A, torch.eye(k).double()]), torch.cat([normal(32, seed=4), torch.zeros(k).double()])
    )
    return nn.Sequential(first, linear(torch.cat([B, -B, C], 1), normal(24, seed=5)))


class Two(nn.Module):
    """Columns 1 + defect long in float32, and 1 long in float64."""

    def __init__(self, *defects: float) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.eye(max(4, len(defects)), len(defects)))
        self.defects = defects

    def forward(self, z: Tensor) -> Tensor:
        more = torch.tensor(self.defects).to(z) if z.dtype == torch.float32 else 0
        return (z * (1 + more)) @ self.W.mT


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_that_cancel_are_told_from_those_that_are_right(dtype: torch.dtype) -> None:
    decoder = Decoder(cancelling((0.0, 1.0, 0.0, 1e-3)), 4, dtype=dtype)
    errors = column_errors(decoder, normal(2, 4))
    assert (errors[[0, 2]] > 0.5).all(), "rounding"
    assert (errors[[1, 3]] < 1e-4).all(), "right"
    lost = lost_columns(decoder, normal(2, 4), range(4))
    assert lost is not None
    assert lost.names == ("z0", "z2")
    assert lost.why == f"the columns of z0, z2 are rounding in {str(dtype).removeprefix('torch.')}"
    assert lost_columns(decoder, normal(2, 4), [1, 3]) is None


@pytest.mark.parametrize(("error", "lost"), [(0.8 * LOST, False), (1.25 * LOST, True)])
def test_the_line_of_rounding_has_two_sides(error: float, lost: bool) -> None:
    decoder = Decoder(Two(error / (1 - error), 0.0), 2)
    assert column_errors(decoder, normal(2, 2)).tolist() == pytest.approx([error, 0], abs=1e-5)
    found = lost_columns(decoder, normal(2, 2), [0, 1])
    assert (found.names == ("z0",) if found else None) == (True if lost else None)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(("defect", "alone"), [(0.0, False), (0.01 * LOST, False), (1.25 * LOST, True)])
def test_columns_are_pushed_alone_where_sums_of_them_are_wrong(
    monkeypatch: pytest.MonkeyPatch, large: bool, defect: float, alone: bool
) -> None:
    """One of 40 columns is wrong, which the sums of all show; of large decoders one latent is looked at."""
    decoder, pushed = Decoder(Two(*[0.0] * 17, defect, *[0.0] * 22), 40), []

    def counted(f: Decoder, z: Tensor, v: Tensor, **how: bool) -> tuple[Tensor, Tensor]:
        pushed.append(tuple(v.shape))
        return pushforward(f, z, v, **how)

    monkeypatch.setattr(rounding, "pushforward", counted)
    monkeypatch.setattr("vaeprobe.decoder.LARGE", 0 if large else 1 << 40)
    found = lost_columns(decoder, normal(2, 40), [])
    latents = 1 if large else 2
    # the last of them asks whether float64 knows it
    assert pushed == [(rounding.SUMS, latents, 40), *[(40, latents, 40), (1, latents, 40)] * alone]
    assert (found and found.names) == (("z17",) if alone else None)


def test_equal_errors_do_not_cancel_in_sums() -> None:
    """Two columns whose float64 is the same and whose float32 is zero: their sums with equal weights are right."""
    for latents in (2, 3, 8):
        W = nn.Linear(latents, 3)
        nn.init.constant_(W.bias, 25.0)
        nn.init.constant_(W.weight, 0.1)
        lost = lost_columns(Decoder(nn.Sequential(W, nn.Sigmoid()), latents), normal(2, latents), [])
        assert lost is not None
        assert len(lost.names) == latents


def test_zero_in_one_precision_alone_is_rounding_and_zero_in_both_is_not() -> None:
    saturated = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid())
    for bias, lost in (
        (25.0, True),
        (200.0, False),
    ):  # 1 - sigmoid: 1e-11, which float64 knows, and 0 in both
        nn.init.constant_(saturated[0].bias, bias)
        nn.init.constant_(saturated[0].weight, 0.1)
        decoder = Decoder(saturated, 2)
        assert (lost_columns(decoder, normal(2, 2), []) is not None) is lost
        result = Orthogonality(samples=8, rotations=19).measure(decoder)
        assert result.verdict == "undefined"
        if lost:
            (finding,) = [f for f in result.findings if f.code == "rounding"]
            assert str(finding.hint).startswith("--dtype float64"), "which knows"
        assert ("rounding in float32" if lost else "every column of the Jacobian is zero") in result.summary
        assert lost_columns(Decoder(saturated, 2, dtype=torch.float64), normal(2, 2), []) is None


def test_logits_are_asked_where_the_metric_is_that_of_logits() -> None:
    head = nn.Linear(2, 3)
    nn.init.constant_(head.bias, 25.0)
    decoder = Decoder(nn.Sequential(head, nn.Sigmoid()), 2, natural=head, likelihood="bernoulli")
    assert decoder.natural_for(by_name("bernoulli", decoder.output_shape))
    assert float(column_errors(decoder, normal(2, 2), natural=True).max()) < 1e-4
    assert float(column_errors(decoder, normal(2, 2)).min()) > 0.5


def test_functions_without_a_float64_twin_are_held_against_themselves() -> None:
    f = cancelling((0.0, 1.0))
    decoder = Decoder(lambda z: f(z), 2, dtype=torch.float32)
    assert decoder.in_double() is None
    errors = column_errors(decoder, normal(2, 2))
    assert float(errors[0]) > 0.5
    assert float(errors[1]) < 1e-4


def test_latents_of_middling_size_are_asked() -> None:
    G = torch.eye(2).double() * torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0]).double()[:, None, None]
    assert set(typical(G).tolist()) <= {3, 4, 2}
    assert typical(G[:1]).tolist() == [0]


# -- verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_that_a_gate_could_take_is_said_of_a_jacobian_that_is_rounding(dtype: torch.dtype) -> None:
    decoder = Decoder(cancelling((0.0,) * 4), 4, dtype=dtype)
    result = Orthogonality(samples=32, rotations=99).measure(decoder)
    assert result.verdict == "undefined"
    assert "rounding in" in result.summary
    known = {id for id, metric in result.metrics.items() if metric.defined}
    assert known == {"latents.dim", "orthogonality.mean_abs_cosine_gaussian"}, "what J has no part in"
    (finding,) = [f for f in result.findings if f.code == "rounding"]
    assert ("float64, which was asked" in str(finding.hint)) == (dtype == torch.float32)
    assert " more: the output does not depend on them" in str(finding.hint)


def test_float64_answers_where_float32_knew_some_columns_only() -> None:
    """In float32 the rounding of two columns is as long as others; in float64 they are as good as dead."""
    f = cancelling((0.0, 1e-4, 0.0, 1e-4), scale=300.0)
    narrow, wide = (
        Orthogonality(samples=32, rotations=99).measure(Decoder(f, 4, dtype=d))
        for d in (torch.float32, torch.float64)
    )
    assert narrow.verdict == "undefined"
    assert "the columns of z0, z2 are rounding in float32" in narrow.summary
    assert "rounding" not in {f.code for f in wide.findings}
    assert wide.active == (1, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("probe", "known"),
    [
        (Factorise(samples=16, permutations=19, sheets=4), {"latents.dim", "factorise.verdict"}),
        (Trace(samples=2, length=0.2), {"trace.axis_overlap_random"}),
    ],
)
def test_nothing_is_said_of_seams_of_rounding(probe: Probe, known: set[str], dtype: torch.dtype) -> None:
    decoder = Decoder(cancelling((0.0, 1e-4, 0.0), scale=300.0), 3, dtype=dtype)
    result = probe.measure(decoder)
    if dtype == torch.float64:  # where only one latent is more than rounding
        assert "rounding" not in {f.code for f in result.findings}
        return
    assert result.verdict == "undefined"
    assert "the columns of z0, z2 are rounding in float32" in result.summary
    assert {id for id, metric in result.metrics.items() if metric.defined} == known
    assert "rounding" in {f.code for f in result.findings}
    assert result.page()  # it can be shown
    json.dumps(result.details())


@pytest.mark.parametrize(("sine", "said"), [(0.9e-4, True), (1.1e-4, False)])
def test_two_latents_that_are_one_are_named(sine: float, said: bool) -> None:
    G = torch.eye(3).double().repeat(4, 1, 1)
    G[:, 0, 2] = G[:, 2, 0] = (1 - sine**2) ** 0.5
    assert alike_words(G, ["a", "b", "c"], 1e-8) == (": a and c move the output alike" if said else "")
    G[:2] = torch.eye(3).double()
    assert alike_words(G, ["a", "b", "c"], 1e-8) == "", "at half of the points only"
    assert alike_words(torch.ones(4, 3, 3).double(), ["a", "b", "c"], 1e-8).endswith(
        "alike, and 2 more pairs"
    )


def test_two_latents_that_are_one_are_named_by_probes() -> None:
    W = normal(6, 3)
    W[:, 2] = 2 * W[:, 0]
    decoder = Decoder(lambda z: torch.sinh(z @ W.to(z).mT), 3, dtype=torch.float64)
    for probe in (
        Orthogonality(samples=8, rotations=19),
        Factorise(samples=8, max_samples=8, sheets=0, permutations=19),
    ):
        result = probe.measure(decoder)
        assert result.verdict == "undefined"
        assert "z0 and z2 move the output alike" in result.summary


@pytest.mark.parametrize(("apart", "more"), [(0.0, False), (2e-6, True)])
def test_float64_is_advised_where_it_sees_a_higher_rank(apart: float, more: bool) -> None:
    W = normal(6, 3)
    W[:, 2] = W[:, 0] + apart * normal(6, 1, seed=7)[:, 0]
    f = nn.Sequential(linear(W, torch.zeros(6)), nn.Tanh())
    result = Orthogonality(samples=8, rotations=19).measure(Decoder(f, 3))
    s = torch.linalg.svdvals(f[0].weight.detach().double())
    assert (float(s[2] / s[0]) > 3e-7) == more, "as far as Gram matrices in float64 tell"
    assert ("finds the same rank (looked at 4 latents)" in result.summary) != more
    assert ("finds the columns independent (looked at 4 latents)" in result.summary) == more
    wide = Orthogonality(samples=8, rotations=19).measure(Decoder(f, 3, dtype=torch.float64))
    assert wide["orthogonality.ima_contrast"].defined == more, "the advice holds"


def test_float64_is_advised_where_it_sees_a_higher_rank_though_not_all() -> None:
    W = normal(6, 4)
    W[:, 2], W[:, 3] = W[:, 0] + 2e-6 * normal(6, 1, seed=7)[:, 0], W[:, 1]
    result = Orthogonality(samples=8, rotations=19).measure(Decoder(linear(W, torch.zeros(6)), 4))
    assert "J has rank 2 of 4" in result.summary
    assert "--dtype float64 tells singular values down to 2e-07 of the largest: rank 3" in result.summary


def test_float64_is_not_advised_for_dead_units() -> None:
    dead = nn.Sequential(
        linear(normal(5, 2), torch.full((5,), -2.5)), nn.ReLU(), linear(normal(6, 5), torch.zeros(6))
    )
    result = Orthogonality(samples=32, rotations=19).measure(Decoder(dead, 2))
    assert "a column of length zero at" in result.summary
    assert "finds the same rank" in result.summary
    assert "--dtype" not in result.summary + " ".join(str(f.hint) for f in result.findings)


@pytest.mark.parametrize(("above", "dead"), [(-0.1, False), (0.1, True)])
def test_angles_at_few_latents_are_no_angles(above: float, dead: bool) -> None:
    """z_1 > 0 wakes the decoder: of 32 latents a little more or less than half."""
    z = normal(32, 2)
    z[:, 0] = torch.linspace(-1, 1, 32).double() - above
    decoder = Decoder(lambda z: torch.relu(z[:, :1]) * torch.tanh(z), 2, dtype=torch.float64)
    result = Orthogonality(latents=z, samples=32, rotations=19).measure(decoder)
    for name in ("mean_abs_cosine", "max_abs_cosine", "conformality"):
        metric = result[f"orthogonality.{name}"]
        assert metric.defined != dead
        assert metric.defined or "at 18 of 32 latents" in str(metric.reason)


def test_no_seam_reaches_no_limit() -> None:
    still = linear(torch.zeros(4, 2).double(), torch.ones(4).double())
    assert not Trace(samples=2, length=0.2).measure(Decoder(still, 2))["trace.step_limits"].defined


def test_columns_that_differ_by_more_than_rounding_are_not_called_one() -> None:
    """Rank 2, and two columns at an angle of 5e-4."""
    W = normal(6, 2) @ normal(2, 4, seed=1)
    W[:, 3] = W[:, 0] + 5e-4 * W[:, 1]
    result = Orthogonality(samples=8, rotations=19).measure(Decoder(linear(W, torch.zeros(6)), 4))
    assert "J has rank 2 of 4" in result.summary
    assert "alike" not in result.summary


# -- beside an encoder ------------------------------------------------------------------------------


def beside(f: nn.Module, latents: int, variance: float) -> Decoder:
    """Return the decoder with an encoder whose codes are the first outputs, at one variance."""

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, :latents], torch.full((len(x), latents), variance).log().to(x)

    return Decoder(f, latents, likelihood="gaussian", encoder=Encoder(encode, latent_dim=latents))


@pytest.mark.parametrize("variance", [0.5, 1.0])
def test_curvature_that_is_rounding_implies_no_beta(variance: float) -> None:
    decoder, x = beside(cancelling((0.0,) * 3).eval(), 3, variance), normal(40, 24).float().numpy()
    beta = Beta(data=x, samples=16, pairs=2).measure(decoder)
    assert beta.verdict == ("untested" if variance < 1 else "collapsed")
    assert "rounding" in {f.code for f in beta.findings}
    assert not any(m.defined for id, m in beta.metrics.items() if id in OF_DERIVATIVES)
    assert beta["latents.active.kl"].defined
    posterior = Posterior(data=x, samples=16, pairs=2, rotations=19).measure(decoder)
    assert posterior.verdict == "undecided"
    assert "the columns of z0, z1, z2 are rounding in float32" in posterior.summary
    assert {id for id, m in posterior.metrics.items() if m.defined} <= WITHOUT_DERIVATIVES
    assert posterior["elbo.value"].defined
    assert "large-residual" not in {f.code for f in posterior.findings}


def test_a_decoder_that_no_latent_moves_implies_no_beta_either() -> None:
    still = linear(torch.zeros(4, 2).double(), torch.ones(4).double()).eval()
    decoder, x = beside(still, 2, 0.5), normal(40, 4).float().numpy()
    beta = Beta(data=x, samples=16, pairs=2).measure(decoder)
    assert beta.verdict == "untested"
    assert "no latent moves the output where the encoder puts its posteriors" in beta.summary
    assert not beta["beta.estimate"].defined
    assert not beta["beta.consistency"].defined
    assert beta["latents.active.columns"].value == 0
    posterior = Posterior(data=x, samples=16, pairs=2, rotations=19).measure(decoder)
    assert posterior.verdict == "undecided"
    assert "at beta = 1 (assumed)" in posterior.summary
    assert not posterior["posterior.residual_share"].defined
    assert posterior["posterior.mean_field_gap"].value == 0
    given = Posterior(data=x, samples=16, pairs=2, rotations=19, beta=1.0).measure(decoder)
    assert "at beta = 1 (given)" in given.summary


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_not_called_a_wrong_derivative(dtype: torch.dtype) -> None:
    decoder = Decoder(cancelling((0.0,) * 4), 4, dtype=dtype)
    assert decoder.differentiation == "forward"
    assert "reverse-mode" not in {note.code for note in decoder.notes}


def test_latents_that_outputs_do_not_tell_are_not_compared_by_nearest_decodings() -> None:
    """Every search ends where it begins, along a direction that moves nothing: the same for any two such models."""
    W = normal(6, 3)
    W[:, 2] = W[:, 0]
    result = vaeprobe.compare([Decoder(linear(W, torch.zeros(6)), 3)] * 2, samples=16, rotations=19)
    assert result.verdict == "side by side"
    assert "do not tell its latents" in result.summary
    assert "z0 and z2 move the output alike" in result.summary
    W[:, 2] = normal(6, 1, seed=7)[:, 0]
    result = vaeprobe.compare([Decoder(linear(W, torch.zeros(6)), 3)] * 2, samples=16, rotations=19)
    assert result.verdict == "same latents"


def test_latents_are_not_ranked_by_rounding_nor_by_nothing() -> None:
    result = vaeprobe.traverse(Decoder(cancelling((0.0,) * 3), 3), samples=8)
    assert result.summary.startswith(
        "Which of 3 latents moves the output is not known: the columns of z0, z1, z2 are"
    )
    assert not result["traverse.share"].defined
    assert not result["traverse.norm"].defined
    assert "rounding" in {f.code for f in result.findings}
    # columns that are next to nothing beside a right one do not count
    result = vaeprobe.traverse(Decoder(cancelling((0.0, 1.0)), 2), samples=8)
    assert "most the doing of z1 (100%)" in result.summary
    still = vaeprobe.traverse(
        Decoder(linear(torch.zeros(4, 2).double(), torch.ones(4).double()), 2), samples=8
    )
    assert still.summary == "No latent moves the output at 8 samples of the prior."
    assert still["traverse.norm"].value == [0, 0]
    assert not still["traverse.share"].defined


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_models_agree_by_their_rounding(dtype: torch.dtype) -> None:
    f = cancelling((0.0,) * 3)
    result = vaeprobe.compare([Decoder(f, 3, dtype=dtype)] * 2, samples=16)
    assert result.verdict == "side by side"
    assert "rounding in" in result.summary
    assert not any(metric.defined for id, metric in result.metrics.items() if id.startswith("compare."))
