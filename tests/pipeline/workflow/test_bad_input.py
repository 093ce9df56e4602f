"""Every kind of bad input ends with one message before any work is done.

Each row of the tables: what is wrong, how to spoil good inputs, and words of the message.
"""

import json
import logging
import re
import shutil
import warnings
import zipfile
from datetime import date

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
from rasterio.transform import Affine
from shapely import LineString, Point, box

from geo.errors import InputError
from geo.grid import read_grids
from geo.imagery.damaged import Damaged
from pipeline.dataset.acquisition_choice import damaged_rows
from pipeline.inspection.check import check
from pipeline.stages.ingest import ingest
from pipeline.workflow.acquisition_table import read_acquisitions
from pipeline.workflow.config import load, merged, view
from pipeline.workflow.inputs import check_inputs
from pipeline.workflow.paths import RunPaths
from tests.builders.models import save_models
from tests.builders.pixel_sets import BANDS, make
from tests.builders.runs import label_parcels, observe, prepare_dataset, prepare_parcels
from tests.builders.safe import write_safe, zip_product
from tests.builders.stac import shorten_waits
from tests.builders.theia import write_product

X, Y = 500_000, 5_600_000
DAYS = ("20220403", "20220408", "20220413")
SAFE_DAYS = tuple(f"{day}T105031" for day in DAYS)
CLOSED_PORT = "http://127.0.0.1:9/"


def write_tiff(path, crs="EPSG:32631", x=X, names=("B02", "B03"), side=40, rotation=0.0):
    """Write a GeoTIFF of two bands. Its last strip is at the end of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(1).integers(1, 9000, (len(names), side, side)).astype(np.uint16)
    transform = Affine(10, rotation, x, rotation, -10, Y)
    with rasterio.open(
        path, "w", driver="GTiff", height=side, width=side, count=len(names), dtype="uint16",
        crs=crs, transform=transform,
    ) as raster:  # fmt: skip
        raster.write(values)
        raster.descriptions = names


def write_register(path, x=X, y=Y, crs=32631, n=8, outlines=None, **columns):
    """Write parcels of two crops on the scene. Columns override those of the table."""
    if outlines is None:
        outlines = [box(x + 20, y - 40 * i - 50, x + 60, y - 40 * i - 20) for i in range(n)]
    table = {"ID": list(range(n)), "CODE": ["wheat", "maize"] * (n // 2)} | columns
    rows = gpd.GeoDataFrame(table, geometry=outlines, crs=crs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided")
        rows.to_file(path)


def write_stack(path, names=("B02", "B03"), time="time", x=("x",)):
    """Write a NetCDF file or a Zarr folder of 6 x 8 pixels and three dates."""
    values = np.full((3, 6, 8), 500, np.uint16)
    data = xr.Dataset(
        dict.fromkeys(names, ((time, "y", *x), values)),
        {
            time: np.array([f"{d[:4]}-{d[4:6]}-{d[6:]}" for d in DAYS], "datetime64[ns]"),
            "y": Y - 10 * (np.arange(6) + 0.5),
            x[0]: X + 10 * (np.arange(8) + 0.5),
        },
        {"epsg": 32631},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    data.to_zarr(path, consolidated=False) if path.suffix == ".zarr" else data.to_netcdf(path)


class Inputs:
    """A folder with good inputs, and the settings for them. A case spoils one of them."""

    def __init__(self, folder):
        self.folder = folder
        self.imagery = folder / "imagery"
        self.register = folder / "register.gpkg"
        self.run = RunPaths(folder / "run")
        self.values = {
            "imagery": {"path": str(self.imagery), "bands": ["B02", "B03"]},
            "parcels": {
                "path": str(self.register),
                "id": "ID",
                "labels": {"crop": "CODE"},
                "classes": {"min_parcels": 2},
            },
            "split": {"folds": 2},
        }

    def geotiffs(self):
        for day in DAYS:
            write_tiff(self.imagery / f"{day}_T31UDS.tif")
        write_register(self.register)
        return self

    def safe(self, **options):
        rng = np.random.default_rng(2)
        self.products = [
            write_safe(
                self.imagery, rng, sensed=sensed, **{"bands": ("B02", "B03", "SCL")} | options
            )
            for sensed in SAFE_DAYS
        ]
        write_register(self.register)
        return self

    def stacks(self):
        write_register(self.register)
        return self

    def weights(self):
        return self.geotiffs().set(predict={"weights": str(self.folder / "weights")})

    def theia(self):
        name = "SENTINEL2A_202204{}-105355-460_L2A_T31UDS_C_V2-2"
        self.products = [self.imagery / name.format(day[-2:]) for day in DAYS]
        for product in self.products:
            write_product(self.imagery, np.random.default_rng(3), product.name)
            file = theia_metadata(product)
            own = f"2022-04-{product.name[17:19]}T10:53"
            file.write_text(file.read_text().replace("2018-05-05T10:53", own))
        # The products' corner is 20 m west and 100 km north of the others'.
        write_register(self.register, y=Y + 100_000)
        return self

    def dataset(self, **options):
        make(self.folder / "existing", n=30, **options)
        self.meta = self.folder / "existing" / "META"
        self.values = {
            "dataset": {
                "path": str(self.folder / "existing"), "bands": BANDS, "classes": {"min_parcels": 5}
            }
        }  # fmt: skip
        return self

    def set(self, **values):
        self.values = merged(self.values, values)
        return self

    def start(self):
        """Run the stages that read no pixels."""
        settings = load(self.values)
        check_inputs(settings)
        run = self.run
        if settings.dataset.sources:
            ingest(
                settings.dataset.sources, run.dataset.root, run.ledger, run.classes,
                view(settings, "ingest"),
            )  # fmt: skip
            return
        prepare_parcels(settings, run.root)
        for tile in read_grids(run.grids):
            observe(run, tile)
        label_parcels(settings, run)


@pytest.fixture
def inputs(tmp_path):
    return Inputs(tmp_path)


def cut(path, share):
    """Keep the first part of a file, as an interrupted download does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def second(inputs):
    return sorted(inputs.imagery.iterdir())[1]


