"""Write the simulated parcel register, with defects like those of real registers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely
from numpy.typing import NDArray
from shapely.geometry import LineString, Point, Polygon, box
from shapely.geometry.base import BaseGeometry

from demo.phenology import BACKGROUND, COVERS
from demo.scene import Scene
from geo.grid import Grid

REGISTER_CRS = "EPSG:2154"
LAYER = "simulated_parcels"
UNLABELLED_SHARE = 0.06
# Parcels that are declared as another crop than the true one: no classifier can predict them.
WRONGLY_DECLARED_SHARE = 0.03
MOST_PARTLY_OUTSIDE = 12
# Written in place of the current time, so that equal seeds produce equal bytes.
TIMESTAMP = "2021-12-31T00:00:00.000Z"

# Columns of the rows before they are written; `planted` and `true_code` go to the truth table.
COLUMNS = ["ID_PARCEL", "CODE_CULTU", "true_code", "planted", "geometry"]


def write_register(path: Path, scene: Scene, parcels: int, rng: np.random.Generator) -> None:
    """Write `parcels` parcels without defects, further ones with defects, and the truth about them.

    The register is a GeoPackage in EPSG:2154. For every row, ``<stem>.truth.csv`` beside it lists
    the true crop and the defect, so that the results of the pipeline can be checked.

    Parameters
    ----------
    path
        The GeoPackage to write; written under a temporary name and renamed.
    scene
        The ground.
    parcels
        Number of parcels without defects, all of them inside the imagery.
    rng
        Source of every random draw.
    """
    sound, hosts = _choose(scene, parcels, rng)
    rows = pd.concat(
        [_sound_rows(scene, sound, rng), _cut_rows(scene, rng), _damaged_rows(scene, hosts)],
        ignore_index=True,
    )
    rows["ID_PARCEL"] = rows["ID_PARCEL"].astype("Int64")
    names = {cover.code: cover.name for cover in COVERS if cover.code}
    frame = gpd.GeoDataFrame(rows, geometry="geometry", crs=scene.grid.crs).to_crs(REGISTER_CRS)
    frame["SURF_HA"] = (frame.area / 1e4).round(2)
    frame["CROP_NAME"] = frame["CODE_CULTU"].map(names)
    frame["source"] = "simulated"
    truth = frame[["ID_PARCEL", "true_code", "planted"]].rename_axis("row")
    columns = ["ID_PARCEL", "CODE_CULTU", "CROP_NAME", "SURF_HA", "source", "geometry"]
    partial = path.with_name(f".partial.{path.name}")
    partial.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_geopackage(frame[columns], partial)
    truth.to_csv(truth_path(path), lineterminator="\n")
    partial.replace(path)


def truth_path(register: Path) -> Path:
    """Return the path of the truth table of a simulated register."""
    return register.with_suffix(".truth.csv")


def _choose(
    scene: Scene, parcels: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Choose parcels to keep intact, and simple ones of median size and common crops to damage."""
    inside = scene.landscape.inside
    shapes = np.array([scene.landscape.parcels[i] for i in inside], dtype=object)
    areas = shapely.area(shapes)
    plain = (shapely.get_num_geometries(shapes) == 1) & (
        shapely.get_num_interior_rings(shapes) == 0
    )
    common = np.array([scene.crops[i].share > 0 for i in inside])
    middling = np.argsort(np.where(common & plain, np.abs(areas - np.median(areas)), np.inf))
    hosts = inside[middling[:DAMAGED_PARCELS]]
    sound = np.setdiff1d(inside, hosts)
    # Keep all parcels with rare crops.
    rare = np.array([scene.crops[i].share == 0 for i in sound])
    order = np.argsort(~rare, kind="stable")[:parcels]
    return rng.permutation(sound[order]), hosts


def _sound_rows(scene: Scene, chosen: NDArray[np.intp], rng: np.random.Generator) -> pd.DataFrame:
    """Return the parcels without geometric defects; some have no label, a few a wrong one."""
    parcels = len(chosen)
    true = [scene.crops[i].code for i in chosen]
    declared: list[str | None] = list(true)
    late = scene.stands.late[len(BACKGROUND) :][chosen]
    planted = ["sown late" if is_late else "" for is_late in late]
    for k, draw in enumerate(rng.random(parcels)):
        if draw < UNLABELLED_SHARE:
            declared[k], planted[k] = None, "no label"
        elif draw < UNLABELLED_SHARE + WRONGLY_DECLARED_SHARE:
            declared[k], planted[k] = true[int(rng.integers(parcels))], "wrongly declared"
    # The share is a probability: if a small scene has no such parcel by chance, make one.
    if None not in declared:
        declared[0], planted[0] = None, "no label"
    ids = 1_000_001 + rng.permutation(3 * parcels)[:parcels]
    geometries = [scene.landscape.parcels[i] for i in chosen]
    return _rows(ids.tolist(), declared, true, planted, geometries)


