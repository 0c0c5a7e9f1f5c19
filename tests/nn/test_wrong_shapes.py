"""Every layer refuses arrays of a wrong shape in one sentence that states both shapes."""

import numpy as np
import pytest
from small_layers import random_block, random_input
from small_models import random_tensors, small_config

from rbe_cli.errors import UsageError
from rbe_cli.nn.attention_layer import Attention
from rbe_cli.nn.embedding import Embedding
from rbe_cli.nn.feed_forward_layer import FeedForward
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.kv_cache import KVCache
from rbe_cli.nn.layer_norm_layer import LayerNorm
from rbe_cli.nn.linear_layer import Linear
from rbe_cli.nn.shape_checks import check_shape
from rbe_cli.nn.tape import SavedTensors, Tape
from rbe_cli.nn.transformer_block import TransformerBlock


def refuses(call, *texts):
    """The message names these in this order."""
    with pytest.raises(UsageError) as caught:
        call()
    message, place = str(caught.value), 0
    for text in texts:
        assert text in message[place:], message
        place = message.index(text, place) + len(text)
    assert "\n" not in message


def test_shapes_are_compared_axis_by_axis():
    check_shape("x", (2, 3), (2, 3))
    check_shape("x", (2, 3), ("batch", 3))
    check_shape("x", (3,), (..., 3))
    check_shape("x", (5, 4, 3), (..., 3))
    check_shape("x", (), ())
    for found, expected in [
        ((2, 3), (3, 2)), ((2,), (2, 1)), ((2, 1), (2,)), ((), (..., 3)), ((3,), (..., 2, 3)),
    ]:  # fmt: skip
        refuses(lambda found=found, expected=expected: check_shape("x", found, expected), "x has")
    refuses(lambda: check_shape("x", (2,), (..., 3)), "x has the shape [2], and [..., 3] is")


@pytest.mark.parametrize("largest", [None, 7])
def test_linear(kernels, largest):
    linear = random_block(kernels, largest)[0].mlp.c_fc  # 42 inputs, 77 outputs
    x, grad = random_input(2, 3, 42), random_input(2, 3, 77)
    name = "h.0.mlp.c_fc.weight: "
    refuses(lambda: linear(random_input(2, 41)), name, "input", "[2, 41]", "[..., 42]")
    refuses(lambda: linear(np.array(1, np.float32)), name, "input", "[]", "[..., 42]")
    refuses(lambda: linear(x, out=grad), name, "result", "[2, 3, 77]", "[6, 77]")
    refuses(lambda: linear.backward(grad, grad), name, "input", "[2, 3, 77]", "[..., 42]")
    refuses(lambda: linear.backward(x, x), name, "gradient", "[2, 3, 42]", "[2, 3, 77]")
    refuses(lambda: linear.backward(x, grad[:1]), name, "gradient", "[1, 3, 77]", "[2, 3, 77]")
    other = LayerNorm("ln", 5, kernels).norm
    refuses(lambda: linear(x, norm=other), name, "gamma", "[5]", "[42]")
    bias = random_input(76)
    refuses(lambda: Linear("w", linear.weight, bias, kernels), "w: the bias", "[76]", "[77]")
    refuses(lambda: Linear("w", bias, None, kernels), "w: the weight", "[76]", "[inputs, outputs]")


def test_embedding(kernels):
    table = Embedding("wte", random_input(4, 9), kernels)
    indices = np.array([[1, 8, 0]])
    assert table(indices).shape == (1, 3, 4)
    for wrong in (9, -1):
        refuses(lambda wrong=wrong: table(np.array([wrong])), "wte: index", str(wrong), "9 rows")
    table.backward(indices, random_input(1, 3, 4))
    grad = random_input(3, 4)
    refuses(lambda: table.backward(indices, grad), "wte: the gradient", "[3, 4]", "[1, 3, 4]")
    refuses(lambda: Embedding("e", grad[0], kernels), "e: the weight", "[4]", "[n_embd, rows]")