def image(product, band):
    return next(product.path.rglob(f"*_{band}_10m.jp2"))


def theia_metadata(product):
    return next(product.glob("*_MTD_ALL.xml"))


def metadata(product):
    return product.path / "MTD_MSIL2A.xml"


SETTINGS = {
    "no path": ({"imagery": {"path": None}}, "imagery.path is not set: set it to the path of"),
    "no path of the register": (
        {"parcels": {"path": None}},
        "parcels.path is not set: set it to the path of the parcel register",
    ),
    "missing imagery": (
        {"imagery": {"path": "/nowhere/s2"}},
        "imagery.path: there is no /nowhere/s2",
    ),
    "register with another name": (
        {"parcels": {"path": "registr.gpkg"}},
        "there is no registr.gpkg. .*has no registr.gpkg",
    ),
    "a run to compare with that does not exist": (
        {"report": {"compare": ["other"]}},
        "report.compare: there is no run 'other' in results",
    ),
    "variable in a path": (
        {"parcels": {"path": "$DATA/r.gpkg"}},
        "there is no .DATA/r.gpkg. Variables are not replaced in settings files",
    ),
    "path of Windows": (
        {"parcels": {"path": r"C:\data\r.gpkg"}},
        "This is a path of Windows. In WSL, C:.data is /mnt/c/data",
    ),
    "missing register": (
        {"parcels": {"path": "/nowhere/r.gpkg"}},
        "parcels.path: there is no /nowhere/r.gpkg",
    ),
    "missing weights": (
        {"predict": {"weights": "/nowhere"}},
        "predict.weights: there is no /nowhere",
    ),
    "refused address": ({"imagery": {"path": CLOSED_PORT, "collections": ["s2"]}}, "127.0.0.1:9"),
    "unknown tile": (
        {"imagery": {"tile": "33UVP"}},
        "asks for 33UVP, which the imagery does not have. It has: 31UDS",
    ),
    "no date in the range": (
        {"imagery": {"start": "2023-01-01"}},
        "None of the 3 acquisitions .* 3 before_start",
    ),
    "missing masks": (
        {"clouds": {"mask": ["scl"]}},
        "3 of 3 acquisitions have no cloud mask SCL",
    ),
    "another format": ({"imagery": {"format": "safe"}}, "There is no SAFE product in"),
    "missing table of names": (
        {"parcels": {"names": "/nowhere.csv"}},
        "parcels.names: there is no /nowhere.csv",
    ),
    "missing table of codes": (
        {"parcels": {"labels": {"crop": {"column": "CODE", "table": "/nowhere.csv"}}}},
        "parcels.labels.crop.table: there is no /nowhere.csv",
    ),
    "too few parcels of all classes": (
        {"parcels": {"classes": {"min_parcels": 7}}},
        "0 classes have at least 7 parcels, and a model needs two: 'wheat' .4., 'maize' .4.",
    ),
    "a class that does not occur": (
        {"parcels": {"classes": ["wheat", "rye"]}},
        "lists .'rye'., which no usable parcel declares",
    ),
    "a class that is written otherwise": (
        {"parcels": {"classes": ["Wheat", "maize"]}},
        "lists .'Wheat'., which .* Did you mean 'wheat'.",
    ),
    "a tile that is written otherwise": (
        {"imagery": {"tile": "31UD"}},
        "asks for 31UD, .* Did you mean '31UDS'",
    ),
    "too few parcels for the folds": (
        {
            "parcels": {"classes": ["wheat", "maize"]},
            "split": {"folds": 6},
        },
        "fewer parcels than split.folds .6.",
    ),
    "unknown layer": (
        {"parcels": {"layer": "fields"}},
        "no layer 'fields' with geometries, but: register",
    ),
    "no id column": ({"parcels": {"id": "IDD"}}, "parcels.id is 'IDD', .*Did you mean 'ID'"),
    "no label column": (
        {"parcels": {"labels": {"crop": "crops"}}},
        "parcels.labels.crop.* is 'crops', which is not a column",
    ),
    "too small parcels": (
        {"parcels": {"min_pixels": 1000}},
        "None of the 8 parcels .*8 too_few_pixels",
    ),
}


def empty_folder(i):
    shutil.rmtree(i.imagery)
    i.imagery.mkdir()


def only_text(i):
    empty_folder(i)
    (i.imagery / "notes.txt").write_text("clouds")


def undated(i):
    second(i).rename(i.imagery / "scene.tif")


def mixed_formats(i):
    write_stack(i.imagery / "stack.nc")


