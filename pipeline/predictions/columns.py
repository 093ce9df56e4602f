"""The columns of the predictions: where each comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_integer_dtype

from geo.register.columns import as_text
from pipeline.classes.crop_class import CropClass
from pipeline.classes.reasons import Reason, Status
from pipeline.dataset.pixel_set_dataset import PixelSetDataset

# What stands before the register's own columns.
COLUMNS = [
    *("parcel_id", "status", "declared_code", "declared_name", "pred_code", "pred_name"),
    *("confidence", "pred2_code", "pred2_name", "confidence2", "n_pixels", "n_dates"),
    *("pred_source", "reason"),
]


# The columns of the ledger that are read; the last two only where there is a register.
LEDGER_COLUMNS = [
    *("parcel_id", "status", "reason", "n_pixels", "n_dates", "code", "checksum", "geometry_type")
]


class PredictionTable:
    """Join the predictions to rows of the ledger.

    Parameters
    ----------
    dataset
        Pixel-Set dataset.
    choices
        Of its parcels, in its order.
    given_weights
        Whether the models are from elsewhere, so that no parcel was used to train them.
    """

    def __init__(self, dataset: PixelSetDataset, choices: Choices, *, given_weights: bool) -> None:
        self._choices = choices
        self._given_weights = given_weights
        self._ids = pd.Index(dataset.ids, dtype=object)
        self._names = dataset.names

    def join(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Add what is known of the parcels to rows of the ledger."""
        rows = rows.copy()
        # An id can stand in the register twice; the prediction is that of the accepted row.
        keys = rows["parcel_id"].astype(object).where(rows["status"] != Status.REJECTED)
        places = self._ids.get_indexer(pd.Index(keys))
        if self._given_weights:
            used = rows["status"] == Status.USED
            rows.loc[used, ["status", "reason"]] = [
                str(Status.PREDICT_ONLY),
                str(Reason.GIVEN_WEIGHTS),
            ]
        is_whole = is_integer_dtype(rows["code"].dtype)
        rows["declared_code"] = rows["code"].astype("Int64" if is_whole else "str")
        names = pd.Series(as_text(rows["code"]), index=rows.index).map(self._names)
        rows["declared_name"] = names.astype("str")
        chosen = self._choices.table(places).set_axis(rows.index)
        return pd.DataFrame(pd.concat([rows, chosen], axis=1)[COLUMNS])


def with_register(rows: pd.DataFrame, parcels: Any) -> Any:
    """Give rows the register's own columns and outlines: a GeoDataFrame.

    Parameters
    ----------
    rows
        As `PredictionTable` gives them.
    parcels
        The same rows of the register, a GeoDataFrame of the same index.
    """
    taken = {column.lower() for column in rows.columns}
    renamed = {c: f"register_{c}" for c in parcels.columns if c.lower() in taken | {"fid"}}
    parcels = parcels.rename(columns=renamed)
    own = parcels.drop(columns=parcels.geometry.name)
    return parcels[[parcels.geometry.name]].join(pd.concat([rows, own], axis=1))


Scores = NDArray[np.float32]
SOURCES = ("", "out_of_fold", "ensemble")
NONE, OUT_OF_FOLD, ENSEMBLE = range(len(SOURCES))


@dataclass(frozen=True)
class Choices:
    """First and second choice of N parcels; a few bytes of each, whatever the number of classes.

    Attributes
    ----------
    classes
        What `chosen` counts.
    chosen
        int16 (N, 2), class indices.
    confidence
        float64 (N, 2), probabilities, rounded to 4 decimals.
    source
        int8 (N,), place in SOURCES: which models predicted the parcel; NONE for no prediction.
    """

    classes: list[CropClass]
    chosen: NDArray[np.int16]
    confidence: NDArray[np.float64]
    source: NDArray[np.int8]

    @classmethod
    def empty(cls, n: int, classes: list[CropClass]) -> Choices:
        """Make room for those of n parcels, none of which is predicted yet."""
        return cls(classes, np.zeros((n, 2), np.int16), np.zeros((n, 2)), np.full(n, NONE, np.int8))

    def put(self, start: int, scores: Scores, source: NDArray[np.int8]) -> None:
        """Choose the classes of the parcels from `start` on, by their scores (n, K)."""
        part = slice(start, start + len(scores))
        self.chosen[part], self.confidence[part] = choose(scores)
        self.source[part] = source

    @property
    def predicted(self) -> list[CropClass]:
        """The classes that are the first choice of any parcel."""
        return [self.classes[i] for i in np.unique(self.chosen[self.source != NONE, 0])]

    def table(self, places: NDArray[np.int64]) -> pd.DataFrame:
        """Name what was chosen for parcels, a row each; for place -1 and without prediction none.

        Parameters
        ----------
        places
            int64 (P,), places among the N parcels.
        """
        source = np.where(places < 0, NONE, self.source[places])
        rows = np.where(source == NONE, -1, places)
        columns: dict[str, Any] = {}
        for rank, suffix in enumerate(("", "2")):
            chosen = np.where(rows < 0, -1, self.chosen[rows, rank])
            codes: pd.Series[Any] = pd.Series([land.code for land in self.classes])
            # Gaps would make floats of whole numbers.
            codes = codes.astype("Int64") if is_integer_dtype(codes) else codes
            names = pd.Series([land.name for land in self.classes])
            columns[f"pred{suffix}_code"] = _take(codes, chosen)
            columns[f"pred{suffix}_name"] = _take(names, chosen)
            columns[f"confidence{suffix}"] = np.where(rows < 0, np.nan, self.confidence[rows, rank])
        columns["pred_source"] = _take(pd.Series(SOURCES), source)
        return pd.DataFrame(columns)


def choose(scores: Scores) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the first and the second choice of parcels, int64 (n, 2), and their probabilities.

    The mean of log-probabilities is normalised anew, so that confidences are probabilities.
    """
    probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    order: NDArray[np.int64] = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
    confidence = np.take_along_axis(probabilities, order, axis=1).astype(np.float64)
    rounded: NDArray[np.float64] = np.round(confidence, 4)
    return order, rounded


def _take(values: pd.Series[Any], places: NDArray[np.integer[Any]]) -> Any:
    """Take values by their places, a missing one for -1."""
    return pd.api.extensions.take(values.array, places, allow_fill=True)
