"""Name the layers that can be timed, and count what one call of each computes and moves."""

import math
import re
from dataclasses import dataclass

from rbe_cli.bench.operator_names import Op
from rbe_cli.errors import UsageError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import layer_shapes
from rbe_cli.nn.operation_counts import (
    attention_operations,
    linear_operations,
    norm_operations,
)
from rbe_cli.quoting import quoted
from rbe_cli.weights.panel_layout import panel_shape

_FORM = re.compile(r"([1-9]\d{0,8})x([1-9]\d{0,8})x([1-9]\d{0,8})", re.ASCII)
_WIDEST_HEAD = 64
_FLOAT32 = 4  # bytes


_TENSORS = {
    Op.layernorm: "ln_1.",
    Op.linear: "attn.c_proj.",
    Op.feedforward: "mlp.",
    Op.attention: "attn.",
    Op.block: "",
}
"""How the names of an op's tensors begin within a block."""


@dataclass(frozen=True)
class Shape:
    """Describe the input of a layer, `[batch, seq, dim]`; as text BATCHxSEQxDIM."""

    batch: int
    seq: int
    dim: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.seq}x{self.dim}"

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Read BATCHxSEQxDIM.

        Raises:
            UsageError: the text has another form.
        """
        found = _FORM.fullmatch(text)
        if not found:
            raise UsageError(
                f"`shape` {quoted(text)} is not BATCHxSEQxDIM in whole numbers from 1, "
                "like 32x64x768"
            )
        return cls(*map(int, found.groups()))

    @property
    def tokens(self) -> int:
        return self.batch * self.seq

    def config(self) -> Gpt2Config:
        """Return one layer of this width: 4 * dim in the feed-forward part, heads of up to 64."""
        head_dim = max(n for n in range(1, _WIDEST_HEAD + 1) if self.dim % n == 0)
        return Gpt2Config(
            vocab_size=1,
            n_positions=self.seq,
            n_embd=self.dim,
            n_layer=1,
            n_head=self.dim // head_dim,
            n_inner=4 * self.dim,
        )


DEFAULT_SHAPES = tuple(
    Shape.parse(text) for text in ("32x64x768", "16x128x1024", "8x256x2048", "4x512x4096")
)


def flop_count(op: Op, shape: Shape, backward: bool = False) -> int:
    """Return the floating-point operations of one call, counted as in nn/operation_counts.py."""
    tensors = _tensors(op, shape)
    weights = sum(math.prod(size) for size in tensors.values() if len(size) == 2)
    norms = sum(name.startswith("ln_") and name.endswith(".weight") for name in tensors)
    flops = linear_operations(shape.tokens, weights, backward)
    flops += norm_operations(norms * shape.tokens * shape.dim, backward)
    if _attends(op):
        flops += attention_operations([0] * shape.batch, shape.seq, shape.dim, backward)
    return flops


def byte_count(op: Op, shape: Shape, backward: bool = False) -> int:
    """Return the bytes that one call has to move at least: each of these once.

    The parameters as they are held (8-bit panels with a float32 step a row; float32 vectors),
    the input and the output, and the keys and values that attention hands on in its cache;
    backward, the parameters, their gradients in float32, the input, and the gradients of both
    ends. Not counted: what lives only within the call, and anything that is read twice.
    """
    tensors = _tensors(op, shape).values()
    matrices = [(size[0], size[1]) for size in tensors if len(size) == 2]
    panels = sum(math.prod(panel_shape(size, 8)) + _FLOAT32 * size[0] for size in matrices)
    vectors = sum(_FLOAT32 * size[0] for size in tensors if len(size) == 1)
    activation = _FLOAT32 * shape.tokens * shape.dim
    if backward:
        return panels + 2 * vectors + _FLOAT32 * sum(map(math.prod, matrices)) + 3 * activation
    return panels + vectors + (4 if _attends(op) else 2) * activation


def _tensors(op: Op, shape: Shape) -> dict[str, tuple[int, ...]]:
    shapes = layer_shapes(shape.config())
    return {name: size for name, size in shapes.items() if name.startswith(_TENSORS[op])}


def _attends(op: Op) -> bool:
    return op in (Op.attention, Op.block)