def text_for_tiff(i):
    second(i).write_text("<html>Not found</html>")


def no_band_names(i):
    for file in i.imagery.iterdir():
        write_tiff(file, names=(None, None))


def wrong_number_of_bands(i):
    no_band_names(i)
    i.set(imagery={"file_bands": ["B02", "B03", "B04"]})


def no_crs(i):
    write_tiff(second(i), crs=None)


def rotated(i):
    write_tiff(second(i), rotation=1.0)


def degrees(i):
    for file in i.imagery.iterdir():
        write_tiff(file, crs="EPSG:4326")


def web_mercator(i):
    for file in i.imagery.iterdir():
        write_tiff(file, crs="EPSG:3857", x=334_000)


def without_place(i):
    with rasterio.open(second(i)) as raster:
        values, names = raster.read(), raster.descriptions
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(
            second(i), "w", driver="GTiff", height=40, width=40, count=2, dtype="uint16",
            crs="EPSG:32631",
        ) as raster:  # fmt: skip
            raster.write(values)
            raster.descriptions = names


def change_transform(i, transform):
    with rasterio.open(second(i), "r+") as raster:
        raster.transform = transform


def far_from_each_other(i):
    sorted(i.imagery.iterdir())[2].unlink()
    change_transform(i, Affine(10, 0, 0, 0, -10, 0))


def percent(i):
    for file in i.imagery.iterdir():
        with rasterio.open(file, "r+") as raster:
            raster.scales, raster.offsets = (0.01, 0.01), (0, 0)


IMAGERY = {
    "empty folder": (empty_folder, "imagery.path: the folder .* is empty"),
    "no imagery": (only_text, "No imagery was recognised"),
    "mixed formats": (mixed_formats, "holds imagery of several formats: stack, geotiff"),
    "name without date": (undated, "1 of 3 GeoTIFFs .* have no date .*scene.tif"),
    "truncated GeoTIFF, no header": (lambda i: cut(second(i), 0.01), "20220408_T31UDS.tif"),
    "truncated GeoTIFF, no pixels": (lambda i: cut(second(i), 0.5), "20220408_T31UDS.tif"),
    "text for a GeoTIFF": (text_for_tiff, "20220408_T31UDS.tif"),
    "GeoTIFF without CRS": (no_crs, "20220408_T31UDS.tif.*coordinate system"),
    "GeoTIFFs that name no bands": (no_band_names, "20220403_T31UDS.tif.*file_bands"),
    "wrong number of bands": (wrong_number_of_bands, "20220403_T31UDS.tif.*file_bands"),
    "rotated GeoTIFF": (rotated, "20220408_T31UDS.tif.*[Rr]otated"),
    "GeoTIFF without the band": (
        lambda i: write_tiff(second(i), names=("B02", "B08")),
        "1 of 3 acquisitions lack bands:.*20220408_T31UDS.tif: no B03",
    ),
    "GeoTIFF in degrees": (
        degrees,
        "3 of 3 acquisitions have pixels in units of degree, not metres: .*20220403",
    ),
    "GeoTIFF in Web Mercator": (
        web_mercator,
        r"3 of 3 acquisitions have the coordinate system WGS 84 / Pseudo-Mercator, whose metres "
        r"are not metres: one is 0.71 m .*gdalwarp -t_srs EPSG:32631 -tr 10 10",
    ),
    "degrees as metres": (
        lambda i: change_transform(i, Affine(1e-4, 0, 3.1, 0, -1e-4, 50.7)),
        "1 of 3 acquisitions have pixels of 0.0001 m at 3.102, 50.698 .*20220408.*EPSG:4326",
    ),
    "GeoTIFF without a place": (
        without_place,
        "20220408_T31UDS.tif has no place on the ground: expected the corner .* found none",
    ),
    "south-up GeoTIFF": (
        lambda i: change_transform(i, Affine(10, 0, X, 0, 10, Y)),
        "20220408_T31UDS.tif: .*south-up rasters are not read",
    ),
    "place that is not a number": (
        lambda i: change_transform(i, Affine(10, 0, float("nan"), 0, -10, Y)),
        "20220408_T31UDS.tif: A grid needs a corner and pixels of finite numbers",
    ),
    "outside of the coordinate system": (
        lambda i: change_transform(i, Affine(10, 0, 1e12, 0, -10, Y)),
        "1 of 3 acquisitions have a grid outside of their coordinate system WGS 84 / UTM zone 31N",
    ),
    "two acquisitions far apart": (
        far_from_each_other,
        "of tile 31UDS lie too far apart for one tile, 1 in one and 1 in another: "
        "20220403_31UDS at 500000, 5600000; 20220408_31UDS at 0, 0",
    ),
    "a wrong scale": (
        percent,
        "B02 of .*20220403_T31UDS.tif would be taken as reflectance .*reflectance_scale",
    ),
}


def no_quantification(i):
    file = metadata(i.products[1])
    file.write_text(file.read_text().replace("BOA_QUANTIFICATION", "QUANTITY"))


def zipped_and_cut(i):
    cut(zip_product(i.products[1]), 0.7)


def mixed_levels(i):
    write_safe(i.imagery, np.random.default_rng(1), level="1C", bands=("B02", "B03"))


