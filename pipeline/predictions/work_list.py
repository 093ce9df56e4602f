"""The tables for checks in the field: the work list, and the sample to assess the verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geo.register.geopackage_contents import Field
from pipeline.predictions.columns import COLUMNS, free_names
from pipeline.predictions.columns import FIELDS as PREDICTED_FIELDS
from pipeline.workflow.rounding import rounded

# A point on the parcel, in degrees of WGS 84; empty without outlines.
POINT = ["longitude", "latitude"]
# Columns of the work list, before the register's own columns.
TO_CHECK = [
    *("doubt_rank", "parcel_id", "verdict", "reason", "area_ha", "tile", *POINT),
    *("declared_code", "declared_name", "declared_probability"),
    *("pred_code", "pred_name", "confidence"),
    *("neighbours", "n_neighbours", "n_neighbours_as_predicted", "n_pixels", "n_dates"),
]
# Columns of the sample. The predicted class is left out, so that it leads nobody who visits.
DESIGN = [
    *("population", "stratum_size", "stratum_sample", "stratum_rank"),
    *("inclusion_probability", "weight"),
]
SAMPLE = [
    *("parcel_id", "verdict", "declared_code", "declared_name", *DESIGN),
    *("area_ha", "tile", *POINT),
]
# The column of the sample's CSV that is filled in.
FOUND = "found_code"
# A declaration is compared with those of this many parcels nearest to it.
N_NEIGHBOURS = 5
# Columns of the work list: {name: title and meaning}, as for the predictions.
FIELDS = PREDICTED_FIELDS | {
    "reason": Field("Reason", "Why to check the declaration."),
    "longitude": Field("Longitude", "Of a point on the parcel, degrees, WGS 84."),
    "latitude": Field("Latitude", "Of a point on the parcel, degrees, WGS 84."),
    "neighbours": Field("Neighbours declare", "Number of neighbours by their declared class."),
    "n_neighbours": Field("Neighbours", "Nearest parcels that declare a class, at most 5."),
    "n_neighbours_as_predicted": Field(
        "Neighbours as predicted", "Those that declare the class that is predicted here."
    ),
}


def list_to_check(
    rows: pd.DataFrame, points: pd.DataFrame, declared: NDArray[np.object_]
) -> pd.DataFrame:
    """Make the work list.

    Parameters
    ----------
    rows
        Rows of the predictions, in the order of the list, with the register's columns.
    points
        Columns `POINT` by parcel id.
    declared
        object (n, N_NEIGHBOURS): names of the classes that the nearest parcels declare, None where
        there are fewer.
    """
    predicted = rows["pred_name"].to_numpy(object)
    n_neighbours = (declared != None).sum(axis=1)  # noqa: E711 (of every value)
    as_predicted = (declared == predicted[:, None]).sum(axis=1)
    own = rows.assign(
        reason=[
            say_why(*values)
            for values in zip(
                *(rows["declared_name"], predicted, rows["confidence"], as_predicted, n_neighbours),
                strict=True,
            )
        ],
        neighbours=[say_neighbours([n for n in names if n is not None]) for names in declared],
        n_neighbours=n_neighbours,
        n_neighbours_as_predicted=as_predicted,
    )
    return _with_register(own, rows, points, TO_CHECK)


def list_sample(sample: pd.DataFrame, rows: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """Make the table of the sample.

    Parameters
    ----------
    sample
        Table of `draw_sample`.
    rows
        Rows of the predictions, in the order of the sample, with the register's columns.
    points
        Columns `POINT` by parcel id.
    """
    design = sample[DESIGN].set_axis(rows.index)
    return _with_register(rows.join(design), rows, points, SAMPLE)


def _with_register(
    table: pd.DataFrame, rows: pd.DataFrame, points: pd.DataFrame, columns: Sequence[str]
) -> pd.DataFrame:
    """Put the register's columns behind `columns`, under names that are free."""
    names = [str(name) for name in rows if name not in COLUMNS]
    free = free_names(names, "geometry", [*columns, FOUND])
    register = rows[names].rename(columns=free)
    own = table.join(points.reindex(rows["parcel_id"]).set_axis(rows.index))
    return own[[*columns]].join(register).reset_index(drop=True)


def say_why(
    declared: str, predicted: str, confidence: float, as_predicted: int, n_neighbours: int
) -> str:
    """Say why a declaration is doubted: the class that it looks like, and the neighbours'."""
    text = f"declared {declared}, looks like {predicted} ({rounded(100 * confidence, 0, 100)} %)"
    if n_neighbours == 0:
        return text
    plural = "s" if n_neighbours > 1 else ""
    return (
        f"{text}; {as_predicted or 'none'} of {n_neighbours} neighbour{plural} "
        f"{'declare' if as_predicted > 1 else 'declares'} {predicted}"
    )


def say_neighbours(names: Sequence[str]) -> str:
    """Return the declared classes of the neighbours, the most frequent first: 4 maize, 1 barley."""
    return ", ".join(f"{n} {name}" for name, n in Counter(names).most_common())
