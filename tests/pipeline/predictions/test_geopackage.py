"""The GeoPackage: the layer of each row, and the styles in which QGIS draws the polygons."""

import errno
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from rasterio.warp import transform_bounds

from geo.grid import Grid
from geo.register import geopackage_contents
from geo.register.geopackage_contents import Style, Table
from geo.register.reading import read_register
from pipeline.evaluation.doubts import Verdict
from pipeline.predictions.columns import FIELDS, PREDICTED, with_register
from pipeline.predictions.layers import (
    ACQUISITION_FIELDS,
    TILE_FIELDS,
    describe_run,
    further_tables,
)
from pipeline.predictions.styles import (
    SET_COLOURS,
    VERDICT_COLOURS,
    VIRIDIS,
    style_by_class,
    style_by_confidence,
    style_of_extents,
)
from pipeline.report.class_colours import SHARED, UNPREDICTED, class_colours
from pipeline.workflow.acquisition_table import AcquisitionRow, write_acquisitions
from tests.builders.predictions import CLASSES, write_predictions

SQUARE = shapely.box(0, 0, 30, 30)
LINE, POINT = shapely.LineString([(0, 0), (9, 9)]), shapely.Point(-50, 5)
TWO = shapely.multipolygons([SQUARE, shapely.box(50, 0, 60, 10)])
# {name: (outline of the row, outline in the layer of polygons; "" if the other layer has the row)}
OUTLINES = {
    "polygon": (SQUARE, SQUARE),
    "multipolygon": (TWO, TWO),
    "point": (POINT, ""),
    "line": (LINE, ""),
    "nothing": (None, None),
    "empty polygon": (shapely.Polygon(), shapely.Polygon()),
    "empty point": (shapely.Point(), ""),
    "collection of others": (shapely.GeometryCollection([POINT, LINE]), ""),
    "collection with a polygon": (shapely.GeometryCollection([POINT, SQUARE]), SQUARE),
    "empty collection": (shapely.GeometryCollection(), ""),
}


def rows_of(names, outlines, classes=CLASSES):
    """Make rows of predictions: polygons have a predicted class, the classes in turn."""
    n, codes = len(names), list(classes)
    predicted = [isinstance(o, shapely.Polygon | shapely.MultiPolygon) for o in outlines]
    codes = pd.Series([codes[i % len(codes)] if p else None for i, p in enumerate(predicted)])
    columns = {
        "parcel_id": pd.Series(names, dtype="str"),
        "status": np.where(predicted, "used", "rejected"),
        "declared_code": codes,
        "declared_name": codes,
        "pred_code": codes,
        "pred_name": codes.map({code: name for code, (name, _) in classes.items()}),
        "confidence": np.where(predicted, np.linspace(0.3, 1, n), np.nan),
        "pred2_code": codes,
        "pred2_name": codes,
        "confidence2": np.where(predicted, 0.1, np.nan),
        "declared_probability": np.where(predicted, 0.9, np.nan),
        "verdict": pd.Series(["CONFLICT" if p else None for p in predicted], dtype="str"),
        "doubt_rank": pd.array([i if p else None for i, p in enumerate(predicted)], "Int64"),
        "n_pixels": pd.array([1] * n, dtype="Int64"),
        "n_dates": pd.array([1] * n, dtype="Int64"),
        "pred_source": np.where(predicted, "ensemble", ""),
        "reason": "",
        "prediction_set": codes,
        "set_size": pd.array([i % 6 if p else None for i, p in enumerate(predicted)], "Int64"),
        "margin": np.where(predicted, 0.2, np.nan),
        "fold": pd.array([1 if p else None for p in predicted], "Int64"),
        "tile": "31TFM",
        "area_ha": np.where(predicted, 0.09, np.nan),
    }
    return gpd.GeoDataFrame(columns, geometry=list(outlines), crs="EPSG:32631")