PRODUCTS = {
    "truncated JP2": (lambda i: cut(image(i.products[1], "B03"), 0.4), "_B03_10m.jp2"),
    "truncated zip": (zipped_and_cut, "20220408T105031.*zip"),
    "missing band": (
        lambda i: image(i.products[1], "B03").unlink(),
        "1 of 3 acquisitions lack bands:.*20220408.*no B03",
    ),
    "missing metadata": (
        lambda i: [metadata(p).unlink() for p in i.products],
        "3 of 3 acquisitions cannot be read:.*20220403.*SAFE has no MTD_MSIL2A.xml",
    ),
    "invalid XML": (
        lambda i: metadata(i.products[1]).write_text("<html>"),
        "20220408.*MTD_MSIL2A.xml",
    ),
    "one without metadata": (
        lambda i: metadata(i.products[1]).unlink(),
        "20220408.*SAFE has no MTD_MSIL2A.xml or MTD_MSIL1C.xml in it",
    ),
    "metadata without scale": (no_quantification, "20220408.*QUANTIFICATION_VALUE"),
    "mixed levels": (mixed_levels, "3 products of level 2A are mixed with 1 of level 1C"),
}


def unknown_zarr(i):
    write_stack(i.imagery / "stack.zarr", names=("temperature",))


def netcdf_cut(i):
    write_stack(i.imagery / "stack.nc")
    cut(i.imagery / "stack.nc", 0.5)


def broken_item(i):
    i.imagery.mkdir()
    (i.imagery / "20220408_T31UDS.json").write_text('{"type": "Feature"')


STACKS = {
    "truncated NetCDF": (netcdf_cut, "stack.nc"),
    "Zarr of an unknown layout": (unknown_zarr, "There is no stack in"),
    "NetCDF without bands": (
        lambda i: write_stack(i.imagery / "s.nc", names=("ndvi",)),
        "There is no stack in",
    ),
    "broken STAC item": (broken_item, "20220408_T31UDS.json is not a STAC item"),
}


THEIA = {
    "no bands": (
        lambda i: [f.unlink() for f in i.products[1].glob("*.tif")],
        "1 of 3 acquisitions .*20220408",
    ),
    "invalid XML": (
        lambda i: theia_metadata(i.products[1]).write_text("oops"),
        "20220408.*MTD_ALL.xml is damaged",
    ),
}


def without_crs(i):
    write_register(i.register, crs=None)


def no_rows(i):
    gpd.GeoDataFrame({"ID": [], "CODE": []}, geometry=[], crs=32631).to_file(i.register)


def points(i):
    write_register(i.register, outlines=[Point(X + 50, Y - 50)] * 8)


def lines(i):
    write_register(i.register, outlines=[LineString([(X, Y), (X + 50, Y - 50)])] * 8)


def unplaced_csv(i):
    table = gpd.read_file(i.register)
    centres = table.geometry.centroid
    path = i.folder / "points.csv"
    columns = pd.DataFrame(table.drop(columns="geometry"))
    columns.assign(x=centres.x, y=centres.y).to_csv(path, index=False)
    i.set(parcels={"path": str(path), "point_buffer_m": 0})


def two_layers(i):
    gpd.read_file(i.register).to_file(i.register, layer="fields of 2021")


def garbage(i):
    i.register.write_text("not a register")


def table_without_outlines(i):
    i.register = i.folder / "register.csv"
    i.register.write_text("ID,CODE\n1,wheat\n")
    i.set(parcels={"path": str(i.register)})


def broken_parquet(i):
    i.register = i.folder / "register.parquet"
    i.register.write_bytes(b"PAR1 and no more")
    i.set(parcels={"path": str(i.register)})


def plain_parquet(i):
    i.register = i.folder / "register.parquet"
    pd.DataFrame({"ID": [1]}).to_parquet(i.register)
    i.set(parcels={"path": str(i.register)})


def names_without_columns(i):
    (i.folder / "names.csv").write_text("id;label\n1;wheat\n")
    i.set(parcels={"names": str(i.folder / "names.csv")})


def unknown_codes(i):
    (i.folder / "codes.csv").write_text("code,class,class_name\nwheat,1,cereals\n")
    table = {"column": "CODE", "table": str(i.folder / "codes.csv")}
    i.set(parcels={"labels": {"crop": table}})


def zip_of_two(i):
    path = i.folder / "both.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(i.register, "a/one.gpkg")
        archive.write(i.register, "b/two.gpkg")
    i.set(parcels={"path": str(path)})


REGISTERS = {
    "no CRS": (without_crs, "has no coordinate system"),
    "no rows": (no_rows, "has no rows"),
    "no polygons": (lines, "8 not_a_polygon|register.gpkg contains no polygons, but LineString"),
    "points": (points, "points instead of outlines .*parcels.point_buffer_m.* Set it to 0 to read"),
    "coordinates of unknown system": (
        unplaced_csv,
        "coordinate system of its columns x and y.*rename them to lon and lat.*ogr2ogr -a_srs",
    ),
    "far from the imagery": (
        lambda i: write_register(i.register, x=X + 90_000),
        "No parcel of .* is on the imagery. In degrees",
    ),
    "several layers": (two_layers, "has 2 layers with geometries: .*parcels.layer"),
    "unreadable file": (garbage, "register.gpkg cannot be read"),
    "no outlines": (table_without_outlines, "has no layer with geometries"),
    "broken GeoParquet": (broken_parquet, "cannot be read as GeoParquet"),
    "Parquet without outlines": (plain_parquet, "cannot be read as GeoParquet"),
    "several files in a zip": (zip_of_two, "contains 2 files"),
    "no ids": (
        lambda i: write_register(i.register, ID=[None] * 8),
        "None of the 8 parcels .* 8 missing_id",
    ),
    "one class": (
        lambda i: write_register(i.register, CODE=["wheat"] * 8),
        "1 classes have at least 2 parcels, and a model needs two",
    ),
    "no class at all": (
        lambda i: write_register(i.register, CODE=[None] * 8),
        r"No usable parcel declares a class\. Check parcels\.labels, or leave it out",
    ),
    "names without columns": (
        names_without_columns,
        "names.csv has the columns id;label, expected code and name",
    ),
    "codes unknown to the table": (
        unknown_codes,
        "codes.csv lacks 1 codes of column 'CODE'.*'maize' .4 parcels.",
    ),
}


