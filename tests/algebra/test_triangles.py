import numpy as np
import pytest

from rbe_cli.algebra.triangles import packed_lower, unpacked_lower


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 300, 1024])
def test_a_triangle_comes_back_from_little_more_than_its_half(size):
    matrix = np.tril(np.random.default_rng(0).standard_normal((size, size), np.float32))
    packed = packed_lower(matrix)
    assert packed.size <= size * (size + 1) // 2 + 64 * size
    again = unpacked_lower(packed, size)
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, matrix)
