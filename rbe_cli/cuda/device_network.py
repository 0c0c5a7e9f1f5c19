"""Compute whole forward passes on the GPU, with the interface of `rbe_cli.nn.gpt2.Gpt2`.

Inputs and outputs are arrays in the CPU's memory. Several threads may call; one is served at a
time.
"""

from functools import partial
from threading import RLock

import numpy as np

from rbe_cli.cuda.block_run import BlockRun
from rbe_cli.cuda.device_block import DeviceBlock
from rbe_cli.cuda.device_cache import DeviceCache
from rbe_cli.cuda.device_model import DeviceModel
from rbe_cli.engine.loaded_model import LoadedModel
from rbe_cli.engine.row_session import CHUNK_TOKENS
from rbe_cli.model.token_ids import check_tokens
from rbe_cli.nn.observer import Observer
from rbe_cli.runtime.arrays import Float32, Floating, Int64


class DeviceNetwork:
    """Compute the logits of whole sequences, or one layer after the other.

    Attributes:
        config: shapes and options.
        blocks: the layers; each maps states `[batch, n, d]`.
        rotation: of these states; None for those of the checkpoint.
    """

    def __init__(self, model: LoadedModel) -> None:
        """Copy a model's weights to the GPU."""
        self.config = model.config
        self._model = DeviceModel(model.config, model.weights)
        self.rotation = self._model.rotation
        self._lock = RLock()  # an observer may call, too
        self.blocks = [partial(self._block, block) for block in self._model.blocks]

    def embed(self, tokens: Int64) -> Float32:
        """Return the input of the first block, `[batch, n, d]`, of tokens `[batch, n]`."""
        batch, length = tokens.shape
        with self._lock:
            found = self._model.embed(tokens.reshape(-1), np.tile(np.arange(length), batch))
        return found.reshape(batch, length, -1)

    def output_layer(self, states: Floating) -> Float32:
        """Return the logits `[n, vocab_size]` of the last block's outputs `[n, d]`."""
        with self._lock:
            return self._model.output(np.asarray(states, np.float32))

    def _block(self, block: DeviceBlock, x: Floating) -> Float32:
        with self._lock:
            run = BlockRun(self.config, block, np.asarray(x, np.float32))
            found: Float32 = run.block().copy_to_host()
        return found.reshape(x.shape)

    def forward(self, tokens: Int64, *, observe: Observer | None = None) -> Float32:
        """Return the logits `[batch, seq, vocab_size]` of the token after each.

        Args:
            tokens: ids `[batch, seq]`.
            observe: sees the blocks' outputs `[1, seq, n_embd]` of each sequence, under `h.0`,
                `h.1`, ...

        Raises:
            UsageError: an id is outside the vocabulary, or there are more than the context holds.
        """
        check_tokens(self.config, tokens, np.zeros(len(tokens), np.int64))
        with self._lock:
            return np.stack([self._sequence(own, observe) for own in tokens])

    def _sequence(self, tokens: Int64, observe: Observer | None) -> Float32:
        """Return the logits `[seq, vocab_size]` of one sequence."""
        cache = DeviceCache(self.config, 1, "fp32")
        cache.reserve(0, len(tokens))
        hidden: dict[str, list[Float32]] = {}

        def keep(name: str, values: Float32) -> None:
            hidden.setdefault(name, []).append(values)

        logits = []
        for start in range(0, len(tokens), CHUNK_TOKENS):
            part = tokens[start : start + CHUNK_TOKENS]
            rows, positions = np.zeros(len(part), np.int64), start + np.arange(len(part))
            seen = None if observe is None else keep
            logits.append(
                self._model.run(cache, part, rows, positions, range(len(part)), observe=seen)
            )
            cache.advance(np.array([0]), len(part))
        if observe is not None:
            for name, parts in hidden.items():
                observe(name, np.concatenate(parts)[None])
        return np.concatenate(logits)
