"""Run the stages up to the dataset in one process, or the workflow in another."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from geo.grid import read_grids
from geo.pixels.pixel_index import PixelIndex
from pipeline.dataset.npy_files import file_name
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.stages.assemble import assemble
from pipeline.stages.clean import clean
from pipeline.stages.export import export
from pipeline.stages.extract import extract
from pipeline.stages.features import features
from pipeline.stages.index import index
from pipeline.stages.label import label
from pipeline.stages.names import names
from pipeline.stages.normalise import normalise
from pipeline.stages.rasterise import rasterise
from pipeline.workflow.acquisition_table import read_used
from pipeline.workflow.config import load, merged, view
from pipeline.workflow.paths import DatasetPaths, RunPaths
from pipeline.workflow.settings import STAGE_SETTINGS, Settings
from pipeline.workflow.writing import write_text
from tests.builders.paths import ROOT

CONFIGS = ROOT / "configs"


def snakemake(folder, *options, check=True, configfile=None, source=ROOT, **settings):
    """Run the workflow of a checkout in a folder, with settings that override those of its file."""
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


def planned(folder, *targets, **settings):
    """Return the jobs of a dry run: {rule: number}."""
    result = snakemake(folder, "-n", *targets, **settings)
    return {
        rule: int(n)
        for rule, n in re.findall(r"^(\w+)\s+(\d+)$", result.stdout + result.stderr, re.M)
    }


def started(folder, *options, **arguments):
    """Start the workflow without waiting for its end."""
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
        *("--directory", str(folder), "--configfile", str(folder / "settings.yaml"), *options),
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env={**os.environ, "PATH": path}, **silent, **arguments)


def example(name: str, **over) -> Settings:
    """Return the settings of an example in configs/, with others laid over them."""
    return load(merged(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()), over))


def recorded(settings: Settings, run: RunPaths) -> list[Path]:
    """Write the settings of every stage as a run does, for the report."""
    for stage in STAGE_SETTINGS:
        write_record(run.record(stage), settings, stage)
    return [run.record(stage) for stage in STAGE_SETTINGS]


def write_record(path: Path, settings: Settings, stage: str) -> None:
    """Write the settings of a stage as its command does with --record."""
    write_text(path, view(settings, stage).model_dump_json())


def for_label(settings: Settings) -> tuple[str, str]:
    """Return the last two arguments of clean: settings of label, and the table of names."""
    names = settings.parcels.names
    return view(settings, "label").model_dump_json(), json.dumps(names and str(names))


def prepare_parcels(settings: Settings, root: Path) -> RunPaths:
    """Run index, clean and rasterise."""
    run = RunPaths(root)
    source_items = run.source_items if settings.imagery.is_stac else None
    index(
        settings.imagery.path, run.acquisitions, run.acquisitions_view, run.items, run.grids,
        view(settings, "index"), source_items, settings.parcels.path,
        weights=json.dumps(settings.predict.weights and str(settings.predict.weights)),
    )  # fmt: skip
    clean(
        settings.parcels.path, run.grids, run.register, run.overlaps, run.parcels,
        view(settings, "clean"), *for_label(settings),
    )  # fmt: skip
    for tile in read_grids(run.grids):
        rasterise(
            run.parcels, run.grids, tile, run.pixel_index(tile), run.pixel_counts(tile),
            run.label_image(tile), view(settings, "rasterise"),
        )  # fmt: skip
    return run


def observe(run: RunPaths, tile: str) -> None:
    """Write the table of assemble as if all pixels of a tile were clear on three dates."""
    index = PixelIndex.load(run.pixel_index(tile))
    table = {"parcel_id": index.parcel_ids, "n_pixels": index.sizes, "n_dates": 3, "held": True}
    run.dataset.tile(tile).parcels.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(table).astype({"parcel_id": "str"}).to_parquet(run.dataset.tile(tile).parcels)


def label_parcels(settings: Settings, run: RunPaths) -> None:
    """Run label and names on an assembled dataset."""
    tiles = sorted(read_grids(run.grids))
    label(
        run.register, run.overlaps, list(map(run.pixel_counts, tiles)),
        [run.dataset.tile(tile).parcels for tile in tiles],
        run.ledger, run.classes, run.dataset.root,
        view(settings, "label"), for_label(settings)[1],
    )  # fmt: skip
    names(run.classes, run.dataset.root, run.class_table, view(settings, "names"))


def prepare_dataset(settings: Settings, root: Path, threads: int = 2) -> RunPaths:
    """Run every stage up to the dataset."""
    run = prepare_parcels(settings, root)
    used = read_used(run.acquisitions)
    for name, row in used.items():
        extract(
            run.item(name), run.pixel_index(row.tile),
            run.extracted(name), run.extracted_valid(name), view(settings, "extract"), threads,
            run.extraction_counts(name), settings.imagery.damaged,
        )  # fmt: skip
    pixel_index = [run.pixel_index(tile) for tile in sorted(read_grids(run.grids))]
    tiles = assemble_tiles(run, sorted(read_grids(run.grids)), settings, threads)
    export(tiles, run.dataset.root, view(settings, "export"), threads)
    label_parcels(settings, run)
    normalise(run.dataset.root, run.dataset.normalisation, view(settings, "normalise"))
    features(
        run.parcels, pixel_index, run.dataset.root, run.dataset.features, run.dataset.positions
    )
    return run


def assemble_tiles(run: RunPaths, tiles, settings, threads=2, root=None) -> list[Path]:
    """Pack the pixels of tiles below the dataset of the run, or `root`. Return their folders."""
    dataset = DatasetPaths(root) if root else run.dataset
    for tile in tiles:
        assemble(
            run.acquisitions, run.extractions, run.pixel_index(tile), dataset.tile(tile).root,
            view(settings, "assemble"), threads, run.counts if run.counts.is_dir() else None,
        )  # fmt: skip
    return [dataset.tile(tile).root for tile in tiles]


def read_pixels(dataset: DatasetPaths, parcel_id: str):
    """Return the pixels of a parcel in DATA: uint16 (T, C, S)."""
    return np.load(dataset.pixels / file_name(parcel_id))


def read_valid(dataset: DatasetPaths, parcel_id: str):
    """Return which observations of a parcel are clear, from VALID: bool (T, S)."""
    return np.load(dataset.valid / file_name(parcel_id))


def opened(run: RunPaths) -> PixelSetDataset:
    """Open the dataset of a run."""
    return PixelSetDataset.open(run.dataset.root)


def copied(source, target):
    """Copy a run with the times of its files, which Snakemake compares."""
    shutil.copytree(source, target, dirs_exist_ok=True, copy_function=shutil.copy2, symlinks=True)
    for path in [source, *source.rglob("*")]:
        stat = path.stat()
        os.utime(target / path.relative_to(source), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return target


# Logs, times and memory of jobs, what is kept of inputs, and what Snakemake itself writes.
NOT_COMPARED = {
    *("logs", "benchmarks", ".digests.json", ".index.sqlite", ".checked", ".snakemake_timestamp"),
}


def comparable(run: Path) -> dict[Path, bytes]:
    """Return all artefacts of a run as they are compared: {path: bytes}.

    The bytes are those of the files, but a GeoPackage is its content as SQL without times, the
    report is without the time of prediction that it states. The items of the acquisitions,
    inputs.json and provenance.json are without times, memory, and digests of these files.
    """
    return {
        path.relative_to(run): _content(path)
        for path in sorted(run.rglob("*"))
        if path.is_file() and not NOT_COMPARED & {path.name, path.relative_to(run).parts[0]}
    }


def _content(path: Path) -> bytes:
    if path.suffix == ".html":
        return re.sub(rb"on \d+ \w+ \d{4} at\s+\d\d:\d\d UTC", b"on a day", path.read_bytes())
    if path.suffix == ".gpkg":
        with closing(sqlite3.connect(path)) as database:
            text = "\n".join(database.iterdump())
        return re.sub(r"'\d{4}-\d\d-\d\dT[\d:.]+Z'", "'time'", text).encode()
    if path.name in ("inputs.json", "provenance.json") or path.parent.name == "acquisitions":
        return json.dumps(_timeless(json.loads(path.read_bytes())), sort_keys=True).encode()
    return path.read_bytes()


# Keys of JSON whose values are times or memory, or follow from them.
_TIMES = {
    *("written", "start", "end", "seconds", "max_memory_mb", "mtime_ns", "parcelwise:digest"),
}


def _timeless(value):
    """Return a JSON value without times, and without the digests of files that contain times."""
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    if not isinstance(value, dict):
        return value
    with_times = re.compile(r"acquisitions/.+\.json|.+\.(html|gpkg)|inputs\.json")
    return {
        key: _timeless(item)
        for key, item in value.items()
        if key not in _TIMES and not with_times.fullmatch(key)
    }
