"""Orthogonality of decoders with more latents than one can measure: channels at a site, and random latents."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

import vaeprobe
from vaeprobe.budget import within
from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.engine import gram
from vaeprobe.engine.limits import LARGEST_GRAM, MOST
from vaeprobe.errors import ResourceError, UsageError
from vaeprobe.geometry import rotations
from vaeprobe.geometry.rotations import alignment, rotate
from vaeprobe.latents import Grid, Prior
from vaeprobe.likelihoods import Bernoulli
from vaeprobe.probes import parts
from vaeprobe.probes.factorise import Factorise
from vaeprobe.probes.orthogonality import Orthogonality, OrthogonalityResult
from vaeprobe.probes.parts import FEWEST, SOME, WORK, affordable, as_asked, block_of, holdable
from vaeprobe.probes.trace import Trace
from vaeprobe.render import html, markdown

from maps import b1, haar


def measure(probed: Decoder, **changes: Any) -> OrthogonalityResult:
    return Orthogonality(**{"samples": 40, "rotations": 99, "restarts": 1} | changes).measure(probed)


def number(result: OrthogonalityResult, name: str) -> float:
    value = result[f"orthogonality.{name}"].value
    assert isinstance(value, (int, float))
    return float(value)


def conv(channels: int = 3, h: int = 2, w: int = 4) -> Decoder:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Unflatten(1, (channels, h, w)),
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.Tanh(),
        nn.ConvTranspose2d(8, 2, 4, 2, 1),
        nn.Sigmoid(),
    )
    return Decoder(network.double().eval(), channels * h * w, latent_shape=(channels, h, w))


def per_site(R: Tensor, h: int = 2, w: int = 3) -> Decoder:
    """Orthogonal columns at every site, in the channel basis R, the same at all of them."""
    c = len(R)
    scale = torch.linspace(0.6, 1.8, c, dtype=torch.float64)[:, None, None]

    def f(z: Tensor) -> Tensor:
        u = torch.einsum("ij,njhw->nihw", R.to(z.dtype), z.reshape(-1, c, h, w))
        return torch.sinh(0.7 * u) * scale.to(z.dtype)

    return Decoder(f, c * h * w, dtype=torch.float64, latent_shape=(c, h, w))


def bent_map(Q: Tensor) -> Decoder:
    """Channels in the basis Q, bent and enlarged on a map of 4 x 4: neighbouring sites overlap, others do not."""
    scale = torch.tensor([1.0, 1.5, 0.7, 1.2], dtype=torch.float64)[:, None, None]

    def f(z: Tensor) -> Tensor:
        h = torch.sinh(torch.einsum("ij,njhw->nihw", Q, z.view(-1, 4, 4, 4))) * scale
        return nn.functional.interpolate(h, scale_factor=2, mode="bilinear")

    return Decoder(f, 64, latent_shape=(4, 4, 4), dtype=torch.float64)


@pytest.mark.parametrize("turned", [False, True])
def test_alignment_on_a_map_is_told_from_that_of_its_channels(turned: bool) -> None:
    of = bent_map(haar(4, 0) if turned else torch.eye(4, dtype=torch.float64))
    whole, channels = measure(of), measure(of, part="channels")
    assert whole.verdict == "aligned"
    [found] = [f for f in whole.findings if f.code == "latents-on-a-map"]
    assert found.level == ("warning" if turned else "note")
    A, p = number(channels, "alignment"), number(channels, "alignment_p")
    assert found.message.endswith(f"4 channels of one site have an alignment of {A:.2f}, p = {p:.2g}")
    [part] = [f for f in measure(of, part="some").findings if f.code == found.code]
    assert part.level == found.level
    assert all(f.code != found.code for f in channels.findings)


@pytest.mark.parametrize("likelihood", [None, Bernoulli()])
def test_blocks_of_the_metric_are_those_of_the_whole(
    likelihood: Bernoulli | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed = conv()
    z = torch.randn(5, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    columns = torch.stack([torch.randperm(24)[:7] for _ in range(5)])
    whole = gram(probed, z, likelihood=likelihood)
    truth = torch.stack([G[c][:, c] for G, c in zip(whole, columns, strict=True)])
    found = gram(probed, z, likelihood=likelihood, columns=columns)
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-14)
    monkeypatch.setattr("vaeprobe.engine.chunks.BUDGET", 1)  # one direction at a time
    torch.testing.assert_close(
        gram(probed, z, likelihood=likelihood, columns=columns), truth, rtol=1e-12, atol=1e-14
    )


def test_channels_at_a_site_are_the_columns_of_that_site() -> None:
    probed = conv()
    block = block_of(probed, "channels", 6, 0)
    assert block is not None
    for row in block.columns:
        places = np.unravel_index(row.numpy(), (3, 2, 4))
        assert places[0].tolist() == [0, 1, 2]
        assert len({*zip(places[1].tolist(), places[2].tolist(), strict=True)}) == 1
    assert len({int(site) for site in block.columns[:, 0]}) > 1
    assert block.names == ("c0", "c1", "c2")


def test_channels_orthogonal_in_a_rotated_basis_are_repaired_at_every_site_at_once() -> None:
    R = haar(4, 3)
    straight = measure(per_site(torch.eye(4, dtype=torch.float64)), part="channels")
    assert (straight.verdict, number(straight, "alignment_p")) == ("orthogonal", 1 / 100)
    probed = per_site(R)
    result = measure(probed, part="channels")
    assert result.verdict == "rotated"
    assert (
        "the 4 channels at one random site of 2 x 3" in result.summary
        or "latent space makes them so" in result.summary
    )
    assert result.rotation is not None
    assert result.rotation.shape == (24, 24)
    torch.testing.assert_close(result.rotation.T @ result.rotation, torch.eye(24, dtype=torch.float64))
    mended = result.rotated(probed)
    # the whole of its metric is diagonal: pairs of different sites too
    assert measure(mended, part="all").verdict == "orthogonal"


@pytest.mark.parametrize("part", ["channels", "some"])
def test_the_p_value_of_a_part_is_exact(
    part: Literal["channels", "some"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A randomly rotated basis, of the channels or of all latents, gives a uniform p."""
    monkeypatch.setattr(parts, "SOME", 3)
    base, draws, n = conv(), 200, 4
    R = torch.stack([haar(3 if part == "channels" else 24, seed) for seed in range(draws)])
    if part == "channels":
        R = torch.kron(R, torch.eye(8, dtype=torch.float64))
    z = torch.randn(draws, n, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = gram(base, (z @ R.mT).flatten(0, 1)).unflatten(0, (draws, n))
    p = []
    for seed, G in enumerate(rotate(whole, R[:, None])):
        block = block_of(base, part, n, seed)
        assert block is not None
        of_part = torch.stack([g[c[:, None], c] for g, c in zip(G, block.columns, strict=True)])
        found = alignment(of_part, count=39, seed=seed)
        assert found.p_value is not None
        p.append(found.p_value)
    quarters = np.bincount(np.ceil(np.array(p) * 4 - 1e-9).astype(int) - 1, minlength=4)
    assert float(scipy.stats.chisquare(quarters).pvalue) > 1e-3, quarters


@pytest.mark.parametrize(
    ("part", "columns"), [("all", 24), ("all", 23), ("channels", 3), ("some", 7), ("some", 26)]
)
def test_nulls_are_contrasts_of_j_times_q(
    part: Literal["all", "channels", "some"], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rotation's mean contrast, and the p-value, from the Jacobian's columns themselves: no Gram matrix, no pairs."""
    monkeypatch.setattr(parts, "SOME", columns)
    probed = conv() if part != "some" and columns != 23 else mlp(columns if part == "all" else columns + 3)
    k = probed.latent_dim
    result = vaeprobe.orthogonality(probed, samples=5, rotations=11, restarts=0, seed=4, part=part)
    z, block = Prior().draw(probed, 5, seed=4), block_of(probed, part, 5, 4)
    J = torch.func.vmap(torch.func.jacfwd(lambda x: probed(x[None]).flatten()))(z).detach()
    at = torch.arange(k).expand(5, -1) if block is None else block.columns
    assert at.shape[1] == columns

    def contrast(Q: Tensor) -> float:
        A = torch.stack([j[:, c] for j, c in zip(J, at, strict=True)]) @ Q
        half_log_det = torch.linalg.qr(A).R.diagonal(dim1=1, dim2=2).abs().log().sum(1)
        return float((A.norm(dim=1).log().sum(1) - half_log_det).mean())

    null = [contrast(Q) for Q in rotations.haar(columns, 11, 4)]
    c = contrast(torch.eye(columns, dtype=torch.float64))
    assert result.null == pytest.approx(null, rel=1e-9)
    assert number(result, "alignment") == pytest.approx(1 - c / np.mean(null), abs=1e-9)
    assert number(result, "alignment_p") == (1 + sum(x <= c for x in null)) / 12


def test_some_latents_stand_for_all_of_them() -> None:
    k, m = 520, 600
    W = torch.from_numpy(np.random.default_rng(0).standard_normal((m, k)) * np.linspace(0.3, 1.7, k))
    W[:, 1::2] += 0.3 * W[:, ::2]
    C = W / W.norm(dim=0)
    exact = float((C.T @ C).abs().triu(1).sum()) / (k * (k - 1) / 2)
    probed = Decoder(lambda z: z @ W.to(z.dtype).T, k, dtype=torch.float64)
    result = measure(probed, samples=4, rotations=19, restarts=0)
    assert number(result, "mean_abs_cosine") == pytest.approx(exact, rel=0.1)
    assert result["latents.active"].value == SOME
    (note,) = [f for f in result.findings if f.code == "part-of-jacobian"]
    assert "of 520 columns, those of 64 random latents were measured" in note.message
    assert all(name.startswith("z") for name in result.latent_names)
    assert result.rotation is not None
    turned = [i for i in range(k) if float(result.rotation[i, i]) != 1]
    assert {f"z{i}" for i in turned} <= set(result.latent_names)


def alike(share: int, k: int = 600, m: int = 610) -> tuple[Decoder, float]:
    """Orthonormal columns of which so many are one, and their mean |cos|."""
    W = torch.eye(m, k, dtype=torch.float64)
    W[:, :share] = W[:, :1] + 1e-3 * W[:, :share]
    return Decoder(lambda z: z @ W.to(z.dtype).T, k, dtype=torch.float64), share * (share - 1) / k / (k - 1)


@pytest.mark.parametrize("share", [86, 12])  # some are drawn; mostly no pair of them is
def test_the_mean_cosine_of_all_latents_lies_in_the_interval_of_some(share: int) -> None:
    from vaeprobe.probes.orthogonality.numbers import _cosine_metrics
    from vaeprobe.probes.orthogonality.reading import Reading

    probed, truth = alike(share)
    whole = gram(probed, torch.zeros(1, 600, dtype=torch.float64))[0]
    held = 0
    for seed in range(20):
        block = block_of(probed, "some", 4, seed)
        assert block is not None
        at = block.columns[0]
        reading = Reading(
            whole[at][:, at].expand(4, -1, -1),
            probed,
            isotropic=True,
            seed=0,
            active_threshold=0.05,
            rotations=1,
            restarts=0,
            beta_sigma2=1.0,
            likelihood=None,
            block=block,
        )
        metric = _cosine_metrics(reading)[0]
        low, high = metric.ci or (0.0, 0.0)
        held += low <= truth <= high
        # columns that none of 64 shows may be 1 - .05^(1 / 64) of all, one along another
        assert high - float(metric.value) > 0.045**2  # type: ignore[arg-type]
    assert held >= 17


def test_limits_that_a_part_cannot_tell_are_undecided() -> None:
    """Two columns of 600 are one, and hardly ever drawn: what is said of the part is not said of all."""
    from vaeprobe.gate import first_policy
    from vaeprobe.gate.run import metric_at
    from vaeprobe.probes.base import judge

    probed, _ = alike(2)
    result = measure(probed, samples=2, rotations=1, restarts=0, probes=2)
    cosine = result.mean_abs_cosine
    assert metric_at(result, cosine.id, 0.95).ci == pytest.approx(cosine.ci), "the gate's is over columns too"
    limits = {
        "orthogonality.max_abs_cosine": 0.5,
        "orthogonality.ima_contrast": 0.1,
        "orthogonality.isometry_defect": 0.5,
        "orthogonality.mean_abs_cosine": 0.1,
        "latents.active": 64,
    }
    checks = {c.metric.id: c.status for c in judge(result, limits, {}).checks}
    assert checks == dict.fromkeys(limits, "inconclusive") | {
        "orthogonality.mean_abs_cosine": "pass",
        "latents.active": "pass",
    }
    assert "for the part that was measured, limit: at most 0.5" in " ".join(
        str(judge(result, limits, {})).split()
    )
    probed, _ = alike(500)
    bad = judge(measure(probed, samples=2, rotations=1, restarts=0, probes=2), limits, {})
    assert {c.metric.id: c.status for c in bad.checks} == dict.fromkeys(limits, "fail") | {
        "orthogonality.isometry_defect": "inconclusive",
        "latents.active": "pass",
    }
    written = first_policy.text({"m": {"orthogonality": bad}}, models=["m"], samples=2)
    assert '"orthogonality.mean_abs_cosine" =' in written
    assert '"orthogonality.alignment" =' not in written, "no model could pass it"
    for name in ("off_diagonal", "participation"):
        assert bad[f"orthogonality.{name}"].of_all == "known", "of all columns"


def test_limits_on_channels_of_one_site_are_not_decided_for_all_of_the_map() -> None:
    """Channels of a site are orthogonal in this basis, and columns of sites that touch are not."""
    from vaeprobe.gate.policy import Policy, Rule
    from vaeprobe.gate.run import Gate
    from vaeprobe.probes.base import judge

    probed = bent_map(torch.eye(4, dtype=torch.float64))
    part, whole = measure(probed, part="channels", samples=16), measure(probed, part="all", samples=16)
    largest = number(part, "max_abs_cosine"), number(whole, "max_abs_cosine")
    assert largest[0] < 0.1 < 0.2 < largest[1]

    def statuses(**limits: float) -> dict[str, str]:
        ids = {name: "latents.active" if name == "active" else f"orthogonality.{name}" for name in limits}
        wanted = {ids[name]: limit for name, limit in limits.items()}
        checks = judge(part, wanted, {}).checks
        rules = {
            id: Rule(metric=id, side="min" if id == "latents.active" else "max", limit=limit)
            for id, limit in wanted.items()
        }
        settings = {"orthogonality": {"part": "channels"}}
        gate = Gate(policy=Policy(rules=rules, samples=16, max_samples=16, settings=settings))
        found = {o.metric.id: o.status for o in gate.check_decoder("m", probed).outcomes}
        assert found == {c.metric.id: c.status for c in checks}
        return {name: found[id] for name, id in ids.items()}

    # each could still be broken, or kept, by the channels of another site
    for limits in ({"max_abs_cosine": 0.2, "ima_contrast": 9.0, "active": 5}, {"mean_abs_cosine": 0.5}):
        assert set(statuses(**limits).values()) == {"inconclusive"}
    assert statuses(active=4, off_diagonal=0.99) == dict.fromkeys(("active", "off_diagonal"), "pass")
    turned = bent_map(haar(4, 1))
    found = judge(measure(turned, part="channels", samples=16), {"orthogonality.max_abs_cosine": 0.05}, {})
    assert [c.status for c in found.checks] == ["fail"], "that of all is no smaller"
    told = {id: m.of_all for id, m in found.metrics.items() if m.defined}
    known = {id for id, of_all in told.items() if of_all == "known"}
    assert known == {
        "latents.dim",
        *(f"orthogonality.{n}" for n in ("off_diagonal", "off_diagonal_null", "participation")),
        *(f"orthogonality.{n}" for n in ("mean_abs_cosine_gaussian", "mutual_information_gaussian")),
        "orthogonality.neighbour_cosine",
    }
    assert {id for id, of_all in told.items() if of_all == "at least"} == {
        "latents.active",
        *(f"orthogonality.{n}" for n in ("max_abs_cosine", "ima_contrast", "ima_contrast_held_out")),
        *(f"orthogonality.{n}" for n in ("mean_field_gap", "condition_number")),
    }
    for shown in (str(part), markdown.render(part.page()), html.render(part.page())):
        assert f"{part.verdict} (of the part that was measured)" in " ".join(
            re.sub(r"[*]|<[^>]*>|verdict", " ", shown).split()
        )
        assert "≥ 4" in shown
    assert "(of the part" not in str(whole)
    assert set(part.to_dict()["verdict_of_all"]) == set(Orthogonality.VERDICTS)


def test_what_describes_a_part_is_not_said_of_all() -> None:
    """A linear map of rank 400, of which 64 columns are measured; one of rank 64, of which they look whole."""
    full = nn.Linear(400, 600)
    narrow = nn.Sequential(nn.Linear(400, 64), nn.Tanh(), nn.Linear(64, 600))
    for network in (full, narrow):
        part = measure(
            Decoder(network, 400), part="some", samples=4, rotations=2, restarts=0, probes=2
        ).metrics
        known = {id for id, m in part.items() if m.defined and m.of_all == "known"}
        assert known == {
            "latents.dim",
            *(f"orthogonality.{name}" for name in ("off_diagonal", "off_diagonal_null", "participation")),
            *(f"orthogonality.{name}_gaussian" for name in ("mean_abs_cosine", "mutual_information")),
        }
        assert part["orthogonality.condition_number"].of_all == "at least"
    whole = measure(Decoder(full, 400), part="all", samples=4, rotations=2, restarts=0).metrics
    part = measure(Decoder(full, 400), part="some", samples=4, rotations=2, restarts=0, probes=2).metrics
    for name in ("condition_number", "ima_contrast_held_out"):
        one, all_of_it = (m[f"orthogonality.{name}"].value for m in (part, whole))
        assert isinstance(one, float)
        assert all_of_it is None or (isinstance(all_of_it, float) and one <= all_of_it)


def test_the_verdict_of_a_part_is_that_of_all_where_nothing_else_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Columns of some latents are orthogonal, and those of all may not be; where they are not, those of all are not."""
    from vaeprobe.gate.policy import Policy, Rule
    from vaeprobe.gate.run import Gate
    from vaeprobe.probes.factorise import Factorise

    monkeypatch.setattr(parts, "SOME", 3)

    def outcomes(W: Tensor, id: str, *words: tuple[str, ...]) -> list[str]:
        probed = Decoder(lambda z: (z @ W.to(z.dtype).T).sinh(), len(W), dtype=torch.float64)
        probe = {
            "orthogonality": {"part": "some", "rotations": 19, "restarts": 0, "probes": 0},
            "factorise": {"part": "some", "permutations": 19},
        }
        found = []
        for passing in words:
            policy = Policy(
                rules={id: Rule(metric=id, verdicts=passing)}, samples=8, max_samples=8, settings=probe
            )
            (outcome,) = Gate(policy=policy).check_decoder("", probed).outcomes
            found.append(outcome.status)
        assert "of 5 " in outcome.message
        return found

    straight = torch.eye(5, dtype=torch.float64)
    oblique = straight + 0.2
    assert outcomes(straight, "orthogonality.verdict", ("orthogonal",), tuple(Orthogonality.VERDICTS)) == [
        "inconclusive",
        "pass",
    ]
    assert outcomes(straight, "factorise.verdict", ("independent",)) == ["inconclusive"]
    assert outcomes(oblique, "factorise.verdict", ("independent", "dependent"), ("rotated",)) == [
        "fail",
        "inconclusive",
    ]
    result = Factorise(part="some", permutations=19, samples=8, max_samples=8).measure(b1_of(5))
    assert "verdict undetermined (of the part that was measured)" in str(result)
    assert result.to_dict()["verdict_of_all"] == list(result.verdict_of_all or ())


def test_a_part_that_moves_nothing_is_called_a_part() -> None:
    dead = Decoder(lambda z: 0 * z, 600, dtype=torch.float64)
    result = measure(dead, samples=2, rotations=1, restarts=0, probes=0)
    assert (
        "every column that was measured is zero: none of 64 random latents moves the output" in result.summary
    )


def test_auto_takes_the_whole_where_it_is_small() -> None:
    def space(*shape: int) -> Any:
        k = math.prod(shape)
        return SimpleNamespace(
            latent_shape=shape, latent_dim=k, continuous=range(k), latent_names=["z"] * k, data_dim=9999
        )

    def flat(k: int) -> Any:
        return SimpleNamespace(
            latent_shape=(), latent_dim=k, continuous=range(k), latent_names=["z"] * k, data_dim=9999
        )

    kinds = {"channels": "channels", "latents": "some"}

    def chosen(of: Any, part: Any = "auto") -> str:
        block = block_of(of, part, 3, 0)
        return "all" if block is None else kinds[block.kind]

    assert chosen(space(8, 4, 4)) == "all"
    assert chosen(space(8, 4, 5)) == "channels"
    assert chosen(space(8, 4, 4), "channels") == "channels"
    assert chosen(space(8, 4, 5), "all") == "all"
    assert chosen(space(1, 30, 30)) == "some", "one channel has no basis"
    assert chosen(flat(512)) == "all"
    assert chosen(flat(513)) == "some"
    assert chosen(flat(64), "some") == "all"
    assert chosen(space(8, 1, 1), "channels") == "all", "they are those of the only site"


def test_channels_of_latents_that_have_none_are_refused() -> None:
    flat = Decoder(nn.Linear(6, 9), 6)
    single = conv(1)
    held = conv().holding_all_but(range(8))
    for of, words in (
        (flat, "the 6 latents are flat, and have no channels"),
        (single, "the latents are a map of one channel, 2 x 4"),
        (held, "16 latents are held, and the others are no whole channels"),
    ):
        for probe in (Orthogonality, Factorise, Trace):
            with pytest.raises(UsageError, match=words) as caught:
                probe(part="channels", samples=4).measure(of)
            assert caught.value.hint == "leave --part out, or take --part some: random latents"
        for part in ("auto", "some"):
            assert block_of(of, part, 3, 0) is None, "what the hint says is taken"


def test_a_default_run_takes_as_many_latents_as_a_minute_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    from vaeprobe.probes import parts

    cost = {"work": 1000.0}
    monkeypatch.setattr(
        parts,
        "choose",
        lambda decoder: SimpleNamespace(work=cost["work"], work_of=lambda columns: columns * cost["work"]),
    )
    assert affordable(None, 32, 256) == 256  # type: ignore[arg-type]
    cost["work"] = WORK / 32 / 100
    assert affordable(None, 32, 256) == 100  # type: ignore[arg-type]
    assert affordable(None, 32, 64) == 64  # type: ignore[arg-type]
    cost["work"] = WORK
    assert affordable(None, 32, 256) == FEWEST  # type: ignore[arg-type]
    monkeypatch.setattr(parts, "WHOLE_IN_SPACE", 8)
    result = measure(conv(), samples=50)
    assert result["orthogonality.ima_contrast"].n == FEWEST
    (note,) = [f for f in result.findings if f.code == "part-of-jacobian"]
    assert "32 of 50 samples" in note.message
    assert measure(conv(), samples=50, part="channels")["orthogonality.ima_contrast"].n == 50


def test_a_default_run_holds_few_large_gram_matrices() -> None:
    assert holdable(256, 128) == 128
    assert holdable(257, 128) == 127
    assert holdable(512, 256) == FEWEST
    with as_asked():
        assert holdable(512, 256) == 256


def test_many_columns_at_as_many_latents_as_a_minute_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """All columns of 65 latents or more, the same way; never fewer for one who says what is asked for."""
    from vaeprobe.probes import parts

    monkeypatch.setattr(parts, "WORK", 1.0)

    def samples(k: int, **more: Any) -> tuple[int | None, list[str]]:
        result = measure(b1_of(k), samples=40, rotations=3, restarts=0, **more)
        notes = [f.message for f in result.findings if f.code == "fewer-latents"]
        return result["orthogonality.ima_contrast"].n, notes

    assert samples(SOME + 1) == (FEWEST, [f"{SOME + 1} columns each were measured at {FEWEST} of 40 samples"])
    assert samples(SOME) == (40, [])
    assert samples(SOME + 1, part="all") == (40, [])
    with parts.as_asked():
        assert samples(SOME + 1) == (40, [])


def b1_of(k: int) -> Decoder:
    return Decoder(b1(k).f, k, dtype=torch.float64)


@pytest.mark.parametrize(("part", "measured"), [("channels", 3), ("all", None)])
def test_a_count_among_a_part_is_not_held_against_all_latents(part: str, measured: int | None) -> None:
    result = measure(conv(), part=part, samples=4, probes=0)
    line = next(row for row in str(result).splitlines() if row.startswith("active latents"))
    words = "of 24" if measured is None else f"of {measured} measured, in all 24"
    assert line.rstrip().endswith(words)
    assert result.metrics["latents.dim"].value == 24


def test_posteriors_are_averaged_at_one_site() -> None:
    base = conv()
    encoder = Encoder(lambda x: (x, torch.zeros_like(x) - 1), 24, dtype=torch.float64)
    probed = Decoder(base.function, 24, dtype=torch.float64, latent_shape=(3, 2, 4), encoder=encoder)
    rows = torch.randn(10, 24, dtype=torch.float64)
    result = measure(probed, data=rows, latents="posterior", posterior_draws=4, part="channels")
    assert result["orthogonality.ima_contrast"].n == 10


@pytest.mark.slow
def test_a_tiny_autoencoder_of_512_latents(models: Path) -> None:
    from vaeprobe.checkpoints import load

    result = measure(load(models / "taef2" / "taef2_decoder.pth"), samples=256)
    assert result["latents.dim"].value == 512
    assert result["latents.active"].value == 32
    assert result.verdict == "aligned"
    assert 0.6 < number(result, "alignment") < 0.9


def test_parts_of_an_exact_map() -> None:
    """Some of the latents of an orthogonal map are orthogonal."""
    whole = b1(70)
    result = measure(Decoder(whole.f, 70, dtype=torch.float64), part="some")
    assert result.verdict == "orthogonal"
    assert len(result.latent_names) == SOME


# -- factorise along a part, the other latents given ---


def along_channels(f: Any, shape: tuple[int, ...], **changes: Any) -> Any:
    from vaeprobe.probes.factorise import Factorise

    probed = Decoder(f, math.prod(shape), dtype=torch.float64, latent_shape=shape)
    settings = {"samples": 64, "max_samples": 4096, "permutations": 19, "part": "channels"} | changes
    return Factorise(**settings).measure(probed)


def test_held_latents_are_drawn_from_their_prior_and_not_differentiated() -> None:
    from vaeprobe.decoder import Group
    from vaeprobe.latents import Prior

    mixed = (Group("normal", 3), Group("onehot", 2), Group("onehot", 2), Group("normal", 2))
    probed = Decoder(lambda z: z.sin(), 9, dtype=torch.float64, prior=mixed)
    part = probed.holding_all_but([1, 3])  # of the continuous latents 0, 1, 2, 7, 8
    assert part.continuous == [1, 7]
    assert part.gaussian == probed.continuous
    assert [(g.kind, g.size) for g in part.prior] == [
        ("held", 1),
        ("normal", 1),
        ("held", 1),
        ("onehot", 2),
        ("onehot", 2),
        ("normal", 1),
        ("held", 1),
    ]
    z = Prior().draw(part, 4000)
    assert torch.equal(z[:, 3:5].sum(1), torch.ones(4000).double())
    for i in part.gaussian:
        assert float(z[:, i].std()) == pytest.approx(1, abs=0.06)
    whole = gram(probed, z[:3])
    torch.testing.assert_close(gram(part, z[:3]), whole[:, [1, 3]][:, :, [1, 3]])
    with pytest.raises(UsageError, match="not held"):
        probed.holding_all_but([])


def test_channels_that_factorise_given_the_others() -> None:
    eye = torch.eye(3, dtype=torch.float64)
    result = along_channels(per_site(eye).function, (3, 2, 3))
    assert result.verdict == "independent"
    known = {id: m.of_all for id, m in result.metrics.items() if m.defined and m.better}
    assert {id for id, of_all in known.items() if of_all == "at least"} == {
        "latents.active",
        "factorise.gap",
        "factorise.modulation",
    }
    assert {*known.values()} == {"at least", "open"}
    assert result.summary.startswith("Of 18 latents, along the 3 channels at site (")
    assert "given the others: locally, where the decoder is one-to-one, the density" in result.summary
    assert result["latents.active"].value == 3
    assert result["latents.dim"].value == 18
    (note,) = [f for f in result.findings if f.code == "part-of-latents"]
    assert "of 18 latents, the 3 channels at site (" in note.message
    places = [int(name[1:]) for name in result.latents]
    assert places == [places[0], places[0] + 6, places[0] + 12], "the channels of one site"
    assert along_channels(per_site(haar(3, 1)).function, (3, 2, 3)).verdict == "rotated"


def test_a_length_that_held_latents_change_is_not_independent() -> None:
    """Columns of a pair (log radius at one site, angle at the other) are orthogonal; those of a site by itself too."""

    def f(z: Tensor) -> Tensor:
        r, t = z[:, 0::2], z[:, 1::2]  # shape (2, 1, 2): channel c has z_{2c}, z_{2c + 1}
        return torch.cat([r.exp() * t.cos(), r.exp() * t.sin()], 1)

    # the site of the angles: each length is the radius at the other site; that of the radii: their own
    verdicts = {}
    for seed in range(6):
        result = along_channels(f, (2, 1, 2), seed=seed)
        verdicts[int(result.latents[0][1:])] = result.verdict
    assert verdicts == {0: "independent", 1: "dependent"}


def test_factorise_takes_a_part_of_hundreds(monkeypatch: pytest.MonkeyPatch) -> None:
    from vaeprobe.probes import parts
    from vaeprobe.probes.factorise import Factorise

    monkeypatch.setattr(parts, "WHOLE_IN_SPACE", 8)
    monkeypatch.setattr(parts, "FEWEST", 12)
    monkeypatch.setattr(parts, "WORK", 1.0)
    result = Factorise(samples=64, permutations=19).measure(conv())
    assert result.verdict in ("entangled", "undetermined")
    assert result.evidence.drawn == 12
    assert result["factorise.gap"].n == 12
    assert result.evidence.pairs is None
    whole = Factorise(samples=64, max_samples=64, permutations=19, part="all").measure(conv(2, 1, 2))
    assert not [f for f in whole.findings if f.code == "part-of-latents"]
    assert whole.evidence.pairs is not None


# -- trace among a part ---


def test_trace_among_the_channels_at_a_site() -> None:
    from vaeprobe.probes.trace import Trace

    result = Trace(part="channels", samples=2, length=0.5).measure(
        per_site(torch.eye(3, dtype=torch.float64))
    )
    assert result.verdict == "axis-parallel"
    assert result.summary.startswith("Of 18 latents, among the 3 channels at site (")
    assert result["trace.axis_overlap"].of_all == "open"
    assert result["trace.step_limits"].of_all == "known"
    assert "the others held: the seams through 2 starts" in result.summary
    # the decoder's names, in tables and pictures too
    site = re.search(r"site \((\d), (\d)\)", result.summary)
    assert site is not None
    row, column = map(int, site.groups())
    names = [f"z{6 * c + 3 * row + column}[{c},{row},{column}]" for c in range(3)]
    assert list(result.latent_names) == names
    table, overlap = result.sections()[:2]
    assert {line[table.columns.index("axis")] for line in table.rows} <= set(names)
    assert overlap.column_labels == names
    (note,) = [f for f in result.findings if f.code == "part-of-latents"]
    assert "of 18 latents, seams were traced among the 3 channels at site (" in note.message
    for seam in result.paths:
        moved = (seam.z != seam.z[:1]).any(0).nonzero().flatten().tolist()
        assert set(moved) <= set(seam.coordinates.tolist())
        assert len(seam.coordinates) == 3
    turned = Trace(part="channels", samples=2, length=0.5).measure(per_site(haar(3, 1)))
    assert turned.verdict != "axis-parallel"


def test_trace_takes_a_part_of_a_large_map_at_fewer_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    from vaeprobe.probes import parts
    from vaeprobe.probes.trace import Trace

    monkeypatch.setattr(parts, "WHOLE_IN_SPACE", 8)
    monkeypatch.setattr(parts, "WORK", 1.0)
    result = Trace(length=0.2).measure(conv())
    assert len(result.paths.starts) == 1
    assert result.paths.components == (0, 1)
    assert "through 1 start," in next(f for f in result.findings if f.code == "part-of-latents").message
    whole = Trace(length=0.2, part="all", samples=1, components="0").measure(conv())
    assert not [f for f in whole.findings if f.code == "part-of-latents"]
    assert len(whole.paths[0].coordinates) == 24


def test_what_would_decide_open_seams_is_what_brings_more_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    from vaeprobe.probes import parts
    from vaeprobe.probes.trace import words

    said: list[str] = []

    def verdict(*args: Any, **more: Any) -> tuple[str, str]:
        said.append(args[5])
        return "undecided", ""

    monkeypatch.setattr(words, "verdict", verdict)

    def told(of: Decoder, samples: int = 2, **more: Any) -> str:
        Trace(length=0.05, samples=samples, components="0", **more).measure(of)
        return said[-1]

    assert told(conv()) == "more --starts"
    assert told(conv(), latents=torch.zeros(2, 24)) == "more --starts"
    assert told(conv(), samples=3, latents=torch.zeros(2, 24)) == "more rows of latents"
    monkeypatch.setattr(parts, "WHOLE_IN_SPACE", 8)
    monkeypatch.setattr(parts, "WORK", 1.0)
    assert told(conv()) == "--part channels"
    assert told(conv(), part="channels") == told(conv(), samples=1) == "more --starts"
    assert told(mlp(SOME + 1)) == "--part all"
    assert told(mlp(SOME)) == "more --starts"
    with within(1e-3):
        assert told(conv()) == told(mlp(3)) == "more --time"


# -- the whole of G by random products ---


def mlp(k: int, m: int = 96) -> Decoder:
    """A network whose columns differ in length and are not orthogonal."""
    torch.manual_seed(k)
    network = nn.Sequential(nn.Linear(k, 64), nn.Tanh(), nn.Linear(64, m)).double()
    with torch.no_grad():
        network[0].weight *= torch.linspace(0.2, 3, k).double()
    return Decoder(network, k)


@pytest.mark.parametrize("k", [100, 512])
def test_energies_are_unbiased(k: int) -> None:
    from vaeprobe.engine.matrix_free import energies, exact_energies

    probed = mlp(k)
    z = torch.randn(2, k, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    truth = exact_energies(gram(probed, z))
    draws = [energies(probed, z, probes=4, seed=seed) for seed in range(150)]
    for name in ("off", "total", "trace_squared"):
        found = torch.stack([getattr(e, name) for e in draws])
        error = (found.mean(0) - getattr(truth, name)) / (found.std(0) / math.sqrt(len(draws)))
        assert float(error.abs().max()) < 4, name
        assert float(found.std(0).max()) > 0
    with pytest.raises(UsageError, match="at least 2 probes"):
        energies(probed, z, probes=1)


def test_energies_in_a_likelihoods_metric() -> None:
    from vaeprobe.engine.matrix_free import energies, exact_energies

    probed, z = conv(), torch.randn(3, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    truth = exact_energies(gram(probed, z, likelihood=Bernoulli()))
    found = energies(probed, z, probes=4000, likelihood=Bernoulli())
    for name in ("off", "total", "trace_squared"):
        torch.testing.assert_close(getattr(found, name), getattr(truth, name), rtol=0.08, atol=0)


def test_the_null_of_the_energy_off_the_diagonal_is_that_of_random_rotations() -> None:
    from vaeprobe.geometry.rotations import rotate

    probed = mlp(12, 30)
    result = measure(probed, samples=20)
    z = Prior().draw(probed, 20)
    G = gram(probed, z)

    def share(G: Tensor) -> float:
        diagonal = G.diagonal(dim1=1, dim2=2).square().sum(1)
        return 1 - float(diagonal.mean() / G.square().sum((1, 2)).mean())

    assert number(result, "off_diagonal") == pytest.approx(share(G), rel=1e-9)
    draws = np.array([share(rotate(G, haar(12, seed))) for seed in range(400)])
    null = number(result, "off_diagonal_null")
    assert abs(draws.mean() - null) < 4 * draws.std() / 20
    s = torch.linalg.svdvals(G)
    ratio = s.sum(1).square().mean() / s.square().sum(1).mean()
    assert number(result, "participation") == pytest.approx(float(ratio), rel=1e-9)
    assert result["orthogonality.off_diagonal"].method.startswith("exact at 20 latents")


def test_a_part_says_what_the_whole_is_by_random_products() -> None:
    result = measure(conv(), part="channels", samples=40, probes=32)
    whole = measure(conv(), part="all", samples=40)
    for name in ("off_diagonal", "off_diagonal_null", "participation"):
        low, high = result[f"orthogonality.{name}"].ci
        assert low < number(whole, name) < high, name
        assert "32 random probes at 16 latents" in (result[f"orthogonality.{name}"].method or "")
    assert "Of all 24 columns, " in result.summary
    assert "Of all" not in whole.summary
    (table,) = [s for s in result.sections() if "whole Jacobian" in getattr(s, "title", "")]
    z = Prior().draw(conv(), 2)
    s = torch.linalg.svdvals(gram(conv(), z)).sqrt()[:, :3].square().mean(0).sqrt()
    assert [row[1] for row in table.rows] == pytest.approx(s.tolist(), rel=1e-3)
    assert all(row[2] < 0.02 for row in table.rows)
    bare = measure(conv(), part="channels", samples=40, probes=0)
    assert not bare["orthogonality.off_diagonal"].defined
    assert "Of all" not in bare.summary


def test_energies_where_there_is_nothing_to_say() -> None:
    dead = measure(Decoder(lambda z: 0 * z, 3, dtype=torch.float64))
    assert "every column" in str(dead["orthogonality.off_diagonal"].reason)
    one = measure(Decoder(lambda z: z.sin(), 1, dtype=torch.float64))
    assert "no pair" in str(one["orthogonality.off_diagonal"].reason)
    spread = measure(per_site(torch.eye(3, dtype=torch.float64)), part="channels")
    assert number(spread, "off_diagonal") == pytest.approx(0, abs=1e-12), (
        "orthogonal columns have none, whatever the probes"
    )


# -- neighbouring sites ---


def test_cosines_with_the_next_site_are_those_of_the_whole_metric() -> None:
    from vaeprobe.geometry.gram import column_cosines
    from vaeprobe.probes.orthogonality.neighbours import (
        cosines_of_the_halves,
        next_sites,
        with_the_next_site,
    )

    probed = conv()  # 3 channels at 2 x 4 sites
    z = Prior().draw(probed, 12)
    block = block_of(probed, "channels", 12, 0)
    assert block is not None
    site = block.columns[:, 0]
    beside = next_sites(site, (2, 4), 5)
    for a, b in zip(site.tolist(), beside.tolist(), strict=True):
        assert abs(a // 4 - b // 4) + abs(a % 4 - b % 4) == 1
    C = column_cosines(gram(probed, z)).abs()
    columns = torch.arange(3) * 8
    truth = [
        float(C[n][columns + a][:, columns + b].mean())
        for n, (a, b) in enumerate(zip(site.tolist(), beside.tolist(), strict=True))
    ]
    found = cosines_of_the_halves(gram(probed, z, columns=with_the_next_site(probed, block, 12, 5)))
    assert found.tolist() == pytest.approx(truth, rel=1e-9)
    assert next_sites(torch.zeros(9, dtype=torch.long), (1, 2), 0).tolist() == [1] * 9, (
        "one axis has no neighbours"
    )
    assert len(set(next_sites(torch.full((40,), 5), (3, 4), 0).tolist())) == 4


def test_with_and_without_a_time_limit_neighbours_and_channels_are_measured_alike() -> None:
    """Without one, the columns of the first sites and their neighbours are measured together."""
    together = measure(conv(), part="channels", samples=12)
    with within(1000):
        apart = measure(conv(), part="channels", samples=12)
    assert together["orthogonality.neighbour_cosine"].n == 8
    for metric in together.metrics.values():
        other = apart[metric.id]
        assert (metric.n, metric.defined) == (other.n, other.defined), metric.id
        if metric.defined:
            assert other.value == pytest.approx(metric.value, rel=1e-9, abs=1e-12), metric.id


def test_sites_that_share_nothing_are_orthogonal() -> None:
    apart = measure(per_site(haar(3, 1)), part="channels")
    assert number(apart, "neighbour_cosine") == 0
    assert number(measure(conv(), part="channels"), "neighbour_cosine") > 0.01
    assert not measure(conv(), part="all")["orthogonality.neighbour_cosine"].defined
    assert not measure(conv(), part="channels", probes=0)["orthogonality.neighbour_cosine"].defined


@pytest.mark.parametrize("part", ["auto", "all"])
def test_sources_with_fewer_latents_than_samples_are_measured_once_at_each(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vaeprobe.probes import parts

    monkeypatch.setattr(parts, "WHOLE_IN_SPACE", 8)
    probed = conv()
    probed = dataclasses.replace(
        probed, encoder=Encoder(lambda x: (x, torch.zeros_like(x) - 4), 24, dtype=torch.float64)
    )
    rows = torch.randn(36, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    grid = len(Grid().draw(probed, 50))
    for latents, most in ((rows.numpy(), 36), ("posterior", 36), ("posterior-means", 36), ("grid", grid)):
        data = None if isinstance(latents, np.ndarray) or latents == "grid" else rows
        more: dict[str, Any] = {"latents": latents, "data": data, "part": part, "posterior_draws": 2}
        result = measure(probed, samples=50, **more)
        n = result["orthogonality.ima_contrast"].n
        words = " ".join(f.message for f in result.findings if f.code == "part-of-jacobian")
        assert "of 50" not in words
        assert n == most or f"{n} of {most} samples" in words
    monkeypatch.setattr(parts, "WORK", 1.0)
    result = measure(probed, samples=50, latents="posterior", data=rows, posterior_draws=2, part="auto")
    if part == "auto":
        (note,) = [f for f in result.findings if f.code == "part-of-jacobian"]
        assert note.message.endswith(f"at {FEWEST} of 36 samples")


def test_more_latents_than_any_decoder_has_are_a_limit() -> None:
    assert block_of(Decoder(lambda z: z[:, :2], MOST), "all", 4, 0) is None
    with pytest.raises(ResourceError, match="131,073 latents"):
        block_of(Decoder(lambda z: z[:, :2], MOST + 1), "all", 4, 0)


def test_no_part_stands_for_all_latents_of_a_map_to_few_outputs() -> None:
    many = int((LARGEST_GRAM / 8) ** 0.5) + 1
    few, enough = (Decoder(lambda z, m=m: z[:, :m], many) for m in (SOME - 1, SOME))
    with pytest.raises(
        ResourceError, match=f"{SOME - 1} outputs cannot hold {SOME} independent columns"
    ) as refused:
        block_of(few, "auto", 4, 0)
    assert str(refused.value.hint).startswith(
        "--part some (in Python, part='some') measures 64 random latents"
    )
    for some in (block_of(few, "some", 4, 0), block_of(enough, "auto", 4, 0)):
        assert some is not None
        assert len(some.names) == SOME
    fewer = block_of(Decoder(lambda z: z[:, : SOME - 1], many - 1), "auto", 4, 0)
    assert fewer is not None
    assert len(fewer.names) == SOME


def test_what_is_advised_where_no_part_stands_for_all_answers() -> None:
    """Few outputs see few directions: `factorise` asks along them, and a part of as many columns as it takes is undefined."""
    many = int((LARGEST_GRAM / 8) ** 0.5) + 1
    W = torch.from_numpy(np.random.default_rng(0).normal(size=(many, 3))) / many**0.5
    few = Decoder(lambda z: torch.tanh(z @ W.to(z.dtype)), many, dtype=torch.float64)
    asked = Factorise(samples=32, max_samples=32, sheets=0, permutations=19)
    with pytest.raises(ResourceError) as refused:
        asked.measure(few)
    assert str(refused.value.hint).startswith("--part all (in Python, part='all') measures all directions")
    assert "some" not in str(refused.value.hint)
    assert "3 directions alone" in dataclasses.replace(asked, part="all").measure(few).summary
    assert dataclasses.replace(asked, part="some").measure(few).verdict == "undefined"
    with pytest.raises(ResourceError) as refused:
        Orthogonality(samples=32).measure(few)
    assert "`vaeprobe factorise MODEL --part all`" in str(refused.value.hint)
    assert Orthogonality(samples=32, part="some").measure(few).metrics


def test_seams_of_many_latents_start_where_there_is_time_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """From one start where a Jacobian is dear, up to 64 columns and for those who ask from all."""
    from vaeprobe.probes import parts
    from vaeprobe.probes.trace import Trace

    monkeypatch.setattr(parts, "WORK", 1.0)

    def starts(k: int, **more: Any) -> tuple[int, list[str]]:
        scale = torch.linspace(1, 2, k, dtype=torch.float64)
        decoder = Decoder(lambda z: z * scale.to(z.dtype), k, dtype=torch.float64)
        result = Trace(samples=2, components=[0], length=0.1, **more).measure(decoder)
        notes = [f.message for f in result.findings if f.code == "fewer-latents"]
        return len(result.paths.starts), notes

    assert starts(SOME + 1) == (1, [f"seams of {SOME + 1} latents were traced from 1 of 2 starts"])
    assert starts(SOME + 1, part="all") == (2, [])
    assert starts(SOME) == (2, [])
