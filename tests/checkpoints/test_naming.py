"""Names of tensors as the plain network has them: wrappers, averages over training, split weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import vaeprobe
from vaeprobe.checkpoints.blueprint import Blueprint
from vaeprobe.checkpoints.naming import chosen_set, folded, joined, plain
from vaeprobe.checkpoints.network.assemble import assemble
from vaeprobe.errors import ArchitectureError, BlueprintError, UsageError

NAMES = ("encoder.0.weight", "decoder.0.weight", "decoder.0.bias", "decoder.2.weight")


@pytest.mark.parametrize(
    ("wrapped", "name"),
    [
        ("decoder._orig_mod.0.weight", "decoder.0.weight"),
        ("_orig_mod.decoder.0.weight", "decoder.0.weight"),
        ("a._fsdp_wrapped_module.b._checkpoint_wrapped_module.weight", "a.b.weight"),
        ("module.weight", "module.weight"),
    ],
)
def test_components_of_wrappers_go(wrapped: str, name: str) -> None:
    assert plain(wrapped) == name


def test_module_goes_where_every_name_begins_with_it() -> None:
    assert set(chosen_set([f"module.{n}" for n in NAMES]).names) == set(NAMES)
    mixed = [*NAMES, "module.weight"]
    assert set(chosen_set(mixed).names) == set(mixed)


@pytest.mark.parametrize(
    ("names", "average"),
    [
        ([*NAMES, *(f"ema.{n}" for n in NAMES)], "ema.{}"),
        ([*(f"model.{n}" for n in NAMES), *(f"model_ema.module.{n}" for n in NAMES)], "model_ema.module.{}"),
        ([*(f"online_model.{n}" for n in NAMES), *(f"ema_model.{n}" for n in NAMES), "initted", "step"], "ema_model.{}"),
        (
            [*NAMES, *(f"model_ema.{n.replace('.', '')}" for n in NAMES), "model_ema.decay", "model_ema.num_updates"],
            None,
        ),
    ],
)  # fmt: skip
def test_averages_are_taken_and_said_unless_told_otherwise(names: list[str], average: str | None) -> None:
    taken = chosen_set(names)
    (note,) = taken.notes
    assert note.code == "two-sets-of-weights"
    assert "--weights raw" in str(note.hint)
    raw = chosen_set(names, "raw")
    assert set(taken.names) == set(raw.names)
    for name in NAMES:
        key = next(k for k in taken.names if k.endswith(name))
        assert taken.names[key] == (average or "model_ema.{}").format(
            name if average else name.replace(".", "")
        )
        assert raw.names[key] == key


def test_one_set_is_no_choice() -> None:
    alone = [f"ema_model.{n}" for n in NAMES]
    assert chosen_set(alone).notes == ()
    assert chosen_set([*NAMES, "quantizer._ema_w", "n_averaged"]).notes == ()
    with pytest.raises(UsageError, match="no average"):
        chosen_set(NAMES, "ema")


def test_buffers_of_the_raw_weights_stay_with_the_averages() -> None:
    taken = chosen_set([*NAMES, "decoder.1.running_mean", *(f"ema.{n}" for n in NAMES)])
    assert taken.names["decoder.1.running_mean"] == "decoder.1.running_mean"
    assert taken.names["decoder.0.weight"] == "ema.decoder.0.weight"


def test_split_weights_are_joined_where_they_stood() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    state = {f"a.{k}": v.detach() for k, v in layer.state_dict().items()}
    out = folded({"before": torch.ones(1), **state, "after": torch.ones(1)}, joined)
    assert list(out) == ["before", "a.bias", "a.weight", "after"]
    torch.testing.assert_close(out["a.weight"], layer.weight.detach())


# -- through the door ------------------------------------------------------------------------------------


def mlp(seed: int = 0, d: int = 4) -> dict[str, Tensor]:
    """The state dict of pytorch/examples' VAE."""
    torch.manual_seed(seed)
    sizes = {"fc1": (784, 400), "fc21": (400, d), "fc22": (400, d), "fc3": (d, 400), "fc4": (400, 784)}
    return {
        f"{name}.{k}": t.detach() for name, size in sizes.items() for k, t in nn.Linear(*size).named_parameters()
    }  # fmt: skip


