"""The table of the paper's claims: the rule of its verdicts, its exact rows, and a small training of the others."""

from __future__ import annotations

import json
import re
from pathlib import Path

import claims
import pytest
import torch

from paper import linear, maps, trained
from paper.claim import FULL, SMALL, USUAL, Claim, Evidence, Part, as_record, from_record, over_seeds
from paper.training import Recipe, train

EXACT = (*linear.CLAIMS, *maps.CLAIMS)


def part(
    value: float, ci: tuple[float, float] | None = None, side: str = "under", limit: float = 1.0
) -> Part:
    return Part("a number", value, ci, side, limit)  # type: ignore[arg-type]


@pytest.mark.parametrize(("found", "true"), [
    (part(0.9), True),
    (part(1.0), False),
    (part(0.5, (0.4, 0.99)), True),
    (part(0.5, (0.4, 1.0)), None),
    (part(1.5, (1.0, 2.0)), False),
    (part(1.0, side="over"), False),
    (part(1.1, side="over"), True),
    (part(1.5, (1.0, 2.0), "over"), None),
    (part(1.5, (1.01, 2.0), "over"), True),
    (part(0.5, (0.4, 1.0), "over"), False),
])  # fmt: skip
def test_a_statement_is_decided_by_its_whole_interval(found: Part, true: bool | None) -> None:
    assert found.true is true


def test_verdicts() -> None:
    yes, no, unsure = part(0.0), part(2.0), part(1.0, (0.5, 1.5))
    assert Evidence(yes).verdict == "holds"
    assert Evidence(yes, no).verdict == "holds"
    assert Evidence(unsure, yes).verdict == "open"
    assert Evidence(no).verdict == "fails"
    assert Evidence(no, no).verdict == "fails"
    assert Evidence(no, unsure).verdict == "open"
    assert Evidence(no, yes).verdict == "needs a condition"
    assert Evidence(no, yes, "in expectation").verdict == "in expectation"
    assert Evidence(no, beside=(yes,)).verdict == "fails", "what stands beside decides nothing"


def test_the_interval_over_seeds_is_students() -> None:
    found = over_seeds("x", [1.0, 2.0, 3.0, 4.0], "over", 0.0)
    assert found.value == 2.5
    assert found.ci is not None
    assert found.ci[1] - found.ci[0] == pytest.approx(2 * 3.182446 * (5 / 3 / 4) ** 0.5, rel=1e-4)


def page() -> dict[str, str]:
    """Return the verdict of each claim on the page that stands in the repository."""
    text = claims.PAGE.read_text(encoding="utf-8")
    return {
        name: verdict
        for verdict, name in re.findall(
            r"\*\*([a-z ]+)\*\*(?:<br>[^|]*)? \| `claims.py ([a-z0-9-]+)(?: --full)?`", text
        )
    }


def test_every_claim_is_on_the_page_in_order() -> None:
    assert list(page()) == [claim.name for claim in claims.CLAIMS]
    assert "open" not in page().values()


@pytest.mark.parametrize("claim", EXACT, ids=lambda c: c.name)
def test_exact_rows_repeat(claim: Claim) -> None:
    assert claim.measure(SMALL).verdict == page()[claim.name]


def test_the_page_is_written_from_what_was_kept() -> None:
    rows = claims.kept()
    assert claims.PAGE.read_text(encoding="utf-8") == claims.page(rows)
    for row in rows:
        assert row.evidence.verdict == page()[row.claim.name]
        assert row.effort in (USUAL, FULL)
        record = json.loads(json.dumps(as_record(row.evidence, row.effort)))
        assert from_record(record) == (row.evidence, row.effort)


def test_a_claim_measured_anew_replaces_its_row_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "PAGE", tmp_path / "CLAIMS.md")
    monkeypatch.setattr(claims, "KEPT", tmp_path / "claims.json")
    one, other = claims.CLAIMS[0], claims.CLAIMS[-1]
    false, true = Evidence(part(2.0)), Evidence(part(0.5, (0.4, 0.6)))
    claims.keep(other, false, USUAL)
    claims.keep(one, true, USUAL)
    claims.keep(other, true, FULL)
    first, second = claims.kept()
    assert first == claims.Row(one, true, USUAL)
    assert second == claims.Row(other, true, FULL, "fails"), (
        "what the short run said is kept beside the full one"
    )
    text = " ".join(claims.PAGE.read_text(encoding="utf-8").split())
    assert f"**holds**<br>*short run: fails* | `claims.py {other.name} --full`" in text
    assert "1 of 2 rows are of the full run" in text
    assert "ends in the same verdict for 0 of 1; where it does not" in text
    claims.keep(other, true, USUAL)
    claims.keep(one, false, FULL)
    first, second = claims.kept()
    assert second == claims.Row(other, true, FULL, "holds"), "a short run does not replace a full one"
    assert first == claims.Row(one, false, FULL, "holds")
    assert "ends in the same verdict for 1 of 2" in " ".join(claims.PAGE.read_text(encoding="utf-8").split())


def test_every_row_is_full_and_the_short_run_is_known() -> None:
    assert all(row.effort == FULL and row.short is not None for row in claims.kept())


@pytest.mark.slow
@pytest.mark.parametrize("row", claims.kept(), ids=lambda r: r.claim.name)
def test_every_row_repeats(row: claims.Row) -> None:
    assert row.claim.measure(USUAL).verdict == row.short


@pytest.mark.parametrize("claim", trained.CLAIMS, ids=lambda c: c.name)
def test_a_small_training_answers_every_claim(claim: Claim) -> None:
    found = claim.measure(SMALL)
    for one in (found.claimed, *found.beside):
        assert torch.isfinite(torch.tensor(one.value))
    assert claims.table([claims.Row(claim, found, SMALL)]).count("\n") == 2


def test_stacked_models_are_trained_as_if_alone() -> None:
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    alone = train(x, [Recipe(seed=3, beta=2.0)], latents=2, steps=5)
    among = train(x, [Recipe(seed=1), Recipe(seed=3, beta=2.0), Recipe(seed=3)], latents=2, steps=5)
    assert torch.allclose(alone[0].means, among[1].means, atol=1e-5)
    assert not torch.allclose(among[1].means, among[2].means, atol=1e-5)


@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_the_loss_is_minus_the_elbo(posterior: str) -> None:
    """On one column and one latent an ELBO is known: it stays under the log-likelihood, and comes near it."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 1, generator=g)
    [model] = train(
        x,
        [Recipe(seed=0, sigma2=0.5)],
        latents=1,
        steps=300,
        posterior=posterior,  # type: ignore[arg-type]
    )
    entropy = 0.5 * (1 + torch.log(torch.tensor(2 * torch.pi))).item()
    assert entropy - 0.05 < model.loss < entropy + 0.1


def test_a_learned_variance_finds_the_noise() -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 1, generator=g)
    x = z @ torch.ones(1, 6) + 0.3 * torch.randn(2000, 6, generator=g)
    [model] = train(x, [Recipe(seed=0, sigma2=None)], latents=1, steps=600)
    assert model.sigma2 == pytest.approx(0.09, rel=0.2)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert claims.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(claims.CLAIMS)
    assert claims.main(["eq10"]) == 0
    assert capsys.readouterr().out.startswith("eq10: needs a condition\n")
    with pytest.raises(SystemExit) as stopped:
        claims.main(["eq11"])
    assert stopped.value.code == 2


def test_cells_are_one_line_and_hold_no_bar() -> None:
    assert claims.cell("|cos|", "b") == "\\|cos\\|<br>b"
