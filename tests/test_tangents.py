"""Carried tangents against torch's own forward mode, operation by operation and on random networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from vaeprobe.autograd import Watching, differentiable_kernels
from vaeprobe.engine import convolutions, dense, gram
from vaeprobe.engine.columns import Columns, Deferred, Known, LinearOutput, in_blocks
from vaeprobe.engine.dense import BANDED, by_root, dense_gram, root_bands
from vaeprobe.engine.tangents import Unsupported, push, push_alone
from vaeprobe.engine.upsampling import Upsampling, of_doubled

Function = Callable[[Tensor], Tensor]
D = 3


def reference(f: Function, x: Tensor, v: Tensor) -> Tensor:
    with torch.no_grad(), differentiable_kernels():
        return torch.stack([torch.func.jvp(f, (x,), (u.contiguous(),))[1] for u in v])


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-300))


def amplification(operation: Function, image: Function, x: Tensor, v: Tensor) -> float:
    """Return by how much the operation magnifies relative errors of its argument, in its value and in its tangents.

    Two right programs differ by their rounding, magnified as much: a normalisation by a tiny standard deviation
    loses digits on any processor, and on each of them others.
    """
    step = 1e-7 if x.dtype == torch.float64 else 1e-3

    def moved_by(size: float, seed: int) -> Function:
        def f(z: Tensor) -> Tensor:
            h = image(z)
            generator = torch.Generator().manual_seed(seed)
            return operation(h * (1 + size * torch.randn(h.shape[1:], dtype=z.dtype, generator=generator)))

        return f

    worst = 1.0
    with torch.no_grad(), differentiable_kernels():
        still = moved_by(0.0, 0)
        y, J = still(x.clone()), reference(still, x, v)
        for seed in range(3):
            moved = moved_by(step, seed)
            apart = relative(moved(x.clone()), y), relative(reference(moved, x, v), J)
            worst = max(worst, *(a / step for a in apart))
    return worst


def compare(
    operation: Function,
    image: Function = torch.clone,
    *,
    n: int = 4,
    dtype: torch.dtype = torch.float64,
    everywhere: bool = True,
) -> None:
    """Hold value, tangents and both Gram matrices of an operation on an image of z against forward mode."""

    def f(z: Tensor) -> Tensor:
        return operation(image(z))

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, D, dtype=dtype, generator=generator)
    v = torch.eye(D, dtype=dtype)[:, None].expand(D, n, D)
    if not everywhere:
        v = torch.randn(5, n, D, dtype=dtype, generator=generator)
    # sums of some dozens of products, each rounded
    tolerance = 60 * torch.finfo(dtype).eps * amplification(operation, image, x, v)
    with torch.no_grad(), differentiable_kernels():
        y_true = f(x.clone())
        J = reference(f, x, v)
        y, columns = push(f, x, v)
        assert torch.equal(x, torch.randn(n, D, dtype=dtype, generator=torch.Generator().manual_seed(1)))
        assert relative(y, y_true) < tolerance
        factor = torch.rand(y.shape, dtype=dtype, generator=generator)
        flat, w = J.double().flatten(2), factor.double().flatten(1)
        G_true = torch.einsum("inm,jnm->nij", flat, flat)
        G_true_weighted = torch.einsum("inm,jnm,nm->nij", flat, flat, w.square())
        # all at once; some directions at a point at a time; some points at a time
        for rows in (10**6, 2, 2 * len(v) + 1):
            with in_blocks(rows):
                G = columns.gram() if rows == 10**6 else push(f, x, v)[1].gram()
                G_weighted = push(f, x, v)[1].gram(factor)
                t = push(f, x, v)[1].value()
            assert t.shape == J.shape
            assert relative(t, J) < tolerance
            assert relative(G, G_true) < tolerance
            assert relative(G_weighted, G_true_weighted) < tolerance
            assert G.dtype == torch.float64


def lift(z: Tensor) -> Tensor:
    """Some smooth positive image of shape (n, 4, 4, 4), different in every number."""
    w = torch.linspace(-1, 1, D * 64, dtype=z.dtype).reshape(64, D)
    return (torch.tanh(z @ w.T + 0.1) + 1.5).view(-1, 4, 4, 4)


ELEMENTWISE = {
    "relu": F.relu, "leaky": lambda h: F.leaky_relu(h - 1.4, 0.2), "elu": lambda h: F.elu(h - 1.4), "gelu": F.gelu,
    "silu": F.silu, "mish": F.mish, "softplus": F.softplus, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "pow": lambda h: h**2.5, "rpow": lambda h: 2.0**h,
    "power": lambda h: h**h, "reciprocal": lambda h: 1 / h, "abs": lambda h: abs(h - 1.4), "neg": lambda h: -h,
    "clamp": lambda h: h.clamp(1.2, 1.9), "hardtanh": lambda h: F.hardtanh(h - 1.4), "sub": lambda h: 3 - h,
    "times itself": lambda h: h * h, "over": lambda h: h.sin() / h, "maximum": lambda h: torch.maximum(h, 3 - h),
    "where": lambda h: torch.where(h > 1.5, h.square(), h), "prelu": lambda h: F.prelu(h - 1.4, h.new_tensor([0.3])),
    "alpha": lambda h: torch.add(h, h.square(), alpha=0.3), "addcmul": lambda h: torch.addcmul(h, h, h.cos(), value=2),
    "lerp": lambda h: torch.lerp(h, h.square(), 0.3), "atan2": lambda h: torch.atan2(h, h.square()),
    "constant": lambda h: h * 0 + h.detach(), "floor": lambda h: h.floor() + h, "dropout": lambda h: F.dropout(h, 0.5, False),
}  # fmt: skip

BROADCAST = {
    "scalar": lambda h: h + 1 - 2 * h,
    "channel": lambda h: (
        h * torch.arange(1.0, 5.0, dtype=h.dtype).view(4, 1, 1) + torch.ones(2, 1, 4, 4, 4, dtype=h.dtype)
    ),
    "gate": lambda h: h * h.mean((2, 3), keepdim=True).sigmoid(),
    "residue": lambda h: h - h.mean((1, 2, 3), keepdim=True),
    "outer": lambda h: h[:, :1] * h[:, :, :1],
    "row": lambda h: h + h[:, :, 0, 0][:, :, None, None],
}

SHAPES = {
    "view": lambda h: h.view(h.size(0), -1), "flatten": lambda h: torch.flatten(h, 1), "permute": lambda h: h.permute(0, 2, 3, 1),
    "transpose": lambda h: h.transpose(1, 3).contiguous().view(len(h), -1), "chunk": lambda h: torch.cat(h.chunk(2, 1)[::-1], 1),
    "split": lambda h: h.split([1, 3], 1)[1], "unbind": lambda h: torch.stack(h.unbind(1)[:2], -1), "getitem": lambda h: h[:, 1:, ::2, -1],
    "mask": lambda h: h[:, torch.tensor([True, False, True, True])], "gather": lambda h: h.flatten(1).index_select(1, torch.tensor([3, 1, 1])),
    "cat": lambda h: torch.cat([h, torch.ones_like(h), 2 * h], 1), "stack": lambda h: torch.stack([h, h.new_zeros(h.shape)], 2),
    "pad": lambda h: F.pad(h, (1, 2, 0, 1), value=7.0), "reflect": lambda h: F.pad(h, (1, 1, 1, 1), mode="reflect"),
    "shuffle": lambda h: F.pixel_shuffle(h, 2), "nearest": lambda h: F.interpolate(h, scale_factor=2),
    "bilinear": lambda h: F.interpolate(h, size=(7, 5), mode="bilinear"), "pool": lambda h: F.avg_pool2d(h, 2),
    "max pool": lambda h: F.max_pool2d(h, 2), "sum": lambda h: h.sum((2, 3)), "cumsum": lambda h: h.cumsum(1), "flip": lambda h: h.flip(1, 2),
    "roll": lambda h: h.roll(1, 2), "repeat": lambda h: h.repeat(1, 2, 1, 1), "expand": lambda h: h[:, :1].expand(-1, 3, -1, -1),
    "squeeze": lambda h: h[:, :1].squeeze(1).unsqueeze(-1), "max": lambda h: h.max(1).values, "topk": lambda h: h.topk(2, 1)[0],
    "norm": lambda h: h.flatten(1).norm(dim=1, keepdim=True), "logsumexp": lambda h: h.logsumexp(1), "var": lambda h: h.var(1),
    "iterate": lambda h: torch.stack([row * i for i, row in enumerate(h.flatten(1).T, 1)], 1), "T": lambda h: (h.flatten(1).T * 2).T,
    "mask of its type": lambda h: h * (h > 0).to(h), "mask as its type": lambda h: h * h.gt(0).type_as(h), "cat with a mask": lambda h: torch.cat([h, h > 0], 1),
    "cat with counts": lambda h: torch.cat([(h > 0).long() * 3, h], 1), "stack with a mask": lambda h: torch.stack([h, h < 0], 2),
    "shape of": lambda h: h * torch.ones(h.numel(), dtype=h.dtype).view_as(h), "as wide as": lambda h: h * h[:, :1].gt(0).double().expand_as(h),
    "to": lambda h: h.to(torch.float64), "dict": lambda h: torch.max(h, dim=1)[0],
}  # fmt: skip

ATTENTION = nn.MultiheadAttention(4, 2, batch_first=True).double().eval().requires_grad_(False)
W = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(4, 4).sin()
KERNEL = torch.linspace(0, 300, 4 * 2 * 16, dtype=torch.float64).reshape(4, 2, 4, 4).cos()

WIDE = (torch.arange(128 * 128 * 16, dtype=torch.float64) % 9973).sin().reshape(128, 128, 4, 4)

LAYERS = {
    "linear": lambda h: F.linear(h, W, W[0]), "matmul": lambda h: h @ W, "left": lambda h: W @ h, "addmm": lambda h: torch.addmm(W[0], h.flatten(1)[:, :4], W),
    "both": lambda h: h @ h.mT, "bmm": lambda h: torch.bmm(h[:, 0], h[:, 1]), "einsum": lambda h: torch.einsum("nchw,ncij,cd->ndhi", h, h, W),
    "softmax": lambda h: h.softmax(1), "log_softmax": lambda h: F.log_softmax(h, -1),
    "attention": lambda h: F.scaled_dot_product_attention(h, h.sin(), h), "mha": lambda h: ATTENTION(*[h.flatten(2).mT] * 3)[0],
    "layer norm": lambda h: F.layer_norm(h, (4, 4), W, W), "group norm": lambda h: F.group_norm(h, 2, W[0], W[1]),
    "plain group norm": lambda h: F.group_norm(F.conv2d(h, KERNEL[..., :2, :2].transpose(0, 1)), 2), "instance norm": lambda h: F.instance_norm(F.conv2d(h, KERNEL[..., :2, :2].transpose(0, 1))),
    "batch norm": lambda h: F.batch_norm(h, W[0], W[1].abs() + 1, W[2], W[3]),
    "batch norm of torch": lambda h: torch.batch_norm(h, W[2], W[3], W[0], W[1].abs() + 1, False, 0.1, 1e-5, False),
    "batch norm of aten": lambda h: torch.ops.aten.batch_norm.default(h, W[2], W[3], W[0], W[1].abs() + 1, False, 0.1, 1e-5, False),
    "conv": lambda h: F.conv2d(h, KERNEL.transpose(0, 1), W[0, :2], padding="valid"), "grouped": lambda h: F.conv2d(h, KERNEL[:, :1, :3, :3], None, 1, 1, 1, 4),
    "conv1d": lambda h: F.conv1d(h.flatten(2), KERNEL[..., 0].transpose(0, 1), padding=1), "conv3d": lambda h: F.conv3d(h[:, None], KERNEL[:1, :1, None, :2, :2]),
    "up": lambda h: F.conv_transpose2d(h, KERNEL, W[0, :2], 2, 1), "up sigmoid": lambda h: F.conv_transpose2d(h, KERNEL, stride=2, padding=1).sigmoid().flatten(1),
    "up odd": lambda h: F.conv_transpose2d(h, KERNEL, W[0, :2], 2, 1, 1), "up plain": lambda h: F.conv_transpose2d(h, KERNEL, stride=2),
    "up rows": lambda h: F.conv_transpose2d(h[:, :, :2], KERNEL, stride=(2, 2), padding=(1, 1)) * 2,
    "up norm": lambda h: F.leaky_relu(F.batch_norm(F.conv_transpose2d(h, KERNEL, stride=2, padding=1), W[0, :2], W[1, :2].abs() + 1), 0.1),
    "up small map": lambda h: F.conv_transpose2d(h.repeat(1, 32, 1, 1)[:, :, :3], WIDE, WIDE[0, :, 0, 0], 2, 1),
    "up one channel": lambda h: F.conv_transpose2d(h, KERNEL[:, :1], None, 2, 1).tanh(), "up one, odd": lambda h: F.conv_transpose2d(h[:, :, :3], KERNEL[:, :1], W[0, :1], 2, 1),
    "up one row": lambda h: F.conv_transpose2d(h[:, :, :1, 1:], KERNEL[:, 1:], None, 2, 1).sigmoid(), "up odd map": lambda h: F.conv_transpose2d(h[:, :, :3, :1], KERNEL, None, 2, 1).sigmoid(),
    "up in a chain": lambda h: F.conv_transpose2d(F.conv_transpose2d(h, KERNEL, W[0, :2], 2, 1).relu(), KERNEL[:2], None, 2, 1),
    "tall linear": lambda h: F.linear(h.flatten(1), torch.linspace(-1, 1, 200 * 64, dtype=h.dtype).reshape(200, 64).sin()),
    "unbatched conv": lambda h: torch.stack([F.conv2d(row, KERNEL.transpose(0, 1)) for row in h]),
}  # fmt: skip


def skip(h: Tensor) -> Tensor:
    before = h
    h = F.conv_transpose2d(h, KERNEL.repeat(1, 2, 1, 1), stride=2, padding=1)
    kept = h
    h = torch.relu_(h - 1)
    h = h + kept.sigmoid() * kept
    return torch.cat([h.flatten(1), before.flatten(1), kept.flatten(1)], 1)


def in_place(h: Tensor) -> Tensor:
    h = h.clone()
    h += 1
    h.mul_(torch.cos(h))
    h.sub_(h.mean(1, keepdim=True)).div_(2).clamp_(-0.3, 0.4)
    F.leaky_relu(h, 0.1, True)
    return F.relu(h + 0.2, inplace=True).masked_fill_(h > 0.35, 0.7)


def branching(h: Tensor) -> Tensor:
    if h.sum() > 0 and float(h[0, 0, 0, 0]) < 100 and h.shape[1] == 4 and h.ndim == 4 and bool((h > 0).any()):
        h = h * 2
    for _ in range(int(h.size(1))):
        h = h.sin()
    return h


PROGRAMS = {"skip": skip, "in place": in_place, "branching": branching}


@pytest.mark.parametrize("name", ELEMENTWISE | BROADCAST | SHAPES | LAYERS | PROGRAMS)
def test_every_operation_agrees_with_forward_mode(name: str) -> None:
    operation = (ELEMENTWISE | BROADCAST | SHAPES | LAYERS | PROGRAMS)[name]
    compare(operation, lift)
    compare(operation, lift, n=1)
    compare(operation, lift, everywhere=False)
    compare(operation, with_tangents_shared_by_all_points)


def with_tangents_shared_by_all_points(z: Tensor) -> Tensor:
    """A linear image: its tangents are the same at every point, and stored once."""
    w = 0.1 * torch.linspace(0, 300, D * 64, dtype=torch.float64).reshape(64, D).sin()
    shift = torch.linspace(1, 2, 64, dtype=torch.float64)
    return F.linear(z, w, shift).view(-1, 4, 4, 4)


ACTIVATIONS = {
    "relu": lambda h: F.relu(h, inplace=True), "leaky": lambda h: F.leaky_relu(h, 0.3, True), "negative slope": lambda h: F.leaky_relu(h, -0.3),
    "no slope": lambda h: F.leaky_relu(h, 0.0), "silu": lambda h: F.silu(h, inplace=True), "tanh": torch.tanh_, "sigmoid": torch.sigmoid_,
    "untrained norm": lambda h: F.batch_norm(h, W[0], W[1].abs() + 1, training=False, eps=0.3),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_written_derivatives_hold_on_both_sides_of_0_and_in_place(name: str) -> None:
    def around_0(h: Tensor) -> Tensor:
        h = h - h.detach().mean()
        return ACTIVATIONS[name](h) * 2 + h  # `h` itself is written to by those in place

    compare(around_0, lift)


@pytest.mark.parametrize("sides", [(3, 5), (4, 4), (7, 7), (28, 28)])
@pytest.mark.parametrize("size", [1.0, 100.3, 1e4])
def test_groups_of_the_same_numbers_are_normalised_as_by_torch(size: float, sides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = (size * torch.rand(64, 1, 1, 1)).expand(64, 2, *sides).contiguous()
    v = torch.randn(1, 64, 2, *sides)

    def f(x: Tensor) -> Tensor:
        return F.group_norm(x, 1)

    y, tangents = push(f, x, v)
    assert y.abs().max() < 1e-6  # torch's are 0
    assert relative(tangents.value(), reference(f, x.double(), v.double())) < 1e-6


@pytest.mark.parametrize("switched_off", [nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), torch.positive])
def test_what_gives_its_argument_itself_is_one_tensor_to_write_to(switched_off: Function) -> None:
    def written(h: Tensor) -> Tensor:
        same = (switched_off.eval() if isinstance(switched_off, nn.Module) else switched_off)(h)
        same += h.sin()
        return same.sin() + h  # as `h` is now

    compare(written, lift)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("f", [F.relu, lambda h: F.leaky_relu(h, 0.25)], ids=["relu", "leaky"])
def test_derivatives_at_a_kink_and_where_nothing_is_a_number_are_those_of_torch(
    f: Function, dtype: torch.dtype
) -> None:
    x = torch.tensor([0.0, -0.0, torch.nan, torch.inf, -torch.inf, 1e-30, -1e-30] * 9, dtype=dtype)[:, None]
    leaf = x.clone().requires_grad_(True)
    truth = torch.autograd.grad(f(leaf).sum(), leaf)[0]
    assert torch.equal(push(f, x, torch.ones_like(x)[None])[1].value()[0], truth)


def module(seed: int, conv: bool, norm: bool, activation: str, inplace: bool) -> nn.Module:
    torch.manual_seed(seed)
    act = {
        "relu": lambda: nn.ReLU(inplace),
        "leaky": lambda: nn.LeakyReLU(0.2, inplace),
        "tanh": nn.Tanh,
        "silu": lambda: nn.SiLU(inplace),
    }
    layers: list[nn.Module] = [nn.Linear(D, 32), act[activation]()]
    if conv:
        layers += [nn.Unflatten(1, (8, 2, 2)), nn.ConvTranspose2d(8, 6, 4, 2, 1)]
        layers += [nn.BatchNorm2d(6)] if norm else []
        layers += [act[activation](), nn.ConvTranspose2d(6, 2, 4, 2, 1), nn.Sigmoid()]
    else:
        layers += [nn.BatchNorm1d(32)] if norm else []
        layers += [nn.Linear(32, 16), act[activation](), nn.Linear(16, 40)]
    return nn.Sequential(*layers).eval()


@settings(max_examples=8)
@given(
    st.integers(0, 10**6), st.booleans(), st.booleans(), st.sampled_from(["relu", "leaky", "tanh", "silu"]), st.booleans()
)  # fmt: skip
def test_random_networks_in_both_precisions(
    seed: int, conv: bool, norm: bool, activation: str, inplace: bool
) -> None:
    network = module(seed, conv, norm, activation, inplace)
    compare(network.double())
    # float32 flips kinks, so compare where there are none
    if activation in ("tanh", "silu"):
        compare(network.float(), dtype=torch.float32)


def test_what_is_needed_twice_is_computed_once_for_each_block_and_kept_where_it_may_be_asked_again() -> None:
    x = torch.randn(4, 2, 6, 6, dtype=torch.float64)
    seen: list[int] = []

    def square(t: Tensor) -> Tensor:
        seen.append(len(t))
        return torch.cat([t, t], -1)

    def diamond() -> tuple[Columns, Columns]:
        trunk: Columns = Deferred(Known(x[:, :, None]), torch.Size([2, 1, 6, 12]), square)
        for _ in range(12):  # 4096 ways through it
            trunk = trunk.scaled(torch.full((), 2.0, dtype=x.dtype)).plus([trunk.times(-1.0)])
        return trunk, trunk.reshaped(torch.Size([2, 72]))

    with in_blocks(4):  # all directions at one point
        _, out = diamond()
        G = out.gram()
        assert seen == [4, 4]
        assert out._pending
        trunk, out = diamond()
        assert torch.equal(out.value(), torch.cat([x, x], -1).flatten(2))
        assert seen == [4] * 4
        assert torch.equal(trunk.value(), torch.cat([x, x], -1)[:, :, None])
        assert seen == [4] * 4
        trunk, out = diamond()
        out.value(last=True)
        assert trunk._pending
    torch.testing.assert_close(G, dense_gram(torch.cat([x, x], -1), None), rtol=1e-13, atol=0)


def test_a_long_row_of_operations_is_done_in_parts() -> None:
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    with in_blocks(1):
        t: Columns = Known(x)
        for _ in range(3000):
            t = Deferred(t, x.shape[1:], torch.neg)
        assert torch.equal(t.value(), x)


def test_a_last_linear_layer_is_not_computed_for_gram_matrices() -> None:
    wide = nn.Linear(8, 5000).double()
    x = torch.randn(3, 4, 8, dtype=torch.float64)
    columns = LinearOutput(Known(x), wide.weight.detach(), torch.Size([4, 5000]))
    G = columns.gram()
    assert columns._pending
    assert torch.allclose(G, dense_gram(columns.value(), None), rtol=1e-12)


class Products(Watching):
    """The sizes of the products of matrices that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def saw(self, func: Any, args: Any, out: object) -> None:
        if func._opname in ("mm", "addmm") and isinstance(out, Tensor):
            self.shapes.append(tuple(out.shape))


