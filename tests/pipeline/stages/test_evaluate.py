"""Scores of models and baselines against scikit-learn, and their files."""

import csv
import json
import pickle

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, recall_score

from models.metrics import confusion_matrix
from models.pixel_sets import PixelSets
from pipeline.classes.crop_class import CropClass
from pipeline.dataset.pixel_set_dataset import Fold
from pipeline.evaluation import baselines
from pipeline.evaluation.baselines import classify_series, fill_gaps, majority
from pipeline.stages.calibrate import calibrate
from pipeline.stages.evaluate import (
    evaluate,
    spread_over_folds,
    write_fold,
    write_per_class,
    write_scores,
)
from pipeline.stages.split import split
from pipeline.stages.train import train
from pipeline.workflow.config import view
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.snakefile import summary
from tests.builders.pixel_sets import ingested, make, settings_for
from tests.builders.runs import opened

REFERENCE_KEYS = {
    *(f"{kind}_{name}" for kind in ("micro", "MACRO")
      for name in ("IoU", "Precision", "Recall", "F1-score")),
    "Accuracy",
}  # fmt: skip

BASELINES = {"majority", "gradient_boosting", "random_forest", "logistic_regression"}


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def value(rows, *key):
    """Value of a method, fold, class and metric."""
    columns = ("method", "fold", "class", "metric")
    [row] = [r for r in rows if tuple(r[c] for c in columns) == tuple(map(str, key))]
    return float(row["value"])


@pytest.fixture
def drawn():
    """True and predicted classes of three folds; class 2 is in two of them only."""
    rng = np.random.default_rng(2)
    truth = [rng.integers(0, 3 if k else 2, 40) for k in range(3)]
    guess = [np.where(rng.random(40) < 0.7, t, rng.integers(0, 3, 40)) for t in truth]
    return truth, guess


def test_every_score_is_a_row(tmp_path, drawn):
    truth, guess = drawn
    classes = [CropClass(code, "") for code in ("a", "b", "c")]
    matrices = [confusion_matrix(t, g, 3) for t, g in zip(truth, guess, strict=True)]
    write_scores(tmp_path / "scores.csv", classes, {"model": matrices})
    rows = rows_of(tmp_path / "scores.csv")
    together = np.concatenate(truth), np.concatenate(guess)
    for fold, (t, g) in {1: (truth[0], guess[0]), 3: (truth[2], guess[2]), "all": together}.items():
        options = {"labels": range(3), "zero_division": 0}
        f1, recall = (
            f1_score(t, g, average=None, **options),
            recall_score(t, g, average=None, **options),
        )
        iou = jaccard_score(t, g, average=None, **options)
        for i, code in enumerate("abc"):
            assert value(rows, "model", fold, code, "support") == (t == i).sum()
            assert value(rows, "model", fold, code, "f1") == pytest.approx(f1[i], abs=1e-6)
            assert value(rows, "model", fold, code, "recall") == pytest.approx(recall[i], abs=1e-6)
            assert value(rows, "model", fold, code, "iou") == pytest.approx(iou[i], abs=1e-6)
        overall = value(rows, "model", fold, "overall", "Accuracy")
        assert overall == pytest.approx(accuracy_score(t, g), abs=1e-6)
        assert value(rows, "model", fold, "overall", "support") == len(t)
    assert {row["fold"] for row in rows} == {"1", "2", "3", "all"}


def test_the_spread_is_that_over_the_folds(drawn):
    matrices = [confusion_matrix(t, g, 3) for t, g in zip(*drawn, strict=True)]
    spread = spread_over_folds(matrices)
    accuracies = [accuracy_score(t, g) for t, g in zip(*drawn, strict=True)]
    assert set(spread) == REFERENCE_KEYS
    assert spread["Accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert spread["Accuracy"]["std"] == pytest.approx(np.std(accuracies, ddof=1))


def test_the_majority_guess_is_from_the_training_part():
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 2])
    fold = Fold(np.array([0, 1, 2, 3]), np.array([4]), np.array([5, 6, 7]))
    [matrix] = majority(labels, [fold], 3)
    assert matrix.tolist() == [[0, 0, 0], [2, 0, 0], [1, 0, 0]]


