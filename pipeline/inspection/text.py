"""What a run would use, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from geo.grid import Grid
from geo.imagery.acquisition import Acquisition, first_five
from pipeline.classes.crop_class import CropClass
from pipeline.classes.reasons import AcquisitionReason, ClassReason, Reason, Status
from pipeline.inspection.sizes import Sizes, say_bytes
from pipeline.workflow.acquisition_table import AcquisitionRow
from pipeline.workflow.rounding import rounded

# Classes that are not trained on are listed up to here.
MOST_CLASSES = 12


def say_imagery(
    source: object,
    found: Sequence[Acquisition],
    rows: Sequence[AcquisitionRow],
    grids: Mapping[str, Grid],
) -> str:
    """Say which acquisitions there are, which would be used, and what they are like."""
    used = [row for row in rows if row.used]
    lines = [
        f"{source}, {', '.join(sorted({row.format for row in rows}))}",
        f"{len(rows)} acquisitions, {len(used)} to use",
        *_say_set_aside(rows),
        *_say_unknown_clouds(used),
        "",
        *_say_tiles(used, grids),
        "",
        *_counted("baseline", (_kind(row) for row in used)),
        *_counted("masks", (row.masks or "none" for row in used)),
        *_say_bands({row.acquisition for row in used}, found),
    ]
    return section("Imagery", lines)


def say_parcels(register: object, rows: pd.DataFrame, crs: Any) -> str:
    """Say what would become of the parcels, and on which tile they lie.

    Parameters
    ----------
    register
        Where they are from.
    rows
        Rows of the ledger: status, reason, tile, n_pixels.
    crs
        Coordinate system of the register.
    """
    lines = [f"{register}, {len(rows):,} rows, {_short(crs)}", *say_statuses(rows)]
    lines += ["", *_say_overlap(rows), ""]
    accepted = rows[rows["status"] != Status.REJECTED]
    table = [("tile", "parcels", "pixels", "pixels a parcel, median")]
    for tile, its in accepted.groupby("tile"):
        sizes = its["n_pixels"]
        row = (str(tile), f"{len(its):,}", f"{sizes.sum():,}", f"{sizes.median():,.0f}")
        table.append(row)
    return section("Parcels", [*lines, *_columns(table)])


def say_classes(nomenclature: str | None, classes: Sequence[CropClass]) -> str:
    """Say which classes would be trained on, and which not."""
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


def say_sizes(sizes: Sizes, free_bytes: int, *, at_most: bool) -> str:
    """Say how large the arrays will be, beside the free space."""
    parts = {
        "pixels by acquisition": sizes.extracted,
        "dataset/DATA": sizes.pixels,
        "dataset/VALID": sizes.valid,
        "dataset/tiles": sizes.packed,
    }
    lines = [f"{name:24}{say_bytes(size):>9}" for name, size in parts.items()]
    lines.append(f"{'together':24}{say_bytes(sum(parts.values())):>9}")
    if at_most:
        lines[-1] += "  at most: less where dates turn out too cloudy"
    return section("On disk", [*lines, f"{'free there':24}{say_bytes(free_bytes):>9}"])


def say_statuses(rows: pd.DataFrame) -> list[str]:
    """Count the parcels by status, and say why: rows of the ledger."""
    lines = []
    for status in Status:
        chosen = rows[rows["status"] == status]
        lines.append(f"{len(chosen):9,} {status}")
        reasons = chosen.loc[chosen["reason"] != "", "reason"].value_counts()
        lines += [f"{n:17,} {Reason(str(r)).words}" for r, n in reasons.items()]
    return lines


def _say_set_aside(rows: Sequence[AcquisitionRow]) -> list[str]:
    """List the acquisitions that would not be used, by reason."""
    ids: dict[str, list[str]] = {}
    for row in rows:
        if not row.used:
            ids.setdefault(AcquisitionReason(row.reason).words, []).append(row.acquisition)
    return [
        f"{len(names):9} set aside, {reason}: {first_five(names)}" for reason, names in ids.items()
    ]


def _say_unknown_clouds(used: Sequence[AcquisitionRow]) -> list[str]:
    """Say of how many acquisitions only their pixels tell the clouds, or nothing does."""
    unread = sum(clouds_unread(row) for row in used)
    unmasked = sum(not row.masks for row in used)
    lines = {
        "do not state their clouds: the run reads these from the masks, and may set some aside": (
            unread
        ),
        "have no cloud mask: their clouds count as observed": unmasked,
    }
    return [f"{count:9} {text}" for text, count in lines.items() if count]


def clouds_unread(row: AcquisitionRow) -> bool:
    """Tell whether the masks of an acquisition must be read to know whether it is used."""
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
    """List the bands by the size of their pixels, as the first acquisition that is used has them.

    Acquisitions of other pixel sizes are counted with it.
    """
    sizes: Counter[str] = Counter()
    for item in found:
        if item.id in used:
            names: dict[str, list[str]] = {}
            for band in item.bands.values():
                names.setdefault(_say_pixel(band.grid), []).append(band.name)
            sizes["; ".join(f"{size} {' '.join(n)}" for size, n in sorted(names.items()))] += 1
    return _counted("bands", sizes.elements())


def _say_overlap(rows: pd.DataFrame) -> list[str]:
    """Say how many of the parcels with an outline lie on the imagery."""
    placed = rows[rows["n_pixels"].notna()]
    if placed.empty:
        return []
    on = (placed["tile"] != "").sum()
    across = (placed["reason"] == Reason.PARTLY_OUTSIDE).sum()
    share = rounded(100 * on / len(placed), 1, 100)
    lines = f"{on:,} of {len(placed):,} outlines ({share} %) lie on the imagery"
    return [f"{lines}, {across:,} of them across its edge and set aside" if across else lines]


def _kind(row: AcquisitionRow) -> str:
    """Say platform, processing baseline and offset of an acquisition."""
    parts = [row.platform, row.baseline or "not stated", f"offset {row.offset}"]
    return ", ".join(part for part in parts if part)


def _counted(title: str, texts: Iterable[str]) -> list[str]:
    """List texts with how often they occur, the most frequent first."""
    lines = [f"{text} ({n})" for text, n in Counter(texts).most_common()]
    return [f"{title if i == 0 else '':10}{line}" for i, line in enumerate(lines)]


def _say_pixel(grid: Grid) -> str:
    """Say the size of a pixel."""
    if grid.pixel_width == grid.pixel_height:
        return f"{grid.pixel_width:g} m"
    return f"{grid.pixel_width:.4g} x {grid.pixel_height:.4g} m"


def _short(crs: Any) -> str:
    """Name a coordinate system in a few words, where it has an authority's code."""
    from pyproj import CRS

    known = CRS(crs).to_authority()
    return ":".join(known) if known else CRS(crs).name


def _columns(table: Sequence[tuple[str, ...]]) -> list[str]:
    """Align the cells of a table."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def section(title: str, lines: Iterable[str]) -> str:
    """Set lines below a title."""
    body = "\n".join(f"  {line}".rstrip() for line in lines)
    return f"{title}\n{body}\n\n"
