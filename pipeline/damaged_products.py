"""The rows of products that cannot be used: what their names tell of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from pathlib import Path

from geo.acquisitions import AcquisitionError, Damaged
from geo.readers.conventions import date_in, tile_name
from pipeline.acquisition_table import AcquisitionRow


def damaged_rows(damaged: Iterable[Damaged]) -> list[AcquisitionRow]:
    """Make the rows of products that are set aside as `damaged`, one a product.

    Raises
    ------
    AcquisitionError
        If the name of one tells no date: there is no place for it in a time series.
    """
    problems = {item.product: item.problem for item in damaged}
    return [
        AcquisitionRow(
            acquisition=product.stem,
            tile=tile_name(product.stem) or "",
            date=_date_of(product, problem),
            product=product,
            format="",
            baseline="",
            platform="",
            offset="",
            cloud_fraction=None,
            used=False,
            reason="damaged",
        )
        for product, problem in problems.items()
    ]


def _date_of(product: Path, problem: str) -> date:
    """Give the date of sensing that a name holds."""
    # Names of before December 2016 put it behind a V, after the date of processing.
    _, _, sensed = product.stem.rpartition("_V")
    try:
        day = date_in(sensed)
    except ValueError:
        day = None
    if day is None:
        raise AcquisitionError(
            f"{problem}\nIt cannot be set aside, as its name tells no date: remove it, or write "
            "its date into its name."
        )
    return day
