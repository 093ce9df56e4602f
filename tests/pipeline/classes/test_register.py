"""Rows of the register are matched with their rows of the ledger, in any order."""

import json
from collections import Counter
from dataclasses import asdict

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from geo.errors import InputError
from geo.grid import Grid
from geo.register.columns import with_codes
from geo.register.reading import read_register_parts
from pipeline.classes.register import matched_parts
from pipeline.stages.clean import clean
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import RunPaths

GRID = Grid("EPSG:32631", 500000.0, 4000000.0, 10.0, 10.0, 60, 60)
# Missing ids, leading zeros, repeated ids, and two equal rows.
TEXTS = ["007", "7", "a b", "x", "x", "x", "", None, "ü", "same", "same", "12", "12.0", "1e3"]
NUMBERS = [7, 7, 8, 2**40, None, 9, 10, 11, 12, 5, 5, 13, 14, 15]
N = len(TEXTS)
OPTIONS = {"labels": {"crop": "code"}, "classes": {"min_parcels": 2}}


def make_register(ids):
    corners = 500000 + 40 * np.arange(N)
    outlines = shapely.box(corners, 3999900, corners + 30, 3999990).astype(object)
    outlines[10] = outlines[9]
    outlines[2], outlines[8] = None, shapely.Point(500000, 3999900)
    codes = pd.Series([3, 4, None, 3, 4, 3, 4, 3, 4, 3, 3, 4, 3, 4], dtype="Int64")
    columns = {"code": codes, "mark": np.arange(N)} | ({} if ids is None else {"ID": ids})
    return gpd.GeoDataFrame(columns, geometry=outlines, crs="EPSG:32631")


def write(table, path):
    table = table.reset_index(drop=True)
    table.to_parquet(path) if path.suffix == ".parquet" else table.to_file(path)
    return path


@pytest.fixture
def cleaned(tmp_path):
    """Return a function that cleans a register and returns path, ledger and settings."""

    def run(table, suffix, **parcels):
        register = write(table, tmp_path / f"cleaned{suffix}")
        grids = tmp_path / "grids.json"
        grids.write_text(json.dumps({"31TFM": asdict(GRID)}))
        settings = load({"split": {"folds": 2}, "parcels": OPTIONS | parcels})
        run = RunPaths(tmp_path)
        clean(register, grids, run.register, run.overlaps, run.parcels, view(settings, "clean"))
        rows = pd.read_parquet(run.register)
        checksums = with_codes(rows["checksum"].to_numpy(), [rows["register:code"]])
        return register, rows.assign(checksum=checksums), settings.parcels

    return run


def places_of(*arguments):
    """Return the positions in the ledger of all rows of a register."""
    return np.concatenate([places for _, places in matched_parts(*arguments)]).tolist()


IDS = {
    "text": pd.Series(TEXTS, dtype="str"),
    "numbers": pd.Series(NUMBERS, dtype="Int64"),
    "floats": pd.Series(NUMBERS, dtype="float64"),
}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".gpkg", ".parquet", ".geojson"])
@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("duplicates", ["reject", "number"])
def test_rows_are_matched_in_any_order(cleaned, tmp_path, suffix, ids, duplicates):
    """The column `mark` is the expected position in the ledger."""
    table = make_register(IDS[ids])
    _, ledger, options = cleaned(table, suffix, id="ID", duplicate_ids=duplicates)
    orders = [np.arange(N), np.arange(N)[::-1], np.random.default_rng(0).permutation(N)]
    for order, n_rows in zip(orders, (1, 5, N), strict=True):
        register = write(table.iloc[order], tmp_path / f"other{suffix}")
        parts = list(matched_parts(register, ledger, options, n_rows))
        marks = np.concatenate([part["mark"] for part, _ in parts])
        places = np.concatenate([own for _, own in parts])
        # The two equal rows are matched in their order.
        assert [place for place in places if place in (9, 10)] == [9, 10]
        expected = [place for place in marks if place not in (9, 10)]
        assert [place for place in places if place not in (9, 10)] == expected
    assert Counter(ledger["geometry_type"]) == {"Polygon": N - 2, "Point": 1, "": 1}


