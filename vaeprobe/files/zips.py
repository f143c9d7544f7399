"""Zip archives, read in one canonical way before anything in them is parsed.

A zip says three times where its entries lie: in a header before each, in a directory at its end, and in one or two
records that say where the directory is.  Readers believe different ones (Python's `zipfile` looks for the zip64 record
right before its locator, torch where the locator points), so that one file can be two.  Here every byte of an archive
belongs to exactly one entry or record, all of them agree, and names are unique whatever a reader thinks of
capitals; anything else is refused, so that the loaders behind this module see the very bytes that were checked.

Torch writes its entries stored, under one root folder; other libraries compress theirs.

Source: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 to 4.5.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vaeprobe.errors import InputError, UnsafeError
from vaeprobe.files.source import Bytes, quoted

__all__ = ["Archive", "Entry", "directory", "inflated", "is_zip", "open_archive", "unpacked"]

LOCAL_HEADER = b"PK\x03\x04"
DIRECTORY_ENTRY = b"PK\x01\x02"
END_RECORD = b"PK\x05\x06"
END_RECORD_64 = b"PK\x06\x06"
LOCATOR_64 = b"PK\x06\x07"
DESCRIPTOR = b"PK\x07\x08"
LONGEST_COMMENT = 65535
STORED, DEFLATED = 0, 8
MAX_ENTRIES = 200_000
MAX_CODE = 1 << 26
SENTINEL_16, SENTINEL_32 = 0xFFFF, 0xFFFFFFFF
ENCRYPTED, STREAMED, UTF8 = 0x1, 0x8, 0x800  # flags
ZIP64, UNICODE_NAME = 0x1, 0x7075  # extra fields
ANEW = "ask for a file as torch.save writes it"
TWO_READERS = "so that two readers can see two different files"
CUT = "the file is truncated or damaged: fetch it again"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of an archive, its two headers compared.

    Attributes:
        name: with folders, separated by "/".
        method: 0 stored, 8 deflated, or another that nothing here unpacks.
        crc: checksum of the unpacked bytes.
        size: number of unpacked bytes, as claimed.
        start, stop: where its packed bytes lie in the file.
    """

    name: str
    method: int
    crc: int
    size: int
    start: int
    stop: int


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


def is_zip(data: Bytes) -> bool:
    """Return whether a zip begins here."""
    return data[:4] in (LOCAL_HEADER, END_RECORD)


def has_zip_end(data: Bytes) -> bool:
    """Return whether a zip reader, which starts at the end, would find an archive in these bytes."""
    size = len(data)
    tail = bytes(data[max(size - 22 - LONGEST_COMMENT, 0) :])
    at = tail.rfind(END_RECORD)
    while at >= 0:
        place = size - len(tail) + at
        if at + 22 <= len(tail):
            (length,) = struct.unpack_from("<I", tail, at + 12)
            first = data[max(place - length, 0) : place][:4]
            if (
                length == SENTINEL_32
                or first == DIRECTORY_ENTRY
                or tail[max(at - 20, 0) : at][:4] == LOCATOR_64
            ):
                return True
        at = tail.rfind(END_RECORD, 0, at)
    return False


def directory(data: Bytes) -> list[Entry]:
    """Return the entries of a zip, folders left out, after accounting for every byte of it; decompresses nothing.

    Raises:
        UnsafeError: bytes that belong to no entry; records or headers that disagree; names that leave the folder,
            repeat, or differ only by case.
        InputError: a truncated, damaged or encrypted archive.
    """
    try:
        count, start, end = _end(data)
        central = _central(data, count, start, end)
        _check_names([entry.name for entry in central])
        return [e for e in _located(data, central, start) if not e.name.endswith("/")]
    except struct.error:
        raise InputError("the zip archive is damaged: a record is cut short", hint=CUT) from None


