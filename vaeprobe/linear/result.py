"""The result of `vaeprobe train-linear`, and how it is shown."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from vaeprobe.linear import export
from vaeprobe.linear.certificate import Certificate
from vaeprobe.linear.closed_form import LinearModel, Solution
from vaeprobe.linear.dimension import Choice
from vaeprobe.linear.identifiability import Identifiability
from vaeprobe.linear.spectrum import Spectrum
from vaeprobe.pictures import png, signed_image
from vaeprobe.report import Bars, Curves, Section, Svg, Table, Value
from vaeprobe.result import Measured, Result

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]

MOST_COLUMNS = 30  # rows of the table of columns
MOST_BARS = 24
ENDINGS = {
    "optimum on the axes": "on axes",
    "optimum, rotated": "rotated",
    "optimum, tied block": "in a tie",
    "not converged": "unfinished",
}


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

    def table(self) -> Table:
        rows: list[list[Value]] = [
            ["fixed sigma^2: columns, largest relative difference", self.column_difference],
            ["fixed sigma^2: KL_i, largest difference (nats)", self.kl_difference],
            ["fixed sigma^2: objective lost by the other solution (nats)", self.objective_difference],
        ]
        if self.learned is not None and self.learned_active is not None:
            at_beta, tau, at_one = self.learned
            rows += [
                [f"learned: sigma^2 at beta {self.beta:g}", at_beta],
                [f"learned: beta sigma^2 at beta {self.beta:g}", tau],
                ["learned: sigma^2 at beta 1", at_one],
                [
                    "learned: active latents at beta, at 1",
                    f"{self.learned_active[0]}, {self.learned_active[1]}",
                ],
            ]
        return Table(
            title=f"Theorem 3: (beta {self.beta:g}, sigma^2 {self.sigma2:.4g}) against (1, {self.beta * self.sigma2:.4g})",
            columns=("quantity", "value"),
            rows=rows,
            note="The same solution while sigma^2 is fixed; not when it is learned, for the normaliser is scaled too.",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearResult(Result):
    """What `train-linear` found.

    Attributes:
        spectrum: eigenpairs of the covariance.
        solution: closed-form optimum.
        identifiability: which columns the data determine.
        choice: scores of all dimensions, where one was chosen.
        certificates: the best run of each method against the closed form.
        gaps: objective left by every restart, by method, nats.
        equivalence: Theorem 3 on these data, where asked for.
        model: what `save` writes: the closed form, or the first method's best run.
        row_shape: shape of one row of data.
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

    spectrum: Spectrum
    solution: Solution
    identifiability: Identifiability
    choice: Choice | None
    certificates: tuple[Certificate, ...]
    gaps: Mapping[str, tuple[float, ...]]
    equivalence: Equivalence | None
    model: LinearModel
    row_shape: tuple[int, ...]

    def save(self, path: str | Path) -> None:
        """Write decoder and encoder as safetensors with a blueprint, for every other command."""
        record = {"sigma2": self.model.sigma2, "beta": self.solution.beta, "rows": self.spectrum.n}
        export.save(Path(path), self.model, self.row_shape, record)

    def plot(self, path: str | Path) -> None:
        """Draw the spectrum, the learning curves and the columns into a .png, .svg or .pdf file.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        from vaeprobe.linear.plot import draw

        draw(self.spectrum, self.solution, self.certificates, self.row_shape, Path(path))

    def files(self) -> Mapping[str, Callable[[Path], None]]:
        return {"model": self.save, "plot": self.plot}

    # -- showing ---------------------------------------------------------------------------------

    def sections(self) -> tuple[Section, ...]:
        parts: list[Section | None] = [
            self._columns(),
            self._certificates(),
            self._spectrum(),
            self._learning(),
            None if self.choice is None else dimension_table(self.choice),
            None if self.equivalence is None else self.equivalence.table(),
            self._images(),
        ]
        return tuple(p for p in parts if p is not None)

    def details(self) -> dict[str, Any]:
        s, ident = self.solution, self.identifiability
        found: dict[str, Any] = {
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
            "spectrum": self.spectrum.values[:512].tolist(),
            "total_variance": self.spectrum.total,
            "runs": [_run_details(c, self.gaps[c.run.method]) for c in self.certificates],
        }
        if self.choice is not None:
            c = self.choice
            found["dimension"] = {
                "candidates": c.candidates.tolist(),
                "minka": None if c.minka is None else _finite(c.minka),
                "bic": _finite(c.bic),
                "held_out": None if c.held_out is None else _finite(c.held_out),
                "by": c.by,
                "chosen": c.dimension,
            }
        if self.equivalence is not None:
            found["theorem3"] = dict(vars(self.equivalence))
        return found

    def _columns(self) -> Table:
        s, ident = self.solution, self.identifiability
        blocks = {i: (a, b) for a, b in ident.blocks for i in range(a, b + 1)}
        rows: list[list[Value]] = []
        for i in range(min(s.d, MOST_COLUMNS)):
            low, high = ident.intervals[i]
            if not s.active[i]:
                status = "collapsed"
            elif i in blocks:
                a, b = blocks[i]
                status = f"only in block z{a} to z{b}"
            else:
                status = "yes"
            angle = None if ident.angles is None else math.degrees(ident.angles[i])
            rows.append(
                [
                    f"z{i}",
                    float(s.values[i]),
                    f"{low:.3g} - {high:.3g}",
                    float(np.sqrt(s.square_norms[i])),
                    float(s.kl[i]),
                    status,
                    angle,
                ]
            )
        notes = [] if s.d <= MOST_COLUMNS else [f"the first {MOST_COLUMNS} of {s.d} columns"]
        if ident.angles is not None:
            notes.append("angle: 95 % of bootstrap resamples turn the column by less (degrees)")
        return Table(
            title="Columns of the decoder, closed form",
            columns=("#", "lambda", "95 %", "norm", "KL", "identified", "angle"),
            rows=rows,
            note="; ".join(notes),
        )

    def _certificates(self) -> Table | None:
        if not self.certificates:
            return None
        rows: list[list[Value]] = [
            [
                c.run.method,
                c.run.steps,
                f"{max(c.run.gap, 0.0):.1e}",
                None if c.max_angle is None else f"{c.max_angle:.1e}",
                None if c.max_abs_cosine is None else f"{c.max_abs_cosine:.1e}",
                None if c.rotation_distance is None else f"{c.rotation_distance:.1e}",
                f"{c.mean_field_gap:.1e}",
                ENDINGS[c.verdict],
            ]
            for c in self.certificates
        ]
        restarts = max(map(len, self.gaps.values()))
        return Table(
            title="Training against the closed form",
            columns=("method", "steps", "gap", "angle", "|cos|", "|R - P|", "MF gap", "R is"),
            rows=rows,
            note=(f"best of {restarts} restarts; " if restarts > 1 else "")
            + "gaps in nats per row, angle in radians, MF gap: what a diagonal posterior would lose",
        )

    def _spectrum(self) -> Bars:
        values, tau = self.spectrum.values, self.solution.tau
        count = min(len(values), max(self.solution.d + 4, 8), MOST_BARS)
        return Bars(
            title="Eigenvalues of the covariance",
            labels=[f"z{i}" if i < self.solution.d else str(i + 1) for i in range(count)],
            values=[float(v) for v in values[:count]],
            mark=tau,
            mark_label="collapse threshold beta sigma^2",
            note=f"{count} of {self.spectrum.m}" if count < self.spectrum.m else "",
        )

    def _learning(self) -> Curves | None:
        if not self.certificates:
            return None
        x = sorted({step for c in self.certificates for step, _ in c.run.trace})
        if len(x) < 2:
            return None
        thin = [x[k] for k in np.unique(np.linspace(0, len(x) - 1, 200).astype(int))]
        ys: dict[str, list[float | None]] = {}
        for c in self.certificates:
            steps, gaps = zip(*c.run.trace, strict=True)
            logs = np.log(np.maximum(gaps, 1e-16))
            ys[c.run.method] = [
                float(np.exp(np.interp(at, steps, logs))) if steps[0] <= at <= steps[-1] else None
                for at in thin
            ]
        return Curves(
            title="Learning curves", x=thin, ys=ys, x_label="step", y_label="gap (nats per row)", log_y=True
        )

    def _images(self) -> Svg | None:
        shape = tuple(k for k in self.row_shape if k != 1)
        active = np.flatnonzero(self.solution.active)[:20]
        if len(self.row_shape) < 2 or len(shape) != 2 or not len(active):
            return None
        side = 72
        cells = []
        for k, i in enumerate(active):
            x, y = (k % 8) * (side + 6), (k // 8) * (side + 20)
            pixels = png(signed_image(self.solution.vectors[:, i].reshape(shape)))
            uri = f"data:image/png;base64,{base64.b64encode(pixels).decode()}"
            cells.append(
                f'<image x="{x}" y="{y}" width="{side}" height="{side}" href="{uri}" '
                'style="image-rendering:pixelated"/>'
                f'<text x="{x}" y="{y + side + 12}" font-size="10">z{i}</text>'
            )
        width, height = 8 * (side + 6), (1 + (len(active) - 1) // 8) * (side + 20)
        return Svg(
            title="Columns as images",
            svg=f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img">{"".join(cells)}</svg>',
            alt="Columns of the decoder as images (blue negative, red positive): in HTML, or with --plot.",
        )


def dimension_table(choice: Choice) -> Table:
    """Return what each criterion says about the number of latents."""
    names = {"minka": "Minka's evidence", "bic": "BIC", "held-out": "held-out likelihood"}
    rows: list[list[Value]] = []
    for key, name in names.items():
        best = choice.best(key)  # type: ignore[arg-type]
        rows.append([name, "undefined" if best is None else best, "chosen" if key == choice.by else ""])
    return Table(
        title="How many latents",
        columns=("criterion", "d", ""),
        rows=rows,
        note=f"chosen by {choice.reason}; candidates 1 to {int(choice.candidates[-1])}",
    )


def _run_details(c: Certificate, gaps: tuple[float, ...]) -> dict[str, Any]:
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
        "rotation_distance": c.rotation_distance,
        "mean_field_gap": c.mean_field_gap,
        "kl": c.kl.tolist(),
        "verdict": c.verdict,
        "sentence": c.sentence,
        "trace": [[step, gap] for step, gap in run.trace],
    }


def _finite(values: Array) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in values]
