"""`--arch package.module:factory`: the user's own code builds the network, and the file's weights go into it.

The one place where a load runs code, and it runs the user's, named on the command line or in the call, never the
file's.  A factory is one of

- a class of `nn.Module`, or a function, that returns an `nn.Module` or a `vaeprobe.Decoder` around one: it is called
  with the arguments of `--arch-args`, and those of the checkpoint's hyper-parameters that it asks for by name; the
  weights of the file are loaded into it, by its own `load_state_dict`;
- a function of one required argument that nothing else gives a value: it is given the path of the file, reads it as it
  likes, and returns an `nn.Module`, another callable, or a `vaeprobe.Decoder`.  Nothing is checked on the way.

Of a whole VAE the parts that decode and encode are found (see `vaeprobe.checkpoints.whole`);
`submodule` (--submodule) picks the part that decodes, a module or a method: `--submodule decode`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vaeprobe.checkpoints.naming import SPLIT, bare, folded, joined
from vaeprobe.errors import ArchitectureError, UsageError, VaeprobeError, did_you_mean
from vaeprobe.files.source import quoted
from vaeprobe.findings import UNUSED_TENSORS
from vaeprobe.frozen import MethodModule
from vaeprobe.report import Finding

__all__ = [
    "arguments",
    "call",
    "fill",
    "find",
    "parse_arguments",
    "pick",
    "working_directory_importable",
]


@contextmanager
def working_directory_importable() -> Iterator[None]:
    """Let modules beside the user be found, as `python -m` does."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def find(arch: str) -> Callable[..., object]:
    """Return the factory that `package.module:factory` or `path/to/file.py:factory` names.

    Raises:
        UsageError: the module cannot be imported, or has no such attribute.
    """
    where, colon, attribute = arch.rpartition(":")
    if not colon or not where or not attribute:
        raise UsageError(f"{quoted(arch)} names no factory", hint="write --arch package.module:factory")
    with working_directory_importable():
        module = _file_module(Path(where)) if where.endswith(".py") else _package_module(where)
    found: object = module
    for step in attribute.split("."):
        if not hasattr(found, step):
            known = [k for k, v in vars(found).items() if callable(v) and not k.startswith("_")]
            raise UsageError(f"{quoted(where)} has no {quoted(attribute)}", hint=did_you_mean(step, known))
        found = getattr(found, step)
    if not callable(found):
        raise UsageError(f"{quoted(arch)} is {type(found).__name__}, not a function or class")
    factory: Callable[..., object] = found
    return factory


def _package_module(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"{quoted(name)} cannot be imported: {error}",
            hint="run in the folder that holds it, or install it; a file works too: --arch path/to/model.py:factory",
        ) from error
    except Exception as error:
        raise UsageError(f"importing {quoted(name)} raised {type(error).__name__}: {error}") from error


def _file_module(path: Path) -> object:
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


PATHS = ("path", "file", "filename", "filepath", "checkpoint", "ckpt", "weights", "source")


# arguments that are all settings in one
CONFIGS = (
    "config",
    "cfg",
    "conf",
    "args",
    "hparams",
    "hyper_parameters",
    "hyperparameters",
    "opt",
    "opts",
    "params",
    "settings",
)
# what a checkpoint counts, beside settings
COUNTS = ("epoch", "epochs", "global_step", "step", "iteration")


class Settings(dict[str, Any]):
    """Settings by key or attribute, whichever a network asks for: `config["latent_dim"]`, `args.latent_dim`."""

    def __init__(self, said: Mapping[str, object]) -> None:
        super().__init__({k: Settings(v) if isinstance(v, Mapping) else v for k, v in said.items()})

    def __getattr__(self, name: str) -> object:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the checkpoint says no {name!r}") from None


