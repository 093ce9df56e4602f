"""Text in other encodings: read where it is stated or certain, otherwise asked for by one message.

The oracle is the text that was encoded.
"""

import sqlite3
import zipfile

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shapely import box

from geo.errors import InputError
from geo.register.reading import (
    fiboa_columns,
    read_bounds,
    read_columns,
    read_named,
    read_register_parts,
)
from geo.register.tables import read_csv
from geo.register.text import stated_encoding
from tests.builders.registers import frame

TEXTS = ["Maïs", "blé", "wheat", None]
POLISH = ["żyto", "Łąka", "x", None]


def register(texts=TEXTS, column="Cödé"):
    ids = [f"p{i}" for i in range(len(texts))]
    return frame([box(i, 0, i + 1, 1) for i in range(len(texts))], ID=ids, **{column: texts})


def read_all(path, column="Cödé", **options):
    """Read the column in all ways; check that they are alike."""
    whole, ids = read_named(path, None, "ID", {"c": column}, **options)
    assert len(ids) == len(whole)
    table, _ = read_columns(path, None, "ID", {"c": column}, **options)
    parts = [part for part, _ in read_register_parts(path, None, "ID", {"c": column}, 3, **options)]
    for other in (table[column], pd.concat(parts)[column]):
        pd.testing.assert_series_equal(other, whole[column], check_dtype=False)
    assert read_bounds(path)
    assert fiboa_columns(path, None, **options) is None
    return whole[column].astype(object).where(whole[column].notna(), None).tolist()


def shapefile(folder, texts, encoding, cpg, language_driver, zipped=False):
    """Write a shapefile, and state its encoding in the .cpg file and in the table."""
    path = folder / "r.shp"
    register(texts).to_file(path, encoding=encoding)
    path.with_suffix(".cpg").unlink()
    if cpg is not None:
        path.with_suffix(".cpg").write_text(cpg)
    table = bytearray(path.with_suffix(".dbf").read_bytes())
    table[29] = language_driver
    path.with_suffix(".dbf").write_bytes(table)
    if not zipped:
        return path
    with zipfile.ZipFile(folder / "r.zip", "w") as archive:
        for file in folder.glob("r.*"):
            if file.suffix != ".zip":
                archive.write(file, f"2023/{file.name}")
    return folder / "r.zip"


