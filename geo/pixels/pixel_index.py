"""Which pixels of the grid belong to which parcel."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray

from geo.errors import reading
from geo.grid import Grid


@dataclass(frozen=True)
class PixelIndex:
    """Rows and columns of the pixels of every parcel.

    Parameters
    ----------
    parcel_ids
        Ids of the P parcels.
    offsets
        int64 (P + 1,): the pixels of parcel i are those from offsets[i] up to offsets[i + 1].
    rows, cols
        int32 (pixels of all parcels,): place in the grid, row-major within a parcel. A pixel that
        several parcels cover is there several times.
    tile
        Tile of the grid.
    grid
        Grid that rows and columns count in.
    """

    parcel_ids: list[str]
    offsets: NDArray[np.int64]
    rows: NDArray[np.int32]
    cols: NDArray[np.int32]
    tile: str
    grid: Grid

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of pixels of every parcel, int64 (P,)."""
        return np.diff(self.offsets)

    def select(self, chosen: NDArray[np.bool_]) -> PixelIndex:
        """Keep some of the parcels, bool (P,), in their order."""
        pixels = np.repeat(chosen, self.sizes)
        return PixelIndex(
            [parcel_id for parcel_id, keep in zip(self.parcel_ids, chosen, strict=True) if keep],
            np.concatenate([[0], np.cumsum(self.sizes[chosen])]).astype(np.int64),
            self.rows[pixels],
            self.cols[pixels],
            self.tile,
            self.grid,
        )

    def save(self, path: Path) -> None:
        """Write the index as .npz; equal indices give equal bytes."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                # JSON, because an array of text would be as wide as its longest id.
                parcel_ids=np.frombuffer(json.dumps(self.parcel_ids).encode(), np.uint8),
                offsets=self.offsets,
                rows=self.rows,
                cols=self.cols,
                tile=np.array(self.tile),
                grid=np.array(json.dumps(asdict(self.grid))),
            )
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> PixelIndex:
        """Read an index that `save` wrote."""
        remedy = "Make it anew: snakemake -R rasterise."
        with (
            reading(path, "a pixel index", remedy),
            # numpy leaves a file open that it cannot read.
            path.open("rb") as content,
            np.load(content, allow_pickle=False) as file,
        ):
            return cls(
                json.loads(file["parcel_ids"].tobytes()),
                file["offsets"],
                file["rows"],
                file["cols"],
                str(file["tile"]),
                Grid.from_dict(json.loads(str(file["grid"]))),
            )


# Rows of the grid that are burned at once hold about so many pixels (16 MB of labels).
STRIP_PIXELS = 4_000_000

# Pixel coordinates are rounded to 2**-28 of a pixel (40 nanometres). Moving them by whole rows
# is then exact in float64, so that an edge that runs through a pixel centre falls on the same
# side however the grid is cut into strips.
STEPS_PER_PIXEL = 2.0**28


def index_pixels(
    geometries: NDArray[Any],
    ids: Sequence[str],
    grid: Grid,
    tile: str,
    *,
    all_touched: bool = False,
    min_covered_fraction: float | None = None,
    strip_pixels: int = STRIP_PIXELS,
) -> PixelIndex:
    """Find the pixels of every parcel.

    A pixel belongs to a parcel if its centre does (or, with `all_touched`, any part of it; or,
    with `min_covered_fraction`, so much of its area). Overlapping parcels each keep the pixels
    they share.

    Parameters
    ----------
    geometries
        Polygons and multipolygons (P,) in the coordinate system of the grid, of shapely. Empty
        ones and None have no pixels.
    ids
        Parcel ids (P,).
    grid, tile
        Grid to index.
    all_touched
        Take every pixel that a parcel touches.
    min_covered_fraction
        Take the pixels of which a parcel covers at least this fraction, in place of both.
    strip_pixels
        Bound of the memory: pixels of the grid that are burned at once, at least one row of them.

    Returns
    -------
    PixelIndex
        In the order of the parcels.
    """
    shapes = _to_pixel_coordinates(np.asarray(geometries, object), grid)
    if min_covered_fraction is None:
        height = max(1, strip_pixels // grid.width)
        found = list(_burn_strips(shapes, grid, height, all_touched))
        parcels = np.concatenate([np.empty(0, np.int32), *(f[0] for f in found)])
        pixels = np.concatenate([np.empty(0, np.int64), *(f[1] for f in found)])
    else:
        parcels, pixels = covered_pixels(shapes, *grid.shape, min_covered_fraction)
    # Strips come from north to south and pixels within them row by row: a stable sort by parcel
    # leaves those of a parcel in row-major order.
    order = np.argsort(parcels, kind="stable")
    offsets = np.zeros(len(shapes) + 1, np.int64)
    np.cumsum(np.bincount(parcels, minlength=len(shapes)), out=offsets[1:])
    rows, cols = np.divmod(pixels[order], grid.width)
    return PixelIndex(list(ids), offsets, rows.astype(np.int32), cols.astype(np.int32), tile, grid)


def _to_pixel_coordinates(geometries: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """Express geometries in pixels: x is the column, y minus the row, as GDAL expects north up.

    Coordinates are rounded as STEPS_PER_PIXEL says.
    """
    corner = np.array([grid.x_min, grid.y_max])
    size = np.array([grid.pixel_width, grid.pixel_height])

    def convert(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        rounded: NDArray[np.float64] = np.round((xy - corner) / size * STEPS_PER_PIXEL)
        return rounded / STEPS_PER_PIXEL

    converted: NDArray[Any] = shapely.transform(geometries, convert)
    return converted


def _burn_strips(
    shapes: NDArray[Any], grid: Grid, height: int, all_touched: bool
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
    """Yield the positions of parcels and the flat pixels that they cover, strip by strip."""
    # Imported here: most stages that index burn nothing.
    from rasterio.features import rasterize

    boxes = shapely.bounds(shapes)
    # NaN, the bounds of an empty shape, compares false.
    reached = (boxes[:, 0] <= grid.width) & (boxes[:, 2] >= 0)
    for top in range(0, grid.height, height):
        bottom = min(top + height, grid.height)
        here = np.flatnonzero(reached & (boxes[:, 1] <= -top) & (boxes[:, 3] >= -bottom))
        labels = np.zeros((bottom - top, grid.width), np.uint32)
        for layer in _layers(boxes[here]):
            members = here[layer]
            rasterize(
                zip(_as_geojson(shapes[members]), range(1, len(members) + 1), strict=True),
                out=labels,
                transform=Affine(1, 0, 0, 0, -1, -top),
                all_touched=all_touched,
            )
            flat = np.flatnonzero(labels)
            burned = labels.ravel()[flat]
            yield members[burned - 1].astype(np.int32), flat + top * grid.width
            labels.ravel()[flat] = 0


def _as_geojson(shapes: NDArray[Any]) -> list[dict[str, Any]]:
    """Express polygons and multipolygons as rasterio reads them.

    It does so itself for geometries of shapely, but five times slower: one vertex at a time.
    """
    parts, owners = shapely.get_parts(shapes, return_index=True)
    rings, ring_parts = shapely.get_rings(parts, return_index=True)
    xy, point_rings = shapely.get_coordinates(rings, return_index=True)
    points = list(zip(*xy.T.tolist(), strict=True))
    starts = np.searchsorted(point_rings, np.arange(len(rings) + 1)).tolist()
    polygons: list[list[Any]] = [[] for _ in parts]
    for ring, part in enumerate(ring_parts.tolist()):
        polygons[part].append(points[starts[ring] : starts[ring + 1]])
    coordinates: list[list[Any]] = [[] for _ in shapes]
    for polygon, owner in zip(polygons, owners.tolist(), strict=True):
        coordinates[owner].append(polygon)
    return [{"type": "MultiPolygon", "coordinates": c} for c in coordinates]


def _layers(boxes: NDArray[np.float64]) -> Iterator[NDArray[np.int64]]:
    """Divide shapes into layers without overlap, so that a layer can be burned at once.

    Two shapes can share a pixel only if their boxes, widened to whole pixels, overlap: every
    shape goes to the first layer that none of its neighbours is in (greedy colouring).

    Parameters
    ----------
    boxes
        Bounds in pixels, float64 (n, 4).

    Yields
    ------
    Positions of the shapes of one layer, int64.
    """
    # Closed boxes of pixel numbers, shrunk so that neighbouring pixels do not touch; an edge along
    # the border of two pixels may burn either.
    low = np.ceil(boxes[:, :2]) - 1
    high = np.floor(boxes[:, 2:])
    widened = shapely.box(*(low + 0.1).T, *(high + 0.9).T)
    first, second = shapely.STRtree(widened).query(widened)
    starts = np.searchsorted(first, np.arange(len(boxes) + 1))
    neighbours = second.tolist()
    taken = [0] * len(boxes)  # layer of a shape as a bit, 0 while it has none
    for shape in range(len(boxes)):
        mask = 0
        for other in neighbours[starts[shape] : starts[shape + 1]]:
            mask |= taken[other]
        taken[shape] = ~mask & (mask + 1)  # the lowest bit that is not set
    layer = np.array([bit.bit_length() for bit in taken], np.int64)
    for number in range(1, layer.max(initial=0) + 1):
        yield np.flatnonzero(layer == number)


# Areas are sums of float64: a pixel that is covered by just the fraction may miss it by as much.
TOLERANCE = 1e-9


def covered_pixels(
    shapes: NDArray[Any], height: int, width: int, least: float
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Find the pixels of which polygons cover at least a fraction, exactly (exactextract).

    Parameters
    ----------
    shapes
        Polygons and multipolygons (P,) in pixels: x is the column, y minus the row. Empty ones and
        None have no pixels.
    height, width
        Rows and columns of the grid.
    least
        Fraction of a pixel, above 0 and up to 1.

    Returns
    -------
    parcels
        Position of the polygon, int32 (pixels of all polygons,), ascending.
    pixels
        Flat pixel number, int64, ascending for a polygon.
    """
    from exactextract import exact_extract
    from exactextract.feature import JSONFeatureSource
    from exactextract.raster import NumPyRasterSource

    present = np.flatnonzero(~shapely.is_missing(shapes) & ~shapely.is_empty(shapes))
    geometries = shapely.to_geojson(shapes[present]).tolist()
    features = [
        {"type": "Feature", "properties": {"shape": shape}, "geometry": json.loads(geometry)}
        for shape, geometry in zip(present.tolist(), geometries, strict=True)
    ]
    # No values are wanted: one byte stands for the whole raster.
    nothing = np.broadcast_to(np.uint8(0), (height, width))
    raster = NumPyRasterSource(nothing, 0, -height, width, 0)
    parcels, pixels = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    for feature in exact_extract(
        raster, JSONFeatureSource(features), ["cell_id", "coverage"], include_cols=["shape"]
    ):
        found = feature["properties"]
        covered = np.asarray(found["coverage"]) >= least - TOLERANCE
        cells = np.sort(np.asarray(found["cell_id"], np.int64)[covered])
        parcels.append(np.full(len(cells), found["shape"], np.int32))
        pixels.append(cells)
    return np.concatenate(parcels), np.concatenate(pixels)
