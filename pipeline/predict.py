"""Stage predict: a class for every usable parcel."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.inference import ensemble
from models.pixel_sets import PixelSets
from pipeline.config import Settings
from pipeline.folds import Fold, read_folds
from pipeline.paths import DatasetPaths
from pipeline.pixel_set_store import (
    LandClass,
    read_classes,
    read_description,
    read_n_dates,
    read_pixel_sets,
)
from pipeline.train import choose_device
from pipeline.trained import Trained
from pipeline.writing import replacing

logger = logging.getLogger(__name__)

Scores = NDArray[np.float32]
SIMULATED = "SIMULATED imagery and parcels."


def predict(
    dataset: Path,
    folds: Path,
    models: Path,
    ledger: Path,
    register: Path,
    predictions: Path,
    settings: Settings,
    threads: int = 1,
) -> None:
    """Predict a class for every usable parcel, and write every input parcel.

    A parcel that took part in training is predicted by the one model that never saw it
    (out_of_fold); any other by the mean log-probability of all folds (ensemble).

    Parameters
    ----------
    dataset
        Pixel-Set dataset.
    folds
        What split wrote.
    models
        Folder of Fold_<k>/.
    ledger
        Status of every row of the register.
    register
        The register, for its geometry and its own columns.
    predictions
        Written: GeoPackage in the register's coordinate system; beside it the same rows and
        columns without geometry as .csv and .parquet.
    settings
        train.device, predict.batch_size, parcels.layer.
    threads
        Of torch, where it runs on the CPU.
    """
    device = choose_device(settings.train.device, threads)
    paths = DatasetPaths(dataset)
    data = read_pixel_sets(paths, with_features=True)
    parts = read_folds(folds, data.ids)
    trained = [Trained.load(models / f"Fold_{k}", device) for k in range(1, len(parts) + 1)]
    scores, source = score(data, parts, trained, settings.predict.batch_size)
    seen = np.array([n > 0 for n in read_n_dates(paths).values()], bool)
    source[~seen] = ""
    predicted = describe(data.ids, scores, source, read_classes(paths))
    rows = _every_row(ledger, predicted, paths)
    simulated = read_description(paths)["simulated"]
    _write(rows, register, settings.parcels.layer, predictions, simulated=simulated)
    counts = rows["pred_source"].replace("", "not predicted").value_counts()
    logger.info("%d parcels: %s", len(rows), ", ".join(f"{n} {k}" for k, n in counts.items()))


def score(
    data: PixelSets, folds: list[Fold], trained: list[Trained], batch_size: int
) -> tuple[Scores, NDArray[np.str_]]:
    """Compute the log-probabilities of all parcels, none by a model that saw the parcel.

    Returns
    -------
    scores
        float32 (N, K).
    source
        str (N,): out_of_fold or ensemble.
    """
    source = np.full(len(data.ids), "ensemble", "<U11")
    tested = np.concatenate([fold.test for fold in folds])
    source[tested] = "out_of_fold"
    others = np.flatnonzero(source == "ensemble")
    scores = np.empty((len(data.ids), trained[0].n_classes), np.float32)
    for fold, model in zip(folds, trained, strict=True):
        scores[fold.test] = model.log_probabilities(data, fold.test, batch_size)
    if len(others):
        scores[others] = ensemble([m.log_probabilities(data, others, batch_size) for m in trained])
    return scores, source


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


def _every_row(ledger: Path, predicted: pd.DataFrame, dataset: DatasetPaths) -> pd.DataFrame:
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
    if all(isinstance(land.code, int) for land in read_classes(dataset)):
        for column in ("declared_code", "pred_code", "pred2_code"):
            joined[column] = pd.to_numeric(joined[column]).astype("Int64")
    return pd.DataFrame(joined[COLUMNS])


def _write(
    rows: pd.DataFrame, register: Path, layer: str | None, predictions: Path, *, simulated: bool
) -> None:
    """Write the rows with the register's own columns and geometry, and as tables without."""
    # GDAL is needed only here: a machine without it can still train and evaluate.
    from geo.geopackage import write_layer
    from geo.register import read_register

    parcels = read_register(register, layer)
    taken = {column.lower() for column in rows.columns}
    renamed = {c: f"register_{c}" for c in parcels.columns if c.lower() in taken | {"fid"}}
    parcels = parcels.rename(columns=renamed)
    own = parcels.drop(columns=parcels.geometry.name)
    table = pd.concat([rows, own], axis=1)
    with replacing(predictions) as temporary:
        write_layer(
            parcels[[parcels.geometry.name]].join(table),
            temporary,
            name="parcels",
            description=f"{SIMULATED} " * simulated + "Predicted crop class of every parcel.",
        )
    with replacing(predictions.with_suffix(".csv")) as temporary:
        table.to_csv(temporary, index=False)
    with replacing(predictions.with_suffix(".parquet")) as temporary:
        table.to_parquet(temporary, index=False)
