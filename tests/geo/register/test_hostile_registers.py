"""Registers that describe more than they hold, or name what the settings do not.

The oracle of the second kind is a server that counts the requests: none may arrive.
"""

import json
import os
import re
import sqlite3
import zipfile
from contextlib import closing

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shapely import box

from geo.errors import InputError
from geo.register import archives, views
from geo.register.reading import (
    read_bounds,
    read_extent,
    read_named,
    read_register,
    read_register_parts,
)
from tests.builders.registers import frame
from tests.builders.stac import Server

SQUARES = [box(x, 0, x + 1, 1) for x in (0.0, 2.0)]


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    yield server
    server.close()


@pytest.fixture
def squares():
    return frame(SQUARES, ID=["a", "b"])


def vrt(address):
    return (
        '<OGRVRTDataSource><OGRVRTLayer name="parcels"><SrcDataSource>'
        f"/vsicurl/{address}</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>"
    )


def raster_vrt(address):
    return (
        '<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="Byte" band="1">'
        f"<SimpleSource><SourceFilename>/vsicurl/{address}</SourceFilename></SimpleSource>"
        "</VRTRasterBand></VRTDataset>"
    )


def wfs(address):
    return f"<OGRWFSDataSource><URL>{address}</URL></OGRWFSDataSource>"


def pipeline_(address):
    return json.dumps({"type": "gdal_streamed_alg", "command_line": f"gdal vector info {address}"})


NAMES = ["r.vrt", "r.gpkg", "r.shp", "r.geojson", "r.gml", "r.json", "r.xml", "r.gdalg.json", "r"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("write", [vrt, raster_vrt, wfs, pipeline_])
def test_files_that_name_an_address_are_refused_and_nothing_is_fetched(
    tmp_path, server, name, write
):
    path = tmp_path / name
    path.write_text(write(f"{server.url}/remote.geojson"))
    for read in (read_register, read_bounds):
        with pytest.raises(InputError, match=re.escape(f"{path} cannot be read")):
            read(path)
    assert server.log == []


def test_a_file_that_names_a_local_file_is_refused(tmp_path, squares):
    squares.to_file(tmp_path / "private.gpkg", layer="parcels")
    text = vrt("").replace("/vsicurl/", str(tmp_path / "private.gpkg"))
    (tmp_path / "register.vrt").write_text(text)
    with pytest.raises(InputError, match=r"Files that name others \(VRT, WFS\) are not opened"):
        read_register(tmp_path / "register.vrt")


def with_crs(text):
    """Write GeoJSON of the squares whose member crs is this text."""
    rings = [[list(point) for point in shape.exterior.coords] for shape in SQUARES]
    features = [
        {
            "type": "Feature",
            "properties": {"ID": i, "crs": "x", "href": "http://example.org"},
            "geometry": {"type": "Polygon", "coordinates": [ring]},
        }
        for i, ring in enumerate(rings)
    ]
    return f'{{"type": "FeatureCollection", {text} "features": {json.dumps(features)}}}'


LINKS = [
    '"crs": {{"type": "link", "properties": {{"href": "{url}/crs", "type": "esriwkt"}}}},',
    '"crs": {{"properties": {{"href": "{url}/crs"}}, "type": "Link"}},',
    '"crs": {{"type": "URL", "properties": {{"url": "{url}/crs"}}}},',
    '"\\u0063rs" :\n {{"type": "l\\u0069nk", "properties": {{"href": "{url}/crs"}}}},',
    '"crs":' + " " * 100_000 + '{{"type": "link", "properties": {{"href": "{url}/crs"}}}},',
    '"x": "' + "é" * 3_000_000 + '", "crs": {{"type": "link", "properties": {{"href": "{url}"}}}},',
]


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_linked_coordinate_system_is_refused_and_not_fetched(tmp_path, server, link, zipped):
    path = tmp_path / "r.geojson"
    path.write_text(with_crs(link.format(url=server.url)))
    if zipped:
        with zipfile.ZipFile(tmp_path / "r.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(path, "folder/r.geojson")
        path = tmp_path / "r.zip"
    with pytest.raises(InputError, match=r"r\.geojson links to its coordinate system"):
        read_register(path)
    assert server.log == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('"crs": {"type": "name", "properties": {"name": "EPSG:2154"}},', 2154),
        ('"crs": null,', 4326),
        ("", 4326),
    ],
)
def test_a_named_coordinate_system_is_read(tmp_path, text, code):
    (tmp_path / "r.geojson").write_text(with_crs(text))
    table = read_register(tmp_path / "r.geojson")
    assert (table.crs.to_epsg(), list(table["crs"])) == (code, ["x", "x"])


def with_view(path, squares, query):
    """Write a GeoPackage with a layer that is a view."""
    squares.to_file(path, layer="table")
    connection = sqlite3.connect(path)
    connection.executescript(
        f"CREATE VIEW parcels AS {query};"  # noqa: S608 (of this file)
        "INSERT INTO gpkg_contents(table_name, data_type, identifier, srs_id) "
        "VALUES ('parcels', 'features', 'parcels', 32631);"
        "INSERT INTO gpkg_geometry_columns VALUES ('parcels', 'geom', 'POLYGON', 32631, 0, 0);"
    )
    connection.close()


