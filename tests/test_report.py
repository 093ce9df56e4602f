"""The report: a hand-made run, small enough to count by eye."""

import csv
import json
import re
from datetime import date
from html.parser import HTMLParser

import geopandas
import numpy as np
import pandas as pd
import pytest
import yaml
from shapely.geometry import Point, box

from models.metrics import class_metrics, confusion_matrix, overall_metrics
from pipeline.acquisition_table import AcquisitionRow, write_acquisitions
from pipeline.class_colours import COLOURS, SHARED, class_colours
from pipeline.config import Settings
from pipeline.paths import RunPaths
from pipeline.pixel_set_store import LandClass, write_arrays, write_metadata
from pipeline.report import in_ten, report
from pipeline.report_confidence import confidence_groups, confidence_thresholds, wilson_interval
from pipeline.report_scores import confusions, frequent_confusions, out_of_fold, read_predictions
from pipeline.report_seasons import ndvi_by_class
from pipeline.writing import write_json

CLASSES = [
    LandClass("BTH", "winter wheat"),
    LandClass("MIS", "maize"),
    LandClass("PPH", "grass <&>"),
]
DATES = [date(2018, 3, 1), date(2018, 5, 10), date(2018, 7, 2), date(2018, 9, 20)]
N = 60
# Declared class of the 60 parcels that are learnt, and what was predicted: 50 of 60 are right.
DECLARED = np.repeat([0, 1, 2], [30, 20, 10])
PREDICTED = np.concatenate(
    [np.repeat([0, 1], [26, 4]), np.repeat([1, 2], [17, 3]), np.repeat([2, 0], [7, 3])]
)


