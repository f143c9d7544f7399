"""Gram matrices at latents seen before, for whoever measures again with more samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["recalled", "remembered"]

# Bytes of Gram matrices that are kept.
MOST = 1 << 30

_memory: ContextVar[dict[object, Tensor] | None] = ContextVar("memory", default=None)


@contextmanager
def remembered() -> Iterator[None]:
    """Within it, no Gram matrix is computed twice: latents are known by their numbers.

    What is kept is bounded, and forgotten at the end.
    """
    token = _memory.set({})
    try:
        yield
    finally:
        _memory.reset(token)


def recalled(
    key: tuple[object, ...],
    z: Tensor,
    columns: Tensor | None,
    compute: Callable[[Tensor, Tensor | None], Tensor],
) -> Tensor:
    """Return what `compute` gives for every row of z, asking it only for rows that are not remembered.

    Args:
        key: what the result depends on beside the rows.
        z: latents, shape (n, latent).
        columns: the columns taken at each, shape (n, s), or None for all.
        compute: takes some of the rows of both.
    """
    memory = _memory.get()
    if memory is None:
        return compute(z, columns)
    rows = z.detach().cpu().contiguous().numpy()
    sets = None if columns is None else columns.cpu().contiguous().numpy()
    names = [(*key, row.tobytes(), b"" if sets is None else sets[i].tobytes()) for i, row in enumerate(rows)]
    new = torch.tensor([i for i, name in enumerate(names) if name not in memory], dtype=torch.long)
    if len(new) == len(z):
        found = compute(z, columns)
    else:
        old = [i for i, name in enumerate(names) if name in memory]
        kept = torch.stack([memory[names[i]] for i in old])
        found = kept.new_empty(len(z), *kept.shape[1:])
        found[torch.tensor(old)] = kept
        if len(new):
            found[new] = compute(z[new], None if columns is None else columns[new])
    if len(new):
        each = found[0].numel() * found.itemsize
        room = MOST // max(each, 1) - len(memory)
        for i in new[: max(room, 0)].tolist():
            memory[names[i]] = found[i].clone()
    return found
