"""`inspect` describes what the run then does, and writes no artefact of the run."""

import json
import re

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from matplotlib.image import imread
from shapely import box
from shapely import points as points_of

from geo.grid import Grid
from pipeline.classes.reasons import Reason, Status
from pipeline.command_line import main
from pipeline.inspection.picture import COLOURS, draw, to_degrees
from pipeline.inspection.text import aligned, bytes_text
from pipeline.workflow.acquisition_table import read_acquisitions
from pipeline.workflow.config import read
from pipeline.workflow.paths import RunPaths
from tests.builders.pixel_sets import BANDS, make
from tests.builders.runs import prepare_dataset
from tests.builders.safe import write_safe

# A tile's corner, and 60 x 60 pixels of 10 m.
X, Y = 500_000, 5_600_000


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with imagery, a register and the settings of a user."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(4)
    for day, cloudy, baseline in ((3, 10.0, "03.01"), (13, 95.0, "04.00"), (23, 20.0, "04.00")):
        write_safe(
            tmp_path / "imagery", rng, sensed=f"202204{day:02}T105031", baseline=baseline,
            cloudy=cloudy, offsets=-1000 if baseline == "04.00" else None,
            bands=("B02", "B03", "B11", "SCL"),
        )  # fmt: skip
    write_register(tmp_path / "register.gpkg", X)
    settings = {
        "run": "mine",
        "imagery": {"path": "imagery", "bands": ["B02", "B03", "B11"]},
        "parcels": {"path": "register.gpkg", "id": "ID", "labels": {"crop": "CODE"}},
        "split": {"folds": 2},
    }
    settings["parcels"]["classes"] = {"min_parcels": 2}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def write_register(path, x):
    """Write 8 parcels: one has no class, one crosses the edge of the imagery, one is outside."""
    places = [(20, 20), (20, 120), (120, 20), (120, 120), (220, 220), (320, 320), (-20, 400)]
    outlines = [box(x + left, Y - top - 80, x + left + 70, Y - top) for left, top in places]
    outlines.append(box(x + 5000, Y, x + 5100, Y + 100))
    codes = ["wheat", "wheat", "maize", "maize", "hemp", None, "maize", "wheat"]
    table = gpd.GeoDataFrame({"ID": range(8), "CODE": codes}, geometry=outlines, crs=32631)
    table.to_crs(4326).to_file(path)


