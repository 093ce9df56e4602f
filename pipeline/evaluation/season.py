"""The season: classes by the last date available, their scores, and when they no longer change."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.crop_model import CropModel, ensemble
from models.metrics import confusion_matrix, overall_metrics
from models.pixel_sets import PixelSets
from pipeline.classes.crop_class import CropClass
from pipeline.dataset.model_inputs import in_order
from pipeline.dataset.pixel_set_dataset import Fold, PixelSetDataset
from pipeline.evaluation.scores import Matrix, score_classes
from pipeline.workflow.paths import INGESTED
from pipeline.workflow.progress import ProgressLog

# Longer series are cut off at this many of their dates.
MOST_DATES = 40
# Parcels whose log-probabilities by date are in memory: 32 MB a model of 40 dates and 20 classes.
PREDICTED_TOGETHER = 10_000
# Shares of the parcels for which the summary says from which date on their class is known.
SHARES = (0.5, 0.8, 0.95)
# The accuracy is near that of the whole season if it is at most this much lower.
NEAR = 0.02
# In place of a class index: the parcel has not been observed yet.
NO_CLASS = -1


def last_dates(dates: Sequence[date], most: int = MOST_DATES) -> list[date]:
    """Return the dates after which series are cut off: all dates, or about evenly spaced ones.

    Parameters
    ----------
    dates
        Dates of the dataset, in order of time. The last one is always returned.
    most
        Largest number of dates to return.
    """
    if len(dates) <= most:
        return list(dates)
    step = (dates[-1] - dates[0]) / (most - 1)
    targets = [dates[0] + k * step for k in range(most - 1)]
    places = np.searchsorted(np.array(dates, "datetime64[D]"), np.array(targets, "datetime64[D]"))
    return [dates[place] for place in np.unique([*places.tolist(), len(dates) - 1])]


def classes_until(
    data: PixelSets,
    folds: Sequence[Fold],
    trained: Sequence[CropModel],
    days: NDArray[np.int64],
    batch_size: int,
) -> NDArray[np.int16]:
    """Choose the class of every parcel from its dates up to each of some days.

    As in the stage predict, a parcel that took part in training is predicted by the one model that
    was not trained on it, and any other parcel by the mean log-probability of all models.

    Parameters
    ----------
    data
        All parcels, N.
    folds, trained
        The folds, and the model of each, trained with random ends.
    days
        int64 (E,), counted as in `data.days`.
    batch_size
        Parcels in a batch.

    Returns
    -------
    NDArray
        int16 (N, E), class indices; NO_CLASS where a parcel is not observed up to the day.
    """
    fold_of = np.full(len(data), -1, np.int64)
    for number, fold in enumerate(folds):
        fold_of[fold.test] = number
    chosen = np.full((len(data), len(days)), NO_CLASS, np.int16)
    progress = ProgressLog("predicted", len(data), "parcels")
    for start, part in in_order(data):
        own = fold_of[start : start + len(part)]
        for number in np.unique(own):
            of_number = np.flatnonzero(own == number)
            models = trained if number < 0 else [trained[number]]
            for first in range(0, len(of_number), PREDICTED_TOGETHER):
                which = of_number[first : first + PREDICTED_TOGETHER]
                scores = ensemble(
                    [
                        model.log_probabilities_until(part, which, days, batch_size)
                        for model in models
                    ]
                )
                seen = ~np.isnan(scores[:, :, 0])
                chosen[start + which] = np.where(seen, scores.argmax(axis=2), NO_CLASS)
        progress.add(len(part))
    return chosen


def first_to_stay(chosen: NDArray[np.int16]) -> NDArray[np.int64]:
    """Find from which day on the class of each parcel stays to the last day.

    Parameters
    ----------
    chosen
        int16 (N, E), as `classes_until` returns them.

    Returns
    -------
    NDArray
        int64 (N,), positions among the E days; -1 for a parcel without any class.
    """
    last = chosen[:, -1:]
    stays = np.logical_and.accumulate((chosen == last)[:, ::-1], axis=1)[:, ::-1]
    first: NDArray[np.int64] = np.where(last[:, 0] == NO_CLASS, -1, stays.argmax(axis=1))
    return first


def score_dates(
    chosen: NDArray[np.int16],
    labels: NDArray[np.int64],
    classes: Sequence[CropClass],
    dates: Sequence[date],
) -> pd.DataFrame:
    """Score the classes of the labelled parcels on every date, over all classes and for each.

    Parameters
    ----------
    chosen
        int16 (N, E), as `classes_until` returns them.
    labels
        int64 (N,), class indices; -1 for no label.
    classes
        Classes in order of the class index.
    dates
        The E dates.

    Returns
    -------
    DataFrame
        date: the last date that is used. code, name: of the class; code is missing in the rows of
        all classes. n_parcels: parcels that are declared as it. n_predicted: those of them that
        have been observed; only these are scored. accuracy: only of all classes. precision, recall,
        f1: of all classes, their macro averages, each class that occurs with the same weight.
        Scores are NaN where nothing is declared or predicted.
    """
    labelled = labels >= 0
    truth, guesses = labels[labelled], chosen[labelled]
    n_declared = np.bincount(truth, minlength=len(classes)).tolist()
    rows: list[dict[str, Any]] = []
    for day, guess in zip(dates, guesses.T, strict=True):
        seen = guess != NO_CLASS
        matrix = confusion_matrix(truth[seen], guess[seen], len(classes))
        everything = {"date": day, "code": None, "name": "all classes", "n_parcels": len(truth)}
        rows.append(everything | _overall(matrix))
        for line, n, occurs in zip(
            score_classes(classes, matrix), n_declared, _occurs(matrix), strict=True
        ):
            row = {"date": day, "code": str(line["code"]), "name": line["name"], "n_parcels": n}
            scores = {key: line[key] if occurs else np.nan for key in ("precision", "recall", "f1")}
            rows.append(row | {"n_predicted": line["support"], "accuracy": np.nan} | scores)
    table = pd.DataFrame(rows)
    return table.assign(date=table["date"].astype("datetime64[s]"))


def _overall(matrix: Matrix) -> dict[str, float]:
    """Return the scores over all classes; NaN without parcels."""
    total, found = int(matrix.sum()), overall_metrics(matrix)
    keys = {"accuracy": "Accuracy", "precision": "MACRO_Precision", "recall": "MACRO_Recall"}
    keys["f1"] = "MACRO_F1-score"
    scores = {name: found[key] if total else np.nan for name, key in keys.items()}
    return {"n_predicted": total, **scores}


def _occurs(matrix: Matrix) -> list[bool]:
    occurs: list[bool] = ((matrix.sum(axis=0) + matrix.sum(axis=1)) > 0).tolist()
    return occurs


def list_parcels(
    dataset: PixelSetDataset,
    chosen: NDArray[np.int16],
    first: NDArray[np.int64],
    classes: Sequence[CropClass],
    dates: Sequence[date],
) -> pd.DataFrame:
    """List the parcels of the dataset: their class, and the date from which on it stays.

    Parameters
    ----------
    dataset
        The dataset of N parcels.
    chosen, first
        int16 (N, E) and int64 (N,), as `classes_until` and `first_to_stay` return them.
    classes
        Classes in order of the class index.
    dates
        The E dates.

    Returns
    -------
    DataFrame
        parcel_id. declared_code, declared_name: as text, missing where none is declared. pred_code,
        pred_name: the class at the end. predicted_from: the first date with a prediction.
        stays_from: the first date from which the class stays to the end. right_from: the same where
        this class is the declared one, else missing.
    """
    codes = [None if code is None else str(code) for code in dataset.codes]
    declared = pd.Series(codes, dtype="str")
    last = chosen[:, -1].astype(np.int64)
    seen = chosen != NO_CLASS
    begins = np.where(seen.any(axis=1), seen.argmax(axis=1), -1)
    return pd.DataFrame(
        {
            "parcel_id": pd.Series(dataset.ids, dtype="str"),
            "declared_code": declared,
            "declared_name": declared.map(dataset.names).astype("str"),
            "pred_code": _take([str(crop.code) for crop in classes], last),
            "pred_name": _take([crop.name for crop in classes], last),
            "predicted_from": _take(dates, begins),
            "stays_from": _take(dates, first),
            "right_from": _take(dates, np.where(last == dataset.labels, first, -1)),
        }
    )


def _take(values: Sequence[Any], places: NDArray[np.int64]) -> pd.Series[Any]:
    """Return the values at some places as text or days; missing where a place is -1."""
    is_day = isinstance(values[0], date)
    taken = pd.Series(values, dtype="datetime64[s]" if is_day else "str").take(
        np.maximum(places, 0)
    )
    return taken.reset_index(drop=True).where(places >= 0)


def summarise(
    accuracy: pd.DataFrame,
    first: NDArray[np.int64],
    right: NDArray[np.bool_],
    labels: NDArray[np.int64],
    dates: Sequence[date],
) -> dict[str, Any]:
    """Summarise the season, as JSON values.

    Parameters
    ----------
    accuracy
        As `score_dates` returns it.
    first
        int64 (N,), as `first_to_stay` returns it.
    right
        bool (N,), whether the class at the end is the declared one.
    labels
        int64 (N,), class indices; -1 for no label.
    dates
        The E dates.

    Returns
    -------
    dict
        dates. n_parcels, n_labelled, n_predicted: parcels, those that are scored, and those that
        are observed at all. accuracy, macro_f1: at the last date. near_from: the first date from
        which on the accuracy stays within NEAR of that. settled: by date, the share of the
        predicted parcels whose class no longer changes. stays_from: by share of the predicted
        parcels, the first date from which on so many keep their class. right_from: by share of the
        labelled parcels, the first date from which on so many keep the declared class. null: not
        reached, or not defined.
    """
    overall = accuracy[accuracy["code"].isna()]
    last = overall.iloc[-1]
    labelled = labels >= 0
    settled = _shares(first[first >= 0], len(dates), int((first >= 0).sum()))
    right_by = _shares(first[right], len(dates), int(labelled.sum()))
    # Comparisons with NaN are False: a date without scored parcels is not near.
    is_near = (overall["accuracy"] >= last["accuracy"] - NEAR).to_numpy()
    return {
        "dates": [day.isoformat() for day in dates],
        "n_parcels": len(first),
        "n_labelled": int(labelled.sum()),
        "n_predicted": int((first >= 0).sum()),
        "accuracy": None if pd.isna(last["accuracy"]) else float(last["accuracy"]),
        "macro_f1": None if pd.isna(last["f1"]) else float(last["f1"]),
        "near_from": _first_day(np.logical_and.accumulate(is_near[::-1])[::-1], dates),
        "settled": settled.tolist(),
        "stays_from": {f"{s:g}": _first_day(settled >= s, dates) for s in SHARES},
        "right_from": {f"{s:g}": _first_day(right_by >= s, dates) for s in SHARES},
    }


def _shares(first: NDArray[np.int64], n_dates: int, n: int) -> NDArray[np.float64]:
    """Return by date the share of n parcels whose first date has come, float64 (n_dates,)."""
    shares: NDArray[np.float64] = np.cumsum(np.bincount(first, minlength=n_dates)) / max(n, 1)
    return shares


def _first_day(holds: NDArray[np.bool_], dates: Sequence[date]) -> str | None:
    return dates[int(holds.argmax())].isoformat() if holds.any() else None


def clear_is_known(dataset: PixelSetDataset) -> bool:
    """Return whether the dataset says which observations are clear.

    An existing dataset without VALID does not. If its cloudy observations were interpolated, values
    of early dates were computed from later ones.
    """
    if INGESTED not in dataset.tiles or dataset.masks_clouds:
        return True
    return bool((dataset.n_dates < dataset.lengths).any())


def days_of(dates: Sequence[date], day_0: date) -> NDArray[np.int64]:
    """Return dates as days since day 0, int64 (E,)."""
    return np.array([(day - day_0) // timedelta(1) for day in dates], np.int64)
