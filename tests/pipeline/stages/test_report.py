"""The report of a synthetic run that is small enough to count by eye."""

import json
import math
import os
import re
from datetime import date
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import yaml
from shapely.geometry import Point, box
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix
from sklearn.metrics import jaccard_score

from geo.errors import InputError
from models.metrics import class_metrics, confusion_matrix, overall_metrics
from pipeline.classes.crop_class import Classes, CropClass, write_classes
from pipeline.classes.ledger import read_ledger, write_ledger
from pipeline.dataset.metadata import write_labels, write_metadata, write_names
from pipeline.dataset.npy_files import file_name
from pipeline.evaluation.calibration_error import describe_calibration
from pipeline.evaluation.out_of_fold import OutOfFold
from pipeline.evaluation.prediction_sets import describe_sets
from pipeline.evaluation.season import first_to_stay, score_dates, summarise
from pipeline.report.chart import say_day
from pipeline.report.class_colours import COLOURS, SHARED, class_colours
from pipeline.report.divisions import read_divisions
from pipeline.report.inputs import read_account
from pipeline.report.ndvi import draw_mistakes, ndvi_by_class
from pipeline.report.origin import SHOWN
from pipeline.report.scores import (
    METRICS,
    Scores,
    confidence_groups,
    confidence_thresholds,
    count_confusions,
    doubtful_parcels,
    frequent_confusions,
    is_scored,
    read_predictions,
    saved_epoch,
)
from pipeline.report.season import read_season
from pipeline.stages.report import report
from pipeline.workflow.acquisition_table import AcquisitionRow, write_acquisitions
from pipeline.workflow.artefacts import read_json
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import INGESTED, RunPaths
from pipeline.workflow.rounding import percent, rounded
from pipeline.workflow.snakefile import summary
from pipeline.workflow.writing import write_json
from tests.builders.paths import ROOT
from tests.builders.pixel_sets import pack_files, write_arrays
from tests.builders.runs import opened, recorded

CLASSES = [
    CropClass("BTH", "winter wheat"),
    CropClass("MIS", "maize"),
    CropClass("PPH", "grass <&>"),
]
DATES = [date(2018, 3, 1), date(2018, 5, 10), date(2018, 7, 2), date(2018, 9, 20)]
N = 60
# Declared and predicted class of the 60 parcels that are used: 50 predictions are right.
DECLARED = np.repeat([0, 1, 2], [30, 20, 10])
PREDICTED = np.concatenate(
    [np.repeat([0, 1], [26, 4]), np.repeat([1, 2], [17, 3]), np.repeat([2, 0], [7, 3])]
)


def make_dataset(paths, *, simulated, labelled=True):
    rng = np.random.default_rng(1)
    ids = [f"{i:03}" for i in range(N + 2)]
    labels = {
        i: (CLASSES[c].code if labelled else None) for i, c in zip(ids, DECLARED, strict=False)
    }
    pixels = {i: rng.integers(1, 4000, (len(DATES), 2, 5), np.uint16) for i in ids}
    clear = {i: rng.random((len(DATES), 5)) < 0.8 for i in ids}
    for folder, arrays in ((paths.pixels, pixels), (paths.valid, clear)):
        write_arrays(folder, arrays)
    write_metadata(
        paths,
        tiles=[INGESTED],
        dates=DATES,
        sizes=dict.fromkeys(ids, 5),
        n_dates={i: int(clear[i].any(axis=1).sum()) for i in ids},
        description={
            "bands": ["B04", "B08"],
            "tiles": {"31TFM": "EPSG:32631"},
            "crs": "EPSG:32631",
            "fill": "linear",
            "mask": "auto",
            "acquisitions": [],
            "simulated": simulated,
        },
    )
    table = table_of_classes(labelled=labelled)
    labels |= {"060": None, "061": "LUZ" if labelled else None}
    write_labels(paths, {"crop": labels}, table)
    write_names(paths, table)
    pack_files(paths)


def table_of_classes(*, labelled):
    counts = zip(CLASSES, (30, 20, 10), strict=True)
    trained = [CropClass(c.code, c.name, n, i) for i, (c, n) in enumerate(counts)]
    others = [CropClass("LUZ", "alfalfa", 1, None, "too_rare")]
    return Classes("crop", trained + others if labelled else [])


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
    rows = pd.DataFrame(ledger, columns=["parcel_id", "status", "reason"])
    write_ledger(paths.ledger, rows.assign(row=rows.index, mended=rows.index == 7, n_pixels=5))
    write_classes(paths.classes, table_of_classes(labelled=labelled))
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
        described = {"versions": {"torch": "2.13.0"}, "hyperparameters": {"name": "psetae"}}
        write_json(paths.fold(number) / "model.json", described)
    write_json(paths.folds, {"by": "stratified", "seed": 1, "folds": folds})
    write_json(paths.overall, overall_metrics(matrix))
    majority = overall_metrics(confusion_matrix(DECLARED, np.zeros(N, int), 3))
    write_json(
        paths.baselines, {"majority": majority, "random_forest": {**majority, "Accuracy": 0.7}}
    )
    make_calibration(paths)
    scores = [
        [m[k] for k in ("Precision", "Recall", "F1-score", "IoU")]
        for m in class_metrics(matrix).values()
    ]
    keys = ("code", "name", "support", "precision", "recall", "f1", "iou")
    write_json(
        paths.per_class,
        [
            dict(zip(keys, (c.code, c.name, int(n), *s), strict=True))
            for c, n, s in zip(CLASSES, matrix.sum(1), scores, strict=True)
        ],
    )


def add_doubts(paths, table):
    """Judge the used parcels: the last is the most doubtful; 2 are in conflict, 3 doubted."""
    used = table["status"] == "used"
    verdicts = np.where(table.index >= N - 2, "CONFLICT", "DOUBT")
    table["declared_probability"] = np.where(used, 0.25, np.nan)
    table["verdict"] = pd.Series(verdicts).where(table.index >= N - 5, "CONFORM").where(used)
    table["doubt_rank"] = pd.Series(N - table.index, dtype="Int64").where(used)
    counts = zip(CLASSES, (30, 20, 10), (0, 0, 2), (0, 0, 3), (0.5, 0.625, None), strict=True)
    write_json(
        paths.doubts,
        {
            "false_alarms": 0.025,
            "n": N,
            "classes": [
                {"code": crop.code, "name": crop.name, "n": n, "n_conflict": conflict}
                | {"n_doubt": doubt, "found_conflict": found, "found": found}
                for crop, n, conflict, doubt, found in counts
            ],
        },
    )


