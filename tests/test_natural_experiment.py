"""The protocol of the natural experiment: words on both sides of their bounds, and networks whose answer is known."""

from __future__ import annotations

import math
from pathlib import Path

import natural_experiment as ne
import numpy as np
import pytest
import torch
from torch import nn

from vaeprobe.decoder import Decoder


def reading(value: float, group: str = "none", half: float = 0.05, p: float = 0.005) -> ne.Reading:
    return ne.Reading("m", group, value, (value - half, value + half), p)  # type: ignore[arg-type]


def test_words() -> None:
    assert reading(0.3).word(1) == "aligned"
    assert reading(0.3, p=0.05).word(1) == "aligned"
    assert reading(0.3, p=0.05).word(2) == "no alignment", "one of two models: 0.025"
    assert reading(0.14).word(1) == "no alignment"
    assert reading(0.22).word(1) == "open"
    assert ne.Reading("m", "none", None, None, None, "why").word(1) == "undefined"


def test_the_prediction_takes_two_on_either_side() -> None:
    aligned = [reading(0.7, "diagonal"), reading(0.8, "diagonal"), reading(0.75, "diagonal")]
    assert ne.contrast(aligned) == ("open", None)
    assert ne.contrast([*aligned, reading(0.0)]) == ("open", None)
    assert ne.contrast([*aligned, reading(0.02), reading(0.0), reading(0.01, "shared")])[0] == "holds"
    assert ne.contrast([*aligned, reading(0.95), reading(0.97), reading(0.99)])[0] == "fails"
    assert ne.contrast([*aligned, reading(0.1), reading(0.9)])[0] == "open"
    control = [reading(0.01, "random"), reading(0.0, "random")]
    assert ne.contrast([*aligned, *control]) == ("open", None), "random weights are no group"


def network(*, rotated: bool) -> Decoder:
    """Eight channels on 3 x 3, each to an output of its own, of strengths from 1 to 8; or turned by one rotation."""
    R = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0))).Q
    mix = nn.Conv2d(8, 8, 1, bias=False)
    mix.weight.data = (torch.diag(torch.arange(1.0, 9.0)) @ (R if rotated else torch.eye(8)))[
        :, :, None, None
    ]
    net = nn.Sequential(nn.Unflatten(1, (8, 3, 3)), mix, nn.Upsample(scale_factor=2)).eval()
    return Decoder(net, 72, latent_shape=(8, 3, 3))


def test_channels_of_their_own_are_aligned_and_rotated_ones_are_not() -> None:
    assert ne.read("own", "diagonal", network(rotated=False), samples=16).word(1) == "aligned"
    assert ne.read("turned", "none", network(rotated=True), samples=16).word(1) == "no alignment"


def test_random_weights_have_no_alignment() -> None:
    """Over six draws: p is that of chance, and no value is clear."""
    words = []
    for seed in range(6):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Unflatten(1, (8, 3, 3)),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(16, 12, 3, padding=1),
        ).eval()
        words.append(ne.read("random", "none", Decoder(net, 72, latent_shape=(8, 3, 3)), samples=16).word(6))
    assert set(words) == {"no alignment"}


def test_a_control_has_weights_of_the_same_sizes_and_no_alignment() -> None:
    of = network(rotated=False)
    before = of.function[1].weight.detach().clone()  # type: ignore[index]
    control = ne.random(of)
    drawn = control.function[1].weight.detach()  # type: ignore[index]
    assert torch.equal(of.function[1].weight, before), "the network itself is left alone"  # type: ignore[index]
    assert float(drawn.square().mean() / before.square().mean()) == pytest.approx(1, rel=0.5)
    assert ne.read("random", "random", control, samples=16).word(1) == "no alignment"
    for program in (Decoder(lambda z: z, 2), Decoder(nn.Identity(), 2)):
        with pytest.raises(ValueError, match="no weights to draw"):
            ne.random(program)


@pytest.mark.parametrize("models", [1, 10, 28, 300])
def test_any_number_of_models_leaves_a_p_value_that_can_be_small_enough(models: int) -> None:
    rotations = ne.rotations_for(models)
    assert rotations >= 199
    assert reading(0.9, p=1 / (rotations + 1)).word(models) == "aligned"
    assert reading(0.9, p=1 / 200).word(11) == "no alignment", "with 199 rotations eleven models could not be"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ne.main(["vae=model.pt"])
    assert "names no group" in capsys.readouterr().err
    assert ne.main([f"none={tmp_path / 'missing.pt'}"]) == 5
    text = ne.report([reading(0.3), reading(0.7, "diagonal")])
    assert "\nprediction: open; it takes two" in text


def test_relabellings_are_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for n, k in ((3, 3), (5, 2), (6, 4)):
        a, b = rng.normal(0.3, 1, n), rng.normal(size=k)
        theirs = stats.permutation_test(
            (a, b), lambda x, y: x.mean() - y.mean(), alternative="greater", n_resamples=np.inf
        ).pvalue
        assert ne.relabelled(a, b) == pytest.approx((theirs, 1 / math.comb(n + k, n)))
    assert ne.relabelled(rng.normal(size=3), np.array([])) is None


def test_many_models_are_relabelled_at_random() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=30)
    same, apart = ne.relabelled(values[:15], values[15:]), ne.relabelled(values[:15] + 3, values[15:])
    assert same is not None
    assert 0.05 < same[0] < 0.95
    assert apart == (1 / 10_000, 1 / 10_000)
    # of equal models every relabelling is as far apart
    assert ne.relabelled(np.full(2, 0.3), np.full(3, 0.3)) == (1.0, 1 / 10)


def test_the_summary_is_by_group() -> None:
    aligned = [reading(0.7, "diagonal"), reading(0.8, "diagonal"), reading(0.1, "diagonal")]
    text = ne.report([*aligned, reading(0.02), reading(0.0, "shared"), reading(0.01, "random")])
    assert "  2 of 3 aligned, 1 without" in text
    assert text.count("0 of 1 aligned, 1 without") == 3
    # of the ten relabellings of five models only the groups themselves are as far apart
    assert "relabelled as far apart: 0.1 of the time (at least 0.1)" in text


def test_flat_latents_are_rotated_as_a_whole() -> None:
    torch.manual_seed(0)
    own = Decoder(
        nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 8)).double(), 4, dtype=torch.float64
    )
    own.function[0].weight.data = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))  # type: ignore[index,union-attr]
    own.function[1].weight.data = torch.linalg.qr(torch.randn(8, 4, dtype=torch.float64)).Q  # type: ignore[index,union-attr]
    assert ne.read("own", "diagonal", own, samples=16).word(1) == "aligned"


@pytest.mark.slow
def test_a_published_decoder_as_it_is_and_with_random_weights(models: Path) -> None:
    """taef2 decodes latents of FLUX.2, whose posterior has a variance per entry."""
    import vaeprobe

    decoder = vaeprobe.load(models / "taef2" / "taef2_decoder.pth")
    assert ne.read("taef2", "diagonal", decoder, samples=32).word(1) == "aligned"
    assert ne.read("random", "random", ne.random(decoder), samples=32).word(1) == "no alignment"
