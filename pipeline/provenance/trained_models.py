"""What is known about the trained models of a run, for their model card and STAC item."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.model_description import ModelDescription
from models.model_files import (
    CALIBRATION_FILE,
    DESCRIPTION_FILE,
    PORTABLE_FILE,
    fold_folders,
    member_file,
    read_description,
)
from pipeline.report.divisions import DIVIDED_BY, SPATIAL, Divisions, divided_by, read_divisions
from pipeline.workflow.artefacts import artefact, read_json
from pipeline.workflow.config import read_record
from pipeline.workflow.paths import RunPaths

# Buffers of batch normalisation, which are not trained.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Scored:
    """Out-of-fold scores for one division of the parcels into folds.

    Attributes
    ----------
    way
        How the parcels were divided, a key of DIVIDED_BY.
    folds
        The same in words, such as "5 folds, at random".
    overall
        {method: scores}, under the reference's keys; the models' own are "model".
    """

    way: str
    folds: str
    overall: dict[str, dict[str, float]]

    @property
    def is_spatial(self) -> bool:
        """Whether parcels that are alike are kept in one fold."""
        return self.way in SPATIAL


@dataclass(frozen=True)
class TrainedModels:
    """The trained models of a run.

    Attributes
    ----------
    run
        Name of the run.
    description
        That of the first fold; all folds have the same inputs and classes.
    files
        {fold: files of its members}, model.safetensors and so on.
    n_parameters
        Trained parameters of one model.
    settings
        Settings of the run, by section.
    dataset
        META/dataset.json: bands, tiles, clouds, and whether the scene is simulated.
    scored
        Scores of the models, and with split.also those of the second division.
    classes
        {code, name, support, precision, recall, f1, iou} of every class, by falling support.
    calibration
        {"before", "after"}: errors of the confidences.
    sets
        Coverage and size of the prediction sets.
    alike
        How far parcels are alike, in words; None if it was not measured.
    bbox
        Bounds of the imagery in degrees: west, south, east, north; None if not known.
    """

    run: str
    description: ModelDescription
    files: dict[int, list[Path]]
    n_parameters: int
    settings: dict[str, Any]
    dataset: dict[str, Any]
    scored: list[Scored]
    classes: list[dict[str, Any]]
    calibration: dict[str, dict[str, Any]]
    sets: dict[str, Any]
    alike: str | None
    bbox: list[float] | None

    @property
    def is_simulated(self) -> bool:
        """Whether the scene is simulated, so that the scores say nothing about real crops."""
        return bool(self.dataset.get("simulated"))

    @property
    def n_parcels(self) -> int:
        """Number of labelled parcels that were scored out of fold."""
        return sum(one["support"] for one in self.classes)

    @property
    def season(self) -> tuple[str, str] | None:
        """First and last date of the training, ISO; None if the dates are not known."""
        dates = self.description.dates
        return (min(dates), max(dates)) if dates else None


def read_models(paths: RunPaths, records: Sequence[Path]) -> TrainedModels:
    """Read what is known about the trained models of a run.

    Parameters
    ----------
    paths
        The run.
    records
        Settings of the stages, which their jobs wrote.

    Raises
    ------
    InputError
        If an artefact is missing or damaged.
    """
    settings = read_record(records).completed()
    folders = fold_folders(paths.models)
    files = {}
    for fold, folder in folders.items():
        with artefact(folder / DESCRIPTION_FILE, "the description of a model"):
            members = read_description(folder).members
        files[fold] = [folder / member_file(PORTABLE_FILE, k + 1) for k in range(members)]
    first = next(iter(folders.values()))
    classes = read_json(paths.per_class, _classes)
    from_imagery = not (settings["dataset"]["path"] or settings["dataset"]["paths"])
    return TrainedModels(
        run=paths.root.name,
        description=read_description(first),
        files=files,
        n_parameters=_n_parameters(first / PORTABLE_FILE),
        settings=settings,
        dataset=read_json(paths.dataset.description, dict),
        scored=_scored(paths, read_divisions(paths, settings["split"]["also"])),
        classes=sorted(classes, key=lambda one: -one["support"]),
        calibration=read_json(paths.calibration_errors, dict),
        sets=read_json(paths.prediction_sets, dict),
        alike=read_json(paths.variogram, lambda v: str(v["text"]))
        if paths.variogram.is_file()
        else None,
        bbox=_bbox(paths) if from_imagery else None,
    )


def read_temperature(file: Path) -> float:
    """Return the temperature by which the log-probabilities of a fold's models are divided."""
    return read_json(file.parent / CALIBRATION_FILE, lambda values: float(values["temperature"]))


def _scored(paths: RunPaths, divisions: Divisions | None) -> list[Scored]:
    """Return the scores of split.by, and of split.also if it is set."""
    models = read_json(paths.overall, dict)
    baselines = read_json(paths.baselines, dict)
    way, n_folds = read_json(paths.folds, lambda v: (divided_by(v), len(v["folds"])))
    found = [_in_words(way, n_folds, {"model": models, **baselines})]
    if divisions is not None:
        also = divisions.also
        found.append(_in_words(also.divided_by, also.n_folds, divisions.overall))
    return found


def _in_words(way: str, n_folds: int, overall: dict[str, dict[str, float]]) -> Scored:
    return Scored(way, f"{n_folds} folds, {DIVIDED_BY[way]}", overall)


def _classes(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Check the scores of every class."""
    scores = ("precision", "recall", "f1", "iou")
    return [
        {"code": row["code"], "name": str(row["name"]), "support": int(row["support"])}
        | {key: float(row[key]) for key in scores}
        for row in rows
    ]


def _n_parameters(file: Path) -> int:
    """Count the trained parameters of a model by the header of its safetensors file."""
    with artefact(file, "a model in the format safetensors"), file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(min(size, file.stat().st_size)))
        shapes = {name: own["shape"] for name, own in header.items() if name != "__metadata__"}
    return sum(math.prod(s) for name, s in shapes.items() if not name.endswith(_BUFFERS))


def _bbox(paths: RunPaths) -> list[float] | None:
    """Return the bounds of the acquisitions that the dataset contains, in degrees."""
    names = read_json(paths.dataset.description, lambda values: values.get("acquisitions", []))
    boxes = [
        read_json(paths.item(name), lambda item: list(map(float, item["bbox"]))) for name in names
    ]
    if not boxes:
        return None
    west, south, east, north = zip(*boxes, strict=True)
    return [min(west), min(south), max(east), max(north)]
