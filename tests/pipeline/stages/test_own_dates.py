"""Datasets in which dates differ between parcels, from the files to the predictions."""

import json
from datetime import date

import numpy as np
import pandas as pd
import pytest

from geo.errors import InputError
from models.pixel_sets import PixelSets
from pipeline.dataset.normalisation_pickle import read_normalisation, write_normalisation
from pipeline.dataset.pixel_set_dataset import PixelSetDataset, day_zero
from pipeline.evaluation import baselines
from pipeline.evaluation.baselines import STEP_DAYS, parcel_means, resample, shared_days
from pipeline.stages.calibrate import calibrate
from pipeline.stages.evaluate import evaluate
from pipeline.stages.predict import predict
from pipeline.stages.report import report
from pipeline.stages.split import split
from pipeline.stages.train import train
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.settings import STAGE_SETTINGS
from tests.builders.pixel_sets import BANDS, CLASSES, ingest_dataset, ingest_folder, make, write
from tests.builders.runs import opened, recorded


@pytest.fixture(scope="module")
def existing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own_dates")
    parcels = make(folder / "existing", 40, own_dates=True, pickled=False)
    return folder / "existing", parcels


def test_parcels_are_padded_to_the_most_dates(existing, tmp_path):
    source, parcels = existing
    run = ingest_folder(source, tmp_path)
    data = opened(run).pixel_sets(with_features=True)
    first = min(d for _, _, dates in parcels.values() for d in dates)
    assert opened(run).dates[0] == first
    assert data.n_dates == max(len(dates) for _, _, dates in parcels.values())
    for i, (_, pixels, dates) in enumerate(parcels.values()):
        n = len(dates)
        assert data.observed[i].tolist() == [True] * n + [False] * (data.n_dates - n)
        assert data.days[i, :n].tolist() == [(d - first).days for d in dates]
        own = data.pixels[data.offsets[i] : data.offsets[i + 1]]
        assert np.array_equal(own[:, :n].transpose(1, 2, 0), pixels)
        assert not own[:, n:].any()
    lengths = {i: len(dates) for i, (_, _, dates) in parcels.items()}
    assert opened(run).n_dates.tolist() == [lengths[i] for i in opened(run).ids]


def test_the_order_of_dates_in_the_file_has_no_effect(existing, tmp_path):
    source, parcels = existing
    own = json.loads((source / "META" / "parcel_dates.json").read_text())
    shuffled = tmp_path / "reversed"
    (shuffled / "DATA").mkdir(parents=True)
    for parcel_id, (_, pixels, _) in parcels.items():
        np.save(shuffled / "DATA" / f"{parcel_id}.npy", pixels[::-1])
        own[parcel_id] = [f"{d // 10000}-{d // 100 % 100:02}-{d % 100:02}" for d in own[parcel_id]][
            ::-1
        ]
    write(shuffled / "META" / "parcel_dates.json", own)
    first = opened(ingest_folder(source, tmp_path / "a")).pixel_sets(with_features=False)
    labels = json.loads((source / "META" / "labels.json").read_text())
    write(shuffled / "META" / "labels.json", labels)
    second = opened(ingest_folder(shuffled, tmp_path / "b")).pixel_sets(with_features=False)
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.days, second.days)


def test_parcels_without_own_dates_have_those_of_the_dataset(tmp_path):
    source = tmp_path / "existing"
    parcels = make(source, 30)
    first = next(iter(parcels))
    np.save(source / "DATA" / f"{first}.npy", parcels[first][1][:2])
    write(source / "META" / "parcel_dates.json", {first: [20180215, 20180301]})
    data = opened(ingest_folder(source, tmp_path / "run")).pixel_sets(with_features=True)
    assert data.days[0, :2].tolist() == [0, 14]
    assert data.observed.sum(1).tolist() == [2] + [7] * 29
    assert data.days[1, 0] == 14


def test_the_normalisation_is_computed_from_all_observations(existing, tmp_path):
    source, parcels = existing
    means, stds = read_normalisation(ingest_folder(source, tmp_path).dataset.normalisation)
    every = np.concatenate([p.transpose(1, 0, 2).reshape(4, -1) for _, p, _ in parcels.values()], 1)
    np.testing.assert_allclose(means, every.mean(1), rtol=1e-12)
    np.testing.assert_allclose(stds, every.std(1), rtol=1e-9)


def test_a_normalisation_per_date_is_refused(tmp_path):
    source = tmp_path / "existing"
    make(source, 30, own_dates=True)
    write_normalisation(source / "normalisation_values.pkl", np.ones((7, 4)), np.ones((7, 4)))
    with pytest.raises(InputError, match=r"one value per date, but dates differ between parcels"):
        ingest_folder(source, tmp_path / "run")


def test_parcels_without_dates_are_named(tmp_path):
    source = tmp_path / "existing"
    make(source, 30, own_dates=True)
    write(source / "META" / "parcel_dates.json", {"100": [20180301]})
    with pytest.raises(InputError, match=r"lacks parcels of DATA.*: 29, such as 103"):
        ingest_folder(source, tmp_path / "run")