def files(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def test_inspect_describes_what_the_run_then_does(folder, capsys):
    before = files(folder)
    assert main(["inspect", "mine.yaml"]) == 0
    shown = capsys.readouterr().out
    assert {str(path) for path in files(folder) - before} == {"results/mine/inspect/inputs.png"}
    assert imread(folder / "results/mine/inspect/inputs.png").std() > 0

    # Without masks every pixel is clear, and the arrays have exactly the expected sizes.
    settings = read(folder / "mine.yaml")
    clouds = settings.clouds.model_copy(update={"mask": "none"})
    settings = settings.model_copy(update={"clouds": clouds})
    run = prepare_dataset(settings, folder / "run")
    used = [row for row in read_acquisitions(run.acquisitions) if row.used]
    assert "3 acquisitions, 2 to use" in shown
    assert re.search(r"1 set aside, too cloudy: 20220413\S+_31UDS_N0400\n", shown)
    assert re.search(rf"31UDS +{len(used)} +{used[0].date} +{used[-1].date} +EPSG:32631", shown)
    assert "60 x 60 of 10 m" in shown
    assert "Sentinel-2A, 03.01, offset 0 (1)" in shown
    assert "Sentinel-2A, 04.00, offset -1000 (1)" in shown
    assert "10 m B02 B03; 20 m B11 (2)" in shown

    text = run.ledger.with_suffix(".csv").read_text()
    ledger = list(map(str.split, text.replace(",", " , ").splitlines()))
    status = [" ".join(words) for words in ledger]
    for name in ("used", "predict_only", "rejected"):
        assert re.search(rf"\b{sum(f' {name} ' in line for line in status)} {name}\n", shown)
    assert "7 of 8 outlines (87.5 %) are on the imagery, 1 of them across its edge" in shown
    for reason in (Reason.NO_LABEL, Reason.CLASS_TOO_RARE):
        assert reason.status == Status.PREDICT_ONLY
    assert "1 no declared class" in shown
    assert "1 its class has too few parcels" in shown
    assert re.search(r"0 +maize +maize +2\n +1 +wheat +wheat +2\n +- +hemp +hemp +1\n", shown)

    sizes = json.loads(run.dataset.sizes.read_text())
    assert re.search(rf"31UDS +{len(sizes)} +{sum(sizes.values())} ", shown)
    for title, root in (
        ("pixels by acquisition", run.extractions),
        ("dataset/DATA", run.dataset.pixels),
        ("dataset/VALID", run.dataset.valid),
        ("dataset/tiles", run.dataset.root / "tiles"),
    ):
        size = root.stat().st_size if root.is_file() else 0
        size += sum(path.stat().st_size for path in root.rglob("*.npy"))
        assert re.search(rf"{title} +{bytes_text(size)}\n", shown), title
    assert "at most" not in shown


def test_inspect_describes_the_groups_and_the_likeness_of_an_existing_dataset(
    tmp_path, capsys, caplog, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "existing", n=60)
    meta = tmp_path / "existing" / "META"
    # Three regions, each of one class.
    rng, ids = np.random.default_rng(1), [str(100 + 3 * i) for i in range(60)]
    places = {i: [*rng.uniform(1000 * (n % 3), 1000 * (n % 3 + 1), 2)] for n, i in enumerate(ids)}
    (meta / "positions.json").write_text(json.dumps(places))
    (meta / "groups.json").write_text(
        json.dumps({"FARM": {i: n // 9 for n, i in enumerate(ids[1:])}})
    )
    settings = {
        "run": "mine",
        "dataset": {"path": "existing", "bands": BANDS, "classes": {"min_parcels": 5}},
        "split": {"by": "group", "column": "FARM", "also": "block"},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    assert main(["inspect", "mine.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "5 folds of 60 parcels, group and block\n" in shown
    assert "7 values of FARM, the largest of 9 parcels; 1 parcels have none and are " in shown
    assert "By declared class alone: Classes agree up to " in shown
    assert "How far the pixels of parcels are alike is measured in the run" in shown
    # After the run, its finding is shown.
    found = RunPaths(tmp_path / "results" / "mine").variogram
    found.parent.mkdir(parents=True)
    found.write_text(json.dumps({"text": "Alike up to 210 m."}))
    assert main(["inspect", "mine.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "  Alike up to 210 m.\n" in shown
    assert "By declared class" not in shown
    assert main(["inspect", "mine.yaml", "split.column=FARMS"]) == 1
    assert "'FARMS', which is not a key of" in caplog.text


def test_inspect_describes_the_groups_of_a_register(folder, capsys):
    file, farms = folder / "register.gpkg", ["a", "a", "b", None, "c", "c", "c", "c"]
    gpd.read_file(file).assign(FARM=farms).to_file(file)
    words = ["inspect", "mine.yaml", "split.by=group", "split.column=FARM"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "2 folds of 4 parcels, group\n" in shown
    assert "2 values of FARM, the largest of 2 parcels; 1 parcels have none and are " in shown
    assert "too few parcels to tell how far they are alike" in " ".join(shown.split())


def test_inspect_reads_no_pixel(folder, capsys, monkeypatch):
    # The metadata count the cloud of the default SCL classes. For others a run reads the masks.
    (folder / "more.yaml").write_text("clouds: {classes: [9]}")
    monkeypatch.setattr("geo.imagery.cloud_masks.read_window", None)
    assert main(["inspect", "mine.yaml", "more.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "3 acquisitions, 3 to use" in shown
    assert "3 have no cloud cover in their metadata" in shown
    assert "at most" in shown


@pytest.mark.parametrize("n", [1, 4])
def test_points_are_drawn_on_every_map(tmp_path, n):
    grid = Grid("EPSG:32631", X, Y, 10.0, 10.0, 60, 60)
    points = to_degrees(points_of(np.linspace([X + 5, Y - 5], [X + 95, Y - 95], n)), grid.crs)
    used = np.full(n, str(Status.USED), object)
    n_dots = []
    for outlines in (points, np.full(n, None, object)):
        draw(tmp_path / "map.svg", "", {"31UDS": [grid]}, outlines, used, [])
        text = (tmp_path / "map.svg").read_text()
        n_dots.append(text.count(f"fill: {COLOURS[Status.USED]}; stroke: #ffffff"))
    assert n_dots == [n, 0]


def test_an_error_of_the_run_ends_inspect_after_the_picture(folder, capsys, caplog):
    write_register(folder / "register.gpkg", X + 60_000)
    assert main(["inspect", "mine.yaml", "--picture", "far.svg"]) == 1
    assert "No parcel of register.gpkg is on the imagery" in caplog.text
    assert "3 acquisitions, 2 to use" in capsys.readouterr().out
    assert "<svg" in (folder / "far.svg").read_text()


def test_an_existing_dataset_is_described(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parcels = make(tmp_path / "existing", n=30, labelled=0.9)
    settings = {"dataset": {"path": "existing", "bands": BANDS, "classes": {"min_parcels": 5}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    before = files(tmp_path)
    assert main(["inspect", "mine.yaml"]) == 0
    shown = capsys.readouterr().out
    assert files(tmp_path) == before
    assert "30 parcels" in shown
    assert re.search(rf"27 used\n +3 predict_only\n +3 {Reason.NO_LABEL.words}", shown)
    assert "7 a parcel, from 2018-03-01 to 2018-09-17" in shown
    assert "4: B02 B03 B04 B08" in shown
    assert (
        f" {sum(pixels.shape[2] for _, pixels, _ in parcels.values())}, 1 to 11 a parcel" in shown
    )
    assert re.search(r"0 +barley +barley +9\n +1 +maize +maize +9\n", shown)


def test_a_scene_must_be_simulated_first(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"simulate": {}, "imagery": {"path": "a"}, "parcels": {"path": "b"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    assert main(["inspect", "mine.yaml"]) == 1
    assert "there is no a yet" in caplog.text
    assert not RunPaths(tmp_path / "results" / "default").root.exists()


@pytest.mark.parametrize(
    ("n_bytes", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9_960, "10 kB"), (999_499, "999 kB"),
     (999_600, "1.0 MB"), (2.5e9, "2.5 GB"), (3e15, "3000 TB")],
)  # fmt: skip
def test_sizes_are_written_in_a_readable_unit(n_bytes, shown):
    assert bytes_text(n_bytes) == shown


def test_columns_are_aligned():
    rows = [("tile", "size", ""), ("a", "12 kB", "at most"), ("long name", "3 kB", "")]
    assert aligned(rows) == ["tile       size", "a          12 kB  at most", "long name  3 kB"]
    right = ["tile        size", "a          12 kB  at most", "long name   3 kB"]
    assert aligned(rows, right=1) == right
    assert aligned([]) == []


def test_two_tiles_in_two_zones_without_masks(folder, capsys):
    for tile, crs, x in (("31UDS", 32631, 500_000), ("32ULB", 32632, 74_000)):
        for day in ("20220403", "20220413"):
            path = folder / "tiffs" / f"{day}_T{tile}.tif"
            path.parent.mkdir(exist_ok=True)
            with rasterio.open(
                path, "w", driver="GTiff", height=60, width=60, count=1, dtype="uint16", crs=crs,
                transform=Affine(10, 0, x, 0, -10, Y),
            ) as raster:  # fmt: skip
                raster.descriptions = ("B02",)
    (folder / "more.yaml").write_text("imagery: {path: tiffs, bands: [B02]}")
    assert main(["inspect", "mine.yaml", "more.yaml", "--picture", "two.png"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"31UDS +2 +2022-04-03 +2022-04-13 +EPSG:32631", shown)
    assert re.search(r"32ULB +2 +2022-04-03 +2022-04-13 +EPSG:32632", shown)
    assert "4 have no cloud mask: all their pixels count as clear" in shown
    assert "at most" not in shown
    assert imread(folder / "two.png").std() > 0
