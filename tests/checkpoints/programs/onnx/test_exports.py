"""ONNX files as torch exports them, against onnxruntime and against the network they came from."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vaeprobe
from vaeprobe.checkpoints.blueprint import BlueprintError
from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.checkpoints.programs.onnx.graph import read
from vaeprobe.engine.verbs import jacobian
from vaeprobe.errors import InputError, ResourceError, UnsafeError, UsageError

onnx = pytest.importorskip("onnx", minversion="1.17")
helper, TensorProto = onnx.helper, onnx.TensorProto


class View(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], *self.shape)


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.LSTM] | type[nn.GRU], **how: Any) -> None:
        super().__init__()
        self.cell = cell(6, 8, batch_first=True, **how)
        self.out = nn.Linear(16 if how.get("bidirectional") else 8, 3)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.out(self.cell(z.unsqueeze(1).repeat(1, 5, 1))[0])
        return out


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(channels, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(2).transpose(1, 2)
        y = self.heads(y, y, y, need_weights=False)[0]
        return x + y.transpose(1, 2).reshape(x.shape)


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    grid = [nn.Linear(6, 32), View(8, 2, 2)]
    return {
        "mlp": nn.Sequential(nn.Linear(6, 16), nn.LeakyReLU(0.2), nn.LayerNorm(16), nn.Linear(16, 9), nn.Sigmoid()),
        "transposed": nn.Sequential(
            *grid, nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1), nn.BatchNorm2d(6), nn.ELU(),
            nn.ConvTranspose2d(6, 4, 4, 2, 1), nn.InstanceNorm2d(4, affine=True), nn.SiLU(), nn.Conv2d(4, 3, 3, padding=1), nn.Tanh(),
        ),
        "upsampling": nn.Sequential(
            *grid, nn.Upsample(scale_factor=2), nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.GELU(),
            nn.Upsample(scale_factor=2, mode="bilinear"), nn.PixelShuffle(2), nn.Softplus(),
        ),
        "resizing": nn.Sequential(
            *grid, nn.Upsample(scale_factor=3, mode="bicubic"), nn.Upsample(size=(5, 7), mode="bilinear", align_corners=True),
            nn.PReLU(8), nn.ReflectionPad2d(1), nn.Hardswish(), nn.Flatten(),
        ),
        "attention": nn.Sequential(*grid, Attention(8), nn.Conv2d(8, 3, 1)),
        "lstm": Recurrent(nn.LSTM, bidirectional=True, num_layers=2),
        "gru": Recurrent(nn.GRU),
        "generator": nn.Sequential(
            View(6, 1, 1), nn.ConvTranspose2d(6, 8, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 1, 4, 2, 1), nn.Tanh()
        ),
        "softmax": nn.Sequential(nn.Linear(6, 12), View(3, 4), nn.Softmax(-1)),
    }  # fmt: skip


def exported(network: nn.Module, how: str, rows: int = 5) -> bytes:
    file = io.BytesIO()
    z = torch.zeros(rows, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "dynamo":
            pytest.importorskip("onnxscript")
            torch.onnx.export(
                network, (z,), file, dynamo=True, dynamic_shapes=({0: torch.export.Dim("b")},), verbose=False
            )
        else:
            axes = {"z": {0: "b"}} if how != "static" else None
            opset = 13 if how == "static" else int(how)
            torch.onnx.export(
                network, (z,), file, dynamo=False, opset_version=opset, input_names=["z"], dynamic_axes=axes
            )
    return file.getvalue()


def by_onnxruntime(data: bytes, z: Tensor, **more: np.ndarray) -> Tensor:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(data, options)
    name = session.get_inputs()[0].name
    return torch.from_numpy(session.run(None, {name: z.numpy(), **more})[0])


UNKNOWN_TO_THE_EXPORTER = {
    ("resizing", "9"),
    ("attention", "9"),
    ("attention", "13"),
    ("attention", "static"),
}
CASES = [
    (name, how)
    for name in networks()
    for how in ("9", "13", "17", "dynamo", "static")
    if (name, how) not in UNKNOWN_TO_THE_EXPORTER
]


# exporting by tracing takes seconds: one convolutional and one attentive network stand for all by default
QUICK = [
    pytest.param(
        name, how, marks=() if how != "dynamo" or name in ("upsampling", "attention") else pytest.mark.slow
    )
    for name, how in CASES
]


@pytest.mark.parametrize(("name", "how"), QUICK)
def test_the_same_numbers_as_onnxruntime(name: str, how: str) -> None:
    network = networks()[name].eval()
    z = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    data = exported(network, how)
    got = read(data).decoder(z)
    torch.testing.assert_close(got, by_onnxruntime(data, z), rtol=1e-5, atol=1e-5)
    if (name, how) != ("upsampling", "9"):  # opset 9 has no half-pixel upsampling: its file is another map
        torch.testing.assert_close(got, network(z), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(networks()))
def test_derivatives_are_finite_differences(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(exported(networks()[name].eval(), "17"))
    decoder = vaeprobe.load(path, dtype="float64")
    z = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    J = jacobian(decoder, z)
    step = 1e-6
    for i in range(6):
        e = torch.zeros(6, dtype=torch.float64)
        e[i] = step
        with torch.no_grad():
            column = (decoder.flat(z + e) - decoder.flat(z - e)) / (2 * step)
        torch.testing.assert_close(J[..., i], column, rtol=1e-5, atol=1e-7)


def test_a_batch_that_is_only_named_is_no_bound() -> None:
    parts = read(exported(networks()["transposed"].eval(), "static", rows=1))
    assert parts.decoder.batch == 0


def test_a_batch_that_the_graph_needs_is_filled_up_and_said() -> None:
    class Bound(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return (z.reshape(12).reshape(2, 6) * torch.arange(1.0, 7.0)).reshape(2, 6)

    parts = read(exported(Bound(), "static", rows=2))
    assert parts.decoder.batch == 2
    assert "fixed-batch" in {n.code for n in parts.notes}
    z = torch.randn(5, 6)
    torch.testing.assert_close(parts.decoder(z), z * torch.arange(1.0, 7.0))


def test_the_last_activation_comes_off_under_a_reshape() -> None:
    network = nn.Sequential(nn.Linear(6, 12), nn.Sigmoid(), View(3, 4))
    parts = read(exported(network, "17"))
    z = torch.randn(4, 6)
    assert parts.natural is not None
    torch.testing.assert_close(parts.natural(z), network[0](z).reshape(-1, 3, 4))


# -- models made by hand ------------------------------------------------------------------------------


def model(
    nodes: list[Any],
    weights: dict[str, np.ndarray] | None = None,
    inputs: dict[str, tuple[int, list[Any]]] | None = None,
    outputs: tuple[str, ...] = ("y",),
    functions: list[Any] | None = None,
) -> Any:
    """A model of opset 17 with inputs name -> (type, shape)."""
    given = inputs or {"z": (TensorProto.FLOAT, ["b", 3])}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, *kind) for n, kind in given.items()],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [onnx.numpy_helper.from_array(w, n) for n, w in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions or [])


def parts(proto: Any, **how: Any) -> Parts:
    return read(proto.SerializeToString(), **how)


W = np.arange(12, dtype=np.float32).reshape(3, 4) / 10


def test_nan_weights_are_counted_and_infinite_bounds_are_none() -> None:
    nodes = [
        helper.make_node("MatMul", ["z", "W"], ["h"]),
        helper.make_node("Clip", ["h", "low"], ["y"]),
    ]
    low = np.array(-np.inf, dtype=np.float32)
    assert parts(model(nodes, {"W": W, "low": low})).notes == ()
    broken = W.copy()
    broken[0, :2] = np.nan, np.inf
    (said,) = parts(model(nodes, {"W": broken, "low": low})).notes
    assert said.level == "error"
    assert "`W` has 2 of 12" in said.message


def test_a_label_is_held_and_said() -> None:
    table = np.eye(10, 3, dtype=np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "label"], ["e"]),
        helper.make_node("Add", ["z", "e"], ["h"]),
        helper.make_node("MatMul", ["h", "W"], ["y"]),
    ]
    proto = model(
        nodes,
        {"W": W, "table": table},
        {"z": (TensorProto.FLOAT, ["b", 3]), "label": (TensorProto.INT64, ["b"])},
    )
    z = torch.randn(4, 3)
    for asked, k in (({}, 0), ({"label": 2}, 2)):
        found = parts(proto, conditions=asked)
        want = (z + torch.from_numpy(table)[k]) @ torch.from_numpy(W)
        torch.testing.assert_close(found.decoder(z), want)
        assert ("condition-held" in {n.code for n in found.notes}) == (not asked)
        assert found.architecture == f"self-contained at label = {k} of 10"
    with pytest.raises(UsageError, match="no condition `lable`"):
        parts(proto, conditions={"lable": 2})


def test_any_value_can_be_the_output() -> None:
    nodes = [
        helper.make_node("MatMul", ["z", "W"], ["h"]),
        helper.make_node("Relu", ["h"], ["y"]),
        helper.make_node("Neg", ["h"], ["other"]),
    ]
    proto = model(nodes, {"W": W}, outputs=("y", "other"))
    z = torch.randn(4, 3)
    both = parts(proto).decoder(z)
    torch.testing.assert_close(both["y"], (z @ torch.from_numpy(W)).relu())
    torch.testing.assert_close(both["other"], -(z @ torch.from_numpy(W)))
    torch.testing.assert_close(parts(proto, output=1).decoder(z), both["other"])
    torch.testing.assert_close(parts(proto, output="h").decoder(z), z @ torch.from_numpy(W))
    with pytest.raises(UsageError, match="nothing called `hh`"):
        parts(proto, output="hh")


def test_which_output_was_taken_is_said(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["z", "W"], ["y"]), helper.make_node("Neg", ["y"], ["other"])]
    for rows in ("b", 2):  # of any number, and of one fixed number
        proto = model(nodes, {"W": W}, {"z": (TensorProto.FLOAT, [rows, 3])}, outputs=("y", "other"))
        (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
        decoder = vaeprobe.load(tmp_path / "m.onnx")
        assert "output-chosen" in {n.code for n in decoder.notes}
        other = vaeprobe.load(tmp_path / "m.onnx", output="other")
        z = torch.randn(5, 3)
        torch.testing.assert_close(other(z), -decoder(z))


def test_open_sizes_are_read_off_the_first_layer() -> None:
    proto = model(
        [helper.make_node("MatMul", ["z", "W"], ["y"])], {"W": W}, {"z": (TensorProto.FLOAT, ["b", "d"])}
    )
    assert parts(proto).latent_dim == 3
    proto = model([helper.make_node("Relu", ["z"], ["y"])], {}, {"z": (TensorProto.FLOAT, ["b", "d"])})
    with pytest.raises(InputError, match="leaves the shape"):
        parts(proto)
    assert parts(proto, latent_dim=5).latent_dim == 5
    proto = model([helper.make_node("MatMul", ["z", "W"], ["y"])], {"W": W})
    with pytest.raises(BlueprintError, match="3 latents, not 4"):
        parts(proto, latent_dim=4)


def test_branches_loops_and_functions_are_followed() -> None:
    true = onnx.numpy_helper.from_array(np.array(True), "yes")
    inner = [
        helper.make_graph(
            [helper.make_node(op, ["z"], ["r"])],
            op,
            [],
            [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)],
        )
        for op in ("Tanh", "Neg")
    ]
    branch = helper.make_node("If", ["yes"], ["t"], then_branch=inner[0], else_branch=inner[1])
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["carried", "t"], ["next"]), helper.make_node("Mul", ["carried", "t"], ["scan"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []), helper.make_tensor_value_info("carried", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(n, k, None) for n, k in (("on", TensorProto.BOOL), ("next", TensorProto.FLOAT), ("scan", TensorProto.FLOAT))],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["turns", "yes", "t"], ["last", "scans"], body=body)
    double = helper.make_function(
        "own",
        "Double",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    proto = model(
        [branch, loop, helper.make_node("Double", ["last"], ["y"], domain="own")],
        {"turns": np.array(3)},
        functions=[double],
    )
    proto.graph.initializer.append(true)
    z = torch.randn(4, 3)
    torch.testing.assert_close(parts(proto).decoder(z), 2 * 4 * z.tanh())


@pytest.mark.parametrize(
    ("nodes", "weights", "error", "words"),
    [
        ([helper.make_node("ConstantOfShape", ["n"], ["c"]), helper.make_node("Add", ["z", "c"], ["y"])], {"n": np.array([1 << 34])}, ResourceError, "makes a tensor"),
        ([helper.make_node("Expand", ["z", "n"], ["y"])], {"n": np.array([1 << 20, 1 << 12, 1, 3])}, ResourceError, "makes a tensor"),
        ([helper.make_node("Tile", ["z", "n"], ["y"])], {"n": np.array([1 << 20, 1 << 20])}, ResourceError, "makes a tensor"),
        ([helper.make_node("MatMul", ["a", "b"], ["m"]), helper.make_node("Add", ["z", "m"], ["y"])], {"a": np.zeros((1 << 16, 1), np.float32), "b": np.zeros((1, 1 << 16), np.float32)}, ResourceError, "makes a tensor"),
        ([helper.make_node("RandomNormalLike", ["z"], ["e"]), helper.make_node("Add", ["z", "e"], ["y"])], {}, InputError, "draws random numbers"),
        ([helper.make_node("Magic", ["z"], ["y"], domain="com.acme")], {}, InputError, "only its own run-time knows"),
        ([helper.make_node("NonMaxSuppression", ["z"], ["y"])], {}, InputError, "`NonMaxSuppression` is not supported"),
        ([helper.make_node("Add", ["z", "nothing"], ["y"])], {}, InputError, "cannot run"),
    ],
    ids=["constant", "expand", "tile", "outer product", "random", "custom domain", "unknown", "dangling"],
)  # fmt: skip
def test_what_is_refused(
    nodes: list[Any], weights: dict[str, np.ndarray], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        parts(model(nodes, weights))


def test_a_loop_without_end_is_refused() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["carried"], ["next"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []), helper.make_tensor_value_info("carried", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, None), helper.make_tensor_value_info("next", TensorProto.FLOAT, None)],
    )  # fmt: skip
    node = helper.make_node("Loop", ["turns", "yes", "z"], ["y"], body=body)
    for turns in (np.array(1 << 60), np.array(1001)):
        with pytest.raises(ResourceError, match="loops"):
            parts(model([node], {"turns": turns, "yes": np.array(True)}))
    assert parts(model([node], {"turns": np.array(1000), "yes": np.array(True)})).latent_dim == 3
    endless = helper.make_node("Loop", ["", "yes", "z"], ["y"], body=body)
    with pytest.raises(ResourceError, match="loops over"):
        parts(model([endless], {"yes": np.array(True)}))


def test_functions_that_multiply_are_counted_before_they_are_written_out() -> None:
    functions = [
        helper.make_function("own", f"F{k}", ["a"], ["c"], [helper.make_node(f"F{k + 1}", ["a"], ["b"], domain="own"), helper.make_node(f"F{k + 1}", ["b"], ["c"], domain="own")], [helper.make_opsetid("own", 1)])
        for k in range(40)
    ]  # fmt: skip
    functions.append(
        helper.make_function(
            "own",
            "F40",
            ["a"],
            ["c"],
            [helper.make_node("Relu", ["a"], ["c"])],
            [helper.make_opsetid("", 17)],
        )
    )
    with pytest.raises(ResourceError, match="operators"):
        parts(model([helper.make_node("F0", ["z"], ["y"], domain="own")], functions=functions))


def test_sizes_that_lie_are_found() -> None:
    proto = model([helper.make_node("MatMul", ["z", "W"], ["y"])], {"W": W})
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend([3, 1 << 40])
    with pytest.raises(InputError, match="bytes do not fill"):
        parts(proto)
    with pytest.raises(InputError, match="no whole ONNX model"):
        read(model([helper.make_node("MatMul", ["z", "W"], ["y"])], {"W": W}).SerializeToString()[:-7])


# -- external data ------------------------------------------------------------------------------------


def outside(location: str, **entry: object) -> Any:
    proto = model([helper.make_node("MatMul", ["z", "W"], ["y"])], {"W": W})
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": 0, "length": W.nbytes, **entry}.items():
        tensor.external_data.add(key=key, value=str(value))
    return proto


def test_weights_beside_the_model_are_read(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "w.bin").write_bytes(b"12345678" + W.tobytes())
    z = torch.randn(2, 3)
    found = parts(outside("w/w.bin", offset=8), folder=tmp_path)
    torch.testing.assert_close(found.decoder(z), z @ torch.from_numpy(W))


def test_weights_elsewhere_are_not_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(W.tobytes())
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "link").symlink_to(secret)
    (folder / "sub" / "up").symlink_to(tmp_path)
    (folder / "hard").hardlink_to(secret)
    for location in (
        "../secret",
        str(secret),
        "link",
        "sub/up/secret",
        "hard",
        "sub/../../secret",
        "C:\\secret",
        "..\\secret",
    ):
        with pytest.raises(UnsafeError):
            parts(outside(location), folder=folder)
    with pytest.raises(UnsafeError, match="unknown key"):
        parts(outside("w.bin", script="x"), folder=folder)
    with pytest.raises(InputError, match="not there"):
        parts(outside("missing"), folder=folder)


@pytest.mark.parametrize(
    "entry", [{"offset": 8}, {"length": 1 << 40}, {"length": 4}, {"offset": -1}, {"offset": "x"}]
)
def test_external_data_of_the_wrong_length(entry: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    with pytest.raises(InputError):
        parts(outside("w.bin", **entry), folder=tmp_path)


def test_the_published_export_agrees_with_its_trace(models: Path) -> None:
    a = vaeprobe.load(models / "formats" / "jointvae_fashion_dynamo.onnx")
    b = vaeprobe.load(models / "formats" / "jointvae_fashion_trace.ts")
    z = torch.randn(8, a.latent_dim, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(a(z), b(z), rtol=1e-5, atol=1e-5)
