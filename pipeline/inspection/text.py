"""The inputs of a run in words: acquisitions, parcels, classes, and sizes on disk."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from geo.grid import Grid
from geo.imagery.acquisition import Acquisition, first_five
from pipeline.classes.crop_class import CropClass
from pipeline.classes.reasons import AcquisitionReason, ClassReason, Reason, Status
from pipeline.workflow.acquisition_table import AcquisitionRow
from pipeline.workflow.rounding import rounded

# At most so many of the classes that are not trained on are listed.
MOST_CLASSES = 12
# Header of a .npy file.
HEADER_BYTES = 128


def say_imagery(
    source: object,
    found: Sequence[Acquisition],
    rows: Sequence[AcquisitionRow],
    grids: Mapping[str, Grid],
) -> str:
    """Describe the acquisitions: how many are used, why others are not, and what they contain."""
    used = [row for row in rows if row.used]
    lines = [
        f"{source}, {', '.join(sorted({row.format for row in rows}))}",
        f"{len(rows)} acquisitions, {len(used)} to use",
        *_say_set_aside(rows),
        *_say_unknown_clouds(used),
        "",
        *_say_tiles(used, grids),
        "",
        *_counted("baseline", map(_say_processing, used)),
        *_counted("masks", (row.masks or "none" for row in used)),
        *_say_bands({row.acquisition for row in used}, found),
    ]
    return section("Imagery", lines)


def say_parcels(register: object, rows: pd.DataFrame, crs: Any) -> str:
    """Describe the parcels: how many are used, why others are not, and on which tile they are.

    Parameters
    ----------
    register
        Path of the register.
    rows
        Rows of the ledger: status, reason, tile, n_pixels.
    crs
        Coordinate system of the register.
    """
    lines = [f"{register}, {len(rows):,} rows, {_short(crs)}", *say_statuses(rows)]
    lines += ["", *_say_overlap(rows), ""]
    table = [("tile", "parcels", "pixels", "pixels a parcel, median")]
    for tile, of_tile in accepted(rows).groupby("tile"):
        n_pixels = of_tile["n_pixels"]
        counts = (f"{len(of_tile):,}", f"{n_pixels.sum():,}", f"{n_pixels.median():,.0f}")
        table.append((str(tile), *counts))
    return section("Parcels", [*lines, *_columns(table)])


def accepted(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the ledger that are used or predicted."""
    return rows[rows["status"] != Status.REJECTED]


def say_classes(nomenclature: str | None, classes: Sequence[CropClass]) -> str:
    """List the classes that are trained on, and the largest of the others."""
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
    return section("Classes", [*lines, "", *_columns(table), *rest])


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


def say_sizes(sizes: Mapping[str, int], free_bytes: int, *, at_most: bool) -> str:
    """List the sizes of the arrays and the free space on the disk."""
    lines = [f"{name:24}{say_bytes(size):>9}" for name, size in sizes.items()]
    lines.append(f"{'together':24}{say_bytes(sum(sizes.values())):>9}")
    if at_most:
        lines[-1] += "  at most: less if dates turn out to be too cloudy"
    return section("On disk", [*lines, f"{'free there':24}{say_bytes(free_bytes):>9}"])