def test_a_view_of_a_geopackage_is_read(tmp_path, squares):
    with_view(tmp_path / "r.gpkg", squares, 'SELECT fid AS OGC_FID, geom, ID FROM "table"')
    assert list(read_register(tmp_path / "r.gpkg", "parcels")["ID"]) == ["a", "b"]


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
VIEWS = {
    "endless": (
        ENDLESS + 'SELECT i AS fid, geom, i AS ID FROM n, "table"',  # noqa: S608 (of this file)
        "it is endless",
    ),
    # GDAL would hang while it lists the layers.
    "endless sum": (
        ENDLESS + 'SELECT max(i) AS fid, geom, max(i) AS ID FROM n, "table"',  # noqa: S608
        "it is endless",
    ),
    "crosses": (
        'SELECT a.fid AS fid, a.geom AS geom, a.ID AS ID FROM "table" a' + ', "table"' * 40,
        "it is endless",
    ),
    "long bytes": (
        'SELECT fid, geom, zeroblob(900000000) AS ID FROM "table"',
        "string or blob too big",
    ),
    "long text": (
        "SELECT fid, geom, printf('%.*c', 20000000, 'x') AS ID FROM \"table\"",
        "user-defined function raised exception",
    ),
    "many long texts": (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 99) SELECT "
        'fid, geom, hex(zeroblob(4000000)) AS ID FROM "table", n',
        "its cells have 1,584,.* bytes, the file",
    ),
    "extension": (
        'SELECT fid, geom, load_extension("x") AS ID FROM "table"',
        r"unsafe use of load_extension\(\)",
    ),
    "function of GDAL": (
        "SELECT fid, geom, ogr_geocode('x') AS ID FROM \"table\"",
        "no such function: ogr_geocode",
    ),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    ("form", "layer"), [("r.gpkg", "parcels"), ("r.db", "table"), ("r.zip", "parcels")]
)
def test_a_view_without_an_end_or_with_functions_is_refused(
    tmp_path, squares, monkeypatch, view, form, layer
):
    """Also if another layer is read, as GDAL evaluates all views while it lists them."""
    query, words = VIEWS[view]
    monkeypatch.setattr(views, "MOST_STEPS", 1_000_000)
    monkeypatch.setattr(views, "_LONGEST_CELL", 10_000_000)
    with_view(tmp_path / "r.gpkg", squares, query)
    path = tmp_path / form
    if form == "r.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(tmp_path / "r.gpkg", "register.dat")
    elif form == "r.db":
        (tmp_path / "r.gpkg").rename(path)
    with pytest.raises(InputError, match=rf"the view 'parcels' cannot be read \({words}"):
        read_bounds(path, layer)


def test_a_view_with_functions_of_gdal_about_geometries_is_read(tmp_path, squares):
    query = "SELECT fid, geom, printf('%s %.2f', ID, ST_MaxX(geom)) AS ID FROM \"table\""
    with_view(tmp_path / "r.gpkg", squares, query)
    assert list(read_register(tmp_path / "r.gpkg", "parcels")["ID"]) == ["a 1.00", "b 3.00"]


def test_a_damaged_outline_is_a_row_without_one(tmp_path):
    path = tmp_path / "r.geojson"
    values = json.loads(with_crs(""))
    values["features"][0]["geometry"]["coordinates"] = [[[3.0, 4.0]]]
    path.write_text(json.dumps(values))
    table = read_register(path)
    assert table.geometry.isna().tolist() == [True, False]
    assert list(table["ID"]) == [0, 1]


@pytest.mark.parametrize("srs", [-1, 0])
def test_undefined_coordinate_systems_of_geopackage_are_none(tmp_path, squares, srs):
    path = tmp_path / "r.gpkg"
    squares.to_file(path)
    with closing(sqlite3.connect(path)) as database, database:
        for table in ("gpkg_contents", "gpkg_geometry_columns"):
            database.execute(f"UPDATE {table} SET srs_id = {srs}")  # noqa: S608 (of this file)
    with pytest.raises(
        InputError, match=r"r\.gpkg has no coordinate system on the ground, but [Uu]ndefined"
    ):
        read_register(path)


def test_a_coordinate_system_with_an_unknown_projection_is_refused(tmp_path, squares):
    squares.to_file(tmp_path / "r.shp")
    text = (tmp_path / "r.prj").read_text()
    (tmp_path / "r.prj").write_text(text.replace('"Transverse_Mercator"', '"Transverse"'))
    for read in (read_register, read_bounds, read_extent):
        with pytest.raises(InputError, match=r"r\.shp: its coordinate system cannot be used"):
            read(tmp_path / "r.shp")


