"""Read the header of a raster, and check that its file is complete."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError

from geo.errors import InputError
from geo.grid import Grid
from geo.imagery.acquisition import Band, is_address, local_file
from geo.imagery.file_cache import cached
from geo.imagery.jpeg2000 import find_codestream
from geo.imagery.open_rasters import DAMAGED, OpenRasters, is_jp2

# Values of a block. A whole Sentinel-2 band of 10980 x 10980 pixels has a quarter of it.
LARGEST_BLOCK = 2**29


@dataclass(frozen=True)
class RasterHeader:
    """The metadata of a raster file; tuples have one item for each layer.

    `alphas` tells which layers are alpha bands.
    """

    grid: Grid
    block_shapes: tuple[tuple[int, int], ...]
    dtypes: tuple[str, ...]
    descriptions: tuple[str, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    nodata: tuple[float | None, ...]
    alphas: tuple[bool, ...]
    # Processing baseline, which GDAL copies from SAFE products into the metadata of other files.
    baseline: str | None = None


def read_header(source: str | Path, size: int | None = None) -> RasterHeader:
    """Read the header of a GeoTIFF or JPEG 2000 file, and check that the file is complete.

    Parameters
    ----------
    source
        Local file, member of an archive (/vsizip/...), or address.
    size
        Bytes of a member of an archive or of a remote file, None if unknown.

    Raises
    ------
    InputError
        If the file cannot be opened, is truncated, or has no coordinate system.
    """
    source = str(source)
    if str(local_file(source)) == source and not is_address(source):
        return cached(
            ("header", source), [source], RasterHeader, lambda: _read_header(source, None)
        )
    return _read_header(source, size)


def _read_header(source: str, size: int | None) -> RasterHeader:
    is_local = str(local_file(source)) == source and not is_address(source)
    try:
        with OpenRasters() as rasters, rasters.use(source) as raster:
            grid = _grid(source, raster)
            alphas = alpha_layers(raster)
            end = _end_of_tiff_blocks(raster) if raster.driver == "GTiff" else 0
            header = RasterHeader(
                grid=grid,
                block_shapes=tuple(raster.block_shapes),
                dtypes=tuple(raster.dtypes),
                descriptions=tuple(text or "" for text in raster.descriptions),
                scales=tuple(raster.scales),
                offsets=tuple(raster.offsets),
                nodata=tuple(raster.nodatavals),
                alphas=tuple(layer in alphas for layer in raster.indexes),
                baseline=raster.tags().get("PROCESSING_BASELINE"),
            )
    except (RasterioError, OSError) as error:
        raise InputError(f"{source} cannot be opened ({error}). {DAMAGED}") from error
    for shape in header.block_shapes:
        check_block(source, shape)
    if is_local:
        size = Path(source).stat().st_size
    if size is not None and end > size:
        raise InputError(f"{source} ends at byte {size}, its pixels at byte {end}. {DAMAGED}")
    if is_local and size is not None and is_jp2(source):
        _check_complete_jp2(Path(source), size)
    return header


def alpha_layers(raster: Any) -> list[int]:
    """Return the numbers of the layers that are alpha bands.

    GDAL takes the fourth layer of a file for alpha if the first three are red, green and blue. If
    it is described as something else, it is not.
    """
    layers = enumerate(zip(raster.colorinterp, raster.descriptions, strict=True), 1)
    return [
        layer
        for layer, (colour, text) in layers
        if colour == ColorInterp.alpha and (text or "alpha").lower().startswith("alpha")
    ]


def check_block(source: str | Path, shape: Sequence[int]) -> None:
    """Check that a block, which is decoded as a whole, has at most `LARGEST_BLOCK` values."""
    if math.prod(shape) > LARGEST_BLOCK:
        raise InputError(
            f"{source} has blocks of {' x '.join(map(str, shape))} values, and every block is "
            f"decoded as a whole: at most {LARGEST_BLOCK:,} values are read. Write it again in "
            "smaller blocks (gdal_translate -co TILED=YES, or chunks of xarray)."
        )


def block_shape(band: Band) -> tuple[int, int]:
    """Return rows and columns of the blocks of a band, which are decoded as a whole.

    The file is opened if the band does not state them.

    Raises
    ------
    InputError
        If the file is opened and does not have the band's grid or layer.
    """
    if band.block_shape is not None:
        return band.block_shape
    header = read_header(band.source)
    if not header.grid.matches(band.grid):
        raise InputError(
            f"{band.source} has the grid {header.grid}, but its catalogue states {band.grid}: "
            "leave the item out."
        )
    assert isinstance(band.layer, int)  # noqa: S101 (bands of stacks state their blocks)
    if band.layer > len(header.block_shapes):
        raise InputError(
            f"{band.source} has {len(header.block_shapes)} layers, but {band.name} is layer "
            f"{band.layer} by its catalogue: leave the item out."
        )
    return header.block_shapes[band.layer - 1]


def crs_text(crs: Any) -> str:
    """Return a coordinate system (of rasterio or pyproj) as EPSG code, or as WKT if it has none."""
    epsg = crs.to_epsg()
    return f"EPSG:{epsg}" if epsg else str(crs.to_wkt())


def _grid(source: str, raster: Any) -> Grid:
    """Return the grid of an open raster."""
    if raster.transform.is_identity:
        points = "only ground control points" if raster.gcps[0] else "none"
        raise InputError(
            f"{source} has no place on the ground: expected the corner and the size of its pixels "
            f"(a geotransform), found {points}. Warp it (gdalwarp), or assign its corners "
            "(gdal_edit.py -a_ullr)."
        )
    if raster.crs is None:
        raise InputError(f"{source} has no coordinate system: assign one (gdal_edit -a_srs).")
    try:
        return Grid.from_transform(crs_text(raster.crs), raster.transform, *raster.shape)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error


def _end_of_tiff_blocks(raster: Any) -> int:
    """Return the byte after the last block of all bands, as writers store blocks in order.

    A truncated TIFF can be opened without an error, because its directory is at its start.
    """
    end = 0
    for band in range(1, raster.count + 1):
        block_height, block_width = raster.block_shapes[band - 1]
        last = f"{(raster.width - 1) // block_width}_{(raster.height - 1) // block_height}"
        offset = raster.get_tag_item(f"BLOCK_OFFSET_{last}", "TIFF", bidx=band)
        size = raster.get_tag_item(f"BLOCK_SIZE_{last}", "TIFF", bidx=band)
        if offset and size:  # blocks of a sparse file may not be stored
            end = max(end, int(offset) + int(size))
    return end


def _check_complete_jp2(path: Path, size: int) -> None:
    """Check that the codestream of a JP2 file is complete.

    The codestream ends with the marker FFD9 (ISO/IEC 15444-1, annex A.4.4). GDAL opens a truncated
    file without an error, and fails when it decodes the missing part.
    """
    with path.open("rb") as file:
        found = find_codestream(file, size)
        if found is None:
            raise InputError(f"{path} contains no JPEG 2000 codestream. {DAMAGED}")
        _, end = found
        file.seek(max(min(end, size) - 2, 0))
        if end > size or file.read(2) != b"\xff\xd9":
            missing = f" of {end}" if end > size else ""
            raise InputError(
                f"{path} ends at byte {size}{missing}, before its image does. {DAMAGED}"
            )
