"""From a path to rows of data: the format is told by the bytes, and read by the one reader that it has."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from vaeprobe.data.images import open_folder
from vaeprobe.data.masks import with_gaps
from vaeprobe.data.rows import Data, Nonfinite
from vaeprobe.data.shards import (
    ArrayShard,
    MemberShard,
    RawShard,
    Shard,
    member_layout,
    numpy_type,
    of_spec,
    rows_of,
)
from vaeprobe.data.text import open_text, refuse_foreign
from vaeprobe.errors import InputError, UnsafeError, UsageError, did_you_mean
from vaeprobe.files import npy, safetensors, torch_pickles
from vaeprobe.files.inert import Node
from vaeprobe.files.sniff import Container, known, refuse_text
from vaeprobe.files.source import Window, open_window, printable, quoted, read_source
from vaeprobe.files.trust import foreign, named
from vaeprobe.findings import SCALED
from vaeprobe.report import Finding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.generic]

__all__ = ["in_memory", "open_data"]

Spec: TypeAlias = "str | Path | Sequence[str | Path]"
FORMATS = "data comes as .npy, .npz, .safetensors, .pt or delimited text"


def open_data(
    spec: Spec,
    *,
    key: str | None = None,
    scale: str | float = "auto",
    nonfinite: Nonfinite = "refuse",
    asked: bool = False,
) -> Data:
    """Return the rows that a path, a glob or several of either name; nothing is read but headers.

    Args:
        spec: .npy, .npz, .safetensors, .pt/.pth (a tensor, or a dict of tensors), .csv/.tsv/.txt; a folder of
            PNG images of one size, grey or RGB, in the order of their names, rows of shape (c, h, w); a glob
            such as `shards/*.npy`; or a sequence of these, whose rows follow each other.
        key: which array of a file that holds several.
        scale: "auto" (uint8 divided by 255, everything else as stored), "none", or a factor such as 0.1 or "1/255".
        nonfinite: what to do about rows with NaN or infinity: "refuse", "drop", "keep".
        asked: whether it is for users to say `key` and `scale`, so that hints name these options.

    Raises:
        InputError: a file is missing, damaged, holds no real numbers, or the files' rows differ in shape.
        UnsafeError: a file would have to be unpickled.
        UsageError: `key` or `scale` is wrong, several arrays are there and no key was given, or images are
            to be read without Pillow.
        ResourceError: an archive expands to far more than its size.
    """
    shards = tuple(_open(path, key, asked) for path in _expand(spec))
    for shard in shards:
        if shard.row_shape != shards[0].row_shape:
            raise InputError(
                f"`{shard.path}` has rows of shape {shard.row_shape}, `{shards[0].path}` of {shards[0].row_shape}"
            )
    factor, notes = _scaling(scale, shards, asked)
    own = tuple(note for shard in shards for note in shard.notes)
    return Data(shards, factor, nonfinite, own + notes)


def in_memory(array: Array, *, scale: str | float = "none", nonfinite: Nonfinite = "refuse") -> Data:
    """Return an array's rows as data, as they are or scaled as those of files; what is masked is missing, NaN.

    Raises:
        UsageError: `scale` is no scale.
    """
    array = with_gaps(array)
    shard = ArrayShard(**rows_of("array", array.shape, array.dtype), array=array)
    factor, notes = _scaling(scale, (shard,), True)
    return Data((shard,), factor, nonfinite, notes)


# -- opening ---------------------------------------------------------------------------------------


def _expand(spec: Spec) -> list[str]:
    parts = [spec] if isinstance(spec, (str, os.PathLike)) else list(spec)
    paths: list[str] = []
    for part in map(str, parts):
        if not os.path.exists(part) and glob.has_magic(part):
            found = sorted(glob.glob(part, recursive=True))
            if not found:
                raise InputError(f"no file matches {quoted(part)}")
            paths.extend(found)
        else:
            paths.append(part)
    if not paths:
        raise UsageError("no data file was given")
    return paths


def _open(path: str, key: str | None, asked: bool) -> Shard:
    if os.path.isdir(path):
        _refuse_key(path, key)
        return open_folder(path)
    window = open_window(path)
    format = known(window, window.name)
    match format:
        case "npy":
            _refuse_key(path, key)
            return _open_npy(path, window)
        case "npz":
            return _open_npz(path, window, key, asked)
        case "safetensors":
            return _open_safetensors(path, window, key, asked)
        case "torch zip" | "torch legacy" | "pickle":
            return _open_torch(path, format, key, asked)
        case None:
            refuse_text(window, window.name, rows=FORMATS)
            refuse_foreign(path, window[:16])
            suffix = Path(path).suffix.lower()
            if suffix in (".npy", ".npz", ".safetensors", ".pt", ".pth"):
                raise InputError(
                    f"{quoted(path)} is no {suffix} file: it starts with {window[:8]!r}", hint=FORMATS
                )
            _refuse_key(path, key)
            return open_text(path)
    refuse_foreign(path, window[:16])
    what = {"keras": "a Keras model", "onnx": "an ONNX model"}.get(format, "a program")
    raise InputError(f"{quoted(path)} is {what}, no rows of numbers", hint=FORMATS)


def _open_npy(path: str, window: Window) -> Shard:
    found, notes = npy.layout(window, quoted(path))
    common = rows_of(path, found.shape, found.dtype)
    return RawShard(**common, offset=found.start, fortran=found.fortran, notes=notes)


def _open_npz(path: str, window: Window, key: str | None, asked: bool) -> Shard:
    members = npy.members(window, quoted(path))
    name = _choose(path, members, key, asked)
    found, notes = member_layout(path, members[name], f"array {quoted(name)} of {quoted(path)}")
    common = rows_of(path, found.shape, found.dtype)
    return MemberShard(**common, member=members[name], start=found.start, fortran=found.fortran, notes=notes)


def _open_safetensors(path: str, window: Window, key: str | None, asked: bool) -> Shard:
    layouts, _ = safetensors.layout(window)
    found = layouts[_choose(path, layouts, key, asked)]
    common = rows_of(path, found.shape, numpy_type(found.dtype, path))
    return RawShard(**common, offset=found.begin, bfloat16=found.dtype == "bfloat16")


def _open_torch(path: str, container: Container, key: str | None, asked: bool) -> Shard:
    source = read_source(path)
    file = torch_pickles.read(source.data, source.name, container)  # type: ignore[arg-type]
    unknown = foreign(file.globals)
    if unknown:
        raise UnsafeError(
            f"{source.name} asks for more than tensors: it would import {named(unknown)}",
            hint="save the bare tensor: torch.save(tensor, path)",
        )
    node: Node = file.root
    if isinstance(node, Mapping):
        tensors = {str(k): v for k, v in node.items() if isinstance(k, (str, int)) and file.is_tensor(v)}
        node = tensors[_choose(path, tensors, key, asked)]
    elif file.is_tensor(node):
        _refuse_key(path, key)
    if not file.is_tensor(node):
        raise InputError(
            f"{source.name} holds no dense tensor", hint="save the bare tensor: torch.save(tensor, path)"
        )
    return of_spec(path, file.spec(node))


# -- small parts -----------------------------------------------------------------------------------


def _refuse_key(path: str, key: str | None) -> None:
    """Refuse a key of a file that holds one array, which has no name."""
    if key is not None:
        raise UsageError(
            f"{quoted(path)} holds one array, which has no name, and so no array {quoted(key)}",
            hint="leave out --key",
        )


def _choose(path: str, names: Iterable[str], key: str | None, asked: bool) -> str:
    names = list(names)
    if key is not None:
        if key in names:
            return key
        raise UsageError(
            f"{quoted(path)} holds no array {quoted(key)}", hint=did_you_mean(key, names) or _listing(names)
        )
    if len(names) == 1:
        return str(names[0])
    if not names:
        raise InputError(f"{quoted(path)} holds no array")
    if {"indices", "indptr", "shape", "data"} <= set(names):
        raise InputError(
            f"{quoted(path)} is a sparse matrix of scipy, which is not read",
            hint='save it whole: `np.save("x.npy", matrix.toarray())`',
        )
    how = "choose one with --key" if asked else "save the rows in a file of their own, one of"
    raise UsageError(f"{quoted(path)} holds {len(names)} arrays", hint=f"{how}: {_listing(names)}")


def _listing(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:8])) + (", ..." if len(names) > 8 else "")


def _scaling(scale: str | float, shards: Sequence[Shard], asked: bool) -> tuple[float, tuple[Finding, ...]]:
    if scale == "auto":
        pixels = [s.stored == np.uint8 for s in shards]
        if not any(pixels):
            return 1.0, ()
        if not all(pixels):
            hint = "say how to scale with --scale none or a factor" if asked else "store all of them alike"
            raise InputError("some files hold uint8 and some do not", hint=hint)
        message = "uint8 values were divided by 255 (--scale none, in Python scale='none', keeps them)"
        return 1 / 255, (Finding(SCALED, message),)
    if scale == "none":
        return 1.0, ()
    try:
        above, _, below = str(scale).partition("/")
        factor = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        factor = math.nan
    if not (math.isfinite(factor) and factor > 0):
        raise UsageError(
            f"`{scale}` is no scale", hint="auto, none, or a positive factor such as 0.1 or 1/255"
        )
    return factor, (Finding(SCALED, f"values were multiplied by {scale}"),)
