"""A reader written from docs/FORMAT.md alone finds in a file what the package finds."""

import ast
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from compressing import run
from examples import examples
from golden.make_golden import NEW_TOKENS
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracles import second_reader
from oracles.second_reader import BrokenFileError, SecondFile, read_file
from small_models import random_tensors, small_config

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.codec.codec import CodecOptions, EncodingJob
from rbe_cli.codec.entropy.entropy_model import MAX_LEVEL, MIN_LEVEL, entropy_tables
from rbe_cli.codec.registry import CODECS, codec_named
from rbe_cli.compression.settings import Override, Settings
from rbe_cli.container.header import Provenance
from rbe_cli.container.reader import Container
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.container.writer import write_container
from rbe_cli.errors import ContainerError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_matrix, tensor_shapes

Float32 = NDArray[np.float32]
GOLDEN = Path(__file__).parents[1] / "golden"
GOLDEN_FILES: dict[str, Any] = json.loads((GOLDEN / "expectations.json").read_text())
BAD_FILES: dict[str, Any] = json.loads((GOLDEN / "bad" / "expectations.json").read_text())
DIGEST = "7c3383960153e7e68b858485d410c8f57060180feabb907e9e0ee49201b5b814"
PROVENANCE = Provenance("demo", "xxh3:00", "0.1.0", None, "none", 3, {"kl": 0.5, "é": None})
SMALL = Gpt2Config(vocab_size=70, n_positions=17, n_embd=18, n_layer=1, n_head=2, n_inner=37)
WIDE = Gpt2Config(
    vocab_size=2051, n_positions=33, n_embd=34, n_layer=1, n_head=2, n_inner=5,
    tie_word_embeddings=False, bos_token_id=0, eos_token_id=(1, 2050),
)  # fmt: skip
"""The matrices of its embedding and head have three column blocks."""
ASKED = CodecOptions(is_asked=True)


@dataclass(frozen=True)
class Case:
    """How all matrices of a file are stored.

    Attributes:
        codec: of the matrices.
        options: of the codec.
        step: of `ectcq`, over the deviation of the weights.
        outliers: whether a few weights are far from the others.
        is_tuned: whether the steps of the columns change after the weights were written.
        config: of the model.
    """

    codec: str
    options: CodecOptions = ASKED
    step: float = 0.3
    outliers: bool = False
    is_tuned: bool = False
    config: Gpt2Config = SMALL


def trellis(states: int, **fields: Any) -> Case:
    return Case("ectcq", CodecOptions(states=states, is_asked=True), **fields)


def at_bits(codec: str, bits: float, block: int = 64, **fields: Any) -> Case:
    return Case(codec, CodecOptions(bits, block=block, is_asked=True), **fields)


CASES = {
    "float16": Case("float16"),
    "float32": Case("float32", config=WIDE),
    "fixed-2": at_bits("fixed", 2),
    "fixed-4": at_bits("fixed", 4, config=WIDE),
    "fixed-8": at_bits("fixed", 8, outliers=True),
    "8-states": trellis(8),
    "16-states": trellis(16, config=WIDE),
    "32-states-and-escapes": trellis(32, outliers=True),
    "64-states-and-coarse-steps": trellis(64, step=3.0),
    "fine-steps-and-low-bits": trellis(8, step=0.003, outliers=True),
    "tuned": trellis(8, is_tuned=True),
    "tuned-wide-64-states": trellis(64, is_tuned=True, config=WIDE),
}
CLASSIC = {
    "blocks-of-16": at_bits("classic", 6, block=16, outliers=True),
    "blocks-of-64": at_bits("classic", 8, block=64),
    "blocks-of-256": at_bits("classic", 2.5, block=256, config=WIDE),
}


