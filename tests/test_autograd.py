"""What torch is told before anything is differentiated leaves its numbers as they are."""

from __future__ import annotations

import operator
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vaeprobe.autograd import Watching, differentiable_kernels, jvp

jvp(torch.exp, (torch.zeros(1),), (torch.ones(1),))  # from here on, torch is told


@pytest.mark.parametrize("shapes", [((3, 4), (4,)), ((4,), (3, 4)), ((2, 1, 4), (3, 1)), ((), (3,))])
@pytest.mark.parametrize("operation", [operator.add, operator.sub, operator.mul])
@pytest.mark.parametrize("types", [(torch.float32, torch.float64), (torch.float64, torch.float64)])
def test_zero_tangents_are_zeros(
    operation: Callable[[Tensor, Tensor], Tensor],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    types: tuple[torch.dtype, torch.dtype],
) -> None:
    x = torch.randn(shapes[0], dtype=types[0])
    short, dense = (
        torch._efficientzerotensor(shapes[1], dtype=types[1]),
        torch.zeros(shapes[1], dtype=types[1]),
    )
    for found, right in (
        (operation(x, short), operation(x, dense)),
        (operation(short, x), operation(dense, x)),
    ):
        assert found.dtype == right.dtype
        torch.testing.assert_close(found + torch.zeros_like(right), right, rtol=0, atol=0)


class Noticed(Watching):
    def saw(self, func: object, args: object, out: object) -> None:
        pass


C = torch.linspace(1, 2, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("operation", "tangent"),
    [
        (lambda x: torch.sub(x, C, alpha=3), lambda v: v),
        (lambda x: torch.addcmul(C, x, C, value=2), lambda v: 2 * v * C),
        (lambda x: torch.addr(C.diag(), x, C, beta=0.5, alpha=2), lambda v: 2 * v[:, None] * C),
        (lambda x: torch.baddbmm(C.diag()[None], x.diag()[None], C.diag()[None], beta=0.5), lambda v: (v * C).diag()[None]),
        (lambda x: torch.ldexp(x, torch.tensor(2)), lambda v: 4 * v),
    ],
    ids=["sub", "addcmul", "addr", "baddbmm", "ldexp"],
)  # fmt: skip
def test_zero_tangents_times_a_number_may_be_watched(
    operation: Callable[[Tensor], Tensor], tangent: Callable[[Tensor], Tensor]
) -> None:
    """Torch itself reads numbers there that do not exist, and the process dies."""
    x, v = torch.randn(2, 3, dtype=torch.float64)
    with torch.no_grad(), Noticed():
        moved = torch.func.jvp(operation, (x,), (v,))[1]
    torch.testing.assert_close(moved, tangent(v), rtol=1e-15, atol=0)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("norm", [nn.InstanceNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True), nn.BatchNorm2d(4)], ids=["own", "kept", "batch"])  # fmt: skip
def test_backward_passes_of_normalisation_are_right_in_every_layout(norm: nn.Module, n: int) -> None:
    """Torch's own are wrong for one row of channels with gradients whose channels lie last."""
    norm = norm.double().eval()
    x, v, w = torch.randn(3, n, 4, 5, 5, dtype=torch.float64)
    w = w.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    leaf = x.clone().requires_grad_(True)
    with differentiable_kernels():
        (pulled,) = torch.autograd.grad(norm(leaf), leaf, w)
    moved = (norm(x + 1e-5 * v) - norm(x - 1e-5 * v)) / 2e-5
    torch.testing.assert_close((pulled * v).sum(), (w * moved).sum(), rtol=1e-7, atol=1e-7)


def test_whatever_else_has_no_numbers_goes_torchs_own_way() -> None:
    code = (
        "import torch; from vaeprobe.autograd import differentiable_kernels\n"
        "with differentiable_kernels(): pass\n"
        "image = torch.empty(2, 3, 4, 5, device='meta').to(memory_format=torch.channels_last)\n"
        "assert (image + image).stride() == image.stride()\n"
        "whole = torch.empty(3, device='meta', dtype=torch.int64) / torch.empty(2, 1, device='meta')\n"
        "assert whole.shape == (2, 3) and whole.dtype == torch.float32\n"
        "try: torch.empty(3, device='meta') + torch.empty(2, device='meta')\n"
        "except RuntimeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "broadcast" in done.stdout, done.stderr


@pytest.mark.parametrize("first", ["slope", "inner", "vmapped"])
def test_torchs_rules_are_compiled_where_a_function_needs_them(first: str) -> None:
    """And numbers are those of torch's own forward mode, whoever asks first."""
    code = """
import sys, torch, vaeprobe
from torch.nn import functional as F
from vaeprobe.autograd import RULES, jvp
x, v = torch.randn(2, 4, 6, dtype=torch.float64)
norm = lambda y: F.layer_norm(y, (6,))
slope = torch.func.grad(lambda y: norm(y).pow(3).sum())
inner = lambda y: torch.func.jvp(slope, (y,), (v,))[1]  # what is given may differentiate itself
vaeprobe.orthogonality(vaeprobe.Decoder(torch.nn.Linear(6, 9), 6), samples=4)
jvp(norm, (x,), (v,))
print(RULES in sys.modules)
FIRST = dict(
    slope=lambda: jvp(slope, (x,), (v,))[1],
    inner=lambda: jvp(inner, (x,), (v,))[1],
    vmapped=lambda: torch.func.vmap(lambda u: jvp(slope, (x,), (u,))[1])(v[None])[0],
)
found = FIRST[sys.argv[1]]()
print(RULES in sys.modules)
right = torch.func.jvp(inner if sys.argv[1] == "inner" else slope, (x,), (v,))[1]
torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)
class Own(torch.autograd.Function):
    @staticmethod
    def forward(x): return x.exp()
    @staticmethod
    def setup_context(ctx, inputs, output): pass
try: jvp(Own.apply, (x,), (v,))
except NotImplementedError as error: print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code, first], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["False", "True", "NotImplementedError"], done.stderr
    assert "deprecated" not in done.stderr


def test_tensors_without_memory_need_no_compiler_and_leave_it_as_it_was() -> None:
    """In a process of its own: here, other tests may have loaded the compiler."""
    code = """
import sys, torch
from vaeprobe.autograd import without_compiler
def sizes():
    x = torch.empty(2, 3, device="meta")
    norm = torch.nn.BatchNorm1d(4, device="meta").eval()
    with torch.no_grad():
        return tuple(torch.tanh(norm(torch.nn.Linear(3, 4, device="meta")(x))).shape)
with without_compiler():
    print(sizes())
print("torch._dynamo" in sys.modules)
with without_compiler():
    print(callable(torch._dynamo.is_compiling), sizes())  # whoever wants the compiler has it
print(sizes(), torch.compile(torch.tanh, backend="eager")(torch.zeros(1)).tolist())
import torch._dynamo
print(torch._dynamo.__file__ is not None)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "(2, 4)",
        "False",
        "True (2, 4)",
        "(2, 4) [0.0]",
        "True",
    ], done.stderr
