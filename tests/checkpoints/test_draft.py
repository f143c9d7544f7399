"""Drafts: the right network where names and shapes allow it, every guess marked, and no silent use."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import vaeprobe
from vaeprobe.checkpoints import families
from vaeprobe.checkpoints.blueprint import Blueprint
from vaeprobe.checkpoints.draft.drafting import draft
from vaeprobe.checkpoints.naming import for_matching
from vaeprobe.checkpoints.network.assemble import assemble
from vaeprobe.cli import run
from vaeprobe.errors import ArchitectureError


def state(**modules: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {f"{name}.{k}": v for name, m in modules.items() for k, v in m.state_dict().items()}


def same(bp: Blueprint, tensors: dict[str, Tensor], expected: nn.Module) -> None:
    parts = assemble(bp, tensors)
    z = torch.randn(4, parts.latent_dim)
    assert torch.allclose(parts.decoder(z), expected.eval()(z))


def test_an_mlp_decoder() -> None:
    net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 7))
    tensors = state(decoder=net, encoder=nn.Sequential(nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, 6)))
    bp = draft(tensors)
    assert bp.prefix == "decoder."
    same(bp, tensors, net)
    assert "relu follows every hidden layer" in bp.assumptions
    assert "the output has no activation" in bp.assumptions


def test_a_conv_decoder_with_batch_norm() -> None:
    net = nn.Sequential(
        nn.Linear(5, 128), nn.ReLU(), nn.Unflatten(1, (8, 4, 4)), nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.ConvTranspose2d(8, 3, 3, 2, 1, 1), nn.Sigmoid(),
    )  # fmt: skip
    tensors = state(generator=net)
    bp = draft(tensors)
    same(bp, tensors, net)
    text = bp.to_toml()
    assert "# assumed: 128 numbers are reshaped to 8 x 4 x 4" in text
    assert "`generator.3`" in " ".join(bp.assumptions)


def test_sorted_names_are_put_in_the_order_of_their_numbers() -> None:
    net = nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(4, 4), nn.ReLU())], nn.Linear(4, 4))
    tensors = state(decoder=net)
    shuffled = dict(sorted(tensors.items()))
    assert list(shuffled) != list(tensors)
    bp = draft(shuffled)
    same(bp, tensors, net)
    assert any("order of the numbers" in a for a in bp.assumptions)


def test_an_autoencoder_without_telling_names_begins_at_its_bottleneck() -> None:
    tensors = state(
        fc1=nn.Linear(30, 12),
        fc21=nn.Linear(12, 4),
        fc22=nn.Linear(12, 4),
        fc3=nn.Linear(4, 12),
        fc4=nn.Linear(12, 30),
    )
    bp = draft(tensors)
    assert [layer.key for layer in bp.layers if layer.key] == ["fc3", "fc4"]
    assert any("begins at `fc3`" in a for a in bp.assumptions)


def test_every_assumption_is_kept_in_the_file_and_reported() -> None:
    tensors = state(decoder=nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 784)))
    bp = draft(tensors)
    again = Blueprint.from_toml(bp.to_toml())
    assert again.assumptions == bp.assumptions
    assert len(bp.assumptions) >= 3
    (note,) = [n for n in assemble(again, tensors).notes if n.code == "draft-blueprint"]
    assert all(a in note.message for a in bp.assumptions)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"a.weight": (4, 3), "b.weight": (9, 5)}, "takes 5 numbers, and what comes before it returns 4"),
        ({"a.weight": (8, 8, 3, 3), "a.bias": (8,)}, None),
        ({"a.weight": (64, 32, 3, 3), "a.bias": (64,)}, "the size of the map that it takes is not recorded"),
        ({"step": ()}, "no weights of layers"),
    ],
)
def test_what_does_not_chain_is_an_error_that_says_where(
    shapes: dict[str, tuple[int, ...]], message: str | None
) -> None:
    tensors = {k: torch.zeros(v) for k, v in shapes.items()}
    if message is None:
        assert draft(tensors).latent_dim == 8
        return
    if message.startswith("takes"):
        # two layers that do not follow one another: the last alone is a chain
        assert draft(tensors).latents == (("normal", 5),)
        return
    with pytest.raises(ArchitectureError, match=message) as caught:
        draft(tensors)
    assert "blueprint" in (caught.value.hint or "")


def test_a_draft_is_never_used_silently(tmp_path: Path) -> None:
    torch.save(state(decoder=nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5))), tmp_path / "m.pt")
    with pytest.raises(ArchitectureError):
        vaeprobe.load(tmp_path / "m.pt")
    decoder = vaeprobe.load(tmp_path / "m.pt", blueprint="draft")
    assert "draft-blueprint" in {n.code for n in decoder.notes}


# what the families' code says and a draft cannot know
RIGHT = [
    "disvae/VAE_mnist/model.pt",
    "disvae/VAE_dsprites/model.pt",
    "jointvae/fashion.pt",
    "jointvae/chairs.pt",
    "riemann/mnist.pth",
]
RIGHT_SHAPE = ["riemann/celeba.pth", "inverse_micro/vae.pth"]


@pytest.mark.parametrize("name", RIGHT + RIGHT_SHAPE)
def test_drafts_of_real_files(models: Path, name: str) -> None:
    tensors = torch.load(models / name, map_location="cpu", weights_only=True)
    ours = assemble(draft(tensors), tensors)
    known = families.match(families.Clues.of(tensors))
    assert known is not None
    theirs = assemble(known.blueprint, tensors)
    z = torch.randn(4, theirs.latent_dim)
    a, b = ours.decoder(z), theirs.decoder(z)
    assert a.shape == b.shape
    if name in RIGHT:
        assert torch.equal(a, b)


def test_the_safetensors_file_without_metadata(models: Path) -> None:
    tensors = load_file(models / "formats/jointvae_fashion.safetensors")
    plain = vaeprobe.load(models / "formats/jointvae_fashion.safetensors")
    assert plain.artifact is not None
    assert plain.artifact.architecture == "preset joint-vae"
    assert any("one-hot codes" in note.message for note in plain.notes)
    original = torch.load(models / "jointvae/fashion.pt", map_location="cpu", weights_only=True)
    known = families.match(families.Clues.of(original))
    assert known is not None
    z = torch.randn(4, 20)
    assert torch.equal(plain(z), assemble(known.blueprint, original).decoder(z))
    assert torch.equal(
        assemble(draft(tensors), tensors).decoder(z), assemble(known.blueprint, original).decoder(z)
    )


@pytest.mark.parametrize("embedded", [False, True])
def test_a_draft_finds_the_condition_that_its_encoder_lacks(tmp_path: Path, embedded: bool) -> None:
    """Two means and twelve (or seven) inputs: the rest is a class, never ten more latents."""
    extra = 5 if embedded else 10
    shapes = {
        "encoder.0": (12, 16),
        "fc_mu": (2, 12),
        "fc_var": (2, 12),
        "decoder.0": (12, 2 + extra),
        "decoder.2": (16, 12),
    }
    torch.manual_seed(0)
    state = {f"{k}.weight": torch.randn(s) for k, s in shapes.items()}
    state |= {f"{k}.bias": torch.randn(s[0]) for k, s in shapes.items()}
    rows = torch.eye(10)
    if embedded:
        state["label_embedding.weight"] = rows = torch.randn(10, 5)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(
        ArchitectureError,
        match=f"{extra} inputs beside 2 latents are a condition, a {'row' if embedded else 'one-hot'}",
    ):
        vaeprobe.load(tmp_path / "m.pt")
    decoder = vaeprobe.load(tmp_path / "m.pt", blueprint="draft", condition={"label": 3})
    assert decoder.latent_dim == 2
    z = torch.randn(4, 2)
    h = torch.relu(
        torch.cat([z, rows[3].expand(4, -1)], 1) @ state["decoder.0.weight"].T + state["decoder.0.bias"]
    )
    plain = h @ state["decoder.2.weight"].T + state["decoder.2.bias"]
    assert torch.allclose(decoder(z), plain, atol=1e-5)
    # as many means as inputs: nothing is taken for a condition
    state["decoder.0.weight"] = torch.randn(12, 2)
    assert draft(state).conditions == ()


# -- every tensor has a place, or is said to have none -------------------------------------------------------


def keys(bp: Blueprint) -> list[str]:
    return [bp.prefix + layer.key for layer in bp.layers if layer.key is not None]


def test_an_output_layer_called_after_its_mean_is_not_lost() -> None:
    net = [nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 48)]
    bp = draft(state(**{"decoder.0": net[0], "decoder.2": net[1], "proj_mu": net[2]}))
    assert keys(bp) == ["decoder.0", "decoder.2", "proj_mu"]


def test_a_first_layer_that_comes_last_in_the_file_is_not_lost() -> None:
    tensors = state(
        up1=nn.ConvTranspose2d(16, 8, 4, 2, 1), up2=nn.ConvTranspose2d(8, 3, 4, 2, 1), fc=nn.Linear(5, 256)
    )
    bp = draft(tensors)
    assert keys(bp) == ["fc", "up1", "up2"]
    assert bp.latent_dim == 5
    assert any("`fc` comes first" in a for a in bp.assumptions)
    assert "it maps 5 latents to an output of 3 x 16 x 16" in bp.assumptions


def test_layers_left_out_are_named_as_whose_they_are() -> None:
    bp = draft(
        state(decoder=nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5)), odd=nn.Linear(77, 9),
              encoder=nn.Sequential(nn.Linear(5, 8)))
    )  # fmt: skip
    assert "left out as the encoder's or a discriminator's: `encoder.0`" in bp.assumptions
    assert "left out since they do not follow the others: `odd`" in bp.assumptions
    assert "left out" in bp.to_toml()


def test_tensors_that_are_no_layers_are_named() -> None:
    part = nn.ParameterDict({"scale": nn.Parameter(torch.ones(8))})
    tensors = state(**{"decoder.fc": nn.Linear(3, 8), "decoder.mid": part, "decoder.out": nn.Linear(8, 5)})
    bp = draft(tensors)
    assert keys(bp) == ["decoder.fc", "decoder.out"]
    assert any(a.startswith("left out since") and "`decoder.mid.scale`" in a for a in bp.assumptions)
    assert "decoder.mid.scale" in bp.to_toml()


def test_counters_and_norms_of_weights_are_not_called_left_out() -> None:
    nets = {"old": nn.Linear(3, 8), "new": nn.Linear(3, 8)}
    with pytest.warns(FutureWarning):
        torch.nn.utils.weight_norm(nets["old"])
    torch.nn.utils.parametrizations.weight_norm(nets["new"])
    for first in (nets["old"], nets["new"]):
        tensors = state(decoder=nn.Sequential(first, nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)))
        assert not any("left out" in a for a in draft(for_matching(tensors)).assumptions)


def test_a_second_head_of_the_decoder_is_not_called_the_encoders() -> None:
    net = [nn.Linear(3, 8), nn.Linear(8, 5), nn.Linear(8, 5)]
    bp = draft(state(**{"decoder.0": net[0], "decoder.mu_head": net[1], "decoder.logvar_head": net[2]}))
    assert keys(bp) == ["decoder.0", "decoder.mu_head"]
    assert "left out since they do not follow the others: `decoder.logvar_head`" in bp.assumptions
    assert not any("encoder" in a.replace("decoder", "") for a in bp.assumptions)


def test_a_table_of_classes_is_no_first_layer() -> None:
    """Ten classes of four numbers beside six latents: the table fits as a layer, by accident."""
    tensors = state(
        **{"encoder.fc": nn.Linear(20, 16), "encoder.mu": nn.Linear(16, 6), "encoder.logvar": nn.Linear(16, 6)},
        **{"decoder.emb": nn.Embedding(10, 4), "decoder.0": nn.Linear(10, 16), "decoder.2": nn.Linear(16, 20)},
    )  # fmt: skip
    bp = draft(tensors)
    assert bp.latent_dim == 6
    assert [c.key for c in bp.conditions] == ["decoder.emb"]
    assert not any("left out since" in a for a in bp.assumptions)


def test_the_encoder_is_asked_for_its_view() -> None:
    tensors = state(
        **{
            "encoder.fc": nn.Linear(20, 16),
            "encoder.mu": nn.Linear(16, 2),
            "encoder.logvar": nn.Linear(16, 2),
        },
        decoder=nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 20)),
    )
    assert draft(tensors).latent_dim == 2  # the rest is a condition
    tensors |= {"encoder.mu.weight": torch.zeros(14, 16), "encoder.mu.bias": torch.zeros(14)}
    assert any("gives 14 means and the decoder takes 12" in a for a in draft(tensors).assumptions)
    tensors["encoder.fc.weight"] = torch.zeros(16, 30)
    assert any("takes 30 numbers and the draft returns 20" in a for a in draft(tensors).assumptions)


def test_numbers_that_follow_one_another_leave_no_room_for_an_activation() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5))
    tensors = state(decoder=net)
    bp = draft(tensors)
    same(bp, tensors, net)
    assert [layer.kind for layer in bp.layers] == ["linear", "linear", "relu", "linear"]


def test_upsampling_is_among_the_guesses_where_nothing_records_it() -> None:
    tensors = state(fc=nn.Linear(3, 64), a=nn.Conv2d(16, 8, 3, padding=1), b=nn.Conv2d(8, 1, 3, padding=1))
    assert "no upsampling or pooling stands between the convolutions" in draft(tensors).assumptions


def test_room_in_a_sequential_for_an_upsampling_is_used() -> None:
    net = nn.Sequential(
        nn.Linear(3, 64), nn.ReLU(), nn.Unflatten(1, (16, 2, 2)), nn.Upsample(scale_factor=2), nn.Conv2d(16, 8, 3, padding=1),
        nn.BatchNorm2d(8), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(),
        nn.Conv2d(4, 1, 3, padding=1), nn.Sigmoid(),
    )  # fmt: skip
    tensors = state(decoder=net)
    bp = draft(tensors)
    same(bp, tensors, net)
    assert (
        "the map is doubled before convolutions, the numbers of their Sequential leave room for a layer there"
        " (`decoder.4`, `decoder.8`)"
    ) in bp.assumptions


@pytest.mark.parametrize(("ends", "halvings", "doubled"), [(64, 2, True), (64, 3, False), (16, 2, False)])
def test_an_encoder_that_ends_where_the_decoder_starts_tells_of_upsampling(
    ends: int, halvings: int, doubled: bool
) -> None:
    tensors = state(
        enc=nn.Sequential(*[nn.Conv2d(1, 1, 4, 2, 1) for _ in range(halvings)]), mu=nn.Linear(ends, 3),
        fc=nn.Linear(3, 64), a=nn.Conv2d(16, 8, 3, padding=1), b=nn.Conv2d(8, 1, 3, padding=1),
    )  # fmt: skip
    kinds = [layer.kind for layer in draft(tensors).layers]
    assert kinds.count("upsample") == (2 if doubled else 0)
    if doubled:
        up = nn.Upsample(scale_factor=2)
        parts = assemble(draft(tensors), tensors)
        z = torch.randn(2, 3)
        h = torch.relu(z @ tensors["fc.weight"].T + tensors["fc.bias"]).unflatten(1, (16, 2, 2))
        h = torch.relu(nn.functional.conv2d(up(h), tensors["a.weight"], tensors["a.bias"], padding=1))
        x = nn.functional.conv2d(up(h), tensors["b.weight"], tensors["b.bias"], padding=1).sigmoid()
        assert torch.allclose(parts.decoder(z).reshape(x.shape), x, atol=1e-6)


class Foreign(nn.Module):
    """A class that no file can bring along: its layers are recorded, its `forward` is not."""

    def __init__(self, net: nn.Module, **more: nn.Module) -> None:
        super().__init__()
        self.net = net
        for name, module in more.items():
            setattr(self, name, module)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.net(z)
        return out


RECORDED = nn.Sequential(
    nn.Linear(4, 72), nn.LeakyReLU(0.3), nn.Unflatten(1, (8, 3, 3)), nn.ConvTranspose2d(8, 6, 3, stride=2),
    nn.BatchNorm2d(6, eps=1e-3), nn.ELU(0.5), nn.Upsample(scale_factor=2), nn.Conv2d(6, 2, 5, padding=2), nn.Tanh(),
)  # fmt: skip


def test_a_pickled_sequential_of_a_foreign_class_is_drafted_exactly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Foreign(RECORDED).eval()
    torch.save(module, tmp_path / "m.pt")
    decoder = vaeprobe.load(tmp_path / "m.pt", blueprint="draft")
    z = torch.randn(3, 4)
    torch.testing.assert_close(decoder(z), module(z).detach())
    assert decoder.artifact is not None
    assert "draft" in decoder.artifact.architecture
    found = vaeprobe.inspect(tmp_path / "m.pt", draft_blueprint=True)
    assert found.draft is not None
    assert not any("relu" in a or "padding" in a for a in found.draft.assumptions)
    assert any(f.code == "draft-blueprint" and "4 latents" in f.message for f in found.findings)


class Loose(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(4, 256), nn.LeakyReLU(0.2)
        self.up = nn.Upsample(scale_factor=2)
        self.a, self.b = nn.Conv2d(16, 8, 3, padding=0), nn.Conv2d(8, 1, 1)


def test_what_a_module_holds_without_a_place_is_said(tmp_path: Path) -> None:
    torch.save(Loose(), tmp_path / "m.pt")
    bp = vaeprobe.inspect(tmp_path / "m.pt", draft_blueprint=True).draft
    assert bp is not None
    assert any("`up`, { upsample = 2 }, is left out" in a for a in bp.assumptions)
    assert [str(layer) for layer in bp.layers if layer.kind == "leaky_relu"] == ["{ leaky_relu = 0.2 }"] * 2
    assert next(layer for layer in bp.layers if layer.key == "a").options == {}


class Sorted(nn.Module):
    """Layers called after their kind: safetensors sorts them by name, the counters of norms before all others."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn0 = nn.Linear(4, 64), nn.BatchNorm1d(64)
        self.deconv1, self.bn1 = nn.ConvTranspose2d(16, 12, 4, 2, 1), nn.BatchNorm2d(12)
        self.deconv2, self.bn2 = nn.ConvTranspose2d(12, 12, 4, 2, 1), nn.BatchNorm2d(12)
        self.out = nn.Conv2d(12, 1, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = torch.relu(self.bn0(self.fc(z))).view(-1, 16, 2, 2)
        x = torch.relu(self.bn1(self.deconv1(x)))
        return torch.sigmoid(self.out(torch.relu(self.bn2(self.deconv2(x)))))


@pytest.mark.parametrize("prefix", ["", "decoder."])
def test_norms_that_a_file_sorts_before_other_layers_find_their_place(tmp_path: Path, prefix: str) -> None:
    torch.manual_seed(0)
    module = Sorted()
    with torch.no_grad():
        for norm in (module.bn0, module.bn1, module.bn2):
            for t in (norm.weight, norm.bias, norm.running_mean):
                assert t is not None
                t.normal_()
    z = torch.randn(3, 4)
    tensors = {f"{prefix}{k}": t for k, t in module.state_dict().items()}
    counters_first = dict(sorted(tensors.items(), key=lambda item: ("tracked" not in item[0], item[0])))
    for file in (counters_first, tensors):
        torch.save(file, tmp_path / "w.pt")
        decoder = vaeprobe.load(tmp_path / "w.pt", blueprint="draft")
        torch.testing.assert_close(decoder(z), module.eval()(z).detach())
        assert not any("left out" in note.message for note in decoder.notes)
    assert any(
        "`bn1` follows `deconv1`" in n or f"`{prefix}bn1` follows" in n
        for n in draft(counters_first).assumptions
    )


def test_dense_layers_and_norms_of_one_size_are_told_by_their_numbers() -> None:
    layers = {"l1": nn.Linear(4, 8), "l2": nn.Linear(8, 8), "l3": nn.Linear(8, 6)}
    norms = {f"bn{k}": nn.BatchNorm1d(8) for k in (1, 2)}
    tensors = dict(sorted(state(**layers, **norms).items()))
    assert keys(draft(tensors)) == ["l1", "bn1", "l2", "bn2", "l3"]
    others = dict(sorted(state(**layers, first_bn=nn.BatchNorm1d(8)).items()))
    said = draft(others).assumptions
    assert "left out since they do not follow the others: `first_bn`" in said


def test_a_last_part_follows_a_decoder_whose_first_layer_the_file_has_later() -> None:
    body = nn.Sequential(nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.BatchNorm2d(8))
    end = nn.Sequential(nn.Conv2d(8, 3, 3, padding=1))
    tensors = dict(sorted(state(decoder=body, decoder_input=nn.Linear(4, 64), final_layer=end).items()))
    assert keys(draft(tensors)) == ["decoder_input", "decoder.0", "decoder.1", "final_layer.0"]


@pytest.mark.parametrize("inside", [True, False])
def test_the_order_of_another_part_tells_nothing_of_the_decoder_s_end(tmp_path: Path, inside: bool) -> None:
    """An encoder in a Sequential is recorded; whether `forward` ends the decoder in a sigmoid is not."""
    module = Loose()
    module.encoder = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4))
    if inside:
        module.fc, module.a, module.b = (nn.Identity() for _ in range(3))  # type: ignore[assignment]
        module.decoder = nn.Sequential(nn.Linear(4, 256), nn.Unflatten(1, (16, 4, 4)), nn.Conv2d(16, 1, 1))
    torch.save(module, tmp_path / "m.pt")
    bp = vaeprobe.inspect(tmp_path / "m.pt", draft_blueprint=True).draft
    assert bp is not None
    assert any("the output ends in a sigmoid" in a for a in bp.assumptions) is not inside
    assert (bp.layers[-1].kind == "sigmoid") is not inside


