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

    The temperature of a fold is fitted on the test parcels of all other folds, each predicted by
    the model of its own fold, which was neither trained nor chosen on them. The models of the folds
    differ in little but chance, and as many parcels as one fold has give a temperature that is
    mostly noise (docs/accuracy.md).

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
    scores = np.concatenate(
        [
            model.log_probabilities(data, fold.test, settings.predict.batch_size)
            for fold, model in zip(parts, trained, strict=True)
        ]
    )
    places = np.concatenate([fold.test for fold in parts])
    of_place = np.repeat(np.arange(1, len(parts) + 1), [len(fold.test) for fold in parts])
    temperatures = []
    for number in range(1, len(parts) + 1):
        rows = of_place != number
        temperature, note = fit_temperature(scores[rows], data.labels[places[rows]])
        values = {"temperature": temperature, "n_parcels": int(rows.sum()), "note": note}
        write_json(models / f"Fold_{number}" / CALIBRATION_FILE, values)
        said = f", {note}" if note else ""
        logger.info("fold %d: temperature %.2f%s", number, temperature, said)
        temperatures.append(temperature)
    order = np.argsort(places)
    predictions = OutOfFold(
        [data.ids[i] for i in places[order]],
        of_place[order],
        data.labels[places[order]],
        scores[order],
        np.array(temperatures),
    )
    codes = [crop.code for crop in opened.classes]
    write_out_of_fold(models / OUT_OF_FOLD_FILE, predictions, codes)
