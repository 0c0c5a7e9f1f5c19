"""Compress GPT-2 checkpoints into `.rbe` files, and run them.

    import rbe_cli

    rbe_cli.compress("gpt2", "gpt2.rbe")
    with rbe_cli.load("gpt2.rbe") as model:
        print(model.generate("It was a dark night, and").text)

Importing the package imports none of its parts. Each name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbe_cli.api.array_layers import compress_block, compress_linear
    from rbe_cli.api.compressing import Compression, compress
    from rbe_cli.api.generating import Generation
    from rbe_cli.api.language_model import Model, load
    from rbe_cli.api.model_tensors import ModelTensor, ModelTensors
    from rbe_cli.checkpoint.checkpoint import Checkpoint
    from rbe_cli.compression.open_source import open_source
    from rbe_cli.compression.pipeline import CompressResult
    from rbe_cli.compression.settings import Override
    from rbe_cli.errors import (
        BadFileError,
        CheckpointError,
        ContainerError,
        NotFoundError,
        OfflineError,
        OutputError,
        QualityError,
        RbeError,
        UsageError,
    )
    from rbe_cli.model.config import Gpt2Config
    from rbe_cli.text.generation import GenerationStep
    from rbe_cli.text.generation_options import GenerationOptions
    from rbe_cli.text.recording import GenerationResult

__version__ = "0.1.0"

_HOMES = {
    "BadFileError": "errors",
    "Checkpoint": "checkpoint.checkpoint",
    "CheckpointError": "errors",
    "CompressResult": "compression.pipeline",
    "Compression": "api.compressing",
    "ContainerError": "errors",
    "Generation": "api.generating",
    "GenerationOptions": "text.generation_options",
    "GenerationResult": "text.recording",
    "GenerationStep": "text.generation",
    "Gpt2Config": "model.config",
    "Model": "api.language_model",
    "ModelTensor": "api.model_tensors",
    "ModelTensors": "api.model_tensors",
    "NotFoundError": "errors",
    "OfflineError": "errors",
    "OutputError": "errors",
    "Override": "compression.settings",
    "QualityError": "errors",
    "RbeError": "errors",
    "UsageError": "errors",
    "compress": "api.compressing",
    "compress_block": "api.array_layers",
    "compress_linear": "api.array_layers",
    "load": "api.language_model",
    "open_source": "compression.open_source",
}
"""Public name -> the module that defines it."""

__all__ = [
    "BadFileError",
    "Checkpoint",
    "CheckpointError",
    "CompressResult",
    "Compression",
    "ContainerError",
    "Generation",
    "GenerationOptions",
    "GenerationResult",
    "GenerationStep",
    "Gpt2Config",
    "Model",
    "ModelTensor",
    "ModelTensors",
    "NotFoundError",
    "OfflineError",
    "OutputError",
    "Override",
    "QualityError",
    "RbeError",
    "UsageError",
    "__version__",
    "compress",
    "compress_block",
    "compress_linear",
    "load",
    "open_source",
]


def __getattr__(name: str) -> object:
    """Load a public name from the module that defines it (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted({*globals(), *__all__})
