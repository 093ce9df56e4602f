"""The report's maps: predicted classes, and where they agree with the declared ones."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import shapely
from matplotlib.image import imsave
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.transform import from_bounds

from geo.errors import InputError
from geo.register.columns import as_text
from geo.register.geopackage import row_layers
from geo.register.points import is_point
from pipeline.classes.reasons import Reason, Status
from pipeline.report.class_colours import UNPREDICTED
from pipeline.report.scores import TEXTS, is_scored
from pipeline.workflow.artefacts import artefact
from pipeline.workflow.rounding import score

# The longer side of the map, in units of the view box or pixels of the image.
LONGER_SIDE = 1800
# An image is smaller than the outlines of more parcels than these.
MOST_SHAPES = 3000
AGREEMENT = {
    "same": ("predicted as declared", "#2b8cbe"),
    "differs": ("predicted otherwise", "#d7301f"),
    "unknown": ("predicted, declared class unknown to the weights", "#8c510a"),
    "uncompared": ("predicted, no declared class to compare with", "#e3c75f"),
    "unpredicted": ("no prediction", UNPREDICTED),
}


@dataclass(frozen=True)
class View:
    """The rectangle that the map shows, in metres: its lower left and upper right corner."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def around(cls, x_min: float, y_min: float, x_max: float, y_max: float) -> View:
        """Return a view with a margin of 1 % on every side."""
        low, high = np.array([x_min, y_min]), np.array([x_max, y_max])
        centre, half = (low + high) / 2, (high - low) * 1.02 / 2
        return cls(centre - half, centre + half)

    @property
    def scale(self) -> float:
        """Units of the map in a metre."""
        return LONGER_SIDE / float((self.high - self.low).max())

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the map, in its units."""
        width, height = np.ceil((self.high - self.low) * self.scale).astype(int).tolist()
        return width, height

    def place(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points (n, 2) in units of the map, y downward."""
        placed = (points - self.low) * self.scale
        placed[:, 1] = (self.high[1] - self.low[1]) * self.scale - placed[:, 1]
        return placed


@dataclass(frozen=True)
class Shape:
    """Outline of a parcel as an SVG path, its CSS classes on the two maps, and its hover title."""

    path: str
    code: str
    agreement: str
    title: str


@dataclass(frozen=True)
class Map:
    """Both maps: outlines, or two PNG images as data URIs if there are many parcels."""

    width: int
    height: int
    shapes: list[Shape]
    images: tuple[str, str] | None
    predicted: dict[str, int]
    agreement: dict[str, int]
    scale_bar: tuple[float, str]
    n_beyond: int
    legend: Mapping[str, tuple[str, str]]


def draw_map(
    layer: Path, predictions: pd.DataFrame, crs: str, colours: Mapping[str, str]
) -> Map | None:
    """Draw the parcels in the imagery's coordinate system.

    The view contains all parcels that were not rejected. Rejected parcels are drawn where they are
    inside it.

    Parameters
    ----------
    layer
        GeoPackage of the predictions. Polygons, and points that were not rejected, are drawn.
    predictions
        The same predictions as a table, with a row for each row of all layers.
    crs
        Coordinate system to draw in, in metres.
    colours
        {code: colour} of the classes.

    Returns
    -------
    Map, or None if all parcels with an outline were rejected.

    Raises
    ------
    InputError
        If the GeoPackage and the table have different numbers of rows.
    """
    parcels = _read_parcels(layer, len(predictions), crs)
    accepted = (parcels["status"] != Status.REJECTED).to_numpy()
    parcels["geometry"] = outlines = _dots(np.asarray(parcels["geometry"]), accepted)
    drawable = (shapely.get_dimensions(outlines) == 2) & ~shapely.is_empty(outlines)
    accepted = accepted & drawable
    if not accepted.any():
        return None
    bounds = shapely.total_bounds(outlines[accepted])
    inside = drawable & shapely.intersects(outlines, shapely.box(*bounds))
    # Rejected parcels are drawn first, so that they do not hide others: a second row with the same
    # id often has the same outline.
    shown = pd.concat([parcels[inside & ~accepted], parcels[inside & accepted]])
    view = View.around(*bounds)
    as_shapes = len(shown) < MOST_SHAPES
    agreement_colours = {key: colour for key, (_, colour) in AGREEMENT.items()}
    return Map(
        *view.size,
        shapes=_shapes(shown, view) if as_shapes else [],
        images=None
        if as_shapes
        else (
            _image(shown, shown["pred_code"].map(colours), view),
            _image(shown, shown["agreement"].map(agreement_colours), view),
        ),
        predicted=dict(Counter(shown["pred_code"])),
        agreement=(counts := dict(Counter(shown["agreement"]))),
        scale_bar=_scale_bar(view),
        n_beyond=len(predictions) - len(shown),
        # Only existing weights have classes that they do not know.
        legend={k: value for k, value in AGREEMENT.items() if k != "unknown" or k in counts},
    )


