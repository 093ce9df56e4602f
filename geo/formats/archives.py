"""How archives name their files: one table of conventions, which settings can extend.

A convention is recognised by the names of a file and of its folders. Other files follow `PLAIN`:
the date, the band and the tile are looked for in their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from geo.formats.conventions import COMMON_BANDS, band_name, tile_name
from geo.formats.dates import Period, date_pattern
from geo.imagery.acquisition import SCENE_CLASSIFICATION, ClassRules

# Classes of the SCL, to which the values of other masks are translated. Then clouds.classes applies
# to them all: an unspecific cloud is "high probability", its surroundings are "medium".
NODATA, DEFECTIVE, SHADOW, CLEAR, WATER = 0, 1, 3, 4, 6
NEAR_CLOUD, CLOUD, CIRRUS, SNOW = 8, 9, 10, 11
_EVERY_BIT = -1


def _re(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _bits(**classes: int) -> ClassRules:
    """Return rules for single bits, b3=SHADOW; the first that is set counts."""
    places = ((1 << int(name[1:]), class_) for name, class_ in classes.items())
    return tuple((bit, bit, class_) for bit, class_ in places)


_OTHERWISE_CLEAR = ((0, 0, CLEAR),)


@dataclass(frozen=True)
class Mask:
    """A cloud mask of an archive.

    Parameters
    ----------
    name
        Its name, in place of a band's: a regular expression for the whole of it.
    classes
        What its values mean; see `geo.imagery.acquisition.Band`. Empty: the classes of the SCL.
    """

    name: str
    classes: ClassRules = ()


# HLS User Guide V2.0, table 9: bits 0 (cirrus) and 6 to 7 (aerosol) are reserved, or no cloud. 255
# is the fill value.
FMASK = Mask(
    "Fmask|QA",
    (
        (_EVERY_BIT, 255, NODATA),
        *_bits(b1=CLOUD, b3=SHADOW, b2=NEAR_CLOUD, b4=SNOW, b5=WATER),
        *_OTHERWISE_CLEAR,
    ),
)
# FORCE documentation, Level 2 output format: bits 1 and 2 are one number: 1 is the surroundings of
# 300 m, 2 opaque cloud, 3 cirrus. Bit 9 is saturation. The others tell the quality of the
# correction.
QAI = Mask(
    "QAI",
    (
        *_bits(b0=NODATA),
        *((0b110, state << 1, class_) for state, class_ in ((2, CLOUD), (3, CIRRUS))),
        *_bits(b3=SHADOW),
        (0b110, 0b010, NEAR_CLOUD),
        *_bits(b9=DEFECTIVE, b4=SNOW, b5=WATER),
        *_OTHERWISE_CLEAR,
    ),
)
# Earth Engine Data Catalog, COPERNICUS/S2_SR: opaque clouds and cirrus.
QA60 = Mask("QA60", (*_bits(b10=CLOUD, b11=CIRRUS), *_OTHERWISE_CLEAR))
# Landsat Collection 2 Level 2, QA_PIXEL: fill, dilated cloud, cirrus, cloud, shadow, snow, water.
QA_PIXEL = Mask(
    "QA_PIXEL|CLOUD",
    (
        *_bits(b0=NODATA, b3=CLOUD, b2=CIRRUS, b4=SHADOW, b1=NEAR_CLOUD, b5=SNOW, b7=WATER),
        *_OTHERWISE_CLEAR,
    ),
)
# MAJA product format, CLD: all clouds, shadows inside and outside the image, the thinnest clouds,
# high clouds. Bit 0 is the sum of others.
MAJA_CLD = Mask(
    "CLD",
    (
        *_bits(b1=CLOUD, b4=CLOUD, b5=CLOUD, b2=SHADOW, b3=SHADOW, b6=CIRRUS, b7=CIRRUS, b0=CLOUD),
        *_OTHERWISE_CLEAR,
    ),
)
# Sentinel Hub, documentation of Sentinel-2: s2cloudless as 0 or 1, 255 without data.
SENTINEL_HUB_CLM = Mask(
    "CLM", ((_EVERY_BIT, 1, CLOUD), (_EVERY_BIT, 0, CLEAR), (_EVERY_BIT, 255, NODATA))
)

# The part of a name in which the files of one acquisition differ: _B02, -SCL, _B05_20m, _nir08.
_ENDS = r"(?:[-_. ](?:\d\dm|R[12]))?(?=[-_. ]|$)"
_NUMBERED_BAND = _re(rf"(?:^|[-_. ])(?P<band>B\d[\dA]?|SCL|(?:MSK_)?CLDPRB|CLD|CLM){_ENDS}")
_WORDS = r"(rededge|nir|swir|broad|narrow|coastal|quality|scene|cloud)(?=[a-z0-9])"
_COMMON = "|".join(
    re.sub(_WORDS, r"\1[-_]?", name) for name in sorted(COMMON_BANDS, key=len, reverse=True)
)
_COMMON_BAND = _re(rf"(?:^|[-_. ])(?P<band>{_COMMON}){_ENDS}")

# Images of products that are not bands: true colour, aerosol, water vapour, preview, snow
# probability.
NOT_A_BAND = _re(r"(?:^|[-_. ])(TCI|AOT|WVP|PVI|SNWPRB)(?=[-_. ]|$)")
# The quality of every band (in QI_DATA of SAFE, qi of AWS), snow, and images for people.
_QUALITY_OR_PREVIEW = _re(
    r"(?:^|[-_. ])(?:SNW|DETFOO|QUALIT|CLASSI|DEFECT|SATURA|NODATA|TECQUA)(?=[-_. ]|$)"
    r"|(?:^|[-_. ])(?:preview|quicklook|thumbnail|browse|visual)(?:_\d\dm)?$"
)
_RESOLUTION = _re(r"[-_. ](?:\d\dm|R[12])(?=[-_. ]|$)")
_RESOLUTION_FOLDER = _re(r"/(?:R\d0m|qi|QI_DATA|IMG_DATA)(?=/)")

_BAND_FOLDER = _re(rf"B\d[\dA]?|SCL|CLM|(?:MSK_)?CLDPRB|{_COMMON}")

# Names that browsers and file managers give to copies: B02 (1), B02(1), B02 - Copy, B02 copy 2.
_COPY = _re(r"\s*\(\d{1,2}\)$| - (?:Copy|Kopie|Copie|Copia)(?: \(\d+\))?$| copy(?: \d+)?$")

# Names in which the date of sensing comes first and that of processing second: of products and
# granules, and of images of Earth Engine.
_SENSING_FIRST = _re(
    r"MSIL(?:1C|2A)_|(?:^|[/_])S2[A-D]L(?:1C|2A)_|(?:^|[/_])L(?:1C|2A)_T\d\d[A-Z]{3}"
    r"|\d{8}T\d{6}_\d{8}T\d{6}_T\d\d[A-Z]{3}"
)


@dataclass(frozen=True)
class Layer:
    """A band or mask, with the rules of a mask's values; the mask of the lowest rank is used."""

    name: str
    classes: ClassRules = ()
    rank: int = 0


