"""Stage calibrate: predict every labelled parcel out of fold, and fit the folds' temperatures."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from models.model_files import CALIBRATION_FILE, OUT_OF_FOLD_FILE
from models.training.distributed import choose_device
from pipeline.dataset.model_inputs import load_trained, read_inputs
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.evaluation.out_of_fold import OutOfFold, write_out_of_fold
from pipeline.evaluation.temperature import fit_temperature
from pipeline.workflow.settings import CalibrateSettings
from pipeline.workflow.writing import write_json

logger = logging.getLogger(__name__)


def calibrate(
    dataset: Path,
    folds: Path,
    models: Path,
    settings: CalibrateSettings,
    threads: int = 1,
) -> None:
    """Predict every labelled parcel out of fold, and fit the temperatures of the folds.

    The temperature of a fold is fitted on the validation parcels of all folds, each predicted by
    the model of its own fold, without those that the fold is tested on. The models of the folds
    differ in little but chance, and the validation part of one fold alone is so small that its
    temperature is mostly noise (docs/accuracy.md). No model was trained on its validation parcels.
    With `train.keep: best` they chose its epoch, so that it looks slightly better there than it is.

    Parameters
    ----------
    dataset
        Pixel-Set dataset.
    folds
        Folds that split wrote.
    models
        Folder of Fold_<k>/. Written into it: out_of_fold.parquet, the log-probabilities of every
        labelled parcel by the model of the fold whose test part has it, see `write_out_of_fold`;
        Fold_<k>/calibration.json, {"temperature", "n_parcels": those it was fitted to, "note": what
        is to be said about it, or null}.
    settings
        train.device, predict.batch_size.
    threads
        Threads of torch on a CPU.

    Raises
    ------
    InputError
        If the models do not fit the dataset, or predict values that are not finite.
    """
    device = choose_device(settings.train.device, threads)
    opened = PixelSetDataset.open(dataset)
    parts = opened.folds(folds)
    trained = load_trained(models, len(parts), device)
    data = read_inputs(opened, trained, opened.classes)
    tested, validated = [], []
    for fold, model in zip(parts, trained, strict=True):
        both = np.concatenate([fold.validation, fold.test])
        scores = model.log_probabilities(data, both, settings.predict.batch_size)
        validated.append(scores[: len(fold.validation)])
        tested.append(scores[len(fold.validation) :])
    places = np.concatenate([fold.validation for fold in parts])
    validation = np.concatenate(validated)
    temperatures = []
    for number, fold in enumerate(parts, 1):
        rows = ~np.isin(places, fold.test)
        temperature, note = fit_temperature(validation[rows], data.labels[places[rows]])
        values = {"temperature": temperature, "n_parcels": int(rows.sum()), "note": note}
        write_json(models / f"Fold_{number}" / CALIBRATION_FILE, values)
        said = f", {note}" if note else ""
        logger.info("fold %d: temperature %.2f%s", number, temperature, said)
        temperatures.append(temperature)
    places = np.concatenate([fold.test for fold in parts])
    of_place = np.repeat(np.arange(1, len(parts) + 1), [len(fold.test) for fold in parts])
    order = np.argsort(places)
    predictions = OutOfFold(
        [data.ids[i] for i in places[order]],
        of_place[order],
        data.labels[places[order]],
        np.concatenate(tested)[order],
        np.array(temperatures),
    )
    codes = [crop.code for crop in opened.classes]
    write_out_of_fold(models / OUT_OF_FOLD_FILE, predictions, codes)
