"""Fetch the STAC items of a run once, so that every later stage reads the same."""

from __future__ import annotations

from pathlib import Path

from geo.formats.stac_search import Search, save_items
from geo.imagery.acquisition import is_address
from geo.register.reading import read_bounds
from pipeline.workflow.settings import IndexSettings


def fetch_items(
    imagery: str | Path, items: Path, register: Path | None, settings: IndexSettings
) -> None:
    """Write the items of a collection, catalogue or API as files of their own.

    Parameters
    ----------
    imagery
        Path or address.
    items
        Folder, written.
    register
        Parcels whose bounds are searched where imagery.bbox is not set.
    settings
        imagery, and parcels.layer.
    """
    wanted = settings.imagery
    bbox = wanted.bbox
    if bbox is None and register is not None and is_address(imagery):  # which may be an API
        bbox = list(read_bounds(register, settings.parcels.layer))
    source = imagery if is_address(imagery) else Path(imagery)
    save_items(source, items, Search(wanted.collections, bbox, wanted.start, wanted.end))
