"""Assembling and exporting in batches: memory is bounded, and the batches change no byte."""

import json
import tracemalloc
import weakref
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from geo.errors import InputError
from geo.grid import Grid
from geo.pixels.pixel_index import PixelIndex
from pipeline.dataset.packed_tiles import read_tile
from pipeline.dataset.tile_series import TileSeries
from pipeline.stages.export import export
from pipeline.workflow.acquisition_table import AcquisitionRow, write_acquisitions
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import DatasetPaths, RunPaths, TilePaths
from tests.builders.runs import assemble_tiles

N, N_DATES, N_BANDS, TILE = 450, 12, 10, "31TFM"
MOST_PIXELS = 200
DAYS = [date(2018, 1, 1) + timedelta(11 * t) for t in range(N_DATES)]


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """Parcels of 1 to 200 pixels of one tile: 11 MB of pixels, a third of which are cloudy."""
    run = RunPaths(tmp_path_factory.mktemp("run"))
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, MOST_PIXELS + 1, N)
    sizes[0] = MOST_PIXELS
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    ids = [f"p{i}" for i in range(N)]
    for folder in (run.extractions, run.pixel_index(TILE).parent):
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
        # The largest parcel is always clear.
        clear[:MOST_PIXELS] = True
        np.save(run.extracted_valid(row.acquisition), clear)
    write_acquisitions(run.acquisitions, rows)
    return run


def settings_of(memory_mb=1000, **clouds):
    return load({"assemble": {"memory_mb": memory_mb}, "clouds": clouds})


def assembled(run, root, memory_mb=1000, threads=1, **clouds):
    (folder,) = assemble_tiles(run, [TILE], settings_of(memory_mb, **clouds), threads, root)
    return TilePaths(folder)


def exported(tile, root, threads=1, **settings):
    """Export a dataset of one tile. Its folder is a link to the tile that was assembled."""
    dataset = DatasetPaths(root)
    link = dataset.tile(TILE).root
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(tile.root)
    export([link], root, view(load(settings), "export"), threads)
    return dataset


