# SPDX-License-Identifier: Apache-2.0
"""Reads what clouds say of their own networks, as their command lines save it, into entries of a CIDR map. Pure.

A subnet gives a network its zone, an interface or an instance gives an address its name. What is not sure is not said:
a database is named only if one interface can be its own. Nodes and their pods are left out: they are known better.
"""

import ipaddress
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from common.errors import Refusal
from enricher.index.cidrs import Cidr
from prices.file import region_of, shipped

CloudName = Literal["aws", "gcp", "azure"]
Document = Mapping[str, Any]

# How AWS describes interfaces that it makes for its own services; what stands in the group is the name.
_DESCRIBED = (
    (re.compile(r"ELB (?:app|net|gwy)/([^/]+)/.*"), "lb"),
    (re.compile(r"ELB ([^/]+)"), "lb"),
    (re.compile(r"ElastiCache (.+)"), "cache"),
    (re.compile(r"EFS mount target for (\S+).*"), "efs"),
    (re.compile(r"Interface for NAT Gateway (\S+)"), "nat"),
    (re.compile(r"VPC Endpoint Interface (\S+)"), "endpoint"),
    (re.compile(r"Amazon EKS (.+)"), "eks"),
    (re.compile(r"AWS Lambda VPC ENI-(.+?)(?:-[0-9a-f]{8}-[0-9a-f-]{27})?"), "lambda"),
)
_OF_RDS = "RDSNetworkInterface"


def entries(cloud: CloudName, documents: Sequence[tuple[str, Any]], vpcs: Sequence[str] = ()) -> list[Cidr]:
    """Return the entries that these files say, (place, content), each network once; raise `Refusal` for a bad one.

    `vpcs`: only these networks of AWS.
    """
    read: dict[CloudName, Callable[[Sequence[tuple[str, Any]], Sequence[str]], Iterator[tuple[str, Cidr]]]] = {
        "aws": _aws,
        "gcp": _gcp,
        "azure": _azure,
    }
    found: dict[str, tuple[str, Cidr]] = {}
    for place, entry in read[cloud](documents, vpcs):
        before = found.setdefault(entry.cidr, (place, entry))
        if before[1] != entry:
            there, here = (f"{each.name} in {each.zone or 'no zone'}" for each in (before[1], entry))
            raise Refusal(
                f"{place}: {entry.cidr} is {here}, and {there} in {before[0]}; give the files of one network"
                + (" or choose --vpc" if cloud == "aws" else "")
            )
    return sorted((entry for _, entry in found.values()), key=_order)


def _order(entry: Cidr) -> tuple[int, Any]:
    network = ipaddress.ip_network(entry.cidr)
    return network.version, network


def _aws(documents: Sequence[tuple[str, Any]], vpcs: Sequence[str]) -> Iterator[tuple[str, Cidr]]:
    known = ("Subnets", "NetworkInterfaces", "DBInstances", "CacheClusters")
    parts: dict[str, list[tuple[str, Document]]] = defaultdict(list)
    for place, content in documents:
        keys = [key for key in known if isinstance(content, dict) and isinstance(content.get(key), list)]
        if not keys:
            raise Refusal(f"{place}: expected what aws ... describe-* printed, with {', '.join(known)}")
        for key in keys:
            parts[key] += [(place, _object(place, each)) for each in content[key]]
    zone_ids: dict[str, str] = {}
    for place, subnet in parts["Subnets"]:
        if vpcs and subnet.get("VpcId") not in vpcs:
            continue
        zone, zone_id = _text(place, subnet, "AvailabilityZone"), subnet.get("AvailabilityZoneId")
        zone_ids[zone] = str(zone_id) if zone_id else ""
        ipv6 = [each.get("Ipv6CidrBlock") for each in subnet.get("Ipv6CidrBlockAssociationSet") or []]
        for cidr in filter(None, [_text(place, subnet, "CidrBlock"), *ipv6]):
            yield place, _entry(place, cidr, _tag(subnet) or _text(place, subnet, "SubnetId"), zone, "aws", zone_id)
    databases = parts["DBInstances"]
    interfaces = [(p, each) for p, each in parts["NetworkInterfaces"] if not vpcs or each.get("VpcId") in vpcs]
    of_rds = [each for _, each in interfaces if each.get("Description") == _OF_RDS]
    for place, interface in interfaces:
        name = _interface_name(place, interface, databases, of_rds)
        if name:
            zone = _text(place, interface, "AvailabilityZone")
            for address in _addresses(place, interface):
                yield place, _entry(place, address, name, zone, "aws", zone_ids.get(zone))


def _interface_name(
    place: str, interface: Document, databases: Sequence[tuple[str, Document]], of_rds: Sequence[Document]
) -> str:
    description = str(interface.get("Description") or "")
    if description == _OF_RDS:
        mine = [database for _, database in databases if _may_be(interface, database)]
        # Two interfaces that could be one database's, or two databases an interface's: then nobody knows which.
        if len(mine) == 1 and sum(_may_be(each, mine[0]) for each in of_rds) == 1:
            return f"rds/{_text(place, mine[0], 'DBInstanceIdentifier')}"
        return "rds"
    for pattern, kind in _DESCRIBED:
        if found := pattern.fullmatch(description):
            return f"{kind}/{found[1]}"
    return ""


