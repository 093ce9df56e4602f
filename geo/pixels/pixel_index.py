"""The pixel index: which pixels of a grid belong to which parcel, found by rasterising polygons."""

from __future__ import annotations

import json
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

# Pixels of the grid that are rasterised together; labels take 4 bytes each, 16 MB in all.
STRIP_PIXELS = 4_000_000
# Shapes that are Python objects together: five kilobytes each.
SHAPES_AT_A_TIME = 5_000

# Pixel coordinates are rounded to 2**-28 of a pixel (40 nanometres). They can then be shifted by
# whole rows without rounding error: an edge through a pixel centre falls on the same side, however
# the grid is divided into strips.
STEPS_PER_PIXEL = 2.0**28

# Tolerance of a covered fraction: exactextract's are float32, in which 0.7 is 0.69999999.
TOLERANCE = 1e-7


@dataclass(frozen=True)
class PixelIndex:
    """Rows and columns of the pixels of every parcel.

    Parameters
    ----------
    parcel_ids
        Ids of the P parcels.
    offsets
        int64 (P + 1,): the pixels of parcel i are offsets[i] to offsets[i + 1] - 1.
    rows, cols
        int32 (pixels of all parcels,): row and column in the grid, row-major within a parcel. If
        several parcels share a pixel, each of them lists it.
    tile
        Name of the tile.
    grid
        The tile's grid.
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
        """Return the index of some of the parcels, bool (P,), in the same order."""
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
        """Write the index as .npz; equal indices result in equal bytes."""
        with path.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                # JSON, as an array of text would store every id with the length of the longest.
                parcel_ids=np.frombuffer(json.dumps(self.parcel_ids).encode(), np.uint8),
                offsets=self.offsets,
                rows=self.rows,
                cols=self.cols,
                tile=np.array(self.tile),
                grid=np.array(json.dumps(asdict(self.grid))),
            )

    @classmethod
    def load(cls, path: Path) -> PixelIndex:
        """Read an index that `save` wrote."""
        remedy = "Make it anew: snakemake -R rasterise."
        with (
            reading(path, "a pixel index", remedy),
            # Opened here, because numpy does not close a file that it cannot read.
            path.open("rb") as content,
            np.load(content, allow_pickle=False) as file,
        ):
            return cls(
                json.loads(file["parcel_ids"].tobytes()),
                file["offsets"],
                file["rows"],
                file["cols"],
                str(file["tile"]),
                Grid(**json.loads(str(file["grid"]))),
            )


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

    A pixel belongs to a parcel if its centre does. With `all_touched` it belongs to every parcel
    that touches it, with `min_covered_fraction` to every parcel that covers this fraction of it.
    Parcels that overlap each keep the pixels that they share.

    Parameters
    ----------
    geometries
        Polygons and multipolygons (P,) of shapely, in the coordinate system of the grid. Empty
        polygons and None have no pixels.
    ids
        Parcel ids (P,).
    grid, tile
        The tile, and its grid.
    all_touched
        Select every pixel that a parcel touches.
    min_covered_fraction
        Select the pixels of which a parcel covers at least this fraction, above 0 and at most 1;
        `all_touched` is then ignored.
    strip_pixels
        Limits the memory: pixels of the grid that are rasterised together, at least one row.

    Returns
    -------
    PixelIndex
        In the order of the parcels.
    """
    shapes = _to_pixel_coordinates(np.asarray(geometries, object), grid)
    if min_covered_fraction is None:
        height = max(1, strip_pixels // grid.width)
        found = _rasterise_strips(shapes, grid, height, all_touched)
    else:
        found = _covered_pixels(shapes, grid, min_covered_fraction)
    # (parcel, pixel) pairs of all strips; the empty arrays set the types if there are none. They
    # are the largest arrays here, and half as large where 32 bits can number the grid's pixels.
    kind = np.int32 if grid.height * grid.width <= 2**31 else np.int64
    parts = [(np.empty(0, np.int32), np.empty(0, kind))]
    parts += [(parcels, pixels.astype(kind)) for parcels, pixels in found]
    parcels, pixels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    del parts
    # Pixels come in row-major order, strip by strip: a stable sort by parcel preserves that order.
    order = np.argsort(parcels, kind="stable")
    offsets = np.zeros(len(shapes) + 1, np.int64)
    np.cumsum(np.bincount(parcels, minlength=len(shapes)), out=offsets[1:])
    del parcels
    rows, cols = np.divmod(pixels[order], kind(grid.width))
    return PixelIndex(list(ids), offsets, rows.astype(np.int32), cols.astype(np.int32), tile, grid)


def _to_pixel_coordinates(geometries: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """Convert to pixel coordinates: x is the column, y minus the row, as GDAL expects north up.

    Coordinates are rounded as explained at STEPS_PER_PIXEL.
    """
    corner = np.array([grid.x_min, grid.y_max])
    size = np.array([grid.pixel_width, grid.pixel_height])

    def convert(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        rounded: NDArray[np.float64] = np.round((xy - corner) / size * STEPS_PER_PIXEL)
        return rounded / STEPS_PER_PIXEL

    converted: NDArray[Any] = shapely.transform(geometries, convert)
    return converted


def _rasterise_strips(
    shapes: NDArray[Any], grid: Grid, height: int, all_touched: bool
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
    """Yield parcels, by position, and the flat pixels that they cover, strip by strip."""
    # Imported here, because most stages that use the index do not rasterise.
    from rasterio.features import rasterize

    boxes = shapely.bounds(shapes)
    # The bounds of an empty shape are NaN, so every comparison with them is false.
    reached = (boxes[:, 0] <= grid.width) & (boxes[:, 2] >= 0)
    for top in range(0, grid.height, height):
        bottom = min(top + height, grid.height)
        here = np.flatnonzero(reached & (boxes[:, 1] <= -top) & (boxes[:, 3] >= -bottom))
        labels = np.zeros((bottom - top, grid.width), np.uint32)
        for layer in _layers(boxes[here]):
            members = here[layer]
            for first in range(0, len(members), SHAPES_AT_A_TIME):
                own = members[first : first + SHAPES_AT_A_TIME]
                rasterize(
                    zip(
                        _as_geojson(shapes[own]),
                        range(first + 1, first + len(own) + 1),
                        strict=True,
                    ),
                    out=labels,
                    transform=Affine(1, 0, 0, 0, -1, -top),
                    all_touched=all_touched,
                )
            flat = np.flatnonzero(labels)
            labelled = labels.ravel()[flat]
            yield members[labelled - 1].astype(np.int32), flat + top * grid.width
            labels.ravel()[flat] = 0


def _as_geojson(shapes: NDArray[Any]) -> list[dict[str, Any]]:
    """Convert polygons and multipolygons to GeoJSON, as rasterio reads them.

    rasterio converts geometries of shapely itself, vertex by vertex, which takes five times as
    long.
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
    """Divide shapes into layers without overlaps, so that each layer can be rasterised at once.

    Two shapes can share a pixel only if their boxes, widened to whole pixels, overlap. Every shape
    joins the first layer that none of its neighbours is in (greedy colouring).

    Parameters
    ----------
    boxes
        Bounds in pixels, float64 (n, 4).

    Yields
    ------
    Positions of the shapes of one layer, int64.
    """
    # Closed boxes of pixel numbers, shrunk so that neighbouring pixels do not touch. An edge along
    # the border of two pixels may select either of them.
    low = np.ceil(boxes[:, :2]) - 1
    high = np.floor(boxes[:, 2:])
    widened = shapely.box(*(low + 0.1).T, *(high + 0.9).T)
    first, second = shapely.STRtree(widened).query(widened)
    starts = np.searchsorted(first, np.arange(len(boxes) + 1))
    neighbours = second.tolist()
    taken = [0] * len(boxes)  # the layer of a shape, as a bit; 0 while it has none
    for shape in range(len(boxes)):
        mask = 0
        for other in neighbours[starts[shape] : starts[shape + 1]]:
            mask |= taken[other]
        taken[shape] = ~mask & (mask + 1)  # the lowest bit that is not set
    layer = np.array([bit.bit_length() for bit in taken], np.int64)
    for number in range(1, layer.max(initial=0) + 1):
        yield np.flatnonzero(layer == number)


def _covered_pixels(
    shapes: NDArray[Any], grid: Grid, min_fraction: float
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
    """Yield parcels, and the flat pixels of which they cover at least a fraction, exactly.

    Computed by exactextract. The pixels of a parcel are ascending.
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
    # exactextract requires a raster, of which only the grid matters: one byte for all its pixels.
    no_values = np.broadcast_to(np.uint8(0), grid.shape)
    raster = NumPyRasterSource(no_values, 0, -grid.height, grid.width, 0)
    for feature in exact_extract(
        raster, JSONFeatureSource(features), ["cell_id", "coverage"], include_cols=["shape"]
    ):
        found = feature["properties"]
        covered = np.asarray(found["coverage"]) >= min_fraction - TOLERANCE
        pixels = np.sort(np.asarray(found["cell_id"], np.int64)[covered])
        yield np.full(len(pixels), found["shape"], np.int32), pixels
