"""Which part of a torch file is the network: its weights by name, a whole module, or a bare matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from vaeprobe.checkpoints.naming import AVERAGE, Set, chosen_set, two_sets
from vaeprobe.errors import InputError, UnsafeError, UsageError, did_you_mean
from vaeprobe.files.inert import Built, Global, Named, Node, walk
from vaeprobe.files.source import quoted
from vaeprobe.files.tensors import TensorSpec
from vaeprobe.files.torch_pickles import TorchFile, text_of
from vaeprobe.files.trust import foreign, named
from vaeprobe.findings import CHOSEN_ENTRY, UNREAD_OBJECTS
from vaeprobe.report import Finding

__all__ = [
    "USUAL",
    "PickledModule",
    "Selection",
    "is_module",
    "module_at",
    "part",
    "select",
    "submodules",
    "tensors_of",
    "under_key",
]

# where training scripts put a model's weights, the likeliest first
USUAL = (
    *("state_dict", "model_state_dict", "net_state_dict", "netG_state_dict", "generator_state_dict"),
    *(
        "decoder_state_dict",
        "vae_state_dict",
        "model_state",
        "model",
        "net",
        "netG",
        "G",
        "generator",
        "vae",
        "weights",
    ),
    *("params", "module", "network", "ema", "model_ema"),
)
MAX_NESTING = 60


@dataclass(frozen=True)
class Selection:
    """The part of a file that was chosen.

    Attributes:
        node: the part.
        key: how it is reached from the root, "" for the root.
        notes: what else there was to choose from, and what was left unread.
    """

    node: Node
    key: str
    notes: tuple[Finding, ...] = ()


def select(file: TorchFile, name: str, key: str | None = None, which: Set | None = None) -> Selection:
    """Return the part of a file that holds the network; `name` is how messages call the file.

    Of weights and their averages over training in entries of their own, the averages are taken unless `which` is "raw".

    Raises:
        UnsafeError: the file, or with `key` that part of it, would import code.
        UsageError: there is no entry `key`.
        InputError: the file holds no tensors.
    """
    if key is not None:
        chosen = part(file, name, key)
        _refuse_foreign(file, chosen, name, key)
        unread = [g for g in foreign(file.globals) if g not in foreign(_globals(chosen))]
        return Selection(chosen, key, tuple(_unread(key, unread)))
    root = file.root
    beside = _beside_weights(file)
    if beside and isinstance(root, dict):
        return Selection(root[LIGHTNING], LIGHTNING, tuple(_unread(LIGHTNING, beside)))
    _refuse_foreign(file, root, name, None)
    if file.is_tensor(root) or is_module(root) or _holds_tensors(file, root):
        return Selection(root, "")
    found = dict(_entries(file, root))
    if not found:
        _refuse_nameless(file, name)
        held = ", ".join(quoted(k) for k in list(_table(root))[:6]) or quoted(type(root).__name__)
        raise InputError(
            f"{name} holds no tensors", hint=f"it holds {held}; is it the right file?", about=name
        )
    usual = [k for k in USUAL if k in found] or [k for k in found if k.rpartition(".")[2] in USUAL[:7]]
    if not usual and all(map(is_module, found.values())):
        usual = [k for k in ("decoder", "dec") if k in found]
    if len(found) == 1 or usual:
        best = usual[0] if usual else next(iter(found))
        return _averaged(file, found, best, which) or Selection(
            found[best], best, tuple(_others(best, found))
        )
    return Selection(root, "")  # encoder and decoder apart: their names become prefixes


def _refuse_nameless(file: TorchFile, name: str) -> None:
    """Refuse tensors in a list, which do not say to which layers they belong.

    Raises:
        InputError: the file holds some.
    """
    key, tensors = next(_lists(file, file.root), ("", []))
    if not tensors:
        return
    where = f" (entry {quoted(key)})" if key else ""
    shapes = [file.spec(t).shape for t in tensors[:4]]
    shown = ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)
    more = ", ..." if len(tensors) > len(shapes) else ""
    first = f"{key}." if key else ""
    matrix = next((i for i, shape in enumerate(shapes) if len(shape) == 2), None)
    alone = f"; of a linear decoder, `--key {first}{matrix}` takes the matrix" if matrix is not None else ""
    raise InputError(
        f"{name} holds a list{where} of {len(tensors)} tensor{'s' * (len(tensors) > 1)} ({shown}{more}), without the names of their layers",
        hint=f"save them by name: torch.save(model.state_dict(), path){alone}",
        about=name,
    )


def _lists(file: TorchFile, node: Node, path: str = "", depth: int = 0) -> Iterator[tuple[str, list[Node]]]:
    """Yield lists of tensors, and how each is reached."""
    if isinstance(node, (list, tuple)) and node and all(map(file.is_tensor, node)):
        yield path.removesuffix("."), list(node)
    elif depth < 3 and isinstance(node, (dict, list, tuple)):
        for k, value in _table(node).items():
            if not k.startswith("optimizer") and k not in ("state", "param_groups"):
                yield from _lists(file, value, f"{path}{k}.", depth + 1)


def _unread(key: str, unread: Sequence[Global]) -> Iterator[Finding]:
    if unread:
        message = f"entry {quoted(key)} was read alone; the rest of the file would import {named(unread)}"
        yield Finding(UNREAD_OBJECTS, message)


def _averaged(file: TorchFile, found: Mapping[str, Node], best: str, which: Set | None) -> Selection | None:
    """Return the weights with their averages over training, where these stand in an entry of their own."""
    state = {key: _by_plain_name(file, node) for key, node in found.items() if isinstance(node, dict)}
    averages = [key for key in state if any(AVERAGE.search(step) for step in key.split("."))]
    raws = [key for key in dict.fromkeys((best, *state)) if key in state and key not in averages]
    for average in averages:
        raw = next((key for key in raws if state[average] and set(state[average]) <= set(state[key])), None)
        if raw is None:
            continue
        taken, other = (raw, average) if which == "raw" else (average, raw)
        note = two_sets(
            f"entry {quoted(average)}", f"entry {quoted(raw)}", which or "ema", f"those of {quoted(other)}"
        )
        # buffers are not averaged: they come from the raw weights
        return Selection({**state[raw], **state[taken]}, taken, (note,))
    return None


def _by_plain_name(file: TorchFile, node: Mapping[Node, Node]) -> dict[str, Node]:
    """Return the tensors of a state dict without what training puts into their names."""
    own = [text_of(k) for k, v in node.items() if isinstance(k, str) and file.is_tensor(v)]
    names = chosen_set(own).names
    return {name: node[key] for name, key in names.items()}


def part(file: TorchFile, name: str, key: str) -> Node:
    """Return the entry of a file at a dotted path; names may contain dots themselves.

    Raises:
        UsageError: there is no such entry.
    """
    below = {k.removeprefix(f"{key}."): v for k, v in _table(file.root).items() if k.startswith(f"{key}.")}
    try:
        return _descend(file.root, key)
    except KeyError:
        if below:
            return below
        known = [k for k, _ in _entries(file, file.root)] or [text_of(k) for k in _table(file.root)]
        offered = f"entries: {', '.join(quoted(k) for k in known[:8])}" if known else "it has no entries"
        raise UsageError(
            f"{name} has no entry {quoted(key)}", hint=did_you_mean(key, known) or offered, about=name
        ) from None


def _descend(node: Node, key: str) -> Node:
    table = _table(node)
    if key in table:
        return table[key]
    for k, value in table.items():
        if isinstance(k, str) and key.startswith(f"{k}."):
            try:
                return _descend(value, key[len(k) + 1 :])
            except KeyError:
                continue
    raise KeyError(key)


def _table(node: Node) -> Mapping[str, Node]:
    """Return the entries of a container by name."""
    if isinstance(node, dict):
        return {text_of(k): v for k, v in node.items() if isinstance(k, (str, bytes, int))}
    if isinstance(node, (list, tuple)):
        return {str(k): v for k, v in enumerate(node)}
    if is_module(node):
        return {
            text_of(k): v
            for kind in ("_modules", "_parameters", "_buffers")
            for k, v in _part(node, kind).items()
        }
    return {}


def _holds_tensors(file: TorchFile, node: Node) -> bool:
    return isinstance(node, dict) and any(
        isinstance(k, str) and file.is_tensor(v) and not _is_text(v) for k, v in node.items()
    )


def _is_text(node: Built) -> bool:
    """Return whether an array holds texts or objects: names of genes, say, which are no weights."""
    parts = node.state if isinstance(node.state, tuple) else node.args
    dtype = next((p for p in parts if isinstance(p, Built) and p.by("numpy.dtype") and p.args), None)
    return dtype is not None and str(dtype.args[0])[:1] in "OUSV"


def _entries(file: TorchFile, node: Node, path: str = "", depth: int = 0) -> Iterator[tuple[str, Node]]:
    """Yield the parts that hold tensors by name, or are modules, at most three levels down."""
    for k, value in _table(node).items():
        if k.startswith("optimizer") or k in ("state", "param_groups", "hyper_parameters"):
            continue
        here = f"{path}{k}"
        if _holds_tensors(file, value) or is_module(value):
            yield here, value
        elif depth < 2 and isinstance(value, (dict, list, tuple)):
            yield from _entries(file, value, f"{here}.", depth + 1)


def _others(best: str, found: Mapping[str, Node]) -> Iterator[Finding]:
    rest = [quoted(k) for k in found if k != best]
    if rest:
        more = f" and {len(rest) - 4} more" if len(rest) > 4 else ""
        yield Finding(
            CHOSEN_ENTRY,
            f"the weights are entry {quoted(best)}; the file also holds {', '.join(rest[:4])}{more}",
            hint="choose another with --key",
        )


def under_key(
    specs: Mapping[str, TensorSpec], name: str, key: str | None
) -> tuple[dict[str, TensorSpec], bool]:
    """Return the tensors below a prefix of flat names, and whether the key names a single one (a matrix).

    Raises:
        UsageError: there are none.
    """
    if key is None or key in specs:
        return (dict(specs), False) if key is None else ({key: specs[key]}, True)
    below = {k.removeprefix(f"{key}."): v for k, v in specs.items() if k.startswith(f"{key}.")}
    if not below:
        families = dict.fromkeys(k.partition(".")[0] for k in specs)
        offered = f"entries: {', '.join(map(quoted, list(families)[:8]))}"
        raise UsageError(
            f"{name} has no entry {quoted(key)}",
            hint=did_you_mean(key, [*specs, *families]) or offered,
            about=name,
        )
    return below, False


# -- modules --------------------------------------------------------------------------------------


class PickledModule(Named):
    """A `Built` that `is_module` found to be a module."""

    state: dict[Node, Node]


def is_module(node: Node) -> TypeGuard[PickledModule]:
    """Return whether a value is a pickled `nn.Module`, of whatever class."""
    return (
        isinstance(node, Built)
        and node.new
        and isinstance(node.state, dict)
        and isinstance(node.state.get("_modules"), dict)
        and isinstance(node.maker, Global)
    )


def _part(module: PickledModule, kind: str) -> Mapping[Node, Node]:
    table = module.state.get(kind)
    return table if isinstance(table, dict) else {}


def module_at(root: PickledModule, path: str) -> PickledModule:
    """Return the submodule at a dotted path.

    Raises:
        UsageError: there is none.
    """
    node = root
    for step in path.split("."):
        child = _part(node, "_modules").get(step)
        if not is_module(child):
            known = [name for name, _ in submodules(root)]
            raise UsageError(
                f"the module has no part {quoted(path)}",
                hint=did_you_mean(path, known) or f"parts: {', '.join(quoted(k) for k in known[:8])}",
            )
        node = child
    return node


def submodules(
    module: PickledModule, prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, PickledModule]]:
    """Yield the named parts of a module, outermost first."""
    if depth > MAX_NESTING:
        raise InputError("the module is nested too deeply")
    for k, child in _part(module, "_modules").items():
        if is_module(child):
            yield f"{prefix}{text_of(k)}", child
            yield from submodules(child, f"{prefix}{text_of(k)}.", depth + 1)


def tensors_of(file: TorchFile, node: Node, prefix: str = "", depth: int = 0) -> dict[str, TensorSpec]:
    """Return the tensors of a state dict, of a module, or of several side by side, by dotted name.

    Raises:
        InputError: one of them is no dense tensor, or the part is nested too deeply.
    """
    if depth > MAX_NESTING:
        raise InputError("the checkpoint is nested too deeply")
    if file.is_tensor(node):
        return {prefix.removesuffix(".") or "matrix": file.spec(node)}
    out: dict[str, TensorSpec] = {}
    for k, value in _table(node).items():
        if file.is_tensor(value) and not _is_text(value):
            out[f"{prefix}{k}"] = file.spec(value)
        elif isinstance(value, dict) or is_module(value):
            out.update(tensors_of(file, value, f"{prefix}{k}.", depth + 1))
    return out


# -- what would be imported -------------------------------------------------------------------------

LIGHTNING = "state_dict"  # the entry of Lightning's weights


def _beside_weights(file: TorchFile) -> list[Global]:
    """Return the foreign names that a file of Lightning has in its settings and callbacks alone, none for another file.

    Lightning keeps the arguments of the network's class (networks, losses, configs of other packages) and the types of
    callbacks beside the weights.  These are left unread, as `--key state_dict` does, where they are types, objects that
    an unpickler makes without calling anything, and members of enumerations and other plain values of a class.  What
    else it would call, and an `argparse.Namespace` (which torch's own weights-only loader refuses by name, as we
    document), keep the file refused until somebody asks for the entry.
    """
    root = file.root
    unknown = foreign(file.globals)
    if not unknown or not isinstance(root, dict) or not isinstance(root.get(LIGHTNING), dict):
        return []
    if "pytorch-lightning_version" not in root or foreign(_globals(root[LIGHTNING])):
        return []
    # a partial application calls nothing yet
    called = {g for g in file.called & set(unknown) if str(g) != "functools.partial"}
    return [] if called or "argparse.Namespace" in map(str, unknown) else unknown


def _globals(node: Node) -> list[Global]:
    return list(dict.fromkeys(x for x in walk(node) if isinstance(x, Global)))


def _refuse_foreign(file: TorchFile, node: Node, name: str, key: str | None) -> None:
    """Refuse code that is no class of a module: such a class is never needed to read its weights."""
    names = foreign(file.globals if key is None else _globals(node))
    modules = {x.maker for x in walk(node) if is_module(x)}
    unknown = [g for g in names if g not in modules]
    if not unknown:
        return
    hint = _instead(unknown) or (
        "vaeprobe runs no code from a file: save the weights alone, torch.save(model.state_dict(), path)"
    )
    if key is None and not is_module(file.root):
        clean = {k: v for k, v in _entries(file, file.root) if not foreign(_globals(v))}
        usual = [k for k in clean if k in USUAL or k.rpartition(".")[2] in USUAL]
        others = [k for k, v in clean.items() if not k.startswith("optim") and tensors_of(file, v)]
        others.sort(key=lambda k: "ema" not in k.lower())  # the average, as where nothing is in the way
        if usual or others:
            best = next((k for k in USUAL if k in usual), (usual or others)[0])
            more = "" if usual or not others[1:] else f" (or {', '.join(others[1:4])})"
            hint = (
                f"vaeprobe runs no code from a file; `--key {best}`{more} reads that entry alone, without it"
            )
    raise UnsafeError(f"{name} would import {named(unknown)} when it is unpickled", hint=hint, about=name)


def _instead(unknown: Sequence[Global]) -> str | None:
    """Say what an object of a known library is, and how to give what it holds."""
    if any(g.module.split(".")[0] in ("sklearn", "xgboost", "lightgbm") for g in unknown):
        return (
            "this is a model of scikit-learn, not of torch: of a linear one, save the loadings,"
            " numpy.save(path, model.components_.T)"
        )
    if any(g.module.startswith("scipy.sparse") for g in unknown):
        return "this is a sparse matrix of scipy: save it dense, numpy.save(path, matrix.toarray())"
    if any(g.module.startswith("pandas") for g in unknown):
        return "this is a table of pandas: save its numbers, numpy.save(path, frame.to_numpy())"
    return None