def arguments(
    factory: Callable[..., object], given: Mapping[str, object], settings: Mapping[str, object], path: Path
) -> tuple[dict[str, object], bool]:
    """Return the arguments to call a factory with, and whether it reads the file itself.

    Args:
        given: what the user said (`--arch-args`).
        settings: hyper-parameters of the checkpoint; those are taken that the factory asks for by name.
        path: the file.

    Raises:
        UsageError: it needs others, or does not take what was given.
    """
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (ValueError, TypeError):
        return dict(given), False
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [p.name for p in parameters if p.kind not in variadic]
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    wrong = next((name for name in given if name not in names and not open_ended), None)
    if wrong is not None:
        raise UsageError(
            f"{quoted(_name(factory))} takes no argument {quoted(wrong)}",
            hint=did_you_mean(wrong, names) or f"it takes {', '.join(map(quoted, names)) or 'none'}",
        )
    said = {name: settings[name] for name in names if name in settings}
    found = {k: Settings(v) if isinstance(v, Mapping) else v for k, v in said.items()} | dict(given)
    required = [p for p in parameters if p.default is inspect.Parameter.empty and p.kind not in variadic]
    if open_ended and not names:  # it says itself what it takes of them, as Lightning's classes do
        found = {k: v for k, v in settings.items() if k.isidentifier() and k not in COUNTS} | found
    missing = [p.name for p in required if p.name not in found]
    if settings and len(missing) == 1 and missing[0] in CONFIGS:
        found[missing[0]] = Settings(settings)
        missing = []
    first = required[0] if required else None
    positional = first is not None and first.kind is not inspect.Parameter.KEYWORD_ONLY
    is_class = isinstance(factory, type) and issubclass(factory, nn.Module)
    reads = len(missing) == 1 and positional and not is_class and (not found or missing[0] in PATHS)
    if reads:
        return {**found, missing[0]: path}, True
    if missing:
        more = f" (the checkpoint says {', '.join(map(quoted, found))})" if found else ""
        raise UsageError(
            f"the factory needs the arguments {', '.join(map(quoted, missing))}{more}",
            hint=f"give them, --arch-args {missing[0]}=..., or write one without arguments: def decoder(): return"
            f" {_name(factory)}({missing[0]}=..., ...)",
        )
    return found, False


