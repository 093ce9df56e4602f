"""The dataset as trained models take it: their bands, their features, their day 0."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from geo.errors import InputError
from models.model_metadata import check_alike
from models.pixel_sets import PixelSets
from pipeline.dataset.metadata import LandClass
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.evaluation.trained import Trained


def read_inputs(
    dataset: PixelSetDataset, trained: Sequence[Trained], classes: Sequence[LandClass]
) -> PixelSets:
    """Read the dataset as these models take it: features if they use any, days as theirs.

    Parameters
    ----------
    dataset
        The dataset.
    trained
        The models, which are all applied to it.
    classes
        The classes that the models are to predict, in order of the class index.

    Raises
    ------
    ModelError
        If the models are not of one training.
    InputError
        If one was trained with other bands, classes, features or dates than the dataset has.
    """
    check_alike({model.folder: model.metadata for model in trained})
    metadata = trained[0].metadata
    bands, codes = dataset.bands, [str(land.code) for land in classes]
    if metadata.bands != bands:
        raise InputError(
            f"The models were trained with the bands {', '.join(metadata.bands)}; the dataset has "
            f"{', '.join(bands)}. Prepare it with the models' bands, in their order."
        )
    if metadata.class_codes != codes:
        raise InputError(
            f"{trained[0].folder} was trained for the classes {', '.join(metadata.class_codes)}; "
            f"the dataset has {', '.join(codes)}. Train again: snakemake -R split."
        )
    data = dataset.pixel_sets(
        with_features=any(model.metadata.feature_scaling is not None for model in trained),
        season_start=nearest_anniversary(date.fromisoformat(metadata.first_date), dataset.dates[0]),
    )
    for model in trained:
        _check_fits(model, data)
    return data


def _check_fits(model: Trained, data: PixelSets) -> None:
    """Refuse a model that takes other features or a fixed number of other dates."""
    scaling = model.metadata.feature_scaling
    if scaling is not None and len(scaling.means) != data.n_features:
        raise InputError(
            f"{model.folder} was trained with {len(scaling.means)} geometric features of each "
            f"parcel, the dataset has {data.n_features}."
        )
    try:
        model.metadata.normalisation.check_fits(data.n_dates, data.n_channels)
    except ValueError as error:
        raise InputError(f"{model.folder} does not fit the dataset: {error}.") from None
    n_dates = model.metadata.hyperparameters.n_dates
    if n_dates not in (None, data.n_dates):
        raise InputError(f"{model.folder} takes {n_dates} dates, the dataset has {data.n_dates}.")


def nearest_anniversary(day: date, target: date) -> date:
    """Give the anniversary of `day` nearest to `target`: day 0 of a model in another season."""
    years = range(target.year - 1, target.year + 2)
    # 29 February has anniversaries in leap years only; the day before stands for it.
    leap = (day.month, day.day) == (2, 29)
    days = [day.replace(year=y, day=28) if leap and y != day.year else day.replace(year=y)
            for y in years]  # fmt: skip
    return min(days, key=lambda d: abs(d - target))
