"""Reading of registers: every format, odd columns and ids, curves, and real excerpts."""

import sqlite3
import struct
import zipfile

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from shapely import MultiPolygon, box

from geo.errors import InputError
from geo.grid import Grid
from geo.register.columns import as_text, numbered
from geo.register.reading import read_columns, read_named, read_register, read_register_parts
from tests.builders.paths import DATA
from tests.builders.registers import GRID, Run, frame, pixels, simple

REGISTERS = DATA / "registers"


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def odd(crs="EPSG:4326"):
    """Make a register with accents, blanks, heights, parts, a hole, and ids with leading zeros."""
    shapes = [
        pixels(0, 0, 2, 2),
        MultiPolygon([pixels(3, 0, 4, 2), pixels(5, 0, 6, 1)]),
        pixels(0, 4, 3, 7) - pixels(1, 5, 2, 6),
    ]
    lifted = shapely.force_3d(np.array(shapes, object), 7.5)
    columns = {"Nr îlot": ["007", "é 8", "8"], "Cödé A": ["blé", "maïs", None]}
    return gpd.GeoDataFrame(columns, geometry=lifted, crs=GRID.crs).to_crs(crs)


FORMATS = [
    *("register.gpkg", "register.shp", "register.geojson", "register.fgb", "register.gml"),
    *("register.parquet", "zipped.shp", "zipped.gpkg", "folder.shp", "folder.gml"),
]


@pytest.mark.filterwarnings("ignore:.*to be a valid XML element name")
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_results_in_the_same_parcels(run, tmp_path, name):
    stem, _, suffix = name.partition(".")
    folder = tmp_path / "a folder"
    folder.mkdir()
    path = folder / f"register.{suffix}"
    register = odd()
    if suffix == "gml":
        register.geometry = register.force_2d()
    register.to_parquet(path) if suffix == "parquet" else register.to_file(path)
    if stem != "register":
        inside = {"zipped": "", "folder": "années 2023/"}[stem]
        with zipfile.ZipFile(tmp_path / "register.zip", "w") as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, inside + file.name)
                # macOS adds such files.
                archive.writestr(f"__MACOSX/{inside}._{file.name}", "")
        path = tmp_path / "register.zip"
    # Names in XML contain no blanks.
    parcel_id, code = ("Nr_îlot", "Cödé_A") if suffix == "gml" else ("Nr îlot", "Cödé A")
    run(path, id=parcel_id, labels={"crop": code}, weights=tmp_path)
    # FlatGeobuf sorts its rows by location.
    found = sorted((row["parcel_id"], row["n_pixels"], row["code"]) for row in run.ledger)
    assert found == [("007", "4", "blé"), ("8", "8", ""), ("é 8", "3", "maïs")]
    areas = run.usable.set_index("parcel_id").geometry.area
    np.testing.assert_allclose(areas[["007", "8", "é 8"]], [400, 800, 300], rtol=1e-3)
    assert not shapely.has_z(run.usable.geometry).any()


def write_wkb(path, geometries):
    """Write a GeoPackage with geometries, as ISO WKB, that geopandas cannot represent."""
    rows = frame([box(0, 0, 1, 1)] * len(geometries), ID_PARCEL=range(len(geometries)))
    rows.to_file(path, layer="parcels", SPATIAL_INDEX="NO", geometry_type="Unknown")
    with sqlite3.connect(path) as database:
        (srs_id,) = database.execute("SELECT srs_id FROM gpkg_geometry_columns").fetchone()
        database.execute("UPDATE gpkg_geometry_columns SET geometry_type_name='GEOMETRY', z=2, m=2")
        header = b"GP\x00\x01" + struct.pack("<i", srs_id)
        for number, geometry in enumerate(geometries, 1):
            database.execute("UPDATE parcels SET geom=? WHERE fid=?", (header + geometry, number))
    database.close()


def wkb(kind, parts):
    """Pack a geometry of WKB: its points, each a tuple, or its parts, already packed."""
    body = [p if isinstance(p, bytes) else struct.pack(f"<{len(p)}d", *p) for p in parts]
    return struct.pack("<BII", 1, kind, len(parts)) + b"".join(body)


def ring(points):
    return struct.pack("<I", len(points)) + b"".join(struct.pack(f"<{len(p)}d", *p) for p in points)