def write(folder, rows, n_rows=100, **options):
    parts = [rows[first : first + n_rows] for first in range(0, len(rows), n_rows)]
    return write_predictions(folder, parts, **options)


def named(*names):
    return rows_of(names, [OUTLINES[name][0] for name in names])


def table(path, query):
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(query)]


@pytest.mark.parametrize("n_rows", [1, 3, 100])
@pytest.mark.parametrize("order", [1, -1])
def test_every_row_is_in_one_layer_and_the_first_layer_has_the_polygons(tmp_path, n_rows, order):
    names = list(OUTLINES)[::order]
    path = write(tmp_path, named(*names), n_rows)
    layers = dict(pyogrio.list_layers(path))
    assert layers == {
        "parcels": "MultiPolygon", "parcels_not_polygons": "Unknown", "rejected": "MultiPolygon",
        "layer_styles": None,
    }  # fmt: skip
    assert next(iter(layers)) == "parcels"
    main = gpd.read_file(path, layer="parcels")
    expected = {name: OUTLINES[name][1] for name in names if OUTLINES[name][1] != ""}
    assert main["parcel_id"].tolist() == list(expected)
    for found, outline in zip(main.geometry, expected.values(), strict=True):
        assert (found is None) == (outline is None)
        assert outline is None or found.equals(outline)
    others = gpd.read_file(path, layer="parcels_not_polygons")
    assert others["parcel_id"].tolist() == [name for name in names if name not in expected]
    given = [OUTLINES[name][0] for name in others["parcel_id"]]
    assert shapely.equals(others.geometry.to_numpy(), given)[~others.is_empty].all()
    assert main.columns.tolist() == others.columns.tolist()
    about = {row["table_name"]: row["description"] for row in table(path, CONTENTS)}
    assert (
        f"{len(others)} rows are not polygons: see the layer parcels_not_polygons"
        in (about["parcels"])
    )


CONTENTS = "SELECT * FROM gpkg_contents"


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["polygon", "nothing"], "Polygon"),
        (["polygon", "multipolygon"], "MultiPolygon"),
        (["polygon", "collection with a polygon"], "MultiPolygon"),
        (["nothing", "nothing"], "Polygon"),
    ],
)
def test_polygons_alone_result_in_one_layer_of_one_type(tmp_path, names, kind):
    path = write(tmp_path, named(*names), 1)
    assert pyogrio.list_layers(path).tolist() == [
        ["parcels", kind], ["rejected", kind], ["layer_styles", None]
    ]  # fmt: skip
    assert len(pyogrio.read_dataframe(path, layer="parcels")) == 2
    assert "not polygons" not in table(path, CONTENTS)[0]["description"]


def symbols(path):
    """Return the type of the symbols of each layer's styles."""
    found = {}
    query = "SELECT f_table_name, styleQML FROM layer_styles WHERE f_table_name != 'rejected'"
    for row in table(path, query):
        kinds = set(re.findall(r'<symbol type="(\w+)"', row["styleQML"]))
        found.setdefault(row["f_table_name"], []).append(kinds)
    return found


@pytest.mark.parametrize("n_rows", [1, 100])
@pytest.mark.parametrize(
    ("second", "kind"),
    [(shapely.Point(3, 4), "Point"), (shapely.MultiPoint([(3, 4)]), "MultiPoint")],
)
def test_points_alone_stay_points_in_the_main_layer(tmp_path, n_rows, second, kind):
    path = write(
        tmp_path, rows_of(list("abcd"), [LINE, POINT, None, second]), n_rows, with_points=True
    )
    assert pyogrio.list_layers(path).tolist() == [
        ["parcels", kind], ["parcels_not_points", "Unknown"], ["rejected", kind],
        ["layer_styles", None],
    ]  # fmt: skip
    main = gpd.read_file(path, layer="parcels")
    assert main["parcel_id"].tolist() == ["b", "c", "d"]
    assert set(main.geom_type.dropna()) == {kind}
    assert main.geometry.centroid.tolist() == [POINT, None, shapely.Point(3, 4)]
    assert gpd.read_file(path, layer="parcels_not_points")["parcel_id"].tolist() == ["a"]
    assert "1 rows are not points" in table(path, CONTENTS)[0]["description"]
    assert symbols(path) == {"parcels": [{"marker"}] * 2}


