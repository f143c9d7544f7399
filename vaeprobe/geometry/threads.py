"""One thread for small matrices: waking the others costs more than they do, and on a busy machine much more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Multiply-adds of one operation above which a second thread pays.
WORTH_SHARING = 3e7


@contextmanager
def one_thread_below(work: float) -> Iterator[None]:
    """Let torch use a single thread inside the block where one operation takes less than is worth sharing.

    Args:
        work: multiply-adds of the largest operation in the block, e.g. n k^3 for n products of k x k matrices.
    """
    threads = torch.get_num_threads()
    if work >= WORTH_SHARING or threads == 1:
        yield
        return
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)
