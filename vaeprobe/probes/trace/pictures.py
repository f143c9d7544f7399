"""The pictures of `trace`: seams by component, outputs along them, stops, crossings, curves and the net."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vaeprobe.report import Curves, Heatmap, Section, Svg, Table, Thumbnail, Value

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from vaeprobe.pictures import ImageShape
    from vaeprobe.seams import Event, Paths, Seam
    from vaeprobe.seams.summary import ComponentSummary
    from vaeprobe.seams.views import Net, Walk

# Columns of the preview in a terminal.
PREVIEW = 78
# Axes up to which a map of overlaps stays readable.
MOST_AXES = 32


def sections(
    paths: Paths,
    components: Sequence[ComponentSummary],
    *,
    names: Mapping[int, str],
    random_overlap: float,
    net: Net | None,
    traversal: Walk | None,
    image: ImageShape | None,
    name: str,
) -> tuple[Section, ...]:
    """Return the page's tables and pictures, latents by their names; see `TraceResult` for the other arguments."""
    parts: list[Section] = []
    if components:
        parts.append(_component_table(components, names, random_overlap))
        if len(components[0].axes) <= MOST_AXES:
            parts.append(_axis_map(components, [names[a] for a in paths.coordinates.tolist()]))
    if traversal is not None and image is not None:
        parts.append(_traversal_picture(traversal, image))
    parts += [_event_table(paths)]
    crossings = [e for e in paths.events if e.kind == "crossing"]
    if crossings:
        parts.append(_crossing_table(crossings))
    parts += _curves(paths)
    if net is not None:
        parts.append(_net_picture(net, name))
    return tuple(parts)


def strip(walk: Walk, image: ImageShape) -> NDArray[np.uint8]:
    """Return a traversal as pixels (height, width, 3): seams on the left, axes on the right."""
    return _tiled(walk, image, range(len(walk.inside)), list(range(len(walk.t))), axes=True)


def _tiled(
    walk: Walk, shape: ImageShape, rows: Sequence[int], columns: Sequence[int], *, axes: bool
) -> NDArray[np.uint8]:
    from vaeprobe.pictures import tile

    middle = len(walk.t) // 2
    grid, marks = [], []
    for row in rows:
        blocks = [walk.seam_x, walk.axis_x] if axes else [walk.seam_x]
        images = [image for x in blocks for image in shape.images(x[row][columns])]
        inside = [bool(walk.inside[row][c]) for _ in blocks for c in columns]
        grid.append([image if here else None for image, here in zip(images, inside, strict=True)])
        marks.append([c == middle for _ in blocks for c in columns])
    return tile(grid, marks=marks, gap=max(2, shape.width // 16), group=len(columns))


def _component_table(
    components: Sequence[ComponentSummary], names: Mapping[int, str], random_overlap: float
) -> Table:
    columns = ["", "s", "length", "straight", "turning", "axis", "share", "overlap", "worst", "crossings"]
    rows: list[list[Value]] = [
        [
            f"{c.component}",
            c.s,
            round(c.length, 2),
            round(c.straightness, 3),
            round(c.turning, 2),
            names[c.axis],
            round(c.axis_share, 3),
            round(c.overlap, 3),
            round(c.worst, 3),
            round(c.crossings, 2),
        ]
        for c in components
    ]
    note = (
        "components by descending singular value s at the start; turning in rad per unit length; share of "
        "seams that have this nearest axis; a random "
        f"direction overlaps its nearest axis by {random_overlap:.2f}"
    )
    return Table(title="Seams by component", columns=columns, rows=rows, note=note)


def _axis_map(components: Sequence[ComponentSummary], names: Sequence[str]) -> Heatmap:
    return Heatmap(
        title="Overlap of seams (rows) with axes (columns), mean along the way",
        matrix=[list(c.axes) for c in components],
        row_labels=[str(c.component) for c in components],
        column_labels=list(names),
    )


def _traversal_picture(walk: Walk, image: ImageShape) -> Svg:
    from vaeprobe.pictures import framed_png, reduced

    columns = sorted({round(i * (len(walk.t) - 1) / 4) for i in range(5)})
    small = reduced(_tiled(walk, image, range(min(4, len(walk.inside))), columns, axes=False), PREVIEW)
    return Svg(
        title="Outputs along the seams, one row per component, the start framed",
        svg=framed_png(strip(walk, image)),
        note="left along the seams, right along their nearest axes",
        alt="--images FILE and --format html show it in full, beside the nearest axes",
        thumbnail=Thumbnail(width=small.shape[1], height=small.shape[0], rgb=small.tobytes()),
    )


def _event_table(paths: Paths) -> Table:
    kinds = Counter(event.kind for event in paths.events)
    rows: list[list[Value]] = [["stop: " + reason, n] for reason, n in paths.stops.most_common()]
    rows += [[kind, n] for kind, n in kinds.most_common()]
    return Table(
        title="Stops and events",
        columns=["", "number"],
        rows=rows,
        note="stops are per half-seam, both ways",
    )


def _crossing_table(crossings: Sequence[Event], most: int = 12) -> Table:
    rows: list[list[Value]] = [
        [e.start, e.component, e.t, f"{e.ranks[0]} -> {e.ranks[1]}", e.value, float(e.z.norm())]
        for e in crossings[:most]
    ]
    more = f"; the first {most} of {len(crossings)}" if len(crossings) > most else ""
    return Table(
        title="Crossings",
        columns=["start", "component", "arc length", "place", "gap", "|z|"],
        rows=rows,
        note="gap: smallest relative difference of the two singular values that was seen" + more,
    )


def _curves(paths: Paths) -> list[Section]:
    import numpy as np
    import torch

    from vaeprobe import cpu
    from vaeprobe.seams.summary import first_start

    seams = first_start(paths)[:7]
    if not seams:
        return []
    t = cpu.linspace(
        min(float(s.t[0]) for s in seams), max(float(s.t[-1]) for s in seams), 64, dtype=torch.float64
    )
    x = [float(v) for v in t]

    def curve(seam: Seam, values: Tensor) -> list[float | None]:
        y = np.interp(t.numpy(), seam.t.numpy(), values.numpy())
        inside = (t >= seam.t[0]) & (t <= seam.t[-1])
        return [float(v) if here else None for v, here in zip(y, inside.tolist(), strict=True)]

    def drawn(what: str, value: Callable[[Seam], Tensor], y_label: str, note: str = "") -> Curves:
        return Curves(
            title=f"{what} along the seams of start {seams[0].start}",
            x=x,
            ys={f"{s.component}": curve(s, value(s)) for s in seams},
            x_label="latent arc length",
            y_label=y_label,
            note=note,
        )

    factor = "log N(v . z; 0, 1) - log s" if seams[0].prior is None else "log p(v . z) - log s"
    return [
        drawn("Singular value", lambda s: s.s, "s"),
        drawn("Log density factor", lambda s: s.log_factor, "nats", factor),
    ]


def _net_picture(net: Net, name: str) -> Svg:
    from vaeprobe.pictures import net_pixels

    # every second seam: at this size the rest would run together
    sparse = [
        replace(panel, lines=[line for i, line in enumerate(panel.lines) if line.strong or i % 2 == 0])
        for panel in net.panels()
    ]
    small = net_pixels(sparse)
    return Svg(
        title="Net of seams, in latent space (left) and in data space",
        svg=net.svg(name),
        alt="--svg FILE and --format html show it in full",
        thumbnail=Thumbnail(width=small.shape[1], height=small.shape[0], rgb=small.tobytes()),
    )
