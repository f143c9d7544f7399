"""What the probes of an encoder share: its options, its data, and the moments under its posteriors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from vaeprobe.budget import budget
from vaeprobe.errors import InputError, UsageError
from vaeprobe.findings import ENCODER_READ, NO_BETTER_THAN_CHANCE, OTHER_LAYOUT, TIME_LIMIT
from vaeprobe.likelihood_names import LikelihoodName
from vaeprobe.probes.base import Probe, class_findings, option, paths_of, rows_of
from vaeprobe.report import Finding, Metric, MetricSpec
from vaeprobe.scoped import scoped

if TYPE_CHECKING:
    from torch import Tensor

    from vaeprobe.decoder import Decoder
    from vaeprobe.encoder import Encoder
    from vaeprobe.engine.rounding import Lost
    from vaeprobe.inference.beta import BetaEstimate
    from vaeprobe.inference.moments import PosteriorMoments
    from vaeprobe.inference.readings import LayoutReading
    from vaeprobe.likelihoods import Likelihood

# rows of a data file that are looked at; `samples` of them, drawn at random, are measured
MOST_ROWS = 20_000

_as_drawn: ContextVar[bool] = ContextVar("as_drawn", default=False)


@contextmanager
def rows_as_drawn() -> Iterator[None]:
    """Within it, rows of data are taken in the order in which they are drawn: a larger sample begins with a smaller one."""
    with scoped(_as_drawn, True):
        yield


KL_PER_LATENT = MetricSpec(
    id="kl.per_latent",
    title="KL per latent",
    unit="nats",
    range="[0, inf) each",
    formula="mean over x of (e_i(x)^2 + Sigma_ii(x) - 1 - log Sigma_ii(x)) / 2",
    source="Kingma and Welling 2014; linear VAE: 1/2 log(lambda_i / (beta sigma^2))_+",
    meaning="What each latent costs, and at most how many nats the data are told by it.",
    misleads="A latent can have a KL and still be ignored by the decoder: compare the four rules of activity.",
    remedy="A KL of 0 is a collapsed latent: lower beta or sigma^2, or use fewer latents.",
)


@dataclass(frozen=True, kw_only=True)
class EncoderEvidence:
    """What an encoder, a decoder and data say together.

    Attributes:
        x: the data rows that were measured, shape (n, ...).
        available: all rows that were read.
        source: what the rows are, in words.
        scaling: what was done to their values.
        outputs: numbers in one of the decoder's outputs.
        names: name of each continuous latent, `z0` being column 0 of the latent tensor.
        likelihood: the likelihood they were held against.
        moments: moments under the posteriors of `x`.
        estimate: beta by every identity, None where every latent collapsed.
        reading: another layout of the encoder's outputs that fits far better, and beta under it.
        findings: what the loader, the encoder and the layout check noted.
        rounding: columns of the Jacobian that are rounding, of which no curvature is known.
        as_drawn: whether the rows are in the order in which they were drawn, not in that of the data.
    """

    x: Tensor
    available: Tensor
    source: str
    scaling: str
    outputs: int
    names: tuple[str, ...]
    likelihood: Likelihood
    moments: PosteriorMoments
    estimate: BetaEstimate | None
    reading: tuple[LayoutReading, float] | None
    findings: tuple[Finding, ...]
    rounding: Lost | None = None
    as_drawn: bool = False

    @property
    def mismatched(self) -> bool:
        """Whether encoder, decoder and data do not belong together as they were read."""
        return self.reading is not None or any(f.spec is NO_BETTER_THAN_CHANCE for f in self.findings)

    @property
    def no_curvature(self) -> str | None:
        """Why nothing is known of the likelihood's curvature at these posteriors; None where something is."""
        if self.rounding is not None:
            return self.rounding.why
        if not (self.moments.gauss_newton.any() or self.moments.curvature.any()):
            return "no latent moves the output where the encoder puts its posteriors"
        return None

    @property
    def no_beta(self) -> str | None:
        """Why no beta can be read off these posteriors; None where one can, or where all latents collapsed.

        An optimum needs positive curvature: `1/Sigma - 1 = h / beta` with variances under 1 has no other solution.
        """
        if self.no_curvature or self.estimate is None or self.estimate.stein.value > 0:
            return self.no_curvature
        return (
            "the likelihood's curvature is not positive in the mean over the posteriors, "
            f"where beta would be {self.estimate.stein.value:.3g}"
        )

    @property
    def place(self) -> str:
        """Where the numbers hold, as the start of a sentence."""
        return f"On {self.source} ({self.scaling}), {self.likelihood.words} likelihood"

    def settings(self) -> dict[str, object]:
        """Return what of this belongs among a result's settings."""
        return {
            "likelihood": self.likelihood.name,
            "rows": self.moments.rows,
            "rows_available": len(self.available),
            "rows_of": self.source,
            "scaling": self.scaling,
            **({"order": "as drawn"} if self.as_drawn else {}),
        }


