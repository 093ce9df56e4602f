"""Two overlapping tiles of two UTM zones, on both sides of six degrees east, with parcels."""

from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import numpy as np
from shapely import MultiPolygon, box, force_3d

from tests.builders.safe import RESOLUTION_M, SafeProduct, write_image, write_safe

WEST, EAST = "31UGS", "32ULB"
# Left edges of two grids of 600 m that overlap by about 300 m: at six degrees east and 5,600 km
# north, the eastings of the two zones add up to 1,000 km.
X_MIN = {WEST: 712_250, EAST: 287_150}
BANDS = ("B02", "B8A", "B09", "SCL")  # of 10, 20 and 60 m
DAYS = {WEST: ("03", "13", "23"), EAST: ("05", "10", "13", "18", "28")}
# Baseline and announced offsets by day; other days have baseline 04.00 without an offset.
BASELINES = {
    "03": ("02.09", None),
    "13": ("04.00", -1000),
    "28": ("05.09", {"1": -900, "8": -1000, "9": -1100}),
}
# Columns of the two halves of the west tile on the 13th, by data strip.
HALVES = {"20220413T104000": slice(0, 40), "20220413T105500": slice(36, 60)}


COLUMNS = {"ID_PARCEL": "n° d'îlot", "CODE": "culture déclarée"}


@dataclass
class Scene:
    """The folder of the scene, and the products that are used, in the order of merging."""

    folder: Path
    used: dict[tuple[str, int], list[SafeProduct]] = field(default_factory=dict)

    @property
    def imagery(self):
        return self.folder / "imagery"

    @property
    def register(self):
        return self.folder / "register.gpkg"


def write_scene(folder) -> Scene:
    rng = np.random.default_rng(4)
    scene = Scene(folder)
    for tile, days in DAYS.items():
        for day in days:
            if (tile, day) == (WEST, "13"):
                continue
            # One product is a clip: the tile's grid is the union.
            size = 36 if (tile, day) == (WEST, "23") else 60
            scene.used[tile, 20220400 + int(day)] = [write_day(scene, rng, tile, day, size=size)]
    elder = write_half(scene, rng, "20220413T104000", "2022-04-13T15:00:00Z")
    large = write_half(scene, rng, "20220413T104000", "2022-05-13T15:00:00Z")
    small = write_half(scene, rng, "20220413T105500", "2022-04-13T15:00:00Z")
    assert elder.path != large.path
    scene.used[WEST, 20220413] = [large, small]
    register().to_file(scene.register)
    return scene


def write_day(scene, rng, tile, day, **options):
    baseline, offsets = BASELINES.get(day, ("04.00", 0))
    return write_safe(
        scene.imagery, rng, tile=tile, sensed=f"202204{day}T105031", x_min=X_MIN[tile], bands=BANDS,
        baseline=baseline, offsets=offsets, **options,
    )  # fmt: skip


def write_half(scene, rng, datastrip, generated):
    """Write one half of the west tile on the 13th; pixels outside its data strip are nodata."""
    columns = HALVES[datastrip]
    share = (columns.stop - columns.start) / 60
    product = write_safe(
        scene.imagery, rng, tile=WEST, sensed="20220413T105031", x_min=X_MIN[WEST], bands=BANDS,
        datastrip=datastrip, generated=generated, no_data=100 * (1 - share),
        name=f"S2A_{datastrip}_{generated[:10]}.SAFE", offsets=BASELINES["13"][1],
    )  # fmt: skip
    for band, values in product.pixels.items():
        step = RESOLUTION_M[band] // 10
        covered = np.zeros(values.shape[1], bool)
        covered[columns.start // step : columns.stop // step] = True
        values[:, ~covered] = 0
        (path,) = product.path.rglob(f"*_{band}_{10 * step}m.jp2")
        write_image(path, values, WEST, 10 * step, X_MIN[WEST])
    return product


def parcels():
    """Return parcels of 50 m in rows over both tiles and beyond, of two classes, in degrees.

    Every seventh parcel has a hole and a second part.
    """
    left = X_MIN[WEST] - 60
    corners = [
        (x, y) for y in range(5_599_340, 5_600_000, 90) for x in range(left, left + 1100, 62)
    ]
    outlines = [
        in_two_parts(x, y) if i % 7 == 0 else box(x, y, x + 50, y + 50)
        for i, (x, y) in enumerate(corners)
    ]
    ids = [f"p{i:03}" for i in range(len(corners))]
    codes = ["ABB"[i % 3] for i in range(len(corners))]
    table = gpd.GeoDataFrame({"ID_PARCEL": ids, "CODE": codes}, geometry=outlines, crs="EPSG:32631")
    return table.to_crs("EPSG:4326")


def in_two_parts(x, y):
    large = box(x, y, x + 50, y + 50).difference(box(x + 12, y + 12, x + 34, y + 34))
    return MultiPolygon([large, box(x + 10, y + 60, x + 40, y + 76)])


def register():
    """Return the parcels as a register with heights, and with accents and spaces in its columns."""
    table = parcels()
    return table.set_geometry(force_3d(table.geometry, 12.5)).rename(columns=COLUMNS)
