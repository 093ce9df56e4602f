"""Imagery that describes more than it holds, or names what the settings do not.

The oracle of the second kind is a server that counts the requests: none may arrive.
"""

import json
import os
import struct
import tracemalloc
import zipfile

import h5py
import netCDF4
import numpy as np
import pytest
import rasterio
import zarr

from geo import documents
from geo.errors import InputError
from geo.formats.safe import find_products
from geo.imagery import open_rasters
from geo.imagery.discovery import find_acquisitions
from geo.imagery.imagery_files import walk, watched_files
from geo.imagery.raster_reading import read_window
from geo.imagery.reduced_reading import read_coarse
from tests.builders.readers import READERS, draw_scene
from tests.builders.safe import write_safe, zip_product
from tests.builders.stac import Server
from tests.builders.stacks import cube, write_stack
from tests.builders.theia import write_product
from tests.builders.tiffs import write_tiff

VALUES = np.arange(1, 64 * 64 + 1, dtype=np.uint16).reshape(1, 64, 64)


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    yield server
    server.close()


def entities(levels=9, number=10):
    """Return XML that is `number` ** `levels` letters long when its entities are replaced."""
    names = [f"e{level}" for level in range(levels)]
    inner = ["x", *(f"&{name};" * number for name in names[:-1])]
    declared = "".join(f'<!ENTITY {n} "{text}">' for n, text in zip(names, inner, strict=True))
    return f"<!DOCTYPE r [{declared}]><r>&{names[-1]};</r>"


def quadratic():
    return f'<!DOCTYPE r [<!ENTITY e "{"x" * 50_000}">]><r>{"&e;" * 50_000}</r>'


DOCUMENTS = {
    "entities": (entities(), "declares a document type or entities"),
    "one long entity": (quadratic(), "declares a document type or entities"),
    "external entity": (
        '<!DOCTYPE r [<!ENTITY e SYSTEM "file:///etc/passwd">]><r>&e;</r>',
        "declares a document type or entities",
    ),
    "external type": ('<!DOCTYPE r SYSTEM "http://127.0.0.1:9/r"><r/>', "declares a document type"),
    "blanks": ("<r>" + " " * 40_000_000 + "</r>", "has more than 16,777,216 bytes"),
    "unknown encoding": ('<?xml version="1.0" encoding="xyz"?><r/>', "unknown encoding"),
    "nested": ("<r>" * 50_000, "is damaged or incomplete"),
}


@pytest.mark.parametrize("kind", ["safe", "zipped safe", "theia"])
@pytest.mark.parametrize("document", DOCUMENTS)
def test_metadata_that_grow_are_refused_in_little_memory(tmp_path, kind, document):
    text, words = DOCUMENTS[document]
    if kind == "theia":
        product = write_product(tmp_path, np.random.default_rng(1))
        (file,) = tmp_path.rglob("*_MTD_ALL.xml")
    else:
        product = write_safe(tmp_path, np.random.default_rng(1))
        (file,) = tmp_path.rglob("MTD_MSIL2A.xml")
    file.write_text(text)
    if kind == "zipped safe":
        file = zip_product(product)
        assert file.stat().st_size < 1_000_000
    tracemalloc.start()
    with pytest.raises(InputError, match=words) as error:
        find_acquisitions(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 150_000_000
    tracemalloc.stop()
    assert str(file) in str(error.value)


def test_a_member_larger_than_it_states_is_refused(tmp_path):
    archive = zip_product(write_safe(tmp_path, np.random.default_rng(1)))
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as packed:
        size = packed.getinfo("MTD_MSIL2A.xml").file_size
    # The size stands in the member and in the list of members.
    for at in (i for i in range(len(content)) if content.startswith(struct.pack("<I", size), i)):
        content[at : at + 4] = struct.pack("<I", 100)
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"MTD_MSIL2A\.xml is damaged or incomplete \(Bad CRC"):
        find_acquisitions(tmp_path)


def test_an_archive_of_very_many_members_is_refused_before_they_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LARGEST_ZIP_LIST", 100_000)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(2_000):
            archive.writestr(f"{number}/MTD_MSIL2A.xml", "")
    with pytest.raises(InputError, match=r"many\.zip lists its members in \d+,\d+ bytes, at most"):
        find_acquisitions(tmp_path)