# -- steps and places ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [nn.GRU, nn.LSTM])
def test_a_recurrent_layer_whose_steps_the_next_layer_tells(cell: type[nn.GRU | nn.LSTM]) -> None:
    fc, rnn, out = nn.Linear(3, 6), cell(6, 4, batch_first=True), nn.Linear(20, 7)
    tensors = state(**{"decoder.fc": fc, "decoder.rnn": rnn, "decoder.out": out})
    bp = draft(tensors)
    parts = assemble(bp, tensors)
    z = torch.randn(4, 3)
    h = fc(z)[:, None].expand(-1, 5, -1)
    assert torch.allclose(parts.decoder(z), out(rnn(h)[0].flatten(1)), atol=1e-6)
    assert "its input is the same at each of 5 steps (`decoder.rnn`)" in bp.assumptions
    assert not any("left out" in a for a in bp.assumptions)
    assert Blueprint.from_toml(bp.to_toml()).layers == bp.layers


@pytest.mark.parametrize("cell", [nn.GRU, nn.LSTM])
def test_a_recurrent_layer_whose_steps_the_layer_before_tells(cell: type[nn.GRU | nn.LSTM]) -> None:
    fc, rnn, out = nn.Linear(3, 30), cell(6, 4, 2, batch_first=True, bidirectional=True), nn.Linear(8, 2)
    tensors = state(**{"decoder.fc": fc, "decoder.rnn": rnn, "decoder.out": out})
    bp = draft(tensors)
    parts = assemble(bp, tensors)
    z = torch.randn(4, 3)
    expected = out(rnn(fc(z).view(4, 5, 6))[0])
    found = parts.decoder(z)
    assert found.shape == (4, 5, 2)
    assert torch.allclose(found, expected, atol=1e-6)
    assert any("30 numbers are 5 steps of 6" in a for a in bp.assumptions)
    assert not any("left out" in a for a in bp.assumptions)


