"""Every column that clean accepts is written by predict: any name, type and number.

A register goes through clean, is read again in parts of two rows, and is written. The oracle is
the list of values that it was made of.
"""

import datetime as dt
import json
import sqlite3
from dataclasses import asdict
from decimal import Decimal

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from geo.errors import InputError
from geo.grid import Grid
from geo.register.columns import with_codes
from pipeline.classes.register import matched_parts
from pipeline.predictions.columns import COLUMNS, with_register
from pipeline.stages.clean import clean
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import RunPaths
from tests.builders.predictions import write_predictions

GRID = Grid("EPSG:32631", 500000.0, 4000000.0, 10.0, 10.0, 60, 60)
N = 6


def base(**columns):
    x = 500000 + 40 * np.arange(N)
    outlines = shapely.box(x, 3999900, x + 30, 3999990)
    own = {"ID": [f"p{i}" for i in range(N)], "code": list("ababab"), **columns}
    return gpd.GeoDataFrame(own, geometry=outlines, crs=GRID.crs)


def parquet(path, columns):
    """Write a register with columns of Arrow, which pandas knows nothing of."""
    base().to_parquet(path)
    table = pq.read_table(path)
    for name, values in columns:
        table = table.append_column(name, values)
    metadata = {b"geo": table.schema.metadata[b"geo"]}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def through(path, folder, n_rows=2, **parcels):
    """Clean a register, read it in parts, and write its predictions; return the GeoPackage."""
    grids = folder / "grids.json"
    grids.write_text(json.dumps({"T": asdict(GRID)}))
    options = {"labels": {"crop": "code"}, "classes": {"min_parcels": 2}, "id": "ID", **parcels}
    settings = load({"split": {"folds": 2}, "parcels": options})
    run = RunPaths(folder)
    clean(path, grids, run.register, run.overlaps, run.parcels, view(settings, "clean"))
    rows = pd.read_parquet(run.register)
    column = settings.parcels.labels["crop"].column
    checksums = with_codes(rows["checksum"].to_numpy(), [rows[f"register:{column}"]])
    ledger = rows.assign(checksum=checksums)
    parts = []
    for part, places in matched_parts(path, ledger, settings.parcels, n_rows):
        predicted = pd.DataFrame(dict.fromkeys(COLUMNS, ""), part.index)
        predicted["parcel_id"] = ledger["parcel_id"].to_numpy()[places]
        parts.append(with_register(predicted, part))
    return write_predictions(folder, parts)


def read(path):
    """Read the three tables of predictions: GeoPackage, Parquet, CSV."""
    layer = gpd.read_file(path, layer="parcels").drop(columns="geometry")
    table = pd.read_parquet(path.with_suffix(".parquet"))
    text = pd.read_csv(path.with_suffix(".csv"), dtype=str, keep_default_na=False)
    assert len(layer) == len(table) == len(text) == N
    return layer, table, text


def plain(column):
    return column.astype(object).where(column.notna(), None).tolist()


def late(*values):
    """Put values into the last rows, so that the first part of two rows has none."""
    return [None] * (N - len(values)) + list(values)


DAY = dt.date(2020, 2, 29)
# {name: (column, values in the CSV, values in the GeoPackage if they are others)}
TYPES = {
    "int8": (pa.array(late(1, 2), pa.int8()), ["1", "2"], [1, 2]),
    "uint32": (pa.array(late(2**32 - 1), pa.uint32()), ["4294967295"], [2**32 - 1]),
    "uint64": (pa.array(late(2**64 - 1, 2**53 + 1), pa.uint64()), [str(2**64 - 1), str(2**53 + 1)]),
    "half": (pa.array(late(np.float16(1.5)), pa.float16()), ["1.5"], [1.5]),
    "infinite": (pa.array(late(float("inf"))), ["inf"], [float("inf")]),
    "decimal": (pa.array(late(Decimal("1.25")), pa.decimal128(10, 2)), ["1.25"], [1.25]),
    "wide": (pa.array(late(Decimal("1" * 25)), pa.decimal128(38, 2)), ["1" * 25 + ".00"]),
    "wider": (pa.array(late(Decimal("1.25")), pa.decimal256(40, 2)), ["1.25"]),
    "duration": (pa.array(late(dt.timedelta(1)), pa.duration("us")), ["1 days 00:00:00"]),
    "time": (pa.array(late(dt.time(1, 2)), pa.time32("s")), ["01:02:00"]),
    "day": (pa.array(late(DAY), pa.date32()), ["2020-02-29"], [pd.Timestamp(DAY)]),
    "first day": (pa.array(late(dt.date(1, 1, 1)), pa.date64()), ["0001-01-01"], ...),
    "last": (pa.array(late(dt.datetime(9999, 12, 31)), pa.timestamp("us")), ["9999-12-31"], ...),
    "zone": (
        pa.array(late(dt.datetime(2020, 7, 1), dt.datetime(2020, 1, 1)), pa.timestamp("s", "CET")),
        ["2020-07-01 02:00:00+02:00", "2020-01-01 01:00:00+01:00"],
        [pd.Timestamp("2020-07-01", tz="UTC"), pd.Timestamp("2020-01-01", tz="UTC")],
    ),
    "category": (pa.array(late("x", "y")).dictionary_encode(), ["x", "y"]),
    "bytes": (pa.array(late(b"\x00a"), pa.large_binary()), ["b'\\x00a'"], [b"\x00a"]),
    "fixed": (pa.array(late(b"ab"), pa.binary(2)), ["b'ab'"], [b"ab"]),
    "list": (pa.array(late([1, 2], [])), ["[1, 2]", "[]"]),
    "texts": (pa.array(late(["é", None])), ['["\\u00e9", null]']),
    "struct": (pa.array(late({"a": 1, "d": DAY})), ['{"a": 1, "d": "2020-02-29"}']),
    "map": (pa.array(late([("a", 1)]), pa.map_(pa.string(), pa.int64())), ['[["a", 1]]']),
    "lists of bytes": (pa.array(late([b"\xff"])), ['["ff"]']),
    "nothing": (pa.nulls(N), []),
    "truth": (pa.array(late(True, False)), ["True", "False"], [True, False]),
    "view": (pa.array(late("a"), pa.string_view()), ["a"]),
    "long": (pa.array(late("x" * 100_000)), ["x" * 100_000]),
}  # fmt: skip


