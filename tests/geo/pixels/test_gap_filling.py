"""Linear interpolation in time equals numpy's, pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo.pixels import gap_filling
from geo.pixels.gap_filling import fill_linear


@pytest.fixture(autouse=True)
def few_pixels_at_a_time(monkeypatch):
    monkeypatch.setattr(gap_filling, "CHUNK", 2)


@given(st.integers(0, 10_000), st.integers(1, 9), st.floats(0, 1))
def test_interpolation_equals_numpys(seed, n_dates, cloudiness):
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 65_536, (n_dates, 2, 5)).astype(np.uint16)
    clear = generator.random((n_dates, 5)) >= cloudiness
    days = np.cumsum(generator.integers(1, 30, n_dates)).astype(np.int64)
    filled = pixels.copy()
    fill_linear(filled, clear, days)
    for channel in range(2):
        for place in range(5):
            series, own = pixels[:, channel, place], clear[:, place]
            expected = series
            if own.any():
                expected = np.floor(np.interp(days, days[own], series[own]) + 0.5)
                expected = np.where(own, series, expected)
            # A rounding error may fall on either side of an exact half.
            assert np.abs(filled[:, channel, place] - expected.astype(float)).max() <= 1
            assert np.array_equal(filled[own, channel, place], series[own])


def test_interpolation_by_hand():
    pixels = np.array([[[10, 7]], [[99, 99]], [[99, 99]], [[40, 99]]], np.uint16)
    clear = np.array([[True, True], [False, False], [False, False], [True, False]])
    days = np.array([0, 10, 20, 30])
    fill_linear(pixels, clear, days)
    assert pixels[:, 0, 0].tolist() == [10, 20, 30, 40]
    assert pixels[:, 0, 1].tolist() == [7, 7, 7, 7]


def test_a_pixel_that_is_never_clear_is_unchanged():
    pixels = np.array([[[3]], [[4]]], np.uint16)
    fill_linear(pixels, np.zeros((2, 1), bool), np.array([0, 5]))
    assert pixels.ravel().tolist() == [3, 4]
