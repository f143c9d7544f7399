"""What the parts of an archive would do in another loader's hands, whatever this package takes the archive for.

Torch's own loaders unpickle, compile and execute much that a decoder does not need: pickles beside the weights, sample
inputs, source code, compiled code.  Every part of an archive but bare numbers is looked at here, and one that would
run something is refused, whether or not any reader of this package would touch it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping

from vaeprobe.errors import InputError, ResourceError, UnsafeError, VaeprobeError
from vaeprobe.files.inert import Global
from vaeprobe.files.pickles import PickleError, imported_first, interpret
from vaeprobe.files.source import quoted
from vaeprobe.files.torch_pickles import read
from vaeprobe.files.trust import misuse, trust
from vaeprobe.files.zips import Archive, is_zip, open_archive

__all__ = [
    "KNOWN_HARM",
    "PRIMITIVES",
    "bare_parts",
    "dotted",
    "is_numbers",
    "parsed",
    "refuse_operator",
    "refuse_parts",
    "refuse_script",
]

HINT_SAVE_ANEW = "export it anew: torch.export.save(torch.export.export(decoder.eval(), (z,)), 'decoder.pt2')"
HINT_WEIGHTS = (
    "save the weights alone, as .safetensors, and describe the network by a blueprint, or build it by code of yours: "
    "--arch package.module:Network"
)
COMPILED = (".so", ".dll", ".dylib", ".cubin", ".cpp", ".o", ".pyd", ".pyc")
LONGEST_SOURCE = 1 << 22  # of a program's code, in bytes: parsing takes a hundred times that
MOST_LOOPS = 50_000  # of a literal range: a decoder takes a few hundred steps
NUMBERS = re.compile(r"(.+/)?(\d+|weight_\d+|tensor_\d+|constant_\d+)")
SAMPLE_INPUTS = {"torch._export.serde.serialize._reconstruct_fake_tensor"}
# said in the refusal, since these are what a hostile program wants
KNOWN_HARM = {
    "from_file": "opens a file (and can write it)",
    "save": "writes a file",
    "load": "reads a file",
    "_save_for_backward": "writes a file",
}
# of TorchScript's own operators, those that compute something harmless
PRIMITIVES = frozenset(
    [
        "NumToTensor",
        "dtype",
        "device",
        "layout",
        "data",
        "type",
        "is_cuda",
        "is_nested",
        "requires_grad",
        "min",
        "max",
        "unchecked_unwrap_optional",
        "RaiseException",
    ]
)


def is_numbers(name: str) -> bool:
    """Return whether a record of an archive, by its name below the root, holds bare numbers that nothing interprets."""
    return NUMBERS.fullmatch(name) is not None and name.startswith(("data/", "constants/", "tensors/"))


def bare_parts(archive: Archive) -> dict[str, bytes]:
    """Return the records of an archive that are no bare numbers."""
    return {name: archive.read(name) for name in archive.records if not is_numbers(name)}


def refuse_parts(kind: str, parts: Mapping[str, bytes]) -> None:
    """Refuse what another loader would run of an archive.

    Args:
        kind: what the archive is taken for: "torch zip", "torchscript" or "pt2".
        parts: every record but bare numbers, by name below the root.

    Raises:
        UnsafeError: it holds compiled code, pickles that import code, or a program that does harm.
        InputError: a part is damaged.
        ResourceError: its code is absurdly long.
    """
    for name, data in parts.items():
        leaf = name.rpartition("/")[2]
        if name.startswith("data/aotinductor/") or leaf.endswith(COMPILED) or data[:4] == b"\x7fELF":
            raise UnsafeError(
                f"the archive comes with compiled code, {quoted(name)}",
                hint="export it with torch.export.save, not for AOTInductor",
            )
        if kind == "pt2":
            _refuse_in_program(name, leaf, data)
        elif kind == "torchscript":
            _refuse_pickle(name, data, lambda g: _inert(g) or _of_script(g))
        elif name != "data.pkl":  # which its own reader judges
            _refuse_pickle(name, data, _inert)
    if kind == "torchscript":
        code = {n: data for n, data in parts.items() if n.startswith("code/") and n.endswith(".py")}
        if sum(map(len, code.values())) > LONGEST_SOURCE:
            raise ResourceError(f"the program's code has over {LONGEST_SOURCE:,} bytes")
        for name, data in code.items():
            refuse_script(parsed(data, name))


def _inert(name: Global) -> bool:
    return trust(name) == "inert"


def _of_script(name: Global) -> bool:
    return str(name).startswith(("__torch__.", "torch.jit._pickle."))


def _refuse_in_program(name: str, leaf: str, data: bytes) -> None:
    """Refuse the parts of a .pt2 that torch.export.load unpickles."""
    if leaf.startswith(("custom_obj_", "opaque_obj_")):
        raise UnsafeError(f"the program holds a pickled object, {quoted(name)}", hint=HINT_SAVE_ANEW)
    if leaf.endswith(".pt") and name.startswith(("data/weights/", "data/constants/")):
        raise UnsafeError(f"the program's weights are a pickle, {quoted(name)}", hint=HINT_SAVE_ANEW)
    if is_zip(data):  # tensors of its own: sample inputs, and before torch 2.7 weights and constants
        inner = bare_parts(open_archive(data))
        if "constants.pkl" in inner or any(n.startswith(("code/", "models/")) for n in inner):
            raise UnsafeError(
                f"the part {quoted(name)} of the program is another program", hint=HINT_SAVE_ANEW
            )
        refuse_parts("torch zip", inner)
        try:
            file = read(data, f"the part {quoted(name)}", "torch zip")
        except VaeprobeError as error:
            error.about = None  # which file the part is of is still to be said
            raise
        _refuse_names(name, file.globals, lambda g: _inert(g) or str(g) in SAMPLE_INPUTS)
    else:
        _refuse_pickle(name, data, lambda g: _inert(g) or str(g) in SAMPLE_INPUTS)


def _refuse_pickle(name: str, data: bytes, harmless: Callable[[Global], bool]) -> None:
    """Refuse a part that is a pickle, or begins like one, and would import more than is harmless."""
    if is_zip(data):
        raise UnsafeError(
            f"the archive holds another one, {quoted(name)}, which nothing checks",
            hint="unpack it, and give the checkpoint in it",
        )
    asked = imported_first(data)
    _refuse_names(name, asked, harmless)
    if asked:
        try:
            pickle = interpret(data)
        except PickleError as error:
            if error.partial is None:
                raise
            pickle = error.partial
        why = misuse(pickle)
        if why:
            raise UnsafeError(f"the part {quoted(name)} of the archive would {why} when it is unpickled")


def _refuse_names(name: str, asked: Iterable[Global], harmless: Callable[[Global], bool]) -> None:
    harmful = [g for g in asked if not harmless(g)]
    what = "program's sample inputs" if name.startswith("data/sample_inputs/") else "archive"
    if harmful:
        raise UnsafeError(
            f"the part {quoted(name)} of the {what} is a pickle that would import {quoted(str(harmful[0]))}",
            hint="do not load this file with another tool; ask its author for one that torch wrote",
        )


# -- TorchScript ----------------------------------------------------------------------------------


def parsed(source: bytes, name: str) -> ast.Module:
    """Return the code of a program, parsed.

    Raises:
        InputError: it cannot be parsed.
    """
    try:
        return ast.parse(source.decode("utf-8"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(
            f"{quoted(name)} cannot be parsed: {quoted(str(error))}", hint="is the file damaged?"
        ) from None


def refuse_script(tree: ast.Module) -> None:
    """Refuse code that would do harm when torch runs it, whether or not it would ever be reached.

    Raises:
        UnsafeError: it would.
        ResourceError: a loop with a literal that is absurdly large.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in ("__setstate__", "__getstate__"):
            raise UnsafeError(
                f"the program has a method `{node.name}`, which torch runs while loading it",
                hint=HINT_WEIGHTS,
            )
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Global, ast.Delete, ast.Lambda)):
            raise UnsafeError(
                f"the program's code has a statement that TorchScript never writes (line {node.lineno})",
                hint=HINT_WEIGHTS,
            )
        if isinstance(node, ast.Call):
            _refuse_call(node)


