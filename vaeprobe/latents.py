"""Where to probe: latents from the prior, from posteriors, on a grid, or from a file.

Every source draws float64 rows on the CPU, shape (n, latent).  A draw depends on the seed alone, never on
the machine, the device or the chunk size.  Of the prior, of posteriors and of given latents the first rows of a longer draw
are those of a shorter one, so that sampling can grow without starting again; a grid is another one at each number of latents.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.data.masks import hidden
from vaeprobe.encoder import check_codes
from vaeprobe.errors import InputError, ResourceError, UsageError
from vaeprobe.files.limits import check_memory
from vaeprobe.files.matrices import read_matrix
from vaeprobe.given import check_dense
from vaeprobe.intervals import stream
from vaeprobe.processes import current

if TYPE_CHECKING:
    from vaeprobe.decoder import Decoder


# Bytes of a grid's traversals of each axis: two points an axis at the least, however few are asked for.
LARGEST_GRID = 1 << 29


class Latents(ABC):
    """A source of latents."""

    @abstractmethod
    def draw(self, decoder: Decoder, n: int, *, seed: int = 0) -> Tensor:
        """Return latents, shape (n, decoder.latent_dim), float64; fewer rows where the source is finite."""

    @abstractmethod
    def describe(self) -> str:
        """Return a few words for the report."""


@dataclass(frozen=True)
class Prior(Latents):
    """The decoder's prior: N(0, 1) per continuous or held latent or what it learned, uniform one-hot codes per group.

    Attributes:
        purpose: names the random stream; two purposes give independent draws of the same seed.
    """

    purpose: str = "latents"

    def draw(self, decoder: Decoder, n: int, *, seed: int = 0) -> Tensor:
        check_memory(
            f"{n} latents", 8 * n * decoder.latent_dim, "fewer latents (--samples, in Python samples=)"
        )
        columns = []
        learned, free = decoder.learned, 0
        own = None if learned is None else learned.draw(n, seed=seed, purpose=self.purpose).numpy()
        for k, group in enumerate(decoder.prior):
            rng = stream(seed, f"{self.purpose}/{k}")
            if group.kind != "onehot" and own is not None:
                columns.append(own[:, free : free + group.size])
                free += group.size
            elif group.kind != "onehot":
                columns.append(rng.standard_normal((n, group.size)))
            else:
                columns.append(np.eye(group.size)[rng.integers(0, group.size, size=n)])
        return torch.from_numpy(np.concatenate(columns, axis=1))

    def describe(self) -> str:
        return "prior"


@dataclass(frozen=True)
class Posterior(Latents):
    """Draws from q(z | x), or its means, for given data rows; cycles through the rows for n > len(data).

    Attributes:
        data: shape (rows, ...), as the encoder takes it.
        means: take the posterior means instead of draws.
    """

    data: Tensor
    means: bool = False

    def draw(self, decoder: Decoder, n: int, *, seed: int = 0) -> Tensor:
        if decoder.encoder is None:
            raise UsageError(
                "latents from the posterior need an encoder, and this decoder comes without one",
                hint="describe the encoder in the blueprint, or use --latents prior",
            )
        mean, log_variance = decoder.encoder(self.data)
        rows = cpu.arange(n) % len(mean)
        z = mean.double().cpu()[rows]
        if not self.means:
            noise = torch.from_numpy(stream(seed, "posterior").standard_normal(tuple(z.shape)))
            z = z + noise * (0.5 * log_variance.double().cpu()[rows]).exp()
        check_codes(z)
        if z.shape[1] == decoder.latent_dim:
            return z
        full = Prior("posterior codes").draw(decoder, n, seed=seed)
        full[:, decoder.gaussian] = z
        return full

    def describe(self) -> str:
        return "posterior means" if self.means else "posterior"


def resting(decoder: Decoder) -> Tensor:
    """Return where latents that are not walked stay: one-hot groups at their first code, others at their mean, (latent,)."""
    z = cpu.zeros(decoder.latent_dim, dtype=torch.float64)
    start = 0
    for group in decoder.prior:
        if group.kind == "onehot":
            z[start] = 1.0
        start += group.size
    if decoder.learned is not None:
        z[decoder.gaussian] = decoder.learned.moments()[0]
    return z


@dataclass(frozen=True)
class Grid(Latents):
    """A lattice over [-extent, extent]^d of at most n points; traversals of each axis where that is too few.

    Under a mixture prior it spans as many standard deviations round its mean.

    One-hot groups are set to their first code, held latents to 0.
    """

    extent: float = 2.0

    def draw(self, decoder: Decoder, n: int, *, seed: int = 0) -> Tensor:
        free = decoder.continuous
        d = len(free)
        side = int(np.floor(n ** (1 / d) + 1e-9))
        if side >= 3 or d == 1:
            axis = cpu.linspace(-self.extent, self.extent, max(side, 2), dtype=torch.float64)
            z = torch.stack([g.flatten() for g in torch.meshgrid([axis] * d, indexing="ij")], dim=1)
        else:
            axis = cpu.linspace(-self.extent, self.extent, max(n // d, 2), dtype=torch.float64)
            if 8 * d * len(axis) * d > LARGEST_GRID:
                raise ResourceError(
                    f"a grid of {d:,} latents takes {8 * d * len(axis) * d / 1e9:.1f} GB",
                    hint="latents of the prior take one row a sample: leave the grid out",
                )
            z = cpu.zeros(d, len(axis), d, dtype=torch.float64)
            z[range(d), :, range(d)] = axis
            z = z.flatten(0, 1)
        full = resting(decoder).repeat(len(z), 1)
        if decoder.learned is not None:
            mean, deviation = decoder.learned.moments()
            own = [decoder.gaussian.index(i) for i in free]
            z = mean[own] + deviation[own] * z
        full[:, free] = z
        return full

    def describe(self) -> str:
        return f"grid over [-{self.extent:g}, {self.extent:g}]"


@dataclass(frozen=True)
class Given(Latents):
    """The rows of a matrix, shape (rows, latent), the first n of them."""

    z: Tensor
    origin: str = "given latents"

    def draw(self, decoder: Decoder, n: int, *, seed: int = 0) -> Tensor:
        if self.z.ndim != 2 or self.z.shape[1] != decoder.latent_dim:
            raise UsageError(
                f"the latents have shape {tuple(self.z.shape)}, the decoder takes (n, {decoder.latent_dim})",
                hint="one row per latent, one column per latent dimension",
            )
        z = self.z.double().cpu()[:n]
        if not torch.isfinite(z).all():
            rows = (~torch.isfinite(z)).any(1).nonzero().flatten().tolist()
            raise InputError(f"latents contain NaN or infinity in row {rows[0]} ({len(rows)} rows in all)")
        return z if decoder.units is None else (z - decoder.units[0]) / decoder.units[1]

    def describe(self) -> str:
        return self.origin


@dataclass(frozen=True)
class Sampled(Latents):
    """What a function from a number of rows to rows returns; it is called once, after `torch.manual_seed`.

    The caller's own random state is left as it was.
    """

    sampler: Callable[[int], object]
    origin: str = "given sampler"

    def draw(self, decoder: Decoder, n: int, *, seed: int = 0) -> Tensor:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            rows = self.sampler(n)
        return Given(numbers(rows, "latents"), self.origin).draw(decoder, n, seed=seed)

    def describe(self) -> str:
        return self.origin


def source(given: object, data: Callable[[], Tensor | None]) -> Latents:
    """Return the source of latents that a setting names or is.

    Args:
        given: a word or file as for `parse`, rows, a function from a number of rows to rows, a torch
            distribution of one row, or `Latents`.
        data: gives the data rows, where the source needs them.

    Raises:
        UsageError: it is none of these.
        InputError: rows that are no numbers.
    """
    if isinstance(given, Latents):
        return given
    if isinstance(given, (str, os.PathLike)):
        word = os.fspath(given)
        rows = data() if word.startswith("posterior") else None
        return current().together(lambda: parse(word, data=rows), by=_given_rows)
    if isinstance(given, torch.distributions.Distribution):
        return Sampled(lambda n: given.sample((n,)), f"{type(given).__name__} distribution")
    if callable(given):
        return Sampled(given, getattr(given, "__name__", "given sampler"))
    return Given(numbers(given, "latents"))


def _given_rows(latents: Latents) -> str:
    """Return a hash of latents that a file gave: processes that share a run take the same."""
    return hashlib.sha256(latents.z.numpy().tobytes()).hexdigest() if isinstance(latents, Given) else ""


def numbers(rows: object, name: str) -> Tensor:
    """Return rows as a tensor of real numbers.

    Raises:
        InputError: they are something else.
        UsageError: they are a tensor that is not dense.
    """
    check_dense(rows, f"the {name}")
    if isinstance(rows, Tensor):
        if rows.is_complex():
            raise InputError(
                f"the {name} are complex numbers, not real ones", hint="t.abs(), or torch.view_as_real(t)"
            )
        return rows.detach()
    try:
        array, masked = np.asarray(rows), hidden(rows)
    except (ValueError, TypeError) as error:
        raise InputError(f"the {name} are no array: {error}") from None
    if masked:
        raise InputError(
            f"{masked} of {array.size} values of the {name} are masked, which are no numbers",
            hint="leave their rows out, or put numbers in their place",
        )
    if array.dtype.kind not in "fiub":
        what = type(rows).__name__ if array.dtype.kind == "O" else array.dtype
        raise InputError(
            f"the {name} are {what}, not real numbers",
            hint="pass an array or a tensor, or the path of a file",
        )
    kept = ("float32", "float64", "uint8", "int64", "bool")
    wide = (
        array.dtype.name if array.dtype.name in kept else "int64" if array.dtype.kind in "iu" else "float64"
    )
    return torch.from_numpy(np.ascontiguousarray(array, dtype=wide))


def parse(source: str, *, data: Tensor | None = None) -> Latents:
    """Return the source that `--latents` names: prior, posterior, posterior-means, grid, or a .npy file.

    Raises:
        UsageError: posterior without data, or no such source.
        InputError: the file is no numeric .npy matrix.
    """
    if source == "prior":
        return Prior()
    if source == "grid":
        return Grid()
    if source in ("posterior", "posterior-means"):
        if data is None:
            raise UsageError("latents from the posterior need data", hint="add --data X.npy")
        return Posterior(data, means=source.endswith("means"))
    path = Path(source)
    if not os.path.isfile(path):
        raise UsageError(
            f"`{source}` is neither a source of latents nor a file",
            hint="one of prior, posterior, posterior-means, grid, or the path of a .npy matrix",
        )
    array = read_matrix(path)
    return Given(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64)), origin=str(path))
