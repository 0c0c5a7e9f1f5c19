import pickle
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from rbe_cli.codec.classic.classic_matrix import ClassicBlock, ClassicMatrix
from rbe_cli.codec.classic.transforms import TRANSFORMS, transform
from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix, encode_block
from rbe_cli.codec.error_cost import InputFactor, OutputFactor
from rbe_cli.errors import PayloadError

GPT2_ATTENTION = (
    Path(__file__).parents[2].parent / "shared" / "data" / "gpt2-attention" / "model.safetensors"
)


def gaussian(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def smooth(shape, seed=0):
    """Return a few slow waves on a slope, float32."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(-1, 1, shape[1]), np.linspace(-1, 1, shape[0]))
    surface = 0.3 * x - 0.2 * y + 0.4 * x * y
    for across, down, phase in rng.uniform(-3, 3, (6, 3)):
        surface += np.cos(across * x + down * y + phase)
    return surface.astype(np.float32)


def relative_error(weights, decoded):
    return np.linalg.norm(weights - decoded) / np.linalg.norm(weights)


def plain_decode(matrix):
    """Decode with the sums of the module's docstring, one coefficient at a time."""
    rows, columns = matrix.shape
    out, blocks = np.zeros(matrix.shape), iter(matrix.blocks)
    for top in range(0, rows, matrix.block):
        for left in range(0, columns, matrix.block):
            height, width = min(matrix.block, rows - top), min(matrix.block, columns - left)
            out[top : top + height, left : left + width] = plain_block(next(blocks), height, width)
    return out


def plain_block(block, height, width):
    i, j = np.mgrid[:height, :width]
    y = 2 * i / (height - 1) - 1 if height > 1 else np.zeros((height, width))
    x = 2 * j / (width - 1) - 1 if width > 1 else np.zeros((height, width))
    d = np.hypot(x, y)
    a = block.surface.astype(float)
    out = a[0] + a[1] * d + a[2] * d**2
    out += a[3] * np.cos(np.pi * x) + a[4] * np.cos(np.pi * y)
    out += a[5] * np.cos(2 * np.pi * x) + a[6] * np.cos(2 * np.pi * y)
    out += a[7] * np.cos(np.pi * x) * np.cos(np.pi * y)
    for index, value in zip(block.indices.tolist(), block.values.tolist(), strict=True):
        u, v = divmod(index, width)
        if block.transform == 0:
            wave = np.cos(np.pi * u * (2 * i + 1) / (2 * height))
            wave *= np.cos(np.pi * v * (2 * j + 1) / (2 * width))
            wave *= np.sqrt((2 if u else 1) / height * (2 if v else 1) / width)
        else:
            name = TRANSFORMS[block.transform]
            wave = np.outer(transform(name, height)[1][:, u], transform(name, width)[1][:, v])
        out += value * wave
    return out


@pytest.mark.parametrize("block", [16, 17, 64, 256])
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 50), (50, 1), (16, 16), (33, 7), (70, 65), (17, 130), (64, 260)]
)
def test_roundtrip_through_bytes(shape, block):
    matrix = ClassicMatrix.encode(gaussian(shape), 5.0, block)
    data = matrix.to_bytes()
    assert len(data) == matrix.nbytes
    read = ClassicMatrix.from_bytes(data, shape)
    decoded = read.decode()
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, matrix.decode())
    np.testing.assert_allclose(decoded, plain_decode(read), rtol=1e-5, atol=1e-5)
    assert read.to_bytes() == data


@pytest.mark.parametrize("index", range(len(TRANSFORMS)))
@pytest.mark.parametrize("shape", [(16, 16), (13, 30)])
def test_every_transform_decodes_as_its_sums(index, shape):
    rng = np.random.default_rng(index)
    indices = np.sort(rng.choice(shape[0] * shape[1], 50, replace=False)).astype(np.uint16)
    block = ClassicBlock(index, gaussian(8), indices, gaussian(50))
    np.testing.assert_allclose(block.decode(shape), plain_block(block, *shape), atol=1e-12)


@pytest.mark.parametrize("bits", [1.0, 2.0, 3.7, 6.0, 12.0])
@pytest.mark.parametrize("block", [32, 64])
def test_the_bits_asked_for_are_used(bits, block):
    weights = gaussian((130, 190))
    matrix = ClassicMatrix.encode(weights, bits, block)
    used = 8 * matrix.nbytes / weights.size
    assert bits - 8 * 6 / weights.size <= used <= bits


def test_all_coefficients_give_the_weights_back():
    weights = gaussian((40, 50))
    decoded = ClassicMatrix.encode(weights, 60.0, 16).decode()
    np.testing.assert_allclose(decoded, weights, atol=1e-5)


