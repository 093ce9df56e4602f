"""GeoTIFFs: one file for each date, or for each band and date.

The dates are in the names of the files or of their folders.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np

from geo.errors import InputError
from geo.formats.conventions import (
    Encoding,
    band_name,
    baseline_in,
    date_in,
    decoding,
    finest,
    offset_of_baseline,
    tile_name,
    with_unstated_offset,
)
from geo.imagery.acquisition import (
    BANDS,
    UNNAMED_TILE,
    Acquisition,
    Band,
    bands_and_masks,
    first_five,
)
from geo.imagery.discovery import NOT_A_BAND, Damaged, files_ending, read_each, tiff_files
from geo.imagery.raster_header import RasterHeader, read_header

logger = logging.getLogger(__name__)

# The part of a name in which the files of one acquisition differ: _B02, -SCL, _B05_20m.
_BAND_PART = re.compile(
    r"(?:^|[-_. ])(?P<band>B\d[\dA]?|SCL|CLDPRB|CLD|CLM)(?:[-_. ](?:\d\dm|R[12]))?(?=[-_. ]|$)",
    re.IGNORECASE,
)

# Images that other archives keep beside the bands: masks and qualities (Fmask of HLS, QAI of FORCE,
# CLOUD of sits, SCENECLASSIFICATION of Terrascope), angles, distances and indices.
_BESIDE_BANDS = re.compile(
    r"(?:^|[-_. ])(?:Fmask|QAI|CLOUDS?|SCENECLASSIFICATION|SHADOWS?|[SV][AZ]A|DST|HOT|VZN|OVV|AOD"
    r"|ND[VWS]I|EVI2?|SAVI|FAPAR|LAI|FCOVER)(?:[-_. ]\d+m)?(?:[-_. ]v\d+)?$",
    re.IGNORECASE,
)

# Metadata of the product that files were made from, beside them: MTD_MSIL2A.xml, MTD_TL.xml,
# <name of the file>_MTD.xml. Only these elements are looked for, so the XML is not parsed.
_SIDECAR = re.compile(r"(?:(?P<stem>.+)_)?MTD(?:_\w+)?", re.IGNORECASE)
_SIDECAR_BASELINE = re.compile(
    r"<PROCESSING_BASELINE[^>]*>\s*(\d\d\.\d\d)|_N(\d\d\.\d\d)\s*</TILE_ID>"
)
_SIDECAR_OFFSET = re.compile(
    r'<(?:BOA|RADIO)_ADD_OFFSET\s+band_id="(\d+)"\s*>\s*(-?\d+(?:\.\d+)?)\s*<'
)
_MAX_SIDECAR = 20_000_000  # bytes; real ones have less than 1 MB


@dataclass(frozen=True)
class _Processing:
    """What names and files beside an acquisition say about its processing.

    Parameters
    ----------
    baseline
        "04.00", None if unknown.
    offsets
        Digital numbers that are added, by band, as the product's metadata list them.
    """

    baseline: str | None = None
    offsets: Mapping[str, float] = field(default_factory=dict)

    def offset_of(self, band: str) -> float:
        """Return the offset of a band whose file states none."""
        return self.offsets.get(band, offset_of_baseline(self.baseline))


@dataclass(frozen=True)
class _FileGroup:
    """The files of one acquisition: in one folder, with names that differ only by the band."""

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

    Files whose names differ only by the band (20180405.tif, 20180405_SCL.tif) are one acquisition,
    also if `path` is one of them. Subfolders are searched if the folder itself has no GeoTIFF.
    """
    files = tiff_files(path)
    others = [file.name for file in files if _lacks_bands(file)]
    if others:
        logger.info("%d GeoTIFFs contain no band: %s.", len(others), first_five(others))
    files = [file for file in files if not _lacks_bands(file)]
    if not files:
        raise InputError(f"There is no GeoTIFF (.tif, .tiff) of bands in {path}.")
    undated = [file.name for file in files if _date_of(file) is None]
    if undated:
        raise InputError(
            f"{len(undated)} of {len(files)} GeoTIFFs of {path} have no date (YYYYMMDD or "
            f"YYYY-MM-DD) in their names: {first_five(undated)}. Rename or move them."
        )
    groups = _group(files if path.is_dir() else tiff_files(path.parent))
    groups = [group for group in groups if not set(group.files).isdisjoint(files)]
    read = partial(_read, bands=bands, file_bands=file_bands, reflectance_scale=reflectance_scale)
    return read_each(groups, read, damaged, lambda group: group.files[0])


def _lacks_bands(file: Path) -> bool:
    """Return whether the name of a file says that it contains no band."""
    return bool(NOT_A_BAND.search(file.stem) or _BESIDE_BANDS.search(file.stem))


