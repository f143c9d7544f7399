"""Pictures written by hand: PNG from pixels, traversal strips, nets of seams as SVG."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from vaeprobe.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels: TypeAlias = NDArray[np.uint8]
    Floats: TypeAlias = NDArray[np.float64]

__all__ = [
    "ImageShape",
    "Panel",
    "Polyline",
    "enlarged",
    "framed_png",
    "image_shape",
    "net_svg",
    "png",
    "reduced",
    "signed_image",
    "tile",
]


def png(pixels: Pixels) -> bytes:
    """Return a PNG file of 8-bit pixels, shape (height, width) grey or (height, width, 3) red-green-blue.

    Raises:
        ValueError: the array is of another type or shape.

    Source: W3C Portable Network Graphics, third edition: signature, IHDR, IDAT (filter 0), IEND.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ValueError(
            f"a picture is uint8 of shape (h, w) or (h, w, 3), not {pixels.dtype} {pixels.shape}"
        )
    height, width = pixels.shape[:2]
    if not height or not width:
        raise ValueError("a picture without pixels")

    def block(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = np.zeros((height, 1 + pixels[0].size), dtype=np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    body = block(b"IHDR", header) + block(b"IDAT", zlib.compress(rows.tobytes(), 9)) + block(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# -- outputs as images --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImageShape:
    """How a row of outputs is an image: `channels` first or last, 1 (grey) or 3 (colour)."""

    height: int
    width: int
    channels: int
    channels_first: bool

    def images(self, rows: Floats) -> Floats:
        """Return outputs (n, m) as images (n, height, width, channels)."""
        n = len(rows)
        if self.channels_first:
            return rows.reshape(n, self.channels, self.height, self.width).transpose(0, 2, 3, 1)
        return rows.reshape(n, self.height, self.width, self.channels)


def image_shape(output_shape: Sequence[int], asked: str | None = None) -> ImageShape:
    """Return how a decoder's output is an image.

    Args:
        output_shape: shape of one output.
        asked: "28x28", "3x64x64" or "64x64x3", where the shape itself does not tell.

    Raises:
        UsageError: the outputs are no image, or `asked` does not fit them.
    """
    shape = tuple(int(n) for n in output_shape)
    size = math.prod(shape)
    if asked is not None:
        try:
            shape = tuple(int(part) for part in asked.lower().replace(",", "x").split("x"))
        except ValueError:
            shape = ()
        if not shape or math.prod(shape) != size or min(shape) < 1:
            raise UsageError(
                f"the image shape `{asked}` does not hold the decoder's {size} outputs",
                hint="height x width or channels x height x width, e.g. --image-shape 3x64x64",
            )
    if len(shape) == 1:
        side = math.isqrt(size)
        if side * side == size and side > 1:
            return ImageShape(side, side, 1, True)
        side = math.isqrt(size // 3)
        if size % 3 == 0 and side * side * 3 == size and side > 1:
            return ImageShape(side, side, 3, True)
    if len(shape) == 2:
        return ImageShape(shape[0], shape[1], 1, True)
    if len(shape) == 3 and shape[0] in (1, 3):
        return ImageShape(shape[1], shape[2], shape[0], True)
    if len(shape) == 3 and shape[2] in (1, 3):
        return ImageShape(shape[0], shape[1], shape[2], False)
    raise UsageError(
        f"outputs of shape {tuple(output_shape)} are no image that can be drawn",
        hint="say how to read them: --image-shape 28x28 or 3x64x64",
    )


BACKGROUND, MARK = (32, 36, 42), (242, 132, 48)


def tile(
    grid: Sequence[Sequence[Floats | None]],
    *,
    marks: Sequence[Sequence[bool]] | None = None,
    gap: int = 2,
    group: int | None = None,
) -> Pixels:
    """Return a grid of images as one picture, uint8, shape (height, width, 3).

    Values in [0, 1] are shown as they are; anything else is scaled by the range of the whole grid.

    Args:
        grid: rows of images of one shape (h, w, 1 or 3); None leaves a place empty.
        marks: images to frame, same shape as the grid.
        gap: pixels between images.
        group: a wider gap after this many columns.
    """
    known = [image for row in grid for image in row if image is not None]
    if not known:
        raise ValueError("no image to tile")
    low, high = min(float(i.min()) for i in known), max(float(i.max()) for i in known)
    if low < -1e-6 or high > 1 + 1e-6:
        low, span = low, (high - low) or 1.0
    else:
        low, span = 0.0, 1.0
    h, w = known[0].shape[:2]
    columns = len(grid[0])
    breaks = [3 * gap + 2 if group and c and c % group == 0 else 0 for c in range(columns)]
    left = [gap + c * (w + gap) + sum(breaks[: c + 1]) for c in range(columns)]
    canvas = np.empty((gap + len(grid) * (h + gap), left[-1] + w + gap, 3), dtype=np.uint8)
    canvas[:] = BACKGROUND
    for r, row in enumerate(grid):
        top = gap + r * (h + gap)
        for c, image in enumerate(row):
            if image is None:
                continue
            if marks is not None and marks[r][c]:
                canvas[top - gap : top + h + gap, left[c] - gap : left[c] + w + gap] = MARK
            shade = np.clip((image - low) / span, 0, 1)
            canvas[top : top + h, left[c] : left[c] + w] = np.round(255 * shade).astype(np.uint8)
    return canvas


def reduced(pixels: Pixels, width: int) -> Pixels:
    """Return a picture (h, w, 3) at most `width` pixels wide, each the mean of those it stands for."""
    height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
    if width >= pixels.shape[1]:
        return pixels
    edges = [
        np.linspace(0, n, m + 1).astype(int) for n, m in zip(pixels.shape, (height, width), strict=False)
    ]
    sums = np.add.reduceat(np.add.reduceat(pixels.astype(float), edges[0][:-1], 0), edges[1][:-1], 1)
    counts = np.diff(edges[0])[:, None, None] * np.diff(edges[1])[None, :, None]
    mean: Pixels = np.round(sums / counts).astype(np.uint8)
    return mean


# Pixels of a page that a picture may take, sideways.
FRAME = 920


def _scale(width: int) -> int:
    return max(1, FRAME // width)


def enlarged(pixels: Pixels) -> Pixels:
    """Return a picture with every pixel a square of pixels, as large as a page takes; large ones as they are."""
    scale = _scale(pixels.shape[1])
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def framed_png(pixels: Pixels) -> str:
    """Return a picture as SVG with the PNG inside, for pages that take no files; small ones enlarged."""
    height, width = pixels.shape[:2]
    data = base64.b64encode(png(pixels)).decode()
    scale = _scale(width)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{scale * width}">'
        f'<image width="{width}" height="{height}" style="image-rendering:pixelated" '
        f'href="data:image/png;base64,{data}"/></svg>'
    )


# -- nets of seams ------------------------------------------------------------------------------

BRIGHT = ("58a6ff", "ff7b72", "3fb950", "bc8cff")
COLORS = ("#0969da", "#cf222e", "#1a7f37", "#8250df")


@dataclass(frozen=True, slots=True)
class Polyline:
    """A line through points (n, 2), of one family of seams; `strong` draws it thick."""

    points: Floats
    family: int
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One part of a net: lines, dots (n, 2), circles about the origin, the names of both axes."""

    title: str
    lines: Sequence[Polyline]
    axes: tuple[str, str]
    dots: Floats | None = None
    circles: Sequence[float] = ()


def net_svg(panels: Sequence[Panel], legend: Sequence[str], *, side: int = 420) -> str:
    """Return panels side by side as an SVG document; all scales are equal on both axes of a panel.

    Args:
        panels: what to draw.
        legend: name of each family of seams.
        side: width and height of a panel in pixels.
    """
    margin, head, foot = 24, 30, 54
    width, height = margin + len(panels) * (side + margin), head + side + foot
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for k, panel in enumerate(panels):
        out += _panel(panel, margin + k * (side + margin), head, side, k)
    x = margin
    for family, name in enumerate(legend):
        color, y = COLORS[family % len(COLORS)], height - 14
        out.append(
            f'<line x1="{x}" x2="{x + 22}" y1="{y - 4}" y2="{y - 4}" stroke="{color}" stroke-width="2.5"/>'
        )
        out.append(f'<text x="{x + 28}" y="{y}" style="fill:#1f2328">{_escape(name)}</text>')
        x += 48 + 7 * len(name)
    return "\n".join([*out, "</svg>"])


def net_pixels(panels: Sequence[Panel], *, side: int = 38) -> Pixels:
    """Return panels side by side as pixels (side, panels * (side + 2) - 2, 3), for a thumbnail.

    Lines are drawn without their style, strong ones last.
    """
    canvas = np.empty((side, len(panels) * (side + 2) - 2, 3), dtype=np.uint8)
    canvas[:] = BACKGROUND
    for k, panel in enumerate(panels):
        if not panel.lines:
            continue
        points = np.concatenate([line.points for line in panel.lines])
        low, span = points.min(0), float(np.ptp(points, axis=0).max()) or 1.0
        low = low - (span - np.ptp(points, axis=0)) / 2
        for line in sorted(panel.lines, key=lambda line: line.strong):
            at = (line.points - low) / span * (side - 1)
            steps = np.linspace(0, len(at) - 1, 40 * len(at))
            x, y = (np.interp(steps, np.arange(len(at)), at[:, axis]).round().astype(int) for axis in (0, 1))
            color = tuple(bytes.fromhex(BRIGHT[line.family % len(BRIGHT)]))
            canvas[side - 1 - y, k * (side + 2) + x] = color
    return canvas


def _panel(panel: Panel, left: float, top: float, side: float, number: int) -> list[str]:
    points = np.concatenate([line.points for line in panel.lines]) if panel.lines else np.zeros((1, 2))
    reach = max(panel.circles, default=0.0)
    corners = np.concatenate([points, [[-reach, -reach], [reach, reach]]]) if reach else points
    low, high = corners.min(0), corners.max(0)
    scale = 0.94 * side / max(float((high - low).max()), 1e-12)
    centre = (low + high) / 2

    def place(at: Floats) -> Floats:
        return np.stack(
            [
                left + side / 2 + scale * (at[:, 0] - centre[0]),
                top + side / 2 - scale * (at[:, 1] - centre[1]),
            ],
            1,
        )

    ink = 'style="fill:#1f2328"'
    out = [
        f'<text x="{left}" y="{top - 10}" {ink} font-weight="600">{_escape(panel.title)}</text>',
        f'<clipPath id="panel{number}"><rect x="{left}" y="{top}" width="{side}" height="{side}"/></clipPath>',
        f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="#f6f8fa" stroke="#d0d7de"/>',
        f'<text x="{left + side / 2:.1f}" y="{top + side + 15}" {ink} text-anchor="middle">'
        f"{_escape(panel.axes[0])}</text>",
        f'<text transform="translate({left - 8:.1f} {top + side / 2:.1f}) rotate(-90)" {ink} '
        f'text-anchor="middle">{_escape(panel.axes[1])}</text>',
        f'<g clip-path="url(#panel{number})" fill="none" stroke-linejoin="round">',
    ]
    origin = place(np.zeros((1, 2)))[0]
    for radius in panel.circles:
        out.append(
            f'<circle cx="{origin[0]:.2f}" cy="{origin[1]:.2f}" r="{radius * scale:.2f}" stroke="#afb8c1" '
            f'stroke-dasharray="3 3"/>'
        )
    for line in sorted(panel.lines, key=lambda line: line.strong):
        path = " ".join(f"{x:.2f},{y:.2f}" for x, y in place(line.points))
        color = COLORS[line.family % len(COLORS)]
        out.append(
            f'<polyline points="{path}" stroke="{color}" stroke-width="{2.4 if line.strong else 1.1}" '
            f'stroke-opacity="{1 if line.strong else 0.75}"/>'
        )
    if panel.dots is not None and len(panel.dots):
        for x, y in place(panel.dots):
            out.append(f'<circle cx="{x:.2f}" cy="{y:.2f}" r="3" fill="#1f2328" stroke="#fff"/>')
    return [*out, "</g>"]


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def signed_image(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return an RGB image, shape (h, w, 3): white at 0, red where positive, blue where negative."""
    share = values / max(float(np.abs(values).max()), 1e-300)
    fade = 1 - np.abs(share)
    red, blue = np.where(share > 0, 1.0, fade), np.where(share < 0, 1.0, fade)
    return (np.stack([red, fade, blue], axis=-1) * 255).round().astype(np.uint8)
