"""The dataset as trained models take it: their bands, their features, their day 0."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from models.pixel_sets import PixelSets
from pipeline.paths import DatasetPaths
from pipeline.pixel_set_loading import read_pixel_sets
from pipeline.pixel_set_store import read_dates, read_description
from pipeline.trained import Trained


class ModelInputsError(ValueError):
    """A dataset that models cannot be applied to; the message says how they differ."""


def read_inputs(dataset: DatasetPaths, trained: Sequence[Trained]) -> PixelSets:
    """Read the dataset as these models take it: features if they use any, days as theirs.

    Raises
    ------
    ModelInputsError
        If the dataset has other bands than the models were trained with.
    """
    metadata = trained[0].metadata
    bands = read_description(dataset)["bands"]
    if metadata.bands != bands:
        raise ModelInputsError(
            f"The models were trained with the bands {', '.join(metadata.bands)}; the dataset has "
            f"{', '.join(bands)}. Prepare it with the models' bands, in their order."
        )
    return read_pixel_sets(
        dataset,
        with_features=any(model.metadata.feature_scaling is not None for model in trained),
        season_start=nearest_anniversary(
            date.fromisoformat(metadata.first_date), read_dates(dataset)[0]
        ),
    )


def nearest_anniversary(day: date, target: date) -> date:
    """Give the anniversary of `day` nearest to `target`: day 0 of a model in another season."""
    years = range(target.year - 1, target.year + 2)
    # 29 February has anniversaries in leap years only; the day before stands for it.
    leap = (day.month, day.day) == (2, 29)
    days = [day.replace(year=y, day=28) if leap and y != day.year else day.replace(year=y)
            for y in years]  # fmt: skip
    return min(days, key=lambda d: abs(d - target))
