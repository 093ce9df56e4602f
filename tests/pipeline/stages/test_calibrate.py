"""The out-of-fold predictions are those of the fold's model, and their temperatures are fitted."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from geo.errors import InputError
from models.crop_model import CropModel
from models.training.distributed import choose_device
from pipeline.evaluation.out_of_fold import probabilities_at, read_out_of_fold, read_tested
from pipeline.evaluation.prediction_sets import PredictionSets
from pipeline.evaluation.temperature import fit_temperature
from pipeline.inspection.check import check
from pipeline.stages.calibrate import calibrate
from pipeline.stages.predict import predict
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
    models = [CropModel.load(run.fold(k), choose_device("cpu", 1)) for k in range(1, FOLDS + 1)]
    folds = dataset.folds(run.folds)
    by_fold = [model.log_probabilities(data, np.arange(len(data)), 7) for model in models]
    assert predictions.ids == [dataset.ids[i] for i in labelled]
    assert predictions.labels.tolist() == dataset.labels[labelled].tolist()
    for number, fold in enumerate(folds, 1):
        rows = predictions.rows_of(number)
        assert [predictions.ids[i] for i in rows] == [dataset.ids[i] for i in fold.test]
        expected = by_fold[number - 1][fold.test]
        np.testing.assert_allclose(predictions.log_probabilities[rows], expected, atol=1e-5)
        # Fitted on the test parcels of all other folds.
        pairs = [
            (own[i], dataset.labels[i])
            for own, other in zip(by_fold, folds, strict=True)
            for i in other.test
            if other is not fold
        ]
        scores, labels = map(np.array, zip(*pairs, strict=True))
        temperature, note = fit_temperature(scores, labels)
        assert predictions.temperatures[number - 1] == pytest.approx(temperature, rel=1e-3)
        written = json.loads(run.calibration(number).read_text())
        assert written["n_parcels"] == len(pairs) == 72
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


def test_existing_weights_are_calibrated_by_the_table_beside_them(calibrated, tmp_path):
    """Sets and confidences are those of the parcels of this run that have no label."""
    run, settings = calibrated
    shutil.copytree(run.models, tmp_path / "weights")
    options = view(settings, "predict")
    ledger, dataset = run.ledger, run.dataset.root
    predict(dataset, run.models, ledger, tmp_path / "ours.gpkg", options, folds=run.folds)
    predict(dataset, tmp_path / "weights", ledger, tmp_path / "theirs.gpkg", options)
    (tmp_path / "weights" / "out_of_fold.parquet").unlink()
    predict(dataset, tmp_path / "weights", ledger, tmp_path / "plain.gpkg", options)
    ours, theirs, plain = (
        pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("ours", "theirs", "plain")
    )
    is_new = ours["pred_source"] == "ensemble"
    assert is_new.sum() == 12
    pd.testing.assert_frame_equal(ours[is_new], theirs[is_new])
    assert theirs["set_size"].notna().all()
    # Without the table, nothing is calibrated.
    assert plain["set_size"].isna().all()
    assert plain["prediction_set"].isna().all()
    assert (plain["confidence"] != theirs["confidence"]).any()
    # The mean of the folds, each at its temperature; each fold compared with its own parcels
    data = opened(run).pixel_sets(with_features=True)
    new = np.flatnonzero(opened(run).labels < 0)
    predictions = read_out_of_fold(run.out_of_fold)
    scores = [
        CropModel.load(run.fold(k), choose_device("cpu", 1)).log_probabilities(data, new, 64)
        for k in range(1, FOLDS + 1)
    ]
    temperatures = predictions.temperatures
    odds = np.exp(np.mean([s / t for s, t in zip(scores, temperatures, strict=True)], axis=0))
    confidence = odds.max(axis=1) / odds.sum(axis=1)
    np.testing.assert_allclose(ours.loc[is_new, "confidence"], confidence, atol=1e-4)
    pairs = zip(scores, temperatures, strict=True)
    members = PredictionSets(predictions, 0.1).of_new([probabilities_at(s, t) for s, t in pairs])
    assert ours.loc[is_new, "set_size"].tolist() == members.sum(axis=1).tolist()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda folder: (folder / "Fold_2/calibration.json").unlink(),
            "Fold_2 without calibration",
        ),
        (lambda folder: shutil.rmtree(folder / "Fold_3"), "Fold_3 without calibration"),
        (
            lambda folder: shutil.copytree(folder / "Fold_3", folder / "Fold_4"),
            "it is of 3 folds and 3 classes, they of 4 and 3",
        ),
    ],
)
def test_a_table_of_other_models_is_refused(calibrated, tmp_path, spoil, words):
    run, settings = calibrated
    folder = tmp_path / "weights"
    shutil.copytree(run.models, folder)
    spoil(folder)
    options = view(settings, "predict")
    given = settings.predict.model_copy(update={"weights": folder})
    message = rf"out_of_fold\.parquet does not belong .* {words}.* or delete the file"
    with pytest.raises(InputError, match=message):
        predict(run.dataset.root, folder, run.ledger, tmp_path / "out.gpkg", options)
    # Also before a run starts
    with pytest.raises(InputError, match=rf"predict\.weights: .* {words}"):
        check(settings.model_copy(update={"predict": given}))
    (folder / "out_of_fold.parquet").unlink()
    check(settings.model_copy(update={"predict": given}))
    predict(run.dataset.root, folder, run.ledger, tmp_path / "out.gpkg", options)


def test_a_new_training_removes_the_calibration(calibrated, tmp_path):
    run, _ = calibrated
    shutil.copytree(run.models, tmp_path / "models")
    assert (tmp_path / "models" / "Fold_1" / "calibration.json").is_file()
    save_models(tmp_path / "models")
    assert not list((tmp_path / "models").glob("*/calibration.json"))