def first_array(i):
    return sorted((i.folder / "existing" / "DATA").iterdir())[0]


def replace_array(i, change):
    np.save(first_array(i), change(np.load(first_array(i))))


def nan(array):
    return np.where(array > array.min(), array.astype(float), np.nan)


DATASETS = {
    "no DATA": (lambda i: shutil.rmtree(i.folder / "existing" / "DATA"), "has no folder DATA"),
    "no arrays": (
        lambda i: [f.unlink() for f in (i.folder / "existing" / "DATA").iterdir()],
        "has no <id>.npy files",
    ),
    "no dates": (lambda i: (i.meta / "dates.json").unlink(), "There is no .*dates.json"),
    "invalid date": (
        lambda i: (i.meta / "dates.json").write_text('{"0": "spring"}'),
        "'spring' is not a date",
    ),
    "too few dates": (
        lambda i: (i.meta / "dates.json").write_text('{"0": 20180301}'),
        "is not the dates of .*100 .7 instead of 1.",
    ),
    "invalid JSON": (
        lambda i: (i.meta / "labels.json").write_text("{"),
        "labels.json is not valid JSON",
    ),
    "labels that are a list": (
        lambda i: (i.meta / "labels.json").write_text("[3]"),
        "labels.json contains '.3.', expected a JSON object",
    ),
    "invalid dates of a parcel": (
        lambda i: (i.meta / "parcel_dates.json").write_text('{"100": 20180301}'),
        "parcel_dates.json: expected .* other values: 1, such as 100",
    ),
    "invalid description": (
        lambda i: (i.meta / "dataset.json").write_text("[3]"),
        "dataset.json contains '.3.', expected a JSON object",
    ),
    "labels of other parcels": (
        lambda i: (i.meta / "labels.json").write_text('{"crop": {"x1": "wheat"}}'),
        "no id under 'crop' is that of a file in DATA",
    ),
    "NaN": (
        lambda i: replace_array(i, nan),
        "some arrays are integers, others are floats: 1, such as 100.npy",
    ),
    "reflectance as fractions": (
        lambda i: replace_array(i, lambda a: a / 10_000),
        "some arrays are integers, others are floats: 1, such as 100.npy",
    ),
    "text for numbers": (
        lambda i: replace_array(i, lambda a: a.astype("U5")),
        "expected numbers of shape .T, C, S., found <U5",
    ),
    "two axes": (
        lambda i: replace_array(i, lambda a: a[0]),
        "expected numbers of shape .T, C, S., found uint16 of shape .4, .+.",
    ),
    "other channels": (
        lambda i: replace_array(i, lambda a: a[:, :2]),
        "Most of DATA/<id>.npy have 4 channels",
    ),
    "broken array": (lambda i: cut(first_array(i), 0.5), "100.npy is not a readable array"),
    "other bands": (
        lambda i: i.set(dataset={"bands": ["B02"]}),
        "have 4 channels, but 1 bands are named",
    ),
    "unknown nomenclature": (
        lambda i: i.set(dataset={"nomenclature": "soil"}),
        "nomenclature is 'soil', but labels.json has crop",
    ),
    "blocks without positions": (
        lambda i: i.set(split={"by": "block"}),
        "has no META/positions.json",
    ),
    "one class": (
        lambda i: i.set(dataset={"classes": {"min_parcels": 11}}),
        "0 classes have at least 11 parcels",
    ),
}


def weights(i, **metadata):
    save_models(i.folder / "weights", members=1)
    path = i.folder / "weights" / "Fold_2" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | metadata))


def of_another_season(i):
    for file in i.imagery.iterdir():
        write_tiff(file, names=BANDS)
    i.set(imagery={"bands": BANDS})
    save_models(i.folder / "weights", members=1)
    for path in i.folder.glob("weights/Fold_*/model.json"):
        dates = {"first_date": "2018-09-01", "dates": ["2018-09-01", "2018-10-01"]}
        path.write_text(json.dumps(json.loads(path.read_text()) | dates))


def flipped(i):
    weights(i)
    path = i.folder / "weights" / "Fold_3" / "model.pth.tar"
    content = bytearray(path.read_bytes())
    content[3000] ^= 255
    path.write_bytes(content)


def no_models(i):
    (i.folder / "weights").mkdir()
    (i.folder / "weights" / "notes.txt").write_text("")


