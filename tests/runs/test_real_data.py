"""Real Sentinel-2 imagery: every pixel of the dataset equals a brute-force read."""

import csv
import json

import geopandas
import netCDF4
import numpy as np
import pytest
import rasterio
import rasterio.mask
import yaml
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from geo.pixels.pixel_index import PixelIndex
from tests.builders.paths import DATA
from tests.builders.runs import (
    CONFIGS,
    example,
    prepare_dataset,
    read_pixels,
    read_valid,
    snakemake,
)

FLANDERS, SLOVENIA = DATA / "flanders-2018", DATA / "slovenia-l1c"
BANDS = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]


def needs(folder):
    return pytest.mark.skipif(not folder.is_dir(), reason=f"the data {folder.name} is missing")


def read_ledger(run):
    with run.ledger.with_suffix(".csv").open(newline="") as file:
        return list(csv.DictReader(file))


def masked_parcel(source, geometry):
    """Return the pixels whose centre is in a parcel, by rasterio.mask: bool (rows, columns)."""
    outside, _, _ = rasterio.mask.raster_geometry_mask(source, [geometry], crop=False)
    return ~outside


@pytest.fixture(scope="module")
def slovenia(tmp_path_factory):
    settings = example(
        "slovenia",
        imagery={"path": SLOVENIA},
        parcels={"path": SLOVENIA / "landuse.gpkg"},
        clouds={"fill": "none"},
    )
    return prepare_dataset(settings, tmp_path_factory.mktemp("slovenia"))


@needs(SLOVENIA)
def test_slovenian_pixel_counts_equal_rasterio_mask(slovenia):
    parcels = geopandas.read_file(SLOVENIA / "landuse.gpkg")
    rows = read_ledger(slovenia)
    assert [row["parcel_id"] for row in rows] == list(parcels["index"])
    with rasterio.open(SLOVENIA / "S2L1C_20150711.tif") as source:
        counts = [int(masked_parcel(source, g).sum()) for g in parcels.geometry]
    assert [int(row["n_pixels"]) for row in rows] == counts
    assert sum(count == 0 for count in counts) == sum(
        row["reason"] == "too_few_pixels" for row in rows
    )


@needs(SLOVENIA)
def test_slovenian_arrays_equal_a_brute_force_read(slovenia):
    parcels = geopandas.read_file(SLOVENIA / "landuse.gpkg").set_index("index")
    sizes = json.loads(slovenia.dataset.sizes.read_text())
    dates = json.loads(slovenia.dataset.dates.read_text())
    assert list(dates.values()) == [20150711, 20150731, 20150820, 20150830, 20150909]
    for t, date in enumerate(dates.values()):
        with rasterio.open(SLOVENIA / f"S2L1C_{date}.tif") as source:
            values = source.read([source.descriptions.index(b) + 1 for b in BANDS])
            expected = np.floor(values * 10_000.0 + 0.5).astype(np.uint16)
            for parcel_id in sizes:
                inside = masked_parcel(source, parcels.geometry[parcel_id])
                pixels = read_pixels(slovenia.dataset, parcel_id)
                assert np.array_equal(pixels[t], expected[:, inside])


@pytest.fixture(scope="module")
def flanders(tmp_path_factory):
    settings = example(
        "flanders",
        imagery={"path": FLANDERS, "start": "2018-03-01", "end": "2018-06-30"},
        parcels={"path": FLANDERS / "parcels_subdivided.gpkg"},
        clouds={"fill": "none"},
    )
    return prepare_dataset(settings, tmp_path_factory.mktemp("flanders"))


@needs(FLANDERS)
def test_flemish_pixel_counts_equal_rasterio_mask(flanders):
    parcels = geopandas.read_file(FLANDERS / "parcels_subdivided.gpkg")
    transform = from_origin(501_360, 5_629_680, 10, 10)
    with MemoryFile() as file, file.open(
        driver="GTiff", width=64, height=64, count=1, dtype="uint8",
        crs=parcels.crs, transform=transform,
    ) as raster:  # fmt: skip
        counts = [int(masked_parcel(raster, g).sum()) for g in parcels.geometry]
    assert [int(row["n_pixels"]) for row in read_ledger(flanders)] == counts
    assert counts == list(parcels["npix"])


