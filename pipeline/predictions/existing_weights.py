"""Models that were trained elsewhere: by this project, or by the reference implementation."""

from __future__ import annotations

from pathlib import Path

import torch

from models.crop_model import CropModel
from models.model_files import DESCRIPTION_FILE, fold_folders
from pipeline.dataset.model_inputs import describe_data
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.workflow.settings import PredictSettings


def load_existing(
    folder: Path, dataset: PixelSetDataset, settings: PredictSettings, device: torch.device
) -> list[CropModel]:
    """Load the models of all folds, of this project or of the reference.

    A model of this project brings its description. The reference keeps nothing beside its weights:
    what no shape of a weight tells comes from the settings, and everything else is as its own
    inference has it: the normalisation of the dataset, features standardised over all parcels,
    days since the first date, the classes of the settings.

    Parameters
    ----------
    folder
        Folder of Fold_1, Fold_2, ...
    dataset
        Dataset of the parcels to predict.
    settings
        model and train.pixels.
    device
        Where to predict.

    Raises
    ------
    InputError
        If the weights do not fit the settings or the dataset.
    """
    folds = fold_folders(folder).values()
    references = [fold for fold in folds if not (fold / DESCRIPTION_FILE).is_file()]
    # Read once for all of them, and only where one needs it.
    about = describe_data(dataset) if references else None
    features = dataset.all_features if references and dataset.paths.features.is_file() else None
    return [
        CropModel.load(fold, device)
        if about is None or fold not in references
        else CropModel.load_reference(
            fold,
            device,
            about=about,
            features=features,
            n_pixels=settings.train.pixels,
            pooling=settings.model.pooling,
            T=settings.model.T,
            positions=settings.model.positions,
        )
        for fold in folds
    ]