def jacobian(f: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    rows = [torch.autograd.functional.jacobian(lambda row: f(row[None]).flatten(), row) for row in z]
    return torch.stack(rows)


ENCODERS: dict[str, dict[str, nn.Module]] = {
    "none": {},
    "recurrent": {"encoder": nn.GRU(7, 6), "encoder_mu": nn.Linear(6, 3), "encoder_logvar": nn.Linear(6, 3)},
    "unnamed": {"rnn1": nn.GRU(7, 6), "fc_mu": nn.Linear(6, 3), "fc_var": nn.Linear(6, 3)},
    "attention": {"encoder.l": nn.TransformerEncoderLayer(8, 2, 16), "mu": nn.Linear(8, 3), "logvar": nn.Linear(8, 3)},
}  # fmt: skip


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("prefix", ["decoder.", "dec_", ""])
@pytest.mark.parametrize(
    "rnn", [nn.GRU(3, 4, batch_first=True), nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True)]
)
def test_a_decoder_that_begins_with_a_recurrent_layer(
    rnn: nn.GRU | nn.LSTM, prefix: str, encoder: str
) -> None:
    out = nn.Linear(5 * rnn.hidden_size * (2 if rnn.bidirectional else 1), 7)
    tensors = state(**ENCODERS[encoder], **{f"{prefix}rnn": rnn, f"{prefix}out": out})
    bp = draft(tensors)
    z = torch.randn(4, 3)
    right = jacobian(lambda z: out(rnn(z[:, None].expand(-1, 5, -1))[0].flatten(1)), z)
    decoder = assemble(bp, tensors).decoder
    assert torch.allclose(jacobian(decoder, z), right, atol=1e-6)  # type: ignore[arg-type]
    assert not any("one of them is wrong" in a for a in bp.assumptions)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_attention_between_steps_that_the_layer_before_tells(encoder: str) -> None:
    fc, attn, out = nn.Linear(3, 40), nn.MultiheadAttention(8, 1, batch_first=True), nn.Linear(40, 6)
    tensors = state(**ENCODERS[encoder], **{"decoder.fc": fc, "decoder.attn": attn, "decoder.out": out})
    bp = draft(tensors)
    z = torch.randn(4, 3)
    h = fc(z).view(4, 5, 8)
    expected = out((h + attn(h, h, h)[0]).flatten(1))
    assert torch.allclose(assemble(bp, tensors).decoder(z), expected, atol=1e-6)  # type: ignore[arg-type]
    assert "self-attention of one head between steps, added to its input (`decoder.attn`)" in bp.assumptions
    assert Blueprint.from_toml(bp.to_toml()).layers == bp.layers


