"""fiboa as register and as predictions: GeoParquet with columns of fixed meaning."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from geopandas.testing import assert_geodataframe_equal

from geo.register.fiboa import CROP, FIBOA, VECOREL
from geo.register.reading import fiboa_columns, read_register
from pipeline.predictions.files import COLUMNS
from tests.builders.predictions import write_predictions
from tests.builders.registers import GRID, Run, pixels, simple

OLD = {"fiboa_version": "0.2.0", "fiboa_extensions": []}
NEW = {"schemas": {"x": [VECOREL, FIBOA, CROP]}, "collection": "x"}
CODES = ["110", "110", "0220", "0220", None]


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def fiboa(path, key="collection", about=NEW, **columns):
    """Write a file as fiboa's converters do: nested columns, a bounding box, ids as text."""
    register = simple(CODES).rename(columns={"ID_PARCEL": "id", "CODE": "crop:code"})
    register = register.assign(
        **{
            "determination:datetime": pd.Timestamp("2023-05-15", tz="UTC"),
            "category": [["administrative"]] * 5,
            **columns,
        }
    )
    register.to_parquet(path, index=False, write_covering_bbox=True)
    table = pq.read_table(path)
    metadata = {**table.schema.metadata, key.encode(): json.dumps(about).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


@pytest.mark.parametrize(("key", "about"), [("fiboa", OLD), ("collection", NEW)])
def test_ids_and_crops_need_no_settings(run, key, about):
    names = ["wheat", "wheat", "rape", None, None]
    path = fiboa(run.folder / "fields.parquet", key, about, **{"crop:name": names})
    run(path, classes={"min_parcels": 2})
    assert run.column("parcel_id") == ["p0", "p1", "p2", "p3", "p4"]
    assert run.column("code") == ["110", "110", "0220", "0220", ""]
    assert [(c["code"], c["name"]) for c in run.classes] == [("0220", "rape"), ("110", "wheat")]
    assert list(run.labels["crop"].values()) == CODES


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".fgb"])
def test_other_formats_are_known_by_their_columns(run, suffix):
    """GeoJSON of fiboa has its ids beside the properties."""
    register = simple(CODES).rename(columns={"ID_PARCEL": "id", "CODE": "crop:code"})
    register["determination:datetime"] = "2023-05-15T00:00:00Z"
    path = run.folder / f"fields{suffix}"
    if suffix == ".geojson":
        features = json.loads(register.to_crs("EPSG:4326").set_index("id").to_json())
        path.write_text(json.dumps(features | {"fiboa_version": "0.2.0"}))
    else:
        register.to_file(path)
    run(path, classes={"min_parcels": 2})
    assert sorted(run.column("parcel_id")) == ["p0", "p1", "p2", "p3", "p4"]
    codes = dict(zip(run.column("parcel_id"), run.column("code"), strict=True))
    assert list(map(codes.get, sorted(codes))) == ["110", "110", "0220", "0220", ""]


def test_settings_take_precedence(run):
    groups = list("aabbc")
    path = fiboa(run.folder / "fields.parquet", GROUP=groups, own=["v", "w", "x", "y", "z"])
    run(path, id="own", labels={"group": "GROUP"}, classes={"min_parcels": 2})
    assert run.column("parcel_id") == list("vwxyz")
    assert run.column("code") == groups


def test_a_file_without_crops_has_no_labels(run):
    path = fiboa(run.folder / "fields.parquet")
    table = pq.read_table(path).drop_columns(["crop:code"])
    pq.write_table(table, path)
    run(path)
    assert run.column("reason") == ["no_label"] * 5


def test_other_files_do_not_count_as_fiboa(tmp_path):
    simple(["A"]).to_parquet(tmp_path / "plain.parquet")
    simple(["A"]).to_file(tmp_path / "plain.gpkg")
    for name in ("plain.parquet", "plain.gpkg"):
        assert fiboa_columns(tmp_path / name, None) is None


def test_nested_columns_become_text(tmp_path):
    register = read_register(fiboa(tmp_path / "fields.parquet"))
    assert register["category"].tolist() == ['["administrative"]'] * 5
    assert "bbox" not in register
    register.to_file(tmp_path / "fields.gpkg", layer="parcels")
    assert len(read_register(tmp_path / "fields.gpkg")) == 5


