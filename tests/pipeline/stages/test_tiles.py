"""Several tiles, UTM zones and halves of a swath in one run, against a reader of single pixels."""

import math
import re
import shutil
from collections import Counter
from functools import cache

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml
from rasterio.features import geometry_mask
from shapely import box

from geo.errors import InputError
from geo.grid import Grid, read_grids
from pipeline.workflow.acquisition_table import read_acquisitions
from pipeline.workflow.config import load
from tests.builders.runs import (
    opened,
    prepare_dataset,
    prepare_parcels,
    read_pixels,
    read_valid,
    snakemake,
)
from tests.builders.tiles import COLUMNS, EAST, WEST, X_MIN, parcels, write_day, write_scene

MASKED = (0, 1, 3, 8, 9, 10)
CHANNELS = ("B02", "B8A", "B09")  # of 10, 20 and 60 m
# Radiometric offsets in the metadata of a day, see BASELINES.
OFFSETS = {13: dict.fromkeys(CHANNELS, -1000), 28: {"B02": -900, "B8A": -1000, "B09": -1100}}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("scene"))


def settings_of(scene, *, imagery=None, clouds=None, parcels=None):
    return {
        "imagery": {
            **{"path": str(scene.imagery), "bands": [*CHANNELS], "resampling": "nearest"},
            **{"radiometry": "trust", **(imagery or {})},
        },
        "clouds": {"fill": "none", **(clouds or {})},
        "parcels": {
            **{"path": str(scene.register), "id": COLUMNS["ID_PARCEL"]},
            **{"labels": {"crop": COLUMNS["CODE"]}},
            **{"classes": {"min_parcels": 2}, **(parcels or {})},
        },
        "split": {"folds": 2},
    }


def prepared(scene, root, **sections):
    return prepare_dataset(load(settings_of(scene, **sections)), root)


@pytest.fixture(scope="module")
def run(scene, tmp_path_factory):
    return prepared(scene, tmp_path_factory.mktemp("run"))


def read_ledger(run):
    return read_rows(run.ledger.with_suffix(".csv"))


def outline_pixels(run):
    """Return the number of pixels of every parcel's outline, clear or not."""
    counts = pd.concat(pd.read_parquet(run.pixel_counts(tile)) for tile in read_grids(run.grids))
    return counts.set_index("parcel_id")["n_pixels"]


def read_rows(table):
    return pd.read_csv(table, dtype=str, keep_default_na=False).set_index("parcel_id")


def observations(run):
    files = [run.dataset.tile(tile).observations for tile in (WEST, EAST)]
    return pd.concat(map(pd.read_parquet, files), ignore_index=True)


def outlines(crs):
    return parcels().to_crs(crs).set_index("ID_PARCEL").geometry


@cache
def open_band(product, band):
    (path,) = product.glob(f"GRANULE/*/IMG_DATA/R*/*_{band}_*m.jp2")
    with rasterio.open(path) as raster:
        return raster.read(1), ~raster.transform


def read_pixel(product, band, x, y):
    """Return the raw value of a band at a place, 0 beyond its edges."""
    values, from_place = open_band(product.path, band)
    col, row = (math.floor(place) for place in from_place @ (x, y))
    inside = 0 <= row < values.shape[0] and 0 <= col < values.shape[1]
    return int(values[row, col]) if inside else 0


def brute_force(scene, tile, date, x, y):
    """Return reflectance and clearness at a place, from the first product that is clear there."""
    offsets = OFFSETS.get(date % 100, dict.fromkeys(CHANNELS, 0))
    products = []
    for product in scene.used[tile, date]:
        raw = {band: read_pixel(product, band, x, y) for band in CHANNELS}
        has_values = all(raw.values())
        clear = has_values and read_pixel(product, "SCL", x, y) not in MASKED
        values = [max(raw[band] + offsets[band], 0) if has_values else 0 for band in CHANNELS]
        products.append((values, clear))
    return next((found for found in products if found[1]), products[0])


