"""From a file's encoded tensors to a model that is ready to run."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import cast

from rbe_cli.codec.ectcq.coded_matrix import CodedMatrix
from rbe_cli.codec.ectcq.unpacking import Unpacking, UnpackingMemory
from rbe_cli.codec.registry import codec_named
from rbe_cli.codec.stream_rotation import rotation_bytes
from rbe_cli.container.file_bytes import anonymous
from rbe_cli.container.reader import Container
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.engine.loaded_model import LoadedModel
from rbe_cli.errors import UsageError
from rbe_cli.memory_needs import check_available, memory_for
from rbe_cli.model.tensor_names import (
    ROTATION,
    is_embedding,
    is_layer_norm,
    is_matrix,
    is_of_layer,
    parameter_count,
)
from rbe_cli.nn.layer_norm_parameters import CompressedVector
from rbe_cli.progress import Progress
from rbe_cli.runtime.arena import Arena
from rbe_cli.runtime.native import prepare
from rbe_cli.runtime.thread_team import Team, get_team
from rbe_cli.weights.weight_forms import Weight

_WORKING_BYTES = 80_000_000  # buffers, two matrices on their way out of the decoder, the heap
_BATCH_BYTES = 16_000_000  # of the file that are in memory at once


@dataclass(frozen=True)
class MemoryLimit:
    """Limit what a process may take.

    Attributes:
        total: bytes of the process.
        reserved: bytes of it that keys and values will take.
    """

    total: int
    reserved: int


def load_model(
    container: Container,
    threads: int | None,
    progress: Progress,
) -> LoadedModel:
    """Decode a file's tensors; arguments and errors as of `load_weights`.

    Gamma and beta of the LayerNorms stay as the file holds them, if that takes fewer bytes than
    float32, and are decoded once.
    """
    weights = load_weights(container, threads, progress)
    return LoadedModel(container.config, {**weights, **stored_norms(container)})


def stored_norms(container: Container) -> dict[str, CompressedVector]:
    """Return each gamma and beta as the file holds it, unless it holds float32."""
    return {
        name: CompressedVector(own.shape, own.codec, bytes(container.tensors[name].data))
        for name, own in container.layout.tensors.items()
        if is_layer_norm(name) and own.size < 4 * math.prod(own.shape)
    }


def load_weights(
    container: Container,
    threads: int | None,
    progress: Progress,
    limit: MemoryLimit | None = None,
) -> dict[str, Weight]:
    """Decode a file's tensors.

    Entropy-coded matrices become panels of integers, of which each thread takes a block at a time.

    Args:
        container: may be closed afterwards.
        threads: that decode; None for the physical cores.
        progress: is called while the decoder is compiled, if it has to be.
        limit: layers that do not fit stay entropy-coded, and are decoded each time they are
            used. None decodes all.

    Returns:
        The weights by canonical name, as `LoadedModel` and `Gpt2` take them.

    Raises:
        ContainerError: a section's checksum or a tensor's bytes are wrong.
        UsageError: the embeddings and one decoded layer alone do not fit.
        MemoryNeededError: there is too little memory.
    """
    if any(codec_named(own.codec).needs_programs for own in container.layout.tensors.values()):
        prepare(("codec",), progress=progress)
    if ROTATION in container.tensors:
        prepare(("algebra",), progress=progress)
    team = get_team(threads)
    # A weight takes up to a byte, beside the file's own bytes.
    needed = container.file_bytes + parameter_count(container.config) + _WORKING_BYTES
    with memory_for("to load the model", needed):
        if limit is None:
            return _decode(container, container.tensors, team)
        import psutil

        used = int(psutil.Process().memory_info().rss) + limit.reserved + _WORKING_BYTES
        if ROTATION in container.tensors:
            used += rotation_bytes(container.config.n_embd)
        return _decode_within(limit.total - used, container, team)


def _decode(container: Container, names: Iterable[str], team: Team) -> dict[str, Weight]:
    """Return tensors as a model takes them."""
    names = list(names)
    check_available("to load the model", sum(_least_bytes(container, name) for name in names))
    arena = Arena()

    def in_arena(size: int) -> memoryview:
        return arena.zeros(size).data

    coded: list[str] = []
    weights: dict[str, Weight] = {}
    for name in names:
        if _may_stay_coded(container, name):
            coded.append(name)
            continue
        is_kept = codec_named(container.layout.tensors[name].codec).is_kept_as_stored
        memory = in_arena if is_kept else anonymous
        weights[name] = container.tensors.read(name, memory).resident()
    for batch in _batches(container, coded):
        # Those before may have taken much more than the least.
        check_available("to load the model", sum(_least_bytes(container, name) for name in batch))
        weights |= _unpacked([container.tensors[name] for name in batch], team, arena)
    return {name: weights[name] for name in names}


def _least_bytes(container: Container, name: str) -> int:
    """Return the bytes that a tensor takes at least as a model uses it."""
    own = container.layout.tensors[name]
    if not is_matrix(name):
        return 4 * math.prod(own.shape)
    shape = own.shape[::-1] if is_embedding(name) else own.shape
    return codec_named(own.codec).least_bytes(own.size, shape)


def _may_stay_coded(container: Container, name: str) -> bool:
    return codec_named(container.layout.tensors[name].codec).has_coded_form


def _batches(container: Container, names: Iterable[str]) -> Iterator[list[str]]:
    """Yield the names of matrices that are read and unpacked together."""
    batch, size = [], 0
    for name in names:
        batch.append(name)
        size += container.layout.tensors[name].size
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _unpacked(tensors: Iterable[StoredTensor], team: Team, arena: Arena) -> dict[str, Weight]:
    """Return entropy-coded matrices in panels, which all threads of a team unpack together."""
    coded = [(tensor, cast(CodedMatrix, tensor.coded())) for tensor in tensors]
    coded.sort(key=lambda own: -own[1].block_weights)
    matrices = [matrix.encoded for _, matrix in coded]
    unpacking = Unpacking(matrices, UnpackingMemory([matrices], team.threads, arena))
    unpacking.run(team)
    arena.give_back(unpacking.unused_bytes)
    found: dict[str, Weight] = {}
    for index, (tensor, _) in enumerate(coded):
        with tensor.errors_name_the_tensor():
            panels = unpacking.panels(index)
        found[tensor.name] = replace(panels, overflow=panels.overflow.copied())
    return found


def _decode_within(limit: int, container: Container, team: Team) -> dict[str, Weight]:
    """Decode, and keep the last layers entropy-coded if all take more than `limit` bytes."""
    weights: dict[str, Weight] = {}
    kept: list[list[str]] = []  # layers that are decoded
    left = limit - _coded_bytes(container, container.tensors)
    needed = 0  # a coded layer needs memory for one that is decoded
    for names in _layers(container.tensors):
        decoded = _decode(container, names, team)
        weights |= decoded
        left -= sum(weight.nbytes for weight in decoded.values()) - _coded_bytes(container, names)
        if _coded_bytes(container, names):
            kept.append(names)
        while left < needed and kept:
            own = kept.pop()
            needed = max(needed, sum(weights[name].nbytes for name in own))
            left += _give_back(container, own, weights)
    if left < needed:
        raise UsageError(f"the model needs {(needed - left) / 1e6:.1f} MB more than `max_memory`")
    return weights


def _layers(names: Iterable[str]) -> Iterator[list[str]]:
    """Yield the tensors of a layer at a time, and those before and after the layers."""
    for _, own in groupby(names, key=lambda name: name.split(".")[:2] * is_of_layer(name)):
        yield list(own)


def _coded_bytes(container: Container, names: Iterable[str]) -> int:
    """Return the bytes of the matrices of layers that may stay entropy-coded."""
    return sum(
        container.layout.tensors[name].size
        for name in names
        if is_of_layer(name) and _may_stay_coded(container, name)
    )


def _give_back(container: Container, names: Iterable[str], weights: dict[str, Weight]) -> int:
    """Leave a layer's matrices entropy-coded where they can be; return the bytes saved."""
    saved = 0
    for name in names:
        if _may_stay_coded(container, name):
            coded = container.tensors[name].coded()
            saved += weights[name].nbytes - coded.nbytes
            weights[name] = coded
    return saved