@pytest.mark.parametrize("with_points", [True, False])
def test_predicted_points_beside_polygons_have_styles(tmp_path, with_points):
    path = write(tmp_path, named("polygon", "point"), with_points=with_points)
    points = {"parcels_not_polygons": [{"marker"}] * 2} if with_points else {}
    assert symbols(path) == {"parcels": [{"fill"}] * 2, **points}


def test_time_and_extent_are_those_of_the_rows(tmp_path):
    before = datetime.now(UTC) - timedelta(seconds=1)
    path = write(tmp_path, named(*OUTLINES), 3)
    rows = {row["table_name"]: row for row in table(path, CONTENTS)}
    for row in rows.values():
        assert before <= datetime.fromisoformat(row["last_change"]) <= datetime.now(UTC)
    assert rows["layer_styles"]["data_type"] == "attributes"
    for layer in ("parcels", "parcels_not_polygons"):
        bounds = [rows[layer][key] for key in ("min_x", "min_y", "max_x", "max_y")]
        assert bounds == gpd.read_file(path, layer=layer).total_bounds.tolist()
    (style, *_) = table(path, "SELECT * FROM layer_styles")
    assert before <= datetime.fromisoformat(style["update_time"]) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("simulated", "verdicts", "sets"),
    [(True, False, True), (False, True, False), (True, True, True)],
)
def test_the_styles_are_in_the_table_that_qgis_reads(tmp_path, simulated, verdicts, sets):
    rows = named("polygon", "point")
    options = {"simulated": simulated, "with_verdicts": verdicts, "with_sets": sets}
    path = write(tmp_path, rows, **options)
    styles = table(path, "SELECT * FROM layer_styles WHERE f_table_name = 'parcels' ORDER BY id")
    assert list(styles[0]) == [
        *("id", "f_table_catalog", "f_table_schema", "f_table_name", "f_geometry_column"),
        *("styleName", "styleQML", "styleSLD", "useAsDefault", "description", "owner", "ui"),
        "update_time",
    ]
    (geometry,) = table(
        path, "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = 'parcels'"
    )
    names = ["Predicted class", "Confidence", *["Verdict"] * verdicts, *["Set size"] * sets]
    assert [style["styleName"].split(",")[0] for style in styles] == names
    if verdicts:
        renderer = ElementTree.fromstring(styles[2]["styleQML"]).find("renderer-v2")  # noqa: S314
        assert renderer.get("attr") == "verdict"
        values = [category.get("value") for category in renderer.iter("category")]
        assert values == [*reversed(Verdict), ""]
    for i, style in enumerate(styles):
        assert (style["f_table_catalog"], style["f_table_schema"]) == ("", "")
        assert style["f_table_name"] == "parcels"
        assert style["f_geometry_column"] == geometry["column_name"]
        assert style["useAsDefault"] == (i == 0)
        assert len(style["styleName"]) <= 30
        for text in (style["styleName"], style["description"]):
            assert ("SIMULATED" in text) == simulated
    for row in table(path, CONTENTS)[:3]:
        assert ("SIMULATED" in row["description"]) == simulated


