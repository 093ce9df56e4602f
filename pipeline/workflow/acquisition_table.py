"""The table of the acquisitions of a run: one row for each, used or not.

The later stages read acquisitions.json. acquisitions.csv has the same content for people. Only the
standard library is imported, because the Snakefile reads the table.
"""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from geo.errors import reading
from pipeline.workflow.writing import replacing, write_text


class AcquisitionRow(NamedTuple):
    """One acquisition; the fields are the columns of the table, in order.

    Attributes
    ----------
    acquisition, tile, date, product, format, baseline, platform
        As in `geo.imagery.acquisition.Acquisition`; "" if not stated.
    offset
        Offset that is added to the digital numbers of the bands, as the product states it: one
        number, or one for each band (B02=-1000 B03=-900).
    cloud_fraction
        0 to 1, None if unknown.
    used, reason
        Whether the acquisition is used, and why it is not. A used acquisition has the reason
        `merged` if it completes another one of its tile and day, which is in an earlier row.
    masks, mask_file
        The cloud masks that are used (SCL CLDPRB), and the user's mask.
    radiometry
        Whether the pixels agree with the offset: agrees, undecided, or empty if not checked.
    """

    acquisition: str
    tile: str
    date: datetime.date
    product: Path
    format: str = ""
    baseline: str = ""
    platform: str = ""
    offset: str = ""
    cloud_fraction: float | None = None
    used: bool = False
    reason: str = ""
    masks: str = ""
    mask_file: Path | None = None
    radiometry: str = ""


def write_acquisitions(path: Path, rows: Iterable[AcquisitionRow]) -> None:
    """Write the table as JSON, one object in each line; the file is complete or not written."""
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
    """Write the table as CSV for people; no stage reads it."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(AcquisitionRow._fields)
        for row in rows:
            cloudy = "" if row.cloud_fraction is None else f"{row.cloud_fraction:.6g}"
            as_text = {"cloud_fraction": cloudy, "used": "yes" if row.used else "no"}
            writer.writerow((row._asdict() | as_text).values())


def read_acquisitions(path: Path) -> list[AcquisitionRow]:
    """Read the table, sorted by date and tile, and by the order of merging within one day.

    Raises
    ------
    InputError
        If the file is not what `write_acquisitions` writes.
    """
    remedy = "Write it again: snakemake -R index."
    with reading(path, "the table of acquisitions as the stage index writes it", remedy):
        return [
            AcquisitionRow(
                acquisition=row.pop("id"),
                date=datetime.date.fromisoformat(row.pop("date")),
                product=Path(row.pop("product")),
                mask_file=None if (own := row.pop("mask_file")) is None else Path(own),
                **row,
            )
            for row in json.loads(path.read_text(encoding="utf-8"))
        ]


def read_used(path: Path) -> dict[str, AcquisitionRow]:
    """Read the acquisitions that are used, by id, in the order of the table."""
    return _read_used(path, path.stat().st_mtime_ns)


def read_positions(path: Path) -> dict[str, int]:
    """Read the positions of the acquisitions that are used in the order of the table, by id."""
    return _positions(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _positions(path: Path, time: int) -> dict[str, int]:
    return {acquisition: k for k, acquisition in enumerate(_read_used(path, time))}


def read_tiles(path: Path) -> dict[str, list[str]]:
    """Read the ids of the acquisitions that are used, by tile, in the order of the table."""
    return _read_tiles(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read_tiles(path: Path, time: int) -> dict[str, list[str]]:
    tiles: dict[str, list[str]] = {}
    for name, row in _read_used(path, time).items():
        tiles.setdefault(row.tile, []).append(name)
    return tiles


@lru_cache(maxsize=1)
def _read_used(path: Path, _time: int) -> dict[str, AcquisitionRow]:
    """Read the used acquisitions once for all jobs; the file's time tells versions apart."""
    return {row.acquisition: row for row in read_acquisitions(path) if row.used}
