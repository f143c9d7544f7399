"""What a file is, by its bytes; its name says nothing.

(A `.pt` may be safetensors, a `.pkl` a torch zip, a `.safetensors` a pickle.)
"""

from __future__ import annotations

from typing import Literal

from vaeprobe.errors import InputError, UnsafeError
from vaeprobe.files.source import Source, quoted
from vaeprobe.files.torch_pickles import LEGACY_HEAD
from vaeprobe.files.zips import has_zip_end, is_zip, listing

__all__ = ["Format", "sniff"]

Format = Literal[
    "torch zip",
    "torch legacy",
    "pickle",
    "safetensors",
    "npy",
    "npz",
    "pt2",
    "torchscript",
    "keras",
    "hdf5",
    "onnx",
]

SUPPORTED = "torch.save files, safetensors, .pt2, TorchScript, .npy and .npz"
LFS = b"version https://git-lfs.github.com/spec/"
# the first bytes of files that are often given by mistake
STRANGERS = {
    b"\x1f\x8b": "gzip-compressed: unpack it first",
    b"BZh": "bzip2-compressed: unpack it first",
    b"\xfd7zXZ": "xz-compressed: unpack it first",
    b"\x28\xb5\x2f\xfd": "zstandard-compressed: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"GGUF": "a GGUF language model, which has no decoder of latents",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF document",
    b"\x7fELF": "a compiled program",
    b"MZ": "a compiled program",
}


def sniff(source: Source) -> Format:
    """Return the format of a file.

    Raises:
        UnsafeError: a tar archive of torch 0.1, which only an unpickler can read, or two files in one.
        InputError: none that this package knows; a web page, a git-LFS pointer, a truncated archive.
    """
    data = source.data
    if is_zip(data):
        return _zip(source)
    if data.startswith(LEGACY_HEAD):
        return "torch legacy"
    if data.startswith(b"\x93NUMPY"):
        return "npy"
    if data.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if data[257:262] == b"ustar":
        raise UnsafeError(
            f"{source.name} is a tar archive, as torch 0.1 wrote its pickles: nothing of it was read",
            hint="load it with the torch that wrote it and save it again, as safetensors",
        )
    if len(data) >= 9 and data[8:9] == b"{":
        return "safetensors"
    if data[0] == 0x80 and len(data) > 1 and data[1] <= 5:
        return "pickle"
    _refuse_text(source)
    for head, what in STRANGERS.items():
        if data.startswith(head):
            raise InputError(f"{source.name} is {what}", hint=f"vaeprobe reads {SUPPORTED}")
    if _is_onnx(data):
        return "onnx"
    if has_zip_end(data):
        raise UnsafeError(
            f"{source.name} is a zip archive with something before it, so that two readers can see two different files",
            hint="ask for a file as torch.save writes it",
        )
    if _is_text_pickle(data):
        return "pickle"
    raise InputError(
        f"{source.name} is in no format that vaeprobe knows: it begins with {quoted(data[:8].hex(' '))}",
        hint=f"vaeprobe reads {SUPPORTED}; is the file truncated at its beginning or encrypted?",
    )


def _zip(source: Source) -> Format:
    """Return what a zip archive holds, by the names in it."""
    names = [info.filename for info in listing(source.data)]
    below = {name.partition("/")[2] for name in names}
    if "config.json" in names and "model.weights.h5" in names:
        return "keras"
    if "constants.pkl" in below or any(name.startswith("code/") for name in below):
        return "torchscript"
    if any(name.startswith(("data/weights/", "models/")) for name in below) and "archive_format" in below:
        return "pt2"
    if "data.pkl" in below or "data.pkl" in names:
        return "torch zip"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    if any(name.endswith("serialized_exported_program.json") for name in names):
        return "pt2"
    raise InputError(
        f"{source.name} is a zip archive that holds no checkpoint (entries: {', '.join(map(quoted, names[:3]))}, ...)",
        hint="unpack it, and give the checkpoint in it",
    )


def _refuse_text(source: Source) -> None:
    head = source.data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(LFS):
        raise InputError(
            f"{source.name} is a git-LFS pointer, not the checkpoint itself",
            hint="run `git lfs pull` in its repository",
        )
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise InputError(
            f"{source.name} is a web page, not a checkpoint",
            hint="the download gave an error or login page: open the link in a browser, or use its raw address",
        )
    if head.startswith((b"{", b"[")) and head.isascii():
        raise InputError(
            f"{source.name} is a JSON text, not a checkpoint", hint="give the file of weights beside it"
        )


def _is_text_pickle(data: bytes) -> bool:
    """Return whether a pickle of protocol 0 or 1, which has no header, begins here."""
    if data[:1] == b"c":
        return data[1:256].count(b"\n") >= 2
    return data[:1] in b"(]})" and data[-1:] == b"."


def _is_onnx(data: bytes) -> bool:
    """Return whether these are the fields of an ONNX `ModelProto`, with a graph among them."""
    at, fields = 0, set()
    if data[0] != 0x08:  # ir_version comes first
        return False
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire not in (0, 2) or not 1 <= number <= 30:
            return False
        value, at = _varint(data, at)
        if wire == 2:
            at += value
        fields.add(number)
    return at == len(data) and 7 in fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return 0, len(data) + 1