@pytest.mark.parametrize("names", [["polygon", "nothing"], list(OUTLINES), ["point", "line"]])
def test_rejected_rows_are_shown_by_a_view(tmp_path, names):
    """The oracle selects rows in pandas; only those of the main layer have outlines."""
    rows = named(*names).assign(**{"ogc_fid": 7, 'a"b': names, "reason": "no_pixels"})
    path = write(tmp_path, rows, 3, rejected=["no_pixels"])
    layers = [gpd.read_file(path, layer=layer) for layer, _ in pyogrio.list_layers(path)
              if layer.startswith("parcels")]  # fmt: skip
    layers[1:] = [others.assign(geometry=None) for others in layers[1:]]
    expected = pd.concat(layers, ignore_index=True)
    expected = expected[expected["status"] == "rejected"].reset_index(drop=True)
    found = gpd.read_file(path, layer="rejected")
    left_out = [name for name in [*PREDICTED, "ogc_fid"] if name in expected]
    expected = expected.drop(columns=left_out)
    assert found.geometry.geom_equals(expected.geometry).equals(~expected.geometry.isna())
    assert found.geometry.isna().equals(expected.geometry.isna())
    own, others = (pd.DataFrame(t.drop(columns="geometry")).astype(str) for t in (found, expected))
    pd.testing.assert_frame_equal(own.replace("None", "nan"), others.replace("None", "nan"))
    assert found['a"b'].tolist() == found["parcel_id"].tolist()
    ids = pyogrio.read_dataframe(path, layer="rejected", fid_as_index=True).index
    assert ids.is_unique
    # The specification requires it (150).
    assert table(path, "PRAGMA table_info(rejected)")[0]["type"] == "INTEGER"
    plan = table(path, 'EXPLAIN QUERY PLAN SELECT * FROM "rejected"')
    assert all("USING INDEX" in row["detail"] for row in plan if "parcels" in row["detail"])
    (style,) = table(path, "SELECT * FROM layer_styles WHERE f_table_name = 'rejected'")
    assert 'label="without pixels or dates in the dataset"' in style["styleQML"]


def test_a_full_disk_is_an_error_of_the_disk(tmp_path, monkeypatch):
    """The command then says to free space. SQLite does as if the disk were full."""
    opened = sqlite3.connect

    def full(path):
        database = opened(path)
        database.execute("PRAGMA max_page_count = 1")  # no more than it has
        return database

    monkeypatch.setattr(geopackage_contents.sqlite3, "connect", full)
    with pytest.raises(OSError, match=r"No space left on device.*\.gpkg") as error:
        write(tmp_path, named("polygon", "point"))
    assert error.value.errno == errno.ENOSPC
    assert not list(tmp_path.glob("*.gpkg"))


def test_columns_have_titles_and_meanings(tmp_path):
    """In the tables of the specification, and in the styles for older versions of QGIS."""
    path = write(tmp_path, named("polygon", "point"))
    rows = table(path, "SELECT * FROM gpkg_data_columns")
    for layer in ("parcels", "parcels_not_polygons", "rejected"):
        columns = gpd.read_file(path, layer=layer).columns
        own = {row["column_name"]: row for row in rows if row["table_name"] == layer}
        assert list(own) == [name for name in columns if name in FIELDS]
        for name, row in own.items():
            assert (row["title"], row["name"]) == (FIELDS[name].title,) * 2
            assert row["description"] == FIELDS[name].description
    assert {row["table_name"] for row in table(path, "SELECT * FROM gpkg_extensions")} >= {
        "gpkg_data_columns", "gpkg_data_column_constraints"
    }  # fmt: skip
    (style, *_) = table(path, "SELECT * FROM layer_styles")
    root = ElementTree.fromstring(style["styleQML"])  # noqa: S314
    aliases = {alias.get("field"): alias.get("name") for alias in root.iter("alias")}
    assert aliases == {name: field.title for name, field in FIELDS.items()}
    assert len({field.title for field in FIELDS.values()}) == len(FIELDS)


