"""Define values that compiled code is specialised for: their types tell which they are."""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.imputils import lower_constant
from numba.extending import models, register_model, typeof_impl

from rbe_cli.runtime.instruction_sets import InstructionSet


class Choice:
    """Hold a value that compiled code is specialised for: its type tells which it is."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _ChoiceType(types.Type):
    def __init__(self, value: Any) -> None:
        self.value = value
        super().__init__(name=f"Choice({getattr(value, 'name', value)})")


@typeof_impl.register(Choice)
def _type_of(choice: Choice, _: Any) -> _ChoiceType:
    return _ChoiceType(choice.value)


@register_model(_ChoiceType)
class _ChoiceModel(models.OpaqueModel):
    pass


@lower_constant(_ChoiceType)
def _lower_choice(context: Any, *_: Any) -> ir.Value:
    return context.get_dummy_value()


def choice_type(value: Any) -> types.Type:
    """Return Numba's type of `Choice(value)`, for signatures."""
    return _ChoiceType(value)


class Arithmetic:
    """Choose the instruction set and the width of activations: every program's first argument.

    Attributes:
        instructions: for vectors; those of `amx` are `avx512`'s.
        has_matrices: whether there are instructions for matrices beside them.
        int8: whether activations are int8.
    """

    def __init__(
        self, instructions: InstructionSet, int8: bool = False, has_matrices: bool = False
    ) -> None:
        self.has_matrices = has_matrices or instructions is InstructionSet.amx
        self.instructions = InstructionSet.avx512 if self.has_matrices else instructions
        self.int8 = int8
        self.name = self.instructions.name
        self.name += " matrices" if self.has_matrices else ""
        self.name += " int8" if int8 else ""
