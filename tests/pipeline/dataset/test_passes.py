"""Passes of the satellites: those that are missing are exactly those that were taken out."""

import json
from datetime import date, timedelta
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from pipeline.dataset.passes import expected_passes, orbit_of
from pipeline.workflow.acquisition_table import AcquisitionRow
from tests.builders.paths import DATA

BOTH = date(2018, 3, 1)
FLANDERS = DATA / "flanders-2018"


def row(day, orbit=None, tile="31UDS", **fields):
    name = f"S2A_{day:%Y%m%d}" + ("" if orbit is None else f"_R{orbit:03}_T{tile}")
    return AcquisitionRow(name, tile, day, Path(f"{name}.SAFE"), **fields)


def days(first, last, step=1):
    return [first + timedelta(days=n) for n in range(0, (last - first).days + 1, step)]


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_the_missing_dates_are_those_that_were_taken_out(seed, is_named):
    rng = np.random.default_rng(seed)
    first, last = date(2017, 3, 1), date(2019, 2, 1)
    rows, taken, n_expected = [], {}, {}
    for orbit, phase in zip((8, 51, 94), rng.permutation(5), strict=False):
        # The second satellite begins later.
        a = days(first + timedelta(days=int(phase)), last, 10)
        b = days(first + timedelta(days=int(phase) + 5 + 10 * int(rng.integers(10, 30))), last, 10)
        inner = [*a[1:], *b[1:]]
        out = {inner[i] for i in rng.choice(len(inner), 20, replace=False)} - {max(a + b)}
        rows += [row(day, orbit if is_named else None) for day in (*a, *b) if day not in out]
        taken[phase], n_expected[phase] = out, len(a) + len(b)
    rng.shuffle(rows)
    tracks = expected_passes(rows, None, None)
    newest = max(one.date for one in rows)
    assert sorted(track.orbit or 0 for track in tracks) == ([8, 51, 94] if is_named else [0] * 3)
    found = {(t.missing[0] - first).days % 5: t for t in tracks}
    for phase, out in taken.items():
        assert found[phase].missing == sorted(out)
        assert found[phase].every_days == 5
        # Nothing is expected behind the last acquisition of all.
        assert n_expected[phase] - 1 <= len(found[phase].expected) <= n_expected[phase]
        assert max(found[phase].expected) <= newest


@pytest.mark.skipif(not FLANDERS.is_dir(), reason=f"{FLANDERS} is not there")
@pytest.mark.parametrize("orbits", [{0: 51, 3: 8}, {}])
def test_the_holes_of_a_real_series(orbits):
    (path,) = FLANDERS.glob("S2_L2A_10m*.nc")
    with netCDF4.Dataset(path) as file:
        times = file["timestamp"]
        start = date.fromisoformat(times.units.split()[2])
        seen = {start + timedelta(seconds=int(time) + 10 * 3600) for time in times[:]}
    tracks = expected_passes([row(d, orbits.get(d.toordinal() % 5)) for d in seen], None, None)
    assert [t.orbit for t in tracks] == ([51, 8] if orbits else [None, None])
    total = 0
    for track in tracks:
        phase = track.first.toordinal() % 5
        missing = []
        for day in days(min(seen), max(seen)):
            earlier = [d for d in seen if d <= day and (day - d).days % 10 == 0]
            is_pass = day.toordinal() % 5 == phase and (earlier or day >= BOTH)
            if is_pass and day not in seen:
                missing.append(day)
        assert track.missing == missing
        total += len(track.expected) - len(missing)
    assert total == len(seen) == 118
    assert date(2018, 6, 5) in tracks[0].missing  # between 31 May and 10 June


def test_one_satellite_is_expected_every_ten_days_before_the_second_began():
    seen = days(date(2016, 1, 3), date(2016, 12, 31), 10)
    (track,) = expected_passes([row(d, 51) for d in seen if d != seen[4]], None, None)
    assert (track.every_days, track.missing) == (10, [seen[4]])
    assert track.expected == seen


def test_both_satellites_are_expected_later_even_if_one_was_never_found():
    seen = days(date(2020, 1, 3), date(2020, 4, 1), 10)
    (track,) = expected_passes([row(d, 51) for d in seen], None, None)
    assert track.every_days == 5
    assert track.missing == [d + timedelta(days=5) for d in seen[:-1]]


