"""Kinds of `.rbe` files: damaged ones, and those whose checksums fit what they have become."""

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
from fuzz.byte_mutations import mutated_bytes
from fuzz.draws import Draws
from fuzz.kinds import InputKind, need
from fuzz.payload_kind import PayloadMutator
from fuzz.rbe_parts import RbeParts, assembled, rbe_seeds
from fuzz.scratch import SCRATCH
from fuzz.tree_mutations import TreeMutator

from rbe_cli.codec.registry import CODECS
from rbe_cli.container.reader import Container
from rbe_cli.errors import BadFileError, ContainerError, UsageError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import ROTATION, parameter_count, tensor_shapes
from rbe_cli.text.stored_tokenizer import load_tokenizer

_PATH = Path("case.rbe")
_MOST_PARAMETERS = 1 << 18  # of a model that is decoded
_MOST_LAYERS = 8


class DamagedFileKind(InputKind):
    """Bytes changed without their checksums: each such file must be refused."""

    name: ClassVar[str] = "rbe-damage"
    errors = (ContainerError,)
    share = 8.0

    @cached_property
    def _seeds(self) -> tuple[bytes, ...]:
        return rbe_seeds()

    def case(self, draws: Draws) -> Any:
        """Return a seed file with one to three changes of bytes."""
        seed = data = draws.one_of(self._seeds)
        choice = draws.below(16)
        if choice < 4:  # in the preamble and the header's beginning
            return mutated_bytes(draws, data[: 64 + draws.below(1000)]) + data[64:]
        if choice == 4:
            return data[: draws.below(len(data))]
        for _ in range(1 + draws.below(3)):
            data = mutated_bytes(draws, data)
        if choice == 5:
            other = draws.one_of(self._seeds)
            data = data[: draws.below(len(data) + 1)] + other[draws.below(len(other)) :]
        return data if data != seed else data[:-1]

    def read(self, case: Any) -> None:
        """Open and verify the file, which is no valid one."""
        with Container(memoryview(case), _PATH) as container:
            container.verify()
        need(case in self._seeds, "a damaged file was accepted")


class HeaderKind(InputKind):
    """Headers that were changed as values, encoded again, under a right checksum."""

    name: ClassVar[str] = "rbe-header"
    errors = (BadFileError,)
    share = 6.0

    @cached_property
    def _seeds(self) -> list[tuple[RbeParts, bytes]]:
        parts = [RbeParts.of(data) for data in rbe_seeds()]
        return [(own, own.tail) for own in parts]

    @cached_property
    def _mutate(self) -> TreeMutator:
        names = list(tensor_shapes(Container(memoryview(rbe_seeds()[0]), _PATH).config))
        more = (
            "h.1.ln_1.weight",
            "h.01.ln_1.weight",
            "vectors",
            "tokenizer",
            "lm_head.weight",
            ROTATION,
        )
        words = (*CODECS, *names, *more, "gelu", "relu", "silu", "quick_gelu", "gelu_new")
        return TreeMutator(words)

    def case(self, draws: Draws) -> Any:
        """Return a file with another header, and with the sections of its seed."""
        parts, tail = draws.one_of(self._seeds)
        header: Any = parts.header
        choice = draws.below(16)
        if choice < 3:
            header = _with_moved_bytes(draws, header)
        elif choice < 5:
            header = _with_exchanged_codecs(draws, header)
        if choice >= 3:
            for _ in range(1 + (draws.below(4) == 0)):
                header = self._mutate(draws, header)
        try:
            encoded = msgspec.msgpack.encode(header)
        except (OverflowError, UnicodeEncodeError, TypeError):
            encoded = mutated_bytes(draws, msgspec.msgpack.encode(parts.header))
        if choice == 15:  # forms of msgpack that the encoder does not choose
            encoded = mutated_bytes(draws, encoded)
        version = draws.integer() % (1 << 32) if choice == 14 else parts.version
        return assembled(encoded, tail, version)

    def read(self, case: Any) -> None:
        """Open the file, verify it, and decode all that it holds."""
        with Container(memoryview(case), _PATH) as container:
            read_container(container)


