"""One layer of a blueprint, the encoder made of such, and what they look like in TOML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from vaeprobe.checkpoints.blueprint.kinds import KINDS

__all__ = ["EncoderPlan", "LatentGroups", "Layer", "block", "toml_key", "toml_value"]

LatentGroups: TypeAlias = tuple[tuple[Literal["normal", "onehot"], int], ...]


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        kind: a key of `KINDS`.
        key: common part of its tensors' names, without the prefix, or the name of a condition; None for layers
            without either.
        options: settings that differ from the defaults.
        body, skip: layers of a residual block.
        branches: of layers side by side, each with its name; names are empty where the branches are joined to one.
        prefix: put before every name inside a residual block or branches.
        comment: written beside it in TOML; not part of its meaning.
    """

    kind: str
    key: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    body: tuple[Layer, ...] = ()
    skip: tuple[Layer, ...] = ()
    prefix: str = ""
    branches: tuple[tuple[str, tuple[Layer, ...]], ...] = ()
    comment: str = field(default="", compare=False)

    @property
    def inner(self) -> tuple[Layer, ...]:
        """Every layer inside it."""
        return (*self.body, *self.skip, *(layer for _, branch in self.branches for layer in branch))

    @property
    def named(self) -> bool:
        """Whether its branches are outputs by name, and not joined to one."""
        return bool(self.branches and self.branches[0][0])

    def __getitem__(self, option: str) -> Any:
        """Return a setting, or its default."""
        return self.options.get(option, KINDS[self.kind].options[option].default)

    @property
    def settings(self) -> dict[str, object]:
        """Every setting, defaults filled in."""
        return {name: self[name] for name in KINDS[self.kind].options}

    def with_options(self, **changes: object) -> Layer:
        """Return the layer with other settings."""
        merged = {**self.options, **changes}
        known = KINDS[self.kind].options
        return replace(
            self, options={k: merged[k] for k in known if merged.get(k, known[k].default) != known[k].default}
        )

    def to_toml(self) -> str:
        """Return the layer as one TOML value, without its comment."""
        kind = KINDS[self.kind]
        main = self.key if kind.weighted or kind.main == "condition" else self.options.get(kind.main or "")
        first = _inline(self.body) if kind.main == "layers" else toml_value(main)
        if kind.main == "branches":
            each = [f"{toml_key(k)} = {_inline(v)}" if self.named else _inline(v) for k, v in self.branches]
            first = f"{{ {', '.join(each)} }}" if self.named else f"[{', '.join(each)}]"
        parts = [f"{self.kind} = {first}"]
        parts += [f"{name} = {toml_value(v)}" for name, v in self.options.items() if name != kind.main]
        if self.skip:
            parts.append(f"skip = {_inline(self.skip)}")
        if self.prefix:
            parts.append(f"prefix = {toml_value(self.prefix)}")
        if main is None and not self.inner:
            return (
                toml_value(self.kind)
                if len(parts) == 1
                else f"{{ {', '.join([f'{self.kind} = true', *parts[1:]])} }}"
            )
        return f"{{ {', '.join(parts)} }}"

    def __str__(self) -> str:
        return self.to_toml()


@dataclass(frozen=True)
class EncoderPlan:
    """The encoder: a trunk, and how the posterior's mean and variance come out of it.

    Attributes:
        layers: the trunk.
        input: shape of one data row.
        output: "interleaved" or "chunked" where the trunk gives both, "heads" where `mean` and `spread` do.
        second: what the second output is: log_variance, log_sd, variance, sd, softplus_variance, softplus_sd.
        mean, spread: the heads.
        prefix: put before every tensor name.
        limits: what the second output is clamped to, where it is.
    """

    layers: tuple[Layer, ...]
    input: tuple[int, ...]
    output: Literal["interleaved", "chunked", "heads"] = "chunked"
    second: str = "log_variance"
    mean: tuple[Layer, ...] = ()
    spread: tuple[Layer, ...] = ()
    prefix: str = ""
    limits: tuple[float, float] | None = None


# -- TOML -----------------------------------------------------------------------------------------


def toml_value(value: object) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{k} = {toml_value(v)}' for k, v in value.items())} }}"
    return repr(value)


def toml_key(name: str) -> str:
    """Return a name as a TOML key, in quotation marks where it needs them."""
    bare = name and all(c.isascii() and (c.isalnum() or c in "_-") for c in name)
    return name if bare else toml_value(name)


def _inline(layers: Sequence[Layer]) -> str:
    return f"[{', '.join(layer.to_toml() for layer in layers)}]"


def block(name: str, layers: Sequence[Layer]) -> Iterator[str]:
    """Yield the lines of a list of layers: an activation stands beside the layer it follows."""
    yield f"{name} = ["
    line, comments = "", list[str]()
    for layer in layers:
        follows = (
            layer.key is None and not layer.inner and layer.kind not in ("reshape", "flatten", "upsample")
        )
        if line and not (follows and len(line) < 90):
            yield _commented(line, comments)
            line, comments = "", []
        line = f"{line} {layer.to_toml()}," if line else f"    {layer.to_toml()},"
        if layer.comment:
            comments.append(layer.comment)
    if line:
        yield _commented(line, comments)
    yield "]"


def _commented(line: str, comments: Sequence[str]) -> str:
    return f"{line}  # {'; '.join(comments)}" if comments else line
