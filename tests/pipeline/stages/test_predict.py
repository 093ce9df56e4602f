"""Prediction with existing weights: the reference's numbers, and weights that do not fit."""

import json
import shutil
from datetime import date, timedelta

import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
import torch

from geo.errors import InputError
from models.errors import InputError as ModelError
from models.hyperparameters import Hyperparameters
from pipeline.classes.ledger import read_ledger
from pipeline.dataset.model_inputs import load_existing, read_inputs
from pipeline.dataset.season import nearest_anniversary
from pipeline.stages.calibrate import calibrate
from pipeline.stages.predict import predict
from pipeline.stages.report import report
from pipeline.stages.split import split
from pipeline.stages.train import train
from pipeline.workflow.config import load, view
from tests.builders.models import random_weights
from tests.builders.paths import PARITY
from tests.builders.pixel_sets import (
    CLASSES,
    SEASON,
    ingested,
    ledger_of,
    make,
    number,
    settings_for,
    write,
)
from tests.builders.runs import opened, recorded

CODES = [1, 3, 4, 5, 6, 8, 9, 12, 13, 14, 16, 18, 19, 23, 28, 31, 33, 34, 36, 39]
CPU = torch.device("cpu")
needs_parity = pytest.mark.skipif(not PARITY.is_dir(), reason=f"{PARITY} is not there")


def predicted(run, settings, weights):
    options = view(settings, "predict")
    predict(run.dataset.root, weights, run.ledger, run.predictions, options)
    table = pd.read_parquet(run.predictions.with_suffix(".parquet"))
    return table.set_index("parcel_id")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Return a run with the reference's dataset, and the settings for its weights."""
    if not PARITY.is_dir():
        pytest.skip(f"{PARITY} is not there")
    dataset = {
        "path": PARITY / "pixelset_small",
        "nomenclature": "label_44class",
        "classes": CODES,
    }
    settings = load(
        {
            "dataset": dataset,
            "predict": {"weights": PARITY / "weights"},
            "train": {"pixels": 64, "device": "cpu"},
        }
    )
    return ingested(settings, tmp_path_factory.mktemp("reference")), settings


def test_the_references_weights_result_in_its_log_probabilities(reference):
    run, settings = reference
    expected = np.load(PARITY / "inference_clean_small.npz")
    trained = load_existing(PARITY / "weights", opened(run), settings, CPU)
    data = read_inputs(opened(run), trained, opened(run).classes)
    places = [data.ids.index(str(i)) for i in expected["ids"]]
    for k, model in enumerate(trained, 1):
        logits = torch.from_numpy(expected[f"eval_logits_fold{k}"]).double()
        found = model.log_probabilities(data, np.array(places), 50)
        np.testing.assert_allclose(found, torch.log_softmax(logits, 1), atol=1e-5, rtol=0)


def test_the_references_weights_result_in_its_classes(reference):
    run, settings = reference
    expected = np.load(PARITY / "inference_clean_small.npz")
    table = predicted(run, settings, settings.predict.weights)
    assert len(table) == 200
    assert set(table["pred_source"]) == {"ensemble"}
    assert set(table["status"]) == {"predict_only"}
    ours = table.loc[[str(i) for i in expected["ids"]]]
    assert ours["pred_code"].tolist() == [CODES[i] for i in expected["eval_pred"]]
    scores = expected["eval_ensemble_mean_log_softmax"].astype(float)
    share = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(ours["confidence"], share.max(1), atol=6e-5, rtol=0)
    labels = json.loads((PARITY / "pixelset_small/META/labels.json").read_text())["label_44class"]
    assert table["declared_code"].to_dict() == labels
    report(run.root, run.report, recorded(settings, run), view(settings, "report"))
    page = run.report.read_text()
    assert "The models were trained elsewhere" in page
    assert "predicted by existing weights" in page
    assert 'id="scores"' not in page
    assert "Trained on, and" not in page


def test_weights_that_contradict_the_settings_are_refused(reference):
    run, settings = reference
    folder = PARITY / "weights"
    few = settings.model_copy(
        update={"dataset": settings.dataset.model_copy(update={"classes": CODES[:3]})}
    )
    other = ingested(few, run.root.parent / "few_classes")
    with pytest.raises(ModelError, match=r"predicts 20 classes, the settings name 3"):
        load_existing(folder, opened(other), few, CPU)
    pooling = settings.model_copy(
        update={"model": settings.model.model_copy(update={"pooling": "mean_std_min"})}
    )
    with pytest.raises(ModelError, match=r"has 132 inputs.*Set model\.pooling"):
        load_existing(folder, opened(run), pooling, CPU)