def test_curves_become_lines_and_measures_are_dropped(run, tmp_path):
    x, y = GRID.x_min + 40, GRID.y_max - 40
    turns = [(x - 25, y), (x, y + 25), (x + 25, y), (x, y - 25), (x - 25, y)]
    circle = wkb(10, [wkb(8, turns)])  # CurvePolygon of a CircularString
    corner = [(x + 30.0, y + 30), (x + 40.0, y + 30), (x + 40.0, y + 40), (x + 30.0, y + 30)]
    surface = wkb(12, [circle, wkb(3, [ring(corner)])])  # MultiSurface
    with_z_and_m = wkb(3003, [ring([(*xy, 7.0, 8.0) for xy in corner])])
    with_m = wkb(2003, [ring([(*xy, 8.0) for xy in corner])])
    write_wkb(tmp_path / "register.gpkg", [circle, surface, with_z_and_m, with_m])
    run(tmp_path / "register.gpkg", all_touched=True)
    assert run.column("reason") == ["no_label"] * 4
    disc = np.pi * 25**2
    # An arc is cut every 4 degrees: the lines enclose 0.08 % less.
    np.testing.assert_allclose(run.usable.geometry.area, [disc, disc + 50, 50, 50], rtol=1e-3)
    assert run.usable.geometry.area[0] < disc
    assert not (shapely.has_z(run.usable.geometry) | shapely.has_m(run.usable.geometry)).any()
    assert run.column("overlap_m2")[0] == str(round(run.usable.geometry.area[0]))


def test_surfaces_of_triangles_are_refused(tmp_path):
    triangles = wkb(16, [wkb(17, [ring([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 0.0)])])])
    write_wkb(tmp_path / "register.gpkg", [triangles])
    with pytest.raises(InputError, match=r"gpkg cannot be read.*type 16.*MULTIPOLYGON"):
        read_register(tmp_path / "register.gpkg")


def test_a_zip_of_shapefiles_is_one_source_with_layers(tmp_path):
    for name in ("fields", "blocks"):
        simple(["A"]).to_file(tmp_path / f"{name}.shp")
    with zipfile.ZipFile(tmp_path / "shp.zip", "w") as archive:
        for path in tmp_path.iterdir():
            if path.suffix != ".zip":
                archive.write(path, f"year/{path.name}")
    with pytest.raises(InputError, match=r"2 layers.*(fields|blocks).*parcels\.layer"):
        read_register(tmp_path / "shp.zip")
    assert len(read_register(tmp_path / "shp.zip", "fields")) == 1


GUIDS = ["{81025AF8-1FA3-A778-8B07-B4B383AB5F3D}", "7df4b4c9-dd7d-75f1-c0fb-7221d0fe824f"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([106806035.0, 7.0], ["106806035", "7"]),
        (pd.array([3, None], "Int64"), ["3", ""]),
        (["007", "7"], ["007", "7"]),
        (GUIDS, GUIDS),
        ([2**53 + 1, 5], ["9007199254740993", "5"]),
        ([12.5, 1e300], ["12.5", "1e+300"]),
        (["a/b", "çà \u200b"], ["a/b", "çà \u200b"]),
    ],
)
def test_ids_of_any_type_become_text(run, values, expected):
    register = simple(["A", "B"])
    register["ID_PARCEL"] = values
    register.to_file(run.folder / "register.gpkg")
    run(run.folder / "register.gpkg")
    assert run.column("parcel_id") == expected


def test_repeated_ids_are_rejected_or_numbered(run):
    register = simple(list("AAAAAA")).assign(ID_PARCEL=["1", "1", "1-2", "1", None, "1-2"])
    register.loc[0, "geometry"] = None
    assert run(register).column("reason") == [
        "null_geometry", "no_label", "no_label", "duplicate_id", "missing_id", "duplicate_id",
    ]  # fmt: skip
    run(register, duplicate_ids="number")
    assert run.column("parcel_id") == ["1", "1", "1-2", "1-3", "", "1-2-2"]
    assert run.usable["parcel_id"].is_unique


