"""The examples in the README work."""

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
    assert found, f"the README has no block in {language}"
    return found


def run_block(word):
    """Run the block that contains a word, and return its variables."""
    (block,) = [block for block in blocks("python") if word in block]
    names = {}
    exec(compile(block, "README.md", "exec"), names)  # noqa: S102 (the text is part of this repository)
    return names


def test_a_data_loader_reads_the_dataset(tmp_path, monkeypatch):
    make(tmp_path / "source", 40)
    dataset = {"path": str(tmp_path / "source"), "bands": BANDS, "classes": {"min_parcels": 5}}
    settings = load({"dataset": dataset})
    ingest_dataset(settings, RunPaths(tmp_path / "results" / "mine"))
    monkeypatch.chdir(tmp_path)
    names = run_block("DataLoader")
    assert len(names["dataset"]) == 40
    # 40 parcels are a batch of 32 and this one.
    assert names["pixels"].shape[0] == names["labels"].shape[0] == 8
    assert names["pixels"].shape[2] == len(BANDS)


def test_the_models_work_without_a_dataset():
    names = run_block("embeddings")
    assert names["embeddings"].shape == (8, 12, 128)
    assert names["features"].shape == (8, 128)
    gradients = [p.grad for p in names["model"].parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)


def test_the_settings_are_valid():
    for block in blocks("yaml"):
        load(yaml.safe_load(block))


def test_every_linked_file_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