Z = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def outputs(path: Path, content: object, **settings: object) -> Tensor:
    torch.save(content, path)
    return vaeprobe.load(path, **settings)(Z)  # type: ignore[arg-type]


def test_sets_of_weights_in_one_state_dict_and_in_entries_of_their_own(tmp_path: Path) -> None:
    raw, average = mlp(0), mlp(1)
    first, second = (outputs(tmp_path / f"{k}.pt", state) for k, state in enumerate((raw, average)))
    files = [
        {**raw, **{f"ema.{k}": v for k, v in average.items()}},
        {"model": raw, "ema": average},
        {"state_dict": raw, "model_ema": {f"module.{k}": v for k, v in average.items()}, "epoch": 3},
        {"model": raw, "ema_state_dict": {k: v for k, v in average.items() if k.startswith("fc")}},
    ]
    for content in files:
        torch.testing.assert_close(outputs(tmp_path / "both.pt", content), second)
        torch.testing.assert_close(outputs(tmp_path / "both.pt", content, weights="raw"), first)
        assert "two-sets-of-weights" in [n.code for n in vaeprobe.load(tmp_path / "both.pt").notes]
    with pytest.raises(UsageError, match=r"`weights` takes `ema`, `raw` or None, not `.rew.`"):
        outputs(tmp_path / "both.pt", files[0], weights="rew")


def test_names_of_compiled_and_parallel_networks(tmp_path: Path) -> None:
    state = mlp()
    right = outputs(tmp_path / "a.pt", state)
    for rename in (
        lambda k: k.replace("fc3.", "fc3._orig_mod."),
        lambda k: f"_orig_mod.{k}",
        lambda k: f"module._orig_mod.{k}",
        lambda k: k.replace("fc4.", "_fsdp_wrapped_module.fc4._checkpoint_wrapped_module."),
    ):
        torch.testing.assert_close(
            outputs(tmp_path / "b.pt", {rename(k): v for k, v in state.items()}), right
        )


# -- weight normalisation between a file and the user's network ------------------------------------------------


def net(kind: str) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.Linear(4, 8)
    if kind == "old":
        with pytest.warns(FutureWarning):
            layer = nn.utils.weight_norm(layer)
    elif kind == "new":
        layer = nn.utils.parametrizations.weight_norm(layer)
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("file", ["plain", "old", "new"])
@pytest.mark.parametrize("network", ["plain", "old", "new"])
def test_weight_norm_goes_in_every_direction(tmp_path: Path, file: str, network: str) -> None:
    source = net(file)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    built = net(network)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(1)
    decoder = vaeprobe.load(tmp_path / "w.pt", arch=lambda: built)
    torch.testing.assert_close(decoder(Z), source(Z).detach())


def convolutions(normed: Callable[[nn.Module], nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Unflatten(1, (4, 1, 1)), normed(nn.ConvTranspose2d(4, 3, 3)), nn.Conv2d(3, 2, 2))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("dim", [None, 0, 1, 2, 3])
def test_weight_norm_along_any_axis_and_along_none(tmp_path: Path, dim: int | None) -> None:
    """A single length of the whole weight is a tensor without axes, beside which torch's kernel reads beyond its memory."""
    for norm in (nn.utils.weight_norm, nn.utils.parametrizations.weight_norm):
        source = convolutions(lambda layer, norm=norm: norm(layer, dim=dim))
        for network in (convolutions(lambda layer: layer), source):
            torch.save(source.state_dict(), tmp_path / "w.pt")
            right = source(Z).detach()
            torch.testing.assert_close(
                vaeprobe.load(tmp_path / "w.pt", arch=lambda net=network: net)(Z), right
            )
            plain = convolutions(lambda layer: layer)
            torch.save(plain.state_dict(), tmp_path / "w.pt")
            again = convolutions(lambda layer, norm=norm: norm(layer, dim=dim))
            right = plain(Z).detach()
            torch.testing.assert_close(vaeprobe.load(tmp_path / "w.pt", arch=lambda net=again: net)(Z), right)
        blueprint = Blueprint.from_toml(
            'latents = 4\n[decoder]\nlayers = [{ reshape = [4, 1, 1] }, { conv_transpose = "1" }, { conv = "2" }]'
        )
        torch.save(source.state_dict(), tmp_path / "w.pt")
        found = vaeprobe.load(tmp_path / "w.pt", blueprint=blueprint)
        torch.testing.assert_close(found(Z), source(Z).detach())


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 8), (8, 4), (8,), (1,)])
def test_lengths_that_are_not_the_direction_s_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """torch's own kernel reads eight numbers whatever the lengths are."""
    state = {"0.weight_v": torch.ones(8, 4), "0.weight_g": torch.ones(shape), "0.bias": torch.ones(8)}
    torch.save(state, tmp_path / "w.pt")
    for given in ("draft", Blueprint.from_toml('latents = 4\n[decoder]\nlayers = [{ linear = "0" }]')):
        with pytest.raises(ArchitectureError, match="do not fit each other") as refused:
            vaeprobe.load(tmp_path / "w.pt", blueprint=given)
        assert f"`0.weight_v` has shape (8, 4), `0.weight_g` has shape {shape}" in refused.value.message


