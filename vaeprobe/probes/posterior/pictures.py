"""The pictures of `posterior`: precisions per latent, the ELBO's terms, the averaged Hessian."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vaeprobe.report import Heatmap, Histogram, Json, Section, Table

if TYPE_CHECKING:
    from torch import Tensor

    from vaeprobe.geometry.rotations import Alignment
    from vaeprobe.inference.elbo import ElboTerms


def sections(
    latents: Sequence[Json],
    terms: ElboTerms,
    beta: float,
    gram: Tensor,
    alignment: Alignment | None,
) -> tuple[Section, ...]:
    """Return the latents, the ELBO term by term, and the Hessian where two latents are active.

    Args:
        latents: a row per latent (`PosteriorResult.latent_rows`).
        gram: E_q[G] of each data row, shape (n, k, k).
        alignment: of the averaged Hessian over active latents, None for fewer than two.
    """
    return (_latents(latents), _elbo(terms, beta), *_heatmap(latents, gram), *_chance(alignment))


def _latents(rows: Sequence[Json]) -> Table:
    return Table(
        title="Posterior precision per latent, means over the data",
        columns=("latent", "KL", "1/Sigma", "1+GN/b", "1+Stein/b", "ratio", "95% CI", "rows' spread"),
        rows=[
            [
                f"{r['latent']}{'' if r['active'] else ' (collapsed)'}",
                r["kl"], r["precision"], r["gauss_newton"], r["stein"], r["ratio"],
                f"{r['ratio_ci'][0]:.3f} .. {r['ratio_ci'][1]:.3f}", r["spread"],
            ]
            for r in rows
        ],
        note="ratio: mean of Sigma_ii (1 + Stein/b), 1 at the optimum; spread: rms over rows of "
        "log(Sigma_ii / its own optimum)",
    )  # fmt: skip


def _elbo(t: ElboTerms, beta: float) -> Table:
    terms = [
        ("log p(x | e(x))", t.reconstruction_at_mean),
        ("- 1/2 tr(G Sigma)", t.noise_cost),
        ("- KL", -t.kl),
        ("det-ELBO (Eq. 5)", t.deterministic()),
        ("remainder", t.remainder),
        ("ELBO (Eq. 1)", t.value()),
        ("beta-ELBO", t.value(beta)),
    ]
    return Table(
        title="ELBO, nats per row",
        columns=("term", "mean", "sd over rows"),
        rows=[[name, float(v.mean()), float(v.std())] for name, v in terms],
    )


def _heatmap(latents: Sequence[Json], gram: Tensor) -> tuple[Section, ...]:
    from vaeprobe.geometry.gram import column_cosines

    kept = [i for i, row in enumerate(latents) if row["active"]]
    if len(kept) < 2:
        return ()
    cosines = column_cosines(gram[:, kept][:, :, kept]).abs().mean(0)
    labels = [latents[i]["latent"] for i in kept]
    return (
        Heatmap(
            title="Posterior-averaged Hessian: mean |H_ij| / sqrt(H_ii H_jj)",
            matrix=cosines.tolist(),
            row_labels=labels,
            column_labels=labels,
            diagonal=False,
        ),
    )


def _chance(found: Alignment | None) -> tuple[Section, ...]:
    """Return how far the precision at the optimum is from diagonal under random rotations, the axes marked."""
    if found is None or len(found.draws) < 2:
        return ()
    return (
        Histogram(
            title=f"Contrast of 1 + H / beta under {len(found.draws)} random rotations of the active latents",
            draws=found.draws.tolist(),
            marks={"these axes": float(found.contrast.mean())},
            x_label="contrast (nats)",
        ),
    )
