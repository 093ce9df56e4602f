"""Reading registers, mending polygons, and placing them on a grid."""

import zipfile

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from shapely import (
    GeometryCollection,
    LineString,
    MultiPolygon,
    Point,
    Polygon,
    box,
)

from geo.errors import InputError
from geo.grid import Grid
from geo.register.columns import RegisterColumns, as_text
from geo.register.polygons import is_outside, lon_lat_bounds, mend, reaches_beyond, reproject
from geo.register.reading import read_named, read_register

GRID = Grid("EPSG:32631", 500000.0, 4000040.0, 10.0, 10.0, 4, 4)


def frame(geometries, crs="EPSG:32631", **columns):
    return gpd.GeoDataFrame(columns, geometry=list(geometries), crs=crs)


@pytest.fixture
def squares():
    return frame([box(i, 0, i + 1, 1) for i in range(3)], name=["c", "a", "b"], n=[3, 1, 2])


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".gml", ".parquet", ".geoparquet"])
def test_formats(tmp_path, squares, suffix):
    path = tmp_path / f"register{suffix}"
    squares = squares.to_crs("OGC:CRS84").iloc[::-1]
    squares.to_parquet(path) if "parquet" in suffix else squares.to_file(path, index=False)
    found = read_register(path)
    assert found["name"].tolist() == ["b", "a", "c"]
    assert found["n"].tolist() == [2, 1, 3]
    assert found.index.tolist() == [0, 1, 2]
    assert found.geometry.geom_equals_exact(squares.geometry, tolerance=1e-6, align=False).all()


@pytest.mark.parametrize("folder", ["", "a folder/"])
def test_a_zipped_shapefile(tmp_path, squares, folder):
    squares.to_file(tmp_path / "register.shp")
    with zipfile.ZipFile(tmp_path / "register.zip", "w") as archive:
        for path in tmp_path.glob("register.*"):
            if path.suffix != ".zip":
                archive.write(path, folder + path.name)
    found = read_register(tmp_path / "register.zip")
    assert (found["name"].tolist(), found.crs) == (["c", "a", "b"], squares.crs)


def test_third_dimensions_are_dropped(tmp_path):
    polygon = shapely.force_3d(box(0, 0, 1, 1), 7.0)
    frame([polygon, None]).to_file(tmp_path / "register.gpkg")
    found = read_register(tmp_path / "register.gpkg").geometry
    assert not shapely.has_z(found[0])
    assert found[0].equals(polygon)
    assert found[1] is None


def test_layers(tmp_path, squares):
    path = tmp_path / "register.gpkg"
    squares.to_file(path, layer="parcels")
    squares[:1].to_file(path, layer="blocks")
    with pytest.raises(InputError, match=r"2 layers.*parcels, blocks.*parcels\.layer"):
        read_register(path)
    with pytest.raises(InputError, match=r"no layer 'fields'.*parcels, blocks"):
        read_register(path, "fields")
    assert len(read_register(path, "blocks")) == 1


def test_feature_ids(tmp_path, squares):
    squares.to_file(tmp_path / "register.gpkg", FID="number")
    columns = RegisterColumns("number", {})
    table, found = read_named(tmp_path / "register.gpkg", None, columns)
    assert "number" not in table
    assert (found.name, found.tolist()) == ("number", [1, 2, 3])
    squares.to_parquet(tmp_path / "register.parquet")
    with pytest.raises(InputError, match=r"parcels\.id is 'number', which is not a column"):
        read_named(tmp_path / "register.parquet", None, columns)


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_unreadable_registers(tmp_path, squares):
    with pytest.raises(InputError, match=r"no parcel register.*nowhere\.gpkg"):
        read_register(tmp_path / "nowhere.gpkg")
    for name in ("text.gpkg", "text.zip", "text.parquet"):
        (tmp_path / name).write_text("This is no register.")
        with pytest.raises(InputError, match=rf"{name} cannot be read.*GeoP"):
            read_register(tmp_path / name)
    (tmp_path / "table.csv").write_text("ID_PARCEL,CODE\n1,A\n")
    with pytest.raises(InputError, match="no layer with geometries"):
        read_register(tmp_path / "table.csv")
    for name in ("lost.gpkg", "lost.parquet"):
        lost = squares.set_crs(None, allow_override=True)
        lost.to_parquet(tmp_path / name) if "parquet" in name else lost.to_file(tmp_path / name)
        with pytest.raises(InputError, match=rf"{name} has no coordinate system"):
            read_register(tmp_path / name)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "plain.parquet")
    with pytest.raises(InputError, match=r"plain\.parquet cannot be read as GeoParquet"):
        read_register(tmp_path / "plain.parquet")


