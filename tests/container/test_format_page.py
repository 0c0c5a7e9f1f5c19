"""What docs/FORMAT.md states in numbers is true: its examples, its hash and its claims on ties."""

import hashlib
import re
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest
import xxhash
from msgspec.msgpack import encode

from rbe_cli.codec import scales
from rbe_cli.codec.column_blocks import sorted_order, strided_order
from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix
from rbe_cli.codec.entropy.entropy_model import entropy_tables
from rbe_cli.codec.fixed.fixed_matrix import steps as fixed_steps
from rbe_cli.codec.registry import codec_named

PAGE = (Path(__file__).parents[2] / "docs" / "FORMAT.md").read_text(encoding="utf-8")
FAR_FROM_A_TIE = Decimal("1e-10")


def bytes_after(text: str) -> bytes:
    """Return the bytes of the indented lines after a passage; `... 29 times` repeats a line."""
    block = re.search(r"\n\n((?: {4}.*\n)+)", PAGE[PAGE.index(text) :])
    assert block is not None
    found = b""
    for line in block[1].splitlines():
        own = re.match(r" *((?:[0-9a-f]{2} +|[0-9a-f]{2}$)+)(?:\.\.\. (\d+) times)?", line)
        assert own is not None, line
        found += bytes.fromhex(own[1]) * int(own[2] or 1)
    return found


def test_the_coded_vector_is_what_the_page_says() -> None:
    data = bytes_after("6 values of this payload")
    assert len(data) == 20
    values = codec_named("coded").decode(data, (6,))
    assert values.tolist() == [0.5, 0.25, -1, 0.75, 0.5, 30]


def test_the_matrix_of_ectcq_is_what_the_page_says() -> None:
    data = bytes_after("An example: the matrix `[[1, -2, 0.5], [0, 3, -1]]`")
    assert len(data) == 152
    matrix = EncodedMatrix.from_bytes(data, (2, 3))
    reader, _ = matrix.open_block(0)
    levels = reader.rows.tolist(), reader.columns.tolist(), reader.steps.tolist()
    assert levels == ([9, 9], [-5, 10, -4], [0, 0, 0])
    integers, _ = matrix.decode_block(0)
    assert integers.tolist() == [[2, -4, 1], [0, 6, -2]]
    assert matrix.decode().tolist() == [[1, -2, 0.5], [0, 3, -1]]


def test_the_frequencies_have_the_hash_of_the_page() -> None:
    frequencies = entropy_tables().frequency
    assert frequencies.shape == (120, 2, 64)
    (stated,) = re.findall(r"`([0-9a-f]{64})`", PAGE)
    assert hashlib.sha256(frequencies.astype("<u2").tobytes()).hexdigest() == stated


def test_the_orders_of_columns_are_those_of_the_page() -> None:
    levels = np.array([5, 5, 1, 5] + 30 * [2], np.int16)
    assert sorted_order(levels).tolist() == [0, 2, *range(4, 34), 1, 3]
    strides = [*range(0, 70, 3), *range(1, 70, 3), *range(2, 70, 3)]
    assert strided_order(70).tolist() == strides


@pytest.mark.parametrize(
    ("data", "digits"),
    [(b"", "2d 06 80 05 38 d3 94 c2"), (b"rbe", "7d 1a bf c1 3c cd 43 91")],
)
def test_checksums_are_those_of_the_page(data: bytes, digits: str) -> None:
    assert f"`{digits}`" in PAGE
    assert xxhash.xxh3_64_digest(data).hex(" ") == digits


@pytest.mark.parametrize(
    ("value", "start", "size"),
    [
        (127, 0x7F, 1), (128, 0xCC, 2), (255, 0xCC, 2), (256, 0xCD, 3), (2**16, 0xCE, 5),
        (2**32 - 1, 0xCE, 5), (2**32, 0xCF, 9), (2**64 - 1, 0xCF, 9), (-32, 0xE0, 1),
        (-33, 0xD0, 2), (-(2**7), 0xD0, 2), (-(2**7) - 1, 0xD1, 3), (-(2**15), 0xD1, 3),
        (-(2**31), 0xD2, 5), (-(2**31) - 1, 0xD3, 9), (0.5, 0xCB, 9), ("a" * 31, 0xBF, 32),
        ("a" * 32, 0xD9, 34), ("a" * 256, 0xDA, 259), ("a" * 2**16, 0xDB, 2**16 + 5),
        (bytes(8), 0xC4, 10), (bytes(256), 0xC5, 259), (bytes(2**16), 0xC6, 2**16 + 5),
        ([0] * 15, 0x9F, 16), ([0] * 16, 0xDC, 19), ([0] * 2**16, 0xDD, 2**16 + 5),
        ({"a": 0}, 0x81, 4), ({str(i): 0 for i in range(16)}, 0xDE, 3 + 10 * 3 + 6 * 4),
    ],
)  # fmt: skip
def test_values_have_the_form_of_the_page(value: object, start: int, size: int) -> None:
    encoded = encode(value)
    assert (encoded[0], len(encoded)) == (start, size)


@pytest.mark.parametrize("resolution", [8, 32])
def test_no_power_is_near_a_tie_but_one(resolution: int) -> None:
    """From 2^-151 to 2^-125, where subnormal numbers differ; above, powers repeat by octaves."""
    levels = np.arange(-151 * resolution, -125 * resolution, dtype=np.int16)
    found = scales.steps(1.0, levels, resolution)
    ties = []
    with localcontext() as context:
        context.prec = 60
        for level, step in zip(levels.tolist(), found, strict=True):
            power = (Decimal(2).ln() * level / resolution).exp()
            above, below = (np.nextafter(step, np.float32(end)) for end in (np.inf, -np.inf))
            for other in (above, below):
                tie = (Decimal(float(step)) + Decimal(float(other))) / 2
                if abs(power - tie) < FAR_FROM_A_TIE * power:
                    ties.append((level, float(step)))
            assert Decimal(float(below)) < power < Decimal(float(above))
    assert ties == [(-150 * resolution, 0.0)]


def test_both_codecs_have_the_same_powers() -> None:
    levels = np.arange(-128, 128, dtype=np.int8)
    expected = scales.steps(1.0, levels.astype(np.int16), 8)
    np.testing.assert_array_equal(fixed_steps(levels), expected)
