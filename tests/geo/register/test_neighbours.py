"""The nearest parcels, compared with the distances of all pairs."""

import numpy as np
import pytest
import shapely

import geo.register.neighbours
from geo.register.neighbours import DISTANCES_M, nearest_parcels


def scattered(n, side, seed):
    """Return rectangles of up to 100 m in a square, and a point."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, side, (2, n))
    width, height = rng.uniform(10, 100, (2, n))
    return np.append(shapely.box(x, y, x + width, y + height), shapely.Point(side / 2, side / 2))


@pytest.mark.parametrize(("n", "side"), [(200, 1200), (60, 4000)])
def test_neighbours_are_those_of_all_pairs(n, side, monkeypatch):
    monkeypatch.setattr(geo.register.neighbours, "BATCH", 7)
    outlines = scattered(n, side, 1)
    gap = shapely.distance(outlines[:, None], outlines)
    between = shapely.distance(*np.meshgrid(*[shapely.centroid(outlines)] * 2, indexing="ij"))
    of = np.arange(n + 1)[::2]
    found = nearest_parcels(outlines, of, 4)
    n_found = set()
    for place, i in zip(found, of, strict=True):
        order = np.lexsort((between[i], gap[i]))
        expected = [j for j in order if j != i and gap[i, j] <= DISTANCES_M[-1]][:4]
        assert place[place >= 0].tolist() == expected
        assert (place[len(expected) :] == -1).all()
        n_found.add(len(expected))
    assert (n_found == {4}) == (side == 1200)


def test_the_nearest_are_found_by_outline_not_by_centre():
    """The second parcel touches the first, and its centre is far away."""
    outlines = shapely.box([0, 10, 20], [0, 0, 6], [10, 2000, 30], [10, 5, 10])
    assert nearest_parcels(outlines, np.array([0]), 2).tolist() == [[1, 2]]


@pytest.mark.parametrize(("n", "of"), [(0, []), (1, [0]), (3, [])])
def test_without_others_there_are_no_neighbours(n, of):
    found = nearest_parcels(scattered(n, 9e9, 2)[:n], np.array(of, int), 5)
    assert found.tolist() == [[-1] * 5] * len(of)
