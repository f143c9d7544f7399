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

import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from vaeprobe.probes.functions import DecoderLike

FACTORISES = ("linear", "independent", "rotated", "curved")


class VaeprobeFixture:
    """What the `vaeprobe` fixture is: the package's functions, and two assertions."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules[__package__], name)  # the package, whose name the fixture takes

    def assert_orthogonal(
        self,
        decoder: DecoderLike,
        *,
        max_mean_abs_cosine: float = 0.1,
        latent_dim: int | None = None,
        samples: int = 128,
        max_samples: int = 4096,
        confidence: float = 0.95,
        **settings: Any,
    ) -> None:
        """Fail the test unless the mean absolute cosine between Jacobian columns is below a limit.

        Samples are doubled until the interval lies on one side of the limit.

        Args:
            decoder: a `Decoder`, an `nn.Module` or callable with `latent_dim`, or the path of a checkpoint.
            max_mean_abs_cosine: the limit.
            settings: further fields of `vaeprobe.probes.orthogonality.Orthogonality`.

        Raises:
            AssertionError: it is above, or max_samples do not decide it, or it is undefined.
        """
        __tracebackhide__ = True
        from vaeprobe.gate.policy import Policy, Rule
        from vaeprobe.gate.run import Gate
        from vaeprobe.probes.functions import as_decoder

        id = "orthogonality.mean_abs_cosine"
        policy = Policy(
            rules={id: Rule(metric=id, side="max", limit=max_mean_abs_cosine)},
            samples=samples,
            max_samples=max(samples, max_samples),
            confidence=confidence,
            settings={"orthogonality": settings},
        )
        report = Gate(policy=policy).check_decoder("decoder", as_decoder(decoder, latent_dim))
        (outcome,) = report.outcomes
        assert outcome.status == "pass", f"{outcome.status}: {outcome.message}"

    def assert_factorises(
        self,
        decoder: DecoderLike,
        *,
        verdicts: tuple[str, ...] = FACTORISES,
        latent_dim: int | None = None,
        **settings: Any,
    ) -> None:
        """Fail the test unless the generated density factorises into independent factors.

        Args:
            decoder: as for `assert_orthogonal`.
            verdicts: the verdicts of `vaeprobe.factorise` that pass.
            settings: fields of `vaeprobe.probes.factorise.Factorise`.

        Raises:
            AssertionError: the verdict is another one.
        """
        __tracebackhide__ = True
        from vaeprobe.api import factorise

        result = factorise(decoder, latent_dim=latent_dim, **settings)
        assert result.verdict in verdicts, f"{result.verdict}: {result.summary}"


@pytest.fixture(scope="session")
def vaeprobe() -> VaeprobeFixture:
    """The vaeprobe package with `assert_orthogonal` and `assert_factorises`."""
    return VaeprobeFixture()