@pytest.mark.parametrize("encoder", ["none", "recurrent", "attention"])
@pytest.mark.parametrize("prefix", ["decoder.", ""])
@pytest.mark.parametrize("first", [False, True])
def test_a_file_that_sorts_its_names_leaves_a_recurrent_layer_one_place(
    first: bool, prefix: str, encoder: str
) -> None:
    """`fc`, `out`, `rnn` is not the order of computation."""
    fc = nn.Identity() if first else nn.Linear(3, 6)
    rnn, out = nn.GRU(3 if first else 6, 4, batch_first=True), nn.Linear(20, 7)
    tensors = state(**ENCODERS[encoder], **{f"{prefix}fc": fc, f"{prefix}rnn": rnn, f"{prefix}out": out})
    tensors = dict(sorted(tensors.items()))
    bp = draft(tensors)
    z = torch.randn(4, 3)
    right = out(rnn(fc(z)[:, None].expand(-1, 5, -1))[0].flatten(1))
    assert torch.allclose(assemble(bp, tensors).decoder(z), right, atol=1e-6)  # type: ignore[arg-type]
    place = "comes first" if first else f"follows `{prefix}fc`"
    assert any(f"`{prefix}rnn` {place}, the one place that its sizes fit" in a for a in bp.assumptions)