@dataclass(frozen=True)
class Convention:
    """How an archive names its files, and what it does to numbers without stating it in the files.

    Regular expressions ignore case. They are searched in the place of a file: its path without
    ending, or in the description of a layer.

    Parameters
    ----------
    name
        For messages.
    files
        What its files have in their place, and no other.
    band
        Where the band is named in the name of a file: group `band`. The files of an acquisition
        differ only there. None: a number (B02, B8A) or a common name (nir08).
    bands
        Band by the archive's own name, in lower case: of Sentinel-2, or another name. None: another
        quantity.
    images
        What is named in place of a band if a file contains several.
    layers
        Bands of files whose layers are not described, by their number.
    masks
        Cloud masks; if an acquisition has several, the first is used.
    is_complete
        Whether no other name is a band or a mask, and a name counts more than a description.
    ignore
        Names of files that are left out.
    date
        Where the date is, see `geo.formats.dates.date_pattern`. None: wherever one is.
    tile
        Where the tile is: its groups, joined. None: an MGRS tile, wherever it is.
    nodata
        Raw value without data, if a file states none.
    offset
        Additive offset of processing baseline 04.00 in the pixels: none; from_2022 (in all images
        since 25 January 2022); None: it follows from the baseline in names and metadata.
    period
        Length of the periods of composites, which begin at the date.
    """

    name: str
    files: re.Pattern[str]
    band: re.Pattern[str] | None = None
    bands: Mapping[str, str | None] = field(default_factory=dict)
    images: str = ""
    layers: Sequence[Sequence[str]] = ()
    masks: tuple[Mask, ...] = ()
    is_complete: bool = False
    ignore: re.Pattern[str] | None = None
    date: re.Pattern[str] | None = None
    tile: re.Pattern[str] | None = None
    nodata: float | None = None
    offset: Literal["none", "from_2022"] | None = None
    period: Period | None = None

    def layer(self, text: str) -> Layer | None:
        """Return the band or mask that a text names, or None."""
        own = text.strip().lower()
        for rank, mask in enumerate(self.masks):
            if re.fullmatch(mask.name, own, re.IGNORECASE):
                return Layer(SCENE_CLASSIFICATION, mask.classes, rank)
        name = self.bands[own] if own in self.bands else band_name(text)
        return None if name is None else Layer(name)


