"""A loaded model: text, logits and perplexity of it, its tensors, and the file it is saved to."""

from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

import numpy as np
from numpy.typing import ArrayLike

from rbe_cli.api.backend_names import Backend
from rbe_cli.api.backends import check_backend, new_session
from rbe_cli.api.generating import Generation, GenerationChoices, options_of
from rbe_cli.api.model_tensors import ModelTensors
from rbe_cli.api.model_weights import ModelWeights
from rbe_cli.choices import ActivationBits, Engine, KvType
from rbe_cli.container.find_file import find_rbe
from rbe_cli.container.reader import Container
from rbe_cli.engine.load import MemoryLimit, load_weights
from rbe_cli.engine.loaded_model import LoadedModel
from rbe_cli.engine.paged_cache import cache_bytes
from rbe_cli.engine.row_session import RowSession
from rbe_cli.engine.session import DEFAULT_ACTIVATION_BITS, DEFAULT_KV_TYPE
from rbe_cli.errors import UsageError
from rbe_cli.kernels.kernel_table import Kernels, load_kernels
from rbe_cli.model.config import Gpt2Config
from rbe_cli.progress import Progress, no_progress
from rbe_cli.runtime.arrays import Float32, Floating, Int64
from rbe_cli.runtime.fork_lock import ForkLock
from rbe_cli.runtime.heap import trim_heap
from rbe_cli.text.generation_options import GenerationOptions
from rbe_cli.text.recording import GenerationResult, RecordedGeneration
from rbe_cli.text.stored_tokenizer import load_tokenizer
from rbe_cli.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from rbe_cli.evaluation.evaluate import Evaluation
    from rbe_cli.nn.gpt2 import Gpt2

Prompt = str | Sequence[int] | Int64
"""Text, or token ids `[n]`."""


def load(
    path: str | PathLike[str],
    *,
    threads: int | None = None,
    max_memory: int | None = None,
    kv_type: KvType = DEFAULT_KV_TYPE,
    activations: ActivationBits = DEFAULT_ACTIVATION_BITS,
    offline: bool = False,
    progress: Progress = no_progress,
) -> "Model":
    """Load a `.rbe` file.

    Args:
        path: the file, or `org/name[/FILE.rbe][@revision]` on the Hugging Face hub.
        threads: that compute; None for the physical cores.
        max_memory: bytes that the process may take, keys and values of one full context
            included. Layers that do not fit are decoded again for every token.
        kv_type: how generation keeps keys and values.
        activations: bits that generation rounds a prompt's activations to.
        offline: never use the network.
        progress: is called during a download and while programs are compiled.

    Raises:
        NotFoundError: the file does not exist, or cannot be downloaded.
        BadFileError: it is damaged, or something else.
        UsageError: the model does not fit into `max_memory`.
    """
    container = Container.open(find_rbe(str(path), offline=offline, progress=progress))
    try:
        return Model(
            container,
            load_tokenizer(container),
            threads=threads,
            max_memory=max_memory,
            kv_type=kv_type,
            activations=activations,
            progress=progress,
        )
    except BaseException:
        container.close()
        raise


