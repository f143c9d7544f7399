"""What is checked at the door: that a function is a deterministic map of single rows, and what it computes in.

Rounding is told from faults by the precision that the network really computes in, which is the coarsest that any of its
operations returns: a float32 network may end in `.double()`, and one with float32 outputs may run under autocast.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import re
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vaeprobe import cpu
from vaeprobe.autograd import Watching
from vaeprobe.errors import ContractError, ResourceError, VaeprobeError, out_of_memory
from vaeprobe.files.limits import more_than_there_is, with_more_memory
from vaeprobe.foreign import in_words
from vaeprobe.frozen import whole_of

__all__ = [
    "BATCHES",
    "CALLS",
    "FIRST",
    "FIXED_BATCH",
    "LaidOutError",
    "ROWS",
    "NotFiniteError",
    "RowMap",
    "again",
    "check_again",
    "check_batch",
    "check_finite",
    "check_kind",
    "check_rows",
    "check_weights",
    "first_line",
    "fixed_batch",
    "mixed",
    "mixing",
    "not_callable",
    "precision_of",
    "squeezed_away",
    "watched",
    "word",
]

RowMap = Callable[[Tensor], Tensor]
Double = Callable[[], RowMap | None]

# the largest relative difference of a row alone and among others, by bytes per number
ROUNDING = {8: 1e-9, 4: 1e-4, 2: 2e-2, 1: 2e-1}
# how often a function is asked: the second call of a TorchScript module differs from its first
CALLS = 3
# rows that a function is given at once, and first: of one that costs much no more
ROWS, FIRST = 4, 2
# roundings of the largest number on the way to the outputs within which differences between batches may be rounding
CANCELLED = 16
# share of the outputs that these may be, where they are told to be rounding
DIGITS_LEFT = 1e-4


# rows that networks are written or exported for, where they fix it
BATCHES = (1, 3, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, 128)
PATIENCE = 2.0  # seconds of trying them
FIXED_BATCH = (
    "where a batch size is fixed inside, as by view(64, ...), write z.shape[0] in its place (and export a program again, as .pt2 or"
    " traced with one that stays open)"
)


class LaidOutError(ContractError):
    """The outputs are there, one a latent, and are laid out otherwise."""


class NotFiniteError(ContractError):
    """A decoder returns NaN or infinity."""


# -- the precision that a network computes in -----------------------------------------------------


class _Coarsest(Watching):
    """Notes the coarsest floating type that any operation returns, how many numbers all do, and whether one rounds as for training."""

    def __init__(self) -> None:
        super().__init__()
        self.dtype: torch.dtype = torch.float64
        self.numbers = 0
        self.rounds = False

    def saw(self, func: Any, args: Any, out: object) -> None:
        self.rounds = self.rounds or _fakes_quantisation(func, args)
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, Tensor) and value.is_floating_point():
                self.dtype = min(self.dtype, value.dtype, key=lambda dtype: dtype.itemsize)
                self.numbers += value.numel()


def _fakes_quantisation(func: Any, args: Any) -> bool:
    """Return whether an operation rounds as a quantised network would, whose derivative torch gives as if it did not."""
    name = str(getattr(func, "__name__", ""))
    if "moving_avg_obs_f" in name:  # observes, and rounds where its third argument says so
        return len(args) > 2 and bool(args[2])
    return "fake_quantize" in name


def precision_of(f: RowMap, z: Tensor, y: Tensor) -> tuple[torch.dtype, int]:
    """Return the coarsest floating type that is computed on the way from latents to outputs, and what one row costs.

    Args:
        f: latents to outputs.
        z, y: latents and their outputs.

    Returns:
        the type, and how many numbers all operations together return for a row: those of the output where nobody
        sees inside.
    """
    dtype, numbers, _ = watched(f, z, y)
    return dtype, numbers


def watched(f: RowMap, z: Tensor, y: Tensor) -> tuple[torch.dtype, int, object]:
    """Return what `precision_of` does, and what the function gives meanwhile: None where it fails under watch.

    Raises:
        ContractError: it fakes quantisation.
    """
    watch, found = _Coarsest(), None
    # whatever foreign code raises, of this number of rows among it
    with contextlib.suppress(Exception), watch:
        found = f(z)
    if watch.rounds:
        raise ContractError(
            "the decoder rounds as its quantised form would (fake quantisation, of quantisation-aware training), and rounding has no"
            " derivative",
            hint="switch that off: network.apply(torch.ao.quantization.disable_fake_quant); or probe it as it was before prepare_qat",
        )
    coarsest = min(watch.dtype, y.dtype, z.dtype, key=lambda dtype: dtype.itemsize)
    return coarsest, max(watch.numbers, y.numel()) // len(z), found


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


def fixed_batch(f: RowMap, z: Tensor) -> int:
    """Return the number of rows that a function takes, and returns, where it does not take those of z; 0 where none was found.

    One that takes long to fail is not asked for many rows, which take as much more memory.
    """
    start = time.monotonic()
    for n in BATCHES:
        if time.monotonic() - start > PATIENCE:
            break
        with contextlib.suppress(Exception), torch.no_grad():  # whatever foreign code raises
            if len(f(z[cpu.arange(n) % len(z)])) == n:
                return n
    return 0


def rows_at_a_time(n: int, others: int, reason: str = "") -> ContractError:
    """Return the error for a function that takes so many rows, and not so many others."""
    return ContractError(
        f"the decoder runs with {n} row{'s' * (n > 1)} of latents at a time, and not with {others}{reason and ': '}{reason}",
        hint=FIXED_BATCH,
    )


def not_callable(function: object, z: Tensor, error: BaseException, f: RowMap | None = None) -> ContractError:
    """Return the error for a function that fails on latents, and why it likely does; `f` calls it, on other numbers of them."""
    if out_of_memory(error):
        raise ResourceError(
            f"the decoder takes, for latents of shape {tuple(z.shape)}, {more_than_there_is()}",
            hint=with_more_memory(
                "free some memory, or probe a smaller decoder (--submodule, in Python submodule=)"
            ),
        ) from None
    message = f"the decoder cannot be called on latents of shape {tuple(z.shape)}: {first_line(error)}"
    needed = _needed(function)
    if isinstance(error, TypeError) and len(needed) > 1:
        others = " and ".join(f"`{name}`" for name in needed[1:])
        return ContractError(
            f"the decoder needs {others} beside the latents `{needed[0]}`",
            hint=f"hold {others} at a value: functools.partial(decoder, {needed[1]}=...), or a wrapper with --arch",
        )
    if hint := whole_hint(function):
        return ContractError(message, hint=hint)
    if re.search(r"expected .*[345]d|must be [345]d|[345]d input", message, re.IGNORECASE):
        return ContractError(
            message,
            hint="it takes maps of latents: nn.Sequential(nn.Unflatten(1, (channels, height, width)), decoder) takes rows",
        )
    reason = first_line(error)
    if re.search(r"dtype|scalar type", reason):
        return ContractError(
            message, hint="numbers of two types in it: cast what it holds to the type of the latents"
        )
    if re.search(
        r"shape|size|dimension|broadcast|expand|mat1|match|index|channel|element|features",
        reason,
        re.IGNORECASE,
    ):
        if n := fixed_batch(f, z) if f is not None else 0:
            return rows_at_a_time(n, len(z), reason)
        return ContractError(
            message,
            hint=f"is the latent dimension really {z.shape[1]}? (--latent-dim, in Python latent_dim=)",
        )
    return ContractError(message, hint=f"does it run by itself, on torch.randn{tuple(z.shape)}?")


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


def check_rows(
    f: RowMap,
    z: Tensor,
    y: Tensor,
    dtype: torch.dtype,
    function: object,
    last: object = None,
    double: Double | None = None,
) -> None:
    """Check that outputs are finite, that two calls agree, and that rows do not know of one another.

    Each row is asked for alone, which tells a function that chooses or scales by its whole batch; more than two, of a function
    that costs little, also in another order.

    Args:
        f: latents to outputs, shape (n, ...).
        z, y: latents and their outputs.
        dtype: what the network computes in.
        function: the network itself, to look for causes in.
        last: what the last row alone gives, where that is known.
        double: makes the same map in float64, to tell rounding from rows that are mixed.

    Raises:
        ContractError: one of these is not so, or the network's `data` are assigned to when it is called.
    """
    check_finite(y)
    tolerance, before = _tolerance(y, dtype), _memory(function)
    gap = 0.0
    if len(z) > FIRST:
        check_again(f, z, y, dtype, function)
        gap = _gap(again(f, z.flip(0)).flip(0).reshape(y.shape), y)
    for k, (row, one) in enumerate(zip(torch.split(z, 1), torch.split(y, 1), strict=True)):
        known = last if len(z) <= FIRST and k == len(z) - 1 else None
        gap = max(gap, _gap(_alone(f, row, y, function, known), one))
    if gap > tolerance:
        for _ in range(CALLS):  # of calls that differ by turns one does
            check_again(f, z, y, dtype, function)
        _refuse(f, z, y, gap, dtype, mixing(function), double)
    if moved := _moved(before):
        raise ContractError(
            f"the decoder gives its tensor `{moved}` other memory in every call (`.data = ...`): torch crashes where it differentiates that",
            hint="leave the stored one alone: F.conv2d(x, weight) takes any, and torch.nn.utils.spectral_norm stands still in eval mode",
        )


def check_finite(y: Tensor) -> None:
    """Refuse outputs that are no numbers.

    Raises:
        NotFiniteError: some are not.
    """
    if not torch.isfinite(y).all():
        bad = int((~torch.isfinite(y)).sum())
        raise NotFiniteError(
            f"the decoder returns NaN or infinity at {bad} of {y.numel()} outputs",
            hint="are the weights finite? `vaeprobe inspect` counts them",
        )


def _tolerance(y: Tensor, dtype: torch.dtype) -> float:
    """Return how far outputs may be from those of another call."""
    return (float(y.abs().max()) or 1.0) * ROUNDING[dtype.itemsize]


def check_again(f: RowMap, z: Tensor, y: Tensor, dtype: torch.dtype, function: object) -> None:
    """Refuse a function that gives other outputs when it is called once more; arguments as for `check_rows`.

    Raises:
        ContractError: it does.
    """
    before = _memory(function)
    if _gap(again(f, z).reshape(y.shape), y) > _tolerance(y, dtype):
        moved = _moved(before)
        raise ContractError(
            "two calls of the decoder on the same latents differ",
            hint=f"it changes its own `{moved}` in every call: a spectral norm, say, which torch.nn.utils.spectral_norm keeps still in eval mode"
            if moved
            else _noise(function),
        )


def _memory(function: object) -> dict[str, tuple[Tensor, int]]:
    """Return the parameters and buffers of a network by name, with where their numbers are in memory."""
    module = whole_of(function)
    found = [] if module is None else [*module.named_parameters(), *module.named_buffers()]
    return {name: (t, _place(t)) for name, t in found}


def _moved(before: dict[str, tuple[Tensor, int]]) -> str | None:
    """Return the name of one whose numbers lie elsewhere than before: its `data` was assigned."""
    return next((name for name, (t, place) in before.items() if _place(t) != place), None)


def _place(t: Tensor) -> int:
    """Return where a tensor's numbers are; 0 where it has none of its own."""
    try:
        return t.data_ptr()
    except RuntimeError:
        return 0