def test_whole_numbers_are_no_direction(tmp_path: Path) -> None:
    state = {"0.weight_v": torch.ones(8, 4, dtype=torch.int8), "0.weight_g": torch.ones(8, 1)}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ArchitectureError, match=r"`0.weight_v`, of .*, is int8, and weights must be real"):
        vaeprobe.load(tmp_path / "w.pt", blueprint="draft")


def test_half_precision_is_cast_up_before_the_lengths_are_taken() -> None:
    v, g = torch.randn(8, 4).half(), torch.rand(8, 1).half()
    names = "weight_v", "weight_g"
    assert torch.equal(joined(v, g, names), joined(v.float(), g.float(), names))
    eighth = v.to(torch.float8_e4m3fn)
    assert torch.equal(joined(eighth, g, names), joined(eighth.float(), g.float(), names))


@pytest.mark.parametrize("mask", [(8, 4), (8,), (4,), (8, 1), (1,), (), (4, 8)])
def test_a_mask_has_the_shape_of_what_it_prunes(tmp_path: Path, mask: tuple[int, ...]) -> None:
    """One that torch would have stretched as well as one that it would not."""
    state = {"0.weight_orig": torch.ones(8, 4), "0.weight_mask": torch.zeros(mask), "0.bias": torch.ones(8)}
    torch.save(state, tmp_path / "w.pt")
    said = Blueprint.from_toml('latents = 4\n[decoder]\nlayers = [{ linear = "0" }]')
    for given in (
        {"blueprint": "draft"},
        {"blueprint": said},
        {"arch": lambda: nn.Sequential(nn.Linear(4, 8))},
    ):
        if mask == (8, 4):
            torch.testing.assert_close(vaeprobe.load(tmp_path / "w.pt", **given)(Z), torch.ones(len(Z), 8))
            continue
        with pytest.raises(
            ArchitectureError, match=r"`0\.weight` was pruned, and its mask does not fit"
        ) as refused:
            vaeprobe.load(tmp_path / "w.pt", **given)
        assert f"`0.weight_orig` has shape (8, 4), `0.weight_mask` has shape {mask}" in refused.value.message
        assert "prune.remove(layer, 'weight')" in str(refused.value.hint)


SPECTRAL = (("weight_orig", "weight_u", "weight_v"), ("parametrizations.weight.original", "parametrizations.weight.0._u", "parametrizations.weight.0._v"))  # fmt: skip


@pytest.mark.parametrize("names", SPECTRAL)
@pytest.mark.parametrize(
    ("u", "v"),
    [((8,), (4,)), ((4,), (8,)), ((8,), (4, 1)), ((8,), (4, 4)), ((), (4,)), ((8,), (5,)), ((1,), (4,))],
)
def test_vectors_of_a_spectral_norm_have_the_sizes_of_the_weight(
    tmp_path: Path, names: tuple[str, str, str], u: tuple[int, ...], v: tuple[int, ...]
) -> None:
    parts = (torch.ones(8, 4), torch.ones(u) / 8**0.5, torch.ones(v) / 4**0.5)
    state = {f"0.{name}": t for name, t in zip(names, parts, strict=True)} | {"0.bias": torch.ones(8)}
    torch.save(state, tmp_path / "w.pt")
    said = Blueprint.from_toml('latents = 4\n[decoder]\nlayers = [{ linear = "0" }]')
    for given in ("draft", said):
        if (u, v) == ((8,), (4,)):
            norm = torch.linalg.matrix_norm(parts[0].double(), 2).float()
            found = vaeprobe.load(tmp_path / "w.pt", blueprint=given)(Z)
            torch.testing.assert_close(found, Z.float() @ parts[0].T / norm + 1)
            continue
        with pytest.raises(
            ArchitectureError, match="does not fit the vectors of its spectral norm"
        ) as refused:
            vaeprobe.load(tmp_path / "w.pt", blueprint=given)
        assert "`0.weight` of shape (8, 4)" in refused.value.message
        assert "remove_spectral_norm(layer)" in str(refused.value.hint)


