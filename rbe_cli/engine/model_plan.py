"""A model laid out for the forward program: addresses of weights, and memory to compute in."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbe_cli.engine.forward_records import FORWARD, LAYER
from rbe_cli.engine.paged_cache import PagedCache
from rbe_cli.engine.thread_tuner import ThreadTuner
from rbe_cli.kernels.kernel_records import (
    ACTIVATIONS,
    Activations,
    activation_bytes,
    attention_bytes,
    scratch_bytes,
)
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.layer_norm_layer import LayerNorm
from rbe_cli.nn.linear_layer import Linear
from rbe_cli.nn.transformer_block import TransformerBlock
from rbe_cli.progress import Progress, no_progress
from rbe_cli.runtime import libraries
from rbe_cli.runtime.addresses import address
from rbe_cli.runtime.arrays import Float32, Int64
from rbe_cli.runtime.libraries import ATTEND, MULTIPLY, MULTIPLY_COARSE
from rbe_cli.runtime.native import load
from rbe_cli.runtime.thread_team import Team
from rbe_cli.weights.coded_matrix import CodedMatrix
from rbe_cli.weights.matrix_record import FLOATS, MATRIX
from rbe_cli.weights.panel_layout import BENT_4, EVEN_2, PANEL_COLUMNS, TILE_ROWS
from rbe_cli.weights.panel_matrix import PanelMatrix
from rbe_cli.weights.weight_forms import Weight, dense

CHUNK_TOKENS = 256
"""Tokens that go through the layers at once: more would leave the cache."""
_INPUTS = ("ids", "rows", "positions", "wanted_tokens")
_BUFFERS = ("x", "normed", "qkv", "mixed", "hidden", "logits")


class ModelPlan:
    """A model that a team of threads runs."""

    def __init__(
        self,
        model: Gpt2,
        team: Team,
        activations: Activations = "auto",
        progress: Progress = no_progress,
    ) -> None:
        """Lay a model out; its matrices stay where they are, unless they are dense.

        Args:
            model: its weights.
            team: computes.
            activations: of prompts.
            progress: hears of compilation, if there is any.
        """
        self._activations = activations
        self.config = model.config
        self.team = team
        self._pacer = ThreadTuner(team.threads)
        programs = MULTIPLY, MULTIPLY_COARSE, ATTEND, libraries.FORWARD
        multiply, multiply_coarse, attend, self._program = load(
            programs, team.instructions, progress
        )
        self._kept: list[NDArray[np.generic]] = []  # what addresses point to
        self._matrices: dict[int, tuple[Weight, NDArray[np.void]]] = {}
        layers = np.zeros(len(model.blocks), LAYER)
        for layer, block in zip(layers, model.blocks, strict=True):
            layer["ln_1"] = self._norm(block.ln_1)
            layer["ln_2"] = self._norm(block.ln_2)
            for name, linear in _linears(block):
                layer[name] = self._linear(linear)
        self._layers = layers
        self._coded = {  # layers that are decoded each time they are used
            number: block
            for number, block in enumerate(model.blocks)
            if any(_coded_matrices(block))
        }
        self._job = np.zeros(1, FORWARD)
        self._job_address = address(self._job)
        job = self._job[0]
        job["last"] = len(layers)
        job["layers"], job["n_layer"] = self._keep(layers), len(layers)
        job["scales"] = self._keep(np.array([block.attn.scale for block in model.blocks]))
        job["multiply"], job["multiply_coarse"] = multiply.address, multiply_coarse.address
        job["attend"] = attend.address
        job["n_embd"], job["n_inner"] = self.config.n_embd, self.config.n_inner
        job["activation"] = ACTIVATIONS[self.config.activation_function]
        job["eps"] = self.config.layer_norm_epsilon
        job["wte"], job["wpe"] = self._matrix(model.wte.weight), self._matrix(model.wpe.weight)
        job["ln_f"] = self._norm(model.ln_f)
        job["head"] = self._linear(model.head)
        self._buffers: dict[str, NDArray[np.generic]] = {}
        self._inputs: dict[str, Int64] = {}
        self._room = 0, 0

    @property
    def coded_layers(self) -> int:
        """Layers whose matrices are decoded each time they are used."""
        return len(self._coded)

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
            is_prompt: round activations to 8 bits where `activations` allows it.

        Returns:
            `[len(wanted), vocab_size]`.
        """
        count = len(ids)
        self._reserve(count, len(wanted), cache)
        inputs: tuple[Int64 | Sequence[int], ...] = (ids, rows, positions, wanted)
        for name, values in zip(_INPUTS, inputs, strict=True):
            self._inputs[name][: len(values)] = values
        job = self._job
        job["tokens"], job["wanted"], job["is_prompt"] = count, len(wanted), is_prompt
        job["cache"] = cache.record
        job["cache"]["out_stride"] = job["mixed"]["stride"]
        if self._coded:
            self._run_coded()
        elif count == 1:
            threads = self._pacer.threads
            start = perf_counter()
            self.team.run(self._program, self._job_address, threads)
            self._pacer.record(perf_counter() - start)
        else:
            self.team.run(self._program, self._job_address)
        logits = self._buffers["logits"][: len(wanted), : self.config.vocab_size]
        return logits.astype(np.float32)  # a copy

    def _run_coded(self) -> None:
        """Run up to each coded layer, decode it, and run it."""
        start = 0
        with ThreadPoolExecutor(self.team.threads) as pool:
            for number, block in self._coded.items():
                self._run_layers(start, number)
                decoded = dict(pool.map(_decoded, _coded_matrices(block)))
                for name, matrix in decoded.items():
                    own = self._layers[name][number]
                    record = matrix.record[0].copy()
                    record["bias"], record["coarse"] = own["bias"], own["coarse"]
                    self._layers[name][number] = record
                self._run_layers(number, number + 1)
                start = number + 1
        self._run_layers(start, self.config.n_layer)

    def _run_layers(self, first: int, last: int) -> None:
        if first < last or last == self.config.n_layer:
            self._job["first"], self._job["last"] = first, last
            self.team.run(self._program, self._job_address)

    def _reserve(self, tokens: int, wanted: int, cache: PagedCache) -> None:
        """Memory for so many tokens and logits; what it holds between two runs means nothing."""
        room = max(tokens, self._room[0]), max(wanted, self._room[1])
        if room == self._room and self._buffers:
            return
        self._room = tokens, wanted = room
        config, threads = self.config, self.team.threads
        rows = max(tokens, threads)
        width = config.n_embd
        widths = (width, width, 3 * width, width, config.n_inner, config.vocab_size)
        job = self._job[0]
        job["flags"] = self.team.flags
        self._inputs = {name: np.zeros(max(tokens, wanted), np.int64) for name in _INPUTS}
        for name, values in self._inputs.items():
            job[name] = address(values)
        for name, columns in zip(_BUFFERS, widths, strict=True):
            stride = -(-columns // TILE_ROWS) * TILE_ROWS
            # Zeros, as what pads a row is multiplied by steps of zero, which NaN would survive.
            buffer = np.zeros((wanted if name == "logits" else rows, stride), np.float32)
            self._buffers[name] = buffer
            job[name]["address"], job[name]["stride"] = address(buffer), buffer.strides[0]
        own = activation_bytes(max(config.n_embd, config.n_inner))
        each = max(scratch_bytes(tokens), attention_bytes(cache.width, config.n_positions))
        for name, shape in (("activation", (rows, own)), ("scratch", (threads, each))):
            self._buffers[name] = np.empty(shape, np.uint8)
            job[f"{name}_bytes"] = shape[1]
        job["activations"] = address(self._buffers["activation"])
        job["scratch"] = address(self._buffers["scratch"])

    def _keep(self, array: NDArray[np.generic]) -> int:
        self._kept.append(array)
        return address(array)

    def _padded(self, vector: Float32, multiple: int) -> int:
        """Address of a copy with zeros to a multiple."""
        padded = np.zeros(-(-len(vector) // multiple) * multiple, np.float32)
        padded[: len(vector)] = vector
        return self._keep(padded)

    def _norm(self, norm: LayerNorm) -> tuple[int, int]:
        """A record of NORM."""
        gamma, beta, _ = norm.norm
        return self._padded(gamma, PANEL_COLUMNS), self._padded(beta, PANEL_COLUMNS)

    def _linear(self, linear: Linear) -> Any:
        """A record of MATRIX; of a coded matrix, of its bias alone."""
        weight = linear.weight
        if isinstance(weight, CodedMatrix):
            record: Any = np.zeros(1, MATRIX)[0]
        else:
            record = self._matrix(weight)
        record["bias"] = self._padded(linear.bias, PANEL_COLUMNS)
        record["coarse"] = self._is_coarse(weight)
        return record

    def _is_coarse(self, weight: Weight) -> bool:
        if self._activations == "auto":
            return isinstance(weight, PanelMatrix) and weight.layout in (EVEN_2, BENT_4)
        return self._activations == "8"

    def _matrix(self, weight: Weight) -> Any:
        """A record of MATRIX, without bias; the same for the same matrix."""
        if id(weight) not in self._matrices:
            if isinstance(weight, PanelMatrix):
                self._matrices[id(weight)] = weight, weight.record
            else:
                self._matrices[id(weight)] = weight, self._float_panels(dense(weight))
        record: Any = self._matrices[id(weight)][1]
        return record[0].copy()

    def _float_panels(self, weight: Float32) -> NDArray[np.void]:
        rows, columns = weight.shape
        panels = -(-columns // PANEL_COLUMNS)
        values = np.zeros((panels, rows, PANEL_COLUMNS), np.float32)
        for panel in range(panels):
            part = weight[:, panel * PANEL_COLUMNS : (panel + 1) * PANEL_COLUMNS]
            values[panel, :, : part.shape[1]] = part
        record = np.zeros(1, MATRIX)
        record["form"], record["values"] = FLOATS, self._keep(values)
        record["rows"], record["panels"] = rows, panels
        record["column_steps"] = self._padded(np.ones(columns, np.float32), PANEL_COLUMNS)
        return record


def _linears(block: TransformerBlock) -> Iterator[tuple[str, Linear]]:
    """A block's matrices under their names in a record of LAYER."""
    yield "c_attn", block.attn.c_attn
    yield "attn_proj", block.attn.c_proj
    yield "c_fc", block.mlp.c_fc
    yield "mlp_proj", block.mlp.c_proj


def _coded_matrices(block: TransformerBlock) -> Iterator[tuple[str, CodedMatrix]]:
    """Those of a block that are still entropy-coded."""
    for name, linear in _linears(block):
        if isinstance(linear.weight, CodedMatrix):
            yield name, linear.weight


def _decoded(named: tuple[str, CodedMatrix]) -> tuple[str, PanelMatrix]:
    name, matrix = named
    return name, matrix.decoded()
