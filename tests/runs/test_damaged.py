"""The workflow with an acquisition whose damage shows only while its pixels are decoded."""

import json

import geopandas as gpd
import numpy as np
import pytest
import yaml
from shapely import box

from tests.builders.runs import planned, snakemake
from tests.builders.safe import write_safe, zip_product

DAYS = ("20180405", "20180410", "20180415")


def write_inputs(folder):
    """Write three products as archives, the second damaged, and return its whole content."""
    products = {}
    for day in DAYS:
        product = write_safe(
            folder / "imagery", np.random.default_rng(int(day)), sensed=f"{day}T105031",
            baseline="02.06", bands=("B02", "B8A", "SCL"), size=96, offsets=None, cloudy=5.0,
            ending=".tif",
        )  # fmt: skip
        products[day] = zip_product(product, top=product.path.name)
    damaged = products[DAYS[1]]
    whole = damaged.read_bytes()
    at = whole.index(b"B02_10m.tif") + 5000
    damaged.write_bytes(whole[:at] + b"\xa5" * 1000 + whole[at + 1000 :])
    x, y = 500_000, 5_600_000
    outlines = [
        box(x + right, y - down - 200, x + right + 200, y - down)
        for down in range(0, 960, 240)
        for right in range(0, 960, 240)
    ]
    table = {"ID": [f"p{i:02}" for i in range(16)], "CODE": ["a", "b"] * 8}
    gpd.GeoDataFrame(table, geometry=outlines, crs=32631).to_file(folder / "register.gpkg")
    settings = {
        "run": "run",
        "imagery": {"path": "imagery", "bands": ["B02", "B8A"]},
        "clouds": {"mask": "none"},
        "parcels": {
            "path": "register.gpkg", "id": "ID", "labels": {"crop": "CODE"},
            "classes": {"min_parcels": 2},
        },
        "split": {"folds": 2},
    }  # fmt: skip
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    return damaged, whole


@pytest.mark.slow
def test_only_what_was_not_read_is_read_again(tmp_path):
    damaged, whole = write_inputs(tmp_path)
    run = tmp_path / "results" / "run"
    aside = {"imagery": {"damaged": "set_aside"}}
    result = snakemake(tmp_path, "dataset", "--cores", "1", "--keep-going", check=False)
    assert result.returncode != 0
    assert "set imagery.damaged to set_aside" in result.stderr
    pixels = sorted((run / "extracted").glob("*_N0206.npy"))
    times = [path.stat().st_mtime_ns for path in pixels]
    assert len(pixels) == 2

    snakemake(tmp_path, "dataset", "--cores", "1", **aside)
    assert [path.stat().st_mtime_ns for path in pixels] == times
    dates = json.loads((run / "dataset" / "META" / "dates.json").read_text())
    assert list(dates.values()) == [20180405, 20180415]
    assert not planned(tmp_path, "dataset", **aside)

    # Without the setting, the run is not silently complete.
    result = snakemake(tmp_path, "dataset", "--cores", "1", check=False)
    assert result.returncode != 0
    assert "1 of 3 acquisitions of tile 31UDS cannot be read" in result.stderr

    # A replaced archive is read, and nothing else.
    damaged.write_bytes(whole)
    snakemake(tmp_path, "dataset", "--cores", "1")
    assert [path.stat().st_mtime_ns for path in pixels] == times
    dates = json.loads((run / "dataset" / "META" / "dates.json").read_text())
    assert list(dates.values()) == [20180405, 20180410, 20180415]
