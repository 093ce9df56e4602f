"""Small products of EOPF in Zarr: groups by resolution, attributes like those of real ones."""

import warnings

import numpy as np
import xarray as xr

NAME = "S2A_MSIL2A_20251008T100041_N0511_R122_T32TQM_20251008T122613"
LEFT, TOP, SIDE = 699_960, 4_700_040, 480
REFLECTANCE = {
    10: ("b02", "b03"), 20: ("b01", "b02", "b03", "b05", "b8a"), 60: ("b01", "b02", "b8a"),
}  # fmt: skip


def dataset(rng, pixel, names, greatest, attrs, numbers=None):
    """Return one group: (y, x) without a time, integer pixel centres, CRS as an attribute."""
    n = SIDE // pixel
    values = {name: rng.integers(0, greatest, (n, n)).astype(attrs["dtype"]) for name in names}
    for name, pixel_of in numbers or {}:
        if pixel_of == pixel:
            values[name] = numbers[name, pixel]
    variables = {
        name: (("y", "x"), array, {**attrs, "proj:epsg": 32632}) for name, array in values.items()
    }
    x = LEFT + pixel // 2 + pixel * np.arange(n)
    return xr.Dataset(variables, {"x": x, "y": TOP - (x - LEFT)})


def write_product(
    folder, rng, name=NAME, *, version=2, consolidated=True, add_offset=-0.1, numbers=None, **over
):
    """Write a product and return its raw arrays by group and name.

    `numbers` are raw values by name and pixel size, in place of random ones.
    """
    scale = {"scale_factor": 1e-4} | ({} if add_offset is None else {"add_offset": add_offset})
    counts = {"dtype": "<u2", "fill_value": 0, "valid_min": 1, "valid_max": 65535,
              "units": "digital_counts", **scale}  # fmt: skip
    groups = {
        f"measurements/reflectance/r{pixel}m": dataset(rng, pixel, names, 9000, counts, numbers)
        for pixel, names in REFLECTANCE.items()
    }
    bytes_ = {"dtype": "|u1"}
    # Arrays that have the names of bands, but are none.
    groups["conditions/mask/detector_footprint/r10m"] = dataset(rng, 10, ["b02"], 7, bytes_)
    groups["quality/mask/r10m"] = dataset(rng, 10, ["b02"], 7, bytes_)
    if "MSIL2A" in name:
        for pixel in (20, 60):
            place = f"conditions/mask/l2a_classification/r{pixel}m"
            groups[place] = dataset(rng, pixel, ["scl"], 12, bytes_)
        groups["quality/probability/r20m"] = dataset(rng, 20, ["cld", "snw"], 101, bytes_)
    properties = {
        "start_datetime": "2025-10-08T10:00:41.024000+00:00", "platform": "sentinel-2a",
        "created": "2025-10-08T12:26:13+00:00", "eopf:baseline": "05.11",
        "eo:cloud_cover": 33.5, "datetime": None, **over,
    }  # fmt: skip
    attributes = {
        "stac_discovery": {"id": f"{NAME}.SAFE", "properties": properties},
        "other_metadata": {"horizontal_CRS_code": "EPSG:32632"},
    }
    tree = xr.DataTree.from_dict({"/": xr.Dataset(attrs=attributes), **groups})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree.to_zarr(folder / f"{name}.zarr", zarr_format=version, consolidated=consolidated)
    return {group: {n: v.values for n, v in data.items()} for group, data in groups.items()}
