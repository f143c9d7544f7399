"""Rows of tokens, which are whole numbers from 0, and one-hot rows of the same: which of them data are, and how one becomes the other."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from vaeprobe.errors import UsageError

__all__ = ["are_one_hot", "check_tokens", "other_form", "unknown_tokens"]

NEAR = 1e-3  # to 0 or 1, of a one-hot row in half precision


def other_form(x: Tensor, shape: tuple[int, ...], *, tokens: bool) -> UsageError | None:
    """Return the error for one-hot rows where tokens are taken, and for tokens where one-hot rows are; None for neither.

    Args:
        x: data, shape (n, ...), whose rows hold more or fewer numbers than are taken.
        shape: of a row that is taken.
        tokens: whether tokens are taken.
    """
    given = tuple(x.shape[1:])
    if tokens:
        expression = next(_classes_of(x, shape), None)
        if expression is None:
            return None
        return UsageError(
            f"the encoder takes tokens, whole numbers of shape {shape}, and the data rows are one-hot, of shape {given}",
            hint=f"give their classes: {expression}",
        )
    numbers = math.prod(given)
    classes = math.prod(shape) // numbers
    if math.prod(shape) != classes * numbers or classes < 2 or not _are_tokens(x):
        return None
    wanted = (
        f"the encoder takes one-hot rows of shape {shape}, and the data rows are tokens, of shape {given}"
    )
    if float(x.max()) >= classes:
        return UsageError(
            f"{wanted}: their largest is {int(x.max())}, and {classes} classes count from 0 to {classes - 1}",
            hint="are these the data that it was trained on?",
        )
    return UsageError(wanted, hint=f"give it these: {_one_hot(given, shape, classes)}")


def _classes_of(x: Tensor, shape: tuple[int, ...]) -> Iterator[str]:
    """Yield the expressions that make tokens of one-hot rows."""
    numbers = math.prod(shape)
    classes = x[0].numel() // numbers
    if classes < 2 or x[0].numel() != classes * numbers:
        return
    for sizes, axis in (((*shape, classes), -1), ((classes, *shape), 1)):
        if are_one_hot(x.reshape(len(x), *sizes), axis):
            there = tuple(x.shape[1:]) == sizes
            yield ("x" if there else f"x.reshape{('len(x)', *sizes)}".replace("'", "")) + f".argmax({axis})"


def are_one_hot(x: Tensor, axis: int) -> bool:
    """Return whether along an axis of data there is a 1 among zeros."""
    x = x.float()
    binary = ((x - 0).abs() < NEAR) | ((x - 1).abs() < NEAR)
    return bool(binary.all()) and bool(((x.sum(axis) - 1).abs() < NEAR).all())


def _are_tokens(x: Tensor) -> bool:
    return bool(((x >= 0) & (x == x.round())).all()) if x.is_floating_point() else bool((x >= 0).all())


def _one_hot(given: tuple[int, ...], shape: tuple[int, ...], classes: int) -> str:
    """Return the expression that makes one-hot rows of tokens."""
    made = f"torch.nn.functional.one_hot(torch.as_tensor(x).long(), {classes})"
    if shape == (*given, classes):
        return f"{made}.float()"
    if shape == (classes, *given):
        return f"{made}.movedim(-1, 1).float()"
    return (
        f"{made}.flatten(1).float(), or {made}.movedim(-1, 1).flatten(1).float() where its classes come before its places"
        if len(shape) == 1
        else f"{made}.reshape(len(x), {', '.join(map(str, shape))}).float()"
    )


def check_tokens(x: Tensor) -> None:
    """Refuse data that are no tokens.

    Raises:
        UsageError: some are fractions, or negative.
    """
    if x.is_floating_point() and not bool((x == x.round()).all()):
        fraction = float(x[x != x.round()].flatten()[0])
        raise UsageError(
            f"the encoder takes tokens, whole numbers, and the data hold fractions, such as {fraction:.4g}",
            hint="of probabilities the likeliest token is x.argmax(-1); were tokens scaled, scale them back",
        )
    if bool((x < 0).any()):
        raise UsageError(
            f"the encoder takes tokens, whole numbers from 0, and the data hold {int(x.min())}",
            hint="is it a mark for what is missing? give such places the token that it was trained with",
        )


def unknown_tokens(x: Tensor, known: int | None) -> UsageError:
    """Return the error for tokens that a network has no row of its table for; `known` is how many it has, None for not known."""
    knows = "" if known is None else f", and it knows {known}, from 0 to {known - 1}"
    return UsageError(
        f"the encoder does not know all tokens of the data: they run from {int(x.min())} to {int(x.max())}{knows}",
        hint="were they made with the vocabulary that it was trained with?",
    )
