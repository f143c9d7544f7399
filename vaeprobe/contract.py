"""What is checked at the door: that a function is a deterministic, differentiable map of single rows.

Rounding is told from faults by the precision that the network really computes in, which is the coarsest that any of its
operations returns: a float32 network may end in `.double()`, and one with float32 outputs may run under autocast.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vaeprobe.autograd import differentiable_kernels, gradient
from vaeprobe.errors import ContractError, ResourceError, out_of_memory
from vaeprobe.frozen import whole_of
from vaeprobe.intervals import stream

__all__ = [
    "Differentiation",
    "NotFiniteError",
    "RowMap",
    "check_derivatives",
    "check_rows",
    "check_weights",
    "first_line",
    "not_callable",
    "precision_of",
    "word",
]

Differentiation = Literal["forward", "reverse"]
RowMap = Callable[[Tensor], Tensor]

# the largest relative difference of two ways to compute the same, by bytes per number
ROUNDING = {8: 1e-9, 4: 1e-4, 2: 2e-2, 1: 2e-1}
DERIVATIVES = {8: 1e-6, 4: 1e-3, 2: 5e-2, 1: 5e-1}
# steps of central differences and the error allowed at the best of them: larger ones drown rounding, smaller
# ones miss kinks; a backward pass that is wrong is so at each
STEPS: dict[int, tuple[tuple[float, ...], float]] = {
    8: ((1e-6, 1e-5, 1e-7), 1e-2),
    4: ((1e-2, 3e-3, 1e-3, 3e-4), 5e-2),
    2: ((0.3, 0.1, 0.03), 0.15),
    1: ((0.5, 0.2), 0.5),
}
CALLS = 3


class NotFiniteError(ContractError):
    """A decoder returns NaN or infinity."""


# -- the precision that a network computes in -----------------------------------------------------


class _Coarsest(TorchDispatchMode):
    """Notes the coarsest floating type that any operation returns, and how many numbers all of them do."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from importing its compiler (over a second) to keep it out of here."""
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype: torch.dtype = torch.float64
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, Tensor) and value.is_floating_point():
                self.dtype = min(self.dtype, value.dtype, key=lambda dtype: dtype.itemsize)
                self.numbers += value.numel()
        return out


def precision_of(f: RowMap, z: Tensor, y: Tensor) -> tuple[torch.dtype, int]:
    """Return the coarsest floating type that is computed on the way from latents to outputs, and what one row costs.

    Args:
        f: latents to outputs.
        z, y: latents and their outputs.

    Returns:
        the type, and how many numbers all operations together return for a row: those of the output where nobody
        sees inside.
    """
    watch = _Coarsest()
    with contextlib.suppress(RuntimeError, NotImplementedError), watch:
        f(z)
    coarsest = min(watch.dtype, y.dtype, z.dtype, key=lambda dtype: dtype.itemsize)
    return coarsest, max(watch.numbers, y.numel()) // len(z)


def word(dtype: torch.dtype | torch.layout | None) -> str:
    """Return the plain name of a type or layout."""
    return str(dtype).removeprefix("torch.")


# -- before the first call --------------------------------------------------------------------------


def check_weights(function: object) -> None:
    """Refuse networks that cannot compute, or not be differentiated, whatever their latents.

    Raises:
        ContractError: weights on the meta device, lazy or quantised layers.
    """
    module = whole_of(function)
    if module is None:
        return
    for name, part in module.named_modules():
        if type(part).__module__.startswith(
            ("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.q")
        ):
            raise ContractError(
                f"the decoder is quantised (`{name}` is a quantised {type(part).__name__}), which has no derivative",
                hint="probe the network as it was before quantisation",
            )
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)):
            raise ContractError(
                f"`{name}` belongs to a lazy layer that has not run yet, and has no shape",
                hint="call the network once, or load its weights, before it is probed",
            )
        if tensor.device.type == "meta":
            raise ContractError(
                f"`{name}` is on the meta device: the network has no weights yet",
                hint="load them: module.to_empty(device='cpu') and load_state_dict, or load_state_dict(..., assign=True)",
            )


def not_callable(function: object, z: Tensor, error: BaseException) -> ContractError:
    """Return the error for a function that fails on latents, and why it likely does."""
    if out_of_memory(error):
        raise ResourceError(
            f"the decoder takes more memory than there is for latents of shape {tuple(z.shape)}",
            hint="free some memory, or probe a smaller decoder (--submodule)",
        ) from None
    message = f"the decoder cannot be called on latents of shape {tuple(z.shape)}: {first_line(error)}"
    needed = _needed(function)
    if isinstance(error, TypeError) and len(needed) > 1:
        others = " and ".join(f"`{name}`" for name in needed[1:])
        return ContractError(
            f"the decoder needs {others} beside the latents `{needed[0]}`",
            hint=f"hold {others} at a value: functools.partial(decoder, {needed[1]}=...), or a wrapper with --arch",
        )
    return ContractError(
        message,
        hint=whole_hint(function) or f"is the latent dimension really {z.shape[1]}? (--latent-dim)",
    )


