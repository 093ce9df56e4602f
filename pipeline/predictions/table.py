"""The table of predictions: one row an input parcel."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.predictions.choices import Choices

# What stands before the register's own columns.
COLUMNS = [
    *("parcel_id", "status", "declared_code", "declared_name", "pred_code", "pred_name"),
    *("confidence", "pred2_code", "pred2_name", "confidence2", "n_pixels", "n_dates"),
    *("pred_source", "reason"),
]


# The columns of the ledger that are read.
LEDGER_COLUMNS = ["parcel_id", "status", "reason", "n_pixels", "n_dates", "code"]


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
        codes = dataset.codes.values()
        self._whole = all(isinstance(code, int) for code in codes if code is not None)

    def join(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Add what is known of the parcels to rows of the ledger, LEDGER_COLUMNS as text."""
        rows = rows.copy()
        # An id can stand in the register twice; the prediction is that of the accepted row.
        keys = rows["parcel_id"].astype(object).where(rows["status"] != "rejected")
        places = self._ids.get_indexer(pd.Index(keys))
        for column in ("n_pixels", "n_dates"):
            rows[column] = pd.to_numeric(rows[column]).astype("Int64")
        if self._given_weights:
            used = rows["status"] == "used"
            rows.loc[used, ["status", "reason"]] = ["predict_only", "given_weights"]
        rows["declared_name"] = rows["code"].map(self._names).astype("str")
        rows["declared_code"] = rows["code"].where(rows["code"] != "")
        if self._whole:
            # The ledger, which is a CSV, has them as text.
            rows["declared_code"] = pd.to_numeric(rows["declared_code"]).astype("Int64")
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