@pytest.mark.parametrize("layer", ["conv", "conv_transpose"])
def test_vectors_of_a_spectral_norm_tell_which_way_a_convolution_goes(layer: str) -> None:
    made = nn.Conv2d(4, 6, 3) if layer == "conv" else nn.ConvTranspose2d(4, 6, 3)
    state = nn.utils.parametrizations.spectral_norm(made).eval().state_dict()
    other = {"conv": "conv_transpose", "conv_transpose": "conv"}[layer]
    text = 'latents = {d}\n[decoder]\nlayers = [{{ reshape = [{c}, 3, 3] }}, {{ {kind} = "" }}]'
    assemble(Blueprint.from_toml(text.format(d=36, c=4, kind=layer)), state)
    with pytest.raises(BlueprintError, match="layer 2 of the decoder") as refused:
        assemble(Blueprint.from_toml(text.format(d=54, c=6, kind=other)), state)
    assert refused.value.hint == f"is it a {layer}?"


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_a_spectral_norm_is_taken_in_the_widest_of_its_types(kind: torch.dtype) -> None:
    W, u, v = torch.randn(8, 4).to(kind), torch.randn(8), torch.randn(4)
    state = {"weight_orig": W, "weight_u": u, "weight_v": v}
    found = assemble(Blueprint.from_toml('latents = 4\n[decoder]\nlayers = [{ linear = "" }]'), state).decoder
    wide = torch.promote_types(kind, torch.float32)
    W, u, v = W.to(wide), u.to(wide), v.to(wide)
    torch.testing.assert_close(found(torch.eye(4, dtype=wide)).T, W / (u @ W @ v))


