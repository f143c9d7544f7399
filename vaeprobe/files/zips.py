"""Zip archives, checked before anything in them is parsed.

Torch writes its entries stored, under one root folder.  Whatever two zip readers could read differently, or
could unpack to more than the file holds, is refused here, so that the loaders behind this module see the
very bytes that were checked.
"""

from __future__ import annotations

import io
import itertools
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from vaeprobe.errors import InputError, UnsafeError
from vaeprobe.files.source import quoted

__all__ = ["Archive", "is_zip", "listing", "open_archive"]

LOCAL_HEADER = b"PK\x03\x04"
END_RECORD = b"PK\x05\x06"
MAX_ENTRIES = 200_000
MAX_CODE = 1 << 26


@dataclass(frozen=True)
class Archive:
    """The records of an archive that passed every check.

    Attributes:
        root: the one folder that holds all entries ("archive", the file's stem, ...), or "".
        records: bytes by name below the root; views of the file, not copies.
    """

    root: str
    records: Mapping[str, memoryview]

    def __contains__(self, name: str) -> bool:
        return name in self.records

    def read(self, name: str) -> bytes:
        """Return a copy of one record."""
        return bytes(self.records[name])


def is_zip(data: bytes) -> bool:
    """Return whether a zip begins here."""
    return data.startswith((LOCAL_HEADER, END_RECORD))


def has_zip_end(data: bytes) -> bool:
    """Return whether a zip reader, which starts at the end, would find an archive in these bytes."""
    return END_RECORD in data[-(22 + 65535) :] and zipfile.is_zipfile(io.BytesIO(data))


