"""The difference of two `.rbe` files, for people."""

from typing import TYPE_CHECKING, Any

from rbe_cli.cli.output import facts, size, table

if TYPE_CHECKING:
    from rich.console import Console

    from rbe_cli.evaluation.file_difference import Change, Difference, TensorDifference

_BASES = (
    "Queries and keys, and values and output, of each head may be stored in any basis: such\n"
    "tensors then differ, and the function does not. The products do not depend on the bases.\n"
    "If a file's residual stream is rotated, its tensors are turned back before, and the layers'\n"
    "LayerNorms count as part of the matrices behind them."
)


def show_difference(console: "Console", found: "Difference") -> None:
    """Draw the difference: what is not the same in words, then a table of tensors."""
    pairs = [("compared with", found.other)]
    pairs += [(change.key.replace("_", " "), _sizes(change)) for change in found.sizes]
    if not found.config:
        pairs.append(("config", "the same"))
    pairs += [(f"config: {own.key}", _both(own.this, own.other)) for own in found.config]
    for own in found.provenance:
        if own.key != "extra":  # the quality, which stands above for this file
            pairs.append((own.key.replace("_", " "), _both(own.this, own.other)))
    console.print()
    console.print(facts(pairs))
    columns = ("tensor", "codec", "bits", "other codec", "bits", "relative error")
    console.print(table("", columns, [_row(tensor) for tensor in found.tensors]))
    if found.attention:
        rows = [(str(own.layer), _error(own.scores), _error(own.values)) for own in found.attention]
        console.print(table("", ("layer", "queries x keys", "values x output"), rows))
        console.print(_BASES)


def _both(this: Any, other: Any) -> str:
    return f"{_word(this)} here, {_word(other)} there"


def _word(value: Any) -> str:
    return "none" if value is None else str(value)


def _sizes(change: "Change") -> str:
    if change.key == "file_bytes":
        return _both(size(change.this), size(change.other))
    if change.key == "bits_per_weight":
        return _both(f"{change.this:.3f}", f"{change.other:.3f}")
    return _both(f"{change.this:,}", f"{change.other:,}")


def _row(own: "TensorDifference") -> tuple[str, ...]:
    if own.shape is None or own.other_shape is None:
        error = "only there" if own.shape is None else "only here"
    elif own.shape != own.other_shape:
        error = f"{_shape(own.shape)} here, {_shape(own.other_shape)} there"
    else:
        error = _error(own.relative_error)
    return (
        own.name,
        own.codec or "",
        _bits(own.bits_per_weight),
        own.other_codec or "",
        _bits(own.other_bits_per_weight),
        error,
    )


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _bits(bits: float | None) -> str:
    return "" if bits is None else f"{bits:.3f}"


def _error(error: float | None) -> str:
    if error is None:
        return "all zero there"
    return "0" if error == 0 else f"{error:.2e}" if error < 1e-4 else f"{error:.5f}"
