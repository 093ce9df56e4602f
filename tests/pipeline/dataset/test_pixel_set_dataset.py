"""The dataset of a run: its files are those of the reference, and it is read back unchanged."""

import json
import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from geo.errors import InputError
from geo.grid import read_grids
from geo.pixels.gap_filling import fill_linear
from pipeline.dataset.normalisation_pickle import read_normalisation
from pipeline.dataset.npy_files import file_name
from pipeline.dataset.pixel_set_dataset import PixelSetDataset, pad
from pipeline.stages.calibrate import calibrate
from pipeline.stages.evaluate import evaluate
from pipeline.stages.export import export
from pipeline.stages.normalise import normalise
from pipeline.stages.predict import predict
from pipeline.stages.report import report
from pipeline.stages.split import split
from pipeline.stages.train import train
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import DatasetPaths, RunPaths
from pipeline.workflow.settings import STAGE_SETTINGS
from tests.builders.pixel_sets import BANDS, ingest_dataset, ingest_folder, make
from tests.builders.runs import (
    assemble_tiles,
    example,
    opened,
    prepare_dataset,
    read_pixels,
    read_valid,
    recorded,
)


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


def test_the_files_have_the_layout_of_the_reference(run):
    """Read as `PixelSetData` reads: same keys, types and assumptions."""
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


def test_the_normalisation_is_computed_from_all_pixels(run):
    arrays = [np.load(path) for path in run.dataset.pixels.glob("*.npy")]
    together = np.concatenate(arrays, axis=2).astype(np.float64)
    means, stds = read_normalisation(run.dataset.normalisation)
    np.testing.assert_allclose(means, together.mean(axis=(0, 2)), rtol=1e-12)
    np.testing.assert_allclose(stds, together.std(axis=(0, 2)), rtol=1e-10)


def test_neither_batches_nor_neighbours_change_interpolation(run, settings, tmp_path):
    """Compare with a smaller memory limit, and with interpolating each parcel alone."""
    tiles = list(read_grids(run.grids))
    small = settings.model_copy(update={"assemble": settings.assemble.model_copy(
        update={"memory_mb": 1})})  # fmt: skip
    raw = settings.model_copy(update={"clouds": settings.clouds.model_copy(
        update={"fill": "none"})})  # fmt: skip
    whole = run.dataset
    parts, masked = DatasetPaths(tmp_path / "parts"), DatasetPaths(tmp_path / "raw")
    for dataset, own in ((parts, small), (masked, raw)):
        folders = assemble_tiles(run, tiles, own, 2, dataset.root)
        export(folders, dataset.root, view(own, "export"))
    dates = json.loads(whole.dates.read_text()).values()
    days = pd.to_datetime([str(d) for d in dates])
    days = np.asarray((days - days[0]).days, np.int64)
    n_bytes = sum(path.stat().st_size for path in whole.pixels.iterdir())
    assert n_bytes > 500_000
    for path in whole.pixels.iterdir():
        assert (parts.pixels / path.name).read_bytes() == path.read_bytes()
        parcel_id = path.stem
        clear = read_valid(whole, parcel_id)
        assert np.array_equal(clear, read_valid(masked, parcel_id))
        expected = read_pixels(masked, parcel_id)
        fill_linear(expected, clear, days)
        assert np.array_equal(expected, read_pixels(whole, parcel_id))


def test_pixel_sets_contain_every_parcel(run):
    data = opened(run).pixel_sets(with_features=True)
    for i, parcel_id in enumerate(data.ids):
        pixels = data.pixels[data.offsets[i] : data.offsets[i + 1]]
        assert np.array_equal(pixels.transpose(1, 2, 0), read_pixels(run.dataset, parcel_id))
    labels = json.loads(run.dataset.labels.read_text())["crop"]
    codes = [crop.code for crop in opened(run).classes]
    for parcel_id, label in zip(data.ids, opened(run).labels, strict=True):
        assert label == (codes.index(labels[parcel_id]) if labels[parcel_id] in codes else -1)


