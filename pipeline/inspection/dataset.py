"""What an existing Pixel-Set dataset holds, in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.inspection.sizes import say_bytes
from pipeline.inspection.text import say_classes, say_statuses, section
from pipeline.stages.ingest import Examined, examine
from pipeline.workflow.paths import DatasetPaths
from pipeline.workflow.settings import IngestSettings


def say_dataset(source: Path, settings: IngestSettings) -> str:
    """Say which parcels, dates, bands and classes a dataset holds, and what it lacks.

    Raises
    ------
    InputError, InputError
        As the stage ingest.
    """
    found = examine(source, settings)
    lines = [
        *(str(source), f"{len(found.rows):,} parcels", *say_statuses(found.rows), ""),
        *_say_arrays(found, len(found.bands)),
        f"{'files':12}{'; '.join(_say_files(source))}",
    ]
    return section("Dataset", lines) + say_classes(*found.classes)


def _say_arrays(found: Examined, n_bands: int) -> list[str]:
    """Say how many dates and pixels the arrays have, and how large they are."""
    parcels = list(found.usable.values())
    dates = sorted({day for parcel in parcels for day in parcel.dates})
    pixels = np.array([parcel.n_pixels for parcel in parcels])
    size = sum(int(np.prod(parcel.shape)) * parcel.dtype.itemsize for parcel in parcels)
    types = sorted({str(parcel.dtype) for parcel in parcels})
    return [
        f"{'dates':12}{_span([len(parcel.dates) for parcel in parcels])} a parcel, from "
        f"{dates[0]} to {dates[-1]}",
        f"{'bands':12}{n_bands}: {' '.join(found.bands)}",
        f"{'pixels':12}{pixels.sum():,}, {_span(pixels.tolist())} a parcel, median "
        f"{np.median(pixels):.0f}",
        f"{'DATA':12}{say_bytes(size)} of {', '.join(types)}",
        f"{'labels':12}{', '.join(found.labels) or 'none'}",
    ]


def _say_files(source: Path) -> list[str]:
    """Say what a dataset may have beside arrays and labels, and what becomes of what it lacks."""
    given = DatasetPaths(source)
    normalisation = given.given_normalisation
    features, positions = given.features.is_file(), given.positions.is_file()
    return [
        "normalisation computed" if normalisation is None else normalisation.name,
        given.features.name if features else "no geometric features",
        given.positions.name if positions else "no positions (no spatial blocks, no map)",
        "cloudy pixels marked (VALID)" if given.valid.is_dir() else "no VALID: all count as clear",
    ]


def _span(counts: Sequence[int]) -> str:
    """Say the least and the greatest number."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
