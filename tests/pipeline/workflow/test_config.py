"""Settings are refused with the key, what was found, and what to write instead."""

import os

import pytest
import yaml

from geo.errors import InputError
from pipeline.workflow.config import load, read, view
from pipeline.workflow.inputs import check_inputs, imagery_state


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"imagry": {}}, r"imagry: unknown setting; did you mean 'imagery'"),
        ({"train": {"epoch": 3}}, r"train\.epoch: unknown setting; did you mean 'epochs'"),
        ({"clouds": {"xyz": 3}}, r"clouds\.xyz: unknown setting; known here: mask, classes"),
        ({"train": {"gamma": -1}}, r"train\.gamma: .*greater than or equal to 0, found -1"),
        ({"train": {"learning_rate": float("inf")}}, r"train\.learning_rate: .*finite.*found inf"),
        ({"train": {"learning_rate": float("nan")}}, r"train\.learning_rate: .*finite.*found nan"),
        ({"train": {"device": "gpu"}}, r"train\.device: .*found 'gpu'"),
        ({"imagery": {"bands": ["B02", "B99"]}}, r"imagery\.bands\.1: .*found 'B99'"),
        ({"imagery": {"bands": ["B02", "B02"]}}, r"a band is named twice"),
        ({"imagery": {"max_cloud_fraction": 80}}, r"max_cloud_fraction: .*found 80"),
        ({"imagery": {"start": "2018-05-01", "end": "2018-04-01"}}, r"lies after end"),
        ({"imagery": {"start": "May"}}, r"imagery\.start: .*found 'May'"),
        ({"parcels": {"nomenclature": "crop"}}, r"'crop' is not one of labels: \[\]"),
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


def test_every_error_is_named_at_once():
    with pytest.raises(InputError) as error:
        load({"train": {"epochs": 0, "gamma": -1}, "runn": "x"})
    assert len(str(error.value).splitlines()) == 4


def test_inputs_are_checked_before_any_work(tmp_path):
    parcels = tmp_path / "register.gpkg"
    parcels.touch()
    empty = tmp_path / "empty"
    empty.mkdir()
    for imagery, message in (
        (None, r"imagery\.path is not set"),
        (tmp_path / "nowhere", r"there is no .*nowhere"),
        (empty, r"the folder .*empty is empty"),
    ):
        settings = load({"imagery": {"path": imagery}, "parcels": {"path": parcels}})
        with pytest.raises(InputError, match=message):
            check_inputs(settings)
    (empty / "20180101.tif").touch()
    with pytest.raises(InputError, match=r"parcels\.path is not set"):
        check_inputs(load({"imagery": {"path": empty}}))


def test_a_missing_settings_file_says_how_to_get_one(tmp_path):
    with pytest.raises(InputError, match=r"no settings file .*results/<run>/config"):
        read(tmp_path / "config.yaml")


def test_settings_survive_being_written():
    settings = load({"imagery": {"start": "2018-01-01"}, "parcels": {"labels": {"crop": "C"}}})
    assert load(yaml.safe_load(yaml.safe_dump(settings.model_dump(mode="json")))) == settings


def test_only_what_a_stage_uses_triggers_it():
    before = load({})
    after = load({"train": {"epochs": 3}})
    changed = [s for s in ("extract", "clean", "split", "train", "predict")
               if view(before, s) != view(after, s)]  # fmt: skip
    assert changed == ["train"]


def test_a_new_product_is_noticed(tmp_path):
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
