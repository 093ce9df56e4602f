"""The inputs of a run in words: acquisitions, parcels, classes, and sizes on disk."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

import pandas as pd

from geo.grid import Grid
from geo.imagery.acquisition import Acquisition, first_five
from pipeline.classes.crop_class import CropClass
from pipeline.classes.reasons import AcquisitionReason, ClassReason, Reason, Status
from pipeline.dataset.passes import NOTE, Track
from pipeline.workflow.acquisition_table import AcquisitionRow
from pipeline.workflow.rounding import rounded

# At most so many of the classes that are not trained on are listed.
MOST_CLASSES = 12
# At most so many dates without an acquisition are listed for one orbit.
MOST_DATES = 60
# Header of a .npy file.
HEADER_BYTES = 128


def imagery_section(
    source: object,
    found: Sequence[Acquisition],
    rows: Sequence[AcquisitionRow],
    grids: Mapping[str, Grid],
    tracks: Sequence[Track],
) -> str:
    """Return the section on the acquisitions: those used, why others are not, and their content.

    Parameters
    ----------
    source
        Path or address of the imagery.
    found, rows, grids
        The decision on the acquisitions.
    tracks
        The passes of the satellites over the tiles.
    """
    used = [row for row in rows if row.used]
    lines = [
        f"{source}, {', '.join(sorted({row.format for row in rows}))}",
        f"{len(rows)} acquisitions, {len(used)} to use",
        *_set_aside_lines(rows),
        *_unknown_clouds_lines(used),
        "",
        *_tile_lines(used, grids),
        "",
        *passes_lines(tracks),
        *aligned(
            [
                *_frequency_rows("baseline", map(_processing_text, used)),
                *_frequency_rows("masks", (row.masks or "none" for row in used)),
                *_frequency_rows("bands", _bands_texts({row.acquisition for row in used}, found)),
            ]
        ),
    ]
    return section("Imagery", lines)


def parcels_section(register: object, rows: pd.DataFrame, crs: Any) -> str:
    """Return the section on the parcels: how many are used, why others are not, and their tiles.

    Parameters
    ----------
    register
        Path of the register.
    rows
        Rows of the ledger: status, reason, tile, n_pixels.
    crs
        Coordinate system of the register.
    """
    lines = [f"{register}, {len(rows):,} rows, {_crs_text(crs)}", *status_lines(rows)]
    lines += ["", *_overlap_lines(rows), ""]
    table = [("tile", "parcels", "pixels", "pixels a parcel, median")]
    for tile, of_tile in accepted(rows).groupby("tile"):
        n_pixels = of_tile["n_pixels"]
        counts = (f"{len(of_tile):,}", f"{n_pixels.sum():,}", f"{n_pixels.median():,.0f}")
        table.append((str(tile), *counts))
    return section("Parcels", [*lines, *aligned(table)])


def accepted(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the ledger that are used or predicted."""
    return rows[rows["status"] != Status.REJECTED]


def classes_section(nomenclature: str | None, classes: Sequence[CropClass]) -> str:
    """Return the section on the classes: those that are trained on, the largest of the others."""
    if nomenclature is None:
        return section("Classes", ["none: parcels.labels names no column"])
    used = [c for c in classes if c.class_index is not None]
    others = sorted((c for c in classes if c.class_index is None), key=lambda c: -c.n_parcels)
    reasons = Counter(ClassReason(c.reason).words for c in others)
    why = "; ".join(f"{n} {reason}" for reason, n in reasons.items())
    lines = [f"{nomenclature}: {len(used)} to train on, {len(others)} not ({why or 'none'})"]
    table = [("index", "code", "name", "parcels")]
    for c in [*used, *others[:MOST_CLASSES]]:
        index = "-" if c.class_index is None else str(c.class_index)
        table.append((index, str(c.code), c.name, f"{c.n_parcels:,}"))
    more = len(others) - MOST_CLASSES
    rest = [f"... and {more} more that are not trained on"] if more > 0 else []
    return section("Classes", [*lines, "", *aligned(table), *rest])


