"""The Jacobian engine against exact maps, finite differences and itself at other chunk sizes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaeprobe.decoder import Decoder, Group
from vaeprobe.engine import chunks, matrix_free, methods
from vaeprobe.engine import verbs as engine
from vaeprobe.engine.chunks import Size
from vaeprobe.engine.tangents import push
from vaeprobe.engine.verbs import gram, jacobian, pullback, pushforward
from vaeprobe.errors import ContractError, ResourceError, UsageError
from vaeprobe.files import limits
from vaeprobe.geometry.modulation import frozen_lengths
from vaeprobe.geometry.smoothness import metric_derivatives
from vaeprobe.likelihoods import Bernoulli, Categorical
from vaeprobe.seams.fields import IterativeField

from maps import ExactMap, all_maps, b1, c1, decoder, e


def mlp(m: int = 30, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 24), nn.Tanh(), nn.Linear(24, 24), nn.SiLU(), nn.Linear(24, m)).double()


def conv(seed: int = 0, last: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, 32), nn.ReLU(), nn.Unflatten(1, (8, 2, 2)), nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.BatchNorm2d(6),
        nn.ReLU(True), nn.ConvTranspose2d(6, 2, 4, 2, 1), nn.Sigmoid() if last else nn.Identity(),
    ).double().eval()  # fmt: skip


def draws(n: int, d: int, seed: int = 1) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_hand(f: Callable[[Tensor], Tensor], z: Tensor, step: float = 1e-5) -> Tensor:
    """Return the Jacobian by central differences, shape (n, m, d)."""
    with torch.no_grad():
        return torch.stack(
            [(f(z + step * u) - f(z - step * u)) / (2 * step) for u in torch.eye(z.shape[1]).to(z)], -1
        )


@pytest.mark.parametrize("map", all_maps(), ids=repr)
def test_metrics_of_exact_maps(map: ExactMap) -> None:
    z = draws(16, map.latent_dim)
    G, G_true = gram(decoder(map), z), map.gram(z)
    assert float((G - G_true).abs().max()) <= 1e-12 * max(1.0, float(G_true.abs().max()))


@pytest.mark.parametrize("network", [mlp(), conv()], ids=["mlp", "conv"])
def test_jacobians_agree_with_finite_differences(network: nn.Module) -> None:
    probed, z = Decoder(network, 4), draws(6, 4)
    J = jacobian(probed, z)
    assert methods.choose(probed).method is methods.carried
    assert torch.allclose(J, by_hand(probed.flat, z), atol=1e-7)
    assert torch.allclose(gram(probed, z), J.mT @ J, rtol=1e-12)


def test_float32_agrees_with_torchs_forward_mode() -> None:
    probed, z = Decoder(mlp().float(), 4), draws(32, 4).float()
    J = jacobian(probed, z)
    v = torch.eye(4)[:, None].expand(4, 32, 4)
    truth = methods.mapped(probed.flat, z, v)[1].value().permute(1, 2, 0)
    assert J.dtype == torch.float32
    assert float((J - truth).abs().max() / truth.abs().max()) < 4e-7


def test_columns_of_very_different_length_keep_their_metric_in_float32() -> None:
    """A float32 Gram matrix would lose the small singular values."""
    scales = torch.tensor([1.0, 1e-2, 1e-4, 1e-6], dtype=torch.float64)
    network = mlp()
    network[0].weight.data *= scales
    exact = gram(Decoder(network, 4), draws(32, 4))
    found = gram(Decoder(network.float(), 4), draws(32, 4))
    length = exact.diagonal(dim1=-2, dim2=-1).sqrt()
    assert float((found.diagonal(dim1=-2, dim2=-1).sqrt() / length - 1).abs().max()) < 2e-6
    cosines = [G / (n[:, :, None] * n[:, None]) for G, n in ((exact, length), (found, length))]
    assert float((cosines[0] - cosines[1]).abs().max()) < 3e-6


@pytest.mark.parametrize(
    "network", [mlp(200), conv(), conv(last=False)], ids=["tall", "conv", "conv without sigmoid"]
)
def test_results_do_not_depend_on_the_chunk(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    probed, z = Decoder(network, 4), draws(7, 4)
    J, G = jacobian(probed, z), gram(probed, z)
    weighted = gram(probed, z, likelihood=Bernoulli()) if isinstance(network[-1], nn.Sigmoid) else None
    y, Jv = pushforward(probed, z, J[:3].new_ones(3, 7, 4))
    for chunk in (1, 2, 3, 7, 100):
        assert torch.allclose(jacobian(probed, z, chunk=chunk), J, atol=1e-13)
        assert torch.allclose(gram(probed, z, chunk=chunk), G, rtol=1e-12)
    # so little memory that directions are taken one at a time too
    monkeypatch.setattr(chunks, "BUDGET", 1)
    assert Size.fitting(10, 8, 4) == Size(1, 1)
    assert torch.allclose(jacobian(probed, z), J, atol=1e-13)
    assert torch.allclose(gram(probed, z), G, rtol=1e-12)
    if weighted is not None:
        assert torch.allclose(gram(probed, z, likelihood=Bernoulli()), weighted, rtol=1e-12)
    assert torch.allclose(pushforward(probed, z, J.new_ones(3, 7, 4))[1], Jv, atol=1e-13)
    assert torch.allclose(pushforward(probed, z, J.new_ones(3, 7, 4))[0], y, atol=1e-13)


def test_the_likelihoods_metric_on_means_and_natural_parameters() -> None:
    network, z = conv(), draws(5, 4)
    J = by_hand(lambda x: network(x).flatten(1), z)
    p = network(z).detach().flatten(1)
    truth = J.mT @ (J / (p * (1 - p))[..., None])
    on_means = gram(Decoder(network, 4), z, likelihood=Bernoulli())
    on_logits = gram(Decoder(network, 4, natural=network[:-1]), z, likelihood=Bernoulli())
    assert torch.allclose(on_means, truth, rtol=1e-5)
    assert torch.allclose(on_logits, on_means, rtol=1e-9)


def test_tangents_forward_and_covectors_back() -> None:
    probed, z = Decoder(conv(), 4), draws(5, 4)
    J, v, w = jacobian(probed, z), draws(10, 4).view(2, 5, 4), draws(10, 128).view(2, 5, 128)
    y, Jv = pushforward(probed, z, v)
    assert torch.allclose(y, probed.flat(z), atol=1e-14)
    assert torch.allclose(Jv, torch.einsum("nmk,snk->snm", J, v), atol=1e-14)
    assert torch.allclose(pushforward(probed, z, v[0])[1], Jv[0], atol=1e-14)
    assert torch.allclose(pullback(probed, z, w), torch.einsum("nmk,snm->snk", J, w), atol=1e-14)
    assert torch.allclose(pullback(probed, z, w[1]), torch.einsum("nmk,nm->nk", J, w[1]), atol=1e-14)
    assert pushforward(probed, z[:0], v[0, :0])[1].shape == (0, 128)


def test_codes_are_held_fixed() -> None:
    network = mlp()
    probed = Decoder(network, 4, prior=(Group("normal", 2), Group("onehot", 2)))
    z = draws(3, 4)
    J = by_hand(probed.flat, z)[..., :2]
    assert torch.allclose(jacobian(probed, z), J, atol=1e-7)
    assert torch.allclose(pushforward(probed, z, torch.ones(3, 2))[1], J.sum(-1), atol=1e-7)
    assert pullback(probed, z, torch.ones(3, 30)).shape == (3, 2)


# -- decoders that need another method -------------------------------------------------------------------


class Square(torch.autograd.Function):
    """No forward mode."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        return 2 * ctx.saved_tensors[0] * g


