"""GeoTIFFs, one or several a date, with the date in their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from geo.acquisitions import (
    BANDS,
    MASKS,
    UNNAMED_TILE,
    Acquisition,
    AcquisitionError,
    Band,
    first_five,
    read_each,
)
from geo.readers.conventions import (
    TIFF_ENDINGS,
    band_name,
    files_ending,
    scale_and_offset,
    tile_name,
)
from geo.reading import RasterHeader, read_header

_DATE = re.compile(r"(?<!\d)(20\d\d)([-_]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d)")
# The part of a name that tells files of one acquisition apart: _B02, -SCL, _B05_20m.
_BAND_PART = re.compile(
    r"(?:^|[-_. ])(?P<band>B\d[\dA]?|SCL)(?:[-_. ]\d\dm)?(?=[-_. ]|$)", re.IGNORECASE
)


@dataclass(frozen=True)
class _FileGroup:
    """The files of one acquisition: their names differ by the band at most."""

    id: str
    tile: str
    date: date
    files: tuple[Path, ...]


def find(
    path: Path,
    bands: Sequence[str] | None,
    file_bands: Sequence[str] | None,
    reflectance_scale: float | None,
) -> list[Acquisition]:
    """Find the GeoTIFFs of a folder; see `geo.acquisitions.find_acquisitions`.

    A single file stands for its acquisition: files beside it that differ from it by the band in
    the name alone (20180405.tif, 20180405_SCL.tif) belong to it.
    """
    files = list(files_ending(path, TIFF_ENDINGS))
    if not files:
        raise AcquisitionError(f"There is no GeoTIFF (.tif, .tiff) in {path} itself.")
    undated = [file.name for file in files if _DATE.search(file.stem) is None]
    if undated:
        raise AcquisitionError(
            f"{len(undated)} of {len(files)} GeoTIFFs of {path} have no date (YYYYMMDD or "
            f"YYYY-MM-DD) in their names: {first_five(undated)}. Rename or move them."
        )
    groups = _group(list(files_ending(path if path.is_dir() else path.parent, TIFF_ENDINGS)))
    by_product = {g.files[0]: g for g in groups if not set(g.files).isdisjoint(files)}

    def read(product: Path) -> Acquisition:
        return _read(by_product[product], bands, file_bands, reflectance_scale)

    return read_each(by_product, read)


def _group(files: Sequence[Path]) -> list[_FileGroup]:
    """Group the files of a folder by acquisition; only their names are looked at."""
    by_name: dict[str, list[Path]] = {}
    for file in files:
        if _DATE.search(file.stem) is not None:
            by_name.setdefault(_BAND_PART.sub("", file.stem).strip("-_. "), []).append(file)
    groups: list[_FileGroup] = []
    taken: dict[str, int] = {}
    for name, members in sorted(by_name.items()):
        sensed = _sensing_date(members[0])
        tile = tile_name(name) or UNNAMED_TILE
        base = f"{sensed:%Y%m%d}_{tile}"
        taken[base] = taken.get(base, 0) + 1
        number = f"_{taken[base]}" if taken[base] > 1 else ""
        # The image first, then what lies beside it.
        members.sort(key=lambda file: (_BAND_PART.search(file.stem) is not None, file))
        groups.append(_FileGroup(base + number, tile, sensed, tuple(members)))
    return groups


def _sensing_date(file: Path) -> date:
    """Give the first date of a file's name; Sentinel-2 names put the processing date later."""
    match = _DATE.search(file.stem)
    assert match is not None  # noqa: S101 (files without a date are refused before)
    try:
        return date(int(match[1]), int(match[3]), int(match[4]))
    except ValueError as error:
        raise AcquisitionError(f"{file}: {match[0]} is no date ({error}). Rename it.") from error


def _read(
    group: _FileGroup,
    bands: Sequence[str] | None,
    file_bands: Sequence[str] | None,
    reflectance_scale: float | None,
) -> Acquisition:
    """Read the headers of one acquisition's files."""
    found: dict[str, Band] = {}
    for path in group.files:
        header = read_header(path)
        for layer, name in enumerate(_layer_names(path, header, file_bands), 1):
            if name is None:
                continue
            if name in found:
                raise AcquisitionError(
                    f"{name} of {group.id} is in {Path(found[name].source).name} layer "
                    f"{found[name].layer} and in {path.name} layer {layer}: keep one of them."
                )
            found[name] = _band(name, path, layer, header, reflectance_scale)
    wanted = BANDS if bands is None else bands
    return Acquisition(
        id=group.id,
        tile=group.tile,
        date=group.date,
        product=group.files[0],
        format="geotiff",
        baseline=None,
        platform=None,
        cloud_fraction=None,
        bands={name: found[name] for name in BANDS if name in found and name in wanted},
        masks={name: found[name] for name in MASKS if name in found},
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
        raise AcquisitionError(
            f"{path}: none of its {len(described)} bands is described as B01 to B12, B8A or SCL. "
            "Set file_bands to their names in order, or describe them in the file."
        )
    if len(file_bands) != len(described):
        raise AcquisitionError(
            f"{path} has {len(described)} bands, file_bands names {len(file_bands)}: "
            f"{', '.join(file_bands)}. Name every band of the file, in order."
        )
    return [band_name(text) for text in file_bands]


def _band(
    name: str, path: Path, layer: int, header: RasterHeader, reflectance_scale: float | None
) -> Band:
    """Describe one layer of a file."""
    at = layer - 1
    is_integer = np.issubdtype(np.dtype(header.dtypes[at]), np.integer)
    scale, offset = scale_and_offset(
        header.scales[at], header.offsets[at], is_integer, reflectance_scale
    )
    nodata = header.nodata[at]
    if nodata is None:
        nodata = 0.0 if is_integer else float("nan")  # 0 by the custom of Sentinel-2
    is_reflectance = name not in MASKS
    return Band(
        name=name,
        source=str(path),
        layer=layer,
        grid=header.grid,
        block_shape=header.block_shapes[at],
        scale=scale if is_reflectance else 1.0,
        offset=offset if is_reflectance else 0.0,
        nodata=nodata,
    )
