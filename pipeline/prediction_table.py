"""The table of predictions: one row an input parcel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_integer_dtype

from pipeline.paths import DatasetPaths
from pipeline.pixel_set_store import (
    LandClass,
    read_codes,
    read_description,
    read_n_dates,
)
from pipeline.writing import replacing

Scores = NDArray[np.float32]
SIMULATED = "SIMULATED imagery and parcels."


def describe(
    ids: list[str], scores: Scores, source: NDArray[np.str_], classes: list[LandClass]
) -> pd.DataFrame:
    """Name the first and the second choice of every parcel.

    The mean of log-probabilities is normalised anew, so that confidences are probabilities.
    """
    probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
    columns: dict[str, Any] = {"parcel_id": ids}
    for rank, suffix in enumerate(("", "2")):
        chosen = order[:, rank]
        columns[f"pred{suffix}_code"] = [classes[i].code for i in chosen]
        columns[f"pred{suffix}_name"] = [classes[i].name for i in chosen]
        confidence = probabilities[np.arange(len(ids)), chosen]
        columns[f"confidence{suffix}"] = np.round(confidence.astype(np.float64), 4)
    columns["pred_source"] = source
    table = pd.DataFrame(columns)
    return table[table["pred_source"] != ""]


# What stands before the register's own columns.
COLUMNS = [
    *("parcel_id", "status", "declared_code", "declared_name", "pred_code", "pred_name"),
    *("confidence", "pred2_code", "pred2_name", "confidence2", "n_pixels", "n_dates"),
    *("pred_source", "reason"),
]


def every_row(ledger: Path, predicted: pd.DataFrame, dataset: DatasetPaths) -> pd.DataFrame:
    """Join the predictions to the ledger: one row an input parcel, in the register's order."""
    rows = pd.read_csv(ledger, dtype=str, keep_default_na=False)
    # An id can stand in the register twice; the prediction is that of the accepted row.
    rows["key"] = rows["parcel_id"].where(rows["status"] != "rejected")
    rows["n_pixels"] = pd.to_numeric(rows["n_pixels"]).astype("Int64")
    rows["n_dates"] = rows["key"].map(read_n_dates(dataset)).astype("Int64")
    rows.loc[rows["n_dates"] == 0, ["status", "reason"]] = ["rejected", "never_seen_clearly"]
    rows["declared_code"] = rows["code"].replace("", None)
    rows["declared_name"] = rows["code"].map(read_description(dataset)["names"])
    joined = rows.merge(predicted.rename(columns={"parcel_id": "key"}), on="key", how="left")
    joined["pred_source"] = joined["pred_source"].fillna("")
    # A gap makes floats of whole numbers, and the ledger, which is a CSV, has them as text.
    declared = [code for code in read_codes(dataset).values() if code is not None]
    whole = ["declared_code"] if all(isinstance(code, int) for code in declared) else []
    whole += [c for c in ("pred_code", "pred2_code") if is_integer_dtype(predicted[c])]
    for column in whole:
        joined[column] = pd.to_numeric(joined[column]).astype("Int64")
    return pd.DataFrame(joined[COLUMNS])


def add_register(rows: pd.DataFrame, register: Path, layer: str | None) -> Any:
    """Give the rows the register's own columns and outlines: a GeoDataFrame."""
    # GDAL is needed only here: a machine without it can still train and evaluate.
    from geo.register import read_register

    parcels = read_register(register, layer)
    taken = {column.lower() for column in rows.columns}
    renamed = {c: f"register_{c}" for c in parcels.columns if c.lower() in taken | {"fid"}}
    parcels = parcels.rename(columns=renamed)
    own = parcels.drop(columns=parcels.geometry.name)
    return parcels[[parcels.geometry.name]].join(pd.concat([rows, own], axis=1))


def write_geopackage(parcels: Any, path: Path, *, simulated: bool) -> None:
    """Write what `add_register` gives as a layer."""
    from geo.geopackage import write_layer

    with replacing(path) as temporary:
        write_layer(
            parcels,
            temporary,
            name="parcels",
            description=f"{SIMULATED} " * simulated + "Predicted crop class of every parcel.",
        )


def write_tables(rows: pd.DataFrame, path: Path) -> None:
    """Write the rows as CSV and as Parquet, under the name of `path`."""
    with replacing(path.with_suffix(".csv")) as temporary:
        rows.to_csv(temporary, index=False)
    with replacing(path.with_suffix(".parquet")) as temporary:
        rows.to_parquet(temporary, index=False)
