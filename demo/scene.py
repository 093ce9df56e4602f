"""A simulated season over farmland: the image of the sensor at each acquisition."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from shapely.geometry import box

from demo.clouds import NO_DATA, Sky, classify, coarsen, draw_sky, veil
from demo.landscape import Landscape, draw_landscape
from demo.noise import block_mean, blur, fractal_field
from demo.phenology import BACKGROUND, CROPS, RARE_CROPS, Cover, Stands, draw_stands
from demo.spectra import BANDS, BANDS_10M, Palette, draw_palette, reflectance
from geo.grid import Grid

Floats = NDArray[np.float32]

CRS = "EPSG:32631"
# A corner on the 10, 20 and 60 m grids of tile 31TFM, south-east of Dijon.
X_MIN, Y_MAX = 640_020.0, 5_160_000.0
# 10 m pixels are averaged from 5 m cells, so that border pixels are mixed before the optics blur.
CELLS_PER_PIXEL = 2
BLUR_SIGMA_PIXELS = 0.55
RARE_PARCELS = 6
QUANTIFICATION = 10_000


@dataclass(frozen=True)
class Acquisition:
    """One overpass: its time, processing baseline and cloud fraction."""

    sensing: datetime
    spacecraft: str
    baseline: str
    offset: int
    cloud_fraction: float
    at_swath_edge: bool

    @property
    def day(self) -> int:
        """Day of the year."""
        return self.sensing.timetuple().tm_yday

    @property
    def sun_angles_deg(self) -> tuple[float, float]:
        """Azimuth and elevation of the sun at 46.6 degrees north, an hour before noon.

        The declination follows Cooper (1969); the rest is spherical trigonometry.
        """
        latitude, hour = np.radians(46.6), np.radians(-18.0)
        declination = np.radians(23.45) * np.sin(2 * np.pi * (284 + self.day) / 365)
        sine = np.sin(latitude) * np.sin(declination)
        sine += np.cos(latitude) * np.cos(declination) * np.cos(hour)
        elevation = np.arcsin(sine)
        east = -np.cos(declination) * np.sin(hour)
        north = np.cos(latitude) * np.sin(declination)
        north -= np.sin(latitude) * np.cos(declination) * np.cos(hour)
        return float(np.degrees(np.arctan2(east, north)) % 360), float(np.degrees(elevation))


@dataclass(frozen=True)
class Scene:
    """The ground of a season: units (background covers, then parcels) and their positions.

    Attributes
    ----------
    grid
        The 10 m grid.
    landscape
        Parcels and background; parcel i is unit ``len(BACKGROUND) + i``.
    stands, palette
        The cover of the units, and its spectra.
    units
        uint16 (2 rows, 2 columns): the unit of every 5 m cell.
    patches
        float32 (rows, columns): variation of growth, with standard deviation 1.
    """

    grid: Grid
    landscape: Landscape
    stands: Stands
    palette: Palette
    units: NDArray[np.uint16]
    patches: Floats

    @property
    def crops(self) -> list[Cover]:
        """The true crop of every parcel."""
        return self.stands.covers[len(BACKGROUND) :]


@dataclass(frozen=True)
class Observation:
    """The image of the sensor, and the truth.

    Attributes
    ----------
    truth
        float32 (10, rows, columns): reflectance at the sensor at 10 m, before noise.
    bands
        Digital numbers by band, uint16 at the band's resolution; 0 is nodata.
    scl
        uint8 (rows / 2, columns / 2): scene classification, with its errors.
    sky
        True clouds and shadows at 10 m.
    """

    truth: Floats
    bands: dict[str, NDArray[np.uint16]]
    scl: NDArray[np.uint8]
    sky: Sky


def draw_scene(size_m: int, parcels: int, rng: np.random.Generator) -> Scene:
    """Draw the ground of a season with `parcels` parcels inside a square of `size_m` metres."""
    pixels = size_m // 10
    grid = Grid(CRS, X_MIN, Y_MAX, 10.0, 10.0, pixels, pixels)
    landscape = draw_landscape(grid.bounds, parcels, rng)
    crops = _draw_crops(len(landscape.parcels), landscape.inside[:parcels], rng)
    stands = draw_stands([*BACKGROUND, *crops], rng)
    patches = fractal_field(grid.shape, 1.2, rng, largest=20)
    return Scene(
        grid, landscape, stands, draw_palette(stands, rng), _paint(landscape, grid), patches
    )


def plan_acquisitions(count: int, year: int, rng: np.random.Generator) -> list[Acquisition]:
    """Choose dates from March to October, their clouds and baselines.

    Both baselines occur in one season, as in an archive that is being reprocessed. One
    acquisition is entirely cloudy, and one is at the edge of the swath.
    """
    overpasses = [datetime(year, 3, 3, 10, 40, 31) + timedelta(days=5 * i) for i in range(49)]
    step = len(overpasses) / count
    chosen = [int(i * step + rng.uniform(0, max(step - 1, 0.01))) for i in range(count)]
    clouds = rng.permutation(0.85 * ((np.arange(count) + 0.5) / count) ** 1.7)
    overcast, at_edge = rng.choice(np.arange(1, count), 2, replace=False)
    clouds[overcast] = 1.0
    reprocessed = rng.permutation(np.arange(count) % 2 == 0)
    return [
        Acquisition(
            sensing=overpasses[k],
            spacecraft="S2A" if k % 2 == 0 else "S2B",
            baseline="05.00" if reprocessed[i] else "03.01",
            offset=-1000 if reprocessed[i] else 0,
            cloud_fraction=float(clouds[i]),
            at_swath_edge=bool(i == at_edge),
        )
        for i, k in enumerate(chosen)
    ]


def observe(scene: Scene, acquisition: Acquisition, rng: np.random.Generator) -> Observation:
    """Return the image of the scene: mixed pixels, atmosphere, clouds, noise, digital numbers."""
    azimuth, elevation = acquisition.sun_angles_deg
    sky = draw_sky(scene.grid.shape, acquisition.cloud_fraction, azimuth, elevation, rng)
    surface = blur(_surface(scene, acquisition.day, rng), BLUR_SIGMA_PIXELS)
    truth = veil(_aerosol(surface, rng), sky)
    truth_20m = block_mean(truth, 2)
    water = block_mean((scene.units == _unit("water")).astype(np.float32), 2 * CELLS_PER_PIXEL)
    scl = classify(truth_20m, coarsen(sky, 2), water > 0.5, rng)
    observed_20m = _swath(scl.shape, acquisition.at_swath_edge, rng)
    scl[~observed_20m] = NO_DATA
    observed_10m = observed_20m.repeat(2, axis=0).repeat(2, axis=1)
    bands = {}
    for k, band in enumerate(BANDS):
        image, observed = (
            (truth[k], observed_10m) if band in BANDS_10M else (truth_20m[k], observed_20m)
        )
        bands[band] = np.where(observed, _digitise(image, acquisition.offset, rng), 0).astype(
            np.uint16
        )
    return Observation(truth, bands, scl, sky)


def _draw_crops(
    parcels: int, registered: NDArray[np.intp], rng: np.random.Generator
) -> list[Cover]:
    """Draw a crop for every parcel by its share, and a rare crop for a few registered parcels."""
    shares = np.array([crop.share for crop in CROPS])
    quota = np.floor(np.cumsum(shares / shares.sum()) * parcels + 1e-9).astype(int)
    order = rng.permutation(np.searchsorted(quota, np.arange(parcels), side="right"))
    crops = [CROPS[min(k, len(CROPS) - 1)] for k in order]
    rare = max(1, min(RARE_PARCELS, len(registered) // 30))
    chosen = rng.choice(registered, rare * len(RARE_CROPS), replace=False)
    for k, parcel in enumerate(chosen):
        crops[parcel] = RARE_CROPS[k % len(RARE_CROPS)]
    return crops


def _unit(name: str) -> int:
    """Return the unit of a background cover."""
    return [cover.name for cover in BACKGROUND].index(name)


def _paint(landscape: Landscape, grid: Grid) -> NDArray[np.uint16]:
    """Rasterise the units to 5 m cells: verges, then the background in its order, then parcels."""
    shapes = [(geometry, _unit(name)) for name, geometry in landscape.background]
    frame, cell_m = box(*grid.bounds), grid.pixel_width / CELLS_PER_PIXEL
    shapes += [
        (parcel, len(BACKGROUND) + i)
        for i, parcel in enumerate(landscape.parcels)
        if parcel.intersects(frame)
    ]
    cells: NDArray[np.uint16] = rasterize(
        shapes,
        out_shape=(grid.height * CELLS_PER_PIXEL, grid.width * CELLS_PER_PIXEL),
        transform=Affine(cell_m, 0, grid.x_min, 0, -cell_m, grid.y_max),
        fill=_unit("verge"),
        dtype="uint16",
    )
    return cells


def _surface(scene: Scene, day: int, rng: np.random.Generator) -> Floats:
    """Return the reflectance of the ground at 10 m, float32 (10, rows, columns)."""
    wetness = rng.uniform(0, 1)
    mean, slope, openness = reflectance(scene.stands, scene.palette, day, wetness)
    rows = scene.stands.column("rows") * openness + 0.01
    at_centre = scene.units[::CELLS_PER_PIXEL, ::CELLS_PER_PIXEL]
    grain = rng.standard_normal(scene.grid.shape, dtype=np.float32)
    vigour = scene.stands.patches[at_centre] * scene.patches + rows[at_centre] * grain
    image = np.empty((len(BANDS), *scene.grid.shape), dtype=np.float32)
    for k in range(len(BANDS)):
        image[k] = block_mean(mean[:, k][scene.units], CELLS_PER_PIXEL)
        image[k] += slope[:, k][at_centre] * vigour
    return np.maximum(image, 0.001)


def _aerosol(surface: Floats, rng: np.random.Generator) -> Floats:
    """Add the errors of an atmospheric correction: a gain, and haze in the blue."""
    gain = rng.normal(1, 0.025) * rng.normal(1, 0.008, len(BANDS)).astype(np.float32)
    scatter = np.array([1.0, 0.75, 0.55, 0.45, 0.35, 0.3, 0.25, 0.25, 0.05, 0.03])
    amount = rng.exponential(0.006) - 0.003
    uneven = 1 + 0.4 * fractal_field(surface.shape[1:], 2.0, rng)
    haze = (scatter[:, None, None] * amount * uneven).astype(np.float32)
    return np.asarray(surface * gain[:, None, None].astype(np.float32) + haze, dtype=np.float32)


def _swath(shape: tuple[int, int], at_edge: bool, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which pixels the swath covers: all, or those to the left of a slanted edge."""
    rows, columns = np.indices(shape)
    edge = shape[1] * rng.uniform(0.55, 0.75) - 0.2 * rows
    return (columns < edge) if at_edge else np.ones(shape, dtype=np.bool_)


def _digitise(image: Floats, offset: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Add sensor noise and quantise; 0 is reserved for nodata.

    DN = reflectance x 10,000 - offset, as reflectance = (DN + offset) / 10,000 in the product
    specification since baseline 04.00.
    """
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    noisy = image + noise * (0.0015 + 0.008 * np.abs(image))
    numbers = np.rint(noisy * QUANTIFICATION) - offset
    return np.asarray(np.clip(numbers, 1, 65_534), dtype=np.uint16)
