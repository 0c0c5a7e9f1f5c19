import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rbe_cli.kernels.panel import PanelMatrix, panel_shape

FORMS = [(7, np.uint8), (127, np.int8), (32767, np.int16)]


def pack(integers, widths):
    """A PanelMatrix from blocks of the given widths, repeated to the end."""
    blocks, start = [], 0
    steps = np.linspace(0.5, 2, integers.shape[1], dtype=np.float32)
    while start < integers.shape[1]:
        stop = min(start + widths[len(blocks) % len(widths)], integers.shape[1])
        blocks.append((slice(start, stop), integers[:, start:stop], steps[start:stop]))
        start = stop
    return PanelMatrix.from_blocks(integers.shape, blocks)


@given(
    data=st.data(),
    form=st.sampled_from(FORMS),
    rows=st.integers(1, 30),
    columns=st.integers(1, 200),
    widths=st.lists(st.integers(1, 130), min_size=1, max_size=4),
)
def test_packing_is_lossless(data, form, rows, columns, widths):
    largest, dtype = form
    elements = st.integers(-largest - 1, largest)
    integers = data.draw(arrays(np.int16, (rows, columns), elements=elements))
    matrix = pack(integers, widths)
    assert matrix.values.dtype.itemsize <= np.dtype(dtype).itemsize
    assert matrix.values.shape == panel_shape(integers.shape, matrix.values.dtype)
    assert matrix.shape == integers.shape
    np.testing.assert_array_equal(matrix.integers(), integers)


@pytest.mark.parametrize(("largest", "dtype"), FORMS)
def test_form_is_the_narrowest(largest, dtype):
    at_limit = np.full((9, 70), largest, np.int16)
    assert pack(at_limit, [32]).values.dtype == dtype
    assert pack(-at_limit - 1, [32]).values.dtype == dtype


@pytest.mark.parametrize("late", [8, 128])
def test_a_wide_integer_in_a_late_block_widens_the_whole(late):
    integers = np.arange(-7, 8, dtype=np.int16).repeat(10).reshape(1, 150).repeat(11, axis=0)
    integers[-1, -1] = late
    np.testing.assert_array_equal(pack(integers, [50]).integers(), integers)


def test_integers_past_int16_are_refused():
    with pytest.raises(OverflowError, match="40000"):
        pack(np.full((2, 2), 40000, np.int32), [2])


@pytest.mark.parametrize(("largest", "dtype"), FORMS)
def test_columns_are_weights(largest, dtype):
    integers = np.random.default_rng(0).integers(-largest, largest + 1, (13, 150))
    matrix = pack(integers.astype(np.int16), [64])
    indices = np.array([149, 0, 63, 64, 64])
    columns = matrix.columns(indices)
    assert columns.flags.c_contiguous
    expected = (matrix.column_steps * integers)[:, indices].T.astype(np.float32)
    np.testing.assert_array_equal(columns, expected)


def test_padding_is_zero():
    matrix = pack(np.full((9, 65), 100, np.int16), [65])
    assert matrix.values.shape == (2, 16, 64)
    assert not matrix.values[:, 9:].any()
    assert not matrix.values[1, :, 1:].any()
    assert matrix.nbytes == 2 * 16 * 64 + 4 * 65
