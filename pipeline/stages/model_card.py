"""Stage model_card: describe the trained models, for people and for catalogues."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.provenance.model_card import render_card
from pipeline.provenance.stac_item import model_item
from pipeline.provenance.trained_models import read_models
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.writing import write_text


def model_card(run: Path, records: list[Path], card: Path, item: Path) -> None:
    """Write the model card of a run's models, and their STAC item.

    Parameters
    ----------
    run
        Folder of the run, results/<run>, with trained and evaluated models.
    records
        Settings of the stages, which their jobs wrote.
    card
        Written: Markdown with the headings of Mitchell et al. (2019).
    item
        Written: STAC item with the extension Machine Learning Model.
    """
    models = read_models(RunPaths(run), records)
    write_text(card, render_card(models))
    described = model_item(models, item.parent)
    write_text(item, json.dumps(described, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
