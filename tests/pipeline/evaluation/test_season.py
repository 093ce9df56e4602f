"""The season: dates of cut-offs, classes by date, their scores, and when they stay."""

import json
import shutil
from datetime import date, timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from models.crop_model import CropModel, ensemble
from pipeline.classes.crop_class import CropClass
from pipeline.dataset.model_inputs import load_trained, read_inputs
from pipeline.dataset.pixel_set_dataset import Fold
from pipeline.evaluation.season import (
    classes_until,
    clear_is_known,
    days_of,
    first_to_stay,
    last_dates,
    score_dates,
    summarise,
)
from pipeline.report.season import read_season
from pipeline.stages.evaluate_season import evaluate_season
from pipeline.stages.split import split
from pipeline.workflow.config import view
from tests.builders.models import CPU, FOLDS, make_data, save_models
from tests.builders.pixel_sets import CLASSES, SEASON, ingested, make, settings_for
from tests.builders.runs import opened

CROPS = [CropClass(code, f"name of {code}") for code in CLASSES]
DATES = [date(2018, 4, 1) + timedelta(30 * k) for k in range(5)]
# By parcel, its class on every date; -1: not observed yet.
CHOSEN = np.array(
    [
        [0, 0, 0, 0, 0],
        [1, 0, 1, 1, 1],
        [-1, -1, 2, 0, 2],
        [-1, -1, -1, -1, -1],
        [-1, 1, 1, 1, 0],
    ],
    np.int16,
)
FIRST = np.array([0, 2, 4, -1, 4])


def test_a_class_stays_from_the_date_after_its_last_change():
    assert first_to_stay(CHOSEN).tolist() == FIRST.tolist()
    rng = np.random.default_rng(1)
    chosen = rng.integers(0, 2, (500, 7)).astype(np.int16)
    chosen[np.arange(7) < rng.integers(0, 7, (500, 1))] = -1  # begins later
    for row, first in zip(chosen, first_to_stay(chosen), strict=True):
        assert (row[first:] == row[-1]).all()
        assert first == 0 or row[first - 1] != row[-1]


def test_short_series_are_cut_off_at_every_date_and_long_ones_at_equal_steps():
    every = [date(2018, 1, 1) + timedelta(3 * k) for k in range(100)]
    assert last_dates(every[:40]) == every[:40]
    chosen = last_dates(every)
    assert len(chosen) == 40
    assert set(chosen) <= set(every)
    assert (chosen[0], chosen[-1]) == (every[0], every[-1])
    assert {(b - a).days for a, b in pairwise(chosen)} <= {6, 9}
    # Most dates in one month: the others are chosen, too.
    dense = [*every[:3], *(date(2018, 6, 1) + timedelta(k) for k in range(30)), date(2019, 1, 1)]
    chosen = last_dates(dense, 10)
    assert len(chosen) == len(set(chosen)) <= 10
    assert (chosen[0], chosen[-1]) == (dense[0], dense[-1])
    assert last_dates(SEASON[:1]) == SEASON[:1]


def test_the_scores_of_a_date_are_those_of_scikit_learn_on_the_parcels_observed_by_then():
    rng = np.random.default_rng(2)
    labels = rng.integers(-1, 3, 200)
    chosen = np.where(rng.random((200, 5)) < 0.6, labels[:, None].clip(0), 1).astype(np.int16)
    chosen[np.arange(5) < rng.integers(0, 4, (200, 1))] = -1
    table = score_dates(chosen, labels, CROPS, DATES)
    assert len(table) == 5 * 4
    for e, (day, rows) in enumerate(table.groupby("date")):
        assert day.date() == DATES[e]
        known = (labels >= 0) & (chosen[:, e] >= 0)
        truth, guess = labels[known], chosen[known, e]
        overall, *own = rows.to_dict("records")
        assert pd.isna(overall["code"])
        assert overall["n_parcels"] == (labels >= 0).sum()
        assert overall["n_predicted"] == known.sum()
        assert overall["accuracy"] == pytest.approx(accuracy_score(truth, guess))
        options = {"labels": range(3), "zero_division": 0}
        for name, of in (("precision", precision_score), ("recall", recall_score)):
            assert overall[name] == pytest.approx(of(truth, guess, average="macro", **options))
            expected = of(truth, guess, average=None, **options)
            assert [row[name] for row in own] == pytest.approx(expected)
        expected = f1_score(truth, guess, average=None, **options)
        assert [row["f1"] for row in own] == pytest.approx(expected)
        assert overall["f1"] == pytest.approx(expected.mean())
        assert [row["code"] for row in own] == CLASSES
        assert [row["n_parcels"] for row in own] == [(labels == k).sum() for k in range(3)]
        assert [row["n_predicted"] for row in own] == [(truth == k).sum() for k in range(3)]


