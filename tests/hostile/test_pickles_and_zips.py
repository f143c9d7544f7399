"""Pickles and zip archives that would run code, lie, or unpack to too much.

Codes: 4 refused as unsafe, 5 unreadable, 6 resource limit.
"""

from __future__ import annotations

import argparse
import io
import pickle
import struct
import tarfile
import time
import zlib
from pathlib import Path

import pytest
import torch

import vaeprobe
from vaeprobe.checkpoints import said
from vaeprobe.files import torch_pickles

from hostile_files import (
    Calls,
    Touch,
    entries,
    nested_tuples,
    outcome,
    patch_zip,
    raw_pickle,
    refused,
    saved,
    state,
    with_pickle,
    zipped,
)


@pytest.mark.parametrize("protocol", range(6))
def test_os_system_in_a_raw_pickle(tmp_path: Path, protocol: int) -> None:
    message = refused(tmp_path, raw_pickle(Touch(tmp_path / "marker"), protocol), 4)
    assert "would call `posix.system`" in message or "would call `os.system`" in message


def test_exec_in_a_zip(tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'marker')!r}, 'w')"
    data = saved({**state(), "extra": Calls(exec, code)})
    assert "would call `builtins.exec`" in refused(tmp_path, data, 4)


def test_legacy_file(tmp_path: Path) -> None:
    data = saved({**state(), "extra": Touch(tmp_path / "marker")}, legacy=True)
    assert ".system`" in refused(tmp_path, data, 4)


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_payload_then_a_broken_tail(tmp_path: Path, cut: int) -> None:
    data = raw_pickle([Touch(tmp_path / "marker"), "x" * 30])[:-cut]
    assert ".system`" in refused(tmp_path, data, 4)


def test_importlib_and_getattr(tmp_path: Path) -> None:
    import importlib

    module = Calls(importlib.import_module, "os")
    system = Calls(getattr, module, "system")
    pickled = raw_pickle(system)
    message = refused(tmp_path, pickled, 4)
    assert "`importlib.import_module`" in message
    assert "`builtins.getattr`" in message


def test_numpy_runstring(tmp_path: Path) -> None:
    pickled = b"cnumpy.testing._private.utils\nrunstring\n(S'open(\"marker\", \"w\")'\nS'x'\ntR."
    assert "`numpy.testing._private.utils.runstring`" in refused(tmp_path, pickled, 4)


def test_nested_pickle(tmp_path: Path) -> None:
    inner = raw_pickle(Touch(tmp_path / "marker"))
    assert "`_pickle.loads`" in refused(tmp_path, raw_pickle(Calls(pickle.loads, inner)), 4)


def test_nested_in_a_storage_of_a_plain_pickle(tmp_path: Path) -> None:
    from torch.storage import _load_from_bytes

    inner = saved(Touch(tmp_path / "marker"), legacy=True)
    message = refused(tmp_path, raw_pickle({"w": Calls(_load_from_bytes, inner)}), 4)
    assert ".system`" in message


def test_bad_checksum_of_the_pickle(tmp_path: Path) -> None:
    data = patch_zip(with_pickle(raw_pickle(Touch(tmp_path / "marker"), 2)), "archive/data.pkl", crc=1)
    assert "checksum" in refused(tmp_path, data, 4)


def test_bad_checksum_of_numbers_is_damage(tmp_path: Path) -> None:
    data = patch_zip(saved(state()), "archive/data/0", crc=1)
    assert "do not match their checksum" in refused(tmp_path, data, 5)


def test_encrypted_flag(tmp_path: Path) -> None:
    data = patch_zip(saved(state()), "archive/data.pkl", flags=1)
    assert "encrypted" in refused(tmp_path, data, 5)


def test_two_data_pkl(tmp_path: Path) -> None:
    parts = list(entries(saved(state())).items())
    evil = raw_pickle(Touch(tmp_path / "marker"), 2)
    for order in ([*parts, ("archive/data.pkl", evil)], [("archive/data.pkl", evil), *parts]):
        assert "`archive/data.pkl` twice" in refused(tmp_path, zipped(order), 4)


def test_upper_case_data_pkl(tmp_path: Path) -> None:
    parts = entries(saved(state()))
    data = zipped({**parts, "archive/DATA.PKL": raw_pickle(Touch(tmp_path / "marker"), 2)})
    assert "`archive/DATA.PKL` beside `archive/data.pkl`" in refused(tmp_path, data, 4)


def test_two_roots(tmp_path: Path) -> None:
    data = zipped({**entries(saved(state())), "other/data.pkl": b"\x80\x02}."})
    assert "2 top folders" in refused(tmp_path, data, 5)


