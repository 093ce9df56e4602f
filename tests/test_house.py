"""What holds the house together: import directions, environments, settings, stages."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
import typing

import jsonschema
import pytest
import yaml

from demo.__main__ import write_scene
from geo.errors import InputError
from pipeline.__main__ import CHECKS, STAGES
from pipeline.workflow.config import load
from pipeline.workflow.generate_configs import SCHEMA_LINE, default_yaml, schema_json
from pipeline.workflow.sections import RECIPES, Section, read_recipe
from pipeline.workflow.settings import STAGE_SETTINGS, ExportSettings, LabelSettings, Settings
from tests.builders.paths import ROOT

CONFIGS = ROOT / "configs"
SCHEMA = json.loads((CONFIGS / "schema.json").read_text())
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
    "geo": {"models", "pipeline", "demo", "torch"},
    "models": {"geo", "pipeline", "demo", *GEO_LIBRARIES},
    "pipeline": {"demo"},
    "demo": {"models"},
}


def imported(text):
    """Modules that a text imports anywhere, inside functions too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_run_one_way(package):
    for path in (ROOT / package).rglob("*.py"):
        packages = {module.split(".")[0] for module in imported(path.read_text())}
        assert not packages & FORBIDDEN[package], path


def test_rooms_import_no_stage_and_no_stage_imports_another():
    """But inspection, which stands above the stages: it shows what they would decide."""
    for path in (ROOT / "pipeline").rglob("*.py"):
        stages = {m for m in imported(path.read_text()) if m.startswith("pipeline.stages")}
        assert not stages or path.parent.name == "inspection", path


def test_stages_are_one_module_each_and_nothing_else():
    folder = ROOT / "pipeline" / "stages"
    found = {path.stem for path in folder.iterdir() if path.name != "__pycache__"}
    assert found == {"__init__", *STAGES}


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
        "index",
        "clean",
        "rasterise",
        "extract",
        "assemble",
        "label",
        "export",
        "names",
        "normalise",
        "features",
        "ingest",
        "split",
    ],
)
def test_everything_before_runs_without_torch(stage):
    assert "torch" not in loaded_by(f"import pipeline.stages.{stage}")


# Libraries that take their time to import, and the stages that use them every time that they run.
SLOW = {
    *("dask", "exactextract", "geopandas", "jinja2", "matplotlib", "netCDF4", "pandas"),
    *("obstore", "pystac_client", "rasterio", "requests", "scipy", "sklearn"),
    *("snakemake", "tensorboard", "torch", "xarray", "zarr"),
}
USED = {
    "index": {"rasterio"},
    "clean": {"geopandas", "pandas"},
    "rasterise": {"geopandas", "pandas", "rasterio"},
    "extract": {"rasterio"},
    "assemble": set(),
    "label": {"pandas"},
    "names": set(),
    "export": set(),
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


def modules_of_the_workflow():
    """Modules that the Snakefile and the rules import, but for the standard library."""
    lines = [line for path in WORKFLOW for line in path.read_text().splitlines()]
    found = [re.match(r"\s*(?:from|import)\s+([\w.]+)", line) for line in lines]
    modules = {match[1] for match in found if match}
    return sorted(m for m in modules if m.split(".")[0] not in sys.stdlib_module_names)


def test_the_workflow_files_import_the_room_workflow_alone():
    modules = modules_of_the_workflow()
    assert "pipeline.workflow.paths" in modules
    assert [m for m in modules if not m.startswith("pipeline.workflow.")] == []


def test_the_workflow_files_import_neither_torch_nor_rasterio():
    statement = "; ".join(f"import {m}" for m in modules_of_the_workflow())
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


def test_the_defaults_and_the_schema_are_those_of_the_code():
    message = "run `make configs`"
    assert (CONFIGS / "default.yaml").read_text() == default_yaml(), message
    assert (CONFIGS / "schema.json").read_text() == schema_json(), message


def test_the_defaults_file_means_the_defaults():
    written = yaml.safe_load((CONFIGS / "default.yaml").read_text())
    assert load(written) == Settings()
    # Nothing is left out, and null is written only where it means "not set" or "as the recipe".
    followed = {(section, name) for section, own in read_recipe("default").items() for name in own}
    for section, values in Settings().model_dump(mode="json").items():
        if isinstance(values, dict):
            shown = {n: None if (section, n) in followed else v for n, v in values.items()}
            assert written[section] == shown
            assert list(written[section]) == list(values)
        else:
            assert written[section] == values


def test_the_defaults_file_says_what_the_recipes_are():
    text = (CONFIGS / "default.yaml").read_text()
    for line in (
        "  batch_size: null               # 64, 128 in paper; ",
        "  learning_rate: null            # 0.002, 0.001 in paper; ",
        "  epochs: null                   # 100; ",
        "  name: null                     # pseltae, psetae in paper; ",
    ):
        assert f"\n{line}" in text


def test_recipes_say_the_same_settings_and_valid_ones():
    default = read_recipe("default")
    for name in RECIPES:
        recipe = read_recipe(name)
        assert {s: list(values) for s, values in recipe.items()} == {
            s: list(values) for s, values in default.items()
        }
        settings = load({"train": {"recipe": name}})
        assert settings.train.model_dump(include=set(recipe["train"])) == recipe["train"]
        assert settings.model.name == recipe["model"]["name"]


def sections_of(kind):
    return {
        name: field.annotation
        for name, field in kind.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def test_every_setting_is_described():
    for name, section in sections_of(Settings).items():
        assert section.__doc__
        for key, field in section.model_fields.items():
            assert field.description, f"{name}.{key}"


@pytest.mark.parametrize("kind", [LabelSettings, ExportSettings, *STAGE_SETTINGS.values()])
def test_a_part_of_a_section_has_its_types_and_no_defaults(kind):
    whole = sections_of(Settings)
    for name, part in sections_of(kind).items():
        own, stated = typing.get_type_hints(part), typing.get_type_hints(whole[name])
        for key, field in part.model_fields.items():
            assert own[key] == stated[key], f"{name}.{key}"
            # What a base of the section has is stated there; what is cut out of it is passed whole.
            assert issubclass(whole[name], part) or field.is_required(), f"{name}.{key}"


def test_every_setting_is_seen_by_some_stage():
    kinds = [LabelSettings, ExportSettings, *STAGE_SETTINGS.values()]
    sections = [item for kind in kinds for item in sections_of(kind).items()]
    seen = {(name, key) for name, section in sections for key in section.model_fields}
    for name, section in sections_of(Settings).items():
        assert {(name, key) for key in section.model_fields} <= seen


def test_every_example_is_valid():
    examples = sorted(CONFIGS.glob("*.yaml"))
    assert len(examples) >= 4
    for path in examples:
        assert path.read_text().splitlines()[0] == SCHEMA_LINE, path
        values = yaml.safe_load(path.read_text())
        load(values)
        # jsonschema comes with Snakemake.
        jsonschema.validate(values, SCHEMA, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"imagry": {}}, "imagry"),
        ({"train": {"epoch": 3}}, "epoch"),
        ({"train": {"epochs": "many"}}, "many"),
        ({"train": {"recipe": "mine"}}, "mine"),
        ({"imagery": {"bands": ["B02", "B99"]}}, "B99"),
        ({"parcels": {"labels": {"crop": {"table": "t.csv"}}}}, "crop|table"),
        ({"split": {"folds": 1}}, "1 is less than"),
    ],
)
def test_the_schema_refuses_what_the_settings_refuse(values, found):
    with pytest.raises(InputError):
        load(values)
    with pytest.raises(jsonschema.ValidationError, match=found):
        jsonschema.validate(values, SCHEMA, jsonschema.Draft202012Validator)


