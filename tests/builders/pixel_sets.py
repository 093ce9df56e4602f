"""A synthetic Pixel-Set dataset in the reference's layout, and its ingestion into a run."""

import json
import pickle
from datetime import date, timedelta

import numpy as np

from geo.register.columns import row_checksums, with_codes
from geo.register.geopackage import outline_types
from geo.register.reading import read_register
from pipeline.classes.ledger import read_ledger, write_ledger
from pipeline.dataset.npy_files import file_name
from pipeline.stages.ingest import ingest
from pipeline.stages.normalise import normalise
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import INGESTED, RunPaths
from pipeline.workflow.sections.parcels import Parcels

BANDS = ["B02", "B03", "B04", "B08"]
CLASSES = ["barley", "maize", "wheat"]
SEASON = [date(2018, 3, 1) + timedelta(days) for days in (0, 20, 45, 80, 110, 150, 200)]


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def number(day):
    return int(day.strftime("%Y%m%d"))


def signal(label, days, rng, size):
    """Reflectance (T, C, size) of a class: level and slope depend on the class; with noise."""
    level = 800 + 900 * label + (4 + 3 * label) * np.asarray(days)[:, None, None]
    bands = level * np.linspace(0.6, 1.4, len(BANDS))[None, :, None]
    noisy = bands + rng.normal(0, 60, (*bands.shape[:2], size))
    return np.clip(noisy, 0, 20_000).astype(np.uint16)


def make(folder, n=60, *, ids=None, labelled=1.0, own_dates=False, features=True, pickled=True):
    """Write a dataset; return {id: (class index, pixels, dates)}."""
    rng = np.random.default_rng(n)
    ids = ids or [str(100 + 3 * i) for i in range(n)]
    parcels, labels = {}, {}
    (folder / "DATA").mkdir(parents=True)
    for i, parcel_id in enumerate(ids):
        dates = SEASON
        if own_dates:
            chosen = rng.choice(210, rng.integers(3, 9), replace=False)
            dates = [SEASON[0] + timedelta(int(day)) for day in sorted(chosen)]
        label, size = i % len(CLASSES), int(rng.integers(1, 12))
        pixels = signal(label, [(d - SEASON[0]).days for d in dates], rng, size)
        np.save(folder / "DATA" / f"{parcel_id}.npy", pixels)
        parcels[parcel_id] = (label, pixels, dates)
        if i < labelled * len(ids):
            labels[parcel_id] = CLASSES[label]
    meta = folder / "META"
    write(meta / "labels.json", {"crop": labels})
    if own_dates:
        own = {i: [number(d) for d in dates] for i, (_, _, dates) in parcels.items()}
        write(meta / "parcel_dates.json", own)
    else:
        write(meta / "dates.json", {str(i): number(d) for i, d in enumerate(SEASON)})
    if features:
        write(meta / "geomfeat.json", {i: [*rng.random(4)] for i in ids})
    if pickled:
        every = np.concatenate(
            [p.transpose(1, 0, 2).reshape(4, -1) for _, p, _ in parcels.values()], 1
        )
        values = every.mean(1), every.std(1)
        (folder / "normalisation_values.pkl").write_bytes(pickle.dumps(values))
    return parcels


def write_arrays(folder, arrays):
    """Write {id: array}, a file a parcel."""
    folder.mkdir(parents=True, exist_ok=True)
    for parcel_id, array in arrays.items():
        np.save(folder / file_name(parcel_id), array)


def pack_files(dataset):
    """Pack DATA and VALID as one tile, in the order of sizes.json; without code of the pipeline."""
    ids = json.loads(dataset.sizes.read_text())
    tile = dataset.tile(INGESTED)
    tile.root.mkdir(parents=True, exist_ok=True)
    for folder, path in ((dataset.pixels, tile.pixels), (dataset.valid, tile.clear)):
        if folder.is_dir():
            arrays = [np.load(folder / file_name(i)) for i in ids]
        else:
            arrays = [np.ones((len(p), p.shape[2]), bool) for p in arrays]
        path.unlink(missing_ok=True)
        np.save(path, np.concatenate([np.moveaxis(a, -1, 0) for a in arrays]))


def ledger_of(run, register, folder):
    """Write the ledger of an ingested dataset as if clean had read its rows from a register."""
    table = read_register(register)
    rows = read_ledger(run.ledger)
    rows["checksum"] = with_codes(row_checksums(table.geometry, table["ID"]), [])
    rows["geometry_type"] = outline_types(table.geometry)
    folder.mkdir(exist_ok=True)
    write_ledger(folder / "ledger.parquet", rows)
    return folder / "ledger.parquet"


def ingest_dataset(settings, run):
    """Ingest an existing dataset and normalise it, as the workflow does."""
    dataset = run.dataset
    ingest(
        settings.dataset.sources, dataset.root, run.ledger, run.classes, view(settings, "ingest"), 2
    )
    if dataset.existing_normalisation is None:
        normalise(dataset.root, dataset.normalisation, view(settings, "normalise"))


def settings_for(source, weights=None, **over):
    settings = load(
        {
            "dataset": {"path": source, "bands": BANDS, "classes": {"min_parcels": 5}},
            "train": {"epochs": 2, "batch_size": 16, "pixels": 8, "device": "cpu"},
            "split": {"folds": 2},
            "predict": {"weights": weights},
        }
        | over
    )
    # A run has a dataset or a register; tests also write predictions of a dataset as an outline.
    return settings.model_copy(update={"parcels": Parcels(id="ID")})


def ingested(settings, root):
    run = RunPaths(root)
    ingest_dataset(settings, run)
    return run


OPTIONS = {"bands": BANDS, "classes": {"min_parcels": 5}}


def ingest_folder(source, root, *, weights=None, **options):
    """Ingest a dataset into a run."""
    settings = load(
        {"dataset": {"path": source, **OPTIONS, **options}, "predict": {"weights": weights}}
    )
    run = RunPaths(root)
    ingest_dataset(settings, run)
    return run