def test_columns_of_every_type_are_written(tmp_path):
    columns = [(name, values) for name, (values, *_) in TYPES.items()]
    layer, table, text = read(through(parquet(tmp_path / "r.parquet", columns), tmp_path))
    for name, (values, as_text, *others) in TYPES.items():
        empty = [""] * (N - len(as_text))
        assert text[name].tolist() == empty + as_text, name
        assert table[name].notna().tolist() == values.is_valid().to_pylist(), name
        found = plain(layer[name])
        if others == [...]:  # years that only this reader knows
            assert str(found[-1].date()) == as_text[0], name
        else:
            assert found == late(*(others[0] if others else as_text)), name


def test_columns_of_every_type_of_geojson_are_written(tmp_path):
    """Lists, objects, and values that are JSON in some rows only."""
    columns = {
        "numbers": late([1, 2], [3]),
        "texts": late(["é"], []),
        "object": late({"a": [1, {"b": None}]}),
        "mixed": [1, "x", None, {"a": 2}, [1], 2.5],
        "time": late("12:30:00"),
        "day": late("2020-02-29"),
        "zones": late("2020-01-01T10:00:00+02:00", "2020-07-01T10:00:00+01:00"),
        "large": late(2**60 + 1),
    }
    written = json.loads(base().to_json())
    for i, feature in enumerate(written["features"]):
        feature["properties"] |= {name: values[i] for name, values in columns.items()}
    written["crs"] = {"type": "name", "properties": {"name": "EPSG:32631"}}
    (tmp_path / "r.geojson").write_text(json.dumps(written))
    layer, table, text = read(through(tmp_path / "r.geojson", tmp_path))
    for found in (layer, table):
        for name in ("numbers", "texts", "object"):
            parsed = [None if v is None else json.loads(v) for v in plain(found[name])]
            assert parsed == columns[name]
        assert plain(found["mixed"]) == ["1", "x", None, '{"a": 2}', "[1]", "2.5"]
        days = pd.to_datetime(pd.Series(plain(found["zones"])), utc=True)
        assert days.dropna().tolist() == [pd.Timestamp(t) for t in columns["zones"][-2:]]
    assert text["time"].tolist()[-1] == "12:30:00"
    assert text["day"].tolist()[-1] == "2020-02-29"
    assert text["large"].tolist()[-1] == str(2**60 + 1)


@pytest.mark.parametrize("ending", ["gpkg", "parquet", "geojson"])
def test_truths_can_be_codes_and_some_are_missing(tmp_path, ending):
    """Whole and in parts, they are the same text: the rows would not be those of the ledger."""
    path = tmp_path / f"r.{ending}"
    register = base(code=pd.array([True, False, True, False, None, None], "boolean"))
    register.to_parquet(path) if ending == "parquet" else register.to_file(path)
    layer, _, _ = read(through(path, tmp_path))
    assert plain(layer["code"]) == [True, False, True, False, None, None]


@pytest.mark.parametrize("ending", ["gpkg", "shp", "geojson"])
def test_a_column_can_have_the_name_that_outlines_have(tmp_path, ending):
    texts = [f"surveyed {i}" for i in range(N)]
    register = base().rename_geometry("outline").assign(geometry=texts)
    if ending != "gpkg":  # in which outlines have this name
        register["geom"] = texts
    register.to_file(tmp_path / f"r.{ending}")
    package = through(tmp_path / f"r.{ending}", tmp_path)
    assert pd.read_parquet(package.with_suffix(".parquet"))["geometry"].tolist() == texts
    columns = gpd.read_file(package, layer="parcels", ignore_geometry=True)
    assert columns["geometry"].tolist() == texts
    found = gpd.read_file(package, layer="parcels").geometry
    assert found.normalize().geom_equals_exact(base().normalize(), 1e-6).all()


