"""Where a parcel lies: its outline among its neighbours, for the card of the parcel."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.warp import transform_bounds

from geo.register.columns import as_text
from geo.register.geopackage import row_layers
from geo.register.points import is_point
from pipeline.classes.reasons import Status
from pipeline.report.class_colours import UNPREDICTED
from pipeline.workflow.artefacts import artefact

# Width and height of the map, in units of its view box.
WIDTH, HEIGHT = 480, 360
# Metres of land around a parcel that the map shows at least, and units around its content.
_AROUND_M = 120.0
# The nearest parcels that are listed.
N_NEIGHBOURS = 6
_COLUMNS = [
    *("parcel_id", "status", "declared_code", "declared_name", "pred_code", "pred_name"),
    *("confidence", "verdict"),
]
_POINT_RADIUS_M = 8.0


@dataclass(frozen=True)
class Neighbour:
    """A parcel near the parcel: `distance_m` between the outlines; texts are "" if missing."""

    parcel_id: str
    declared_code: str
    declared_name: str
    pred_code: str
    pred_name: str
    confidence: float
    verdict: str
    distance_m: float


@dataclass(frozen=True)
class Place:
    """Where a parcel lies.

    Attributes
    ----------
    latitude, longitude
        Of a point within the parcel, degrees (WGS 84).
    shapes
        (SVG path, colour, hover title) of the parcels on the map, the parcel itself last.
    scale_bar
        Length in units of the map, and as text.
    neighbours
        The nearest parcels that were not rejected, nearest first.
    colours
        {class name: colour} of the parcels on the map, most frequent first.
    """

    latitude: float
    longitude: float
    shapes: list[tuple[str, str, str]]
    scale_bar: tuple[float, str]
    neighbours: list[Neighbour]
    colours: dict[str, str]


def read_place(layer: Path, parcel_id: str, crs: str, colours: Mapping[str, str]) -> Place | None:
    """Read the outlines around a parcel; None if it has no outline.

    Parameters
    ----------
    layer
        GeoPackage of the predictions. Only the parcels near the parcel are read.
    parcel_id
        Id of the parcel. Of several rows, one that was not rejected is taken, or the first.
    crs
        Coordinate system to draw in, in metres.
    colours
        {code: colour} of the classes.
    """
    with artefact(layer, "a GeoPackage of predictions"):
        names = row_layers(name for name, _ in pyogrio.list_layers(layer))
        rows = [_read(layer, name, crs, where=_equals("parcel_id", parcel_id)) for name in names]
        found = _usable(pd.concat(rows, ignore_index=True))
        if found.empty:
            return None
        own = found["geometry"].iloc[0]
        view = _view(own)
        near = [
            _read(layer, name, crs, bbox=transform_bounds(crs, of_layer, *view))
            for name in names
            for of_layer in [pyogrio.read_info(layer, layer=name)["crs"]]
        ]
    others = _usable(pd.concat(near, ignore_index=True))
    others = others[others["parcel_id"] != parcel_id].reset_index(drop=True)
    shown = _discs(np.append(np.asarray(others["geometry"], object), own))
    rows_shown = [*others.to_dict("records"), found.iloc[0].to_dict()]
    inside = shapely.intersects(shown, shapely.box(*view))
    point = shapely.point_on_surface(own)
    to_degrees = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    longitude, latitude = to_degrees.transform(point.x, point.y)
    drawn = pd.concat([others[inside[:-1]], found.iloc[:1]])
    counts = drawn.groupby(["pred_name", "pred_code"]).size()
    legend = {
        name or "no prediction": colours.get(code, UNPREDICTED)
        for name, code in counts.sort_values(ascending=False, kind="stable").index
    }
    return Place(
        *(latitude, longitude),
        shapes=[
            (_path(shape, view), colours.get(row["pred_code"], UNPREDICTED), _title(row))
            for shape, row, is_shown in zip(shown, rows_shown, inside, strict=True)
            if is_shown
        ],
        scale_bar=_scale_bar(view),
        neighbours=_neighbours(others, own),
        colours=legend,
    )


def _equals(column: str, text: str) -> str:
    """Return an SQL condition: the column has this text."""
    quoted = text.replace("'", "''")
    return f"\"{column}\" = '{quoted}'"


def _read(layer: Path, name: str, crs: str, **which: Any) -> pd.DataFrame:
    """Read rows of a layer, with outlines in a coordinate system and texts "" if missing."""
    table = geopandas.read_file(layer, layer=name, columns=_COLUMNS, **which)
    texts = pd.DataFrame({c: as_text(table[c]) for c in _COLUMNS if c != "confidence"})
    outlines = table.geometry.to_crs(crs).array
    return texts.assign(confidence=table["confidence"].astype(float), geometry=outlines)


def _usable(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with an outline, those that were not rejected first."""
    outlines = np.asarray(rows["geometry"], object)
    has_outline = ~(shapely.is_missing(outlines) | shapely.is_empty(outlines))
    has_outline &= np.isfinite(shapely.bounds(outlines)).all(axis=1)
    rejected = rows["status"] == Status.REJECTED
    order = np.argsort(rejected[has_outline].to_numpy(), kind="stable")
    usable: pd.DataFrame = rows[has_outline].iloc[order]
    return usable


