""".pt2 programs: the same numbers as torch's own loader, by a reader that runs nothing of the file."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
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
from vaeprobe.checkpoints.programs import exported as module
from vaeprobe.checkpoints.programs.program import Program
from vaeprobe.decoder import Decoder, Group
from vaeprobe.engine.verbs import jacobian
from vaeprobe.errors import InputError, UnsafeError, UsageError
from vaeprobe.files.zips import open_archive

from programs import exported, network, small_pt2, with_graph


def read(data: bytes, **how: Any) -> Parts:
    return module.read(open_archive(data), **how)


def by_torch(data: bytes) -> Callable[[Tensor], Tensor]:
    """Return the program as torch's own loader reads it."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Callable[[Tensor], Tensor] = torch.export.load(io.BytesIO(data)).module()
            return program
    finally:
        logging.disable(logging.NOTSET)


class Many(nn.Module):
    """Most operators that decoders use, shapes that depend on the batch, a constant, a list, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 16)
        self.norm = nn.BatchNorm1d(16)
        self.norm.running_mean = torch.randn(16)
        self.more = nn.ModuleList([nn.Linear(16, 16) for _ in range(2)])
        self.layer_norm = nn.LayerNorm(16)
        self.prelu = nn.PReLU()
        self.up = nn.ConvTranspose2d(16, 4, 3, 2, 1, 1)
        self.group_norm = nn.GroupNorm(2, 4)
        self.drop = nn.Dropout()
        self.register_buffer("grid", torch.linspace(-1, 1, 4), persistent=False)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x = self.drop(self.norm(self.first(z)))
        for layer in self.more:
            x = x + torch.nn.functional.silu(layer(x))
        x = self.prelu(self.layer_norm(x))
        y = self.up(x.view(z.shape[0], 16, 1, 1))
        y = torch.nn.functional.interpolate(self.group_norm(y), scale_factor=2, mode="nearest") + self.grid
        y = torch.cat([y, y.flip(1)], dim=1)
        a, b = y.chunk(2, dim=1)
        return torch.sigmoid(a * torch.exp(-b.abs())) + z.mean(1)[:, None, None, None], x


def test_the_same_numbers_as_torch() -> None:
    data = exported(Many().eval(), torch.randn(3, 4))
    parts = read(data)
    for n in (1, 2, 5):
        z = torch.randn(n, 4)
        ours, theirs = parts.decoder(z), by_torch(data)(z)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivatives_on_repeated_calls(dtype: torch.dtype) -> None:
    net = Many().eval().to(dtype)
    parts = read(exported(net, torch.randn(3, 4, dtype=dtype)))
    decoder = Decoder(parts.decoder, parts.latent_dim)
    z = torch.randn(2, 4, dtype=dtype)
    expected = torch.stack([torch.func.jacrev(lambda r: net(r[None])[0].flatten())(row) for row in z])
    for _ in range(3):
        assert torch.allclose(jacobian(decoder, z), expected, rtol=1e-5, atol=1e-6)
    assert (decoder.differentiation, decoder.dtype) == ("forward", dtype)


def test_a_fixed_batch_is_filled_up_and_said() -> None:
    net = network()
    parts = read(exported(net, torch.zeros(3, 2), dynamic=False))
    assert [n.code for n in parts.notes] == ["fixed-batch"]
    for n in (1, 3, 4, 7):
        z = torch.randn(n, 2)
        assert torch.allclose(parts.decoder(z), net(z), atol=1e-6)
    decoder = Decoder(parts.decoder, 2, natural=parts.natural)
    assert decoder.data_dim == 32
    z = torch.randn(2, 2)
    assert torch.allclose(jacobian(decoder, z), jacobian(Decoder(net, 2), z), atol=1e-6)


def test_one_row_without_a_batch_axis() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh()).eval()
    parts = read(exported(net, torch.zeros(3), dynamic=False))
    z = torch.randn(4, 3)
    assert parts.latent_dim == 3
    assert torch.allclose(parts.decoder(z), net(z), atol=1e-6)


def test_latents_as_one_by_one_images() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(6, 2, 4), nn.Tanh()).eval()
    parts = read(exported(net, torch.zeros(2, 6, 1, 1)))
    z = torch.randn(4, 6)
    assert parts.latent_dim == 6
    assert torch.equal(parts.decoder(z), net(z[:, :, None, None]))


def test_training_mode_is_undone_and_said() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)).train()
    parts = read(exported(net, torch.randn(4, 3)))
    assert "training-mode" in [n.code for n in parts.notes]
    z = torch.randn(5, 3)
    assert torch.allclose(parts.decoder(z), net.eval()(z), atol=1e-6)


def test_in_place_operators_leave_the_latents_alone() -> None:
    class InPlace(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z.clone().relu_().add_(1) * 2

    parts = read(exported(InPlace(), torch.randn(3, 2)), latent_dim=2)
    z = torch.randn(4, 2)
    before = z.clone()
    assert torch.equal(parts.decoder(z), (z.relu() + 1) * 2)
    assert torch.equal(z, before)


def test_the_last_activation_comes_off() -> None:
    net = network()
    parts = read(small_pt2())
    z = torch.randn(4, 2)
    assert isinstance(parts.natural, Program)
    assert torch.equal(parts.natural(z), net[:-1](z))
    assert read(small_pt2(), blueprint=Blueprint(likelihood="gaussian")).natural is None


class Gated(nn.Module):
    """A layer in two halves, one of which opens the other, as in attention and recurrent cells."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(2, 12)
        self.heads = nn.MultiheadAttention(6, 2, batch_first=True)

    def natural(self, z: Tensor) -> Tensor:
        a, b = self.both(z).chunk(2, -1)
        x, y = torch.stack([a.sigmoid(), b], 1).split(1, 1)
        h = torch.cat([x, y], 1)
        out: Tensor = self.heads(h, h, h, need_weights=False)[0].flatten(1)
        return out

    def forward(self, z: Tensor) -> Tensor:
        return self.natural(z).sigmoid()


