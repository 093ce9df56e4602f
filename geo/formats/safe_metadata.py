"""What the metadata of SAFE products say, of every version of their specification."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from xml.etree import ElementTree

from geo.errors import InputError
from geo.imagery.acquisition import BANDS, SCENE_CLASSIFICATION

# Metres at which the instrument senses a band; level 2A adds coarser and finer copies of some.
NATIVE_RESOLUTION_M = {
    **dict.fromkeys(("B02", "B03", "B04", "B08"), 10),
    **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12", SCENE_CLASSIFICATION), 20),
    **dict.fromkeys(("B01", "B09", "B10"), 60),
}

# The names of images, without ending:
#   T33XWJ_20220413T150759_B02, ..._B02_10m   level 1C and 2A, since December 2016
#   L2A_T34VFJ_20170823T094031_SCL_20m        level 2A of 2017
#   S2A_OPER_MSI_L1C_TL_SGS__20160103T174751_A002779_T32TLQ_B02      before
#   S2A_USER_MSI_L2A_TL_SGS__..._T32TLQ_B02_10m, S2A_USER_SCL_L2A_TL_SGS__..._T32TLQ_20m
_TILE = re.compile(r"(?:^|_)T(\d\d[A-Z]{3})(?=_)")
_BAND = re.compile(r"_(B\d[\dA]|SCL)(?=_|$)")
_RESOLUTION = re.compile(r"_(\d\d)m$")

# ..._S20220413T150756_N04.00
_DATASTRIP = re.compile(r"_S(\d{8}T\d{6})")

_AGAIN = "download the product again."


@dataclass(frozen=True)
class Granule:
    """One tile of a product; before December 2016 a product had several.

    Parameters
    ----------
    tile, datastrip
        As in `geo.imagery.acquisition.Acquisition`.
    images
        By band, name inside the product of its image at native resolution, without ending.
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
    """What a product says of itself.

    Parameters
    ----------
    sensed, generated, baseline, platform
        As in `geo.imagery.acquisition.Acquisition`.
    cloud_fraction, valid_fraction
        Of all granules together, 0 to 1; None where the product does not tell.
    quantification
        Digital numbers of reflectance 1.
    offsets
        By band, digital numbers to add; empty before baseline 04.00.
    granules
        Its tiles.
    """

    sensed: datetime
    generated: str
    baseline: str
    platform: str
    cloud_fraction: float | None
    valid_fraction: float | None
    quantification: float
    offsets: Mapping[str, float]
    granules: tuple[Granule, ...]


def read_metadata(root: ElementTree.Element, place: str) -> SafeMetadata:
    """Read the metadata of a product.

    Parameters
    ----------
    root
        Parsed MTD_MSIL2A.xml, MTD_MSIL1C.xml, or S2A_OPER_MTD_SAFL1C_*.xml.
    place
        Where it lies, for messages.

    Raises
    ------
    InputError
        If an element is lacking or cannot be read, or only some of the bands have an offset.
    """
    texts = _texts(root)

    def one(*tags: str) -> str:
        for tag in tags:
            if tag in texts:
                return texts[tag]
        raise InputError(f"{place} has no {' or '.join(tags)}: {_AGAIN}")

    try:
        granules = _granules(root, place)
        offsets = _offsets(root)
        _check_offsets(offsets, granules, place)
        return SafeMetadata(
            sensed=datetime.fromisoformat(one("DATATAKE_SENSING_START")).replace(tzinfo=None),
            generated=one("GENERATION_TIME"),
            baseline=one("PROCESSING_BASELINE"),
            platform=one("SPACECRAFT_NAME"),
            cloud_fraction=_share(texts, "Cloud_Coverage_Assessment"),
            valid_fraction=_rest(_share(texts, "NODATA_PIXEL_PERCENTAGE")),
            quantification=float(
                # Level 2A; the same in 2017 and before; level 1C.
                one(
                    "BOA_QUANTIFICATION_VALUE",
                    "L2A_BOA_QUANTIFICATION_VALUE",
                    "QUANTIFICATION_VALUE",
                )
            ),
            offsets=offsets,
            granules=granules,
        )
    except InputError:
        raise
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(f"{place} is not the metadata of a product ({error}): {_AGAIN}") from error


def read_quality(root: ElementTree.Element) -> tuple[float | None, float | None]:
    """Read cloud fraction and valid fraction of one granule from its own metadata."""
    texts = _texts(root)
    cloudy = _share(texts, "CLOUDY_PIXEL_PERCENTAGE")
    return cloudy, _rest(_share(texts, "NODATA_PIXEL_PERCENTAGE"))


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


def _share(texts: Mapping[str, str], tag: str) -> float | None:
    """Read a percentage as a share."""
    return float(texts[tag]) / 100 if tag in texts else None


def _rest(share: float | None) -> float | None:
    """Return what is left of 1."""
    return None if share is None else 1 - share


def _offsets(root: ElementTree.Element) -> dict[str, float]:
    """Read the additive offset of every band that has one."""
    return {
        BANDS[int(element.attrib["band_id"])]: float(element.text or "")
        for element in root.iter()
        if _tag(element) in ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET")  # of level 2A, 1C
    }


def _check_offsets(offsets: Mapping[str, float], granules: Iterable[Granule], place: str) -> None:
    """Check that all bands have an offset, or none."""
    there = {band for granule in granules for band in granule.images if band in BANDS}
    missing = sorted(there - set(offsets))
    if offsets and missing:
        raise InputError(
            f"{place} gives additive offsets, but none for {', '.join(missing)}, whose reflectance "
            f"cannot be known then: {_AGAIN}"
        )


def _granules(root: ElementTree.Element, place: str) -> tuple[Granule, ...]:
    """Read the granules of a product, of which level 2A of 2017 lists each once a resolution."""
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
                f"{place} lists images of {len(tiles)} tiles in one granule, expected one: {_AGAIN}"
            )
        granules.append(Granule(tiles.pop(), datastrips[name], _native_images(names)))
    if not granules or not all(granule.images for granule in granules):
        raise InputError(f"{place} lists no images: {_AGAIN}")
    return tuple(granules)


def _image_names(granule: ElementTree.Element, name: str) -> list[str]:
    """List the images of a granule: IMAGE_FILE is a path, IMAGE_ID a name in a fixed folder."""
    names = []
    for element in granule:
        text = (element.text or "").strip()
        if _tag(element) in ("IMAGE_FILE", "IMAGE_FILE_2A"):
            names.append(text)
        elif _tag(element) in ("IMAGE_ID", "IMAGE_ID_2A"):
            names.append(f"GRANULE/{name}/IMG_DATA/{text}")
    return names


def _native_images(names: Iterable[str]) -> dict[str, str]:
    """Choose, by band, the image at native resolution; true colour and aerosol are left out."""
    images = {}
    for name in names:
        stem = PurePosixPath(name).name
        band, resolution = _BAND.search(stem), _RESOLUTION.search(stem)
        if band and (resolution is None or int(resolution[1]) == NATIVE_RESOLUTION_M[band[1]]):
            images[band[1]] = name
    return {band: images[band] for band in (*BANDS, SCENE_CLASSIFICATION) if band in images}