@pytest.mark.parametrize("norm", ["spectral_norm", "parametrized spectral_norm", "prune"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_draft_is_made_of_weights_that_training_split(tmp_path: Path, norm: str) -> None:
    torch.manual_seed(0)
    split: Callable[[nn.Module], object] = {
        "spectral_norm": nn.utils.spectral_norm,
        "parametrized spectral_norm": nn.utils.parametrizations.spectral_norm,
        "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    }[norm]
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 6))
    for layer in (network[0], network[2]):
        split(layer)
    if norm == "prune":
        prune.random_unstructured(network[2], "bias", 3)
    network(Z)
    network.eval()
    torch.save({f"decoder.{k}": t for k, t in network.state_dict().items()}, tmp_path / "w.pt")
    decoder = vaeprobe.load(tmp_path / "w.pt", blueprint="draft")
    torch.testing.assert_close(decoder(Z), network(Z).detach())
    assert not any("left out" in note.message for note in decoder.notes)
    layers = 'layers = [{ linear = "0" }, "relu", { linear = "2" }, "relu", { linear = "4" }]'
    said = Blueprint.from_toml(f'latents = 4\n[decoder]\nprefix = "decoder."\n{layers}')
    torch.testing.assert_close(vaeprobe.load(tmp_path / "w.pt", blueprint=said)(Z), network(Z).detach())


def test_what_pruning_split_fits_the_network_that_was_not_pruned(tmp_path: Path) -> None:
    source = net("plain")
    prune.l1_unstructured(source[0], "weight", 0.5)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    decoder = vaeprobe.load(tmp_path / "w.pt", arch=lambda: net("plain"))
    torch.testing.assert_close(decoder(Z), source(Z).detach())


def test_another_parametrization_is_named_and_not_left_out(tmp_path: Path) -> None:
    source = net("plain")
    nn.utils.parametrizations.orthogonal(source[0])
    torch.save(source.state_dict(), tmp_path / "w.pt")
    blueprint = Blueprint.from_toml('[decoder]\nlayers = [{ linear = "0" }, "tanh", { linear = "2" }]')
    for given in ("draft", blueprint):
        with pytest.raises(ArchitectureError, match="by a parametrization") as refused:
            vaeprobe.load(tmp_path / "w.pt", blueprint=given)
        assert "remove_parametrizations(layer, 'weight')" in str(refused.value.hint)
    nn.utils.parametrize.remove_parametrizations(source[0], "weight")
    torch.save(source.state_dict(), tmp_path / "w.pt")
    torch.testing.assert_close(vaeprobe.load(tmp_path / "w.pt", blueprint=blueprint)(Z), source(Z).detach())


def test_a_prefix_that_the_file_goes_on_with_is_said(tmp_path: Path) -> None:
    state = {
        **nn.Linear(4, 8).state_dict(prefix="model.encoder.0."),
        **nn.Linear(4, 8).state_dict(prefix="model.decoder.0."),
    }
    torch.save(state, tmp_path / "w.pt")
    text = '[decoder]\nprefix = "decoder."\nlayers = [{ linear = "0" }]'
    with pytest.raises(BlueprintError, match="asks for the tensor") as refused:
        vaeprobe.load(tmp_path / "w.pt", blueprint=Blueprint.from_toml(text))
    assert refused.value.hint == "it holds `model.decoder.0.weight`: begin the prefix with `model.`"
    said = Blueprint.from_toml(text.replace('"decoder."', '"model.decoder."'))
    assert vaeprobe.load(tmp_path / "w.pt", blueprint=said).latent_dim == 4


def test_the_network_s_own_load_hooks_run(tmp_path: Path) -> None:
    class Renamed(nn.Sequential):
        def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
            for k in [k for k in state if k.startswith(f"{prefix}old_")]:
                state[k.replace("old_", "")] = state.pop(k)
            super()._load_from_state_dict(state, prefix, *rest)  # type: ignore[arg-type]

    source = net("plain")
    torch.save({f"old_{k}": v for k, v in source.state_dict().items()}, tmp_path / "w.pt")
    decoder = vaeprobe.load(tmp_path / "w.pt", arch=lambda: Renamed(*net("plain")))
    torch.testing.assert_close(decoder(Z), source(Z).detach())
    torch.save({"old_0.weight": torch.ones(8, 4)}, tmp_path / "w.pt")
    with pytest.raises(ArchitectureError, match="wants the tensor"):
        vaeprobe.load(tmp_path / "w.pt", arch=lambda: Renamed(*net("plain")))


def test_a_pickled_network_with_old_weight_norm_is_read_whole(tmp_path: Path) -> None:
    module = net("old").eval()
    right = module(Z).detach()
    torch.save(module, tmp_path / "wn.pt")
    torch.testing.assert_close(vaeprobe.load(tmp_path / "wn.pt")(Z), right)


# -- wrappers and twins, into a network of the user's -------------------------------------------------


class Net(nn.Module):
    def __init__(self, wrapped: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(2, 5)
        if wrapped:
            self.module = nn.Linear(5, 3)
        else:
            self.last = nn.Linear(5, 3)

    def forward(self, z: Tensor) -> Tensor:
        last = self.module if hasattr(self, "module") else self.last
        return last(torch.tanh(self.first(z)))  # type: ignore[operator, no-any-return]


def _weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(Net().state_dict())


@pytest.mark.parametrize(
    "named",
    [
        lambda k: k.replace(".", "._orig_mod."),
        lambda k: f"module._orig_mod.{k}",
        lambda k: f"_orig_mod.module.{k}",
        lambda k: f"model.module.{k}",
        lambda k: k.replace("first.", "first.module."),
        lambda k: f"_fsdp_wrapped_module.{k.replace('.', '._checkpoint_wrapped_module.')}",
    ],
)
def test_wrappers_anywhere_in_a_name_reach_the_users_network(tmp_path: Path, named: Any) -> None:
    weights = _weights()
    torch.save({named(k): t for k, t in weights.items()}, tmp_path / "w.pt")
    right = Net()
    right.load_state_dict(weights)
    z = torch.randn(4, 2)
    torch.testing.assert_close(vaeprobe.load(tmp_path / "w.pt", arch=Net)(z), right(z).detach())


def test_a_part_that_is_called_module_is_one(tmp_path: Path) -> None:
    right = Net(wrapped=True)
    torch.save(right.state_dict(), tmp_path / "w.pt")
    found = vaeprobe.load(tmp_path / "w.pt", arch=lambda: Net(wrapped=True))
    z = torch.randn(4, 2)
    torch.testing.assert_close(found(z), right(z).detach())
    inner = nn.Sequential()
    inner.add_module("module", Net())
    torch.save(inner.state_dict(), tmp_path / "i.pt")

    def again() -> nn.Module:
        out = nn.Sequential()
        out.add_module("module", Net())
        return out

    torch.testing.assert_close(vaeprobe.load(tmp_path / "i.pt", arch=again)(z), inner(z).detach())


@pytest.mark.parametrize("order", [("encoder", "decoder"), ("decoder", "encoder")])
@pytest.mark.parametrize("inside", ["", "module."])
def test_of_twins_the_decoder_is_taken(tmp_path: Path, order: tuple[str, str], inside: str) -> None:
    weights = _weights()
    both = {f"{part}.{inside}{k}": t + (part == "encoder") for part in order for k, t in weights.items()}
    torch.save(both, tmp_path / "w.pt")
    right = Net()
    right.load_state_dict(weights)
    found = vaeprobe.load(tmp_path / "w.pt", arch=Net)
    z = torch.randn(4, 2)
    torch.testing.assert_close(found(z), right(z).detach())
    assert "unused-tensors" in {n.code for n in found.notes}


def test_twins_that_neither_name_nor_shape_tells_apart_are_refused(tmp_path: Path) -> None:
    weights = _weights()
    torch.save(
        {f"{part}.{k}": t for part in ("left", "right") for k, t in weights.items()}, tmp_path / "w.pt"
    )
    with pytest.raises(
        ArchitectureError, match="stand 2 times in the file, under `left` and `right`"
    ) as error:
        vaeprobe.load(tmp_path / "w.pt", arch=Net)
    assert "--key left" in str(error.value.hint)
    assert vaeprobe.load(tmp_path / "w.pt", arch=Net, key="left").latent_dim == 2
    other = {f"left.{k}": torch.zeros(*t.shape, 2) for k, t in weights.items()}
    torch.save({**other, **{f"right.{k}": t for k, t in weights.items()}}, tmp_path / "w.pt")
    assert vaeprobe.load(tmp_path / "w.pt", arch=Net).latent_dim == 2


def test_a_refusal_says_which_of_two_sets_it_is_about(tmp_path: Path) -> None:
    weights = {"decoder.0.weight": torch.ones(4, 3), "decoder.0.bias": torch.zeros(4)}
    torch.save({"model": weights, "ema": {k: v + 1 for k, v in weights.items()}}, tmp_path / "two.pt")
    with pytest.raises(
        ArchitectureError, match=r"averages over training \(entry `ema`\) .* averages were taken"
    ):
        vaeprobe.load(tmp_path / "two.pt")
    with pytest.raises(ArchitectureError, match="does not say") as caught:
        vaeprobe.load(tmp_path / "two.pt", weights="raw")
    assert "raw ones were taken" in caught.value.message


class Wrapper(nn.Module):
    """What a user writes around a trained network, to decode by it: the file knows nothing of `inner`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.part = nn.ModuleDict({"inner": inner})

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.part["inner"](z)
        return out


@pytest.mark.parametrize("file", ["plain", "old", "new"])
@pytest.mark.parametrize("network", ["plain", "old", "new"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_wrapper_around_what_was_trained_takes_its_weights(
    tmp_path: Path, file: str, network: str, prefix: str
) -> None:
    source = net(file)
    state = {**source.state_dict(prefix=prefix), "loss.logvar": torch.zeros(1)}
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    built = Wrapper(net(network))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(1)
    decoder = vaeprobe.load(tmp_path / "w.pt", arch=lambda: built)
    torch.testing.assert_close(decoder(Z), source(Z).detach())
    assert "`loss.logvar`" in next(n.message for n in decoder.notes if n.code == "unused-tensors")


def test_a_wrapper_of_another_network_says_what_it_wants(tmp_path: Path) -> None:
    torch.save(nn.Linear(4, 3).state_dict(prefix="decoder."), tmp_path / "w.pt")
    with pytest.raises(ArchitectureError, match=r"wants the tensor `part.inner.0.weight` of shape 8x4"):
        vaeprobe.load(tmp_path / "w.pt", arch=lambda: Wrapper(net("plain")))