def test_the_whole_period_that_was_asked_for_is_compared():
    seen = [row(date(2021, 5, 1), 51), row(date(2021, 5, 6), 51), row(date(2021, 6, 30), None, "X")]
    track = expected_passes(seen, date(2021, 4, 10), date(2021, 12, 31))[0]
    assert track.expected == days(date(2021, 4, 11), date(2021, 6, 30), 5)
    assert track.missing == [d for d in track.expected if d.month != 5 or d.day > 6]


NOTHING = {
    "an orbit seen once": ([row(date(2020, 1, 1), 51)], 1),
    "two dates of unknown orbits": ([row(date(2020, 1, 1)), row(date(2020, 1, 11))], 1),
    "monthly composites": ([row(date(2020, month, 15)) for month in range(1, 13)], None),
    "a simulated scene": (
        [row(d, 51, platform="Simulated") for d in days(date(2020, 1, 1), date(2020, 3, 1), 10)], 0,
    ),
    "no acquisition": ([], 0),
    "damaged files without a tile": ([row(d, tile="") for d in days(BOTH, BOTH, 1)], 0),
}  # fmt: skip


@pytest.mark.parametrize("case", NOTHING)
def test_nothing_is_claimed_that_is_not_known(case):
    rows, n_tracks = NOTHING[case]
    tracks = expected_passes(rows, date(2019, 1, 1), date(2021, 1, 1))
    assert n_tracks is None or len(tracks) == n_tracks
    assert not any(track.expected or track.missing for track in tracks)


def test_nothing_is_expected_in_the_month_in_which_a_satellite_was_replaced():
    seen = [row(d, 51) for d in days(date(2024, 11, 1), date(2025, 4, 30), 5)]
    rows = [one for one in seen if one.date.month not in (1, 3)]
    (track,) = expected_passes(rows, None, None)
    assert {day.month for day in track.missing} == {3}


def test_near_midnight_the_date_of_an_orbit_varies():
    seen = days(date(2020, 1, 1), date(2020, 6, 1), 5)
    varied = [d + timedelta(days=number % 3 == 0) for number, d in enumerate(seen)]
    (track,) = expected_passes([row(d, 30) for d in varied], None, None)
    assert (track.every_days, track.missing) == (5, [])


def test_acquisitions_of_unknown_orbits_belong_to_the_orbit_of_their_dates():
    seen = days(date(2020, 1, 1), date(2020, 6, 1), 5)
    rows = [row(d, 51 if number % 2 else None) for number, d in enumerate(seen) if number != 7]
    (track,) = expected_passes(rows, None, None)
    assert (track.orbit, track.missing) == (51, [seen[7]])


@pytest.mark.parametrize(
    ("name", "product", "orbit"),
    [
        ("S2A_MSIL2A_20180405T105031_N0206_R051_T31UES_20180405T130217", "a", 51),
        ("x", "S2B_MSIL1C_20230912T133839_N0509_R124_T22MHD_20230912T165102.SAFE", 124),
        ("x", "S2A_OPER_PRD_MSIL1C_PDMC_20160607T183552_R094_V20160607T105031.SAFE", 94),
        ("x", "S2A_MSIL2A_20250330T100051_N0511_R122.zarr", 122),
        ("S2A_31UES_20180405_0_L2A", "R10m", None),
        ("20180405_R1234", "PR051.tif", None),
    ],
)
def test_the_orbit_is_in_names(name, product, orbit):
    assert orbit_of(AcquisitionRow(name, "31UES", BOTH, Path(product))) == orbit


@pytest.mark.parametrize(
    ("text", "orbit"),
    [
        (json.dumps({"properties": {"sat:relative_orbit": 51}}), 51),
        (json.dumps({"properties": {"s2:product_uri": "S2A_MSIL2A_2018_N0206_R008_T31UES"}}), 8),
        (json.dumps({"properties": {"sentinel:product_id": "S2A_MSIL2A_2018_N0206_R008_T3"}}), 8),
        ("{", None),
        ("[]", None),
        ("[" * 100_000, None),
    ],
)
def test_the_orbit_is_in_items(tmp_path, text, orbit):
    path = tmp_path / "item.json"
    path.write_text(text)
    assert orbit_of(AcquisitionRow("x", "31UES", BOTH, path, format="stac")) == orbit
