"""What torch needs to be told before anything is differentiated."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib import import_module

import torch
from torch import Tensor

from vaeprobe.errors import UsageError, did_you_mean

__all__ = ["device_named", "differentiable_kernels", "gradient", "load_forward_mode"]


def device_named(name: str | torch.device) -> torch.device:
    """Return the device of a name; `auto` takes a GPU where there is one, and each process of `torchrun` its own.

    Raises:
        UsageError: no such device.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if str(name) in ("auto", "cuda") and torch.cuda.is_available():
        name = f"cuda:{local % torch.cuda.device_count()}"
    elif str(name) == "auto":
        name = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        kinds = ("cpu", "cuda", "mps", "xpu", "auto")
        unknown = str(name).partition(":")[0] not in kinds
        reason = "no such kind of device" if unknown else (str(error).splitlines() or [""])[0]
        hint = (did_you_mean(str(name), kinds) if unknown else None) or "--device cpu always works"
        raise UsageError(f"the device `{name}` cannot be used: {reason}", hint=hint) from None


@cache
def load_forward_mode() -> None:
    """Load torch's forward-mode decompositions, without the deprecation warning that torch gives itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import_module("torch._decomp.decompositions_for_jvp")


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
    (found,) = torch.autograd.grad(value, leaf, create_graph=create_graph, retain_graph=retain_graph)
    return found


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Switch off what has no derivative, or the derivative of something coarser.

    Fused CPU kernels have no forward mode; a surrounding autocast would round every layer to half precision.

    Raises:
        UsageError: torch's inference mode is on, in which nothing can be differentiated.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if torch.is_inference_mode_enabled():
        raise UsageError(
            "torch.inference_mode() is on, and nothing can be differentiated in it",
            hint="probe outside of it; torch.no_grad() does no harm",
        )
    load_forward_mode()
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    exact = torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()
    try:
        with sdpa_kernel(SDPBackend.MATH), exact:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
