import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.bench.operator_names import Op
from rbe_cli.bench.operator_shapes import DEFAULT_SHAPES, Shape, byte_count, flop_count
from rbe_cli.errors import UsageError

SMALL = Shape(batch=2, seq=3, dim=4)  # 6 tokens; one head


@given(*[st.integers(1, 999_999_999)] * 3)
def test_a_shape_survives_its_text(batch: int, seq: int, dim: int) -> None:
    shape = Shape(batch, seq, dim)
    assert Shape.parse(str(shape)) == shape


NO_SHAPES = ["abc", "8x256", "8x256x64x2", "8x0x2", "-1x2x3", "08x2x3", "1e3x2x3", "8X2X3", "²x2x3"]


@pytest.mark.parametrize("text", ["", "8 x2x3", "8x2x3\n", "9" * 5000 + "x1x1", *NO_SHAPES])
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not BATCHxSEQxDIM"):
        Shape.parse(text)


def test_the_default_shapes() -> None:
    texts = [str(shape) for shape in DEFAULT_SHAPES]
    assert texts == ["32x64x768", "16x128x1024", "8x256x2048", "4x512x4096"]
    assert {shape.tokens for shape in DEFAULT_SHAPES} == {2048}


@given(st.integers(1, 5000))
def test_every_width_has_heads(dim: int) -> None:
    config = Shape(1, 1, dim).config()
    assert config.n_head * config.head_dim == dim
    assert config.head_dim <= 64
    assert config.n_inner == 4 * dim


@pytest.mark.parametrize(("dim", "head_dim"), [(768, 64), (100, 50), (97, 1), (5, 5), (4096, 64)])
def test_heads_are_as_wide_as_they_divide(dim: int, head_dim: int) -> None:
    assert Shape(1, 1, dim).config().head_dim == head_dim


@pytest.mark.parametrize(
    ("op", "flops"),
    [
        (Op.layernorm, 8 * 24),
        (Op.linear, 2 * 6 * 4 * 4),
        (Op.feedforward, 2 * 6 * (4 * 16 + 16 * 4)),
        # c_attn, c_proj, then 1 + 2 + 3 visible positions a sequence, in scores and values
        (Op.attention, 2 * 6 * (4 * 12 + 4 * 4) + 2 * (2 * 2 * 6 * 4)),
    ],
)
def test_operations_are_counted(op: Op, flops: int) -> None:
    assert flop_count(op, SMALL) == flops


@pytest.mark.parametrize(
    ("op", "flops"),
    [
        (Op.layernorm, 18 * 24),
        (Op.linear, 2 * (2 * 6 * 4 * 4)),
        (Op.attention, 2 * (2 * 6 * (4 * 12 + 4 * 4)) + 5 * (2 * 2 * 6 * 4)),
    ],
)
def test_operations_of_backward_passes_are_counted(op: Op, flops: int) -> None:
    assert flop_count(op, SMALL, backward=True) == flops


def test_bytes_of_backward_passes_are_counted() -> None:
    """The matrix, its gradient; the bias, its gradient; x and two gradients."""
    expected = 32 * 16 + 4 * 4 + 4 * 16 + 2 * 4 * 4 + 3 * 4 * 24
    assert byte_count(Op.linear, SMALL, backward=True) == expected


@pytest.mark.parametrize("backward", [False, True])
def test_a_block_is_the_sum_of_its_layers(backward: bool) -> None:
    parts = [Op.layernorm, Op.layernorm, Op.attention, Op.feedforward]
    assert flop_count(Op.block, SMALL, backward) == sum(
        flop_count(op, SMALL, backward) for op in parts
    )


@pytest.mark.parametrize(
    ("op", "panels", "rows", "vectors", "activations"),
    [
        (Op.layernorm, 0, 0, 4 + 4, 2),
        (Op.linear, 1, 4, 4, 2),
        (Op.feedforward, 1 + 1, 4 + 16, 16 + 4, 2),
        (Op.attention, 1 + 1, 4 + 4, 12 + 4, 4),
        (Op.block, 1 + 1 + 1 + 1, 4 + 4 + 4 + 16, 16 + 12 + 4 + 16 + 4, 4),
    ],
)
def test_bytes_are_counted(op: Op, panels: int, rows: int, vectors: int, activations: int) -> None:
    """A panel of up to 32 rows and 16 columns is one tile."""
    expected = panels * 32 * 16 + 4 * rows + 4 * vectors + 4 * activations * math.prod((2, 3, 4))
    assert byte_count(op, SMALL) == expected