def _may_be(interface: Document, database: Document) -> bool:
    """Return whether an interface of RDS may be this database's: in its zone, with its security groups."""
    groups = {str(each.get("GroupId")) for each in interface.get("Groups") or []}
    theirs = {str(each.get("VpcSecurityGroupId")) for each in database.get("VpcSecurityGroups") or []}
    vpc = (database.get("DBSubnetGroup") or {}).get("VpcId")
    return (
        database.get("AvailabilityZone") == interface.get("AvailabilityZone")
        and groups == theirs
        and vpc in (None, interface.get("VpcId"))
    )


def _addresses(place: str, interface: Document) -> Iterator[str]:
    listed = [each.get("PrivateIpAddress") for each in interface.get("PrivateIpAddresses") or []]
    listed += [each.get("Ipv6Address") for each in interface.get("Ipv6Addresses") or []]
    for address in filter(None, listed or [_text(place, interface, "PrivateIpAddress")]):
        yield str(address)


def _tag(thing: Document) -> str:
    tags = {str(each.get("Key")): str(each.get("Value")) for each in thing.get("Tags") or []}
    return tags.get("Name", "")


def _gcp(documents: Sequence[tuple[str, Any]], _: Sequence[str]) -> Iterator[tuple[str, Cidr]]:
    for place, thing in _listed(documents, "gcloud ... list --format json"):
        name = _text(place, thing, "name").rpartition("/")[2]
        zone = _last(thing.get("zone") or thing.get("gceZone") or thing.get("currentLocationId"))
        region = _last(thing.get("region"))
        if "ipCidrRange" in thing:
            # A subnet is of a region here, and of no zone.
            yield place, _entry(place, _text(place, thing, "ipCidrRange"), name, "", "gcp", region=region)
            for each in thing.get("secondaryIpRanges") or []:
                label = f"{name}/{_text(place, each, 'rangeName')}"
                yield place, _entry(place, _text(place, each, "ipCidrRange"), label, "", "gcp", region=region)
        elif "networkInterfaces" in thing:
            for each in thing["networkInterfaces"]:
                yield place, _entry(place, _text(place, each, "networkIP"), f"vm/{name}", zone, "gcp")
        elif "ipAddresses" in thing:
            for each in thing["ipAddresses"]:
                if each.get("type") == "PRIVATE":
                    yield (
                        place,
                        _entry(place, _text(place, each, "ipAddress"), f"sql/{name}", zone, "gcp", region=region),
                    )
        elif "host" in thing:
            yield place, _entry(place, _text(place, thing, "host"), f"redis/{name}", zone, "gcp")
        else:
            raise Refusal(f"{place}: {name!r} is neither a subnet, an instance, a database nor a Redis of Google Cloud")


def _azure(documents: Sequence[tuple[str, Any]], _: Sequence[str]) -> Iterator[tuple[str, Cidr]]:
    for place, thing in _listed(documents, "az network vnet list, az network vnet subnet list or az vm list -d"):
        name, region = _text(place, thing, "name"), str(thing.get("location") or "")
        if "privateIps" in thing:
            zones = [str(each) for each in thing.get("zones") or []]
            zone = f"{region}-{zones[0]}" if len(zones) == 1 and region else ""
            for address in filter(None, str(thing["privateIps"]).split(",")):
                yield place, _entry(place, address.strip(), f"vm/{name}", zone, "azure", region=region)
        elif "subnets" in thing or "addressPrefix" in thing or "addressPrefixes" in thing:
            for subnet in thing.get("subnets") or [thing]:
                prefixes = subnet.get("addressPrefixes") or [_text(place, subnet, "addressPrefix")]
                label = f"{name}/{_text(place, subnet, 'name')}" if "subnets" in thing else name
                for prefix in prefixes:
                    yield place, _entry(place, str(prefix), label, "", "azure", region=region)
        else:
            raise Refusal(f"{place}: {name!r} is neither a virtual network, a subnet nor a machine of az vm list -d")


def _listed(documents: Sequence[tuple[str, Any]], expected: str) -> Iterator[tuple[str, Document]]:
    for place, content in documents:
        if not isinstance(content, list):
            raise Refusal(f"{place}: expected a JSON array, as {expected} prints it")
        for each in content:
            yield place, _object(place, each)


def _object(place: str, value: Any) -> Document:
    if not isinstance(value, dict):
        raise Refusal(f"{place}: {str(value)[:60]!r}: expected an object")
    return value


def _text(place: str, thing: Document, key: str) -> str:
    value = thing.get(key) if isinstance(thing, dict) else None
    if not isinstance(value, str) or not value:
        raise Refusal(f"{place}: {key} is missing in {str(thing)[:80]}; save all that the cloud's command prints")
    return value


def _last(value: Any) -> str:
    return str(value or "").rpartition("/")[2]


def _entry(
    place: str, cidr: str, name: str, zone: str, cloud: CloudName, zone_id: Any = None, *, region: str = ""
) -> Cidr:
    try:
        network = ipaddress.ip_network(cidr)
    except ValueError as error:
        raise Refusal(f"{place}: {name}: {error}") from error
    where = region or (region_of(zone, shipped(cloud)) if zone else "")
    return Cidr(
        cidr=str(network), name=name, zone=zone or None, region=where or None, zone_id=str(zone_id) if zone_id else None
    )