def test_the_last_activation_comes_off_where_an_operator_returns_a_list() -> None:
    torch.manual_seed(0)
    net, z = Gated().eval(), torch.randn(3, 2)
    parts = read(exported(net, z))
    assert torch.allclose(parts.decoder(z), net(z), atol=1e-6)
    assert isinstance(parts.natural, Program)
    assert torch.allclose(parts.natural(z), net.natural(z), atol=1e-6)


def test_a_blueprint_without_layers_says_latents_and_likelihood() -> None:
    bp = Blueprint.from_toml('latents = [{ normal = 1 }, { onehot = 1 }]\nlikelihood = "bernoulli"')
    parts = read(small_pt2(), blueprint=bp)
    assert parts.prior == (Group("normal", 1), Group("onehot", 1))
    assert parts.likelihood == "bernoulli"
    assert (
        read(exported(network(), torch.zeros(3, 2), **{"vaeprobe.toml": bp.to_toml()})).prior == parts.prior
    )


def test_layers_in_the_blueprint_of_a_program_are_said_to_be_unused() -> None:
    bp = Blueprint.from_toml('latents = 2\n[decoder]\nlayers = [{ linear = "x" }]', "my.toml")
    (note,) = [n for n in read(small_pt2(), blueprint=bp).notes if n.code == "unused-layers"]
    assert "my.toml" in note.message


def test_wrong_numbers_of_latents() -> None:
    with pytest.raises(BlueprintError, match="says 3 latents, and the program takes 2") as caught:
        read(small_pt2(), blueprint=Blueprint.from_toml("latents = 3"))
    assert "latents = 2" in (caught.value.hint or "")
    with pytest.raises(BlueprintError, match="takes 2 latents, not 5"):
        read(small_pt2(), latent_dim=5)


def test_two_inputs_of_which_none_is_called_the_latents() -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    stream = io.BytesIO()
    program = torch.export.export(Two(), (torch.zeros(2, 3), torch.zeros(2, 3)))
    torch.export.save(program, stream)
    with pytest.raises(InputError, match=r"takes 2 inputs \(`a`, `b`\), and which is the latents") as caught:
        read(stream.getvalue())
    assert "call the input of the latents `z`" in str(caught.value.hint)


class Conditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(5, 2), nn.Linear(3 + 2 + 4 + 1, 6)

    def forward(self, z: Tensor, label: Tensor, kind: Tensor, size: Tensor) -> Tensor:
        return torch.tanh(self.out(torch.cat([z, self.table(label), kind, size], 1)))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("asked", [{}, {"label": 3, "kind": 2, "size": 0.5}])
