"""The pytest plugin: a `vaeprobe` fixture, and assertions that know their uncertainty.

```python
def test_decoder(vaeprobe):
    decoder = vaeprobe.load("model.safetensors")
    vaeprobe.assert_orthogonal(decoder, max_mean_abs_cosine=0.1)
    vaeprobe.assert_factorises(decoder)
```

Imported by pytest on every run of every project that has vaeprobe installed, so it imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from vaeprobe.probes.base import Probe
    from vaeprobe.probes.functions import DecoderLike

FACTORISES = ("linear", "independent", "curved")


class VaeprobeFixture:
    """What the `vaeprobe` fixture is: the package's functions, and two assertions."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules[__package__], name)  # the package, whose name the fixture takes

    def assert_orthogonal(
        self,
        decoder: DecoderLike,
        *,
        latent_dim: int | None = None,
        samples: int = 128,
        max_samples: int = 4096,
        confidence: float = 0.95,
        **limits: Any,
    ) -> None:
        """Fail the test unless the Jacobian's columns keep to limits.

        Samples are doubled until each interval lies on one side of its limit.

        Args:
            decoder: a `Decoder`, an `nn.Module` or callable with `latent_dim`, or the path of a checkpoint.
            limits: `max_mean_abs_cosine` (0.1 where no limit is given), `min_alignment` and the other limits of
                `vaeprobe orthogonality`; and its settings, e.g. `likelihood="bernoulli"`, `seed=1`.

        Raises:
            AssertionError: a limit does not hold, or max_samples do not decide it, or it is undefined.
            UsageError: a name is neither a limit nor a setting.
        """
        __tracebackhide__ = True
        from vaeprobe.gate.policy import Policy, Rule
        from vaeprobe.gate.run import Gate
        from vaeprobe.probes.functions import as_decoder
        from vaeprobe.probes.orthogonality import Orthogonality

        specs = {spec.option: spec for spec in Orthogonality.METRICS if spec.option}
        known = {flag.lstrip("-").replace("-", "_"): spec for flag, spec in specs.items()}
        settings = _settings(
            Orthogonality, limits, [*known, "latent_dim", "samples", "max_samples", "confidence"]
        )
        wanted = {known[name]: value for name, value in limits.items() if name in known}
        wanted = wanted or {known["max_mean_abs_cosine"]: 0.1}
        policy = Policy(
            rules={
                spec.id: Rule(
                    metric=spec.id, side="max" if spec.better == "lower" else "min", limit=float(value)
                )
                for spec, value in wanted.items()
            },
            samples=samples,
            max_samples=max(samples, max_samples),
            confidence=confidence,
            settings={"orthogonality": settings},
        )
        report = Gate(policy=policy).check_decoder("decoder", as_decoder(decoder, latent_dim))
        bad = [
            f"{outcome.status}: {outcome.message}" for outcome in report.outcomes if outcome.status != "pass"
        ]
        if bad:
            raise AssertionError("; ".join(bad))

    def assert_factorises(
        self,
        decoder: DecoderLike,
        *,
        verdicts: tuple[str, ...] = FACTORISES,
        latent_dim: int | None = None,
        **settings: object,
    ) -> None:
        """Fail the test unless the generated density factorises into independent factors.

        A decoder whose columns are orthogonal only after a rotation mixes its latents and fails; pass
        `verdicts=("rotated",)` where that is what you want.

        Args:
            decoder: as for `assert_orthogonal`.
            verdicts: the verdicts of `vaeprobe factorise` that pass.
            settings: fields of `vaeprobe.probes.factorise.Factorise`.

        Raises:
            AssertionError: the verdict is another one.
            UsageError: a name is no setting, or a word no verdict.
        """
        __tracebackhide__ = True
        from vaeprobe.gate.rules import rule
        from vaeprobe.probes.factorise import Factorise
        from vaeprobe.probes.functions import as_decoder

        rule("factorise.verdict", [verdicts] if isinstance(verdicts, str) else list(verdicts), "verdicts")
        found = Factorise.asked(_settings(Factorise, settings, ["verdicts", "latent_dim"]))
        result = found.measure(as_decoder(decoder, latent_dim))
        if not set(result.verdict_of_all or [result.verdict]) <= set(verdicts):
            raise AssertionError(f"{result.verdict}: {result.summary}")


def _settings(cls: type[Probe], given: Mapping[str, object], others: Sequence[str]) -> dict[str, object]:
    """Return those of the names that are settings of a probe.

    Raises:
        UsageError: a name is neither a setting nor one of the others.
    """
    __tracebackhide__ = True
    from vaeprobe.errors import UsageError, did_you_mean

    fields = [f.name for f in dataclasses.fields(cls) if f.name not in cls.HIDDEN]
    known = [*fields, *others]
    for name in given:
        if name not in known:
            nearest = did_you_mean(name, known)
            raise UsageError(
                f"no limit or setting is called `{name}`" + (f"; {nearest}" if nearest else ""),
                hint=nearest or f"known: {', '.join(known)}",
            )
    return {name: value for name, value in given.items() if name in fields}


@pytest.fixture(scope="session")
def vaeprobe() -> VaeprobeFixture:
    """The vaeprobe package with `assert_orthogonal` and `assert_factorises`."""
    return VaeprobeFixture()
