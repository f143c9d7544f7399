"""Does a model have the same latents as its baseline?  Codes and columns at the same rows, up to order and sign."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

from vaeprobe.comparison.metrics import SPECS
from vaeprobe.errors import UsageError
from vaeprobe.gate.baseline import Kept, Record
from vaeprobe.probes.base import rows_of
from vaeprobe.report import Metric

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor

    from vaeprobe.decoder import Decoder
    from vaeprobe.geometry.agreement import Agreement

# rows that codes are kept of, rows of a file that are looked at, random rotations
ROWS, MOST_ROWS, ROTATIONS = 256, 20_000, 199
# rows that columns are kept of, and numbers of each column: cosines to 1 / sqrt(numbers) at each row
COLUMN_ROWS, SKETCH = 16, 256
COLUMNS = frozenset({"compare.columns", "compare.columns_p"})


@lru_cache(maxsize=4)
def sha256_of(rows: Tensor) -> str:
    """Return a hash of rows: of their shape and their values as float32."""
    body = str(tuple(rows.shape)).encode() + rows.float().contiguous().numpy().astype("<f4").tobytes()
    return hashlib.sha256(body).hexdigest()


def kept_of(decoder: Decoder, data: str | None, *, columns: bool) -> Kept:
    """Return the codes of informative latents at rows of the data and, where asked for, sketches of their columns.

    Raises:
        UsageError: there are no data, or they do not fit the model.
    """
    import torch

    from vaeprobe.comparison.numbers import see
    from vaeprobe.geometry.agreement import sketched
    from vaeprobe.intervals import stream

    if data is None:
        raise UsageError(
            "a rule on agreement with the baseline needs data: codes of the same rows",
            hint="add `data` to [check], or --data FILE",
        )
    rows = rows_of(data, MOST_ROWS)
    if rows.ndim < 2 or len(rows) < 8:
        raise UsageError(f"the data have shape {tuple(rows.shape)}: at least 8 rows are needed")
    pick = torch.from_numpy(stream(0, "rows of agreement").permutation(len(rows))[:ROWS]).sort().values
    seen = see(decoder, rows[pick])
    return Kept(
        codes=seen.codes.numpy(),
        data_sha256=sha256_of(rows),
        columns=sketched(seen.J[:COLUMN_ROWS], SKETCH).numpy() if columns else None,
        outputs=seen.J.shape[1],
    )


def measure(
    decoder: Decoder, record: Record, data: str | None, wanted: Collection[str], *, level: float
) -> dict[str, Metric]:
    """Return how a model agrees with its baseline, by metric id, intervals over resampled rows; undefined, with
    the reason, where it has nothing to compare.

    The baseline is what is asked for: means of matched latents are over its informative ones, of which each that this
    model lost counts 0.

    Args:
        wanted: metric ids; columns are measured where one of them is asked for.

    Raises:
        UsageError: the baseline keeps no codes or columns, or those of other data.
    """
    import numpy as np
    import torch

    from vaeprobe.comparison.numbers import NothingToCompareError
    from vaeprobe.geometry.agreement import code_agreement, column_agreement, correlations, ranks, udr

    old, by_columns = record.kept, not COLUMNS.isdisjoint(wanted)
    if old is None or (by_columns and old.columns is None):
        raise UsageError(
            f"the baseline keeps no {'codes' if old is None else 'columns'} to agree with",
            hint="make it anew with --update-baseline, now that a rule asks for them",
        )
    try:
        new = kept_of(decoder, data, columns=by_columns)
    except NothingToCompareError as error:
        return {id: Metric.undefined(SPECS[id], error.message) for id in wanted}
    if new.data_sha256 != old.data_sha256 or len(new.codes) != len(old.codes):
        raise UsageError(
            "the baseline was measured on other data, and codes are compared at the same rows",
            hint="give the data of the baseline, or make it anew with --update-baseline",
        )
    n, how = len(old.codes), "with the baseline"
    a, b = (torch.from_numpy(np.array(kept.codes)) for kept in (old, new))
    found, score = code_agreement(a, b, count=ROTATIONS), udr(correlations(ranks(a), ranks(b)))
    out = [
        _of_baseline("compare.mcc", found, level, n, how),
        _p_value("compare.mcc_p", found, level, n, how),
        Metric(SPECS["compare.udr"], score, n=n, method=how, reason=_counts(found)),
    ]
    if by_columns:
        if new.outputs != old.outputs:
            sizes = f"the baseline's outputs have {old.outputs} numbers and this model's {new.outputs}"
            why = f"{sizes}: their columns cannot be compared"
            return {m.id: m for m in out} | {id: Metric.undefined(SPECS[id], why) for id in COLUMNS}
        J, K = (torch.from_numpy(np.array(kept.columns)) for kept in (old, new))
        found = column_agreement(J.mT @ K, J.mT @ J, K.mT @ K, count=ROTATIONS)
        how = f"{how}, sketches of {SKETCH} numbers" if new.outputs > SKETCH else how
        out += [
            _of_baseline("compare.columns", found, level, len(J), how),
            _p_value("compare.columns_p", found, level, len(J), how),
        ]
    return {metric.id: metric for metric in out}


def _of_baseline(id: str, found: Agreement, level: float, n: int, how: str) -> Metric:
    """Return the mean agreement of the baseline's latents: one that is lost agrees with none, as a constant code would."""
    old, new = found.matrix.shape
    kept, (low, high) = min(1.0, new / old), found.interval(level)
    why = (
        _counts(found)
        and f"{_counts(found)}: those that are {'lost count 0' if new < old else 'new do not count'}"
    )
    return Metric(
        SPECS[id], kept * min(found.value, 1.0), ci=(kept * low, kept * high), level=level, n=n, method=how, reason=why
    )  # fmt: skip


def _counts(found: Agreement) -> str | None:
    """Return that there are not as many informative latents as there were, in words; None where there are."""
    old, new = found.matrix.shape
    return None if old == new else f"{old} latents of the baseline are informative, and {new} of this model"


def _p_value(id: str, found: Agreement, level: float, n: int, how: str) -> Metric:
    from vaeprobe.intervals import p_value_interval

    ci = p_value_interval(found.p_value, len(found.null), level=level)
    return Metric(SPECS[id], found.p_value, ci=ci, level=level, n=n, method=how, reason=_counts(found))
