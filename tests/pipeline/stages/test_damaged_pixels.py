"""Damage that shows only when pixels are decoded: refused by name, or set aside.

The dataset must then equal that of a run in which the damaged date never existed.
"""

import json
import re
import shutil
import warnings
import zipfile
from types import MappingProxyType

import geopandas as gpd
import numcodecs
import numpy as np
import pytest
from shapely import box

from geo.errors import AccessError, InputError, UnavailableError
from geo.imagery import remote, retries
from geo.imagery.array_reading import ChunkFiles, lost_chunks
from geo.imagery.discovery import find_acquisitions
from geo.imagery.raster_reading import read_window
from pipeline.command_line import main
from pipeline.report.inputs import read_imagery
from pipeline.stages.extract import extract
from pipeline.workflow.acquisition_table import read_acquisitions
from pipeline.workflow.artefacts import read_json
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import RunPaths
from tests.builders.runs import assemble_tiles, opened, prepare_dataset, prepare_parcels
from tests.builders.safe import write_safe, zip_product
from tests.builders.stac import Server, item_of, shorten_waits, write_scene
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

    def image(self, day):
        return self.file(day)

    def damage(self, day):
        cut(self.file(day))

    def remove(self, day):
        self.file(day).unlink()


class TiledTiffs(Tiffs):
    options = MappingProxyType(
        {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate"}
    )

    def damage(self, day):
        # The directory of the tiles is at the end.
        spoil(self.file(day), size=self.file(day).stat().st_size * 4 // 5)


class Safe:
    """A product a day, with an image a band."""

    ending = ".jp2"

    def __init__(self, folder, rng):
        self.products = {day: self.write(folder, rng, day) for day in DAYS}

    def write(self, folder, rng, day):
        return write_safe(
            folder, rng, sensed=f"{day}T105031", baseline="02.06", bands=(*BANDS, "SCL"),
            size=SIDE, offsets=None, cloudy=5.0, ending=self.ending,
        ).path  # fmt: skip

    def image(self, day):
        return next(self.products[day].rglob(f"*B02_10m{self.ending}"))

    def damage(self, day):
        cut(self.image(day))

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

    def image(self, day):
        return self.products[day]

    def damage(self, day):
        with zipfile.ZipFile(self.products[day]) as archive:
            (member,) = (i for i in archive.infolist() if "B02_10m" in i.filename)
        # The header of the member ends with its name.
        start = member.header_offset + 30 + len(member.filename)
        spoil(self.products[day], start, member.compress_size)

    def remove(self, day):
        self.products[day].unlink()


class NetCdf:
    """A stack with a chunk a day, with checksums."""

    def __init__(self, folder, rng):
        times = [f"{day[:4]}-{day[4:6]}-{day[6:]}T10:50" for day in DAYS]
        self.data = cube(rng, BANDS, times, shape=(SIDE, SIDE))
        self.path = folder / "stack"
        self.write(self.data)

    def write(self, data):
        self.file = self.path.with_suffix(".nc")
        self.file.parent.mkdir(exist_ok=True)
        encoding = {"fletcher32": True, "chunksizes": (1, SIDE, SIDE)}
        data.to_netcdf(self.file, encoding=dict.fromkeys(BANDS, encoding))

    def damage(self, day):
        values = self.data["B02"].values[DAYS.index(day)].tobytes()
        spoil(self.file, self.file.read_bytes().index(values), len(values))

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


KINDS = [
    Tiffs,
    TiledTiffs,
    Safe,
    SafeMask,
    Zipped,
    Zipped,
    NetCdf,
    Zarr,
    Zarr3,
    ZarrWithoutChunk,
]


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
    """Return the bytes of DATA, VALID, the dates and the sizes by name."""
    dataset = run.dataset
    files = [*dataset.pixels.iterdir(), *dataset.valid.iterdir(), dataset.dates, dataset.sizes]
    return {path.relative_to(dataset.root): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("kind", "at"), [*((kind, 1) for kind in KINDS), (TiledTiffs, 0), (NetCdf, 3)]
)
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
    assert written(run) == written(without)


def extracted(tmp_path, damaged="set_aside", settings=None):
    """Prepare the parcels, and return the run and a function that extracts an acquisition."""
    settings = settings or settings_of(tmp_path, damaged)
    run = prepare_parcels(settings, tmp_path / "run")

    def start(name, damaged=damaged):
        extract(
            run.item(name), next(run.pixel_index("x").parent.glob("*.npz")), run.extracted(name),
            run.extracted_valid(name), view(settings, "extract"), 1, run.extraction_counts(name),
            damaged,
        )  # fmt: skip

    return run, start


def test_without_the_setting_an_acquisition_set_aside_earlier_is_refused(tmp_path):
    imagery = Zipped(tmp_path / "imagery", np.random.default_rng(14))
    imagery.damage(DAYS[1])
    run = prepare_dataset(settings_of(tmp_path, "set_aside"), tmp_path / "run")
    with pytest.raises(
        InputError, match="1 of 4 acquisitions of tile 31UDS cannot be read"
    ) as error:
        assemble_tiles(run, ["31UDS"], settings_of(tmp_path, "refuse"))
    assert f"{DAYS[1]}T105031_B02_10m.tif" in str(error.value)
    assert "set imagery.damaged to set_aside" in str(error.value)


def test_a_tile_without_any_readable_acquisition_is_refused(tmp_path):
    imagery = Zipped(tmp_path / "imagery", np.random.default_rng(14))
    for day in DAYS:
        imagery.damage(day)
    with pytest.raises(InputError, match=r"(?s)4 of 4 acquisitions of tile 31UDS .*imagery\.tile"):
        prepare_dataset(settings_of(tmp_path, "set_aside"), tmp_path / "run")


def test_an_acquisition_that_was_replaced_is_extracted_again(tmp_path):
    imagery = Zipped(tmp_path / "imagery", np.random.default_rng(14))
    whole = imagery.image(DAYS[1]).read_bytes()
    imagery.damage(DAYS[1])
    run, start = extracted(tmp_path)
    (name,) = (row.acquisition for row in read_acquisitions(run.acquisitions) if row.date.day == 10)
    start(name)
    assert "B02" in read_json(run.extraction_counts(name))["damaged"]
    with pytest.raises(InputError, match=r"set_aside\. What is extracted is kept"):
        start(name, "refuse")
    imagery.image(DAYS[1]).write_bytes(whole)
    start(name)
    assert "damaged" not in read_json(run.extraction_counts(name))


def test_a_product_that_is_gone_is_not_set_aside(tmp_path):
    """It may be on a disk that is not mounted."""
    imagery = TiledTiffs(tmp_path / "imagery", np.random.default_rng(14))
    run, start = extracted(tmp_path)
    imagery.remove(DAYS[1])
    with pytest.raises(InputError, match="is not a file"):
        start(f"{DAYS[1]}_31UDS")
    assert not run.extraction_counts(f"{DAYS[1]}_31UDS").exists()


def test_what_a_server_does_not_give_is_set_aside_only_if_it_does_not_exist(tmp_path, monkeypatch):
    """A server without an answer, or that refuses access, says nothing of the pixels."""
    shorten_waits(monkeypatch)
    server = Server(tmp_path / "scenes")
    write_scene(server.root, np.random.default_rng(14), DAYS[1])
    item = item_of(DAYS[1], server.url)
    (tmp_path / "imagery").mkdir()
    (tmp_path / "imagery" / f"{item['id']}.json").write_text(json.dumps(item))
    settings = settings_of(tmp_path, "set_aside")
    imagery = settings.imagery.model_copy(
        update={"path": tmp_path / "imagery" / f"{item['id']}.json", "format": "stac"}
    )
    settings = settings.model_copy(update={"imagery": imagery})
    run, start = extracted(tmp_path, settings=settings)
    (server.root / DAYS[1] / "B8A.tif").unlink()
    remote._chunk.cache_clear()
    server.faults = lambda *_: "503"
    with pytest.raises(UnavailableError, match="503"):
        start(item["id"])
    monkeypatch.setattr(retries, "_given_up", {})
    server.faults, server.needs_query = lambda *_: None, True
    with pytest.raises(AccessError, match="403"):
        start(item["id"])
    assert not run.extraction_counts(item["id"]).exists()
    server.needs_query = False
    start(item["id"])
    assert "B8A.tif does not exist" in read_json(run.extraction_counts(item["id"]))["damaged"]
    server.close()


def test_damage_of_masks_that_the_index_reads_is_set_aside_there(tmp_path):
    imagery = SafeMask(tmp_path / "imagery", np.random.default_rng(14))
    imagery.damage(DAYS[1])
    settings = settings_of(tmp_path, "set_aside")
    clouds = settings.clouds.model_copy(update={"classes": [9]})  # not those of the metadata
    run = prepare_parcels(settings.model_copy(update={"clouds": clouds}), tmp_path / "run")
    assert [row.reason for row in read_acquisitions(run.acquisitions)] == ["", "damaged", "", ""]


@pytest.mark.parametrize(("lost", "n_lost"), [((1, 1), 1), ((0, 0), 0), ((2, 1), 0)])
def test_chunks_at_the_edge_of_the_data_may_be_missing(tmp_path, lost, n_lost):
    """A sliver of data may reach into them in one band only; amid the data, they are lost."""
    times = [f"{day[:4]}-{day[4:6]}-{day[6:]}T10:50" for day in DAYS]
    data = cube(np.random.default_rng(14), BANDS, times, shape=(SIDE, SIDE))
    store = tmp_path / "stack.zarr"
    data.chunk(time=1, y=32, x=32).to_zarr(store, zarr_format=2)
    (store / "B8A" / f"1.{lost[0]}.{lost[1]}").unlink()
    found = find_acquisitions(store)
    problems = [lost_chunks(item, ChunkFiles()) for item in found]
    assert [problem is not None for problem in problems] == [False, n_lost > 0, False, False]
    assert not n_lost or "B8A has lost 1 of the 9 chunks of 20180410_31UDS" in problems[1]


@pytest.mark.parametrize("codec", ["Blosc", "Zlib", "GZip", "BZ2", "LZMA", "Zstd", "LZ4", None])
@pytest.mark.parametrize("length", [0.5, 10])
def test_a_cut_chunk_of_any_codec_is_damage(tmp_path, codec, length):
    data = cube(np.random.default_rng(14), ("B02",), ["2018-04-05"], shape=(SIDE, SIDE))
    data["B02"] //= 50  # which can be compressed
    encoding = {"B02": {"compressors": codec and getattr(numcodecs, codec)()}}
    data.to_zarr(tmp_path / "a.zarr", zarr_format=2, encoding=encoding)
    (band,) = find_acquisitions(tmp_path / "a.zarr")[0].bands.values()
    np.testing.assert_array_equal(read_window(band, slice(None), slice(None)), data["B02"][0])
    chunk = tmp_path / "a.zarr" / "B02" / "0.0.0"
    content = chunk.read_bytes()
    chunk.write_bytes(content[: length if length > 1 else int(length * len(content))])
    with pytest.raises(InputError, match=r"B02 of .* cannot be read") as error:
        read_window(band, slice(None), slice(None))
    # Blosc itself may decode what happens to be in the memory behind the chunk.
    assert codec != "Blosc" or length > 1 or "bytes instead of" in str(error.value)


@pytest.mark.parametrize("kind", [Zipped, TiledTiffs])
def test_inspect_tells_what_an_earlier_run_could_not_read(tmp_path, monkeypatch, capsys, kind):
    """The pixels of GeoTIFFs are read by index already, for the check of offsets."""
    monkeypatch.chdir(tmp_path)
    imagery = kind(tmp_path / "imagery", np.random.default_rng(14))
    whole = imagery.image(DAYS[1]).read_bytes()
    imagery.damage(DAYS[1])
    settings = settings_of(tmp_path, "set_aside")
    prepare_dataset(settings, RunPaths.of("default").root)
    (tmp_path / "mine.yaml").write_text(settings.model_dump_json())
    assert main(["inspect", "mine.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "4 acquisitions, 3 to use" in shown
    assert re.search(rf"1 set aside, damaged, or without a band: \S*{DAYS[1]}\S*_31UDS", shown)
    imagery.image(DAYS[1]).write_bytes(whole)
    assert main(["inspect", "mine.yaml"]) == 0
    assert "4 acquisitions, 4 to use" in capsys.readouterr().out
