"""A Keras file as a configuration and its weights: `.keras` archives and legacy `.h5` files.

Keras deserialises a configuration by importing what it names.  Here it is read as data: a layer is looked up in a
table of known ones, and code in it (Lambda layers, marshalled functions) is refused.

Source: Keras 3.15, `keras/src/saving/saving_lib.py` and `keras/src/legacy/saving/legacy_h5_format.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vaeprobe.checkpoints.programs.keras.hdf5 import Hdf5, parsed, read_hdf5
from vaeprobe.checkpoints.programs.keras.settings import damaged, table_of
from vaeprobe.errors import ArchitectureError, InputError, UnsafeError
from vaeprobe.files.source import quoted
from vaeprobe.files.zips import Archive

__all__ = ["MODELS", "Entry", "Saved", "from_hdf5", "from_keras", "snake_case"]

MODELS = ("Functional", "Sequential", "Model")
# a layer's weights lie in its `vars` and in those of its parts, in this order
PARTS = ("cell", "forward_layer", "backward_layer", "layer")


@dataclass(frozen=True)
class Entry:
    """A layer, an operation or a model, as a file states it: `class_name`, `config`, `inbound_nodes`."""

    table: Mapping[str, object]

    @property
    def kind(self) -> str:
        """Its class."""
        return str(self.table.get("class_name"))

    @property
    def settings(self) -> Mapping[str, object]:
        """Its own settings."""
        return table_of(self.table.get("config"))

    @property
    def name(self) -> str:
        """What the model calls it."""
        return str(self.settings.get("name", self.table.get("name", self.kind)))

    @property
    def calls(self) -> list[object]:
        """Its calls, each a list or a table."""
        calls = self.table.get("inbound_nodes") or []
        if not isinstance(calls, list):
            raise damaged()
        return calls

    def setting(self, *names: str) -> object:
        """Return the first of these settings that says something, None where none does."""
        return next((value for name in names if (value := self.settings.get(name))), None)


@dataclass(frozen=True)
class Saved:
    """A model of a file.

    Attributes:
        entry: of the model.
        version: of Keras, as "3.15.1"; "" where the file does not say.
        file: its arrays.
        legacy: whether weights are found by the names of layers; else by their classes, counted.
        path: where this model's weights lie: names of the models around it, or groups.
    """

    entry: Entry
    version: str
    file: Hdf5
    legacy: bool
    path: tuple[str, ...] = ()
    used: set[str] = field(default_factory=set, compare=False)

    @property
    def layers(self) -> list[Entry]:
        """Its layers."""
        inner = self.entry.table.get("config", {})
        layers = inner if isinstance(inner, list) else table_of(inner).get("layers", [])
        if not isinstance(layers, list) or not all(
            isinstance(c, dict) and isinstance(c.get("config"), dict) for c in layers
        ):
            raise damaged()
        return [Entry(layer) for layer in layers]

    def keys(self) -> list[str]:
        """Return under which name each layer's weights are stored: its own, or its class, counted."""
        if self.legacy:
            return [str(layer.settings.get("name", "")) for layer in self.layers]
        counts: dict[str, int] = {}
        keys = []
        for layer in self.layers:
            base = snake_case(layer.kind)
            n = counts.get(base, 0)
            counts[base] = n + 1
            keys.append(f"{base}_{n}" if n else base)
        return keys

    def inside(self, entry: Entry, key: str) -> Saved:
        """Return a model that is a layer of this one."""
        path = (*self.path, key) if self.legacy else (*self.path, "layers", key)
        return Saved(entry, self.version, self.file, self.legacy, path, self.used)

    def weights(self, key: str) -> list[np.ndarray]:
        """Return a layer's weights, in the order in which it made them."""
        names = self._by_name(key) if self.legacy else self._by_place("/".join((*self.path, "layers", key)))
        self.used.update(names)
        return [self.file.arrays[n] for n in names]

    def _by_place(self, group: str) -> list[str]:
        found: list[str] = []
        while (name := f"{group}/vars/{len(found)}") in self.file.arrays:
            found.append(name)
        for part in PARTS:
            if any(n.startswith(f"{group}/{part}/") for n in self.file.arrays):
                found += self._by_place(f"{group}/{part}")
        return found

    def _by_name(self, key: str) -> list[str]:
        wanted = (*self.path, key)
        found = []
        for group, names in self.file.orders.items():
            for name in names:
                full = f"{group}/{name}"
                if _contains(full.split("/")[:-1], wanted) and full in self.file.arrays:
                    found.append(full)
        return found


