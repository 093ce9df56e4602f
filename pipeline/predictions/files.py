"""Write the predictions: CSV, Parquet, GeoPackage with styles, and fiboa's GeoParquet.

All files are written in parts, so that the predictions are never in memory as a whole.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import date
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geo.register.fiboa import FiboaWriter, ParquetWriter
from pipeline.classes.crop_class import Code
from pipeline.report.class_colours import UNPREDICTED
from pipeline.report.scores import THRESHOLDS
from pipeline.workflow.rounding import percent
from pipeline.workflow.writing import replacing

logger = logging.getLogger(__name__)

SIMULATED = "SIMULATED imagery and parcels."
DETAILS = "Outlines as in the register; the crop is predicted from Sentinel-2 time series."
# Columns of the predictions that fiboa has no name for.
COLUMNS = [
    *("declared_code", "declared_name", "confidence", "pred2_code", "pred2_name", "confidence2"),
    *("declared_probability", "verdict", "doubt_rank", "n_pixels", "n_dates", "pred_source"),
]

PROBABILITIES = "probabilities.parquet"


def read_probabilities(path: Path) -> NDArray[np.float32]:
    """Read the probabilities that `PredictionFiles` wrote, float32 (n, K), in their order."""
    table = pq.read_table(path)
    return np.stack([column.to_numpy() for column in table.columns[1:]], axis=1)


class PredictionFiles:
    """Write parts of the predictions to all files, each whole or not at all.

    A context manager: the files get their names when it is left without an error.

    Parameters
    ----------
    predictions
        Path of the files; .csv and .parquet replace its suffix.
    """

    def __init__(self, predictions: Path) -> None:
        self._predictions = predictions
        self._stack = ExitStack()
        # Functions that write a part, by the name of the step.
        self._tables: dict[str, Callable[[pd.DataFrame], None]] = {}
        self._layers: dict[str, Callable[[Any], None]] = {}
        # Functions that write probabilities, by the name of the file.
        self._probabilities: dict[str, Callable[[Sequence[str], NDArray[np.float64]], None]] = {}
        self.seconds: dict[str, float] = {}
        """Duration of each step."""

    def __enter__(self) -> PredictionFiles:
        csv = self._open(
            self._predictions.with_suffix(".csv"),
            lambda path: path.open("w", encoding="utf-8", newline=""),
        )
        parquet = self._open(self._predictions.with_suffix(".parquet"), ParquetWriter)
        self._tables = {
            "CSV": lambda rows: rows.to_csv(
                csv, index=False, header=csv.tell() == 0, lineterminator="\n"
            ),
            "Parquet": lambda rows: parquet.add(pa.Table.from_pandas(rows, preserve_index=False)),
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add_probabilities(self, name: str, codes: Sequence[Code]) -> None:
        """Write <name>.parquet as well: parcel_id, and a column of every class code."""
        parquet = self._open(self._predictions.with_name(f"{name}.parquet"), ParquetWriter)
        names = ["parcel_id", *map(str, codes)]

        def write(ids: Sequence[str], probabilities: NDArray[np.float64]) -> None:
            columns = [pa.array(ids, pa.string())]
            columns += [pa.array(own, pa.float32()) for own in probabilities.T]
            parquet.add(pa.Table.from_arrays(columns, names))

        # The file has its columns even if no parcel is predicted.
        write([], np.zeros((0, len(codes))))
        self._probabilities[name] = write

    def put_probabilities(
        self, ids: Sequence[str], probabilities: Mapping[str, NDArray[np.float64]]
    ) -> None:
        """Write {name: probabilities (n, K)} of n parcels, to the files of `add_probabilities`."""
        for name, write in self._probabilities.items():
            with self.timed(name):
                write(ids, probabilities[name])

    def add_layers(
        self,
        outlines: Mapping[str, int],
        *,
        classes: Mapping[str, tuple[str, str]],
        collection: str,
        code_list: str | None,
        last_date: date,
        simulated: bool,
        with_points: bool = False,
        with_verdicts: bool = False,
    ) -> None:
        """Write a GeoPackage and fiboa's GeoParquet as well.

        Parameters
        ----------
        outlines
            {geometry type: number of rows}, see `LayerWriter`.
        classes
            {code: (name, colour)} of the classes that can be predicted.
        collection
            Name of fiboa's collection: the run.
        code_list
            Address of the list of class codes, which fiboa's crop extension requires.
        last_date
            Last date of the imagery: when the fields were last observed.
        simulated
            Whether the imagery is simulated.
        with_points
            Whether points are predicted, beside polygons or alone.
        with_verdicts
            Whether declarations were judged.
        """
        # GDAL is imported only here: without a register, predictions need no GDAL.
        from geo.register.geopackage import LayerWriter, Style, has_only_points

        note, mark = (f"{SIMULATED} ", ", SIMULATED") if simulated else ("", "")

        def styles(symbol: str) -> list[Style]:
            verdicts = Style(
                f"Verdict{mark}",
                f"{note}Verdict on the declared class.",
                style_by_value("verdict", VERDICT_COLOURS, symbol),
            )
            return [
                Style(
                    f"Predicted class{mark}",
                    f"{note}The most probable class of every parcel.",
                    style_by_class(classes, symbol),
                ),
                Style(
                    f"Confidence{mark}",
                    f"{note}Confidence of the predicted class.",
                    style_by_confidence(symbol),
                ),
                *([verdicts] if with_verdicts else []),
            ]

        only_points = has_only_points(outlines)
        layers = self._open(
            self._predictions.with_suffix(".gpkg"),
            lambda path: LayerWriter(
                path,
                name="parcels",
                description=f"{note}Predicted crop class of every parcel.",
                outlines=outlines,
                styles=styles("marker" if only_points else "fill"),
                other_styles=styles("marker") if with_points and not only_points else [],
            ),
        )
        if layers.n_others:
            logger.info("%d rows are in the layer %s", layers.n_others, layers.others)
        if with_points:
            logger.info("predicted points have no outline, and are not in the fiboa file")
        fiboa = self._open(
            self._predictions.with_name(f"{self._predictions.stem}_fiboa.parquet"),
            lambda path: FiboaWriter(
                path,
                collection=collection,
                code_list=code_list,
                properties={"determination:details": f"{note}{DETAILS}"},
            ),
        )
        self._layers = {
            "GeoPackage": layers.add,
            "GeoParquet": lambda part: fiboa.add(fiboa_features(part, last_date)),
        }

    def add(self, part: Any) -> None:
        """Write rows: a GeoDataFrame after `add_layers`, otherwise a DataFrame."""
        for name, write in self._layers.items():
            with self.timed(name):
                write(part)
        rows = pd.DataFrame(part.drop(columns=part.geometry.name)) if self._layers else part
        for name, write in self._tables.items():
            with self.timed(name):
                write(rows)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the duration of a block to that of a step."""
        start = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0) + time.perf_counter() - start

    def _open(self, path: Path, make: Callable[[Path], Any]) -> Any:
        """Make a writer of a temporary file, which is closed, then renamed, at the end."""
        temporary = self._stack.enter_context(replacing(path))
        return self._stack.enter_context(closing(make(temporary)))