_SENTINEL_LAYERS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
_FINE_LAYERS = ("B02", "B03", "B04", "B08")
_LANDSAT_LAYERS = ("B02", "B03", "B04", "B8A", "B11", "B12")
_FORCE: Mapping[str, Any] = {
    "bands": {
        **{"blu": "B02", "grn": "B03", "red": "B04", "re1": "B05", "re2": "B06", "re3": "B07"},
        **{"bnr": "B08", "broadnir": "B08", "nir": "B8A", "sw1": "B11", "sw2": "B12"},
    },
    "tile": _re(r"/(X-?\d{4}_Y-?\d{4})/"),
    "is_complete": True,
    "nodata": -9999.0,
    "offset": "none",
}
_HLS: Mapping[str, Any] = {
    "band": _re(r"[._](?P<band>B\d[\dA]|Fmask|QA|[SV][AZ]A)(?=[._]|$)"),
    "masks": (FMASK,),
    "tile": _re(r"\.T(\d\d[A-Z]{3})\.[^/]*$"),
    "is_complete": True,
    "nodata": -9999.0,
    "offset": "none",
}
# Of Landsat; the others are panchromatic, cirrus and thermal.
_L30_BANDS: Mapping[str, str | None] = {
    **{"b05": "B8A", "b06": "B11", "b07": "B12"},
    **dict.fromkeys(("b08", "b8a", "b09", "b10", "b11", "b12")),
}
_AWS_FOLDERS = r"/(\d{1,2})/([C-X])/([A-Z]{2})/20\d\d/\d{1,2}/\d{1,2}/\d+/"

PLAIN = Convention("names with a date", _re(""), masks=(Mask("SCL"), QA60))
SENTINEL_HUB = Convention(
    # <hash>/response.tiff beside request.json, see `geo.formats.sentinel_hub`. An answer of several
    # files is response.tar, with default.tif in it.
    *("Sentinel Hub", _re(r"/response$|/[0-9a-f]{32}/default$")),
    masks=(Mask("SCL"), SENTINEL_HUB_CLM),
)