def open_archive(data: bytes) -> Archive:
    """Return the records of a zip as torch writes it: entries under one root, stored but for TorchScript's code.

    Raises:
        UnsafeError: what `directory` refuses; compressed entries; a checksum that does not match a program.
        InputError: what `directory` finds damaged; two roots; sizes that lie; a checksum that does not match data.
    """
    entries = directory(data)
    view = memoryview(data)
    total_code = 0
    records: dict[str, memoryview] = {}
    roots = {e.name.partition("/")[0] if "/" in e.name else "" for e in entries}
    if len(roots) > 1:
        raise InputError(
            f"the zip archive has {len(roots)} top folders ({', '.join(quoted(r) for r in sorted(roots)[:3])}), not one",
            hint="was the file unpacked and packed again? save it anew with torch.save",
        )
    root = roots.pop() if roots else ""
    for entry in entries:
        name = entry.name[len(root) + 1 :] if root else entry.name
        if entry.method == STORED:
            record = view[entry.start : entry.stop]
        elif name.startswith("code/") and entry.method == DEFLATED:
            record = memoryview(unpacked(data, entry, MAX_CODE))
            total_code += len(record)
        else:
            raise UnsafeError(
                f"entry {quoted(entry.name)} of the zip archive is compressed, which torch never does with data"
                " (a 2 MB file can unpack to 2 GB)",
                hint="save it anew with torch.save",
            )
        if total_code > MAX_CODE:
            raise UnsafeError(f"the code in the zip archive unpacks to over {MAX_CODE:,} bytes")
        if zlib.crc32(record) != entry.crc:
            _refuse_checksum(name)
        records[name] = record
    return Archive(root, records)


def inflated(data: Bytes, entry: Entry, block: int = 1 << 20) -> Iterator[bytes]:
    """Yield the unpacked bytes of an entry in pieces of at most `block`.

    Raises:
        InputError: it is damaged, is packed in an unknown way, or unpacks to another size or checksum than it says.
    """
    if entry.method not in (STORED, DEFLATED):
        raise InputError(
            f"entry {quoted(entry.name)} of the zip archive is packed in a way that is not known"
        )
    inflate = zlib.decompressobj(-zlib.MAX_WBITS) if entry.method == DEFLATED else None
    done = crc = 0
    try:
        for at in range(entry.start, entry.stop, block):
            packed = bytes(data[at : min(at + block, entry.stop)])
            last = at + block >= entry.stop
            while packed or (last and inflate and not inflate.eof):
                piece = inflate.decompress(packed, block) if inflate else packed
                if inflate and not piece and not inflate.unconsumed_tail:
                    break
                packed = inflate.unconsumed_tail if inflate else b""
                done, crc = done + len(piece), zlib.crc32(piece, crc)
                if done > entry.size or (inflate and inflate.unused_data):
                    raise _other_size(entry)
                yield piece
    except zlib.error as error:
        raise InputError(
            f"entry {quoted(entry.name)} of the zip archive is damaged: {error}", hint=CUT
        ) from None
    if done != entry.size or (inflate and not inflate.eof):
        raise _other_size(entry)
    if crc != entry.crc:
        _refuse_checksum(entry.name)


def unpacked(data: Bytes, entry: Entry, limit: int) -> bytes:
    """Return all the unpacked bytes of an entry.

    Raises:
        UnsafeError: there are more than `limit`.
        InputError: as `inflated`.
    """
    if entry.size > limit:
        raise UnsafeError(f"entry {quoted(entry.name)} of the zip archive unpacks to over {limit:,} bytes")
    return b"".join(inflated(data, entry))


def _other_size(entry: Entry) -> InputError:
    return InputError(
        f"entry {quoted(entry.name)} of the zip archive has another size than it says", hint=CUT
    )


# -- records at the end ---------------------------------------------------------------------------


