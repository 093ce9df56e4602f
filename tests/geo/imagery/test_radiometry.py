"""The check of announced offsets that the pixels do not contain, and the other way round."""

import datetime
import logging
from dataclasses import replace

import netCDF4
import numpy as np
import pytest
import rasterio
from affine import Affine

from benchmarks.offset_errors import (
    FLANDERS,
    Count,
    clean_subsets,
    patterns,
    read_series,
    with_errors,
)
from geo.errors import InputError
from geo.grid import Grid
from geo.imagery.acquisition import Acquisition, Band
from geo.imagery.clear_pixels import ClearPixels, read_clear_pixels
from geo.imagery.cloud_masks import CloudRules
from geo.imagery.discovery import find_acquisitions
from geo.imagery.file_cache import caching
from geo.imagery.offset_check import can_contradict, check_offsets, compare
from geo.imagery.reduced_reading import is_read_in_windows, read_points
from geo.imagery.valid_values import has_data
from pipeline.stages.index import index
from pipeline.workflow.acquisition_table import read_acquisitions
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import RunPaths
from tests.builders.safe import write_image, write_safe

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
        numbers=numbers, cloudy=1, offsets=-1000 if announced else 0, baseline="05.10",
    )  # fmt: skip


def write_as_tiff(folder, day, scene, announced, in_pixels):
    folder.mkdir(exist_ok=True)
    with rasterio.open(
        folder / f"{day}.tif", "w", driver="GTiff", height=len(scene["B02"]), width=60, count=3,
        dtype="uint16", crs="EPSG:32631", nodata=0,
        transform=Affine(10, 0, 500_000, 0, -10, 5_600_000),
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


def test_wrong_metadata_are_set_aside_or_warned_of(tmp_path, rng, caplog):
    flags = [*CORRECT[False][:3], (False, True), *CORRECT[False][:3]]
    for number, (day, flag) in enumerate(zip(DAYS, flags, strict=True)):
        scene = land(rng)
        if number == 5:  # a cloud over everything: this date may be wrong, too
            scene = {band: values + rng.uniform(2000, 6000) for band, values in scene.items()}
        write_as_tiff(tmp_path / "i", day, scene, *flag)
    with pytest.raises(InputError, match="1 others of the same tiles are too cloudy to decide"):
        run_index(tmp_path / "i")
    rows = run_index(tmp_path / "i", radiometry="set_aside")
    reasons = ["", "", "", "wrong_offset", "", "undecided_offset", ""]
    assert [row.reason for row in rows] == reasons
    assert [row.used for row in rows] == [not reason for reason in reasons]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        rows = run_index(tmp_path / "i", radiometry="warn")
    assert all(row.used for row in rows)
    assert rows[3].radiometry == "contradicts"
    assert f"{DAYS[3]}_scene announces no offset, but its pixels hold 1000" in caplog.text


def test_the_log_says_how_many_dates_are_undecided_and_why(tmp_path, rng, caplog):
    scenes = [bright_land(rng), bright_land(rng)]
    for values in scenes[1].values():
        values[2:] = -1000  # nodata: 120 pixels are left
    for day, scene in zip(DAYS, scenes, strict=False):
        write_as_tiff(tmp_path / "i", day, scene, False, False)
        with rasterio.open(tmp_path / "i" / f"{day}.tif", "r+") as raster:
            raster.write(np.where(raster.read() == 1, 0, raster.read()))
    with caplog.at_level(logging.INFO):
        run_index(tmp_path / "i")
    lines = [line for line in caplog.messages if "do not tell" in line]
    assert len(lines) == 1
    assert "2 of 2 acquisitions do not tell whether they contain the offset" in lines[0]
    assert "1 have fewer than 200 clear pixels. 1 have no pixels too dark" in lines[0]


def test_if_all_dates_are_set_aside_none_is_left(tmp_path, rng):
    write_as_tiff(tmp_path / "i", DAYS[0], land(rng), announced=True, in_pixels=False)
    with pytest.raises(InputError, match=r"None of the 1 acquisitions .* 1 wrong_offset"):
        run_index(tmp_path / "i", radiometry="set_aside")


def seen(day, scene, announced, in_pixels, clouds=(0, 0, 0)):
    """Return the pixels of a scene without writing it."""
    bands = ("B04", "B12", "B02")
    values = [scene[b].ravel() + 1000 * in_pixels + c for b, c in zip(bands, clouds, strict=True)]
    grid = Grid("EPSG:32631", 500_000, 5_600_000, 10, 10, 60, 60)
    acquisition = Acquisition(
        id=day, tile="31UDS", date=datetime.date.fromisoformat(day), product=None, format="safe",
        bands={b: Band(b, "", 1, grid, None, offset=-1000.0 * announced) for b in bands}, masks={},
    )  # fmt: skip
    return ClearPixels(acquisition, announced, bands, np.array(values, np.float32))


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
    found = [seen(day, scene, False, False) for day in DAYS[:5]]
    found.append(seen(DAYS[5], scene, False, False, clouds))
    assert compare(found)[DAYS[5]] == "undecided"
    assert "contradicts" not in compare(found).values()
    few = [seen(day, scene, False, False, clouds) for day in DAYS[:3]]
    assert compare(few) == dict.fromkeys(DAYS[:3], "undecided")


def test_a_cloud_that_is_as_bright_as_the_offset_hides_the_fields(rng):
    """In one of 118 Flemish dates, clouds brighten all bands by 900 to 1,200."""
    found = [seen(day, land(rng), False, False) for day in DAYS[:6]]
    scene = land(rng)
    hidden = {b: v.mean() + 0.3 * (v - v.mean()) + 1000 for b, v in scene.items()}
    found.append(seen(DAYS[6], hidden, False, False))
    assert compare(found)[DAYS[6]] == "undecided"
    found[-1] = seen(DAYS[6], {b: v + 1000 for b, v in scene.items()}, False, False)
    assert compare(found)[DAYS[6]] == "contradicts"


@pytest.mark.parametrize(
    ("red", "infrared", "blue"), [(0.3, 0.45, 0.12), (0.8, 0.06, 0.85), (0.6, 0.3, 0.65)]
)
def test_deserts_snow_and_clouds_are_not_taken_for_an_offset(rng, red, infrared, blue):
    spectrum = {"B04": red, "B12": infrared, "B02": blue}
    found = []
    for day in DAYS:
        noise = rng.normal(0, 0.01, 3600)
        scene = {band: 10_000 * (level + noise) for band, level in spectrum.items()}
        found.append(seen(day, scene, False, False))
    assert "contradicts" not in compare(found).values()


def days_of(n, step=8):
    first = datetime.date(2022, 3, 1)
    return [f"{first + datetime.timedelta(step * at):%Y%m%d}" for at in range(n)]


def bright_land(rng):
    """Return fields without dark pixels: the darkest do not tell whether the offset is absent."""
    return {band: values + 1500 for band, values in land(rng).items()}


@pytest.mark.parametrize(
    ("announced", "in_pixels", "expected"),
    [
        # A shift between the halves, or at random dates, that no metadata announce.
        ([False] * 12, [False] * 6 + [True] * 6, "conflicts"),
        ([True] * 12, [False, True] * 6, "conflicts"),
        ([False] * 12, [False, True, True] * 4, "undecided"),  # fewer than five are darker
        # The metadata explain it, or nothing is to be explained.
        ([False] * 6 + [True] * 6, [False] * 6 + [True] * 6, "agrees"),
        ([False] * 12, [False] * 12, "undecided"),
        ([True] * 12, [True] * 12, "undecided"),
    ],
)
def test_two_levels_of_bright_land_are_named(rng, announced, in_pixels, expected):
    found = [
        seen(day, bright_land(rng), *flags)
        for day, *flags in zip(days_of(12), announced, in_pixels, strict=True)
    ]
    assert set(compare(found).values()) == {expected}


def without_infrared(item):
    """Return the red and blue pixels of an acquisition."""
    return replace(item, bands=("B04", "B02"), values=item.values[[0, 2]])


def test_haze_cannot_be_told_from_the_offset_without_infrared(rng):
    """One to four dates can be hazy, as the metadata of the other dates say."""
    for n_wrong, expected in ((4, set()), (6, {"contradicts"})):
        found = [
            without_infrared(seen(day, land(rng), at >= 8, at >= 8 - n_wrong))
            for at, day in enumerate(days_of(16))
        ]
        results = list(compare(found).values())
        assert set(results[8 - n_wrong : 8]) == (expected or {"undecided"})
        assert set(results[: 8 - n_wrong] + results[8:]) == {"agrees"}


def test_a_dark_date_on_the_upper_level_does_not_hide_the_lower(rng):
    in_pixels = np.random.default_rng(2).permutation(24) < 16
    found = [
        seen(day, land(rng), False, bool(contained))
        for day, contained in zip(days_of(24, 4), in_pixels, strict=True)
    ]
    found[np.flatnonzero(in_pixels)[7]].values[:, :110] = 700
    results = list(compare(found).values())
    assert [r == "contradicts" for r in results] == in_pixels.tolist()


def test_a_misplaced_dark_date_does_not_decide_the_others(rng):
    """Most dates of a level without the offset are dark."""
    found = [seen(day, bright_land(rng), True, True) for day in days_of(9)]
    found[4].values[0, :300] = 400
    results = compare(found)
    assert results.pop(days_of(9)[4]) == "contradicts"
    assert set(results.values()) <= {"undecided", "agrees"}


def test_a_conflict_stops_the_run_or_all_its_dates_are_set_aside(tmp_path, rng, caplog):
    days = days_of(11)
    for at, day in enumerate(days):
        scene = bright_land(rng)
        if at == 10:
            scene = {band: values + rng.uniform(3000, 6000) for band, values in scene.items()}
        write_as_tiff(tmp_path / "i", day, scene, announced=False, in_pixels=at % 2 == 1)
    with pytest.raises(InputError, match=r"Metadata of 10 of 11 .* cannot all be right") as error:
        run_index(tmp_path / "i")
    assert "1 others of the same tiles are too cloudy" in str(error.value)
    assert all(day in str(error.value) for day in days[:5])
    with pytest.raises(InputError, match="11 undecided_offset"):
        run_index(tmp_path / "i", radiometry="set_aside")
    rows = run_index(tmp_path / "i", radiometry="warn")
    assert [row.radiometry for row in rows] == ["conflicts"] * 10 + ["undecided"]
    assert "cannot all be right" in caplog.text


@pytest.mark.parametrize("base", [False, True])
def test_a_date_with_some_clear_pixels_is_decided_without_masks(rng, base):
    """Clouds of any brightness hide two thirds of most dates, at another place every time."""
    found = []
    for at, day in enumerate(days_of(14)):
        scene = land(rng)
        rows = np.sort(rng.choice(60, 40 if at % 3 else 0, replace=False))
        for values in scene.values():
            values[rows] += rng.uniform(500, 6000, (len(rows), 60))
        found.append(seen(day, scene, base, base != (at == 7)))
    results = compare(found)
    assert results.pop(days_of(14)[7]) == "contradicts"
    assert "contradicts" not in results.values()


def test_pixels_of_another_season_do_not_tell(rng):
    """Summer is brighter in all bands than winter, and nothing was seen between them."""
    days = [*days_of(6), *(f"2022{month}{day}" for month in (10, 11) for day in ("03", "13", "23"))]
    found = []
    for at, day in enumerate(days):
        scene = bright_land(rng)
        summer = {band: values + 1000 * (at >= 6) for band, values in scene.items()}
        found.append(seen(day, summer, False, False))
    assert set(compare(found).values()) == {"undecided"}


def test_a_few_negative_reflectances_are_accepted(rng):
    found = []
    for day in DAYS:
        scene = land(rng)
        for values in scene.values():
            values.ravel()[:100] = rng.uniform(-900, 0, 100)  # 3 %, over-corrected shadows
        found.append(seen(day, scene, True, True))
    assert "contradicts" not in compare(found).values()


# Dates, and what is expected of those that clouds hide: all bands are 0.3 brighter.
R, W, C = (False, False), (False, True), None  # right, wrong, cloudy


@pytest.mark.parametrize(
    ("dates", "expected"),
    [
        # An error from a date on: the cloudy dates in its midst and at its end are wrong, too. The
        # one before it may belong to either side.
        ([R, C, R, R, C, W, C, W, W, C], "a?aa?ccccc"),
        # A single error says nothing about other dates.
        ([R, C, R, R, C, W, C, R, R, C], "a?aa?c?aa?"),
        ([R, R, R, R, R, C, W, C], "aaaaa?c?"),
        # Errors here and there: any date may be wrong.
        ([R, W, R, R, W, C, W, R, W, C, W, R], "acaac?cac?ca"),
    ],
)
def test_cloudy_dates_are_wrong_in_the_midst_of_one_error_only(rng, dates, expected):
    days = [f"2022{month:02}{day:02}" for month in (4, 5) for day in range(3, 28, 4)]
    found = []
    for day, flag in zip(days, dates, strict=False):
        clouds = (0, 0, 0) if flag else (3000, 3000, 3000)
        found.append(seen(day, land(rng), *(flag or (False, False)), clouds))
    results = compare(found)
    letters = {"agrees": "a", "contradicts": "c", "undecided": "?"}
    assert "".join(letters[results[item.acquisition.id]] for item in found) == expected


def test_an_error_can_begin_with_a_processing_baseline(rng):
    """Old dates that were processed again have the baseline of the new ones."""
    found = []
    for number, day in enumerate(DAYS * 2):
        is_new = number % 2 == 1
        item = seen(day, land(rng), False, is_new, (0, 0, 0) if number != 5 else (3000,) * 3)
        baseline = "05.10" if is_new else "02.14"
        acquisition = replace(item.acquisition, id=f"{day}_{number}", baseline=baseline)
        found.append(replace(item, acquisition=acquisition))
    results = compare(found)
    wrong = [item.acquisition.id for item in found if item.acquisition.baseline == "05.10"]
    assert [id_ for id_, result in results.items() if result == "contradicts"] == sorted(wrong)


@pytest.fixture(scope="module", params=[True, False], ids=["masks", "no masks"])
def flanders(request):
    if not FLANDERS.is_dir():
        pytest.skip(reason=f"{FLANDERS} is not there")
    return read_series(FLANDERS, masked=request.param)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["absent", "present"])
