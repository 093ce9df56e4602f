"""The columns of the predictions, and the classes chosen for every parcel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pandas.api.types import is_integer_dtype

from geo.register.columns import as_text
from geo.register.geopackage_contents import Field
from pipeline.classes.crop_class import CropClass
from pipeline.classes.reasons import Status

if TYPE_CHECKING:
    from pipeline.dataset.pixel_set_dataset import PixelSetDataset
    from pipeline.evaluation.doubts import Doubts

# Columns of the predictions, before the register's own: {name: title and meaning}. QGIS shows the
# title instead of the name.
FIELDS = {
    "parcel_id": Field("Parcel", "Id of the parcel in the register."),
    "status": Field("Status", "used: trained on and predicted; predict_only; or rejected."),
    "declared_code": Field("Declared code", "Code of the class in the register."),
    "declared_name": Field("Declared class", "Name of the class in the register."),
    "pred_code": Field("Predicted code", "Code of the most probable class."),
    "pred_name": Field("Predicted class", "Name of the most probable class."),
    "confidence": Field("Confidence", "Calibrated probability of the predicted class, 0 to 1."),
    "pred2_code": Field("Second code", "Code of the second most probable class."),
    "pred2_name": Field("Second class", "Name of the second most probable class."),
    "confidence2": Field("Confidence of second", "Probability of the second class, 0 to 1."),
    "prediction_set": Field(
        "Prediction set", "Codes of the classes that cannot be excluded at the error rate set."
    ),
    "set_size": Field("Classes in set", "Number of classes in the prediction set."),
    "declared_probability": Field(
        "Probability of declared", "Calibrated probability of the declared class, 0 to 1."
    ),
    "verdict": Field(
        "Verdict", "On the declared class: CONFORM, DOUBT or CONFLICT; empty if not judged."
    ),
    "doubt_rank": Field("Rank of doubt", "Order in which to check declarations, 1 first."),
    "n_pixels": Field("Pixels", "Number of pixels that are clear on at least one date."),
    "n_dates": Field("Clear dates", "Number of dates with at least one clear pixel."),
    "pred_source": Field(
        "Predicted by", "out_of_fold: a model that was not trained on it; ensemble: all models."
    ),
    "reason": Field("Reason", "Why the parcel is rejected, or not trained on."),
    "margin": Field("Margin", "Confidence minus confidence of the second class, 0 to 1."),
    "fold": Field("Fold", "Fold whose model, not trained on the parcel, predicted it."),
    "tile": Field("Tile", "Tile of the imagery from which the parcel was read."),
    "area_ha": Field("Area (ha)", "Area of the outline on the ellipsoid, hectares."),
}
COLUMNS = list(FIELDS)
# Those that a rejected parcel has not.
PREDICTED = [
    *("status", "pred_code", "pred_name", "confidence", "pred2_code", "pred2_name", "confidence2"),
    *("prediction_set", "set_size", "declared_probability", "verdict", "doubt_rank"),
    *("pred_source", "margin", "fold"),
]

# Columns of the ledger to read; checksum and geometry_type are empty if there is no register.
LEDGER_COLUMNS = [
    *("row", "parcel_id", "status", "reason", "tile", "n_pixels", "n_dates", "code"),
    *("checksum", "geometry_type"),
]

M2_PER_HA = 10_000

# What files of predictions say if the imagery is simulated
SIMULATED = "SIMULATED imagery and parcels."

# Between the codes of a prediction set
SEPARATOR = " | "

# Models that predicted a parcel, and their numbers in `Choices.source`.
SOURCES = ("", "out_of_fold", "ensemble")
NONE, OUT_OF_FOLD, ENSEMBLE = range(len(SOURCES))


@dataclass(frozen=True)
class Choices:
    """First and second choice for N parcels, and their prediction sets: a few bytes each.

    Attributes
    ----------
    classes
        Classes in order of the class index.
    chosen
        int16 (N, 2), class indices.
    confidence
        float64 (N, 2), probabilities, rounded to 4 decimals.
    source
        int8 (N,), position in SOURCES; NONE for parcels without prediction.
    sets
        uint8 (N, ceil(K / 8)): which of the K classes are in the set of a parcel, packed by
        `numpy.packbits`; None without sets.
    """

    classes: list[CropClass]
    chosen: NDArray[np.int16]
    confidence: NDArray[np.float64]
    source: NDArray[np.int8]
    sets: NDArray[np.uint8] | None = None

    @classmethod
    def empty(cls, n: int, classes: list[CropClass], *, with_sets: bool = False) -> Choices:
        """Allocate the choices of n parcels, all without prediction."""
        sets = np.zeros((n, -(-len(classes) // 8)), np.uint8) if with_sets else None
        source = np.full(n, NONE, np.int8)
        return cls(classes, np.zeros((n, 2), np.int16), np.zeros((n, 2)), source, sets)

    def put(
        self,
        start: int,
        probabilities: NDArray[np.float64],
        source: NDArray[np.int8],
        members: NDArray[np.bool_] | None = None,
    ) -> None:
        """Choose the classes of n parcels, from parcel `start` on.

        Parameters
        ----------
        start
            Position of the first parcel.
        probabilities
            float64 (n, K).
        source
            int8 (n,), as in the attribute.
        members
            bool (n, K), which classes are in the sets; None without sets.
        """
        part = slice(start, start + len(probabilities))
        self.chosen[part], self.confidence[part] = choose(probabilities)
        self.source[part] = source
        if self.sets is not None and members is not None:
            self.sets[part] = np.packbits(members, axis=1)

    @property
    def predicted(self) -> list[CropClass]:
        """The classes that are the first choice of any parcel."""
        return [self.classes[i] for i in np.unique(self.chosen[self.source != NONE, 0])]

    def table(self, places: NDArray[np.int64]) -> pd.DataFrame:
        """Make the columns of the prediction, one row per parcel.

        Parameters
        ----------
        places
            int64 (P,), positions among the N parcels; -1 results in a row of missing values, as
            does a parcel without prediction.
        """
        source = np.where(places < 0, NONE, self.source[places])
        rows = np.where(source == NONE, -1, places)
        codes: pd.Series[Any] = pd.Series([crop.code for crop in self.classes])
        # As int64, integers would become floats beside missing values.
        codes = codes.astype("Int64") if is_integer_dtype(codes) else codes
        names = pd.Series([crop.name for crop in self.classes])
        columns: dict[str, Any] = {}
        for rank, suffix in enumerate(("", "2")):
            chosen = np.where(rows < 0, -1, self.chosen[rows, rank])
            columns[f"pred{suffix}_code"] = _take(codes, chosen)
            columns[f"pred{suffix}_name"] = _take(names, chosen)
            columns[f"confidence{suffix}"] = np.where(rows < 0, np.nan, self.confidence[rows, rank])
        columns["margin"] = np.round(columns["confidence"] - columns["confidence2"], 4)
        columns["prediction_set"], columns["set_size"] = self._set_columns(rows)
        columns["pred_source"] = _take(pd.Series(SOURCES), source)
        return pd.DataFrame(columns)

    def _set_columns(self, rows: NDArray[np.int64]) -> tuple[Any, Any]:
        """Return the codes and the sizes of the sets of parcels; missing for position -1.

        The codes are in the order of the classes. A set without a class is an empty text.
        """
        if self.sets is None:
            return pd.array([None] * len(rows), "str"), pd.array([None] * len(rows), "Int64")
        # Few different sets occur, so that each text is made once.
        kinds, kind = np.unique(self.sets[rows], axis=0, return_inverse=True)
        members = np.unpackbits(kinds, axis=1, count=len(self.classes)).astype(bool)
        codes = np.array([str(crop.code) for crop in self.classes], object)
        texts = pd.Series([SEPARATOR.join(codes[own]) for own in members], dtype="str")
        sizes = pd.Series(members.sum(axis=1), dtype="Int64")
        places = np.where(rows < 0, -1, kind.ravel())
        return _take(texts, places), _take(sizes, places)


def choose(
    probabilities: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the first and second choice of parcels, int64 (n, 2), and their rounded probabilities.

    Parameters
    ----------
    probabilities
        float64 (n, K).
    """
    order: NDArray[np.int64] = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
    rounded: NDArray[np.float64] = np.round(np.take_along_axis(probabilities, order, axis=1), 4)
    return order, rounded


