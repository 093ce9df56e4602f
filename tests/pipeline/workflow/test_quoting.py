"""Names of files and folders never run as shell commands."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from geo.errors import InputError
from geo.imagery.acquisition import safe_name
from pipeline.workflow.config import load, view
from pipeline.workflow.settings import STAGE_SETTINGS, from_json
from pipeline.workflow.snakefile import check_installation
from tests.builders.paths import ROOT
from tests.builders.runs import snakemake

WORKFLOW = [ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))]
SHELL = re.compile(r"^ *shell:\n((?: *\".*\"\n)+)", re.M)
# `threads` is a number, which Snakemake computes.
QUOTED = re.compile(r"\{threads\}|\{[\w.]+:q\}")

HOSTILE = [
    "$(touch EXECUTED)",
    "`touch EXECUTED`",
    "a; touch EXECUTED",
    "it's",
    'say "x"',
    "X (1)",
    "{acquisition}",
    "a\nb",
    "..",
    "../../up",
    "-rf",
    "",
    "é",
    "x" * 300,
]


def unquoted(text):
    """Return the interpolations in the rules' commands that are not quoted."""
    commands = "".join(SHELL.findall(text))
    return [m for m in re.findall(r"\{[^{}]*\}", commands) if not QUOTED.fullmatch(m)]


def test_every_interpolation_of_every_rule_is_quoted():
    for path in WORKFLOW:
        text = path.read_text()
        assert len(SHELL.findall(text)) == text.count("shell:"), f"{path}: SHELL misses a command"
        assert unquoted(text) == [], path


def test_an_unquoted_interpolation_is_found():
    assert unquoted('    shell:\n        "a {output} {log:q}"\n') == ["{output}"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_safe_name_means_the_same_to_shell_path_and_snakemake(text):
    name = safe_name(text)
    assert shlex.quote(name) == name == Path(name).name
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name)
    assert len(name) <= 200
    assert safe_name(name) == name


def test_different_texts_keep_different_names():
    texts = [*HOSTILE, "X (1", "X_1_", "X (2)", "é ", "x" * 301, safe_name("X (1)") + "!"]
    assert len({safe_name(text) for text in texts}) == len(texts)
    assert safe_name("S2A_MSIL2A_20200405T105031_T31TFM") == "S2A_MSIL2A_20200405T105031_T31TFM"


# Settings that are only valid together. A stage that got one of them alone would refuse it.
TOGETHER = {
    "clouds": {"mask": ["cldprb", "files"], "max_probability": 40, "files": "masks"},
    "parcels": {
        "path": "{register}.gpkg",
        "labels": {"crop": "CODE", "group": {"column": "G", "table": "t.csv", "class_code": "c"}},
        "nomenclature": "group",
        "classes": {"min_parcels": 2},
        "unknown_codes": "other",
        "other_class": "other",
    },
    "split": {"folds": 2},
    # The recipe must not override a setting that equals the default of another recipe.
    "train": {"recipe": "paper", "batch_size": 64},
    "model": {"name": "pseltae"},
}
EXAMPLES = [yaml.safe_load(p.read_text()) for p in sorted((ROOT / "configs").glob("*.yaml"))]


@pytest.mark.parametrize("values", [TOGETHER, *EXAMPLES])
def test_stages_get_the_same_settings_from_their_command_line(values):
    settings = load(values)
    for stage in STAGE_SETTINGS:
        own = view(settings, stage)
        assert from_json(own.model_dump_json(), type(own)) == own, stage


