"""The dates of files by their names: which of several dates is that of sensing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

from geo.formats.archives import FileName, place_of
from geo.formats.dates import Period, date_by, dates_in, image_day, middle, period_in

# Composites of a quarter of a year.
_LONGEST_PERIOD = timedelta(100)
# Folders by year, month and day; above images of composites by year and month.
_DAY_FOLDERS = re.compile(r"/(20\d\d)/(0?[1-9]|1[0-2])/(?:(0?[1-9]|[12]\d|3[01])/)?")
# Dates by level: in the name of a file, of its folder, of the folder above, and in folders by day.
_Levels = tuple[tuple[date, ...], ...]


def dates_of(names: Sequence[FileName]) -> tuple[dict[Path, date], dict[Path, str]]:
    """Return the dates of files by their names and those of their folders.

    A date that is the same in all names (of production, of a collection) is not the date of
    sensing, if another one differs. Of composites, the date is the middle of their period.

    Returns
    -------
    tuple of dict
        The date of every file that has one; and what is wrong with the names of others: a day that
        does not exist, or two dates that both differ from file to file.
    """
    found: dict[Path, date] = {}
    problems: dict[Path, str] = {}
    alike: dict[tuple[int, ...], list[tuple[FileName, _Levels]]] = {}
    for name in names:
        pattern, period = name.convention.date, name.convention.period
        try:
            if pattern is not None:
                day = date_by(pattern, place_of(name.path))
                if day is not None:
                    found[name.path] = image_day(day, period)
                continue
            levels = _levels(name.path)
            stated = _period(name.path) if period is not None and not any(levels) else None
            if stated is not None:
                found[name.path] = image_day(*stated)
        except ValueError as error:
            problems[name.path] = f"The name of {name.path} holds no date ({error}). Rename it."
            continue
        if any(levels):
            alike.setdefault(tuple(map(len, levels)), []).append((name, levels))
    for members in alike.values():
        days, unclear = _choose(members)
        found |= days
        problems |= unclear
    return found, problems


def _levels(path: Path) -> _Levels:
    """Return the dates in the name of a file and its folders.

    Raises
    ------
    ValueError
        If none is a date, and one looks like it: 20180231.
    """
    levels: list[tuple[date, ...]] = []
    errors: list[ValueError] = []
    for text in _names(path):
        try:
            levels.append(tuple(dates_in(text)))
        except ValueError as error:
            levels.append(())
            errors.append(error)
    if errors and not any(levels):
        raise errors[0]
    return tuple(levels)


def contain_periods(names: Sequence[FileName]) -> bool:
    """Return whether names contain months or weeks instead of days."""
    try:
        return any(_period(name.path) for name in names)
    except ValueError:
        return False


def _period(path: Path) -> tuple[date, Period] | None:
    """Return the month, ten days or week in the name of a file or its folders."""
    return next((found for name in _names(path) if (found := period_in(name))), None)


def _names(path: Path) -> tuple[str, str, str, str]:
    """Return the names that may contain the date: of the file, its two folders, and 2018/4/5."""
    match = _DAY_FOLDERS.search(path.as_posix())
    numbers = map(int, filter(None, match.groups())) if match else ()
    above = "-".join(f"{number:02}" for number in numbers)
    return path.stem, path.parent.name, path.parent.parent.name, above


def _choose(
    members: Sequence[tuple[FileName, _Levels]],
) -> tuple[dict[Path, date], dict[Path, str]]:
    """Return the dates of files whose names contain equally many dates, or why they are unclear."""
    rows = [levels for _, levels in members]
    differing = {
        at: [j for j in range(len(days)) if len({row[at][j] for row in rows}) > 1]
        for at, days in enumerate(rows[0])
    }
    with_dates = next(at for at, days in enumerate(rows[0]) if days)
    level = next((at for at, columns in differing.items() if columns), with_dates)
    columns = differing[level]
    is_clear = len(columns) < 2 or all(len({row[level][j] for j in columns}) == 1 for row in rows)
    chosen: dict[Path, date] = {}
    unclear: dict[Path, str] = {}
    for name, row in members:
        days, period = row[level], name.convention.period
        if name.is_sensing_first:
            chosen[name.path] = row[with_dates][0]
        elif period is not None and len(columns) != 1 and _is_period(days):
            chosen[name.path] = middle(*days)
        elif is_clear:
            chosen[name.path] = image_day(days[columns[0] if columns else 0], period)
        else:
            differ = " and ".join(str(days[column]) for column in columns)
            unclear[name.path] = (
                f"The names of {len(members)} files contain several dates that differ from file to "
                f"file, such as {differ} in {name.path}: it is not clear which is that of the "
                "image. Say where it is with imagery.convention: {date: ...}, the text around it "
                "with %Y, %m and %d in place of its parts. If they are the first and the last day "
                "of composites, set imagery.convention: {period: ten_days}."
            )
    return chosen, unclear


def _is_period(days: Sequence[date]) -> bool:
    """Return whether two dates can be the first and the last day of a composite."""
    return len(days) == 2 and timedelta(0) <= days[1] - days[0] <= _LONGEST_PERIOD