def predictions():
    """Make predictions of four parcels: one mended, one without an outline, one not predicted."""
    bow_tie = simple(["A"]).geometry.iloc[0].reverse()
    bow_tie = type(bow_tie)([(500000, 4e6), (500020, 4000020), (500020, 4e6), (500000, 4000020)])
    rows = {
        "parcel_id": ["007", "b", "c", "d"],
        "status": ["used", "predict_only", "rejected", "rejected"],
        "declared_code": pd.array([12, None, 12, 3], "Int64"),
        "declared_name": ["blé", None, "blé", "maïs"],
        "pred_code": pd.array([12, 3, None, None], "Int64"),
        "pred_name": ["blé", "maïs", None, None],
        "confidence": [0.9, 0.6, np.nan, np.nan],
        "pred2_code": pd.array([3, 12, None, None], "Int64"),
        "pred2_name": ["maïs", "blé", None, None],
        "confidence2": [0.1, 0.4, np.nan, np.nan],
        "declared_probability": [0.9, np.nan, np.nan, np.nan],
        "verdict": ["CONFORM", None, None, None],
        "doubt_rank": pd.array([1, None, None, None], "Int64"),
        "n_pixels": pd.array([4, 2, 0, None], "Int64"),
        "n_dates": pd.array([5, 5, None, None], "Int64"),
        "pred_source": ["out_of_fold", "ensemble", "", ""],
        "prediction_set": ["12", "3 | 12", None, None],
        "set_size": pd.array([1, 2, None, None], "Int64"),
        "margin": [0.8, 0.2, np.nan, np.nan],
        "fold": pd.array([1, None, None, None], "Int64"),
        "tile": ["31TFM", "31TFM", "31TFM", None],
        "area_ha": [0.04, np.nan, 0.04, np.nan],
    }
    outlines = [pixels(0, 0, 2, 2), bow_tie, pixels(20, 0, 22, 2), None]
    return gpd.GeoDataFrame(rows, geometry=outlines, crs=GRID.crs).to_crs("EPSG:2154")


def write_fiboa(folder, parts, **options):
    folder.mkdir(exist_ok=True)
    return write_predictions(folder, parts, **options).with_name("parcels_fiboa.parquet")


@pytest.mark.parametrize("code_list", [None, "https://example.org/codes.csv"])
def test_predictions_follow_the_specification(tmp_path, code_list):
    table = predictions()
    path = write_fiboa(tmp_path, [table], code_list=code_list, simulated=True)
    schema = pq.read_schema(path)
    about = json.loads(schema.metadata[b"collection"])
    # Vecorel 0.1.0: schemas, id, collection and geometry are required, schemas lists the core one.
    assert about["collection"] == "demo"
    assert about["schemas"] == {"demo": [VECOREL, FIBOA] + [CROP] * (code_list is not None)}
    # The crop extension 0.2.0: crop:code_list and crop:code are required, as text.
    assert about.get("crop:code_list") == code_list
    assert about["determination:details"].startswith(
        "SIMULATED imagery and parcels. Outlines as in the register"
    )
    assert json.loads(schema.metadata[b"geo"])["version"] == "1.1.0"
    covering = json.loads(schema.metadata[b"geo"])["columns"]["geometry"]["covering"]["bbox"]
    assert covering["xmin"] == ["bbox", "xmin"]
    kinds = dict(zip(schema.names, map(str, schema.types), strict=True))
    assert [f.name for f in schema if not f.nullable] == [
        "id", *["crop:code"] * (code_list is not None), "geometry"
    ]  # fmt: skip
    assert kinds["determination:datetime"] == "timestamp[ms, tz=UTC]"
    assert {kinds["id"], kinds["crop:code"], kinds["crop:name"]} <= {"string", "large_string"}
    found = gpd.read_parquet(path)
    assert found["id"].tolist() == ["007", "b"]
    assert found["id"].is_unique
    assert found["crop:code"].tolist() == ["12", "3"]
    assert found["crop:name"].tolist() == ["blé", "maïs"]
    assert (found["determination:datetime"] == pd.Timestamp("2018-09-30", tz="UTC")).all()
    assert found.crs == table.crs
    assert found.geometry.is_valid.all()
    assert set(found.geom_type) <= {"Polygon", "MultiPolygon"}
    assert found.geometry.iloc[0].equals(table.geometry.iloc[0])
    assert set(COLUMNS) <= set(found.columns)
    boxes = pd.DataFrame(pq.read_table(path, columns=["bbox"]).column("bbox").to_pylist())
    np.testing.assert_allclose(boxes, found.geometry.bounds)
    np.testing.assert_allclose(found["metrics:area"], [400, np.nan])
    west = gpd.read_parquet(path, bbox=(*found.geometry.bounds.iloc[0, :2],) * 2)
    assert west["id"].tolist() == ["007"]


