"""Ways to push tangents through a decoder, and which of them to trust with a given one.

Each method takes f, latents x of shape (n, latent) and directions v of shape (d, n, latent), and returns f(x),
shape (n, data), and the tangents J v.  They differ in speed and in what they can differentiate, so the
fastest that agrees with the plainest at a few latents is chosen, once per decoder.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, finalize, ref

import numpy as np
import torch
from torch import Tensor, nn

from vaeprobe.autograd import Watching, differentiable_kernels, full_precision, gradient, jvp, over_directions
from vaeprobe.contract import FIRST, ROWS, check_batch
from vaeprobe.decoder import Decoder
from vaeprobe.derivatives import FEW_APART
from vaeprobe.engine.by_pixel import MAPS
from vaeprobe.engine.chunks import BUDGET, Size
from vaeprobe.engine.columns import FEW_ROWS, Columns, Known, in_blocks
from vaeprobe.engine.convolutions import LaidOut
from vaeprobe.engine.local import LocalMap
from vaeprobe.engine.tangents import Unsupported, located, push, push_alone
from vaeprobe.engine.windows import Places, Spread
from vaeprobe.errors import ContractError, out_of_memory
from vaeprobe.frozen import tensors_of
from vaeprobe.intervals import stream
from vaeprobe.kept import signature
from vaeprobe.progress import counted

__all__ = [
    "Choice",
    "carried",
    "choose",
    "mapped",
    "repeated",
    "reversed_twice",
    "row_by_row",
    "share_choices",
]

Function: TypeAlias = Callable[[Tensor], Tensor]
Method: TypeAlias = Callable[[Function, Tensor, Tensor], tuple[Tensor, Columns]]

TEST_POINTS = 7  # a number that no layer has as its width by accident
FEW_POINTS = 3  # of a large decoder; odd, so that most of them is a majority
UNSTEADY = 1e-2  # relative change of J v under the rounding of latents, beyond which nothing can be told
SITES = 16  # columns whose derivatives are held to be zero outside of their windows
WORTH = 0.8  # of the work of a whole column, up to which windows of columns pay for their bookkeeping
DISAGREE = "windows of columns disagree with plain forward mode"
HELD = 64 << 20  # bytes that stay while tangents come in blocks, which threads share the more evenly the more
GRAPH = 16  # of what reverse mode holds at a latent, the part that counts as tangents: with two directions 8 times `BUDGET` is held, with more less
SOON = 2e10  # multiply-adds of a chunk for the sake of threads: a fraction of a second, for progress and `--time`
NUMBER = 50  # multiply-adds that take as long as to write one number and read it again


def carried(f: Function, x: Tensor, v: Tensor) -> tuple[Tensor, Columns]:
    """Carry the tangents along with the primal (see `vaeprobe.engine.tangents`): the fastest."""
    with torch.no_grad(), differentiable_kernels():
        return push(f, x, v)


def mapped(f: Function, x: Tensor, v: Tensor) -> tuple[Tensor, Columns]:
    """Forward mode of torch.func, vectorised over directions."""
    with torch.no_grad(), differentiable_kernels():
        pairs = over_directions(lambda u: jvp(f, (x,), (u,)), v)
    return pairs[0][0], Known(pairs[1])


def repeated(f: Function, x: Tensor, v: Tensor) -> tuple[Tensor, Columns]:
    """Forward mode of torch.func on a batch repeated for every direction: the plainest."""
    with torch.no_grad(), differentiable_kernels():
        pair = jvp(f, (x.repeat(len(v), 1),), (v.flatten(0, 1),))
    return pair[0][: len(x)], Known(pair[1].reshape(len(v), len(x), -1))


def reversed_twice(f: Function, x: Tensor, v: Tensor) -> tuple[Tensor, Columns]:
    """Reverse mode twice: J v is the derivative of <J^T w, v> in w."""
    with torch.enable_grad(), differentiable_kernels():
        leaf = x.detach().clone().requires_grad_(True)
        y = f(leaf)
        w = torch.zeros_like(y, requires_grad=True)
        pulled = gradient(y, leaf, w, create_graph=True)
        moved = [gradient(pulled, w, u, retain_graph=True) for u in v]
    return y.detach(), Known(torch.stack(moved))


def row_by_row(f: Function, x: Tensor, v: Tensor) -> tuple[Tensor, Columns]:
    """Reverse mode, one output at a time: works for whatever has a backward pass, and is slow."""
    with torch.enable_grad(), differentiable_kernels():
        leaf = x.detach().clone().requires_grad_(True)
        y = f(leaf)
        rows = [gradient(y[:, i], leaf, retain_graph=True) for i in range(y.shape[1])]
    J = torch.stack(rows, dim=1)
    return y.detach(), Known(torch.einsum("nmk,dnk->dnm", J, v))


def windowed(f: Function, x: Tensor) -> tuple[Tensor, LocalMap]:
    """Return f(x) and its derivative for any columns, as windows of the output (see `vaeprobe.engine.local`).

    Raises:
        Spread: a latent reaches the whole output.
        Unsupported: tangents cannot be carried.
    """
    with torch.no_grad(), differentiable_kernels():
        return located(f, x)


@dataclass(frozen=True)
class Reach:
    """What one column takes where it is a window of the output.

    Attributes:
        window: its sides, channels first.
        shape: those of the output.
        widest: numbers in the widest window on the way.
        work: multiply-adds, those of the primal not among them.
    """

    window: tuple[int, ...]
    shape: tuple[int, ...]
    widest: int
    work: float

    @property
    def words(self) -> str:
        """Return the sides of both, without channels: `130 x 130 of 512 x 512`."""
        return " of ".join(" x ".join(map(str, sides[1:] or sides)) for sides in (self.window, self.shape))


class Batches:
    """How many rows a batch of a decoder may have that a look at one found not to know of others."""

    def __init__(self, few: int = 2 * ROWS, double: Callable[[], Function | None] | None = None) -> None:
        self.few, self.most, self.double = few, 1, double

    def check(self, f: Function, x: Tensor, y: Tensor) -> None:
        """Look at some rows of outputs y at latents x, where there are more of them than ever.

        Raises:
            ContractError: the decoder mixes rows.
        """
        if len(x) > self.most:
            with differentiable_kernels():
                check_batch(f, x, y, self.few, self.double)
            self.most = len(x)


@dataclass(frozen=True)
class Choice:
    """How to differentiate one decoder.

    Attributes:
        method: the fastest that is right.
        plain: the plainest that works.
        widest: numbers per latent and direction in the widest tangents, for J.
        widest_gram: the same for Gram matrices, which may do without the widest.
        at_once: the same of those that Gram matrices take of all latents of a chunk, where the others come in blocks of some.
        held: numbers per latent that stay meanwhile; 0 where no tangents come in blocks.
        work: multiply-adds per latent and direction, numbers written counted as some: the same on every machine.
        known_by: a hash of what the decoder gives at a few latents, and of how.
        laid_out: whether f itself is as right with the layout of tangents, which is faster.
        reach: of a latent, where its column is so small a window of the output that it is right and worth while to
            compute only that.
        spread: why it is not, in short.
        batches: whose rows were looked at.
        state: of the weights then (see `_state_of`).
    """

    method: Method
    plain: Method
    widest: int
    widest_gram: int
    work: float
    known_by: bytes
    laid_out: bool = False
    reach: Reach | None = None
    spread: str = ""
    batches: Batches = field(default_factory=Batches, compare=False)
    at_once: int = 0
    held: int = 0
    state: tuple[object, ...] = field(default=(), compare=False)

    def size_for_gram(self, itemsize: int, directions: int, chunk: int | None, weights: int = 0) -> Size:
        """Return how many latents and directions to take at a time for Gram matrices.

        Args:
            itemsize: bytes per number.
            directions: how many there are in all.
            chunk: latents at a time, where the caller knows better.
            weights: bytes per latent that the metric takes meanwhile.
        """
        size = Size.fitting(self.widest_gram, itemsize, directions, chunk)
        if chunk is not None or not self.held or size.directions < directions:
            return size
        most = min(
            BUDGET // (itemsize * directions * self.at_once),
            HELD // (itemsize * self.held + weights),
            math.floor(SOON / (directions * max(1.0, self.work))),
        )
        return replace(size, points=max(size.points, most))

    def work_of(self, columns: int) -> float:
        """Return the multiply-adds that so many columns at one latent take, about."""
        return columns * self.work if self.reach is None else self.work + columns * self.reach.work

    @property
    def how(self) -> str:
        """How columns are computed, as a sentence goes on to say."""
        if self.reach is not None and self.reach.window == self.reach.shape:
            return ""  # it saves on the way alone
        if self.reach is not None:
            return f"each in the {self.reach.words} outputs that a latent reaches"
        return f"each over the whole output ({self.spread})" if self.spread else ""

    def value(self, f: Function, x: Tensor) -> Tensor:
        """Return f(x)."""
        found = _laid_out(f, x) if self.laid_out else None
        y = _plain(f, x) if found is None else found
        self.batches.check(f, x, y)
        return y

    def push(self, f: Function, x: Tensor, v: Tensor) -> tuple[Tensor, Columns]:
        """Return f(x) and J v.

        Raises:
            ContractError: `f` cannot be differentiated at these latents, where its control flow leads elsewhere than at the
                test latents.
        """
        y, columns = self._pushed(f, x, v)
        self.batches.check(f, x, y)
        return y, columns

    def columns(self, f: Function, x: Tensor, v: Tensor) -> Columns:
        """Return J v, as `push` does, without the outputs where nobody needs them.

        Raises:
            ContractError: as for `push`.
        """
        if self.method is carried and len(x) <= self.batches.most:
            with contextlib.suppress(Unsupported), torch.no_grad(), differentiable_kernels():
                return push_alone(f, x, v)
        return self.push(f, x, v)[1]

    def _pushed(self, f: Function, x: Tensor, v: Tensor) -> tuple[Tensor, Columns]:
        failure: Exception | None = None
        for method in dict.fromkeys((self.method, self.plain, mapped, reversed_twice, row_by_row)):
            try:
                y, columns = method(f, x, v)
                if method in (self.method, self.plain) or _is_adjoint(f, x, v, columns.value()):
                    return y, columns
            except (Unsupported, RuntimeError, NotImplementedError) as error:
                if out_of_memory(error):
                    raise
                failure = failure or error
        _plain(f, x)  # raises what it raises of plain latents
        raise ContractError("the decoder cannot be differentiated at some of these latents") from failure

    def locate(self, f: Function, x: Tensor) -> tuple[Tensor, LocalMap]:
        """Return f(x) and its derivative for any columns, see `windowed`."""
        y, local = windowed(f, x)
        self.batches.check(f, x, y)
        return y, local


def _plain(f: Function, x: Tensor) -> Tensor:
    with torch.no_grad():
        return f(x)


def _laid_out(f: Function, x: Tensor) -> Tensor | None:
    """Return f(x) with the layout of tangents; None where that may not be what the network's own gives."""
    with LaidOut() as layout:
        y = _plain(f, x)
    return y if layout.sure else None


