"""The report's charts of clouds, confidence and training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from pipeline.report.chart import MEDIUM, WIDE, Chart, say_day, show_dates, show_percent
from pipeline.report.scores import Group, TrainLog, saved_epoch, was_validated
from pipeline.report.svg import ASIDE, BLUE, PAPER, SOFT, WARM
from pipeline.workflow.acquisition_table import AcquisitionRow
from pipeline.workflow.rounding import percent, rounded


def cloud_chart(rows: Sequence[AcquisitionRow], limit: float) -> Chart | None:
    """Draw the cloud fraction of every acquisition over time; None if there are none."""
    if not rows:
        return None
    dates = sorted(row.date for row in rows)
    first, last = dates[0], dates[-1]
    label = f"Cloud fraction of {len(rows)} acquisitions from {first} to {last}."
    chart = Chart(label, WIDE, 230)
    (axes,) = chart.axes
    # The satellites pass every two to five days: bars of two days leave gaps between most.
    width = max(2.0, (last - first).days / 300)
    for is_used, colour, mark, mark_colour, words in (
        (True, BLUE, "o", BLUE, "used"),
        (False, ASIDE, "x", WARM, "set aside (\N{MULTIPLICATION SIGN})"),
    ):
        own = [row for row in rows if row.used is is_used]
        if not own:
            continue
        days = np.array([row.date for row in own])
        titles = [_say_clouds(row) for row in own]
        heights = [row.cloud_fraction or 0 for row in own]
        for bar, title in zip(
            axes.bar(days, heights, width, color=colour, label=words), titles, strict=True
        ):
            chart.say(bar, title)
        # Below the axis, so that acquisitions without clouds are seen, too.
        (marks,) = axes.plot(days, [-0.07] * len(own), mark, color=mark_colour, markersize=4)
        chart.say(marks, titles)
    axes.axhline(
        limit, color=WARM, linestyle="--", linewidth=1, label=f"limit: {percent(limit, 0)} cloud"
    )
    show_percent(axes)
    axes.set_ylim(bottom=-0.12)
    show_dates(axes, dates, 14)
    chart.key()
    return chart


def _say_clouds(row: AcquisitionRow) -> str:
    share = row.cloud_fraction
    clouds = "clouds unknown" if share is None else f"{percent(share, 0)} cloud"
    return f"{say_day(row.date)}: {clouds}, {'used' if row.used else 'set aside'}"


def accuracy_chart(label: str, lowest: float) -> Chart:
    """Return a chart of accuracy over confidence, from about `lowest` to 1, with the diagonal."""
    chart = Chart(label, MEDIUM, 330)
    (axes,) = chart.axes
    ticks = show_percent(axes, lowest, steps=5)
    axes.set_xticks(ticks, [percent(tick, 0) for tick in ticks])
    axes.set_xlim(ticks[0], 1)
    axes.plot([ticks[0], 1], [ticks[0], 1], "--", color=SOFT, linewidth=1)
    chart.name_axes("Confidence", "Right predictions")
    return chart


def calibration_chart(groups: Sequence[Group]) -> Chart:
    """Draw accuracy over confidence, and the diagonal on which they are equal."""
    chart = accuracy_chart(
        "Accuracy of the out-of-fold predictions by their confidence, with 95 % intervals.",
        min(0.9, *(min(group.low, group.confidence) for group in groups)),
    )
    (axes,) = chart.axes
    confidence = [group.confidence for group in groups]
    low, high = [group.low for group in groups], [group.high for group in groups]
    axes.vlines(confidence, low, high, color=(BLUE, 0.22), linewidth=5)
    (line,) = axes.plot(confidence, [group.accuracy for group in groups], "o-", color=BLUE)
    titles = [
        f"{group.count:,} parcels: confidence {percent(group.confidence)}, "
        f"right {percent(group.accuracy)}"
        for group in groups
    ]
    chart.say(line, titles)
    return chart


def training_charts(logs: Mapping[int, TrainLog], keep: str) -> dict[str, Chart]:
    """Draw loss, accuracy and mean IoU per epoch.

    A fold is a line of each part that it was measured on, and a dot at its saved epoch.
    """
    if not logs:
        return {}
    return {
        "loss": _training_chart(logs, keep, "Loss", "loss", 3, math.inf),
        "accuracy": _training_chart(logs, keep, "Overall accuracy (%)", "accuracy", 1, 100),
        "iou": _training_chart(logs, keep, "Mean IoU", "IoU", 3, 1),
    }


def has_validation(logs: Mapping[int, TrainLog]) -> bool:
    """Return whether every epoch of every fold was measured on a validation part."""
    return all(was_validated(epoch) for log in logs.values() for epoch in log.values())


def _training_chart(
    logs: Mapping[int, TrainLog], keep: str, title: str, metric: str, digits: int, whole: float
) -> Chart:
    """Draw one metric of all folds; its values are written as `rounded` does."""
    kinds = {"training": ASIDE} | ({"validation": BLUE} if has_validation(logs) else {})
    label = f"{title} per epoch, {' and '.join(kinds)}, of {len(logs)} folds."
    chart = Chart(label, 340, 250, title=title)
    (axes,) = chart.axes
    keys = {"training": f"train_{metric}", "validation": f"val_{metric}"}
    for kind, colour in kinds.items():
        for fold, log in logs.items():
            # A loss that was not finite is not drawn: the line leaves out its epoch.
            values = {epoch: own[keys[kind]] for epoch, own in log.items()}
            name = kind if fold == min(logs) else None
            words = f"Fold {fold}, {kind}"
            chart.plot(axes, values, "-", words, color=colour, linewidth=1.2, label=name)
    for fold, log in logs.items():
        epoch = saved_epoch(log, keep)
        value = log[epoch][keys[list(kinds)[-1]]]
        words = f"Fold {fold}, epoch {epoch}: {rounded(value, digits, whole)}"
        name = "saved model" if fold == min(logs) else None
        dot = chart.plot(axes, {epoch: value}, "o", words, color=WARM, label=name)
        dot.set(markerfacecolor=PAPER, markeredgewidth=1.8)
    chart.name_axes("Epoch")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    chart.key()
    return chart
