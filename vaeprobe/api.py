"""The probes as functions: `vaeprobe.orthogonality(decoder, samples=512)` and its siblings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from vaeprobe.decoder import Decoder
from vaeprobe.errors import UsageError, did_you_mean
from vaeprobe.probes.base import Probe, judge
from vaeprobe.probes.beta import Beta, BetaResult
from vaeprobe.probes.factorise import Factorise, FactoriseResult
from vaeprobe.probes.orthogonality import Orthogonality, OrthogonalityResult
from vaeprobe.probes.posterior import Posterior, PosteriorResult
from vaeprobe.probes.trace import Trace, TraceResult
from vaeprobe.report import specs_by_id

if TYPE_CHECKING:
    from torch import Tensor

DecoderLike: TypeAlias = "Decoder | Callable[[Tensor], Any] | str | PathLike[str]"
P = TypeVar("P", bound=Probe)


def as_decoder(decoder: DecoderLike, latent_dim: int | None = None) -> Decoder:
    """Return a `Decoder` from a decoder, a module or callable with its latent dimension, or a path.

    Raises:
        UsageError: a callable comes without its latent dimension.
        VaeprobeError: whatever loading or the decoder's contract raises.
    """
    if isinstance(decoder, Decoder):
        return decoder
    if isinstance(decoder, (str, PathLike)):
        from vaeprobe.checkpoints import load

        return load(decoder, latent_dim=latent_dim)
    if latent_dim is None:
        raise UsageError(
            "a callable does not say how many latents it takes",
            hint="pass latent_dim=..., or a vaeprobe.Decoder",
        )
    return Decoder(decoder, latent_dim)


def _probe(cls: type[P], settings: Mapping[str, Any]) -> P:
    known = [f.name for f in dataclasses.fields(cls)]
    for name in settings:
        if name not in known:
            raise UsageError(
                f"{cls.NAME} has no setting `{name}`",
                hint=did_you_mean(name, known) or f"one of {', '.join(known)}",
            )
    return cls(**settings)


def orthogonality(
    decoder: DecoderLike,
    *,
    latent_dim: int | None = None,
    limits: Mapping[str, float] | None = None,
    **settings: Any,
) -> OrthogonalityResult:
    """Return how orthogonal the columns of a decoder's Jacobian are.

    Args:
        decoder: a `Decoder`, an `nn.Module` or callable with `latent_dim`, or the path of a checkpoint.
        limits: limit per metric id; the result then carries checks.
        settings: the fields of `vaeprobe.probes.orthogonality.Orthogonality`.

    Source: Allen (2024), arXiv:2410.22559v1, Sections 2 and 3.
    """
    measured = _probe(Orthogonality, settings).measure(as_decoder(decoder, latent_dim))
    return judge(measured, limits or {}, specs_by_id(Orthogonality.METRICS))


def factorise(
    decoder: DecoderLike,
    *,
    latent_dim: int | None = None,
    limits: Mapping[str, float] | None = None,
    **settings: Any,
) -> FactoriseResult:
    """Return whether the density that a decoder generates factorises, along which seams, independently or not.

    Arguments as for `orthogonality`; settings are the fields of `vaeprobe.probes.factorise.Factorise`.

    Source: Allen (2024), arXiv:2410.22559v1, Section 4.1, with condition C2 that Theorem 2 needs.
    """
    measured = _probe(Factorise, settings).measure(as_decoder(decoder, latent_dim))
    return judge(measured, limits or {}, specs_by_id(Factorise.METRICS))


def trace(
    decoder: DecoderLike,
    *,
    latent_dim: int | None = None,
    limits: Mapping[str, float] | None = None,
    **settings: Any,
) -> TraceResult:
    """Return singular-vector paths ("seams") through latent and data space.

    Arguments as for `orthogonality`; settings are the fields of `vaeprobe.probes.trace.Trace`.

    Source: Allen (2024), arXiv:2410.22559v1, Section 4.1.3.
    """
    measured = _probe(Trace, settings).measure(as_decoder(decoder, latent_dim))
    return judge(measured, limits or {}, specs_by_id(Trace.METRICS))


def posterior(
    decoder: DecoderLike,
    *,
    latent_dim: int | None = None,
    limits: Mapping[str, float] | None = None,
    **settings: Any,
) -> PosteriorResult:
    """Return how the encoder's posterior compares with the likelihood's Hessian.

    Arguments as for `orthogonality`; settings are the fields of `vaeprobe.probes.posterior.Posterior`.

    Source: Allen (2024), arXiv:2410.22559v1, Eqs. 1 and 5-9.
    """
    measured = _probe(Posterior, settings).measure(as_decoder(decoder, latent_dim))
    return judge(measured, limits or {}, specs_by_id(Posterior.METRICS))


def beta(
    decoder: DecoderLike,
    *,
    latent_dim: int | None = None,
    limits: Mapping[str, float] | None = None,
    **settings: Any,
) -> BetaResult:
    """Return the beta (or beta sigma^2) that a checkpoint was trained at, and what collapsed.

    Arguments as for `orthogonality`; settings are the fields of `vaeprobe.probes.beta.Beta`.

    Source: Allen (2024), arXiv:2410.22559v1, Section 4.2, Theorem 3 and Corollary 3.1.
    """
    measured = _probe(Beta, settings).measure(as_decoder(decoder, latent_dim))
    return judge(measured, limits or {}, specs_by_id(Beta.METRICS))
