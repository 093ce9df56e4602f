"""The files of predictions, written part by part: none of them is held in memory."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import date
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol
from xml.etree import ElementTree

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.report.class_colours import UNPREDICTED
from pipeline.report.confidence import THRESHOLDS
from pipeline.workflow.rounding import percent
from pipeline.workflow.writing import replacing

logger = logging.getLogger(__name__)

SIMULATED = "SIMULATED imagery and parcels."


class _Writer(Protocol):
    def add(self, part: Any) -> None: ...


class PredictionFiles:
    """Write parts of the predictions to all of their files, whole or not at all.

    To be used as a context: the files take their names once all parts are written.

    Parameters
    ----------
    predictions
        The tables are written under this name, with the suffixes .csv and .parquet.
    """

    def __init__(self, predictions: Path) -> None:
        self._predictions = predictions
        self._stack = ExitStack()
        self._tables: dict[str, _Writer] = {}
        self._layers: dict[str, _Writer] = {}
        self.seconds: dict[str, float] = {}
        """Time that each step has taken."""

    def __enter__(self) -> PredictionFiles:
        for name, kind in (("CSV", _Csv), ("Parquet", _Parquet)):
            path = self._predictions.with_suffix(f".{name.lower()}")
            self._tables[name] = self._stack.enter_context(_closed(kind(self._new(path))))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add_layers(
        self,
        outlines: Mapping[str, int],
        *,
        classes: Mapping[str, tuple[str, str]],
        collection: str,
        code_list: str | None,
        last_date: date,
        simulated: bool,
    ) -> None:
        """Write a GeoPackage and fiboa, too.

        Parameters
        ----------
        outlines
            {type of geometry: number of rows}, see `LayerWriter`.
        classes
            {code: (name, colour)} of the classes that can be predicted.
        collection, code_list, last_date
            See `FiboaPredictions`.
        simulated
            Whether the imagery is.
        """
        # GDAL is needed only here: a machine without it can still train and evaluate.
        from geo.register.geopackage import LayerWriter, Style

        note, mark = (f"{SIMULATED} ", ", SIMULATED") if simulated else ("", "")
        layers = LayerWriter(
            self._new(self._predictions.with_suffix(".gpkg")),
            name="parcels",
            description=f"{note}Predicted crop class of every parcel.",
            outlines=outlines,
            styles=[
                Style(
                    f"Predicted class{mark}",
                    f"{note}The most probable class of every parcel.",
                    style_by_class(classes),
                ),
                Style(
                    f"Confidence{mark}",
                    f"{note}Confidence of the predicted class.",
                    style_by_confidence(),
                ),
            ],
        )
        self._layers["GeoPackage"] = self._stack.enter_context(_closed(layers))
        if layers.n_others:
            logger.info("%d rows are not polygons: layer parcels_not_polygons", layers.n_others)
        fiboa = FiboaPredictions(
            self._new(self._predictions.with_name(f"{self._predictions.stem}_fiboa.parquet")),
            collection=collection,
            code_list=code_list,
            last_date=last_date,
            remark=SIMULATED * simulated,
        )
        self._layers["GeoParquet"] = self._stack.enter_context(_closed(fiboa))

    def add(self, part: Any) -> None:
        """Write rows: a GeoDataFrame where there are layers, else a DataFrame."""
        for name, writer in self._layers.items():
            with self.timed(name):
                writer.add(part)
        rows = pd.DataFrame(part.drop(columns=part.geometry.name)) if self._layers else part
        for name, writer in self._tables.items():
            with self.timed(name):
                writer.add(rows)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Count the time of a step."""
        start = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0) + time.perf_counter() - start

    def _new(self, path: Path) -> Path:
        return self._stack.enter_context(replacing(path))


class _Csv:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._is_empty = True

    def add(self, part: pd.DataFrame) -> None:
        part.to_csv(self._file, index=False, header=self._is_empty, lineterminator="\n")
        self._is_empty = False

    def close(self) -> None:
        self._file.close()


class _Parquet:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: pq.ParquetWriter | None = None

    def add(self, part: pd.DataFrame) -> None:
        table = pa.Table.from_pandas(part, preserve_index=False)
        if self._file is None:
            # A column that has no value yet is taken for one of text.
            fields = [f.with_type(pa.string()) if pa.types.is_null(f.type) else f
                      for f in table.schema]  # fmt: skip
            self._file = pq.ParquetWriter(self._path, pa.schema(fields, table.schema.metadata))
        self._file.write_table(table.cast(self._file.schema))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@contextmanager
def _closed(writer: Any) -> Iterator[Any]:
    """Close a writer, also after an error, before its file takes its name."""
    try:
        yield writer
    finally:
        writer.close()


DETAILS = "Outlines as in the register; the crop is predicted from Sentinel-2 time series."
# Of the predictions, beside what fiboa has a name for.
COLUMNS = [
    *("declared_code", "declared_name", "confidence", "pred2_code", "pred2_name", "confidence2"),
    *("n_pixels", "n_dates", "pred_source"),
]


