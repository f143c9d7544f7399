"""Traversals against maps whose columns are known, and pictures that carry their labels."""

from __future__ import annotations

import base64
import io
import re
import struct
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from vaeprobe import Decoder, Encoder, traverse
from vaeprobe.cli import run
from vaeprobe.decoder import Group
from vaeprobe.errors import UsageError
from vaeprobe.pictures import ImageShape
from vaeprobe.render.pixels import graphics, kitty, sixel
from vaeprobe.render.terminal import console, view
from vaeprobe.report import Thumbnail
from vaeprobe.traversal.pictures import GLYPHS, bars, row_pictures, span_of, spectrogram, written

MODELS = Path(__file__).parents[1] / "sample_models"
A = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def linear() -> Decoder:
    return Decoder(lambda z: z @ A.to(z).T, 3)


def test_a_linear_map_shows_its_columns_by_length() -> None:
    found = traverse(linear(), frames=5)
    lengths = A.norm(dim=0)
    order = lengths.argsort(descending=True).tolist()
    assert [s.name for s in found.strips] == [f"z{i}" for i in order]
    for strip, i in zip(found.strips, order, strict=True):
        assert strip.norm == pytest.approx(float(lengths[i]), rel=1e-12)
        assert strip.share == pytest.approx(float(lengths[i] ** 2 / A.square().sum()), rel=1e-12)
        torch.testing.assert_close(strip.column, A[:, i])
        assert strip.at.tolist() == [-3, -1.5, 0, 1.5, 3]
        torch.testing.assert_close(strip.outputs, strip.at[:, None] * A[:, i])
    assert found.norm.value == pytest.approx(lengths.tolist())


def test_the_rotation_makes_the_columns_of_a_linear_map_orthogonal() -> None:
    found = traverse(linear(), rotate=True)
    J = torch.stack([s.column for s in found.turned], dim=1)
    gram = J.T @ J
    assert (gram - gram.diag().diag()).abs().max() < 1e-4 * gram.max()
    torch.testing.assert_close(
        torch.tensor([s.norm for s in found.turned]).double(), torch.linalg.svdvals(A), rtol=1e-4, atol=0
    )


def test_data_give_the_range_and_the_centre() -> None:
    decoder = Decoder(
        lambda z: z @ A.to(z).T, 3, encoder=Encoder(lambda x: (x[:, :3] + 5, torch.zeros_like(x[:, :3])), 3)
    )
    x = np.zeros((101, 64), dtype=np.float32)
    x[:, 1] = np.linspace(0, 1, 101)
    strips = traverse(decoder, data=x, frames=3).by_name()
    assert strips["z1"].at.tolist() == pytest.approx([5.01, 5.5, 5.99])
    assert strips["z0"].at.tolist() == pytest.approx([5, 5, 5])
    middle = A.double() @ torch.tensor([5, 5.5, 5], dtype=torch.float64)
    torch.testing.assert_close(strips["z1"].outputs[1], middle, rtol=1e-6, atol=1e-5)


def test_data_without_an_encoder_are_refused() -> None:
    with pytest.raises(UsageError, match="needs the encoder"):
        traverse(linear(), data=np.zeros((4, 64)))


