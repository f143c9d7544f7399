"""Mutants of files, made where it matters: with right checksums, lengths and syntax, so that they get past the door.

`PYTHONPATH=tests python tests/hostile/fuzz.py [FORMAT ...] [--mutants N] [--seed S] [--keep FOLDER]` loads mutants, prints those that end
otherwise than documented, and keeps them.  `test_fuzz.py` runs a few of each format with the other tests.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import pickle
import pickletools
import random
import re
import signal
import struct
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vaeprobe
from vaeprobe.errors import VaeprobeError

from hostile_files import entries, saved, state
from programs import small_pt2, small_script

SECONDS, MOST_SECONDS = (
    30,
    600,
)  # of processor time, and on the clock of a machine that does other things as well
NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    255,
    256,
    65_535,
    1 << 31,
    (1 << 31) - 1,
    1 << 40,
    1 << 62,
    (1 << 63) - 1,
    1 << 64,
    -(1 << 63),
)
NASTY: tuple[Any, ...] = (
    *NUMBERS, None, True, "", "a" * 300, "../x", "__import__('os')", [], {}, [[[]]], 1e308, -0.5, float("inf"), "eval", [1] * 40,
)  # fmt: skip
Mutate = Callable[[bytes, random.Random], bytes]


# -- bytes ---------------------------------------------------------------------------------------------


def raw(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat, drop or overwrite bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(out)) if out else 0
        match rng.randrange(5):
            case 0 if out:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                del out[at : at + rng.choice((1, 4, 64))]
            case 2:
                out[at:at] = out[at : at + rng.choice((1, 8, 64))]
            case 3:
                out[at : at + 8] = struct.pack("<Q", rng.choice(NUMBERS) % (1 << 64))
            case _:
                del out[rng.randrange(len(out) + 1) :]
    return bytes(out)


def text(data: bytes, rng: random.Random) -> bytes:
    """Change a number, drop, repeat or swap lines, or exchange words."""
    source = data.decode("utf-8", "replace")
    lines = source.split("\n")
    at = rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            found = list(re.finditer(r"\d+(\.\d+)?", source))
            if found:
                hit = rng.choice(found)
                source = source[: hit.start()] + str(rng.choice(NUMBERS)) + source[hit.end() :]
                return source.encode()
        case 1:
            del lines[at]
        case 2:
            lines[at:at] = [lines[at]] * rng.choice((1, 50))
        case 3:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case _:
            words = sorted(set(re.findall(r"[A-Za-z_][\w.]*", source)))
            if len(words) > 1:
                return re.sub(
                    rf"\b{re.escape(rng.choice(words))}\b", rng.choice(words), source, count=1
                ).encode()
    return "\n".join(lines).encode()


def tree(data: bytes, rng: random.Random) -> bytes:
    """Replace, drop or repeat a value of a JSON document."""
    document = json.loads(data)
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            places.append((node, key))
            if isinstance(value, (dict, list)):
                visit(value)

    if isinstance(document, (dict, list)):
        visit(document)
    if not places:
        return data
    for _ in range(rng.choice((1, 1, 2))):
        node, key = rng.choice(places)
        with contextlib.suppress(KeyError, IndexError):
            match rng.randrange(4):
                case 0:
                    del node[key]
                case 1 if isinstance(node, list):
                    node.insert(key, copy.deepcopy(node[key]))
                case 2:
                    other, elsewhere = rng.choice(places)
                    node[key] = copy.deepcopy(other[elsewhere])
                case _:
                    node[key] = copy.deepcopy(rng.choice(NASTY))
    return json.dumps(document).encode()


def opcodes(data: bytes, rng: random.Random) -> bytes:
    """Drop, repeat, swap or change instructions of a pickle."""
    try:
        places = [at for _, _, at in pickletools.genops(data)]
    except Exception:
        return raw(data, rng)
    steps = [data[a:b] for a, b in zip(places, [*places[1:], len(data)], strict=True)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, other = rng.randrange(len(steps)), rng.randrange(len(steps))
        match rng.randrange(6):
            case 0 if len(steps) > 1:
                del steps[at]
            case 1:
                steps.insert(at, steps[other])
            case 2:
                steps[at], steps[other] = steps[other], steps[at]
            case 3:
                steps[at] = b"\x8a\x09" + (1 << 65).to_bytes(9, "little")
            case 4:
                steps.insert(
                    at,
                    rng.choice(
                        (b"]", b"}", b")", b"N", b"(", b"0", b"2", b"t", b"e", b"R", b"b", b"\x81", b"\x86")
                    ),
                )
            case _:
                steps[at] = raw(steps[at], rng)
    return b"".join(steps)


# -- containers ------------------------------------------------------------------------------------------


def parts(data: bytes, rng: random.Random) -> bytes:
    """Change one member of a zip by what it holds, or drop, rename or repeat one; checksums are right."""
    members = entries(data)
    name = rng.choice([n for n in members if members[n]] or list(members))
    content = members[name]
    match rng.randrange(8):
        case 0:
            del members[name]
        case 1:
            members[
                rng.choice((name + "x", name.upper(), "x/" + name, name.rpartition("/")[0] + "/data.pkl"))
            ] = content
        case _:
            members[name] = _by_content(name)(content, rng)
    stream = io.BytesIO()
    packing = {i.filename: i.compress_type for i in zipfile.ZipFile(io.BytesIO(data)).infolist()}
    with zipfile.ZipFile(stream, "w") as archive:
        for n, d in members.items():
            archive.writestr(n, d, packing.get(n, zipfile.ZIP_STORED))
    return stream.getvalue()


def _by_content(name: str) -> Mutate:
    if name.endswith(".json"):
        return tree
    if name.endswith(".py"):
        return text
    return opcodes if name.endswith(".pkl") else npy if name.endswith(".npy") else raw


def safetensors(data: bytes, rng: random.Random) -> bytes:
    """Change the header, and give its new length."""
    (length,) = struct.unpack_from("<Q", data)
    header, block = data[8 : 8 + length], data[8 + length :]
    header = (tree if rng.random() < 0.7 else raw)(header, rng)
    return struct.pack("<Q", len(header)) + header + block


def npy(data: bytes, rng: random.Random) -> bytes:
    """Change the header, and give its new length."""
    if data[:6] != b"\x93NUMPY":
        return raw(data, rng)
    (length,) = struct.unpack_from("<H", data, 8)
    header = (text if rng.random() < 0.8 else raw)(data[10 : 10 + length], rng)[:60_000]
    return data[:8] + struct.pack("<H", len(header)) + header + data[10 + length :]


def onnx(data: bytes, rng: random.Random) -> bytes:
    """Change a number, a name, an input or a size of a graph."""
    import onnx as library

    model = library.load_model_from_string(data)
    node = rng.choice(list(model.graph.node))
    with contextlib.suppress(ValueError, OverflowError, TypeError):
        match rng.randrange(6):
            case 0 if node.attribute:
                attribute = rng.choice(list(node.attribute))
                attribute.i = rng.choice(NUMBERS)
                if attribute.ints:
                    attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(NUMBERS)
            case 1 if node.input:
                node.input[rng.randrange(len(node.input))] = rng.choice(list(model.graph.node)).output[0]
            case 2:
                node.op_type = rng.choice(
                    ("Add", "Mul", "Loop", "Expand", "Reshape", "Concat", "ConstantOfShape", "Nope")
                )
            case 3 if model.graph.initializer:
                tensor = rng.choice(list(model.graph.initializer))
                tensor.dims[:] = [rng.choice(NUMBERS) for _ in tensor.dims]
            case 4:
                del model.graph.node[rng.randrange(len(model.graph.node))]
            case _:
                node.domain = "evil"
    return bytes(model.SerializeToString())


# -- what is mutated ---------------------------------------------------------------------------------------


def _arrays(compressed: bool) -> bytes:
    stream = io.BytesIO()
    matrix = np.random.default_rng(0).normal(size=(5, 2))
    (np.savez_compressed if compressed else np.save)(stream, matrix)
    return stream.getvalue()


def _safetensors() -> bytes:
    from safetensors.torch import save

    return bytes(save(dict(state()), metadata={"vaeprobe.blueprint": BLUEPRINT.decode()}))


def _onnx() -> bytes:
    import onnx as library
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["z", "w"], ["a"]),
        helper.make_node("LeakyRelu", ["a"], ["b"], alpha=0.2),
        helper.make_node("Reshape", ["b", "s"], ["c"]),
        helper.make_node("Transpose", ["c"], ["d"], perm=[0, 2, 1]),
        helper.make_node("Sigmoid", ["d"], ["x"]),
    ]
    given = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([-1, 2, 3]), "s")]
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 2])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 2])
    graph = helper.make_graph(nodes, "decoder", [z], [x], given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    library.checker.check_model(model)
    return bytes(model.SerializeToString())


def _keras() -> bytes:
    folder = Path(os.environ.get("VAEPROBE_MODELS", Path(__file__).parents[3] / "shared" / "models"))
    found = sorted(folder.rglob("*.keras")) if folder.is_dir() else []
    if not found:
        raise ImportError("no folder of real checkpoints (set VAEPROBE_MODELS)")
    return found[0].read_bytes()


BLUEPRINT = b'latents = 2\n[decoder]\nlayers = [{ linear = "0" }, "tanh", { linear = "2" }]\n'
POLICY = b'[check]\nsamples = 16\nmax-samples = 32\n[check.rules]\n"orthogonality.mean_abs_cosine" = { max = 0.9 }\n'


@cache
def module() -> bytes:
    torch.manual_seed(0)
    return saved(torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)))


# -- folders, and what stands beside a model -----------------------------------------------------------------


@cache
def _distributed() -> Mapping[str, bytes]:
    """Return the files of a distributed checkpoint, as torch writes it."""
    import torch.distributed.checkpoint as dcp

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of being alone
        dcp.save(dict(state()), checkpoint_id=folder, no_dist=True)
        return {p.name: p.read_bytes() for p in Path(folder).iterdir()}


def _index() -> bytes:
    return json.dumps(
        {"metadata": {}, "weight_map": dict.fromkeys(state(), "m-00001-of-00001.safetensors")}
    ).encode()


PYTHAE = {
    "name": "VAEConfig",
    "input_dim": [1, 2, 3],
    "latent_dim": 2,
    "uses_default_encoder": True,
    "uses_default_decoder": True,
}


@cache
def _pythae() -> bytes:
    widths = {"decoder.layers.0.0": (2, 512), "decoder.layers.1.0": (512, 6)}
    tensors = {f"{k}.weight": torch.full((n, m), 0.1) for k, (m, n) in widths.items()}
    tensors |= {f"{k}.bias": torch.zeros(n) for k, (_, n) in widths.items()}
    return saved({"model_state_dict": tensors})


def hdf5(data: bytes, rng: random.Random) -> bytes:
    """Change the description of a Keras model in its HDF5 file, the shape of an array, a link, or bytes."""
    import h5py

    stream = io.BytesIO(data)
    if rng.random() < 0.4 or not data.startswith(b"\x89HDF"):
        return raw(data, rng)
    with contextlib.suppress(OSError, RuntimeError, KeyError), h5py.File(stream, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = rng.choice(names)
        match rng.randrange(4):
            case 0 if "model_config" in file.attrs:
                file.attrs["model_config"] = tree(str(file.attrs["model_config"]).encode(), rng)
            case 1:
                del file[name]
            case 2:
                file[name + "x"] = rng.choice(
                    (h5py.ExternalLink("x.h5", "/"), h5py.SoftLink("/"), file[names[0]])
                )
            case _:
                del file[name]
                file[name] = np.zeros(rng.choice(((), (0,), (1,), (3, 2), (2, 2, 2, 2))))
    return stream.getvalue()


def _hdf5() -> bytes:
    """Return a Keras model as Keras 2 wrote it: its description as an attribute, its arrays by layer."""
    import h5py

    layers = [
        {
            "class_name": "InputLayer",
            "config": {"batch_input_shape": [None, 2], "dtype": "float32", "name": "z"},
        },
        {"class_name": "Dense", "config": {"name": "a", "units": 4, "activation": "tanh", "use_bias": True}},
        {
            "class_name": "Dense",
            "config": {"name": "b", "units": 3, "activation": "linear", "use_bias": True},
        },
    ]
    config = {"class_name": "Sequential", "config": {"name": "decoder", "layers": layers}}
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs.update(
            {"model_config": json.dumps(config), "keras_version": "2.15.0", "backend": "tensorflow"}
        )
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = [b"z", b"a", b"b"]
        weights.create_group("z").attrs["weight_names"] = []
        for name, shape in (("a", (2, 4)), ("b", (4, 3))):
            group = weights.create_group(name)
            group.attrs["weight_names"] = [f"{name}/kernel:0".encode(), f"{name}/bias:0".encode()]
            group[f"{name}/kernel:0"] = np.full(shape, 0.1, np.float32)
            group[f"{name}/bias:0"] = np.zeros(shape[1], np.float32)
    return stream.getvalue()


def _baseline() -> bytes:
    from vaeprobe.gate import baseline

    values = {"orthogonality.mean_abs_cosine": np.full(16, 0.3)}
    methods = {"orthogonality": {"seed": 0, "latents": "prior", "dtype": "float64"}}
    record = baseline.Record(sha256="x", latent_dim=2, methods=methods, values=values)
    return baseline.text({"model.pt": record}).encode()


def _picture() -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(stream, "PNG")
    return stream.getvalue()


def _components() -> bytes:
    """Return a principal component analysis, as scikit-learn's users pickle it."""
    from sklearn.decomposition import PCA

    return pickle.dumps(PCA(2).fit(np.random.default_rng(0).normal(size=(9, 4))))