def test_names_of_members_reach_nothing_outside_the_archive(tmp_path):
    outside = write_safe(tmp_path / "outside", np.random.default_rng(1))
    metadata = (outside.path / "MTD_MSIL2A.xml").read_bytes()
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "a.zip", "w") as archive:
        for name in ("/etc/MTD_MSIL2A.xml", "../../outside/MTD_MSIL2A.xml"):
            archive.writestr(name, metadata)
        archive.writestr("nested/MTD_MSIL2A.zip", zip_product(outside).read_bytes())
    assert {product.root for product in find_products(tmp_path / "in", [])} == {
        *("/etc/", "../../outside/")
    }
    with pytest.raises(InputError, match=r"no B02, .*it has none of those asked for"):
        find_acquisitions(tmp_path / "in", bands=["B02", "B03"])


@pytest.mark.parametrize("kind", READERS)
def test_loops_of_links_add_no_acquisition(tmp_path, kind):
    write, _, _ = READERS[kind]
    folder = tmp_path / "imagery"
    write(folder, draw_scene(np.random.default_rng(21)))
    expected, watched = find_acquisitions(folder), watched_files(folder)
    for place in [folder, *(below for below in folder.rglob("*") if below.is_dir())][:4]:
        (place / "loop").symlink_to(folder)
        (place / "upwards").symlink_to("..")
        (place / "itself").symlink_to("itself")
    assert repr(find_acquisitions(folder)) == repr(expected)
    assert {os.path.realpath(f) for f in watched_files(folder)} == set(watched)


IRREGULAR = ["S2A.SAFE", "20180405_B04.tif", "x.zip", "MTD_MSIL2A.xml", "x.nc", "x.zarr", "a.JP2"]


@pytest.mark.parametrize("name", IRREGULAR)
@pytest.mark.parametrize("kind", ["link", "loop", "pipe"])
def test_links_to_nothing_and_pipes_are_named_and_set_aside(tmp_path, name, kind):
    write_tiff(tmp_path / "20180405.tif", VALUES, ["B02"])
    path = tmp_path / "below" / name
    path.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(name if kind == "loop" else "nowhere")
    words = {
        "link": "is a link to nowhere, which does not exist",
        "loop": f"is a link to {name}, which does not exist",
        "pipe": "is a pipe or a device",
    }
    with pytest.raises(InputError, match=words[kind]) as error:
        find_acquisitions(tmp_path)
    assert str(path) in str(error.value)
    damaged = []
    assert len(find_acquisitions(tmp_path, damaged=damaged)) == 1
    assert [item.product for item in damaged] == [path]


def test_other_broken_links_do_not_matter(tmp_path):
    write_tiff(tmp_path / "20180405.tif", VALUES, ["B02"])
    for name in ("notes.txt", ".hidden.tif", "quicklook.jpg", "item.json"):
        (tmp_path / name).symlink_to("nowhere")
    assert len(find_acquisitions(tmp_path)) == 1
    assert [folder for folder, _, _ in walk(tmp_path / "20180405.tif")] == []


def vrt(address, size=64):
    """Return a VRT that takes its pixels from an address."""
    return (
        f'<VRTDataset rasterXSize="{size}" rasterYSize="{size}"><SRS>EPSG:32631</SRS>'
        "<GeoTransform>500000,10,0,5600000,0,-10</GeoTransform>"
        '<VRTRasterBand dataType="UInt16" band="1"><Description>B02</Description><SimpleSource>'
        f"<SourceFilename>{address}</SourceFilename><SourceBand>1</SourceBand>"
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )


def wms(address):
    return (
        f'<GDAL_WMS><Service name="WMS"><ServerUrl>{address}</ServerUrl></Service>'
        "<DataWindow><SizeX>64</SizeX><SizeY>64</SizeY></DataWindow></GDAL_WMS>"
    )


PAM = (
    '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{}</MDI>'
    "</Metadata></PAMDataset>"
)


def reach_by_vrt(path, address):
    path.write_text(vrt(f"/vsicurl/{address}"))


def reach_by_local_vrt(path, address):
    write_tiff(path.parent / "elsewhere" / "private.tif", VALUES)
    path.write_text(vrt(path.parent / "elsewhere" / "private.tif"))


def reach_by_wms(path, address):
    path.write_text(wms(address))


