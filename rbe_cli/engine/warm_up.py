"""Compile what a model needs before it is needed, and say so if that takes time.

Programs of the team are compiled apart (kernels/native.py). Numba compiles the codec's functions
when they first run and keeps the code on disk: each is therefore run once on tiny arrays; only
if one is really compiled, and not found in the cache, is progress reported.
"""

from collections.abc import Callable, Sequence

from rbe_cli.kernels import activations, attention, layer_norm, matmul
from rbe_cli.kernels.native import load
from rbe_cli.kernels.team import TEAM_PROGRAMS
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import Progress

_FORWARD = (
    *TEAM_PROGRAMS,
    matmul.LINEAR,
    layer_norm.FORWARD,
    attention.ATTENTION_PROGRAM,
    activations.ACTIVATE_PROGRAM,
)


def warm_up(model: Gpt2, progress: Progress, backward: bool = False) -> None:
    """Make sure that nothing is compiled while `model` computes, `backward` too if asked."""
    team = model.kernels.team
    if team is not None:
        programs = (*_FORWARD, layer_norm.BACKWARD) if backward else _FORWARD
        load(programs, team.instructions, progress)


def compile_steps(stage: str, steps: Sequence[Callable[[], object]], progress: Progress) -> None:
    """Run `steps` and report each that compiles before it does; at the end, that all are done."""
    from numba.core import event

    class Reporter(event.Listener):
        step = 0
        reported = -1

        def on_start(self, event: event.Event) -> None:
            if self.step > self.reported:  # a kernel compiles the functions it calls, too
                self.reported = self.step
                progress(stage, self.step, len(steps))

        def on_end(self, event: event.Event) -> None:
            """Only the start matters."""

    reporter = Reporter()
    with event.install_listener("numba:compile", reporter):
        for reporter.step, step in enumerate(steps):
            step()
    if reporter.reported >= 0:
        progress(stage, len(steps), len(steps))