class SquareOnce(Square):
    """Neither forward mode nor a second backward pass."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        return 2 * ctx.saved_tensors[0] * g


def filled(z: Tensor) -> Tensor:
    out = torch.zeros(len(z), 4, dtype=z.dtype)
    out[:, :2] = z[:, :2] * z[:, 2:]
    out[:, 2:] = z[:, 2:].sin()
    return out


def test_a_decoder_that_tangents_cannot_follow() -> None:
    probed, z = Decoder(filled, 4), draws(5, 4)
    assert methods.choose(probed).method in (methods.mapped, methods.repeated)
    J = by_hand(probed.flat, z)
    assert torch.allclose(jacobian(probed, z), J, atol=1e-7)
    assert torch.allclose(gram(probed, z), J.mT @ J, atol=1e-6)
    assert torch.allclose(pushforward(probed, z, torch.ones(5, 4))[1], J.sum(-1), atol=1e-7)


@pytest.mark.parametrize(
    ("function", "plain"), [(Square, methods.reversed_twice), (SquareOnce, methods.row_by_row)]
)
def test_a_decoder_without_forward_mode(
    function: type[Square], plain: methods.Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second backward pass through a function that has none is silently wrong in torch."""
    z = draws(5, 4)

    def f(z: Tensor) -> Tensor:
        out: Tensor = function.apply(z)  # type: ignore[no-untyped-call]
        return out + z.flip(1)

    J = by_hand(lambda z: z * z + z.flip(1), z)
    assert torch.allclose(jacobian(Decoder(f, 4), z), J, atol=1e-7)
    monkeypatch.setattr(methods, "push", starved)
    probed = Decoder(f, 4)
    assert methods.choose(probed).method is plain
    assert torch.allclose(jacobian(probed, z), J, atol=1e-7)
    assert torch.allclose(pushforward(probed, z, torch.ones(5, 4))[1], J.sum(-1), atol=1e-7)


