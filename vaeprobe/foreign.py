"""Code that others wrote, where it is called: run as it is written, and known by what it raises.

A network may raise an exception at some latents alone, long after the door.  Whoever tries several ways to differentiate it
must see that exception as it is, and whoever asked for the numbers must not take it for a bug of ours: so it is marked where
it leaves the network, and said in words where it leaves the question.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from vaeprobe.errors import ContractError, VaeprobeError, out_of_memory

__all__ = ["foreign", "in_words", "marked", "raised_by_others", "said", "said_of", "uncompiled"]

P = ParamSpec("P")
T = TypeVar("T")

MARK = "_vaeprobe_raised_by"
COMPILER = "torch._dynamo"
OURS = str(Path(__file__).parent)


# -- what it raises -------------------------------------------------------------------------------


@contextmanager
def foreign(who: str) -> Iterator[None]:
    """Run what others wrote inside the block: uncompiled, and what it raises marked as theirs.

    Args:
        who: what it is to the reader: "decoder".
    """
    try:
        with uncompiled():
            yield
    except Exception as error:
        marked(error, who)
        raise


def marked(error: Exception, who: str) -> None:
    """Mark an exception as raised by what others wrote, unless it is of a class of ours, or memory has run out."""
    if not (type(error).__module__.startswith("vaeprobe.") or out_of_memory(error) or hasattr(error, MARK)):
        setattr(error, MARK, who)


def raised_by_others(error: BaseException) -> bool:
    """Whether an exception passed through code that is neither ours nor torch's, below whoever caught it."""
    torchs = str(Path(sys.modules["torch"].__file__ or "").parent)
    step = error.__traceback__
    while step is not None:
        if not step.tb_frame.f_code.co_filename.startswith((OURS, torchs)):
            return True
        step = step.tb_next
    return False


def in_words(error: BaseException) -> VaeprobeError | None:
    """Return what to say of an exception that a network raised where it was measured; None for any other."""
    who = getattr(error, MARK, None)
    if who is None or isinstance(error, VaeprobeError):
        return None
    first = next(iter(str(error).strip().splitlines()), "")[:200]
    what = type(error).__name__ + (f": {first}" if first else "")
    return ContractError(
        f"the {who} fails at some of the latents that are measured: {what}",
        hint="its own code raises that: let it return numbers at all latents of its prior, or measure it at latents of your own,"
        " well within those that it takes (--latents FILE.npy, in Python latents=...), or along shorter seams (--length)",
    )


@contextmanager
def said() -> Iterator[None]:
    """Say in words what a network raises inside the block.

    Raises:
        ContractError: it raised something, which is its cause.
    """
    try:
        yield
    except Exception as error:
        if (ours := in_words(error)) is None:
            raise
        raise ours from error


def said_of(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that says in words what a network raises inside it."""

    @wraps(function)
    def saying(*args: P.args, **keywords: P.kwargs) -> T:
        with said():
            return function(*args, **keywords)

    return saying


# -- uncompiled -----------------------------------------------------------------------------------

_lock = threading.Lock()
_inside: set[object] = set()  # a token of each block that is being run
_stance = ExitStack()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Let `torch.compile` compile nothing inside the block: what it would is run as it is written.

    Torch compiles anew for each way to look at a network, warns of that, and under a mode that watches functions, with
    gradients, it may call what it compiled for something else: the numbers are wrong.  Nothing is compiled where its compiler
    is not loaded.
    """
    if not hasattr(sys.modules.get(COMPILER), "set_stance"):
        yield
        return
    token = object()
    try:
        _enter(token)
        yield
    finally:
        _leave(token)


def _enter(token: object) -> None:
    """Switch the compiler off, for all threads, where none has yet."""
    import torch

    with _lock:
        _inside.add(token)
        if len(_inside) == 1:
            with suppress(RuntimeError):  # torch compiles what calls us, and lets nobody switch meanwhile
                _stance.enter_context(torch.compiler.set_stance("force_eager"))


def _leave(token: object) -> None:
    with _lock:
        _inside.discard(token)
        if not _inside:
            _stance.close()
