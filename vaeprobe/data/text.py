"""Rows of delimited text."""

from __future__ import annotations

import csv
import itertools
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np

from vaeprobe.data.shards import Shard
from vaeprobe.errors import InputError, ResourceError
from vaeprobe.files.source import printable, quoted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.generic]

__all__ = ["TextShard", "open_text"]

MISSING_WORDS = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
LONGEST_LINE = 1 << 24  # letters


@dataclass(frozen=True, kw_only=True)
class TextShard(Shard):
    """Delimited text; empty cells and NA, NaN, null are missing values."""

    IN_ORDER: ClassVar[bool] = True

    delimiter: str | None
    skip: int

    def blocks(self, size: int, start: int, stop: int) -> Iterator[Array]:
        with _text(self.path) as file:
            numbered = enumerate(_lines(file, self.path), start=1)
            lines = ((k, line) for k, line in numbered if k > self.skip and line.strip())
            wanted = itertools.islice(lines, start, stop)
            while block := list(itertools.islice(wanted, size)):
                yield self._parse(block)

    def _parse(self, block: list[tuple[int, str]]) -> Array:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                rows = np.loadtxt(
                    [line for _, line in block],
                    delimiter=self.delimiter,
                    ndmin=2,
                    comments=None,
                    quotechar='"',
                )
            if rows.shape == (len(block), self.columns):
                return rows
        except (ValueError, UserWarning):
            pass
        return np.array([self._parse_line(number, line) for number, line in block])

    def _parse_line(self, number: int, line: str) -> list[float]:
        cells = _cells(line, self.delimiter)
        if len(cells) != self.columns:
            raise InputError(
                f"{quoted(self.path)} line {number} has {len(cells)} columns, the first row {self.columns}"
            )
        try:
            return [_number(cell) for cell in cells]
        except ValueError:
            k = next(k for k, cell in enumerate(cells) if not _is_number(cell))
            raise InputError(
                f"{quoted(self.path)} line {number}, column {k + 1} holds '{printable(cells[k].strip(), limit=40)}', which is no number",
                hint="write points for decimal commas: pandas.read_csv(path, sep=';', decimal=',') reads them"
                if self.delimiter == "," and ";" in cells[k]
                else "keep numeric columns only; empty cells, NA, NaN, null, none and ? count as missing values",
            ) from None


# encodings that do not write numbers as ASCII, by the mark that they begin with
WIDE = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
# files that are given by mistake for numbers, by how they begin
FOREIGN = {
    b"PAR1": ("an Apache Parquet table", "pandas.read_parquet(path).to_numpy()"),
    b"ARROW1": ("an Arrow (Feather) table", "pandas.read_feather(path).to_numpy()"),
    b"ORC": ("an ORC table", "pandas.read_orc(path).to_numpy()"),
    b"Obj\x01": ("an Avro file", "the array in it"),
    b"\x00\x00\x08": ("an IDX file, as MNIST comes", "the array in it"),
    b"\x89HDF": ("an HDF5 file", "h5py.File(path)[name][:]"),
    b"MATLAB 5": ("a MATLAB file", "scipy.io.loadmat(path)[name]"),
    b"SQLite format": ("an SQLite database", "the table in it"),
    b"SIMPLE  =": ("a FITS image", "astropy.io.fits.getdata(path)"),
}


def refuse_foreign(path: str, head: bytes) -> None:
    """Refuse a file of another program, told by its first bytes, by its name.

    Raises:
        InputError: it is one.
    """
    for mark, encoding in WIDE.items():
        if head.startswith(mark):
            raise InputError(
                f"{quoted(path)} is text in {encoding.upper()}, which is not read",
                hint=f"save it in UTF-8: open(out, 'w', encoding='utf-8').write(open(path, encoding='{encoding}').read())",
            )
    for start, (what, how) in FOREIGN.items():
        if head.startswith(start):
            raise InputError(
                f"{quoted(path)} is {what}, which is not read",
                hint=f"save it as .npy: numpy.save(out, {how})",
            )