def expected_bytes(
    acquisitions: Sequence[AcquisitionRow], parcels: pd.DataFrame, n_bands: int, *, npy_files: bool
) -> dict[str, int]:
    """Compute the sizes of the arrays of a run on disk.

    Pixels that are clear on no date are extracted, but are not in the dataset: it can be smaller.

    Parameters
    ----------
    acquisitions
        Acquisitions, used or not.
    parcels
        The parcels that are used or predicted: tile, n_pixels.
    n_bands
        Channels of the dataset.
    npy_files
        Whether DATA and VALID are written.
    """
    n_pixels = {
        str(tile): int(of_tile.sum()) for tile, of_tile in parcels.groupby("tile")["n_pixels"]
    }
    used = [row for row in acquisitions if row.used and row.tile in n_pixels]
    n_dates = Counter(tile for tile, _ in {(row.tile, row.date) for row in used})
    n_observations = sum(n_dates[tile] * n for tile, n in n_pixels.items())
    # Two bytes for each band and one for clear or not; an .npy file for each of these.
    bytes_each = 2 * n_bands + 1
    extracted = sum(n_pixels[row.tile] * bytes_each + 2 * HEADER_BYTES for row in used)
    packed = n_observations * bytes_each + 2 * HEADER_BYTES * len(n_pixels)
    headers = HEADER_BYTES * len(parcels)
    return {
        "pixels by acquisition": extracted,
        "dataset/DATA": npy_files * (2 * n_bands * n_observations + headers),
        "dataset/VALID": npy_files * (n_observations + headers),
        "dataset/tiles": packed,
    }


def sizes_section(sizes: Mapping[str, int], free_bytes: int, *, at_most: bool) -> str:
    """Return the section on the sizes of the arrays and the free space on the disk."""
    note = "at most: less if dates turn out to be too cloudy" if at_most else ""
    rows = [(name, bytes_text(size), "") for name, size in sizes.items()]
    rows.append(("together", bytes_text(sum(sizes.values())), note))
    rows.append(("free there", bytes_text(free_bytes), ""))
    return section("On disk", aligned(rows, right=1))


