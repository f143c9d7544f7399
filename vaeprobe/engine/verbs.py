"""The four verbs of the Jacobian engine: J, G = J^T W J, J v and J^T w of a decoder, batched and chunked.

Each takes a `Decoder`, or any function or module that maps latents of shape (n, latent), or maps of latents of shape
(n, channels, height, width), to outputs of shape (n, ...) row by row: of a function of one latent, `torch.func.vmap`
makes one of rows.  A module is differentiated as a copy in eval mode.  Such a one is checked at the door when it is first
given, at latents of N(0, I) or, where it fails there, near those that it is given, and again once it gives other outputs.

Results are plain tensors without a graph, whatever `requires_grad` says: a loss made of them trains nothing.  The verbs are
not to be transformed by torch.func themselves, and calls from several threads take turns.  Latents and outputs are flattened in them, k continuous latents and `data` outputs, in the order
of `z.flatten(1)`.

Where a latent reaches only a window of the outputs (convolutions without normalisation over the map, see
`vaeprobe.engine.local`), each column costs as much as its window, however large the outputs, once a latent is decoded.

Networks run in the decoder's precision, under `torch.autocast` too, Gram matrices are summed in float64: float32 propagation with a
float64 Gram gives cosines and column norms to 1e-6 even for columns scaled by 1e-6, where a float32 Gram
gets the small singular values wrong altogether.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.autograd import differentiable_kernels, gradient
from vaeprobe.decoder import Decoder
from vaeprobe.engine.arguments import (
    Map,
    check_chunk,
    columns_of,
    covectors_of,
    decoder_and_rows,
    directions_of,
    likelihood_of,
)
from vaeprobe.engine.chunks import BUDGET, Chunk, Size, Sweep
from vaeprobe.engine.columns import Columns, Known
from vaeprobe.engine.dense import dense_gram
from vaeprobe.engine.directions import Directions, Given, Units
from vaeprobe.engine.limits import LARGEST_GRAMS, LARGEST_JACOBIAN
from vaeprobe.engine.methods import WORTH, Choice, Reach, choose, function_of
from vaeprobe.engine.remembered import recalled
from vaeprobe.engine.tangents import Unsupported
from vaeprobe.engine.windows import Spread, Windows
from vaeprobe.errors import ResourceError
from vaeprobe.files.limits import check_memory
from vaeprobe.foreign import said_of
from vaeprobe.given import check_given
from vaeprobe.likelihoods import Likelihood, Parameter
from vaeprobe.processes import current

__all__ = ["gram", "jacobian", "pullback", "pushforward", "values"]

# Bytes per output and latent that a metric takes: outputs in float64, and what weighs them, with what that is made of.
OF_METRIC = 5 * 8
# Bytes of the windows of columns that are computed at a time: more of them leave a core's cache.
WINDOWS = 16 << 20
# Bytes of windows of columns that are held before they are put to their places in whole outputs.
HELD = 128 << 20
FEWER_GRAMS = "fewer latents (--samples, in Python samples=), some of the columns (columns=), or random probes (vaeprobe.engine.matrix_free)"


@said_of
def jacobian(
    f: Map,
    z: Tensor,
    *,
    columns: Tensor | None = None,
    natural: bool = False,
    chunk: int | None = None,
) -> Tensor:
    """Return Jacobians over the continuous latents, shape (n, data, k), in the decoder's dtype, without a graph.

    Where a latent reaches only a window of the outputs, no more than that is computed of its column, and the rest is 0.

    Args:
        f: a decoder, or a function or module of latents.
        z: latents, shape (n, latent) or (n, channels, height, width); those of functions also give the precision.
        columns: indices among the continuous latents, shape (s,), or (n, s) where they differ from latent to latent,
            for these columns alone, shape (n, data, s), in this order and at the cost of s columns.
        natural: differentiate the natural parameter instead of the output.
        chunk: latents at a time; by default as many as are fast.  It changes results by rounding alone.

    Raises:
        ContractError: `f` does not map rows to rows, or cannot be differentiated.
        ResourceError: this machine has no memory for the Jacobians, or it does not suffice for a single column.
        UsageError: the latents do not fit.

    Example:
        >>> z = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
        >>> jacobian(lambda z: torch.stack([z[:, 0] * z[:, 1], z[:, 0] ** 2], dim=1), z)
        tensor([[[2., 1.],
                 [2., 0.]]], dtype=torch.float64)
    """
    decoder, z = decoder_and_rows(f, z)
    check_given(jacobian, {"natural": natural})
    check_chunk(chunk)
    x, taken = _latents(decoder, z), columns_of(decoder, len(z), columns, blocks=False)
    width = len(decoder.continuous) if taken is None else taken.shape[-1]
    check_memory(
        f"{len(x)} Jacobians of {decoder.data_dim} x {width}",
        len(x) * decoder.data_dim * width * x.itemsize,
        "fewer latents at a time, or some of the columns (columns=); gram(f, z) holds Jacobians of a few latents at a time",
    )
    units = Units.of_columns(decoder, x, taken)
    _, J = _pushed(decoder, x, units, natural, chunk, columns_last=True)
    return J.permute(1, 2, 0)


@said_of
def gram(
    f: Map,
    z: Tensor,
    *,
    likelihood: Likelihood | str | None = None,
    columns: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Return pullback metrics J^T W J over the continuous latents, shape (n, k, k), float64 on the CPU, without a graph.

    W = I without a likelihood, else its metric (Allen 2024, Eq. 7): taken on the natural parameter where
    the decoder has it, else on the mean.  No more than the Jacobians of one chunk are held at a time.

    Where a latent reaches only a window of the outputs, columns cost as much as these windows.

    Args:
        f: a decoder, or a function or module of latents.
        z: latents, shape (n, latent) or (n, channels, height, width); those of functions also give the precision.
        likelihood: whose metric weighs the outputs, or its name.
        columns: indices among the continuous latents, shape (s,) or (n, s) where they differ from latent to latent, for
            the s x s block of G that they span at each, at the cost of s columns; or (n, b, s) for b such blocks at
            each, which share its decoding.
        chunk: latents at a time; by default as many as are fast.  It changes results by rounding alone.

    Raises:
        ContractError: `f` does not map rows to rows, or cannot be differentiated.
        ResourceError: the Jacobian at a single latent is too large to hold.
        UsageError: the latents do not fit.

    Example:
        >>> z = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
        >>> gram(lambda z: torch.stack([z[:, 0] * z[:, 1], z[:, 0] ** 2], dim=1), z)
        tensor([[[8., 2.],
                 [2., 1.]]], dtype=torch.float64)
    """
    decoder, z = decoder_and_rows(f, z)
    check_chunk(chunk)
    weight, taken = likelihood_of(decoder, likelihood, z), columns_of(decoder, len(z), columns, blocks=True)
    if taken is not None and not taken.numel():
        return cpu.zeros(*taken.shape, taken.shape[-1], dtype=torch.float64)
    (G,) = recalled(
        ("gram", decoder, weight, None if taken is None else taken.shape[1:]),
        [z] if taken is None else [z, taken],
        lambda at: (_gram(decoder, z[at], weight, None if taken is None else taken[at], chunk),),
    )
    return G