CONVENTIONS = (
    # HLS.S30.T31TFM.2021123T104619.v2.0.B8A, HLSS30.020_B02_doy2021123_aid0001_31N (AppEEARS).
    # Reflectance is harmonised to that of before 2022 (HLS User Guide V2.0).
    Convention("HLS S30", _re(r"/HLS\.?S30\.[^/]*$"), **_HLS),
    Convention("HLS L30", _re(r"/HLS\.?L30\.[^/]*$"), bands=_L30_BANDS, **_HLS),
    # 20160823_LEVEL2_SEN2A_BOA, 20160701_LEVEL3_SEN2L_BAP (force-eo.readthedocs.io).
    *(
        Convention(
            *(f"FORCE {sensor}", _re(rf"/\d{{8}}_LEVEL[23]_{sensor}\w+_\w{{3}}$")),
            band=_re(r"_(?P<band>[A-Z\d]{3})$"),
            images="BOA|TOA|BAP|IMP",
            layers=layers,
            masks=(QAI,),
            **_FORCE,
        )
        for sensor, layers in (
            ("SEN2", (_SENTINEL_LAYERS, _FINE_LAYERS)),
            ("LND", (_LANDSAT_LAYERS,)),
        )
    ),
    # 2018-2018_001-365_HL_TSA_SEN2L_BLU_TSI: the layers are the dates of a band, as described;
    # ..._TSI_20180105: one of them.
    Convention(
        *("FORCE TSA", _re(r"/\d{4}-\d{4}_\d{3}-\d{3}_HL_TSA_\w{5}_\w{3}_\w{3}[^/]*$")),
        band=_re(r"_(?P<band>[A-Z\d]{3})(?=_TS[SI](?:_|$))"),
        date=date_pattern(r"_%Y%m%d$"),
        **_FORCE,
    ),
    # SENTINEL-2_MSI_20LKP_B02_2020-06-04. CLOUD has the classes of the SCL, or of Landsat the bits
    # of QA_PIXEL (sits, inst/extdata/sources).
    *(
        Convention(
            f"sits {satellite}",
            _re(rf"/{satellite}[^_/]*_[A-Z]+_[^_/]+_[^/]*\d{{4}}-\d\d-\d\d[^/]*$"),
            band=_re(r"_(?P<band>[A-Z][-A-Z\d]*)(?=_\d{4}-\d\d-\d\d$|$)"),
            masks=(mask,),
            is_complete=True,
            tile=_re(r"/[^_/]+_[A-Z]+_([^_/]+)_[^/]*$"),
            nodata=-9999.0,
        )
        for satellite, mask in (("SENTINEL-2", Mask("CLOUD")), ("LANDSAT", QA_PIXEL))
    ),
    # S2B_20200405T104619_31UDS_TOC-B04_10M_V210, ..._SCENECLASSIFICATION_20M_V210 (Terrascope
    # Sentinel-2 Products User Manual V2).
    Convention(
        *("Terrascope", _re(r"/S2[A-D]_\d{8}T\d{6}_\d\d[A-Z]{3}_[^/]+_V\d+$")),
        band=_re(r"_(?:TOC-)?(?P<band>[A-Z\d]+)(?:_\d\dM)?(?=_V\d+$)"),
        masks=(Mask("SCENECLASSIFICATION"),),
        tile=_re(r"_(\d\d[A-Z]{3})_[^/]*$"),
        is_complete=True,
        nodata=32767.0,
        offset="none",
    ),
    # S2A_OPER_SSC_L2VALD_31TFM____20180405_FRE_R1.DBL (MAJA native format): R1 has the bands of
    # 10 m, R2 those of 20 m.
    Convention(
        *("MAJA", _re(r"/S2\w_OPER_SSC_L2VALD_\d\d[A-Z]{3}____\d{8}_\w{3}(?:_R[12])?\.DBL$")),
        band=_re(r"_(?P<band>[A-Z\d]{3})(?:_R[12])?\.DBL$"),
        images="FRE",
        layers=(_FINE_LAYERS, ("B05", "B06", "B07", "B8A", "B11", "B12")),
        masks=(MAJA_CLD,),
        tile=_re(r"_L2VALD_(\d\d[A-Z]{3})_"),
        is_complete=True,
        nodata=-10_000.0,
    ),
    SENTINEL_HUB,
    # tiles/31/T/FM/2018/4/3/0/B02.jp2 (level 1C), .../0/R10m/B02.jp2, .../0/qi/CLD_20m.jp2 (2A).
    Convention(
        *("AWS", _re(_AWS_FOLDERS)),
        date=date_pattern(r"/%Y/%m/%d/\d+/"),
        tile=_re(_AWS_FOLDERS),
    ),
)


def own_convention(stated: Mapping[str, Any]) -> Convention:
    """Return the convention of a user from the section `imagery.convention` of the settings."""

    def expression(name: str) -> re.Pattern[str] | None:
        return None if stated[name] is None else _re(stated[name])

    mask = stated["mask"]
    return Convention(
        "of the settings",
        _re(""),
        band=expression("band"),
        bands={name.lower(): band for name, band in stated["bands"].items()},
        masks=() if mask is None else (Mask(re.escape(mask["name"]), _own_rules(mask)),),
        ignore=expression("ignore"),
        date=None if stated["date"] is None else date_pattern(stated["date"]),
        tile=expression("tile"),
        nodata=stated["nodata"],
        offset=stated["offset"],
        period=stated["period"],
    )


def _own_rules(mask: Mapping[str, Any]) -> ClassRules:
    """Return the rules of a user's mask: its clear or cloudy values, or its cloudy bits."""
    nodata = tuple((_EVERY_BIT, value, NODATA) for value in mask["nodata"])
    bits = tuple((1 << bit, 1 << bit, CLOUD) for bit in mask["cloudy_bits"])
    clear = tuple((_EVERY_BIT, value, CLEAR) for value in mask["clear"])
    cloudy = tuple((_EVERY_BIT, value, CLOUD) for value in mask["cloudy"])
    return (*nodata, *bits, *clear, *cloudy, (0, 0, CLOUD if clear else CLEAR))


def original_stem(path: Path) -> str:
    """Return the name of a file without ending, of a copy the name of its original."""
    return _COPY.sub("", path.stem) or path.stem


def place_of(path: Path) -> str:
    """Return the names in which a convention is recognised: of a file and the folders above it."""
    return "/".join(("", *path.absolute().parts[-9:-1], original_stem(path)))


@dataclass(frozen=True)
class FileName:
    """What the name of a file tells.

    Parameters
    ----------
    path
        The file.
    convention
        Its convention.
    band
        Text that names its band, None if there is none.
    is_beside
        Whether it contains neither bands nor masks.
    group
        Folder and name without the parts in which the files of one acquisition differ.
    tile
        Tile, None if there is none.
    """

    path: Path
    convention: Convention
    band: str | None
    is_beside: bool
    group: tuple[Path, str]
    tile: str | None

    @property
    def is_sensing_first(self) -> bool:
        """Whether such names contain the date of sensing before that of processing."""
        return _SENSING_FIRST.search(place_of(self.path)) is not None


