"""From a file's encoded tensors to a model that is ready to run."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from rbe_cli.checkpoint.names import is_embedding
from rbe_cli.codec.classic import ClassicMatrix
from rbe_cli.codec.fixed import FixedMatrix
from rbe_cli.codec.vector import decode_vector
from rbe_cli.container.reader import Container
from rbe_cli.container.tensor import StoredTensor
from rbe_cli.engine.warm_up import compile_steps
from rbe_cli.errors import PayloadError
from rbe_cli.kernels.cpus import default_threads
from rbe_cli.kernels.panel import PanelMatrix
from rbe_cli.kernels.table import Kernels
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.linear import Weight
from rbe_cli.progress import Progress


def load_model(container: Container, kernels: Kernels, progress: Progress) -> Gpt2:
    """Decode a file's tensors, several at a time.

    Entropy-coded matrices become panels of integers block by block; they are never whole in
    float32.

    Args:
        container: may be closed afterwards.
        kernels: what computes.
        progress: hears of compilation, if the decoder needs any.

    Raises:
        ContainerError: a section's checksum or a tensor's bytes are wrong.
    """
    _compile_decoder(container.tensors, progress)
    weights = _decode(container.tensors, kernels.threads or default_threads())
    return Gpt2(container.config, weights, kernels)


def resident(tensor: StoredTensor) -> Weight:
    """One tensor as a model takes it: embeddings and head `[n_embd, rows]`.

    A matrix of a fixed rate stays as it is stored. One of the classic scheme becomes dense
    float32: it is there to compare the quality.

    Raises:
        PayloadError: its bytes are wrong; names the tensor.
    """
    try:
        if tensor.codec == "ectcq":
            return _integers(tensor)
        if tensor.codec == "fixed":
            fixed = FixedMatrix.from_bytes(tensor.data, tensor.matrix_shape)
            return PanelMatrix.of_one_layout(
                fixed.values, fixed.layout, fixed.row_steps, fixed.column_steps, fixed.shape
            )
        if tensor.codec == "classic":
            return ClassicMatrix.from_bytes(tensor.data, tensor.matrix_shape).decode()
        values = decode_vector(tensor.data, tensor.shape, tensor.codec)
        return values.T if is_embedding(tensor.name) else values
    except PayloadError as error:
        raise PayloadError(f"tensor {tensor.name}: {error}") from error


def _integers(tensor: StoredTensor) -> Weight:
    """In panels; dense if an integer is too large for those."""
    from rbe_cli.codec.matrix import EncodedMatrix  # needs Numba, which files of fixed rates do not

    encoded = EncodedMatrix.from_bytes(tensor.data, tensor.matrix_shape)
    try:
        return PanelMatrix.from_blocks(encoded.shape, encoded.decoded_blocks())
    except OverflowError:
        return encoded.decode()


def _decode(tensors: Mapping[str, StoredTensor], threads: int) -> dict[str, Weight]:
    """All tensors as a model takes them; the decoder runs without the GIL."""
    pool = ThreadPoolExecutor(threads)
    try:
        return dict(zip(tensors, pool.map(resident, tensors.values()), strict=True))
    finally:
        pool.shutdown(cancel_futures=True)


def _compile_decoder(tensors: Mapping[str, StoredTensor], progress: Progress) -> None:
    """Decode the smallest tensor of each entropy-coded codec once, ahead of the threads."""
    steps = []
    for codec in ("ectcq", "coded"):
        encoded = [tensor for tensor in tensors.values() if tensor.codec == codec]
        if encoded:
            steps.append(partial(resident, min(encoded, key=lambda tensor: len(tensor.data))))
    if steps:  # else Numba need not be imported
        compile_steps("compiling the decoder (first run only)", steps, progress)