def test_a_recurrent_layer_that_fits_in_two_places_of_a_sorted_file_is_not_moved() -> None:
    parts = {"decoder.a": nn.Linear(6, 6), "decoder.b": nn.Linear(6, 6), "decoder.c": nn.Linear(30, 7), "decoder.rnn": nn.GRU(6, 6)}  # fmt: skip
    with pytest.raises(ArchitectureError):
        draft(dict(sorted(state(**parts).items())))


@pytest.mark.parametrize("first", [False, True])
def test_a_later_layer_that_takes_all_steps_tells_them(first: bool) -> None:
    fc = nn.Identity() if first else nn.Linear(3, 6)
    rnn, each, out = nn.GRU(3 if first else 6, 4, batch_first=True), nn.Linear(4, 6), nn.Linear(30, 7)
    tensors = state(**{"decoder.fc": fc, "decoder.rnn": rnn, "decoder.each": each, "decoder.out": out})
    bp = draft(tensors)
    z = torch.randn(4, 3)
    h = torch.relu(each(rnn(fc(z)[:, None].expand(-1, 5, -1))[0]))
    assert torch.allclose(assemble(bp, tensors).decoder(z), out(h.flatten(1)), atol=1e-6)  # type: ignore[arg-type]
    assert "its input is the same at each of 5 steps (`decoder.rnn`)" in bp.assumptions


