"""Find the items of a STAC source: an item collection, a static catalogue or an API."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from geo.errors import InputError
from geo.imagery.acquisition import first_five, is_address, safe_name
from geo.imagery.remote import (
    PASSING,
    TIMEOUT_S,
    PassingFault,
    read_whole,
    until_answered,
    without_signature,
)

logger = logging.getLogger(__name__)

Document = dict[str, Any]

_ITEM_SEARCH = "item-search"
# What an item is kept with; its links to the service change from search to search.
_KEPT = (
    *("type", "stac_version", "stac_extensions", "id", "collection"),
    *("bbox", "geometry", "properties", "assets"),
)


@dataclass(frozen=True)
class Search:
    """What an API is asked for; catalogues and item collections are taken whole.

    Parameters
    ----------
    collections
        Names; the service's own.
    bbox
        West, south, east, north in degrees, or None for the whole world.
    start, end
        First and last day, None: unbounded.
    """

    collections: Sequence[str]
    bbox: Sequence[float] | None
    start: date | None
    end: date | None


def save_items(source: str | Path, folder: Path, search: Search) -> None:
    """Write every item of a source into a file of its own; those that are there and equal stay.

    Parameters
    ----------
    source
        Path or address of an item collection, an item, a catalogue or an API.
    folder
        Where <id>.json are written; files of items that are no longer found are removed.
    search
        What to ask an API for.

    Raises
    ------
    InputError
        If the source cannot be read, is no STAC, or holds no item.
    """
    shown = without_signature(str(source)) if is_address(source) else str(source)
    items = [_kept(item, base) for item, base in find_items(source, search)]
    if not items:
        raise InputError(
            f"{shown} has no STAC item for {search}. Check the dates, the area and the collections."
        )
    items.sort(key=lambda item: (str(item["properties"].get("datetime")), item["id"]))
    folder.mkdir(parents=True, exist_ok=True)
    texts: dict[str, str] = {}
    for item in items:
        id_ = safe_name(str(item["id"]))
        # Two collections may share an id.
        numbered = (f"{id_}_{number}" for number in itertools.count(2))
        name = next(n for n in itertools.chain([id_], numbered) if f"{n}.json" not in texts)
        texts[f"{name}.json"] = json.dumps(item, indent=1, ensure_ascii=False)
    for file in folder.glob("*.json"):
        if file.name not in texts:
            file.unlink()
    for name, text in texts.items():
        file = folder / name
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            temporary = file.with_suffix(".json.part")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(file)
    logger.info("%d items of %s", len(items), shown)


def find_items(source: str | Path, search: Search) -> Iterator[tuple[Document, str]]:
    """Yield the items of a source, each with what its relative addresses start from."""
    if isinstance(source, Path) and source.is_dir():
        source /= "catalog.json"
    address = str(source)
    document = _read(address)
    kind = document.get("type")
    if kind == "FeatureCollection":
        for item in document["features"]:
            yield item, address
    elif kind == "Feature":
        yield document, address
    elif kind in ("Catalog", "Collection"):
        if any(_ITEM_SEARCH in str(entry) for entry in document.get("conformsTo") or ()):
            for item in _ask(address, search):
                links = item.get("links", ())
                yield item, next((x["href"] for x in links if x.get("rel") == "self"), address)
        else:
            yield from _walk(document, address)
    else:
        raise InputError(
            f"{without_signature(address)} is no STAC: its type is {kind!r}, expected an item "
            "collection (FeatureCollection), an item (Feature), a Catalog or a Collection."
        )


def _walk(document: Document, address: str) -> Iterator[tuple[Document, str]]:
    """Yield the items of a static catalogue and of those below it."""
    for link in document.get("links", ()):
        if link.get("rel") in ("item", "child"):
            place = _join(address, link["href"])
            linked = _read(place)
            if linked.get("type") == "Feature":
                yield linked, place
            else:
                yield from _walk(linked, place)


def _ask(address: str, search: Search) -> Iterator[Document]:
    """Search an API."""
    if not search.collections:
        known = _read(f"{address.rstrip('/')}/collections").get("collections", [])
        raise InputError(
            f"{address} has several collections: name those to search as imagery.collections. "
            f"It has: {first_five(sorted(str(entry['id']) for entry in known))}."
        )
    days = [day.isoformat() if day else ".." for day in (search.start, search.end)]
    yield from search_api(
        address, search.collections, search.bbox, None if days == ["..", ".."] else "/".join(days)
    )


def _read(address: str) -> Document:
    """Read a document."""
    try:
        content = read_whole(address) if is_address(address) else Path(address).read_bytes()
        document = json.loads(content)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{without_signature(address)} cannot be read as STAC ({error})."
        ) from error
    if not isinstance(document, dict):
        raise InputError(f"{without_signature(address)} is no STAC: it holds no object.")
    return document


def _kept(item: Mapping[str, Any], base: str) -> Document:
    """Return what is kept of an item, with whole addresses."""
    missing = [name for name in ("id", "properties", "assets") if name not in item]
    if missing:
        raise InputError(f"{base}: item {item.get('id')} has no {', '.join(missing)}.")
    kept = {name: item[name] for name in _KEPT if name in item}
    kept["assets"] = {
        key: {**asset, "href": _join(base, asset["href"])}
        for key, asset in item["assets"].items()
        if "href" in asset
    }
    return kept


def _join(base: str, href: str) -> str:
    """Return the whole of a relative address, or path."""
    if is_address(href):
        return href.removeprefix("file://")
    if is_address(base):
        return urljoin(base, href)
    return str((Path(base).absolute().parent / href).resolve())


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
    """Yield the items that an API finds.

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
