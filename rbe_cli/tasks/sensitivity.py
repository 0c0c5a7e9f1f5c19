"""How much the whole model suffers when one of its matrices alone is quantised."""

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from rbe_cli.checkpoint.names import is_embedding
from rbe_cli.codec.allocation import Probe
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.tasks.calibration import Tokens, batches
from rbe_cli.tasks.encoding import Source, encode_all
from rbe_cli.tasks.evaluate import kl_divergence, log_softmax
from rbe_cli.tasks.progress import Progress

Float32 = NDArray[np.float32]
_PROBE_BITS = 3.0
_PROBE_TOKENS = 4096
_PROBE_LOGITS = 1 << 26  # tokens x vocabulary at most: the reference's are all kept


def probe_step(weights: Float32) -> float:
    """A step that costs about `_PROBE_BITS` a weight: n = 2 q + z has 1.05 - log2(step) bits."""
    scale = float(np.sqrt(np.mean(np.square(weights), dtype=np.float64))) or 1.0
    return scale * 2.0 ** (1.05 - _PROBE_BITS)


def measure(
    model: Gpt2,
    tensors: Mapping[str, Float32],
    sources: Mapping[str, Source],
    sequences: Sequence[Tokens],
    executor: Executor,
    progress: Progress,
) -> dict[str, Probe]:
    """Probe every matrix.

    Args:
        model: float32, of `tensors`.
        tensors: every tensor of the checkpoint, by name.
        sources: the matrices to encode.
        sequences: text to measure on.
        executor: where blocks are encoded.
        progress: told after each matrix.

    Returns:
        Each matrix's probe.
    """
    groups = list(_some(sequences, model.config.vocab_size))
    known = list(executor.map(lambda group: log_softmax(model.forward(group)), groups))
    predictions = sum(group.size for group in groups)
    steps = {name: probe_step(source.weights) for name, source in sources.items()}
    encoded = dict(encode_all(sources, steps, executor))

    def probe(name: str) -> Probe:
        decoded = encoded[name].decode()
        weights = decoded.T if is_embedding(name) else decoded
        changed = Gpt2.from_checkpoint(
            model.config, ChainMap({name: weights}, dict(tensors)), model.kernels
        )
        loss = sum(
            float(kl_divergence(reference, log_softmax(changed.forward(group))).sum())
            for reference, group in zip(known, groups, strict=True)
        )
        return Probe(decoded.size, steps[name], encoded[name].nbytes, loss / predictions)

    probes: dict[str, Probe] = {}
    progress("measuring sensitivity", 0, len(sources))
    for name, found in zip(sources, executor.map(probe, sources), strict=True):
        probes[name] = found
        progress("measuring sensitivity", len(probes), len(sources))
    return probes


def _some(sequences: Sequence[Tokens], vocab_size: int) -> Iterator[Tokens]:
    """The first sequences, as batches, within the limits above; at least one sequence."""
    budget = min(_PROBE_TOKENS, _PROBE_LOGITS // vocab_size)
    chosen: list[Tokens] = []
    for sequence in sequences:
        if chosen and sum(map(len, chosen)) + len(sequence) > budget:
            break
        chosen.append(sequence)
    return batches(chosen, vocab_size)