def test_correct_metadata_of_real_acquisitions_are_accepted(flanders, rng, base):
    count = Count()
    for series in clean_subsets(flanders, rng, 40):
        none = np.zeros(len(series), bool)
        count.add(with_errors(series, base, "pixels", none), none)
    # Archives announce the offset from one date on.
    half = np.arange(len(flanders)) > len(flanders) / 2
    mixed = [
        replace(item, announced=bool(later), values=item.values + 1000 * later)
        for item, later in zip(flanders, half, strict=True)
    ]
    count.add(mixed, np.zeros(len(flanders), bool))
    assert count.false == 0


@pytest.mark.slow
@pytest.mark.parametrize("error", ["pixels", "metadata"])
@pytest.mark.parametrize("base", ["absent", "present"])
def test_wrong_metadata_of_real_acquisitions_are_found(flanders, rng, base, error):
    """The rates of every date and every beginning are printed by benchmarks.offset_errors."""
    later, half = Count(), Count()
    for is_wrong in [*patterns("later part", len(flanders), rng, 0)][5:-12:17]:
        later.add(with_errors(flanders, base, error, is_wrong), is_wrong)
    assert (later.complete, later.false) == (later.series, 0)
    for is_wrong in patterns("random half", len(flanders), rng, 2):
        half.add(with_errors(flanders, base, error, is_wrong), is_wrong)
    assert half.false == 0
    assert half.accepted == 0


