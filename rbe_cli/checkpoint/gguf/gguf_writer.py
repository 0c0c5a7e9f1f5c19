"""Write a GPT-2 as a GGUF file, through the `gguf` library (the extra of that name)."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from rbe_cli.checkpoint.checkpoint import Checkpoint, Float32
from rbe_cli.checkpoint.checkpoint_tensor import from_float32
from rbe_cli.checkpoint.gguf.gguf_checkpoint import ARCHITECTURE
from rbe_cli.checkpoint.gguf.gguf_names import gguf_name
from rbe_cli.checkpoint.gguf.gguf_tokenizer import END_KEYS, GgufTokenizer, to_gguf
from rbe_cli.errors import UsageError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_matrix, is_of_layer, tensor_shapes
from rbe_cli.progress import Progress

if TYPE_CHECKING:
    from gguf import GGUFWriter

DTYPES = ("float32", "float16")
_SAME_FUNCTION = ("gelu_new", "gelu_pytorch_tanh")  # llama.cpp's GELU


def check_form(config: Gpt2Config, dtype: str) -> None:
    """Refuse early what a GGUF file of a GPT-2 cannot hold.

    Raises:
        UsageError: naming the part of the config, or the type; or the library is missing.
    """
    if dtype not in DTYPES:
        raise UsageError(f"a GGUF file is written as {' or '.join(DTYPES)}, not as {dtype}")
    if config.activation_function not in _SAME_FUNCTION:
        raise UsageError(
            f"llama.cpp computes every GPT-2 with gelu_new, and this one has "
            f"{config.activation_function}: write a folder instead of a GGUF file"
        )
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise UsageError("GGUF files need the gguf library: pip install 'rbe-cli[gguf]'") from error


def write_gguf(path: Path, checkpoint: Checkpoint, dtype: str, progress: Progress) -> list[str]:
    """Write a file that llama.cpp loads.

    Matrices have the type that is asked for; positions, LayerNorms and biases are float32, as
    llama.cpp itself stores them.

    Args:
        path: the file to write; an old file is overwritten.
        checkpoint: the model; its tensors are read one at a time.
        dtype: `float32` or `float16`.
        progress: is called after each tensor, with the number written and the total.

    Returns:
        What of the model is left out, one sentence each.

    Raises:
        UsageError: as `check_form`, or a value is too large for the type.
        OSError: the file cannot be written.
    """
    check_form(checkpoint.config, dtype)
    from gguf import GGUFWriter

    writer = GGUFWriter(path, ARCHITECTURE)
    try:
        _add_config(writer, checkpoint.config, dtype)
        notes = _add_tokenizer(writer, checkpoint)
        shapes = tensor_shapes(checkpoint.config)
        for name, shape in shapes.items():
            form = np.dtype(_dtype(name, dtype))
            stored_shape = shape[::-1] if _is_transposed(name) else shape
            size = math.prod(shape) * form.itemsize
            writer.add_tensor_info(gguf_name(name), stored_shape, form, size)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for index, name in enumerate(shapes):
            progress("decoding", index, len(shapes))
            _write_values(writer, _values(name, checkpoint, dtype))
    finally:
        writer.close()
    progress("decoding", len(shapes), len(shapes))
    return notes


def _write_values(writer: "GGUFWriter", values: NDArray[Any]) -> None:
    """Write a tensor's data, as `write_tensor_data` of the library does.

    The library lets numpy write to the file, which does not notice if the disk is full.
    """
    file = cast(list[BinaryIO], writer.fout)[0]
    writer.write_padding(file, file.tell())
    file.write(values.tobytes())
    writer.write_padding(file, values.nbytes)


def _add_config(writer: "GGUFWriter", config: Gpt2Config, dtype: str) -> None:
    from gguf import LlamaFileType

    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.n_inner)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    is_half = dtype == "float16"
    writer.add_file_type(LlamaFileType.MOSTLY_F16 if is_half else LlamaFileType.ALL_F32)


def _add_tokenizer(writer: "GGUFWriter", checkpoint: Checkpoint) -> list[str]:
    """Add the tokenizer, if there is one that GGUF has a form for; return why not."""
    config, notes = checkpoint.config, []
    tokenizer: GgufTokenizer | None = None
    if checkpoint.tokenizer_json is not None:
        try:
            tokenizer = to_gguf(checkpoint.tokenizer_json, config)
        except UsageError as error:
            notes.append(f"the tokenizer is left out: {error}; llama.cpp will take ids only")
    for key, token in zip(END_KEYS, config.eos_token_ids, strict=False):
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", token)
    if config.bos_token_id is not None:
        writer.add_bos_token_id(config.bos_token_id)
    if len(config.eos_token_ids) > len(END_KEYS):
        notes.append(f"only the first {len(END_KEYS)} end-of-text tokens are written")
    if tokenizer is None:
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(config.vocab_size)
        return notes
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.kinds)
    writer.add_token_merges(tokenizer.merges)
    writer.add_add_bos_token(tokenizer.adds_bos)
    writer.add_add_eos_token(tokenizer.adds_eos)
    return notes


def _values(name: str, checkpoint: Checkpoint, dtype: str) -> NDArray[np.float32 | np.float16]:
    tensor = _with_usual_scores(name, checkpoint.tensors[name], checkpoint.config)
    try:
        values = from_float32(tensor, _dtype(name, dtype))
    except UsageError as error:
        raise UsageError(f"tensor {name}: {error}; choose float32") from error
    return np.ascontiguousarray(values.T if _is_transposed(name) else values)


def _with_usual_scores(name: str, tensor: Float32, config: Gpt2Config) -> Float32:
    """Return the tensor with a special scaling of the scores moved into the queries.

    llama.cpp divides every GPT-2's scores by the square root of a head's width.
    """
    if not name.endswith(("attn.c_attn.weight", "attn.c_attn.bias")):
        return tensor
    factor = 1.0 if config.scale_attn_weights else math.sqrt(config.head_dim)
    if config.scale_attn_by_inverse_layer_idx:
        factor /= int(name.split(".")[1]) + 1
    if factor != 1.0:
        tensor = tensor.copy()
        tensor[..., : config.n_embd] *= np.float32(factor)
    return tensor


def _is_transposed(name: str) -> bool:
    """Return whether a tensor is stored `[out, in]`."""
    return is_of_layer(name) and is_matrix(name)


def _dtype(name: str, dtype: str) -> str:
    return dtype if is_matrix(name) and name != "wpe.weight" else "float32"