def test_numbered_ids_are_unique():
    rng = np.random.default_rng(0)
    ids = rng.choice(["a", "a-2", "a-2-2", "b", ""], 200)
    usable = rng.random(200) < 0.8
    found = numbered(ids.tolist(), usable)
    named = found[usable & (ids != "")]
    assert len(set(named)) == len(named)
    assert all(new.startswith(old) for new, old in zip(found, ids, strict=True))
    assert (found[~usable | (ids == "")] == ids[~usable | (ids == "")]).all()


def test_overlaps_and_repeated_outlines_are_reported(run, caplog):
    register = frame(
        [pixels(0, 0, 2, 2), pixels(1, 1, 3, 3), pixels(0, 0, 2, 2), pixels(5, 5, 6, 6), None],
        ID_PARCEL=["a", "b", "c", "d", "e"],
    )
    run(register)
    assert run.column("overlap_m2") == ["500", "200", "500", "0", ""]
    assert run.column("same_as") == ["", "", "a", "", ""]
    assert run.column("reason") == ["no_label"] * 4 + ["null_geometry"]
    assert "3 parcels overlap others, by 0.06 ha in 3 pairs" in caplog.text
    assert "1 parcels have the same outline as an earlier one" in caplog.text


def test_parcels_below_the_least_area_are_rejected(run):
    register = frame([pixels(0, 0, 2, 2), pixels(4, 4, 4.9, 4.9)], ID_PARCEL=[1, 2])
    run(register, min_area_m2=100, buffer_m=3)
    assert run.column("reason") == ["no_label", "too_small"]


def test_pixels_can_be_selected_by_covered_fraction(run):
    register = frame([pixels(0.6, 0, 2.4, 1), pixels(7, 7, 8.45, 8)], ID_PARCEL=[1, 2])
    run(register, min_covered_fraction=0.4)
    assert run.column("n_pixels") == ["3", "1"]
    # The second parcel covers more than the required fraction of a pixel beyond the edge.
    assert run.column("reason") == ["no_label", "partly_outside"]
    assert run(register, min_covered_fraction=0.5).column("n_pixels") == ["1", "1"]
    assert run.column("reason") == ["no_label", "no_label"]


def test_with_existing_weights_no_parcel_is_used(run, tmp_path):
    run(simple(list("AAB")), labels={"crop": "CODE"}, weights=tmp_path)
    assert run.column("code") == ["A", "A", "B"]
    assert run.column("status") == ["predict_only"] * 3


EXCERPTS = {
    # folder: options, rows
    "at": ({"id": "GEO_ID", "labels": {"crop": "SNAR_CODE"}}, 100),
    "be_vlg": ({"id": "REF_ID", "labels": {"crop": "GWSCOD_H"}}, 100),
    "ch": ({"id": "t_id", "labels": {"crop": "lnf_code"}}, 100),
    "dk": ({"id": "Marknr", "labels": {"crop": "Afgkode"}, "duplicate_ids": "number"}, 100),
    "ec_ro": ({"id": "fid", "labels": {"crop": "EC_hcat_c"}}, 100),
    "es_cat": ({"id": "fid", "labels": {"crop": "cultiu"}}, 100),
    "fi": ({"id": "TUNNUS", "labels": {"crop": "KASVIKOODI"}}, 100),
    "fr_rpg": ({"id": "id_parcel", "labels": {"crop": "code_cultu"}}, 193),
    "hr": ({"id": "id", "labels": {"crop": "land_use_id"}}, 100),
    "nl": ({"id": "id", "labels": {"crop": "gewascode"}}, 100),
    "pt": (
        {"id": "CUL_ID", "labels": {"crop": "CUL_CODIGO"}, "layer": "Culturas_Aveiro"},
        100,
    ),
}


def utm_grid(register):
    """Make a grid of the register's own UTM zone around all of it."""
    moved = register.to_crs(register.estimate_utm_crs())
    x_min, y_min, x_max, y_max = moved.total_bounds
    size = 10.0 if max(x_max - x_min, y_max - y_min) < 50_000 else 50.0
    left, top = np.floor(x_min / size) - 2, np.ceil(y_max / size) + 2
    height, width = top - np.floor(y_min / size) + 2, np.ceil(x_max / size) + 2 - left
    crs = moved.crs.to_string()
    return Grid(crs, left * size, top * size, size, size, int(height), int(width))


