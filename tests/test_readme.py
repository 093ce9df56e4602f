"""What the README shows works as it stands there."""

import re
from pathlib import Path

import torch
import yaml

from pipeline.workflow.config import load

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```", README, re.M | re.S)
    assert found, f"the README has no {language}"
    return found


def test_the_models_alone():
    for block in blocks("python"):
        names = {}
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102 - our own page
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