WEIGHTS = {
    "empty folder": (
        lambda i: (i.folder / "weights").mkdir(),
        "predict.weights: the folder .* is empty",
    ),
    "no models": (no_models, "predict.weights: .* has no Fold_1/model.pth.tar"),
    "of other bands": (
        weights,
        "Fold_1 was trained on the bands B02, B03, B04, B08, .* B02, B03",
    ),
    "of bands in another order": (
        lambda i: weights(i, bands=["B03", "B02", "B04", "B08"]),
        "Fold_2 was trained with other bands than .*Fold_1: B03, B02",
    ),
    "of other classes": (
        lambda i: weights(i, class_codes=["barley", "maize", "rye"]),
        "Fold_2 was trained with other classes than .*Fold_1: barley, maize, rye instead",
    ),
    "NaN for a mean": (
        lambda i: weights(i, normalisation={"means": [float("nan")], "stds": [1]}),
        "Fold_2/model.json does not describe a model: normalisation: 1 of 1 means are not finite",
    ),
    "no description": (
        lambda i: weights(i, hyperparameters=None),
        "Fold_2/model.json does not describe a model: hyperparameters: expected names and values",
    ),
    "of another season": (
        of_another_season,
        "2 dates from 2022-09-01 to 2022-10-01. 3 of the 3 dates .* 2022-04-03",
    ),
    "damaged": (flipped, "Fold_3/model.pth.tar is damaged: Bad CRC-32"),
}


# {table: (good inputs, cases)}.
TABLES = {
    "settings": ("geotiffs", SETTINGS),
    "GeoTIFFs": ("geotiffs", IMAGERY),
    "SAFE": ("safe", PRODUCTS),
    "stacks": ("stacks", STACKS),
    "THEIA": ("theia", THEIA),
    "register": ("geotiffs", REGISTERS),
    "dataset": ("dataset", DATASETS),
    "weights": ("weights", WEIGHTS),
}


# What only a stage notices: where parcels and imagery are, dates of imagery, and values of arrays.
ONLY_IN_STAGES = {
    *("too small parcels", "of another season"),
    *("refused address", "unknown tile", "a tile that is written otherwise"),
    *("no date in the range", "missing masks", "another format"),
}


@pytest.mark.parametrize(
    ("good", "spoil", "words"),
    [
        pytest.param(good, *case, id=f"{table}: {name}")
        for table, (good, cases) in TABLES.items()
        for name, case in cases.items()
        if (table in ("settings", "register", "dataset", "weights") and name not in ONLY_IN_STAGES)
        or name in ("no imagery", "mixed formats")
    ],
)
def test_bad_input_is_refused_when_the_workflow_is_parsed(inputs, good, spoil, words):
    getattr(inputs, good)()
    inputs.set(**spoil) if isinstance(spoil, dict) else spoil(inputs)
    before = sorted(inputs.folder.rglob("*"))
    with pytest.raises(InputError, match=f"(?s){words}"):
        check_all(load(inputs.values))
    assert sorted(inputs.folder.rglob("*")) == before


BY_FARM = {"by": "group", "column": "FARM", "folds": 2}


def groups(i, values):
    i.meta.joinpath("groups.json").write_text(json.dumps(values))
    i.set(split=BY_FARM)


# The column of the groups: {name: (good inputs, spoil, words)}.
GROUPS = {
    "no column in the register": (
        "geotiffs",
        lambda i: i.set(split={**BY_FARM, "column": "COD"}),
        "split.column is 'COD', which is not a column of .*register.gpkg. Did you mean 'CODE'",
    ),
    "one farm in the register": (
        "geotiffs",
        lambda i: (write_register(i.register, FARM=["a"] * 8), i.set(split=BY_FARM)),
        r"split.column: 8 parcels have 1 different values in 'FARM', fewer than split.folds \(2\)",
    ),
    "no groups in the dataset": (
        "dataset",
        lambda i: i.set(split=BY_FARM),
        "split.by is group, but .*existing has no META/groups.json, {column: {id: value}}",
    ),
    "no groups for the second division": (
        "dataset",
        lambda i: i.set(split={"also": "group", "column": "FARM"}),
        "split.also is group, but .*or set split.also to random or stratified",
    ),
    "another key": (
        "dataset",
        lambda i: groups(i, {"FARMS": {"100": 1}}),
        "split.column is 'FARM', .* not a key of .*groups.json. Did you mean 'FARMS'",
    ),
    "groups by id alone": (
        "dataset",
        lambda i: groups(i, {"100": "a"}),
        r"groups.json: expected {column: {id: value}}, found others in '100'",
    ),
    "groups that are lists": (
        "dataset",
        lambda i: groups(i, {"FARM": {"100": [1]}}),
        r"groups.json: expected {column: {id: value}}, found others in 'FARM'",
    ),
    "one farm in the dataset": (
        "dataset",
        lambda i: groups(i, {"FARM": {str(100 + 3 * n): "a" for n in range(30)}}),
        "split.column: 30 parcels have 1 different values in 'FARM'",
    ),
}


@pytest.mark.parametrize(("good", "spoil", "words"), GROUPS.values(), ids=GROUPS)
def test_groups_are_checked_when_the_workflow_is_parsed(inputs, good, spoil, words):
    getattr(inputs, good)()
    spoil(inputs)
    with pytest.raises(InputError, match=f"(?s){words}"):
        check_all(load(inputs.values))


