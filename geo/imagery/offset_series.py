"""Which acquisitions of a tile contain the additive offset: all of them are explained together.

One date alone rarely tells, because a hazy day looks like an offset. But land changes slowly. So a
clear pixel agrees with the same pixel of other dates in all bands, once the offset is subtracted
from the dates that contain it. Clouds differ from date to date, and haze from band to band. So no
cloud mask is needed.

1. Dates are placed on two levels, 0.1 of reflectance apart. A group begins with four dates that
   agree well. Any date is placed in it whose pixels agree with several of the nearest dates of the
   group on one level, and on no other. Only the pixels that agree are compared with further dates.
   This is repeated until nothing changes.
2. The levels of a group that has two must be 0.1 apart in all bands, date by date.
3. If dates of a group are too dark to contain the offset, the lower level is without it, unless
   most of its dates can contain it: then a dark date is misplaced, and nothing is decided. If
   the darkest pixels of the lower level end just above 1,000, this level contains it. If neither is
   so, two levels are a conflict that the pixels do not solve.
4. If too few bands are compared to tell haze from the offset, the level of a few dates does not
   contradict their metadata.

Dates outside of all groups are decided only if they are too dark to contain the offset.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geo.imagery.clear_pixels import MIN_PIXELS, NEAR_INFRARED, OFFSET, ClearPixels

# Two dates agree at a pixel if they differ by less than this in each band. Plants vary more in the
# near infrared.
_NATURAL, _NATURAL_NEAR_INFRARED = 450.0, 900.0
# A date is compared with the nearest _NEAREST dates within _DAYS: later, all bands can be brighter
# by the season. A pixel is clear if it agrees with at least _AGREEING of them.
_NEAREST, _DAYS, _AGREEING = 12, 90, 2
# A date is placed on a level on which at least this fraction of its pixels is clear. It must be
# _TIMES as many as on any other level.
_CLEAR, _TIMES = 0.2, 3.0
# Contrast between the clear pixels, as a fraction of that on other dates: thin clouds that brighten
# all bands alike leave less.
_CONTRAST = 0.5
# From one level to the other, the median difference of a band may deviate from 1,000 by this
# fraction of its natural difference: haze and thin clouds deviate more in one of the bands.
_STEP, _STEP_PIXELS = 0.9, 300
# Dates that begin a group, and rounds at most until nothing changes.
_BEGINNING, _ROUNDS = 4, 20

# Reflectance x 10,000 without any offset applied. The offset is absent if the fraction _DARK of
# the pixels is below _DARK_LEVEL: with the offset, that would be reflectances below -0.04. It can
# be present only if less than the fraction _FEW is below _FLOOR.
_DARK, _DARK_LEVEL = 0.05, 600.0
_FEW, _FLOOR = 0.02, 900.0
# Haze brightens blue most and the short-wave infrared least. This shows only if at least this
# number of bands without the near infrared is compared. With fewer bands, haze can look like the
# offset on single dates: the level of a date contradicts its metadata only with _TOGETHER others.
_BANDS_THAT_SHOW_HAZE = 3
# Dates on one level can contain the offset if more than this fraction of them can.
_MOST_POSSIBLE = 0.9
# At least _TOGETHER dates on one level contain the offset if the darkest percent of one of them is
# below _LOWEST in each band but the near infrared. As many on each of two levels are a conflict.
_TOGETHER, _LOWEST = 5, 1500.0


@dataclass(frozen=True)
class Explanation:
    """What the pixels of a tile say.

    Parameters
    ----------
    contained
        Whether each acquisition contains the offset, None if its pixels do not tell.
    conflicts
        Positions of acquisitions whose metadata cannot all be right, although the pixels do not
        tell which are wrong.
    """

    contained: list[bool | None]
    conflicts: list[int]


@dataclass(frozen=True)
class _Place:
    """The level of a date within its group, and its clear pixels: bool (P,)."""

    level: int
    clear: NDArray[np.bool_]


_Group = dict[int, _Place]


def explain(found: Sequence[ClearPixels], absent: Iterable[int]) -> Explanation:
    """Return which acquisitions of a tile contain the offset.

    Parameters
    ----------
    found
        The acquisitions.
    absent
        Positions of those that are known not to contain it.
    """
    if not found:
        return Explanation([], [])
    series = _Series(found)
    dates = range(len(found))
    known_absent = {t for t in dates if series.below(t, _DARK_LEVEL) >= _DARK} | set(absent)
    cannot_contain = {t for t in dates if not series.possible[t]} | set(absent)
    contained: list[bool | None] = [False if t in known_absent else None for t in dates]
    conflicts: list[int] = []
    for group in series.groups():
        lower = [t for t, place in group.items() if place.level == 0]
        upper = [t for t, place in group.items() if place.level == 1]
        is_lower_absent = bool(known_absent & group.keys())
        if is_lower_absent and 2 * len(cannot_contain.intersection(lower)) < len(lower):
            continue  # the level without the offset is dark on most dates: a dark one is misplaced
        # Dates that are brighter than others with the offset cannot contain it twice.
        is_lower_present = not is_lower_absent and series.ends_at_offset(lower)
        by_level = {
            t: is_lower_present or t in upper for t in (lower if is_lower_present else group)
        }
        wrong = {t for t, contains in by_level.items() if contains != found[t].announced}
        if not series.shows_haze and len(wrong) < _TOGETHER:
            by_level = {t: contains for t, contains in by_level.items() if t not in wrong}
            wrong = set()
        is_explained = not wrong and len(set(by_level.values())) == 2
        if is_lower_absent or is_lower_present or is_explained:
            contained = [by_level.get(t, c) for t, c in enumerate(contained)]
        elif wrong and min(len(lower), len(upper)) >= _TOGETHER:
            conflicts += sorted(group)
    return Explanation(contained, conflicts)


class _Series:
    """The pixels of all dates of a tile, and how the dates agree."""

    def __init__(self, found: Sequence[ClearPixels]) -> None:
        self.values = np.stack([item.values for item in found])
        self.known = np.isfinite(self.values[:, 0])
        self.days = np.array([item.acquisition.date.toordinal() for item in found])
        self.is_infrared = np.isin(found[0].bands, NEAR_INFRARED)
        natural = np.where(self.is_infrared, _NATURAL_NEAR_INFRARED, _NATURAL)
        self.natural = natural.astype(np.float32)[:, None]
        self.shows_haze = (~self.is_infrared).sum() >= _BANDS_THAT_SHOW_HAZE
        # Whether enough pixels are bright enough to contain the offset.
        self.possible = [self.below(t, _FLOOR) < _FEW for t in range(len(found))]

    def below(self, t: int, level: float) -> float:
        """Return the fraction of a date's pixels below a level, in the band with the most."""
        return float((self.values[t][:, self.known[t]] < level).mean(axis=1).max())

    def ends_at_offset(self, dates: Sequence[int]) -> bool:
        """Return whether the darkest pixels of dates are just above the offset."""
        bands = ~self.is_infrared  # one band does not tell haze from an offset
        if len(dates) < _TOGETHER or bands.sum() < 2 or not all(self.possible[t] for t in dates):
            return False
        lowest = [np.quantile(self.values[t][bands][:, self.known[t]], 0.01, axis=1) for t in dates]
        return bool(np.min(lowest, axis=0).max() < _LOWEST)

    def groups(self) -> list[_Group]:
        """Return the groups of dates that agree; the lower level of each is 0, the upper 1."""
        groups = []
        left = set(range(len(self.values)))
        for beginning in self._beginnings():
            if beginning.keys() <= left:
                group = self._grow(beginning, left)
                if len(group) >= _BEGINNING:
                    groups.append(group)
                    left -= group.keys()
        return groups

    def _beginnings(self) -> list[_Group]:
        """Return each date with those that agree with it best, the best of all first."""
        whole = {t: _Place(0, known) for t, known in enumerate(self.known)}
        found = []
        for t in range(len(self.values)):
            near = self._nearest(t, whole)
            if len(near) < _BEGINNING - 1:
                continue
            compared = _Comparison(self.values[t], self._reference(near, whole), self.natural)
            agree = np.stack([compared.agrees(level) for level in (-1, 0, 1)])  # (3, N, P)
            share = agree.mean(axis=2)
            best = np.argsort(-share.max(axis=0), kind="stable")[: _BEGINNING - 1]
            level = share.argmax(axis=0)
            places = {near[i]: _Place(1 - int(level[i]), agree[level[i], i]) for i in best}
            if share[:, best].max(axis=0).min() >= _CLEAR and not {-1, 1} <= _levels(places):
                found.append((share[:, best].max(axis=0).min(), {t: whole[t], **places}))
        return [beginning for _, beginning in sorted(found, key=lambda pair: -pair[0])]

    def _grow(self, beginning: _Group, left: Iterable[int]) -> _Group:
        """Return a group with all dates that agree with it."""
        group = beginning
        places: dict[int, _Place | None] = {}
        compared: dict[int, object] = {}
        for _ in range(_ROUNDS):
            for t in left:
                others = _without(group, t)
                with_what = (
                    [(i, group[i].level) for i in self._nearest(t, others)],
                    self._levels_of(t, others),
                )
                if compared.get(t) != with_what:  # otherwise, it would be placed as before
                    places[t], compared[t] = self._place(t, others), with_what
            before = {t: place.level for t, place in group.items()}
            group = _on_two_levels({t: place for t, place in places.items() if place is not None})
            if len(group) < _BEGINNING or {t: p.level for t, p in group.items()} == before:
                break
        group = self._with_exact_step(group)
        lowest = min(_levels(group), default=0)
        return {t: _Place(place.level - lowest, place.clear) for t, place in group.items()}

    def _with_exact_step(self, group: _Group) -> _Group:
        """Return a group without dates whose distance from the other level is not 0.1.

        The level with more dates is trusted, and the others are compared with its dates only. Those
        that are far from all of them are kept, if any other date shows that there is a second
        level. Then the dates of the trusted level are compared with all that are left.
        """
        if len(_levels(group)) < 2:
            return group
        levels = [place.level for place in group.values()]
        trusted = max(_levels(group), key=levels.count)
        first = {t: place for t, place in group.items() if place.level == trusted}
        second = {t: place for t, place in group.items() if place.level != trusted}
        far = {t: p for t, p in second.items() if len(self._nearest(t, first)) < _AGREEING}
        exact = {
            t: place
            for t, place in second.items()
            if t not in far and self._place(t, first, has_exact_step=True) is not None
        }
        if not exact:
            return first
        group = {**first, **exact, **far}
        return {
            t: place
            for t, place in group.items()
            if t not in first or self._place(t, _without(group, t), has_exact_step=True) is not None
        }

    def _place(self, t: int, group: _Group, *, has_exact_step: bool = False) -> _Place | None:
        """Return where a date belongs in a group, None if it agrees on no level or on several."""
        near = self._nearest(t, group)
        if len(near) < _AGREEING:
            return None
        reference = self._reference(near, group)
        is_compared = self.known[t] & (np.isfinite(reference[:, 0]).sum(axis=0) >= _AGREEING)
        if is_compared.sum() < MIN_PIXELS:
            return None
        compared = _Comparison(
            self.values[t][:, is_compared], reference[:, :, is_compared], self.natural
        )
        clear = {level: compared.clear(level) for level in self._levels_of(t, group)}
        level, *others = sorted(clear, key=lambda level: -int(clear[level].sum()))
        share = clear[level].mean()
        if share < _CLEAR or any(share < _TIMES * clear[other].mean() for other in others):
            return None
        # If most of the other dates are under thin clouds, it is their contrast that is low.
        if not _CONTRAST < compared.contrast(level, clear[level]) < 1 / _CONTRAST:
            return None
        if has_exact_step and not compared.has_exact_step(level):
            return None
        everywhere = np.zeros(len(is_compared), bool)
        everywhere[is_compared] = clear[level]
        return _Place(level, everywhere)

    def _levels_of(self, t: int, group: _Group) -> list[int]:
        """Return the levels that a date can have in a group, in which at most two are used."""
        if len(_levels(group)) > 1:
            return sorted(_levels(group))
        (level,) = _levels(group)
        # A single dark date among them can be misplaced.
        can_contain = np.mean([self.possible[i] for i in group]) > _MOST_POSSIBLE
        below = [level - 1] if can_contain else []
        above = [level + 1] if self.possible[t] else []
        return [*below, level, *above]

    def _nearest(self, t: int, others: Iterable[int]) -> list[int]:
        """Return the nearest of other dates."""
        distances = sorted((abs(int(self.days[i] - self.days[t])), i) for i in others if i != t)
        return [i for days, i in distances[:_NEAREST] if days <= _DAYS]

    def _reference(self, dates: Sequence[int], group: _Group) -> NDArray[np.float32]:
        """Return the clear pixels of dates, brought to level 0: float32 (N, B, P)."""
        return np.stack(
            [
                np.where(
                    group[t].clear,
                    self.values[t] - np.float32(OFFSET * group[t].level),
                    np.float32(np.nan),
                )
                for t in dates
            ]
        )


