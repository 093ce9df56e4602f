"""Rules of the whole project: import directions, environments, settings, stages."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
import typing
from functools import cache

import jsonschema
import pytest
import yaml

from demo.__main__ import write_scene
from geo.errors import InputError
from pipeline.command_line import COMMANDS, STAGES, main
from pipeline.workflow.config import load
from pipeline.workflow.generate_configs import SCHEMA_LINE, default_yaml, schema_json
from pipeline.workflow.sections.models import RECIPES, read_recipe
from pipeline.workflow.sections.values import Section, descriptions
from pipeline.workflow.settings import STAGE_SETTINGS, ExportSettings, LabelSettings, Settings
from pipeline.workflow.snakefile import _rules as rules_of
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
    "distributed",
    "affine",
}
FORBIDDEN = {
    "geo": {"models", "pipeline", "parcelwise", "demo", "torch"},
    "models": {"geo", "pipeline", "parcelwise", "demo", *GEO_LIBRARIES},
    "pipeline": {"parcelwise", "demo"},
    "parcelwise": {"demo"},
    "demo": {"models", "parcelwise"},
}


def imported(text):
    """Yield the modules that a text imports, inside functions too."""
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


def test_only_inspection_imports_stages():
    """It shows what they would decide. No other room and no stage imports a stage."""
    for path in (ROOT / "pipeline").rglob("*.py"):
        stages = {m for m in imported(path.read_text()) if m.startswith("pipeline.stages")}
        assert not stages or path.parent.name == "inspection", path


def test_stages_are_one_module_each_and_nothing_else():
    folder = ROOT / "pipeline" / "stages"
    found = {path.stem for path in folder.iterdir() if path.name != "__pycache__"}
    assert found == {"__init__", *STAGES}


@cache
def loaded_by(statement):
    """Return the packages that a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(' '.join({{m.split('.')[0] for m in sys.modules}}))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(result.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [
        *("ingest", "variogram", "split", "train", "calibrate", "evaluate", "evaluate_season"),
        *("predict", "explain", "areas", "worklist", "sen4cap"),
        *("report", "inputs", "model_card", "mlflow", "provenance"),
    ],
)
def test_models_run_without_gdal(stage):
    assert not loaded_by(f"import pipeline.stages.{stage}") & GEO_LIBRARIES


@pytest.mark.slow
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
        "variogram",
        "split",
        "evaluate",
        "areas",
        *("worklist", "inputs", "model_card", "mlflow", "provenance"),
    ],
)
def test_everything_before_runs_without_torch(stage):
    assert "torch" not in loaded_by(f"import pipeline.stages.{stage}")