def _contains(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether names occur in a path in this order."""
    rest = iter(parts)
    return all(w in rest for w in wanted)


def snake_case(name: str) -> str:
    """Return a class's name as Keras writes it into files: Conv2DTranspose -> conv2d_transpose."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def from_keras(archive: Archive) -> Saved:
    """Read a `.keras` archive.

    Raises:
        InputError: it is damaged.
        UnsafeError: its configuration holds code.
    """
    for name in ("config.json", "model.weights.h5"):
        if name not in archive:
            raise InputError(f"the Keras archive holds no `{name}`", hint="is the file truncated?")
    config = parsed(archive.read("config.json").decode("utf-8", "replace"), "`config.json`")
    meta = (
        parsed(archive.read("metadata.json").decode("utf-8", "replace"), "`metadata.json`")
        if "metadata.json" in archive
        else {}
    )
    version = str(meta.get("keras_version", "")) if isinstance(meta, dict) else ""
    return _root(config, version, read_hdf5(archive.read("model.weights.h5")), legacy=False)


def from_hdf5(data: bytes) -> Saved:
    """Read a legacy `.h5` file with a model in it.

    Raises:
        ArchitectureError: it holds weights alone.
        InputError: it holds neither.
    """
    file = read_hdf5(data)
    if "model_config" not in file.attributes:
        if (
            any(
                "/vars/" in n or n.startswith(("layers/", "_layer_checkpoint_dependencies/"))
                for n in file.arrays
            )
            or file.orders
        ):
            raise ArchitectureError(
                "the file holds the weights of a Keras model, and not the model",
                hint="save both: model.save('decoder.keras')",
            )
        raise InputError(
            f"the HDF5 file holds {len(file.arrays)} arrays and no Keras model",
            hint="give an array of it as .npy, or the model as .keras",
        )
    config = parsed(file.attributes["model_config"], "the configuration of the Keras model")
    prefix = "model_weights/"
    inner = Hdf5(
        {n.removeprefix(prefix): a for n, a in file.arrays.items()},
        file.attributes,
        {n.removeprefix(prefix): o for n, o in file.orders.items()},
    )
    return _root(config, str(file.attributes.get("keras_version", "")), inner, legacy=True)


def _root(config: object, version: str, file: Hdf5, *, legacy: bool) -> Saved:
    table = table_of(config)
    for kind, where in _code(table):
        raise UnsafeError(
            f"the Keras model holds code ({kind} {quoted(where)})",
            hint="save it without: replace a Lambda layer by layers of Keras, or give its weights and a blueprint",
        )
    return Saved(Entry(table), version, file, legacy)


def _code(config: object) -> Iterator[tuple[str, str]]:
    """Yield what in a configuration is code, or could import some."""
    stack = [config]
    steps = 0
    while stack:
        node = stack.pop()
        steps += 1
        if steps > 1_000_000:
            raise InputError("the configuration of the Keras model is larger than any network's")
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict):
            kind = node.get("class_name")
            if kind in ("Lambda", "__lambda__"):
                yield (
                    "a Lambda layer",
                    str((node.get("config") or {}).get("name", ""))
                    if isinstance(node.get("config"), dict)
                    else "",
                )
            module = node.get("module")
            if (
                isinstance(module, str)
                and kind
                and not re.match(
                    r"(keras|tf_keras|tensorflow\.keras|tensorflow\.python\.keras|builtins)(\.|$)", module
                )
                and not node.get("registered_name")
            ):
                yield "an object of", f"{module}.{kind}"
            if module == "builtins" and kind not in ("function", None):
                yield "an object of", f"{module}.{kind}"
            stack.extend(node.values())
