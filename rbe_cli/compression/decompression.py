"""Convert a `.rbe` file back to a folder in Hugging Face layout, or to a GGUF file."""

import time
from dataclasses import dataclass
from math import prod
from pathlib import Path

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.checkpoint.folder_writer import is_written_here, write_folder
from rbe_cli.checkpoint.gguf.gguf_writer import check_form, write_gguf
from rbe_cli.choices import Dtype
from rbe_cli.container.atomic_file import check_kind, check_output, new_file
from rbe_cli.container.atomic_folder import check_folder, new_folder
from rbe_cli.errors import UsageError
from rbe_cli.jobs.peak_memory import peak_rss_bytes
from rbe_cli.memory_needs import memory_for
from rbe_cli.model.tensor_names import parameter_count, tensor_shapes
from rbe_cli.progress import Progress, no_progress

# The type of the decoded values. The reference library computes in the type of the folder, so that
# a smaller type would make its logits less exact.
DEFAULT_DTYPE: Dtype = "float32"
_GGUF = ".gguf"
_FILE_SUFFIXES = (".rbe", ".safetensors", ".bin", ".json", ".onnx", ".pt")


@dataclass(frozen=True)
class DecompressResult:
    """Describe what was written, in the fields of docs/json.md.

    Attributes:
        format: `folder` or `gguf`.
        file_bytes: the size of all files together.
        notes: the parts of the model that were left out, one sentence each.
    """

    source: str
    output: str
    format: str
    dtype: str
    parameters: int
    file_bytes: int
    seconds: float
    peak_rss_bytes: int
    notes: list[str]


def check_destination(output: Path, *, force: bool) -> None:
    """Refuse an output that cannot be written, before a file is downloaded or decoded.

    Raises:
        UsageError: the name ends like that of a file of another kind.
        NotFoundError, OutputError: as in `check_output` and `check_folder`.
    """
    if output.suffix == _GGUF:
        check_output(output, force=force)
        check_kind(output, b"GGUF")
        return
    if output.suffix in _FILE_SUFFIXES:
        raise UsageError(
            f"the output must be a folder, or a file that ends with {_GGUF}: {output} ends with "
            f"{output.suffix}"
        )
    check_folder(output, is_written_here, force=force)


def decompress(
    checkpoint: Checkpoint,
    output: Path,
    dtype: Dtype = DEFAULT_DTYPE,
    *,
    force: bool = False,
    progress: Progress = no_progress,
) -> DecompressResult:
    """Write a model to `output`, which gets its name only once it is complete.

    Args:
        checkpoint: the opened `.rbe` file. Its tensors are decoded and written one at a time.
        output: the folder to write, or a GGUF file if it ends with `.gguf`.
        dtype: the type of the weights: `float32`, `float16` or `bfloat16`.
        force: whether to replace an older output. A folder that holds other files is not replaced.
        progress: called with the number of tensors written.

    Raises:
        UsageError: a weight is too large for the type (the message names the tensor), or GGUF
            cannot hold the model or the type.
        ContainerError: the file is damaged.
        NotFoundError, OutputError: the output exists or cannot be written.
    """
    started = time.perf_counter()
    check_destination(output, force=force)
    notes: list[str] = []
    # The file, and the largest tensor as float64 while it is decoded.
    largest = max(map(prod, tensor_shapes(checkpoint.config).values()))
    with memory_for("to decode the model", checkpoint.weight_bytes + 8 * largest):
        if output.suffix == _GGUF:
            check_form(checkpoint.config, dtype)
            with new_file(output, force=force) as file:
                notes = write_gguf(Path(file.name), checkpoint, dtype, progress)
            file_bytes = output.stat().st_size
        else:
            with new_folder(output, is_written_here, force=force) as folder:
                write_folder(folder, checkpoint, dtype, progress)
                file_bytes = sum(file.stat().st_size for file in folder.iterdir())
    return DecompressResult(
        source=checkpoint.source,
        output=str(output),
        format="gguf" if output.suffix == _GGUF else "folder",
        dtype=dtype,
        parameters=parameter_count(checkpoint.config),
        file_bytes=file_bytes,
        seconds=time.perf_counter() - started,
        peak_rss_bytes=peak_rss_bytes(),
        notes=notes,
    )
