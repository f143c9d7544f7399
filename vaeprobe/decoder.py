"""The waist of the house: every format becomes a `Decoder`, and every probe takes one."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cache
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vaeprobe.errors import ContractError, UsageError
from vaeprobe.findings import REVERSE_MODE, TRAINING_MODE
from vaeprobe.intervals import stream
from vaeprobe.likelihoods import Likelihood, Parameter
from vaeprobe.report import Artifact, Finding

__all__ = ["Decoder", "Encoder", "Group"]

Differentiation = Literal["forward", "reverse"]
OUTPUT_KEYS = ("reconstruction", "recon_x", "sample", "mean", "loc", "mu", "x", "output", "logits")


@dataclass(frozen=True, slots=True)
class Group:
    """Consecutive latents with one prior: `normal` (N(0, 1) each) or `onehot` (a uniform categorical)."""

    kind: Literal["normal", "onehot"]
    size: int


@cache
def load_forward_mode() -> None:
    """Load torch's forward-mode decompositions, without the deprecation warning that torch gives itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import_module("torch._decomp.decompositions_for_jvp")


def gradient(
    y: Tensor,
    leaf: Tensor,
    w: Tensor | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> Tensor:
    """Return the gradient of <w, y> with respect to `leaf` (w = 1 by default).

    The same as `torch.autograd.grad(y, leaf, w)`, which would import a computer algebra system for half a second.
    """
    value = (y if w is None else y * w).sum()
    (found,) = torch.autograd.grad(value, leaf, create_graph=create_graph, retain_graph=retain_graph)
    return found


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Switch off the fused CPU kernels that have no forward-mode derivative."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    load_forward_mode()
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def frozen_copy(module: nn.Module) -> nn.Module:
    """Return a copy of a module in eval mode that shares its parameters and buffers.

    The user's own module keeps its training mode.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return module.eval()
    shared = {id(t): t for t in itertools.chain(module.parameters(), module.buffers())}
    clone: nn.Module = copy.deepcopy(module, memo=shared)
    # an exported program refuses .eval(): it is a fixed graph already
    return clone if isinstance(clone, torch.fx.GraphModule) else clone.eval()


@dataclass(frozen=True, eq=False)
class Decoder:
    """A deterministic, differentiable map from latents to data, checked once at the door.

    The contract: rows are independent, two calls agree, outputs are finite real numbers, and forward- and
    reverse-mode derivatives agree (`<w, J v> = <J^T w, v>`) on three successive calls.  After that nothing
    downstream checks again.

    Args:
        function: takes latents, shape (n, latent_dim), returns outputs, shape (n, ...); an `nn.Module` is
            put in eval mode on a copy that shares its parameters.
        latent_dim: number of latent dimensions d.
        name: how to call it in reports.
        dtype: type of the latents it takes; by default that of the module's parameters, else float64 where
            the function takes it and float32 where not.
        device: by default that of the module's parameters, else the CPU.
        prior: groups of latents in order; by default all N(0, 1).
        parameter: what the output is to a likelihood, its mean or its natural parameter (logits, log-rates).
        natural: the same map without its last activation, where the output is a mean and it is known.
        likelihood: name of the likelihood the decoder was trained with, where known.
        output: which output to take where the function returns a tuple or a dict.
        encoder: the encoder of the same checkpoint.
        artifact: the file it came from.
        notes: what the loader wants the reader to know.

    Attributes:
        output_shape: shape of one output, without the batch.
        differentiation: "forward", or "reverse" where forward mode is not to be had.

    Raises:
        ContractError: the function breaks the contract.
        UsageError: latent_dim and prior disagree.

    Example:
        >>> decoder = Decoder(lambda z: z @ torch.eye(3, 2, dtype=z.dtype).T, latent_dim=2)
        >>> decoder(torch.zeros(5, 2)).shape
        torch.Size([5, 3])
    """

    function: Callable[[Tensor], Any]
    latent_dim: int
    _: KW_ONLY
    name: str = "decoder"
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None
    prior: tuple[Group, ...] = ()
    parameter: Parameter = "mean"
    natural: Callable[[Tensor], Any] | None = None
    likelihood: str | None = None
    output: int | str | None = None
    encoder: Encoder | None = None
    artifact: Artifact | None = None
    notes: tuple[Finding, ...] = ()
    output_shape: torch.Size = field(init=False)
    differentiation: Differentiation = field(init=False, default="forward")

    def __post_init__(self) -> None:
        if self.latent_dim < 1:
            raise UsageError(f"a decoder needs at least one latent, not {self.latent_dim}")
        prior = self.prior or (Group("normal", self.latent_dim),)
        if sum(g.size for g in prior) != self.latent_dim:
            raise UsageError(
                f"the prior's groups have {sum(g.size for g in prior)} latents, the decoder {self.latent_dim}"
            )
        self._set("prior", prior)
        if isinstance(self.function, nn.Module):
            if self.function.training:
                note = Finding(TRAINING_MODE, "the module was in training mode: probed in eval mode")
                self._set("notes", (*self.notes, note))
            self._set("function", frozen_copy(self.function))
        if isinstance(self.natural, nn.Module):
            self._set("natural", frozen_copy(self.natural))
        self._set("device", torch.device(self.device or _device_of(self.function)))
        self._check_contract()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    # -- calling ---------------------------------------------------------------------------------

    def __call__(self, z: Tensor) -> Tensor:
        """Return the outputs, shape (n, *output_shape), of latents of shape (n, latent_dim)."""
        return self._pick(self.function(z.to(device=self.device, dtype=self.dtype)))

    def flat(self, z: Tensor) -> Tensor:
        """Return the outputs as rows, shape (n, data_dim)."""
        return self(z).reshape(len(z), -1)

    def natural_flat(self, z: Tensor) -> Tensor:
        """Return the natural parameters as rows, shape (n, data_dim), where they are known.

        Raises:
            UsageError: only the mean is known (`has_natural` is False).
        """
        if self.parameter == "natural":
            return self.flat(z)
        if self.natural is None:
            raise UsageError("the natural parameter of this decoder is not known")
        return self._pick(self.natural(z.to(device=self.device, dtype=self.dtype))).reshape(len(z), -1)

    @property
    def has_natural(self) -> bool:
        """Whether `natural_flat` can be called."""
        return self.parameter == "natural" or self.natural is not None

    def natural_for(self, likelihood: Likelihood | None) -> bool:
        """Whether a likelihood's metric is taken on the natural parameter rather than on the output.

        Not for a Gaussian, whose natural parameter is its mean, nor where the last activation belongs to
        another likelihood (the logits of a Bernoulli are no log-rates).
        """
        if likelihood is None or likelihood.name == "gaussian":
            return False
        return self.has_natural and self.likelihood in (None, likelihood.name)

    @property
    def data_dim(self) -> int:
        """Number of outputs m."""
        return math.prod(self.output_shape)

    @property
    def continuous(self) -> list[int]:
        """Indices of the latents with a density: those that a derivative makes sense for."""
        out: list[int] = []
        start = 0
        for group in self.prior:
            if group.kind == "normal":
                out.extend(range(start, start + group.size))
            start += group.size
        return out

    @property
    def module(self) -> nn.Module | None:
        """The network, where the decoder is one."""
        return self.function if isinstance(self.function, nn.Module) else None

    def with_function(self, function: Callable[[Tensor], Any], **changes: Any) -> Decoder:
        """Return a decoder with another map and the same settings (rotated, restricted, ...)."""
        return replace(self, function=function, **changes)

    def _pick(self, out: Any) -> Tensor:
        if isinstance(out, Tensor):
            return out
        if isinstance(out, Mapping):
            keys = (
                [self.output]
                if self.output is not None
                else [k for k in OUTPUT_KEYS if k in out] or list(out)
            )
            if keys and isinstance(out.get(keys[0]), Tensor):
                chosen: Tensor = out[keys[0]]
                return chosen
            raise ContractError(
                f"the decoder returns a dict with keys {sorted(map(str, out))}",
                hint="say which: pass output=KEY, or choose it in a wrapper (--arch)",
            )
        if isinstance(out, Sequence) and not isinstance(out, str) and out:
            chosen_at = out[int(self.output) if self.output is not None else 0]
            return self._pick(chosen_at)
        attribute = next((k for k in OUTPUT_KEYS if isinstance(getattr(out, k, None), Tensor)), None)
        if attribute is None:
            raise ContractError(f"the decoder returns {type(out).__name__}, not a tensor")
        found: Tensor = getattr(out, attribute)
        return found

    # -- the contract ----------------------------------------------------------------------------

    def _probe_rows(self, n: int) -> Tensor:
        rng = stream(0, "contract")
        z = torch.from_numpy(rng.standard_normal((n, self.latent_dim)))
        start = 0
        for group in self.prior:
            if group.kind == "onehot":
                code = torch.arange(n) % group.size
                z[:, start : start + group.size] = torch.nn.functional.one_hot(code, group.size).double()
            start += group.size
        return z

    def _first_call(self, z: Tensor) -> Tensor:
        """Call once, settling the dtype."""
        known = self.dtype or _dtype_of(self.function)
        candidates = [known] if known else [torch.float64, torch.float32]
        for dtype in candidates:
            self._set("dtype", dtype)
            try:
                return self(z)
            except ContractError:
                raise
            except Exception as error:
                if dtype is not candidates[-1]:
                    continue
                raise ContractError(
                    f"the decoder cannot be called on latents of shape {tuple(z.shape)}: {_first_line(error)}",
                    hint=f"is the latent dimension really {self.latent_dim}? (--latent-dim)",
                ) from error
        raise AssertionError("unreachable")

    def _check_contract(self) -> None:
        z = self._probe_rows(4)
        with torch.no_grad(), differentiable_kernels():
            y = self._first_call(z)
            if y.ndim == 0 or y.shape[0] != len(z):
                raise ContractError(
                    f"the decoder maps {len(z)} latents to an output of shape {tuple(y.shape)}",
                    hint="the first axis of the output must be the batch",
                )
            if y.ndim == 1:
                y = y[:, None]
            self._set("output_shape", y.shape[1:])
            if not y.is_floating_point():
                raise ContractError(
                    f"the decoder's output is {str(y.dtype).removeprefix('torch.')}, which has no derivative",
                    hint="probe the layer before the rounding (--submodule, or a wrapper with --arch)",
                )
            if not torch.isfinite(y).all():
                bad = int((~torch.isfinite(y)).sum())
                raise ContractError(
                    f"the decoder returns NaN or infinity at {bad} of {y.numel()} outputs",
                    hint="are the weights finite? `vaeprobe inspect` counts them",
                )
            scale = float(y.abs().max()) or 1.0
            tolerance = scale * (1e-9 if y.dtype == torch.float64 else 2e-2 if y.itemsize == 2 else 1e-4)
            if _gap(self(z), self(z)) > tolerance:
                raise ContractError(
                    "two calls of the decoder on the same latents differ",
                    hint="noise or dropout inside it? return the mean instead of a sample",
                )
            flipped = self(z.flip(0)).flip(0).reshape(y.shape)
            if max(_gap(flipped, y), _gap(self._alone(z), y[:1])) > tolerance:
                raise ContractError(
                    "the decoder mixes the rows of a batch",
                    hint="batch normalisation left in training mode does this; save it after .eval()",
                )
        self._check_derivatives(z)

    def _alone(self, z: Tensor) -> Tensor:
        """Return the output of the first row in a batch of one."""
        try:
            return self(z[:1]).reshape(1, *self.output_shape)
        except (RuntimeError, ValueError) as error:
            raise ContractError(
                f"the decoder does not take a batch of one: {_first_line(error)}",
                hint="batch normalisation left in training mode, or a fixed batch size, does this",
            ) from error

    def _check_derivatives(self, z: Tensor) -> None:
        """Compare forward and reverse mode on three successive calls.

        TorchScript's forward mode silently returns zeros from the second call on, which one call misses.
        """
        reverse = self._adjoint_pairs(z, "reverse")
        if reverse is None:
            raise ContractError(
                "the decoder is not differentiable",
                hint="does it convert to numpy, detach, or round inside? return a tensor that keeps its graph",
            )
        forward = self._adjoint_pairs(z, "forward")
        if forward is None or not _agree(forward, reverse, self.dtype or torch.float32):
            # finite differences say whether reverse mode is right
            slope, noise = self._finite_difference(z)
            if abs(reverse[0] - slope) > 5e-2 * abs(slope) + noise:
                raise ContractError(
                    "the derivatives of the decoder do not match finite differences",
                    hint="a custom autograd function without a correct backward pass?",
                )
            self._set("differentiation", "reverse")
            why = (
                "has no forward-mode derivative"
                if forward is None
                else "gives wrong forward-mode derivatives"
            )
            note = Finding(REVERSE_MODE, f"the decoder {why}: reverse mode is used, which is slower")
            self._set("notes", (*self.notes, note))

    def _adjoint_pairs(self, z: Tensor, mode: Differentiation) -> list[float] | None:
        """Return <w, J v> by one mode for three successive calls, or None where the mode fails."""
        out = []
        for call in range(3):
            v, w = self._test_vectors(call)
            x = z.to(device=self.device, dtype=self.dtype)
            try:
                with differentiable_kernels():
                    if mode == "forward":
                        with torch.no_grad():
                            moved = torch.func.jvp(self.flat, (x,), (v,))[1]
                        out.append(float((w.double() * moved.double()).sum()))
                    else:
                        leaf = x.clone().requires_grad_(True)
                        with torch.enable_grad():
                            pulled = gradient(self.flat(leaf), leaf, w)
                        out.append(float((pulled.double() * v.double()).sum()))
            except (RuntimeError, NotImplementedError, ValueError, TypeError):
                return None
        return out

    def _test_vectors(self, call: int) -> tuple[Tensor, Tensor]:
        rng = stream(call, "adjoint")
        v = torch.zeros(4, self.latent_dim, dtype=torch.float64)
        v[:, self.continuous] = torch.from_numpy(rng.standard_normal((4, len(self.continuous))))
        w = torch.from_numpy(rng.standard_normal((4, self.data_dim)))
        return v.to(self.device, self.dtype), w.to(self.device, self._output_dtype)

    @property
    def _output_dtype(self) -> torch.dtype:
        with torch.no_grad():
            return self(self._probe_rows(1)).dtype

    def _finite_difference(self, z: Tensor) -> tuple[float, float]:
        """Return <w, J v> by central differences, and a bound on its rounding noise."""
        v, w = self._test_vectors(0)
        step = 1e-6 if self.dtype == torch.float64 else 1e-3
        with torch.no_grad():
            x = z.to(device=self.device, dtype=self.dtype)
            above, below = self.flat(x + step * v).double(), self.flat(x - step * v).double()
        rounding = torch.finfo(w.dtype).eps * float(above.abs().max()) * float(w.double().norm())
        return float((w.double() * (above - below)).sum()) / (2 * step), 10 * rounding / step


@dataclass(frozen=True, eq=False)
class Encoder:
    """A map from data to the mean and log-variance of a diagonal Gaussian posterior.

    Args:
        function: takes data, shape (n, *input_shape), returns (mean, log variance), each (n, latent).
        latent_dim: number of (continuous) latents.
        input_shape: shape of one data row, where known; rows of another shape with as many numbers are
            reshaped.
        dtype: type of the data it takes.
        notes: what the loader wants the reader to know.
    """

    function: Callable[[Tensor], tuple[Tensor, Tensor]]
    latent_dim: int
    _: KW_ONLY
    input_shape: tuple[int, ...] | None = None
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"
    notes: tuple[Finding, ...] = ()

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior means and log-variances, each of shape (n, latent_dim).

        Raises:
            UsageError: the rows of `x` do not have the encoder's shape.
            ContractError: the encoder does not return two (n, latent_dim) tensors.
        """
        x = x.to(device=self.device, dtype=self.dtype)
        if self.input_shape is not None:
            if x[0].numel() != math.prod(self.input_shape):
                raise UsageError(
                    f"the data rows have shape {tuple(x.shape[1:])}, the encoder takes {self.input_shape}",
                    hint="resize or pad the images to the shape the model was trained on",
                )
            x = x.reshape(len(x), *self.input_shape)
        with torch.no_grad():
            try:
                mean, log_variance = self.function(x)
            except RuntimeError as error:
                raise UsageError(
                    f"the encoder cannot take data of shape {tuple(x.shape)}: {_first_line(error)}"
                ) from error
        want = (len(x), self.latent_dim)
        if tuple(mean.shape) != want or tuple(log_variance.shape) != want:
            raise ContractError(
                f"the encoder returns shapes {tuple(mean.shape)} and {tuple(log_variance.shape)}, not twice {want}"
            )
        return mean, log_variance


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _tensors_of(function: object) -> Iterator[Tensor]:
    if isinstance(function, nn.Module):
        yield from itertools.chain(function.parameters(), function.buffers())


def _dtype_of(function: object) -> torch.dtype | None:
    return next((t.dtype for t in _tensors_of(function) if t.is_floating_point()), None)


def _device_of(function: object) -> torch.device:
    return next((t.device for t in _tensors_of(function)), torch.device("cpu"))


def _agree(a: list[float], b: list[float], dtype: torch.dtype) -> bool:
    relative = 1e-6 if dtype == torch.float64 else 2e-2 if dtype.itemsize == 2 else 1e-3
    scale = max(map(abs, b), default=0.0)
    return all(math.isfinite(x) and abs(x - y) <= relative * scale + 1e-12 for x, y in zip(a, b, strict=True))