def _gram(
    decoder: Decoder, z: Tensor, likelihood: Likelihood | None, columns: Tensor | None, chunk: int | None
) -> Tensor:
    natural = decoder.natural_for(likelihood)
    g, x = function_of(decoder, natural), _latents(decoder, z)
    choice = choose(decoder, natural=natural)
    width = len(decoder.continuous) if columns is None else columns.shape[-1]
    _check_size(decoder, len(x), width, 1 if columns is None else columns[0, ..., 0].numel(), x.itemsize)
    weigh = _Weight(likelihood, decoder.parameter_of(natural))
    if choice.reach is not None:
        try:
            return _gram_of_windows(decoder, g, x, weigh, columns, choice, choice.reach, chunk)
        except (Spread, Unsupported):  # control flow led elsewhere than at the test latents
            pass
    if columns is not None and columns.ndim == 3:
        blocks = [_gram_of_columns(decoder, x, weigh, block, choice, chunk) for block in columns.unbind(1)]
        return torch.stack(blocks, dim=1)
    return _gram_of_columns(decoder, x, weigh, columns, choice, chunk)


def _gram_of_columns(
    decoder: Decoder,
    x: Tensor,
    weigh: _Weight,
    columns: Tensor | None,
    choice: Choice,
    chunk: int | None,
) -> Tensor:
    """Return Gram matrices of whole columns, of indices of shape (n, s); None for all."""
    natural = decoder.natural_for(weigh.likelihood)
    g = function_of(decoder, natural)
    width = len(decoder.continuous) if columns is None else columns.shape[-1]
    out = cpu.zeros(len(x), width, width, dtype=torch.float64)
    units = Units.of_columns(decoder, x, columns)

    def work(part: Chunk) -> tuple[Tensor]:
        if len(part.directions) == 1:
            of = g, x[part.points], units.dense(slice(None), part.points)
            return (
                choice.columns(*of).gram() if weigh.likelihood is None else weigh.gram(*choice.push(*of)),
            )
        at, turn = part.points, part.directions[0].stop
        size = Size(at.stop - at.start, turn)
        y, J = _pushed(decoder, x[at], units.at_points(at), natural, size=size)
        return (weigh.gram(y, Known(J)),)

    def put(part: Chunk, G: Tensor) -> None:
        out[part.points] = G.to(out)

    def made_of(part: Chunk) -> Iterable[object]:
        some = decoder.continuous if columns is None else columns[part.points]
        return (
            "gram",
            choice.known_by,
            *weigh.made_of,
            x[part.points],
            some,
        )

    weights = 0 if weigh.likelihood is None else OF_METRIC * decoder.data_dim
    size = choice.size_for_gram(x.itemsize, width, chunk, weights)
    shared = Sweep(work, put, made_of, whole=True).over(len(x), width, size)
    return current().summed(out) if shared else out


