"""The scores of the classes, and those of existing weights on the parcels with a declared class."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geo.errors import InputError, first_five
from models.metrics import class_metrics, confusion_matrix, overall_metrics
from pipeline.classes.crop_class import CropClass
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.dataset.season import Season
from pipeline.workflow.writing import replacing, write_json

Matrix = NDArray[np.int64]

# The metrics of a class under the reference's names, and under those of our tables.
CLASS_METRICS = {"Precision": "precision", "Recall": "recall", "F1-score": "f1", "IoU": "iou"}


def score_classes(classes: Sequence[CropClass], matrix: Matrix) -> list[dict[str, Any]]:
    """Compute the scores of every class: code, name, support, precision, recall, f1 and iou."""
    support = matrix.sum(axis=1).tolist()
    return [
        {"code": crop.code, "name": crop.name, "support": n}
        | {name: values[key] for key, name in CLASS_METRICS.items()}
        for crop, n, values in zip(classes, support, class_metrics(matrix).values(), strict=True)
    ]


def write_per_class(path: Path, classes: Sequence[CropClass], matrix: Matrix) -> None:
    """Write the scores of every class as JSON, and also as CSV, for people."""
    rows = score_classes(classes, matrix)
    write_json(path, rows)
    _write_csv(path.with_suffix(".csv"), rows)


def write_existing_scores(
    path: Path,
    dataset: PixelSetDataset,
    classes: Sequence[CropClass],
    predicted: NDArray[np.integer[Any]],
    probabilities: NDArray[np.floating[Any]],
    season: Season,
) -> None:
    """Score existing weights on all parcels that declare one of their classes.

    It is not known which of these parcels the weights were trained on.

    Parameters
    ----------
    path
        Written: JSON. n_parcels, the number of these parcels; overall, the scores under the
        reference's keys, null without such parcels; per_class; unknown, the declared classes that
        the weights do not know; season, what the training knows about the dates, "" if nothing is
        to be said, null if the dates of the training are not known; refit, see `describe_refit`. A
        CSV of per_class is written beside it.
    dataset
        The dataset.
    classes
        Classes of the weights, in order of the class index.
    predicted
        Class index that is predicted for each parcel of the dataset, (N,).
    probabilities
        Their probabilities of the classes, (N, K).
    season
        The dates of the dataset and of the training.

    Raises
    ------
    InputError
        If the dataset was labelled for other classes.
    """
    # scipy is imported only here: predictions of trained models do without.
    from pipeline.evaluation.refit import describe_refit

    own, known = ([str(crop.code) for crop in each] for each in (dataset.classes, classes))
    if own and own != known:
        raise InputError(
            f"{dataset.paths.classes} has the classes {first_five(own)}, the weights "
            f"{first_five(known)}: it was labelled for other models. Run label again: snakemake -R "
            "label, or -R ingest for an existing dataset."
        )
    labels = dataset.labels
    scored = labels >= 0
    matrix = confusion_matrix(labels[scored], predicted[scored], len(classes))
    codes = (dataset.codes[i] for i in np.flatnonzero(~scored))
    unknown = Counter(code for code in codes if code is not None)
    rows = score_classes(classes, matrix)
    write_json(
        path,
        {
            "n_parcels": int(scored.sum()),
            "overall": overall_metrics(matrix) if scored.any() else None,
            "per_class": rows,
            "unknown": [
                {"code": code, "name": dataset.names.get(str(code), str(code)), "n_parcels": n}
                for code, n in unknown.most_common()
            ],
            "season": None if season.trained is None else season.explain(),
            "refit": describe_refit(probabilities[scored], labels[scored]),
        },
    )
    _write_csv(path.with_suffix(".csv"), rows)


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with replacing(path) as temporary:
        table = pd.DataFrame(rows)
        table.to_csv(temporary, index=False, float_format="%.4f", lineterminator="\r\n")


def wilson_interval(share: float, n: float) -> tuple[float, float]:
    """Compute the 95 % interval of a share among n, which need not be whole.

    Wilson 1927, J. Am. Stat. Assoc. 22, 209-212.
    """
    z = NormalDist().inv_cdf(0.975)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)