def add_worklist(paths, table):
    """List the five parcels in doubt, one of them without a place and neighbours."""
    listed = table[table["verdict"].isin(["CONFLICT", "DOUBT"])].sort_values("doubt_rank")
    listed = listed.assign(
        reason="declared a, looks like b",
        area_ha=1.25,
        longitude=3.5,
        latitude=43.25,
        neighbours="3 maize, 2 grass <&>",
    )
    listed.loc[listed.index[-1], ["area_ha", "longitude", "latitude"]] = np.nan
    listed.loc[listed.index[-1], "neighbours"] = ""
    listed.to_parquet(paths.to_check)
    verdicts = (("CONFLICT", 2, 2), ("DOUBT", 3, 2), ("CONFORM", 55, 10))
    write_json(
        paths.worklist_account,
        {
            **{"n_judged": N, "n_doubted": 5, "n_listed": 5, "area_ha": 1234.5},
            "supposed_wrong": 0.2,
            "visits": [{"n": 2, "found": 0.125}, {"n": 5, "found": 0.25}],
            "sample": {
                "margin": 0.1,
                "seed": 1,
                "verdicts": [
                    {"verdict": verdict, "n": n, "sampled": sampled}
                    for verdict, n, sampled in verdicts
                ],
            },
        },
    )


