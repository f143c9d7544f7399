"""Keras files, against keras itself where it is installed and against formulae where not."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vaeprobe
from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.checkpoints.programs.keras.graph import read
from vaeprobe.engine.verbs import jacobian
from vaeprobe.errors import ArchitectureError, InputError, UnsafeError, UsageError
from vaeprobe.files.zips import open_archive

h5py = pytest.importorskip("h5py")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras", "ignore::UserWarning:keras")


@pytest.fixture(scope="module")
def keras() -> Any:
    os.environ["KERAS_BACKEND"] = "torch"
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("keras", minversion="3.8")


def loaded(data: bytes, **how: Any) -> Parts:
    return read(open_archive(data) if data.startswith(b"PK") else data, **how)


# -- against keras ----------------------------------------------------------------------------------


def _grid(L: Any) -> list[Any]:
    return [L.Dense(4 * 4 * 3), L.Reshape((4, 4, 3))]


NETWORKS: dict[str, Callable[[Any], list[Any]]] = {
    "norms": lambda L: [
        L.Dense(8), L.BatchNormalization(), L.LeakyReLU(), L.LayerNormalization(), L.ReLU(2.0, 0.1, 0.2), L.ELU(0.5), L.PReLU(), L.Softmax(),
    ],
    "norms without weights": lambda L: [
        *_grid(L), L.GroupNormalization(3), L.UnitNormalization(), L.BatchNormalization(scale=False, center=False), L.LayerNormalization(center=False),
    ],
    "one axis": lambda L: [
        L.Dense(12), L.Reshape((4, 3)), L.Conv1DTranspose(4, 5, strides=2, padding="same"), L.Conv1D(3, 3, padding="causal", dilation_rate=2),
        L.UpSampling1D(2), L.ZeroPadding1D((1, 2)), L.Cropping1D((0, 1)), L.AveragePooling1D(2, padding="same"), L.GlobalMaxPooling1D(),
    ],
    "three axes": lambda L: [
        L.Dense(16), L.Reshape((2, 2, 2, 2)), L.Conv3DTranspose(2, 3, strides=2, padding="same"), L.UpSampling3D(2), L.MaxPooling3D(2),
    ],
    "depthwise": lambda L: [
        *_grid(L), L.SeparableConv2D(4, 3, padding="same"), L.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
        L.UpSampling2D(2, interpolation="bilinear"), L.ZeroPadding2D(((1, 0), (2, 1))), L.Cropping2D(1), L.MaxPooling2D(3, strides=2, padding="same"),
        L.AveragePooling2D(2, padding="same"), L.Permute((2, 1, 3)), L.Flatten(), L.Dropout(0.5), L.GaussianNoise(0.1),
    ],
    "recurrent": lambda L: [
        L.RepeatVector(6), L.LSTM(4, return_sequences=True), L.GRU(3, return_sequences=True), L.GRU(3, return_sequences=True, reset_after=False),
        L.SimpleRNN(4, return_sequences=True, go_backwards=True), L.Bidirectional(L.LSTM(2, return_sequences=True)), L.Bidirectional(L.GRU(2), merge_mode="sum"),
    ],
    "every step": lambda L: [L.RepeatVector(3), L.TimeDistributed(L.Dense(4, activation="tanh")), L.Rescaling(2.0, 1.0)],
    "output padding": lambda L: [
        *_grid(L), L.Conv2DTranspose(2, 3, strides=2, padding="same", output_padding=0), L.Conv2DTranspose(2, 3, strides=2, padding="valid", output_padding=1),
    ],
}  # fmt: skip
ACTIVATIONS = (
    "relu sigmoid tanh softplus softsign elu selu gelu silu exponential softmax hard_sigmoid leaky_relu relu6 mish log_softmax"
    " hard_silu celu"
)
SIZES = [(k, s, p) for k in (2, 3, 4, 5) for s in (1, 2, 3) for p in ("same", "valid")]


def _activation(name: str) -> Callable[[Any], list[Any]]:
    return lambda L: [L.Dense(7, activation=name)]


def _convolutions(k: int, s: int, p: str) -> Callable[[Any], list[Any]]:
    return lambda L: [
        *_grid(L),
        L.Conv2DTranspose(2, k, strides=s, padding=p, activation="sigmoid"),
        L.Conv2D(2, k, strides=s, padding="same"),
    ]


NETWORKS.update({f"activation {a}": _activation(a) for a in ACTIVATIONS.split()})
NETWORKS.update({f"kernel {k} stride {s} {p}": _convolutions(k, s, p) for k, s, p in SIZES})


def filled(model: Any) -> Any:
    """Give every weight of a model numbers, so that none is 0 or 1 by its making."""
    rng = np.random.default_rng(0)
    for w in model.weights:
        values = 0.5 * rng.standard_normal(w.shape)
        w.assign(values**2 + 0.5 if "variance" in w.path else values)
    return model


def saved(model: Any, path: Path) -> bytes:
    model.save(path)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_numbers_as_keras(keras: Any, name: str, suffix: str, tmp_path: Path) -> None:
    model = filled(keras.Sequential([keras.Input((5,)), *NETWORKS[name](keras.layers)]))
    z = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)
    want = model(z, training=False).detach()
    got = loaded(saved(model, tmp_path / f"m.{suffix}")).decoder(torch.from_numpy(z))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_graphs_shared_layers_and_models_within(keras: Any, suffix: str, tmp_path: Path) -> None:
    L = keras.layers
    block = keras.Sequential(
        [keras.Input((6,)), L.Dense(6), L.BatchNormalization(), L.Dense(6)], name="block"
    )
    i = keras.Input((5,))
    h = L.Dense(6, activation="relu")(i)
    shared = L.Dense(6)
    a = shared(h)
    b = shared(block(a))
    o = L.Concatenate()(
        [
            L.Add()([a, b, h]),
            L.Multiply()([a, b]),
            L.Average()([a, h]),
            L.Subtract()([a, b]),
            L.Maximum()([a, b]),
        ]
    )
    model = filled(keras.Model(i, L.Dense(3, activation="sigmoid")(o)))
    z = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)
    found = loaded(saved(model, tmp_path / f"m.{suffix}"))
    torch.testing.assert_close(
        found.decoder(torch.from_numpy(z)), model(z, training=False).detach(), rtol=1e-5, atol=1e-5
    )
    assert found.natural is not None
    torch.testing.assert_close(
        torch.sigmoid(found.natural(torch.from_numpy(z))), found.decoder(torch.from_numpy(z))
    )


def test_derivatives_are_finite_differences(keras: Any, tmp_path: Path) -> None:
    model = filled(
        keras.Sequential(
            [keras.Input((5,)), *_convolutions(3, 2, "same")(keras.layers), keras.layers.Activation("tanh")]
        )
    )
    model.save(tmp_path / "m.keras")
    decoder = vaeprobe.load(tmp_path / "m.keras", dtype="float64")
    z = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    J = jacobian(decoder, z)
    for i in range(5):
        e = torch.zeros(5, dtype=torch.float64)
        e[i] = 1e-6
        with torch.no_grad():
            column = (decoder.flat(z + e) - decoder.flat(z - e)) / 2e-6
        torch.testing.assert_close(J[..., i], column, rtol=1e-5, atol=1e-7)


def test_a_whole_autoencoder_gives_its_decoder(keras: Any, tmp_path: Path) -> None:
    L = keras.layers
    encoder = keras.Sequential([keras.Input((9,)), L.Dense(3)], name="encoder")
    decoder = keras.Sequential([keras.Input((3,)), L.Dense(9, activation="sigmoid")], name="my_decoder")
    i = keras.Input((9,))
    model = filled(keras.Model(i, decoder(encoder(i))))
    data = saved(model, tmp_path / "ae.keras")
    found = loaded(data)
    assert found.latent_dim == 3
    assert "chosen-entry" in {n.code for n in found.notes}
    z = torch.randn(4, 3)
    torch.testing.assert_close(found.decoder(z), decoder(z.numpy()).detach(), rtol=1e-5, atol=1e-6)
    assert loaded(data, part="encoder").latent_dim == 9
    with pytest.raises(UsageError, match="no model `decodr`"):
        loaded(data, part="decodr")


def test_a_class_and_a_label_are_held(keras: Any, tmp_path: Path) -> None:
    L = keras.layers
    z, label = keras.Input((3,), name="z"), keras.Input((1,), dtype="int32", name="label")
    e = L.Flatten()(L.Embedding(10, 4)(label))
    model = filled(keras.Model([z, label], L.Dense(6, activation="sigmoid")(L.Concatenate()([z, e]))))
    data = saved(model, tmp_path / "c.keras")
    x = torch.randn(4, 3)
    for asked, k in (({}, 0), ({"label": 7}, 7)):
        found = loaded(data, conditions=asked)
        want = model([x.numpy(), np.full((4, 1), k, np.int32)]).detach()
        torch.testing.assert_close(found.decoder(x), want, rtol=1e-5, atol=1e-6)
        assert ("condition-held" in {n.code for n in found.notes}) == (not asked)
        assert found.architecture == f"self-contained at label = {k}"


def test_somebodys_own_class_is_refused_by_name(keras: Any, tmp_path: Path) -> None:
    class VAE(keras.Model):
        def __init__(self, **how: Any) -> None:
            super().__init__(**how)
            self.decoder = keras.Sequential([keras.layers.Dense(4)])

        def call(self, x: Any) -> Any:
            return self.decoder(x)

    model = VAE()
    model(np.zeros((1, 3), np.float32))
    with pytest.raises(InputError, match="somebody's own class `VAE`") as error:
        loaded(saved(model, tmp_path / "vae.keras"))
    assert "model.decoder.save" in (error.value.hint or "")


def test_code_is_refused(keras: Any, tmp_path: Path) -> None:
    L = keras.layers
    model = keras.Sequential([keras.Input((3,)), L.Lambda(lambda x: x * 2), L.Dense(4)])
    for suffix in ("keras", "h5"):
        with pytest.raises(UnsafeError, match="holds code"):
            loaded(saved(model, tmp_path / f"m.{suffix}"))


# -- files made by hand -----------------------------------------------------------------------------

DENSE = {
    "class_name": "Dense",
    "config": {"name": "dense", "units": 4, "activation": "sigmoid", "use_bias": True},
}
KERNEL = np.arange(12, dtype=np.float32).reshape(3, 4) / 10
BIAS = np.arange(4, dtype=np.float32)


def legacy(config: Any, weights: dict[str, np.ndarray], version: str = "2.3.1", **attributes: Any) -> bytes:
    """A legacy file: weights by `LAYER/NAME`."""
    file = io.BytesIO()
    with h5py.File(file, "w") as f:
        f.attrs["model_config"] = config if isinstance(config, str) else json.dumps(config)
        f.attrs["keras_version"] = version
        root = f.create_group("model_weights")
        for layer in dict.fromkeys(n.split("/")[0] for n in weights):
            group = root.create_group(layer)
            own = {n: w for n, w in weights.items() if n.split("/")[0] == layer}
            group.attrs["weight_names"] = [n.encode() for n in own]
            for n, w in own.items():
                group.create_dataset(n, data=w)
        for name, value in attributes.items():
            f.attrs[name] = value
    return file.getvalue()


WEIGHTS = {"dense/kernel:0": KERNEL, "dense/bias:0": BIAS}


KERAS_2 = {
    "class_name": "Model",
    "config": {
        "name": "decoder",
        "layers": [
            {
                "class_name": "InputLayer",
                "name": "z",
                "config": {"name": "z", "batch_input_shape": [None, 3]},
                "inbound_nodes": [],
            },
            {**DENSE, "name": "dense", "inbound_nodes": [[["z", 0, 0, {}]]]},
        ],
        "input_layers": [["z", 0, 0]],
        "output_layers": [["dense", 0, 0]],
    },
}


def test_a_file_of_keras_2() -> None:
    z = torch.randn(5, 3)
    want = torch.sigmoid(z @ torch.from_numpy(KERNEL) + torch.from_numpy(BIAS))
    torch.testing.assert_close(loaded(legacy(KERAS_2, WEIGHTS)).decoder(z), want)


def test_nan_weights_are_counted() -> None:
    broken = KERNEL.copy()
    broken[0, :2] = np.nan, np.inf
    (said,) = loaded(legacy(KERAS_2, {**WEIGHTS, "dense/kernel:0": broken})).notes
    assert said.level == "error"
    assert f"has 2 of {KERNEL.size}" in said.message


def test_hard_sigmoid_changed_its_meaning_with_keras_3() -> None:
    hard = {"class_name": "Dense", "config": {**DENSE["config"], "activation": "hard_sigmoid"}}
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": [hard]}}
    z = torch.randn(5, 3)
    y = z @ torch.from_numpy(KERNEL) + torch.from_numpy(BIAS)
    torch.testing.assert_close(
        loaded(legacy(config, WEIGHTS, "2.3.1")).decoder(z), (0.2 * y + 0.5).clamp(0, 1)
    )
    torch.testing.assert_close(loaded(legacy(config, WEIGHTS, "3.1.0")).decoder(z), ((y + 3) / 6).clamp(0, 1))


SEQUENTIAL = {"class_name": "Sequential", "config": {"name": "s", "layers": [DENSE]}}


@pytest.mark.parametrize(
    "change",
    [
        {"name": 3.5, "layers": [{"config": {}}]},
        {"layers": [{"class_name": "Dense", "config": {"units": "x", "activation": {"config": 3}}}]},
    ],
)
def test_a_damaged_layer_is_the_files_fault(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        loaded(legacy({"class_name": "Sequential", "config": change}, WEIGHTS))


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("Reshape", {"target_shape": "2x2"}, "the setting `target_shape` of the Keras layer `odd` is `2x2`, which it cannot be"),
        ("Reshape", {}, "the setting `target_shape` .* is missing"),
        ("Reshape", {"target_shape": [2.5]}, "the setting `target_shape` .* is `.2.5.`"),
        ("RepeatVector", {"n": [3]}, "the setting `n` .* is `.3.`, which it cannot be"),
        ("Softmax", {"axis": None}, "the setting `axis` .* is `None`, which it cannot be"),
        ("LeakyReLU", {"alpha": "steep"}, "the setting `alpha` .* is `steep`, which it cannot be"),
        ("BatchNormalization", {"axis": -1, "scale": "no"}, "the setting `scale` .* is `no`, which it cannot be"),
        ("ZeroPadding1D", {"padding": [1, "x"]}, "a padding or cropping of the Keras model is damaged"),
        ("UpSampling1D", {"size": 1.5}, "the setting `size` .* is `1.5`, which it cannot be"),
    ],
)  # fmt: skip
def test_a_setting_of_another_kind_is_named(kind: str, settings: dict[str, Any], words: str) -> None:
    odd = {"class_name": kind, "config": {"name": "odd", **settings}}
    norm = ("gamma", "beta", "mean", "variance") if kind == "BatchNormalization" else ()
    weights = {**WEIGHTS, **{f"odd/{name}:0": BIAS for name in norm}}
    rows = {"class_name": "Reshape", "config": {"name": "rows", "target_shape": [4, 1]}}
    layers = [DENSE, *([rows] if kind.endswith("1D") else []), odd]
    with pytest.raises(InputError, match=words) as error:
        loaded(legacy({"class_name": "Sequential", "config": {"name": "s", "layers": layers}}, weights))
    assert error.value.exit_code == 5


def functional(*layers: dict[str, Any], last: str = "odd") -> dict[str, Any]:
    """A model of Keras 3 with an input `z` of three numbers."""
    z = {"class_name": "InputLayer", "module": "keras.layers", "config": {"name": "z", "batch_shape": [None, 3]}, "inbound_nodes": []}  # fmt: skip
    inner = {"name": "d", "layers": [z, *layers], "input_layers": [["z", 0, 0]], "output_layers": [[last, 0, 0]]}  # fmt: skip
    return {"class_name": "Functional", "config": inner}


Z = {"class_name": "__keras_tensor__", "config": {"keras_history": ["z", 0, 0]}}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"args": [Z, 2.0], "kwargs": {}}, None),
        ({"args": [3.0, 2.0], "kwargs": {}}, "an operation of the Keras model takes no tensor"),
        ({"args": [Z, {"class_name": "__lost__"}]}, "a constant of a kind that is not supported"),
        ({"args": 3, "kwargs": {}}, "configuration of the Keras model is damaged"),
        ({"args": [Z, 2.0], "kwargs": [1]}, "configuration of the Keras model is damaged"),
        ({"args": [{**Z, "config": {"keras_history": ["z"]}}]}, "configuration of the Keras model is damaged"),
        ({"args": [{**Z, "config": {"keras_history": ["y", 0, 0]}}]}, "`odd` of the Keras model takes what nothing computes"),
    ],
)  # fmt: skip
def test_calls_that_cannot_be_read_are_the_files_fault(call: Any, words: str | None) -> None:
    odd = {"class_name": "Multiply", "module": "keras.src.ops.numpy", "config": {"name": "odd"}, "inbound_nodes": [call]}  # fmt: skip
    data = legacy(functional(odd), WEIGHTS, "3.5.0")
    if words is None:
        z = torch.randn(5, 3)
        torch.testing.assert_close(loaded(data).decoder(z), 2 * z)
        return
    with pytest.raises(InputError, match=words):
        loaded(data)


def test_missing_weights_are_found() -> None:
    with pytest.raises(InputError, match="holds 1 weights of the Keras layer `dense`, which needs 2"):
        loaded(legacy(SEQUENTIAL, {"dense/kernel:0": KERNEL}))


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        "{}",
        '{"class_name": "Sequential"}',
        '{"class_name": "Sequential", "config": {"layers": [1]}}',
    ],
)
def test_damaged_configurations(config: str) -> None:
    with pytest.raises(InputError):
        loaded(legacy(config, WEIGHTS))


@pytest.mark.parametrize(
    "layer",
    [
        {"class_name": "Lambda", "config": {"name": "x", "function": ["4wEA", None, None]}},
        {
            "class_name": "Dense",
            "config": {
                **DENSE["config"],
                "activation": {"class_name": "__lambda__", "config": {"value": "4wEA"}},
            },
        },
        {"module": "os", "class_name": "system", "config": {"name": "x"}},
        {"module": "builtins", "class_name": "eval", "config": {"name": "x"}},
    ],
)
def test_code_in_a_configuration(layer: dict[str, Any]) -> None:
    with pytest.raises(UnsafeError, match="holds code"):
        loaded(
            legacy({"class_name": "Sequential", "config": {"name": "s", "layers": [DENSE, layer]}}, WEIGHTS)
        )


def test_a_layer_that_is_not_known_is_named() -> None:
    strange = {"class_name": "Warp", "registered_name": "Custom>Warp", "config": {"name": "w"}}
    with pytest.raises(InputError, match="`w` of somebody's own class `Warp`"):
        loaded(
            legacy({"class_name": "Sequential", "config": {"name": "s", "layers": [DENSE, strange]}}, WEIGHTS)
        )


def test_weights_alone_and_data_are_told_apart() -> None:
    file = io.BytesIO()
    with h5py.File(file, "w") as f:
        f["layers/dense/vars/0"] = KERNEL
    with pytest.raises(ArchitectureError, match="weights of a Keras model, and not the model"):
        loaded(file.getvalue())
    file = io.BytesIO()
    with h5py.File(file, "w") as f:
        f["images"] = KERNEL
    with pytest.raises(InputError, match="no Keras model"):
        loaded(file.getvalue())


def test_other_files_are_not_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as f:
        f["kernel"] = KERNEL

    def file(write: Callable[[Any], None]) -> bytes:
        out = io.BytesIO(legacy(SEQUENTIAL, WEIGHTS))
        with h5py.File(out, "r+") as f:
            write(f)
        return out.getvalue()

    def link(f: Any) -> None:
        f["model_weights/dense/more"] = h5py.ExternalLink(str(secret), "kernel")

    def virtual(f: Any) -> None:
        layout = h5py.VirtualLayout(shape=(3, 4), dtype="f4")
        layout[:] = h5py.VirtualSource(str(secret), "kernel", shape=(3, 4))
        f.create_virtual_dataset("model_weights/dense/more", layout)

    def raw(f: Any) -> None:
        f.create_dataset("model_weights/dense/more", (4,), "f4", external=[(str(secret), 0, 16)])

    for write in (link, virtual, raw):
        with pytest.raises(UnsafeError, match="another file"):
            loaded(file(write))


def test_compression_bombs_and_circles() -> None:
    out = io.BytesIO(legacy(SEQUENTIAL, WEIGHTS))
    with h5py.File(out, "r+") as f:
        f.create_dataset("model_weights/dense/more", (1 << 34,), "f4", chunks=(1 << 20,), compression="gzip")
    with pytest.raises(Exception, match="far more numbers"):
        loaded(out.getvalue())
    out = io.BytesIO(legacy(SEQUENTIAL, WEIGHTS))
    with h5py.File(out, "r+") as f:
        f["model_weights/dense/up"] = h5py.SoftLink("/model_weights")
    with pytest.raises(InputError, match="links to itself"):
        loaded(out.getvalue())


def test_truncated_files_and_archives() -> None:
    data = legacy(SEQUENTIAL, WEIGHTS)
    with pytest.raises(InputError, match="cannot be read"):
        loaded(data[: len(data) // 2])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        z.writestr("config.json", "{}")
        z.writestr("metadata.json", "{}")
    with pytest.raises(InputError, match=r"holds no `model\.weights\.h5`"):
        loaded(out.getvalue())


def test_the_published_model(models: Path) -> None:
    decoder = vaeprobe.load(models / "goldsmdn_keras" / "decoder.keras")
    assert (decoder.latent_dim, tuple(decoder.output_shape)) == (2, (28, 28, 1))
    encoder = vaeprobe.load(models / "goldsmdn_keras" / "encoder.keras")
    assert "looks-like-encoder" in {n.code for n in encoder.notes}


def test_the_published_model_as_keras_computes_it(models: Path, keras: Any) -> None:
    path = models / "goldsmdn_keras" / "decoder.keras"
    z = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    want = keras.saving.load_model(path, compile=False, safe_mode=True)(z.numpy()).detach()
    torch.testing.assert_close(vaeprobe.load(path)(z), want, rtol=1e-5, atol=1e-5)


def test_an_autoencoder_of_images_in_one_chain_is_cut_at_its_narrowest_value(
    keras: Any, tmp_path: Path
) -> None:
    L = keras.layers
    code = [L.Flatten(), L.Dense(12, activation="tanh"), L.Dense(3)]
    back = [L.Dense(32, activation="tanh"), L.Reshape((4, 4, 2)), L.Conv2DTranspose(1, 4, strides=2, padding="same", activation="sigmoid")]  # fmt: skip
    model = keras.Sequential([keras.Input((8, 8, 1)), *code, *back])
    path = tmp_path / "m.keras"
    model.save(path)
    decoder = vaeprobe.load(path)
    assert decoder.latent_dim == 3
    assert [n.level for n in decoder.notes if n.code == "whole-vae"] == ["warning"]
    z = torch.randn(4, 3)
    x = z
    with torch.no_grad():
        for layer in back:
            x = layer(x)
    torch.testing.assert_close(decoder(z), x.cpu(), atol=1e-5, rtol=0)


def test_rows_to_as_many_numbers_are_only_suspected(keras: Any, tmp_path: Path) -> None:
    L = keras.layers
    keras.Sequential([keras.Input((9,)), L.Dense(2), L.Dense(9)]).save(tmp_path / "m.keras")
    decoder = vaeprobe.load(tmp_path / "m.keras")
    assert decoder.latent_dim == 9
    assert any("through 2: is this a whole VAE" in n.message for n in decoder.notes)


OPERATIONS = {
    "constants": lambda o, h: (1.0 - h) * 2.0 + o.maximum(h, 0.3) / 4 - o.power(h, 2),
    "slices": lambda o, h: o.concatenate([h[:, 1:] * h[:, :2], h[:, None, 0]], axis=1),
    "activations": lambda o, h: (
        o.softmax(h, axis=1) + o.leaky_relu(h, 0.3) + o.elu(h, 0.4) + o.gelu(h) + o.relu(-h)
    ),
    "functions": lambda o, h: o.tanh(h) + o.exp(-h * h) + o.clip(h, -0.5, 0.5) + o.sqrt(o.abs(h) + 1),
    "shapes": lambda o, h: o.transpose(
        o.tile(o.expand_dims(o.reshape(h, (-1, 3, 1)), 1), [1, 2, 1, 1]), (0, 3, 2, 1)
    ),
    "sums": lambda o, h: o.stack([o.mean(h, axis=1), o.max(h, axis=1), o.sum(h * h, axis=[1])], axis=-1),
    "products": lambda o, h: o.matmul(o.expand_dims(h, 2), o.expand_dims(h, 1)),
}


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("what", OPERATIONS)
def test_operations_and_their_constants(keras: Any, tmp_path: Path, what: str, suffix: str) -> None:
    i = keras.Input((4,))
    model = filled(keras.Model(i, OPERATIONS[what](keras.ops, keras.layers.Dense(3)(i))))
    found = loaded(saved(model, tmp_path / f"m.{suffix}"))
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.decoder(z), model(z.numpy()).detach().cpu(), rtol=1e-5, atol=1e-5)


def test_an_operation_that_is_not_known_is_refused(keras: Any, tmp_path: Path) -> None:
    i = keras.Input((4,))
    data = saved(keras.Model(i, keras.ops.cumsum(i, axis=1)), tmp_path / "m.keras")
    with pytest.raises(InputError, match="operation that is not supported, `Cumsum`"):
        loaded(data)


def test_what_a_layer_is_called_with_beside_its_inputs_is_never_left_out(keras: Any, tmp_path: Path) -> None:
    L = keras.layers
    i = keras.Input((4,))
    h = L.LSTM(3, name="lstm")(L.RepeatVector(5)(i), initial_state=[L.Dense(3)(i), L.Dense(3)(i)])
    with pytest.raises(InputError, match="`lstm` is called with `initial_state` beside its inputs"):
        loaded(saved(keras.Model(i, h), tmp_path / "m.keras"))