@needs_parity
@pytest.mark.parametrize("name", ["psetae_default", "psetae_noextra", "pseltae_default"])
def test_hyperparameters_follow_from_the_weights(name):
    archive = np.load(PARITY / f"{name}.npz")
    shapes = {
        k.removeprefix("state/"): archive[k].shape for k in archive.files if k.startswith("state/")
    }
    expected = {
        "psetae_default": Hyperparameters(),
        "psetae_noextra": Hyperparameters(mlp2=(128, 128), extra_size=0),
        "pseltae_default": Hyperparameters(
            name="pseltae", n_head=16, d_k=8, d_model=256, mlp3=(256, 128), n_dates=24
        ),
    }[name]
    found = Hyperparameters.of_weights(shapes, pooling="mean_std", T=1000, positions="days")
    assert found == expected


@pytest.mark.parametrize("n_dates", [24, 20])
def test_the_references_ltae_requires_the_dates_of_its_training(reference, tmp_path, n_dates):
    run, settings = reference
    archive = np.load(PARITY / "pseltae_default.npz")
    state = {
        k.removeprefix("state/"): torch.from_numpy(archive[k])
        for k in archive.files
        if k.startswith("state/")
    }
    for name in ("weight", "bias"):
        key = f"temporal_encoder.inconv.1.{name}"
        state[key] = state[key][:, :n_dates]
    folder = tmp_path / "weights" / "Fold_1"
    folder.mkdir(parents=True)
    torch.save({"epoch": 1, "state_dict": state, "optimizer": {}}, folder / "model.pth.tar")
    if n_dates != 24:
        with pytest.raises(ModelError, match=r"normalises 20 dates together.*dataset has 24"):
            predicted(run, settings, tmp_path / "weights")
        return
    table = predicted(run, settings, tmp_path / "weights")
    assert table["pred_code"].isin(CODES).all()


