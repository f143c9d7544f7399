"""Policies: what is read, what is refused, and in which words."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

from vaeprobe import explain
from vaeprobe.errors import InputError, UsageError
from vaeprobe.gate import policy_file as policies
from vaeprobe.gate import rules, toml_values
from vaeprobe.gate.outcome import WORST_FIRST
from vaeprobe.gate.policy import Policy, Rule, spec_of
from vaeprobe.probes import PROBES, probe_class, question_class

COSINE = "orthogonality.mean_abs_cosine"
ALIGNMENT = "orthogonality.alignment"


def read(tmp_path: Path, text: str) -> Policy:
    path = tmp_path / "vaeprobe.toml"
    path.write_text(text)
    return policies.read(path)


def test_a_whole_policy(tmp_path: Path) -> None:
    policy = read(
        tmp_path,
        f"""
        [check]
        models = ["a.pt"]
        samples = 64
        max-samples = 512
        confidence = 0.9
        inconclusive = "warning"
        formats = ["safetensors"]
        [check.rules]
        "{COSINE}" = {{ max = 0.2 }}
        "{ALIGNMENT}" = 0.5
        "orthogonality.ima_contrast" = {{ regression = "3 %", level = "warning" }}
        [orthogonality]
        likelihood = "bernoulli"
        [[check.overrides]]
        models = "legacy_*"
        rules = {{ "{ALIGNMENT}" = {{ min = 0.2 }}, "{COSINE}" = false }}
        [[check.waivers]]
        rule = "{ALIGNMENT}"
        models = "old.pt"
        reason = "retrained next month"
        expires = 2030-01-31
        """,
    )
    rules = policy.rules_for("models/new.pt")
    assert (rules[COSINE].side, rules[COSINE].limit) == ("max", 0.2)
    assert (rules[ALIGNMENT].side, rules[ALIGNMENT].limit) == ("min", 0.5)
    regression = rules["orthogonality.ima_contrast"]
    assert (regression.regression, regression.relative, regression.level) == (
        pytest.approx(0.03),
        True,
        "warning",
    )
    legacy = policy.rules_for("models/legacy_1.pt")
    assert legacy[ALIGNMENT].limit == 0.2
    assert COSINE not in legacy
    (waiver,) = policy.waivers
    assert waiver.covers(ALIGNMENT, "x/old.pt", datetime.date(2030, 1, 31))
    assert not waiver.covers(ALIGNMENT, "x/old.pt", datetime.date(2030, 2, 1))
    assert policy.settings["orthogonality"] == {"likelihood": "bernoulli"}


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("[check]\nsample = 3", "unknown key `sample`", "samples"),
        ("[chek]", "unknown key `chek`", "check"),
        (
            '[check.rules]\n"orthogonality.mean_cosine" = 1',
            "no metric is called",
            "orthogonality.mean_abs_cosine",
        ),
        (f'[check.rules]\n"{COSINE}" = {{ min = 0.2 }}', "better when lower", "max = 0.2"),
        (f'[check.rules]\n"{COSINE}" = {{ }}', "exactly one of", "max = 0.2"),
        (f'[check.rules]\n"{COSINE}" = {{ max = 1, limit = 2, regression = 2 }}', "exactly one of", ""),
        (f'[check.rules]\n"{COSINE}" = {{ min = 1, regression = 2 }}', "better when lower", "max = 1"),
        (
            '[check.rules]\n"orthogonality.alignment" = { min = 0.5, regression = 0.1 }',
            "no mean over latents",
            "instead",
        ),
        (f'[check.rules]\n"{COSINE}" = {{ regression = -1 }}', "never negative", "direction"),
        (f'[check.rules]\n"{COSINE}" = {{ regression = "x %" }}', "no percentage", "3 %"),
        ('[check.rules]\n"latents.dim" = 3', "no better direction", "max = ..."),
        ('[check]\narch = "evil:run"', "matter of trust", "--arch"),
        ("[orthogonality]\nallow-code = true", "matter of trust", "--allow-code"),
        ("[orthogonality]\nsamples = 3", "set for all probes", "check.samples"),
        ("[orthogonality]\nrotatoins = 3", "unknown key `rotatoins`", "rotations"),
        ('[posterior]\nlatents = "grid"', "unknown key `latents`", ""),
        ("[check]\nconfidence = 2.0", "between 0.5 and 1", ""),
        ("[check]\nsamples = 0", "at least 2", ""),
        ("[check]\nsamples = 100\nmax-samples = 50", "below samples", ""),
        ("[check]\ninconclusive = 'pas'", "none of", "pass"),
        (f'[[check.waivers]]\nrule = "{COSINE}"\nreason = "x"', "`expires` is missing", ""),
        (f'[[check.waivers]]\nrule = "{COSINE}"\nreason = " "\nexpires = 2030-01-01', "needs a reason", ""),
        ('[[check.waivers]]\nrule = "nothing"\nreason = "x"\nexpires = 2030-01-01', "no metric matches", ""),
        ("[check]\nwaivers = 3", "a list is expected", "[["),
        ("check = [", "no TOML", ""),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, words: str, hint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        read(tmp_path, text)
    assert hint in (caught.value.hint or "")


def test_a_policy_is_found_upwards_and_in_pyproject(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(f'[tool.vaeprobe.check.rules]\n"{COSINE}" = 0.1\n')
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    found = policies.find(deep)
    assert found == tmp_path / "pyproject.toml"
    assert policies.read(found).rules[COSINE].limit == 0.1
    (tmp_path / "a" / "vaeprobe.toml").write_text("")
    assert policies.find(deep) == tmp_path / "a" / "vaeprobe.toml"


def test_an_unreadable_policy_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the policy"):
        policies.read(tmp_path / "none.toml")


def test_the_digest_sees_every_change(tmp_path: Path) -> None:
    one = read(tmp_path, f'[check.rules]\n"{COSINE}" = 0.1')
    other = read(tmp_path, f'[check.rules]\n"{COSINE}" = 0.1000001')
    assert one.digest() != other.digest()
    assert one.digest() == read(tmp_path, f'[check.rules]\n"{COSINE}" = {{ max = 0.1 }}').digest()


def test_verdicts_data_and_baseline(tmp_path: Path) -> None:
    policy = read(
        tmp_path,
        """
        [check]
        data = "x.npy"
        baseline = "base.json"
        [check.rules]
        "factorise.verdict" = "linear"
        "orthogonality.verdict" = { is = ["orthogonal", "conformal"], level = "warning" }
        [[check.overrides]]
        models = "old_*"
        data = "/data/old.npy"
        """,
    )
    assert (policy.data_for("m.pt"), policy.baseline) == (
        str(tmp_path / "x.npy"),
        str(tmp_path / "base.json"),
    )
    assert policy.data_for("models/old_1.pt") == "/data/old.npy"
    rules = policy.rules_for("old_1.pt")
    assert rules["factorise.verdict"].verdicts == ("linear",)
    assert rules["orthogonality.verdict"].level == "warning"
    assert rules["orthogonality.verdict"].describe() == "orthogonal or conformal"


@pytest.mark.parametrize(
    ("text", "side", "limit", "verdicts"),
    [
        ("orthogonality.alignment=0.5", "min", 0.5, ()),
        ("orthogonality.mean_abs_cosine=0.5", "max", 0.5, ()),
        ("beta.estimate<=2", "max", 2.0, ()),
        (" beta.estimate >= 1e-3 ", "min", 1e-3, ()),
        ("factorise.verdict=linear, independent", None, None, ("linear", "independent")),
    ],
)
def test_rules_on_the_command_line(text: str, side: str, limit: float, verdicts: tuple[str, ...]) -> None:
    rule = rules.rule_of_text(text)
    assert (rule.side, rule.limit, rule.verdicts) == (side, limit, verdicts)


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("beta.estimate=1", "no better direction", "'beta.estimate<=X' or 'beta.estimate>=X'"),
        ("orthogonality.alignment<=0.5", "bound its good side", "orthogonality.alignment=0.5"),
        ("orthogonality.alignment", "is no rule", "METRIC=LIMIT"),
        ("orthogonality.alignment=much", "is no rule", "METRIC=LIMIT"),
        ("factorise.verdct=linear", "is no rule", "METRIC=LIMIT"),
    ],
)
def test_hints_for_the_command_line_can_be_typed_there(text: str, words: str, hint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        rules.rule_of_text(text)
    assert hint in (caught.value.hint or "")
    assert "{" not in (caught.value.hint or "")


@pytest.mark.parametrize("key", sorted(toml_values.TRUST))
def test_no_policy_grants_trust(tmp_path: Path, key: str) -> None:
    for table in ("check", "orthogonality"):
        with pytest.raises(UsageError, match="a matter of trust"):
            read(tmp_path, f"[{table}]\n{key} = true")


@pytest.mark.parametrize("key", ["rotations", "likelihood"])
def test_settings_are_no_matter_of_trust(tmp_path: Path, key: str) -> None:
    value = {"rotations": "8", "likelihood": '"bernoulli"'}[key]
    assert key in read(tmp_path, f"[orthogonality]\n{key} = {value}").settings["orthogonality"]


def test_a_broken_project_of_somebody_else_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.x\nbroken = =")
    assert policies.find(tmp_path) is None or policies.find(tmp_path) != tmp_path / "pyproject.toml"
    (tmp_path / "pyproject.toml").write_text("[tool.vaeprobe\nbroken = =")
    with pytest.raises(UsageError, match="is no TOML"):
        policies.find(tmp_path)


def test_every_key_is_explained() -> None:
    page = explain.policy()
    assert all(f"\n  {key} " in page for key in policies.KEYS)
    assert all(f"\n  {code} " in page for code in WORST_FIRST)
    assert max(map(len, page.splitlines())) <= 80


@pytest.mark.parametrize(("word", "nearest"), [("independant", "independent"), ("zzz", "one of linear")])
def test_a_misspelt_verdict_is_told_the_nearest(word: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"no verdict is called `{word}`") as caught:
        rules.rule_of_text(f"factorise.verdict=linear,{word}")
    assert nearest in (caught.value.hint or "")


def test_every_probe_names_its_verdicts() -> None:
    assert all(question_class(name).VERDICTS for name in PROBES)
    words = set(spec_of("factorise.verdict").range.split(", "))
    assert words == set(probe_class("factorise").VERDICTS)


def test_how_models_are_loaded(tmp_path: Path) -> None:
    policy = read(
        tmp_path,
        """
        [check]
        weights = "raw"
        [[check.overrides]]
        models = "maps/*"
        latent-size = "8x8"
        latent-dim = 64
        condition = { label = 3, library = 1000.0, batch = "two" }
        [[check.overrides]]
        models = "*.ckpt"
        weights = "ema"
        output-name = "recon"
        key = "model"
        arch-args = "latent_dim=4"
        """,
    )
    assert policy.loading_for("a.pt") == {"weights": "raw"}
    assert policy.loading_for("maps/a.pt") == {
        "weights": "raw",
        "latent_size": "8x8",
        "latent_dim": 64,
        "condition": ["label=3", "library=1000.0", "batch=two"],
    }
    assert policy.loading_for("a.ckpt") == {
        "weights": "ema",
        "output_name": "recon",
        "key": "model",
        "arch_args": "latent_dim=4",
    }
    assert policy.digest() != read(tmp_path, "[check]").digest()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('weights = "best"', "`best` is none of ema, raw"),
        ("latent-size = 8", "`latent-size` is a text, not `8`"),
        ('class-axis = "last"', "class-axis is a whole number, not `last`"),
        ('latent-dim = "8"', "latent-dim is a whole number"),
        ('condition = "label=3"', "a table is expected"),
        ("condition = { label = true }", "condition holds names at values"),
        ('arch = "vae.py:VAE"', "a matter of trust"),
        ('submodule = "decoder"', "a matter of trust"),
    ],
)
@pytest.mark.parametrize("table", ["[check]", '[[check.overrides]]\nmodels = "*"'])
def test_what_a_policy_cannot_say_of_loading(tmp_path: Path, table: str, line: str, why: str) -> None:
    with pytest.raises(UsageError, match=re.escape(why)):
        read(tmp_path, f"{table}\n{line}\n")


@pytest.mark.parametrize("key", ["max", "limit"])
def test_a_rule_has_a_limit_and_a_regression(tmp_path: Path, key: str) -> None:
    policy = read(
        tmp_path, f'[check.rules]\n"{COSINE}" = {{ {key} = 0.2, regression = "3 %", level = "warning" }}'
    )
    found = policy.rules[COSINE]
    limit, regression = found.parts
    assert limit == Rule(metric=COSINE, side="max", limit=0.2, level="warning")
    assert regression == Rule(metric=COSINE, side="max", regression=0.03, relative=True, level="warning")
    assert found.describe() == "at most 0.2, and no more than 3 % worse than the baseline"
    assert (limit.needs_baseline, regression.needs_baseline, found.needs_baseline) == (False, True, True)
    assert (limit.parts, regression.parts) == ((limit,), (regression,))


def test_a_rule_bounds_both_sides_where_neither_is_better(tmp_path: Path) -> None:
    policy = read(tmp_path, '[check.rules]\n"beta.estimate" = { min = 0.9, max = 1.1, level = "warning" }')
    found = policy.rules["beta.estimate"]
    assert found.limits == (("max", 1.1), ("min", 0.9))
    assert (found.describe(), found.level) == ("from 0.9 to 1.1", "warning")
    for body, words in (
        (f'"{COSINE}" = {{ min = 0, max = 1 }}', "exactly one of"),
        ('"beta.estimate" = { min = 1.1, max = 0.9 }', "nothing is at least 1.1 and at most 0.9"),
        ('"beta.estimate" = { min = 1, max = 2, regression = 1 }', "exactly one of"),
    ):
        with pytest.raises(UsageError, match=words):
            read(tmp_path, f"[check.rules]\n{body}")


def test_no_rule_of_the_command_line_is_dropped() -> None:
    texts = ["beta.estimate<=1.1", f"{COSINE}=0.2", "beta.estimate>=0.9"]
    found = rules.rules_of_texts(texts)
    assert list(found) == ["beta.estimate", COSINE]
    assert found["beta.estimate"].describe() == "from 0.9 to 1.1"
    for last in (f"{COSINE}=0.3", "beta.estimate<=3", "beta.estimate>=0.9"):
        with pytest.raises(UsageError, match="two rules on") as caught:
            rules.rules_of_texts([*texts, last])
        assert caught.value.hint == "leave one of them out"
    with pytest.raises(UsageError, match="verdict, linear and independent"):
        rules.rules_of_texts(["factorise.verdict=linear", "factorise.verdict=independent"])


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        ("orthogonality.alignment = 0.5", '"orthogonality.alignment" = ...'),
        ("latents.active.kl = { min = 3 }", '"latents.active.kl" = ...'),
        ("latents.active = { min = 3 }", '"latents.active" = ...'),
        ('"orthogonality.alignment" = "0.5"', "without quotes: 0.5"),
        ('"orthogonality.alignment" = "half"', '"orthogonality.alignment" = 0.5'),
        ('"beta.estimate" = true', '"beta.estimate" = { max = 0.5 }'),
    ],
)
def test_what_toml_makes_of_a_rule_is_told_as_it_is_to_be_written(
    tmp_path: Path, body: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, f"[check.rules]\n{body}")
    assert hint in (caught.value.hint or "")