def fiboa_features(parcels: Any, last_date: date) -> Any:
    """Select the predicted parcels, and name their columns as fiboa does: a GeoDataFrame.

    Points are left out: fiboa's geometries are polygons.

    Parameters
    ----------
    parcels
        GeoDataFrame, one row per parcel of the register.
    last_date
        Last date of the imagery.
    """
    import geopandas

    from geo.register.points import is_point
    from geo.register.polygons import mend

    predicted = parcels[parcels["pred_source"].ne("") & ~is_point(parcels.geometry.to_numpy())]
    observed = pd.Timestamp(last_date, tz="UTC").as_unit("ms")
    return geopandas.GeoDataFrame(
        {
            "id": predicted["parcel_id"],
            "determination:datetime": pd.Series(observed, index=predicted.index),
            "crop:code": predicted["pred_code"].astype("string"),
            "crop:name": predicted["pred_name"],
            **predicted[COLUMNS],
        },
        # fiboa requires valid polygons.
        geometry=mend(predicted.geometry.to_numpy()).polygons,
        crs=parcels.crs,
    )


DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
NO_PREDICTION = "no prediction"
# {verdict: (label, colour)}; red and orange stand out from grey, also for the colour-blind.
VERDICT_COLOURS = {
    "CONFLICT": ("CONFLICT", "#b2182b"),
    "DOUBT": ("DOUBT", "#fdae61"),
    "CONFORM": ("CONFORM", "#d9e2ea"),
    "": ("no verdict", UNPREDICTED),
}
# Viridis (Smith and van der Walt 2015): equal steps look equal, and low confidence is dark.
VIRIDIS = ("#440154", "#443983", "#31688e", "#21918c", "#35b779", "#90d743", "#fde725")
# Characters that XML 1.0 cannot contain, not even escaped.
UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
REPLACEMENT = "\ufffd"


