# SPDX-License-Identifier: Apache-2.0
"""Who an address was, as of a window."""

from typing import Any

import msgspec
import pytest

from common.errors import Refusal
from enricher.index.addresses import pack
from enricher.index.cidrs import CidrMap, is_public, read_cidr_map
from enricher.index.endpoints import Location, scope_of
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from schemas.flow import UNKNOWN_REASONS, Endpoint, decode_endpoint
from schemas.topology import TopologyState
from tests.support.enricher.build import END, START, node, pod, service

MAP = b"""
[[cidr]]
cidr = "10.9.0.0/16"
name = "vpc"
[[cidr]]
cidr = "10.9.7.0/24"
name = "rds"
zone = "eu-west-1b"
region = "eu-west-1"
zone_id = "euw1-az2"
[[cidr]]
cidr = "203.0.113.0/24"
name = "cache"
zone_id = "euw1-az1"
[[cidr]]
cidr = "52.216.0.0/15"
name = "aws/S3/eu-west-1"
external = true
[[cidr]]
cidr = "2a00:1:2:3400::/56"
name = "aws/EC2/eu-west-1"
external = true
"""
CLUSTER = [
    node(
        "node-a1",
        "192.168.0.11",
        "eu-west-1a",
        pod_cidrs=(
            "10.42.1.0/24",
            "fd00:42:1::/64",
        ),
    ),
    node("node-b1", "192.168.0.21", "eu-west-1b", pod_cidrs=("10.42.2.0/24",)),
    node("bare", "192.168.0.31", None, pod_cidrs=("10.42.3.0/24",)),
    pod("api-x", "10.42.1.17", "node-a1", addresses=["10.42.1.17", "2a00:1:2:3400::17"]),
    pod("db-0", "10.42.2.9", "node-b1"),
    pod("lost", "10.42.3.5", "bare"),
    pod("gone", "10.42.1.50", "node-a1", to_ms=START),
    pod("agent", "192.168.0.11", "node-a1", host_network=True),
    service("api", "10.96.0.9"),
]


def resolver(*more: TopologyState) -> Resolver:
    index = Index()
    for state in (*CLUSTER, *more):
        index.apply(state)
    return Resolver(index, read_cidr_map(MAP, "map.toml"))


def end_point(address: str, *more: TopologyState, start: int = START, end: int = END, port: int = 0) -> Endpoint:
    resolved = resolver(*more).window(start, end).resolve(address)
    found = decode_endpoint(resolved.json(port).encode())
    assert found.reason is msgspec.UNSET or found.reason in UNKNOWN_REASONS
    return found


def plain(end: Endpoint) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(end)
    return {key: value for key, value in found.items() if key != "address"}