def is_in_band_folder(path: Path) -> bool:
    """Return whether the folder of a file has the name of a band or a mask."""
    return _BAND_FOLDER.fullmatch(path.parent.name) is not None


def file_name(path: Path, own: Convention | None = None, *, band_folders: bool = True) -> FileName:
    """Return what the name of a file tells, by the convention of its archive.

    Parameters
    ----------
    path
        The file.
    own
        Convention of the user: what it states replaces what the archive's convention states.
    band_folders
        Whether folders with the names of bands contain one band each, and not areas (B1, B2).
    """
    place = place_of(path)
    found = next((item for item in CONVENTIONS if item.files.search(place)), PLAIN)
    convention = found if own is None else _replaced(found, own)
    stem = original_stem(path)
    band, span = part_for_band(convention, stem)
    name = stem[: span[0]] + stem[span[1] :]
    folder = path.parent
    if band_folders and is_in_band_folder(path):  # B02/20180405.tif
        of_folder = convention.layer(folder.name)
        if band is None or convention.layer(band) == of_folder:
            band, folder = band or folder.name, folder.parent
    return FileName(
        path=path,
        convention=convention,
        band=band,
        is_beside=_is_beside(convention, path, band),
        # The folders of resolutions (R10m) and of masks (qi) contain parts of one acquisition.
        group=(
            Path(_RESOLUTION_FOLDER.sub("", f"{folder.as_posix()}/")),
            _RESOLUTION.sub("", name).strip("-_. "),
        ),
        tile=_tile(convention, place),
    )


def _replaced(found: Convention, own: Convention) -> Convention:
    """Return a convention with what the user's states in place of its own."""
    nothing = Convention("", own.files)
    stated = {
        item.name: getattr(own, item.name)
        for item in fields(own)
        if item.name != "name" and getattr(own, item.name) != getattr(nothing, item.name)
    }
    bands, masks = {**found.bands, **own.bands}, (*own.masks, *found.masks)
    return replace(found, **{**stated, "bands": bands, "masks": masks})


def part_for_band(convention: Convention, name: str) -> tuple[str | None, tuple[int, int]]:
    """Return the text in a name that names the band, and where the part for the band is."""
    match = None if convention.band is None else convention.band.search(name)
    if match is not None and "band" not in match.re.groupindex:  # a pattern of the user
        return match[1], match.span(1)
    if match is None and not convention.is_complete:
        match = next(_parts_for_bands(convention, name), None)
    return (None, (0, 0)) if match is None else (match["band"], match.span())


def _parts_for_bands(convention: Convention, name: str) -> Iterator[re.Match[str]]:
    """Yield the parts of a name that can name its band, the surest first.

    A number counts more than a colour, and of colours the last: blue_nile_20180405_red.
    """
    own = (*(mask.name for mask in convention.masks), *map(re.escape, convention.bands))
    colours = reversed(list(_COMMON_BAND.finditer(name)))
    for match in chain(_own_part(own).finditer(name), _NUMBERED_BAND.finditer(name), colours):
        if convention.layer(match["band"]) is not None:
            yield match


@cache
def _own_part(names: tuple[str, ...]) -> re.Pattern[str]:
    """Return the expression for the part of a name that is one of some expressions."""
    return _re(rf"(?:^|[-_. ])(?P<band>{'|'.join(names)}){_ENDS}")


def _is_beside(convention: Convention, path: Path, band: str | None) -> bool:
    """Return whether the name of a file tells that it contains neither bands nor masks."""
    # AWS has small copies of the bands in a folder "preview".
    others = (NOT_A_BAND, _QUALITY_OR_PREVIEW)
    if path.parent.name == "preview" or any(other.search(path.stem) for other in others):
        return True
    if convention.ignore is not None and convention.ignore.search(path.stem):
        return True
    if band is None or not convention.is_complete:
        return False
    is_image = re.fullmatch(convention.images, band, re.IGNORECASE) is not None
    return not is_image and convention.layer(band) is None


def _tile(convention: Convention, place: str) -> str | None:
    """Return the tile in the names of a file and its folders, None if there is none."""
    if convention.tile is not None:
        match = convention.tile.search(place)
        if match is not None:
            text = "".join(filter(None, match.groups()))
            return tile_name(text.upper().zfill(5)) or text
    return next((tile for name in reversed(place.split("/")) if (tile := tile_name(name))), None)
