"""What holds the house together: import directions, environments, settings, stages."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from pipeline.__main__ import CHECKS, STAGES
from pipeline.workflow.config import USED_BY
from pipeline.workflow.settings import PAPER, PAPER_MODEL, Settings, Train

ROOT = Path(__file__).parents[1]
WORKFLOW = [ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))]
CONDA_NAMES = {
    "pytorch": "torch",
    "matplotlib-base": "matplotlib",
    "dask-core": "dask",
    "geopandas-base": "geopandas",
}
GEO_LIBRARIES = {
    "rasterio",
    "geopandas",
    "shapely",
    "pyproj",
    "pyogrio",
    "xarray",
    "dask",
    "affine",
}
FORBIDDEN = {
    "geo": {"models", "pipeline", "torch"},
    "models": {"geo", "pipeline", *GEO_LIBRARIES},
    "pipeline": set(),
}


def imported(path, *, only_top=False):
    tree = ast.parse(path.read_text())
    nodes = tree.body if only_top else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_run_one_way(package):
    for path in (ROOT / package).rglob("*.py"):
        assert not set(imported(path)) & FORBIDDEN[package], path


def loaded_by(statement):
    """Modules that a fresh interpreter holds after a statement."""
    code = f"import sys; {statement}; print(' '.join({{m.split('.')[0] for m in sys.modules}}))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(result.stdout.split())


@pytest.mark.parametrize("stage", ["ingest", "split", "train", "evaluate", "predict", "report"])
def test_models_run_without_gdal(stage):
    assert not loaded_by(f"import pipeline.stages.{stage}") & GEO_LIBRARIES


@pytest.mark.parametrize(
    "stage",
    [
        "simulate",
        "index",
        "clean",
        "rasterise",
        "extract",
        "assemble",
        "label",
        "names",
        "normalise",
        "features",
        "ingest",
        "split",
        "inspect",
    ],
)
def test_everything_before_runs_without_torch(stage):
    assert "torch" not in loaded_by(f"import pipeline.stages.{stage}")


# Libraries that take their time to import, and the stages that use them every time that they run.
SLOW = {
    *("dask", "exactextract", "geopandas", "jinja2", "matplotlib", "netCDF4", "pandas"),
    *("planetary_computer", "pystac_client", "rasterio", "requests", "scipy", "sklearn"),
    *("snakemake", "tensorboard", "torch", "xarray", "zarr"),
}
USED = {
    "simulate": {"geopandas", "pandas", "rasterio"},
    "index": {"rasterio"},
    "clean": {"geopandas", "pandas"},
    "rasterise": {"geopandas", "pandas", "rasterio"},
    "extract": {"rasterio"},
    "assemble": {"geopandas", "pandas"},
    "label": {"pandas"},
    "names": set(),
    "pack": set(),
    "normalise": set(),
    "features": {"geopandas", "pandas"},
    "ingest": {"pandas"},
    "split": {"pandas", "scipy", "sklearn"},  # pandas and scipy: of sklearn
    "train": {"torch"},
    "evaluate": {"pandas", "scipy", "sklearn", "torch"},
    "predict": {"pandas", "torch"},
    "report": {"jinja2", "matplotlib", "pandas"},
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_nothing_slow_that_it_does_not_use(stage):
    assert loaded_by(f"import pipeline.stages.{stage}") & SLOW <= USED[stage]


def test_the_command_line_imports_none_of_them():
    assert not loaded_by("import pipeline.__main__") & (SLOW | {"numpy"})


def test_the_workflow_file_imports_neither_torch_nor_rasterio():
    source = "\n".join(path.read_text() for path in WORKFLOW)
    modules = re.findall(r"^from (pipeline\.[\w.]+) import", source, re.M)
    assert modules
    statement = "; ".join(f"import {m}" for m in modules)
    assert not loaded_by(statement) & {"torch", "pandas", "numpy", *GEO_LIBRARIES}


def pins(lines):
    split = (re.split(r"[=]+", line, maxsplit=1) for line in lines)
    return {
        CONDA_NAMES.get(name, name).lower().replace("_", "-"): version for name, version in split
    }


def test_conda_and_pip_hold_the_same_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pip = pins(project["project"]["dependencies"] + project["dependency-groups"]["dev"])
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    python, *packages, pip_itself, by_pip = conda
    assert (pip_itself, by_pip) == ("pip", {"pip": ["--editable ."]})
    assert python == f"python{project['project']['requires-python']}"
    assert pins(packages) == pip


def test_the_lock_holds_what_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = pins(project["project"]["dependencies"] + project["dependency-groups"]["dev"])
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    locked = pins(line for line in lines if line and not line.startswith("#"))
    assert {name: locked.get(name) for name in asked} == asked


def test_the_defaults_file_says_what_the_code_does():
    written = yaml.safe_load((ROOT / "configs" / "default.yaml").read_text())
    coded = Settings().model_dump(mode="json")
    assert Settings.model_validate(written).model_dump(mode="json") == coded
    # Nothing is left out, and null is written only where it means "not set" or "as the recipe".
    for section, values in coded.items():
        if not isinstance(values, dict):
            assert written[section] == values
            continue
        assert list(written[section]) == list(values)
        followed = {"train": set(PAPER), "model": {"name"}}.get(section, set())
        for name, value in values.items():
            assert written[section][name] == (None if name in followed else value)


def test_the_defaults_file_says_what_the_recipes_are():
    text = (ROOT / "configs" / "default.yaml").read_text()
    written = dict(re.findall(r"^  (\w+): null +# (\S+ \| [^\s:]+)", text, re.M))
    default, paper = Train(), Train(recipe="paper")
    assert written == {key: f"{getattr(default, key)} | {getattr(paper, key)}" for key in PAPER}
    models = re.search(r"null: (\w+) with train\.recipe default.*?(\w+) with paper", text, re.S)
    assert models.groups() == (Settings().model.name, PAPER_MODEL)


def test_every_example_is_valid():
    examples = list((ROOT / "configs").glob("*.yaml"))
    assert len(examples) >= 4
    for path in examples:
        Settings.model_validate(yaml.safe_load(path.read_text()))


def test_a_stage_is_one_word_everywhere():
    text = "\n".join(path.read_text() for path in WORKFLOW)
    rules = set(re.findall(r"^\s*(?:rule|checkpoint) (\w+):", text, re.M))
    targets = {"all", "dataset", "models", "predictions"}
    assert rules - targets == set(STAGES) == set(USED_BY)
    assert all((ROOT / "pipeline" / "stages" / f"{stage}.py").is_file() for stage in STAGES)


def test_what_is_no_stage_has_no_rule():
    text = "\n".join(path.read_text() for path in WORKFLOW)
    assert not set(CHECKS) & (set(STAGES) | set(USED_BY))
    for name in CHECKS:
        assert (ROOT / "pipeline" / "stages" / f"{name}.py").is_file()
        assert f"rule {name}" not in text
        assert f"pipeline {name}" not in text


def test_every_rule_says_what_it_does_needs_and_leaves():
    text = "".join(p.read_text() for p in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")])
    for part in re.split(r"(?m)^\s*(?:rule|checkpoint) (?=\w+:)", text)[1:]:
        name = part[: part.index(":")]
        if name in STAGES:
            for directive in ("message", "resources", "log", "benchmark", "conda", "shell"):
                assert f"{directive}:" in part, (name, directive)
            assert f"parcelwise {name} " in part


@pytest.mark.parametrize("stage", [*STAGES, *CHECKS])
def test_every_stage_explains_itself(stage):
    result = subprocess.run(
        [sys.executable, "-m", "pipeline", stage, "--help"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert "--log" in result.stdout
    assert "Parameters" in result.stdout