def reach_by_overviews(path, address):
    write_tiff(path, VALUES, ["B02"])
    path.with_name(f"{path.name}.ovr").write_text(vrt(f"/vsicurl/{address}", 32))


def reach_by_mask(path, address):
    write_tiff(path, VALUES, ["B02"])
    path.with_name(f"{path.name}.msk").write_text(vrt(f"/vsicurl/{address}"))


def reach_by_side_car(path, address):
    write_tiff(path, VALUES, ["B02"])
    path.with_name(f"{path.name}.aux.xml").write_text(PAM.format(f"/vsicurl/{address}"))


def reach_by_tag(path, address):
    write_tiff(path, VALUES, ["B02"])
    with rasterio.open(path, "r+") as raster:
        raster.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=f"/vsicurl/{address}")


def reach_by_other_format(path, address):
    with rasterio.open(path, "w", driver="PNG", width=9, height=9, count=1, dtype="uint8") as png:
        png.write(np.ones((1, 9, 9), np.uint8))


REACHING = [
    (reach_by_vrt, "cannot be opened as GeoTIFF: it begins with b'<VRTDataset"),
    (reach_by_local_vrt, "cannot be opened as GeoTIFF: it begins with b'<VRTDataset"),
    (reach_by_wms, "cannot be opened as GeoTIFF: it begins with b'<GDAL_WMS"),
    (reach_by_overviews, r"tif\.ovr cannot be opened as GeoTIFF: it begins with b'<VRTDataset"),
    (reach_by_mask, r"tif\.msk cannot be opened as GeoTIFF: it begins with b'<VRTDataset"),
    (reach_by_side_car, r"takes its overviews from /vsicurl/.*OVERVIEW_FILE"),
    (reach_by_tag, r"takes its overviews from /vsicurl/.*OVERVIEW_FILE"),
    (reach_by_other_format, r"cannot be opened as GeoTIFF: it begins with b'\\x89PNG"),
]


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize(("reach", "words"), REACHING)
def test_a_geotiff_that_reaches_out_is_refused_and_nothing_is_fetched(
    tmp_path, server, reach, words
):
    path = tmp_path / "imagery" / "20180405.tif"
    path.parent.mkdir()
    reach(path, f"{server.url}/remote.tif")
    with pytest.raises(InputError, match=words) as error:
        (item,) = find_acquisitions(path.parent)
        read_coarse(item.bands["B02"], 16)
    assert str(path) in str(error.value)
    assert server.log == []


def test_side_cars_that_reach_nowhere_are_used(tmp_path):
    path = write_tiff(tmp_path / "20180405.tif", VALUES, ["B02"])
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path, "r+") as raster:
        raster.build_overviews([2])
    assert path.with_name("20180405.tif.ovr").is_file()
    nodata = '<PAMDataset><PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand>'
    path.with_name("20180405.tif.aux.xml").write_text(f"{nodata}</PAMDataset>")
    (item,) = find_acquisitions(tmp_path)
    assert item.bands["B02"].nodata == 7
    np.testing.assert_array_equal(read_window(item.bands["B02"], slice(64), slice(64)), VALUES[0])


def test_a_huge_side_car_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(open_rasters, "LARGEST_XML", 1000)
    path = write_tiff(tmp_path / "20180405.tif", VALUES, ["B02"])
    path.with_name("20180405.tif.aux.xml").write_text("<PAMDataset>" + " " * 1000)
    with pytest.raises(InputError, match=r"20180405\.tif\.aux\.xml has 1,012 bytes, at most 1,000"):
        find_acquisitions(tmp_path)


@pytest.mark.parametrize(
    "href",
    [
        *("/vsicurl/{url}/B02.tif", "/vsizip/{{/vsicurl/{url}/a.zip}}/B02.tif"),
        *("/vsizip//vsicurl/{url}/a.zip/B02.tif", "/vsicurl_streaming/{url}/B02.tif"),
        *("file:{file}", "file://{file}", "gs://bucket/B02.tif", "ftp://127.0.0.1/B02.tif"),
        "GTIFF_DIR:1:{file}",
    ],
)
def test_items_open_only_files_and_addresses(tmp_path, server, href):
    file = write_tiff(tmp_path / "elsewhere" / "private.tif", VALUES, ["B02"])
    asset = {"href": href.format(url=server.url, file=file), "type": "image/tiff"}
    item = {
        "type": "Feature",
        "id": "x",
        "properties": {"datetime": "2018-04-05T10:50:31Z"},
        "assets": {"B02": asset},
    }
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "x.json").write_text(json.dumps(item))
    with pytest.raises(InputError, match=r"which is not opened|is not a file"):
        find_acquisitions(tmp_path / "items", "stac")
    assert server.log == []