@pytest.mark.slow
@pytest.mark.parametrize("folder", EXCERPTS)
def test_every_row_of_real_registers_is_read_and_placed(tmp_path, folder):
    if not REGISTERS.is_dir():
        pytest.skip(reason="shared/data/registers is not there")
    (path,) = [p for p in (REGISTERS / folder).iterdir() if p.suffix in (".gpkg", ".zip")]
    options, n_rows = EXCERPTS[folder]
    register = read_register(path, options.get("layer"))
    run = Run(tmp_path, T=utm_grid(register))
    run(path, **options, classes={"min_parcels": 2}, all_touched=True)
    assert run.column("row") == [str(i) for i in range(n_rows)]
    assert len(register) == n_rows
    assert set(run.column("reason")) <= {"", "no_label", "class_too_rare"}, run.column("reason")
    assert len(set(run.column("parcel_id"))) == n_rows
    assert len(run.usable) == n_rows
    metric = register.to_crs(run.usable.crs).geometry
    np.testing.assert_allclose(run.usable.geometry.area, metric.make_valid().area, rtol=1e-6)


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet", ".geojson"])
def test_large_ids_beside_a_missing_id_stay_exact(tmp_path, suffix):
    ids = pd.array([2**53 + 1, None, 2**53, 2**62 + 1], "Int64")
    outlines = [box(i, 0, i + 1, 1) for i in range(len(ids))]
    path = tmp_path / f"register{suffix}"
    table = gpd.GeoDataFrame({"ID": ids}, geometry=outlines, crs="EPSG:4326")
    table.to_parquet(path) if suffix == ".parquet" else table.to_file(path)
    expected = ["9007199254740993", "", "9007199254740992", "4611686018427387905"]
    assert as_text(read_register(path)["ID"]).tolist() == expected
    for n_rows in (1, 2, 4):
        parts = [as_text(ids) for _, ids in read_register_parts(path, None, "ID", {}, n_rows)]
        assert np.concatenate(parts).tolist() == expected


@pytest.fixture
def squares():
    return frame([box(i, 0, i + 1, 1) for i in range(3)], name=["c", "a", "b"], n=[3, 1, 2])


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".gml", ".parquet", ".geoparquet"])
def test_rows_keep_the_order_of_the_file(tmp_path, squares, suffix):
    path = tmp_path / f"register{suffix}"
    squares = squares.to_crs("OGC:CRS84").iloc[::-1]
    squares.to_parquet(path) if "parquet" in suffix else squares.to_file(path, index=False)
    found = read_register(path)
    assert found["name"].tolist() == ["b", "a", "c"]
    assert found["n"].tolist() == [2, 1, 3]
    assert found.index.tolist() == [0, 1, 2]
    assert found.geometry.geom_equals_exact(squares.geometry, tolerance=1e-6, align=False).all()


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".gml", ".parquet", ".shp"])
def test_columns_without_outlines_are_those_of_the_register(tmp_path, squares, suffix):
    path = tmp_path / f"register{suffix}"
    squares.loc[1, "name"] = None
    squares.to_parquet(path) if suffix == ".parquet" else squares.to_file(path)
    codes = {"a": "name", "b": "n"}
    table, ids = read_named(path, None, "n", codes)
    found, found_ids = read_columns(path, None, "n", codes)
    assert as_text(found_ids).tolist() == as_text(ids).tolist() == ["3", "1", "2"]
    for name in ("name", "n"):
        assert as_text(found[name]).tolist() == as_text(table[name]).tolist()
    for read in (read_named, read_columns):
        with pytest.raises(InputError, match=r"parcels.id is 'N', .* Did you mean 'n'"):
            read(path, None, "N", {})
        with pytest.raises(InputError, match=r"code is 'x', which is not a column of"):
            read(path, None, "n", {"code": "x"})


@pytest.mark.slow
@pytest.mark.parametrize("folder", EXCERPTS)
def test_columns_of_real_registers_are_read_without_outlines(folder):
    if not REGISTERS.is_dir():
        pytest.skip(reason="shared/data/registers is not there")
    (path,) = [p for p in (REGISTERS / folder).iterdir() if p.suffix in (".gpkg", ".zip")]
    options, _ = EXCERPTS[folder]
    arguments = (path, options.get("layer"), options["id"], options["labels"])
    (table, ids), (found, found_ids) = read_named(*arguments), read_columns(*arguments)
    assert as_text(found_ids).tolist() == as_text(ids).tolist()
    code = options["labels"]["crop"]
    assert as_text(found[code]).tolist() == as_text(table[code]).tolist()


