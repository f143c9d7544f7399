"""Is a decoder smooth enough for derivatives of its Jacobian to mean anything?

Judged by behaviour, not by the names of layers: along a segment of latent space the change of J u must be the
integral of its derivative.  It is on a smooth network; on a network with kinks (ReLU, max) the derivative
misses the jumps of J at them, and on a piecewise linear one it is 0 throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.autograd import jvp
from vaeprobe.budget import budget
from vaeprobe.decoder import Decoder
from vaeprobe.engine.chunks import Chunk, Size, Sweep
from vaeprobe.engine.jets import nested_derivatives, second_derivative
from vaeprobe.engine.methods import choose
from vaeprobe.engine.remembered import recalled, recalled_together
from vaeprobe.engine.tangents import Unsupported
from vaeprobe.engine.verbs import pushforward, values
from vaeprobe.intervals import stream
from vaeprobe.likelihoods import Likelihood
from vaeprobe.processes import current as processes
from vaeprobe.progress import track

__all__ = ["Smoothness", "departures", "discontinuities", "metric_derivatives", "smoothness"]

Map = Callable[[Tensor], Tensor]
# From latents, u and another direction: a derivative of f along u, and its derivative along the other, (rows, data) both.
Derivatives: TypeAlias = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Kind = Literal["linear", "piecewise linear", "kinked", "smooth", "unknown"]

NODES = 6
PARTS = 3
LEVELS = 6
FIRST = 3
LOOKED_AT = 2 * PARTS * NODES + PARTS + 1
"""Directions that a first look for a jump on a segment takes, primals among them."""
ROWS = 256  # latents at a time
SKETCH = 1024
UNRESOLVED = 0.05


def _along(f: Map, v: Tensor) -> Map:
    """Return the derivative of a map along directions v, one per row."""

    def derivative(x: Tensor) -> Tensor:
        moved: Tensor = jvp(f, (x,), (v,))[1]
        return moved

    return derivative


# -- smooth or not ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Smoothness:
    """How J changes along segments between latents.

    Attributes:
        kind: "linear" (J does not change), "piecewise linear" (it changes, its derivative is 0), "kinked" (it
            jumps here and there, or has corners), "smooth", or "unknown" (no second derivatives to be had).
        why: a clause for the report.
    """

    kind: Kind
    why: str

    @property
    def smooth(self) -> bool:
        return self.kind in ("linear", "smooth")


def smoothness(
    decoder: Decoder, a: Tensor, b: Tensor, u: Tensor, *, natural: bool = False, order: Literal[1, 2] = 1
) -> Smoothness:
    """Return whether J u is differentiable along the segments from a to b.

    A segment on which the change of J u is not the integral of its derivative (Gauss-Legendre) is cut in
    parts, and the worst of them is followed, `LEVELS` times: the defect of a smooth map dies out, also near a
    pole, and that of a jump takes over all of the change.

    Args:
        a, b: ends of the segments, shape (segments, latent).
        u: directions over the continuous latents, shape (segments, k).
        order: 2 asks it of the derivative of J u along u, which is what derivatives of seams need.

    Raises:
        TimeIsOver: no time is left to follow what might be a jump.
    """
    if decoder.differentiation != "forward":
        return Smoothness("unknown", "the decoder has no forward-mode derivative to differentiate again")
    f = decoder.natural_flat if natural else decoder.flat
    direction = torch.zeros(len(u), decoder.latent_dim, dtype=decoder.dtype, device=decoder.device)
    direction[:, decoder.continuous] = u.to(device=decoder.device, dtype=decoder.dtype)
    a, b = (x.to(device=decoder.device, dtype=decoder.dtype) for x in (a, b))

    few = slice(0, FIRST)

    def followed() -> tuple[Tensor, ...]:
        derive = plain = _nested(f, order)
        if order == 1:
            derive = _checked(_carried(f, plain), plain, (a[few] + b[few]) / 2, direction[few], (b - a)[few])
        choice = choose(decoder, natural=natural)
        rows = Size.fitting(choice.widest, a.itemsize, 3).points
        look = _Look(derive, rows, ("slopes", choice.known_by, natural, order, derive is plain))
        # on a network with kinks a few segments say it, and the others are spared
        seen = _follow(look, a[few], b[few], direction[few])
        if len(a) > FIRST and not (seen[0].all() and seen[2].all()):
            rest = _follow(look, a[FIRST:], b[FIRST:], direction[FIRST:])
            return tuple(torch.cat(pair) for pair in zip(seen, rest, strict=True))
        return seen

    try:
        changes, flat, jumps = recalled_together(
            ("smoothness", decoder, natural, order), [a, b, direction], followed
        )
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        return Smoothness("unknown", f"higher derivatives of the decoder failed ({first_line})")
    name = "Jacobian" if order == 1 else "Jacobian's derivative"
    if not changes.any():
        return Smoothness("linear", f"the {name} does not change along any segment between latents")
    share = float(jumps.sum() / changes.sum())
    if share and flat[changes].all():
        return Smoothness("piecewise linear", f"the {name} changes while its derivative is 0 throughout")
    if share:
        return Smoothness("kinked", _jumps(name, share))
    return Smoothness("smooth", f"all changes of the {name} are the integral of its derivative")


def _jumps(name: str, share: float) -> str:
    return f"the {name} jumps or has corners between latents" + (
        "" if share == 1 else f", on {share:.0%} of the segments"
    )


@dataclass(frozen=True)
class _Look:
    """Derivatives along u and their slopes at many latents, of wide outputs a sketch.

    Attributes:
        derive: gives them at some.
        rows: latents at a time.
        known_by: what it depends on beside latents and directions (see `vaeprobe.kept`).
    """

    derive: Derivatives
    rows: int
    known_by: tuple[object, ...]

    def at(self, x: Tensor, u: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        """Return both at latents x, float64 on the CPU."""
        found: tuple[Tensor, Tensor] | None = None

        def work(part: Chunk) -> tuple[Tensor, ...]:
            some = part.points
            return tuple(_sketch(w.double().cpu()) for w in self.derive(x[some], u[some], along[some]))

        def put(part: Chunk, g: Tensor, dg: Tensor) -> None:
            nonlocal found
            if found is None:
                found = g.new_zeros(len(x), g.shape[1]), g.new_zeros(len(x), g.shape[1])
            found[0][part.points], found[1][part.points] = g, dg

        def made_of(part: Chunk) -> Iterable[object]:
            return *self.known_by, x[part.points], u[part.points], along[part.points]

        if processes().world > 1:  # what has no derivative fails in all of them alike
            self.derive(x[:1], u[:1], along[:1])
        shared = Sweep(work, put, made_of, description="slopes").over(len(x), 1, Size(self.rows, 1))
        assert found is not None
        return (processes().summed(found[0]), processes().summed(found[1])) if shared else found


def _follow(look: _Look, a: Tensor, b: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Look for jumps of a derivative along u, on the segments from a to b, all at once.

    Returns:
        which segments it changes on, where its derivative is 0 throughout, and where it jumps: (segments,).
    """
    gauss, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(NODES))
    edges = cpu.linspace(0, 1, PARTS + 1, dtype=torch.float64)
    places = torch.cat([edges, (edges[:-1, None] + (gauss + 1) / (2 * PARTS)).flatten()])
    rounding = 100 * float(torch.finfo(a.dtype).eps)
    changes, flat, jumps = (cpu.zeros(len(a), dtype=torch.bool) for _ in range(3))
    low = cpu.zeros(len(a), dtype=torch.float64)
    live, length, jumped = cpu.arange(len(a)), 1.0, jumps
    for level in track(range(LEVELS), "smoothness"):
        if level:
            budget().ask()
        t = (low[live][:, None] + length * places).to(device=a.device, dtype=a.dtype)
        x = a[live][:, None] + t[:, :, None] * (b - a)[live][:, None]
        u_, along = (w[live].repeat_interleave(len(places), 0) for w in (u, b - a))
        g, dg = (w.reshape(len(live), len(places), -1) for w in look.at(x.flatten(0, 1), u_, along))
        change = g[:, 1 : PARTS + 1] - g[:, :PARTS]
        slopes = dg[:, PARTS + 1 :].reshape(len(live), PARTS, NODES, -1)
        integral = torch.einsum("k,spkm->spm", weights, slopes) * length / (2 * PARTS)
        defect, size = (change - integral).norm(dim=2), change.norm(dim=2)
        noise = rounding * g.norm(dim=2).amax(1)
        if level == 0:
            changes = (size.amax(1) > noise) | (integral.norm(dim=2).amax(1) > noise)
            flat = ~dg.flatten(1).any(1)
        worst, part = defect.max(1)
        open_ = changes[live] & (worst > noise + 1e-3 * UNRESOLVED * size.sum(1))
        jumped = worst > noise + UNRESOLVED * size.gather(1, part[:, None])[:, 0]
        low[live] += length * part / PARTS
        length /= PARTS
        live, jumped = live[open_], jumped[open_]
        if not len(live):
            break
    jumps[live] = jumped
    return changes, flat, jumps