def _dots(outlines: NDArray[Any], accepted: NDArray[np.bool_]) -> NDArray[Any]:
    """Replace accepted points by discs that are large enough to be seen."""
    points = np.flatnonzero(is_point(outlines) & accepted)
    west, south, east, north = shapely.total_bounds(outlines[accepted])
    radius_m = max(0.004 * max(east - west, north - south), 5.0)
    discs = outlines.copy()
    discs[points] = shapely.buffer(outlines[points], radius_m)
    return discs


def _read_parcels(layer: Path, n_predictions: int, crs: str) -> pd.DataFrame:
    """Read the predicted parcels, with their outlines in a coordinate system; see `draw_map`."""
    with artefact(layer, "a GeoPackage of predictions"):
        names = row_layers(name for name, _ in pyogrio.list_layers(layer))
        parts = []
        for name in names:
            table = geopandas.read_file(layer, layer=name, columns=[*TEXTS, "confidence"])
            texts = pd.DataFrame({text: as_text(table[text]) for text in TEXTS})
            own = {"confidence": table["confidence"], "geometry": table.geometry.to_crs(crs).array}
            parts.append(texts.assign(**own))
        parcels = pd.concat(parts, ignore_index=True)
    if len(parcels) != n_predictions:
        raise InputError(
            f"{layer} has {len(parcels)} rows, the table of predictions has {n_predictions}. "
            "Write them again: snakemake -R predict."
        )
    return parcels.assign(agreement=agreement(parcels))


def agreement(predictions: pd.DataFrame) -> NDArray[np.str_]:
    """Compare predicted with declared classes; return a key of `AGREEMENT` for every parcel.

    Only parcels that are scored are compared. The others have no declared class, or a class that
    the models were not trained on.
    """
    same = (predictions["declared_code"] == predictions["pred_code"]).to_numpy()
    return np.select(
        [
            predictions["pred_source"] == "",
            is_scored(predictions),
            predictions["reason"] == Reason.CLASS_UNKNOWN,
        ],
        ["unpredicted", np.where(same, "same", "differs"), "unknown"],
        "uncompared",
    )


def _shapes(parcels: pd.DataFrame, view: View) -> list[Shape]:
    """Convert parcels to SVG paths."""
    outlines = shapely.transform(np.asarray(parcels["geometry"]), view.place)
    columns = ("pred_code", "agreement", "parcel_id", "declared_name", "pred_name", "confidence")
    rows = zip(*(parcels[column] for column in columns), strict=True)
    return [
        Shape(_path(outline), code, kind, _title(*texts))
        for outline, (code, kind, *texts) in zip(outlines, rows, strict=True)
    ]


def _title(parcel_id: str, declared: str, predicted: str, confidence: float) -> str:
    """Return the hover title of a parcel."""
    text = f"Parcel {parcel_id or 'without id'}: declared {declared or 'nothing'}"
    if not predicted:
        return f"{text}, no prediction"
    return f"{text}, predicted {predicted} (confidence {score(confidence, 2)})"


def _path(outline: shapely.Geometry) -> str:
    """Return an outline as an SVG path of whole units, each point relative to the previous one."""
    rings = shapely.get_rings(shapely.get_parts(shapely.simplify(outline, 0.7)))
    parts = []
    for ring in rings:
        points = np.rint(shapely.get_coordinates(ring)[:-1]).astype(int)
        steps = np.diff(points, axis=0)
        steps = steps[np.any(steps != 0, axis=1)]
        moves = " ".join(f"{dx} {dy}" for dx, dy in steps)
        parts.append(f"M{points[0, 0]} {points[0, 1]}l{moves}z" if moves else "")
    return "".join(parts)


def _image(parcels: pd.DataFrame, colours: pd.Series[str], view: View) -> str:
    """Rasterise parcels as a PNG, transparent between them; return it as a data URI."""
    colours = colours.fillna(UNPREDICTED)
    palette = sorted(set(colours))
    index = colours.map({colour: i for i, colour in enumerate(palette, 1)})
    width, height = view.size
    transform = from_bounds(*view.low, *view.high, width, height)
    shapes = zip(parcels["geometry"], index, strict=True)
    image = rasterize(shapes, (height, width), transform=transform, dtype="uint8")
    rgba = [(0, 0, 0, 0), *((*bytes.fromhex(colour[1:]), 255) for colour in palette)]
    file = io.BytesIO()
    imsave(file, np.array(rgba, np.uint8)[image], format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _scale_bar(view: View) -> tuple[float, str]:
    """Return a round length of at most a sixth of the map's width, in view units and as text."""
    longest = float(view.high[0] - view.low[0]) / 6
    power = 10 ** np.floor(np.log10(longest))
    length = max(m * power for m in (1, 2, 5) if m * power <= longest)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    return float(round(length * view.scale, 1)), text
