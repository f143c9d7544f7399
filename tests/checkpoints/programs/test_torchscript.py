"""TorchScript: the same numbers as torch's interpreter, right derivatives on every call, and no torch.jit."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vaeprobe
from vaeprobe.checkpoints.blueprint import Blueprint, BlueprintError
from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.checkpoints.programs import operators, torchscript
from vaeprobe.cli import run
from vaeprobe.decoder import Decoder, Group
from vaeprobe.engine.verbs import jacobian
from vaeprobe.errors import InputError, UsageError
from vaeprobe.files.zips import open_archive

from programs import before_linear, network, scripted, small_pt2, small_script


def read(data: bytes, **how: Any) -> Parts:
    return torchscript.read(open_archive(data), **how)


class Many(nn.Module):
    """Control flow, lists, tuples, constants, assertions, functions, recurrent layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.norm.running_mean = torch.randn(8)
        self.drop = nn.Dropout()
        self.up = nn.ConvTranspose2d(8, 4, 3, 2, 1, 1)
        self.resize = nn.Upsample(scale_factor=2.0)
        self.group_norm = nn.GroupNorm(2, 4)
        self.layer_norm = nn.LayerNorm(8)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.more = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.gain: float = 2.0
        self.register_buffer("grid", torch.linspace(-1, 1, 4))

    def forward(self, z: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor | None]]:
        x = self.drop(self.norm(self.first(z)))
        for layer in self.more:
            x = x + nn.functional.silu(layer(x))
        x = self.layer_norm(x)
        if x.shape[0] > 100 and self.gain > 1.0:
            x = x * 2
        steps, _ = self.gru(x[:, None].expand(-1, 3, -1))
        h = torch.zeros(x.size(0), 3) + steps[:, -1, :3] * self.gain
        y = self.group_norm(self.resize(self.up(x.view(-1, 8, 1, 1)))) + self.grid
        outs = []
        for i in range(3):
            outs.append(y[:, i] * (i + 1) / 2)
        out = torch.stack(outs, 1)
        assert out.shape[1] == 3, "no"
        return torch.sigmoid(out) * 0.5 + h.mean(1)[:, None, None, None], (h, None)


def test_the_same_numbers_as_torch() -> None:
    net = Many().eval()
    parts = read(scripted(net))
    for n in (1, 3, 101):
        z = torch.randn(n, 4)
        assert torch.allclose(parts.decoder(z)[0], net(z)[0], atol=1e-6)
        assert torch.allclose(parts.decoder(z)[1][0], net(z)[1][0], atol=1e-6)


def test_traces() -> None:
    net = network()
    parts = read(scripted(net, torch.zeros(3, 2)))
    z = torch.randn(5, 2)
    assert torch.equal(parts.decoder(z), net(z))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("traced", [False, True])
def test_forward_mode_is_right_on_every_call(dtype: torch.dtype, traced: bool) -> None:
    """Torch's own executor returns zeros from the second call on."""
    net = network().to(dtype)
    parts = read(scripted(net, torch.zeros(3, 2, dtype=dtype) if traced else None))
    decoder = Decoder(parts.decoder, 2)
    z = torch.randn(4, 2, dtype=dtype)
    expected = torch.stack([torch.func.jacrev(lambda r: net(r[None]).flatten())(row) for row in z])
    assert float(expected.abs().max()) > 1e-3
    for _ in range(4):
        _, Jv = torch.func.jvp(decoder.flat, (z,), (torch.ones_like(z),))
        assert torch.allclose(Jv, expected.sum(2), atol=1e-6)
        assert torch.allclose(jacobian(decoder, z), expected, atol=1e-6)
    assert (decoder.differentiation, decoder.dtype) == ("forward", dtype)


def test_frozen_modules_work_in_float64() -> None:
    net = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = torch.jit.freeze(torch.jit.script(net))
        stream = io.BytesIO()
        torch.jit.save(frozen, stream)
    parts = read(stream.getvalue(), latent_dim=2)
    z = torch.randn(3, 2)
    assert torch.allclose(parts.decoder(z), net(z), atol=1e-6)