def starved(*_: object) -> tuple[Tensor, object]:
    raise MemoryError


def test_a_recurrent_decoder() -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTM(4, 5, batch_first=True)

        def forward(self, z: Tensor) -> Tensor:
            out: Tensor = self.cell(z[:, None].expand(-1, 3, -1))[0]
            return out

    torch.manual_seed(0)
    probed, z = Decoder(Sequence().double(), 4), draws(3, 4)
    assert torch.allclose(jacobian(probed, z), by_hand(probed.flat, z), atol=1e-7)


def test_a_wrong_rule_is_noticed_at_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    from vaeprobe.engine import tangents

    monkeypatch.setattr(tangents, "ELEMENTWISE", tangents.ELEMENTWISE | {"softmax"})
    probed, z = Decoder(lambda z: F.softmax(z, 1), 4), draws(3, 4)
    assert methods.choose(probed).method is not methods.carried
    assert torch.allclose(jacobian(probed, z), by_hand(probed.flat, z), atol=1e-7)


def nudged(
    error: float, rows: int, gram_only: bool = False, only: torch.dtype | None = None
) -> Callable[..., tuple[Tensor, methods.Columns]]:
    """The fast method, wrong by this relative error at the first rows, perhaps in one type only."""

    def method(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> tuple[Tensor, methods.Columns]:
        y, columns = push(f, x, v)
        size = torch.ones(len(x), 1, dtype=x.dtype)
        size[:rows] += error if only in (None, x.dtype) else 0.0
        if not gram_only:
            return y, methods.Known(columns.value() * size)
        known = methods.Known(columns.value())
        G = known.gram() * size[:, :, None].double()
        known.gram = lambda factor=None: G  # type: ignore[method-assign]
        return y, known

    return method


@pytest.mark.parametrize(
    ("dtype", "error", "rows", "trusted"),
    [
        (torch.float64, 0.4e-9, 7, True),
        (torch.float64, 1.1e-9, 7, False),
        (torch.float32, 0.4e-4, 7, True),
        (torch.float32, 1.2e-4, 7, False),
        (torch.float64, 1.0, 4, False),
    ],
)
@pytest.mark.parametrize("gram_only", [False, True])
def test_the_fast_method_is_held_to_plain_forward_mode(
    dtype: torch.dtype,
    error: float,
    rows: int,
    trusted: bool,
    gram_only: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(methods, "push", nudged(error, rows, gram_only))
    chosen = methods.choose(Decoder(mlp().to(dtype), 4)).method
    assert (chosen is methods.carried) == trusted
    assert trusted or chosen is methods.mapped


@pytest.mark.parametrize(
    ("dtype", "rows", "only", "trusted"),
    [
        (torch.float64, 1, None, False),
        (torch.float32, 1, None, False),
        # rounding may decide at kinks, which float64 tells; but not at half of the latents
        (torch.float32, 3, torch.float32, True),
        (torch.float32, 4, torch.float32, False),
    ],
)
def test_the_fast_method_is_right_at_every_latent(
    dtype: torch.dtype, rows: int, only: torch.dtype | None, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "push", nudged(1.0, rows, only=only))
    chosen = methods.choose(Decoder(mlp().to(dtype), 4)).method
    assert (chosen is methods.carried) == trusted


def test_values_and_types_of_the_fast_method_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for spoil in (
        lambda y: y * (1 + 1e-8),
        lambda y: y.float(),
        lambda y: y[:, :-1],
        lambda y: y * float("nan"),
    ):
        monkeypatch.setattr(methods, "push", lambda f, x, v, spoil=spoil: (spoil(f(x)), push(f, x, v)[1]))
        assert methods.choose(Decoder(mlp(), 4)).method is methods.mapped


def test_control_flow_that_leads_elsewhere_later() -> None:
    def f(z: Tensor) -> Tensor:
        return filled(z) if bool((z.abs() > 50).any()) else z * z.flip(1)

    probed, z = Decoder(f, 4), draws(3, 4) + 100
    assert methods.choose(probed).method is methods.carried
    assert torch.allclose(jacobian(probed, z), by_hand(probed.flat, z), rtol=1e-6)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning"
)
def test_self_contained_programs() -> None:
    network, z = conv(), draws(4, 4)
    J = jacobian(Decoder(network, 4), z)
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(network, (z,), dynamic_shapes=({0: batch},)).module()
    exported = Decoder(program, 4, dtype=torch.float64)
    assert torch.allclose(jacobian(exported, z), J, atol=1e-12)
    assert torch.allclose(gram(exported, z), J.mT @ J, rtol=1e-9)


# -- memory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 TB",
        "could not create a primitive",  # all that oneDNN says
    ],
)
def test_chunks_halve_when_memory_runs_out_and_give_the_same(words: str) -> None:
    network, z = mlp(), draws(40, 4)
    G = gram(Decoder(network, 4), z)
    largest: list[int] = []

    def hungry(x: Tensor) -> Tensor:
        if len(x) > 14:
            raise RuntimeError(words)
        largest.append(len(x))
        out: Tensor = network(x)
        return out

    probed = Decoder(hungry, 4, dtype=torch.float64)
    assert torch.allclose(gram(probed, z), G, rtol=1e-12)
    assert torch.allclose(jacobian(probed, z).mT @ jacobian(probed, z), G, rtol=1e-12)
    assert max(largest) <= 14


