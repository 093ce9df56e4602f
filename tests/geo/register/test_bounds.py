"""The bounds of a register, within which an API is searched."""

import geopandas
import numpy as np
import pytest

from geo.errors import InputError
from geo.register.reading import read_bounds, read_extent


@pytest.mark.parametrize("heights", [None, "EPSG:4326+5773", "EPSG:4979"])
@pytest.mark.parametrize("ending", ["gpkg", "parquet"])
def test_the_bounds_are_in_degrees(tmp_path, ending, heights):
    corners = geopandas.points_from_xy([880_000, 910_000], [6_510_000, 6_550_000])
    parcels = geopandas.GeoDataFrame({"id": [1, 2]}, geometry=corners.buffer(50), crs=2154)
    if heights is not None:
        parcels = parcels.to_crs(4326).set_crs(heights, allow_override=True)
    path = tmp_path / f"register.{ending}"
    parcels.to_parquet(path) if ending == "parquet" else parcels.to_file(path)
    west, south, east, north = read_bounds(path)
    assert read_extent(path)[0] == pytest.approx((west, south, east, north))
    expected = parcels.to_crs(4326).total_bounds
    # The box of the register's own system is rotated against the meridians.
    np.testing.assert_allclose([west, south, east, north], expected, atol=0.03)
    assert west <= expected[0]
    assert south <= expected[1]
    assert east >= expected[2]
    assert north >= expected[3]


def test_a_register_without_geometry_has_no_bounds(tmp_path):
    path = tmp_path / "register.gpkg"
    geopandas.GeoDataFrame({"id": [1]}, geometry=[None], crs=2154).to_file(path)
    with pytest.raises(InputError, match=r"no area to search imagery for. Set imagery\.bbox"):
        read_bounds(path)
