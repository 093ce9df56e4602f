"""The season of a model: its day 0 in the year of a dataset, and the dates that it knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from geo.errors import InputError, first_five
from models.model_description import ModelDescription

# A date is known to a model if a date of its training is at most this many days away in the season.
NEAR_DAYS = 30
# Anniversaries of day 0 to choose from: a training can span more than a year.
_YEARS = 2


@dataclass(frozen=True)
class Season:
    """The dates of a dataset, and those of the training of a model in the same season.

    Attributes
    ----------
    day_0
        Date in the season of the dataset from which days are counted for the model.
    dates
        Dates of the dataset.
    trained
        Dates of the training, moved to the season of the dataset; None if they are not known.
    """

    day_0: date
    dates: Sequence[date]
    trained: Sequence[date] | None

    @property
    def unknown(self) -> list[date]:
        """Dates of the dataset that are far from all dates of the training."""
        return [] if self.trained is None else _far(self.dates, self.trained)

    @property
    def missing(self) -> list[date]:
        """Dates of the training, in the season of the dataset, that are far from all its dates."""
        return [] if self.trained is None else _far(self.trained, self.dates)

    def refuse(self, setting: str = "predict.weights") -> None:
        """Refuse a dataset if most of its dates are not known to the model; see `explain`."""
        if 2 * len(self.unknown) > len(self.dates):
            raise InputError(
                f"{self.explain(setting)} Use imagery of the season of the training "
                "(imagery.start, imagery.end), or weights that were trained on this season."
            )

    def explain(self, setting: str = "predict.weights") -> str:
        """Say which dates are not known, and which are missing; "" if none.

        Parameters
        ----------
        setting
            Setting of the weights, with which the text begins.
        """
        if not (self.trained and (self.unknown or self.missing)):
            return ""
        text = (
            f"{setting}: in the season of the imagery, the training had {len(self.trained)} "
            f"dates from {self.trained[0]} to {self.trained[-1]}."
        )
        if self.unknown:
            text += (
                f" {len(self.unknown)} of the {len(self.dates)} dates of the imagery are more than "
                f"{NEAR_DAYS} days from all of these: {first_five(self.unknown)}."
            )
        if self.missing:
            text += (
                f" {len(self.missing)} dates of the training are more than {NEAR_DAYS} days from "
                f"all dates of the imagery: {first_five(self.missing)}."
            )
        return text


def season_of(model: ModelDescription, dates: Sequence[date]) -> Season:
    """Place day 0 of a model, and the dates of its training, in the season of a dataset.

    Day 0 is the anniversary at which the model knows most of the dates; among equals, the one
    nearest to the first date.

    Parameters
    ----------
    model
        Description of the model.
    dates
        Dates of the dataset, in order of time.
    """
    first = date.fromisoformat(model.first_date)
    nearest = nearest_anniversary(first, dates[0])
    if not model.dates:
        return Season(nearest, dates, None)
    days = [date.fromisoformat(day) - first for day in model.dates]
    choices = [
        Season(day_0, dates, [day_0 + day for day in days])
        for year in range(-_YEARS, _YEARS + 1)
        for day_0 in [in_year(first, nearest.year + year)]
    ]
    return min(choices, key=lambda s: (len(s.unknown), abs(s.day_0 - dates[0])))


def nearest_anniversary(day: date, target: date) -> date:
    """Return the anniversary of `day` nearest to `target`.

    It is day 0 of a model that is applied to another season than that of its training.
    """
    years = range(target.year - 1, target.year + 2)
    return min((in_year(day, y) for y in years), key=lambda anniversary: abs(anniversary - target))


def moved_dates(dates: Mapping[int, Iterable[date]]) -> list[date]:
    """Move dates back by some years, {years: dates}; return them in order, each once."""
    return sorted({in_year(day, day.year - n) for n, own in dates.items() for day in own})


def in_year(day: date, year: int) -> date:
    """Return the anniversary of a day in a year."""
    # 29 February exists in leap years only; 28 February replaces it in the others.
    leap_day = (day.month, day.day) == (2, 29) and year != day.year
    return day.replace(year=year, day=28 if leap_day else day.day)


def _far(dates: Iterable[date], others: Sequence[date]) -> list[date]:
    """Return the dates that are more than NEAR_DAYS from all others."""
    near = timedelta(NEAR_DAYS)
    return [day for day in dates if all(abs(day - other) > near for other in others)]