@pytest.mark.parametrize(
    "words", ["something else", "could not create a primitive descriptor for the deconvolution"]
)
def test_other_errors_are_not_taken_for_lack_of_memory(words: str) -> None:
    calls = []

    def broken(x: Tensor) -> Tensor:
        calls.append(len(x))
        if len(x) % 9 == 0:
            raise RuntimeError(words)
        return x * x

    decoder = Decoder(broken, 4)
    methods.choose(decoder)
    calls.clear()
    with pytest.raises(ContractError, match=words):
        jacobian(decoder, draws(9, 4))
    assert set(calls) == {9, 36}  # each method in turn, and never fewer latents


def test_not_even_one_direction_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    probed = Decoder(mlp(), 4)
    methods.choose(probed)
    monkeypatch.setattr(methods.Choice, "push", starved)
    with pytest.raises(ResourceError, match="not enough memory for one direction at one latent"):
        jacobian(probed, draws(5, 4))


def test_gram_matrices_of_a_huge_jacobian_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LARGEST_JACOBIAN", 100)
    with pytest.raises(ResourceError, match="30 x 4") as caught:
        gram(Decoder(mlp(), 4), draws(1, 4))
    assert caught.value.hint is not None
    assert "matrix_free" in caught.value.hint


def test_what_this_machine_has_no_memory_for_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probed, z = Decoder(mlp(), 4, dtype=torch.float64), draws(5, 4)
    monkeypatch.setattr(methods.Choice, "push", None)
    monkeypatch.setattr(limits, "physical_memory", lambda: 5 * 30 * 4 * 8 - 1)
    with pytest.raises(ResourceError, match="5 Jacobians of 30 x 4 would take") as caught:
        jacobian(probed, z)
    assert "gram" in (caught.value.hint or "")
    monkeypatch.setattr(limits, "physical_memory", lambda: (5 + 1) * 4 * 4 * 8 - 1)
    with pytest.raises(ResourceError, match="5 matrices of 4 x 4 latents would take") as caught:
        gram(probed, z)
    monkeypatch.undo()
    for verb, least in ((jacobian, 5 * 30 * 4 * 8), (gram, (5 + 1) * 4 * 4 * 8)):
        monkeypatch.setattr(limits, "physical_memory", lambda least=least: least)
        assert len(verb(probed, z)) == 5  # type: ignore[operator]


