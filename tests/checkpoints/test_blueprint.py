"""Blueprints: TOML there and back, networks against ones written by hand, and what wrong ones are told."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from vaeprobe.checkpoints import blueprint as module
from vaeprobe.checkpoints.blueprint import KINDS, Blueprint, BlueprintError, EncoderPlan, Layer, reading
from vaeprobe.checkpoints.network.assemble import assemble
from vaeprobe.checkpoints.network.describe import describe
from vaeprobe.checkpoints.network.modules import Residual
from vaeprobe.decoder import Decoder, Group
from vaeprobe.errors import ArchitectureError, ResourceError

EXAMPLES = re.findall(r"```toml\n(.*?)```", module.__doc__ or "", re.DOTALL)


def conv_vae() -> tuple[nn.Sequential, nn.Sequential, dict[str, Tensor]]:
    """Return a decoder and an encoder written by hand, and their tensors: the second example of the docstring."""
    torch.manual_seed(0)
    decoder = nn.Sequential(
        OrderedDict(
            lin1=nn.Linear(10, 16), a=nn.ReLU(), lin2=nn.Linear(16, 512), b=nn.ReLU(), view=nn.Unflatten(1, (32, 4, 4)),
            convT1=nn.ConvTranspose2d(32, 8, 4, 2, 1), c=nn.ReLU(), convT2=nn.ConvTranspose2d(8, 1, 4, 2, 1), d=nn.Sigmoid(),
        )
    )  # fmt: skip
    encoder = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 8, 4, 2, 1), a=nn.ReLU(), conv2=nn.Conv2d(8, 16, 4, 2, 1), b=nn.ReLU(), flat=nn.Flatten(),
            mu_logvar=nn.Linear(256, 20),
        )
    )  # fmt: skip
    state = {f"decoder.{k}": v for k, v in decoder.state_dict().items()}
    state |= {f"encoder.{k}": v for k, v in encoder.state_dict().items()}
    return decoder, encoder, state


# -- TOML ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_documented_examples_say_what_they_write(text: str) -> None:
    bp = Blueprint.from_toml(text)
    assert Blueprint.from_toml(bp.to_toml()) == bp
    assert Blueprint.from_metadata(bp.to_metadata()) == bp


def test_the_examples_are_five() -> None:
    assert len(EXAMPLES) == 5


def test_the_page_names_every_layer_and_every_setting() -> None:
    page = " ".join((module.__doc__ or "").split())
    for name, kind in KINDS.items():
        assert f"`{name}`" in page
        assert all(f"`{option}`" in page for option in kind.options), name


def test_no_metadata_is_no_blueprint() -> None:
    assert Blueprint.from_metadata({"format": "pt"}) is None


KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LEAVES = st.one_of(
    st.builds(lambda kind, key: Layer(kind, key), st.sampled_from(["linear", "batch_norm", "layer_norm", "prelu"]), KEYS),
    st.builds(
        lambda kind, key, stride, padding: Layer(kind, key).with_options(stride=stride, padding=padding),
        st.sampled_from(["conv", "conv_transpose"]), KEYS, st.integers(1, 4), st.one_of(st.integers(0, 3), st.just([1, 2])),
    ),
    st.sampled_from([Layer(k) for k, v in KINDS.items() if v.bare]),
    st.builds(lambda slope: Layer("leaky_relu").with_options(slope=slope), st.floats(-1, 1, allow_nan=False)),
    st.builds(lambda shape: Layer("reshape", options={"shape": shape}), st.lists(st.integers(1, 64), min_size=1, max_size=3)),
)  # fmt: skip
LAYERS = st.recursive(
    LEAVES,
    lambda inner: st.builds(
        lambda body, skip, prefix: Layer("residual", body=tuple(body), skip=tuple(skip), prefix=prefix),
        st.lists(inner, min_size=1, max_size=3), st.lists(inner, max_size=2), KEYS,
    ),
    max_leaves=6,
)  # fmt: skip


@given(
    layers=st.lists(LAYERS, min_size=1, max_size=6),
    latents=st.lists(st.tuples(st.sampled_from(["normal", "onehot"]), st.integers(1, 40)), max_size=3),
    likelihood=st.sampled_from([None, "gaussian", "bernoulli", "poisson"]),
    parameter=st.sampled_from(["mean", "natural"]),
    texts=st.tuples(KEYS, KEYS, KEYS),
    encoder=st.booleans(),
)
def test_law_toml_gives_the_blueprint_back(
    layers: list[Layer], latents: Any, likelihood: Any, parameter: Any, texts: Any, encoder: bool
) -> None:
    plan = (
        EncoderPlan(layers=tuple(layers), input=(1, 4, 4), output="chunked", prefix=texts[1])
        if encoder
        else None
    )
    bp = Blueprint(
        layers=tuple(layers), latents=tuple(latents), likelihood=likelihood, parameter=parameter, prefix=texts[0],
        encoder=plan, name=texts[2], assumptions=(texts[1],),
    )  # fmt: skip
    assert Blueprint.from_toml(bp.to_toml()) == bp


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("latents = ", "is no TOML", "latents = 20"),
        ("latent = 3", "no setting `latent`", "did you mean `latents`"),
        ("latents = 0", "`latents` cannot be 0", "latents = 10"),
        ("latents = [{ one_hot = 3 }]", "cannot hold", "did you mean `onehot`"),
        ('likelihood = "bernouli"', "cannot be `bernouli`", "did you mean `bernoulli`"),
        ('parameter = "logits"', "cannot be `logits`", "natural"),
        ("[decoder]\nlayers = []", "has no `layers`", "linear"),
        ('[decoder]\nlayers = ["rleu"]', "layer 1 of the decoder: no layer is called `rleu`", "did you mean `relu`"),
        ('[decoder]\nlayers = ["relu", "linear"]', "layer 2 of the decoder: `linear` alone", '{ linear = "NAME" }'),
        ('[decoder]\nlayers = [{ conv = "a", strid = 2 }]', "(`conv`) has no setting `strid`", "did you mean `stride`"),
        ('[decoder]\nlayers = [{ conv = "a", stride = 0 }]', "`stride` must be a positive whole number", None),
        ('[decoder]\nlayers = [{ linear = "a", stride = 2 }]', "(`linear`) has no setting `stride`", "it takes none"),
        ('[decoder]\nlayers = [{ linear = 3 }]', "takes the name of its tensors, not 3", None),
        ('[decoder]\nlayers = [{ group_norm = "a" }]', "needs `groups`", None),
        ("[decoder]\nlayers = [{ reshape = [4, -1] }]", "must be a list of positive whole numbers", None),
        ('[decoder]\nlayers = [{ linear = "a", conv = "b" }]', "`linear` and `conv` at once", None),
        ('[decoder]\nlayers = ["relu"]\n[encoder]\nlayers = ["relu"]', "needs `input`", "[1, 28, 28]"),
        ('[decoder]\nlayers = ["relu"]\n[encoder]\ninput = [4]\nlayers = ["relu"]', "does not say where", "chunked"),
        ('[decoder]\nlayers = ["relu"]\n[encoder]\ninput = [4]\nmean = ["relu"]', "two heads are", "interleaved"),
        ("decoder = 3", "`decoder` must be a table", "[decoder]"),
    ],
)  # fmt: skip
def test_a_malformed_blueprint_says_where(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(BlueprintError) as caught:
        Blueprint.from_toml(text, "my.toml")
    assert message in caught.value.message
    assert "`my.toml`" in caught.value.message
    assert caught.value.exit_code == 2
    if hint is not None:
        assert hint in (caught.value.hint or "")


def test_a_hostile_blueprint_is_an_error_and_no_hang() -> None:
    for text in ("a = " + "[" * 100_000, "x" * (2 << 20), "[decoder]\nlayers = " + "[{residual=" * 400):
        with pytest.raises(BlueprintError):
            Blueprint.from_toml(text)


# -- networks -------------------------------------------------------------------------------------------


def test_a_blueprint_of_thousands_of_layers_is_a_limit() -> None:
    """Each layer is harmless; building and running them all is not."""
    most = reading.MOST_LAYERS
    text = "latents = 2\n[decoder]\nlayers = [{{ residual = [{}] }}]\n"
    assert len(Blueprint.from_toml(text.format('"tanh", ' * (most - 1))).layers[0].inner) == most - 1
    with pytest.raises(ResourceError, match=f"{most + 1:,} layers"):
        Blueprint.from_toml(text.format('"tanh", ' * most))


def test_conv_vae_equals_the_one_written_by_hand() -> None:
    decoder, encoder, state = conv_vae()
    parts = assemble(Blueprint.from_toml(EXAMPLES[1]), state)
    z, x = torch.randn(5, 10), torch.rand(5, 1, 16, 16)
    assert torch.equal(parts.decoder(z), decoder(z))
    assert parts.natural is not None
    assert torch.equal(parts.natural(z), decoder[:-1](z))
    assert parts.encoder is not None
    mean, log_variance = parts.encoder(x)
    h = encoder(x).view(5, 10, 2)
    assert torch.equal(mean, h[..., 0])
    assert torch.equal(log_variance, h[..., 1])
    assert (parts.latent_dim, parts.prior, parts.likelihood) == (10, (Group("normal", 10),), "bernoulli")
    assert parts.notes == ()


def test_weights_are_not_copied() -> None:
    _, _, state = conv_vae()
    parts = assemble(Blueprint.from_toml(EXAMPLES[1]), state)
    theirs = {t.data_ptr() for t in state.values()}
    assert isinstance(parts.decoder, nn.Module)
    assert all(p.data_ptr() in theirs for p in parts.decoder.parameters())


def every_layer() -> nn.Sequential:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Linear(5, 64), nn.LayerNorm(64), nn.PReLU(), nn.Unflatten(1, (16, 2, 2)), nn.Conv2d(16, 16, 3, padding=1, groups=4),
        nn.GroupNorm(4, 16), nn.SiLU(), nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2, mode="bilinear"), nn.BatchNorm2d(16),
        nn.InstanceNorm2d(16, affine=True), nn.Conv2d(16, 16, 3, padding="same", padding_mode="reflect"), nn.PixelShuffle(2), nn.CELU(0.5),
        nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), nn.GELU("tanh"), nn.Dropout(0.3), nn.Mish(), nn.Softplus(2.0), nn.Tanh(), nn.SELU(),
        nn.Flatten(), nn.Linear(6 * 32 * 32, 24, bias=False), nn.ELU(0.5), nn.Unflatten(1, (4, 6)), nn.Conv1d(4, 8, 3, padding=1),
        nn.LeakyReLU(0.2), nn.BatchNorm1d(8), nn.ConvTranspose1d(8, 2, 4, 2, 1), nn.Identity(), nn.Hardtanh(),
        Residual(nn.Sequential(nn.Conv1d(2, 3, 1)), nn.Sequential(nn.Conv1d(2, 3, 1))), Residual(nn.Sequential(nn.ReLU()), nn.Identity()),
        nn.Sigmoid(),
    )  # fmt: skip
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
                m.running_mean = torch.randn_like(m.running_mean)  # type: ignore[arg-type]
                m.running_var = torch.rand_like(m.running_var) + 0.5  # type: ignore[arg-type]
    return net.eval()


def test_every_layer_described_written_read_and_assembled_is_itself() -> None:
    net = every_layer()
    layers, tensors = describe(net, "net.")
    bp = Blueprint.from_toml(Blueprint(layers=layers, prefix="net.").to_toml())
    z = torch.randn(3, 5)
    assert torch.equal(assemble(bp, tensors).decoder(z), net(z))
    assert {layer.kind for layer in layers} >= {k for k, v in KINDS.items() if v.main == "key"} - {
        *("attention", "snake", "gru", "lstm")
    }


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ('{ sine = 30.0 }', lambda x: torch.sin(30 * x)),
        ('"exp"', torch.exp),
        ('"softmax"', lambda x: torch.softmax(x, 1)),
        ("{ scale = 3 }", lambda x: 3 * x),
        ("{ shift = -0.5 }", lambda x: x - 0.5),
        ("{ clamp = [-0.5, 0.5] }", lambda x: x.clamp(-0.5, 0.5)),
        ("{ slice = [1, 3] }", lambda x: x[:, 1:3]),
        ('{ dropout = 0.9 }', lambda x: x),
        ('{ leaky_relu = 0.3 }', lambda x: torch.nn.functional.leaky_relu(x, 0.3)),
    ],
)  # fmt: skip
def test_layers_without_weights(layer: str, expected: Any) -> None:
    W = torch.randn(4, 3)
    bp = Blueprint.from_toml(f'[decoder]\nlayers = [{{ linear = "W" }}, {layer}]')
    z = torch.randn(6, 3)
    assert torch.allclose(assemble(bp, {"W.weight": W}).decoder(z), expected(z @ W.T))


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("pad", [False, True])
def test_pooling_at_the_edges(ceil: bool, pad: bool) -> None:
    x, words = torch.randn(2, 25), {False: "false", True: "true"}
    means = f"{{ avg_pool = 2, padding = 1, ceil_mode = {words[ceil]}, count_include_pad = {words[pad]} }}"
    for layer, expected in (
        (means, nn.AvgPool2d(2, padding=1, ceil_mode=ceil, count_include_pad=pad)),
        (f"{{ max_pool = 2, ceil_mode = {words[ceil]} }}", nn.MaxPool2d(2, ceil_mode=ceil)),
    ):
        bp = Blueprint.from_toml(f"[decoder]\nlayers = [{{ reshape = [1, 5, 5] }}, {layer}]")
        assert Blueprint.from_toml(bp.to_toml()) == bp
        assert torch.equal(assemble(bp, {}).decoder(x), expected(x.view(2, 1, 5, 5)))


def test_pooling() -> None:
    x = torch.randn(2, 16)
    for name, expected in (("avg_pool", nn.AvgPool2d(2)), ("max_pool", nn.MaxPool2d(2))):
        bp = Blueprint.from_toml(f"[decoder]\nlayers = [{{ reshape = [1, 4, 4] }}, {{ {name} = 2 }}]")
        assert torch.equal(assemble(bp, {}).decoder(x), expected(x.view(2, 1, 4, 4)))


@pytest.mark.parametrize(
    "wrap", ["weight_norm", "parametrized weight_norm", "spectral_norm", "parametrized spectral_norm"]
)
@pytest.mark.parametrize("kind", ["linear", "conv_transpose"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weight_and_spectral_normalisation_are_folded_in(wrap: str, kind: str) -> None:
    torch.manual_seed(0)
    new = {
        "weight_norm": nn.utils.weight_norm, "parametrized weight_norm": nn.utils.parametrizations.weight_norm,
        "spectral_norm": nn.utils.spectral_norm, "parametrized spectral_norm": nn.utils.parametrizations.spectral_norm,
    }[wrap]  # fmt: skip
    layer = new(nn.Linear(6, 4) if kind == "linear" else nn.ConvTranspose2d(6, 4, 3))
    z = torch.randn(3, 6)
    x = z if kind == "linear" else z[:, :, None, None]
    layer(x)  # one power iteration
    layer.eval()
    reshape = "" if kind == "linear" else "{ reshape = [6, 1, 1] }, "
    bp = Blueprint.from_toml(f'latents = 6\n[decoder]\nlayers = [{reshape}{{ {kind} = "l" }}]')
    parts = assemble(bp, {f"l.{k}": v for k, v in layer.state_dict().items()})
    assert torch.allclose(parts.decoder(z), layer(x), atol=1e-6)
    assert parts.notes == ()


def test_one_matrix_with_an_empty_name() -> None:
    W = torch.randn(7, 3)
    parts = assemble(Blueprint.from_toml('[decoder]\nlayers = [{ linear = "" }]'), {"weight": W})
    assert torch.equal(parts.decoder(torch.eye(3)), W.T)


@pytest.mark.parametrize(
    ("likelihood", "parameter", "last", "natural"),
    [
        ("bernoulli", "mean", "sigmoid", True),
        (None, "mean", "sigmoid", True),
        ("gaussian", "mean", "sigmoid", False),
        ("poisson", "mean", "sigmoid", False),
        ("poisson", "mean", "exp", True),
        ("poisson", "mean", "softplus", False),
        ("bernoulli", "natural", "identity", False),
        (None, "mean", "tanh", False),
    ],
)
def test_the_natural_parameter_is_what_the_last_activation_takes(
    likelihood: str | None, parameter: str, last: str, natural: bool
) -> None:
    said = f'likelihood = "{likelihood}"\n' if likelihood else ""
    bp = Blueprint.from_toml(
        f'{said}parameter = "{parameter}"\n[decoder]\nlayers = [{{ linear = "W" }}, "{last}", "flatten"]'
    )
    parts = assemble(bp, {"W.weight": torch.randn(4, 3)})
    assert (parts.natural is not None) is natural


@pytest.mark.parametrize(
    "second", ["log_variance", "log_sd", "variance", "sd", "softplus_variance", "softplus_sd"]
)
@pytest.mark.parametrize("output", ["interleaved", "chunked"])
def test_encoder_layouts(second: str, output: str) -> None:
    torch.manual_seed(0)
    W, x = torch.rand(6, 5), torch.rand(4, 5)
    bp = Blueprint.from_toml(
        f'[decoder]\nlayers = [{{ linear = "D" }}]\n[encoder]\ninput = [5]\nlayers = [{{ linear = "E" }}]\n'
        f'output = "{output}"\nsecond = "{second}"'
    )
    encoder = assemble(bp, {"D.weight": torch.randn(5, 3), "E.weight": W}).encoder
    assert encoder is not None
    mean, log_variance = encoder(x)
    h = x @ W.T
    first, raw = (h[:, :3], h[:, 3:]) if output == "chunked" else (h[:, ::2], h[:, 1::2])
    positive = torch.nn.functional.softplus(raw) if second.startswith("softplus") else raw
    variance = {
        "log_variance": raw.exp(), "log_sd": (2 * raw).exp(), "variance": raw, "sd": raw**2,
        "softplus_variance": positive, "softplus_sd": positive**2,
    }[second]  # fmt: skip
    assert torch.allclose(mean, first)
    assert torch.allclose(log_variance.exp(), variance)


def test_encoder_heads_and_a_one_hot_prior() -> None:
    state = {"D.weight": torch.randn(5, 7), "m.weight": torch.randn(3, 5), "v.weight": torch.rand(3, 5)}
    bp = Blueprint.from_toml(
        'latents = [{ normal = 3 }, { onehot = 4 }]\n[decoder]\nlayers = [{ linear = "D" }]\n'
        '[encoder]\ninput = [5]\nlayers = []\nmean = [{ linear = "m" }]\nsd = [{ linear = "v" }, "softplus"]'
    )
    parts = assemble(bp, state)
    assert parts.prior == (Group("normal", 3), Group("onehot", 4))
    assert parts.latent_dim == 7
    assert parts.encoder is not None
    x = torch.rand(2, 5)
    mean, log_variance = parts.encoder(x)
    assert torch.allclose(mean, x @ state["m.weight"].T)
    assert torch.allclose((0.5 * log_variance).exp(), torch.nn.functional.softplus(x @ state["v.weight"].T))


def test_half_precision_is_cast_up_and_said() -> None:
    parts = assemble(
        Blueprint.from_toml('[decoder]\nlayers = [{ linear = "W" }]'), {"W.weight": torch.ones(3, 2).half()}
    )
    assert parts.decoder(torch.ones(1, 2)).dtype == torch.float32
    assert [n.code for n in parts.notes] == ["cast-up"]


def test_float64_stays() -> None:
    parts = assemble(
        Blueprint.from_toml('[decoder]\nlayers = [{ linear = "W" }]'), {"W.weight": torch.ones(3, 2).double()}
    )
    assert Decoder(parts.decoder, 2).dtype == torch.float64


def test_unused_tensors_are_named() -> None:
    _, _, state = conv_vae()
    parts = assemble(
        Blueprint.from_toml(EXAMPLES[1]),
        {**state, "classifier.0.weight": torch.zeros(3), "step": torch.zeros(1)},
    )
    (note,) = parts.notes
    assert "2 of 16 tensors have no place in blueprint: `classifier`, `step`" in note.message


def test_a_draft_is_reported() -> None:
    bp = Blueprint.from_toml('assumptions = ["relu everywhere"]\n[decoder]\nlayers = [{ linear = "W" }]')
    (note,) = assemble(bp, {"W.weight": torch.ones(3, 2)}).notes
    assert (note.code, note.level) == ("draft-blueprint", "warning")
    assert "relu everywhere" in note.message


# -- what wrong blueprints are told -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("latents = 10", "latents = 8", "layer 1 of the decoder, `{ linear = \"lin1\" }`: `decoder.lin1.weight` of shape (16, 10) takes 10 numbers, and its input has shape (8,)", "write latents = 10, not 8"),
        ("    { reshape = [32, 4, 4] },\n", "", "`decoder.convT1.weight` of shape (32, 8, 4, 4) takes 32 channels and 2 more axes, and its input has shape (512,)", "put { reshape = [32, 4, 4] } before it"),
        ("reshape = [32, 4, 4]", "reshape = [32, 4, 5]", "cannot make (32, 4, 5), 640 numbers, of (512,), 512", None),
        ('    "flatten",\n', "", "layer 5 of the encoder, `{ linear = \"mu_logvar\" }`: `encoder.mu_logvar.weight` of shape (20, 256) takes 256 numbers, and its input has shape (16, 4, 4)", 'put "flatten" before it'),
        ('"convT2", stride = 2', '"convT2", stride = 1', "the decoder returns shape (1, 9, 9), and the encoder takes (1, 16, 16)", 'write { conv_transpose = "convT2", stride = 2, padding = 1 } for layer 8'),
        ('"conv2", stride = 2', '"conv2", stride = 1', "takes 256 numbers, and its input has shape (784,)", 'write { conv = "conv2", stride = 2, padding = 1 } for layer 3'),
        ('{ conv = "conv2"', '{ conv_transpose = "conv2"', "takes 16 channels and 2 more axes, and its input has shape (8, 8, 8)", 'write { conv = "conv2", stride = 2, padding = 1 } for layer 3'),
        ('"convT2"', '"convt2"', "asks for the tensor `decoder.convt2.weight`, which the file does not hold", "did you mean `decoder.convT2.weight`"),
        ('prefix = "decoder."', 'prefix = "dec."', "asks for the tensor `dec.lin1.weight`", "did you mean `decoder.lin1.weight`"),
        ("input = [1, 16, 16]", "input = [1, 12, 12]", "takes 256 numbers, and its input has shape (144,)", "write input = [1, 16, 16], as the decoder returns"),
        ('{ linear = "lin2" }', '{ conv = "lin2" }', "has shape (512, 16), and a convolution's has three to five axes", "is it a linear layer?"),
        ('{ conv_transpose = "convT1", stride = 2, padding = 1 }', '{ linear = "convT1" }', "has shape (32, 8, 4, 4), and a linear layer's has two axes", "is it conv or conv_transpose?"),
        ("{ linear = \"mu_logvar\" },", "{ linear = \"mu_logvar\" }, { slice = [0, 18] },", "the encoder returns 18 numbers, and 10 normal latents need 20", None),
    ],
)  # fmt: skip
def test_a_wrong_blueprint_names_the_layer_both_shapes_and_the_nearest_fix(
    old: str, new: str, message: str, hint: str | None
) -> None:
    _, _, state = conv_vae()
    text = EXAMPLES[1].replace(old, new)
    assert text != EXAMPLES[1]
    with pytest.raises(BlueprintError) as caught:
        assemble(Blueprint.from_toml(text, "my.toml"), state)
    assert message in caught.value.message
    assert "`my.toml`" in caught.value.message
    assert caught.value.exit_code == 2
    if hint is not None:
        assert hint in (caught.value.hint or "")


def test_the_repairs_offered_do_repair() -> None:
    _, _, state = conv_vae()
    for old, new in (
        ('"convT2", stride = 2, padding = 1', '"convT2", stride = 3'),
        ('"conv1", stride = 2', '"conv1", stride = 3'),
    ):
        with pytest.raises(BlueprintError) as caught:
            assemble(Blueprint.from_toml(EXAMPLES[1].replace(old, new)), state)
        written = re.search(r"write (\{.*?\}) for layer (\d+), `(.*)`", caught.value.hint or "")
        assert written is not None
        assemble(Blueprint.from_toml(EXAMPLES[1].replace(old, new).replace(written[3], written[1])), state)


def test_residual_blocks_say_where_they_break() -> None:
    bp = Blueprint.from_toml('[decoder]\nlayers = [{ linear = "a" }, { residual = [{ linear = "b" }] }]')
    with pytest.raises(
        BlueprintError, match=r"layer 2 of the decoder.*return shape \(5,\), and its input has \(4,\)"
    ):
        assemble(bp, {"a.weight": torch.randn(4, 3), "b.weight": torch.randn(5, 4)})
    with pytest.raises(BlueprintError, match=r"layer 1 of the decoder's residual block.*takes 7 numbers"):
        assemble(bp, {"a.weight": torch.randn(4, 3), "b.weight": torch.randn(5, 7)})


def test_no_number_of_latents() -> None:
    with pytest.raises(BlueprintError, match="does not say how many latents") as caught:
        assemble(
            Blueprint.from_toml('[decoder]\nlayers = ["flatten", { linear = "W" }]'),
            {"W.weight": torch.ones(3, 2)},
        )
    assert "latents = 10" in (caught.value.hint or "")


def test_a_blueprint_without_layers_is_for_programs() -> None:
    with pytest.raises(BlueprintError, match="no decoder layers"):
        assemble(Blueprint.from_toml("latents = 3"), {"W.weight": torch.ones(3, 2)})


def test_absurd_sizes_are_refused_before_memory_is_asked_for() -> None:
    bp = Blueprint.from_toml("[decoder]\nlayers = [{ reshape = [1, 1, 2] }, { upsample = 100000 }]")
    with pytest.raises(ResourceError, match="activation of shape"):
        assemble(bp, {})


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_tensors_that_are_no_weights(dtype: torch.dtype) -> None:
    with pytest.raises(ArchitectureError, match="weights must be real numbers"):
        assemble(
            Blueprint.from_toml('[decoder]\nlayers = [{ linear = "W" }]'),
            {"W.weight": torch.ones(3, 2).to(dtype)},
        )


def test_bias_of_another_layer() -> None:
    state = {"W.weight": torch.ones(3, 2), "W.bias": torch.ones(4)}
    with pytest.raises(BlueprintError, match=r"do not fit one another: weight \(3, 2\), bias \(4,\)"):
        assemble(Blueprint.from_toml('[decoder]\nlayers = [{ linear = "W" }]'), state)


def test_describe_refuses_what_a_blueprint_cannot_say() -> None:
    with pytest.raises(BlueprintError, match="no layer for `LSTM`"):
        describe(nn.Sequential(nn.LSTM(3, 3)))


def test_describe_refuses_settings_that_a_blueprint_cannot_say() -> None:
    with pytest.raises(BlueprintError, match="no layer for `Upsample` with these settings"):
        describe(nn.Sequential(nn.Upsample(scale_factor=2, mode="area")))


def test_reading_blueprints_presets_and_drafts_imports_no_torch() -> None:
    code = (
        "import sys; from vaeprobe.checkpoints import blueprint, families, draft; "
        "blueprint.Blueprint.from_toml('latents = 3').to_toml(); families.every(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