def test_what_is_not_defined_is_missing_and_not_0():
    labels = np.array([0, 1, -1, 0, -1])
    table = score_dates(CHOSEN[2:4][[0, 1, 0, 1, 0]], labels, CROPS, DATES).set_index("date")
    first = table.loc[pd.Timestamp(DATES[0])]
    assert first["n_predicted"].tolist() == [0, 0, 0, 0]
    assert first[["accuracy", "precision", "recall", "f1"]].isna().all(axis=None)
    last = table.loc[pd.Timestamp(DATES[-1])].set_index("code")
    assert last["f1"].isna().tolist() == [False, False, True, False]  # nothing is class 1


def test_the_summary_of_five_parcels():
    labels = np.array([0, 1, -1, 2, 2])
    right = np.array([True, True, False, False, False])
    table = score_dates(CHOSEN, labels, CROPS, DATES)
    found = summarise(table, FIRST, right, labels, DATES)
    days = [day.isoformat() for day in DATES]
    assert found == {
        "dates": days, "n_parcels": 5, "n_labelled": 4, "n_predicted": 4,
        "accuracy": pytest.approx(2 / 3),
        "macro_f1": pytest.approx((2 / 3 + 1 + 0) / 3),
        # Right are 1 of 2, 1 of 3, and then 2 of 3 parcels.
        "near_from": days[2],
        "settled": [0.25, 0.25, 0.5, 0.5, 1.0],
        "stays_from": {"0.5": days[2], "0.8": days[4], "0.95": days[4]},
        "right_from": {"0.5": days[2], "0.8": None, "0.95": None},
    }  # fmt: skip
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("labels", [np.full(5, -1), np.array([-1, -1, -1, 1, -1])])
def test_without_a_scored_parcel_the_summary_says_only_when_classes_stay(labels):
    table = score_dates(CHOSEN, labels, CROPS, DATES)
    found = summarise(table, FIRST, np.zeros(5, np.bool_), labels, DATES)
    assert (found["accuracy"], found["macro_f1"], found["near_from"]) == (None, None, None)
    assert found["right_from"] == dict.fromkeys(("0.5", "0.8", "0.95"))
    assert found["stays_from"]["0.5"] == DATES[2].isoformat()


class Sure:
    """In place of a model: it prefers one class, and class 3 nearly as much."""

    def __init__(self, own):
        self.scores = np.full(4, -9.0, np.float32)
        self.scores[[own, 3]] = -0.6, -0.8

    def log_probabilities_until(self, data, indices, days, _):
        seen = data.days[indices].min(axis=1, keepdims=True) <= days
        return np.where(seen[..., None], self.scores, np.float32(np.nan))


@pytest.mark.parametrize("together", [2, 10_000])
def test_all_models_together_predict_the_parcels_outside_the_folds(monkeypatch, together):
    monkeypatch.setattr("pipeline.evaluation.season.PREDICTED_TOGETHER", together)
    data = make_data(sizes=(1,) * 9, days=np.arange(36).reshape(9, 4))
    none = np.zeros(0, np.int64)
    folds = [Fold(none, none, np.array(test)) for test in ([0, 4], [1], [8, 2])]
    chosen = classes_until(data, folds, [Sure(0), Sure(1), Sure(2)], np.array([7, 40]), 2)
    assert chosen[:, 1].tolist() == [0, 1, 2, 3, 0, 3, 3, 3, 2]
    assert chosen[:, 0].tolist() == [0, 1, *[-1] * 7]


@pytest.fixture(scope="module")
def season(tmp_path_factory):
    """A run of parcels with dates of their own, a sixth of them without label; random models."""
    folder = tmp_path_factory.mktemp("season")
    make(folder / "existing", own_dates=True, labelled=5 / 6)
    settings = settings_for(folder / "existing", split={"folds": FOLDS})
    run = ingested(settings, folder / "run")
    split(run.dataset.root, run.folds, view(settings, "split"))
    save_models(run.season.models)
    evaluate_season(
        run.dataset.root, run.folds, run.season.models, run.season_accuracy, run.season_parcels,
        run.season_summary, view(settings, "evaluate_season"),
    )  # fmt: skip
    return settings, run


def test_every_parcel_is_predicted_by_models_that_were_not_trained_on_it(season):
    _, run = season
    dataset = opened(run)
    trained = load_trained(run.season.models, FOLDS, CPU)
    data = read_inputs(dataset, trained, dataset.classes, only_clear=True)
    table = pd.read_parquet(run.season_parcels)
    assert table["parcel_id"].tolist() == dataset.ids
    folds = dataset.folds(run.folds)
    dates = last_dates(dataset.dates)
    every = np.arange(len(data))
    cut = [model.log_probabilities_until(data, every, days_of(dates, dataset.dates[0]), 256)
           for model in trained]  # fmt: skip
    codes, own = np.array(CLASSES), dataset.parcel_dates
    for i, row in enumerate(table.to_dict("records")):
        of = [k for k, fold in enumerate(folds) if i in fold.test]
        assert len(of) == (dataset.labels[i] >= 0)
        scores = ensemble([cut[k][i] for k in of or range(FOLDS)])
        begins = dates.index(next(d for d in dates if d >= own[dataset.ids[i]][0]))
        assert np.isnan(scores[:begins]).all()
        chosen = codes[scores[begins:].argmax(1)]
        assert row["pred_code"] == chosen[-1]
        assert row["predicted_from"].date() == dates[begins]
        changes = np.flatnonzero(chosen != chosen[-1])
        stays = dates[begins + (changes[-1] + 1 if len(changes) else 0)]
        assert row["stays_from"].date() == stays
        is_right = dataset.codes[i] == chosen[-1]
        assert (row["right_from"].date() == stays) if is_right else pd.isna(row["right_from"])
        assert pd.isna(row["declared_code"]) == (dataset.labels[i] < 0)
    for file in run.season_files:
        assert file.is_file(), file
    assert not json.loads(run.season_summary.read_text())["clear_is_known"]
    shown = pd.read_csv(run.season_accuracy.with_suffix(".csv"))
    assert shown["date"].tolist()[::4] == [day.isoformat() for day in dates]


