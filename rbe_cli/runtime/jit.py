"""Compile the functions of compiled programs through Numba.

Programs become object files (build.py), so a function is only translated to LLVM's language
here: its machine code is made once, with all functions of its library. Numba would otherwise
link and compile every function by itself, and again with each of its callers.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import LoweringPass, register_pass
from numba.core.typed_passes import NativeLowering

Function = TypeVar("Function", bound=Callable[..., object])


class BitcodePiece(JITCodeLibrary):
    """Hold a function in LLVM's language, and the libraries of the functions that it calls."""

    def finalize(self) -> None:
        """Leave the functions that it calls unlinked, and compile nothing."""
        self._finalized = True

    def _optimize_functions(self, module: Any) -> None:
        """Leave the function as it is; the whole library is optimised later."""
        module.data_layout = self._codegen._data_layout


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerToPiece(LoweringPass):
    """Translate a typed function into a `BitcodePiece`."""

    _name = "lower_to_piece"

    def __init__(self) -> None:
        LoweringPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        """Lower the function of `state`, and let others call it."""
        state.library = BitcodePiece(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        NativeLowering().run_pass(state)
        lowered = state["cr"]
        # Numba names a compiled function by a builtin function: any that is unique.
        key = cast(list[object], []).append
        state.targetctx.insert_user_function(key, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=key)
        return True


class _Compiler(CompilerBase):
    def define_pipelines(self) -> list[Any]:
        """Return Numba's usual passes, without machine code at their end."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [
            (_LowerToPiece if own is NativeLowering else own, name) for own, name in passes.passes
        ]
        passes._finalized = False
        passes.finalize()
        return [passes]


def program_code(function: Function) -> Function:
    """Compile a function of a program, which other compiled functions may call.

    Such a function allocates nothing and raises nothing; Python cannot call it. Every operation
    is rounded as it is written, so that all CPUs give the same bits: a fused multiply-add is one
    only where the function says so (floating.py).
    """
    compiler: Any = njit  # whose annotations leave some options out
    decorate = compiler(
        nogil=True, error_model="numpy", pipeline_class=_Compiler, no_cpython_wrapper=True,
        no_cfunc_wrapper=True, _nrt=False,
    )  # fmt: skip
    return cast(Function, decorate(function))
