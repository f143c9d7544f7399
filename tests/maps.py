"""Maps whose geometry is known in closed form: the truth that every probe is held against.

Each map is f = E phi(z) with E an (m, k) matrix of orthonormal columns, so that the pullback metric of f is
that of phi.  The letters are those of the theory: `a` linear, `b*` independent seams, `c*` orthogonal columns
with dependent seams, `d` (`rotated`) one of them in a rotated basis, `e` entangled, `f_*` rank-deficient, `g`
and `parabolic` curved seams.  `direct_sum` puts maps side by side, for the two-dimensional ones at larger d.

    from maps import a, b1, decoder
    measured = Orthogonality(samples=64).measure(decoder(b1(d=3)))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from vaeprobe.decoder import Decoder

Verdict = Literal[
    "linear",
    "independent seams",
    "orthogonal but dependent seams",
    "rotated",
    "entangled",
    "curved seams",
    "undefined",
]
Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False, kw_only=True)
class ExactMap:
    """A map with known pullback metric.

    Attributes:
        name: letter and parameters.
        latent_dim: d.
        data_dim: m.
        f: (n, d) -> (n, m), any floating dtype.
        gram: (n, d) -> G, (n, d, d), float64.
        verdict: what the map is, in the words of `factorise`.
        contrast: (n, d) -> ima contrast in nats, (n,); None where it is undefined (rank-deficient).
        orthogonal: C1, the columns of J are orthogonal at every z; None where undefined.
        own: C2, the length of column i depends on z_i alone; None where undefined.
        tied: singular values coincide at every z, so V is arbitrary.
        relu: piecewise linear; derivatives of J vanish almost everywhere.
        rotation: R of a map f(R z) whose base is orthogonal.
        cross: known cross_i = sqrt(E Var(log n_i | z_i)) under z ~ N(0, I), per latent.
    """

    name: str
    latent_dim: int
    data_dim: int
    f: Map
    gram: Map
    verdict: Verdict
    contrast: Map | None = None
    orthogonal: bool | None = None
    own: bool | None = None
    tied: bool = False
    relu: bool = False
    rotation: Tensor | None = None
    cross: tuple[float, ...] | None = None

    def norms(self, z: Tensor) -> Tensor:
        """Return the column lengths n_i, (n, d)."""
        return self.gram(z).diagonal(dim1=-2, dim2=-1).sqrt()

    def __repr__(self) -> str:  # pytest ids
        return self.name


def decoder(map: ExactMap, *, dtype: torch.dtype = torch.float64, **settings: object) -> Decoder:
    """Return a map as a `vaeprobe.Decoder` in float64."""
    from vaeprobe.decoder import Decoder

    return Decoder(map.f, map.latent_dim, dtype=dtype, name=map.name, **settings)  # type: ignore[arg-type]


# -- pieces -------------------------------------------------------------------------------------


def frame(m: int, k: int, seed: int = 0) -> Tensor:
    """Return E, (m, k), orthonormal columns, Haar distributed."""
    if m < k:
        raise ValueError(f"{k} orthonormal columns need at least {k} rows, not {m}")
    draw = np.random.Generator(np.random.Philox([seed, m, k])).standard_normal((m, k))
    Q, T = np.linalg.qr(draw)
    return torch.from_numpy(np.ascontiguousarray(Q * np.sign(np.diag(T))))


def haar(d: int, seed: int = 0) -> Tensor:
    """Return R, (d, d), orthogonal, Haar distributed."""
    return frame(d, d, seed=seed + 1000)


def embedded(phi: Map, k: int, m: int | None, seed: int) -> tuple[Map, int]:
    """Return E phi and its data dimension; m = None takes k + 3."""
    m = k + 3 if m is None else m
    E = frame(m, k, seed)
    return lambda z: phi(z) @ E.to(device=z.device, dtype=z.dtype).T, m


def spread(d: int, low: float, high: float) -> Tensor:
    """Return d distinct values from low to high in geometric steps, the middle one for d = 1."""
    if d == 1:
        return torch.tensor([math.sqrt(low * high)], dtype=torch.float64)
    return torch.logspace(math.log10(low), math.log10(high), d, dtype=torch.float64)


def _like(values: Tensor, z: Tensor) -> Tensor:
    return values.to(device=z.device, dtype=z.dtype)


def _zero(z: Tensor) -> Tensor:
    return torch.zeros(len(z), dtype=torch.float64)


def _diagonal(norms: Map) -> Map:
    return lambda z: torch.diag_embed(norms(z.double()).square())


def _contrast_of(gram: Map) -> Map:
    """Return the contrast by its definition, from a known nonsingular G."""

    def contrast(z: Tensor) -> Tensor:
        G = gram(z)
        return 0.5 * (G.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.linalg.slogdet(G)[1])

    return contrast


# -- a, b: independent seams --------------------------------------------------------------------


def a(d: int = 3, m: int | None = None, *, scales: Tensor | None = None, seed: int = 0) -> ExactMap:
    """s_i z_i: linear with orthogonal columns."""
    s = spread(d, 0.5, 2.0) if scales is None else scales.double()
    f, m = embedded(lambda z: z * _like(s, z), d, m, seed)
    return ExactMap(
        name=f"a(d={d}, m={m})",
        latent_dim=d,
        data_dim=m,
        f=f,
        gram=_diagonal(lambda z: s.expand_as(z)),
        verdict="linear",
        contrast=_zero,
        orthogonal=True,
        own=True,
        tied=d > 1 and len(torch.unique(s)) == 1,
        cross=(0.0,) * d,
    )


def b1(d: int = 3, m: int | None = None, *, seed: int = 0) -> ExactMap:
    """a_i sinh(b_i z_i) / b_i: each latent warps its own straight line."""
    A, B = spread(d, 0.6, 1.8), spread(d, 0.4, 0.9).flip(0)
    f, m = embedded(lambda z: _like(A, z) * torch.sinh(_like(B, z) * z) / _like(B, z), d, m, seed)
    return ExactMap(
        name=f"b1(d={d}, m={m})",
        latent_dim=d,
        data_dim=m,
        f=f,
        gram=_diagonal(lambda z: A * torch.cosh(B * z)),
        verdict="independent seams",
        contrast=_zero,
        orthogonal=True,
        own=True,
        cross=(0.0,) * d,
    )


def b2(d: int = 2, m: int | None = None, *, seed: int = 0) -> ExactMap:
    """c_i e^{a_i z_i} (cos w_i z_i, sin w_i z_i): seams are spirals in data space."""
    A, W, C = spread(d, 0.2, 0.5), spread(d, 0.7, 1.6), spread(d, 0.5, 1.5).flip(0)

    def phi(z: Tensor) -> Tensor:
        r = _like(C, z) * torch.exp(_like(A, z) * z)
        return torch.cat([r * torch.cos(_like(W, z) * z), r * torch.sin(_like(W, z) * z)], dim=1)

    f, m = embedded(phi, 2 * d, m, seed)
    return ExactMap(
        name=f"b2(d={d}, m={m})",
        latent_dim=d,
        data_dim=m,
        f=f,
        gram=_diagonal(lambda z: C * torch.exp(A * z) * (A.square() + W.square()).sqrt()),
        verdict="independent seams",
        contrast=_zero,
        orthogonal=True,
        own=True,
        cross=(0.0,) * d,
    )


def b3(m: int | None = None, *, seed: int = 0) -> ExactMap:
    """A warped plane rolled into a cylinder at 45 degrees: mixed second derivatives do not vanish."""
    A, B = torch.tensor([0.8, 1.4], dtype=torch.float64), torch.tensor([0.7, 0.4], dtype=torch.float64)

    def phi(z: Tensor) -> Tensor:
        u = _like(A, z) * torch.sinh(_like(B, z) * z) / _like(B, z)
        p, q = (u[:, 1] + u[:, 0]) / math.sqrt(2), (u[:, 1] - u[:, 0]) / math.sqrt(2)
        return torch.stack([torch.cos(p), torch.sin(p), q], dim=1)

    f, m = embedded(phi, 3, m, seed)
    return ExactMap(
        name=f"b3(m={m})",
        latent_dim=2,
        data_dim=m,
        f=f,
        gram=_diagonal(lambda z: A * torch.cosh(B * z)),
        verdict="independent seams",
        contrast=_zero,
        orthogonal=True,
        own=True,
        cross=(0.0, 0.0),
    )


# -- c: orthogonal columns, dependent seams -----------------------------------------------------


def c1(m: int | None = None, *, k: float = 1.7, seed: int = 0) -> ExactMap:
    """Polar coordinates e^{z_1} (cos k z_2, sin k z_2): log-factor correlation 2/3; k = 1 is tied."""

    def phi(z: Tensor) -> Tensor:
        r = z[:, 0].exp()
        return torch.stack([r * torch.cos(k * z[:, 1]), r * torch.sin(k * z[:, 1])], dim=1)

    f, m = embedded(phi, 2, m, seed)
    scale = torch.tensor([1.0, k], dtype=torch.float64)
    return ExactMap(
        name=f"c1(m={m}, k={k:g})",
        latent_dim=2,
        data_dim=m,
        f=f,
        gram=_diagonal(lambda z: z[:, :1].exp() * scale),
        verdict="orthogonal but dependent seams",
        contrast=_zero,
        orthogonal=True,
        own=False,
        tied=k == 1,
        cross=(0.0, 1.0),
    )


def c2(d: int = 3, m: int | None = None, *, tied: bool = False, seed: int = 0) -> ExactMap:
    """alpha y / |y|^2, y = C z - a: an inversion (a Moebius map); C = I is conformal, hence tied."""
    alpha = 9.0
    C = torch.ones(d, dtype=torch.float64) if tied else spread(d, 0.5, 1.2)
    A = torch.full((d,), 6.0 / math.sqrt(d), dtype=torch.float64)

    def phi(z: Tensor) -> Tensor:
        y = z * _like(C, z) - _like(A, z)
        return alpha * y / y.square().sum(1, keepdim=True)

    f, m = embedded(phi, d, m, seed)
    return ExactMap(
        name=f"c2(d={d}, m={m}, tied={tied})",
        latent_dim=d,
        data_dim=m,
        f=f,
        gram=_diagonal(lambda z: alpha * C / (z * C - A).square().sum(1, keepdim=True)),
        verdict="orthogonal but dependent seams",
        contrast=_zero,
        orthogonal=True,
        own=d == 1,
        tied=tied and d > 1,
    )


def c3(m: int | None = None, *, R: float = 2.0, r: float = 0.7, seed: int = 0) -> ExactMap:
    """A torus of radii R and r."""

    def phi(z: Tensor) -> Tensor:
        w = R + r * torch.cos(z[:, 0])
        return torch.stack([w * torch.cos(z[:, 1]), w * torch.sin(z[:, 1]), r * torch.sin(z[:, 0])], dim=1)

    f, m = embedded(phi, 3, m, seed)
    return ExactMap(
        name=f"c3(m={m})",
        latent_dim=2,
        data_dim=m,
        f=f,
        gram=_diagonal(
            lambda z: torch.stack([torch.full_like(z[:, 0], r), R + r * torch.cos(z[:, 0])], dim=1)
        ),
        verdict="orthogonal but dependent seams",
        contrast=_zero,
        orthogonal=True,
        own=False,
    )


def c4(m: int | None = None, *, seed: int = 0) -> ExactMap:
    """(z, 0) + c relu((z_1 + z_2) / sqrt 2): a folded plane; every derivative of n_i vanishes, yet not C2."""
    first, second = 0.2, -0.9
    third = math.sqrt(-math.sqrt(2) * (first + second) - first**2 - second**2)
    c = torch.tensor([first, second, third], dtype=torch.float64)
    delta = (first - second) / math.sqrt(2)

    def phi(z: Tensor) -> Tensor:
        flat = torch.cat([z, torch.zeros_like(z[:, :1])], dim=1)
        return flat + torch.relu(z.sum(1, keepdim=True) / math.sqrt(2)) * _like(c, z)

    def norms(z: Tensor) -> Tensor:
        folded = torch.tensor([1 + delta, 1 - delta], dtype=torch.float64).sqrt()
        return torch.where(z.sum(1, keepdim=True) > 0, folded, torch.ones(2, dtype=torch.float64))

    f, m = embedded(phi, 3, m, seed)
    # E Var(1[z_1 + z_2 > 0] | z_1) = E Phi(1 - Phi) = 1/6
    cross = tuple(abs(0.5 * math.log(1 + sign * delta)) / math.sqrt(6) for sign in (1, -1))
    return ExactMap(
        name=f"c4(m={m})",
        latent_dim=2,
        data_dim=m,
        f=f,
        gram=_diagonal(norms),
        verdict="orthogonal but dependent seams",
        contrast=_zero,
        orthogonal=True,
        own=False,
        relu=True,
        cross=cross,
    )


# -- d: a map in a rotated basis ----------------------------------------------------------------


def rotated(base: ExactMap, R: Tensor | None = None, *, seed: int = 0) -> ExactMap:
    """f(R z): R^T G(R z) R, not orthogonal, repaired by the one rotation R^T.

    A tied base stays orthogonal (its G is a multiple of I).
    """
    R = haar(base.latent_dim, seed) if R is None else R.double()

    def gram(z: Tensor) -> Tensor:
        return R.T @ base.gram(z.double() @ R.T) @ R

    verdict: Verdict = "rotated" if base.verdict == "independent seams" else base.verdict
    return replace(
        base,
        name=f"rotated {base.name}",
        f=lambda z: base.f(z @ _like(R, z).T),
        gram=gram,
        contrast=None if base.contrast is None else _contrast_of(gram),
        verdict="rotated" if verdict == "orthogonal but dependent seams" else verdict,
        orthogonal=base.tied if base.orthogonal else base.orthogonal,
        own=None,
        rotation=R,
        cross=None,
    )


def d(base: ExactMap | None = None, R: Tensor | None = None, *, seed: int = 0) -> ExactMap:
    """`rotated`, of b1 by default."""
    return rotated(base or b1(), R, seed=seed)


# -- e: entangled -------------------------------------------------------------------------------


def e(d: int = 3, m: int | None = None, *, k: float = 0.8, seed: int = 0) -> ExactMap:
    """a_i z_i + k z_{i-1}^2 / 2: no rotation makes the columns orthogonal (d >= 2)."""
    A = spread(d, 0.7, 1.5)

    def phi(z: Tensor) -> Tensor:
        linear = z * _like(A, z)
        return torch.cat([linear[:, :1], linear[:, 1:] + 0.5 * k * z[:, :-1].square()], dim=1)

    def gram(z: Tensor) -> Tensor:
        z = z.double()
        L = torch.diag_embed(A.expand_as(z)) + torch.diag_embed(k * z[:, :-1], offset=-1)
        return L.mT @ L

    f, m = embedded(phi, d, m, seed)
    return ExactMap(
        name=f"e(d={d}, m={m}, k={k:g})",
        latent_dim=d,
        data_dim=m,
        f=f,
        gram=gram,
        verdict="entangled" if d > 1 else "linear",
        contrast=lambda z: 0.5 * (k**2 * (z.double() / A)[:, :-1].square()).log1p().sum(1),
        orthogonal=d == 1,
        own=None if d > 1 else True,
    )


# -- f: rank-deficient --------------------------------------------------------------------------


def _linear(name: str, W: Tensor) -> ExactMap:
    G = W.T @ W
    return ExactMap(
        name=name,
        latent_dim=W.shape[1],
        data_dim=W.shape[0],
        f=lambda z: z @ _like(W, z).T,
        gram=lambda z: G.expand(len(z), *G.shape),
        verdict="undefined",
    )


def f_dead(d: int = 3, m: int | None = None, *, dead: Sequence[int] = (0,), seed: int = 0) -> ExactMap:
    """b1 with latents that do nothing."""
    live = [i for i in range(d) if i not in set(dead)]
    m = d + 3 if m is None else m
    base = b1(len(live), m, seed=seed) if live else None

    def gram(z: Tensor) -> Tensor:
        G = torch.zeros(len(z), d, d, dtype=torch.float64)
        if base is not None:
            G[:, torch.tensor(live)[:, None], torch.tensor(live)] = base.gram(z[:, live])
        return G

    return ExactMap(
        name=f"f_dead(d={d}, m={m}, dead={tuple(dead)})",
        latent_dim=d,
        data_dim=m,
        f=lambda z: z.new_zeros(len(z), m) * z[:, :1] if base is None else base.f(z[:, live]),
        gram=gram,
        verdict="undefined",
    )


def f_duplicated(d: int = 3, m: int | None = None, *, seed: int = 0) -> ExactMap:
    """Linear, the last column equal to the first: full norms, singular G (d >= 2)."""
    m = d + 3 if m is None else m
    W = frame(m, d, seed) * spread(d, 0.5, 2.0)
    W[:, -1] = W[:, 0]
    return _linear(f"f_duplicated(d={d}, m={m})", W)


def f_wide(d: int = 4, m: int = 2, *, seed: int = 0) -> ExactMap:
    """Linear with fewer outputs than latents: rank m < d."""
    return _linear(f"f_wide(d={d}, m={m})", frame(d, m, seed).T.contiguous() * spread(d, 0.5, 2.0))


# -- curved seams -------------------------------------------------------------------------------


def g(d: int = 2, m: int | None = None, *, k: float = 1.5, seed: int = 0) -> ExactMap:
    """(h(rho), k z / rho), rho = |z|, h = rho + rho^2 / 4: seams are rays and circles, independent."""

    def phi(z: Tensor) -> Tensor:
        rho = z.square().sum(1, keepdim=True).sqrt()
        return torch.cat([rho + rho.square() / 4, k * z / rho], dim=1)

    def gram(z: Tensor) -> Tensor:
        z = z.double()
        rho = z.square().sum(1)[:, None, None].sqrt()
        ray = z[:, :, None] * z[:, None, :] / rho.square()
        return (1 + rho / 2).square() * ray + (k / rho).square() * (torch.eye(d, dtype=torch.float64) - ray)

    f, m = embedded(phi, d + 1, m, seed)
    return ExactMap(
        name=f"g(d={d}, m={m}, k={k:g})",
        latent_dim=d,
        data_dim=m,
        f=f,
        gram=gram,
        verdict="curved seams",
        contrast=_contrast_of(gram),
        orthogonal=False,
        own=None,
    )


def parabolic(m: int | None = None, *, first: float = 1.4, second: float = 0.6, seed: int = 0) -> ExactMap:
    """(a u, b v) of z = ((u^2 - v^2) / 2, u v): seams are parabolas, and dependent.

    M = (-u v - 4 u v / s^2) / s with s = u^2 + v^2 = 2 |z|; cut along the negative z_1 axis.
    """

    def coordinates(z: Tensor) -> tuple[Tensor, Tensor]:
        r = (2 * z.square().sum(1).sqrt()).sqrt()
        angle = torch.atan2(z[:, 1], z[:, 0])
        return r * torch.cos(angle / 2), r * torch.sin(angle / 2)

    def phi(z: Tensor) -> Tensor:
        u, v = coordinates(z)
        return torch.stack([first * u, second * v], dim=1)

    def gram(z: Tensor) -> Tensor:
        u, v = coordinates(z.double())
        s = (u.square() + v.square())[:, None, None]
        along, across = torch.stack([u, v], dim=1), torch.stack([-v, u], dim=1)
        outer = [w[:, :, None] * w[:, None, :] / s.square() for w in (along, across)]
        return first**2 * outer[0] + second**2 * outer[1]

    f, m = embedded(phi, 2, m, seed)
    return ExactMap(
        name=f"parabolic(m={m})",
        latent_dim=2,
        data_dim=m,
        f=f,
        gram=gram,
        verdict="curved seams",
        contrast=_contrast_of(gram),
        orthogonal=False,
        own=None,
        tied=first == second,
    )


# -- combinations -------------------------------------------------------------------------------


def direct_sum(*maps: ExactMap) -> ExactMap:
    """Return the maps side by side: latents and outputs concatenated, G block diagonal."""
    sizes = [map.latent_dim for map in maps]

    def gram(z: Tensor) -> Tensor:
        G = torch.zeros(len(z), sum(sizes), sum(sizes), dtype=torch.float64)
        start = 0
        for map, part in zip(maps, torch.split(z, sizes, dim=1), strict=True):
            G[:, start : start + part.shape[1], start : start + part.shape[1]] = map.gram(part)
            start += part.shape[1]
        return G

    def contrast(z: Tensor) -> Tensor:
        parts = zip(maps, torch.split(z, sizes, dim=1), strict=True)
        return torch.stack([map.contrast(part) for map, part in parts if map.contrast]).sum(0)

    order: list[Verdict] = ["linear", "independent seams", "orthogonal but dependent seams", "curved seams"]
    order += ["rotated", "entangled", "undefined"]
    defined = all(map.contrast for map in maps)
    crosses = [map.cross for map in maps]
    return ExactMap(
        name=" + ".join(map.name for map in maps),
        latent_dim=sum(sizes),
        data_dim=sum(map.data_dim for map in maps),
        f=lambda z: torch.cat(
            [m.f(p) for m, p in zip(maps, torch.split(z, sizes, dim=1), strict=True)], dim=1
        ),
        gram=gram,
        verdict=max((map.verdict for map in maps), key=order.index),
        contrast=contrast if defined else None,
        orthogonal=None if not defined else all(map.orthogonal for map in maps),
        own=None if any(map.own is None for map in maps) else all(map.own for map in maps),
        relu=any(map.relu for map in maps),
        cross=None if any(c is None for c in crosses) else tuple(x for c in crosses for x in c or ()),
    )


def orthogonal_maps() -> list[ExactMap]:
    """Return maps with c = 0 everywhere, at several d and m."""
    maps = [a(1), a(2, 2), a(5, 40), b1(1), b1(3), b1(6, 100), b2(2), b2(4, 30), b3(), b3(20)]
    maps += [c1(), c1(9, k=0.4), c2(2), c2(3, 12), c2(5), c3(), c3(17), c4(), c4(8)]
    return [*maps, direct_sum(b1(2), c1(), c3())]


def tied_maps() -> list[ExactMap]:
    """Return orthogonal maps whose G is a multiple of I at every z."""
    return [a(3, scales=torch.full((3,), 1.3)), c1(k=1.0), c2(2, tied=True), c2(4, 9, tied=True)]


def oblique_maps() -> list[ExactMap]:
    """Return maps with c > 0 and a known value."""
    maps = [rotated(a(3)), rotated(b1(2)), rotated(b1(5, 40), seed=3), rotated(b2(3)), rotated(b3()), d()]
    return [*maps, e(2), e(3), e(6, 50), e(4, k=3.0), g(), g(4), parabolic(), direct_sum(e(2), b1(2))]


def singular_maps() -> list[ExactMap]:
    """Return maps with rank-deficient G."""
    maps = [f_dead(), f_dead(5, 30, dead=(1, 4)), f_dead(2, 3, dead=(0, 1)), f_duplicated(2), f_duplicated(5)]
    return [*maps, f_wide(), f_wide(6, 1)]


def all_maps() -> list[ExactMap]:
    """Return every map of this module, at several d and m."""
    return orthogonal_maps() + tied_maps() + oblique_maps() + singular_maps()
