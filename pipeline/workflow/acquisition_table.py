"""The table of acquisitions, acquisitions.csv: one row for every one found, used or not.

Only the standard library is imported: the Snakefile reads this table.
"""

from __future__ import annotations

import csv
import datetime
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from geo.errors import InputError
from pipeline.workflow.writing import replacing


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
    """Write the table, whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(AcquisitionRow._fields)
        for row in rows:
            cloudy = "" if row.cloud_fraction is None else f"{row.cloud_fraction:.6g}"
            as_text = {"cloud_fraction": cloudy, "used": "yes" if row.used else "no"}
            writer.writerow((row._asdict() | as_text).values())


def read_acquisitions(path: Path) -> list[AcquisitionRow]:
    """Read the table, in its order: by date and tile, those to merge in the order of merging.

    Raises
    ------
    InputError
        If a column is missing or a value cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in AcquisitionRow._fields if name not in (reader.fieldnames or ())]
        if missing:
            raise InputError(
                f"{path} has no column {', '.join(missing)}: delete it and rerun the stage index."
            )
        return [_parse(path, reader.line_num, values) for values in reader]


def _parse(path: Path, line: int, values: dict[str, str]) -> AcquisitionRow:
    """Read one row."""
    try:
        return AcquisitionRow(
            acquisition=values["acquisition"],
            tile=values["tile"],
            date=datetime.date.fromisoformat(values["date"]),
            product=Path(values["product"]),
            format=values["format"],
            baseline=values["baseline"],
            platform=values["platform"],
            offset=values["offset"],
            cloud_fraction=float(values["cloud_fraction"]) if values["cloud_fraction"] else None,
            used={"yes": True, "no": False}[values["used"]],
            reason=values["reason"],
            masks=values["masks"],
            mask_file=Path(values["mask_file"]) if values["mask_file"] else None,
            radiometry=values["radiometry"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}, line {line}: {error} cannot be read. Delete it and rerun the stage index."
        ) from error


def read_used(path: Path) -> dict[str, AcquisitionRow]:
    """Read the acquisitions that are used, by id, in the table's order."""
    return _read_used(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read_used(path: Path, _: int) -> dict[str, AcquisitionRow]:
    """Read the acquisitions that are used once for all jobs, each of which asks for them."""
    return {row.acquisition: row for row in read_acquisitions(path) if row.used}