def test_attention(kernels):
    block, config = random_block(kernels)
    attn, x, qkv = block.attn, random_input(2, 5, 42), random_input(2, 5, 126)
    name = "h.0.attn: "
    refuses(lambda: attn(x[0]), name, "input", "[5, 42]", "[batch, seq, 42]")
    refuses(lambda: attn(qkv), name, "input", "[2, 5, 126]", "[batch, seq, 42]")
    refuses(lambda: attn.attend(x), name, "queries", "[2, 5, 42]", "[batch, seq, 126]")
    for shape in [(1, 1, 1, 5), (2, 2, 1, 5), (2, 1, 4, 5), (2, 1, 1, 4), (2, 5)]:
        mask = np.ones(shape, bool)
        told = str(list(shape)), "[2, 1 or 3, 1 or 5, 5]"
        refuses(lambda mask=mask: attn(x, mask=mask), name, "mask", *told)
        refuses(lambda mask=mask: attn.backward(x, qkv, x, x, mask=mask), name, "mask", *told)
    refuses(lambda: attn(x, mask=np.ones((2, 1, 1, 5))), name, "bool", "float64")
    weights = np.empty((2, 3, 5, 4), np.float32)
    refuses(lambda: attn(x, weights=weights), name, "weights", "[2, 3, 5, 4]", "[2, 3, 5, 5]")
    wrong = [
        ((qkv, qkv, x, x), "input"), ((x, x, x, x), "queries"), ((x, qkv, qkv, x), "heads'"),
        ((x, qkv, x, qkv), "gradient"),
    ]  # fmt: skip
    for arrays, what in wrong:
        refuses(lambda arrays=arrays: attn.backward(*arrays), name, what, "[2, 5, ", "is expected")
    cache = KVCache(config, 1).layers(np.arange(1), 5)[0]
    refuses(lambda: attn(x, cache), name, "row numbers", "[1]", "[2]")
    short = KVCache(small_config(n_positions=4), 2).layers(np.arange(2), 4)[0]
    refuses(lambda: attn(x, short), name, "5 positions", "4")
    other = KVCache(small_config(n_head=6), 2).layers(np.arange(2), 5)[0]
    refuses(lambda: attn(x, other), name, "keys", "[2, 6, 96, 7]", "[rows, 3, capacity, 14]")
    parts = attn.c_attn, attn.c_proj
    refuses(lambda: Attention(*parts, 4, 1.0, kernels), name, "42", "4 heads")
    refuses(lambda: Attention(*parts[::-1], 3, 1.0, kernels), "c_attn", "[42, 42]", "[42, 126]")
    refuses(
        lambda: Attention(parts[0], block.mlp.c_fc, 3, 1.0, kernels),
        "c_proj", "[42, 77]", "[42, 42]",
    )  # fmt: skip


def test_feed_forward(kernels):
    mlp = random_block(kernels)[0].mlp
    x, hidden = random_input(2, 5, 42), random_input(2, 5, 77)
    name = "h.0.mlp: "
    refuses(lambda: mlp(hidden), name, "input", "[2, 5, 77]", "[..., 42]")
    refuses(lambda: mlp.backward(hidden, x), name, "input", "[2, 5, 77]", "[..., 42]")
    refuses(lambda: mlp.backward(x, x[0]), name, "gradient", "[5, 42]", "[2, 5, 42]")
    refuses(lambda: mlp.backward(x, x, None, x), name, "hidden", "[2, 5, 42]", "[2, 5, 77]")
    refuses(lambda: mlp.expand(hidden), "h.0.mlp.c_fc.weight", "[2, 5, 77]", "[..., 42]")
    refuses(lambda: mlp.contract(x), "h.0.mlp.c_proj.weight", "[2, 5, 42]", "[..., 77]")
    square = random_block(kernels)[0].attn.c_proj
    refuses(lambda: FeedForward(mlp.c_fc, square, "gelu", kernels), name, "[42, 42]", "[77, 42]")


def test_block(kernels):
    block, _ = random_block(kernels)
    x = random_input(2, 5, 42)
    refuses(lambda: block(x[0]), "h.0: ", "input", "[5, 42]", "[batch, seq, 42]")
    refuses(lambda: block.record(x[..., :3]), "h.0: ", "[2, 5, 3]", "[batch, seq, 42]")
    saved = SavedTensors(x)
    refuses(lambda: block.backward(saved, x[:1]), "h.0: ", "gradient", "[1, 5, 42]", "[2, 5, 42]")
    refuses(lambda: block.backward(SavedTensors(x[0]), x), "h.0: ", "[5, 42]", "[batch, seq, 42]")
    other = LayerNorm("other", 41, kernels)
    refuses(
        lambda: TransformerBlock(block.ln_1, block.attn, other, block.mlp),
        "h.0: the LayerNorm other", "[41]", "[42]",
    )  # fmt: skip


def test_model(kernels):
    config = small_config()
    tensors = random_tensors(config)
    model = Gpt2.from_checkpoint(config, tensors, kernels)
    tokens = np.zeros((2, 5), np.int64)
    for call in (model.forward, model.hidden, model.attention_weights):
        refuses(lambda call=call: call(tokens[0]), "token ids", "[5]", "[batch, seq]")
    refuses(lambda: model.record(tokens[0], Tape()), "token ids", "[5]", "[batch, seq]")
    refuses(lambda: model.attention_weights(tokens, [3]), "layer 3", "3 layers")
    tape = Tape()
    refuses(lambda: model.backward(tape, np.zeros((2, 5, 211))), "tape holds no forward pass")
    refuses(lambda: model.hidden_backward(tape, np.zeros((2, 5, 42))), "call record before")
    model.record(tokens, tape)
    grad = np.zeros((2, 4, 211), np.float32)
    refuses(lambda: model.backward(tape, grad), "wte.weight", "[2, 4, 211]", "[2, 5, 211]")
    name = "h.1.mlp.c_fc.weight"
    wrong = tensors | {name: tensors[name].T}
    refuses(lambda: Gpt2.from_checkpoint(config, wrong, kernels), name, "[77, 42]", "[42, 77]")
    del wrong[name]
    refuses(lambda: Gpt2.from_checkpoint(config, wrong, kernels), "needs a tensor", name)
