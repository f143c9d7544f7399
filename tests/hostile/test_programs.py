"""TorchScript and .pt2 programs that would write files, run code, or never end.

Codes: 4 refused as unsafe, 5 unreadable, 6 resource limit.
Each tampered file is, but for the line that is named, one that loads (`test_the_untampered_files_load`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import vaeprobe

from hostile_files import Touch, entries, raw_pickle, refused, saved, zipped
from programs import (
    before_linear,
    network,
    scripted,
    small_pt2,
    small_script,
    with_code,
    with_entry,
    with_graph,
    with_json,
)


def code_of(path: Path) -> int:
    """Return the exit code of loading a file."""
    try:
        vaeprobe.load(path)
    except vaeprobe.errors.VaeprobeError as error:
        return error.exit_code
    return 0


@pytest.mark.parametrize("maker", [small_pt2, small_script])
def test_the_untampered_files_load(tmp_path: Path, maker: Any) -> None:
    path = tmp_path / "model"
    path.write_bytes(maker())
    assert vaeprobe.load(path).latent_dim == 2


# -- TorchScript --------------------------------------------------------------------------------------


def test_from_file(tmp_path: Path) -> None:
    data = before_linear(f'_0 = torch.from_file("{tmp_path}/marker", True, 10)')
    message = refused(tmp_path, data, 4)
    assert "`aten.from_file`" in message
    assert "opens a file" in message


def test_write_in_setstate(tmp_path: Path) -> None:
    method = f"""def __setstate__(self: __torch__.M, state: Tensor) -> NoneType:
    _0 = torch.save(state, "{tmp_path}/marker")
    return None
  def forward(self: """
    assert "`__setstate__`" in refused(tmp_path, with_code("def forward(self: ", method), 4)


def test_save_in_forward(tmp_path: Path) -> None:
    data = before_linear(f'_0 = torch.save(input, "{tmp_path}/marker")')
    assert "writes a file" in refused(tmp_path, data, 4)


def test_save_in_a_function_that_is_never_called(tmp_path: Path) -> None:
    more = f'class Linear(Module):\n  def never(self, x: Tensor) -> Tensor:\n    return torch.save(x, "{tmp_path}/m")\n'
    refused(tmp_path, with_code("class Linear(Module):\n", more), 4)


@pytest.mark.parametrize("text", ['"\\x1b]0;owned\\x07"', '"{\\"verdict\\": \\"pass\\"}"'])
def test_print(tmp_path: Path, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert "prints" in refused(tmp_path, before_linear(f"print({text})"), 4)
    assert capfd.readouterr().out == ""


def test_print_as_torch_writes_it(tmp_path: Path) -> None:
    class Prints(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            print("hello")
            return x * 2

    assert "prints" in refused(tmp_path, scripted(Prints()), 4)


@pytest.mark.parametrize(
    "lines",
    [
        ["for _0 in range(1152921504606846976):", "  pass"],
        ["n = torch.mul(1048576, 1048576)", "for _0 in range(n):", "  pass"],
        ["while True:", "  pass"],
        ["x = [1]", "while torch.gt(torch.len(x), 0):", "  _0 = torch.append(x, 1)"],
        *[[f"{'  ' * k}for _{k} in range(1000):" for k in range(4)] + ["        pass"]],
    ],
    ids=["literal", "computed", "while", "growing list", "nested"],
)
def test_endless_loop(tmp_path: Path, lines: list[str]) -> None:
    assert "loop" in refused(tmp_path, before_linear(*lines), 6)


@pytest.mark.parametrize(
    "line",
    [
        "_0 = torch.zeros([1099511627776])",
        "_0 = torch.zeros([1048576, 1048576])",
        "_0 = torch.zeros([torch.mul(1048576, 1048576)])",
        "_0 = torch.mul([1], 1099511627776)",
        "_0 = torch.ones(annotate(List[int], [1099511627776]))",
        "_0 = torch.repeat(input, [1048576, 1048576])",
    ],
)
def test_huge_tensor(tmp_path: Path, line: str) -> None:
    refused(tmp_path, before_linear(line), 6)


def test_a_text_that_doubles(tmp_path: Path) -> None:
    lines = ['s = "xxxxxxxx"', "for _0 in range(60):", "  s = torch.add(s, s)"]
    refused(tmp_path, before_linear(*lines), 6)


@pytest.mark.parametrize(
    "call", ["ops.evil.run(input)", "ops.prim.PythonOp(input)", "__torch__.torch.classes.evil.Box(input)"]
)
def test_custom_operators(tmp_path: Path, call: str) -> None:
    assert "operator" in refused(tmp_path, before_linear(f"_0 = {call}"), 4)


@pytest.mark.parametrize(
    "line",
    [
        '_0 = __import__("os")',
        '_0 = getattr(input, "__class__")',
        "_0 = input.__class__.__mro__",
        "_0 = torch.hub.load(input)",
        "_0 = torch._C._jit_set_profiling_mode(True)",
        "_0 = torch.set_(input, input)",
        "_0 = torch.bernoulli(input)",
        "_0 = (lambda: input)()",
        "import os",
        "_0 = [x for x in [1]]",
    ],
)
def test_nothing_but_listed_operators_is_reachable(tmp_path: Path, line: str) -> None:
    path = tmp_path / "model"
    path.write_bytes(before_linear(line))
    assert code_of(path) in (4, 5)


def test_a_pickle_of_the_archive_that_imports(tmp_path: Path) -> None:
    evil = raw_pickle(Touch(tmp_path / "marker"), 2)
    for name in ("data.pkl", "constants.pkl"):
        assert "would import" in refused(tmp_path, with_entry(name, evil, small_script()), 4)


# -- .pt2 ---------------------------------------------------------------------------------------------


def _payload(tmp_path: Path) -> bytes:
    return saved({"x": Touch(tmp_path / "marker")})


def test_sample_inputs(tmp_path: Path) -> None:
    for data in (_payload(tmp_path), raw_pickle(Touch(tmp_path / "marker"))):
        message = refused(tmp_path, with_entry("data/sample_inputs/model.pt", data), 4)
        assert "sample_inputs" in message
        assert "system" in message


def test_weights_marked_use_pickle(tmp_path: Path) -> None:
    def edit(config: Any) -> None:
        next(iter(config["config"].values()))["use_pickle"] = True

    data = with_entry("data/weights/weight_0", _payload(tmp_path), with_json("weights_config.json", edit))
    assert "pickle" in refused(tmp_path, data, 4)


def test_weights_of_the_old_form(tmp_path: Path) -> None:
    assert "pickle" in refused(tmp_path, with_entry("data/weights/model.pt", _payload(tmp_path)), 4)


@pytest.mark.parametrize("name", ["opaque_obj_0", "custom_obj_0"])
def test_opaque_object(tmp_path: Path, name: str) -> None:
    def edit(config: Any) -> None:
        config["config"]["x"] = {
            "path_name": name,
            "is_param": False,
            "use_pickle": True,
            "tensor_meta": None,
        }

    data = with_json("constants_config.json", edit)
    assert "pickle" in refused(tmp_path, data, 4)
    assert "pickled object" in refused(tmp_path, with_entry(f"data/constants/{name}", raw_pickle(1)), 4)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch MARKER')",
        "(lambda: s0)()",
        "Symbol('__import__')",
        "s0.func",
        "10**10**10",
        "[s0 for s0 in (1,)]",
        "exec('1')",
    ],
)
def test_expression_for_sympy(tmp_path: Path, text: str) -> None:
    def edit(document: Any) -> None:
        value = {"as_expr": {"expr_str": text.replace("MARKER", str(tmp_path / "marker")), "hint": None}}
        document["graph_module"]["graph"]["sym_int_values"]["size"] = value

    assert "evaluate" in refused(tmp_path, with_graph(edit), 4)


def test_guards_are_source_code(tmp_path: Path) -> None:
    def edit(document: Any) -> None:
        document["guards_code"] = [f"__import__('os').system('touch {tmp_path}/marker')"]

    assert "guard" in refused(tmp_path, with_graph(edit), 4)


def test_names_become_source_code(tmp_path: Path) -> None:
    def edit(document: Any) -> None:
        text = str(document["graph_module"])
        assert "'relu'" in text
        for node in document["graph_module"]["graph"]["nodes"]:
            for out in node["outputs"]:
                if out.get("as_tensor", {}).get("name") == "relu":
                    out["as_tensor"]["name"] = "relu=__import__('os').system('id')#"

    assert "source code" in refused(tmp_path, with_graph(edit), 4)


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.evil.run.default",
        "torch.os.system",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten.relu.__class__",
        "torch.ops.aten.bernoulli.default",
        "torch.ops.higher_order.while_loop",
        "_operator.attrgetter",
        "math.__loader__",
        "os.system",
    ],
)
def test_operators_that_are_not_listed(tmp_path: Path, target: str) -> None:
    def edit(document: Any) -> None:
        nodes = document["graph_module"]["graph"]["nodes"]
        next(n for n in nodes if "relu" in n["target"])["target"] = target

    assert "operator" in refused(tmp_path, with_graph(edit), 4)


@pytest.mark.parametrize(
    "arg", [{"as_operator": "torch.os.system"}, {"as_graph": {"name": "g", "graph": {}}}]
)
def test_programs_as_arguments(tmp_path: Path, arg: Any) -> None:
    def edit(document: Any) -> None:
        nodes = document["graph_module"]["graph"]["nodes"]
        next(n for n in nodes if "relu" in n["target"])["inputs"][0]["arg"] = arg

    refused(tmp_path, with_graph(edit), 4)


@pytest.mark.parametrize(
    "name", ["data/aotinductor/model/model.so", "extra/model.so", "data/aotinductor/model/kernel.cubin"]
)
def test_compiled_code(tmp_path: Path, name: str) -> None:
    assert "compiled code" in refused(tmp_path, with_entry(name, b"\x7fELF"), 4)


# -- lies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"sizes": [{"as_int": 1 << 40}, {"as_int": 2}]}, 5),
        ({"sizes": [{"as_int": 1 << 34}, {"as_int": 2}], "strides": [{"as_int": 0}, {"as_int": 1}]}, 6),
        ({"storage_offset": {"as_int": 1000}}, 5),
        ({"sizes": [{"as_int": -1}, {"as_int": 2}]}, 5),
        ({"dtype": 99}, 5),
        ({"sizes": 3}, 5),
    ],
    ids=["size", "stride 0", "offset", "negative", "dtype", "no list"],
)
def test_weights_that_lie(tmp_path: Path, change: Any, code: int) -> None:
    def edit(config: Any) -> None:
        next(iter(config["config"].values()))["tensor_meta"].update(change)

    refused(tmp_path, with_json("weights_config.json", edit), code)


def test_a_pt2_that_makes_a_huge_tensor(tmp_path: Path) -> None:
    def edit(document: Any) -> None:
        node = next(n for n in document["graph_module"]["graph"]["nodes"] if "relu" in n["target"])
        node["target"] = "torch.ops.aten.repeat.default"
        node["inputs"].append({"name": "repeats", "arg": {"as_ints": [1 << 20, 1 << 16]}, "kind": 1})

    refused(tmp_path, with_graph(edit), 6)


@pytest.mark.parametrize("maker", [small_pt2, small_script])
def test_a_missing_entry_is_one_clear_error(tmp_path: Path, maker: Any) -> None:
    parts = entries(maker())
    for name in parts:
        path = tmp_path / "model"
        path.write_bytes(zipped({k: v for k, v in parts.items() if k != name}))
        assert code_of(path) in (0, 4, 5), name


@pytest.mark.parametrize("maker", [small_pt2, small_script])
def test_flipped_bits_give_documented_errors_only(tmp_path: Path, maker: Any) -> None:
    """Of entries with structure, checksums set right, so that the damage reaches the reader."""
    generator = torch.Generator().manual_seed(0)
    parts = entries(maker())
    names = [k for k in parts if k.endswith((".json", ".py", ".pkl"))]
    path = tmp_path / "model"
    for trial in range(60):
        name = names[trial % len(names)]
        content = bytearray(parts[name])
        if not content:
            continue
        at = int(torch.randint(len(content), (1,), generator=generator))
        content[at] ^= 1 << int(torch.randint(7, (1,), generator=generator))
        path.write_bytes(zipped({**parts, name: bytes(content)}))
        assert code_of(path) in (0, 4, 5, 6)


def test_network_is_what_the_files_hold(tmp_path: Path) -> None:
    z = torch.randn(5, 2)
    for maker in (small_pt2, small_script):
        path = tmp_path / "model"
        path.write_bytes(maker())
        assert torch.equal(vaeprobe.load(path)(z), network()(z))
