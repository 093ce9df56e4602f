"""The values of an existing dataset: their unit, and what is nodata. The oracle is numpy."""

import logging
import pickle

import numpy as np
import pytest

from geo.errors import InputError
from pipeline.dataset.normalisation_pickle import read_normalisation
from tests.builders.pixel_sets import BANDS, SEASON, ingest_folder, make, write, write_arrays
from tests.builders.runs import opened, read_pixels, read_valid

DAYS = np.array([(day - SEASON[0]).days for day in SEASON], float)


@pytest.fixture
def source(tmp_path):
    return tmp_path / "existing"


def stored(parcels):
    return {parcel_id: pixels for parcel_id, (_, pixels, _) in parcels.items()}


def interpolated(pixels, has_data):
    """Fill pixels (T, C, S) with numpy where they have no data (T, S)."""
    filled = pixels.astype(float)
    for s in range(pixels.shape[2]):
        for c in range(pixels.shape[1]):
            own = has_data[:, s]
            filled[:, c, s] = np.interp(DAYS, DAYS[own], filled[own, c, s])
    return np.floor(filled + 0.5).astype(np.uint16)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [">u2", "<u2", ">i4", "u8"])
def test_byte_order_axis_order_and_width_change_nothing(source, tmp_path, dtype, order):
    parcels = stored(make(source))
    for parcel_id, pixels in parcels.items():
        np.save(source / "DATA" / f"{parcel_id}.npy", np.array(pixels, dtype, order=order))
    run = ingest_folder(source, tmp_path / "run")
    data = opened(run)
    for i, (parcel_id, pixels) in enumerate(parcels.items()):
        assert np.array_equal(read_pixels(run.dataset, parcel_id), pixels)
        assert np.array_equal(data[i]["pixels"], pixels)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_reflectance(source, tmp_path, dtype):
    parcels = stored(make(source, pickled=False))
    values = {i: (pixels / 10_000).astype(dtype) for i, pixels in parcels.items()}
    write_arrays(source / "DATA", values)
    every = np.concatenate([v.transpose(1, 0, 2).reshape(4, -1) for v in values.values()], 1)
    pair = every.mean(1, dtype=float), every.std(1, dtype=float)
    (source / "normalisation_values.pkl").write_bytes(pickle.dumps(pair))
    run = ingest_folder(source, tmp_path / "run")
    for parcel_id, own in values.items():
        found = read_pixels(run.dataset, parcel_id)
        assert found.dtype == np.uint16
        assert np.array_equal(found, np.floor(own.astype(float) * 10_000 + 0.5))
    # The normalisation is in the unit of the arrays, too.
    for found, expected in zip(read_normalisation(run.dataset.normalisation), pair, strict=True):
        np.testing.assert_allclose(found, expected * 10_000, rtol=1e-12)