def say_bytes(n_bytes: float) -> str:
    """Write a number of bytes in B, kB, MB, GB or TB."""
    units = ("B", "kB", "MB", "GB", "TB")
    power = min(len(units) - 1, max(0, int(math.log10(max(n_bytes, 1) * 1.0005) // 3)))
    value = n_bytes / 1000**power
    return f"{value:.{0 if power == 0 or value >= 9.95 else 1}f} {units[power]}"


def say_statuses(rows: pd.DataFrame) -> list[str]:
    """Count the rows of the ledger by status and reason."""
    lines = []
    for status in Status:
        chosen = rows[rows["status"] == status]
        lines.append(f"{len(chosen):9,} {status}")
        reasons = chosen.loc[chosen["reason"] != "", "reason"].value_counts()
        lines += [f"{n:17,} {Reason(str(r)).words}" for r, n in reasons.items()]
    return lines


def _say_set_aside(rows: Sequence[AcquisitionRow]) -> list[str]:
    """List the acquisitions that are not used, by reason."""
    ids: dict[str, list[str]] = {}
    for row in rows:
        if not row.used:
            ids.setdefault(AcquisitionReason(row.reason).words, []).append(row.acquisition)
    return [
        f"{len(names):9} set aside, {reason}: {first_five(names)}" for reason, names in ids.items()
    ]


def _say_unknown_clouds(used: Sequence[AcquisitionRow]) -> list[str]:
    """Count the acquisitions whose cloud cover is not in the metadata, or without a mask."""
    counts = {
        "have no cloud cover in their metadata: the run reads their masks and may set some aside": (
            sum(map(clouds_unread, used))
        ),
        "have no cloud mask: all their pixels count as clear": sum(not row.masks for row in used),
    }
    return [f"{count:9} {text}" for text, count in counts.items() if count]


def clouds_unread(row: AcquisitionRow) -> bool:
    """Return whether the run must read the masks of an acquisition to decide on its use."""
    return row.used and row.cloud_fraction is None and row.masks != ""


def _say_tiles(used: Sequence[AcquisitionRow], grids: Mapping[str, Grid]) -> list[str]:
    """List the tiles with their dates and grids."""
    table = [("tile", "dates", "first", "last", "system", "grid")]
    for tile, grid in grids.items():
        dates = sorted({row.date for row in used if row.tile == tile})
        if dates:
            pixels = f"{grid.width} x {grid.height} of {_say_pixel(grid)}"
            first, last = (day.isoformat() for day in (dates[0], dates[-1]))
            table.append((tile, str(len(dates)), first, last, _short(grid.crs), pixels))
    return _columns(table)


def _say_bands(used: set[str], found: Sequence[Acquisition]) -> list[str]:
    """List the bands by pixel size, and count the acquisitions with the same list."""
    texts = []
    for item in found:
        if item.id in used:
            names: dict[str, list[str]] = {}
            for band in item.bands.values():
                names.setdefault(_say_pixel(band.grid), []).append(band.name)
            texts.append("; ".join(f"{size} {' '.join(n)}" for size, n in sorted(names.items())))
    return _counted("bands", texts)


def _say_overlap(rows: pd.DataFrame) -> list[str]:
    """Count the parcels with an outline that are on the imagery."""
    placed = rows[rows["n_pixels"].notna()]
    if placed.empty:
        return []
    n_on = (placed["tile"] != "").sum()
    n_across = (placed["reason"] == Reason.PARTLY_OUTSIDE).sum()
    share = rounded(100 * n_on / len(placed), 1, 100)
    line = f"{n_on:,} of {len(placed):,} outlines ({share} %) are on the imagery"
    return [f"{line}, {n_across:,} of them across its edge and set aside" if n_across else line]


def _say_processing(row: AcquisitionRow) -> str:
    """Name the platform, processing baseline and offset of an acquisition."""
    parts = [row.platform, row.baseline or "not stated", f"offset {row.offset}"]
    return ", ".join(part for part in parts if part)


def _counted(title: str, texts: Iterable[str]) -> list[str]:
    """List texts with their number of occurrences, the most frequent first."""
    lines = [f"{text} ({n})" for text, n in Counter(texts).most_common()]
    return [f"{title if i == 0 else '':10}{line}" for i, line in enumerate(lines)]


def _say_pixel(grid: Grid) -> str:
    """Write the size of a pixel."""
    if grid.pixel_width == grid.pixel_height:
        return f"{grid.pixel_width:g} m"
    return f"{grid.pixel_width:.4g} x {grid.pixel_height:.4g} m"


def _short(crs: Any) -> str:
    """Return the code of a coordinate system, such as EPSG:32631, or else its name."""
    from pyproj import CRS

    code = CRS(crs).to_authority()
    return ":".join(code) if code else CRS(crs).name


def _columns(table: Sequence[tuple[str, ...]]) -> list[str]:
    """Align the cells of a table."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def section(title: str, lines: Iterable[str]) -> str:
    """Write a title with indented lines below it."""
    body = "\n".join(f"  {line}".rstrip() for line in lines)
    return f"{title}\n{body}\n\n"
