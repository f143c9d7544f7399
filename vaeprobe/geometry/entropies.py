"""Latents in nats: entropies along the seams, dependence of pairs of columns, and how far J is from an isometry.

Every function takes G of shape (n, k, k) with columns that have a length, or singular values of J.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.geometry.gram import column_cosines, column_norms

__all__ = ["isometry_defect", "pairs_of", "pairwise_information", "seam_entropies", "shared_information"]


def seam_entropies(G: Tensor) -> Tensor:
    """Return log n_i + 1/2 log(2 pi e) in nats, shape (n, k), whose mean over z ~ N(0, I) is H_i.

    H_i is the entropy, along the seam of latent i, of what that latent alone does to the output: that of a standard
    normal, and log n_i for the stretching.

    Source: Galperin and Koethe (2025), arXiv:2410.19426.
    """
    return column_norms(G).log() + 0.5 * math.log(2 * math.pi * math.e)


def pairwise_information(G: Tensor) -> Tensor:
    """Return -1/2 log(1 - C_ij^2) in nats of pairs i < j, shape (n, k (k - 1) / 2); inf for collinear columns.

    The mutual information of two normal variables of correlation C_ij; for two latents, their ima contrast.

    Source: Galperin and Koethe (2025), arXiv:2410.19426.
    """
    return shared_information(pairs_of(column_cosines(G)))


def pairs_of(C: Tensor) -> Tensor:
    """Return the entries i < j of square matrices, (n, k, k), shape (n, k (k - 1) / 2)."""
    i, j = cpu.triu_indices(C.shape[-1], C.shape[-1], 1)
    return C[:, i, j]


def shared_information(cosines: Tensor) -> Tensor:
    """Return -1/2 log(1 - cos^2) in nats."""
    return -0.5 * torch.log1p(-cosines.square())


def isometry_defect(s: Tensor) -> tuple[float, Tensor]:
    """Return how far J is from a scaled isometry, in [0, 1), and what each latent moves it by.

    min over c > 0 and orthonormal Q(z) of E |J - c Q|_F^2 / E |J|_F^2.  The best Q(z) is J's polar factor and the
    best c = E sum_i s_i / k, which leaves 1 - (E sum_i s_i)^2 / (k E sum_i s_i^2).

    Args:
        s: singular values of J, shape (n, k), not all zero.

    Returns:
        the defect, and the defect plus each latent's influence on it to first order, shape (n,), whose mean it is.

    Source: Horan et al. (2021); arXiv:2503.15355.
    """
    first, second = s.sum(1), s.square().sum(1)
    a, b, k = first.mean(), second.mean(), s.shape[1]
    kept = a**2 / (k * b)
    influence = kept * ((second - b) / b - 2 * (first - a) / a)
    return float(1 - kept), 1 - kept + influence