# what lies beside a mutant, by the folder that its name says
BESIDE: dict[str, Callable[[], Mapping[str, bytes]]] = {
    "dcp": lambda: {**_distributed(), "../dcp.toml": BLUEPRINT},
    "shards": lambda: {"m-00001-of-00001.safetensors": _safetensors()},
    "pythae": lambda: {"model.pt": _pythae()},
    "pictures": lambda: {"a.png": _picture(), "b.png": _picture()},
    "plain": lambda: {"model.toml": BLUEPRINT},
    "": dict,
}
WHOLE = ("dcp", "pythae", "pictures")  # folders that are read as one


# format -> (a good file, how it is changed, the name of the file)
FORMATS: dict[str, tuple[Callable[[], bytes], Mutate, str]] = {
    "torch zip": (lambda: saved(state()), parts, "plain/model.pt"),
    "module": (module, parts, "model.pt"),
    "torch legacy": (lambda: saved(state(), legacy=True), raw, "plain/model.pt"),
    "pickle": (lambda: pickle.dumps(dict(state()), 2), opcodes, "plain/model.pkl"),
    "pt2": (small_pt2, parts, "model.pt2"),
    "torchscript": (small_script, parts, "model.ts"),
    "safetensors": (_safetensors, safetensors, "model.safetensors"),
    "npy": (lambda: _arrays(False), npy, "model.npy"),
    "npz": (lambda: _arrays(True), parts, "model.npz"),
    "zip": (lambda: saved(state()), raw, "plain/model.pt"),
    "onnx": (_onnx, onnx, "model.onnx"),
    "keras": (_keras, parts, "model.keras"),
    "blueprint": (lambda: BLUEPRINT, text, "model.toml"),
    "policy": (lambda: POLICY, text, "vaeprobe.toml"),
    "hdf5": (_hdf5, hdf5, "model.h5"),
    "dcp index": (lambda: _distributed()[".metadata"], opcodes, "dcp/.metadata"),
    "dcp part": (lambda: _distributed()["__0_0.distcp"], raw, "dcp/__0_0.distcp"),
    "shards": (_index, tree, "shards/m.safetensors.index.json"),
    "config": (lambda: json.dumps(PYTHAE).encode(), tree, "pythae/model_config.json"),
    "baseline": (_baseline, tree, "baseline.json"),
    "csv": (lambda: b"a,b,c\n1,2.5,3\n4,-5e3,6\n7,8,9.25\n", text, "rows.csv"),
    "picture": (_picture, raw, "pictures/c.png"),
    "sklearn": (_components, opcodes, "model.pkl"),
}


