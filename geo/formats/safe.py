"""Sentinel-2 products in SAFE, level 2A or 1C, as folders or zip archives."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from geo.documents import LARGEST_XML, parse_xml, read_limited, read_member, zip_members
from geo.errors import InputError
from geo.formats.conventions import offset_of_baseline
from geo.imagery.acquisition import (
    BANDS,
    NATIVE_RESOLUTION_M,
    SCENE_CLASSIFICATION,
    Acquisition,
    Band,
    bands_and_masks,
)
from geo.imagery.damaged import Damaged, read_each, refuse_damaged, refuse_two_levels
from geo.imagery.file_cache import cached
from geo.imagery.imagery_files import theia_folders, walk
from geo.imagery.raster_header import RasterHeader, read_header

logger = logging.getLogger(__name__)

# The metadata file: MTD_MSIL2A.xml, and before December 2016
# S2A_OPER_MTD_SAFL1C_PDMC_<times>.xml. Sen2Cor wrote S2A_USER_... from the latter. Both contain the
# level of the product.
_METADATA = re.compile(r"(?:MTD_MSI|S2\w_\w+_MTD_SAF)L(1C|2A)\w*\.xml", re.IGNORECASE)

# The names of images, without ending:
#   T33XWJ_20220413T150759_B02, ..._B02_10m   level 1C and 2A, since December 2016
#   L2A_T34VFJ_20170823T094031_SCL_20m        level 2A of 2017
#   S2A_OPER_MSI_L1C_TL_SGS__20160103T174751_A002779_T32TLQ_B02      before
#   S2A_USER_MSI_L2A_TL_SGS__..._T32TLQ_B02_10m, S2A_USER_SCL_L2A_TL_SGS__..._T32TLQ_20m
_TILE = re.compile(r"(?:^|_)T(\d\d[A-Z]{3})(?=_)")
_BAND = re.compile(r"_(B\d[\dA]|SCL)(?=_|$)")
_RESOLUTION = re.compile(r"_(\d\d)m$")

# Cloud masks that the metadata do not list among the images.
_MASK_FILES = {
    # MSK_CLDPRB_20m; in 2017 L2A_T34VFJ_20170823T094031_CLD_20m; before
    # S2A_USER_CLD_L2A_TL_SGS__20160103T174751_A002779_T32TLQ_20m.
    ("2A", "CLDPRB"): re.compile(r"(?:MSK_CLDPRB|_CLD(?:_L2A_\w+)?)_20m$"),
    # Opaque clouds, cirrus and snow as bands 1 to 3, since baseline 04.00. Band 1 is read.
    ("1C", "MASK"): re.compile(r"MSK_CLASSI_B00$"),
}

# ..._S20220413T150756_N04.00
_DATASTRIP = re.compile(r"_S(\d{8}T\d{6})")

# Width and height of a tile in metres. Clips of products are smaller.
_TILE_M = 109_800

_AGAIN = "Download it again."


@dataclass(frozen=True)
class SafeFiles:
    """The files of one product.

    Names are relative to the product, with slashes: "GRANULE/L2A_T31UDS_.../MTD_TL.xml".

    Parameters
    ----------
    path
        Folder of the product, or the zip archive that contains it.
    root
        Folder of the product inside its archive, with a slash at its end. Empty for a folder, and
        for an archive whose first level is the product.
    metadata
        Name of the product's metadata file.
    """

    path: Path
    root: str
    metadata: str

    @property
    def level(self) -> str:
        """1C or 2A."""
        match = _METADATA.fullmatch(self.metadata)
        assert match is not None  # noqa: S101 (the file was found by this pattern)
        return match[1].upper()

    @cached_property
    def is_zipped(self) -> bool:
        """Whether the product is in an archive."""
        return self.path.is_file()

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of every file, by name."""
        if self.is_zipped:
            return {
                member.filename.removeprefix(self.root): member.file_size
                for member in zip_members(self.path)
                if member.filename.startswith(self.root) and not member.is_dir()
            }
        files = (file for file in self.path.rglob("*") if file.is_file())
        return {file.relative_to(self.path).as_posix(): file.stat().st_size for file in files}

    @cached_property
    def by_stem(self) -> Mapping[str, str]:
        """Names of the images by stem (no folder, no ending), which is unique in a product."""
        images = (name for name in self.sizes if name.endswith((".jp2", ".tif")))
        return {PurePosixPath(name).stem: name for name in sorted(images)}

    @cached_property
    def listed_sizes(self) -> Mapping[str, int]:
        """Bytes of the files by manifest.safe, empty if there is no manifest."""
        if "manifest.safe" not in self.sizes:
            return {}
        sizes = {}
        for stream in self.parse("manifest.safe").iter("byteStream"):
            location = stream.find("fileLocation")
            if location is not None and "href" in location.attrib and "size" in stream.attrib:
                sizes[location.attrib["href"].removeprefix("./")] = int(stream.attrib["size"])
        return sizes

    def place(self, name: str) -> str:
        """Return the path of a file for messages."""
        return f"{self.path}: {self.root}{name}" if self.is_zipped else str(self.path / name)

    def source(self, name: str) -> str:
        """Return the path of a file for GDAL."""
        # The braces mark where the archive's name ends:
        # https://gdal.org/user/virtual_file_systems.html
        return f"/vsizip/{{{self.path}}}/{self.root}{name}" if self.is_zipped else self.place(name)

    def parse(self, name: str) -> ElementTree.Element:
        """Read an XML file.

        Raises
        ------
        InputError
            If the file is damaged or too large.
        """
        if self.is_zipped:
            content = read_member(self.path, self.root + name, LARGEST_XML)
        else:
            content = read_limited(self.path / name, LARGEST_XML)
        return parse_xml(content, self.place(name))


