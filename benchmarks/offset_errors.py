"""How often the check of the additive offset is right: `python -m benchmarks.offset_errors`.

Errors are made in a real series without an offset (by default the Flemish one of ../shared/data):
1,000 is added to the pixels of dates, or -1,000 to their metadata. Each error is made in the
series as it is, and in one whose pixels all contain the offset and whose metadata all announce it.
`absent` and `present` name this. The clear pixels are read once; no file is changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geo.imagery.clear_pixels import MIN_PIXELS, OFFSET, ClearPixels, read_clear_pixels
from geo.imagery.cloud_masks import CloudRules, cloud_fraction
from geo.imagery.discovery import find_acquisitions
from geo.imagery.offset_check import compare

FLANDERS = Path(__file__).parents[2] / "shared" / "data" / "flanders-2018"
BANDS = ["B02", "B04", "B8A", "B12"]
SCENARIOS = ("clean", "single", "single clear", "later part", "random half", "all dates")
_LEAST_CLEAR = 0.05
_MAX_CLOUD_FRACTION = 0.8  # the default of imagery.max_cloud_fraction


@dataclass
class Count:
    """Results of one scenario.

    Parameters
    ----------
    series
        Number of series.
    named, accepted
        Mean fraction of the wrong dates that are named, and that are used as if they were right.
    complete
        Fraction of series in which no wrong date is used.
    false
        Fraction of series in which a right date is named.
    """

    series: int = 0
    named: float = 0.0
    accepted: float = 0.0
    complete: float = 0.0
    false: float = 0.0

    def add(self, found: Sequence[ClearPixels], is_wrong: NDArray[np.bool_]) -> None:
        """Check one series of which some dates are wrong."""
        results = compare(found)
        labels = np.array([results[item.acquisition.id] for item in found])
        named, conflicts = labels == "contradicts", labels == "conflicts"
        used = (labels == "agrees") | ((labels == "undecided") & ~(named | conflicts).any())
        self.series += 1
        self.false += bool(named[~is_wrong].any()) or bool(conflicts.any() and not is_wrong.any())
        if is_wrong.any():
            self.named += named[is_wrong].mean()
            self.accepted += used[is_wrong].mean()
            self.complete += not used[is_wrong].any()


def read_series(
    folder: Path, *, masked: bool, window: tuple[float, float, float] = (0, 0, 1)
) -> list[ClearPixels]:
    """Read the clear pixels of a series.

    Parameters
    ----------
    folder
        Imagery.
    masked
        Use the cloud masks, and leave out the dates that a run would leave out by default.
    window
        Left, top and size of a spatial subset, as fractions of the whole.
    """
    found = find_acquisitions(folder, bands=BANDS)
    rules = CloudRules()
    if masked:
        clouds = [cloud_fraction(item, rules) or 0.0 for item in found]
        found = [item for item, c in zip(found, clouds, strict=True) if c <= _MAX_CLOUD_FRACTION]
    else:
        found = [replace(item, masks={}) for item in found]
    left, top, size = window
    series = read_clear_pixels(found, rules, 1)
    side = round(series[0].values.shape[1] ** 0.5)
    part = (
        slice(round(top * side), round((top + size) * side)),
        slice(round(left * side), round((left + size) * side)),
    )
    cut = [
        replace(
            item, values=item.values.reshape(-1, side, side)[:, *part].reshape(len(item.bands), -1)
        )
        for item in series
    ]
    return [item for item in cut if item.clear.sum() >= MIN_PIXELS]


def clear_dates(folder: Path, series: Sequence[ClearPixels]) -> NDArray[np.bool_]:
    """Return which dates have at least 5 % clear pixels by their masks, which may not be used."""
    found = read_clear_pixels(find_acquisitions(folder, bands=BANDS), CloudRules(), 1)
    clear = {item.acquisition.id for item in found if item.clear.mean() >= _LEAST_CLEAR}
    return np.array([item.acquisition.id in clear for item in series])


def with_errors(
    series: Sequence[ClearPixels], base: str, error: str, is_wrong: NDArray[np.bool_]
) -> list[ClearPixels]:
    """Return a series with an error in the pixels or in the metadata of some dates."""
    made = []
    for item, wrong in zip(series, is_wrong, strict=True):
        contained = (base == "present") != (wrong and error == "pixels")
        announced = (base == "present") != (wrong and error == "metadata")
        made.append(replace(item, announced=announced, values=item.values + OFFSET * contained))
    return made


def patterns(
    name: str,
    n: int,
    rng: np.random.Generator,
    repeats: int,
    is_clear: NDArray[np.bool_] | None = None,
) -> Iterator[NDArray[np.bool_]]:
    """Yield which dates are wrong: single ones, later parts of any length, or random halves.

    `is_clear` says which dates have clear pixels: the only ones that "single clear" makes wrong.
    """
    if name == "single":
        yield from np.eye(n, dtype=bool)
    elif name == "single clear":
        yield from np.eye(n, dtype=bool)[is_clear]
    elif name == "later part":
        yield from (np.arange(n) >= cut for cut in range(1, n))
    elif name == "all dates":
        yield np.ones(n, bool)
    else:
        yield from (rng.permutation(n) < n // 2 for _ in range(repeats))


def clean_subsets(
    series: Sequence[ClearPixels], rng: np.random.Generator, repeats: int
) -> Iterator[list[ClearPixels]]:
    """Yield the series, seasons of it, and random dates of it."""
    yield list(series)
    for number in range(repeats):
        size = int(rng.integers(1, len(series)))
        if number % 2:
            start = int(rng.integers(0, len(series) - size))
            yield list(series[start : start + size])
        else:
            yield [series[i] for i in np.sort(rng.choice(len(series), size, replace=False))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rates of every scenario."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offset_errors")
    parser.add_argument("scenarios", nargs="*", default=SCENARIOS, help=", ".join(SCENARIOS))
    parser.add_argument("--imagery", type=Path, default=FLANDERS)
    parser.add_argument("--windows", type=int, default=1, help="along each axis (default: 1)")
    parser.add_argument("--repeats", type=int, default=100, help="of random scenarios")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(options.seed)
    size = 1 / options.windows
    windows = [
        (i * size, j * size, size) for i in range(options.windows) for j in range(options.windows)
    ]
    heads = (
        "masks",
        "scenario",
        "base",
        "error in",
        "series",
        "named",
        "accepted",
        "complete",
        "false",
    )
    print("{:6} {:12} {:8} {:9} {:>6} {:>6} {:>8} {:>8} {:>7}".format(*heads))
    for masked in (True, False):
        all_series = [read_series(options.imagery, masked=masked, window=w) for w in windows]
        for name in options.scenarios:
            for base in ("absent", "present"):
                for error in ("",) if name == "clean" else ("pixels", "metadata"):
                    row = Count()
                    for series in all_series:
                        if name == "clean":
                            for subset in clean_subsets(series, rng, options.repeats):
                                none = np.zeros(len(subset), bool)
                                row.add(with_errors(subset, base, "pixels", none), none)
                            continue
                        is_clear = clear_dates(options.imagery, series)
                        n, repeats = len(series), options.repeats // 5
                        for is_wrong in patterns(name, n, rng, repeats, is_clear):
                            row.add(with_errors(series, base, error, is_wrong), is_wrong)
                    rates = [rate / row.series for rate in (row.named, row.accepted, row.complete)]
                    texts = ["", "", ""] if name == "clean" else [f"{rate:.3f}" for rate in rates]
                    print(
                        f"{'on' if masked else 'off':6} {name:12} {base:8} {error:9} "
                        f"{row.series:6} {texts[0]:>6} {texts[1]:>8} {texts[2]:>8} "
                        f"{row.false / row.series:7.4f}",
                        flush=True,
                    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
