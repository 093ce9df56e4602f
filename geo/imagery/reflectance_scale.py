"""How dark reflectance can be, and the scale that makes stored values those of land."""

from __future__ import annotations

from math import log

# Factors from stored values to reflectance that occur: reflectance, percent, thousandths, bytes,
# and reflectance x 10,000.
FACTORS = (1.0, 0.01, 0.001, 0.004, 0.0001)

# The brightest tenth of the pixels of land, in the brightest band on a usual date, reflects more
# than `DARK`: plants in the near infrared 0.25 to 0.5, soil 0.1 to 0.4, clouds 0.5 to 1. In 118
# dates of a Flemish window, it is at least 0.13. Lakes, burnt areas, and bands of visible light
# alone can be darker. No surface is darker than `DARKEST` in all bands.
DARK, DARKEST = 0.08, 0.008
_USUAL, _LEAST, _MOST = 0.35, 0.1, 1.2


def fitting_scale(stored: float) -> float | None:
    """Return the factor that makes a bright stored value the reflectance of land, None if none."""
    fitting = [factor for factor in FACTORS if _LEAST <= stored * factor <= _MOST]
    return min(fitting, key=lambda f: abs(log(stored * f / _USUAL)), default=None)
