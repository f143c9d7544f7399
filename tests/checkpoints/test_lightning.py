"""Checkpoints of Lightning: weights beside the settings and callbacks of other packages."""

from __future__ import annotations

import enum
import functools
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sympy
import torch
from torch import Tensor, nn

import vaeprobe
from vaeprobe.checkpoints.formats import torch_file
from vaeprobe.errors import UnsafeError, UsageError
from vaeprobe.files.source import read_source

TOML = 'latents = 2\n[decoder]\nlayers = [{linear = "0"}, "tanh", {linear = "2"}]\n'


PACKAGE = "somebodys_package"


class AttributeDict(dict[str, Any]):
    """As Lightning keeps settings."""

    __module__ = PACKAGE


class Config:
    """As omegaconf keeps settings: nodes in `_content`, their values in `_val`."""

    __module__ = PACKAGE


class Mode(enum.Enum):
    __module__ = PACKAGE
    FAST = 1


class Text(str):
    __module__ = PACKAGE
    __slots__ = ()


class Point:
    __module__ = PACKAGE

    def __init__(self, x: int, name: str) -> None:
        self.x, self.name = x, name

    def __reduce__(self) -> tuple[Any, ...]:
        return Point, (self.x, self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.x == self.x

    def __hash__(self) -> int:
        return self.x


def made(x: object) -> object:
    return x


made.__module__ = PACKAGE


class Called:
    """Pickles as a call."""

    def __init__(self, maker: Callable[..., object], arguments: tuple[object, ...]) -> None:
        self.call = maker, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class ByGetattr:
    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (Mode, "FAST")


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the classes be those of packages that are not installed when the file is read."""
    module = ModuleType(PACKAGE)
    for kind in (AttributeDict, Config, Mode, Text, Point, made):
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, PACKAGE, module)


def weights() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (5, 2), "0.bias": (5,), "2.weight": (7, 5), "2.bias": (7,)}
    return {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}


def saved(folder: Path, **beside: object) -> Path:
    path = folder / "model.ckpt"
    torch.save({"state_dict": weights(), "pytorch-lightning_version": "2.4.0", "epoch": 3, **beside}, path)
    sys.modules.pop(PACKAGE)
    (folder / "model.toml").write_text(TOML)
    return path


def node(value: object) -> Config:
    out = Config()
    vars(out)["_val"] = value
    return out


def config() -> Config:
    out = Config()
    vars(out).update(_content={"latent_dim": node(2), "hidden": node(5)}, _metadata=None)
    return out


SETTINGS = {
    "a dictionary's class": lambda: {"hyper_parameters": AttributeDict(latent_dim=2, hidden=5)},
    "a config's class": lambda: {"hyper_parameters": config()},
    "an object among settings": lambda: {
        "hyper_parameters": {"latent_dim": 2, "hidden": 5, "encoder": Config()}
    },
    "the type of a callback": lambda: {
        "callbacks": {Config: {"best": 0.5}},
        "hyper_parameters": {"latent_dim": 2, "hidden": 5},
    },
    "an optimiser to be": lambda: {
        "hyper_parameters": {
            "latent_dim": 2,
            "hidden": 5,
            "optimizer": functools.partial(torch.optim.Adam, lr=1e-3),
        }
    },
}


@pytest.mark.parametrize("what", SETTINGS)
def test_weights_are_read_without_what_stands_beside_them(tmp_path: Path, what: str) -> None:
    path = saved(tmp_path, **SETTINGS[what]())
    decoder = vaeprobe.load(path)
    assert [note.code for note in decoder.notes] == ["unread-objects"]
    z = torch.randn(3, 2)
    w = weights()
    hidden = torch.tanh(z @ w["0.weight"].T + w["0.bias"])
    torch.testing.assert_close(decoder(z), hidden @ w["2.weight"].T + w["2.bias"])
    settings = torch_file.settings(read_source(path))
    assert {k: settings[k] for k in ("latent_dim", "hidden")} == {"latent_dim": 2, "hidden": 5}


def test_settings_of_other_packages_make_the_users_class(tmp_path: Path) -> None:
    class Net(nn.Sequential):
        def __init__(self, latent_dim: int, hidden: int) -> None:
            super().__init__(nn.Linear(latent_dim, hidden), nn.Tanh(), nn.Linear(hidden, 7))

    decoder = vaeprobe.load(saved(tmp_path, hyper_parameters=config()), arch=Net)
    assert decoder.latent_dim == 2


def test_a_layer_among_settings_is_no_second_network(tmp_path: Path) -> None:
    decoder = vaeprobe.load(saved(tmp_path, hyper_parameters={"act": nn.ReLU(), "loss": nn.MSELoss()}))
    assert decoder.notes == ()


@pytest.mark.parametrize("member", [Mode.FAST, Point(2, "x"), [{"deep": (Mode.FAST, "kept")}]])
def test_members_of_enumerations_and_plain_values_of_classes_are_read_as_such(
    tmp_path: Path, member: object
) -> None:
    path = saved(tmp_path, hyper_parameters={"latent_dim": 2, "mode": member})
    decoder = vaeprobe.load(path)
    assert [note.code for note in decoder.notes] == ["unread-objects"]
    assert PACKAGE in decoder.notes[0].message
    plain = {Mode.FAST: 1, Point(2, "x"): [2, "x"]} if not isinstance(member, list) else {}
    expected = [{"deep": [1, "kept"]}] if isinstance(member, list) else plain[member]
    assert torch_file.settings(read_source(path))["mode"] == expected


def test_members_written_by_name_are_their_name(tmp_path: Path) -> None:
    path = saved(
        tmp_path, hyper_parameters={"latent_dim": 2, "mode": ByGetattr()}
    )  # as Python 3.11 writes them
    assert [note.code for note in vaeprobe.load(path).notes] == ["unread-objects"]
    assert torch_file.settings(read_source(path))["mode"] == "FAST"


@pytest.mark.parametrize(
    ("maker", "arguments", "shown"),
    [
        (made, (1,), r"somebodys_package\.made"),  # a function
        (Mode, (torch.nn.ReLU(),), r"somebodys_package\.Mode"),  # not plain
        (Mode, (), r"somebodys_package\.Mode"),
        (getattr, (1, "real"), r"builtins\.getattr"),
        (getattr, (Mode, "__subclasses__"), r"builtins\.getattr"),
        (logging.FileHandler, ("x.log",), r"logging\.FileHandler"),  # a class of Python's writes a file
        (torch.nn.DataParallel, (1,), "torch"),
        (
            Mode,
            ("__import__('os').system('id')",),
            r"somebodys_package\.Mode",
        ),  # text that something may evaluate
        (Mode, ("../x",), r"somebodys_package\.Mode"),
        (sympy.Abs, ("x",), r"sympy\..*Abs"),  # evaluates it
    ],
)
def test_what_else_an_unpickler_would_call_stays_refused(
    tmp_path: Path, maker: Callable[..., object], arguments: tuple[object, ...], shown: str
) -> None:
    path = saved(tmp_path, hyper_parameters={"mode": Called(maker, arguments)})
    with pytest.raises(UnsafeError, match=f"would (import|call) .*{shown}") as caught:
        vaeprobe.load(path)
    assert "`--key state_dict` reads that entry alone" in str(caught.value.hint)
    assert vaeprobe.load(path, key="state_dict").latent_dim == 2


@pytest.mark.parametrize(("text", "code"), [("fast", None), ("__import__('os').system('id')", 4)])
def test_an_object_that_is_made_of_text_is_read_where_that_is_a_word(
    tmp_path: Path, text: str, code: int | None
) -> None:
    """`cls.__new__(cls, text)`, which some classes evaluate as `cls(text)` would."""
    path = saved(tmp_path, hyper_parameters={"latent_dim": 2, "mode": Text(text)})
    if code is None:
        assert [note.code for note in vaeprobe.load(path).notes] == ["unread-objects"]
    else:
        with pytest.raises(UnsafeError, match=r"would import `somebodys_package\.Text`"):
            vaeprobe.load(path)


def test_what_starts_processes_is_dangerous_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    psutil = ModuleType("psutil")
    popen = type("Popen", (), {"__module__": "psutil"})
    setattr(psutil, "Popen", popen)  # noqa: B010
    monkeypatch.setitem(sys.modules, "psutil", psutil)
    path = saved(tmp_path, hyper_parameters={"mode": Called(popen, ("id",))})
    with pytest.raises(UnsafeError, match=r"psutil\.Popen"):
        vaeprobe.load(path)


def test_foreign_objects_among_the_weights_stay_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {**weights(), "extra": Config()}, "pytorch-lightning_version": "2"}, path)
    with pytest.raises(UnsafeError, match=r"somebodys_package\.Config"):
        vaeprobe.load(path)


def test_files_of_others_stay_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": weights(), "config": Config()}, path)
    with pytest.raises(UnsafeError, match=r"somebodys_package\.Config"):
        vaeprobe.load(path)


class Sized(nn.Sequential):
    def __init__(self, latent_dim: int, hidden: int) -> None:
        super().__init__(nn.Linear(latent_dim, hidden), nn.Tanh(), nn.Linear(hidden, 7))


class ByKey(Sized):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config["latent_dim"], config.get("hidden", 5))


class ByAttribute(Sized):
    def __init__(self, args: Any) -> None:
        super().__init__(args.latent_dim, getattr(args, "hidden", 5))


class ByName(Sized):
    def __init__(self, **kwargs: Any) -> None:
        assert "epoch" not in kwargs
        super().__init__(kwargs["latent_dim"], kwargs["hidden"])


@pytest.mark.parametrize("arch", [Sized, ByKey, ByAttribute, ByName])
@pytest.mark.parametrize("entry", ["hyper_parameters", "config", "args"])
def test_settings_reach_the_class_in_the_way_that_it_takes_them(
    tmp_path: Path, arch: type[nn.Module], entry: str
) -> None:
    path = saved(tmp_path, **{entry: {"latent_dim": 2, "hidden": 5, "lr": 0.1}})
    assert vaeprobe.load(path, arch=arch).latent_dim == 2


@pytest.mark.parametrize("arch", [ByKey, ByAttribute])
def test_settings_within_settings_reach_the_class(tmp_path: Path, arch: type[nn.Module]) -> None:
    name = "config" if arch is ByKey else "args"
    path = saved(tmp_path, hyper_parameters={name: {"latent_dim": 2, "hidden": 5}, "lr": 0.1})
    assert vaeprobe.load(path, arch=arch).latent_dim == 2


@pytest.mark.parametrize("arch", [ByKey, ByAttribute])
def test_settings_that_the_checkpoint_does_not_say_are_named(tmp_path: Path, arch: type[nn.Module]) -> None:
    path = saved(tmp_path, hyper_parameters={"hidden": 5})
    with pytest.raises(UsageError, match="latent_dim"):
        vaeprobe.load(path, arch=arch)