def whole_hint(function: object) -> str | None:
    """Return how to give a network that encodes as well as decodes, None for another."""
    encodes, decodes = (
        next((name for name in names if callable(getattr(function, name, None))), None)
        for names in (("encode", "encoder", "enc"), ("decode", "decoder", "dec"))
    )
    if not isinstance(function, nn.Module) or encodes is None or decodes is None:
        return None
    return (
        f"this is a whole VAE, with `{encodes}` and `{decodes}`: vaeprobe.from_module(vae) takes its decoder"
        f" and encoder, vae.{decodes} its decoder alone"
    )


def _needed(function: object) -> list[str]:
    """Return the names of the arguments that a function cannot do without."""
    whole = whole_of(function)
    called = function is whole or (inspect.ismethod(function) and function.__name__.endswith("call_impl"))
    owner = whole.forward if whole is not None and called else function
    if not callable(owner):
        return []
    try:
        parameters = inspect.signature(owner).parameters.values()
    except (ValueError, TypeError):
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in variadic]


# -- rows -------------------------------------------------------------------------------------------


def check_rows(f: RowMap, z: Tensor, y: Tensor, dtype: torch.dtype, function: object) -> None:
    """Check that outputs are finite, that two calls agree, and that rows do not know of one another.

    Args:
        f: latents to outputs, shape (n, ...).
        z, y: latents and their outputs.
        dtype: what the network computes in.
        function: the network itself, to look for causes in.

    Raises:
        ContractError: one of these is not so.
    """
    if not torch.isfinite(y).all():
        bad = int((~torch.isfinite(y)).sum())
        raise NotFiniteError(
            f"the decoder returns NaN or infinity at {bad} of {y.numel()} outputs",
            hint="are the weights finite? `vaeprobe inspect` counts them",
        )
    tolerance = (float(y.abs().max()) or 1.0) * ROUNDING[dtype.itemsize]
    if _gap(f(z).reshape(y.shape), y) > tolerance:
        raise ContractError("two calls of the decoder on the same latents differ", hint=_noise(function))
    flipped = f(z.flip(0)).flip(0).reshape(y.shape)
    if max(_gap(flipped, y), _gap(_alone(f, z, y, function), y[:1])) > tolerance:
        raise ContractError("the decoder mixes the rows of a batch", hint=_mixing(function))


def _alone(f: RowMap, z: Tensor, y: Tensor, function: object) -> Tensor:
    """Return the output of the first row in a batch of one."""
    try:
        return f(z[:1]).reshape(1, *y.shape[1:])
    except (RuntimeError, ValueError) as error:
        raise ContractError(
            f"the decoder does not take a batch of one: {first_line(error)}",
            hint=_statistics(function)
            or "batch normalisation left in training mode, or a fixed batch size, does this",
        ) from error


def _noise(function: object) -> str:
    module = whole_of(function)
    if module is not None and any(hasattr(module, name) for name in ("encode", "encoder", "reparameterize")):
        return whole_hint(module) or (
            "is this a whole VAE? give its decoder alone: vaeprobe.from_module(vae), or vae.decode with latent_dim"
        )
    return "noise or dropout inside it? return the mean instead of a sample"


def _mixing(function: object) -> str:
    return _statistics(function) or (
        "batch normalisation left in training mode does this; save it after .eval()"
        if whole_of(function) is None
        else "something in it works across the batch: a mean or a norm over axis 0, a reshape that moves rows?"
    )


def _statistics(function: object) -> str | None:
    """Return a hint where batch normalisation keeps no statistics, and so uses the batch's even in eval mode."""
    module = whole_of(function)
    for name, part in module.named_modules() if module is not None else ():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            place = f"`{name}`" if name else "it"
            return (
                f"{place} is a batch normalisation that keeps no running statistics (track_running_stats=False), and"
                " normalises by the batch even in eval mode: set its running_mean and running_var to those of the data"
            )
    return None


# -- derivatives --------------------------------------------------------------------------------------


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
    if reverse is None:
        raise ContractError(
            "the decoder is not differentiable",
            hint="does it stand under torch.no_grad(), convert to numpy, detach, or round inside?"
            " return a tensor that keeps its graph",
        )
    forward = _products(f, tests, "forward")
    if forward is not None and _error(forward, reverse) <= DERIVATIVES[dtype.itemsize]:
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
        "has no forward-mode derivative" if forward is None else "gives wrong forward-mode derivatives"
    )


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
    return None if reverse is None or y.dtype != torch.float64 else _matches(f, wide, reverse, torch.float64)


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


def _products(f: RowMap, tests: _Tests, mode: Differentiation) -> Tensor | None:
    """Return <w, J v> for each row by one mode, or None where the mode fails."""
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
        except (RuntimeError, NotImplementedError, ValueError, TypeError):
            return None
    return torch.cat(out)


def _error(found: Tensor, right: Tensor) -> float:
    """Return the root mean square of the differences, relative to that of the numbers."""
    error = float((found - right).square().mean().sqrt())
    if error == 0:
        return 0.0
    size = float(right.square().mean().sqrt())
    return error / size if math.isfinite(error) and size > 0 else math.inf


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
