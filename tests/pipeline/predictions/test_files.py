"""Predictions that are written in parts equal those that are written at once."""

import json
import sqlite3
from contextlib import closing

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
import torch
from geopandas.testing import assert_geodataframe_equal

from geo.errors import InputError
from geo.register.reading import read_register, read_register_parts
from models.crop_model import CropModel, ensemble
from pipeline.classes.crop_class import CropClass
from pipeline.classes.ledger import read_ledger
from pipeline.dataset.model_inputs import in_order, load_trained, read_inputs
from pipeline.evaluation.doubts import judge
from pipeline.evaluation.out_of_fold import probabilities_at, read_out_of_fold
from pipeline.evaluation.prediction_sets import PredictionSets
from pipeline.predictions.columns import ENSEMBLE, OUT_OF_FOLD, Choices, choose
from pipeline.stages import predict as stage
from pipeline.stages.calibrate import calibrate
from pipeline.stages.predict import predict
from pipeline.stages.split import split
from pipeline.stages.train import train
from pipeline.workflow.config import view
from tests.builders.pixel_sets import ingested, ledger_of, make, settings_for
from tests.builders.runs import opened

N = 60


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train two folds on a made season; a fifth of the parcels has no label."""
    folder = tmp_path_factory.mktemp("trained")
    make(folder / "given", N, labelled=0.8)
    settings = settings_for(folder / "given")
    run = ingested(settings, folder / "run")
    split(run.dataset.root, run.folds, view(settings, "split"))
    for fold in (1, 2):
        train(run.dataset.root, run.folds, fold, run.fold(fold), view(settings, "train"))
    calibrate(run.dataset.root, run.folds, run.models, view(settings, "calibrate"))
    return run, settings


def register_of(run):
    """Make a register with missing values in columns of every type, some in whole parts."""
    ids = read_ledger(run.ledger)["parcel_id"]
    x = np.arange(len(ids)) * 10.0
    outlines = shapely.box(x, 0, x + 5, 5).astype(object)
    outlines[11] = shapely.multipolygons([outlines[11], shapely.box(111, 7, 113, 9)])
    outlines[3] = None
    rng = np.random.default_rng(0)
    some = pd.Series(rng.random(len(ids)) < 0.5)
    late = pd.Series(np.arange(len(ids)) > 40)
    whole = pd.Series(rng.integers(0, 9, len(ids))).astype("Int64")
    columns = {
        "ID": ids,
        "STATUS": "a column that predictions have, too",
        "whole": whole,
        "gaps": whole.where(some),
        "late": whole.where(late),
        "truth": (whole > 4).astype("boolean"),
        "half": pd.Series(rng.random(len(ids))).where(some),
        "text": pd.Series(['ä, "b"\n'] * len(ids)).where(late),
        "never": pd.Series([None] * len(ids), dtype="str"),
        "day": pd.Series(pd.date_range("2018-01-01 12:00", periods=len(ids))).where(some),
    }
    return gpd.GeoDataFrame(columns, geometry=outlines, crs="EPSG:32631")


def written(trained, folder, register, monkeypatch, rows, n_bytes, cleaned=None):
    """Write the predictions of a register; `cleaned` is the register of the ledger, if another."""
    run, settings = trained
    ledger = ledger_of(run, cleaned or register, folder.with_name(f"{folder.name}_ledger"))
    monkeypatch.setattr(stage, "ROWS_AT_A_TIME", rows)
    monkeypatch.setattr(stage, "in_order", lambda data: in_order(data, n_bytes))
    path = folder / "parcels.gpkg"
    options = {"folds": run.folds, "register": register}
    predict(run.dataset.root, run.models, ledger, path, view(settings, "predict"), **options)
    assert not list(folder.glob(".*"))
    return path


def read(path):
    return gpd.read_file(path, layer="parcels")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
@pytest.mark.parametrize(("rows", "n_bytes"), [(4, 2000), (7, 9000), (59, 10**9)])
def test_parts_result_in_the_same_files(trained, tmp_path, monkeypatch, suffix, rows, n_bytes):
    register = tmp_path / f"register{suffix}"
    table = register_of(trained[0])
    table.to_file(register) if suffix == ".gpkg" else table.to_parquet(register)
    whole = written(trained, tmp_path / "whole", register, monkeypatch, 10**6, 10**9)
    parts = written(trained, tmp_path / "parts", register, monkeypatch, rows, n_bytes)
    assert len(read(whole)) == N
    assert_geodataframe_equal(read(parts), read(whole))
    assert pyogrio.read_info(parts, layer="parcels")["geometry_type"] == "MultiPolygon"
    csv = [path.with_suffix(".csv").read_bytes() for path in (parts, whole)]
    assert csv[0] == csv[1]
    for name in ("parcels.parquet", "parcels_fiboa.parquet"):
        tables = [pq.read_table(path.with_name(name)) for path in (parts, whole)]
        assert tables[0].schema.names == tables[1].schema.names
        frames = [table.to_pandas() for table in tables]
        pd.testing.assert_frame_equal(*frames)
    with closing(sqlite3.connect(parts)) as database:
        (indexed,) = database.execute("SELECT count(*) FROM rtree_parcels_geom").fetchone()
    assert indexed == N - 1
    # By the specification, a layer of multipolygons contains no plain polygons.
    assert set(read(parts).geom_type.dropna()) == {"MultiPolygon"}


def test_predictions_equal_the_models_probabilities(trained, tmp_path, monkeypatch):
    """Joined parcel by parcel."""
    run, _ = trained
    register_of(run).to_file(tmp_path / "register.gpkg")
    path = written(trained, tmp_path / "out", tmp_path / "register.gpkg", monkeypatch, 7, 9000)
    table = pd.read_parquet(path.with_suffix(".parquet")).set_index("parcel_id")
    data = opened(run).pixel_sets(with_features=True)
    models = [CropModel.load(run.fold(k), stage.choose_device("cpu", 1)) for k in (1, 2)]
    temperatures = read_out_of_fold(run.out_of_fold).temperatures
    by_model = [
        model.log_probabilities(data, np.arange(N), 512) / temperature
        for model, temperature in zip(models, temperatures, strict=True)
    ]
    source, scores = np.full(N, "ensemble", object), ensemble(by_model)
    for fold, own in zip(opened(run).folds(run.folds), by_model, strict=True):
        source[fold.test], scores[fold.test] = "out_of_fold", own[fold.test]
    assert set(source) == {"out_of_fold", "ensemble"}
    share = np.exp(scores.astype(float)) / np.exp(scores.astype(float)).sum(1, keepdims=True)
    names = np.array(["barley", "maize", "wheat"])
    for i, parcel_id in enumerate(data.ids):
        row = table.loc[parcel_id]
        first, second = np.argsort(-share[i])[:2]
        assert (row["pred_code"], row["pred2_code"]) == (names[first], names[second])
        assert row["confidence"] == pytest.approx(share[i, first], abs=6e-5)
        assert row["confidence2"] == pytest.approx(share[i, second], abs=6e-5)
        assert row["pred_source"] == source[i]
        assert row["n_pixels"] == data.sizes[i]


def test_declarations_are_judged_by_the_out_of_fold_predictions(trained, tmp_path):
    run, settings = trained
    options = view(settings, "predict")
    rate = {"predict": options.predict.model_copy(update={"false_alarms": 0.1})}
    path, doubts = tmp_path / "parcels.gpkg", tmp_path / "doubts.json"
    ledger = read_ledger(run.ledger)
    areas = pd.DataFrame({"row": ledger["row"], "area_m2": 1000.0 + ledger["row"]})
    areas.loc[7, "area_m2"] = np.nan
    areas[::-1].to_parquet(tmp_path / "register.parquet")
    predict(
        run.dataset.root, run.models, run.ledger, path, options.model_copy(update=rate),
        folds=run.folds, doubts=doubts, cleaned=tmp_path / "register.parquet",
    )  # fmt: skip
    table = pd.read_parquet(path.with_suffix(".parquet")).set_index("parcel_id")
    tested = read_out_of_fold(run.out_of_fold)
    expected_ha = (areas["area_m2"] / 10_000).round(4).set_axis(ledger["parcel_id"])
    pd.testing.assert_series_equal(table["area_ha"], expected_ha, check_names=False)
    assert table.loc[tested.ids, "fold"].tolist() == tested.fold.tolist()
    assert table["fold"].notna().sum() == len(tested.ids)
    np.testing.assert_allclose(table["margin"], table["confidence"] - table["confidence2"])
    assert table["tile"].isna().all()  # an existing dataset has none
    expected = judge(tested.labels, tested.probabilities, 0.1)
    assert len({*expected.verdict}) == 3
    own = table.loc[tested.ids]
    assert own["verdict"].tolist() == [str(verdict) for verdict in expected.verdict]
    assert own["doubt_rank"].tolist() == expected.rank.tolist()
    np.testing.assert_allclose(own["declared_probability"], expected.probability, atol=6e-5)
    agrees = own["declared_code"] == own["pred_code"]
    assert (own["verdict"][agrees] == "CONFORM").all()
    assert (own["declared_probability"][agrees] == own["confidence"][agrees]).all()
    others = table.drop(index=tested.ids)[["declared_probability", "verdict", "doubt_rank"]]
    assert len(others)
    assert others.isna().all(axis=None)
    rows = pd.DataFrame(json.loads(doubts.read_text())["classes"]).set_index("code")
    for verdict, column in (("CONFLICT", "n_conflict"), ("DOUBT", "n_doubt")):
        counts = own["declared_code"][own["verdict"] == verdict].value_counts()
        assert rows[column].to_dict() == counts.reindex(rows.index, fill_value=0).to_dict()
    assert rows["n"].sum() == len(own)


def test_rows_of_a_reversed_register_have_their_predictions(trained, tmp_path, monkeypatch):
    table = register_of(trained[0])
    table.to_file(tmp_path / "register.gpkg")
    table[::-1].to_file(tmp_path / "reversed.gpkg")
    cleaned = tmp_path / "register.gpkg"
    straight = written(trained, tmp_path / "out", cleaned, monkeypatch, 7, 10**9)
    reverse = written(
        trained, tmp_path / "reverse", tmp_path / "reversed.gpkg", monkeypatch, 7, 10**9, cleaned
    )
    found = read(reverse)
    assert found["parcel_id"].tolist() == found["ID"].tolist() == table["ID"].tolist()[::-1]
    expected = read(straight)[::-1].reset_index(drop=True)
    assert_geodataframe_equal(found, expected)
    for suffix in (".csv", ".parquet"):
        read_table = pd.read_csv if suffix == ".csv" else pd.read_parquet
        rows = read_table(reverse.with_suffix(suffix))
        expected = read_table(straight.with_suffix(suffix))[::-1].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, expected)


def test_a_ledger_without_checksums_is_refused(trained, tmp_path):
    """Such as the ledger of an existing dataset; the refusal comes before any prediction."""
    run, settings = trained
    register_of(run).to_file(tmp_path / "register.gpkg")
    out = tmp_path / "out" / "parcels.gpkg"
    with pytest.raises(
        InputError, match=r"has no checksums to identify the rows of .*snakemake -R clean"
    ):
        predict(
            run.dataset.root, run.root / "no models", run.ledger, out, view(settings, "predict"),
            folds=run.folds, register=tmp_path / "register.gpkg",
        )  # fmt: skip
    assert not out.parent.exists()


def test_another_register_than_was_cleaned_is_refused(trained, tmp_path, monkeypatch):
    """Nothing is written."""
    table = register_of(trained[0])
    table.to_file(tmp_path / "register.gpkg")
    for n in (N - 1, N + 1):
        other = pd.concat([table, table])[:n].reset_index(drop=True)
        path = tmp_path / f"{n}.gpkg"
        other.to_file(path)
        with pytest.raises(InputError, match=r"does not have the rows of .* snakemake -R clean"):
            written(
                trained, tmp_path / "out", path, monkeypatch, 20, 10**9, tmp_path / "register.gpkg"
            )
        assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet", ".geojson"])
@pytest.mark.parametrize("n_rows", [3, 7, 100])
def test_parts_of_a_register_equal_the_register(trained, tmp_path, suffix, n_rows):
    path = tmp_path / f"register{suffix}"
    table = register_of(trained[0]).to_crs(4326)
    table.to_parquet(path) if suffix == ".parquet" else table.to_file(path)
    whole = read_register(path)
    parts = [part for part, _ in read_register_parts(path, None, "ID", {}, n_rows)]
    assert max(map(len, parts)) <= n_rows
    assert len({tuple(part.dtypes) for part in parts}) == 1
    together = gpd.GeoDataFrame(pd.concat(parts), crs=parts[0].crs)
    assert together.index.equals(whole.index)
    # A column of text without any value has no type.
    texts = {"never": "str"}
    assert_geodataframe_equal(together.astype(texts), whole.astype(texts), check_dtype=False)


@pytest.mark.parametrize("n_bytes", [1, 5000, 10**9])
def test_batches_of_parcels_equal_the_parcels(trained, n_bytes):
    data = opened(trained[0]).pixel_sets(with_features=True)
    n = 0
    for start, part in in_order(data, n_bytes):
        assert start == n
        n += len(part)
        assert part.pixels.nbytes <= n_bytes or len(part) == 1
        for i in range(len(part)):
            own = part.pixels[part.offsets[i] : part.offsets[i + 1]]
            at = slice(data.offsets[start + i], data.offsets[start + i + 1])
            assert np.array_equal(own, data.pixels[at])
            assert part.ids[i] == data.ids[start + i]
            assert part.features[i].tolist() == data.features[start + i].tolist()
    assert n == N


def test_choices_have_names_or_are_missing():
    classes = [CropClass(12, "wheat"), CropClass(3, "rape"), CropClass(7, "maize")]
    choices = Choices.empty(4, classes)
    probabilities = np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.4, 0.4, 0.2]])
    choices.put(1, probabilities, np.array([OUT_OF_FOLD, ENSEMBLE, ENSEMBLE], np.int8))
    table = choices.table(np.array([3, -1, 0, 1]))
    assert table["pred_code"].tolist() == [12, pd.NA, pd.NA, 3]
    assert table["pred2_name"].fillna("").tolist() == ["rape", "", "", "maize"]
    assert table["confidence"].fillna(-1).tolist() == [0.4, -1, -1, 0.5]
    assert table["pred_source"].tolist() == ["ensemble", "", "", "out_of_fold"]
    assert choose(probabilities)[0].tolist() == [[1, 2], [2, 0], [0, 1]]


def test_sets_are_named_by_their_codes():
    classes = [CropClass(code, f"class {code}") for code in range(10, 20)]
    choices = Choices.empty(5, classes, with_sets=True)
    members = np.zeros((3, 10), bool)
    members[0, [0, 8, 9]] = members[2, 4] = True
    choices.put(1, np.full((3, 10), 0.1), np.full(3, OUT_OF_FOLD, np.int8), members)
    table = choices.table(np.array([3, 2, -1, 0, 1]))
    assert table["set_size"].tolist() == [1, 0, pd.NA, pd.NA, 3]
    # The set of the second row is empty, the third and fourth parcels have none.
    assert table["prediction_set"].fillna("none").tolist() == [
        "14", "", "none", "none", "10 | 18 | 19",
    ]  # fmt: skip
    without = Choices.empty(5, classes).table(np.array([3, -1]))
    assert without["set_size"].isna().all()
    assert without.dtypes.equals(table.dtypes)


@pytest.mark.parametrize("n_bytes", [2000, 10**9])
def test_every_predicted_parcel_has_its_probabilities(trained, tmp_path, monkeypatch, n_bytes):
    run, _ = trained
    register_of(run).to_file(tmp_path / "register.gpkg")
    path = written(trained, tmp_path / "out", tmp_path / "register.gpkg", monkeypatch, 7, n_bytes)
    table = pd.read_parquet(path.with_suffix(".parquet")).set_index("parcel_id")
    found = pd.read_parquet(path.with_name("probabilities.parquet")).set_index("parcel_id")
    assert list(found) == ["barley", "maize", "wheat"]
    assert set(found.dtypes) == {np.dtype(np.float32)}
    assert sorted(found.index) == sorted(table.index[table["pred_source"] != ""])
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    own = table.loc[found.index]
    assert (found.idxmax(axis=1) == own["pred_code"]).all()
    np.testing.assert_allclose(found.max(axis=1), own["confidence"], atol=6e-5)
    # The sets are those of the out-of-fold predictions.
    predictions = read_out_of_fold(run.out_of_fold)
    members = PredictionSets(predictions, 0.1).of_tested()
    sets = [" | ".join(found.columns[row]) for row in members]
    assert own.loc[predictions.ids, "prediction_set"].tolist() == sets
    assert own.loc[predictions.ids, "set_size"].tolist() == members.sum(axis=1).tolist()
    np.testing.assert_allclose(found.loc[predictions.ids], predictions.probabilities, rtol=1e-6)
    # Areas are based on means of probabilities instead of log-probabilities.
    means = pd.read_parquet(path.with_name("mean_probabilities.parquet")).set_index("parcel_id")
    pd.testing.assert_frame_equal(means.loc[predictions.ids], found.loc[predictions.ids])
    dataset = opened(run)
    models = load_trained(run.models, 2, torch.device("cpu"))
    data = read_inputs(dataset, models, dataset.classes)
    new = np.flatnonzero(~np.isin(dataset.ids, predictions.ids))
    pairs = zip(models, predictions.temperatures, strict=True)
    expected = np.mean(
        [probabilities_at(m.log_probabilities(data, new, 9), t) for m, t in pairs], 0
    )
    np.testing.assert_allclose(means.loc[np.array(dataset.ids)[new]], expected, rtol=1e-5)
