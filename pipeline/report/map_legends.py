"""The legends of the report's map: ways to colour its parcels, which also filter them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.classes.crop_class import CropClass
from pipeline.classes.reasons import Reason
from pipeline.predictions.styles import VERDICT_COLOURS, VIRIDIS
from pipeline.report.class_colours import SHARED, UNPREDICTED
from pipeline.report.scores import THRESHOLDS, is_scored

AGREEMENT = {
    "same": ("predicted as declared", "#2b8cbe"),
    "differs": ("predicted otherwise", "#d7301f"),
    "unknown": ("predicted, declared class unknown to the weights", "#762a83"),
    "uncompared": ("predicted, no declared class to compare with", "#e3c75f"),
    "unpredicted": ("no prediction", UNPREDICTED),
}
NO_PREDICTION = "no prediction"


@dataclass(frozen=True)
class Entry:
    """A line of a legend; parcels of it have `value` in their column."""

    value: str
    label: str
    colour: str


@dataclass(frozen=True)
class Legend:
    """A way to colour the parcels, which can also be filtered by it.

    Attributes
    ----------
    name
        Attribute of the parcels in the tiles: the number of their entry.
    title
        Words for it.
    entries
        In order; the last one is for parcels without a value, or with one that has no entry.
    counts
        int64 (entries,), number of parcels on the map.
    """

    name: str
    title: str
    entries: list[Entry]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, name: str, title: str, entries: Sequence[Entry]) -> Legend:
        """Return a legend that has not counted any parcels."""
        return cls(name, title, list(entries), np.zeros(len(entries), np.int64))

    @property
    def has_values(self) -> bool:
        """Whether any parcel on the map has a value."""
        return bool(self.counts[:-1].any())

    def number(self, values: pd.Series[Any] | NDArray[Any]) -> NDArray[np.int32]:
        """Return the number of the entry of every parcel, int32 (N,)."""
        places = pd.Index([e.value for e in self.entries], dtype=object).get_indexer(
            pd.Index(values, dtype=object)
        )
        return np.where(places < 0, len(self.entries) - 1, places).astype(np.int32)


def legends_of(
    predictions: pd.DataFrame, classes: Sequence[CropClass], colours: Mapping[str, str]
) -> list[Legend]:
    """Return the ways to colour the parcels of a run."""
    trained = [
        Entry(str(crop.code), crop.name, colours[str(crop.code)])
        for crop in classes
        if crop.class_index is not None
    ]
    known = {entry.value for entry in trained}
    pairs = predictions.loc[predictions["declared_code"] != "", ["declared_code", "declared_name"]]
    names = dict(pairs.drop_duplicates("declared_code").itertuples(index=False, name=None))
    others = [Entry(code, names[code] or code, SHARED) for code in sorted({*names} - known)]
    steps = [f"{100 * t:.0f}" for t in (*THRESHOLDS, 1.0)]
    confidence = [
        Entry(str(i), f"{low} to {high}\N{NARROW NO-BREAK SPACE}%", colour)
        for i, (low, high, colour) in enumerate(zip(steps, steps[1:], VIRIDIS, strict=False))
    ]
    return [
        Legend.of(
            "predicted", "Predicted class", [*trained, Entry("", NO_PREDICTION, UNPREDICTED)]
        ),
        Legend.of(
            "declared",
            "Declared class",
            [*trained, *others, Entry("", "nothing declared", UNPREDICTED)],
        ),
        Legend.of(
            "agreement",
            "Predicted and declared class compared",
            [Entry(key, *words) for key, words in AGREEMENT.items()],
        ),
        Legend.of(
            "verdict",
            "Verdict on the declaration",
            [Entry(key, *words) for key, words in VERDICT_COLOURS.items()],
        ),
        Legend.of("certainty", "Confidence", [*confidence, Entry("", NO_PREDICTION, UNPREDICTED)]),
    ]


def agreement(predictions: pd.DataFrame) -> NDArray[np.str_]:
    """Compare predicted with declared classes; return a key of `AGREEMENT` for every parcel.

    Only parcels that are scored are compared. The others have no declared class, or a class that
    the models were not trained on.
    """
    same = (predictions["declared_code"] == predictions["pred_code"]).to_numpy()
    return np.select(
        [
            predictions["pred_source"] == "",
            is_scored(predictions),
            predictions["reason"] == Reason.CLASS_UNKNOWN,
        ],
        ["unpredicted", np.where(same, "same", "differs"), "unknown"],
        "uncompared",
    )
