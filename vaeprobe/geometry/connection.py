"""How curved seams bend, and what that does to the density along them: pure maths on G and its derivatives.

A decoder's seams are the integral curves of the right singular vectors v_i(z) of its Jacobian, the
eigenvectors of G = J^T J.  Whether the density factorises along curved seams is decided by derivatives of
the v_i alone (Allen 2024, arXiv:2410.22559v1, Section 4.1.3, cases 1 and 2).  Write e_a for the frame of
singular vectors, E_A for the span of a block of equal singular values (a single vector where they are
distinct), and A for both a block and the coordinates along it.

- The latent volume of block C grows along a direction v outside E_C by `alpha_C(v) = -<H_C, v>`, with H_C
  the trace over j in C of the bending grad_{e_j} e_j.
- The log density of the seam coordinates is log p(z) + sum_C log vol_C, with log p(z) = -|z|^2 / 2.  Its
  mixed derivative in a direction e_a of A and e_b of another block B is, with
  `omega_A = d log p + sum_{C != A} alpha_C`,
      M_ab = e_b(omega_A(e_a)) - omega_A(pr_A [e_b, e_a]) + e_a(alpha_A(e_b)) - alpha_A(pr_B [e_a, e_b]),
  which does not depend on the frame chosen inside a block.  With all blocks of size one it is the M_ij of
  pairs of seams.  The seams are statistically independent iff M = 0.
- The density factor of block A in data space depends on its own coordinates alone iff
  `e_b(sum_{i in A} log s_i) + alpha_A(e_b) = 0` for every e_b outside it.
- Both presuppose that the seams form coordinates: brackets [e_a, e_b] stay in E_A + E_B (always for k = 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SeamConnection", "frame_expansion", "seam_connection"]


@dataclass(frozen=True, eq=False)
class SeamConnection:
    """What the derivatives of the singular frame say at each latent.

    Each `*_scale` is the same sum with absolute values: what a zero is measured against.

    Attributes:
        s: singular values, shape (n, k), descending.
        V: singular vectors as columns, shape (n, k, k).
        same: which pairs of singular values are tied, shape (n, k, k), bool, the diagonal included.
        bending: (n, k, k), entry [i, j] is the rate `v_i(log h_j)` at which the latent length of a unit of
            seam coordinate j changes along seam i; 0 inside blocks.
        mixed: M, shape (n, k, k); 0 inside blocks.
        mixed_scale: shape (n, k, k).
        modulation: (n, k, k), entry [i, j] is the rate at which the density factor of the block of seam i
            changes along seam j; 0 inside blocks.
        modulation_scale: shape (n, k, k).
        twist: length of the part of [e_a, e_b] outside E_A + E_B, shape (n, k, k).
        noise: relative rounding error of M, shape (n,): rounding times (largest s^2 / smallest gap)^2.
    """

    s: Tensor
    V: Tensor
    same: Tensor
    bending: Tensor
    mixed: Tensor
    mixed_scale: Tensor
    modulation: Tensor
    modulation_scale: Tensor
    twist: Tensor
    noise: Tensor


def tied_blocks(values: Tensor, tolerance: float) -> Tensor:
    """Return which eigenvalues are equal within a relative tolerance, shape (n, k, k), bool.

    Args:
        values: shape (n, k), descending; chains of near neighbours make one block.
        tolerance: relative to the larger of two neighbours.
    """
    apart = values[:, :-1] - values[:, 1:] > tolerance * values[:, :-1].abs()
    start = torch.zeros_like(values[:, :1], dtype=torch.long)
    label = torch.cat([start, apart.long().cumsum(-1)], dim=1)
    return label[:, :, None] == label[:, None, :]


def frame_expansion(values: Tensor, first: Tensor, second: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and second derivatives of the frame that block-diagonalises G near z.

    In the frame at z, G = diag(values) + sum_l first_l d_l + 1/2 sum_lm second_lm d_l d_m for a step d
    along the frame's own vectors.  The frame E(d) = exp(X(d)) with X antisymmetric and zero inside blocks
    makes E^T G E block diagonal; X follows from perturbation theory to second order.

    Args:
        values: eigenvalues, shape (n, k).
        first: shape (n, l, k, k).
        second: shape (n, l, m, k, k).
        same: tied pairs, shape (n, k, k).

    Returns:
        D1, shape (n, l, k, k), and D2, shape (n, l, m, k, k): entry [.., c, a] is the component along e_c of
        the derivative of e_a.
    """
    gap = values[:, None, :] - values[:, :, None]
    inverse = torch.where(same, torch.zeros_like(gap), 1 / torch.where(same, torch.ones_like(gap), gap))
    X1 = first * inverse[:, None]
    half_off = first - 0.5 * first * ~same[:, None]
    cross = torch.einsum("nlij,nmjk->nlmik", half_off, X1) - torch.einsum("nmij,nljk->nlmik", X1, half_off)
    X2 = inverse[:, None, None] * (second + cross + cross.transpose(1, 2))
    square = torch.einsum("nlij,nmjk->nlmik", X1, X1)
    return X1, X2 + 0.5 * (square + square.transpose(1, 2))