def _end(data: Bytes) -> tuple[int, int, int]:
    """Return the number of entries, and where the directory begins and ends, from the records at the end."""
    size = len(data)
    tail = data[max(size - 22 - LONGEST_COMMENT, 0) :]
    if size < 22 or not 0 <= tail.rfind(END_RECORD) <= len(tail) - 22:
        raise InputError(
            "the zip archive has no end record: the file is truncated",
            hint="the download or the save was interrupted? fetch it again",
        )
    at = size - 22
    record = data[at:]
    disk, first, here, count, length, start, comment = struct.unpack("<4x4HIIH", record)
    if record[:4] != END_RECORD or comment:
        raise UnsafeError(f"the zip archive has bytes after it, {TWO_READERS}", hint=ANEW)
    end = at
    if data[max(at - 20, 0) : at][:4] == LOCATOR_64:
        end = at - 76
        locator_disk, where, disks = struct.unpack("<4xIQI", data[at - 20 : at])
        head = data[max(end, 0) : at - 20]
        if where != end or (locator_disk, disks) != (0, 1) or head[:4] != END_RECORD_64 or len(head) != 56:
            raise UnsafeError(
                f"the zip64 locator of the archive points elsewhere than to the record before it, {TWO_READERS}",
                hint=ANEW,
            )
        body, *wide = struct.unpack("<4xQ4x2I4Q", head)
        narrow = (disk, first, here, count, length, start)
        for short, long, sentinel in zip(narrow, wide, [SENTINEL_16] * 4 + [SENTINEL_32] * 2, strict=True):
            if short not in (long, sentinel):
                raise UnsafeError(f"the two end records of the zip archive differ, {TWO_READERS}", hint=ANEW)
        if body != 44:
            raise UnsafeError("the end record of the zip archive has a size that no library writes")
        disk, first, here, count, length, start = wide
    if disk or first or here != count:
        raise InputError("the zip archive is one of several parts")
    if not count:
        raise InputError("the zip archive is empty")
    if count > MAX_ENTRIES:
        raise InputError(f"the zip archive has {count:,} entries, more than any checkpoint has")
    if start + length != end:
        raise UnsafeError(
            f"the zip archive has bytes before it, or between its directory and its end, {TWO_READERS}",
            hint=ANEW,
        )
    return count, start, end


# -- the directory --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Central:
    """An entry as the directory has it."""

    name: str
    raw: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int


def _central(data: Bytes, count: int, start: int, end: int) -> list[_Central]:
    found = []
    block, at = data[start:end], 0
    for _ in range(count):
        if block[at : at + 4] != DIRECTORY_ENTRY:
            raise InputError("the directory of the zip archive is damaged", hint=CUT)
        flags, method, crc, packed, size, name_length, extra_length, comment, disk, offset = (
            struct.unpack_from("<8x2H4xIII4H6xI", block, at)
        )
        at += 46
        raw = bytes(block[at : at + name_length])
        extra = bytes(block[at + name_length : at + name_length + extra_length])
        at += name_length + extra_length + comment
        if at > len(block):
            raise InputError("the directory of the zip archive is damaged", hint=CUT)
        name = raw.decode("utf-8" if flags & UTF8 else "cp437", "backslashreplace")
        wide = _zip64(extra, name)
        if wide is not None:
            size, packed, offset = _widened((size, packed, offset), wide, name)
        if disk not in (0, SENTINEL_16):
            raise InputError("the zip archive is one of several parts")
        if flags & ENCRYPTED:
            raise InputError(
                f"entry {quoted(name)} of the zip archive is encrypted", hint="decrypt the archive first"
            )
        found.append(_Central(name, raw, flags, method, crc, packed, size, offset))
    if at != len(block):
        raise UnsafeError(f"the directory of the zip archive holds more than its entries, {TWO_READERS}")
    return found


def _zip64(extra: bytes, name: str) -> bytes | None:
    """Return the extra field that holds sizes beyond 4 GB, None where there is none."""
    wide, at = None, 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        field = extra[at + 4 : at + 4 + length]
        at += 4 + length
        if at > len(extra):
            raise InputError(f"entry {quoted(name)} of the zip archive has a damaged header", hint=CUT)
        if kind == UNICODE_NAME or (kind == ZIP64 and wide is not None):
            raise UnsafeError(
                f"entry {quoted(name)} of the zip archive has two names or sizes, {TWO_READERS}"
            )
        if kind == ZIP64:
            wide = field
    return wide


def _widened(narrow: tuple[int, ...], wide: bytes, name: str) -> tuple[int, ...]:
    """Return sizes and offset with those of the extra field in the place of sentinels."""
    out, at = [], 0
    for number in narrow:
        if number == SENTINEL_32:
            if at + 8 > len(wide):
                raise InputError(f"entry {quoted(name)} of the zip archive has a damaged header", hint=CUT)
            (number,) = struct.unpack_from("<Q", wide, at)
            at += 8
        out.append(number)
    return tuple(out)


