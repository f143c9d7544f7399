"""The numbers of `train-linear`: how many latents, what the rows determine, training, Theorem 3, metrics."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from vaeprobe.budget import Fit, budget, share_of
from vaeprobe.data import Data, in_memory, open_data
from vaeprobe.data.masks import with_gaps
from vaeprobe.errors import InputError, UsageError, did_you_mean
from vaeprobe.findings import LATENT_DIM, TIME_LIMIT
from vaeprobe.given import check_dense
from vaeprobe.linear import closed_form, dimension, identifiability, moments, spectrum
from vaeprobe.linear.certificate import Certificate
from vaeprobe.linear.closed_form import LinearModel, Solution
from vaeprobe.linear.dimension import DimensionScores
from vaeprobe.linear.eigenpairs import Solver, Spectrum
from vaeprobe.linear.identifiability import Identifiability
from vaeprobe.linear.missing import MissingFit
from vaeprobe.linear.rows import CACHE_BYTES, rows_in_memory
from vaeprobe.linear.training import METHODS, Covariance, Run, Training, TrainingMethod, train
from vaeprobe.probes.train_linear.metrics import SPECS
from vaeprobe.processes import Processes
from vaeprobe.progress import foretell, foretold
from vaeprobe.report import Artifact, Finding, Json, Metric, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]

FREE_BOOTSTRAP = 1e11  # multiplications up to which directions are resampled without being asked
RESAMPLES = 200
RANDOMIZED_PAIRS = 64  # pairs that the randomized solver computes where the dimension is to be chosen
PREFIX = "train_linear."
PACE_ROWS = 4096  # rows that tell how long all take
PACE_LEAST = 256  # fewer tell nothing
PACE_COLUMNS = 48
LARGE_BYTES, LARGE_WORK = 1e9, 2e11  # of data whose eigenpairs take so long that it is worth a word
LANCZOS_COLUMNS = 100  # of the basis of most randomized fits
DUAL_EIGH = 10  # multiply-adds of all eigenvectors in those of a product of two square matrices, or so
RANDOMIZED_PASSES = 5


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """Theorem 3 on these data: (beta, sigma^2) against (1, beta sigma^2).

    Attributes:
        beta: the KL weight.
        sigma2: the fixed noise variance.
        column_difference: largest difference of the two solutions' columns, relative; fixed sigma^2.
        kl_difference: largest difference of their KL_i, nats.
        objective_difference: what the other solution falls short by under this one's beta-ELBO, nats; fixed sigma^2.
        learned: (sigma^2 at beta, beta sigma^2 at beta, sigma^2 at beta = 1), all learned; None where none exists.
        learned_active: active latents at beta and at 1, sigma^2 learned.
    """

    beta: float
    sigma2: float
    column_difference: float
    kl_difference: float
    objective_difference: float
    learned: tuple[float, float, float] | None
    learned_active: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearFit:
    """A linear VAE of data in closed form, and what training made of it.

    Attributes:
        spectrum: eigenpairs of the covariance.
        solution: closed-form optimum.
        identifiability: which columns the data determine.
        row_shape: shape of one row of data.
        missing: the fit that the eigenpairs come from, where values are missing.
        choice: scores of all dimensions, where one was chosen.
        certificates: the best run of each method against the closed form.
        gaps: objective left by every restart, by method, nats.
        equivalence: Theorem 3 on these data, where asked for.
    """

    spectrum: Spectrum
    solution: Solution
    identifiability: Identifiability
    row_shape: tuple[int, ...]
    missing: MissingFit | None = None
    choice: DimensionScores | None = None
    certificates: tuple[Certificate, ...] = ()
    gaps: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    equivalence: Equivalence | None = None

    @property
    def loglik(self) -> float:
        """Mean log-likelihood of a row, or of what is observed of it, nats."""
        return self.solution.loglik if self.missing is None else self.missing.loglik

    @property
    def model(self) -> LinearModel:
        """The closed form, or the first method's best run with the optimal diagonal posterior of its columns."""
        if not self.certificates:
            return self.solution.model()
        run, mean = self.certificates[0].run, self.solution.mean
        tau = self.solution.beta * run.sigma2
        variance = tau / (np.square(run.W).sum(axis=0) + tau)
        return LinearModel(mean=mean, W=run.W, sigma2=run.sigma2, E=run.E, variance=variance)


