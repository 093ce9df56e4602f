"""Attention and occlusion: equal to models without the dates, correlated as scipy does."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from geo.errors import InputError
from pipeline.dataset.model_inputs import load_trained, read_inputs
from pipeline.evaluation.occlusion import (
    SAMPLE_OF_CLASS,
    WINDOW_DAYS,
    Explainer,
    choose_sample,
    describe_correlations,
    occlude,
    rank_correlations,
    share_changed,
)
from pipeline.evaluation.out_of_fold import (
    ensemble_probabilities,
    probabilities_at,
    read_out_of_fold,
)
from pipeline.report.attention import Correlation, read_attention
from pipeline.stages.calibrate import calibrate
from pipeline.stages.explain import explain
from pipeline.stages.predict import predict
from pipeline.stages.split import split
from pipeline.workflow.config import view
from tests.builders.models import CPU, FOLDS, save_models
from tests.builders.pixel_sets import CLASSES, ingested, make, settings_for
from tests.builders.runs import opened


def explain_run(run, settings, models, folds):
    explain(
        run.dataset.root, models, run.probabilities, run.attention, run.attention_account,
        view(settings, "explain"), folds,
    )  # fmt: skip


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """A run of parcels with dates of their own, a sixth of them without label; random models."""
    folder = tmp_path_factory.mktemp("explained")
    make(folder / "existing", own_dates=True, labelled=5 / 6)
    settings = settings_for(folder / "existing", split={"folds": FOLDS})
    run = ingested(settings, folder / "run")
    split(run.dataset.root, run.folds, view(settings, "split"))
    save_models(run.models)
    calibrate(run.dataset.root, run.folds, run.models, view(settings, "calibrate"))
    predict(
        run.dataset.root, run.models, run.ledger, run.predictions, view(settings, "predict"),
        run.folds, doubts=run.doubts,
    )  # fmt: skip
    explain_run(run, settings, run.models, run.folds)
    return settings, run


@pytest.fixture(scope="module")
def models_of(explained):
    """The dataset's inputs, the models, and by parcel the models that predict it."""
    _, run = explained
    dataset = opened(run)
    trained = load_trained(run.models, FOLDS, CPU)
    data = read_inputs(dataset, trained, dataset.classes)
    folds = dataset.folds(run.folds)
    of = [[k for k, fold in enumerate(folds) if i in fold.test] or [*range(FOLDS)]
          for i in range(len(data))]  # fmt: skip
    return dataset, data, trained, of


def test_attention_is_that_of_the_models_that_predicted_the_parcel(explained, models_of):
    _, run = explained
    dataset, data, trained, of = models_of
    every = np.arange(len(data))
    by_fold = np.stack([model.attention(data, every, 16) for model in trained])
    table = pd.read_parquet(run.attention)
    assert table["parcel_id"].tolist() == dataset.ids
    days = [day.isoformat() for day in dataset.dates]
    assert table.columns.tolist() == ["parcel_id", *days]
    assert {len(own) for own in of} == {1, FOLDS}
    for i, parcel_id in enumerate(dataset.ids):
        own = [day.isoformat() for day in dataset.parcel_dates[parcel_id]]
        found = table.loc[i, days]
        assert found.notna().tolist() == [day in own for day in days]
        expected = by_fold[of[i], i].mean(0)[: len(own)]
        np.testing.assert_allclose(found[own].astype(float), expected, atol=1e-5)
        assert found.sum() == pytest.approx(1, abs=1e-3)


def test_dates_are_left_out_as_if_the_parcel_did_not_have_them(explained, models_of):
    settings, run = explained
    dataset, data, trained, of = models_of
    explainer = Explainer.load(dataset, run.models, run.folds, view(settings, "explain"), CPU)
    temperatures = read_out_of_fold(run.out_of_fold).temperatures
    parcels = np.array([3, 57, 20])
    found = occlude(explainer, parcels)

    def probabilities(i, observed):
        left = replace(data, observed=observed[None].repeat(len(data), 0) & data.observed)
        scores = [trained[k].log_probabilities(left, np.array([i]), 4) for k in of[i]]
        if len(scores) == 1:
            return probabilities_at(scores[0], temperatures[of[i][0]])[0]
        return ensemble_probabilities(scores, temperatures)[0]

    for n, i in enumerate(parcels):
        own = data.observed[i]
        whole = probabilities(i, own)
        assert found.chosen[n] == whole.argmax()
        assert found.probability[n] == pytest.approx(whole.max(), abs=1e-5)
        assert np.isnan(found.fall[n, ~own]).all()
        for t in np.flatnonzero(own):
            near = np.abs(data.days[i] - data.days[i, t]) <= WINDOW_DAYS
            without = probabilities(i, own & (np.arange(len(own)) != t))
            expected = np.log(whole.max() / without[found.chosen[n]])
            assert found.fall[n, t] == pytest.approx(expected, abs=1e-4)
            assert found.window_attention[n, t] == pytest.approx(
                found.attention[n, near].sum(), abs=1e-6
            )
            if not (own & ~near).any():
                assert np.isnan(found.window_fall[n, t])
                assert found.window_class[n, t] == -1
                continue
            without = probabilities(i, own & ~near)
            low = without[found.chosen[n]]
            assert found.window_probability[n, t] == pytest.approx(low, abs=1e-5)
            assert found.window_fall[n, t] == pytest.approx(np.log(whole.max() / low), abs=1e-4)
            assert found.window_class[n, t] == without.argmax()


