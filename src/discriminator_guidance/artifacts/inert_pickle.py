"""Pickles as plain data: calls that a file asks for become records; nothing is imported, nothing is called."""

from __future__ import annotations

import io
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discriminator_guidance.errors import InputError

ORDERED_DICT = "collections.OrderedDict"
REMEDY = "use the file as its authors published it"

_NUMBERS = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"})
_TEXTS = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"})
_CONSTANTS: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Small integers are spread over a dictionary; large ones can be chosen to collide, and tuples to overflow the stack.
_KEY_LIMIT = 2**31
# Far beyond any checkpoint of this kind; they bound time and memory, whatever a file declares.
MAX_BYTES, MAX_INSTRUCTIONS = 4 << 30, 1_000_000


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that a pickle names; it is never looked up."""

    name: str


@dataclass(slots=True, eq=False)
class Record:
    """A call that a pickle asks for and that is not made.

    Args:
        callee: dotted name of the class or function; "" for a persistent identifier.
        arguments: of the call.
        state: what the pickle would set on the object.
    """

    callee: str
    arguments: tuple[Any, ...]
    state: Any = None


def read_inert(
    stream: io.BytesIO,
    allowed: Collection[str],
    what: str,
    *,
    persistent: bool = False,
    largest: int | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> Any:
    """Read one pickle, up to and including its end mark, without executing anything.

    Args:
        stream: bytes at hand, at the start of the pickle; left at its end.
        allowed: dotted names of the classes and functions that it may name.
        what: what is read, for the error.
        persistent: whether it may hold persistent identifiers, as PyTorch's storages are.
        largest: bound on the absolute value of integers; None for none.
        on_record: checks each call and persistent identifier as it is met; raises to refuse.

    Returns:
        Plain values, containers, Global and Record; `collections.OrderedDict()` becomes an empty OrderedDict.

    Raises:
        InputError: another class or function, an instruction that no such file holds, or damage.
    """
    machine = _Machine(frozenset(allowed), what, persistent, largest, on_record)
    try:
        for count, (opcode, value, _) in enumerate(pickletools.genops(stream)):
            if count == MAX_INSTRUCTIONS:
                raise ValueError(f"more than {MAX_INSTRUCTIONS} instructions")
            machine.step(opcode.name, value)
        (result,) = machine.stack
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, struct.error) as error:
        raise InputError(what, f"a damaged pickle ({printable(error)})", "get the file again") from error
    return result


def read_content(path: Path, what: str) -> bytes:
    """The bytes of a file of bounded size.

    Args:
        path: the file.
        what: what is read, for the error.

    Returns:
        All of it.

    Raises:
        InputError: it is missing, unreadable or larger than any checkpoint.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise InputError(what, f"{size} bytes, more than {MAX_BYTES}", REMEDY)
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            what, f"no readable file ({error.strerror})", "docs/checkpoints.md names its source"
        ) from error


def printable(text: object) -> str:
    """A short, one-line, ASCII form of something a file holds.

    Args:
        text: anything.

    Returns:
        Its first 120 characters, those outside ASCII escaped.
    """
    return ascii(str(text)[:120])[1:-1]


class _Machine:
    def __init__(
        self,
        allowed: frozenset[str],
        what: str,
        persistent: bool,
        largest: int | None,
        on_record: Callable[[Record], None] | None,
    ) -> None:
        self.allowed, self.what, self.persistent, self.largest = allowed, what, persistent, largest
        self.on_record = on_record or (lambda record: None)
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, value: Any) -> None:
        stack = self.stack
        if name in _NUMBERS:
            if self.largest is not None and abs(value) > self.largest:
                raise ValueError(f"it declares {value}, more than the file holds")
            stack.append(value)
        elif name in _TEXTS:
            stack.append(value)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _TUPLES:
            count = _TUPLES[name]
            if len(stack) < count:
                raise IndexError("empty stack")
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "MARK":
            self.marked.append(stack)
            self.stack = []
        elif name == "TUPLE":
            self._close(lambda items: self.stack.append(tuple(items)))
        elif name in ("SETITEMS", "APPENDS", "ADDITEMS"):
            self._close(lambda items: self._fill(name, items))
        elif name == "SETITEM":
            element, key = stack.pop(), stack.pop()
            self._fill("SETITEMS", [key, element])
        elif name == "APPEND":
            self._fill("APPENDS", [stack.pop()])
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            self.memo[len(self.memo) if value is None else value] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[value])
        elif name == "GLOBAL":
            stack.append(self._named(value.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            if type(module) is not str or type(attribute) is not str:
                raise TypeError("a class named by something other than text")
            stack.append(self._named(f"{module}.{attribute}"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, callee = stack.pop(), stack.pop()
            stack.append(self._call(callee, arguments))
        elif name == "BUILD":
            self._build(stack.pop())
        elif name == "BINPERSID" and self.persistent:
            record = Record("", (stack.pop(),))
            self.on_record(record)
            stack.append(record)
        elif name not in ("PROTO", "FRAME", "STOP"):
            code = "" if value is None else f" ({printable(value)})"
            raise InputError(self.what, f"the instruction {name}{code}, which such files do not hold", REMEDY)

    def _close(self, use: Callable[[list[Any]], None]) -> None:
        items, self.stack = self.stack, self.marked.pop()
        use(items)

    def _fill(self, name: str, items: list[Any]) -> None:
        target = self.stack[-1]
        if name == "APPENDS" and type(target) is list:
            target.extend(items)
        elif name == "ADDITEMS" and type(target) is set:
            target.update(_key(item) for item in items)
        elif name == "SETITEMS" and type(target) in (dict, OrderedDict):
            target.update((_key(key), element) for key, element in zip(items[::2], items[1::2], strict=True))
        else:
            raise TypeError(f"{name} on a {type(target).__name__}")

    def _named(self, name: str) -> Global:
        if name not in self.allowed:
            raise InputError(self.what, f"a pickle that names {printable(name)}, which is refused", REMEDY)
        return Global(name)

    def _call(self, callee: Any, arguments: Any) -> Any:
        if type(callee) is not Global or type(arguments) is not tuple:
            raise TypeError(f"a call of a {type(callee).__name__} on a {type(arguments).__name__}")
        if callee.name == ORDERED_DICT:
            if arguments:
                raise TypeError(f"{ORDERED_DICT} with arguments")
            return OrderedDict()
        record = Record(callee.name, arguments)
        self.on_record(record)
        return record

    def _build(self, state: Any) -> None:
        target = self.stack[-1]
        if type(target) is Record and target.state is None:
            target.state = state
        # State dicts carry the versions of their modules; any other attribute could shadow a method.
        elif type(target) is not OrderedDict or type(state) is not dict or set(state) != {"_metadata"}:
            raise TypeError(f"attributes on a {type(target).__name__}")


def _key(key: Any) -> str | int:
    if type(key) is str or (type(key) is int and abs(key) < _KEY_LIMIT):
        return key
    raise TypeError(f"a {type(key).__name__} as a key")
