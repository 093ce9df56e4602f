"""Models on disk with weights drawn at random, in place of trained ones."""

import numpy as np
import torch
from pixel_set_fixture import BANDS, CLASSES, SEASON

from models.checkpoints import save_checkpoint
from models.classifier import ParcelClassifier
from models.hyperparameters import Hyperparameters
from models.model_files import ModelMetadata, save_metadata
from models.standardisation import FeatureScaling, Normalisation

FOLDS = 3


def save_models(folder, members=2):
    """Write Fold_1 to Fold_3, for the bands, classes and features of the made dataset."""
    hyperparameters = Hyperparameters.for_data(
        "psetae", n_channels=4, n_classes=3, n_extra=4,
        mlp1=(4, 8, 8), mlp2=(20, 16), n_head=2, d_k=4, mlp3=(32, 16), mlp4=(16, 8, 3),
    )  # fmt: skip
    metadata = ModelMetadata(
        hyperparameters=hyperparameters,
        normalisation=Normalisation(np.full(4, 3000.0), np.full(4, 1500.0)),
        feature_scaling=FeatureScaling(np.full(4, 0.5), np.full(4, 0.3)),
        n_pixels=8,
        bands=BANDS,
        class_codes=CLASSES,
        class_names=CLASSES,
        first_date=SEASON[0].isoformat(),
        seed=0,
        members=members,
    )
    for fold in range(1, FOLDS + 1):
        save_metadata(folder / f"Fold_{fold}", metadata)
        for member in range(1, members + 1):
            generator = torch.Generator().manual_seed(10 * fold + member)
            save_checkpoint(
                folder / f"Fold_{fold}",
                epoch=1,
                state_dict=ParcelClassifier(hyperparameters, generator).state_dict(),
                optimizer_state={},
                hyperparameters=hyperparameters,
                days=np.arange(7),
                member=member,
            )
