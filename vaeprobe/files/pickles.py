"""Pickles, read without unpickling.

A pickle is a program for a stack machine that imports names and calls them.  `interpret` runs that program
with every import and call left undone: it returns the containers and scalars as they are, and in the place of each imported
name, call and object an inert record of it (`Global`, `Built`).  What is checked is therefore what is
loaded, there is no second parser to disagree with, and nothing in this module can execute anything.

Source: Python's `Lib/pickletools.py`, which documents each opcode, and `Lib/pickle.py`, which runs them.
"""

from __future__ import annotations

import codecs
import mmap
import struct
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from typing import Any, TypeAlias

from vaeprobe.errors import InputError, ResourceError
from vaeprobe.files.inert import Built, Global, Node, Opaque, Persistent, Pickle
from vaeprobe.files.source import quoted

__all__ = ["PickleError", "imported_first", "interpret"]


MAX_OPCODES = 3_000_000
MAX_DEPTH = 1_000
MAX_STACK = 100_000  # pickle.dump writes dicts and lists in batches of a thousand
MAX_WHOLE = 256  # bytes of a whole number: torch's magic one has ten


class PickleError(InputError):
    """A pickle is damaged.

    Args:
        globals: the names it had asked for until there.
        partial: what an unpickler would have done until there.
    """

    def __init__(self, message: str, globals: tuple[Global, ...], partial: Pickle | None = None) -> None:
        super().__init__(message, hint="the file is truncated or damaged: fetch it again")
        self.globals = globals
        self.partial = partial


TABLES = {"collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict"}
RECONSTRUCTOR = "copyreg._reconstructor"
NEWOBJ = {"copyreg.__newobj__", "copyreg.__newobj_ex__"}


def interpret(data: bytes, start: int = 0) -> Pickle:
    """Read the pickle that begins at `start`.

    Raises:
        PickleError: it is damaged, truncated, or nested too deeply.
        ResourceError: it has over three million instructions.
    """
    machine = _Machine(data, start)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in text
            root = machine.run()
    except VALUE_ERRORS as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise PickleError(
            f"the pickle is damaged at byte {machine.at:,}: {quoted(text)}",
            machine.seen(),
            machine.done(None),
        ) from None
    return machine.done(root)


def imported_first(data: bytes | mmap.mmap) -> tuple[Global, ...]:
    """Return the names that an unpickler would import from these bytes before it fails or ends.

    For files that are something else: most formats fail at the first or second byte.
    """
    machine = _Machine(data, 0)
    machine.alone = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            machine.run()
    except (*VALUE_ERRORS, ResourceError):
        pass
    return tuple(name for name in machine.seen() if name.plausible)


# what the machine raises on nonsense
VALUE_ERRORS = (
    *(ValueError, IndexError, KeyError, TypeError, AttributeError, EOFError, OverflowError),
    *(struct.error, LookupError, RecursionError),
)