A1 = {"node": {"name": "node-a1"}}
ZONE_A = {"availability_zone": "eu-west-1a", "region": "eu-west-1"}
ZONE_B = {"availability_zone": "eu-west-1b", "region": "eu-west-1"}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        pytest.param(
            "10.42.1.17",
            {
                "kind": "pod",
                "k8s": {
                    "namespace": {"name": "shop"},
                    "pod": {"name": "api-x"},
                    "workload": {"kind": "Deployment", "name": "api"},
                    **A1,
                },
                "cloud": ZONE_A,
            },
            id="pod",
        ),
        pytest.param(
            "10.42.3.5",
            {
                "kind": "pod",
                "reason": "zone_missing",
                "k8s": {
                    "namespace": {"name": "shop"},
                    "pod": {"name": "lost"},
                    "workload": {"kind": "Deployment", "name": "lost"},
                    "node": {"name": "bare"},
                },
            },
            id="pod on a node without a zone",
        ),
        pytest.param("192.168.0.11", {"kind": "node", "k8s": A1, "cloud": ZONE_A}, id="node, not its hostNetwork pod"),
        pytest.param(
            "10.42.1.50",
            {"kind": "unknown", "reason": "late_index", "k8s": A1, "cloud": ZONE_A},
            id="in a podCIDR, nobody's any more",
        ),
        pytest.param(
            "fd00:42:1::99",
            {"kind": "unknown", "reason": "late_index", "k8s": A1, "cloud": ZONE_A},
            id="in an IPv6 podCIDR",
        ),
        pytest.param(
            "10.96.0.9",
            {
                "kind": "service",
                "reason": "zone_missing",
                "k8s": {"namespace": {"name": "shop"}, "service": {"name": "api"}},
            },
            id="service",
        ),
        pytest.param(
            "10.9.7.4",
            {"kind": "cidr", "name": "rds", "cloud": {**ZONE_B, "zone_id": "euw1-az2"}},
            id="cidr, longest prefix",
        ),
        pytest.param("52.217.1.1", {"kind": "external", "name": "aws/S3/eu-west-1"}, id="the internet, with a name"),
        pytest.param(
            "2a00:1:2:3477::1", {"kind": "unknown", "reason": "vpc_unmapped"}, id="in a named range, beside a pod's own"
        ),
        pytest.param("10.9.8.4", {"kind": "cidr", "name": "vpc", "reason": "zone_missing"}, id="cidr without zone"),
        pytest.param(
            "203.0.113.9", {"kind": "cidr", "name": "cache", "cloud": {"zone_id": "euw1-az1"}}, id="cidr, zone id only"
        ),
        pytest.param("8.8.8.8", {"kind": "external"}, id="public"),
        pytest.param("::ffff:8.8.8.8", {"kind": "external"}, id="public, IPv4 mapped into IPv6"),
        pytest.param("2a00:1:2:3500::1", {"kind": "external"}, id="public, next to our site"),
        pytest.param(
            "2a00:1:2:34ff::1", {"kind": "unknown", "reason": "vpc_unmapped"}, id="globally routable, but in our /56"
        ),
        pytest.param("10.1.2.3", {"kind": "unknown", "reason": "vpc_unmapped"}, id="private"),
        pytest.param("100.64.0.1", {"kind": "unknown", "reason": "vpc_unmapped"}, id="shared address space"),
        pytest.param("169.254.169.254", {"kind": "unknown", "reason": "link_local"}, id="link-local"),
        pytest.param("239.1.2.3", {"kind": "unknown", "reason": "multicast"}, id="multicast"),
        pytest.param("bogus", {"kind": "unknown", "reason": "address_invalid"}, id="no address"),
    ],
)
def test_resolution(address: str, expected: dict[str, Any]) -> None:
    assert plain(end_point(address)) == expected


def test_port_stands_where_it_is_not_folded() -> None:
    assert end_point("10.42.2.9", port=5432).port == 5432
    assert end_point("10.42.2.9", port=0).port is msgspec.UNSET
    json = resolver().window(START, END).resolve("10.42.2.9").json(5432)
    assert json.startswith('{"kind":"pod","address":"10.42.2.9","port":5432,"k8s":{"namespace"')


def test_names_are_escaped() -> None:
    assert end_point("10.8.0.1", pod('a"b\\c', "10.8.0.1", "node-a1")).k8s.pod.name == 'a"b\\c'  # type: ignore[union-attr]
    assert end_point('"}', port=1).address == '"}'


def test_a_gone_pod_is_named_in_its_own_time() -> None:
    assert end_point("10.42.1.50", start=START - 10_000, end=START).k8s.pod.name == "gone"  # type: ignore[union-attr]


def test_two_owners_in_one_window_leave_only_what_they_share() -> None:
    same_node = pod("next", "10.42.1.50", "node-a1", from_ms=START + 3000)
    owner = pod("first", "10.42.1.50", "node-a1", from_ms=START - 1000, to_ms=START + 2000)
    assert plain(end_point("10.42.1.50", owner, same_node)) == {
        "kind": "unknown",
        "reason": "ambiguous_owner",
        "k8s": A1,
        "cloud": ZONE_A,
    }
    elsewhere = pod("next", "10.42.1.50", "node-b1", from_ms=START + 3000)
    assert plain(end_point("10.42.1.50", owner, elsewhere)) == {
        "kind": "unknown",
        "reason": "ambiguous_owner",
        "cloud": {"region": "eu-west-1"},
    }
    assert end_point("10.42.1.50", owner, elsewhere, start=END, end=END + 1).k8s.pod.name == "next"  # type: ignore[union-attr]


