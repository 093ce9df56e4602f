"""How far parcels are alike, for the report: the text of the stage variogram, and a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray

from pipeline.report.chart import MEDIUM, Chart
from pipeline.report.svg import ASIDE, BLUE, WARM
from pipeline.workflow.artefacts import read_json
from pipeline.workflow.paths import RunPaths


@dataclass(frozen=True)
class ShownVariogram:
    """What the report says about the likeness of parcels.

    Attributes
    ----------
    text
        How far they are alike, and which blocks this suggests.
    n_features
        Number of features.
    block_m
        Side of the blocks of the run, in metres; None if it has none.
    is_too_small
        Whether this side is smaller than the range.
    chart
        Difference by distance; None without enough pairs.
    """

    text: str
    n_features: int
    block_m: float | None
    is_too_small: bool
    chart: Chart | None


def read_variogram(paths: RunPaths, split: Mapping[str, Any]) -> ShownVariogram | None:
    """Read how far parcels are alike.

    Parameters
    ----------
    paths
        The run. Without positions, it has no variogram, and None is returned.
    split
        The section split of its settings.
    """
    if not paths.variogram.is_file():
        return None

    def parse(found: dict[str, Any]) -> ShownVariogram:
        side = None
        if "block" in (split["by"], split["also"]):
            side = float(found["block_m"] if split["block_m"] == "auto" else split["block_m"])
        ranges = [found[key] or 0.0 for key in ("feature_range_m", "class_range_m")]
        n_features = len(found["variograms"]) - 1
        is_too_small = side is not None and side < max(ranges)
        chart = variogram_chart(found, side)
        return ShownVariogram(str(found["text"]), n_features, side, is_too_small, chart)

    return read_json(paths.variogram, parse)


def variogram_chart(found: Mapping[str, Any], block_m: float | None) -> Chart | None:
    """Draw the difference of pairs by their distance, as a share of that of distant pairs.

    Parameters
    ----------
    found
        Content of variogram.json.
    block_m
        Side of the blocks that is marked, in metres.
    """
    metres = found["distances_m"]
    if len(metres) < 2:
        return None
    *features, classes = (_relative(own["semivariances"]) for own in found["variograms"])
    chart = Chart("Difference of the parcels of a pair by their distance.", MEDIUM, 250)
    (axes,) = chart.axes
    axes.plot(metres, classes, color=ASIDE, label="classes")
    if features:
        mean = np.mean(features, axis=0)
        (line,) = axes.plot(metres, mean, "o-", color=BLUE, label="features")
        titles = [f"{_say_metres(d)}: {v:.2f}" for d, v in zip(metres, mean, strict=True)]
        chart.say(line, titles)
    if block_m is not None:
        side = min(max(block_m, metres[0]), metres[-1])
        limit = axes.axvline(side, color=WARM, linestyle="--", label="side of the blocks")
        chart.say(limit, f"Blocks of {_say_metres(block_m)}")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(
        LogLocator(subs=(1, 2, 5) if metres[-1] < 300 * metres[0] else (1,))
    )
    axes.xaxis.set_major_formatter(lambda value, _: _say_metres(value))
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    chart.name_axes("Distance", "Difference")
    chart.key()
    return chart


def _relative(semivariances: Sequence[float]) -> NDArray[np.float64]:
    """Divide a variogram by its median at the longer half of the distances; 0 for a constant."""
    values = np.array(semivariances, np.float64)
    level = float(np.median(values[len(values) // 2 :]))
    return values / level if level > 0 else np.zeros_like(values)


def _say_metres(metres: float) -> str:
    """Return a distance as text, in metres or kilometres."""
    return f"{metres / 1000:.3g} km" if metres >= 1000 else f"{metres:.3g} m"
