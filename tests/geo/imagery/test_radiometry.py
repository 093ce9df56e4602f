"""The check of announced offsets that the pixels do not contain, and the other way round."""

import datetime
from collections import Counter
from dataclasses import replace
from types import MappingProxyType

import netCDF4
import numpy as np
import pytest
import rasterio
from affine import Affine

from geo.errors import InputError
from geo.imagery.discovery import find_acquisitions
from geo.imagery.radiometry import DarkPixels, can_contradict, compare, measure_dark_pixels
from geo.imagery.raster_reading import read_coarse
from pipeline.stages.index import index
from pipeline.workflow.acquisition_table import read_acquisitions
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import RunPaths
from tests.builders.paths import DATA
from tests.builders.safe import write_image, write_safe

FLANDERS = DATA / "flanders-2018"
BANDS = ["B02", "B04", "B12"]
DAYS = ("20220403", "20220413", "20220423", "20220503", "20220513", "20220523", "20220602")
# Reflectance of green and of bare land.
LAND = {"B02": (0.03, 0.08), "B04": (0.03, 0.14), "B12": (0.04, 0.24)}


@pytest.fixture
def rng():
    return np.random.default_rng(9)


def land(rng, side=60):
    """Return reflectance x 10,000 by band, of the same fields on another day."""
    fields = np.random.default_rng(1).random((side // 10, side // 10))
    green = np.clip(np.kron(fields, np.ones((10, 10))) + rng.normal(0, 0.05), 0, 1)
    scene = {}
    for band, (at_green, at_bare) in LAND.items():
        values = 10_000 * (at_bare + (at_green - at_bare) * green)
        scene[band] = values + rng.normal(0, 30, values.shape)
    return scene


def raw(reflectance, offset_in_pixels):
    return np.maximum(reflectance + 1000 * offset_in_pixels, 1).astype(np.uint16)


# Writers for three readers: the metadata announce an offset or not, the pixels contain it or not.
def write_as_safe(folder, day, scene, announced, in_pixels):
    numbers = {band: raw(values, in_pixels) for band, values in scene.items()}
    numbers["B12"] = numbers["B12"][::2, ::2].copy()
    write_safe(
        folder, np.random.default_rng(0), sensed=f"{day}T105031", bands=tuple(BANDS),
        numbers=numbers, cloudy=1, offsets=-1000 if announced else None, baseline="05.10",
    )  # fmt: skip


def write_as_tiff(folder, day, scene, announced, in_pixels):
    folder.mkdir(exist_ok=True)
    with rasterio.open(
        folder / f"{day}.tif", "w", driver="GTiff", height=60, width=60, count=3, dtype="uint16",
        crs="EPSG:32631", transform=Affine(10, 0, 500_000, 0, -10, 5_600_000), nodata=0,
    ) as raster:  # fmt: skip
        raster.write(np.array([raw(scene[band], in_pixels) for band in BANDS]))
        raster.descriptions = BANDS
        raster.scales = [0.0001] * 3
        raster.offsets = [-0.1 if announced else 0.0] * 3


def write_as_reflectance(folder, day, scene, announced, in_pixels):
    """Float reflectance announces no offset, but may be 0.1 too high."""
    assert not announced
    folder.mkdir(exist_ok=True)
    with rasterio.open(
        folder / f"{day}.tif", "w", driver="GTiff", height=60, width=60, count=3, dtype="float32",
        crs="EPSG:32631", transform=Affine(10, 0, 500_000, 0, -10, 5_600_000),
    ) as raster:  # fmt: skip
        raster.write(np.array([scene[band] + 1000 * in_pixels for band in BANDS]) / 10_000)
        raster.descriptions = BANDS


def run_index(folder, **settings):
    run = RunPaths(folder.parent / "run")
    values = load({"imagery": {"bands": BANDS, **settings}})
    index(
        folder, run.acquisitions, run.acquisitions_view, run.items, run.grids,
        view(values, "index"), threads=2,
    )  # fmt: skip
    return read_acquisitions(run.acquisitions)


CORRECT = {True: [(True, True)] * 7, False: [(False, False)] * 7}
MIXED = [(True, True), (False, False)] * 3 + [(True, True)]


@pytest.mark.parametrize("write", [write_as_safe, write_as_tiff])
@pytest.mark.parametrize("flags", [*CORRECT.values(), MIXED, MIXED[:1], CORRECT[False][:2]])
def test_correct_metadata_are_accepted(tmp_path, rng, write, flags):
    for day, (announced, in_pixels) in zip(DAYS, flags, strict=False):
        write(tmp_path / "i", day, land(rng), announced, in_pixels)
    rows = run_index(tmp_path / "i")
    assert {row.offset for row in rows} == {"-1000" if announced else "0" for announced, _ in flags}
    assert {row.radiometry for row in rows} <= {"agrees", "undecided"}
    assert all(
        row.radiometry == "agrees" for row, flag in zip(rows, flags, strict=True) if not flag[1]
    ), "dark pixels show that the offset is absent"


@pytest.mark.parametrize(
    ("write", "flags"),
    [
        (write_as_safe, [(True, False)] * 7),
        (write_as_safe, [(False, True)] * 7),
        (write_as_safe, [*CORRECT[False][:6], (True, False)]),
        (write_as_safe, [*CORRECT[False][:3], (False, True), *CORRECT[False][:3]]),
        (write_as_safe, [*CORRECT[True][:3], (True, False), *CORRECT[True][:3]]),
        (write_as_safe, [(False, True), *CORRECT[True][:6]]),
        (write_as_tiff, [(True, False)]),
        (write_as_tiff, [*CORRECT[False][:3], (False, True), (True, False), *CORRECT[True][:2]]),
        (write_as_reflectance, [(False, True)] * 5),
        (write_as_reflectance, [*CORRECT[False][:4], (False, True)]),
    ],
)
def test_wrong_metadata_are_refused(tmp_path, rng, write, flags):
    for day, (announced, in_pixels) in zip(DAYS, flags, strict=False):
        write(tmp_path / "i", day, land(rng), announced, in_pixels)
    with pytest.raises(InputError) as error:
        run_index(tmp_path / "i")
    message = str(error.value)
    wrong = [day for day, flag in zip(DAYS, flags, strict=False) if flag[0] != flag[1]]
    assert f"of {len(wrong)} of {len(flags)} acquisitions disagree" in message
    assert [day for day in DAYS if day in message] == wrong[:5]
    for words, kind in (("pixels are without it", (True, False)), ("hold 1000", (False, True))):
        assert (words in message) == (kind in flags)
    assert "set imagery.radiometry to trust" in message
    assert not (tmp_path / "out.csv").exists()
    rows = run_index(tmp_path / "i", radiometry="trust")
    assert [row.radiometry for row in rows] == [""] * len(flags)


def dark(day, scene, announced, in_pixels, clouds=None):
    """Return the dark pixels of a scene without writing it."""
    values = [scene[band].ravel() + 1000 * in_pixels for band in ("B04", "B12", "B02")]
    if clouds is not None:
        values = [v + c for v, c in zip(values, clouds, strict=True)]
    return DarkPixels(
        acquisition=stand_in(day),
        announced=announced,
        bands=("B04", "B12", "B02"),
        quantiles=np.array([np.quantile(v, [0.01, 0.05, 0.25]) for v in values]),
        below_dark=np.array([(v < 600).mean() for v in values]),
        below_floor=np.array([(v < 900).mean() for v in values]),
    )


def stand_in(day):
    class Item:
        id = day
        date = datetime.date.fromisoformat(day)
        baseline = None
        bands = MappingProxyType({})

    return Item()


@pytest.mark.parametrize(
    "clouds",
    [
        (1000, 350, 1100),  # haze, which the infrared penetrates
        (1200, 800, 1500),  # thin clouds
        (4000, 1500, 4500),
    ],
)
def test_haze_is_not_taken_for_an_offset(rng, clouds):
    scene = land(rng)
    measured = [dark(day, scene, False, False) for day in DAYS[:5]]
    measured.append(dark(DAYS[5], scene, False, False, clouds))
    assert compare(measured)[DAYS[5]] == "undecided"
    assert compare([dark(day, scene, False, False, clouds) for day in DAYS[:3]]) == dict.fromkeys(
        DAYS[:3], "undecided"
    )


@pytest.mark.parametrize(
    ("red", "infrared", "blue"), [(0.3, 0.45, 0.12), (0.8, 0.06, 0.85), (0.6, 0.3, 0.65)]
)
def test_deserts_snow_and_clouds_are_not_taken_for_an_offset(rng, red, infrared, blue):
    spectrum = {"B04": red, "B12": infrared, "B02": blue}
    measured = []
    for day in DAYS:
        noise = rng.normal(0, 0.01, 3600)
        scene = {band: 10_000 * (level + noise) for band, level in spectrum.items()}
        measured.append(dark(day, scene, False, False))
    assert "contradicts" not in compare(measured).values()


def test_a_few_negative_reflectances_are_accepted(rng):
    measured = []
    for day in DAYS:
        scene = land(rng)
        for values in scene.values():
            values.ravel()[:100] = rng.uniform(-900, 0, 100)  # 3 %, over-corrected shadows
        measured.append(dark(day, scene, True, True))
    assert "contradicts" not in compare(measured).values()


@pytest.fixture(scope="module")
def flanders():
    if not FLANDERS.is_dir():
        pytest.skip(reason=f"{FLANDERS} is not there")
    found = find_acquisitions(FLANDERS, bands=["B04", "B12", "B02"])
    measured = [item for item in map(measure_dark_pixels, found[::2]) if item is not None]
    assert {item.bands for item in measured} == {("B04", "B12", "B02")}
    return measured


def pretend(item, announced, in_pixels):
    """Return the dark pixels of a real acquisition as if the offset were announced or contained."""
    below = 0 if in_pixels else 1
    return replace(
        item,
        announced=announced,
        quantiles=item.quantiles + 1000 * in_pixels,
        below_dark=item.below_dark * below,
        below_floor=item.below_floor * below,
    )


def agreement(items, flags):
    pretended = [pretend(item, *flag) for item, flag in zip(items, flags, strict=True)]
    return Counter(compare(pretended).values())


def test_real_acquisitions_with_correct_metadata_are_accepted(flanders, rng):
    n = len(flanders)
    assert agreement(flanders, [(False, False)] * n)["contradicts"] == 0
    assert agreement(flanders, [(True, True)] * n)["contradicts"] == 0
    half = [(i > n / 2, i > n / 2) for i in range(n)]
    assert agreement(flanders, half)["contradicts"] == 0
    # Correct metadata are rarely contradicted: in at most 1 of 100 draws, for each of six seeds.
    contradicted = 0
    for _ in range(100):
        size = rng.integers(1, 12)
        chosen = [flanders[i] for i in rng.choice(n, size, replace=False)]
        flags = [(bool(b), bool(b)) for b in rng.integers(0, 2, size)]
        contradicted += agreement(chosen, flags)["contradicts"] > 0
    assert contradicted <= 3


def test_real_acquisitions_with_wrong_metadata_are_found(flanders):
    n = len(flanders)
    # The other half of the dates is cloudy.
    assert agreement(flanders, [(True, False)] * n)["contradicts"] > 0.4 * n
    assert agreement(flanders, [(False, True)] * n)["contradicts"] > 0.9 * n
    half = [(False, i > n / 2) for i in range(n)]
    assert agreement(flanders, half)["contradicts"] > 0


def test_only_acquisitions_that_can_contradict_are_checked(tmp_path, rng):
    for day, baseline, offsets in (
        ("20210403", "03.01", None),
        ("20220413", "04.00", None),
        ("20220423", "04.00", -1000),
        ("20220503", "04.00", -700),
    ):
        write_safe(
            tmp_path, rng, sensed=f"{day}T105031", bands=("B02",), baseline=baseline,
            offsets=offsets,
        )  # fmt: skip
    found = find_acquisitions(tmp_path)
    assert [can_contradict(item) for item in found] == [False, True, True, False]


def test_pixels_beside_nodata_are_not_dark(tmp_path, rng):
    """Reduced resolutions of JPEG 2000 mix pixels with nodata, which is 0."""
    side = 1600
    rows, cols = np.indices((side, side))
    fields = np.kron(rng.uniform(1050, 2500, (side // 40, side // 40)), np.ones((40, 40)))
    values = np.where(rows + cols / 3 < side / 2, 0, fields + rng.normal(0, 20, fields.shape))
    image = tmp_path / "i" / "20220403_B04.jp2"
    image.parent.mkdir()
    write_image(image, values.astype(np.uint16), "31UDS", 10, 500_000)
    product = write_safe(tmp_path / "safe", rng, bands=("B02",), offsets=-1000)
    (found,) = find_acquisitions(product.path)
    header = rasterio.open(image)
    grid = replace(found.grid, height=header.height, width=header.width)
    header.close()
    band = replace(found.bands["B02"], source=str(image), grid=grid)
    coarse = read_coarse(band, 700)
    assert coarse.shape == (1, 700, 700)
    dark_share = (coarse < 900)[coarse > 0].mean()
    assert dark_share > 0.001, "without mixed pixels, this test proves nothing"
    measured = measure_dark_pixels(replace(found, bands={"B04": band}))
    # With six seeds, it is between an eighth and a twentieth.
    assert measured.below_floor.max() < dark_share / 4
    assert measured.announced


def test_a_large_stack_is_read_in_windows(tmp_path):
    side = 900
    with netCDF4.Dataset(tmp_path / "stack.nc", "w") as data:
        for name, size in (("time", 1), ("y", side), ("x", side)):
            data.createDimension(name, size)
        for name in ("y", "x"):
            axis = data.createVariable(name, "f8", (name,))
            axis[:] = 500_000 + 10 * np.arange(side)[:: -1 if name == "y" else 1]
        time = data.createVariable("time", "f8", ("time",))
        time.units = "days since 2022-04-03"
        time[:] = [0]
        values = data.createVariable("B04", "u2", ("time", "y", "x"), chunksizes=(1, 100, 100))
        values[0] = np.arange(side * side).reshape(side, side) % 5000 + 1
        data.crs = "EPSG:32631"
    (found,) = find_acquisitions(tmp_path)
    coarse = read_coarse(found.bands["B04"], 700)
    assert coarse.shape == (25, 140, 140)
    expected = np.arange(side * side).reshape(side, side) % 5000 + 1
    np.testing.assert_array_equal(coarse[0], expected[:140, :140])
    np.testing.assert_array_equal(coarse[-1], expected[-140:, -140:])
    np.testing.assert_array_equal(coarse[7], expected[190:330, 380:520])
    assert read_coarse(found.bands["B04"], 900).shape == (1, 900, 900)
