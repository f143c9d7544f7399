"""Is a decoder smooth enough for derivatives of its Jacobian to mean anything?

Judged by behaviour, not by the names of layers: along a segment of latent space the change of J u must be the
integral of its derivative.  It is on a smooth network; on a network with kinks (ReLU, max) the derivative
misses the jumps of J at them, and on a piecewise linear one it is 0 throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from vaeprobe.autograd import differentiable_kernels
from vaeprobe.decoder import Decoder
from vaeprobe.engine.verbs import pushforward
from vaeprobe.intervals import stream
from vaeprobe.likelihoods import Likelihood
from vaeprobe.progress import track

__all__ = ["Smoothness", "departures", "discontinuities", "metric_derivatives", "smoothness"]

Map = Callable[[Tensor], Tensor]
Kind = Literal["linear", "piecewise linear", "kinked", "smooth", "unknown"]

NODES = 6
PARTS = 3
ROWS = 256  # latents at a time
LEVELS = 6
FIRST = 3
ROWS = 256
SKETCH = 1024
UNRESOLVED = 0.05

# Activations whose fused kernels have one forward-mode derivative and no second one, as primitives that do.
PRIMITIVES: dict[Any, Callable[..., Tensor]] = {
    F.silu: lambda x, inplace=False: x * torch.sigmoid(x),
    F.mish: lambda x, inplace=False: x * torch.tanh(F.softplus(x)),
    F.hardsigmoid: lambda x, inplace=False: F.relu6(x + 3) / 6,
    F.glu: lambda x, dim=-1: x.chunk(2, dim)[0] * torch.sigmoid(x.chunk(2, dim)[1]),
}


class _Primitives(TorchFunctionMode):
    """Computes activations from primitives that can be differentiated again and again."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return PRIMITIVES.get(func, func)(*args, **(kwargs or {}))


@contextmanager
def _nested_derivatives() -> Iterator[None]:
    with torch.no_grad(), differentiable_kernels(), _Primitives():
        yield


def _along(f: Map, v: Tensor) -> Map:
    """Return the derivative of a map along directions v, one per row."""

    def derivative(x: Tensor) -> Tensor:
        moved: Tensor = torch.func.jvp(f, (x,), (v,))[1]
        return moved

    return derivative


# -- smooth or not ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Smoothness:
    """How J changes along segments between latents.

    Attributes:
        kind: "linear" (J does not change), "piecewise linear" (it changes, its derivative is 0), "kinked" (it
            jumps here and there), "smooth", or "unknown" (no second derivatives to be had).
        kinked: share of the segments on which a jump was found; None where unknown.
        why: a clause for the report.
    """

    kind: Kind
    kinked: float | None
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
    """
    if decoder.differentiation != "forward":
        return Smoothness(
            "unknown", None, "the decoder has no forward-mode derivative to differentiate again"
        )
    f = decoder.natural_flat if natural else decoder.flat
    direction = torch.zeros(len(u), decoder.latent_dim, dtype=decoder.dtype, device=decoder.device)
    direction[:, decoder.continuous] = u.to(device=decoder.device, dtype=decoder.dtype)
    a, b = (x.to(device=decoder.device, dtype=decoder.dtype) for x in (a, b))

    try:
        # on a network with kinks a few segments say it, and the others are spared
        seen = _follow(f, a[:FIRST], b[:FIRST], direction[:FIRST], order)
        if len(a) > FIRST and not (seen[0].all() and seen[2].all()):
            rest = _follow(f, a[FIRST:], b[FIRST:], direction[FIRST:], order)
            seen = tuple(torch.cat(pair) for pair in zip(seen, rest, strict=True))  # type: ignore[assignment]
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        return Smoothness("unknown", None, f"higher derivatives of the decoder failed ({first_line})")
    changes, flat, jumps = seen
    name = "Jacobian" if order == 1 else "Jacobian's derivative"
    if not changes.any():
        return Smoothness("linear", 0.0, f"the {name} does not change along any segment between latents")
    share = float(jumps.sum() / changes.sum())
    if share and flat[changes].all():
        return Smoothness(
            "piecewise linear", share, f"the {name} changes while its derivative is 0 throughout"
        )
    if share:
        return Smoothness("kinked", share, _jumps(name, share))
    return Smoothness("smooth", 0.0, f"all changes of the {name} are the integral of its derivative")


def _jumps(name: str, share: float) -> str:
    return f"the {name} jumps between latents" + ("" if share == 1 else f", on {share:.0%} of the segments")


def _follow(f: Map, a: Tensor, b: Tensor, u: Tensor, order: int) -> tuple[Tensor, Tensor, Tensor]:
    """Look for jumps of the order-th derivative of f along u, on the segments from a to b, all at once.

    Returns:
        which segments it changes on, where its derivative is 0 throughout, and where it jumps: (segments,).
    """
    gauss, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(NODES))
    edges = torch.linspace(0, 1, PARTS + 1, dtype=torch.float64)
    places = torch.cat([edges, (edges[:-1, None] + (gauss + 1) / (2 * PARTS)).flatten()])
    rounding = 100 * float(torch.finfo(a.dtype).eps)
    changes, flat, jumps = (torch.zeros(len(a), dtype=torch.bool) for _ in range(3))
    low = torch.zeros(len(a), dtype=torch.float64)
    live, length, jumped = torch.arange(len(a)), 1.0, jumps
    for level in track(range(LEVELS), "smoothness"):
        t = (low[live][:, None] + length * places).to(device=a.device, dtype=a.dtype)
        x = a[live][:, None] + t[:, :, None] * (b - a)[live][:, None]
        u_, along = (w[live].repeat_interleave(len(places), 0) for w in (u, b - a))
        values = _values_and_slopes(f, x.flatten(0, 1), u_, along, order)
        g, dg = (w.reshape(len(live), len(places), -1) for w in values)
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


def _values_and_slopes(f: Map, x: Tensor, u: Tensor, along: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Return the order-th derivative of f along u and its derivative along another direction.

    Both have shape (rows, data), with `SKETCH` signed sums of outputs in place of more outputs than that,
    which keep lengths on average.
    """
    values, slopes = [], []
    for x_, u_, along_ in zip(*(torch.split(w, ROWS) for w in (x, u, along)), strict=True):
        g = f
        for _ in range(order):
            g = _along(g, u_)
        with _nested_derivatives():
            output = torch.func.jvp(g, (x_,), (along_,))
        values.append(_sketch(output[0].double().cpu()))
        slopes.append(_sketch(output[1].double().cpu()))
    return torch.cat(values), torch.cat(slopes)