VALIDATE = """
import json, sys
from pathlib import Path
import pyproj, referencing
from vecorel_cli.encoding.geoparquet import GeoParquet
from vecorel_cli.validate import ValidateData
from vecorel_cli.validate_schema import ValidateSchema
path, folder, *urls = sys.argv[1:]
schemas = {url: Path(folder, name) for url, name in zip(urls[::2], urls[1::2])}
def projjson(url):
    if "projjson" not in url: raise ValueError(f"not at hand: {url}")
    text = Path(pyproj.datadir.get_data_dir(), "projjson.schema.json").read_text()
    return referencing.Resource.from_contents(json.loads(text))
ValidateSchema.retrieve_remote_schema = staticmethod(projjson)
at_hand = json.loads(Path(folder, "geoparquet-1.1.0.json").read_text())
GeoParquet.get_geoparquet_schema = lambda self: at_hand
result = ValidateData().validate(Path(path), num=None, schema_map=schemas)
sys.stdout.write(json.dumps([list(map(str, result.errors)), list(map(str, result.warnings))]))
"""
SCHEMAS = Path(__file__).parent / "fiboa_schemas"


def python_of_vecorel():
    """Find the interpreter that has vecorel-cli: this one, or that of the command `vec`."""
    command = shutil.which("vec")
    beside = Path(command).resolve().parent / "python" if command else sys.executable
    for python in (sys.executable, str(beside)):
        words = [python, "-c", "import vecorel_cli"]
        if subprocess.run(words, capture_output=True).returncode == 0:
            return python
    return None


@pytest.mark.slow
@pytest.mark.parametrize("code_list", [None, "https://example.org/codes.csv"])
def test_predictions_are_valid_for_vecorel_cli(tmp_path, code_list):
    """With the schemas at hand, because the validator would download them."""
    python = python_of_vecorel()
    if python is None:
        pytest.skip("vecorel-cli is not installed (pipx install vecorel-cli)")
    path = write_fiboa(tmp_path, [predictions()], code_list=code_list)
    schemas = [VECOREL, "vecorel.yaml", FIBOA, "fiboa.yaml", CROP, "crop.yaml"]
    words = [python, "-c", VALIDATE, str(path), str(SCHEMAS), *schemas]
    result = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [[], []]


def test_predictions_are_a_register_again(run):
    path = write_fiboa(run.folder, [predictions()])
    run(path, weights=run.folder)
    assert run.column("parcel_id") == ["007", "b"]
    assert run.column("code") == ["12", "3"]
    assert [c["name"] for c in run.classes] == ["blé", "maïs"]


def test_predicted_points_are_left_out(tmp_path):
    table = predictions()
    table.loc[0, "geometry"] = table.geometry.iloc[0].centroid
    assert gpd.read_parquet(write_fiboa(tmp_path, [table]))["id"].tolist() == ["b"]
    table = table[:1]
    assert gpd.read_parquet(write_fiboa(tmp_path, [table])).empty


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_parts_result_in_the_same_file(tmp_path, cut):
    """Even if a part has no prediction, or no names."""
    table = predictions()
    table.loc[0, "pred_name"] = None
    paths = [
        write_fiboa(tmp_path / "whole", [table]),
        write_fiboa(tmp_path / "parts", [table[:cut], table[cut:]]),
    ]
    whole, parts = map(pq.read_table, paths)
    assert parts.schema.remove_metadata() == whole.schema.remove_metadata()
    assert parts.equals(whole)
    for key in (b"geo", b"collection"):
        assert json.loads(parts.schema.metadata[key]) == json.loads(whole.schema.metadata[key])
    assert_geodataframe_equal(*map(gpd.read_parquet, paths))
