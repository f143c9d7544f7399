"""What a run keeps: pieces come back bit for bit, interrupted runs end with the numbers of whole ones, bad files are told."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vaeprobe import compare, kept, survey, traverse
from vaeprobe.cli import streams
from vaeprobe.cli.output import document
from vaeprobe.cli.running import going_on, not_kept
from vaeprobe.data import Data, open_data
from vaeprobe.decoder import Decoder
from vaeprobe.engine import chunks, gram, jacobian, methods, pullback, pushforward
from vaeprobe.engine.methods import choose
from vaeprobe.errors import InputError, UsageError
from vaeprobe.geometry import best_rotation as best_rotations
from vaeprobe.geometry import rotations
from vaeprobe.geometry.best_rotation import joint_diagonalise
from vaeprobe.geometry.gram import ima_contrast
from vaeprobe.geometry.rotations import null_contrasts
from vaeprobe.geometry.smoothness import metric_derivatives, smoothness
from vaeprobe.inference.moments import log_density_and_score
from vaeprobe.kept import keeping, signature
from vaeprobe.likelihoods import by_name
from vaeprobe.linear import moments
from vaeprobe.probes.factorise import Factorise
from vaeprobe.probes.orthogonality import Orthogonality
from vaeprobe.probes.trace import Trace
from vaeprobe.probes.train_linear import TrainLinear
from vaeprobe.seams.views import decode

SAMPLE = Path(__file__).parent.parent / "sample_models" / "digits_conv.safetensors"


@pytest.fixture(autouse=True)
def all_is_worth_keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "RATE", float("inf"))


class Bent:
    """A curved map that counts the latents it is given, and is interrupted at some number of calls."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.W = torch.randn(3, 24, generator=generator).double()
        self.V = torch.randn(24, 12, generator=generator).double()
        self.calls = 0
        self.until = float("inf")

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls > self.until:
            raise KeyboardInterrupt
        return torch.tanh(z @ self.W) @ self.V


def latents(n: int) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(1)).double()


def all_verbs(decoder: Decoder) -> Iterator[torch.Tensor]:
    z = latents(5)
    v, w = torch.ones(2, 5, 3).double(), torch.ones(2, 5, 12).double()
    yield gram(decoder, z, chunk=2)
    yield gram(decoder, z, columns=torch.tensor([[0, 2]] * 5))
    yield gram(decoder, z, likelihood=by_name("gaussian", (12,)))
    yield jacobian(decoder, z, chunk=2)
    yield from pushforward(decoder, z, v)
    yield pullback(decoder, z, w)


