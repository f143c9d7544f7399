"""Nested lists, tuples and mappings, as functions of torch take and return them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar, cast

from torch import Tensor

from vaeprobe.engine.functions import Function

__all__ = ["Tree", "leaves_of", "mapped", "tensors_in"]


NESTS = (tuple, list, dict)
Tree = TypeVar("Tree")  # nested lists, tuples and mappings


def tensors_in(tree: object) -> Iterator[Tensor]:
    return (leaf for leaf in leaves_of(tree) if isinstance(leaf, Tensor))


def leaves_of(tree: object) -> Iterator[object]:
    if not isinstance(tree, NESTS):
        yield tree
        return
    for branch in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(branch, NESTS):
            yield from leaves_of(branch)
        else:  # most are leaves: without a generator for each
            yield branch


def mapped(tree: Tree, change: Callable[[object], object]) -> Tree:
    """Return nested arguments with every leaf changed."""
    if isinstance(tree, list | tuple):
        branches = [mapped(b, change) if isinstance(b, NESTS) else change(b) for b in tree]
        kind: Function = type(tree)
        return cast(Tree, kind(*branches) if hasattr(tree, "_fields") else kind(branches))
    if isinstance(tree, dict):
        return cast(Tree, {key: mapped(branch, change) for key, branch in tree.items()})
    return cast(Tree, change(tree))
