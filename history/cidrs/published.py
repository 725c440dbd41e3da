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

from common.errors import Refusal
from enricher.index.addresses import Prefix, parse_prefix
from enricher.index.cidrs import Cidr
from history.cidrs.clouds import CloudName

# What stands for the whole cloud says less than a service of it.
_WHOLE = ("AMAZON", "AzureCloud", "Google Cloud")
_MOST_NAMES = 3


def is_published(content: Any) -> bool:
    """Return whether a file is one of published ranges, whichever cloud's."""
    return isinstance(content, dict) and any(isinstance(content.get(key), list) for key in ("prefixes", "values"))


def ranges(
    cloud: CloudName, documents: Sequence[tuple[str, Any]], regions: Collection[str], known: Collection[str]
) -> list[Cidr]:
    """Return entries that name what is external, but for networks that are known already; raise `Refusal`.

    `regions`: only of these, and of none where a range is global; empty: all.
    """
    read = {"aws": _aws, "gcp": _gcp, "azure": _azure}[cloud]
    services: dict[Prefix, set[tuple[str, str]]] = defaultdict(set)
    for place, content in documents:
        for network, service, region in read(place, content):
            if not regions or region in regions:
                services[_prefix(place, network)].add((service, region))
    names = {prefix: _name(cloud, each) for prefix, each in services.items()}
    skipped = {parse_prefix(cidr) for cidr in known}
    return [
        Cidr(cidr=_text(prefix), name=name, external=True)
        for prefix, name in sorted(names.items())
        if prefix not in skipped and _wider(prefix, names) != name
    ]


def _aws(place: str, content: Any) -> Iterator[tuple[Any, str, str]]:
    for key, field in (("prefixes", "ip_prefix"), ("ipv6_prefixes", "ipv6_prefix")):
        for each in content.get(key) or []:
            yield _of(place, each, field), _of(place, each, "service"), _of(place, each, "region")


def _gcp(place: str, content: Any) -> Iterator[tuple[Any, str, str]]:
    for each in content.get("prefixes") or []:
        field = "ipv6Prefix" if isinstance(each, dict) and "ipv6Prefix" in each else "ipv4Prefix"
        yield _of(place, each, field), _of(place, each, "service"), _of(place, each, "scope")


def _azure(place: str, content: Any) -> Iterator[tuple[Any, str, str]]:
    for each in content.get("values") or []:
        properties = each.get("properties") if isinstance(each, dict) else None
        if not isinstance(properties, dict) or not isinstance(properties.get("addressPrefixes"), list):
            raise Refusal(f"{place}: {str(each)[:60]!r}: expected a service tag with properties.addressPrefixes")
        for network in properties["addressPrefixes"]:
            yield network, _of(place, each, "name").partition(".")[0], str(properties.get("region") or "")


def _of(place: str, thing: Any, key: str) -> str:
    value = thing.get(key) if isinstance(thing, dict) else None
    if not isinstance(value, str):
        raise Refusal(f"{place}: {key} is missing in {str(thing)[:80]}; give the file as the cloud publishes it")
    return value


def _prefix(place: str, network: Any) -> Prefix:
    try:
        prefix = parse_prefix(str(ipaddress.ip_network(str(network))))
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


def _text(prefix: Prefix) -> str:
    packed = (prefix.network << (prefix.bits - prefix.length)).to_bytes(prefix.bits // 8)
    return f"{ipaddress.ip_address(packed)}/{prefix.length}"
