"""The dataset as the models take it: its description, its inputs, and batches in file order."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

from geo.errors import InputError
from models.checkpoints import load_state_dict
from models.crop_model import CropModel
from models.hyperparameters import Hyperparameters
from models.model_description import DataDescription, check_alike
from models.model_files import DESCRIPTION_FILE, WEIGHTS_FILE, fold_folders
from models.pixel_sets import PixelSets
from models.standardisation import Normalisation
from pipeline.classes.crop_class import CropClass
from pipeline.dataset.normalisation_pickle import read_normalisation
from pipeline.dataset.packed_tiles import batches, unmap
from pipeline.dataset.pixel_set_dataset import Fold, PixelSetDataset, day_zero
from pipeline.dataset.season import season_of
from pipeline.workflow.artefacts import artefact
from pipeline.workflow.settings import ExplainSettings, PredictSettings, TrainSettings
from pipeline.workflow.starting_weights import fold_to_start_from, refuse_other_model

logger = logging.getLogger(__name__)

# Pixels of the parcels that are predicted together.
BATCH_BYTES = 1_000_000_000


def describe_data(
    dataset: PixelSetDataset, season_start: str | date | None = None
) -> DataDescription:
    """Read the description of the dataset that is saved with a model.

    Parameters
    ----------
    dataset
        The dataset.
    season_start
        Day 0, as `day_zero` takes it.
    """
    classes = dataset.classes
    return DataDescription(
        bands=dataset.bands,
        class_codes=[crop.code for crop in classes],
        class_names=[crop.name for crop in classes],
        first_date=day_zero(dataset.dates[0], season_start),
        normalisation=Normalisation(*read_normalisation(dataset.paths.normalisation)),
        dates=dataset.season_dates,
    )


def load_trained(models: Path, n_folds: int, device: torch.device) -> list[CropModel]:
    """Load the models that the stage train wrote into Fold_1, Fold_2, ..."""
    loaded = []
    for folder in (models / f"Fold_{k}" for k in range(1, n_folds + 1)):
        with artefact(folder / DESCRIPTION_FILE, "the description of a model"):
            loaded.append(CropModel.load(folder, device))
    return loaded


def load_existing(
    folder: Path,
    dataset: PixelSetDataset,
    settings: PredictSettings | ExplainSettings,
    device: torch.device,
) -> list[CropModel]:
    """Load existing weights of all folds, of this project or of the reference implementation.

    A model of this project has a description beside its weights; the reference stores the weights
    only. For the latter, the hyperparameters that do not follow from the shapes of the weights are
    read from the settings. Everything else is as in the reference's inference: normalisation of the
    dataset, features standardised over all parcels, days since the first date, classes of the
    settings.

    Parameters
    ----------
    folder
        Folder of Fold_1, Fold_2, ...
    dataset
        Dataset of the parcels to predict.
    settings
        model and train.pixels.
    device
        Device of the models.

    Raises
    ------
    InputError
        If the weights do not fit the settings or the dataset.
    """
    folds = fold_folders(folder).values()
    references = [fold for fold in folds if not (fold / DESCRIPTION_FILE).is_file()]
    # Read once for all folds, and only if there is a fold of the reference.
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


def load_start(
    folder: Path, dataset: PixelSetDataset, fold: Fold, number: int, settings: TrainSettings
) -> CropModel:
    """Load the model that the training of a fold starts from, on the CPU.

    Parameters
    ----------
    folder
        Folder of Fold_<k>, ours or the reference's.
    dataset
        Dataset to train on.
    fold, number
        The fold to train, and its number from 1.
    settings
        model and train. For weights of the reference, which state neither bands nor classes, the
        bands are those of the dataset, and no class is taken over.

    Raises
    ------
    InputError
        If the weights do not fit the settings or the bands of the dataset.
    """
    source = fold_to_start_from(fold_folders(folder), number)
    device = torch.device("cpu")
    if (source / DESCRIPTION_FILE).is_file():
        model = CropModel.load(source, device)
    else:
        model = _load_reference(source, dataset, fold, settings)
    about = model.description
    if about.bands != dataset.bands:
        raise InputError(
            f"train.from: the model of {source} was trained on the bands {', '.join(about.bands)}, "
            f"the dataset has {', '.join(dataset.bands)}. Prepare it with the model's bands, in "
            "their order, or use other weights."
        )
    refuse_other_model(source, about, settings.model, settings.train)
    return model


def describe_start(start: CropModel, dataset: PixelSetDataset) -> DataDescription:
    """Describe a dataset as the training that starts from a model takes it.

    The normalisation is that of the model, because its weights were trained with it. Day 0 is the
    model's, in the season of the dataset.
    """
    season = season_of(start.description, dataset.season_dates)
    if text := season.explain("train.from"):
        logger.warning("%s", text)
    about = describe_data(dataset, season.day_0)
    return replace(about, normalisation=start.description.normalisation)


def _load_reference(
    source: Path, dataset: PixelSetDataset, fold: Fold, settings: TrainSettings
) -> CropModel:
    """Load weights of the reference, whose classes are not known."""
    about = describe_data(dataset, settings.model.season_start)
    weights = load_state_dict(source / WEIGHTS_FILE)
    h = Hyperparameters.of_weights(
        {name: tuple(weight.shape) for name, weight in weights.items()},
        pooling=settings.model.pooling,
        T=settings.model.T,
        positions=settings.model.positions,
    )
    unknown: list[int | str] = [f"class {i} of {source}" for i in range(h.n_classes)]
    has_features = dataset.paths.features.is_file()
    return CropModel.load_reference(
        source,
        torch.device("cpu"),
        about=replace(about, class_codes=unknown, class_names=list(map(str, unknown))),
        features=dataset.features[fold.train] if has_features else None,
        n_pixels=settings.train.pixels,
        pooling=settings.model.pooling,
        T=settings.model.T,
        positions=settings.model.positions,
    )


def read_inputs(
    dataset: PixelSetDataset,
    models: Sequence[CropModel],
    classes: Sequence[CropClass],
    *,
    only_clear: bool = False,
) -> PixelSets:
    """Read the inputs of models: with features if any model uses them, days since their day 0.

    Parameters
    ----------
    dataset
        The dataset.
    models
        Models of one training, all of which are applied to the dataset.
    classes
        The classes to predict, in order of the class index.
    only_clear
        As in `PixelSetDataset.pixel_sets`.

    Raises
    ------
    InputError
        If the models are from different trainings, or were trained with other bands, classes,
        features or dates than those of the dataset.
    """
    check_alike({model.name: model.description for model in models})
    expected = models[0].description
    bands, codes = dataset.bands, [crop.code for crop in classes]
    if expected.bands != bands:
        raise InputError(
            f"The models were trained with the bands {', '.join(expected.bands)}; the dataset has "
            f"{', '.join(bands)}. Prepare it with the models' bands, in their order."
        )
    if expected.class_codes != codes:
        raise InputError(
            f"{models[0].name} was trained for the classes "
            f"{', '.join(map(str, expected.class_codes))}; the dataset has "
            f"{', '.join(map(str, codes))}. Train again: snakemake -R split."
        )
    data = dataset.pixel_sets(
        with_features=any(model.uses_features for model in models),
        season_start=season_of(expected, dataset.season_dates).day_0,
        only_clear=only_clear,
    )
    for model in models:
        model.check_fits(data)
    return data


def in_order(data: PixelSets, n_bytes: int = BATCH_BYTES) -> Iterator[tuple[int, PixelSets]]:
    """Yield the parcels in batches, in the order of their pixels in the files.

    The pixels of a batch stay mapped until the next one is requested. About `n_bytes`, or one
    parcel, are mapped at a time.

    Yields
    ------
    start, batch
        Position of the first parcel of the batch, and the batch.
    """
    pixel_bytes = max(data.n_dates * data.n_channels * data.pixels.itemsize, 1)
    for first, last in batches(data.offsets, n_bytes // pixel_bytes):
        yield first, data.between(first, last)
        unmap(data.pixels, data.clear)
