"""What is checked at the door of derivatives: which mode of differentiation is right for a function.

Where the two modes agree, both may be those of another function: of one in which nothing is detached, or rounding is the
identity.  Two decodings tell, and more where these say no.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.autograd import differentiable_kernels, gradient, jvp
from vaeprobe.contract import CALLS, RowMap, first_line, mixed, precision_of, word
from vaeprobe.errors import ContractError, VaeprobeError
from vaeprobe.intervals import stream

__all__ = ["FEW_APART", "LOST", "SCALE", "Differentiation", "check_derivatives"]

Differentiation = Literal["forward", "reverse"]

# the largest relative difference of the two modes, by bytes per number
DERIVATIVES = {8: 1e-6, 4: 1e-3, 2: 5e-2, 1: 5e-1}
# steps of central differences and the error allowed at the best of them: larger ones drown rounding, smaller
# ones miss kinks; a backward pass that is wrong is so at each
STEPS: dict[int, tuple[tuple[float, ...], float]] = {
    8: ((1e-6, 1e-5, 1e-7), 1e-2),
    4: ((1e-2, 3e-3, 1e-3, 3e-4, 1e-4), 5e-2),
    2: ((0.3, 0.1, 0.03), 0.15),
    1: ((0.5, 0.2), 0.5),
}

# steps of the central differences that both modes are held against, and the error allowed
DETACHED: dict[int, tuple[tuple[float, float], float]] = {8: ((1e-5, 1e-6), 1e-2), 4: ((1e-3, 3e-4), 2e-2)}
# roundings of the largest output within which these differences are rounding
ROUNDINGS = 16
# the part of the outputs that may move otherwise than their derivatives say: some meet a step
STRAYING = 0.25

# the part of the latents at which two ways may differ in less than float64 where that cannot be had: some meet a kink
FEW_APART = 0.1

# what covectors are scaled by, so that products with them round otherwise: no power of two
SCALE = 1.37
# the relative error from which on a derivative counts as rounding
LOST = 0.1
# the largest part of what a row moves that other rows may move with it, by bytes per number: some subtract the largest
# number of a batch and add it again, which leaves what rounding does
LEAKS = {8: 1e-11, 4: 1e-5, 2: 2e-2, 1: 2e-1}


@dataclass(frozen=True)
class _Call:
    """Some latents with a direction v and a covector w for each.

    Attributes:
        among: rows of which the middle one is z, the only one; None where it is asked for alone.
    """

    z: Tensor
    v: Tensor
    w: Tensor
    among: Tensor | None = None

    def double(self) -> _Call:
        among = None if self.among is None else self.among.double()
        return _Call(self.z.double(), self.v.double(), self.w.double(), among)

    def first(self) -> _Call:
        return _Call(self.z[:1], self.v[:1], self.w[:1])


def _calls(z: Tensor, few: int, y: Tensor, free: Sequence[int]) -> list[_Call]:
    """Return tests on few of the latents, the last on one that is among all of them."""
    made, calls = [], CALLS if few > 1 else 2
    for call in range(calls):
        rng, last = stream(call, "adjoint"), call == calls - 1
        rows = _middle(z) if last else z[:few]
        v = cpu.zeros(rows.shape, dtype=torch.float64)
        v[:, list(free)] = torch.from_numpy(rng.standard_normal((len(rows), len(free))))
        w = torch.from_numpy(rng.standard_normal((len(rows), y[0].numel())))
        made.append(_Call(rows, v.to(z), w.to(y), z if last else None))
    return made


def _middle(rows: Tensor) -> Tensor:
    i = len(rows) // 2
    return rows[i : i + 1]


def check_derivatives(
    f: RowMap,
    z: Tensor,
    y: Tensor,
    few: int,
    free: Sequence[int],
    dtype: torch.dtype,
    double: Callable[[], RowMap | None],
    hint: str,
    elsewhere: Tensor | None = None,
) -> tuple[Differentiation, str]:
    """Compare forward and reverse mode on three successive calls; finite differences judge where they disagree, and look on.

    TorchScript's forward mode silently returns zeros from the second call on, which one call misses.  In the last call one
    row moves among others, which must stay: outputs may differ too little, or not at all, where derivatives are mixed.

    Args:
        f: latents to rows of outputs.
        z, y: latents, two or more, and rows of outputs.
        few: how many of them to differentiate at, but for the last call; where it is one, two calls are compared.
        free: columns of z that a derivative makes sense for.
        dtype: what the network computes in.
        double: makes the same map in float64, or None where it cannot: there, kinks are rarely met.
        hint: what to say of rows that are mixed.
        elsewhere: more latents to compare both modes at, for what is wrong at few of them; None where that costs too much.

    Returns:
        the mode to use, and why it is not forward mode ("" where it is).

    Raises:
        ContractError: the function has no derivative, or a wrong one, or one that mixes rows.
    """
    tests = _calls(z, few, y, free)
    reverse = _reverse(f, tests)
    if isinstance(reverse, Exception):
        if re.search(r"in-?place|out=", str(reverse)):
            raise ContractError(
                "the decoder is not differentiable: it overwrites in place what its derivative needs",
                hint="make a new tensor there: torch.cat or torch.where instead of y[:, 0] = ..., y = y + 1 instead of y += 1"
                " or out=y, activations without inplace=True",
            )
        raise _without_derivative(reverse, y)
    forward = _forward(f, tests)
    if not isinstance(forward, Exception):
        products, leak, moves = forward
        _check_apart(leak, lambda wide, call: _moved(wide, call)[1], tests[-1], dtype, double, hint)
        if _error(products, reverse) <= DERIVATIVES[dtype.itemsize]:
            if _is_detached(f, tests, moves, dtype, double):
                raise ContractError(
                    "the derivatives of the decoder do not match finite differences, in both modes alike",
                    hint="is a part of it detached or under torch.no_grad(), or does it pass gradients straight through a"
                    " rounding, as a VQ-VAE does? probe the network without that, or what comes after the quantiser"
                    " (--submodule, in Python submodule=)"
                    + (
                        "; in float32 a function that rounds finer than to 1/3000 looks like that, too: one that takes float64,"
                        " or an nn.Module, is held against finer differences"
                    )
                    * (dtype.itemsize < 8 and double() is None),
                )
            still = not any(m.any() for m in moves) and len(free) == z.shape[1]  # by codes outputs may differ
            if still and not torch.equal(y, y[:1].expand_as(y)):
                raise ContractError(
                    f"the derivatives of the decoder are 0 at all of {len(y)} latents, at which its outputs differ",
                    hint="are they rounded, or compared with a threshold? return the numbers before that",
                )
            if elsewhere is None or _agree_elsewhere(f, elsewhere, y, free, dtype, double):
                return "forward", ""
        if _is_rounding(f, tests, reverse):
            return "forward", ""
    if not _backward_is_right(f, tests, reverse, dtype, double):
        if dtype.itemsize < 4:
            raise ContractError(
                f"the network computes in {word(dtype)}, and that precision does not suffice for its derivatives",
                hint="switch the autocast inside it off, or cast the network to float32",
            )
        if not reverse.isfinite().all():
            raise ContractError(
                "the derivatives of the decoder are NaN or infinite, where its outputs are finite",
                hint="torch.where passes on the NaN of the branch that it does not take: clamp what goes into a root, a"
                " logarithm or a quotient before it is taken",
            )
        raise ContractError(
            "the derivatives of the decoder do not match finite differences",
            hint="a custom autograd function without a correct backward pass, a straight-through estimator, or a part of"
            " it under torch.no_grad()?",
        )
    _check_apart(_pulled_elsewhere(f, tests[-1]), _pulled_elsewhere, tests[-1], dtype, double, hint)
    return "reverse", (
        "gives wrong forward-mode derivatives"
        if not isinstance(forward, Exception)
        else "has no forward-mode derivative"
    )


def _agree_elsewhere(
    f: RowMap,
    z: Tensor,
    y: Tensor,
    free: Sequence[int],
    dtype: torch.dtype,
    double: Callable[[], RowMap | None],
) -> bool:
    """Whether both modes agree at latents, each by itself: in float64 where that can be had, for kinks are rarely met there.

    Args:
        y: outputs at some latents.
    """
    call = _calls(z, len(z), y, free)[0]
    apart = _apart(f, call) > DERIVATIVES[dtype.itemsize]
    if apart.any() and dtype.itemsize < 8:
        some = _Call(call.z[apart], call.v[apart], call.w[apart]).double()
        with contextlib.suppress(Exception):  # whatever foreign code raises on another type
            wide = double()
            if wide is not None and _computes_in_double(wide, some.z):
                return not bool((_apart(wide, some) > DERIVATIVES[8]).any())
        return len(some.z) <= FEW_APART * len(z)
    return not bool(apart.any())


def _apart(f: RowMap, call: _Call) -> Tensor:
    """Return how far <w, J v> and <J^T w, v> are apart at each latent, in |J v|; 0 where either mode fails."""
    try:
        moved, _ = _moved(f, call)
        pulled = _pulled(f, call.z, call.w)
    except VaeprobeError:
        raise
    except Exception:  # whatever foreign code raises
        return cpu.zeros(len(call.z), dtype=torch.float64)
    forward = (call.w.double() * moved.double()).sum(1)
    reverse = (pulled.double() * call.v.double()).sum(1)
    size = torch.maximum(moved.double().norm(dim=1), reverse.abs())
    error = (forward - reverse).abs()
    return torch.where(error == 0, error, error / size).nan_to_num(nan=0.0)


def _without_derivative(failure: Exception, y: Tensor) -> ContractError:
    """Return the error for a function that reverse mode fails on, in torch's words where these name a cause.

    Args:
        failure: what it failed with.
        y: outputs at some latents.
    """
    if "use_reentrant" in str(failure):
        return ContractError(
            "the decoder is not differentiable by itself: it computes parts of it anew in the backward pass, in the reentrant way"
            " (torch.utils.checkpoint), which is made for .backward() alone",
            hint="checkpoint(..., use_reentrant=False) there, or no checkpoint in eval mode: it changes no number",
        )
    if "does not require grad" not in str(failure):
        return ContractError(
            f"the decoder is not differentiable: {first_line(failure)}",
            hint="take operations there that have a derivative",
        )
    if len(y) > 1 and torch.equal(y, y[:1].expand_as(y)):
        return ContractError(
            f"the decoder is not differentiable: it gives the same outputs at all of {len(y)} latents",
            hint="do its outputs make use of the latents, without rounding them?",
        )
    return ContractError(
        "the decoder is not differentiable",
        hint="does it stand under torch.no_grad(), convert to numpy, detach, or round inside?"
        " return a tensor that keeps its graph",
    )


def _is_rounding(f: RowMap, tests: Sequence[_Call], reverse: Tensor) -> bool:
    """Whether covectors of another length give another derivative, so that nothing is to be told from it."""
    longer = _reverse(f, [replace(call, w=SCALE * call.w) for call in tests])
    # NaN is no rounding: its error is infinite
    return isinstance(longer, Tensor) and LOST < _error(longer / SCALE, reverse) < math.inf


def _is_detached(
    f: RowMap,
    tests: Sequence[_Call],
    moves: Sequence[Tensor],
    dtype: torch.dtype,
    double: Callable[[], RowMap | None],
) -> bool:
    """Whether the outputs move otherwise than both modes say: asked at two latents, and at all in earnest where it seems so.

    Args:
        moves: J v of each test.
    """
    if dtype.itemsize not in DETACHED:  # half precision cannot tell
        return False
    steps, _ = DETACHED[dtype.itemsize]
    for call, moved in ((tests[0].first(), moves[0][:1]), (tests[-1], moves[-1])):
        if _strays(f, [call], [moved], dtype, steps[:1]):
            break
    else:
        return False
    if dtype.itemsize < 8:
        with contextlib.suppress(Exception):  # whatever foreign code raises on another type
            wide, calls = double(), [call.double() for call in tests]
            if wide is not None and _computes_in_double(wide, calls[0].z):
                f, tests, dtype = wide, calls, torch.float64
    moves = [_moved(f, replace(call, among=None))[0] for call in tests]
    return _strays(f, tests, moves, dtype, DETACHED[dtype.itemsize][0])


def _strays(
    f: RowMap, tests: Sequence[_Call], moves: Sequence[Tensor], dtype: torch.dtype, steps: Sequence[float]
) -> bool:
    """Whether more than a few outputs move otherwise than J v says, of those that it moves or of those that it does not.

    Central differences tell where those of two steps agree: at a kink, at a step or in rounding they do not.
    """
    _, tolerance = DETACHED[dtype.itemsize]
    told, wrong = [], []
    for call, moved in zip(tests, [J_v.double() for J_v in moves], strict=True):
        found, largest = [], 0.0
        with torch.no_grad(), differentiable_kernels():
            for step in steps:
                y = f(torch.cat([call.z + step * call.v, call.z - step * call.v])).double()
                found.append((y[: len(moved)] - y[len(moved) :]) / (2 * step))
                largest = max(largest, float(y.abs().max()))
        rounding = ROUNDINGS * torch.finfo(dtype).eps * largest / steps[-1]
        size = moved.square().mean(dim=1, keepdim=True).sqrt()
        first, last = found[0], found[-1]
        alike = (first - last).abs() <= tolerance * (last.abs() + size) + rounding
        told.append(moved.abs() > tolerance * size)
        wrong.append(alike & ((last - moved).abs() > tolerance * (moved.abs() + size) + rounding))
    said, strays = torch.cat(told), torch.cat(wrong)
    return any(int((strays & some).sum()) > STRAYING * int(some.sum()) for some in (said, ~said))


def _backward_is_right(
    f: RowMap,
    tests: Sequence[_Call],
    reverse: Tensor,
    dtype: torch.dtype,
    double: Callable[[], RowMap | None],
) -> bool:
    """Whether reverse mode gives what central differences do, in float64 where that can be had."""
    if dtype.itemsize < 8:
        with contextlib.suppress(Exception):  # whatever foreign code raises on another type
            wide = double()
            if wide is not None:
                found = _in_double(wide, tests)
                if found is not None:
                    return found
    return _matches(f, tests, reverse, dtype)


def _in_double(f: RowMap, tests: Sequence[_Call]) -> bool | None:
    wide = [call.double() for call in tests]
    if not _computes_in_double(f, wide[0].z):
        return None
    reverse = _reverse(f, wide)
    if isinstance(reverse, Exception):
        return None
    return _matches(f, wide, reverse, torch.float64)


def _computes_in_double(f: RowMap, z: Tensor) -> bool:
    with torch.no_grad(), differentiable_kernels():
        y = f(z)
        return precision_of(f, z, y)[0] == torch.float64


def _check_apart(
    leak: float,
    again: Callable[[RowMap, _Call], float],
    call: _Call,
    dtype: torch.dtype,
    double: Callable[[], RowMap | None],
    hint: str,
) -> None:
    """Refuse functions in which one row moves others, more than rounding does: in float64 where that can be had.

    Args:
        leak: how much of what moves is in other rows.
        again: finds it.

    Raises:
        ContractError: rows are mixed.
    """
    if leak and dtype.itemsize < 8:
        with contextlib.suppress(Exception):  # whatever foreign code raises on another type
            wide = double()
            if wide is not None and _computes_in_double(wide, call.z.double()):
                leak, dtype = again(wide, call.double()), torch.float64
    if leak > LEAKS[dtype.itemsize]:
        raise mixed(hint)


def _matches(f: RowMap, tests: Sequence[_Call], reverse: Tensor, dtype: torch.dtype) -> bool:
    steps, tolerance = STEPS[dtype.itemsize]
    size = float(reverse.square().mean().sqrt())
    for step in steps:
        found, rounding = _differences(f, tests, step, torch.finfo(dtype).eps)
        if float((found - reverse).square().mean().sqrt()) <= tolerance * size + rounding:
            return True
    return False


def _differences(f: RowMap, tests: Sequence[_Call], step: float, eps: float) -> tuple[Tensor, float]:
    """Return <w, J v> for each row by central differences, and the size of its rounding errors."""
    out, noise = [], []
    with torch.no_grad(), differentiable_kernels():
        for call in tests:
            above, below = f(call.z + step * call.v).double(), f(call.z - step * call.v).double()
            out.append((call.w.double() * (above - below)).sum(1) / (2 * step))
            noise.append((call.w.double() * above).norm(dim=1) * eps / step)
    return torch.cat(out), float(torch.cat(noise).square().mean().sqrt())


def _forward(f: RowMap, tests: Sequence[_Call]) -> tuple[Tensor, float, list[Tensor]] | Exception:
    """Return <w, J v> for each row by forward mode, how much of J v is in other rows, and J v of each call; or what it fails with."""
    out, leak, moves = [], 0.0, []
    for call in tests:
        try:
            moved, leak = _moved(f, call)
        except VaeprobeError:
            raise
        except Exception as error:  # whatever foreign code raises
            return error
        moves.append(moved)
        out.append((call.w.double() * moved.double()).sum(1))
    return torch.cat(out), leak, moves


def _moved(f: RowMap, call: _Call) -> tuple[Tensor, float]:
    """Return J v for each row of a call, and how much of it is in the rows that these are among."""
    x, v = call.z, call.v
    if call.among is not None:
        x = call.among
        v = torch.zeros_like(x)
        _middle(v)[:] = call.v
    with torch.no_grad(), differentiable_kernels():
        moved = jvp(f, (x,), (v,))[1]
    return (moved, 0.0) if call.among is None else (_middle(moved), _elsewhere(moved))


def _reverse(f: RowMap, tests: Sequence[_Call]) -> Tensor | Exception:
    """Return <J^T w, v> for each row by reverse mode, each call alone; or what it fails with."""
    out = []
    for call in tests:
        try:
            pulled = _pulled(f, call.z, call.w)
        except VaeprobeError:
            raise
        except Exception as error:  # whatever foreign code raises
            return error
        out.append((pulled.double() * call.v.double()).sum(1))
    return torch.cat(out)


def _pulled_elsewhere(f: RowMap, call: _Call) -> float:
    """Return how much of J^T w is in other rows than that of w."""
    assert call.among is not None
    w = call.w.new_zeros(len(call.among), call.w.shape[1])
    _middle(w)[:] = call.w
    return _elsewhere(_pulled(f, call.among, w))


def _pulled(f: RowMap, z: Tensor, w: Tensor) -> Tensor:
    with torch.enable_grad(), differentiable_kernels():
        leaf = z.clone().requires_grad_(True)
        return gradient(f(leaf), leaf, w)


def _elsewhere(found: Tensor) -> float:
    """Return the largest number outside of the middle row, as a part of the largest: 0 where it is not a number."""
    sizes = found.detach().double().abs().amax(dim=1).nan_to_num(nan=0.0, posinf=0.0)
    largest = float(sizes.max())
    _middle(sizes)[:] = 0
    return float(sizes.max()) / largest if largest else 0.0


def _error(found: Tensor, right: Tensor) -> float:
    """Return the root mean square of the differences, relative to that of the numbers."""
    error = float((found - right).square().mean().sqrt())
    if error == 0:
        return 0.0
    size = float(right.square().mean().sqrt())
    return error / size if math.isfinite(error) and size > 0 else math.inf