def test_latents_with_space_move_by_channel() -> None:
    weight = torch.randn(3, 2, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def convolved(z: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(z.reshape(-1, 2, 4, 4), weight.to(z))

    found = traverse(Decoder(convolved, 32, latent_shape=(2, 4, 4))).by_name()
    assert set(found) == {"channel 0", "channel 1"}
    assert found["channel 1"].norm == pytest.approx(4 * float(weight[:, 1].norm()))


def test_codes_stay_at_their_first() -> None:
    decoder = Decoder(lambda z: z @ torch.eye(3, 64).to(z), 3, prior=(Group("onehot", 2), Group("normal", 1)))
    found = traverse(decoder)
    assert [s.name for s in found.strips] == ["z2"]
    assert found.strips[0].outputs[:, :2].tolist() == [[1, 0]] * 7


def test_more_latents_than_are_shown_are_counted() -> None:
    found = traverse(linear(), most=2)
    assert (len(found.strips), found.left_out) == (2, 1)
    assert len(found.metrics["traverse.norm"].value) == 3  # type: ignore[arg-type]


def test_all_codes_have_no_derivative() -> None:
    with pytest.raises(UsageError, match="one-hot"):
        traverse(Decoder(lambda z: z @ torch.eye(2, 4).to(z), 2, prior=(Group("onehot", 2),)))


@pytest.mark.parametrize("setting", [{"frames": 1}, {"most": 0}, {"reach": 0.0}, {"image_shape": "5x5"}])
def test_settings_out_of_bounds_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        traverse(linear(), **setting)  # type: ignore[arg-type]


@pytest.mark.parametrize("outputs", [1, 3, 40, 64, 192])
def test_any_output_has_a_picture(outputs: int) -> None:
    found = traverse(Decoder(lambda z: z.sin() @ torch.ones(2, outputs).to(z), 2))
    assert isinstance(found.image, ImageShape) == (outputs in (64, 192))
    assert (found.image == "bars") == (outputs <= 32)
    root = ET.fromstring(found.svg())
    texts = {t.text for t in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"z0", "z1", "column"} <= texts
    assert root.get("role") == "img"


def test_a_dead_decoder_is_drawn() -> None:
    found = traverse(Decoder(lambda z: z @ torch.zeros(2, 3).to(z), 2))
    assert [s.norm for s in found.strips] == [0, 0]
    ET.fromstring(found.svg())


def test_letters_of_names_have_shapes() -> None:
    assert set("z0123456789[,]-.+ channel R* column") <= {*GLYPHS, " "}
    one = written("1", dot=1)
    assert ["".join(".#"[int(p[0] < 128)] for p in row) for row in one] == [
        ".#..", "##..", ".#..", ".#..", "###.",
    ]  # fmt: skip


def test_files_by_suffix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(MODELS / "digits_mlp.safetensors")
    for suffix in ("png", "svg", "html"):
        assert run(["traverse", model, "-n", "8", "-o", str(tmp_path / f"s.{suffix}")]) == 0
    png = (tmp_path / "s.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    body = png[png.index(b"IDAT") + 4 :]
    assert len(zlib.decompressobj().decompress(body)) == height * (1 + 3 * width)
    ET.parse(tmp_path / "s.svg")
    page = (tmp_path / "s.html").read_text(encoding="utf-8")
    assert "z0" in page
    assert "<script" not in page
    assert run(["traverse", model, "-o", str(tmp_path / "s.jpeg")]) == 2
    assert ".png" in capsys.readouterr().err


def test_a_terminal_without_colour_gets_no_picture() -> None:
    text = str(traverse(linear()))
    assert "▀" not in text
    assert "Outputs along each latent: -o FILE.png" in text  # one line, no empty heading
    assert "column length" in text


# -- sound, vectors ---------------------------------------------------------------------------------------


def tones(z: torch.Tensor) -> torch.Tensor:
    """Two tones, a sixteenth and a quarter of the sample rate, as loud as their latents say."""
    t = torch.arange(4096, dtype=torch.float64)
    both = torch.stack([(2 * torch.pi * t / 16).sin(), (2 * torch.pi * t / 4).cos()])
    return (torch.exp(z.double()) @ both)[:, None].to(z.dtype)


def test_a_waveform_is_drawn_as_its_spectrogram() -> None:
    found = traverse(Decoder(tones, 2), frames=3)
    assert found.image == "audio"
    strip = found.by_name()["z0"]
    tones_of = spectrogram(strip.column.numpy())
    # 256 samples: a sixteenth of the rate is tone 16
    assert tones_of.mean(1).argmax() == 16
    loud, quiet = (spectrogram(y.numpy())[16].mean() for y in (strip.outputs[2], strip.outputs[0]))
    assert loud - quiet == pytest.approx(20 * 6 / np.log(10), abs=0.2)  # e^3 against e^-3
    frames, column = row_pictures(strip, found.image, span_of(found.strips, found.image))
    assert column.shape == (64, 64, 3)
    dark = column[:, :, 0].mean(1)
    assert abs(int(dark.argmin()) - round(63 * (1 - 16 / 128))) <= 1
    assert frames[:, :64].mean() > frames[:, -64:].mean()
    ET.fromstring(found.svg())


def test_vectors_are_drawn_as_bars() -> None:
    picture = bars(np.array([2.0, -1.0, 0.0]), (-1.0, 2.0))
    red, blue = ((picture == color).all(-1) for color in ((207, 34, 46), (9, 105, 218)))
    wide = 64 // 3
    assert [int(red[:, k * wide : (k + 1) * wide].any(1).sum()) for k in range(3)] == [43, 0, 0]
    assert [int(blue[:, k * wide : (k + 1) * wide].any(1).sum()) for k in range(3)] == [0, 22, 0]


@pytest.mark.parametrize(("show", "kind"), [("curves", None), ("bars", "bars"), ("audio", "audio")])
def test_outputs_are_drawn_as_asked(show: str, kind: object) -> None:
    assert traverse(linear(), show=show).image == kind  # type: ignore[arg-type]


def test_a_vector_is_no_image() -> None:
    with pytest.raises(UsageError, match="no image"):
        traverse(Decoder(lambda z: z @ torch.ones(2, 3).to(z), 2), show="image")


# -- terminals that show pixels ---------------------------------------------------------------------------

CUBE = np.random.default_rng(0).integers(0, 6, (14, 9, 3)).astype(np.uint8) * 51
SMALL = Thumbnail(width=9, height=14, rgb=CUBE.tobytes())


def test_kitty_gets_the_very_pixels() -> None:
    big = np.random.default_rng(1).integers(0, 256, (60, 50, 3)).astype(np.uint8)
    text = kitty(Thumbnail(width=50, height=60, rgb=big.tobytes()), 20)
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert len(parts) > 1
    assert parts[0][0] == "a=T,f=24,o=z,q=2,s=50,v=60,c=20,m=1"
    assert [head for head, _ in parts[1:]] == ["m=1"] * (len(parts) - 2) + ["m=0"]
    assert max(len(data) for _, data in parts) <= 4096
    assert zlib.decompress(base64.b64decode("".join(data for _, data in parts))) == big.tobytes()


def test_sixels_hold_the_picture() -> None:
    text = sixel(SMALL)
    body = re.fullmatch(r'\x1bP0;1q"1;1;9;14(.*)\x1b\\', text, re.DOTALL)
    assert body is not None
    canvas, palette = np.full((18, 9, 3), -1), {}
    x, top, color = 0, 0, ""
    for sign in re.findall(r"#\d+;2;\d+;\d+;\d+|#\d+|!\d+.|[$-]|.", body[1]):
        if sign.startswith("#") and ";" in sign:
            name, _, *levels = sign[1:].split(";")
            palette[name] = [round(int(v) * 2.55) for v in levels]
        elif sign.startswith("#"):
            color = sign[1:]
        elif sign == "$":
            x = 0
        elif sign == "-":
            x, top = 0, top + 6
        else:
            times = int(sign[1:-1]) if sign.startswith("!") else 1
            for k in range(6):
                if ord(sign[-1]) - 63 >> k & 1:
                    canvas[top + k, x : x + times] = palette[color]
            x += times
    assert (canvas[:14] == CUBE).all()
    assert (canvas[14:] == -1).all()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "kitty"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "foot-extra"}, "sixel"),
        ({"TERM": "xterm-256color"}, ""),
        ({"TERM": "screen-256color", "KITTY_WINDOW_ID": "1"}, ""),
        ({}, ""),
    ],
)
def test_terminals_are_told_by_their_environment(environment: dict[str, str], said: str) -> None:
    assert graphics(environment) == said


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("term", "sign"), [("xterm-kitty", "\x1b_G"), ("foot", "\x1bP0;1q"), ("xterm-256color", "▀")]
)
def test_pictures_reach_the_terminal(term: str, sign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TERM_PROGRAM", "KITTY_WINDOW_ID", "TMUX", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    console(stream, "always").print(view(traverse(linear()).page(), verbose=True))
    text = stream.getvalue()
    assert sign in text
    assert "\x07" not in text
    others = {"\x1b_G", "\x1bP0;1q", "▀"} - {sign}
    assert not [other for other in others if other in text]


def test_many_latents_of_few_outputs_are_measured_by_the_rows() -> None:
    """20,000 columns of 4 outputs in the memory of their rows, as a matrix and a curved map have them."""
    wide = torch.randn(4, 20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = traverse(Decoder(lambda z: z @ wide.to(z).T, 20_000), samples=2, most=2)
    norms = torch.tensor(found["traverse.norm"].value)
    assert torch.allclose(norms.double(), wide.norm(dim=0), rtol=1e-5)
    longest = int(wide.norm(dim=0).argmax())
    assert found.strips[0].name == f"z{longest}"
    assert torch.allclose(found.strips[0].column.double(), wide[:, longest], rtol=1e-5)


def test_rows_and_columns_give_the_same_lengths() -> None:
    from vaeprobe.latents import Prior
    from vaeprobe.traversal.numbers import Direction, axes, mean_squares

    weight = A[:5].T  # 3 outputs of 5 latents
    decoder = Decoder(lambda z: torch.tanh(z @ weight.to(z).T), 5)
    z = Prior("columns").draw(decoder, 7)
    by_rows, _ = mean_squares(decoder, axes(decoder), z)
    by_columns, _ = mean_squares(decoder, [Direction(d.name, d.vector.clone()) for d in axes(decoder)], z)
    assert torch.equal(torch.stack([d.vector for d in axes(decoder)]), torch.eye(5, dtype=torch.float64))
    assert torch.allclose(by_rows, by_columns, rtol=1e-5)