def bytes_text(n_bytes: float) -> str:
    """Return a number of bytes in B, kB, MB, GB or TB."""
    units = ("B", "kB", "MB", "GB", "TB")
    power = min(len(units) - 1, max(0, int(math.log10(max(n_bytes, 1) * 1.0005) // 3)))
    value = n_bytes / 1000**power
    return f"{value:.{0 if power == 0 or value >= 9.95 else 1}f} {units[power]}"


def status_lines(rows: pd.DataFrame) -> list[str]:
    """Return the number of rows of the ledger with each status, and with each of its reasons."""
    lines = []
    for status in Status:
        chosen = rows[rows["status"] == status]
        lines.append(_count_line(len(chosen), status))
        reasons = chosen.loc[chosen["reason"] != "", "reason"].value_counts()
        lines += [f"{'':8}{_count_line(n, Reason(str(r)).words)}" for r, n in reasons.items()]
    return lines


def _count_line(n: int, text: str) -> str:
    """Return a number and what it counts."""
    return f"{n:9,} {text}"


def _set_aside_lines(rows: Sequence[AcquisitionRow]) -> list[str]:
    """Return the acquisitions that are not used, a line for each reason."""
    ids: dict[str, list[str]] = {}
    for row in rows:
        if not row.used:
            ids.setdefault(AcquisitionReason(row.reason).words, []).append(row.acquisition)
    return [
        _count_line(len(names), f"set aside, {reason}: {first_five(names)}")
        for reason, names in ids.items()
    ]


def _unknown_clouds_lines(used: Sequence[AcquisitionRow]) -> list[str]:
    """Return how many acquisitions have no cloud cover in their metadata, or no mask."""
    counts = {
        "have no cloud cover in their metadata: the run reads their masks and may set some aside": (
            sum(map(clouds_unread, used))
        ),
        "have no cloud mask: all their pixels count as clear": sum(not row.masks for row in used),
    }
    return [_count_line(n, text) for text, n in counts.items() if n]


def clouds_unread(row: AcquisitionRow) -> bool:
    """Return whether the run must read the masks of an acquisition to decide on its use."""
    return row.used and row.cloud_fraction is None and row.masks != ""


def _tile_lines(used: Sequence[AcquisitionRow], grids: Mapping[str, Grid]) -> list[str]:
    """Return a table of the tiles with their dates and grids."""
    table = [("tile", "dates", "first", "last", "system", "grid")]
    for tile, grid in grids.items():
        dates = sorted({row.date for row in used if row.tile == tile})
        if dates:
            pixels = f"{grid.width} x {grid.height} of {_pixel_text(grid)}"
            first, last = (day.isoformat() for day in (dates[0], dates[-1]))
            table.append((tile, str(len(dates)), first, last, _crs_text(grid.crs), pixels))
    return aligned(table)


def passes_lines(tracks: Sequence[Track]) -> list[str]:
    """Return which passes of the satellites have an acquisition, and the dates of the others.

    A blank line follows, if there is any pass.
    """
    lines = []
    for track in tracks:
        orbit = " by an orbit" if track.orbit is None else f" by orbit R{track.orbit:03}"
        if track.expected:
            n = len(track.expected) - len(track.missing)
            lines.append(
                f"{track.tile} is passed{orbit} every {track.every_days} days: acquisitions on {n} "
                f"of {len(track.expected)} dates from {track.expected[0]} to {track.expected[-1]}"
            )
            lines += _dates_lines(track.missing)
        elif track.orbit is not None:
            lines.append(f"{track.tile} was passed{orbit} on {track.first} only: not compared")
    if any(track.missing for track in tracks):
        lines.append(NOTE)
    return [*lines, ""] if lines else []


def _dates_lines(missing: Sequence[date]) -> list[str]:
    """Return the dates of passes without an acquisition, in lines of the usual width."""
    if not missing:
        return []
    shown = ", ".join(str(day) for day in missing[:MOST_DATES])
    more = len(missing) - MOST_DATES
    text = f"no acquisition for {shown}" + (f", ... and {more} more" if more > 0 else "")
    return textwrap.wrap(text, 96, initial_indent=" " * 8, subsequent_indent=" " * 8)


def _bands_texts(used: set[str], found: Sequence[Acquisition]) -> list[str]:
    """Return the bands of every used acquisition, by pixel size."""
    texts = []
    for item in found:
        if item.id in used:
            names: dict[str, list[str]] = {}
            for band in item.bands.values():
                names.setdefault(_pixel_text(band.grid), []).append(band.name)
            texts.append("; ".join(f"{size} {' '.join(n)}" for size, n in sorted(names.items())))
    return texts


def _overlap_lines(rows: pd.DataFrame) -> list[str]:
    """Return how many of the parcels with an outline are on the imagery; nothing without any."""
    placed = rows[rows["n_pixels"].notna()]
    if placed.empty:
        return []
    n_on = (placed["tile"] != "").sum()
    n_across = (placed["reason"] == Reason.PARTLY_OUTSIDE).sum()
    share = rounded(100 * n_on / len(placed), 1, 100)
    line = f"{n_on:,} of {len(placed):,} outlines ({share} %) are on the imagery"
    return [f"{line}, {n_across:,} of them across its edge and set aside" if n_across else line]


def _processing_text(row: AcquisitionRow) -> str:
    """Return the platform, processing baseline and offset of an acquisition."""
    parts = [row.platform, row.baseline or "not stated", f"offset {row.offset}"]
    return ", ".join(part for part in parts if part)


def _frequency_rows(title: str, texts: Iterable[str]) -> list[tuple[str, str]]:
    """Return the different texts with their frequency, most frequent first; the first is titled."""
    return [
        ("" if i else title, f"{text} ({n})")
        for i, (text, n) in enumerate(Counter(texts).most_common())
    ]


def _pixel_text(grid: Grid) -> str:
    """Return the size of a pixel."""
    if grid.pixel_width == grid.pixel_height:
        return f"{grid.pixel_width:g} m"
    return f"{grid.pixel_width:.4g} x {grid.pixel_height:.4g} m"


def _crs_text(crs: Any) -> str:
    """Return the code of a coordinate system, such as EPSG:32631, or else its name."""
    from pyproj import CRS

    code = CRS(crs).to_authority()
    return ":".join(code) if code else CRS(crs).name


def aligned(rows: Sequence[tuple[str, ...]], right: int | None = None) -> list[str]:
    """Return the rows of a table as lines; the cells of one column can be aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i == right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def section(title: str, lines: Iterable[str]) -> str:
    """Return a title with indented lines below it."""
    body = "\n".join(f"  {line}".rstrip() for line in lines)
    return f"{title}\n{body}\n\n"
