"""Made extracted acquisitions of one tile: what the stage assemble starts from."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import yaml

from benchmarks.pixel_set_data import BANDS, MEDIAN_PIXELS
from geo.grid import Grid
from geo.pixels.pixel_index import PixelIndex
from pipeline.workflow.acquisition_table import AcquisitionRow, write_acquisitions
from pipeline.workflow.paths import RunPaths

TILE = "31TFM"
CLEAR = 0.7
"""Share of the parcels' observations that no cloud hides."""


def make_extracted(folder: Path, n_parcels: int, n_dates: int) -> RunPaths:
    """Write what the stages before assemble leave of a tile, once, the same every time.

    All parcels have the median size of the paper's dataset. A parcel is clear or cloudy as a whole
    on a date.

    Parameters
    ----------
    folder
        Where; what is there already is taken as it is.
    n_parcels, n_dates
        How many.
    """
    run = RunPaths(folder)
    if (folder / "complete").is_file():
        return run
    rng = np.random.default_rng([n_parcels, n_dates])
    for made in (run.extractions, run.pixel_index(TILE).parent):
        made.mkdir(parents=True, exist_ok=True)
    ids = [str(i + 1) for i in range(n_parcels)]
    n_pixels = n_parcels * MEDIAN_PIXELS
    place = np.arange(n_pixels, dtype=np.int32)
    grid = Grid("EPSG:32631", 600_000, 5_000_000, 10, 10, 10_980, 10_980)
    offsets = np.arange(n_parcels + 1) * MEDIAN_PIXELS
    index = PixelIndex(ids, offsets, place // 10_980, place % 10_980, TILE, grid)
    index.save(run.pixel_index(TILE))
    rows = []
    for t in range(n_dates):
        name = f"acquisition_{t:03}"
        day = date(2018, 1, 1) + timedelta(10 * t)
        rows.append(AcquisitionRow(name, TILE, day, folder, "safe", "", "", "0", None, True, ""))
        values = rng.integers(0, 10_000, (BANDS, n_pixels), np.uint16)
        np.save(run.extracted(name), values)
        clear = rng.random(n_parcels) < CLEAR
        np.save(run.extracted_valid(name), np.repeat(clear, MEDIAN_PIXELS))
    write_acquisitions(run.acquisitions, rows)
    run.config.write_text(yaml.safe_dump({"assemble": {"memory_mb": 200}}))
    (folder / "complete").touch()
    return run
