"""Which columns of the Jacobian to measure where there are too many for all of them.

A rotation of some coordinates alone, or the same rotation of the channels at every site, leaves N(0, I) as it is, so
that the rotation null of the whole space holds for such a part of it, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.engine.limits import LARGEST_GRAM, MOST
from vaeprobe.engine.methods import choose
from vaeprobe.errors import ResourceError, UsageError
from vaeprobe.geometry.turns import Turn
from vaeprobe.intervals import stream
from vaeprobe.scoped import scoped

if TYPE_CHECKING:
    from vaeprobe.decoder import Decoder
    from vaeprobe.report import Metric, OfAll

Which: TypeAlias = Literal["auto", "all", "channels", "some"]

# What brings more latents where the time given was over before all were measured.
MORE_TIME = "more --time"

# Latents up to which the whole of G is measured: where they have space, and where they have none.
WHOLE_IN_SPACE, WHOLE = 128, 512
# Columns of a random part: as many as the best rotation is searched for.
SOME = 64
# Multiply-adds, over all points and columns, that a default run may take (`Choice.work`): half a minute of one core.
WORK = 5e11
FEWEST = 32
# Latents whose Gram matrix is no larger than one may be.
MOST_WHOLE = math.isqrt(LARGEST_GRAM // 8)
# Bytes of the Gram matrices of a default run; nulls and rotations read off them take about ten times as much.
STACK = 1 << 26

# What answers where no part of the latents stands for all: `factorise` asks along what few outputs see, others of some latents.
BY_ALL = "--part all (in Python, part='all') measures all directions that the output depends on, if few"
BY_SOME = (
    f"--part some (in Python, part='some') measures {SOME} random latents; `vaeprobe factorise MODEL --part all`"
    " measures all directions that the output depends on, if few"
)


def named_part(kind: str | None) -> str:
    """Return the option that measures a part at all latents asked for: all (None), "channels", or what else was taken."""
    return "--part " + ("all" if kind is None else "channels" if kind == "channels" else "some")


@dataclass(frozen=True)
class ColumnBlock:
    """Some columns of the Jacobian, as many at every latent.

    Attributes:
        names: what to call each.
        kind: what they are, in the plural.
        columns: their indices among the continuous latents, shape (n, s).
        words: which they are, as one would say it.
        whole: latents in all.
        how: its columns are computed, as a sentence goes on to say.
    """

    names: tuple[str, ...]
    kind: str
    columns: Tensor
    words: str
    whole: int
    how: str = ""

    @property
    def among(self) -> str:
        """Which they are, and of how many latents."""
        return among(self.words, self.whole)

    def turned_by(self, R: Tensor, decoder: Decoder) -> Turn:
        """Return the rotation of the whole latent space that turns the block by R, (s, s)."""
        if self.kind == "channels":
            return Turn(R, self.whole)
        return Turn(R, decoder.latent_dim, cpu.tensor(decoder.continuous)[self.columns[0]])


def among(words: str, whole: int) -> str:
    """Return which latents were measured, of how many: what tells two parts apart."""
    return f"{words}, of {whole}"


def block_of(
    decoder: Decoder, part: Which, samples: int, seed: int, whole: int | None = None, way: str = BY_SOME
) -> ColumnBlock | None:
    """Return the part of the columns to measure at each of so many latents, None for all of them.

    Channels are those of one site, drawn anew for each latent; other parts are the same latents everywhere.

    Args:
        whole: latents without space up to which "auto" takes all; `WHOLE` by default.
        way: what answers nonetheless where no part stands for all.

    Raises:
        ResourceError: there are more than `MOST` latents, or too many for so few outputs that "auto" finds no part
            that stands for all.
        UsageError: channels are asked for of latents that have none.
    """
    k = len(decoder.continuous)
    if k > MOST:
        raise ResourceError(
            f"the decoder has {k:,} latents, and probes take {MOST:,} at most",
            hint="is this number right? A blueprint's `latents`, or --latent-dim, says it",
        )
    space = channels_and_sites(decoder)
    if part == "auto":
        part = (
            "channels"
            if space and k > WHOLE_IN_SPACE
            else "some"
            if k > (WHOLE if whole is None else whole)
            else "all"
        )
        if part == "some" and decoder.data_dim < SOME and 8 * k * k > LARGEST_GRAM:
            raise ResourceError(
                f"{decoder.data_dim} outputs cannot hold {SOME} independent columns, so no part of the {k:,} latents"
                f" stands for all of them, and one Gram matrix of all takes {8 * k * k / 1e9:.1f} GB",
                hint=f"{way}; or is a matrix transposed? A decoder's is outputs x latents, scikit-learn's components_ is"
                " the transpose of that",
            )
    if part == "channels" and not space:
        _check_single_site(decoder)
    if part == "channels" and space:
        channels = space[0]
        columns = random_sites(*space, samples, seed)
        names = tuple(f"c{i}" for i in range(channels))
        size = " x ".join(str(n) for n in decoder.latent_shape[1:])
        return ColumnBlock(
            names, "channels", columns, f"the {channels} channels at one random site of {size}", k
        )
    if part == "some" and k > SOME:
        some = torch.from_numpy(stream(seed, "some latents").permutation(k)[:SOME].copy()).sort().values
        names = tuple(decoder.latent_names[i] for i in some.tolist())
        return ColumnBlock(names, "latents", some.expand(samples, -1), f"{SOME} random latents", k)
    return None


def channels_and_sites(decoder: Decoder) -> tuple[int, int] | None:
    """Return how many channels latents have at how many sites, None where they lie on no map of several channels."""
    shape, k = decoder.latent_shape, len(decoder.continuous)
    if shape is None or len(shape) < 2 or k != decoder.latent_dim or not k > shape[0] > 1:
        return None
    return shape[0], k // shape[0]


def _check_single_site(decoder: Decoder) -> None:
    """Refuse latents without channels at several sites, unless they are the channels of a single one.

    Raises:
        UsageError: they are not.
    """
    shape, k = decoder.latent_shape, len(decoder.continuous)
    if len(shape) < 2:
        what = f"the {k} latents are flat, and have no channels"
    elif k != decoder.latent_dim:
        what = f"{decoder.latent_dim - k} latents are held, and the others are no whole channels"
    elif shape[0] == 1:
        what = f"the latents are a map of one channel, {' x '.join(map(str, shape[1:]))}"
    else:
        return
    raise UsageError(
        f"{what}: there is no part of them to take",
        hint="leave --part out, or take --part some: random latents",
    )


def random_sites(channels: int, sites: int, samples: int, seed: int) -> Tensor:
    """Return the columns of all channels at one random site for each of so many latents, shape (samples, channels)."""
    site = torch.from_numpy(stream(seed, "sites").integers(0, sites, size=samples))
    return cpu.arange(channels) * sites + site[:, None]


@dataclass(frozen=True)
class Part:
    """A decoder of some of the latents, the same for a whole run, with the others drawn and given.

    Attributes:
        decoder: the same map, with fewer continuous latents.
        words: which they are.
        whole: continuous latents in all.
        seen: whether it is all that the output depends on, in other axes.
        kind: "channels", else "latents".
    """

    decoder: Decoder
    words: str
    whole: int
    seen: bool = False
    kind: str = "latents"

    @property
    def among(self) -> str:
        """Which they are, and of how many; "" where the output depends on no others."""
        return "" if self.seen else among(self.words, self.whole)

    @property
    def start(self) -> str:
        """How a sentence about it begins."""
        if self.seen:
            return (
                f"The output depends on {self.words}, not on all {self.whole} latents; along these directions"
            )
        return f"Of {self.whole} latents, along {self.words}, given the others"


def part_of(
    decoder: Decoder, part: Which, seed: int, whole: int | None = None, way: str = BY_SOME
) -> Part | None:
    """Return a part of the latents that stays the same for a whole run, None for all of them."""
    block = block_of(decoder, part, 1, seed, whole, way)
    if block is None:
        return None
    columns = block.columns[0].tolist()
    words = block.words
    if block.kind == "channels":
        size = decoder.latent_shape[1:]
        site = ", ".join(str(int(n)) for n in np.unravel_index(columns[0], size))
        words = f"the {len(columns)} channels at site ({site}) of {' x '.join(map(str, size))}"
    return Part(decoder.holding_all_but(columns), words, block.whole, kind=block.kind)


def of_part(metric: Metric, known: Mapping[str, OfAll]) -> Metric:
    """Return a number of a part of the latents that was drawn, with what it tells of all: nothing, or what is known.

    Args:
        known: what is, by id.
    """
    if not metric.defined or isinstance(metric.value, str):
        return metric
    both = {metric.of_all, known.get(metric.id, "open")} - {"known"}
    return replace(metric, of_all="open" if len(both) > 1 else both.pop() if both else "known")


_as_asked: ContextVar[bool] = ContextVar("as_asked", default=False)


@contextmanager
def as_asked() -> Iterator[None]:
    """Within it, probes take all the samples that they are asked for: whoever asks has reasons."""
    with scoped(_as_asked, True):
        yield


_shortened: ContextVar[bool | None] = ContextVar("shortened", default=None)


@contextmanager
def shortened(some: bool | None) -> Iterator[None]:
    """Within it, whether limited time lasts for some columns only is settled; None leaves it to the clock."""
    with scoped(_shortened, some):
        yield


def is_shortened() -> bool | None:
    """Return whether limited time lasts for some columns only, None where the clock is to say."""
    return _shortened.get()


def affordable(decoder: Decoder, columns: int, samples: int, *, grams: int = 0) -> int:
    """Return how many latents a default run can take: all of them where their columns are cheap.

    Args:
        columns: in all, at each.
        grams: how many Gram matrices they make, where that is all that is asked of them: windows make these cheaper.
    """
    if _as_asked.get():
        return samples
    choice = choose(decoder)
    work = grams * choice.work_of(columns // grams) if grams else columns * choice.work
    return min(samples, max(FEWEST, int(WORK // work)))


def cost_of_all(decoder: Decoder, samples: int, columns: int = 1) -> str:
    """Return what the columns of all latents cost at so many of them, each so many times, in brackets."""
    choice, k = choose(decoder), len(decoder.continuous)
    decodings = samples * (1 + columns * choice.work_of(k) / max(1, choice.work))
    return f"(the work of about {float(f'{decodings:.2g}'):,.0f} decodings, and {8e-9 * samples * k**2:.2g} GB of Gram matrices)"


def holdable(columns: int, samples: int) -> int:
    """Return how many latents' Gram matrices of so many columns a default run holds in memory at once."""
    return samples if _as_asked.get() else min(samples, max(FEWEST, STACK // (8 * columns**2)))