def values_of(shape: tuple[int, ...], case: Case, seed: int) -> Float32:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 0.2, shape) * np.exp2(rng.normal(0, 1, shape[-1]))
    if case.outliers:
        values.flat[:: max(values.size // 7, 1)] *= 300
    return values.astype(np.float32)


def stored_matrix(name: str, shape: tuple[int, ...], case: Case, seed: int) -> StoredTensor:
    """Encode a random matrix as the case says."""
    codec = codec_named(case.codec)
    values = values_of(StoredTensor(name, shape, case.codec, b"").encoded_shape, case, seed)
    job = EncodingJob(case.options, step=case.step * float(np.median(np.abs(values))))
    payload = codec.encode(values, job)
    assert payload.codec == case.codec
    data = payload.data
    if case.is_tuned:
        factors = np.exp2(np.random.default_rng(seed).uniform(-0.4, 0.4, values.shape[1]))
        data = codec.rescaled(data, values.shape, factors.astype(np.float32))
    return StoredTensor(name, shape, case.codec, data)


def stored_vector(
    name: str, shape: tuple[int, ...], case: Case, codec: str, seed: int
) -> StoredTensor:
    """Encode a random vector; the codec may choose another."""
    values = values_of(shape, case, seed)
    job = EncodingJob(CodecOptions(is_asked=True), step=0.01 * float(np.median(np.abs(values))))
    payload = codec_named(codec).encode(values, job)
    return StoredTensor(name, shape, payload.codec, payload.data)


def written(path: Path, case: Case) -> Path:
    """Write a file whose matrices are as the case says, and whose vectors have all codecs."""
    of_vectors = [codec.name for codec in CODECS.values() if codec.takes_vectors]
    tensors = []
    for seed, (name, shape) in enumerate(tensor_shapes(case.config).items()):
        if is_matrix(name):
            tensors.append(stored_matrix(name, shape, case, seed))
        else:
            codec = of_vectors[seed % len(of_vectors)]
            tensors.append(stored_vector(name, shape, case, codec, seed))
    write_container(
        path, config=case.config, tensors=tensors, tokenizer_json=b'{"a": 1}',
        provenance=PROVENANCE,
    )  # fmt: skip
    return path


def assert_same_bits(found: Float32, expected: Float32) -> None:
    """Check shape, type and every bit, that of a negative zero too."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype == np.float32
    ours, theirs = (np.ascontiguousarray(a).view(np.uint32) for a in (found, expected))
    np.testing.assert_array_equal(ours, theirs)


def assert_same_weights(codec: str, found: Float32, expected: Float32) -> None:
    """Check two decodings of a codec for what its section promises."""
    if codec == "classic":
        assert_within_the_rule(found, expected)
    else:
        assert_same_bits(found, expected)


def verified(data: bytes) -> SecondFile:
    """Return what the second reader finds, after it has checked all bytes."""
    file = read_file(data)
    file.verify()
    return file


def assert_the_same_file(path: Path) -> None:
    """Check that both readers find the same in a file."""
    second = verified(path.read_bytes())
    with Container.open(path) as first:
        first.verify()
        assert second.names == list(first.tensors)
        assert second.tokenizer_json() == first.tokenizer_json()
        assert second.codec_versions == first.codec_versions
        for key, value in second.config.items():
            other = getattr(first.config, key)
            assert value == (list(other) if isinstance(other, tuple) else other)
        assert second.provenance[5] == first.provenance.seed
        assert second.provenance[6] == first.provenance.extra
        for name, stored in first.tensors.items():
            found, expected = second.tensor(name), stored.decode()
            assert_same_weights(stored.codec, found, expected)
            assert np.mean(found != expected) < 1e-3


def assert_within_the_rule(found: Float32, expected: Float32) -> None:
    """Check that two decodings of `classic` differ no more than its section lets them."""
    apart = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    size = np.abs(expected).astype(np.float64)
    assert (apart <= 2.0**-23 * size + 2.0**-149 + 2e-12 * size.max()).all()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_tensor_has_the_same_bits(case: Case, tmp_path: Path) -> None:
    assert_the_same_file(written(tmp_path / "a.rbe", case))


@pytest.mark.parametrize("case", CLASSIC.values(), ids=CLASSIC.keys())
def test_weights_of_classic_differ_in_the_last_bit_at_most(case: Case, tmp_path: Path) -> None:
    assert_the_same_file(written(tmp_path / "a.rbe", case))


@pytest.mark.parametrize("transform", [0, 1, 2])
@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (1, 37), (35, 23), (40, 7), (255, 18)])
def test_every_transform_of_classic_is_the_same(transform: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(transform)
    block, parts = 24, []
    extents = [
        (min(block, shape[0] - top), min(block, shape[1] - left))
        for top in range(0, shape[0], block)
        for left in range(0, shape[1], block)
    ]
    for rows, columns in extents:
        places = np.sort(rng.permutation(rows * columns)[: rows * columns // 2 + 1])
        parts.append((places, rng.normal(size=places.size)))
    data = b"".join(
        [
            np.uint16(block).tobytes(),
            bytes([transform]) * len(extents),
            np.array([places.size for places, _ in parts], "<u2").tobytes(),
            rng.normal(size=(len(extents), 8)).astype("<f4").tobytes(),
            *(p.astype("<u2").tobytes() + v.astype("<f4").tobytes() for p, v in parts),
        ]
    )
    expected = codec_named("classic").decode(data, shape)
    assert_within_the_rule(second_reader.decode_classic(data, shape), expected)


def test_a_compressed_checkpoint_is_the_same(tmp_path: Path) -> None:
    config = small_config(n_layer=2)
    tensors = random_tensors(config)
    size = sum(tensor.nbytes for tensor in tensors.values())
    checkpoint = Checkpoint(config, tensors, None, "tiny", "xxh3:0123456789abcdef", size)
    rules = (
        Override(match="wpe", codec="float16"),
        Override(match=r"h\.0\.mlp", codec="fixed", bits=4),
        Override(match=r"h\.1\.attn\.c_proj", codec="classic", bits=6),
    )
    path = tmp_path / "a.rbe"
    run(checkpoint, path, Settings(8.0, override=rules, states=16), tune=1, force=True)
    with Container.open(path) as container:
        used = {tensor.codec for tensor in container.tensors.values()}
    assert used >= {"float16", "fixed", "classic", "ectcq"}
    assert_the_same_file(path)


def test_all_frequencies_are_those_of_the_model() -> None:
    tables = entropy_tables()
    for level in range(MIN_LEVEL, MAX_LEVEL + 1):
        for z in (0, 1):
            found = second_reader.frequencies(level, z)
            np.testing.assert_array_equal(found, tables.frequency[level - MIN_LEVEL, z])
        assert second_reader.shift_of(level) == tables.shift[level - MIN_LEVEL]


def test_the_second_reader_knows_every_codec() -> None:
    assert second_reader.DECODERS.keys() == CODECS.keys()
    assert {
        name: tuple(range(codec.oldest_version, codec.version + 1))
        for name, codec in CODECS.items()
    } == second_reader.CODEC_VERSIONS


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_golden_files_have_the_same_numbers_and_text(name: str) -> None:
    expected = GOLDEN_FILES[name]
    file = verified((GOLDEN / name).read_bytes())
    hashes = {own: hashlib.sha256(file.tensor(own).tobytes()).hexdigest() for own in file.names}
    assert hashes == expected["sha256"]
    found = second_reader.greedy(file, expected["prompt"], NEW_TOKENS)
    assert found == expected["greedy"]


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_give_the_error_of_their_rule(name: str) -> None:
    found = result_of(second_tensors_of, (GOLDEN / "bad" / name).read_bytes())
    assert found == BAD_FILES[name]["error"]


def test_a_file_of_version_1_is_read_for_ever() -> None:
    """Its trellis takes strides. The digest is that of the tool that wrote it."""
    path = GOLDEN / "ectcq-1.rbe"
    with Container.open(path) as container:
        assert container.codec_versions["ectcq"] == 1
        found = hashlib.sha256()
        for name in sorted(container.tensors):
            found.update(name.encode() + container.tensors[name].decode().tobytes())
    assert found.hexdigest() == DIGEST
    assert_the_same_file(path)


def test_the_second_reader_needs_numpy_and_checksums_only() -> None:
    imported = set()
    for node in ast.walk(ast.parse(Path(second_reader.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported - sys.stdlib_module_names == {"numpy", "xxhash"}


DAMAGED = ["float16", "fixed-4", "8-states", "tuned", "blocks-of-16"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a file for each of `DAMAGED`."""
    folder = tmp_path_factory.mktemp("files")
    for name in DAMAGED:
        written(folder / name, replace((CASES | CLASSIC)[name], config=SMALL))
    return folder


def result_of(read: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a reader finds, or the name of the error that it raises."""
    try:
        return read(*arguments)
    except ContainerError as error:
        return type(error).__name__
    except BrokenFileError as error:
        return error.error


def tensors_of(data: bytes) -> dict[str, Float32]:
    container = Container(memoryview(data), Path("damaged.rbe"))
    container.verify()
    tensors = {name: tensor.decode() for name, tensor in container.tensors.items()}
    container.tokenizer_json()
    return tensors


def second_tensors_of(data: bytes) -> dict[str, Float32]:
    file = verified(data)
    tensors = {name: file.tensor(name) for name in file.names}
    file.tokenizer_json()
    return tensors


def assert_the_same_result(data: bytes) -> None:
    first = result_of(tensors_of, data)
    second = result_of(second_tensors_of, data)
    if isinstance(first, str) or isinstance(second, str):
        assert first == second
    else:
        for name, tensor in first.items():
            np.testing.assert_allclose(second[name], tensor, rtol=1e-6, atol=1e-6)


def signed(data: bytes) -> bytes:
    """The same with a right checksum of the header."""
    end = 24 + int.from_bytes(data[12:16], "little")
    return data[:16] + xxhash.xxh3_64_digest(data[24:end]) + data[24:]


CHANGES = st.lists(st.tuples(st.integers(0, 2**12), st.integers(1, 255)), min_size=1, max_size=3)
"""Where a byte changes, modulo their number, and what it is combined with."""


@pytest.mark.parametrize("name", DAMAGED)
@examples(60)
@given(changes=CHANGES)
def test_a_changed_header_is_the_same_error(
    name: str, changes: list[tuple[int, int]], files: Path
) -> None:
    damaged = bytearray((files / name).read_bytes())
    end = 24 + int.from_bytes(damaged[12:16], "little")
    for place, mask in changes:
        damaged[place % end] ^= mask
    assert_the_same_result(bytes(damaged))
    assert_the_same_result(signed(bytes(damaged)))


@pytest.mark.parametrize("name", DAMAGED)
@examples(60)
@given(index=st.integers(0, 15), changes=CHANGES, is_near=st.booleans(), cut=st.integers(0, 2**12))
def test_a_changed_payload_is_the_same_error(
    name: str,
    index: int,
    changes: list[tuple[int, int]],
    is_near: bool,
    cut: int,
    files: Path,
) -> None:
    """Half of the changes are near the payload's beginning, where most rules are."""
    container = Container.open(files / name)
    tensor = container.tensors[sorted(container.tensors)[index]]
    payload, shape = bytearray(tensor.data), tensor.encoded_shape
    for place, mask in changes:
        payload[place % min(len(payload), 60 if is_near else 2**12)] ^= mask
    damaged = [bytes(payload)]
    codec, decode = CODECS[tensor.codec], second_reader.DECODERS[tensor.codec]
    if codec.exact_bytes(shape) is None:  # else the header tells a wrong size
        damaged += [bytes(payload[: cut % len(payload)]), bytes(payload) + b"\0"]
    for data in damaged:
        first, second = result_of(codec.decode, data, shape), result_of(decode, data, shape)
        if isinstance(first, str) or isinstance(second, str):
            assert first == second
        else:
            assert_same_weights(tensor.codec, second, first)
