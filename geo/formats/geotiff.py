"""GeoTIFFs: one file a date, or one a band and date; names of files or folders give the date."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from geo.errors import InputError
from geo.formats.conventions import (
    Encoding,
    band_name,
    bands_and_masks,
    date_in,
    decoding,
    finest,
    tile_name,
)
from geo.imagery.acquisition import UNNAMED_TILE, Acquisition, Band, first_five
from geo.imagery.discovery import NO_BAND, Damaged, read_each, tiff_files
from geo.imagery.raster_reading import RasterHeader, read_header

logger = logging.getLogger(__name__)

# The part of a name that tells files of one acquisition apart: _B02, -SCL, _B05_20m.
_BAND_PART = re.compile(
    r"(?:^|[-_. ])(?P<band>B\d[\dA]?|SCL|CLDPRB|CLD|CLM)(?:[-_. ](?:\d\dm|R[12]))?(?=[-_. ]|$)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _FileGroup:
    """The files of one acquisition: in one folder, with names that differ by the band at most."""

    id: str
    tile: str
    date: date
    files: tuple[Path, ...]


def find(
    path: Path,
    bands: Sequence[str] | None,
    file_bands: Sequence[str] | None,
    reflectance_scale: float | None,
    damaged: list[Damaged] | None,
) -> list[Acquisition]:
    """Find the GeoTIFFs of a folder; see `geo.imagery.discovery.find_acquisitions`.

    A single file stands for its acquisition: files beside it that differ from it by the band in
    the name alone (20180405.tif, 20180405_SCL.tif) belong to it. Folders below are looked at where
    the folder itself has no GeoTIFF.
    """
    files = tiff_files(path)
    left_out = [file.name for file in files if NO_BAND.search(file.stem)]
    if left_out:
        logger.info("%d GeoTIFFs hold no band: %s.", len(left_out), first_five(left_out))
    files = [file for file in files if not NO_BAND.search(file.stem)]
    if not files:
        raise InputError(f"There is no GeoTIFF (.tif, .tiff) of bands in {path}.")
    undated = [file.name for file in files if _date_of(file) is None]
    if undated:
        raise InputError(
            f"{len(undated)} of {len(files)} GeoTIFFs of {path} have no date (YYYYMMDD or "
            f"YYYY-MM-DD) in their names: {first_five(undated)}. Rename or move them."
        )
    groups = _group(files if path.is_dir() else tiff_files(path.parent))
    by_product = {g.files[0]: g for g in groups if not set(g.files).isdisjoint(files)}

    def read(product: Path) -> Acquisition:
        return _read(by_product[product], bands, file_bands, reflectance_scale)

    return read_each(by_product, read, damaged)


def _group(files: Sequence[Path]) -> list[_FileGroup]:
    """Group files by acquisition; only their names and their folders' are looked at."""
    by_name: dict[tuple[Path, str], list[Path]] = {}
    for file in files:
        if _date_of(file) is not None and not NO_BAND.search(file.stem):
            name = _BAND_PART.sub("", file.stem).strip("-_. ")
            by_name.setdefault((file.parent, name), []).append(file)
    groups: list[_FileGroup] = []
    taken: dict[tuple[Path, str], int] = {}
    for (folder, _), members in sorted(by_name.items()):
        # The image first, then what lies beside it.
        members.sort(key=lambda file: (_BAND_PART.search(file.stem) is not None, file))
        sensed, tile = _date_of(members[0]), _tile_of(members[0])
        assert sensed is not None  # noqa: S101 (files without a date are left out above)
        base = f"{sensed:%Y%m%d}_{tile}"
        # Counted by folder, which is all that is seen of a single file.
        number = taken[folder, base] = taken.get((folder, base), 0) + 1
        id_ = f"{base}_{number}" if number > 1 else base
        groups.append(_FileGroup(id_, tile, sensed, tuple(members)))
    return groups


def _names(file: Path) -> tuple[str, str, str]:
    """Return what may name a file's tile and date: its own name, else those of its folders."""
    return file.stem, file.parent.name, file.parent.parent.name


def _tile_of(file: Path) -> str:
    """Return the tile that a file's name, or that of a folder it lies in, holds."""
    return next((tile for name in _names(file) if (tile := tile_name(name))), UNNAMED_TILE)


def _date_of(file: Path) -> date | None:
    """Return the date that a file's name, or that of a folder it lies in, holds."""
    try:
        return next((day for name in _names(file) if (day := date_in(name))), None)
    except ValueError as error:
        raise InputError(f"The name of {file} holds no date ({error}). Rename it.") from error


def _read(
    group: _FileGroup,
    bands: Sequence[str] | None,
    file_bands: Sequence[str] | None,
    reflectance_scale: float | None,
) -> Acquisition:
    """Read the headers of one acquisition's files."""
    layers: list[Band] = []
    for path in group.files:
        header = read_header(path)
        layers += [
            _band(name, path, layer, header, reflectance_scale)
            for layer, name in enumerate(_layer_names(path, header, file_bands), 1)
            if name is not None
        ]
    wanted, masks = bands_and_masks(finest(layers), bands)
    return Acquisition(
        id=group.id,
        tile=group.tile,
        date=group.date,
        product=group.files[0],
        format="geotiff",
        baseline=None,
        platform=None,
        cloud_fraction=None,
        bands=wanted,
        masks=masks,
    )


def _layer_names(
    path: Path, header: RasterHeader, file_bands: Sequence[str] | None
) -> list[str | None]:
    """Name the layers of a file: by its band descriptions, else its own name, else as told."""
    described = [band_name(text) for text in header.descriptions]
    if any(described):
        return described
    in_name = _BAND_PART.search(path.stem)
    if len(described) == 1 and in_name is not None:
        return [band_name(in_name["band"])]
    if file_bands is None:
        raise InputError(
            f"{path}: none of its {len(described)} bands is described as B01 to B12, B8A or SCL. "
            "Set file_bands to their names in order, or describe them in the file."
        )
    if len(file_bands) != len(described):
        raise InputError(
            f"{path} has {len(described)} bands, file_bands names {len(file_bands)}: "
            f"{', '.join(file_bands)}. Name every band of the file, in order."
        )
    return [band_name(text) for text in file_bands]


def _band(
    name: str, path: Path, layer: int, header: RasterHeader, reflectance_scale: float | None
) -> Band:
    """Describe one layer of a file."""
    at = layer - 1
    encoding = Encoding(
        dtype=np.dtype(header.dtypes[at]),
        scale=header.scales[at],
        offset=header.offsets[at],
        nodata=header.nodata[at],
    )
    try:
        scale, offset, nodata = decoding(name, encoding, reflectance_scale)
    except ValueError as error:
        raise InputError(f"{path}: {error}.") from error
    grid, block_shape = header.grid, header.block_shapes[at]
    return Band(name, str(path), layer, grid, block_shape, scale, offset, nodata)
