"""Present a `.rbe` file as a checkpoint, so that its decoded weights can be compressed again."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from rbe_cli.checkpoint.checked_files import xxh3_of_files
from rbe_cli.checkpoint.checkpoint import Checkpoint, LazyTensors
from rbe_cli.codec.stream_rotation import StreamRotation
from rbe_cli.container.reader import Container
from rbe_cli.model.tensor_names import ROTATION


def as_checkpoint(container: Container, source: str) -> Checkpoint:
    """Return the model of a `.rbe` file as a checkpoint.

    Args:
        container: the open file. It must stay open as long as tensors are read.
        source: the path or name that the user gave.

    Returns:
        The checkpoint. Each access to one of its tensors checks the tensor's section, decodes
        it to float32, and raises `ChecksumError` or `PayloadError` if the file is damaged.

    Raises:
        ChecksumError, PayloadError: the tokenizer or the rotation is damaged.
        MemoryRefusedError: there is too little memory for the rotation.
    """
    return Checkpoint(
        config=container.config,
        tensors=checkpoint_tensors(container),
        tokenizer_json=container.tokenizer_json(),
        tokenizer_missing=container.tokenizer_facts.missing,
        source=source,
        source_hash=xxh3_of_files([container.path]),
        weight_bytes=container.file_bytes,
        notes=(
            f"{source} is compressed already: its weights are taken as the original, and quality "
            "is relative to them",
        ),
    )


def checkpoint_tensors(container: Container) -> LazyTensors:
    """Return the tensors of a file as a checkpoint has them, each decoded when it is read.

    If the file's residual stream is rotated, they are turned back (`StreamRotation.restored`).

    Args:
        container: the open file. It must stay open as long as tensors are read.

    Raises:
        ChecksumError, PayloadError: the rotation is damaged.
        MemoryRefusedError: there is too little memory for the rotation.
    """
    stored = {name: partial(_decoded, container, name) for name in container.tensors}
    if ROTATION not in stored:
        return LazyTensors(stored)
    rotation = StreamRotation.of_coded(stored.pop(ROTATION)())
    tensors = LazyTensors(stored)
    return LazyTensors({name: partial(rotation.restored, name, tensors) for name in stored})


def _decoded(container: Container, name: str) -> NDArray[np.float32]:
    return container.tensors[name].decode()
