"""Statistics over streamed pixel sets equal numpy's over all of them at once."""

import numpy as np
import pytest

from geo.pixels.band_statistics import RunningStatistics


@pytest.fixture(scope="module")
def parcels():
    generator = np.random.default_rng(0)
    return [generator.integers(0, 65_536, (4, 3, s)).astype(np.uint16) for s in (1, 7, 300, 64)]


@pytest.mark.parametrize(("pooled", "axes"), [((0, 1), None), ((0,), (0, 2)), ((), 2)])
def test_statistics_equal_numpys(parcels, pooled, axes):
    statistics = RunningStatistics(4, 3)
    for pixels in parcels:
        statistics.add(pixels.transpose(2, 0, 1))
    means, stds = statistics.over(pooled)
    together = np.concatenate(parcels, axis=2).astype(np.float64)
    np.testing.assert_allclose(means, together.mean(axis=axes), rtol=1e-12)
    np.testing.assert_allclose(stds, together.std(axis=axes), rtol=1e-12)


def test_only_clear_observations_are_added(parcels):
    generator = np.random.default_rng(1)
    clear = [generator.random((4, p.shape[2])) < 0.7 for p in parcels]
    statistics = RunningStatistics(4, 3)
    for pixels, own in zip(parcels, clear, strict=True):
        statistics.add(pixels.transpose(2, 0, 1), own.T)
    means, stds = statistics.over((0,))
    observed = np.concatenate(
        [p.transpose(0, 2, 1)[c] for p, c in zip(parcels, clear, strict=True)]
    )
    np.testing.assert_allclose(means, observed.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(stds, observed.astype(float).std(axis=0), rtol=1e-12)


def test_a_small_deviation_from_a_large_mean_is_exact():
    pixels = np.full((1_000_000, 1, 1), 60_000, np.uint16)
    pixels[::2] += 1
    statistics = RunningStatistics(1, 1)
    statistics.add(pixels)
    assert statistics.over((0,))[1].item() == pytest.approx(0.5, rel=1e-9)


def test_a_date_without_observations_has_mean_0_and_deviation_1():
    statistics = RunningStatistics(2, 1)
    statistics.add(np.ones((3, 2, 1), np.uint16), np.array([[True, False]] * 3))
    means, stds = statistics.over(())
    assert means[1].item() == 0
    assert stds[1].item() == 1
