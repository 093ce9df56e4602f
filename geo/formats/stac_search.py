"""Find the items of a STAC source: an item collection, a static catalogue or an API."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from pystac.errors import STACError
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from geo.documents import LARGEST_JSON, read_limited
from geo.errors import InputError, reading
from geo.imagery.acquisition import first_five, is_address, safe_name
from geo.imagery.imagery_files import unused_name
from geo.imagery.networks import check_reach
from geo.imagery.remote import read_bytes, web_session, without_signature

logger = logging.getLogger(__name__)

Document = dict[str, Any]

_ITEM_SEARCH = "item-search"  # conformance class of APIs
_ITEMS_A_PAGE = 100
# Bounds of a catalogue or an answer; static catalogues have about 6 levels (year, zone, square).
MOST_DOCUMENTS = 100_000
MOST_DEPTH = 32
_REPORT = "Download it again, or report it to the service."
# The members of an item that are kept. Its links are left out: they differ between searches.
_MEMBERS = (
    *("type", "stac_version", "stac_extensions", "id", "collection"),
    *("bbox", "geometry", "properties", "assets"),
)


@dataclass(frozen=True)
class Search:
    """The query for an API. Catalogues and item collections are read completely.

    Parameters
    ----------
    collections
        Names of the service's collections.
    bbox
        West, south, east, north in degrees, or None for the whole world.
    start, end
        First and last day, None: no limit.
    """

    collections: Sequence[str]
    bbox: Sequence[float] | None
    start: date | None
    end: date | None


def search_items(source: str | Path, search: Search) -> dict[str, Document]:
    """Return the items of a source by id, with absolute addresses, in order of time.

    Parameters
    ----------
    source
        Path or address of an item collection, an item, a catalogue or an API.
    search
        The query for an API.

    Returns
    -------
    dict
        The key is the id of the item, as a safe file name. Items of different collections may have
        the same id: a number is appended to the keys of all but the first.

    Raises
    ------
    InputError
        If the source cannot be read, is not STAC, or has no item.
    """
    shown = _shown(str(source))
    items = [_normalised(item, base) for item, base in _find_items(source, search)]
    if not items:
        raise InputError(
            f"{shown} has no STAC item for {search}. Check the dates, the area and the collections."
        )
    for item in items:
        for asset in item["assets"].values():
            check_reach(asset["href"], str(source))
    items.sort(key=lambda item: (str(item["properties"].get("datetime")), str(item["id"])))
    found: dict[str, Document] = {}
    taken: set[str] = set()
    for item in items:
        found[unused_name(safe_name(str(item["id"])), taken)] = item
    logger.info("%d items of %s", len(items), shown)
    return found


def _find_items(source: str | Path, search: Search) -> Iterator[tuple[Document, str]]:
    """Yield the items of a source, each with the base of its relative addresses."""
    if isinstance(source, Path) and source.is_dir():
        source /= "catalog.json"
    address = str(source)
    client = StacApiIO(max_retries=None)
    client.session = web_session(address)
    document = _read(address, client)
    kind = document.get("type")
    if kind == "FeatureCollection":
        for item in _features(document, address):
            yield item, address
    elif kind == "Feature":
        yield document, address
    elif kind in ("Catalog", "Collection"):
        if any(_ITEM_SEARCH in str(entry) for entry in document.get("conformsTo") or ()):
            for item in _search_api(address, search, client):
                yield item, next(iter(_places(item, address, "self")), address)
        else:
            yield from _walk(document, address, client)
    else:
        raise InputError(
            f"{without_signature(address)} is not STAC: its type is {kind!r}, expected an item "
            "collection (FeatureCollection), an item (Feature), a Catalog or a Collection."
        )


def _walk(document: Document, address: str, client: StacApiIO) -> Iterator[tuple[Document, str]]:
    """Yield the items of a static catalogue and of the catalogues below it, each once.

    Raises
    ------
    InputError
        If a catalogue contains itself, or more than `MOST_DEPTH` levels or `MOST_DOCUMENTS` files.
    """
    read = {address}
    # The links that are left to follow, of every level from the catalogue down to the current one.
    levels = [(address, iter(_places(document, address, "item", "child")))]
    # The catalogues of these levels.
    documents = [document]
    while levels:
        place = next(levels[-1][1], None)
        if place is None:
            levels.pop()
            documents.pop()
            continue
        above = [address for address, _ in levels]
        if place in above:
            loop = " -> ".join(map(_shown, [*above[above.index(place) :], place]))
            raise InputError(f"The catalogue contains itself: {loop}. Remove the last link.")
        if place in read:
            continue
        read.add(place)
        if len(levels) > MOST_DEPTH or len(read) > MOST_DOCUMENTS:
            raise InputError(
                f"{_shown(address)} has more than {MOST_DEPTH} levels or {MOST_DOCUMENTS:,} files, "
                f"the most that are read, at {_shown(place)}. Set imagery.path to a part of the "
                "catalogue."
            )
        linked = _read(place, client)
        if linked.get("type") == "Feature":
            yield _completed(linked, documents[-1]), place
        else:
            documents.append(linked)
            levels.append((place, iter(_places(linked, place, "item", "child"))))


def _completed(item: Document, collection: Document) -> Document:
    """Return an item with what its collection states of all items and of their assets.

    These are `item_assets`, and `properties` of STAC before 0.9 (extension commons). What the item
    states itself has precedence.
    """
    commons, templates = collection.get("properties"), collection.get("item_assets")
    if isinstance(commons, dict) and isinstance(item.get("properties"), dict):
        item = {**item, "properties": commons | item["properties"]}
    assets = item.get("assets")
    if isinstance(templates, dict) and isinstance(assets, dict):
        whole = {
            key: {**templates[key], **asset}
            if isinstance(asset, dict) and isinstance(templates.get(key), dict)
            else asset
            for key, asset in assets.items()
        }
        item = {**item, "assets": whole}
    return item


def _places(document: Document, base: str, *relations: str) -> list[str]:
    """Return the places of a document's links of some relations."""
    with reading(_shown(base), "STAC, by its links", _REPORT):
        return [
            _join(base, link["href"])
            for link in document.get("links") or ()
            if link.get("rel") in relations
        ]


