"""Damage to any artefact of a run ends in one message: the file, and the stage to run again.

Every file of a small finished run is damaged in several ways, and every stage that reads it is run.
"""

import logging
import os
import re
import shutil

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from shapely import box

from geo.errors import InputError
from models.errors import InputError as ModelInputError
from pipeline.stages.areas import areas
from pipeline.stages.assemble import assemble
from pipeline.stages.calibrate import calibrate
from pipeline.stages.clean import clean
from pipeline.stages.evaluate import evaluate
from pipeline.stages.evaluate_season import evaluate_season
from pipeline.stages.explain import explain
from pipeline.stages.export import export
from pipeline.stages.extract import extract
from pipeline.stages.features import features
from pipeline.stages.label import label
from pipeline.stages.names import names
from pipeline.stages.normalise import normalise
from pipeline.stages.predict import predict
from pipeline.stages.rasterise import rasterise
from pipeline.stages.report import report
from pipeline.stages.split import split
from pipeline.stages.train import train
from pipeline.stages.variogram import variogram
from pipeline.stages.worklist import worklist
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import RunPaths, writer_of
from pipeline.workflow.settings import STAGE_SETTINGS
from tests.builders.runs import for_label, prepare_dataset, recorded

DAYS = ("20220403", "20220508", "20220613", "20220722")
BANDS = ("B03", "B04", "B08")
X, Y, TILE, FIRST = 500_000, 5_600_000, "31UDS", "20220403_31UDS"
N = 24


