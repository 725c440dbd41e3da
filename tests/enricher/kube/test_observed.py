# SPDX-License-Identifier: Apache-2.0
from typing import Any

import msgspec
import pytest

from enricher.index.addresses import pack
from enricher.index.ownership import Index
from enricher.kube.observed import LINGER_MS, Observed
from enricher.kube.states.fields import list_version
from enricher.kube.states.objects import ManagedFields, Node, Service
from schemas.topology import MAX_LISTED, Routing, Served, TopologyState
from tests.support.enricher.api_objects import NOW, STARTED, STARTED_MS, owner, pod_of, service_of


def test_a_new_pod_opens_one_state_and_says_nothing_twice() -> None:
    observed = Observed()
    [opened] = observed.take(pod_of(), "1", NOW)
    assert (opened.from_ms, opened.to_ms) == (STARTED_MS, None)
    assert observed.take(pod_of(rv="101"), "1", NOW) == []


def test_a_change_closes_one_state_and_opens_the_next_at_its_own_time() -> None:
    observed = Observed()
    observed.take(pod_of(ready="False"), "1", NOW)
    closed, opened = observed.take(pod_of(rv="101", changed="2026-11-22T17:46:50Z"), "1", NOW)
    assert (closed.resource_version, closed.to_ms) == ("100", STARTED_MS + 10_000)
    assert (opened.resource_version, opened.from_ms, opened.ready) == ("101", STARTED_MS + 10_000, True)


def test_a_change_never_begins_before_the_state_it_ends() -> None:
    observed = Observed()
    observed.take(pod_of(ready="False"), "1", NOW)
    closed, opened = observed.take(pod_of(rv="101"), "1", NOW)
    assert closed.to_ms == opened.from_ms == STARTED_MS + 1


def test_a_finished_pod_closes_once_and_stays_closed_when_deleted() -> None:
    observed = Observed()
    observed.take(pod_of(), "1", NOW)
    finished = pod_of(rv="102", phase="Succeeded", ready="False", ended="2026-11-22T17:50:00Z")
    [closed] = observed.take(finished, "1", NOW)
    assert (closed.resource_version, closed.to_ms) == ("100", STARTED_MS + 201_000)
    assert closed.released_from_ms == STARTED_MS + 200_000
    assert observed.take(finished, "1", NOW) == []
    assert observed.drop(finished, NOW) == []


def test_a_state_says_when_the_pod_got_its_address_as_long_as_it_keeps_it() -> None:
    observed = Observed()
    [first] = observed.take(pod_of(ready="False"), "1", STARTED_MS + 3000)
    _, ready = observed.take(pod_of(rv="101", changed="2026-11-22T17:46:50Z"), "1", NOW)
    _, moved = observed.take(pod_of(rv="102", changed="2026-11-22T17:47:50Z", ips=["10.42.1.99"]), "1", NOW)
    assert (first.acquired_from_ms, first.acquired_by_ms) == (None, STARTED_MS + 3000)
    assert (ready.acquired_from_ms, ready.acquired_by_ms) == (STARTED_MS, STARTED_MS + 3000)
    assert moved.from_ms == STARTED_MS + 70_000
    assert (moved.acquired_from_ms, moved.acquired_by_ms) == (None, STARTED_MS + 71_000)


@pytest.mark.parametrize("skew_ms", [-3_600_000, 0, 3_600_000])
def test_a_clock_that_differs_by_an_hour_names_the_pod_by_the_clock_that_measured(skew_ms: int) -> None:
    """The kubelet's clock and the flows' are the node's; ours is an hour behind, the same, an hour ahead."""
    observed, index = Observed(), Index()
    for found, deleted, at in (
        (pod_of(ready="False"), False, 3_000),
        (pod_of(rv="101", changed="2026-11-22T17:46:50Z"), False, 11_000),
        (pod_of(rv="102", phase="Succeeded", ended="2026-11-22T17:50:00Z"), False, 201_000),
        (pod_of(rv="102", phase="Succeeded", ended="2026-11-22T17:50:00Z"), True, 230_000),
    ):
        now = STARTED_MS + at + skew_ms
        for state in observed.drop(found, now) if deleted else observed.take(found, "1", now):
            index.apply(state)
    slot = ("pod", pack("10.42.1.17"))
    for second in range(-10, 230):
        start = STARTED_MS + second * 1000
        assert bool(index.owners(slot, start, start + 1000)) == (0 <= second <= 200)  # type: ignore[arg-type]


