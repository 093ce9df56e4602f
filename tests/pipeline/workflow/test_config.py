"""Settings: errors name key, value and alternative; the record of a run makes the run again."""

import os
from datetime import date
from pathlib import Path

import pytest
import yaml

from geo.errors import InputError, did_you_mean, nearest
from pipeline.workflow.config import load, read, read_record, view
from pipeline.workflow.inputs import imagery_state
from pipeline.workflow.paths import RunPaths
from tests.builders.runs import recorded, write_record


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"imagry": {}}, r"imagry: unknown setting; did you mean 'imagery'"),
        ({"train": {"epoch": 3}}, r"train\.epoch: unknown setting; did you mean 'epochs'"),
        ({"clouds": {"xyz": 3}}, r"clouds\.xyz: unknown setting; known here: mask, classes"),
        ({"imagery": "folder"}, r"imagery: .*found 'folder'"),
        ({"train": {"epochs": "many"}}, r"train\.epochs: .*integer.*found 'many'"),
        ({"clouds": {"fill": "cubic"}}, r"clouds\.fill: .*'linear' or 'none', found 'cubic'"),
        ({"train": {"gamma": -1}}, r"train\.gamma: .*greater than or equal to 0, found -1"),
        ({"train": {"learning_rate": float("inf")}}, r"train\.learning_rate: .*finite.*found inf"),
        ({"train": {"learning_rate": float("nan")}}, r"train\.learning_rate: .*finite.*found nan"),
        ({"train": {"device": "gpu"}}, r"train\.device: .*found 'gpu'"),
        ({"imagery": {"bands": ["B02", "B99"]}}, r"imagery\.bands\.1: .*found 'B99'"),
        ({"imagery": {"bands": ["B02", "B02"]}}, r"a band is named twice"),
        ({"imagery": {"max_cloud_fraction": 80}}, r"max_cloud_fraction: .*equal to 1, found 80"),
        ({"imagery": {"start": "2018-05-01", "end": "2018-04-01"}}, r"is after end"),
        ({"imagery": {"start": "May"}}, r"imagery\.start: .*found 'May'"),
        ({"parcels": {"nomenclature": "crop"}}, r"'crop' is not one of labels: \[\]"),
        (
            {"parcels": {"all_touched": True, "min_covered_fraction": 0.5}},
            r"all_touched selects all .* set one of them",
        ),
        (
            {"parcels": {"point_buffer_m": 10, "buffer_m": -10}},
            r"buffer_m buffers polygons and point_buffer_m points: set one",
        ),
        (
            {"parcels": {"point_buffer_m": 0, "all_touched": True}},
            r"all_touched adds the pixels around .* small radius such as 0\.1",
        ),
        (
            {"parcels": {"point_buffer_m": 0, "min_pixels": 2}},
            r"min_pixels is 2, and a point",
        ),
        ({"parcels": {"point_buffer_m": -1}}, r"point_buffer_m: .*equal to 0, found -1"),
        (
            {"dataset": {"path": "x"}, "imagery": {"path": "y"}},
            r"dataset\.path takes the place of imagery\.path",
        ),
        (
            {"dataset": {"path": "x"}, "parcels": {"classes": ["a", "b"], "buffer_m": -5}},
            r"parcels\.classes, parcels\.buffer_m: without effect if dataset\.path is set\. "
            r"Remove it, and set dataset\.classes instead",
        ),
        (
            {"dataset": {"path": "x"}, "imagery": {"tile": "31TFM"}},
            r"imagery\.tile: without effect",
        ),
        (
            {"dataset": {"path": "x"}, "areas": {"region": "COMMUNE"}},
            r"areas\.region: without effect if dataset\.path is set\. Remove it",
        ),
        (
            {"areas": {"strata": "SIZE"}},
            r"areas: strata is without effect unless sample is random: set sample, or remove",
        ),
        (
            {"predict": {"weights": "x"}, "areas": {"sample": "random"}},
            r"areas\.sample: without effect if predict\.weights is set, .*Remove it",
        ),
        (
            {"predict": {"weights": "x"}, "check": {"visits": 400}},
            r"check: without effect if predict\.weights is set",
        ),
        ({"areas": {"sample": "stratified"}}, r"areas\.sample: .*unknown.*random"),
        ({"dataset": {"path": "x"}, "clouds": {"fill": "none"}}, r"clouds\.fill: without effect"),
        (
            {"dataset": {"path": "x"}, "predict": {"code_list": "https://a/b.csv"}},
            r"predict\.code_list: without effect if dataset\.path is set\. Remove it",
        ),
        (
            {"imagery": {"path": "x"}, "dataset": {"bands": ["B02"], "names": "n.csv"}},
            r"dataset\.bands, dataset\.names: without effect unless dataset\.path is set\. Remove "
            r"it, and set imagery\.bands, parcels\.names instead",
        ),
        ({"parcels": {"classes": ["a"]}}, r"parcels\.classes"),
        ({"split": {"folds": 1}}, r"split\.folds: .*found 1"),
        ({"split": {"folds": 50}}, r"min_parcels is 30 and split\.folds 50"),
        ({"model": {"pooling": "median"}}, r"pooling joins .*'median'"),
        ({"run": "../elsewhere"}, r"run: .*elsewhere"),
        ({"run": ".."}, r"run: it has not the expected form \(.*letters, digits, .*found '\.\.'"),
        ({"run": 2021}, r"run: .*found 2021\. YAML reads this as a number: .*quotes, '2021'"),
        ({"run": None}, r"run: .*found None: there is no value behind the colon"),
        (
            {"run": "x" * 101},
            r"run: .* at most 100 characters, found 'x{59}\.\.\.$",
        ),
        ({"parcels": {"classes": [8, False]}}, r"parcels\.classes: true and false .*such as NO"),
        ({"train": {"epochs": True}}, r"train\.epochs: true and false are not expected"),
        ({"parcels": {"classes": [1.5]}}, r"parcels\.classes\.0: .*found 1\.5\. .*quotes"),
        ({"parcels": {"classes": "wheat"}}, r"parcels\.classes: .*Write a list: \[wheat\]"),
        ({"parcels": {"labels": "CT"}}, r"parcels\.labels: .*such as \{crop: CT\}"),
        ({"parcels": {"labels": {"crop": 3}}}, r"parcels\.labels\.crop: .*settings.*found 3"),
        ({"parcels": {"id": 7}}, r"parcels\.id: .*number: for text, write it in quotes, '7'"),
        ({"parcels": {"path": ""}}, r"parcels\.path: the path is empty"),
        ({"parcels": {"path": 5}}, r"parcels\.path: Input should be a path, found 5"),
        ({"parcels": {"path": "https://a/b.gpkg"}}, r"an address is not opened here: download it"),
        ({"imagery": {"path": "file:///a"}}, r"write a path of this machine without file://"),
        ({"imagery": {"start": 2018}}, r"imagery\.start: expected a date, YYYY-MM-DD, found 2018"),
        ({"imagery": {"start": 86400}}, r"imagery\.start: expected a date, .*found 86400"),
        ({"imagery": {"start": "2018-02-31"}}, r"imagery\.start: .*a date of the calendar"),
        ({"imagery": {"tile": 31}}, r"imagery\.tile: .*string or .*list, found 31\. YAML"),
        ({"imagery": {"bands": "B02"}}, r"imagery\.bands: .*Write a list: \[B02\]"),
        ({"imagery": ["path"]}, r"imagery: Input should be settings, `key: value`"),
        ({"model": {"name": "PSETAE"}}, r"model\.name: .*Did you mean 'psetae'\?"),
        (
            {"train.epochs": 3},
            r"train\.epochs: .* write `train:`, and below it",
        ),
        ({"parcels": {"classes": [1]}}, r"parcels\.classes: List should have at least 2 items"),
        ({"id": "ID"}, r"id: unknown setting; did you mean 'parcels\.id'\?"),
        ({"path": "x"}, r"'imagery\.path' or 'parcels\.path' or 'dataset\.path'"),
        ({"model": {"epochs": 3}}, r"model\.epochs: .*did you mean 'train\.epochs'"),
        ({"imagery": {"parcels": {}}}, r"imagery\.parcels: .*'parcels, without indentation'"),
        ({"parcels": {"classes": {"min_parcel": 3}}}, r"cannot be used: parcels\.classes\.min_p"),
        ({"split": {"by": "block", "also": "block"}}, r"split\.by and split\.also are both block"),
        ({"split": {"also": "group"}}, r"split\.column is not set: name the column"),
        ({"split": {"column": "FARM"}}, r"split\.column: without effect unless .* is group"),
        ({"split": {"block_m": "Auto"}}, r"split\.block_m: .*number or 'auto', found 'Auto'"),
        ({"split": {"block_m": 0}}, r"split\.block_m: .*greater than 0 or 'auto', found 0"),
    ],
)
def test_bad_settings_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        load(values)


