"""The command `checked`: what the visits of the sample say about all declarations."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geo.errors import InputError, did_you_mean, first_five
from geo.register.columns import as_text
from geo.register.tables import read_csv
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.evaluation.doubts import Verdict
from pipeline.evaluation.quality_sample import Estimate, estimate_share, strata_of
from pipeline.predictions.work_list import FOUND
from pipeline.workflow.artefacts import artefact
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.rounding import percent

# Written for a crop that no parcel of the run declares.
OTHER = "other"


def checked(run: Path, file: Path) -> None:
    """Estimate the share of wrong declarations from the visits of the sample.

    The terminal shows the share of declarations whose class was not found, with a 95 % interval,
    for each verdict, each declared class and all, and how often the predicted class was found.

    Parameters
    ----------
    run
        Folder of the run, results/<run>.
    file
        predictions/quality_sample.csv of the run, filled in: parcel_id, and in found_code the code
        of the class that was found, `other` for a class that no parcel declares, or nothing for a
        parcel that was not visited. Further columns are ignored.

    Raises
    ------
    InputError
        If the run has no sample, or the file has other parcels or unknown codes.
    """
    paths = RunPaths(run)
    if not run.is_dir():
        raise InputError(f"There is no folder {run}. Name that of a run, such as results/mine.")
    with artefact(paths.quality_sample, "a sample"):
        sample = pd.read_parquet(paths.quality_sample)
        ids, declared = as_text(sample["parcel_id"]), as_text(sample["declared_code"])
    names = PixelSetDataset.open(paths.dataset.root).names
    found = read_found(file, ids, names)
    visited, is_wrong = found != "", found != declared
    predicted = read_predicted(paths.predictions.with_suffix(".parquet"), sample)
    lines = [f"{visited.sum():,} of {len(sample):,} parcels of the sample were visited.", ""]
    strata = strata_of(sample.assign(declared_code=declared), visited, is_wrong)
    of_all = estimate_share(strata)
    lines += _table(
        "Declarations with the verdict",
        {
            **{v: estimate_share(strata[strata["verdict"] == v]) for v in reversed(Verdict)},
            "all": of_all,
        },
    )
    of_class = {
        f"{names[code]} ({code})": estimate_share(strata[strata["declared_code"] == code])
        for code in dict.fromkeys(declared.tolist())
    }
    lines += ["", *_table("Declarations of the class", of_class), ""]
    if np.isnan(of_all.share):
        lines.append("Without visits of each verdict, nothing can be said about all declarations.")
    else:
        shares = of_all.share, of_all.low, of_all.high
        n, low, high = (round(share * of_all.n_parcels) for share in shares)
        total = f"{of_all.n_parcels:,} declarations"
        lines.append(f"About {n:,} of all {total} are wrong ({low:,} to {high:,}).")
        right = estimate_share(strata_of(sample, visited, found == predicted))
        lines.append(f"The predicted class is found on {_say(right)} of their parcels.")
    sys.stdout.write("\n".join(lines) + "\n")


def read_found(file: Path, ids: Iterable[str], names: Mapping[str, str]) -> NDArray[np.object_]:
    """Read the codes that were found, object (n,) in the order of ids; "" without a visit."""
    key = "parcel_id"
    columns, rows = read_csv(file, "a table of visits", key, setting=None)
    for column in (key, FOUND):
        if column not in columns:
            raise InputError(
                f"{file} has no column {column!r}.{did_you_mean(column, columns)} "
                "Fill in predictions/quality_sample.csv of the run."
            )
    visits = [(row[key], row[FOUND]) for row in rows if row[FOUND]]
    codes, known = dict(visits), set(ids)
    if unknown := [i for i, _ in visits if i not in known]:
        raise InputError(
            f"{file}: {len(unknown)} parcels are not in the sample: {first_five(unknown)}. Remove "
            "their rows: parcels that were chosen in another way say nothing about all. If a "
            "spreadsheet changed the ids (001 to 1), read the columns as text there."
        )
    if len(codes) < len(visits):
        repeated = pd.Series([i for i, _ in visits])
        raise InputError(
            f"{file}: parcels with a found class in more than one row: "
            f"{first_five(repeated[repeated.duplicated()].unique())}. Keep one row of each."
        )
    if strange := sorted({code for _, code in visits} - {*names, OTHER}):
        raise InputError(
            f"{file}: {FOUND} has codes that no parcel of the run declares: {first_five(strange)}."
            f"{did_you_mean(strange[0], names)} Known are {first_five(names)}; write {OTHER} for "
            "another crop. If a spreadsheet changed the codes (010 to 10), read them as text there."
        )
    return np.array([codes.get(i, "") for i in ids], object)


def read_predicted(path: Path, sample: pd.DataFrame) -> NDArray[np.object_]:
    """Read the predicted code of every parcel of the sample, object (n,)."""
    ids = sample["parcel_id"].tolist()
    # A rejected row, which can repeat an id, has no verdict.
    chosen = [("parcel_id", "in", ids), ("verdict", "in", [*Verdict])]
    with artefact(path, "a table of predictions"):
        rows = pd.read_parquet(path, columns=["parcel_id", "pred_code"], filters=chosen)
        return as_text(rows.set_index("parcel_id").loc[ids, "pred_code"])


def _table(title: str, estimates: Mapping[str, Estimate]) -> list[str]:
    """Return the lines of a table of estimates."""
    head = (title, "number", "visited", "wrong", "share of wrong ones, 95 % interval")
    rows = [
        (name, f"{e.n_parcels:,}", f"{e.n_visited:,}", f"{e.n_hits:,}", _say(e))
        for name, e in estimates.items()
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(4)]
    return [
        "  ".join((row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3)), row[4]))
        for row in (head, *rows)
    ]


def _say(estimate: Estimate) -> str:
    """Return a share and its interval in per cent."""
    if np.isnan(estimate.share):
        return "not known"
    if estimate.n_visited == estimate.n_parcels:
        return f"{percent(estimate.share)} (all were visited)"
    return f"{percent(estimate.share)} ({percent(estimate.low)} to {percent(estimate.high)})"
