"""PNG, strips and SVG, read back by other means."""

from __future__ import annotations

import base64
import io
import struct
import xml.etree.ElementTree as ET
import zlib

import numpy as np
import pytest

from vaeprobe.errors import UsageError
from vaeprobe.pictures import (
    BACKGROUND,
    MARK,
    ImageShape,
    Panel,
    Polyline,
    enlarged,
    framed_png,
    image_shape,
    net_pixels,
    net_svg,
    png,
    reduced,
    tile,
)

SVG = "{http://www.w3.org/2000/svg}"


def blocks(data: bytes) -> list[tuple[bytes, bytes]]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, out = 8, []
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        out.append((kind, body))
        at += 12 + length
    return out


@pytest.mark.parametrize("shape", [(3, 5), (4, 2, 3), (1, 1), (70, 33, 3)])
def test_png_holds_the_pixels(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    data = png(pixels)
    (head, header), (kind, body), (end, _) = blocks(data)
    assert (head, kind, end) == (b"IHDR", b"IDAT", b"IEND")
    width, height, depth, color = struct.unpack(">IIBB", header[:10])
    assert (height, width, depth) == (*shape[:2], 8)
    assert color == (2 if len(shape) == 3 else 0)
    rows = np.frombuffer(zlib.decompress(body), dtype=np.uint8).reshape(height, -1)
    assert not rows[:, 0].any(), "filter 0 on every row"
    assert np.array_equal(rows[:, 1:].reshape(shape), pixels)


def test_png_is_what_pillow_reads() -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(1).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    assert np.array_equal(np.asarray(image.open(io.BytesIO(png(pixels)))), pixels)


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2), np.uint8)])
def test_png_refuses_other_arrays(bad: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match="picture"):
        png(bad)


@pytest.mark.parametrize(
    ("output", "asked", "want"),
    [
        ((784,), None, ImageShape(28, 28, 1, True)),
        ((3 * 64 * 64,), None, ImageShape(64, 64, 3, True)),
        ((28, 28), None, ImageShape(28, 28, 1, True)),
        ((1, 32, 32), None, ImageShape(32, 32, 1, True)),
        ((3, 8, 10), None, ImageShape(8, 10, 3, True)),
        ((28, 28, 1), None, ImageShape(28, 28, 1, False)),
        ((12,), "3x4", ImageShape(3, 4, 1, True)),
        ((12,), "3x2x2", ImageShape(2, 2, 3, True)),
        ((12,), "2,2,3", ImageShape(2, 2, 3, False)),
    ],
)
def test_image_shapes(output: tuple[int, ...], asked: str | None, want: ImageShape) -> None:
    assert image_shape(output, asked) == want


