"""Rows that several processes share: the numbers are those of one process, whatever the solver and the type of products."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vaeprobe.data import Data, in_memory, open_data
from vaeprobe.errors import InputError
from vaeprobe.intervals import stream
from vaeprobe.linear import moments, rows, spectrum
from vaeprobe.linear.eigenpairs import Spectrum
from vaeprobe.processes import ALONE, Processes

UNIT = 256  # rows of a block here


@dataclass
class Table:
    """Where threads that stand for processes lay what they sum."""

    world: int
    slots: dict[int, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.world, timeout=60)

    def all_of(self, rank: int, own: object) -> list[object]:
        self.slots[rank] = own
        self.barrier.wait()
        found = [self.slots[k] for k in range(self.world)]
        self.barrier.wait()
        return found


@dataclass(frozen=True)
class Beside(Processes):
    """Processes that are threads."""

    table: Table = field(default_factory=lambda: Table(1))

    def sum(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.sum(self.table.all_of(self.rank, np.array(array, np.float64)), axis=0))  # type: ignore[arg-type]

    def gathered(self, own: object) -> list[object]:  # type: ignore[override]
        return self.table.all_of(self.rank, own)


def shared(data: Data, solver: str, world: int) -> list[Spectrum]:
    """Return the spectrum that each of several processes finds."""
    table = Table(world)

    def work(rank: int) -> Spectrum:
        own, sharing = spectrum.shared(data, solver, Beside(rank, world, table=table))
        assert sharing is ALONE or own.rows < data.rows
        return spectrum.compute(own, 4, solver=solver, processes=sharing)

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(work, range(world)))


def stored(folder: Path, n: int, m: int, parts: int = 1, mean: float = 3.0) -> Data:
    rng = stream(0, "shares")
    X = rng.standard_normal((n, 5)) @ rng.standard_normal((5, m)) * 2 + rng.standard_normal((n, m)) + mean
    for k, part in enumerate(np.array_split(X.astype(np.float32), parts)):
        np.save(folder / f"part{k}.npy", part)
    return open_data(str(folder / "part*.npy"))


Change = Callable[[pytest.MonkeyPatch], None]
CASES: dict[str, tuple[str, int, int, int, Change]] = {
    "few rows": ("auto", 40, 90, 1, lambda m: None),
    "few rows of each": ("auto", 60, 50, 1, lambda m: None),
    "few rows, randomized": ("randomized", 60, 400, 1, lambda m: None),
    "long rows, randomized": ("randomized", 900, 300, 1, lambda m: None),
    "streamed, randomized": ("randomized", 900, 300, 1, lambda m: m.setattr(rows, "CACHE_BYTES", 8e5)),
    "streamed from files": ("randomized", 1000, 300, 3, lambda m: m.setattr(rows, "CACHE_BYTES", 8e5)),
    "exact in float32": ("exact", 1500, 20, 1, lambda m: m.setattr(moments, "FLOAT64_WORK", 4e5)),
    "exact in float32 from files": ("exact", 1500, 20, 2, lambda m: m.setattr(moments, "FLOAT64_WORK", 4e5)),
    "exact in float64": ("exact", 700, 20, 1, lambda m: None),
}


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize(("solver", "n", "m", "parts", "change"), CASES.values(), ids=CASES)
def test_several_find_what_one_finds(
    solver: str,
    n: int,
    m: int,
    parts: int,
    change: Change,
    world: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (rows, spectrum, moments):
        monkeypatch.setattr(module, "BLOCK", UNIT)
    monkeypatch.setattr(moments, "CHECKED", 2)
    change(monkeypatch)
    data = stored(tmp_path, n, m, parts)
    alone = spectrum.compute(data, 4, solver=solver)
    for found in shared(data, solver, world):
        assert (found.solver, found.n) == (alone.solver, n)
        np.testing.assert_allclose(found.values, alone.values, rtol=1e-10)
        np.testing.assert_allclose(found.mean, alone.mean, rtol=1e-12)
        np.testing.assert_allclose(found.total, alone.total, rtol=1e-12)
        np.testing.assert_allclose(np.abs(found.vectors.T @ alone.vectors)[:4, :4], np.eye(4), atol=1e-10)
        np.testing.assert_allclose(found.resolution, alone.resolution, rtol=1e-6)
        if alone.residuals is not None and found.residuals is not None:
            np.testing.assert_allclose(found.residuals, alone.residuals, atol=1e-9 * alone.values[0])


@pytest.mark.parametrize(
    ("count", "unit", "ends"), [(1000, 256, [512, 1000]), (1000, 1, [500, 1000]), (100, 256, [0, 100])]
)
def test_shares_begin_with_blocks(count: int, unit: int, ends: list[int]) -> None:
    data = in_memory(np.arange(3.0 * count).reshape(count, 3))
    shares = [data.share(rank, 2, unit) for rank in range(2)]
    assert [share.last for share in shares] == ends
    np.testing.assert_array_equal(np.concatenate([share.read() for share in shares]), data.read())
    assert all(share.whole.identity() == data.identity() for share in shares)


def test_what_is_refused_is_counted_in_all_rows() -> None:
    X = np.ones((10, 3))
    X[[2, 7]] = np.nan
    data = in_memory(X)
    for rank in range(2):
        with pytest.raises(InputError, match=r"2 of 10 rows .*: 2, 7"):
            data.share(rank, 2).read()
