"""Check that damage is found and named, and that only a `ContainerError` is raised."""

import os
import tracemalloc
from pathlib import Path

import pytest
import xxhash
from examples import examples
from hypothesis import example, given
from hypothesis import strategies as st

from rbe_cli.container.reader import Container
from rbe_cli.errors import (
    BadFileError,
    ChecksumError,
    ContainerError,
    GeometryError,
    HeaderError,
    MagicError,
    NotFoundError,
    TruncatedError,
    VersionError,
)


def read_all(data: bytes) -> None:
    container = Container(memoryview(data), Path("damaged.rbe"))
    container.verify()
    for tensor in container.tensors.values():
        assert len(tensor.data) == container.layout.tensors[tensor.name].size
    container.tokenizer_json()


def complaint(data: bytes) -> str:
    """Return the message of the `ContainerError` that reading raises, or an empty string."""
    try:
        read_all(data)
    except ContainerError as error:
        return str(error)
    return ""


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def signed(data: bytes) -> bytes:
    """Return the file with a correct header checksum, so that a later check must fail."""
    end = 24 + int.from_bytes(data[12:16], "little")
    return data[:16] + xxhash.xxh3_64_digest(data[24:end]) + data[24:]


@pytest.fixture(scope="module")
def valid(rbe_file: Path) -> bytes:
    return rbe_file.read_bytes()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none\.rbe does not exist"):
        Container.open(tmp_path / "none.rbe")


def test_path_through_a_file(rbe_file: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        Container.open(rbe_file / "inner.rbe")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(MagicError, match="is a folder"):
        Container.open(tmp_path)


def test_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MagicError, match="is a device or pipe"):
        Container.open(tmp_path / "pipe")


def test_name_too_long_for_the_system(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match=r"cannot read .*name too long"):
        Container.open(tmp_path / ("a" * 300))


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.rbe").touch()
    with pytest.raises(TruncatedError, match=r"empty\.rbe: the file ends after 0 bytes"):
        Container.open(tmp_path / "empty.rbe")


def test_other_file() -> None:
    with pytest.raises(MagicError, match=r"damaged\.rbe: this is not an \.rbe file"):
        read_all(b"PK\x03\x04" + bytes(100))


@pytest.mark.parametrize(
    "mangle",
    [
        pytest.param(lambda data: data.replace(b"\r\n", b"\n"), id="line-ends-to-unix"),
        pytest.param(lambda data: data.replace(b"\n", b"\r\n"), id="line-ends-to-dos"),
        pytest.param(lambda data: bytes(byte & 0x7F for byte in data), id="seven-bit"),
    ],
)
def test_transfer_as_text(valid: bytes, mangle) -> None:
    with pytest.raises(MagicError, match="transfer in text mode"):
        read_all(mangle(valid))


def test_unknown_format_version(valid: bytes) -> None:
    newer = r"a newer rbe wrote this file \(format version 3\); this one reads versions 1 to 2"
    with pytest.raises(VersionError, match=newer):
        read_all(valid[:8] + b"\x03\x00\x00\x00" + valid[12:])


def test_truncated_at_every_byte(valid: bytes) -> None:
    header_end = 24 + int.from_bytes(valid[12:16], "little")
    for length in range(len(valid)):
        with pytest.raises(TruncatedError) as caught:
            Container(memoryview(valid)[:length], Path("short.rbe"))
        if length < 24:
            place = f"ends after {length} bytes" + ", inside its preamble" * (length >= 8)
        elif length < header_end:
            place = f"ends after {length} bytes, inside its header"
        else:
            place = f"has {length} of {len(valid)} bytes"
        assert str(caught.value) == f"short.rbe: the file {place}"


@examples(300)
@given(data=st.data())
def test_any_flipped_bit_is_found(valid: bytes, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, 8 * len(valid) - 1))
    with pytest.raises(ContainerError):
        read_all(flipped(valid, bit))


