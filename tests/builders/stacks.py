"""Small NetCDF and Zarr stacks."""

import warnings

import numpy as np
import xarray as xr

DAYS = ("2018-04-05T10:50", "2018-04-10T10:50", "2018-04-15T10:50")
FORMATS = ["netcdf", "zarr2", "zarr3", "zarr2 unconsolidated", "zarr3 unconsolidated"]


def cube(
    rng, bands=("B02", "B8A"), days=DAYS, *, time="time", pixel=10, shape=(6, 8), dtype="uint16",
    **attrs,
):  # fmt: skip
    """Return a north-up stack (time, y, x) in UTM zone 31 with its corner at (500000, 5600000).

    Integers are counts (x 10,000), floats are reflectance. `attrs` are attributes of the bands.
    """
    size = (len(days), *shape)
    if np.issubdtype(dtype, np.integer):
        values = {name: rng.integers(1, 9999, size).astype(dtype) for name in bands}
    else:
        values = {name: rng.random(size).astype(dtype) for name in bands}
    coordinates = {
        time: np.array(days, "datetime64[ns]"),
        "y": 5_600_000 - pixel * (np.arange(shape[0]) + 0.5),
        "x": 500_000 + pixel * (np.arange(shape[1]) + 0.5),
    }
    variables = {name: ((time, "y", "x"), array, attrs) for name, array in values.items()}
    return xr.Dataset(variables, coordinates, {"epsg": 32631, "tile": "31UDS"})


def write_stack(data, folder, form="netcdf", name="stack", *, chunk=(2, 3), **options):
    """Write a stack in one of `FORMATS` and return its path; `chunk` is the size of Zarr chunks."""
    folder.mkdir(parents=True, exist_ok=True)
    if form == "netcdf":
        path = folder / f"{name}.nc"
        data.to_netcdf(path, mode="a" if "group" in options else "w", **options)
        return path
    path = folder / f"{name}.zarr"
    with warnings.catch_warnings():
        # zarr warns that other software may not read consolidated metadata or text of version 3.
        warnings.simplefilter("ignore")
        data.chunk({axis: chunk[not axis.startswith("y")] for axis in data.dims}).to_zarr(
            path,
            zarr_format=int(form[4]),
            consolidated="unconsolidated" not in form,
            mode="a",
            **options,
        )
    return path
