"""The pictures of `train-linear`: columns, certificates, spectrum, learning curves; and all of it drawn by matplotlib."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaeprobe.errors import MissingExtraError, UsageError
from vaeprobe.report import Bars, Curves, Section, Svg, Table, Value
from vaeprobe.writing import write

if TYPE_CHECKING:
    from vaeprobe.linear.certificate import Certificate
    from vaeprobe.linear.closed_form import Solution
    from vaeprobe.linear.dimension import DimensionScores
    from vaeprobe.linear.eigenpairs import Spectrum
    from vaeprobe.linear.identifiability import Identifiability
    from vaeprobe.probes.train_linear.numbers import Equivalence, LinearFit

SUFFIXES = (".png", ".svg", ".pdf")  # what `draw` writes
MOST_COLUMNS = 30  # rows of the table of columns
MOST_BARS = 24
ENDINGS = {
    "optimum on the axes": "on axes",
    "optimum, rotated": "rotated",
    "optimum, tied block": "in a tie",
    "not converged": "unfinished",
}


def sections(fit: LinearFit) -> tuple[Section, ...]:
    """Return the tables and pictures of a fit, most important first."""
    parts: list[Section | None] = [
        _columns(fit.solution, fit.identifiability),
        _certificates(fit.certificates, fit.gaps),
        _spectrum(fit.spectrum, fit.solution),
        _learning(fit.certificates),
        None if fit.choice is None else _dimension(fit.choice),
        None if fit.equivalence is None else _theorem3(fit.equivalence),
        _images(fit.solution, fit.row_shape),
    ]
    return tuple(p for p in parts if p is not None)


def _columns(s: Solution, ident: Identifiability) -> Table:
    blocks = {i: (a, b) for a, b in ident.blocks for i in range(a, b + 1)}
    rows: list[list[Value]] = []
    for i in range(min(s.d, MOST_COLUMNS)):
        low, high = ident.intervals[i]
        if not s.active[i]:
            status = "collapsed"
        elif i in blocks:
            a, b = blocks[i]
            reaches = b >= s.d or not s.active[b]
            status = "not from the rest" if reaches else f"only in block z{a} to z{b}"
        elif i in ident.loose:
            status = "no: it turns"
        else:
            status = "yes"
        angle = None if ident.angles is None else math.degrees(ident.angles[i])
        rows.append(
            [
                f"z{i}",
                float(s.values[i]),
                f"{low:.3g} - {high:.3g}",
                math.sqrt(s.square_norms[i]),
                float(s.kl[i]),
                status,
                angle,
            ]
        )
    notes = [] if s.d <= MOST_COLUMNS else [f"the first {MOST_COLUMNS} of {s.d} columns"]
    notes.append("95 %: of normal rows; those of long tails leave lambda less certain")
    if ident.angles is not None:
        notes.append("angle: 95 % of bootstrap resamples turn the column by less (degrees)")
    return Table(
        title="Columns of the decoder, closed form",
        columns=("#", "lambda", "95 %", "norm", "KL", "identified", "angle"),
        rows=rows,
        note="; ".join(notes),
    )


def _certificates(certificates: Sequence[Certificate], gaps: Mapping[str, Sequence[float]]) -> Table | None:
    if not certificates:
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
        for c in certificates
    ]
    restarts = max(map(len, gaps.values()))
    return Table(
        title="Training against the closed form",
        columns=("method", "steps", "gap", "angle", "|cos|", "|R - P|", "MF gap", "R is"),
        rows=rows,
        note=(f"best of {restarts} restarts; " if restarts > 1 else "")
        + "gaps in nats per row, angle in radians, MF gap: what a diagonal posterior would lose",
    )


def _spectrum(spectrum: Spectrum, solution: Solution) -> Bars:
    values = spectrum.values
    count = min(len(values), max(solution.d + 4, 8), MOST_BARS)
    return Bars(
        title="Eigenvalues of the covariance",
        labels=[f"z{i}" if i < solution.d else str(i + 1) for i in range(count)],
        values=[float(v) for v in values[:count]],
        mark=solution.tau,
        mark_label="collapse threshold beta sigma^2",
        note=f"{count} of {spectrum.m}" if count < spectrum.m else "",
    )


def _learning(certificates: Sequence[Certificate]) -> Curves | None:
    import numpy as np

    if not certificates:
        return None
    x = sorted({step for c in certificates for step, _ in c.run.trace})
    if len(x) < 2:
        return None
    thin = [x[k] for k in np.unique(np.linspace(0, len(x) - 1, 200).astype(int))]
    ys: dict[str, list[float | None]] = {}
    for c in certificates:
        steps, gaps = zip(*c.run.trace, strict=True)
        logs = np.log(np.maximum(gaps, 1e-16))
        ys[c.run.method] = [
            float(np.exp(np.interp(at, steps, logs))) if steps[0] <= at <= steps[-1] else None for at in thin
        ]
    return Curves(
        title="Learning curves", x=thin, ys=ys, x_label="step", y_label="gap (nats per row)", log_y=True
    )


def _dimension(choice: DimensionScores) -> Table:
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


def _theorem3(e: Equivalence) -> Table:
    rows: list[list[Value]] = [
        ["fixed sigma^2: columns, largest relative difference", e.column_difference],
        ["fixed sigma^2: KL_i, largest difference (nats)", e.kl_difference],
        ["fixed sigma^2: objective lost by the other solution (nats)", e.objective_difference],
    ]
    if e.learned is not None and e.learned_active is not None:
        at_beta, tau, at_one = e.learned
        rows += [
            [f"learned: sigma^2 at beta {e.beta:g}", at_beta],
            [f"learned: beta sigma^2 at beta {e.beta:g}", tau],
            ["learned: sigma^2 at beta 1", at_one],
            [
                "learned: active latents at beta, at 1",
                f"{e.learned_active[0]}, {e.learned_active[1]}",
            ],
        ]
    return Table(
        title=f"Theorem 3: (beta {e.beta:g}, sigma^2 {e.sigma2:.4g}) against (1, {e.beta * e.sigma2:.4g})",
        columns=("quantity", "value"),
        rows=rows,
        note="The same solution while sigma^2 is fixed; not when it is learned, for the normaliser is scaled too.",
    )


def _images(solution: Solution, row_shape: tuple[int, ...]) -> Svg | None:
    import numpy as np

    from vaeprobe.pictures import png, signed_image

    shape = tuple(k for k in row_shape if k != 1)
    active = np.flatnonzero(solution.active)[:20]
    if len(row_shape) < 2 or len(shape) != 2 or not len(active):
        return None
    side = 72
    cells = []
    for k, i in enumerate(active):
        x, y = (k % 8) * (side + 6), (k // 8) * (side + 20)
        pixels = png(signed_image(solution.vectors[:, i].reshape(shape)))
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


def ready(path: Path) -> tuple[Any, Any]:
    """Return what a picture is drawn with, before any work.

    Returns:
        Matplotlib's figure and its canvas.

    Raises:
        MissingExtraError: matplotlib is not installed.
        UsageError: the suffix names no picture format.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"the name `{path}` says no picture format",
            hint=f"name a file that ends in {' or '.join(SUFFIXES)}",
        )
    try:
        figure = import_module("matplotlib.figure").Figure
        return figure, import_module("matplotlib.backends.backend_agg").FigureCanvasAgg
    except ImportError:
        raise MissingExtraError("--plot needs matplotlib", hint="pip install 'vaeprobe[plot]'") from None