@needs(FLANDERS)
def test_flemish_arrays_equal_a_brute_force_read(flanders):
    """10 m bands are read unchanged, 20 m bands with bilinear weights, one pixel at a time."""
    fine = netCDF4.Dataset(next(FLANDERS.glob("S2_L2A_10m*.nc")))
    coarse = netCDF4.Dataset(next(FLANDERS.glob("S2_L2A_20m*.nc")))
    for dataset in (fine, coarse):
        dataset.set_auto_mask(False)
        dataset.set_auto_scale(False)
    times = netCDF4.num2date(fine["timestamp"][:], fine["timestamp"].units)
    days = [int(time.strftime("%Y%m%d")) for time in times]
    dates = list(json.loads(flanders.dataset.dates.read_text()).values())
    assert len(dates) > 15
    index = PixelIndex.load(flanders.pixel_index("31UDS"))
    generator = np.random.default_rng(0)
    for place in generator.choice(len(index.parcel_ids), 25, replace=False):
        parcel_id = index.parcel_ids[place]
        pixels = read_pixels(flanders.dataset, parcel_id)
        valid = read_valid(flanders.dataset, parcel_id)
        for t in generator.choice(len(dates), 4, replace=False):
            time = days.index(dates[t])
            for s in range(pixels.shape[2]):
                row, col = (int(a[index.offsets[place] + s]) for a in (index.rows, index.cols))
                scl = coarse["SCL"][time, row // 2, col // 2]
                read = [
                    fine[b][time, row, col] if b in fine.variables
                    else bilinear(coarse[b][time], row, col)
                    for b in BANDS
                ]  # fmt: skip
                assert np.abs(pixels[t, :, s].astype(int) - read).max() == 0, (parcel_id, t, s)
                assert valid[t, s] == (scl not in (0, 1, 3, 8, 9, 10))


def bilinear(band, row, col):
    """Return a 20 m band at the centre of a 10 m pixel, from pixels within the raster."""
    y, x = (row + 0.5) / 2 - 0.5, (col + 0.5) / 2 - 0.5
    total = weights = 0.0
    for r in (int(np.floor(y)), int(np.floor(y)) + 1):
        for c in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= r < band.shape[0] and 0 <= c < band.shape[1] and band[r, c] != 0:
                weight = (1 - abs(y - r)) * (1 - abs(x - c))
                total += weight * float(band[r, c])
                weights += weight
    return int(np.floor(total / weights + 0.5))


@pytest.mark.slow
@needs(FLANDERS)
def test_flanders_runs_from_imagery_to_geopackage_and_report(tmp_path):
    settings = yaml.safe_load((CONFIGS / "flanders.yaml").read_text())
    names = {"names": str(CONFIGS / "nomenclatures" / "flanders.csv")}
    settings["parcels"] |= names | {"path": str(FLANDERS / "parcels_subdivided.gpkg")}
    settings["imagery"] |= {"path": str(FLANDERS), "start": "2018-05-01", "end": "2018-05-20"}
    settings["train"] |= {"epochs": 1, "members": 1}
    settings["split"] |= {"folds": 2}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    snakemake(tmp_path, "--cores", "2")
    run = tmp_path / "results" / "flanders"
    predictions = geopandas.read_file(run / "predictions" / "parcels.gpkg", layer="parcels")
    assert len(predictions) == 138
    assert predictions["pred_code"].notna().all()
    assert set(predictions["pred_code"]) <= {1200, 9120, 7900}
    assert (predictions["declared_code"] == predictions["CT"]).all()
    assert "138 of 138 parcels" in (run / "report" / "report.html").read_text()
