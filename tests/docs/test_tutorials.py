"""The tutorials and the notebook run literally, on a tiny scene in place of the demo's."""

import shutil

import nbformat
import pytest
from nbclient import NotebookClient

from tests.builders.documents import DOCS, as_script, bash, small_checkout
from tests.builders.paths import ROOT

pytestmark = pytest.mark.slow

FIELDS = {"size_m: 2560, parcels: 150": "size_m: 1280, parcels: 60", "tions: 16": "tions: 8"}
FOLDS = {"split:\n": "split:\n  folds: 2\n"}
RESEARCH = {**FOLDS, "min_parcels: 20": "min_parcels: 5", "epochs: 30": "epochs: 1"}
# {tutorial: numbers that are changed}, and what it prints at its end.
TUTORIALS = {
    "researcher": (
        {**FOLDS, "min_parcels: 20": "min_parcels: 5", "epochs: 30": "epochs: 1"},
        "tae",
    ),
    "agency": ({"min_parcels: 20": "min_parcels: 5"}, "wrong on average"),
    "company": ({**FIELDS, **FOLDS, "epochs: 20": "epochs: 1"}, "at the end of June"),
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Return a checkout in which the demo has run."""
    folder = small_checkout(tmp_path_factory.mktemp("docs") / "checkout")
    bash(". .venv/bin/activate && parcelwise run configs/demo.yaml", folder)
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


def test_the_notebook_runs(demo, monkeypatch):
    """It is executed as it is; its cells must not contain results, which would change each time."""
    notebook = nbformat.read(DOCS / "notebook.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    changed = [cell for cell in cells if "[12]" in cell.source]  # the tiny scene has fewer dates
    changed[0].source = changed[0].source.replace("[12]", "[2]")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": demo}}).execute()
    assert "test parcels are right (SIMULATED)" in cells[-1].outputs[0]["text"]


@pytest.mark.parametrize("path", [DOCS / "python.md", ROOT / "README.md"], ids=lambda p: p.stem)
def test_the_python_of_a_page_runs(path, demo):
    bash(". .venv/bin/activate\n" + as_script(path, {}), demo)
