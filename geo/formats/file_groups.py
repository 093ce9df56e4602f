"""Which files are one acquisition, or the dates of one series, by the names of the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from geo.errors import InputError
from geo.formats.archives import (
    Convention,
    FileName,
    file_name,
    is_in_band_folder,
    original_stem,
)
from geo.formats.conventions import baseline_in
from geo.formats.file_dates import dates_of
from geo.imagery.imagery_files import image_files
from geo.imagery.raster_header import read_header


@dataclass(frozen=True)
class FileGroup:
    """The files of one acquisition, or of the dates of a series, by their names."""

    files: tuple[FileName, ...]
    day: date | None
    # Among the groups of this folder, day and tile, so that a file has the same if read alone.
    number: int
    # What is wrong with the dates in the names.
    problem: str | None


def names_at(path: Path, convention: Convention | None) -> list[FileName]:
    """Return what the names of the files at a path tell."""
    return named(image_files(path), convention)


def named(files: Sequence[Path], convention: Convention | None) -> list[FileName]:
    """Return what the names of files tell; copies contain nothing if their originals are there."""
    in_band_folder = next(filter(is_in_band_folder, files), None)
    has_bands = in_band_folder is None or not _has_several_layers(in_band_folder)
    names = [file_name(file, convention, band_folders=has_bands) for file in files]
    there = set(files)
    return [
        replace(name, is_beside=True) if original_of(name.path) in there else name for name in names
    ]


def _has_several_layers(path: Path) -> bool:
    """Return whether a file has several bands; what is wrong with it is said when it is read."""
    try:
        return read_header(path).alphas.count(False) > 1
    except InputError:
        return False


def original_of(path: Path) -> Path | None:
    """Return the file that a file is a copy of by its name, None if it is none."""
    original = path.with_name(original_stem(path) + path.suffix)
    return original if original != path else None


def group_files(names: Sequence[FileName]) -> list[FileGroup]:
    """Group files by acquisition, by the names of files and folders."""
    names = [name for name in names if not name.is_beside]
    days, problems = dates_of(names)
    groups: dict[tuple[Path, str, date], list[FileName]] = {}
    for name in names:
        groups.setdefault((*name.group, days.get(name.path, date.min)), []).append(name)
    found = []
    numbers: Counter[tuple[Path, date, str | None]] = Counter()
    # Those with a band in a name come first: an index beside them does not change their numbers.
    in_order = sorted(groups.items(), key=lambda g: (not any(n.band for n in g[1]), g[0]))
    for (_, _, day), members in in_order:
        # The file without a band in its name comes first.
        members.sort(key=lambda name: (name.band is not None, name.path))
        place = members[0].path.parent, day, members[0].tile
        numbers[place] += 1
        day_or_none = None if day == date.min else day
        problem = next((problems[m.path] for m in members if m.path in problems), None)
        found.append(FileGroup(tuple(members), day_or_none, numbers[place], problem))
    return found


def is_one_acquisition(names: Sequence[FileName]) -> bool:
    """Return whether images are of one day, tile and processing: bands, indices, a preview."""
    groups = group_files(names)
    return len({(g.day, g.files[0].tile, baseline_in(g.files[0].path.name)) for g in groups}) == 1