def seam_connection(
    z: Tensor,
    G: Tensor,
    dG: Tensor,
    ddG: Tensor,
    *,
    tie: float = 1e-9,
    rounding: float = 2.0**-52,
) -> SeamConnection:
    """Return bending, M, curved C2 and twist of the seams at each latent.

    Args:
        z: latents, shape (n, k), float64, under the prior N(0, I).
        G: pullback metric, shape (n, k, k), float64, nonsingular.
        dG: dG/dz_l, shape (n, l, k, k).
        ddG: d2G/dz_l dz_m, shape (n, l, m, k, k).
        tie: relative distance of eigenvalues of G under which they count as one.
        rounding: of the arithmetic that computed G.

    Source: Allen (2024), arXiv:2410.22559v1, Section 4.1.3; the formulas are derived in this module's
    docstring and held against parabolic, polar and spherical coordinates.
    """
    ascending, U = torch.linalg.eigh(G)
    values, V = ascending.flip(-1), U.flip(-1)
    same = tied_blocks(values, tie)
    rotate = torch.einsum("nlij,nip,njq,nlr->nrpq", dG, V, V, V)
    rotate2 = torch.einsum("nlmij,nip,njq,nlr,nms->nrspq", ddG, V, V, V, V)
    D1, D2 = frame_expansion(values, rotate, rotate2, same)
    zeta = torch.einsum("nij,ni->nj", V, z)

    mixed, mixed_scale = _mixed(zeta, D1, D2, same)
    # bending A[a, j] = -<grad_{e_j} e_j, e_a>
    bending = -torch.einsum("njaj->naj", D1)
    growth = torch.einsum("nbii->nib", rotate) / (2 * values[:, :, None])
    inside, outside = same.to(G.dtype), (~same).to(G.dtype)
    modulation = torch.einsum("nij,njb->nib", inside, growth + bending.mT) * outside
    modulation_scale = torch.einsum("nij,njb->nib", inside, growth.abs() + bending.mT.abs()) * outside

    # [e_a, e_b]_c, as [a, c, b], for c in neither block
    bracket = (D1 - D1.transpose(1, 3)) * outside[:, :, :, None] * outside.mT[:, None]
    twist = bracket.square().sum(2).sqrt()

    gap = (values[:, :-1] - values[:, 1:]).abs()
    apart = ~same.diagonal(offset=1, dim1=-2, dim2=-1)
    nearest = torch.where(apart, gap, values[:, :1]).amin(-1)
    noise = rounding * (values[:, 0] / nearest).square()
    return SeamConnection(
        s=values.clamp_min(0).sqrt(),
        V=V,
        same=same,
        bending=bending,
        mixed=mixed,
        mixed_scale=mixed_scale,
        modulation=modulation,
        modulation_scale=modulation_scale,
        twist=twist,
        noise=noise,
    )


def _mixed(zeta: Tensor, D1: Tensor, D2: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """Return M and the sum of the absolute values of its terms, both (n, a, b)."""
    inside, outside = same.to(D1.dtype), (~same).to(D1.dtype)
    bend = -torch.einsum("njaj->naj", D1)  # alpha_j(e_a)
    omega = -zeta + bend.sum(-1)  # bend is 0 inside a block
    omega_scale = zeta.abs() + bend.abs().sum(-1)

    # change[b, a, j]: derivative along e_b of the field alpha_j(e_a) = -<grad_{e_j} e_j, e_a>
    parts = [
        torch.einsum("nbjaj->nbaj", D2),
        torch.einsum("nblj,nlaj->nbaj", D1, D1),
        torch.einsum("njcj,nbca->nbaj", D1, D1),
    ]
    change = -(parts[0] + parts[1] + parts[2])
    change_scale = parts[0].abs() + parts[1].abs() + parts[2].abs()

    def assemble(
        zeta: Tensor, D1: Tensor, omega: Tensor, change: Tensor, bend: Tensor, sign: float
    ) -> Tensor:
        return (
            # e_b(omega_A(e_a)); -e_b . e_a is 0 between blocks
            sign * torch.einsum("nc,nbca->nab", zeta, D1)
            + torch.einsum("nbaj,naj->nab", change, outside)
            # -omega_A(pr_A [e_b, e_a])
            + torch.einsum("nacb,nac,nc->nab", D1, inside, omega)
            # e_a(alpha_A(e_b)) - alpha_A(pr_B [e_a, e_b])
            + torch.einsum("nabj,naj->nab", change, inside)
            + torch.einsum("nbca,nbc,ncj,naj->nab", D1, inside, bend, inside)
        )

    M = assemble(zeta, D1, omega, change, bend, -1.0)
    scale = assemble(zeta.abs(), D1.abs(), omega_scale, change_scale, bend.abs(), 1.0)
    return M * outside, scale * outside