def draw(fit: LinearFit, path: Path) -> None:
    """Write the picture of a fit.

    Raises:
        MissingExtraError: matplotlib is not installed.
        UsageError: the suffix names no picture format.
    """
    import numpy as np

    from vaeprobe.pictures import signed_image

    Figure, FigureCanvas = ready(path)

    solution, certificates = fit.solution, fit.certificates
    shape = tuple(k for k in fit.row_shape if k != 1)
    pictured = len(shape) == 2 and len(fit.row_shape) > 1
    images = np.flatnonzero(solution.active)[:12].tolist() if pictured else []
    figure = Figure(figsize=(10, 3.6 + (1.8 if len(images) else 0)), layout="constrained")
    FigureCanvas(figure)
    grid = figure.add_gridspec(2 if len(images) else 1, 12, height_ratios=[2, 1] if len(images) else [1])

    axis = figure.add_subplot(grid[0, :6] if certificates else grid[0, :])
    values = fit.spectrum.values[: max(4 * solution.d, 40)]
    axis.semilogy(np.arange(1, len(values) + 1), np.maximum(values, 1e-300), "o-", markersize=3)
    axis.axhline(solution.tau, linestyle="--", color="tab:red", label="collapse threshold βσ²")
    axis.axvline(solution.d + 0.5, linestyle=":", color="gray", label="latent dimension")
    lowest = min(float(values[-1]), solution.tau)
    axis.set_ylim(bottom=max(lowest / 2, float(values[0]) * 1e-8))
    axis.set(xlabel="index", ylabel="eigenvalue", title="Spectrum")
    axis.legend(fontsize="small")
    if certificates:
        axis = figure.add_subplot(grid[0, 6:])
        for c in certificates:
            steps, gaps = zip(*c.run.trace, strict=True)
            axis.loglog(np.maximum(steps, 1), np.maximum(gaps, 1e-16), label=c.run.method)
        axis.set(xlabel="step", ylabel="gap to the optimum (nats per row)", title="Learning curves")
        axis.legend(fontsize="small")
    for k, i in enumerate(images):
        axis = figure.add_subplot(grid[1, k])
        axis.imshow(signed_image(solution.vectors[:, i].reshape(shape)), interpolation="nearest")
        axis.set_title(f"z{i}", fontsize="small")
        axis.axis("off")
    write(path, lambda place: figure.savefig(place, dpi=150))
