"""Search a STAC API, page by page, tried again where it does not answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from geo.errors import InputError
from geo.imagery.remote import PASSING, TIMEOUT_S, PassingFault, until_answered, without_signature

_ITEMS_A_PAGE = 100


class _PatientIO(StacApiIO):
    """Requests that are tried again as those for pixels are."""

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """Ask until there is an answer."""
        ask = super().request

        def attempt() -> str:
            try:
                return ask(href, method, headers, parameters)
            except APIError as error:
                # Without a status, the connection failed or the answer broke off.
                status = getattr(error, "status_code", None)
                if status is not None and status not in PASSING:
                    raise
                raise PassingFault(
                    f"the server answered {status}" if status else "the connection failed"
                ) from error

        return until_answered(without_signature(href), attempt)


def search_api(
    address: str, collections: Sequence[str], bbox: Sequence[float] | None, days: str | None
) -> Iterator[dict[str, Any]]:
    """Give the items that an API finds.

    Parameters
    ----------
    address
        Of its landing page.
    collections
        Where to look.
    bbox
        West, south, east, north in degrees, or None.
    days
        "2018-01-01/2018-12-31", either day .. where unbounded; None: any time.

    Raises
    ------
    InputError
        If the API refuses the search, or still does not answer after the last try.
    """
    try:
        client = Client.open(address, stac_io=_PatientIO(timeout=TIMEOUT_S, max_retries=0))
        found = client.search(
            collections=list(collections),
            bbox=None if bbox is None else tuple(bbox),
            datetime=days,
            limit=_ITEMS_A_PAGE,
        )
        yield from found.items_as_dicts()
    except APIError as error:
        raise InputError(
            f"{without_signature(address)} refuses the search for {', '.join(collections)} "
            f"({error}). Check imagery.collections and imagery.bbox."
        ) from error
