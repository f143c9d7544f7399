"""What a pickle holds, as inert records of names, calls and references: nothing here can import or call anything."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["Built", "Global", "Node", "Opaque", "Persistent", "Pickle", "unfolded", "walk"]


# tuple, list, dict, scalar, Global, Built or Persistent: whichever the file says, so each is looked at before use
Node: TypeAlias = object


@dataclass(frozen=True, slots=True)
class Global:
    """A name that a pickle asks to import."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def plausible(self) -> bool:
        """Whether there could be something of this name, and it is no accident of bytes."""
        return all(part.isidentifier() for part in str(self).split("."))


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """A reference to something outside the pickle: in torch files, a storage."""

    id: Node


@dataclass(slots=True, eq=False)
class Built:
    """What a pickle would have made by a call.

    Attributes:
        maker: the function or class, as a rule a `Global`.
        args: positional arguments.
        new: an object made by `maker.__new__(maker, *args)`, not by calling `maker(*args)`.
        state: what it would be given by `__setstate__` or into `__dict__`.
        items: what would be appended or added to it.
        pairs: keys and values that would be set in it.
    """

    maker: Node
    args: tuple[Node, ...] = ()
    new: bool = False
    state: Node = None
    items: list[Node] = field(default_factory=list)
    pairs: list[tuple[Node, Node]] = field(default_factory=list)

    def by(self, path: str) -> bool:
        """Return whether `maker` is the global of that dotted path."""
        return isinstance(self.maker, Global) and str(self.maker) == path


class Named(Built):
    """A `Built` whose maker was found to be a global: what a checked value is taken for, never made as such."""

    maker: Global


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """A key of a dict that is neither a number nor text: compared by identity, never hashed into."""

    value: Node


@dataclass(frozen=True, slots=True)
class Pickle:
    """A pickle that was read to its end.

    Attributes:
        root: what it holds, inert.
        globals: every name it would import, in order, once each.
        calls: every call it would make.
        persistent: every reference to something outside it.
        end: offset of the first byte after it.
        replaced: states that it gives to an object and then replaces.
    """

    root: Node
    globals: tuple[Global, ...]
    calls: tuple[Built, ...]
    persistent: tuple[Persistent, ...]
    end: int
    replaced: tuple[Node, ...] = ()


def walk(root: Node, closed: Collection[int] = ()) -> Iterator[Node]:
    """Yield every value reachable from `root`, containers included, each once; needs no recursion.

    Values whose id is in `closed` are not looked into.
    """
    seen: set[int] = set(closed)
    waiting: list[Node] = [root]
    while waiting:
        node = waiting.pop()
        children = _children(node)
        if children is not None:
            if id(node) in seen:
                continue
            seen.add(id(node))
        yield node
        if children is not None:
            waiting.extend(children)


def unfolded(root: Node, most: int) -> int:
    """Return how many containers there are on all paths from `root`, `most` at most: what a walk by names meets.

    A container that is held twice counts twice, all that it holds as well; one that holds itself counts once.
    """
    counts: dict[int, int] = {}
    waiting: list[tuple[Node, bool]] = [(root, False)]
    while waiting:
        node, below_done = waiting.pop()
        inside = [value for value in _inside(node) if isinstance(value, (dict, list, tuple, Built))]
        if below_done:
            counts[id(node)] = min(most, 1 + sum(counts[id(value)] for value in inside))
        elif id(node) not in counts:
            counts[id(node)] = 0
            waiting.append((node, True))
            waiting.extend((value, False) for value in inside)
    return counts[id(root)]


def _inside(node: Node) -> Iterable[Node]:
    """Return the values of a container that have a name, or a place, in it."""
    if isinstance(node, dict):
        return node.values()
    if isinstance(node, Built):
        return [node.state, *node.items, *(value for _, value in node.pairs)]
    return node if isinstance(node, (list, tuple)) else ()


def _children(node: Node) -> Iterable[Node] | None:
    """Return the values inside a node, or None for a leaf."""
    if isinstance(node, (list, tuple)):
        return node
    if isinstance(node, dict):
        return [*node.keys(), *node.values()]
    if isinstance(node, Built):
        return [node.maker, *node.args, node.state, *node.items, *(x for pair in node.pairs for x in pair)]
    if isinstance(node, Opaque):
        return [node.value]
    return [node.id] if isinstance(node, Persistent) else None
