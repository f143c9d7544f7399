"""`vaeprobe train-linear`: PPCA and linear VAEs of data, and whether training finds their closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from vaeprobe.errors import UsageError
from vaeprobe.findings import TIME_LIMIT
from vaeprobe.kept import Kept
from vaeprobe.probes.base import Question, option
from vaeprobe.probes.train_linear import pictures, words
from vaeprobe.probes.train_linear.metrics import METRICS
from vaeprobe.report import Finding, Json, MetricSpec, Section, metric_map
from vaeprobe.result import Measured, Result

if TYPE_CHECKING:
    from vaeprobe.data import Data
    from vaeprobe.linear.certificate import Certificate
    from vaeprobe.linear.closed_form import LinearModel, Solution
    from vaeprobe.linear.eigenpairs import Spectrum
    from vaeprobe.linear.missing import MissingFit
    from vaeprobe.linear.training import Training, TrainingMethod
    from vaeprobe.probes.train_linear.numbers import LinearFit
    from vaeprobe.processes import Processes

MODEL, TRAINING, DATA, BEYOND, OUTPUT = "Model", "Training", "Data", "Beyond one machine", "Output"


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearResult(Result):
    """What `TrainLinear` finds.

    Attributes:
        fit: the closed form of the data, and training held against it.
    """

    command: ClassVar[str] = "train-linear"
    CARRIED = (
        ("train_linear.explained_variance",),
        ("train_linear.sigma2",),
        ("train_linear.identified", "train_linear.latent_dim", "train_linear.collapsed"),
        ("train_linear.elbo", "train_linear.elbo_gap"),
    )

    latent_dim = Measured("train_linear.latent_dim")
    sigma2 = Measured("train_linear.sigma2")
    loglik = Measured("train_linear.loglik")
    bits_per_dim = Measured("train_linear.bits_per_dim")
    eigenvalues = Measured("train_linear.eigenvalues")
    explained_variance = Measured("train_linear.explained_variance")
    collapsed = Measured("train_linear.collapsed")
    kl = Measured("train_linear.kl")
    elbo = Measured("train_linear.elbo")
    identified = Measured("train_linear.identified")
    elbo_gap = Measured("train_linear.elbo_gap")
    max_angle = Measured("train_linear.max_angle")
    max_abs_cosine = Measured("train_linear.max_abs_cosine")
    rotation_distance = Measured("train_linear.rotation_distance")
    mean_field_gap = Measured("train_linear.mean_field_gap")
    spectrum_error = Measured("train_linear.spectrum_error")

    fit: LinearFit

    @property
    def model(self) -> LinearModel:
        """What `save` writes: the closed form, or the first method's best run."""
        return self.fit.model

    def save(self, path: str | Path) -> None:
        """Write decoder and encoder as safetensors with a blueprint, for every other command."""
        from vaeprobe.linear import export

        model, fit = self.model, self.fit
        record = {"sigma2": model.sigma2, "beta": fit.solution.beta, "rows": fit.spectrum.n}
        export.save(Path(path), model, fit.row_shape, record)

    def plot(self, path: str | Path) -> None:
        """Draw the spectrum, the learning curves and the columns into a .png, .svg or .pdf file.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        pictures.draw(self.fit, Path(path))

    def files(self) -> Mapping[str, Callable[[Path], None]]:
        return {"model": self.save, "plot": self.plot}

    def sections(self) -> tuple[Section, ...]:
        return pictures.sections(self.fit)

    def details(self) -> Json:
        from vaeprobe.probes.train_linear import numbers

        return numbers.details(self.fit)


@dataclass(frozen=True, kw_only=True)
class TrainLinear(Question):
    """Fit PPCA and linear VAEs, hold training against their closed forms, and save the decoder.

    The closed form is always computed; training runs are certified against it.  The saved model works with every
    other command.  Under `torchrun`, each process reads its share of the rows.

    Attributes:
        model: where to save decoder and encoder: the first method's, else the closed form.
        plot: where to draw spectrum, curves and columns.

    Examples:
        vaeprobe train-linear x.npy
        vaeprobe train-linear 'shards/*.npy' --method all -o model.safetensors
    """

    NAME: ClassVar[str] = "train_linear"
    METRICS: ClassVar[tuple[MetricSpec, ...]] = METRICS
    VERDICTS: ClassVar[Mapping[str, str]] = words.VERDICTS

    latent_dim: int | Literal["auto"] = option(
        "auto", help="Number of latents, or auto.", metavar="N|auto", panel=MODEL
    )
    beta: float = option(1.0, help="Weight of the KL term.", panel=MODEL)
    sigma2: float | Literal["ml"] = option(
        "ml", help="Noise variance, or ml to learn it.", metavar="X|ml", panel=MODEL
    )
    theorem3: bool = option(False, help="Show (beta, s) against (1, beta s).", panel=MODEL)
    bootstrap: int | None = option(
        None, help="Resamples for the columns' angles (default: by cost).", min=0, panel=MODEL
    )
    methods: Sequence[str] = option(
        (),
        help="Also train: elbo, elbo-full, det-elbo, det-elbo-literal, em, or all; repeatable.",
        names=("--method",),
        metavar="NAME",
        panel=TRAINING,
    )
    optimiser: Literal["lbfgs", "adam"] = option("lbfgs", help="How to follow the gradient.", panel=TRAINING)
    steps: int = option(5000, help="Most steps per run.", min=1, panel=TRAINING)
    tolerance: float = option(
        1e-10, help="Gap to the optimum at which to stop (nats).", min=0.0, panel=TRAINING
    )
    learning_rate: float = option(0.02, help="Of Adam, decaying to 0.", min=1e-12, panel=TRAINING)
    batch_size: int | None = option(None, help="Rows per step of Adam (default: all).", min=1, panel=TRAINING)
    restarts: int = option(1, help="Starting points per method; the best counts.", min=1, panel=TRAINING)
    seed: int = option(0, help="Seed of every draw.", min=0, panel=TRAINING)
    key: str | None = option(None, help="Which array of the file.", panel=DATA)
    scale: str | float = option("auto", help="auto (uint8 / 255), none, or a factor.", panel=DATA)
    missing: Literal["refuse", "em"] = option(
        "refuse", help="What NaN means: an error, or a value to infer.", panel=DATA
    )
    drop_nonfinite: bool = option(False, help="Leave rows with NaN or infinity out.", panel=DATA)
    solver: Literal["auto", "exact", "dual", "randomized"] = option(
        "auto", help="How to get the eigenpairs.", panel=DATA
    )
    backend: Literal["gloo", "nccl"] = option("gloo", help="Between processes of torchrun.", panel=BEYOND)
    timeout: float = option(
        300.0, help="Seconds after which a silent process is dead.", min=1.0, panel=BEYOND
    )
    model: Path | None = option(
        None,
        help="Save decoder and encoder (.safetensors): the first method's, else the closed form.",
        names=("--output", "-o"),
        panel=OUTPUT,
        writes=(".safetensors",),
    )
    plot: Path | None = option(
        None,
        help="Draw spectrum, curves and columns (.png, .svg, .pdf).",
        panel=OUTPUT,
        writes=pictures.SUFFIXES,
    )

    @property
    def fixed(self) -> float | None:
        """The noise variance where it is given; None where it is learned."""
        return None if self.sigma2 == "ml" else float(self.sigma2)

    def measure(self, data: object) -> LinearResult:
        """Return what the linear VAE of the data is, and how training compares with it.

        Args:
            data: rows as an array or tensor, a path, a glob, several of them, or `Data`.

        Raises:
            UsageError: settings that do not go together.
            InputError: the data are damaged, not finite, or too few.
            ResourceError: a process of `torchrun` has ended.

        Source: Tipping and Bishop (1999); Lucas et al. (2019); Allen (2024), arXiv:2410.22559v1, Sections 2 and 3.

        Example:
            >>> import numpy as np
            >>> rows = np.random.default_rng(0).normal(size=(200, 3)) * [3.0, 2.0, 0.1]
            >>> TrainLinear(latent_dim=2).measure(rows).latent_dim.value
            2
        """
        from vaeprobe.processes import current

        with self.bounds():
            return self._measure(data, current())

    @contextmanager
    def bounds(self) -> Iterator[Kept | None]:
        """Join the processes of `torchrun`, bound the run by its time, and keep what is summed where a file is named."""
        from vaeprobe.processes import joined

        with joined(self.backend, timeout=self.timeout), super().bounds() as kept:
            yield kept

    def _measure(self, data: object, processes: Processes) -> LinearResult:
        from vaeprobe.linear import spectrum
        from vaeprobe.linear.certificate import certify
        from vaeprobe.probes.train_linear import numbers

        if self.plot is not None:
            pictures.ready(Path(self.plot))
        methods = numbers.chosen_methods(self.methods, em=self.beta == 1 or self.fixed is not None)
        self._refuse(methods, processes)
        rows: Data = processes.together(lambda: self._rows(data), by=lambda rows: rows.fingerprint)
        read, limits = self._in_time(rows, processes)
        own, sharing = spectrum.shared(read, self.solver, processes)
        fitted, spec = self._spectrum(own, sharing, processes)
        limits = (*limits, *self._cut_short(read, spec, fitted, processes))
        choice, d, chosen = None, self.latent_dim, None
        if d == "auto":
            tau = None if self.fixed is None else self.beta * self.fixed
            choice, d, chosen = numbers.how_many(spec, own, tau=tau, seed=self.seed, processes=sharing)
        spec = replace(spec, parts=())
        solution = self._solution(spec, int(d), fitted)
        ident = numbers.identified(
            read,  # few of them: each process resamples all
            spec,
            solution,
            resamples=self.bootstrap,
            seed=self.seed,
            complete=fitted is None,
        )
        certificates: tuple[Certificate, ...] = ()
        gaps: dict[str, tuple[float, ...]] = {}
        if methods:
            batches = self.batch_size is not None
            S = numbers.covariance(spec, own, batches=batches, processes=sharing)
            seeds = range(self.seed, self.seed + self.restarts)
            runs = numbers.trained(methods, S, solution, self._training(), seeds)
            gaps = {method: tuple(r.gap for r in found) for method, found in runs.items()}
            best = (min(found, key=lambda r: r.gap) for found in runs.values())
            certificates = tuple(certify(run, solution, S) for run in best)
        fit = numbers.LinearFit(
            spectrum=spec,
            solution=solution,
            identifiability=ident,
            row_shape=rows.row_shape,
            missing=fitted,
            choice=choice,
            certificates=certificates,
            gaps=gaps,
            equivalence=numbers.theorem3(spec, solution) if self.theorem3 else None,
        )
        return LinearResult(
            metrics=metric_map(numbers.metrics(fit)),
            verdict=words.verdict(fit),
            summary=words.summary(fit),
            findings=(*rows.notes, *limits, *words.findings(fit, read, chosen)),
            settings=self._settings(rows, spec, methods, processes),
            artifact=numbers.artifact(rows),
            fit=fit,
        )

    def _in_time(self, rows: Data, processes: Processes) -> tuple[Data, tuple[Finding, ...]]:
        """Return the rows that there is time for, said before long work; all where what is done when time is over is an answer.

        Raises:
            UsageError: the next run could not go on from what is read.
        """
        from vaeprobe.budget import budget
        from vaeprobe.linear import spectrum
        from vaeprobe.probes.train_linear import numbers

        if self.missing == "em":
            return rows, ()
        solver = spectrum.choose(rows, self.solver)
        goes_on = self.resume is not None and budget().bounded
        if goes_on and solver != "exact" and numbers.many(rows):
            raise UsageError(
                f"--resume cannot go on with the {solver} solver where --time leaves rows out: its steps take all of them",
                hint="leave --time out, for a run that is interrupted goes on from what it kept; or leave --resume out",
            )
        seconds = numbers.foretold_spectrum(rows, solver, processes)
        if seconds is None or goes_on:
            return rows, ()
        return numbers.thinned_in_time(rows, seconds, processes)

    def _cut_short(
        self, read: Data, spec: Spectrum, fitted: MissingFit | None, processes: Processes
    ) -> tuple[Finding, ...]:
        """Say which rows were read where time ended first."""
        seen = spec.n + spec.left_out
        if fitted is not None or seen >= read.rows:
            return ()
        which = "the first" if processes.world == 1 else "of each process's share the first,"
        more = "" if self.resume is None else "; the same command goes on from them"
        message = f"{which} {seen} of {read.rows} rows were read in the time given{more}"
        return (Finding(TIME_LIMIT, message),)

    def _refuse(self, methods: tuple[TrainingMethod, ...], processes: Processes) -> None:
        """Refuse settings that do not go together."""
        if self.missing != "em":
            return
        if self.drop_nonfinite:
            raise UsageError("--missing em and --drop-nonfinite exclude each other", hint="choose one")
        if processes.world > 1:
            raise UsageError("--missing em runs in one process", hint="start it without torchrun")
        if self.latent_dim == "auto":
            raise UsageError("--missing em needs a number of latents", hint="give --latent-dim a number")
        if methods:
            raise UsageError("--missing em fits by EM and trains nothing else", hint="leave --method out")
        if self.beta != 1 and self.fixed is None:
            raise UsageError(
                "EM maximises the likelihood and knows no beta when sigma2 is learned",
                hint="fix it with --sigma2",
            )

    def _rows(self, data: object) -> Data:
        from vaeprobe.probes.train_linear.numbers import rows_of

        incomplete: Literal["keep", "drop", "refuse"] = "drop" if self.drop_nonfinite else "refuse"
        if self.missing == "em":
            incomplete = "keep"
        return rows_of(data, key=self.key, scale=self.scale, nonfinite=incomplete)

    def _spectrum(
        self, own: Data, sharing: Processes, processes: Processes
    ) -> tuple[MissingFit | None, Spectrum]:
        """Return the eigenpairs of the covariance, and the fit that they come from where values are missing.

        Args:
            sharing: the processes that share the rows, of all that run.
        """
        from vaeprobe.data import NonfiniteRowsError
        from vaeprobe.linear import dimension, missing, spectrum
        from vaeprobe.probes.train_linear.numbers import RANDOMIZED_PAIRS

        if self.missing == "em":
            noise = None if self.fixed is None else self.beta * self.fixed  # Theorem 3
            fitted = missing.fit(own, int(self.latent_dim), sigma2=noise, steps=self.steps, seed=self.seed)
            return fitted, fitted.spectrum
        wanted = RANDOMIZED_PAIRS if self.latent_dim == "auto" else int(self.latent_dim) + 1
        folds = dimension.FOLDS if self.latent_dim == "auto" and self.fixed is None else 1
        try:
            found = spectrum.compute(
                own, wanted, solver=self.solver, seed=self.seed, folds=folds, processes=sharing
            )
        except NonfiniteRowsError as error:
            raise NonfiniteRowsError(error.message, hint=words.instead(error, processes.world)) from None
        return None, found

    def _solution(self, spec: Spectrum, d: int, fitted: MissingFit | None) -> Solution:
        from vaeprobe.linear import closed_form

        if fitted is None:
            return closed_form.solve(spec, d, beta=self.beta, sigma2=self.fixed)
        known = replace(spec, values=spec.values[:d], vectors=spec.vectors[:, :d])
        solution = closed_form.solve(known, d, beta=self.beta, sigma2=fitted.sigma2)
        return replace(solution, learned=self.fixed is None)

    def _training(self) -> Training:
        from vaeprobe.linear.training import Training

        return Training(
            optimiser=self.optimiser,
            steps=self.steps,
            tolerance=self.tolerance,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
        )

    def _settings(
        self, rows: Data, spec: Spectrum, methods: tuple[TrainingMethod, ...], processes: Processes
    ) -> Json:
        return {
            "latent_dim": self.latent_dim,
            "beta": self.beta,
            "sigma2": self.sigma2,
            "methods": list(methods),
            "optimiser": self.optimiser,
            "steps": self.steps,
            "tolerance": self.tolerance,
            "batch_size": self.batch_size,
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
