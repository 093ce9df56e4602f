"""The tutorials and the notebook run literally, on a tiny scene in place of the demo's."""

import shutil

import pytest

from tests.builders.documents import DOCS, as_script, bash, small_checkout

pytestmark = pytest.mark.slow

SMALLER_FIELDS = {"size_m: 2560, parcels: 150, acquisitions: 16": "size_m: 1280, parcels: 60, acquisitions: 8"}  # fmt: skip
# {tutorial: numbers that are changed}, and what it prints at its end.
TUTORIALS = {
    "researcher": ({"min_parcels: 20": "min_parcels: 5", "epochs: 30": "epochs: 1"}, "tae"),
    "agency": ({}, "wrong on average"),
    "company": ({**SMALLER_FIELDS, "epochs: 20": "epochs: 1"}, "at the end of June"),
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Return a checkout in which the demo and its season have run."""
    folder = small_checkout(tmp_path_factory.mktemp("docs") / "checkout")
    start = ". .venv/bin/activate && parcelwise season configs/demo.yaml --cores 2"
    bash(start, folder)
    return folder


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_can_be_followed(name, demo, tmp_path):
    changes, words = TUTORIALS[name]
    folder = tmp_path / "checkout"
    shutil.copytree(demo, folder, symlinks=True)
    printed = bash(as_script(DOCS / "tutorials" / f"{name}.md", changes), folder)
    assert words in printed


def test_every_tutorial_is_followed():
    assert {*TUTORIALS} == {path.stem for path in (DOCS / "tutorials").glob("*.md")}
