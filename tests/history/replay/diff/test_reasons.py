# SPDX-License-Identifier: Apache-2.0
"""A reason is named where the two attributions say it themselves, and is unknown everywhere else."""

from typing import Any

import pytest

from history.replay.diff.reasons import END_FACTS, FACTS, differing, reasons

POD: dict[str, Any] = {"kind": "pod", "namespace": "shop", "pod": "api-0", "node": "n1", "zone": "a", "region": "r"}
NOBODY: dict[str, Any] = {"kind": "unknown", "reason": "vpc_unmapped"}
LATE: dict[str, Any] = {"kind": "unknown", "reason": "late_index", "node": "n1", "zone": "a", "region": "r"}
INTERNET: dict[str, Any] = {"kind": "external"}
DB: dict[str, Any] = {"kind": "cidr", "name": "db", "zone": "b", "region": "r"}
BUCKET: dict[str, Any] = {"kind": "external", "name": "s3"}
HEAD: dict[str, Any] = {"scope": "unknown", "direction": "egress", "observer_zone": "a", "observer_region": "r"}


def facts(destination: dict[str, Any], source: dict[str, Any] = POD, **head: Any) -> dict[str, Any]:
    ends = {
        f"{side}{name}": end.get(name) for side, end in (("src_", source), ("dst_", destination)) for name in END_FACTS
    }
    return {**dict.fromkeys(FACTS), **HEAD, **ends, **head}


@pytest.mark.parametrize(
    ("then", "now", "why"),
    [
        (NOBODY, DB, "cidr_added"),
        ({"kind": "service", "service": "kubernetes", "reason": "api_server"}, DB, "cidr_added"),
        (INTERNET, DB, "cidr_added"),
        (INTERNET, BUCKET, "cidr_added"),
        ({**INTERNET, "name": "203.0.113.0/24"}, BUCKET, "cidr_added"),
        (DB, NOBODY, "cidr_removed"),
        (DB, INTERNET, "cidr_removed"),
        (BUCKET, INTERNET, "cidr_removed"),
        (DB, {**DB, "name": "orders"}, "cidr_changed"),
        (DB, {**DB, "zone": "c"}, "cidr_changed"),
        (DB, BUCKET, "cidr_changed"),
        (LATE, POD, "topology_later"),
        ({"kind": "service", "reason": "zone_missing"}, {"kind": "service", "reason": "api_server"}, "version"),
        ({**POD, "zone": None, "region": None, "reason": "zone_missing"}, POD, "topology_later"),
        # What is on a node is where the node is.
        ({**DB, "node": "n1"}, {**DB, "node": "n1", "zone": "c"}, "unknown"),
        # A pod goes before the map: that it was not known, or is not any more, nobody recorded.
        (DB, POD, "unknown"),
        (POD, DB, "unknown"),
        (LATE, DB, "unknown"),
        (DB, LATE, "unknown"),
        (POD, LATE, "unknown"),
        (NOBODY, POD, "unknown"),
        (POD, {**POD, "pod": "api-1"}, "unknown"),
        (POD, {**POD, "service": "api"}, "unknown"),
        (POD, {**POD, "zone": "b"}, "unknown"),
        ({**NOBODY, "reason": "ambiguous_owner"}, POD, "unknown"),
        ({**NOBODY, "reason": "address_folded"}, DB, "unknown"),
        ({**INTERNET, "name": "203.0.113.0/24"}, {**INTERNET, "name": "203.0.112.0/23"}, "unknown"),
        ({**POD, "zone": None, "reason": "zone_missing"}, {**POD, "pod": "api-1"}, "unknown"),
    ],
)
def test_of_one_end(then: dict[str, Any], now: dict[str, Any], why: str) -> None:
    assert reasons(facts(then), facts(now, scope="cross_zone")) == (f"destination {why}",)
    both = (facts(POD, source=then), facts(POD, source=now))
    assert reasons(*both) == (f"source {why}",)
    assert all(name.startswith("src_") for name in differing(*both))


def test_each_end_has_its_own() -> None:
    assert reasons(facts(NOBODY, source=LATE), facts(DB, source=POD)) == (
        "source topology_later",
        "destination cidr_added",
    )


@pytest.mark.parametrize(
    ("then", "now", "why"),
    [
        # The scope is made of both ends, and of the observer's place where it relays: if these are the same, the code
        # is not. So is what the chunk alone decides.
        ({"scope": "cross_zone"}, {"scope": "same_zone"}, ("version",)),
        ({"server": None}, {"server": "source"}, ("version",)),
        ({"dnat": None}, {"dnat": True}, ("version",)),
        ({"observer_zone": None}, {}, ("observer topology_later",)),
        ({"observer_zone": "b"}, {}, ("observer unknown",)),
        ({"observer_zone": "b", "scope": "cross_zone"}, {}, ("observer unknown", "version")),
        (
            {"observer_zone": None, "scope": "cross_zone", "direction": "relay"},
            {"direction": "relay"},
            ("observer topology_later",),
        ),
    ],
)
def test_of_what_no_end_says(then: dict[str, Any], now: dict[str, Any], why: tuple[str, ...]) -> None:
    assert reasons(facts(POD, **then), facts(POD, **now)) == why


def test_of_a_flow_that_sums_up_others_not_all_is_known() -> None:
    then, now = facts(POD, scope="same_node"), facts(POD, scope="same_zone")
    assert reasons(then, now, summed=True) == ("unknown",)


def test_where_nothing_differs_nothing_is_said() -> None:
    assert (reasons(facts(POD), facts(POD)), differing(facts(POD), facts(POD))) == ((), ())
