"""Calls of layers and operations in a Keras file: which tensors each takes, in either form in which Keras writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from vaeprobe import cpu
from vaeprobe.checkpoints.programs.keras.saved import Entry
from vaeprobe.checkpoints.programs.keras.settings import damaged
from vaeprobe.checkpoints.programs.program import Value
from vaeprobe.errors import InputError
from vaeprobe.files.source import quoted

__all__ = ["Reference", "arguments", "is_operation", "references", "taken"]

# a tensor of a model: the layer that made it, in which of its calls, and which of what that call gave
Reference: TypeAlias = tuple[str, int, int]
HINT = "export the decoder to ONNX, or give its weights and a blueprint"


def reference(value: object) -> Reference:
    """Return the tensor that a list of a name and two places says.

    Raises:
        InputError: it is no such list.
    """
    match value:
        case [str(name), int(number), int(place), *_]:
            return name, number, place
    raise damaged()


def references(value: object) -> list[Reference]:
    """Return the tensors that `input_layers` or `output_layers` name: one, a list of them, or nested.

    Raises:
        InputError: they name none.
    """
    if isinstance(value, Mapping):
        value = list(value.values())
    match value:
        case [str(), *_]:
            value = [value]
        case list():
            pass
        case _:
            raise _nameless()
    try:
        return [reference(item) for item in value]
    except InputError:
        raise _nameless() from None


def _nameless() -> InputError:
    return InputError("the Keras model does not name its inputs and outputs")


def is_operation(entry: Entry) -> bool:
    """Return whether an entry of a model is an operation; in .h5, that it is no layer with a type shows it."""
    if "module" in entry.table:
        return str(entry.table["module"]).startswith(("keras.src.ops", "keras.ops"))
    if not all(isinstance(call, Mapping) for call in entry.calls or [None]):
        return False  # of Keras 2, which has none
    return not {"trainable", "dtype", "layers", "function"} & set(entry.settings)


def taken(call: object, entry: Entry) -> list[Reference]:
    """Return the tensors that a call takes.

    Raises:
        InputError: a layer is called with more than its inputs (a state to begin with, a mask), which would be left out.
    """
    if isinstance(call, Mapping):  # Keras 3
        return _taken_3(call, entry)
    if not isinstance(call, list):
        raise damaged()
    found = []
    for item in call:
        if not isinstance(item, list) or len(item) < 3:
            continue
        found.append(reference(item))
        more = item[3] if len(item) > 3 and isinstance(item[3], dict) else {}
        left = [k for k, v in more.items() if k != "training" and v not in (None, False)]
        if left:
            raise _called_with(entry, left[0])
    return found


def _taken_3(call: Mapping[str, object], entry: Entry) -> list[Reference]:
    found: list[Reference] = []
    more = _named(call)
    left = [k for k, v in more.items() if k not in ("inputs", "training") and v not in (None, False)]
    stack = [call.get("args", []), *(v for k, v in more.items() if k == "inputs")]
    while stack:
        match stack.pop(0):
            case {"class_name": "__keras_tensor__", "config": {"keras_history": history}}:
                found.append(reference(history))
            case list(items):
                stack = [*items, *stack]
            case None:
                pass
            case item:
                left.append(str(item))
    if left and not is_operation(entry):
        raise _called_with(entry, left[0])
    return found


def _named(call: Mapping[str, object]) -> Mapping[str, object]:
    """Return the named arguments of a call."""
    more = call.get("kwargs") or {}
    if not isinstance(more, Mapping):
        raise damaged()
    return more


def _called_with(entry: Entry, what: str) -> InputError:
    return InputError(
        f"the Keras layer {quoted(entry.name)} is called with {quoted(what)} beside its inputs, which is not supported",
        hint=HINT,
    )


def arguments(call: object, tensors: Mapping[Reference, Value]) -> list[object]:
    """Return the arguments of a call of an operation, with values for tensors.

    Raises:
        InputError: one is neither tensor, number, slice nor a list of these.
    """
    if not isinstance(call, Mapping):
        raise InputError("a call in the Keras model has no arguments that can be read")
    more = _named(call)
    if any(v is not None for v in more.values()):
        raise InputError(
            f"a call in the Keras model has the argument {quoted(str(next(iter(more))))}, which is not supported"
        )
    given = call.get("args", [])
    if not isinstance(given, list):
        raise damaged()
    return [_argument(item, tensors) for item in given]


def _argument(item: object, tensors: Mapping[Reference, Value]) -> object:
    match item:
        case None | bool() | int() | float():
            return item
        case list():
            return [_argument(part, tensors) for part in item]
        case {"class_name": "__keras_tensor__", "config": {"keras_history": history}}:
            found = reference(history)
            if found in tensors:
                return tensors[found]
        case {"class_name": "__slice__", "config": {} as bounds}:
            ends = [bounds.get(k) for k in ("start", "stop", "step")]
            if all(n is None or isinstance(n, int) for n in ends):
                return slice(*ends)
        case {"class_name": "__ellipsis__"}:
            return ...
        case {"class_name": "__numpy__" | "__tensor__", "config": {"value": value}}:
            return cpu.tensor(value)
    raise InputError("a call in the Keras model has a constant of a kind that is not supported")
