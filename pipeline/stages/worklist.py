"""Stage worklist: the declarations to check, and a random sample to assess the verdicts."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geo.errors import InputError, first_five
from geo.register.columns import as_text
from pipeline.classes.reasons import Status
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.evaluation.doubts import SUPPOSED_WRONG, Verdict, found_by_visits
from pipeline.evaluation.quality_sample import draw_sample
from pipeline.predictions.columns import FIELDS as PREDICTION_FIELDS
from pipeline.predictions.columns import SIMULATED
from pipeline.predictions.styles import VERDICT_COLOURS, style_by_value
from pipeline.predictions.work_list import (
    FIELDS,
    FOUND,
    N_NEIGHBOURS,
    POINT,
    TO_CHECK,
    list_sample,
    list_to_check,
)
from pipeline.workflow.artefacts import artefact, read_json, remedy_for
from pipeline.workflow.settings import WorklistSettings
from pipeline.workflow.writing import finite_or_null, replacing, write_json

logger = logging.getLogger(__name__)

DOUBTED = [Verdict.CONFLICT, Verdict.DOUBT]
COLUMNS = ["parcel_id", "status", "declared_code", "declared_name", "verdict"]


def worklist(
    predictions: Path,
    probabilities: Path,
    doubts: Path,
    dataset: Path,
    to_check: Path,
    quality_sample: Path,
    account: Path,
    settings: WorklistSettings,
    parcels: Path | None = None,
) -> None:
    """List the declarations to check, and draw a random sample to assess the verdicts.

    Parameters
    ----------
    predictions, probabilities, doubts
        What predict wrote: the table of all parcels and the probability of every class, Parquet,
        and the verdicts by class, JSON.
    dataset
        Pixel-Set dataset.
    to_check
        Written: Parquet, the declarations with the verdict CONFLICT or DOUBT, the most doubtful
        first, with the columns `TO_CHECK` and those of the register; CSV beside it. With a
        register also a GeoPackage, in metres, with the outlines that the pixels were read from.
    quality_sample
        Written: Parquet, a stratified random sample of all declarations with a verdict, see
        `draw_sample`; CSV beside it, with an empty column to fill in.
    account
        Written: JSON. n_judged, n_doubted and n_listed: declarations with a verdict, with CONFLICT
        or DOUBT, and in the list; area_ha of the list, or null; supposed_wrong, a share; visits,
        numbers of them and the share of these wrong declarations that they find, null where it is
        not defined; sample: margin, seed, and the number of declarations and drawn ones by verdict.
    settings
        check.
    parcels
        Folder of the usable parcels of every tile; None without a register: places and neighbours
        are not known then.

    Raises
    ------
    InputError
        If a table does not fit the others.
    """
    opened = PixelSetDataset.open(dataset)
    rows = read_predictions(predictions, columns=COLUMNS)
    judged = rows[rows["verdict"].notna()]
    doubted = read_predictions(predictions, filters=[("verdict", "in", DOUBTED)])
    doubted = doubted.sort_values("doubt_rank", ignore_index=True)
    listed = doubted.head(settings.check.visits or len(doubted))
    points, outlines = read_points(None), None
    declared = np.full((len(listed), N_NEIGHBOURS), None, object)
    if parcels is not None:
        points = read_points(opened)
        usable = rows[rows["status"] != Status.REJECTED]
        outlines = read_outlines(parcels, opened, usable["parcel_id"])
        declared = declared_nearby(outlines, usable, listed["parcel_id"])
    table = list_to_check(listed, points, declared)
    write_tables(to_check, table, table)
    if outlines is not None:
        write_layer(to_check.with_suffix(".gpkg"), table, outlines, opened)
    sample = write_sample(quality_sample, predictions, judged, points, settings)
    by_verdict, drawn = judged["verdict"].value_counts(), sample.value_counts()
    write_json(
        account,
        {
            "n_judged": len(judged),
            "n_doubted": len(doubted),
            "n_listed": len(listed),
            **finite_or_null({"area_ha": float(table["area_ha"].sum(min_count=1))}),
            "supposed_wrong": SUPPOSED_WRONG,
            "visits": estimate_visits(judged, len(listed), probabilities, doubts),
            "sample": {
                "margin": settings.check.margin,
                "seed": settings.check.seed,
                "verdicts": [
                    {"verdict": v, "n": int(by_verdict.get(v, 0)), "sampled": int(drawn.get(v, 0))}
                    for v in reversed(Verdict)
                ],
            },
        },
    )
    logger.info(
        "%d of %d declarations to check, and a sample of %d",
        *(len(listed), len(judged), len(sample)),
    )


def read_predictions(path: Path, **options: Any) -> pd.DataFrame:
    """Read columns or rows of the predictions, see `pandas.read_parquet`."""
    with artefact(path, "a table of predictions"):
        table = pd.read_parquet(path, **options)
        # Some columns are made here.
        needed = options.get("columns", [name for name in TO_CHECK if name in PREDICTION_FIELDS])
        if lacking := {*needed} - {*table}:
            raise ValueError(f"it lacks {first_five(sorted(lacking))}")
    return table


def read_points(dataset: PixelSetDataset | None) -> pd.DataFrame:
    """Read a point on every parcel of the dataset: columns `POINT`, by parcel id.

    None: a table without rows.
    """
    if dataset is None:
        return pd.DataFrame(columns=POINT, index=pd.Index([], dtype=object), dtype="float64")
    from pyproj import Transformer

    to_wgs84 = Transformer.from_crs(dataset.description["crs"], "EPSG:4326", always_xy=True)
    degrees = np.column_stack(to_wgs84.transform(*dataset.positions.T))
    # Six decimals are about 10 cm.
    return pd.DataFrame(np.round(degrees, 6), columns=POINT, index=dataset.ids)


def read_outlines(folder: Path, dataset: PixelSetDataset, ids: pd.Series[Any]) -> Any:
    """Read the outlines of parcels, a GeoSeries by parcel id in the dataset's coordinate system."""
    # GDAL is imported only here: without a register, it is not needed.
    import geopandas

    from geo.register.placement import read_placed

    crs = dataset.description["crs"]
    tiles = (read_placed(folder / f"{tile}.parquet") for tile in dataset.tiles)
    parts = [tile.set_index("parcel_id").geometry.to_crs(crs) for tile in tiles]
    found = geopandas.GeoSeries(pd.concat(parts), crs=crs).reindex(ids)
    if (missing := found.index[found.isna()]).size:
        raise InputError(
            f"{folder} lacks parcels of the predictions: {first_five(missing)}. "
            f"{remedy_for(folder / f'{dataset.tiles[0]}.parquet')}"
        )
    return found


