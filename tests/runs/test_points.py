"""Real labelled points, one pixel each, as a Pixel-Set dataset through the whole workflow."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.workflow.paths import RunPaths
from tests.builders.paths import DATA
from tests.builders.pixel_sets import write
from tests.builders.runs import snakemake

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
