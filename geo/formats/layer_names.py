"""What names the layers of a file: its name, its descriptions, settings, or its convention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from geo.formats.archives import Convention, FileName, part_for_band
from geo.formats.conventions import numbered_band
from geo.formats.dates import day_or_period_in
from geo.imagery.raster_header import RasterHeader


def layer_texts(
    name: FileName, header: RasterHeader, file_bands: Sequence[str] | None
) -> list[str | None]:
    """Return the texts that name the layers of a file, None for layers without a name.

    A single layer is named by its file, unless its description is the number of a band. The dates
    of one band are described by dates only. Several layers are named by their descriptions, by
    `file_bands`, or by the convention of their archive. Alpha bands are not counted, unless
    `file_bands` names every layer.
    """
    convention, alphas = name.convention, header.alphas
    n = alphas.count(False)
    described = [_described(text, convention) for text in header.descriptions]
    days = [day_or_period_in(text, convention.period) for text in header.descriptions]
    is_dated = not any(described) and all(days)
    if name.band is not None and convention.layer(name.band) is not None:
        has_number = any(text is not None and numbered_band(text) for text in described)
        if is_dated or (n == 1 and (convention.is_complete or not has_number)):
            return [None if alpha else name.band for alpha in alphas]
    of_archive = next((layers for layers in convention.layers if len(layers) == n), None)
    if any(described) and (of_archive is None or all(described)):
        return described
    if file_bands is not None and len(file_bands) == len(alphas):
        return list(file_bands)
    in_order = file_bands if file_bands is not None and len(file_bands) == n else of_archive
    texts = iter(in_order or ())
    return [None if alpha else next(texts, None) for alpha in alphas]


def _described(text: str, convention: Convention) -> str | None:
    """Return the part of a layer's description that names a band or mask, or None.

    It is at the start, or, as in series of Earth Engine, anywhere beside a date:
    20180105T105431_20180105T105430_T31UES_B4.
    """
    if convention.layer(text) is not None:
        return text
    if day_or_period_in(text, convention.period) is None:
        return None
    return part_for_band(replace(convention, band=None, is_complete=False), text)[0]


def is_preview(text: str, header: RasterHeader, at: int, reflectance_scale: float | None) -> bool:
    """Return whether a layer is a colour of an image for people: bytes, and no number of a band."""
    is_byte = np.dtype(header.dtypes[at]).itemsize == 1
    is_unscaled = header.scales[at] == 1 and reflectance_scale is None
    return text.lower() in ("red", "green", "blue") and is_byte and is_unscaled