def test_classes_of_a_section_that_is_not_used_do_not_limit_the_folds():
    few = {"split": {"folds": 40}}
    assert load({**few, "imagery": {"path": "x"}, "parcels": {"classes": [1, 2]}}).split.folds == 40
    assert load({**few, "dataset": {"path": "x", "classes": [1, 2]}}).split.folds == 40


def test_all_errors_are_in_one_message():
    with pytest.raises(InputError) as error:
        load({"train": {"epochs": 0, "gamma": -1}, "runn": "x"})
    assert len(str(error.value).splitlines()) == 4


def aliases(first, merge, levels=40):
    """Return YAML that would be 2 ** `levels` values if its aliases were written out."""
    lines = [f"x0: &x0 {first}"]
    lines += [f"x{i}: &x{i} {merge.format(f'*x{i - 1}')}" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (aliases("[a]", "[{0}, {0}]"), "have more than 50,000 values"),
        (aliases("{a: b}", "{{a: {0}, b: {0}}}"), "have more than 50,000 values"),
        (aliases("{a: b}", "{{<<: [{0}, {0}]}}"), "it merges more than 50,000 values"),
        ("run: &run [*run]", "have more than 50,000 values"),
        ("imagery: " + "[" * 5_000, "it is nested too deeply"),
        ("imagery: " + "{a: " * 5_000, "it is nested too deeply"),
        ("train: {epochs: 3}\ntrain: {gamma: 1}", "train is there twice"),
        ("train: {epochs: 3, epochs: 4}", "epochs is there twice"),
        ("train: {epochs: 3}\n\ntrain: {gamma: 1}", "train is there twice, in lines 1 and 3"),
        ("train:\n\tepochs: 3", r"line 2, column 1: .*Indent with blanks, not with tabs"),
        ("a: [1, 2\nb: 3", "Is a bracket or a brace not closed"),
        ('parcels: {path: "C:\\data"}', "unknown escape character 'd'. Write paths with /"),
        ("run: a: b", "line 1, column 7: mapping values are not allowed here. Indent"),
        ("run\nimagery: {}", "line 2, column 8: .*"),
        ("- imagery: {}", "contains no settings, found"),
        ("# imagery: {}", "contains no settings, found nothing"),
        ("run: !!int x", "is not YAML: invalid literal"),
        ("run: !!python/object:os.system {}", "could not determine a constructor"),
        (b"run: a\0b".decode(), "is not YAML"),
    ],
)
def test_yaml_that_grows_is_refused(tmp_path, text, words):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as error:
        read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", "010"), ("NO", "NO"), ("on", "on"), ("12:30", "12:30"), ("0x1F", "0x1F"),
        ("2018-05-01", "2018-05-01"), ("1_000", "1_000"), ("10", 10), ("-3", -3), ("0", 0),
        ("'10'", "10"), ("+5", 5), ("=", "="),
    ],
)  # fmt: skip
def test_codes_are_what_is_written(tmp_path, text, value):
    """YAML 1.1, which PyYAML reads, makes 8 of 010, False of NO, and 750 of 12:30."""
    path = tmp_path / "settings.yaml"
    path.write_text(f"parcels: {{classes: [{text}, other]}}")
    assert read(path).parcels.classes == [value, "other"]
    assert read(tmp_path / "settings.yaml", assignments=[f"parcels.classes=[{text}, b]"]) == load(
        {"parcels": {"classes": [value, "b"]}}
    )


