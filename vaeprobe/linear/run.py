"""`train-linear` from data to result: closed form, choices, training, certificate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from vaeprobe.data import Data, NotFiniteError, open_data
from vaeprobe.errors import InputError, UsageError, did_you_mean
from vaeprobe.findings import (
    COLLAPSE,
    DROPPED_ROWS,
    FLATTENED,
    FLOAT32,
    LATENT_DIM,
    MISSING_VALUES,
    NOT_CONVERGED,
    RANDOMIZED,
    SINGULAR_VALUES,
    TIED_EIGENVALUES,
    FindingSpec,
    Level,
)
from vaeprobe.linear import closed_form, dimension, identifiability, spectrum
from vaeprobe.linear.certificate import Certificate, certify
from vaeprobe.linear.closed_form import LinearModel, Solution
from vaeprobe.linear.dimension import Choice
from vaeprobe.linear.identifiability import Identifiability
from vaeprobe.linear.metrics import SPECS
from vaeprobe.linear.missing import MissingFit
from vaeprobe.linear.missing import fit as fit_incomplete
from vaeprobe.linear.processes import ALONE, Processes
from vaeprobe.linear.result import Equivalence, LinearResult
from vaeprobe.linear.spectrum import Spectrum
from vaeprobe.linear.training import METHODS, Covariance, Method, Run, Training, train
from vaeprobe.report import Artifact, Finding, Metric, metric_map

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]

FREE_BOOTSTRAP = 1e11  # multiplications up to which directions are resampled without being asked
RESAMPLES = 200
RANDOMIZED_PAIRS = 64  # pairs that the randomized solver computes where the dimension is to be chosen


@dataclass(frozen=True, kw_only=True)
class TrainLinear:
    """Settings of `train-linear`.

    Attributes:
        latent_dim: number of latents, or "auto".
        beta: weight of the KL term.
        sigma2: noise variance, or "ml" to learn it.
        methods: what to train besides the closed form: any of `training.METHODS`.
        training: how.
        restarts: starting points per method; the best counts.
        seed: of every draw.
        solver: auto, exact, dual or randomized.
        missing: "refuse" NaN, or fit by "em".
        drop_nonfinite: leave rows with NaN or infinity out.
        bootstrap: resamples for the columns' directions; None decides by cost.
        theorem3: show Theorem 3 on these data.
        key, scale: as for `open_data`.
    """

    latent_dim: int | Literal["auto"] = "auto"
    beta: float = 1.0
    sigma2: float | Literal["ml"] = "ml"
    methods: Sequence[str] = ()
    training: Training = field(default_factory=Training)
    restarts: int = 1
    seed: int = 0
    solver: str = "auto"
    missing: Literal["refuse", "em"] = "refuse"
    drop_nonfinite: bool = False
    bootstrap: int | None = None
    theorem3: bool = False
    key: str | None = None
    scale: str | float = "auto"

    @property
    def fixed(self) -> float | None:
        return None if self.sigma2 == "ml" else float(self.sigma2)

    def fit(self, data: Any, *, processes: Processes = ALONE) -> LinearResult:
        """Return what the linear VAE of the data is, and how training compares with it.

        Args:
            data: a path, a glob, several of them, or `Data`.
            processes: those that share the rows.

        Raises:
            UsageError: settings that do not go together.
            InputError: the data are damaged, not finite, or too few.
        """
        methods = self._methods()
        rows = processes.together(lambda: self._open(data))
        own = rows if processes.world == 1 else rows.share(processes.rank, processes.world)
        if processes.world > 1 and self.missing == "em":
            raise UsageError("--missing em runs in one process", hint="start it without torchrun")
        fitted: MissingFit | None = None
        if self.missing == "em":
            fitted = self._fit_missing(rows, methods)
            spec = fitted.spectrum
        else:
            wanted = RANDOMIZED_PAIRS if self.latent_dim == "auto" else int(self.latent_dim) + 1
            folds = dimension.FOLDS if self.latent_dim == "auto" and self.fixed is None else 1
            try:
                spec = spectrum.compute(
                    own, wanted, solver=self.solver, seed=self.seed, folds=folds, processes=processes
                )
            except NotFiniteError as error:
                hint = "leave them out with --drop-nonfinite, or estimate missing values with --missing em"
                raise NotFiniteError(error.message, hint=hint) from None
        choice, d, chosen = self._dimension(spec, own, processes)
        spec = replace(spec, parts=())
        if fitted is not None:
            known = replace(spec, values=spec.values[:d], vectors=spec.vectors[:, :d])
            solution = closed_form.solve(known, d, beta=self.beta, sigma2=fitted.sigma2)
            solution = replace(solution, learned=self.fixed is None)
        else:
            solution = closed_form.solve(spec, d, beta=self.beta, sigma2=self.fixed)
        ident = self._identify(own, spec, solution, processes, fitted is not None)
        runs = self._train(methods, spec, own, solution, processes)
        best = {method: min(found, key=lambda r: r.gap) for method, found in runs.items()}
        S = None if not runs else self._covariance(spec, own, processes)
        certificates = tuple(certify(run, solution, S) for run in best.values()) if S is not None else ()
        equivalence = self._theorem3(spec, solution) if self.theorem3 else None
        return LinearResult(
            metrics=metric_map(self._metrics(spec, solution, ident, certificates, fitted)),
            verdict=_verdict(solution, certificates, fitted),
            summary=_summary(solution, spec, ident, certificates),
            findings=(*rows.notes, *_findings(rows, spec, solution, ident, certificates, fitted, chosen)),
            settings=self._settings(rows, spec, methods, processes),
            artifact=_artifact(rows),
            spectrum=spec,
            solution=solution,
            identifiability=ident,
            choice=choice,
            certificates=certificates,
            gaps={method: tuple(r.gap for r in found) for method, found in runs.items()},
            equivalence=equivalence,
            model=_model(solution, certificates),
            row_shape=rows.row_shape,
        )

    # -- steps -----------------------------------------------------------------------------------

    def _methods(self) -> tuple[Method, ...]:
        names: list[Method] = []
        for name in self.methods:
            if name == "closed":
                continue
            if name == "all":
                names.extend(m for m in METHODS if m != "em" or self.beta == 1 or self.fixed is not None)
            elif name in METHODS:
                names.append(name)
            else:
                known = ("closed", "all", *METHODS)
                raise UsageError(
                    f"no method is called `{name}`",
                    hint=did_you_mean(name, known) or f"one of {', '.join(known)}",
                )
        return tuple(dict.fromkeys(names))

    def _open(self, data: Any) -> Data:
        if self.missing == "em" and self.drop_nonfinite:
            raise UsageError("--missing em and --drop-nonfinite exclude each other", hint="choose one")
        if isinstance(data, Data):
            return data
        handling = "keep" if self.missing == "em" else "drop" if self.drop_nonfinite else "refuse"
        return open_data(data, key=self.key, scale=self.scale, nonfinite=handling)  # type: ignore[arg-type]

    def _fit_missing(self, rows: Data, methods: tuple[Method, ...]) -> MissingFit:
        if self.latent_dim == "auto":
            raise UsageError("--missing em needs a number of latents", hint="give --latent-dim a number")
        if methods:
            raise UsageError("--missing em fits by EM and trains nothing else", hint="leave --method out")
        if self.beta != 1 and self.fixed is None:
            raise UsageError(
                "EM maximises the likelihood and knows no beta when sigma2 is learned",
                hint="fix it with --sigma2",
            )
        X = rows.read(dtype=np.float64).reshape(-1, rows.columns)
        noise = None if self.fixed is None else self.beta * self.fixed  # Theorem 3
        return fit_incomplete(X, int(self.latent_dim), sigma2=noise, seed=self.seed)

    def _dimension(
        self, spec: Spectrum, own: Data, processes: Processes
    ) -> tuple[Choice | None, int, Finding | None]:
        if self.latent_dim != "auto":
            return None, int(self.latent_dim), None
        if self.fixed is not None:
            d = int((spec.values > self.beta * self.fixed).sum())
            message = f"with sigma2 fixed, {d} eigenvalues exceed beta sigma2 and the others would collapse"
            if d == 0:
                raise InputError(
                    "every eigenvalue is below beta sigma2: all latents would collapse",
                    hint="lower --sigma2 or --beta, or give --latent-dim a number",
                )
            return None, d, Finding(LATENT_DIM, message)
        choice = dimension.choose(spec, own, seed=self.seed, processes=processes)
        message = f"{choice.dimension} latents, by {choice.reason}"
        return choice, choice.dimension, Finding(LATENT_DIM, message)

    def _identify(
        self, own: Data, spec: Spectrum, solution: Solution, processes: Processes, incomplete: bool
    ) -> Identifiability:
        ident = identifiability.of_spectrum(spec, solution.d, solution.active.tolist())
        K = min(solution.d + identifiability.EXTRA, spec.m)
        cost = own.rows * spec.m * K + 20 * RESAMPLES * K**3  # scores, then an eigenproblem per resample
        resamples = self.bootstrap
        if resamples is None:
            resamples = RESAMPLES if cost <= FREE_BOOTSTRAP else 0
        if resamples == 0 or incomplete or processes.world > 1:
            return ident
        angles, used = identifiability.bootstrap_angles(
            own, spec, solution.d, resamples=resamples, seed=self.seed
        )
        return replace(ident, angles=angles, directions=used)

    def _covariance(self, spec: Spectrum, own: Data, processes: Processes) -> Covariance:
        batches = self.training.batch_size is not None
        if batches and processes.world > 1:
            raise UsageError("minibatches run in one process", hint="leave --batch-size out, or torchrun")
        if spec.complete:
            rows = own.read().reshape(-1, spec.m) - spec.mean.astype(own.dtype) if batches else None
            return Covariance.of_spectrum(spec, rows)
        found = spectrum.rows_of(own, processes)
        return Covariance(found.product, found.total, spec.m, found.memory)

    def _train(
        self, methods: tuple[Method, ...], spec: Spectrum, own: Data, solution: Solution, processes: Processes
    ) -> dict[Method, list[Run]]:
        if not methods:
            return {}
        S = self._covariance(spec, own, processes)
        seeds = range(self.seed, self.seed + self.restarts)
        return {m: [train(m, S, solution, self.training, seed=s) for s in seeds] for m in methods}

    def _theorem3(self, spec: Spectrum, solution: Solution) -> Equivalence:
        beta = self.beta if self.beta != 1 else 2.0
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

    # -- telling ---------------------------------------------------------------------------------

    def _metrics(
        self,
        spec: Spectrum,
        s: Solution,
        ident: Identifiability,
        certificates: tuple[Certificate, ...],
        fitted: MissingFit | None,
    ) -> list[Metric]:
        loglik = s.loglik if fitted is None else fitted.loglik

        def metric(name: str, value: Any, method: str | None = None) -> Metric:
            id = f"train_linear.{name}"
            return Metric(SPECS[id], value, n=spec.n, method=method)

        def worst(name: str, values: list[float | None], reason: str) -> Metric:
            known = [v for v in values if v is not None]
            id = f"train_linear.{name}"
            if not certificates:
                reason = "not trained (--method elbo)"
            if not known:
                return Metric.undefined(SPECS[id], reason, n=spec.n)
            return metric(
                name, max(known), "worst of the methods' best runs" if len(certificates) > 1 else None
            )

        how = {"em": "EM on the observed values"}.get(
            spec.solver,
            f"{spec.solver} eigenpairs, {'singular values of the rows' if spec.singular else spec.precision}",
        )
        observed = None if fitted is None else "of the observed values"
        bits = [] if fitted is not None else [metric("bits_per_dim", -loglik / (s.m * np.log(2.0)))]
        if fitted is not None:
            reason = "rows with missing values have different numbers of dimensions"
            bits = [Metric.undefined(SPECS["train_linear.bits_per_dim"], reason, n=spec.n)]
        return [
            metric("latent_dim", s.d),
            metric("sigma2", s.sigma2, "maximised over" if s.learned else "given"),
            metric("loglik", loglik, observed),
            *bits,
            metric("eigenvalues", [float(v) for v in s.values], how),
            metric("explained_variance", min(float(s.values.sum()) / spec.total, 1.0)),
            metric("collapsed", int((~s.active).sum())),
            metric("kl", [float(v) for v in s.kl]),
            metric("elbo", s.elbo if fitted is None else loglik, observed),
            metric("identified", ident.alone(s.active)),
            worst("elbo_gap", [max(c.run.gap, 0.0) for c in certificates], ""),
            worst("max_angle", [c.max_angle for c in certificates], "every latent collapses"),
            worst(
                "max_abs_cosine", [c.max_abs_cosine for c in certificates], "fewer than two active columns"
            ),
            worst("rotation_distance", [c.rotation_distance for c in certificates], "every latent collapses"),
            worst("mean_field_gap", [c.mean_field_gap for c in certificates], ""),
            metric("spectrum_error", spec.error, how),
        ]

    def _settings(
        self, rows: Data, spec: Spectrum, methods: tuple[Method, ...], processes: Processes
    ) -> dict[str, Any]:
        return {
            "latent_dim": self.latent_dim,
            "beta": self.beta,
            "sigma2": self.sigma2,
            "methods": list(methods),
            "optimiser": self.training.optimiser,
            "steps": self.training.steps,
            "tolerance": self.training.tolerance,
            "batch_size": self.training.batch_size,
            "restarts": self.restarts,
            "seed": self.seed,
            "solver": spec.solver,
            "precision": spec.precision,
            "model": methods[0] if methods else "closed form",
            "scale": self.scale,
            "missing": self.missing,
            "rows": rows.rows,
            "rows_used": spec.n,
            "row_shape": list(rows.row_shape),
            "processes": processes.world,
        }


def _model(solution: Solution, certificates: tuple[Certificate, ...]) -> LinearModel:
    """Return the closed form, or the first method's best run with the optimal diagonal posterior of its columns."""
    if not certificates:
        return solution.model()
    run = certificates[0].run
    tau = solution.beta * run.sigma2
    variance = tau / (np.square(run.W).sum(axis=0) + tau)
    return LinearModel(mean=solution.mean, W=run.W, sigma2=run.sigma2, E=run.E, variance=variance)