def parcels_on_shared_dates(*, clear_share=1.0, seed=3):
    """300 parcels of one or two pixels, three overlapping classes, six dates at unequal steps."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 3, 300))])
    labels = np.arange(300) % 3
    level = np.repeat(labels, np.diff(offsets))[:, None, None] * np.array([150.0, 0.0])
    pixels = 1000 + level * np.arange(6)[:, None] + rng.normal(0, 400, (offsets[-1], 6, 2))
    clear = rng.random((offsets[-1], 6)) < clear_share
    clear[offsets[:-1], 2] = True  # no series is without any value
    return PixelSets(
        ids=[str(i) for i in range(300)],
        pixels=pixels.clip(0).astype(np.uint16),
        offsets=offsets,
        days=np.tile([0, 10, 35, 41, 90, 120], (300, 1)),
        labels=labels,
        clear=clear,
    )


def mean_series(data, i):
    """Series of one parcel (T x C), interpolated on dates without a clear pixel."""
    own, days = slice(data.offsets[i], data.offsets[i + 1]), data.days[i]
    pixels, clear = data.pixels[own].astype(float), data.clear[own]
    dates = [t for t in range(len(days)) if clear[:, t].any()]
    means = np.array([pixels[clear[:, t], t].mean(axis=0) for t in dates])
    by_channel = [np.interp(days, days[dates], means[:, c]) for c in range(pixels.shape[2])]
    return np.stack(by_channel, axis=1).ravel()


@pytest.mark.parametrize("clear_share", [1.0, 0.6])
def test_the_regression_uses_standardised_series_of_means(clear_share):
    data = parcels_on_shared_dates(clear_share=clear_share)
    fold = Fold(np.arange(60), np.arange(60, 120), np.arange(120, 300))
    series = np.array([mean_series(data, i) for i in range(300)])
    # Both training and validation part are used for training.
    training, test = series[:120], series[120:]
    mean, deviation = training.mean(axis=0), training.std(axis=0)
    oracle = LogisticRegression(max_iter=2000).fit((training - mean) / deviation, data.labels[:120])
    expected = confusion_matrix(data.labels[120:], oracle.predict((test - mean) / deviation), 3)
    assert 100 < np.trace(expected) < 170
    found = classify_series(data, [fold], 3, seed=1, threads=1)
    assert set(found) == BASELINES - {"majority"}
    [matrix] = found["logistic_regression"]
    # The class of a parcel between two classes can differ on another processor.
    assert np.abs(matrix - expected).sum() <= 2


def test_baselines_accept_unusual_folds():
    data = parcels_on_shared_dates()
    # A parcel that is never clear, a class that is not trained on, a part of one class only, and
    # more values a parcel than parcels: no error, and no warning.
    data.clear[data.offsets[62] : data.offsets[63]] = False
    by_class = [np.flatnonzero(data.labels == label) for label in range(3)]
    folds = [
        Fold(np.concatenate([by_class[0][:5], by_class[1][:1]]), by_class[1][1:2], by_class[2]),
        Fold(by_class[1][:20], by_class[1][20:], by_class[0]),
    ]
    found = classify_series(data, folds, 3, seed=1, threads=1)
    for matrices in found.values():
        assert [matrix.sum(axis=1).tolist() for matrix in matrices] == [[0, 0, 100], [100, 0, 0]]
        assert matrices[0][2, 2] == 0
        assert matrices[1][0, 1] == 100


def test_of_many_parcels_some_are_drawn_for_the_baselines(monkeypatch):
    monkeypatch.setattr(baselines, "MOST_PARCELS", 200)
    data = parcels_on_shared_dates()
    # A parcel without a label is not drawn, and each drawn one is tested once.
    order = np.random.default_rng(1).permutation(len(data))[:-1]
    parts = np.array_split(order, 3)
    folds = [Fold(parts[i - 1], parts[i - 2], parts[i]) for i in range(3)]
    found = classify_series(data, folds, 3, seed=1, threads=1)
    drawn = np.sort(np.random.default_rng(1).choice(np.sort(order), 200, replace=False))
    of_test = [np.bincount(data.labels[np.intersect1d(drawn, part)]) for part in parts]
    for matrices in found.values():
        np.testing.assert_array_equal([matrix.sum(axis=1) for matrix in matrices], of_test)
    # The same as of a dataset of these parcels alone.
    place = {parcel: i for i, parcel in enumerate(drawn)}
    own = [[place[i] for i in part if i in place] for part in parts]
    few = [Fold(*map(np.sort, (own[i - 1], own[i - 2], own[i]))) for i in range(3)]
    expected = classify_series(data.chosen(drawn), few, 3, seed=1, threads=1)
    for method, matrices in expected.items():
        np.testing.assert_array_equal(found[method], matrices)


def test_a_forest_grown_in_parts_is_the_same_forest(monkeypatch):
    data = parcels_on_shared_dates()
    fold = Fold(np.arange(60), np.arange(60, 120), np.arange(120, 300))
    monkeypatch.setattr(baselines, "TREES", 20)
    # Each part has 7 trees, the last one 6.
    monkeypatch.setattr(baselines, "FOREST_BYTES", 7 * 120 * 3 * 8)
    [matrix] = classify_series(data, [fold], 3, seed=5, threads=1)["random_forest"]
    series = np.array([mean_series(data, i) for i in range(300)])
    oracle = RandomForestClassifier(20, random_state=5).fit(series[:120], data.labels[:120])
    expected = confusion_matrix(data.labels[120:], oracle.predict(series[120:]), 3)
    np.testing.assert_array_equal(matrix, expected)
    assert 100 < np.trace(expected) < 180


def test_no_trees_are_grown_for_very_many_classes(monkeypatch):
    monkeypatch.setattr(baselines, "MOST_CLASSES_OF_TREES", 3)
    # As if there were a fourth class without parcels, 50 parcels are drawn.
    monkeypatch.setattr(baselines, "MOST_SCORES", 4 * 50)
    data = parcels_on_shared_dates()
    fold = Fold(np.arange(60), np.arange(60, 120), np.arange(120, 300))
    found = classify_series(data, [fold], 4, seed=1, threads=1)
    assert set(found) == {"logistic_regression"}
    drawn = np.random.default_rng(1).choice(np.arange(300), 50, replace=False)
    assert found["logistic_regression"][0].sum() == (drawn >= 120).sum()


def test_gaps_are_interpolated_in_time():
    series = np.array([[[1.0], [2.0], [3.0], [7.0]]] * 3)
    gaps = series.copy()
    gaps[0, [0, 2]] = np.nan
    gaps[1] = np.nan
    complete = fill_gaps(gaps, np.array([0, 10, 20, 50]))
    assert complete[0, :, 0].tolist() == [2, 2, 3.25, 7]
    assert complete[2, :, 0].tolist() == [1, 2, 3, 7]
    # A parcel that is never clear gets the mean of the others.
    assert complete[1, :, 0].tolist() == [1.5, 2, 3.125, 7]


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    make(folder / "existing", features=False)
    settings = settings_for(folder / "existing", model={"geometric_features": False})
    run = ingested(settings, folder / "run")
    split(run.dataset.root, run.folds, view(settings, "split"))
    for fold in (1, 2):
        train(run.dataset.root, run.folds, fold, run.fold(fold), view(settings, "train"))
    # A fold that is left from an earlier run with more folds is ignored.
    run.fold(3).mkdir()
    calibrate(run.dataset.root, run.folds, run.models, view(settings, "calibrate"))
    evaluate(run.dataset.root, run.folds, run.models, view(settings, "evaluate"))
    return run


def test_the_files_have_the_keys_of_the_reference_and_more(scored: RunPaths):
    overall = json.loads(scored.overall.read_text())
    assert set(overall) == REFERENCE_KEYS
    rows, spread = rows_of(scored.scores), json.loads(scored.spread.read_text())
    assert set(spread) == {"model", *BASELINES}
    assert {row["method"] for row in rows} == {"model", *BASELINES}
    total = np.zeros((3, 3), int)
    for fold in (1, 2):
        matrix = pickle.loads((scored.fold(fold) / "conf_mat.pkl").read_bytes())  # noqa: S301
        metrics = json.loads((scored.fold(fold) / "test_metrics.json").read_text())
        accuracy = value(rows, "model", fold, "overall", "Accuracy")
        assert metrics["test_accuracy"] == pytest.approx(100 * accuracy, abs=1e-3)
        assert np.trace(matrix) / matrix.sum() == pytest.approx(accuracy, abs=1e-6)
        total += matrix
    labels = opened(scored).labels
    parts = opened(scored).folds(scored.folds)
    assert (
        total.sum(1).tolist()
        == np.bincount(labels[np.concatenate([p.test for p in parts])]).tolist()
    )
    assert overall["Accuracy"] == pytest.approx(np.trace(total) / total.sum())
    baselines = json.loads(scored.baselines.read_text())
    assert set(baselines) == BASELINES
    for method, scores in baselines.items():
        assert value(rows, method, "all", "overall", "MACRO_IoU") == pytest.approx(
            scores["MACRO_IoU"], abs=1e-6
        )
    assert baselines["random_forest"]["Accuracy"] > 0.9
    assert baselines["logistic_regression"]["Accuracy"] > 0.9


def test_a_loss_that_is_not_finite_is_null(tmp_path):
    scores = np.array([[-0.7, -0.8], [-1.4, -0.3], [0.0, -np.inf]], np.float32)
    write_fold(tmp_path, scores, np.array([0, 1, 1]))
    metrics = json.loads((tmp_path / "test_metrics.json").read_text(), parse_constant=pytest.fail)
    assert metrics["test_loss"] is None
    assert metrics["test_accuracy"] == pytest.approx(200 / 3)


def test_the_terminal_shows_every_baseline(scored: RunPaths):
    lines = summary(scored).splitlines()
    baselines = json.loads(scored.baselines.read_text())
    for method, words in (
        ("gradient_boosting", "boosting on means"),
        ("random_forest", "random forest on means"),
        ("logistic_regression", "regression on means"),
        ("majority", "most frequent class"),
    ):
        [line] = [line for line in lines if line.startswith(words)]
        assert f"{baselines[method]['MACRO_F1-score']:.3f}" in line


def test_scores_of_classes_keep_the_type_of_their_code(tmp_path):
    classes = [CropClass(12, "twelve"), CropClass(7, "seven"), CropClass(3, "three")]
    matrix = np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    write_per_class(tmp_path / "per_class.json", classes, matrix)
    rows = json.loads((tmp_path / "per_class.json").read_text())
    assert [(row["code"], row["support"]) for row in rows] == [(12, 4), (7, 6), (3, 0)]
    assert rows[0]["precision"] == pytest.approx(3 / 5)
    assert rows[0]["recall"] == pytest.approx(3 / 4)
    assert rows[1]["iou"] == pytest.approx(4 / 7)
    lines = (tmp_path / "per_class.csv").read_text().splitlines()
    assert lines[0] == "code,name,support,precision,recall,f1,iou"
    assert lines[1].startswith("12,twelve,4,0.6000,0.7500,")
