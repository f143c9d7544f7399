"""Reading pickles without unpickling, held against Python's and torch's own unpicklers."""

from __future__ import annotations

import contextlib
import io
import pathlib
import pickle
import pickletools
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vaeprobe.checkpoints import selection
from vaeprobe.checkpoints.weights import realise
from vaeprobe.errors import InputError, UnsafeError, UsageError
from vaeprobe.files import torch_pickles
from vaeprobe.files.inert import Built, Global, Persistent, walk
from vaeprobe.files.pickles import PickleError, interpret
from vaeprobe.files.sniff import sniff
from vaeprobe.files.source import Source
from vaeprobe.files.trust import trust

# -- the stack machine --------------------------------------------------------------------------------

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=20,
)


@given(plain, st.sampled_from([3, 4, 5]))
def test_plain_values_are_what_pickle_reads(value: Any, protocol: int) -> None:
    assert interpret(pickle.dumps(value, protocol)).root == value


@given(st.lists(st.text() | st.integers() | st.floats(allow_nan=False)), st.sampled_from([0, 1, 2]))
def test_old_protocols(value: Any, protocol: int) -> None:
    assert interpret(pickle.dumps(value, protocol)).root == value


@given(plain)
def test_optimised_pickles_and_shared_values(value: Any) -> None:
    data = pickletools.optimize(pickle.dumps([value, value], 4))
    root = interpret(data).root
    assert root == [value, value]


@given(st.binary(max_size=200))
def test_nonsense_raises_only_our_error(data: bytes) -> None:
    with contextlib.suppress(PickleError):
        interpret(b"\x80\x04" + data)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "table", [OrderedDict(a=1, b=[2]), defaultdict(list, a=[1])], ids=["ordered", "default"]
)
def test_dict_like_classes_become_dicts(table: Any, protocol: int) -> None:
    assert interpret(pickle.dumps(table, protocol)).root == dict(table)


class Plain:
    """A foreign class."""


@pytest.mark.parametrize("protocol", range(6))
def test_objects_are_records_of_what_they_would_be(protocol: int) -> None:
    value = Plain()
    value.x = 3  # type: ignore[attr-defined]
    built = interpret(pickle.dumps(value, protocol)).root
    assert isinstance(built, Built)
    assert built.new
    assert built.maker == Global(Plain.__module__, "Plain")
    assert built.state == {"x": 3}


def test_the_end_is_where_the_next_pickle_begins() -> None:
    data = pickle.dumps([1], 2) + pickle.dumps("two", 4)
    first = interpret(data)
    assert interpret(data, first.end).root == "two"


def test_names_of_python_2_are_those_of_python_3() -> None:
    assert interpret(b"c__builtin__\nset\n.").globals == (Global("builtins", "set"),)
    assert interpret(b"ccPickle\nloads\n.").globals == (Global("pickle", "loads"),)


def test_walk_meets_shared_and_recursive_values_once() -> None:
    value: list[Any] = [Global("a", "b")]
    value.append(value)
    assert sum(isinstance(x, Global) for x in walk([value, value])) == 1


def test_a_computed_name_is_refused() -> None:
    with pytest.raises(PickleError, match="damaged"):
        interpret(b"\x80\x04]\x8c\x01a\x93.")


# -- trust ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("torch._utils _rebuild_tensor_v2", "inert"),
        ("torch FloatStorage", "inert"),
        ("collections OrderedDict", "inert"),
        ("pathlib PosixPath", "inert"),
        ("numpy._core.multiarray scalar", "inert"),
        ("torch.nn.modules.linear Linear", "layer"),
        ("torch.nn.modules.linear Linear.__init__.__globals__", "foreign"),
        ("argparse Namespace", "foreign"),
        ("builtins getattr", "foreign"),
        ("models VAE", "foreign"),
        ("builtins eval", "dangerous"),
        ("os.path join", "dangerous"),
        ("posix system", "dangerous"),
        ("subprocess Popen", "dangerous"),
        ("numpy.testing._private.utils runstring", "dangerous"),
        ("torch load", "dangerous"),
        ("torch.jit load", "dangerous"),
        ("osprey Bird", "foreign"),
    ],
)
def test_trust(name: str, kind: str) -> None:
    assert trust(Global(*name.split())) == kind


# -- torch files, against torch.load ------------------------------------------------------------------


def write(value: Any, container: str) -> bytes:
    """Return a value saved in one of the three containers."""
    stream = io.BytesIO()
    if container.startswith("pickle"):
        pickle.dump(value, stream, int(container[-1]))
    else:
        torch.save(value, stream, _use_new_zipfile_serialization=container == "zip")
    return stream.getvalue()


def tensors_in(data: bytes, key: str | None = None) -> dict[str, Tensor]:
    """Return the tensors that this package reads, in the file's own precision."""
    source = Source(Path("file"), data)
    container = sniff(source)
    assert container in ("torch zip", "torch legacy", "pickle")
    file = torch_pickles.read(data, "file", container)
    chosen = selection.select(file, "file", key)
    specs = selection.tensors_of(file, chosen.node)
    weights = realise(specs)
    return {k: t.to(getattr(torch, specs[k].dtype)) for k, t in weights.tensors.items()}


CONTAINERS = ["zip", "legacy", "pickle2", "pickle4", "pickle5"]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


@st.composite
def views(draw: Any) -> Tensor:
    """Tensors of every kind: slices, transposes, empty, scalars, parameters."""
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    numbers = 10 * torch.rand([n + 2 for n in shape], generator=generator)
    tensor = numbers.to(draw(st.sampled_from(DTYPES)))
    for axis, n in enumerate(shape):
        tensor = tensor.narrow(axis, draw(st.integers(0, 2)), n)
    if draw(st.booleans()) and tensor.ndim >= 2:
        tensor = tensor.transpose(0, 1)
    if draw(st.booleans()) and tensor.is_floating_point():
        return torch.nn.Parameter(tensor, requires_grad=draw(st.booleans()))
    return tensor


