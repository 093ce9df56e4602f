"""A small finished run, written by hand: trained models with random weights, and made-up scores."""

import json

import numpy as np

from models.metrics import class_metrics, confusion_matrix, overall_metrics
from models.standardisation import FeatureScaling, Normalisation
from pipeline.classes.crop_class import CropClass
from pipeline.evaluation.calibration_error import describe_calibration
from pipeline.evaluation.out_of_fold import OutOfFold
from pipeline.evaluation.prediction_sets import describe_sets
from pipeline.workflow.config import load
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.writing import write_json, write_text
from tests.builders.models import describe, random_model, small_model
from tests.builders.runs import recorded

CLASSES = [CropClass("BTH", "winter wheat"), CropClass("a.b", "| <b>maize*"), CropClass("a_b", "é")]
N = 60
DECLARED = np.repeat([0, 1, 2], [30, 20, 10])
PREDICTED = np.where(np.arange(N) % 6 == 0, 0, DECLARED)
BENCHMARK = "s\th:m:s\tmax_rss\tmax_vms\n{}\t0:00:01\t{}\t5\n"
SOFTWARE = {
    "parcelwise": "0.1.0",
    "commit": "abc",
    "modified": False,
    "python": "3.11.7",
    "packages": {"numpy": "2.4.6", "torch": "2.13.0"},
}
MACHINE = {"system": "Linux", "processor": "x", "cores": 2, "memory_gb": 8.0, "gpus": []}
LOG = {
    str(epoch): {"train_loss": 1 / epoch, "train_accuracy": 50.0, "train_IoU": 0.1}
    for epoch in (1, 2, 3)
}


def make_finished(folder, *, simulated=True, also=None, members=1, normalisation=None):
    """Write results/hand below a folder; return its paths and the records of its settings."""
    run = RunPaths(folder / "results" / "hand")
    values = {"run": "hand", "train": {"epochs": 3, "members": members}, "split": {"folds": 2}}
    if also is not None:
        values["split"] |= {"also": also}
    records = recorded(load(values), run)
    write_json(run.dataset.description, {"simulated": simulated, "bands": ["B04", "B08"]})
    for part in (run, *([run.divided_by(also)] if also else [])):
        make_models(part, "random" if part is run else also, members, normalisation)
    write_text(run.benchmark("split"), BENCHMARK.format(1.5, 80.25))
    write_text(run.benchmark("train/Fold_1"), BENCHMARK.format(2, "-"))
    write_json(run.logs / "split.json", SOFTWARE | {"machine": MACHINE})
    write_text(run.predictions.with_suffix(".csv"), "parcel_id,pred_code\n1,BTH\n")
    write_text(run.report, "<p>page</p>")
    return run, records


def make_models(run, way, members, normalisation):
    """Write two folds and their scores."""
    normalisation = normalisation or Normalisation(np.array([900.0, 3000.0]), np.array([1.0, 0.0]))
    description = describe(
        small_model("pseltae", n_extra=4),
        normalisation,
        FeatureScaling(np.arange(4.0), np.ones(4)),
        class_codes=[c.code for c in CLASSES],
        class_names=[c.name for c in CLASSES],
        members=members,
        versions={"torch": "2.13.0+cpu"},
        dates=["2018-03-01", "2018-09-20"],
    )
    for fold in (1, 2):
        random_model(description, seed=fold).save(run.fold(fold))
        write_json(run.fold(fold) / "trainlog.json", LOG)
        values = {"temperature": 0.7 + fold / 10, "n_parcels": 30, "note": None}
        write_json(run.calibration(fold), values)
    matrix = confusion_matrix(DECLARED, PREDICTED, 3)
    scores = {"model": overall_metrics(matrix)}
    scores["majority"] = overall_metrics(confusion_matrix(DECLARED, np.zeros(N, int), 3))
    write_json(run.overall, scores["model"])
    write_json(run.baselines, {"majority": scores["majority"]})
    spread = {m: {k: {"mean": v, "std": 0.1} for k, v in own.items()} for m, own in scores.items()}
    write_json(run.spread, spread)
    write_json(run.folds, {"by": way, "seed": 1, "folds": [{}, {}]})
    keys = ("Precision", "Recall", "F1-score", "IoU")
    rows = zip(CLASSES, matrix.sum(1), class_metrics(matrix).values(), strict=True)
    names = ("precision", "recall", "f1", "iou")
    write_json(
        run.per_class,
        [
            {"code": c.code, "name": c.name, "support": int(n)}
            | {name: float(own[key]) for name, key in zip(names, keys, strict=True)}
            for c, n, own in rows
        ],
    )
    log_probabilities = np.full((N, 3), np.log(0.1), np.float32)
    log_probabilities[np.arange(N), PREDICTED] = np.log(0.8)
    folds = np.repeat([1, 2], N // 2)
    found = OutOfFold([], folds, DECLARED, log_probabilities, np.array([0.8, 0.9]))
    write_json(run.calibration_errors, describe_calibration(found, CLASSES))
    write_json(run.prediction_sets, describe_sets(found, CLASSES, 0.1))


def read(path):
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
