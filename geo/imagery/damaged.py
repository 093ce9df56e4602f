"""Products that cannot be used: refused in one error, or set aside by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from geo.errors import SET_ASIDE, InputError, UnavailableError
from geo.imagery.acquisition import first_five

_Item = TypeVar("_Item")
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Damaged:
    """A product that cannot be used, and the reason."""

    product: Path
    problem: str


def read_each(
    items: Iterable[_Item],
    read: Callable[[_Item], _Read],
    damaged: list[Damaged] | None = None,
    product: Callable[[_Item], Path] = Path,  # type: ignore[assignment]
) -> list[_Read]:
    """Read every item; report all failures in one error, or set the failed ones aside.

    Parameters
    ----------
    items
        Items to read.
    read
        Function that reads one item.
    damaged
        Items that cannot be read are appended to this list; None: they are refused.
    product
        Function that returns the product of an item. By default, the item is the product's path.

    Raises
    ------
    InputError
        If an item is refused; the message contains the first five.
    """
    found, failed = [], []
    for item in items:
        try:
            found.append(read(item))
        except UnavailableError:
            raise
        except InputError as error:
            failed.append(Damaged(product(item), str(error)))
    if damaged is None:
        refuse_damaged(failed, len(found) + len(failed))
    else:
        damaged += failed
    return found


@contextmanager
def setting_aside(name: str, unreadable: dict[str, str] | None) -> Iterator[None]:
    """Note an acquisition whose pixels cannot be read, {name: problem}, or refuse it (None).

    Raises
    ------
    InputError
        If it is refused, or if nothing can be read now.
    """
    try:
        yield
    except UnavailableError:
        raise
    except InputError as error:
        if unreadable is None:
            raise InputError(f"{error}\n{SET_ASIDE}") from error
        unreadable[name] = str(error)


def refuse_damaged(damaged: Sequence[Damaged], total: int) -> None:
    """Raise one error about all products that cannot be used, if there are any."""
    if damaged:
        text = f"{len(damaged)} of {total} acquisitions cannot be read:\n  "
        problems = first_five([item.problem for item in damaged], "\n  ")
        remedy = f"\n{SET_ASIDE}" if len(damaged) < total else ""
        raise InputError((text if total > 1 else "") + problems + remedy)


def refuse_two_levels(level_2a: Sequence[Path], level_1c: Sequence[Path]) -> None:
    """Raise an error if there are products of both levels: their reflectances differ."""
    if level_2a and level_1c:
        raise InputError(
            f"{len(level_2a)} products of level 2A are mixed with {len(level_1c)} of level 1C, "
            "whose reflectances differ: keep one level. "
            f"Level 1C: {first_five([str(path) for path in level_1c])}."
        )
