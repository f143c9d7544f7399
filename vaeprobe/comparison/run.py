"""Compare models: the same latents, the same data."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from math import comb
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.budget import NO_TIME, Fit, TimeIsOver, budget, optional, share_of, within
from vaeprobe.comparison import parts
from vaeprobe.comparison.metrics import SPECS
from vaeprobe.comparison.numbers import Pair, Seen, decodings, foretell_seeing, mean, pair, see, why_apart
from vaeprobe.comparison.parts import same_part, shortened_alike
from vaeprobe.comparison.ranking import CRITERIA, rankings
from vaeprobe.comparison.result import SHORT, UNSHARED, Comparison
from vaeprobe.comparison.sweep import sweep_of
from vaeprobe.decoder import Decoder
from vaeprobe.errors import InputError, UsageError, VaeprobeError, did_you_mean
from vaeprobe.findings import NOT_SORTED, TIME_LIMIT
from vaeprobe.foreign import said
from vaeprobe.geometry.agreement import code_agreement, interval_of
from vaeprobe.geometry.labels import dci, mig, trees_dci
from vaeprobe.geometry.rotations import Alignment
from vaeprobe.given import check_given, check_least
from vaeprobe.intervals import LEVEL, stream, student_interval
from vaeprobe.kept import keeping
from vaeprobe.latents import numbers
from vaeprobe.likelihoods import by_name
from vaeprobe.probes import metric_specs, probe_class
from vaeprobe.probes.base import class_findings, rows_of
from vaeprobe.probes.functions import DecoderLike, as_decoder
from vaeprobe.probes.orthogonality.probe import OrthogonalityResult
from vaeprobe.probes.parts import shortened
from vaeprobe.processes import current as processes
from vaeprobe.progress import track
from vaeprobe.report import Finding, Metric, metric_map
from vaeprobe.result import Result

PROBES = ("orthogonality", "factorise")
# of what is left of a model's time, each takes one part of so many
SHARES = (3, 2)
# matched codes that correlate this well are called the same
SAME = 0.9
SIGNIFICANT = 0.05
LEAST = 8  # rows


def compare(
    models: Sequence[DecoderLike],
    *,
    data: object = None,
    factors: object = None,
    sort: str | None = None,
    samples: int = 256,
    rotations: int = 199,
    seed: int = 0,
    time: float | None = None,
    resume: Path | str | None = None,
) -> Comparison:
    """Return models side by side on the same latents, whether they have the same latents, and which to keep.

    Agreement is measured at the data; without data at outputs of the models themselves. The codes of a model are its
    encoder's means; without an encoder those of the nearest outputs.

    Args:
        models: two or more decoders, or paths of checkpoints.
        data: rows as the encoders take them: a path, an array or a tensor; at most `samples` are used.
        factors: known factors of the data's rows, shape (rows, factors) or (rows,): a path of a .npy file, an array or
            a tensor; MIG, DCI and MCC then stand beside the rest.
        sort: a column of the table of models (`alignment`, `udr`, ...) or a metric's id, best first.
        samples: latents, and data rows.
        rotations: random rotations for the nulls of agreement.
        seed: seed of every draw.
        time: seconds that it may take; what does not fit is left out, and said.
        resume: a file in which what takes long is kept as it is measured, and from which it goes on.

    Raises:
        UsageError: fewer than two models, or models, data and factors that do not fit together.

    Source: Allen (2024), arXiv:2410.22559v1, Corollary 2.1 (identifiability of the factors).
    """
    check_given(compare, locals() | {"models": []})
    check_least(0, seed=seed)
    check_least(1, samples=samples, rotations=rotations)
    if isinstance(models, (str, PathLike)) or not isinstance(models, Sequence) or len(models) < 2:
        raise UsageError("a comparison takes at least two models", hint="compare([first, second])")
    if factors is not None and data is None:
        raise UsageError("factors belong to rows of data", hint="add --data: the rows that they describe")
    decoders = [as_decoder(model) for model in models]
    with within(time), keeping(resume), said():
        return _comparison(
            decoders, data=data, factors=factors, sort=sort, samples=samples, rotations=rotations, seed=seed
        )


def _comparison(
    decoders: Sequence[Decoder],
    *,
    data: object,
    factors: object,
    sort: str | None,
    samples: int,
    rotations: int,
    seed: int,
) -> Comparison:
    names = _names(decoders)
    if sort is not None:
        _check_column(sort, names)
    rows, picked = _rows(data, samples, seed)
    known = None if factors is None or rows is None else _factors(factors, len(rows))
    at = None if rows is None else rows[picked]

    # each model has its share of the time, the last one's is for what they have in common
    shares = iter(range(len(decoders) + 1, 1, -1))
    short = shortened_alike(decoders, 1 / SHARES[0] / (len(decoders) + 1), samples=samples, seed=seed)

    def measure(asked: tuple[Decoder, bool | None]) -> dict[str, Result]:
        decoder, some = asked
        found: dict[str, Result] = {}
        with share_of(1 / next(shares)), shortened(some):
            for share, name in zip(SHARES, PROBES, strict=True):
                with share_of(1 / share):
                    found[name] = probe_class(name)(samples=samples, seed=seed).measure(decoder)
            if data is not None and decoder.encoder is not None:
                with suppress(VaeprobeError):  # no likelihood, say: the model is compared without an ELBO
                    probe = probe_class("posterior")(data=at, samples=samples, seed=seed)
                    found["posterior"] = probe.measure(decoder)
        return found

    measured = processes().spread(list(zip(decoders, short, strict=True)), measure, "measuring")
    limits: list[Finding] = []
    seen: list[Seen] = []
    pairs: list[Pair] = []
    labelled: list[dict[str, float]] = []
    why = why_apart(decoders)
    try:
        with optional():
            if data is None:
                at = decodings(decoders, samples, seed)
            if at is not None and budget().bounded:
                fit = _rows_in_time(decoders, at, seed)
                if not fit.whole:
                    limits.append(Finding(TIME_LIMIT, fit.words("rows")))
                    # of all models' outputs, of all data
                    some = cpu.linspace(0, len(at) - 1, fit.done).long()
                    picked, at = picked if data is None else picked[some], at[some]
    except TimeIsOver:
        at, why = None, NO_TIME
    if at is not None:
        try:
            with optional():
                for decoder in decoders:
                    foretell_seeing(decoder, len(at))
                seen = [see(decoder, at, seed=seed) for decoder in track(decoders, "codes")]
        except TimeIsOver:
            at, why, limits = None, NO_TIME, []
        except VaeprobeError as error:
            if data is not None:
                raise
            at, why = None, error.message  # nobody asked for agreement: the metrics stand by themselves
    if at is not None:
        couples = list(combinations(range(len(decoders)), 2))
        pairs = [pair(seen, i, j, count=rotations, seed=seed) for i, j in track(couples, "comparing")]
        if known is not None:
            labelled = [_labels(s.codes, known[picked], rotations, seed) for s in seen]
    ranked = rankings(measured, seen, pairs, seed=seed)
    metrics = metric_map(_metrics(pairs, len(at) if at is not None else None, labelled, why))
    verdict, summary = _words(names, metrics, pairs, data is not None, seen)
    result = Comparison(
        metrics=metrics,
        verdict=verdict,
        summary=summary,
        findings=(*_class_axes(decoders), *parts.findings(measured, short), *limits),
        settings={
            "samples": samples, "rotations": rotations, "seed": seed, "rows": None if at is None else len(at),
            "rows_of": "none" if at is None else "data" if data is not None else "outputs of the models",
        },
        models=names,
        results=tuple(measured),
        seen=tuple(seen),
        pairs=tuple(pairs),
        labelled=tuple(labelled),
        rankings=ranked,
        sweep=sweep_of(names),
        sort=sort,
        changes=_changes(decoders, measured),
    )  # fmt: skip
    columns = [column for column in result.by_column() if result.comparable(column)]
    if sort is None or sort in columns:
        return result
    message = f"no model has a number under `{sort}`, by which they were to be sorted"
    if not result.comparable(sort):
        message = f"the numbers under `{sort}` are those of different parts of the latents: models are not sorted by them"
    missing = Finding(
        NOT_SORTED, message, hint=f"--sort takes {', '.join(c for c in columns if '.' not in c)}"
    )
    return replace(result, sort=None, findings=(*result.findings, missing))


def _class_axes(decoders: Sequence[Decoder]) -> Iterator[Finding]:
    """Yield, once for each shape, along which axis the classes of logits are taken to run where nobody said."""
    found: dict[str, Finding] = {}
    for decoder in decoders:
        if decoder.likelihood is not None:
            for told in class_findings(decoder, by_name(decoder.likelihood, decoder.output_shape)):
                found.setdefault(told.message, told)
    yield from found.values()


def _check_column(sort: str, names: Sequence[str]) -> None:
    """Refuse to sort by what can be no column, before any work."""
    sweep = sweep_of(names)
    short = [*SHORT, *CRITERIA, *([] if sweep is None else [sweep.name])]
    if sort not in (known := [*short, *metric_specs(), *SPECS]):
        raise UsageError(
            f"no column of this comparison is called `{sort}`",
            hint=did_you_mean(sort, known) or f"one of {', '.join(dict.fromkeys(short))}, or a metric's id",
        )


def _rows_in_time(decoders: Sequence[Decoder], at: Tensor, seed: int) -> Fit:
    """Return at how many of the rows the models can be looked at in half of the time that is left."""
    start, allowed = time.monotonic(), budget().left / 2
    with suppress(VaeprobeError):  # is told where all rows are looked at
        for decoder in decoders:
            see(decoder, at[:LEAST], seed=seed)
    pace = (time.monotonic() - start) / LEAST
    fits = int(processes().agreed(allowed / max(pace, 1e-9)))
    return Fit(min(len(at), max(LEAST, fits)), len(at), pace * len(at))


def _rows(data: object, samples: int, seed: int) -> tuple[Tensor | None, Tensor]:
    """Return the rows of data, None where none are given, and at which of them codes are compared."""
    if data is None:
        return None, cpu.empty(0, dtype=torch.long)
    rows = rows_of(data)
    if rows.ndim < 2 or len(rows) < LEAST:
        raise UsageError(f"the data have shape {tuple(rows.shape)}: at least {LEAST} rows are needed")
    return rows, torch.from_numpy(stream(seed, "data rows").permutation(len(rows))[:samples]).sort().values


def _factors(given: object, rows: int) -> Tensor:
    """Return known factors, shape (rows, factors), float64.

    Raises:
        InputError: some hold no number.
        UsageError: they do not belong to the rows, or none of them varies.
    """
    if isinstance(given, (str, PathLike)):
        from vaeprobe.files.matrices import read_matrix

        found = torch.from_numpy(read_matrix(given).astype(np.float64))
    else:
        found = numbers(given, "factors")
    table = found.double()
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or len(table) != rows:
        raise UsageError(
            f"the factors have shape {tuple(found.shape)}, and the data {rows} rows",
            hint="one row of factors per row of data, in the same order",
        )
    broken = int((~torch.isfinite(table)).any(1).sum())
    if broken:
        raise InputError(
            f"{broken} of {rows} rows of the factors hold NaN or infinity",
            hint="leave those rows out of the factors and of the data",
        )
    if not bool((table.amax(0) > table.amin(0)).any()):
        raise UsageError("none of the factors varies over the rows")
    return table


def _labels(codes: Tensor, factors: Tensor, rotations: int, seed: int) -> dict[str, float]:
    """Return how the codes of a model do against known factors, by metric id."""
    agreement, found = code_agreement(factors, codes, count=rotations, seed=seed), dci(codes, factors)
    trees = trees_dci(codes, factors)
    by_trees = {} if trees is None else {f"labels.trees_{name}": v for name, v in trees._asdict().items()}
    return by_trees | {
        "labels.mig": mig(codes, factors),
        "labels.dci_disentanglement": found.disentanglement,
        "labels.dci_completeness": found.completeness,
        "labels.dci_informativeness": found.informativeness,
        "labels.mcc": agreement.value,
        "labels.mcc_p": agreement.p_value,
    }


def _metrics(
    pairs: Sequence[Pair], n: int | None, labelled: Sequence[dict[str, float]], reason: str
) -> list[Metric]:
    """Return agreement over all pairs, undefined for a reason where there is none, and scores against labels."""
    sizes = "the models' outputs have different sizes: columns cannot be compared"
    columns = [(p.columns, p.tangents) for p in pairs if p.columns is not None and p.tangents is not None]
    values = {
        "compare.mcc": [p.codes.value for p in pairs],
        "compare.mcc_p": [p.codes.p_value for p in pairs],
        "compare.columns": [c.value for c, _ in columns],
        "compare.columns_p": [c.p_value for c, _ in columns],
        "compare.tangents": [t for _, t in columns],
        "compare.udr": [p.udr for p in pairs],
    }
    draws = {
        "compare.mcc": [p.codes.draws for p in pairs],
        "compare.columns": [c.draws for c, _ in columns],
    }
    out = []
    for id, found in values.items():
        if not found:
            out.append(Metric.undefined(SPECS[id], sizes if pairs else reason))
            continue
        largest = id.endswith("_p")
        method = f"{'largest' if largest else 'mean'} over {len(found)} pairs" if len(found) > 1 else None
        # the same rows are drawn for all pairs
        ci = interval_of(torch.stack(draws[id]).mean(0)) if id in draws else None
        level = LEVEL if ci else None
        value = max(found) if largest else mean(found)
        out.append(Metric(SPECS[id], value, ci=ci, level=level, n=n, method=method))
    for id in labelled[0] if labelled else ():
        scores = [row[id] for row in labelled]
        out.append(Metric(SPECS[id], scores, n=n, method="one number per model"))
    return out


def _names(decoders: Sequence[Decoder]) -> tuple[str, ...]:
    return tuple(
        d.artifact.path if d.artifact and d.artifact.path else f"model {k}" for k, d in enumerate(decoders)
    )


def _changes(
    decoders: Sequence[Decoder], results: Sequence[dict[str, Result]]
) -> dict[str, tuple[float, tuple[float, float]]]:
    """Return the mean change from the first to the second of two models, paired on the same latents or rows."""
    if len(decoders) != 2:
        return {}
    out = {}
    same_latents = decoders[0].latent_dim == decoders[1].latent_dim
    for name in (*(PROBES if same_latents else ()), "posterior"):
        if not same_part([r[name] for r in results if name in r]):
            continue
        old, new = (r[name].per_sample() if name in r else {} for r in results)
        for id in (id for id in old if id in new):  # in one order, run after run
            if len(old[id]) == len(new[id]) > 1:
                change = np.asarray(new[id], dtype=np.float64) - np.asarray(old[id], dtype=np.float64)
                out[id] = (float(change.mean()), student_interval(change, LEVEL))
    if same_latents and same_part([r["orthogonality"] for r in results if "orthogonality" in r]):
        old_one, new_one = (_alignment(r["orthogonality"]) if "orthogonality" in r else None for r in results)
        if old_one and new_one and len(old_one.contrast) == len(new_one.contrast):
            found = old_one.change(new_one)
            if found is not None:
                out["orthogonality.alignment"] = found
    return out


def _alignment(result: Result) -> Alignment | None:
    """Return the alignment that a result of `orthogonality` holds, per latent and rotation; None where it has none."""
    value, columns = result.metrics["orthogonality.alignment"].value, result.per_sample()
    parts = [columns.get(f"orthogonality.ima_contrast{end}", ()) for end in ("", "_null")]
    draws = result.null if isinstance(result, OrthogonalityResult) else ()
    if not isinstance(value, float) or not all(map(len, (*parts, draws))):
        return None
    contrast, null, turns = (cpu.tensor(x, dtype=torch.float64) for x in (*parts, draws))
    return Alignment(value, None, contrast, null, turns)


def _words(
    names: Sequence[str], metrics: dict[str, Metric], pairs: Sequence[Pair], data: bool, seen: Sequence[Seen]
) -> tuple[str, str]:
    """Return the verdict, and as a researcher would write it."""
    if not pairs:
        why = metrics["compare.mcc"].reason
        return "side by side", f"{len(names)} models on the same latents. No agreement: {why}."
    n, together = len(pairs), sum(p.codes.p_value <= SIGNIFICANT for p in pairs)
    mcc, columns = metrics["compare.mcc"].value, metrics["compare.columns"].value
    assert isinstance(mcc, float)
    more = "more than a rotation of the latent space would"
    if n == 1:
        p = pairs[0].codes.p_value
        who = "The two models"
        chance = f"{more if together else 'no more than a rotation would'} (p = {p:.2g})"
    else:
        who = f"The {len(names)} models, in the mean over {n} pairs,"
        chance = f"in {together} of {n} pairs {more} (p <= {SIGNIFICANT})"
    said = f"codes matched one to one correlate by {mcc:.2f}, {chance}"
    said += f"; matched columns by {columns:.2f}." if isinstance(columns, float) else "."
    by = {s.how for s in seen}
    where = " Measured at the data" if data else " Measured at outputs of the models"
    if "nearest decodings" in by:
        where += ", codes by nearest decodings" + (" where there is no encoder" if len(by) > 1 else "")
    said += f"{where}."
    if _by_chance(together, n) > SIGNIFICANT:
        return UNSHARED, f"{who} do not share their axes: {said}"
    if mcc >= SAME and together == n:
        counts = [len(s.informative) for s in seen]
        if len(set(counts)) == 1:
            return "same latents", f"{who} have the same latents, up to order and sign: {said}"
        many = f"{counts[0]} and {counts[1]}" if len(counts) == 2 else f"{min(counts)} to {max(counts)}"
        fewest = (
            f"as far as the {'smaller' if n == 1 else 'smallest'} goes, for {many} latents are informative"
        )
        return "related axes", f"{who} have the same latents, up to order and sign, {fewest}: {said}"
    return "related axes", f"{who} share their axes in part: {said}"


def _by_chance(hits: int, n: int) -> float:
    """Return the probability of so many p-values of n, or more, at `SIGNIFICANT` or below where no axes are shared."""
    return sum(comb(n, k) * SIGNIFICANT**k * (1 - SIGNIFICANT) ** (n - k) for k in range(hits, n + 1))
