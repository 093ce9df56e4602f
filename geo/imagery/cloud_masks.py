"""Cloud masks: which pixels of an acquisition are clear, and which fraction of it is cloudy."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from geo.imagery.acquisition import MASKS, SCENE_CLASSIFICATION, Acquisition, Band, first_five
from geo.imagery.file_cache import cached_of
from geo.imagery.raster_header import block_shape
from geo.imagery.raster_reading import read_window
from geo.imagery.valid_values import has_data
from geo.pixels.resampling import axes

# Added to distances, in metres: pixel sizes such as 9.997 m are not exact in binary numbers.
_TOLERANCE_M = 1e-6
_MASK_OF = {"scl": "SCL", "cldprb": "CLDPRB", "theia": "CLM", "files": "MASK"}
_REMEDY = {
    "SCL": "Leave scl out of clouds.mask",
    "CLDPRB": "Download MSK_CLDPRB, or set clouds.max_probability to null",
    "CLM": "Leave theia out of clouds.mask",
    "MASK": "Add a file for each to the folder clouds.files, with its date in the name",
}


class CloudSettings(Protocol):
    """The settings of the cloud masks, as in the section `clouds` of a run's settings."""

    @property
    def mask(self) -> str | Sequence[str]:
        """auto, none, or a list of scl, cldprb, theia and files."""

    @property
    def files(self) -> Path | None:
        """Folder of the user's masks."""

    @property
    def classes(self) -> Sequence[int]:
        """As in `CloudRules`."""

    @property
    def theia_bits(self) -> Sequence[int]:
        """As in `CloudRules`."""

    @property
    def max_probability(self) -> float | None:
        """As in `CloudRules`."""

    @property
    def dilation_m(self) -> float:
        """As in `CloudRules`."""


@dataclass(frozen=True)
class CloudRules:
    """The masks that are used, and their cloudy values; a pixel is clear if no mask hides it.

    Parameters
    ----------
    masks
        Names of `MASKS` that are used if an acquisition has them; empty for no mask.
    required
        Those of `masks` that every acquisition must have.
    classes
        SCL classes that hide a pixel, numbered as in the Sentinel-2 Level-2A product definition:
        0 nodata, 1 saturated, 2 dark area, 3 cloud shadow, 4 vegetation, 5 bare soil, 6 water,
        7 unclassified, 8 and 9 cloud of medium and high probability, 10 thin cirrus, 11 snow.
    theia_bits
        Bits of THEIA's CLM that hide a pixel, numbered as in the MAJA product format: 0 all clouds
        but the thinnest, and shadows; 1 all clouds; 2 and 3 shadows of clouds inside and outside
        the image; 4 and 5 clouds found in one date and in several; 6 thinnest clouds; 7 cirrus.
    max_probability
        Percent; a higher cloud probability (CLDPRB) hides a pixel.
    dilation_m
        Grow the cloud mask by this many metres, from pixel centre to pixel centre. Nodata areas
        (SCL 0) are not grown.
    """

    masks: tuple[str, ...] = MASKS
    required: tuple[str, ...] = ()
    classes: tuple[int, ...] = (0, 1, 3, 8, 9, 10)
    theia_bits: tuple[int, ...] = tuple(range(8))
    max_probability: float | None = None
    dilation_m: float = 0.0

    def choose(self, acquisition: Acquisition) -> dict[str, Band]:
        """Return the masks of an acquisition that are used, by name."""
        return {name: band for name, band in acquisition.masks.items() if name in self.masks}

    def missing(self, acquisition: Acquisition) -> list[str]:
        """Return the names of the required masks that an acquisition lacks."""
        return [name for name in self.required if name not in acquisition.masks]

    def agree_with_metadata(self, masks: Collection[str]) -> bool:
        """Return whether these masks find the clouds that a product's metadata count.

        The metadata count SCL 8, 9 and 10 at level 2A, and all clouds at THEIA.
        """
        is_same = not set(masks) - {"SCL", "CLM"} and self.dilation_m == 0
        return is_same and {8, 9, 10} <= set(self.classes) and 1 in self.theia_bits

    def margin(self, band: Band) -> tuple[int, int]:
        """Return the number of rows and columns by which a cloud can grow into a window."""
        sizes = band.grid.pixel_height, band.grid.pixel_width
        rows, cols = (int((self.dilation_m + _TOLERANCE_M) / size) for size in sizes)
        return rows, cols

    def is_clear(self, name: str, values: NDArray[Any], band: Band) -> NDArray[np.bool_]:
        """Return which pixels of a window of a mask are clear.

        Clouds outside the window are unknown: read a `margin` around the wanted pixels.

        Parameters
        ----------
        name
            One of `MASKS`.
        values
            Raw values of the mask, (rows, columns).
        band
            The mask that they come from.

        Returns
        -------
        ndarray of bool (rows, columns)
        """
        nodata = np.zeros(values.shape, bool)
        if name == "SCL":
            nodata = ~has_class(values, band)
            is_cloudy = np.zeros(256, bool)  # by class: a table is faster than np.isin
            is_cloudy[list(self.classes)] = True
            cloudy = ~nodata & is_cloudy[_as_bytes(values)]
        elif name == "CLM":
            cloudy = (_as_bytes(values) & sum(1 << bit for bit in set(self.theia_bits))) != 0
        elif name == "CLDPRB":
            # Not `values > limit`, which would take NaN for clear.
            cloudy = ~(values <= (100 if self.max_probability is None else self.max_probability))
        else:
            cloudy = values != 0
        if self.dilation_m > 0:
            size = band.grid.pixel_height, band.grid.pixel_width
            cloudy = dilate(cloudy, size, self.dilation_m)
        if 0 in self.classes:
            cloudy |= nodata
        return ~cloudy


