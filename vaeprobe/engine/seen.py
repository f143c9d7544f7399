"""Functions and modules that the verbs were given before: held to the contract once, and again once they have changed.

The door takes tens of passes through a decoder, a Gram matrix of a few of its columns one.  What the door found out is kept
as long as the function lives, and is believed where one latent still gives the same numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from vaeprobe.autograd import differentiable_kernels
from vaeprobe.decoder import Decoder
from vaeprobe.engine.methods import share_choices
from vaeprobe.frozen import buffers_of, frozen, tensors_of

__all__ = ["once_checked"]


@dataclass(frozen=True)
class _Seen:
    """What a function was found to be: a decoder that lacks the function, so as not to keep that alive.

    Attributes:
        y: its output at one latent.
        apart: the names of buffers that the decoder does not share with it.
    """

    decoder: Decoder
    y: Tensor
    apart: frozenset[str]


_seen: WeakKeyDictionary[object, dict[Hashable, _Seen]] = WeakKeyDictionary()


def once_checked(
    f: object, rows: Callable[[Tensor], object], of: Hashable, make: Callable[[], Decoder]
) -> Decoder:
    """Return the decoder that `make` makes of `rows`, without its checks where they were done before and nothing changed.

    Args:
        f: what the user gave.
        rows: the same as a function of rows.
        of: what the checks depend on beside f.
    """
    try:
        known = _seen.setdefault(f, {})
    except TypeError:  # neither to be hashed nor to be referred to weakly
        return make()
    own = next((t.dtype for t in tensors_of(rows) if t.is_floating_point()), None)
    of = of, own
    seen = known.get(of)
    if seen is not None:
        cast = None if own in (None, seen.decoder.dtype) else seen.decoder.dtype
        apart = [buffer for name, buffer in buffers_of(rows).items() if name in seen.apart]
        decoder = _with(seen.decoder, frozen(rows, cast, apart=apart))
        y = _at_one_latent(decoder)
        if y is not None and y.dtype == seen.y.dtype and y.device == seen.y.device and torch.equal(y, seen.y):
            return decoder
    decoder = make()
    y = _at_one_latent(decoder)
    if y is not None and decoder.near is None:  # what holds near some latents need not near others
        shared = set(map(id, buffers_of(rows).values()))
        apart_ = frozenset(name for name, b in buffers_of(decoder.function).items() if id(b) not in shared)
        known[of] = _Seen(_with(decoder, None), y, apart_)
    return decoder


def _with(decoder: Decoder, function: object) -> Decoder:
    """Return the same decoder of another function, unchecked."""
    other = copy.copy(decoder)
    object.__setattr__(other, "function", function)
    share_choices(decoder, other)
    return other


@torch.no_grad()
def _at_one_latent(decoder: Decoder) -> Tensor | None:
    try:
        with differentiable_kernels():
            return decoder.flat(decoder._probe_rows(1))
    except Exception:  # whatever a foreign function raises once it is another one
        return None
