"""README and the pages of docs/: their examples work, and they are built without network."""

import re
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config

from pipeline.workflow.config import load
from pipeline.workflow.paths import RunPaths, _Below
from tests.builders.documents import DOCS, PAGES, blocks
from tests.builders.paths import ROOT
from tests.builders.pixel_sets import BANDS, ingest_dataset, make


def run_block(word):
    """Run the only block of Python that contains a word, and return its variables."""
    found = [text for path in PAGES for _, text in blocks(path, "python") if word in text]
    (block,) = found
    names = {}
    exec(compile(block, "docs", "exec"), names)  # noqa: S102 (the text is part of this repository)
    return names


def test_a_data_loader_reads_the_dataset(tmp_path, monkeypatch):
    make(tmp_path / "source", 40)
    dataset = {"path": str(tmp_path / "source"), "bands": BANDS, "classes": {"min_parcels": 5}}
    settings = load({"dataset": dataset})
    ingest_dataset(settings, RunPaths(tmp_path / "results" / "demo"))
    monkeypatch.chdir(tmp_path)
    names = run_block('pixels, labels = batch["pixels"]')
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
    texts = [(path, text) for path in PAGES for _, text in blocks(path, "yaml")]
    assert len(texts) >= 8
    for path, text in texts:
        # A page can include a whole file of settings.
        included = re.findall(r'^--8<-- "(.*)"$', text, re.M)
        text = "\n".join((ROOT / name).read_text() for name in included) or text
        assert load(yaml.safe_load(text)), path


def test_every_file_of_a_run_is_listed():
    text = "".join((DOCS / "guide" / f"{name}.md").read_text() for name in ("results", "season"))
    paths = [path for path in vars(RunPaths).values() if isinstance(path, _Below)]
    assert len(paths) > 30
    for path in paths:
        name = Path(path._path.format(also=""))
        # Tables are listed by the view for people. Hidden files are only for Snakemake.
        stem = name.stem if name.suffix == ".parquet" else name.name
        assert stem in text or name.name.startswith("."), name


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_linked_file_exists(path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_readme_is_a_start():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 200
    for name in ("agency", "company", "researcher"):
        assert f"docs/tutorials/{name}.md" in text


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert f"Version {project['version']}." in (ROOT / "docs" / "cite.md").read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the libraries that make the pages
def test_the_pages_are_built_and_fetch_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) == len(PAGES)  # not README, but a page for what is not found
    loaded = r'<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)="?([^"\s>]+)'
    for page in pages:
        for target in re.findall(loaded, page.read_text()):
            assert "//" not in target, (page.name, target)
    architecture = (tmp_path / "architecture.html").read_text()
    assert 'class="mermaid"' in architecture
    for name in ("mermaid.tiny.js", "iframe-worker.js"):  # the theme would fetch these
        assert f'src="vendor/{name}"' in architecture.replace("src=vendor", 'src="vendor')
        assert (tmp_path / "vendor" / name).is_file()
    reference = (tmp_path / "reference" / "python.html").read_text()
    for name in ("extract", "find_acquisitions", "predict", "to_xarray", "pad"):
        assert re.search(rf'id="?[\w.]*\.{name}\b', reference), name
