"""Stage index with a cache: as an index from nothing, but only what is new or changed is read."""

import json
import os
import re
import shutil
import sqlite3
from contextlib import closing, suppress
from datetime import date, timedelta

import numpy as np
import pytest

from geo.errors import InputError
from geo.formats import eopf as eopf_reader
from geo.formats import stack
from geo.imagery import array_reading, open_rasters
from pipeline.stages.index import index
from pipeline.workflow.config import load, view
from tests.builders import eopf, theia
from tests.builders.safe import write_safe, zip_product
from tests.builders.stacks import cube, write_stack
from tests.builders.tiffs import TRANSFORM, write_tiff

BANDS = ["B02", "B8A"]


def write_one_safe(folder, rng, day):
    return write_safe(
        folder, rng, sensed=f"{day:%Y%m%d}T105031", bands=(*BANDS, "SCL"), baseline="04.00",
        offsets=-1000, cloudy=None,
    )  # fmt: skip


def write_zipped_safe(folder, rng, day):
    zip_product(write_one_safe(folder, rng, day))


def write_theia(folder, rng, day):
    name = f"SENTINEL2A_{day:%Y%m%d}-105355-460_L2A_T31UDS_C_V2-2"
    theia.write_product(folder, rng, name, ("FRE",))
    metadata = folder / name / f"{name}_MTD_ALL.xml"
    metadata.write_text(metadata.read_text().replace("2018-05-05", f"{day}"))


def write_eopf(folder, rng, day):
    folder.mkdir(parents=True, exist_ok=True)
    name = f"S2A_MSIL2A_{day:%Y%m%d}T100041_N0511_R122_T32TQM_{day:%Y%m%d}T122613"
    eopf.write_product(folder, rng, name, start_datetime=f"{day}T10:00:41+00:00")


def write_geotiffs(folder, rng, day):
    for band in BANDS:
        values = rng.integers(1, 9000, (1, 60, 60)).astype("uint16")
        write_tiff(folder / f"{day:%Y%m%d}_T31UDS_{band}.tif", values)
    mask = rng.integers(0, 12, (1, 60, 60)).astype("uint8")
    write_tiff(folder / f"{day:%Y%m%d}_T31UDS_SCL.tif", mask)


def write_with_own_masks(folder, rng, day):
    write_geotiffs(folder, rng, day)
    mask = rng.integers(0, 2, (1, 60, 60)).astype("uint8")
    write_tiff(folder.parent / "masks" / f"{day:%Y%m%d}.tif", mask)


def write_netcdf(folder, rng, day):
    write_stack(cube(rng, days=(f"{day}T10:50",), shape=(30, 40)), folder, "netcdf", f"{day}")


def write_zarr(folder, rng, day):
    data = cube(rng, days=(f"{day}T10:50",), shape=(30, 40))
    write_stack(data, folder, "zarr3", f"{day}", chunk=(10, 20))


def write_growing_zarr(folder, rng, day):
    data = cube(rng, days=(f"{day}T10:50",), shape=(10, 20))
    append = {"append_dim": "time"} if (folder / "stack.zarr").exists() else {}
    write_stack(data, folder, "zarr3", chunk=(10, 1), **append)  # a chunk has one time


def write_stac(folder, rng, day):
    write_geotiffs(folder / "images", rng, day)
    of_pixels = {"proj:shape": [60, 60], "proj:transform": list(TRANSFORM)[:6]}
    assets = {
        band: {
            "href": f"images/{day:%Y%m%d}_T31UDS_{band}.tif",
            "type": "image/tiff; application=geotiff",
            # Its file is read if the item does not state its grid.
            **(of_pixels if band != "B8A" else {}),
        }
        for band in (*BANDS, "SCL")
    }
    properties = {"datetime": f"{day}T10:50:31Z", "proj:code": "EPSG:32631"}
    item = {"type": "Feature", "stac_version": "1.1.0", "id": f"S2A_31UDS_{day:%Y%m%d}_0_L2A"}
    item |= {"geometry": None, "links": [], "properties": properties, "assets": assets}
    (folder / f"{day}.json").write_text(json.dumps(item))


WRITERS = {
    "safe": write_one_safe,
    "zipped safe": write_zipped_safe,
    "theia": write_theia,
    "eopf": write_eopf,
    "geotiff": write_geotiffs,
    "own masks": write_with_own_masks,
    "netcdf": write_netcdf,
    "zarr": write_zarr,
    "growing zarr": write_growing_zarr,
    "stac": write_stac,
}
SIDE_CAR = """<PAMDataset>
<PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand>
</PAMDataset>"""


def run_index(imagery, out, cache=None):
    """Return what index writes, by name, or its error."""
    masks = imagery.parent / "masks"
    values = {
        "imagery": {"bands": BANDS, "radiometry": "warn", "damaged": "set_aside"},
        "clouds": {"dilation_m": 20, "files": masks if masks.exists() else None},
    }
    try:
        index(
            imagery, out / "acquisitions.json", out / "acquisitions.csv", out / "items",
            out / "grids.json", view(load(values), "index"), threads=2, cache=cache,
        )  # fmt: skip
    except InputError as error:
        return str(error)
    return {f.relative_to(out): f.read_bytes() for f in sorted(out.rglob("*")) if f.is_file()}


