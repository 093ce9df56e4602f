"""Registers with a row for every reason, and the stages from register to ledger."""

import csv
import json
from dataclasses import asdict

import geopandas as gpd
import pandas as pd
from shapely import GeometryCollection, LineString, MultiPolygon, Point, Polygon, box

from geo.grid import Grid, read_grids
from pipeline.stages.clean import clean
from pipeline.stages.rasterise import rasterise
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.settings import Settings
from tests.builders.runs import for_label, label_parcels, observe

GRID = Grid("EPSG:32631", 500000.0, 4000080.0, 10.0, 10.0, 8, 8)


def pixels(left, top, right, bottom):
    """Make a box from columns and rows of the grid."""
    x, y = GRID.x_min, GRID.y_max
    return box(x + 10 * left, y - 10 * bottom, x + 10 * right, y - 10 * top)


class Run:
    """Run clean, rasterise and label in a folder, and read their tables."""

    def __init__(self, folder, **grids):
        self.folder = folder
        self.grids = folder / "grids.json"
        tiles = {tile: asdict(grid) for tile, grid in (grids or {"31TFM": GRID}).items()}
        self.grids.write_text(json.dumps(tiles))

    def __call__(self, register, folds=2, weights=None, **parcels):
        path = register
        if isinstance(register, pd.DataFrame):
            path = self.folder / "register.parquet"
            register.to_parquet(path)
        self.settings: Settings = load(
            {"split": {"folds": folds}, "parcels": parcels, "predict": {"weights": weights}}
        )
        paths = self.paths = RunPaths(self.folder)
        clean(
            path, self.grids, paths.register, paths.overlaps, paths.parcels,
            view(self.settings, "clean"), *for_label(self.settings),
        )  # fmt: skip
        tiles = list(read_grids(self.grids))
        for tile in tiles:
            rasterise(
                paths.parcels, self.grids, tile, paths.pixel_index(tile), paths.pixel_counts(tile),
                paths.label_image(tile), view(self.settings, "rasterise"),
            )  # fmt: skip
            observe(paths, tile)
        label_parcels(self.settings, paths)
        with paths.ledger.with_suffix(".csv").open(newline="") as file:
            self.ledger = list(csv.DictReader(file))
        self.usable = gpd.read_parquet(paths.parcels / f"{tiles[0]}.parquet")
        self.labels = json.loads(paths.dataset.labels.read_text())
        with paths.class_table.open(newline="") as file:
            self.classes = list(csv.DictReader(file))
        return self

    def column(self, name):
        return [row[name] for row in self.ledger]


def frame(geometries, crs=GRID.crs, **columns):
    return gpd.GeoDataFrame(columns, geometry=list(geometries), crs=crs)


def simple(codes, **columns):
    """Make a register of parcels of two pixels each, four in a row of the grid."""
    geometries = [
        pixels(2 * (i % 4), i // 4, 2 * (i % 4) + 2, i // 4 + 1) for i in range(len(codes))
    ]
    ids = [f"p{i}" for i in range(len(codes))]
    return frame(geometries, ID_PARCEL=ids, CODE=codes, **columns)


BOW_TIE = Polygon(
    [(500000, 4000000), (500020, 4000020), (500020, 4000000), (500000, 4000020), (500000, 4000000)]
)
# fmt: off
LINE = LineString([(500000, 4000000), (500010, 4000010)])
COLLAPSED = Polygon([(500000, 4000000), (500010, 4000010), (500020, 4000020)])
WITH_POINT = GeometryCollection([pixels(3, 3, 4, 4), Point(500000, 4000000)])
TWO_PARTS = MultiPolygon([pixels(4, 4, 5, 5), pixels(6, 4, 8, 5)])
WITH_HOLE = pixels(4, 5, 7, 8) - pixels(5, 6, 6, 7)
ROWS = [
    # geometry, id, code; expected: status, reason, mended, tile, n_pixels
    (pixels(0, 0, 2, 2), 1, "A", "used", "", False, "31TFM", 4),
    (pixels(1, 1, 3, 3), 2, "A", "used", "", False, "31TFM", 4),  # shares a pixel with id 1
    (pixels(4, 0, 6, 2), 3, "B", "used", "", False, "31TFM", 4),
    (pixels(6, 0, 8, 2), 4, "B", "used", "", False, "31TFM", 4),
    (BOW_TIE, 5, "A", "used", "", True, "31TFM", 2),
    (WITH_POINT, 6, "A", "used", "", True, "31TFM", 1),
    (TWO_PARTS, 7, "B", "used", "", False, "31TFM", 3),
    (WITH_HOLE, 8, "B", "used", "", False, "31TFM", 8),
    (None, 9, "A", "rejected", "null_geometry", False, "", ""),
    (Polygon(), 10, "A", "rejected", "empty_geometry", False, "", ""),
    (LINE, 11, "A", "rejected", "not_a_polygon", False, "", ""),
    (COLLAPSED, 12, "A", "rejected", "invalid_geometry", False, "", ""),
    (pixels(0, 4, 2, 5), None, "A", "rejected", "missing_id", False, "31TFM", 2),
    (pixels(0, 4, 2, 5), 1, "A", "rejected", "duplicate_id", False, "31TFM", 2),
    (pixels(20, 0, 22, 2), 13, "A", "rejected", "outside_imagery", False, "", 0),
    (pixels(7, 2, 10, 4), 14, "A", "rejected", "partly_outside", False, "31TFM", 2),
    (pixels(0.1, 6.1, 0.4, 6.4), 15, "A", "rejected", "too_few_pixels", False, "31TFM", 0),
    (pixels(0, 6, 1, 7), 16, None, "predict_only", "no_label", False, "31TFM", 1),
    (pixels(0, 7, 1, 8), 17, "  ", "predict_only", "no_label", False, "31TFM", 1),
    (pixels(1, 7, 2, 8), 18, "C", "predict_only", "class_too_rare", False, "31TFM", 1),
    (pixels(2, 7, 3, 8), 9, "B ", "used", "", False, "31TFM", 1),  # the first id 9 has no polygon
]
# fmt: on


def every_reason(crs=GRID.crs):
    geometries, ids, codes = zip(*(row[:3] for row in ROWS), strict=True)
    return frame(geometries, ID_PARCEL=ids, CODE=codes).to_crs(crs)
