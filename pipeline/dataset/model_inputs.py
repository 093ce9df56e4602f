"""The dataset as models take it: what it is, and its pixels with their features and day 0."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from geo.errors import InputError
from models.crop_model import CropModel
from models.model_description import DataDescription, check_alike
from models.pixel_sets import PixelSets
from models.standardisation import Normalisation
from pipeline.classes.crop_class import CropClass
from pipeline.dataset.normalisation_pickle import read_normalisation
from pipeline.dataset.pixel_set_dataset import PixelSetDataset, day_zero


def describe_data(
    dataset: PixelSetDataset, season_start: str | date | None = None
) -> DataDescription:
    """Read what a model must know of the dataset that it is trained on.

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
        class_codes=[land.code for land in classes],
        class_names=[land.name for land in classes],
        first_date=day_zero(dataset.dates[0], season_start),
        normalisation=Normalisation(*read_normalisation(dataset.paths.normalisation)),
    )


def read_inputs(
    dataset: PixelSetDataset, models: Sequence[CropModel], classes: Sequence[CropClass]
) -> PixelSets:
    """Read the dataset as these models take it: features if they use any, days as theirs.

    Parameters
    ----------
    dataset
        The dataset.
    models
        All are applied to it.
    classes
        The classes that the models are to predict, in order of the class index.

    Raises
    ------
    InputError
        If the models are not of one training, or were trained with other bands, classes, features
        or dates than the dataset has.
    """
    check_alike({model.name: model.description for model in models})
    expected = models[0].description
    bands, codes = dataset.bands, [land.code for land in classes]
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
        season_start=nearest_anniversary(date.fromisoformat(expected.first_date), dataset.dates[0]),
    )
    for model in models:
        model.check_fits(data)
    return data


def nearest_anniversary(day: date, target: date) -> date:
    """Return the anniversary of `day` nearest to `target`: day 0 of a model in another season."""
    years = range(target.year - 1, target.year + 2)
    # 29 February has anniversaries in leap years only; the day before stands for it.
    leap = (day.month, day.day) == (2, 29)
    days = [day.replace(year=y, day=28) if leap and y != day.year else day.replace(year=y)
            for y in years]  # fmt: skip
    return min(days, key=lambda d: abs(d - target))