@pytest.mark.parametrize(
    ("output", "asked", "message"),
    [
        ((17,), None, r"outputs of shape \(17,\) are no image"),
        ((4, 5, 5), None, "no image"),
        ((12,), "5x5", "the image shape `5x5` does not hold the decoder's 12 outputs"),
        ((12,), "wide", "`wide` does not hold"),
    ],
)
def test_what_is_no_image_is_said(output: tuple[int, ...], asked: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        image_shape(output, asked)


def test_images_of_both_layouts() -> None:
    rows = np.arange(24.0).reshape(2, 12)
    first = ImageShape(2, 2, 3, True).images(rows)
    assert first.shape == (2, 2, 2, 3)
    assert first[0, 1, 0].tolist() == [2, 6, 10]
    assert ImageShape(2, 2, 3, False).images(rows)[0, 1, 0].tolist() == [6, 7, 8]


def test_a_tiled_grid_has_every_image_in_its_place() -> None:
    white, grey = np.ones((3, 2, 1)), np.full((3, 2, 1), 0.5)
    picture = tile(
        [[white, None, grey], [grey, white, None]], marks=[[True, False, False], [False] * 3], gap=1
    )
    assert picture.shape == (1 + 2 * 4, 1 + 3 * 3, 3)
    assert (picture[1:4, 1:3] == 255).all()
    assert (picture[1:4, 7:9] == 128).all()
    assert (picture[5:8, 4:6] == 255).all()
    assert (picture[1:4, 4:6] == BACKGROUND).all(), "an empty place"
    assert (picture[0, 0:4] == MARK).all()
    assert (picture[4, 4:] == BACKGROUND).all()


def test_values_out_of_range_are_scaled_together() -> None:
    low, high = np.full((1, 1, 1), -2.0), np.full((1, 1, 1), 6.0)
    picture = tile([[low, high, np.zeros((1, 1, 1))]], gap=1)
    assert [int(picture[1, x, 0]) for x in (1, 3, 5)] == [0, 255, 64]
    with pytest.raises(ValueError, match="no image"):
        tile([[None]])


def test_a_group_is_set_apart() -> None:
    image = np.ones((2, 2, 1))
    together, apart = tile([[image] * 4]), tile([[image] * 4], group=2)
    assert apart.shape[1] > together.shape[1]


def test_a_net_is_well_formed_and_to_scale() -> None:
    line = np.array([[-1.0, 0.0], [1.0, 0.0]])
    panel = Panel(
        "a < b & c",
        [Polyline(line, 0, True), Polyline(line[:, ::-1], 1)],
        ("z1", "z2"),
        np.zeros((1, 2)),
        (1.0,),
    )
    root = ET.fromstring(net_svg([panel, panel], ["one", "two"], side=400))
    assert root.tag == f"{SVG}svg"
    lines = root.findall(f".//{SVG}polyline")
    assert len(lines) == 4
    ends = {
        node.get("stroke"): np.array(
            [[float(x) for x in pair.split(",")] for pair in node.get("points", "").split()]
        )
        for node in lines[:2]
    }
    (across, up) = ends["#0969da"], ends["#cf222e"]
    assert across[1, 0] - across[0, 0] == pytest.approx(up[0, 1] - up[1, 1]), (
        "equal scales, the y axis upwards"
    )
    circle = root.findall(f".//{SVG}circle")[0]
    assert float(circle.get("r", 0)) == pytest.approx((across[1, 0] - across[0, 0]) / 2, abs=0.02)
    assert "a < b & c" in [node.text for node in root.iter(f"{SVG}text")]


def test_a_panel_without_lines_still_draws() -> None:
    ET.fromstring(net_svg([Panel("empty", [], ("", ""))], []))


def test_a_reduced_picture_is_the_mean_of_its_parts() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    small = reduced(pixels, 6)
    assert small.shape == (4, 6, 3)
    assert small[1, 2].tolist() == np.round(pixels[2:4, 4:6].mean((0, 1))).tolist()
    assert reduced(pixels, 50) is pixels
    assert reduced(pixels[:, :7], 3).shape == (3, 3, 3)


def test_an_enlarged_picture_repeats_its_pixels() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (4, 300, 3)).astype(np.uint8)
    large = enlarged(pixels)
    assert large.shape == (12, 900, 3)
    assert (large.reshape(4, 3, 300, 3, 3) == pixels[:, None, :, None]).all()
    assert enlarged(large).shape == large.shape


def test_a_framed_picture_holds_its_png() -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    image = ET.fromstring(framed_png(pixels)).find(f"{SVG}image")
    assert image is not None
    assert base64.b64decode(image.get("href", "").split(",")[1]) == png(pixels)


def test_a_net_in_pixels_has_its_lines() -> None:
    cross = [
        Polyline(np.array([[-1.0, 0.0], [1.0, 0.0]]), 0),
        Polyline(np.array([[0.0, -1.0], [0.0, 1.0]]), 1, True),
    ]
    pixels = net_pixels([Panel("", cross, ("", "")), Panel("", [], ("", ""))], side=21)
    assert pixels.shape == (21, 44, 3)
    assert (pixels[10, [0, 5, 20]] == (0x58, 0xA6, 0xFF)).all()
    assert (pixels[:, 10] == (0xFF, 0x7B, 0x72)).all(), "the strong line lies on top"
    assert (pixels[:, 21:] == BACKGROUND).all()
