"""The tiles, legends, index and picture of the map, and the page in a browser."""

import base64
import io
import json
import socket
import threading
from itertools import pairwise

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from matplotlib.image import imread
from shapely.geometry import LineString, Point, box

import geo.register.sources  # noqa: F401 (it takes drivers from GDAL for the whole process)
import pipeline.report.map
from geo.errors import InputError
from geo.register import vector_tiles
from geo.register.vector_tiles import MERCATOR, _drivers_of_tiles
from pipeline.classes.crop_class import CropClass
from pipeline.classes.reasons import Status
from pipeline.command_line import main
from pipeline.report.class_colours import class_colours
from pipeline.report.map import draw_map
from pipeline.report.serve import make_server, report_of
from pipeline.report.templates import template
from pipeline.workflow.paths import RunPaths
from tests.builders.browser import CHROMIUM, run_in_browser

CODES = ("BTH", "MIS", "PPH")
NAMES = ("winter wheat", "maize", "</script><b>grass</b>")
CLASSES = [CropClass(c, n, 9, i) for i, (c, n) in enumerate(zip(CODES, NAMES, strict=True))]
COLOURS = class_colours(dict.fromkeys(CODES, 9))
# Ids in no order, some of them hostile: JavaScript compares the last two otherwise than Python.
HOSTILE = ["</script><script>boom()</script>", "a\u2028b'\"\\", "x" * 1000, "\uffee", "\U0001f33e"]
N = 40