names = st.text(st.characters(categories=["L", "N"]), min_size=1)


@given(st.sampled_from(CONTAINERS), st.dictionaries(names, views(), min_size=1, max_size=4))
def test_state_dicts_are_what_torch_reads(container: str, state: dict[str, Tensor]) -> None:
    data = write(state, container)
    read = tensors_in(data)
    assert list(read) == list(state)
    for name, tensor in state.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor.detach())


def test_real_checkpoints_are_what_torch_reads(models: Path) -> None:
    paths = [
        *models.glob("disvae/*_mnist/model.pt"),
        *models.glob("riemann/*"),
        *models.glob("inverse_micro/*"),
    ]
    assert len(paths) >= 6
    for path in paths:
        expected = torch.load(path, weights_only=True, map_location="cpu")
        read = tensors_in(path.read_bytes())
        assert list(read) == list(expected)
        assert all(torch.equal(read[k], expected[k]) for k in expected)


def test_tied_weights_share_one_storage() -> None:
    base = torch.arange(6.0)
    data = write({"a": base, "b": base[2:], "c": base.clone()}, "zip")
    file = torch_pickles.read(data, "file", "torch zip")
    specs = selection.tensors_of(file, file.root)
    assert specs["a"].data is specs["b"].data
    assert specs["a"].data is not specs["c"].data


def test_big_endian_files() -> None:
    import zipfile

    stream = io.BytesIO(write({"w": torch.arange(3.0)}, "zip"))
    with zipfile.ZipFile(stream) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    parts["archive/byteorder"] = b"big"
    parts["archive/data/0"] = np.arange(3.0).astype(">f4").tobytes()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert tensors_in(out.getvalue())["w"].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i8"])
def test_numpy_arrays_in_a_pickle(order: Any, protocol: int, dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype, order=order)
    read = tensors_in(pickle.dumps({"w": array}, protocol))
    assert read["w"].tolist() == array.tolist()


# -- which part holds the weights ---------------------------------------------------------------------

W = {"0.weight": torch.ones(3, 2)}
V = {"0.weight": torch.zeros(3, 2)}


@pytest.mark.parametrize(
    "name",
    [
        "state_dict",
        "model_state_dict",
        "net_state_dict",
        "netG_state_dict",
        "net",
        "model",
        "generator",
        "anything",
    ],
)
@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_nested_state_dicts(name: str, container: str) -> None:
    optimiser = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    data = write(
        {"epoch": 3, name: W, "optimizer": optimiser, "args": {"path": pathlib.Path("x")}}, container
    )
    assert tensors_in(data)["0.weight"].sum() == 6


def test_of_several_the_usual_name_is_taken_and_the_others_named() -> None:
    data = write({"netD_state_dict": V, "netG_state_dict": W}, "zip")
    file = torch_pickles.read(data, "file", "torch zip")
    chosen = selection.select(file, "file")
    assert chosen.key == "netG_state_dict"
    assert "also holds `netD_state_dict`" in chosen.notes[0].message
    assert tensors_in(data, "netD_state_dict")["0.weight"].sum() == 0


def test_encoder_and_decoder_apart_become_prefixes() -> None:
    assert set(tensors_in(write({"encoder": V, "decoder": W}, "zip"))) == {
        "encoder.0.weight",
        "decoder.0.weight",
    }


def test_keys_with_dots_and_positions_in_a_list() -> None:
    data = write([{"a.b": {"c": W}}, V], "zip")
    assert tensors_in(data, "0.a.b.c")["0.weight"].sum() == 6
    assert tensors_in(data, "1")["0.weight"].sum() == 0


def test_a_prefix_of_flat_names_is_a_key() -> None:
    data = write({"vae.decoder.0.weight": torch.ones(2), "vae.encoder.0.weight": torch.zeros(2)}, "zip")
    assert set(tensors_in(data, "vae.decoder")) == {"0.weight"}


def test_an_unknown_key_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="no entry `model_stat`") as error:
        tensors_in(write({"model_state": W, "ema": V}, "zip"), "model_stat")
    assert error.value.hint == "did you mean `model_state`?"


def test_no_tensors() -> None:
    with pytest.raises(InputError, match="holds no tensors") as error:
        tensors_in(write({"epoch": 3, "lr": 0.1}, "zip"))
    assert "`epoch`, `lr`" in (error.value.hint or "")


def test_harmless_hyper_parameters_need_nothing() -> None:
    extra = {
        "path": pathlib.PurePosixPath("a/b"),
        "best": np.float64(0.5),
        "sizes": torch.Size([1]),
        "tags": {"x"},
    }
    assert set(tensors_in(write({"state_dict": W, "hyper_parameters": extra}, "zip"))) == {"0.weight"}


def test_foreign_hyper_parameters_are_named() -> None:
    data = write({"state_dict": W, "hyper_parameters": Plain()}, "zip")
    with pytest.raises(UnsafeError, match=r"would import `.*\.Plain`"):
        tensors_in(data)
    assert set(tensors_in(data, "state_dict")) == {"0.weight"}


def test_references_to_no_storage_are_damage() -> None:
    stream = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return ("module", "x") if isinstance(obj, Persistent) else None

    Pickler(stream, 2).dump({"w": Persistent(None)})
    with pytest.raises(InputError):
        tensors_in(stream.getvalue())