@dataclass(frozen=True)
class _Comparison:
    """The pixels of one date, and the same pixels of others.

    Parameters
    ----------
    values
        float32 (B, P).
    reference
        float32 (N, B, P), NaN where a pixel of another date is not clear.
    natural
        float32 (B, 1), natural differences between two dates.
    """

    values: NDArray[np.float32]
    reference: NDArray[np.float32]
    natural: NDArray[np.float32]

    def agrees(self, level: int) -> NDArray[np.bool_]:
        """Return where the date agrees with each of the others on a level: bool (N, P)."""
        difference = np.abs(self._on_level(level) - self.reference)
        agrees: NDArray[np.bool_] = (difference < self.natural).all(axis=1)
        return agrees

    def clear(self, level: int) -> NDArray[np.bool_]:
        """Return which pixels are clear on a level: bool (P,)."""
        clear: NDArray[np.bool_] = self.agrees(level).sum(axis=0) >= _AGREEING
        return clear

    def contrast(self, level: int, pixels: NDArray[np.bool_]) -> float:
        """Return the contrast between pixels, as a fraction of that in the median of the others.

        It is the slope of the regression of all bands, each without its mean.
        """
        here, there = (
            (image - image.mean(axis=1, keepdims=True)) / self.natural
            for image in (self._on_level(level)[:, pixels], self._median()[:, pixels])
        )
        return float((here * there).sum() / max((there**2).sum(), 1e-9))

    def has_exact_step(self, level: int) -> bool:
        """Return whether the median difference from the others is small in each band.

        It is that of all pixels that are not far off. Those that agree would hide a difference.
        """
        scaled = (self._on_level(level) - self._median()) / self.natural
        pixels = (np.abs(scaled) < 2).all(axis=0)
        if pixels.sum() < _STEP_PIXELS:
            return False
        return bool(np.abs(np.median(scaled[:, pixels], axis=1)).max() < _STEP)

    def _on_level(self, level: int) -> NDArray[np.float32]:
        return self.values - np.float32(OFFSET * level)

    def _median(self) -> NDArray[np.float32]:
        """Return the lower median of the others that are clear: float32 (B, P)."""
        in_order = np.sort(self.reference, axis=0)  # NaN comes last
        n = np.isfinite(self.reference[:, :1]).sum(axis=0, keepdims=True)
        at = np.broadcast_to((n - 1) // 2, (1, *self.values.shape))
        median: NDArray[np.float32] = np.take_along_axis(in_order, at, axis=0)[0]
        return median


def _levels(group: _Group) -> set[int]:
    return {place.level for place in group.values()}


def _without(group: _Group, t: int) -> _Group:
    return {i: place for i, place in group.items() if i != t}


def _on_two_levels(places: _Group) -> _Group:
    """Leave out the fewest dates so that only two levels are used, one above the other."""
    if not {-1, 1} <= _levels(places):
        return places
    levels = [place.level for place in places.values()]
    fewer = -1 if levels.count(-1) < levels.count(1) else 1
    return {t: place for t, place in places.items() if place.level != fewer}
