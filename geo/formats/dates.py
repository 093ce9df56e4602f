"""Dates in the names of files, folders and layers: days, days of the year, and periods."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Literal

# A number of days, or a period of the calendar. The third ten days of a month last to its end.
Period = Literal["month", "ten_days"] | int

_DAY = r"(?P<Y>20\d\d)(?P<s>[-_.]?)(?P<m>0[1-9]|1[0-2])(?P=s)(?P<d>0[1-9]|[12]\d|3[01])"
# Day of the year: 2020123T105031 (HLS), doy2020123 (AppEEARS), A2020123 (MODIS), 2020-123.
_DAY_OF_YEAR = r"(?:doy|DOY|A)?(?P<Yj>20\d\d)-?(?P<j>0(?:0[1-9]|[1-9]\d)|[12]\d\d|3[0-5]\d|36[0-6])"
_DATE = re.compile(
    rf"(?<![0-9]){_DAY}(?![0-9])|(?<![A-Za-z0-9]){_DAY_OF_YEAR}(?=[Tt]\d{{4}}|[^A-Za-z0-9]|$)"
)
_MONTH = re.compile(
    r"(?<![0-9])(?P<Y>20\d\d)(?:[-_.]?M?)(?P<m>0[1-9]|1[0-2])(?![-_.]?\d\d)(?:[-_]?D(?P<D>[123]))?"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)

_WEEK = re.compile(r"(?<![0-9])(20\d\d)-?W([0-5]\d)(?![0-9])", re.IGNORECASE)

# The codes of strftime that a pattern of the user may contain.
_CODES = {
    **{"%Y": r"(?P<Y>20\d\d)", "%y": r"(?P<y>\d\d)", "%m": r"(?P<m>\d\d?)", "%d": r"(?P<d>\d\d?)"},
    **{"%j": r"(?P<j>\d{3})", "%b": r"(?P<b>[A-Za-z]{3})"},
}
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]


def dates_in(text: str) -> list[date]:
    """Return the dates in a text, in their order.

    They are written as YYYYMMDD, YYYY-MM-DD, YYYY_MM_DD or YYYY.MM.DD, or with the day of the year
    as YYYYDDD.

    Raises
    ------
    ValueError
        If the month or year has no such day.
    """
    return [_day(match.groupdict()) for match in _DATE.finditer(text)]


def date_in(text: str) -> date | None:
    """Return the first date in a text, or None; see `dates_in`.

    In names of Sentinel-2 products, the date of sensing comes before the date of processing.
    """
    match = _DATE.search(text)
    return None if match is None else _day(match.groupdict())


def period_in(text: str) -> tuple[date, Period] | None:
    """Return the first day of a month, ten days or a week (YYYY-MM, YYYY-MM-D2, YYYY-W19), or None.

    Raises
    ------
    ValueError
        If the year has no such week.
    """
    if week := _WEEK.search(text):
        return date.fromisocalendar(int(week[1]), int(week[2]), 1), 7
    match = _MONTH.search(text)
    if match is None:
        return None
    tens = int(match["D"]) - 1 if match["D"] else 0
    day = date(int(match["Y"]), int(match["m"]), 1 + 10 * tens)
    return day, "ten_days" if match["D"] else "month"


def date_pattern(text: str) -> re.Pattern[str]:
    """Return a regular expression in which %Y, %y, %m, %d, %b and %j are parts of a date.

    Raises
    ------
    ValueError
        If the text is not a regular expression, or does not determine a day or month.
    """
    expression = text
    for code, group in _CODES.items():
        expression = expression.replace(code, group, 1)
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from error
    names = set(pattern.groupindex)
    if not names & {"Y", "y"} or not names & {"m", "b", "j"}:
        raise ValueError(f"{text!r} must contain %Y or %y, and %m and %d, or %j: _%Y%m%d_")
    return pattern


def date_by(pattern: re.Pattern[str], text: str) -> date | None:
    """Return the date at the last place of a text where a `date_pattern` applies, or None."""
    matches = list(pattern.finditer(text))
    return _day(matches[-1].groupdict()) if matches else None


def _day(parts: Mapping[str, str | None]) -> date:
    """Return the date of the parts that an expression has found."""
    year = int(parts.get("Y") or parts.get("Yj") or f"20{parts.get('y')}")
    if parts.get("j"):
        number = int(parts["j"] or 0)
        day = date(year, 1, 1) + timedelta(number - 1)
        if day.year != year:
            raise ValueError(f"{year} has no day {number}")
        return day
    name = (parts.get("b") or "").lower()
    if name and name not in _MONTHS:
        raise ValueError(f"{name} is not a month")
    month = _MONTHS.index(name) + 1 if name else int(parts.get("m") or 1)
    return date(year, month, int(parts.get("d") or 1))


def _bounds(day: date, period: Period) -> tuple[date, date]:
    """Return the first and last day of the period that begins at a day, or is named by one.

    Archives name a month by its first day, its last, or, as THEIA's syntheses, the 15th.
    """
    if isinstance(period, int):
        return day, day + timedelta(period - 1)
    if period == "ten_days" and day.day <= 20:
        first = day.replace(day=1 if day.day <= 10 else 11)
        return first, first + timedelta(9)
    last = (day.replace(day=1) + timedelta(31)).replace(day=1) - timedelta(1)
    return day.replace(day=1 if period == "month" else 21), last


def middle(first: date, last: date) -> date:
    """Return the day in the middle of a period, the earlier of two."""
    return first + (last - first) // 2


def image_day(day: date, period: Period | None) -> date:
    """Return the day of an image, or the middle of the period of a composite."""
    return day if period is None else middle(*_bounds(day, period))


def day_or_period_in(text: str, period: Period | None) -> date | None:
    """Return the day of an image by a text; only composites can state a month or a week.

    A day or week that does not exist is not a date.
    """
    try:
        day = date_in(text)
        stated = None if period is None or day is not None else period_in(text)
    except ValueError:
        return None
    if day is not None:
        return image_day(day, period)
    return None if stated is None else image_day(*stated)
