"""Run stages: those up to the dataset in one process, or the workflow as a user does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from pipeline.acquisitions.tiles import read_grids
from pipeline.stages.assemble import assemble
from pipeline.stages.clean import clean
from pipeline.stages.extract import extract
from pipeline.stages.features import features
from pipeline.stages.index import index
from pipeline.stages.normalise import normalise
from pipeline.stages.pack import pack
from pipeline.stages.rasterise import rasterise
from pipeline.workflow.acquisition_table import read_used
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.settings import STAGE_SETTINGS, Settings
from pipeline.workflow.writing import write_text

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"


def snakemake(folder, *options, check=True, configfile=None, source=ROOT, **settings):
    """Run the workflow of a checkout in a folder, with settings over those of its file."""
    over = [f"{section}={json.dumps(values)}" for section, values in settings.items()]
    command = [
        *(sys.executable, "-m", "snakemake", *options, "--snakefile", str(source / "Snakefile")),
        *("--directory", str(folder), "--configfile", str(configfile or folder / "settings.yaml")),
        *(["--config", *over] if over else []),
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env={**os.environ, "PATH": path}
    )
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


def merged(base, over):
    """Lay nested settings over others, as Snakemake does."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def example(name: str, **over) -> Settings:
    """Settings of an example in configs/, with sections laid over it."""
    return load(merged(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()), over))


def recorded(settings: Settings, run: RunPaths) -> list[Path]:
    """Leave what every stage would of its settings, for the report."""
    for stage in STAGE_SETTINGS:
        write_record(run.record(stage), settings, stage)
    return [run.record(stage) for stage in STAGE_SETTINGS]


def write_record(path: Path, settings: Settings, stage: str) -> None:
    """Write the settings of a stage as its command does with --record."""
    write_text(path, view(settings, stage).model_dump_json())


def prepare_parcels(settings: Settings, root: Path) -> RunPaths:
    """Run index, clean and rasterise."""
    run = RunPaths(root)
    index(settings.imagery.path, run.acquisitions, run.grids, view(settings, "index"))
    clean(
        settings.parcels.path, run.grids, run.cleaned, run.parcels, run.classes,
        view(settings, "clean"),
    )  # fmt: skip
    for tile in read_grids(run.grids):
        rasterise(
            run.parcels, run.grids, tile, run.pixel_index(tile), run.label_image(tile),
            view(settings, "rasterise"),
        )  # fmt: skip
    return run


def prepare_dataset(settings: Settings, root: Path, threads: int = 2) -> RunPaths:
    """Run every stage up to the dataset."""
    run = prepare_parcels(settings, root)
    used = read_used(run.acquisitions)
    for name, row in used.items():
        extract(
            row.product, name, run.pixel_index(row.tile),
            run.extracted(name), run.extracted_valid(name), view(settings, "extract"), threads,
        )  # fmt: skip
    pixel_index = [run.pixel_index(tile) for tile in sorted(read_grids(run.grids))]
    assemble(
        run.acquisitions, run.extractions, pixel_index, run.parcels, run.classes, run.cleaned,
        run.dataset.root, run.ledger, view(settings, "assemble"), threads,
    )  # fmt: skip
    pack(run.dataset.root, view(settings, "pack"), threads)
    normalise(run.dataset.root, run.dataset.normalisation, view(settings, "normalise"))
    features(
        run.parcels, pixel_index, run.dataset.root, run.dataset.features, run.dataset.positions
    )
    return run
