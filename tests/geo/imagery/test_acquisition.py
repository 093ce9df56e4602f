"""Acquisitions as STAC items: their content, their readers, their digests, and watched files."""

import json
import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import geopandas
import numpy as np
import pystac
import pytest
import shapely
import xarray as xr
import yaml
import zarr

from geo.errors import InputError
from geo.grid import Grid
from geo.imagery.acquisition import Acquisition, Band, read_item
from geo.imagery.discovery import find_acquisitions
from geo.imagery.imagery_files import digest_of, digests, walk
from geo.imagery.imagery_files import watched_files as watched_texts
from geo.imagery.mask_files import with_mask_files
from geo.pixels.pixel_index import index_pixels
from pipeline.stages.extract import extract
from pipeline.stages.index import write_items
from pipeline.workflow.config import load, view
from tests.builders.items import assert_survive
from tests.builders.runs import snakemake
from tests.builders.safe import write_image, write_safe, zip_product

BANDS = ["B02", "B8A"]
SQUARES = [shapely.box(x, 5_599_500, x + 60, 5_599_560) for x in (500_100, 500_300)]


def watched_files(*arguments):
    return [Path(text) for text in watched_texts(*arguments)]


@pytest.fixture
def rng():
    return np.random.default_rng(17)


def write(folder, rng, **options):
    return write_safe(folder, rng, **{"bands": ("B02", "B8A", "SCL"), **options})


def test_an_item_contains_the_users_mask(tmp_path, rng):
    write(tmp_path / "imagery", rng)
    folder = tmp_path / "masks"
    folder.mkdir()
    write_image(folder / "20220413.tif", np.zeros((60, 60), np.uint8), "31UDS", 10, 500_000)
    found = with_mask_files(find_acquisitions(tmp_path / "imagery"), folder)
    assert set(found[0].masks) == {"SCL", "MASK"}
    assert_survive(found, tmp_path / "items")


def test_paths_in_an_item_are_relative_to_its_folder(tmp_path, rng, monkeypatch):
    product = write(tmp_path / "imagery", rng)
    monkeypatch.chdir(tmp_path)
    items = Path("results/run/acquisitions")
    write_items(items, find_acquisitions(Path("imagery")))
    (path,) = items.iterdir()
    asset = pystac.Item.from_file(path).assets["B02"]
    assert asset.href.startswith("../../../imagery/")
    (image,) = product.path.rglob("*_B02_10m.jp2")
    assert Path(asset.get_absolute_href()) == image
    assert read_item(path).bands["B02"].source == str(image.relative_to(tmp_path))


