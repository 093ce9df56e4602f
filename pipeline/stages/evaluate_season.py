"""Stage evaluate_season: score the classes by the last date available, and say when they stay."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from models.training.distributed import choose_device
from pipeline.dataset.model_inputs import load_trained, read_inputs
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.dataset.season import season_of
from pipeline.evaluation.season import (
    classes_until,
    clear_is_known,
    days_of,
    first_to_stay,
    last_dates,
    list_parcels,
    score_dates,
    summarise,
)
from pipeline.workflow.settings import SeasonSettings
from pipeline.workflow.writing import replacing, write_json

logger = logging.getLogger(__name__)


def evaluate_season(
    dataset: Path,
    folds: Path,
    models: Path,
    accuracy: Path,
    parcels: Path,
    summary: Path,
    settings: SeasonSettings,
    threads: int = 1,
) -> None:
    """Predict every parcel from its dates up to each date of the season, and score that.

    A parcel that took part in training is predicted by the one model that was not trained on it.
    Only clear observations are used: interpolated ones were computed from later dates, too.

    Parameters
    ----------
    dataset
        Pixel-Set dataset.
    folds
        Folds that split wrote.
    models
        Folder of Fold_<k>/, models that train wrote with --ends random.
    accuracy, parcels
        Written, Parquet, and CSV beside it: scores by date and class, and the date from which on
        the class of each parcel stays. The columns are those of `score_dates` and `list_parcels`.
    summary
        Written, JSON, see `summarise`. In addition, clear_is_known: false if the dataset does not
        say which observations are clear, so that early dates may contain later observations.
    settings
        train.device, predict.batch_size.
    threads
        Threads of torch on a CPU.
    """
    device = choose_device(settings.train.device, threads)
    opened = PixelSetDataset.open(dataset)
    classes, parts = opened.shown_classes, opened.folds(folds)
    trained = load_trained(models, len(parts), device)
    data = read_inputs(opened, trained, classes, only_clear=True)
    dates = last_dates(opened.dates)
    days = days_of(dates, season_of(trained[0].description, opened.dates).day_0)
    chosen = classes_until(data, parts, trained, days, settings.predict.batch_size)
    first = first_to_stay(chosen)
    scores = score_dates(chosen, data.labels, classes, dates)
    right = (chosen[:, -1] == data.labels) & (data.labels >= 0)
    found = summarise(scores, first, right, data.labels, dates)
    _write(accuracy, scores)
    _write(parcels, list_parcels(opened, chosen, first, classes, dates))
    write_json(summary, {**found, "clear_is_known": clear_is_known(opened)})
    for row in scores[scores["code"].isna()].to_dict("records"):
        logger.info(
            "up to %s: overall accuracy %5.1f %%, macro F1 %.3f, %d of %d parcels observed",
            *(f"{row['date']:%Y-%m-%d}", 100 * row["accuracy"], row["f1"]),
            *(row["n_predicted"], row["n_parcels"]),
        )


def _write(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet, and as CSV for people."""
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False)
    with replacing(path.with_suffix(".csv")) as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f", lineterminator="\n")
