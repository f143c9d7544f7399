"""The table of Keras layers and activations: what each computes on channels-last tensors, from its configuration and weights.

A row takes a `Layer` and returns what it computes, as a function of the layer's inputs and weights.  The activation
that a layer carries is a step of its own, so that the last one can come off.

Source: Keras 3.15, `keras/src/layers`, `keras/src/ops/nn.py`; where Keras 2 differs, the file's version decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from vaeprobe.checkpoints.programs.keras.settings import Settings
from vaeprobe.checkpoints.programs.operators import charge
from vaeprobe.errors import InputError, UnsafeError
from vaeprobe.files.source import quoted

__all__ = [
    "ACTIVATIONS",
    "IDENTITIES",
    "LAYERS",
    "Function",
    "KerasLayer",
    "activation_of",
    "charge",
    "layer_kind",
]


@dataclass(frozen=True)
class KerasLayer:
    """A layer of a file.

    Attributes:
        kind: its class.
        config: its settings.
        version: major version of Keras that wrote it.
        count: how many weights it has.
    """

    kind: str
    config: Settings
    version: int
    count: int = 0

    def unsupported(self, what: str) -> InputError:
        """Return the error that a form of the layer is not supported."""
        return InputError(
            f"{self.config.owner} ({self.kind}) is used {what}, which is not supported",
            hint="export the decoder to ONNX, or give its weights and a blueprint",
        )

    def sizes(self, name: str, n: int, default: int = 1) -> list[int]:
        """Return a setting with one number per axis."""
        out = [default] if self.config.get(name) is None else self.config.wholes(name)
        out = out * n if len(out) == 1 else out
        if len(out) != n or any(not 0 <= v <= 1 << 20 for v in out):
            raise InputError(f"the setting {quoted(name)} of a Keras {self.kind} is {out}")
        return out

    @property
    def channels_last(self) -> bool:
        return self.config.get("data_format") in ("channels_last", None)


Function = Callable[..., Tensor]
LAYERS: dict[str, Callable[[KerasLayer], Function]] = {}
# nothing happens in them outside training
IDENTITIES = {
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianNoise", "GaussianDropout", "AlphaDropout",
    "ActivityRegularization", "Identity", "InputLayer",
}  # fmt: skip


def layer_kind(*kinds: str) -> Callable[[Callable[[KerasLayer], Function]], Callable[[KerasLayer], Function]]:
    def add(row: Callable[[KerasLayer], Function]) -> Callable[[KerasLayer], Function]:
        LAYERS.update(dict.fromkeys(kinds, row))
        return row

    return add


def _hard_sigmoid_3(x: Tensor) -> Tensor:
    return F.relu6(x + 3) / 6


def _hard_sigmoid_2(x: Tensor) -> Tensor:
    return torch.clamp(0.2 * x + 0.5, 0.0, 1.0)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x, "relu": torch.relu, "relu6": F.relu6, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "softplus": F.softplus,
    "softsign": F.softsign, "elu": F.elu, "selu": F.selu, "celu": F.celu, "gelu": F.gelu, "silu": F.silu, "swish": F.silu, "mish": F.mish,
    "exponential": torch.exp, "softmax": lambda x: torch.softmax(x, -1), "log_softmax": lambda x: torch.log_softmax(x, -1),
    "hard_silu": F.hardswish, "hard_swish": F.hardswish, "tanh_shrink": F.tanhshrink, "log_sigmoid": F.logsigmoid,
}  # fmt: skip


def activation_of(value: object, version: int) -> tuple[str, Callable[[Tensor], Tensor]]:
    """Return the name of an activation, as programs call it ("exp" for `exponential`), and what it computes.

    Raises:
        InputError: it is not known.
        UnsafeError: it is code.
    """
    if isinstance(value, dict):
        kind, config = value.get("class_name"), value.get("config")
        if kind == "function" and isinstance(config, str):
            value = config
        elif kind in LAYERS and isinstance(config, dict):
            settings = Settings(config, f"the Keras activation {quoted(str(kind))}")
            return str(kind).lower(), LAYERS[kind](KerasLayer(str(kind), settings, version))
        elif kind == "__lambda__":
            raise UnsafeError("an activation of the Keras model is code")
        else:
            value = kind
    if value is None:
        value = "linear"
    if value == "leaky_relu":
        return "leaky_relu", partial(F.leaky_relu, negative_slope=0.2)
    if value == "hard_sigmoid":
        return "hard_sigmoid", _hard_sigmoid_3 if version >= 3 else _hard_sigmoid_2
    if value not in ACTIVATIONS:
        raise InputError(f"the Keras activation {quoted(str(value))} is not supported")
    return {"exponential": "exp"}.get(str(value), str(value)), ACTIVATIONS[str(value)]