def test_parcels_belong_to_the_first_tile_that_contains_them(run):
    ledger = read_ledger(run)
    grids = read_grids(run.grids)
    # The eastern tile has five dates, the western one three.
    assert list(grids) == [EAST, WEST]
    places = {tile: outlines(grid.crs) for tile, grid in grids.items()}
    cases = Counter()
    for parcel_id, row in ledger.iterrows():
        extents = {
            tile: box(*grid.bounds).buffer(5, join_style="mitre") for tile, grid in grids.items()
        }
        whole = [t for t in grids if extents[t].contains(places[t][parcel_id])]
        touching = [t for t in grids if box(*grids[t].bounds).intersects(places[t][parcel_id])]
        if whole:
            assert (row["tile"], row["status"]) == (whole[0], "used")
        else:
            reason = "partly_outside" if touching else "outside_imagery"
            assert (row["status"], row["reason"]) == ("rejected", reason), parcel_id
        cases[len(whole), bool(touching)] += 1
    # Inside both tiles, inside one, across an edge, outside.
    assert set(cases) == {(2, True), (1, True), (0, True), (0, False)}
    accepted = ledger[ledger["status"] == "used"]
    assert set(accepted["tile"]) == {EAST, WEST}
    assert sorted(opened(run).ids) == sorted(accepted.index)
    both = sum(len(gpd.read_parquet(run.parcels / f"{tile}.parquet")) for tile in grids)
    assert both == len(accepted)


def test_arrays_equal_a_reader_of_single_pixels(scene, run):
    ledger, grids = read_ledger(run), read_grids(run.grids)
    dates = opened(run).parcel_dates
    tried = Counter()
    for tile, grid in grids.items():
        places = outlines(grid.crs)
        ids = ledger.index[(ledger["tile"] == tile) & (ledger["status"] == "used")]
        for parcel_id in ids:
            inside = ~geometry_mask([places[parcel_id]], grid.shape, grid.transform)
            pixels, valid = (read(run.dataset, parcel_id) for read in (read_pixels, read_valid))
            days = [int(day.strftime("%Y%m%d")) for day in dates[parcel_id]]
            assert days == sorted(date for t, date in scene.used if t == tile)
            series = [
                [brute_force(scene, tile, day, *grid.transform @ (col + 0.5, row + 0.5))
                 for day in days]
                for row, col in np.argwhere(inside)
            ]  # fmt: skip
            observed = [one for one in series if any(clear for _, clear in one)]
            assert len(observed) == int(ledger.loc[parcel_id, "n_pixels"])
            left_out = len(series) - len(observed)
            assert left_out == int(ledger.loc[parcel_id, "n_pixels_never_clear"])
            assert pixels.transpose(2, 0, 1).tolist() == [[v for v, _ in one] for one in observed]
            assert valid.T.tolist() == [[clear for _, clear in one] for one in observed]
            tried.update(
                (len(scene.used[tile, day]), clear)
                for one in observed
                for day, (_, clear) in zip(days, one, strict=True)
            )
            tried["left out"] += left_out
    assert len(tried) == 5
    assert tried["left out"] > 100


def test_every_acquisition_is_used_or_has_a_reason(scene, run):
    rows = read_acquisitions(run.acquisitions)
    assert len(rows) == 10
    merged = [row for row in rows if row.tile == WEST and row.date.day == 13]
    assert [(row.used, row.reason) for row in merged] == [
        (True, ""), (False, "superseded"), (True, "merged"),
    ]  # fmt: skip
    assert [row.product for row in merged[::2]] == [p.path for p in scene.used[WEST, 20220413]]
    assert {row.reason for row in rows if row not in merged} == {""}


def test_positions_are_in_the_system_of_most_parcels(scene, run):
    description = opened(run).description
    assert description["tiles"] == {WEST: "EPSG:32631", EAST: "EPSG:32632"}
    tiles = read_ledger(run).loc[opened(run).ids, "tile"].value_counts()
    assert description["crs"] == description["tiles"][tiles.idxmax()]
    points = gpd.points_from_xy(*opened(run).positions.T, crs=description["crs"])
    places = outlines(description["crs"])
    assert all(places[i].contains(p) for i, p in zip(opened(run).ids, points, strict=True))
    every = sorted({date for _, date in scene.used})
    assert [int(day.strftime("%Y%m%d")) for day in opened(run).dates] == every
    assert len(description["acquisitions"]) == 9


def test_clear_fractions_are_recorded(run):
    n_pixels = outline_pixels(run)
    table = observations(run)
    dates = opened(run).parcel_dates
    assert len(table) == sum(map(len, dates.values()))
    assert table["kept"].all()
    for parcel_id, rows in table.groupby("parcel_id"):
        valid = read_valid(run.dataset, parcel_id)
        assert pd.to_datetime(rows["date"]).dt.date.tolist() == dates[parcel_id]
        share = valid.sum(axis=1) / n_pixels[parcel_id]
        np.testing.assert_allclose(rows["clear_fraction"], share, rtol=1e-6)
    assert set(table["tile"]) == {EAST, WEST}


