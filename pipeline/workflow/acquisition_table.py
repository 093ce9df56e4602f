"""The decisions on the acquisitions of a run: one row for every one found, used or not.

acquisitions.json is what the later stages read; acquisitions.csv, beside it, is for people. Only
the standard library is imported: the Snakefile reads the table.
"""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from geo.errors import InputError
from pipeline.workflow.writing import replacing, write_text


class AcquisitionRow(NamedTuple):
    """One acquisition; the fields are the columns of the table, in order.

    `offset` is what was added to the digital numbers of the bands used, as the product states it:
    one number, or one a band (B02=-1000 B03=-900). `cloud_fraction` is 0 to 1, or None where it
    is not known. `reason` says why an acquisition is not used, or that it is `merged`: used to
    complete the one of its tile and day that stands before it. `masks` are the cloud masks that are
    looked at (SCL CLDPRB), `mask_file` is the one of the user's own.
    `radiometry` says whether the pixels agree with the offset: agrees, undecided, or empty where
    they were not looked at.
    """

    acquisition: str
    tile: str
    date: datetime.date
    product: Path
    format: str
    baseline: str
    platform: str
    offset: str
    cloud_fraction: float | None
    used: bool
    reason: str
    masks: str = ""
    mask_file: Path | None = None
    radiometry: str = ""


def write_acquisitions(path: Path, rows: Iterable[AcquisitionRow]) -> None:
    """Write the decisions as JSON, one object a line, whole or not at all."""
    lines = (
        json.dumps(
            {
                "id": row.acquisition,
                **{k: v for k, v in row._asdict().items() if k != "acquisition"},
                "date": row.date.isoformat(),
                "product": str(row.product),
                "mask_file": None if row.mask_file is None else str(row.mask_file),
            },
            ensure_ascii=False,
            allow_nan=False,
        )
        for row in rows
    )
    write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")


def write_view(path: Path, rows: Iterable[AcquisitionRow]) -> None:
    """Write the decisions as CSV, for people: no stage reads it."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(AcquisitionRow._fields)
        for row in rows:
            cloudy = "" if row.cloud_fraction is None else f"{row.cloud_fraction:.6g}"
            as_text = {"cloud_fraction": cloudy, "used": "yes" if row.used else "no"}
            writer.writerow((row._asdict() | as_text).values())


def read_acquisitions(path: Path) -> list[AcquisitionRow]:
    """Read the decisions, in order of date and tile, those to merge in the order of merging.

    Raises
    ------
    InputError
        If the file is not what `write_acquisitions` writes.
    """
    try:
        return [_parse(values) for values in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not hold the decisions of the stage index ({error!r}). Delete it and "
            "rerun that stage."
        ) from error


def _parse(values: Mapping[str, Any]) -> AcquisitionRow:
    """Make the row of one object."""
    fields = {**values, "acquisition": values["id"]}
    del fields["id"]
    fields["date"] = datetime.date.fromisoformat(values["date"])
    fields["product"] = Path(values["product"])
    fields["mask_file"] = None if values["mask_file"] is None else Path(values["mask_file"])
    return AcquisitionRow(**fields)


def read_used(path: Path) -> dict[str, AcquisitionRow]:
    """Read the acquisitions that are used, by id, in the table's order."""
    return _read_used(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read_used(path: Path, _: int) -> dict[str, AcquisitionRow]:
    """Read the acquisitions that are used once for all jobs, each of which asks for them."""
    return {row.acquisition: row for row in read_acquisitions(path) if row.used}
