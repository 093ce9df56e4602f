"""Which observations are clear, by an acquisition's masks, and which share of it is cloudy."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from geo.imagery.acquisition import MASKS, SCENE_CLASSIFICATION, Acquisition, Band, first_five
from geo.imagery.raster_reading import block_shape, read_window
from geo.pixels.resampling import axes

# What sharing of a mask by distance may err in, metres: pixel sizes are not exact in decimals.
_TOLERANCE_M = 1e-6
_MASK_OF = {"scl": "SCL", "cldprb": "CLDPRB", "theia": "CLM", "files": "MASK"}
_REMEDY = {
    "SCL": "Leave scl out of clouds.mask",
    "CLDPRB": "Download MSK_CLDPRB, or set clouds.max_probability to null",
    "CLM": "Leave theia out of clouds.mask",
    "MASK": "Add a file for each to the folder clouds.files, with its date in the name",
}


class CloudSettings(Protocol):
    """The settings that say which masks count, as the section `clouds` of a run's settings."""

    @property
    def mask(self) -> str | Sequence[str]:
        """auto, none, or names: scl, cldprb, theia, files."""

    @property
    def files(self) -> Path | None:
        """Folder of the user's own masks."""

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
    """Which masks count, and what in them is not observed; a pixel is clear if all say so.

    Parameters
    ----------
    masks
        Names of `MASKS` that are used where an acquisition has them; empty: none is.
    required
        Those of `masks` that every acquisition must have.
    classes
        SCL classes taken as not observed, as the Sentinel-2 Level-2A product definition numbers
        them: 0 no data, 1 saturated, 2 dark area, 3 cloud shadow, 4 vegetation, 5 bare soil,
        6 water, 7 unclassified, 8 and 9 cloud of medium and high probability, 10 thin cirrus,
        11 snow.
    theia_bits
        Bits of THEIA's CLM taken as not observed, as the MAJA product format counts them: 0 all
        clouds but the thinnest, and shadows; 1 all clouds; 2 and 3 shadows, of clouds inside and
        outside the image; 4 and 5 clouds by one and by several dates; 6 thinnest clouds; 7 cirrus.
    max_probability
        Percent; pixels of a larger cloud probability (CLDPRB) are not observed.
    dilation_m
        Pixels whose centre lies at most so far from one that is not observed are not, either.
        Pixels without data (SCL 0) have no such surroundings.
    """

    masks: tuple[str, ...] = MASKS
    required: tuple[str, ...] = ()
    classes: tuple[int, ...] = (0, 1, 3, 8, 9, 10)
    theia_bits: tuple[int, ...] = tuple(range(8))
    max_probability: float | None = None
    dilation_m: float = 0.0

    def choose(self, acquisition: Acquisition) -> dict[str, Band]:
        """Return the masks of an acquisition that count, by name."""
        return {name: band for name, band in acquisition.masks.items() if name in self.masks}

    def missing(self, acquisition: Acquisition) -> list[str]:
        """Name the required masks that an acquisition lacks."""
        return [name for name in self.required if name not in acquisition.masks]

    def agree_with_metadata(self, masks: Collection[str]) -> bool:
        """Tell whether these masks count what the cloud fraction of products' metadata counts.

        Those are SCL 8, 9 and 10 at level 2A, and all clouds at THEIA.
        """
        own = not set(masks) - {"SCL", "CLM"} and self.dilation_m == 0
        return own and {8, 9, 10} <= set(self.classes) and 1 in self.theia_bits

    def margin(self, band: Band) -> tuple[int, int]:
        """Return the rows and columns around a window that its clouds may come from."""
        sizes = band.grid.pixel_height, band.grid.pixel_width
        rows, cols = (int((self.dilation_m + _TOLERANCE_M) / size) for size in sizes)
        return rows, cols

    def is_clear(self, name: str, values: NDArray[Any], band: Band) -> NDArray[np.bool_]:
        """Tell which pixels of a window of a mask are clear; near its edges, as far as it shows.

        Parameters
        ----------
        name
            One of `MASKS`.
        values
            The mask's raw values, (rows, columns).
        band
            Where they are from.
        """
        no_data = np.zeros(values.shape, bool)
        if name == "SCL":
            no_data = ~is_sensed(values, band)
            hidden = ~no_data & _is_any_of(values, self.classes)
        elif name == "CLM":
            hidden = (_as_integers(values) & sum(1 << bit for bit in set(self.theia_bits))) != 0
        elif name == "CLDPRB":
            # Not `>`: NaN is not known to be clear.
            hidden = ~(values <= (100 if self.max_probability is None else self.max_probability))
        else:
            hidden = values != 0
        if self.dilation_m > 0:
            size = band.grid.pixel_height, band.grid.pixel_width
            hidden = is_within(hidden, size, self.dilation_m)
        if 0 in self.classes:
            hidden |= no_data
        return ~hidden


def cloud_rules(clouds: CloudSettings) -> CloudRules:
    """Make the rules of settings; what these ask for by name, every acquisition must have."""
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
    """Check that the acquisitions have the masks that the settings ask for.

    Raises
    ------
    InputError
        If some lack one; the message names them.
    """
    for name in rules.required:
        lacking = [item.id for item in used if name in rules.missing(item)]
        if lacking:
            raise InputError(
                f"{len(lacking)} of {len(used)} acquisitions have no cloud mask {name}: "
                f"{first_five(lacking)}. {_REMEDY[name]}, or set them aside by imagery.start, "
                "imagery.end or imagery.max_cloud_fraction."
            )


