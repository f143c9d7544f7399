"""What stands beside the weights in a file or folder, as plain data: hyper-parameters, registries, configs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vaeprobe.errors import InputError
from vaeprobe.files.inert import Built, Global, Node
from vaeprobe.files.source import quoted, read_text
from vaeprobe.files.torch_pickles import TorchFile, text_of
from vaeprobe.files.trust import is_named_value

__all__ = ["PickledArray", "in_file", "in_json"]

# entries of checkpoints that say what their network is
ENTRIES = (
    *("hyper_parameters", "attr_dict", "config", "hparams", "cfg"),
    *(
        "args",
        "model_args",
        "model_kwargs",
        "model_config",
        "kwargs",
        "init_args",
        "params",
        "opt",
        "settings",
    ),
)
CONTENT = ("_content", "_val")  # where omegaconf's configs keep what they hold
DEEPEST = 24
LONGEST = 100_000  # entries of a list that is kept
MOST = 300_000  # values in all
LARGEST = 1 << 22  # bytes of a JSON file


@dataclass(frozen=True)
class PickledArray:
    """An array in a pickle: its shape, and its values where they are texts or other objects."""

    shape: tuple[int, ...]
    values: tuple[object, ...] = ()


def in_file(file: TorchFile) -> dict[str, object]:
    """Return what a torch file says beside its weights, by entry; a class that is not data is a dict of its attributes."""
    if not isinstance(file.root, dict):
        return {}
    reader = _Reader()
    return {name: reader.plain(file.root[name]) for name in ENTRIES if name in file.root}


class _Reader:
    """Copies values, so many and no more: what a pickle holds in many places would be copied for each."""

    def __init__(self) -> None:
        self.left = MOST

    def plain(self, node: Node, depth: int = 0) -> object:
        """Return a value as plain data, None where it is none or there is too much."""
        self.left -= 1
        if depth > DEEPEST or self.left < 0:
            return None
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        if isinstance(node, bytes):
            return text_of(node)
        if isinstance(node, dict):
            return self.entries(node.items(), depth)
        if isinstance(node, (list, tuple)):
            return self.each(node, depth)
        if isinstance(node, Built):
            array = self.array(node, depth)
            if array is not None:
                return array
            if node.pairs:  # a class of dictionaries
                return self.entries(node.pairs, depth + 1)
            if isinstance(node.state, dict):
                inner = next((key for key in CONTENT if key in node.state), None)
                return self.plain(node.state if inner is None else node.state[inner], depth + 1)
            if is_named_value(node):
                # a member of an enumeration: its value, or its name where that alone is written
                first, *rest = node.args
                member = rest[0] if node.by("builtins.getattr") else node.args if rest else first
                return self.plain(member, depth + 1)
            return self.each([*node.args, node.state, *node.items], depth)
        return None

    def entries(self, pairs: Iterable[tuple[Node, Node]], depth: int) -> dict[str, object]:
        """Return the entries of a dictionary that are named."""
        out: dict[str, object] = {}
        for key, value in pairs:
            if self.left < 0:
                break
            if isinstance(key, (str, bytes, int)):
                out[text_of(key)] = self.plain(value, depth + 1)
        return out

    def each(self, values: Sequence[Node], depth: int) -> list[object]:
        """Return the first of some values."""
        return [self.plain(value, depth + 1) for value in values[: min(LONGEST, max(self.left, 0))]]

    def array(self, node: Built, depth: int) -> PickledArray | None:
        """Return a numpy array in the way it pickles: its state is version, shape, type, order and content."""
        made = isinstance(node.maker, Global) and node.maker.name == "_reconstruct"
        state = node.state
        if not made or not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[1], tuple):
            return None
        if not all(isinstance(n, int) for n in state[1]):
            return None
        content = state[4] if isinstance(state[4], list) else []
        return PickledArray(tuple(state[1]), tuple(self.each(content, depth)))


def in_json(path: Path) -> Mapping[str, object]:
    """Return the object in a JSON file.

    Raises:
        InputError: it is no JSON object.
        ResourceError: it is too large.
    """
    text = read_text(path, LARGEST)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{quoted(str(path))} is no JSON: {str(error)[:120]}") from None
    if not isinstance(found, dict):
        raise InputError(f"{quoted(str(path))} holds a {type(found).__name__}, not a JSON object")
    return found
