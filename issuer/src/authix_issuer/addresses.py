"""The client's address behind proxies that are trusted.

Rule: a field that a client can write is read only from a peer that is listed, only the one field that the setting
names, and from its right end: each listed hop vouches for the entry that it added, and for none left of that. Where an
entry is malformed or hides the address, the last hop that could be trusted stands for the client.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Final

FORWARDED: Final = "forwarded"
X_FORWARDED_FOR: Final = "x-forwarded-for"
UNKNOWN: Final = "unknown"
"""Stands for a peer without an address."""
_KEPT_OF_IPV4, _KEPT_OF_IPV6 = 24, 48
_PREFIX = 64  # what one IPv6 subscriber has at least: all of it is one client
_LONGEST = 128  # more than any entry needs
_WITH_PORT = re.compile(r"(?:([0-9.]+)|\[([0-9A-Fa-f:.]+)\])(?::[0-9]{1,5})?", re.ASCII)
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110, 5.6.2
_PAIR = re.compile(rf'({_TOKEN})=(?:({_TOKEN})|"([^"\\]*)")', re.ASCII)


class ClientAddresses:
    """``networks`` are the proxies that are trusted, ``field`` the one in which they say for whom they speak."""

    def __init__(self, networks: Sequence[str], field: str) -> None:
        self.field = field
        self._networks = [ipaddress.ip_network(network) for network in networks]
        self._read = _forwarded_for if field == FORWARDED else address_of
        self._is_listed = lru_cache(maxsize=1024)(self._lies_within)

    def find(self, peer: str, said: Sequence[str]) -> str:
        """The address of the client behind ``peer``, whose request has these values of the field."""
        found = address_of(peer)
        if found is None:
            return UNKNOWN
        if self._networks and said:
            for entry in reversed(",".join(said).split(",")):
                if not self._is_listed(found):
                    break
                address = self._read(entry.strip(" \t"))
                if address is None:
                    break
                found = address
        return found

    def _lies_within(self, address: str) -> bool:
        parsed = ipaddress.ip_address(address)
        return any(parsed in network for network in self._networks)


class Kept(StrEnum):
    """How much of a client's address a session keeps, for its user to recognise it."""

    FULL = "full"
    NETWORK = "network"
    """The first 24 bits of an IPv4 address, the first 48 of an IPv6 address."""
    NONE = "none"


def kept(address: str, how: Kept) -> str:
    """What is kept of ``address``; nothing of what is no address."""
    found = address_of(address)
    if how is Kept.NONE or found is None:
        return ""
    if how is Kept.FULL:
        return found
    bits = _KEPT_OF_IPV6 if ":" in found else _KEPT_OF_IPV4
    return str(ipaddress.ip_network((found, bits), strict=False))


def network_of(address: str) -> str:
    """What is limited as one client: an IPv4 address, or the /64 of an IPv6 address."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address, _PREFIX), strict=False))


@lru_cache(maxsize=4096)
def address_of(text: str) -> str | None:
    """The address in ``text``, in one spelling and without a port; None where there is none."""
    if len(text) > _LONGEST or "%" in text:  # a zone means something on its own machine only
        return None
    match = _WITH_PORT.fullmatch(text)
    try:
        address = ipaddress.ip_address(match[1] or match[2] if match else text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def _forwarded_for(element: str) -> str | None:
    """The address of one element of ``Forwarded`` (RFC 7239, 4); a quoted comma makes it none."""
    named = []
    for part in element.split(";"):
        pair = _PAIR.fullmatch(part.strip(" \t"))
        if pair is None:
            return None
        if pair[1].lower() == "for":
            named.append(pair[2] or pair[3] or "")
    return address_of(named[0]) if len(named) == 1 else None
