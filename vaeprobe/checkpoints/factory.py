"""`--arch package.module:factory`: the user's own code builds the network, and the file's weights go into it.

The one place where a load runs code, and it runs the user's, named on the command line or in the call, never the
file's.  A factory is one of

- a function (or a class) without required arguments that returns an `nn.Module`, or a `vaeprobe.Decoder`
  around one: the weights of the file are loaded into it, by name;
- a function of one required argument: it is given the path of the file, reads it as it likes, and returns an
  `nn.Module`, another callable, or a `vaeprobe.Decoder`.  Nothing is checked on the way.

`submodule` (--submodule) picks the part that decodes, a module or a method: `--submodule decode`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vaeprobe.errors import ArchitectureError, UsageError, VaeprobeError, did_you_mean
from vaeprobe.files.source import quoted
from vaeprobe.findings import UNUSED_TENSORS
from vaeprobe.report import Finding

__all__ = ["Method", "call", "find", "fill", "pick", "takes_path"]


class Method(nn.Module):
    """A method of a module, as a module: it has the parameters and the mode of the whole."""

    def __init__(self, owner: nn.Module, name: str) -> None:
        super().__init__()
        self.owner = owner
        self.name = name

    def forward(self, *args: Any) -> Any:
        """Call the method."""
        return getattr(self.owner, self.name)(*args)


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    """Let modules beside the user be found, as `python -m` does."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def find(arch: str) -> Callable[..., Any]:
    """Return the factory that `package.module:factory` or `path/to/file.py:factory` names.

    Raises:
        UsageError: the module cannot be imported, or has no such attribute.
    """
    where, colon, attribute = arch.rpartition(":")
    if not colon or not where or not attribute:
        raise UsageError(f"{quoted(arch)} names no factory", hint="write --arch package.module:factory")
    with _working_directory_importable():
        module = _file_module(Path(where)) if where.endswith(".py") else _package_module(where)
    found: Any = module
    for step in attribute.split("."):
        if not hasattr(found, step):
            known = [k for k, v in vars(found).items() if callable(v) and not k.startswith("_")]
            raise UsageError(f"{quoted(where)} has no {quoted(attribute)}", hint=did_you_mean(step, known))
        found = getattr(found, step)
    if not callable(found):
        raise UsageError(f"{quoted(arch)} is {type(found).__name__}, not a function or class")
    factory: Callable[..., Any] = found
    return factory


def _package_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"{quoted(name)} cannot be imported: {error}",
            hint="run in the folder that holds it, or install it; a file works too: --arch path/to/model.py:factory",
        ) from error
    except Exception as error:
        raise UsageError(f"importing {quoted(name)} raised {type(error).__name__}: {error}") from error


def _file_module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"vaeprobe_arch_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(f"there is no file {quoted(str(path))} to take an architecture from")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look the module up
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"running {quoted(str(path))} raised {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return module


def takes_path(factory: Callable[..., Any]) -> bool:
    """Return whether a factory reads the file itself: it has exactly one required argument.

    Raises:
        UsageError: it has more.
    """
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (ValueError, TypeError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p for p in parameters if p.default is inspect.Parameter.empty and p.kind not in variadic]
    if len(required) > 1 or any(p.kind not in positional for p in required):
        names = ", ".join(quoted(p.name) for p in required)
        raise UsageError(
            f"the factory needs the arguments {names}",
            hint="write one without arguments: def decoder(): return Decoder(latent_dim=10, ...)",
        )
    return bool(required)


def call(factory: Callable[..., Any], *args: Any) -> Any:
    """Call a factory; its own errors become a usage error that says so.

    Raises:
        UsageError: it raised.
        VaeprobeError: it raised one of those itself.
    """
    try:
        with _working_directory_importable():
            return factory(*args)
    except VaeprobeError:
        raise
    except Exception as error:
        name = getattr(factory, "__name__", "the factory")
        raise UsageError(f"{quoted(name)} raised {type(error).__name__}: {error}") from error