def write_inputs(folder):
    """Write four GeoTIFFs, and a register of 24 parcels of two crops."""
    rng = np.random.default_rng(3)
    imagery = folder / "imagery"
    imagery.mkdir()
    for day in DAYS:
        profile = {"crs": "EPSG:32631", "transform": rasterio.transform.from_origin(X, Y, 10, 10)}
        with rasterio.open(
            imagery / f"{day}_T31UDS.tif", "w", driver="GTiff", height=64, width=40,
            count=len(BANDS), dtype="uint16", **profile,
        ) as raster:  # fmt: skip
            raster.write(rng.integers(300, 4000, (len(BANDS), 64, 40)).astype(np.uint16))
            raster.descriptions = BANDS
    outlines = [box(X + 20, Y - 24 * i - 40, X + 60, Y - 24 * i - 20) for i in range(N)]
    table = {"ID": [f"p{i}" for i in range(N)], "CODE": ["wheat", "maize"] * (N // 2)}
    gpd.GeoDataFrame(table, geometry=outlines, crs=32631).to_file(folder / "register.gpkg")
    return load(
        {
            "imagery": {"path": str(imagery), "bands": list(BANDS), "radiometry": "trust"},
            "parcels": {
                "path": str(folder / "register.gpkg"), "id": "ID", "labels": {"crop": "CODE"},
                "classes": {"min_parcels": 2},
            },
            "split": {"folds": 2},
            "train": {"epochs": 1, "batch_size": 8, "pixels": 4, "device": "cpu", "members": 1},
        }
    )  # fmt: skip


class Stages:
    """The stages of a run that read artefacts, by name."""

    def __init__(self, settings, run):
        self.run, self.settings = run, settings

    def __call__(self, stage):
        logging.disable(logging.CRITICAL)
        try:
            own = view(self.settings, stage) if stage in STAGE_SETTINGS else None
            getattr(self, f"_{stage}")(self.run, own)
        finally:
            logging.disable(logging.NOTSET)

    def _clean(self, run, settings):
        clean(
            self.settings.parcels.path, run.grids, run.register, run.overlaps, run.parcels,
            settings, *for_label(self.settings),
        )  # fmt: skip

    def _rasterise(self, run, settings):
        rasterise(
            run.parcels, run.grids, TILE, run.pixel_index(TILE), run.pixel_counts(TILE),
            run.label_image(TILE), settings,
        )  # fmt: skip

    def _extract(self, run, settings):
        extract(
            run.item(FIRST), run.pixel_index(TILE), run.extracted(FIRST),
            run.extracted_valid(FIRST), settings, 1, run.extraction_counts(FIRST),
        )  # fmt: skip

    def _assemble(self, run, settings):
        tile = run.dataset.tile(TILE).root
        index = run.pixel_index(TILE)
        assemble(run.acquisitions, run.extractions, index, tile, settings, 1, run.counts)

    def _export(self, run, settings):
        export([run.dataset.tile(TILE).root], run.dataset.root, settings)

    def _label(self, run, settings):
        label(
            run.register, run.overlaps, [run.pixel_counts(TILE)],
            [run.dataset.tile(TILE).parcels], run.ledger, run.classes, run.dataset.root, settings,
        )  # fmt: skip

    def _names(self, run, settings):
        names(run.classes, run.dataset.root, run.class_table, settings)

    def _normalise(self, run, settings):
        normalise(run.dataset.root, run.dataset.normalisation, settings)

    def _features(self, run, settings):  # noqa: ARG002 (it has no settings)
        features(
            run.parcels, [run.pixel_index(TILE)], run.dataset.root, run.dataset.features,
            run.dataset.positions,
        )  # fmt: skip

    def _variogram(self, run, settings):
        variogram(run.dataset.root, run.variogram, settings)

    def _split(self, run, settings):
        suggested = load({"split": {"folds": 2, "block_m": "auto"}})
        split(
            run.dataset.root, run.divided_by("block").folds, view(suggested, "split"), "block",
            variogram=run.variogram,
        )  # fmt: skip
        by_column = load({"split": {"folds": 2, "by": "group", "column": "CODE"}})
        split(
            run.dataset.root, run.divided_by("group").folds, view(by_column, "split"),
            register=run.register,
        )  # fmt: skip
        split(run.dataset.root, run.folds, settings)

    def _train(self, run, settings):
        train(run.dataset.root, run.folds, 1, run.fold(1), settings)

    def _train_season(self, run, settings):
        settings = view(self.settings, "train")
        for fold in (1, 2):
            train(run.dataset.root, run.folds, fold, run.season.fold(fold), settings, ends="random")

    def _evaluate_season(self, run, settings):
        evaluate_season(
            run.dataset.root, run.folds, run.season.models, run.season_accuracy,
            run.season_parcels, run.season_summary, settings,
        )  # fmt: skip

    def _calibrate(self, run, settings):
        calibrate(run.dataset.root, run.folds, run.models, settings)

    def _evaluate(self, run, settings):
        evaluate(run.dataset.root, run.folds, run.models, settings)

    def _predict(self, run, settings):
        predict(
            run.dataset.root, run.models, run.ledger, run.predictions, settings, run.folds,
            self.settings.parcels.path, run.doubts, cleaned=run.register, grids=run.grids,
            acquisitions=run.acquisitions,
        )  # fmt: skip

    def _areas(self, run, settings):
        areas(
            run.predictions.with_suffix(".parquet"), run.register, run.dataset.root, run.areas,
            settings, run.mean_probabilities,
        )  # fmt: skip

    def _worklist(self, run, settings):
        worklist(
            run.predictions.with_suffix(".parquet"), run.probabilities, run.doubts,
            run.dataset.root, run.to_check, run.quality_sample, run.worklist_account, settings,
            run.parcels,
        )  # fmt: skip

    def _explain(self, run, settings):
        explain(
            run.dataset.root, run.models, run.probabilities, run.attention, run.attention_account,
            settings, run.folds,
        )  # fmt: skip

    def _report(self, run, settings):
        records = sorted(run.settings.rglob("*.json"))
        report(run.root, run.report, records, settings)


# The stages that read an artefact, by its path in the run.
READ = {
    "acquisitions.json": "assemble predict report",
    "grids.json": "clean rasterise predict",
    f"acquisitions/{FIRST}.json": "extract",
    "parcels/register.parquet": "label split predict areas",
    "parcels/overlaps.parquet": "label",
    f"parcels/tiles/{TILE}.parquet": "rasterise features worklist",
    f"parcels/tiles/{TILE}.rejected.parquet": "rasterise",
    f"parcels/pixel_index/{TILE}.npz": "extract assemble features",
    f"parcels/pixel_index/{TILE}.counts.parquet": "label",
    f"extracted/{FIRST}.npy": "assemble",
    f"extracted/{FIRST}.valid.npy": "assemble",
    f"pixel_counts/{FIRST}.json": "assemble",
    f"dataset/tiles/{TILE}/parcels.parquet": "export label",
    f"dataset/tiles/{TILE}/tile.json": "export",
    f"dataset/tiles/{TILE}/pixels.npy": "normalise export train calibrate evaluate predict",
    f"dataset/tiles/{TILE}/clear.npy": "export evaluate_season report",
    "dataset/normalisation_values.pkl": "train",
    "dataset/META/positions.json": "variogram split worklist",
    "dataset/META/dates.json": "variogram train calibrate evaluate predict report",
    "dataset/META/sizes.json": "split train calibrate evaluate predict worklist report",
    "dataset/META/n_dates.json": "report",
    "dataset/META/tiles.json": "train calibrate evaluate predict worklist",
    "dataset/META/dataset.json": "normalise train calibrate evaluate predict worklist report",
    "dataset/META/geomfeat.json": "train calibrate predict",
    "dataset/META/labels.json": "split train calibrate evaluate predict report",
    "dataset/META/nomenclature.json": "split train calibrate evaluate",
    "dataset/META/classes.json": "split train calibrate evaluate predict report",
    "dataset/META/names.json": "evaluate predict report",
    "variogram.json": "split report",
    "folds.json": "train calibrate evaluate predict report",
    "models/Fold_1/model.json": "calibrate predict report",
    "models/Fold_1/model.pth.tar": "calibrate predict",
    "models/Fold_1/calibration.json": "evaluate predict report",
    "models/out_of_fold.parquet": "evaluate predict",
    "models/Fold_1/trainlog.json": "report",
    "models/Fold_1/test_metrics.json": "report",
    "models/overall.json": "report",
    "models/baselines.json": "report",
    "models/per_class.json": "report",
    "models/calibration.json": "report",
    "models/prediction_sets.json": "report",
    "season/models/Fold_1/model.json": "evaluate_season",
    "season/models/Fold_1/model.pth.tar": "evaluate_season",
    "season/accuracy.parquet": "report",
    "season/season.json": "report",
    "parcels/ledger.parquet": "predict report",
    "parcels/classes.json": "names report",
    "predictions/parcels.parquet": "areas worklist report",
    "predictions/mean_probabilities.parquet": "areas",
    "predictions/areas.parquet": "report",
    "predictions/areas.json": "report",
    "predictions/attention.json": "report",
    "predictions/parcels.gpkg": "report",
    "predictions/doubts.json": "worklist report",
    "predictions/probabilities.parquet": "explain worklist",
    "predictions/to_check.parquet": "report",
    "predictions/worklist.json": "report",
    "settings/train.json": "report",
}
# Files for people and other software, or for runs with other settings.
NOT_READ = re.compile(
    r".*\.csv|.*\.html|.*\.safetensors|dataset/(DATA|VALID)/.*|.*/label_image/.*|.*/conf_mat\.pkl|"
    r"config\.yaml|\.index\.sqlite|report/figures/.*|.*/observations\.parquet|.*_fiboa\.parquet|.*/to_check\.gpkg|.*/quality_sample\.parquet|"
    r".*/attention\.parquet|report/map.*|"
    r"models/spread\.json|season/parcels\.parquet|season/models/Fold_1/trainlog\.json|"
    r".*/trained_on\.npy"
)
# The same as others.
ALIKE = re.compile(
    r"folds_.*|acquisitions/.*|extracted/.*|pixel_counts/.*|(season/)?models/Fold_2/.*|settings/.*"
)

DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "cut by a byte": lambda content: content[:-1],
    "emptied": lambda content: b"",  # noqa: ARG005
    "zeroed": lambda content: bytes(len(content)),
    "half zeroed": lambda content: content[: len(content) // 2] + bytes(-(-len(content) // 2)),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Settings and folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    settings = write_inputs(folder)
    run = prepare_dataset(settings, folder / "run")
    stages = Stages(settings, run)
    stages("variogram")
    stages("split")
    train(run.dataset.root, run.folds, 2, run.fold(2), view(settings, "train"))
    recorded(settings, run)
    for stage in ("train", "train_season", "calibrate", "evaluate", "evaluate_season", "predict"):
        stages(stage)
    stages("areas")
    stages("worklist")
    stages("explain")
    stages("report")
    return settings, run


@pytest.fixture
def stages(finished):
    """The stages in a copy of the run beside it, because items refer to the imagery by `..`."""
    settings, run = finished
    copy = run.root.with_name(f"copy_{os.getpid()}")
    shutil.copytree(run.root, copy)
    yield Stages(settings, RunPaths(copy))
    shutil.rmtree(copy)


def test_every_file_of_the_run_is_in_the_table(finished):
    _, run = finished
    files = {p.relative_to(run.root).as_posix() for p in run.root.rglob("*") if p.is_file()}
    assert READ.keys() <= files
    assert not [
        f for f in files - READ.keys() if not NOT_READ.fullmatch(f) and not ALIKE.fullmatch(f)
    ]


@pytest.mark.parametrize("file", READ)
def test_writers(finished, file):
    """The stage that is named has written the file: its rule has it among its outputs."""
    _, run = finished
    if not file.startswith("settings/"):
        assert writer_of(run.root / file) in STAGE_SETTINGS.keys() | {"features", "train_season"}


def refusal(stages, file, damage, stage):
    """Return the message of a stage about a damaged file; "" if it does not mind."""
    path = stages.run.root / file
    path.write_bytes(damage(path.read_bytes()))
    try:
        stages(stage)
    except InputError as error:
        return str(error)
    return ""


def check(message, stages, file):
    path = stages.run.root / file
    writer = "train" if file.startswith("settings/") else writer_of(path)
    assert str(path) in message
    assert f"snakemake -R {writer}" in message
    assert "\n" not in message


# Not damaged: the last byte is a line break, or no table of SQLite needs it.
COMPLETE = {
    "acquisitions.json", "models/Fold_1/model.json", "season/models/Fold_1/model.json",
    "predictions/parcels.gpkg",
}  # fmt: skip
# The header is intact, and nothing else tells. Files are flushed, so no power cut does this.
UNNOTICED = ("pixels.npy", "clear.npy", f"{FIRST}.npy", f"{FIRST}.valid.npy")
CASES = [
    (file, way)
    for file in READ
    for way in DAMAGE
    if not (way == "cut by a byte" and file in COMPLETE)
    and not (way == "half zeroed" and file.endswith(UNNOTICED))
]


@pytest.mark.parametrize("file", READ)
def test_a_cut_file_is_named(stages, file):
    check(refusal(stages, file, DAMAGE["cut"], READ[file].split()[0]), stages, file)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "way"), CASES)
def test_every_damage_is_named_by_every_stage(stages, file, way):
    before = (stages.run.root / file).read_bytes()
    for stage in READ[file].split():
        check(refusal(stages, file, DAMAGE[way], stage), stages, file)
        (stages.run.root / file).write_bytes(before)


@pytest.mark.parametrize(
    "file",
    [
        f"acquisitions/{FIRST}.json",
        "models/Fold_1/model.json",
        "models/Fold_1/model.pth.tar",
        "season/models/Fold_1/model.pth.tar",
    ],
)
def test_a_missing_file_is_named(stages, file):
    """These are not outputs of rules. Snakemake makes missing outputs again."""
    (stages.run.root / file).unlink()
    with pytest.raises(InputError) as error:
        stages(READ[file].split()[0])
    assert str(stages.run.root / file) in str(error.value)
    assert f"snakemake -R {writer_of(stages.run.root / file)}" in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("file", READ)
def test_a_flipped_bit_is_no_bug(stages, file):
    """It is refused, or changes a value that nothing else tells."""
    rng = np.random.default_rng(8)
    path = stages.run.root / file
    content = path.read_bytes()
    # The beginning and the end of a file have most of its structure.
    size = len(content)
    places = [*rng.integers(size, size=4), *rng.integers(min(size, 200), size=4)]
    places += [size - 1 - place for place in rng.integers(min(size, 600), size=4)]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        for stage in READ[file].split():
            path.write_bytes(flipped)
            try:
                stages(stage)
            except (InputError, ModelInputError) as error:
                assert "\n" not in str(error)
