"""What the README shows works as it stands there."""

import re

import torch
import yaml

from pipeline.workflow.config import load
from pipeline.workflow.paths import RunPaths
from tests.builders.paths import ROOT
from tests.builders.pixel_sets import BANDS, ingest_dataset, make

README = (ROOT / "README.md").read_text()


def blocks(language):
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```", README, re.M | re.S)
    assert found, f"the README has no {language}"
    return found


def run_block(word):
    """Run the block that has a word; return its names."""
    (block,) = [block for block in blocks("python") if word in block]
    names = {}
    exec(compile(block, "README.md", "exec"), names)  # noqa: S102 - our own page
    return names


def test_the_dataset_in_a_loader(tmp_path, monkeypatch):
    make(tmp_path / "source", 40)
    dataset = {"path": str(tmp_path / "source"), "bands": BANDS, "classes": {"min_parcels": 5}}
    settings = load({"dataset": dataset})
    ingest_dataset(settings, RunPaths(tmp_path / "results" / "mine"))
    monkeypatch.chdir(tmp_path)
    names = run_block("DataLoader")
    assert len(names["dataset"]) == 40
    # The last of two batches.
    assert names["pixels"].shape[0] == names["labels"].shape[0] == 8
    assert names["pixels"].shape[2] == len(BANDS)


def test_the_models_alone():
    names = run_block("embeddings")
    assert names["embeddings"].shape == (8, 12, 128)
    assert names["features"].shape == (8, 128)
    gradients = [p.grad for p in names["model"].parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)


def test_the_settings_shown_are_valid():
    for block in blocks("yaml"):
        load(yaml.safe_load(block))


def test_every_file_that_is_linked_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
