"""Trainings with small values, and models on disk with random weights in place of trained ones."""

import numpy as np
import torch
from torch import nn

from models.classifier import ParcelClassifier, initialise_weights
from models.crop_model import CropModel
from models.hyperparameters import Hyperparameters
from models.model_description import ModelDescription
from models.pixel_set_encoder import PixelSetEncoder
from models.pixel_sets import PixelSets
from models.standardisation import FeatureScaling, Normalisation
from models.training.batches import Batches
from models.training.options import TrainingSettings
from models.training.train_fold import FoldResult

FOLDS = 3
CPU = torch.device("cpu")


def training_settings(**changes):
    """Settings of a training: the paper's, but few epochs, and what a test changes."""
    values = {
        "epochs": 2, "min_steps": 0, "batch_size": 8, "n_pixels": 6, "always_pad": True,
        "optimizer": "adam", "learning_rate": 1e-3, "schedule": "constant", "weight_decay": 0.0,
        "gamma": 1.0, "class_weighting": "none", "initialisation": "paper",
        "jitter_sigma": 0.01, "jitter_clip": 0.05, "date_dropping": 0.0, "shift_days": 0,
        "random_end": False,
        "ema_decay": 0.0, "keep": "best", "patience": None, "precision": "auto", "seed": 1,
    }  # fmt: skip
    return TrainingSettings(**values | changes)


def small_model(name="psetae", **others):
    """Hyper-parameters of a model of two channels, three classes and narrow layers."""
    values = {
        "n_channels": 2, "n_classes": 3, "mlp1": (0, 8, 16), "mlp2": (0, 16), "mlp3": (0, 16),
        "mlp4": (0, 8, 0), "n_head": 2, "d_k": 4, "d_model": None if name == "psetae" else 16,
    }  # fmt: skip
    return Hyperparameters.for_data(name, **values | others)


def describe(hyperparameters, normalisation, feature_scaling=None, **changes):
    """Describe a model: what it takes, with made-up names."""
    h = hyperparameters
    values = {
        "n_pixels": 6,
        "bands": [f"B{i}" for i in range(h.input_dim)],
        "class_codes": [str(i) for i in range(h.n_classes)],
        "class_names": [f"class {i}" for i in range(h.n_classes)],
        "first_date": "2018-03-01",
        "seed": 1,
        "members": 1,
        "versions": {},
    }
    return ModelDescription(h, normalisation, feature_scaling, **values | changes)


def random_model(description, days=7, seed=1):
    """Make a crop model with random weights, as if it had been fitted."""
    results = [
        FoldResult(1, random_weights(description.hyperparameters, seed + member), {}, {})
        for member in range(description.members)
    ]
    return CropModel.of_results(description, results, np.arange(days), CPU)


def random_weights(hyperparameters, seed=1):
    """Draw a state dict."""
    return ParcelClassifier(hyperparameters, torch.Generator().manual_seed(seed)).state_dict()


def make_encoder(pooling="mean_std", dtype=torch.float64, *, fast=True):
    """Make a small encoder of five channels and two features, with random batch normalisations."""
    generator = torch.Generator().manual_seed(2)
    width = 7 * len(pooling.split("_")) + 2
    module = PixelSetEncoder((5, 6, 7), pooling, (width, 9, 4), 2)
    initialise_weights(module, generator, "torch")
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d):
            for values in (layer.weight, layer.bias, layer.running_mean):
                nn.init.normal_(values, generator=generator)
            nn.init.uniform_(layer.running_var, 0.5, 2, generator=generator)
    module.fast = fast
    return module.to(dtype)


def make_data(sizes=(3, 9, 1, 0, 20, 5), n_dates=4, n_channels=2, **others):
    rng = np.random.default_rng(1)
    n, total = len(sizes), sum(sizes)
    values = {
        "ids": [f"0{i}" for i in range(n)],
        "pixels": rng.integers(0, 10_000, (total, n_dates, n_channels), dtype=np.uint16),
        "offsets": np.cumsum([0, *sizes]),
        "days": rng.integers(0, 300, (n, n_dates)),
        "labels": rng.integers(0, 3, n),
        "clear": rng.random((total, n_dates)) < 0.8,
        "observed": rng.random((n, n_dates)) < 0.8,
        "features": rng.normal(size=(n, 3)),
    }
    return PixelSets(**values | others)


def make_batches(data, n_pixels=5, normalisation=None):
    normalisation = normalisation or Normalisation([100.0, 200.0], [50.0, 25.0])
    scaling = None if data.features is None else FeatureScaling.fit(data.features)
    return Batches(data, normalisation, scaling, n_pixels, CPU)


def save_models(folder, members=2):
    """Write Fold_1 to Fold_3, for the bands, classes and features of the made dataset."""
    # Not above: the tests of models alone run without the libraries that it needs.
    from tests.builders.pixel_sets import BANDS, CLASSES, SEASON

    hyperparameters = Hyperparameters.for_data(
        "psetae", n_channels=4, n_classes=3, n_extra=4,
        mlp1=(4, 8, 8), mlp2=(20, 16), n_head=2, d_k=4, mlp3=(32, 16), mlp4=(16, 8, 3),
    )  # fmt: skip
    description = describe(
        hyperparameters,
        Normalisation(np.full(4, 3000.0), np.full(4, 1500.0)),
        FeatureScaling(np.full(4, 0.5), np.full(4, 0.3)),
        n_pixels=8,
        bands=BANDS,
        class_codes=CLASSES,
        class_names=CLASSES,
        first_date=SEASON[0].isoformat(),
        seed=0,
        members=members,
    )
    for fold in range(1, FOLDS + 1):
        random_model(description, seed=10 * fold + 1).save(folder / f"Fold_{fold}")
