"""The dataset as the models take it: its description, its inputs, and batches in file order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import torch

from geo.errors import InputError
from models.crop_model import CropModel
from models.model_description import DataDescription, check_alike
from models.model_files import DESCRIPTION_FILE
from models.pixel_sets import PixelSets
from models.standardisation import Normalisation
from pipeline.classes.crop_class import CropClass
from pipeline.dataset.normalisation_pickle import read_normalisation
from pipeline.dataset.packed_tiles import batches, unmap
from pipeline.dataset.pixel_set_dataset import PixelSetDataset, day_zero
from pipeline.dataset.season import season_of
from pipeline.workflow.artefacts import artefact

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
        dates=dataset.dates,
    )


def load_trained(models: Path, n_folds: int, device: torch.device) -> list[CropModel]:
    """Load the models that the stage train wrote into Fold_1, Fold_2, ..."""
    loaded = []
    for folder in (models / f"Fold_{k}" for k in range(1, n_folds + 1)):
        with artefact(folder / DESCRIPTION_FILE, "the description of a model"):
            loaded.append(CropModel.load(folder, device))
    return loaded


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
        season_start=season_of(expected, dataset.dates).day_0,
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
