"""Registers of points, from the file to the ledger: by eye, on a grid of 8 x 8 pixels."""

import math

import geopandas as gpd
import pandas as pd
import pytest
from shapely import LineString, MultiPoint, Point

from geo.errors import InputError
from tests.builders.registers import GRID, Run, frame, pixels


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def at(col, row):
    """Make a point from columns and rows of the grid; whole numbers are borders of pixels."""
    return Point(GRID.x_min + 10 * col, GRID.y_max - 10 * row)


# fmt: off
ROWS = [
    # geometry, status, reason, n_pixels, overlap_m2, same_as
    (at(0.5, 0.5), "used", "", "1", "100", ""),
    (at(0.2, 0.9), "used", "", "1", "100", "p0"),  # in the same pixel
    (at(2, 2), "used", "", "1", "0", ""),
    (at(8, 2.5), "rejected", "outside_imagery", "0", "", ""),  # on the right edge of the imagery
    (at(7.9, 7.9), "used", "", "1", "0", ""),
    (MultiPoint([at(4.5, 4.5), at(4.6, 4.6), at(5.5, 4.5)]), "used", "", "2", "0", ""),
    (pixels(6, 0, 8, 2), "used", "", "4", "100", ""),
    (at(6.5, 0.5), "used", "", "1", "100", ""),  # within the polygon
    (LineString([at(1, 1), at(2, 1)]), "rejected", "not_a_polygon", "", "", ""),
    (None, "rejected", "null_geometry", "", "", ""),
    (Point(), "rejected", "empty_geometry", "", "", ""),
    (pixels(3, 0, 3.5, 0.4), "rejected", "too_small", "0", "", ""),
]
# fmt: on
KEYS = ("status", "reason", "n_pixels", "overlap_m2", "same_as")
PARCELS = {"labels": {"crop": "CODE"}, "classes": ["A", "B"]}


def register(rows=ROWS):
    ids = [f"p{i}" for i in range(len(rows))]
    return frame([row[0] for row in rows], ID_PARCEL=ids, CODE=list("AB" * 6)[: len(rows)])


@pytest.mark.parametrize("crs", [GRID.crs, "EPSG:2154"])
def test_points_and_polygons_have_their_status_and_pixels(run, crs):
    rows = register()
    if crs != GRID.crs:
        # Reprojected, a point on a border may be on either side of it.
        rows.loc[[2, 3], "geometry"] = [at(2.01, 2.01), at(8.01, 2.5)]
    run(rows.to_crs(crs), point_buffer_m=0, min_area_m2=150, **PARCELS)
    for row, found in zip(ROWS, run.ledger, strict=True):
        assert tuple(found[key] for key in KEYS) == row[1:], found["parcel_id"]
    outlines = run.usable.set_index("parcel_id").geometry
    for parcel_id, expected in (("p2", pixels(2, 2, 3, 3)), ("p5", pixels(4, 4, 6, 5))):
        assert outlines[parcel_id].symmetric_difference(expected).area < 1e-6
    # The pixel of a point is not the area of its field.
    areas = pd.read_parquet(run.paths.register).set_index("parcel_id")["area_m2"]
    assert math.isnan(areas["p2"])
    assert math.isnan(areas["p5"])
    assert areas["p6"] == pytest.approx(400 / 0.9996**2, rel=1e-4)


def test_discs_are_parcels_like_others(run):
    # A disc of 12 m around the centre of a pixel has 5 pixel centres, around a corner 4.
    points = [at(2.5, 2.5), at(5, 5), at(0.5, 4.5), at(3.5, 2.5)]
    run(register([(p,) for p in points]), point_buffer_m=12, partly_outside="keep")
    assert run.column("n_pixels") == ["5", "4", "4", "5"]
    run(register([(p,) for p in points]), point_buffer_m=12)
    assert run.column("reason") == ["no_label", "no_label", "partly_outside", "no_label"]
    area = points[0].buffer(12, 32).intersection(points[3].buffer(12, 32)).area
    assert run.column("overlap_m2") == [f"{area:.0f}", "0", "", f"{area:.0f}"]


