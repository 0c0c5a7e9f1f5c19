"""Write a `.rbe` file, or say beforehand how many bytes it would have."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rbe_cli.codec.registry import CODEC_VERSIONS
from rbe_cli.container.atomic_file import check_output, new_file
from rbe_cli.container.file_layout import TOKENIZER, VECTORS, FileLayout, place
from rbe_cli.container.header import (
    Header,
    Matrix,
    Provenance,
    TokenizerRecord,
    Vector,
    checksum,
    encode_header,
    encode_preamble,
)
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.container.tokenizer_section import pack_tokenizer
from rbe_cli.container.validate import trusted_header
from rbe_cli.errors import HeaderError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_matrix

_NO_CHECKSUM = bytes(8)


def container_bytes(
    *,
    config: Gpt2Config,
    tensors: Iterable[tuple[str, str, int]],
    tokenizer_bytes: int | None,
    provenance: Provenance,
) -> int:
    """Exact size of the file that `write_container` would make of these parts.

    Args:
        config: the model's.
        tensors: name, codec and encoded bytes of every tensor.
        tokenizer_bytes: `len(pack_tokenizer(json))`; None without a tokenizer.
        provenance: with texts as long, and numbers as large, as they will be.

    Raises:
        HeaderError, GeometryError: as `write_container`.
    """
    header = _header(config, tensors, tokenizer_bytes, provenance, {})
    encoded = encode_header(header)
    return place(trusted_header(encoded), len(encoded)).file_bytes


def write_container(
    path: Path,
    *,
    config: Gpt2Config,
    tensors: Sequence[StoredTensor],
    tokenizer_json: bytes | None,
    provenance: Provenance,
    force: bool = False,
) -> int:
    """Write `path` whole or not at all (`publish.new_file`), and return its bytes.

    Args:
        path: the file; its folder exists.
        config: the model's.
        tensors: every tensor of `names.tensor_shapes(config)`, in any order; matrices
            and vectors each lie in the file in the order given.
        tokenizer_json: None without a tokenizer.
        provenance: see `Provenance`.
        force: whether an existing file is replaced.

    Raises:
        HeaderError: the parts contradict each other, so that no reader would accept them.
        GeometryError: a tensor does not have the size that its codec and shape ask for.
        CheckpointError: the tokenizer is too large.
        NotFoundError, OutputError: see `publish.new_file`.
    """
    check_output(path, force=force)
    payloads = _payloads(tensors, tokenizer_json)
    header = _header(
        config,
        [(tensor.name, tensor.codec, len(tensor.data)) for tensor in tensors],
        len(payloads[TOKENIZER]) if TOKENIZER in payloads else None,
        provenance,
        {name: checksum(data) for name, data in payloads.items()},
    )
    encoded = encode_header(header)
    layout = place(trusted_header(encoded), len(encoded))
    _check_shapes(tensors, layout)
    with new_file(path, force=force) as file:
        file.write(encode_preamble(encoded))
        file.write(encoded)
        for start, section in layout.padding():
            file.write(bytes(section.offset - start))
            file.write(payloads[section.name])
    return layout.file_bytes


def _payloads(
    tensors: Sequence[StoredTensor], tokenizer_json: bytes | None
) -> dict[str, bytes | memoryview]:
    """Section name -> its bytes."""
    payloads = {tensor.name: tensor.data for tensor in tensors if is_matrix(tensor.name)}
    payloads[VECTORS] = b"".join(t.data for t in tensors if not is_matrix(t.name))
    if tokenizer_json is not None:
        payloads[TOKENIZER] = pack_tokenizer(tokenizer_json)
    return payloads


def _header(
    config: Gpt2Config,
    tensors: Iterable[tuple[str, str, int]],
    tokenizer_bytes: int | None,
    provenance: Provenance,
    checksums: Mapping[str, bytes],
) -> Header:
    """The header of these parts; its encoded length does not depend on the checksums."""
    matrices: list[Matrix] = []
    vectors: list[Vector] = []
    for name, codec, size in tensors:
        if is_matrix(name):
            matrices.append(Matrix(name, codec, size, checksums.get(name, _NO_CHECKSUM)))
        else:
            vectors.append(Vector(name, codec, size))
    used = {matrix.codec for matrix in matrices} | {vector.codec for vector in vectors}
    tokenizer = None
    if tokenizer_bytes is not None:
        tokenizer = TokenizerRecord(tokenizer_bytes, checksums.get(TOKENIZER, _NO_CHECKSUM))
    return Header(
        config=config,
        codec_versions={codec: CODEC_VERSIONS[codec] for codec in sorted(used)},
        provenance=provenance,
        matrices=matrices,
        vectors=vectors,
        vectors_checksum=checksums.get(VECTORS, _NO_CHECKSUM),
        tokenizer=tokenizer,
    )


def _check_shapes(tensors: Sequence[StoredTensor], layout: FileLayout) -> None:
    """Each tensor has the shape that the config asks for."""
    for tensor in tensors:
        expected = layout.tensors[tensor.name].shape
        if tensor.shape != expected:
            raise HeaderError(f"{tensor.name} has shape {tensor.shape}, not {expected}")