def _sketch(y: Tensor) -> Tensor:
    m = y.shape[1]
    if m <= SKETCH:
        return y
    rng = stream(m, "sketch")
    signs, places = (torch.from_numpy(rng.integers(0, top, m)) for top in (2, SKETCH))
    return torch.zeros(len(y), SKETCH, dtype=y.dtype).index_add_(1, places, y * (2 * signs - 1))


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
    part of a segment with the largest defect is followed, `LEVELS` times: a jump is what stays as large while the
    integral of the slope dies out.

    Args:
        a, b: ends of the segments, shape (segments, latent).

    Returns:
        None where the decoder is not finite along some segment.
    """
    gauss, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(NODES))
    edges = torch.linspace(0, 1, PARTS + 1, dtype=torch.float64)
    places = torch.cat([edges, (edges[:-1, None] + (gauss + 1) / (2 * PARTS)).flatten()])
    rounding = 100 * float(torch.finfo(decoder.dtype or torch.float64).eps)
    low, length = torch.zeros(len(a), dtype=torch.float64), 1.0
    live = torch.arange(len(a))
    for level in range(LEVELS + 1):
        t = low[live][:, None] + length * places
        x = a[live][:, None] + t[:, :, None] * (b - a)[live][:, None]
        along = (b - a)[live][:, decoder.continuous].repeat_interleave(len(places), 0)
        y, slope = (w.double().cpu() for w in pushforward(decoder, x.flatten(0, 1), along, natural=natural))
        if not (torch.isfinite(y).all() and torch.isfinite(slope).all()):
            return None
        y, slope = (w.reshape(len(live), len(places), -1) for w in (y, slope))
        change = y[:, 1 : PARTS + 1] - y[:, :PARTS]
        slopes = slope[:, PARTS + 1 :].reshape(len(live), PARTS, NODES, -1)
        step = weights * length / (2 * PARTS)
        defect = (change - torch.einsum("k,spkm->spm", step, slopes)).norm(dim=2)
        walked = torch.einsum("k,spk->sp", step, slopes.norm(dim=3))
        noise = rounding * y.norm(dim=2).amax(1)
        worst, part = defect.max(1)
        # on the way a defect of some per cent is followed; at the end it must outweigh all that the slope explains
        bound = (0.01 if level < LEVELS else 1.0) * walked.gather(1, part[:, None])[:, 0]
        open_ = worst > noise + bound
        low[live] += length * part / PARTS
        live, length = live[open_], length / PARTS
        if not len(live):
            break
    return len(live) / len(a)


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
    natural = decoder.natural_for(likelihood)
    f = decoder.natural_flat if natural else decoder.flat
    k = len(latents)
    basis = torch.zeros(k, decoder.latent_dim, dtype=decoder.dtype, device=decoder.device)
    basis.scatter_(1, torch.as_tensor(latents, device=decoder.device)[:, None], 1.0)

    def metric(x: Tensor) -> Tensor:
        output = torch.func.jvp(f, (x.repeat(k, 1),), (basis.repeat_interleave(len(x), 0),))
        J = output[1].reshape(k, len(x), -1).double()
        if likelihood is None:
            return torch.einsum("anm,bnm->nab", J, J)
        y = output[0][: len(x)].double()
        WJ = likelihood.lowered(J, y, "natural" if natural else decoder.parameter)
        return torch.einsum("anm,bnm->nab", WJ, J)

    x = z.to(device=decoder.device, dtype=decoder.dtype)
    directions = [e.expand_as(x) for e in basis]
    with _nested_derivatives():
        G = metric(x).cpu()
        dG = torch.stack([_along(metric, e)(x).cpu() for e in directions], dim=1)
        if order == 1:
            return G, dG, None
        ddG = torch.empty(len(x), k, k, k, k, dtype=torch.float64)
        pairs = [(l, m) for l in range(k) for m in range(l + 1)]
        for l, m in track(pairs, "second derivatives of the metric"):
            ddG[:, l, m] = ddG[:, m, l] = _along(_along(metric, directions[l]), directions[m])(x).cpu()
    return G, dG, ddG