@dataclass(frozen=True, kw_only=True)
class EncoderProbe(Probe):
    """Settings of the probes that hold an encoder's posteriors against the likelihood.

    Attributes:
        samples: data rows to measure, drawn at random from the data.
        likelihood: the one the model was trained with; by default what the checkpoint says.
        encoder: the encoder, where the checkpoint has none: a path, or an `Encoder`.
        pairs: antithetic pairs of posterior draws per row.
    """

    HIDDEN: ClassVar[frozenset[str]] = frozenset({"latents"})

    samples: int = option(
        256, help="Data rows to measure.", min=2, names=("--samples", "-n"), panel="Sampling"
    )
    latents: object = option(
        "posterior", help="Always the posteriors of the data.", metavar="SOURCE", panel="Sampling"
    )
    likelihood: LikelihoodName | None = option(
        None, help="Likelihood of the training objective (default: the checkpoint's own).", panel="Geometry"
    )
    encoder: object = option(
        None, help="The encoder, where it is in a file of its own.", metavar="FILE", panel="Sampling"
    )
    pairs: int = option(8, help="Antithetic pairs of posterior draws per row.", min=2, panel="Sampling")

    def check_ready(self) -> None:
        super().check_ready()
        if self.data is None:
            raise UsageError(
                f"{self.NAME} needs data", hint="add --data X.npy, rows as the encoder takes them"
            )

    def evidence(self, decoder: Decoder) -> EncoderEvidence:
        """Return the data, the likelihood and the posterior moments, checked against each other.

        Raises:
            UsageError: there is no encoder, no data or no likelihood, or they do not fit together.
            InputError: the encoder's outputs are laid out otherwise.
        """
        with self.bounds():
            return self._evidence(decoder)

    def _evidence(self, decoder: Decoder) -> EncoderEvidence:
        import math

        import torch

        from vaeprobe.inference.beta import estimate_beta
        from vaeprobe.inference.layout import better_reading, check_data, check_layout
        from vaeprobe.inference.moments import posterior_moments
        from vaeprobe.intervals import stream
        from vaeprobe.latents import Prior
        from vaeprobe.probes.rounded import rounded, rounding_at

        if self.latents not in ("posterior", "prior"):
            raise UsageError(f"{self.NAME} works at the posteriors of the data, not at other latents")
        decoder = decoder.at_totals().under(self.likelihood or decoder.likelihood)
        encoder = self.chosen_encoder(decoder)
        if decoder.learned is not None:
            own = decoder if encoder is decoder.encoder else replace(decoder, encoder=encoder)
            decoder = own.standardised(of=self.NAME)
            assert decoder.encoder is not None
            encoder = decoder.encoder
        self.check_ready()
        likelihood = self.chosen_likelihood(decoder)
        rows, source, scaling = self._rows("auto" if likelihood.pixels else "none")
        if rows.ndim < 2 or len(rows) < 2:
            raise UsageError(
                f"the data have shape {tuple(rows.shape)}: at least two rows are needed",
                hint="one row per sample: x[:, None] for one column" if rows.ndim == 1 else None,
            )
        check_data(decoder, rows, likelihood)
        if math.prod(encoder.input_shape or ()) == decoder.data_dim:
            rows = likelihood.rows(rows, decoder.data_dim)
        picked = torch.from_numpy(stream(self.seed, "data rows").permutation(len(rows))[: self.samples])
        # where time may cut the rows short, the first ones are a sample of all
        as_drawn = _as_drawn.get() or budget().bounded
        x = rows[picked if as_drawn else picked.sort().values]
        findings = check_layout(decoder, encoder, x, likelihood, seed=self.seed)
        moments = posterior_moments(
            decoder, encoder, x, likelihood, pairs=self.pairs, gram_pairs=2, seed=self.seed, chunk=self.chunk
        )
        _check_moments(moments)
        if moments.fit and not moments.fit.whole:
            findings = (*findings, Finding(TIME_LIMIT, moments.fit.words("rows")))
            x = x[: moments.fit.done]
        estimate = estimate_beta(moments, seed=self.seed)
        reading = None
        lost = rounding_at(decoder, Prior().draw(decoder, 2, seed=self.seed), likelihood)
        if lost is not None:
            findings = (*findings, rounded(lost))
        elif estimate is None or estimate.disagrees or not estimate.tested:
            reading = better_reading(decoder, encoder, x, likelihood, moments)
        if reading is not None:
            findings = (*findings, _other_layout(*reading))
        return EncoderEvidence(
            x=x,
            available=rows,
            source=f"{len(x)} of {len(rows)} rows of {source}",
            scaling=scaling,
            outputs=decoder.data_dim,
            names=decoder.latent_names,
            likelihood=likelihood,
            moments=moments,
            estimate=estimate,
            reading=reading,
            findings=(*decoder.notes, *encoder.notes, *class_findings(decoder, likelihood), *findings),
            rounding=lost,
            as_drawn=as_drawn,
        )

    def _rows(self, scale: str) -> tuple[Tensor, str, str]:
        """Return the data, shape (rows, ...), what they are, and what was done to their values."""
        import torch

        from vaeprobe.data import open_data
        from vaeprobe.processes import current

        paths = paths_of(self.data)
        if paths is not None:
            data = current().together(lambda: open_data(paths, scale=scale), by=lambda data: data.fingerprint)
            rows = torch.from_numpy(data.read(MOST_ROWS))
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            scaling = "as stored" if data.factor == 1 else f"divided by {1 / data.factor:.6g}"
            return rows, f"`{Path(paths[0]).name}`{more}", scaling
        return rows_of(self.data), "the data given", "as given"

    def chosen_encoder(self, decoder: Decoder) -> Encoder:
        """Return the encoder: the one that was named, else the checkpoint's own.

        Raises:
            UsageError: there is none, or it has another number of latents than the decoder.
        """
        from vaeprobe.encoder import Encoder

        if self.encoder is None:
            found = decoder.encoder
        elif isinstance(self.encoder, Encoder):
            found = self.encoder
        elif isinstance(self.encoder, (str, PathLike)):
            from vaeprobe.inference.encoders import open_encoder

            found = open_encoder(self.encoder, decoder)
        else:
            raise UsageError(
                f"the encoder is {type(self.encoder).__name__}, neither a path nor an Encoder",
                hint="vaeprobe.Encoder(function, latent_dim) takes a function to means and log variances",
            )
        if found is None:
            why = next((note for note in decoder.notes if note.spec is ENCODER_READ), None)
            raise UsageError(
                f"{self.NAME} needs the encoder"
                + (", and this checkpoint comes without one" if why is None else f": {why.message}"),
                hint="describe it in the blueprint's [encoder], or name its own file with --encoder"
                if why is None or why.hint is None
                else f"{why.hint}; or name its own file with --encoder",
            )
        if found.latent_dim != len(decoder.continuous):
            raise UsageError(
                f"the encoder has {found.latent_dim} latents, the decoder {len(decoder.continuous)} continuous ones"
            )
        return found

    def chosen_likelihood(self, decoder: Decoder) -> Likelihood:
        """Return the likelihood: the one that was named, else the decoder's own.

        Raises:
            UsageError: neither is known.
        """
        from vaeprobe.likelihoods import by_name

        name = self.likelihood or decoder.likelihood
        if name is None:
            raise UsageError(
                "the likelihood that the decoder was trained with is not known",
                hint="--likelihood gaussian (squared error), bernoulli (cross-entropy), or another that it lists",
            )
        return by_name(name, decoder.output_shape, self.given(decoder))

    def mean_over_rows(self, id: str, values: Tensor, method: str = "mean over rows") -> Metric:
        """Return the mean of one number per data row, shape (n,), with Student's interval, corrected for skewness."""
        from vaeprobe.intervals import LEVEL, mean_interval

        return Metric(
            self.spec(id),
            float(values.mean()),
            ci=mean_interval(values.numpy()),
            level=LEVEL,
            n=len(values),
            method=f"{method}, Student's t corrected for skewness",
        )


def _check_moments(m: PosteriorMoments) -> None:
    """Refuse moments that are no numbers, or too large to be squared.

    Raises:
        InputError: those of some rows are.
    """
    import torch

    from vaeprobe.encoder import LARGEST_CODE, check_codes

    check_codes(m.mean)
    of_row = torch.cat([m.log_density[:, None], m.score, m.curvature, m.gauss_newton, m.variance], 1)
    broken = int((~(of_row.abs() < LARGEST_CODE)).any(1).sum())
    if broken:
        raise InputError(
            f"the likelihood of {broken} of {m.rows} data rows is no number below {LARGEST_CODE:.0e} at the encoder's codes",
            hint="are the data scaled as they were in training?",
        )


def _other_layout(reading: LayoutReading, beta: float) -> Finding:
    from vaeprobe.inference.layout import how_to_say

    return Finding(
        OTHER_LAYOUT,
        f"read as {reading.words} the encoder's outputs agree with the likelihood far better: means, "
        f"variances, latents and rows would ask for one beta, about {beta:.3g}",
        hint=f"if that is what they are, {how_to_say(reading)}",
    )