def rows_of(
    data: object, *, key: str | None, scale: str | float, nonfinite: Literal["keep", "drop", "refuse"]
) -> Data:
    """Return rows of data from a path, a glob, several of them, an array (NaN where masked) or a tensor, scaled alike.

    Raises:
        InputError: the data are damaged or not finite.
        UsageError: `scale` is no scale, or `key` is none of the data.
    """
    if isinstance(data, Data):
        return data
    if hasattr(data, "__array__"):
        if key is not None:
            raise UsageError(f"the data are an array, which has no entry `{key}`", hint="leave out `key`")
        check_dense(data, "the data")
        array = with_gaps(data)
        if array.dtype.kind not in "fiub":
            raise InputError(f"the data are {array.dtype}, not real numbers", hint="pass an array of numbers")
        # pixels are converted as those of files are
        kept = array.dtype in (np.float32, np.float64, np.uint8)
        return in_memory(array if kept else array.astype(np.float64), scale=scale, nonfinite=nonfinite)
    given = data if isinstance(data, (list, tuple)) else [data]
    paths = [path for path in given if isinstance(path, (str, Path))]
    if not paths or len(paths) != len(given):
        raise InputError(
            f"the data are {type(data).__name__}, neither rows of numbers nor paths",
            hint="pass an array or a tensor, or the path of a file",
        )
    return open_data(paths, key=key, scale=scale, nonfinite=nonfinite, asked=True)


def many(rows: Data) -> bool:
    """Whether rows are so many that some of them are an answer where time is short."""
    return rows.rows > 2 * PACE_ROWS


def foretold_spectrum(rows: Data, solver: Solver, processes: Processes) -> float | None:
    """Say how long the eigenpairs of large data will take and how much memory, to whoever listens, and return the seconds.

    Returns:
        None where the data are small, or nobody asks: neither is time bounded nor does anybody listen.
    """
    n, m = rows.rows, rows.columns
    large = n * m * rows.dtype.itemsize > LARGE_BYTES or n * min(n, m) * m > LARGE_WORK
    if not (foretold() and large) and not (budget().bounded and many(rows)):
        return None
    # of this process alone: others may not listen
    seconds = seconds_of(rows, solver) / (1 if spectrum.whole(rows, solver) else processes.world)
    if solver == "dual":
        memory = 24.0 * n * m + 24.0 * n * n
    elif solver == "exact":
        memory = 8.0 * (dimension.FOLDS + 4) * m * m
    else:
        memory = min(n * m * rows.dtype.itemsize, CACHE_BYTES) + 64.0 * m * LANCZOS_COLUMNS
    foretell(f"eigenpairs of {n} rows of {m} columns", seconds, memory)
    return seconds


