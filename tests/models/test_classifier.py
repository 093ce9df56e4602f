import numpy as np
import pytest
import torch

from models.classifier import ParcelClassifier
from models.hyperparameters import Hyperparameters
from tests.builders.models import small_model

NAMES = ("psetae", "pseltae")


def four_classes(name, **others):
    return small_model(
        name, n_channels=3, n_classes=4, n_extra=2, n_head=4,
        **{} if name == "psetae" else {"d_model": 32}, **others,
    )  # fmt: skip


def model_and_inputs(name, n=5, **others):
    generator = torch.Generator().manual_seed(1)
    model = ParcelClassifier(four_classes(name, **others), generator)
    inputs = {
        "pixels": torch.randn(n, 6, 3, 7, generator=generator),
        "pixel_mask": torch.rand(n, 6, 7, generator=generator) < 0.8,
        "positions": torch.arange(0, 60, 10).expand(n, -1),
        "extra": torch.randn(n, 2, generator=generator),
    }
    inputs["pixel_mask"][..., 0] = True
    model.train()
    model(**inputs)  # statistics other than the initial 0 and 1
    return model.eval(), inputs


@pytest.mark.parametrize("name", NAMES)
def test_batch_equals_single(name):
    model, inputs = model_and_inputs(name)
    together = model(**inputs)
    for i in range(5):
        alone = model(**{key: value[i : i + 1] for key, value in inputs.items()})
        torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("positions", ["days", "order"])
@pytest.mark.parametrize("name", NAMES)
def test_padding_dates_and_pixels_change_nothing(name, positions):
    model, inputs = model_and_inputs(name, positions=positions)
    expected = model(**inputs)
    padded = {
        "pixels": torch.full((5, 9, 3, 12), 50.0),
        "pixel_mask": torch.ones(5, 9, 12),
        "positions": torch.full((5, 9), -1000),
        "extra": inputs["extra"],
        "observed": torch.zeros(5, 9, dtype=torch.bool),
    }
    dates = [0, 2, 3, 5, 7, 8]
    padded["pixels"][:, dates, :, :7] = inputs["pixels"]
    padded["pixel_mask"][:, dates] = 0
    padded["pixel_mask"][:, dates, :7] = inputs["pixel_mask"].float()
    padded["positions"][:, dates] = inputs["positions"]
    padded["observed"][:, dates] = True
    torch.testing.assert_close(model(**padded), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_dates_that_are_not_observed_do_not_change_the_training(name):
    losses = []
    for filler in (0.0, 30.0):
        model, inputs = model_and_inputs(name)
        observed = torch.ones(5, 6, dtype=torch.bool)
        observed[:3, 4:] = False
        inputs["pixels"][~observed] = filler
        torch.manual_seed(3)  # of the dropout
        losses.append(model.train()(**inputs, observed=observed).square().sum())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("positions", ["days", "order"])
@pytest.mark.parametrize("name", NAMES)
def test_embeddings_of_all_dates_serve_for_every_shorter_series(name, positions):
    model, inputs = model_and_inputs(name, positions=positions)
    inputs["pixel_mask"][1, :2] = False  # a parcel that is observed later
    embeddings, observed = model.embed_dates(
        inputs["pixels"], inputs["pixel_mask"], inputs["extra"]
    )
    for last in range(6):
        until = torch.arange(6).expand(5, 6) <= last
        expected = model(**inputs, observed=until)
        found = model.classify_series(embeddings, inputs["positions"], observed & until)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        alone = {k: v if k == "extra" else v[:, : last + 1] for k, v in inputs.items()}
        torch.testing.assert_close(found, model(**alone), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_date_without_a_true_pixel_is_not_observed(name):
    model, inputs = model_and_inputs(name)
    without = {key: value if key == "extra" else value[:, 1:] for key, value in inputs.items()}
    inputs["pixel_mask"][:, 0] = False
    torch.testing.assert_close(model(**inputs), model(**without), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_parcel_without_any_observation_is_finite(name):
    model, inputs = model_and_inputs(name)
    inputs["pixel_mask"][2] = False
    assert torch.isfinite(model(**inputs)).all()


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_small_batches_train(name, n):
    model, inputs = model_and_inputs(name, n)
    model.train()
    model(**inputs).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_dates_change_the_result_only_if_positions_are_days():
    for positions, changes in (("days", True), ("order", False)):
        model, inputs = model_and_inputs("psetae", positions=positions)
        later = model(**inputs | {"positions": inputs["positions"] + 90})
        assert (later - model(**inputs)).abs().max().item() > 1e-4 or not changes
        assert torch.equal(later, model(**inputs)) or changes


@pytest.mark.parametrize("name", NAMES)
def test_initial_weights_follow_the_generator_and_the_reference(name):
    hyperparameters = Hyperparameters.for_data(name, n_channels=10, n_classes=20)
    first, again, other = (
        ParcelClassifier(hyperparameters, torch.Generator().manual_seed(seed)).state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    weight = "temporal_encoder.attention_heads.fc1_k.weight"
    assert not torch.equal(first[weight], other[weight])

    fan_out, fan_in = first[weight].shape
    assert first[weight].std().item() == pytest.approx((2 / (fan_in + fan_out)) ** 0.5, rel=0.05)
    batch_norm = torch.cat([first[f"spatial_encoder.mlp1.{i}.bn.weight"] for i in range(2)])
    assert abs(batch_norm.mean().item()) < 0.4
    assert batch_norm.std().item() == pytest.approx(1, abs=0.3)
    assert (first["spatial_encoder.mlp1.0.bn.bias"] == 0).all()
    biases = np.concatenate([v for k, v in first.items() if k.endswith("lin.bias")])
    assert biases.std() == pytest.approx(1, abs=0.3)
    assert (first["temporal_encoder.outlayernorm.weight"] == 1).all()
    if name == "pseltae":
        queries = first["temporal_encoder.attention_heads.Q"]
        assert queries.std().item() == pytest.approx((2 / 8) ** 0.5, rel=0.2)
        assert first["temporal_encoder.inconv.0.weight"].std().item() == pytest.approx(1, rel=0.05)


def test_building_with_a_generator_does_not_use_the_global_one():
    hyperparameters = four_classes("pseltae")
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(5)
    first = ParcelClassifier(hyperparameters, generator).state_dict()
    generator.manual_seed(1)
    torch.manual_seed(6)
    second = ParcelClassifier(hyperparameters, generator).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