def parse_arguments(text: str) -> dict[str, object]:
    """Return arguments from text: `latent_dim=10, hidden=[32, 64]`, values as Python literals or words.

    Raises:
        UsageError: it is none.
    """
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        assert isinstance(call, ast.Call)
        if not isinstance(call.func, ast.Name) or call.args or any(k.arg is None for k in call.keywords):
            raise ValueError
        return {str(k.arg): _literal(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, AssertionError):
        raise UsageError(
            f"{quoted(text)} are no arguments", hint='write them as "latent_dim=10, hidden=[32, 64]"'
        ) from None


def _literal(node: ast.expr) -> object:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def _name(factory: Callable[..., object]) -> str:
    return str(getattr(factory, "__name__", "the factory"))


def call(factory: Callable[..., object], **arguments: object) -> object:
    """Call a factory; its own errors become a usage error that says so.

    Raises:
        UsageError: it raised.
        VaeprobeError: it raised one of those itself.
    """
    try:
        with working_directory_importable():
            return factory(**arguments)
    except VaeprobeError:
        raise
    except Exception as error:
        name = getattr(factory, "__name__", "the factory")
        raise UsageError(f"{quoted(name)} raised {type(error).__name__}: {error}") from error


def pick(built: object, submodule: str | None) -> Any:
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
        return MethodModule(found.__self__, found.__name__)
    return found


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[Finding, ...]:
    """Load weights into a module by its own `load_state_dict`, every one of its tensors; return notes on leftovers.

    The file's names may have a common prefix before the module's (`module.`, `decoder.`), and weight normalisation may
    be in another form than the module's, or in one of the two only.

    Raises:
        ArchitectureError: a tensor is missing or has another shape.
    """
    wanted = {k: v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    # wrappers of training may be on either side: names are compared without them
    own = {bare(name): name for name in module.state_dict()}
    if len(own) == len(module.state_dict()) and len({bare(k) for k in tensors}) == len(tensors):
        tensors = {bare(k): t for k, t in tensors.items()}
    else:
        own = {name: name for name in module.state_dict()}
    prefix = _prefix({k: wanted[name] for k, name in own.items() if name in wanted}, tensors)
    below = {
        own.get(k.removeprefix(prefix), k.removeprefix(prefix)): t
        for k, t in tensors.items()
        if k.startswith(prefix)
    }
    mine = as_normalised(wanted, below)
    missing, surplus = _loaded(module, mine)
    missing = [k for k in missing if k in wanted]
    if missing:
        _check_fit(wanted, {**tensors, **{f"{prefix}{k}": t for k, t in mine.items()}}, prefix)
        raise ArchitectureError(
            f"the network wants the tensor {quoted(prefix + missing[0])}, which the file does not hold"
        )
    inside = {k for k in tensors if k.startswith(prefix)}
    left = [*(f"{prefix}{k}" for k in surplus), *(k for k in tensors if k not in inside)]
    left = [k for k in left if not k.endswith("num_batches_tracked")]
    if not left:
        return ()
    message = f"{len(left)} of {len(tensors)} tensors have no place in the network: {quoted(left[0])}" + (
        ", ..." if len(left) > 1 else ""
    )
    return (Finding(UNUSED_TENSORS, message),)


def _loaded(module: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Load by torch's own loader, hooks of the network included; return what was missing and what was left over.

    Raises:
        ArchitectureError: a tensor has another shape, or a hook of the network refuses the tensors.
    """
    try:
        missing, surplus = module.load_state_dict(dict(tensors), strict=False)
    except Exception as error:  # of torch, or of the user's own hooks
        wanted = module.state_dict()
        _check_fit({k: v for k, v in wanted.items() if k in tensors}, tensors, "")
        raise ArchitectureError(
            f"the network does not load the weights: {(str(error).splitlines() or [''])[-1].strip()}"
        ) from error
    return list(missing), list(surplus)


def as_normalised(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with each weight split by weight normalisation, or whole, as the network has it."""
    plain = folded(tensors, joined)
    out = dict(tensors)
    for v_name, g_name in SPLIT:
        for name in wanted:
            stem = name.removesuffix(v_name)
            if stem == name or f"{stem}{g_name}" not in wanted or name in tensors:
                continue
            for other_v, other_g in SPLIT:
                if f"{stem}{other_v}" in tensors and f"{stem}{other_g}" in tensors:
                    out[name], out[f"{stem}{g_name}"] = (
                        out.pop(f"{stem}{other_v}"),
                        out.pop(f"{stem}{other_g}"),
                    )
                    break
            else:
                if f"{stem}weight" in tensors:
                    v, g = out.pop(f"{stem}weight"), wanted[f"{stem}{g_name}"]
                    axes = [k for k in range(v.ndim) if g.ndim == v.ndim and g.shape[k] == 1]
                    length = v.square().sum(dim=axes, keepdim=True).sqrt()  # `norm` takes one or two axes
                    out[name], out[f"{stem}{g_name}"] = v, length.reshape(g.shape)
    for name in wanted:
        if name not in out and name in plain:
            stem = name.removesuffix("weight")
            out = {
                k: t for k, t in out.items() if not any(k in (f"{stem}{v}", f"{stem}{g}") for v, g in SPLIT)
            }
            out[name] = plain[name]
    return out


DECODES = re.compile(r"(^|[._])(dec|decoder|generator|gen|netG|G)\.", re.IGNORECASE)


def _prefix(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """Return the prefix under which most of the wanted names are found; of equals that which fits, or names a decoder.

    Raises:
        ArchitectureError: several are as likely, or nothing is wanted.
    """
    if not wanted:
        raise ArchitectureError(
            "the network that --arch builds has no weights", hint="does it return the module?"
        )
    first = next(iter(wanted))
    candidates = {k.removesuffix(name) for name in (first, *wanted) for k in tensors if k.endswith(name)}
    whole = {p for p in candidates if p == "" or p.endswith(".")} | {""}
    found = {p: sum(f"{p}{k}" in tensors for k in wanted) for p in whole}
    best = [p for p in whole if found[p] == max(found.values())]
    if len(best) > 1 and "" not in best and max(found.values()):
        fits = {
            p: sum(tensors[f"{p}{k}"].shape == t.shape for k, t in wanted.items() if f"{p}{k}" in tensors)
            for p in best
        }
        best = [p for p in best if fits[p] == max(fits.values())]
        decoders = [p for p in best if DECODES.search(p)]
        best = decoders if len(decoders) == 1 else best
        if len(best) > 1:
            names = sorted(p.removesuffix(".") for p in best)
            raise ArchitectureError(
                f"the tensors of the network stand {len(best)} times in the file, under {' and '.join(map(quoted, names))}",
                hint=f"--key {names[0]} takes the first",
            )
    return min(best, key=len)


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