def make_calibration(paths):
    """Write what calibrate and evaluate write about confidences of 0.8 and, after, 0.89."""
    scores = np.full((N, 3), np.log(0.1), np.float32)
    scores[np.arange(N), PREDICTED] = np.log(0.8)
    fold = np.repeat([1, 2], N // 2)
    found = OutOfFold([], fold, DECLARED, scores, np.array([0.7, 0.8]))
    write_json(paths.calibration_errors, describe_calibration(found, CLASSES))
    write_json(paths.prediction_sets, describe_sets(found, CLASSES, 0.1))
    for number, note in ((1, None), (2, "at the lower bound")):
        values = {"temperature": found.temperatures[number - 1], "n_parcels": 30, "note": note}
        write_json(paths.calibration(number), values)


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
    if labelled:
        add_doubts(paths, table)
        add_worklist(paths, table)
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
    paths.root.mkdir(parents=True)
    make_dataset(paths.dataset, simulated=simulated, labelled=labelled)
    ledger = make_inputs(paths, labelled=labelled)
    if models:
        make_models(paths)
        make_predictions(paths, ledger, geometry=geometry, labelled=labelled)
    return paths


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A complete run, for tests that do not change it."""
    return make_run(tmp_path_factory.mktemp("results") / "hand")


def page_of(paths, **settings):
    settings = load({"run": paths.root.name} | settings)
    report(paths.root, paths.report, recorded(settings, paths), view(settings, "report"))
    return paths.report.read_text(encoding="utf-8")


def text_of(page):
    """The text of a page, without tags, styles and repeated white space."""
    page = re.sub(r"<(style|title|script)\b.*?</\1>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)).replace(" %", "%")


class Checker(HTMLParser):
    """Collect open tags, ids and references of a page."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.references = [], [], []

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_starttag(self, tag, attrs):
        self.references += [v for k, v in attrs if k in ("href", "src")]
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in ("meta", "link", "br", "img", "input"):
            self.open.append(tag)
        if tag == "svg":
            assert dict(attrs)["aria-label"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_page(page):
    # Those of the map and their data stand together, behind it; tests of the map run them.
    begin, end = '<script type="application/json" id="map-data">', "</script>\n</section>"
    page = re.sub(f"{begin}.*{end}", "</section>", page, flags=re.S)
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert len(set(checker.ids)) == len(checker.ids)
    inner = {f"#{i}" for i in checker.ids}
    assert all(r in inner or r.startswith(("data:", "geo:")) for r in checker.references)
    # The only other script is the project's own; nothing of a run is in it.
    script = (ROOT / "pipeline" / "report" / "report.js").read_text()
    assert page.count("<script") == page.count(f"<script>\n{script.rstrip()}\n</script>") == 1
    assert not re.search(r"fetch|XMLHttpRequest|import|https?:", script)
    assert "url(" not in page
    assert "@import" not in page
    return checker


def test_the_page_is_complete_and_needs_no_other_file(run):
    checker = check_page(page_of(run))
    shown = ("map", "imagery", "parcels", "classes", "scores", "confidence", "seasons")
    for section in (*shown, "calibration", "sets"):
        assert section in checker.ids
        assert f"#{section}" in checker.references


def test_the_same_run_makes_the_same_bytes(run, tmp_path):
    other = make_run(tmp_path / run.root.name)
    assert page_of(run) == page_of(other)


def test_the_page_has_numbers_of_parcels_and_scores(run):
    text = text_of(page_of(run))
    assert "62 of 65 parcels classified, in 3 classes; 83.3% right" in text
    assert "Overall accuracy simulated imagery 83.3% This model 83.3%" in text
    assert f"{jaccard_score(DECLARED, PREDICTED, average='macro'):.3f}" in text
    assert "winter wheat predicted as maize: 4 parcels, 13" in text
    assert (
        "From 4 of the 5 Sentinel-2 acquisitions found, 1 March 2018 to 20 September 2018." in text
    )
    assert "4 are used and 1 set aside: too cloudy (1)." in text
    assert "The longest gap between two dates is 80 days" in text


def make_areas(paths, **account):
    """Write areas of three classes: the last one has no interval, and is not trained on."""
    rows = [
        ("BTH", "winter wheat", 30, 60.0, 2000.0, 1500.0, 1400.0, 1650.0),
        ("PPH", "grass <&>", 10, 20.0, 90.0, 80.0, 70.04, 99.96),
        ("", "other declared classes", 2, 4.0, 0.0, 4.5, np.nan, np.nan),
    ]
    names = ["code", "name", "n_labelled", "declared_ha", "mapped_ha", "error_adjusted_ha"]
    names += [f"error_adjusted_{end}_ha" for end in ("low", "high")]
    table = pd.DataFrame(rows, columns=names).assign(region="(all)")
    for end in ("", "_low", "_high"):
        table[f"difference{end}_ha"] = table[f"error_adjusted{end}_ha"] * (
            not account.get("reason")
        )
    pd.concat([table, table.assign(region="north")]).to_parquet(paths.areas)
    values = {
        "n_parcels": 62, "area_ha": 2090.4, "n_labelled": 42, "labelled_ha": 84.0,
        "n_without_area": 0, "reason": "", "differences": [],
        "accuracy": {"overall": [0.9, 0.85, 0.95], "classes": []},
    }  # fmt: skip
    write_json(paths.areas_account, values | account)


def test_areas_are_shown_with_their_intervals(tmp_path):
    paths = make_run(tmp_path / "hand")
    assert "areas" not in check_page(page_of(paths)).ids
    make_areas(paths)
    page = page_of(paths)
    assert "#areas" in check_page(page).references
    text = text_of(page)
    assert "The 62 predicted parcels cover 2,090 ha. 42 of them declare a class, on 84 ha." in text
    assert "winter wheat 30 60.0 2,000 1,500 1,400 to 1,650 1,500 1,400 to 1,650" in text
    assert "grass &lt;&amp;&gt; 10 20.0 90.0 80.0 70.0 to 100" in text
    assert "other declared classes 2 4.0 0.0 4.5 no interval: too few parcels" in text
    assert "By area, 90.0\N{NARROW NO-BREAK SPACE}% is predicted right (85.0" in page
    assert "The areas by region are in predictions/areas.csv" in text
    assert "winter wheat: 1,500 ha, error-adjusted (95 % interval: 1,400 to 1,650)" in page
    assert "winter wheat: 2,000 ha, mapped" in page
    # A run from a dataset has no areas; its folder may have those of an earlier run.
    assert "areas" not in check_page(page_of(paths, dataset={"path": "x"})).ids


def test_areas_without_estimates_say_why(tmp_path):
    paths = make_run(tmp_path / "hand")
    words = "their median area is 1 ha, that of the others 2 ha"
    make_areas(paths, differences=[{"what": "area", "p_value": 1e-9, "words": words}])
    text = text_of(page_of(paths))
    assert f"not like a random sample, so the intervals cannot be trusted: {words}" in text
    make_areas(paths, reason="it is not known which parcels", accuracy=None)
    text = text_of(page_of(paths))
    assert "Better estimates are not given, because it is not known which parcels." in text
    assert "winter wheat 30 60.0 2,000 grass" in text
    assert "Mapped areas are biased" in text
    assert "Difference estimator" not in text


def test_the_page_shows_calibration_and_sets(run):
    page = page_of(run)
    text = text_of(page)
    before, after = (
        json.loads(run.calibration_errors.read_text())[when]["ece"] for when in ("before", "after")
    )
    # 50 of 60 predictions are right.
    assert before == pytest.approx(50 / 60 - 0.8)
    assert f"differ by {100 * after:.1f}% on average" in text
    assert f"and by {100 * before:.1f}% without the temperatures" in text
    assert "Temperatures of the folds: 0.700, 0.800 (at the lower bound)." in text
    sets = json.loads(run.prediction_sets.read_text())
    assert f"it contains the declared class of {100 * sets['coverage']:.1f}%" in text
    assert "at an error rate of 10% per class" in text
    # Maize and grass have no parcel in one of the folds, grass one too few in the other.
    section = page.split('<section id="sets">')[1].split("</section>")[0]
    never = [row["name"] for row in sets["per_class"] if row["never_excluded"]]
    assert section.count("in every set</td>") == len(never)


def scores_of(accuracy, iou, f1):
    return {"Accuracy": accuracy, "MACRO_IoU": iou, "MACRO_F1-score": f1}


@pytest.mark.parametrize(
    ("forest", "regression", "best", "better"),
    [
        # The model of `make_run` is right on 83.3 %; its mean IoU and macro F1 lie in between.
        ((0.7, 0.5, 0.6), (0.8, 0.6, 0.7), "logistic regression", {}),
        ((0.7, 0.5, 0.6), (0.6, 0.5, 0.6), "random forest", {}),
        ((0.9, 0.5, 0.6), (0.8, 0.6, 0.7), "random forest", {"more parcels": "random forest"}),
        (
            (0.85, 0.8, 0.6),
            (0.9, 0.6, 0.9),
            "logistic regression",
            {
                "more parcels": "logistic regression",
                "the better mean IoU": "random forest",
                "the better macro F1": "logistic regression",
            },
        ),
        ((0.7, 0.5, 0.9), (0.8, 0.6, 0.7), "logistic regression",
         {"the better macro F1": "random forest"}),
    ],
)  # fmt: skip
def test_the_model_is_compared_with_the_best_baseline(tmp_path, forest, regression, best, better):
    paths = make_run(tmp_path / "run")
    baselines = {"majority": (0.4, 0.1, 0.2), "random_forest": forest}
    baselines["logistic_regression"] = regression
    write_json(paths.baselines, {m: scores_of(*values) for m, values in baselines.items()})
    page = page_of(paths)
    headline, text = text_of(page.split("<h1>")[1].split("</h1>")[0]), text_of(page)
    accuracy = f"{100 * baselines[best.replace(' ', '_')][0]:.1f}"
    assert f"The best baseline, a {best}, is right on {accuracy}" in text
    # A better baseline is in the headline, and first among the scores.
    is_better = "the better macro F1" in better
    assert ("has the better macro F1: 0.900, the model 0." in headline) == is_better
    first = text_of(page.split('<section id="scores">')[1].split("</p>")[0])
    assert ("is right on more" in first) == ("more parcels" in better)
    assert ("has the better macro F1" in first) == is_better
    assert (f"a {best} is better: {accuracy}" in headline) == ("more parcels" in better)
    for words in ("more parcels", "the better mean IoU", "the better macro F1"):
        found = [method for method in ("random forest", "logistic regression", "majority guess")
                 if re.search(f"The {method} (is right on|has) {words}", text)]  # fmt: skip
        assert found == ([better[words]] if words in better else [])


def test_other_runs_are_compared_if_set(tmp_path):
    paths, other = make_run(tmp_path / "mine"), RunPaths(tmp_path / "blocks")
    assert "Comparison with other runs" not in page_of(paths)
    compare = {"report": {"compare": ["blocks"]}}
    with pytest.raises(InputError, match=r"the run mine has no .*spread\.json"):
        page_of(paths, **compare)
    spread = {key: {"mean": 0.5, "std": 0.125} for key in METRICS}
    write_json(paths.spread, {"model": spread})
    write_json(other.spread, {"model": {key: {"mean": 0.25, "std": 0.0625} for key in METRICS}})
    with pytest.raises(InputError, match=r"the run blocks has no"):
        page_of(paths, **compare)
    write_json(other.folds, {"by": "block", "folds": [{}, {}, {}]})
    text = text_of(page_of(paths, **compare))
    assert "mine 2, at random, every class in equal shares 50.0% ± 12.5 0.500 ± 0.125" in text
    assert "blocks 3, by square blocks of land 25.0% ± 6.2 0.250 ± 0.062" in text


def second_division(paths, accuracy, by="block", first=(0.8, 0.02), spread=0.02):
    """Write the scores of split.also, and the spread of both divisions over their folds."""
    other = paths.divided_by(by)
    for own, mean, std in ((paths, *first), (other, accuracy, spread)):
        values = {key: {"mean": 0.5, "std": 0.1} for key in METRICS}
        values["Accuracy"] = {"mean": mean, "std": std}
        write_json(own.spread, {"model": values, "majority": values})
    write_json(other.folds, {"by": by, "folds": [{}] * 4})
    write_json(other.overall, scores_of(accuracy, 0.4, 0.45))
    write_json(other.baselines, {"majority": scores_of(0.3, 0.1, 0.2)})


@pytest.mark.parametrize(
    ("accuracy", "by", "leads"),
    [(0.7, "block", True), (0.9, "block", True), (0.75, "group", True), (0.79, "block", False),
     (0.7, "random", False)],
)  # fmt: skip
def test_the_spatial_division_leads_if_both_differ_by_more_than_their_spread(
    tmp_path, accuracy, by, leads
):
    paths = make_run(tmp_path / "run")
    second_division(paths, accuracy, by)
    column = {"column": "FARM"} if by == "group" else {}
    page = page_of(paths, split={"by": "stratified", "also": by, **column})
    checker, text = check_page(page), text_of(page)
    headline = text_of(page.split("<h1>")[1].split("</h1>")[0])
    shown, other = (accuracy, 50 / 60) if leads else (50 / 60, accuracy)
    assert f"{shown:.1%} right on" in headline
    assert ("blocks of land" in headline) == (leads and by == "block")
    assert ("groups of parcels" in headline) == (by == "group")
    assert f"Overall accuracy simulated imagery {100 * shown:.1f}%" in text
    assert f"the model is right on {100 * other:.1f}%: both are compared below" in text
    assert ("This page begins with the scores of the folds" in text) == leads
    assert ("both differ by more than their spread in overall accuracy." in text) == (
        abs(accuracy - 0.8) > 0.02
    )
    row = f"This model 80.0% ± 2.0 0.500 ± 0.100 0.500 ± 0.100 {100 * accuracy:.1f}% ± 2.0"
    assert row in text
    assert "divisions" in checker.ids
    # The predictions, and so the scores of the classes, are those of split.by.
    assert "winter wheat predicted as maize: 4 parcels" in text


def test_the_spread_of_two_divisions_is_pooled(tmp_path):
    paths = make_run(tmp_path / "run")
    second_division(paths, 0.7, first=(0.8, 0.06), spread=0.08)
    found = read_divisions(paths, "block")
    assert found.difference("Accuracy") == pytest.approx((0.1, np.sqrt((0.0036 + 0.0064) / 2)))
    assert found.differ == ["Accuracy"]
    second_division(paths, 0.73, first=(0.8, 0.06), spread=0.08)
    assert read_divisions(paths, "block").differ == []
    assert read_divisions(paths, None) is None


def test_both_divisions_of_another_run_are_compared(tmp_path):
    paths, other = (make_run(tmp_path / name) for name in ("mine", "other"))
    for run in (paths, other):
        second_division(run, 0.7)
    settings = load({"split": {"also": "block"}})
    other.started.write_text(settings.model_dump_json())
    text = text_of(page_of(paths, report={"compare": ["other"]}))
    assert "other 2, at random, every class in equal shares 80.0% ± 2.0" in text
    assert "other 4, by square blocks of land 70.0% ± 2.0" in text
    assert "mine 4," not in text
    other.divided_by("block").spread.unlink()
    with pytest.raises(InputError, match=r"the run other has no .*models_block/spread\.json"):
        page_of(paths, report={"compare": ["other"]})


@pytest.mark.parametrize("n_bins", [0, 1, 12])
def test_how_far_parcels_are_alike_is_shown(tmp_path, n_bins):
    paths = make_run(tmp_path / "run")
    assert "How far parcels are alike" not in page_of(paths)
    distances = np.geomspace(30, 5000, n_bins)
    curve = {"semivariances": np.linspace(0.5, 1, n_bins).tolist()}
    found = {"block_m": 900.0, "text": "Alike up to 900 m.", "variograms": [curve, curve, curve]}
    found |= {"distances_m": distances.tolist(), "feature_range_m": 900.0, "class_range_m": None}
    write_json(paths.variogram, found)
    page = page_of(paths, split={"by": "block", "block_m": 500})
    check_page(page)
    assert "Alike up to 900 m. The blocks of this run have 500 m: parcels" in text_of(page)
    assert ("averaged over 2 features" in page) == (n_bins == 12)
    assert ("Blocks of 500 m" in page) == (n_bins == 12)
    for split in ({"by": "block", "block_m": "auto"}, {"by": "random"}):
        assert "The blocks of this run" not in page_of(paths, split=split)
    paths.variogram.write_text("{}")
    with pytest.raises(InputError, match=r"variogram\.json.* snakemake -R variogram"):
        page_of(paths)


def test_the_summary_has_the_scores_of_both_divisions(tmp_path):
    paths = make_run(tmp_path / "run", simulated=False)
    second_division(paths, 0.7)
    assert "out of fold, block" not in summary(paths)
    lines = summary(paths, "block").splitlines()
    assert lines[-3].startswith("out of fold, block")
    assert lines[-2].split() == ["model", "70.0%", "0.400", "0.450"]


def test_names_are_escaped(run):
    page = page_of(run)
    assert "grass &lt;&amp;&gt;" in page
    assert "grass <&>" not in page


def test_simulated_imagery_is_marked_at_the_top_and_at_every_score(run, tmp_path):
    page = page_of(run)
    mark = '<span class="simulated">simulated imagery</span>'
    assert page.index("The imagery of this run is simulated.") < page.index("<header>")
    scored = re.findall(
        r"<h[1-4]>(?:Overall accuracy|Mean IoU|Macro F1|Predicted|Scores|Per class|Confusions|"
        r"Per fold|Confidence|Doubtful|Training).*?</h\d>",
        page.replace("<h4>", "<!--"),
    )
    assert len(scored) == 10
    assert all(mark in heading for heading in scored)
    assert mark in re.search(r"<h1>.*?</h1>", page, re.S)[0]

    real = page_of(make_run(tmp_path / "real", simulated=False))
    assert "simulated imagery" not in real
    assert "is simulated" not in real


def test_doubtful_declarations_are_counted_by_class(run):
    page = page_of(run)
    section = page[page.index('<section id="doubts">') :]
    text = text_of(section[: section.index("</section>")])
    assert "Of 60 declarations, 2 get the verdict CONFLICT and 3 DOUBT." in text
    assert "for at most 2.5% of the declarations of the class" in text
    assert "winter wheat 30 0 0 50% 50% maize 20 0 0 62% 62% grass &lt;&amp;&gt; 10 2 3" in text
    assert "The work list says in which order to check them." in text


def test_the_work_list_says_what_visits_find_and_shows_its_head(run):
    page = page_of(run)
    section = page[page.index('<section id="worklist">') :]
    section = section[: section.index("</section>")]
    text = text_of(section)
    assert "5 of 60 declarations get the verdict CONFLICT or DOUBT." in text
    assert "predictions/to_check.gpkg list them (1,234 ha), the most doubtful first." in text
    # 20 % of 60 are 12: a quarter of them on 5 visits.
    assert "2 about 2 75 20 5 about 3 60 20 It is not known" in text
    assert "The table supposes 20% of them (12)" in text
    rows = re.findall(r"(\d) 0(\d\d) grass &lt;&amp;&gt; \S+ .*? (CON\w+|DOUBT)", text)
    assert rows == [
        ("1", "59", "CONFLICT"), ("2", "58", "CONFLICT"), ("3", "57", "DOUBT"),
        ("4", "56", "DOUBT"), ("5", "55", "DOUBT"),
    ]  # fmt: skip
    assert text.count("3 maize, 2 grass &lt;&amp;&gt; 1.25 43.25000, 3.50000") == 4
    assert section.count('href="geo:43.25,3.5"') == 4
    assert "14 parcels, drawn at random" in text
    assert "CONFLICT 2 2 1 DOUBT 3 2 1.5 CONFORM 55 10 5.5" in text
    assert "run parcelwise checked FILE on a copy" in text


def test_a_list_without_places_says_so(tmp_path):
    paths = make_run(tmp_path / "run", geometry=False)
    listed = pd.read_parquet(paths.to_check)
    listed.assign(area_ha=np.nan, latitude=np.nan, longitude=np.nan).to_parquet(paths.to_check)
    write_json(paths.worklist_account, read_json(paths.worklist_account) | {"area_ha": None})
    page = page_of(paths)
    text = text_of(page[page.index('<section id="worklist">') :])
    assert "predictions/to_check.csv lists them, the most doubtful first." in text
    assert "Without outlines, places and neighbours are not known." in text
    assert "Neighbours declare" not in text


def test_a_run_without_a_work_list_has_no_section_on_it(tmp_path):
    paths = make_run(tmp_path / "run", geometry=False)
    paths.worklist_account.unlink()
    page = page_of(paths)
    assert "worklist" not in check_page(page).ids
    assert "Check them in the order of the column doubt_rank of the predictions." in text_of(page)


def test_a_run_without_verdicts_has_no_list_of_doubts(tmp_path):
    paths = make_run(tmp_path / "run", geometry=False)
    paths.doubts.unlink()
    page = page_of(paths)
    assert 'id="doubts"' not in page
    assert "The most confident mistakes" in page


def test_the_most_confident_mistakes_are_drawn_over_their_classes(tmp_path):
    paths = make_run(tmp_path / "run")
    predictions = read_predictions(paths.predictions.with_suffix(".parquet"))
    wrong = doubtful_parcels(predictions[is_scored(predictions)], n=2)
    dataset = opened(paths)
    series = ndvi_by_class(dataset)
    mistakes = draw_mistakes(wrong, dataset, series)
    assert [m.parcel_id for m in mistakes] == wrong["parcel_id"].tolist()
    for mistake in mistakes:
        assert mistake.pred_code != mistake.declared_code
        (axes,) = mistake.chart.axes
        bands = [path.vertices[:, 1] for c in axes.collections for path in c.get_paths()]
        for found, code in zip(bands, (mistake.declared_code, mistake.pred_code), strict=True):
            assert sorted({*found}) == sorted({*series[code][:, [0, 2]].ravel()})
        pixels = np.load(paths.dataset.pixels / file_name(mistake.parcel_id)).astype(float)
        clear = np.load(paths.dataset.valid / file_name(mistake.parcel_id))
        values, shown = [], []
        for day, (red, infrared), seen in zip(DATES, pixels, clear, strict=True):
            if seen.any():
                values.append(ndvi := np.median(((infrared - red) / (infrared + red))[seen]))
                shown.append(f"{say_day(day)}: NDVI {ndvi:.2f}")
        (line,) = axes.lines
        np.testing.assert_allclose(line.get_ydata(), values)
        assert mistake.chart.said(line) == shown
    # A parcel that is not in the dataset, or a dataset without the bands, has no chart.
    unknown = wrong.assign(parcel_id=["elsewhere", wrong["parcel_id"].iloc[1]])
    assert [m.chart is None for m in draw_mistakes(unknown, dataset, series)] == [True, False]
    assert [m.chart for m in draw_mistakes(wrong, dataset, {})] == [None, None]
    page = page_of(paths)
    check_page(page)
    assert page.count("<h4>" + mistakes[0].parcel_id + "</h4>") == 1


def test_every_row_of_the_register_has_a_status(tmp_path):
    paths = make_run(tmp_path / "run")
    ledger = read_account(paths)
    assert ledger.n_rows == 65
    assert ledger.n_mended == 1
    assert {(line.status, line.reason): line.count for line in ledger.lines} == {
        ("used", ""): 60,
        ("predict_only", "no declared class"): 1,
        ("predict_only", "its class has too few parcels"): 1,
        ("rejected", "no parcel id"): 1,
        ("rejected", "an id that an earlier row already has"): 1,
        ("rejected", "no geometry"): 1,
    }
    examples = {line.reason: line.examples for line in ledger.lines}
    assert examples["no parcel id"] == ["row 62"]
    assert examples["an id that an earlier row already has"] == ["000"]

    # Parcels with too few observations have no prediction.
    rows = read_ledger(paths.ledger)
    rows.loc[:1, "status"] = "rejected"
    rows.loc[:1, "reason"] = ["never_seen_clearly", "too_few_pixels_observed"]
    write_ledger(paths.ledger, rows)
    hidden = {line.reason: line.count for line in read_account(paths).lines}
    assert hidden[""] == 58
    assert hidden["cloudy or nodata on every date"] == 1
    assert hidden["fewer clear pixels than required"] == 1


def test_the_confusion_matrix_counts_the_out_of_fold_parcels(run):
    predictions = read_predictions(run.predictions.with_suffix(".parquet"))
    matrix = count_confusions(predictions[is_scored(predictions)], [c.code for c in CLASSES])
    np.testing.assert_array_equal(matrix, sklearn_confusion_matrix(DECLARED, PREDICTED))
    found = frequent_confusions(matrix, ["wheat", "maize", "grass"], n=2)
    assert [(c.declared, c.predicted, c.count) for c in found] == [
        ("wheat", "maize", 4),
        ("maize", "grass", 3),
    ]
    assert found[0].share == pytest.approx(4 / 30)
    assert frequent_confusions(np.diag([3, 2]), ["a", "b"]) == []


def test_of_very_many_classes_the_matrix_shows_those_with_most_parcels(tmp_path, monkeypatch):
    monkeypatch.setattr(Scores, "most_in_matrix", 2)
    page = page_of(make_run(tmp_path / "many"))
    [table] = re.findall(r'<table class="matrix.*?</table>', page, flags=re.S)
    rows = [re.findall(r"<td.*?</td>", row, flags=re.S) for row in table.split("<tr>")[2:]]
    matrix = sklearn_confusion_matrix(DECLARED, PREDICTED)
    order = np.argsort(-matrix.sum(axis=1), kind="stable")
    shown = matrix[np.ix_(order, order)][:2]
    expected = np.column_stack([shown[:, :2], shown[:, 2:].sum(axis=1), shown.sum(axis=1)])
    counts = [[re.findall(r"\d+(?=</small>|</td>)|·", cell)[-1] for cell in row] for row in rows]
    assert [[0 if c == "·" else int(c) for c in row] for row in counts] == expected.tolist()
    assert "Only the 2 classes with most parcels are shown." in text_of(page)


def test_the_saved_epoch_is_the_later_of_equally_good_ones():
    scores = [0.2, 0.7, 0.5, 0.7, 0.6]
    log = {epoch: {"val_IoU": iou, "val_loss": 0.1} for epoch, iou in enumerate(scores, 1)}
    assert (saved_epoch(log, "best"), saved_epoch(log, "last")) == (4, 5)
    log[4]["val_loss"] = log[5]["val_loss"] = math.nan
    assert (saved_epoch(log, "best"), saved_epoch(log, "last")) == (2, 3)


@pytest.mark.parametrize(("n", "n_groups"), [(1, 1), (39, 1), (45, 2), (1000, 10)])
def test_confidence_groups_contain_every_parcel_once(n, n_groups):
    rng = np.random.default_rng(n)
    confidence = rng.permutation(np.linspace(0.3, 1, n))
    predicted = np.where(rng.random(n) < confidence, "a", "b")
    parcels = pd.DataFrame({"declared_code": "a", "pred_code": predicted, "confidence": confidence})
    groups = confidence_groups(parcels)
    assert len(groups) == n_groups
    assert sum(g.count for g in groups) == n
    assert sum(g.count * g.accuracy for g in groups) == pytest.approx((predicted == "a").sum())
    assert np.all(np.diff([g.confidence for g in groups]) > 0)
    for line in confidence_thresholds(parcels):
        chosen = parcels[parcels["confidence"] >= line.confidence]
        assert line.count == len(chosen)
        assert line.accuracy == pytest.approx((chosen["pred_code"] == "a").mean())
    doubtful = doubtful_parcels(parcels, n=3)["confidence"].tolist()
    assert doubtful == sorted(confidence[predicted == "b"], reverse=True)[:3]


def test_ndvi_is_computed_from_clear_pixels_only(tmp_path):
    paths = make_run(tmp_path / "run", models=False)
    series = ndvi_by_class(opened(paths))
    assert list(series) == ["BTH", "MIS", "PPH"]
    medians = np.full((10, len(DATES)), np.nan)
    for row, i in enumerate(range(50, 60)):
        pixels = np.load(paths.dataset.pixels / file_name(f"{i:03}")).astype(float)
        clear = np.load(paths.dataset.valid / file_name(f"{i:03}"))
        for t in range(len(DATES)):
            red, infrared = pixels[t][:, clear[t]]
            if clear[t].any():
                medians[row, t] = np.median((infrared - red) / (infrared + red))
    expected = np.nanquantile(medians, [0.25, 0.5, 0.75], axis=0).T
    np.testing.assert_allclose(series["PPH"], expected, rtol=1e-12)


def test_without_red_and_near_infrared_there_is_no_ndvi(tmp_path):
    paths = make_run(tmp_path / "run", models=False)
    description = yaml.safe_load(paths.dataset.description.read_text())
    write_json(paths.dataset.description, description | {"bands": ["B04", "B11"]})
    assert ndvi_by_class(opened(paths)) == {}
    assert 'id="seasons"' not in page_of(paths)


def test_a_layer_with_fewer_rows_than_its_table_is_refused(tmp_path):
    paths = make_run(tmp_path / "run")
    geopandas.read_file(paths.predictions).iloc[:5].to_file(paths.predictions, layer="parcels")
    with pytest.raises(InputError, match="has 5 rows, the table of predictions has 65"):
        page_of(paths)


def test_a_run_without_outlines_has_no_map(tmp_path):
    page = page_of(make_run(tmp_path / "run", geometry=False))
    checker = check_page(page)
    assert "map" not in checker.ids
    assert "scores" in checker.ids


def test_a_run_without_predictions_has_a_page(tmp_path):
    page = page_of(make_run(tmp_path / "run", models=False))
    checker = check_page(page)
    assert "62 parcels prepared, none classified yet" in text_of(page)
    assert not {"map", "scores", "confidence", "training"} & set(checker.ids)


def test_acquisitions_that_could_not_be_read_are_set_aside_with_the_reason(tmp_path):
    paths = make_run(tmp_path / "run", models=False)
    description = json.loads(paths.dataset.description.read_text())
    description["damaged"] = {f"a{DATES[1]}": "B02 of <a.jp2> is cut"}
    paths.dataset.description.write_text(json.dumps(description))
    page = page_of(paths)
    check_page(page)
    assert "3 are used and 2 set aside: " in text_of(page)
    assert "damaged, or without a band (1)" in text_of(page)
    assert "1 could not be read B02 of &lt;a.jp2&gt; is cut" in text_of(page)


def test_the_passes_without_an_acquisition_are_listed(tmp_path):
    paths = make_run(tmp_path / "run", models=False)
    rows = [
        AcquisitionRow(f"S2A_R051_{day}", "31TFM", day, Path("p"), "safe", used=day.day != 11)
        for day in (date(2020, 6, d) for d in (1, 11, 16, 26))
    ]
    rows[1] = rows[1]._replace(reason="too_cloudy")
    write_acquisitions(paths.acquisitions, rows)
    page = page_of(paths, imagery={"start": "2020-05-27"})
    check_page(page)
    text = text_of(page)
    assert "31TFM is passed by orbit R051 every 5 days. Acquisitions were found on 4 of 7" in text
    assert "3 dates without an acquisition 2020-05-27, 2020-06-06, 2020-06-21" in text


def test_a_run_from_an_existing_dataset_has_no_register(tmp_path):
    paths = make_run(tmp_path / "run", geometry=False)
    for path in (paths.acquisitions, paths.ledger, paths.classes):
        path.unlink()
    page = page_of(paths)
    checker = check_page(page)
    assert "parcels" not in checker.ids
    assert {"imagery", "classes", "scores"} <= set(checker.ids)
    assert "The run started from an existing dataset of 4 dates" in text_of(page)


def test_without_labels_there_are_no_scores(tmp_path):
    paths = make_run(tmp_path / "run", labelled=False)
    for path in (paths.overall, paths.per_class, paths.baselines, paths.folds, paths.classes):
        path.unlink()
    page = page_of(paths)
    checker = check_page(page)
    assert not {"scores", "confidence", "seasons"} & set(checker.ids)
    assert "0 classes are declared on parcels that can be used. The models predict 3 " in text_of(
        page
    )
    assert "62 of 65 parcels classified" in text_of(page)


def test_one_fold_of_one_epoch_is_drawn(tmp_path):
    paths = make_run(tmp_path / "run")
    (paths.fold(2) / "trainlog.json").unlink()
    epoch = {f"{p}_{k}": 0.5 for p in ("train", "val") for k in ("loss", "accuracy", "IoU")}
    write_json(paths.fold(1) / "trainlog.json", {"1": epoch})
    page = page_of(paths)
    check_page(page)
    assert "Fold 1, epoch 1: 0.500" in page
    assert "standard deviation" not in page


def write_season(paths, chosen):
    """Write the artefacts of the season from classes by date, int16 (N, 4); -1 for none."""
    labels, first = DECLARED[: len(chosen)], first_to_stay(chosen)
    table = score_dates(chosen, labels, CLASSES, DATES)
    paths.season.root.mkdir()
    table.to_parquet(paths.season_accuracy)
    found = summarise(table, first, chosen[:, -1] == labels, labels, DATES)
    write_json(paths.season_summary, {**found, "clear_is_known": True})


def test_the_season_is_shown_if_it_was_asked_for(tmp_path):
    paths = make_run(tmp_path / "run")
    assert "How early" not in page_of(paths)
    chosen = np.repeat(PREDICTED[:, None], 4, axis=1).astype(np.int16)
    chosen[:, 0] = -1  # nobody is observed on the first date
    chosen[:40, 1] = 2
    chosen[59] = -1  # never observed
    write_season(paths, chosen)
    page = page_of(paths)
    # 50 of 60 are right, and one of the wrong ones is not observed.
    assert f"these models are right on {percent(50 / 59)} of the labelled parcels" in page
    assert "From 2 July 2018 on, the overall accuracy stays at most two" in page
    assert f"{percent(0.5, 0)} of the parcels keep their class from 2 July 2018 on." in page
    assert f"{percent(0.8, 0)} of the labelled parcels are predicted as declared, and" in page
    assert f"{percent(0.95, 0)} of the labelled parcels are predicted as" not in page
    assert "1 parcels have no clear observation" not in page
    assert "1 parcel has no clear observation, and so no class." in page
    rows = re.findall(r"<tr><td>(\d+ \w+ 2018)</td><td class=\"n\">(\d+) of 60</td>", page)
    assert rows == [
        (say_day(day), n) for day, n in zip(DATES, ("0", "59", "59", "59"), strict=True)
    ]
    section = page[page.index('id="early"') : page.index('id="seasons"')]
    assert section.count('class="simulated"') == 2
    # A date without a scored parcel is left out of the curves.
    season = read_season(paths, CLASSES, dict.fromkeys(["BTH", "MIS", "PPH"], "#112233"))
    charts = [*season.charts.values(), *season.by_class.values()]
    lines = [line for chart in charts for line in chart.axes[0].lines]
    assert [len(line.get_xdata()) for line in lines] == [3, 3, 4, 3, 3, 3]
    assert (
        charts[0].said(lines[0])[-1]
        == f"Up to 20 September 2018: overall accuracy {percent(50 / 59)}"
    )


def test_losses_that_are_not_finite_are_not_drawn(tmp_path):
    paths = make_run(tmp_path / "run")
    log_file, metrics_file = (paths.fold(1) / f"{n}.json" for n in ("trainlog", "test_metrics"))
    log = json.loads(log_file.read_text())
    log["5"]["val_loss"] = None  # the epoch of the best mIoU
    write_json(log_file, log)
    write_json(metrics_file, json.loads(metrics_file.read_text()) | {"test_loss": None})
    page = page_of(paths)
    check_page(page)
    assert "Fold 1, epoch 4: 0.250" in page
    assert "Fold 2, epoch 5: 0.200" in page
    assert page.count("not finite") == 3  # of the fold, and mean and deviation of both
    assert not re.search(r"\bnan\b", page)


def test_folds_without_a_validation_part_show_what_they_were_trained_on(tmp_path):
    paths = make_run(tmp_path / "run")
    page = page_of(paths)
    assert "Loss per epoch, training and validation, of 2 folds." in page
    assert "the validation parts are trained on, too" not in page
    for number in (1, 2):
        file = paths.fold(number) / "trainlog.json"
        log = json.loads(file.read_text())
        trained = {e: {k: v for k, v in own.items() if k[0] == "t"} for e, own in log.items()}
        write_json(file, trained)
    page = page_of(paths)
    check_page(page)
    assert "the validation parts are trained on, too" in page
    assert "Loss per epoch, training, of 2 folds." in page
    fold = json.loads(paths.folds.read_text())["folds"][0]
    known = len(fold["train"]) + len(fold["validation"])
    tested = len(fold["test"])
    cells = "".join(f'<td class="n">{n}</td>' for n in (known, 0, tested))
    assert f"<tr><td>1</td>{cells}" in page
    # Half a validation is none: the log is damaged.
    trained["2"]["val_loss"] = 0.5
    write_json(file, trained)
    with pytest.raises(InputError, match="epoch 2 lacks val_IoU, val_accuracy"):
        page_of(paths)


def test_the_page_states_software_time_and_inputs(tmp_path):
    paths = make_run(tmp_path / "run")
    assert "Predicted by Parcelwise" not in page_of(paths)
    log, benchmark = paths.log("predict"), paths.benchmark("predict")
    environment = {
        "parcelwise": "1.2.3", "commit": "0123456789ab", "modified": True, "python": "3.11.7",
        "packages": {},
        "machine": {
            "system": "Linux", "processor": "x", "cores": 2, "memory_gb": 4.0, "gpus": [],
        },
    }  # fmt: skip
    write_json(log.with_suffix(".json"), environment)
    benchmark.parent.mkdir(parents=True, exist_ok=True)
    benchmark.touch()
    os.utime(benchmark, (0, 86_400 + 3_600 + 60))
    state = {"bytes": 12345, "mtime_ns": 1, "blake2b": "ab" * 32}
    imagery = {"role": "imagery", "path": "/b/<1>.jp2", "state": state}
    inputs = [imagery] * SHOWN + [{"role": "register", "path": "/a.gpkg", "state": state}]
    write_json(paths.inputs, inputs)
    page = page_of(paths)
    check_page(page)
    assert (
        "Predicted by Parcelwise 1.2.3, commit 0123456, with changed files, on 2 January 1970 at "
        "01:01 UTC." in " ".join(page.split())
    )
    section = page[page.index("All 101 inputs") :]
    assert section.index("/a.gpkg") < section.index("/b/&lt;1&gt;.jp2")
    assert section.count("/b/&lt;1&gt;.jp2") == SHOWN - 1
    assert "Here are the first 100." in section
    assert section.count("<code>abababababababab</code>") == SHOWN


def test_colours_depend_on_the_class_index_if_there_are_enough():
    few = class_colours({"a": 1, "b": 5, "c": 3})
    assert few == dict(zip("abc", COLOURS, strict=False))
    many = class_colours({str(i): 100 - i for i in range(30)})
    assert [many[str(i)] for i in range(24)] == list(COLOURS)
    assert {many[str(i)] for i in range(24, 30)} == {SHARED}
    rare_first = class_colours({str(i): i for i in range(30)})
    assert rare_first["0"] == SHARED
    assert rare_first["6"] == COLOURS[0]
    assert len(set(COLOURS) | {SHARED}) == 25


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        *((0, 1, "0.0"), (1, 0, "100"), (0.0004, 1, "<0.1"), (0.004, 0, "<1"), (0.005, 0, "<1")),
        *((0.9996, 1, ">99.9"), (0.996, 0, ">99"), (0.857, 0, "86"), (0.951, 0, "95")),
    ],
)
def test_a_share_is_not_rounded_to_0_or_100(share, digits, text):
    assert percent(share, digits) == f"{text}\N{NARROW NO-BREAK SPACE}%"


