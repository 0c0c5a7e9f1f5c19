"""Make a GPT-2 with random weights that are spread as those of trained ones.

Speed does not depend on single weights. Yet the memory that an entropy-coded file takes depends
on how far weights of one matrix differ in size, so their spreads are those of `english-6m` and of
GPT-2's own attention matrices.
"""

import json
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from safetensors.numpy import save_file

from rbe_cli.checkpoint.checkpoint import Float32
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_embedding, tensor_shapes

GPT2_124M = Gpt2Config(
    vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12, n_inner=3072
)


class MatrixSpread(NamedTuple):
    """Describe the weights of a matrix: Gaussians times log-normal sizes of rows and columns.

    Attributes:
        gain: root mean square of a weight times the root of the number of inputs.
        inputs, outputs: standard deviations of the logarithms to base 2 of these sizes.
    """

    gain: float
    inputs: float
    outputs: float


class VectorSpread(NamedTuple):
    """Describe the values of a vector, which are Gaussian."""

    mean: float
    deviation: float


MATRICES = {
    "wte": MatrixSpread(1.2, inputs=0.35, outputs=0.35),
    "wpe": MatrixSpread(0.3, inputs=0.45, outputs=0.45),
    "attn.c_attn": MatrixSpread(0.7, inputs=0.15, outputs=0.3),
    "attn.c_proj": MatrixSpread(0.6, inputs=0.3, outputs=0.2),
    "mlp.c_fc": MatrixSpread(0.9, inputs=0.1, outputs=0.1),
    "mlp.c_proj": MatrixSpread(1.8, inputs=0.12, outputs=0.13),
}
GAINS = {
    "ln_1": VectorSpread(0.7, 0.09),
    "ln_2": VectorSpread(1.0, 0.1),
    "ln_f": VectorSpread(1.2, 0.12),
}
BIASES = VectorSpread(0.0, 0.07)
TOKEN_PRIOR = 1.5  # standard deviation of the logits of tokens that no context changes
_ALONG_PRIOR = 0.3  # of a token's vector, along the direction of the final bias


def random_tensors(config: Gpt2Config, seed: int) -> dict[str, Float32]:
    """Return every tensor by its canonical name: the same for the same seed and config."""
    rng = np.random.default_rng(seed)
    tensors = {
        name: _random_tensor(name, shape, rng) for name, shape in tensor_shapes(config).items()
    }
    _add_token_prior(tensors, rng)
    return tensors


def _random_tensor(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Float32:
    part, _, parameter = name.rpartition(".")
    kind = part.split(".", 2)[-1] if part.startswith("h.") else part
    values = rng.standard_normal(shape, np.float32)
    if kind not in MATRICES or parameter == "bias":
        spread = GAINS[kind] if parameter == "weight" else BIASES
        return np.float32(spread.mean) + np.float32(spread.deviation) * values
    own = MATRICES[kind]
    sizes = (own.outputs, own.inputs) if is_embedding(name) else (own.inputs, own.outputs)
    for axis, deviation in enumerate(sizes):
        octaves = deviation * rng.standard_normal(shape[axis])
        octaves -= float(np.log2(np.mean(4.0**octaves))) / 2  # the root mean square stays
        values *= np.expand_dims(2.0**octaves, 1 - axis).astype(np.float32)
    inputs = shape[1] if is_embedding(name) else shape[0]
    values *= np.float32(own.gain / np.sqrt(inputs))
    return values


def _add_token_prior(tensors: dict[str, Float32], rng: np.random.Generator) -> None:
    """Make some tokens more frequent than others, by a direction that the final bias has."""
    tokens, width = tensors["wte.weight"].shape
    direction = rng.standard_normal((width,), np.float32)
    direction /= np.float32(np.linalg.norm(direction))
    along = np.float32(_ALONG_PRIOR) * rng.standard_normal((tokens, 1), np.float32)
    tensors["wte.weight"] += along * direction
    tensors["ln_f.bias"] += np.float32(TOKEN_PRIOR / _ALONG_PRIOR) * direction


def write_random(config: Gpt2Config, seed: int, folder: Path) -> None:
    """Write a folder in Hugging Face layout, which appears only when it is whole."""
    unfinished = folder.with_name(f"unfinished-{folder.name}")
    unfinished.mkdir(parents=True, exist_ok=True)
    save_file(random_tensors(config, seed), unfinished / "model.safetensors")
    settings = {"model_type": "gpt2"} | msgspec.to_builtins(config)
    (unfinished / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    unfinished.rename(folder)