def write_csv(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def make_dataset(paths, *, simulated, labelled=True):
    rng = np.random.default_rng(1)
    ids = [f"{i:03}" for i in range(N + 2)]
    labels = {
        i: (CLASSES[c].code if labelled else None) for i, c in zip(ids, DECLARED, strict=False)
    }
    pixels = {i: rng.integers(1, 4000, (len(DATES), 2, 5), np.uint16) for i in ids}
    valid = {i: rng.random((len(DATES), 5)) < 0.8 for i in ids}
    for folder, arrays in ((paths.pixels, pixels), (paths.valid, valid)):
        folder.mkdir(parents=True)
        write_arrays(folder, arrays.items())
    write_metadata(
        paths,
        dates=DATES,
        labels={"crop": labels | {"060": None, "061": "LUZ" if labelled else None}},
        sizes=dict.fromkeys(ids, 5),
        n_dates={i: int(valid[i].any(axis=1).sum()) for i in ids},
        classes=CLASSES if labelled else [],
        description={
            **{"bands": ["B04", "B08"], "nomenclature": "crop", "tile": "31TFM", "fill": "linear"},
            **{"crs": "EPSG:32631", "simulated": simulated, "mask": "auto", "acquisitions": []},
            "names": {c.code: c.name for c in CLASSES} | {"LUZ": "alfalfa"},
        },
    )


def make_inputs(paths, *, labelled=True):
    rows = [
        AcquisitionRow(
            f"a{d}", "31TFM", d, f"p{d}", "safe", "02.14", "Sentinel-2A", "0", 0.1, True, ""
        )
        for d in DATES
    ]
    rows.append(
        rows[0]._replace(
            date=date(2018, 4, 4), used=False, reason="too_cloudy", cloud_fraction=0.97
        )
    )
    write_acquisitions(paths.acquisitions, sorted(rows, key=lambda row: row.date))
    ledger = [
        (f"{i:03}", "used" if labelled else "predict_only", "" if labelled else "no_label")
        for i in range(N)
    ]
    ledger += [("060", "predict_only", "no_label"), ("061", "predict_only", "class_too_rare")]
    ledger += [
        ("", "rejected", "missing_id"),
        ("000", "rejected", "duplicate_id"),
        ("9", "rejected", "null_geometry"),
    ]
    write_csv(
        paths.ledger,
        ("row", "parcel_id", "status", "reason", "mended", "tile", "n_pixels", "code"),
        [(i, *row, i == 7, "31TFM", 5, "") for i, row in enumerate(ledger)],
    )
    classes = [
        (i, c.code, c.name, n, True, "")
        for i, (c, n) in enumerate(zip(CLASSES, (30, 20, 10), strict=True))
    ]
    classes.append(("", "LUZ", "alfalfa", 1, False, "too_rare"))
    columns = ("class_index", "code", "name", "n_parcels", "used", "reason")
    write_csv(paths.classes, columns, classes if labelled else [])
    return ledger


def make_models(paths):
    matrix = confusion_matrix(DECLARED, PREDICTED, 3)
    folds = []
    for number, test in enumerate(np.array_split(np.arange(N), 2), 1):
        rest = [f"{i:03}" for i in range(N) if i not in test]
        folds.append(
            {"train": rest[:20], "validation": rest[20:], "test": [f"{i:03}" for i in test]}
        )
        epochs = {
            str(e): {
                f"{p}_{k}": v
                for p in ("train", "val")
                for k, v in (("loss", 1 / e), ("accuracy", 50 + 4 * e), ("IoU", 0.1 * e))
            }
            for e in range(1, 6)
        }
        write_json(paths.fold(number) / "trainlog.json", epochs)
        write_json(
            paths.fold(number) / "test_metrics.json",
            {"test_accuracy": 80 + number, "test_loss": 0.5, "test_IoU": 0.6},
        )
        write_json(paths.fold(number) / "model.json", {"versions": {"torch": "2.13.0"}})
    write_json(paths.folds, {"by": "stratified", "seed": 1, "folds": folds})
    write_json(paths.overall, overall_metrics(matrix))
    majority = overall_metrics(confusion_matrix(DECLARED, np.zeros(N, int), 3))
    write_json(
        paths.baselines, {"majority": majority, "random_forest": {**majority, "Accuracy": 0.7}}
    )
    scores = [
        [m[k] for k in ("Precision", "Recall", "F1-score", "IoU")]
        for m in class_metrics(matrix).values()
    ]
    write_csv(
        paths.per_class,
        ("code", "name", "support", "precision", "recall", "f1", "iou"),
        [
            (c.code, c.name, int(n), *s)
            for c, n, s in zip(CLASSES, matrix.sum(1), scores, strict=True)
        ],
    )


def make_predictions(paths, ledger, *, geometry=True, labelled=True):
    rows = []
    for i, (parcel_id, status, reason) in enumerate(ledger):
        row = dict.fromkeys(
            ("declared_code", "declared_name", "pred_code", "pred_name", "confidence")
        )
        if i < N and labelled:
            row |= {
                "declared_code": CLASSES[DECLARED[i]].code,
                "declared_name": CLASSES[DECLARED[i]].name,
            }
        if status != "rejected":
            chosen = CLASSES[PREDICTED[i] if i < N else 0]
            row |= {"pred_code": chosen.code, "pred_name": chosen.name, "confidence": 0.5 + i / 200}
        source = "" if status == "rejected" else "out_of_fold" if status == "used" else "ensemble"
        rows.append(
            {
                "parcel_id": parcel_id,
                "status": status,
                "reason": reason,
                **row,
                "pred_source": source,
            }
        )
    table = pd.DataFrame(rows)
    paths.predictions.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(paths.predictions.with_suffix(".parquet"))
    shapes = [
        box(
            5e5 + 30 * (i % 10),
            48e5 + 30 * (i // 10),
            5e5 + 30 * (i % 10) + 28,
            48e5 + 30 * (i // 10) + 28,
        )
        for i in range(len(rows))
    ]
    shapes[-3:] = [Point(5e5, 48e5), shapes[0], None]
    if geometry:
        layer = geopandas.GeoDataFrame(table, geometry=shapes, crs="EPSG:32631").to_crs("EPSG:2154")
        layer.to_file(paths.predictions, layer="parcels")


def make_run(root, *, simulated=True, labelled=True, models=True, geometry=True):
    paths = RunPaths(root)
    settings = Settings().model_dump(mode="json") | {"run": root.name}
    paths.root.mkdir(parents=True)
    paths.config.write_text(yaml.safe_dump(settings, sort_keys=False))
    make_dataset(paths.dataset, simulated=simulated, labelled=labelled)
    ledger = make_inputs(paths, labelled=labelled)
    if models:
        make_models(paths)
        make_predictions(paths, ledger, geometry=geometry, labelled=labelled)
    return paths
