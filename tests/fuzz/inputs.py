"""Every kind of input: how a good one is written, and what the stages read from it.

`read` returns {part: digest or text}, in which two readings can be compared. If a part of a mutant
differs from the good input's, without an error, that is a silent result. `REASONS` judges it.
"""

import hashlib
import json
import shutil
from dataclasses import asdict

import numpy as np
import shapely
import yaml

from geo.formats.stac_search import Search, search_items
from geo.imagery.acquisition import Band, read_item, to_item
from geo.imagery.imagery_files import digests
from geo.imagery.open_rasters import OpenRasters
from geo.imagery.raster_header import read_header
from geo.imagery.raster_reading import read_windows
from geo.pixels.parcel_pixels import read_parcel_pixels
from geo.pixels.pixel_index import index_pixels
from pipeline.classes.crop_class import read_classes
from pipeline.dataset.acquisition_choice import decide
from pipeline.workflow.config import load, read, view
from tests.builders.pixel_sets import ingest_folder, make
from tests.builders.readers import READERS, draw_scene
from tests.builders.registers import Run, simple
from tests.builders.runs import opened
from tests.builders.safe import write_image

BANDS = ["B02", "B03", "B8A"]


def digest(*arrays):
    """Return a digest of arrays or texts."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(repr(getattr(array, "shape", None)).encode())
        found.update(np.ascontiguousarray(array).tobytes() if hasattr(array, "shape") else array)
    return found.hexdigest()[:16]


# Imagery.


def write_imagery(kind):
    write, _, _ = READERS[kind]
    return lambda folder: write(folder, draw_scene(np.random.default_rng(21)))


def read_imagery(folder, out, **options):
    settings = view(load({"imagery": {"path": str(folder), "bands": BANDS}}), "index")
    decision = decide(folder, settings, **options)
    digests(decision.found)
    used = {row.acquisition for row in decision.rows if row.used}
    parts = {"rows": "", "metadata": "", "encoding": "", "grid": "", "pixels": ""}
    for row in decision.rows:
        parts["rows"] += f"{row.acquisition} {row.used} {row.date} {row.tile} {row.reason}\n"
    for found in decision.found:
        path = out / "item.json"
        path.write_text(json.dumps(to_item(found, out, ""), allow_nan=False))
        item = read_item(path)
        parts["metadata"] += (
            f"{item.baseline} {item.platform} {item.sensing_start} {item.cloud_fraction} "
            f"{item.valid_fraction} {item.generated} {item.datastrip} {list(item.masks)}\n"
        )
        for band in item.bands.values():
            parts["encoding"] += f"{band.name} {band.scale} {band.offset} {band.nodata}\n"
            parts["grid"] += f"{band.name} {asdict(band.grid)}\n"
        if item.id in used:
            x_min, _, _, y_max = item.grid.bounds
            circles = [shapely.Point(x_min + x, y_max - x).buffer(130) for x in (20, 300)]
            index = index_pixels(np.array(circles), ["a", "b"], item.grid, item.tile)
            pixels, with_data = read_parcel_pixels(
                item, index, BANDS, resampling="nearest", threads=1
            )
            parts["pixels"] += digest(pixels, with_data)
    return parts


def write_catalogue(folder):
    """Write a static catalogue above the item and the images of the STAC reader."""
    write_imagery("stac")(folder)
    catalogue = {"type": "Catalog", "stac_version": "1.1.0", "id": "all", "description": "all"}
    for name, link in (("catalog", {"rel": "child", "href": "year.json"}),
                       ("year", {"rel": "item", "href": "item.json"})):  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(catalogue | {"links": [link]}))


def read_catalogue(folder, out):
    items = out / "items"
    items.mkdir()
    for name, item in search_items(folder, Search([], None, None, None)).items():
        (items / f"{name}.json").write_text(json.dumps(item))
    return read_imagery(items, out)


# Few pixels of an image in tiles: only parts of its tiles are decoded, without GDAL.

FEW = np.array([(0, 0), (3, 3), (100, 70), (100, 75), (255, 255)]).T


def write_tiled(folder):
    folder.mkdir()
    values = np.random.default_rng(22).integers(1000, 1200, (256, 256), np.uint16)
    options = {"blockxsize": 64, "blockysize": 64}
    write_image(folder / "image.jp2", values, "31UDS", 10, 500_000, **options)


def read_few(folder, out):
    path = folder / "image.jp2"
    header = read_header(path)
    band = Band("B02", str(path), 1, header.grid, header.block_shapes[0])
    height, width = header.grid.shape  # of a mutant, too
    rows, cols = FEW[:, (FEW[0] < height) & (FEW[1] < width)]
    needed = rows * width + cols
    with OpenRasters() as rasters:
        (part,) = read_windows([band], slice(0, height), slice(0, width), rasters, needed)
        (whole,) = read_windows([band], slice(0, height), slice(0, width), rasters)
    expected = whole[rows, cols]
    return {"pixels": digest(expected), "as GDAL": str(np.array_equal(part[rows, cols], expected))}


# Registers and tables.

TABLE = "code,name,class,class_name\nA,winter wheat,10,cereals\nB,maize,20,maize\n"
CODES = ["A", "B", "A", "B", "A", "B", "A", "A"]


def write_register(suffix):
    def write(folder):
        folder.mkdir()
        register = simple(CODES)
        path = folder / f"register.{suffix}"
        if suffix == "parquet":
            register.to_parquet(path)
        elif suffix == "zip":
            register.to_file(folder / "register.shp.zip")
        else:
            register.to_file(path)

    return write


def read_register(folder, out, **parcels):
    (path,) = [p for p in folder.iterdir() if p.name in NAMES] or [folder / "register.gpkg"]
    run = Run(out)
    options = {"labels": {"crop": "CODE"}, "classes": {"min_parcels": 2}} | parcels
    run(path, id="ID_PARCEL", **options)
    return {
        "ids": "\n".join(run.column("parcel_id")),
        "outlines": "\n".join(
            f"{row['tile']} {row['n_pixels']} {row['mended']}" for row in run.ledger
        ),
        "codes": "\n".join(f"{row['declared']} {row['code']}" for row in run.ledger),
        "reasons": "\n".join(f"{row['status']} {row['reason']}" for row in run.ledger),
        "names": "\n".join(f"{c['code']} {c['name']}" for c in run.classes),
    }


NAMES = {f"register.{suffix}" for suffix in ("gpkg", "shp", "geojson", "fgb", "gml", "parquet")}
NAMES.add("register.shp.zip")


def write_tables(folder):
    folder.mkdir()
    simple(CODES).to_parquet(folder / "register.parquet")
    (folder / "crops.csv").write_text(TABLE)
    (folder / "names.csv").write_text("code,name\n10,Getreide\n20,Mais\n")


def read_tables(folder, out):
    label = {"column": "CODE", "table": folder / "crops.csv", "class_code": "class"}
    label |= {"class_name": "class_name"}
    return read_register(folder, out, labels={"crop": label}, names=folder / "names.csv")


# Settings.


def write_settings(folder):
    folder.mkdir()
    values = {
        "run": "mine",
        "imagery": {"path": "/data/x", "bands": BANDS, "start": "2018-01-01", "tile": ["31UDS"]},
        "clouds": {"classes": [3, 8, 9], "dilation_m": 40},
        "parcels": {"path": "r.gpkg", "id": "ID", "labels": {"crop": "CODE"}},
        "train": {"epochs": 3, "learning_rate": 0.001},
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(values))


def read_settings(folder, out):
    return {"settings": read(folder / "settings.yaml").model_dump_json()}


# Datasets and weights.


def write_dataset(folder):
    make(folder, 18)


def read_dataset(folder, out):
    run = ingest_folder(folder, out / "run")
    data = opened(run).pixel_sets(with_features=True)
    existing = run.dataset.existing_normalisation or run.dataset.normalisation
    return {
        "ids": "\n".join(data.ids),
        "pixels": digest(data.pixels),
        "labels": digest(data.labels) + str(read_classes(run.classes)),
        "days": digest(data.days),
        "features": digest(data.features),
        "normalisation": digest(existing.read_bytes()),
    }


def write_weights(folder):
    from tests.builders.models import save_models

    save_models(folder, 1)
    for fold in (2, 3):
        shutil.rmtree(folder / f"Fold_{fold}")


def read_weights(folder, out):
    from models.crop_model import CropModel
    from models.model_files import check_folds
    from tests.builders.models import CPU

    described = check_folds(folder)
    model = CropModel.load(folder / "Fold_1", CPU)
    weights = [
        value.numpy()
        for member in model.members
        for _, value in sorted(member.state_dict().items())
    ]
    return {"description": str(list(described.values())), "weights": digest(*weights)}


# By kind: how a good input is written, and how it is read: read(folder, folder for results).
KINDS = {
    **{kind: (write_imagery(kind), read_imagery) for kind in READERS},
    "catalogue": (write_catalogue, read_catalogue),
    "few pixels": (write_tiled, read_few),
    **{
        f"register {suffix}": (write_register(suffix), read_register)
        for suffix in ("gpkg", "shp", "zip", "geojson", "fgb", "gml", "parquet")
    },
    "tables": (write_tables, read_tables),
    "settings": (write_settings, read_settings),
    "dataset": (write_dataset, read_dataset),
    "weights": (write_weights, read_weights),
}

IMAGES = (*READERS, "catalogue", "few pixels")
REGISTERS = tuple(kind for kind in KINDS if kind.startswith("register"))
# Mutants that state something else, and are read as they state it. Nothing in the input contradicts
# them: an oracle could not tell them from a good input of another content.
REASONS = [
    (IMAGES, ("pixels",), "images have no checksums: other bytes are other pixels"),
    (IMAGES, ("metadata",), "clouds, times and names are stated once, and shown in the table"),
    (IMAGES, ("encoding",), "scale, offset and nodata are stated once, and shown in the table"),
    (IMAGES, ("grid",), "the place is stated once; the parcels show whether it is right"),
    (IMAGES, ("rows",), "the table has a row with the reason for every acquisition"),
    (REGISTERS, ("ids", "outlines", "codes", "names"), "registers have no checksums"),
    (REGISTERS, ("reasons",), "the ledger has a row with the reason for every parcel"),
    (("tables",), ("codes", "names", "ids", "outlines"), "tables and registers have no checksums"),
    (("tables",), ("reasons",), "the ledger has a row with the reason for every parcel"),
    (("settings",), ("settings",), "the settings are those that the file states"),
    (("dataset",), ("pixels", "features"), "arrays have no checksums"),
    (("dataset",), ("labels", "days", "ids"), "META is stated once"),
    (("dataset",), ("normalisation",), "means and deviations may be of another dataset"),
    (("weights",), ("description",), "the names of classes and versions are stated once"),
]


def reason(kind, part):
    """Return why a part may differ from that of the good input, None if it may not."""
    texts = (text for kinds, parts, text in REASONS if kind in kinds and part in parts)
    return next(texts, None)
