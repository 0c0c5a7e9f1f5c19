"""Make a tiny model whose matrices are random bytes, which the container does not decode."""

import math
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from rbe_cli.codec.registry import CODECS
from rbe_cli.container.header import Provenance
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.container.writer import write_container
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_matrix, tensor_shapes


@pytest.fixture(scope="session")
def config() -> Gpt2Config:
    return Gpt2Config(vocab_size=11, n_positions=5, n_embd=6, n_layer=2, n_head=2, n_inner=9)


@pytest.fixture(scope="session")
def provenance() -> Provenance:
    return Provenance(
        source="org/name@main",
        source_hash="xxh3:0123456789abcdef",
        tool_version="0.1.0",
        preset=None,
        calibration="none",
        seed=7,
        extra={"kl_divergence": 0.25, "tokens": 99, "note": "é", "tuned": False, "tune": None},
    )


@pytest.fixture(scope="session")
def tensors(config: Gpt2Config) -> list[StoredTensor]:
    """Return `wpe` as float16, and the other tensors in all codecs that they may have."""
    random = np.random.default_rng(0)
    of_vectors = ["coded", "float16", "float32", "scalar"]
    of_matrices = sorted(CODECS.keys() - set(of_vectors))
    codecs = {True: cycle(of_matrices), False: cycle(of_vectors)}
    stored = []
    for index, (name, shape) in enumerate(tensor_shapes(config).items()):
        codec = "float16" if name == "wpe.weight" else next(codecs[is_matrix(name)])
        sizes = {"float16": 2 * math.prod(shape), "float32": 4 * math.prod(shape), "scalar": 4}
        size = sizes.get(codec, 50 + 13 * index)
        stored.append(StoredTensor(name, shape, codec, random.bytes(size)))
    return stored


@pytest.fixture(scope="session")
def tokenizer_json() -> bytes:
    return b'{"model": {"vocab": {}}}' * 20


@pytest.fixture(scope="session")
def rbe_file(
    tmp_path_factory: pytest.TempPathFactory,
    config: Gpt2Config,
    tensors: list[StoredTensor],
    tokenizer_json: bytes,
    provenance: Provenance,
) -> Path:
    """Return a valid file of all these parts. Tests must not change it in place."""
    path = tmp_path_factory.mktemp("container") / "tiny.rbe"
    write_container(
        path,
        config=config,
        tensors=tensors,
        tokenizer_json=tokenizer_json,
        provenance=provenance,
    )
    return path
