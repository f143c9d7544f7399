"""A module of a TorchScript archive as a module of torch, and the decoder that is cut out of a whole VAE."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaeprobe import cpu
from vaeprobe.checkpoints.programs import whole
from vaeprobe.checkpoints.programs.held import HeldInput
from vaeprobe.checkpoints.programs.inputs import UnsupportedError
from vaeprobe.checkpoints.programs.torchscript.archive import BoundFunction, ConstantTensor, Instance, Library
from vaeprobe.checkpoints.programs.torchscript.interpreter import BUDGET, Interpreter, leaves
from vaeprobe.checkpoints.weights import realise

__all__ = ["Cut", "Script"]


@dataclass(frozen=True)
class Cut:
    """Where the decoder of a whole VAE begins: the latents are put in the place of one operator's result, or a part of it.

    Attributes:
        call: which of the operators, in the order of a run.
        part: which of its results, None of one that returns one.
        data: shape of one row of what the program takes.
        row: shape of one row of latents.
    """

    call: int
    part: int | None
    data: tuple[int, ...]
    row: tuple[int, ...]

    @classmethod
    def at(cls, value: str, data: tuple[int, ...], row: tuple[int, ...]) -> Cut:
        """Return the cut at a value by its name in `Script.recorded`."""
        call, _, part = value.partition(".")
        return cls(int(call), int(part) if part else None, data, row)

    def of(self, out: object) -> object:
        """Return the latents of what the operator returned."""
        return out[self.part] if self.part is not None and isinstance(out, (tuple, list)) else out

    def put(self, latents: Tensor, out: object) -> object:
        """Return what the operator returned, with other latents in their place."""
        if self.part is None or not isinstance(out, (tuple, list)):
            return latents
        return type(out)(latents if i == self.part else other for i, other in enumerate(out))


@dataclass
class _Frozen:
    """Wraps what a copy of a module must share, not copy."""

    value: Instance

    def __deepcopy__(self, memo: object) -> _Frozen:
        return self


class Script(nn.Module):
    """A module of an archive, interpreted.

    Args:
        library: the archive's code.
        root: the module.
        tensors: by the name of their slot.
        row: shape of one input row; (-1,) for a vector of any length.
        without: return what goes into the last operator, where it is of this name.

    Attributes:
        cut: of a whole VAE, where its decoder begins.
        until: where to stop, and to return the latents in place of the output.
        noise: what normal draws give.
        others: what the inputs beside the first are held at, by name.
        refused: what it was found to use that is not supported.
    """

    def __init__(
        self,
        library: Library,
        root: Instance,
        tensors: Mapping[str, Tensor],
        row: tuple[int, ...] = (-1,),
        without: str | None = None,
    ) -> None:
        super().__init__()
        self.library = library
        self.root = _Frozen(root)
        self.row = row
        self.without = without
        self.steps = 0  # taken so far, over all calls
        self.cut: Cut | None = None
        self.until: Cut | None = None
        self.noise = 0.0
        self.others: dict[str, HeldInput] = {}
        self.refused: UnsupportedError | None = None
        self.names = {name: f"tensor_{i}" for i, name in enumerate(tensors)}
        for name, tensor in tensors.items():
            self.register_buffer(self.names[name], tensor)
        for i, constant in enumerate(library.constants):
            if isinstance(constant, ConstantTensor):
                self.register_buffer(
                    f"constant_{i}", next(iter(realise({"c": constant.spec}).tensors.values()))
                )
        self.eval()

    def forward(self, z: Tensor) -> object:
        """Return the outputs for latents of shape (n, latent)."""
        return self.run(z)[0]

    def run(self, z: Tensor) -> tuple[object, str | None]:
        """Return the outputs, and the name of the operator that made the first of them, if it is sigmoid or exp."""
        x = z.reshape(z.shape[0], *self.row) if self.row != (-1,) else z
        call = self._call(z.device)
        cut, latents = self.cut, z
        if cut is not None:
            latents = z.reshape(z.shape[0], *cut.row)
            x = torch.zeros(z.shape[0], *cut.data, dtype=z.dtype, device=z.device)

        def put(place: int, name: str, args: Sequence[object], out: object) -> object:
            if self.until is not None and place == self.until.call:
                raise _Reached(self.until.of(out))
            return cut.put(latents, out) if cut is not None and place == cut.call else out

        call.watch = put
        try:
            out = call.function(self._forward(), [x], self._beside(x))
        except _Reached as reached:
            return reached.value, None
        finally:
            self.steps += BUDGET - call.left
        first = out[0] if isinstance(out, (tuple, list)) and out else out
        if self.cut is not None:  # the other outputs are the encoder's
            out = first
        name, before = call.last.get(id(first), (None, None, None))[:2]
        if self.without is not None and name == self.without:
            return before, name
        return out, name

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of the module by name."""
        return {name.removeprefix("."): getattr(self, slot) for name, slot in self.names.items()}

    def recorded(self, x: Tensor) -> tuple[list[whole.Call], list[str], dict[str, Tensor]]:
        """Run the program once, and return its operators on tensors, the names of its outputs, and all values by name.

        A value is named by the place of the operator that returned it, "0" the first; "data" is the input.
        """
        call, record = self._call(x.device), _Record(x)
        call.watch = record.add
        try:
            out = call.function(self._forward(), [x], self._beside(x))
        finally:
            self.steps += BUDGET - call.left
        outputs = [record.names.get(id(v), "") for v in leaves([out])]
        return record.calls, outputs, record.values

    def _call(self, device: torch.device) -> Interpreter:
        tensors: dict[str, Tensor] = {name: getattr(self, slot) for name, slot in self.names.items()}
        constants = [
            getattr(self, f"constant_{i}") if isinstance(constant, ConstantTensor) else constant
            for i, constant in enumerate(self.library.constants)
        ]
        return Interpreter(self.library, tensors, constants, device, self.noise)

    def inputs_beside(self, optional: Collection[str]) -> list[str]:
        """Return the names of the inputs beside the first that it needs, and those of the optional ones."""
        code = self._forward().code.args
        needed = len(code.args) - len(code.defaults)
        names = [(p.arg, k < needed) for k, p in enumerate(code.args)][2:]  # after self and the first
        return [name for name, is_needed in names if is_needed or name in optional]

    def _beside(self, x: Tensor) -> dict[str, Tensor]:
        return {name: at(x) for name, at in self.others.items()}

    def _forward(self) -> BoundFunction:
        method = self.library.method(self.root.value.kind, "forward")
        assert method is not None
        return BoundFunction(method, self.root.value)

    def last_operator(self, d: int) -> str | None:
        """Return the name of the operator that makes the output, if it is sigmoid or exp."""
        dtype = next((b.dtype for b in self.buffers() if b.is_floating_point()), torch.float32)
        with torch.no_grad():
            return self.run(cpu.zeros(2, d, dtype=dtype))[1]


@dataclass
class _Reached(Exception):
    """The operator was reached whose result is wanted."""

    value: object


class _Record:
    """The operators of one run, by the places of their results."""

    def __init__(self, data: Tensor) -> None:
        self.calls: list[whole.Call] = []
        self.values: dict[str, Tensor] = {"data": data}  # kept alive, so that ids stay their own
        self.names: dict[int, str] = {id(data): "data"}

    def add(self, place: int, name: str, args: Sequence[object], out: object) -> object:
        """Note an operator, and return what it returned."""
        takes = tuple(self.names[id(a)] for a in leaves(args) if id(a) in self.names)
        parts = [part for part in leaves([out]) if isinstance(part, Tensor)]
        named = {(f"{place}.{i}" if part is not out else str(place)): part for i, part in enumerate(parts)}
        self.calls.append(whole.Call(takes, tuple(named), name in whole.DRAWS))
        self.values |= named
        self.names |= {id(part): key for key, part in named.items()}
        return out
