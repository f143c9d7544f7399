"""The engine on its own: four verbs on plain functions and modules, and the examples of their pages."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

import vaeprobe
from vaeprobe.autograd import differentiable_kernels
from vaeprobe.decoder import Decoder
from vaeprobe.engine import gram, jacobian, pullback, pushforward, verbs
from vaeprobe.engine.methods import carried, choose
from vaeprobe.errors import ContractError, UsageError


def bend(z: Tensor) -> Tensor:
    return torch.stack([z[:, 0] * z[:, 1], z[:, 1].sin(), z[:, 0].exp()], dim=1).reshape(-1, 3, 1)


def test_the_examples_run() -> None:
    found = doctest.testmod(verbs)
    assert found.attempted >= 9
    assert found.failed == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_plain_functions_in_the_precision_of_their_latents(dtype: torch.dtype) -> None:
    z = torch.randn(5, 2, dtype=dtype, generator=torch.Generator().manual_seed(0))
    J = torch.func.vmap(torch.func.jacrev(lambda x: bend(x[None]).flatten()))(z)
    assert jacobian(bend, z).dtype == dtype
    torch.testing.assert_close(jacobian(bend, z), J)
    torch.testing.assert_close(gram(bend, z), J.double().mT @ J.double(), rtol=1e-5, atol=1e-6)
    v, w = torch.ones(5, 2, dtype=dtype), torch.ones(5, 3, dtype=dtype)
    y, Jv = pushforward(bend, z, v)
    torch.testing.assert_close(y, bend(z).flatten(1))
    torch.testing.assert_close(Jv, J.sum(-1))
    torch.testing.assert_close(pullback(bend, z, w), J.sum(1))


def test_modules_follow_their_weights() -> None:
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4)).double().eval()
    z = torch.randn(6, 3, dtype=torch.float64)
    before = jacobian(network, z)
    torch.testing.assert_close(before, torch.func.vmap(torch.func.jacrev(network))(z))
    with torch.no_grad():
        network[2].weight.mul_(2)
    torch.testing.assert_close(jacobian(network, z), 2 * before)
    torch.testing.assert_close(vaeprobe.engine.gram(Decoder(network, 3), z), gram(network, z))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_may_be_given_again() -> None:
    network, z = nn.Linear(2, 3).double(), torch.randn(4, 2, dtype=torch.float64)
    program = torch.jit.script(network)
    for _ in range(2):
        torch.testing.assert_close(jacobian(program, z), network.weight.detach().expand(4, 3, 2))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"not \(4,\) of torch\.float32") as caught:
        jacobian(bend, torch.zeros(4))
    assert caught.value.hint
    with pytest.raises(UsageError, match=r"of torch\.int64"):
        gram(bend, torch.zeros(4, 2, dtype=torch.int64))
    with pytest.raises(UsageError, match=r"the decoder takes \(n, 2\)"):
        gram(Decoder(bend, 2), torch.zeros(4, 3))
    with pytest.raises(ContractError, match="mixes the rows"):
        gram(lambda z: z - z.mean(0), torch.zeros(4, 2))


@pytest.mark.parametrize("of", ["module", "function"])
def test_maps_of_latents_are_given_as_networks_take_them(of: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.ConvTranspose2d(2, 3, 4, 2, 1), nn.Tanh(), nn.Conv2d(3, 1, 3, padding=1)
    ).double()
    f = network if of == "module" else lambda z: network(z)
    z = torch.randn(3, 2, 2, 3, dtype=torch.float64)
    with differentiable_kernels():
        J = torch.func.vmap(torch.func.jacrev(lambda x: network(x[None]).flatten()))(z).flatten(2)
    torch.testing.assert_close(jacobian(f, z), J)
    torch.testing.assert_close(gram(f, z), J.mT @ J)
    v, w = torch.randn(2, 3, 2, 2, 3).double(), torch.randn(3, 1, 4, 6).double()
    truth = torch.einsum("nmk,snk->snm", J, v.flatten(2))
    for shaped in (v, v.flatten(2)):
        torch.testing.assert_close(pushforward(f, z, shaped)[1], truth)
        torch.testing.assert_close(pushforward(f, z, shaped[0])[1], truth[0])
    for covector in (w, w.flatten(1)):
        torch.testing.assert_close(pullback(f, z, covector), torch.einsum("nmk,nm->nk", J, w.flatten(1)))
    rows = Decoder(nn.Sequential(nn.Unflatten(1, (2, 2, 3)), network), 12, latent_shape=(2, 2, 3))
    torch.testing.assert_close(jacobian(rows, z), jacobian(rows, z.flatten(1)))
    with pytest.raises(UsageError, match=r"the decoder takes \(n, 12\) or \(n, 2, 2, 3\)"):
        jacobian(rows, z[:, :1])
    with pytest.raises(ContractError) as caught:
        Decoder(network, 12)
    assert "nn.Unflatten(1, (channels, height, width))" in str(caught.value.hint)
    with pytest.raises(ContractError) as caught:
        jacobian(f, z[0])
    assert caught.value.hint == "z[None] is one map of latents in a batch"


def test_columns_and_likelihoods_are_given_as_is_handy() -> None:
    z = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    G = gram(bend, z)
    for columns in ([1], torch.tensor([1]), torch.ones(4, 1, dtype=torch.int32)):
        torch.testing.assert_close(gram(bend, z, columns=columns), G[:, 1:, 1:])
    mean = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid()).double()
    x = mean(z)
    J = jacobian(mean, z)
    torch.testing.assert_close(
        gram(mean, z, likelihood="bernoulli"), J.mT @ (J / (x * (1 - x))[..., None].detach())
    )
    with pytest.raises(UsageError, match="no likelihood is called `bernouli`"):
        gram(mean, z, likelihood="bernouli")


def test_no_directions_give_no_columns_and_the_outputs() -> None:
    y, Jv = pushforward(bend, Z + 1, torch.ones(0, 4, 2))
    torch.testing.assert_close(y, bend(Z + 1).flatten(1))
    assert Jv.shape == (0, *y.shape)
    assert pullback(bend, Z, torch.ones(0, 4, 3)).shape == (0, 4, 2)
    assert gram(bend, Z, columns=[]).shape == (4, 0, 0)
    assert gram(bend, Z, columns=torch.zeros(4, 2, 0).long()).shape == (4, 2, 0, 0)
    assert gram(bend, Z[:0], columns=[1]).shape == (0, 1, 1)
    assert jacobian(bend, Z[:0], columns=[1]).shape == (0, 3, 1)


Z = torch.zeros(4, 2)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize(
    ("call", "says", "hint"),
    [
        (lambda: gram(bend, Z.numpy()), "a torch tensor, not ndarray", "torch.as_tensor"),
        (lambda: gram(bend, "z.npy"), "a torch tensor, not str", "numpy.load"),
        (lambda: gram("model.pt", Z), "a module or a Decoder, not str", "vaeprobe.load"),
        (lambda: gram(bend, Z[0]), r"not \(2,\) of", r"z\[None\].*vmap"),
        (lambda: gram(Decoder(bend, 2), Z[0]), r"takes \(n, 2\)", r"z\[None\]"),
        (lambda: gram(bend, Z.long()), "int64", "z.float"),
        (lambda: gram(bend, Z.to_sparse()), "a sparse tensor", "to_dense"),
        (
            lambda: gram(bend, torch.nested.nested_tensor(list(Z))),
            "latents are a nested tensor",
            "torch.stack",
        ),
        (
            lambda: gram(bend, torch.nested.nested_tensor(list(Z), layout=torch.jagged)),
            "latents are a nested tensor",
            "torch.stack",
        ),
        (
            lambda: pullback(bend, Z, torch.nested.nested_tensor(list(Z))),
            "covectors are a nested tensor",
            "torch.stack",
        ),
        (lambda: gram(bend, Z.to("meta")), "meta device", "real device"),
        (
            lambda: torch.func.vmap(lambda z: gram(bend, z[None]))(Z),
            "transform of torch.func",
            "outside of vmap",
        ),
        (lambda: gram(bend, Z, chunk=0), "at least 1, not 0", "leave it out"),
        (lambda: jacobian(bend, Z, chunk=2.5), "at least 1, not 2.5", "leave it out"),
        (lambda: gram(bend, Z, columns=torch.tensor([0, 2])), "from 0 to 2, and .* from 0 to 1", None),
        (lambda: gram(bend, Z, columns=torch.tensor([-1, 0])), "from -1 to 0", None),
        (lambda: jacobian(bend, Z, columns=torch.zeros(4, 1, 1).long()), r"shape \(s,\) or \(n, s\)", None),
        (
            lambda: gram(bend, Z, columns=torch.tensor([0.5])),
            "indices of continuous latents",
            r"torch.tensor\(\[0, 2",
        ),
        (lambda: gram(bend, Z, columns="01"), "indices of continuous latents", r"torch.tensor\(\[0, 2"),
        (
            lambda: gram(bend, Z, columns=torch.zeros(3, 1).long()),
            r"shape \(3, 1\) for 4",
            "one row of indices",
        ),
        (
            lambda: gram(lambda z: z - 1, Z, likelihood="bernoulli"),
            "from -1 to -1: the means of a Bernoulli likelihood",
            'parameter="natural"',
        ),
        (lambda: gram(bend, Z, likelihood=3), "a name or a Likelihood, not int", "bernoulli"),
        (
            lambda: pushforward(bend, Z, torch.ones(4, 3)),
            r"\(4, 3\), and not \(4, 2\) or \(several, 4, 2\)",
            None,
        ),
        (lambda: pushforward(bend, Z, torch.ones(2)), r"have shape \(2,\)", r"v\.expand\(4, -1\)"),
        (lambda: pushforward(bend, Z, torch.ones(3, 2)), r"have shape \(3, 2\)", None),
        (lambda: pullback(bend, Z, torch.ones(4, 2)), r"\(4, 2\), and not \(4, 3\)", None),
        (
            lambda: pushforward(bend, Z, torch.ones(4, 2) * 1j),
            "directions are complex",
            r"v\.real and v\.imag",
        ),
        (lambda: pullback(bend, Z, torch.ones(4, 3) * 1j), "covectors are complex", r"w\.real and w\.imag"),
        (lambda: pullback(bend, Z, [1.0]), "the covectors are a torch tensor, not list", "as_tensor"),
    ],
)
def test_arguments_that_do_not_fit_are_told_by_name(call: object, says: str, hint: str | None) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        call()
    assert re.search(hint or "", caught.value.hint or "")


@pytest.mark.parametrize(
    "f", [lambda z: torch.stack([z[0] * z[1], z[1]]), lambda z: z.sum(), lambda z: z.reshape(2) ** 2]
)
def test_a_function_of_one_latent_is_told_what_makes_one_of_rows(f: object) -> None:
    z = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ContractError) as caught:
        jacobian(f, z)
    assert "torch.func.vmap(f)" in str(caught.value.hint)
    assert jacobian(torch.func.vmap(f), z).shape[::2] == (7, 2)


def test_faults_of_functions_of_rows_are_not_taken_for_functions_of_one_latent() -> None:
    for f in (lambda z: z - z.mean(0), lambda z: z + torch.rand(()), lambda z: z.detach() ** 2):
        with pytest.raises(ContractError) as caught:
            gram(f, torch.randn(7, 2))
        assert "vmap" not in str(caught.value.hint)


@pytest.mark.parametrize(
    "verb",
    [
        lambda f, z: gram(f, z),
        lambda f, z: jacobian(f, z),
        lambda f, z: pushforward(f, z, z)[1],
        lambda f, z: pullback(f, z, torch.ones(3, 30)),
    ],
)
def test_autocast_changes_nothing_whoever_calls_first(verb: Callable[..., Tensor]) -> None:
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(nn.Sequential(nn.Linear(5, 20), nn.Tanh(), nn.Linear(20, 30)))
    z = torch.randn(3, 5)
    right = verb(networks[0], z)
    with torch.autocast("cpu"):
        later, first = (verb(network, z) for network in networks)
    assert torch.equal(later, right)
    assert torch.equal(first, right)
    assert torch.equal(verb(networks[1], z), right)


def test_masks_in_the_type_of_the_latents_are_no_reason_for_a_slow_method() -> None:
    chosen = choose(Decoder(lambda z: torch.cat([z * (z > 0).to(z), z < 0], 1), 3))
    assert chosen.method is carried


@pytest.mark.parametrize("f", [nn.BatchNorm1d(2), nn.LazyLinear(2)])
def test_a_refused_call_changes_nothing_of_the_module(f: nn.Module) -> None:
    summed = nn.Sequential(f, nn.Flatten(0), nn.AdaptiveAvgPool1d(1)).train()
    with pytest.raises(ContractError):
        jacobian(summed, torch.randn(8, 2) + 1)
    assert summed.training
    assert isinstance(f, nn.LazyLinear) or int(f.num_batches_tracked) == 0
    assert not isinstance(f, nn.LazyLinear) or f.has_uninitialized_params()


def test_hints_name_the_argument_that_is_wrong() -> None:
    z = torch.randn(4, 3)
    for call, name in ((pushforward, "v"), (pullback, "w")):
        with pytest.raises(UsageError) as caught:
            call(torch.sin, z, torch.randn(3))
        assert f"{name}.expand(4, -1)" in str(caught.value.hint)


def test_of_several_outputs_the_one_that_is_taken_is_told() -> None:
    z = torch.randn(3, 2)
    with pytest.warns(UserWarning, match=r"the first, `0`, was probed; return one tensor") as caught:
        jacobian(lambda z: (bend(z), z), z)
    assert caught[0].filename == __file__
    assert jacobian(lambda z: {"recon": bend(z), "latent": z}, z).shape == (3, 3, 2)  # says it by its name


class Block(nn.Module):
    """A residual block: what a skip connection shares must not be written to."""

    def __init__(self, c: int, norm: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(norm, activation, nn.Conv2d(c, c, 3, padding=1))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.body(h)


class Attention(nn.Module):
    """Pixels that look at one another."""

    def __init__(self, c: int, norm: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.norm, self.activation = norm, activation
        self.heads = nn.MultiheadAttention(c, 2, batch_first=True)

    def forward(self, h: Tensor) -> Tensor:
        tokens = self.activation(self.norm(h)).flatten(2).mT
        return h + self.heads(tokens, tokens, tokens, need_weights=False)[0].mT.reshape(h.shape)


NORMS = {
    "none": lambda c: nn.Identity(), "batch": nn.BatchNorm2d, "group": lambda c: nn.GroupNorm(2, c),
    "instance": lambda c: nn.InstanceNorm2d(c, eps=0.01, affine=True), "layer": lambda c: nn.LayerNorm([c, 4, 4], eps=0.01),
    "rms": lambda c: nn.RMSNorm([4, 4], eps=0.01),
}  # fmt: skip
ACTIVATIONS = {"relu": nn.ReLU, "leaky": lambda: nn.LeakyReLU(0.1, inplace=True), "tanh": nn.Tanh, "silu": nn.SiLU, "gelu": nn.GELU}  # fmt: skip
DOUBLINGS = {
    "transposed": lambda c: nn.ConvTranspose2d(c, c, 4, 2, 1), "grouped": lambda c: nn.ConvTranspose2d(c, c, 4, 2, 1, groups=2),
    "odd": lambda c: nn.ConvTranspose2d(c, c, 3, 2, 1, output_padding=1), "dilated": lambda c: nn.ConvTranspose2d(c, c, 2, 2, dilation=2, padding=1, output_padding=1),
    "nearest": lambda c: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(c, c, 3, padding=1)),
    "bicubic": lambda c: nn.Sequential(nn.Upsample(scale_factor=2, mode="bicubic"), nn.Conv2d(c, c, 3, padding=1, padding_mode="circular")),
    "shuffle": lambda c: nn.Sequential(nn.Conv2d(c, 4 * c, 1), nn.PixelShuffle(2)),
    "weight norm": lambda c: weight_norm(nn.ConvTranspose2d(c, c, 4, 2, 1)),
}  # fmt: skip


def decoder_of(
    seed: int, norm: str, activation: str, doubling: str, wide: bool, blocks: str, colours: int
) -> nn.Module:
    """A random convolutional decoder: 4 latents -> 2 x 2 -> 4 x 4 -> 8 x 8, with settled batch statistics."""
    torch.manual_seed(seed)
    c = 128 if wide else 6
    act = ACTIVATIONS[activation]
    layers = [nn.Linear(4, 4 * c), act(), nn.Unflatten(1, (c, 2, 2))]
    layers += [DOUBLINGS[doubling](c)]
    layers += [{"b": Block, "a": Attention}[kind](c, NORMS[norm](c), act()) for kind in blocks]
    layers += [nn.ConvTranspose2d(c, colours, 4, 2, 1), nn.Sigmoid()]
    network = nn.Sequential(*layers).double().eval().requires_grad_(False)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_var.uniform_(0.5, 2.0)
            layer.running_mean.normal_()
    return network


@settings(max_examples=10)
@given(
    st.integers(0, 10**6), st.sampled_from(sorted(NORMS)), st.sampled_from(sorted(ACTIVATIONS)),
    st.sampled_from(sorted(DOUBLINGS)), st.booleans(), st.sampled_from(["", "a", "b", "ba"]), st.sampled_from([1, 3, 20]),
    st.integers(1, 4),
)  # fmt: skip
def test_random_decoders_have_the_jacobians_that_vmap_of_jacfwd_gives(
    seed: int, norm: str, activation: str, doubling: str, wide: bool, blocks: str, colours: int, chunk: int
) -> None:
    network = decoder_of(seed, norm, activation, doubling, wide, blocks, colours)
    z = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with differentiable_kernels():
        J = torch.func.vmap(torch.func.jacfwd(lambda x: network(x[None]).flatten()))(z)
    decoder = Decoder(network, 4)
    assert choose(decoder).method is carried
    every_verb_finds(J, decoder, z, chunk)


def every_verb_finds(J: Tensor, decoder: Decoder, z: Tensor, chunk: int) -> None:
    G, w = J.mT @ J, torch.ones(J.shape[:2], dtype=torch.float64)
    for found, true in [
        (jacobian(decoder, z, chunk=chunk), J),
        (gram(decoder, z, chunk=chunk), G),
        (gram(decoder, z, columns=torch.tensor([[2, 0]]).expand(5, 2)), G[:, [2, 0]][:, :, [2, 0]]),
        (pushforward(decoder, z, z)[1], (J @ z[:, :, None])[..., 0]),
        (pullback(decoder, z, w), J.sum(1)),
    ]:
        assert (found - true).norm() <= 1e-10 * true.norm()


class Cube(torch.autograd.Function):
    """With a forward mode of its own."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * w

    @staticmethod
    def jvp(ctx: Any, v: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * v


def written_in_place(h: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    out[:, 1:] = h[:, :-1].sin()
    out[:, 0] += h[:, 1]
    return out.mul_(2)


EYE = torch.eye(4, dtype=torch.float64)
PLACES = torch.tensor([2, 0, 0, 3])
# of matrices, shape (n, 4, 4), in (-1, 1), to such
OPERATIONS = {
    "inverse": lambda h: torch.linalg.inv(h + 5 * EYE) * 4, "solve": lambda h: torch.linalg.solve(h + 5 * EYE, h), "determinant": lambda h: h * torch.linalg.slogdet(h + 5 * EYE)[1][:, None, None],
    "cholesky": lambda h: torch.linalg.cholesky(h @ h.mT + EYE), "qr": lambda h: torch.linalg.qr(h + 5 * EYE).R, "exp": torch.linalg.matrix_exp, "power": lambda h: torch.linalg.matrix_power(h + EYE, 3),
    "eigenvalues": lambda h: torch.linalg.eigvalsh(h @ h.mT + 9 * EYE * torch.arange(4))[:, None] + h, "norm": lambda h: F.normalize(h + EYE, dim=2), "distance": lambda h: torch.cdist(h, EYE),
    "fft": lambda h: torch.fft.irfft(torch.fft.rfft(h) * torch.tensor([1, 2, 1j]), n=4), "complex": lambda h: torch.polar(h.exp(), h).pow(2).imag, "shift": lambda h: torch.baddbmm(EYE[None], h, h, beta=0.5, alpha=2),
    "diagonal": lambda h: torch.einsum("nii,nij->nij", h, h), "ellipsis": lambda h: torch.einsum("...ij,...kj,ik->...ki", h, h, EYE + 1), "scatter": lambda h: h.scatter_add(1, PLACES[None, :, None].expand_as(h), h.sin()),
    "put": lambda h: h.index_put((torch.arange(len(h))[:, None], PLACES[[0, 1, 3]]), h[:, :3].cos()), "add": lambda h: h.index_add(1, PLACES, h, alpha=2), "sort": lambda h: h.sort(2).values, "gather": lambda h: h.gather(1, h.argsort(1)),
    "joined with kinds": lambda h: torch.cat([h[:, :2], h[:, :1] > 0.2, (h[:, :1] > 0).int() - 2], 1) + h, "mask": lambda h: h * (h.mean(2, keepdim=True) > 0.1).to(h).expand_as(h),
    "top": lambda h: h * (h >= h.topk(2, 2).values[..., 1:]), "product": lambda h: (h + 1.5).cumprod(2), "sum": lambda h: h.logcumsumexp(1), "attention": lambda h: F.scaled_dot_product_attention(h, h.sin(), h, is_causal=True),
    "in place": written_in_place, "own function": Cube.apply, "checkpoint": lambda h: checkpoint(torch.sin, h, use_reentrant=False),
    "inner jvp": lambda h: torch.func.vmap(torch.func.grad(lambda a: a.sin().prod()))(h), "rows": lambda h: torch.stack([row.T @ row for row in h]), "halves": lambda h: torch.where(h > 0, h * h, h).clamp(-0.3, 0.4),
}  # fmt: skip


@settings(max_examples=10)
@given(
    st.integers(0, 10**6),
    st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=1, max_size=3),
    st.integers(1, 5),
)
def test_random_programs_have_the_jacobians_that_reverse_mode_gives(
    seed: int, program: list[str], chunk: int
) -> None:
    """Not `vmap(jacfwd)`, which torch 2.13 has wrong for determinants and linear systems."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(16, 3, dtype=torch.float64, generator=generator)
    z = torch.randn(5, 3, dtype=torch.float64, generator=generator)

    def f(z: Tensor) -> Tensor:
        h = torch.tanh(F.linear(z, weight)).view(-1, 4, 4)
        for name in program:
            h = torch.tanh(OPERATIONS[name](h) / 2)
        return h

    leaf = z.clone().requires_grad_(True)
    y = f(leaf).flatten(1)
    J = torch.stack([torch.autograd.grad(one.sum(), leaf, retain_graph=True)[0] for one in y.unbind(1)], 1)
    every_verb_finds(J, Decoder(f, 3), z, chunk)
