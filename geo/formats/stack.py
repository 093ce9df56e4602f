"""Stacks: NetCDF files and Zarr folders, with times, bands and resolutions in many layouts.

Several files (or groups of a file) that hold the same times are the resolutions of one stack; files
of other times are other stacks.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from geo.errors import InputError
from geo.formats import eopf
from geo.formats.conventions import bands_and_masks, finest, stack_files
from geo.formats.stack_file import StackPart, read_parts
from geo.imagery.acquisition import UNNAMED_TILE, Acquisition, Damaged, first_five

# Parts with the same times.
Stack = list[StackPart]


def find(
    path: Path,
    bands: Sequence[str] | None,
    reflectance_scale: float | None,
    damaged: list[Damaged] | None,
) -> list[Acquisition]:
    """Find the times of stacks; see `geo.imagery.discovery.find_acquisitions`."""
    files = stack_files(path)
    products = [file for file in files if eopf.is_product(file)]
    if len(products) == len(files) > 0:
        return eopf.read_products(products, bands, reflectance_scale, damaged)
    if products:
        raise InputError(
            f"{path} mixes {len(products)} products of EOPF with {len(files) - len(products)} "
            f"other stacks: keep one kind in a folder. Products: "
            f"{first_five([product.name for product in products])}."
        )
    parts = [part for file in files for part in read_parts(file, reflectance_scale)]
    if not parts:
        raise InputError(
            f"There is no stack in {path}: none of {len(files)} NetCDF files and Zarr folders has "
            "a variable B01 to B12, B8A or SCL, nor one with a band axis labelled so."
        )
    return [item for stack in _join(parts) for item in _acquisitions(path, stack, bands)]


def _join(parts: Sequence[StackPart]) -> list[Stack]:
    """Join the parts with the same times; no time of a tile may be in two stacks."""
    named = {part.tile for part in parts} - {UNNAMED_TILE}
    only = named.pop() if len(named) == 1 else UNNAMED_TILE
    stacks: dict[tuple[str, bytes], Stack] = {}
    owners: dict[tuple[str, datetime.datetime], StackPart] = {}
    for part in parts:
        tile = only if part.tile == UNNAMED_TILE else part.tile
        stacks.setdefault((tile, part.times.tobytes()), []).append(replace(part, tile=tile))
        for time in part.times.tolist():
            other = owners.setdefault((tile, time), part)
            if not np.array_equal(part.times, other.times):
                differing = np.setxor1d(part.times, other.times)[:5]
                raise InputError(
                    f"The files of a stack must hold the same times: {other.path} has "
                    f"{len(other.times)}, {part.path} {len(part.times)}; only in one of them: "
                    f"{', '.join(map(str, differing))}. Keep one stack a folder."
                )
    return list(stacks.values())


def _acquisitions(path: Path, stack: Stack, wanted: Sequence[str] | None) -> Iterator[Acquisition]:
    """Make the acquisition of every time of a stack."""
    paths = {part.path for part in stack}
    product = stack[0].path if len(paths) == 1 else path
    for index, sensed in enumerate(stack[0].times.tolist()):
        layers = finest(band for part in stack for band in part.at(index).values())
        bands, masks = bands_and_masks(layers, wanted)
        yield Acquisition(
            id=f"{sensed:%Y%m%d}_{stack[0].tile}",
            tile=stack[0].tile,
            date=sensed.date(),
            product=product,
            format="stack",
            baseline=None,
            platform=None,
            cloud_fraction=None,
            bands=bands,
            masks=masks,
            sensed=sensed,
        )