class Model:
    """A compressed GPT-2, ready to run; a context manager.

    Several threads may use one model. A change of its parameters holds for what begins after it.

    Attributes:
        config: shapes and options.
        tensors: the tensors by canonical name.
        tokenizer: None if the file has none.
    """

    def __init__(
        self,
        container: Container,
        tokenizer: Tokenizer | None,
        *,
        threads: int | None = None,
        max_memory: int | None = None,
        rows: int = 1,
        row_tokens: int | None = None,
        kv_type: KvType = DEFAULT_KV_TYPE,
        activations: ActivationBits = DEFAULT_ACTIVATION_BITS,
        engine: Engine = "fast",
        backend: Backend = "cpu",
        progress: Progress = no_progress,
    ) -> None:
        """Decode an open file, which the model closes in the end; see `load`, which opens one.

        Args:
            container: the file.
            tokenizer: of the file.
            threads, max_memory, kv_type, activations, progress: as of `load`.
            rows, row_tokens: texts side by side, and tokens of each, that `max_memory` is to
                have room for; None for a whole context.
            engine, backend: what computes logits, and what generates texts (on a CPU, `fast`).

        Raises:
            BadFileError, UsageError: as `load`, or `backend` does not do what is asked for.
        """
        check_backend(backend, max_memory, activations)
        self.backend: Backend = backend
        self.config: Gpt2Config = container.config
        self.tokenizer = tokenizer
        self._container = container
        self._engine: Engine = engine
        self._threads = threads
        self._new_session = partial(new_session, backend, kv_type, activations)
        self._lock = ForkLock()  # of the next two, which are of so many changes
        self._session: tuple[int, RowSession] | None = None
        self._networks: dict[int | None, tuple[int, Gpt2]] = {}  # by the number of threads
        limit = None
        if max_memory is not None:
            length = row_tokens or self.config.n_positions
            limit = MemoryLimit(max_memory, cache_bytes(self.config, rows, kv_type, length))
        self._kernels: Kernels = load_kernels(engine, threads)
        weights = load_weights(container, self._kernels.threads, progress, limit)
        trim_heap()  # of what decoding needed
        self._state = ModelWeights(container, weights)
        self.tensors = ModelTensors(self._state)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file and the memory; using the model is an error from now on."""
        with self._lock:
            self._state.close()
            self._session = None
            self._networks.clear()

    # Text

    def generate(
        self, prompt: Prompt, *, ignore_eos: bool = False, **choices: Unpack[GenerationChoices]
    ) -> GenerationResult:
        """Continue a prompt.

        Args:
            prompt: text, or token ids `[n]`.
            ignore_eos: go on after a token that ends a text.
            choices: as of `GenerationOptions`, such as `max_tokens=50` or `greedy=True`. The same
                seed, 0 unless given, repeats a text.

        Raises:
            UsageError: an option lies outside its range, the prompt is empty or too long, or it
                is text and the model has no tokenizer.
        """
        return self.stream(prompt, ignore_eos=ignore_eos, **choices).finish()[0]

    def stream(
        self, prompt: Prompt, *, ignore_eos: bool = False, **choices: Unpack[GenerationChoices]
    ) -> Generation:
        """Return an iterator of steps, one for each new token; arguments as of `generate`.

        A step's `text` is what can be shown since the one before. All of them together are the
        text that `generate` returns.
        """
        return self.stream_all([prompt], options_of(choices), ignore_eos=ignore_eos)

    def stream_all(
        self, prompts: Sequence[Prompt], options: GenerationOptions, *, ignore_eos: bool = False
    ) -> Generation:
        """Continue several prompts side by side.

        Args:
            prompts: at least one, as of `generate`. A step's `row` is the index of its prompt.
            options: how tokens are chosen.
            ignore_eos: as of `generate`.

        Raises:
            UsageError: as `generate`.
        """
        ids = [self._ids(prompt) for prompt in prompts]
        ends = () if ignore_eos else self.config.eos_token_ids
        session = self._engine_session(no_progress)
        return Generation(RecordedGeneration(session, ids, options, self.tokenizer, ends))

    @property
    def coded_layers(self) -> int:
        """Layers that are decoded for every token, because `max_memory` is too small for them."""
        return self._engine_session(no_progress).coded_layers

    def prepare(self, progress: Progress = no_progress) -> None:
        """Compile what generation needs, unless that was done, and report it to `progress`."""
        self._engine_session(progress)

    def encode(self, text: str) -> Int64:
        """Return the token ids `[n]` of a text.

        Raises:
            UsageError: the model has no tokenizer, or the text is not valid Unicode.
        """
        return self._tokenizer_for("text").encode(text)

    def decode(self, ids: Sequence[int] | Int64) -> str:
        """Return the text of token ids.

        Raises:
            UsageError: the model has no tokenizer.
        """
        return self._tokenizer_for("text").decode([int(token) for token in ids])

    # Numbers

    def logits(self, ids: Sequence[int] | Int64) -> Float32:
        """Return the logits of the token after each of `ids` `[n]`, float32 `[n, vocab_size]`.

        Raises:
            UsageError: there are none, one is outside the vocabulary, or they are more than the
                context holds.
        """
        return np.asarray(self.network.forward(self._ids(ids)[None])[0], np.float32)

    def perplexity(
        self, text: Prompt, *, context: int | None = None, stride: int | None = None
    ) -> float:
        """Return the perplexity of a text of any length.

        Args:
            text: text, or token ids `[n]`.
            context: tokens of the windows that the text is cut into; None for the model's own.
            stride: tokens from the beginning of a window to that of the next; None for windows
                that do not overlap.

        Raises:
            UsageError: the text has less than two tokens, or a window does not fit.
        """
        return self.evaluate([self._ids(text)], context=context, stride=stride).loss.exp().value

    def evaluate(
        self,
        sequences: Sequence[Int64],
        *,
        context: int | None = None,
        stride: int | None = None,
        reference: "Gpt2 | None" = None,
        progress: Progress = no_progress,
    ) -> "Evaluation":
        """Score token sequences `[n]` of any length, and compare with a reference if one is given.

        Args:
            sequences: token ids.
            context, stride: as of `perplexity`.
            reference: a model of the same shape, such as `network` of another one.
            progress: is called after each window.

        Raises:
            UsageError: as `perplexity`.
        """
        from rbe_cli.engine.warm_up import warm_up
        from rbe_cli.evaluation.batching import sliding_windows
        from rbe_cli.evaluation.evaluate import evaluate
        from rbe_cli.jobs.workers import workers

        limit = self.config.n_positions
        length = limit if context is None else context
        if not 2 <= length <= limit:
            raise UsageError(f"`context` {length} is not between 2 and the model's {limit} tokens")
        every = length if stride is None else stride
        if not 1 <= every <= length:
            raise UsageError(f"`stride` {every} is not between 1 and the context's {length} tokens")
        windows = sliding_windows(sequences, length, every)
        if not windows:
            raise UsageError("perplexity needs at least two tokens")
        # Several windows go to one thread each.
        network = self._network(1 if len(windows) > 1 else self._threads)
        warm_up(network.kernels, progress)
        with workers(self._threads) as pool:
            return evaluate(network, windows, pool, reference, progress)

    @property
    def loaded(self) -> LoadedModel:
        """The present weights, as engines take them."""
        return LoadedModel(self.config, self._state.current()[0])

    @property
    def network(self) -> "Gpt2":
        """The model's layers as objects (`rbe_cli.nn`), for gradients, observers and profiles."""
        return self._network(self._threads)

    # Parameters

    def parameters(self) -> dict[str, Floating]:
        """Return copies of all that can be trained and stored, by name.

        Vectors and dense matrices stand under their own names, the latter `[inputs, outputs]`.
        Of a matrix of integers it is the steps, as in `h.0.mlp.c_fc.weight.column_steps`.
        """
        return self._state.parameters()

    def set_parameters(self, values: Mapping[str, ArrayLike]) -> None:
        """Give some of `parameters` other values; the rest stays as it is.

        The model computes with these values. `save` stores those of vectors and of dense matrices
        exactly; it rounds the steps of integers to levels, 32 an octave in the codec `ectcq` and 8
        in `fixed`.

        Raises:
            UsageError: there is no such parameter, its shape differs, a value is not finite, or
                a step is not above 0.
        """
        self._state.set_parameters(values)

    def save(self, path: str | PathLike[str], *, force: bool = False) -> int:
        """Write the model to a `.rbe` file, and return its bytes.

        Tensors that were not changed keep the bytes that they were read from, and a model without
        changes gives the same file again. The measured quality of a changed model is not known,
        so it is left out.

        Args:
            path: the file, which appears whole or not at all.
            force: replace an existing file.

        Raises:
            OutputError: the file exists, or cannot be written.
        """
        return self._state.save(Path(path), force=force)

    # What is kept between calls

    def _network(self, threads: int | None) -> "Gpt2":
        """Return the layers with the present weights, computed by so many threads."""
        from rbe_cli.nn.gpt2 import Gpt2

        weights, changes = self._state.current()
        with self._lock:
            known = self._networks.get(threads)
            if known is not None and known[0] == changes:
                return known[1]
            kernels = self._kernels
            if threads != self._threads:
                kernels = load_kernels(self._engine, threads)
            tensors = {**weights, **self._state.unchanged_norms()}
            found = Gpt2(self.config, tensors, kernels)
            self._networks[threads] = changes, found
            return found

    def _engine_session(self, progress: Progress) -> RowSession:
        """Return the session of the present weights, which lends a row to each text."""
        if self._engine != "fast":
            raise UsageError(f"text is generated by the `engine` fast, not {self._engine}")
        weights, changes = self._state.current()
        with self._lock:
            if self._session is None or self._session[0] != changes:
                model = LoadedModel(self.config, weights)
                found = self._new_session(model, self._kernels.team, progress)
                self._session = changes, found
            return self._session[1]

    def _ids(self, prompt: Prompt) -> Int64:
        """Return a prompt's token ids `[n]`."""
        if isinstance(prompt, str):
            ids = self.encode(prompt)
            if ids.size == 0:
                raise UsageError("the text is empty")
            return ids
        ids = np.asarray(prompt)
        if ids.size and (ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer)):
            raise UsageError(
                f"token ids are whole numbers [n], not {ids.dtype} of shape {ids.shape}"
            )
        return ids.astype(np.int64)

    def _tokenizer_for(self, what: str) -> Tokenizer:
        if self.tokenizer is None:
            missing = self._container.tokenizer_facts.missing
            why = f" ({missing})" if missing else ""
            raise UsageError(f"the model has no tokenizer{why}: give token ids instead of {what}")
        return self.tokenizer
