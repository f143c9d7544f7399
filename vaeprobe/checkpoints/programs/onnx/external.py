"""Tensors that an ONNX model keeps in other files: each must lie beside the model, and hold what is asked of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from vaeprobe.errors import InputError, UnsafeError
from vaeprobe.files.source import quoted

if TYPE_CHECKING:
    from onnx import TensorProto

__all__ = ["external_bytes"]

KEYS = {"location", "offset", "length", "checksum", "basepath"}
HINT = "save it anew with all its tensors in one file: onnx.save(model, path, save_as_external_data=False)"


def external_bytes(proto: TensorProto, name: str, folder: Path | None, expected: int) -> bytes:
    """Return the bytes of one tensor.

    Args:
        proto: the `TensorProto`.
        name: the tensor's name, for messages.
        folder: of the model; files elsewhere are not opened.
        expected: how many bytes the tensor's shape and type need.

    Raises:
        UnsafeError: the file would lie outside the folder, or be reached through a link, or is no regular file.
        InputError: it is missing, or too short, or the entry is damaged.
    """
    entry = {e.key: e.value for e in proto.external_data}
    if set(entry) - KEYS:
        raise UnsafeError(
            f"the external data of {quoted(name)} have an unknown key {quoted(min(set(entry) - KEYS))}",
            hint=HINT,
        )
    location = entry.get("location", "")
    path = PurePosixPath(location)
    if (
        not location
        or folder is None
        or path.is_absolute()
        or PureWindowsPath(location).is_absolute()
        or PureWindowsPath(location).drive
        or ".." in path.parts
        or "\\" in location
        or "\0" in location
    ):
        raise UnsafeError(
            f"the external data of {quoted(name)} would be read from {quoted(location)}, outside the model's folder",
            hint=HINT,
        )
    try:
        offset, length = int(entry.get("offset") or 0), int(entry.get("length") or expected)
    except ValueError:
        raise InputError(
            f"the external data of {quoted(name)} have an offset or length that is no number"
        ) from None
    if length != expected or offset < 0:
        raise InputError(
            f"the external data of {quoted(name)} claim {length:,} bytes, and its shape needs {expected:,}"
        )
    at = folder
    for part in path.parts:  # every folder on the way, and the file itself
        at = at / part
        if at.is_symlink():
            raise UnsafeError(
                f"the external data {quoted(location)} are a link to somewhere else",
                hint="copy the file itself beside the model",
            )
    try:
        handle = os.open(at, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise InputError(
            f"the model keeps {quoted(name)} in {quoted(location)}, which is not there",
            hint="fetch that file too",
        ) from None
    except OSError as error:
        raise InputError(f"{quoted(location)} cannot be opened: {(error.strerror or '').lower()}") from None
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise UnsafeError(
                f"the external data {quoted(location)} are no file of their own (a device, or a hard link)",
                hint="copy the file itself beside the model",
            )
        if offset + length > status.st_size:
            raise InputError(
                f"the external data of {quoted(name)} end at byte {offset + length:,} of {quoted(location)}, which has {status.st_size:,}",
                hint="is the file truncated? fetch it again",
            )
        file.seek(offset)
        return file.read(length)
