"""The predictions as fiboa: a feature for every parcel that has one."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

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

        from geo.register.mending import mend

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
