"""Damage that shows only when pixels are decoded: refused by name, or set aside.

The dataset must then equal that of a run in which the damaged date never existed.
"""

import shutil
import warnings
import zipfile
import zlib
from types import MappingProxyType

import geopandas as gpd
import numpy as np
import pytest
from shapely import box

from geo.errors import InputError
from pipeline.report.inputs import read_imagery
from pipeline.workflow.acquisition_table import read_acquisitions
from pipeline.workflow.config import load
from tests.builders.runs import opened, prepare_dataset
from tests.builders.safe import write_safe, zip_product
from tests.builders.stacks import cube
from tests.builders.tiffs import write_tiff

BANDS = ["B02", "B8A"]
DAYS = ("20180405", "20180410", "20180415", "20180420")
SIDE = 96
X, Y = 500_000, 5_600_000


def spoil(file, start=0, size=None):
    """Overwrite the second half of a file, or of a part of it; its length stays."""
    content = bytearray(file.read_bytes())
    size = len(content) if size is None else size
    content[start + size // 2 : start + size - 20] = b"\xa5" * (size - 20 - size // 2)
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


class Tiffs:
    """A GeoTIFF a day."""

    options = MappingProxyType({})

    def __init__(self, folder, rng):
        self.folder = folder
        for day in DAYS:
            values = rng.integers(500, 9000, (2, SIDE, SIDE)).astype(np.uint16)
            write_tiff(self.file(day), values, BANDS, **self.options)

    def file(self, day):
        return self.folder / f"{day}_T31UDS.tif"

    def damage(self, day):
        cut(self.file(day))

    def remove(self, day):
        self.file(day).unlink()


class TiledTiffs(Tiffs):
    options = MappingProxyType(
        {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate"}
    )

    def damage(self, day):
        spoil(self.file(day))


class Safe:
    """A product a day, with an image a band."""

    def __init__(self, folder, rng):
        self.products = {day: self.write(folder, rng, day) for day in DAYS}

    def write(self, folder, rng, day):
        return write_safe(
            folder, rng, sensed=f"{day}T105031", baseline="02.06", bands=(*BANDS, "SCL"),
            size=SIDE, offsets=None, cloudy=5.0,
        ).path  # fmt: skip

    def damage(self, day):
        (image,) = self.products[day].rglob("*B02_10m.jp2")
        cut(image)

    def remove(self, day):
        shutil.rmtree(self.products[day])


class SafeMask(Safe):
    def damage(self, day):
        (image,) = self.products[day].rglob("*SCL_20m.jp2")
        cut(image)


class Zipped(Safe):
    def write(self, folder, rng, day):
        product = write_safe(
            folder, rng, sensed=f"{day}T105031", baseline="02.06", bands=(*BANDS, "SCL"),
            size=SIDE, offsets=None, cloudy=5.0, ending=".tif",
        )  # fmt: skip
        return zip_product(product, top=product.path.name)

    def damage(self, day):
        with zipfile.ZipFile(self.products[day]) as archive:
            (member,) = (i for i in archive.infolist() if "B02_10m" in i.filename)
        # The header of the member ends with its name.
        start = member.header_offset + 30 + len(member.filename)
        spoil(self.products[day], start, member.compress_size)

    def remove(self, day):
        self.products[day].unlink()


class NetCdf:
    """A stack with a chunk a day."""

    def __init__(self, folder, rng):
        times = [f"{day[:4]}-{day[4:6]}-{day[6:]}T10:50" for day in DAYS]
        self.data = cube(rng, BANDS, times, shape=(SIDE, SIDE))
        self.path = folder / "stack"
        self.write(self.data)

    def write(self, data):
        self.file = self.path.with_suffix(".nc")
        self.file.parent.mkdir(exist_ok=True)
        encoding = {"zlib": True, "shuffle": False, "chunksizes": (1, SIDE, SIDE)}
        data.to_netcdf(self.file, encoding=dict.fromkeys(BANDS, encoding))

    def damage(self, day):
        packed = zlib.compress(self.data["B02"].values[DAYS.index(day)].tobytes(), 4)
        content = self.file.read_bytes()
        assert content.count(packed) == 1
        spoil(self.file, content.index(packed), len(packed))

    def remove(self, day):
        self.write(self.data.isel(time=[at for at, other in enumerate(DAYS) if other != day]))


class Zarr(NetCdf):
    version, chunk, spoil = 2, "B02/{}.0.0", staticmethod(cut)  # Blosc notices only a wrong length

    def write(self, data):
        self.file = self.path.with_suffix(".zarr")
        chunked = data.chunk(time=1, y=SIDE, x=SIDE)
        with warnings.catch_warnings(action="ignore"):
            chunked.to_zarr(self.file, zarr_format=self.version, mode="w")

    def damage(self, day):
        self.spoil(self.file / self.chunk.format(DAYS.index(day)))


class Zarr3(Zarr):
    version, chunk, spoil = 3, "B02/c/{}/0/0", staticmethod(spoil)


class ZarrWithoutChunk(Zarr):
    def damage(self, day):
        (self.file / self.chunk.format(DAYS.index(day))).unlink()


KINDS = [Tiffs, TiledTiffs, Safe, SafeMask, Zipped, NetCdf, Zarr, Zarr3, ZarrWithoutChunk]


def settings_of(folder, damaged):
    register = folder / "register.gpkg"
    if not register.exists():
        outlines = [
            box(X + x, Y - y - 200, X + x + 200, Y - y)
            for y in range(0, 960, 240)
            for x in range(0, 960, 240)
        ]
        table = {"ID": [f"p{i:02}" for i in range(16)], "CODE": ["a", "b"] * 8}
        gpd.GeoDataFrame(table, geometry=outlines, crs=32631).to_file(register)
    return load(
        {
            "imagery": {"path": str(folder / "imagery"), "bands": BANDS, "damaged": damaged},
            "parcels": {
                "path": str(register), "id": "ID", "labels": {"crop": "CODE"},
                "classes": {"min_parcels": 2},
            },
            "split": {"folds": 2},
        }
    )  # fmt: skip


def written(run):
    """Return the bytes of DATA, VALID and the dates."""
    dataset = run.dataset
    files = [*dataset.pixels.iterdir(), *dataset.valid.iterdir(), dataset.dates, dataset.sizes]
    return {path.name if path.parent.name == "META" else path: path.read_bytes() for path in files}


def relative(found, run):
    return {
        str(name).removeprefix(f"{run.dataset.root}/"): content for name, content in found.items()
    }


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_dataset_equals_that_without_the_damaged_date(tmp_path, kind, at):
    rng = np.random.default_rng(14)
    imagery = kind(tmp_path / "imagery", rng)
    imagery.damage(DAYS[at])
    run = prepare_dataset(settings_of(tmp_path, "set_aside"), tmp_path / "run")
    rows = {f"{row.date:%Y%m%d}": row for row in read_acquisitions(run.acquisitions)}
    assert list(rows) == list(DAYS)
    shown = read_imagery(run, opened(run))
    unused = [(f"{row.date:%Y%m%d}", row.reason) for row in shown.rows if not row.used]
    assert unused == [(DAYS[at], "damaged")]
    for problem in shown.damaged.values():
        assert "B02" in problem or "SCL" in problem

    with pytest.raises(InputError, match=r"imagery\.damaged to set_aside") as error:
        prepare_dataset(settings_of(tmp_path, "refuse"), tmp_path / "refused")
    assert DAYS[at] in str(error.value) or "stack." in str(error.value)

    imagery.remove(DAYS[at])
    without = prepare_dataset(settings_of(tmp_path, "refuse"), tmp_path / "without")
    assert relative(written(run), run) == relative(written(without), without)