# Libraries that are slow to import, and the stages that use them in every run.
SLOW = {
    *(
        "dask",
        "distributed",
        "exactextract",
        "geopandas",
        "jinja2",
        "matplotlib",
        "netCDF4",
        "pandas",
    ),
    *("obstore", "pystac_client", "rasterio", "requests", "scipy", "sklearn"),
    *("snakemake", "tensorboard", "torch", "xarray", "zarr"),
}
USED = {
    "inputs": set(),
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
    "variogram": {"pandas", "scipy", "sklearn"},  # sklearn: of the parcels' means
    "split": {"pandas", "scipy", "sklearn"},  # pandas and scipy: of sklearn
    "train": {"torch"},
    "calibrate": {"scipy", "torch"},
    "evaluate": {"pandas", "scipy", "sklearn"},
    "evaluate_season": {"pandas", "torch"},
    "model_card": {"jinja2", "pandas"},
    "mlflow": set(),
    "predict": {"pandas", "torch"},
    "explain": {"pandas", "torch"},
    "areas": {"pandas", "scipy"},
    "worklist": {"pandas", "scipy"},
    "sen4cap": {"pandas"},
    "report": {"jinja2", "matplotlib", "pandas"},
    "provenance": set(),
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_nothing_slow_that_it_does_not_use(stage):
    assert loaded_by(f"import pipeline.stages.{stage}") & SLOW <= USED[stage]


@pytest.mark.slow
def test_extract_loads_only_what_it_reads_with():
    # It runs thousands of times, and on a small acquisition it only starts.
    unused = {"pyarrow", "pyproj", "sqlite3", *SLOW} - {"rasterio"}
    assert not loaded_by("import pipeline.stages.extract") & unused


def test_a_stage_builds_only_the_types_of_settings_that_it_reads():
    code = (
        "from pipeline.workflow.settings import *;"
        " from_json('{\"normalise\": {}}', NormaliseSettings);"
        "print(Settings.__pydantic_complete__, Imagery.__pydantic_complete__)"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False False\n"


def test_the_command_line_imports_no_slow_library():
    assert not loaded_by("import pipeline.command_line") & (SLOW | {"numpy"})


@pytest.mark.slow
def test_a_name_in_python_imports_what_it_needs():
    assert not loaded_by("import parcelwise") & (SLOW | {"numpy"})
    assert not loaded_by("from parcelwise import CropModel, PixelSetDataset") & GEO_LIBRARIES
    assert "torch" not in loaded_by("from parcelwise import extract, find_acquisitions")


def modules_of_the_workflow():
    """Return the modules that Snakefile and rules import, without the standard library."""
    lines = [line for path in WORKFLOW for line in path.read_text().splitlines()]
    found = [re.match(r"\s*(?:from|import)\s+([\w.]+)", line) for line in lines]
    modules = {match[1] for match in found if match}
    return sorted(m for m in modules if m.split(".")[0] not in sys.stdlib_module_names)


def test_the_workflow_files_import_only_the_room_workflow():
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


def pinned(project):
    """Return the packages that `make` installs: of the project, development and documentation."""
    groups = project["dependency-groups"]
    return pins([*project["project"]["dependencies"], *groups["dev"], *groups["docs"]])


def test_conda_and_pip_install_the_same_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pip = pinned(project)
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    python, *packages, pip_itself, by_pip = conda
    assert (pip_itself, by_pip) == ("pip", {"pip": ["--editable ."]})
    # conda installs the newest Python that all pins support; pip accepts older ones, too.
    prefix = "Programming Language :: Python :: 3."
    classifiers = project["project"]["classifiers"]
    minors = [int(c.removeprefix(prefix)) for c in classifiers if c.startswith(prefix)]
    assert python == f"python=3.{max(minors)}"
    assert project["project"]["requires-python"] == f">=3.{min(minors)}"
    assert pins(packages) == pip


def test_the_lock_file_pins_the_same_versions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = pinned(project)
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    locked = pins(line for line in lines if line and not line.startswith("#"))
    assert {name: locked.get(name) for name in asked} == asked


def test_the_defaults_and_the_schema_equal_those_of_the_code():
    message = "run `make configs`"
    assert (CONFIGS / "default.yaml").read_text() == default_yaml(), message
    assert (CONFIGS / "schema.json").read_text() == schema_json(), message


def test_the_defaults_file_sets_the_defaults():
    written = yaml.safe_load((CONFIGS / "default.yaml").read_text())
    assert load(written) == Settings()
    # The file contains every setting. null means "not set" or "as the recipe".
    followed = {(section, name) for section, own in read_recipe("default").items() for name in own}
    for section, values in Settings().model_dump(mode="json").items():
        if isinstance(values, dict):
            shown = {n: None if (section, n) in followed else v for n, v in values.items()}
            assert written[section] == shown
            assert list(written[section]) == list(values)
        else:
            assert written[section] == values


def test_the_defaults_file_shows_the_values_of_the_recipes():
    text = (CONFIGS / "default.yaml").read_text()
    for line in (
        "  batch_size: null               # 64, 128 in paper; ",
        "  learning_rate: null            # 0.002, 0.001 in paper; ",
        "  epochs: null                   # 100; ",
        "  name: null                     # pseltae, psetae in paper; ",
    ):
        assert f"\n{line}" in text


def test_all_recipes_set_the_same_settings_to_valid_values():
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
        assert descriptions(section).keys() == section.model_fields.keys(), name


@pytest.mark.parametrize("kind", [LabelSettings, ExportSettings, *STAGE_SETTINGS.values()])
def test_a_part_of_a_section_has_its_types_and_no_defaults(kind):
    whole = sections_of(Settings)
    for name, part in sections_of(kind).items():
        own, stated = typing.get_type_hints(part), typing.get_type_hints(whole[name])
        for key, field in part.model_fields.items():
            assert own[key] == stated[key], f"{name}.{key}"
            # A base class of the section has defaults. Other types repeat some of its settings, and
            # have none, because a rule passes all of them.
            assert issubclass(whole[name], part) or field.is_required(), f"{name}.{key}"


def test_every_setting_reaches_a_stage():
    kinds = [LabelSettings, ExportSettings, *STAGE_SETTINGS.values()]
    sections = [item for kind in kinds for item in sections_of(kind).items()]
    reached = {(name, key) for name, section in sections for key in section.model_fields}
    # It says where blocks are read, which changes no result.
    reached.add(("dask", "scheduler"))
    for name, section in sections_of(Settings).items():
        assert {(name, key) for key in section.model_fields} <= reached


def test_every_example_is_valid():
    examples = sorted(CONFIGS.glob("*.yaml"))
    assert len(examples) >= 4
    for path in examples:
        assert path.read_text().splitlines()[0] == SCHEMA_LINE, path
        values = yaml.safe_load(path.read_text())
        load(values)
        # Snakemake depends on jsonschema.
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


def test_the_schema_accepts_what_the_settings_accept():
    for values in (
        {"parcels": {"labels": {"crop": "CODE", "group": {"column": "C", "table": "t.csv"}}}},
        {"train": {"epochs": None, "recipe": "paper"}, "model": {"name": None}},
        {"imagery": {"path": "https://a.b/c", "tile": ["31UDS"]}, "simulate": {"seed": 2}},
        {"parcels": {"classes": [1, "a"], "other_class": 3}},
    ):
        load(values)
        jsonschema.validate(values, SCHEMA, jsonschema.Draft202012Validator)


def test_a_stage_takes_the_type_of_settings_that_its_rule_passes():
    for stage, kind in STAGE_SETTINGS.items():
        if stage != "simulate":
            function = getattr(importlib.import_module(f"pipeline.stages.{stage}"), stage)
            assert typing.get_type_hints(function)["settings"] is kind
    assert typing.get_type_hints(write_scene)["settings"] is STAGE_SETTINGS["simulate"]


@pytest.mark.slow
def test_mypy_refuses_a_stage_that_reads_other_settings(tmp_path):
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


def test_a_stage_has_the_same_name_everywhere():
    text = "\n".join(path.read_text() for path in WORKFLOW)
    rules = set(re.findall(r"^\s*(?:rule|checkpoint) (\w+):", text, re.M))
    targets = {"all", "dataset", "extractions", "models", "predictions", "season"}
    # The demo's scene is not part of the product and has a command of its own module.
    assert rules - targets == {"simulate", *STAGES}
    # Only these need no setting.
    without = {"features", "sen4cap", "inputs", "model_card", "mlflow", "provenance"}
    assert set(STAGE_SETTINGS) == (rules - targets) - without
    assert all((ROOT / "pipeline" / "stages" / f"{stage}.py").is_file() for stage in STAGES)


def test_the_rules_of_all_files_are_known_as_targets():
    text = "\n".join(path.read_text() for path in WORKFLOW)
    runs = ({"simulate": {}}, {"dataset": {"path": "x"}})
    known = {name for values in runs for name in rules_of(load(values))}
    assert known == set(re.findall(r"^\s*(?:rule|checkpoint|use rule \w+ as) (\w+)", text, re.M))


def test_commands_that_are_not_stages_have_no_rule():
    text = "\n".join(path.read_text() for path in WORKFLOW)
    assert not set(COMMANDS) & (set(STAGES) | set(STAGE_SETTINGS))
    for name in COMMANDS:
        # The command season runs the workflow up to the target season.
        assert f"rule {name}:" not in text or name == "season"
        assert f"parcelwise {name} -" not in text


def test_every_rule_has_its_directives():
    text = "".join(p.read_text() for p in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")])
    for part in re.split(r"(?m)^\s*(?:rule|checkpoint) (?=\w+:)", text)[1:]:
        name = part[: part.index(":")]
        if name in STAGES:
            for directive in ("message", "resources", "log", "benchmark", "conda", "shell"):
                assert f"{directive}:" in part, (name, directive)
            assert f"parcelwise {name} " in part
    assert '"python -P -m demo --settings' in text


@pytest.mark.parametrize("stage", [*STAGES, "inspect", "checked"])
def test_every_stage_has_a_help_text(stage, capsys):
    with pytest.raises(SystemExit) as end:
        main([stage, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "--log" in shown
    assert "Parameters" in shown


def test_test_modules_import_no_test_module():
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for name in imported(path.read_text()):
            assert not name.rpartition(".")[2].startswith("test_"), (path, name)
