"""Layers that `torch.nn` lacks, or whose kernels have no forward mode: against torch's own, formulas, and finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import vaeprobe
from vaeprobe.checkpoints.blueprint import KINDS, Blueprint, BlueprintError
from vaeprobe.checkpoints.conversion import blueprint_of, write
from vaeprobe.checkpoints.network.assemble import assemble
from vaeprobe.decoder import Decoder


def built(layers: str, tensors: dict[str, Tensor], head: str = "") -> Any:
    """Return the network of `[decoder] layers = [...]` in float64."""
    bp = Blueprint.from_toml(f"{head}\n[decoder]\nlayers = [{layers}]")
    assert Blueprint.from_toml(bp.to_toml()) == bp
    return assemble(bp, {k: t.double() for k, t in tensors.items()})


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def held_to(network: Any, expected: Any, d: int, *, again: bool = True) -> None:
    """Hold a network against a function, its derivative against central differences, and its description against itself."""
    z = rows(3, d)
    assert torch.allclose(network.decoder(z), expected(z), atol=1e-12)
    decoder = Decoder(network.decoder, d, dtype=torch.float64)
    assert decoder.differentiation == "forward"
    v, h = rows(3, d), 1e-6
    _, moved = torch.func.jvp(decoder.flat, (z,), (v,))
    slope = (decoder.flat(z + h * v) - decoder.flat(z - h * v)) / (2 * h)
    assert torch.allclose(moved, slope, atol=1e-7, rtol=1e-6)
    if again:
        bp, tensors = blueprint_of(decoder)
        assert torch.equal(
            assemble(Blueprint.from_toml(bp.to_toml()), tensors).decoder(z), network.decoder(z)
        )


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize(
    "names", [("to_q", "to_k", "to_v", "to_out.0"), ("query", "key", "value", "proj_attn"), ("q", "k", "v", "proj_out")]
)  # fmt: skip
def test_attention_is_that_of_torch(heads: int, names: tuple[str, ...]) -> None:
    c, side = 4, 3
    W, b = rows(4, c, c), rows(4, c)
    unit = (..., None, None) if names[0] == "q" else (...,)  # the original names are 1 x 1 convolutions
    tensors = {f"a.{n}.weight": W[i][unit] for i, n in enumerate(names)}
    tensors |= {f"a.{n}.bias": b[i] for i, n in enumerate(names)}
    network = built(f'{{ reshape = [{c}, {side}, {side}] }}, {{ attention = "a", heads = {heads} }}', tensors)

    def expected(z: Tensor) -> Tensor:
        x = z.reshape(-1, c, side * side).mT
        q, k, v = (
            F.linear(x, W[i], b[i]).unflatten(2, (heads, -1)).transpose(1, 2).contiguous() for i in range(3)
        )
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return F.linear(h, W[3], b[3]).mT.reshape(-1, c, side, side)

    held_to(network, expected, c * side * side)


def test_attention_in_the_names_of_torch() -> None:
    own = nn.MultiheadAttention(6, 3, batch_first=True, dtype=torch.float64).eval()
    tensors = {f"a.{k}": t.detach() for k, t in own.state_dict().items()}
    network = built('{ reshape = [6, 5] }, { attention = "a", heads = 3 }', tensors)

    def expected(z: Tensor) -> Tensor:
        x = z.reshape(-1, 6, 5).mT
        out: Tensor = own(x, x, x, need_weights=False)[0]
        return out.mT

    held_to(network, expected, 30)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize(("layers", "both"), [(1, False), (2, False), (2, True)])
@pytest.mark.parametrize("last", [False, True])
def test_recurrent_layers_are_those_of_torch(cell: str, layers: int, both: bool, last: bool) -> None:
    cls = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
    own = cls(3, 5, layers, batch_first=True, bidirectional=both, dtype=torch.float64)
    tensors = {f"r.{k}": t.detach() for k, t in own.state_dict().items()}
    network = built(
        f'{{ repeat = 4 }}, {{ {cell} = "r", last = {str(last).lower()} }}', tensors, "latents = 3"
    )

    def expected(z: Tensor) -> Tensor:
        with torch.no_grad():
            y: Tensor = own(z[:, None].expand(-1, 4, -1))[0]
        return y[:, -1] if last else y

    held_to(network, expected, 3)


def test_a_recurrent_layer_needs_steps() -> None:
    own = nn.GRU(3, 5)
    with pytest.raises(BlueprintError) as caught:
        built('{ gru = "r" }', {f"r.{k}": t.detach() for k, t in own.state_dict().items()}, "latents = 3")
    assert "repeat = STEPS" in (caught.value.hint or "")


def test_norms_over_channels() -> None:
    w, b = rows(4), rows(4)
    maps = "{ reshape = [4, 2, 2] }"
    shaped = (slice(None), None, None)

    def rms(z: Tensor) -> Tensor:
        return F.rms_norm(z.reshape(-1, 4, 2, 2).movedim(1, -1), (4,), eps=1e-5).movedim(-1, 1)

    def layer(z: Tensor) -> Tensor:
        return F.layer_norm(z.reshape(-1, 4, 2, 2).movedim(1, -1), (4,), eps=1e-5).movedim(-1, 1)

    held_to(built(f"{maps}, {{ rms_norm = true }}", {}), rms, 16)
    held_to(built(f"{maps}, {{ channel_norm = true }}", {}), layer, 16)
    for name, plain in (("rms_norm", rms), ("channel_norm", layer)):
        for leaf in ("weight", "gamma"):
            tensors = {f"n.{leaf}": w.reshape(4, 1, 1), "n.bias": b}
            network = built(f'{maps}, {{ {name} = "n" }}', tensors)
            held_to(network, lambda z, f=plain: f(z) * w[shaped] + b[shaped], 16)


def test_layer_norm_without_weights() -> None:
    held_to(built('"layer_norm"', {}, "latents = 6"), lambda z: F.layer_norm(z, (6,)), 6)
    held_to(
        built("{ reshape = [2, 3] }, { layer_norm = true, axes = 2 }", {}),
        lambda z: F.layer_norm(z.reshape(-1, 2, 3), (2, 3)),
        6,
    )


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("both", [True, False])
def test_snake(log: bool, both: bool) -> None:
    a, b = rows(1, 2, 1).abs() + 0.5, rows(1, 2, 1).abs() + 0.1
    tensors = {"s.alpha": a, **({"s.beta": b} if both else {})}
    network = built(f'{{ reshape = [2, 3] }}, {{ snake = "s", log = {str(log).lower()} }}', tensors)

    def expected(z: Tensor) -> Tensor:
        x, alpha, beta = z.reshape(-1, 2, 3), a, b if both else a
        if log:
            alpha, beta = alpha.exp(), beta.exp()
        return x + torch.sin(alpha * x) ** 2 / (beta + 1e-9)

    held_to(network, expected, 6)


def along(x: Tensor, axis: int) -> Tensor:
    """Return what a softmax makes of the numbers along an axis, by its definition."""
    return x.exp() / x.exp().sum(axis, keepdim=True)


def normal(x: Tensor) -> Tensor:
    """Return the last axis at mean 0 and, but for an eps of 0.1, variance 1."""
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt()


@pytest.mark.parametrize(
    ("layer", "d", "expected"),
    [
        ('"log1p", "exp"', 4, lambda z: z.log1p().exp()),
        ('"l2_normalise"', 4, lambda z: z / z.norm(dim=1, keepdim=True)),
        ("{ reshape = [2, 3] }, { permute = [2, 1] }", 6, lambda z: z.reshape(-1, 2, 3).mT),
        ("{ repeat = 3 }", 2, lambda z: torch.stack([z, z, z], 1)),
        ("{ reshape = [2, 2] }, { repeat_channels = 2 }", 4, lambda z: z.reshape(-1, 2, 2)[:, [0, 0, 1, 1]]),
        ("{ reshape = [1, 4] }, { pad = [2, 0] }", 4, lambda z: torch.cat([z.new_zeros(len(z), 1, 2), z[:, None]], 2)),
        ('{ reshape = [1, 4] }, { pad = [2, 0], mode = "replicate" }', 4, lambda z: z[:, None, [0, 0, 0, 1, 2, 3]]),
        ("{ reshape = [1, 2, 2] }, { resize = [4, 2] }", 4, lambda z: z.reshape(-1, 1, 2, 2)[:, :, [0, 0, 1, 1]]),
        ("{ reshape = [1, 2, 2] }, { resize = 3, mode = \"bilinear\", align_corners = true }", 4,
         lambda z: F.interpolate(z.reshape(-1, 1, 2, 2), 3, mode="bilinear", align_corners=True)),
        ("{ reshape = [1, 2, 2] }, { resize = 3, mode = \"nearest-exact\" }", 4, lambda z: z.reshape(-1, 1, 2, 2)[..., [0, 1, 1], :][..., [0, 1, 1]]),
        ("{ reshape = [1, 2, 2] }, { resize = 3 }", 4, lambda z: z.reshape(-1, 1, 2, 2)[..., [0, 0, 1], :][..., [0, 0, 1]]),
        ("{ reshape = [2, 3] }, { softmax = true, axis = 2 }", 6, lambda z: along(z.reshape(-1, 2, 3), 2)),
        ("{ reshape = [2, 3] }, { softmax = true, axis = -2 }", 6, lambda z: along(z.reshape(-1, 2, 3), 1)),
        ("{ reshape = [2, 3] }, \"softmax\"", 6, lambda z: along(z.reshape(-1, 2, 3), 1)),
        ("{ reshape = [2, 3] }, { log_softmax = true, axis = -1 }", 6, lambda z: along(z.reshape(-1, 2, 3), 2).log()),
        ("{ reshape = [2, 3] }, \"log_softmax\"", 6, lambda z: along(z.reshape(-1, 2, 3), 1).log()),
        ("{ softplus = 2, threshold = 0.5 }", 4, lambda z: torch.where(2 * z > 0.5, z, (2 * z).exp().log1p() / 2)),
        ("{ hardtanh = true, min = -0.25, max = 0.75 }", 4, lambda z: z.clamp(-0.25, 0.75)),
        ("{ scale = 9 }, \"relu6\"", 4, lambda z: (9 * z).clamp(0, 6)),
        ("{ scale = 4 }, \"hardswish\"", 4, lambda z: 4 * z * (4 * z + 3).clamp(0, 6) / 6),
        ("\"softsign\"", 4, lambda z: z / (1 + z.abs())),
        ("{ elu = true, alpha = 0.5 }", 4, lambda z: torch.where(z > 0, z, 0.5 * z.expm1())),
        ("{ reshape = [2, 3] }, { instance_norm = true, eps = 0.1 }", 6, lambda z: normal(z.reshape(-1, 2, 3))),
        ("{ reshape = [4, 2] }, { group_norm = true, groups = 2, eps = 0.1 }", 8, lambda z: normal(z.reshape(-1, 2, 4)).reshape(-1, 4, 2)),
    ],
)  # fmt: skip
def test_layers_without_weights(layer: str, d: int, expected: Any) -> None:
    if "log1p" in layer:
        layer = f'"sigmoid", {layer}'
        held_to(built(layer, {}, f"latents = {d}"), lambda z: expected(torch.sigmoid(z)), d)
    else:
        held_to(built(layer, {}, f"latents = {d}"), expected, d)


@pytest.mark.parametrize("module", [nn.Softmax(2), nn.Softmax(-1), nn.Softmax(1), nn.LogSoftmax(2), nn.LogSoftmax(-1), nn.Softplus(2.0, 0.5), nn.Hardtanh(0, 1), nn.ReLU6(), nn.Hardswish(), nn.Softsign(), nn.InstanceNorm1d(2), nn.GroupNorm(2, 4, affine=False), nn.Upsample(scale_factor=2, mode="nearest-exact")])  # fmt: skip
def test_settings_of_modules_are_kept(module: nn.Module) -> None:
    net = nn.Sequential(nn.Unflatten(1, (4, 3) if isinstance(module, nn.GroupNorm) else (2, 6)), module)
    bp, tensors = blueprint_of(Decoder(net, 12, dtype=torch.float64))
    again, z = assemble(Blueprint.from_toml(bp.to_toml()), tensors).decoder, rows(3, 12)
    assert torch.equal(again(z), net(z))


@pytest.mark.parametrize("axis", [1, 2, -1, -2])
def test_a_softmax_has_the_axes_of_its_input(axis: int) -> None:
    layers = f"{{ reshape = [2, 3] }}, {{ softmax = true, axis = {axis} }}"
    y = built(layers, {}, "latents = 6").decoder(rows(3, 6))
    assert torch.allclose(y.sum(axis if axis > 0 else axis + 3), torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize("axis", [3, -3])
def test_a_softmax_along_no_axis_of_its_input_says_which_there_are(axis: int) -> None:
    with pytest.raises(BlueprintError) as caught:
        built(f"{{ reshape = [2, 3] }}, {{ softmax = true, axis = {axis} }}", {}, "latents = 6")
    assert f"there is no axis {axis} in an input of shape (2, 3)" in caught.value.message
    assert "from 1, the channels, to 2, or from -1, the last, to -2" in (caught.value.hint or "")


@pytest.mark.parametrize("axis", ["0", "true", "1.0", '"last"'])
def test_an_axis_is_no_batch_and_no_word(axis: str) -> None:
    with pytest.raises(BlueprintError, match="`axis` must be an axis after the batch: 1 for channels"):
        Blueprint.from_toml(f"[decoder]\nlayers = [{{ softmax = true, axis = {axis} }}]")


@pytest.mark.parametrize("axis", [1, 2])
def test_classes_along_the_axis_of_the_softmax_have_their_logits(axis: int) -> None:
    """The metric of a categorical likelihood on logits and on probabilities is one: J' (diag p - p p') J."""
    layers = f"{{ reshape = [2, 3] }}, {{ softmax = true, axis = {axis} }}"
    network = built(layers, {}, 'latents = 6\nlikelihood = "categorical"')
    decoder = Decoder(
        network.decoder, 6, dtype=torch.float64, natural=network.natural, likelihood="categorical"
    )
    assert decoder.class_axis == axis
    z = rows(4, 6)
    result = vaeprobe.orthogonality(decoder, latents=z, likelihood="categorical", rotations=9)
    p, number = along(z.reshape(-1, 2, 3), axis).flatten(1), torch.arange(6)
    other = number % 3 if axis == 1 else number // 3  # the position that a number belongs to
    G = torch.diag_embed(p) - p[:, :, None] * p[:, None, :] * (other[:, None] == other)
    n = G.diagonal(dim1=1, dim2=2).sqrt()
    C = (G / n[:, :, None] / n[:, None, :]).abs()
    off = C.sum((1, 2)) - 6
    assert float(off.mean() / 30) == pytest.approx(result["orthogonality.mean_abs_cosine"].value)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ('{ reshape = [1, 2, 2] }, { upsample = 2, align_corners = true }', 'mode "nearest" has no corners to align'),
        ("{ hardtanh = true, min = 1 }", "nothing is between a `min` of 1 and a `max` of 1"),
        ("{ instance_norm = true }", "takes channels of two places or more, and its input has shape (4,)"),
        ("{ reshape = [4, 1] }, { instance_norm = true }", "takes channels of two places or more"),
        ('{ reshape = [2, 2, 1, 1, 1] }, { batch_norm = "a" }', "takes channels, and up to three more axes"),
        ('{ batch_norm = "b" }', "`b.weight` of shape () takes 1 channels"),
        ("{ group_norm = true, groups = 3 }", "4 channels do not make 3 groups"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_say_why(layers: str, message: str) -> None:
    tensors = {f"a.{name}": torch.ones(2) for name in ("running_mean", "running_var")}
    tensors |= {f"b.{name}": torch.tensor(1.0) for name in ("weight", "running_mean", "running_var")}
    with pytest.raises(BlueprintError) as caught:
        built(layers, tensors, "latents = 4")
    assert message in caught.value.message


def test_instances_of_one_place_have_the_moments_of_the_file() -> None:
    mean, variance = rows(4), rows(4).square() + 0.1
    network = built(
        '{ reshape = [4, 1] }, { instance_norm = "a" }, { flatten = true }',
        {"a.running_mean": mean, "a.running_var": variance},
        "latents = 4",
    )
    held_to(network, lambda z: (z - mean) / (variance + 1e-5).sqrt(), 4)


# -- what a decoder is held at ------------------------------------------------------------------------------

LABEL = "latents = 2\n[condition.label]\nonehot = 3\n"


@pytest.mark.parametrize("value", [0, 2])
def test_a_one_hot_condition_is_appended(value: int) -> None:
    W = rows(4, 5)
    network = built('{ concat = "label" }, { linear = "W" }', {"W.weight": W}, f"{LABEL}value = {value}")
    held_to(network, lambda z: z @ W[:, :2].T + W[:, 2 + value], 2)
    assert network.latent_dim == 2


def test_an_embedding_and_a_number() -> None:
    E, W = rows(3, 5), rows(4, 7)
    head = 'latents = 2\n[condition.label]\nembedding = "emb"\nvalue = 1\n[condition.size]\nnumber = 2.5'
    network = built(
        '{ concat = "label" }, { linear = "W" }, { multiply = "size" }',
        {"emb.weight": E, "W.weight": W},
        head,
    )
    held_to(network, lambda z: 2.5 * (z @ W[:, :2].T + W[:, 2:] @ E[1]), 2)
    assert network.notes == ()


def test_a_condition_on_maps_is_added_and_appended_at_each_place() -> None:
    E = rows(3, 2)
    head = 'latents = 8\n[condition.label]\nembedding = "emb"\nvalue = 2'
    both = built('{ reshape = [2, 2, 2] }, { add = "label" }, { concat = "label" }', {"emb.weight": E}, head)

    def expected(z: Tensor) -> Tensor:
        x = z.reshape(-1, 2, 2, 2) + E[2][:, None, None]
        return torch.cat([x, E[2][:, None, None].expand(len(x), 2, 2, 2)], 1)

    held_to(both, expected, 8)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('[decoder]\nlayers = [{ concat = "lable" }]\n[condition.label]\nonehot = 3', "names no condition", "did you mean `label`"),
        ("[condition.label]\nonehot = 1", "must be a number of classes", None),
        ("[condition.label]\nonehot = 3\nvalue = 3", "must be a class, counted from 0", None),
        ("[condition.label]\nvalue = 3", "must be one of onehot, embedding, number", "onehot = 10"),
        ("[condition.label]\nonehot = 3\nnumber = 1", "must be one of", None),
    ],
)  # fmt: skip
def test_a_malformed_condition_says_where(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(BlueprintError) as caught:
        Blueprint.from_toml(text)
    assert message in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")


def test_every_kind_can_be_written_and_read() -> None:
    for name, kind in KINDS.items():
        if kind.bare:
            bp = Blueprint.from_toml(f'[decoder]\nlayers = ["{name}"]')
            assert Blueprint.from_toml(bp.to_toml()) == bp


# -- layers side by side ------------------------------------------------------------------------------------

HEADS = {
    "fc.weight": rows(5, 3),
    "fc.bias": rows(5),
    "heads.a.weight": rows(4, 5),
    "heads.b.weight": rows(4, 5) + 1,
    "heads.c.weight": rows(2, 5),
}


@pytest.mark.parametrize(
    ("branches", "join", "expected"),
    [
        ("ac", "concat", lambda h, a, b, c: torch.cat([torch.sigmoid(a), torch.softmax(c, 1)], 1)),
        ("ab", "stack", lambda h, a, b, c: torch.stack([torch.sigmoid(a), torch.softmax(b, 1)], 1)),
        ("ab", "add", lambda h, a, b, c: torch.sigmoid(a) + torch.softmax(b, 1)),
        ("ab", "multiply", lambda h, a, b, c: torch.sigmoid(a) * torch.softmax(b, 1)),
    ],
)
def test_layers_side_by_side_are_joined(branches: str, join: str, expected: Any) -> None:
    first, second = branches
    how = f', join = "{join}"' if join != "concat" else ""
    network = built(
        f'{{ linear = "fc" }}, "tanh", {{ parallel = [[{{ linear = "{first}" }}, "sigmoid"], [{{ linear = "{second}" }}, "softmax"]]'
        f'{how}, prefix = "heads." }}',
        HEADS,
    )

    def by_hand(z: Tensor) -> Any:
        h = torch.tanh(z @ HEADS["fc.weight"].T + HEADS["fc.bias"])
        return expected(h, *(h @ HEADS[f"heads.{k}.weight"].T for k in "abc"))

    held_to(network, by_hand, 3)


def test_branches_with_names_are_outputs_of_which_the_first_is_probed(tmp_path: Any) -> None:
    import vaeprobe

    text = (
        'latents = 3\n[decoder]\nlayers = [{ linear = "fc" }, "tanh", { parallel = '
        '{ mean = [{ linear = "a" }, "sigmoid"], log_variance = [{ linear = "c" }] }, prefix = "heads." }]'
    )
    (tmp_path / "m.toml").write_text(text)
    torch.save({k: t.double() for k, t in HEADS.items()}, tmp_path / "m.pt")
    z = rows(4, 3)
    h = torch.tanh(z @ HEADS["fc.weight"].T + HEADS["fc.bias"])
    decoder = vaeprobe.load(tmp_path / "m.pt")
    assert decoder.returns == ("mean", "log_variance")
    assert torch.allclose(decoder(z), torch.sigmoid(h @ HEADS["heads.a.weight"].T))
    assert "output-chosen" not in {n.code for n in decoder.notes}
    spread = vaeprobe.load(tmp_path / "m.pt", output="log_variance")
    assert torch.allclose(spread(z), h @ HEADS["heads.c.weight"].T)
    # what is converted says the same
    write(decoder, tmp_path / "m.safetensors")
    again = vaeprobe.load(tmp_path / "m.safetensors")
    assert again.returns == decoder.returns
    assert torch.allclose(again(z), decoder(z))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("{ parallel = [[\"relu\"]] }", "two lists of layers or more"),
        ('{ parallel = [["relu"], "relu"] }', "two lists of layers or more"),
        ('{ parallel = { a = ["relu"], b = ["tanh"] }, join = "add" }', "joins nothing"),
        ('{ parallel = { "a.b" = ["relu"], b = ["tanh"] } }', "cannot call a branch `a.b`"),
        ('{ parallel = [["relu"], ["tanh"]], join = "sum" }', "`join` must be one of concat"),
        ('"parallel"', "`parallel` alone says too little"),
    ],
)  # fmt: skip
def test_malformed_branches_say_why(layer: str, message: str) -> None:
    with pytest.raises(BlueprintError, match=message):
        Blueprint.from_toml(f"latents = 3\n[decoder]\nlayers = [{layer}]")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ('{ parallel = [[{ linear = "a" }], [{ linear = "c" }]], join = "add", prefix = "heads." }', "must agree"),
        ('{ parallel = { a = [{ linear = "a" }], c = [{ linear = "c" }] }, prefix = "heads." }, "relu"', "at the end of the decoder"),
        ('{ parallel = [[{ reshape = [1, 5] }], [{ linear = "c" }]], prefix = "heads." }', "do not join along channels"),
        ('{ parallel = [[{ linear = "none" }], [{ linear = "c" }]], prefix = "heads." }', "heads.none.weight"),
    ],
)  # fmt: skip
def test_branches_that_do_not_fit_say_where(layers: str, message: str) -> None:
    with pytest.raises(BlueprintError, match=message):
        built(f'{{ linear = "fc" }}, {layers}', HEADS)
