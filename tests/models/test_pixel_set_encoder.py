"""The pixel-set encoder: its plain layers against one set at a time, its fast path against them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.fast_cpu import pixel_mlp
from models.pixel_set_encoder import PixelSetEncoder
from tests.builders.models import make_encoder

POOLINGS = ["mean_std", "max_std_mean_min", "min"]


@pytest.fixture
def sets():
    """Four parcels, three dates, five channels, eight pixels; at least two true ones in a set."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(4, 3, 5, 8, generator=generator, dtype=torch.float64)
    mask = torch.rand(4, 3, 8, generator=generator) < 0.6
    mask[..., :2] = True
    extra = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    return pixels, mask, extra


@pytest.fixture(params=[False, True], ids=["plain", "fast"])
def fast(request):
    return request.param


def one_set_at_a_time(module, pixels, mask, extra):
    """The paper's formula with PyTorch's own statistics of the true pixels of each set."""
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


def assert_alike(found, expected, outputs, atol):
    """Compare the outputs of two encoders, their buffers, and gradients if there are any."""
    torch.testing.assert_close(*outputs, rtol=0, atol=atol)
    if outputs[0].requires_grad:
        weights = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(4))
        for output in outputs:
            (output * weights).sum().backward()
        pairs = zip(found.named_parameters(), expected.parameters(), strict=True)
        for (name, parameter), other in pairs:
            torch.testing.assert_close(
                parameter.grad, other.grad, rtol=0, atol=100 * atol, msg=name
            )
    for (name, buffer), other in zip(found.named_buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_plain_layers_equal_one_set_at_a_time(sets, pooling, training):
    ours, other = (make_encoder(pooling, fast=False).train(training) for _ in range(2))
    assert_alike(ours, other, (ours(*sets), one_set_at_a_time(other, *sets)), atol=1e-12)


def all_true(mask):
    return torch.ones_like(mask)


def some_true(mask):
    return mask


def ragged_dates(mask):
    """The last dates of parcels 1 and 3 are padding."""
    return mask & (torch.arange(3) < torch.tensor([3, 1, 3, 2])[:, None])[..., None]


def one_true_pixel(mask):
    return mask & (torch.arange(8) == 1)


def empty_parcel(mask):
    return mask & (torch.arange(4) != 2)[:, None, None]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(
    "change", [all_true, some_true, ragged_dates, one_true_pixel, empty_parcel]
)
def test_fast_path_equals_plain_layers(sets, change, pooling, training):
    # In float32, both differ from float64 by up to 6e-6.
    for dtype, atol in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        mask = change(sets[1])
        inputs = sets[0].to(dtype), mask, sets[2].to(dtype)
        fast, plain = (make_encoder(pooling, dtype, fast=f).train(training) for f in (True, False))
        if not training:
            fast, plain = fast.requires_grad_(False), plain.requires_grad_(False)
        with torch.set_grad_enabled(training):
            outputs = fast(*inputs), plain(*inputs)
        assert_alike(fast, plain, outputs, atol)
        assert (outputs[0][~mask.any(2)] == 0).all()
        assert torch.isfinite(outputs[0]).all()


@pytest.mark.parametrize("n_pixels", [1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_fast_path_equals_plain_layers_for_sets_of_few_pixels(sets, n_pixels, training):
    pixels, mask, extra = sets
    inputs = pixels[..., :n_pixels], mask[..., :n_pixels], extra
    fast, plain = (make_encoder(fast=f).train(training) for f in (True, False))
    with torch.set_grad_enabled(training):
        outputs = fast(*inputs), plain(*inputs)
    assert_alike(fast, plain, outputs, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_the_fast_path_is_taken_where_it_can_be(sets, training, monkeypatch):
    """On a CPU, for pixels without a gradient, in training or without gradients of the weights."""
    module = make_encoder().train(training)
    monkeypatch.setattr(module, "_pool_pixels", None)
    with torch.set_grad_enabled(training):
        module(*sets)
    with pytest.raises(TypeError, match="not callable"):
        module(sets[0].requires_grad_(), *sets[1:])


def test_number_of_rows_in_a_chunk_changes_nothing(sets, monkeypatch):
    outputs, gradients = [], []
    for rows in (1, 30, 10_000):
        monkeypatch.setattr(pixel_mlp, "_ROWS_PER_CHUNK", rows)
        module = make_encoder().train()
        outputs.append(module(*sets))
        outputs[-1].square().sum().backward()
        gradients.append(module.mlp1[0].lin.weight.grad)
        with torch.no_grad():
            outputs.append(module.eval()(*sets))
    for output, expected in zip(outputs[2:], outputs[:2] * 2, strict=True):
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[2], rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean_std", "max_min"])
def test_pixel_order_changes_nothing(sets, pooling, fast):
    pixels, mask, extra = sets
    module = make_encoder(pooling, fast=fast).eval()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    found = module(pixels[..., order], mask[..., order], extra)
    torch.testing.assert_close(found, module(pixels, mask, extra), rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean_std", "max_min"])
def test_padding_changes_nothing(sets, pooling, fast):
    pixels, mask, extra = sets
    module = make_encoder(pooling, fast=fast).eval()
    padded = torch.cat([pixels, torch.full_like(pixels, 1e4)], dim=3)
    padded_mask = torch.cat([mask, torch.zeros_like(mask)], dim=2)
    found = module(padded, padded_mask, extra)
    torch.testing.assert_close(found, module(pixels, mask, extra), rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_batch_equals_single_parcels(sets, fast):
    module = make_encoder(fast=fast).eval()
    single = torch.cat([module(*(part[i : i + 1] for part in sets)) for i in range(4)])
    torch.testing.assert_close(single, module(*sets), rtol=0, atol=1e-12)


@torch.no_grad()
def test_memory_layout_changes_nothing(sets, fast):
    pixels, mask, extra = sets
    by_pixel = pixels.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert by_pixel.stride() != pixels.stride()
    module = make_encoder(fast=fast).eval()
    assert torch.equal(module(by_pixel, mask, extra), module(pixels, mask, extra))


@torch.no_grad()
def test_pixels_without_dates(sets, fast):
    pixels, mask, extra = sets
    module = make_encoder(fast=fast).eval()
    with_dates = module(pixels[:, :1], mask[:, :1], extra)
    assert torch.equal(module(pixels[:, 0], mask[:, 0].float(), extra), with_dates[:, 0])


@pytest.mark.parametrize("pooling", ["mean_std", "max_min"])
@pytest.mark.parametrize("training", [False, True])
def test_empty_sets_are_zero_and_change_no_other_set(sets, pooling, training, fast):
    pixels, mask, extra = sets
    more = torch.cat([pixels, torch.full_like(pixels, 1e3)], dim=1)
    more_mask = torch.cat([mask, torch.zeros_like(mask)], dim=1)
    ours, alone = (make_encoder(pooling, fast=fast).train(training) for _ in range(2))
    with torch.set_grad_enabled(training):
        found, expected = ours(more, more_mask, extra), alone(pixels, mask, extra)
    assert (found[:, 3:] == 0).all()
    assert_alike(ours, alone, (found[:, :3], expected), atol=1e-12)


@torch.no_grad()
def test_a_batch_without_any_true_pixel_is_finite(sets, fast):
    pixels, mask, extra = sets
    module = make_encoder("mean_std_max_min", fast=fast).eval()
    assert torch.isfinite(module(pixels, torch.zeros_like(mask), extra)).all()


@pytest.mark.parametrize("training", [False, True])
def test_pixels_have_a_gradient(sets, training):
    pixels, mask, extra = sets
    pixels.requires_grad_()
    ours, other = (make_encoder().train(training) for _ in range(2))
    ours(pixels, mask, extra).square().sum().backward()
    copy = pixels.detach().clone().requires_grad_()
    one_set_at_a_time(other, copy, mask, extra).square().sum().backward()
    assert pixels.grad.abs().max() > 0
    torch.testing.assert_close(pixels.grad, copy.grad, rtol=0, atol=1e-11)


@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_asked_of_the_device(training):
    # Tensors on "meta" have no values: bool(), item() or a boolean index would fail.
    module = make_encoder("mean_std_max_min").to("meta").train(training)
    pixels = torch.empty(4, 3, 5, 8, dtype=torch.float64, device="meta", requires_grad=True)
    mask = torch.empty(4, 3, 8, dtype=torch.bool, device="meta")
    module(pixels, mask, pixels[:, 0, :2, 0]).sum().backward()
    assert pixels.grad.shape == pixels.shape


def test_names_of_the_weights_are_those_of_the_reference():
    module = PixelSetEncoder((10, 32, 64), "mean_std", (132, 128), 4)
    batch_norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert list(module.state_dict()) == [
        *(
            f"mlp1.{layer}.{name}"
            for layer in (0, 1)
            for name in ("lin.weight", "lin.bias", *(f"bn.{part}" for part in batch_norm))
        ),
        "mlp2.0.weight",
        "mlp2.0.bias",
        *(f"mlp2.1.{part}" for part in batch_norm),
    ]
    assert isinstance(module.mlp2[1], nn.BatchNorm1d)


def test_refuses_other_channels_and_features(sets):
    pixels, mask, extra = sets
    with pytest.raises(ValueError, match="expected pixels of 5 channels, found 4"):
        make_encoder()(pixels[:, :, :4], mask, extra)
    with pytest.raises(ValueError, match="expected 2 parcel features, found 0"):
        make_encoder()(pixels, mask)