def test_a_pod_deleted_while_it_runs_ends_when_its_kubelet_has_heard_of_it() -> None:
    observed = Observed()
    observed.take(pod_of(), "1", NOW)
    [closed] = observed.drop(pod_of(rv="103"), NOW)
    assert (closed.to_ms, closed.released_from_ms) == (NOW + LINGER_MS, None)
    assert observed.drop(pod_of(rv="103"), NOW) == []


def test_a_list_closes_what_went_while_nobody_looked() -> None:
    observed = Observed()
    observed.take(pod_of(), "1", NOW)
    observed.take(pod_of(uid="u2", name="b"), "1", NOW)
    [closed] = observed.retain("pod", {"u2"}, "9", NOW)
    assert (closed.uid, closed.to_ms) == ("u1", NOW + LINGER_MS)
    assert observed.retain("pod", {"u2"}, "9", NOW) == []


def test_a_pod_given_another_address_moves() -> None:
    observed = Observed()
    observed.take(pod_of(), "1", NOW)
    assert [s.addresses for s in observed.take(pod_of(rv="105", ips=["10.42.1.99"]), "1", NOW)] == [
        ["10.42.1.17"],
        ["10.42.1.99"],
    ]


def test_seeded_with_its_own_words_it_says_nothing_again() -> None:
    first, second, index = Observed(), Observed(), Index()
    objects = [pod_of(), pod_of(uid="u2", phase="Succeeded", ended="2026-11-22T17:50:00Z"), pod_of(uid="u3")]
    for found in objects:
        for state in first.take(found, "1", NOW):
            index.apply(state)
    second.seed(index.current())
    assert [second.take(found, "2", NOW + 1) for found in objects[:2]] == [[], []]
    [closed] = second.retain("pod", {"u1", "u2"}, "2", NOW + 1)
    assert (closed.uid, closed.to_ms) == ("u3", NOW + 1 + LINGER_MS)


def test_services_that_select_a_pod_are_named_whichever_came_first() -> None:
    observed = Observed()
    observed.take(service_of({"app": "api"}), "1", NOW)
    [opened] = observed.take(pod_of(labels={"app": "api", "x": "y"}), "1", NOW)
    assert opened.services == ("api",)
    _, closed, opened = observed.take(service_of({"x": "y"}, rv="300", name="other"), "1", NOW)
    assert (closed.services, opened.services, opened.resource_version) == (("api",), ("api", "other"), "300")
    _, closed, opened = observed.drop(service_of({"app": "api"}, rv="301"), NOW)
    assert (opened.services, opened.resource_version) == (("other",), "301")


def test_a_pod_says_by_which_ports_services_reach_it_as_of_then() -> None:
    observed, index = Observed(), Index()
    web = [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]
    ports = [{"port": 80, "targetPort": "web"}]

    def seen(states: list[TopologyState], at_ms: int) -> list[Served]:
        for state in states:
            index.apply(state)
        [owner] = index.owners(("pod", pack("10.42.1.17")), at_ms, at_ms + 1)  # type: ignore[arg-type]
        return list(owner.served)

    observed.take(service_of({"app": "api"}, ports=ports), "1", NOW)
    pod = pod_of(labels={"app": "api"}, containers=web)
    assert seen(observed.take(pod, "1", NOW), NOW) == [Served("api", "tcp", 8080)]
    # Another port, another Service beside it, none any more.
    changed = service_of({"app": "api"}, rv="300", ports=[{"port": 80, "targetPort": 9090}])
    assert seen(observed.take(changed, "1", NOW + 1000), NOW + 2000) == [Served("api", "tcp", 9090)]
    beside = service_of({"app": "api"}, rv="400", name="hl", clusterIP="None", ports=ports)
    both = [Served("api", "tcp", 9090), Served("hl", "tcp", 8080, headless=True)]
    assert seen(observed.take(beside, "1", NOW + 3000), NOW + 4000) == both
    gone = service_of({"app": "api"}, rv="500")
    assert seen(observed.drop(gone, NOW + 5000), NOW + 6000) == both[1:]
    assert seen([], NOW + 2000) == [Served("api", "tcp", 9090)]


