"""Folds are disjoint, contain every parcel, and keep classes or blocks together as set."""

import json
import logging
import time
from dataclasses import astuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from geo.errors import InputError
from pipeline.dataset.groups import blocks_of, number_groups
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.stages.split import assign_roles, divide, split
from pipeline.stages.variogram import season_means, variogram
from pipeline.workflow.config import load, view
from tests.builders.pixel_sets import ingest_folder, make

WAYS = ["random", "stratified", "block", "group"]


@given(st.integers(2, 6), st.integers(0, 1000), st.sampled_from(WAYS))
def test_parts_are_disjoint_and_contain_every_parcel(n_folds, seed, by):
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), [40, 20, 7])
    blocks = generator.permutation(np.arange(len(labels)) % 9)
    parts = divide(labels, n_folds, by=by, blocks=blocks, seed=seed)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    if by == "stratified":
        counts = np.array([np.bincount(labels[part], minlength=3) for part in parts])
        assert (np.ptp(counts, axis=0) <= 1).all()
    if by in ("block", "group"):
        owners = {b: {i for i, p in enumerate(parts) if b in blocks[p]} for b in set(blocks)}
        assert all(len(folds) == 1 for folds in owners.values())
    assert all(len(part) for part in parts)


@given(st.integers(2, 6), st.integers(0, 100))
def test_every_parcel_is_tested_once_and_validated_once(n_folds, seed):
    parts = divide(np.zeros(50, np.int64), n_folds, by="random", seed=seed)
    folds = [assign_roles(parts, k, seed) for k in range(n_folds)]
    for fold in folds:
        assert sorted(np.concatenate(astuple(fold))) == list(range(50))
        assert all(len(part) for part in astuple(fold))
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(50))
    if n_folds > 2:
        assert sorted(np.concatenate([fold.validation for fold in folds])) == list(range(50))


def test_the_same_seed_makes_the_same_folds_and_another_seed_others():
    labels = np.zeros(100, np.int64)
    a, b, c = (divide(labels, 5, by="random", seed=s) for s in (1, 1, 2))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not all(np.array_equal(x, y) for x, y in zip(a, c, strict=True))


def test_blocks_are_squares_of_land():
    positions = np.array([[0.0, 0.0], [999.0, 999.0], [1000.0, 0.0], [0.0, 1000.0], [999.0, 0.0]])
    blocks = blocks_of(positions, 1000.0)
    assert blocks[0] == blocks[1] == blocks[4]
    assert len(set(blocks)) == 3


@pytest.mark.parametrize("n_folds", [3, 5])
def test_groups_have_class_shares_as_even_as_those_of_scikit_learn(n_folds):
    """Farms of different size, each of few crops. Groups at random are much less even."""
    unevenness = {}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        sizes = np.maximum(1, rng.lognormal(1.5, 1, 150).astype(int))
        groups = np.repeat(np.arange(150), sizes)
        crops = rng.dirichlet([5, 3, 1, 0.5, 0.2], 150)
        labels = np.array([rng.choice(5, p=crops[g]) for g in groups])
        known = {
            "own": divide(labels, n_folds, by="group", blocks=groups, seed=seed),
            "scikit-learn": [
                test
                for _, test in StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed).split(
                    labels, labels, groups
                )
            ],
            "at random": divide(labels, n_folds, by="block", blocks=groups, seed=seed),
        }
        for name, parts in known.items():
            counts = np.array([np.bincount(labels[part], minlength=5) for part in parts])
            shares = counts / counts.sum(axis=0)
            unevenness.setdefault(name, []).append(shares.std(axis=0).mean())
    means = {name: np.mean(values) for name, values in unevenness.items()}
    assert means["own"] < 1.3 * means["scikit-learn"] < 0.5 * means["at random"]


def test_groups_of_classes_with_fewer_parcels_than_folds_are_divided():
    """scikit-learn refuses these."""
    labels, groups = np.arange(6) // 2, np.arange(6)
    parts = divide(labels, 5, by="group", blocks=groups, seed=1)
    assert sorted(map(len, parts)) == [1, 1, 1, 1, 2]


def test_many_parcels_are_grouped_quickly():
    """Without a loop over the parcels."""
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 20, 300_000), rng.integers(0, 3000, 300_000)
    started = time.perf_counter()
    divide(labels, 5, by="group", blocks=groups, seed=1)
    assert time.perf_counter() - started < 2


def test_a_parcel_without_a_value_is_a_group_by_itself():
    numbers, n_without = number_groups(["a", "", "b", "a", ""])
    assert n_without == 2
    assert numbers[0] == numbers[3]
    assert len(set(numbers)) == 4