def test_the_report_reads_the_season(season):
    _, run = season
    colours = dict.fromkeys(CLASSES, "#112233")
    section = read_season(run, [CropClass(c, c) for c in reversed(CLASSES)], colours)
    dates = last_dates(opened(run).dates)
    assert [line.day for line in section.lines] == dates
    assert section.lines[-1].settled == 1
    assert {code: chart.title for code, chart in section.by_class.items()} == dict(
        zip(CLASSES[::-1], CLASSES[::-1], strict=True)
    )
    assert [len(chart.axes[0].lines) for chart in section.charts.values()] == [2, 1]
    assert section.n_unseen == 0


def test_models_of_another_season_count_days_from_their_own_day_0(season, tmp_path):
    """If models count from an earlier day, cut-offs are still the dates of the dataset."""
    settings, run = season
    before = pd.read_parquet(run.season_parcels)["predicted_from"]
    shutil.copytree(run.season.models, tmp_path / "models")
    for file in (tmp_path / "models").glob("*/model.json"):
        text = json.loads(file.read_text())
        file.write_text(json.dumps({**text, "first_date": "2018-01-01"}))
    evaluate_season(
        run.dataset.root, run.folds, tmp_path / "models", tmp_path / "accuracy.parquet",
        tmp_path / "parcels.parquet", tmp_path / "season.json", view(settings, "evaluate_season"),
    )  # fmt: skip
    found = pd.read_parquet(tmp_path / "parcels.parquet")["predicted_from"]
    pd.testing.assert_series_equal(found, before)


def test_later_observations_change_no_earlier_class_although_clouds_are_interpolated(tmp_path):
    """A cloudy observation is interpolated from a later one: it is not used."""
    parcels = make(tmp_path / "first")
    for i, (_, pixels, _) in parcels.items():
        pixels[[0, 2, 3]] = 0  # no data on these dates, which the run interpolates
        np.save(tmp_path / "first" / "DATA" / f"{i}.npy", pixels)
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    for i, (_, pixels, _) in parcels.items():
        pixels[4:] = 9999 - pixels[4:].clip(0, 9998)
        np.save(tmp_path / "second" / "DATA" / f"{i}.npy", pixels)
    save_models(tmp_path / "models")
    trained = [CropModel.load(tmp_path / "models" / f"Fold_{k}", CPU) for k in range(1, FOLDS + 1)]
    every = np.arange(len(parcels))
    chosen, filled, tables = [], [], []
    for name in ("first", "second"):
        run = ingested(settings_for(tmp_path / name), tmp_path / f"run of {name}")
        dataset = opened(run)
        assert clear_is_known(dataset)  # its nodata say it
        data = read_inputs(dataset, trained, dataset.classes, only_clear=True)
        days = days_of(SEASON, SEASON[0])
        folds = [Fold(every[:0], every[:0], every[k::FOLDS]) for k in range(FOLDS)]
        scores = [model.log_probabilities_until(data, every, days, 256) for model in trained]
        chosen.append((classes_until(data, folds, trained, days, 256), scores))
        filled.append(np.array(dataset.pixels[:])[:, 2:4])
        settings = settings_for(tmp_path / name, split={"folds": FOLDS})
        split(run.dataset.root, run.folds, view(settings, "split"))
        evaluate_season(
            run.dataset.root, run.folds, tmp_path / "models", run.season_accuracy,
            run.season_parcels, run.season_summary, view(settings, "evaluate_season"),
        )  # fmt: skip
        tables.append(pd.read_parquet(run.season_accuracy).set_index("date"))
    assert (filled[0] != filled[1]).any()  # The interpolated values differ.
    early = slice(None, str(SEASON[3]))
    pd.testing.assert_frame_equal(tables[0].loc[early], tables[1].loc[early])
    assert tables[0]["n_predicted"].tolist()[:8] == [0, 0, 0, 0, 60, 20, 20, 20]
    np.testing.assert_array_equal(chosen[0][0][:, :4], chosen[1][0][:, :4])
    for one, other in zip(chosen[0][1], chosen[1][1], strict=True):
        np.testing.assert_array_equal(one[:, :4], other[:, :4])
        assert (one[:, 4:] != other[:, 4:]).any()