def find(
    path: Path, bands: Sequence[str] | None, damaged: list[Damaged] | None
) -> list[Acquisition]:
    """Find the products at a path and below; see `geo.imagery.discovery.find_acquisitions`."""
    failed: list[Damaged] = []
    products = sorted(find_products(path, failed), key=lambda product: (product.path, product.root))
    n_products = len(products) + len(failed)
    if not n_products:
        raise InputError(
            f"There is no SAFE product in {path}. A product is a folder or a zip archive with "
            "MTD_MSIL2A.xml or MTD_MSIL1C.xml in it (S2A_OPER_MTD_SAFL1C_... before 2017)."
        )
    paths = {level: [p.path for p in products if p.level == level] for level in ("2A", "1C")}
    refuse_two_levels(paths["2A"], paths["1C"])

    def read(product: SafeFiles) -> list[Acquisition]:
        return cached(
            *(("safe", product, bands), [product.path], list[Acquisition]),
            lambda: _read_product(product, bands),
        )

    granules = read_each(products, read, failed, lambda product: product.path)
    if damaged is None:
        refuse_damaged(failed, n_products)
    else:
        damaged += failed
    return [acquisition for product in granules for acquisition in product]


def find_products(path: Path, damaged: list[Damaged]) -> Iterator[SafeFiles]:
    """Find the products at a path and below it, whatever the names of folders and archives.

    Parameters
    ----------
    path
        Folder or archive.
    damaged
        Damaged archives and .SAFE folders without metadata are appended to this list.
    """
    if path.is_file():
        yield from _products_in(path, damaged)
    without_metadata: list[Path] = []
    found: list[Path] = []
    for folder, subfolders, files in walk(path):
        metadata = next(filter(_METADATA.fullmatch, files), None)
        if metadata:
            found.append(folder)
            yield SafeFiles(folder, "", metadata)
            subfolders.clear()
            continue
        if folder.name.upper().endswith(".SAFE"):
            without_metadata.append(folder)
        for name in files:
            if not name.startswith("."):
                yield from _products_in(folder / name, damaged)
    damaged += [
        Damaged(
            folder,
            f"{folder} has no MTD_MSIL2A.xml or MTD_MSIL1C.xml in it. {_AGAIN} To read images "
            "without these metadata, set imagery.format to geotiff.",
        )
        for folder in without_metadata
        # Some programs unpack X.zip to X.SAFE/X.SAFE. Sen4CAP writes products of MAJA to .SAFE.
        if not any(product.is_relative_to(folder) for product in found)
        and not theia_folders(folder)
    ]


