"""How far parcels are alike, for the report: the text of the stage variogram, and a chart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.report.figures import Chart, Dot, Line, Scale, Tick, join_points
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
    distances = np.log10(found["distances_m"])
    if len(distances) < 2:
        return None
    *features, classes = (_relative(own["semivariances"]) for own in found["variograms"])
    curves = {"validation": np.mean(features, axis=0)} if features else {}
    curves["training"] = classes
    highest = max(float(curve.max()) for curve in curves.values())
    x = Scale(distances[0], distances[-1], 46, 428)
    y = Scale(0, max(1.0, math.ceil(5 * highest) / 5), 216, 12)
    lines, dots = [], []
    for kind, curve in curves.items():
        places = [(x(d), y(value)) for d, value in zip(distances, curve, strict=True)]
        lines.append(Line(join_points(places), kind))
        for place, d, value in zip(places, distances, curve, strict=True):
            if kind == "validation":
                dots.append(Dot(*place, kind, f"{_say_metres(10**d)}: {value:.2f}"))
    if block_m is not None:
        side = x(min(max(math.log10(block_m), distances[0]), distances[-1]))
        ends = [(side, y(y.low)), (side, y(y.high))]
        lines.append(Line(join_points(ends), "limit", f"Blocks of {_say_metres(block_m)}"))
    steps = (1, 2, 5) if distances[-1] - distances[0] < 2.5 else (1,)
    powers = range(math.floor(distances[0]), math.ceil(distances[-1]) + 1)
    marked = [step * 10.0**power for power in powers for step in steps]
    inside = [m for m in marked if distances[0] <= math.log10(m) <= distances[-1]]
    return Chart(
        "Difference of the parcels of a pair by their distance.",
        *(440, 260),
        [Tick(x(math.log10(metres)), _say_metres(metres)) for metres in inside],
        [Tick(y(share), f"{share:g}") for share in (0, 0.5, 1)],
        *(lines, dots),
        left=46,
        bottom=44,
        x_title="Distance",
    )


def _relative(semivariances: Sequence[float]) -> NDArray[np.float64]:
    """Divide a variogram by its median at the longer half of the distances; 0 for a constant."""
    values = np.array(semivariances, np.float64)
    level = float(np.median(values[len(values) // 2 :]))
    return values / level if level > 0 else np.zeros_like(values)


def _say_metres(metres: float) -> str:
    """Return a distance as text, in metres or kilometres."""
    return f"{metres / 1000:.3g} km" if metres >= 1000 else f"{metres:.3g} m"
