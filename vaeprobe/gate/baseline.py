"""Baselines: the per-latent values of an earlier run, paired with today's on the same latents.

Pairing is what makes a small regression visible: the spread over latents is common to both models and
cancels in the difference.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from vaeprobe.errors import InputError, UsageError
from vaeprobe.files.source import read_text
from vaeprobe.gate.policy import Rule
from vaeprobe.report import SCHEMA_VERSION, Json, Metric, MetricSpec, Status

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]

LARGEST = 1 << 28  # bytes
LARGEST_VALUE = 1e150  # whose square is a number
KIND = "vaeprobe-baseline"
# settings that say which latents were drawn and what was measured on them
METHOD = (
    "seed", "latents", "likelihood", "sigma2", "beta_sigma2", "dispersion", "active_threshold", "dtype", "order",
)  # fmt: skip
# options of loading that say what of a file is measured, and those that say which network it holds: a new model may have
# another network
LOADED = ("condition", "output_name", "weights", "key", "submodule", "latent_size", "class_axis")
NETWORK = ("blueprint", "arch", "arch_args")
DEFAULTS = {"weights": "ema"}
"""What it is the same to say of loading as to leave it out."""
FILES = ("latents", "dispersion")
"""Those that may name a file, whose bytes count."""
WORDS = ("prior", "posterior", "posterior-means", "grid")
"""What `latents` takes that is no file, whatever files there are (`vaeprobe.latents.parse`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What agreement with a model is measured by.

    Attributes:
        codes: of informative latents at rows of the data, shape (rows, latents).
        data_sha256: of all rows of the data.
        columns: their Jacobian columns at the first of the rows, of long columns sketches, shape (rows, numbers,
            latents); None where no rule asks for them.
        outputs: numbers of a whole column.
    """

    codes: Array
    data_sha256: str
    columns: Array | None
    outputs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a baseline keeps of one model.

    Attributes:
        sha256: of its bytes.
        latent_dim: number of its latents.
        methods: per probe, what a paired comparison must share; of probes of data a hash of the rows among it.
        values: per metric, the values on the latents that were drawn.
        kept: what agreement is measured by; None where no rule asks for it.
        loading: options that the model was loaded with, of `LOADED` and `NETWORK`.
    """

    sha256: str
    latent_dim: int
    methods: Mapping[str, Mapping[str, object]]
    values: Mapping[str, Array]
    kept: Kept | None = None
    loading: Mapping[str, object] = field(default_factory=dict)


def read(path: Path) -> dict[str, Record]:
    """Return the records of a baseline file, by model path.

    Raises:
        InputError: the file is missing or no baseline.
    """
    try:
        document = json.loads(_text(path))
        if document["kind"] != KIND:
            raise KeyError("kind")
        if document["schema_version"] != SCHEMA_VERSION:
            raise InputError(
                f"the baseline `{path}` has schema {document['schema_version']}, this version reads {SCHEMA_VERSION}",
                hint="make it anew with --update-baseline",
            )
        records = {}
        for model, body in document["models"].items():
            values = {}
            for id, text in body["values"].items():
                values[str(id)] = _array(text, str(id))
            records[str(model)] = Record(
                sha256=str(body["sha256"]),
                latent_dim=int(body["latent_dim"]),
                methods={str(k): dict(v) for k, v in body["methods"].items()},
                values=values,
                kept=None if body.get("codes") is None else _kept(body["codes"]),
                loading=dict(body.get("loading", {})),
            )
    except (
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        OverflowError,
        RecursionError,
        binascii.Error,
    ) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"`{path}` is no baseline of vaeprobe ({type(error).__name__}: {error})",
            hint="make it anew with --update-baseline",
        ) from None
    return records


def _kept(body: Json) -> Kept:
    latents, columns = int(body["latents"]), body.get("columns")
    codes, rows = _array(body["values"], "codes").reshape(-1, latents), str(body["data_sha256"])
    if columns is None:
        return Kept(codes=codes, data_sha256=rows, columns=None, outputs=0)
    values = _array(columns["values"], "columns", "<f4").reshape(-1, int(columns["numbers"]), latents)
    return Kept(codes=codes, data_sha256=rows, columns=values, outputs=int(columns["outputs"]))


