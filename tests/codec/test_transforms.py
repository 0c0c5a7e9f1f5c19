import numpy as np
import pytest

from rbe_cli.codec.classic.transforms import TRANSFORMS, transform

LENGTHS = [1, 2, 3, 7, 8, 9, 16, 17, 33, 64, 100, 256]


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("length", LENGTHS)
def test_the_inverse_gives_the_signal_back(name, length):
    forward, inverse = transform(name, length)
    np.testing.assert_allclose(inverse @ forward, np.eye(length), atol=1e-12)


@pytest.mark.parametrize("name", ["dct", "haar"])
@pytest.mark.parametrize("length", LENGTHS)
def test_dct_and_haar_keep_the_norm(name, length):
    forward, _ = transform(name, length)
    np.testing.assert_allclose(forward @ forward.T, np.eye(length), atol=1e-12)


@pytest.mark.parametrize("length", LENGTHS)
def test_cdf97_nearly_keeps_the_norm(length):
    gains = np.linalg.svd(transform("cdf97", length)[0], compute_uv=False)
    assert 0.45 < gains.min() <= gains.max() < 1.45


def test_dct_equals_its_sums_of_cosines():
    signal = np.random.default_rng(0).normal(size=9)
    for k, found in enumerate(transform("dct", 9)[0] @ signal):
        waves = [np.cos(np.pi * (2 * n + 1) * k / 18) for n in range(9)]
        norm = np.sqrt(sum(wave**2 for wave in waves))
        assert found == pytest.approx(sum(waves * signal) / norm)


def test_haar_of_a_step_is_one_detail_and_the_mean():
    found = transform("haar", 8)[0] @ np.repeat([1.0, 3.0], 4)
    np.testing.assert_allclose(found[:2], [16 / np.sqrt(8), -8 / np.sqrt(8)])
    np.testing.assert_allclose(found[2:], 0, atol=1e-12)


def test_details_of_cdf97_vanish_on_cubics_away_from_the_ends():
    """The analysis high-pass has four vanishing moments (Cohen, Daubechies, Feauveau 1992)."""
    finest = (transform("cdf97", 64)[0] @ np.linspace(-1, 1, 64) ** 3)[32:]
    np.testing.assert_allclose(finest[4:-4], 0, atol=1e-12)
    assert np.abs(transform("cdf97", 64)[0] @ np.linspace(-1, 1, 64) ** 4)[36:60].max() > 1e-9


def test_cdf97_has_its_published_filters():
    """The low-pass is that of JPEG 2000 (ISO 15444-1, annex F), with a gain of sqrt(2)."""
    published = [0.602949018236, 0.266864118443, -0.078223266529, -0.016864118443, 0.026748757411]
    expected = np.sqrt(2) * np.array([*published[:0:-1], *published])
    matrix = transform("cdf97", 14)[0]  # 14 -> 7 + 7: a single level
    np.testing.assert_allclose(matrix[3, 2:11], expected, atol=1e-9)