def test_the_layer_says_what_made_it(tmp_path):
    dates = [date(2021, 3, 1), date(2021, 3, 11)]
    about = describe_run("my run", "pseltae", 5, dates, "parcelwise 1 (commit a)", simulated=True)
    path = write(tmp_path, named("polygon"), about=about, simulated=True)
    info = pyogrio.read_info(path, layer="parcels")["layer_metadata"]
    description = info.pop("DESCRIPTION")
    assert info == about == {
        "run": "my run", "model": "pseltae, 5 folds", "imagery": "SIMULATED",
        "dates": "2, 2021-03-01 to 2021-03-11", "software": "parcelwise 1 (commit a)",
    }  # fmt: skip
    assert "(run: my run; model: pseltae, 5 folds; " in description
    assert [file.name for file in tmp_path.iterdir() if "aux" in file.name] == []


def test_tiles_and_acquisitions_are_tables(tmp_path):
    """The extent of a tile equals that of rasterio, which densifies edges, too."""
    tiles = {
        "31TFM": Grid("EPSG:32631", 600000, 5200020, 10, 10, 10980, 10980),
        "32TLS": Grid("EPSG:32632", 300000, 5200020, 10, 10, 10980, 10980),
    }
    (tmp_path / "grids.json").write_text(json.dumps({t: asdict(g) for t, g in tiles.items()}))
    days = [date(2021, 3, 1), date(2021, 3, 1), date(2021, 3, 11), date(2021, 4, 1)]
    rows = [
        AcquisitionRow(f"a{i}", "31TFM", day, Path(f"/data/S2A_{i}.SAFE"), "safe", used=i != 3)
        for i, day in enumerate(days)
    ]
    write_acquisitions(tmp_path / "acquisitions.json", rows)
    files = tmp_path / "grids.json", tmp_path / "acquisitions.json"
    tables = further_tables(*files, pd.Series(["31TFM"] * 3), simulated=True)
    path = write(tmp_path, named("polygon"), tables=tables)
    found = pyogrio.read_dataframe(path, layer="tiles").set_index("tile")
    assert found.crs == "EPSG:32631"  # of the parcels
    for tile, grid in tiles.items():
        bounds = transform_bounds(grid.crs, "EPSG:32631", *grid.bounds, densify_pts=19)
        np.testing.assert_allclose(found.geometry[tile].bounds, bounds, atol=0.01)
    values = found.drop(columns=["geometry", "crs", "pixel_m"]).astype(object)
    assert values.loc["31TFM"].tolist() == [
        3, 3, 2, pd.Timestamp("2021-03-01"), pd.Timestamp("2021-03-11")
    ]  # fmt: skip
    assert values.loc["32TLS"].tolist()[:3] == [0, 0, 0]
    assert values.loc["32TLS"].isna().sum() == 2
    listed = pyogrio.read_dataframe(path, layer="acquisitions")
    assert listed["product"].tolist() == [f"S2A_{i}.SAFE" for i in range(4)]
    assert listed["date"].dt.date.tolist() == days
    assert listed["used"].tolist() == [True, True, True, False]
    assert list(listed) == list(ACQUISITION_FIELDS)
    kinds = {row["table_name"]: row["data_type"] for row in table(path, CONTENTS)}
    assert kinds["acquisitions"] == "attributes"
    # Predictions are a register again: their parcels are read.
    assert read_register(path)["parcel_id"].tolist() == ["polygon"]


STRANGE = {
    "numbers": {str(i): f"class {i}" for i in (3, 12, -1)},
    "marks": {"<&>": "a < b & c", '"q"': 'it\'s "so"', "a b": "ends ", "ü": "Rübe", "]]>": "]]>"},
    "sixty": {f"c{i}": f"class {i}" for i in range(60)},
    "same name": {"A": "crop", "B": "crop"},
    "unwritable": {"a\x01b": "bell\x07", "c": "null\x00", "d": "\ufffe"},
    "line breaks": {"a\nb": "two\nlines", "t\tt": "tab\tbed"},
    "one": {"A": "all"},
}