def test_history_of_a_version_that_knew_no_ports_is_followed_by_what_is_known_now() -> None:
    first, second = Observed(), Observed()
    service = service_of({"app": "api"}, ports=[{"port": 80}])
    first.take(service, "1", NOW)
    [known] = first.take(pod_of(labels={"app": "api"}), "1", NOW)
    without = msgspec.structs.replace(known, served=())
    for told in ((known, without), (without, known)):
        index = Index()
        for state in told:
            index.apply(state)
        assert index.states_of("pod/u1") == [known], "two versions side by side"
    second.seed([without])
    second.take(service, "9", NOW + 1000)
    closed, opened = second.take(pod_of(labels={"app": "api"}), "9", NOW + 1000)
    assert (closed.served, closed.to_ms) == ((), opened.from_ms)
    assert (opened.served, opened.from_ms) == ((Served("api", "tcp", 80),), NOW + 1000)


def test_of_more_ports_than_a_state_holds_none_is_kept_and_it_is_told() -> None:
    left_out: list[str] = []
    observed = Observed(tell_left_out=left_out.append)
    ports = [{"port": port} for port in range(1, MAX_LISTED + 2)]
    observed.take(service_of({"app": "api"}, ports=ports), "1", NOW)
    [opened] = observed.take(pod_of(labels={"app": "api"}), "1", NOW)
    assert (opened.services, opened.served, left_out) == (("api",), (), ["services"])


KUBELET = "2026-11-22T21:45:00Z"
KUBELET_MS = NOW - 160_000


def node_of(rv: str, changed: str = STARTED, **labels: str) -> Node:
    found = {
        "metadata": {
            "name": "node-a1",
            "uid": "n1",
            "resourceVersion": rv,
            "creationTimestamp": STARTED,
            "labels": {f"topology.kubernetes.io/{name}": value for name, value in labels.items()},
            "managedFields": [{"time": changed}],
        },
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.5"}]},
    }
    return msgspec.convert(found, Node)


def test_a_zone_label_that_is_gone_was_there_until_now() -> None:
    """The newest managed field is the kubelet's, of minutes before; to take a label off leaves no time behind."""
    observed = Observed()
    observed.take(node_of("1", zone="a", region="r"), "1", STARTED_MS + 1)
    closed, opened = observed.take(node_of("2", KUBELET, region="r"), "2", NOW)
    assert (closed.zone, closed.to_ms, opened.zone, opened.from_ms) == ("a", NOW, None, NOW)
    closed, opened = observed.take(node_of("3", KUBELET, region="r", zone="b"), "3", NOW + 1_000)
    assert (opened.zone, opened.from_ms) == ("b", NOW + 1), "one that is set has its own time, behind what was seen"


def test_another_zone_holds_from_its_own_time() -> None:
    observed = Observed()
    observed.take(node_of("1", zone="a"), "1", STARTED_MS + 1)
    closed, opened = observed.take(node_of("2", KUBELET, zone="b"), "2", NOW)
    assert (closed.to_ms, opened.from_ms) == (KUBELET_MS, KUBELET_MS)


def test_a_label_of_a_pod_that_is_gone_made_it_a_services_until_now() -> None:
    observed = Observed()
    observed.take(service_of({"app": "api"}, ports=[{"port": 80}]), "1", NOW)
    observed.take(pod_of(labels={"app": "api"}), "1", NOW)
    closed, opened = observed.take(pod_of(rv="101", changed=KUBELET), "1", NOW + 5)
    assert (closed.services, closed.to_ms, opened.services, opened.from_ms) == (("api",), NOW + 5, (), NOW + 5)


def test_an_owner_that_is_gone_was_there_until_now() -> None:
    observed = Observed()
    observed.take(pod_of(owners=owner("DaemonSet", "agent")), "1", NOW)
    closed, opened = observed.take(pod_of(rv="101", changed=KUBELET), "1", NOW + 5)
    assert [state.workload and state.workload.kind for state in (closed, opened)] == ["DaemonSet", "Pod"]
    assert closed.to_ms == opened.from_ms == NOW + 5


def test_a_selector_and_a_routing_that_are_gone_held_until_now() -> None:
    def service(selector: dict[str, str] | None, rv: str, **spec: Any) -> Service:
        found = service_of(selector, rv=rv, **spec)
        changed = msgspec.structs.replace(found.metadata, managed_fields=[ManagedFields(time=KUBELET)])
        return msgspec.structs.replace(found, metadata=changed)

    observed = Observed()
    observed.take(service({"app": "api"}, "20", trafficDistribution="PreferClose"), "1", NOW)
    observed.take(pod_of(labels={"app": "api"}), "1", NOW)
    changes = observed.take(service(None, "201"), "1", NOW + 5)
    assert {state.kind for state in changes} == {"service", "pod"}
    assert {state.to_ms or state.from_ms for state in changes} == {NOW + 5}


