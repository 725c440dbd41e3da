# SPDX-License-Identifier: Apache-2.0
"""Reads the ranges that clouds publish of themselves: what of the internet is an object store, a registry, a CDN. Pure.

AWS: ip-ranges.json (docs.aws.amazon.com/vpc/latest/userguide/aws-ip-ranges.html). Google: cloud.json
(support.google.com/a/answer/10026322). Azure: ServiceTags_Public (learn.microsoft.com/azure/virtual-network).
A network that several services share has the names of all; one that says no more than a wider one is left out.
"""

import ipaddress
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import msgspec

from common.errors import Refusal
from enricher.index.addresses import Prefix, parse_prefix
from enricher.index.cidrs import Cidr
from history.cidrs.clouds import CloudName, read

# What stands for the whole cloud says less than a service of it.
_WHOLE = ("AMAZON", "AzureCloud", "Google Cloud")
_MOST_NAMES = 3


_Ranges = Iterator[tuple[str, str, str]]


class _AwsRange(msgspec.Struct, frozen=True):
    ip_prefix: str
    service: str
    region: str


class _AwsIpv6Range(msgspec.Struct, frozen=True):
    ipv6_prefix: str
    service: str
    region: str


class _AwsRanges(msgspec.Struct, frozen=True):
    prefixes: list[_AwsRange] = []
    ipv6_prefixes: list[_AwsIpv6Range] = []


class _GcpRange(msgspec.Struct, frozen=True):
    service: str
    scope: str
    ipv4_prefix: str | None = msgspec.field(name="ipv4Prefix", default=None)
    ipv6_prefix: str | None = msgspec.field(name="ipv6Prefix", default=None)


class _GcpRanges(msgspec.Struct, frozen=True):
    prefixes: list[_GcpRange] = []


class _AzureTag(msgspec.Struct, rename="camel", frozen=True):
    address_prefixes: list[str]
    region: str | None = None


class _NamedTag(msgspec.Struct, frozen=True):
    name: str
    properties: _AzureTag


class _AzureTags(msgspec.Struct, frozen=True):
    values: list[_NamedTag] = []


def is_published(content: Any) -> bool:
    """Return whether a file is one of published ranges, whichever cloud's."""
    return isinstance(content, dict) and any(isinstance(content.get(key), list) for key in ("prefixes", "values"))


def ranges(
    cloud: CloudName, documents: Sequence[tuple[str, Any]], regions: Collection[str], known: Collection[str]
) -> list[Cidr]:
    """Return entries that name what is external, but for networks that are known already; raise `Refusal`.

    `regions`: only of these, and of none where a range is global; empty: all.
    """
    of = {"aws": _aws, "gcp": _gcp, "azure": _azure}[cloud]
    services: dict[Prefix, set[tuple[str, str]]] = defaultdict(set)
    for place, content in documents:
        for network, service, region in of(place, content):
            if not regions or region in regions:
                services[_prefix(place, network)].add((service, region))
    names = {prefix: _name(cloud, each) for prefix, each in services.items()}
    skipped = {parse_prefix(cidr) for cidr in known}
    return [
        Cidr(cidr=str(prefix), name=name, external=True)
        for prefix, name in sorted(names.items())
        if prefix not in skipped and _wider(prefix, names) != name
    ]


def _aws(place: str, content: Any) -> _Ranges:
    file = read(place, content, _AwsRanges, "ip-ranges.json as AWS publishes it")
    yield from ((each.ip_prefix, each.service, each.region) for each in file.prefixes)
    yield from ((each.ipv6_prefix, each.service, each.region) for each in file.ipv6_prefixes)


def _gcp(place: str, content: Any) -> _Ranges:
    wanted = "cloud.json as Google publishes it"
    for each in read(place, content, _GcpRanges, wanted).prefixes:
        network = each.ipv4_prefix or each.ipv6_prefix
        if network is None:
            raise Refusal(f"{place}: a range of {each.service} without a prefix; expected {wanted}")
        yield network, each.service, each.scope


def _azure(place: str, content: Any) -> _Ranges:
    for each in read(place, content, _AzureTags, "ServiceTags_Public as Azure publishes it").values:
        for network in each.properties.address_prefixes:
            yield network, each.name.partition(".")[0], each.properties.region or ""


def _prefix(place: str, network: str) -> Prefix:
    try:
        prefix = parse_prefix(str(ipaddress.ip_network(network)))
    except ValueError as error:
        raise Refusal(f"{place}: {error}") from error
    if prefix is None:
        raise Refusal(f"{place}: {network!r}: expected a network")
    return prefix


def _name(cloud: CloudName, services: Collection[tuple[str, str]]) -> str:
    """Return what a network is called: its services, and their region if they have one alone."""
    own = {service for service, _ in services if service not in _WHOLE} or {service for service, _ in services}
    named = {region for service, region in services if service in own and region}
    shown = sorted(own)[:_MOST_NAMES] + (["..."] if len(own) > _MOST_NAMES else [])
    region = f"/{named.pop()}" if len(named) == 1 else ""
    return f"{cloud}/{'+'.join(shown)}{region}"


def _wider(prefix: Prefix, names: dict[Prefix, str]) -> str | None:
    """Return the name of the longest other network that holds this one."""
    for length in range(prefix.length - 1, 0, -1):
        shorter = Prefix(prefix.bits, length, prefix.network >> (prefix.length - length))
        if (name := names.get(shorter)) is not None:
            return name
    return None
