"""Check that a file reads back as written, with the offsets that docs/FORMAT.md gives."""

import math
import struct
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.codec.registry import CODECS
from rbe_cli.container.file_size import FileSize, TensorSize, packed_bytes
from rbe_cli.container.header import Provenance
from rbe_cli.container.reader import Container
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.container.tokenizer_section import TOKENIZER_LIMIT, pack_tokenizer, unpack_tokenizer
from rbe_cli.container.writer import write_container
from rbe_cli.errors import CheckpointError, GeometryError, HeaderError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_matrix, parameter_count, tensor_shapes


def test_everything_comes_back(
    rbe_file: Path,
    config: Gpt2Config,
    tensors: list[StoredTensor],
    tokenizer_json: bytes,
    provenance: Provenance,
) -> None:
    with Container.open(rbe_file) as container:
        container.verify()
        assert container.format_version == 1
        assert container.config == config
        assert container.provenance == provenance
        assert container.codec_versions == {name: codec.version for name, codec in CODECS.items()}
        assert container.tokenizer_json() == tokenizer_json
        assert container.file_bytes == rbe_file.stat().st_size
        assert {tensor.name: tensor for tensor in tensors} == dict(container.tensors)
        assert len(container.tensors) == len(tensors)


@pytest.mark.parametrize(("ends", "stored"), [(None, None), (3, 3), ((3, 5), [3, 5])])
def test_end_tokens_are_stored_as_in_hugging_face(
    tmp_path: Path,
    config: Gpt2Config,
    tensors: list[StoredTensor],
    provenance: Provenance,
    ends: int | tuple[int, ...] | None,
    stored: object,
) -> None:
    """Read back an `eos_token_id` that is None, a number as in the first files, or a list."""
    config = msgspec.structs.replace(config, eos_token_id=ends)
    path = tmp_path / "ends.rbe"
    write_container(
        path, config=config, tensors=tensors, tokenizer_json=None, provenance=provenance
    )
    with Container.open(path) as container:
        assert container.config == config
        assert container.config.eos_token_ids == ({None: (), 3: (3,)}.get(ends, ends))
    data = path.read_bytes()
    (header_bytes,) = struct.unpack_from("<I", data, 12)
    raw_config = msgspec.msgpack.decode(data[24 : 24 + header_bytes])[0]
    assert raw_config["eos_token_id"] == stored


def test_layout_is_that_of_the_specification(
    rbe_file: Path, config: Gpt2Config, tensors: list[StoredTensor]
) -> None:
    data = rbe_file.read_bytes()
    header_bytes, checksum = struct.unpack_from("<I8s", data, 12)
    end = 24 + header_bytes
    assert data[:12] == b"\x89RBE\r\n\x1a\n\x01\x00\x00\x00"
    assert checksum == xxhash.xxh3_64(data[24:end]).digest()
    raw_config, codecs, _, matrices, vectors, _, tokenizer = msgspec.msgpack.decode(data[24:end])
    assert raw_config == msgspec.to_builtins(config)
    assert codecs == {name: codec.version for name, codec in CODECS.items()}
    by_name = {tensor.name: tensor for tensor in tensors}
    for name, codec, size, checksum in matrices:
        start = math.ceil(end / 64) * 64
        assert not any(data[end:start])
        end = start + size
        assert (codec, data[start:end]) == (by_name[name].codec, by_name[name].data)
        assert checksum == xxhash.xxh3_64(data[start:end]).digest()
    end = math.ceil(end / 64) * 64
    for name, codec, size in vectors:
        start, end = end, end + size
        assert (codec, data[start:end]) == (by_name[name].codec, by_name[name].data)
    assert tokenizer[0] == len(data) - math.ceil(end / 64) * 64


def test_sections_are_aligned_and_named_after_their_matrix(
    rbe_file: Path, config: Gpt2Config
) -> None:
    with Container.open(rbe_file) as container:
        sections = container.sections
    matrices = [name for name in tensor_shapes(config) if is_matrix(name)]
    assert [section.name for section in sections] == [*matrices, "vectors", "tokenizer"]
    assert all(section.offset % 64 == 0 for section in sections)
    assert all(0 <= b.offset - a.end < 64 for a, b in pairwise(sections))


def test_bits_per_weight_leaves_out_the_tokenizer(rbe_file: Path, config: Gpt2Config) -> None:
    with Container.open(rbe_file) as container:
        tokenizer = container.sections[-1]
        bits = 8 * (container.file_bytes - tokenizer.size)
        assert container.bits_per_weight == bits / parameter_count(config)
        wpe = container.layout.tensors["wpe.weight"]
        assert wpe.bits_per_weight == 16.0


def test_without_tokenizer(
    tmp_path: Path, config: Gpt2Config, tensors: list[StoredTensor], provenance: Provenance
) -> None:
    path = tmp_path / "plain.rbe"
    write_container(
        path, config=config, tensors=tensors, tokenizer_json=None, provenance=provenance
    )
    with Container.open(path) as container:
        container.verify()
        assert container.tokenizer_json() is None
        assert container.bits_per_weight == 8 * container.file_bytes / parameter_count(config)