REGISTER = pd.DataFrame(
    {
        "parcel_id": [str(100 + 3 * i) for i in range(60)] + ["100", ""],
        "reason": [""] * 60 + ["duplicate_id", "missing_id"],
        # Integers with gaps are floats in pandas.
        "register:FARM": [float(i % 7) for i in range(57)] + [np.nan] * 3 + [99.0, 98.0],
    }
)


@pytest.mark.parametrize("source", ["register", "dataset"])
def test_groups_are_read_by_id(tmp_path, caplog, source):
    caplog.set_level(logging.INFO)
    make(tmp_path / "existing", 60)
    run = ingest_folder(tmp_path / "existing", tmp_path / "run")
    register = None
    groups = {str(100 + 3 * i): i % 7 for i in range(57)} | {"277": None, "280": " "}
    if source == "register":
        register = run.register
        register.parent.mkdir(exist_ok=True)
        REGISTER.sample(frac=1, random_state=1).to_parquet(register)
    else:
        run.dataset.groups.write_text(json.dumps({"FARM": groups}))
    settings = load({"split": {"folds": 3, "by": "group", "column": "FARM"}})
    split(run.dataset.root, run.folds, view(settings, "split"), register=register)
    assert "7 values of FARM on 57 parcels" in caplog.text
    assert "3 parcels have no value in FARM: each is a group by itself" in caplog.text
    written = json.loads(run.folds.read_text())
    assert (written["by"], written["column"]) == ("group", "FARM")
    for number in range(7):
        farm = {i for i, of in groups.items() if of == number}
        assert sum(bool(farm & set(fold["test"])) for fold in written["folds"]) == 1
    few = load({"split": {"folds": 11, "by": "group", "column": "FARM"}})
    with pytest.raises(InputError, match=r"60 parcels have 10 different values in 'FARM', fewer"):
        split(run.dataset.root, run.folds, view(few, "split"), register=register)
    other = load({"split": {"folds": 3, "by": "group", "column": "FARN"}})
    with pytest.raises(InputError, match=r"is 'FARN', which .* Did you mean 'FARM'"):
        split(run.dataset.root, run.folds, view(other, "split"), register=register)


def test_season_means_are_those_of_the_clear_pixels_of_the_parcels_own_dates(tmp_path):
    parcels = make(tmp_path / "existing", 30, own_dates=True)
    run = ingest_folder(tmp_path / "existing", tmp_path / "run")
    data = PixelSetDataset.open(run.dataset.root)
    chosen = np.array([7, 0, 22])
    means, names = season_means(data.pixel_sets(with_features=False), data.bands, chosen)
    assert names == ["B02", "B03", "B04", "B08", "NDVI"]
    for row, i in zip(means, chosen, strict=True):
        series = parcels[data.ids[i]][1].astype(float).mean(axis=2)
        ndvi = (series[:, 3] - series[:, 2]) / (series[:, 3] + series[:, 2])
        np.testing.assert_allclose(row, [*series.mean(axis=0), ndvi.mean()])


def test_the_second_division_and_suggested_blocks(tmp_path):
    """`by` overrides split.by; block_m: auto takes the side that the stage variogram found."""
    make(tmp_path / "existing", 60)
    places = {str(100 + 3 * i): [10.0 * (i % 6), 10.0 * (i // 6)] for i in range(60)}
    (tmp_path / "existing" / "META" / "positions.json").write_text(json.dumps(places))
    run = ingest_folder(tmp_path / "existing", tmp_path / "run")
    settings = load({"split": {"folds": 3, "also": "block", "block_m": "auto"}})
    with pytest.raises(InputError, match=r"block_m is auto: give --variogram"):
        split(run.dataset.root, run.folds, view(settings, "split"), "block")
    variogram(run.dataset.root, run.variogram, view(settings, "variogram"))
    found = json.loads(run.variogram.read_text())
    assert found["n_blocks"] >= 9
    found["block_m"] = 20.0
    run.variogram.write_text(json.dumps(found))
    also = run.divided_by("block")
    split(run.dataset.root, also.folds, view(settings, "split"), "block", variogram=run.variogram)
    written = json.loads(also.folds.read_text())
    assert written["by"] == "block"
    for fold in written["folds"]:
        squares = [{tuple(p // 20 for p in places[i]) for i in fold[r]} for r in ("test", "train")]
        assert not squares[0] & squares[1]
    split(run.dataset.root, run.folds, view(settings, "split"))
    assert json.loads(run.folds.read_text())["by"] == "random"


def test_too_few_blocks_are_refused():
    with pytest.raises(InputError, match=r"2 blocks, fewer than the 3 folds.*block_m"):
        divide(np.zeros(9, np.int64), 3, by="block", blocks=np.array([0, 1] * 4 + [0]), seed=0)