def test_a_series_is_compared_again_only_if_it_has_changed(tmp_path, rng, monkeypatch):
    compared = []
    monkeypatch.setattr(
        "geo.imagery.offset_check.compare", lambda f: compared.append(len(f)) or compare(f)
    )

    def check():
        found = find_acquisitions(tmp_path / "i", bands=BANDS)
        with caching(tmp_path / "cache"):
            kept = check_offsets(found, CloudRules(), 2)
        n = len(compared)
        assert kept == check_offsets(found, CloudRules(), 2)  # nothing is kept of this one
        return kept.wrong, n

    for day in DAYS[:5]:
        write_as_safe(tmp_path / "i", day, land(rng), True, True)
    assert check() == ([], 1)
    compared.clear()
    assert check() == ([], 0)
    write_as_safe(tmp_path / "i", DAYS[5], land(rng), True, False)
    compared.clear()
    wrong, n = check()
    assert n == 1
    assert len(wrong) == 1
    # The same metadata, other pixels.
    write_as_safe(tmp_path / "i", DAYS[5], land(rng), True, True)
    assert check()[0] == []


def test_only_acquisitions_that_can_contradict_are_checked(tmp_path, rng):
    for day, baseline, offsets in (
        ("20210403", "03.01", None),
        ("20220413", "04.00", 0),
        ("20220423", "04.00", -1000),
        ("20220503", "04.00", -700),
    ):
        write_safe(
            tmp_path, rng, sensed=f"{day}T105031", bands=("B02",), baseline=baseline,
            offsets=offsets,
        )  # fmt: skip
    found = find_acquisitions(tmp_path)
    assert [can_contradict(item) for item in found] == [False, True, True, False]


