import numpy as np
import pytest
import torch
from torch import nn

from models.temporal_attention import (
    DateNorm,
    LightweightTemporalAttentionEncoder,
    TemporalAttentionEncoder,
    sinusoid_encoding,
)

ENCODERS = {
    "tae": lambda: TemporalAttentionEncoder(8, 2, 3, None, (16, 10, 8), 0.2, 1000),
    "tae-projected": lambda: TemporalAttentionEncoder(8, 2, 3, 6, (12, 6), 0.2, 1000),
    "ltae": lambda: LightweightTemporalAttentionEncoder(8, 4, 3, 16, (16, 10), 0.2, 1000),
    "ltae-plain": lambda: LightweightTemporalAttentionEncoder(8, 4, 3, None, (8, 10), 0.2, 1000),
}


@pytest.fixture(params=ENCODERS)
def encoder(request):
    torch.manual_seed(1)
    module = ENCODERS[request.param]()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return module.double().eval()


@pytest.fixture
def series():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(5, 7, 8, generator=generator, dtype=torch.float64)
    days = torch.randint(0, 300, (5, 7), generator=generator).sort(1).values
    return x, days


def test_encoding_of_arbitrary_positions_equals_the_formula():
    positions = torch.tensor([[0, 3, 3], [-20, 400, 7]])
    found = sinusoid_encoding(positions, 6, 1000)
    for index in np.ndindex(2, 3):
        day = positions[index].item()
        for i in range(3):
            angle = day / 1000 ** (2 * i / 6)
            assert found[index][2 * i].item() == pytest.approx(np.sin(angle), abs=1e-12)
            assert found[index][2 * i + 1].item() == pytest.approx(np.cos(angle), abs=1e-12)


def test_fractions_of_days_are_positions_too():
    half = sinusoid_encoding(torch.tensor([[0.5]]), 4, 1000)
    assert half[0, 0, 0].item() == pytest.approx(np.sin(0.5))


def test_attention_equals_each_head_computed_separately(series):
    x, _ = series
    module = ENCODERS["tae"]().double().eval()
    heads = module.attention_heads
    found, attention = heads(x, None)
    query = heads.fc2(heads.fc1_q(x).mean(1))
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        scores = (heads.fc1_k(x)[..., part] * query[:, None, part]).sum(2) / 3**0.5
        weights = torch.softmax(scores, dim=1)
        torch.testing.assert_close(attention[:, head], weights)
        torch.testing.assert_close(found[:, head], (weights[..., None] * x).sum(1))


def test_padding_dates_change_nothing(encoder, series):
    x, days = series
    expected = encoder(x, days)
    filler = torch.full((5, 4, 8), torch.nan, dtype=x.dtype)
    padded = torch.cat([x, filler], dim=1)
    padded_days = torch.cat([days, torch.full((5, 4), 9999)], dim=1)
    observed = torch.arange(11).expand(5, -1) < 7
    order = torch.randperm(11, generator=torch.Generator().manual_seed(3))
    for dates in (torch.arange(11), order):
        found = encoder(padded[:, dates], padded_days[:, dates], observed[:, dates])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_each_series_may_have_its_own_dates(encoder, series):
    x, days = series
    lengths = [7, 1, 4, 2, 6]
    observed = torch.arange(7) < torch.tensor(lengths)[:, None]
    together = encoder(x, days, observed)
    for i, length in enumerate(lengths):
        alone = encoder(x[i : i + 1, :length], days[i : i + 1, :length])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12)


def test_a_series_without_an_observed_date_is_finite_and_ignores_its_values(encoder, series):
    x, days = series
    observed = torch.ones(5, 7, dtype=torch.bool)
    observed[1] = False
    found = encoder(x, days, observed)
    assert torch.isfinite(found).all()
    other = x.clone()
    other[1] = 77.0
    later = days.clone()
    later[1] += 100
    assert torch.equal(encoder(other, later, observed), found)


def test_attention_sums_to_one_over_observed_dates(encoder, series):
    x, days = series
    observed = torch.ones(5, 7, dtype=torch.bool)
    observed[:, 2] = False
    _, attention = encoder.forward_with_attention(x, days, observed)
    torch.testing.assert_close(attention.sum(2), torch.ones_like(attention[..., 0]))
    assert (attention[..., 2] == 0).all()


def test_other_numbers_of_dates_and_small_batches(encoder):
    for n_dates in (1, 3, 400):
        for n in (1, 2):
            output = encoder(
                torch.randn(n, n_dates, 8).double(), torch.arange(n_dates).expand(n, -1)
            )
            assert output.shape[0] == n
            assert torch.isfinite(output).all()


def test_two_series_train(encoder, series):
    x, days = series
    encoder.train()
    output = encoder(x[:2], days[:2])
    output.square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in encoder.parameters())


def test_date_norm_equals_layer_norm_and_ignores_padding(series):
    x, _ = series
    ours, plain = DateNorm(8, 7).double(), nn.LayerNorm((8, 7)).double()
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    plain.load_state_dict(ours.state_dict())
    expected = plain(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-12)

    observed = torch.arange(7).expand(5, -1) < 5
    other = torch.where(observed[..., None], x, 1e6)
    found, wanted = ours(other, observed), ours(x, observed)
    torch.testing.assert_close(found[:, :5], wanted[:, :5], rtol=0, atol=1e-12)


def test_date_norm_refuses_other_dates():
    module = LightweightTemporalAttentionEncoder(8, 4, 3, 16, (16, 10), 0.2, 1000, n_dates=7)
    with pytest.raises(ValueError, match="built for 7 dates, found 6"):
        module(torch.zeros(2, 6, 8), torch.zeros(2, 6))
