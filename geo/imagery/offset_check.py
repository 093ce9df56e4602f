"""A check of the additive offset that metadata announce, by the pixels of the whole series.

Since processing baseline 04.00 (25 January 2022, and everything reprocessed since), the digital
numbers of Sentinel-2 are reflectance x 10,000 + 1,000, and the metadata announce an offset of
-1,000. Catalogues and mirrors make two errors. Some announce the offset although they removed it
from the pixels (Element84/earth-search issues 9, 66, 71). Others do not announce it although the
pixels contain it (torchgeo issue 3224). Both are errors of 0.1 in reflectance.

One date alone rarely tells: a hazy day looks like an offset. So the same clear pixels are compared
in all acquisitions of a tile:

1. Dark pixels show that the offset is absent: with it, their reflectance would be negative.
2. At least five acquisitions that agree with each other pixel by pixel contain the offset if all
   their pixels are that much brighter than on the other dates or, without such dates, if their
   darkest pixels end just above 1,000. Clouds do not agree with each other.
3. Any other acquisition is compared with the nearest that are decided, with and without the offset.
   An offset is the same in all bands and pixels. Haze is brighter in blue than in the infrared,
   clouds weaken the contrast between fields, and seasons change the bands in different ways.
4. An error changes at a moment or with the processing baseline. So the cloudy acquisitions of a
   period whose others are wrong are wrong, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geo.imagery.acquisition import Acquisition, Band, first_five
from geo.imagery.cloud_masks import CloudRules
from geo.imagery.discovery import setting_aside
from geo.imagery.reduced_reading import is_read_in_windows, read_points
from geo.imagery.valid_values import has_data

# Added to reflectance x 10,000 since baseline 04.00, in all bands.
OFFSET = 1000.0

# One band of each group is compared: red, short-wave infrared, blue, and near infrared.
_NEAR_INFRARED = ("B8A", "B08", "B07", "B06")
_GROUPS = (("B04", "B05", "B03"), ("B12", "B11"), ("B02", "B03"), _NEAR_INFRARED)

# Points along each axis of a tile at which pixels are compared, and how many are needed.
_SIDE = 64
_MIN_PIXELS = 200
# Bands that can only be read in windows are read in this number of windows along each axis, which
# are this wide.
_WINDOWS, _WINDOW_M = 5, 1400.0

# Reflectance x 10,000 without any offset applied. The offset is absent if the fraction _DARK of
# the pixels is below _DARK_LEVEL: with the offset, that would be reflectances below -0.04. It can
# be present only if less than the fraction _FEW is below _FLOOR.
_DARK, _DARK_LEVEL = 0.05, 600.0
_FEW, _FLOOR = 0.02, 900.0
# At least _TOGETHER acquisitions that are alike show that they contain the offset, if the darkest
# percent of each is below _DULL, and most of their pixels are above their darkest reflectance on
# the decided dates by _LIFT in all bands. If no dates are decided, the darkest percent of one of
# them must be below _LOWEST in each band.
_TOGETHER, _DULL, _LIFT, _MOST, _LOWEST = 5, 2500.0, 700.0, 0.8, 1500.0

# The nearest acquisitions in time with which one is compared, and the least number of them.
_NEAREST, _LEAST = 9, 3
# Differences of this size between two dates of the same pixel are natural. Plants vary more in the
# near infrared.
_NATURAL, _NATURAL_NEAR_INFRARED = 300.0, 600.0
# Likeness (see `_Comparison`) from which an acquisition is taken for the same land, and contrast
# between fields that clouds do not leave. Without a cloud mask, more of both is asked for.
_SAME, _CONTRAST = 0.45, 0.4
_SAME_UNMASKED, _CONTRAST_UNMASKED = 0.6, 0.5
# An acquisition must be this many times more like the others with one offset than with the other.
_TIMES = 3.0

Agreement = Literal["agrees", "undecided", "contradicts"]


@dataclass(frozen=True)
class ClearPixels:
    """The clear pixels of an acquisition at the sampled points of its tile.

    Parameters
    ----------
    acquisition
        The acquisition that was read.
    announced
        Whether its metadata announce the offset.
    is_masked
        Whether cloudy pixels are left out.
    bands
        Names of the B bands.
    values
        float32 (B, P), reflectance x 10,000 without any offset applied, NaN where a pixel is not
        clear in all bands.
    """

    acquisition: Acquisition
    announced: bool
    is_masked: bool
    bands: tuple[str, ...]
    values: NDArray[np.float32]

    @property
    def clear(self) -> NDArray[np.bool_]:
        """Which points are clear: bool (P,)."""
        clear: NDArray[np.bool_] = np.isfinite(self.values[0])
        return clear

    def below(self, level: float) -> float:
        """Return the fraction of the clear pixels below a level, in the band with the most."""
        return float((self.values[:, self.clear] < level).mean(axis=1).max())


@dataclass(frozen=True)
class Findings:
    """What the pixels say about the announced offsets.

    Parameters
    ----------
    results
        By acquisition id, without acquisitions older than the offset.
    unsafe
        Ids of undecided acquisitions of tiles in which others contradict their metadata.
    """

    results: Mapping[str, Agreement]
    unsafe: Sequence[str]
    problem: str

    @property
    def wrong(self) -> list[str]:
        """Ids of the acquisitions whose pixels contradict their metadata."""
        return [id_ for id_, result in self.results.items() if result == "contradicts"]


def check_offsets(
    used: Sequence[Acquisition],
    rules: CloudRules,
    threads: int,
    unreadable: dict[str, str] | None = None,
) -> Findings:
    """Compare the pixels of acquisitions with the offset that their metadata announce.

    Parameters
    ----------
    used
        Acquisitions. The pixels of a tile are read if the metadata of one of them can be wrong.
    rules
        The cloud masks that are used. If none is, the masks of the products are.
    threads
        Number of acquisitions that are read at the same time.
    unreadable
        Acquisitions that cannot be read are added, {id: problem}; None: they are refused.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    uncertain = [item for item in used if can_contradict(item)]
    rules = replace(rules if rules.masks else CloudRules(), dilation_m=0.0)
    results: dict[str, Agreement] = {item.id: "undecided" for item in uncertain}
    for tile in sorted({item.tile for item in uncertain}):
        of_tile = [item for item in used if item.tile == tile]
        found = read_clear_pixels(of_tile, rules, threads, unreadable)
        compared = compare(found)
        results |= {id_: result for id_, result in compared.items() if id_ in results}
    wrong_tiles = {item.tile for item in uncertain if results[item.id] == "contradicts"}
    unsafe = [
        item.id
        for item in uncertain
        if item.tile in wrong_tiles and results[item.id] == "undecided"
    ]
    return Findings(results, unsafe, _explain(uncertain, results, unsafe))