class FiboaPredictions:
    """Write the predicted parcels as fiboa, their predicted class as crop:code and crop:name.

    Parameters
    ----------
    path
        GeoParquet to write.
    collection
        Name of the collection: the run.
    code_list
        Address of the list of class codes, as the crop extension asks for it; None without.
    last_date
        Of the imagery: when the fields were last observed.
    remark
        Said before all else, such as that the data are simulated.
    """

    def __init__(
        self,
        path: Path,
        *,
        collection: str,
        code_list: str | None,
        last_date: date,
        remark: str = "",
    ) -> None:
        # GDAL is needed only here: a machine without it can still train and evaluate.
        from geo.register.fiboa import FiboaWriter

        self._observed = pd.Timestamp(last_date, tz="UTC").as_unit("ms")
        properties = {"determination:details": f"{remark} {DETAILS}".strip()}
        self._file = FiboaWriter(
            path, collection=collection, code_list=code_list, properties=properties
        )

    def add(self, parcels: Any) -> None:
        """Write those that have a prediction: a GeoDataFrame, a row an input parcel."""
        import geopandas

        from geo.register.polygons import mend

        predicted = parcels[parcels["pred_source"] != ""]
        features = geopandas.GeoDataFrame(
            {
                "id": predicted["parcel_id"],
                "determination:datetime": pd.Series(self._observed, index=predicted.index),
                "crop:code": predicted["pred_code"].astype("string"),
                "crop:name": predicted["pred_name"],
                **predicted[COLUMNS],
            },
            geometry=mend(predicted.geometry.to_numpy()).polygons,
            crs=parcels.crs,
        )
        self._file.add(features)

    def close(self) -> None:
        """End the file."""
        self._file.close()


DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
NO_PREDICTION = "no prediction"
# Viridis (Smith and van der Walt 2015), equal steps of which look equal: the doubtful are dark.
VIRIDIS = ("#440154", "#443983", "#31688e", "#21918c", "#35b779", "#90d743", "#fde725")
# XML 1.0 has no way to write these.
UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
REPLACEMENT = "\ufffd"


def style_by_class(classes: Mapping[str, tuple[str, str]]) -> str:
    """Colour parcels by predicted class.

    Parameters
    ----------
    classes
        {code: (name, colour #rrggbb)}, in the order of the legend.

    Returns
    -------
    QML.
    """
    column = "pred_code"
    if any(UNWRITABLE.search(code) for code in classes):
        # The categories have the codes as XML can write them.
        pattern = r"[\\x01-\\x08\\x0b\\x0c\\x0e-\\x1f\\x{fffe}\\x{ffff}]"
        column = f"regexp_replace(\"pred_code\", '{pattern}', '{REPLACEMENT}')"
    root, renderer = _renderer("categorizedSymbol", column)
    categories = ElementTree.SubElement(renderer, "categories")
    colours: list[str] = []
    # QGIS takes the category "" for all that no other is for: of these rows, those without a code.
    for code, (name, colour) in {**classes, "": (NO_PREDICTION, UNPREDICTED)}.items():
        _add(categories, "category", value=code, label=name, symbol=len(colours), render="true")
        colours.append(colour)
    _add_symbols(renderer, colours)
    return _text(root)


def style_by_confidence() -> str:
    """Colour parcels by confidence, in the steps of the report's table: QML."""
    # A row without confidence would not be drawn.
    root, renderer = _renderer("graduatedSymbol", 'coalesce("confidence", -1)')
    renderer.set("graduatedMethod", "GraduatedColor")
    ranges = ElementTree.SubElement(renderer, "ranges")
    steps = [(-1.0, -1.0), *pairwise([*THRESHOLDS, 1.0])]
    for i, (low, high) in enumerate(steps):
        label = f"{percent(low, 0)} to {percent(high, 0)}" if low >= 0 else NO_PREDICTION
        _add(ranges, "range", lower=low, upper=high, label=label, symbol=i, render="true")
    _add_symbols(renderer, [UNPREDICTED, *VIRIDIS])
    return _text(root)


def _renderer(kind: str, column: str) -> tuple[ElementTree.Element, ElementTree.Element]:
    root = ElementTree.Element("qgis", version="3.22", styleCategories="Symbology")
    return root, _add(root, "renderer-v2", type=kind, attr=column, symbollevels="0")


def _add_symbols(renderer: ElementTree.Element, colours: list[str]) -> None:
    """Add a fill for every colour, numbered from 0."""
    symbols = ElementTree.SubElement(renderer, "symbols")
    for i, colour in enumerate(colours):
        symbol = _add(symbols, "symbol", type="fill", name=i, alpha="1", clip_to_extent="1")
        layer = _add(symbol, "layer", **{"class": "SimpleFill", "enabled": "1", "pass": "0"})
        red, green, blue = bytes.fromhex(colour[1:])
        for key, value in {
            "color": f"{red},{green},{blue},255",
            "style": "solid",
            # Thin and see-through: parcels keep their colour also where they are a few pixels.
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