def cloud_rules(clouds: CloudSettings) -> CloudRules:
    """Return the rules of settings; masks that the settings name are required."""
    if clouds.mask == "none":
        masks, required = [], []
    elif clouds.mask == "auto":
        asked = {"CLDPRB": clouds.max_probability is not None, "MASK": clouds.files is not None}
        required = [name for name, wanted in asked.items() if wanted]
        masks = [name for name in MASKS if name != "CLDPRB" or name in required]
    else:
        masks = required = [_MASK_OF[name] for name in clouds.mask]
    return CloudRules(
        masks=tuple(masks),
        required=tuple(required),
        classes=tuple(clouds.classes),
        theia_bits=tuple(clouds.theia_bits),
        max_probability=clouds.max_probability,
        dilation_m=clouds.dilation_m,
    )


def check_masks(used: Sequence[Acquisition], rules: CloudRules) -> None:
    """Check that the acquisitions have the masks that the settings require.

    Raises
    ------
    InputError
        If some acquisitions lack a mask.
    """
    for name in rules.required:
        lacking = [item.id for item in used if name in rules.missing(item)]
        if lacking:
            raise InputError(
                f"{len(lacking)} of {len(used)} acquisitions have no cloud mask {name}: "
                f"{first_five(lacking)}. {_REMEDY[name]}, or exclude them with imagery.start, "
                "imagery.end or imagery.max_cloud_fraction."
            )


def has_class(classification: NDArray[Any], band: Band) -> NDArray[np.bool_]:
    """Return which pixels of a scene classification have a class: neither 0 nor nodata."""
    is_class: NDArray[np.bool_] = (classification >= 1) & (classification <= 11)
    return is_class & has_data(band, classification)


def dilate(
    mask: NDArray[np.bool_], pixel_size: tuple[float, float], distance: float
) -> NDArray[np.bool_]:
    """Return a mask that is grown by a distance, from pixel centre to pixel centre.

    Parameters
    ----------
    mask
        bool (rows, columns).
    pixel_size
        Height and width, in the unit of `distance`.
    """
    from scipy.ndimage import distance_transform_edt

    if not mask.any():  # the transform needs at least one pixel to measure from
        return mask
    distances = distance_transform_edt(~mask, sampling=pixel_size)
    return np.asarray(distances <= distance + _TOLERANCE_M)


def _as_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the values of a mask of any type as bytes; NaN and values outside 0 to 255 are 255."""
    if values.dtype == np.uint8:
        return values
    fits = (values >= 0) & (values <= 255)
    return np.where(fits, values, 255).astype(np.uint8)


# Minimum number of rows that are read at once.
_ROWS = 512


def cloud_fraction(
    acquisition: Acquisition, rules: CloudRules, *, read_pixels: bool = True
) -> float | None:
    """Return the cloudy fraction of an acquisition's pixels, those without data apart.

    The masks are read, unless the product's metadata state the fraction of the same clouds. If a
    required mask is missing, the metadata are used, too.

    Parameters
    ----------
    acquisition, rules
        The acquisition, and the masks that are used.
    read_pixels
        False: return None instead of reading masks.

    Returns
    -------
    float or None
        0 to 1; 1 if the acquisition has no data at all, None if the fraction is unknown.
    """
    masks = rules.choose(acquisition)
    is_stated = acquisition.cloud_fraction is not None and rules.agree_with_metadata(masks)
    if not masks or is_stated or rules.missing(acquisition):
        return acquisition.cloud_fraction
    if not read_pixels:
        return None

    def count() -> float:
        n_pixels = n_cloudy = 0
        for with_data, clear in _strips(acquisition, masks, rules):
            n_pixels += int(with_data.sum())
            n_cloudy += int((with_data & ~clear).sum())
        return n_cloudy / n_pixels if n_pixels else 1.0

    return cached_of(acquisition, ("cloud fraction", rules), float, count)


def _strips(
    acquisition: Acquisition, masks: dict[str, Band], rules: CloudRules
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Yield which pixels have data and which are clear, by strips of rows.

    The pixels are those of the scene classification, otherwise of the coarsest band.
    """
    bands = acquisition.bands.values()
    coarsest = max(bands, key=lambda band: band.grid.pixel_width * band.grid.pixel_height)
    base = masks.get(SCENE_CLASSIFICATION, coarsest)
    with_data = has_class if base.name == SCENE_CLASSIFICATION else lambda v, b: has_data(b, v)
    step = max(block_shape(base)[0], _ROWS)
    for top in range(0, base.grid.height, step):
        rows = np.arange(top, min(top + step, base.grid.height), dtype=np.int32)
        values = read_window(base, slice(top, top + step), slice(None))
        clear = np.ones(values.shape, bool)
        for name, mask in masks.items():
            clear &= _is_clear_on(base, rows, name, mask, rules)
        yield with_data(values, base), clear


def _is_clear_on(
    base: Band, rows: NDArray[np.int32], name: str, mask: Band, rules: CloudRules
) -> NDArray[np.bool_]:
    """Return where a mask is clear at the pixels of whole rows of another band."""
    down, right = axes(base.grid, mask.grid)
    inside_rows, inside_cols = down.inside[rows], right.inside
    clear = np.zeros((len(rows), base.grid.width), bool)
    if inside_rows.any() and inside_cols.any():
        mask_rows, mask_cols = down.nearest[rows][inside_rows], right.nearest[inside_cols]
        margin = rules.margin(mask)[0]
        top = max(int(mask_rows[0]) - margin, 0)
        window = slice(top, int(mask_rows[-1]) + margin + 1)
        values = rules.is_clear(name, read_window(mask, window, slice(None)), mask)
        clear[np.ix_(inside_rows, inside_cols)] = values[np.ix_(mask_rows - top, mask_cols)]
    return clear