_choices: WeakKeyDictionary[Decoder, dict[bool, Choice]] = WeakKeyDictionary()


def choose(decoder: Decoder, *, natural: bool = False) -> Choice:
    """Return the fastest method that is right at some latents; decided once per decoder, and again where it was trained since: a
    gate that was shut then may be open.

    Raises:
        ContractError: no method differentiates the decoder.
    """
    known, state = _choices.setdefault(decoder, {}), _state_of(decoder)
    if natural not in known or known[natural].state != state:
        looked_at = Batches(FIRST if decoder.large else 2 * ROWS, _in_double(decoder, natural))
        some = slice(FEW_POINTS if decoder.large else TEST_POINTS)
        with full_precision():
            for rows in (slice(1), slice(1, 2), some) if decoder.vast else (some,):
                found = _compared(decoder, natural, rows, anew=natural in known)
                if found.method is carried and found.spread != DISAGREE:
                    break  # else a kink may be at the only latent
        known[natural] = replace(found, batches=looked_at, state=state)
    return known[natural]


def _state_of(decoder: Decoder) -> tuple[object, ...]:
    """Return what changes with the parameters, as far as torch knows: their versions and places."""
    return tuple(
        (t._version, t.data_ptr())
        for t in tensors_of(decoder.function)
        if isinstance(t, nn.Parameter) and not t.is_inference()
    )