SHAPEFILES = {
    # what is stated: (texts, encoding, content of .cpg, language driver)
    "UTF-8": (TEXTS, "utf-8", "UTF-8", 0),
    "UTF-8, nothing": (TEXTS, "utf-8", None, 0),
    "UTF-8, as Latin-1": (TEXTS, "utf-8", "ISO-8859-1", 0),
    "UTF-8, as ANSI": (TEXTS, "utf-8", None, 0x57),
    "UTF-8, unknown": (TEXTS, "utf-8", "klingon", 0),
    "65001": (POLISH, "utf-8", "65001", 0),
    "cpg": (POLISH, "cp1250", "CP1250", 0),
    "cpg, bare number": (POLISH, "cp1250", "1250", 0),
    "cpg, ANSI": (POLISH, "cp1250", "ANSI 1250\n", 0),
    "cpg, ISO": (TEXTS, "iso8859-1", "ISO 88591", 0x57),
    "table": (POLISH, "cp1250", None, 0xC8),
    "table, Windows": (["Maïs", "œillette", "5 €", None], "cp1252", None, 0x57),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("case", SHAPEFILES)
def test_shapefiles_are_read_in_the_encoding_that_they_state_or_have(tmp_path, case, zipped):
    path = shapefile(tmp_path, *SHAPEFILES[case], zipped=zipped)
    assert read_all(path) == SHAPEFILES[case][0]


UNSTATED = {
    "nothing": (TEXTS, "cp1252", None, 0),
    "nothing, Polish": (POLISH, "cp1250", None, 0),
    "wrong": (TEXTS, "cp1252", "UTF-8", 0),
    "wrong, Polish": (POLISH, "cp1250", "65001", 0x57),
}


@pytest.mark.parametrize("case", UNSTATED)
def test_shapefiles_in_an_unknown_encoding_are_read_by_the_setting(tmp_path, case):
    texts, encoding, *_ = UNSTATED[case]
    path = shapefile(tmp_path, *UNSTATED[case])
    words = r"r\.shp: column 2: 'C\\xf6d\\xe9' is not text in utf-8\. It is 'Cödé' in cp1252"
    with pytest.raises(InputError, match=f"{words}.*Set parcels.encoding"):
        read_all(path)
    assert read_all(path, encoding=encoding) == texts


def test_the_encoding_of_windows_is_assumed_with_a_warning(tmp_path, caplog):
    path = shapefile(tmp_path, TEXTS, "cp1252", None, 0x57)
    assert read_named(path, None, "ID", {})[0]["Cödé"][0] == "Maïs"
    (record,) = caplog.records
    assert (
        "It is read in cp1252, as 'Maïs': if that is wrong, set parcels.encoding" in record.message
    )


def test_the_setting_is_for_text_that_is_not_utf8(tmp_path, caplog):
    """A setting for a table of names leaves a shapefile in UTF-8 alone, and is said otherwise."""
    path = shapefile(tmp_path, TEXTS, "utf-8", "UTF-8", 0)
    assert read_all(path, encoding="cp1252") == TEXTS
    assert not caplog.records
    path = shapefile(tmp_path, TEXTS, "cp1252", "1250", 0)
    assert read_named(path, None, "ID", {}, "cp1252")[0]["Cödé"][0] == "Maïs"
    (record,) = caplog.records
    words = "r.shp states the encoding cp1250, but is read in parcels.encoding, cp1252, as 'Maïs'"
    assert words in record.message


@pytest.mark.parametrize(
    ("cpg", "driver", "expected"),
    [
        ("UT\0-8", 0, None),  # damaged
        ("zlib", 0, None),  # not of text
        (None, 0, None),
        ("UTF-8", 0x03, "utf-8"),
        (" utf8\r\n", 0, "utf-8"),
        ("ISO-8859-2", 0, "iso8859-2"),
        ("8859-15", 0, "iso8859-15"),
        ("windows-1251", 0, "cp1251"),
        ("OEM 850", 0, "cp850"),
        ("936", 0, "gbk"),
        ("Big5", 0, "big5"),
        ("", 0xC9, None),
        (None, 0xC9, "cp1251"),
        ("99999", 0, None),
    ],
)
def test_stated_encodings(cpg, driver, expected):
    assert stated_encoding(cpg, driver) == expected


def spoil(path, good, bad):
    content = path.read_bytes()
    assert content.count(good) == 1
    path.write_bytes(content.replace(good, bad))


def spoiled(folder, suffix):
    """Write a register in which one value of UTF-8 is in Windows-1252 instead."""
    path = folder / f"r{suffix}"
    table = register()
    if suffix == ".parquet":
        table.to_parquet(path, compression="NONE")
        whole = pq.read_table(path)
        values = pa.array([None if v is None else v.encode() for v in TEXTS]).to_pylist()
        values[0] = "Maïs".encode("cp1252")
        binary = pa.array(values, pa.binary())
        column = pa.Array.from_buffers(pa.string(), len(values), binary.buffers())
        pq.write_table(whole.set_column(1, "Cödé", column), path)
    elif suffix == ".gpkg":
        table.to_file(path, SPATIAL_INDEX="NO")
        database = sqlite3.connect(path)
        database.execute("UPDATE r SET \"Cödé\" = CAST(x'4D61EF73' AS TEXT) WHERE fid = 1")
        database.commit()
        database.close()
    else:
        table.to_file(path)
        spoil(path, "Maïs".encode(), "Maïs".encode("cp1252") + b"!" * (suffix == ".fgb"))
    return path


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".parquet"])
def test_one_value_that_is_not_utf8_is_named_and_read_by_the_setting(tmp_path, suffix):
    path = spoiled(tmp_path, suffix)
    words = rf"r{suffix}: row \d, column 'Cödé': 'Ma\\xefs!?' is not text in utf-8.*'Maïs!?' in"
    with pytest.raises(InputError, match=words):
        read_all(path)
    found = read_all(path, encoding="cp1252")
    expected = ["Maïs!" if suffix == ".fgb" else "Maïs", *TEXTS[1:]]
    assert sorted(map(str, found)) == sorted(map(str, expected))


def test_the_row_of_a_later_part_is_named(tmp_path):
    texts = ["a"] * 5 + ["Maïs"]
    path = shapefile(tmp_path, texts, "cp1252", None, 0)
    # The name of the column is read first.
    path.with_suffix(".dbf").write_bytes(
        path.with_suffix(".dbf").read_bytes().replace("Cödé".encode("cp1252"), b"Code")
    )
    parts = read_register_parts(path, None, "ID", {}, 2)
    with pytest.raises(InputError, match=r"row 6, column 'Code': 'Ma\\xefs'"):
        list(parts)


