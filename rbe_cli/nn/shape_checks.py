"""Refuse arrays of a wrong shape where they enter a layer."""

from collections.abc import Sequence
from types import EllipsisType

from rbe_cli.errors import UsageError

Axis = int | str | EllipsisType
"""A size, the name of an axis of any size, or any number of leading axes."""


def check_shape(what: str, found: Sequence[int], expected: Sequence[Axis]) -> None:
    """Compare the shape of an array with the one that a layer takes.

    Args:
        what: names the layer and the array.
        found: the array's shape.
        expected: its sizes; `...` may stand first.

    Raises:
        UsageError: they differ; the message states both.
    """
    sizes = expected
    if expected and expected[0] is ...:
        sizes = expected[1:]
        own = found[len(found) - len(sizes) :] if len(found) >= len(sizes) else ()
    else:
        own = found
    if len(own) != len(sizes) or any(
        isinstance(size, int) and size != length for size, length in zip(sizes, own, strict=True)
    ):
        raise UsageError(
            f"{what} has the shape {shape_text(found)}, and {shape_text(expected)} is expected"
        )


def shape_text(shape: Sequence[Axis]) -> str:
    """Return a shape as messages show it, such as `[2, 3]` or `[..., 42]`."""
    return f"[{', '.join('...' if axis is ... else str(axis) for axis in shape)}]"
