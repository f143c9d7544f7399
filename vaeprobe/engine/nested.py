"""Nested lists, tuples and mappings, as functions of torch take and return them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar, cast

from torch import Tensor

from vaeprobe.engine.functions import Function

__all__ = ["Tree", "leaves_of", "mapped", "tensors_in"]


Tree = TypeVar("Tree")  # nested lists, tuples and mappings


def tensors_in(tree: object) -> Iterator[Tensor]:
    return (leaf for leaf in leaves_of(tree) if isinstance(leaf, Tensor))


def leaves_of(tree: object) -> Iterator[object]:
    if isinstance(tree, list | tuple):
        for branch in tree:
            yield from leaves_of(branch)
    elif isinstance(tree, dict):
        for branch in tree.values():
            yield from leaves_of(branch)
    else:
        yield tree


def mapped(tree: Tree, change: Callable[[object], object]) -> Tree:
    """Return nested arguments with every leaf changed."""
    if isinstance(tree, list | tuple):
        branches = [mapped(branch, change) for branch in tree]
        kind: Function = type(tree)
        return cast(Tree, kind(*branches) if hasattr(tree, "_fields") else kind(branches))
    if isinstance(tree, dict):
        return cast(Tree, {key: mapped(branch, change) for key, branch in tree.items()})
    return cast(Tree, change(tree))