def test_a_text_that_is_neither_an_id_nor_a_code_is_refused(tmp_path):
    path = tmp_path / "r.gpkg"
    frame(SQUARES, ID=["a", "b"], CODE=["x", "y" * 20_000]).to_file(path)
    assert len(read_named(path, None, "ID", {})[0]) == 2
    with pytest.raises(InputError, match=r"column CODE \(parcels.labels\) .*20,000 .*in row 2;"):
        read_named(path, None, "ID", {"parcels.labels": "CODE"})


def test_a_table_of_mapinfo_that_lists_others_is_refused(tmp_path, squares):
    squares.to_file(tmp_path / "r.tab", driver="MapInfo File")
    assert list(read_register(tmp_path / "r.tab")["ID"]) == ["a", "b"]
    with (tmp_path / "r.tab").open("a") as file:
        file.write('\nbegin_metadata\n"\\IsSeamless" = "TRUE"\nend_metadata\n')
    with pytest.raises(InputError, match=r"r\.tab lists other tables"):
        read_register(tmp_path / "r.tab")


def test_the_only_member_of_an_archive_is_checked_whatever_its_name_is(tmp_path, server):
    text = with_crs(LINKS[0].format(url=server.url))
    with zipfile.ZipFile(tmp_path / "r.zip", "w") as archive:
        archive.writestr("parcels.dat", text)
    with pytest.raises(InputError, match=r"parcels\.dat links to its coordinate system"):
        read_register(tmp_path / "r.zip")
    assert server.log == []


def test_an_archive_that_unpacks_to_much_more_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_LARGE", 1_000_000)
    with zipfile.ZipFile(tmp_path / "r.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("r.geojson", '{"type": "FeatureCollection"' + " " * 2_000_000 + "}")
    with pytest.raises(
        InputError, match=r"r\.geojson unpacks from [12],\d+ bytes to 2,000,029, more"
    ):
        read_register(tmp_path / "r.zip")


def test_more_rows_than_bytes_are_refused(tmp_path):
    n_rows = 300_000
    path = tmp_path / "r.parquet"
    frame([box(0, 0, 1, 1)], ID=["a"]).to_parquet(path)
    schema = pq.read_schema(path)
    columns = [pa.nulls(n_rows, field.type) for field in schema]
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), path)
    assert path.stat().st_size < n_rows
    for read in (
        lambda: read_register(path),
        lambda: next(read_register_parts(path, None, "ID", {}, 100)),
    ):
        with pytest.raises(InputError, match=r"r\.parquet states 300,000 rows, but has only"):
            read()


def test_a_damaged_coordinate_system_of_geoparquet_is_refused(tmp_path, squares):
    squares.to_parquet(tmp_path / "r.parquet")
    table = pq.read_table(tmp_path / "r.parquet")
    geo = table.schema.metadata[b"geo"]
    damaged = geo.replace(b'"authority"', b'"authoraty"')
    assert damaged != geo
    pq.write_table(
        table.replace_schema_metadata(table.schema.metadata | {b"geo": damaged}),
        tmp_path / "r.parquet",
    )
    with pytest.raises(InputError, match=r"as GeoParquet: its coordinate system is damaged\. W"):
        read_register(tmp_path / "r.parquet")


@pytest.mark.parametrize("suffix", [".shp", ".dbf"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_truncated_shapefiles_are_refused(tmp_path, squares, suffix, kept):
    squares.to_file(tmp_path / "r.shp")
    path = tmp_path / f"r{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    for source in (tmp_path / "r.shp", tmp_path):
        with pytest.raises(InputError, match=rf"r\{suffix} has \d+ bytes, by its header \d+\."):
            read_register(source)


@pytest.mark.parametrize(
    "name", ["r.gpkg", "r.shp", "r.zip", "r.geojson", "r.parquet", "x/r.shp", "s.xsd"]
)
@pytest.mark.parametrize("read", [read_register, read_bounds])
def test_pipes_are_refused_and_not_waited_for(tmp_path, name, read):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    (tmp_path / "s.gml").touch()
    with pytest.raises(InputError, match=re.escape(f"{path} is a pipe or a device")):
        read({"x/r.shp": path.parent, "s.xsd": tmp_path / "s.gml"}.get(name, path))


@pytest.mark.filterwarnings("ignore")  # of GDAL: rings that are not closed, and others
@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".fgb", ".geojson", ".parquet", ".gml"])
@pytest.mark.parametrize("seed", range(8))
def test_damaged_registers_are_read_or_refused(tmp_path, squares, suffix, seed):
    """No other error than InputError, whatever the bytes."""
    rng = np.random.default_rng(seed)
    path = tmp_path / f"r{suffix}"
    (squares.to_parquet if suffix == ".parquet" else squares.to_file)(path)
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, len(content), 12):
        content[place] = rng.integers(0, 256)
    path.write_bytes(content)
    try:
        table, ids = read_named(path, None, "ID", {})
        assert len(table) == len(ids)
        assert isinstance(table, pd.DataFrame)
    except InputError as error:
        assert str(path) in str(error)
