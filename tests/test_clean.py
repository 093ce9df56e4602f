"""Every row of a register is accounted for, and every refusal says what to do."""

import csv
import json
import logging
from dataclasses import asdict

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from preparation import for_label, label_parcels, observe
from shapely import GeometryCollection, LineString, MultiPolygon, Point, Polygon, box

from geo.errors import InputError
from geo.grid import Grid, read_grids
from geo.pixels.pixel_index import PixelIndex
from pipeline.classes.nomenclature import read_codes
from pipeline.stages.clean import clean
from pipeline.stages.rasterise import rasterise
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.settings import Settings

GRID = Grid("EPSG:32631", 500000.0, 4000080.0, 10.0, 10.0, 8, 8)


def pixels(left, top, right, bottom):
    """Make a box from columns and rows of the grid."""
    x, y = GRID.x_min, GRID.y_max
    return box(x + 10 * left, y - 10 * bottom, x + 10 * right, y - 10 * top)


class Run:
    """The stages clean, rasterise and label in a folder, with what they wrote."""

    def __init__(self, folder, **grids):
        self.folder = folder
        self.grids = folder / "grids.json"
        tiles = {tile: asdict(grid) for tile, grid in (grids or {"31TFM": GRID}).items()}
        self.grids.write_text(json.dumps(tiles))

    def __call__(self, register, folds=2, weights=None, **parcels):
        path = register
        if isinstance(register, pd.DataFrame):
            path = self.folder / "register.parquet"
            register.to_parquet(path)
        self.settings: Settings = load(
            {"split": {"folds": folds}, "parcels": parcels, "predict": {"weights": weights}}
        )
        paths = self.paths = RunPaths(self.folder)
        clean(
            path, self.grids, paths.register, paths.overlaps, paths.parcels,
            view(self.settings, "clean"), *for_label(self.settings),
        )  # fmt: skip
        tiles = list(read_grids(self.grids))
        for tile in tiles:
            rasterise(
                paths.parcels, self.grids, tile, paths.pixel_index(tile), paths.pixel_counts(tile),
                paths.label_image(tile), view(self.settings, "rasterise"),
            )  # fmt: skip
            observe(paths, tile)
        label_parcels(self.settings, paths)
        with paths.ledger.with_suffix(".csv").open(newline="") as file:
            self.ledger = list(csv.DictReader(file))
        self.usable = gpd.read_parquet(paths.parcels / f"{tiles[0]}.parquet")
        self.labels = json.loads(paths.dataset.labels.read_text())
        with paths.class_table.open(newline="") as file:
            self.classes = list(csv.DictReader(file))
        return self

    def column(self, name):
        return [row[name] for row in self.ledger]


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def frame(geometries, crs=GRID.crs, **columns):
    return gpd.GeoDataFrame(columns, geometry=list(geometries), crs=crs)


