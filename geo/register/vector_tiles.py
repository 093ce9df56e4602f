"""Write outlines as vector tiles, in one file that a web page reads in parts: PMTiles."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyogrio
from pyogrio._ogr import _register_drivers

from geo.errors import InputError

# PMTiles is written by way of the others.
DRIVERS = ("PMTiles", "MBTiles", "MVT", "SQLite")
MERCATOR = "EPSG:3857"
WORLD_M = 40_075_016.686
LAYER = "parcels"
# A unit of the tiles of this zoom is 1.2 m at the equator and 0.8 m at 45 degrees.
DEEPEST_ZOOM, UNITS_IN_TILE = 12, 8192
# Larger tiles, of low zooms, lose their smallest outlines (GDAL's MAX_SIZE and MAX_FEATURES).
LARGEST_TILE_BYTES, MOST_IN_TILE = 2_000_000, 100_000
# A tile in pixels of a web map, and the smallest view that all outlines are to fit in.
TILE_PIXELS, SMALLEST_VIEW = 512, 300


def write_vector_tiles(path: Path, batches: Iterator[pa.RecordBatch], size_m: float) -> None:
    """Write outlines with their attributes as PMTiles.

    Parameters
    ----------
    path
        Written; its suffix is .pmtiles. An empty file if there are no outlines.
    batches
        Rows with attributes and the column `geometry`, WKB in metres of the web map (EPSG:3857).
        They are read once, and never in memory together.
    size_m
        Longer side of the bounds of all outlines, in these metres.

    Raises
    ------
    InputError
        If they cannot be written, or one that `batches` raises.
    """
    first = next(batches, None)
    if first is None:
        path.touch()
        return
    refused: list[InputError] = []

    def rows() -> Iterator[pa.RecordBatch]:
        # GDAL reads these, and would hide the error behind one of its own.
        try:
            yield from itertools.chain([first], batches)
        except InputError as error:
            refused.append(error)
            raise

    try:
        with _drivers_of_tiles():
            pyogrio.write_arrow(
                pa.RecordBatchReader.from_batches(first.schema, rows()),
                path,
                driver="PMTiles",
                layer=LAYER,
                geometry_name="geometry",
                geometry_type="Unknown",
                crs=MERCATOR,
                dataset_options={
                    "NAME": LAYER,
                    "MINZOOM": lowest_zoom(size_m),
                    "MAXZOOM": DEEPEST_ZOOM,
                    "EXTENT": UNITS_IN_TILE,
                    "MAX_SIZE": LARGEST_TILE_BYTES,
                    "MAX_FEATURES": MOST_IN_TILE,
                },
            )
    except RuntimeError as error:  # also DataSourceError
        if refused:
            raise refused[0] from error
        raise InputError(
            f"The map's tiles cannot be written to {path.parent}: {error}. Is there free space?"
        ) from error


def lowest_zoom(size_m: float) -> int:
    """Return the zoom at which a length, in metres of the web map, fits into a small view."""
    zoom = math.floor(math.log2(WORLD_M * SMALLEST_VIEW / (TILE_PIXELS * size_m)))
    return min(max(zoom, 0), DEEPEST_ZOOM)


@contextmanager
def _drivers_of_tiles() -> Iterator[None]:
    """Give GDAL its drivers of tiles: `sources` keeps those of registers for the whole process."""
    skipped = pyogrio.get_gdal_config_option("OGR_SKIP")
    if skipped is None:
        yield
        return
    _skip(",".join(name for name in skipped.split(",") if name not in DRIVERS))
    try:
        yield
    finally:
        _skip(skipped)


def _skip(names: str) -> None:
    """Let GDAL register all drivers except some, which are separated by commas."""
    pyogrio.set_gdal_config_options({"OGR_SKIP": names})
    _register_drivers()
