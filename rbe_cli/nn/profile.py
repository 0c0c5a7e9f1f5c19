"""Say how long each part of a block takes, and what memory the block needs."""

from dataclasses import asdict, dataclass

from rbe_cli.errors import UsageError
from rbe_cli.nn.layer import Layer
from rbe_cli.nn.transformer_block import TransformerBlock


@dataclass(frozen=True)
class LayerProfile:
    """Describe an average forward pass of one block, in the fields of docs/json.md.

    Attributes:
        layer: the block's number, from 0.
        ln_1_ns, attention_ns, ln_2_ns, feed_forward_ns: nanoseconds of each part.
        residual_ns: nanoseconds of all else, the residual sums.
        total_ns: nanoseconds of the block.
        peak_memory_bytes: the most that a call had in use at once, as of `LayerStats`.
    """

    layer: int
    ln_1_ns: int
    attention_ns: int
    ln_2_ns: int
    feed_forward_ns: int
    residual_ns: int
    total_ns: int
    peak_memory_bytes: int

    @classmethod
    def of_block(cls, layer: int, block: TransformerBlock) -> "LayerProfile":
        """Return the averages of a block that counts its passes.

        Args:
            layer: the block's number.
            block: has run with `fuses_layers` off, so that its LayerNorms ran by themselves.

        Raises:
            UsageError: it does not count, has not run, or has fused its layers.
        """
        ln_1, attention, ln_2, feed_forward = (
            _average_ns(part, block.name) for _, part in block.parts()
        )
        parts = ln_1 + attention + ln_2 + feed_forward
        total = max(_average_ns(block, block.name), parts)
        peak = 0 if block.stats is None else block.stats.peak_memory_bytes
        return cls(layer, ln_1, attention, ln_2, feed_forward, total - parts, total, peak)

    def record(self) -> dict[str, int]:
        """Return the fields by name."""
        return asdict(self)


def _average_ns(layer: Layer, block: str) -> int:
    if layer.stats is None or not layer.stats.calls:
        raise UsageError(f"{block}: {layer.name} has counted no forward pass of its own")
    return round(layer.stats.average_ns)
