"""Does a model have the same latents as its baseline?  Codes of the same rows, up to order and sign."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

from vaeprobe.comparison.metrics import SPECS
from vaeprobe.errors import UsageError
from vaeprobe.gate.baseline import Record
from vaeprobe.report import Metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from vaeprobe.decoder import Decoder

# rows that codes are kept of, rows of a file that are looked at, random rotations, resamples for the interval
ROWS, MOST_ROWS, ROTATIONS, RESAMPLES = 256, 20_000, 199, 500


@lru_cache(maxsize=4)
def rows_of(data: str) -> Tensor:
    """Return the rows of a data file, as probes read them."""
    from vaeprobe.probes import probe_class

    rows = probe_class("beta")(data=data).data_rows(MOST_ROWS)
    assert rows is not None
    return rows


def sha256_of(rows: Tensor) -> str:
    """Return a hash of rows: of their shape and their values as float32."""
    body = str(tuple(rows.shape)).encode() + rows.float().contiguous().numpy().astype("<f4").tobytes()
    return hashlib.sha256(body).hexdigest()


def codes_of(decoder: Decoder, data: str | None) -> tuple[NDArray[np.float64], str]:
    """Return the codes of informative latents at rows of the data, shape (rows, latents), and a hash of the data.

    Raises:
        UsageError: there are no data, or they do not fit the model.
    """
    import torch

    from vaeprobe.comparison.numbers import see
    from vaeprobe.intervals import stream

    if data is None:
        raise UsageError(
            "a rule on agreement with the baseline needs data: codes of the same rows",
            hint="add `data` to [check], or --data FILE",
        )
    rows = rows_of(data)
    if rows.ndim < 2 or len(rows) < 8:
        raise UsageError(f"the data have shape {tuple(rows.shape)}: at least 8 rows are needed")
    pick = torch.from_numpy(stream(0, "rows of agreement").permutation(len(rows))[:ROWS]).sort().values
    return see(decoder, rows[pick]).codes.numpy(), sha256_of(rows)


def measure(decoder: Decoder, record: Record, data: str | None, *, level: float) -> dict[str, Metric]:
    """Return how a model agrees with its baseline, by metric id, intervals over resampled rows.

    Raises:
        UsageError: the baseline keeps no codes, or those of other data.
    """
    import numpy as np
    import torch

    from vaeprobe.geometry.agreement import best_matched, code_agreement, correlations, ranks, udr
    from vaeprobe.intervals import percentile_interval, stream

    if record.codes is None:
        raise UsageError(
            "the baseline keeps no codes to agree with",
            hint="make it anew with --update-baseline, now that a rule asks for them",
        )
    codes, rows = codes_of(decoder, data)
    if rows != record.data_sha256 or len(codes) != len(record.codes):
        raise UsageError(
            "the baseline was measured on other data, and codes are compared at the same rows",
            hint="give the data of the baseline, or make it anew with --update-baseline",
        )
    old, new = torch.from_numpy(np.array(record.codes)), torch.from_numpy(codes)
    found = code_agreement(old, new, count=ROTATIONS)
    n = len(old)
    picks = torch.from_numpy(stream(0, "agreement").integers(0, n, (RESAMPLES, n)))
    drawn = best_matched(torch.stack([correlations(old[p], new[p]) for p in picks]))
    # a sum of correlations of 1 may round above 1
    ci = tuple(min(max(end, 0.0), 1.0) for end in percentile_interval(drawn.numpy(), level=level))
    score = udr(correlations(ranks(old), ranks(new)))
    return {
        "compare.mcc": Metric(
            SPECS["compare.mcc"],
            min(found.value, 1.0),
            ci=(ci[0], ci[1]),
            level=level,
            n=n,
            method="with the baseline",
        ),
        "compare.mcc_p": Metric(SPECS["compare.mcc_p"], found.p_value, n=n, method="with the baseline"),
        "compare.udr": Metric(SPECS["compare.udr"], score, n=n, method="with the baseline"),
    }