def test_good_groups_pass_when_the_workflow_is_parsed(inputs):
    """A parcel without a value is a group by itself; existing weights need no groups."""
    inputs.geotiffs().set(split=BY_FARM)
    write_register(inputs.register, FARM=["a"] * 7 + [None])
    check_all(load(inputs.values))
    inputs.dataset()
    groups(inputs, {"FARM": dict.fromkeys(("100", "103"), "a")})
    check_all(load(inputs.values))
    inputs.meta.joinpath("groups.json").unlink()
    save_models(inputs.folder / "weights", members=1)
    check_all(load(inputs.set(predict={"weights": str(inputs.folder / "weights")}).values))


@pytest.mark.parametrize("good", ["geotiffs", "dataset"])
def test_good_input_passes_when_the_workflow_is_parsed(inputs, good):
    getattr(inputs, good)()
    check_all(load(inputs.values))


def test_columns_of_the_areas_must_be_in_the_register(inputs):
    inputs.geotiffs()
    check_all(load({**inputs.values, "areas": {"sample": "random", "strata": "CODE"}}))
    for key in ("region", "strata"):
        areas = {"sample": "random", key: "CODES"}
        words = rf"areas\.{key} is 'CODES', which is not a column.* Did you mean 'CODE'"
        with pytest.raises(InputError, match=words):
            check_all(load({**inputs.values, "areas": areas}))


def check_all(settings):
    check_inputs(settings)
    check(settings)


def test_codes_of_parcels_outside_the_imagery_need_not_be_in_the_table(inputs):
    inputs.geotiffs()
    unknown_codes(inputs)
    (inputs.folder / "codes.csv").write_text("code,class\nwheat,1\nmaize,2\n")
    outside = [box(X + 90_000, Y - 50, X + 90_040, Y - 20)] * 2
    inside = [box(X + 20, Y - 40 * i - 50, X + 60, Y - 40 * i - 20) for i in range(8)]
    codes = ["wheat", "maize"] * 4 + ["rye", "rye"]
    columns = {"outlines": inside + outside, "ID": list(range(10))}
    write_register(inputs.register, CODE=codes, **columns)
    check_all(load(inputs.values))
    inputs.start()
    # The same code inside is refused.
    write_register(inputs.register, CODE=codes[::-1], **columns)
    with pytest.raises(InputError, match=r"codes.csv lacks 1 codes .*'rye' .2 parcels."):
        check_all(load(inputs.values))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("good", "spoil", "words"),
    [
        pytest.param(good, *case, id=f"{table}: {name}")
        for table, (good, cases) in TABLES.items()
        for name, case in cases.items()
    ],
)
def test_bad_input_is_refused_before_any_work(inputs, good, spoil, words, monkeypatch):
    shorten_waits(monkeypatch)
    getattr(inputs, good)()
    inputs.set(**spoil) if isinstance(spoil, dict) else spoil(inputs)
    refuse(inputs, words)


def refuse(inputs, *words):
    """Check that the work ends with a message of these words before any pixel is read."""
    with pytest.raises(InputError, match=f"(?s){words[0]}") as error:
        inputs.start()
    message = str(error.value)
    assert len(message) < 2000
    for more in words[1:]:
        assert more in message
    run = inputs.run
    left = {path for path in run.root.rglob("*") if path.is_file()}
    assert not any(path.name.startswith(".") for path in left)
    # Only the files of the stages before the one that refuses are there.
    left -= {run.acquisitions, run.acquisitions_view, run.grids}
    left -= {path for path in left if path.parent == run.items}
    if run.register in left:
        # The number of pixels of a parcel is only known after clean.
        assert re.search(r"None of the \d+ parcels", message), message
        folders = {run.parcels, run.pixel_index("T").parent, run.label_image("T").parent}
        left -= {run.register, run.overlaps, *(p for p in left if p.parent in folders)}
        left -= {path for path in left if run.dataset.root / "tiles" in path.parents}
    assert not left