@pytest.mark.parametrize("drop", ["run", "parcel"])
def test_dates_with_few_clear_pixels_are_dropped(run, scene, tmp_path, drop):
    limit = 0.5
    found = prepared(scene, tmp_path, clouds={"min_clear_fraction": limit, "drop": drop})
    sizes = outline_pixels(run)
    tile_of, ledger = read_ledger(run)["tile"], read_ledger(found)
    own, data = opened(run).parcel_dates, opened(found)
    # Parcels that keep the same dates have them in dates.json.
    kept_dates = data.parcel_dates or dict.fromkeys(data.ids, data.dates)
    n_clear, n_all, n_dropped = Counter(), Counter(), 0
    for i in opened(run).ids:
        for day, clear in zip(own[i], read_valid(run.dataset, i), strict=True):
            n_clear[tile_of[i], day] += clear.sum()
            n_all[tile_of[i], day] += sizes[i]
    for i in opened(run).ids:
        valid = read_valid(run.dataset, i)
        of_tile = [n_clear[tile_of[i], day] / n_all[tile_of[i], day] for day in own[i]]
        kept = np.array(of_tile if drop == "run" else valid.sum(axis=1) / sizes[i]) >= limit
        n_dropped += int((~kept).sum())
        seen = valid[kept].any(axis=0)
        assert int(ledger.loc[i, "n_pixels"]) == seen.sum()
        assert (i in opened(found).ids) == seen.any()
        if not seen.any():
            assert ledger.loc[i, ["status", "reason"]].tolist() == [
                "rejected", "never_seen_clearly",
            ]  # fmt: skip
            continue
        assert kept_dates[i] == [day for day, keep in zip(own[i], kept, strict=True) if keep]
        assert np.array_equal(read_valid(found.dataset, i), valid[kept][:, seen])
        pixels = read_pixels(run.dataset, i)[kept][:, :, seen]
        assert np.array_equal(read_pixels(found.dataset, i), pixels)
    assert 0 < n_dropped == opened(found).description["dropped_observations"]
    table = observations(found)
    assert (~table["kept"]).sum() == n_dropped
    assert len(table) == sum(map(len, own.values()))


def test_interpolation_uses_the_dates_of_the_tile(run, scene, tmp_path):
    found = prepared(scene, tmp_path, clouds={"fill": "linear"})
    for i, days in opened(run).parcel_dates.items():
        at = np.array([day.toordinal() for day in days])
        pixels, valid = read_pixels(run.dataset, i), read_valid(run.dataset, i)
        filled = read_pixels(found.dataset, i)
        for s in range(0, pixels.shape[2], 7):
            known = valid[:, s]
            for c in range(2):
                line = np.interp(at, at[known], pixels[known, c, s])
                np.testing.assert_allclose(filled[:, c, s], line, atol=0.51)


def test_a_clear_fraction_that_no_date_reaches_is_refused(scene, tmp_path):
    with pytest.raises(InputError, match=r"min_clear_fraction is 1, and no date of any.*Lower it"):
        prepared(scene, tmp_path, clouds={"min_clear_fraction": 1.0})
    assert not (tmp_path / "dataset" / "DATA").exists()


def test_parcels_across_an_edge_belong_to_the_tile_with_the_largest_overlap(scene, tmp_path):
    run = prepare_parcels(load(settings_of(scene, parcels={"partly_outside": "keep"})), tmp_path)
    grids = read_grids(run.grids)
    ledger = pd.read_parquet(run.register).set_index("parcel_id")
    places = {tile: outlines(grid.crs) for tile, grid in grids.items()}
    n_partial = 0
    for parcel_id, row in ledger[ledger["reason"] == ""].iterrows():
        shares = {
            t: box(*g.bounds).intersection(places[t][parcel_id]).area / places[t][parcel_id].area
            for t, g in grids.items()
        }
        if max(shares.values()) < 0.85:
            n_partial += 1
            assert shares[row["tile"]] >= max(shares.values()) - 1e-5
    assert n_partial > 5


