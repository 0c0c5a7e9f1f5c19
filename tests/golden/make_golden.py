"""Write the golden files that are not there yet, and their expectations.

    .venv/bin/python tests/golden/make_golden.py

A golden file is never written again: what its bytes mean is what every reader is held to. To add
one, add its case to golden_cases.py.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from compressing import run  # noqa: E402
from golden.golden_cases import CASES, GoldenCase, sizes  # noqa: E402
from golden.golden_matrices import Float32  # noqa: E402
from reference_gpt2 import gpt2  # noqa: E402
from small_models import random_tensors  # noqa: E402
from small_tokenizer import train_tokenizer  # noqa: E402

from rbe_cli.api.language_model import load  # noqa: E402
from rbe_cli.checkpoint.checkpoint import Checkpoint  # noqa: E402
from rbe_cli.codec.classic.classic_matrix import ClassicMatrix, _extent, _places  # noqa: E402
from rbe_cli.codec.codec import CodecOptions, EncodingJob  # noqa: E402
from rbe_cli.codec.registry import codec_named  # noqa: E402
from rbe_cli.compression.settings import Override, Settings  # noqa: E402
from rbe_cli.container.header import Provenance, checksum  # noqa: E402
from rbe_cli.container.reader import Container  # noqa: E402
from rbe_cli.container.stored_tensor import StoredTensor  # noqa: E402
from rbe_cli.container.writer import write_container  # noqa: E402
from rbe_cli.model.config import Gpt2Config  # noqa: E402
from rbe_cli.model.tensor_names import ROTATION, is_matrix, stored_shapes  # noqa: E402

EXPECTATIONS = HERE / "expectations.json"
PROMPT_TOKENS, NEW_TOKENS, LOGITS = 3, 8, 5
LEAD = 0.2
"""The least lead of a chosen token, in standard deviations of the logits.

