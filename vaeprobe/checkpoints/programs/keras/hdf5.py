"""HDF5 files as arrays by name, read by `h5py` (extra `[keras]`); nothing outside the file is opened.

HDF5 has links to other files, datasets stored in other files, and compression without bound: each is refused here.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vaeprobe.errors import InputError, MissingExtraError, ResourceError, UnsafeError
from vaeprobe.files.source import quoted

__all__ = ["Hdf5", "read_hdf5"]

LARGEST = 1 << 33  # bytes of all arrays together
MOST = 100_000  # names
HINT = "save the weights alone, as .safetensors, and describe the network by a blueprint"


@dataclass(frozen=True)
class Hdf5:
    """The contents of a file.

    Attributes:
        arrays: by path, in the file's order.
        attributes: of the root.
        orders: names of weights in the order in which Keras saved them, by group.
    """

    arrays: Mapping[str, np.ndarray]
    attributes: Mapping[str, object]
    orders: Mapping[str, tuple[str, ...]]


def read_hdf5(data: bytes) -> Hdf5:
    """Read a file.

    Raises:
        MissingExtraError: h5py is not installed.
        UnsafeError: it refers to other files.
        InputError: it is damaged.
        ResourceError: its arrays are absurdly large.
    """
    try:
        import h5py
    except ImportError:
        raise MissingExtraError(
            "reading Keras models needs the package `h5py`", hint="pip install 'vaeprobe[keras]'"
        ) from None
    arrays: dict[str, np.ndarray] = {}
    orders: dict[str, tuple[str, ...]] = {}
    budget = min(LARGEST, 64 * len(data))  # what compression can honestly save on weights
    seen: set[bytes] = set()

    def visit(group: h5py.Group, path: str) -> None:
        nonlocal budget
        if "weight_names" in group.attrs:
            orders[path] = tuple(str(_text(n)) for n in group.attrs["weight_names"])
        for name in group:
            link = group.get(name, getlink=True)
            where = f"{path}/{name}" if path else name
            if not isinstance(link, (h5py.HardLink, h5py.SoftLink)):
                raise UnsafeError(f"the HDF5 file refers to another file at {quoted(where)}", hint=HINT)
            item = group.get(name)
            if item is None:
                raise InputError(f"the HDF5 file has a broken link at {quoted(where)}")
            token = item.id.__hash__().to_bytes(8, "little", signed=True) + where.encode()
            if token in seen or len(seen) > MOST or where.count("/") > 64:
                raise InputError("the HDF5 file links to itself, or holds more names than a model has")
            seen.add(token)
            if isinstance(item, h5py.Group):
                visit(item, where)
            elif isinstance(item, h5py.Dataset):
                if item.is_virtual or item.external:
                    raise UnsafeError(f"the HDF5 file keeps {quoted(where)} in another file", hint=HINT)
                budget -= math.prod(item.shape or ()) * item.dtype.itemsize
                if budget < 0:
                    raise ResourceError("the HDF5 file claims far more numbers than it holds")
                if item.dtype.kind in "fiub" and item.shape is not None:
                    arrays[where] = np.asarray(item[()])

    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            attributes = {k: _text(v) for k, v in file.attrs.items() if not isinstance(v, h5py.Empty)}
            visit(file, "")
    except (UnsafeError, InputError, ResourceError):
        raise
    except Exception as error:  # h5py raises whatever the C library says
        raise InputError(
            f"the HDF5 file cannot be read: {quoted(str(error))}", hint="is it truncated? fetch it again"
        ) from None
    return Hdf5(arrays, attributes, orders)


def _text(value: object) -> object:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def parsed(text: object, what: str) -> object:
    """Return JSON from a file.

    Raises:
        InputError: it is none.
    """
    try:
        return json.loads(str(text))
    except (ValueError, RecursionError):
        raise InputError(f"{what} is no JSON", hint="is the file damaged?") from None