def test_files_that_are_not_items_of_the_index_are_refused(tmp_path):
    for text in ("{", "[]", '{"type": "Feature", "id": "x", "properties": {}, "assets": {}}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(InputError, match="not an acquisition as the stage index writes it"):
            read_item(tmp_path / "x.json")


def test_extract_needs_only_the_item_and_the_images(tmp_path, rng):
    """The metadata are deleted, and the reader of the format is not imported."""
    product = write(tmp_path / "imagery", rng, offsets=-1000)
    (found,) = find_acquisitions(tmp_path / "imagery", bands=BANDS)
    write_items(tmp_path / "items", [found])
    for path in product.path.rglob("*.xml"):
        path.unlink()
    loaded = run_extract(tmp_path, found)
    assert not loaded & {"xarray", "netCDF4", "zarr", "scipy", "requests", "pandas", "torch"}
    assert not {name for name in loaded if name.startswith(("geo.formats", "geo.imagery.disc"))}
    pixels = np.load(tmp_path / "pixels.npy")
    expected = product.pixels["B02"][44:50, 10:16].ravel().astype(int) - 1000
    np.testing.assert_array_equal(pixels[0][:36], np.maximum(expected, 0))


@pytest.mark.parametrize("form", ["netcdf", "zarr"])
def test_extract_reads_a_stack_without_xarray(tmp_path, rng, form):
    shape = (2, 60, 60)
    values = {name: (("time", "y", "x"), rng.integers(1, 9000, shape, "uint16")) for name in BANDS}
    places = 5 + 10 * np.arange(60)
    coordinates = {
        "time": np.array(["2018-04-05", "2018-04-15"], "datetime64[ns]"),
        "y": 5_600_000 - places, "x": 500_000 + places,
    }  # fmt: skip
    data = xr.Dataset(values, coordinates, {"crs": "EPSG:32631"})
    path = tmp_path / "imagery" / "stack.nc"
    path.parent.mkdir()
    if form == "netcdf":
        data.to_netcdf(path)
    else:
        data.to_zarr(path.with_suffix(".zarr"), zarr_format=2)
    found = find_acquisitions(path.parent, bands=BANDS)
    write_items(tmp_path / "items", found)
    loaded = run_extract(tmp_path, found[1])
    assert not loaded & {"xarray", "scipy", "requests", "pandas"}
    assert ("netCDF4" in loaded, "zarr" in loaded) == (form == "netcdf", form == "zarr")
    pixels = np.load(tmp_path / "pixels.npy")
    np.testing.assert_array_equal(pixels[1][:36], data["B8A"].values[1, 44:50, 10:16].ravel())


def run_extract(folder, acquisition):
    """Extract an acquisition in a separate process and return the modules that it imported."""
    index_pixels(SQUARES, ["a", "b"], acquisition.grid, acquisition.tile).save(folder / "index.npz")
    names = (f"items/{acquisition.id}.json", "index.npz", "pixels.npy", "valid.npy")
    settings = {"imagery": {"bands": BANDS}, "clouds": {"mask": "none"}}
    code = (
        "import sys\nfrom pathlib import Path\nfrom pipeline.command_line import main\n"
        f"assert main(['extract', *{arguments(names, settings)!r}]) == 0\n"
        "print(*sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder
    )
    modules = set(result.stdout.split())
    return modules | {name.partition(".")[0] for name in modules}


def arguments(names, settings):
    given = zip(("--item", "--pixel-index", "--pixels", "--valid"), names, strict=True)
    passed = view(load(settings), "extract").model_dump_json()
    return [*(text for pair in given for text in pair), "--settings", passed]


def test_an_item_on_another_grid_is_refused(tmp_path, rng):
    write(tmp_path / "imagery", rng)
    (found,) = find_acquisitions(tmp_path / "imagery", bands=BANDS)
    write_items(tmp_path / "items", [found])
    other = Grid("EPSG:32631", 500_003, 5_600_000, 10, 10, 60, 60)
    index_pixels(SQUARES, ["a", "b"], other, found.tile).save(tmp_path / "index.npz")
    settings = view(load({"imagery": {"bands": BANDS}}), "extract")
    paths = (tmp_path / "index.npz", tmp_path / "pixels.npy", tmp_path / "valid.npy")
    with pytest.raises(InputError, match="lies on another grid"):
        extract(tmp_path / "items" / f"{found.id}.json", *paths, settings)


def replace_file(path):
    """Append a byte to a file and set its time to 1970."""
    content = path.read_bytes()
    path.write_bytes(content + b"\0")
    os.utime(path, (1, 1))


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_an_item_changes_if_one_of_its_files_is_replaced(tmp_path, rng, form):
    imagery, items = tmp_path / "imagery", tmp_path / "items"
    products = [write(imagery, rng, sensed=f"202204{day}T105031") for day in (13, 23)]
    if form == "zip":
        for product in products:
            zip_product(product, top="x.SAFE")
    write_items(items, find_acquisitions(imagery))
    before = {path.name: (path.read_text(), path.stat().st_mtime_ns) for path in items.iterdir()}
    write_items(items, find_acquisitions(imagery))
    again = {path.name: (path.read_text(), path.stat().st_mtime_ns) for path in items.iterdir()}
    assert again == before
    replace_file(
        next(imagery.rglob("*20220423*.zip" if form == "zip" else "*20220423*_B02_10m.jp2"))
    )
    write_items(items, find_acquisitions(imagery))
    after = {path.name: (path.read_text(), path.stat().st_mtime_ns) for path in items.iterdir()}
    changed = [name for name in before if before[name] != after[name]]
    assert changed == ["20220423T105031_31UDS_N0400.json"]
    old, new = (json.loads(state[changed[0]][0]) for state in (before, after))
    assert old["properties"].pop("parcelwise:digest") != new["properties"].pop("parcelwise:digest")
    assert old == new


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("chunks", [(1, 30, 60), (60, 30, 1)])
def test_adding_a_time_to_a_zarr_changes_no_other_digest(tmp_path, rng, version, chunks):
    order = ("time", "y", "x") if chunks[0] == 1 else ("y", "x", "time")
    path = tmp_path / "stack.zarr"

    def stack(*days):
        data = xr.Dataset(
            {"B02": (("time", "y", "x"), rng.integers(1, 9000, (len(days), 60, 60), "uint16"))},
            {
                "time": np.array(days, "datetime64[ns]"),
                "y": 5_599_995.0 - 10 * np.arange(60), "x": 500_005.0 + 10 * np.arange(60),
            },
            {"crs": "EPSG:32631"},
        )  # fmt: skip
        return data.transpose(*order)

    first = stack("2018-04-05", "2018-04-15")
    given = {"B02": {"chunks": chunks}, "time": {"units": "days since 2018-01-01"}}
    first.to_zarr(path, zarr_format=version, consolidated=version == 2, encoding=given)
    before = digests(find_acquisitions(path))
    assert len(set(before.values())) == 2
    assert digest_of([]) not in before.values()
    stack("2018-04-25").to_zarr(path, append_dim="time", consolidated=version == 2)
    after = digests(find_acquisitions(path))
    assert len(after) == 3
    assert before.items() <= after.items()
    zarr.open_array(path, path="B02", mode="r+")[(0,) * 3] = 77
    again = digests(find_acquisitions(path))
    assert [id_ for id_ in after if after[id_] != again[id_]] == ["20180405_scene"]


def test_items_of_acquisitions_that_no_longer_exist_are_removed(tmp_path, rng):
    write(tmp_path / "imagery", rng)
    (found,) = find_acquisitions(tmp_path / "imagery")
    write_items(tmp_path / "items", [found])
    (tmp_path / "items" / "gone.json").write_text("{}")
    write_items(tmp_path / "items", [found])
    assert [path.stem for path in (tmp_path / "items").iterdir()] == [found.id]


def test_remote_files_are_not_in_the_digest():
    grid = Grid("EPSG:32631", 0.0, 0.0, 10.0, 10.0, 8, 8)
    far = {n: Band(n, f"https://x/{n}.tif", 1, grid, None, 1.0, 0.0, 0.0) for n in BANDS}
    item = Acquisition("x", "31UDS", date(2022, 4, 13), Path("x"), "stac", far, {})
    (digest,) = digests([item]).values()
    assert digest == digest_of([])


# Files below the imagery that no reader opens.
UNUSED = (
    "README", "quicklook.jpg", "Thumbs.db", ".DS_Store", "a.tif.aux.xml", "MTD_MSIL2A.xml.aux.xml",
    "T31UDS_TCI_10m.jp2", "notes/list.json", ".hidden/a.tif", "GRANULE/preview.png",
)  # fmt: skip


def add_unused_files(folder):
    for name in UNUSED:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"?")