@pytest.mark.parametrize("bias", [True, False])
def test_a_last_linear_output_is_not_computed_where_nobody_needs_it(bias: bool) -> None:
    network = nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, 50, bias), nn.Unflatten(1, (2, 25)))
    x, v = torch.randn(7, D), torch.randn(2, 7, D)
    with Products() as alone:
        found = push_alone(lambda z: network(z).reshape(7, -1), x, v)
    with Products() as both:
        y, columns = push(network, x, v)
    assert (7, 50) not in alone.shapes
    assert both.shapes.count((7, 50)) == 1
    assert torch.equal(y, network(x))
    assert torch.equal(found.value(), columns.value().flatten(2))


WEIGHT = torch.linspace(-1, 1, 6 * D, dtype=torch.float64).reshape(6, D).exp()


def of_a_view(z: Tensor) -> Tensor:
    seen = F.linear(z, WEIGHT).view(-1, 2, 3)
    return seen.sin() * seen


def of_its_view_and_itself(z: Tensor) -> Tensor:
    y = F.linear(z, WEIGHT)
    seen = y.view(-1, 2, 3)
    return y.sin() + seen.flatten(1)


def in_place_on_a_view(z: Tensor) -> Tensor:
    return F.linear(z, WEIGHT).view(-1, 2, 3).mul_(2).sin_()


