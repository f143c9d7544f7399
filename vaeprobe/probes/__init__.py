"""One file per question: one subcommand, one table of a policy."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaeprobe.probes.base import Probe
    from vaeprobe.report import MetricSpec

# subcommand -> class, in the order of the help page
PROBES = {
    "orthogonality": "vaeprobe.probes.orthogonality:Orthogonality",
    "factorise": "vaeprobe.probes.factorise:Factorise",
    "trace": "vaeprobe.probes.trace:Trace",
    "posterior": "vaeprobe.probes.posterior:Posterior",
    "beta": "vaeprobe.probes.beta:Beta",
}


def probe_class(name: str) -> type[Probe]:
    """Return the probe of a subcommand."""
    module, _, attribute = PROBES[name].partition(":")
    found: type[Probe] = getattr(import_module(module), attribute)
    return found


@cache
def metric_specs() -> dict[str, MetricSpec]:
    """Return every metric of every probe, by id."""
    from vaeprobe.linear.metrics import METRICS as LINEAR

    specs: dict[str, MetricSpec] = {}
    for name in PROBES:
        for spec in probe_class(name).METRICS:
            specs.setdefault(spec.id, spec)
    for spec in LINEAR:
        specs.setdefault(spec.id, spec)
    return specs
