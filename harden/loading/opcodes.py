"""Reads a pickle without unpickling it.

An interpreter for pickle's stack machine that imports nothing and calls nothing. Names become `Global`, calls of
known names become the plain values or inert records they stand for, tensors become `StoredTensor`: which storage,
where in it, which shape. Whatever is not on the allow-list becomes a finding, and reading goes on, so that a report
lists everything that is wrong and not just the first thing. What a hostile pickle can do here is waste the time it
takes to read its bytes once.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harden.loading import allowed
from harden.loading.rules import finding
from harden.types import Finding

MAX_FINDINGS = 50
MAX_DIMENSIONS = 16
MAX_KEY = 2**60  # beyond it, integers can be chosen to collide in a dict and make reading quadratic


class DamagedError(Exception):
    """The bytes are no complete pickle."""


@dataclass(frozen=True)
class Global:
    """A name that the pickle mentions."""

    name: str
    allowed: bool


@dataclass(eq=False)
class Record:
    """Something that a real unpickler would have made; here only what it would have been made of."""

    kind: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Storage:
    """A run of numbers that lies outside the pickle."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A view of a storage."""

    storage: Storage
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    parameter: bool = False

    @property
    def count(self) -> int:
        product = 1
        for length in self.size:
            product *= length
        return product

    @property
    def reach(self) -> int:
        """How many elements the storage must have."""
        if not self.count:
            return 0
        last = sum((length - 1) * step for length, step in zip(self.size, self.stride, strict=True))
        return self.offset + last + 1


@dataclass
class Reading:
    """What a pickle says, and what is wrong with it."""

    value: Any
    findings: list[Finding]
    globals: set[str]
    storages: dict[str, Storage]
    end: int
    """Where the next pickle begins, if there is one."""


_MARK = object()
_PUSH = {  # opcodes that push their own argument
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict, "EMPTY_SET": set, "MARK": lambda: _MARK,
}  # fmt: skip


def read(data: bytes, start: int = 0, *, where: str = "", script: bool = False) -> Reading:
    """Reads one pickle; `script` also knows the classes of a TorchScript archive.

    Raises DamagedError where the bytes end or make no sense, unless something forbidden was seen before that.
    """
    return _Machine(data, start, where, script).run()


