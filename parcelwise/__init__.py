"""Parcelwise in Python: the names for notebooks and scripts, each imported when it is first used.

- `extract`: the parcels' pixels from imagery, as a dataset of arrays.
- `PixelSetDataset`, `pad`: a dataset on disk, also for a `DataLoader` of torch.
- `CropModel`: the trained models of a fold, which predict classes and probabilities.
- `find_acquisitions`: the acquisitions of imagery; `Acquisition.to_xarray` opens one lazily.

Neither torch nor GDAL is imported before a name needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geo.imagery.acquisition import Acquisition
    from geo.imagery.discovery import find_acquisitions
    from models.crop_model import CropModel
    from parcelwise.extraction import extract
    from pipeline.dataset.pixel_set_dataset import PixelSetDataset, pad

__all__ = ["Acquisition", "CropModel", "PixelSetDataset", "extract", "find_acquisitions", "pad"]

_MODULES = {
    "Acquisition": "geo.imagery.acquisition",
    "CropModel": "models.crop_model",
    "PixelSetDataset": "pipeline.dataset.pixel_set_dataset",
    "extract": "parcelwise.extraction",
    "find_acquisitions": "geo.imagery.discovery",
    "pad": "pipeline.dataset.pixel_set_dataset",
}


def __getattr__(name: str) -> Any:
    """Import a name of `__all__` from its module (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
