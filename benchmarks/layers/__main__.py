"""Print the table of docs/results.md: `python -m benchmarks.layers`."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import astuple
from functools import partial
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rbe_cli.bench.operator_cases import random_tensors
from rbe_cli.bench.operator_shapes import DEFAULT_SHAPES, Shape
from rbe_cli.bench.timing import time_in_turn
from rbe_cli.kernels import numpy_twins
from rbe_cli.kernels.kernel_table import Kernels, load_kernels
from rbe_cli.model.config import Activation
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.gradients import Gradients
from rbe_cli.nn.transformer_block import TransformerBlock
from rbe_cli.runtime.arrays import Float32
from rbe_cli.weights.weight_forms import dense

Call = Callable[[], object]
Comparison = tuple[str, Call, str, Call]  # (what, ours, the other's name, the other)
_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu": functional.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": functional.silu,
    "relu": functional.relu,
}


def comparisons(shape: Shape, kernels: Kernels) -> Iterator[Comparison]:
    """Yield all comparisons of one shape."""
    rng = np.random.default_rng(0)
    tensors = random_tensors(shape.config(), rng)
    block = Gpt2(shape.config(), tensors, kernels).blocks[0]
    x = rng.standard_normal(astuple(shape), np.float32)
    yield from _layer_norm(block, x)
    yield from _activation_gradients(shape, kernels, rng)
    yield from _products(block, x)


def _layer_norm(block: TransformerBlock, x: Float32) -> Iterator[Comparison]:
    norm, out = block.ln_1, np.empty_like(x)
    rows, gamma, beta = x.reshape(-1, x.shape[-1]), *norm.norm[:2]
    call = "LayerNorm"
    yield call, lambda: norm(x), "memory copy", lambda: np.copyto(out, x)
    flat = out.reshape(rows.shape)
    yield (
        call, lambda: norm(x), "numpy",
        lambda: numpy_twins.layer_norm(rows, gamma, beta, norm.eps, flat),
    )  # fmt: skip
    given, weight, bias = (torch.tensor(own) for own in (x, gamma, beta))
    for own in (given, weight, bias):
        own.requires_grad_()
    width = x.shape[-1:]

    def forward() -> Tensor:
        return functional.layer_norm(given, width, weight, bias, norm.eps)

    def no_grad() -> Tensor:
        with torch.no_grad():
            return forward()

    yield call, lambda: norm(x), "torch", no_grad
    grad, result = np.ones_like(x), forward()
    statistics = np.empty((len(rows), 2))
    norm(x, statistics)
    gradient = torch.tensor(grad)
    yield (
        f"{call} backward", lambda: norm.backward(x, grad, Gradients(), statistics), "torch",
        lambda: torch.autograd.grad(result, (given, weight, bias), gradient, retain_graph=True),
    )  # fmt: skip


def _activation_gradients(
    shape: Shape, kernels: Kernels, rng: np.random.Generator
) -> Iterator[Comparison]:
    x = rng.standard_normal((shape.tokens, 4 * shape.dim), np.float32)
    grad = np.ones_like(x)
    given, gradient = torch.tensor(x).requires_grad_(), torch.tensor(grad)
    for name, function in _ACTIVATIONS.items():
        result = function(given)

        def theirs(result: Tensor = result) -> object:
            return torch.autograd.grad(result, given, gradient, retain_graph=True)

        ours = partial(kernels.activate_backward, name, x, grad)
        yield f"{name} backward", ours, "torch", theirs


def _products(block: TransformerBlock, x: Float32) -> Iterator[Comparison]:
    given = torch.tensor(x)
    weights = {
        linear.name: (torch.tensor(dense(linear.weight)), torch.tensor(linear.bias))
        for linear in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
    }
    c_attn, attn_proj, c_fc, mlp_proj = weights.values()
    norms = [nn.LayerNorm(x.shape[-1], norm.eps) for norm in (block.ln_1, block.ln_2)]

    def feed_forward(own: Tensor) -> Tensor:
        return _addmm(functional.gelu(_addmm(own, c_fc), approximate="tanh"), mlp_proj)

    def attention(own: Tensor) -> Tensor:
        batch, seq, width = own.shape
        heads = block.attn.heads
        qkv = _addmm(own, c_attn).view(batch, seq, 3, heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=True)
        return _addmm(mixed.transpose(1, 2).reshape(batch, seq, width), attn_proj)

    def whole(own: Tensor) -> Tensor:
        middle = own + attention(norms[0](own))
        return middle + feed_forward(norms[1](middle))

    for label, ours, theirs in (
        ("feed-forward", block.mlp, feed_forward),
        ("attention", block.attn, attention),
        ("block", block, whole),
    ):

        def run(theirs: Callable[[Tensor], Tensor] = theirs) -> Tensor:
            with torch.no_grad():
                return theirs(given)

        yield label, lambda ours=ours: ours(x), "torch", run  # type: ignore[misc]


def _addmm(x: Tensor, linear: tuple[Tensor, Tensor]) -> Tensor:
    weight, bias = linear
    return torch.addmm(bias, x.flatten(0, -2), weight).view(*x.shape[:-1], -1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layers")
    parser.add_argument("--shape", action="append", help="BATCHxSEQxDIM; repeatable")
    parser.add_argument("--threads", type=int, default=2, help="of both")
    parser.add_argument("--only", default="", help="comparisons whose name contains this")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    kernels = load_kernels("fast", arguments.threads)
    shapes = [Shape.parse(text) for text in arguments.shape or ()] or DEFAULT_SHAPES
    print("| shape | | ms | other | ms | times |\n|---|---|---|---|---|---|")
    for shape in shapes:
        for what, ours, name, theirs in comparisons(shape, kernels):
            if arguments.only not in what:
                continue
            ours(), theirs()
            seconds = time_in_turn({"ours": ours, name: theirs})
            own, other = (1e3 * median(found) for found in seconds.values())
            print(f"| {shape} | {what} | {own:.2f} | {name} | {other:.2f} | {other / own:.2f} |")


if __name__ == "__main__":
    main()
