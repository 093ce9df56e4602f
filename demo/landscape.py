"""Simulated farmland: parcels, roads, a river, woods and a village, as polygons."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.affinity import rotate
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box
from shapely.geometry.base import BaseGeometry
from shapely.ops import split

from geo.errors import InputError

Extent = tuple[float, float, float, float]

# The landscape is larger than the imagery, so that the imagery's edge cuts parcels, as in reality.
OVERLAP_M = 150.0
BLOCK_AREA_M2 = 350_000.0
SMALLEST_PARCEL_M2 = 2_300.0


@dataclass(frozen=True)
class Landscape:
    """Polygons of a scene in the coordinates of its grid; parcels do not overlap.

    Attributes
    ----------
    parcels
        Polygons, some with a hole, and MultiPolygons (a parcel on both sides of a track).
    inside
        Indices of the parcels that lie entirely inside the imagery.
    background
        Cover name (see `phenology`) and geometry, in the order of drawing.
    """

    parcels: list[Polygon | MultiPolygon]
    inside: NDArray[np.intp]
    background: list[tuple[str, BaseGeometry]]


def draw_landscape(extent: Extent, parcels: int, rng: np.random.Generator) -> Landscape:
    """Draw farmland with at least `parcels` parcels entirely inside `extent`.

    Regions are split repeatedly across their longer side. The first cuts become roads, which a
    smooth displacement bends. The later cuts become the straight borders of parcels.

    Parameters
    ----------
    extent
        x_min, y_min, x_max, y_max of the imagery, in metres.
    parcels
        Minimum number of parcels that are entirely inside the imagery.
    rng
        Source of every random draw.
    """
    imagery = box(*extent)
    land = imagery.buffer(OVERLAP_M, join_style="mitre")
    blocks, roads = _draw_blocks(land, rng)
    size_m = extent[2] - extent[0]
    river = _draw_river(land, rng)
    water = shapely.union_all(
        [river, *_draw_blobs(land, size_m / 60, max(1, round(size_m / 2_500)), rng)]
    )
    wood = shapely.union_all(
        [
            *_draw_blobs(land, size_m / 14, 6, rng),
            *(p.intersection(river.buffer(28)) for p in _draw_blobs(land, size_m / 9, 7, rng)),
        ]
    )
    village = _draw_blobs(imagery.buffer(-size_m / 5), size_m / 17, 1, rng)[0]
    houses = _draw_houses(village, roads, rng)
    taken = shapely.union_all([water.buffer(6), wood, village, roads.buffer(2)])
    fields = [
        part
        for block in blocks
        for part in _polygons(block.difference(taken))
        if part.area >= SMALLEST_PARCEL_M2
    ]
    shapes = [_shape_parcel(p, rng) for p in _split_fields(fields, imagery, parcels, rng)]
    inside = np.flatnonzero(shapely.contains(imagery, np.array(shapes, dtype=object)))
    background = [
        ("wood", wood),
        ("garden", village),
        ("water", water),
        ("road", roads),
        ("roof", houses.difference(roads)),
    ]
    return Landscape(shapes, inside, background)


def _draw_blocks(land: Polygon, rng: np.random.Generator) -> tuple[list[Polygon], BaseGeometry]:
    """Split the land into blocks of about 35 ha; return the blocks and the roads between them."""
    centre = land.centroid
    reach = 0.75 * (land.bounds[2] - land.bounds[0])
    region = rotate(centre.buffer(reach, cap_style="square"), rng.uniform(15, 40))
    bend = _draw_bend(centre, rng)
    pending, blocks, roads = [(region, 0)], [], []
    while pending:
        region, depth = pending.pop()
        if region.area < BLOCK_AREA_M2 * rng.uniform(0.6, 1.6):
            blocks.append(bend(region).intersection(land))
            continue
        pieces, cut = _cut(region, rng.uniform(0.36, 0.64), rng.normal(0, 6), across=True)
        width_m = 13.0 if depth < 3 else 7.0 if depth < 6 else 4.5
        roads.append(bend(cut.intersection(region)).buffer(width_m / 2, cap_style="flat"))
        pending += [(piece, depth + 1) for piece in pieces]
    return [b for b in blocks if not b.is_empty], shapely.union_all(roads).intersection(land)


def _draw_bend(centre: Point, rng: np.random.Generator) -> Callable[[BaseGeometry], BaseGeometry]:
    """Draw a smooth displacement of about 50 m that bends straight lines into roads."""
    wavelength_m = rng.uniform(1_300, 3_200, (2, 3))
    phase = rng.uniform(0, 2 * np.pi, (2, 3))
    heading = rng.uniform(0, 2 * np.pi, (2, 3))
    amplitude_m = rng.uniform(15, 40, (2, 3))

    def move(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = (xy - [centre.x, centre.y]).T
        along = x[:, None, None] * np.cos(heading) + y[:, None, None] * np.sin(heading)
        wave = amplitude_m * np.sin(2 * np.pi * along / wavelength_m + phase)
        return np.asarray(xy + wave.sum(axis=2))

    return lambda geometry: shapely.transform(shapely.segmentize(geometry, 40.0), move)


def _cut(
    region: Polygon, at: float, skew_deg: float, *, across: bool
) -> tuple[list[Polygon], LineString]:
    """Cut a region across (or along) the longer side of its smallest rectangle."""
    corners = np.asarray(region.minimum_rotated_rectangle.exterior.coords)
    first, second = corners[1] - corners[0], corners[2] - corners[1]
    if (np.hypot(*first) < np.hypot(*second)) == across:
        corners, first, second = corners[1:], second, corners[0] - corners[1]
    start = corners[0] + at * first
    line = LineString([start - second, start + 2 * second])
    line = rotate(line, skew_deg, origin=Point(start + second / 2))
    return _polygons(split(region, line)), line


def _split_fields(
    fields: Sequence[Polygon], imagery: Polygon, parcels: int, rng: np.random.Generator
) -> list[Polygon]:
    """Split fields, relatively large ones first, until enough of them are in the imagery."""
    serial = itertools.count()

    def entry(piece: Polygon) -> tuple[float, int, Polygon]:
        # Fields differ in the size at which they are split, so that sizes are log-normal.
        return -piece.area / rng.lognormal(0.0, 0.55), next(serial), piece

    prepared = imagery.buffer(0)
    shapely.prepare(prepared)
    heap = [entry(field) for field in fields]
    heapq.heapify(heap)
    inside = sum(prepared.contains(field) for field in fields)
    while inside < parcels:
        _, _, piece = heapq.heappop(heap)
        inside -= prepared.contains(piece)
        # One cut in four is lengthwise: it makes the long strips of old field systems.
        pieces, _ = _cut(
            piece, rng.uniform(0.3, 0.7), rng.normal(0, 3), across=bool(rng.random() < 0.75)
        )
        for part in pieces:
            # Pieces that are too small for a parcel become verges.
            if part.area >= SMALLEST_PARCEL_M2:
                inside += prepared.contains(part)
                heapq.heappush(heap, entry(part))
        if not heap:
            raise InputError(
                f"{parcels} parcels of {SMALLEST_PARCEL_M2 / 1e4} ha or more do not fit into a "
                f"scene of {imagery.area / 1e4:.0f} ha: ask for fewer, or for a larger scene."
            )
    return [piece for _, _, piece in sorted(heap)]


def _shape_parcel(parcel: Polygon, rng: np.random.Generator) -> Polygon | MultiPolygon:
    """Draw the margin of a parcel back, and add a copse or a track to a few parcels."""
    parcel = parcel.buffer(-rng.choice([0.0, 0.0, 1.0, 2.5]), join_style="mitre")
    kind = rng.random()
    if kind < 0.05 and parcel.area > 12_000:
        copse = _blob(parcel.representative_point(), rng.uniform(11, 22), rng)
        if parcel.buffer(-8).contains(copse):
            return parcel.difference(copse)
    elif kind > 0.98 and parcel.area > 12_000:
        _, track = _cut(parcel, rng.uniform(0.35, 0.65), rng.normal(0, 15), across=True)
        return parcel.difference(track.buffer(3.5))
    return parcel


def _draw_river(land: Polygon, rng: np.random.Generator) -> Polygon:
    """Draw a meandering river across the land."""
    x_min, y_min, x_max, y_max = land.bounds
    along = np.linspace(0, 1, 160)
    size_m = x_max - x_min
    offset = rng.uniform(0.25, 0.4) + rng.uniform(-0.12, 0.3) * along
    for wavelength, amplitude in ((0.9, 0.045), (0.33, 0.022), (0.13, 0.010)):
        offset += amplitude * np.sin(2 * np.pi * (along / wavelength + rng.random()))
    line = LineString(np.column_stack([x_min + along * size_m, y_min + offset * (y_max - y_min)]))
    return line.buffer(11).intersection(land)


def _draw_blobs(
    land: Polygon, radius_m: float, count: int, rng: np.random.Generator
) -> list[Polygon]:
    """Draw rounded patches with centres in the land."""
    x_min, y_min, x_max, y_max = land.bounds
    return [
        _blob(
            Point(rng.uniform(x_min, x_max), rng.uniform(y_min, y_max)),
            radius_m * rng.uniform(0.6, 1.5),
            rng,
        )
        for _ in range(count)
    ]


def _blob(centre: Point, radius_m: float, rng: np.random.Generator) -> Polygon:
    """Draw a rounded patch: a circle whose radius is modulated by a few harmonics."""
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    order = np.arange(2, 7)
    wave = np.cos(np.outer(angle, order) + rng.uniform(0, 2 * np.pi, 5)) / order
    radius = radius_m * (1 + wave @ rng.uniform(0.15, 0.55, 5))
    return Polygon(
        np.column_stack([centre.x + radius * np.cos(angle), centre.y + radius * np.sin(angle)])
    ).buffer(0)


def _draw_houses(village: Polygon, roads: BaseGeometry, rng: np.random.Generator) -> BaseGeometry:
    """Scatter roofs over the village, denser towards its centre."""
    spread_m = np.sqrt(village.area) / 3.5
    count = int(village.area / 1_100)
    centres = rng.normal([village.centroid.x, village.centroid.y], spread_m, (count, 2))
    houses = []
    for x, y in centres:
        half = rng.uniform(4, 11, 2)
        house = box(x - half[0], y - half[1], x + half[0], y + half[1])
        houses.append(rotate(house, rng.uniform(0, 90)))
    return shapely.union_all([h for h in houses if village.contains(h)]).difference(roads)


def _polygons(geometry: BaseGeometry) -> list[Polygon]:
    """Return the polygons among the parts of a geometry."""
    return [part for part in shapely.get_parts(geometry) if isinstance(part, Polygon)]