def test_mend():
    bow_tie = Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    spike = Polygon([(0, 0), (2, 0), (2, 2), (2, 5), (2, 2), (0, 2)])
    nested = GeometryCollection(
        [
            Point(9, 9),
            box(0, 0, 1, 1),
            GeometryCollection([MultiPolygon([box(0.5, 0, 2, 1)]), LineString([(0, 0), (5, 5)])]),
        ]
    )
    cases = [
        # geometry, reason, mended, area
        (box(0, 0, 1, 2), "", False, 2),
        (box(0, 0, 3, 3).difference(box(1, 1, 2, 2)), "", False, 8),
        (MultiPolygon([box(0, 0, 1, 1), box(2, 0, 3, 1)]), "", False, 2),
        (bow_tie, "", True, 2),
        (spike, "", True, 4),
        # Parts that overlap: the union, 4 + 4 - 1.
        (MultiPolygon([box(0, 0, 2, 2), box(1, 1, 3, 3)]), "", True, 7),
        (GeometryCollection([box(0, 0, 1, 1), Point(5, 5)]), "", True, 1),
        (nested, "", True, 2),
        (None, "null_geometry", False, None),
        (Polygon(), "empty_geometry", False, None),
        (GeometryCollection(), "empty_geometry", False, None),
        (Point(0, 0), "not_a_polygon", False, None),
        (LineString([(0, 0), (1, 0), (1, 1), (0, 0)]), "not_a_polygon", False, None),
        (GeometryCollection([Point(0, 0)]), "not_a_polygon", False, None),
        (Polygon([(0, 0), (1, 1), (2, 2)]), "invalid_geometry", False, None),
        (Polygon([(0, 0), (0, 0), (0, 0)]), "invalid_geometry", False, None),
        (box(0, 0, 1, float("inf")), "invalid_geometry", False, None),
        (GeometryCollection([Polygon([(0, 0), (1, 1), (2, 2)])]), "invalid_geometry", False, None),
    ]
    geometries, reasons, flags, areas = map(list, zip(*cases, strict=True))
    found = mend(np.array(geometries, object))
    assert found.reasons.tolist() == reasons
    assert found.mended.tolist() == flags
    assert [None if p is None else p.area for p in found.polygons] == areas
    assert all(p is None or p.is_valid for p in found.polygons)
    assert len(mend(np.array([], object)).polygons) == 0


def test_mend_leaves_what_is_valid():
    polygons = shapely.buffer(shapely.points(np.arange(5.0), 0.0), 2)
    found = mend(polygons)
    assert shapely.equals_exact(found.polygons, polygons).all()
    assert not found.mended.any()


def test_reproject():
    # Two points of the grid in degrees and back; the antipode cannot be expressed in UTM 31.
    inside = gpd.GeoSeries([box(500000, 4000000, 500020, 4000020)], crs=GRID.crs)
    degrees = inside.to_crs("OGC:CRS84").iloc[0]
    far = box(-176, -40, -175, -39)
    found = reproject(mend(np.array([degrees, None, far], object)), "OGC:CRS84", GRID)
    assert found.reasons.tolist() == ["", "null_geometry", ""]
    assert shapely.equals_exact(found.polygons[0], inside.iloc[0], tolerance=1e-5)
    assert found.polygons[1] is None
    assert is_outside(found.polygons, GRID).tolist() == [False, False, True]


def test_outside_and_beyond():
    x, y = GRID.x_min, GRID.y_max - 40  # the lower left corner of 40 m x 40 m
    around = box(x - 9, y - 9, x + 49, y + 49) - box(x - 2, y - 2, x + 42, y + 42)
    bordering = box(x - 9, y - 9, x + 49, y + 49) - box(x, y, x + 40, y + 40)
    cases = [
        # polygon, outside, reaches beyond by more than 0, half a pixel
        (box(x, y, x + 40, y + 40), False, False, False),
        (box(x - 4, y, x + 5, y + 5), False, True, False),
        (box(x - 6, y, x + 5, y + 5), False, True, True),
        (box(x + 35, y + 35, x + 36, y + 46), False, True, True),
        (box(x - 10, y, x, y + 10), True, True, True),
        (box(x + 100, y, x + 110, y + 10), True, True, True),
        (around, True, True, True),
        (bordering, True, True, True),
        (box(x, y, x + 5, float("inf")), True, True, True),
        (None, False, False, False),
        (Polygon(), False, False, False),
    ]
    polygons = np.array([c[0] for c in cases], object)
    assert is_outside(polygons, GRID).tolist() == [c[1] for c in cases]
    assert reaches_beyond(polygons, GRID, 0.0).tolist() == [c[2] for c in cases]
    assert reaches_beyond(polygons, GRID, 0.5).tolist() == [c[3] for c in cases]


def test_lon_lat_bounds():
    # The central meridian of UTM zone 31 is 3 degrees east.
    west, south, east, north = lon_lat_bounds((500000, 0, 500000, 1000), "EPSG:32631")
    assert (west, east) == pytest.approx((3, 3))
    assert (south, north) == pytest.approx((0, 1000 / 110_580), rel=1e-2)


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
def test_as_text(values, expected):
    assert as_text(pd.Series(values)).tolist() == expected


def test_whole_numbers_stay_whole_where_one_is_missing(tmp_path):
    squares = [shapely.box(i, 0, i + 1, 1) for i in range(3)]
    ids = pd.array([1002307, None, 3], "Int64")
    table = gpd.GeoDataFrame({"ID": ids, "AREA": [1.0, 2.0, None]}, geometry=squares, crs=2154)
    table.to_file(tmp_path / "r.gpkg")
    read = read_register(tmp_path / "r.gpkg")
    assert read["ID"].dtype == "Int64"
    assert read["AREA"].dtype == "float64"
    assert read["ID"].astype(object).where(read["ID"].notna(), None).tolist() == [1002307, None, 3]