def _check_size(decoder: Decoder, n: int, width: int, blocks: int, itemsize: int) -> None:
    """Refuse Gram matrices that nobody's memory holds.

    Raises:
        ResourceError: one Jacobian, or all Gram matrices, would be too large.
    """
    bytes_at_one = decoder.data_dim * width * itemsize
    if bytes_at_one > LARGEST_JACOBIAN:
        raise ResourceError(
            f"the Jacobian at one latent, {decoder.data_dim} x {width}, would take {bytes_at_one / 2**30:.0f} GB",
            hint="take some of its columns (columns=), or estimate what you need of it by random probes "
            "(vaeprobe.engine.matrix_free)",
        )
    bytes_in_all = 8 * n * blocks * width**2
    if bytes_in_all > LARGEST_GRAMS:
        raise ResourceError(
            f"{n * blocks} matrices of {width} x {width} latents would take {bytes_in_all / 2**30:.0f} GB",
            hint=FEWER_GRAMS,
        )
    # those of a chunk beside all, and the last chunk may be a single one
    check_memory(
        f"{n * blocks} matrices of {width} x {width} latents",
        bytes_in_all + 8 * blocks * width**2,
        FEWER_GRAMS,
    )


@dataclass(frozen=True)
class _Weight:
    """The metric W of a likelihood on outputs or natural parameters; I without one."""

    likelihood: Likelihood | None
    parameter: Parameter

    @property
    def made_of(self) -> tuple[object, ...]:
        """What it depends on, see `vaeprobe.kept`."""
        return self.parameter, self.likelihood, self.likelihood and self.likelihood.name

    @property
    def is_diagonal(self) -> bool:
        return self.likelihood is None or self.likelihood.is_diagonal(self.parameter)

    def root(self, y: Tensor) -> Tensor | None:
        """Return the square root of a diagonal W at outputs y, shape (n, data), None for I."""
        return None if self.likelihood is None else self.likelihood.weight(y.double(), self.parameter).sqrt()

    def gram(self, y: Tensor, tangents: Columns) -> Tensor:
        """Return T^T W T, shape (n, d, d), for tangents in d directions."""
        if self.likelihood is None or self.is_diagonal:
            return tangents.gram(self.root(y))
        whitened = self.likelihood.whitened(tangents.value().double(), y.double(), self.parameter)
        return dense_gram(whitened, None)


