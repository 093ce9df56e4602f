"""Joins by id, compared with a dictionary."""

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.dataset.places import find_places


def test_places_are_those_of_a_dictionary():
    rng = np.random.default_rng(0)
    among = [f"é{i}" for i in rng.permutation(100)]
    ids = [f"é{i}" for i in rng.integers(0, 200, 300)]
    expected = [among.index(i) if i in among else -1 for i in ids]
    for kind in (list, pa.array, lambda own: pd.Series(own, dtype="str")):
        found = find_places(kind(ids), kind(among))
        assert found.dtype == np.int64
        assert found.tolist() == expected


def test_the_first_of_equal_ids_counts_and_a_missing_one_has_no_place():
    assert find_places(["a", "b"], ["b", "a", "a"]).tolist() == [1, 0]
    assert find_places(pd.Series(["a", None], dtype="str"), ["a"]).tolist() == [0, -1]
    assert find_places(["a", None], pd.Series([None, "a"], dtype="str")).tolist() == [1, -1]


def test_without_ids_there_are_no_places():
    assert find_places([], ["a"]).tolist() == []
    assert find_places(["a"], []).tolist() == [-1]