def _products_in(archive: Path, damaged: list[Damaged]) -> Iterator[SafeFiles]:
    """Find the products in a zip archive; no other file contains any."""
    if archive.suffix.lower() != ".zip":
        return

    def names() -> list[str]:
        return [m.filename for m in zip_members(archive) if _METADATA.search(m.filename)]

    try:
        members = cached(("metadata in archive", archive), [archive], list[str], names)
    except InputError as error:
        damaged.append(Damaged(archive, str(error)))
        return
    for member in members:
        name = PurePosixPath(member).name
        if _METADATA.fullmatch(name):
            yield SafeFiles(archive, member.removesuffix(name), name)


@dataclass(frozen=True)
class Granule:
    """One tile of a product; before December 2016 a product had several.

    Parameters
    ----------
    tile, datastrip
        As in `geo.imagery.acquisition.Acquisition`.
    images
        Names of the images at native resolution, without ending, by band.
    """

    tile: str
    datastrip: str | None
    images: Mapping[str, str]

    @property
    def folder(self) -> str:
        """Folder of the granule inside the product, "GRANULE/..."."""
        first = next(iter(self.images.values()))
        return "/".join(first.split("/")[:2])


@dataclass(frozen=True)
class SafeMetadata:
    """The metadata of a product.

    Parameters
    ----------
    sensing_start, generated, baseline, platform
        As in `geo.imagery.acquisition.Acquisition`.
    cloud_fraction, valid_fraction
        Fractions of all granules together, 0 to 1, None if not stated.
    quantification
        Digital numbers of reflectance 1.
    offsets
        Digital numbers that are added, by band; empty before baseline 04.00, and where a program
        has rewritten the metadata.
    granules
        Tiles of the product.
    """

    sensing_start: datetime
    generated: str
    baseline: str
    platform: str
    cloud_fraction: float | None
    valid_fraction: float | None
    quantification: float
    offsets: Mapping[str, float]
    granules: tuple[Granule, ...]

    def offset_of(self, band: str) -> float:
        """Return the offset of a band, as stated or else as the baseline implies."""
        return self.offsets.get(band, offset_of_baseline(self.baseline))


def read_metadata(root: ElementTree.Element, place: str) -> SafeMetadata:
    """Read the metadata of a product, in every version of their specification.

    Parameters
    ----------
    root
        Parsed MTD_MSIL2A.xml, MTD_MSIL1C.xml, or S2A_OPER_MTD_SAFL1C_*.xml.
    place
        Path of the file for messages.

    Raises
    ------
    InputError
        If an element is missing or cannot be read, or only some of the bands have an offset.
    """
    texts = _texts(root)

    def one(*tags: str) -> str:
        for tag in tags:
            if tag in texts:
                return texts[tag]
        raise InputError(f"{place} has no {' or '.join(tags)}. {_AGAIN}")

    try:
        granules = _granules(root, place)
        offsets = {
            BANDS[int(element.attrib["band_id"])]: float(element.text or "")
            for element in root.iter()
            if _tag(element) in ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET")  # level 2A, level 1C
        }
        _check_offsets(offsets, granules, place)
        return SafeMetadata(
            sensing_start=datetime.fromisoformat(one("DATATAKE_SENSING_START")).replace(
                tzinfo=None
            ),
            generated=one("GENERATION_TIME"),
            baseline=one("PROCESSING_BASELINE"),
            platform=one("SPACECRAFT_NAME"),
            cloud_fraction=_fraction(texts, "Cloud_Coverage_Assessment"),
            valid_fraction=_valid_fraction(texts),
            quantification=float(
                # Level 2A; level 2A in 2017 and before; level 1C.
                one(
                    "BOA_QUANTIFICATION_VALUE",
                    "L2A_BOA_QUANTIFICATION_VALUE",
                    "QUANTIFICATION_VALUE",
                )
            ),
            offsets=offsets,
            granules=granules,
        )
    except (KeyError, IndexError, ValueError, OverflowError) as error:
        raise InputError(f"{place} is not the metadata of a product ({error}). {_AGAIN}") from error


