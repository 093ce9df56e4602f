"""The predictions in the columns of Sen4CAP's crop type product: which rows, types and values."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely

from geo.errors import InputError
from pipeline.predictions.columns import FIELDS
from pipeline.stages.sen4cap import sen4cap
from tests.builders.predictions import write_predictions

COLUMNS = ["NewID", "CT_decl", "CT_pred_1", "CT_conf_1", "CT_pred_2", "CT_conf_2"]
LARGE = 2**40  # more than the first rows need


def predictions(folder, ids=("1", "2", "3", str(LARGE)), codes=(110, 110, 220, None), **options):
    """Write predictions of four parcels: the second is rejected, the last declares nothing."""
    kind = "Int64" if all(isinstance(code, int | None) for code in codes) else "str"
    predicted = [True, False, True, True]
    columns = {
        **dict.fromkeys(FIELDS, ""),
        "parcel_id": list(ids),
        "status": ["used", "rejected", "used", "predict_only"],
        "declared_code": pd.array(codes, kind),
        "pred_code": pd.array([codes[0], None, codes[0], codes[2]], kind),
        "confidence": [0.9, np.nan, 0.6, 0.5],
        "pred2_code": pd.array([codes[2], None, codes[2], codes[0]], kind),
        "confidence2": [0.1, np.nan, 0.4, 0.25],
        "pred_source": ["out_of_fold" if p else "" for p in predicted],
        "area_ha": 1.0,
    }
    outlines = shapely.box(np.arange(4) * 10, 0, np.arange(4) * 10 + 5, 5)
    rows = gpd.GeoDataFrame(columns, geometry=outlines, crs="EPSG:32631")
    return write_predictions(folder, [rows], **options)


def written(path, outlines=True):
    to = path.with_name("sen4cap.csv")
    sen4cap(path.with_suffix(".parquet"), to, path if outlines else None)
    return to


@pytest.mark.parametrize("simulated", [True, False])
def test_whole_numbers_are_integers_as_sen4cap_stores_them(tmp_path, simulated, caplog):
    path = written(predictions(tmp_path, simulated=simulated))
    assert path.read_text() == (
        "NewID,CT_decl,CT_pred_1,CT_conf_1,CT_pred_2,CT_conf_2\n"
        "1,110,110,0.9,220,0.1\n"
        "3,220,110,0.6,220,0.4\n"
        f"{LARGE},,220,0.5,110,0.25\n"
    )
    layer = gpd.read_file(path.with_suffix(".gpkg"), layer="sen4cap")
    table = pd.DataFrame(layer.drop(columns="geometry"))
    pd.testing.assert_frame_equal(table, pd.read_csv(path), check_dtype=False)
    assert layer.geometry.bounds["minx"].tolist() == [0, 20, 30]
    info = pyogrio.read_info(path.with_suffix(".gpkg"), layer="sen4cap")
    assert info["ogr_types"] == [
        *["OFTInteger64"] * 3, "OFTReal", "OFTInteger64", "OFTReal"
    ]  # fmt: skip
    assert ("SIMULATED" in info["layer_metadata"]["DESCRIPTION"]) == simulated
    assert "whole numbers" not in caplog.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ids": ["A/1", "2", "3", "4"]}, "not all ids are whole numbers.*set parcels.id"),
        ({"ids": ["007", "2", "3", "4"]}, "not all ids are whole numbers"),
        ({"ids": ["1", "2", "3", "9" * 19]}, "not all ids are whole numbers"),
        ({"codes": ["0110", "0110", "220", None]}, "not all codes are whole.*parcels.labels can"),
    ],
)
def test_others_stay_text_and_this_is_said(tmp_path, options, words, caplog):
    path = written(predictions(tmp_path, **options))
    expected = options.get("ids") or options["codes"]
    column = "NewID" if "ids" in options else "CT_decl"
    found = pd.read_csv(path, dtype=str)[column]
    assert found.fillna("").tolist() == [expected[i] or "" for i in (0, 2, 3)]
    layer = gpd.read_file(path.with_suffix(".gpkg"))
    assert layer[column].fillna("").tolist() == found.fillna("").tolist()
    assert pd.Series(caplog.messages).str.contains(words).any()


def test_without_outlines_there_is_only_a_table(tmp_path):
    path = written(predictions(tmp_path), outlines=False)
    assert list(pd.read_csv(path)) == COLUMNS
    assert not path.with_suffix(".gpkg").exists()


def test_a_damaged_table_is_refused(tmp_path):
    path = predictions(tmp_path)
    path.with_suffix(".parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"parcels\.parquet.*a table of predictions"):
        written(path)
    assert not path.with_name("sen4cap.csv").exists()