UNSAID = {
    "plain recurrence": (nn.RNN(8, 8), "neither a GRU nor an LSTM"),
    "projected": (nn.LSTM(8, 8, proj_size=7), "neither a GRU nor an LSTM"),
    "cell": (nn.GRUCell(8, 8), "a cell that code calls step by step"),
    "input of another size": (nn.GRU(5, 8), "takes steps of 5 numbers, and what comes before it returns 8"),
    "attention": (nn.MultiheadAttention(8, 2), "the places that it attends between are not recorded"),
    "attention to another": (nn.MultiheadAttention(8, 2, kdim=3, vdim=3), "part of an attention"),
    "transformer": (nn.TransformerDecoderLayer(8, 2, 16), "the attention of a transformer"),
    "maps in one": (nn.ModuleDict({"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8)}), "part of an attention"),
    "maps apart": (nn.ModuleDict({f"{k}_proj": nn.Linear(8, 8) for k in "qkv"}), "part of an attention"),
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["decoder.", ""])
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("case", UNSAID)
def test_a_layer_whose_steps_nothing_tells_is_never_left_out(
    case: str, ordered: bool, encoder: str, prefix: str
) -> None:
    """Whatever stands beside it, and in a file that sorts its names: without it the answer is another network's."""
    part, why = UNSAID[case]
    decoder = {f"{prefix}fc": nn.Linear(3, 8), f"{prefix}mid": part, f"{prefix}out": nn.Linear(8, 5)}
    tensors = state(**ENCODERS[encoder], **decoder)
    with pytest.raises(ArchitectureError, match=why if ordered and encoder == "none" else None) as caught:
        draft(tensors if ordered else dict(sorted(tensors.items())))
    assert "--arch" in str(caught.value.hint)


def test_what_feeds_a_first_recurrent_layer_is_asked_for() -> None:
    rnn, out = nn.GRU(6, 4), nn.Linear(20, 7)
    for name, feeding in (("decoder.emb", nn.Embedding(9, 6)), ("to_state", nn.Linear(3, 4))):
        tensors = state(**{name: feeding, "decoder.rnn": rnn, "decoder.out": out})
        with pytest.raises(ArchitectureError, match=f"at each step is not recorded: `{name}` may give it"):
            draft(tensors)
    tensors = state(**ENCODERS["unnamed"], **{"decoder.rnn": rnn, "decoder.out": out})
    with pytest.raises(ArchitectureError, match="steps of 6 numbers, and the encoder gives 3 means"):
        draft(tensors)


@pytest.mark.parametrize(
    "command", [["inspect", "--draft-blueprint", "out.toml"], ["orthogonality", "--blueprint", "draft"]]
)
@pytest.mark.parametrize(("part", "way"), [(nn.GRU(8, 8), "{ repeat = STEPS }"), (nn.RNN(8, 8), "--arch")])
def test_every_command_that_drafts_says_the_way_out(
    command: list[str],
    part: nn.Module,
    way: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(
        state(**{"decoder.fc": nn.Linear(3, 8), "decoder.rnn": part, "decoder.out": nn.Linear(8, 5)}), "m.pt"
    )
    assert run([command[0], "m.pt", *command[1:]]) == 5
    assert way in capsys.readouterr().err.partition("hint: ")[2]
    assert not Path("out.toml").exists()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_the_steps_that_a_draft_asks_for_are_said_in_a_blueprint(
    first: bool, last: bool, tmp_path: Path
) -> None:
    """The lines of the hint, with a number in place of STEPS, are the network."""
    fc = nn.Identity() if first else nn.Linear(3, 6)
    rnn, out = nn.GRU(3 if first else 6, 4, batch_first=True), nn.Linear(4, 7)
    path = tmp_path / "model.pt"
    torch.save(state(**{"decoder.fc": fc, "decoder.rnn": rnn, "decoder.out": out}), path)
    with pytest.raises(ArchitectureError, match=r"number of steps that `decoder\.rnn` takes") as caught:
        vaeprobe.load(path, blueprint="draft")
    hint = str(caught.value.hint)
    latents, table, layers = re.findall(r"`([^`]*)`", hint)[:3]
    assert "`last = true`" in hint
    layers = layers.replace("STEPS", "5").replace('"decoder.rnn"', '"decoder.rnn", last = true') if last else layers.replace("STEPS", "5")  # fmt: skip
    (tmp_path / "model.toml").write_text(f"{latents}\n{table}\n{layers}\n")
    decoder = vaeprobe.load(path)
    z = torch.randn(4, 3)
    h = rnn(fc(z)[:, None].expand(-1, 5, -1))[0]
    torch.testing.assert_close(decoder(z), out(h[:, -1] if last else h).detach())


@pytest.mark.parametrize("names", ["diffusers", "torch"])
def test_an_attention_between_the_places_of_a_map(names: str) -> None:
    fc, up, out = nn.Linear(3, 32), nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.Conv2d(8, 3, 3, padding=1)
    if names == "diffusers":
        linear = {k: nn.Linear(8, 8) for k in ("to_q", "to_k", "to_v")}
        attn: nn.Module = nn.ModuleDict({"group_norm": nn.GroupNorm(8, 8), **linear, "to_out": nn.ModuleList([nn.Linear(8, 8)])})  # fmt: skip
    else:
        attn = nn.MultiheadAttention(8, 1, batch_first=True)
    tensors = state(**{"decoder.fc": fc, "decoder.up": up, "decoder.attn": attn, "decoder.out": out})
    bp = draft(tensors)
    z = torch.randn(4, 3)
    x = torch.relu(fc(z)).view(4, 8, 2, 2)
    if names == "diffusers":
        h = up(x)
        y = attn["group_norm"](h).flatten(2).mT  # type: ignore[index]
        weights = torch.softmax(attn["to_q"](y) @ attn["to_k"](y).mT / 8**0.5, -1)  # type: ignore[index]
        y = attn["to_out"][0](weights @ attn["to_v"](y))  # type: ignore[index]
    else:
        h = up(x)
        y = h.flatten(2).mT
        y = attn(y, y, y)[0]
    expected = torch.sigmoid(out(h + y.mT.reshape(h.shape)))
    found = assemble(bp, tensors).decoder(z)
    assert torch.allclose(found, expected, atol=1e-6)
    assert any(a.startswith("self-attention of one head") for a in bp.assumptions)
    assert not any("left out" in a for a in bp.assumptions)
    assert Blueprint.from_toml(bp.to_toml()).layers == bp.layers


@pytest.mark.parametrize(("size", "shape"), [("8x8", (8, 8)), ("4x6", (4, 6))])
def test_the_size_of_the_map_that_a_first_convolution_takes_is_said(
    size: str, shape: tuple[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By loading and in a written draft, as the error without it says."""
    first, second = nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
    module = nn.Sequential(first, nn.ReLU(), second, nn.Sigmoid())
    path = tmp_path / "model.pt"
    torch.save({f"decoder.{k}": v for k, v in module.state_dict().items()}, path)
    with pytest.raises(ArchitectureError, match="begins with a convolution") as caught:
        vaeprobe.load(path, blueprint="draft")
    assert "--latent-size 8x8" in str(caught.value.hint)
    z = torch.randn(3, 4 * shape[0] * shape[1])
    decoder = vaeprobe.load(path, blueprint="draft", latent_size=size)
    assert decoder.latent_shape == (4, *shape)
    torch.testing.assert_close(decoder(z), module(z.reshape(3, 4, *shape)))
    written = tmp_path / "model.toml"
    assert run(["inspect", str(path), "--draft-blueprint", str(written), "--latent-size", size]) == 0
    capsys.readouterr()
    torch.testing.assert_close(vaeprobe.load(path, blueprint=written)(z), decoder(z))


def test_a_first_transposed_convolution_takes_a_map_of_the_size_that_is_said(tmp_path: Path) -> None:
    module = nn.Sequential(
        nn.ConvTranspose2d(4, 8, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 1, 4, 2, 1), nn.Sigmoid()
    )
    path = tmp_path / "model.pt"
    torch.save({f"decoder.{k}": v for k, v in module.state_dict().items()}, path)
    z = torch.randn(3, 4 * 4)
    decoder = vaeprobe.load(path, blueprint="draft", latent_size="2x2")
    torch.testing.assert_close(decoder(z), module(z.reshape(3, 4, 2, 2)))