def listing(data: bytes) -> list[zipfile.ZipInfo]:
    """Return the directory of a zip after checking its names and structure; decompresses nothing.

    Raises:
        UnsafeError: names that leave the folder, repeat, or differ only by case; bytes before or after the zip.
        InputError: a truncated, damaged or encrypted archive.
    """
    if len(data) < 22 or END_RECORD not in data[-(22 + 65535) :]:
        raise InputError(
            "the zip archive has no end record: the file is truncated",
            hint="the download or the save was interrupted? fetch it again",
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            comment = archive.comment
    except (
        zipfile.BadZipFile,
        struct.error,
        ValueError,
        OSError,
        NotImplementedError,
        OverflowError,
    ) as error:
        raise InputError(
            f"the zip archive is damaged: {_lower(error)}", hint="fetch the file again"
        ) from None
    if not infos:
        raise InputError("the zip archive is empty")
    if len(infos) > MAX_ENTRIES:
        raise InputError(f"the zip archive has {len(infos):,} entries, more than any checkpoint has")
    if comment or data[-22:-18] != END_RECORD or min(info.header_offset for info in infos) != 0:
        raise UnsafeError(
            "the zip archive has bytes before or after it, so that two readers can see two different files",
            hint="ask for a file as torch.save writes it",
        )
    _check_names(infos)
    for info in infos:
        if info.flag_bits & 0x1:
            raise InputError(
                f"entry {quoted(info.filename)} of the zip archive is encrypted",
                hint="decrypt the archive first",
            )
    return infos


def open_archive(data: bytes) -> Archive:
    """Return the records of a zip as torch writes it: entries under one root, stored but for TorchScript's code.

    Raises:
        UnsafeError: what `listing` refuses; compressed entries; a checksum that does not match a program.
        InputError: what `listing` finds damaged; two roots; sizes that lie; a checksum that does not match data.
    """
    infos = [info for info in listing(data) if not info.is_dir()]
    view = memoryview(data)
    spans = []
    total_code = 0
    records: dict[str, memoryview] = {}
    roots = {info.filename.partition("/")[0] if "/" in info.filename else "" for info in infos}
    if len(roots) > 1:
        raise InputError(
            f"the zip archive has {len(roots)} top folders ({', '.join(quoted(r) for r in sorted(roots)[:3])}), not one",
            hint="was the file unpacked and packed again? save it anew with torch.save",
        )
    root = roots.pop() if roots else ""
    for info in infos:
        start, stop = _span(data, info)
        spans.append((info.header_offset, start, stop))
        name = info.filename[len(root) + 1 :] if root else info.filename
        record = _unpacked(view[start:stop], info, name)
        total_code += len(record) if info.compress_type else 0
        if total_code > MAX_CODE:
            raise UnsafeError(f"the code in the zip archive unpacks to over {MAX_CODE:,} bytes")
        if zlib.crc32(record) != info.CRC:
            _refuse_checksum(name)
        records[name] = record
    spans.sort()
    for (_, _, stop), (header, _, _) in itertools.pairwise(spans):
        if stop > header:
            raise InputError("two entries of the zip archive overlap")
    return Archive(root, records)


def _check_names(infos: list[zipfile.ZipInfo]) -> None:
    seen: dict[str, str] = {}
    for info in infos:
        name = info.filename
        parts = name.split("/")
        if info.orig_filename != name or not name.isprintable() or "\\" in name or ":" in parts[0]:
            raise UnsafeError(
                f"the zip archive holds an entry with an unfit name, {quoted(info.orig_filename)}"
            )
        if name.startswith("/") or ".." in parts:
            raise UnsafeError(f"the zip archive holds an entry that leaves its folder, {quoted(name)}")
        folded = name.casefold()
        if folded in seen:
            how = "twice" if seen[folded] == name else f"beside {quoted(seen[folded])}"
            raise UnsafeError(
                f"the zip archive holds {quoted(name)} {how}, so that two readers can see two different files",
                hint="ask for a file as torch.save writes it",
            )
        seen[folded] = name


def _span(data: bytes, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Return where an entry's bytes lie in the file, after comparing its two headers."""
    name = quoted(info.filename)
    at = info.header_offset
    header = data[at : at + 30]
    if len(header) < 30 or header[:4] != LOCAL_HEADER:
        raise InputError(f"entry {name} of the zip archive has no header where its directory says")
    flags, method = struct.unpack("<HH", header[6:10])
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = at + 30 + name_length + extra_length
    local = data[at + 30 : at + 30 + name_length]
    encoding = "utf-8" if flags & 0x800 else "cp437"
    if method != info.compress_type or local.decode(encoding, "replace") != info.orig_filename:
        raise UnsafeError(f"the two headers of entry {name} of the zip archive differ")
    stop = start + info.compress_size
    stored = info.compress_type == zipfile.ZIP_STORED
    if stop > len(data) or (stored and info.compress_size != info.file_size):
        raise InputError(
            f"entry {name} of the zip archive claims {info.file_size:,} bytes that are not there",
            hint="the file is truncated or damaged: fetch it again",
        )
    return start, stop


def _unpacked(packed: memoryview, info: zipfile.ZipInfo, name: str) -> memoryview:
    """Return an entry's bytes; only source code of TorchScript may be compressed, and only a little of it."""
    if info.compress_type == zipfile.ZIP_STORED:
        return packed
    if not name.startswith("code/") or info.compress_type != zipfile.ZIP_DEFLATED:
        raise UnsafeError(
            f"entry {quoted(info.filename)} of the zip archive is compressed, which torch never does with data"
            " (a 2 MB file can unpack to 2 GB)",
            hint="save it anew with torch.save",
        )
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        out = inflate.decompress(packed, MAX_CODE + 1)
    except zlib.error as error:
        raise InputError(f"entry {quoted(info.filename)} of the zip archive is damaged: {error}") from None
    if len(out) > MAX_CODE:
        raise UnsafeError(
            f"entry {quoted(info.filename)} of the zip archive unpacks to over {MAX_CODE:,} bytes"
        )
    if len(out) != info.file_size:
        raise InputError(f"entry {quoted(info.filename)} of the zip archive has another size than it says")
    return memoryview(out)


def _refuse_checksum(name: str) -> None:
    leaf = name.rpartition("/")[2]
    if leaf.isdigit() or leaf.startswith(("weight_", "constant_", "tensor_")):
        raise InputError(
            f"the bytes of entry {quoted(name)} do not match their checksum",
            hint="the file is damaged: fetch it again",
        )
    raise UnsafeError(
        f"entry {quoted(name)}, which says what to build, was changed after the archive was written: its checksum differs",
        hint="fetch the file again, or ask its author for one that torch.save wrote",
    )


def _lower(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text[:1].lower() + text[1:]
