"""Pickles, read without unpickling.

A pickle is a program for a stack machine that imports names and calls them.  `interpret` runs that program
with every import and call left undone: it returns the containers and scalars as they are, and in the place of each imported
name, call and object an inert record of it (`Global`, `Built`).  What is checked is therefore what is
loaded, there is no second parser to disagree with, and nothing in this module can execute anything.

Source: Python's `Lib/pickletools.py`, which documents each opcode.
"""

from __future__ import annotations

import io
import pickletools
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from vaeprobe.errors import InputError, ResourceError
from vaeprobe.files.source import quoted

__all__ = ["Built", "Global", "Persistent", "Pickle", "PickleError", "interpret", "walk"]

# Some: any value below, tuple, list, dict, scalar, Global, Built or Persistent
Node: TypeAlias = Any

MAX_OPCODES = 3_000_000
MAX_DEPTH = 1_000
MAX_STACK = 100_000  # pickle.dump writes dicts and lists in batches of a thousand


class PickleError(InputError):
    """A pickle is damaged.

    Args:
        globals: the names it had asked for until there.
    """

    def __init__(self, message: str, globals: tuple[Global, ...]) -> None:
        super().__init__(message, hint="the file is truncated or damaged: fetch it again")
        self.globals = globals


@dataclass(frozen=True, slots=True)
class Global:
    """A name that a pickle asks to import."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """A reference to something outside the pickle: in torch files, a storage."""

    id: Node


@dataclass(slots=True, eq=False)
class Built:
    """What a pickle would have made by a call.

    Attributes:
        maker: the function or class, as a rule a `Global`.
        args: positional arguments.
        new: an object made by `maker.__new__(maker, *args)`, not by calling `maker(*args)`.
        state: what it would be given by `__setstate__` or into `__dict__`.
        items: what would be appended or added to it.
        pairs: keys and values that would be set in it.
    """

    maker: Node
    args: tuple[Node, ...] = ()
    new: bool = False
    state: Node = None
    items: list[Node] = field(default_factory=list)
    pairs: list[tuple[Node, Node]] = field(default_factory=list)

    def by(self, path: str) -> bool:
        """Return whether `maker` is the global of that dotted path."""
        return isinstance(self.maker, Global) and str(self.maker) == path


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """A key of a dict that is neither a number nor text: compared by identity, never hashed into."""

    value: Node


@dataclass(frozen=True, slots=True)
class Pickle:
    """A pickle that was read to its end.

    Attributes:
        root: what it holds, inert.
        globals: every name it would import, in order, once each.
        calls: every call it would make.
        persistent: every reference to something outside it.
        end: offset of the first byte after it.
    """

    root: Node
    globals: tuple[Global, ...]
    calls: tuple[Built, ...]
    persistent: tuple[Persistent, ...]
    end: int


ARGUMENT_IS_VALUE = {
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TABLES = {"collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict"}
RECONSTRUCTOR = "copyreg._reconstructor"
NEWOBJ = {"copyreg.__newobj__", "copyreg.__newobj_ex__"}


def interpret(data: bytes, start: int = 0) -> Pickle:
    """Read the pickle that begins at `start`.

    Raises:
        PickleError: it is damaged, truncated, or nested too deeply.
        ResourceError: it has over three million instructions.
    """
    machine = _Machine()
    stream = io.BytesIO(data)
    stream.seek(start)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in text
            for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                machine.step(opcode.name, argument)
                if len(machine.stack) > MAX_STACK:
                    raise ValueError(f"over {MAX_STACK:,} values wait on its stack")
                if count >= MAX_OPCODES:
                    raise ResourceError(
                        f"the pickle has over {MAX_OPCODES:,} instructions", hint="save the weights alone"
                    )
        root = machine.stack.pop()
    except VALUE_ERRORS as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise PickleError(
            f"the pickle is damaged at byte {stream.tell():,}: {quoted(text)}", machine.seen()
        ) from None
    return Pickle(root, machine.seen(), tuple(machine.calls), tuple(machine.persistent), stream.tell())


# what pickletools and the machine raise on nonsense
VALUE_ERRORS = (ValueError, IndexError, KeyError, TypeError, AttributeError, EOFError, OverflowError)


class _Machine:
    """The stack machine of a pickle, its imports and calls left undone."""

    def __init__(self) -> None:
        self.stack: list[Node] = []
        self.marks: list[list[Node]] = []
        self.memo: dict[int, Node] = {}
        self.globals: dict[Global, None] = {}
        self.calls: list[Built] = []
        self.persistent: list[Persistent] = []
        self.protocol = 0

    def seen(self) -> tuple[Global, ...]:
        return tuple(self.globals)

    def step(self, op: str, argument: Any) -> None:
        """Run one instruction."""
        stack = self.stack
        if op in ARGUMENT_IS_VALUE:
            stack.append(argument)
        elif op in CONSTANTS:
            stack.append(CONSTANTS[op])
        elif op in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[int(argument)] = stack[-1]
        elif op == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif op in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[int(argument)])
        else:
            METHODS[op](self, argument)

    def unknown(self, argument: Any) -> None:
        raise ValueError("an instruction that no checkpoint needs")

    # -- the stack ---------------------------------------------------------------------------------

    def op_proto(self, argument: int) -> None:
        self.protocol = argument

    def op_frame(self, argument: int) -> None:
        pass

    def op_stop(self, argument: None) -> None:
        if len(self.stack) != 1 or self.marks:
            raise ValueError("values are left over at the end")

    def op_mark(self, argument: None) -> None:
        if len(self.marks) >= MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        self.marks.append(self.stack)
        self.stack = []

    def items(self) -> list[Node]:
        """Return what was pushed since the last mark, and go back to the stack below it."""
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def op_pop(self, argument: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.items()

    def op_pop_mark(self, argument: None) -> None:
        self.items()

    def op_dup(self, argument: None) -> None:
        self.stack.append(self.stack[-1])

    # -- containers --------------------------------------------------------------------------------

    def op_empty_list(self, argument: None) -> None:
        self.stack.append([])

    def op_empty_dict(self, argument: None) -> None:
        self.stack.append({})

    def op_empty_set(self, argument: None) -> None:
        self.stack.append(Built(Global("builtins", "set")))

    def op_tuple(self, argument: None) -> None:
        items = self.items()
        self.stack.append(tuple(items))

    def op_tuple1(self, argument: None) -> None:
        self.stack.append((self.stack.pop(),))

    def op_tuple2(self, argument: None) -> None:
        self.stack.append(tuple(self.take(2)))

    def op_tuple3(self, argument: None) -> None:
        self.stack.append(tuple(self.take(3)))

    def take(self, count: int) -> list[Node]:
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def op_list(self, argument: None) -> None:
        items = self.items()
        self.stack.append(items)

    def op_dict(self, argument: None) -> None:
        items = self.items()
        table: dict[Node, Node] = {}
        _set_items(table, items)
        self.stack.append(table)

    def op_frozenset(self, argument: None) -> None:
        items = self.items()
        self.stack.append(Built(Global("builtins", "frozenset"), (items,)))

    def op_append(self, argument: None) -> None:
        self.extend([self.stack.pop()])

    def op_appends(self, argument: None) -> None:
        self.extend(self.items())

    op_additems = op_appends

    def extend(self, items: list[Node]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, Built):
            target.items.extend(items)
        else:
            raise TypeError("appends to something that is no list")

    def op_setitem(self, argument: None) -> None:
        _set_items(self.stack[-3], self.take(2))

    def op_setitems(self, argument: None) -> None:
        items = self.items()
        _set_items(self.stack[-1], items)

    # -- imports, calls, objects: recorded, never done ----------------------------------------------

    def found(self, module: Node, name: Node) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name to import that is not text")
        if self.protocol < 3:
            # as Python 3 reads what Python 2 wrote
            if (module, name) in NAME_MAPPING:
                module, name = NAME_MAPPING[(module, name)]
            elif module in IMPORT_MAPPING:
                module = IMPORT_MAPPING[module]
        found = Global(module, name)
        self.globals[found] = None
        return found

    def op_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(self.found(module, name))

    def op_stack_global(self, argument: None) -> None:
        module, name = self.take(2)
        self.stack.append(self.found(module, name))

    def extension(self, argument: int) -> None:
        self.stack.append(self.found("copyreg", f"extension {argument}"))

    op_ext1 = op_ext2 = op_ext4 = extension

    def op_inst(self, argument: str) -> None:
        args = self.items()
        module, _, name = argument.partition(" ")
        self.build(self.found(module, name), tuple(args))

    def op_obj(self, argument: None) -> None:
        maker, *args = self.items()
        self.build(maker, tuple(args))

    def op_reduce(self, argument: None) -> None:
        maker, args = self.take(2)
        if not isinstance(args, tuple):
            raise TypeError("a call whose arguments are no tuple")
        self.build(maker, args)

    def op_newobj(self, argument: None) -> None:
        maker, args = self.take(2)
        self.build(maker, tuple(args), new=True)

    def op_newobj_ex(self, argument: None) -> None:
        maker, args, keywords = self.take(3)
        self.build(maker, (*args, keywords) if keywords else tuple(args), new=True)

    def build(self, maker: Node, args: tuple[Node, ...], *, new: bool = False) -> None:
        name = str(maker) if isinstance(maker, Global) else ""
        if name == RECONSTRUCTOR or (name in NEWOBJ and args):
            maker, args, new = args[0], () if name == RECONSTRUCTOR else args[1:], True
            name = str(maker) if isinstance(maker, Global) else ""
        if name in TABLES:
            self.stack.append(_table(args))
            return
        built = Built(maker, args, new)
        self.calls.append(built)
        self.stack.append(built)

    def op_build(self, argument: None) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Built):
            target.state = state
        elif not isinstance(
            target, dict
        ):  # an OrderedDict's attributes (`_metadata`) tell nothing about weights
            raise TypeError("gives a state to something that is no object")

    def op_persid(self, argument: str) -> None:
        self.refer(argument)

    def op_binpersid(self, argument: None) -> None:
        id = self.stack.pop()
        # torch < 1.6 wrote a class with its source code beside it as ("module", class, file, source)
        if isinstance(id, tuple) and len(id) == 4 and id[0] == "module" and isinstance(id[1], Global):
            self.stack.append(id[1])
        else:
            self.refer(id)

    def refer(self, id: Node) -> None:
        self.persistent.append(Persistent(id))
        self.stack.append(self.persistent[-1])


METHODS = {
    opcode.name: getattr(_Machine, f"op_{opcode.name.lower()}", _Machine.unknown)
    for opcode in pickletools.opcodes
}


def _set_items(target: Node, items: list[Node]) -> None:
    if len(items) % 2:
        raise ValueError("a key without a value")
    pairs = zip(items[::2], items[1::2], strict=True)
    if isinstance(target, dict):
        for key, value in pairs:
            target[_key(key)] = value
    elif isinstance(target, Built):
        target.pairs.extend(pairs)
    else:
        raise TypeError("sets an item of something that is no dict")


def _key(key: Node) -> Node:
    """Return a key that hashes in no time: a nested tuple can take 2^n steps."""
    return key if key is None or isinstance(key, (str, bytes, int, float, Global)) else Opaque(key)


def _table(args: tuple[Node, ...]) -> dict[Node, Node]:
    """Return the dict that OrderedDict, defaultdict, Counter or dict makes from its arguments."""
    table: dict[Node, Node] = {}
    for arg in args:
        if isinstance(arg, dict):
            table.update(arg)
        elif isinstance(arg, (list, tuple)):
            for pair in arg:
                key, value = pair
                table[_key(key)] = value
    return table


def walk(root: Node) -> Iterator[Node]:
    """Yield every value reachable from `root`, containers included, each once; needs no recursion."""
    seen: set[int] = set()
    waiting: list[Node] = [root]
    while waiting:
        node = waiting.pop()
        children = _children(node)
        if children is not None:
            if id(node) in seen:
                continue
            seen.add(id(node))
        yield node
        if children is not None:
            waiting.extend(children)


def _children(node: Node) -> Iterable[Node] | None:
    """Return the values inside a node, or None for a leaf."""
    if isinstance(node, (list, tuple)):
        return node
    if isinstance(node, dict):
        return [*node.keys(), *node.values()]
    if isinstance(node, Built):
        return [node.maker, *node.args, node.state, *node.items, *(x for pair in node.pairs for x in pair)]
    if isinstance(node, Opaque):
        return [node.value]
    return [node.id] if isinstance(node, Persistent) else None