class _Machine:
    """The stack machine of a pickle, its imports and calls left undone.

    Attributes:
        at: offset of the next byte.
        too_much: what no checkpoint needs; it ends the reading only at the end, since worse may follow.
        alone: whether references to something outside end it, as they end an unpickler that knows of no outside.
    """

    alone = False
    too_much = ""

    def __init__(self, data: bytes | mmap.mmap, start: int) -> None:
        self.data = data
        self.at = start
        self.stack: list[Node] = []
        self.marks: list[list[Node]] = []
        self.memo: dict[int, Node] = {}
        self.globals: dict[Global, None] = {}
        self.calls: list[Built] = []
        self.persistent: list[Persistent] = []
        self.replaced: list[Node] = []
        self.protocol = 0

    def seen(self) -> tuple[Global, ...]:
        return tuple(self.globals)

    def done(self, root: Node) -> Pickle:
        """Return what was read so far."""
        calls, persistent = tuple(self.calls), tuple(self.persistent)
        return Pickle(root, self.seen(), calls, persistent, self.at, tuple(self.replaced))

    def run(self) -> Node:
        """Run to the STOP instruction, and return the value that is left."""
        data, steps = self.data, STEPS
        for _ in range(MAX_OPCODES):
            code = data[self.at]
            self.at += 1
            step = steps.get(code)
            if step is None:
                if code == STOP:
                    if len(self.stack) != 1 or self.marks:
                        raise ValueError("values are left over at the end")
                    if self.too_much:
                        raise ValueError(self.too_much)
                    return self.stack.pop()
                raise ValueError("an instruction that no checkpoint needs")
            step(self)
            if len(self.stack) > MAX_STACK:
                self.too_much = f"over {MAX_STACK:,} values wait on its stack"
        raise ResourceError(
            f"the pickle has over {MAX_OPCODES:,} instructions", hint="save the weights alone"
        )

    # -- arguments ---------------------------------------------------------------------------------

    def unpack(self, format: struct.Struct) -> Any:
        (value,) = format.unpack_from(self.data, self.at)
        self.at += format.size
        return value

    def raw(self, length: int) -> bytes:
        """Return the next bytes."""
        piece = self.data[self.at : self.at + length]
        if length < 0 or len(piece) < length:
            raise EOFError("it ends in the middle of a value")
        self.at += length
        return piece

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise EOFError("it ends in the middle of a line")
        piece = self.data[self.at : end]
        self.at = end + 1
        return piece

    # -- values ------------------------------------------------------------------------------------

    def op_int(self) -> None:
        text = self.line()
        self.stack.append(text == b"01" if text in (b"00", b"01") else self.whole(text))

    def op_long(self) -> None:
        self.stack.append(self.whole(self.line().removesuffix(b"L")))

    def whole(self, text: bytes) -> Node:
        return int(text) if len(text) <= 2 * MAX_WHOLE else HUGE

    def op_float(self) -> None:
        self.stack.append(float(self.line()))

    def op_string(self) -> None:
        text = self.line().strip()
        if len(text) < 2 or text[:1] not in (b"'", b'"') or text[-1:] != text[:1]:
            raise ValueError("a text without quotes")
        self.stack.append(codecs.escape_decode(text[1:-1])[0].decode("latin-1"))

    def op_unicode(self) -> None:
        self.stack.append(self.line().decode("raw-unicode-escape"))

    def refer_line(self) -> None:
        self.refer(self.line().decode("ascii"))

    # -- the memo and the stack --------------------------------------------------------------------

    def op_memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_put(self) -> None:
        self.memo[int(self.line())] = self.stack[-1]

    def op_get(self) -> None:
        self.stack.append(self.memo[int(self.line())])

    def op_proto(self) -> None:
        self.protocol = self.data[self.at]
        self.at += 1
        if self.protocol > 5:
            raise ValueError("a protocol that Python does not have")

    def op_mark(self) -> None:
        if len(self.marks) >= MAX_DEPTH:
            self.too_much = f"nested deeper than {MAX_DEPTH} levels"
        self.marks.append(self.stack)
        self.stack = []

    def items(self) -> list[Node]:
        """Return what was pushed since the last mark, and go back to the stack below it."""
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def op_pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.items()

    def op_pop_mark(self) -> None:
        self.items()

    def op_dup(self) -> None:
        self.stack.append(self.stack[-1])

    # -- containers --------------------------------------------------------------------------------

    def op_empty_set(self) -> None:
        self.stack.append(Built(Global("builtins", "set")))

    def op_tuple(self) -> None:
        items = self.items()
        self.stack.append(tuple(items))

    def op_tuple1(self) -> None:
        self.stack.append((self.stack.pop(),))

    def take(self, count: int) -> list[Node]:
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def op_list(self) -> None:
        items = self.items()
        self.stack.append(items)

    def op_dict(self) -> None:
        items = self.items()
        table: dict[Node, Node] = {}
        _set_items(table, items)
        self.stack.append(table)

    def op_frozenset(self) -> None:
        items = self.items()
        self.stack.append(Built(Global("builtins", "frozenset"), (items,)))

    def op_append(self) -> None:
        self.extend([self.stack.pop()])

    def op_appends(self) -> None:
        self.extend(self.items())

    def extend(self, items: list[Node]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, Built):
            target.items.extend(items)
        else:
            raise TypeError("appends to something that is no list")

    def op_setitem(self) -> None:
        _set_items(self.stack[-3], self.take(2))

    def op_setitems(self) -> None:
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

    def op_global(self) -> None:
        module = self.line().decode("utf-8")
        self.stack.append(self.found(module, self.line().decode("utf-8")))

    def op_stack_global(self) -> None:
        module, name = self.take(2)
        self.stack.append(self.found(module, name))

    def extension(self, number: int) -> None:
        self.stack.append(self.found("copyreg", f"extension {number}"))

    def op_inst(self) -> None:
        module, name = self.line().decode("ascii"), self.line().decode("ascii")
        args = self.items()
        self.build(self.found(module, name), tuple(args))

    def op_obj(self) -> None:
        maker, *args = self.items()
        self.build(maker, tuple(args))

    def op_reduce(self) -> None:
        maker, args = self.take(2)
        self.build(maker, _arguments(args))

    def op_newobj(self) -> None:
        maker, args = self.take(2)
        self.build(maker, _arguments(args), new=True)

    def op_newobj_ex(self) -> None:
        maker, args, keywords = self.take(3)
        given = _arguments(args)
        self.build(maker, (*given, keywords) if keywords else given, new=True)

    def build(self, maker: Node, args: tuple[Node, ...], *, new: bool = False) -> None:
        name = str(maker) if isinstance(maker, Global) else ""
        if name == RECONSTRUCTOR or (name in NEWOBJ and args):
            # the class that is built from may be given as a base of its own
            self.replaced.extend(args[1:] if name == RECONSTRUCTOR else ())
            maker, args, new = args[0], () if name == RECONSTRUCTOR else args[1:], True
            name = str(maker) if isinstance(maker, Global) else ""
        built = Built(maker, args, new)
        self.calls.append(built)
        self.stack.append(_table(args) if name in TABLES else built)

    def op_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Built):
            if target.state is not None:
                self.replaced.append(target.state)
            target.state = state
        elif isinstance(target, dict):
            self.replaced.append(
                state
            )  # an OrderedDict's attributes (`_metadata`) tell nothing about weights
        else:
            raise TypeError("gives a state to something that is no object")

    def op_binpersid(self) -> None:
        id = self.stack.pop()
        # torch < 1.6 wrote a class with its source code beside it as ("module", class, file, source)
        if isinstance(id, tuple) and len(id) == 4 and id[0] == "module" and isinstance(id[1], Global):
            self.stack.append(id[1])
        else:
            self.refer(id)

    def refer(self, id: Node) -> None:
        if self.alone:
            raise ValueError("a reference to something outside")
        self.persistent.append(Persistent(id))
        self.stack.append(self.persistent[-1])


