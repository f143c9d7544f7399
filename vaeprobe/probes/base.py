"""What a probe is: settings that are options, arguments and policy keys at once.

A probe is one file with one frozen, keyword-only dataclass derived from `Probe`, or from `Question` where it is
asked of data instead of a decoder.  Its fields, declared with `option`, become the subcommand's options; its
docstring becomes the help (first paragraph the summary); `METRICS` says what its numbers mean.  `measure` returns a
`Result` and prints nothing.

This module and every probe's module import no torch at the top (`vaeprobe --help` stays fast): import it
inside `measure`, and under TYPE_CHECKING for annotations.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from glob import glob
from os import PathLike
from os.path import exists
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from vaeprobe.budget import within
from vaeprobe.errors import InputError, UsageError, did_you_mean
from vaeprobe.findings import CLASS_AXIS, SATURATED
from vaeprobe.foreign import said
from vaeprobe.given import check_dense
from vaeprobe.kept import SUFFIX, Kept, keeping
from vaeprobe.likelihood_names import LikelihoodName
from vaeprobe.probes.settings import Option, check, option_of
from vaeprobe.report import Check, Finding, Metric, MetricSpec
from vaeprobe.result import Result

if TYPE_CHECKING:
    from torch import Tensor

    from vaeprobe.decoder import Decoder
    from vaeprobe.latents import Latents
    from vaeprobe.likelihoods import Likelihood, LikelihoodSettings

R = TypeVar("R", bound=Result)
T = TypeVar("T")


def option(
    default: T,
    *,
    help: str,
    min: float | None = None,
    max: float | None = None,
    names: tuple[str, ...] = (),
    metavar: str | None = None,
    panel: str = "Settings",
    writes: tuple[str, ...] = (),
) -> T:
    """Return a dataclass field that is also a command-line option.

    Args:
        default: default value.
        help: one line for `--help`.
        min, max: bounds, checked by the command line.
        names: the option's names where `--field-name` does not serve (e.g. `("--seed", "-s")`).
        metavar: placeholder in the help.
        panel: heading in the help.
        writes: for a file that is written: the suffixes that it may have.
    """
    said = Option(help=help, min=min, max=max, names=names, metavar=metavar, panel=panel, writes=writes)
    return field(default=default, metadata={"option": said})


@dataclass(frozen=True, kw_only=True)
class Question(ABC):
    """What a subcommand asks, of a decoder (`Probe`) or of data; its fields are its settings.

    Attributes:
        time: seconds that the run may take; None measures all that is asked for, whatever it takes.
        resume: a file in which what takes long is kept as it is measured; a run that finds some of its own there, by the
            same decoder at the same latents or of the same rows, takes it, and ends with the same numbers.

    Raises:
        UsageError: a setting has a value that it does not take.
    """

    NAME: ClassVar[str]
    METRICS: ClassVar[tuple[MetricSpec, ...]] = ()
    # the words that its results may have for a verdict, and what each means; rules name them
    VERDICTS: ClassVar[Mapping[str, str]] = {}
    # verdicts that more samples may turn into another
    OPEN_VERDICTS: ClassVar[frozenset[str]] = frozenset()
    # setting -> (its cheapest value, the metrics that depend on it): the gate pays only for what a rule reads
    SAVINGS: ClassVar[Mapping[str, tuple[object, frozenset[str]]]] = {}
    # metrics whose results keep the values behind a mean, where they can: rules compare them with a baseline's, in pairs
    PER_SAMPLE: ClassVar[frozenset[str]] = frozenset()
    # settings that it does not look at: no options of its command, no keys of a policy
    HIDDEN: ClassVar[frozenset[str]] = frozenset()

    time: float | None = option(
        None,
        help="Seconds that the run may take: what does not fit is left out, and said, but for the least that can be told.",
        min=1.0,
        metavar="SECONDS",
        panel="Budget",
    )
    resume: Path | None = option(
        None,
        help="Keep what is measured in this file, and go on from what it holds.",
        metavar="FILE",
        panel="Budget",
        writes=(SUFFIX,),
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            check(type(self), f, getattr(self, f.name), f"{self.NAME}: `{f.name}`")

    @classmethod
    def asked(cls, settings: Mapping[str, Any]) -> Self:
        """Return the question with these settings, whose values are looked at when it is made.

        Raises:
            UsageError: a setting has a value that it does not take.
        """
        return cls(**settings)

    def outputs(self) -> dict[str, Path]:
        """Return the files to write, by setting."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if option_of(f).writes}
        return {name: Path(path) for name, path in named.items() if path is not None}

    @contextmanager
    def bounds(self) -> Iterator[Kept | None]:
        """Bound a run by its time, keep what is measured in it where a file for that is named, and say what a network raises."""
        with within(self.time), keeping(self.resume) as kept, said():
            yield kept

    # each question narrows what it is asked of, so that this says nothing
    @abstractmethod
    def measure(self, subject: Any, /) -> Result:
        """Return what is found on a decoder, or in data."""

    @classmethod
    def spec(cls, id: str) -> MetricSpec:
        """Return what a metric of this question means."""
        return next(spec for spec in cls.METRICS if spec.id == id)