class WholeFileKind(InputKind):
    """Files whose sections were changed as their codecs have them; a share is run."""

    name: ClassVar[str] = "rbe-file"
    errors = (BadFileError,)
    share = 2.0

    @cached_property
    def _seeds(self) -> list[RbeParts]:
        return [RbeParts.of(data) for data in rbe_seeds()]

    @cached_property
    def _mutator(self) -> PayloadMutator:
        return PayloadMutator()

    def case(self, draws: Draws) -> Any:
        """Return a file with one to three changed sections."""
        parts = draws.one_of(self._seeds)
        for _ in range(1 + draws.below(3)):
            parts = self._changed(draws, parts)
        return assembled(msgspec.msgpack.encode(parts.header), parts.tail, parts.version)

    def _changed(self, draws: Draws, parts: RbeParts) -> RbeParts:
        matrices, vectors = parts.header[3], parts.header[4]
        choice = draws.below(8)
        if choice < 4:
            index = draws.below(len(matrices))
            data = self._mutator(draws, matrices[index][1], parts.sections[index])
            return parts.with_section(index, data)
        if choice == 4:  # a section of another tensor
            index, other = draws.below(len(matrices)), draws.below(len(parts.sections))
            return parts.with_section(index, parts.sections[other])
        if choice < 7 or parts.header[6] is None:
            index = draws.below(len(vectors))
            start = sum(vector[2] for vector in vectors[:index])
            data = parts.sections[len(matrices)][start : start + vectors[index][2]]
            return parts.with_vector(index, self._mutator(draws, vectors[index][1], data))
        index = len(parts.sections) - 1
        return parts.with_section(index, mutated_bytes(draws, parts.sections[index]) or b"\0")

    def read(self, case: Any) -> None:
        """Open the file on disk, verify and decode it; every fourth by its checksum is run."""
        with Container.open(SCRATCH.write("case.rbe", case)) as container:
            if read_container(container) and case[16] % 4 == 0:
                _run(container)


def is_small(config: Gpt2Config) -> bool:
    """Return whether a model is decoded, and not only opened and verified."""
    return config.n_layer <= _MOST_LAYERS and parameter_count(config) <= _MOST_PARAMETERS


def read_container(container: Container) -> bool:
    """Read a whole file as the verbs of the command line do.

    Returns:
        Whether it was decoded. A file whose config makes a large model is only verified.
    """
    container.verify()
    if not is_small(container.config):
        return False
    for name, shape in tensor_shapes(container.config).items():
        values = container.tensors[name].decode()
        need(values.shape == shape, f"{name} has the shape {values.shape}")
        need(values.dtype == np.float32, f"{name} is {values.dtype}")
        need(bool(np.isfinite(values).all()), f"{name} holds what is not finite")
    try:
        load_tokenizer(container)
    except BadFileError:
        need(container.layout.sections.get("tokenizer") is not None, "no tokenizer, refused")
    return True


def _run(container: Container) -> None:
    """Load the model as `rbe generate` does, and compute some tokens."""
    from rbe_cli.engine.load import load_model
    from rbe_cli.engine.session import Session
    from rbe_cli.progress import no_progress
    from rbe_cli.runtime.thread_team import get_team

    model = load_model(container, 1, no_progress)
    session = Session(model, team=get_team(1))
    vocab, positions = container.config.vocab_size, container.config.n_positions
    prompt = np.arange(min(3, positions)) % vocab
    logits = session.prefill(0, prompt)
    need(logits.shape == (vocab,), f"logits have the shape {logits.shape}")
    if positions > 3:
        logits = session.decode([0], np.array([vocab - 1]))[0]
        need(logits.shape == (vocab,), f"logits have the shape {logits.shape}")
    try:
        session.prefill(0, np.array([vocab]))
    except UsageError:
        return
    need(False, "a token outside the vocabulary was taken")


def _with_moved_bytes(draws: Draws, header: list[Any]) -> list[Any]:
    """Return a header in which two sizes differ and their sum does not."""
    field = 3 + draws.below(2)
    entries = [list(own) for own in header[field]]
    one, other, count = draws.below(len(entries)), draws.below(len(entries)), 1 + draws.below(64)
    if draws.below(4) == 0:
        count = 64 * (1 + draws.below(8))
    entries[one][2] += count
    entries[other][2] -= count
    return [*header[:field], entries, *header[field + 1 :]]


def _with_exchanged_codecs(draws: Draws, header: list[Any]) -> list[Any]:
    """Return a header in which two tensors have the codecs, or the names, of each other."""
    field = 3 + draws.below(2)
    entries = [list(own) for own in header[field]]
    one, other, place = draws.below(len(entries)), draws.below(len(entries)), draws.below(2)
    entries[one][place], entries[other][place] = entries[other][place], entries[one][place]
    return [*header[:field], entries, *header[field + 1 :]]
