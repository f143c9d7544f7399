"""Compare models: the same latents, the same data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from os import PathLike
from typing import Any

import numpy as np
import torch

from vaeprobe.comparison.metrics import SPECS
from vaeprobe.comparison.numbers import mean, pair, see
from vaeprobe.comparison.result import Comparison
from vaeprobe.decoder import Decoder
from vaeprobe.errors import UsageError
from vaeprobe.gate.baseline import student_interval
from vaeprobe.intervals import LEVEL, stream
from vaeprobe.probes import probe_class
from vaeprobe.probes.functions import DecoderLike, as_decoder
from vaeprobe.progress import track
from vaeprobe.report import Metric, metric_map
from vaeprobe.result import Result

PROBES = ("orthogonality", "factorise")
# matched codes that correlate this well are called the same
SAME = 0.9
SIGNIFICANT = 0.05


def compare(
    models: Sequence[DecoderLike],
    *,
    data: Any = None,
    samples: int = 256,
    rotations: int = 199,
    seed: int = 0,
) -> Comparison:
    """Return models side by side on the same latents and, with data, whether they have the same latents.

    Args:
        models: two or more decoders, or paths of checkpoints; with data they need their encoders.
        data: rows as the encoders take them: a path, an array or a tensor; at most `samples` are used.
        samples: latents, and data rows.
        rotations: random rotations for the nulls of agreement.
        seed: seed of every draw.

    Raises:
        UsageError: fewer than two models, or models and data that do not fit together.

    Source: Allen (2024), arXiv:2410.22559v1, Corollary 2.1 (identifiability of the factors).
    """
    if isinstance(models, (str, PathLike)) or len(models) < 2:
        raise UsageError("a comparison takes at least two models", hint="compare([first, second])")
    decoders = [as_decoder(model) for model in models]
    names = _names(decoders)
    results: list[dict[str, Result]] = []
    for decoder in track(decoders, "measuring"):
        results.append(
            {name: probe_class(name)(samples=samples, seed=seed).measure(decoder) for name in PROBES}
        )
    seen, pairs = [], []
    if data is not None:
        rows = probe_class("beta")(data=data, seed=seed).data_rows()
        assert rows is not None
        if rows.ndim < 2 or len(rows) < 8:
            raise UsageError(f"the data have shape {tuple(rows.shape)}: at least 8 rows are needed")
        picked = torch.from_numpy(stream(seed, "data rows").permutation(len(rows))[:samples]).sort().values
        seen = [see(decoder, rows[picked]) for decoder in decoders]
        couples = list(combinations(range(len(decoders)), 2))
        pairs = [pair(seen, i, j, count=rotations, seed=seed) for i, j in track(couples, "comparing")]
    n = len(seen[0].codes) if seen else None
    reason = "agreement needs data: the codes of the same rows in every model"
    values = {
        "compare.mcc": [p.codes.value for p in pairs],
        "compare.mcc_p": [p.codes.p_value for p in pairs],
        "compare.columns": [p.columns.value for p in pairs],
        "compare.columns_p": [p.columns.p_value for p in pairs],
        "compare.tangents": [p.tangents for p in pairs],
        "compare.udr": [p.udr for p in pairs],
    }
    metrics = [
        Metric(
            SPECS[id],
            max(found) if id.endswith("_p") else mean(found),
            n=n,
            method=None
            if len(pairs) == 1
            else f"{'largest' if id.endswith('_p') else 'mean'} over {len(pairs)} pairs",
        )
        if found
        else Metric.undefined(SPECS[id], reason)
        for id, found in values.items()
    ]
    found = metric_map(metrics)
    verdict, summary = _words(names, found, len(pairs))
    return Comparison(
        metrics=found,
        verdict=verdict,
        summary=summary,
        settings={"samples": samples, "rotations": rotations, "seed": seed, "rows": n},
        models=names,
        results=tuple(results),
        seen=tuple(seen),
        pairs=tuple(pairs),
        changes=_changes(decoders, results),
    )


def _names(decoders: Sequence[Decoder]) -> tuple[str, ...]:
    return tuple(
        d.artifact.path if d.artifact and d.artifact.path else f"model {k}" for k, d in enumerate(decoders)
    )


def _changes(
    decoders: Sequence[Decoder], results: Sequence[dict[str, Result]]
) -> dict[str, tuple[float, tuple[float, float]]]:
    """Return the mean change from the first to the second of two models, paired on the same latents."""
    if len(decoders) != 2 or decoders[0].latent_dim != decoders[1].latent_dim:
        return {}
    out = {}
    for name in PROBES:
        old, new = (r[name].per_sample() for r in results)
        for id in old.keys() & new.keys():
            if len(old[id]) == len(new[id]) > 1:
                change = np.asarray(new[id], dtype=np.float64) - np.asarray(old[id], dtype=np.float64)
                out[id] = (float(change.mean()), student_interval(change, LEVEL))
    return out


def _words(names: Sequence[str], metrics: dict[str, Metric], pairs: int) -> tuple[str, str]:
    """Return the verdict, and as a researcher would write it."""
    mcc, p = metrics["compare.mcc"].value, metrics["compare.mcc_p"].value
    if not isinstance(mcc, float) or not isinstance(p, float):
        return (
            "side by side",
            f"{len(names)} models on the same latents; whether they agree needs data (--data).",
        )
    who = "The two models" if pairs == 1 else f"The {len(names)} models, in the mean over {pairs} pairs,"
    chance = (
        "more than a rotation of the latent space would"
        if p <= SIGNIFICANT
        else "no more than a rotation would"
    )
    columns = metrics["compare.columns"].value
    said = f"codes matched one to one correlate by {mcc:.2f}, {chance} (p = {p:.2g}); matched columns by {columns:.2f}."
    if p > SIGNIFICANT:
        return "not the same axes", f"{who} do not share their axes: {said}"
    if mcc >= SAME:
        return "same latents", f"{who} have the same latents, up to order and sign: {said}"
    return "related axes", f"{who} share their axes in part: {said}"
