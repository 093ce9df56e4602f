"""The predictions as fiboa: a feature for every parcel that has one."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.writing import replacing

DETAILS = "Outlines as in the register; the crop is predicted from Sentinel-2 time series."
# Of the predictions, beside what fiboa has a name for.
COLUMNS = [
    *("declared_code", "declared_name", "confidence", "pred2_code", "pred2_name", "confidence2"),
    *("n_pixels", "n_dates", "pred_source"),
]


def write_fiboa_predictions(
    parcels: Any,
    path: Path,
    *,
    collection: str,
    code_list: str | None,
    last_date: date,
    remark: str = "",
) -> None:
    """Write the predicted parcels as fiboa, their predicted class as crop:code and crop:name.

    Parameters
    ----------
    parcels
        The predictions with the register's outlines, a row an input parcel: a GeoDataFrame.
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
    # GDAL is needed only here: a machine without it can still train and evaluate.
    import geopandas

    from geo.fiboa import write_fiboa
    from geo.parcels import mend

    predicted = parcels[parcels["pred_source"] != ""]
    observed = pd.Timestamp(last_date, tz="UTC").as_unit("ms")
    features = geopandas.GeoDataFrame(
        {
            "id": predicted["parcel_id"],
            "determination:datetime": pd.Series(observed, index=predicted.index),
            "crop:code": predicted["pred_code"].astype("string"),
            "crop:name": predicted["pred_name"],
            **predicted[COLUMNS],
        },
        geometry=mend(predicted.geometry.to_numpy()).polygons,
        crs=parcels.crs,
    )
    with replacing(path) as temporary:
        write_fiboa(
            features,
            temporary,
            collection=collection,
            code_list=code_list,
            properties={"determination:details": f"{remark} {DETAILS}".strip()},
        )