def test_rows_of_geoparquet_with_a_stored_index_keep_their_outlines(tmp_path, squares):
    """pandas stores an index with gaps, as after the removal of rows."""
    path = tmp_path / "register.parquet"
    squares.set_axis([0, 2, 1]).to_parquet(path)
    expected = [box(i, 0, i + 1, 1) for i in range(3)]
    table, _ = read_named(path, None, "n", {})
    parts = [part for part, _ in read_register_parts(path, None, "n", {}, 2)]
    for found in (table, pd.concat(parts)):
        assert found["n"].tolist() == [3, 1, 2]
        assert found.geometry.tolist() == expected
    assert read_columns(path, None, "n", {})[0].index.tolist() == [0, 1, 2]


def test_further_geometries_of_geoparquet_become_text(tmp_path, squares):
    path = tmp_path / "register.parquet"
    centres = squares.centroid.where([True, False, True])
    squares.assign(centre=centres).to_parquet(path)
    table, _ = read_named(path, None, "n", {})
    parts = [part for part, _ in read_register_parts(path, None, "n", {}, 1)]
    for found in (table, pd.concat(parts)):
        assert found["centre"].isna().tolist() == [False, True, False]
        assert shapely.from_wkt(found["centre"].iloc[2]) == centres.iloc[2]
        assert found.geometry.tolist() == squares.geometry.tolist()
    assert all(part["centre"].dtype == "str" for part in parts)


def test_the_layer_is_chosen_by_name(tmp_path, squares):
    path = tmp_path / "register.gpkg"
    squares.to_file(path, layer="parcels")
    squares[:1].to_file(path, layer="blocks")
    assert len(read_register(path, "blocks")) == 1


def test_feature_ids_are_read_under_their_name(tmp_path, squares):
    squares.to_file(tmp_path / "register.gpkg", FID="number")
    table, found = read_named(tmp_path / "register.gpkg", None, "number", {})
    assert "number" not in table
    assert (found.name, found.tolist()) == ("number", [1, 2, 3])
    squares.to_parquet(tmp_path / "register.parquet")
    with pytest.raises(InputError, match=r"parcels\.id is 'number', which is not a column"):
        read_named(tmp_path / "register.parquet", None, "number", {})


def test_unreadable_registers_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no parcel register.*nowhere\.gpkg"):
        read_register(tmp_path / "nowhere.gpkg")
    for name in ("text.gpkg", "text.zip", "text.parquet"):
        (tmp_path / name).write_text("This is no register.")
        with pytest.raises(InputError, match=rf"{name} cannot be read.*GeoP"):
            read_register(tmp_path / name)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 20, -3], ["1", "20", "-3"]),
        ([1.0, np.nan, 2.5], ["1", "", "2.5"]),
        (pd.array([7, None], "Int64"), ["7", ""]),
        (["007", " a b ", None, ""], ["007", "a b", "", ""]),
        ([12.0, "x", 3, None], ["12", "x", "3", ""]),
        (pd.array(["1", pd.NA], "string"), ["1", ""]),
        ([2**53 - 1, 1], ["9007199254740991", "1"]),
        ([], []),
    ],
)
def test_ids_and_codes_as_text(values, expected):
    assert as_text(pd.Series(values)).tolist() == expected


def test_integers_and_truths_stay_what_they_are_beside_a_missing_one(tmp_path):
    squares = [shapely.box(i, 0, i + 1, 1) for i in range(3)]
    ids = pd.array([1002307, None, 3], "Int64")
    truths = pd.array([True, None, False], "boolean")
    columns = {"ID": ids, "AREA": [1.0, 2.0, None], "TRUE": truths}
    table = gpd.GeoDataFrame(columns, geometry=squares, crs=2154)
    table.to_file(tmp_path / "r.gpkg")
    read = read_register(tmp_path / "r.gpkg")
    assert read["ID"].dtype == "Int64"
    assert read["AREA"].dtype == "float64"
    assert read["TRUE"].dtype == "boolean"
    assert read["TRUE"].equals(table["TRUE"])
    assert read["ID"].astype(object).where(read["ID"].notna(), None).tolist() == [1002307, None, 3]
