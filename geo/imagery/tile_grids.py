"""The grids of acquisitions: whether they are in metres, and the one grid of a tile."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import isfinite

from geo.errors import InputError
from geo.grid import Grid
from geo.imagery.acquisition import Acquisition

# Acquisitions of one tile lie within this distance, in metres: a tile of Sentinel-2 is 109.8 km.
LARGEST_TILE_M = 110_000.0

# Largest difference of a metre of the coordinate system from a metre on the ground. In UTM zones
# and national systems it is below 0.01, far from the centre of continental systems up to 0.1.
_LARGEST_DISTORTION = 0.15
# Step over which it is measured.
_STEP_M = 1000.0

_SMALLEST_PIXEL_M = 0.1

_Bounds = tuple[float, float, float, float]


def problem_of_metres(grid: Grid) -> tuple[str, str] | None:
    """Return what a grid has instead of metres, and what to do; None if it is in metres.

    Pixel sizes, areas, perimeters and distances to clouds are all in metres.
    """
    return _problem(grid.crs, grid.bounds, min(grid.pixel_width, grid.pixel_height))


@lru_cache(maxsize=256)
def _problem(crs: str, bounds: _Bounds, pixel: float) -> tuple[str, str] | None:
    """Return the problem of a grid's coordinate system, bounds and pixel size."""
    from pyproj import CRS

    system = CRS(crs)
    x, y = (bounds[0] + bounds[2]) / 2, (bounds[1] + bounds[3]) / 2
    unit = system.axis_info[0].unit_name if system.axis_info else "unknown"
    if unit not in ("metre", "meter"):
        place = (x, y) if system.is_geographic else _on_earth(system, x, y)
        return f"pixels in units of {unit}, not metres", _warp(place)
    if pixel < _SMALLEST_PIXEL_M:
        return (
            f"pixels of {pixel:g} m at {x:g}, {y:g} by their coordinate system {system.name}",
            "If these are degrees, assign the right system (gdal_edit.py -a_srs EPSG:4326) first. "
            + _warp((x, y)),
        )
    corner, place, right, above = (
        _on_earth(system, *at)
        for at in ((bounds[0], bounds[3]), (x, y), (x + _STEP_M, y), (x, y + _STEP_M))
    )
    if corner is None or place is None or right is None or above is None:
        return (
            f"a grid outside of their coordinate system {system.name}, around {x:g}, {y:g}",
            "Assign the right corners (gdal_edit.py -a_ullr) or the right system (-a_srs).",
        )
    metres = [_distance(place, end) / _STEP_M for end in (right, above)]
    projection = system.coordinate_operation.method_name if system.coordinate_operation else ""
    is_web = "pseudo mercator" in projection.lower()
    if is_web or max(abs(metre - 1) for metre in metres) > _LARGEST_DISTORTION:
        return (
            f"the coordinate system {system.name}, whose metres are not metres: one is "
            f"{metres[0]:.2f} m on the ground from west to east, {metres[1]:.2f} m from south to "
            "north",
            _warp(place),
        )
    return None


def _on_earth(system: object, x: float, y: float) -> tuple[float, float] | None:
    """Return longitude and latitude of a place, None if it is outside of the coordinate system."""
    from pyproj import Transformer
    from pyproj.enums import TransformDirection
    from pyproj.exceptions import CRSError, ProjError

    try:
        to_earth = Transformer.from_crs(system, "OGC:CRS84", always_xy=True)
        longitude, latitude = to_earth.transform(x, y)
        if not (isfinite(longitude) and isfinite(latitude)):
            return None
        # Far outside, projections repeat: another place has the same longitude and latitude.
        back = to_earth.transform(longitude, latitude, direction=TransformDirection.INVERSE)
    except (CRSError, ProjError):
        return None
    is_same = all(abs(a - b) <= 1e-6 * max(abs(b), 1e6) for a, b in zip(back, (x, y), strict=True))
    return (longitude, latitude) if is_same else None


def _distance(start: tuple[float, float], end: tuple[float, float]) -> float:
    """Return the distance of two places on the ground, in metres."""
    from pyproj import Geod

    return float(Geod(ellps="WGS84").inv(*start, *end)[2])