@pytest.mark.parametrize("known_first", [True, False])
def test_owners_of_whom_one_is_on_a_node_that_is_not_known_share_no_zone(known_first: bool) -> None:
    address = "10.42.1.50"
    owners = [("first", "node-a1"), ("second", "node-a2"), ("third", "not known")]
    pods = [
        pod(name, address, on, from_ms=START + number * 1000, to_ms=START + number * 1000 + 1000)
        for number, (name, on) in enumerate(owners)
    ]
    asked = resolver(node("node-a2", "192.168.0.12", "eu-west-1a"), *pods)
    windows = [asked.window(START, START + 1500), asked.window(START, START + 2500)]
    for window in windows if known_first else reversed(windows):
        window.resolve(address)
    zones = [window.resolve(address).place.zone for window in windows]
    assert zones == ["eu-west-1a", None]


def test_two_states_of_one_pod_are_no_two_owners() -> None:
    later = pod("api-x", "10.42.1.17", "node-a1", resource_version="200", from_ms=START + 5000, ready=True)
    assert end_point("10.42.1.17", later).kind == "pod"


def test_a_zone_that_changed_within_the_window_is_not_known() -> None:
    moved = node("node-b1", "192.168.0.21", "eu-west-1c", resource_version="51", from_ms=START + 5000)
    assert plain(end_point("10.42.2.9", moved))["cloud"] == {"region": "eu-west-1"}
    assert end_point("10.42.2.9", moved).reason == "zone_missing"
    before, after = (end_point("10.42.2.9", moved, start=t, end=t + 1000) for t in (START, START + 6000))
    assert (before.cloud.availability_zone, after.cloud.availability_zone) == ("eu-west-1b", "eu-west-1c")  # type: ignore[union-attr]


def test_one_answer_serves_until_the_facts_change() -> None:
    one = resolver()
    first = one.window(START, END).resolve("10.42.1.17")
    assert one.window(END, END + 10_000).resolve("10.42.1.17") is first
    one.index.apply(node("node-a1", "192.168.0.11", "eu-west-1c", resource_version="51", from_ms=END))
    assert one.window(END, END + 10_000).resolve("10.42.1.17").place.zone == "eu-west-1c"
    assert one.window(START, END).resolve("10.42.1.17") is first


A, B, C = Location("a", "r1"), Location("b", "r1"), Location("c", "r2")
BY_ID, NOWHERE, INTERNET = Location(None, "r1", "id1"), Location(), Location(external=True)


@pytest.mark.parametrize(
    ("source", "destination", "scope"),
    [
        pytest.param(A, A, "same_zone", id="one zone"),
        pytest.param(A, B, "cross_zone", id="two zones of one region"),
        pytest.param(A, C, "cross_region", id="two regions"),
        pytest.param(Location("a", "r1"), Location("a", "r2"), "cross_region", id="a zone's name used in two regions"),
        pytest.param(Location("a"), Location("b"), "cross_zone", id="regions unknown"),
        pytest.param(Location("a"), Location("a", "r1"), "same_zone", id="one region unknown"),
        pytest.param(A, NOWHERE, "unknown", id="no zone"),
        pytest.param(NOWHERE, NOWHERE, "unknown", id="no zones"),
        pytest.param(A, Location(None, "r2"), "unknown", id="a region alone"),
        pytest.param(A, INTERNET, "external", id="to the internet"),
        pytest.param(INTERNET, A, "external", id="from the internet"),
        pytest.param(NOWHERE, INTERNET, "external", id="from somewhere to the internet"),
        pytest.param(Location("a", "r1", "id1"), BY_ID, "same_zone", id="by id, same"),
        pytest.param(Location("b", "r1", "id2"), BY_ID, "cross_zone", id="by id, other"),
        pytest.param(A, BY_ID, "unknown", id="a name against an id"),
        pytest.param(
            Location("a", "r1", "id1"), Location("a", "r1", "id2"), "cross_zone", id="one name in two accounts"
        ),
        pytest.param(Location("a", "r1", "id1"), Location("b", "r1", "id1"), "same_zone", id="two names of one zone"),
        pytest.param(
            Location("a", "r1", "id1"), Location("a", "r1"), "same_zone", id="by name, where one id is missing"
        ),
    ],
)
def test_scope(source: Location, destination: Location, scope: str) -> None:
    assert scope_of(source, destination) == scope