@pytest.mark.parametrize("name", STRANGE)
def test_every_class_has_a_category_and_one_is_for_no_prediction(name):
    colours = class_colours(dict.fromkeys(STRANGE[name], 1))
    classes = {code: (text, colours[code]) for code, text in STRANGE[name].items()}
    root = ElementTree.fromstring(style_by_class(classes))  # noqa: S314
    renderer = root.find("renderer-v2")
    assert (root.tag, renderer.get("type")) == ("qgis", "categorizedSymbol")
    fills = {
        symbol.get("name"): symbol.find("layer/prop[@k='color']").get("v")
        for symbol in renderer.iter("symbol")
    }
    shown = [
        (c.get("value"), c.get("label"), fills[c.get("symbol")]) for c in renderer.iter("category")
    ]
    rgb = {c: ",".join(map(str, bytes.fromhex(c[1:]))) + ",255" for c in colours.values()}
    texts = [(code, text, rgb[colour]) for code, (text, colour) in classes.items()]
    if name == "unwritable":
        assert "regexp_replace" in renderer.get("attr")
        texts = [("a\ufffdb", "bell\ufffd"), ("c", "null\ufffd"), ("d", "\ufffd")]
        assert [row[:2] for row in shown[:-1]] == texts
    else:
        assert renderer.get("attr") == "pred_code"
        assert shown[:-1] == texts
    assert shown[-1] == ("", "no prediction", "195,200,205,255")
    assert (SHARED in colours.values()) == (name == "sixty")


def lightness(colour):
    """Return CIE L*: equal differences look equal."""
    linear = [(v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4)
              for v in bytes.fromhex(colour[1:])]  # fmt: skip
    y = float(np.dot([0.2126, 0.7152, 0.0722], linear))
    return 116 * y ** (1 / 3) - 16


def test_the_steps_of_confidence_cover_0_to_1_and_look_equal():
    renderer = ElementTree.fromstring(style_by_confidence()).find("renderer-v2")  # noqa: S314
    assert renderer.get("type") == "graduatedSymbol"
    steps = [tuple(float(r.get(k)) for k in ("lower", "upper")) for r in renderer.iter("range")]
    assert steps[0] == (-1, -1)  # no prediction
    assert steps[1][0] == 0
    assert steps[-1][1] == 1
    assert all(a[1] == b[0] for a, b in pairwise(steps[1:]))
    assert len(steps) == 1 + len(VIRIDIS)
    rise = np.diff([lightness(colour) for colour in VIRIDIS])
    assert (rise > 0).all()
    assert rise.max() < 1.5 * rise.min()


# Load layers as a user does, apply every style of theirs, and draw them. Printed by layer: the
# titles of its columns and, by style, {parcel: [colour of the symbol, colour in the image]}.
QGIS = """
import json, os, sys
os.environ["QT_QPA_PLATFORM"] = "offscreen"
from qgis.core import *
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor
from qgis.PyQt.QtXml import QDomDocument
QgsApplication.setPrefixPath("/usr", True)
app = QgsApplication([], False)
app.initQgis()
path, names = sys.argv[1], sys.argv[2:]
opened = QgsVectorLayer(path, "x", "ogr")
listed = opened.dataProvider().subLayers()
found = {"sublayers": [text.split("!!::!!")[1:4:2] for text in listed]}

def draw(layer):
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setOutputSize(QSize(600, 600))
    settings.setBackgroundColor(QColor("white"))
    settings.setDestinationCrs(layer.crs())
    extent = layer.extent()
    extent.scale(1.1)
    settings.setExtent(extent)
    settings.setFlag(QgsMapSettings.Antialiasing, False)
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    return job.renderedImage(), settings.mapToPixel()

def colours(layer):
    image, to_pixel = draw(layer)
    renderer = layer.renderer()
    context = QgsRenderContext.fromMapSettings(QgsMapSettings())
    renderer.startRender(context, layer.fields())
    shown = {}
    for feature in layer.getFeatures():
        context.expressionContext().setFeature(feature)
        symbol = renderer.symbolForFeature(feature, context)
        seen = None
        if feature.hasGeometry() and not feature.geometry().isEmpty():
            inside = feature.geometry().pointOnSurface().asPoint()
            pixel = to_pixel.transform(inside)
            seen = image.pixelColor(int(pixel.x()), int(pixel.y())).name()
        shown[feature.attributes()[1]] = [symbol and symbol.color().name(), seen]
    return shown

for name in names:
    layer = QgsVectorLayer(f"{path}|layername={name}", name, "ogr")
    about = found[name] = {"styles": {}}
    _, about["default"] = layer.loadDefaultStyle()
    about["titles"] = {f.name(): layer.attributeAlias(i) for i, f in enumerate(layer.fields())}
    if not layer.isSpatial():
        continue
    about["by default"] = colours(layer)
    n_own, ids, styles, _, _ = layer.listStylesInDatabase()
    for key, style in list(zip(ids, styles))[:n_own]:
        document = QDomDocument()
        document.setContent(layer.getStyleFromDatabase(key)[0])
        layer.importNamedStyle(document)
        about["styles"][style] = colours(layer)
sys.stdout.write(json.dumps(found))
sys.stdout.flush()
os._exit(0)
"""


