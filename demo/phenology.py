"""The crops of the simulated scene, and their cover of the ground on each day.

Green cover follows the double logistic of Fischer (1994, "A model for the seasonal variations of
vegetation indices in coarse resolution data", Remote Sens. Environ. 48) in the form of Beck et al.
(2006, "Improved monitoring of vegetation dynamics at very high latitudes", Remote Sens. Environ.
100, eq. 3), reduced by mowing. The dates are plausible for eastern France. They were chosen, and
not fitted to observations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

DATE_SPREAD_DAYS = 7.0
LATE_SHARE = 0.03
NEVER = 10_000.0


@dataclass(frozen=True)
class Cover:
    """One crop or background cover; days are days of the year, shares are of the ground.

    Attributes
    ----------
    code, name
        Code and English name in the register; background covers have a name only.
    share
        Share of the parcels; 0 for background and for the rare crops.
    resting, peak
        Green cover in winter, and at its peak.
    green_up, senescence
        Days of the two inflections.
    green_up_rate, senescence_rate
        Slopes there, per day.
    straw
        Share of the lost green that remains as dry matter until the field is tilled.
    flower, flower_day
        Cover by blossom at its height, and that day.
    cuts
        Days of mowing. Each removes about `cut_depth` of the green, which grows back in weeks.
    catch_crop
        Probability of a green cover sown after the harvest.
    rows
        Contrast between rows while the canopy is open: fine texture inside the parcel.
    patches
        Unevenness of the stand on the scale of some 50 m.
    tint
        Gain of the leaf's reflectance in the visible, red edge, near and short-wave infrared.
    ground
        Ground under the plants: soil, asphalt, tiles or water.
    """

    code: str
    name: str
    share: float
    resting: float
    peak: float
    green_up: float
    green_up_rate: float
    senescence: float
    senescence_rate: float
    straw: float = 0.0
    flower: float = 0.0
    flower_day: float = 0.0
    cuts: tuple[float, ...] = ()
    cut_depth: float = 0.0
    catch_crop: float = 0.0
    rows: float = 0.02
    patches: float = 0.05
    tint: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    ground: str = "soil"


# Codes in the style of the French parcel register. Some pairs are difficult. Wheat and winter
# barley differ by eleven days of senescence, and by patches of lodged barley; spring barley is
# similar to both. Maize, sunflower and beet have rows at different times. Permanent and temporary
# grassland differ in mowing and in evenness, and alfalfa is similar to the latter. Part of the
# difference is therefore in the spread within a parcel, not in its mean.
CROPS = (
    Cover("BTH", "winter wheat", 0.25, 0.22, 0.90, 86, 0.060, 183, 0.120, straw=0.8,
          catch_crop=0.35, patches=0.03),
    Cover("ORH", "winter barley", 0.10, 0.24, 0.86, 82, 0.062, 172, 0.120, straw=0.8,
          catch_crop=0.35, patches=0.09, tint=(1.05, 1.02, 0.98, 1.03)),
    Cover("ORP", "spring barley", 0.06, 0.10, 0.84, 108, 0.075, 182, 0.125, straw=0.8,
          catch_crop=0.35, tint=(1.05, 1.02, 0.98, 1.03)),
    Cover("CZH", "winter rapeseed", 0.10, 0.42, 0.92, 80, 0.075, 176, 0.090, straw=0.6, flower=0.55,
          flower_day=114, catch_crop=0.4, tint=(1.0, 1.02, 1.05, 0.97)),
    Cover("MIS", "maize", 0.14, 0.05, 0.88, 164, 0.085, 262, 0.070, straw=0.5, rows=0.10,
          tint=(0.97, 1.0, 1.0, 0.96)),
    Cover("TRN", "sunflower", 0.07, 0.05, 0.84, 158, 0.080, 243, 0.090, straw=0.5, flower=0.12,
          flower_day=200, rows=0.13, tint=(1.06, 1.03, 1.0, 1.03)),
    Cover("BTN", "sugar beet", 0.06, 0.05, 0.93, 160, 0.080, 300, 0.040, rows=0.11,
          tint=(0.94, 0.98, 1.07, 0.92)),
    Cover("PPH", "permanent grassland", 0.10, 0.48, 0.82, 98, 0.055, 300, 0.025, cuts=(172.0,),
          cut_depth=0.35, patches=0.16, rows=0.03, tint=(1.02, 0.98, 0.96, 1.04)),
    Cover("PTR", "temporary grassland", 0.07, 0.42, 0.86, 92, 0.060, 302, 0.025,
          cuts=(140.0, 192.0, 250.0), cut_depth=0.45, patches=0.08, tint=(1.0, 1.0, 1.0, 1.0)),
    Cover("LUZ", "alfalfa", 0.05, 0.35, 0.88, 94, 0.060, 300, 0.030,
          cuts=(130.0, 168.0, 208.0, 254.0), cut_depth=0.70, patches=0.035,
          tint=(0.98, 1.02, 1.05, 0.96)),
)  # fmt: skip
RARE_CROPS = (
    Cover("CHV", "hemp", 0.0, 0.05, 0.92, 142, 0.090, 234, 0.100, straw=0.4,
          tint=(0.95, 1.0, 1.05, 0.95)),
    Cover("LIF", "fibre flax", 0.0, 0.06, 0.80, 112, 0.090, 190, 0.100, straw=0.7, flower=0.08,
          flower_day=160),
)  # fmt: skip
BACKGROUND = (
    Cover("", "verge", 0.0, 0.45, 0.75, 98, 0.050, 295, 0.025, patches=0.12, rows=0.05),
    Cover("", "wood", 0.0, 0.25, 0.93, 108, 0.090, 296, 0.060, patches=0.08, rows=0.05,
          tint=(0.62, 0.62, 0.64, 0.60)),
    Cover("", "garden", 0.0, 0.35, 0.62, 100, 0.050, 295, 0.025, patches=0.20, rows=0.14),
    Cover("", "water", 0.0, 0.0, 0.0, 100, 0.05, 300, 0.05, patches=0.0, rows=0.0, ground="water"),
    Cover("", "road", 0.0, 0.05, 0.10, 100, 0.05, 300, 0.05, patches=0.05, ground="asphalt"),
    Cover("", "roof", 0.0, 0.0, 0.0, 100, 0.05, 300, 0.05, patches=0.3, rows=0.2, ground="tiles"),
)  # fmt: skip
COVERS = BACKGROUND + CROPS + RARE_CROPS


@dataclass(frozen=True)
class Stands:
    """The cover of each unit of the scene in this season; arrays have one row for each unit."""

    covers: list[Cover]
    resting: Floats
    peak: Floats
    green_up: Floats
    senescence: Floats
    flower: Floats
    flower_day: Floats
    cuts: Floats
    cut_depth: Floats
    tilled: Floats
    catch_crop_day: Floats
    patches: Floats
    late: NDArray[np.bool_]

    def column(self, name: str) -> Floats:
        """Return an attribute of the units' covers as an array."""
        return np.array([getattr(cover, name) for cover in self.covers], dtype=np.float32)


