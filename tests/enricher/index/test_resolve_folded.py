# SPDX-License-Identifier: Apache-2.0
"""What a prefix is that stands for folded addresses: never an address, and one thing only if all of it is that."""

import json
from pathlib import Path

import jsonschema
import msgspec
import orjson
import pytest

import schemas
from enricher.index.cidrs import Cidr, CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join.join import join, resolve
from schemas.flow import Endpoint, decode_endpoint
from sinks.metrics.ends import Ends
from tests.support.enricher.build import END, START, chunk, node, pod, row

STORE = Cidr(cidr="52.218.0.0/17", name="store", region="eu-west-1")
PARTNER = Cidr(cidr="8.8.8.128/25", name="partner")
NAMED = Cidr(cidr="52.216.0.0/15", name="aws/S3/eu-west-1", external=True)
NARROW = Cidr(cidr="9.9.9.64/26", name="aws/EC2", external=True)
PRIVATE = Cidr(cidr="10.9.0.0/16", name="vpc")


def end_point(prefix: str, rules: list[Cidr]) -> Endpoint:
    index = Index()
    index.apply(node("node-a1", "54.10.0.7", "eu-west-1a"))
    resolved = Resolver(index, CidrMap(rules)).window(START, END).resolve(prefix)
    assert not resolved.in_cluster
    return decode_endpoint(resolved.json(443).encode())


@pytest.mark.parametrize(
    ("prefix", "rules", "kind", "name", "reason"),
    [
        pytest.param("9.9.9.0/24", [STORE, PARTNER], "external", "9.9.9.0/24", None, id="internet"),
        pytest.param("0.0.0.0/0", [PRIVATE], "external", "0.0.0.0/0", None, id="all, and rules for private ones only"),
        pytest.param(
            "0.0.0.0/0", [PRIVATE, STORE], "unknown", "0.0.0.0/0", "address_folded", id="all, a rule for some"
        ),
        pytest.param("52.218.3.0/24", [STORE], "cidr", "store", "zone_missing", id="a rule holds all of it"),
        pytest.param("8.8.8.0/24", [PARTNER], "unknown", "8.8.8.0/24", "address_folded", id="a rule holds half of it"),
        pytest.param("54.10.0.0/24", [], "unknown", "54.10.0.0/24", "address_folded", id="a node of ours is in it"),
        pytest.param("52.217.3.0/24", [NAMED], "external", "aws/S3/eu-west-1", None, id="a name holds all of it"),
        pytest.param("9.9.9.0/24", [NARROW], "external", "9.9.9.0/24", None, id="a name holds some: external anyway"),
        pytest.param("9.9.9.0/33", [], "unknown", "9.9.9.0/33", "address_invalid", id="no prefix"),
        pytest.param("fd42::/64", [], "unknown", "fd42::/64", "address_invalid", id="IPv6 is not folded"),
    ],
)
def test_a_prefix(prefix: str, rules: list[Cidr], kind: str, name: str, reason: str | None) -> None:
    end = end_point(prefix, rules)
    assert (end.kind, end.name, end.reason) == (kind, name, msgspec.UNSET if reason is None else reason)
    assert end.address is msgspec.UNSET
    assert end.port == 443


def test_a_node_that_is_gone_from_the_index_divides_no_prefix() -> None:
    index = Index()
    index.apply(node("node-a1", "54.10.0.7", "eu-west-1a", to_ms=START))
    index.prune(END)
    resolved = Resolver(index, CidrMap([])).window(START, END).resolve("54.10.0.0/24")
    assert resolved.kind == "external"


def test_what_was_answered_is_forgotten_when_a_node_comes_into_the_prefix() -> None:
    index = Index()
    resolver = Resolver(index, CidrMap([]))
    assert resolver.window(START, END).resolve("54.10.0.0/24").kind == "external"
    index.apply(node("node-a1", "54.10.0.7", "eu-west-1a"))
    assert resolver.window(START, END).resolve("54.10.0.0/24").reason == "address_folded"


def test_folded_prefixes_are_one_series() -> None:
    ends = Ends()
    assert ends.make(end_point("9.9.9.0/24", [])) is ends.make(end_point("9.9.8.0/24", []))


def test_flows_from_and_to_a_prefix_are_flows_as_the_schema_has_them() -> None:
    index = Index()
    index.apply(node("node-a1", "192.168.0.11", "eu-west-1a"))
    index.apply(pod("api-1", "10.42.1.17", "node-a1"))
    raw = chunk(
        [
            row("10.42.1.17", "9.9.9.0/24", direction=0),
            row("9.9.9.0/24", "10.42.1.17", direction=1, dst_port=443),
            row("0.0.0.0/0", "10.42.1.17", direction=1),
            row("8.8.8.0/24", "10.42.1.17", direction=2),
        ]
    )
    resolver = Resolver(index, CidrMap([PARTNER]))
    found = join(raw, resolve(raw, resolver), 3, 88123)
    assert len(found.values) == 4
    assert {name: amount.rows for name, amount in found.by_scope.items()} == {
        "external": 2,
        "unknown": 1,
        "same_node": 1,
    }
    assert set(found.by_reason) == {"address_folded"}
    document = json.loads((Path(schemas.__file__).parent / "flow.v1.schema.json").read_text())
    for value in found.values:
        jsonschema.Draft202012Validator(document).validate(orjson.loads(value))
        assert value.count(b'"address":') == value.count(b'"address":"10.42.1.17"') == 1