def one_a_latent(y: Tensor, latents: int) -> Tensor:
    """Return outputs of which there is one for each latent.

    Raises:
        ContractError: there are more or fewer.
    """
    if y.is_nested:
        raise LaidOutError(
            "the decoder's output is a nested tensor", hint="return a dense one: y.to_padded_tensor(0.0)"
        )
    if latents > 1 and y.ndim > 1 and len(y) != latents and latents in y.shape:
        axis = y.shape.index(latents)
        raise LaidOutError(
            f"the decoder maps {latents} latents to an output of shape {tuple(y.shape)}: the batch seems to be axis {axis}",
            hint=f"move it to the front: a wrapper that returns y.movedim({axis}, 0)",
        )
    if y.ndim == 0 or len(y) != latents:
        raise ContractError(
            f"the decoder maps {latents} latent{'s' * (latents > 1)} to an output of shape {tuple(y.shape)}",
            hint=f"the first axis of the output must be the batch: as many outputs as latents, however many these are; {FIXED_BATCH}",
        )
    return y


def check_kind(y: Tensor) -> None:
    """Refuse outputs that hold no numbers, or not as tensors do.

    Raises:
        ContractError: they do not.
    """
    if type(y).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise ContractError(
            f"the decoder's output is of class `{type(y).__name__}`, which keeps its numbers in a way of its own",
            hint="return a plain tensor: y.full_tensor() of a DTensor, y.dequantize() of a quantised one",
        )
    if not y.numel():
        raise ContractError(
            f"the decoder's output has shape {tuple(y.shape)}, and no numbers",
            hint="does it return an empty part of something?",
        )