def test_an_item_equals_the_files_of_its_parcel(run):
    dataset = opened(run)
    codes, features = (
        json.loads(path.read_text()) for path in (run.dataset.labels, run.dataset.features)
    )
    for i in (0, 5, len(dataset) - 1, -1):
        parcel, parcel_id = dataset[i], dataset.ids[i]
        assert parcel["id"] == parcel_id
        assert np.array_equal(parcel["pixels"], read_pixels(run.dataset, parcel_id))
        assert np.array_equal(parcel["clear"], read_valid(run.dataset, parcel_id))
        assert parcel["days"].tolist() == [(d - dataset.dates[0]).days for d in dataset.dates]
        assert parcel["features"].tolist() == features[parcel_id]
        assert dataset.classes[parcel["label"]].code == codes["crop"][parcel_id]
        assert all(a.flags.writeable for a in parcel.values() if isinstance(a, np.ndarray))
    with pytest.raises(IndexError, match=f"has {len(dataset)} parcels, found index {len(dataset)}"):
        dataset[len(dataset)]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_data_loader_returns_every_parcel(run, n_workers):
    from torch.utils.data import DataLoader

    dataset = opened(run)
    loader = DataLoader(dataset, batch_size=7, collate_fn=pad, num_workers=n_workers)
    found = {}
    for batch in loader:
        assert batch["pixels"].shape[0] == len(batch["id"]) <= 7
        assert batch["observed"].all()
        for i, parcel_id in enumerate(batch["id"]):
            own = read_pixels(run.dataset, parcel_id)
            pixels, clear = batch["pixels"][i], batch["clear"][i]
            size = own.shape[2]
            assert np.array_equal(pixels[..., :size], own)
            assert np.array_equal(clear[:, :size], read_valid(run.dataset, parcel_id))
            assert not pixels[..., size:].any()
            assert not clear[:, size:].any()
            found[parcel_id] = batch["label"][i]
    assert list(found) == dataset.ids
    assert list(found.values()) == dataset.labels.tolist()


def test_a_data_loader_without_collate_function_returns_tensors(run):
    from torch import Tensor
    from torch.utils.data import DataLoader

    dataset = opened(run)
    for i, parcel in enumerate(DataLoader(dataset, batch_size=None)):
        assert isinstance(parcel["pixels"], Tensor)
        assert np.array_equal(parcel["pixels"].numpy(), dataset[i]["pixels"])


def test_the_example_in_the_docstring_runs(run, monkeypatch):
    from doctest import DocTestFinder, DocTestRunner

    (run.root.parent / "results").mkdir(exist_ok=True)
    link = run.root.parent / "results" / "demo"
    link.unlink(missing_ok=True)
    link.symlink_to(run.root, target_is_directory=True)
    monkeypatch.chdir(run.root.parent)
    (test,) = [
        test for test in DocTestFinder().find(PixelSetDataset, "it", globs={
            "PixelSetDataset": PixelSetDataset, "Path": Path, "pad": pad,
        }) if test.examples
    ]  # fmt: skip
    assert len(test.examples) == 4
    assert DocTestRunner().run(test) == (0, 4)
    assert test.globs is not None


def test_pickling_opens_the_dataset_again_without_its_arrays(run):
    dataset = opened(run)
    dataset.pixels  # noqa: B018 - mapped
    sent = pickle.dumps(dataset)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent)[3]["pixels"], dataset[3]["pixels"])  # noqa: S301


