"""From a file's encoded tensors to a model that is ready to run."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby

from rbe_cli.codec.ectcq.coded_matrix import CodedMatrix
from rbe_cli.codec.ectcq.unpacking import Unpacking, UnpackingMemory
from rbe_cli.codec.registry import codec_named
from rbe_cli.container.reader import Container
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.engine.loaded_model import LoadedModel
from rbe_cli.errors import UsageError
from rbe_cli.model.tensor_names import is_layer_norm, is_of_layer
from rbe_cli.nn.layer_norm_parameters import CompressedVector
from rbe_cli.progress import Progress
from rbe_cli.runtime.arena import Arena
from rbe_cli.runtime.native import prepare
from rbe_cli.runtime.thread_team import Team, get_team
from rbe_cli.weights.panel_matrix import PanelMatrix
from rbe_cli.weights.weight_forms import Weight

_WORKING_BYTES = 80_000_000  # buffers, two matrices on their way out of the decoder, the heap
_BATCH_BYTES = 16_000_000  # of the file that is mapped at once


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
    """Return each gamma and beta as the file holds it, unless it holds float32.

    Their bytes are copied, and known to be right only after `load_weights`.
    """
    return {
        name: CompressedVector(tensor.shape, tensor.codec, bytes(tensor.data))
        for name, tensor in container.tensors.items()
        if is_layer_norm(name) and len(tensor.data) < 4 * math.prod(tensor.shape)
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
    """
    if any(codec_named(own.codec).needs_programs for own in container.layout.tensors.values()):
        prepare(("codec",), progress=progress)
    team = get_team(threads)
    if limit is None:
        return _decode(container, container.tensors, team)
    import psutil

    container.forget()
    used = int(psutil.Process().memory_info().rss) + limit.reserved + _WORKING_BYTES
    return _decode_within(limit.total - used, container, team)


def _decode(
    container: Container, tensors: Mapping[str, StoredTensor], team: Team
) -> dict[str, Weight]:
    """Return tensors as a model takes them."""
    arena = Arena()
    coded: dict[str, CodedMatrix] = {}
    weights: dict[str, Weight] = {}
    for name, tensor in tensors.items():
        own = tensor.coded()
        if isinstance(own, CodedMatrix):
            coded[name] = own
            continue
        weight = tensor.resident()
        if isinstance(weight, PanelMatrix):
            weight = weight.placed(arena)
            container.forget()  # what was copied
        weights[name] = weight
    container.forget()  # what was read for checksums
    for names in _batches(coded):
        weights |= _unpacked({name: coded[name] for name in names}, tensors, team, arena)
        container.forget()  # what was read of the file
    return {name: weights[name] for name in tensors}


def _batches(coded: Mapping[str, CodedMatrix]) -> Iterator[list[str]]:
    """Yield the names of matrices that are unpacked together, the largest blocks first."""
    batch, size = [], 0
    for name in sorted(coded, key=lambda name: -coded[name].block_weights):
        batch.append(name)
        size += coded[name].nbytes
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _unpacked(
    coded: Mapping[str, CodedMatrix], tensors: Mapping[str, StoredTensor], team: Team, arena: Arena
) -> dict[str, Weight]:
    """Return entropy-coded matrices in panels, which all threads of a team unpack together."""
    matrices = [matrix.encoded for matrix in coded.values()]
    unpacking = Unpacking(matrices, UnpackingMemory([matrices], team.threads, arena))
    unpacking.run(team)
    arena.give_back(unpacking.unused_bytes)
    found: dict[str, Weight] = {}
    for index, name in enumerate(coded):
        with tensors[name].errors_name_the_tensor():
            panels = unpacking.panels(index)
        found[name] = replace(panels, overflow=panels.overflow.copied())
    return found


def _decode_within(limit: int, container: Container, team: Team) -> dict[str, Weight]:
    """Decode, and keep the last layers entropy-coded if all take more than `limit` bytes."""
    weights: dict[str, Weight] = {}
    kept: list[dict[str, StoredTensor]] = []  # layers that are decoded
    left = limit - _coded_bytes(container.tensors)
    needed = 0  # a coded layer needs memory for one that is decoded
    for tensors in _layers(container.tensors):
        decoded = _decode(container, tensors, team)
        weights |= decoded
        left -= sum(weight.nbytes for weight in decoded.values()) - _coded_bytes(tensors)
        if _coded_bytes(tensors):
            kept.append(tensors)
        while left < needed and kept:
            own = kept.pop()
            needed = max(needed, sum(weights[name].nbytes for name in own))
            left += _give_back(own, weights)
    if left < needed:
        raise UsageError(f"the model needs {(needed - left) / 1e6:.1f} MB more than `max_memory`")
    return weights


def _layers(tensors: Mapping[str, StoredTensor]) -> Iterator[dict[str, StoredTensor]]:
    """Yield a layer's tensors at a time, and those before and after the layers."""
    for _, names in groupby(tensors, key=lambda name: name.split(".")[:2] * is_of_layer(name)):
        yield {name: tensors[name] for name in names}


def _coded_bytes(tensors: Mapping[str, StoredTensor]) -> int:
    """Return the bytes of the matrices of layers that may stay entropy-coded."""
    own = [tensor for name, tensor in tensors.items() if is_of_layer(name)]
    return sum(len(tensor.data) for tensor in own if tensor.coded() is not None)


def _give_back(tensors: Mapping[str, StoredTensor], weights: dict[str, Weight]) -> int:
    """Leave a layer's matrices entropy-coded where they can be; return the bytes saved."""
    saved = 0
    for name, tensor in tensors.items():
        weight = weights[name]
        if isinstance(weight, PanelMatrix):  # else an integer was too large
            coded = tensor.coded(bytes(tensor.data))  # a copy: the file is forgotten
            if coded is not None:
                weights[name] = coded
                saved += weight.nbytes - coded.nbytes
    return saved