def simple(codes, **columns):
    """Make a register of parcels of two pixels each, one row of the grid below the other."""
    geometries = [
        pixels(2 * (i % 4), i // 4, 2 * (i % 4) + 2, i // 4 + 1) for i in range(len(codes))
    ]
    ids = [f"p{i}" for i in range(len(codes))]
    return frame(geometries, ID_PARCEL=ids, CODE=codes, **columns)


BOW_TIE = Polygon(
    [(500000, 4000000), (500020, 4000020), (500020, 4000000), (500000, 4000020), (500000, 4000000)]
)
# fmt: off
LINE = LineString([(500000, 4000000), (500010, 4000010)])
COLLAPSED = Polygon([(500000, 4000000), (500010, 4000010), (500020, 4000020)])
WITH_POINT = GeometryCollection([pixels(3, 3, 4, 4), Point(500000, 4000000)])
TWO_PARTS = MultiPolygon([pixels(4, 4, 5, 5), pixels(6, 4, 8, 5)])
WITH_HOLE = pixels(4, 5, 7, 8) - pixels(5, 6, 6, 7)
ROWS = [
    # geometry, id, code; expected: status, reason, mended, tile, n_pixels
    (pixels(0, 0, 2, 2), 1, "A", "used", "", False, "31TFM", 4),
    (pixels(1, 1, 3, 3), 2, "A", "used", "", False, "31TFM", 4),  # shares a pixel with id 1
    (pixels(4, 0, 6, 2), 3, "B", "used", "", False, "31TFM", 4),
    (pixels(6, 0, 8, 2), 4, "B", "used", "", False, "31TFM", 4),
    (BOW_TIE, 5, "A", "used", "", True, "31TFM", 2),
    (WITH_POINT, 6, "A", "used", "", True, "31TFM", 1),
    (TWO_PARTS, 7, "B", "used", "", False, "31TFM", 3),
    (WITH_HOLE, 8, "B", "used", "", False, "31TFM", 8),
    (None, 9, "A", "rejected", "null_geometry", False, "", ""),
    (Polygon(), 10, "A", "rejected", "empty_geometry", False, "", ""),
    (LINE, 11, "A", "rejected", "not_a_polygon", False, "", ""),
    (COLLAPSED, 12, "A", "rejected", "invalid_geometry", False, "", ""),
    (pixels(0, 4, 2, 5), None, "A", "rejected", "missing_id", False, "31TFM", 2),
    (pixels(0, 4, 2, 5), 1, "A", "rejected", "duplicate_id", False, "31TFM", 2),
    (pixels(20, 0, 22, 2), 13, "A", "rejected", "outside_imagery", False, "", 0),
    (pixels(7, 2, 10, 4), 14, "A", "rejected", "partly_outside", False, "31TFM", 2),
    (pixels(0.1, 6.1, 0.4, 6.4), 15, "A", "rejected", "too_few_pixels", False, "31TFM", 0),
    (pixels(0, 6, 1, 7), 16, None, "predict_only", "no_label", False, "31TFM", 1),
    (pixels(0, 7, 1, 8), 17, "  ", "predict_only", "no_label", False, "31TFM", 1),
    (pixels(1, 7, 2, 8), 18, "C", "predict_only", "class_too_rare", False, "31TFM", 1),
    (pixels(2, 7, 3, 8), 9, "B ", "used", "", False, "31TFM", 1),  # the first id 9 has no polygon
]
# fmt: on


def every_reason(crs=GRID.crs):
    geometries, ids, codes = zip(*(row[:3] for row in ROWS), strict=True)
    return frame(geometries, ID_PARCEL=ids, CODE=codes).to_crs(crs)


@pytest.mark.parametrize("crs", [GRID.crs, "EPSG:2154", "EPSG:4326"])
def test_every_reason(run, crs):
    run(every_reason(crs), labels={"crop": "CODE"}, classes={"min_parcels": 2})
    keys = ("status", "reason", "mended", "tile", "n_pixels")
    if crs != GRID.crs:
        # Reprojected, a collapsed polygon may have area, but no pixel.
        run.ledger[11]["reason"] = run.ledger[11]["reason"].replace(
            "too_few_pixels", "invalid_geometry"
        )
    for number, (row, found) in enumerate(zip(ROWS, run.ledger, strict=True)):
        if number == 11 and crs != GRID.crs:
            assert found["status"] == "rejected"
            continue
        assert [found[key] for key in keys] == list(map(str, row[3:])), f"row {number}"
    assert run.column("row") == [str(i) for i in range(len(ROWS))]
    assert run.column("parcel_id") == ["" if r[1] is None else str(r[1]) for r in ROWS]
    assert run.column("code") == [(r[2] or "").strip() for r in ROWS]


def test_accepted_parcels(run):
    run(every_reason("EPSG:2154"), labels={"crop": "CODE"}, classes={"min_parcels": 2})
    found = run.usable
    assert found.columns.tolist() == ["row", "parcel_id", "geometry"]
    assert found.crs == GRID.crs
    reasons = run.column("reason")
    accepted = [i for i, row in enumerate(run.ledger) if row["status"] != "rejected"]
    # Only rasterise knows which parcels have too few pixels.
    small = [i for i, reason in enumerate(reasons) if reason == "too_few_pixels"]
    assert small
    assert found["row"].tolist() == sorted([*accepted, *small])
    found = found[found["row"].isin(accepted)]
    assert found["parcel_id"].tolist() == [run.ledger[i]["parcel_id"] for i in accepted]
    assert found.geometry.is_valid.all()
    areas = [2.0 * 100 if i == 4 else int(run.ledger[i]["n_pixels"]) * 100.0 for i in accepted]
    np.testing.assert_allclose(found.geometry.area, areas, rtol=1e-3)
    assert list(run.labels["crop"]) == found["parcel_id"].tolist()
    assert run.labels["crop"]["1"] == "A"
    assert run.labels["crop"]["16"] is None


def test_classes(run, tmp_path):
    (tmp_path / "names.csv").write_text("code,name\nA, wheat \nC,maize\n")
    run(
        every_reason(),
        labels={"crop": "CODE"},
        classes={"min_parcels": 2},
        names=tmp_path / "names.csv",
    )
    assert [list(row.values()) for row in run.classes] == [
        ["0", "A", "wheat", "4", "True", ""],
        ["1", "B", "B", "5", "True", ""],
        ["", "C", "maize", "1", "False", "too_rare"],
    ]
    assert list(run.classes[0]) == ["class_index", "code", "name", "n_parcels", "used", "reason"]


def test_listed_classes_keep_their_order(run):
    run(simple(["A", "B", "C", "A", "B"]), labels={"crop": "CODE"}, classes=["B", "A"])
    assert [(c["class_index"], c["code"], c["reason"]) for c in run.classes] == [
        ("0", "B", ""),
        ("1", "A", ""),
        ("", "C", "not_listed"),
    ]
    assert run.column("reason") == ["", "", "class_not_listed", "", ""]
    assert run.column("status")[2] == "predict_only"


def test_whole_numbers_stay_numbers(run):
    codes = [12.0, 3.0, np.nan, 12.0, 3.0]
    groups = ["01", "2", "", None, "2"]
    register = simple(codes, GROUP=groups)
    run(register, labels={"crop": "CODE", "group": "GROUP"}, classes={"min_parcels": 2})
    assert run.column("code") == ["12", "3", "", "12", "3"]
    assert [c["code"] for c in run.classes] == ["3", "12"]  # in order of number, not of text
    crops, groups = run.labels["crop"], run.labels["group"]
    assert list(crops.values()) == [12, 3, None, 12, 3]
    assert json.dumps(crops) == '{"p0": 12, "p1": 3, "p2": null, "p3": 12, "p4": 3}'
    assert list(groups.values()) == ["01", "2", None, None, "2"]


def test_the_nomenclature_to_train_on(run):
    register = simple(list("AABBC"), GROUP=list("xyxyx"))
    labels = {"crop": "CODE", "group": "GROUP"}
    run(register, labels=labels, nomenclature="group", classes={"min_parcels": 2})
    assert run.column("code") == list("xyxyx")
    assert [c["code"] for c in run.classes] == ["x", "y"]


def test_no_labels_at_all(run):
    run(simple(list("AB")))
    assert run.column("status") == ["predict_only"] * 2
    assert run.column("reason") == ["no_label"] * 2
    assert run.column("code") == ["", ""]
    assert run.classes == []
    assert run.labels == {}


def test_ids_keep_leading_zeros(run):
    register = simple(["A"] * 3).assign(ID_PARCEL=["007", " 7 ", "7"])
    run(register)
    assert run.column("parcel_id") == ["007", "7", "7"]
    assert run.column("reason") == ["no_label", "no_label", "duplicate_id"]


def test_feature_ids_as_parcel_ids(run, tmp_path):
    simple(["A", "B"]).to_file(tmp_path / "register.gpkg", FID="number")
    run(tmp_path / "register.gpkg", id="number")
    assert run.column("parcel_id") == ["1", "2"]


def test_parcels_across_the_edge(run):
    # They reach 0.4 and 0.6 of a pixel over the edge: the second may miss a pixel's centre.
    register = frame([pixels(6, 2, 8.4, 3), pixels(6, 3, 8.6, 4)], ID_PARCEL=[1, 2])
    assert run(register).column("reason") == ["no_label", "partly_outside"]
    assert run.column("n_pixels") == ["2", "2"]
    assert run(register, partly_outside="keep").column("reason") == ["no_label", "no_label"]
    with pytest.raises(InputError, match=r"None of the 2 parcels.*2 partly_outside"):
        run(register, all_touched=True)


def test_the_buffer_and_the_smallest_size(run):
    register = frame([pixels(1, 1, 5, 5), pixels(6, 1, 8, 3)], ID_PARCEL=[1, 2])
    run(register, buffer_m=-6.0, min_pixels=4)
    assert run.column("n_pixels") == ["4", "0"]
    assert run.column("reason") == ["no_label", "too_few_pixels"]
    assert run.usable.geometry.area.tolist() == [1600.0, 400.0]  # not narrowed
    register.loc[2] = {"ID_PARCEL": 3, "geometry": pixels(8, 4, 9, 5)}
    # Widened corners are round: they leave out the pixels at the corners.
    run(register, buffer_m=6.0)
    assert run.column("reason") == ["no_label", "partly_outside", "outside_imagery"]
    assert run.column("n_pixels") == ["32", "10", "0"]


def test_rasterise_finds_the_counted_pixels(run):
    run(every_reason(), labels={"crop": "CODE"}, classes={"min_parcels": 2})
    index = PixelIndex.load(run.paths.pixel_index("31TFM"))
    counted = {
        row["parcel_id"]: int(row["n_pixels"]) for row in run.ledger if row["status"] != "rejected"
    }
    assert dict(zip(index.parcel_ids, index.sizes.tolist(), strict=True)) == counted
    assert {index.tile: index.grid} == read_grids(run.grids)
    with rasterio.open(run.paths.label_image("31TFM")) as image:
        assert (image.dtypes, image.crs, image.transform) == (("uint32",), GRID.crs, GRID.transform)
        assert (image.profile["tiled"], image.compression.name) == (True, "deflate")
        labels = image.read(1)
    # Row 0 and 1 share the pixel (1, 1), where the image shows the later one.
    expected = np.zeros(GRID.shape, np.uint32)
    for i in range(len(index.parcel_ids)):
        part = slice(index.offsets[i], index.offsets[i + 1])
        expected[index.rows[part], index.cols[part]] = i + 1
    np.testing.assert_array_equal(labels, expected)
    assert labels[:3, :3].tolist() == [[1, 1, 0], [1, 2, 2], [0, 2, 2]]


def test_log(run, caplog):
    with caplog.at_level(logging.INFO, logger="pipeline.stages"):
        run(every_reason(), labels={"crop": "CODE"}, classes={"min_parcels": 2})
    assert "21 rows: 9 used, 9 rejected, 3 predict_only" in caplog.text
    assert "predict_only: 2 no_label, 1 class_too_rare" in caplog.text
    assert "2 mended" in caplog.text


REFUSED = [
    ({"id": "ID"}, r"parcels\.id is 'ID', which is not a column of .*ID_PARCEL, CODE"),
    ({"id": "id_parcel"}, r"Did you mean 'ID_PARCEL'\?"),
    ({"labels": {"crop": "COD"}}, r"parcels\.labels\.crop is 'COD'.*Did you mean 'CODE'\?"),
    ({"labels": {"crop": "geometry"}}, "not a column"),
    ({"min_pixels": 3}, r"None of the 5 parcels.*5 too_few_pixels.*parcels\.min_pixels"),
    ({"labels": {"crop": "CODE"}}, r"0 classes have at least 30 parcels.*'A' \(3\), 'B' \(2\)"),
    (
        {"labels": {"crop": "CODE"}, "classes": {"min_parcels": 3}},
        r"1 classes have at least 3 parcels.*'A' \(3\), 'B' \(2\)",
    ),
    ({"labels": {"crop": "CODE"}, "classes": ["A", "D"]}, r"lists \['D'\], which no usable parcel"),
    (
        {"labels": {"crop": "CODE"}, "classes": ["A", "B"], "folds": 3},
        r"fewer parcels than split\.folds \(3\): 'B' \(2\)",
    ),
    ({"labels": {"crop": "CODE"}, "classes": ["A", "A"]}, r"lists \['A'\] twice"),
    (
        {"labels": {"group": "GROUP"}, "classes": [1, 2]},
        r"lists \[1, 2\].*The parcels have \['1', '2'\]: write them like that",
    ),
]


@pytest.mark.parametrize(("parcels", "words"), REFUSED, ids=range(len(REFUSED)))
def test_refused_settings(run, parcels, words):
    register = simple(list("AABBA"), GROUP=list("11221"))
    with pytest.raises(InputError, match=words):
        run(register, **parcels)
    assert not run.paths.ledger.exists()
    assert not run.paths.ledger.with_suffix(".csv").exists()


def test_refused_registers(run):
    with pytest.raises(InputError, match="has no rows"):
        run(simple(["A"])[:0])
    # The grid lies on the meridian of 3 degrees east; the parcels lie 1 km further east.
    away = simple(["A"]).translate(1000, 0).to_frame("geometry").assign(ID_PARCEL=["p"])
    with pytest.raises(
        InputError,
        match=r"No parcel of .* lies on the imagery.*\(3\.0111, 36\.14.*imagery over \(3\.0, 36",
    ):
        run(away)


def test_refused_names(run, tmp_path):
    options = {"labels": {"crop": "CODE"}, "classes": ["A", "B"], "names": tmp_path / "names.csv"}
    with pytest.raises(InputError, match=r"no table of class names.*names\.csv"):
        run(simple(list("ABAB")), **options)
    (tmp_path / "names.csv").write_text("code;name\nA;wheat\n")
    with pytest.raises(InputError, match="columns code;name, expected code and name"):
        run(simple(list("ABAB")), **options)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2], [1, 2]),
        ([1.0, None], [1, None]),
        ([1.5, 2.0], ["1.5", "2"]),
        ([" a", "", None, "01"], ["a", None, None, "01"]),
        ([1, "a", 2.0], ["1", "a", "2"]),
        ([True, False], ["True", "False"]),
        (pd.Categorical([3, None, 3]), [3, None, 3]),
        (pd.array([5, None], "UInt8"), [5, None]),
        ([None, None], [None, None]),
        ([2.0**60], [str(2.0**60)]),
    ],
)
def test_read_codes(values, expected):
    found = read_codes(pd.Series(values)).astype(object)
    assert [None if pd.isna(code) else code for code in found] == expected
    assert [type(code) for code in found if not pd.isna(code)] == [
        type(code) for code in expected if code is not None
    ]