def make_table(n=N):
    """A grid of squares of 90 m, 100 m apart: rows 0 to 3 are hostile, the last is rejected."""
    rng = np.random.default_rng(3)
    declared, predicted = rng.integers(0, 3, n), rng.integers(0, 3, n)
    confidence = np.round(rng.uniform(0.4, 1, n), 4)
    rejected = np.arange(n) == n - 1
    names = np.array(NAMES, object)
    table = pd.DataFrame(
        {
            "parcel_id": [*HOSTILE, *(f"{i:05}" for i in range(n - len(HOSTILE)))],
            "status": np.where(rejected, "rejected", "used"),
            "declared_code": np.array(CODES, object)[declared],
            "declared_name": names[declared],
            "pred_code": np.array(CODES, object)[predicted],
            "pred_name": names[predicted],
            "confidence": confidence,
            "pred2_code": np.array(CODES, object)[(predicted + 1) % 3],
            "confidence2": np.round(1 - confidence, 4),
            "prediction_set": "BTH | PPH",
            "declared_probability": np.where(declared == predicted, confidence, 0.001),
            "verdict": np.where(declared == predicted, "CONFORM", "CONFLICT"),
            "doubt_rank": pd.array(np.arange(1, n + 1), "Int64"),
            "pred_source": "out_of_fold",
            "reason": "",
        }
    )
    given = ["pred_code", "pred_name", "pred2_code", "prediction_set", "verdict", "pred_source"]
    table.loc[rejected, given] = None
    table.loc[rejected, ["confidence", "confidence2", "declared_probability", "doubt_rank"]] = None
    table.loc[rejected, "reason"] = "too_small"
    table.loc[1, ["declared_code", "declared_name", "reason"]] = [
        "LUZ",
        "alfalfa",
        "class_too_rare",
    ]
    table.loc[2, ["declared_code", "declared_name", "reason"]] = [None, None, "no_label"]
    x, y = 5e5 + 100 * (np.arange(n) % 8), 48e5 + 100 * (np.arange(n) // 8)
    outlines = shapely.box(x, y, x + 90, y + 90)
    return geopandas.GeoDataFrame(table, geometry=outlines, crs="EPSG:32631")


def write(folder, *tables):
    """Write layers of predictions, and the table of all rows; return the paths of the run."""
    paths = RunPaths(folder / "run")
    paths.predictions.parent.mkdir(parents=True)
    for table, name in zip(tables, ("parcels", "parcels_not_polygons"), strict=False):
        table.to_crs("EPSG:2154").to_file(paths.predictions, layer=name)
    return paths


def draw(paths, *tables):
    texts = pd.concat(tables).drop(columns="geometry")
    for text in texts.columns.difference(pipeline.report.map.NUMBERS):
        texts[text] = texts[text].fillna("")
    return draw_map(paths, texts, CLASSES, COLOURS)


def read_tiles(path):
    """Return the parcels of the deepest tiles, whole again, by row."""
    with _drivers_of_tiles():
        pieces = pyogrio.read_dataframe(path, layer="parcels").set_crs(MERCATOR)
    return pieces.dissolve("row", aggfunc="first", grid_size=None).to_crs("EPSG:32631")


@pytest.fixture(scope="module")
def table():
    return make_table()


@pytest.fixture(scope="module")
def run(tmp_path_factory, table):
    """A run with its map, for tests that do not change it."""
    paths = write(tmp_path_factory.mktemp("map"), table)
    return paths, draw(paths, table)


def test_the_tiles_have_every_parcel_with_its_outline_and_attributes(run, table):
    paths, drawn = run
    found = read_tiles(paths.map_tiles)
    assert found["parcel_id"].tolist() == table["parcel_id"].tolist()
    # GDAL clips to tiles, and a unit of a tile is 1.2 m in the web map.
    difference = found.geometry.to_numpy() ^ table.geometry.to_numpy()
    assert shapely.area(difference).max() < 4 * 90 * 1.0
    legends = {legend.name: legend.entries for legend in drawn.legends}
    for name, column in (("predicted", "pred_code"), ("declared", "declared_code")):
        values = [legends[name][i].value for i in found[name]]
        assert values == table[column].fillna("").tolist()
    verdicts = [legends["verdict"][i].value for i in found["verdict"]]
    assert verdicts == table["verdict"].fillna("").tolist()
    for share in ("confidence", "confidence2", "declared_probability"):
        np.testing.assert_allclose(found[share] / 10_000, table[share], atol=1e-9)
    second = [legends["predicted"][int(i)].value for i in found["second"].dropna()]
    assert second == table["pred2_code"].dropna().tolist()
    assert found["doubt_rank"].iloc[:-1].tolist() == table["doubt_rank"].iloc[:-1].tolist()
    assert found["reason"].tolist() == table["reason"].tolist()


def test_the_legends_count_the_parcels(run, table):
    _, drawn = run
    counted = {
        legend.name: {
            e.value: n for e, n in zip(legend.entries, legend.counts.tolist(), strict=True) if n
        }
        for legend in drawn.legends
    }
    for name, column in (
        ("predicted", "pred_code"),
        ("declared", "declared_code"),
        ("verdict", "verdict"),
    ):
        assert counted[name] == table[column].fillna("").value_counts().to_dict()
    same = (table["pred_code"] == table["declared_code"])[:-1]
    assert counted["agreement"] == {"same": same.sum(), "differs": (~same).sum(), "unpredicted": 1}
    groups = pd.cut(table["confidence"], [0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1], right=False)
    codes = groups.cat.codes.astype(str).replace("-1", "").value_counts().to_dict()
    assert counted["certainty"] == codes


def test_the_index_finds_every_parcel_by_id(run, table):
    paths, drawn = run
    lines = paths.map_ids.read_bytes().splitlines(keepends=True)
    blocks = drawn.data["blocks"]
    assert [start for _, start in blocks] == np.cumsum([0, *map(len, lines)]).tolist()
    rows = json.loads(b"".join(lines))
    assert [row[0] for row in rows][-2:] == ["\U0001f33e", "\uffee"]
    degrees = table.to_crs("EPSG:4326").set_index("parcel_id").geometry
    for parcel_id, lon, lat, size in rows:
        assert degrees[parcel_id].contains(Point(lon, lat))
        assert size == pytest.approx(90 / np.cos(np.radians(43.35)), abs=2)


def test_ids_fill_several_blocks(tmp_path, monkeypatch, table):
    monkeypatch.setattr(pipeline.report.map, "IDS_IN_BLOCK", 7)
    paths = write(tmp_path, table)
    blocks = draw(paths, table).data["blocks"]
    content = paths.map_ids.read_bytes()
    parts = [content[a:b] for (_, a), (_, b) in pairwise(blocks)]
    assert [json.loads(p)[0][0] for p in parts] == [first for first, _ in blocks[:-1]]
    assert sum(len(json.loads(p)) for p in parts) == N


def test_the_picture_has_the_colours_of_the_classes(run, table):
    _, drawn = run
    image = imread(io.BytesIO(base64.b64decode(drawn.picture.partition(",")[2])))
    width, height = drawn.size
    assert image.shape[:2] == (height, width)
    west, south, east, north = drawn.data["bounds"]
    low, high = geopandas.points_from_xy([west, east], [south, north], crs=4326).to_crs(MERCATOR)
    for code, outline in zip(table["pred_code"], table.to_crs(MERCATOR).geometry, strict=True):
        x = int((outline.centroid.x - low.x) / (high.x - low.x) * width)
        y = int((high.y - outline.centroid.y) / (high.y - low.y) * height)
        found = "#" + bytes((255 * image[y, x, :3]).round().astype(np.uint8)).hex()
        assert found == COLOURS.get(code, "#c3c8cd")
    assert image[0, 0, 3] == 0


def test_points_lines_and_rejected_rows(tmp_path, table):
    """Points that were not rejected are drawn; rejected outlines are cut to the others' bounds."""
    table = table.copy()
    table["geometry"] = [
        *table.geometry[:-2],
        None,
        box(4.5e5, 47.5e5, 5.5e5, 48.003e5),  # rejected, and much larger than the map
    ]
    table.loc[table.index[-2], "status"] = "rejected"
    others = make_table(9)[5:]
    line = LineString([(5e5, 48e5), (51e4, 48e5)])
    others["geometry"] = [Point(500_900, 4_800_050)] * 2 + [line] * 2
    others["status"] = ["used", "rejected", "rejected", "rejected"]
    paths = write(tmp_path, table, others)
    drawn = draw(paths, table, others)
    assert drawn.n_beyond == 4
    west, south, east, north = (
        geopandas.GeoSeries([*table.geometry[:-2], others.geometry.iloc[0]], crs=32631)
        .to_crs(4326)
        .total_bounds
    )
    np.testing.assert_allclose(drawn.data["bounds"], [west, south, east, north], atol=2e-4)
    found = read_tiles(paths.map_tiles)
    assert found.geom_type.value_counts().to_dict() == {"Polygon": N - 1, "Point": 1}
    clipped = found.geometry[found["reason"] == "too_small"].area.item()
    assert 0 < clipped < 120_000
    image = imread(io.BytesIO(base64.b64decode(drawn.picture.partition(",")[2])))
    assert image[..., 3].any()


def test_parts_of_the_rows_make_the_same_map(tmp_path, monkeypatch, run, table):
    monkeypatch.setattr(pipeline.report.map, "ROWS_AT_A_TIME", 7)
    paths = write(tmp_path, table)
    drawn, whole = draw(paths, table), run[1]
    assert (drawn.data, drawn.picture, drawn.n_beyond) == (
        whole.data,
        whole.picture,
        whole.n_beyond,
    )
    for legend, expected in zip(drawn.legends, whole.legends, strict=True):
        assert legend.counts.tolist() == expected.counts.tolist()


def test_a_single_point_has_a_map(tmp_path):
    one = make_table(6)[:1]
    one["geometry"] = one.centroid
    drawn = draw(write(tmp_path, one), one)
    assert drawn.size == (1600, 1600)
    assert drawn.ruler[1] == "0.2 m" or drawn.ruler[1].endswith(" m")


def test_without_accepted_parcels_there_is_no_map(tmp_path):
    table = make_table(6).assign(status=str(Status.REJECTED))
    paths = write(tmp_path, table)
    assert draw(paths, table) is None
    assert [path.stat().st_size for path in paths.map_files] == [0, 0]


def test_a_geopackage_with_fewer_rows_than_its_table_is_refused(tmp_path, table):
    paths = write(tmp_path, table[:5])
    with pytest.raises(InputError, match="has 5 rows, the table of predictions has 40"):
        draw(paths, table)


def test_a_layer_that_cannot_be_read_to_the_end_is_refused(tmp_path, monkeypatch, table):
    """The error comes while GDAL writes the tiles of the rows before."""
    monkeypatch.setattr(pipeline.report.map, "ROWS_AT_A_TIME", 20)
    read, asked = geopandas.read_file, []

    def damaged(*arguments, **options):
        asked.append(options)
        if len(asked) == 2:
            raise pyogrio.errors.DataSourceError("database disk image is malformed")
        return read(*arguments, **options)

    paths = write(tmp_path, table)
    monkeypatch.setattr(geopandas, "read_file", damaged)
    with pytest.raises(
        InputError, match=r"not a GeoPackage of predictions: .*malformed.*-R predict"
    ):
        draw(paths, table)
    assert list(paths.report.parent.iterdir()) == []


def test_tiles_that_cannot_be_written_are_refused(tmp_path, monkeypatch, table):
    monkeypatch.setattr(vector_tiles, "DRIVERS", ("PMTiles", "MBTiles", "MVT"))
    with pytest.raises(InputError, match=r"tiles cannot be written to .*Is there free space"):
        draw(write(tmp_path, table), table)


def test_only_parcels_with_a_card_have_a_link(tmp_path, table):
    paths = write(tmp_path, table)
    paths.cards.mkdir(parents=True)
    for name in ("00003.html", "a%E2%80%A8b%27%22%5C.html", "unknown.html"):
        (paths.cards / name).touch()
    cards = draw(paths, table).data["cards"]
    assert cards == {HOSTILE[1]: "a%E2%80%A8b%27%22%5C.html", "00003": "00003.html"}


# The page in a browser

PAGE = """<!DOCTYPE html><html><head><meta charset="utf-8">
<style>{% include "report.css" %}{% include "map.css" %}</style></head><body>
{% from "macros.jinja" import swatch %}{% macro simulated() %}{% endmacro %}
{% include "map.jinja" %}</body></html>"""
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def write_page(paths, drawn):
    """Write a page that contains the map alone, with the styles of the report."""
    page = template("report.html.jinja").environment.from_string(PAGE).render(map=drawn)
    paths.report.write_text(page, encoding="utf-8")
    return paths.report


SCRIPT = """
await until(() => document.querySelector(".map.live"));
const { map, at } = parcelwiseMap, part = (name) => document.getElementById(`map-${name}`);
const idle = () => new Promise((ready) => { map.once("idle", ready); map.triggerRepaint(); });
const rows = () => [...new Set(map.queryRenderedFeatures({ layers: ["fill"] })
  .map((f) => f.properties.row))].sort((a, b) => a - b);
const find = async (id) => {
  part("id").value = id;
  part("parcel").hidden = true;
  part("search").requestSubmit();
  const before = part("note").textContent;
  await until(() => !part("parcel").hidden || part("note").textContent !== before);
};
const found = { all: rows() };
const only = (name, i) =>
  document.querySelectorAll(`fieldset[data-legend=${name}] .only`)[i].click();
const choose = (name) => {
  part("colour").value = name;
  part("colour").dispatchEvent(new Event("change", { bubbles: true }));
};
choose("verdict");
found.shown = [...document.querySelectorAll("fieldset")].filter((f) => f.offsetParent !== null)
  .map((f) => f.dataset.legend);
only("verdict", 0);
await idle();
found.conflict = rows();
choose("predicted");
only("predicted", 0);
await idle();
found.both = rows();
found.note = part("note").textContent;
document.querySelector(".reset").click();
await idle();
found.reset = rows();
map.getCanvas().focus();
for (const id of IDS) {
  await find(id);
  (found.panels ??= []).push(part("parcel").querySelector("h3").textContent);
}
found.texts = part("parcel").innerText;
found.links = [...part("parcel").querySelectorAll("a")].map((a) => a.getAttribute("href"));
await find("nothing like it");
found.unknown = part("note").textContent;
found.scripts = document.querySelectorAll("script").length;
found.ruler = part("ruler").textContent;
return found;
"""


@pytest.mark.slow
@in_browser
def test_the_map_filters_and_finds_in_a_browser(tmp_path, table):
    paths = write(tmp_path, table)
    paths.cards.mkdir(parents=True)
    (paths.cards / "00003.html").touch()
    page = write_page(paths, draw(paths, table))
    ids = [*HOSTILE, "00003"]
    # The result is sent as text of HTML in which the script stands.
    script = SCRIPT.replace("IDS", json.dumps(ids).replace("<", "\\u003c"))
    found = run_in_browser(page, script)
    assert found["errors"] == []
    found = found["result"]
    assert found["all"] == found["reset"] == list(range(N))
    assert found["shown"] == ["verdict"]
    conflict = table["verdict"] == "CONFLICT"
    assert found["conflict"] == np.flatnonzero(conflict).tolist()
    both = conflict & (table["pred_code"] == "BTH")
    assert found["both"] == np.flatnonzero(both).tolist()
    assert "Filtered by predicted class, verdict on the declaration." in found["note"]
    assert found["panels"] == [f"Parcel {own}" for own in ids]
    row = table.set_index("parcel_id").loc["00003"]
    for text in (
        f"{row['declared_name']} ({row['declared_code']})",
        f"{row['pred_name']} ({row['pred_code']}), {100 * row['confidence']:.1f}",
        f"{row['verdict']}, rank {row['doubt_rank']}",
        "winter wheat, </script><b>grass</b>",
    ):
        assert text in found["texts"]
    assert found["links"] == ["cards/00003.html"]
    assert "No parcel on the map has the id nothing like it" in found["unknown"]
    assert found["scripts"] == 6  # of data, the libraries, the map and the test: none of a text


@pytest.mark.slow
@in_browser
def test_a_map_beside_the_page_needs_a_server_and_otherwise_shows_its_picture(
    tmp_path, monkeypatch, table
):
    monkeypatch.setattr(pipeline.report.map, "MOST_EMBEDDED_BYTES", 0)
    paths = write(tmp_path, table)
    drawn = draw(paths, table)
    assert not drawn.is_embedded
    page = write_page(paths, drawn)
    shown = """
    await until(() => !document.querySelector("#map-note").textContent.endsWith("is needed.")
      || document.querySelector(".map.live"));
    const picture = document.querySelector(".view img");
    return [getComputedStyle(picture).visibility, document.querySelector("#map-note").textContent];
    """
    found = run_in_browser(page, shown)
    assert found["errors"] == []
    assert found["result"][0] == "visible"
    assert "open the report by `parcelwise serve`" in found["result"][1]
    with make_server(page, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        script = """
        await until(() => document.querySelector(".map.live"));
        const rows = parcelwiseMap.map.queryRenderedFeatures({ layers: ["fill"] });
        return [new Set(rows.map((f) => f.properties.row)).size,
          (await parcelwiseMap.startingWith("0000", 9)).map(([id]) => id)];
        """
        found = run_in_browser(page, script, f"{address}/tested.html")
        paths.map_tiles.unlink()
        lost = run_in_browser(page, shown, f"{address}/tested.html")
        server.shutdown()
        thread.join()
    expected = sorted(i for i in table["parcel_id"] if i.startswith("0000"))[:9]
    assert found == {"errors": [], "result": [N, expected]}
    assert lost["result"][0] == "visible"
    assert "It needs map.pmtiles and map_ids.jsonl beside the page" in lost["result"][1]


@pytest.mark.slow
@in_browser
def test_a_browser_without_webgl_shows_the_picture(run, tmp_path):
    page = write_page(RunPaths(run[0].root), run[1])
    script = """return [getComputedStyle(document.querySelector(".view img")).visibility,
      document.querySelector("#map-note").textContent];"""
    found = run_in_browser(page, script, options=["--disable-3d-apis"])
    assert found["errors"] == []
    assert found["result"][0] == "visible"
    assert "WebGL is missing or off" in found["result"][1]


# The server


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A folder with a page and 1,000 bytes; yields its port and these bytes."""
    folder = tmp_path_factory.mktemp("results") / "mine" / "report"
    (folder / "cards").mkdir(parents=True)
    content = bytes(range(250)) * 4
    (folder / "map.pmtiles").write_bytes(content)
    (folder / "report.html").write_text("the page")
    (folder.parent / "secret").write_text("not of the report")
    with make_server(report_of(str(folder.parent)), 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, content
        server.shutdown()
        thread.join()


def request(port, path, **headers):
    """Return status, Content-Range and all bytes that follow the head."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        lines = [f"{name}: {value}" for name, value in ({"Host": "localhost:1"} | headers).items()]
        connection.sendall("\r\n".join([f"GET {path} HTTP/1.0", *lines, "", ""]).encode())
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    found = dict(line.split(": ", 1) for line in lines)
    return int(status.split()[1]), found.get("Content-Range"), body


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-0", 206, slice(0, 1)),
        ("bytes=10-499", 206, slice(10, 500)),
        ("bytes=990-5000", 206, slice(990, 1000)),
        ("bytes=7-", 206, slice(7, 1000)),
        # Other forms may be answered as a whole.
        ("bytes=-5", 200, slice(0, 1000)),
        ("bytes=0-1,5-6", 200, slice(0, 1000)),
        ("", 200, slice(0, 1000)),
    ],
)
def test_the_server_answers_with_the_bytes_asked_for(served, asked, status, part):
    port, content = served
    found = request(port, "/map.pmtiles", **({"Range": asked} if asked else {}))
    where = f"bytes {part.start}-{part.stop - 1}/1000" if status == 206 else None
    assert found == (status, where, content[part])


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        *(("/", {}, 200), ("/report.html?x=1", {}, 200), ("/map.pmtiles", {}, 200)),
        *(("/cards/", {}, 404), ("/cards", {}, 404), ("/no", {}, 404)),
        *(("/../secret", {}, 404), ("/%2e%2e/secret", {}, 404)),
        ("/map.pmtiles", {"Range": "bytes=1000-1001"}, 416),
        ("/map.pmtiles", {"Range": "bytes=5-4"}, 416),
        ("/", {"Host": "evil.example:8000"}, 403),
    ],
)
def test_the_server_answers_for_the_folder_of_the_report_alone(served, path, headers, status):
    assert request(served[0], path, **headers)[0] == status


def test_serve_refuses_a_run_without_report_and_a_port_in_use(tmp_path, served, capsys):
    assert main(["serve", str(tmp_path / "none")]) == 1
    assert "There is no report of the run" in capsys.readouterr().err
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").touch()
    for port in (served[0], 70_000):
        assert main(["serve", str(tmp_path), "--port", str(port)]) == 1
        assert f"The port {port} cannot be used" in capsys.readouterr().err