def can_contradict(acquisition: Acquisition) -> bool:
    """Return whether metadata and pixels can disagree: not before baseline 04.00."""
    announced = _announced(acquisition)
    baseline = acquisition.baseline
    return announced is not None and (announced or baseline is None or baseline >= "04.00")


def read_clear_pixels(
    found: Sequence[Acquisition],
    rules: CloudRules,
    threads: int,
    unreadable: dict[str, str] | None = None,
) -> list[ClearPixels]:
    """Read the clear pixels of the acquisitions of a tile at the same points.

    Acquisitions with another offset, or with too few clear pixels, are left out, and so are those
    that are added to `unreadable`.
    """
    names = [[name for name in group if all(name in a.bands for a in found)] for group in _GROUPS]
    bands = tuple(dict.fromkeys(group[0] for group in names if group))
    if not bands:
        return []
    x, y = _points(found, bands)

    def read(item: Acquisition) -> ClearPixels | None:
        announced = _announced(item)
        if announced is None:
            return None
        masks = rules.choose(item)
        clear = np.ones(len(x) * len(y), bool)
        for mask in masks.values():
            clear &= read_points(mask, x, y, partial(_is_clear, rules, mask))[1]
        values = np.empty((len(bands), len(clear)), np.float32)
        for values_of_band, band in zip(values, (item.bands[name] for name in bands), strict=True):
            raw, with_data = read_points(band, x, y, partial(has_data, band))
            values_of_band[:] = raw * band.scale
            clear &= with_data
        values[:, ~clear] = np.nan
        if clear.sum() < _MIN_PIXELS:
            return None
        return ClearPixels(item, announced, bool(masks), bands, values)

    def read_or_note(item: Acquisition) -> ClearPixels | None:
        found = None
        with setting_aside(item.id, unreadable):
            found = read(item)
        return found

    with ThreadPoolExecutor(threads) as pool:
        return [item for item in pool.map(read_or_note, found) if item is not None]