def _features(document: Document, address: str) -> list[Document]:
    """Return the items of a collection or of a page of an answer."""
    features = document.get("features")
    if isinstance(features, list) and all(isinstance(item, dict) for item in features):
        return features
    raise InputError(f"{_shown(address)} is not STAC: its features are no list of items. {_REPORT}")


def _search_api(address: str, search: Search, client: StacApiIO) -> Iterator[Document]:
    """Yield the items that an API finds, page by page."""
    if not search.collections:
        found = _read(f"{address.rstrip('/')}/collections", client).get("collections", [])
        with reading(_shown(address), "a STAC API, by its collections", _REPORT):
            names = [str(entry["id"]) for entry in found]
        raise InputError(
            f"{without_signature(address)} has several collections: set imagery.collections to "
            f"those to search. It has: {first_five(sorted(names))}."
        )
    days = "/".join(day.isoformat() if day else ".." for day in (search.start, search.end))
    try:
        with reading(_shown(address), "a STAC API", _REPORT):
            items = Client.open(address, stac_io=client).search(
                collections=list(search.collections),
                bbox=None if search.bbox is None else tuple(search.bbox),
                datetime=None if days == "../.." else days,
                limit=_ITEMS_A_PAGE,
            )
            yield from _items_of(items.pages_as_dicts(), address)
    except (APIError, STACError) as error:
        raise InputError(
            f"{without_signature(address)} did not answer the search for "
            f"{', '.join(search.collections)} ({_reason(error)}). Check imagery.collections and "
            "imagery.bbox, or run it again when the service answers."
        ) from None  # its text contains the whole address


def _items_of(pages: Iterable[Document], address: str) -> Iterator[Document]:
    """Yield the items of the pages of an answer, which must not repeat or be endless."""
    ids: set[tuple[str, str]] = set()
    for page in pages:
        found = _features(page, address)
        of_page = {(str(item.get("collection")), str(item.get("id"))) for item in found}
        if of_page <= ids or len(ids) > MOST_DOCUMENTS:
            problem = (
                "sends the same page of items again and again"
                if of_page <= ids
                else f"finds more than {MOST_DOCUMENTS:,} items, the most that are read"
            )
            raise InputError(
                f"{_shown(address)} {problem}. Narrow the search: imagery.start, imagery.end, "
                "imagery.bbox. If that does not help, report it to the service."
            )
        ids |= of_page
        yield from found


def _read(address: str, client: StacApiIO) -> Document:
    """Read a document from a disk, an HTTP server or an S3 bucket."""
    shown = _shown(address)
    try:
        if address.startswith(("http://", "https://")):
            content: str | bytes = client.request(address)
        elif is_address(address):
            content, size = read_bytes(address, (0, LARGEST_JSON))
            if size > LARGEST_JSON:
                raise InputError(f"{shown} has {size:,} bytes, at most {LARGEST_JSON:,} are read.")
        else:
            content = read_limited(Path(address), LARGEST_JSON)
        document = json.loads(content)
    except APIError as error:
        raise InputError(f"{shown} cannot be read as STAC ({_reason(error)}).") from None
    except RecursionError:
        raise InputError(
            f"{shown} cannot be read as STAC (its brackets are nested too deeply)."
        ) from None
    except ValueError as error:  # neither JSON nor UTF-8
        raise InputError(f"{shown} cannot be read as STAC ({error}).") from error
    if not isinstance(document, dict):
        raise InputError(f"{shown} is not STAC: it does not contain a JSON object.")
    return document


def _shown(place: str) -> str:
    """Return a path, or an address without its signature, for messages."""
    return without_signature(place) if is_address(place) else place


def _reason(error: Exception) -> str:
    """Return what an HTTP server answered, without the queries of addresses."""
    status = getattr(error, "status_code", None)  # None: there was no answer
    answer = re.sub(r"\?\S*", "", str(error))
    return answer if status is None else f"the server answered {status}: {answer[:500]}"


def _normalised(item: Mapping[str, Any], base: str) -> Document:
    """Return an item without the members that differ between searches, with absolute addresses."""
    missing = [name for name in ("id", "properties", "assets") if name not in item]
    if missing:
        raise InputError(f"{_shown(base)}: item {item.get('id')} has no {', '.join(missing)}.")
    kept = {name: item[name] for name in _MEMBERS if name in item}
    with reading(_shown(base), "a STAC item", _REPORT):
        kept["properties"] = dict(item["properties"])
        kept["assets"] = {
            key: {**asset, "href": _join(base, asset["href"])}
            for key, asset in item["assets"].items()
            if "href" in asset
        }
    return kept


def _join(base: str, href: str) -> str:
    """Return a relative address or path as an absolute one.

    Only a document on this machine can name a file of this machine (file://).
    """
    if is_address(base):
        return urljoin(base, href)
    if is_address(href) and not href.startswith("file://"):
        return href
    place = Path(base).absolute().parent / href.removeprefix("file://")
    return os.path.realpath(place)  # Path.resolve fails at a link to itself