def is_sensed(classification: NDArray[Any], band: Band) -> NDArray[np.bool_]:
    """Tell which pixels of a scene classification have a class: neither 0 nor the file's nodata."""
    sensed: NDArray[np.bool_] = (classification >= 1) & (classification <= 11)
    return sensed if band.nodata is None else sensed & (classification != band.nodata)


def is_within(
    hidden: NDArray[np.bool_], pixel_size: tuple[float, float], distance: float
) -> NDArray[np.bool_]:
    """Tell which pixels lie within a distance of a hidden one, from centre to centre.

    Parameters
    ----------
    hidden
        bool (rows, columns).
    pixel_size
        Height and width, in the unit of `distance`.
    """
    from scipy.ndimage import distance_transform_edt

    if not hidden.any():  # from which the transform would measure to nowhere
        return hidden
    near: NDArray[np.bool_] = (
        distance_transform_edt(~hidden, sampling=pixel_size) <= distance + _TOLERANCE_M
    )
    return near


def _is_any_of(values: NDArray[Any], classes: Sequence[int]) -> NDArray[np.bool_]:
    """Tell which SCL values are among the classes; the values must be classes or no data."""
    lookup = np.zeros(256, bool)
    lookup[list(classes)] = True
    found: NDArray[np.bool_] = lookup[_as_integers(values)]
    return found


def _as_integers(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the bytes of a mask whatever type its file has; NaN and what no byte holds are 255."""
    if values.dtype == np.uint8:
        return values
    fits = (values >= 0) & (values <= 255)
    return np.where(fits, values, 255).astype(np.uint8)


# Rows that are read at once, at least.
_ROWS = 512


def cloud_fraction(acquisition: Acquisition, rules: CloudRules) -> float | None:
    """Return the share of an acquisition's sensed pixels that are not clear by its masks.

    The product's own metadata stand for masks that count the same, and where a mask is missing.

    Returns
    -------
    float or None
        0 to 1; 1 where nothing was sensed, None where neither metadata nor mask tell.
    """
    masks = rules.choose(acquisition)
    if not _must_read(acquisition, masks, rules):
        return acquisition.cloud_fraction
    n_sensed = n_cloudy = 0
    for sensed, clear in _strips(acquisition, masks, rules):
        n_sensed += int(sensed.sum())
        n_cloudy += int((sensed & ~clear).sum())
    return n_cloudy / n_sensed if n_sensed else 1.0


def stated_cloud_fraction(acquisition: Acquisition, rules: CloudRules) -> float | None:
    """Return what `cloud_fraction` gives where it needs no pixels for it, else None."""
    if _must_read(acquisition, rules.choose(acquisition), rules):
        return None
    return acquisition.cloud_fraction


def _must_read(acquisition: Acquisition, masks: dict[str, Band], rules: CloudRules) -> bool:
    """Tell whether the masks must be read, as the metadata do not tell what they would."""
    is_told = acquisition.cloud_fraction is not None and rules.agree_with_metadata(masks)
    return bool(masks) and not is_told and not rules.missing(acquisition)


def _strips(
    acquisition: Acquisition, masks: dict[str, Band], rules: CloudRules
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Yield what was sensed and what is clear, by strips of the band that tells what was sensed."""
    bands = acquisition.bands.values()
    coarsest = max(bands, key=lambda band: band.grid.pixel_width * band.grid.pixel_height)
    base = masks.get(SCENE_CLASSIFICATION, coarsest)
    step = max(block_shape(base)[0], _ROWS)
    for top in range(0, base.grid.height, step):
        rows = np.arange(top, min(top + step, base.grid.height), dtype=np.int32)
        sensed = _is_sensed(base, read_window(base, slice(top, top + step), slice(None)))
        clear = np.ones(sensed.shape, bool)
        for name, band in masks.items():
            clear &= _is_clear(name, band, base, rows, rules)
        yield sensed, clear


def _is_sensed(band: Band, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which pixels of a scene classification or of a reflectance band were sensed."""
    if band.name == SCENE_CLASSIFICATION:
        return is_sensed(values, band)
    sensed: NDArray[np.bool_] = np.isfinite(values)
    return sensed if band.nodata is None else sensed & (values != band.nodata)


def _is_clear(
    name: str, mask: Band, base: Band, rows: NDArray[np.int32], rules: CloudRules
) -> NDArray[np.bool_]:
    """Tell where a mask is clear at the pixels of whole rows of another band."""
    down, right = axes(base.grid, mask.grid)
    there_rows, there_cols = down.inside[rows], right.inside
    clear = np.zeros((len(rows), base.grid.width), bool)
    if there_rows.any() and there_cols.any():
        at_row, at_col = down.nearest[rows][there_rows], right.nearest[there_cols]
        margin = rules.margin(mask)[0]
        top = max(int(at_row[0]) - margin, 0)
        window = slice(top, int(at_row[-1]) + margin + 1)
        values = rules.is_clear(name, read_window(mask, window, slice(None)), mask)
        clear[np.ix_(there_rows, there_cols)] = values[np.ix_(at_row - top, at_col)]
    return clear
