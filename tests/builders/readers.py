"""One scene, written in every format: three bands at 10 and 20 m, of which two have nodata."""

import json
from dataclasses import dataclass

import numpy as np
from affine import Affine

from tests.builders import eopf, theia
from tests.builders.safe import write_safe, zip_product
from tests.builders.stacks import cube, write_stack
from tests.builders.tiffs import TRANSFORM, write_tiff

FINE, COARSE = (48, 48), (24, 24)
SHAPES = {"B02": FINE, "B03": FINE, "B8A": COARSE}
COARSE_TRANSFORM = Affine(20, 0, 500_000, 0, -20, 5_600_000)


@dataclass(frozen=True)
class Scene:
    """Reflectance x 10,000 and nodata masks, by band."""

    reflectance: dict[str, np.ndarray]
    nodata: dict[str, np.ndarray]

    def numbers(self, offset, nodata, dtype="uint16"):
        """Digital numbers by band: reflectance x 10,000 + offset, or a value for nodata."""
        return {
            band: np.where(self.nodata[band], nodata, values + offset).astype(dtype)
            for band, values in self.reflectance.items()
        }


def draw_scene(rng):
    nodata = {band: np.zeros(shape, bool) for band, shape in SHAPES.items()}
    nodata["B02"][10:20, 30:40] = True
    nodata["B8A"][15:18, 3:9] = True
    return Scene({band: rng.integers(1, 9000, shape) for band, shape in SHAPES.items()}, nodata)


def write_as_safe(folder, scene):
    numbers = scene.numbers(1000, 0) | {"SCL": np.full(COARSE, 4, np.uint8)}
    return write_safe(
        folder, np.random.default_rng(0), offsets=-1000, bands=tuple(numbers), numbers=numbers,
    )  # fmt: skip


def write_as_zipped_safe(folder, scene):
    zip_product(write_as_safe(folder, scene), top="product.SAFE")


def write_as_theia(folder, scene):
    product = folder / theia.NAME
    for band, values in scene.numbers(0, -10_000, "int16").items():
        path = product / f"{theia.NAME}_FRE_{band.replace('B0', 'B')}.tif"
        theia.write_image(path, values, 10 if SHAPES[band] == FINE else 20)
    text = theia.METADATA.format(quantification=10_000)
    (product / f"{theia.NAME}_MTD_ALL.xml").write_text(text)


def write_as_eopf(folder, scene):
    numbers = scene.numbers(1000, 0)
    by_pixel = {(b.lower(), 10 if SHAPES[b] == FINE else 20): v for b, v in numbers.items()}
    folder.mkdir()
    eopf.write_product(folder, np.random.default_rng(0), numbers=by_pixel)


def write_tiffs(folder, numbers, **options):
    for band, values in numbers.items():
        transform = TRANSFORM if SHAPES[band] == FINE else COARSE_TRANSFORM
        write_tiff(folder / f"20180405_{band}.tif", values[None], transform=transform, **options)


def write_as_geotiff(folder, scene):
    numbers = scene.numbers(1000, 65535)
    write_tiffs(folder, numbers, scales=(1e-4,), offsets=(-0.1,), nodata=65535)


def stacks(values_by_band, **attrs):
    """Return a stack of one time with the 10 m bands, and one with the 20 m bands."""
    for name, shape, pixel in (("fine", FINE, 10), ("coarse", COARSE, 20)):
        bands = [band for band, of_band in SHAPES.items() if of_band == shape]
        day = ("2018-04-05T10:50",)
        data = cube(np.random.default_rng(0), bands, day, pixel=pixel, shape=shape, **attrs)
        for band in bands:
            data[band] = data[band].astype(values_by_band[band].dtype)
            data[band].values[:] = values_by_band[band]
            data[band].attrs |= attrs
        yield name, data


def write_as_netcdf(folder, scene):
    """Float reflectance, where NaN is nodata."""
    values = {
        band: (numbers / 10_000).astype("float32")
        for band, numbers in scene.numbers(0, np.nan, "float64").items()
    }
    for name, data in stacks(values):
        write_stack(data, folder, "netcdf", name)


def write_as_zarr(folder, scene):
    attrs = {"scale_factor": 1e-4, "add_offset": -0.1, "missing_value": np.uint16(0)}
    for name, data in stacks(scene.numbers(1000, 0), **attrs):
        write_stack(data, folder, "zarr3", name, chunk=(16, 24))


def write_as_stac(folder, scene):
    """A local item with GeoTIFFs below it."""
    write_tiffs(folder / "images", scene.numbers(1000, 0))
    properties = {"datetime": "2018-04-05T10:50:31Z", "proj:code": "EPSG:32631"}
    assets = {
        band: {
            "href": f"images/20180405_{band}.tif",
            "type": "image/tiff; application=geotiff",
            "proj:shape": list(shape),
            "proj:transform": list(TRANSFORM if shape == FINE else COARSE_TRANSFORM)[:6],
            "bands": [{"name": band}],
            "raster:scale": 1e-4,
            "raster:offset": -0.1,
            "nodata": 0,
        }
        for band, shape in SHAPES.items()
    }
    item = {"type": "Feature", "stac_version": "1.1.0", "id": "S2A_31UDS_20180405_0_L2A"}
    item |= {"geometry": None, "links": [], "properties": properties, "assets": assets}
    (folder / "item.json").write_text(json.dumps(item))


# By format: the writer, the file that contains B02, and the file that messages name.
READERS = {
    "safe": (write_as_safe, "**/*_B02_10m.jp2", "**/*_B02_10m.jp2"),
    "zipped safe": (write_as_zipped_safe, "*.zip", "*.zip"),
    "theia": (write_as_theia, "*/*_FRE_B2.tif", "*/*_FRE_B2.tif"),
    "eopf": (write_as_eopf, "*.zarr/measurements/reflectance/r10m/b02/0.0", "*.zarr"),
    "geotiff": (write_as_geotiff, "*_B02.tif", "*_B02.tif"),
    "netcdf": (write_as_netcdf, "fine.nc", "fine.nc"),
    "zarr": (write_as_zarr, "fine.zarr/B02/c/0/0/0", "fine.zarr"),
    "stac": (write_as_stac, "images/*_B02.tif", "images/*_B02.tif"),
}