@pytest.mark.slow
@pytest.mark.parametrize("name", ["p$(touch EXECUTED)", "my 'own' {acquisition} project (1)"])
def test_a_run_in_a_folder_of_any_name_runs_no_command(tmp_path, monkeypatch, name):
    """The checkout, the working folder and the folders of the imagery have this name."""
    from demo import simulate

    folder = tmp_path / name
    folder.mkdir()
    simulate(
        folder / "raw", folder / "register.gpkg", size_m=1280, acquisitions=3, parcels=50, seed=3
    )
    imagery = folder / f"imagery {name}"
    imagery.mkdir()
    for product in (folder / "raw").glob("*.SAFE"):
        product.rename(imagery / f"{name} {product.name}")
    metadata = next(imagery.rglob("MTD_MSIL2A.xml"))
    text = re.sub(
        r"(<PROCESSING_BASELINE>)[^<]*", r"\g<1>04.00$(touch EXECUTED)", metadata.read_text()
    )
    metadata.write_text(text)
    checkout = folder / "checkout"
    for part in (
        "Snakefile",
        "rules",
        "pipeline",
        "geo",
        "models",
        "demo",
        "configs",
        "environment.yml",
    ):
        source = ROOT / part
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        checkout.mkdir(exist_ok=True)
        copy(source, checkout / part)
    monkeypatch.setenv("PYTHONPATH", str(checkout))  # as if it was installed from there
    register = folder / f"{name}.gpkg"
    (folder / "register.gpkg").rename(register)
    settings = {
        "run": "small",
        "imagery": {"path": str(imagery), "max_cloud_fraction": 1.0},
        "parcels": {"path": str(register), "labels": {"crop": "CODE_CULTU"}},
        "split": {"folds": 3},
    }
    settings["parcels"]["classes"] = {"min_parcels": 4}
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    result = snakemake(folder, "dataset", "--cores", "2", check=False, source=checkout)
    assert not list(tmp_path.rglob("EXECUTED"))
    assert not (ROOT / "EXECUTED").exists()
    assert result.returncode == 0, result.stdout + result.stderr
    sizes = json.loads((folder / "results/small/dataset/META/sizes.json").read_text())
    assert len(sizes) > 20
    # A second run has nothing to do. After a change of one product, index runs.
    assert "Nothing to be done" in again(folder, checkout)
    next(imagery.rglob("MTD_MSIL2A.xml")).touch()
    assert "index" in again(folder, checkout)


def test_another_checkout_than_the_installed_one_is_refused(tmp_path):
    (tmp_path / "configs").mkdir()
    for part in ("Snakefile", "configs/default.yaml"):
        shutil.copy2(ROOT / part, tmp_path / part)
    (tmp_path / "settings.yaml").write_text("run: other")
    result = snakemake(tmp_path, "-n", "--cores", "1", check=False, source=tmp_path)
    assert result.returncode == 1
    assert f"installed from {ROOT}" in result.stderr
    assert f"workflow is that of {tmp_path}" in result.stderr
    assert "pip install --editable ." in result.stderr


@pytest.mark.parametrize("is_editable", [True, False])
def test_a_copy_of_the_packages_is_refused(tmp_path, is_editable):
    """`pip install .` makes a copy, `pip install --editable .` does not."""
    folder = tmp_path / "parcelwise-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: parcelwise\nVersion: 0.1.0\n")
    info = {"editable": True} if is_editable else {}
    (folder / "direct_url.json").write_text(json.dumps({"url": "file:///x", "dir_info": info}))
    if is_editable:
        check_installation(ROOT, str(tmp_path))
    else:
        with pytest.raises(InputError, match=r"a copy, but .*pip install --editable"):
            check_installation(ROOT, str(tmp_path))


def test_without_an_installation_the_workflow_says_how_to_install(tmp_path):
    (tmp_path / "settings.yaml").write_text("run: other")
    # Hide the installed package `pipeline` from Snakemake.
    hide = "import sys; sys.modules['pipeline'] = None; from snakemake.cli import main; main()"
    result = subprocess.run(
        [
            *(sys.executable, "-c", hide, "-n", "--cores", "1"),
            *("--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path)),
            *("--configfile", str(tmp_path / "settings.yaml")),
        ],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 1
    assert "Parcelwise is not installed" in result.stderr


def again(folder, checkout):
    result = snakemake(folder, "dataset", "-n", "--cores", "2", source=checkout)
    return result.stdout + result.stderr