def _in_double(decoder: Decoder, natural: bool) -> Callable[[], Function | None]:
    """Return what makes the map in float64, which keeps no decoder alive."""
    known = ref(decoder)

    def double() -> Function | None:
        alive = known()
        return None if alive is None else alive.in_double(natural=natural)

    return double


def share_choices(decoder: Decoder, other: Decoder) -> None:
    """Let what is chosen for one decoder hold for another of the same map, now and later."""
    _choices[other] = _choices.setdefault(decoder, {})


def function_of(decoder: Decoder, natural: bool) -> Function:
    """Return the map to differentiate: latents to rows of outputs or of natural parameters."""
    return decoder.natural_flat if natural else decoder.flat


def _compared(decoder: Decoder, natural: bool, rows: slice, *, anew: bool = False) -> Choice:
    """Return the fastest method that is right at some latents; `anew` where the door looked at other weights."""
    f = function_of(decoder, natural)
    if decoder.vast:
        f = counted(f, "ways to differentiate compared", 6)
    x = decoder._probe_rows(rows.stop)[rows].to(device=decoder.device, dtype=decoder.dtype)
    points, rng = len(x), stream(0, "methods")
    v = torch.zeros(2, *x.shape, dtype=x.dtype, device=x.device)
    free = decoder.continuous
    v[..., free] = torch.from_numpy(rng.standard_normal((2, points, len(free)))).to(v)

    plain: list[Method] = [reversed_twice, row_by_row]
    if decoder.differentiation == "forward":
        # torch's own may fail later: group normalisation of a network that was made channels_last meanwhile
        plain.insert(0, repeated)
    local, spread = _located(f, x)
    latent = np.array(free)[rng.integers(len(free), size=max(points, SITES))]
    latent[:2] = free[0], free[-1]  # corners of a map
    if local is not None:
        v[1] = 0
        v[1].scatter_(1, torch.from_numpy(latent[:points]).to(x.device)[:, None], 1.0)
    reference, found = _first_working(plain, f, x, v, 1 if decoder.large else points, anew)
    truth = _Truth(found, lambda moved: reference(f, moved, v[:1])[1].value()[0], x)
    candidates: list[Method] = [carried]
    if decoder.differentiation == "forward" and points > 1:  # a kink at one alone is no reason for the slower
        candidates.append(mapped)
    if isinstance(decoder.function, nn.Module) and any(
        isinstance(module, torch.jit.ScriptModule) for module in decoder.function.modules()
    ):
        candidates = []  # its derivatives may change from call to call: stay with what the contract checked
    for method in candidates:
        try:
            found = _watched(method, f, x, v)
        except Exception:  # whatever a foreign function raises on an argument of a strange type
            continue
        if (
            found.t.shape == truth.found.t.shape
            and truth.agrees(found.y, found.t, found.G)
            and _agree_at_each(decoder, natural, method, reference, x, v[0], truth.apart(found.t))
        ):
            choice = found.choice(method, reference)
            if method is not carried:
                return choice
            times = 1 if decoder.large else -(-MAPS // points)
            laid_out = _agrees_laid_out(f, x.repeat(times, 1), truth.found.y.repeat(times, 1))
            choice = replace(choice, laid_out=laid_out, spread=spread)
            return choice if local is None else _with_reach(choice, f, x, *local, latent, truth)
    return _watched(reference, f, x, v).choice(reference, reference)


def _agree_at_each(
    decoder: Decoder, natural: bool, method: Method, reference: Method, x: Tensor, v: Tensor, apart: Tensor
) -> bool:
    """Whether two methods agree at every latent, of more of them where that costs little: in float64 where that can be had,
    for kinks are rarely met there, and else at most.

    Args:
        x, v: the test latents and a direction at each.
        apart: at which of them they differ.
    """
    if decoder.vast:
        return True
    more = decoder.more_rows()
    if more is not None:
        x, v = more, torch.zeros_like(more)
        free = decoder.continuous
        v[:, free] = torch.from_numpy(
            stream(0, "directions elsewhere").standard_normal((len(x), len(free)))
        ).to(v)
        apart = _apart(function_of(decoder, natural), x, v, method, reference)
    if apart.any() and x.dtype != torch.float64:
        try:
            wide = decoder.in_double(natural=natural)
            if wide is not None:
                return not _apart(wide, x[apart].double(), v[apart].double(), method, reference).any()
        except Exception:  # whatever a foreign function raises on another type
            pass
        return int(apart.sum()) <= FEW_APART * len(x)
    return not apart.any()


def _apart(f: Function, x: Tensor, v: Tensor, method: Method, reference: Method) -> Tensor:
    """Return at which latents two methods give another J v; nowhere, where one fails."""
    try:
        found, right = (one(f, x, v[None])[1].value()[0] for one in (method, reference))
    except Exception:  # whatever a foreign function raises: `Choice.push` finds another way
        return torch.zeros(len(x), dtype=torch.bool, device=x.device)
    return (_distance(found, right) > _tolerance(x.dtype)) & right.isfinite().flatten(1).all(1)


def _located(f: Function, x: Tensor) -> tuple[tuple[Tensor, LocalMap] | None, str]:
    """Return f(x) and the map of its columns, or None and why there is none."""
    try:
        return windowed(f, x), ""
    except Spread as error:
        return None, f"`{error.by}` may spread a latent over the whole output"
    except Exception:  # whatever a foreign function raises on an argument of a strange type
        return None, "its operations cannot be followed"


def _with_reach(
    choice: Choice, f: Function, x: Tensor, y: Tensor, local: LocalMap, latent: Places, truth: _Truth
) -> Choice:
    """Return the choice with the reach of a latent, where windows of columns are right and worth while.

    Args:
        f, x: the map and the test latents.
        y, local: outputs there and their derivative.
        latent: of which to take the columns, one at each test latent and then more at the first.
        truth: what plain forward mode finds, the columns of the former last.
    """
    n = len(y)
    watch = _Watch(1, n + 1)  # one more than there are latents: what is wide as they are is of the primal
    try:
        with watch:
            found = local.columns(np.arange(n + 1) % n, np.append(latent[:n], latent[-1]))
            found = found.of(slice(0, n))
            norms = torch.stack([found.of(slice(i, i + 1)).gram(None)[0, 0] for i in range(n)])
        reach = Reach(tuple(found.size.tolist()), found.shape, watch.numel, watch.work / (n + 1))
        if reach.work > WORTH * choice.work:
            return replace(choice, spread=f"a latent reaches {reach.words} outputs")
        tangents = found.whole().flatten(1)
        right = truth.agrees(y, tangents[None], norms[:, None, None].to(truth.found.G.device))
        if not right:
            return replace(choice, spread=DISAGREE)
        if not _zero_elsewhere(f, x[:1], local, latent):
            return replace(choice, spread="outputs outside of its window depend on a latent")
    except Exception as error:
        by = error.by if isinstance(error, Spread) else ""
        return replace(choice, spread=f"`{by}` may spread a latent over the whole output")
    return replace(choice, reach=reach)


def _zero_elsewhere(f: Function, x: Tensor, local: LocalMap, latent: Places) -> bool:
    """Whether reverse mode finds derivatives that are zero, to the last bit, outside of windows of columns.

    It sees what is too weak for rounding to let through, a mean over the map times 1e-6: once for all outputs that the
    first column does not reach, and once, for the columns that do not reach these, for those that it does.

    Args:
        x: one latent, shape (1, latent).
        local: the derivative there.
        latent: of which to take the columns.
    """
    columns = local.columns(np.zeros(len(latent), dtype=np.int64), latent)
    inside = torch.zeros(columns.shape, dtype=torch.bool, device=x.device)
    corner, size = columns.corner, columns.size
    inside[tuple(slice(low, low + side) for low, side in zip(corner[0], size, strict=True))] = True
    apart = (abs(corner - corner[0]) >= size).any(axis=1)
    with torch.enable_grad(), differentiable_kernels():
        leaf = x.detach().clone().requires_grad_(True)
        y = f(leaf)
        w = torch.from_numpy(stream(0, "covectors").standard_normal(tuple(y.shape))).to(y)
        within = inside.reshape(1, -1)
        outside = gradient(y, leaf, w.masked_fill(within, 0), retain_graph=True)[0]
        touching = gradient(y, leaf, w.masked_fill(~within, 0))[0]
    return not bool(outside[latent[0]]) and not bool(touching[latent[apart]].any())


def _first_working(
    methods: list[Method], f: Function, x: Tensor, v: Tensor, most: int, anew: bool
) -> tuple[Method, _Found]:
    """Return the first method that works, and what it finds, so many latents at a time.

    Args:
        anew: whether forward mode has not been held against reverse mode yet.
    """
    failure: Exception | None = None
    for method in methods:
        try:
            parts = zip(torch.split(x, most), torch.split(v, most, dim=1), strict=True)
            found = _Found.together([_Found.of(*method(f, *part)) for part in parts])
            unsure = method is reversed_twice or (anew and method is repeated)
            if not unsure or _is_adjoint(f, x, v, found.t):
                return method, found
        except (RuntimeError, NotImplementedError) as error:
            failure = error
    raise ContractError("the decoder cannot be differentiated") from failure


def _is_adjoint(f: Function, x: Tensor, v: Tensor, moved: Tensor) -> bool:
    """Whether <w, J v> = <J^T w, v>: a second backward pass can lose terms without a word."""
    w = torch.from_numpy(stream(0, "adjoint covectors").standard_normal(tuple(moved.shape[1:]))).to(moved)
    with torch.enable_grad(), differentiable_kernels():
        leaf = x.detach().clone().requires_grad_(True)
        pulled = gradient(f(leaf), leaf, w)
    forward, backward = (moved * w).double().sum(-1), (pulled * v).double().sum(-1)
    errors = _distance(forward.T, backward.T)
    # in float64 kinks are rarely met
    return bool(
        (errors.max() if moved.dtype == torch.float64 else errors.median()) <= _tolerance(moved.dtype)
    )


def _tolerance(dtype: torch.dtype) -> float:
    return 1e-9 if dtype == torch.float64 else 2e-2 if dtype.itemsize == 2 else 1e-4


@dataclass
class _Truth:
    """What plain forward mode gives at test latents, and how well it knows that.

    Attributes:
        found: f(x), J v and Gram matrices.
        again: returns J v in the first direction at latents.
        x: the latents.
    """

    found: _Found
    again: Callable[[Tensor], Tensor]
    x: Tensor

    def agrees(self, y: Tensor, t: Tensor, G: Tensor) -> bool:
        """Whether outputs, tangents and Gram matrices are the same at most test latents.

        One latent may sit at a kink, where rounding decides between two right derivatives; and where there are millions
        of activations, some do at every latent: tangents are held no closer than they keep still when latents move by
        what rounding moves them.  Gram matrices, which change with the square of that, are held as close as ever.

        Args:
            t: tangents in the last directions.
            G: Gram matrices of any of the last directions.
        """
        one = self.found
        right_t, right_G = one.t[-len(t) :], one.G[:, -G.shape[-1] :, -G.shape[-1] :]
        if (
            y.shape != one.y.shape
            or y.dtype != one.y.dtype
            or t.shape != right_t.shape
            or G.shape != right_G.shape
        ):
            return False
        tolerance = _tolerance(y.dtype)
        values = _most(_distance(y, one.y)), _most(_distance(G, right_G))
        tangents = _most(_distance(t.transpose(0, 1), right_t.transpose(0, 1)))
        if max(values) > tolerance:
            return False
        return tangents <= tolerance or (tangents <= UNSTEADY and tangents <= 4 * self.unsteady)

    def apart(self, t: Tensor) -> Tensor:
        """Return at which latents tangents are others, shape (n,)."""
        errors = _distance(t.transpose(0, 1), self.found.t[-len(t) :].transpose(0, 1))
        return errors > _tolerance(t.dtype)

    @cached_property
    def unsteady(self) -> float:
        """The relative change of J v where latents move by twice their rounding, the largest of all test latents."""
        sign = torch.from_numpy(stream(0, "rounding").choice([-2.0, 2.0], size=tuple(self.x.shape)))
        moved = self.x * (1 + torch.finfo(self.x.dtype).eps * sign.to(self.x))
        return float(_distance(self.again(moved), self.found.t[0]).max())


def _most(errors: Tensor) -> float:
    return float(errors.detach().median())


def _agrees_laid_out(f: Function, x: Tensor, y: Tensor) -> bool:
    """Whether outputs are the same with the layout of tangents, at so many latents that they are laid out as those of many."""
    try:
        found = _laid_out(f, x)
    except Exception:  # whatever a foreign function makes of another layout
        return False
    if found is None or found.shape != y.shape or found.dtype != y.dtype:
        return False
    return bool(_distance(found, y).median() <= _tolerance(y.dtype))


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the relative distance at each latent, infinite where it is not a number."""
    a, b = a.double().flatten(1), b.double().flatten(1)
    size = b.norm(dim=1)
    error = (a - b).norm(dim=1)
    return torch.where(error == 0, error, error / size).nan_to_num(nan=float("inf"))


@dataclass(frozen=True)
class _Found:
    """What a method gives at some latents: f(x), J v, their Gram matrices, and what it takes."""

    y: Tensor
    t: Tensor
    G: Tensor
    widest: int = 0
    widest_gram: int = 0
    work: float = 0.0
    at_once: int = 0
    held: int = 0

    @classmethod
    def of(cls, y: Tensor, columns: Columns) -> _Found:
        # before the tangents themselves: the Gram matrix may come by a way of its own
        G = columns.gram()
        return cls(y, columns.value(), G)

    @classmethod
    def together(cls, parts: list[_Found]) -> _Found:
        """Return what was found at all latents of some parts."""
        y, t, G = zip(*((part.y, part.t, part.G) for part in parts), strict=True)
        return cls(torch.cat(y), torch.cat(t, dim=1), torch.cat(G))

    def choice(self, method: Method, plain: Method) -> Choice:
        least = 1 if method is carried else self.y[0].numel()
        return Choice(
            method,
            plain,
            max(self.widest, least),
            max(self.widest_gram, least),
            self.work,
            signature((method.__name__, self.y, self.t)),
            at_once=max(self.at_once, least),
            held=self.held,
        )


def _watched(method: Method, f: Function, x: Tensor, v: Tensor) -> _Found:
    """Return what a method gives, with the width of the tangents that it makes and the work that they are."""
    directions, points = v.shape[:2]
    rows = (directions + 1) * points  # the primal is about as much work as a direction
    watch = _Watch(directions, points)
    try:
        with watch, in_blocks(sys.maxsize):
            y, columns = method(f, x, v)
            G = columns.gram()
            for_gram = watch.numel
            t = columns.value()
    except Exception:  # a program that torch cannot watch: guess from its output
        found = _Found.of(*method(f, x, v))
        guess = 4 * found.y[0].numel()
        return replace(found, widest=guess, widest_gram=guess, work=10.0 * NUMBER * guess)
    found = _Found(y, t, G, watch.numel, for_gram, watch.work / rows)
    if method in (reversed_twice, row_by_row):  # they hold all that a pass leaves until the last direction
        left = watch.most // GRAPH
        found = replace(found, widest=max(found.widest, left), widest_gram=max(for_gram, left))
    if method is carried and for_gram * x.itemsize <= columns.block // FEW_ROWS and x.is_cpu:
        again = _Watch(directions, points)
        with again:
            _, columns = method(f, x, v)
        with in_blocks(2 * directions):  # as they will be computed at many latents
            G = columns.gram()
        found = replace(found, G=G, at_once=again.numel, held=again.held if columns.parted else 0)
    return found


class _Watch(Watching):
    """Notes the largest tensor with one row per latent and direction, all others together per latent, how much of all is there at
    once, and how much is multiplied and written.
    """

    def __init__(self, directions: int, points: int) -> None:
        super().__init__()
        self.directions = directions
        self.rows = directions * points
        self.points = points
        self.numel = self.held = self.alive = self.most = 0
        self.work = 0.0

    def _are_tangents(self, shape: torch.Size) -> bool:
        """Whether a tensor has a row per direction and latent, be these on a later axis (times or heads come first)."""
        if shape[:1] == (self.rows,):
            return True
        return (
            shape[:1] == (self.directions,) and self.points in shape[1 : 2 if self.directions == 1 else None]
        )

    def _keep(self, numbers: int) -> None:
        self.alive += numbers
        self.most = max(self.most, self.alive)

    def saw(self, func: Any, args: Any, out: object) -> None:
        if isinstance(out, Tensor):
            if tangents := self._are_tangents(out.shape):
                in_memory = out.untyped_storage().nbytes() // out.itemsize  # a view may overlap itself
                self.numel = max(self.numel, min(out.numel(), in_memory) // self.rows)
            # what is written to the memory of a primal is seen when it is
            if not getattr(func, "is_view", False) and (tangents or func._opname != "new_empty"):
                if not (tangents or out.numel() % self.points):  # latents may be on any axis
                    self.held += out.numel() // self.points
                self._keep(out.numel() // self.points)
                finalize(out, self._keep, -(out.numel() // self.points)).atexit = False
                self.work += NUMBER * out.numel() + multiply_adds(func._opname, args, out)


def multiply_adds(name: str, args: Any, out: Tensor) -> int:
    """Return how many products one of torch's own operations adds up: of convolutions and matrices, else none."""
    if name == "convolution":
        x, weight, transposed = args[0], args[1], args[6]
        return int((x if transposed else out).numel() * weight[0].numel())
    if name in ("mm", "bmm", "mv"):
        return int(out.numel() * args[0].shape[-1])
    if name in ("addmm", "baddbmm"):
        return int(out.numel() * args[1].shape[-1])
    return 0
