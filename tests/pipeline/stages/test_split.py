"""Folds are disjoint, contain every parcel, and keep classes or blocks together as set."""

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo.errors import InputError
from pipeline.stages.split import assign_roles, blocks_of, divide


@given(st.integers(2, 6), st.integers(0, 1000), st.sampled_from(["random", "stratified", "block"]))
def test_parts_are_disjoint_and_contain_every_parcel(n_folds, seed, by):
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), [40, 20, 7])
    blocks = generator.permutation(np.arange(len(labels)) % 9)
    parts = divide(labels, n_folds, by=by, blocks=blocks, seed=seed)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    if by == "stratified":
        counts = np.array([np.bincount(labels[part], minlength=3) for part in parts])
        assert (np.ptp(counts, axis=0) <= 1).all()
    if by == "block":
        owners = {b: {i for i, p in enumerate(parts) if b in blocks[p]} for b in set(blocks)}
        assert all(len(folds) == 1 for folds in owners.values())


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


def test_too_few_blocks_are_refused():
    with pytest.raises(InputError, match=r"2 blocks, fewer than the 3 folds.*block_m"):
        divide(np.zeros(9, np.int64), 3, by="block", blocks=np.array([0, 1] * 4 + [0]), seed=0)