POINTS = "ID;lon;lat;crop\r\n1;3,5;36,25;Maïs\r\n002;4;37;x\r\n"


@pytest.mark.parametrize("first", ["", "sep=;\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_points_of_tables_in_any_unicode_are_read(tmp_path, encoding, first):
    path = tmp_path / "points.csv"
    path.write_bytes((first + POINTS).encode(encoding))
    table, ids = read_named(path, None, "ID", {"c": "crop"})
    assert ids.tolist() == ["1", "002"]
    assert table["crop"].tolist() == ["Maïs", "x"]
    assert [(p.x, p.y) for p in table.geometry] == [(3.5, 36.25), (4, 37)]
    assert read_bounds(path) == (3.5, 36.25, 4, 37)


def test_points_of_a_table_in_another_encoding_are_read_by_the_setting(tmp_path):
    path = tmp_path / "points.csv"
    path.write_bytes(POINTS.encode("cp1252"))
    words = r"points\.csv: row 1, column 'crop': 'Ma\\xefs' is not text in utf-8.*parcels\.encoding"
    with pytest.raises(InputError, match=words):
        read_named(path, None, "ID", {})
    table, _ = read_named(path, None, "ID", {}, "cp1252")
    assert table["crop"].tolist() == ["Maïs", "x"]


def test_geojson_in_utf_16_is_read(tmp_path):
    register().to_file(tmp_path / "r.geojson")
    text = (tmp_path / "r.geojson").read_text(encoding="utf-8")
    (tmp_path / "r.geojson").write_text(text, encoding="utf-16")
    assert read_all(tmp_path / "r.geojson") == TEXTS


TABLE = [("code", "name"), ("001", "Maïs"), ("2", "żyto, Łąka"), ("3", "a;b")]


def csv_text(separator):
    rows = [[f'"{v}"' if set(v) & set(",;\t|") else v for v in row] for row in TABLE]
    return "".join(separator.join(row) + "\r\n" for row in rows)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_tables_of_any_separator_in_unicode_are_read(tmp_path, separator, encoding):
    path = tmp_path / "names.csv"
    path.write_bytes(csv_text(separator).encode(encoding))
    columns, rows = read_csv(path, "a table", "code")
    assert columns == list(TABLE[0])
    assert [tuple(row.values()) for row in rows] == TABLE[1:]


def test_a_first_line_of_excel_states_the_separator(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text("sep=;\n code ; name,x\n1;a\n\n;\n2\n")
    assert read_csv(path, "a table", "code") == (
        ["code", "name,x"],
        [{"code": c, "name,x": n} for c, n in (("1", "a"), ("", ""), ("2", ""))],
    )


@pytest.mark.parametrize(("encoding", "other"), [("cp1252", "cp1250"), ("cp1250", "cp1252")])
def test_tables_in_other_encodings_are_read_by_the_setting(tmp_path, encoding, other):
    path = tmp_path / "names.csv"
    text = "code;name\n1;wheat\n2;Maďs\n" if encoding == "cp1250" else "code;name\n1;x\n2;Maïs\n"
    path.write_bytes(text.encode(encoding))
    words = r"names\.csv: line 3, column 'name': 'Ma\\xefs' is not text in utf-8. It is 'Maïs' in "
    with pytest.raises(InputError, match=f"{words}cp1252 .*'Maďs' in cp1250.*parcels.encoding"):
        read_csv(path, "a table", "code")
    found = read_csv(path, "a table", "code", encoding)[1][1]["name"]
    assert found == {"cp1252": "Maïs", "cp1250": "Maďs"}[encoding]
    # A table in UTF-8 is read whatever the setting is.
    path.write_text(text, encoding="utf-8")
    assert read_csv(path, "a table", "code", other)[1][1]["name"] == found


def test_a_setting_that_is_wrong_is_refused(tmp_path):
    path = tmp_path / "names.csv"
    path.write_bytes(b"code,name\n1,Ma\x81\n")
    with pytest.raises(InputError, match=r"'Ma\\x81' is not text in utf-8 or cp1252\. .*'MaЃ'"):
        read_csv(path, "a table", "code", "cp1252")