def test_the_schema_takes_what_the_settings_take():
    for values in (
        {"parcels": {"labels": {"crop": "CODE", "group": {"column": "C", "table": "t.csv"}}}},
        {"train": {"epochs": None, "recipe": "paper"}, "model": {"name": None}},
        {"imagery": {"path": "https://a.b/c", "tile": ["31UDS"]}, "simulate": {"seed": 2}},
        {"parcels": {"classes": [1, "a"], "other_class": 3}},
    ):
        load(values)
        jsonschema.validate(values, SCHEMA, jsonschema.Draft202012Validator)


def test_the_type_of_a_stage_is_that_of_its_rule():
    for stage, kind in STAGE_SETTINGS.items():
        if stage != "simulate":
            function = getattr(importlib.import_module(f"pipeline.stages.{stage}"), stage)
            assert typing.get_type_hints(function)["settings"] is kind
    assert typing.get_type_hints(write_scene)["settings"] is STAGE_SETTINGS["simulate"]


def test_mypy_refuses_a_stage_that_reads_what_its_settings_lack(tmp_path):
    stage = tmp_path / "stage.py"
    stage.write_text(
        "from pipeline.workflow.settings import ExtractSettings\n\n\n"
        "def extract(settings: ExtractSettings) -> None:\n"
        "    print(settings.imagery.resampling)\n"
        "    print(settings.imagery.max_cloud_fraction)\n"
        "    print(settings.train)\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", stage],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert 'stage.py:6: error: "BandReading" has no attribute "max_cloud_fraction"' in result.stdout
    assert 'stage.py:7: error: "ExtractSettings" has no attribute "train"' in result.stdout
    assert "Found 2 errors" in result.stdout


def test_a_stage_is_one_word_everywhere():
    text = "\n".join(path.read_text() for path in WORKFLOW)
    rules = set(re.findall(r"^\s*(?:rule|checkpoint) (\w+):", text, re.M))
    targets = {"all", "dataset", "models", "predictions"}
    # The demo's scene is no part of the product: its command stands beside it.
    assert rules - targets == {"simulate", *STAGES}
    # features alone asks for no setting.
    assert set(STAGE_SETTINGS) == (rules - targets) - {"features"}
    assert all((ROOT / "pipeline" / "stages" / f"{stage}.py").is_file() for stage in STAGES)


def test_what_is_no_stage_has_no_rule():
    text = "\n".join(path.read_text() for path in WORKFLOW)
    assert not set(CHECKS) & (set(STAGES) | set(STAGE_SETTINGS))
    for name in CHECKS:
        assert (ROOT / "pipeline" / "inspection" / f"{name}.py").is_file()
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
    assert '"python -P -m demo --settings' in text


@pytest.mark.parametrize("stage", [*STAGES, *CHECKS])
def test_every_stage_explains_itself(stage):
    result = subprocess.run(
        [sys.executable, "-m", "pipeline", stage, "--help"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert "--log" in result.stdout
    assert "Parameters" in result.stdout


def test_what_tests_share_is_in_the_builders():
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for name in imported(path.read_text()):
            assert not name.rpartition(".")[2].startswith("test_"), (path, name)