@given(
    sizes=st.lists(st.integers(1, 300), min_size=11, max_size=11),
    vector_codec=st.sampled_from(["coded", "float16", "float32", "scalar"]),
    tokenizer_json=st.none() | st.binary(max_size=200),
    seed=st.integers(0, 2**63),
    note=st.text(max_size=100),
    tied=st.booleans(),
)
def test_any_sizes_round_trip_and_are_foretold(
    tmp_path_factory: pytest.TempPathFactory,
    config: Gpt2Config,
    provenance: Provenance,
    sizes: list[int],
    vector_codec: str,
    tokenizer_json: bytes | None,
    seed: int,
    note: str,
    tied: bool,
) -> None:
    config = msgspec.structs.replace(config, tie_word_embeddings=tied)
    provenance = msgspec.structs.replace(provenance, seed=seed, calibration=note)
    tensors = []
    for name, shape in tensor_shapes(config).items():
        codec = "ectcq" if is_matrix(name) else vector_codec
        exact = {"float16": 2 * math.prod(shape), "float32": 4 * math.prod(shape), "scalar": 4}
        size = exact.get(codec, sizes[len(tensors) % 11])
        tensors.append(StoredTensor(name, shape, codec, bytes([size % 256]) * size))
    tensors.reverse()  # any order
    path = tmp_path_factory.mktemp("sizes") / "a.rbe"
    written = write_container(
        path,
        config=config,
        tensors=tensors,
        tokenizer_json=tokenizer_json,
        provenance=provenance,
    )
    packed = None if tokenizer_json is None else len(pack_tokenizer(tokenizer_json))
    file_size = FileSize(config, packed, packed_bytes(provenance))
    tensor_sizes = [TensorSize(tensor.name, tensor.codec, len(tensor.data)) for tensor in tensors]
    assert file_size(tensor_sizes) == written == path.stat().st_size
    header_bytes = int.from_bytes(path.read_bytes()[12:16], "little")
    assert file_size.header_bytes(tensor_sizes) == header_bytes
    with Container.open(path) as container:
        container.verify()
        assert container.provenance == provenance
        assert container.tokenizer_json() == tokenizer_json
        assert {tensor.name: tensor for tensor in tensors} == dict(container.tensors)


def test_largest_tokenizer_that_is_allowed() -> None:
    json = bytes(TOKENIZER_LIMIT)
    assert unpack_tokenizer(memoryview(pack_tokenizer(json))) == json


def test_views_outlive_the_container(rbe_file: Path, tensors: list[StoredTensor]) -> None:
    with Container.open(rbe_file) as container:
        array = np.frombuffer(container.tensors["wte.weight"].data, np.uint8)
        assert not array.flags.writeable
    assert array.tobytes() == tensors[0].data
    with pytest.raises(ValueError, match="released"):
        container.section("wte.weight")


def test_the_old_file_stays_readable_when_it_is_replaced(
    tmp_path: Path,
    config: Gpt2Config,
    tensors: list[StoredTensor],
    provenance: Provenance,
    rbe_file: Path,
) -> None:
    path = tmp_path / "a.rbe"
    path.write_bytes(rbe_file.read_bytes())
    with Container.open(path) as old:
        write_container(
            path,
            config=config,
            tensors=tensors,
            tokenizer_json=None,
            provenance=provenance,
            force=True,
        )
        old.verify()
        assert old.tokenizer_json() is not None
    with Container.open(path) as new:
        assert new.tokenizer_json() is None


class TestWriterRefuses:
    """Check that the writer refuses what the reader would refuse, and leaves no file behind."""

    @pytest.fixture
    def write(
        self,
        tmp_path: Path,
        config: Gpt2Config,
        tensors: list[StoredTensor],
        provenance: Provenance,
    ):
        def attempt(**changes: object) -> None:
            parts = {"tensors": tensors, "tokenizer_json": None, "provenance": provenance}
            write_container(tmp_path / "a.rbe", config=config, **(parts | changes))

        yield attempt
        assert list(tmp_path.iterdir()) == []

    def test_missing_tensor(self, write, tensors: list[StoredTensor]) -> None:
        with pytest.raises(HeaderError, match=r"'ln_f\.bias' is missing among the vectors"):
            write(tensors=tensors[:-1])

    def test_tensor_given_twice(self, write, tensors: list[StoredTensor]) -> None:
        with pytest.raises(HeaderError, match=r"'wte\.weight' occurs 2 times"):
            write(tensors=[*tensors, tensors[0]])

    def test_wrong_shape(self, write, tensors: list[StoredTensor]) -> None:
        with pytest.raises(HeaderError, match=r"wte\.weight has shape \(6, 11\), not \(11, 6\)"):
            write(tensors=[replace(tensors[0], shape=(6, 11)), *tensors[1:]])

    def test_wrong_bytes_of_a_vector(self, write, tensors: list[StoredTensor]) -> None:
        size = len(tensors[-1].data)
        shorter = replace(tensors[-1], data=tensors[-1].data[:-1])
        with pytest.raises(
            GeometryError, match=rf"ln_f\.bias has {size - 1} bytes of .*not {size}"
        ):
            write(tensors=[*tensors[:-1], shorter])

    def test_text_that_is_not_unicode(self, write, provenance: Provenance) -> None:
        with pytest.raises(HeaderError, match=r"cannot hold the text '\\udcff'"):
            write(provenance=msgspec.structs.replace(provenance, source="\udcff"))

    def test_text_over_its_limit(self, write, provenance: Provenance) -> None:
        with pytest.raises(HeaderError, match="length <= 4096"):
            write(provenance=msgspec.structs.replace(provenance, calibration="a" * 4097))

    def test_tokenizer_over_its_limit(self, write) -> None:
        with pytest.raises(CheckpointError, match="over the limit"):
            write(tokenizer_json=bytes(TOKENIZER_LIMIT + 1))