def test_correlations_are_those_of_scipy():
    rng = np.random.default_rng(1)
    attention = rng.integers(0, 5, (60, 9)).astype(float)  # with ties
    fall = np.where(rng.random((60, 9)) < 0.3, np.nan, rng.integers(-4, 5, (60, 9)) / 7)
    fall[0] = np.nan
    fall[1, :7] = np.nan
    fall[2] = 0.5
    found = rank_correlations(attention, fall)
    assert np.isnan(found[:3]).all()
    for row, a, f in zip(found[3:], attention[3:], fall[3:], strict=True):
        known = np.isfinite(f)
        expected = np.nan
        if known.sum() >= 3 and np.ptp(a[known]) and np.ptp(f[known]):
            expected = spearmanr(a[known], f[known]).statistic
        assert row == pytest.approx(expected, nan_ok=True)


def test_the_sample_has_as_many_parcels_of_each_class_as_there_are_up_to_a_number():
    chosen = np.random.default_rng(1).integers(-1, 4, 200)
    chosen[chosen == 3] = 2
    chosen[:3] = 3
    found = choose_sample(chosen, 20, np.random.default_rng(5))
    assert np.bincount(chosen[found]).tolist() == [20, 20, 20, 3]
    assert (np.diff(found) > 0).all()
    again = choose_sample(chosen, 20, np.random.default_rng(5))
    np.testing.assert_array_equal(found, again)
    assert not np.array_equal(found, choose_sample(chosen, 20, np.random.default_rng(6)))


def test_the_account_describes_the_sample_and_all_parcels(explained, models_of):
    settings, run = explained
    dataset, _, _, of = models_of
    account = json.loads(run.attention_account.read_text())
    chosen = pd.read_parquet(run.probabilities).set_index("parcel_id").to_numpy().argmax(1)
    table = pd.read_parquet(run.attention).drop(columns="parcel_id")
    is_labelled = np.array([len(own) == 1 for own in of])
    explainer = Explainer.load(dataset, run.models, run.folds, view(settings, "explain"), CPU)
    for k, crop in enumerate(account["classes"]):
        assert crop["code"] == CLASSES[k]
        assert crop["n_parcels"] == (chosen == k).sum()
        expected = min(SAMPLE_OF_CLASS, (is_labelled & (chosen == k)).sum())
        assert crop["n_sample"] == expected
        quartiles = table[chosen == k].quantile([0.25, 0.5, 0.75]).T.to_numpy()
        shown = np.array(crop["attention"], float)
        np.testing.assert_allclose(shown, quartiles, atol=2e-5)
    assert account["sample"]["n"] == sum(crop["n_sample"] for crop in account["classes"])
    # Fewer than 50 parcels of each class: the sample are all labelled parcels.
    assert account["sample"]["n"] == is_labelled.sum()
    found = occlude(explainer, np.flatnonzero(is_labelled))
    own = rank_correlations(found.attention, found.fall)
    own = own[np.isfinite(own)]
    by_date = account["sample"]["by_date"]
    assert by_date["mean"] == pytest.approx(own.mean(), abs=1e-6)
    assert by_date["n"] == len(own)
    half = 1.96 * own.std(ddof=1) / len(own) ** 0.5
    assert by_date["high"] - by_date["mean"] == pytest.approx(half, abs=1e-6)
    place = {day: t for t, day in enumerate(dataset.dates)}
    for k, crop in enumerate(account["classes"]):
        shares = {}
        for n in np.flatnonzero(chosen[is_labelled] == k):
            parcel_id = dataset.ids[np.flatnonzero(is_labelled)[n]]
            for t, day in enumerate(dataset.parcel_dates[parcel_id]):
                if found.window_class[n, t] >= 0:
                    changes = found.window_class[n, t] != found.chosen[n]
                    shares.setdefault(place[day], []).append(changes)
        expected = [np.mean(shares[t]) if t in shares else None for t in range(len(place))]
        assert crop["changed"] == pytest.approx(expected, abs=1e-5)


