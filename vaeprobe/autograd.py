"""What torch needs to be told before anything is differentiated."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from inspect import getclosurevars
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from vaeprobe.errors import UsageError, did_you_mean
from vaeprobe.foreign import marked, raised_by_others, uncompiled
from vaeprobe.scoped import scoped

__all__ = [
    "Watching",
    "device_named",
    "differentiable_kernels",
    "full_precision",
    "gradient",
    "jvp",
    "keep_large_memory",
    "keep_memory",
    "over_directions",
    "unwatched",
    "without_compiler",
]


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
KINDS = ("cpu", "cuda", "mps", "xpu")
RULES = "torch._decomp.decompositions_for_jvp"


def device_named(name: str | torch.device) -> torch.device:
    """Return the device of a name; `auto` takes a GPU of CUDA where there is one, and each process of `torchrun` its own.

    Raises:
        UsageError: no such device.
    """
    word = str(name)
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if word in ("auto", "cuda") and torch.cuda.is_available():
        word = f"cuda:{local % torch.cuda.device_count()}"
    elif word == "auto":
        word = "cpu"
    kind, _, number = word.partition(":")
    if kind not in KINDS or (":" in word and not number.isdecimal()):
        what = "is on no machine: it holds no numbers" if kind == "meta" else "is no device"
        raise UsageError(
            f"the device `{word}` {what}",
            hint="did you mean `cuda` or `auto`?"
            if kind in ("gpu", "tpu", "nvidia")
            else did_you_mean(word, ("cpu", "cuda", "xpu", "auto"))
            or "--device cpu always works; auto takes a GPU where there is one; cuda, cuda:1, mps, xpu name one",
        )
    reason = _missing(kind, number)
    if reason is None:
        try:
            return torch.zeros(1, device=word).device
        except (RuntimeError, AssertionError) as error:
            reason = (str(error).splitlines() or [""])[0][:200]
    raise UsageError(f"the device `{word}` cannot be used: {reason}", hint="--device cpu always works")


def _missing(kind: str, number: str) -> str | None:
    """Return why a kind of device, or the one of a number, is not there; None where torch finds it."""
    if kind == "cpu":
        return None
    backend = torch.backends.mps if kind == "mps" else getattr(torch, kind)
    if not backend.is_available():
        built = torch.backends.mps.is_built() if kind == "mps" else getattr(torch.version, kind, None)
        return (
            f"torch finds no GPU of this kind here{'' if built else ', and was built without support for it'}"
        )
    if kind == "mps":
        return "it has no float64, in which Gram matrices are summed and derivatives held against differences"
    count = backend.device_count()
    if number and int(number) >= count:
        return f"there {'is' if count == 1 else 'are'} {count} here, counted from 0"
    return None


_turns = threading.RLock()
"""Held by the thread that differentiates: torch counts the levels of forward mode for all threads together (two of them get wrong
numbers, or end the process), and `differentiable_kernels` switches for all."""


def _turn_anew() -> None:
    """Give a forked process a lock of its own: the thread that held it is not there."""
    global _turns
    _turns = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_turn_anew)


def jvp(f: Callable[..., Any], primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> tuple[Any, Any]:
    """Return f(primals) and its derivative along the tangents: `torch.func.jvp`, ready sooner.

    Torch compiles rules for functions without a forward derivative of their own before the first derivative of any
    function: a fifth of its own import.  Nearly all of them are backward passes.  Here they are compiled where a
    function needs them, and without the deprecation warning that torch gives itself.

    Raises:
        NotImplementedError: a function has no forward derivative at all.
    """
    _answer_without_thought()
    with _turns:
        try:
            with _rules_left_out():
                pair = torch.func.jvp(f, primals, tangents)
        except NotImplementedError:
            if RULES in sys.modules:
                raise
            with warnings.catch_warnings():
                for deprecation in (DeprecationWarning, FutureWarning):  # the latter from torch 2.14 on
                    warnings.simplefilter("ignore", deprecation)
                import_module(RULES)
            pair = torch.func.jvp(f, primals, tangents)
    return pair[0], pair[1]


def over_directions(f: Callable[..., Any], *directions: Tensor) -> Any:
    """Return what f makes of directions in their first axis: `torch.func.vmap`, without its advice to torch's own authors."""
    functorch: Any = torch._C._functorch
    try:
        functorch._set_vmap_fallback_warning_enabled(False)
        return torch.func.vmap(f)(*directions)
    finally:
        functorch._set_vmap_fallback_warning_enabled(True)