def _take(values: pd.Series[Any], places: NDArray[np.integer[Any]]) -> Any:
    """Take values by position; -1 results in a missing value."""
    return pd.api.extensions.take(values.array, places, allow_fill=True)


class PredictionTable:
    """Join the predictions to rows of the ledger.

    Parameters
    ----------
    dataset
        Pixel-Set dataset.
    choices
        Choices for its parcels, in its order.
    judged
        Judgement of the declarations, by parcel id, see `judged_columns`; None for existing
        weights.
    """

    def __init__(
        self, dataset: PixelSetDataset, choices: Choices, judged: pd.DataFrame | None = None
    ) -> None:
        self._choices = choices
        self._judged = judged_columns() if judged is None else judged
        self._ids = pd.Index(dataset.ids, dtype=object)
        self._names = dataset.names

    def join(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Add declared and predicted classes to rows of the ledger, with `area_m2`."""
        rows = rows.copy()
        # The register may repeat an id: the prediction belongs to the accepted row.
        ids = rows["parcel_id"].astype(object).where(rows["status"] != Status.REJECTED)
        places = self._ids.get_indexer(pd.Index(ids))
        is_whole = is_integer_dtype(rows["code"].dtype)
        rows["declared_code"] = rows["code"].astype("Int64" if is_whole else "str")
        names = pd.Series(as_text(rows["code"]), index=rows.index).map(self._names)
        rows["declared_name"] = names.astype("str")
        rows["tile"] = rows["tile"].replace("", None).astype("str")
        rows["area_ha"] = (rows["area_m2"] / M2_PER_HA).round(4)
        chosen = self._choices.table(places).set_axis(rows.index)
        judged = self._judged.reindex(ids).set_axis(rows.index)
        return pd.DataFrame(pd.concat([rows, chosen, judged], axis=1)[COLUMNS])


def judged_columns(
    ids: Sequence[str] = (), doubts: Doubts | None = None, folds: ArrayLike = ()
) -> pd.DataFrame:
    """Make the columns on the declarations and folds of parcels, by parcel id.

    Parameters
    ----------
    ids
        N different ids.
    doubts
        Judgement of their declarations; None if N is 0.
    folds
        int (N,), the fold whose test part has the parcel, from 1.

    Returns
    -------
    Table of declared_probability, float64; verdict; doubt_rank and fold, integers that can be
    missing.
    """
    probability, rank, verdict = (
        ([], [], [])
        if doubts is None
        else (np.round(doubts.probability, 4), doubts.rank, doubts.verdict)
    )
    return pd.DataFrame(
        {
            "declared_probability": pd.Series(probability, dtype="float64"),
            "verdict": pd.Series(verdict, dtype="str"),
            "doubt_rank": pd.Series(rank, dtype="Int64"),
            "fold": pd.Series(folds, dtype="Int64"),
        }
    ).set_axis(pd.Index(ids, dtype=object))


def with_register(rows: pd.DataFrame, parcels: Any) -> Any:
    """Add the register's own columns and outlines to rows of predictions: a GeoDataFrame.

    Columns have the names that `free_names` gives them. Durations, and integers that are larger
    than those of a GeoPackage, become text.

    Parameters
    ----------
    rows
        Rows of `PredictionTable.join`.
    parcels
        The same rows of the register, a GeoDataFrame with the same index.
    """
    own = pd.DataFrame(parcels.drop(columns=parcels.geometry.name))
    for name in own.select_dtypes(["timedelta", "UInt64"]):
        own[name] = own[name].astype(object).map(str, na_action="ignore").astype("string")
    own.columns = list(free_names(own.columns, parcels.geometry.name).values())
    return parcels[[parcels.geometry.name]].join(pd.concat([rows, own], axis=1))


def free_names(
    names: Iterable[str], geometry: str, columns: Iterable[str] = COLUMNS
) -> dict[str, str]:
    """Return the names of the register's columns in the predictions: {name: name there}.

    A column whose name is taken becomes register_<name>: the predictions have it, or an earlier
    column in another case. So does a column without a name.

    Parameters
    ----------
    names
        Names of the columns.
    geometry
        Name of the outlines.
    columns
        Names that are taken: those of the table before the register's columns.
    """
    # GDAL compares names without case. A GeoPackage has feature ids in fid, and outlines in geom.
    taken = {name.lower() for name in columns} | {"", "fid", "geom", geometry.lower()}
    free = {}
    for name in names:
        found, n = name, 1
        while found.lower() in taken:
            found, n = f"register_{name}" + f"_{n}" * (n > 1), n + 1
        taken.add(found.lower())
        free[name] = found
    return free
