"""The report's map: vector tiles of all parcels, legends to colour and filter them, a picture."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyogrio
import shapely
from numpy.typing import NDArray
from pyproj import Transformer

from geo.errors import InputError
from geo.register.columns import as_text
from geo.register.geopackage import row_layers
from geo.register.points import is_point
from geo.register.vector_tiles import MERCATOR, write_vector_tiles
from pipeline.classes.crop_class import CropClass
from pipeline.classes.reasons import Reason, Status
from pipeline.dataset.npy_files import file_name
from pipeline.report.map_legends import Legend, agreement, legends_of
from pipeline.report.map_picture import Picture, ruler
from pipeline.report.scores import TEXTS, THRESHOLDS
from pipeline.workflow.artefacts import artefact
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.writing import replacing

# Columns of the predictions that the map shows, beside TEXTS.
SHARES = ["confidence", "confidence2", "declared_probability"]
NUMBERS = [*SHARES, "doubt_rank"]
SHOWN_TEXTS = ["prediction_set", "pred_source", "reason"]
COLUMNS = [*TEXTS, "pred2_code", "prediction_set", "verdict", *NUMBERS]
# Parcels that are read, and written to the tiles, at a time.
ROWS_AT_A_TIME = 50_000
# The page contains smaller tiles: about 50,000 parcels. Larger ones are read from beside it.
MOST_EMBEDDED_BYTES = 8_000_000
# Parcels in a block of the index by id.
IDS_IN_BLOCK = 1000
TO_DEGREES = Transformer.from_crs(MERCATOR, "EPSG:4326", always_xy=True)


@dataclass(frozen=True)
class Map:
    """What the page needs to draw the map.

    Attributes
    ----------
    legends
        The first one is shown first.
    picture
        The parcels in the colours of the first legend, a PNG as data URI: shown where the map
        itself cannot be.
    size
        Width and height of the picture.
    ruler
        Width of the picture's scale bar as a share of that of the picture, and its length in words.
    n_beyond
        Rows of the register that are not on the map.
    data
        What map.js reads, as JSON can hold it.
    """

    legends: list[Legend]
    picture: str
    size: tuple[int, int]
    ruler: tuple[float, str]
    n_beyond: int
    data: dict[str, Any]

    @property
    def is_embedded(self) -> bool:
        """Whether the page contains all parcels."""
        return self.data["tiles"] is not None


def draw_map(
    paths: RunPaths,
    predictions: pd.DataFrame,
    classes: Sequence[CropClass],
    colours: Mapping[str, str],
) -> Map | None:
    """Write the tiles and the index of the map, and draw its picture.

    The view contains all parcels that were not rejected. Rejected parcels are cut to it.

    Parameters
    ----------
    paths
        The run. Read: the GeoPackage of the predictions; polygons, and points that were not
        rejected, are drawn. Written: `map_tiles`, and `map_ids`, a JSON list per line of [id,
        longitude, latitude, size in metres of the web map], by id in the order of JavaScript. Both
        are empty files if there is no map.
    predictions
        The same predictions as a table, with a row for each row of all layers.
    classes
        All classes, the trained ones first.
    colours
        {code: colour} of the trained classes.

    Returns
    -------
    Map, or None if all parcels with an outline were rejected.

    Raises
    ------
    InputError
        If the GeoPackage and the table have different numbers of rows.
    """
    layer = paths.predictions
    with artefact(layer, "a GeoPackage of predictions"):
        layers = _layers(layer)
        if sum(layers.values()) != len(predictions):
            raise InputError(
                f"{layer} has {sum(layers.values())} rows, the table of predictions has "
                f"{len(predictions)}. Write them again: snakemake -R predict."
            )
        bounds = _bounds(layer, layers)
    with replacing(paths.map_tiles) as tiles, replacing(paths.map_ids) as ids:
        if bounds is None:
            tiles.touch()
            ids.touch()
            return None
        parcels = _Parcels(bounds, legends_of(predictions, classes, colours))
        size_m = float((bounds[2:] - bounds[:2]).max())
        write_vector_tiles(tiles, parcels.batches(layer, layers), size_m)
        blocks = _write_ids(ids, parcels.index())
        embedded = tiles.stat().st_size <= MOST_EMBEDDED_BYTES
        as_text_of = [_base64(path) if embedded else None for path in (tiles, ids)]
    west, south, east, north = TO_DEGREES.transform_bounds(*bounds)
    return Map(
        [legend for legend in parcels.legends if legend.has_values],
        parcels.picture.png([entry.colour for entry in parcels.legends[0].entries]),
        parcels.picture.size,
        ruler(bounds, (south + north) / 2),
        n_beyond=len(predictions) - parcels.n,
        data={
            "legends": [
                {
                    "name": legend.name,
                    "labels": [entry.label for entry in legend.entries],
                    "codes": [entry.value for entry in legend.entries],
                    "colours": [entry.colour for entry in legend.entries],
                }
                for legend in parcels.legends
            ],
            "reasons": {str(reason): reason.words for reason in Reason},
            "bounds": [west, south, east, north],
            "tiles": as_text_of[0],
            "ids": as_text_of[1],
            "files": [paths.map_tiles.name, paths.map_ids.name],
            "blocks": blocks,
            "cards": _cards(paths, predictions["parcel_id"]),
        },
    )


def _layers(path: Path) -> dict[str, int]:
    """Return the layers of parcels and their numbers of rows."""
    own = row_layers(str(name) for name, _ in pyogrio.list_layers(path))
    return {name: int(pyogrio.read_info(path, layer=name)["features"]) for name in own}


def _bounds(path: Path, layers: Mapping[str, int]) -> NDArray[np.float64] | None:
    """Return the bounds of the accepted parcels in metres of the web map; None without any."""
    found = []
    for name in layers:
        crs = pyogrio.read_info(path, layer=name)["crs"]
        where = f"status <> '{Status.REJECTED}'"
        corners = pyogrio.read_bounds(path, layer=name, where=where)[1]
        corners = corners[:, np.isfinite(corners).all(axis=0)]
        if corners.size:
            box = (*corners[:2].min(axis=1), *corners[2:].max(axis=1))
            found.append(Transformer.from_crs(crs, MERCATOR, always_xy=True).transform_bounds(*box))
    if not found:
        return None
    west, south, east, north = np.array(found).T
    # A margin of 1 %, and one around a single point.
    margin = 0.01 * max(east.max() - west.min(), north.max() - south.min(), 100.0)
    low = np.array([west.min(), south.min()]) - margin
    return np.concatenate([low, np.array([east.max(), north.max()]) + margin])


class _Parcels:
    """The parcels on their way to the tiles: counted, drawn and listed by id.

    Parameters
    ----------
    bounds
        Of the view, metres of the web map.
    legends
        Their `counts` are filled.
    """

    def __init__(self, bounds: NDArray[np.float64], legends: list[Legend]) -> None:
        self.legends, self.picture = legends, Picture(bounds)
        self.n = 0
        """Number of parcels on the map."""
        self._bounds = bounds
        self._index: list[pa.Table] = []

    def batches(self, path: Path, layers: Mapping[str, int]) -> Iterator[pa.RecordBatch]:
        """Yield the parcels of a GeoPackage as rows of the tiles."""
        for name, n_rows in layers.items():
            for start in range(0, n_rows, ROWS_AT_A_TIME):
                rows = slice(start, start + ROWS_AT_A_TIME)
                with artefact(path, "a GeoPackage of predictions"):
                    read = geopandas.read_file(path, layer=name, columns=COLUMNS, rows=rows)
                    shown = self._on_map(read)
                if len(shown):
                    yield self._put(shown)

    def _on_map(self, read: geopandas.GeoDataFrame) -> pd.DataFrame:
        """Return the parcels that are drawn: texts, numbers and outlines of the web map."""
        outlines = np.asarray(read.geometry.to_crs(MERCATOR).array)
        rejected = (read["status"] == Status.REJECTED).to_numpy()
        # A rejected outline can be as large as the world, or a wrong one.
        outlines[rejected] = shapely.clip_by_rect(outlines[rejected], *self._bounds)
        drawn = (shapely.get_dimensions(outlines) == 2) & ~shapely.is_empty(outlines)
        drawn |= is_point(outlines) & ~rejected
        read = read[drawn].reindex(columns=COLUMNS)
        texts = [column for column in COLUMNS if column not in NUMBERS]
        table = pd.DataFrame({text: as_text(read[text]) for text in texts})
        for number in NUMBERS:
            table[number] = read[number].to_numpy(float)
        return table.assign(geometry=outlines[drawn])

    def _put(self, shown: pd.DataFrame) -> pa.RecordBatch:
        """Count, draw and list parcels; return them as rows of the tiles."""
        outlines = shown["geometry"].to_numpy()
        steps = np.searchsorted(THRESHOLDS, shown["confidence"], side="right") - 1
        values: dict[str, Any] = {
            "predicted": shown["pred_code"],
            "declared": shown["declared_code"],
            "agreement": agreement(shown),
            "verdict": shown["verdict"],
            "certainty": np.where(shown["confidence"].isna(), "", steps.astype(str)),
        }
        numbers = {legend.name: legend.number(values[legend.name]) for legend in self.legends}
        for legend in self.legends:
            n_entries = len(legend.entries)
            legend.counts[:] += np.bincount(numbers[legend.name], minlength=n_entries)
        self.picture.add(outlines, numbers["predicted"], shown["status"] == Status.REJECTED)
        self._index.append(_places(shown["parcel_id"], outlines))
        second = np.where(
            shown["pred2_code"] == "", np.nan, self.legends[0].number(shown["pred2_code"])
        )
        table = {
            "row": pa.array(np.arange(self.n, self.n + len(shown), dtype=np.int32)),
            "parcel_id": pa.array(shown["parcel_id"], pa.string()),
            **{name: pa.array(own) for name, own in numbers.items()},
            "second": _whole(second),
            **{name: _whole(10_000 * shown[name].to_numpy()) for name in SHARES},
            "doubt_rank": _whole(shown["doubt_rank"].to_numpy()),
            **{name: pa.array(shown[name], pa.string()) for name in SHOWN_TEXTS},
            "geometry": pa.array(shapely.to_wkb(outlines), pa.binary()),
        }
        self.n += len(shown)
        return pa.RecordBatch.from_pydict(table)

    def index(self) -> pa.Table:
        """Return id, lon, lat and size of the parcels."""
        return pa.concat_tables(self._index).combine_chunks()


def _whole(values: NDArray[np.float64]) -> pa.Array:
    """Return rounded values as integers, null where they are NaN."""
    missing = np.isnan(values)
    return pa.array(np.where(missing, 0, values).round().astype(np.int32), mask=missing)


def _places(ids: pd.Series[str], outlines: NDArray[Any]) -> pa.Table:
    """Return a point on every parcel, in degrees, and the longer side of its bounds."""
    x, y = shapely.get_coordinates(shapely.point_on_surface(outlines)).T
    lon, lat = TO_DEGREES.transform(x, y)
    west, south, east, north = shapely.bounds(outlines).T
    size = np.maximum(east - west, north - south).round().astype(int)
    columns = {"id": pa.array(ids, pa.large_string()), "lon": np.round(lon, 6)}
    return pa.table({**columns, "lat": np.round(lat, 6), "size": size})


def _write_ids(path: Path, index: pa.Table) -> list[list[Any]]:
    """Write the parcels by id, in blocks; return first id and first byte of each, and the end."""
    order = _order_of_javascript(index["id"].combine_chunks())
    blocks: list[list[Any]] = []
    with path.open("wb") as file:
        for start in range(0, len(order), IDS_IN_BLOCK):
            part = index.take(order[start : start + IDS_IN_BLOCK])
            rows = list(
                map(list, zip(*(part[name].to_pylist() for name in part.column_names), strict=True))
            )
            blocks.append([rows[0][0], file.tell()])
            file.write(json.dumps(rows, separators=(",", ":")).encode() + b"\n")
        blocks.append(["", file.tell()])
    return blocks


def _order_of_javascript(ids: pa.Array) -> pa.Array:
    """Return the order of ids as JavaScript compares texts, equal ones as they are."""
    # It compares UTF-16: in the order of the characters, but for those beyond 16 bits.
    if not pc.any(pc.match_substring_regex(ids, r"[^\x00-\x{FFFF}]")).as_py():
        return pc.array_sort_indices(ids)
    keys = [parcel_id.encode("utf-16-be", "surrogatepass") for parcel_id in ids.to_pylist()]
    return pa.array(sorted(range(len(keys)), key=keys.__getitem__))


def _cards(paths: RunPaths, ids: pd.Series[str]) -> dict[str, str]:
    """Return {id: file name} of the parcels that have a card."""
    existing = {card.name for card in paths.cards.glob("*.html")} if paths.cards.is_dir() else set()
    if not existing:
        return {}
    names = {i: file_name(i, ".html") for i in ids.unique()}
    return {i: name for i, name in names.items() if name in existing}


def _base64(path: Path) -> str:
    """Return the bytes of a file in base64."""
    return base64.b64encode(path.read_bytes()).decode()
