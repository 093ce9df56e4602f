"""Stage explain: measure on which dates the models look, and whether this explains predictions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geo.errors import InputError
from models.training.distributed import choose_device
from pipeline.dataset.model_inputs import in_order
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.evaluation.occlusion import (
    SAMPLE_OF_CLASS,
    SHARE,
    WINDOW_DAYS,
    Explainer,
    changed_by_date,
    choose_sample,
    describe_correlations,
    occlude,
    share_changed,
)
from pipeline.predictions.attention import attention_by_class, places_of_dates, writing_attention
from pipeline.predictions.files import read_probabilities
from pipeline.workflow.artefacts import artefact, remedy_for
from pipeline.workflow.progress import ProgressLog
from pipeline.workflow.settings import ExplainSettings
from pipeline.workflow.writing import finite_or_null, write_json

logger = logging.getLogger(__name__)


def explain(
    dataset: Path,
    models: Path,
    probabilities: Path,
    attention: Path,
    account: Path,
    settings: ExplainSettings,
    folds: Path | None = None,
    threads: int = 1,
) -> None:
    """Write the attention of every parcel, and test on a sample whether it explains predictions.

    Each parcel is explained by the models that predicted it: a parcel that took part in training by
    the one model that was not trained on it, any other parcel by the mean of all models.

    Parameters
    ----------
    dataset
        Pixel-Set dataset.
    models
        Folder of Fold_<k>/ and out_of_fold.parquet.
    probabilities
        Probabilities of every class that predict wrote, Parquet.
    attention
        Written: Parquet, the attention of every parcel of the dataset on every date, a mean over
        heads and models. Columns: parcel_id, and YYYY-MM-DD for every date; null where a parcel
        does not have the date, 0 where it is masked for the parcel.
    account
        Written, JSON. dates; n_parcels; window_days and share, see `occlude` and `share_changed`.
        sample, of parcels for which dates are left out: their number n, most_of_class, what
        `describe_correlations` returns, and changed_attended and changed_random, what
        `share_changed` returns. classes, each with its code; n_parcels that are predicted as it;
        attention, their quartiles on every date; and of the sample n_sample, what
        `describe_correlations` returns, and changed, what `changed_by_date` returns. null where
        nothing is known.
    settings
        split.seed, train.device, predict.batch_size; for weights of the reference, model and
        train.pixels.
    folds
        The folds that split wrote; None for existing weights.
    threads
        Threads of torch on a CPU.

    Raises
    ------
    InputError
        If the models or the probabilities do not fit the dataset.
    """
    device = choose_device(settings.train.device, threads)
    opened = PixelSetDataset.open(dataset)
    explainer = Explainer.load(opened, models, folds, settings, device)
    chosen = read_chosen(probabilities, opened.ids, len(explainer.classes))
    write_attention(attention, opened, explainer)
    quartiles = attention_by_class(attention, chosen, len(explainer.classes))
    rng = np.random.default_rng(settings.split.seed)
    # Parcels of the folds are explained by one model, and what the report scores are these.
    candidates = chosen if folds is None else np.where(explainer.fold_of >= 0, chosen, -1)
    sample = choose_sample(candidates, SAMPLE_OF_CLASS, rng)
    found = occlude(explainer, sample)
    places = places_of_dates(opened, sample)
    attended, random = share_changed(explainer, sample, found, rng)
    overall = describe_correlations(found, np.ones(len(sample), np.bool_))
    classes = []
    for index, crop in enumerate(explainer.classes):
        own = chosen[sample] == index
        changed = changed_by_date(found, own, places, len(opened.dates))
        classes.append(
            {
                "code": crop.code,
                "n_parcels": int((chosen == index).sum()),
                "attention": [_rounded(row) for row in quartiles[index]],
                "n_sample": int(own.sum()),
                **describe_correlations(found, own),
                "changed": _rounded(changed),
            }
        )
    write_json(
        account,
        {
            "dates": [day.isoformat() for day in opened.dates],
            "n_parcels": len(chosen),
            "window_days": WINDOW_DAYS,
            "share": SHARE,
            "sample": {
                "n": len(sample),
                "most_of_class": SAMPLE_OF_CLASS,
                **overall,
                **finite_or_null({"changed_attended": attended, "changed_random": random}),
            },
            "classes": classes,
        },
    )
    for words, kind in (("single dates", "by_date"), ("windows of dates", "by_window")):
        if overall[kind]["n"]:
            logger.info(
                "rank correlation of attention and occlusion, %s: %.2f (95 %% interval %.2f to "
                "%.2f, %d parcels)",
                words,
                *(overall[kind][name] for name in ("mean", "low", "high", "n")),
            )


def read_chosen(path: Path, ids: Sequence[str], n_classes: int) -> NDArray[np.int64]:
    """Read the class index that was predicted for every parcel of the dataset, int64 (N,).

    Raises
    ------
    InputError
        If the probabilities are of other parcels or classes.
    """
    with artefact(path, "a table of probabilities"):
        found = pq.read_table(path, columns=["parcel_id"])["parcel_id"].to_pylist()
        probabilities = read_probabilities(path)
    if found != list(ids) or probabilities.shape[1] != n_classes:
        raise InputError(
            f"{path} has {len(found)} parcels and {probabilities.shape[1]} classes, the dataset "
            f"{len(ids)} parcels and the models {n_classes} classes. {remedy_for(path)}"
        )
    chosen: NDArray[np.int64] = probabilities.argmax(axis=1)
    return chosen


def write_attention(path: Path, dataset: PixelSetDataset, explainer: Explainer) -> None:
    """Write the attention of all parcels, in the order of their pixels on the disk."""
    progress = ProgressLog("explained", len(dataset), "parcels")
    with writing_attention(path, dataset.dates) as file:
        for start, part in in_order(explainer.data):
            attention = explainer.of_part(start, part).attention(np.arange(len(part)))
            places = places_of_dates(dataset, np.arange(start, start + len(part)))
            file.put(part.ids, attention, places)
            progress.add(len(part))


def _rounded(values: NDArray[np.float64]) -> list[float | None]:
    """Return values as JSON, null for NaN."""
    return [round(value, 5) if np.isfinite(value) else None for value in values.tolist()]