# With imagery.damaged set_aside, one bad acquisition does not end the run.
DAMAGED = {
    "truncated GeoTIFF": ("geotiffs", IMAGERY["truncated GeoTIFF, no header"][0]),
    "text for a GeoTIFF": ("geotiffs", text_for_tiff),
    "GeoTIFF without CRS": ("geotiffs", no_crs),
    "GeoTIFF without the band": ("geotiffs", IMAGERY["GeoTIFF without the band"][0]),
    "truncated JP2": ("safe", PRODUCTS["truncated JP2"][0]),
    "truncated zip": ("safe", zipped_and_cut),
    "one without metadata": ("safe", PRODUCTS["one without metadata"][0]),
    "missing band": ("safe", PRODUCTS["missing band"][0]),
    "invalid XML": ("safe", PRODUCTS["invalid XML"][0]),
    "metadata without scale": ("safe", no_quantification),
    "THEIA without bands": ("theia", THEIA["no bands"][0]),
    "invalid XML of THEIA": ("theia", THEIA["invalid XML"][0]),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_acquisition_can_be_set_aside(inputs, case, caplog):
    kind, spoil = DAMAGED[case]
    spoil(getattr(inputs, kind)().set(imagery={"damaged": "set_aside"}))
    with caplog.at_level(logging.WARNING):
        inputs.start()
    rows = {row.date.day: row for row in read_acquisitions(inputs.run.acquisitions)}
    assert {day: row.reason for day, row in rows.items()} == {3: "", 8: "damaged", 13: ""}
    assert not rows[8].used
    assert rows[8].tile == "31UDS"
    assert "20220408" in rows[8].acquisition
    assert "20220408" in rows[8].product.name
    assert any("Set aside: " in r.message and "20220408" in r.message for r in caplog.records)
    assert inputs.run.ledger.is_file()


def test_a_damaged_acquisition_without_a_date_in_its_name_is_refused(inputs):
    inputs.safe().set(imagery={"damaged": "set_aside"})
    metadata(inputs.products[1]).write_text("<html>")
    inputs.products[1].path.rename(inputs.imagery / "download")
    refuse(inputs, "MTD_MSIL2A.xml", "its name contains no date")


def test_many_damaged_acquisitions_are_one_warning(inputs, caplog):
    inputs.geotiffs().set(imagery={"damaged": "set_aside"})
    for day in range(10, 75):
        (inputs.imagery / f"{2000 + day}0408_T31UDS.tif").write_text("<html>")
    with caplog.at_level(logging.DEBUG):
        inputs.start()
    (warning,) = (r.message for r in caplog.records if "products.\n" in r.message)
    assert warning.startswith("Set aside: 65 products.")
    assert warning.endswith("... and 60 more")
    others = {r.message for r in caplog.records if r.levelno == logging.DEBUG}
    assert sum("Set aside: " in message for message in others) == 60


def test_imagery_that_is_nodata_at_all_parcels_is_called_that(inputs):
    inputs.geotiffs()
    for file in inputs.imagery.iterdir():
        with rasterio.open(file, "r+") as raster:
            raster.nodata = 0
            raster.write(np.zeros((raster.count, *raster.shape), np.uint16))
    settings = load(inputs.set(clouds={"mask": "none"}).values)
    with pytest.raises(InputError, match=r"nodata at all of the 8 parcels: none of the 3 acq"):
        prepare_dataset(settings, inputs.run.root)
    # One pixel with a value, on a cloudy date, is not nodata.
    with rasterio.open(second(inputs), "r+") as raster:
        raster.write(np.full((2, 40, 40), 500, np.uint16))
    for day in DAYS:
        write_tiff(inputs.folder / "masks" / f"{day}.tif", names=("mask",))
    masks = {"mask": "auto", "files": str(inputs.folder / "masks")}
    settings = load(inputs.set(clouds=masks, imagery={"max_cloud_fraction": 1}).values)
    with pytest.raises(InputError, match=r"None of the 8 parcels has parcels.min_pixels, 1"):
        prepare_dataset(settings, inputs.run.root)


def test_imagery_with_only_damaged_acquisitions_is_refused(inputs):
    inputs.geotiffs().set(imagery={"damaged": "set_aside"})
    for file in inputs.imagery.iterdir():
        file.write_text("<html>")
    refuse(inputs, "3 of 3 acquisitions cannot be read")


def test_an_acquisition_on_another_grid_is_set_aside(inputs):
    inputs.geotiffs()
    write_tiff(second(inputs), crs="EPSG:32632")
    inputs.start()
    assert [row.reason for row in read_acquisitions(inputs.run.acquisitions)] == [
        "",
        "other_grid",
        "",
    ]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_misplaced_acquisition_is_set_aside_by_name(inputs, caplog, at):
    """At the origin, it would make a grid of 50,040 x 560,000 pixels."""
    inputs.geotiffs()
    path = sorted(inputs.imagery.iterdir())[at]
    write_tiff(path, x=0)
    with rasterio.open(path, "r+") as raster:
        raster.transform = Affine(10, 0, 0, 0, -10, 0)
    inputs.start()
    rows = read_acquisitions(inputs.run.acquisitions)
    expected = ["misplaced" if number == at else "" for number in range(3)]
    assert [row.reason for row in rows] == expected
    assert read_grids(inputs.run.grids)["31UDS"].shape == (40, 40)
    assert re.search(
        rf"1 acquisitions are not used, as they are too far .*{path.name}. The first has its "
        r"corner at 0, 0 \(EPSG:32631\), tile 31UDS at 500000, 5600000",
        caplog.text,
    )


def test_grids_not_in_metres_can_be_set_aside(inputs):
    inputs.geotiffs().set(imagery={"damaged": "set_aside"})
    write_tiff(second(inputs), crs="EPSG:3857", x=334_000)
    inputs.start()
    reasons = [row.reason for row in read_acquisitions(inputs.run.acquisitions)]
    assert reasons == ["", "damaged", ""]


def test_a_duplicate_id_is_rejected(inputs):
    inputs.geotiffs()
    write_register(inputs.register, ID=[0, 0, 1, 2, 3, 4, 5, 6])
    inputs.start()
    reasons = pd.read_csv(inputs.run.ledger.with_suffix(".csv"), keep_default_na=False)["reason"]
    assert reasons.tolist() == ["", "duplicate_id", *[""] * 6]


def test_the_date_in_a_long_product_name_is_that_of_the_acquisition(tmp_path):
    name = "S2A_OPER_PRD_MSIL1C_PDMC_20160901T183552_R094_V20160607T105031_20160607T105031.SAFE"
    (row,) = damaged_rows([Damaged(tmp_path / name, "cut off")])
    assert row.date == date(2016, 6, 7)
    assert row.reason == "damaged"
