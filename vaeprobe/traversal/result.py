"""What a traversal finds, as a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from vaeprobe.pictures import png, reduced
from vaeprobe.report import Json, Section, Svg, Table, Thumbnail, Value
from vaeprobe.result import Measured, Result
from vaeprobe.traversal.numbers import Strip
from vaeprobe.traversal.pictures import Look, row_pictures, span_of, strips_pixels, strips_svg
from vaeprobe.writing import write, write_text

# columns, and strips, of the preview in a terminal
PREVIEW, FIRST = 78, 5


@dataclass(frozen=True, kw_only=True)
class Traversal(Result):
    """Outputs along each latent, beside its Jacobian column.

    Attributes:
        strips: by importance, the longest column first.
        turned: the same along the columns of R*; empty where it was not asked for or is undefined.
        image: how outputs are drawn: as images, spectrograms or bars; None for curves.
        left_out: directions beyond those shown.
    """

    command: ClassVar[str] = "traverse"
    norm = Measured("traverse.norm")
    share = Measured("traverse.share")

    strips: tuple[Strip, ...]
    turned: tuple[Strip, ...] = ()
    image: Look = None
    left_out: int = 0

    def svg(self) -> str:
        """Return all strips as an SVG document."""
        return strips_svg([*self.strips, *self.turned], self.image, alone=True)

    def save(self, path: Path | str) -> None:
        """Write the strips as a `.png` or `.svg` file, with the names of rows and columns in the picture."""
        if Path(path).suffix.lower() == ".svg":
            write_text(path, self.svg())
            return
        content = png(strips_pixels([*self.strips, *self.turned], self.image))
        write(path, lambda place: place.write_bytes(content))

    def sections(self) -> tuple[Section, ...]:
        out: list[Section] = [self._picture("Outputs along each latent", self.strips)]
        if self.turned:
            out.append(self._picture("Outputs along the columns of R*", self.turned))
        rows: list[list[Value]] = [
            [s.name, s.norm, s.share, float(s.at[0]), float(s.at[-1])] for s in (*self.strips, *self.turned)
        ]
        note = f"{self.left_out} more of shorter columns; --most shows them" if self.left_out else ""
        columns = ["latent", "column length", "share", "from", "to"]
        out.append(Table(title="Latents by importance", columns=columns, rows=rows, note=note))
        return tuple(out)

    def _picture(self, title: str, strips: tuple[Strip, ...]) -> Svg:
        what = {
            "audio": "its spectrogram",
            "bars": "a bar per output, blue below 0, red above",
            None: "outputs in order; blue low, red high",
        }.get(self.image if isinstance(self.image, (str, type(None))) else "", "blue below 0, red above")
        return Svg(
            title=title,
            svg=strips_svg(strips, self.image),
            note=f"right: the signed Jacobian column at the centre ({what}); |J|: its length over the prior",
            alt="-o FILE.png, .svg or .html shows them in full",
            thumbnail=self._thumbnail(strips),
        )

    def _thumbnail(self, strips: tuple[Strip, ...]) -> Thumbnail | None:
        if self.image is None:
            return None
        span, rows = span_of(strips, self.image), []
        for strip in strips[:FIRST]:
            frames, column = row_pictures(strip, self.image, span)
            rows.append(np.concatenate([frames, np.zeros_like(column[:, :4]), column], axis=1))
        whole = np.concatenate(rows)
        small = reduced(whole, PREVIEW)
        fine = Thumbnail(width=whole.shape[1], height=whole.shape[0], rgb=whole.tobytes())
        return Thumbnail(width=small.shape[1], height=small.shape[0], rgb=small.tobytes(), fine=fine)

    def details(self) -> Json:
        return {
            "latents": [
                {"name": s.name, "norm": s.norm, "share": s.share, "at": s.at.tolist()}
                for s in (*self.strips, *self.turned)
            ],
            "left_out": self.left_out,
        }

    def by_name(self) -> Mapping[str, Strip]:
        """Return the strips by name."""
        return {s.name: s for s in (*self.strips, *self.turned)}
