"""Loads the compiled programs that a model needs before it is needed, with progress."""

from rbe_cli.kernels.kernel_table import Kernels
from rbe_cli.progress import Progress
from rbe_cli.runtime.native import prepare


def warm_up(kernels: Kernels, progress: Progress) -> None:
    """Make sure that nothing is compiled while a model computes, forward or backward.

    Args:
        kernels: those of the model.
        progress: is called while programs are compiled, if any are.
    """
    if kernels.team is not None:
        prepare(("products", "engine", "layers"), kernels.team.instructions, progress)
