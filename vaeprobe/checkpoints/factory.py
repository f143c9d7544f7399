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
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from vaeprobe.errors import UsageError, VaeprobeError, did_you_mean
from vaeprobe.files.source import quoted
from vaeprobe.frozen import MethodModule

__all__ = [
    "arguments",
    "call",
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


class Settings(dict[str, object]):
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