def _written(kept: Kept) -> dict[str, object]:
    body = {
        "latents": kept.codes.shape[1],
        "data_sha256": kept.data_sha256,
        "values": _base64(kept.codes),
    }
    if kept.columns is None:
        return body
    # columns are many, and no better known than to single precision
    values = _base64(kept.columns, "<f4")
    return body | {
        "columns": {"outputs": kept.outputs, "numbers": kept.columns.shape[1], "values": values},
    }


def _array(text: str, what: str, kind: str = "<f8") -> Array:
    import numpy as np

    array = np.frombuffer(base64.b64decode(text, validate=True), dtype=kind).astype(np.float64)
    if not (np.abs(array) < LARGEST_VALUE).all():
        raise ValueError(f"values of {what} are not finite")
    return array


def _base64(array: Array, kind: str = "<f8") -> str:
    return base64.b64encode(array.astype(kind).tobytes()).decode()


def _text(path: Path) -> str:
    try:
        return read_text(path, LARGEST)
    except InputError as error:
        raise InputError(
            f"cannot read the baseline `{path}`: {error.message}", hint="make it with --update-baseline"
        ) from None


def text(records: Mapping[str, Record]) -> str:
    """Return a baseline file's text."""
    models = {
        model: {
            "sha256": r.sha256,
            "latent_dim": r.latent_dim,
            "loading": dict(r.loading),
            "methods": {k: dict(v) for k, v in r.methods.items()},
            "values": {id: _base64(v) for id, v in r.values.items()},
            **({} if r.kept is None else {"codes": _written(r.kept)}),
        }
        for model, r in sorted(records.items())
    }
    return json.dumps({"kind": KIND, "schema_version": SCHEMA_VERSION, "models": models}, indent=1) + "\n"


def said(loading: Mapping[str, object], names: Iterable[str]) -> dict[str, object]:
    """Return the options of loading by their names, without those that say no more than leaving them out does."""
    return {k: loading[k] for k in names if loading.get(k) and loading[k] != DEFAULTS.get(k)}


def method_of(settings: Mapping[str, object]) -> dict[str, object]:
    """Return the part of a result's settings that a paired comparison must share."""
    return {key: settings[key] for key in METHOD if key in settings}


def check_method(theirs: Mapping[str, object], mine: Mapping[str, object]) -> None:
    """Refuse a comparison with a baseline that was measured otherwise.

    Raises:
        UsageError: it was; the message says what differs.
    """
    different = sorted(k for k in {*mine, *theirs} if mine.get(k) != theirs.get(k))
    if different:
        changes = ", ".join(f"{k} {theirs.get(k)} -> {mine.get(k)}" for k in different)
        raise UsageError(
            f"the baseline was measured by another method ({changes})",
            hint="measure the same way, or make the baseline anew with --update-baseline",
        )


def compare(
    spec: MetricSpec, rule: Rule, old: Array, new: Array, *, confidence: float
) -> tuple[Metric, Status, float]:
    """Hold the mean change of a metric against a regression margin.

    Args:
        spec: the metric.
        rule: a rule with a `regression` margin.
        old, new: values on the same latents in the same order, of one shape.
        confidence: level of the interval.

    Returns:
        the change (positive is worse) with its interval, the status, and the margin in the metric's unit.

    Raises:
        UsageError: a relative margin where the baseline is too near 0 for one.
    """
    import numpy as np

    from vaeprobe.intervals import student_interval

    n, margin = len(old), rule.regression or 0.0
    if rule.relative:
        mean, error = float(old.mean()), float(old.std(ddof=1)) / math.sqrt(n)
        if abs(mean) <= max(4 * error, 1e-6):
            raise UsageError(
                f"the baseline of `{rule.metric}` is {mean:.3g}, too near 0 for a margin in percent",
                hint=f'give the margin in its own unit: "{rule.metric}" = {{ regression = 0.01 }}',
            )
        margin *= abs(mean)
    worse = (new - old) if rule.side == "max" else (old - new)
    change = float(np.mean(worse))
    low, high = student_interval(worse, confidence)
    metric = Metric(spec, change, ci=(low, high), level=confidence, n=n, method="paired with the baseline")
    status: Status = "pass" if high <= margin else "fail" if low > margin else "inconclusive"
    return metric, status, margin
