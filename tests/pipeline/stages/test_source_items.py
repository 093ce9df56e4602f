"""The items of a STAC source, as the stage index writes them for the later stages."""

import json

import numpy as np

from pipeline.dataset.acquisition_choice import decide
from pipeline.workflow.config import load, view
from tests.builders.stac import item_of, write_scene

DAYS = ["20180405", "20180420", "20180505"]


def test_files_of_unchanged_items_stay_untouched(tmp_path):
    source, folder = tmp_path / "items.json", tmp_path / "items"
    settings = view(load({"imagery": {"format": "stac", "bands": ["B02"]}}), "index")

    def write(items):
        source.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
        decide(source, settings, folder, read_pixels=False)
        return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}

    for day in DAYS:
        write_scene(tmp_path / "scenes", np.random.default_rng(4), day)
    items = [item_of(day, str(tmp_path / "scenes")) for day in DAYS]
    names = [f"{item['id']}.json" for item in items]
    before = write(items)
    items[1]["properties"]["eo:cloud_cover"] = 30
    for item in items:
        item["links"] = [{"rel": "self", "href": "https://elsewhere/?token=2"}]
    after = write(items[:2])
    assert after[names[0]] == before[names[0]]
    assert after[names[1]] > before[names[1]]
    assert sorted(after) == names[:2]
