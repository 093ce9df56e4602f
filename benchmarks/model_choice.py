"""Cross-validate PSE+TAE and PSE+L-TAE beside the baselines, to choose the default of `model.name`.

    python -m benchmarks.model_choice DATA WORK

DATA contains canada-2017, points-2017 and flanders-2018. WORK/flanders and WORK/demo are the
Pixel-Set datasets of configs/flanders.yaml and configs/demo.yaml. Missing ones are skipped. The
scores of trained models are written to WORK, and read from there the next time.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from models.crop_model import CropModel, ensemble
from models.hyperparameters import MODEL_NAMES
from models.metrics import confusion_matrix, overall_metrics
from models.model_description import DataDescription
from models.pixel_sets import PixelSets
from models.standardisation import Normalisation
from pipeline.dataset.pixel_set_dataset import Fold, PixelSetDataset
from pipeline.evaluation.baselines import classify_series, fill_gaps, majority
from pipeline.evaluation.scores import Matrix
from pipeline.stages.evaluate import add_up
from pipeline.stages.split import divide
from pipeline.stages.train import training_parts, training_settings
from pipeline.workflow.config import load
from pipeline.workflow.settings import Settings, TrainSettings, part_of

SEEDS = (1, 2, 3)
NO_DATA = 65535
CPU = torch.device("cpu")
METRICS = {"Accuracy": "overall accuracy", "MACRO_F1-score": "macro F1", "MACRO_IoU": "mean IoU"}


@dataclass(frozen=True, eq=False)
class Task:
    """Parcels, their division into folds, and the settings of the training.

    Attributes
    ----------
    parts
        int64, the parcels of each fold's test part.
    train
        Settings of the section train, beside the recipe default.
    """

    name: str
    data: PixelSets
    parts: list[NDArray[np.int64]]
    train: dict[str, int]

    @property
    def settings(self) -> Settings:
        """The recipe default, with fewer epochs or parcels to save time."""
        return load({"train": self.train})

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return int(self.data.labels.max()) + 1

    @property
    def folds(self) -> list[Fold]:
        """The folds, as split makes them: the validation part is the test part of the next."""
        rotated = (self.parts[k:] + self.parts[:k] for k in range(len(self.parts)))
        return [Fold(np.concatenate(rest), validation, test) for test, validation, *rest in rotated]

    @property
    def about(self) -> DataDescription:
        """Numbers instead of names; the normalisation is per channel, over pixels and dates."""
        pixels = self.data.pixels[:].astype(np.float64)
        return DataDescription(
            bands=[str(i) for i in range(self.data.n_channels)],
            class_codes=[str(i) for i in range(self.n_classes)],
            class_names=[str(i) for i in range(self.n_classes)],
            first_date=date(2017, 1, 1),
            normalisation=Normalisation(pixels.mean((0, 1)), pixels.std((0, 1))),
        )


def main() -> None:
    """Compare on all tasks and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--models", nargs="*", choices=MODEL_NAMES, default=MODEL_NAMES)
    parser.add_argument("--only", default="", help="tasks whose name contains this")
    parser.add_argument(
        "--full", action="store_true", help="the whole recipe, instead of fewer epochs"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"|{'|'.join(('task', 'method', *METRICS.values()))}|\n|---|---|---:|---:|---:|")
    for task in tasks(options.data, options.work, full=options.full):
        if options.only.lower() not in task.name.lower():
            continue
        scores = options.work / ("scores_full" if options.full else "scores")
        for method, matrices in compare(task, scores, options.models).items():
            print(f"| {task.name} | {method} | {' | '.join(_spread(matrices))} |", flush=True)


