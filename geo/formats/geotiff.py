"""GeoTIFF and JPEG 2000: files by date, by band and date, or with all dates of a series.

The names of files, folders and layers tell the date, the band and the tile; see
`geo.formats.archives`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np

from geo.errors import InputError
from geo.formats.archives import (
    SENTINEL_HUB,
    Convention,
    FileName,
    Layer,
)
from geo.formats.conventions import (
    Encoding,
    decoding,
    finest,
    tile_name,
    with_unstated_offset,
)
from geo.formats.dates import day_or_period_in
from geo.formats.file_dates import contain_periods
from geo.formats.file_groups import (
    FileGroup,
    group_files,
    is_one_acquisition,
    named,
    names_at,
    original_of,
)
from geo.formats.layer_names import is_preview, layer_texts
from geo.formats.sentinel_hub import read_request
from geo.formats.sidecars import Folders, Processing, processing_of
from geo.grid import Grid
from geo.imagery.acquisition import (
    BANDS,
    MASKS,
    SCENE_CLASSIFICATION,
    UNNAMED_TILE,
    Acquisition,
    Band,
    bands_and_masks,
    first_five,
)
from geo.imagery.damaged import Damaged, read_each, refuse_damaged
from geo.imagery.imagery_files import image_files, images_below
from geo.imagery.raster_header import RasterHeader, read_header

logger = logging.getLogger(__name__)

# Since then, pixels have the additive offset of processing baseline 04.00: see
# `geo.formats.conventions.offset_of_baseline`.
_WITH_OFFSET = date(2022, 1, 25)


@dataclass(frozen=True)
class _FoundLayer:
    """A band or mask in a file; a smaller rank is preferred to others of this name."""

    band: Band
    rank: int
    day: date | None
    tile: str


@dataclass(frozen=True)
class _Contents:
    """The layers of the files of a group, and the files in which no layer is named."""

    group: FileGroup
    layers: tuple[_FoundLayer, ...]
    unnamed: tuple[tuple[FileName, int], ...]  # with the number of their layers
    baseline: str | None


@dataclass(frozen=True)
class _Dated:
    """The layers of one date."""

    id: str
    tile: str
    date: date
    product: Path
    folder: Path
    group: str  # the name that its files share
    baseline: str | None
    layers: tuple[_FoundLayer, ...]

    @property
    def is_masks(self) -> bool:
        """Whether it has no bands."""
        return all(layer.band.name in MASKS for layer in self.layers)

    @property
    def grid(self) -> Grid:
        """Grid of its first layer."""
        return self.layers[0].band.grid


def find(
    path: Path,
    bands: Sequence[str] | None,
    file_bands: Sequence[str] | None,
    reflectance_scale: float | None,
    damaged: list[Damaged] | None,
    convention: Convention | None = None,
) -> list[Acquisition]:
    """Find the images of a folder; see `geo.imagery.discovery.find_acquisitions`.

    Files whose names differ only by the band (20180405.tif, 20180405_SCL.tif) are one acquisition,
    also if `path` is one of them. Subfolders are searched if the folder itself has no GeoTIFF.
    """
    folders = Folders(lambda folder: is_one_acquisition(names_at(folder, convention)))
    read = partial(
        _read, file_bands=file_bands, reflectance_scale=reflectance_scale, folders=folders
    )
    files = image_files(path)
    n_damaged = len(damaged or ())
    names, contents = _contents(path, files, read, damaged, convention)
    if not any(item.layers for item in contents) and len(images_below(path)) > len(files):
        # Those of the folder itself are others: a model of the ground, an outline.
        del (damaged or [])[n_damaged:]
        names, contents = _contents(path, images_below(path), read, damaged, convention)
    beside = [name.path.name for name in names if name.is_beside]
    if copies := [name.path.name for name in names if original_of(name.path) and name.is_beside]:
        logger.warning("%d copies of images are left out: %s.", len(copies), first_five(copies))
    if beside:
        logger.info("%d images contain no band: %s.", len(beside), first_five(beside))
    if len(beside) == len(names):
        raise InputError(f"There is no GeoTIFF (.tif, .tiff) or JPEG 2000 of bands in {path}.")
    _set_unnamed_aside(contents, file_bands, damaged)
    _refuse_undated(path, len(names) - len(beside), contents)
    read_dated = partial(_acquisition, bands=bands)
    dated = _with_lone_masks(list(_by_date(contents)))
    return read_each(dated, read_dated, damaged, lambda item: item.product)


def _contents(
    path: Path,
    files: Sequence[Path],
    read: Callable[[FileGroup], _Contents],
    damaged: list[Damaged] | None,
    convention: Convention | None,
) -> tuple[list[FileName], list[_Contents]]:
    """Return the names of files, and the contents of their groups.

    If the path is a file, those beside it are grouped, too, but only its own group is read.
    """
    names = named(files, convention)
    wanted = {name.path for name in names if not name.is_beside}
    groups = group_files(names if path.is_dir() else names_at(path.parent, convention))
    groups = [group for group in groups if any(name.path in wanted for name in group.files)]
    return names, read_each(groups, read, damaged, lambda group: group.files[0].path)


def _by_date(contents: Sequence[_Contents]) -> Iterator[_Dated]:
    """Yield the layers of each date and tile of the groups; a series has several."""
    for item in contents:
        by_day: dict[tuple[date, str], list[_FoundLayer]] = {}
        for layer in item.layers:
            assert layer.day is not None  # noqa: S101 (undated files are refused before)
            by_day.setdefault((layer.day, layer.tile), []).append(layer)
        for (day, tile), layers in sorted(by_day.items()):
            number = f"_{item.group.number}" if item.group.number > 1 else ""
            id_, product = f"{day:%Y%m%d}_{tile}{number}", item.group.files[0].path
            place = item.group.files[0].group
            yield _Dated(id_, tile, day, product, *place, item.baseline, tuple(layers))


def _with_lone_masks(found: Sequence[_Dated]) -> list[_Dated]:
    """Return the layers by date; masks of other names join the only bands of their day.

    MSK_CLDPRB_20m lies beside T31TFM_20180403T105031_B02_10m. Masks in other folders must overlap.
    """
    by_day: dict[date, list[_Dated]] = {}
    for item in found:
        if not item.is_masks:
            by_day.setdefault(item.date, []).append(item)
    joined: dict[int, list[_FoundLayer]] = {}
    without_bands = []
    for item in filter(lambda item: item.is_masks, found):
        of_day = [o for o in by_day.get(item.date, ()) if _may_be_one_tile(item.tile, o.tile)]
        beside = [other for other in of_day if other.folder == item.folder]
        near = [other for other in of_day if item.grid.overlaps(other.grid)]
        owners = beside or [other for other in near if other.group == item.group] or near
        if len(owners) == 1:
            joined.setdefault(id(owners[0]), []).extend(item.layers)
        else:
            without_bands.append(item)
    with_bands = (
        replace(item, layers=(*item.layers, *joined.get(id(item), ())))
        for items in by_day.values()
        for item in items
    )
    return [*with_bands, *without_bands]


def _may_be_one_tile(one: str, other: str) -> bool:
    return one == other or UNNAMED_TILE in (one, other)


def _read(
    group: FileGroup,
    file_bands: Sequence[str] | None,
    reflectance_scale: float | None,
    folders: Folders,
) -> _Contents:
    """Read the headers of the files of a group, and name their layers."""
    headers = [read_header(name.path) for name in group.files]
    processing = processing_of(group.files, [header.baseline for header in headers], folders)
    layers: list[_FoundLayer] = []
    unnamed = []
    for name, header in zip(group.files, headers, strict=True):
        found = list(_layers(name, header, group.day, processing, file_bands, reflectance_scale))
        layers += found
        if not found:
            unnamed.append((name, header.alphas.count(False)))
    return _Contents(group, tuple(layers), tuple(unnamed), processing.baseline)


def _layers(
    name: FileName,
    header: RasterHeader,
    day: date | None,
    processing: Processing,
    file_bands: Sequence[str] | None,
    reflectance_scale: float | None,
) -> Iterator[_FoundLayer]:
    """Yield the bands and masks of a file."""
    convention = name.convention
    if convention.name == SENTINEL_HUB.name:
        request = read_request(name.path.parent / "request.json")
        day = request.day(convention.period)
        file_bands = request.layers or file_bands
        reflectance_scale = reflectance_scale or request.scale_of(header.dtypes[0])
        convention = replace(convention, offset="none" if request.is_harmonised else "from_2022")
    days = [day_or_period_in(text, convention.period) for text in header.descriptions]
    # A date that is the same in all descriptions is not that of an image.
    is_series = len(set(days) - {None}) > 1 or day is None
    for at, text in enumerate(layer_texts(name, header, file_bands)):
        layer = None if text is None else convention.layer(text)
        if text is None or layer is None or is_preview(text, header, at, reflectance_scale):
            continue
        then = days[at] if is_series and days[at] is not None else day
        band = _band(layer, name.path, at, header, convention.nodata, reflectance_scale)
        if convention.offset == "from_2022":
            if then is not None and then >= _WITH_OFFSET and band.name in BANDS and not band.offset:
                band = replace(band, offset=-1000 / band.scale)
        elif convention.offset is None and reflectance_scale is None:
            band = with_unstated_offset(band, processing.offset_of(band.name))
        tile = tile_name(header.descriptions[at]) or name.tile or UNNAMED_TILE
        yield _FoundLayer(band, layer.rank, then, tile)


def _band(
    layer: Layer,
    path: Path,
    at: int,
    header: RasterHeader,
    nodata: float | None,
    reflectance_scale: float | None,
) -> Band:
    """Return one layer of a file."""
    encoding = Encoding(
        dtype=np.dtype(header.dtypes[at]),
        scale=header.scales[at],
        offset=header.offsets[at],
        nodata=nodata if header.nodata[at] is None else header.nodata[at],
    )
    try:
        scale, offset, no_value = decoding(layer.name, encoding, reflectance_scale)
    except ValueError as error:
        raise InputError(f"{path}: {error}.") from error
    return Band(
        *(layer.name, str(path), at + 1, header.grid, header.block_shapes[at]),
        scale=scale,
        offset=offset,
        # Rules turn every value into a class; 0 is nodata.
        nodata=0.0 if layer.classes else no_value,
        classes=layer.classes,
    )


def _acquisition(dated: _Dated, bands: Sequence[str] | None) -> Acquisition:
    """Return the acquisition of the layers of one date."""
    if dated.is_masks:
        names = ", ".join(layer.band.name for layer in dated.layers)
        raise InputError(f"{dated.product}: {dated.id} has no bands, but {names}: complete it.")
    ranks = [layer.rank for layer in dated.layers if layer.band.name == SCENE_CLASSIFICATION]
    chosen = (
        layer.band
        for layer in dated.layers
        if layer.band.name != SCENE_CLASSIFICATION or layer.rank == min(ranks)
    )
    wanted, masks = bands_and_masks(finest(chosen), bands)
    return Acquisition(
        id=dated.id,
        tile=dated.tile,
        date=dated.date,
        product=dated.product,
        format="geotiff",
        bands=wanted,
        masks=masks,
        baseline=dated.baseline,
    )


def _set_unnamed_aside(
    contents: Sequence[_Contents],
    file_bands: Sequence[str] | None,
    damaged: list[Damaged] | None,
) -> None:
    """Warn of images that name no band and lie beside others that do; refuse the others.

    Indices, angles and models of the ground are such images. A file of several layers is refused
    if no other file has its date: its bands are needed.
    """
    days = {(item.group.files[0].group[0], item.group.day) for item in contents if item.layers}
    foreign, refused = [], []
    for item in contents:
        for name, n in item.unnamed:
            is_beside = item.group.day is None or (name.group[0], item.group.day) in days
            if days and (n == 1 or is_beside):
                foreign.append(name.path.name)
            else:
                refused.append(Damaged(name.path, _unnamed_text(name.path, n, file_bands)))
    if foreign:
        logger.warning(
            "%d images are left out, as neither their names nor their descriptions name a band: "
            "%s. If they are bands or cloud masks, name these in imagery.convention.",
            *(len(foreign), first_five(foreign)),
        )
    if damaged is None:
        refuse_damaged(refused, len(contents))
    else:
        damaged += refused


def _unnamed_text(path: Path, n: int, file_bands: Sequence[str] | None) -> str:
    """Return the message about a file whose layers have no name."""
    if file_bands is not None:
        return (
            f"{path} has {n} bands, file_bands names {len(file_bands)}: {', '.join(file_bands)}. "
            "Name every band of the file, in order."
        )
    expected = "B01 to B12, B8A or SCL, or by a common name (red, nir08)"
    if n == 1:
        return (
            f"{path}: neither its name nor its description names its band as {expected}. Name it "
            "with imagery.convention: {bands: {NAME: B02}}, where NAME is the part of the name of "
            "the file that names the band, or with {band: ...}."
        )
    return (
        f"{path}: none of its {n} bands is described as {expected}. Set file_bands to their names "
        "in order, or describe them in the file."
    )


def _refuse_undated(path: Path, n_files: int, contents: Sequence[_Contents]) -> None:
    """Raise an error if files with bands have no date."""
    groups = [i.group for i in contents if any(layer.day is None for layer in i.layers)]
    undated = [name for group in groups for name in group.files]
    if not undated:
        return
    if problem := next((group.problem for group in groups if group.problem), None):
        raise InputError(problem)
    months = (
        " They name months or weeks: if they are composites, set imagery.convention: {period: "
        "month}."
        if contain_periods(undated)
        else ""
    )
    raise InputError(
        f"{len(undated)} of {n_files} GeoTIFFs of {path} have no date (YYYYMMDD or YYYY-MM-DD) in "
        f"their names: {first_five([name.path.name for name in undated])}.{months} Rename or move "
        "them, or say where the date is with imagery.convention: {date: ...}."
    )
