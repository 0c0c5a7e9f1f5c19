"""Decompress: a `.rbe` file back into a folder in Hugging Face layout."""

import time
from dataclasses import dataclass
from pathlib import Path

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.checkpoint.folder_writer import is_written_here, write_folder
from rbe_cli.checkpoint.names import parameter_count
from rbe_cli.container.publish_folder import check_folder, new_folder
from rbe_cli.errors import UsageError
from rbe_cli.progress import Progress, no_progress
from rbe_cli.tasks.memory import peak_rss_bytes

# Values as they were decoded. The reference library computes in the type that a folder has, so
# that a smaller one would also make its logits less exact.
DEFAULT_DTYPE = "float32"
_FILE_SUFFIXES = (".rbe", ".safetensors", ".bin", ".json", ".onnx", ".pt")


@dataclass(frozen=True)
class DecompressResult:
    """What was written, under the contract's names.

    Attributes:
        format: `folder`.
        file_bytes: of all files together.
    """

    source: str
    output: str
    format: str
    dtype: str
    parameters: int
    file_bytes: int
    seconds: float
    peak_rss_bytes: int


def check_destination(output: Path, *, force: bool) -> None:
    """Refuse early what cannot be written, before a file is downloaded or decoded.

    Raises:
        UsageError: the name is that of a file of another kind.
        NotFoundError, OutputError: see `check_folder`.
    """
    if output.suffix in _FILE_SUFFIXES:
        raise UsageError(f"{output} is to be a folder, which does not end with {output.suffix}")
    check_folder(output, is_written_here, force=force)


def decompress(
    checkpoint: Checkpoint,
    output: Path,
    dtype: str = DEFAULT_DTYPE,
    *,
    force: bool = False,
    progress: Progress = no_progress,
) -> DecompressResult:
    """Write a model to `output`, which appears whole or not at all.

    Args:
        checkpoint: the opened `.rbe` file. Its tensors are decoded and written one at a time.
        output: the folder to write.
        dtype: of the weights: `float32`, `float16` or `bfloat16`.
        force: replace an older output. A folder that holds other files stays as it is.
        progress: is told how many tensors are written.

    Raises:
        UsageError: a weight is too large for the type; names the tensor.
        ContainerError: the file is damaged.
        NotFoundError, OutputError: the output exists or cannot be written.
    """
    started = time.perf_counter()
    check_destination(output, force=force)
    with new_folder(output, is_written_here, force=force) as folder:
        write_folder(folder, checkpoint, dtype, progress)
        file_bytes = sum(file.stat().st_size for file in folder.iterdir())
    return DecompressResult(
        source=checkpoint.source,
        output=str(output),
        format="folder",
        dtype=dtype,
        parameters=parameter_count(checkpoint.config),
        file_bytes=file_bytes,
        seconds=time.perf_counter() - started,
        peak_rss_bytes=peak_rss_bytes(),
    )
