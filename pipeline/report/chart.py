"""The charts of the pages: figures of matplotlib in one style, with hover titles."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from functools import cached_property
from itertools import starmap
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.report.svg import FONT_SIZE, LINE, SOFT, draw_svg, file_svg, page_svg
from pipeline.workflow.rounding import percent

# Widths: small charts stand side by side in a page, wide ones scroll on a phone.
SMALL, MEDIUM, WIDE = 250, 400, 800


class Chart(Figure):
    """A figure whose marks say by hovering or tapping what they show.

    Parameters
    ----------
    label
        What the chart shows. It is the text alternative in a page, and the title of a file.
    width, height
        In CSS pixels, where the chart is not scaled.
    rows
        Relative heights of the axes, from top to bottom. They share the x axis.
    title
        What a page writes above the chart.
    """

    def __init__(
        self, label: str, width: int, height: int, *, rows: Sequence[int] = (1,), title: str = ""
    ) -> None:
        super().__init__(figsize=(width / 72, height / 72), layout="constrained")
        self.set_label(label)
        self.title = title
        self._titles: dict[str, str | Sequence[str]] = {}
        self.patch.set_visible(False)
        self.subplots(len(rows), sharex=True, height_ratios=rows)
        for axes in self.axes:
            axes.patch.set_visible(False)
            axes.spines[:].set_visible(False)
            axes.set_axisbelow(True)
            axes.grid(axis="y", color=LINE, linewidth=1, solid_capstyle="butt")
            axes.tick_params(color=SOFT, labelcolor=SOFT, labelsize=FONT_SIZE)
            axes.tick_params(axis="y", length=0)
            axes.tick_params(axis="x", bottom=axes is self.axes[-1])

    def plot(
        self,
        axes: Axes,
        values: Mapping[Any, float | None],
        style: str,
        title: str | Callable[[Any, float], str],
        **how: Any,
    ) -> Line2D:
        """Plot values over their places, with a title or one for each; leave out None and NaN."""
        known = {x: y for x, y in values.items() if y is not None and math.isfinite(y)}
        (line,) = axes.plot(np.array(list(known)), list(known.values()), style, **how)
        line.set_solid_capstyle("butt")
        self.say(line, title if isinstance(title, str) else list(starmap(title, known.items())))
        return line

    def say(self, artist: Artist, titles: str | Sequence[str]) -> None:
        """Give one title to an artist, or a title to each of its markers."""
        name = f"said-{len(self._titles)}"
        artist.set_gid(name)
        self._titles[name] = titles

    def said(self, artist: Artist) -> str | Sequence[str]:
        """Return the titles of an artist; none is ()."""
        return self._titles.get(artist.get_gid() or "", ())

    def name_axes(self, x: str, y: str = "") -> None:
        """Write what the axes show."""
        self.axes[-1].set_xlabel(x, color=SOFT, size=FONT_SIZE)
        self.axes[-1].set_ylabel(y, color=SOFT, size=FONT_SIZE)

    def key(self) -> None:
        """Write a legend of the labelled artists above the axes."""
        self.legend(
            loc="outside upper left",
            ncols=3,
            frameon=False,
            borderpad=0,
            handlelength=1.4,
            handletextpad=0.5,
            columnspacing=1.2,
            fontsize=FONT_SIZE,
            labelcolor=SOFT,
        )

    def page_svg(self) -> Markup:
        """Return the chart for a page, in its font and colours."""
        return page_svg(self._svg, str(self.get_label()))

    def file_svg(self, note: str = "") -> str:
        """Return the chart for a file of its own, with its label and a note as title."""
        return file_svg(self._svg, f"{self.get_label()} {note}".strip())

    @cached_property
    def _svg(self) -> ET.Element:
        self._show_all_marks()
        return draw_svg(self, str(self.get_label()), self._titles)

    def _show_all_marks(self) -> None:
        """Widen the limits of axes to marks beyond them, which matplotlib would not draw."""
        for axes in self.axes:
            for line in axes.lines:
                if not self.said(line) or isinstance(self.said(line), str):
                    continue
                for values, bounds, set_bounds in (
                    (line.get_xdata(orig=False), axes.get_xbound(), axes.set_xbound),
                    (line.get_ydata(orig=False), axes.get_ybound(), axes.set_ybound),
                ):
                    low, high = float(np.min(values)), float(np.max(values))
                    if low < bounds[0] or high > bounds[1]:
                        set_bounds(min(bounds[0], low), max(bounds[1], high))


def band(
    axes: Axes, dates: Sequence[date], limits: NDArray[np.float64], colour: str
) -> PolyCollection:
    """Fill the area between two limits (T, 2), over the dates on which they are not NaN."""
    known = np.flatnonzero(np.isfinite(limits).all(axis=1))
    days = np.array(dates)[known]
    return axes.fill_between(days, *limits[known].T, facecolor=(colour, 0.25), linewidth=0)


def show_dates(axes: Axes, dates: Sequence[date], most_ticks: int) -> None:
    """Let the x axis of one or more axes show the dates from the first to the last one."""
    locator = AutoDateLocator(minticks=2, maxticks=most_ticks)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.xaxis.get_offset_text().set(size=FONT_SIZE, color=SOFT)
    margin = max(timedelta(days=3), (dates[-1] - dates[0]) / 50)
    axes.set_xlim(*date2num([dates[0] - margin, dates[-1] + margin]))


def show_percent(axes: Axes, low: float = 0, high: float = 1, steps: int = 4) -> list[float]:
    """Let the y axis show shares in about so many steps of round values, and return these."""
    ticks = MaxNLocator(steps, steps=[1, 2, 2.5, 5, 10], min_n_ticks=2).tick_values(low, high)
    digits = 0 if ticks[1] - ticks[0] >= 0.01 else 1
    axes.set_yticks(ticks, [percent(max(tick, 0), digits) for tick in ticks])
    axes.set_ylim(ticks[0], ticks[-1])
    return list(ticks)


def say_day(day: date) -> str:
    """Return a date as text, such as 3 May 2018."""
    return f"{day.day} {day:%B %Y}"