def check_batch(f: RowMap, z: Tensor, y: Tensor, few: int, double: Double | None = None) -> None:
    """Check that some rows of a batch are what they are alone.

    What holds of the rows that `check_rows` looked at need not hold of others, or of hundreds: a branch that the whole batch
    chooses, groups of eight that are normalised together, a norm over the batch that is cut off from some size on.

    Args:
        f: latents to rows of outputs.
        z, y: latents and their outputs.
        few: how many rows to look at.
        double: makes the same map in float64, to tell rounding from rows that are mixed.

    Raises:
        ContractError: they are not.
    """
    n = len(z)
    some = torch.arange(n - 1, -1, -max(1, n // few), device=z.device)[:few]
    with torch.no_grad():
        right = torch.cat([f(row) for row in torch.split(z[some], 1)])
    known = right.isfinite().all(dim=1)
    right, found = right[known], y.detach()[some.to(y.device)][known]
    if not len(right):
        return
    gap, size = _gap(found, right), float(right.abs().max()) or 1.0
    if gap > size * ROUNDING[right.dtype.itemsize]:
        dtype, _ = precision_of(f, z[some], right)
        if gap > size * ROUNDING[dtype.itemsize]:
            why = (
                f"it gives other outputs for {n} latents together than for one alone: does it choose or scale by the whole batch "
                "(x.sum(), x.max()), or take groups of rows together?"
            )
            _refuse(f, z, right, gap, dtype, why, double, some)


def _refuse(
    f: RowMap,
    z: Tensor,
    y: Tensor,
    gap: float,
    dtype: torch.dtype,
    hint: str,
    double: Double | None = None,
    some: Tensor | None = None,
) -> None:
    """Refuse outputs that differ between batches, unless rounding explains that.

    Args:
        double: makes the same map in float64: networks may make much of rounding, where rows are not mixed.
        some: which rows of the batch were looked at; None for all.

    Raises:
        ContractError: rows are mixed, or outputs are nothing but rounding.
    """
    some = torch.arange(len(z), device=z.device) if some is None else some
    if dtype.itemsize < 8 and double is not None and _apart_in_double(double(), z, some):
        return
    z = z[some]
    largest = _largest_on_the_way(f, z)
    if gap <= CANCELLED * torch.finfo(dtype).eps * largest:
        # smaller than what they are made of, and right nonetheless
        if gap <= DIGITS_LEFT * float(y.abs().max()):
            return
        wider = "" if dtype.itemsize >= 8 else " --dtype float64 tells rounding from rows that are mixed"
        raise ContractError(
            f"the decoder's outputs, within {float(y.abs().max()):.1g} of 0, differ from one batch to another by"
            f" {gap:.1g}, as the rounding of the numbers on the way to them, up to {largest:.1g}, does",
            hint=f"do they cancel, so that no latent moves the output?{wider}",
        )
    raise squeezed_away() if _squeezes_its_batch(f, z) else mixed(hint)


def _apart_in_double(f: RowMap | None, z: Tensor, some: Tensor) -> bool:
    """Return whether in float64 some rows of a batch are what they are alone."""
    if f is None:
        return False
    try:
        with torch.no_grad():
            together = f(z.double())[some].flatten(1)
            alone = torch.cat([f(row).flatten(1) for row in torch.split(z[some].double(), 1)])
    except Exception:  # whatever foreign code raises in another precision
        return False
    if together.dtype != torch.float64:
        return False
    return _gap(together, alone) <= (float(together.abs().max()) or 1.0) * ROUNDING[8]


def mixed(hint: str) -> ContractError:
    """Return the error for a function whose rows know of one another."""
    return ContractError("the decoder mixes the rows of a batch", hint=hint)


class _Largest(Watching):
    """Notes the largest number that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.size: float = 0.0

    def saw(self, func: Any, args: Any, out: object) -> None:
        if isinstance(out, Tensor) and out.is_floating_point() and out.numel():
            # a mask may be infinite
            self.size = max(self.size, float(out.abs().nan_to_num(nan=0.0, posinf=0.0).max()))


def _largest_on_the_way(f: RowMap, z: Tensor) -> float:
    noted = _Largest()
    with noted:
        f(z)
    return noted.size


def again(f: RowMap, z: Tensor) -> Tensor:
    """Return the outputs of a later call.

    Raises:
        ContractError: it fails, or they are not one a latent.
    """
    try:
        return one_a_latent(f(z), len(z))
    except VaeprobeError:
        raise
    except Exception as error:  # whatever foreign code raises
        if out_of_memory(error):
            raise
        taken = [] if len(z) == FIRST else [_takes(f, pair) for pair in torch.split(z, FIRST)]
        if taken and all(taken):
            raise rows_at_a_time(FIRST, len(z), first_line(error)) from error
        if any(taken) and (ours := in_words(error)) is not None:  # it is the latents, not their number
            raise ours from error
        raise ContractError(
            f"the decoder was called once, and fails when it is called again: {first_line(error)}",
            hint="does a call change it? write what stands under torch.compile or torch.cond in plain Python",
        ) from error


def _takes(f: RowMap, z: Tensor) -> bool:
    try:
        return len(f(z)) == len(z)
    except Exception:  # whatever foreign code raises
        return False


class _Squeezes(Watching):
    """Notes the shapes of what is squeezed, before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[torch.Size, torch.Size]] = []

    def saw(self, func: Any, args: Any, out: object) -> None:
        name = str(getattr(func, "__name__", ""))
        if name.startswith("squeeze") and isinstance(out, Tensor):
            self.shapes.append((args[0].shape, out.shape))


def _squeezes_its_batch(f: RowMap, z: Tensor) -> bool:
    """Return whether a function squeezes away an axis that is as long as the batch, where that is one."""
    noted = []
    for rows in (z[:1], z[:1].expand(2, -1)):
        watch = _Squeezes()
        with contextlib.suppress(Exception), torch.no_grad(), watch:  # whatever foreign code raises
            f(rows)
        noted.append(watch.shapes)
    return any(
        len(out) < len(out_of_two) and (1, 2) in zip(given, given_of_two, strict=False)
        for (given, out), (given_of_two, out_of_two) in zip(*noted, strict=False)
    )


def squeezed_away() -> ContractError:
    """Return the error for a function that loses a batch of one on the way."""
    return ContractError(
        "the decoder squeezes a batch of one away: `.squeeze()` drops every axis of length 1, that of the batch as well",
        hint="say which axis is meant: .squeeze(1) for axis 1, or y.reshape(len(z), ...) in its place; a program is to be exported again",
    )


def _alone(f: RowMap, z: Tensor, y: Tensor, function: object, known: object = None) -> Tensor:
    """Return the output of a row in a batch of one, where it is not known.

    Args:
        y: outputs of several rows.
    """
    try:
        alone = known if isinstance(known, Tensor) else f(z)
    except VaeprobeError:
        raise
    except Exception as error:  # whatever foreign code raises, an assertion on the size of the batch among it
        if _squeezes_its_batch(f, z):
            raise squeezed_away() from error
        raise ContractError(
            f"the decoder does not take a batch of one: {first_line(error)}",
            hint=_statistics(function)
            or (
                "batch normalisation left in training mode does this"
                if _in_training(function)
                else FIXED_BATCH
            ),
        ) from error
    if alone.shape[:1] != (1,) and _squeezes_its_batch(f, z):
        raise squeezed_away()
    alone = one_a_latent(alone, 1).reshape(1, *y.shape[1:])
    if not torch.isfinite(alone).all():
        raise NotFiniteError(
            "the decoder returns NaN or infinity for a batch of one, and finite numbers for more",
            hint=_statistics(function) or "a standard deviation over axis 0, the batch, does this",
        )
    return alone


def _noise(function: object) -> str:
    module = whole_of(function)
    if module is not None and any(hasattr(module, name) for name in ("encode", "encoder", "reparameterize")):
        return whole_hint(module) or (
            "is this a whole VAE? give its decoder alone: vaeprobe.from_module(vae), or vae.decode with latent_dim"
        )
    return "noise or dropout inside it? return the mean instead of a sample"


def mixing(function: object) -> str:
    """Return what in a function may mix the rows of a batch."""
    return _statistics(function) or (
        "batch normalisation left in training mode does this: call .eval() on the network inside it"
        if _in_training(function)
        else "something in it works across the batch: a mean or a norm over axis 0, a row that all look at, a reshape"
        " that moves rows?"
    )


def _in_training(function: object) -> bool:
    """Whether batch normalisation in training mode is in what a Python function refers to, or may be in what nobody sees into."""
    if whole_of(function) is not None:  # probed in eval mode
        return False
    try:
        names = inspect.getclosurevars(function)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return not inspect.isbuiltin(function)
    reached = [whole_of(value) for value in (*names.nonlocals.values(), *names.globals.values())]
    parts = [part for module in reached if module is not None for part in module.modules()]
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training for part in parts):
        return True
    return any(inspect.isfunction(value) and _in_training(value) for value in names.nonlocals.values())


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


def _gap(a: Tensor, b: Tensor) -> float:
    """Return the largest difference, infinite where there is none to tell: NaN is larger than nothing."""
    gap = float((a - b).abs().max())
    return math.inf if math.isnan(gap) else gap


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
