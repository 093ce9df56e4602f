"""Stage areas: the area of every class, with confidence intervals, in total and by region."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geo.errors import InputError, did_you_mean, first_five
from geo.register.columns import as_text
from pipeline.classes.ledger import FROM_REGISTER
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.dataset.places import find_places
from pipeline.evaluation.areas import Estimate, interval
from pipeline.evaluation.population import Population
from pipeline.evaluation.representativeness import Difference, find_differences
from pipeline.workflow.artefacts import artefact, remedy_for
from pipeline.workflow.settings import AreasSettings
from pipeline.workflow.writing import replacing, write_json

logger = logging.getLogger(__name__)

# In the column region: all parcels, and those without a value.
ALL, UNSTATED = "(all)", "(not stated)"
# Name of the declared classes that are not trained on.
OTHERS = "other declared classes"
M2_PER_HA = 10_000

# Why areas are not estimated.
NO_OUTLINES = "no predicted parcel has an outline"
NO_LABELS = "no parcel declares a class"
UNKNOWN_SAMPLE = (
    "it is not known how the labelled parcels were chosen: areas.sample states it, if they are a "
    "random sample"
)
EXISTING_WEIGHTS = "it is not known which parcels the existing weights were trained on"
TOO_FEW = "too few labelled parcels"


@dataclass(frozen=True)
class Parcels:
    """The predicted parcels of a register whose area is known.

    Attributes
    ----------
    ids
        Their ids.
    population
        Areas, classes, predictions and strata.
    classes
        (code, name) of the K classes of the population.
    regions
        str (N,), value of the column areas.region; None without the setting.
    n_without_area
        Number of predicted points, which have no area.
    """

    ids: pd.Series[Any]
    population: Population
    classes: list[tuple[str, str]]
    regions: NDArray[np.object_] | None
    n_without_area: int


def areas(
    predictions: Path,
    register: Path,
    dataset: Path,
    areas: Path,
    settings: AreasSettings,
    probabilities: Path | None = None,
) -> None:
    """Estimate the area of every class, in total and by region, with 95 % intervals.

    The population are the predicted parcels. The area of those that declare a class is known. That
    of the others is estimated, if the parcels with a declared class are a random sample of all.

    Parameters
    ----------
    predictions
        Table of the predictions, Parquet.
    register
        Clean's table of the register, with the area of every outline.
    dataset
        Pixel-Set dataset: positions and names.
    areas
        Written: Parquet, a row for every class, in total and by region, with the columns region,
        code and name; n_labelled and declared_ha: number and area of the parcels that declare it;
        mapped_ha: area of the parcels that are predicted as it, which is biased;
        error_adjusted_ha and difference_ha: two estimates of its area, see
        `pipeline.evaluation.areas`, each with _low_ha and _high_ha; reason: why a value is missing.
        A CSV beside it, for people. A JSON of the same name: number and area of all parcels and of
        those with a declared class, what speaks against a random sample, and the accuracies by
        area, with 95 % intervals.
    settings
        areas.
    probabilities
        Mean probabilities of every predicted parcel, Parquet; None for existing weights: areas are
        not estimated then.

    Raises
    ------
    InputError
        If the register lacks a column, or a table does not fit the others.
    """
    options = settings.areas
    opened = PixelSetDataset.open(dataset)
    parcels = read_parcels(predictions, register, opened, settings, probabilities)
    population = parcels.population
    reason = ""
    if parcels.ids.empty:
        reason = NO_OUTLINES
    elif not population.is_labelled.any():
        reason = NO_LABELS
    elif not population.is_labelled.all():
        if probabilities is None:
            reason = EXISTING_WEIGHTS
        elif options.sample == "unknown":
            reason = UNKNOWN_SAMPLE
    table = pd.concat(
        [
            _rows(region, own, parcels.classes, reason)
            for region, own in _by_region(population, parcels.regions)
        ],
        ignore_index=True,
    )
    differences = []
    if not reason and not population.is_labelled.all():
        differences = _find_differences(parcels, opened)
    estimated = not reason and not population.is_too_small
    account = {
        "n_parcels": len(parcels.ids),
        "area_ha": _hectares(population.areas.sum()),
        "n_labelled": int(population.is_labelled.sum()),
        "labelled_ha": _hectares(population.areas[population.is_labelled].sum()),
        "n_without_area": parcels.n_without_area,
        "sample": options.sample,
        "strata": options.strata,
        "region": options.region,
        "reason": reason or (TOO_FEW if not estimated else ""),
        "differences": [asdict(difference) for difference in differences],
        "accuracy": _accuracies(population, parcels.classes) if estimated else None,
    }
    for difference in differences:
        logger.warning(
            "areas.sample is random, but labelled parcels differ from the others: %s (p = %.1e)",
            difference.words,
            difference.p_value,
        )
    with replacing(areas) as temporary:
        table.to_parquet(temporary, index=False)
    with replacing(areas.with_suffix(".csv")) as temporary:
        table.to_csv(temporary, index=False, float_format="%.2f", lineterminator="\r\n")
    write_json(areas.with_suffix(".json"), account)
    logger.info(
        "%d parcels, %.2f ha, of which %d declare a class%s",
        account["n_parcels"],
        account["area_ha"],
        account["n_labelled"],
        f"; no estimates: {account['reason']}" if account["reason"] else "",
    )


def read_parcels(
    predictions: Path,
    register: Path,
    dataset: PixelSetDataset,
    settings: AreasSettings,
    probabilities: Path | None,
) -> Parcels:
    """Read the predicted parcels with their areas, classes, strata and regions."""
    options = settings.areas
    rows, own = _read_rows(predictions, register, options.columns)
    # A point stands for a field of any size.
    has_area = (own["area_m2"] > 0).to_numpy()
    rows, own = rows[has_area], own[has_area]
    names = {str(crop.code): crop.name for crop in dataset.shown_classes}
    # Existing weights may be trained on other classes.
    predicted = rows[["pred_code", "pred_name"]].drop_duplicates()
    names |= dict(zip(predicted["pred_code"], predicted["pred_name"], strict=True)) | names
    index = {code: i for i, code in enumerate(names)}
    # These parcels were not trained on, so all models predict them as any parcel without label.
    trained = {"", *(str(crop.code) for crop in dataset.classes)}
    others = [code for code in rows["declared_code"].cat.categories if code not in trained]
    labels = _take(rows["declared_code"], index | dict.fromkeys(others, len(names)))
    classes = list(names.items())
    if (labels == len(names)).any():
        classes.append(("", OTHERS))
    ids, n_trained = rows["parcel_id"], len(dataset.classes)
    strata, regions = (
        None if column is None else _values(own[FROM_REGISTER + column])
        for column in (options.strata, options.region)
    )
    return Parcels(
        ids,
        Population(
            areas=own["area_m2"].to_numpy(np.float64),
            labels=labels,
            mapped=_take(rows["pred_code"], index),
            predicted=_read_probabilities(probabilities, ids, n_trained, len(classes)),
            strata=(
                np.zeros(len(ids), np.int64)
                if strata is None
                else np.unique(strata, return_inverse=True)[1].astype(np.int64)
            ),
        ),
        classes,
        regions,
        int((~has_area).sum()),
    )


def _read_rows(
    predictions: Path, register: Path, columns: dict[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the predicted parcels, and the same rows of the register.

    Returns
    -------
    rows
        parcel_id, and categorical, "" without a value: declared_code, pred_code, pred_name.
    own
        area_m2, and the columns that settings name.
    """
    kinds = ["declared_code", "pred_code", "pred_name"]
    with artefact(predictions, "a table of predictions"):
        table = pd.read_parquet(predictions, columns=["parcel_id", *kinds, "pred_source"])
        table = table[table["pred_source"].fillna("") != ""]
        rows = table[["parcel_id"]].assign(**{n: _category(table[n]) for n in kinds})
    usable = _read_register(register, columns)
    places = find_places(rows["parcel_id"], usable["parcel_id"])
    is_repeated = np.bincount(places[places >= 0], minlength=len(usable)) > 1
    if is_repeated.any() or (places < 0).any():
        wrong = is_repeated[places] if is_repeated.any() else places < 0
        raise InputError(
            f"{predictions} has parcels that are not usable in {register}, or more than once: "
            f"{first_five(rows.loc[wrong, 'parcel_id'])}. {remedy_for(predictions)}"
        )
    return rows, usable.drop(columns="parcel_id").iloc[places]


