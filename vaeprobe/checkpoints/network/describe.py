"""From a network of known modules to the layers of a blueprint and their tensors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vaeprobe import cpu
from vaeprobe.checkpoints.blueprint import KINDS, Condition, Layer
from vaeprobe.checkpoints.network.modules import Held, Parallel, Residual
from vaeprobe.errors import BlueprintError

__all__ = ["conditions_of", "describe"]


def describe(
    module: nn.Module, prefix: str = "", name: str = ""
) -> tuple[tuple[Layer, ...], dict[str, Tensor]]:
    """Return the layers of a network of known modules, and its tensors by the names that the layers use.

    Args:
        module: an `nn.Sequential` (possibly nested) of modules that a blueprint knows, or one such module.
        prefix: put before every tensor's name, and not in the layers.
        name: put before every tensor's name, and in the layers.

    Raises:
        BlueprintError: a module is none that a blueprint knows.
    """
    tensors: dict[str, Tensor] = {}
    layers = tuple(_described(module, name, tensors))
    return layers, {f"{prefix}{key}": t for key, t in tensors.items()}


def _described(module: nn.Module, name: str, tensors: dict[str, Tensor]) -> Iterator[Layer]:
    if isinstance(module, nn.Sequential):
        for child, part in module._modules.items():  # named_children leaves out what comes twice
            if part is None:
                continue
            yield from _described(part, f"{name}.{child}" if name else child, tensors)
        return
    if isinstance(module, Residual):
        yield Layer(
            "residual",
            body=tuple(_described(module.body, f"{name}.body" if name else "body", tensors)),
            skip=tuple(_described(module.skip, f"{name}.skip" if name else "skip", tensors))
            if not isinstance(module.skip, nn.Identity)
            else (),
        )
        return
    if isinstance(module, Parallel):
        stem = f"{name}.branches" if name else "branches"
        made = [(k, tuple(_described(m, f"{stem}.{k}", tensors))) for k, m in module.branches.items()]
        joined = {"join": module.join} if module.join not in ("", "concat") else {}
        named = module.join == ""
        yield Layer("parallel", options=joined, branches=tuple((k if named else "", v) for k, v in made))
        return
    if isinstance(module, Held):
        if _condition(module).kind == "embedding":
            tensors[f"condition.{module.name}"] = module.table  # type: ignore[assignment]
        yield Layer(module.how, key=module.name)
        return
    found = _kind_of(module)
    if found is None or not all(KINDS[found[0]].options[k].check(v) for k, v in found[1].items()):
        raise BlueprintError(
            f"a blueprint has no layer for `{type(module).__name__}`"
            + (" with these settings" if found else ""),
            hint="convert to .pt2 instead, which takes any network that torch.export traces",
        )
    kind, options = found
    own = {k: t for k, t in module.state_dict().items() if k != "num_batches_tracked"}
    tensors.update({f"{name}.{k}" if name else k: t for k, t in own.items()})
    defaults = KINDS[kind].options
    kept = {k: v for k, v in options.items() if v != defaults[k].default}
    yield Layer(kind, key=name if KINDS[kind].weighted and own else None, options=kept)


def _kind_of(module: nn.Module) -> tuple[str, dict[str, object]] | None:
    """Return the kind and settings of a module, None where a blueprint has no such layer."""
    for name, kind in KINDS.items():
        settings = kind.settings_of(module)
        if settings is not None:
            return name, settings
    return None


def conditions_of(module: nn.Module, prefix: str = "") -> tuple[Condition, ...]:
    """Return what the decoder in a module is held at; `prefix` as in `describe`."""
    found = {m.name: _condition(m, prefix) for m in module.modules() if isinstance(m, Held)}
    return tuple(found.values())


def _condition(held: Held, prefix: str = "") -> Condition:
    table: Tensor = held.table  # type: ignore[assignment]
    if table.shape == (1, 1):
        return Condition(held.name, "number", value=float(table[0, 0]))
    if torch.equal(table, cpu.eye(len(table)).to(table)):
        return Condition(held.name, "onehot", len(table), value=held.row, chosen=True)
    key = f"{prefix}condition.{held.name}"
    return Condition(held.name, "embedding", key=key, value=held.row, chosen=True)
