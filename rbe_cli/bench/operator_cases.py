"""Build the calls that a benchmark of layers times: each op, each way, forward or backward."""

import math
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from rbe_cli.bench.operator_names import Op, Variant
from rbe_cli.bench.operator_shapes import Shape
from rbe_cli.kernels.kernel_table import Kernels
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_embedding, is_matrix, tensor_shapes
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.gradients import Gradients
from rbe_cli.nn.layer_norm_layer import NormVariant
from rbe_cli.nn.transformer_block import TransformerBlock
from rbe_cli.runtime.arrays import Float32, Floating
from rbe_cli.runtime.buffer_pool import BufferPool
from rbe_cli.runtime.traced_memory import traced_peak
from rbe_cli.weights.panel_layout import INT_8, panel_shape
from rbe_cli.weights.uniform_panels import UniformPanels
from rbe_cli.weights.weight_forms import Weight, dense

LayerCall = Callable[[], Any]
"""Computes a layer, and returns its output: an array, or one on the GPU."""


@dataclass(frozen=True)
class Case:
    """Hold a block that is ready to be timed.

    Attributes:
        calls: the call of each op.
        weight_bytes: bytes of each op's parameters in memory.
        call_bytes: returns the most bytes that a call of an op has in use at once.
    """

    calls: dict[Op, LayerCall]
    weight_bytes: dict[Op, int]
    call_bytes: Callable[[Op], int]


def build_case(
    shape: Shape,
    tensors: dict[str, Weight],
    x: Float32,
    variant: Variant,
    kernels: Kernels,
    *,
    backward: bool,
    memory_limit: int | None,
) -> Case:
    """Return a block and the calls of its layers on x `[batch, seq, dim]`.

    Args:
        shape: says what the block is like; x may be smaller.
        tensors: tensors of a model of one layer, in panels.
        x: input.
        variant: the way to compute.
        kernels: compute.
        backward: whether to call the backward passes, with saved tensors and all gradients.
        memory_limit: limit of the block, see `TransformerBlock`.
    """
    block = Gpt2(shape.config(), held(tensors, variant), kernels).blocks[0]
    block.memory_limit = memory_limit
    if variant in (Variant.standard, Variant.mixed):
        name: NormVariant = "standard" if variant is Variant.standard else "mixed"
        block.ln_1.variant = block.ln_2.variant = name
    given: Floating = x.astype(np.float16) if variant is Variant.mixed else x
    calls = _backward_calls(block, given) if backward else _forward_calls(block, given)
    weight_bytes = {op: _weight_bytes(block, op) for op in Op}
    return Case(calls, weight_bytes, lambda op: _traced_bytes(calls[op], kernels.buffers))


def _traced_bytes(call: LayerCall, buffers: BufferPool) -> int:
    """Return the most that a call has in use at once."""
    tracemalloc.start()
    try:
        with traced_peak(buffers) as found:
            call()
        return found.peak_bytes
    finally:
        tracemalloc.stop()


def held(tensors: dict[str, Weight], variant: Variant) -> dict[str, Weight]:
    """Return the tensors in the form that a variant computes with; the others stay as they are."""
    if variant is not Variant.standard:
        return tensors
    return {name: own if _is_vector(own) else dense(own) for name, own in tensors.items()}


def _forward_calls(block: TransformerBlock, x: Floating) -> dict[Op, LayerCall]:
    return {
        Op.layernorm: partial(block.ln_1, x),
        Op.linear: partial(block.attn.c_proj, x),
        Op.feedforward: partial(block.mlp, x),
        Op.attention: partial(block.attn, x),
        Op.block: partial(block, x),
    }


def _backward_calls(block: TransformerBlock, x: Floating) -> dict[Op, LayerCall]:
    grad = np.random.default_rng(1).standard_normal(x.shape, np.float32)
    statistics = np.empty((x.shape[0] * x.shape[1], 2))
    block.ln_1(x, statistics)
    attn, mlp = block.attn, block.mlp
    qkv = attn.c_attn(x)
    attended, hidden = attn.attend(qkv), mlp.expand(x)
    _, saved = block.record(x)
    return {
        Op.layernorm: lambda: block.ln_1.backward(x, grad, Gradients(), statistics),
        Op.linear: lambda: attn.c_proj.backward(x, grad, Gradients()),
        Op.feedforward: lambda: mlp.backward(x, grad, Gradients(), hidden),
        Op.attention: lambda: attn.backward(x, qkv, attended, grad, Gradients()),
        Op.block: lambda: block.backward(saved, grad, Gradients()),
    }


def _weight_bytes(block: TransformerBlock, op: Op) -> int:
    attn, mlp = block.attn, block.mlp
    linears = {
        Op.layernorm: [],
        Op.linear: [attn.c_proj],
        Op.feedforward: [mlp.c_fc, mlp.c_proj],
        Op.attention: [attn.c_attn, attn.c_proj],
        Op.block: [attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj],
    }
    norms = {Op.layernorm: 1, Op.block: 2}.get(op, 0) * 8 * block.ln_1.width
    return norms + sum(own.weight.nbytes + own.bias.nbytes for own in linears[op])


def random_tensors(config: Gpt2Config, rng: np.random.Generator) -> dict[str, Weight]:
    """Return a model's tensors: 8-bit panels for its layers' matrices, zeros for embeddings."""
    tensors: dict[str, Weight] = {}
    for name, size in tensor_shapes(config).items():
        if is_embedding(name):
            tensors[name] = np.zeros(size[::-1], np.float32)
        elif is_matrix(name):
            tensors[name] = random_panels((size[0], size[1]), rng)
        else:
            tensors[name] = rng.standard_normal(size, np.float32)
    return tensors


def random_panels(shape: tuple[int, int], rng: np.random.Generator) -> UniformPanels:
    """Return a matrix `[K, N]` of random 8-bit integers that keeps the scale of its input."""
    rows, columns = shape
    values = rng.integers(1, 256, panel_shape(shape, INT_8.bits), np.uint8)  # -127 to 127
    deviation = np.std(INT_8.levels[1:])
    steps = np.full(columns, 1 / (deviation * math.sqrt(rows)), np.float32)
    return UniformPanels(values.reshape(-1), INT_8, np.ones(rows, np.float32), steps, shape)


def _is_vector(tensor: Weight) -> bool:
    return isinstance(tensor, np.ndarray) and tensor.ndim == 1