def _category(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column with few different values as categorical text; "" without a value."""
    return column.astype("string").fillna("").astype("category")


def _take(column: pd.Series[Any], values: Mapping[str, int]) -> NDArray[np.int64]:
    """Return the value of every category of a column, int64 (N,); -1 for others."""
    of_category = np.array([values.get(c, -1) for c in column.cat.categories], np.int64)
    taken: NDArray[np.int64] = of_category[column.cat.codes]
    return taken


def _read_register(register: Path, columns: dict[str, str]) -> pd.DataFrame:
    """Read id, area and some columns of the usable rows of the register."""
    known = ["parcel_id", "reason", "area_m2"]
    with artefact(register, "a table of parcels"):
        names = pq.read_schema(register).names
        if lacking := {*known} - {*names}:
            raise ValueError(f"it lacks the columns {', '.join(sorted(lacking))}")
    own = [name for name in names if name.startswith(FROM_REGISTER)]
    for setting, column in columns.items():
        if FROM_REGISTER + column not in own:
            others = [name.removeprefix(FROM_REGISTER) for name in own]
            raise InputError(
                f"{setting}: the register has no column {column!r}.{did_you_mean(column, others)} "
                f"It has {first_five(others)}."
            )
    wanted = [FROM_REGISTER + column for column in dict.fromkeys(columns.values())]
    with artefact(register, "a table of parcels"):
        table = pd.read_parquet(register, columns=[*known, *wanted])
    return table.loc[table["reason"] == "", ["parcel_id", "area_m2", *wanted]]


def _read_probabilities(
    path: Path | None, ids: pd.Series[Any], n_trained: int, n_classes: int
) -> NDArray[np.float32]:
    """Read the probabilities of parcels, float32 (N, K); 0 for classes that are not trained on."""
    predicted = np.zeros((len(ids), n_classes), np.float32)
    if path is None:
        return predicted
    with artefact(path, "a table of probabilities"), pq.ParquetFile(path) as file:
        [first, *codes] = file.schema_arrow.names
        if len(codes) != n_trained:
            raise ValueError(f"it has {len(codes)} classes, not {n_trained}")
        places = find_places(ids, file.read([first])[first].combine_chunks())
        for i, code in enumerate(codes):  # one column at a time
            predicted[:, i] = file.read([code])[code].to_numpy()[places]
        if (places < 0).any() or not np.isfinite(predicted).all():
            raise ValueError("it lacks parcels of the predictions")
    return predicted


def _values(column: pd.Series[Any]) -> NDArray[np.object_]:
    """Return a column of the register as text; `UNSTATED` where it has no value."""
    texts = np.asarray(as_text(column), object)
    return np.where(texts == "", UNSTATED, texts)


def _by_region(
    population: Population, regions: NDArray[np.object_] | None
) -> Iterator[tuple[str, Population]]:
    """Yield all parcels, and those of every region by name."""
    yield ALL, population
    if regions is not None:
        names, region = np.unique(regions.astype(str), return_inverse=True)
        order = np.argsort(region, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(region[order])) + 1)
        for name, own in zip(names.tolist(), parts, strict=True):
            yield name, population.part(own)


def _rows(
    region: str, population: Population, classes: list[tuple[str, str]], reason: str
) -> pd.DataFrame:
    """Make the rows of a region, one a class."""
    codes, names = zip(*classes, strict=True) if classes else ((), ())
    labelled = population.is_labelled
    columns: dict[str, Any] = {
        "region": [region] * len(codes),
        "code": list(codes),
        "name": list(names),
        "n_labelled": population.counts(),
        "declared_ha": population.areas_by(population.labels, labelled) / M2_PER_HA,
        "mapped_ha": population.areas_by(population.mapped) / M2_PER_HA,
    }
    if not reason and population.is_too_small:
        reason = TOO_FEW
    has_interval = population.has_interval()
    for name in ("error_adjusted", "difference"):
        estimate = None if reason else getattr(population, name)()
        columns |= _columns(name, estimate, has_interval)
    reasons = np.where(has_interval, "", "too few labelled parcels of the class for an interval")
    return pd.DataFrame({**columns, "reason": reason or reasons})


def _columns(
    name: str, estimate: Estimate | None, has_interval: NDArray[np.bool_]
) -> dict[str, NDArray[np.float64]]:
    """Return an estimate in hectares, NaN where there is none or no interval."""
    missing = np.full(len(has_interval), np.nan)
    if estimate is None:
        return {f"{name}{ending}_ha": missing for ending in ("", "_low", "_high")}
    return {
        f"{name}_ha": estimate.area / M2_PER_HA,
        f"{name}_low_ha": np.where(has_interval, estimate.low / M2_PER_HA, np.nan),
        f"{name}_high_ha": np.where(has_interval, estimate.high / M2_PER_HA, np.nan),
    }


def _find_differences(parcels: Parcels, dataset: PixelSetDataset) -> list[Difference]:
    """Return what speaks against a random sample."""
    places = find_places(parcels.ids, dataset.ids)
    population = parcels.population
    return find_differences(
        population.areas,
        dataset.positions[places],
        population.mapped,
        population.is_labelled,
        population.strata,
    )


def _accuracies(population: Population, classes: list[tuple[str, str]]) -> dict[str, Any]:
    """Return the accuracies by area, each as value, low and high; null where undefined."""
    found = population.accuracy()
    by_class = (np.vstack([found.overall, *each]) for each in ((found.users,), (found.producers,)))
    users, producers = ([_with_interval(*row) for row in rows[1:]] for rows in by_class)
    return {
        "overall": _with_interval(*found.overall),
        "classes": [
            {"code": code, "users": own_users, "producers": own_producers}
            for (code, _), own_users, own_producers in zip(classes, users, producers, strict=True)
        ],
    }


def _with_interval(value: float, standard_error: float) -> list[float] | None:
    """Return an accuracy and its interval, rounded; None if it is undefined."""
    if not np.isfinite([value, standard_error]).all():
        return None
    return [round(float(v), 4) for v in (value, *interval(value, standard_error))]


def _hectares(area_m2: float) -> float:
    return round(float(area_m2) / M2_PER_HA, 2)