def placed(folder: Path, name: str, data: bytes) -> Path:
    """Write a file and what lies beside it into a folder, and return what is to be read."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    for other, content in BESIDE[str(Path(name).parent).strip(".")]().items():
        (path.parent / other).write_bytes(content)
    path.write_bytes(data)
    return path.parent if path.parent.name in WHOLE else path


def read(path: Path) -> None:
    """Read a file or folder as what its name says: a model, a blueprint beside a model, a policy, a baseline, or data."""
    if path.name == "vaeprobe.toml":
        from vaeprobe.gate import policy_file

        policy_file.read(path)
    elif path.name == "baseline.json":
        from vaeprobe.gate import baseline

        baseline.read(path)
    elif path.name in ("rows.csv", "pictures"):
        from vaeprobe.data import open_data

        open_data(path).read(100)
    elif path.name == "model.toml":
        (path.parent / "model.pt").write_bytes(saved(state()))
        vaeprobe.load(path.parent / "model.pt")
    else:
        vaeprobe.load(path)


ENDS = (signal.SIGPROF, signal.SIGALRM)


class Late(BaseException):
    """A mutant has no end."""


def _late(number: int, frame: object) -> None:
    raise Late


def mutants(format: str, count: int, seed: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield mutants of a format by their number."""
    make, mutate, _ = FORMATS[format]
    good = make()
    for k in range(count):
        rng = random.Random(f"{format} {seed} {k}")
        data = good
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            with contextlib.suppress(zipfile.BadZipFile, ValueError, KeyError, IndexError, struct.error):
                data = mutate(data, rng)
        yield k, data


