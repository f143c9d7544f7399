"""Rows of pixels: folders of PNG."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from vaeprobe.data.shards import Shard, rows_of
from vaeprobe.errors import InputError, MissingExtraError, ResourceError
from vaeprobe.files.source import quoted, read_source

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    Array: TypeAlias = NDArray[np.generic]

__all__ = ["ImageShard", "open_folder"]

LARGEST = 1 << 24  # pixels of one image: rows of more columns than any decoder has outputs


@dataclass(frozen=True, kw_only=True)
class ImageShard(Shard):
    """PNG files of one size and mode, one image per row, channels first."""

    files: tuple[str, ...]

    @property
    def read_from(self) -> tuple[str, ...]:
        return self.files

    def blocks(self, size: int, start: int, stop: int) -> Iterator[Array]:
        for first in range(start, stop, size):
            yield np.stack([self._pixels(file) for file in self.files[first : min(first + size, stop)]])

    def _pixels(self, file: str) -> Array:
        with _image(file) as image:
            try:
                pixels = np.asarray(image)
            except (OSError, SyntaxError, ValueError) as error:
                raise InputError(f"{quoted(file)} is a damaged PNG: {error}") from None
        rows = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if rows.shape != self.row_shape:
            raise InputError(f"{quoted(file)} changed while the folder was read")
        return rows.reshape(-1)


def open_folder(path: str) -> Shard:
    files = sorted(entry.path for entry in os.scandir(path) if entry.name.lower().endswith(".png"))
    if not files:
        raise InputError(
            f"{quoted(path)} is a folder without PNG images",
            hint=f"name the files in it, for instance '{path.rstrip('/')}/*.npy'",
        )
    shapes: dict[tuple[int, int, int], str] = {}
    for file in files:
        with _image(file) as image:
            channels = {"L": 1, "RGB": 3}.get(image.mode)
            if channels is None:
                raise InputError(
                    f"{quoted(file)} has pixels of mode {image.mode}, neither grey (L) nor RGB",
                    hint="convert it: Image.open(path).convert('RGB').save(path)",
                )
            shapes.setdefault((channels, image.height, image.width), file)
        if len(shapes) > 1:
            (first, name), (other, other_name) = shapes.items()
            raise InputError(
                f"{quoted(name)} has shape {first} (channels, height, width), {quoted(other_name)} {other}",
                hint="crop or resize all images to the shape the model was trained on",
            )
    (shape,) = shapes
    return ImageShard(**rows_of(path, (len(files), *shape), np.dtype(np.uint8)), files=tuple(files))


@contextmanager
def _image(path: str) -> Iterator[Image]:
    """Open a PNG, of which only the header is read yet.

    Raises:
        MissingExtraError: Pillow is not installed.
        InputError: the file is no PNG, or cannot be read.
        ResourceError: the image is absurdly large.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise MissingExtraError(
            "images are read by Pillow, which is not installed", hint="pip install 'vaeprobe[images]'"
        ) from None
    data = read_source(path).data
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=("PNG",))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ResourceError(f"{quoted(path)} claims more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except UnidentifiedImageError:
        raise InputError(f"{quoted(path)} is no PNG image") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{quoted(path)} cannot be read: {error}") from None
    if image.width * image.height > LARGEST:
        raise ResourceError(
            f"{quoted(path)} has {image.width:,} x {image.height:,} pixels, more than {LARGEST:,}"
        )
    with image:
        yield image
