"""Reflectance of the simulated ground: a linear mixture of leaves, dry matter, blossom and soil."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.phenology import Stands, ground_cover

Floats = NDArray[np.float32]

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
BANDS_10M = ("B02", "B03", "B04", "B08")
BANDS_20M = ("B05", "B06", "B07", "B8A", "B11", "B12")

# Surface reflectance in the order of BANDS, rounded; of the magnitude of Sentinel-2 scenes.
LEAVES = np.array([0.030, 0.070, 0.032, 0.115, 0.340, 0.440, 0.470, 0.490, 0.215, 0.105])
DRY_MATTER = np.array([0.085, 0.125, 0.165, 0.200, 0.235, 0.260, 0.280, 0.300, 0.355, 0.260])
BLOSSOM = np.array([0.045, 0.190, 0.180, 0.250, 0.400, 0.450, 0.470, 0.480, 0.240, 0.130])
GROUND = {
    "soil": np.array([0.080, 0.105, 0.140, 0.160, 0.180, 0.195, 0.210, 0.225, 0.300, 0.260]),
    "asphalt": np.array([0.110, 0.120, 0.130, 0.140, 0.150, 0.155, 0.165, 0.170, 0.200, 0.190]),
    "tiles": np.array([0.120, 0.140, 0.190, 0.210, 0.225, 0.235, 0.245, 0.255, 0.290, 0.270]),
    "water": np.array([0.045, 0.050, 0.035, 0.030, 0.022, 0.020, 0.018, 0.016, 0.008, 0.006]),
}
# Bands of the four gains of `Cover.tint`: visible, red edge, near and short-wave infrared.
TINT_BANDS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 3])


@dataclass(frozen=True)
class Palette:
    """Spectra of leaves and ground of every unit for the season; float32 (units, 10)."""

    leaves: Floats
    ground: Floats


def draw_palette(stands: Stands, rng: np.random.Generator) -> Palette:
    """Draw the leaf and soil spectra of every unit around those of its cover."""
    n = len(stands.covers)
    tint = np.array([cover.tint for cover in stands.covers]) * rng.lognormal(0, 0.045, (n, 4))
    ground = np.array([GROUND[cover.ground] for cover in stands.covers])
    is_soil = np.array([cover.ground == "soil" for cover in stands.covers])
    brightness = np.where(is_soil, rng.lognormal(0, 0.16, n), rng.lognormal(0, 0.03, n))
    redness = np.where(is_soil, rng.normal(0, 0.05, n), 0)[:, None] * np.linspace(-1, 1, len(BANDS))
    return Palette(
        leaves=(LEAVES * tint[:, TINT_BANDS]).astype(np.float32),
        ground=(ground * brightness[:, None] * (1 + redness)).astype(np.float32),
    )


def reflectance(
    stands: Stands, palette: Palette, day: float, wetness: float
) -> tuple[Floats, Floats, Floats]:
    """Return the mean reflectance of every unit on a day, and its change with texture.

    Parameters
    ----------
    stands, palette
        The units and their spectra.
    day
        Day of the year.
    wetness
        0 for dry soil, 1 for wet soil, which is about a third darker.

    Returns
    -------
    mean
        float32 (units, 10), reflectance.
    slope
        float32 (units, 10), change of reflectance per unit of green cover.
    openness
        float32 (units,), 4 g (1 - g) of the cover g by plants: largest at half cover.
    """
    green, straw, flower = ground_cover(stands, day)
    is_soil = np.array([cover.ground == "soil" for cover in stands.covers])
    ground = palette.ground * np.where(is_soil, 1 - 0.33 * wetness, 1)[:, None]
    bare = 1 - green - straw - flower
    mean = (
        green[:, None] * palette.leaves
        + straw[:, None] * DRY_MATTER
        + flower[:, None] * BLOSSOM
        + bare[:, None] * ground
    )
    # Without plants, the ground itself has texture: brighter or darker.
    slope = np.where((green + straw > 0.03)[:, None], palette.leaves - ground, 0.6 * ground)
    cover = np.minimum(green + flower, 1)
    return (
        mean.astype(np.float32),
        slope.astype(np.float32),
        (4 * cover * (1 - cover)).astype(np.float32),
    )