def test_rounding_errors_are_at_most_half_of_the_last_digit():
    """Compare with exact decimals over the whole range of every format."""
    for digits, whole in ((0, 100), (1, 100), (2, 1), (3, 1), (3, math.inf)):
        step = Decimal(10) ** -digits
        for value in [*np.linspace(0, min(whole, 2), 4001).tolist(), whole * (1 - 1e-09)]:
            text = rounded(value, digits, whole)
            if text[0] in "<>":
                assert 0 < value < whole
                bound = step if text[0] == "<" else Decimal(whole) - step
                assert text[1:] == f"{bound:.{digits}f}"
                assert (Decimal(value) < bound) == (text[0] == "<")
            elif math.isfinite(value):
                assert abs(Decimal(text) - Decimal(value)) <= step / 2
                assert Decimal(text) != 0 or value == 0
                assert Decimal(text) != Decimal(whole) or value == whole


def test_99_96_percent_is_nowhere_written_as_100(tmp_path):
    """In the headline, the metrics, the tables and the terminal."""
    paths = make_run(tmp_path / "run")
    scores = {"Accuracy": 0.9996, "MACRO_IoU": 0.9996, "MACRO_F1-score": 0.9996}
    overall = json.loads(paths.overall.read_text()) | scores
    paths.overall.write_text(json.dumps(overall))
    metrics = json.loads((paths.fold(1) / "test_metrics.json").read_text())
    metrics |= {"test_accuracy": 99.96, "test_IoU": 0.9996, "test_loss": 0.0004}
    for fold in paths.models.glob("Fold_*"):
        (fold / "test_metrics.json").write_text(json.dumps(metrics))
    text = text_of(page_of(paths))
    assert "3 classes; &gt;99.9% right on parcels that the model was not trained on" in text
    assert "This model &gt;99.9%" in text
    assert "This model &gt;0.999" in text
    assert "&gt;99.9% &gt;0.999 &lt;0.001" in text
    assert ">99.9%" in summary(paths)
    assert "100" not in re.findall(r"^model.*$", summary(paths), re.M)[0]


def test_codes_that_are_numbers_are_read_as_text(tmp_path):
    row = {"parcel_id": "1", "status": "used", "declared_name": "x", "pred_name": "x"}
    row["reason"] = ""
    table = pd.DataFrame([row | {"pred_source": "ensemble", "confidence": 0.5}] * 2)
    for column in ("declared_code", "pred_code"):
        table[column] = pd.Series([12, None], dtype="Int64")
    table.to_parquet(tmp_path / "parcels.parquet")
    predictions = read_predictions(tmp_path / "parcels.parquet")
    assert predictions["pred_code"].tolist() == predictions["declared_code"].tolist() == ["12", ""]
