"""Attention and occlusion: on which dates the models look, and which dates a prediction needs.

Attention is a weight by which a model averages dates. Whether it explains a prediction is disputed
(Jain and Wallace 2019, Attention is not Explanation; Wiegreffe and Pinter 2019, Attention is not
not Explanation). Occlusion measures it: dates are left out, and the log-probability of the
predicted class falls, or does not (Zeiler and Fergus 2014, Visualizing and Understanding
Convolutional Networks, section 4.2). Where both rank the dates alike, attention explains.

A single date is seldom needed, because its neighbours show nearly the same. Therefore also all
dates within WINDOW_DAYS of a date are left out together, and compared with their attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from models.crop_model import CropModel
from models.model_files import OUT_OF_FOLD_FILE
from models.pixel_sets import PixelSets
from pipeline.classes.crop_class import CropClass
from pipeline.dataset.model_inputs import load_existing, load_trained, read_inputs
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.evaluation.out_of_fold import (
    ensemble_probabilities,
    probabilities_at,
    read_existing,
    read_tested,
)
from pipeline.workflow.settings import ExplainSettings, PredictSettings
from pipeline.workflow.writing import finite_or_null

# Dates that are left out together are at most this many days from the one in the middle.
WINDOW_DAYS = 30
# Parcels of every predicted class for which dates are left out.
SAMPLE_OF_CLASS = 50
# Ranks of fewer dates say nothing.
FEWEST_DATES = 3
# Share of the dates of a parcel that are left out together because of their attention.
SHARE = 0.25
# Parcels whose probabilities without each date are in memory.
_TOGETHER = 500
# A probability of 0 has no logarithm.
_TINY = 1e-300


@dataclass(frozen=True, eq=False)
class Explainer:
    """The models of a run as they predicted its N parcels.

    Attributes
    ----------
    data
        The parcels.
    classes
        Classes in order of the class index.
    trained
        The model of every fold.
    temperatures
        float64 (number of folds,), those of the predictions.
    fold_of
        int64 (N,), from 0: the fold whose model predicted the parcel, because it was not trained on
        it; -1: all of them.
    batch_size
        Parcels in a batch.
    """

    data: PixelSets
    classes: list[CropClass]
    trained: list[CropModel]
    temperatures: NDArray[np.float64]
    fold_of: NDArray[np.int64]
    batch_size: int

    @classmethod
    def load(
        cls,
        dataset: PixelSetDataset,
        models: Path,
        folds: Path | None,
        settings: PredictSettings | ExplainSettings,
        device: torch.device,
    ) -> Explainer:
        """Load what the stage predict predicted with.

        Parameters
        ----------
        dataset
            Pixel-Set dataset.
        models
            Folder of Fold_<k>/ and out_of_fold.parquet.
        folds
            The folds that split wrote; None for existing weights.
        settings
            predict.batch_size; for weights of the reference, model and train.pixels.
        device
            Device of the models.

        Raises
        ------
        InputError
            If the models do not fit the dataset.
        """
        fold_of = np.full(len(dataset), -1, np.int64)
        if folds is None:
            trained = load_existing(models, dataset, settings, device)
            about = trained[0].description
            pairs = zip(about.class_codes, about.class_names, strict=True)
            classes = [CropClass(code, name) for code, name in pairs]
            tested = read_existing(models, len(trained), trained[0].n_classes)
        else:
            parts = dataset.folds(folds)
            trained = load_trained(models, len(parts), device)
            classes = dataset.shown_classes
            tested = read_tested(models / OUT_OF_FOLD_FILE, dataset, parts)
            for number, part in enumerate(parts):
                fold_of[part.test] = number
        temperatures = np.ones(len(trained)) if tested is None else tested.temperatures
        data = read_inputs(dataset, trained, classes)
        batch_size = settings.predict.batch_size
        return cls(data, classes, trained, temperatures, fold_of, batch_size)

    def of_part(self, start: int, part: PixelSets) -> Explainer:
        """Return the explainer of consecutive parcels, from parcel `start` on."""
        return replace(self, data=part, fold_of=self.fold_of[start : start + len(part)])

    def attention(self, parcels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute the attention on every date, a mean over heads, members and models.

        Parameters
        ----------
        parcels
            int64 (n,).

        Returns
        -------
        float32 (n, T). Each row adds up to 1. It is 0 on dates that the models do not use, because
        they are masked or padding.
        """
        found = np.empty((len(parcels), self.data.n_dates), np.float32)
        for rows, models, _ in self._by_models(parcels):
            own = [m.attention(self.data, parcels[rows], self.batch_size) for m in models]
            found[rows] = np.mean(own, axis=0)
        return found

    def probabilities_without(
        self, parcels: NDArray[np.int64], left_out: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Compute the calibrated probabilities without some dates.

        Parameters
        ----------
        parcels
            int64 (n,).
        left_out
            bool (n, E, T): of each parcel, E sets of dates to leave out.

        Returns
        -------
        float64 (n, E, K); NaN where no date is left.
        """
        n, n_sets, _ = left_out.shape
        found = np.empty((n, n_sets, len(self.classes)))
        for rows, models, temperatures in self._by_models(parcels):
            scores = [
                model.log_probabilities_without(
                    *(self.data, parcels[rows], left_out[rows], self.batch_size)
                ).reshape(-1, len(self.classes))
                for model in models
            ]
            if len(models) == 1:
                own = probabilities_at(scores[0], temperatures[0])
            else:
                own = ensemble_probabilities(scores, temperatures)
            found[rows] = own.reshape(len(rows), n_sets, -1)
        return found

    def _by_models(
        self, parcels: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], Sequence[CropModel], NDArray[np.float64]]]:
        """Yield positions in `parcels`, and the models and temperatures that predict them."""
        folds = self.fold_of[parcels]
        for fold in np.unique(folds).tolist():
            own = slice(None) if fold < 0 else slice(fold, fold + 1)
            yield np.flatnonzero(folds == fold), self.trained[own], self.temperatures[own]


@dataclass(frozen=True, eq=False)
class Occlusion:
    """n parcels without each of their T dates, and without each window of dates.

    Attributes
    ----------
    attention, window_attention
        float32 (n, T), on a date, and on all dates within WINDOW_DAYS of it.
    chosen
        int64 (n,), index of the class that all dates together predict.
    probability
        float64 (n,), its calibrated probability.
    fall, window_fall
        float64 (n, T): by how much the log-probability of this class falls without the date, and
        without the dates within WINDOW_DAYS of it. NaN where the models do not use the date, or no
        date is left.
    window_probability, window_class
        float64 (n, T), probability of this class without the window, and int64 (n, T), the most
        probable class then, -1 where `window_fall` is NaN.
    """

    attention: NDArray[np.float32]
    window_attention: NDArray[np.float32]
    chosen: NDArray[np.int64]
    probability: NDArray[np.float64]
    fall: NDArray[np.float64]
    window_fall: NDArray[np.float64]
    window_probability: NDArray[np.float64]
    window_class: NDArray[np.int64]


def occlude(explainer: Explainer, parcels: NDArray[np.int64]) -> Occlusion:
    """Leave out each date of some parcels, int64 (n,), and each window of dates, in turn."""
    attention = explainer.attention(parcels)
    days = explainer.data.days[parcels]
    n, n_dates = attention.shape
    is_used = attention > 0
    near = np.abs(days[:, :, None] - days[:, None]) <= WINDOW_DAYS  # (n, window, T)
    alone = np.broadcast_to(np.eye(n_dates, dtype=bool), near.shape)
    nothing = np.zeros((n, 1, n_dates), bool)
    left_out = np.concatenate([nothing, alone, near], axis=1)
    parts = [
        _of_sets(explainer, parcels[first : first + _TOGETHER], left_out[first : first + _TOGETHER])
        for first in range(0, max(n, 1), _TOGETHER)
    ]
    chosen, own, likely = (np.concatenate(values) for values in zip(*parts, strict=True))
    log = np.log(np.maximum(own, _TINY))
    falls = np.where(np.tile(is_used, 2), log[:, :1] - log[:, 1:], np.nan)
    is_known = np.isfinite(falls[:, n_dates:])
    classes = np.where(is_known, likely[:, 1 + n_dates :], -1)
    return Occlusion(
        attention=attention,
        window_attention=(near @ attention[:, :, None])[:, :, 0],
        chosen=chosen,
        probability=own[:, 0],
        fall=falls[:, :n_dates],
        window_fall=falls[:, n_dates:],
        window_probability=np.where(is_known, own[:, 1 + n_dates :], np.nan),
        window_class=classes,
    )


def _of_sets(
    explainer: Explainer, parcels: NDArray[np.int64], left_out: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Leave out E sets of dates of m parcels, the first of which is empty.

    Returns
    -------
    The class that all dates predict, int64 (m,); its probability without each set, float64 (m, E);
    and the most probable class without it, int64 (m, E). The probabilities of all classes are held
    for these parcels only.
    """
    probabilities = explainer.probabilities_without(parcels, left_out)
    likely = np.nan_to_num(probabilities).argmax(axis=2)
    chosen = likely[:, 0]
    own = np.take_along_axis(probabilities, chosen[:, None, None], axis=2)[:, :, 0]
    return chosen, own, likely


def share_changed(
    explainer: Explainer, parcels: NDArray[np.int64], found: Occlusion, rng: np.random.Generator
) -> tuple[float, float]:
    """Leave out the share SHARE of each parcel's dates: those with most attention, or random ones.

    Parameters
    ----------
    explainer, parcels
        As for `occlude`.
    found
        What `occlude` returned for them.
    rng
        Draws the random dates.

    Returns
    -------
    Shares of the parcels whose class changes without the dates with most attention, and without as
    many random ones; NaN without parcels.
    """
    is_used = found.attention > 0
    number = np.maximum(np.rint(SHARE * is_used.sum(axis=1)), 1)[:, None]
    orders = found.attention, np.where(is_used, rng.random(is_used.shape), -1)
    left_out = [(-order).argsort(axis=1).argsort(axis=1) < number for order in orders]
    probabilities = explainer.probabilities_without(parcels, np.stack(left_out, axis=1))
    is_known = np.isfinite(probabilities).all(axis=(1, 2))
    changes = probabilities[is_known].argmax(axis=2) != found.chosen[is_known, None]
    attended, random = changes.mean(axis=0).tolist() if len(changes) else (np.nan, np.nan)
    return attended, random


def rank_correlations(
    attention: NDArray[np.floating], fall: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Correlate the ranks of the dates by attention and by fall (Spearman), for each parcel.

    Parameters
    ----------
    attention, fall
        float (n, T); dates where `fall` is NaN are left out.

    Returns
    -------
    float64 (n,), from -1 to 1; NaN with fewer than FEWEST_DATES dates, or if all dates of a parcel
    have the same attention or the same fall.
    """
    is_used = np.isfinite(fall)
    ranks = [
        pd.DataFrame(np.where(is_used, values, np.nan)).rank(axis=1).to_numpy(np.float64)
        for values in (attention, fall)
    ]
    counts = is_used.sum(axis=1)
    a, b = (np.where(is_used, own - (counts[:, None] + 1) / 2, 0) for own in ranks)
    norm = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    is_defined = (counts >= FEWEST_DATES) & (norm > 0)
    found: NDArray[np.float64] = np.full(len(a), np.nan)
    np.divide((a * b).sum(axis=1), norm, out=found, where=is_defined)
    return found


def describe_correlations(found: Occlusion, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    """Describe the rank correlations of some parcels, as JSON values.

    Parameters
    ----------
    found
        Occlusion of n parcels.
    chosen
        bool (n,), the parcels to describe.

    Returns
    -------
    dict
        by_date, by_window: mean of the parcels' correlations, its 95 % interval from low to high,
        and the number n of parcels in which it is defined. A value is null if n is 0, the interval
        if n is 1.
    """
    pairs = {
        "by_date": (found.attention, found.fall),
        "by_window": (found.window_attention, found.window_fall),
    }
    return {
        name: _mean(rank_correlations(attention[chosen], fall[chosen]))
        for name, (attention, fall) in pairs.items()
    }


def _mean(values: NDArray[np.float64]) -> dict[str, float | None]:
    """Return mean, 95 % interval of the mean, and number of the values that are not NaN."""
    values = values[np.isfinite(values)]
    n = len(values)
    mean = values.mean() if n else np.nan
    half = 1.96 * values.std(ddof=1) / n**0.5 if n > 1 else np.nan
    described = {"mean": float(mean), "low": float(mean - half), "high": float(mean + half)}
    return {**finite_or_null(described), "n": n}


def changed_by_date(
    found: Occlusion, chosen: NDArray[np.bool_], places: NDArray[np.int64], n_dates: int
) -> NDArray[np.float64]:
    """Return how many of some parcels get another class without the dates around each date.

    Parameters
    ----------
    found
        Occlusion of n parcels.
    chosen
        bool (n,), the parcels to describe.
    places
        int64 (n, T), positions of their dates among all; -1 for padding.
    n_dates
        Number of all dates.

    Returns
    -------
    Shares, float64 (n_dates,); NaN where none of the parcels has the date.
    """
    is_known = (found.window_class >= 0) & (places >= 0) & chosen[:, None]
    changes = found.window_class != found.chosen[:, None]
    n_known = np.bincount(places[is_known], minlength=n_dates)
    n_changes = np.bincount(places[is_known & changes], minlength=n_dates)
    share: NDArray[np.float64] = np.full(n_dates, np.nan)
    np.divide(n_changes, n_known, out=share, where=n_known > 0)
    return share


def choose_sample(
    chosen: NDArray[np.int64], most: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Choose parcels of every class at random, int64, ascending.

    Parameters
    ----------
    chosen
        int (N,), predicted class of every parcel; negative for parcels that are not to be chosen.
    most
        Largest number of parcels of a class.
    rng
        Chooses.
    """
    order = rng.permutation(len(chosen))
    shuffled = pd.Series(chosen[order])
    is_first = (shuffled.groupby(shuffled).cumcount() < most) & (shuffled >= 0)
    return np.sort(order[is_first.to_numpy()])
