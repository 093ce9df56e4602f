"""Small GeoTIFFs."""

import rasterio
from affine import Affine

TRANSFORM = Affine(10, 0, 500_000, 0, -10, 5_600_000)


def write_tiff(path, values, names=(), *, crs="EPSG:32631", transform=TRANSFORM, **options):
    """Write (bands, rows, columns) with band descriptions; `scales` and `offsets` are options."""
    scales, offsets = options.pop("scales", None), options.pop("offsets", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width,
        dtype=values.dtype, crs=crs, transform=transform, **options,
    ) as raster:  # fmt: skip
        raster.write(values)
        for layer, name in enumerate(names, 1):
            raster.set_band_description(layer, name)
        if scales is not None:
            raster.scales, raster.offsets = scales, offsets
    return path