def paths_of(data: object) -> list[str | Path] | None:
    """Return the files of data, None where the data are no paths."""
    given = data if isinstance(data, (list, tuple)) else [data]
    paths = [p if isinstance(p, str) else Path(p) for p in given if isinstance(p, (str, PathLike))]
    return paths if len(paths) == len(given) else None


def rows_of(data: object, limit: int | None = None) -> Tensor:
    """Return rows of data, shape (rows, ...), as probes take them: a tensor, an array, or files, of which `limit` are read.

    Raises:
        InputError: they are no numbers, or rows hold NaN or infinity.
        UsageError: they are a tensor that is not dense.
    """
    import torch

    from vaeprobe.data import in_memory, open_data
    from vaeprobe.latents import numbers
    from vaeprobe.processes import current

    check_dense(data, "the data")
    paths = None if isinstance(data, torch.Tensor) else paths_of(data)
    if paths is None:
        held = numbers(data, "data")
        if held.is_floating_point() and held.ndim > 1 and not bool(torch.isfinite(held).all()):
            values = held.detach().cpu().double().numpy()
            in_memory(values).refuse(values)
        return held
    rows = current().together(lambda: open_data(paths), by=lambda data: data.fingerprint)
    return torch.from_numpy(rows.read(limit))


@dataclass(frozen=True, kw_only=True)
class Probe(Question):
    """Settings that all probes of a decoder share.

    Attributes:
        samples: number of latents to draw.
        latents: where they come from: prior, posterior, posterior-means, grid, a .npy file; in Python also an
            array or tensor of them, a function from their number to them, a torch distribution, or `Latents`.
        likelihood: weight the Jacobian by a likelihood's metric; None for the Euclidean one.
        sigma2: variance of a Gaussian likelihood; by default the learned one of the checkpoint, else 1.
        dispersion: inverse dispersion of a negative binomial: a number, an array, or a path of one.
        data: data for posterior latents and for probes of the encoder: a path, or rows as an array or tensor.
        seed: seed of every draw.
        chunk: latents per block; None chooses by memory.

    Raises:
        UsageError: a setting has a value that it does not take.
    """

    OPEN_VERDICTS: ClassVar[frozenset[str]] = frozenset({"undecided", "undetermined"})
    # how many latents' work one sample costs: the gate divides its samples by it
    COST: ClassVar[int] = 1

    samples: int = option(256, help="Latents to draw.", min=2, names=("--samples", "-n"), panel="Sampling")
    latents: object = option(
        "prior",
        help="prior, posterior, posterior-means, grid, or a .npy file of latents.",
        metavar="SOURCE",
        panel="Sampling",
    )
    data: object = option(
        None,
        help="Data rows (.npy, .npz, .safetensors, .pt, a folder of PNG).",
        metavar="FILE",
        panel="Sampling",
    )
    seed: int = option(0, help="Seed of every draw.", min=0, panel="Sampling")
    likelihood: LikelihoodName | None = option(
        None, help="Weight the Jacobian by this likelihood's metric (Eq. 7).", panel="Geometry"
    )
    sigma2: float | None = option(
        None,
        help="Variance of a Gaussian likelihood (default: the learned one that the file holds, else 1).",
        min=1e-300,
        panel="Geometry",
    )
    dispersion: object = option(
        None,
        help="Inverse dispersion of a negative binomial: a number, or a .npy file with one per count.",
        metavar="NUMBER|FILE",
        panel="Geometry",
    )
    chunk: int | None = option(None, help="Latents per block (default: by memory).", min=1, panel="Geometry")

    def check_ready(self) -> None:
        """Refuse what cannot work, before anything is loaded.

        Raises:
            UsageError: a setting needs another one.
            InputError: the data are not there.
        """
        if isinstance(self.data, (str, PathLike)) and not glob(name := str(self.data)) and not exists(name):
            raise InputError(
                f"no file matches `{name}`", hint="--data names rows: a file, a glob or a folder"
            )

    @abstractmethod
    def measure(self, decoder: Decoder) -> Result:
        """Return what this probe finds on a decoder."""

    # -- what every measure needs ------------------------------------------------------------------

    def data_rows(self) -> Tensor | None:
        """Return the data, shape (rows, ...), or None where none was given."""
        return None if self.data is None else rows_of(self.data)

    def source(self) -> Latents:
        """Return where the latents come from."""
        from vaeprobe.latents import source

        return source(self.latents, self.data_rows)

    def metric_likelihood(self, decoder: Decoder) -> Likelihood | None:
        """Return the likelihood whose metric is asked for, or None for the Euclidean one."""
        from vaeprobe.likelihoods import by_name

        if self.likelihood is None:
            return None
        return by_name(self.likelihood, decoder.output_shape, self.given(decoder))

    def given(self, decoder: Decoder) -> LikelihoodSettings:
        """Return what was said about the likelihood beside its name, by the user or else by the decoder's file.

        Raises:
            UsageError: the dispersion is neither a number nor a file of numbers.
        """
        from vaeprobe.likelihoods import LikelihoodSettings

        theta: object = decoder.dispersion if self.dispersion is None else self.dispersion
        if isinstance(theta, str):
            with suppress(ValueError):
                theta = float(theta)
        if isinstance(theta, (str, PathLike)):
            from vaeprobe.files.matrices import read_matrix

            theta = read_matrix(theta)
        return LikelihoodSettings(
            sigma2=self.given_sigma2(decoder), dispersion=theta, class_axis=decoder.class_axis
        )

    def given_sigma2(self, decoder: Decoder) -> float:
        """Return the variance of a Gaussian likelihood: the user's, else the learned one of the file, else 1."""
        own = 1.0 if decoder.sigma2 is None else decoder.sigma2
        return own if self.sigma2 is None else self.sigma2

    def likelihood_findings(self, decoder: Decoder, z: Tensor) -> tuple[Finding, ...]:
        """Check that the outputs fit the likelihood that was asked for, and return what to know about it.

        Args:
            z: latents, shape (n, latent); a few rows are decoded.

        Raises:
            UsageError: the outputs cannot be the likelihood's means.
        """
        likelihood = self.metric_likelihood(decoder)
        if likelihood is None or decoder.parameter == "natural":
            return class_findings(decoder, likelihood)
        import torch

        from vaeprobe.engine.remembered import recalled

        def outputs(at: torch.Tensor) -> tuple[torch.Tensor]:
            with torch.no_grad():
                return (decoder.flat(z[at]).double(),)

        (y,) = recalled(("outputs", decoder), [z[:64]], outputs)
        wrong = likelihood.misfit(y)
        if wrong is not None:
            raise UsageError(
                wrong,
                hint='leave --likelihood out for the Euclidean metric, or say in a blueprint parameter = "natural" where the '
                "outputs are natural parameters (logits, log-rates)",
            )
        if likelihood.mean_is_natural or decoder.natural_for(likelihood):
            return ()
        share = float((likelihood.weight(y, decoder.parameter) == 0).double().mean())
        if share == 0:
            return ()
        return (
            Finding(
                SATURATED,
                f"{share:.0%} of the outputs are saturated, and the likelihood gives them no weight",
                hint="a blueprint that names the last activation lets the natural parameter be used instead",
                level="note" if share < 0.5 else "warning",
            ),
        )

    def settings(self, decoder: Decoder) -> dict[str, object]:
        """Return the JSON form of the settings that shaped a result."""
        from vaeprobe.latents import Latents

        plain: dict[str, object] = {}
        for f in fields(self):
            value = None if option_of(f).writes else getattr(self, f.name)
            if isinstance(value, Latents):
                value = value.describe()
            plain[f.name] = (
                value if isinstance(value, (str, int, float, bool, type(None))) else str(type(value).__name__)
            )
        plain["sigma2"] = self.given_sigma2(decoder)
        plain["dtype"] = str(decoder.dtype).removeprefix("torch.")
        plain["differentiation"] = decoder.differentiation
        return plain