def test_values_are_converted_where_another_type_is_expected(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_bytes(
        "\ufeffrun: '2021'\nimagery:\n  start: 2018-05-01\n  path: ~/ü\nclouds:\nparcels:\n"
        "  all_touched: yes\ntrain: {learning_rate: 1e-3, epochs: 1e2, patience: ~}\n".encode()
    )
    settings = read(path)
    assert settings.run == "2021"
    assert settings.imagery.start == date(2018, 5, 1)
    assert settings.imagery.path == Path.home() / "ü"
    assert settings.clouds == load({}).clouds
    assert settings.parcels.all_touched is True
    assert (settings.train.learning_rate, settings.train.epochs) == (0.001, 100)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_text_in_another_encoding_is_refused_with_its_line(tmp_path, encoding):
    path = tmp_path / "settings.yaml"
    path.write_bytes("run: a\nparcels: {id: é}\n".encode(encoding))
    line = 1 if encoding == "utf-16" else 2
    with pytest.raises(InputError, match=f"line {line} is not text in UTF-8. Save it in that"):
        read(path)


@pytest.mark.parametrize(
    ("name", "known", "near"),
    [
        ("ID", ["AREA", "ID_PARCEL"], "ID_PARCEL"),
        ("PARCEL_ID", ["AREA", "ID"], "ID"),
        ("parcelid", ["ID_PARCEL", "id"], "ID_PARCEL"),
        ("code", ["CODE", "CODE_CULTU"], "CODE"),
        ("1", ["001", "002"], "001"),
        ("b2", ["B12", "B02"], "B02"),
        ("CodeCultu", ["AREA", "code_cultu"], "code_cultu"),
        ("id", ["width", "AREA"], None),
        ("ID_X", ["PARCEL_ID_LONGER"], None),
        ("soil", [], None),
    ],
)
def test_the_nearest_name(name, known, near):
    assert nearest(name, known) == near
    assert did_you_mean(name, known) == ("" if near is None else f" Did you mean {near!r}?")


def test_aliases_and_merges_can_be_used(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("imagery: {bands: &b [B02, B03], file_bands: *b}")
    assert read(path).imagery.file_bands == ["B02", "B03"]
    text = "train: &t {epochs: 3, pixels: 8}\nsplit: {folds: 2}\n"
    path.write_text(text)
    expected = read(path).train
    other = tmp_path / "other.yaml"
    other.write_text("train:\n  <<: &t {epochs: 3, pixels: 9}\n  pixels: 8\nsplit: {folds: 2}")
    assert read(other).train == expected


def test_settings_equal_those_read_back_from_yaml():
    settings = load({"imagery": {"start": "2018-01-01"}, "parcels": {"labels": {"crop": "C"}}})
    assert load(yaml.safe_load(yaml.safe_dump(settings.model_dump(mode="json")))) == settings


def test_a_setting_triggers_only_the_stages_that_use_it():
    before = load({})
    after = load({"train": {"epochs": 3}})
    changed = [s for s in ("extract", "clean", "split", "train", "predict")
               if view(before, s) != view(after, s)]  # fmt: skip
    assert changed == ["train"]


def test_the_state_of_the_imagery_changes_with_its_files(tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    values = {"imagery": {"path": str(tmp_path / "in")}, "clouds": {"files": str(masks)}}
    settings = load(values)
    states = [imagery_state(settings)]
    for path in ("in/2018/a.SAFE/MTD_MSIL2A.xml", "in/a/b.tif", "masks/20180405.tif", "in/c.nc"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"1")
        states.append(imagery_state(settings))
    (tmp_path / path).write_bytes(b"12")
    states.append(imagery_state(settings))
    os.utime(tmp_path / path, (1, 1))
    states.append(imagery_state(settings))
    assert len(set(states)) == len(states)
    (tmp_path / "in" / ".snakemake_timestamp").touch()
    (tmp_path / "masks" / "notes.txt").touch()
    assert imagery_state(settings) == states[-1]


OWN = {"run": "mine", "clouds": {"dilation_m": 20}, "train": {"epochs": 7}, "split": {"folds": 3}}


def test_the_records_of_all_stages_contain_all_settings(tmp_path):
    settings = load({**OWN, "simulate": {"parcels": 60}})
    record = read_record(recorded(settings, RunPaths(tmp_path)))
    assert record.notes == []
    again = load(yaml.safe_load(record.text))
    # Settings of the report alone have their defaults here.
    assert again == settings
    assert record.completed() == settings.model_dump(mode="json")


def test_the_record_contains_only_settings_that_a_stage_used(tmp_path):
    run = RunPaths(tmp_path)
    write_record(run.record("split"), load(OWN), "split")
    record = read_record([run.record("split")])
    assert list(record.values) == ["split"]
    assert record.values["split"]["folds"] == 3
    assert record.completed()["train"]["epochs"] == load({}).train.epochs


def test_the_notes_name_jobs_that_differ_and_the_last_value_counts(tmp_path):
    run = RunPaths(tmp_path)
    jobs = [run.record(f"train/Fold_{fold}") for fold in (1, 2, 3)]
    for fold, (job, epochs) in enumerate(zip(jobs, (7, 2, 7), strict=True), 1):
        write_record(job, load({"train": {"epochs": epochs}}), "train")
        finished = {1: 10, 3: 20, 2: 30}[fold]
        os.utime(job, (finished, finished))
    record = read_record([*jobs, run.record("evaluate")])
    assert record.notes == [
        "evaluate left no record of its settings",
        "train.epochs was not the same everywhere: 2 in Fold_2; 7 in Fold_1, Fold_3",
    ]
    assert record.values["train"]["epochs"] == 2
    assert record.text.startswith("# evaluate left")
    assert load(yaml.safe_load(record.text)).train.epochs == 2