def python_of_qgis():
    """Find an interpreter that imports QGIS: the system's, as Debian's python3-qgis installs it."""
    for python in (sys.executable, "/usr/bin/python3"):
        if shutil.which(python):
            words = [python, "-c", "import qgis.core"]
            if subprocess.run(words, capture_output=True).returncode == 0:
                return python
    return None


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_qgis_draws_every_row_in_its_colour(tmp_path, whole):
    """With codes as numbers, and as text, some of which XML cannot contain."""
    python = python_of_qgis()
    if python is None:
        pytest.skip("QGIS is not installed (Debian: python3-qgis and qgis-providers)")
    codes = ["7", "12", "3"] if whole else ['<"&', "a\x01b", "ü"]
    colours = class_colours(dict.fromkeys(codes, 1))
    classes = {code: (f"class of {code}", colours[code]) for code in codes}
    names = [f"p{i}" for i in range(8)]
    squares = [shapely.box(40 * i, 0, 40 * i + 30, 30) for i in range(5)]
    outlines = [*squares, shapely.transform(TWO, lambda xy: xy + np.array([0, 50])), None, POINT]
    rows = rows_of(names, outlines, classes)
    rows.loc[4, ["pred_code", "pred_name", "confidence", "pred_source"]] = [None, None, np.nan, ""]
    rows["confidence"] = [0.1, 0.55, 0.75, 0.999, np.nan, 1.0, np.nan, np.nan]
    if whole:
        for column in ("declared_code", "pred_code", "pred2_code"):
            rows[column] = pd.to_numeric(rows[column]).astype("Int64")
    rows["verdict"] = ["CONFLICT", "DOUBT", "CONFORM", None, None, "CONFORM", None, None]
    rows["set_size"] = pd.array([1, 0, 7, 3, None, 2, None, None], "Int64")
    rows.loc[[4, 6, 7], ["status", "reason"]] = [
        ["rejected", "too_few_pixels"], ["rejected", "null_geometry"], ["rejected", "not_a_polygon"]
    ]  # fmt: skip
    tile = gpd.GeoDataFrame({"tile": ["T"]}, geometry=[shapely.box(-99, -99, 99, 99)], crs=32631)
    extent = Style("Extent", "", style_of_extents(TILE_FIELDS))
    path = write(
        tmp_path, rows, classes=classes, with_verdicts=True, with_sets=True,
        rejected=["too_few_pixels", "null_geometry", "not_a_polygon"],
        tables=[Table("tiles", "", tile, TILE_FIELDS, [extent])],
    )  # fmt: skip
    script = tmp_path / "look.py"
    script.write_text(QGIS)
    layers = ["parcels", "rejected", "tiles"]
    result = subprocess.run(
        [python, str(script), str(path), *layers], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert [name for name, _ in found["sublayers"]] == [
        "parcels", "parcels_not_polygons", "tiles", "rejected"
    ]  # fmt: skip
    assert all(found[layer]["default"] for layer in layers)
    for name, title in found["parcels"]["titles"].items():
        assert title == (FIELDS[name].title if name in FIELDS else "")
    assert found["rejected"]["titles"]["area_ha"] == "Area (ha)"
    assert found["tiles"]["titles"]["tile"] == "Tile"

    predicted = [classes[str(code)][1] if pd.notna(code) else UNPREDICTED
                 for code in rows["pred_code"][:7]]  # fmt: skip
    steps = [0, 1, 2, 6, None, 6, None]
    confidence = [UNPREDICTED if step is None else VIRIDIS[step] for step in steps]
    verdicts = [VERDICT_COLOURS[verdict or ""][1] for verdict in
                ("CONFLICT", "DOUBT", "CONFORM", "", "", "CONFORM", "")]  # fmt: skip
    sizes = [SET_COLOURS[size][1] for size in ("1", "0", "4", "3", "", "2", "")]
    styles = found["parcels"]["styles"]
    assert list(styles) == ["Predicted class", "Confidence", "Verdict", "Set size"]
    assert found["parcels"]["by default"] == styles["Predicted class"]
    expected = predicted, confidence, verdicts, sizes
    for (style, shown), colours in zip(styles.items(), expected, strict=True):
        symbols, drawn = zip(*shown.values(), strict=True)
        assert list(symbols) == colours, style
        assert list(drawn) == [*colours[:6], None], style  # the last one has no outline
    reasons = class_colours({"too_few_pixels": 1, "null_geometry": 1, "not_a_polygon": 1})
    shown = found["rejected"]["by default"]
    assert {name: symbol for name, (symbol, _) in shown.items()} == {
        "p4": reasons["too_few_pixels"],
        "p6": reasons["null_geometry"],
        "p7": reasons["not_a_polygon"],
    }
    assert shown["p4"][1] in (reasons["too_few_pixels"], "#ffffff")  # hatched
    # Tiles are drawn as lines: what lies below is seen.
    assert found["tiles"]["by default"]["T"][1] == "#ffffff"


REGISTER = {
    # column of the register: (values, name in the predictions)
    "CODE": (["x", "y"], "CODE"),
    "Code": (["a", None], "register_Code"),
    "code": (["b", "b"], "register_code_2"),
    "register_Code": ([1, 2], "register_register_Code"),
    "geom": (["POINT (0 0)", "text"], "register_geom"),
    "fid": ([7, 7], "register_fid"),
    "Reason": (["own", "own"], "register_Reason"),
    "grown": (pd.to_timedelta(["1 days", None]), "grown"),
}


def test_columns_of_the_register_that_a_geopackage_cannot_store_are_renamed_or_text(tmp_path):
    own = {name: values for name, (values, _) in REGISTER.items()}
    register = gpd.GeoDataFrame(own, geometry=[SQUARE, TWO], crs=32631)
    rows = rows_of(["p1", "p2"], register.geometry)
    part = with_register(pd.DataFrame(rows.drop(columns="geometry")), register)
    path = write_predictions(tmp_path, [part.iloc[:1], part.iloc[1:]])
    layer = gpd.read_file(path, layer="parcels")
    table = pd.read_parquet(path.with_suffix(".parquet"))
    names = [name for _, name in REGISTER.values()]
    for found in (layer, table):
        assert [name for name in found.columns if name in names] == names
        assert found["register_Code"].iloc[0] == "a"
        assert found["register_code_2"].tolist() == ["b", "b"]
        assert found["reason"].iloc[0] == ""
        assert found["grown"].iloc[0] == "1 days 00:00:00"
    assert layer.geometry.iloc[1].equals(TWO)
