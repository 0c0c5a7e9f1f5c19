"""Build the calls that a benchmark of layers times on a GPU."""

import numpy as np

from rbe_cli.bench.operator_cases import Case, LayerCall
from rbe_cli.bench.operator_names import Op
from rbe_cli.bench.operator_shapes import Shape
from rbe_cli.cuda.block_run import BlockRun
from rbe_cli.cuda.device_block import DeviceBlock
from rbe_cli.cuda.rounded_inputs import RoundedInputs
from rbe_cli.runtime.arrays import Float32
from rbe_cli.weights.weight_forms import Weight


def build_device_case(
    shape: Shape, tensors: dict[str, Weight], x: Float32, *, backward: bool
) -> Case:
    """Return a block on the GPU and the calls of its layers on x `[batch, seq, dim]`.

    Args:
        shape: says what the block is like; x may be smaller.
        tensors: tensors of a model of one layer, in panels or in float32.
        x: input.
        backward: whether to call the backward passes, of which LayerNorm's alone exists.
    """
    inputs = RoundedInputs()
    block = DeviceBlock(shape.config(), 0, tensors, inputs)
    run = BlockRun(shape.config(), block, x)
    calls: dict[Op, LayerCall] = {
        Op.layernorm: run.layer_norm,
        Op.linear: run.linear,
        Op.feedforward: run.feed_forward,
        Op.attention: run.attention,
        Op.block: run.block,
    }
    if backward:
        grad = np.random.default_rng(1).standard_normal(x.shape, np.float32)
        calls = {Op.layernorm: run.layer_norm_backward(grad)}
    weight_bytes = {
        Op.layernorm: block.ln_1.nbytes,
        Op.linear: block.c_proj.nbytes,
        Op.feedforward: block.mlp_bytes,
        Op.attention: block.attention_bytes,
        Op.block: block.nbytes,
    }
    between = {
        Op.layernorm: 0,
        Op.linear: run.linear_bytes,
        Op.feedforward: run.feed_forward_bytes,
        Op.attention: run.attention_bytes,
        Op.block: run.end_bytes + run.attention_bytes + run.feed_forward_bytes,  # x and normed, too
    }
    if backward:
        between[Op.layernorm] = run.layer_norm_backward_bytes
    return Case(calls, weight_bytes, lambda op: run.end_bytes + between[op])
