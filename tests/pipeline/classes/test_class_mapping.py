"""From codes to classes: tables of codes, several nomenclatures, HCAT levels, the class `other`."""

import json
from pathlib import Path

import pandas as pd
import pytest

from geo.errors import InputError
from pipeline.classes.class_mapping import read_declared
from pipeline.stages.ingest import ingest
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.sections.parcels import Label
from tests.builders.paths import DATA
from tests.builders.pixel_sets import BANDS, CLASSES, make
from tests.builders.registers import Run, simple
from tests.builders.runs import opened

REGISTERS = DATA / "registers"

TABLE = """code,name,class,class_name,hcat,hcat_name
1,winter wheat,10,cereals,3301010101,winter_common_soft_wheat
02,spring wheat,10,cereals,3301010102,spring_common_soft_wheat
3,rapeseed,20,oil crops,3301060400,rapeseed_rape
4,wheat,10,cereals,3301010100,common_soft_wheat
9,not farmed,,,,
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "crops.csv").write_text(TABLE)
    return Run(tmp_path)


def label(run, **over):
    return {"column": "CODE", "table": run.folder / "crops.csv", **over}


CODES = ["1", "02", "3", "3", "9", None, "1"]


def test_a_table_maps_codes_to_classes_with_names(run):
    run(simple(CODES), labels={"crop": label(run)}, classes={"min_parcels": 2})
    assert run.column("declared") == ["1", "02", "3", "3", "9", "", "1"]
    assert run.column("code") == ["10", "10", "20", "20", "", "", "10"]
    assert run.column("reason") == ["", "", "", "", "no_label", "no_label", ""]
    assert [(c["code"], c["name"], c["n_parcels"]) for c in run.classes] == [
        ("10", "cereals", "3"),
        ("20", "oil crops", "2"),
    ]


def test_without_a_class_column_the_codes_are_classes(run):
    (run.folder / "crops.csv").write_text("code,name\n1,wheat\n02,rye\n3,rape\n9,fallow\n")
    run(simple(CODES), labels={"crop": label(run)}, classes={"min_parcels": 2})
    assert [(c["code"], c["name"]) for c in run.classes] == [
        *(("1", "wheat"), ("3", "rape"), ("02", "rye"), ("9", "fallow")),
    ]


def test_several_nomenclatures_side_by_side(run):
    labels = {
        "code": "CODE",
        "crop": label(run, class_code="code", class_name="name"),
        "group": label(run),
        "hcat": label(run, class_code="hcat", class_name="hcat_name", hcat_level=5),
        "division": label(run, class_code="hcat", class_name="hcat_name", hcat_level=3),
    }
    run(simple(CODES), labels=labels, nomenclature="hcat", classes={"min_parcels": 2})
    wheat, rape = "3301010100", "3301060400"
    assert run.column("code") == [wheat, wheat, rape, rape, "", "", wheat]
    # The name is that of the cut code.
    assert [(c["code"], c["name"]) for c in run.classes] == [
        (wheat, "common_soft_wheat"),
        (rape, "rapeseed_rape"),
    ]
    by_name = {name: list(run.labels[name].values()) for name in labels}
    assert by_name["code"] == ["1", "02", "3", "3", "9", None, "1"]
    assert by_name["crop"] == by_name["code"]
    assert by_name["group"] == ["10", "10", "20", "20", None, None, "10"]
    assert by_name["division"] == [*["3301000000"] * 4, None, None, "3301000000"]


def test_the_register_can_contain_the_names(run):
    register = simple([1, 2, 1, 2, None, None], NAME=["blé", None, "ble", "maïs", "?", ""])
    crop = {"column": "CODE", "class_name": "NAME"}
    run(register, labels={"crop": crop}, classes={"min_parcels": 2})
    assert [(c["code"], c["name"]) for c in run.classes] == [("1", "blé"), ("2", "maïs")]
    (run.folder / "names.csv").write_text("code,name\n2,maize\n")
    names = run.folder / "names.csv"
    run(register, labels={"crop": crop}, classes={"min_parcels": 2}, names=names)
    assert [c["name"] for c in run.classes] == ["blé", "maize"]


@pytest.mark.parametrize(
    ("codes", "names", "words"),
    [
        (
            ["001", "002"] * 2,
            "code,name\n1,wheat\n",
            r"such as '001', '002'; it has '1'. Write '1' as",
        ),
        ([1, 2] * 2, "code,name\n01,wheat\n", r"such as '1', '2'; it has '01'. Write '01' as '1'"),
        ([1, 2] * 2, "code,name\n1.0,wheat\n", r"it has '1.0'. Write '1.0' as '1' there"),
        (["MAÏS", "B"] * 2, "code,name\nmai\u0308s,maize\n", r"it has 'mai\u0308s'. Write 'mai"),
        (["a", "b"] * 2, "code,name\nx,wheat\n", r"it has 'x'. Correct its column code"),
        (["a", "b"] * 2, "code,name\n", r"it has none. Correct its column code"),
    ],
)
def test_names_of_other_codes_are_refused(run, codes, names, words):
    path = run.folder / "names.csv"
    path.write_text(names, encoding="utf-8")
    with pytest.raises(
        InputError, match=f"names\\.csv has none of the 2 declared codes, .*{words}"
    ):
        run(simple(codes), labels={"crop": "CODE"}, classes={"min_parcels": 2}, names=path)
    assert not run.paths.register.exists()


def test_one_setting_reads_register_table_and_names(run):
    """All three are in Windows-1250."""
    (run.folder / "crops.csv").write_bytes("code;class\nżyto;r\nryż;q\n".encode("cp1250"))
    (run.folder / "names.csv").write_bytes("code\tname\nr\tRoż\nq\tŁąka\n".encode("cp1250"))
    path = run.folder / "r.shp"
    simple(["żyto", "ryż"] * 2).to_file(path, encoding="cp1250")
    path.with_suffix(".cpg").unlink()
    options = {"labels": {"crop": label(run)}, "names": run.folder / "names.csv"}
    options |= {"classes": {"min_parcels": 2}, "encoding": "cp1250"}
    run(path, **options)
    assert run.column("declared") == ["żyto", "ryż"] * 2
    assert [(c["code"], c["name"]) for c in run.classes] == [("q", "Łąka"), ("r", "Roż")]
    options["encoding"] = None
    with pytest.raises(
        InputError, match=r"r\.shp: row 1, column 'CODE': '\\xbfyto' is not text in"
    ):
        run(path, **options)
    simple(["żyto", "ryż"] * 2).to_file(path, encoding="utf-8")
    with pytest.raises(InputError, match=r"crops\.csv: line 2, column 'code': '\\xbfyto' is not"):
        run(path, **options)
    (run.folder / "crops.csv").write_text("code;class\nżyto;r\nryż;q\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"names\.csv: line 2, column 'name': 'Ro\\xbf' is not"):
        run(path, **options)


def test_codes_that_only_differ_in_writing_are_said(run, caplog):
    codes = ["1", "01", "1.0", "Wheat", "wheat", "2", None]
    run(simple(codes), labels={"crop": "CODE"}, classes={"min_parcels": 2}, weights=run.folder)
    assert (
        "differ in how they are written: '01' and '1' and '1.0', 'Wheat' and 'wheat'."
        in caplog.text
    )


UNKNOWN = ["1", "1", "3", "3", "x", "y", "x", "2"]


def test_unknown_codes_are_refused_with_their_parcels(run):
    words = (
        r"crops\.csv lacks 3 codes of column 'CODE'.*'x' \(2 parcels\), 'y' \(1 parcels\), "
        r"'2' \(1 parcels\)\. It has '02': write codes alike.*parcels\.unknown_codes"
    )
    with pytest.raises(InputError, match=words):
        run(simple(UNKNOWN), labels={"crop": label(run)})


def test_unknown_codes_of_rejected_parcels_are_accepted(run):
    register = simple(["1", "1", "3", "3", "x"])
    register.loc[4, "geometry"] = None
    run(register, labels={"crop": label(run)}, classes={"min_parcels": 2})
    assert (run.column("code")[4], run.column("declared")[4]) == ("", "x")


def test_unknown_codes_can_be_unlabelled_or_other(run):
    options = {"labels": {"crop": label(run)}, "classes": {"min_parcels": 2}}
    run(simple(UNKNOWN), unknown_codes="unlabelled", **options)
    assert run.column("code") == ["10", "10", "20", "20", "", "", "", ""]
    assert run.column("reason")[4:] == ["no_label"] * 4
    run(simple(UNKNOWN), unknown_codes="other", other_class=99, **options)
    assert run.column("code") == ["10", "10", "20", "20", *["99"] * 4]
    assert run.column("declared") == UNKNOWN
    assert [c["code"] for c in run.classes] == ["10", "20", "99"]


def test_rare_classes_become_other(run):
    run(simple(list("AABBCD")), labels={"c": "CODE"}, classes={"min_parcels": 2}, other_class="X")
    assert run.column("code") == list("AABBXX")
    assert run.column("declared") == list("AABBCD")
    assert run.column("status") == ["used"] * 6
    assert [(c["code"], c["n_parcels"]) for c in run.classes] == [
        ("A", "2"),
        ("B", "2"),
        ("X", "2"),
    ]
    assert list(run.labels["c"].values()) == list("AABBXX")
    # The class `other` may be too rare itself.
    run(simple(list("AABBC")), labels={"c": "CODE"}, classes={"min_parcels": 2}, other_class="X")
    assert run.column("reason") == ["", "", "", "", "class_too_rare"]


def test_other_beside_listed_classes(run):
    codes = [12, 3, 12, 3, 7, 8]
    options = {"labels": {"c": "CODE"}}
    run(simple(codes), classes=[12, 3], other_class=0, **options)
    assert [c["code"] for c in run.classes] == ["12", "3", "0"]
    run(simple(codes), classes=[0, 12, 3], other_class=0, **options)
    assert [c["code"] for c in run.classes] == ["0", "12", "3"]
    run(simple(codes), classes=[12, 3], other_class="other", **options)
    assert [c["code"] for c in run.classes] == ["12", "3", "other"]
    assert set(run.labels["c"].values()) == {"12", "3", "other"}
    run(simple(codes[:4]), classes=[12, 3], other_class=0, **options)
    assert [c["code"] for c in run.classes] == ["12", "3"]
    with pytest.raises(InputError, match=r"write them like that"):
        run(simple(list("1122")), classes=[1, 2], other_class="other", **options)


REFUSED = [
    ({"table": Path("nowhere.csv")}, "", r"no table of codes nowhere\.csv.*labels\.crop\.table"),
    ({"code": "Code"}, TABLE, r"no column 'Code'.*labels\.crop\.code.*code, name, class"),
    ({"class_code": "group"}, TABLE, r"no column 'group'.*labels\.crop\.class_code"),
    ({"class_name": "group"}, TABLE, r"no column 'group'.*labels\.crop\.class_name"),
    ({}, "cod;name\n1;wheat\n", r"separated by commas, semicolons or tabs, are: cod;name"),
    ({}, "", r"separated by commas, semicolons or tabs, are: none"),
    ({}, "code,name\n1,wheat, hard\n", r"crops\.csv: line 2 has 3 values, .* 2 columns \(code"),
    ({}, "code,name,code\n1,wheat,2\n", r"crops\.csv has two columns 'code'"),
    ({}, "code,name,name\n1,a,b\n", r"crops\.csv has two columns 'name'.*labels\.crop\.class_name"),
    ({}, "# crops\ncode,name\n1,a\n", r"no column 'code'.*tabs, are: # crops"),
    ({}, "PK\3\4.", r"crops\.csv is not a table of codes: it is not text, but a spreadsheet"),
    ({}, "code,class\n1,a\n1,b\n2,a\n2,a\n", r"more than one class for 1 codes: '1'"),
    ({"hcat_level": 4}, TABLE, r"hcat_level is set, but 2 classes are not HCAT codes.*'10', '20'"),
]


@pytest.mark.parametrize(("over", "text", "words"), REFUSED, ids=range(len(REFUSED)))
def test_unusable_tables_are_refused(run, over, text, words):
    (run.folder / "crops.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        run(simple(CODES), labels={"crop": label(run, **over)})


REFUSED_SETTINGS = [
    ({"labels": {"crop": {"column": "CODE", "code": "c"}}}, r"labels\.crop.*set table"),
    ({"labels": {"crop": {"column": "CODE", "hcat_level": 7}}}, r"labels\.crop\.hcat_level"),
    ({"labels": {"crop": {"colum": "CODE"}}}, r"colum: unknown setting; did you mean 'column'"),
    ({"unknown_codes": "other"}, r"set other_class"),
    ({"unknown_codes": "ignore"}, r"parcels\.unknown_codes"),
    ({"min_covered_fraction": 1.5}, r"parcels\.min_covered_fraction"),
    ({"duplicate_ids": "drop"}, r"parcels\.duplicate_ids"),
]


@pytest.mark.parametrize(("parcels", "words"), REFUSED_SETTINGS, ids=range(len(REFUSED_SETTINGS)))
def test_unusable_settings_are_refused(parcels, words):
    with pytest.raises(InputError, match=words):
        load({"parcels": parcels})


def test_other_in_an_existing_dataset(tmp_path):
    make(tmp_path / "given")
    listed = list(CLASSES)[:2]
    settings = load(
        {
            "dataset": {
                "path": tmp_path / "given", "bands": BANDS, "classes": listed,
                "other_class": "other",
            },
            "split": {"folds": 2},
        }
    )  # fmt: skip
    run = RunPaths(tmp_path / "run")
    source = settings.dataset.path
    ingest([source], run.dataset.root, run.ledger, run.classes, view(settings, "ingest"))
    assert [c.code for c in opened(run).classes] == [*listed, "other"]
    nomenclature = opened(run).nomenclature
    labels = json.loads(run.dataset.labels.read_text())[nomenclature]
    given = json.loads((source / "META" / "labels.json").read_text())[nomenclature]
    assert labels == {i: c if c in listed else "other" for i, c in given.items()}


def hcat(code, **over):
    return {"code": code, "class_code": "HCAT3_code", "class_name": "HCAT3_name", **over}


EUROCROPS = [
    # folder, column of the register, column of the table, table
    ("be_vlg", "GWSCOD_H", "original_code", "be_vlg_2021.csv"),
    ("at", "SNAR_BEZEICHNUNG", "original_name", "at_2021.csv"),
    ("dk", "Afgkode", "original_code", "dk_2019.csv"),
    ("ec_ro", "LC_MAPCODE", "original_code", "ro_no_year.csv"),
]


@pytest.mark.parametrize(("folder", "column", "code", "file"), EUROCROPS)
def test_tables_of_eurocrops_equal_a_join_of_pandas(folder, column, code, file):
    """The published tables, at level 3."""
    if not REGISTERS.is_dir():
        pytest.skip(reason="shared/data/registers is not there")
    from geo.register.reading import read_register

    (path,) = (REGISTERS / folder).glob("*.zip")
    register = read_register(path)
    options = Label(column=column, table=REGISTERS / folder / file, **hcat(code, hcat_level=3))
    everyone = pd.Series(True, index=register.index)
    codes, _ = read_declared(register, options, "hcat", everyone, "unlabelled")
    table = pd.read_csv(options.table, dtype=str).drop_duplicates(code).set_index(code)
    texts = register[column].map(lambda v: str(int(v)) if isinstance(v, float) else v)
    expected = texts.map(table["HCAT3_code"]).str[:4] + "000000"
    assert expected.notna().mean() > 0.5
    assert codes.astype(object).where(codes.notna(), None).tolist() == expected.astype(
        object).where(expected.notna(), None).tolist()  # fmt: skip
