"""Checks of found acquisitions: they survive their item, and imagery is refused in words."""

import json

import pystac
import pytest
from pystac.validation import RegisteredValidator

from geo.errors import InputError
from geo.imagery.acquisition import read_item, to_item
from geo.imagery.discovery import find_acquisitions


def assert_survive(found, folder):
    """Check that acquisitions are the same when read again, and that pystac accepts the items."""
    folder.mkdir(exist_ok=True)
    assert found
    for acquisition in found:
        path = folder / f"{acquisition.id}.json"
        path.write_text(json.dumps(to_item(acquisition, folder, "digest"), allow_nan=False))
        # As text: in text, NaN equals NaN, and an integer differs from a float.
        assert repr(read_item(path)) == repr(acquisition)
        item = pystac.Item.from_file(path)
        assert set(item.assets) == {*acquisition.bands, *acquisition.masks}
        RegisteredValidator.get_validator().validate_core(
            json.loads(path.read_text()), pystac.STACObjectType.ITEM, item.to_dict()["stac_version"]
        )
        for name, band in acquisition.bands.items():
            assert item.assets[name].ext.proj.shape == list(band.grid.shape)
            assert item.assets[name].ext.proj.transform == list(band.grid.transform)[:6]


def refusal(path, **options):
    """Return why imagery is refused."""
    with pytest.raises(InputError) as error:
        find_acquisitions(path, **options)
    return str(error.value)
