"""The dataset on disk: what the reference's loader expects, and what reads it back."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
from preparation import example, opened, prepare_dataset, read_pixels, read_valid

from geo.pixels.gap_filling import fill_linear
from pipeline.acquisitions.tiles import read_grids
from pipeline.dataset.normalisation_pickle import read_normalisation
from pipeline.dataset.npy_files import file_name
from pipeline.stages.assemble import assemble
from pipeline.workflow.config import view
from pipeline.workflow.paths import DatasetPaths


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    from demo import simulate

    folder = tmp_path_factory.mktemp("scene")
    simulate(
        folder / "imagery",
        folder / "register.gpkg",
        seed=5,
        size_m=1280,
        acquisitions=4,
        parcels=60,
    )
    return folder


@pytest.fixture(scope="module")
def settings(scene):
    return example(
        "demo",
        simulate=None,
        imagery={"path": scene / "imagery", "max_cloud_fraction": 1.0},
        parcels={"path": scene / "register.gpkg", "classes": {"min_parcels": 5}},
    )


@pytest.fixture(scope="module")
def run(scene, settings):
    return prepare_dataset(settings, scene / "run")


def test_the_files_are_those_that_the_reference_reads(run):
    """Reads as `PixelSetData` does: its keys, its dtypes, its assumptions."""
    data, meta = run.dataset.pixels, run.dataset.root / "META"
    ids = sorted(int(path.stem) for path in data.glob("*.npy"))
    dates = json.loads((meta / "dates.json").read_text())
    positions = [dates[str(i)] for i in range(len(dates))]
    assert positions == sorted(positions)
    assert all(isinstance(date, int) and 20_000_000 < date < 21_000_000 for date in positions)
    labels = json.loads((meta / "labels.json").read_text())["crop"]
    features = json.loads((meta / "geomfeat.json").read_text())
    frame = pd.DataFrame(features).transpose()
    assert frame.shape == (len(ids), 4)
    assert np.isfinite(frame.mean(axis=0)).all()
    sizes = json.loads((meta / "sizes.json").read_text())
    means, stds = pickle.loads(run.dataset.normalisation.read_bytes())  # noqa: S301 - our own
    for parcel_id in map(str, ids):
        pixels = np.load(data / f"{parcel_id}.npy")
        assert pixels.dtype == np.uint16
        assert pixels.shape == (len(positions), 10, sizes[parcel_id])
        assert ((pixels.swapaxes(1, 2) - means) / stds).shape == (*pixels.shape[::2], 10)
        assert parcel_id in labels
    assert set(features) == set(labels) == set(sizes) == set(map(str, ids))


def test_the_normalisation_is_that_of_all_pixels(run):
    arrays = [np.load(path) for path in run.dataset.pixels.glob("*.npy")]
    together = np.concatenate(arrays, axis=2).astype(np.float64)
    means, stds = read_normalisation(run.dataset.normalisation)
    np.testing.assert_allclose(means, together.mean(axis=(0, 2)), rtol=1e-12)
    np.testing.assert_allclose(stds, together.std(axis=(0, 2)), rtol=1e-10)


def test_memory_and_filling(run, settings, tmp_path):
    """A limit far below the dataset's size changes no file; filling is that of a parcel alone."""
    indices = [run.pixel_index(tile) for tile in read_grids(run.grids)]
    small = view(settings, "assemble")
    small.assemble = replace_memory(settings, 1)
    assemble(
        run.acquisitions, run.extractions, indices, run.parcels, run.classes, run.cleaned,
        tmp_path, tmp_path / "ledger.csv", small, 2,
    )  # fmt: skip
    kept = view(settings, "assemble")
    kept.clouds = settings.clouds.model_copy(update={"fill": "none"})
    raw = tmp_path / "raw"
    assemble(
        run.acquisitions, run.extractions, indices, run.parcels, run.classes, run.cleaned,
        raw, raw / "ledger.csv", kept,
    )  # fmt: skip
    whole, parts, unfilled = run.dataset, DatasetPaths(tmp_path), DatasetPaths(raw)
    dates = json.loads(whole.dates.read_text()).values()
    days = pd.to_datetime([str(d) for d in dates])
    days = np.asarray((days - days[0]).days, np.int64)
    n_bytes = sum(path.stat().st_size for path in whole.pixels.iterdir())
    assert n_bytes > 500_000
    for path in whole.pixels.iterdir():
        assert (parts.pixels / path.name).read_bytes() == path.read_bytes()
        parcel_id = path.stem
        valid = read_valid(whole, parcel_id)
        assert np.array_equal(valid, read_valid(unfilled, parcel_id))
        filled = read_pixels(unfilled, parcel_id)
        fill_linear(filled, valid, days)
        assert np.array_equal(filled, read_pixels(whole, parcel_id))


def replace_memory(settings, memory_mb):
    return settings.assemble.model_copy(update={"memory_mb": memory_mb})


def test_loading_gives_every_parcel_back(run):
    data = opened(run).pixel_sets(with_features=True)
    for i, parcel_id in enumerate(data.ids):
        pixels = data.pixels[data.offsets[i] : data.offsets[i + 1]]
        assert np.array_equal(pixels.transpose(1, 2, 0), read_pixels(run.dataset, parcel_id))
    labels = json.loads(run.dataset.labels.read_text())["crop"]
    codes = [land.code for land in opened(run).classes]
    for parcel_id, label in zip(data.ids, opened(run).labels, strict=True):
        assert label == (codes.index(labels[parcel_id]) if labels[parcel_id] in codes else -1)


def test_any_id_can_be_a_file_name():
    ids = ["12", "012", "a/b", "..", "Bröd 4", "x%2Fb", "A:B"]
    names = [file_name(i) for i in ids]
    assert len(set(names)) == len(ids)
    assert names[0] == "12.npy"
    assert all("/" not in name for name in names)
    assert file_name("..") == "...npy"
