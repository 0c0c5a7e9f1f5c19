"""Quantise to GGUF's K-quants, by llama.cpp's own quantiser from llama-cpp-python.

Matrices are quantised by `ggml_quantize_chunk` of the package's ggml library and read back by
the package `gguf`. A matrix's type is chosen as llama.cpp does for GPT-2 (`llama-quant.cpp`,
`llama_tensor_get_type_impl` and `tensor_type_fallback`).
"""

import ctypes
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.peers.quantised import Float32, QuantisedMatrix
from rbe_cli.model.config import Gpt2Config

PURE = ("Q2_K", "Q3_K", "Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
MIXES = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M")
# Where a row is no multiple of 256 weights: types in blocks of 32.
FALLBACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
# In these mixes all of a layer but mlp.c_fc is of the next type at least.
NEXT = {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K"}


def is_installed() -> bool:
    """Return whether llama-cpp-python, with its library, and gguf are installed."""
    return _library_path() is not None and find_spec("gguf") is not None


def quantise(
    weights: Float32, type_name: str, importance: Float32 | None = None
) -> QuantisedMatrix:
    """Quantise weights `[K, N]` to one of ggml's types, which must suit K (`fitting_type`).

    Args:
        weights: ggml's rows run along the inputs, so they are the columns of these.
        type_name: `Q4_K`, say.
        importance: of each input `[K]`, llama.cpp's importance matrix.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    rows = np.ascontiguousarray(weights.T, np.float32)  # [N, K]
    kind = GGMLQuantizationType[type_name]
    block, block_bytes = GGML_QUANT_SIZES[kind]
    stored = np.empty((len(rows), rows.shape[1] // block * block_bytes), np.uint8)
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
    pointer = None if importance is None else importance.ctypes.data
    written = _library().ggml_quantize_chunk(
        int(kind), rows.ctypes.data, stored.ctypes.data, 0, *rows.shape, pointer
    )
    assert written == stored.nbytes
    return QuantisedMatrix(np.ascontiguousarray(dequantize(stored, kind).T), 8 * stored.nbytes)


def fitting_type(type_name: str, inputs: int) -> str:
    """Return the type, or what llama.cpp falls back to for rows of `inputs` weights."""
    if inputs % (32 if type_name in ("Q4_0", "Q8_0") else 256) == 0:
        return type_name
    return FALLBACK.get(type_name, type_name) if inputs % 32 == 0 else "F16"


def mixed_type(mix: str, name: str, config: Gpt2Config) -> str:
    """Return the type of one matrix in a mix such as `Q4_K_M`, before `fitting_type`."""
    base = mix.removesuffix("_M")
    parts = re.fullmatch(r"h\.(\d+)\.(.*)\.weight", name)
    if parts is None:
        is_head = name == "lm_head.weight" or config.tie_word_embeddings
        return "Q6_K" if is_head else base
    layer, part = int(parts[1]), parts[2]
    if part == "mlp.c_fc":
        return base
    if mix in NEXT:
        first = {"attn.c_attn": 2, "mlp.c_proj": config.n_layer // 16}.get(part, 0)
        return "Q5_K" if mix == "Q3_K_M" and layer < first else NEXT[mix]
    has_more = part != "attn.c_proj" and _gets_more(layer, config.n_layer)
    return "Q6_K" if has_more else base


def _gets_more(layer: int, layers: int) -> bool:
    """Decide as llama.cpp's `use_more_bits`: the first and last eighth, and each third between."""
    first = layers // 8
    return layer < first or layer >= 7 * layers // 8 or (layer - first) % 3 == 2


def _library_path() -> Path | None:
    """Return ggml's base library inside the package, which is not imported for it."""
    package = find_spec("llama_cpp")
    folders = (package and package.submodule_search_locations) or ()
    found = (path for folder in folders for path in Path(folder, "lib").glob("*ggml-base*"))
    return min(found, default=None)


@cache
def _library() -> ctypes.CDLL:
    path = _library_path()
    assert path is not None
    library = ctypes.CDLL(str(path))
    size, pointer = ctypes.c_int64, ctypes.c_void_p
    function = library.ggml_quantize_chunk
    # type, source, target, start, rows, weights a row, importance
    function.argtypes = [ctypes.c_int, pointer, pointer, size, size, size, pointer]
    function.restype = ctypes.c_size_t
    return library
