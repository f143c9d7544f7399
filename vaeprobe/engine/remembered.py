"""What was measured at latents seen before, for whoever measures again with more samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.scoped import scoped

__all__ = ["recalled", "recalled_each", "recalled_together", "remembered", "remembering"]

Made = TypeVar("Made")

# Bytes that are kept.
MOST = 1 << 30


class _Memory(dict[object, Any]):
    """What was measured, by what and at which latent; of tensors, `left` bytes more."""

    def __init__(self) -> None:
        super().__init__()
        self.left = MOST


_memory: ContextVar[_Memory | None] = ContextVar("memory", default=None)


@contextmanager
def remembered() -> Iterator[None]:
    """Within it, nothing is measured twice at a latent: latents are known by their numbers.

    What is kept is bounded, and forgotten at the end.
    """
    with scoped(_memory, _Memory()):
        yield


def remembering() -> bool:
    """Whether what is measured now is remembered."""
    return _memory.get() is not None


def recalled(
    key: tuple[object, ...],
    rows: Sequence[Tensor],
    compute: Callable[[Tensor], tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:
    """Return what `compute` gives for every row, asking it only for rows that are not remembered.

    Args:
        key: what the result depends on beside the rows.
        rows: tensors of as many rows, which a row of the result depends on.
        compute: takes indices of rows, and returns tensors with a row for each.
    """
    n = len(rows[0])
    memory = _memory.get()
    if memory is None:
        return compute(cpu.arange(n))
    names = _names(key, rows)
    new = cpu.tensor([i for i, name in enumerate(names) if name not in memory], dtype=torch.long)
    fresh = compute(new) if len(new) or not n else ()
    if len(new) < n:
        old = [i for i, name in enumerate(names) if name in memory]
        found = []
        for j in range(len(memory[names[old[0]]])):
            kept = torch.stack([memory[names[i]][j] for i in old])
            whole = kept.new_empty(n, *kept.shape[1:])
            whole[old] = kept
            if len(new):
                whole[new] = fresh[j]
            found.append(whole)
    else:
        found = list(fresh)
    if len(new):
        each = sum(part[0].numel() * part.itemsize for part in found)
        some = new[: memory.left // max(each, 1)].tolist()
        memory.left -= each * len(some)
        for i in some:
            memory[names[i]] = tuple(part[i].clone() for part in found)
    return tuple(found)


def recalled_together(
    key: tuple[object, ...], rows: Sequence[Tensor], compute: Callable[[], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """Return what `compute` gives for all rows as one, for results at a row that depend on the others."""
    found = recalled(key, [part[None] for part in rows], lambda _: tuple(part[None] for part in compute()))
    return tuple(part[0] for part in found)


def recalled_each(
    key: tuple[object, ...], rows: Tensor, compute: Callable[[Tensor], Sequence[Made]]
) -> list[Made]:
    """Return the same of things other than tensors, which are few: as many as there are rows."""
    memory = _memory.get()
    if memory is None:
        return list(compute(cpu.arange(len(rows))))
    names = _names(key, [rows])
    new = [i for i, name in enumerate(names) if name not in memory]
    if new:
        memory |= zip([names[i] for i in new], compute(cpu.tensor(new)), strict=True)
    return [memory[name] for name in names]


def _names(key: tuple[object, ...], rows: Sequence[Tensor]) -> list[tuple[object, ...]]:
    parts = [part.detach().cpu().contiguous().numpy() for part in rows]
    return [
        (*key, hashlib.sha256(b"".join(part[i].tobytes() for part in parts)).digest())
        for i in range(len(rows[0]))
    ]