def test_sizes_follow_the_budget() -> None:
    assert Size.fitting(1 << 18, 4, 10) == Size(2, 10)
    assert Size.fitting(1 << 22, 4, 10) == Size(1, 1)
    assert Size.fitting(1 << 16, 4, 112) == Size(1, 112)
    assert Size.fitting(1 << 16, 4, 113) == Size(1, 57)  # not 112 and then a single one
    assert Size.fitting(1 << 18, 4, 10, points=12) == Size(12, 2)
    assert Size(3, 10).halved() == Size(2, 10)
    assert Size(1, 3).halved() == Size(1, 2)
    assert Size(1, 1).halved() is None


# -- without matrices ------------------------------------------------------------------------------------


def test_estimates_are_unbiased_and_know_their_error() -> None:
    probed, z = Decoder(mlp(), 4), draws(200, 4)
    G = gram(probed, z)
    squares = G.diagonal(dim1=-2, dim2=-1)
    truths = {
        matrix_free.trace: squares.sum(1),
        matrix_free.frobenius_norm_squared: G.square().sum((1, 2)),
        matrix_free.off_diagonal_energy: G.square().sum((1, 2)) - squares.square().sum(1),
        matrix_free.diagonal: squares,
    }
    for estimate, truth in truths.items():
        found = estimate(probed, z, probes=16)
        error = (found.value - truth) / found.standard_error.clamp_min(1e-9)
        # 200 independent latents: their mean error is 0 within a few standard errors
        pull = (found.value - truth).mean(0) / (found.value - truth).std(0) * math.sqrt(200)
        assert float(pull.abs().max()) < 4, estimate.__name__
        assert 0.5 < float(error.square().mean().sqrt()) < 2.5, estimate.__name__


def test_orthogonal_columns_have_no_off_diagonal_energy() -> None:
    found = matrix_free.off_diagonal_energy(decoder(b1(d=5)), draws(8, 5))
    assert float(found.value.abs().max()) < 1e-20
    entangled = matrix_free.off_diagonal_energy(decoder(e(d=5)), draws(8, 5))
    assert float(entangled.value.min()) > 1e-4


def test_cosines_of_some_columns() -> None:
    probed, z = decoder(e(d=6)), draws(8, 6)
    G = e(d=6).gram(z)
    n = G.diagonal(dim1=-2, dim2=-1).sqrt()
    C = (G / (n[:, :, None] * n[:, None])).abs()
    truth = (C.sum((1, 2)) - 6) / 30
    exact = matrix_free.mean_abs_cosine(probed, z, columns=100)
    assert torch.allclose(exact.value, truth, atol=1e-12)
    assert float(exact.standard_error.max()) == 0
    several = torch.stack(
        [matrix_free.mean_abs_cosine(probed, z, columns=4, seed=s).value for s in range(60)]
    )
    assert torch.allclose(several.mean(0), truth, atol=0.05)


@pytest.mark.parametrize("map", [c1(m=9), e(d=6), b1(d=6)], ids=repr)
def test_singular_triplets(map: ExactMap) -> None:
    probed, z = decoder(map), draws(5, map.latent_dim)
    s_true = torch.linalg.svdvals(jacobian(probed, z))
    found = matrix_free.singular_triplets(probed, z, map.latent_dim, tolerance=0)
    assert torch.allclose(found.s, s_true, rtol=1e-10)
    assert torch.allclose(
        found.U.mT @ found.U, torch.eye(map.latent_dim).double().expand(5, -1, -1), atol=1e-9
    )
    assert float(found.residual.max()) < 1e-9