@pytest.mark.parametrize(
    ("factor", "scale"), [(1, 0.0001), (0.01, 0.01), (0.1, 0.001), (0.02, 0.005)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_a_stated_scale_converts(source, tmp_path, factor, scale, dtype):
    parcels = stored(make(source, pickled=False))
    values = {i: (pixels * factor).astype(dtype) for i, pixels in parcels.items()}
    write_arrays(source / "DATA", values)
    run = ingest_folder(source, tmp_path / "run", reflectance_scale=scale)
    for parcel_id, own in values.items():
        expected = np.floor(own.astype(float) * (scale * 10_000) + 0.5)
        found = read_pixels(run.dataset, parcel_id)
        assert np.abs(found - np.minimum(expected, 20_000)).max() <= 1


IMPLAUSIBLE = {
    "floats x 10,000": (np.float32, 1, None, r"Set dataset\.reflectance_scale to 0\.0001, if"),
    "floats in percent": (np.float32, 0.01, None, r"Set dataset\.reflectance_scale to 0\.01, if"),
    "floats, and a scale for integers": (np.float32, 1e-4, 0.0001, r"reflectance_scale to 1, if"),
    "integers, and a scale for floats": (np.uint16, 1, 1, r"reflectance_scale to 0\.0001, if"),
    "radiance": (np.float64, 1e9, None, r"to the factor from stored values to reflectance\."),
    "integers x 1,000,000": (np.uint32, 100, None, r"expected a median from 0\.002 to 1\.5"),
    "integers in percent": (np.uint16, 0.01, None, r"reflectance_scale to 0\.01, if"),
}


@pytest.mark.parametrize("case", IMPLAUSIBLE)
def test_a_scale_that_is_not_plausible_is_refused(source, tmp_path, case):
    dtype, factor, scale, message = IMPLAUSIBLE[case]
    parcels = stored(make(source, pickled=False))
    write_arrays(source / "DATA", {i: (p * factor).astype(dtype) for i, p in parcels.items()})
    with pytest.raises(InputError, match=r"DATA: the median of the stored values.*" + message):
        ingest_folder(source, tmp_path / "run", reflectance_scale=scale)


def test_a_scale_that_makes_parcels_as_dark_as_water_is_said(source, tmp_path, caplog):
    parcels = stored(make(source, pickled=False))
    thousandths = {i: (p * 0.1).astype(np.uint16) for i, p in parcels.items()}
    write_arrays(source / "DATA", thousandths)
    with caplog.at_level(logging.WARNING):
        ingest_folder(source, tmp_path / "run")
    assert "as dark as water or burnt land. Set dataset.reflectance_scale to 0.001" in caplog.text


def test_a_normalisation_in_another_unit_is_refused(source, tmp_path):
    """The pickle has reflectance x 10,000, the arrays have reflectance."""
    parcels = stored(make(source))
    write_arrays(source / "DATA", {i: p / 10_000 for i, p in parcels.items()})
    with pytest.raises(InputError, match=r"normalisation_values\.pkl.*are in different units"):
        ingest_folder(source, tmp_path / "run")


@pytest.mark.parametrize("fill", [None, "linear", "none"])
@pytest.mark.parametrize("nodata", [0, 65535])
def test_zeros_without_valid_are_not_reflectance(source, tmp_path, caplog, nodata, fill):
    """A date of one parcel, single pixels of another, a pixel on all dates, a whole parcel."""
    parcels = stored(make(source, pickled=False))
    if fill is not None:
        write(source / "META" / "dataset.json", {"fill": fill, "bands": BANDS})
    large = [i for i, p in parcels.items() if p.shape[2] >= 4]
    date, single, pixel, whole = large[:4]
    has_data = {i: np.ones((7, p.shape[2]), bool) for i, p in parcels.items()}
    has_data[date][2] = False
    has_data[single][[0, 3, 6], [1, 1, 0]] = False
    has_data[pixel][:, 2] = False
    has_data[whole][:] = False
    # 0 in some channels is the reflectance of a dark surface.
    parcels[single][4, :3, 3] = 0
    for parcel_id in (date, single, pixel, whole):
        spoilt = np.where(has_data[parcel_id][:, None], parcels[parcel_id], nodata)
        np.save(source / "DATA" / f"{parcel_id}.npy", spoilt.astype(np.uint16))
    with caplog.at_level(logging.WARNING):
        run = ingest_folder(source, tmp_path / "run")

    data = opened(run)
    assert whole not in data.ids
    assert data.description["fill"] == (fill or "linear")
    assert data.masks_clouds == (fill == "none")
    for i, parcel_id in enumerate(data.ids):
        kept = has_data[parcel_id].any(axis=0)
        expected, clear = parcels[parcel_id][:, :, kept], has_data[parcel_id][:, kept]
        item = data[i]
        assert np.array_equal(item["clear"], clear)
        assert np.array_equal(read_valid(run.dataset, parcel_id), clear)
        if fill != "none":
            expected = interpolated(expected, clear)
            assert np.array_equal(item["pixels"], expected)
            assert np.array_equal(read_pixels(run.dataset, parcel_id), expected)
        else:
            seen = np.broadcast_to(clear[:, None], expected.shape)
            assert np.array_equal(item["pixels"][seen], expected[seen])
        assert data.n_dates[i] == clear.any(axis=1).sum()
    (message,) = [r.getMessage() for r in caplog.records if "have no data" in r.getMessage()]
    lost = sum(int((~has_data[i]).sum()) for i in data.ids)
    assert message.startswith(f"{lost} of {sum(has_data[i].size for i in data.ids)} observations")
    assert "of 3 parcels, have no data" in message
    assert f"none of a parcel on {SEASON[2]} (1 parcels)" in message


def test_zeros_with_valid_are_reflectance(source, tmp_path, caplog):
    """VALID says what is data."""
    parcels = stored(make(source))
    first = next(iter(parcels))
    parcels[first][2] = 0
    np.save(source / "DATA" / f"{first}.npy", parcels[first])
    write_arrays(source / "VALID", {i: np.ones((7, p.shape[2]), bool) for i, p in parcels.items()})
    run = ingest_folder(source, tmp_path / "run")
    assert run.dataset.pixels.is_symlink()
    assert np.array_equal(opened(run)[0]["pixels"], parcels[first])
    assert opened(run)[0]["clear"].all()
    assert not [r for r in caplog.records if "have no data" in r.getMessage()]


@pytest.mark.parametrize("with_valid", [False, True])
@pytest.mark.parametrize("marker", [np.nan, np.inf, -9999, -0.21, 2.01, 1e20])
def test_floats_that_are_no_reflectance_are_nodata(source, tmp_path, marker, with_valid):
    parcels = stored(make(source, pickled=False))
    values = {i: pixels / 20_000 for i, pixels in parcels.items()}
    first = next(i for i, p in parcels.items() if p.shape[2] >= 3)
    # In a single channel; and a reflectance that is slightly negative, which is common in shade.
    values[first][3, 1, 1] = marker
    values[first][4, 0, 0] = -0.19
    write_arrays(source / "DATA", values)
    if with_valid:
        clear = {i: np.ones((7, p.shape[2]), bool) for i, p in parcels.items()}
        # A cloud that is marked as NaN in DATA, too.
        clear[first][3, 1] = False
        write_arrays(source / "VALID", clear)
    run = ingest_folder(source, tmp_path / "run")
    has_data = np.ones((7, values[first].shape[2]), bool)
    has_data[3, 1] = False
    clipped = np.floor(np.nan_to_num(values[first], posinf=0).clip(0, 9) * 10_000 + 0.5)
    found = opened(run)[opened(run).ids.index(first)]
    assert np.array_equal(found["pixels"], interpolated(clipped, has_data))
    assert np.array_equal(found["clear"], has_data)


@pytest.mark.parametrize("marker", [-9999, -32768, 32767])
def test_signed_integers_below_zero_are_dark_or_nodata(source, tmp_path, marker):
    parcels = stored(make(source, pickled=False))
    values = {i: pixels.astype(np.int16) for i, pixels in parcels.items()}
    first = next(iter(values))
    values[first][1, 2, 0], values[first][5, 0, 0] = marker, -12
    write_arrays(source / "DATA", values)
    run = ingest_folder(source, tmp_path / "run")
    has_data = np.ones((7, values[first].shape[2]), bool)
    has_data[1, 0] = False
    expected = interpolated(values[first].clip(0), has_data)
    assert np.array_equal(opened(run)[0]["pixels"], expected)
    assert expected[5, 0, 0] == 0


def test_a_dataset_of_nothing_but_zeros_is_refused(source, tmp_path):
    parcels = stored(make(source))
    write_arrays(source / "DATA", {i: np.zeros_like(p) for i, p in parcels.items()})
    with pytest.raises(InputError, match=r"No parcel of .* has a pixel that is clear on a date"):
        ingest_folder(source, tmp_path / "run")


def test_missing_positions_are_named(source, tmp_path):
    make(source)
    write(source / "META" / "positions.json", {"100": [1, 2], "103": [4.5, -3]})
    run = ingest_folder(source, tmp_path / "run")
    with pytest.raises(InputError, match=r"positions\.json lacks 58 parcels, such as 106"):
        _ = opened(run).positions
