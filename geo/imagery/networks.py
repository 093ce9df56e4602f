"""Which addresses a catalogue may name: not those that only this machine can reach.

A server on the internet could otherwise let this machine send requests to services behind its
firewall.
"""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache
from typing import Literal
from urllib.parse import urlsplit

from geo.errors import InputError
from geo.imagery.acquisition import PLANETARY_COMPUTER, is_address

Network = Literal["public", "private", "link-local"]


def check_reach(address: str, source: str) -> None:
    """Check that a catalogue may name an address.

    Catalogues on this machine, or on a private network, may name addresses there. Nothing may name
    link-local addresses: clouds give their credentials there.

    Parameters
    ----------
    address
        Address of a document or a file.
    source
        Path or address of the catalogue that the settings name.

    Raises
    ------
    InputError
        If it may not.
    """
    host = _host(address)
    if host is None or (is_address(source) and host == _host(source)):
        return
    network = network_of(host)
    is_local = not is_address(source) or network_of(_host(source) or "") != "public"
    if network == "public" or (network == "private" and is_local):
        return
    remedy = (
        "If you trust the catalogue, copy it to this machine, and set imagery.path to the copy."
        if network == "private"
        else "Leave it out."
    )
    raise InputError(
        f"{address.partition('?')[0]} is on {host}, which is an address of this machine or of a "
        f"private network, and such addresses of a catalogue are not opened. {remedy}"
    )


def _host(address: str) -> str | None:
    """Return the host of an http address, None of other addresses and paths."""
    parts = urlsplit(address.removeprefix(PLANETARY_COMPUTER))
    return parts.hostname if parts.scheme.lower() in ("http", "https") else None


@lru_cache(maxsize=4096)
def network_of(host: str) -> Network:
    """Return the network of a host, by the addresses that its name has now.

    A name without an address is public: a proxy may know it.
    """
    found = {_address(text) for text in resolve(host)}
    if any(address.is_link_local for address in found):
        return "link-local"
    return "public" if all(address.is_global for address in found) else "private"


def resolve(host: str) -> list[str]:
    """Return the addresses of a host, none if it is unknown."""
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None)]
    except (OSError, UnicodeError):
        return []


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address; IPv6 may contain one of IPv4."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address.sixtofour or address
    return address
