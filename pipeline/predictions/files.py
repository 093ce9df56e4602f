"""Write the predictions: CSV, Parquet, GeoPackage with styles, and fiboa's GeoParquet.

All files are written in parts, so that the predictions are never in memory as a whole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geo.register.fiboa import FiboaWriter, ParquetWriter
from geo.register.geopackage_contents import PARCELS, REJECTED, Selection, Style, Table
from pipeline.classes.crop_class import Code
from pipeline.classes.reasons import Status
from pipeline.predictions.columns import FIELDS, M2_PER_HA, PREDICTED, SIMULATED
from pipeline.predictions.styles import prediction_styles, rejection_style
from pipeline.workflow.writing import replacing

logger = logging.getLogger(__name__)

DETAILS = "Outlines as in the register; the crop is predicted from Sentinel-2 time series."
# Columns of the predictions that fiboa has no name for.
COLUMNS = [
    *("declared_code", "declared_name", "confidence", "pred2_code", "pred2_name", "confidence2"),
    *("declared_probability", "verdict", "doubt_rank", "n_pixels", "n_dates", "pred_source"),
    *("prediction_set", "set_size", "margin", "fold", "tile"),
]
# Columns of fiboa's crop extension, which the file does not follow without a list of codes.
CROP_FIELDS = {"crop:code": FIELDS["pred_code"], "crop:name": FIELDS["pred_name"]}

PROBABILITIES = "probabilities.parquet"


def read_probabilities(path: Path) -> NDArray[np.float32]:
    """Read the probabilities that `PredictionFiles` wrote, float32 (n, K), in their order."""
    with pq.ParquetFile(path) as file:
        codes = file.schema_arrow.names[1:]
        found = np.empty((file.metadata.num_rows, len(codes)), np.float32)
        for place, code in enumerate(codes):  # as a whole, they would be in memory twice
            found[:, place] = file.read([code])[code].to_numpy()
    return found


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
        with_sets: bool = False,
        about: Mapping[str, str] | None = None,
        rejected: Sequence[str] = (),
        tables: Sequence[Table] = (),
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
        with_sets
            Whether there are prediction sets.
        about
            Metadata of the GeoPackage, {name: text}.
        rejected
            Reasons of the rejected rows.
        tables
            Further tables of the GeoPackage, see `pipeline.predictions.layers`.
        """
        # GDAL is imported only here: without a register, predictions need no GDAL.
        from geo.register.geopackage import LayerWriter, has_only_points

        note = f"{SIMULATED} " if simulated else ""

        def styles(symbol: str) -> list[Style]:
            options = {"with_verdicts": with_verdicts, "with_sets": with_sets}
            return prediction_styles(classes, symbol, simulated=simulated, **options)

        only_points = has_only_points(outlines)
        symbol = "marker" if only_points else "fill"
        made_by = "; ".join(f"{name}: {text}" for name, text in (about or {}).items())
        made_by = f" ({made_by})" if about else ""
        layers = self._open(
            self._predictions.with_suffix(".gpkg"),
            lambda path: LayerWriter(
                path,
                name=PARCELS,
                description=f"{note}Predicted crop class of every parcel{made_by}.",
                outlines=outlines,
                styles=styles(symbol),
                other_styles=styles("marker") if with_points and not only_points else [],
                fields=FIELDS,
                metadata={} if about is None else about,
                selection=Selection(
                    REJECTED,
                    f"{note}Rows of the register that are not predicted, and why.",
                    "status",
                    Status.REJECTED,
                    PREDICTED,
                    [rejection_style(rejected, symbol, simulated=simulated)],
                ),
                tables=tables,
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
                fields=(FIELDS if code_list else {**FIELDS, **CROP_FIELDS}),
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
    import shapely

    from geo.register.points import is_point
    from geo.register.polygons import mend

    # fiboa requires valid polygons, and every predicted parcel but points has one when mended.
    polygons = mend(parcels.geometry.to_numpy()).polygons
    chosen = parcels["pred_source"].ne("") & ~is_point(parcels.geometry.to_numpy())
    chosen &= ~shapely.is_missing(polygons)
    predicted = parcels[chosen]
    observed = pd.Timestamp(last_date, tz="UTC").as_unit("ms")
    return geopandas.GeoDataFrame(
        {
            "id": predicted["parcel_id"],
            "determination:datetime": pd.Series(observed, index=predicted.index),
            "crop:code": predicted["pred_code"].astype("string"),
            "crop:name": predicted["pred_name"],
            "metrics:area": (predicted["area_ha"] * M2_PER_HA).astype(np.float32),
            **predicted[COLUMNS],
        },
        geometry=polygons[chosen],
        crs=parcels.crs,
    )