def _gram_of_windows(
    decoder: Decoder,
    g: Callable[[Tensor], Tensor],
    x: Tensor,
    weigh: _Weight,
    columns: Tensor | None,
    choice: Choice,
    reach: Reach,
    chunk: int | None,
) -> Tensor:
    """Return Gram matrices of columns that are windows of the output: each latent is decoded once for all of its own.

    Raises:
        Spread: a latent reaches all outputs after all.
        Unsupported: tangents cannot be carried.
    """
    free = cpu.tensor(decoder.continuous)
    at = (
        free.expand(len(x), 1, -1)
        if columns is None
        else free[columns.reshape(len(x), -1, columns.shape[-1])]
    )
    blocks, s = at.shape[1:]
    out = cpu.zeros(*at.shape, s, dtype=torch.float64)
    rows = _at_once(reach, x)
    together = max(1, rows // s)  # blocks

    def work(part: Chunk) -> tuple[Tensor]:
        y, local = choice.locate(g, x[part.points])
        root = weigh.root(y) if weigh.is_diagonal else None
        factor = None if root is None else root.expand(y.shape).reshape(-1, *local.shape)
        latent = at[part.points].flatten(0, 1).numpy()
        G = cpu.zeros(len(latent), s, s, dtype=torch.float64)
        point = np.repeat(np.arange(len(y)), blocks)
        for first in range(0, len(latent), together):
            some = slice(first, first + together)
            found = local.columns(np.repeat(point[some], s), latent[some].flatten(), rows)
            for i, p in enumerate(point[some].tolist()):
                block = found.of(slice(i * s, (i + 1) * s))
                if weigh.is_diagonal:
                    G[first + i] = block.gram(None if factor is None else factor[p])
                else:
                    G[first + i] = weigh.gram(y[p : p + 1], Known(block.whole().flatten(1)[:, None]))[0]

        return (G.reshape(-1, blocks, s, s),)

    def put(part: Chunk, G: Tensor) -> None:
        out[part.points] = G

    def made_of(part: Chunk) -> Iterable[object]:
        return ("gram of windows", choice.known_by, *weigh.made_of, x[part.points], at[part.points])

    points = chunk or max(1, BUDGET // (choice.widest * x.itemsize))
    size = Size(min(points, max(1, together // blocks)), 1)
    out = current().summed(out) if Sweep(work, put, made_of).over(len(x), 1, size) else out
    return out[:, 0] if columns is None or columns.ndim == 2 else out


@said_of
def values(decoder: Decoder, z: Tensor, *, natural: bool = False) -> Tensor:
    """Return f(z), shape (n, data), in the decoder's dtype: as fast as the primal of a verb, and rounded as that is."""
    g, x = function_of(decoder, natural), _latents(decoder, z)
    choice = choose(decoder, natural=natural)
    y = x.new_zeros(len(x), decoder.data_dim)

    def work(part: Chunk) -> tuple[Tensor]:
        return (choice.value(g, x[part.points]),)

    def put(part: Chunk, found: Tensor) -> None:
        nonlocal y
        y = y.to(found.dtype)
        y[part.points] = found

    def made_of(part: Chunk) -> Iterable[object]:
        return "f", choice.known_by, natural, x[part.points]

    size = Size.fitting(choice.widest, x.itemsize, 1)
    shared = Sweep(work, put, made_of, description="outputs").over(len(x), 1, size)
    return current().summed(y) if shared else y


@said_of
def pushforward(f: Map, z: Tensor, v: Tensor, *, natural: bool = False) -> tuple[Tensor, Tensor]:
    """Return f(z), shape (n, data), and J v for directions v over the continuous latents, without a graph.

    Where a latent reaches only a window of the outputs, and v is zero but along few latents, only their windows are
    computed, and the rest is 0.

    Args:
        f: a decoder, or a function or module of latents.
        z: latents, shape (n, latent) or (n, channels, height, width); those of functions also give the precision.
        v: one direction per latent, shape (n, k) or that of z, or several that share the primal, shape (s, n, k).

    Returns:
        y, shape (n, data), and J v, shape (n, data) or (s, n, data), in the decoder's dtype.

    Raises:
        ContractError: `f` does not map rows to rows, or cannot be differentiated.
        ResourceError: memory does not suffice for a single direction.
        UsageError: the latents do not fit.

    Example:
        >>> z, v = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[0.0, 1.0]]).double()
        >>> y, Jv = pushforward(lambda z: z.prod(dim=1, keepdim=True), z, v)
        >>> y.item(), Jv.item()
        (2.0, 1.0)
    """
    decoder, z = decoder_and_rows(f, z)
    check_given(pushforward, {"natural": natural})
    given, several = directions_of(decoder, len(z), v)
    along = _on_all_latents(decoder, given)
    y, Jv = _pushed(decoder, _latents(decoder, z), Given(along), natural, description="J v")
    return y, Jv if several else Jv[0]


def _pushed(
    decoder: Decoder,
    x: Tensor,
    directions: Directions,
    natural: bool,
    chunk: int | None = None,
    *,
    size: Size | None = None,
    columns_last: bool = False,
    description: str = "Jacobians",
) -> tuple[Tensor, Tensor]:
    """Return f(x), shape (n, data), and J v, shape (count, n, data).

    Args:
        x: latents as the decoder takes them, shape (n, latent).
        directions: at these latents.
        chunk: latents at a time.
        size: instead of the one that fits, of whole columns even where windows would do.
        columns_last: whether J v lies in memory as (n, data, count).
    """
    g, choice = function_of(decoder, natural), choose(decoder, natural=natural)
    n, count = len(x), len(directions)
    if not count:
        y = values(decoder, x, natural=natural)
        return y, y.new_zeros(0, *y.shape)
    whole = size or Size.fitting(choice.widest, x.itemsize, count, chunk)
    reach = choice.reach if size is None else None
    if reach is not None and directions.entries * reach.work > WORTH * count * n * choice.work:
        reach = None

    def empty(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        made = torch.zeros(n, decoder.data_dim, dtype=dtype, device=device)
        if columns_last:
            return made, made.new_zeros(n, decoder.data_dim, count).permute(2, 0, 1)
        return made, made.new_zeros(count, n, decoder.data_dim)

    found: tuple[Tensor, Tensor] | None = None

    def work(part: Chunk) -> tuple[Tensor, ...]:
        if reach is None:
            y, columns = choice.push(g, x[part.points], directions.dense(part.directions[0], part.points))
            return y, columns.value(last=True)
        y, local = choice.locate(g, x[part.points])
        if local.shape != reach.shape:
            raise Spread
        at = directions.sparse(part.directions[0], part.points)
        windows = local.columns(at.point, at.latent, _at_once(reach, x))
        return y, at.times(windows.values).to(y.dtype), torch.from_numpy(windows.corner).double()

    def put(part: Chunk, y: Tensor, columns: Tensor, corner: Tensor | None = None) -> None:
        nonlocal found
        if found is None:
            found = empty(y.dtype, x.device)
        some = part.directions[0]
        if some.start == 0:
            found[0][part.points] = y
        if corner is None or reach is None:
            found[1][some, part.points] = columns
            return
        at = directions.sparse(some, part.points)
        windows = Windows(columns, corner.long().numpy(), at.point, reach.shape)
        out = found[1][some, part.points]
        # which takes no memory: where that runs out, a chunk is done again, and must not have been added
        windows.add_to(out.view(*out.shape[:2], *reach.shape), at.direction)

    def made_of(part: Chunk) -> Iterable[object]:
        at = directions.dense if reach is None else directions.sparse
        return "J v", choice.known_by, natural, x[part.points], at(part.directions[0], part.points)

    try:
        size = whole if reach is None else _size_in_windows(directions, x, choice, reach, chunk)
        shared = Sweep(work, put, made_of, description=description).over(n, count, size)
    except (Spread, Unsupported):
        if reach is None:
            raise
        return _pushed(
            decoder, x, directions, natural, size=whole, columns_last=columns_last, description=description
        )
    y, Jv = found or empty(x.dtype, x.device)
    if not shared:
        return y, Jv
    if columns_last:  # summed as it lies in memory
        return current().summed(y), current().summed(Jv.permute(1, 2, 0)).permute(2, 0, 1)
    return current().summed(y), current().summed(Jv)


def _at_once(reach: Reach, x: Tensor) -> int:
    """Return how many windows to compute at a time."""
    return max(1, WINDOWS // (reach.widest * x.itemsize))


def _size_in_windows(
    directions: Directions, x: Tensor, choice: Choice, reach: Reach, chunk: int | None
) -> Size:
    """Return as many latents and directions as share a decoding, and whose windows may be held."""
    count = len(directions)
    bytes_at_one = math.prod(reach.window) * x.itemsize * max(1, directions.entries / max(1, count * len(x)))
    held = max(1, int(HELD / bytes_at_one))
    points = chunk or BUDGET // (choice.widest * x.itemsize)
    return Size(max(1, min(points, held // count)), min(held, count))


@said_of
def pullback(f: Map, z: Tensor, w: Tensor, *, natural: bool = False) -> Tensor:
    """Return J^T w over the continuous latents, without a graph.

    Args:
        f: a decoder, or a function or module of latents.
        z: latents, shape (n, latent) or (n, channels, height, width); those of functions also give the precision.
        w: one covector per latent, shape (n, data) or that of the outputs, or several that share the primal, shape
            (s, n, data).

    Returns:
        shape (n, k) or (s, n, k), in the decoder's dtype.

    Raises:
        ContractError: `f` does not map rows to rows, or cannot be differentiated.
        ResourceError: memory does not suffice for a single latent.
        UsageError: the latents do not fit.

    Example:
        >>> z = torch.tensor([[1.0, 2.0]]).double()
        >>> pullback(lambda z: z.prod(dim=1, keepdim=True), z, torch.ones(1, 1).double())
        tensor([[2., 1.]], dtype=torch.float64)
    """
    decoder, z = decoder_and_rows(f, z)
    check_given(pullback, {"natural": natural})
    g, x = function_of(decoder, natural), _latents(decoder, z)
    covectors, several = covectors_of(decoder, len(z), w)
    free = decoder.continuous
    choice = choose(decoder, natural=natural)
    pulled = x.new_zeros(len(covectors), len(x), len(free))
    if not len(covectors):
        return pulled

    def work(part: Chunk) -> tuple[Tensor]:
        some = covectors[part.directions[0], part.points]
        with torch.enable_grad(), differentiable_kernels():
            leaf = x[part.points].clone().requires_grad_(True)
            y = g(leaf)
            choice.batches.check(g, leaf.detach(), y)
            along = some.to(device=y.device, dtype=y.dtype)
            Jw = [gradient(y, leaf, one, retain_graph=i + 1 < len(some)) for i, one in enumerate(along)]
        return (torch.stack(Jw)[:, :, free],)

    def put(part: Chunk, Jw: Tensor) -> None:
        pulled[part.directions[0], part.points] = Jw

    def made_of(part: Chunk) -> Iterable[object]:
        return (
            "J^T w",
            choice.known_by,
            natural,
            free,
            x[part.points],
            covectors[part.directions[0], part.points],
        )

    points = Size.fitting(choice.widest, x.itemsize, 1).points
    # all covectors share the primal, unless processes share the covectors
    split = current().world if len(x) <= points * (current().world - 1) else 1
    size = Size(points, math.ceil(len(covectors) / split))
    if Sweep(work, put, made_of, description="J^T w").over(len(x), len(covectors), size):
        pulled = current().summed(pulled)
    return pulled if several else pulled[0]


def _latents(decoder: Decoder, z: Tensor) -> Tensor:
    return z.detach().to(device=decoder.device, dtype=decoder.dtype)


def _on_all_latents(decoder: Decoder, v: Tensor) -> Tensor:
    """Widen directions over the continuous latents, shape (..., k), to all latents, 0 on the codes."""
    full = torch.zeros(*v.shape[:-1], decoder.latent_dim, dtype=decoder.dtype, device=decoder.device)
    full[..., decoder.continuous] = v.to(device=decoder.device, dtype=decoder.dtype)
    return full