HUGE = Opaque(None)  # a whole number that takes long to print, in a file that may go on to worse
U1, U2, U4, I4, U8, F8 = (struct.Struct(code) for code in ("<B", "<H", "<I", "<i", "<Q", ">d"))
STOP = ord(".")
Step: TypeAlias = "Callable[[_Machine], None]"


def _number(format: struct.Struct) -> Step:
    return lambda m: m.stack.append(m.unpack(format))


def _piece(length: struct.Struct, made: Callable[[bytes], Node]) -> Step:
    return lambda m: m.stack.append(made(m.raw(m.unpack(length))))


def _constant(value: Node) -> Step:
    return lambda m: m.stack.append(value)


def _signed(length: struct.Struct) -> Step:
    def step(m: _Machine) -> None:
        raw = m.raw(m.unpack(length))
        m.stack.append(int.from_bytes(raw, "little", signed=True) if len(raw) <= MAX_WHOLE else HUGE)

    return step


def _put(format: struct.Struct) -> Step:
    def step(m: _Machine) -> None:
        m.memo[m.unpack(format)] = m.stack[-1]

    return step


def _got(format: struct.Struct) -> Step:
    return lambda m: m.stack.append(m.memo[m.unpack(format)])


def _arguments(node: Node) -> tuple[Node, ...]:
    if not isinstance(node, tuple):
        raise TypeError("a call whose arguments are no tuple")
    return node


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _latin(raw: bytes) -> str:
    return raw.decode("latin-1")


def _tuple_of(count: int) -> Step:
    return lambda m: m.stack.append(tuple(m.take(count)))


def _extension(format: struct.Struct) -> Step:
    return lambda m: m.extension(m.unpack(format))


STEPS: dict[int, Step] = {
    ord(code): step
    for code, step in {
        "I": _Machine.op_int, "L": _Machine.op_long, "F": _Machine.op_float, "S": _Machine.op_string,
        "V": _Machine.op_unicode, "J": _number(I4), "K": _number(U1), "M": _number(U2), "G": _number(F8),
        "\x8a": _signed(U1), "\x8b": _signed(I4), "X": _piece(U4, _text), "\x8c": _piece(U1, _text),
        "\x8d": _piece(U8, _text), "T": _piece(I4, _latin), "U": _piece(U1, _latin), "B": _piece(U4, bytes),
        "C": _piece(U1, bytes), "\x8e": _piece(U8, bytes), "\x96": _piece(U8, bytes), "N": _constant(None),
        "\x88": _constant(True), "\x89": _constant(False), ")": _constant(()), "q": _put(U1), "r": _put(U4),
        "p": _Machine.op_put, "\x94": _Machine.op_memoize, "h": _got(U1), "j": _got(U4), "g": _Machine.op_get,
        "\x80": _Machine.op_proto, "\x95": lambda m: m.unpack(U8), "(": _Machine.op_mark, "0": _Machine.op_pop,
        "1": _Machine.op_pop_mark, "2": _Machine.op_dup, "]": lambda m: m.stack.append([]),
        "}": lambda m: m.stack.append({}), "\x8f": _Machine.op_empty_set, "t": _Machine.op_tuple,
        "\x85": _Machine.op_tuple1, "\x86": _tuple_of(2), "\x87": _tuple_of(3), "l": _Machine.op_list,
        "d": _Machine.op_dict, "\x91": _Machine.op_frozenset, "a": _Machine.op_append, "e": _Machine.op_appends,
        "\x90": _Machine.op_appends, "s": _Machine.op_setitem, "u": _Machine.op_setitems, "c": _Machine.op_global,
        "\x93": _Machine.op_stack_global, "\x82": _extension(U1), "\x83": _extension(U2), "\x84": _extension(I4),
        "i": _Machine.op_inst, "o": _Machine.op_obj, "R": _Machine.op_reduce, "\x81": _Machine.op_newobj,
        "\x92": _Machine.op_newobj_ex, "b": _Machine.op_build, "P": _Machine.refer_line,
        "Q": _Machine.op_binpersid,
    }.items()
}  # fmt: skip


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
