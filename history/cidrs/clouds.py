# SPDX-License-Identifier: Apache-2.0
"""Reads what clouds say of their own networks, as their command lines save it, into entries of a CIDR map. Pure.

A subnet gives a network its zone, an interface or an instance gives an address its name. What is not sure is not said:
a database is named only if one interface can be its own. Nodes and their pods are left out: they are known better.
Only the fields named here are read; a file that has them otherwise is refused, with the place in it.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from common.errors import Refusal
from enricher.index.cidrs import Cidr
from prices.file import region_of, shipped

CloudName = Literal["aws", "gcp", "azure"]
T = TypeVar("T")
_Entries = Iterator[tuple[str, Cidr]]

# How AWS describes interfaces that it makes for its own services; what stands in the group is the name.
_DESCRIBED = (
    (re.compile(r"ELB app/([^/]+)/.*"), "alb"),
    (re.compile(r"ELB net/([^/]+)/.*"), "nlb"),
    (re.compile(r"ELB gwy/([^/]+)/.*"), "gwlb"),
    (re.compile(r"ELB ([^/]+)"), "clb"),
    (re.compile(r"ElastiCache (.+)"), "cache"),
    (re.compile(r"EFS mount target for (\S+).*"), "efs"),
    (re.compile(r"Interface for NAT Gateway (\S+)"), "nat"),
    (re.compile(r"VPC Endpoint Interface (\S+)"), "endpoint"),
    (re.compile(r"Amazon EKS (.+)"), "eks"),
    (re.compile(r"AWS Lambda VPC ENI-(.+?)(?:-[0-9a-f]{8}-[0-9a-f-]{27})?"), "lambda"),
)
_OF_RDS = "RDSNetworkInterface"


class _Aws(msgspec.Struct, rename="pascal", frozen=True):
    """The base of what `aws ... describe-*` prints."""


class _Tag(_Aws, frozen=True):
    key: str
    value: str


class _Ipv6Block(_Aws, frozen=True):
    ipv6_cidr_block: str | None = None


class _Subnet(_Aws, frozen=True):
    subnet_id: str
    cidr_block: str
    availability_zone: str
    availability_zone_id: str | None = None
    vpc_id: str | None = None
    ipv6_cidr_block_association_set: list[_Ipv6Block] | None = None
    tags: list[_Tag] | None = None


class _Group(_Aws, frozen=True):
    group_id: str


class _Address(_Aws, frozen=True):
    private_ip_address: str | None = None
    ipv6_address: str | None = None


class _Interface(_Aws, frozen=True):
    availability_zone: str
    description: str | None = None
    vpc_id: str | None = None
    groups: list[_Group] | None = None
    private_ip_address: str | None = None
    private_ip_addresses: list[_Address] | None = None
    ipv6_addresses: list[_Address] | None = None


class _SecurityGroup(_Aws, frozen=True):
    vpc_security_group_id: str


class _SubnetGroup(_Aws, frozen=True):
    vpc_id: str | None = None


class _Database(_Aws, frozen=True):
    identifier: str = msgspec.field(name="DBInstanceIdentifier")
    availability_zone: str | None = None
    vpc_security_groups: list[_SecurityGroup] | None = None
    subnet_group: _SubnetGroup | None = msgspec.field(name="DBSubnetGroup", default=None)


class _AwsFile(_Aws, frozen=True):
    subnets: list[_Subnet] | None = None
    network_interfaces: list[_Interface] | None = None
    databases: list[_Database] | None = msgspec.field(name="DBInstances", default=None)
    cache_clusters: list[Any] | None = None  # their interfaces have the names


class _Gcp(msgspec.Struct, rename="camel", frozen=True):
    """The base of what `gcloud ... list --format json` prints."""


class _SecondaryRange(_Gcp, frozen=True):
    range_name: str
    ip_cidr_range: str


class _Nic(_Gcp, frozen=True):
    address: str = msgspec.field(name="networkIP")


class _SqlAddress(_Gcp, frozen=True):
    ip_address: str
    type: str | None = None


class _GcpThing(_Gcp, frozen=True):
    """A subnet, an instance, a database or a Redis, by which fields it has."""

    name: str
    region: str | None = None
    zone: str | None = None
    gce_zone: str | None = None
    current_location_id: str | None = None
    ip_cidr_range: str | None = None
    secondary_ip_ranges: list[_SecondaryRange] | None = None
    network_interfaces: list[_Nic] | None = None
    ip_addresses: list[_SqlAddress] | None = None
    host: str | None = None


class _AzureSubnet(msgspec.Struct, rename="camel", frozen=True):
    name: str
    address_prefix: str | None = None
    address_prefixes: list[str] | None = None


class _AzureThing(_AzureSubnet, frozen=True):
    """A virtual network, a subnet, or a machine of `az vm list -d`, by which fields it has."""

    location: str = ""
    subnets: list[_AzureSubnet] | None = None
    private_ips: str | None = None
    zones: list[str] | None = None


def read(place: str, content: Any, shape: type[T], expected: str) -> T:
    """Return a file's content in that shape; raise `Refusal` for another. `expected`: what it should be, in words."""
    try:
        return msgspec.convert(content, shape)
    except msgspec.ValidationError as error:
        raise Refusal(f"{place}: {error}; expected {expected}") from error


