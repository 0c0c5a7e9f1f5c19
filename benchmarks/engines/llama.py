"""Run llama.cpp by the low-level API of llama-cpp-python."""

import importlib.util
import sys
from collections.abc import Sequence
from ctypes import CFUNCTYPE, c_char_p, c_int, c_void_p
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from benchmarks.engines.peer_session import PeerEngine, SteppingSession

WITH_FLASH, WITHOUT_FLASH = "flash attention", "no flash attention"
MIXES = ("Q5_K_M", "Q4_K_M", "Q3_K_M")  # the other variants have one type for all matrices


@CFUNCTYPE(None, c_int, c_char_p, c_void_p)
def _print_no_log(level: int, text: bytes, data: int) -> None: ...


def bindings() -> Any:
    """Return `llama_cpp.llama_cpp`, without what the package imports beside it.

    The package's `__init__` loads a template engine, a disk cache and numpy, which would count
    against llama.cpp where whole processes are timed.
    """
    if "llama_cpp" not in sys.modules:
        found = importlib.util.find_spec("llama_cpp")
        assert found is not None
        package = ModuleType("llama_cpp")
        package.__path__ = list(found.submodule_search_locations or ())
        sys.modules["llama_cpp"] = package
    module = importlib.import_module("llama_cpp.llama_cpp")
    module.llama_log_set(_print_no_log, None)
    module.llama_backend_init()
    return module


class LlamaSession(SteppingSession):
    """Hold a model and a context of the model's full length, its cache in float16."""

    def __init__(self, path: Path, threads: int, flash: bool) -> None:
        self._llama = llama = bindings()
        self._model = llama.llama_model_load_from_file(
            str(path).encode(), llama.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self._vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))
        options = llama.llama_context_default_params()
        options.n_ctx = llama.llama_model_n_ctx_train(self._model)
        options.n_threads = options.n_threads_batch = threads
        options.flash_attn_type = (
            llama.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        self._context = llama.llama_init_from_model(self._model, options)
        self._cache = llama.llama_get_memory(self._context)

    def prefill(self, tokens: Sequence[int]) -> None:
        self._llama.llama_memory_clear(self._cache, False)
        self._run(tokens)

    def step(self, token: int) -> None:
        self._run((token,))

    def last_logits(self) -> list[float]:
        found: list[float] = self._llama.llama_get_logits_ith(self._context, -1)[: self._vocab_size]
        return found

    def _run(self, tokens: Sequence[int]) -> None:
        """Run all tokens in one batch, with the logits of the last."""
        array = (self._llama.llama_token * len(tokens))(*tokens)
        batch = self._llama.llama_batch_get_one(array, len(tokens))
        status = self._llama.llama_decode(self._context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode ended with {status}")

    def __del__(self) -> None:
        if getattr(self, "_context", None):
            self._llama.llama_free(self._context)
        if getattr(self, "_model", None):
            self._llama.llama_model_free(self._model)


class LlamaCpp(PeerEngine):
    """Quantise every matrix, the tied embedding too, to the type of the name, or to a mix."""

    packages = ("llama_cpp", "gguf")
    variants = {  # noqa: RUF012
        "F16": 16,
        "Q8_0": 8,
        "Q6_K": 6,
        "Q5_K_M": 5,
        "Q4_K_M": 4,
        "Q4_0": 4,
        "Q3_K_M": 3,
        "Q2_K": 2,
    }
    settings = (WITH_FLASH, WITHOUT_FLASH)

    def build(self, source: str, variant: str, path: Path) -> None:
        from rbe_cli.checkpoint.gguf.gguf_writer import write_gguf
        from rbe_cli.checkpoint.source import open_checkpoint
        from rbe_cli.progress import no_progress

        # A tokenizer would only make loading longer.
        checkpoint = replace(open_checkpoint(source), tokenizer_json=None)
        if variant == "F16":
            write_gguf(path, checkpoint, "float16", no_progress)
            return
        with TemporaryDirectory(dir=path.parent) as folder:
            float16 = Path(folder) / "F16.gguf"
            write_gguf(float16, checkpoint, "float16", no_progress)
            quantise(float16, path, variant)

    def open(self, path: Path, variant: str, setting: str, threads: int) -> LlamaSession:
        return LlamaSession(path, threads, setting == WITH_FLASH)


def quantise(source: Path, path: Path, variant: str) -> None:
    """Run llama.cpp's own quantiser, with its `--pure` and a head of the same type but for mixes.

    A mix gives the matrices the types that llama.cpp chooses, the head more bits than the rest.
    """
    llama = bindings()
    options = llama.llama_model_quantize_default_params()
    options.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{variant}")
    if variant not in MIXES:
        tensor_type = getattr(llama, f"GGML_TYPE_{variant}")
        options.output_tensor_type = options.token_embedding_type = tensor_type
        options.pure = True
    status = llama.llama_model_quantize(str(source).encode(), str(path).encode(), options)
    if status != 0:
        raise RuntimeError(f"llama_model_quantize ended with {status}")


ENGINE = LlamaCpp()
