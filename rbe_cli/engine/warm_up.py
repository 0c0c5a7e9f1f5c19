"""Compile what a model needs before it is needed, and say so if that takes time.

Numba compiles a kernel when it first runs and keeps the code on disk. Every kernel is
therefore run once on tiny arrays; only if one is really compiled, and not found in the
cache, is progress reported.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from rbe_cli.codec.panels import INT_8, pack
from rbe_cli.kernels.panel import PanelMatrix
from rbe_cli.kernels.table import Kernels
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import Progress


def warm_up(model: Gpt2, progress: Progress, backward: bool = False) -> None:
    """Make sure that nothing is compiled while `model` computes, `backward` too if asked."""
    if model.kernels.engine == "fast":
        steps = _kernel_steps(model) + (_backward_steps(model) if backward else [])
        compile_steps("compiling kernels (first run only)", steps, progress)


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


def _kernel_steps(model: Gpt2) -> list[Callable[[], object]]:
    """A call of each kernel the model uses, with the types it uses."""
    kernels = model.kernels
    activation = kernels.activations[model.config.activation_function]
    vector, row = np.zeros(1, np.float32), np.zeros((1, 1), np.float32)
    return [
        partial(kernels.layer_norm, row, vector, vector, 1.0, row.copy()),
        partial(_attention_step, kernels),
        partial(activation, row.copy()),
        partial(_matmul_step, kernels),
    ]


def _backward_steps(model: Gpt2) -> list[Callable[[], object]]:
    """The same of the backward pass."""
    kernels = model.kernels
    activation = kernels.activations_backward[model.config.activation_function]
    vector, row = np.zeros(1, np.float32), np.zeros((1, 1), np.float32)
    return [
        partial(kernels.layer_norm_backward, row, vector, 1.0, row, row.copy()),
        partial(activation, row, row.copy()),
    ]


def _attention_step(kernels: Kernels) -> None:
    qkv = np.zeros((1, 1, 3), np.float32)  # one head of one dimension
    cache = np.zeros((2, 1, 1, 1, 1), np.float32)  # keys and values
    index = np.zeros(1, np.int64)
    kernels.attention(qkv, cache[0], cache[1], index, index, 1.0, np.zeros((1, 1, 1), np.float32))


def _matmul_step(kernels: Kernels) -> None:
    """A product with a matrix in panels: one program for all layouts."""
    vector, row = np.zeros(1, np.float32), np.zeros((1, 1), np.float32)
    codes = np.zeros((1, 1), np.uint8)
    small = PanelMatrix.of_one_layout(pack(codes, 8), INT_8, vector, vector, (1, 1))
    kernels.matmul(row, small, vector, row.copy())