def test_pixels_beside_nodata_are_not_dark(tmp_path, rng, monkeypatch):
    """Reduced resolutions of JPEG 2000 mix pixels with nodata, which is 0."""
    monkeypatch.setattr("geo.imagery.clear_pixels._SIDE", 700)  # every reduced pixel is a point
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
    with rasterio.open(image) as raster:
        reduced = raster.read(1, out_shape=(700, 700))
    dark_share = (reduced < 900)[reduced > 0].mean()
    assert dark_share > 0.001, "without mixed pixels, this test proves nothing"
    (seen,) = read_clear_pixels([replace(found, bands={"B04": band}, masks={})], CloudRules(), 1)
    assert seen.clear.mean() > 0.2
    # With six seeds, it is between an eighth and a twentieth.
    assert (seen.values[:, seen.clear] < 900).mean() < dark_share / 4
    assert seen.announced


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
    band = found.bands["B04"]
    expected = np.arange(side * side).reshape(side, side) % 5000 + 1
    # Two groups of columns: one window of each is read, and its points are those asked for.
    at = np.array([3, 9, 20, 800, 850, 899])
    x, y = 499_995 + 10 * (at + 0.5), 509_000 - 10 * (at + 0.5) - 5
    windows = []

    def usable(raw):
        windows.append(raw.shape)
        return has_data(band, raw)

    values, is_usable = read_points(band, x, y, usable)
    assert windows == [(18, 18), (18, 100), (100, 18), (100, 100)]
    assert is_usable.all()
    np.testing.assert_array_equal(values.reshape(6, 6), expected[np.ix_(at, at)])
    # Points outside the band are not usable.
    _, is_usable = read_points(band, np.append(x, 600_000), y, usable)
    assert is_usable.sum() == 36