def change(folder, rng, write, days):
    """Change the imagery in one of the ways in which it changes, or which nobody expects."""
    files = sorted(f for f in folder.parent.rglob("*") if f.is_file())
    file = files[rng.integers(len(files))]
    state = file.stat()
    match rng.choice(["add", "add", "remove", "truncate", "alter", "side-car", "copy", "nothing"]):
        case "add":
            with suppress(ValueError):  # xarray does not append to a damaged stack
                write(folder, rng, days.pop(0))
        case "remove":
            top = folder.parent.joinpath(*file.relative_to(folder.parent).parts[:2])
            if top.is_file() or rng.random() < 0.5:
                file.unlink()
            else:
                shutil.rmtree(top)
        case "truncate":
            os.truncate(file, state.st_size // 2)
        case "alter":  # size and time stay
            content = bytearray(file.read_bytes())
            if content:
                content[len(content) // 2] ^= 255
            file.write_bytes(content)
            os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
        case "side-car":
            file.with_name(f"{file.name}.aux.xml").write_text(SIDE_CAR)
        case "copy":
            others = [f for f in files if f.suffix == file.suffix and f != file]
            if others:
                shutil.copy2(others[rng.integers(len(others))], file)


@pytest.mark.parametrize("form", WRITERS)
def test_any_changes_give_what_an_index_from_nothing_gives(form, tmp_path):
    rng, write = np.random.default_rng(1), WRITERS[form]
    imagery = tmp_path / "inputs" / "imagery"
    days = [date(2022, 4, 3) + timedelta(5 * n) for n in range(40)]
    for _ in range(3):
        write(imagery, rng, days.pop(0))
    results = []
    for step in range(8):
        kept = run_index(imagery, tmp_path / "out" / "kept", tmp_path / "cache.sqlite")
        results.append(run_index(imagery, tmp_path / "out" / str(step)))
        assert kept == results[-1]
        change(imagery, rng, write, days)
    assert len({str(result) for result in results}) > 1


@pytest.mark.parametrize("form", WRITERS)
def test_only_a_new_acquisition_is_looked_at(form, tmp_path, monkeypatch):
    rng, write, imagery = np.random.default_rng(2), WRITERS[form], tmp_path / "inputs" / "imagery"
    opened = []

    def count(module, name):
        original = getattr(module, name)

        def counting(path, *arguments, **options):
            opened.append(str(path))
            return original(path, *arguments, **options)

        monkeypatch.setattr(module, name, counting)

    for module, name in ((open_rasters, "_open"), (stack, "_open"), (eopf_reader, "_open")):
        count(module, name)
    count(array_reading, "_read_zarr")
    count(array_reading, "_read_netcdf")
    for n in range(6):
        write(imagery, rng, date(2022, 4, 3 + n))
    run_index(imagery, tmp_path / "out", tmp_path / "cache.sqlite")
    first = len(opened)
    write(imagery, rng, date(2022, 4, 20))
    opened.clear()
    run_index(imagery, tmp_path / "out", tmp_path / "cache.sqlite")
    days = {re.search(r"2022-?04-?(\d\d)|$", path)[1] for path in opened}
    if form == "growing zarr":
        assert first - len(opened) == 5 * len(BANDS)
    elif form in ("geotiff", "own masks", "eopf", "netcdf", "zarr"):
        # The first, the middle and the last of them show the fill value and the scale.
        assert days == {"03", "06", "20"}
    else:
        assert days == {"20"}


@pytest.mark.parametrize("damage", ["other software", "cut", "not SQLite", "altered"])
def test_a_damaged_cache_changes_nothing(damage, tmp_path):
    rng, imagery = np.random.default_rng(3), tmp_path / "inputs" / "imagery"
    for n in range(3):
        write_geotiffs(imagery, rng, date(2022, 4, 3 + n))
    expected = run_index(imagery, tmp_path / "out")
    cache = tmp_path / "cache.sqlite"
    run_index(imagery, tmp_path / "out", cache)
    content = cache.read_bytes()
    if damage == "other software":
        with closing(sqlite3.connect(cache)) as database:
            database.execute("UPDATE entries SET value = x'00'")
            database.execute("PRAGMA user_version = 7")
            database.commit()
    elif damage == "cut":
        cache.write_bytes(content[: len(content) // 2])
    elif damage == "not SQLite":
        cache.write_bytes(b"a" * 5000)
    else:
        cache.write_bytes(content.replace(b"EPSG:32631", b"EPSG:32632").replace(b"null", b"nul!"))
    assert run_index(imagery, tmp_path / "out", cache) == expected
    assert run_index(imagery, tmp_path / "out", cache) == expected
