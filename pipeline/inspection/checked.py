"""The command `checked`: what the visits of the sample say about all declarations."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from geo.errors import InputError, did_you_mean, first_five
from geo.register.tables import read_csv
from pipeline.evaluation.doubts import Verdict
from pipeline.evaluation.quality_sample import Estimate, estimate_share, strata_of
from pipeline.predictions.work_list import FOUND
from pipeline.workflow.rounding import percent

# Written for a crop that no parcel of the sample declares.
OTHER = "other"
# Columns of the sample that are read.
KEY = "parcel_id"
TEXTS = [KEY, FOUND, "verdict", "declared_code", "declared_name"]
NUMBERS = ["population", "stratum_size", "stratum_sample"]
FILL_IN = "Fill in predictions/quality_sample.csv of the run, and keep its columns and rows."


def checked(file: Path) -> None:
    """Estimate the share of wrong declarations from the visits of the sample.

    The terminal shows the share of declarations whose class was not found, with a 95 % interval:
    for each verdict, each declared class and all.

    Parameters
    ----------
    file
        predictions/quality_sample.csv of a run, filled in: found_code is the code of the class that
        was found, `other` for a class that no parcel of the sample declares, or empty for a parcel
        that was not visited. The run may have changed since.

    Raises
    ------
    InputError
        If the file lacks columns or rows of the sample, or has unknown codes.
    """
    sample = read_visits(file)
    visited = (sample[FOUND] != "").to_numpy(bool)
    strata = strata_of(sample, visited, (sample[FOUND] != sample["declared_code"]).to_numpy(bool))
    names = dict(zip(sample["declared_code"], sample["declared_name"], strict=True))
    of_all = estimate_share(strata)
    of_verdict = {
        str(v): estimate_share(strata[strata["verdict"] == v])
        for v in reversed(Verdict)
        if v in set(strata["verdict"])
    }
    of_class = {
        f"{name} ({code})": estimate_share(strata[strata["declared_code"] == code])
        for code, name in names.items()
    }
    lines = [
        f"{visited.sum():,} of {len(sample):,} parcels of the sample were visited.",
        *("", *_table("Declarations with the verdict", {**of_verdict, "all": of_all})),
        *("", *_table("Declarations of the class", of_class)),
        *("", _say_all(of_all)),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def read_visits(file: Path) -> pd.DataFrame:
    """Read a sample that was filled in: columns `TEXTS` as text and `NUMBERS`."""
    columns, rows = read_csv(file, "a table of visits", KEY, setting=None)
    for column in (*TEXTS, *NUMBERS):
        if column not in columns:
            hint = did_you_mean(column, columns)
            raise InputError(f"{file} has no column {column!r}.{hint} {FILL_IN}")
    table = pd.DataFrame(rows, columns=columns, dtype=object)[[*TEXTS, *NUMBERS]]
    numbers = table[NUMBERS].apply(pd.to_numeric, errors="coerce")
    is_wrong = ~table["verdict"].isin([*Verdict]) | ~(numbers > 0).all(axis=1)
    if is_wrong.any():
        raise InputError(
            f"{file}: rows without a verdict, or whose {', '.join(NUMBERS)} are not numbers: "
            f"{first_five(table.loc[is_wrong, KEY])}. {FILL_IN}"
        )
    table[NUMBERS] = numbers
    _check_rows(file, table)
    codes = table["declared_code"].unique().tolist()
    if strange := sorted({*table[FOUND]} - {*codes, OTHER, ""}):
        raise InputError(
            f"{file}: {FOUND} has codes that no parcel of the sample declares: "
            f"{first_five(strange)}.{did_you_mean(strange[0], codes)} Write {OTHER} for another "
            f"crop than {first_five(codes)}. If a spreadsheet changed the codes (010 to 10), open "
            "the file with all columns as text."
        )
    return table


def _check_rows(file: Path, table: pd.DataFrame) -> None:
    """Check that a table has every row of the sample once."""
    repeated = table.loc[table[KEY].duplicated(), KEY]
    strata = table.groupby(["verdict", "declared_code"])
    sizes = strata[["stratum_size", "stratum_sample"]].first().assign(found=strata.size())
    short = sizes[sizes["stratum_sample"] != sizes["found"]]
    is_whole = len(table) > 0 and sizes["stratum_size"].sum() == table["population"].iloc[0]
    if repeated.empty and short.empty and is_whole:
        return
    what = "rows of the sample are missing"
    if not repeated.empty:
        what = f"parcels are in more than one row: {first_five(repeated.unique())}"
    elif not short.empty:
        verdict, code = short.index[0]
        what = (
            f"the sample has {short['stratum_sample'].iloc[0]:.0f} parcels with the verdict "
            f"{verdict} and the code {code}, here are {short['found'].iloc[0]}"
        )
    raise InputError(
        f"{file}: {what}. Keep every row of predictions/quality_sample.csv once, and leave {FOUND} "
        "empty where nobody was: parcels that were chosen in another way say nothing about all."
    )


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


def _say_all(estimate: Estimate) -> str:
    """Return a sentence about the number of wrong declarations."""
    if np.isnan(estimate.share):
        return "Without visits of each verdict, nothing can be said about all declarations."
    shares = (estimate.share, estimate.low, estimate.high)
    n, low, high = (round(share * estimate.n_parcels) for share in shares)
    return (
        f"About {n:,} of all {estimate.n_parcels:,} declarations are wrong ({low:,} to {high:,})."
    )