class Counting(dict[str, TopologyState]):
    """Counts the states that are looked at one by one."""

    looked_at = 0

    def items(self) -> Any:
        self.looked_at += len(self)
        return super().items()

    def get(self, key: str, default: Any = None) -> Any:
        self.looked_at += 1
        return super().get(key, default)


def looked_at_in_a_restart(count: int) -> int:
    """Return how many states the list of so many services looks at, over a history of so many pods."""
    before, observed, states = Observed(), Observed(), Counting()
    for number in range(count):
        before.take(pod_of(uid=f"u{number}", name=f"p{number}", labels={"app": f"a{number}"}), "1", NOW)
    states.update(before._last)
    observed._last = states
    for number in range(count):
        observed.take(service_of({"app": f"a{number}"}, name=f"a{number}"), list_version("9"), NOW)
    return states.looked_at


def test_services_listed_after_a_restart_are_not_each_compared_with_all_pods_of_the_history() -> None:
    assert looked_at_in_a_restart(200) <= 2.2 * looked_at_in_a_restart(100)


def test_a_pod_that_more_services_select_than_its_state_holds_is_told() -> None:
    told: list[str] = []
    observed = Observed(tell_left_out=told.append)
    for number in range(MAX_LISTED):
        observed.take(service_of({"app": "api"}, name=f"s{number:03}"), "1", NOW)
    [state] = observed.take(pod_of(labels={"app": "api"}), "1", NOW)
    assert (len(state.services), told) == (MAX_LISTED, [])
    observed.take(service_of({"app": "api"}, rv="201", name="z"), "1", NOW)
    assert told == ["services"]
    observed.take(pod_of(rv="300", labels={"app": "api"}), "1", NOW)
    assert told == ["services"] * 2


def test_a_service_that_keeps_traffic_in_its_zone_did_not_before() -> None:
    observed = Observed()
    observed.take(service_of({"app": "api"}), "1", NOW)
    now = service_of({"app": "api"}, rv="201", trafficDistribution="PreferClose")
    closed, opened = observed.take(now, "1", NOW + 5_000)
    assert (closed.to_ms, closed.routing) == (NOW + 5_000, Routing())
    assert (opened.from_ms, opened.routing) == (NOW + 5_000, Routing(traffic_distribution="PreferClose"))
    assert observed.take(now, "1", NOW + 6_000) == []


def test_a_service_without_selector_selects_nothing() -> None:
    observed = Observed()
    observed.take(pod_of(labels={"app": "api"}), "1", NOW)
    assert len(observed.take(service_of(None), "1", NOW)) == 1


def test_what_selects_a_pod_and_changed_while_nobody_looked_holds_from_now_on() -> None:
    """The pod's own version is older than the state that a service's change gave it: it must not name one again."""
    first, second, index = Observed(), Observed(), Index()
    first.take(service_of({"app": "web"}), "200", NOW)
    for state in [
        *first.take(pod_of(labels={"app": "api"}), "100", NOW),
        *first.take(service_of({"app": "api"}, rv="300"), "300", NOW),
    ]:
        index.apply(state)
    second.seed(index.current())
    second.take(service_of({"app": "web"}, rv="500"), list_version("900"), NOW + 5)
    for state in second.take(pod_of(labels={"app": "api"}), list_version("900"), NOW + 5):
        index.apply(state)
    slot = ("pod", pack("10.42.1.17"))
    assert [s.services for s in index.owners(slot, NOW + 1, NOW + 2)] == [("api",)]  # type: ignore[arg-type]
    assert [s.services for s in index.owners(slot, NOW + 6, NOW + 7)] == [()]  # type: ignore[arg-type]


