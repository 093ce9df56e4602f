"""The rows of products that cannot be used: what their names tell of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from geo.errors import InputError
from geo.formats.conventions import date_in, tile_name
from geo.imagery.acquisition import Damaged
from pipeline.workflow.acquisition_table import AcquisitionRow

# Names of before December 2016 put the date of sensing after that of processing:
# S2A_OPER_PRD_MSIL1C_PDMC_20160607T183552_R094_V20160607T105031_20160607T105031
_LONG_NAME = re.compile(r"_V(20\d{6})T\d{6}")


def damaged_rows(damaged: Iterable[Damaged]) -> list[AcquisitionRow]:
    """Make the rows of products that are set aside as `damaged`, one a product.

    Raises
    ------
    InputError
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
    long_name = _LONG_NAME.search(product.stem)
    try:
        day = date_in(long_name[1] if long_name else product.stem)
    except ValueError:
        day = None
    if day is None:
        raise InputError(
            f"{problem}\nIt cannot be set aside, as its name tells no date: remove it, or write "
            "its date into its name."
        )
    return day
