"""Small inputs that showed faults, each with settings: dates and pixels of their datasets."""

import json

import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml

from tests.builders.paths import SHARED
from tests.builders.runs import snakemake

CASES = SHARED / "cases"
DATES = {"20200405": "2020-04-05", "20200502": "2020-05-02", "20200615": "2020-06-15"}


@pytest.fixture
def made(request, tmp_path):
    """Return the dataset of a case and the rows of its acquisitions."""
    if not (CASES / request.param).is_dir():
        pytest.skip(reason=f"{CASES / request.param} is not there")
    text = (CASES / request.param / "config.yaml").read_text().replace("WORK", str(CASES))
    (tmp_path / "settings.yaml").write_text(text)
    snakemake(tmp_path, "dataset", "--cores", "1")
    run = tmp_path / "results" / yaml.safe_load(text)["run"]
    return run / "dataset", pd.read_csv(run / "acquisitions.csv", dtype=str).fillna("")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "mask"),
    [("extra-tif-hls-fmask", "SCL"), ("force-boa-qai", "SCL"), ("hls-day-of-year", "")],
    indirect=["made"],
)
def test_masks_beside_bands_and_days_of_the_year_are_read(made, mask):
    dataset, rows = made
    assert set(rows["masks"]) == {mask}
    assert set(rows["used"]) == {"yes"}
    assert sorted(rows["date"]) == sorted(DATES.values())
    dates = json.loads((dataset / "META" / "dates.json").read_text())
    assert [str(day) for day in dates.values()] == sorted(DATES)


@pytest.mark.slow
@pytest.mark.parametrize("made", ["negative-nodata-untagged"], indirect=True)
def test_a_fill_value_that_no_tag_names_is_not_reflectance(made):
    dataset, _ = made
    raw = [
        rasterio.open(path).read()
        for path in sorted((CASES / "negative-nodata-untagged" / "imagery").rglob("*.tif"))
    ]
    assert any((values == -9999).any() for values in raw), "the case has no fill values"
    files = sorted((dataset / "DATA").glob("*.npy"))
    assert files
    for path in files:
        assert (np.load(path) > 0).all(), f"{path.name} has reflectance 0"


@pytest.mark.slow
@pytest.mark.parametrize("made", ["same-day-halves"], indirect=True)
def test_halves_of_a_day_on_one_grid_are_merged(made):
    dataset, rows = made
    by_day = rows[rows["used"] == "yes"].groupby("date").size()
    assert by_day.max() == 2
    assert set(rows.loc[rows["used"] == "yes", "reason"]) == {"", "merged"}
    # Every parcel has every date: each is within one of the halves.
    n_dates = json.loads((dataset / "META" / "n_dates.json").read_text())
    assert set(n_dates.values()) == {len(by_day)}
