"""What a file is, by its bytes; its name says nothing.

(A `.pt` may be safetensors, a `.pkl` a torch zip, a `.safetensors` a pickle.)  A file that a second reader would take for
something else, and run, is refused here whatever it is to the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from vaeprobe.errors import InputError, UnsafeError
from vaeprobe.files.harm import is_numbers, refuse_parts
from vaeprobe.files.inert import Global
from vaeprobe.files.pickles import imported_first
from vaeprobe.files.source import Bytes, Source, Window, quoted
from vaeprobe.files.torch_pickles import LEGACY_HEAD
from vaeprobe.files.trust import foreign, named, refuse_dangerous
from vaeprobe.files.zips import directory, has_zip_end, is_zip, unpacked

__all__ = ["Container", "UnknownFormatError", "known", "refuse_text", "sniff"]

Container = Literal[
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

SUPPORTED = (
    "torch.save files and pickles, safetensors, .pt2, TorchScript, ONNX, .keras, .h5, .npy, .npz, indices of shards,"
    " and folders of diffusers, pythae, scVI and of distributed checkpoints"
)
LFS = b"version https://git-lfs.github.com/spec/"
LARGEST_PART = 1 << 28  # bytes of a part that is no bare numbers
HDF5 = b"\x89HDF\r\n\x1a\n"
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


class UnknownFormatError(InputError):
    """A file passed every refusal and is in no format that this package knows."""


def sniff(source: Source) -> Container:
    """Return the format of a file.

    Raises:
        UnsafeError: a tar archive of torch 0.1, which only an unpickler can read, or two files in one.
        UnknownFormatError: none that this package knows.
        InputError: a web page, a git-LFS pointer, a truncated archive.
    """
    kept = vars(source)  # its bytes never change: what they are is told once
    if "_container" not in kept:
        kept["_container"] = _told(source)
    container: Container = kept["_container"]
    return container


def _told(source: Source) -> Container:
    found = known(source.data, source.name)
    if found is not None:
        return found
    data = source.data
    refuse_text(data, source.name)
    head = data[:8]
    for start, what in STRANGERS.items():
        if head.startswith(start):
            raise UnknownFormatError(
                f"{source.name} is {what}", hint=f"vaeprobe reads {SUPPORTED}", about=source.name
            )
    raise UnknownFormatError(
        f"{source.name} is in no format that vaeprobe knows: it begins with {quoted(head.hex(' '))}",
        hint=f"vaeprobe reads {SUPPORTED}; is the file truncated at its beginning or encrypted?",
        about=source.name,
    )


def known(data: Bytes, name: str) -> Container | None:
    """Return the format of a file, None where it is none that this package knows (text, for one).

    Raises:
        UnsafeError: as `sniff`.
        UnknownFormatError: a zip archive of something else.
        InputError: a damaged archive.
    """
    head = bytes(data[:16])
    if _is_tar(bytes(data[:512])):
        raise UnsafeError(
            f"{name} is a tar archive, as torch 0.1 wrote its pickles: nothing of it was read",
            hint="load it with the torch that wrote it and save it again, as safetensors",
            about=name,
        )
    if is_zip(data):
        return _zip(data, name)
    _refuse_second_archive(data, name)
    if head.startswith(LEGACY_HEAD):
        return "torch legacy"
    braced = head[8:9] == b"{"  # as the header of safetensors is, after its length
    if head[:1] == b"\x80" and head[1:2] <= b"\x05" and not (braced and _length(head) <= len(data)):
        return "pickle"
    asked = imported_first(data.mapped() if isinstance(data, Window) else bytes(data[:]))
    if asked:
        return _pickle_too(name, asked)
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(HDF5):
        return "hdf5"
    if braced:
        return "safetensors"
    if head[:1] == b"\x08" and _is_onnx(bytes(data[:])):
        return "onnx"
    if head[:1] and head[:1] in b"(]})" and data[len(data) - 1 :] == b".":
        return "pickle"  # of protocol 0 or 1, which has no header
    return None


def _length(head: bytes) -> int:
    return int.from_bytes(head[:8], "little")


def _zip(data: Bytes, file: str) -> Container:
    """Return what a zip archive holds, by the names in it, every part of it but numbers looked at."""
    entries = directory(data)
    names = [entry.name for entry in entries]
    below = {name.partition("/")[2] for name in names}
    keras = "config.json" in names and "model.weights.h5" in names
    script = "constants.pkl" in below or any(name.startswith("code/") for name in below)
    program = any(
        name.startswith(("models/", "data/weights/", "data/constants/", "data/sample_inputs/"))
        or name == "archive_format"
        for name in below
    ) or any(name.endswith("serialized_exported_program.json") for name in names)
    package = any(name.startswith(".data/extern_modules") for name in below)
    pickled = ("data.pkl" in below or "data.pkl" in names) and not script
    layouts = {
        "a Keras model": keras,
        "TorchScript": script,
        "a .pt2 program": program,
        "a torch checkpoint": pickled,
        "a torch package": package,
    }
    several = [what for what, there in layouts.items() if there]
    if len(several) > 1 or package:
        raise UnsafeError(
            f"{file} is {' and '.join(several)} at once"
            if len(several) > 1
            else f"{file} is a torch package, which is Python code",
            hint="whoever reads it otherwise runs something else: ask for a file as torch.save writes it",
            about=file,
        )
    for found, there in (("keras", keras), ("torchscript", script), ("pt2", program), ("torch zip", pickled)):
        if not there:
            continue
        if found == "keras":
            archive = {entry.name: entry for entry in entries if not entry.name.endswith(".h5")}
        else:
            _refuse_hdf5_inside(data, file)
            archive = {entry.name.partition("/")[2] or entry.name: entry for entry in entries}
        rest = {name: entry for name, entry in archive.items() if not is_numbers(name)}
        parts = {name: unpacked(data, entry, LARGEST_PART) for name, entry in rest.items()}
        refuse_parts(found, parts)
        return found  # type: ignore[return-value]
    if all(name.endswith(".npy") for name in names):
        return "npz"
    raise UnknownFormatError(
        f"{file} is a zip archive that holds no checkpoint (entries: {', '.join(map(quoted, names[:3]))}, ...)",
        hint="unpack it, and give the checkpoint in it",
        about=file,
    )


# -- two files in one -----------------------------------------------------------------------------


def _refuse_second_archive(data: Bytes, name: str) -> None:
    """Refuse a file that readers who look elsewhere than at its beginning take for a zip or HDF5."""
    if has_zip_end(data):
        raise UnsafeError(
            f"{name} is two files at once, a zip archive with something before it, so that two readers can see two different files",
            hint="ask for a file as torch.save writes it",
            about=name,
        )
    _refuse_hdf5_inside(data, name)


def _refuse_hdf5_inside(data: Bytes, name: str) -> None:
    at = 512  # HDF5 may begin here, or at any doubling of it
    while at < len(data):
        if data[at : at + 8] == HDF5 and data[:8] != HDF5:
            raise UnsafeError(
                f"{name} is two files at once, HDF5 with something before it, so that two readers can see two different files",
                hint="ask for a file of weights alone",
                about=name,
            )
        at *= 2


def _pickle_too(name: str, asked: Iterable[Global]) -> Container:
    """Return "pickle" for a file of whatever beginning that an unpickler runs, or refuse it."""
    refuse_dangerous(name, asked)
    unknown = foreign(asked)
    if unknown:
        raise UnsafeError(
            f"{name} is a pickle, whatever it begins like, and would import {named(unknown)}",
            hint="do not open it with another tool; ask for safetensors",
            about=name,
        )
    return "pickle"


def _is_tar(head: bytes) -> bool:
    """Return whether a tar archive begins here, of any age: the sum of its header tells, its name may be anything."""
    if len(head) < 512:
        return False
    if head[257:262] == b"ustar":
        return True
    said = head[148:156].strip(b"\0 ")
    if not said or not said.isdigit() or any(digit > ord("7") for digit in said):
        return False
    return int(said, 8) == 256 + sum(head[:148]) + sum(head[156:])


# -- what is no checkpoint ------------------------------------------------------------------------


def refuse_text(data: Bytes, name: str, rows: str | None = None) -> None:
    """Refuse what is often given by mistake: git-LFS pointers, web pages, JSON.

    Args:
        rows: what to do instead where rows of data were asked for; None where a checkpoint was.

    Raises:
        InputError: it is one of these.
    """
    head = bytes(data[:1024]).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(LFS):
        raise InputError(
            f"{name} is a git-LFS pointer, not the file itself",
            hint="run `git lfs pull` in its repository",
            about=name,
        )
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise InputError(
            f"{name} is a web page, not a file of numbers",
            hint="the download gave an error or login page: open the link in a browser, or use its raw address",
            about=name,
        )
    if head.startswith((b"{", b"[")) and head.isascii():
        asked = "a checkpoint" if rows is None else "rows of numbers"
        hint = rows or "give the file of weights beside it"
        raise InputError(f"{name} is a JSON text, not {asked}", hint=hint, about=name)


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