FORMATS = [
    *("gpkg", "shp", "geojson", "parquet", "fgb", "gml"),
    *("multi gpkg", "multi shp", "multi parquet"),
    *("lon,lat csv", "Longitude;Latitude csv", "LON\tLAT tsv"),
]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_the_same_points(run, tmp_path, name):
    kind, _, suffix = name.rpartition(" ")
    points = [at(1.5, 1.5), at(6.5, 2.5), at(0.5, 7.5), at(4.5, 4.5)]
    if kind == "multi":
        points = [MultiPoint([point]) for point in points]
    rows = frame(points, ID_PARCEL=["001", "2", "03", "4"], CODE=list("ABAB")).to_crs("EPSG:4326")
    path = tmp_path / f"points.{suffix}"
    if suffix in ("csv", "tsv"):
        (separator,) = {",", ";", "\t"} & {*kind}
        x, y = kind.split(separator)
        table = pd.DataFrame(rows.drop(columns="geometry"))
        table = table.assign(**{x: rows.geometry.x, y: rows.geometry.y})
        table.to_csv(path, sep=separator, index=False)
    elif suffix == "parquet":
        rows.to_parquet(path)
    else:
        rows.to_file(path)
    run(path, point_buffer_m=0, **PARCELS)
    # FlatGeobuf sorts its rows by location.
    found = {row["parcel_id"]: (row["status"], row["n_pixels"], row["code"]) for row in run.ledger}
    expected = dict(zip(rows["ID_PARCEL"], rows["CODE"], strict=True))
    assert found == {parcel_id: ("used", "1", code) for parcel_id, code in expected.items()}
    outlines = run.usable.set_index("parcel_id").geometry
    for parcel_id, point in zip(rows["ID_PARCEL"], points, strict=True):
        assert outlines[parcel_id].centroid.distance(point) < 0.01


def test_rows_of_a_csv_without_numbers_are_rejected_by_name(run, tmp_path):
    rows = register([(at(1.5, 1.5),), (at(2.5, 1.5),)] * 2).to_crs("EPSG:4326")
    table = pd.DataFrame(rows.drop(columns="geometry"))
    table = table.assign(lon=rows.geometry.x, lat=rows.geometry.y).astype(object)
    table.loc[len(table)] = ["p4", "A", None, 36.1]
    table.loc[len(table)] = ["p5", "A", "three", 36.1]
    table.to_csv(tmp_path / "points.csv", index=False)
    run(tmp_path / "points.csv", point_buffer_m=0, **PARCELS)
    assert run.column("reason") == ["", "", "", "", "null_geometry", "null_geometry"]


def test_points_are_refused_with_the_setting_that_accepts_them(run, caplog):
    points = [(at(1.5, 1.5),), (at(2.5, 1.5),)]
    with pytest.raises(InputError, match=r"points instead of outlines \(2 of 2 rows\).*Set it to"):
        run(register(points), **PARCELS)
    others = [(pixels(0, 0, 1, 1),), (pixels(1, 0, 2, 1),), (pixels(2, 0, 3, 1),)]
    run(register([*points, *others, others[0]]), **PARCELS)
    assert run.column("reason")[:2] == ["not_a_polygon"] * 2
    assert "2 rejected rows are points: parcels.point_buffer_m accepts them" in caplog.text


@pytest.mark.parametrize("points", [[at(1.5, 1.5)], [MultiPoint([at(1.5, 1.5)])]])
@pytest.mark.parametrize("suffix", ["gpkg", "parquet"])
def test_files_that_declare_points_are_told_before_the_run(tmp_path, suffix, points):
    from geo.register.reading import read_extent

    path = tmp_path / f"register.{suffix}"
    for rows, expected in (
        (points, True),
        ([*points, pixels(0, 0, 1, 1)], False),
        ([pixels(0, 0, 1, 1)], False),
    ):
        table = gpd.GeoDataFrame({"ID": range(len(rows))}, geometry=rows, crs=GRID.crs)
        path.unlink(missing_ok=True)
        table.to_parquet(path) if suffix == "parquet" else table.to_file(path)
        types = read_extent(path)[1]
        assert bool(types and types <= {"Point", "MultiPoint"}) is expected
