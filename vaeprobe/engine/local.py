"""Columns of the Jacobian of decoders in which a latent reaches only a window of the outputs.

In a network of convolutions, functions of single numbers and up-sampling a column is zero but for a window, which each
layer widens by its kernel.  `Local` tangents note what each operation makes of such windows while the latents are decoded
once; `LocalMap` does so for any columns afterwards, at a cost that does not depend on the size of the map, with derivatives
cut out of those of the whole.  Nothing is assumed of a network: an operation that has no rule here (a normalisation over
the map, attention, a layer that mixes all places) ends the attempt, and is named.  The rules are in `local_rules`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.engine.columns import Block, Columns
from vaeprobe.engine.windows import Places, Spread, Windows, stacked, total

__all__ = ["Local", "LocalMap", "Rule", "latents"]

Rule: TypeAlias = Callable[[Sequence[Windows], Sequence[bool]], Windows]
"""What an operation makes of windows of its arguments, whose memory it may use where it is told so."""


_order = itertools.count()


class Local(Columns):
    """Tangents that are known by what makes them of those of the latents: made by `latents` alone.

    Attributes:
        laid: the shape of the windows, shape (n, ...): not `shape` where maps were flattened to rows.
        single: whether each row is zero but for one number.
        own: whether the windows have memory of their own.
    """

    def __init__(
        self,
        shape: Sequence[int],
        rule: Rule,
        parents: Sequence[Local] = (),
        *,
        laid: Sequence[int] | None = None,
        single: bool = False,
        own: bool = True,
    ) -> None:
        super().__init__(torch.Size(shape), directions=1)
        self.laid = torch.Size(shape if laid is None else laid)
        self.rule, self.parents, self.single, self.own = rule, tuple(parents), single, own
        self.number = next(_order)

    def _compute(self, block: Block) -> tuple[Tensor, bool]:
        raise Spread

    def scaled(self, factor: Tensor) -> Columns:
        n = len(self.shape)
        factor = factor.detach()[(None,) * (n - factor.ndim)]
        if self.laid != self.shape:
            flat = factor.expand(len(factor), *self.shape[1:])
            factor = flat.reshape(len(factor), *self.laid[1:])
        return self.after(
            lambda windows, mine: windows[0].scaled(factor, mine[0]),
            self.shape,
            laid=self.laid,
            single=self.single,
        )

    def times(self, number: float) -> Columns:
        return self.scaled(cpu.tensor(number, dtype=torch.float64))

    def plus(self, others: Sequence[Columns]) -> Columns:
        terms = [self, *others]
        if not all(isinstance(t, Local) and t.laid == self.laid and t.shape == self.shape for t in terms):
            raise Spread
        parents = [t for t in terms if isinstance(t, Local)]
        return Local(self.shape, total, parents, laid=self.laid)

    def reshaped(self, shape: torch.Size) -> Columns:
        if shape == self.shape:
            return self
        if len(shape) == 0 or shape[0] != self.shape[0]:
            raise Spread
        if self.single and self.laid == self.shape:
            old, new = tuple(self.shape[1:]), tuple(shape[1:])

            def placed(windows: Sequence[Windows], mine: Sequence[bool]) -> Windows:
                (w,) = windows
                flat = np.ravel_multi_index(tuple(w.corner.T), old)
                corner = np.stack(np.unravel_index(flat, new), axis=1)
                return Windows(w.values.reshape(len(w.point), *[1] * len(new)), corner, w.point, new)

            return self.after(placed, shape, single=True, own=False)
        if shape == self.laid or len(shape) == 2:
            return self.after(lambda windows, mine: windows[0], shape, laid=self.laid, own=False)
        if [n for n in shape if n != 1] != [n for n in self.laid if n != 1]:
            raise Spread

        def squeezed(windows: Sequence[Windows], mine: Sequence[bool]) -> Windows:
            (w,) = windows
            corner = np.zeros((len(w.point), len(shape) - 1), dtype=np.int64)
            corner[:, [i for i, n in enumerate(shape[1:]) if n != 1]] = w.corner[
                :, [i for i, n in enumerate(w.shape) if n != 1]
            ]
            sides = iter([side for side, n in zip(w.values.shape[1:], w.shape, strict=True) if n != 1])
            size = [1 if n == 1 else next(sides) for n in shape[1:]]
            return Windows(w.values.reshape(len(w.point), *size), corner, w.point, tuple(shape[1:]))

        return self.after(squeezed, shape, own=False)

    def after(
        self,
        rule: Rule,
        shape: Sequence[int],
        *,
        laid: Sequence[int] | None = None,
        single: bool = False,
        own: bool = True,
    ) -> Local:
        """Return what a rule makes of these tangents."""
        return Local(shape, rule, (self,), laid=laid, single=single, own=own)

    def plain(self) -> Local:
        """Return these tangents where they are laid out as they look.

        Raises:
            Spread: they are not.
        """
        if self.laid != self.shape:
            raise Spread
        return self


def latents(x: Tensor) -> Local:
    """Return the tangents of latents, shape (n, latent), with respect to themselves."""
    return Local(x.shape, lambda windows, mine: windows[0], single=True)


class LocalMap:
    """The derivative of a decoder at some latents, for any of its columns.

    Args:
        x: the latents, shape (n, latent).
        root: their tangents.
        out: those of the outputs.

    Raises:
        Spread: the outputs do not depend on the latents by known ways.
    """

    def __init__(self, x: Tensor, root: Local, out: Columns) -> None:
        if not isinstance(out, Local):
            raise Spread
        seen: dict[int, Local] = {}
        waiting = [out]
        while waiting:
            node = waiting.pop()
            if node.number not in seen:
                seen[node.number] = node
                waiting.extend(node.parents)
        self._like, self._root, self._out = x, root, out
        self._nodes = [seen[number] for number in sorted(seen)]
        self._uses = dict.fromkeys(seen, 0)
        for node in self._nodes:
            for parent in node.parents:
                self._uses[parent.number] += 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one output, as windows of it are laid out."""
        return tuple(self._out.laid[1:])

    @torch.no_grad()
    def columns(self, point: Places, latent: Places, most: int | None = None) -> Windows:
        """Return columns of the Jacobians.

        Args:
            point: at which of the latents, shape (rows,).
            latent: along which of their numbers, shape (rows,).
            most: how many to compute at a time.

        Raises:
            Spread: an operation does not do what it is known for.
        """
        if not len(point):
            first = np.zeros(1, dtype=np.int64)
            return self.columns(first, first).of(slice(0))
        step = len(point) if most is None else most
        parts = [self._columns(point[i : i + step], latent[i : i + step]) for i in range(0, len(point), step)]
        return parts[0] if len(parts) == 1 else stacked(parts)

    def _columns(self, point: Places, latent: Places) -> Windows:
        ones = self._like.new_ones(len(point), 1)
        found = {self._root.number: Windows(ones, latent[:, None], point, tuple(self._root.shape[1:]))}
        left = dict(self._uses)
        for node in self._nodes:
            if node is self._root:
                continue
            given = [found[parent.number] for parent in node.parents]
            mine = [parent.own and self._uses[parent.number] == 1 for parent in node.parents]
            for parent in node.parents:
                left[parent.number] -= 1
                if not left[parent.number]:
                    found.pop(parent.number, None)
            found[node.number] = node.rule(given, mine)
        return found[self._out.number]
