import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from models import pixel_set_encoder
from models.fast_cpu.batch_statistics import compute_batch_statistics
from models.fast_cpu.masked_pooling import pool, pool_gradient
from models.fast_cpu.pixel_layers import hidden_layer, pooled_layer
from models.pixel_set_encoder import PixelSetEncoder

ALL_POOLINGS = ("mean", "std", "max", "min")


@pytest.fixture
def sets():
    """Four parcels, three dates, five channels, eight pixels; at least two true ones a set."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(4, 3, 5, 8, generator=generator, dtype=torch.float64)
    mask = torch.rand(4, 3, 8, generator=generator) < 0.6
    mask[..., :2] = True
    extra = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    return pixels, mask, extra


def encoder(pooling="mean_std", dtype=torch.float64):
    torch.manual_seed(2)
    width = 7 * len(pooling.split("_")) + 2
    module = PixelSetEncoder((5, 6, 7), pooling, (width, 9, 4), 2).to(dtype)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return module


def plain_forward(module, pixels, mask, extra):
    """The same with a layer of PyTorch for each step, and statistics of one set at a time."""
    n, t, c, s = pixels.shape
    rows = pixels.permute(0, 1, 3, 2).reshape(-1, c)
    for layer in module.mlp1:
        rows = functional.relu(layer.bn(layer.lin(rows)))
    values = rows.view(n, t, s, -1)
    pooled = []
    for i in range(n):
        for d in range(t):
            true = values[i, d][mask[i, d].bool()]
            statistics = {
                "mean": true.mean(0),
                "std": true.std(0),
                "max": true.max(0).values,
                "min": true.min(0).values,
            }
            pooled.append(torch.cat([*(statistics[p] for p in module.poolings), extra[i]]))
    return module.mlp2(torch.stack(pooled)).view(n, t, -1)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("pooling", ["mean_std", "max_std_mean_min", "min"])
def test_equals_plain_layers(sets, pooling, training):
    ours, plain = encoder(pooling).train(training), encoder(pooling).train(training)
    output, expected = ours(*sets), plain_forward(plain, *sets)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)

    weights = torch.randn_like(output)
    (output * weights).sum().backward()
    (expected * weights).sum().backward()
    for (name, found), wanted in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=0, atol=1e-10, msg=name)
    for (name, found), wanted in zip(ours.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("training", [False, True])
def test_chunks_change_nothing(sets, training, monkeypatch):
    outputs, gradients = [], []
    for rows in (1, 30, 10_000):
        monkeypatch.setattr(pixel_set_encoder, "_ROWS_PER_CHUNK", rows)
        module = encoder().train(training)
        outputs.append(module(*sets))
        outputs[-1].square().sum().backward()
        gradients.append(module.mlp1[0].lin.weight.grad)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(outputs[0], outputs[2], rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[2], rtol=0, atol=1e-10)


@pytest.mark.parametrize("pooling", ["mean_std", "max_min"])
def test_pixel_order_changes_nothing(sets, pooling):
    pixels, mask, extra = sets
    module = encoder(pooling).eval()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        module(pixels[..., order], mask[..., order], extra),
        module(pixels, mask, extra),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("pooling", ["mean_std", "max_min"])
def test_padding_changes_nothing(sets, pooling):
    pixels, mask, extra = sets
    module = encoder(pooling).eval()
    padded = torch.cat([pixels, torch.full_like(pixels, 1e4)], dim=3)
    padded_mask = torch.cat([mask, torch.zeros_like(mask)], dim=2)
    expected = module(pixels, mask, extra)
    found = module(padded, padded_mask, extra)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_batch_equals_single(sets):
    module = encoder().eval()
    single = torch.cat([module(*(part[i : i + 1] for part in sets)) for i in range(4)])
    torch.testing.assert_close(single, module(*sets), rtol=0, atol=1e-12)


def test_memory_layout_changes_nothing(sets):
    pixels, mask, extra = sets
    by_pixel = pixels.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert by_pixel.stride() != pixels.stride()
    module = encoder().eval()
    assert torch.equal(module(by_pixel, mask, extra), module(pixels, mask, extra))


def test_pixels_without_dates(sets):
    pixels, mask, extra = sets
    module = encoder().eval()
    with_dates = module(pixels[:, :1], mask[:, :1], extra)
    assert torch.equal(module(pixels[:, 0], mask[:, 0].float(), extra), with_dates[:, 0])


@pytest.mark.parametrize("pooling", ["mean_std", "max_min"])
@pytest.mark.parametrize("training", [False, True])
def test_empty_sets_are_finite_and_change_no_other(sets, pooling, training):
    pixels, mask, extra = sets
    more = torch.cat([pixels, torch.full_like(pixels, 1e3)], dim=1)
    more_mask = torch.cat([mask, torch.zeros_like(mask)], dim=1)
    ours, alone = encoder(pooling).train(training), encoder(pooling).train(training)
    found = ours(more, more_mask, extra)
    assert (found[:, 3:] == 0).all()
    torch.testing.assert_close(found[:, :3], alone(pixels, mask, extra), rtol=0, atol=1e-12)
    found.square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in ours.parameters())
    for found_buffer, wanted in zip(ours.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(found_buffer, wanted, rtol=0, atol=1e-12)


def test_a_parcel_without_any_pixel_is_finite(sets):
    pixels, mask, extra = sets
    module = encoder("mean_std_max_min").eval()
    assert torch.isfinite(module(pixels, torch.zeros_like(mask), extra)).all()


def test_statistics_of_no_pixel_are_zero(sets):
    values = sets[0].permute(0, 3, 1, 2)
    found = pool(values, torch.zeros(values.shape[:3]), ALL_POOLINGS)
    assert list(found) == ["mean", "std", "max", "min"]
    for statistic in found.values():
        np.testing.assert_allclose(statistic, 0, atol=1e-15)


def test_deviation_of_one_pixel_is_the_reference_s():
    values = torch.full((1, 4, 1, 2), 7.0)
    mask = torch.tensor([1, 0, 0, 0]).view(1, 4, 1)
    found = pool(values, mask, ("std",))
    np.testing.assert_allclose(found["std"], 3.16e-16, rtol=1e-2)
    gradient = pool_gradient(values, mask, found, {"std": torch.ones(1, 1, 2)})
    assert (gradient == 0).all()


@pytest.mark.parametrize("poolings", [ALL_POOLINGS, ("std",), ("min", "mean")])
def test_gradients_of_the_pooled_layer(sets, poolings):
    pixels, mask, _ = sets
    rows = pixels.permute(0, 3, 1, 2).reshape(-1, 5).requires_grad_()
    masks = mask.permute(0, 2, 1).split(3)
    weight, bias = (torch.randn(6, *n, dtype=torch.float64, requires_grad=True) for n in ((5,), ()))

    def pooled(rows, weight, bias):
        chunks = rows.split([part.numel() for part in masks])
        return pooled_layer(chunks, (weight, bias), masks, poolings)

    assert torch.autograd.gradcheck(pooled, (rows, weight, bias))


@pytest.mark.parametrize("which", ["all", "some"])
def test_gradients_of_the_hidden_layer_and_its_moments(which):
    rows = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([1, 0, 1, 1, 1, 0, 1, 1, 1], dtype=torch.float64)[:, None]
    counted = [None, None] if which == "all" else counts.split((4, 5))

    def hidden(rows, weight, bias):
        outputs, statistics = hidden_layer(rows.split((4, 5)), (weight, bias), counted)
        return *outputs, statistics.mean, statistics.covariance

    assert torch.autograd.gradcheck(hidden, (rows, weight, bias))


def test_moments_of_rows_that_count_equal_numpy():
    rows = torch.randn(50, 3, dtype=torch.float64)
    counts = torch.arange(50)[:, None] % 3 != 0
    found = compute_batch_statistics(rows.split(20), counts.double().split(20))
    exact = rows.numpy()[counts[:, 0]]
    assert found.n_rows == len(exact)
    np.testing.assert_allclose(found.mean, exact.mean(0), atol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(exact.T, ddof=0), atol=1e-14)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_moments_of_many_float32_rows_equal_numpy(offset):
    rows = torch.randn(150_000, 6, generator=torch.Generator().manual_seed(4)) + offset
    found = compute_batch_statistics(rows.split(7_000), [None] * 22)
    exact = rows.double().numpy()
    assert found.n_rows == len(rows)
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=0, atol=5e-8)
    np.testing.assert_allclose(found.covariance, np.cov(exact.T, ddof=0), rtol=0, atol=2e-7)


def test_moments_of_no_rows_are_zero():
    found = compute_batch_statistics([torch.empty(0, 3)], [None])
    assert found.n_rows == 0
    assert (found.covariance == 0).all()


def test_refuses_other_channels_and_features(sets):
    pixels, mask, extra = sets
    with pytest.raises(ValueError, match="expected pixels of 5 channels, found 4"):
        encoder()(pixels[:, :, :4], mask, extra)
    with pytest.raises(ValueError, match="expected 2 parcel features, found 0"):
        encoder()(pixels, mask)


def test_pixels_have_a_gradient_in_evaluation_mode_only(sets):
    pixels, mask, extra = sets
    pixels.requires_grad_()
    with pytest.raises(ValueError, match="no gradient in training mode"):
        encoder().train()(pixels, mask, extra)
    module = encoder().eval()
    module(pixels, mask, extra).sum().backward()
    plain = pixels.detach().clone().requires_grad_()
    plain_forward(module, plain, mask, extra).sum().backward()
    torch.testing.assert_close(pixels.grad, plain.grad, rtol=0, atol=1e-12)