def _warp(place: tuple[float, float] | None) -> str:
    """Return the command that warps to the UTM zone of a place."""
    code = "326.."
    if place is not None:
        code = f"32{6 if place[1] >= 0 else 7}{int((place[0] + 180) // 6) % 60 + 1:02}"
    return (
        "Warp them to the UTM zone of the tile: "
        f"gdalwarp -t_srs EPSG:{code} -tr 10 10 -r near IN.tif OUT.tif."
    )


def tile_grid(found: Sequence[Acquisition]) -> Grid:
    """Return a tile's grid: the union of the extents on the most common pixel alignment.

    If two alignments are equally common, that of the earliest acquisition is used. Acquisitions
    that are too far from most others to be of the same tile are left out of the union.

    Raises
    ------
    InputError
        If acquisitions lie in several places, as many in one as in another.
    """
    groups: list[list[Acquisition]] = []
    for item in found:
        group = next((g for g in groups if g[0].grid.is_aligned(item.grid)), None)
        if group is None:
            groups.append([item])
        else:
            group.append(item)
    first, *others = _in_one_place(max(groups, key=len))
    return first.grid.union([item.grid for item in others])


def _in_one_place(aligned: Sequence[Acquisition]) -> list[Acquisition]:
    """Return the acquisitions of the place with most of them, in order.

    A place is made of extents that overlap or touch. Other places belong to it as long as all
    together are not larger than a tile.
    """
    if max(_size(aligned)) <= LARGEST_TILE_M:
        return list(aligned)
    order = {item.id: number for number, item in enumerate(aligned)}
    places = [sorted(place, key=lambda item: order[item.id]) for place in _places(aligned)]
    # Equally many: the earliest first.
    main, *others = sorted(places, key=lambda place: (-len(place), order[place[0].id]))
    apart: list[Acquisition] = []
    for place in others:
        together = [*main, *place]
        if max(_size(together)) <= LARGEST_TILE_M:
            main = together
        elif len(place) < len(main):
            apart += place
        else:
            examples = [
                f"{item.id} at {item.grid.x_min:.10g}, {item.grid.y_max:.10g}"
                for item in (main[0], place[0])
            ]
            raise InputError(
                f"The acquisitions of tile {main[0].tile} lie too far apart for one tile, "
                f"{len(main)} in one and {len(place)} in another: {'; '.join(examples)}. Correct "
                "those that are misplaced (gdal_edit.py -a_ullr), write their MGRS tile into their "
                "names, or move them to another folder."
            )
    left_out = {item.id for item in apart}
    return [item for item in aligned if item.id not in left_out]


def _places(aligned: Sequence[Acquisition]) -> list[list[Acquisition]]:
    """Group acquisitions whose extents overlap or touch, directly or through others."""
    by_bounds: dict[_Bounds, list[Acquisition]] = {}
    for item in aligned:
        by_bounds.setdefault(item.grid.bounds, []).append(item)
    places: list[tuple[_Bounds, list[Acquisition]]] = []
    for bounds, items in by_bounds.items():
        # A place that grows can reach one that it did not touch before.
        while touching := [place for place in places if _touch(bounds, place[0])]:
            places = [place for place in places if not _touch(bounds, place[0])]
            items = [*(item for _, own in touching for item in own), *items]
            bounds = _around([bounds, *(of_place for of_place, _ in touching)])
        places.append((bounds, items))
    return [items for _, items in places]


def _size(items: Sequence[Acquisition]) -> tuple[float, float]:
    """Return width and height of the extent of acquisitions in metres."""
    left, bottom, right, top = _around([item.grid.bounds for item in items])
    return right - left, top - bottom


def _around(bounds: Sequence[_Bounds]) -> _Bounds:
    """Return the bounds that contain all bounds."""
    lefts, bottoms, rights, tops = zip(*bounds, strict=True)
    return min(lefts), min(bottoms), max(rights), max(tops)


def _touch(one: _Bounds, other: _Bounds) -> bool:
    """Return whether two bounds overlap or touch."""
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]
