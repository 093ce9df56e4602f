"""A check of the additive offset that metadata announce, by the pixels of the whole series.

Since processing baseline 04.00 (25 January 2022, and everything reprocessed since), the digital
numbers of Sentinel-2 are reflectance x 10,000 + 1,000, and the metadata announce an offset of
-1,000. Catalogues and mirrors make two errors. Some announce the offset although they removed it
from the pixels (Element84/earth-search issues 9, 66, 71). Others do not announce it although the
pixels contain it (torchgeo issue 3224). Both are errors of 0.1 in reflectance.

`geo.imagery.offset_series` explains the pixels. Here they are compared with the metadata. An error
begins and ends at a moment or with a processing baseline. So the cloudy acquisitions of a period
whose others are wrong are wrong, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal

from geo.imagery.acquisition import Acquisition, first_five
from geo.imagery.clear_pixels import (
    MIN_PIXELS,
    OFFSET,
    ClearPixels,
    announces_offset,
    read_clear_pixels,
)
from geo.imagery.cloud_masks import CloudRules
from geo.imagery.file_cache import cached
from geo.imagery.offset_series import explain

Agreement = Literal["agrees", "undecided", "conflicts", "contradicts"]


@dataclass(frozen=True)
class Findings:
    """What the pixels say about the announced offsets.

    Parameters
    ----------
    results
        By acquisition id, without acquisitions older than the offset.
    unsafe
        Ids of undecided acquisitions of tiles in which metadata are wrong.
    problem
        What is wrong and what is undecided, "" if nothing is wrong.
    undecided
        By tile, how many acquisitions are undecided, and why.
    """

    results: Mapping[str, Agreement]
    unsafe: Sequence[str]
    problem: str
    undecided: Sequence[str]

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
    undecided = []
    for tile in sorted({item.tile for item in uncertain}):
        of_tile = [item for item in used if item.tile == tile]
        found = read_clear_pixels(of_tile, rules, threads, unreadable)
        # The comparison takes longer than all else that is done for a tile in which nothing is new.
        key = "offsets", *_digests(found)
        compared = cached(key, [], dict[str, Agreement], partial(compare, found))
        results |= {id_: result for id_, result in compared.items() if id_ in results}
        ids = [item.id for item in uncertain if item.tile == tile]
        undecided += _why_undecided(tile, {id_: results[id_] for id_ in ids}, compared.keys())
    wrong_tiles = {
        item.tile for item in uncertain if results[item.id] in {"contradicts", "conflicts"}
    }
    unsafe = [
        item.id
        for item in uncertain
        if item.tile in wrong_tiles and results[item.id] in {"undecided", "conflicts"}
    ]
    return Findings(results, unsafe, _explain(uncertain, results, unsafe), undecided)


def _digests(found: Sequence[ClearPixels]) -> list[str]:
    """Return a digest of everything that is compared."""
    digests = []
    for pixels in found:
        of_item = repr((pixels.acquisition, pixels.announced, pixels.bands))
        digest = hashlib.sha256(of_item.encode("utf-8", "surrogateescape"))
        digest.update(pixels.values.tobytes())
        digests.append(digest.hexdigest())
    return digests


def can_contradict(acquisition: Acquisition) -> bool:
    """Return whether metadata and pixels can disagree: not before baseline 04.00."""
    announced = announces_offset(acquisition)
    baseline = acquisition.baseline
    return announced is not None and (announced or baseline is None or baseline >= "04.00")


def compare(found: Sequence[ClearPixels]) -> dict[str, Agreement]:
    """Return, by acquisition id, whether the pixels agree with the announced offset.

    Acquisitions conflict if their metadata cannot all be right, but the pixels do not tell which
    are wrong.

    Parameters
    ----------
    found
        Acquisitions of one tile, with the same bands and points. Those that cannot contradict
        their metadata are used for comparison.
    """
    # By processing baseline, then by date: the order in which an error changes.
    found = sorted(found, key=lambda item: (item.acquisition.baseline or "", item.acquisition.date))
    absent = [at for at, item in enumerate(found) if not can_contradict(item.acquisition)]
    explanation = explain(found, absent)
    wrong = _with_midst(
        [
            None if contained is None else contained != item.announced
            for item, contained in zip(found, explanation.contained, strict=True)
        ]
    )
    results: dict[str, Agreement] = {
        item.acquisition.id: "undecided" if w is None else ("contradicts" if w else "agrees")
        for item, w in zip(found, wrong, strict=True)
    }
    return results | {found[at].acquisition.id: "conflicts" for at in explanation.conflicts}


def _with_midst(wrong: Sequence[bool | None]) -> list[bool | None]:
    """Decide that undecided acquisitions are wrong if they are in the midst of one error.

    This is only done if an error begins and ends at most once.
    """
    decided = [w for w in wrong if w is not None]
    changes = sum(a != b for a, b in pairwise(decided))
    if not any(decided) or changes > 2:
        return list(wrong)
    return [_by_neighbours(at, wrong) if w is None else w for at, w in enumerate(wrong)]


def _by_neighbours(at: int, wrong: Sequence[bool | None]) -> bool | None:
    """Return whether an undecided acquisition is wrong, by the decided before and after it."""
    before = [w for w in wrong[:at] if w is not None][-2:]
    after = [w for w in wrong[at + 1 :] if w is not None][:1]
    if not before or not before[-1]:
        return None
    # A single error at the end of a series says nothing about the dates behind it.
    is_amid = after[0] if after else before == [True, True]
    return True if is_amid else None


def _why_undecided(tile: str, results: Mapping[str, Agreement], compared: Set[str]) -> list[str]:
    """Return how many acquisitions of a tile are undecided and why: one line, or none."""
    undecided = [id_ for id_, result in results.items() if result == "undecided"]
    if not undecided:
        return []
    unlike = len(compared & set(undecided))
    return [
        f"Tile {tile}: the pixels of {len(undecided)} of {len(results)} acquisitions do not tell "
        f"whether they contain the offset. {len(undecided) - unlike} have fewer than {MIN_PIXELS} "
        f"clear pixels. {unlike} have no pixels too dark for the offset, and too few similar dates "
        "of the same season that are decided."
    ]


def _explain(
    uncertain: Sequence[Acquisition], results: Mapping[str, Agreement], unsafe: Sequence[str]
) -> str:
    """Return what is wrong and what is undecided, "" if nothing is wrong."""
    wrong = [item for item in uncertain if results[item.id] == "contradicts"]
    in_conflict = [item.id for item in uncertain if results[item.id] == "conflicts"]
    cloudy = [id_ for id_ in unsafe if id_ not in in_conflict]
    texts = []
    if wrong:
        lines = [
            f"{item.id} announces {-OFFSET:.0f}, but its pixels are without it"
            if announces_offset(item)
            else f"{item.id} announces no offset, but its pixels hold {OFFSET:.0f}"
            for item in wrong
        ]
        texts.append(
            f"Metadata and pixels of {len(wrong)} of {len(uncertain)} acquisitions disagree about "
            f"the additive offset of processing baseline 04.00, {OFFSET / 10_000} in reflectance:"
            f"\n  {first_five(lines, chr(10) + '  ')}"
        )
    if in_conflict:
        texts.append(
            f"Metadata of {len(in_conflict)} of {len(uncertain)} acquisitions cannot all be right "
            "about the additive offset of processing baseline 04.00: some are "
            f"{OFFSET / 10_000} brighter than the others in all bands, and no pixels are dark "
            f"enough to tell which metadata are wrong: {first_five(in_conflict)}."
        )
    if texts and cloudy:
        texts.append(
            f"{len(cloudy)} others of the same tiles are too cloudy to decide, and may be wrong, "
            f"too: {first_five(cloudy)}."
        )
    return "\n".join(texts)
