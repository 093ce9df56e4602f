"""Repeat requests to services that fail for a while, within one bound of time.

Every request over the network is repeated here and nowhere else: loops within loops multiply their
times. If a service does not answer at all, its further requests fail at once: the bound holds for
all requests of a process together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

# A request that fails is repeated, after waits that double from the first to the longest.
TRIES = 7
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 16.0

# All tries of a request end within this time. A try begins only if its timeouts allow that.
LIMIT_S = 110.0
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 50.0  # between two bytes
# A download that goes on after `LIMIT_S` may take up to this time, if it has this many bytes a
# second.
DOWNLOAD_S, SLOWEST = 600.0, 10_000

Answer = TypeVar("Answer")

# When and why services were given up.
_given_up: dict[str, tuple[float, str]] = {}


class TemporaryError(Exception):
    """A try failed, and the next may succeed; `wait_s` is the wait that the server asks for."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class GivenUpError(Exception):
    """A service has not answered any of the tries; the text is the reason of the last one."""


def until_answered(service: str, request: Callable[[float], Answer]) -> Answer:
    """Repeat a request until it is answered, at most `TRIES` times and for `LIMIT_S`.

    Parameters
    ----------
    service
        Host that answers. If it was given up less than `LIMIT_S` ago, nothing is sent.
    request
        Sends the request once; its argument is the number of seconds that are left.

    Raises
    ------
    GivenUpError
        If every try ended in a TemporaryError. Other errors are not caught.
    """
    started = time.monotonic()
    wait, failure = 0.0, TemporaryError("no try")
    for number in range(TRIES):
        if number and time.monotonic() + wait - started > LIMIT_S - READ_TIMEOUT_S:
            break
        if number:
            time.sleep(wait)
        when, why = _given_up.get(service, (0.0, ""))
        if why and time.monotonic() - when < LIMIT_S:
            raise GivenUpError(f"{why}; {service} is not asked again")
        try:
            answer = request(started + LIMIT_S - time.monotonic())
        except TemporaryError as error:
            failure = error
        else:
            _given_up.pop(service, None)
            return answer
        wait = min(FIRST_WAIT_S * 2**number, LONGEST_WAIT_S)
        if failure.wait_s is not None:
            wait = failure.wait_s
    reason = f"{failure}, after {number} retries" if number else str(failure)
    _given_up[service] = time.monotonic(), reason
    raise GivenUpError(reason)


def within(left_s: float, request: Callable[[], Answer], received: Callable[[], int]) -> Answer:
    """Send a request in a thread that is abandoned if it takes too long.

    The timeouts of sockets neither bound the search for a host's address nor an answer that comes
    byte by byte.

    Parameters
    ----------
    left_s
        How long it may take, unless bytes keep coming.
    request
        Sends the request.
    received
        Returns the number of bytes received up to now.
    """
    outcome: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            outcome.append((True, request()))
        except BaseException as error:  # noqa: BLE001 (raised below)
            outcome.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    waited = left_s
    thread.join(waited)
    while thread.is_alive() and waited < DOWNLOAD_S and received() > SLOWEST * waited:
        thread.join(CONNECT_TIMEOUT_S)
        waited += CONNECT_TIMEOUT_S
    if not outcome:
        raise TemporaryError(f"timed out: no whole answer within {waited:.0f} s")
    ((is_answer, value),) = outcome
    if not is_answer:
        raise value
    return cast("Answer", value)