@pytest.mark.parametrize("crs", ["EPSG:4326+5773", "EPSG:4979"])
def test_heights_of_the_coordinate_system_are_dropped(tmp_path, crs):
    register = base().to_crs(4326).set_crs(crs, allow_override=True)
    register.to_parquet(tmp_path / "r.parquet")
    package = through(tmp_path / "r.parquet", tmp_path)
    found = gpd.read_file(package, layer="parcels")
    assert found.crs == "EPSG:4326"
    assert found.geometry.geom_equals_exact(base().to_crs(4326).geometry, 1e-9).all()


def test_blobs_of_a_geopackage_are_written(tmp_path):
    base().to_file(tmp_path / "r.gpkg", layer="r", SPATIAL_INDEX="NO")
    added = {"blob": ("BLOB", b"\x00\xff"), "small": ("TINYINT", 3)}
    with sqlite3.connect(tmp_path / "r.gpkg") as database:
        for name, (kind, value) in added.items():
            database.execute(f"ALTER TABLE r ADD COLUMN {name} {kind}")
            database.execute(f"UPDATE r SET {name} = ? WHERE fid = 5", (value,))  # noqa: S608
    database.close()
    layer, table, _ = read(through(tmp_path / "r.gpkg", tmp_path))
    assert plain(layer["blob"]) == plain(table["blob"]) == [None] * 4 + [b"\x00\xff", None]
    assert plain(table["small"]) == [None] * 4 + [3, None]


RENAMED = ["geom", "GEOM", "fid", "FID", "Id", "Parcel_ID", "STATUS", "Geometry", "", "tile"]
KEPT = [
    *("ogc_fid", "rowid", "_rowid_", "oid", "x" * 200, 'a"b', "a'b", "a\tb", "a\nb", "\x01", "a;b"),
    *("a,b", "select", "a.b/c", "%s", "{x}", "é", "e\u0301", "row", "checksum", " "),
    *("register_x", "__index_level_0__", "register:y"),
]


def test_columns_of_any_name_are_written_and_other_names_said(tmp_path, caplog):
    names = [*RENAMED, *KEPT]
    path = parquet(tmp_path / "r.parquet", [(name, pa.array([name] * N)) for name in names])
    written = through(path, tmp_path)
    expected = {name: f"register_{name}" for name in RENAMED} | {name: name for name in KEPT}
    # Another column has the name in another case.
    expected |= {name: f"register_{name}_2" for name in ("GEOM", "FID")}
    layer, table, text = read(written)
    for found in (layer, table, text):
        assert list(found.columns) == [*COLUMNS, "ID", "code", *expected.values()]
        for name, renamed in expected.items():
            assert set(found[renamed]) == {name}
    (record,) = [r for r in caplog.records if "other names" in r.message]
    assert "10 columns of the register have other names in the predictions" in record.message
    assert "'geom' as 'register_geom', 'GEOM' as 'register_GEOM_2', " in record.message


def test_predictions_are_a_register_again_and_again(tmp_path):
    path = through(parquet(tmp_path / "r.parquet", []), tmp_path)
    for i in range(2):
        folder = tmp_path / str(i)
        folder.mkdir()
        path = through(path, folder, id="parcel_id")
        layer, _, _ = read(path)
        assert layer["parcel_id"].tolist() == [f"p{i}" for i in range(N)]
    assert {"register_parcel_id", "register_register_parcel_id"} < set(layer.columns)


@pytest.mark.slow
def test_columns_that_a_geopackage_cannot_hold_are_in_the_other_tables(tmp_path, caplog):
    """SQLite has at most 2,000, with those of the predictions, feature ids, outlines, ID, code."""
    kept = 2000 - len(COLUMNS) - 4
    n = kept + 3
    columns = [(f"c{i}", pa.array([i] * N)) for i in range(n)]
    path = through(parquet(tmp_path / "r.parquet", columns), tmp_path, n_rows=N)
    layer, table, text = read(path)
    assert list(layer.columns) == [*COLUMNS, "ID", "code", *(f"c{i}" for i in range(kept))]
    assert table.columns[-1] == text.columns[-1] == f"c{n - 1}"
    assert text[f"c{n - 1}"].tolist() == [str(n - 1)] * N
    assert f"{n - kept} columns of the register are not in" in caplog.text
    assert f"beside it: c{kept}, c{kept + 1}, c{kept + 2}\n" in caplog.text


REFUSED = {
    "two of one name": (
        [("a", pa.array(["x"] * N)), ("a", pa.array(["y"] * N))],
        r"r\.parquet has several columns of the same name: a\. Rename them",
    ),
    "a far date": (
        [("end", pa.array(late(2**60), pa.timestamp("us")))],
        r"row 6, column 'end' is 38504-08-17T21:30:06, .*years 1 to 9999\. Correct it",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_columns_that_no_table_can_hold_are_refused_in_clean(tmp_path, case):
    columns, words = REFUSED[case]
    with pytest.raises(InputError, match=words):
        through(parquet(tmp_path / "r.parquet", columns), tmp_path)
    assert not RunPaths(tmp_path).register.exists()