def copied(z: Tensor) -> Tensor:
    return F.linear(z, WEIGHT).view(-1, 2, 3).mT.reshape(-1, 6).sin()


def twice(z: Tensor) -> Tensor:
    return F.linear(F.linear(z, WEIGHT), WEIGHT.mT, torch.ones(D, dtype=z.dtype)).sin()


def of_shapes_together(z: Tensor) -> Tensor:
    y = F.linear(z, WEIGHT)
    return y.view((-1, 2, 3)).view([len(z), 6]).view(y.shape).view(size=(-1, 3, 2)).sin()


@pytest.mark.parametrize(
    "f", [of_a_view, of_its_view_and_itself, in_place_on_a_view, copied, twice, of_shapes_together]
)
def test_outputs_of_linear_layers_are_there_where_they_are_needed(f: Function) -> None:
    compare(f, lambda z: z)


def input_written_to(z: Tensor) -> Tensor:
    h = z * 2
    y = F.linear(h, WEIGHT)
    h.mul_(3)
    return y


def output_written_to_after_a_view(z: Tensor) -> Tensor:
    y = F.linear(z, WEIGHT)
    seen = y.view(-1, 2, 3)
    y.mul_(2)
    return seen


def weight_written_to(z: Tensor) -> Tensor:
    weight = WEIGHT.clone()
    y = F.linear(z, weight)
    weight.zero_()
    return y.sin()