def _group(files: Sequence[Path]) -> list[_FileGroup]:
    """Group files by acquisition, by the names of files and folders."""
    by_name: dict[tuple[Path, str], list[Path]] = {}
    for file in files:
        if _date_of(file) is not None and not _lacks_bands(file):
            name = _BAND_PART.sub("", file.stem).strip("-_. ")
            by_name.setdefault((file.parent, name), []).append(file)
    groups: list[_FileGroup] = []
    taken: dict[tuple[Path, str], int] = {}
    for (folder, _), members in sorted(by_name.items()):
        # The file without a band in its name comes first.
        members.sort(key=lambda file: (_BAND_PART.search(file.stem) is not None, file))
        day, tile = _date_of(members[0]), _tile_of(members[0])
        assert day is not None  # noqa: S101 (files without a date are left out above)
        base = f"{day:%Y%m%d}_{tile}"
        # Numbers are per folder, so that a file has the same number if it is read alone.
        number = taken[folder, base] = taken.get((folder, base), 0) + 1
        id_ = f"{base}_{number}" if number > 1 else base
        groups.append(_FileGroup(id_, tile, day, tuple(members)))
    return groups


def _names(file: Path) -> tuple[str, str, str]:
    """Return the names that may contain tile and date: of the file, and of its two folders."""
    return file.stem, file.parent.name, file.parent.parent.name


def _tile_of(file: Path) -> str:
    """Return the tile in the name of a file or its folders."""
    return next((tile for name in _names(file) if (tile := tile_name(name))), UNNAMED_TILE)


def _date_of(file: Path) -> date | None:
    """Return the date in the name of a file or its folders, None if there is none."""
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
    """Read the headers of the files of one acquisition."""
    headers = {path: read_header(path) for path in group.files}
    processing = _processing(group, headers.values())
    layers = [
        _band(name, path, layer, header, processing, reflectance_scale)
        for path, header in headers.items()
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
        bands=wanted,
        masks=masks,
        baseline=processing.baseline,
    )


def _processing(group: _FileGroup, headers: Iterable[RasterHeader]) -> _Processing:
    """Return the processing by the metadata beside the files, their own, or their names."""
    beside = _sidecar(group)
    in_files = (header.baseline for header in headers)
    in_names = (baseline_in(name) for file in group.files for name in _names(file))
    stated = (beside.baseline, *in_files, *in_names)
    return replace(beside, baseline=next(filter(None, stated), None))


def _sidecar(group: _FileGroup) -> _Processing:
    """Read the metadata beside the files of an acquisition, if there are any.

    Metadata that do not begin with the name of a file belong to all files of a folder, so they are
    used only if the files are of one acquisition.
    """
    folder = group.files[0].parent
    stems = [_BAND_PART.sub("", file.stem).strip("-_. ") for file in group.files]
    texts = []
    for path in files_ending(folder, (".xml",)):
        match = _SIDECAR.fullmatch(path.stem)
        if match is None:
            continue
        is_own = match["stem"] is not None and any(s.startswith(match["stem"]) for s in stems)
        is_of_folder = match["stem"] is None and len(_group(tiff_files(folder))) == 1
        if is_own or is_of_folder:
            with path.open(encoding="utf-8", errors="replace") as file:
                texts.append(file.read(_MAX_SIDECAR))
    text = "\n".join(texts)
    baseline = _SIDECAR_BASELINE.search(text)
    return _Processing(
        baseline=(baseline[1] or baseline[2]) if baseline else None,
        offsets={
            BANDS[int(number)]: float(offset)
            for number, offset in _SIDECAR_OFFSET.findall(text)
            if int(number) < len(BANDS)
        },
    )


def _layer_names(
    path: Path, header: RasterHeader, file_bands: Sequence[str] | None
) -> list[str | None]:
    """Return the bands of a file's layers, by its descriptions, its name, or else `file_bands`.

    Alpha bands are not counted, unless `file_bands` names every layer.
    """
    described = [band_name(text) for text in header.descriptions]
    if any(described):
        return described
    in_name = _BAND_PART.search(path.stem)
    colours = header.alphas.count(False)
    if colours == 1 and in_name is not None:
        return [None if alpha else band_name(in_name["band"]) for alpha in header.alphas]
    if file_bands is None:
        raise InputError(
            f"{path}: none of its {colours} bands is described as B01 to B12, B8A or SCL. "
            "Set file_bands to their names in order, or describe them in the file."
        )
    names = [band_name(text) for text in file_bands]
    if len(names) == len(described):
        return names
    if len(names) != colours:
        raise InputError(
            f"{path} has {colours} bands, file_bands names {len(file_bands)}: "
            f"{', '.join(file_bands)}. Name every band of the file, in order."
        )
    in_order = iter(names)
    return [None if alpha else next(in_order) for alpha in header.alphas]


def _band(
    name: str,
    path: Path,
    layer: int,
    header: RasterHeader,
    processing: _Processing,
    reflectance_scale: float | None,
) -> Band:
    """Return one layer of a file."""
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
    band = Band(name, str(path), layer, grid, block_shape, scale, offset, nodata)
    if reflectance_scale is not None:
        return band
    return with_unstated_offset(band, processing.offset_of(name))