def test_every_verb_takes_from_the_file_what_it_kept(tmp_path: Path) -> None:
    f = Bent()
    decoder = Decoder(f, 3)
    plain = list(all_verbs(decoder))
    with keeping(tmp_path / "a.kept"):
        first = list(all_verbs(decoder))
    calls = f.calls
    with keeping(tmp_path / "a.kept") as store:
        again = list(all_verbs(decoder))
        assert store is not None
        assert 0 < store.saved <= store.seconds
    assert f.calls == calls
    for one, two, three in zip(plain, first, again, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_what_is_kept_is_of_one_decoder_at_its_latents_alone(tmp_path: Path) -> None:
    z = latents(4)
    f, g = Bent(), Bent()
    g.V = g.V.clone()
    g.V[3, 5] += 1e-9  # another epoch, as near as one likes
    decoder = Decoder(f, 3)
    with keeping(tmp_path / "a.kept"):
        gram(decoder, z)
    others = [
        (Decoder(g, 3), z, {}),
        (decoder, z + 1e-12, {}),
        (decoder, z, {"likelihood": by_name("gaussian", (12,))}),
        (decoder, z, {"columns": torch.tensor([[0, 1, 2]] * 4)}),
        (decoder.holding_all_but([0, 1]), z, {}),
    ]
    with keeping(tmp_path / "a.kept") as store:
        for of, at, more in others:
            before = f.calls + g.calls
            right = gram(of, at, **more)
            assert f.calls + g.calls > before
            assert torch.equal(right, without_keeping(of, at, more))
        assert store is not None
        assert store.saved == 0


def test_what_another_choice_of_method_kept_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file is that was kept when decoders were known by other test latents: it is neither believed nor refused."""
    z, path = latents(4), tmp_path / "a.kept"
    right = gram(Decoder(Bent(), 3), z)
    with monkeypatch.context() as then, keeping(path):
        then.setattr(methods, "signature", lambda made_of: signature(("known otherwise", made_of)))
        gram(Decoder(Bent(), 3), z)
    f = Bent()
    decoder = Decoder(f, 3)
    choose(decoder)
    for believed in (False, True):
        before = f.calls
        with keeping(path) as store:
            assert torch.equal(gram(decoder, z), right)
            assert store is not None
            assert (store.saved > 0) is believed
        assert (f.calls == before) is believed


def without_keeping(decoder: Decoder, z: torch.Tensor, more: Any) -> torch.Tensor:
    token = kept._current.set(None)
    try:
        return gram(decoder, z, **more)
    finally:
        kept._current.reset(token)


PROBES = [
    Orthogonality(samples=40, rotations=19, restarts=0, chunk=4),
    Factorise(samples=24, max_samples=24, sheets=0, permutations=19, chunk=4),
    Trace(samples=1, components="0", length=0.5),
]


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: p.NAME)
def test_an_interrupted_run_ends_with_the_numbers_of_a_whole_one(probe: Any, tmp_path: Path) -> None:
    f = Bent()
    decoder = Decoder(f, 3)
    whole = probe.measure(decoder)
    f.calls = 0  # without those of choosing a method
    probe.measure(decoder)
    took, f.calls = f.calls, 0
    resumed = replace(probe, resume=tmp_path / "run.kept")
    f.until = took // 2
    with pytest.raises(KeyboardInterrupt):
        resumed.measure(decoder)
    f.calls, f.until = 0, float("inf")
    found = resumed.measure(decoder)
    assert f.calls < 0.9 * took
    assert {id: m.value for id, m in found.metrics.items()} == {
        id: m.value for id, m in whole.metrics.items()
    }
    assert {id: m.ci for id, m in found.metrics.items()} == {id: m.ci for id, m in whole.metrics.items()}
    assert found.settings == whole.settings


def second_derivatives(decoder: Decoder) -> Any:
    return torch.cat([part.flatten() for part in metric_derivatives(decoder, latents(6), [0, 1, 2])])  # type: ignore[union-attr]


def slopes(decoder: Decoder) -> Any:
    a, b, u = latents(60).chunk(3)
    return smoothness(decoder, a, b, u)


def densities(decoder: Decoder) -> Any:
    x = torch.linspace(-1, 1, 60 * 12).reshape(60, 12).double()
    found = log_density_and_score(decoder, by_name("gaussian", (12,)), x, latents(60))
    return torch.cat([part.flatten() for part in found])


def outputs(decoder: Decoder) -> Any:
    return torch.from_numpy(decode(decoder, latents(180)))


@pytest.mark.parametrize("stage", [second_derivatives, slopes, densities, outputs])
def test_a_stage_that_is_interrupted_does_not_measure_again_what_it_kept(
    stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "BUDGET", 24 * 8 * 9)
    f, path = Bent(), tmp_path / "run.kept"
    decoder = Decoder(f, 3)
    stage(decoder)  # and chooses a method
    f.calls = 0
    whole = stage(decoder)
    took, done = f.calls, 0
    assert took > 12
    for part in (3, 2):  # a third of all, and half of what is left
        f.calls, f.until = 0, (took - done) // part
        with keeping(path), pytest.raises(KeyboardInterrupt):
            stage(decoder)
        done += f.calls - 1
    f.calls, f.until = 0, float("inf")
    with keeping(path):
        found = stage(decoder)
    assert f.calls <= took - done + 12  # the few that look which way is right, and the piece that was cut off
    assert f.calls < 0.6 * took
    assert torch.equal(found, whole) if isinstance(whole, Tensor) else found == whole
    f.calls = 0
    with keeping(path):
        stage(decoder)
    assert f.calls <= 6  # those that look which way is right


def grams(n: int, k: int) -> Tensor:
    J = torch.randn(n, k + 3, k, generator=torch.Generator().manual_seed(0)).double()
    return J.mT @ J


@pytest.mark.parametrize(
    ("module", "name", "find"),
    [
        (best_rotations, "_descend", lambda: joint_diagonalise(grams(20, 4), restarts=3).R),
        (
            rotations,
            "_under_rotations",
            lambda: torch.cat(null_contrasts(grams(20, 4), ima_contrast(grams(20, 4)), count=30)),
        ),
    ],
    ids=["best rotation", "random rotations"],
)
def test_a_search_goes_on_from_the_starts_that_are_kept(
    module: Any, name: str, find: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotations, "AT_ONCE", 10 * 20 * 4**3)
    whole, path, plain = find(), tmp_path / "run.kept", getattr(module, name)
    calls, until = [0], [float("inf")]

    def counted(f: Any) -> Any:
        def called(*args: Any) -> Any:
            calls[0] += 1
            if calls[0] > until[0]:
                raise KeyboardInterrupt
            return f(*args)

        return called

    of_rotations = lambda *args: counted(plain(*args))  # noqa: E731
    monkeypatch.setattr(module, name, of_rotations if name == "_under_rotations" else counted(plain))
    assert torch.equal(find(), whole)
    took, calls[0], until[0] = calls[0], 0, 2
    assert took >= 3
    with keeping(path), pytest.raises(KeyboardInterrupt):
        find()
    calls[0], until[0] = 0, float("inf")
    with keeping(path):
        assert torch.equal(find(), whole)
    assert calls[0] == took - 2
    with keeping(path):
        assert torch.equal(find(), whole)
    assert calls[0] == took - 2


def test_more_samples_begin_with_those_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    f = Bent()
    decoder = Decoder(f, 3)
    probe = Orthogonality(samples=32, rotations=19, restarts=0, chunk=4, resume=tmp_path / "run.kept")
    probe.measure(decoder)
    with keeping(tmp_path / "run.kept") as store:
        taken: list[bytes] = []
        take = kept.Kept.take
        monkeypatch.setattr(kept.Kept, "take", lambda self, key: (taken.append(key), take(self, key))[1])
        replace(probe, samples=64).measure(decoder)
        assert store is not None
        # all chunks of the first 32, and all but what was kept of some latents that were looked at twice and of rotations of all
        assert 8 <= len(taken) >= len(store._places) - 4


def test_a_torn_or_damaged_end_is_cut_off_and_measured_again(tmp_path: Path) -> None:
    path, decoder, z = tmp_path / "a.kept", Decoder(Bent(), 3), latents(6)
    ends = []
    for n in (2, 4, 6):
        with keeping(path):
            right = gram(decoder, z[:n], chunk=2)
        ends.append(path.stat().st_size)
    content = path.read_bytes()
    flipped, early = bytearray(content), bytearray(content)
    flipped[-5] ^= 1
    early[ends[0] - 5] ^= 1
    for damaged, whole in (
        (content, ends[2]), (content[:-1], ends[1]), (content[:-200], ends[1]), (bytes(flipped), ends[1]),
        (content + b"\xff" * 300, ends[2]), (bytes(early), len(kept.HEAD)),
        (content[: ends[0]] + kept.HEAD + content[ends[0] : -1], ends[1] + len(kept.HEAD)),  # of two runs at once
    ):  # fmt: skip
        path.write_bytes(damaged)
        with keeping(path) as store:
            assert torch.equal(gram(decoder, z, chunk=2), right)
            assert store is not None
            assert store.broken == ({path: whole} if whole < len(damaged) else {})
        assert path.read_bytes()[:whole] == damaged[:whole]
        with keeping(path) as store:
            gram(decoder, z, chunk=2)
            assert store is not None
            assert len(store._places) == 3
            assert store.saved == pytest.approx(store.seconds)


@pytest.mark.parametrize(
    "told",
    [
        b'{"seconds": 1, "shapes": [["float64", [1099511627776, 1099511627776]]]}',
        b'{"seconds": NaN, "shapes": []}',
        b'{"seconds": 1, "shapes": [["float64", [-1]]]}',
        b'{"seconds": 1, "shapes": [["object", [1]]]}',
        b'{"seconds": 1, "shapes": 3}',
        b"[]",
    ],
)
def test_records_that_lie_are_cut_off(told: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.kept"
    for length in (len(told), 1 << 31):
        record = kept._RECORD.pack(b"k" * 32, length, zlib.crc32(told + bytes(8))) + told + bytes(8)
        path.write_bytes(kept.HEAD + record)
        with keeping(path) as store:
            assert store is not None
            assert not store.has(b"k" * 32)
        assert path.read_bytes() == kept.HEAD


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04 something else", "holds nothing that was kept"),
        (b"kept by vaeprobe 0.0.0\n" + bytes(80), "by another version"),
    ],
)
def test_other_files_are_refused_and_left_as_they_are(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.kept"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as caught, keeping(path):
        pass
    assert caught.value.hint == "name a new file for --resume"
    assert path.read_bytes() == content


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write"), keeping(tmp_path / "missing" / "a.kept"):
        pass


def piece(number: float) -> tuple[Tensor]:
    return (torch.full((5,), number, dtype=torch.float64),)


def test_of_two_runs_on_one_file_the_one_that_kept_nothing_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.kept"
    first = kept.Kept(path)
    second = kept.Kept(path)
    second.add(b"b" * 32, piece(1.0), 1.0)
    first.close()
    second.add(b"c" * 32, piece(2.0), 1.0)
    second.close()
    third = kept.Kept(path)
    assert third.take(b"b" * 32)[0].equal(piece(1.0)[0])
    assert third.take(b"c" * 32)[0].equal(piece(2.0)[0])
    third.close()


def test_a_file_that_holds_nothing_goes_with_the_last_run_that_has_it(tmp_path: Path) -> None:
    path = tmp_path / "a.kept"
    first, second = kept.Kept(path), kept.Kept(path)
    first.close()
    assert path.exists()
    second.close()
    assert path.exists()  # it was there before
    path.unlink()
    kept.Kept(path).close()
    assert not path.exists()


def test_what_another_run_is_just_writing_is_not_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.kept"
    first = kept.Kept(path)
    first.add(b"a" * 32, piece(1.0), 1.0)
    whole = path.stat().st_size
    with open(path, "ab") as stream:
        stream.write(b"half a record")
    second = kept.Kept(path)
    assert second.broken == {path: whole}
    assert path.stat().st_size > whole
    second.close()
    first.close()
    kept.Kept(path).close()
    assert path.stat().st_size == whole


def test_a_file_that_was_removed_as_it_was_opened_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, share, calls = tmp_path / "a.kept", kept._share, [0]

    def removed(stream: Any) -> None:
        calls[0] += 1
        if calls[0] == 1:
            path.unlink()
        share(stream)

    monkeypatch.setattr(kept, "_share", removed)
    store = kept.Kept(path)
    store.add(b"a" * 32, piece(1.0), 1.0)
    store.close()
    assert path.stat().st_size > 0


@pytest.mark.parametrize("short", [False, True])
def test_a_full_disk_ends_the_keeping_and_not_the_run(
    short: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.kept"

    class Full(FileIO):
        def write(self, content: Any, /) -> int:
            if short:
                return super().write(content[:30])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with keeping(path) as store:
        assert store is not None
        store.add(b"a" * 32, piece(1.0), 1.0)
        not_kept(store)
        assert capsys.readouterr().err == ""
        whole = path.stat().st_size
        store._own.close()
        store._own = Full(path, "ab")
        store.add(b"b" * 32, piece(2.0), 1.0)
        after = path.stat().st_size
        store.add(b"c" * 32, piece(3.0), 1.0)
        not_kept(store)
        said = " ".join(capsys.readouterr().err.split())
        assert said == f"{path} does not hold all of this run: no space left on device"
        assert path.stat().st_size == after == whole + 30 * short
    with keeping(path) as store:
        assert store is not None
        assert [store.has(name * 32) for name in (b"a", b"b", b"c")] == [True, False, False]


def test_pieces_that_are_faster_made_than_read_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "RATE", 1e6)
    with keeping(tmp_path / "a.kept") as store:
        assert store is not None
        piece = (torch.zeros(125_000).double(),)  # 1 MB: a second's worth
        store.add(b"a" * 32, piece, 0.99)
        empty = len((tmp_path / "a.kept").read_bytes())
        store.add(b"b" * 32, piece, 1.01)
    assert empty == 0
    with keeping(tmp_path / "a.kept") as store:
        assert store is not None
        assert store.take(b"b" * 32)[0].equal(piece[0])


def test_networks_that_compute_in_half_precision_are_known_too() -> None:
    W = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    decoder = Decoder(lambda z: torch.tanh(z.bfloat16() @ W), 3)
    assert gram(decoder, torch.zeros(2, 3)).isfinite().all()


def test_signatures_tell_types_shapes_and_order_apart() -> None:
    zeros = torch.zeros(2, 3)
    different = [
        zeros, zeros.double(), zeros.T, [zeros, 1], [1, zeros], ["1", zeros], [[1], zeros], [1, [zeros]], b"1", "1", 1, 1.0,
        None, [], [None], by_name("gaussian", (2,)), by_name("bernoulli", (2,)),
    ]  # fmt: skip
    assert len({signature(value) for value in different}) == len(different)
    kinds = (torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.bool)
    assert len({signature(torch.zeros(2, dtype=kind)) for kind in kinds}) == len(kinds)
    assert signature(torch.zeros(()).requires_grad_()) == signature(torch.zeros(()))
    assert signature([zeros, "a"]) == signature((torch.zeros(2, 3), "a"))


def test_a_run_that_sigterm_ends_says_how_to_go_on_and_does(tmp_path: Path) -> None:
    path = tmp_path / "run.kept"
    command = [
        sys.executable, "-m", "vaeprobe", "orthogonality", str(SAMPLE), "--samples", "100000", "--chunk", "16",
        "--rotations", "1", "--restarts", "0", "--resume", str(path),
    ]  # fmt: skip
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 120
        while time.monotonic() < end and not (path.exists() and path.stat().st_size > 20_000):
            time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 143
    assert out == ""
    assert f"stopped; the same command goes on from what is kept in {path}" in err
    command[command.index("100000")] = "64"
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0
    assert "of work" in done.stderr
    assert "verdict" in done.stdout


def test_a_run_that_kept_nothing_yet_does_not_go_on_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.kept"
    monkeypatch.setattr(kept, "place", None)
    assert streams.stopped() == "vaeprobe: stopped; no partial output was written"
    with keeping(path) as store:
        assert path.exists()
        assert streams.stopped() == f"vaeprobe: stopped; nothing was kept in {path} yet"
        store.add(b"k" * 32, (torch.zeros(1),), seconds=1.0)
        assert streams.stopped().endswith(f"goes on from what is kept in {path}")
    assert path.exists()
    # a run that keeps nothing leaves no file behind, nor takes one away
    with pytest.raises(UsageError), keeping(tmp_path / "other.kept"):
        raise UsageError("no such network")
    (tmp_path / "users.kept").touch()
    with keeping(tmp_path / "users.kept"):
        pass
    assert {file.name for file in tmp_path.iterdir()} == {"run.kept", "users.kept"}


COMMANDS = {
    "report": lambda f, **more: survey(f, samples=16, **more),
    "compare": lambda f, **more: compare([f, f], samples=16, rotations=9, **more),
    "traverse": lambda f, **more: traverse(f, samples=16, **more),
}


@pytest.mark.parametrize("name", [*COMMANDS, "orthogonality"])
def test_what_is_kept_has_one_suffix_everywhere(name: str, tmp_path: Path) -> None:
    command = COMMANDS.get(name, lambda f, **more: Orthogonality(samples=8, rotations=9, **more).measure(f))
    decoder = Decoder(Bent(), 3)
    with pytest.raises(UsageError, match=r"writes \.kept files, not `\.png`") as caught:
        command(decoder, resume=tmp_path / "a.png")
    assert caught.value.hint is not None
    named = caught.value.hint.removeprefix("name it `").removesuffix("`")
    assert named == str(tmp_path / "a.kept")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_an_interrupted_report_comparison_or_traversal_ends_with_the_document_of_a_whole_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["vaeprobe.overview.run"]
    monkeypatch.setattr(module, "_probes", lambda of_data=False: ["orthogonality"])
    f, path = Bent(), tmp_path / "run.kept"
    decoder, command = Decoder(f, 3), COMMANDS[name]
    command(decoder)
    f.calls = 0  # without those of choosing a method
    whole = document(command(decoder).page(), "json")
    took, f.calls = f.calls, 0
    f.until = took // 2 if name != "traverse" else took - 5
    with pytest.raises(KeyboardInterrupt):
        command(decoder, resume=path)
    f.calls, f.until = 0, float("inf")
    assert document(command(decoder, resume=path).page(), "json") == whole
    assert f.calls < 0.95 * took


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_moments_go_on_from_the_rows_that_were_summed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over two files, with folds and with float32 products that are checked: bit for bit what one pass gives."""
    monkeypatch.setattr(kept, "PERIOD", 0.0)
    monkeypatch.setattr(moments, "FLOAT64_WORK", 0.0)
    monkeypatch.setattr(moments, "BLOCK", 256)
    rng = np.random.default_rng(0)
    names = [tmp_path / f"{k}.npy" for k in range(2)]
    for name, count in zip(names, (1300, 900), strict=True):
        np.save(name, (3 + rng.standard_normal((count, 6))).astype(kind))
    probe = TrainLinear(latent_dim=2)
    blocks, until = [0], [1e9]
    real = Data.blocks

    def counted(self: Data, *a: Any, **more: Any) -> Iterator[Any]:
        for block in real(self, *a, **more):
            blocks[0] += 1
            if blocks[0] > until[0]:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(Data, "blocks", counted)
    for folds in (1, 5):
        data = open_data(list(names))
        whole = moments.accumulate(data, folds=folds)
        path = tmp_path / f"{folds}.kept"
        blocks[0], until[0] = 0, 1 + 7  # the first one for what is near the mean
        with keeping(path), pytest.raises(KeyboardInterrupt):
            moments.accumulate(data, folds=folds)
        blocks[0], until[0] = 0, 1e9
        with keeping(path):
            again = moments.accumulate(data, folds=folds)
        assert 0 < blocks[0] < 4
        for one, two in zip(whole, again, strict=True):
            assert one.n == two.n
            assert (one.slip is None) == (two.slip is None) == (kind == "float64" or one is not whole[0])
            for a, b in ((one.mean, two.mean), (one.scatter, two.scatter), (one.slip, two.slip)):
                assert a is b is None or np.array_equal(a, b)  # type: ignore[arg-type]
    plain = document(probe.measure(list(names)).page(), "json")
    resumed = replace(probe, resume=tmp_path / "run.kept")
    assert document(resumed.measure(list(names)).page(), "json") == plain
    blocks[0] = 0
    assert document(resumed.measure(list(names)).page(), "json") == plain
    saved = blocks[0]
    os.utime(names[1], ns=(1, 1))  # another file, perhaps
    blocks[0] = 0
    assert document(resumed.measure(list(names)).page(), "json") == plain
    assert blocks[0] > saved


def test_rows_that_no_time_was_left_for_are_summed_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read is an answer of its own: that of the first rows alone."""
    monkeypatch.setattr(moments, "BLOCK", 256)
    rows = np.random.default_rng(0).standard_normal((4096, 5)) * [5, 4, 3, 2, 1]
    np.save(tmp_path / "x.npy", rows)
    now = [100.0]
    monkeypatch.setattr(kept.time, "monotonic", lambda: now[0])
    real = Data.blocks

    def slow(self: Data, *a: Any, **more: Any) -> Iterator[Any]:
        for block in real(self, *a, **more):
            now[0] += 1.0
            yield block

    probe = TrainLinear(latent_dim=2, bootstrap=0)
    plain = document(probe.measure(tmp_path / "x.npy").page(), "json")
    monkeypatch.setattr(Data, "blocks", slow)
    resumed = replace(probe, resume=tmp_path / "run.kept")
    part = replace(resumed, time=10.0).measure(tmp_path / "x.npy")
    n = part.sigma2.n
    assert n == 6 * 256
    (said,) = [f.message for f in part.findings if f.code == "time-limit"]
    assert (
        said == f"the first {n} of 4096 rows were read in the time given; the same command goes on from them"
    )
    first = probe.measure(rows[:n])
    assert part.sigma2.value == pytest.approx(first.sigma2.value, rel=1e-12)
    before = now[0]
    assert document(resumed.measure(tmp_path / "x.npy").page(), "json") == plain
    assert now[0] - before == 10


def test_a_run_says_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, decoder = tmp_path / "a.kept", Decoder(Bent(), 3)
    with keeping(path) as store:
        gram(decoder, latents(2), chunk=1)
        going_on(store)
    assert capsys.readouterr().err == ""  # a new file
    path.write_bytes(path.read_bytes()[:-7])
    with keeping(path) as store:
        assert store is not None
        byte = store.broken[path]
        going_on(store)
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith(f"going on from {path}, which holds ")
    assert f"{path} cannot be read from byte {byte:,} on" in said
    with keeping(path) as store:
        going_on(store)
    assert "cannot be read" not in capsys.readouterr().err  # it was cut off


def test_a_file_that_is_removed_under_way_is_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.kept"
    with keeping(path) as store:
        assert store is not None
        assert store.add(b"a" * 32, piece(1.0), 1.0)
        path.unlink()
        assert not store.add(b"b" * 32, piece(2.0), 1.0)
        not_kept(store)
    assert (
        capsys.readouterr().err.split()
        == f"{path} does not hold all of this run: the file was removed".split()
    )