def _nested(f: Map, order: int) -> Derivatives:
    """Return the order-th derivative of f along u and its slope by forward mode of forward mode: the plainest."""

    def derive(x: Tensor, u: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        g = f
        for _ in range(order):
            g = _along(g, u)
        with nested_derivatives():
            output = jvp(g, (x,), (along,))
        return output[0], output[1]

    return derive


def _carried(f: Map, plain: Derivatives) -> Derivatives:
    """Return J u and its slope, carried along together where the network lets them: the fastest."""

    def derive(x: Tensor, u: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        try:
            _, moved, _, slope = second_derivative(f, x, u, along)
        except Unsupported:
            return plain(x, u, along)
        return moved, slope

    return derive


def _checked(fast: Derivatives, plain: Derivatives, x: Tensor, u: Tensor, along: Tensor) -> Derivatives:
    """Return the fast way where it is right at most of a few latents: one may sit at a kink."""
    truth = plain(x, u, along)
    try:
        found = fast(x, u, along)
    except Exception:  # whatever a foreign function raises on an argument of a strange type
        return plain
    tolerance = 1e-9 if x.dtype == torch.float64 else 1e-4
    right = torch.stack(
        [(w - v).norm(dim=1) <= tolerance * v.norm(dim=1) for w, v in zip(found, truth, strict=True)]
    )
    return fast if 2 * int(right.all(0).sum()) > len(x) else plain


def _sketch(y: Tensor) -> Tensor:
    m = y.shape[1]
    if m <= SKETCH:
        return y
    rng = stream(m, "sketch")
    signs, places = (torch.from_numpy(rng.integers(0, top, m)) for top in (2, SKETCH))
    return cpu.zeros(len(y), SKETCH, dtype=y.dtype).index_add_(1, places, y * (2 * signs - 1))


# -- jumps of the decoder itself ----------------------------------------------------------------


def departures(decoder: Decoder, z: Tensor, *, natural: bool = False) -> float | None:
    """Return the share of latents at which a decoder of constant J is not where J takes it from the origin.

    A decoder that jumps where hardly any latent lies has a constant J and misses few segments; every latent beyond a jump
    shows it.  Bends are no jumps: along a path whose slope turns from one end to the other, the output misses by no more
    than the slopes differ.

    Args:
        z: shape (n, latent); codes are kept, continuous latents are measured from 0.

    Returns:
        None where the decoder is not finite at some latent.
    """
    rounding = 1000 * float(torch.finfo(decoder.dtype or torch.float64).eps)
    away = 0
    for part in torch.split(z, ROWS):
        origin = part.clone()
        origin[:, decoder.continuous] = 0
        (start, slope), (end, slope_end) = (
            [
                w.double().cpu().flatten(1)
                for w in pushforward(decoder, x, part[:, decoder.continuous], natural=natural)
            ]
            for x in (origin, part)
        )
        if not all(torch.isfinite(w).all() for w in (start, slope, end, slope_end)):
            return None
        straight = rounding * start.norm(dim=1) + (rounding + 1e-4) * slope.norm(dim=1)
        bent = (slope_end - slope).norm(dim=1)
        away += int(((end - start - slope).norm(dim=1) > straight + bent).sum())
    return away / len(z)


def discontinuities(decoder: Decoder, a: Tensor, b: Tensor, *, natural: bool = False) -> float | None:
    """Return the share of the segments from a to b on which the decoder jumps: J knows nothing of jumps.

    On a continuous decoder, with kinks or without, the change along a segment is the integral of its slope.  The
    part of a segment with the largest defect is followed, `LEVELS` times, while it outweighs enough of what the slope
    explains: a jump is what stays as large while the integral of the slope dies out.

    Args:
        a, b: ends of the segments, shape (segments, latent).

    Returns:
        None where the decoder is not finite along some segment.
    """
    (jumps,) = recalled(
        ("jumps", decoder, natural), [a, b], lambda at: (_jumped(decoder, a[at], b[at], natural),)
    )
    return None if jumps.isnan().any() else float(jumps.mean())


def _jumped(decoder: Decoder, a: Tensor, b: Tensor, natural: bool) -> Tensor:
    """Return 1 for segments on which the decoder jumps, else 0, shape (segments,); nan where one has no finite values."""
    gauss, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(NODES))
    edges = cpu.linspace(0, 1, PARTS + 1, dtype=torch.float64)
    places = torch.cat([edges, (edges[:-1, None] + (gauss + 1) / (2 * PARTS)).flatten()])
    rounding = 100 * float(torch.finfo(decoder.dtype or torch.float64).eps)
    low, length = cpu.zeros(len(a), dtype=torch.float64), 1.0
    live = cpu.arange(len(a))
    for level in range(LEVELS + 1):
        t = low[live][:, None] + length * places
        x = a[live][:, None] + t[:, :, None] * (b - a)[live][:, None]
        ends, between = x[:, : PARTS + 1].flatten(0, 1), x[:, PARTS + 1 :].flatten(0, 1)
        along = (b - a)[live][:, decoder.continuous].repeat_interleave(PARTS * NODES, 0)
        y = values(decoder, ends, natural=natural).double().cpu()
        y_, slope = (w.double().cpu() for w in pushforward(decoder, between, along, natural=natural))
        if not all(torch.isfinite(w).all() for w in (y, y_, slope)):
            return torch.full_like(low, torch.nan)
        y = y.reshape(len(live), PARTS + 1, -1)
        change = y[:, 1:] - y[:, :-1]
        slopes = slope.reshape(len(live), PARTS, NODES, -1)
        step = weights * length / (2 * PARTS)
        defect = (change - torch.einsum("k,spkm->spm", step, slopes)).norm(dim=2)
        walked = torch.einsum("k,spk->sp", step, slopes.norm(dim=3))
        noise = rounding * y.norm(dim=2).amax(1)
        worst, part = defect.max(1)
        # at first a defect of a per cent is followed, at the end it must outweigh all that the slope explains; on the way
        # that of a jump comes to weigh thrice as much at each level, and half as much again is asked
        share = 0.01 * 1.5**level if level < LEVELS else 1.0
        bound = share * walked.gather(1, part[:, None])[:, 0]
        open_ = worst > noise + bound
        low[live] += length * part / PARTS
        live, length = live[open_], length / PARTS
        if not len(live):
            break
    return torch.zeros_like(low).index_fill_(0, live, 1.0)


# -- derivatives of the metric ------------------------------------------------------------------


def metric_derivatives(
    decoder: Decoder,
    z: Tensor,
    latents: list[int],
    *,
    likelihood: Likelihood | None = None,
    order: Literal[1, 2] = 2,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the pullback metric over some latents and its exact derivatives, by nested forward mode.

    Args:
        z: latents, shape (n, latent).
        latents: the k latents to differentiate in, as indices of z's columns.
        order: 1 for first derivatives alone.

    Returns:
        G (n, k, k), dG/dz_l (n, l, k, k) and d2G/dz_l dz_m (n, l, m, k, k) or None, float64 on the CPU.

    Raises:
        RuntimeError, NotImplementedError: an operation of the decoder has no such derivative.
    """
    G, dG, *ddG = recalled(
        ("metric derivatives", decoder, tuple(latents), likelihood, order),
        [z],
        lambda at: _metric_derivatives(decoder, z[at], latents, likelihood, order),
    )
    return G, dG, ddG[0] if ddG else None


def _metric_derivatives(
    decoder: Decoder, z: Tensor, latents: list[int], likelihood: Likelihood | None, order: Literal[1, 2]
) -> tuple[Tensor, ...]:
    natural = decoder.natural_for(likelihood)
    f = decoder.natural_flat if natural else decoder.flat
    k = len(latents)
    basis = torch.zeros(k, decoder.latent_dim, dtype=decoder.dtype, device=decoder.device)
    basis.scatter_(1, torch.as_tensor(latents, device=decoder.device)[:, None], 1.0)

    def metric(x: Tensor) -> Tensor:
        output = jvp(f, (x.repeat(k, 1),), (basis.repeat_interleave(len(x), 0),))
        J = output[1].reshape(k, len(x), -1).double()
        if likelihood is None:
            return torch.einsum("anm,bnm->nab", J, J)
        y = output[0][: len(x)].double()
        WJ = likelihood.lowered(J, y, decoder.parameter_of(natural))
        return torch.einsum("anm,bnm->nab", WJ, J)

    x, choice = z.to(device=decoder.device, dtype=decoder.dtype), choose(decoder, natural=natural)
    pairs = [] if order == 1 else [(l, m) for l in range(k) for m in range(l + 1)]
    along = [(), *((l,) for l in range(k)), *pairs]  # that the metric is differentiated along
    G, dG = cpu.zeros(len(x), k, k, dtype=torch.float64), cpu.zeros(len(x), k, k, k, dtype=torch.float64)
    ddG = cpu.zeros(len(x), k, k, k, k, dtype=torch.float64) if pairs else None

    def derivative(block: Tensor, directions: tuple[int, ...]) -> Tensor:
        g: Map = metric
        for l in directions:
            g = _along(g, basis[l].expand_as(block))
        with nested_derivatives():
            return g(block).cpu()

    def work(part: Chunk) -> tuple[Tensor]:
        return (derivative(x[part.points], along[part.directions[0].start]),)

    def put(part: Chunk, found: Tensor) -> None:
        match along[part.directions[0].start]:
            case ():
                G[part.points] = found
            case (l,):
                dG[part.points, l] = found
            case (l, m):
                assert ddG is not None
                ddG[part.points, l, m] = ddG[part.points, m, l] = found

    def made_of(part: Chunk) -> Iterable[object]:
        weight = likelihood, likelihood and likelihood.name, decoder.parameter_of(natural)
        directions = along[part.directions[0].start]
        return "metric derivatives", choice.known_by, natural, weight, latents, directions, x[part.points]

    if processes().world > 1:  # what has no derivative fails in all of them alike
        derivative(x[:1], along[-1])
    size = Size(Size.fitting(choice.widest, x.itemsize, k).points, 1)
    name = "second derivatives of the metric" if pairs else "derivatives of the metric"
    shared = Sweep(work, put, made_of, description=name).over(len(x), len(along), size)
    found = (G, dG) if ddG is None else (G, dG, ddG)
    return tuple(processes().summed(part) for part in found) if shared else found