def thinned_in_time(rows: Data, seconds: float, processes: Processes) -> tuple[Data, tuple[Finding, ...]]:
    """Return the rows that half of the time given suffices for, evenly spread where not for all, and a word on it.

    Args:
        seconds: what the eigenpairs of all rows take.
    """
    if not budget().bounded or not many(rows):
        return rows, ()
    least = max(PACE_ROWS, 2 * rows.columns)
    every = min(math.ceil(processes.agreed(seconds / (0.5 * budget().left + 1e-9))), rows.rows // least)
    if every <= 1:
        return rows, ()
    some = rows.thinned(every)
    fit = Fit(some.rows, rows.rows, seconds)
    return some, (Finding(TIME_LIMIT, fit.words("rows, evenly spread,")),)


def seconds_of(rows: Data, solver: Solver) -> float:
    """Return how long the eigenpairs of all rows take, at the pace of the first ones."""
    n = min(PACE_ROWS, max(PACE_LEAST, rows.rows // 200))
    V = np.ones((rows.columns, PACE_COLUMNS), rows.dtype)

    def first(count: int) -> float:
        start = time.monotonic()
        if solver == "dual":
            block = rows.head(count).read(dtype=np.float64).reshape(-1, rows.columns)
            block @ block.T
        elif solver == "randomized":
            for block in rows.head(count).blocks(moments.BLOCK):
                block.T @ (block @ V)
        else:
            moments.accumulate(rows.head(count), dtype=moments.arithmetic(rows))
        return time.monotonic() - start

    # the first block is looked at in float64 too, and finds memory and caches cold
    one, two = first(n), first(2 * n)
    if solver == "dual":  # products of all pairs of rows, and all eigenvalues at once
        return two * (rows.rows / (2 * n)) ** 2 * (1 + DUAL_EIGH * rows.rows / rows.columns)
    passes = RANDOMIZED_PASSES if solver == "randomized" else 1
    return passes * max(two - one, two / 4) / n * rows.rows


def chosen_methods(names: Sequence[str], *, em: bool) -> tuple[TrainingMethod, ...]:
    """Return what is to be trained, each once; `all` names EM where it knows the objective (`em`).

    Raises:
        UsageError: a name is none of them.
    """
    chosen: list[TrainingMethod] = []
    for name in names:
        if name == "closed":
            continue
        if name == "all":
            chosen.extend(m for m in METHODS if m != "em" or em)
        elif name in METHODS:
            chosen.append(name)
        else:
            known = ("closed", "all", *METHODS)
            raise UsageError(
                f"no method is called `{name}`",
                hint=did_you_mean(name, known) or f"one of {', '.join(known)}",
            )
    return tuple(dict.fromkeys(chosen))


def how_many(
    spec: Spectrum, own: Data, *, tau: float | None, seed: int, processes: Processes
) -> tuple[DimensionScores | None, int, Finding]:
    """Return the number of latents that the data ask for, with the scores of all, and a word on it.

    Args:
        tau: beta sigma^2, where sigma^2 is fixed: what an eigenvalue must exceed.

    Raises:
        InputError: no eigenvalue exceeds it.
    """
    if tau is None:
        choice = dimension.choose(spec, own, seed=seed, processes=processes)
        message = f"{choice.dimension} latents, by {choice.reason}"
        return choice, choice.dimension, Finding(LATENT_DIM, message)
    d = int((spec.values > tau).sum())
    if d == 0:
        raise InputError(
            "every eigenvalue is below beta sigma2: all latents would collapse",
            hint="lower --sigma2 or --beta, or give --latent-dim a number",
        )
    message = f"with sigma2 fixed, {d} eigenvalues exceed beta sigma2 and the others would collapse"
    return None, d, Finding(LATENT_DIM, message)


def identified(
    data: Data, spec: Spectrum, solution: Solution, *, resamples: int | None, seed: int, complete: bool
) -> Identifiability:
    """Return which columns the data determine.

    Args:
        resamples: for the columns' angles; None decides by cost.
        complete: whether the rows are: else nothing is resampled.
    """
    ident = identifiability.of_spectrum(spec, solution.d, solution.active.tolist())
    if resamples is None:
        K = min(solution.d + identifiability.EXTRA, spec.m)
        rows = min(data.rows, identifiability.MOST_ROWS)
        cost = rows * spec.m * K + 20 * RESAMPLES * K**3  # scores, then an eigenproblem per resample
        spare = budget().affords(0.3 * budget().seconds) if budget().bounded else True
        resamples = RESAMPLES if cost <= FREE_BOOTSTRAP and spare else 0
    if resamples == 0 or not complete:
        return ident
    angles, used = identifiability.bootstrap_angles(data, spec, solution.d, resamples=resamples, seed=seed)
    return replace(ident, angles=angles, directions=used)


def covariance(spec: Spectrum, own: Data, *, batches: bool, processes: Processes) -> Covariance:
    """Return the covariance of the rows as training needs it, with the rows where there are minibatches.

    Raises:
        UsageError: minibatches in several processes.
    """
    if batches and processes.world > 1:
        raise UsageError("minibatches run in one process", hint="leave --batch-size out, or torchrun")
    if spec.complete:
        rows = own.read().reshape(-1, spec.m) - spec.mean.astype(own.dtype) if batches else None
        return Covariance.of_spectrum(spec, rows)
    found = rows_in_memory(own, processes)
    centred = np.concatenate(list(found.centred())) if batches else None
    return Covariance(found.product, found.total, spec.m, centred)


def trained(
    methods: Sequence[TrainingMethod], S: Covariance, solution: Solution, how: Training, seeds: Sequence[int]
) -> dict[TrainingMethod, list[Run]]:
    """Return every run of each method."""
    found: dict[TrainingMethod, list[Run]] = {method: [] for method in methods}
    for left, (method, seed) in zip(
        range(len(methods) * len(seeds), 0, -1), product(methods, seeds), strict=True
    ):
        with share_of(1 / left):
            found[method].append(train(method, S, solution, how, seed=seed))
    return found


def theorem3(spec: Spectrum, solution: Solution) -> Equivalence:
    """Return what becomes of Theorem 3 on these data, at beta 2 where beta is 1."""
    beta = solution.beta if solution.beta != 1 else 2.0
    s, d = solution.sigma2, solution.d
    one = closed_form.solve(spec, d, beta=beta, sigma2=s)
    other = closed_form.solve(spec, d, beta=1.0, sigma2=beta * s)
    scale = max(float(np.abs(one.W).max()), 1e-300)
    # what the other solution loses under the first one's objective, which should be nothing
    difference = one.elbo - closed_form.beta_elbo(spec, replace(other.model(), sigma2=s), beta)
    learned = active = None
    try:
        at_beta = closed_form.solve(spec, d, beta=beta)
        at_one = closed_form.solve(spec, d)
        learned = (at_beta.sigma2, at_beta.tau, at_one.sigma2)
        active = (int(at_beta.active.sum()), int(at_one.active.sum()))
    except InputError:
        pass
    return Equivalence(
        beta=beta,
        sigma2=s,
        column_difference=float(np.abs(one.W - other.W).max()) / scale,
        kl_difference=float(np.abs(one.kl - other.kl).max()),
        objective_difference=difference,
        learned=learned,
        learned_active=active,
    )


def metrics(fit: LinearFit) -> list[Metric]:
    """Return the metrics of a fit, in the order of `METRICS`."""
    spec, s, certificates, loglik = fit.spectrum, fit.solution, fit.certificates, fit.loglik

    def metric(name: str, value: Value, method: str | None = None) -> Metric:
        return Metric(SPECS[PREFIX + name], value, n=spec.n, method=method)

    def worst(name: str, values: list[float | None], reason: str) -> Metric:
        known = [(v, c.run.method) for v, c in zip(values, certificates, strict=True) if v is not None]
        if not certificates:
            reason = "not trained (--method elbo)"
        if not known:
            return Metric.undefined(SPECS[PREFIX + name], reason, n=spec.n)
        most, method = max(known)
        return metric(name, most, f"{method}, the worst of {len(known)}" if len(known) > 1 else None)

    how = {"em": "EM on the observed values"}.get(
        spec.solver,
        f"{spec.solver} eigenpairs, {'singular values of the rows' if spec.singular else spec.precision}",
    )
    one_block = any(c.one_block for c in certificates)
    no_axes = "all active columns are one tied block" if one_block else "every latent collapses"
    observed = None if fit.missing is None else "of the observed values"
    bits = metric("bits_per_dim", -loglik / (s.m * np.log(2.0)))
    if fit.missing is not None:
        reason = "rows with missing values have different numbers of dimensions"
        bits = Metric.undefined(bits.spec, reason, n=spec.n)
    return [
        metric("latent_dim", s.d),
        metric("sigma2", s.sigma2, "maximised over" if s.learned else "given"),
        metric("loglik", loglik, observed),
        bits,
        metric("eigenvalues", [float(v) for v in s.values], how),
        metric("explained_variance", min(float(s.values.sum()) / spec.total, 1.0)),
        metric("collapsed", int((~s.active).sum())),
        metric("kl", [float(v) for v in s.kl]),
        metric("elbo", s.elbo if fit.missing is None else loglik, observed),
        metric("identified", fit.identifiability.alone(s.active)),
        worst("elbo_gap", [max(c.run.gap, 0.0) for c in certificates], ""),
        worst("max_angle", [c.max_angle for c in certificates], "every latent collapses"),
        worst("max_abs_cosine", [c.max_abs_cosine for c in certificates], "fewer than two active columns"),
        worst("rotation_distance", [c.rotation_distance for c in certificates], no_axes),
        worst("mean_field_gap", [c.mean_field_gap for c in certificates], ""),
        metric("spectrum_error", spec.error, how),
    ]


def details(fit: LinearFit) -> Json:
    """Return what the JSON document holds besides metrics: columns, spectrum, runs, dimensions, Theorem 3."""
    spec, s, ident = fit.spectrum, fit.solution, fit.identifiability
    choice, equivalence = fit.choice, fit.equivalence
    found: Json = {
        "columns": [
            {
                "eigenvalue": float(s.values[i]),
                "interval": ident.intervals[i].tolist(),
                "gap": float(ident.gaps[i]),
                "gap_interval": ident.gap_intervals[i].tolist(),
                "p_equal_to_next": float(ident.p_values[i]),
                "norm": float(np.sqrt(s.square_norms[i])),
                "posterior_variance": float(s.variance[i]),
                "kl": float(s.kl[i]),
                "collapsed": not bool(s.active[i]),
                "bootstrap_angle": None if ident.angles is None else float(ident.angles[i]),
            }
            for i in range(s.d)
        ],
        "blocks": [[f"z{a}", f"z{b}"] for a, b in ident.blocks],
        "spectrum": spec.values[:512].tolist(),
        "total_variance": spec.total,
        "runs": [_run_details(c, fit.gaps[c.run.method]) for c in fit.certificates],
    }
    if choice is not None:
        found["dimension"] = {
            "candidates": choice.candidates.tolist(),
            "minka": None if choice.minka is None else _finite(choice.minka),
            "bic": _finite(choice.bic),
            "held_out": None if choice.held_out is None else _finite(choice.held_out),
            "by": choice.by,
            "chosen": choice.dimension,
        }
    if equivalence is not None:
        found["theorem3"] = dict(vars(equivalence))
    return found


def _run_details(c: Certificate, gaps: Sequence[float]) -> Json:
    run = c.run
    return {
        "method": run.method,
        "optimiser": run.optimiser,
        "seed": run.seed,
        "steps": run.steps,
        "stopped": run.stopped,
        "objective": run.objective,
        "gap": run.gap,
        "gaps_of_restarts": list(gaps),
        "sigma2": run.sigma2,
        "sigma2_ratio": c.sigma2_ratio,
        "angles": c.angles.tolist(),
        "cosines": c.cosines.tolist(),
        "norm_ratios": c.norm_ratios.tolist(),
        "partners": [f"z{i}" for i in c.partners],
        "max_abs_cosine": c.max_abs_cosine,
        "blocks": [[f"z{first}", f"z{last}"] for first, last in c.blocks],
        "rotation_distance": c.rotation_distance,
        "mean_field_gap": c.mean_field_gap,
        "kl": c.kl.tolist(),
        "verdict": c.verdict,
        "sentence": c.sentence,
        "trace": [[step, gap] for step, gap in run.trace],
    }


def _finite(values: Array) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in values]


def artifact(rows: Data) -> Artifact:
    """Return the files that the rows come from."""
    paths = rows.paths
    size = sum(os.path.getsize(p) for p in paths if os.path.exists(p))
    suffix = Path(paths[0]).suffix.lstrip(".") or "array"
    name = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    return Artifact(path=name, size=size, format=suffix, details={"shape": list(rows.shape)})
