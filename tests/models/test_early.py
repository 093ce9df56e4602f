"""Predictions from the dates up to a day."""

from dataclasses import replace

import numpy as np
import pytest

from models.standardisation import FeatureScaling, Normalisation
from tests.builders.models import describe, make_data, random_model, small_model

DAYS = np.array([-1, 0, 20, 55, 80, 200])
N, T = 12, 8


@pytest.fixture(params=["psetae", "pseltae"])
def model(request):
    """Two members of random weights."""
    hyperparameters = small_model(request.param, n_extra=3)
    scaling = FeatureScaling(np.zeros(3), np.ones(3))
    description = describe(
        hyperparameters, Normalisation([5000.0] * 2, [3000.0] * 2), scaling, members=2
    )
    return random_model(description)


@pytest.fixture
def data():
    """Parcels with dates of their own, cloudy pixels, and padding; one parcel begins on day 60."""
    rng = np.random.default_rng(3)
    days = np.sort(rng.integers(0, 120, (N, T)), axis=1)
    days[4] = np.arange(60, 60 + T)
    n_dates = rng.integers(3, T + 1, N)
    observed = np.arange(T) < n_dates[:, None]
    sizes = rng.integers(1, 9, N)
    made = make_data(sizes=tuple(sizes.tolist()), n_dates=T, days=days, observed=observed)
    # Every parcel is observed at its last date.
    rows = np.repeat(np.arange(N), sizes)
    made.clear[np.arange(len(rows)), n_dates[rows] - 1] = True
    return made


def until(data, day):
    """Return the parcels without the dates after a day."""
    return replace(data, observed=data.observed & (data.days <= day))


def test_each_day_equals_a_prediction_without_the_later_dates(model, data):
    every = np.arange(N)
    scores = model.log_probabilities_until(data, every, DAYS, 5)
    assert scores.shape == (N, len(DAYS), 3)
    for e, day in enumerate(DAYS):
        expected = model.log_probabilities(until(data, day), every, 5)
        rows = np.repeat(every, data.sizes)
        clear = data.clear & data.observed[rows] & (data.days[rows] <= day)
        seen = np.array([clear[rows == i].any() for i in every])
        np.testing.assert_allclose(scores[seen, e], expected[seen], rtol=0, atol=1e-6)
        assert np.isnan(scores[~seen, e]).all()
    np.testing.assert_allclose(
        scores[:, -1], model.log_probabilities(data, every, 5), rtol=0, atol=1e-6
    )
    # Not yet observed at all, and later than the others.
    assert np.isnan(scores[:, 0]).all()
    assert np.isnan(scores[4]).all(axis=1).tolist()[:4] == [True] * 4


def test_later_values_change_no_earlier_prediction(model, data):
    every = np.arange(N)
    first = model.log_probabilities_until(data, every, DAYS, 5)
    for e, day in enumerate(DAYS):
        late = np.repeat(data.days > day, data.sizes, axis=0)
        pixels = data.pixels.copy()
        pixels[late] = 60_000
        changed = replace(data, pixels=pixels, clear=data.clear | late)
        second = model.log_probabilities_until(changed, every, DAYS, 5)
        np.testing.assert_array_equal(second[:, : e + 1], first[:, : e + 1])
        if late.any():
            assert (np.nan_to_num(second[:, -1]) != np.nan_to_num(first[:, -1])).any()
