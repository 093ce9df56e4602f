"""Settings of imagery from STAC."""

import pytest

from geo.errors import InputError
from pipeline.workflow.config import load
from pipeline.workflow.inputs import check_inputs, imagery_state


@pytest.mark.parametrize(
    ("imagery", "message"),
    [
        ({"path": "https://somewhere", "format": "safe"}, "only STAC "),
        ({"path": "a.json", "bbox": [1, 2, 3]}, r"imagery\.bbox"),
        ({"path": "a.json", "bbox": [3, 2, 1, 4]}, "bbox is west, south"),
        ({"path": "a.json", "sign": "me"}, r"imagery\.sign"),
    ],
)
def test_bad_settings_are_refused(imagery, message):
    with pytest.raises(InputError, match=message):
        load({"imagery": imagery})


@pytest.mark.parametrize(
    ("imagery", "is_stac"),
    [
        ({"path": "https://somewhere/v1"}, True),
        ({"path": "s3://bucket/catalog.json"}, True),
        ({"path": "items.json"}, True),
        ({"path": "folder", "format": "stac"}, True),
        ({"path": "folder"}, False),
        ({"path": "items.json", "format": "geotiff"}, False),
        ({}, False),
    ],
)
def test_stac_is_recognised(imagery, is_stac):
    assert load({"imagery": imagery}).imagery.is_stac == is_stac


def test_an_address_stays_as_written_and_no_files_are_watched(tmp_path):
    register = tmp_path / "register.gpkg"
    register.touch()
    values = {"imagery": {"path": "https://somewhere//v1"}, "parcels": {"path": str(register)}}
    settings = load(values)
    assert settings.imagery.path == "https://somewhere//v1"
    assert load(settings.model_dump(mode="json")) == settings
    assert imagery_state(settings) == imagery_state(load({}))
    check_inputs(settings)
