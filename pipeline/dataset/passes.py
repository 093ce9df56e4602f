"""The dates on which Sentinel-2 passed over a tile, by the orbits of the acquisitions found.

Each satellite repeats its 143 orbits every 10 days, and two satellites on opposite sides of the
orbit take turns: every place under an orbit is passed every 5 days. Public catalogues and archives
have holes, which only these dates show.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from pipeline.workflow.acquisition_table import AcquisitionRow

REPEAT_DAYS, PAIR_DAYS = 10, 5

# Since then, both satellites acquire all land. Sentinel-2B began in 2017, region by region: before
# this day, a satellite is expected from its first acquisition on.
_BOTH = date(2018, 3, 1)
# In this month, Sentinel-2C took the place of Sentinel-2A.
_HANDOVER = (2025, 1)
# Why a date of a pass may have no acquisition.
NOTE = (
    "Passes without an acquisition are not in the catalogue or folder, or a search by cloud cover "
    "left them out."
)

_ORBIT_IN_NAME = re.compile(r"_R(\d{3})(?=[_.]|$)")
_PRODUCT_NAMES = ("s2:product_uri", "sentinel:product_id")


@dataclass(frozen=True)
class Track:
    """The passes of one orbit over one tile.

    Attributes
    ----------
    tile, orbit
        The tile, and the relative orbit, None if it is not known.
    every_days
        Days between passes: 5, or 10 if only one satellite is expected.
    expected
        Dates of the passes; empty if too few acquisitions were found to tell.
    missing
        Those of `expected` on which no acquisition was found.
    first, last
        First and last date found.
    """

    tile: str
    orbit: int | None
    every_days: int
    expected: Sequence[date]
    missing: Sequence[date]
    first: date
    last: date


def expected_passes(
    rows: Iterable[AcquisitionRow], start: date | None, end: date | None
) -> list[Track]:
    """Compare the acquisitions with the passes over their tiles, orbit by orbit.

    Parameters
    ----------
    rows
        All acquisitions found, used or not. Simulated ones are not compared.
    start, end
        First and last day that were asked for; None: those of the acquisitions. Dates behind the
        last acquisition of all tiles are not compared: they may not be published yet.

    Returns
    -------
    list of Track
        By tile, the orbit with the most dates first. No date is claimed that the acquisitions do
        not prove: an orbit must be seen twice, and dates without a known orbit must be at least
        half of those that they would be part of.
    """
    tiles: dict[str, dict[int | None, set[date]]] = {}
    for row in rows:
        if row.tile and row.platform != "Simulated":
            orbits = tiles.setdefault(row.tile, {})
            orbits.setdefault(orbit_of(row), set()).add(row.date)
    found = [day for own in tiles.values() for days in own.values() for day in days]
    newest = max(found, default=None)
    tracks = []
    for tile, orbits in sorted(tiles.items()):
        dates = set().union(*orbits.values())
        first, last = start or min(dates), min(end, newest) if end and newest else max(dates)
        of_tile = [
            _track(tile, orbit, own, dates, first, last) for orbit, own in _separated(orbits)
        ]
        tracks += sorted(of_tile, key=lambda track: -len(track.expected))
    return tracks


def orbit_of(row: AcquisitionRow) -> int | None:
    """Return the relative orbit by id, name of the product, or STAC item; None if it is unknown."""
    texts: list[object] = [row.acquisition, row.product.name]
    if row.format == "stac" and row.product.is_file():
        # A damaged item has no orbit; whatever reads its bands says what is wrong with it.
        try:
            properties = json.loads(row.product.read_bytes())["properties"]
            if isinstance(orbit := properties.get("sat:relative_orbit"), int):
                return orbit
            texts += [properties.get(key) for key in _PRODUCT_NAMES]
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass
    found = (_ORBIT_IN_NAME.search(str(text)) for text in texts)
    return next((int(match[1]) for match in found if match), None)


def _separated(orbits: Mapping[int | None, set[date]]) -> list[tuple[int | None, set[date]]]:
    """Return the dates of every orbit; those of unknown orbits by their place in five days."""
    unknown: dict[int, set[date]] = {}
    for day in orbits.get(None, ()):
        unknown.setdefault(_phase(day), set()).add(day)
    known = [
        (orbit, dates | unknown.pop(_usual_phase(dates), set()))
        for orbit, dates in orbits.items()
        if orbit is not None
    ]
    return [*known, *((None, dates) for dates in unknown.values())]


def _phase(day: date) -> int:
    return day.toordinal() % PAIR_DAYS


def _usual_phase(dates: Iterable[date]) -> int:
    """Return the place in five days that most dates have: near midnight (UTC), the date varies."""
    return Counter(map(_phase, sorted(dates))).most_common(1)[0][0]


def _track(
    tile: str, orbit: int | None, own: set[date], of_tile: set[date], start: date, end: date
) -> Track:
    """Compare the dates of an orbit with its passes from start to end."""
    phase = _usual_phase(own)
    nearby = {day + timedelta(days=d) for day in own for d in (-1, 0, 1)} if orbit else own
    expected: list[date] = []
    n_satellites = 0
    for place in (phase, phase + PAIR_DAYS):
        of_satellite = [d for d in own if (d.toordinal() - place + 1) % REPEAT_DAYS <= 2]
        since = max(start, min([*of_satellite, _BOTH]))
        until = end if of_satellite or max(own) >= _BOTH else date.min
        begin = since.toordinal() + (place - since.toordinal()) % REPEAT_DAYS
        days = map(date.fromordinal, range(begin, until.toordinal() + 1, REPEAT_DAYS))
        passes = [day for day in days if (day.year, day.month) != _HANDOVER]
        expected += passes
        n_satellites += bool(passes)
    missing = [day for day in sorted(expected) if day not in nearby | of_tile]
    is_proven = len(own) >= 2 if orbit else 2 * len(missing) <= len(expected) and len(own) >= 3
    return Track(
        tile=tile,
        orbit=orbit,
        every_days=PAIR_DAYS if n_satellites > 1 else REPEAT_DAYS,
        expected=sorted(expected) if is_proven else [],
        missing=missing if is_proven else [],
        first=min(own),
        last=max(own),
    )
