"""What is checked at the door of derivatives: which mode of differentiation is right for a function."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vaeprobe.autograd import differentiable_kernels, gradient
from vaeprobe.contract import CALLS, RowMap, precision_of, word
from vaeprobe.errors import ContractError
from vaeprobe.intervals import stream

__all__ = ["Differentiation", "check_derivatives"]

Differentiation = Literal["forward", "reverse"]

# the largest relative difference of the two modes, by bytes per number
DERIVATIVES = {8: 1e-6, 4: 1e-3, 2: 5e-2, 1: 5e-1}
# steps of central differences and the error allowed at the best of them: larger ones drown rounding, smaller
# ones miss kinks; a backward pass that is wrong is so at each
STEPS: dict[int, tuple[tuple[float, ...], float]] = {
    8: ((1e-6, 1e-5, 1e-7), 1e-2),
    4: ((1e-2, 3e-3, 1e-3, 3e-4), 5e-2),
    2: ((0.3, 0.1, 0.03), 0.15),
    1: ((0.5, 0.2), 0.5),
}


# no power of two, so that products with it round otherwise; and how far a derivative then moves that is but rounding
SCALE, LOST = 1.37, 0.1


@dataclass(frozen=True)
class _Tests:
    """Latents with directions v and covectors w, one of each for every row of every call."""

    z: Tensor
    directions: Sequence[Tensor]
    covectors: Sequence[Tensor]

    @staticmethod
    def of(z: Tensor, y: Tensor, free: Sequence[int]) -> _Tests:
        directions, covectors = [], []
        for call in range(CALLS):
            rng = stream(call, "adjoint")
            v = torch.zeros(len(z), z.shape[1], dtype=torch.float64)
            v[:, list(free)] = torch.from_numpy(rng.standard_normal((len(z), len(free))))
            w = torch.from_numpy(rng.standard_normal((len(z), y[0].numel())))
            directions.append(v.to(z))
            covectors.append(w.to(y))
        return _Tests(z, directions, covectors)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.directions, self.covectors, strict=True)


def check_derivatives(
    f: RowMap, z: Tensor, free: Sequence[int], dtype: torch.dtype, double: Callable[[], RowMap | None]
) -> tuple[Differentiation, str]:
    """Compare forward and reverse mode on three successive calls; finite differences judge where they disagree.

    TorchScript's forward mode silently returns zeros from the second call on, which one call misses.

    Args:
        f: latents to rows of outputs.
        z: latents.
        free: columns of z that a derivative makes sense for.
        dtype: what the network computes in.
        double: makes the same map in float64, or None where it cannot: there, kinks are rarely met.

    Returns:
        the mode to use, and why it is not forward mode ("" where it is).

    Raises:
        ContractError: the function has no derivative, or a wrong one.
    """
    with torch.no_grad():
        y = f(z)
    tests = _Tests.of(z, y, free)
    reverse = _products(f, tests, "reverse")
    if isinstance(reverse, Exception):
        if "inplace operation" in str(reverse):
            raise ContractError(
                "the decoder is not differentiable: it overwrites in place what its derivative needs",
                hint="make a new tensor there: torch.cat or torch.where instead of y[:, 0] = ..., y = y + 1 instead of y += 1",
            )
        raise ContractError(
            "the decoder is not differentiable",
            hint="does it stand under torch.no_grad(), convert to numpy, detach, or round inside?"
            " return a tensor that keeps its graph",
        )
    forward = _products(f, tests, "forward")
    if isinstance(forward, Tensor) and (
        _error(forward, reverse) <= DERIVATIVES[dtype.itemsize] or _is_rounding(f, tests, reverse)
    ):
        return "forward", ""
    if not _backward_is_right(f, tests, reverse, dtype, double):
        if dtype.itemsize < 4:
            raise ContractError(
                f"the network computes in {word(dtype)}, and that precision does not suffice for its derivatives",
                hint="switch the autocast inside it off, or cast the network to float32",
            )
        raise ContractError(
            "the derivatives of the decoder do not match finite differences",
            hint="a custom autograd function without a correct backward pass?",
        )
    return "reverse", (
        "gives wrong forward-mode derivatives"
        if isinstance(forward, Tensor)
        else "has no forward-mode derivative"
    )


def _is_rounding(f: RowMap, tests: _Tests, reverse: Tensor) -> bool:
    """Whether covectors of another length give another derivative, so that nothing is to be told from it."""
    longer = _products(f, _Tests(tests.z, tests.directions, [SCALE * w for w in tests.covectors]), "reverse")
    return isinstance(longer, Tensor) and _error(longer / SCALE, reverse) > LOST


def _backward_is_right(
    f: RowMap, tests: _Tests, reverse: Tensor, dtype: torch.dtype, double: Callable[[], RowMap | None]
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


def _in_double(f: RowMap, tests: _Tests) -> bool | None:
    z = tests.z.double()
    with torch.no_grad(), differentiable_kernels():
        y = f(z)
        if precision_of(f, z, y)[0] != torch.float64:
            return None
    wide = _Tests(z, [v.double() for v in tests.directions], [w.double() for w in tests.covectors])
    reverse = _products(f, wide, "reverse")
    if isinstance(reverse, Exception) or y.dtype != torch.float64:
        return None
    return _matches(f, wide, reverse, torch.float64)


def _matches(f: RowMap, tests: _Tests, reverse: Tensor, dtype: torch.dtype) -> bool:
    steps, tolerance = STEPS[dtype.itemsize]
    size = float(reverse.square().mean().sqrt())
    for step in steps:
        found, rounding = _differences(f, tests, step, torch.finfo(dtype).eps)
        if float((found - reverse).square().mean().sqrt()) <= tolerance * size + rounding:
            return True
    return False


def _differences(f: RowMap, tests: _Tests, step: float, eps: float) -> tuple[Tensor, float]:
    """Return <w, J v> for each row by central differences, and the size of its rounding errors."""
    out, noise = [], []
    with torch.no_grad(), differentiable_kernels():
        for v, w in tests:
            above, below = f(tests.z + step * v).double(), f(tests.z - step * v).double()
            out.append((w.double() * (above - below)).sum(1) / (2 * step))
            noise.append((w.double() * above).norm(dim=1) * eps / step)
    return torch.cat(out), float(torch.cat(noise).square().mean().sqrt())


def _products(f: RowMap, tests: _Tests, mode: Differentiation) -> Tensor | Exception:
    """Return <w, J v> for each row by one mode, or what the mode fails with."""
    out = []
    for v, w in tests:
        try:
            with differentiable_kernels():
                if mode == "forward":
                    with torch.no_grad():
                        moved = torch.func.jvp(f, (tests.z,), (v,))[1]
                    out.append((w.double() * moved.double()).sum(1))
                else:
                    leaf = tests.z.clone().requires_grad_(True)
                    with torch.enable_grad():
                        pulled = gradient(f(leaf), leaf, w)
                    out.append((pulled.double() * v.double()).sum(1))
        except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
            return error
    return torch.cat(out)


def _error(found: Tensor, right: Tensor) -> float:
    """Return the root mean square of the differences, relative to that of the numbers."""
    error = float((found - right).square().mean().sqrt())
    if error == 0:
        return 0.0
    size = float(right.square().mean().sqrt())
    return error / size if math.isfinite(error) and size > 0 else math.inf
