"""What `inspect` says is what the run then does; and it leaves no artefact of the run."""

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

from pipeline.__main__ import main
from pipeline.classes.reasons import Reason, Status
from pipeline.inspection.sizes import say_bytes
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
    """A folder with imagery, a register and the settings of a user."""
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
    """Write 8 parcels on the imagery, of which one is across its edge and one without a class."""
    places = [(20, 20), (20, 120), (120, 20), (120, 120), (220, 220), (320, 320), (-20, 400)]
    outlines = [box(x + left, Y - top - 80, x + left + 70, Y - top) for left, top in places]
    outlines.append(box(x + 5000, Y, x + 5100, Y + 100))
    codes = ["wheat", "wheat", "maize", "maize", "hemp", None, "maize", "wheat"]
    table = gpd.GeoDataFrame({"ID": range(8), "CODE": codes}, geometry=outlines, crs=32631)
    table.to_crs(4326).to_file(path)


def files(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def test_it_says_what_the_run_does(folder, capsys):
    before = files(folder)
    assert main(["inspect", "--config", "mine.yaml"]) == 0
    said = capsys.readouterr().out
    assert {str(path) for path in files(folder) - before} == {"results/mine/inspect/inputs.png"}
    assert imread(folder / "results/mine/inspect/inputs.png").std() > 0

    # Without masks every pixel is observed: the sizes are then those foretold.
    settings = read(folder / "mine.yaml")
    clouds = settings.clouds.model_copy(update={"mask": "none"})
    settings = settings.model_copy(update={"clouds": clouds})
    run = prepare_dataset(settings, folder / "run")
    used = [row for row in read_acquisitions(run.acquisitions) if row.used]
    assert "3 acquisitions, 2 to use" in said
    assert re.search(r"1 set aside, too cloudy: 20220413\S+_31UDS_N0400\n", said)
    assert re.search(rf"31UDS +{len(used)} +{used[0].date} +{used[-1].date} +EPSG:32631", said)
    assert "60 x 60 of 10 m" in said
    assert "Sentinel-2A, 03.01, offset 0 (1)" in said
    assert "Sentinel-2A, 04.00, offset -1000 (1)" in said
    assert "10 m B02 B03; 20 m B11 (2)" in said

    text = run.ledger.with_suffix(".csv").read_text()
    ledger = list(map(str.split, text.replace(",", " , ").splitlines()))
    status = [" ".join(words) for words in ledger]
    for name in ("used", "predict_only", "rejected"):
        assert re.search(rf"\b{sum(f' {name} ' in line for line in status)} {name}\n", said)
    assert "7 of 8 outlines (87.5 %) lie on the imagery, 1 of them across its edge" in said
    for reason in (Reason.NO_LABEL, Reason.CLASS_TOO_RARE):
        assert reason.status == Status.PREDICT_ONLY
    assert "1 no declared class" in said
    assert "1 its class has too few parcels" in said
    assert re.search(r"0 +maize +maize +2\n +1 +wheat +wheat +2\n +- +hemp +hemp +1\n", said)

    sizes = json.loads(run.dataset.sizes.read_text())
    assert re.search(rf"31UDS +{len(sizes)} +{sum(sizes.values())} ", said)
    for title, root in (
        ("pixels by acquisition", run.extractions),
        ("dataset/DATA", run.dataset.pixels),
        ("dataset/VALID", run.dataset.valid),
        ("dataset/tiles", run.dataset.root / "tiles"),
    ):
        size = root.stat().st_size if root.is_file() else 0
        size += sum(path.stat().st_size for path in root.rglob("*.npy"))
        assert re.search(rf"{title} +{say_bytes(size)}\n", said), title
    assert "at most" not in said


def test_no_pixel_is_read(folder, capsys, monkeypatch):
    # With classes of one's own the masks would be read, as the metadata count others.
    (folder / "more.yaml").write_text("clouds: {classes: [9]}")
    monkeypatch.setattr("pipeline.stages.index.cloud_fraction", None)
    assert main(["inspect", "--config", "mine.yaml", "more.yaml"]) == 0
    said = capsys.readouterr().out
    assert "3 acquisitions, 3 to use" in said
    assert "3 do not state their clouds" in said
    assert "at most" in said


def test_what_ends_the_run_is_said_with_the_picture_at_hand(folder, capsys, caplog):
    write_register(folder / "register.gpkg", X + 60_000)
    assert main(["inspect", "--config", "mine.yaml", "--picture", "far.svg"]) == 1
    assert "No parcel of register.gpkg is on the imagery" in caplog.text
    assert "3 acquisitions, 2 to use" in capsys.readouterr().out
    assert "<svg" in (folder / "far.svg").read_text()


def test_a_run_from_a_dataset(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parcels = make(tmp_path / "given", n=30, labelled=0.9)
    settings = {"dataset": {"path": "given", "bands": BANDS, "classes": {"min_parcels": 5}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    before = files(tmp_path)
    assert main(["inspect", "--config", "mine.yaml"]) == 0
    said = capsys.readouterr().out
    assert files(tmp_path) == before
    assert "30 parcels" in said
    assert re.search(r"27 used\n +3 predict_only\n +3 no declared class", said)
    assert "7 a parcel, from 2018-03-01 to 2018-09-17" in said
    assert "4: B02 B03 B04 B08" in said
    assert f" {sum(pixels.shape[2] for _, pixels, _ in parcels.values())}, 1 to 11 a parcel" in said
    assert re.search(r"0 +barley +barley +9\n +1 +maize +maize +9\n", said)


def test_a_scene_that_is_not_simulated_yet(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"simulate": {}, "imagery": {"path": "a"}, "parcels": {"path": "b"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    assert main(["inspect", "--config", "mine.yaml"]) == 1
    assert "there is no a yet" in caplog.text
    assert not RunPaths(tmp_path / "results" / "default").root.exists()


@pytest.mark.parametrize(
    ("n_bytes", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9_960, "10 kB"), (999_499, "999 kB"),
     (999_600, "1.0 MB"), (2.5e9, "2.5 GB"), (3e15, "3000 TB")],
)  # fmt: skip
def test_sizes_are_said_in_the_unit_that_suits_them(n_bytes, said):
    assert say_bytes(n_bytes) == said


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
    assert main(["inspect", "--config", "mine.yaml", "more.yaml", "--picture", "two.png"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"31UDS +2 +2022-04-03 +2022-04-13 +EPSG:32631", said)
    assert re.search(r"32ULB +2 +2022-04-03 +2022-04-13 +EPSG:32632", said)
    assert "4 have no cloud mask: their clouds count as observed" in said
    assert "at most" not in said
    assert imread(folder / "two.png").std() > 0