def test_the_largest_singular_values_of_many_in_few_products() -> None:
    torch.manual_seed(0)
    A = torch.randn(120, 80, dtype=torch.float64) * torch.logspace(0, -4, 80, dtype=torch.float64)
    probed, z = Decoder(lambda z: torch.tanh(z @ A.T), 80), draws(3, 80)
    s_true = torch.linalg.svdvals(jacobian(probed, z))[:, :5]
    found = matrix_free.singular_triplets(probed, z, 5, products=40)
    assert found.products < 45
    assert float(((found.s - s_true) / s_true[:, :1]).abs().max()) < 1e-3
    assert float(found.residual.max()) < 1e-3
    # a flat spectrum takes more products than it gets, and says so
    flat = Decoder(lambda z: z @ torch.linalg.qr(A).Q.T + 0 * z[:, :1], 80)
    assert float(matrix_free.singular_triplets(flat, z, 5, products=8).residual.max()) < 1e-9
    noise = torch.randn(100, 80, dtype=torch.float64)
    rough = Decoder(lambda z: z @ noise.T, 80)
    assert float(matrix_free.singular_triplets(rough, z, 5, products=12).residual.max()) > 0.01


def test_impossible_estimates() -> None:
    probed, z = decoder(b1(d=3)), draws(2, 3)
    with pytest.raises(UsageError, match="at least 3 probes, not 2"):
        matrix_free.off_diagonal_energy(probed, z, probes=2)
    with pytest.raises(UsageError, match="no 4 singular values"):
        matrix_free.singular_triplets(probed, z, 4)
    with pytest.raises(UsageError, match="two columns"):
        matrix_free.mean_abs_cosine(decoder(b1(d=1)), draws(2, 1))


# -- a metric that is not diagonal ----------------------------------------------------------------


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_every_user_of_a_categorical_metric_agrees_with_the_formula(output: str) -> None:
    torch.manual_seed(0)
    # 3 classes at 5 positions
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 15)).double()
    likelihood, z = Categorical(3), torch.randn(7, 4, dtype=torch.float64)

    def function(z: torch.Tensor) -> torch.Tensor:
        theta = net(z).reshape(-1, 3, 5)
        return theta if output == "logits" else theta.softmax(1)

    decoder = Decoder(function, 4, dtype=torch.float64, parameter="natural" if output == "logits" else "mean")
    J = torch.stack([torch.autograd.functional.jacobian(net, row) for row in z]).reshape(7, 3, 5, 4)
    p = net(z).detach().reshape(7, 3, 5).softmax(1)
    A2 = torch.diag_embed(p.mT) - p.mT[..., :, None] * p.mT[..., None, :]
    G = torch.einsum("ncpi,npcd,ndpj->nij", J, A2, J)

    def same(a: torch.Tensor, b: torch.Tensor) -> None:
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)

    for chunk in (None, 1, 3):
        same(gram(decoder, z, likelihood=likelihood, chunk=chunk), G)
    eye = torch.eye(4, dtype=torch.float64)
    same(IterativeField(decoder, wanted=2, likelihood=likelihood).apply(z, eye.expand(7, 4, 4)), G)
    same(metric_derivatives(decoder, z, [0, 1, 2, 3], likelihood=likelihood, order=1)[0], G)
    lengths = frozen_lengths(decoder, z, z, eye, likelihood=likelihood)
    same(lengths, G.diagonal(dim1=1, dim2=2).sqrt())


def test_a_network_made_channels_last_after_wrapping_is_still_differentiated() -> None:
    """Forward-mode group normalisation fails on such tensors in torch: another method must stand in."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(3, 32), nn.Unflatten(1, (8, 2, 2)), nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(),
        nn.Conv2d(8, 2, 3, padding=1),
    ).eval().requires_grad_(False)  # fmt: skip
    decoder = Decoder(network, 3)
    z = torch.randn(5, 3)
    want = torch.func.vmap(torch.func.jacrev(lambda x: network(x[None])[0].flatten()))(z)
    network.to(memory_format=torch.channels_last)
    found = jacobian(decoder, z)
    assert torch.allclose(found, want, atol=1e-5)
