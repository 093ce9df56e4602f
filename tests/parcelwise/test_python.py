"""The names of `import parcelwise`, and the predictions of a model in Python."""

import importlib
import json
import logging
from datetime import date

import numpy as np
import pandas as pd
import pytest
from torch.utils.data import DataLoader

import parcelwise
from models.errors import InputError as ModelInputError
from parcelwise import CropModel, PixelSetDataset, pad
from pipeline.stages.calibrate import calibrate
from pipeline.stages.predict import predict
from pipeline.stages.split import split
from pipeline.workflow.config import view
from pipeline.workflow.paths import RunPaths
from tests.builders.models import FOLDS, save_models
from tests.builders.pixel_sets import CLASSES, ingest_dataset, make, settings_for


def test_every_name_is_there():
    for name in parcelwise.__all__:
        assert getattr(parcelwise, name).__doc__
        module = importlib.import_module(parcelwise._MODULES[name])
        assert getattr(parcelwise, name) is getattr(module, name)
    assert {*parcelwise.__all__} == {*parcelwise._MODULES} == {*dir(parcelwise)}
    with pytest.raises(AttributeError, match="no attribute 'extarct'"):
        parcelwise.extarct  # noqa: B018


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run with models of random weights, whose parcels have dates of their own."""
    folder = tmp_path_factory.mktemp("predicted")
    make(folder / "given", 60, labelled=0.8, own_dates=True)
    settings = settings_for(folder / "given", split={"folds": FOLDS})
    run = RunPaths(folder / "run")
    ingest_dataset(settings, run)
    save_models(run.models)
    split(run.dataset.root, run.folds, view(settings, "split"))
    calibrate(run.dataset.root, run.folds, run.models, view(settings, "calibrate"))
    predict(
        run.dataset.root, run.models, run.ledger, run.predictions, view(settings, "predict"),
        run.folds, doubts=run.doubts,
    )  # fmt: skip
    return run


def test_the_model_of_a_fold_predicts_its_test_parcels_as_the_run_does(run):
    dataset = PixelSetDataset.open(str(run.dataset.root))
    expected = pd.read_parquet(run.probabilities).set_index("parcel_id")
    for number, fold in enumerate(dataset.folds(run.folds), 1):
        model = CropModel.load(str(run.fold(number)))
        codes, probabilities = model.predict(dataset, batch_size=7)
        ids = [dataset.ids[i] for i in fold.test]
        np.testing.assert_allclose(probabilities[fold.test], expected.loc[ids], atol=1e-6)
        assert codes.tolist() == [CLASSES[k] for k in probabilities.argmax(axis=1)]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_a_model_without_calibration_says_so(run, tmp_path, caplog):
    dataset = PixelSetDataset.open(run.dataset.root)
    save_models(tmp_path)
    model = CropModel.load(tmp_path / "Fold_1")
    with caplog.at_level(logging.WARNING):
        _, plain = model.predict(dataset)
    assert "Fold_1 has no temperature: its probabilities are not calibrated" in caplog.text
    (tmp_path / "Fold_1" / "calibration.json").write_text(json.dumps({"temperature": 2}))
    halved = np.sqrt(plain)
    _, found = model.predict(dataset)
    np.testing.assert_allclose(found, halved / halved.sum(axis=1, keepdims=True), atol=1e-6)
    for damaged in ("{", "[]", '{"temperature": 0}', '{"temperature": "x"}', "{}"):
        (tmp_path / "Fold_1" / "calibration.json").write_text(damaged)
        with pytest.raises(ModelInputError, match="is not the calibration of a model"):
            model.predict(dataset)


def test_days_are_counted_from_the_day_0_of_the_model(run, tmp_path):
    dataset = PixelSetDataset.open(run.dataset.root)
    save_models(tmp_path)
    path = tmp_path / "Fold_1" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"first_date": "2017-02-01"}))
    model = CropModel.load(tmp_path / "Fold_1")
    sets = dataset.pixel_sets(with_features=True, season_start=date(2018, 2, 1))
    np.testing.assert_array_equal(model.predict(dataset)[1], model.predict(sets)[1])
    sets = dataset.pixel_sets(with_features=True)
    assert np.abs(model.predict(dataset)[1] - model.predict(sets)[1]).max() > 1e-4


def test_a_dataset_with_other_bands_or_dates_is_refused(run, tmp_path):
    dataset = PixelSetDataset.open(run.dataset.root)
    save_models(tmp_path)
    path = tmp_path / "Fold_1" / "model.json"
    about = json.loads(path.read_text())
    for changes, words in (
        ({"bands": ["B02", "B03", "B04", "B8A"]}, "were trained with the bands B02, B03, B04, B8A"),
        ({"dates": ["2018-11-01", "2018-12-01"]}, "The model: in the season of the imagery"),
    ):
        path.write_text(json.dumps(about | changes))
        with pytest.raises(Exception, match=words):
            CropModel.load(tmp_path / "Fold_1").predict(dataset)


def test_a_loader_makes_batches_for_a_model_of_ones_own(run):
    dataset = PixelSetDataset.open(run.dataset.root)
    batches = list(DataLoader(dataset, batch_size=32, collate_fn=pad))
    assert [len(batch["id"]) for batch in batches] == [32, 28]
    assert [i for batch in batches for i in batch["id"]] == dataset.ids
