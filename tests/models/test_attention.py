"""The attention of a crop model, and predictions without some dates."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.standardisation import FeatureScaling, Normalisation
from tests.builders.models import describe, make_data, random_model, small_model

N, T = 9, 8


@pytest.fixture(params=["psetae", "pseltae", "order"])
def model(request):
    """Two members of random weights."""
    name, positions = request.param, "days"
    if name == "order":
        name, positions = "psetae", "order"
    hyperparameters = replace(small_model(name, n_extra=3), positions=positions)
    scaling = FeatureScaling(np.zeros(3), np.ones(3))
    normalisation = Normalisation([5000.0] * 2, [3000.0] * 2)
    return random_model(describe(hyperparameters, normalisation, scaling, members=2))


@pytest.fixture
def data():
    """Parcels with cloudy pixels and padding; the last one is never clear."""
    days = np.sort(np.random.default_rng(3).integers(0, 120, (N, T)), axis=1)
    observed = np.arange(T) < np.array([8, 3, 5, 8, 6, 7, 8, 4, 8])[:, None]
    sizes = np.array([3, 1, 7, 2, 4, 9, 1, 2, 5])
    made = make_data(sizes=tuple(sizes.tolist()), n_dates=T, days=days, observed=observed)
    rows = np.repeat(np.arange(N), sizes)
    made.clear[rows == N - 1] = False
    made.clear[np.flatnonzero(rows == 0)[:, None], [2, 5]] = False
    return made


def seen_dates(data):
    """Return on which dates a pixel of each parcel is clear, bool (N, T)."""
    rows = np.repeat(np.arange(len(data)), data.sizes)
    clear = np.array([data.clear[rows == i].any(axis=0) for i in range(len(data))])
    return clear & data.observed


def head_mean(member, data, inputs):
    """Compute the mean attention of a member from keys and queries, parcel by parcel."""
    pixels, mask, positions, extra, observed = inputs
    x, seen = member.embed_dates(pixels, mask, extra, observed)
    encoder = member.temporal_encoder
    taken = {}
    hook = encoder.attention_heads.register_forward_hook(
        lambda _, arguments, __: taken.update(x=arguments[0])
    )
    member.attention(x, positions, seen)
    hook.remove()
    heads, x = encoder.attention_heads, taken["x"]
    keys = heads.fc1_k(x).view(len(x), T, heads.n_head, heads.d_k)
    result = torch.zeros(len(x), T)
    for i in range(len(x)):
        dates = torch.nonzero(seen[i])[:, 0]
        for head in range(heads.n_head) if len(dates) else ():
            if hasattr(heads, "Q"):
                query = heads.Q[head]
            else:
                mean = heads.fc1_q(x[i, dates]).mean(0, keepdim=True)
                query = heads.fc2(mean).view(heads.n_head, heads.d_k)[head]
            scores = keys[i, dates, head] @ query / heads.d_k**0.5
            result[i, dates] += torch.exp(scores) / torch.exp(scores).sum() / heads.n_head
    return result.numpy()


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast"])
@torch.no_grad()
def test_it_equals_the_softmax_of_keys_and_queries_averaged_over_heads_and_members(
    model, data, fast
):
    every = np.arange(N)
    inputs = model._inference(data, every, N).batches.of(every).inputs
    for member in model.members:
        member.spatial_encoder.fast = fast
        member.eval()
    expected = np.mean([head_mean(member, data, inputs) for member in model.members], axis=0)
    found = model.attention(data, every, 4)
    assert found.shape == (N, T)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    seen = seen_dates(data)
    assert (found[~seen] == 0).all()
    np.testing.assert_allclose(found.sum(1), seen.any(1), rtol=0, atol=1e-6)
    np.testing.assert_allclose(model.attention(data, every[[5, 2]], 1), found[[5, 2]], atol=1e-6)


def test_leaving_out_dates_equals_data_without_them(model, data):
    every = np.arange(N)
    left_out = np.random.default_rng(4).random((N, 3, T)) < 0.4
    left_out[:, 0] = False
    left_out[1, 2] = True
    found = model.log_probabilities_without(data, every, left_out, 4)
    for e in range(3):
        fewer = replace(data, observed=data.observed & ~left_out[:, e])
        seen = seen_dates(fewer).any(1)
        expected = model.log_probabilities(fewer, every, 4)
        np.testing.assert_allclose(found[seen, e], expected[seen], rtol=0, atol=1e-6)
        assert np.isnan(found[~seen, e]).all()
    assert np.isnan(found[1, 2]).all()