def test_weights_of_something_else_are_refused():
    settings = {"pooling": "mean_std", "T": 1000, "positions": "days"}
    with pytest.raises(ModelError, match=r"not those of a PSE\+TAE or PSE\+L-TAE"):
        Hyperparameters.of_weights({"layer.weight": (2, 2)}, **settings)
    shapes = {name: tuple(w.shape) for name, w in random_weights(Hyperparameters()).items()}
    for name in ("temporal_encoder.attention_heads.Q", "temporal_encoder.inconv.0.weight"):
        with pytest.raises(ModelError, match="no attention heads"):
            Hyperparameters.of_weights(shapes | {name: ()}, **settings)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Train two folds on a made season."""
    folder = tmp_path_factory.mktemp("ours")
    make(folder / "given")
    settings = settings_for(folder / "given")
    run = ingested(settings, folder / "run")
    split(run.dataset.root, run.folds, view(settings, "split"))
    for fold in (1, 2):
        train(run.dataset.root, run.folds, fold, run.fold(fold), view(settings, "train"))
    calibrate(run.dataset.root, run.folds, run.models, view(settings, "calibrate"))
    return folder, run


def shifted(source, target, days):
    """Copy a dataset, and shift all its dates."""
    shutil.copytree(source, target)
    dates = {str(i): number(d + timedelta(days)) for i, d in enumerate(SEASON)}
    write(target / "META" / "dates.json", dates)
    return target


def test_our_weights_need_nothing_of_the_new_dataset(ours, tmp_path):
    """The dataset to predict may lack labels, classes and normalisation."""
    folder, run = ours
    given = tmp_path / "given"
    shutil.copytree(folder / "given", given)
    (given / "META" / "labels.json").unlink()
    (given / "normalisation_values.pkl").unlink()
    parcels = sorted((given / "DATA").iterdir())
    for path in parcels[20:]:
        path.unlink()
    settings = settings_for(given, run.models)
    new = predicted(ingested(settings, tmp_path / "run"), settings, run.models)
    old = predicted(run, settings, run.models)
    assert len(new) == 20
    for column in ("pred_code", "confidence", "pred2_code"):
        assert (new[column] == old.loc[new.index, column]).all()
    assert set(new["pred_code"]) <= set(CLASSES)
    assert new["declared_code"].isna().all()


@pytest.mark.parametrize(("days", "equal"), [(365, True), (40, False)])
def test_days_are_counted_from_the_same_day_of_the_year(ours, tmp_path, days, equal):
    """A shift by a year changes nothing; a shift by 40 days changes the days of the season."""
    folder, run = ours
    settings = settings_for(shifted(folder / "given", tmp_path / "given", days), run.models)
    other = ingested(settings, tmp_path / "run")
    trained = load_existing(run.models, opened(other), settings, CPU)
    data = read_inputs(opened(other), trained, opened(run).classes)
    assert data.days[0, 0] == (0 if equal else 40)
    new = predicted(other, settings, run.models)
    old = predicted(run, settings, run.models)
    assert (new["confidence"] == old["confidence"]).all() == equal


@pytest.mark.parametrize(
    ("day", "target", "expected"),
    [
        ("2017-01-10", "2018-02-09", "2018-01-10"),
        ("2017-11-15", "2019-01-05", "2018-11-15"),
        ("2017-01-05", "2018-12-20", "2019-01-05"),
        ("2020-02-29", "2021-03-01", "2021-02-28"),
        ("2020-02-29", "2024-03-01", "2024-02-28"),
        ("2020-02-29", "2020-02-29", "2020-02-29"),
        ("2018-03-01", "2018-03-01", "2018-03-01"),
    ],
)
def test_the_nearest_anniversary(day, target, expected):
    found = nearest_anniversary(date.fromisoformat(day), date.fromisoformat(target))
    assert found.isoformat() == expected


def test_other_bands_are_refused(ours, tmp_path):
    folder, run = ours
    dataset = {"path": folder / "given", "bands": ["B08", "B04", "B03", "B02"]}
    settings = settings_for(None, run.models, dataset=dataset)
    other = ingested(settings, tmp_path / "run")
    with pytest.raises(InputError, match=r"bands B02, B03, B04, B08; the dataset has B08"):
        predicted(other, settings, run.models)


def test_every_parcel_has_its_status_and_declared_class(ours):
    folder, run = ours
    settings = settings_for(folder / "given")
    options = view(settings, "predict")
    predict(run.dataset.root, run.models, run.ledger, run.predictions, options, folds=run.folds)
    table = pd.read_csv(run.predictions.with_suffix(".csv"))
    assert (table["status"] == "used").all()
    assert (table["pred_source"] == "out_of_fold").all()
    assert table["declared_code"].tolist() == [CLASSES[i] for i in opened(run).labels]
    assert (table["n_dates"] == len(SEASON)).all()


def test_with_a_register_geopackage_and_fiboa_are_written(ours, tmp_path):
    folder, run = ours
    settings = settings_for(folder / "given", run="named")
    ids = read_ledger(run.ledger)["parcel_id"]
    outlines = shapely.box(np.arange(len(ids)) * 10.0, 0, np.arange(len(ids)) * 10.0 + 5, 5)
    register = geopandas.GeoDataFrame({"ID": ids}, geometry=outlines, crs="EPSG:32631")
    register.to_file(tmp_path / "register.gpkg")
    predictions = tmp_path / "predictions" / "parcels.gpkg"
    predict(
        run.dataset.root, run.models, ledger_of(run, tmp_path / "register.gpkg", tmp_path),
        predictions, view(settings, "predict"),
        folds=run.folds, register=tmp_path / "register.gpkg",
    )  # fmt: skip
    layer = geopandas.read_file(predictions, layer="parcels")
    assert layer["parcel_id"].tolist() == layer["ID"].tolist() == ids.tolist()
    features = geopandas.read_parquet(predictions.with_name("parcels_fiboa.parquet"))
    assert features["id"].tolist() == ids.tolist()
    assert features["crop:code"].tolist() == layer["pred_code"].astype(str).tolist()
    assert (features["determination:datetime"].dt.date == SEASON[-1]).all()
    metadata = pq.read_schema(predictions.with_name("parcels_fiboa.parquet")).metadata
    assert json.loads(metadata[b"collection"])["collection"] == "named"