def tasks(data: Path, work: Path, *, full: bool = False) -> Iterator[Task]:
    """Yield the tasks whose data are present, with fewer epochs unless `full`."""
    few: dict[str, int] = {} if full else {"epochs": 40}
    if (file := data / "points-2017" / "test_public_extractions.parquet").is_file():
        points = read_points(file)
        yield Task("points, at random", points, divided(points), few)
    if (file := data / "canada-2017" / "points.parquet").is_file():
        points, cells = read_canada(file)
        yield Task("Canada, at random", points, divided(points), few)
        yield Task("Canada, whole cells", points, divided(points, cells), few)
    if (folder := work / "flanders").is_dir():
        pieces = PixelSetDataset.open(folder).pixel_sets(with_features=True)
        train = {} if full else {"epochs": 60, "batch_size": 32}
        yield Task("Flanders, at random", pieces, divided(pieces), train)
        # Half of the maize is two fields, so the folds are stratified by class, too.
        labelled = np.flatnonzero(pieces.labels >= 0)
        fields = _fields([pieces.ids[i] for i in labelled], data / "flanders-2018")
        whole = StratifiedGroupKFold(4, shuffle=True, random_state=1)
        parts = [labelled[p] for _, p in whole.split(labelled, pieces.labels[labelled], fields)]
        yield Task("Flanders, whole fields", pieces, parts, train)
    if (folder := work / "demo").is_dir():
        parcels = PixelSetDataset.open(folder).pixel_sets(with_features=True)
        train = {"epochs": 60 if full else 30, "pixels": 32}
        yield Task("demo, SIMULATED", parcels, divided(parcels), train)


def divided(data: PixelSets, groups: NDArray[np.int64] | None = None) -> list[NDArray[np.int64]]:
    """Divide the labelled parcels into five parts at random; groups, int64 (N,), stay together."""
    labelled = np.flatnonzero(data.labels >= 0)
    by, blocks = ("random", None) if groups is None else ("block", groups[labelled])
    parts = divide(data.labels[labelled], 5, by=by, blocks=blocks, seed=1)
    return [labelled[part] for part in parts]


def compare(
    task: Task, scores: Path, names: Sequence[str] = MODEL_NAMES
) -> dict[str, list[Matrix]]:
    """Return {method: confusion matrices over all folds, one for each seed}."""
    compared = {"majority": [add_up(majority(task.data.labels, task.folds, task.n_classes))]}
    for method, matrices in classify_series(
        task.data, task.folds, task.n_classes, seed=1, threads=1
    ).items():
        compared[method] = [add_up(matrices)]
    for name in names:
        tested = [
            [_scores(task, name, k, seed, scores) for seed in SEEDS] for k in range(len(task.parts))
        ]
        compared[name] = [_pooled(task, [of[i] for of in tested]) for i in range(len(SEEDS))]
        compared[f"{name}, {len(SEEDS)} averaged"] = [
            _pooled(task, [ensemble(of) for of in tested])
        ]
    return compared


def _pooled(task: Task, scores: list[NDArray[np.float32]]) -> Matrix:
    """Return the confusion matrix over all folds from the scores of each fold's test part."""
    matrices = (
        confusion_matrix(task.data.labels[fold.test], of_fold.argmax(1), task.n_classes)
        for fold, of_fold in zip(task.folds, scores, strict=True)
    )
    return add_up(list(matrices))


def _scores(task: Task, name: str, fold: int, seed: int, folder: Path) -> NDArray[np.float32]:
    """Train a model and predict the test part, or read the scores of an earlier run."""
    path = folder / task.name / f"{name}_{fold + 1}_{seed}.npy"
    if path.is_file():
        return np.asarray(np.load(path), np.float32)
    settings = part_of(task.settings, TrainSettings)
    model = CropModel.fit(
        *(task.data, *training_parts(task.folds[fold], settings)),
        about=task.about,
        architecture={"name": name},
        training=replace(training_settings(settings), seed=seed),
        device=CPU,
    )
    scores = model.log_probabilities(task.data, task.folds[fold].test, batch_size=256)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, scores)
    return scores


