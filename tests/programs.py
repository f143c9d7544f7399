"""Makers of self-contained programs, whole and tampered with."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from hostile_files import entries, zipped


def network() -> nn.Sequential:
    """Return a small decoder: two latents, 2 x 4 x 4 outputs in (0, 1)."""
    torch.manual_seed(0)
    layers = (
        nn.Linear(2, 8),
        nn.ReLU(),
        nn.Unflatten(1, (2, 2, 2)),
        nn.ConvTranspose2d(2, 2, 4, 2, 1),
        nn.Sigmoid(),
    )
    return nn.Sequential(*layers).eval().requires_grad_(False)


def exported(module: nn.Module, z: Tensor, *, dynamic: bool = True, **files: str) -> bytes:
    """Return what torch.export.save writes."""
    stream = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
        program = torch.export.export(module, (z,), dynamic_shapes=shapes)
        torch.export.save(program, stream, extra_files=files)
    return stream.getvalue()


@cache
def small_pt2() -> bytes:
    """Return `network` as a .pt2 of any batch size."""
    return exported(network(), torch.zeros(3, 2))


def scripted(module: nn.Module, z: Tensor | None = None) -> bytes:
    """Return what torch.jit.save writes: scripted, or traced on `z`."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.script(module) if z is None else torch.jit.trace(module, (z,))
        torch.jit.save(program, stream)
    return stream.getvalue()


@cache
def small_script() -> bytes:
    """Return `network` as TorchScript."""
    return scripted(network())


def with_graph(edit: Callable[[Any], None], data: bytes | None = None) -> bytes:
    """Return a .pt2 whose graph (`models/model.json`) was edited."""
    return with_json("models/model.json", edit, data)


def with_json(tail: str, edit: Callable[[Any], None], data: bytes | None = None) -> bytes:
    """Return a .pt2 of which one JSON entry was edited."""
    parts = entries(data or small_pt2())
    (name,) = (k for k in parts if k.endswith(tail))
    document = json.loads(parts[name])
    edit(document)
    return zipped({**parts, name: json.dumps(document).encode()})


def with_entry(tail: str, content: bytes, data: bytes | None = None) -> bytes:
    """Return an archive with one more entry, or another content of one."""
    parts = entries(data or small_pt2())
    root = next(iter(parts)).partition("/")[0]
    name = next((k for k in parts if k.endswith(tail)), f"{root}/{tail}")
    return zipped({**parts, name: content})


def with_code(old: str, new: str, data: bytes | None = None) -> bytes:
    """Return a TorchScript archive in whose code one text was replaced."""
    parts = entries(data or small_script())
    out = {k: v.replace(old.encode(), new.encode()) if k.endswith(".py") else v for k, v in parts.items()}
    assert out != parts, "nothing was replaced"
    return zipped(out)


def before_linear(*lines: str) -> bytes:
    """Return `network` as TorchScript, with more statements before its linear layer is applied."""
    text = "return torch.linear(input, weight, bias)"
    return with_code(text, "\n    ".join([*lines, text]))
