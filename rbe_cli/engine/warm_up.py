"""Loads the compiled programs that a model needs before it is needed, with progress."""

from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import Progress
from rbe_cli.runtime.native import prepare


def warm_up(model: Gpt2, progress: Progress) -> None:
    """Make sure that nothing is compiled while `model` computes, forward or backward."""
    team = model.kernels.team
    if team is not None:
        prepare(("products", "engine", "layers"), team.instructions, progress)
