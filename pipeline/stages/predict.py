"""Stage predict: a class for every usable parcel."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.checkpoints import fold_folders
from models.inference import ensemble
from models.pixel_sets import PixelSets
from pipeline.classes.ledger import read_ledger
from pipeline.dataset.folds import Fold, read_folds
from pipeline.dataset.pixel_set_loading import in_order
from pipeline.dataset.pixel_set_store import (
    LandClass,
    read_classes,
    read_dates,
    read_description,
    read_ids,
)
from pipeline.evaluation.model_inputs import read_inputs
from pipeline.evaluation.trained import Trained
from pipeline.predictions.choices import ENSEMBLE, OUT_OF_FOLD, Choices
from pipeline.predictions.existing_weights import load_given
from pipeline.predictions.files import PredictionFiles
from pipeline.predictions.register_rows import RegisterRows, match_rows
from pipeline.predictions.table import LEDGER_COLUMNS, PredictionTable, with_register
from pipeline.report.class_colours import read_class_colours
from pipeline.stages.train import choose_device
from pipeline.workflow.paths import DatasetPaths
from pipeline.workflow.progress import ProgressLog
from pipeline.workflow.settings import PredictSettings

logger = logging.getLogger(__name__)

# Rows of the ledger and the register that are joined and written at once.
ROWS_AT_A_TIME = 50_000


def predict(
    dataset: Path,
    models: Path,
    ledger: Path,
    predictions: Path,
    settings: PredictSettings,
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
        run, train.device, predict.batch_size, predict.code_list, parcels; for weights of the
        reference, model and train.pixels.
    folds
        What split wrote; none where the models are from elsewhere.
    register
        The register, for its geometry and its own columns; none where the run started from a
        dataset.
    threads
        Of torch, where it runs on the CPU.

    Raises
    ------
    InputError
        If the register is not the one that was cleaned: before anything is predicted.
    """
    rows = None
    if register is not None:
        rows = match_rows(register, ledger, settings.parcels, ROWS_AT_A_TIME)
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
    data = read_inputs(paths, trained, classes)
    choices = choose_classes(data, parts, trained, classes, settings.predict.batch_size)
    table = PredictionTable(paths, choices, given_weights=folds is None)
    with PredictionFiles(predictions) as files:
        if rows is not None:
            files.add_layers(
                rows.outlines,
                classes=_coloured(paths, choices),
                collection=settings.run,
                code_list=settings.predict.code_list,
                last_date=read_dates(paths)[-1],
                simulated=read_description(paths)["simulated"],
            )
        write_rows(table, ledger, files, rows)


def choose_classes(
    data: PixelSets,
    folds: Sequence[Fold],
    trained: Sequence[Trained],
    classes: list[LandClass],
    batch_size: int,
) -> Choices:
    """Choose the classes of all parcels, none by a model that saw the parcel.

    Without folds, all models predict every parcel. The parcels are taken in the order in which
    their pixels lie on the disk, so that these are read once, from front to back.
    """
    n = len(data.ids)
    fold_of = np.full(n, -1, np.int64)
    for number, fold in enumerate(folds):
        fold_of[fold.test] = number
    choices = Choices.empty(n, classes)
    progress = ProgressLog("predicted", n, "parcels")
    for start, part in in_order(data):
        scores = np.empty((len(part), trained[0].n_classes), np.float32)
        own = fold_of[start : start + len(part)]
        for number in np.unique(own):
            which = np.flatnonzero(own == number)
            chosen = trained if number < 0 else [trained[number]]
            scores[which] = ensemble(
                [model.log_probabilities(part, which, batch_size) for model in chosen]
            )
        source = np.where(own < 0, ENSEMBLE, OUT_OF_FOLD).astype(np.int8)
        choices.put(start, scores, source)
        progress.add(len(part))
    return choices


def write_rows(
    table: PredictionTable,
    ledger: Path,
    files: PredictionFiles,
    register: RegisterRows | None = None,
) -> int:
    """Write every input parcel, in the register's order; log how fast; count them."""
    with files.timed("joining"):
        rows = read_ledger(ledger, LEDGER_COLUMNS)
    counts: Counter[str] = Counter()
    parts = _parts(len(rows)) if register is None else register.parts(ROWS_AT_A_TIME)
    step = "joining" if register is None else "register"
    while True:
        with files.timed(step):
            own, places = next(parts, (None, None))
        if places is None:
            break
        with files.timed("joining"):
            part = table.join(rows.iloc[places])
            counts.update(part["pred_source"].replace("", "not predicted"))
            if own is not None:
                part = with_register(part.set_axis(own.index), own)
        files.add(part)
    n = counts.total()
    logger.info("%d parcels: %s", n, ", ".join(f"{m} {k}" for k, m in counts.most_common()))
    for step, seconds in files.seconds.items():
        logger.info("%-10s %8.0f parcels a second", step, n / max(seconds, 1e-9))
    return n


def _coloured(dataset: DatasetPaths, choices: Choices) -> dict[str, tuple[str, str]]:
    """Return names and colours of the classes that can be predicted: {code: (name, colour)}."""
    names = {str(land.code): land.name for land in (*read_classes(dataset), *choices.predicted)}
    colours = read_class_colours(dataset, [str(land.code) for land in choices.predicted])
    return {code: (names[code], colour) for code, colour in colours.items()}


def _parts(n: int) -> Iterator[tuple[None, NDArray[np.int64]]]:
    """Cut the rows of a ledger without a register into parts: none at all is one, too."""
    for first in range(0, max(n, 1), ROWS_AT_A_TIME):
        yield None, np.arange(first, min(first + ROWS_AT_A_TIME, n))


def _classes_of(trained: Sequence[Trained]) -> list[LandClass]:
    """Give the classes of models from elsewhere."""
    codes, names = trained[0].metadata.class_codes, trained[0].metadata.class_names
    # model.json has codes as text: whole numbers become numbers again, if all of them are.
    whole = all(code.lstrip("-").isdecimal() and str(int(code)) == code for code in codes)
    return [
        LandClass(int(code) if whole else code, name)
        for code, name in zip(codes, names, strict=True)
    ]