def test_a_surface_of_the_eight_functions_needs_no_residual():
    surface = np.array([0.3, -1, 0.5, 0.2, 0.1, -0.3, 0.7, 0.4], np.float32)
    weights = plain_block(ClassicBlock(0, surface, np.zeros(0, np.uint16), surface[:0]), 40, 40)
    matrix = ClassicMatrix.encode(weights.astype(np.float32), 0.0, 40)
    assert matrix.blocks[0].indices.size == 0
    np.testing.assert_allclose(matrix.blocks[0].surface, surface, atol=1e-5)
    np.testing.assert_allclose(matrix.decode(), weights, atol=1e-5)


def waves(index):
    """Return a matrix that one transform represents with few coefficients."""
    inverse = transform(TRANSFORMS[index], 64)[1]
    coefficients = np.zeros((64, 64))
    coefficients[[9, 20, 33, 50], [40, 60, 17, 35]] = [5, -6, 7, 8]
    return (inverse @ coefficients @ inverse.T).astype(np.float32)


@pytest.mark.parametrize("index", range(len(TRANSFORMS)))
def test_the_transform_that_errs_least_is_taken(index):
    matrix = ClassicMatrix.encode(waves(index), 0.2)
    assert [block.transform for block in matrix.blocks] == [index]


@cache
def ectcq_error(seed, bits):
    """Return the relative error of `ectcq` on smooth weights, without feedback, at >= `bits`."""
    weights = smooth((256, 256), seed)
    step = float(weights.std()) * 2.0 ** (1.05 - bits)
    while True:
        inputs, outputs = InputFactor.identity(256), OutputFactor.identity(256)
        matrix = EncodedMatrix((256, 256), step, (encode_block(weights, step, inputs, outputs),))
        if 8 * matrix.nbytes / weights.size >= bits:
            return relative_error(weights, matrix.decode())
        step /= 1.1


def round_to_nearest(weights, bits):
    """Round weights `[K, N]` to the nearest level, symmetrically, with one scale per column."""
    largest = 2 ** (bits - 1) - 1
    scale = np.abs(weights).max(axis=0) / largest
    return np.rint(weights / scale) * scale


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_smooth_weights_are_written_far_better_than_by_others(bits):
    weights = smooth((256, 256))
    error = relative_error(weights, ClassicMatrix.encode(weights, bits).decode())
    assert error < 0.01 * relative_error(weights, round_to_nearest(weights, bits))
    assert error < 0.01 * ectcq_error(0, bits)


def test_smoothness_is_all_that_helps():
    """The surface of a 64 x 64 block of white noise spans 8 of its 4096 dimensions."""
    weights = gaussian((512, 512))
    surface = ClassicMatrix.encode(weights, 0.0).decode()
    captured = 1 - relative_error(weights, surface) ** 2
    assert captured == pytest.approx(8 / 4096, rel=0.25)


@pytest.mark.parametrize("source", ["random"] + ["OpenAI"] * GPT2_ATTENTION.exists())
def test_real_weights_are_no_smoother_than_noise(source):
    if source == "OpenAI":
        weights = load_file(GPT2_ATTENTION)["h.5.attn.v.weight"]
    else:
        weights = gaussian((256, 256))
    error = relative_error(weights, ClassicMatrix.encode(weights, 4.0).decode())
    assert 0.7 < error < 0.85


@pytest.mark.parametrize(
    "weights",
    [
        np.zeros((40, 19)),
        np.full((40, 19), 1e-30),
        np.full((40, 19), -3e38),
        np.where(gaussian((40, 19)) > 0, 3e38, -3e38),
    ],
    ids=["zero", "tiny", "lowest", "largest"],
)
def test_extreme_weights_survive(weights):
    weights = weights.astype(np.float32)
    matrix = ClassicMatrix.encode(weights, 8.0, 16)
    decoded = ClassicMatrix.from_bytes(matrix.to_bytes(), weights.shape).decode()
    assert np.isfinite(decoded).all()
    if (weights == weights[0, 0]).all():
        np.testing.assert_allclose(decoded, weights, rtol=1e-5)


def changed(matrix, values):
    """Return the weights `[K, N]` that the matrix has with other parameters."""
    return matrix.with_parameters(values).decode()