def test_rows_can_be_matched_by_feature_ids(cleaned, tmp_path):
    """A register without a column of ids: a reversed one is another register."""
    table = make_register(None)
    register, ledger, options = cleaned(table, ".gpkg", id="fid")
    for n_rows in (1, 5, N):
        assert places_of(register, ledger, options, n_rows) == list(range(N))
    reverse = write(table[::-1], tmp_path / "reversed.gpkg")
    with pytest.raises(InputError, match=r"Rows with another outline.*: 14 \(1, 2, 3, 4, 5"):
        places_of(reverse, ledger, options, 5)


def test_rows_of_fiboa_are_matched_by_its_ids(cleaned, tmp_path):
    """The column of the ids needs no setting."""
    table = make_register(None).assign(id=[f"f{i}" for i in range(N)])
    _, ledger, options = cleaned(table, ".parquet", id="id")
    reverse = write(table[::-1], tmp_path / "reversed.parquet")
    assert places_of(reverse, ledger, options, 4) == list(range(N))[::-1]


def moved(table, *marks):
    """Move the outlines of rows by a millimetre."""
    outlines = table.geometry.to_numpy().copy()
    outlines[list(marks)] = shapely.transform(outlines[list(marks)], lambda xy: xy + 0.001)
    return table.set_geometry(outlines).set_crs(table.crs)


def replaced(table, column, mark, value):
    values = table[column].copy()
    values[mark] = value
    return table.assign(**{column: values})


def swapped(table, column):
    values = table[column].copy()
    values[[11, 13]] = values[[13, 11]].to_numpy()
    return table.assign(**{column: values})


OUTLINE = "Rows with another outline, coordinate system or declared code: "
CHANGES = {
    "row removed": (lambda t: t.drop(3), r"Rows of the ledger missing: 1 \(x\)\."),
    "twin removed": (lambda t: t.drop(10), r"Rows of the ledger missing: 1 \(same\)\."),
    "row added": (
        lambda t: pd.concat([t, t[:1].assign(ID="new")]),
        r"Rows not in the ledger: 1 \(new\)\.",
    ),
    "row doubled": (lambda t: pd.concat([t, t[:1]]), r"Rows not in the ledger: 1 \(007\)\."),
    "another id": (
        lambda t: replaced(t, "ID", 1, "8"),
        r"Rows not in the ledger: 1 \(8\)\. Rows of the ledger missing: 1 \(7\)\.",
    ),
    "id without its zeros": (lambda t: replaced(t, "ID", 0, "7"), r"missing: 1 \(007\)\."),
    "id lost": (lambda t: replaced(t, "ID", 11, None), r"ledger: 1 \(\(without id\)\)\."),
    "ids swapped": (lambda t: swapped(t, "ID"), OUTLINE + r"2 \(12, 1e3\)"),
    "outlines moved": (lambda t: moved(t, 0, 12), OUTLINE + r"2 \(007, 12\.0\)"),
    "outline lost": (lambda t: replaced(t, "geometry", 0, None), OUTLINE + r"1 \(007\)"),
    "code": (lambda t: replaced(t, "code", 13, 3), OUTLINE + r"1 \(1e3\)"),
    "coordinate system": (
        lambda t: t.set_crs("EPSG:32632", allow_override=True),
        OUTLINE + r"14 \(007, 7, a b, x, \(without id\), \.\.\.\)",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_another_register_is_refused_with_its_differences(cleaned, tmp_path, change, suffix):
    table = make_register(IDS["text"])
    _, ledger, options = cleaned(table, suffix, id="ID")
    alter, words = CHANGES[change]
    other = write(alter(table), tmp_path / f"other{suffix}")
    words = rf"does not have the rows of the ledger.*{words}.*-R clean"
    with pytest.raises(InputError, match=words) as error:
        places_of(other, ledger, options, 4)
    assert str(other) in str(error.value)


def test_columns_that_no_stage_reads_may_change(cleaned, tmp_path):
    table = make_register(IDS["text"])
    _, ledger, options = cleaned(table, ".gpkg", id="ID")
    other = write(table.assign(mark="x", more=1), tmp_path / "other.gpkg")
    assert places_of(other, ledger, options, 4) == list(range(N))


def test_the_register_is_read_once_in_parts(cleaned, monkeypatch):
    register, ledger, options = cleaned(make_register(IDS["text"]), ".gpkg", id="ID")
    sizes = []

    def read(*arguments):
        for part in read_register_parts(*arguments):
            sizes.append(len(part[0]))
            yield part

    monkeypatch.setattr("pipeline.classes.register.read_register_parts", read)
    places_of(register, ledger, options, 4)
    assert sizes == [4, 4, 4, 2]