def _verdict(solution: Solution, certificates: tuple[Certificate, ...], fitted: MissingFit | None) -> str:
    if not solution.active.any():
        return "collapsed"
    verdicts = list(dict.fromkeys(c.verdict for c in certificates))
    if fitted is not None:
        return "EM on the observed values" if fitted.converged else "EM not converged"
    return "; ".join(verdicts) or "closed form"


def _summary(
    s: Solution, spec: Spectrum, ident: Identifiability, certificates: tuple[Certificate, ...]
) -> str:
    active = int(s.active.sum())
    share = min(float(s.values.sum()) / spec.total, 1.0)
    alone = ident.alone(s.active)
    text = f"{active} of {s.d} latents are active and the {s.d} directions carry {share:.1%} of the variance"
    text += f"; these {spec.n} rows determine {alone} of the {active} columns one by one." if active else "."
    return " ".join([text, *(c.sentence for c in certificates[:2])])


def _findings(
    rows: Data,
    spec: Spectrum,
    s: Solution,
    ident: Identifiability,
    certificates: tuple[Certificate, ...],
    fitted: MissingFit | None,
    chosen: Finding | None,
) -> list[Finding]:
    out = [] if chosen is None else [chosen]

    def note(spec: FindingSpec, message: str, hint: str | None = None, level: Level | None = None) -> None:
        out.append(Finding(spec, message, hint=hint, level=level))

    if len(rows.row_shape) > 1:
        note(FLATTENED, f"rows of shape {rows.row_shape} were flattened to {spec.m} columns")
    if spec.n < rows.rows and fitted is None:
        note(
            DROPPED_ROWS,
            f"{rows.rows - spec.n} of {rows.rows} rows hold NaN or infinity and were left out",
        )
    if fitted is not None:
        done = "came to rest" if fitted.converged else "did not come to rest"
        note(
            MISSING_VALUES,
            f"{fitted.missing:.1%} of the values are missing; EM {done} after {fitted.steps} steps; "
            "intervals count every row as if it were whole",
            level=None if fitted.converged else "warning",
        )
        if spec.n < rows.rows:
            note(DROPPED_ROWS, f"{rows.rows - spec.n} rows have no value at all and were left out")
    collapsed = np.flatnonzero(~s.active)
    if len(collapsed):
        which = f"z{collapsed[0]}" + (f" to z{collapsed[-1]}" if len(collapsed) > 1 else "")
        verb = "collapse" if len(collapsed) > 1 else "collapses"
        note(COLLAPSE, f"{which} {verb}: lambda does not exceed beta sigma^2 = {s.tau:.4g}")
    for first, last in ident.blocks:
        if last >= s.d:
            message = f"{_span(first, s.d - 1)} cannot be told from the discarded directions by these rows"
        else:
            message = f"{_span(first, last)} are identified only as a block"
        note(TIED_EIGENVALUES, message)
    if spec.solver == "randomized":
        note(
            RANDOMIZED,
            f"randomized solver: each retained eigenvalue lies within {spec.error:.1e} lambda_1 of a true one",
        )
    if spec.singular:
        note(
            SINGULAR_VALUES,
            "the covariance had lost the digits of the small eigenvalues (1e-9 of each was wanted): they are squares of "
            "singular values of the centred rows",
        )
    if spec.precision == "float32":
        note(
            FLOAT32,
            "products were formed in float32 and summed in float64: "
            f"eigenvalues hold to {spec.error:.1e} lambda_1, as measured on one block of rows in 32",
        )
    for c in certificates:
        if not c.converged:
            note(NOT_CONVERGED, c.sentence, "more --steps or --restarts", "warning")
    return out


def _span(first: int, last: int) -> str:
    return f"columns z{first} to z{last}" if last > first else f"column z{first}"


def _artifact(rows: Data) -> Artifact:
    paths = rows.paths
    size = sum(os.path.getsize(p) for p in paths if os.path.exists(p))
    suffix = Path(paths[0]).suffix.lstrip(".") or "array"
    name = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    return Artifact(path=name, size=size, format=suffix, details={"shape": list(rows.shape)})