def draw_stands(covers: list[Cover], rng: np.random.Generator) -> Stands:
    """Draw dates, vigour and management of every unit around those of its cover."""

    def column(name: str) -> NDArray[np.float64]:
        return np.array([getattr(cover, name) for cover in covers], dtype=np.float64)

    n = len(covers)
    is_crop = np.array([bool(cover.code) for cover in covers])
    late = is_crop & (rng.random(n) < LATE_SHARE)
    # Soil, altitude and sowing shift the whole season; start and end also vary separately.
    shift = np.where(is_crop, rng.normal(0, DATE_SPREAD_DAYS, n), 0) + np.where(late, 18, 0)
    senescence = column("senescence") + 0.6 * shift + rng.normal(0, 3.0, n)
    grows_over = rng.random(n) < column("catch_crop")
    most_cuts = max(len(cover.cuts) for cover in covers)
    cuts = np.full((n, max(most_cuts, 1)), NEVER)
    for i, cover in enumerate(covers):
        cuts[i, : len(cover.cuts)] = cover.cuts
    # A cut is left out at random (grazing), and its day varies with the weather.
    cuts = np.where(rng.random(cuts.shape) < 0.2, NEVER, cuts + rng.normal(0, 8, cuts.shape))
    tilled = senescence + rng.uniform(25, 75, n)
    values = {
        "resting": column("resting") * rng.lognormal(0, 0.25, n),
        "peak": column("peak") * np.minimum(rng.lognormal(-0.03, 0.07, n), 1.06),
        "green_up": column("green_up") + shift + rng.normal(0, 4.0, n),
        "senescence": senescence,
        "flower": column("flower") * rng.lognormal(-0.1, 0.35, n),
        "flower_day": column("flower_day") + 0.7 * shift + rng.normal(0, 3, n),
        "cuts": cuts,
        "cut_depth": np.minimum(column("cut_depth") * rng.lognormal(0, 0.25, n), 0.85),
        "tilled": tilled,
        "catch_crop_day": np.where(grows_over, tilled + rng.uniform(20, 45, n), NEVER),
        "patches": column("patches") * rng.lognormal(0, 0.25, n),
    }
    arrays = {name: value.astype(np.float32) for name, value in values.items()}
    return Stands(covers=covers, late=late, **arrays)


def ground_cover(stands: Stands, day: float) -> tuple[Floats, Floats, Floats]:
    """Return the shares of the ground under green leaves, dry matter and blossom.

    Parameters
    ----------
    stands
        The units.
    day
        Day of the year.

    Returns
    -------
    green, straw, flower
        float32 (units,), in 0..1; their sum is at most 1.
    """
    rise = _sigmoid(stands.column("green_up_rate") * (day - stands.green_up))
    fall = _sigmoid(stands.column("senescence_rate") * (day - stands.senescence))
    # Beck et al. (2006), eq. 3, with the second logistic written as 1 - fall. A crop that has
    # ripened has no green left, not even its green cover of winter.
    remains = np.where(stands.column("straw") > 0, 1 - fall, 1)
    green = (stands.resting + (stands.peak - stands.resting) * np.maximum(rise - fall, 0)) * remains
    since = day - stands.cuts
    mown = np.where(since >= 0, np.exp(-np.maximum(since, 0) / 16.0), 0).max(axis=1)
    green = green * (1 - stands.cut_depth * mown)
    untilled = 1 - _sigmoid(0.25 * (day - stands.tilled))
    straw = stands.column("straw") * stands.peak * fall * untilled
    green = green + 0.6 * _sigmoid(0.12 * (day - stands.catch_crop_day - 15))
    green = np.clip(green, 0, 0.98)
    flower = stands.flower * np.exp(-0.5 * ((day - stands.flower_day) / 9.0) ** 2)
    flower = np.minimum(flower, 0.9 * green)
    green = green - flower
    straw = np.minimum(straw, 1 - green - flower)
    return green.astype(np.float32), straw.astype(np.float32), flower.astype(np.float32)


def _sigmoid(x: Floats) -> Floats:
    """Return the logistic function."""
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))), dtype=np.float32)