@pytest.mark.parametrize("f", [input_written_to, output_written_to_after_a_view, weight_written_to])
def test_outputs_that_can_no_longer_be_computed_are_refused(f: Function) -> None:
    z = torch.randn(2, D, dtype=torch.float64)
    with pytest.raises(Unsupported):
        push(f, z, torch.randn(1, 2, D, dtype=torch.float64))


@pytest.mark.parametrize("f", [of_a_view, twice, input_written_to, output_written_to_after_a_view])
def test_gram_matrices_are_the_same_with_outputs_and_without(f: Function) -> None:
    z = torch.randn(40, D, dtype=torch.float64)
    J = torch.func.vmap(torch.func.jacfwd(lambda z: f(z[None])[0].flatten()))(z)
    for _ in range(2):  # the first looks at as many rows of outputs
        assert torch.allclose(gram(f, z), J.mT @ J, rtol=1e-12)


@pytest.mark.parametrize(("width", "bands"), [(4, 1), (BANDED - 1, 1), (BANDED, 4), (BANDED + 5, 4)])
def test_the_root_of_a_weight_follows_the_weight(width: int, bands: int) -> None:
    weight = torch.randn(width + 50, width, dtype=torch.float64)
    weight[:, 2] = 0  # of lower rank
    eye = torch.eye(width, dtype=torch.float64)[:, None]
    for _ in range(2):
        found = root_bands(weight)
        R = by_root(eye, found)[:, 0].T
        assert len(found) == bands
        assert torch.equal(R, R.triu())
        assert torch.allclose(R.T @ R, weight.T @ weight)
        assert root_bands(weight) is found
        weight.mul_(2)