def link_array(file, outside):
    file["B02"] = h5py.ExternalLink(outside, "/B02")


def link_group(file, outside):
    file["group"] = h5py.ExternalLink(outside, "/")


def link_below(file, outside):
    file["group/below/B02"] = h5py.ExternalLink(outside, "/B02")


def store_outside(file, outside):
    scaled(file, file.create_dataset("B02", (4, 4), "u2", external=[(outside, 0, 32)]))


def virtual(file, outside):
    layout = h5py.VirtualLayout((4, 4), "u2")
    layout[:] = h5py.VirtualSource(outside, "B02", (4, 4))
    scaled(file, file.create_virtual_dataset("B02", layout))


def loop_of_groups(file, outside):
    file["group/upwards"] = file["/"]


def many_groups(file, outside):
    """Every group is in two others, so that the last one has a million places."""
    for number in range(20):
        file.create_group(f"g{number}")
    for number in range(19):
        file[f"g{number}/a"] = file[f"g{number}/b"] = file[f"g{number + 1}"]


def scaled(file, array):
    for dimension, name in zip(array.dims, ("y", "x"), strict=True):
        dimension.attach_scale(file[name])


REACHING_HDF5 = [
    (link_array, r"/B02 is stored in another file, .*private\.nc"),
    (link_group, r"/group is stored in another file, .*private\.nc"),
    (link_below, r"/group/below/B02 is stored in another file, .*private\.nc"),
    (store_outside, r"/B02 is stored in another file, .*private\.nc"),
    (virtual, r"/B02 is stored in another file, .*private\.nc"),
    (loop_of_groups, "the group /group/upwards contains itself"),
    (many_groups, "it has more than 10,000 groups"),
]


@pytest.mark.parametrize(("reach", "words"), REACHING_HDF5)
def test_a_netcdf_that_reaches_out_is_refused(tmp_path, reach, words):
    """The library itself would read the other file, and end the process at a loop."""
    outside = tmp_path / "private.nc"
    path = tmp_path / "stack" / "20180405.nc"
    path.parent.mkdir()
    for file, name in ((outside, "B02"), (path, "B03")):
        with netCDF4.Dataset(file, "w") as stack:
            for axis, step in (("y", -10), ("x", 10)):
                stack.createDimension(axis, 4)
                stack.createVariable(axis, "f8", (axis,))[:] = step * np.arange(4)
            stack.createVariable(name, "u2", ("y", "x"))[:] = 1234
            stack.epsg = 32631
    assert list(find_acquisitions(path.parent)[0].bands) == ["B03"]
    with h5py.File(path, "a") as file:
        reach(file, str(outside))
    with pytest.raises(InputError, match=words) as error:
        find_acquisitions(path.parent)
    assert str(path) in str(error.value)


def with_attributes(**attrs):
    def apply(data):
        for band in data.data_vars.values():
            band.attrs |= attrs
        return data

    return apply


ODD_STACKS = {
    "a valid range of no number": (
        with_attributes(valid_range=np.array([9000, 1], "u2")),
        "its valid range begins at 9000 and ends at 1",
    ),
    "truth values": (
        lambda data: data.assign(B02=data.B02 > 5000),
        "B02 holds bool, expected integers or floats",
    ),
    "coordinates of two axes": (
        lambda data: data.drop_vars("x").assign_coords(x=(("y", "x"), np.zeros((48, 48)))),
        "the axis x needs coordinates",
    ),
}


@pytest.mark.parametrize("kind", ["netcdf", "zarr3"])
@pytest.mark.parametrize("case", ODD_STACKS)
def test_odd_stacks_are_refused(tmp_path, case, kind):
    alter, words = ODD_STACKS[case]
    data = cube(np.random.default_rng(1), ["B02"], ("2018-04-05T10:50",), shape=(48, 48))
    write_stack(alter(data), tmp_path, kind, "stack")
    with pytest.raises(InputError, match=words):
        find_acquisitions(tmp_path)


