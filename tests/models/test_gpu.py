"""Training and prediction on a GPU, beside those on a CPU."""

from datetime import date
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from models.classifier import ParcelClassifier
from models.crop_model import CropModel
from models.hyperparameters import Hyperparameters
from models.model_description import DataDescription
from models.pixel_sets import PixelSets
from models.standardisation import Normalisation
from models.training.learner import Learner, focal_loss
from tests.builders.models import training_settings

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
    # Torch's compiler imports what torch itself has deprecated.
    pytest.mark.filterwarnings("default"),
]

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def make_parcels(n=80, n_dates=6):
    """Parcels of four classes that differ in the course of their reflectance."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 12, n)
    labels = np.arange(n) % 4
    course = 2000 + 1500 * np.sin(np.arange(n_dates) * 0.5 + labels[:, None])
    means = np.repeat(course, sizes, axis=0)[..., None]
    return PixelSets(
        ids=[str(i) for i in range(n)],
        pixels=rng.normal(means, 200, (sizes.sum(), n_dates, 3)).clip(0).astype(np.uint16),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        days=np.tile(np.arange(n_dates) * 20, (n, 1)),
        labels=labels,
    )


def steps(name, device, n_steps=6, sizes=(32,), **options):
    """Take steps without dropout; return losses, gradient norms, and the weights afterwards."""
    hyperparameters = Hyperparameters.for_data(name, n_channels=3, n_classes=4)
    model = ParcelClassifier(hyperparameters, torch.Generator().manual_seed(1), "torch")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    settings = training_settings(ema_decay=0.5, learning_rate=0.003, precision="float32")
    loss_of = partial(focal_loss, gamma=1.0)
    learner = Learner(model.train().to(device), settings, loss_of, n_steps, **options)
    found = []
    for step in range(n_steps):
        generator = torch.Generator().manual_seed(step)
        n = sizes[step % len(sizes)]
        pixels = torch.randn(n, 5, 3, 8, generator=generator)
        mask = torch.rand(n, 5, 8, generator=generator) < 0.8
        days = torch.arange(5).expand(n, 5) * 20
        inputs = [tensor.to(device) for tensor in (pixels, mask, days)]
        loss, _, norm = learner.learn((*inputs, None, None), (torch.arange(n) % 4).to(device))
        found.append((loss.item(), norm.item()))
    state = {name: value.cpu() for name, value in learner.averaged_model.state_dict().items()}
    return np.array(found), state


@pytest.mark.parametrize("name", ["psetae", "pseltae"])
@pytest.mark.parametrize(
    "options",
    [{"recorded": False}, {}, {"sizes": (32, 32, 7)}, {"compiled": True}],
    ids=["eager", "graph", "graph, other sizes between", "compiled"],
)
def test_steps_are_those_of_a_cpu(name, options):
    sizes = options.get("sizes", (32,))
    expected, weights = steps(name, CPU, sizes=sizes)
    found, on_gpu = steps(name, GPU, **options)
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    for key, value in weights.items():
        # Adam divides by the size of a gradient: where that is rounding only, the steps differ.
        torch.testing.assert_close(on_gpu[key], value, rtol=0.05, atol=0.02, msg=key)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_of_a_gpu_predicts_the_same_on_a_cpu(precision, tmp_path):
    data = make_parcels()
    train, validation, test = np.arange(40), np.arange(40, 60), np.arange(60, 80)
    fitted = CropModel.fit(
        data,
        train,
        validation,
        about=DataDescription(
            bands=["B02", "B03", "B04"],
            class_codes=list("abcd"),
            class_names=list("ABCD"),
            first_date=date(2017, 1, 1),
            normalisation=Normalisation(np.array(2000.0), np.array(1000.0)),
        ),
        architecture={"name": "pseltae"},
        training=training_settings(
            epochs=30, batch_size=16, n_pixels=8, learning_rate=0.003, jitter_sigma=0.01,
            jitter_clip=0.05, date_dropping=0.2, shift_days=3, precision=precision,
        ),
        device=GPU,
        members=2,
    )  # fmt: skip
    fitted.save(tmp_path / "Fold_1")
    on_gpu = fitted.log_probabilities(data, test, batch_size=7)
    assert (on_gpu.argmax(1) == data.labels[test]).mean() > 0.9
    loaded = CropModel.load(tmp_path / "Fold_1", CPU)
    np.testing.assert_allclose(loaded.log_probabilities(data, test, 7), on_gpu, atol=2e-3)
    np.testing.assert_allclose(
        loaded.attention(data, test, 7), fitted.attention(data, test, 7), atol=2e-3
    )
    left_out = np.random.default_rng(2).random((len(test), 3, data.n_dates)) < 0.4
    np.testing.assert_allclose(
        loaded.log_probabilities_without(data, test, left_out, 7),
        fitted.log_probabilities_without(data, test, left_out, 7),
        atol=5e-3,
    )