def open_text(path: str) -> TextShard:
    with _text(path) as file:
        filled = ((k, line) for k, line in enumerate(_lines(file, path), start=1) if line.strip())
        comments = []
        for first in filled:
            if not first[1].lstrip().startswith("#"):
                break
            comments.append(first)
        else:
            told = (
                f"no file of numbers: it starts with {comments[0][1].strip()[:40]!r}" if comments else "empty"
            )
            raise InputError(f"{quoted(path)} is {told}")
        number, probe = first
        second = next(filled, None)
        delimiter = next((d for d in (",", "\t", ";") if d in probe), None)
        names = _cells(probe, delimiter)
        row = names if second is None else _cells(second[1], delimiter)
        header = not any(_is_number(cell) and cell.strip() for cell in names)
        if header and not (second and any(_is_number(cell) for cell in row)):
            start = probe.strip()[:40]
            told = (
                f"no file of numbers: it starts with {start!r}"
                if start.replace("\t", "").isprintable()
                else "in no format known here"
            )
            raise InputError(
                f"{quoted(path)} is {told}",
                hint="data comes as .npy, .npz, .safetensors, .pt or delimited text",
            )
        _refuse_index(path, names, row, header)
        rows = (not header) + (second is not None) + sum(1 for _ in filled)
    return TextShard(
        path=path,
        rows=rows,
        row_shape=(len(row if header else names),),
        stored=np.dtype(np.float64),
        delimiter=delimiter,
        skip=number if header else number - 1,
    )


def _refuse_index(path: str, names: list[str], row: list[str], header: bool) -> None:
    """Refuse a column that counts the rows, and names of columns that are numbers: both look like data.

    Args:
        names: the cells of the first line.
        row: those of the second one.
        header: whether no cell of the first line is a number.

    Raises:
        InputError: there is one.
    """
    mend = "write the rows alone: DataFrame.to_csv(path, index=False), write.table(x, row.names=FALSE)"
    if header and len(names) == len(row) - 1:
        raise InputError(
            f"{quoted(path)} names {len(names)} columns, and its rows have {len(row)}: the first one looks like an index",
            hint=mend,
        )
    unnamed = len(names) > 1 and not names[0].strip()
    if unnamed and (header or _count(names[1:])):
        raise InputError(
            f"{quoted(path)} has a first column without a name, as an index is written", hint=mend
        )
    if _count(names) and not all(_is_whole(cell) for cell in row):
        raise InputError(
            f"{quoted(path)} starts with {', '.join(names[:3])}, ...: are these the names of its columns?",
            hint=f"leave them out: DataFrame.to_csv(path, header=False); if they are data, write {names[0].strip()}.0",
        )


def _count(cells: list[str]) -> bool:
    """Whether cells are 0, 1, 2, ... or 1, 2, 3, ..., three at least."""
    told = [cell.strip().strip('"') for cell in cells]
    return len(told) > 2 and any(told == [str(k + start) for k in range(len(told))] for start in (0, 1))


def _is_whole(cell: str) -> bool:
    return _is_number(cell) and _number(cell).is_integer()


def _lines(file: IO[str], path: str) -> Iterator[str]:
    """Yield the lines of a file.

    Raises:
        ResourceError: one is longer than any row of numbers.
    """
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise ResourceError(f"{quoted(path)} has a line of over {LONGEST_LINE:,} letters")
        yield line


def _text(path: str) -> IO[str]:
    """Open a text file of any encoding that writes numbers as ASCII does: names of columns may hold other bytes."""
    return open(path, encoding="utf-8-sig", errors="surrogateescape", newline=None)


def _cells(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return line.split()
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except csv.Error:  # a cell of over 128 KiB, a zero byte
        return [line]


def _number(cell: str) -> float:
    if "_" in cell:  # which Python's own numbers may have
        raise ValueError(cell)
    return math.nan if cell.strip().lower() in MISSING_WORDS else float(cell)


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True