def _cut_rows(scene: Scene, rng: np.random.Generator) -> pd.DataFrame:
    """Return parcels that the edge of the imagery cuts, and some outside the imagery."""
    frame = box(*scene.grid.bounds)
    parcels = np.array(scene.landscape.parcels, dtype=object)
    crossing = np.flatnonzero(shapely.crosses(parcels, frame.boundary))
    outside = np.flatnonzero(~shapely.intersects(parcels, frame))
    chosen = [*rng.permutation(crossing)[:MOST_PARTLY_OUTSIDE], *rng.permutation(outside)[:3]]
    codes = [scene.crops[i].code for i in chosen]
    planted = ["partly outside" if i in set(crossing) else "outside" for i in chosen]
    ids = [9_000_001 + k for k in range(len(chosen))]
    return _rows(ids, codes, codes, planted, [parcels[i] for i in chosen])


def _damaged_rows(scene: Scene, hosts: NDArray[np.intp]) -> pd.DataFrame:
    """Return one row with each kind of defect, made from separate parcels."""
    rows: list[tuple[int | None, str, str, str, BaseGeometry | None]] = []
    for k, (kind, damage) in enumerate(DAMAGES.items()):
        code = scene.crops[hosts[k]].code
        geometry = damage(scene.landscape.parcels[hosts[k]], scene.grid)
        rows.append((9_100_001 + k, code, code, kind, geometry))
    ids = (9_200_001, 9_200_001, None)
    kinds = ("duplicate id", "duplicate id", "missing id")
    for parcel_id, kind, host in zip(ids, kinds, hosts[len(DAMAGES) :], strict=True):
        code = scene.crops[host].code
        rows.append((parcel_id, code, code, kind, scene.landscape.parcels[host]))
    return pd.DataFrame(rows, columns=COLUMNS)


def _bow_tie(parcel: BaseGeometry, _: Grid) -> Polygon:
    """Swap two corners of a rectangle in the widest part of the parcel."""
    radius = shapely.maximum_inscribed_circle(parcel)
    x_min, y_min, x_max, y_max = Point(radius.coords[0]).buffer(0.9 * radius.length).bounds
    y_top = y_max + 0.1 * (y_max - y_min)
    return Polygon([(x_min, y_min), (x_max, y_max), (x_max, y_min), (x_min, y_top)])


def _collapsed(parcel: BaseGeometry, _: Grid) -> Polygon:
    """Collapse a parcel to a line: invalid, and without an area when it is mended."""
    x_min, y_min, x_max, y_max = parcel.bounds
    return Polygon([(x_min, y_min), (x_max, y_max), (x_min, y_min), (x_min, y_min)])


def _too_small(parcel: BaseGeometry, grid: Grid) -> Polygon:
    """Draw a parcel of 4 m around a pixel corner, so that it contains no pixel centre."""
    middle = parcel.representative_point()
    columns = round((middle.x - grid.x_min) / grid.pixel_width)
    rows = round((grid.y_max - middle.y) / grid.pixel_height)
    corner = Point(grid.x_min + columns * grid.pixel_width, grid.y_max - rows * grid.pixel_height)
    return corner.buffer(2.0, cap_style="square")


def _pierced(parcel: BaseGeometry, _: Grid) -> BaseGeometry:
    """Cut a pond of 9 m radius out of the parcel."""
    return parcel.difference(parcel.representative_point().buffer(9.0))


def _parted(parcel: BaseGeometry, _: Grid) -> BaseGeometry:
    """Cut a track of 8 m through the parcel."""
    x_min, y_min, x_max, y_max = parcel.bounds
    middle = parcel.representative_point()
    reach = max(x_max - x_min, y_max - y_min)
    track = LineString([(middle.x, middle.y - reach), (middle.x, middle.y + reach)])
    return parcel.difference(track.buffer(4.0))


DAMAGES: dict[str, Callable[[BaseGeometry, Grid], BaseGeometry | None]] = {
    "null geometry": lambda _, __: None,
    "empty geometry": lambda _, __: Polygon(),
    "bow-tie": _bow_tie,
    "collapsed": _collapsed,
    "point": lambda parcel, _: parcel.representative_point(),
    "line": lambda parcel, _: LineString(parcel.envelope.exterior.coords[:3]),
    "too small": _too_small,
    "overlap": lambda parcel, _: parcel.buffer(15.0),
    "hole": _pierced,
    "multipolygon": _parted,
}
DAMAGED_PARCELS = len(DAMAGES) + 3


def _rows(
    ids: list[int],
    declared: list[str | None],
    true: list[str],
    planted: list[str],
    geometries: list[BaseGeometry],
) -> pd.DataFrame:
    """Return a table with COLUMNS."""
    table = pd.DataFrame(dict(zip(COLUMNS[:-1], (ids, declared, true, planted), strict=True)))
    table["geometry"] = geometries
    return table


def _write_geopackage(frame: gpd.GeoDataFrame, path: Path) -> None:
    """Write a layer of points, lines and polygons, with a fixed time stamp."""
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": TIMESTAMP})
    try:
        frame.to_file(
            path,
            layer=LAYER,
            driver="GPKG",
            engine="pyogrio",
            geometry_type="Unknown",
            promote_to_multi=False,
        )
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