class _Machine:
    def __init__(self, data: bytes, start: int, where: str, script: bool) -> None:
        self.data, self.start, self.where, self.script = data, start, where, script
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.findings: list[Finding] = []
        self.globals: set[str] = set()
        self.storages: dict[str, Storage] = {}
        self.position = start

    def run(self) -> Reading:
        stream = io.BytesIO(self.data)
        stream.seek(self.start)
        try:
            for opcode, argument, position in pickletools.genops(stream):
                self.position = position or 0
                if opcode.name == "STOP":
                    value = self.stack.pop()
                    return Reading(value, self.findings, self.globals, self.storages, stream.tell())
                self.step(opcode.name, argument)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            if self.findings:  # a pickle may do its harm and then break: the break hides nothing here
                self.note("pickle-malformed", f"the pickle breaks off after that: {str(error)[:100]}")
                return Reading(None, self.findings, self.globals, self.storages, len(self.data))
            raise DamagedError(str(error)[:200]) from None
        raise DamagedError("the pickle has no end")

    def note(self, rule: str, message: str) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding(rule, message, f"{self.where or 'pickle'}, byte {self.position}"))

    def step(self, name: str, argument: Any) -> None:
        """One instruction."""
        push = self.stack.append
        if name in _PUSH:
            push(argument)
        elif name in _CONSTANTS:
            push(_CONSTANTS[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            push(self.memo[argument])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            push(tuple(self.take(int(name[-1]))))
        elif name == "TUPLE":
            push(tuple(self.since_mark()))
        elif name == "LIST":
            push(self.since_mark())
        elif name == "DICT":
            push(_pairs(self.since_mark()))
        elif name == "FROZENSET":
            push(frozenset(map(_key, self.since_mark())))
        elif name in ("APPEND", "APPENDS"):
            self.extend(self.take(1) if name == "APPEND" else self.since_mark())
        elif name in ("SETITEM", "SETITEMS"):
            self.update(self.take(2) if name == "SETITEM" else self.since_mark())
        elif name == "ADDITEMS":
            items = self.since_mark()
            self.stack[-1].update(map(_key, items))
        elif name == "POP":
            self.stack.pop()
        elif name == "POP_MARK":
            self.since_mark()
        elif name == "GLOBAL":
            module, _, attribute = argument.partition(" ")
            push(self.named(module, attribute))
        elif name == "STACK_GLOBAL":
            module, attribute = self.take(2)
            push(self.named(module, attribute))
        elif name == "REDUCE":
            function, arguments = self.take(2)
            push(self.call(function, arguments))
        elif name == "NEWOBJ":
            kind, arguments = self.take(2)
            push(self.create(kind, arguments))
        elif name == "BUILD":
            self.build(*self.take(1))
        elif name == "BINPERSID":
            push(self.persistent(*self.take(1)))
        elif name not in ("PROTO", "FRAME"):
            self.note("pickle-opcode", f"the instruction {name} has no place in a checkpoint")
            self.unusual(name)

    def unusual(self, name: str) -> None:
        """Keeps the stack in step after an instruction that is refused anyway."""
        if name in ("INST", "OBJ"):
            self.since_mark()
        elif name == "NEWOBJ_EX":
            self.take(3)
        elif name in ("DUP", "READONLY_BUFFER"):
            return
        self.stack.append(Record("refused"))

    def take(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise DamagedError("the stack runs empty")
        taken = self.stack[-count:]
        del self.stack[-count:]
        if any(value is _MARK for value in taken):
            raise DamagedError("a mark where a value should be")
        return taken

    def since_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                taken = self.stack[index + 1 :]
                del self.stack[index:]
                return taken
        raise DamagedError("no mark on the stack")

    def named(self, module: Any, attribute: Any) -> Global:
        if not isinstance(module, str) or not isinstance(attribute, str):
            self.note("pickle-global", "a name is put together from something other than text")
            return Global("?", False)
        name = f"{module}.{attribute}"
        known = name in allowed.NAMES or ("." not in attribute and allowed.is_layer(name))
        if self.script:
            known = known or allowed.is_script_class(name) or name in allowed.SCRIPT_HELPERS
        if not known and name not in self.globals:
            self.note("pickle-global", f"names {name[:200]!r}, which is not known to be harmless")
        self.globals.add(name)
        return Global(name, known)

    def call(self, function: Any, arguments: Any) -> Any:
        """What a call of a known name stands for."""
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            self.note("pickle-call", "calls something that is no plain name")
            return Record("refused")
        name = function.name
        if not function.allowed:
            return Record(name, arguments)  # the finding stands where it was named
        try:
            if name in allowed.MAPPINGS:
                return _mapping(arguments)
            if name in allowed.SEQUENCES:
                return tuple(arguments[0]) if arguments else ()
            if name in allowed.SETS:
                return set(map(_key, arguments[0])) if arguments else set()
            if name in allowed.TENSORS:
                return self.tensor(name, arguments)
        except (DamagedError, IndexError, TypeError, ValueError, AttributeError) as error:
            self.note("pickle-call", f"calls {name} in a way that no checkpoint does: {str(error)[:100]}")
            return Record(name)
        if name in allowed.CREATORS:
            rest_is_plain = arguments[1:] == (Global("builtins.object", True), None) or arguments[1:] == (
                Global("__builtin__.object", True), None)  # fmt: skip
            return self.create(arguments[0] if arguments else None, () if rest_is_plain else arguments[1:])
        if name == "builtins.bytearray" and not (arguments and isinstance(arguments[0], bytes | str)):
            self.note("pickle-size", "makes an array of bytes without bringing them")
        if name in allowed.RECORDS or name in allowed.PARTS_OF_MODULES or name in allowed.SCRIPT_HELPERS:
            return Record(name, arguments)
        self.note("pickle-call", f"calls {name}, which a checkpoint only ever mentions")
        return Record(name)

    def create(self, kind: Any, arguments: Any) -> Any:
        """An object without its constructor's work, which is how modules are pickled."""
        if not isinstance(kind, Global):
            self.note("pickle-call", "makes an object of something that is no plain name")
            return Record("refused")
        if not kind.allowed:
            return Record(kind.name)
        if kind.name in allowed.MAPPINGS:
            return {}
        layer = allowed.is_layer(kind.name) or (self.script and allowed.is_script_class(kind.name))
        if not layer and kind.name not in allowed.RECORDS | allowed.WRAPPERS:
            self.note("pickle-call", f"makes an object of {kind.name}, which a checkpoint only ever mentions")
        elif layer and arguments != ():
            self.note("pickle-call", f"gives arguments to the making of {kind.name}")
        return Record(kind.name, arguments if isinstance(arguments, tuple) else ())

    def build(self, state: Any) -> None:
        target = self.stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif not isinstance(target, dict):  # state dicts carry attributes (_metadata), which nobody needs
            self.note("pickle-call", f"sets the inside of a {type(target).__name__}")

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, Record):
            target.elements.extend(items)
        else:
            raise DamagedError("appends to something that is no list")

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Record):
            target.items.update(_pairs(items))
        elif isinstance(target, dict):
            target.update(_pairs(items))
        else:
            raise DamagedError("sets items of something that is no dict")

    def persistent(self, identity: Any) -> Any:
        """References to what lies outside the pickle."""
        if not isinstance(identity, tuple) or not identity:
            self.note("pickle-call", "refers to something outside the pickle in an unknown way")
            return Record("refused")
        kind = _text(identity[0])
        if kind == "module" and len(identity) == 4:  # legacy files bring their source; it is never run
            return identity[1]
        if kind != "storage" or len(identity) not in (5, 6):
            self.note("pickle-call", f"refers to a {str(kind)[:40]!r} outside the pickle, which torch does not know")
            return Record("refused")
        _, kind_of_storage, key, _location, count = identity[:5]
        name = allowed.STORAGES.get(getattr(kind_of_storage, "name", ""))
        if name is None or not _is_count(count) or (len(identity) == 6 and identity[5] is not None):
            self.note("pickle-call", "refers to a storage of an unknown kind")
            return Record("refused")
        storage = Storage(str(_text(key)), allowed.DTYPES[name][0], count)
        known = self.storages.setdefault(storage.key, storage)
        if _bytes(known) != _bytes(storage):
            self.note("pickle-size", f"gives storage {storage.key[:40]!r} two sizes")
        return storage

    def tensor(self, name: str, arguments: tuple[Any, ...]) -> Any:
        short = name.rpartition(".")[2]
        if short == "_rebuild_from_type_v2":
            function, kind, inner, _attributes = arguments
            if kind.name not in ("torch.Tensor", "torch.nn.parameter.Parameter"):
                raise DamagedError(f"a tensor of the type {kind.name[:80]}")
            if function.name not in allowed.TENSORS or function.name == name:
                raise DamagedError(f"a tensor made by {function.name[:80]}")
            return self.tensor(function.name, inner)
        if short.startswith("_rebuild_parameter"):
            data = arguments[0]
            if not isinstance(data, StoredTensor):
                raise DamagedError("a parameter that is no tensor")
            return StoredTensor(data.storage, data.dtype, data.offset, data.size, data.stride, parameter=True)
        storage, offset, size, stride = arguments[:4]
        if not isinstance(storage, Storage):
            raise DamagedError("a tensor without a storage")
        dtype = storage.dtype
        if short == "_rebuild_tensor_v3":
            dtype = allowed.DTYPE_GLOBALS[arguments[6].name]
        size, stride = tuple(size), tuple(stride)
        if not _is_count(offset) or not all(map(_is_count, size + stride)) or len(size) != len(stride):
            raise DamagedError("a tensor whose shape is not made of counts")
        if len(size) > MAX_DIMENSIONS:
            raise DamagedError(f"a tensor of {len(size)} dimensions")
        made = StoredTensor(storage, dtype, offset, size, stride)
        if made.reach * allowed.ITEM_SIZE[dtype] > _bytes(storage) or made.count > max(made.reach - offset, 0):
            self.note("pickle-size", f"a tensor of shape {list(size)} reaches beyond its storage of {storage.count}")
        return made


def _bytes(storage: Storage) -> int:
    return storage.count * allowed.ITEM_SIZE[storage.dtype]


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _key(key: Any) -> Any:
    """A dict's key, if it is one whose hash cannot be used to make reading slow."""
    if isinstance(key, tuple) and not any(isinstance(part, tuple) for part in key):  # nesting could go on for ever
        return tuple(map(_key, key))
    if isinstance(key, bool | None | str | bytes | float | Global | StoredTensor | Record):
        return key
    if type(key) is int and abs(key) < MAX_KEY:
        return key
    raise DamagedError(f"a key of the type {type(key).__name__}")


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise DamagedError("a key without a value")
    return {_key(k): v for k, v in zip(items[::2], items[1::2], strict=True)}


def _mapping(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    content = arguments[-1] if arguments else {}
    if isinstance(content, Global):  # the factory of a defaultdict
        return {}
    if isinstance(content, dict):
        return dict(content)
    return {_key(k): v for k, v in content}