def _tag(element: ElementTree.Element) -> str:
    """Return the name of an element without namespace, which differs between versions."""
    return element.tag.rpartition("}")[2]


def _texts(root: ElementTree.Element) -> dict[str, str]:
    """Return the first text of every element, by name."""
    texts: dict[str, str] = {}
    for element in root.iter():
        text = (element.text or "").strip()
        if text:
            texts.setdefault(_tag(element), text)
    return texts


def _fraction(texts: Mapping[str, str], tag: str) -> float | None:
    """Return a percentage as a fraction, None if it is not stated."""
    return float(texts[tag]) / 100 if tag in texts else None


def _valid_fraction(texts: Mapping[str, str]) -> float | None:
    """Return the fraction of the pixels that are not nodata, None if it is not stated."""
    nodata = _fraction(texts, "NODATA_PIXEL_PERCENTAGE")
    return None if nodata is None else 1 - nodata


def _check_offsets(offsets: Mapping[str, float], granules: Iterable[Granule], place: str) -> None:
    """Check that all bands have an offset, or none."""
    listed = {band for granule in granules for band in granule.images if band in BANDS}
    missing = sorted(listed - set(offsets))
    if offsets and missing:
        raise InputError(
            f"{place} states additive offsets, but none for {', '.join(missing)}, whose "
            f"reflectance is therefore unknown. {_AGAIN}"
        )


def _granules(root: ElementTree.Element, place: str) -> tuple[Granule, ...]:
    """Read the granules of a product; level 2A of 2017 lists each once for every resolution."""
    datastrips: dict[str, str | None] = {}
    images: dict[str, list[str]] = {}
    for element in root.iter():
        if _tag(element) not in ("Granule", "Granules"):
            continue
        name = element.get("granuleIdentifier", "")
        datastrip = _DATASTRIP.search(element.get("datastripIdentifier", ""))
        datastrips[name] = datastrip[1] if datastrip else None
        images.setdefault(name, []).extend(_image_names(element, name))
    granules = []
    for name, names in images.items():
        tiles = {match[1] for image in names if (match := _TILE.search(PurePosixPath(image).name))}
        if len(tiles) != 1:
            raise InputError(
                f"{place} lists images of {len(tiles)} tiles in one granule, expected one. {_AGAIN}"
            )
        granules.append(Granule(tiles.pop(), datastrips[name], _native_images(names)))
    if not granules or not all(granule.images for granule in granules):
        raise InputError(f"{place} lists no images. {_AGAIN}")
    return tuple(granules)


def _image_names(granule: ElementTree.Element, name: str) -> list[str]:
    """Return the images of a granule: IMAGE_FILE is a path, IMAGE_ID a name in a fixed folder."""
    names = []
    for element in granule:
        text = (element.text or "").strip()
        if _tag(element) in ("IMAGE_FILE", "IMAGE_FILE_2A"):
            names.append(text)
        elif _tag(element) in ("IMAGE_ID", "IMAGE_ID_2A"):
            names.append(f"GRANULE/{name}/IMG_DATA/{text}")
    return names


def _native_images(names: Iterable[str]) -> dict[str, str]:
    """Return the image at native resolution by band; true colour and aerosol are left out."""
    images = {}
    for name in names:
        stem = PurePosixPath(name).name
        band, resolution = _BAND.search(stem), _RESOLUTION.search(stem)
        if band and (resolution is None or int(resolution[1]) == NATIVE_RESOLUTION_M[band[1]]):
            images[band[1]] = name
    return {band: images[band] for band in (*BANDS, SCENE_CLASSIFICATION) if band in images}


def _read_product(product: SafeFiles, bands: Sequence[str] | None) -> list[Acquisition]:
    """Read metadata and image headers of the granules of one product.

    A product that was downloaded in part may lack images. Granules without any image are left out.
    """
    metadata = read_metadata(product.parse(product.metadata), product.place(product.metadata))
    found = [granule for granule in metadata.granules if _files(product, granule)]
    if len(found) < len(metadata.granules):
        logger.info("%s: %d of %d tiles.", product.path, len(found), len(metadata.granules))
    return [
        _read_granule(product, metadata, granule, bands) for granule in found or metadata.granules
    ]