def files(folder):
    """Bytes of every .npy and .json file, by path below the folder."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in (".npy", ".json")
    }


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "clouds",
    [
        {},
        {"drop": "parcel", "min_clear_fraction": 0.5},
        {"drop": "run", "min_clear_fraction": 0.65},
    ],
)
def test_a_tenth_of_the_memory_makes_the_same_files(extracted, tmp_path, clouds, threads):
    whole = assembled(extracted, tmp_path / "whole", **clouds)
    parts = assembled(extracted, tmp_path / "parts", 1, threads, **clouds)
    assert clouds or whole.pixels.stat().st_size > 10 * 1_000_000
    assert files(parts.root) == files(whole.root)
    for name in ("observations", "parcels"):
        tables = (pd.read_parquet(getattr(tile, name)) for tile in (parts, whole))
        pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize("threads", [1, 2])
def test_exporting_in_batches_makes_the_same_files(extracted, tmp_path, monkeypatch, threads):
    tile = assembled(extracted, tmp_path, drop="parcel", min_clear_fraction=0.5)
    whole = exported(tile, tmp_path / "whole")
    monkeypatch.setattr("pipeline.dataset.npy_files.LARGEST_BATCH", 100_000)
    parts = exported(tile, tmp_path / "parts", threads, assemble={"memory_mb": 1})
    written = files(whole.root)
    assert len(written) > 2 * 400
    assert files(parts.root) == written


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_stays_below_the_limit(extracted, tmp_path, monkeypatch, threads):
    limit_mb, held, most = 1, [0], [0]
    read = TileSeries.read

    def count(n_bytes):
        held[0] += n_bytes
        most[0] = max(most[0], held[0])

    def counted(series, pixels):
        values, clear = read(series, pixels)
        count(values.nbytes + clear.nbytes)
        for array in (values, clear):
            weakref.finalize(array, count, -array.nbytes)
        return values, clear

    monkeypatch.setattr(TileSeries, "read", counted)
    tracemalloc.start()
    try:
        tile = assembled(extracted, tmp_path, limit_mb, threads)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    n_bytes = read_tile(tile).n_pixels.sum() * N_DATES * N_BANDS * 2
    assert n_bytes > 10 * limit_mb * 1_000_000
    assert held[0] == 0
    # A batch has whole parcels: it can be smaller than a thread's share by the largest parcel.
    assert 0.7 * limit_mb / threads < most[0] / 1e6 <= limit_mb
    # In addition to the pixels: what interpolation needs for 4,096 of them, and the tables.
    assert peak < limit_mb * 1_000_000 + 12_000_000


@pytest.mark.parametrize("drop", ["none", "parcel", "run"])
def test_packed_pixels_and_files_equal_those_of_every_parcel_alone(extracted, tmp_path, drop):
    """Expected: stacked by hand, date by date, without interpolation."""
    limit = {"none": 0.0, "parcel": 0.8, "run": 0.65}[drop]
    how = {} if drop == "none" else {"drop": drop, "min_clear_fraction": limit}
    tile = assembled(extracted, tmp_path, 3, fill="none", **how)
    dataset = exported(tile, tmp_path / "dataset")
    index = PixelIndex.load(extracted.pixel_index(TILE))
    all_dates = list(json.loads(dataset.dates.read_text()).values())
    dates = json.loads(dataset.parcel_dates.read_text()) if drop == "parcel" else {}
    pixels = np.stack([np.load(extracted.extracted(f"a{t:02}")) for t in range(N_DATES)])
    clear = np.stack([np.load(extracted.extracted_valid(f"a{t:02}")) for t in range(N_DATES)])
    tile_observed = clear.mean(axis=1) >= (limit if drop == "run" else 0)
    assert tile_observed.all() == (drop != "run")
    rows = pd.read_parquet(tile.parcels).set_index("parcel_id")
    assert list(rows.index) == index.parcel_ids
    packed_pixels, packed_clear = np.load(tile.pixels), np.load(tile.clear)
    start, n_left_out = 0, 0
    for i, parcel_id in enumerate(index.parcel_ids):
        own = slice(index.offsets[i], index.offsets[i + 1])
        observed = clear[:, own].mean(axis=1) >= limit if drop == "parcel" else tile_observed
        ever_clear = np.flatnonzero(clear[observed][:, own].any(axis=0)) + own.start
        n_left_out += clear[:, own].any(axis=0).sum() - len(ever_clear)
        n_dates = (clear[:, own].any(axis=1) & observed).sum()
        assert rows.loc[parcel_id].tolist() == [len(ever_clear), n_dates, len(ever_clear) > 0]
        if not len(ever_clear):
            continue
        expected = [int(day.strftime("%Y%m%d")) for day, k in zip(DAYS, observed, strict=True) if k]
        assert dates.get(parcel_id, all_dates) == expected
        here = slice(start, start + len(ever_clear))
        start = here.stop
        for packed, folder, values in (
            (packed_pixels[here], dataset.pixels, pixels[observed][:, :, ever_clear]),
            (packed_clear[here], dataset.valid, clear[observed][:, ever_clear]),
        ):
            assert np.array_equal(np.load(folder / f"{parcel_id}.npy"), values)
            assert np.array_equal(packed[:, : observed.sum()], np.moveaxis(values, -1, 0))
            assert not packed[:, observed.sum() :].any()
    assert start == len(packed_pixels) == len(packed_clear)
    # Pixels that are clear only on dropped dates are left out.
    assert (n_left_out > 0) == (drop != "none")


def test_without_npy_files_those_of_an_earlier_run_are_removed(extracted, tmp_path):
    tile = assembled(extracted, tmp_path)
    dataset = exported(tile, tmp_path / "dataset")
    before = files(dataset.root / "META")
    assert len(list(dataset.pixels.iterdir())) == len(list(dataset.valid.iterdir())) > 400
    exported(tile, tmp_path / "dataset", dataset={"npy_files": False})
    assert not dataset.pixels.exists()
    assert not dataset.valid.exists()
    assert files(dataset.root / "META") == before


@pytest.mark.parametrize(
    ("clouds", "min_pixels", "message"),
    [
        (
            {},
            MOST_PIXELS + 1,
            rf"None of the {N} parcels has parcels.min_pixels.* largest number is {MOST_PIXELS}\.",
        ),
        (
            {"min_clear_fraction": 1.0},
            1,
            rf"min_clear_fraction is 1, and no date of any of the {N}",
        ),
    ],
)
def test_parcels_that_all_lack_pixels_are_refused(extracted, tmp_path, clouds, min_pixels, message):
    settings = load({"clouds": clouds, "parcels": {"min_pixels": min_pixels}})
    tiles = assemble_tiles(extracted, [TILE], settings, 1, tmp_path / "packed")
    with pytest.raises(InputError, match=message):
        export(tiles, tmp_path / "dataset", view(settings, "export"))
    assert not (tmp_path / "dataset").exists()


def test_a_tile_without_parcels_is_empty_and_left_out(extracted, tmp_path):
    """The extracted files of such a tile are empty, and empty files cannot be mapped."""
    run = RunPaths(tmp_path)
    for folder in (run.extractions, run.pixel_index(TILE).parent):
        folder.mkdir(parents=True)
    index = PixelIndex.load(extracted.pixel_index(TILE))
    replace(index.select(np.zeros(N, bool)), tile="31TFL").save(run.pixel_index("31TFL"))
    row = AcquisitionRow("b", "31TFL", DAYS[0], run.root, "", "", "", "", None, True, "")
    write_acquisitions(run.acquisitions, [row])
    np.save(run.extracted("b"), np.zeros((N_BANDS, 0), np.uint16))
    np.save(run.extracted_valid("b"), np.zeros(0, bool))
    dataset = DatasetPaths(tmp_path / "dataset")
    (empty,) = assemble_tiles(run, ["31TFL"], settings_of(), 1, dataset.root)
    assert len(np.load(TilePaths(empty).pixels)) == 0
    assert len(pd.read_parquet(TilePaths(empty).parcels)) == 0
    whole = assembled(extracted, dataset.root)
    export([empty, whole.root], dataset.root, view(load({}), "export"))
    assert json.loads(dataset.tiles.read_text()) == [TILE]
    description = json.loads(dataset.description.read_text())
    assert list(description["tiles"]) == [TILE]
    assert len(description["acquisitions"]) == N_DATES


def test_a_parcel_that_is_larger_than_the_limit_is_a_separate_batch(extracted):
    index = PixelIndex.load(extracted.pixel_index(TILE))
    row = AcquisitionRow("a00", TILE, DAYS[0], extracted.root, "", "", "", "", None, True, "")
    series = TileSeries.open(index, [row], extracted.extractions)
    assert [batch.parcels for batch in series.batches(index, 1)] == [
        slice(i, i + 1) for i in range(N)
    ]


def test_pixels_of_another_index_are_refused(extracted):
    index = PixelIndex.load(extracted.pixel_index(TILE))
    fewer = replace(index, rows=index.rows[:-1], cols=index.cols[:-1])
    row = AcquisitionRow("a00", TILE, DAYS[0], extracted.root, "", "", "", "", None, True, "")
    with pytest.raises(InputError, match=r"a00\.npy has \d+ pixels.*snakemake -R extract"):
        TileSeries.open(fewer, [row], extracted.extractions)