def class_findings(decoder: Decoder, likelihood: Likelihood | None) -> tuple[Finding, ...]:
    """Return along which axis the classes of logits are taken to run, where several could be it and nobody said."""
    from vaeprobe.likelihoods import Categorical

    shape = tuple(decoder.output_shape)
    several = sum(n > 1 for n in shape) > 1
    said = decoder.parameter == "mean" or decoder.class_axis is not None
    if not isinstance(likelihood, Categorical) or said or not several:
        return ()
    places = math.prod(shape) // likelihood.classes
    read = f"the output, {' x '.join(map(str, shape))}, is read as logits of {likelihood.classes} classes at {places} positions"
    return (Finding(CLASS_AXIS, read, hint="--class-axis -1 where the classes run along the last axis"),)


def judge(result: R, limits: Mapping[str, float], specs: Mapping[str, MetricSpec]) -> R:
    """Return the result with a check for each limit; the direction comes from the metric.

    Args:
        result: what a probe measured.
        limits: limit per metric id.
        specs: what the probe can measure, by id.

    Raises:
        UsageError: a limit names a metric that does not exist or has no better direction.
    """
    checks: list[Check] = []
    for id, limit in limits.items():
        metric = result.metrics.get(id)
        spec = specs.get(id) if metric is None else metric.spec
        if spec is None:
            raise UsageError(
                f"no metric is called `{id}`",
                hint=did_you_mean(id, specs) or "`vaeprobe explain` lists the metrics",
            )
        if spec.better is None:
            raise UsageError(f"metric `{id}` has no better direction and takes no limit")
        metric = metric or Metric.undefined(spec, "this probe did not measure it")
        checks.append(Check(metric=metric, side="max" if spec.better == "lower" else "min", limit=limit))
    return replace(result, checks=(*result.checks, *checks))
