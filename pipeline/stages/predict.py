"""Stage predict: predict a class for every usable parcel."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geo.errors import InputError
from models.crop_model import CropModel
from models.model_files import OUT_OF_FOLD_FILE
from models.pixel_sets import PixelSets
from models.training.distributed import choose_device
from pipeline.classes.crop_class import CropClass
from pipeline.classes.ledger import read_ledger
from pipeline.classes.reasons import Status
from pipeline.dataset.model_inputs import in_order, load_existing, load_trained, read_inputs
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.dataset.season import season_of
from pipeline.evaluation.doubts import judge, write_doubts
from pipeline.evaluation.out_of_fold import (
    OutOfFold,
    ensemble_probabilities,
    probabilities_at,
    read_existing,
    read_tested,
)
from pipeline.evaluation.prediction_sets import PredictionSets
from pipeline.evaluation.scores import write_existing_scores
from pipeline.predictions.columns import (
    ENSEMBLE,
    LEDGER_COLUMNS,
    OUT_OF_FOLD,
    Choices,
    PredictionTable,
    judged_columns,
    with_register,
)
from pipeline.predictions.files import PROBABILITIES, PredictionFiles, read_probabilities
from pipeline.predictions.layers import describe_run, further_tables
from pipeline.report.class_colours import read_class_colours
from pipeline.workflow.artefacts import artefact
from pipeline.workflow.progress import ProgressLog
from pipeline.workflow.settings import PredictSettings
from pipeline.workflow.software import version

logger = logging.getLogger(__name__)

# Rows of the ledger and the register that are joined and written together.
ROWS_AT_A_TIME = 20_000


def predict(
    dataset: Path,
    models: Path,
    ledger: Path,
    predictions: Path,
    settings: PredictSettings,
    folds: Path | None = None,
    register: Path | None = None,
    doubts: Path | None = None,
    scores: Path | None = None,
    cleaned: Path | None = None,
    grids: Path | None = None,
    acquisitions: Path | None = None,
    threads: int = 1,
) -> None:
    """Predict a class for every usable parcel, and write a row for every parcel of the register.

    A parcel that took part in training has the prediction of the one model that was not trained on
    it (out_of_fold), from the stage calibrate; any other parcel is predicted by the mean
    log-probability of all folds (ensemble). It is not known which parcels existing weights were
    trained on: all of them predict every parcel. Probabilities are calibrated by the temperatures
    of the folds. Existing weights without out_of_fold.parquet beside them are not calibrated, and
    have no prediction sets.

    Parameters
    ----------
    dataset
        Pixel-Set dataset.
    models
        Folder of Fold_<k>/ and out_of_fold.parquet.
    ledger
        Status of every parcel of the register, Parquet.
    predictions
        Written, with the suffixes .csv and .parquet: one row per row of the ledger. With a
        register also .gpkg, and <name>_fiboa.parquet with the predicted parcels. Beside them
        probabilities.parquet: parcel_id and the probability of every class, named by its code, for
        the predicted parcels. With a register and own models also mean_probabilities.parquet, in
        which a parcel that all models predict has the mean of their probabilities: its errors are
        on average those of the out-of-fold predictions, on which the areas are based.
    settings
        run, train.device, predict.batch_size, set_error, false_alarms and code_list, parcels; for
        weights of the reference, model and train.pixels.
    folds
        The folds that split wrote; None for existing weights.
    register
        The register, for outlines and further columns; None if the run started from a dataset.
    doubts
        Written with `folds`: JSON, see `write_doubts`. With existing weights, no declaration is
        judged, because they can be trained on it.
    scores
        Written for existing weights: their scores on the parcels that declare one of their classes,
        JSON, and those of every class as CSV beside it.
    cleaned
        Clean's table of the register, with the area of every outline; None without a register.
    grids, acquisitions
        Grids of the tiles and all acquisitions, for the GeoPackage; None without a register.
    threads
        Threads of torch on a CPU.

    Raises
    ------
    InputError
        If another register was cleaned; the predictions of calibrate are of other folds or
        models; or most dates are far from those of the training of existing weights. Nothing is
        written then.
    """
    if register is not None and read_ledger(ledger, ["checksum"])["checksum"].isna().any():
        raise InputError(
            f"{ledger} has no checksums to identify the rows of {register}. "
            "Clean it again: snakemake -R clean."
        )
    device = choose_device(settings.train.device, threads)
    opened = PixelSetDataset.open(dataset)
    if folds is None:
        tested = None
        trained = load_existing(models, opened, settings, device)
        about = trained[0].description
        pairs = zip(about.class_codes, about.class_names, strict=True)
        classes = [CropClass(code, name) for code, name in pairs]
        season = season_of(about, opened.season_dates)
        season.refuse()
        if text := season.explain():
            logger.warning("%s", text)
        calibration = read_existing(models, len(trained), trained[0].n_classes)
        if calibration is None:
            logger.info(
                "%s has no %s: confidences are not calibrated, and there are no prediction sets",
                *(models, OUT_OF_FOLD_FILE),
            )
        else:
            logger.info(
                "calibrated by %d parcels of the training. Nothing is proven about prediction sets "
                "of another region or season.",
                len(calibration.ids),
            )
    else:
        parts = opened.folds(folds)
        tested = calibration = read_tested(models / OUT_OF_FOLD_FILE, opened, parts)
        trained = load_trained(models, len(parts), device)
        classes = opened.shown_classes
    inputs = read_inputs(opened, trained, classes)
    rows = read_ledger(ledger, LEDGER_COLUMNS)
    rows["area_m2"] = np.nan if cleaned is None else _read_areas(cleaned, rows["row"])
    simulated = opened.description["simulated"]
    tables = []
    if grids is not None and acquisitions is not None:
        tiles = rows.loc[rows["status"] != Status.REJECTED, "tile"]
        tables = further_tables(grids, acquisitions, tiles, simulated=simulated)
    with PredictionFiles(predictions) as files:
        codes = [crop.code for crop in classes]
        files.add_probabilities("probabilities", codes)
        if tested is not None and register is not None:  # for areas
            files.add_probabilities("mean_probabilities", codes)
        choices = Choices.empty(len(inputs.ids), classes, with_sets=calibration is not None)
        predictor = Predictor(
            trained, calibration, settings.predict.set_error, settings.predict.batch_size
        )
        choose_classes(inputs, predictor, tested, choices, files)
        del inputs  # Free the memory of days and features before the rows are written.
        judged = None
        if tested is not None:
            verdicts = judge(tested.labels, tested.probabilities, settings.predict.false_alarms)
            judged = judged_columns(tested.ids, verdicts, tested.fold)
        table = PredictionTable(opened, choices, judged)
        read: Iterator[tuple[Any, NDArray[np.int64]]] = _parts_of_ledger(len(rows))
        if register is not None:
            # GDAL is imported only here: without a register, predictions need no GDAL.
            from pipeline.classes.register import matched_parts

            read = matched_parts(register, rows, settings.parcels, ROWS_AT_A_TIME)
            files.add_layers(
                Counter(filter(None, rows["geometry_type"])),
                with_points=bool(
                    rows.loc[rows["status"] != Status.REJECTED, "geometry_type"]
                    .isin(["Point", "MultiPoint"])
                    .any()
                ),
                with_verdicts=judged is not None,
                classes=_coloured(opened, choices),
                collection=settings.run,
                code_list=settings.predict.code_list,
                last_date=opened.dates[-1],
                simulated=simulated,
                with_sets=calibration is not None,
                about=describe_run(
                    *(settings.run, trained[0].description.hyperparameters.name, len(trained)),
                    *(opened.dates, version()),
                    simulated=simulated,
                ),
                rejected=rows.loc[rows["status"] == Status.REJECTED, "reason"].unique().tolist(),
                tables=tables,
            )
        write_rows(table, rows, files, read)
    if tested is not None and doubts is not None:
        write_doubts(doubts, classes, tested, verdicts, settings.predict.false_alarms)
    if folds is None and scores is not None:
        probabilities = read_probabilities(predictions.with_name(PROBABILITIES))
        write_existing_scores(scores, opened, classes, choices.chosen[:, 0], probabilities, season)


class Predictor:
    """Predict parcels that no model was trained on, by the models of all folds together.

    Parameters
    ----------
    trained
        The model of each fold.
    calibration
        Out-of-fold predictions of its training: temperatures, and the parcels with which sets are
        decided. None: the probabilities are not calibrated, and there are no sets.
    set_error
        Error rate of the sets.
    batch_size
        Parcels in a batch.
    """

    def __init__(
        self,
        trained: Sequence[CropModel],
        calibration: OutOfFold | None,
        set_error: float,
        batch_size: int,
    ) -> None:
        self._trained, self._batch_size = trained, batch_size
        self.sets = None if calibration is None else PredictionSets(calibration, set_error)
        self._temperatures = (
            np.ones(len(trained)) if calibration is None else calibration.temperatures
        )

    def predict(
        self, data: PixelSets, indices: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_] | None]:
        """Predict n parcels.

        Returns
        -------
        probabilities, means, sets
            float64 (n, K), of the mean log-probabilities; float64 (n, K), means of the models'
            probabilities; bool (n, K), or None.
        """
        by_fold = [
            model.log_probabilities(data, indices, self._batch_size) for model in self._trained
        ]
        pairs = zip(by_fold, self._temperatures, strict=True)
        calibrated = [probabilities_at(own, temperature) for own, temperature in pairs]
        members = None if self.sets is None else self.sets.of_new(calibrated)
        together = ensemble_probabilities(by_fold, self._temperatures)
        return together, np.mean(calibrated, axis=0), members


def choose_classes(
    data: PixelSets,
    predictor: Predictor,
    tested: OutOfFold | None,
    choices: Choices,
    files: PredictionFiles,
) -> None:
    """Choose the classes and sets of all parcels, and write their probabilities.

    The parcels are processed in the order of their pixels on the disk, so that the file is read
    once, from front to back.

    Parameters
    ----------
    data
        All parcels.
    predictor
        Predicts the parcels that are not tested.
    tested
        The out-of-fold predictions of this run, in the order of the parcels; None for existing
        weights.
    choices
        Filled.
    files
        Writes the probabilities.
    """
    n, n_classes = len(data.ids), len(choices.classes)
    row_of = np.full(n, -1, np.int64)
    members_of_tested = None
    if tested is not None and predictor.sets is not None:
        index = {parcel_id: i for i, parcel_id in enumerate(data.ids)}
        row_of[[index[parcel_id] for parcel_id in tested.ids]] = np.arange(len(tested.ids))
        members_of_tested = predictor.sets.of_tested()
    progress = ProgressLog("predicted", n, "parcels")
    for start, part in in_order(data):
        rows = row_of[start : start + len(part)]
        probabilities = np.empty((len(part), n_classes))
        members = np.zeros((len(part), n_classes), np.bool_)
        if tested is not None and members_of_tested is not None:
            own = rows >= 0
            probabilities[own] = tested.probabilities[rows[own]]
            members[own] = members_of_tested[rows[own]]
        means = probabilities.copy()
        if len(new := np.flatnonzero(rows < 0)):
            probabilities[new], means[new], found = predictor.predict(part, new)
            if found is not None:
                members[new] = found
        source = np.where(rows < 0, ENSEMBLE, OUT_OF_FOLD).astype(np.int8)
        choices.put(start, probabilities, source, members)
        written = {"probabilities": probabilities, "mean_probabilities": means}
        files.put_probabilities(part.ids, written)
        progress.add(len(part))


def write_rows(
    table: PredictionTable,
    ledger: pd.DataFrame,
    files: PredictionFiles,
    parts: Iterator[tuple[Any, NDArray[np.int64]]],
) -> int:
    """Write a row for every parcel, in the order of the register; return their number.

    Parameters
    ----------
    table
        Joins predictions to rows of the ledger.
    ledger
        Rows of the ledger.
    files
        Files to write.
    parts
        Rows of the register, or None without a register, and their positions in the ledger.
    """
    counts: Counter[str] = Counter()
    while True:
        with files.timed("register"):
            own, places = next(parts, (None, None))
        if places is None:
            break
        with files.timed("joining"):
            part = table.join(ledger.iloc[places])
            counts.update(part["pred_source"].replace("", "not predicted"))
            if own is not None:
                part = with_register(part.set_axis(own.index), own)
        files.add(part)
    n = counts.total()
    logger.info("%d parcels: %s", n, ", ".join(f"{m} {k}" for k, m in counts.most_common()))
    for step, seconds in files.seconds.items():
        logger.info("%-10s %8.0f parcels a second", step, n / max(seconds, 1e-9))
    return n


def _read_areas(cleaned: Path, rows: pd.Series[Any]) -> NDArray[np.float64]:
    """Read the areas of rows of the register, float64 (N,), m2; NaN without an area."""
    with artefact(cleaned, "a table of parcels"):
        table = pd.read_parquet(cleaned, columns=["row", "area_m2"])
        # Fails if a row is repeated.
        areas = table.set_index("row")["area_m2"].reindex(rows).to_numpy(np.float64)
    return np.where(areas > 0, areas, np.nan)


def _coloured(dataset: PixelSetDataset, choices: Choices) -> dict[str, tuple[str, str]]:
    """Return names and colours of the classes that can be predicted: {code: (name, colour)}."""
    names = {str(crop.code): crop.name for crop in (*dataset.shown_classes, *choices.predicted)}
    colours = read_class_colours(dataset, [str(crop.code) for crop in choices.predicted])
    return {code: (names[code], colour) for code, colour in colours.items()}


def _parts_of_ledger(n: int) -> Iterator[tuple[None, NDArray[np.int64]]]:
    """Divide the rows of a ledger without register into parts; an empty ledger has one part."""
    for first in range(0, max(n, 1), ROWS_AT_A_TIME):
        yield None, np.arange(first, min(first + ROWS_AT_A_TIME, n))
