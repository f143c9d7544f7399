"""Questions as functions of a decoder, or of data: settings in, a result out, files written on the way."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, fields
from os import PathLike
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from vaeprobe import writing
from vaeprobe.decoder import Decoder
from vaeprobe.errors import UsageError, did_you_mean
from vaeprobe.probes import asks_decoder
from vaeprobe.probes.base import Probe, Question, judge
from vaeprobe.probes.settings import field_type, option_of
from vaeprobe.report import specs_by_id
from vaeprobe.result import Result

if TYPE_CHECKING:
    from torch import Tensor

DecoderLike: TypeAlias = "Decoder | Callable[[Tensor], object] | str | PathLike[str]"
Q = TypeVar("Q", bound=Question)
# what is said of the subject, and of further arguments
ABOUT_DECODER = (
    "decoder: a `Decoder`, an `nn.Module` (a VAE or a decoder), a callable with `latent_dim`, or the path of a checkpoint.",
    ("latent_dim: number of latents, where the decoder leaves it open.",),
)
ABOUT_DATA = ("data: rows as an array or tensor, a path, a glob, or several of them.", ())


def as_decoder(decoder: DecoderLike, latent_dim: int | None = None) -> Decoder:
    """Return a `Decoder` from a decoder, a network, a callable with its latent dimension, or a path.

    Raises:
        UsageError: it is none of these; a callable comes without its latent dimension, or a network that does not tell it.
        VaeprobeError: whatever loading or the decoder's contract raises.
    """
    if isinstance(decoder, Decoder):
        return decoder
    if isinstance(decoder, (str, PathLike)):
        from vaeprobe.checkpoints.loading import load

        return load(decoder, latent_dim=latent_dim)
    from torch import nn

    if isinstance(decoder, nn.Module):
        from vaeprobe.checkpoints.whole import from_module

        return from_module(decoder, latent_dim)
    if not callable(decoder):
        raise _no_decoder(decoder)
    if latent_dim is None:
        raise UsageError(
            "a callable does not say how many latents it takes",
            hint="pass latent_dim=..., or a vaeprobe.Decoder",
        )
    return Decoder(decoder, latent_dim)


def _no_decoder(given: object) -> UsageError:
    """Return what to say of what was given for a decoder and is none."""
    hint = None
    if getattr(given, "ndim", None) == 2:
        hint = 'numpy.save("decoder.npy", matrix) makes a file, outputs x latents, that is read as a linear decoder'
    elif isinstance(given, Mapping):
        hint = "weights alone are no network: give the path of their file"
    kind = "None" if given is None else type(given).__name__
    return UsageError(
        f"a decoder is a path, a network, a function or a vaeprobe.Decoder, not {kind}", hint=hint
    )


def probe_function(cls: type[Question]) -> Callable[..., Result]:
    """Return a question as a function; its signature lists the question's settings.

    The function measures a decoder, or rows of data, holds the result against `limits`, and writes the files that
    settings name.
    """
    function = of_decoder(cls) if asks_decoder(cls) else of_data(cls)
    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    settings = [
        inspect.Parameter(
            f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=field_type(cls, f)
        )
        for f in fields(cls)
    ]
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*parameters[:1], *settings, *parameters[1:]], return_annotation=result_class(cls)
    )
    function.__name__ = function.__qualname__ = cls.NAME
    function.__module__ = "vaeprobe"
    function.__doc__ = documentation(cls)
    return function


def of_decoder(cls: type[Probe]) -> Callable[..., Result]:
    """Return a probe as a function of a decoder."""

    def function(
        decoder: DecoderLike,
        *,
        latent_dim: int | None = None,
        limits: Mapping[str, float] | None = None,
        **settings: object,
    ) -> Result:
        probe = _asked(cls, settings)
        _ready(probe, (decoder, probe.data, probe.latents))
        probe.check_ready()
        return _answered(probe, as_decoder(decoder, latent_dim), limits)

    return function


def of_data(cls: type[Question]) -> Callable[..., Result]:
    """Return a question as a function of rows of data."""

    def function(data: object, *, limits: Mapping[str, float] | None = None, **settings: object) -> Result:
        question = _asked(cls, settings)
        _ready(question, data if isinstance(data, (list, tuple)) else [data])
        return _answered(question, data, limits)

    return function


def _asked(cls: type[Q], settings: Mapping[str, object]) -> Q:
    known = {f.name: f for f in fields(cls)}
    for name in settings.keys() - known.keys():
        raise UsageError(f"{cls.NAME} has no setting `{name}`", hint=_nearest(name, known))
    return cls.asked(settings)


def _ready(question: Question, inputs: Iterable[object]) -> None:
    """Refuse files that cannot be written, before the work."""
    writing.ready(question.outputs().values(), inputs=[p for p in inputs if isinstance(p, (str, PathLike))])


def _answered(question: Question, subject: object, limits: Mapping[str, float] | None) -> Result:
    if limits is not None and not isinstance(limits, Mapping):
        raise UsageError(
            f"`limits` are numbers by the id of their metric, not a {type(limits).__name__}",
            hint='such as {"orthogonality.alignment": 0.5}',
        )
    result = judge(question.measure(subject), limits or {}, specs_by_id(question.METRICS))
    outputs, writers = question.outputs(), result.files()
    for name in outputs.keys() & writers.keys():  # a finding says why one cannot be drawn
        writers[name](outputs[name])
    return result


def result_class(cls: type[Question]) -> type[Result]:
    """Return what a question's `measure` returns."""
    found: type[Result] = getattr(sys.modules[cls.__module__], cls.measure.__annotations__["return"])
    return found


def documentation(cls: type[Question]) -> str:
    """Return a function's docstring: the probe's own, and what each argument is."""
    text = inspect.getdoc(cls) or ""
    for heading in ("Attributes:", "Raises:", "Example"):
        text = text.split(f"\n\n{heading}", 1)[0]
    subject, more = ABOUT_DECODER if asks_decoder(cls) else ABOUT_DATA
    about = [
        subject,
        *(f"{f.name}: {option_of(f).help}" for f in fields(cls)),
        *more,
        "limits: limit per metric id; the result then carries checks.",
    ]
    return f"{text}\n\nArgs:\n" + "\n".join(f"    {line}" for line in about)


def _nearest(name: str, known: Mapping[str, Field[object]]) -> str:
    for f in known.values():
        if f"--{name.replace('_', '-')}" in option_of(f).names:
            return f"in Python it is `{f.name}`"
    return did_you_mean(name, known) or f"one of {', '.join(known)}"