@pytest.mark.parametrize("restarted", [False, True])
def test_an_object_that_etcd_set_back_is_as_it_was_from_now_on(*, restarted: bool) -> None:
    observed, index = Observed(), Index()

    def write(states: list[TopologyState]) -> None:
        for state in states:
            index.apply(state)

    write(observed.take(pod_of(rv="100", ready="False"), list_version("100"), NOW))
    write(observed.take(pod_of(rv="200"), "200", NOW + 1))
    if restarted:
        observed = Observed()
        observed.seed(index.current())
    write(observed.take(pod_of(rv="100", ready="False"), list_version("100"), NOW + 50_000))
    write(observed.take(pod_of(rv="101", changed="2026-11-22T21:49:10Z"), "101", NOW + 90_000))
    slot = ("pod", pack("10.42.1.17"))
    for at, ready in ((49_000, True), (51_000, False), (90_001, True)):
        assert [s.ready for s in index.owners(slot, NOW + at, NOW + at + 1)] == [ready], at  # type: ignore[arg-type]


def test_what_differs_at_the_same_version_gets_the_lists() -> None:
    first, second, index = Observed(), Observed(), Index()
    for state in first.take(pod_of(labels={"app": "api"}), "1", NOW):
        index.apply(state)
    second.seed(index.current())
    second.take(service_of({"app": "api"}), "900", NOW + 5)
    closed, opened = second.take(pod_of(labels={"app": "api"}), "900", NOW + 5)
    assert (closed.key, opened.key) == (b"pod/u1/100", b"pod/u1/900")
    assert opened.from_ms == NOW + 5


class Recorded:
    """What is observed, and the index that it goes into."""

    def __init__(self) -> None:
        self.index = Index()
        self.observed = Observed(self.index.states_of)

    def take(self, found: Any, version: str, at_ms: int) -> None:
        self._write(self.observed.take(found, version, NOW + at_ms))

    def retain(self, kind: str, uids: set[str], version: str, at_ms: int) -> None:
        self._write(self.observed.retain(kind, uids, version, NOW + at_ms))

    def owners(self, at_ms: int) -> list[TopologyState]:
        return self.index.owners(("pod", pack("10.42.1.17")), NOW + at_ms, NOW + at_ms + 1)  # type: ignore[arg-type]

    def _write(self, states: list[TopologyState]) -> None:
        for state in states:
            self.index.apply(state)


def test_services_that_etcd_set_back_change_a_pod_one_after_the_other_and_it_lives_on() -> None:
    """All their versions are older than the pod's, so that the list's names its states: each needs its own."""
    made = Recorded()
    made.take(service_of({"app": "x"}, rv="20", name="a"), "20", 0)
    made.take(service_of({"app": "x"}, rv="21", name="b"), "21", 0)
    made.take(pod_of(rv="100", labels={"app": "api"}), "100", 0)
    made.take(service_of({"app": "api"}, rv="10", name="a"), list_version("50"), 1000)
    made.take(service_of({"app": "api"}, rv="11", name="b"), list_version("50"), 2000)
    for at, services in ((500, ()), (1500, ("a",)), (2500, ("a", "b"))):
        assert [state.services for state in made.owners(at)] == [services], at


def test_services_that_went_while_nobody_looked_change_a_pod_one_after_the_other_and_it_lives_on() -> None:
    made = Recorded()
    for name in ("a", "b"):
        made.take(service_of({"app": "api"}, name=name), "20", 0)
    made.take(pod_of(rv="100", labels={"app": "api"}), "100", 0)
    made.retain("service", set(), list_version("150"), 1000)
    assert [state.services for state in made.owners(2000)] == [()]


def test_versions_that_a_restored_etcd_gives_out_again_name_other_states() -> None:
    made = Recorded()
    made.take(pod_of(rv="100", ready="False"), "100", 0)
    for at, restored in ((10_000, False), (30_000, True), (50_000, True)):
        if restored:
            made.take(pod_of(rv="100", ready="False"), list_version("100"), at)
        made.take(pod_of(rv="101", changed="2026-11-22T21:49:10Z"), "101", at + 10_000)
        made.take(pod_of(rv="102", ready="False", changed="2026-11-22T21:49:10Z"), "102", at + 15_000)
    for at, ready in ((65_500, False), (60_500, True), (50_500, False), (45_500, False), (40_500, True)):
        assert [state.ready for state in made.owners(at)] == [ready], at


def test_a_service_made_again_while_nobody_looked_still_selects() -> None:
    made = Recorded()
    made.take(service_of({"app": "api"}, rv="20", uid="old"), "20", 0)
    made.take(pod_of(rv="100", labels={"app": "api"}), "100", 0)
    made.take(service_of({"app": "api"}, rv="120", uid="new"), list_version("150"), 1000)
    made.retain("service", {"new"}, list_version("150"), 1000)
    assert [state.services for state in made.owners(2000)] == [("api",)]