def outcome(data: bytes, name: str) -> str | None:
    """Return what is wrong with how a mutant ends, None where it ends as documented."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = placed(folder, name, data)
        known = {*folder.rglob("*"), folder / "model.pt"}
        before = [signal.signal(number, _late) for number in ENDS]
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(MOST_SECONDS)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
        except VaeprobeError as error:
            if error.exit_code not in (2, 3, 4, 5, 6):
                return f"exit {error.exit_code}"
            if not f"{error.message}{error.hint or ''}".isprintable():
                return "control characters in a message"
        except Late:
            return f"no end within {SECONDS} s of processor time, or {MOST_SECONDS} s"
        except Exception:
            return traceback.format_exc()
        finally:
            signal.alarm(0)
            signal.setitimer(signal.ITIMER_PROF, 0)
            for number, handler in zip(ENDS, before, strict=True):
                signal.signal(number, handler)
        made = {p.name for p in folder.rglob("*")} - {p.name for p in known}
        return f"wrote {made}" if made else None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("formats", nargs="*", default=list(FORMATS))
    parser.add_argument("--mutants", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "vaeprobe-mutants")
    options = parser.parse_args()
    wrong = 0
    for format in options.formats:
        short = 0
        for k, data in mutants(format, options.mutants, options.seed):
            why = outcome(data, FORMATS[format][2])
            if why is not None:
                short += 1
                options.keep.mkdir(parents=True, exist_ok=True)
                kept = (
                    options.keep
                    / f"{format.replace(' ', '-')}-{options.seed}-{k}-{Path(FORMATS[format][2]).name}"
                )
                kept.write_bytes(data)
                print(f"{kept}: {why.strip().splitlines()[-1]}", flush=True)
        print(f"{format}: {options.mutants - short} of {options.mutants} as documented", flush=True)
        wrong += short
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