def declared_nearby(
    outlines: Any, usable: pd.DataFrame, ids: pd.Series[Any]
) -> NDArray[np.object_]:
    """Return the classes that the nearest parcels declare, object (n, N_NEIGHBOURS).

    Parameters
    ----------
    outlines
        GeoSeries of all usable parcels, by id.
    usable
        Their rows of the predictions.
    ids
        The n parcels whose neighbours are wanted.

    Returns
    -------
    Names of classes, the nearest parcel first; None where there are fewer neighbours.
    """
    from geo.register.neighbours import nearest_parcels

    labelled = usable[usable["declared_code"].notna()]
    own = outlines.loc[labelled["parcel_id"]]
    of = own.index.get_indexer(pd.Index(ids)).astype(np.int64)
    nearest = nearest_parcels(own.to_numpy(), of, N_NEIGHBOURS)
    names = np.array([*labelled["declared_name"], None], object)
    return names[nearest]


def write_sample(
    path: Path,
    predictions: Path,
    judged: pd.DataFrame,
    points: pd.DataFrame,
    settings: WorklistSettings,
) -> pd.Series[Any]:
    """Draw the sample and write it; return the verdicts of its parcels."""
    sample = draw_sample(
        judged["parcel_id"].tolist(), judged["verdict"].tolist(),
        as_text(judged["declared_code"]).tolist(), settings.check.margin, settings.check.seed,
    )  # fmt: skip
    ids = sample["parcel_id"].tolist()
    # A rejected row, which can repeat an id, has no verdict.
    chosen = [("parcel_id", "in", ids), ("verdict", "in", [*Verdict])]
    rows = read_predictions(predictions, filters=chosen).set_index("parcel_id", drop=False)
    table = list_sample(sample, rows.loc[ids].reset_index(drop=True), points)
    sheet = table.copy()
    sheet.insert(1, FOUND, "")
    write_tables(path, table, sheet)
    return sample["verdict"]


def write_tables(path: Path, table: pd.DataFrame, for_people: pd.DataFrame) -> None:
    """Write a table as Parquet, and as CSV for people."""
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False)
    with replacing(path.with_suffix(".csv")) as temporary:
        for_people.to_csv(temporary, index=False, lineterminator="\n")


def write_layer(path: Path, table: pd.DataFrame, outlines: Any, dataset: PixelSetDataset) -> None:
    """Write the work list as a GeoPackage, coloured by verdict in QGIS."""
    import geopandas

    from geo.register.geopackage import LayerWriter, outline_types
    from geo.register.geopackage_contents import Style

    own = outlines.loc[table["parcel_id"]].reset_index(drop=True)
    note, mark = (f"{SIMULATED} ", ", SIMULATED") if dataset.description["simulated"] else ("", "")
    about = f"{note}Declarations to check, the most doubtful first."
    colours = {str(verdict): VERDICT_COLOURS[verdict] for verdict in DOUBTED}
    style = Style(f"To check{mark}", about, style_by_value("verdict", colours, "fill"))
    with (
        replacing(path) as temporary,
        closing(
            LayerWriter(
                temporary,
                name="to_check",
                description=about,
                outlines=Counter(outline_types(own)),
                styles=[style],
                fields=FIELDS,
            )
        ) as layer,
    ):
        layer.add(geopandas.GeoDataFrame(table, geometry=own, crs=own.crs))


def estimate_visits(
    judged: pd.DataFrame, n_listed: int, probabilities: Path, doubts: Path
) -> list[dict[str, Any]]:
    """Estimate how many wrong declarations the first visits of the work list find.

    Returns
    -------
    {n: number of visits, found: share of the wrong declarations that these find, or None} for 10,
    20, 50, 100, ... visits, and for the whole list.
    """
    with artefact(probabilities, "a table of probabilities"):
        table = pd.read_parquet(probabilities).set_index("parcel_id").reindex(judged["parcel_id"])
        known = table.to_numpy(np.float32)
        labels = table.columns.get_indexer(pd.Index(as_text(judged["declared_code"])))
        if not np.isfinite(known).all() or (labels < 0).any():
            raise ValueError("it lacks parcels or declared classes of the predictions")
    false_alarms = read_json(doubts, lambda values: float(values["false_alarms"]), "verdicts")
    steps = (first * 10**power for power in range(1, 10) for first in (1, 2, 5))
    visits = [*(n for n in steps if n < n_listed), *([n_listed] if n_listed else [])]
    shares = np.array(visits, np.float64) / len(judged)
    found = found_by_visits(labels.astype(np.int64), known, false_alarms, shares)
    return [
        {"n": n, **finite_or_null({"found": share})}
        for n, share in zip(visits, found.tolist(), strict=True)
    ]