def test_gradients_are_those_of_a_linear_map():
    """The weights are linear in the parameters: <grad, weights> = <gradients, parameters>."""
    matrix = ClassicMatrix.encode(gaussian((40, 37)), 4.0, 16)
    rng = np.random.default_rng(1)
    values = {name: rng.normal(size=own.shape) for name, own in matrix.parameters().items()}
    assert set(values) == {".surfaces", ".coefficients"}
    for scale in (1, -3):
        grad = scale * rng.normal(size=matrix.shape)
        gradients = matrix.parameter_gradients(grad)
        assert {name: own.shape for name, own in gradients.items()} == {
            name: own.shape for name, own in values.items()
        }
        inner = sum(float((gradients[name] * values[name]).sum()) for name in values)
        assert inner == pytest.approx(float((grad * changed(matrix, values)).sum()), rel=1e-9)
    assert matrix.parameter_gradients(grad.astype(np.float32))[".surfaces"].dtype == np.float32


def test_other_parameters_leave_the_places_of_coefficients():
    matrix = ClassicMatrix.encode(gaussian((40, 37)), 4.0, 16)
    parameters = matrix.parameters()
    np.testing.assert_array_equal(changed(matrix, parameters), matrix.decode())
    doubled = changed(matrix, {name: 2 * own for name, own in parameters.items()})
    np.testing.assert_allclose(doubled, 2 * matrix.decode(), rtol=1e-6)


def test_decoded_weights_are_kept_but_not_sent_to_another_process():
    matrix = ClassicMatrix.encode(gaussian((40, 37)), 4.0, 16)
    assert matrix.kept_bytes == 0
    decoded = matrix.decoded()
    assert matrix.decoded() is decoded
    assert not decoded.flags.writeable
    assert matrix.kept_bytes == decoded.nbytes == 4 * 40 * 37
    again = pickle.loads(pickle.dumps(matrix))
    assert again.kept_bytes == 0
    np.testing.assert_array_equal(again.decoded(), decoded)


# Damage

SMALL = ClassicMatrix.encode(gaussian((20, 18)), 12.0, 16)
BLOCKS = len(SMALL.blocks)


def test_every_truncation_is_refused():
    data = SMALL.to_bytes()
    for size in range(len(data)):
        with pytest.raises(PayloadError):
            ClassicMatrix.from_bytes(data[:size], SMALL.shape)


@pytest.mark.parametrize("extra", [1, 6, 35, 41])
def test_every_extension_is_refused(extra):
    with pytest.raises(PayloadError, match="do not fill"):
        ClassicMatrix.from_bytes(SMALL.to_bytes() + bytes(extra), SMALL.shape)


def test_another_shape_is_refused():
    with pytest.raises(PayloadError):
        ClassicMatrix.from_bytes(SMALL.to_bytes(), (40, 18))
    with pytest.raises(PayloadError, match="too few for a matrix of"):
        ClassicMatrix.from_bytes(SMALL.to_bytes(), (2**31, 2**31))


def overwritten(offset, content):
    data = SMALL.to_bytes()
    return data[:offset] + content + data[offset + len(content) :]


FIRST = 2 + 35 * BLOCKS  # where the first block's indices begin


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (0, np.uint16(15).tobytes(), "blocks of 15 columns"),
        (0, np.uint16(257).tobytes(), "blocks of 257 columns"),
        (2, b"\x03", "unknown transform 3"),
        (2 + BLOCKS, b"\xff\xff", "do not fill"),
        (2 + 3 * BLOCKS, np.float32(np.nan).tobytes(), "NaN or infinite"),
        (FIRST, b"\xff\xff", "do not ascend"),
        (FIRST + 2 * (SMALL.blocks[0].indices.size - 1), b"\x00\x01", "do not ascend"),
        (FIRST + 2 * SMALL.blocks[0].indices.size, np.float32(np.inf).tobytes(), "NaN or infinite"),
    ],
)
def test_damage_is_named(offset, content, message):
    with pytest.raises(PayloadError, match=message):
        ClassicMatrix.from_bytes(overwritten(offset, content), SMALL.shape)


def decodes_or_is_refused(data, shape):
    try:
        decoded = ClassicMatrix.from_bytes(data, shape).decode()
    except PayloadError:
        return
    assert decoded.shape == shape
    assert np.isfinite(decoded).all()


@given(data=st.binary(max_size=400), rows=st.integers(1, 40), columns=st.integers(1, 3000))
def test_garbage_raises_nothing_else(data, rows, columns):
    decodes_or_is_refused(data, (rows, columns))
    decodes_or_is_refused(np.uint16(16 + rows).tobytes() + data, (rows, columns))


@given(where=st.integers(0, len(SMALL.to_bytes()) - 1), change=st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_decodes_to_numbers(where, change):
    data = bytearray(SMALL.to_bytes())
    data[where] ^= change
    decodes_or_is_refused(bytes(data), SMALL.shape)
