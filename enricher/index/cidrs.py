# SPDX-License-Identifier: Apache-2.0
"""What lies outside the cluster: the user's CIDR map, and what the IANA registries call globally routable. Pure.

The map names managed services, load balancers and subnets, each with the zone it is in. A line of it that could
mislead (a typing error in a field's name, host bits, a network named twice) is refused whole, with its place.
"""

import ipaddress
from functools import lru_cache
from pathlib import Path, PurePath

import msgspec

from common.errors import Refusal
from common.input import toml
from common.input.files import read_named
from enricher.index.addresses import Prefix, pack, parse_prefix, prefix_of, shortened
from schemas.codec import UNREADABLE

# Of a map: a hundred thousand entries.
MAX_MAP_BYTES = 16 * 1024 * 1024

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_DOCUMENTATION = ipaddress.IPv6Network("3fff::/20")


class Cidr(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry: a network, what it is, and where. `zone_id` is the account-independent id (AWS).

    `ours`: it numbers the cluster's own pods or nodes, all metered. What is sent from it counts where it is sent.
    `external`: it is somebody else's, on the internet, such as a cloud's object store: it only gets a name.
    """

    cidr: str
    name: str
    zone: str | None = None
    region: str | None = None
    zone_id: str | None = None
    ours: bool = False
    external: bool = False


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    cidr: list[Cidr] = []


class CidrMap:
    """Longest-prefix match over the entries."""

    def __init__(self, entries: list[Cidr]) -> None:
        self.entries = tuple(entries)
        self._entries = {prefix: entry for entry in entries if (prefix := parse_prefix(entry.cidr)) is not None}
        self._dividing = [
            prefix
            for prefix, entry in self._entries.items()
            if not (entry.ours or entry.external) and is_public(_first_address(prefix))
        ]
        self._lengths = {
            bits: sorted({prefix.length for prefix in self._entries if prefix.bits == bits}, reverse=True)
            for bits in (32, 128)
        }

    def find(self, packed: bytes) -> Cidr | None:
        """Return the entry of the longest prefix that holds the address (4 or 16 bytes)."""
        for length in self._lengths[8 * len(packed)]:
            entry = self._entries.get(prefix_of(packed, length))
            if entry is not None:
                return entry
        return None

    def find_whole(self, prefix: Prefix) -> Cidr | None:
        """Return the entry of the longest prefix that holds all of `prefix`."""
        for length in self._lengths[prefix.bits]:
            if length <= prefix.length and (entry := self._entries.get(shortened(prefix, length))) is not None:
                return entry
        return None

    def divides(self, prefix: Prefix) -> bool:
        """Return whether an entry of public addresses holds some of `prefix` and not all.

        Our own are not in it: a node folds none that `--cluster-cidrs` names, and those are to be named there. Nor is
        what only has a name on the internet: all of the prefix is external either way.
        """
        return any(
            entry.bits == prefix.bits
            and entry.length > prefix.length
            and entry.network >> (entry.length - prefix.length) == prefix.network
            for entry in self._dividing
        )


def load_cidr_map(path: Path | None, setting: str = "cidr_map") -> CidrMap:
    """Read the map that a setting names, an empty one where it names none; raises `Refusal`."""
    if path is None:
        return CidrMap([])
    return read_cidr_map(read_named(setting, path, "a TOML or JSON file", MAX_MAP_BYTES), str(path))


def read_cidr_map(content: bytes, source: str) -> CidrMap:
    """Read a TOML file of `[[cidr]]` tables, or JSON of the same shape; raise `Refusal` naming what is wrong."""
    try:
        if PurePath(source).suffix == ".json":
            document = msgspec.json.decode(content, type=_Document)
        else:
            document = msgspec.convert(toml.parse(content), _Document)
    except (*UNREADABLE, ValueError) as error:
        raise Refusal(
            f"{source}: {error}; expected [[cidr]] tables with cidr, name, and zone, region, zone_id where known"
        ) from error
    seen: dict[Prefix, int] = {}
    entries = []
    for number, entry in enumerate(document.cidr, 1):
        prefix = _checked(entry, f"{source}: entry {number}")
        if prefix in seen:
            raise Refusal(f"{source}: entry {number}: {entry.cidr} is already entry {seen[prefix]}; keep one of them")
        seen[prefix] = number
        is_plain = parse_prefix(entry.cidr) == prefix  # else an address alone, or with a netmask
        entries.append(entry if is_plain else msgspec.structs.replace(entry, cidr=str(prefix)))
    return CidrMap(entries)


def _checked(entry: Cidr, place: str) -> Prefix:
    try:
        network = ipaddress.ip_network(entry.cidr)
    except ValueError as error:
        raise Refusal(f"{place}: cidr = {entry.cidr!r}: {error}; expected, for example, 10.20.0.0/16") from error
    for field in ("name", "zone", "region", "zone_id"):
        if getattr(entry, field) == "":
            raise Refusal(f"{place}: {field} is empty; leave it out if it is not known")
    prefix = parse_prefix(str(network))
    if prefix is None or (network.version == 6 and prefix.bits == 32):
        raise Refusal(f"{place}: cidr = {entry.cidr!r}: write an IPv4-mapped network as IPv4")
    if entry.external and (entry.ours or entry.zone or entry.zone_id or not is_public(_first_address(prefix))):
        raise Refusal(
            f"{place}: cidr = {entry.cidr!r}: external is of a public network that is in no zone of yours and not ours"
        )
    return prefix


def _first_address(prefix: Prefix) -> bytes:
    return (prefix.network << (prefix.bits - prefix.length)).to_bytes(prefix.bits // 8)


@lru_cache(maxsize=65_536)
def is_public(packed: bytes) -> bool:
    """Return whether the IANA registries call the address globally routable; multicast is not.

    Shared address space, 100.64.0.0/10 (RFC 6598), counts as private: clouds and meshes number nodes from it. Of
    IPv6 only global unicast (2000::/3) can be; what the well-known prefix of NAT64 (RFC 6052) carries is as public
    as the IPv4 address within. The ipaddress module of Python 3.11 knows neither, nor 3fff::/20 (RFC 9637).
    """
    address = ipaddress.ip_address(packed)
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return is_public(packed[12:])
        if address not in _GLOBAL_UNICAST or address in _DOCUMENTATION:
            return False
    return address.is_global and not address.is_multicast


@lru_cache(maxsize=65_536)
def link_reason(packed: bytes) -> str | None:
    """Return why an address can be nobody's: it exists on one link only, or names a group; None for all others.

    Link-local: RFC 3927 and RFC 4291, 2.5.6; neighbour discovery and cloud metadata services use it. Groups:
    multicast and IPv4's limited broadcast (RFC 919).
    """
    address = ipaddress.ip_address(packed)
    if address.is_multicast or packed == b"\xff\xff\xff\xff":
        return "multicast"
    return "link_local" if address.is_link_local else None


def may_be_pods(address: str) -> bool:
    """Return whether the address, as text, may be a pod's: not if it stands for many, or exists on one link only."""
    packed = pack(address)
    return packed is not None and link_reason(packed) is None
