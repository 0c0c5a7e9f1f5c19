"""Interprets the few pickle opcodes that a saved state dict consists of, and nothing else.

Python's own unpickler can be told which names to import, but still calls `__setstate__`, sets
attributes and trusts memo indices. Here `pickletools.genops` only splits the bytes into
opcodes; what each does is written below, so the one thing a pickle can call is a constructor
from the caller's table.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any

from rbe_cli.errors import CheckpointError


def load_pickle(
    data: bytes, names: Mapping[str, Any], persistent_load: Callable[[Any], Any]
) -> object:
    """Evaluate a pickle of protocol 2.

    Args:
        data: the pickle.
        names: `module name` -> what it stands for. Callables among them are constructors, and
            the only things that will be called.
        persistent_load: maps a persistent id to its object.

    Raises:
        CheckpointError: an opcode or a name is not allowed, or the pickle is malformed.
    """
    machine = _Machine(names, persistent_load)
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.step(opcode.name, argument)
        return machine.stack.pop()
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise CheckpointError("the pickle is malformed") from error


class _Machine:
    """The pickle machine: a stack, the stacks set aside by marks, and a memo."""

    def __init__(self, names: Mapping[str, Any], persistent_load: Callable[[Any], Any]) -> None:
        self.stack: list[Any] = []
        self._names = names
        self._persistent_load = persistent_load
        self._outer_stacks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Execute one opcode; `argument` is what `genops` decoded for it."""
        stack = self.stack
        match opcode:
            case "PROTO" | "STOP":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE" | "BINFLOAT":
                stack.append(argument)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._pop(int(opcode[-1]))))
            case "MARK":
                self._outer_stacks.append(stack)
                self.stack = []
            case "TUPLE":
                self._pop_mark().append(tuple(stack))
            case "SETITEM":
                items = self._pop(2)
                _set_items(stack[-1], items)
            case "SETITEMS":
                _set_items(self._pop_mark()[-1], stack)
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "BINPERSID":
                stack.append(self._persistent_load(stack.pop()))
            case "GLOBAL":
                if argument not in self._names:
                    raise CheckpointError(f"the pickle asks for {argument[:80]!r}: refused")
                stack.append(self._names[argument])
            case "REDUCE":
                constructor, arguments = self._pop(2)
                stack.append(constructor(*arguments))
            case "BUILD":
                # Attributes of the state dict (`_metadata`) hold no weights: dropped.
                stack.pop()
                if not isinstance(stack[-1], dict):
                    raise CheckpointError("the pickle sets attributes of an object: refused")
            case _:
                raise CheckpointError(f"the pickle uses the opcode {opcode}: refused")

    def _pop(self, count: int) -> list[Any]:
        """Remove and return the `count` topmost items, which all must be above the last mark."""
        if len(self.stack) < count:
            raise IndexError("stack underflow")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _pop_mark(self) -> list[Any]:
        """Return to the stack that was set aside at the last mark."""
        self.stack = self._outer_stacks.pop()
        return self.stack


def _set_items(target: Any, items: list[Any]) -> None:
    """Put alternating keys and values into the dict `target`."""
    # Keys are strings: the hash of a tuple that nests itself many times would take for ever.
    if not isinstance(target, dict) or not all(isinstance(key, str) for key in items[::2]):
        raise TypeError("only string keys of a dict can be set")
    target.update(zip(items[::2], items[1::2], strict=True))