def _read_granule(
    product: SafeFiles, metadata: SafeMetadata, granule: Granule, wanted: Sequence[str] | None
) -> Acquisition:
    """Read the image headers of one granule."""
    bands, masks = bands_and_masks(_files(product, granule) | _mask_files(product, granule), wanted)
    cloud_fraction, valid_fraction = metadata.cloud_fraction, metadata.valid_fraction
    if len(metadata.granules) > 1:
        cloud_fraction, valid_fraction = _fractions_of(product, granule)
    # The two halves of a tile that lies across two data strips have the same time of sensing.
    start = granule.datastrip or f"{metadata.sensing_start:%Y%m%dT%H%M%S}"
    return Acquisition(
        id=f"{start}_{granule.tile}_N{metadata.baseline.replace('.', '')}",
        tile=granule.tile,
        date=metadata.sensing_start.date(),
        product=product.path,
        format="safe",
        baseline=metadata.baseline,
        platform=metadata.platform,
        cloud_fraction=cloud_fraction,
        bands={name: _band(name, file, product, metadata) for name, file in bands.items()},
        masks={name: _band(name, file, product, metadata) for name, file in masks.items()},
        sensing_start=metadata.sensing_start,
        valid_fraction=valid_fraction,
        generated=metadata.generated,
        datastrip=granule.datastrip,
    )


def _files(product: SafeFiles, granule: Granule) -> dict[str, str]:
    """Return the names of the images of a granule that exist, by band.

    They are found by stem, because archives differ in their folders and some contain GeoTIFFs.
    """
    stems = {band: PurePosixPath(image).name for band, image in granule.images.items()}
    return {band: product.by_stem[stem] for band, stem in stems.items() if stem in product.by_stem}


def _mask_files(product: SafeFiles, granule: Granule) -> dict[str, str]:
    """Return the names of the masks of a granule that its metadata do not list."""
    return {
        mask: name
        for (level, mask), pattern in _MASK_FILES.items()
        for stem, name in product.by_stem.items()
        if level == product.level and name.startswith(granule.folder) and pattern.search(stem)
    }


def _fractions_of(product: SafeFiles, granule: Granule) -> tuple[float | None, float | None]:
    """Return cloud and valid fraction of one of several granules from the granule's metadata."""
    folder = PurePosixPath(granule.folder)
    for name in sorted(product.sizes):
        if PurePosixPath(name).parent == folder and name.endswith(".xml"):
            texts = _texts(product.parse(name))
            return _fraction(texts, "CLOUDY_PIXEL_PERCENTAGE"), _valid_fraction(texts)
    return None, None


def _band(name: str, file: str, product: SafeFiles, metadata: SafeMetadata) -> Band:
    """Return one band or mask; the grid is that of the image, because products may be clipped."""
    header = read_header(product.source(file), product.sizes[file])
    _check_size(name, file, product, header)
    is_reflectance = name in BANDS
    return Band(
        name=name,
        source=product.source(file),
        layer=1,
        grid=header.grid,
        block_shape=header.block_shapes[0],
        # Quantification 0 is refused by `Band`.
        scale=10_000 / (metadata.quantification or math.inf) if is_reflectance else 1.0,
        offset=metadata.offset_of(name) if is_reflectance else 0.0,
        # 0 is nodata in all bands (Special_Values) and in SCL, but a value in the other masks.
        nodata=0.0 if is_reflectance or name == SCENE_CLASSIFICATION else None,
    )


def _check_size(name: str, file: str, product: SafeFiles, header: RasterHeader) -> None:
    """Check that the image of a whole tile has the size that manifest.safe states.

    Clips and GeoTIFFs are not checked: they keep the manifest of the original product.
    """
    expected = product.listed_sizes.get(file)
    side = _TILE_M // NATIVE_RESOLUTION_M.get(name, 20)
    if expected is None or not file.endswith(".jp2") or header.grid.shape != (side, side):
        return
    if product.sizes[file] != expected:
        raise InputError(
            f"{product.place(file)} has {product.sizes[file]} bytes, by manifest.safe it should "
            f"have {expected}: download it again. If it was changed on purpose, remove "
            "manifest.safe."
        )
