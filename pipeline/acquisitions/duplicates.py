"""Several acquisitions of one tile and day: parts to be merged, reprocessings, and what is left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from geo.imagery.acquisition import Acquisition
from pipeline.workflow.acquisition_table import AcquisitionRow

# Shares of sensed pixels of two halves of a tile add up to 1; so much more is taken for rounding
# and for the lines that both data strips hold.
OVERLAP = 0.02


def in_order_of_use(found: Iterable[Acquisition]) -> list[Acquisition]:
    """Sort acquisitions by date and tile; those of one day in the order in which they are merged.

    The one with most sensed pixels comes first, among equals the newest processing.
    """
    by_preference = sorted(found, key=lambda item: (item.preference, item.id), reverse=True)
    return sorted(by_preference, key=lambda item: (item.date, item.tile))


def same_day_reasons(same_day: Sequence[Acquisition]) -> dict[str, str]:
    """Give, by id, why acquisitions of one tile and day are not used; parts of the tile all are.

    Of one sensing processed several times the preferred one stays, the others are `superseded`.
    What is sensed at another time of the day, and is no other part of the tile, is set aside as
    `same_day`. Clouds do not take part: what stays must not depend on settings.
    """
    reasons: dict[str, str] = {}
    kept: list[Acquisition] = []
    for item in in_order_of_use(same_day):
        if any(is_reprocessing(item, other) for other in kept):
            reasons[item.id] = "superseded"
        elif all(is_other_part(item, other) for other in kept):
            kept.append(item)
        else:
            reasons[item.id] = "same_day"
    return reasons


def is_reprocessing(item: Acquisition, other: Acquisition) -> bool:
    """Tell whether two acquisitions of one tile and day are the same sensing, processed twice.

    A data strip is sensed once. Where it is not known, the same time of sensing and the same share
    of sensed pixels tell: the two halves of a tile that a change of data strip cuts apart share
    their time, too, but not that share.
    """
    if item.datastrip is not None and other.datastrip is not None:
        return item.datastrip == other.datastrip
    is_same_time = item.sensed is not None and item.sensed == other.sensed
    return is_same_time and item.preference[0] == other.preference[0]


def is_other_part(item: Acquisition, other: Acquisition) -> bool:
    """Tell whether two acquisitions of one tile and day, no reprocessings, complete each other.

    Those of different data strips do; where these are not known, those of different extent, and
    those whose shares of sensed pixels add up to no more than the tile.
    """
    if item.datastrip is not None and other.datastrip is not None:
        return True
    if not item.grid.matches(other.grid):
        return True
    shares = [1.0 if a.valid_fraction is None else a.valid_fraction for a in (item, other)]
    return sum(shares) <= 1 + OVERLAP


def mark_merged(rows: Sequence[AcquisitionRow]) -> list[AcquisitionRow]:
    """Give the reason `merged` to used acquisitions that complete an earlier row's tile and day."""
    seen: set[tuple[str, object]] = set()
    marked = []
    for row in rows:
        is_later_part = row.used and (row.tile, row.date) in seen
        marked.append(row._replace(reason="merged") if is_later_part else row)
        if row.used:
            seen.add((row.tile, row.date))
    return marked
