# SPDX-License-Identifier: Apache-2.0
"""What a CIDR map is asked about before it is believed."""

import pytest

from enricher.index.cidr_check import findings
from enricher.index.cidrs import Cidr
from tests.support.enricher.build import node

NODES = [
    node("node-a1", "192.168.0.11", "eu-west-1a", pod_cidrs=("10.42.1.0/24",), zone_id="euw1-az2"),
    node(
        "node-b1",
        "192.168.1.21",
        "eu-west-1b",
        pod_cidrs=(
            "10.42.2.0/24",
            "fd42:2::/64",
        ),
        zone_id="euw1-az1",
    ),
]
GOOD = {"name": "orders-db", "zone": "eu-west-1b", "region": "eu-west-1"}


def entry(cidr: str = "10.20.0.0/16", **overrides: str | bool | None) -> Cidr:
    return Cidr(cidr=cidr, **(GOOD | overrides))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("entries", "said", "wrong"),
    [
        pytest.param([entry()], [], False, id="nothing to say"),
        pytest.param([entry(zone="eu-wset-1b")], ["did you mean eu-west-1b?"], True, id="a misspelt zone"),
        pytest.param([entry(zone="Frankfurt")], ["the nodes' are eu-west-1a, eu-west-1b"], True, id="no zone at all"),
        pytest.param(
            [entry(zone="eu-west-1d")], ["no node is in zone 'eu-west-1d'; near it"], False, id="a sister zone"
        ),
        pytest.param([entry(zone_id="euw1-az9")], ["zone_id 'euw1-az9'", "say euw1-az1"], True, id="two zones at once"),
        pytest.param([entry(region="eu-west-2")], ["the nodes of eu-west-1b say eu-west-1"], True, id="another region"),
        pytest.param([entry(region=None)], ["no region; the nodes of eu-west-1b say eu-west-1"], False, id="no region"),
        pytest.param([entry(zone=None)], ["no zone, so that its traffic stays unknown"], False, id="no zone"),
        pytest.param([entry(zone=None, ours=True)], [], False, id="no zone of our own: nodes and pods have theirs"),
        pytest.param([entry("192.168.0.0/16", ours=True)], [], False, id="our own, around nodes"),
        pytest.param(
            [entry(), entry("10.20.3.0/24")], ["says the same as 10.20.0.0/16"], True, id="an entry within its like"
        ),
        pytest.param(
            [entry(), entry("10.20.3.0/24", zone="eu-west-1a")],
            ["is taken out of 10.20.0.0/16 (orders-db, eu-west-1b) for eu-west-1a"],
            False,
            id="a part in another zone",
        ),
        pytest.param([entry("10.42.2.128/25")], ["never applies: node-b1's podCIDR"], True, id="within a podCIDR"),
        pytest.param([entry("fd42:2::/64")], ["never applies"], True, id="an IPv6 podCIDR itself"),
        pytest.param([entry("10.0.0.0/8")], [], False, id="around podCIDRs, which come first"),
        pytest.param([entry("192.168.0.0/16")], ["holds nodes of eu-west-1a, eu-west-1b"], False, id="around nodes"),
        pytest.param([entry("192.168.1.0/24")], [], False, id="around the nodes of its zone"),
    ],
)
def test_findings(entries: list[Cidr], said: list[str], wrong: bool) -> None:
    found = findings(entries, NODES)
    assert len(found) == len(said)
    for finding, text in zip(found, said, strict=True):
        assert text in str(finding)
        assert str(finding).startswith(f"{finding.entry.cidr} (orders-db): ")
    assert any(finding.wrong for finding in found) == wrong


def test_without_nodes_only_the_map_itself_is_looked_at() -> None:
    assert findings([entry(zone="anything"), entry("10.42.2.0/24")], []) == []
