# SPDX-License-Identifier: Apache-2.0
"""Whatever a cluster does, seen or unseen, and however often etcd is set back: after a list the index is the truth."""

import copy
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from enricher.index.ownership import Index
from enricher.kube.observed import Observed
from enricher.kube.states.fields import list_version
from schemas.topology import TopologyState
from tests.support.enricher.api_objects import NOW, pod_of, service_of

LABELS = ("api", "web")
NAMES = ("a", "b")


@dataclass
class Cluster:
    """Pods by name with uid, label and whether they are ready; services by name with uid and what they select."""

    version: int = 100
    made: int = 0
    pods: dict[str, tuple[str, str, bool, int]] = field(default_factory=dict)
    services: dict[str, tuple[str, str, int]] = field(default_factory=dict)


class World:
    """A cluster, what an enricher saw of it, and its index. `watching`: changes are seen as they come."""

    def __init__(self) -> None:
        self.cluster, self.backup = Cluster(), Cluster()
        self.index = Index()
        self.observed = Observed(self.index.states_of)
        self.now_ms = NOW
        self.watching = True

    def _write(self, states: list[TopologyState]) -> None:
        for state in states:
            self.index.apply(state)

    def _pod(self, name: str) -> object:
        uid, label, ready, version = self.cluster.pods[name]
        place = NAMES.index(name) + 1
        return pod_of(
            uid=uid, name=name, rv=str(version), labels={"app": label}, ready=str(ready), ips=[f"10.42.1.{place}"]
        )

    def _service(self, name: str) -> object:
        uid, selects, version = self.cluster.services[name]
        return service_of({"app": selects}, rv=str(version), name=name, uid=uid)

    def step(self, what: str, name: str, label: str) -> None:
        """Let something happen."""
        cluster = self.cluster
        self.now_ms += 60_000
        cluster.version += 1
        kind, _, rest = what.partition("-")
        objects: dict[str, tuple[object, ...]] = cluster.pods if kind == "pod" else cluster.services  # type: ignore[assignment]
        if rest == "put":
            if name not in objects:
                cluster.made += 1
            uid = objects[name][0] if name in objects else f"{kind}-{name}-{cluster.made}"
            if kind == "pod":
                cluster.pods[name] = (str(uid), label, cluster.version % 2 == 0, cluster.version)
            else:
                cluster.services[name] = (str(uid), label, cluster.version)
            if self.watching:
                found = self._pod(name) if kind == "pod" else self._service(name)
                self._write(self.observed.take(found, str(cluster.version), self.now_ms))  # type: ignore[arg-type]
        elif rest == "drop" and name in objects:
            last = self._pod(name) if kind == "pod" else self._service(name)
            del objects[name]
            if self.watching:
                self._write(self.observed.drop(last, self.now_ms))  # type: ignore[arg-type]
        elif what == "away":
            self.watching = False
        elif what == "backup":
            self.backup = copy.deepcopy(cluster)
        elif what == "restore":
            made = cluster.made
            self.cluster, self.watching = copy.deepcopy(self.backup), False
            self.cluster.made = made  # a uid is never given twice
        elif what == "list":
            self.relist()

    def relist(self) -> None:
        """List all, services first, as the enricher does, and watch from there on."""
        version = list_version(str(self.cluster.version))
        self.now_ms += 1_000
        for name in sorted(self.cluster.services):
            self._write(self.observed.take(self._service(name), version, self.now_ms))  # type: ignore[arg-type]
        self._write(self._retained("service", {uid for uid, *_ in self.cluster.services.values()}, version))
        for name in sorted(self.cluster.pods):
            self._write(self.observed.take(self._pod(name), version, self.now_ms))  # type: ignore[arg-type]
        self._write(self._retained("pod", {uid for uid, *_ in self.cluster.pods.values()}, version))
        self.watching = True

    def _retained(self, kind: str, uids: set[str], version: str) -> list[TopologyState]:
        return self.observed.retain(kind, uids, version, self.now_ms)

    def known(self) -> dict[str, tuple[bool | None, tuple[str, ...]]]:
        """Return the pods that the index holds as still there: whether they are ready, and their services."""
        current = (state for state in self.index.current() if state.kind == "pod" and state.to_ms is None)
        return {state.uid: (state.ready, tuple(state.services)) for state in current}

    def truth(self) -> dict[str, tuple[bool | None, tuple[str, ...]]]:
        """Return the same of the cluster."""
        return {
            uid: (
                ready,
                tuple(sorted(name for name, (_, selects, _) in self.cluster.services.items() if selects == label)),
            )
            for uid, label, ready, _ in self.cluster.pods.values()
        }


STEP = st.tuples(
    st.sampled_from(["pod-put", "pod-drop", "service-put", "service-drop", "away", "backup", "restore", "list"]),
    st.sampled_from(NAMES),
    st.sampled_from(LABELS),
)


@given(st.lists(STEP, max_size=40))
@settings(max_examples=300)
def test_after_a_list_the_index_is_the_truth_whatever_came_before(steps: list[tuple[str, str, str]]) -> None:
    world = World()
    for step in steps:
        world.step(*step)
        if world.watching:
            assert world.known() == world.truth(), step
    world.relist()
    assert world.known() == world.truth()
