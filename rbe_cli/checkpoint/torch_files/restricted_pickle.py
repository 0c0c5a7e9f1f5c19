"""Interpret the pickle opcodes that a saved state dict consists of, and nothing else.

Python's own unpickler can be told which names to import, but still calls `__setstate__`, sets
attributes and trusts memo indices. Here `pickletools.genops` only splits the bytes into
opcodes; what each does is written below, so the one thing a pickle can call is a constructor
from the caller's table. Every other name becomes an `Inert` object, and so does whatever the
pickle builds with it: a training checkpoint holds many such objects beside its weights.

The time and the memory that a pickle takes are bounded by its steps: each opcode is one, and a
call costs one more for each item of its arguments, which the memo may hand to many calls.
"""

import pickletools
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

from rbe_cli.errors import CheckpointError

# A GPT-2 XL with the state of its optimizer takes 90,000 steps.
MAX_STEPS = 1 << 18
_MAX_ARGUMENTS = 16  # of a constructor; those of PyTorch take 7 at most
_MAX_NAME = 500  # characters of a module and a name in it
_PLAIN = frozenset(
    {
        # LONG4 is left out: no number of a checkpoint takes 256 bytes.
        *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
_IGNORED = frozenset({"PROTO", "STOP", "FRAME"})


class Inert:
    """Stand in for an object that is not built, because no weight needs it.

    Attributes:
        name: `module name` of what the pickle asked for.
        state: the attributes that the pickle sets; None if it sets none.
    """

    __slots__ = ("name", "state")

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: object = None


def load_pickle(
    data: bytes | BytesIO,
    names: Mapping[str, Any],
    persistent_load: Callable[[Any], Any],
    max_steps: int = MAX_STEPS,
) -> Any:
    """Evaluate a pickle of protocol 2 to 5.

    Args:
        data: the pickle; of a stream, it is read up to the pickle's end.
        names: `module name` -> what it stands for. Callables among them are constructors, and
            the only things that will be called.
        persistent_load: maps a persistent id to its object.
        max_steps: at most so many.

    Raises:
        CheckpointError: an opcode is not allowed, or the pickle is malformed or takes too many
            steps.
    """
    machine = _Machine(names, persistent_load, max_steps)
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.step(opcode.name, argument)
        return machine.stack.pop()
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        raise CheckpointError("the pickle is malformed") from error


class _Machine:
    """Run the pickle machine: a stack, the stacks set aside by marks, and a memo."""

    def __init__(
        self, names: Mapping[str, Any], persistent_load: Callable[[Any], Any], max_steps: int
    ) -> None:
        self.stack: list[Any] = []
        self._names = names
        self._persistent_load = persistent_load
        self._outer_stacks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._steps_left = max_steps

    def step(self, opcode: str, argument: Any) -> None:
        """Execute one opcode; `argument` is what `genops` decoded for it."""
        self._spend(1)
        stack = self.stack
        if opcode in _PLAIN:
            stack.append(argument)
        elif opcode not in _IGNORED and not (
            self._make_value(opcode) or self._fill(opcode) or self._remember(opcode, argument)
        ):
            self._build(opcode, argument)

    def _make_value(self, opcode: str) -> bool:
        """Push a constant, a tuple or an empty container; return whether the opcode does that."""
        stack = self.stack
        match opcode:
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_SET":
                stack.append(Inert("builtins set"))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._pop(int(opcode[-1]))))
            case "TUPLE":
                self._pop_mark().append(tuple(stack))
            case "LIST":
                self._pop_mark().append(stack)
            case "FROZENSET":
                self._pop_mark().append(Inert("builtins frozenset"))
            case _:
                return False
        return True

    def _fill(self, opcode: str) -> bool:
        """Put items into the container on the stack; return whether the opcode does that."""
        stack = self.stack
        match opcode:
            case "MARK":
                self._outer_stacks.append(stack)
                self.stack = []
            case "SETITEM":
                items = self._pop(2)
                _set_items(stack[-1], items)
            case "SETITEMS":
                _set_items(self._pop_mark()[-1], stack)
            case "APPEND":
                items = self._pop(1)
                _append(stack[-1], items)
            case "APPENDS" | "ADDITEMS":
                _append(self._pop_mark()[-1], stack)
            case "POP_MARK":
                self._pop_mark()
            case "POP":
                self._pop(1)
            case _:
                return False
        return True

    def _remember(self, opcode: str, argument: Any) -> bool:
        """Write or read the memo; return whether the opcode does that."""
        match opcode:
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self._memo[argument])
            case _:
                return False
        return True

    def _build(self, opcode: str, argument: Any) -> None:
        """Stand in for a name, or build an object with one."""
        stack = self.stack
        match opcode:
            case "BINPERSID":
                stack.append(self._persistent_load(stack.pop()))
            case "GLOBAL":
                stack.append(self._named(argument))
            case "STACK_GLOBAL":
                module, name = self._pop(2)
                if not (isinstance(module, str) and isinstance(name, str)):
                    raise TypeError("a name is text")
                if len(module) + len(name) > _MAX_NAME:
                    raise ValueError("a name is too long")
                stack.append(self._named(f"{module} {name}"))
            case "REDUCE" | "NEWOBJ":
                constructor, arguments = self._pop(2)
                stack.append(self._call(constructor, arguments))
            case "NEWOBJ_EX":
                constructor, arguments, _keywords = self._pop(3)
                stack.append(self._call(constructor, arguments))
            case "BUILD":
                (state,) = self._pop(1)
                if isinstance(stack[-1], Inert):
                    stack[-1].state = state
                # Attributes of the state dict (`_metadata`) hold no weights: dropped.
                elif not isinstance(stack[-1], dict):
                    raise CheckpointError("the pickle sets attributes of an object: refused")
            case _:
                raise CheckpointError(f"the pickle uses the opcode {opcode}: refused")

    def _call(self, constructor: Any, arguments: Any) -> Any:
        """Call a constructor from the table; an inert object gives another one."""
        if isinstance(constructor, Inert):
            return Inert(constructor.name)
        if not isinstance(arguments, tuple) or len(arguments) > _MAX_ARGUMENTS:
            raise TypeError("arguments are a short tuple")
        self._spend(sum(map(_items, arguments)))
        return constructor(*arguments)

    def _spend(self, steps: int) -> None:
        """Count steps, and end when there are too many."""
        self._steps_left -= steps
        if self._steps_left < 0:
            raise CheckpointError("the pickle takes too many steps")

    def _named(self, name: str) -> Any:
        return self._names[name] if name in self._names else Inert(name)

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


def _items(value: Any) -> int:
    """Return how many items a loop over a value would see."""
    return len(value) if isinstance(value, str | bytes | bytearray | tuple | list | dict) else 1


def _set_items(target: Any, items: list[Any]) -> None:
    """Put alternating keys and values into the dict `target`."""
    if len(items) % 2:
        raise ValueError("a key without a value")
    if isinstance(target, Inert):
        return
    if not isinstance(target, dict):
        raise TypeError("only items of a dict can be set")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # No weight has a name of another type; and hashes of numbers and tuples can be forged.
        if isinstance(key, str):
            target[key] = value


def _append(target: Any, items: list[Any]) -> None:
    """Put items at the end of the list `target`."""
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Inert):
        raise TypeError("items can be appended to a list only")