def entries(cloud: CloudName, documents: Sequence[tuple[str, Any]], vpcs: Sequence[str] = ()) -> list[Cidr]:
    """Return the entries that these files say, (place, content), each network once; raise `Refusal` for a bad one.

    `vpcs`: only these networks of AWS.
    """
    of: dict[CloudName, Callable[[Sequence[tuple[str, Any]], Sequence[str]], _Entries]] = {
        "aws": _aws,
        "gcp": _gcp,
        "azure": _azure,
    }
    found: dict[str, tuple[str, Cidr]] = {}
    for place, entry in of[cloud](documents, vpcs):
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


def _aws(documents: Sequence[tuple[str, Any]], vpcs: Sequence[str]) -> _Entries:
    subnets: list[tuple[str, _Subnet]] = []
    interfaces: list[tuple[str, _Interface]] = []
    databases: list[_Database] = []
    wanted = "what aws ... describe-* printed, with Subnets, NetworkInterfaces, DBInstances or CacheClusters"
    for place, content in documents:
        file = read(place, content, _AwsFile, wanted)
        if file == _AwsFile():
            raise Refusal(f"{place}: expected {wanted}")
        subnets += [(place, each) for each in file.subnets or () if not vpcs or each.vpc_id in vpcs]
        interfaces += [(place, each) for each in file.network_interfaces or () if not vpcs or each.vpc_id in vpcs]
        databases += file.databases or ()
    zone_ids = {each.availability_zone: each.availability_zone_id for _, each in subnets}
    for place, subnet in subnets:
        name = next((tag.value for tag in subnet.tags or () if tag.key == "Name" and tag.value), subnet.subnet_id)
        ipv6 = [each.ipv6_cidr_block for each in subnet.ipv6_cidr_block_association_set or ()]
        for cidr in filter(None, [subnet.cidr_block, *ipv6]):
            yield place, _entry(place, cidr, name, subnet.availability_zone, "aws", subnet.availability_zone_id)
    of_rds = [each for _, each in interfaces if each.description == _OF_RDS]
    for place, interface in interfaces:
        if name := _interface_name(interface, databases, of_rds):
            zone = interface.availability_zone
            for address in _addresses(interface):
                yield place, _entry(place, address, name, zone, "aws", zone_ids.get(zone))


def _interface_name(interface: _Interface, databases: Sequence[_Database], of_rds: Sequence[_Interface]) -> str:
    description = interface.description or ""
    if description == _OF_RDS:
        mine = [database for database in databases if _may_be(interface, database)]
        # Two interfaces that could be one database's, or two databases an interface's: then nobody knows which.
        if len(mine) == 1 and sum(_may_be(each, mine[0]) for each in of_rds) == 1:
            return f"rds/{mine[0].identifier}"
        return "rds"
    for pattern, kind in _DESCRIBED:
        if found := pattern.fullmatch(description):
            return f"{kind}/{found[1]}"
    return ""


