"""What another loader of a program would evaluate: symbolic sizes, guards and names, allowed only as torch writes them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from vaeprobe.checkpoints.programs.exported.document import items, name_of, table_of
from vaeprobe.errors import UnsafeError
from vaeprobe.files.harm import HINT_SAVE_ANEW
from vaeprobe.files.source import quoted

__all__ = ["refuse_code"]


def refuse_code(document: dict[str, object], graph: dict[str, object]) -> None:
    """Check what other loaders evaluate: symbolic sizes and guards."""
    for text in _found(document, "expr_str"):
        if not isinstance(text, str) or not _plain_expression(text):
            raise UnsafeError(
                f"the program has {quoted(str(text), limit=60)} for a size, which torch.export.load would evaluate",
                hint="do not load this file with torch.export.load",
            )
    for code in items(document, "guards_code") if document.get("guards_code") else []:
        if not isinstance(code, str) or not _plain_guard(code):
            raise UnsafeError(
                f"the program has the guard {quoted(str(code), limit=60)}, which torch would execute",
                hint="do not load this file with torch.export.load",
            )
    for key in ("tensor_values", "sym_int_values"):
        for value in table_of(graph.get(key, {})):
            name_of(value)
    if graph.get("custom_obj_values"):
        raise UnsafeError("the program uses custom objects", hint=HINT_SAVE_ANEW)


def _plain_expression(text: str) -> bool:
    """Return whether a symbolic size is arithmetic on symbols, as torch writes it."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if len(text) > 2000:
        return False
    allowed = (
        ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp, ast.Add, ast.Sub, ast.Mult,
        ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.USub, ast.Compare, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq,
    )  # fmt: skip
    for node in ast.walk(tree):
        if not isinstance(node, allowed):
            return False
        if (
            isinstance(node, ast.Name)
            and not re.fullmatch(r"[suzf]\d+|True|False", node.id)
            and node.id not in SYMPY
        ):
            return False
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in SYMPY):
            return False
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and not re.fullmatch(r"[suzf]\d+", node.value)
        ):
            return False
        if (
            isinstance(node, ast.BinOp)
            and isinstance(node.op, ast.Pow)
            and not isinstance(node.right, (ast.Constant, ast.UnaryOp))
        ):
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, int) and abs(node.value) > 1 << 63:
            return False
    return True


SYMPY = frozenset(
    [
        "Symbol",
        "Integer",
        "Rational",
        "Float",
        "Add",
        "Mul",
        "Pow",
        "Mod",
        "PythonMod",
        "FloorDiv",
        "CleanDiv",
        "CeilDiv",
        "CeilToInt",
        "FloorToInt",
        "TruncToInt",
        "IntTrueDiv",
        "FloatTrueDiv",
        "ToFloat",
        "Max",
        "Min",
        "Eq",
        "Ne",
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "Abs",
        "Identity",
        "Piecewise",
        "ModularIndexing",
        "floor",
        "ceiling",
    ]
)


def _plain_guard(code: str) -> bool:
    """Return whether a guard compares sizes and constants, as torch writes it."""
    try:
        tree = ast.parse(code, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    allowed = (
        ast.Expression, ast.Compare, ast.BoolOp, ast.And, ast.Or, ast.Not, ast.UnaryOp, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult,
        ast.FloorDiv, ast.Mod, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq, ast.Subscript, ast.Name, ast.Load, ast.Constant,
        ast.Attribute, ast.Call,
    )  # fmt: skip
    for node in ast.walk(tree):
        if not isinstance(node, allowed):
            return False
        if isinstance(node, ast.Name) and (
            node.id.startswith("__") or node.id in ("eval", "exec", "open", "getattr")
        ):
            return False
        if isinstance(node, ast.Attribute) and node.attr not in ("size", "shape", "ndim"):
            return False
        if isinstance(node, ast.Call) and not (
            isinstance(node.func, ast.Attribute) and node.func.attr == "size"
        ):
            return False
    return True


def _found(tree: object, key: str) -> Iterator[object]:
    """Yield every value under a key, at any depth."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            if key in node:
                yield node[key]
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
