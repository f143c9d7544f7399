"""One room per question: one subcommand, one function, one table of a policy."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from vaeprobe.probes.base import Probe, Question
    from vaeprobe.report import MetricSpec

# name -> class, in the order of the help page; a subcommand writes `-` for `_`
PROBES = {
    "orthogonality": "vaeprobe.probes.orthogonality:Orthogonality",
    "factorise": "vaeprobe.probes.factorise:Factorise",
    "trace": "vaeprobe.probes.trace:Trace",
    "posterior": "vaeprobe.probes.posterior:Posterior",
    "beta": "vaeprobe.probes.beta:Beta",
    "train_linear": "vaeprobe.probes.train_linear:TrainLinear",
}


def question_class(name: str) -> type[Question]:
    """Return what a name of the list asks, of a decoder or of data."""
    module, _, attribute = PROBES[name].partition(":")
    found: type[Question] = getattr(import_module(module), attribute)
    return found


def asks_decoder(cls: type[Question]) -> TypeGuard[type[Probe]]:
    """Whether a question is one for a decoder, of which it draws samples."""
    from vaeprobe.probes.base import Probe

    return issubclass(cls, Probe)


def probe_class(name: str) -> type[Probe]:
    """Return the probe of a name that is asked of decoders."""
    found = question_class(name)
    if not asks_decoder(found):
        raise TypeError(f"`{name}` is asked of data, not of a decoder")
    return found


@cache
def metric_specs() -> dict[str, MetricSpec]:
    """Return every metric of every probe, by id."""
    specs: dict[str, MetricSpec] = {}
    for name in PROBES:
        for spec in question_class(name).METRICS:
            specs.setdefault(spec.id, spec)
    return specs