def _check_names(names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        parts = name.split("/")
        if not name.isprintable() or not name or "\\" in name or ":" in parts[0]:
            raise UnsafeError(f"the zip archive holds an entry with an unfit name, {quoted(name)}")
        if name.startswith("/") or ".." in parts or "." in parts:
            raise UnsafeError(f"the zip archive holds an entry that leaves its folder, {quoted(name)}")
        folded = name.casefold().rstrip("/")
        if folded in seen:
            how = "twice" if seen[folded] == name else f"beside {quoted(seen[folded])}"
            raise UnsafeError(f"the zip archive holds {quoted(name)} {how}, {TWO_READERS}", hint=ANEW)
        seen[folded] = name


# -- the entries ----------------------------------------------------------------------------------


def _located(data: Bytes, central: list[_Central], end: int) -> Iterator[Entry]:
    """Yield the entries in the order of the directory, after going through the file from one to the next."""
    order = sorted(central, key=lambda entry: entry.offset)
    places: dict[str, Entry] = {}
    at = 0
    for k, entry in enumerate(order):
        if entry.offset != at:
            what = "overlaps the entry before it" if entry.offset < at else "has bytes before it"
            raise UnsafeError(
                f"entry {quoted(entry.name)} of the zip archive {what}, {TWO_READERS}", hint=ANEW
            )
        start = _data_start(data, entry)
        stop = start + entry.packed
        until = order[k + 1].offset if k + 1 < len(order) else end
        if stop > end or (entry.method == STORED and entry.packed != entry.size):
            raise InputError(
                f"entry {quoted(entry.name)} of the zip archive claims {entry.size:,} bytes that are not there",
                hint=CUT,
            )
        if entry.name.endswith("/") and (entry.packed or entry.size):
            raise UnsafeError(f"the folder {quoted(entry.name)} of the zip archive has contents")
        at = stop + (_descriptor(data, entry, stop, until) if entry.flags & STREAMED else 0)
        places[entry.name] = Entry(entry.name, entry.method, entry.crc, entry.size, start, stop)
    if at != end:
        raise UnsafeError(f"the zip archive has bytes before its directory, {TWO_READERS}", hint=ANEW)
    yield from (places[entry.name] for entry in central)


def _data_start(data: Bytes, entry: _Central) -> int:
    """Return where an entry's bytes begin, after comparing its header with the directory."""
    at, shown = entry.offset, quoted(entry.name)
    header = data[at : at + 30]
    if len(header) < 30 or header[:4] != LOCAL_HEADER:
        raise InputError(f"entry {shown} of the zip archive has no header where its directory says", hint=CUT)
    flags, method, crc, packed, size, name_length, extra_length = map(
        int, struct.unpack("<6x2H4xIII2H", header)
    )
    start = at + 30 + name_length + extra_length
    name = data[at + 30 : at + 30 + name_length]
    wide = _zip64(bytes(data[at + 30 + name_length : start]), entry.name)
    if wide is not None:
        size, packed = _widened((size, packed), wide, entry.name)
    known = (entry.crc, entry.packed, entry.size)
    unsaid = flags & STREAMED and crc in (0, entry.crc) and packed == size == 0  # said after the data
    if (flags, method, name) != (entry.flags, entry.method, entry.raw) or not (
        unsaid or (crc, packed, size) == known
    ):
        raise UnsafeError(
            f"the two headers of entry {shown} of the zip archive differ, {TWO_READERS}", hint=ANEW
        )
    return start


def _descriptor(data: Bytes, entry: _Central, at: int, until: int) -> int:
    """Return the length of the record that follows an entry and repeats its checksum and sizes."""
    record = bytes(data[at : min(until, at + 24)])
    for mark in (DESCRIPTOR, b""):
        for sizes in ("<I2Q", "<I2I"):
            if max(entry.packed, entry.size) > SENTINEL_32 and sizes == "<I2I":
                continue
            if record == mark + struct.pack(sizes, entry.crc, entry.packed, entry.size):
                return len(record)
    raise UnsafeError(
        f"the record after entry {quoted(entry.name)} of the zip archive differs from its directory, {TWO_READERS}",
        hint=ANEW,
    )


def _refuse_checksum(name: str) -> None:
    leaf = name.rpartition("/")[2]
    if leaf.isdigit() or leaf.startswith(("weight_", "constant_", "tensor_")) or leaf.endswith(".npy"):
        raise InputError(
            f"the bytes of entry {quoted(name)} do not match their checksum",
            hint="the file is damaged: fetch it again",
        )
    raise UnsafeError(
        f"entry {quoted(name)}, which says what to build, was changed after the archive was written: its checksum differs",
        hint="fetch the file again, or ask its author for one that torch.save wrote",
    )
