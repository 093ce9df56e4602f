"""Make a run of many acquisitions without imagery, to measure what grows with their number.

    python -m benchmarks.growth FOLDER --tiles 100 --dates 70 [--extracted]
    cd FOLDER; time parcelwise run config.yaml -- -n

The images are empty files. The artefacts of index are complete, so that Snakemake plans all jobs
behind it. With --extracted, the extractions exist as empty files, too, and Snakemake has recorded
them, as after a run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from datetime import date, timedelta
from pathlib import Path

import yaml

from benchmarks.start_up import BANDS, _write_register, snakemake
from pipeline.workflow.acquisition_table import AcquisitionRow, write_acquisitions, write_view
from pipeline.workflow.config import read
from pipeline.workflow.inputs import contents_state
from pipeline.workflow.paths import RunPaths

_GRID = {
    **{"crs": "EPSG:32631", "x_min": 600_000.0, "y_max": 5_000_000.0},
    **{"pixel_width": 10.0, "pixel_height": 10.0, "height": 96, "width": 96},
}


def make_run(folder: Path, tiles: int, dates: int, *, extracted: bool = False) -> Path:
    """Write the imagery and the artefacts of index of a run; return its settings file."""
    imagery, config = folder / "imagery", folder / "config.yaml"
    imagery.mkdir(parents=True)
    _write_register(folder / "register.gpkg")
    config.write_text(
        yaml.safe_dump(
            {
                "run": "growth",
                "imagery": {"path": "imagery", "bands": list(BANDS)},
                "parcels": {
                    "path": "register.gpkg",
                    "labels": {"crop": "crop"},
                    "classes": {"min_parcels": 10},
                },
                "split": {"folds": 2},
                "train": {"epochs": 1, "members": 1, "device": "cpu"},
            }
        )
    )
    os.chdir(folder)
    paths = RunPaths.of("growth")
    rows = []
    for at in range(dates):
        for tile in (f"{31 + n // 100}T{n // 10 % 10 + 65:c}{n % 10 + 65:c}" for n in range(tiles)):
            day = date(2018, 1, 1) + timedelta(3 * at)
            product = Path("imagery") / f"T{tile}_{day:%Y%m%d}.tif"
            product.touch()
            name = f"{day:%Y%m%d}_{tile}"
            rows.append(AcquisitionRow(name, tile, day, product, "geotiff", used=True))
    paths.items.mkdir(parents=True)
    write_acquisitions(paths.acquisitions, rows)
    write_view(paths.acquisitions_view, rows)
    paths.grids.write_text(json.dumps(dict.fromkeys(sorted({r.tile for r in rows}), _GRID)))
    for row in rows:
        paths.item(row.acquisition).touch()
    settings = read(config)
    paths.checked.write_text(contents_state(settings))
    if extracted:
        _touch(paths, rows)
        command = snakemake(config, "--cores", "2", "--touch", "--until", "extract", "--quiet")
        subprocess.run(command, check=True)
    return config


def _touch(paths: RunPaths, rows: list[AcquisitionRow]) -> None:
    """Write empty files in place of the outputs of clean, rasterise and extract."""
    tiles = sorted({row.tile for row in rows})
    files = [paths.register, paths.overlaps]
    paths.parcels.mkdir(parents=True)
    for tile in tiles:
        files += [paths.pixel_index(tile), paths.pixel_counts(tile), paths.label_image(tile)]
    for row in rows:
        name = row.acquisition
        files += [
            *(paths.extracted(name), paths.extracted_valid(name)),
            paths.extraction_counts(name),
        ]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def main() -> None:
    """Make a run in a new folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiles", type=int, default=100)
    parser.add_argument("--dates", type=int, default=70)
    parser.add_argument("--extracted", action="store_true")
    options = parser.parse_args()
    make_run(options.folder.resolve(), options.tiles, options.dates, extracted=options.extracted)


if __name__ == "__main__":
    main()
