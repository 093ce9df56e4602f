"""Grids of acquisitions: in metres, and in one place for each tile."""

from dataclasses import replace
from datetime import date
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from pyproj import Geod, Transformer

from geo.errors import InputError
from geo.grid import Grid
from geo.imagery.acquisition import Acquisition, Band
from geo.imagery.tile_grids import problem_of_metres, tile_grid

UTM = "EPSG:32631"


def grid_at(x, y, crs=UTM, pixel=10.0, side=100):
    return Grid(crs, x, y, pixel, pixel, side, side)


def items(*grids):
    return [
        Acquisition(
            f"a{number}", "31UDS", date(2018, 4, 1 + number), Path(f"a{number}"), "geotiff",
            {"B02": Band("B02", "x", 1, grid, (8, 8))}, {},
        )
        for number, grid in enumerate(grids)
    ]  # fmt: skip


def place(longitude, latitude, crs):
    return Transformer.from_crs("OGC:CRS84", crs, always_xy=True).transform(longitude, latitude)


@pytest.mark.parametrize(
    ("crs", "longitude", "latitude"),
    [
        (UTM, 3, 50), (UTM, 7.5, 60), ("EPSG:32733", 15, -20), ("EPSG:2154", -4, 48),
        ("EPSG:3035", -9, 38), ("EPSG:3035", 24, 68), ("EPSG:5070", -120, 45),
        ("EPSG:28992", 5, 52), ("EPSG:27700", -3, 55), ("EPSG:2193", 172, -41),
        ("EPSG:25832", 9, 48), ("EPSG:3413", -45, 65),
        ("+proj=laea +lat_0=48 +lon_0=10 +units=m", 9, 44),
    ],
)  # fmt: skip
def test_systems_in_metres_are_accepted(crs, longitude, latitude):
    assert problem_of_metres(grid_at(*place(longitude, latitude, crs), crs)) is None


@pytest.mark.parametrize(
    ("crs", "longitude", "latitude"),
    [
        ("EPSG:3857", 3, 45), ("EPSG:3857", 30, 1), ("EPSG:3857", 30, -1), ("EPSG:900913", 3, 45),
        ("EPSG:3395", 3, 45), ("EPSG:4087", 3, 45), ("EPSG:6933", 3, 45), ("EPSG:54009", 100, 60),
        ("+proj=merc +a=6378137 +b=6378137 +units=m", 3, 45),
    ],
)  # fmt: skip
def test_metres_that_are_not_metres_are_refused_with_the_warp_to_type(crs, longitude, latitude):
    crs = crs.replace("EPSG:54009", "+proj=moll +units=m").replace("EPSG:900913", WEB)
    x, y = place(longitude, latitude, crs)
    what, remedy = problem_of_metres(grid_at(x, y, crs))
    to_earth = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    start = to_earth.transform(x + 500, y - 500)
    ends = [to_earth.transform(x + 1500, y - 500), to_earth.transform(x + 500, y + 500)]
    metres = [Geod(ellps="WGS84").inv(*start, *end)[2] / 1000 for end in ends]
    assert f"{metres[0]:.2f} m on the ground from west to east, {metres[1]:.2f} m from" in what
    zone = int((longitude + 180) / 6) + 1
    assert f"gdalwarp -t_srs EPSG:32{6 if latitude > 0 else 7}{zone:02} -tr 10 10" in remedy


WEB = (
    "+proj=merc +a=6378137 +b=6378137 +lat_ts=0 +lon_0=0 +x_0=0 +y_0=0 +k=1 +units=m "
    "+nadgrids=@null +wktext +no_defs"
)


@pytest.mark.parametrize(
    ("grid", "what", "remedy"),
    [
        (
            grid_at(3.1, 50.7, "EPSG:4326", 1e-4),
            "pixels in units of degree, not metres",
            "EPSG:32631",
        ),
        (grid_at(18.5, -34.1, "EPSG:4258", 1e-4), "units of degree", "EPSG:32734"),
        (grid_at(1_000_000, 200_000, "EPSG:2263"), "units of US survey foot", "EPSG:32618"),
        (grid_at(3.1, 50.7, UTM, 1e-4), "pixels of 0.0001 m at 3.105, 50.695", "-a_srs EPSG:4326"),
        (grid_at(1e12, 5.6e6), "a grid outside of their coordinate system", "-a_ullr"),
        (grid_at(500_000, 5.6e9), "a grid outside of their coordinate system", "-a_ullr"),
    ],
)
def test_other_units_and_places_are_refused(grid, what, remedy):
    found = problem_of_metres(grid)
    assert what in found[0]
    assert remedy in found[1]


NEAR = [grid_at(500_000 + 500 * i, 5_600_000) for i in range(4)]


@pytest.mark.parametrize(
    "far",
    [
        grid_at(0, 0), grid_at(0, 5_600_000), grid_at(500_000, 0), grid_at(500_000, 56_000),
        grid_at(5_600_000, 500_000), grid_at(615_000, 5_600_000), grid_at(500_000, 5_715_000),
    ],
)  # fmt: skip
def test_a_misplaced_acquisition_does_not_enlarge_the_tile(far):
    """At the origin, x and y exchanged, a digit lost, in the next tile; wherever in the order."""
    for at in range(5):
        found = items(*NEAR[:at], far, *NEAR[at:])
        grid = tile_grid(found)
        assert grid.bounds == (500_000, 5_599_000, 502_500, 5_600_000)
        assert [grid.contains(item.grid) for item in found] == [i != at for i in range(5)]


def test_clips_of_one_tile_need_not_touch():
    clips = [grid_at(500_000, 5_600_000), grid_at(608_000, 5_500_000), grid_at(550_000, 5_540_000)]
    for order in permutations(clips):
        grid = tile_grid(items(*order))
        assert grid.bounds == (500_000, 5_499_000, 609_000, 5_600_000)


def test_a_chain_of_extents_may_be_larger_than_a_tile():
    """Mosaics of a region; any order gives the same."""
    chain = [grid_at(500_000 + 60_000 * i, 5_600_000, side=6000) for i in range(4)]
    for order in permutations(chain):
        grid = tile_grid(items(*order, grid_at(0, 0)))
        assert grid.bounds == (500_000, 5_540_000, 740_000, 5_600_000)


def test_places_with_equally_many_acquisitions_are_refused_by_name():
    found = items(NEAR[0], grid_at(0, 0), NEAR[1], grid_at(0, 0))
    with pytest.raises(
        InputError,
        match=r"tile 31UDS lie too far apart for one tile, 2 in one and 2 in another: a0 at "
        r"500000, 5600000; a1 at 0, 0\. Correct those that are misplaced .gdal_edit",
    ):
        tile_grid(found)


def test_many_extents_are_those_of_their_union():
    corners = np.random.default_rng(3).integers(0, 9_000, (200, 2)) * 10.0
    grids = [grid_at(500_000 + x, 5_600_000 - y, side=20) for x, y in corners]
    far = grid_at(0, 0)
    grid = tile_grid([replace(items(g)[0], id=f"a{i}") for i, g in enumerate([*grids, far])])
    lefts, bottoms, rights, tops = zip(*(g.bounds for g in grids), strict=True)
    assert grid.bounds == (min(lefts), min(bottoms), max(rights), max(tops))