def test_days_are_counted_from_the_start_of_the_season(tmp_path):
    source = tmp_path / "existing"
    make(source, 30)
    dataset = ingest_folder(source, tmp_path / "run").dataset

    def first(start):
        return (
            PixelSetDataset.open(dataset.root)
            .pixel_sets(with_features=False, season_start=start)
            .days[0, 0]
        )

    assert first(None) == 0
    assert first("01-01") == 59
    assert first("09-01") == -184
    assert first(date(2017, 9, 1)) == 181
    assert day_zero(date(2018, 3, 1), "03-01") == date(2018, 3, 1)


def brute_force_mean(data, i, t, c):
    rows = range(data.offsets[i], data.offsets[i + 1])
    values = [float(data.pixels[r, t, c]) for r in rows if data.clear is None or data.clear[r, t]]
    return sum(values) / len(values) if values else np.nan


@pytest.mark.parametrize("at_a_time", [1, 40, baselines.VALUES_AT_A_TIME])
def test_mean_series_equal_brute_force(monkeypatch, at_a_time):
    monkeypatch.setattr(baselines, "VALUES_AT_A_TIME", at_a_time)
    rng = np.random.default_rng(3)
    offsets = np.array([0, 3, 4, 9])
    observed = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], bool)
    days = np.array([[5, 30, 61, 0], [20, 0, 0, 0], [0, 3, 40, 90]])
    data = PixelSets(
        ids=["a", "b", "c"],
        pixels=rng.integers(0, 9999, (9, 4, 2), np.uint16),
        offsets=offsets,
        days=days,
        labels=np.zeros(3, np.int64),
        clear=rng.random((9, 4)) < 0.6,
        observed=observed,
    )
    means = parcel_means(data)
    expected = [[[brute_force_mean(data, i, t, c) for c in range(2)] for t in range(4)]
                for i in range(3)]  # fmt: skip
    np.testing.assert_allclose(means, expected)
    series = resample(means, days, observed, shared_days(days, observed))
    grid = np.arange(0, 90 + STEP_DAYS, STEP_DAYS)
    assert series.shape == (3, len(grid), 2)
    for i in range(3):
        clear = [t for t in range(4) if observed[i, t] and np.isfinite(means[i, t, 0])]
        for place, day in enumerate(grid):
            if not clear:
                assert np.isnan(series[i, place]).all()
                continue
            before = [t for t in clear if days[i, t] <= day]
            after = [t for t in clear if days[i, t] >= day]
            a = before[-1] if before else after[0]
            b = after[0] if after else before[-1]
            part = 0 if a == b else (day - days[i, a]) / (days[i, b] - days[i, a])
            value = (1 - part) * means[i, a] + part * means[i, b]
            np.testing.assert_allclose(series[i, place], value)


@pytest.mark.slow
def test_200_parcels_half_of_them_unlabelled_pass_all_stages(tmp_path):
    """With default settings, except the path of the dataset and its bands."""
    source = tmp_path / "existing"
    parcels = make(source, 200, own_dates=True, labelled=0.5, pickled=False)
    settings = load(
        {
            "dataset": {"path": source, "bands": BANDS},
            "split": {"folds": 2},
            "train": {"epochs": 10, "batch_size": 16, "device": "cpu"},
        }
    )
    run = RunPaths(tmp_path / "run")
    dataset, views = run.dataset.root, {stage: view(settings, stage) for stage in STAGE_SETTINGS}
    ingest_dataset(settings, run)
    split(dataset, run.folds, views["split"])
    for fold in (1, 2):
        train(dataset, run.folds, fold, run.fold(fold), views["train"])
    calibrate(dataset, run.folds, run.models, views["calibrate"])
    evaluate(dataset, run.folds, run.models, views["evaluate"])
    options = {"folds": run.folds, "settings": views["predict"]}
    predict(dataset, run.models, run.ledger, run.predictions, **options)
    report(run.root, run.report, recorded(settings, run), views["report"])

    table = pd.read_parquet(run.predictions.with_suffix(".parquet")).set_index("parcel_id")
    assert sorted(table.index) == sorted(parcels)
    assert table["pred_source"].value_counts().to_dict() == {"out_of_fold": 100, "ensemble": 100}
    truth = pd.Series({i: CLASSES[label] for i, (label, _, _) in parcels.items()})
    right = (table["pred_code"] == truth[table.index]).groupby(table["pred_source"]).mean()
    # A random guess is right on a third of the parcels; the classes differ clearly.
    assert right.min() > 0.6
    assert json.loads(run.baselines.read_text())["random_forest"]["Accuracy"] > 0.8
    page = run.report.read_text()
    assert "which differ between parcels" in page
    assert "The dataset has 200 parcels" in page
    assert "register" not in page.split("All settings")[0]