`rbe` errs by 0.05 at most (README.md).
"""
Writer = Callable[[Path, int], None]
"""Writes a file whose weights follow from a seed."""
PROVENANCE = Provenance("golden", "xxh3:0", "0.1.0", None, "none", 0, {"é": None, "kl": 0.5})


def main() -> None:
    """Write what is missing."""
    known: dict[str, Any] = {}
    if EXPECTATIONS.exists():
        known = json.loads(EXPECTATIONS.read_text())
    writers: dict[str, Writer] = {name: partial(write, case) for name, case in CASES.items()}
    writers["compressed-and-tuned"] = write_compressed
    for name, writer in writers.items():
        path = HERE / f"{name}.rbe"
        if not path.exists():
            known[path.name] = write_golden(path, writer)
            print(path.name, path.stat().st_size, known[path.name]["lead"])
    for path in sorted(HERE.glob("*.rbe")):
        known[path.name] = known.get(path.name) or expected(path)
        assert known[path.name] is not None, path.name
    lines = (f"{json.dumps(name)}: {json.dumps(known[name])}" for name in sorted(known))
    EXPECTATIONS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def write_golden(path: Path, writer: Writer) -> dict[str, Any]:
    """Write a file of random weights that chooses its tokens clearly, and return what is expected.

    Seeds are tried in order.
    """
    for seed in range(1000):
        writer(path, seed)
        found = expected(path)
        if found is not None:
            return found
        path.unlink()
    raise RuntimeError(f"no seed gives {path.name} a clear text")


def write_compressed(path: Path, seed: int) -> None:
    """Write a file as `rbe compress --tune` does: bases of heads, tuned steps, several codecs."""
    config = sizes(n_layer=2)
    tensors = random_tensors(config, seed)
    size = sum(tensor.nbytes for tensor in tensors.values())
    checkpoint = Checkpoint(config, tensors, None, "golden", "xxh3:0", size)
    rules = (
        Override(match="wpe", codec="float16"),
        Override(match=r"h\.0\.mlp", codec="fixed", bits=4),
    )
    run(checkpoint, path, Settings(8.0, override=rules, states=16), tune=1, calib_samples=8)


def write(case: GoldenCase, path: Path, seed: int) -> None:
    """Write the file of a case."""
    tensors = []
    originals = random_tensors(case.config, seed)
    if case.is_rotated:
        rng, shape = np.random.default_rng(seed), stored_shapes(case.config)[ROTATION]
        originals[ROTATION] = rng.standard_normal(shape, np.float32)
    for index, (name, values) in enumerate(originals.items()):
        changed = values_of(values, case, seed)
        if is_matrix(name):
            tensors.append(stored_matrix(name, changed, case))
        else:
            codec = case.vectors[index % len(case.vectors)]
            tensors.append(stored_vector(name, changed, codec))
    tokenizer = train_tokenizer() if case.has_tokenizer else None
    write_container(
        path, config=case.config, tensors=tensors, tokenizer_json=tokenizer, provenance=PROVENANCE
    )
    if case.ectcq_version != codec_named("ectcq").version:
        path.write_bytes(of_ectcq_version(path.read_bytes(), case.ectcq_version))


def values_of(values: Float32, case: GoldenCase, seed: int) -> Float32:
    """Return a tensor as the case wants it: its columns differ, and it may have outliers."""
    rng = np.random.default_rng([seed, values.size])
    changed = values.astype(np.float64)
    if values.ndim == 2:
        changed = 2 * changed * np.exp2(case.spread * rng.normal(size=values.shape[-1]))
    if case.outliers:
        changed.flat[:: max(values.size // 3, 1)] *= 40
    return changed.astype(np.float32)


def stored_matrix(name: str, values: Float32, case: GoldenCase) -> StoredTensor:
    """Encode a matrix."""
    recipe = case.others.get(name, case.recipe)
    codec, data = recipe(values)
    tensor = StoredTensor(name, values.shape, codec, data)
    if tensor.is_transposed:
        data = recipe(np.ascontiguousarray(values.T))[1]
    return StoredTensor(name, values.shape, codec, data)


def stored_vector(name: str, values: Float32, codec: str) -> StoredTensor:
    """Encode a vector; `coded` gives way to float16 where that takes fewer bytes."""
    job = EncodingJob(CodecOptions(is_asked=True), step=0.01 * float(np.median(np.abs(values))))
    payload = codec_named(codec).encode(values, job)
    return StoredTensor(name, values.shape, payload.codec, payload.data)


def of_ectcq_version(data: bytes, version: int) -> bytes:
    """Return the same file with another version of `ectcq`, and the checksum that belongs to it."""
    end = 24 + int.from_bytes(data[12:16], "little")
    newest = b"\xa5ectcq" + bytes([codec_named("ectcq").version])
    assert data[24:end].count(newest) == 1
    header = data[24:end].replace(newest, b"\xa5ectcq" + bytes([version]))
    return data[:16] + checksum(header) + header + data[end:]


def expected(path: Path) -> dict[str, Any] | None:
    """Return what a file holds and says; None if a token is not clearly ahead of the others."""
    with Container.open(path) as container:
        container.verify()
        config = container.config
        codecs = dict(container.codec_versions)
        tensors = {name: stored.decode() for name, stored in container.tensors.items()}
        if not all(is_clear(stored) for stored in container.tensors.values()):
            return None
    hashes = {
        name: hashlib.sha256(np.ascontiguousarray(values, "<f4").tobytes()).hexdigest()
        for name, values in tensors.items()
    }
    for first in range(min(config.vocab_size, 10)):
        prompt = prompt_of(config, first)
        greedy, lead = greedy_text(prompt, tensors, config)
        if config.vocab_size == 1 or (lead >= LEAD and is_telling(greedy, config)):
            break
    else:
        return None
    with load(path) as model:
        found = model.generate(prompt, max_tokens=NEW_TOKENS, greedy=True)
    if found.tokens != greedy or not (found.text.isascii() and found.text.isprintable()):
        return None
    return {
        "file": hashlib.sha256(path.read_bytes()).hexdigest(),
        "codec_versions": codecs,
        "prompt": prompt,
        "greedy": greedy,
        "lead": None if config.vocab_size == 1 else round(lead, 4),
        "text": found.text or None,
        "logits": first_logits(prompt, tensors, config),
        "sha256": hashes,
    }


def is_telling(greedy: list[int], config: Gpt2Config) -> bool:
    """Whether a text has different tokens, and ends early if the config says what ends a text."""
    ends = config.eos_token_ids
    return len(set(greedy)) > 1 and (len(ends) < 2 or greedy[-1] in ends)


def prompt_of(config: Gpt2Config, first: int) -> list[int]:
    """Return a few tokens that begin with one."""
    count = min(PROMPT_TOKENS, config.n_positions)
    return [(first + 7 * index) % config.vocab_size for index in range(count)]


def in_float64(tensors: dict[str, Float32]) -> dict[str, NDArray[np.float64]]:
    """Return tensors in float64."""
    return {name: values.astype(np.float64) for name, values in tensors.items()}


def first_logits(prompt: list[int], tensors: dict[str, Float32], config: Gpt2Config) -> list[float]:
    """Return the logits of the lowest ids after the prompt, computed in float64."""
    logits = gpt2(prompt, in_float64(tensors), config)[-1]
    return [float(f"{value:.10g}") for value in logits[:LOGITS]]


def greedy_text(
    prompt: list[int], tensors: dict[str, Float32], config: Gpt2Config
) -> tuple[list[int], float]:
    """Return the tokens that exact arithmetic chooses, and the least lead of one.

    A lead is how far the logit of a token is above all others, in standard deviations of logits.
    """
    exact = in_float64(tensors)
    tokens, lead = list(prompt), float("inf")
    while len(tokens) < min(len(prompt) + NEW_TOKENS, config.n_positions + 1):
        logits = gpt2(tokens, exact, config)[-1]
        best = int(logits.argmax())
        others = np.delete(logits, best)
        if others.size:
            lead = min(lead, float((logits[best] - others.max()) / logits.std()))
        tokens.append(best)
        if best in config.eos_token_ids:
            break
    return tokens[len(prompt) :], lead


def is_clear(stored: StoredTensor) -> bool:
    """Whether every reader rounds the tensor's weights to the same float32 values.

    A reader computes those of `classic` in float64, in any order, and errs by about 1e-15 of the
    terms of a block before it rounds.
    """
    if stored.codec != "classic":
        return True
    shape = stored.matrix_shape
    matrix = ClassicMatrix.from_bytes(stored.data, shape)
    for block, place in zip(matrix.blocks, _places(shape, matrix.block), strict=True):
        exact = block.decode(_extent(place))
        terms = np.abs(block.surface).max() + np.abs(block.values).max(initial=0.0)
        error = 1e-13 * float(terms)
        if (np.float32(exact - error) != np.float32(exact + error)).any():
            return False
    return True


if __name__ == "__main__":
    main()
