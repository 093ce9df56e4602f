"""The guard of a run against acquisitions whose metadata and pixels disagree about the offset."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from geo.errors import InputError
from geo.imagery.acquisition import Acquisition, first_five
from geo.imagery.radiometry import OFFSET, DarkPixels, can_lie, judge, measure

logger = logging.getLogger(__name__)


def check_radiometry(used: Sequence[Acquisition], threads: int) -> Mapping[str, str]:
    """Check that the pixels of acquisitions agree with the additive offset that is announced.

    Returns
    -------
    dict of str
        By acquisition id: agrees or undecided; those of before the offset are left out.

    Raises
    ------
    InputError
        If some contradict, or a file cannot be read.
    """
    doubtful = [item for item in used if can_lie(item)]
    tiles = sorted({item.tile for item in doubtful})
    with ThreadPoolExecutor(threads) as pool:
        measured = pool.map(measure, [item for item in used if item.tile in tiles])
        dark = [item for item in measured if item is not None]
    judged: dict[str, str] = {}
    for tile in tiles:
        judged |= judge([item for item in dark if item.acquisition.tile == tile])
    verdicts = {item.id: judged.get(item.id, "undecided") for item in doubtful}
    lying = [item for item in dark if verdicts.get(item.acquisition.id) == "contradicts"]
    if lying:
        raise InputError(
            f"Metadata and pixels of {len(lying)} of {len(used)} acquisitions disagree about the "
            f"additive offset of processing baseline 04.00, {OFFSET / 10_000} in reflectance:\n  "
            f"{first_five([_explain(item) for item in lying], chr(10) + '  ')}\n"
            "Get these acquisitions from elsewhere, correct their metadata (of GeoTIFFs: "
            "gdal_edit -scale and -offset), or set imagery.radiometry to trust, to read them as "
            "their metadata say."
        )
    for verdict, count in Counter(verdicts.values()).most_common():
        logger.info("Offset in metadata and pixels of %d acquisitions: %s.", count, verdict)
    return verdicts


def _explain(item: DarkPixels) -> str:
    """Say what the metadata and the pixels of an acquisition say."""
    band, level = item.bands[0], item.levels[0, 0]
    metadata = f"announces {-OFFSET:.0f}" if item.announced else "announces no offset"
    pixels = "are without it" if item.announced else f"hold {OFFSET:.0f}"
    return (
        f"{item.acquisition.id} {metadata}, but its pixels {pixels}: its darkest, such as 5 % of "
        f"{band} below {level:.0f}, show it"
    )
