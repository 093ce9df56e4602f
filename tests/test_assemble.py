"""Assembling in blocks: what is held at once is bounded, and the blocks never show."""

import json
import tracemalloc
from dataclasses import replace
from datetime import date, timedelta

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from geo.errors import InputError
from geo.grid import Grid
from geo.pixels.pixel_index import PixelIndex
from pipeline.classes.ledger import write_ledger
from pipeline.dataset import parcel_block, tile_series
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.stages.assemble import assemble
from pipeline.workflow.acquisition_table import AcquisitionRow, write_acquisitions
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import DatasetPaths, RunPaths

N, N_DATES, N_BANDS, TILE = 600, 12, 10, "31TFM"
DAYS = [date(2018, 1, 1) + timedelta(11 * t) for t in range(N_DATES)]


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """Parcels of 1 to 300 pixels of one tile: 22 MB of pixels, of which clouds hide a third."""
    run = RunPaths(tmp_path_factory.mktemp("run"))
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 301, N)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    ids = [f"p{i}" for i in range(N)]
    for folder in (run.extractions, run.pixel_index(TILE).parent, run.parcels):
        folder.mkdir(parents=True)
    place = np.arange(offsets[-1], dtype=np.int32)
    grid = Grid("EPSG:32631", 600_000, 5_000_000, 10, 10, 1000, 1000)
    PixelIndex(ids, offsets, place // 1000, place % 1000, TILE, grid).save(run.pixel_index(TILE))
    rows = []
    for t, day in enumerate(DAYS):
        row = AcquisitionRow(f"a{t:02}", TILE, day, run.root, "safe", "", "", "0", None, True, "")
        rows.append(row)
        values = rng.integers(0, 10_000, (N_BANDS, offsets[-1]), np.uint16)
        np.save(run.extracted(row.acquisition), values)
        clear = np.repeat(rng.random(N) < 0.8, sizes) & (rng.random(offsets[-1]) < 0.8)
        np.save(run.extracted_valid(row.acquisition), clear)
    write_acquisitions(run.acquisitions, rows)
    columns = {"row": range(N), "parcel_id": ids, "status": "used", "crop": "wheat"}
    table = gpd.GeoDataFrame(columns, geometry=shapely.points(np.zeros((N, 2))), crs=grid.crs)
    table.to_parquet(run.parcels / f"{TILE}.parquet")
    write_ledger(run.cleaned, pd.DataFrame(columns).assign(reason="", n_pixels=sizes))
    run.classes.write_text("code,name,class_index\nwheat,wheat,0\n")
    return run


def assembled(run, root, memory_mb, threads=1, **clouds):
    settings = view(load({"assemble": {"memory_mb": memory_mb}, "clouds": clouds}), "assemble")
    paths = run.acquisitions, run.extractions, [run.pixel_index(TILE)], run.parcels, run.classes
    assemble(*paths, run.cleaned, root, root / "ledger.csv", settings, threads)
    return DatasetPaths(root)


def files(dataset):
    return {
        path.relative_to(dataset.root): path.read_bytes()
        for path in dataset.root.rglob("*")
        if path.suffix in (".npy", ".json")
    }


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("clouds", [{}, {"drop": "parcel", "min_clear_fraction": 0.5}])
def test_a_tenth_of_the_memory_gives_the_same_files(extracted, tmp_path, clouds, threads):
    whole = assembled(extracted, tmp_path / "whole", 1000, **clouds)
    parts = assembled(extracted, tmp_path / "parts", 2, threads, **clouds)
    written = files(whole)
    assert sum(len(written[p]) for p in written if p.parts[0] == "DATA") > 10 * 2_000_000 * (
        0.8 if clouds else 1
    )
    assert files(parts) == written
    pd.testing.assert_frame_equal(*map(read_observations, (parts.observations, whole.observations)))


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_and_the_parcels_held_at_once_stay_below_the_limit(
    extracted, tmp_path, monkeypatch, threads
):
    limit_mb, held, most = 2, [0], [0]
    read, write = parcel_block.read_block, parcel_block.ParcelBlock.write

    def counted_read(*arguments):
        block = read(*arguments)
        held[0] += block.values.nbytes + block.clear.nbytes
        most[0] = max(most[0], held[0])
        return block

    def counted_write(block, *arguments):
        write(block, *arguments)
        held[0] -= block.values.nbytes + block.clear.nbytes

    monkeypatch.setattr("pipeline.stages.assemble.read_block", counted_read)
    monkeypatch.setattr(parcel_block.ParcelBlock, "write", counted_write)
    tracemalloc.start()
    try:
        dataset = assembled(extracted, tmp_path / "dataset", limit_mb, threads)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    n_bytes = int(PixelSetDataset.open(dataset.root).sizes.sum()) * N_DATES * N_BANDS * 2
    assert n_bytes > 10 * limit_mb * 1_000_000
    assert held[0] == 0
    # Blocks of whole parcels, of which the largest takes a fourteenth of a thread's share.
    assert 0.8 * limit_mb / threads < most[0] / 1e6 <= limit_mb
    # Beside the pixels: what filling needs of 4,096 of them, and the tables.
    assert peak < limit_mb * 1_000_000 + 12_000_000


def test_the_files_are_those_of_every_parcel_by_itself(extracted, tmp_path):
    """Stacked by hand, date by date, without filling."""
    dataset = assembled(extracted, tmp_path, 3, fill="none", drop="parcel", min_clear_fraction=0.8)
    index = PixelIndex.load(extracted.pixel_index(TILE))
    dates = json.loads(dataset.parcel_dates.read_text())
    pixels = np.stack([np.load(extracted.extracted(f"a{t:02}")) for t in range(N_DATES)])
    clear = np.stack([np.load(extracted.extracted_valid(f"a{t:02}")) for t in range(N_DATES)])
    n_left_out = 0
    for i, parcel_id in enumerate(index.parcel_ids):
        own = slice(index.offsets[i], index.offsets[i + 1])
        kept = clear[:, own].mean(axis=1) >= 0.8
        seen = np.flatnonzero(clear[kept][:, own].any(axis=0)) + own.start
        n_left_out += clear[:, own].any(axis=0).sum() - len(seen)
        assert (parcel_id in dates) == (len(seen) > 0)
        if not len(seen):
            continue
        expected = [int(day.strftime("%Y%m%d")) for day, k in zip(DAYS, kept, strict=True) if k]
        assert dates[parcel_id] == expected
        name = f"{parcel_id}.npy"
        assert np.array_equal(np.load(dataset.pixels / name), pixels[kept][:, :, seen])
        assert np.array_equal(np.load(dataset.valid / name), clear[kept][:, seen])
    # Pixels that are clear on dates alone that were dropped.
    assert n_left_out > 100


def test_a_parcel_that_is_larger_than_the_limit_is_a_block_of_its_own(extracted):
    index = PixelIndex.load(extracted.pixel_index(TILE))
    row = AcquisitionRow("a00", TILE, DAYS[0], extracted.root, "", "", "", "", None, True, "")
    series = tile_series.TileSeries.open(replace(index), [row], extracted.extractions)
    blocks = list(series.blocks(1))
    assert blocks == [(i, i + 1) for i in range(N)]


def test_pixels_of_another_index_are_refused(extracted):
    index = PixelIndex.load(extracted.pixel_index(TILE))
    fewer = replace(index, rows=index.rows[:-1], cols=index.cols[:-1])
    row = AcquisitionRow("a00", TILE, DAYS[0], extracted.root, "", "", "", "", None, True, "")
    with pytest.raises(InputError, match=r"a00\.npy has \d+ pixels .*snakemake -R extract"):
        tile_series.TileSeries.open(fewer, [row], extracted.extractions)
