"""Stage worklist: the declarations to check, and a random sample to assess the verdicts."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geo.errors import InputError, first_five
from geo.register.columns import as_text
from pipeline.classes.reasons import Status
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.dataset.places import find_places
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
COLUMNS = ["parcel_id", "status", "tile", "declared_code", "declared_name", "verdict"]


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
    with_places = opened if parcels is not None else None
    outlines, declared = None, np.full((len(listed), N_NEIGHBOURS), None, object)
    if parcels is not None:
        usable = rows[rows["status"] != Status.REJECTED].reset_index(drop=True)
        outlines, declared = look_around(parcels, opened, usable, listed)
        del usable
    points = read_points(with_places, listed["parcel_id"])
    table = list_to_check(listed, points, declared)
    write_tables(to_check, table, table)
    if outlines is not None:
        write_layer(to_check.with_suffix(".gpkg"), table, outlines, opened)
    sample = write_sample(quality_sample, predictions, judged, with_places, settings)
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


def read_points(dataset: PixelSetDataset | None, ids: pd.Series[Any]) -> pd.DataFrame:
    """Read a point on parcels of the dataset: columns `POINT`, by parcel id.

    None: a table without rows.
    """
    if dataset is None:
        return pd.DataFrame(columns=POINT, index=pd.Index([], dtype=object), dtype="float64")
    from pyproj import Transformer

    to_wgs84 = Transformer.from_crs(dataset.description["crs"], "EPSG:4326", always_xy=True)
    places = find_places(ids, dataset.ids)
    degrees = np.column_stack(to_wgs84.transform(*dataset.positions[places[places >= 0]].T))
    # Six decimals are about 10 cm.
    return pd.DataFrame(np.round(degrees, 6), columns=POINT, index=ids[places >= 0])


def look_around(
    folder: Path, dataset: PixelSetDataset, usable: pd.DataFrame, listed: pd.DataFrame
) -> tuple[Any, NDArray[np.object_]]:
    """Read the outlines of listed parcels, and the classes that the nearest parcels declare.

    The outlines of one tile are in memory at a time, and those of others near its listed parcels.

    Parameters
    ----------
    folder
        Folder of the usable parcels of every tile.
    dataset
        Pixel-Set dataset.
    usable, listed
        Rows of the predictions: all usable parcels, and the n listed ones.

    Returns
    -------
    outlines, declared
        GeoSeries of the n parcels, in the dataset's coordinate system; and names of classes, object
        (n, N_NEIGHBOURS), the nearest parcel first, None where there are fewer neighbours.
    """
    # GDAL is imported only here: without a register, it is not needed.
    import geopandas

    from geo.register.neighbours import DISTANCES_M, nearest_parcels
    from geo.register.placement import placed_bounds

    crs = dataset.description["crs"]
    outlines = np.full(len(listed), None, object)
    declared = np.full((len(listed), N_NEIGHBOURS), None, object)
    is_labelled = usable["declared_code"].notna().to_numpy()
    names = usable["declared_name"]
    bounds = {tile: placed_bounds(folder / f"{tile}.parquet", crs) for tile in dataset.tiles}
    for tile in dataset.tiles:
        here = np.flatnonzero(listed["tile"] == tile)
        if not len(here):
            continue
        own = usable.loc[usable["tile"] == tile, "parcel_id"]
        places, polygons = _read_tile(folder, tile, dataset, own)
        wanted = own.index[find_places(listed["parcel_id"].iloc[here], own)].to_numpy()
        outlines[here] = polygons[np.searchsorted(places, wanted)]
        left, bottom, right, top = geopandas.GeoSeries(outlines[here]).total_bounds
        reach = DISTANCES_M[-1]
        box = (left - reach, bottom - reach, right + reach, top + reach)
        found = [(places, polygons)]
        for other in dataset.tiles:
            if other != tile and _touch(bounds[other], box):
                rows = usable.loc[usable["tile"] == other, "parcel_id"]
                found.append(_read_tile(folder, other, dataset, rows, box))
        places, polygons = (np.concatenate(parts) for parts in zip(*found, strict=True))
        # In the order of the predictions, which decides among parcels at the same distance.
        order = np.argsort(places)
        order = order[is_labelled[places[order]]]
        places = places[order]
        of = np.searchsorted(places, wanted)
        nearest = nearest_parcels(polygons[order], of, N_NEIGHBOURS)
        declared[here] = np.array([*names.iloc[places], None], object)[nearest]
    return geopandas.GeoSeries(outlines, crs=crs), declared


def _touch(bounds: tuple[float, ...] | None, box: tuple[float, ...]) -> bool:
    """Return whether bounds touch a box; True if they are not known."""
    if bounds is None:
        return True
    left, bottom, right, top = bounds
    return left <= box[2] and right >= box[0] and bottom <= box[3] and top >= box[1]


def _read_tile(
    folder: Path,
    tile: str,
    dataset: PixelSetDataset,
    ids: pd.Series[Any],
    box: tuple[float, float, float, float] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
    """Read the outlines of a tile's parcels in the dataset's coordinate system.

    Parameters
    ----------
    folder, tile, dataset
        The parcels.
    ids
        The ids of those that are wanted, by position in the predictions.
    box
        Only those whose bounds touch this box (left, bottom, right, top).

    Returns
    -------
    positions in the predictions, ascending, int64 (m,), and polygons (m,).
    """
    import shapely

    from geo.register.placement import read_placed_parts

    crs, names, parts = dataset.description["crs"], [], [np.empty(0, object)]
    for _, own, outlines in read_placed_parts(folder / f"{tile}.parquet"):
        polygons = outlines.to_crs(crs).to_numpy()
        if box is not None:
            left, bottom, right, top = shapely.bounds(polygons).T
            near = (left <= box[2]) & (right >= box[0]) & (bottom <= box[3]) & (top >= box[1])
            polygons, own = polygons[near], [own[i] for i in np.flatnonzero(near)]
        names += own
        parts.append(polygons)
    polygons, places = np.concatenate(parts), find_places(names, ids)
    if (
        box is None
        and (is_missing := np.bincount(places[places >= 0], minlength=len(ids)) == 0).any()
    ):
        raise InputError(
            f"{folder} lacks parcels of the predictions: {first_five(ids[is_missing])}. "
            f"{remedy_for(folder / f'{tile}.parquet')}"
        )
    polygons, places = polygons[places >= 0], ids.index.to_numpy()[places[places >= 0]]
    order = np.argsort(places)
    return places[order], polygons[order]


def write_sample(
    path: Path,
    predictions: Path,
    judged: pd.DataFrame,
    dataset: PixelSetDataset | None,
    settings: WorklistSettings,
) -> pd.Series[Any]:
    """Draw the sample and write it; return the verdicts of its parcels.

    Without a dataset, the places of the parcels are not written.
    """
    sample = draw_sample(
        judged["parcel_id"].tolist(), judged["verdict"].tolist(),
        as_text(judged["declared_code"]).tolist(), settings.check.margin, settings.check.seed,
    )  # fmt: skip
    ids = sample["parcel_id"].tolist()
    # A rejected row, which can repeat an id, has no verdict.
    chosen = [("parcel_id", "in", ids), ("verdict", "in", [*Verdict])]
    rows = read_predictions(predictions, filters=chosen).set_index("parcel_id", drop=False)
    rows = rows.loc[ids].reset_index(drop=True)
    table = list_sample(sample, rows, read_points(dataset, rows["parcel_id"]))
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
                outlines=Counter(outline_types(outlines)),
                styles=[style],
                fields=FIELDS,
            )
        ) as layer,
    ):
        layer.add(geopandas.GeoDataFrame(table, geometry=outlines, crs=outlines.crs))


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
        with pq.ParquetFile(probabilities) as file:
            [first, *codes] = file.schema_arrow.names
            places = find_places(judged["parcel_id"], file.read([first])[first].combine_chunks())
            known = np.empty((len(judged), len(codes)), np.float32)
            for i, code in enumerate(codes):  # one column at a time
                known[:, i] = file.read([code])[code].to_numpy()[places]
        labels = pd.Index(codes).get_indexer(pd.Index(as_text(judged["declared_code"])))
        if (places < 0).any() or not np.isfinite(known).all() or (labels < 0).any():
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