def test_a_flipped_bit_of_each_region_has_its_error(valid: bytes) -> None:
    container = Container(memoryview(valid), Path("valid.rbe"))
    with pytest.raises(MagicError):
        read_all(flipped(valid, 0))
    with pytest.raises(VersionError):
        read_all(flipped(valid, 8 * 8))
    with pytest.raises(HeaderError, match="over the limit"):
        read_all(flipped(valid, 8 * 15))
    for byte in range(16, container.layout.header_end):
        with pytest.raises(ChecksumError, match="header is damaged"):
            read_all(flipped(valid, 8 * byte))
    for padding_start, section in container.layout.padding():
        for byte in range(padding_start, section.offset):
            with pytest.raises(GeometryError, match=f"padding before section '{section.name}'"):
                read_all(flipped(valid, 8 * byte))
        for byte in (section.offset, section.end - 1):
            with pytest.raises(ChecksumError, match=f"section {section.name} is damaged"):
                read_all(flipped(valid, 8 * byte))


def test_damage_is_found_by_the_first_read_of_its_section_only(valid: bytes) -> None:
    offset = Container(memoryview(valid), Path("valid.rbe")).layout.sections["wpe.weight"].offset
    container = Container(memoryview(flipped(valid, 8 * offset)), Path("damaged.rbe"))
    assert container.tensors["wte.weight"].data
    for _ in range(2):
        with pytest.raises(ChecksumError, match=r"damaged\.rbe: section wpe\.weight is damaged"):
            container.tensors["wpe.weight"]


MUTATION = st.tuples(
    st.sampled_from(["flip", "set", "insert", "delete"]),
    st.integers(0, 1 << 16),
    st.binary(min_size=1, max_size=9),
)


@examples(500)
@given(
    mutations=st.lists(MUTATION, min_size=1, max_size=4),
    within_header=st.booleans(),
    sign=st.booleans(),
)
@example(mutations=[("set", 24, b"\x91" * 9)], within_header=True, sign=True)
def test_mutations_raise_container_errors_only(
    valid: bytes,
    mutations: list[tuple[str, int, bytes]],
    within_header: bool,
    sign: bool,
) -> None:
    data = bytearray(valid)
    for kind, where, new in mutations:
        start = 24 if within_header else 0
        end = 24 + int.from_bytes(valid[12:16], "little") if within_header else len(data)
        at = start + where % max(end - start, 1)
        if kind == "flip":
            data[at : at + 1] = bytes(byte ^ (new[0] or 1) for byte in data[at : at + 1])
        elif kind == "set":
            data[at : at + len(new)] = new
        elif kind == "insert":
            data[at:at] = new
        else:
            del data[at : at + len(new)]
    mutated = signed(bytes(data)) if sign and len(data) >= 24 else bytes(data)
    message = complaint(mutated)
    assert message.isprintable()
    assert message.startswith("damaged.rbe: ") or not message


@examples(300)
@given(header=st.binary(max_size=200))
@example(header=b"\x91" * 5000)
@example(header=b"\x97\x81\xa1a" + b"\x91" * 5000)
def test_any_header_is_refused_in_little_memory(valid: bytes, header: bytes) -> None:
    data = valid[:12] + len(header).to_bytes(4, "little") + bytes(8) + header
    tracemalloc.start()
    try:
        with pytest.raises(HeaderError):
            read_all(signed(data))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"version https://git-lfs.github.com/spec/v1\nsize 5\n", ", but a Git LFS pointer"),
        (b"<!DOCTYPE html><html>Not found</html>", ", but a web page"),
        (b"GGUF\3\0\0\0" * 9, ", but a GGUF file: rbe compress makes one from a checkpoint"),
        (b"some other file, longer than a preamble", ""),
    ],
)
def test_another_file_is_named(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "x.rbe").write_bytes(content)
    with pytest.raises(MagicError) as caught:
        Container.open(tmp_path / "x.rbe")
    assert str(caught.value).endswith(f"x.rbe: this is not an .rbe file{kind}")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(MagicError, match=r"a folder, not an \.rbe file: rbe compress makes one"):
        Container.open(tmp_path)