def test_chunks_without_length_are_refused(tmp_path):
    group = zarr.create_group(tmp_path / "stack.zarr")
    group.create_array("B02", shape=(9, 9), chunks=(3, 3), dtype="u2")
    file = tmp_path / "stack.zarr" / "B02" / "zarr.json"
    values = json.loads(file.read_text())
    values["chunk_grid"]["configuration"]["chunk_shape"] = [0, 3]
    file.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"stack\.zarr cannot be (read|opened)"):
        find_acquisitions(tmp_path)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000])
def test_deeply_nested_items_are_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match=r"x\.json is not a STAC item: its brackets are nested"):
        find_acquisitions(tmp_path, "stac")


def test_huge_items_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LARGEST_JSON", 1000)
    (tmp_path / "x.json").write_text(json.dumps({"type": "Feature", "id": "x" * 1000}))
    with pytest.raises(InputError, match=r"x\.json has more than 1,000 bytes"):
        find_acquisitions(tmp_path, "stac")


def stack_of(path, sizes, chunks):
    """Write a NetCDF of these sizes of time, y and x, none of whose pixels is stored."""
    with netCDF4.Dataset(path, "w") as stack:
        for name, size in zip(("time", "y", "x"), sizes, strict=True):
            stack.createDimension(name, size)
        stack.createVariable("B02", "u2", ("time", "y", "x"), chunksizes=chunks, zlib=True)
        for name in ("y", "x"):
            chunk = (min(10_000, stack.dimensions[name].size),)
            stack.createVariable(name, "f8", (name,), chunksizes=chunk)
        time = stack.createVariable("time", "i4", ("time",), chunksizes=(1,))
        time.units = "days since 2018-01-01"
        time[0], time[sizes[0] - 1] = 0, 5
        for name, size in zip(("y", "x"), sizes[1:], strict=True):
            if size < 100:
                stack[name][:] = 10 * np.arange(size)
        stack.epsg = 32631


@pytest.mark.parametrize(
    ("sizes", "chunks", "words"),
    [
        ((2, 40, 10**11), (1, 40, 40), "the axis x has 100,000,000,000 places, at most 1,000,000"),
        ((2, 10**11, 40), (1, 40, 40), "the axis y has 100,000,000,000 places, at most 1,000,000"),
        ((10**11, 40, 40), (1, 40, 40), "the axis time has 100,000,000,000 places, at most"),
    ],
)
def test_stacks_longer_than_memory_are_refused(tmp_path, sizes, chunks, words):
    stack_of(tmp_path / "stack.nc", sizes, chunks)
    assert (tmp_path / "stack.nc").stat().st_size < 100_000
    with pytest.raises(InputError, match=words):
        find_acquisitions(tmp_path)


def test_blocks_larger_than_memory_are_refused(tmp_path):
    folder = tmp_path / "stack.zarr"
    group = zarr.create_group(folder, attributes={"epsg": 32631})
    shape = (100_000, 100_000)
    options = {"dtype": "u2", "dimension_names": ("y", "x")}
    group.create_array("B02", shape=shape, chunks=shape, **options)
    for name in ("y", "x"):
        values = np.arange(100_000.0) * (10 if name == "x" else -10)
        group.create_array(name, data=values, dimension_names=(name,))
    with pytest.raises(InputError, match=r"stack.zarr has blocks of 100000 x 100000 values"):
        find_acquisitions(tmp_path)
    tiff = tmp_path / "tiffs" / "20180405.tif"
    tiff.parent.mkdir()
    with rasterio.open(
        tiff, "w", driver="GTiff", width=40_000, height=40_000, count=1, dtype="uint8",
        tiled=True, blockxsize=40_000, blockysize=40_000, sparse_ok=True, crs="EPSG:32631",
        transform=rasterio.Affine(10, 0, 500_000, 0, -10, 5_600_000),
    ) as raster:  # fmt: skip
        raster.set_band_description(1, "B02")
    assert tiff.stat().st_size < 100_000
    with pytest.raises(InputError, match=r"20180405\.tif has blocks of 40000 x 40000 values"):
        find_acquisitions(tiff.parent)
