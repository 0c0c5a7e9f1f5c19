"""Write a `.rbe` file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rbe_cli.codec.registry import codec_named
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
    format_version,
)
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.container.tokenizer_section import pack_tokenizer
from rbe_cli.container.validate import trusted_header
from rbe_cli.errors import HeaderError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_matrix


def write_container(
    path: Path,
    *,
    config: Gpt2Config,
    tensors: Sequence[StoredTensor],
    tokenizer_json: bytes | None,
    provenance: Provenance,
    force: bool = False,
) -> int:
    """Write a complete file or none (`atomic_file.new_file`), and return its size in bytes.

    Args:
        path: the file to write. Its folder must exist.
        config: the model's config.
        tensors: every tensor of `tensor_names.tensor_shapes(config)`, and `ROTATION` if the
            residual stream is rotated, in any order. The file holds the matrices in the order
            given, then the vectors in the order given.
        tokenizer_json: the content of `tokenizer.json`, or None without a tokenizer.
        provenance: where the model comes from.
        force: whether an existing file may be replaced.

    Raises:
        HeaderError: the parts contradict each other, so that a reader would refuse the file.
        GeometryError: the size of a tensor is not the one that its codec and shape require.
        CheckpointError: the tokenizer is too large.
        NotFoundError, OutputError: as in `atomic_file.new_file`.
    """
    check_output(path, force=force)
    payloads = _payloads(tensors, tokenizer_json)
    header = _header(config, tensors, provenance, payloads)
    encoded, version = encode_header(header), format_version(header)
    layout = place(trusted_header(encoded, version), len(encoded))
    _check_shapes(tensors, layout)
    with new_file(path, force=force) as file:
        file.write(encode_preamble(version, encoded))
        file.write(encoded)
        for start, section in layout.padding():
            file.write(bytes(section.offset - start))
            file.write(payloads[section.name])
    return layout.file_bytes


def _payloads(
    tensors: Sequence[StoredTensor], tokenizer_json: bytes | None
) -> dict[str, bytes | memoryview]:
    """Return the bytes of each section by its name."""
    payloads = {tensor.name: tensor.data for tensor in tensors if is_matrix(tensor.name)}
    payloads[VECTORS] = b"".join(t.data for t in tensors if not is_matrix(t.name))
    if tokenizer_json is not None:
        payloads[TOKENIZER] = pack_tokenizer(tokenizer_json)
    return payloads


def _header(
    config: Gpt2Config,
    tensors: Sequence[StoredTensor],
    provenance: Provenance,
    payloads: Mapping[str, bytes | memoryview],
) -> Header:
    """Return the header of a file that has these tensors and sections."""
    checksums = {name: checksum(data) for name, data in payloads.items()}
    matrices: list[Matrix] = []
    vectors: list[Vector] = []
    for tensor in tensors:
        name, codec, size = tensor.name, tensor.codec, len(tensor.data)
        if is_matrix(name):
            matrices.append(Matrix(name, codec, size, checksums[name]))
        else:
            vectors.append(Vector(name, codec, size))
    tokenizer = None
    if TOKENIZER in payloads:
        tokenizer = TokenizerRecord(len(payloads[TOKENIZER]), checksums[TOKENIZER])
    return Header(
        config=config,
        codec_versions={
            name: codec_named(name).version for name in sorted({t.codec for t in tensors})
        },
        provenance=provenance,
        matrices=matrices,
        vectors=vectors,
        vectors_checksum=checksums[VECTORS],
        tokenizer=tokenizer,
    )


def _check_shapes(tensors: Sequence[StoredTensor], layout: FileLayout) -> None:
    """Check that each tensor has the shape that the config requires."""
    for tensor in tensors:
        expected = layout.tensors[tensor.name].shape
        if tensor.shape != expected:
            raise HeaderError(f"{tensor.name} has shape {tensor.shape}, not {expected}")