def test_aligned_grids_have_a_union():
    grid = Grid("EPSG:32631", 500_000.0, 4_000_000.0, 10.0, 10.0, 8, 6)
    right = Grid("EPSG:32631", 500_100.0, 4_000_030.0, 10.0, 10.0, 4, 4)
    assert grid.is_aligned(right)
    assert right.is_aligned(grid)
    union = grid.union([right])
    assert union.bounds == (500_000, 3_999_920, 500_140, 4_000_030)
    assert grid.union([]) == grid.union([grid]) == grid
    for other in (
        Grid("EPSG:32631", 500_105.0, 4_000_030.0, 10.0, 10.0, 4, 4),
        Grid("EPSG:32632", 500_100.0, 4_000_030.0, 10.0, 10.0, 4, 4),
        Grid("EPSG:32631", 500_100.0, 4_000_030.0, 20.0, 20.0, 2, 2),
        Grid("EPSG:32631", 500_100.0, 4_000_030.0, 10.05, 10.0, 4, 4),
    ):
        assert not grid.is_aligned(other)


@pytest.mark.slow
def test_the_workflow_predicts_both_zones_and_extracts_only_the_new_acquisition(scene, tmp_path):
    shutil.copytree(scene.folder, tmp_path, dirs_exist_ok=True)
    values = settings_of(scene, clouds={"fill": "linear"})
    values |= {
        "run": "zones",
        "split": {"folds": 2, "by": "block", "block_m": 200},
        "train": {"epochs": 1, "batch_size": 16, "pixels": 8, "members": 1, "device": "cpu"},
    }
    values["imagery"]["path"], values["parcels"]["path"] = "imagery", "register.gpkg"
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(values))
    snakemake(tmp_path, "--cores", "2")
    run = tmp_path / "results" / "zones"
    predictions = gpd.read_file(run / "predictions" / "parcels.gpkg", layer="parcels").set_index(
        "parcel_id"
    )
    ledger = pd.read_csv(run / "parcels" / "ledger.csv").set_index("parcel_id")
    assert sorted(predictions.index) == sorted(parcels()["ID_PARCEL"])
    predicted = predictions.index[predictions["pred_code"].notna()]
    assert set(predicted) == set(ledger.index[ledger["status"] == "used"])
    assert set(ledger.loc[predicted, "tile"]) == {EAST, WEST}
    page = (run / "report" / "report.html").read_text()
    assert re.search(r"From 9 of the 10 Sentinel-2 acquisitions found, on 2 tiles", page)

    def times():
        """Return the times of the extracted files, and of the files of the eastern tile."""
        files = [p for p in run.rglob("*.np*") if "dataset" not in p.parts]
        files += [p for p in (run / "dataset" / "tiles" / EAST).iterdir() if p.is_file()]
        return {p: p.stat().st_mtime_ns for p in files}

    before, tile = times(), run / "dataset" / "tiles" / WEST / "pixels.npy"
    n_dates = np.load(tile, mmap_mode="r").shape[1]
    assert sum(p.suffix == ".npz" for p in before) == 2
    assert sum(EAST in p.parts for p in before) == 5
    scene_here = type(scene)(tmp_path)
    write_day(scene_here, np.random.default_rng(9), WEST, "30")
    snakemake(tmp_path, "dataset", "--cores", "2")
    after = times()
    assert np.load(tile, mmap_mode="r").shape[1] == n_dates + 1
    assert {p: after[p] for p in before} == before
    assert {p.name for p in set(after) - set(before)} == {
        "20220430T105031_31UGS_N0400.npy", "20220430T105031_31UGS_N0400.valid.npy",
    }  # fmt: skip

    # Only export runs again to leave out the files.
    data = run / "dataset" / "DATA"
    assert data.is_dir()
    done = snakemake(tmp_path, "dataset", "--cores", "2", dataset={"npy_files": False})
    jobs = re.findall(r"^(\w+) +\d+$", done.stdout + done.stderr, re.M)
    assert {*jobs} == {"dataset", "export", "total"}
    assert not data.exists()
    again = snakemake(tmp_path, "dataset", "-n", dataset={"npy_files": False})
    assert "Nothing to be done" in again.stdout + again.stderr


def test_a_run_can_use_one_of_the_tiles(scene, tmp_path):
    run = prepare_parcels(load(settings_of(scene, imagery={"tile": "T31UGS"})), tmp_path)
    assert set(pd.read_parquet(run.register)["tile"]) == {"", WEST}
    assert {row.reason for row in read_acquisitions(run.acquisitions) if row.tile == EAST} == {
        "other_tile"
    }
    assert X_MIN[WEST] == read_grids(run.grids)[WEST].x_min
