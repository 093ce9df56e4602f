"""What holds for acquisitions of every format: they survive the file that index writes."""

import json

import pystac
from pystac.validation import RegisteredValidator

from geo.imagery.acquisition import read_item, to_item


def assert_survive(found, folder):
    """Write acquisitions as items, which pystac takes as STAC, and read the same ones again."""
    folder.mkdir(exist_ok=True)
    assert found
    for acquisition in found:
        path = folder / f"{acquisition.id}.json"
        path.write_text(json.dumps(to_item(acquisition, folder, "digest"), allow_nan=False))
        # As text, in which NaN equals NaN, and an integer no float.
        assert repr(read_item(path)) == repr(acquisition)
        item = pystac.Item.from_file(path)
        assert set(item.assets) == {*acquisition.bands, *acquisition.masks}
        RegisteredValidator.get_validator().validate_core(
            json.loads(path.read_text()), pystac.STACObjectType.ITEM, item.to_dict()["stac_version"]
        )
        for name, band in acquisition.bands.items():
            assert item.assets[name].ext.proj.shape == list(band.grid.shape)
            assert item.assets[name].ext.proj.transform == list(band.grid.transform)[:6]