def test_up_sampling_convolutions_take_the_short_way() -> None:
    with torch.no_grad():
        _, columns = push(
            lambda z: F.conv_transpose2d(lift(z), KERNEL, stride=2, padding=1),
            torch.randn(2, D, dtype=torch.float64),
            torch.ones(1, 2, D, dtype=torch.float64),
        )
    assert isinstance(columns, Upsampling)


THREE = KERNEL.transpose(0, 1)[..., :3, :3].contiguous()
WIDER = torch.linspace(0, 500, 20 * 4 * 9, dtype=torch.float64).reshape(20, 4, 3, 3).sin()

DOUBLED = {
    "few channels": lambda h: F.conv2d(F.interpolate(h, scale_factor=2), THREE, W[0, :2], padding=1),
    "many channels": lambda h: F.conv2d(nn.Upsample(scale_factor=(2, 2), mode="nearest-exact")(h), WIDER, None, 1, 1).tanh(),
    "odd sides": lambda h: F.conv2d(F.interpolate(h[:, :, :3, :1], size=(6, 2)), THREE, None, (1, 1), (1, 1)).sigmoid(),
    "operation": lambda h: F.conv2d(torch.ops.aten.upsample_nearest2d(h, [8, 8]), bias=W[0, :2], weight=THREE, padding=[1, 1]),
}  # fmt: skip

