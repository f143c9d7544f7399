"""Loading a decoder for a command: the options that say how, declared once for every command that loads one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaeprobe.cli import options

if TYPE_CHECKING:
    from vaeprobe.decoder import Decoder

# name -> (annotation, default)
LOADING: dict[str, tuple[object, object]] = {
    "blueprint": (options.BlueprintOption, None),
    "arch": (options.Arch, None),
    "arch_args": (options.ArchArgs, None),
    "key": (options.Key, None),
    "submodule": (options.Submodule, None),
    "weights": (options.WeightsOption, None),
    "output_name": (options.OutputName, None),
    "allow_code": (options.AllowCode, False),
    "latent_dim": (options.LatentDim, None),
    "latent_size": (options.LatentSize, None),
    "condition": (options.ConditionOption, None),
    "class_axis": (options.ClassAxis, None),
    "device": (options.Device, "cpu"),
    "dtype": (options.Dtype, None),
}


def load(
    path: Path | str,
    *,
    device: str = "cpu",
    output_name: str | None = None,
    condition: list[str] | None = None,
    **settings: Any,
) -> Decoder:
    """Load a decoder for a command (see `vaeprobe.load`)."""
    from vaeprobe.checkpoints import loading

    if str(Path.cwd()) not in sys.path and settings.get("arch"):
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: the user's own factory
    return loading.load(
        path,
        device=device,
        output=output_name,
        condition=options.conditions(condition),
        **settings,
    )


def check_device(name: str) -> None:
    """Refuse a device that is not here, before any model is looked at.

    Raises:
        UsageError: no such device.
    """
    if name != "cpu":  # which needs no torch to be known
        from vaeprobe.autograd import device_named

        device_named(name)


def chosen(values: Mapping[str, object]) -> dict[str, Any]:
    """Return those of a command's values that say how to load."""
    return {name: values[name] for name in LOADING if name in values}


def inputs(model: Path | str, values: Mapping[str, object]) -> list[str | Path]:
    """Return what a command on a model reads, for all that its options say: no output may be one of them."""
    from vaeprobe.checkpoints.architecture import path_beside

    named = [values.get(name) for name in ("data", "latents", "blueprint")]
    beside = path_beside(Path(model))
    return [model, *([beside] if beside else []), *(name for name in named if isinstance(name, str))]


def words(values: Mapping[str, object], defaults: Mapping[str, object]) -> list[str]:
    """Return options as on a command line, without those at their default."""
    said: list[str] = []
    for name, value in values.items():
        if value is None or value == defaults.get(name):
            continue
        flag = f"--{name.replace('_', '-')}"
        for one in value if isinstance(value, list) else [value]:
            said += [flag] if one is True else [flag, str(one)]
    return said