def _may_be(interface: _Interface, database: _Database) -> bool:
    """Return whether an interface of RDS may be this database's: in its zone, with its security groups."""
    groups = {each.group_id for each in interface.groups or ()}
    theirs = {each.vpc_security_group_id for each in database.vpc_security_groups or ()}
    vpc = None if database.subnet_group is None else database.subnet_group.vpc_id
    return (
        database.availability_zone == interface.availability_zone
        and groups == theirs
        and vpc in (None, interface.vpc_id)
    )


def _addresses(interface: _Interface) -> list[str]:
    listed = [each.private_ip_address for each in interface.private_ip_addresses or ()]
    listed += [each.ipv6_address for each in interface.ipv6_addresses or ()]
    return [address for address in listed or [interface.private_ip_address] if address]


def _gcp(documents: Sequence[tuple[str, Any]], _: Sequence[str]) -> _Entries:
    for place, content in documents:
        for thing in read(place, content, list[_GcpThing], "a JSON array, as gcloud ... list --format json prints it"):
            name, region = _last(thing.name), _last(thing.region)
            zone = _last(thing.zone or thing.gce_zone or thing.current_location_id)
            if thing.ip_cidr_range is not None:
                # A subnet is of a region here, and of no zone.
                yield place, _entry(place, thing.ip_cidr_range, name, "", "gcp", region=region)
                for part in thing.secondary_ip_ranges or ():
                    label = f"{name}/{part.range_name}"
                    yield place, _entry(place, part.ip_cidr_range, label, "", "gcp", region=region)
            elif thing.network_interfaces is not None:
                for nic in thing.network_interfaces:
                    yield place, _entry(place, nic.address, f"vm/{name}", zone, "gcp")
            elif thing.ip_addresses is not None:
                for each in thing.ip_addresses:
                    if each.type == "PRIVATE":
                        yield place, _entry(place, each.ip_address, f"sql/{name}", zone, "gcp", region=region)
            elif thing.host is not None:
                yield place, _entry(place, thing.host, f"redis/{name}", zone, "gcp")
            else:
                kinds = "a subnet, an instance, a database nor a Redis of Google Cloud"
                raise Refusal(f"{place}: {name!r} is neither {kinds}")


def _azure(documents: Sequence[tuple[str, Any]], _: Sequence[str]) -> _Entries:
    wanted = "a JSON array, as az network vnet list, az network vnet subnet list or az vm list -d prints it"
    for place, content in documents:
        for thing in read(place, content, list[_AzureThing], wanted):
            region = thing.location
            if thing.private_ips is not None:
                zone = f"{region}-{thing.zones[0]}" if thing.zones and len(thing.zones) == 1 and region else ""
                for address in filter(None, thing.private_ips.split(",")):
                    yield place, _entry(place, address.strip(), f"vm/{thing.name}", zone, "azure", region=region)
                continue
            for subnet in [thing] if thing.subnets is None else thing.subnets:
                prefixes = subnet.address_prefixes or [subnet.address_prefix or ""]
                label = thing.name if subnet is thing else f"{thing.name}/{subnet.name}"
                for prefix in prefixes:
                    if not prefix:
                        kinds = "a virtual network, a subnet nor a machine of az vm list -d"
                        raise Refusal(f"{place}: {label!r} is neither {kinds}")
                    yield place, _entry(place, prefix, label, "", "azure", region=region)


def _last(value: str | None) -> str:
    return (value or "").rpartition("/")[2]


def _entry(
    place: str, cidr: str, name: str, zone: str, cloud: CloudName, zone_id: str | None = None, *, region: str = ""
) -> Cidr:
    try:
        network = ipaddress.ip_network(cidr)
    except ValueError as error:
        raise Refusal(f"{place}: {name}: {error}") from error
    where = region or (region_of(zone, shipped(cloud)) if zone else "")
    return Cidr(cidr=str(network), name=name, zone=zone or None, region=where or None, zone_id=zone_id or None)
