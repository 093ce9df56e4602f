"""Stage predict: a class for every usable parcel."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.checkpoints import fold_folders
from models.inference import ensemble
from models.pixel_sets import PixelSets
from pipeline.fiboa_predictions import write_fiboa_predictions
from pipeline.folds import Fold, read_folds
from pipeline.given_weights import load_given
from pipeline.model_inputs import read_inputs
from pipeline.paths import DatasetPaths
from pipeline.pixel_set_store import (
    LandClass,
    read_classes,
    read_dates,
    read_description,
    read_ids,
    read_n_dates,
)
from pipeline.prediction_table import (
    SIMULATED,
    Scores,
    add_register,
    describe,
    every_row,
    write_geopackage,
    write_tables,
)
from pipeline.settings import Settings
from pipeline.train import choose_device
from pipeline.trained import Trained

logger = logging.getLogger(__name__)


class PredictionError(ValueError):
    """Models that do not fit the dataset; the message says how."""


def predict(
    dataset: Path,
    models: Path,
    ledger: Path,
    predictions: Path,
    settings: Settings,
    folds: Path | None = None,
    register: Path | None = None,
    threads: int = 1,
) -> None:
    """Predict a class for every usable parcel, and write every input parcel.

    A parcel that took part in training is predicted by the one model that never saw it
    (out_of_fold); any other by the mean log-probability of all folds (ensemble). Of models from
    elsewhere nobody knows which parcels they saw: all parcels are predicted by all of them.

    Parameters
    ----------
    dataset
        Pixel-Set dataset.
    models
        Folder of Fold_<k>/.
    ledger
        Status of every input parcel.
    predictions
        Written, with the suffixes .csv and .parquet: a row for every row of the ledger. As .gpkg
        only with a register, and beside it <name>_fiboa.parquet with the predicted parcels.
    settings
        run, train.device, predict.batch_size, predict.code_list, parcels.layer; for weights of the
        reference, model and train.pixels.
    folds
        What split wrote; none where the models are from elsewhere.
    register
        The register, for its geometry and its own columns; none where the run started from a
        dataset.
    threads
        Of torch, where it runs on the CPU.
    """
    device = choose_device(settings.train.device, threads)
    paths = DatasetPaths(dataset)
    if folds is None:
        parts: list[Fold] = []
        given = fold_folders(models).values()
        trained = [load_given(folder, paths, settings, device) for folder in given]
        classes = _classes_of(trained)
    else:
        parts = read_folds(folds, read_ids(paths))
        trained = [Trained.load(models / f"Fold_{k}", device) for k in range(1, len(parts) + 1)]
        classes = read_classes(paths)
    data = read_inputs(paths, trained)
    scores, source = score(data, parts, trained, settings.predict.batch_size)
    seen = np.array([n > 0 for n in read_n_dates(paths).values()], bool)
    source[~seen] = ""
    rows = every_row(ledger, describe(data.ids, scores, source, classes), paths)
    if folds is None:
        rows.loc[rows["status"] == "used", ["status", "reason"]] = ["predict_only", "given_weights"]
    if register is not None:
        simulated = read_description(paths)["simulated"]
        parcels = add_register(rows, register, settings.parcels.layer)
        write_geopackage(parcels, predictions.with_suffix(".gpkg"), simulated=simulated)
        write_fiboa_predictions(
            parcels,
            predictions.with_name(f"{predictions.stem}_fiboa.parquet"),
            collection=settings.run,
            code_list=settings.predict.code_list,
            last_date=read_dates(paths)[-1],
            remark=SIMULATED * simulated,
        )
        rows = pd.DataFrame(parcels.drop(columns=parcels.geometry.name))
    write_tables(rows, predictions)
    counts = rows["pred_source"].replace("", "not predicted").value_counts()
    logger.info("%d parcels: %s", len(rows), ", ".join(f"{n} {k}" for k, n in counts.items()))


def score(
    data: PixelSets, folds: Sequence[Fold], trained: Sequence[Trained], batch_size: int
) -> tuple[Scores, NDArray[np.str_]]:
    """Compute the log-probabilities of all parcels, none by a model that saw the parcel.

    Without folds, all models predict every parcel.

    Returns
    -------
    scores
        float32 (N, K).
    source
        str (N,): out_of_fold or ensemble.
    """
    source = np.full(len(data.ids), "ensemble", "<U11")
    scores = np.empty((len(data.ids), trained[0].n_classes), np.float32)
    for fold, model in zip(folds, trained, strict=bool(folds)):
        source[fold.test] = "out_of_fold"
        scores[fold.test] = model.log_probabilities(data, fold.test, batch_size)
    others = np.flatnonzero(source == "ensemble")
    if len(others):
        scores[others] = ensemble([m.log_probabilities(data, others, batch_size) for m in trained])
    return scores, source


def _classes_of(trained: Sequence[Trained]) -> list[LandClass]:
    """Give the classes of models from elsewhere, which must all have the same."""
    codes, names = trained[0].metadata.class_codes, trained[0].metadata.class_names
    if any(model.metadata.class_codes != codes for model in trained):
        raise PredictionError("The models of predict.weights were trained for different classes.")
    # model.json has codes as text: whole numbers become numbers again, if all of them are.
    whole = all(code.lstrip("-").isdecimal() and str(int(code)) == code for code in codes)
    return [
        LandClass(int(code) if whole else code, name)
        for code, name in zip(codes, names, strict=True)
    ]
