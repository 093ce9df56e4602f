"""The picture of a run's inputs: footprints over parcels, and the dates of the acquisitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Transformer

from geo.grid import Grid
from geo.register.points import is_point
from pipeline.classes.reasons import Status
from pipeline.workflow.acquisition_table import AcquisitionRow
from pipeline.workflow.writing import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colour-blind readers, too, can tell blue from orange. Rejected parcels are a quiet grey.
COLOURS = {Status.USED: "#1f6fb4", Status.PREDICT_ONLY: "#e08214", Status.REJECTED: "#c2c2c2"}
LEGEND = {
    Status.USED: "parcels to use",
    Status.PREDICT_ONLY: "to predict only",
    Status.REJECTED: "set aside",
}
FOOTPRINT = "#222222"
NOT_USED = "#8c8c8c"
# If the parcels cover less than this share of the map, a second map shows them larger.
SMALL = 0.6
# Points along an edge of a footprint, because a straight edge in UTM is curved in degrees.
EDGE_POINTS = 20

Bounds = tuple[float, float, float, float]


def draw(
    path: Path,
    title: str,
    footprints: Mapping[str, Sequence[Grid]],
    outlines: NDArray[Any],
    status: NDArray[np.object_],
    rows: Sequence[AcquisitionRow],
) -> None:
    """Draw footprints over parcels, and below them the dates of every tile.

    Parameters
    ----------
    path
        Written: .png, .svg or .pdf.
    title
        Title of the picture.
    footprints
        The different grids of the acquisitions of every tile.
    outlines
        Polygons and points of the parcels in degrees (P,); None for other geometries.
    status
        Status of the parcels: str (P,).
    rows
        Acquisitions, used or not.
    """
    # Imported here because it is slow. pyplot is not needed and would look for a window system.
    from matplotlib.figure import Figure

    tiles = {tile: [_footprint(grid) for grid in grids] for tile, grids in footprints.items()}
    drawn = [box for boxes in tiles.values() for box in boxes]
    has_outline = ~shapely.is_missing(outlines)
    accepted = outlines[(status != Status.REJECTED) & has_outline]
    whole = _bounds([*drawn, *outlines[has_outline]])
    closer = _bounds(accepted if len(accepted) else drawn)
    two_maps = max(_extent(closer)) < SMALL * max(_extent(whole))

    height = 6.4 + 0.28 * len(tiles)
    figure = Figure(figsize=(12, height), layout="constrained")
    grid = figure.add_gridspec(2, 1 + two_maps, height_ratios=[5, 0.5 + 0.28 * len(tiles)])
    first = figure.add_subplot(grid[0, 0])
    _draw_map(first, whole, tiles, outlines, status, edges=not two_maps)
    _name(first, tiles)
    if two_maps:
        _mark(first, closer)
        _draw_map(figure.add_subplot(grid[0, 1]), closer, tiles, outlines, status, edges=True)
    _draw_dates(figure.add_subplot(grid[1, :]), sorted(tiles), rows)
    keys = _keys(status, rows)
    figure.legend(handles=keys, loc="outside upper center", ncols=5, frameon=False, title=title)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def to_degrees(geometries: NDArray[Any], crs: Any) -> NDArray[Any]:
    """Transform geometries to degrees. Those that cannot be transformed become None."""
    transformer = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)

    def move(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(transformer.transform(points[:, 0], points[:, 1]))

    moved = shapely.transform(geometries, move)
    moved[~np.isfinite(shapely.bounds(moved)).all(axis=1)] = None
    return np.asarray(moved, object)


def _footprint(grid: Grid) -> Any:
    """Return the outline of a grid in degrees."""
    outline = shapely.box(*grid.bounds)
    dense = shapely.segmentize(outline, shapely.length(outline) / (4 * EDGE_POINTS))
    return to_degrees(np.array([dense], object), grid.crs)[0]


def _bounds(geometries: Sequence[Any] | NDArray[Any]) -> Bounds:
    """Return the bounding box of geometries: west, south, east, north."""
    west, south, east, north = shapely.total_bounds(np.asarray(geometries, object)).tolist()
    return west, south, east, north


def _extent(bounds: Bounds) -> tuple[float, float]:
    """Return width and height of a bounding box."""
    return bounds[2] - bounds[0], bounds[3] - bounds[1]


def _draw_map(
    axes: Axes,
    bounds: Bounds,
    tiles: Mapping[str, Sequence[Any]],
    outlines: NDArray[Any],
    status: NDArray[np.object_],
    *,
    edges: bool,
) -> None:
    """Draw the parcels in the colour of their status, and above them the outlines of the tiles."""
    from matplotlib.collections import PolyCollection

    # Used parcels last, so that no other parcel covers them.
    for kind in reversed(Status):
        chosen = outlines[(status == kind) & ~shapely.is_missing(outlines)]
        parts = shapely.get_parts(chosen)
        is_dot = is_point(parts)
        rings = shapely.get_exterior_ring(parts[~is_dot])
        polygons = [shapely.get_coordinates(ring) for ring in rings]
        edge = "white" if edges else COLOURS[kind]
        axes.add_collection(
            PolyCollection(polygons, facecolors=COLOURS[kind], edgecolors=edge, linewidths=0.3)
        )
        if is_dot.any():
            x, y = shapely.get_coordinates(parts[is_dot]).T
            axes.scatter(x, y, s=9, facecolors=COLOURS[kind], edgecolors=edge, linewidths=0.3)
    for boxes in tiles.values():
        for box in boxes:
            x, y = shapely.get_coordinates(box).T
            axes.plot(x, y, color=FOOTPRINT, linewidth=1.2)
    width, height = _extent(bounds)
    # A single point has no extent.
    margin = 0.06 * max(width, height) or 0.001
    axes.set_xlim(bounds[0] - margin, bounds[2] + margin)
    axes.set_ylim(bounds[1] - margin, bounds[3] + margin)
    # A degree of longitude is shorter than a degree of latitude by this factor.
    axes.set_aspect(1 / np.cos(np.radians((bounds[1] + bounds[3]) / 2)), adjustable="box")
    axes.ticklabel_format(useOffset=False)
    axes.tick_params(labelsize=8)
    axes.locator_params(nbins=5)
    axes.set_xlabel("Longitude, degrees", fontsize=9)
    axes.set_ylabel("Latitude, degrees", fontsize=9)


def _name(axes: Axes, tiles: Mapping[str, Sequence[Any]]) -> None:
    """Write the names of the tiles above their upper left corners."""
    for tile, boxes in tiles.items():
        west, _, _, north = _bounds(boxes)
        axes.annotate(tile, (west, north), (0, 2), textcoords="offset points", fontsize=9)


def _mark(axes: Axes, bounds: Bounds) -> None:
    """Mark the extent of the second map."""
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle(bounds[:2], *_extent(bounds), fill=False, edgecolor="#b2182b", linewidth=1.2)
    )


def _draw_dates(axes: Axes, tiles: Sequence[str], rows: Sequence[AcquisitionRow]) -> None:
    """Draw a dot for every acquisition, in one line per tile."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

    places = {tile: -number for number, tile in enumerate(tiles)}
    for is_used in (False, True):
        shown = [row for row in rows if row.used is is_used and row.tile in places]
        axes.scatter(
            [date2num(row.date) for row in shown],
            [places[row.tile] for row in shown],
            s=16,
            facecolors=COLOURS[Status.USED] if is_used else "none",
            edgecolors=COLOURS[Status.USED] if is_used else NOT_USED,
            linewidths=0.9,
        )
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_yticks(list(places.values()), list(places))
    axes.set_ylim(-len(tiles) + 0.4, 0.6)
    axes.tick_params(labelsize=8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _keys(status: NDArray[np.object_], rows: Sequence[AcquisitionRow]) -> list[Any]:
    """Make the entries of the legend, with counts."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    keys: list[Any] = [
        Patch(color=COLOURS[kind], label=f"{(status == kind).sum():,} {text}")
        for kind, text in LEGEND.items()
    ]
    n_used = sum(row.used for row in rows)
    for text, face, edge in (
        (f"{n_used:,} acquisitions to use", COLOURS[Status.USED], COLOURS[Status.USED]),
        (f"{len(rows) - n_used:,} set aside", "none", NOT_USED),
    ):
        dot = Line2D([], [], marker="o", linestyle="", markersize=5, label=text)
        dot.set(markerfacecolor=face, markeredgecolor=edge)
        keys.append(dot)
    return keys