def _view(outline: Any) -> tuple[float, float, float, float]:
    """Return the rectangle around a parcel that the map shows, in metres."""
    x_min, y_min, x_max, y_max = shapely.bounds(outline).tolist()
    around = max(_AROUND_M, (x_max - x_min) / 2, (y_max - y_min) / 2)
    width, height = x_max - x_min + 2 * around, y_max - y_min + 2 * around
    scale = max(width / WIDTH, height / HEIGHT)
    x, y = (x_min + x_max) / 2, (y_min + y_max) / 2
    half_width, half_height = WIDTH * scale / 2, HEIGHT * scale / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def _discs(outlines: NDArray[Any]) -> NDArray[Any]:
    """Replace points by discs that can be seen."""
    points = is_point(outlines)
    drawn = outlines.copy()
    drawn[points] = shapely.buffer(outlines[points], _POINT_RADIUS_M)
    return drawn


def _path(outline: Any, view: tuple[float, float, float, float]) -> str:
    """Return an outline as an SVG path in units of the map."""
    scale = WIDTH / (view[2] - view[0])
    parts = []
    # Not clipped: the picture does that, and GEOS fails for some outlines that enclose no area.
    for ring in shapely.get_rings(shapely.get_parts(shapely.simplify(outline, 0.3 / scale))):
        points = shapely.get_coordinates(ring)
        x = np.round((points[:, 0] - view[0]) * scale, 1)
        y = np.round((view[3] - points[:, 1]) * scale, 1)
        parts.append("M" + "L".join(f"{a:g} {b:g}" for a, b in zip(x, y, strict=True)) + "z")
    return "".join(parts)


def _title(row: Mapping[Hashable, Any]) -> str:
    """Return the hover title of a parcel."""
    declared = row["declared_name"] or row["declared_code"] or "nothing"
    predicted = f"predicted {row['pred_name']}" if row["pred_code"] else "no prediction"
    return f"Parcel {row['parcel_id'] or 'without id'}: declared {declared}, {predicted}"


def _neighbours(others: pd.DataFrame, own: Any) -> list[Neighbour]:
    """Return the parcels that are nearest to an outline and were not rejected."""
    kept = others[others["status"] != Status.REJECTED]
    distances = shapely.distance(np.asarray(kept["geometry"], object), own)
    nearest = np.argsort(distances, kind="stable")[:N_NEIGHBOURS]
    names = [column for column in _COLUMNS if column != "status"]
    return [
        Neighbour(**{name: row[name] for name in names} | {"distance_m": distances[place]})
        for place, row in zip(nearest, kept.iloc[nearest].to_dict("records"), strict=True)
    ]


def _scale_bar(view: tuple[float, float, float, float]) -> tuple[float, str]:
    """Return a round length of at most a quarter of the map's width, in its units and as text."""
    longest = (view[2] - view[0]) / 4
    power = 10 ** np.floor(np.log10(longest))
    length = max(m * power for m in (1, 2, 5) if m * power <= longest)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    return round(float(length) * WIDTH / (view[2] - view[0]), 1), text
