"""The model card and the STAC item of trained models."""

import json
import math
import re

import jsonschema
import numpy as np
import pystac
import pytest
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry, Resource
from safetensors.numpy import load_file
from stac_model.schema import SCHEMA_URI, MLModelExtension, MLModelProperties

from models.standardisation import Normalisation
from pipeline.provenance.model_card import in_markdown
from pipeline.stages.model_card import model_card
from pipeline.workflow.rounding import percent
from tests.builders.finished import CLASSES, DECLARED, PREDICTED, N, make_finished, read

HEADINGS = [
    *("Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data"),
    *("Quantitative analyses", "Ethical considerations", "Caveats and recommendations"),
]


def describe(folder, **options):
    """Return model card and STAC item of a run."""
    run, records = make_finished(folder, **options)
    model_card(run.root, records, run.model_card, run.model_item)
    return run.model_card.read_text(encoding="utf-8"), read(run.model_item)


def rows(card):
    """Return the cells of the tables of a card."""
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in card.splitlines()
        if line.startswith("|")
    ]


def test_the_card_has_the_headings_of_the_paper_and_the_scores_of_the_run(tmp_path):
    card, _ = describe(tmp_path)
    assert re.findall(r"^## (.*)$", card, re.M) == HEADINGS
    assert not re.search(r"[^\n]\n#", card)  # a heading needs an empty line before it
    cells = rows(card)
    right = (DECLARED == PREDICTED).mean()
    assert [row[1] for row in cells if row[0] == "This model"] == [percent(right)]
    (maize,) = (row for row in cells if row[0] == r"a.b")
    of_maize = DECLARED == 1
    assert maize[1:3] == [r"\| &lt;b&gt;maize\*", "20"]
    assert maize[4] == f"{(PREDICTED[of_maize] == 1).mean():.3f}"
    assert "<b>" not in card
    assert f"{N} labelled parcels" in card
    assert "Fewer than 30 parcels, and therefore uncertain scores: " in card


@pytest.mark.parametrize(
    ("options", "shown", "hidden"),
    [
        ({}, ["**The scene is SIMULATED.**", "set `split: {also: block}`"], ["keeps neighbours"]),
        ({"simulated": False}, [], ["SIMULATED"]),
        (
            {"also": "block"},
            ["2 folds, by square blocks of land (parcels that are alike are kept in one fold)"],
            ["also: block"],
        ),
    ],
)
def test_the_card_says_what_limits_the_scores(tmp_path, options, shown, hidden):
    card, _ = describe(tmp_path, **options)
    assert [text for text in shown if text not in card] == []
    assert [text for text in hidden if text in card] == []


def test_text_in_markdown_has_no_meaning_for_it():
    assert in_markdown("a|b\n<i>_[x](y)") == r"a\|b &lt;i&gt;\_\[x\](y)"


def test_the_item_is_valid_and_describes_the_models(tmp_path):
    _, item = describe(tmp_path, members=2)
    schemas = get_local_schema_cache()
    registry = Registry().with_resources(
        (name, Resource.from_contents(schema)) for name, schema in schemas.items()
    )
    name = "https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json"
    jsonschema.Draft7Validator(schemas[name], registry=registry).validate(item)
    assert SCHEMA_URI in item["stac_extensions"]
    assert MLModelExtension.ext(pystac.Item.from_dict(item)).name == "mlm"
    found = MLModelProperties.model_validate(item["properties"])
    assert (found.framework, found.tasks) == ("PyTorch", {"classification"})
    pixels, _, features = found.input
    assert list(pixels.bands) == ["B0", "B1"]
    # A constant channel is divided by 1, as by the model.
    assert [(s.mean, s.stddev) for s in pixels.value_scaling] == [(900, 1), (3000, 1)]
    assert features.input.shape == [-1, 4]
    classes = item["properties"]["mlm:output"][0]["classification:classes"]
    assert [c["value"] for c in classes] == [0, 1, 2]
    assert [c["description"] for c in classes] == [f"{c.code}: {c.name}" for c in CLASSES]
    names = [c["name"] for c in classes]
    assert len({name.lower() for name in names}) == 3
    assert all(re.fullmatch("[0-9A-Za-z_-]+", name) for name in names)


def test_the_item_names_every_file_of_the_models(tmp_path):
    _, item = describe(tmp_path, members=2)
    folder = tmp_path / "results" / "hand" / "models"
    models = {k: a for k, a in item["assets"].items() if "mlm:model" in a["roles"]}
    assert list(models) == ["fold_1", "fold_1_2", "fold_2", "fold_2_2"]
    for asset in models.values():
        assert (folder / asset["href"]).stat().st_size == asset["file:size"]
    assert [a["parcelwise:temperature"] for a in models.values()] == pytest.approx(
        [0.8, 0.8, 0.9, 0.9]
    )
    weights = load_file(folder / models["fold_1"]["href"])
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    expected = sum(math.prod(w.shape) for k, w in weights.items() if not k.endswith(buffers))
    assert item["properties"]["mlm:total_parameters"] == expected
    assert (folder / item["assets"]["model_card"]["href"]).is_file()


def test_a_normalisation_by_date_has_no_form_in_the_item(tmp_path):
    both = np.ones((7, 2))
    _, item = describe(tmp_path, normalisation=Normalisation(both, both))
    assert "value_scaling" not in item["properties"]["mlm:input"][0]
    assert json.dumps(item)
