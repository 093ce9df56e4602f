"""The out-of-fold predictions are those of the fold's model, and their temperatures are fitted."""

import json

import numpy as np
import pandas as pd
import pytest

from geo.errors import InputError
from models.crop_model import CropModel
from models.training.distributed import choose_device
from pipeline.evaluation.out_of_fold import read_out_of_fold, read_tested
from pipeline.evaluation.temperature import fit_temperature
from pipeline.stages.calibrate import calibrate
from pipeline.stages.split import split
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import RunPaths
from tests.builders.models import FOLDS, save_models
from tests.builders.pixel_sets import BANDS, CLASSES, ingest_dataset, make
from tests.builders.runs import opened


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """Models with random weights of three folds of 108 parcels; a tenth of 120 has no label."""
    folder = tmp_path_factory.mktemp("calibrated")
    make(folder / "given", 120, labelled=0.9)
    settings = load(
        {
            "dataset": {"path": folder / "given", "bands": BANDS, "classes": {"min_parcels": 5}},
            "train": {"device": "cpu"},
            "split": {"folds": FOLDS},
        }
    )
    run = RunPaths(folder / "run")
    ingest_dataset(settings, run)
    save_models(run.models)
    split(run.dataset.root, run.folds, view(settings, "split"))
    calibrate(run.dataset.root, run.folds, run.models, view(settings, "calibrate"))
    return run, settings


def test_every_labelled_parcel_is_predicted_by_the_model_of_its_fold(calibrated):
    run, _ = calibrated
    dataset = opened(run)
    predictions = read_out_of_fold(run.out_of_fold)
    data = dataset.pixel_sets(with_features=True)
    labelled = np.flatnonzero(dataset.labels >= 0)
    assert len(labelled) == 108
    assert predictions.ids == [dataset.ids[i] for i in labelled]
    assert predictions.labels.tolist() == dataset.labels[labelled].tolist()
    for number, fold in enumerate(dataset.folds(run.folds), 1):
        model = CropModel.load(run.fold(number), choose_device("cpu", 1))
        rows = predictions.rows_of(number)
        assert [predictions.ids[i] for i in rows] == [dataset.ids[i] for i in fold.test]
        expected = model.log_probabilities(data, fold.test, 7)
        np.testing.assert_allclose(predictions.log_probabilities[rows], expected, atol=1e-5)
        scores = model.log_probabilities(data, fold.validation, 7)
        temperature, note = fit_temperature(scores, data.labels[fold.validation])
        assert predictions.temperatures[number - 1] == pytest.approx(temperature, rel=1e-3)
        written = json.loads(run.calibration(number).read_text())
        assert written["n_parcels"] == len(fold.validation)
        assert (written["note"] is None) == (note is None)
        # The probabilities are those at the temperature of the fold.
        odds = np.exp(expected.astype(float) / temperature)
        odds /= odds.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(predictions.probabilities[rows], odds, atol=1e-4)
    assert predictions.n_folds == FOLDS
    np.testing.assert_allclose(predictions.probabilities.sum(axis=1), 1)


def test_the_table_names_the_classes(calibrated):
    run, _ = calibrated
    table = pd.read_parquet(run.out_of_fold)
    assert list(table) == ["parcel_id", "fold", "label", *(f"log_probability_{c}" for c in CLASSES)]


def test_predictions_of_other_folds_are_refused(calibrated, tmp_path):
    run, settings = calibrated
    other = settings.model_copy(update={"split": settings.split.model_copy(update={"seed": 2})})
    split(run.dataset.root, tmp_path / "folds.json", view(other, "split"))
    dataset = opened(run)
    assert len(read_tested(run.out_of_fold, dataset, dataset.folds(run.folds)).ids) == 108
    with pytest.raises(InputError, match=r"other folds, labels or classes .* -R calibrate"):
        read_tested(run.out_of_fold, dataset, dataset.folds(tmp_path / "folds.json"))
    dataset.labels[:2] = dataset.labels[1::-1]
    with pytest.raises(InputError, match="other folds, labels or classes"):
        read_tested(run.out_of_fold, dataset, dataset.folds(run.folds))