NOT_DOUBLED = {
    "bilinear": lambda h: F.conv2d(F.interpolate(h, scale_factor=2, mode="bilinear"), THREE, padding=1),
    "to eight": lambda h: F.conv2d(F.interpolate(h[..., :3], size=8), THREE, padding=1),
    "threefold": lambda h: F.conv2d(F.interpolate(h, scale_factor=3), THREE, padding=1),
    "no padding": lambda h: F.conv2d(F.interpolate(h, scale_factor=2), THREE),
    "same": lambda h: F.conv2d(F.interpolate(h, scale_factor=2), THREE, padding="same"),
    "strides": lambda h: F.conv2d(F.interpolate(h, scale_factor=2), THREE, None, 2, 1),
    "dilation": lambda h: F.conv2d(F.interpolate(h, scale_factor=2), THREE, None, 1, 1, 2),
    "groups": lambda h: F.conv2d(F.interpolate(h, scale_factor=2), WIDER[:4, :2], None, 1, 1, 1, 2),
    "one side": lambda h: F.conv2d(F.interpolate(h, scale_factor=2), THREE[..., :1], None, 1, (1, 0)),
    "activation": lambda h: F.conv2d(F.interpolate(h, scale_factor=2).tanh(), THREE, padding=1),
}  # fmt: skip