def _is_clear(rules: CloudRules, mask: Band, raw: NDArray[Any]) -> NDArray[np.bool_]:
    return rules.is_clear(mask.name, raw, mask)


def _points(
    found: Sequence[Acquisition], bands: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and y of the points of a tile: pixel centres of the coarsest band, spread evenly."""
    first, *others = (item.grid for item in found)
    x_min, y_min, x_max, y_max = first.union(others).bounds
    layers = [item.bands[name] for item in found for name in bands]
    is_in_windows = any(map(is_read_in_windows, layers))

    def along(length: float, pixel: float) -> NDArray[np.float64]:
        n_pixels = max(int(length / pixel), 1)
        if n_pixels <= _SIDE:
            at = np.arange(n_pixels)
        elif is_in_windows and length > _WINDOWS * _WINDOW_M:
            within = np.linspace(0, _WINDOW_M / pixel, _SIDE // _WINDOWS, endpoint=False)
            starts = np.linspace(0, n_pixels - _WINDOW_M / pixel, _WINDOWS)
            at = (starts[:, None] + within).astype(int).ravel()
        else:
            at = np.linspace(0, n_pixels - 1, _SIDE).astype(int)
        return np.asarray((at + 0.5) * pixel, np.float64)

    width = max(band.grid.pixel_width for band in layers)
    height = max(band.grid.pixel_height for band in layers)
    return x_min + along(x_max - x_min, width), y_max - along(y_max - y_min, height)


def compare(found: Sequence[ClearPixels]) -> dict[str, Agreement]:
    """Return, by acquisition id, whether the pixels agree with the announced offset.

    Parameters
    ----------
    found
        Acquisitions of one tile, with the same bands and points. Those that cannot contradict
        their metadata are used for comparison.
    """
    # By processing baseline, then by date: the order in which an error changes.
    found = sorted(found, key=lambda item: (item.acquisition.baseline or "", item.acquisition.date))
    series = _Series(found)
    series.decide_by_darkness()
    series.decide_in_groups()
    series.decide_by_comparison()
    wrong = series.wrong()
    return {
        item.acquisition.id: "undecided" if w is None else ("contradicts" if w else "agrees")
        for item, w in zip(found, wrong, strict=True)
    }


class _Series:
    """What is decided about the acquisitions of a tile, by position in the series.

    `contained` says whether the pixels contain the offset, None where this is not decided.
    """

    def __init__(self, found: Sequence[ClearPixels]) -> None:
        self.found = found
        self.contained: list[bool | None] = [None] * len(found)
        # Whether enough pixels are bright enough to contain the offset.
        self.possible = [item.below(_FLOOR) < _FEW for item in found]
        # Undecided acquisitions that are taken as their metadata say in comparisons.
        self.trusted: set[int] = set()

    def decide_by_darkness(self) -> None:
        """Decide that the offset is absent where many pixels are too dark for it."""
        for at, item in enumerate(self.found):
            if not can_contradict(item.acquisition) or item.below(_DARK_LEVEL) >= _DARK:
                self.contained[at] = False

    def decide_in_groups(self) -> None:
        """Decide that the offset is present where a group of alike acquisitions ends at it."""
        for announced in (True, False):  # the first are a floor for the others
            group = [
                at
                for at in self._undecided()
                if self.found[at].announced == announced and self.possible[at]
            ]
            alike = [
                at
                for at in group
                if max(self._lowest(at)) < _DULL
                and self._is_above_others(at)
                and self._is_alike(at, group)
            ]
            if len(alike) < _TOGETHER or not self._ends_at_offset(alike):
                continue
            for at in alike:
                self.contained[at] = True
            if announced:
                others = set(group) - set(alike)
                self.trusted = {at for at in others if self.found[at].is_masked}

    def decide_by_comparison(self) -> None:
        """Compare the undecided with the nearest decided, until no more can be decided."""
        newly: dict[int, bool] = {-1: True}
        while newly:
            newly = {}
            decided = set(self._decided())
            for at in self._undecided():
                comparison = self._compare(at, (decided | self.trusted) - {at})
                if comparison is None:
                    continue
                without, with_offset = map(comparison.likeness, (0.0, OFFSET))
                contained = self.possible[at]
                same, other = (with_offset, without) if contained else (without, with_offset)
                if _TIMES * other <= same and self._is_same(at, same, comparison):
                    newly[at] = contained
            for at, contained in newly.items():
                self.contained[at] = contained
                self.trusted.discard(at)

    def wrong(self) -> list[bool | None]:
        """Return which acquisitions contradict their metadata, None for undecided ones.

        If an error begins or ends only once, the undecided ones in its midst are wrong as well.
        """
        wrong = [
            None if contained is None else contained != item.announced
            for item, contained in zip(self.found, self.contained, strict=True)
        ]
        decided = [w for w in wrong if w is not None]
        changes = sum(a != b for a, b in pairwise(decided))
        if not any(decided) or changes > 2:
            return wrong
        return [self._by_neighbours(at, wrong) if w is None else w for at, w in enumerate(wrong)]

    def _by_neighbours(self, at: int, wrong: Sequence[bool | None]) -> bool | None:
        """Return whether an undecided acquisition is wrong, by the decided before and after it."""
        before = [w for w in wrong[:at] if w is not None][-2:]
        after = [w for w in wrong[at + 1 :] if w is not None][:1]
        if not before or not before[-1]:
            return None
        # A single error at the end of a series says nothing about the dates behind it.
        is_amid = after[0] if after else before == [True, True]
        return True if is_amid else None

    def _undecided(self) -> list[int]:
        return [at for at, contained in enumerate(self.contained) if contained is None]

    def _is_same(self, at: int, likeness: float, comparison: _Comparison) -> bool:
        """Return whether an acquisition shows the same land as those that it is compared with."""
        if self.found[at].is_masked:
            return likeness >= _SAME and comparison.contrast >= _CONTRAST
        return likeness >= _SAME_UNMASKED and comparison.contrast >= _CONTRAST_UNMASKED

    def _is_alike(self, at: int, group: Sequence[int]) -> bool:
        """Return whether an acquisition shows the same land as the nearest of its group."""
        comparison = self._compare(at, set(group) - {at})
        return comparison is not None and self._is_same(at, comparison.likeness(0.0), comparison)

    def _ends_at_offset(self, alike: Sequence[int]) -> bool:
        """Return whether the darkest pixels are just above the offset, if no other date tells."""
        if len(self._decided()) >= _LEAST:
            return True
        return bool(np.min([self._lowest(at) for at in alike], axis=0).max() < _LOWEST)

    def _lowest(self, at: int) -> list[float]:
        """Return the darkest percent of the pixels in each band but the near infrared."""
        names = self.found[at].bands
        bands = [band for band, name in enumerate(names) if name not in _NEAR_INFRARED]
        pixels = self.found[at].values[bands][:, self.found[at].clear]
        # One band does not tell haze from an offset.
        return np.quantile(pixels, 0.01, axis=1).tolist() if len(bands) > 1 else [np.inf]

    def _is_above_others(self, at: int) -> bool:
        """Return whether most pixels are brighter in all bands than on all decided dates."""
        decided = self._decided()
        if len(decided) < _LEAST:
            return True
        floor = np.fmin.reduce([self._without_offset(i) for i in decided], axis=0)
        lift = (self.found[at].values - floor).min(axis=0)
        common = np.isfinite(lift)
        return bool(common.sum() >= _MIN_PIXELS and (lift[common] > _LIFT).mean() > _MOST)

    def _decided(self) -> list[int]:
        return [at for at, contained in enumerate(self.contained) if contained is not None]

    def _without_offset(self, at: int) -> NDArray[np.float32]:
        contained = self.contained[at] or at in self.trusted
        return self.found[at].values - np.float32(OFFSET if contained else 0)

    def _compare(self, at: int, others: Iterable[int]) -> _Comparison | None:
        """Compare an acquisition with the nearest of others; None if too few pixels are common."""
        date = self.found[at].acquisition.date
        distances = [(abs(self.found[i].acquisition.date - date), i) for i in others]
        if len(distances) < _LEAST:
            return None
        clear = self.found[at].clear
        reference = np.stack(
            [self._without_offset(i)[:, clear] for _, i in sorted(distances)[:_NEAREST]]
        )
        common = 2 * np.isfinite(reference[:, 0]).sum(axis=0) >= len(reference)
        if common.sum() < _MIN_PIXELS:
            return None
        bands = self.found[at].bands
        natural = [_NATURAL_NEAR_INFRARED if b in _NEAR_INFRARED else _NATURAL for b in bands]
        return _Comparison(
            values=self.found[at].values[:, clear][:, common],
            reference=reference[:, :, common],
            natural=np.array(natural, np.float32)[:, None],
        )


@dataclass(frozen=True)
class _Comparison:
    """The pixels of one acquisition, and the same pixels of others.

    Parameters
    ----------
    values
        float32 (B, P).
    reference
        float32 (N, B, P), can be NaN.
    natural
        float32 (B, 1), natural differences between two dates.
    """

    values: NDArray[np.float32]
    reference: NDArray[np.float32]
    natural: NDArray[np.float32]

    def likeness(self, offset: float) -> float:
        """Return how much the acquisition is like the others without an offset, from 0 to 1.

        Each pixel is compared with that of the acquisition that is most like it there, in all
        bands together.
        """
        difference = (self.values - np.float32(offset) - self.reference) / self.natural
        distance = np.fmin.reduce((difference**2).mean(axis=1), axis=0)
        return float(np.exp(-distance).mean())

    @cached_property
    def contrast(self) -> float:
        """Contrast between the pixels, as a fraction of that in the median of the others.

        It is the slope of the regression of all bands, each without its mean.
        """
        n_with_data = np.isfinite(self.reference[:, :1]).sum(axis=0, keepdims=True)
        in_order = np.sort(self.reference, axis=0)  # NaN comes last
        at = np.broadcast_to((n_with_data - 1) // 2, (1, *self.values.shape))
        median = np.take_along_axis(in_order, at, axis=0)[0]
        here, there = (
            (image - image.mean(axis=1, keepdims=True)) / self.natural
            for image in (self.values, median)
        )
        return float((here * there).sum() / max((there**2).sum(), 1e-9))


def _explain(
    uncertain: Sequence[Acquisition], results: Mapping[str, Agreement], unsafe: Sequence[str]
) -> str:
    """Return what is wrong and what is undecided, "" if nothing is wrong."""
    wrong = [item for item in uncertain if results[item.id] == "contradicts"]
    if not wrong:
        return ""
    lines = [
        f"{item.id} announces {-OFFSET:.0f}, but its pixels are without it"
        if _announced(item)
        else f"{item.id} announces no offset, but its pixels hold {OFFSET:.0f}"
        for item in wrong
    ]
    text = (
        f"Metadata and pixels of {len(wrong)} of {len(uncertain)} acquisitions disagree about the "
        f"additive offset of processing baseline 04.00, {OFFSET / 10_000} in reflectance:\n  "
        f"{first_five(lines, chr(10) + '  ')}"
    )
    if unsafe:
        text += (
            f"\n{len(unsafe)} others of the same tiles are too cloudy to decide, and may be wrong, "
            f"too: {first_five(unsafe)}."
        )
    return text


def _announced(acquisition: Acquisition) -> bool | None:
    """Return whether the offset is announced, None if another offset is: that is not checked."""
    offsets = {band.offset * band.scale for band in acquisition.bands.values()}
    if all(abs(offset + OFFSET) < 1 for offset in offsets):
        return True
    return False if all(abs(offset) < 1 for offset in offsets) else None
