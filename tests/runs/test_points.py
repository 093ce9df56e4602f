"""Points through the whole workflow: real ones as a dataset, simulated ones as a register."""

import json

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import yaml

from geo.imagery.acquisition import read_item
from pipeline.workflow.acquisition_table import read_used
from pipeline.workflow.paths import RunPaths
from tests.builders.paths import DATA
from tests.builders.pixel_sets import write
from tests.builders.runs import planned, read_pixels, read_valid, snakemake

POINTS = DATA / "points-2017"
BANDS = {"B02": 10, "B03": 10, "B04": 10, "B05": 20, "B06": 20, "B07": 20, "B08": 10} | {
    "B8A": 20, "B11": 20, "B12": 20
}  # fmt: skip
MONTHS = [20161201, *range(20170101, 20171200, 100)]
NO_DATA = 65535


def write_dataset(table, folder):
    """Write the points as DATA, VALID and META; months without data are masked."""
    columns = [[f"OPTICAL-{b}-ts{t}-{r}m" for b, r in BANDS.items()] for t in range(len(MONTHS))]
    series = np.stack([table[names].to_numpy() for names in columns], axis=1)
    valid = (series != NO_DATA).all(axis=2)
    for name, arrays in (
        ("DATA", np.where(valid[:, :, None], series, 0).astype(np.uint16)[:, :, :, None]),
        ("VALID", valid[:, :, None]),
    ):
        (folder / name).mkdir(parents=True)
        for i, array in enumerate(arrays):
            np.save(folder / name / f"{i}.npy", array)
    labels = {str(i): int(code) for i, code in enumerate(table["ewoc_code"])}
    write(folder / "META" / "labels.json", {"ewoc": labels})
    write(folder / "META" / "dates.json", {str(t): day for t, day in enumerate(MONTHS)})
    write(folder / "META" / "dataset.json", {"fill": "none", "bands": list(BANDS)})
    return labels


@pytest.mark.slow
@pytest.mark.skipif(not POINTS.is_dir(), reason="the data points-2017 is not there")
def test_every_point_is_predicted(tmp_path):
    labels = write_dataset(
        pd.read_parquet(POINTS / "test_public_extractions.parquet"), tmp_path / "given"
    )
    settings = {
        "run": "points",
        "dataset": {"path": str(tmp_path / "given"), "classes": {"min_parcels": 12}},
        "split": {"by": "stratified", "folds": 3},
        "model": {"geometric_features": False},
        "train": {"epochs": 3, "members": 1, "device": "cpu"},
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    snakemake(tmp_path, "--cores", "2")
    run = RunPaths(tmp_path / "results" / "points")
    table = pd.read_parquet(run.predictions.with_suffix(".parquet")).set_index("parcel_id")
    declared = pd.Series(labels)
    frequent = declared.value_counts()[lambda counts: counts >= 12].index
    assert sorted(table.index) == sorted(labels)
    assert set(table["pred_code"]) <= set(frequent)
    is_frequent = declared[table.index].isin(frequent).to_numpy()
    assert (table["pred_source"] == np.where(is_frequent, "out_of_fold", "ensemble")).all()
    # Another random forest on these points, in five folds (here three), has an accuracy of 0.757.
    forest = json.loads(run.baselines.read_text())["random_forest"]["Accuracy"]
    assert forest == pytest.approx(0.757, abs=0.05)


@pytest.mark.slow
def test_a_register_of_points_from_products_to_report(tmp_path):
    from demo import simulate

    simulate(
        tmp_path / "imagery", tmp_path / "register.gpkg",
        seed=3, size_m=1280, acquisitions=4, parcels=60,
    )  # fmt: skip
    register = gpd.read_file(tmp_path / "register.gpkg")
    register.geometry = register.representative_point()
    register = register.to_crs("EPSG:4326")
    register.to_file(tmp_path / "points.gpkg")
    settings = {
        "run": "points",
        "imagery": {"path": "imagery", "max_cloud_fraction": 1.0},
        "parcels": {
            "path": "points.gpkg",
            "labels": {"crop": "CODE_CULTU"},
            "classes": {"min_parcels": 4},
            "point_buffer_m": 0,
        },
        "split": {"folds": 2},
        "train": {"epochs": 1, "members": 1, "batch_size": 16, "device": "cpu"},
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    snakemake(tmp_path, "--cores", "2")
    run = RunPaths(tmp_path / "results" / "points")
    ledger = pd.read_parquet(run.ledger)
    accepted = ledger["status"] != "rejected"
    assert accepted.sum() > 50
    assert (ledger.loc[accepted, "n_pixels"] == 1).all()
    points = register.geometry[accepted].set_axis(ledger.loc[accepted, "parcel_id"])
    check_pixels(run, points)
    # The features are those of the square of a pixel.
    features = json.loads(run.dataset.features.read_text())
    np.testing.assert_allclose(list(features.values()), [[40, 1, 1, 0.4]] * len(points))
    assert dict(pyogrio.list_layers(run.predictions))["parcels"] == "Point"
    written = gpd.read_file(run.predictions, layer="parcels").set_index("parcel_id")
    written = written[written["status"] != "rejected"]
    assert written.index.tolist() == points.index.tolist()
    assert written.geometry.geom_equals(points).all()
    assert written["pred_code"].notna().all()
    assert 'id="map"' in run.report.read_text()
    assert planned(tmp_path) == {}


def check_pixels(run, points):
    """Compare clear reflectance with what rasterio samples from the bands with pixels of 10 m."""
    dates = sorted(json.loads(run.dataset.dates.read_text()).values())
    n_compared = 0
    for row in read_used(run.acquisitions).values():
        t = dates.index(int(f"{row.date:%Y%m%d}"))
        bands = read_item(run.item(row.acquisition)).bands
        for name in ("B02", "B03", "B04", "B08"):
            with rasterio.open(bands[name].source) as image:
                xy = points.to_crs(image.crs)
                raw = [int(value) for (value,) in image.sample(zip(xy.x, xy.y, strict=True))]
            for i, value in zip(points.index, raw, strict=True):
                if read_valid(run.dataset, i)[t, 0]:
                    found = read_pixels(run.dataset, i)[t, list(BANDS).index(name), 0]
                    assert found == max(value + bands[name].offset, 0)
                    n_compared += 1
    assert n_compared > 300