def _spread(matrices: list[Matrix]) -> Iterator[str]:
    """Yield mean and standard deviation (ddof 1) of every metric over the seeds, in per cent."""
    for metric in METRICS:
        values = [100 * overall_metrics(matrix)[metric] for matrix in matrices]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        yield f"{statistics.fmean(values):.1f}{spread}"


def read_points(file: Path) -> PixelSets:
    """Read points-2017: twelve monthly steps, classes of at least 12 points."""
    resolutions = dict.fromkeys(("B02", "B03", "B04", "B08"), 10)
    bands = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
    table = pd.read_parquet(file)
    columns = [
        [f"OPTICAL-{band}-ts{t}-{resolutions.get(band, 20)}m" for band in bands] for t in range(12)
    ]
    series = np.stack([table[names].to_numpy(np.float64) for names in columns], axis=1)
    frequent = table["ewoc_code"].value_counts()[lambda counts: counts >= 12].index
    months = pd.date_range("2016-12-01", periods=12, freq="MS")
    days = (months - months[0]).days.to_numpy(np.int64)
    return _one_pixel_each(series, days, table["ewoc_code"].to_numpy(), list(frequent))


def read_canada(file: Path, *, masked: bool = False) -> tuple[PixelSets, NDArray[np.int64]]:
    """Read the six frequent classes of canada-2017, and the cell of each point.

    Nodata is interpolated, and masked if that is set.
    """
    table = pd.read_parquet(file)
    codes = [1110, 1120, 1200, 4100, 7920, 9120]
    table = table[table["CROPTYPE_LABEL"].isin(codes)]
    bands = [f"S2-L2A-B{band}" for band in ("02", "03", "04", "05", "06", "07", "08", "11", "12")]
    steps = np.sort(table["timestamp"].unique())
    points, which = np.unique(table["sample_id"], return_inverse=True)
    series = np.full((len(points), len(steps), len(bands)), np.float64(NO_DATA))
    series[which, np.searchsorted(steps, table["timestamp"])] = table[bands]
    of_point = table.groupby("sample_id").first().loc[points]
    days = ((steps - steps[0]) / np.timedelta64(1, "D")).round().astype(np.int64)
    cells = np.unique(of_point["h3_l3_cell"], return_inverse=True)[1].astype(np.int64)
    data = _one_pixel_each(series, days, of_point["CROPTYPE_LABEL"].to_numpy(), codes)
    # All codes are chosen, so that the points are those of the series.
    clear: NDArray[np.bool_] = ~(series == NO_DATA).any(axis=2)
    return replace(data, clear=clear) if masked else data, cells


def _one_pixel_each(
    series: NDArray[np.float64],
    days: NDArray[np.int64],
    codes: NDArray[np.int64],
    classes: list[int],
) -> PixelSets:
    """Make pixel sets of points from series (N, T, C); nodata is interpolated linearly in time."""
    chosen = np.isin(codes, classes)
    series, codes = series[chosen], codes[chosen]
    series[(series == NO_DATA).any(axis=2)] = np.nan
    n = len(series)
    return PixelSets(
        ids=[str(i) for i in range(n)],
        pixels=fill_gaps(series, days).round().astype(np.uint16),
        offsets=np.arange(n + 1),
        days=np.tile(days, (n, 1)),
        labels=np.array([classes.index(code) for code in codes]),
    )


def _fields(ids: list[str], folder: Path) -> NDArray[np.int64]:
    """Find the field from which each Flemish piece was cut."""
    import geopandas as gpd

    pieces = gpd.read_file(folder / "parcels_subdivided.gpkg")
    pieces = pieces.assign(ID_PARCEL=pieces["ID_PARCEL"].astype(str)).set_index("ID_PARCEL")
    fields = gpd.read_file(folder / "parcels.gpkg")
    inside = pieces.loc[ids].set_geometry(pieces.loc[ids].representative_point())
    joined = inside.sjoin(fields[["geometry"]], predicate="within")
    return np.asarray(joined.loc[ids, "index_right"], np.int64)


if __name__ == "__main__":
    main()