def test_an_existing_dataset_must_be_ingested_first(tmp_path):
    make(tmp_path, 10)
    with pytest.raises(
        InputError, match=r"META/tiles\.json: it was not made.* Set dataset\.path to it"
    ):
        PixelSetDataset.open(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("own_dates", [False, True])
def test_every_stage_reads_every_table_once(tmp_path, monkeypatch, own_dates):
    source, run = tmp_path / "existing", RunPaths(tmp_path / "run")
    make(source, 40, own_dates=own_dates, pickled=False)
    existing = {"path": source, "bands": BANDS, "classes": {"min_parcels": 5}}
    train_options = {"epochs": 1, "batch_size": 16, "members": 1, "device": "cpu"}
    settings = load({"dataset": existing, "split": {"folds": 2}, "train": train_options})
    ingest_dataset(settings, run)
    views = {stage: view(settings, stage) for stage in STAGE_SETTINGS}
    dataset = run.dataset.root
    reads = Counter()
    open_file = Path.open

    def counted(path, *arguments, **options):
        reads[path.name] += path.parent.name == "META"
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", counted)
    torch.set_num_threads(1)
    for stage in (
        lambda: normalise(dataset, run.dataset.normalisation, views["normalise"]),
        lambda: split(dataset, run.folds, views["split"]),
        lambda: train(dataset, run.folds, 1, run.fold(1), views["train"]),
        lambda: train(dataset, run.folds, 2, run.fold(2), views["train"]),
        lambda: calibrate(dataset, run.folds, run.models, views["calibrate"]),
        lambda: evaluate(dataset, run.folds, run.models, views["evaluate"]),
        lambda: predict(
            dataset, run.models, run.ledger, run.predictions, views["predict"], folds=run.folds
        ),
        lambda: report(run.root, run.report, recorded(settings, run), views["report"]),
    ):
        reads.clear()
        stage()
        assert set(reads.values()) <= {0, 1}, reads
        assert reads["sizes.json"] == 1


def test_ids_become_different_file_names():
    ids = ["12", "012", "a/b", "..", "Bröd 4", "x%2Fb", "A:B"]
    names = [file_name(i) for i in ids]
    assert len(set(names)) == len(ids)
    assert names[0] == "12.npy"
    assert all("/" not in name for name in names)
    assert file_name("..") == "...npy"


LONG = "Парцел-в-землището-на-село-Голямо-Белово-община-Белово-№-"


def test_long_ids_become_different_short_file_names():
    """The limit of file systems is 255 bytes; a letter of these ids is %-encoded as 6."""
    ids = [LONG * n + last for n in (1, 2, 9) for last in "12"]
    # Cut at every place, also within a %-encoded letter.
    ids += ["x" * n + LONG for n in range(1, 13)]
    ids += [file_name(ids[0]).removesuffix(".npy"), "y" * 251, "y" * 252]
    names = [file_name(i) for i in ids]
    assert len(set(names)) == len(ids)
    assert max(len(name.encode()) for name in names) <= 255
    assert names[-2] == "y" * 251 + ".npy"
    assert all(re.fullmatch(r"(?:[^%]|%[0-9A-F]{2})*%~[0-9a-f]{32}\.npy", n) for n in names[:-3])


def test_parcels_with_long_ids_are_read_again(tmp_path):
    ids = [f"{LONG}{i}" for i in range(30)]
    parcels = make(tmp_path / "given", ids=ids)
    first = ingest_folder(tmp_path / "given", tmp_path / "first").dataset
    names = json.loads(first.file_names.read_text())
    assert set(names) == set(ids)
    assert {path.name for path in first.pixels.iterdir()} == set(names.values())
    for parcel_id, (_, pixels, _) in parcels.items():
        assert np.array_equal(np.load(first.pixels / names[parcel_id]), pixels)
    # The dataset of a run is an existing dataset of another run.
    second = ingest_folder(first.root, tmp_path / "second").dataset
    assert json.loads(second.file_names.read_text()) == names
    dataset = PixelSetDataset.open(second.root)
    assert sorted(dataset.ids) == sorted(ids)
    assert all(np.array_equal(p["pixels"], parcels[p["id"]][1]) for p in dataset)