@contextmanager
def _rules_left_out() -> Iterator[None]:
    """Let torch find something in the place of its rules, so that it does not import them."""
    path, _, name = RULES.rpartition(".")
    package = import_module(path)
    if hasattr(package, name):
        yield
        return
    nothing = ModuleType(RULES)
    try:
        setattr(package, name, nothing)
        yield
    finally:
        if getattr(package, name, None) is nothing:
            delattr(package, name)


@cache
def _answer_without_thought() -> None:
    """Answer for torch's references of sums and products (see `_answer_for`)."""
    references = import_module("torch._refs")
    for name in ("add", "sub", "mul", "div"):
        _answer_for(getattr(references, name, None))


def _answer_for(reference: Any) -> None:
    """Answer for torch's reference of an operation how large a result is, where that takes no thought.

    Weights have zero tangents, and to add one forward mode asks a reference in Python for the shape of the sum.  The
    first such question imports torch's compiler, to keep it out of there, and a computer algebra system: more than all
    else of torch together.  Torch looks for what keeps the compiler out in an attribute first.  Where the compiler is
    loaded already, and for whatever is not two plain tensors without numbers, torch's own way stays; it does too where
    torch is made otherwise than expected.
    """
    while reference is not None and not reference.__code__.co_filename.endswith("_compile.py"):
        reference = getattr(reference, "__wrapped__", None)
    if reference is None or "torch._dynamo" in sys.modules:
        return
    torchs_way: Callable[..., Tensor] = reference
    inner = getclosurevars(reference).nonlocals.get(
        "fn"
    )  # what is asked: `__wrapped__` may name something else
    if not callable(inner):
        return

    def answer(*args: Any, **kwargs: object) -> Tensor:
        plain = len(args) == 2 and all(
            type(t) is Tensor and t.is_meta and t.is_floating_point() and t.is_contiguous() for t in args
        )
        if plain and "torch._dynamo" not in sys.modules:
            with suppress(ValueError):  # torch says better what does not fit
                shape = np.broadcast_shapes(*(tuple(t.shape) for t in args))
                return torch.empty(shape, dtype=torch.result_type(*args), device="meta")
        vars(inner).pop("__dynamo_disable", None)
        return torchs_way(*args, **kwargs)

    vars(inner)["__dynamo_disable"] = answer


_watching: ContextVar[tuple[Watching, ...]] = ContextVar("watching", default=())


@contextmanager
def unwatched() -> Iterator[None]:
    """Within it, whoever watches (see `Watching`) sees nothing: what is made once and kept is no part of what a call takes."""
    watchers = _watching.get()
    try:
        for watcher in watchers:
            watcher.blind = True
        with scoped(_watching, ()):
            yield
    finally:
        for watcher in watchers:
            watcher.blind = False


def as_one(func: Any, args: tuple[Any, ...], make: Callable[[], Tensor]) -> Tensor:
    """Return what `make` returns, which whoever watches sees as that operation of torch's, not as those it is made by."""
    with unwatched():
        out = make()
    for watcher in _watching.get():
        watcher.saw(func, args, out)
    return out


class Watching(TorchDispatchMode):
    """Looks at what every operation of torch returns inside the block: `saw` says what for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.blind = False

    def __enter__(self) -> Watching:
        self._token = _watching.set((*_watching.get(), self))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        _watching.reset(self._token)

    def __init_subclass__(cls) -> None:  # that of torch has no types, which each subclass would have to say
        super().__init_subclass__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from importing its compiler (over a second) to keep it out of here."""
        return False

    def saw(self, func: Any, args: Any, out: object) -> None:
        """Look at an operation, its arguments and what it returned."""
        raise NotImplementedError

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        # a number times a tangent that is known to be zero, and so has no memory, is read from there all the same: a crash
        args = [_in_memory(a) if isinstance(a, Tensor) and a._is_zerotensor() else a for a in args]
        out = func(*args, **(kwargs or {}))
        if not self.blind:
            self.saw(func, args, out)
        return out


