"""The files of predictions, written part by part: none of them is held in memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.predictions.fiboa import FiboaPredictions
from pipeline.predictions.layer_styles import style_by_class, style_by_confidence
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