@pytest.mark.parametrize(
    ("layout", "overviews", "expected"),
    [
        ({"tiled": True, "blockxsize": 64, "blockysize": 64}, [], True),
        ({"tiled": True, "blockxsize": 64, "blockysize": 64}, [2], False),
        ({}, [], False),  # only the strips with points are decoded
    ],
)
def test_large_tiles_without_overviews_are_read_in_windows(tmp_path, layout, overviews, expected):
    side = 750
    numbers = np.arange(side * side).reshape(side, side) % 5000 + 1
    with rasterio.open(
        tmp_path / "20220403.tif", "w", driver="GTiff", height=side, width=side, count=1,
        dtype="uint16", crs="EPSG:32631", nodata=0,
        transform=Affine(10, 0, 500_000, 0, -10, 5_600_000), **layout,
    ) as raster:  # fmt: skip
        raster.write(numbers.astype(np.uint16), 1)
        raster.descriptions = ["B04"]
        raster.build_overviews(overviews)
    (found,) = find_acquisitions(tmp_path)
    assert is_read_in_windows(found.bands["B04"]) == expected
    (seen,) = read_clear_pixels([found], CloudRules(), 1)
    assert seen.clear.all()
    if expected:  # five windows of 12 points, 1,400 m wide
        at = (np.linspace(0, 610, 5)[:, None] + np.linspace(0, 140, 12, endpoint=False)).astype(int)
        np.testing.assert_array_equal(
            seen.values[0], numbers[np.ix_(at.ravel(), at.ravel())].ravel()
        )


def test_cloudy_pixels_and_those_beside_them_are_left_out(tmp_path, rng):
    bands = ("B02", "B04", "B12", "SCL")
    scene = {band: np.full((60, 60), 3000, np.uint16) for band in ("B02", "B04")}
    scene |= {"B12": np.full((30, 30), 3000, np.uint16), "SCL": np.full((30, 30), 4, np.uint8)}
    scene["SCL"][10:12, 20:22] = 9
    write_safe(tmp_path, rng, bands=bands, numbers=scene, offsets=-1000)
    (item,) = find_acquisitions(tmp_path)
    (pixels,) = read_clear_pixels([item], CloudRules(), 1)
    expected = np.ones((30, 30), bool)
    expected[7:15, 17:25] = False
    np.testing.assert_array_equal(pixels.clear.reshape(30, 30), expected)
    # If a run uses no masks, those of the products still tell where the check can look.
    assert check_offsets([item], CloudRules(masks=()), 1).results == {item.id: "undecided"}


def test_acquisitions_of_other_extents_are_compared_at_the_same_points(tmp_path, rng):
    scene = land(rng)
    for day, part in zip(DAYS, (slice(0, 60), slice(10, 60), slice(0, 40)), strict=False):
        folder = tmp_path / day
        write_as_tiff(folder, day, {b: v[part] for b, v in scene.items()}, False, False)
        with rasterio.open(folder / f"{day}.tif", "r+") as raster:
            raster.transform = Affine(10, 0, 500_000, 0, -10, 5_600_000 - 10 * part.start)
    items = [item for day in DAYS[:3] for item in find_acquisitions(tmp_path / day)]
    whole, *others = read_clear_pixels(items, CloudRules(), 2)
    for other in others:
        np.testing.assert_array_equal(
            other.values[:, other.clear], whole.values[:, other.clear], strict=True
        )
    assert [item.clear.sum() for item in (whole, *others)] == [3600, 3000, 2400]