def _in_memory(zero: Tensor) -> Tensor:
    return torch.zeros(zero.shape, dtype=zero.dtype, device=zero.device)


@cache
def keep_memory() -> None:
    """Let the C library hand freed tensors on to the next, up to 128 MB of them, of 32 MB each at most (glibc).

    By itself it gives them back to the system and asks for them anew, page by page: a sixth of the time that all
    columns of a latent-diffusion decoder took.
    """
    _tell_malloc({M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 128 << 20})


@cache
def keep_large_memory() -> None:
    """The same of tensors of any size, up to a gigabyte of them.

    Each of more than 32 MB is mapped afresh otherwise, which takes as long as a convolution that fills it.
    """
    keep_memory()
    _tell_malloc({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 1 << 30})


def _tell_malloc(settings: dict[int, int]) -> None:
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in settings.items():
            mallopt(option, value)


@contextmanager
def without_compiler() -> Iterator[None]:
    """Let torch answer for tensors without memory without importing its compiler, which takes it over two seconds.

    Torch's references keep the compiler out of themselves, by a function of the compiler.  Where it is not loaded,
    there is nothing to keep out: a module that stands for it inside the block hands each reference back as it is.
    Whoever asks that module for anything else gets the compiler.
    """
    name, marked = "torch._dynamo", list[Callable[..., object]]()
    if name in sys.modules:
        yield
        return

    def disable(reference: Callable[..., object], *_: object, **__: object) -> Callable[..., object]:
        marked.append(reference)
        return reference

    def other(wanted: str) -> object:
        sys.modules.pop(name, None)
        return getattr(import_module(name), wanted)

    stand_in = ModuleType(name)
    vars(stand_in).update(disable=disable, __getattr__=other)
    try:
        sys.modules[name] = stand_in
        yield
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        for reference in marked:
            vars(reference).pop("__dynamo_disable", None)


def gradient(
    y: Tensor,
    leaf: Tensor,
    w: Tensor | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> Tensor:
    """Return the gradient of <w, y> with respect to `leaf` (w = 1 by default).

    The same as `torch.autograd.grad(y, leaf, w)`, which would import a computer algebra system for half a second.
    """
    value = (y if w is None else y * w).sum()
    try:
        (found,) = torch.autograd.grad(value, leaf, create_graph=create_graph, retain_graph=retain_graph)
    except Exception as error:
        if raised_by_others(error):  # in a backward pass of their own
            marked(error, "decoder")
        raise
    return found


class _InstanceNorms(TorchFunctionMode):
    """Within it, the backward pass of instance normalisation is right.

    Torch does it as batch normalisation of one row of all channels, whose gradient is wrong where that which comes in lies
    in memory with these last: as convolutions and attention leave it.
    """

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Sequence[object] = (), kwargs: Any = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        name = str(getattr(func, "__name__", "")).partition(".")[0]
        one_row = name == "instance_norm" or (name == "batch_norm" and len(out) == 1)
        if one_row and out.requires_grad and not torch._C._functorch.is_functorch_wrapped_tensor(out):
            out.register_hook(Tensor.contiguous)
        return out


@contextmanager
def full_precision() -> Iterator[None]:
    """Switch off an autocast that surrounds the block: what it would round to bfloat16 is computed as it was asked for."""
    with ExitStack() as off:
        for kind in ("cpu", "cuda", "xpu"):
            if torch.is_autocast_enabled(kind):
                off.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Switch off what has no derivative, a wrong one, or the derivative of something coarser.

    Fused CPU kernels have no forward mode; a surrounding autocast would round every layer to half precision.  Enter it
    inside of `torch.enable_grad`.  One thread at a time is inside.

    Raises:
        UsageError: torch's inference mode is on, in which nothing can be differentiated.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if torch.is_inference_mode_enabled():
        raise UsageError(
            "torch.inference_mode() is on, and nothing can be differentiated in it",
            hint="probe outside of it; torch.no_grad() does no harm",
        )
    _answer_without_thought()
    with _turns:
        fastpath = torch.backends.mha.get_fastpath_enabled()
        backward = _InstanceNorms() if torch.is_grad_enabled() else nullcontext()
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            # a backward pass may call a part of the network anew
            with sdpa_kernel(SDPBackend.MATH), full_precision(), uncompiled(), backward:
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)
