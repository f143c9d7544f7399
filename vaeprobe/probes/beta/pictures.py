"""The pictures of `beta`: its tables and its curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vaeprobe.report import Curves, Json, Metric, Section, Table

WAYS = (
    ("variances, exact (the estimate)", "beta.estimate"),
    ("variances, Gauss-Newton", "beta.gauss_newton"),
    ("means", "beta.mean_identity"),
)
RULES = ("kl", "means", "columns", "precision")


def sections(
    metrics: Mapping[str, Metric],
    latents: Sequence[Json],
    overlaps: Mapping[float, float],
    meaning: str,
) -> tuple[Section, ...]:
    """Return the ways to beta, the latents, and the overlap as beta changes.

    Args:
        metrics: by id.
        latents: a row per latent (`BetaResult.latent_rows`).
        overlaps: mean overlap of nearest posteriors at each factor times beta.
        meaning: what the beta says about Var[x|z].
    """
    curve = Curves(
        title="Overlap of nearest posteriors as beta changes, decoder held fixed",
        x=list(overlaps),
        ys={"overlap": list(overlaps.values())},
        x_label="times the present beta",
        y_label="Bhattacharyya",
        log_x=True,
    )
    return (_ways(metrics, meaning), _latents(latents), *([curve] if overlaps else []))


def _interval(ci: Sequence[float] | None) -> str | None:
    return f"{ci[0]:.3g} .. {ci[1]:.3g}" if ci else None


def _ways(metrics: Mapping[str, Metric], meaning: str) -> Table:
    return Table(
        title="beta by three identities of the optimum",
        columns=("from", "beta", "95% CI"),
        rows=[
            [name, value, _interval(metrics[id].ci)]
            for name, id in WAYS
            if isinstance(value := metrics[id].value, (float, type(None)))
        ],
        note=meaning,
    )


def _rules(met: Sequence[str]) -> str:
    return "all four" if len(met) == len(RULES) else " ".join(met) or "none"


def _latents(rows: Sequence[Json]) -> Table:
    return Table(
        title="Latents",
        columns=("latent", "KL", "Sigma", "E z^2", "beta", "95% CI", "collapses at", "active by"),
        rows=[
            [
                r["latent"], r["kl"], r["variance"], r["mean_square"], r["beta"], _interval(r["beta_ci"]), r["collapses_at"],
                _rules([rule for rule in RULES if r[f"by_{rule}"]]),
            ]
            for r in rows
        ],
        note="E z^2: mean of e^2 + Sigma, 1 where codes fill the prior; collapses at: the beta at which linear theory ends "
        "this latent, beta / Sigma (Corollary 3.1)",
    )  # fmt: skip