def test_only_files_that_a_reader_opens_are_watched(tmp_path, rng):
    product = write(tmp_path / "2022" / "spring", rng)
    before = watched_files(tmp_path)
    assert product.path / "MTD_MSIL2A.xml" in before
    assert {path.suffix for path in before} == {".xml", ".jp2"}
    assert set(product.path.rglob("*.jp2")) <= set(before)
    for folder in (tmp_path, product.path):
        add_unused_files(folder)
    assert watched_files(tmp_path) == before
    (tmp_path / "2023").mkdir()
    late = zip_product(write(tmp_path / "2023", rng, sensed="20230413T105031"))
    assert len(watched_files(tmp_path)) == len(before) + 1
    assert late is None or late in watched_files(tmp_path)


def test_chunks_of_zarr_are_watched_and_other_files_in_it_are_not(tmp_path):
    for version in (2, 3):
        path = tmp_path / f"v{version}.zarr"
        data = xr.Dataset({"B02": (("y", "x"), np.ones((8, 8)))})
        data.to_zarr(path, zarr_format=version, consolidated=version == 2)
        written = {file for file in path.rglob("*") if file.is_file()}
        assert written == set(watched_files(path)) == set(watched_files(tmp_path)) & written
        add_unused_files(path)
        add_unused_files(path / "B02")
        assert set(watched_files(path)) == written


