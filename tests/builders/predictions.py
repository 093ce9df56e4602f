"""Files of predictions, written from rows that a test made."""

from collections import Counter
from datetime import date

from geo.register.geopackage import outline_types
from pipeline.predictions.files import PredictionFiles

CLASSES = {"1": ("wheat", "#e69f00"), "2": ("maize", "#56b4e9")}
LAST_DATE = date(2018, 9, 30)


def write_predictions(folder, parts, classes=CLASSES, **options):
    """Write parts of predictions, GeoDataFrames; return the path of the GeoPackage."""
    path = folder / "parcels.gpkg"
    kinds = Counter(kind for part in parts for kind in outline_types(part.geometry))
    with PredictionFiles(path) as files:
        files.add_layers(
            {kind: n for kind, n in kinds.items() if kind},
            classes=classes,
            last_date=LAST_DATE,
            **{"collection": "demo", "code_list": None, "simulated": False} | options,
        )
        for part in parts:
            files.add(part)
    return path
