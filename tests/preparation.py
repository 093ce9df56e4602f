"""Run the stages from imagery to dataset in one process, as the workflow does."""

from pathlib import Path

import yaml

from pipeline.acquisition_table import read_used
from pipeline.assemble import assemble
from pipeline.clean import clean
from pipeline.config import Settings, load, view
from pipeline.extract import extract
from pipeline.features import features
from pipeline.index import index
from pipeline.normalise import normalise
from pipeline.paths import RunPaths
from pipeline.rasterise import rasterise

CONFIGS = Path(__file__).parents[1] / "configs"


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


def prepare_parcels(settings: Settings, root: Path) -> RunPaths:
    """Run index, clean and rasterise."""
    run = RunPaths(root)
    index(settings.imagery.path, run.acquisitions, run.grids, view(settings, "index"))
    clean(
        settings.parcels.path, run.grids, run.ledger, run.parcels, run.classes,
        view(settings, "clean"),
    )  # fmt: skip
    rasterise(run.parcels, run.grids, run.pixel_index, run.label_image, view(settings, "rasterise"))
    return run


def prepare_dataset(settings: Settings, root: Path, threads: int = 2) -> RunPaths:
    """Run every stage up to the dataset."""
    run = prepare_parcels(settings, root)
    used = read_used(run.acquisitions)
    for name, row in used.items():
        extract(
            row.product, name, run.pixel_index, run.extracted(name), run.extracted_valid(name),
            view(settings, "extract"), threads,
        )  # fmt: skip
    assemble(
        run.acquisitions, run.extractions, run.pixel_index, run.parcels, run.classes,
        run.dataset.root, view(settings, "assemble"), threads,
    )  # fmt: skip
    normalise(run.dataset.root, run.dataset.normalisation, view(settings, "normalise"))
    features(run.parcels, run.pixel_index, run.dataset.features, run.dataset.positions)
    return run