@pytest.mark.parametrize("name", DOUBLED | NOT_DOUBLED)
def test_convolutions_of_doubled_pixels_are_those_of_the_map_before(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def noted(weight: Tensor) -> Tensor:
        seen.append(weight)
        return of_doubled(weight)

    monkeypatch.setattr(convolutions, "of_doubled", noted)
    monkeypatch.setattr(dense, "_kept", WeakTensorKeyDictionary())
    compare((DOUBLED | NOT_DOUBLED)[name], lift)
    assert bool(seen) is (name in DOUBLED)


def test_doubled_pixels_are_at_hand_beside_their_convolution() -> None:
    def f(h: Tensor) -> Tensor:
        up = F.interpolate(h, scale_factor=2)
        return F.conv2d(up, THREE, padding=1) + up[:, :2] * up.square()[:, 2:]

    compare(f, lift)


def written_into_a_plain_tensor(z: Tensor) -> Tensor:
    out = torch.zeros(len(z), 2, dtype=z.dtype)
    out[:, 0] = z[:, 0]
    return out


def written_through_a_view(z: Tensor) -> Tensor:
    h = z * 2
    h.view(-1).mul_(3)
    return h


def called_by_names(z: Tensor) -> Tensor:
    return torch.add(input=z, other=z)


def no_tangents(z: Tensor) -> Tensor:
    return torch.ones(len(z), 2)


@pytest.mark.parametrize(
    "f", [written_into_a_plain_tensor, written_through_a_view, called_by_names, no_tangents]
)
def test_what_cannot_be_followed_is_refused_and_never_wrong(f: Function) -> None:
    with pytest.raises(Unsupported):
        push(f, torch.randn(2, D), torch.randn(1, 2, D))
