"""Settings: errors name key, value and alternative; the record of a run makes the run again."""

import os

import pytest
import yaml

from geo.errors import InputError
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
        ({"parcels": {"classes": ["a"]}}, r"parcels\.classes"),
        ({"split": {"folds": 1}}, r"split\.folds: .*found 1"),
        ({"split": {"folds": 50}}, r"min_parcels is 30 and split\.folds 50"),
        ({"model": {"pooling": "median"}}, r"pooling joins .*'median'"),
        ({"run": "../elsewhere"}, r"run: .*elsewhere"),
    ],
)
def test_bad_settings_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        load(values)


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
        ("imagery: {start: 2018-02-31}", "is not YAML: day is out of range"),
    ],
)
def test_yaml_that_grows_is_refused(tmp_path, text, words):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as error:
        read(path)
    assert str(path) in str(error.value)


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