@pytest.mark.parametrize(
    "name",
    ["archive/../../marker", "/archive/x", "archive\\..\\x", "C:/x", "archive/a\x1bb", "archive/a\x00b"],
)
def test_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    data = zipped({**entries(saved(state())), "archive/PLACE": b""})
    place = b"archive/PLACE"
    if "\x00" in name:  # Python's writer cuts names there
        data = data.replace(place, b"archive/PL\x00CE")
    else:
        data = zipped({**entries(saved(state())), name: b"x"})
    refused(tmp_path, data, 4)


def test_pickle_and_zip_at_once(tmp_path: Path) -> None:
    benign = raw_pickle({"a": 1}, 2)
    assert "at once" in refused(tmp_path, benign + saved(state()), 4)
    assert "two readers" in refused(tmp_path, saved(state()) + benign, 4)
    assert "two readers" in refused(tmp_path, saved(state()) + saved({**state(), "x": torch.zeros(1)}), 4)


def test_legacy_file_and_zip_at_once(tmp_path: Path) -> None:
    assert "at once" in refused(tmp_path, saved(state(), legacy=True) + saved(state()), 4)


def test_tar_of_torch_0_1(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in {
            "pickle": raw_pickle(Touch(tmp_path / "marker"), 2),
            "storages": b"",
            "tensors": b"",
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert "tar archive" in refused(tmp_path, stream.getvalue(), 4)


@pytest.mark.parametrize("suffix", ["safetensors", "onnx", "npy", "json", "pt2", "h5"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_by_another_name(tmp_path: Path, suffix: str, protocol: int) -> None:
    data = raw_pickle(Touch(tmp_path / "marker"), protocol)
    assert ".system`" in refused(tmp_path, data, 4, name=f"model.{suffix}")


def test_deflated_bomb(tmp_path: Path) -> None:
    parts = entries(saved(state()))
    parts["archive/data/0"] = bytes(200_000_000)
    data = zipped(parts, deflated=("archive/data/0",))
    assert len(data) < 1_000_000
    assert "is compressed" in refused(tmp_path, data, 4)


@pytest.mark.parametrize(
    "body",
    [b"(" * 400_000, b"]" * 400_000 + b"a" * 399_999 + b".", b")" + b"\x85" * 400_000 + b"."],
    ids=["marks", "lists", "tuples"],
)
def test_deep_nesting(tmp_path: Path, body: bytes) -> None:
    for data in (b"\x80\x02" + body, with_pickle(b"\x80\x02" + body)):
        refused(tmp_path, data, 5)


def test_doubling_by_dup(tmp_path: Path) -> None:
    refused(tmp_path, nested_tuples(500), 5)


def test_doubling_as_a_dict_key(tmp_path: Path) -> None:
    # hashing the key would take 2^500 steps
    doubled = b")" + b"q\x00h\x00\x86" * 500
    refused(tmp_path, b"\x80\x02}" + doubled + b"K\x01s.", 5)
    refused(tmp_path, b"\x80\x02ccollections\nOrderedDict\n]" + doubled + b"K\x01\x86a\x85R.", 5)


def _with_numbers(**changes: object) -> bytes:
    """Return a torch zip with one tensor whose description lies."""
    lie = {"numel": 12, "offset": 0, "shape": (3, 4), "stride": (4, 1), **changes}

    class Storage:
        def __reduce__(self) -> tuple[object, ...]:
            raise AssertionError("written by persistent_id")

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return (
                ("storage", torch.FloatStorage, "0", "cpu", lie["numel"])
                if isinstance(obj, Storage)
                else None
            )

    rebuild = torch._utils._rebuild_tensor_v2
    stream = io.BytesIO()
    value = Calls(rebuild, Storage(), lie["offset"], lie["shape"], lie["stride"], False, {})
    Pickler(stream, 2).dump({"weight": value})
    return zipped(
        {"archive/data.pkl": stream.getvalue(), "archive/data/0": bytes(48), "archive/version": b"3\n"}
    )


def test_size_lie(tmp_path: Path) -> None:
    message = refused(tmp_path, _with_numbers(shape=(30, 4)), 5)
    assert "shape [30, 4] claims 480 bytes of a storage of 48" in message
    refused(tmp_path, _with_numbers(offset=1), 5)
    refused(tmp_path, _with_numbers(shape=(3, 1 << 61)), 5)
    refused(tmp_path, _with_numbers(shape=(-3, 4)), 5)
    refused(tmp_path, _with_numbers(stride=(-4, 1)), 5)
    refused(tmp_path, _with_numbers(shape=(0, 1 << 70)), 5)
    refused(tmp_path, _with_numbers(shape=(1, 4), stride=(1 << 70, 1)), 5)
    refused(tmp_path, _with_numbers(offset=1 << 70, shape=(0,), stride=(1,)), 5)


def test_size_lie_of_the_zip(tmp_path: Path) -> None:
    data = bytearray(saved(state()))
    central = data.rindex(b"PK\x01\x02")
    struct.pack_into("<II", data, central + 20, 1 << 30, 1 << 30)
    refused(tmp_path, bytes(data), 5)


def test_numel_lie(tmp_path: Path) -> None:
    assert "claims 1,000 numbers of float32 and holds 48 bytes" in refused(
        tmp_path, _with_numbers(numel=1000), 5
    )
    legacy = bytearray(saved({"w": torch.zeros(3)}, legacy=True))
    struct.pack_into("<q", legacy, len(legacy) - 20, 1 << 40)
    assert "bytes and 12 follow" in refused(tmp_path, bytes(legacy), 5)


def test_stride_0_claims_256_gb(tmp_path: Path) -> None:
    message = refused(tmp_path, _with_numbers(shape=(1 << 18, 1 << 18), stride=(0, 0)), 6)
    assert "repeats 48 bytes into 274,877,906,944" in message


def test_many_views_of_one_storage(tmp_path: Path) -> None:
    base = torch.zeros(1).expand(1 << 24)
    data = saved({f"w{k}": base for k in range(64)})
    assert "bytes and the file holds 4 of them" in refused(tmp_path, data, 6)


def test_lightning_checkpoint_with_a_namespace(tmp_path: Path) -> None:
    data = saved(
        {
            "state_dict": state(),
            "hyper_parameters": argparse.Namespace(lr=1e-3),
            "pytorch-lightning_version": "2.4.0",
        }
    )
    message = refused(tmp_path, data, 4)
    assert "would import `argparse.Namespace`" in message
    assert "`--key state_dict` reads that entry alone" in message


def test_a_training_checkpoint_with_a_namespace_names_entries_without_it(tmp_path: Path) -> None:
    parts = {
        "G_state": state(),
        "D_state": state(),
        "G_ema": state(),
        "optim_G": {"state": {0: {"m": torch.ones(2)}}},
    }
    message = refused(tmp_path, saved({"args": argparse.Namespace(lr=1e-3), **parts}), 4)
    assert "`--key G_ema` (or G_state, D_state) reads that entry alone" in message
    path = tmp_path / "model.pt"
    path.write_bytes(saved({"args": argparse.Namespace(lr=1e-3), **parts}))
    (tmp_path / "model.toml").write_text(
        'latents = 2\n[decoder]\nlayers = [{linear = "0"}, "relu", {linear = "2"}]\n'
    )
    assert vaeprobe.load(path, key="G_ema").latent_dim == 2


def test_the_way_on_that_the_hint_names(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(saved({"state_dict": state(), "hyper_parameters": argparse.Namespace(lr=1e-3)}))
    (tmp_path / "model.toml").write_text(
        'latents = 2\n[decoder]\nlayers = [{linear = "0"}, "tanh", {linear = "2"}]\n'
    )
    decoder = vaeprobe.load(path, key="state_dict")
    assert decoder.latent_dim == 2
    assert [n.code for n in decoder.notes] == ["unread-objects"]
    assert "`argparse.Namespace`" in decoder.notes[0].message


def test_code_made_to_run_is_refused_even_beside_a_chosen_key(tmp_path: Path) -> None:
    data = saved({"state_dict": state(), "extra": Touch(tmp_path / "marker")})
    assert ".system`" in refused(tmp_path, data, 4, key="state_dict")


def test_names_in_messages_carry_no_control_characters(tmp_path: Path) -> None:
    module, name = b"evil\x1b]0;title\x07", "a\x9b31m\u202eb".encode()
    text = [b"\x8c" + bytes([len(t)]) + t for t in (module, name)]
    message = refused(tmp_path, b"\x80\x04" + text[0] + text[1] + b"\x93)R.", 4)
    assert "`evil\\x1b]0;title\\x07.a\\x9b31m\\u202eb`" in message


def test_a_layer_that_would_make_a_huge_tensor(tmp_path: Path) -> None:
    bomb = torch.nn.Sequential(
        torch.nn.Linear(2, 16),
        torch.nn.Unflatten(1, (1, 4, 4)),
        torch.nn.Upsample(scale_factor=20_000),
        torch.nn.Flatten(),
    )
    assert "more than 1,073,741,824 numbers" in refused(tmp_path, saved(bomb), 6)


@pytest.mark.slow
def test_every_truncation_of_a_hostile_pickle(tmp_path: Path) -> None:
    data = raw_pickle({"a": [1, 2.0, "text"], "b": Touch(tmp_path / "marker")})
    for end in range(1, len(data)):
        path = tmp_path / "model.pkl"
        path.write_bytes(data[:end])
        with pytest.raises(vaeprobe.errors.VaeprobeError) as error:
            vaeprobe.load(path)
        assert error.value.exit_code in (4, 5)
    assert not (tmp_path / "marker").exists()


def test_entries_that_overlap(tmp_path: Path) -> None:
    """An entry inside the bytes of another: two readers could take different files from one archive."""
    from vaeprobe.errors import UnsafeError
    from vaeprobe.files.zips import directory

    def local(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(
                "<4s5H3I2H",
                b"PK\x03\x04",
                20,
                0,
                0,
                0,
                0,
                zlib.crc32(data),
                len(data),
                len(data),
                len(name),
                0,
            )
            + name
            + data
        )

    def central(name: bytes, data: bytes, at: int) -> bytes:
        head = struct.pack(
            "<4s6H3I5H2I",
            b"PK\x01\x02",
            20,
            20,
            0,
            0,
            0,
            0,
            zlib.crc32(data),
            len(data),
            len(data),
            len(name),
            0,
            0,
            0,
            0,
            0,
            at,
        )
        return head + name

    def archive(*places: int) -> bytes:
        inner = local(b"r/b", b"inner")
        outer = local(b"r/a", inner)
        records = (
            [central(b"r/a", inner, 0), central(b"r/b", b"inner", places[0])]
            if places
            else [central(b"r/a", inner, 0)]
        )
        body = outer + (local(b"r/b", b"inner") if places and places[0] >= len(outer) else b"")
        tail = b"".join(records)
        return (
            body
            + tail
            + struct.pack(
                "<4s4H2IH", b"PK\x05\x06", 0, 0, len(records), len(records), len(tail), len(body), 0
            )
        )

    size = len(local(b"r/a", local(b"r/b", b"inner")))
    assert [e.name for e in directory(archive())] == ["r/a"]
    assert [e.name for e in directory(archive(size))] == ["r/a", "r/b"]  # side by side
    with pytest.raises(UnsafeError):
        directory(archive(30 + 3))  # the second begins within the first


def shared_dicts(depth: int, first: int = 5000) -> bytes:
    """Return opcodes of dicts that each hold the one below under two names: 2^depth paths."""
    opcodes = b"}r" + struct.pack("<I", first)
    for k in range(first, first + depth):
        below = b"j" + struct.pack("<I", k)
        opcodes += b"0}r" + struct.pack("<I", k + 1) + b"(U\x01a" + below + b"U\x01b" + below + b"u"
    return opcodes


def with_entry(name: bytes, opcodes: bytes) -> bytes:
    """Return a state dict with one more entry."""
    (pickled,) = (d for n, d in entries(saved(dict(state()))).items() if n.endswith("data.pkl"))
    at = pickled.rindex(b"u.")  # where the items of the state dict end
    return with_pickle(pickled[:at] + b"U" + bytes([len(name)]) + name + opcodes + pickled[at:])


@pytest.mark.parametrize("name", [b"hparams", b"z"])
@pytest.mark.parametrize("depth", [22, 55])
def test_dicts_in_too_many_places_are_refused(tmp_path: Path, name: bytes, depth: int) -> None:
    assert "counting each wherever it is held" in refused(tmp_path, with_entry(name, shared_dicts(depth)), 5)


def test_a_few_dicts_in_several_places_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(with_entry(b"hparams", shared_dicts(10)))
    path.with_suffix(".toml").write_text(
        'latents = 2\n[decoder]\nlayers = [{ linear = "0" }, "tanh", { linear = "2" }]\n'
    )
    assert outcome(path) is None


def test_values_beside_the_weights_are_copied_so_many_and_no_more(tmp_path: Path) -> None:
    """What stands in a call's arguments is no container of weights, and is kept where it says what the network is."""
    doubled = b"K\x01\x85" + b"2\x86" * 22
    path = tmp_path / "model.pt"
    path.write_bytes(with_entry(b"hparams", b"ctorch\nSize\n" + doubled + b"\x85R"))
    file = torch_pickles.read(path.read_bytes(), "it", "torch zip")
    start = time.process_time()
    told = said.in_file(file)
    assert time.process_time() - start < 5
    assert list(told) == ["hparams"]