def style_by_class(classes: Mapping[str, tuple[str, str]], symbol: str = "fill") -> str:
    """Return a QML style that colours parcels by predicted class.

    Parameters
    ----------
    classes
        {code: (name, colour #rrggbb)}, in the order of the legend.
    symbol
        fill (polygons) or marker (points).
    """
    column = "pred_code"
    if any(UNWRITABLE.search(code) for code in classes):
        # The style has these characters replaced: QGIS must compare it with replaced codes.
        pattern = r"[\\x01-\\x08\\x0b\\x0c\\x0e-\\x1f\\x{fffe}\\x{ffff}]"
        column = f"regexp_replace(\"pred_code\", '{pattern}', '{REPLACEMENT}')"
    return style_by_value(column, {**classes, "": (NO_PREDICTION, UNPREDICTED)}, symbol)


def style_by_value(column: str, values: Mapping[str, tuple[str, str]], symbol: str) -> str:
    """Return a QML style that colours parcels by a column of text.

    Parameters
    ----------
    column
        Column or expression of QGIS.
    values
        {value: (label, colour #rrggbb)}, in the order of the legend; "" for all other rows.
    symbol
        fill (polygons) or marker (points).
    """
    root, renderer = _renderer("categorizedSymbol", column)
    categories = ElementTree.SubElement(renderer, "categories")
    colours: list[str] = []
    # QGIS applies the category "" to all rows without a category.
    for value, (label, colour) in values.items():
        _add(categories, "category", value=value, label=label, symbol=len(colours), render="true")
        colours.append(colour)
    _add_symbols(renderer, colours, symbol)
    return _text(root)


def style_by_confidence(symbol: str = "fill") -> str:
    """Return a QML style that colours parcels by confidence, in the steps of the report's table."""
    # QGIS does not draw rows whose value is missing.
    root, renderer = _renderer("graduatedSymbol", 'coalesce("confidence", -1)')
    renderer.set("graduatedMethod", "GraduatedColor")
    ranges = ElementTree.SubElement(renderer, "ranges")
    steps = [(-1.0, -1.0), *pairwise([*THRESHOLDS, 1.0])]
    for i, (low, high) in enumerate(steps):
        label = f"{percent(low, 0)} to {percent(high, 0)}" if low >= 0 else NO_PREDICTION
        _add(ranges, "range", lower=low, upper=high, label=label, symbol=i, render="true")
    _add_symbols(renderer, [UNPREDICTED, *VIRIDIS], symbol)
    return _text(root)


def _renderer(kind: str, column: str) -> tuple[ElementTree.Element, ElementTree.Element]:
    root = ElementTree.Element("qgis", version="3.22", styleCategories="Symbology")
    return root, _add(root, "renderer-v2", type=kind, attr=column, symbollevels="0")


# The class of a symbol's layer in QGIS, and its properties beside colour and outline.
SYMBOLS = {
    "fill": ("SimpleFill", {"style": "solid"}),
    "marker": ("SimpleMarker", {"name": "circle", "size": "2", "size_unit": "MM"}),
}


def _add_symbols(renderer: ElementTree.Element, colours: list[str], kind: str) -> None:
    """Add a symbol for every colour, numbered from 0."""
    symbols = ElementTree.SubElement(renderer, "symbols")
    name, shape = SYMBOLS[kind]
    for i, colour in enumerate(colours):
        symbol = _add(symbols, "symbol", type=kind, name=i, alpha="1", clip_to_extent="1")
        layer = _add(symbol, "layer", **{"class": name, "enabled": "1", "pass": "0"})
        red, green, blue = bytes.fromhex(colour[1:])
        for key, value in {
            "color": f"{red},{green},{blue},255",
            **shape,
            # Thin and transparent, so that parcels of a few pixels still show their colour.
            "outline_color": "0,0,0,70",
            "outline_style": "solid",
            "outline_width": "0.05",
            "outline_width_unit": "MM",
            "joinstyle": "bevel",
        }.items():
            _add(layer, "prop", k=key, v=value)


def _add(parent: ElementTree.Element, tag: str, **attributes: object) -> ElementTree.Element:
    texts = {k: UNWRITABLE.sub(REPLACEMENT, str(v)) for k, v in attributes.items()}
    return ElementTree.SubElement(parent, tag, texts)


def _text(root: ElementTree.Element) -> str:
    return DOCTYPE + ElementTree.tostring(root, encoding="unicode")