class Asked:
    """In place of an explainer: keeps what is left out; every parcel changes with its date 0."""

    def probabilities_without(self, _, left_out):
        self.left_out = left_out
        first = left_out[:, :, :1]
        return np.concatenate([1.0 - first, first], axis=2)


def test_the_dates_with_most_attention_are_left_out_and_as_many_random_ones(explained, models_of):
    settings, run = explained
    dataset, _, _, _ = models_of
    explainer = Explainer.load(dataset, run.models, run.folds, view(settings, "explain"), CPU)
    found = occlude(explainer, np.arange(9))
    found = replace(found, chosen=np.zeros(9, np.int64))
    asked = Asked()
    attended, random = share_changed(asked, np.arange(9), found, np.random.default_rng(1))
    assert asked.left_out.shape == (9, 2, found.attention.shape[1])
    for own, (most, others) in zip(found.attention, asked.left_out, strict=True):
        n = max(round(0.25 * (own > 0).sum()), 1)
        assert most.sum() == others.sum() == n
        assert own[most].min() >= own[~most].max()
        assert (own[others] > 0).all()
    assert attended == asked.left_out[:, 0, 0].mean()
    assert random == asked.left_out[:, 1, 0].mean()


def test_existing_weights_are_explained_by_all_models(explained, tmp_path):
    settings, run = explained
    make(tmp_path / "existing", 30, labelled=0.5)
    settings = settings_for(tmp_path / "existing", weights=run.models)
    other = ingested(settings, tmp_path / "run")
    options = view(settings, "predict")
    predict(other.dataset.root, run.models, other.ledger, other.predictions, options)
    explain_run(other, settings, run.models, None)
    dataset = opened(other)
    trained = load_trained(run.models, FOLDS, CPU)
    data = read_inputs(dataset, trained, dataset.classes)
    found = pd.read_parquet(other.attention).drop(columns="parcel_id").to_numpy()
    every = np.arange(30)
    expected = np.mean([model.attention(data, every, 7) for model in trained], axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    account = json.loads(other.attention_account.read_text())
    assert account["sample"]["n"] == account["n_parcels"] == 30


def test_probabilities_of_other_parcels_are_refused(explained, tmp_path):
    settings, run = explained
    table = pq.read_table(run.probabilities)
    for other, words in (
        (table.slice(1), "has 59 parcels and 3 classes, the dataset 60"),
        (table.drop_columns(CLASSES[0]), "has 60 parcels and 2 classes"),
    ):
        pq.write_table(other, tmp_path / "probabilities.parquet")
        with pytest.raises(InputError, match=words):
            explain(
                run.dataset.root, run.models, tmp_path / "probabilities.parquet",
                tmp_path / "attention.parquet", tmp_path / "attention.json",
                view(settings, "explain"), run.folds,
            )  # fmt: skip
    assert not list(tmp_path.glob("attention*"))


def test_without_parcels_nothing_is_known(explained, models_of):
    settings, run = explained
    dataset, _, _, _ = models_of
    explainer = Explainer.load(dataset, run.models, run.folds, view(settings, "explain"), CPU)
    found = occlude(explainer, np.zeros(0, np.int64))
    nothing = {"mean": None, "low": None, "high": None, "n": 0}
    described = describe_correlations(found, np.zeros(0, bool))
    assert described == {"by_date": nothing, "by_window": nothing}
    changed = share_changed(explainer, np.zeros(0, np.int64), found, np.random.default_rng(1))
    assert np.isnan(changed).all()


@pytest.mark.parametrize(
    ("low", "words"), [(0.5, "largely"), (0.49, "in part"), (0.2, "in part"), (0.19, "not")]
)
def test_the_agreement_is_what_is_sure(low, words):
    assert Correlation(0.9, low, 1.0, 9).agreement == words


def test_the_report_reads_the_account(explained, models_of):
    _, run = explained
    dataset = models_of[0]
    colours = dict.fromkeys(CLASSES, "#112233")
    section = read_attention(run, dataset.shown_classes[::-1], colours)
    account = json.loads(run.attention_account.read_text())
    assert section.by_window.mean == account["sample"]["by_window"]["mean"]
    predicted = [c["code"] for c in account["classes"] if c["n_parcels"]]
    assert [line.code for line in section.classes] == predicted[::-1]
    for line in section.classes:
        crop = account["classes"][CLASSES.index(line.code)]
        medians = [middle for _, middle, _ in crop["attention"]]
        for axes, values in zip(line.chart.axes, (medians, crop["changed"]), strict=True):
            known = [value for value in values if value is not None]
            (curve,) = axes.lines
            np.testing.assert_array_equal(curve.get_ydata(), known)
            # All are inside the chart.
            low, high = axes.get_ylim()
            assert low <= min(known) <= max(known) <= high
