"""Count the floating-point operations of a layer.

An addition and a multiplication count as one each. Not counted: biases, residual sums, softmax,
activation functions, and what a backward pass computes again.
"""

from collections.abc import Sequence

_NORM, _NORM_BACKWARD = 8, 18  # for each element
_PRODUCTS, _PRODUCTS_BACKWARD = 1, 2  # backward: the gradients of the input and of the weights
_ATTENDED, _ATTENDED_BACKWARD = 2, 5  # products of scores and of values; the scores once more


def linear_operations(tokens: int, weights: int, backward: bool = False) -> int:
    """Return two operations for each weight and token, backward four."""
    return 2 * tokens * weights * (_PRODUCTS_BACKWARD if backward else _PRODUCTS)


def norm_operations(elements: int, backward: bool = False) -> int:
    """Return 8 operations for each element of a LayerNorm's input, backward 18."""
    return elements * (_NORM_BACKWARD if backward else _NORM)


def attention_operations(
    starts: Sequence[int], seq: int, width: int, backward: bool = False
) -> int:
    """Return the operations of attention itself, without its linear layers.

    Each query, position that it may see, and element counts twice in the scores and twice in
    the sum of values; backward ten times in all.

    Args:
        starts: how many positions each sequence had before.
        seq: new positions of each sequence.
        width: of all heads together.
        backward: count the backward pass.
    """
    pairs = sum(seq * start + seq * (seq + 1) // 2 for start in starts)
    return 2 * pairs * width * (_ATTENDED_BACKWARD if backward else _ATTENDED)
