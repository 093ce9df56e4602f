"""Read META of a Pixel-Set dataset that was made elsewhere, in every spelling that occurs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from geo.errors import InputError, first_five
from geo.imagery.acquisition import FIRST_YEAR
from pipeline.dataset.metadata import read_object
from pipeline.workflow.paths import DatasetPaths


def read_dates(dataset: DatasetPaths) -> list[date]:
    """Read the dates of the arrays' first axis; keys count from 0 or from 1."""
    values = read_object(dataset.dates)
    wrong = [key for key in values if not key.isdecimal()]
    refuse(wrong, f'{dataset.dates}: expected {{"0": YYYYMMDD, "1": ...}}; other keys')
    if not values:
        raise InputError(f"{dataset.dates} has no dates.")
    numbers = sorted(map(int, values))
    if numbers[0] > 1 or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        missing = sorted(set(range(numbers[0], numbers[-1])) - set(numbers))
        raise InputError(
            f"{dataset.dates}: its keys must count from 0 or from 1, as they are places on the "
            f"first axis of the arrays. Found {numbers[0]} to {numbers[-1]}"
            + (f", without {first_five(missing)}" if missing else "")
            + ". Correct them."
        )
    dates = [_parse_date(values[key], dataset.dates) for key in sorted(values, key=int)]
    if twice := _repeated(dates):
        raise InputError(
            f"{dataset.dates} contains {twice} more than once. Merge the arrays of such a date, or "
            "remove all but one; correct a wrong date."
        )
    return dates


def read_parcel_dates(dataset: DatasetPaths) -> dict[str, list[date]]:
    """Read the parcels' own dates of their arrays' first axis; {} where there are none."""
    values = _read_values(
        dataset.parcel_dates, lambda own: isinstance(own, list), "{id: [YYYYMMDD, ...]}"
    )
    dates = {i: [_parse_date(v, dataset.parcel_dates) for v in own] for i, own in values.items()}
    repeated = [f"{i} ({twice})" for i, own in dates.items() if (twice := _repeated(own))]
    refuse(repeated, f"{dataset.parcel_dates}: parcels that have a date more than once")
    return dates


def _repeated(dates: Sequence[date]) -> str:
    """Return the dates that occur more than once as text; "" if there are none."""
    if len(set(dates)) == len(dates):
        return ""
    return first_five(day for day, n in Counter(dates).items() if n > 1)


def _parse_date(value: object, path: Path) -> date:
    """Parse 20180501, "20180501", "2018-05-01" or an ISO date with a time."""
    try:
        if "W" in str(value):  # 2018-W12, which is a week
            raise ValueError
        day = datetime.fromisoformat(str(value)).date()
    except ValueError:
        raise InputError(
            f"{path}: {value!r} is not a date. Write YYYYMMDD or YYYY-MM-DD."
        ) from None
    # A day ahead, for other time zones.
    if not date(FIRST_YEAR, 1, 1) <= day <= date.today() + timedelta(days=1):
        raise InputError(
            f"{path}: {value!r} is not the date of an image: expected {FIRST_YEAR} to today. "
            "Correct it."
        )
    return day


def read_declared(dataset: DatasetPaths) -> dict[str, dict[str, Any]]:
    """Read labels.json, {nomenclature: {id: code, or None}}; {} where there is none."""
    labels = _read_values(
        dataset.labels, lambda codes: isinstance(codes, dict), "{nomenclature: {id: code}}"
    )
    for name, codes in labels.items():
        refuse(
            [i for i, code in codes.items() if not isinstance(code, int | float | str | None)],
            f"{dataset.labels}: codes in {name!r} that are neither numbers nor text",
        )
    # pandas and json write NaN for a code that is missing.
    return {
        name: {i: None if code != code else code for i, code in codes.items()}
        for name, codes in labels.items()
    }


def read_n_dates(dataset: DatasetPaths) -> dict[str, int]:
    """Read on how many dates each parcel is clear, {id: number}; {} where it is not stated."""
    return _read_values(
        dataset.n_dates, lambda n: type(n) is int and n >= 0, "{id: number of dates}"
    )


def read_names(dataset: DatasetPaths) -> dict[str, str]:
    """Read the names of classes, {code as text: name}; {} where there are none."""
    return _read_values(dataset.names, lambda name: isinstance(name, str), "{code: name}")


def read_positions(dataset: DatasetPaths) -> dict[str, list[float]]:
    """Read the positions of parcels, {id: [x, y]} in metres; {} where there are none."""
    return _read_values(dataset.positions, _is_position, "{id: [x, y]}")


def _is_position(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(v, int | float) and math.isfinite(v) for v in value)
    )


def read_description(dataset: DatasetPaths) -> dict[str, Any]:
    """Read dataset.json, completed by what is not stated; the bands may be absent."""
    unstated = dict.fromkeys(("tiles", "crs", "fill", "mask"), None)
    described = {
        **unstated,
        **{"tiles": {}, "simulated": False},
        **read_object(dataset.description, optional=True),
    }
    for key, is_right, expected in (
        ("bands", _are_names, "a list of names"),
        ("fill", lambda fill: fill in (None, "none", "linear"), "linear, none or null"),
        ("simulated", lambda value: isinstance(value, bool), "true or false"),
        ("tiles", lambda tiles: isinstance(tiles, dict), "{name: CRS}"),
    ):
        if not is_right(value := described.get(key)):
            raise InputError(
                f"{dataset.description}: {key} is {value!r}, expected {expected}. Correct it."
            )
    return described


def _are_names(bands: Any) -> bool:
    return bands is None or (
        isinstance(bands, list) and all(isinstance(band, str) for band in bands)
    )


def _read_values(path: Path, is_right: Callable[[Any], bool], expected: str) -> dict[str, Any]:
    """Read an optional JSON object; refuse other values than expected."""
    values = read_object(path, optional=True)
    wrong = [key for key, value in values.items() if not is_right(value)]
    refuse(wrong, f"{path}: expected {expected}; other values")
    return values


def check_features(dataset: DatasetPaths) -> None:
    """Check that the geometric features, if there are any, are finite numbers."""
    features = read_object(dataset.features, optional=True)
    try:
        values = np.array(list(features.values()), np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"{dataset.features}: expected {{id: [number, ...]}}, as many numbers for each parcel."
        ) from None
    # The first axis is the parcel. The second one is absent if every parcel has a single number.
    wrong_rows = np.unique(np.argwhere(~np.isfinite(values))[:, :1])
    if wrong := [list(features)[row] for row in wrong_rows[:5]]:
        raise InputError(
            f"{dataset.features}: the features of {len(wrong_rows)} parcels are not finite, such "
            f"as those of {', '.join(wrong)}. Compute them again, or remove the file and set "
            "model.geometric_features to false."
        )


def refuse(items: Sequence[str], message: str) -> None:
    """Raise an error with the message, the number of items and the first five, if any."""
    if items:
        raise InputError(f"{message}: {len(items)}, such as {', '.join(items[:5])}.")