def test_json_is_watched_only_if_it_may_be_an_item(tmp_path):
    (tmp_path / "item.json").write_text("{}")
    assert watched_files(tmp_path) == [tmp_path / "item.json"]
    (tmp_path / "20220413.tif").write_bytes(b"")
    assert watched_files(tmp_path) == [tmp_path / "20220413.tif"]
    assert set(watched_files(tmp_path, "stac")) == set(tmp_path.iterdir())


def test_links_to_parent_folders_are_followed_once(tmp_path, rng):
    product = write(tmp_path / "imagery" / "2022", rng)
    (tmp_path / "imagery" / "2022" / "back").symlink_to(tmp_path / "imagery")
    (product.path / "self").symlink_to(product.path)
    (tmp_path / "elsewhere").mkdir()
    other = write(tmp_path / "elsewhere", rng, sensed="20220423T105031")
    (tmp_path / "imagery" / "linked").symlink_to(tmp_path / "elsewhere")
    assert len(list(walk(tmp_path / "imagery"))) < 30
    found = find_acquisitions(tmp_path / "imagery")
    assert [item.date.day for item in found] == [13, 23]
    assert {p.resolve() for p in watched_files(tmp_path / "imagery")} == {
        file for written in (product, other) for file in written.path.rglob("*.*") if file.is_file()
    }


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A run with products in folders by year."""
    folder = tmp_path_factory.mktemp("workspace")
    rng = np.random.default_rng(3)
    for year in (2021, 2022):
        write(folder / "imagery" / str(year), rng, sensed=f"{year}0413T105031")
    frame = {"ID_PARCEL": ["a", "b"], "CODE": ["x", "y"]}
    geopandas.GeoDataFrame(frame, geometry=SQUARES, crs="EPSG:32631").to_file(
        folder / "register.gpkg"
    )
    settings = {
        "run": "run",
        "imagery": {"path": "imagery", "bands": BANDS},
        "parcels": {"path": "register.gpkg"},
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    return folder


def jobs_of(folder):
    """Extract and assemble all acquisitions; return the jobs that ran."""
    targets = ["results/run/dataset/tiles/31UDS/pixels.npy"]
    result = snakemake(folder, "--cores", "2", *targets)
    text = result.stdout + result.stderr
    return sorted(re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", text, re.M))


def times_of(folder):
    return {p.name: p.stat().st_mtime_ns for p in (folder / "results/run/extracted").iterdir()}


@pytest.mark.slow
def test_only_acquisitions_whose_files_changed_are_extracted_again(workspace):
    first = jobs_of(workspace)
    assert first == ["assemble", "clean", "extract", "extract", "index", "rasterise"]
    assert jobs_of(workspace) == []

    for folder in (workspace / "imagery", *(workspace / "imagery").glob("*/*.SAFE")):
        add_unused_files(folder)
    assert jobs_of(workspace) == []

    before = times_of(workspace)
    (image,) = (workspace / "imagery").rglob("*20220413*_B02_10m.jp2")
    write_image(image, np.full((60, 60), 1234, np.uint16), "31UDS", 10, 500_000)
    os.utime(image, (1, 1))  # like a copy that keeps a time older than all results
    assert jobs_of(workspace) == ["assemble", "extract", "index"]
    after = times_of(workspace)
    name = "20220413T105031_31UDS_N0400"
    assert {n for n in before if before[n] != after[n]} == {f"{name}.npy", f"{name}.valid.npy"}
    pixels = np.load(workspace / "results/run/extracted" / f"{name}.npy")
    assert (pixels[0] == 1234).all()
    assert jobs_of(workspace) == []

    late = workspace / "imagery" / "by" / "year" / "2023"
    write(late, np.random.default_rng(4), sensed="20230413T105031")
    assert jobs_of(workspace) == ["assemble", "extract", "index"]
    again = times_of(workspace)
    assert len(again) == len(after) + 2
    assert after.items() <= again.items()
    assert jobs_of(workspace) == []
