"""Stage sen4cap: write the predictions in the columns of Sen4CAP's crop type product (L4A)."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import pandas as pd
import pyarrow as pa

from pipeline.predictions.columns import SIMULATED
from pipeline.workflow.artefacts import artefact
from pipeline.workflow.writing import replacing

logger = logging.getLogger(__name__)

# {column of Sen4CAP: column of the predictions}. Sen4CAP stores ids and codes as integers.
COLUMNS = {
    "NewID": "parcel_id",
    "CT_decl": "declared_code",
    "CT_pred_1": "pred_code",
    "CT_conf_1": "confidence",
    "CT_pred_2": "pred2_code",
    "CT_conf_2": "confidence2",
}
IDS, CODES = ["NewID"], ["CT_decl", "CT_pred_1", "CT_pred_2"]
LAYER = "sen4cap"


def sen4cap(predictions: Path, sen4cap: Path, outlines: Path | None = None) -> None:
    """Write the predicted parcels in the columns of Sen4CAP's crop type product (L4A).

    Parameters
    ----------
    predictions
        Table of the predictions, Parquet.
    sen4cap
        Written: CSV with a row for every predicted parcel and the columns NewID (id of the parcel),
        CT_decl (declared code), CT_pred_1, CT_conf_1 (predicted code, confidence), CT_pred_2 and
        CT_conf_2 (those of the second class). Ids and codes that are whole numbers are integers, as
        Sen4CAP requires. With outlines, also a GeoPackage of the same name.
    outlines
        GeoPackage of the predictions; None without a register. Points are only in the CSV.

    Raises
    ------
    InputError
        If a file is not as the stage predict writes it.
    """
    with artefact(predictions, "a table of predictions"):
        rows = pd.read_parquet(predictions, columns=["pred_source", *COLUMNS.values()])
    rows = rows[rows["pred_source"].ne("")].drop(columns="pred_source")
    table = rows.set_axis(list(COLUMNS), axis=1)
    whole = [names for names in (IDS, CODES) if _is_whole(table[names])]
    for names in whole:
        table[names] = table[names].astype("Int64")
    with replacing(sen4cap) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
    if outlines is not None:
        with replacing(sen4cap.with_suffix(".gpkg")) as temporary:
            _write_layer(temporary, outlines, {name for names in whole for name in names})
    if IDS not in whole:
        logger.warning(
            "not all ids are whole numbers, as Sen4CAP requires: set parcels.id to its NewID"
        )
    if CODES not in whole:
        logger.warning(
            "not all codes are whole numbers, as Sen4CAP requires: parcels.labels can name a table "
            "from the register's codes to numbers"
        )
    logger.info("%d parcels", len(table))


def _is_whole(columns: pd.DataFrame) -> bool:
    """Return whether all values that are not missing are whole numbers, written without zeros."""
    texts = columns.melt()["value"].dropna().astype(str)
    numbers = texts[texts.str.fullmatch(r"0|-?[1-9][0-9]{0,17}")]
    return len(numbers) == len(texts)


def _write_layer(path: Path, outlines: Path, whole: Collection[str]) -> None:
    """Copy the predicted parcels of a GeoPackage of predictions, without those that are points.

    Parameters
    ----------
    path
        GeoPackage to write.
    outlines
        GeoPackage of the predictions.
    whole
        Columns that become integers.
    """
    # GDAL is imported only here: without a register, nothing needs it.
    import pyogrio

    from geo.register.geopackage import VERSION
    from geo.register.geopackage_contents import PARCELS

    columns = ", ".join(f'"{name}" AS "{new}"' for new, name in COLUMNS.items())
    query = f"SELECT {columns}, geom FROM \"{PARCELS}\" WHERE pred_source <> ''"  # noqa: S608
    with artefact(outlines, "a GeoPackage of predictions"):
        about = pyogrio.read_info(outlines, layer=PARCELS)["layer_metadata"]
        note = f"{SIMULATED} " if about["DESCRIPTION"].startswith(SIMULATED) else ""
        opened = pyogrio.open_arrow(outlines, sql=query, use_pyarrow=True)
    with opened as (info, batches):
        schema = pa.schema(
            [field.with_type(pa.int64()) if field.name in whole else field
             for field in batches.schema]
        )  # fmt: skip
        cast = pa.RecordBatchReader.from_batches(schema, (b.cast(schema) for b in batches))
        pyogrio.write_arrow(
            cast,
            path,
            layer=LAYER,
            driver="GPKG",
            geometry_name="geom",
            geometry_type=info["geometry_type"],
            crs=info["crs"],
            dataset_options={"VERSION": VERSION},
            layer_options={"DESCRIPTION": f"{note}Predicted crops in the columns of Sen4CAP."},
            layer_metadata={name: text for name, text in about.items() if name != "DESCRIPTION"},
        )
