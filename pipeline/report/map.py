"""The report's maps: predicted classes, and where they agree with the declared ones."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
from pipeline.classes.reasons import Status
from pipeline.report.class_colours import UNPREDICTED
from pipeline.report.scores import TEXTS
from pipeline.workflow.rounding import score

# The longer side of the map, in units of the view box or pixels of the image.
LONGER_SIDE = 1800
# An image is smaller than the outlines of more parcels than these.
MOST_SHAPES = 3000
AGREEMENT = {
    "same": ("predicted as declared", "#2b8cbe"),
    "differs": ("predicted otherwise", "#d7301f"),
    "uncompared": ("predicted, no declared class to compare with", "#e3c75f"),
    "unpredicted": ("no prediction", UNPREDICTED),
}


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
        GeoPackage of the predictions, whose layer `parcels` is drawn.
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
    names = [name for name, kind in pyogrio.list_layers(layer) if kind is not None]
    n_rows = sum(pyogrio.read_info(layer, layer=name)["features"] for name in names)
    if n_rows != len(predictions):
        raise InputError(
            f"{layer} has {n_rows} rows, the table of predictions has {len(predictions)}. "
            "Write them again: snakemake -R predict."
        )
    table = geopandas.read_file(layer, layer="parcels", columns=[*TEXTS, "confidence"])
    shapes = table.geometry.to_crs(crs)
    parcels = pd.DataFrame({name: as_text(table[name]) for name in TEXTS})
    parcels = parcels.assign(
        confidence=table["confidence"], geometry=shapes.array, agreement=agreement(parcels)
    )
    is_area = shapely.get_dimensions(shapes.array) == 2
    drawable = is_area & ~shapely.is_empty(shapes.array)
    accepted = drawable & (parcels["status"] != Status.REJECTED).to_numpy()
    if not accepted.any():
        return None
    bounds = shapely.total_bounds(shapes.array[accepted])
    inside = drawable & shapely.intersects(np.asarray(shapes.array), shapely.box(*bounds))
    # Rejected parcels are drawn first, so that they do not hide others: a second row with the same
    # id often has the same outline.
    shown = pd.concat([parcels[inside & ~accepted], parcels[inside & accepted]])

    span = np.array([bounds[2] - bounds[0], bounds[3] - bounds[1]]) * 1.02
    low = np.array([bounds[0] + bounds[2], bounds[1] + bounds[3]]) / 2 - span / 2
    scale = LONGER_SIDE / float(span.max())
    width, height = (int(np.ceil(s * scale)) for s in span)
    as_shapes = len(shown) < MOST_SHAPES
    images = None
    if not as_shapes:
        images = (
            _image(shown, shown["pred_code"].map(colours), low, span, (height, width)),
            _image(
                shown, shown["agreement"].map(lambda a: AGREEMENT[a][1]), low, span, (height, width)
            ),
        )
    return Map(
        *(width, height),
        shapes=_shapes(shown, low, span, scale) if as_shapes else [],
        images=images,
        predicted=dict(Counter(shown["pred_code"])),
        agreement=dict(Counter(shown["agreement"])),
        scale_bar=_scale_bar(scale, float(span[0])),
        n_beyond=n_rows - len(shown),
        legend=AGREEMENT,
    )


def agreement(predictions: pd.DataFrame) -> NDArray[np.str_]:
    """Compare predicted with declared classes; return a key of `AGREEMENT` for every parcel.

    Only out-of-fold predictions are compared. The other parcels have no declared class, or a class
    that the models were not trained on.
    """
    source = predictions["pred_source"].to_numpy(str)
    same = (predictions["declared_code"] == predictions["pred_code"]).to_numpy()
    compared = np.where(same, "same", "differs")
    return np.select(
        [source == "", source != "out_of_fold"], ["unpredicted", "uncompared"], compared
    )


def _shapes(
    parcels: pd.DataFrame, low: NDArray[np.float64], span: NDArray[np.float64], scale: float
) -> list[Shape]:
    """Convert parcels to SVG paths."""

    def to_view(points: NDArray[np.float64]) -> NDArray[np.float64]:
        placed = (points - low) * scale
        placed[:, 1] = span[1] * scale - placed[:, 1]
        return placed

    outlines = shapely.transform(np.asarray(parcels["geometry"]), to_view)
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


def _image(
    parcels: pd.DataFrame,
    colours: pd.Series[str],
    low: NDArray[np.float64],
    span: NDArray[np.float64],
    shape: tuple[int, int],
) -> str:
    """Rasterise parcels as a PNG, transparent between them; return it as a data URI."""
    palette = sorted(set(colours.fillna(UNPREDICTED)))
    index = colours.fillna(UNPREDICTED).map({c: i for i, c in enumerate(palette, 1)})
    transform = from_bounds(*low, *(low + span), shape[1], shape[0])
    image = rasterize(
        zip(parcels["geometry"], index, strict=True), shape, transform=transform, dtype="uint8"
    )
    rgba = [(0, 0, 0, 0), *((*bytes.fromhex(colour[1:]), 255) for colour in palette)]
    file = io.BytesIO()
    imsave(file, np.array(rgba, np.uint8)[image], format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _scale_bar(scale: float, width_m: float) -> tuple[float, str]:
    """Return a round length of at most a sixth of the map's width, in view units and as text."""
    power = 10 ** np.floor(np.log10(width_m / 6))
    length = max(m * power for m in (1, 2, 5) if m * power <= width_m / 6)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    return float(round(length * scale, 1)), text
