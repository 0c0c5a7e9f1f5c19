"""Runs the forward program: memory to compute in, and the threads that compute."""

from collections.abc import Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from rbe_cli.engine.address_layout import AddressLayout
from rbe_cli.engine.coded_layers import CodedLayers
from rbe_cli.engine.forward_records import FORWARD
from rbe_cli.engine.paged_cache import PagedCache
from rbe_cli.engine.thread_tuner import ThreadTuner
from rbe_cli.kernels.kernel_records import (
    attention_bytes,
    padded_tokens,
    quantised_bytes,
    scratch_bytes,
)
from rbe_cli.progress import Progress, no_progress
from rbe_cli.runtime import libraries
from rbe_cli.runtime.addresses import address, whole_lines
from rbe_cli.runtime.arrays import Float32, Int64
from rbe_cli.runtime.libraries import ATTEND, MULTIPLY, MULTIPLY_INT8
from rbe_cli.runtime.native import load
from rbe_cli.runtime.thread_team import Team
from rbe_cli.weights.panel_layout import TILE_ROWS

_INPUTS = ("ids", "rows", "positions", "wanted_tokens")
_BUFFERS = ("x", "normed", "qkv", "attended", "hidden", "logits")


class Runner:
    """Runs a model with a team of threads, for one caller at a time."""

    def __init__(self, layout: AddressLayout, team: Team, progress: Progress = no_progress) -> None:
        """Load the programs; memory follows with the first tokens.

        Args:
            layout: where the model's weights lie.
            team: computes.
            progress: is called while programs are compiled, if any are.
        """
        self._layout = layout
        self._team = team
        self._tuner = ThreadTuner(team.threads)
        programs = MULTIPLY, MULTIPLY_INT8, ATTEND, libraries.FORWARD
        multiply, multiply_int8, attend, self._program = load(programs, team.instructions, progress)
        self._layers = layout.layers
        if layout.coded:
            self._layers = layout.layers.copy()  # each runner decodes into records of its own
        self._coded = CodedLayers(self._layers, layout.coded, team, layout.takes_int8)
        self._job = np.zeros(1, FORWARD)
        self._job_address = address(self._job)
        layout.fill(self._job)
        self._job["layers"], self._job["last"] = address(self._layers), len(self._layers)
        self._job["multiply"], self._job["attend"] = multiply.address, attend.address
        self._job["multiply_int8"] = multiply_int8.address
        self._buffers: dict[str, NDArray[np.generic]] = {}
        self._inputs: dict[str, Int64] = {}
        self._room = 0, 0

    def run(
        self,
        cache: PagedCache,
        ids: Int64,
        rows: Int64,
        positions: Int64,
        wanted: Sequence[int],
        is_prompt: bool = False,
    ) -> Float32:
        """Append tokens to the cache, which has room for them.

        Args:
            cache: of the same config.
            ids, rows, positions: int64 `[tokens]`; a row's tokens in ascending order.
            wanted: tokens whose logits are returned, ascending.
            is_prompt: round activations to 8 bits for the matrices whose records allow it.

        Returns:
            The logits, float32 `[len(wanted), vocab_size]`.
        """
        count = len(ids)
        self._reserve(count, len(wanted), cache)
        inputs: tuple[Int64 | Sequence[int], ...] = (ids, rows, positions, wanted)
        for name, values in zip(_INPUTS, inputs, strict=True):
            self._inputs[name][: len(values)] = values
        job = self._job
        job["tokens"], job["wanted"], job["is_prompt"] = count, len(wanted), is_prompt
        job["cache"] = cache.record
        job["cache"]["out_stride"] = job["attended"]["stride"]
        if self._coded:
            self._run_coded()
        elif count == 1:
            threads = self._tuner.threads
            start = perf_counter()
            self._team.run(self._program, self._job_address, threads)
            self._tuner.record(perf_counter() - start)
        else:
            self._team.run(self._program, self._job_address)
        logits = self._buffers["logits"][: len(wanted), : self._layout.config.vocab_size]
        return logits.astype(np.float32)  # a copy

    def _run_coded(self) -> None:
        """Run up to each coded layer, decode it, and run it."""
        start = 0
        for number in self._coded.numbers():
            self._run_layers(start, number)
            self._coded.decode(number)
            start = number
        self._run_layers(start, len(self._layers))

    def _run_layers(self, first: int, last: int) -> None:
        """Run the layers from `first` to before `last`, and the head after the last layer."""
        if first < last or last == len(self._layers):
            self._job["first"], self._job["last"] = first, last
            self._team.run(self._program, self._job_address)

    def _reserve(self, tokens: int, wanted: int, cache: PagedCache) -> None:
        """Have memory for so many tokens and logits.

        What it holds between two runs means nothing.
        """
        room = max(tokens, self._room[0]), max(wanted, self._room[1])
        if room == self._room and self._buffers:
            return
        self._room = tokens, wanted = room
        config, threads = self._layout.config, self._team.threads
        rows = max(tokens, threads)
        width = config.n_embd
        widths = (width, width, 3 * width, width, config.n_inner, config.vocab_size)
        job = self._job[0]
        job["flags"] = self._team.flags
        self._inputs = {name: np.zeros(max(tokens, wanted), np.int64) for name in _INPUTS}
        for name, values in self._inputs.items():
            job[name] = address(values)
        for name, columns in zip(_BUFFERS, widths, strict=True):
            stride = -(-columns // TILE_ROWS) * TILE_ROWS
            # Zeros, as what pads a row is multiplied by steps of zero, which NaN would survive.
            buffer = np.zeros((wanted if name == "logits" else rows, stride), np.float32)
            self._buffers[name] = buffer
            job[name]["address"], job[name]["stride"] = address(buffer), buffer.strides[0]
        inputs = max(config.n_embd, config.n_inner)
        own = quantised_bytes(inputs)
        each = max(scratch_bytes(tokens, inputs), attention_bytes(cache.width, config.n_positions))
        for name, count, size in (
            ("quantised", padded_tokens(rows), own),
            ("scratch", threads, each),
        ):
            self._buffers[name] = whole_lines(count, size)
            job[f"{name}_bytes"] = size
        job["quantised_inputs"] = address(self._buffers["quantised"])
        job["scratch"] = address(self._buffers["scratch"])
