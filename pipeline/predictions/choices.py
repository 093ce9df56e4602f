"""The classes that the models choose for every parcel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_integer_dtype

from pipeline.dataset.metadata import LandClass

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

    classes: list[LandClass]
    chosen: NDArray[np.int16]
    confidence: NDArray[np.float64]
    source: NDArray[np.int8]

    @classmethod
    def empty(cls, n: int, classes: list[LandClass]) -> Choices:
        """Make room for those of n parcels, none of which is predicted yet."""
        return cls(classes, np.zeros((n, 2), np.int16), np.zeros((n, 2)), np.full(n, NONE, np.int8))

    def put(self, start: int, scores: Scores, source: NDArray[np.int8]) -> None:
        """Choose the classes of the parcels from `start` on, by their scores (n, K)."""
        part = slice(start, start + len(scores))
        self.chosen[part], self.confidence[part] = choose(scores)
        self.source[part] = source

    @property
    def predicted(self) -> list[LandClass]:
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
