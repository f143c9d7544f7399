"""Policies: what is read, what is refused, and in which words."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

from vaeprobe.errors import InputError, UsageError
from vaeprobe.gate import policy as policies

COSINE = "orthogonality.mean_abs_cosine"
ALIGNMENT = "orthogonality.alignment"


def read(tmp_path: Path, text: str) -> policies.Policy:
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
        (f'[check.rules]\n"{COSINE}" = {{ max = 1, regression = 2 }}', "exactly one of", ""),
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
