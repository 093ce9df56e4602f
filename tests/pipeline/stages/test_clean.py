"""From the register to the ledger: the status and reason of every row, and the classes."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
import rasterio

from geo.errors import InputError
from geo.grid import read_grids
from geo.pixels.pixel_index import PixelIndex
from pipeline.classes.class_mapping import read_codes
from tests.builders.registers import GRID, ROWS, Run, every_reason, frame, pixels, simple


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


@pytest.mark.parametrize("crs", [GRID.crs, "EPSG:2154", "EPSG:4326"])
def test_every_row_has_its_status_and_reason(run, crs):
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


def test_usable_parcels_are_written_in_the_coordinates_of_the_tile(run):
    run(every_reason("EPSG:2154"), labels={"crop": "CODE"}, classes={"min_parcels": 2})
    found = run.usable
    assert found.columns.tolist() == ["row", "parcel_id", "geometry"]
    assert found.crs == GRID.crs
    reasons = run.column("reason")
    accepted = [i for i, row in enumerate(run.ledger) if row["status"] != "rejected"]
    # Clean does not count pixels: parcels with too few of them are still usable.
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


def test_the_area_of_every_outline_on_a_tile_is_written(run):
    """Without buffer, also of rejected parcels; 0.9996 is the scale of UTM at its meridian."""
    run(every_reason(), labels={"crop": "CODE"}, classes={"min_parcels": 2}, buffer_m=-1)
    table = pd.read_parquet(run.paths.register)
    expected = [
        g.area / 0.9996**2 if row[6] else np.nan
        for row, g in zip(ROWS, every_reason().make_valid(), strict=True)
    ]
    np.testing.assert_allclose(table["area_m2"], expected, rtol=1e-4)


def test_the_table_of_classes(run, tmp_path):
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


def test_codes_that_are_integers_stay_integers(run):
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


def test_the_nomenclature_to_train_on_can_be_chosen(run):
    register = simple(list("AABBC"), GROUP=list("xyxyx"))
    labels = {"crop": "CODE", "group": "GROUP"}
    run(register, labels=labels, nomenclature="group", classes={"min_parcels": 2})
    assert run.column("code") == list("xyxyx")
    assert [c["code"] for c in run.classes] == ["x", "y"]


def test_without_labels_every_parcel_is_predicted_only(run):
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


def test_parcels_that_lose_pixels_at_the_edge_are_rejected(run):
    # They exceed the edge by 0.4 and 0.6 of a pixel: only the second covers a centre beyond it.
    register = frame([pixels(6, 2, 8.4, 3), pixels(6, 3, 8.6, 4)], ID_PARCEL=[1, 2])
    assert run(register).column("reason") == ["no_label", "partly_outside"]
    assert run.column("n_pixels") == ["2", "2"]
    assert run(register, partly_outside="keep").column("reason") == ["no_label", "no_label"]
    with pytest.raises(InputError, match=r"None of the 2 parcels.*2 partly_outside"):
        run(register, all_touched=True)


def test_the_buffer_changes_pixels_and_not_outlines(run):
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


def test_index_and_label_image_have_the_pixels_of_the_ledger(run):
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
    # Rows 0 and 1 share the pixel (1, 1); the image shows the later parcel.
    expected = np.zeros(GRID.shape, np.uint32)
    for i in range(len(index.parcel_ids)):
        part = slice(index.offsets[i], index.offsets[i + 1])
        expected[index.rows[part], index.cols[part]] = i + 1
    np.testing.assert_array_equal(labels, expected)
    assert labels[:3, :3].tolist() == [[1, 1, 0], [1, 2, 2], [0, 2, 2]]


def test_the_log_counts_statuses_and_reasons(run, caplog):
    with caplog.at_level(logging.INFO, logger="pipeline.stages"):
        run(every_reason(), labels={"crop": "CODE"}, classes={"min_parcels": 2})
    assert "21 rows: 9 used, 9 rejected, 3 predict_only" in caplog.text
    assert "predict_only: 2 no_label, 1 class_too_rare" in caplog.text
    assert "2 mended" in caplog.text


REFUSED = [
    ({"labels": {"crop": "COD"}}, r"parcels\.labels\.crop is 'COD'.*Did you mean 'CODE'\?"),
    ({"labels": {"crop": "geometry"}}, "not a column"),
    ({"labels": {"crop": "CODE"}, "classes": ["A", "A"]}, r"lists \['A'\] twice"),
    (
        {"labels": {"group": "GROUP"}, "classes": [1, 2]},
        r"lists \[1, 2\].*The parcels have \['1', '2'\]: write them like that",
    ),
]


@pytest.mark.parametrize(("parcels", "words"), REFUSED, ids=range(len(REFUSED)))
def test_unusable_columns_and_classes_are_refused(run, parcels, words):
    register = simple(list("AABBA"), GROUP=list("11221"))
    with pytest.raises(InputError, match=words):
        run(register, **parcels)
    assert not run.paths.ledger.exists()
    assert not run.paths.ledger.with_suffix(".csv").exists()


def test_a_register_outside_the_imagery_is_refused_with_both_extents(run):
    # The grid lies on the meridian of 3 degrees east; the parcels lie 1 km further east.
    away = simple(["A"]).translate(1000, 0).to_frame("geometry").assign(ID_PARCEL=["p"])
    with pytest.raises(
        InputError,
        match=r"No parcel of .* is on the imagery.*\(3\.0111, 36\.14.*imagery covers \(3\.0, 36",
    ):
        run(away)


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
def test_codes_are_integers_or_text(values, expected):
    found = read_codes(pd.Series(values)).astype(object)
    assert [None if pd.isna(code) else code for code in found] == expected
    assert [type(code) for code in found if not pd.isna(code)] == [
        type(code) for code in expected if code is not None
    ]