def test_training_mode_is_undone_and_said() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)).train()
    parts = read(scripted(net))
    assert "training-mode" in [n.code for n in parts.notes]
    z = torch.randn(5, 3)
    assert torch.allclose(parts.decoder(z), net.eval()(z), atol=1e-6)


def test_the_number_of_latents_is_inferred_and_said() -> None:
    parts = read(small_script())
    assert parts.latent_dim == 2
    assert "latents-inferred" in [n.code for n in parts.notes]
    assert "latents-inferred" not in [n.code for n in read(small_script(), latent_dim=2).notes]
    with pytest.raises(BlueprintError, match="does not take 5 latents"):
        read(small_script(), latent_dim=5)


class Contexts(nn.Module):
    """Statements that change no value: no_grad and autocast, around layers and in a method that another calls."""

    __constants__ = ("enabled",)

    def __init__(self, enabled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.act = nn.Linear(4, 8), nn.Linear(8, 12), nn.RReLU()
        self.enabled = enabled

    def rates(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cos(z)

    def forward(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            h = self.act(self.first(z))
        with torch.autocast("cpu", enabled=self.enabled):
            h = torch.tanh(h)
        return self.last(h * self.rates(h))


@pytest.mark.parametrize("enabled", [False, True])
def test_contexts_of_derivatives_and_precision_change_no_value(enabled: bool) -> None:
    net = Contexts(enabled).eval()
    parts, z = read(scripted(net)), torch.randn(5, 4)
    assert [n.code for n in parts.notes if n.code != "latents-inferred"] == ["cast-up"] * enabled

    def function(z: Tensor) -> Tensor:
        h = torch.tanh(nn.functional.leaky_relu(net.first(z), (net.act.lower + net.act.upper) / 2))
        y: Tensor = net.last(h * torch.cos(h))
        return y

    assert torch.allclose(parts.decoder(z), function(z), atol=1e-6)
    expected = torch.stack([torch.func.jacrev(lambda r: function(r[None])[0])(row) for row in z])
    assert torch.allclose(jacobian(Decoder(parts.decoder, 4), z), expected, atol=1e-6)


def test_other_contexts_are_not_supported() -> None:
    with pytest.raises(InputError, match="`with self`"):
        read(before_linear("with self:", "  input = input * 2"))


@pytest.mark.parametrize("last", [1.0, 0.0])
def test_latents_that_are_never_read_are_none(last: float) -> None:
    """A hierarchical decoder slices its latents: no weight has as many columns as they are, and it runs with more.

    A last slice that moves nothing belongs to them all the same: the program does not run without it.
    """

    class Slices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.out = nn.Linear(2, 16), nn.Linear(4, 16), nn.Linear(16, 5)

        def forward(self, z: Tensor) -> Tensor:
            out: Tensor = self.out(torch.tanh(self.a(z[:, :2]) + self.b(torch.tanh(z[:, 2:6]))))
            return out

    net = Slices().eval()
    net.b.weight.data *= last
    parts = read(scripted(net))
    (said,) = [note for note in parts.notes if note.code == "latents-inferred"]
    assert (parts.latent_dim, said.level) == (6, "warning")
    assert "it runs with 16 as well, and 6 were taken" in said.message
    assert not [n for n in read(scripted(net), latent_dim=6).notes if n.code == "latents-inferred"]


def test_a_program_that_runs_with_other_numbers_of_latents_warns() -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(2, 8)

        def forward(self, z: Tensor) -> Tensor:
            out: Tensor = self.a(z[:, :4]) + self.b(z[:, -2:])
            return out

    (said,) = [note for note in read(scripted(Ends().eval())).notes if note.code == "latents-inferred"]
    assert said.level == "warning"
    assert "it runs with 5 as well, and 4 were taken" in said.message


def test_a_batch_fixed_inside_that_two_rows_of_more_latents_fill_is_told() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.out = nn.Linear(6, 12), nn.Linear(12, 5)

        def forward(self, z: Tensor) -> Tensor:
            out: Tensor = self.out(torch.tanh(self.a(z.reshape(4, 6))))
            return out

    with pytest.raises(InputError, match="runs with 2 rows of 12 latents, and not with 3") as caught:
        read(scripted(Fixed().eval()))
    assert "--latent-dim" in str(caught.value.hint)
    with pytest.raises(InputError, match="runs with 4 rows of latents at a time, and not with 2"):
        read(scripted(Fixed().eval()), latent_dim=6)


class Expanded(nn.Module):
    """A recurrence whose first state is made for the latents that it was traced with."""

    def __init__(self, cell: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.rnn = (
            nn.Linear(5, 6),
            (nn.LSTM if cell == "lstm" else nn.GRU)(4, 6, batch_first=True),
        )
        self.token = nn.Parameter(torch.randn(1, 3, 4))

    def forward(self, z: Tensor) -> Tensor:
        state = torch.tanh(self.embed(z))[None]
        start = (state, state) if isinstance(self.rnn, nn.LSTM) else state
        out: Tensor = self.rnn(self.token.expand(len(z), -1, -1), start)[0]
        return out


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_recurrence_with_a_batch_fixed_inside_is_told(cell: str) -> None:
    """Torch's LSTM on a state for other latents than its input's writes beyond its memory."""
    data = scripted(Expanded(cell).eval(), torch.randn(3, 5))
    for how in ({}, {"latent_dim": 5}):
        with pytest.raises(
            InputError, match="runs with 3 rows of latents at a time, and not with 2"
        ) as caught:
            read(data, **how)
        assert "z.shape[0]" in str(caught.value.hint)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("what", ["state", "hidden", "layers", "weight", "input", "sequences"])
def test_recurrences_of_other_shapes_are_refused(cell: str, what: str) -> None:
    function = operators.operator(cell)
    x, state = torch.randn(3, 2, 4), torch.randn(1, 2, 6)
    gates = 24 if cell == "lstm" else 18
    weights = [torch.randn(gates, 4), torch.randn(gates, 6), torch.randn(gates), torch.randn(gates)]
    settings = (True, 1, 0.0, False, False, False)

    def run(x: Tensor, state: Tensor, weights: list[Tensor], settings: tuple[Any, ...] = settings) -> Any:
        return function(x, [state, state] if cell == "lstm" else state, weights, *settings)

    whole = getattr(nn, cell.upper())(4, 6)
    whole.load_state_dict(dict(zip(whole.state_dict(), weights, strict=True)))
    expected = whole(x, (state, state) if cell == "lstm" else state)[0]
    torch.testing.assert_close(run(x, state, weights)[0], expected)
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([3, 2]))
    states = [state, state] if cell == "lstm" else state
    torch.testing.assert_close(
        function(packed.data, packed.batch_sizes, states, weights, *settings[:-1])[0],
        whole(packed, tuple(states) if cell == "lstm" else state)[0].data,
    )
    wrong: dict[str, Callable[[], object]] = {
        "state": lambda: run(x, torch.randn(1, 3, 6), weights),
        "hidden": lambda: run(x, torch.randn(1, 2, 5), weights),
        "layers": lambda: run(x, state, weights, (True, 2, 0.0, False, False, False)),
        "weight": lambda: run(x, state, [weights[0], weights[1][:-1], *weights[2:]]),
        "input": lambda: run(x[..., :3], state, weights),
        "sequences": lambda: function(packed.data, packed.batch_sizes + 1, states, weights, *settings[:-1]),
    }
    with pytest.raises(InputError, match=f"the program gives {cell}"):
        wrong[what]()


def test_latents_as_one_by_one_images() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(6, 2, 4), nn.Tanh()).eval()
    parts = read(scripted(net))
    z = torch.randn(4, 6)
    assert parts.latent_dim == 6
    assert torch.equal(parts.decoder(z), net(z[:, :, None, None]))


class Broadcast(nn.Module):
    """A spatial broadcast decoder: no weight takes the latents as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(5, 3, 3, padding=1)
        axis = torch.linspace(-1, 1, 8)
        self.register_buffer("x", axis.view(1, 1, 1, 8).expand(1, 1, 8, 8))
        self.register_buffer("y", axis.view(1, 1, 8, 1).expand(1, 1, 8, 8))

    def forward(self, z: Tensor) -> Tensor:
        n = z.size(0)
        h = z.view(n, 3, 1, 1).expand(-1, -1, 8, 8)
        return torch.tanh(
            self.conv(torch.cat([h, self.x.expand(n, -1, -1, -1), self.y.expand(n, -1, -1, -1)], 1))
        )


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.Linear(3, 32)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, z: Tensor) -> Tensor:
        return self.layer(self.spread(z).view(-1, 4, 8))


@pytest.mark.parametrize("kind", [Broadcast, Attention])
def test_other_architectures(kind: type[nn.Module]) -> None:
    net = kind().eval()
    parts = read(scripted(net))
    z = torch.randn(4, 3)
    assert parts.latent_dim == 3
    assert torch.allclose(parts.decoder(z), net(z), atol=1e-5)


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(5, 4)
        self.decoder = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x)[:, :2])


def test_a_part_of_a_program() -> None:
    net = VAE().eval()
    parts = read(scripted(net), submodule="decoder")
    z = torch.randn(3, 2)
    assert torch.equal(parts.decoder(z), net.decoder(z))
    with pytest.raises(BlueprintError, match="no module `decode`") as caught:
        read(scripted(net), submodule="decode")
    assert "did you mean `decoder`" in (caught.value.hint or "")


def test_the_last_activation_comes_off() -> None:
    net = network()
    parts = read(small_script())
    z = torch.randn(4, 2)
    assert parts.natural is not None
    assert torch.equal(parts.natural(z), net[:-1](z))
    assert read(small_script(), blueprint=Blueprint(likelihood="gaussian")).natural is None


def test_a_blueprint_without_layers_says_the_prior() -> None:
    bp = Blueprint.from_toml("latents = [{ normal = 1 }, { onehot = 1 }]")
    assert read(small_script(), blueprint=bp).prior == (Group("normal", 1), Group("onehot", 1))


def test_an_assertion_of_the_program_is_an_error_of_ours() -> None:
    class Fussy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Linear(3, 2)

        def forward(self, z: Tensor) -> Tensor:
            assert z.shape[0] > 10, "ten rows at least"
            return self.w(z)

    with pytest.raises(InputError, match="ten rows at least"):
        read(scripted(Fussy()))


def test_torch_jit_is_never_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.ts").write_bytes(small_script())

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("torch.jit was called")

    for owner, name in (
        (torch.jit, "load"), (torch._C, "import_ir_module"), (torch._C, "import_ir_module_from_buffer"),
        (torch._C, "ScriptModule"), (torch, "load"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, never)
    assert vaeprobe.load(tmp_path / "m.ts").latent_dim == 2


# -- real files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "weights", "d"),
    [
        ("formats/btcvae_dsprites_script.ts", "disvae/btcvae_dsprites/model.pt", 10),
        ("formats/jointvae_fashion_trace.ts", "jointvae/fashion.pt", 20),
    ],
)
def test_the_files_agree_with_the_state_dicts_they_came_from(
    models: Path, program: str, weights: str, d: int
) -> None:
    ours, theirs = vaeprobe.load(models / program), vaeprobe.load(models / weights)
    assert ours.latent_dim == d
    z = torch.randn(8, d)
    assert float((ours(z) - theirs(z)).abs().max()) <= 1e-5
    assert torch.allclose(ours.natural_flat(z), theirs.natural_flat(z), rtol=1e-5, atol=1e-5)
    k = theirs.continuous
    J = jacobian(theirs, z)
    for _ in range(3):
        assert float((jacobian(ours, z)[:, :, k] - J).abs().max()) <= 1e-5 * float(J.abs().max())


class Conditional(nn.Module):
    """A decoder that takes a class, and another that takes its one-hot vector, or a number, beside its latents."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed: bool = kind == "embedding"
        self.table = nn.Embedding(4, width)
        self.layer = nn.Linear(5 + width, 6)

    def forward(self, z: Tensor, label: Tensor, scale: float = 1.0) -> Tensor:
        beside = self.table(label) if self.embed else label
        return torch.tanh(self.layer(torch.cat([z, beside], 1))) * scale


@pytest.mark.parametrize(
    ("kind", "width", "said", "row"),
    [
        ("embedding", 3, "label = 2", torch.tensor(2)),
        ("onehot", 4, "label = 2 of 4", torch.tensor([0.0, 0, 1, 0])),
        ("number", 1, "label = 2", torch.tensor([2.0])),
    ],
)
def test_inputs_beside_the_latents_are_held(
    tmp_path: Path, kind: str, width: int, said: str, row: Tensor
) -> None:
    net = Conditional(width, kind).eval()
    (tmp_path / "m.ts").write_bytes(scripted(net))
    decoder = vaeprobe.load(tmp_path / "m.ts", latent_dim=5, condition={"label": 2})
    assert decoder.artifact is not None
    assert decoder.artifact.architecture == f"self-contained at {said}"
    z = torch.randn(3, 5)
    assert torch.equal(decoder(z), net(z, row.expand(3, *row.shape)))
    unsaid = vaeprobe.load(tmp_path / "m.ts", latent_dim=5)
    assert "condition-held" in [note.code for note in unsaid.notes]


def test_inputs_that_cannot_be_held_are_told_by_name(tmp_path: Path) -> None:
    path = tmp_path / "m.ts"
    path.write_bytes(scripted(Conditional(3, "embedding").eval()))
    with pytest.raises(InputError, match="takes `label` beside the latents") as open_number:
        vaeprobe.load(path)
    assert "--latent-dim" in (open_number.value.hint or "")
    with pytest.raises(InputError, match="does not run on 7 of these") as wrong:
        vaeprobe.load(path, latent_dim=7)
    assert "is the number of latents right?" in (wrong.value.hint or "")
    assert ".pt2 or ONNX" in (wrong.value.hint or "")
    with pytest.raises(UsageError, match=r"takes no label = 9: .*out of range"):
        vaeprobe.load(path, latent_dim=5, condition={"label": 9})
    with pytest.raises(UsageError, match="no condition `lable`"):
        vaeprobe.load(path, latent_dim=5, condition={"lable": 1})
    path.write_bytes(small_script())
    with pytest.raises(UsageError, match="no condition `label`"):
        vaeprobe.load(path, condition={"label": 1})


def test_a_size_that_is_a_whole_row_says_the_number_of_latents() -> None:
    decoder = nn.Sequential(nn.Conv1d(3, 4, 3, 1, 1), nn.Tanh())
    data = scripted(decoder.eval(), torch.zeros(1, 3, 8))
    assert read(data, latent_size=(3, 8)).notes == ()
    assert [note.code for note in read(data, latent_size=(8,)).notes] == ["latents-inferred"]


def test_an_inspection_takes_the_size_of_maps_and_lists_tensors_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.ts"
    decoder = nn.Sequential(nn.Conv1d(3, 4, 3, 1, 1), nn.Tanh())
    path.write_bytes(scripted(decoder.eval(), torch.zeros(1, 3, 8)))
    assert run(["inspect", str(path), "--latent-size", "3x8"]) == 0
    assert "A program of 24 latents" in capsys.readouterr().out
    found = vaeprobe.inspect(path)
    assert {t.name: t.shape for t in found.tensors} == {"0.weight": (4, 3, 3), "0.bias": (4,)}
    (said,) = found.findings
    assert said.code == "latents-open"
    assert "to probe it, add --latent-dim D, --latent-size" in (said.hint or "")
    path.write_bytes(scripted(Conditional(3, "embedding").eval()))
    assert "takes `label` beside the latents" in vaeprobe.inspect(path).findings[0].message


def test_an_inspection_of_what_has_no_open_size_takes_none(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(small_pt2())
    with pytest.raises(UsageError, match="depends on the size of its latents") as program:
        vaeprobe.inspect(tmp_path / "m.pt2", latent_size="4x4")
    assert program.value.hint == "leave out --latent-size"
    torch.save(network().state_dict(), tmp_path / "m.pt")
    with pytest.raises(UsageError, match="depends on the size of its latents") as weights:
        vaeprobe.inspect(tmp_path / "m.pt", latent_size="4x4")
    assert "--draft-blueprint" in (weights.value.hint or "")


# -- lists, and what is not supported ------------------------------------------------------------------------


class Lists(nn.Module):
    """Lists of tensors made, joined, cut, turned and taken apart."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 8)
        self.last = nn.Linear(8, 6)

    def forward(self, z: Tensor) -> Tensor:
        h = torch.relu(self.first(z))
        three = torch.stack([h, h * 2] * 2, 1)[:, :3]
        parts = list(h.split(2, 1))
        turned = parts[1:] + parts[:1]
        turned += [parts[0] * 3]
        steps: list[Tensor] = []
        for part in turned[::2]:
            steps.append(part.tanh())
        steps.insert(0, steps.pop() + 1)
        steps.reverse()
        steps[0] = steps[0] * 5
        steps.extend(turned[3:])
        other = steps.copy()
        other.clear()
        order = [3, 1, 2]
        order.sort()
        named = {"x": h}
        named["y"] = three.sum(1)
        for name, value in named.items():
            if name == "y":
                h = h + value
        out: Tensor = self.last(h) * float(order[0] + len(other))
        return torch.cat([out, torch.cat(steps, 1)], 1)


class Unsupported(Lists):
    """Runs with four latents, and torch.export writes it without `sorted`."""

    def forward(self, z: Tensor) -> Tensor:
        order = sorted([3, 1, 2])
        out: Tensor = self.last(torch.relu(self.first(z))) * float(order[2])
        return out


class Listed(Lists):
    def forward(self, z: Tensor) -> Tensor:
        steps: list[Tensor] = []
        for _ in range(3):
            steps = steps + [self.first(z)] * 2
        steps = steps[1:]
        out: Tensor = self.last(torch.cat(steps, 1)[:, 8:16])
        return out


@pytest.mark.parametrize("kind", [Lists, Listed])
def test_lists_of_tensors(kind: type[nn.Module]) -> None:
    net = kind().eval()
    z = torch.randn(5, 4)
    assert torch.allclose(read(scripted(net)).decoder(z), net(z), atol=1e-6)


@pytest.mark.parametrize("latent_dim", [None, 4])
def test_what_is_not_supported_is_refused_for_that_and_not_for_its_latents(
    latent_dim: int | None, tmp_path: Path
) -> None:
    """And both ways out lead out."""
    net = Unsupported().eval()
    (tmp_path / "m.pt").write_bytes(scripted(net))
    with pytest.raises(InputError, match="uses `sorted`, which is not supported") as caught:
        vaeprobe.load(tmp_path / "m.pt", latent_dim=latent_dim)
    assert caught.value.exit_code == 5
    assert "torch.export.save" in str(caught.value.hint)
    assert "--arch" in str(caught.value.hint)
    z = torch.randn(3, 4)
    torch.export.save(torch.export.export(net, (z,)), tmp_path / "decoder.pt2")
    torch.testing.assert_close(vaeprobe.load(tmp_path / "decoder.pt2")(z), net(z).detach())
    torch.save(net.state_dict(), tmp_path / "w.pt")
    decoder = vaeprobe.load(tmp_path / "w.pt", arch=f"{__file__}:Unsupported", latent_dim=4)
    torch.testing.assert_close(decoder(z), net(z).detach())


def test_a_list_taken_apart_at_a_wrong_number_of_latents_is_no_unsupported_program() -> None:
    class Two(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            a, b = z.chunk(2, 1)
            return a * b

    with pytest.raises(BlueprintError, match="takes apart 1 values as if they were 2"):
        read(scripted(Two()), latent_dim=1)
    assert read(scripted(Two()), latent_dim=4).latent_dim == 4