def dotted(node: ast.expr) -> str:
    """Return `a.b.c`, or "" for anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _refuse_call(call: ast.Call) -> None:
    name = dotted(call.func)
    if name == "print":
        raise UnsafeError(
            "the program prints, and what it prints could pass for our output", hint=HINT_WEIGHTS
        )
    if name.startswith("ops."):
        namespace, _, operator = name.removeprefix("ops.").partition(".")
        if namespace not in ("prim", "aten"):
            raise refuse_operator(
                f"{namespace}.{operator}", "a custom operator, which is compiled code of somebody's"
            )
        if namespace == "prim" and operator not in PRIMITIVES:
            raise refuse_operator(f"prim.{operator}")
    if name.startswith("__torch__.torch.classes"):
        raise refuse_operator(name, "compiled code that is no part of torch's mathematics")
    leaf = name.removeprefix("ops.aten.").removeprefix("torch.")
    if name.startswith(("torch.", "ops.aten.")) and leaf in KNOWN_HARM:
        raise refuse_operator(f"aten.{leaf}")
    if name == "range":
        constants = [n.value for a in call.args for n in ast.walk(a) if isinstance(n, ast.Constant)]
        numbers = [value for value in constants if type(value) is int]
        if any(n > MOST_LOOPS for n in numbers):
            raise ResourceError(
                f"the program loops over {MOST_LOOPS:,} times", hint="is this the decoder alone?"
            )


def refuse_operator(name: str, why: str | None = None) -> UnsafeError:
    """Return the error that refuses an operator."""
    leaf = name.split(".")[1] if name.startswith("aten.") and "." in name else name.rpartition(".")[2]
    why = why or KNOWN_HARM.get(leaf) or "not among the operators known to be harmless"
    return UnsafeError(f"the program uses the operator {quoted(name)}: {why}", hint=HINT_WEIGHTS)