BEFORE, SINCE = START - 60_000, START - 30_000
THE_NEXT = "uid-node-a1-again"


@pytest.mark.parametrize(
    ("zone_then", "zone_now", "got_by", "start", "cloud", "reason"),
    [
        pytest.param("eu-west-1a", "eu-west-1b", None, START, {"region": "eu-west-1"}, "zone_missing", id="elsewhere"),
        pytest.param("eu-west-1a", "us-east-1b", None, START, None, "zone_missing", id="in another region"),
        pytest.param("eu-west-1a", "eu-west-1a", None, START, ZONE_A, None, id="in the same zone"),
        pytest.param(None, "eu-west-1b", None, START, ZONE_B, None, id="the old one had no zone"),
        pytest.param("eu-west-1a", "eu-west-1b", SINCE + 5_000, START, ZONE_B, None, id="a pod of the new one"),
        pytest.param("eu-west-1a", "eu-west-1b", None, BEFORE - 10_000, ZONE_A, None, id="as of the old one's time"),
        pytest.param("eu-west-1a", "eu-west-1b", None, BEFORE + 5_000, None, "zone_missing", id="between the two"),
    ],
)
def test_a_node_that_comes_back_elsewhere_under_its_name_does_not_take_the_old_ones_pods_with_it(
    zone_then: str | None,
    zone_now: str,
    got_by: int | None,
    start: int,
    cloud: dict[str, str] | None,
    reason: str | None,
) -> None:
    """The objects of its pods are still there, and traffic to their addresses goes on for a while."""
    index = Index()
    index.apply(node("node-a1", "192.168.0.11", zone_then, to_ms=BEFORE))
    index.apply(node("node-a1", "192.168.0.12", zone_now, uid=THE_NEXT, from_ms=SINCE))
    # A change of a label: another state of the same node is not another node.
    index.apply(node("node-a1", "192.168.0.12", zone_now, uid=THE_NEXT, from_ms=SINCE + 1, resource_version="51"))
    index.apply(pod("api-x", "10.42.1.17", "node-a1", acquired_by_ms=got_by))
    found = Resolver(index, CidrMap([])).window(start, start + 10_000).resolve("10.42.1.17")
    said = plain(decode_endpoint(found.json(0).encode()))
    assert (found.kind, said["k8s"]["node"]) == ("pod", {"name": "node-a1"})
    assert (said.get("cloud"), said.get("reason")) == (cloud, reason)


@pytest.mark.parametrize(
    ("content", "source", "says"),
    [
        pytest.param(b"[[cidr]]\ncidr = '10.0.0.0/8'", "m.toml", "name", id="no name"),
        pytest.param(b"[[cidr]]\ncidr='10.0.0.0/8'\nname='x'\nregoin='r'", "m.toml", "regoin", id="typing error"),
        pytest.param(b"[[cidr]]\ncidr='10.0.0.1/8'\nname='x'", "m.toml", "entry 1", id="host bits"),
        pytest.param(b"[[cidr]]\ncidr='10.0.0.0/33'\nname='x'", "m.toml", "entry 1", id="too long"),
        pytest.param(
            b"[[cidr]]\ncidr='10.0.0.0/8'\nname='x'\nexternal=true", "m.toml", "a public network", id="private"
        ),
        pytest.param(
            b"[[cidr]]\ncidr='8.8.8.0/24'\nname='x'\nexternal=true\nzone='z'",
            "m.toml",
            "in no zone",
            id="external, in a zone",
        ),
        pytest.param(b"[[cidr]]\ncidr='ten'\nname='x'", "m.toml", "'ten'", id="no network"),
        pytest.param(b"[[cidr]]\ncidr='10.0.0.0/8'\nname='x'\nzone=''", "m.toml", "zone is empty", id="empty zone"),
        pytest.param(
            b"[[cidr]]\ncidr='10.0.0.0/8'\nname='x'\n[[cidr]]\ncidr='10.0.0.0/8'\nname='y'",
            "m.toml",
            "already entry 1",
            id="twice",
        ),
        pytest.param(b"[[cidr]]\ncidr='::ffff:10.0.0.0/104'\nname='x'", "m.toml", "as IPv4", id="mapped"),
        pytest.param(b"cidr = [", "m.toml", "m.toml", id="no TOML"),
        pytest.param(b"\xff", "m.toml", "m.toml", id="no text"),
        pytest.param(b'{"cidr": [{"cidr": 1}]}', "m.json", "m.json", id="JSON of another shape"),
        pytest.param(b"{", "m.json", "m.json", id="no JSON"),
    ],
)
def test_a_cidr_map_with_an_error_is_refused_in_one_line(content: bytes, source: str, says: str) -> None:
    with pytest.raises(Refusal) as caught:
        read_cidr_map(content, source)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cidr_map_in_json() -> None:
    found = read_cidr_map(b'{"cidr": [{"cidr": "10.0.0.0/8", "name": "x", "zone": "z"}]}', "m.json")
    address = pack("10.1.2.3")
    assert address is not None
    assert found.find(address) is not None
    assert CidrMap([]).find(address) is None


