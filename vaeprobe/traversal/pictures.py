"""Strips as pictures with names of rows and columns: SVG for pages, pixels for PNG files and terminals."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from vaeprobe.pictures import ImageShape, png, reduced, signed_image
from vaeprobe.render.text import clean, number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vaeprobe.traversal.numbers import Strip

    Pixels: TypeAlias = NDArray[np.uint8]
    Floats: TypeAlias = NDArray[np.float64]

# how outputs are drawn: as images, as spectrograms of a waveform, as a bar per output, or as curves
Look: TypeAlias = ImageShape | Literal["audio", "bars"] | None

# pixels of the longer side of a frame
KEPT = 64
# a panel of curves
PANEL = (448, 112)
LOW, MIDDLE, HIGH = (9, 105, 218), (140, 149, 159), (207, 34, 46)
GAP = 2
# decibels below the loudest that a spectrogram shows, samples of its window
FLOOR, WINDOW = 80.0, 256


def row_pictures(strip: Strip, shape: Look, span: tuple[float, float]) -> tuple[Pixels, Pixels]:
    """Return the frames of a strip and its column, as pixels (h, w, 3) of one height.

    Args:
        strip: what is drawn.
        shape: how outputs are drawn; None draws curves over the outputs, blue at the low end, red at the high.
        span: the values shown as black and white, the range of bars or curves, or the decibels of a spectrogram.
    """
    outputs, column = strip.outputs.numpy(), strip.column.numpy()
    if shape == "audio":
        own = spectrogram(column)
        top = float(own.max())
        return _row([_loudness(spectrogram(y), span) for y in outputs]), _loudness(own, (top - FLOOR, top))
    if shape == "bars":
        reach = max(float(np.abs(column).max()), 1e-300)
        return _row([bars(y, span) for y in outputs]), bars(column, (-reach, reach))
    if shape is None:
        width, height = PANEL
        top = max(float(np.abs(column).max()), 1e-300)
        shades = np.linspace(0, 1, len(outputs))
        frames = curves(outputs, [_shade(float(s)) for s in shades], span, width, height)
        return frames, curves(column[None], [(31, 35, 40)], (-top, top), height, height, zero=True)
    low, high = span
    images = np.clip((shape.images(outputs) - low) / ((high - low) or 1.0), 0, 1)
    small = [_sized(_colored(np.round(255 * i).astype(np.uint8))) for i in images]
    signed = signed_image(shape.images(column[None])[0].mean(-1))
    return _row(small), _sized(signed)


def _row(frames: Sequence[Pixels]) -> Pixels:
    """Return frames side by side, white between them."""
    gap = np.full((frames[0].shape[0], GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([part for image in frames for part in (image, gap)][:-1], axis=1)


def spectrogram(wave: Floats) -> Floats:
    """Return the loudness of a waveform in decibels, low tones in the first row, shape (tones, times).

    Magnitudes of the short-time Fourier transform under a Hann window of 256 samples.
    """
    size = min(WINDOW, len(wave))
    starts = np.linspace(0, len(wave) - size, min(KEPT, len(wave) - size + 1)).astype(int)
    framed = np.stack([wave[s : s + size] for s in starts]) * np.hanning(size)
    found: Floats = 20 * np.log10(np.abs(np.fft.rfft(framed, axis=1)).T + 1e-12)
    return found


def _loudness(decibels: Floats, span: tuple[float, float]) -> Pixels:
    """Return a spectrogram as a square of pixels, dark where it is loud, high tones at the top."""
    low, high = span
    share = np.clip((decibels[::-1] - low) / ((high - low) or 1.0), 0, 1)
    places = [np.linspace(0, n - 1, KEPT).round().astype(int) for n in share.shape]
    grey: Pixels = np.round(255 * (1 - share[np.ix_(*places)])).astype(np.uint8)
    colored: Pixels = grey[:, :, None].repeat(3, axis=2)
    return colored


def bars(values: Floats, span: tuple[float, float]) -> Pixels:
    """Return a bar per value as pixels (KEPT, width, 3) on white: red above 0, blue below, a line at 0."""
    low, high = min(span[0], 0.0), max(span[1], 0.0)
    wide = max(2, KEPT // len(values))
    canvas = np.full((KEPT, wide * len(values), 3), 255, dtype=np.uint8)

    def row(value: float) -> int:
        return round((high - value) / ((high - low) or 1.0) * (KEPT - 1))

    zero = row(0.0)
    canvas[zero] = MIDDLE
    for k, value in enumerate(values.tolist()):
        place = row(min(max(value, low), high))
        top, end = min(place, zero), max(place, zero)
        if value:
            canvas[top : end + 1, k * wide : (k + 1) * wide - 1] = HIGH if value > 0 else LOW
    return canvas


def _sized(image: Pixels) -> Pixels:
    """Return an image whose longer side is near KEPT: small ones by whole squares, large ones reduced."""
    height, width = image.shape[:2]
    scale = max(1, KEPT // max(height, width))
    bigger = image.repeat(scale, 0).repeat(scale, 1)
    return reduced(bigger, max(1, round(KEPT * width / max(height, width))))


def _colored(image: Pixels) -> Pixels:
    return image.repeat(3, axis=2) if image.shape[2] == 1 else image


def _shade(share: float) -> tuple[int, ...]:
    ends = (LOW, MIDDLE) if share < 0.5 else (MIDDLE, HIGH)
    t = share * 2 if share < 0.5 else share * 2 - 1
    return tuple(round(a + (b - a) * t) for a, b in zip(*ends, strict=True))


def curves(
    ys: Floats,
    colors: Sequence[tuple[int, ...]],
    span: tuple[float, float],
    width: int,
    height: int,
    zero: bool = False,
) -> Pixels:
    """Return lines over the index of outputs, ys of shape (lines, m), as pixels (height, width, 3) on white."""
    fine = 2  # drawn twice as large, then reduced: soft edges
    canvas = np.full((height * fine, width * fine, 3), 255, dtype=np.uint8)
    low, high = span
    m = ys.shape[1]
    if zero:
        canvas[height * fine // 2] = 208
    for y, color in zip(ys, colors, strict=True):
        x = np.linspace(0, m - 1, canvas.shape[1]) if m > 1 else np.zeros(canvas.shape[1])
        share = (np.interp(x, np.arange(m), y) - low) / ((high - low) or 1.0)
        rows = np.clip(np.round((1 - share) * (canvas.shape[0] - 3)), 0, canvas.shape[0] - 3).astype(int)
        before = np.concatenate([rows[:1], rows[:-1]])
        for c, (a, b) in enumerate(zip(np.minimum(rows, before), np.maximum(rows, before), strict=True)):
            canvas[a : b + 3, c] = color
    return reduced(canvas, width)


def span_of(strips: Sequence[Strip], shape: Look) -> tuple[float, float]:
    """Return the values between which outputs are shown: 0 to 1 for images within, else all that there are."""
    if shape == "audio":
        top = max(float(spectrogram(y).max()) for s in strips for y in s.outputs.numpy())
        return top - FLOOR, top
    image = isinstance(shape, ImageShape)
    low = min(float(s.outputs.min()) for s in strips)
    high = max(float(s.outputs.max()) for s in strips)
    return (0.0, 1.0) if image and low >= -1e-6 and high <= 1 + 1e-6 else (low, high)


def strips_svg(strips: Sequence[Strip], shape: Look, *, alone: bool = False) -> str:
    """Return strips as SVG: name and length, frames, signed column; coordinates above.

    Args:
        strips: one per row.
        shape: how outputs are drawn.
        alone: for a file of its own: dark letters on white, as no page says otherwise.
    """
    span = span_of(strips, shape)
    gutter, head = 124, 34
    rows = [row_pictures(s, shape, span) for s in strips]
    frames = len(strips[0].at)
    high, wide, side = rows[0][0].shape[0], rows[0][0].shape[1], rows[0][1].shape[1]
    same = all(bool((s.at == strips[0].at).all()) for s in strips)
    line = high + 8 + (0 if same else 14)
    width, height = gutter + wide + 16 + side, head + line * len(strips)
    about = "one row per latent: outputs along it, then its column of the Jacobian, red up and blue down"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{about}" font-family="system-ui, sans-serif" font-size="11"'
        + (' style="color:#1f2328;background:#fff">' if alone else ">"),
        f"<title>{about}</title>",
    ]
    if alone:
        out.append(f'<rect width="{width}" height="{height}" fill="#fff"/>')
    out.append(_text(gutter + wide + 16 + side / 2, 12, "column", "middle"))
    labels = strips[0].at.tolist() if same else None
    if labels is None:
        out += [_text(gutter, 12, "low"), _text(gutter + wide, 12, "high", "end")]
    elif shape is None:
        out += [_text(gutter, 28, "blue: " + _short(labels[0])), _text(gutter + wide, 28, "red: " + _short(labels[-1]), "end")]  # fmt: skip
    else:
        out += [
            _text(gutter + (k + 0.5) * (wide + GAP) / frames, 28, _short(t), "middle")
            for k, t in enumerate(labels)
        ]
    for k, (strip, pictures) in enumerate(zip(strips, rows, strict=True)):
        y = head + k * line
        out.append(f'<text x="{gutter - 10}" y="{y + high / 2 - 2:g}" text-anchor="end" fill="currentColor" font-weight="600">{_said(strip.name)}</text>')  # fmt: skip
        out.append(_text(gutter - 10, y + high / 2 + 13, f"|J| {number(strip.norm, 3)}", "end"))
        for x, w, picture in ((gutter, wide, pictures[0]), (gutter + wide + 16, side, pictures[1])):
            data = base64.b64encode(png(picture)).decode()
            out.append(
                f'<image x="{x}" y="{y}" width="{w}" height="{high}" preserveAspectRatio="none" '
                f'style="image-rendering:{"auto" if shape is None else "pixelated"}" '
                f'href="data:image/png;base64,{data}"/>'
            )
        if not same:
            out += [
                _text(gutter, y + high + 12, _short(float(strip.at[0]))),
                _text(gutter + wide, y + high + 12, _short(float(strip.at[-1])), "end"),
            ]
    return "".join(out) + "</svg>"


def _said(text: str) -> str:
    return escape(clean(text), quote=True)


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="currentColor">{_said(text)}</text>'


def _short(value: float) -> str:
    return f"{round(value, 2) + 0.0:g}"


def strips_pixels(strips: Sequence[Strip], shape: Look) -> Pixels:
    """Return strips as pixels (height, width, 3) on white, names on the left and coordinates above."""
    span = span_of(strips, shape)
    rows = [row_pictures(s, shape, span) for s in strips]
    names = [(written(s.name), written(number(s.norm, 3))) for s in strips]
    gutter = max(p.shape[1] for pair in names for p in pair) + 12
    high, wide, side = rows[0][0].shape[0], rows[0][0].shape[1], rows[0][1].shape[1]
    line, head = max(high + 22, 34), 18
    canvas = np.full((head + line * len(rows), gutter + wide + 16 + max(side, 60), 3), 255, dtype=np.uint8)
    _put(canvas, written("column"), 4, gutter + wide + 16)
    for k, ((frames, column), pair, strip) in enumerate(zip(rows, names, strips, strict=True)):
        top = head + k * line
        _put(canvas, frames, top, gutter)
        _put(canvas, column, top, gutter + wide + 16)
        for shift, name in zip((0, 14), pair, strict=True):
            _put(canvas, name, top + max(high // 2 - 12, 0) + shift, gutter - 8 - name.shape[1])
        ends = [written(_short(float(strip.at[i]))) for i in (0, -1)]
        _put(canvas, ends[0], top + high + 4, gutter)
        _put(canvas, ends[1], top + high + 4, gutter + wide - ends[1].shape[1])
    return canvas


def _put(canvas: Pixels, picture: Pixels, top: int, left: int) -> None:
    left = max(left, 0)
    h = min(picture.shape[0], canvas.shape[0] - top)
    w = min(picture.shape[1], canvas.shape[1] - left)
    canvas[top : top + h, left : left + w] = picture[:h, :w]


# letters of three by five dots, row by row from the top, for the names and numbers that a PNG file carries
GLYPHS = {
    "0": 0o75557, "1": 0o26227, "2": 0o71747, "3": 0o71717, "4": 0o55711, "5": 0o74717, "6": 0o74757,
    "7": 0o71122, "8": 0o75757, "9": 0o75717, "z": 0o07247, "-": 0o00700, ".": 0o00002, "+": 0o02720,
    "R": 0o65655, "*": 0o05250, "[": 0o64446, "]": 0o31113, ",": 0o00024, "c": 0o07447, "h": 0o44655,
    "a": 0o06357, "n": 0o06555, "e": 0o07647, "l": 0o62227, "o": 0o07557, "u": 0o05557, "m": 0o07755,
}  # fmt: skip


def written(text: str, dot: int = 2) -> Pixels:
    """Return text as pixels (5 dots high, 4 per letter), black on white; letters without a shape are left blank."""
    out = np.full((5, max(4 * len(text), 1), 3), 255, dtype=np.uint8)
    for k, letter in enumerate(text):
        bits = GLYPHS.get(letter, 0)
        for i in range(15):
            if bits >> (14 - i) & 1:
                out[i // 3, 4 * k + i % 3] = (31, 35, 40)
    return out.repeat(dot, 0).repeat(dot, 1)
