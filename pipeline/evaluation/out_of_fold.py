"""The out-of-fold predictions: every labelled parcel, by the model that was not trained on it.

The stage calibrate computes and writes them once. Later stages read them, and predict these parcels
no second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geo.errors import InputError, first_five
from models.calibration import parse_temperature
from models.calibration import probabilities_at as probabilities_at
from models.model_files import CALIBRATION_FILE, OUT_OF_FOLD_FILE
from pipeline.classes.crop_class import Code
from pipeline.dataset.pixel_set_dataset import Fold, PixelSetDataset
from pipeline.workflow.artefacts import artefact, read_json, remedy_for
from pipeline.workflow.paths import writer_of
from pipeline.workflow.writing import replacing

# The columns before those of the classes.
_COLUMNS = {"parcel_id": pa.string(), "fold": pa.int64(), "label": pa.int64()}
_PREFIX = "log_probability_"
OTHER_MODELS = (
    "Use the folder models of one finished run as a whole, or delete the file: the confidences are "
    "not calibrated then."
)


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Predictions of N labelled parcels, in the order of the dataset.

    Attributes
    ----------
    ids
        Their ids.
    fold
        int64 (N,): the fold, from 1, whose test part has the parcel; its model predicted it.
    labels
        int64 (N,): class index of the declared class.
    log_probabilities
        float32 (N, K), not calibrated: the mean of the members' log-probabilities, so that the
        exponentials of a row add up to 1 only if the fold has a single member.
    temperatures
        float64 (number of folds,), see `temperature.fit_temperature`.
    """

    ids: list[str]
    fold: NDArray[np.int64]
    labels: NDArray[np.int64]
    log_probabilities: NDArray[np.float32]
    temperatures: NDArray[np.float64]

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return len(self.temperatures)

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """The calibrated probabilities, float64 (N, K); each row adds up to 1."""
        return probabilities_at(self.log_probabilities, self.temperatures[self.fold - 1][:, None])

    def rows_of(self, fold: int) -> NDArray[np.int64]:
        """Return the rows of the test part of a fold, which counts from 1; int64, ascending."""
        return np.flatnonzero(self.fold == fold)


def ensemble_probabilities(
    log_probabilities: Sequence[NDArray[np.floating[Any]]], temperatures: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the probabilities of parcels that the models of all folds predict, float64 (n, K).

    Each model is calibrated before the mean of the log-probabilities is taken.

    Parameters
    ----------
    log_probabilities
        (n, K) of every fold, up to a constant of each row.
    temperatures
        float64 (number of folds,).
    """
    scaled = [
        np.asarray(own, np.float64) / temperature
        for own, temperature in zip(log_probabilities, temperatures, strict=True)
    ]
    return probabilities_at(np.mean(scaled, axis=0), 1.0)


def write_out_of_fold(path: Path, predictions: OutOfFold, codes: Sequence[Code]) -> None:
    """Write the predictions, a row a parcel, without the temperatures.

    Parameters
    ----------
    path
        Parquet with the columns parcel_id, fold, label (the class index), and
        log_probability_<code> of every class.
    predictions
        The predictions.
    codes
        Codes of the classes, in order of the class index.
    """
    columns = [predictions.ids, predictions.fold, predictions.labels]
    columns += list(predictions.log_probabilities.T)
    types = {**_COLUMNS, **{f"{_PREFIX}{code}": pa.float32() for code in codes}}
    arrays = [pa.array(own, kind) for own, kind in zip(columns, types.values(), strict=True)]
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_arrays(arrays, list(types)), temporary)


def read_out_of_fold(path: Path) -> OutOfFold:
    """Read the predictions, and the temperatures from Fold_<k>/calibration.json beside the file.

    Raises
    ------
    InputError
        If a file is missing, or is not what calibrate writes; or if a fold was trained again.
    """
    with artefact(path, "a table of out-of-fold predictions"), pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        first, others = names[:3], names[3:]
        if first != list(_COLUMNS) or not others or not all(n.startswith(_PREFIX) for n in others):
            raise ValueError(f"it has the columns {', '.join(names[:8])}")
        table = file.read(first)
        fold, labels = (table[name].to_numpy().astype(np.int64) for name in ("fold", "label"))
        scores = np.empty((len(fold), len(others)), np.float32)
        for place, name in enumerate(others):  # as a whole, they would be in memory twice
            scores[:, place] = file.read([name])[name].to_numpy()
        if not np.isfinite(scores).all():
            raise ValueError("it has values that are not finite")
        if len(fold) and not (fold.min() >= 1 and 0 <= labels.min() <= labels.max() < len(others)):
            raise ValueError("it has folds or labels that do not exist")
        ids = table["parcel_id"].to_pylist()
    folders = [path.parent / f"Fold_{k}" for k in range(1, int(fold.max(initial=0)) + 1)]
    if lacking := [own.name for own in folders if not (own / CALIBRATION_FILE).is_file()]:
        remedy = OTHER_MODELS if writer_of(path) is None else remedy_for(path)
        raise InputError(
            f"{path} does not belong to the models beside it: {first_five(lacking)} without "
            f"{CALIBRATION_FILE}. {remedy}"
        )
    temperatures = [read_temperature(folder) for folder in folders]
    return OutOfFold(ids, fold, labels, scores, np.array(temperatures, np.float64))


def read_tested(path: Path, dataset: PixelSetDataset, folds: Sequence[Fold]) -> OutOfFold:
    """Read the predictions of the test parts of all folds, in the order of the dataset.

    Raises
    ------
    InputError
        As `read_out_of_fold`; or if the folds, labels or classes of the dataset are others.
    """
    predictions = read_out_of_fold(path)
    fold = np.zeros(len(dataset), np.int64)
    for number, part in enumerate(folds, 1):
        fold[part.test] = number
    tested = np.flatnonzero(fold)
    expected = fold[tested], dataset.labels[tested]
    if not (
        predictions.ids == [dataset.ids[i] for i in tested]
        and np.array_equal((predictions.fold, predictions.labels), expected)
        and predictions.log_probabilities.shape[1] == len(dataset.classes)
    ):
        raise InputError(
            f"{path} was made with other folds, labels or classes than the dataset "
            f"{dataset.paths.root} has now. {remedy_for(path)}"
        )
    # The same texts as the dataset's, instead of copies.
    return replace(predictions, ids=[dataset.ids[i] for i in tested])


def read_existing(folder: Path, n_folds: int, n_classes: int) -> OutOfFold | None:
    """Read the predictions beside existing weights, which calibrate them; None if there are none.

    Parameters
    ----------
    folder
        Folder of Fold_<k>/.
    n_folds, n_classes
        Of the weights.

    Raises
    ------
    InputError
        As `read_out_of_fold`; or if the predictions are of other models.
    """
    path = folder / OUT_OF_FOLD_FILE
    if not path.is_file():
        return None
    predictions = read_out_of_fold(path)
    found = predictions.n_folds, predictions.log_probabilities.shape[1]
    if found != (n_folds, n_classes):
        raise InputError(
            f"{path} does not belong to the models beside it: it is of {found[0]} folds and "
            f"{found[1]} classes, they of {n_folds} and {n_classes}. {OTHER_MODELS}"
        )
    return predictions


def read_temperature(folder: Path) -> float:
    """Read the temperature of a fold's model from Fold_<k>/calibration.json.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    return read_json(folder / CALIBRATION_FILE, parse_temperature, "the calibration of a model")