@pytest.mark.parametrize(
    ("cidr", "address", "beside", "shown"),
    [
        ("10.1.2.3", "10.1.2.3", "10.1.2.4", "10.1.2.3/32"),
        ("fd00::1", "fd00::1", "fd00::2", "fd00::1/128"),
        ("10.0.0.0/255.0.0.0", "10.1.2.3", "11.0.0.0", "10.0.0.0/8"),
        ("2001:DB8::/32", "2001:db8::1", "2001:db9::1", "2001:DB8::/32"),
    ],
)
def test_an_entry_that_is_taken_is_found_however_it_is_written(
    cidr: str, address: str, beside: str, shown: str
) -> None:
    found = read_cidr_map(b'{"cidr": [{"cidr": "%s", "name": "x"}]}' % cidr.encode(), "m.json")
    packed, other = pack(address), pack(beside)
    assert packed is not None
    assert other is not None
    assert found.find(packed) == found.entries[0]
    assert found.entries[0].cidr == shown
    assert found.find(other) is None


@pytest.mark.parametrize(
    ("public", "texts"),
    [
        # https://www.iana.org/assignments/iana-ipv4-special-registry, .../iana-ipv6-special-registry
        pytest.param(True, "8.8.8.8 1.0.0.1 172.15.255.255 172.32.0.0 100.63.255.255 100.128.0.0 192.0.0.9", id="ipv4"),
        pytest.param(False, "0.1.2.3 10.0.0.1 127.0.0.1 172.16.0.1 172.31.255.255 192.168.0.1", id="private"),
        pytest.param(False, "192.0.2.1 198.51.100.1 203.0.113.1 198.18.0.1 240.0.0.1 255.255.255.255", id="special"),
        pytest.param(False, "100.64.0.0 100.64.0.1 100.127.255.255", id="shared address space"),
        pytest.param(False, "169.254.0.1 224.0.0.1 ff02::1 ff0e::1 fe80::1", id="link-local and groups"),
        pytest.param(True, "2a00::1 2600:1f18::1 2001:20::1 2620:4f:8000::1", id="ipv6"),
        pytest.param(False, "fd00::1 fec0::1 2001:db8::1 3fff::1 100::1 5f00::1 2001:10::1", id="special ipv6"),
        pytest.param(False, "4000::1 e000::1 ::1 :: ::1.2.3.4", id="not assigned for global unicast"),
        pytest.param(True, "64:ff9b::8.8.8.8", id="behind NAT64"),
        pytest.param(False, "64:ff9b::10.0.0.1 64:ff9b:1::1", id="private behind NAT64"),
    ],
)
def test_public_is_what_the_iana_registries_say(public: bool, texts: str) -> None:
    assert {text: is_public(pack(text) or b"") for text in texts.split()} == dict.fromkeys(texts.split(), public)
