"""Fixtures: a tiny GPT-2 in memory, and as a folder in Hugging Face layout."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import tensor_shapes

WriteFolder = Callable[[str], Path]


@pytest.fixture
def raw_config() -> dict[str, object]:
    """A `config.json`, as Hugging Face writes it."""
    return {
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "vocab_size": 6,
        "n_positions": 4,
        "n_embd": 4,
        "n_layer": 1,
        "n_head": 2,
        "n_inner": None,
        "tie_word_embeddings": True,
    }


@pytest.fixture
def tensors(raw_config: dict[str, object]) -> dict[str, NDArray[np.float32]]:
    """The tensors of `raw_config`, with values that all float types hold exactly."""
    rng = np.random.default_rng(0)
    shapes = tensor_shapes(Gpt2Config.from_hugging_face(raw_config))
    return {
        name: (rng.integers(-16, 16, shape) / 16).astype(np.float32)
        for name, shape in shapes.items()
    }


@pytest.fixture
def write_folder(
    tmp_path: Path,
    raw_config: dict[str, object],
    tensors: dict[str, NDArray[np.float32]],
) -> Callable[[str], Path]:
    """Writes `raw_config` and `tensors`, as a test has changed them, in Hugging Face layout."""

    def write(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(raw_config))
        save_file(tensors, folder / "model.safetensors")
        return folder

    return write
