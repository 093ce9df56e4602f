"""Clouds and shadows over the simulated scene, and a scene classification with errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.noise import block_mean, fractal_field
from demo.spectra import BANDS

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Clouds are almost white. Ice absorbs some short-wave infrared.
CLOUD = np.array([0.62, 0.61, 0.61, 0.62, 0.63, 0.64, 0.64, 0.64, 0.50, 0.40], dtype=np.float32)
# Skylight brightens shadows, most in the blue.
SHADE = np.array([0.60, 0.52, 0.45, 0.43, 0.40, 0.38, 0.37, 0.36, 0.33, 0.32], dtype=np.float32)
# Opacity from which on a pixel is truly cloudy or in shadow.
DISTURBED = 0.12

# Simulated classes of the Level-2A scene classification (Sentinel-2 product specification).
NO_DATA, SHADOW, VEGETATION, BARE, WATER = 0, 3, 4, 5, 6
CLOUD_MEDIUM, CLOUD_HIGH, CIRRUS = 8, 9, 10
CLOUD_CLASSES = (CLOUD_MEDIUM, CLOUD_HIGH, CIRRUS)


@dataclass(frozen=True)
class Sky:
    """Opacity of the clouds and depth of their shadows, float32 (rows, columns) in 0..1."""

    cloud: Floats
    shadow: Floats


def draw_sky(
    shape: tuple[int, int],
    fraction: float,
    sun_azimuth_deg: float,
    sun_elevation_deg: float,
    rng: np.random.Generator,
    pixel_m: float = 10.0,
) -> Sky:
    """Draw clouds over about `fraction` of the scene, with shadows away from the sun.

    Clouds outside the imagery cast shadows into it, so the field is larger than the imagery.
    """
    base_m = rng.uniform(500, 1_100)
    reach = base_m / np.tan(np.radians(sun_elevation_deg)) / pixel_m
    down = round(reach * np.cos(np.radians(sun_azimuth_deg)))
    right = round(-reach * np.sin(np.radians(sun_azimuth_deg)))
    pad = max(abs(down), abs(right))
    rows, columns = shape
    field = fractal_field((rows + 2 * pad, columns + 2 * pad), 1.7, rng, largest=0.5 * max(shape))
    view = field[pad : pad + rows, pad : pad + columns]
    edge = np.quantile(view, 1 - fraction) if 0 < fraction < 1 else np.sign(0.5 - fraction) * 20
    opacity = 1 - np.exp(-4.5 * np.clip((field - edge) / 0.7, 0, None) ** 1.5)
    cast = opacity[
        pad - down : pad - down + rows,
        pad - right : pad - right + columns,
    ]
    cloud = opacity[pad : pad + rows, pad : pad + columns]
    return Sky(cloud.astype(np.float32), cast.astype(np.float32))


def veil(surface: Floats, sky: Sky) -> Floats:
    """Darken the surface by the shadows and cover it by the clouds.

    Parameters
    ----------
    surface
        float32 (10, rows, columns), reflectance.
    sky
        Clouds and shadows of the same rows and columns.
    """
    lit = surface * (1 - sky.shadow * (1 - SHADE[:, None, None]))
    return np.asarray(lit + sky.cloud * (CLOUD[:, None, None] - lit), dtype=np.float32)


def disturbed(sky: Sky) -> tuple[Mask, Mask]:
    """Return the true clouds, and the true shadows without clouds."""
    cloud = sky.cloud > DISTURBED
    return cloud, (sky.shadow > DISTURBED) & ~cloud


def classify(image: Floats, sky: Sky, water: Mask, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a scene classification at 20 m with the errors of a Level-2A classification.

    It misses the thin edges of clouds and shadows and whole patches of both. It classifies some
    bright ground as cloud and some dark ground as shadow.

    Parameters
    ----------
    image
        float32 (10, rows, columns), reflectance at the sensor at 20 m.
    sky
        Clouds and shadows at 20 m.
    water
        bool (rows, columns), open water.
    rng
        Source of the errors.
    """
    shape = water.shape
    red, infrared = image[BANDS.index("B04")], image[BANDS.index("B8A")]
    vegetation = (infrared - red) / (infrared + red + 1e-6) > 0.4
    scl = np.where(water, WATER, np.where(vegetation, VEGETATION, BARE)).astype(np.uint8)
    noise = fractal_field(shape, 0.9, rng)
    scl[(image[0] > 0.13) & (sky.cloud < 0.05) & (noise > 1.3)] = CLOUD_MEDIUM
    scl[(infrared < 0.2) & (sky.cloud < 0.05) & (noise < -2.2)] = SHADOW
    found_shadow = sky.shadow > 0.30 + 0.12 * noise
    found_cloud = sky.cloud > 0.18 + 0.07 * noise
    missed = fractal_field(shape, 1.3, rng) > 1.75
    found_cloud &= ~missed | (sky.cloud > 0.97)
    found_shadow &= ~missed
    scl[found_shadow] = SHADOW
    scl[found_cloud & (sky.cloud <= 0.40)] = CIRRUS
    scl[found_cloud & (sky.cloud > 0.40)] = CLOUD_MEDIUM
    scl[found_cloud & (sky.cloud > 0.70)] = CLOUD_HIGH
    return scl


def coarsen(sky: Sky, size: int) -> Sky:
    """Return the mean of a sky over blocks of `size` x `size` pixels."""
    return Sky(block_mean(sky.cloud, size), block_mean(sky.shadow, size))