def test_what_a_program_takes_beside_its_latents_is_held(
    tmp_path: Path, dynamic: bool, asked: dict[str, float]
) -> None:
    net = Conditional().eval()
    given = (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), torch.zeros(2, 4), torch.zeros(2, 1))
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(net, given, dynamic_shapes=(batch,) * 4 if dynamic else None)
    path = tmp_path / "m.pt2"
    torch.export.save(program, path)
    decoder = vaeprobe.load(path, condition=asked)
    z = torch.randn(5, 3)
    hot = torch.eye(4)[int(asked.get("kind", 0))].expand(5, -1)
    label, size = torch.full((5,), int(asked.get("label", 0))), torch.full((5, 1), asked.get("size", 0.0))
    torch.testing.assert_close(decoder(z), net(z, label, hot, size).detach())
    assert ("condition-held" in {n.code for n in decoder.notes}) is not bool(asked)
    assert decoder.artifact is not None
    assert f"label = {int(asked.get('label', 0))} of 5" in decoder.artifact.architecture
    with pytest.raises(UsageError, match="`label` has no class 5"):
        vaeprobe.load(path, condition={"label": 5})
    with pytest.raises(UsageError, match="no condition `lable`"):
        vaeprobe.load(path, condition={"lable": 1})


class Rates(nn.Module):
    """Counts of a cell: expression times the library size, a batch beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3 + 2, 6)

    def forward(self, z: Tensor, batch: Tensor, library: Tensor) -> Tensor:
        return library * self.out(torch.cat([z, batch], 1)).softmax(1)


def test_a_factor_is_held_at_one_and_every_condition_is_named(tmp_path: Path) -> None:
    net, path = Rates().eval(), tmp_path / "m.pt2"
    given = (torch.zeros(2, 3), torch.zeros(2, 2), torch.ones(2, 1))
    torch.export.save(torch.export.export(net, given), path)
    decoder, z = vaeprobe.load(path), torch.randn(2, 3)
    torch.testing.assert_close(decoder(z), net(z, torch.eye(2)[[0, 0]], torch.ones(2, 1)).detach())
    (note,) = [n for n in decoder.notes if n.code == "condition-held"]
    assert "batch = 0 of 2, library = 1" in note.message
    assert "--condition batch=1 --condition library=1000 holds" in str(note.hint)


def test_another_schema_is_said() -> None:
    def edit(document: Any) -> None:
        document["schema_version"]["major"] = 9

    with pytest.raises(InputError, match="schema version 9"):
        read(with_graph(edit))


class Regions(nn.Module):
    """Graphs within the graph: under no_grad as rotary embeddings are, under autocast, and one in the other."""

    def __init__(self, enabled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 12)
        self.enabled = enabled
        self.register_buffer("rates", torch.arange(8.0) / 8)

    @torch.no_grad()
    def rotary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", enabled=False):
            return torch.cos(x * self.rates), torch.sin(x * self.rates)

    def forward(self, z: Tensor) -> Tensor:
        cos, sin = self.rotary(torch.ones(1, 8))
        h = torch.tanh(self.first(z) * cos + sin)
        with torch.autocast("cpu", enabled=self.enabled):
            return self.last(h)


def test_graphs_within_the_graph_are_run_in_their_place() -> None:
    net = Regions().eval()
    data = exported(net, torch.randn(3, 4))
    parts, z = read(data), torch.randn(5, 4)
    assert torch.equal(parts.decoder(z), by_torch(data)(z))
    expected = torch.stack([torch.func.jacrev(lambda r: net(r[None])[0])(row) for row in z])
    assert torch.allclose(jacobian(Decoder(parts.decoder, 4), z), expected, atol=1e-6)
    assert parts.notes == ()


def test_a_decoder_under_no_grad_has_the_derivatives_of_its_function() -> None:
    net = network()

    class Still(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        @torch.no_grad()
        def forward(self, z: Tensor) -> Tensor:
            y: Tensor = self.net(z)
            return y

    parts, z = read(exported(Still(), torch.zeros(3, 2))), torch.randn(5, 2)
    assert torch.allclose(jacobian(Decoder(parts.decoder, 2), z), jacobian(Decoder(net, 2), z), atol=1e-6)


def test_autocast_is_left_out_and_said() -> None:
    net = Regions(enabled=True).eval()
    parts, z = read(exported(net, torch.randn(3, 4))), torch.randn(5, 4)
    assert [n.code for n in parts.notes] == ["cast-up"]
    assert torch.allclose(parts.decoder(z), Regions().eval()(z), atol=1e-6)


def region(document: Any) -> Any:
    """Return the node that runs a graph within the graph."""
    nodes = document["graph_module"]["graph"]["nodes"]
    return next(n for n in nodes if "higher_order" in n["target"])


def graph_of(node: Any) -> Any:
    return next(i["arg"]["as_graph"]["graph"] for i in node["inputs"] if "as_graph" in i["arg"])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda n: n["inputs"].pop(), "other inputs than it takes"),
        (lambda n: n["outputs"].pop(), "other outputs of a graph within it"),
        (lambda n: graph_of(n)["outputs"][0]["as_tensor"].update(name="nowhere"), "which nothing computes"),
        (lambda n: n.update(inputs=[i for i in n["inputs"] if "as_graph" not in i["arg"]]), "that is not there"),
        (lambda n: graph_of(n)["inputs"].append({"as_int": 3}), "without names"),
        (lambda n: graph_of(n)["nodes"][-1].update(target="torch.ops.aten.from_file.default"), "from_file"),
        (lambda n: graph_of(n).update(custom_obj_values={"a": {}}), "custom objects"),
        (lambda n: n.update(target="torch.ops.higher_order.cond"), "higher_order.cond"),
    ],
)  # fmt: skip
def test_what_a_graph_within_the_graph_may_not_do(edit: Callable[[Any], None], message: str) -> None:
    data = with_graph(lambda d: edit(region(d)), exported(Regions().eval(), torch.randn(3, 4)))
    with pytest.raises((InputError, UnsafeError), match=message):
        read(data)


def test_graphs_are_nested_so_deep_and_no_deeper() -> None:
    def nested(document: Any, depth: int) -> None:
        node = region(document)
        graph = graph_of(node)
        inner = graph["nodes"]
        for _ in range(depth):
            whole = {**graph, "nodes": inner}
            given = [{"name": "", "arg": a, "kind": 1} for a in graph["inputs"]]
            argument = {"name": "", "arg": {"as_graph": {"name": "g", "graph": whole}}, "kind": 1}
            inner = [{**node, "inputs": [node["inputs"][0], argument, *given], "outputs": graph["outputs"]}]
        graph["nodes"] = inner

    data, z = exported(Regions().eval(), torch.randn(3, 4)), torch.randn(5, 4)
    ours = read(with_graph(lambda d: nested(d, 3), data)).decoder
    assert torch.equal(ours(z), by_torch(data)(z))
    with pytest.raises(InputError, match="more than 32 deep"):
        read(with_graph(lambda d: nested(d, 40), data))


@pytest.mark.parametrize(
    "keys",
    [
        ("graph_module", "graph"),
        ("graph_module", "graph", "tensor_values"),
        ("graph_module", "graph", "nodes"),
        ("graph_module", "graph", "nodes", 0, "inputs", 0),
        ("graph_module", "graph", "nodes", 0, "inputs", 0, "arg", "as_tensor"),
        ("graph_module", "graph", "nodes", 0, "outputs", 0, "as_tensor"),
        ("graph_module", "signature"),
        ("graph_module", "signature", "input_specs", 0, "parameter", "arg"),
        ("guards_code",),
    ],
    ids=str,
)
def test_something_else_in_the_place_of_a_table_is_unreadable_and_no_bug(keys: tuple[Any, ...]) -> None:
    def edit(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = 7

    with pytest.raises(InputError):
        read(with_graph(edit))


def test_reading_imports_neither_sympy_nor_torch_export(tmp_path: Path) -> None:
    """Neither of the two that would evaluate what is in the file."""
    (tmp_path / "m.pt2").write_bytes(small_pt2())
    code = (
        "import sys; import torch; before = set(sys.modules)\n"
        "from vaeprobe.checkpoints.programs import exported; from vaeprobe.files.zips import open_archive\n"
        f"parts = exported.read(open_archive(open({str(tmp_path / 'm.pt2')!r}, 'rb').read()))\n"
        "parts.decoder(torch.zeros(3, 2))\n"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}\n"
        "print('sympy' in new, any(m.startswith('torch.export') for m in set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# -- real files -------------------------------------------------------------------------------------------


def test_the_file_agrees_with_the_state_dict_it_came_from(models: Path) -> None:
    program = vaeprobe.load(models / "formats/btcvae_dsprites_dyn.pt2")
    weights = vaeprobe.load(models / "disvae/btcvae_dsprites/model.pt")
    z = torch.randn(8, 10)
    scale = float(weights(z).abs().max())
    assert float((program(z) - weights(z)).abs().max()) <= 1e-5 * scale
    assert torch.allclose(program.natural_flat(z), weights.natural_flat(z), rtol=1e-5, atol=1e-5)
    J = jacobian(weights, z)
    for _ in range(3):
        assert float((jacobian(program, z) - J).abs().max()) <= 1e-5 * float(J.abs().max())
    assert program.artifact is not None
    assert program.artifact.architecture == "self-contained"
