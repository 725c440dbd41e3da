# SPDX-License-Identifier: Apache-2.0
"""Savings never exceed what crossed zones, are never summed twice, and are what a simulation shows."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.topology import Routing
from tests.support.history.scenario import GB, Scenario

WORKLOADS = [f"shop/{kind}/w{number}" for number, kind in enumerate(("Deployment", "StatefulSet", "DaemonSet") * 2)]
WORKLOADS[5] = "istio-system/Deployment/istiod"
places = st.dictionaries(st.sampled_from("abc"), st.integers(1, 3), max_size=3)
routings = st.one_of(
    st.none(),
    st.builds(
        Routing,
        type=st.sampled_from(["ClusterIP", "LoadBalancer"]),
        headless=st.booleans(),
        traffic_distribution=st.sampled_from([None, "PreferClose"]),
        topology_mode=st.sampled_from([None, "Auto"]),
        session_affinity=st.sampled_from(["None", "ClientIP"]),
    ),
)
conversations = st.tuples(
    st.sampled_from([*WORKLOADS, "cidr/nlb/front"]),
    st.sampled_from("abc"),
    st.sampled_from([*WORKLOADS, "cidr/db", "node/n", "external/aws/S3/eu-west-1"]),
    st.sampled_from("abc"),
    st.sampled_from([80, 2380, 3306, 5432, 9092, 9100, 15008, 15012]),
    st.integers(0, 500),
    st.integers(0, 500),
    st.booleans(),
    st.booleans(),
)


@given(
    st.lists(places, min_size=6, max_size=6),
    st.lists(routings, min_size=6, max_size=6),
    st.lists(conversations, max_size=12),
)
def test_never_more_than_what_crossed_zones(
    where: list[dict[str, int]],
    policies: list[Routing | None],
    said: list[tuple[str, str, str, str, int, int, int, bool, bool]],
) -> None:
    scenario = Scenario()
    for number, (label, there) in enumerate(zip(WORKLOADS, where, strict=True)):
        scenario.workload(label, there)
        scenario.service(f"s{number}", label, 80, policies[number])
    for client, zone, server, other, port, asked, answered, dnat, relay in said:
        service = f"s{WORKLOADS.index(server)}" if server in WORKLOADS else ""
        ends = (client, zone), (server, other)
        scenario.say(*ends, port, asked * GB, answered * GB, service=service, dnat=dnat, relay=relay)
    advice = scenario.advice()
    crossed = sum(size for _, size in scenario.evidence.crossing())
    assert advice.crossing.bytes == crossed
    assert sum(each.spared.bytes for each in advice.told) == advice.spared.bytes <= crossed
    across = [each for each in advice.told if not each.finding.elsewhere]
    assert all(each.spared.bytes == each.crossing.bytes == 0 for each in advice.told if each not in across)
    assert all(0 < each.spared.bytes <= each.crossing.bytes for each in across)
    assert all(each.spared.cost is not None and each.crossing.cost is not None for each in across)
    assert all(each.spared.cost.total <= each.crossing.cost.total for each in across)  # type: ignore[union-attr]
    assert sum(amount.bytes for _, amount in advice.unavoidable) + advice.spared.bytes <= crossed
    numbers = [each.number for each in advice.told]
    assert numbers == list(range(1, len(numbers) + 1))
    after = scenario.evidence.summary_of(advice.fates(numbers), scenario.summary())
    assert after.scopes.get("cross_zone", 0) == crossed - advice.spared.bytes
    assert after.bytes <= scenario.summary().bytes


def test_what_two_findings_spare_is_told_once() -> None:
    """A stack that exists twice scrapes by a Service that is balanced blindly: stopped, it asks nobody any more."""
    scenario = Scenario()
    for number in range(3):
        scenario.workload(label := f"shop/Deployment/t{number}", dict.fromkeys("abc", 1))
        scenario.service(f"t{number}", label, 9100, Routing())
    for stack, zone in (("prometheus-a", "a"), ("prometheus-b", "b")):
        scenario.workload(f"monitoring/StatefulSet/{stack}", {zone: 1})
        for number in range(3):
            scenario.exchange(f"monitoring/StatefulSet/{stack}", f"t{number}", 9100, GB, 60 * GB)
    advice = scenario.advice()
    kinds = [each.finding.kind for each in advice.told]
    assert sorted(kinds) == ["blind_service"] * 3 + ["twice"]
    assert advice.spared.bytes == sum(size for _, size in scenario.evidence.crossing())
    assert kinds[0] == "twice"
    assert all(2 * each.spared.bytes == each.crossing.bytes for each in advice.told[1:])


def test_a_clean_cluster_is_told_nothing() -> None:
    scenario = Scenario()
    everywhere = dict.fromkeys("abc", 2)
    for name in ("web", "api"):
        scenario.workload(f"shop/Deployment/{name}", everywhere)
    scenario.service("api", "shop/Deployment/api", 8080, Routing(traffic_distribution="PreferClose"))
    scenario.exchange("shop/Deployment/web", "api", 8080, 10 * GB, 90 * GB, local=True)
    scenario.workload("shop/StatefulSet/postgres", {"a": 1, "b": 1})
    for zone in "abc":
        scenario.say(("shop/Deployment/api", zone), ("shop/StatefulSet/postgres", "a"), 5432, 40 * GB, 9 * GB)
    advice = scenario.advice()
    assert (advice.told, advice.small) == ([], [])


def test_without_prices_bytes_decide() -> None:
    scenario = Scenario()
    scenario.workload("shop/Deployment/web", dict.fromkeys("abc", 1))
    scenario.workload("shop/Deployment/api", dict.fromkeys("abc", 1))
    scenario.service("api", "shop/Deployment/api", 8080, Routing())
    scenario.exchange("shop/Deployment/web", "api", 8080, GB, 10 * GB)
    (each,) = scenario.advice(prices=None).told
    assert each.spared.cost is None