def pick(built: Any, submodule: str | None) -> Any:
    """Return the part of a network that decodes: a submodule, a method, or the whole.

    Raises:
        UsageError: there is no such part.
    """
    if submodule is None:
        return built
    found = built
    for step in submodule.split("."):
        owner = found
        found = getattr(owner, step, None)
        if found is None:
            known = [k for k in dir(owner) if not k.startswith("_") and callable(getattr(owner, k, None))]
            raise UsageError(f"the network has no part {quoted(submodule)}", hint=did_you_mean(step, known))
    if inspect.ismethod(found) and isinstance(found.__self__, nn.Module):
        return Method(found.__self__, found.__name__)
    return found


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[Finding, ...]:
    """Load weights into a module, every one of its tensors; return notes on what was left over.

    The file's names may have a common prefix before the module's (`module.`, `decoder.`).

    Raises:
        ArchitectureError: a tensor is missing or has another shape.
    """
    wanted = {k: v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    prefix = _prefix(wanted, tensors)
    _check_fit(wanted, tensors, prefix)
    mine = {k: tensors[f"{prefix}{k}"] for k in module.state_dict() if f"{prefix}{k}" in tensors}
    module.load_state_dict(mine, strict=False, assign=False)
    left = [
        k for k in tensors if k.removeprefix(prefix) not in mine and not k.endswith("num_batches_tracked")
    ]
    if not left:
        return ()
    message = f"{len(left)} of {len(tensors)} tensors have no place in the network: {quoted(left[0])}" + (
        ", ..." if len(left) > 1 else ""
    )
    return (Finding(UNUSED_TENSORS, message),)


def _prefix(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """Return the prefix under which most of the wanted names are found; the shortest of equals."""
    if not wanted:
        raise ArchitectureError(
            "the network that --arch builds has no weights", hint="does it return the module?"
        )
    first = next(iter(wanted))
    candidates = {k.removesuffix(name) for name in (first, *wanted) for k in tensors if k.endswith(name)}
    whole = {p for p in candidates if p == "" or p.endswith(".")} | {""}
    return max(whole, key=lambda p: (sum(f"{p}{k}" in tensors for k in wanted), -len(p)))


def _check_fit(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], prefix: str) -> None:
    missing = [k for k in wanted if f"{prefix}{k}" not in tensors]
    wrong = [k for k in wanted if k not in missing and tensors[f"{prefix}{k}"].shape != wanted[k].shape]
    if missing:
        name = missing[0]
        alike = [k for k, t in tensors.items() if t.shape == wanted[name].shape]
        near = did_you_mean(f"{prefix}{name}", alike) or did_you_mean(f"{prefix}{name}", tensors)
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ArchitectureError(
            f"the network wants the tensor {quoted(prefix + name)} of shape {_shape(wanted[name])}{more}, "
            f"which the file does not hold",
            hint=near or f"the file holds {', '.join(quoted(k) for k in list(tensors)[:4])}, ...",
        )
    if wrong:
        name = wrong[0]
        stored = tensors[f"{prefix}{name}"]
        more = f" (and {len(wrong) - 1} more tensors differ)" if len(wrong) > 1 else ""
        raise ArchitectureError(
            f"tensor {quoted(prefix + name)} has shape {_shape(stored)} in the file and {_shape(wanted[name])} in the"
            f" network{more}",
            hint=_nearest_fix(name, stored, wanted[name]),
        )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _nearest_fix(name: str, stored: Tensor, wanted: Tensor) -> str:
    """Say which size to change in the network."""
    layer = quoted(name.rpartition(".")[0] or name)
    if stored.ndim == wanted.ndim:
        axes = [k for k in range(stored.ndim) if stored.shape[k] != wanted.shape[k]]
        if stored.ndim >= 2 and sorted(stored.shape) == sorted(wanted.shape):
            return f"the sizes of {layer} are swapped: a transposed layer, or inputs and outputs exchanged?"
        changes = [f"{wanted.shape[k]} to {stored.shape[k]} (axis {k})" for k in axes]
        return f"change {layer} of the network: {', '.join(changes)}"
    return f"{layer} is another kind of layer in the file: {stored.ndim} axes, not {wanted.ndim}"
