# SPDX-License-Identifier: Apache-2.0
"""To another version and back while traffic flows: nothing is lost or doubled, old and new side by side.

The upgrade goes in two steps, so that for some windows an enricher of one version stands between collectors and metrics
sinks of the other. Going back is one step.
"""

import time
from collections import defaultdict
from itertools import pairwise
from typing import Any

import duckdb

from tests.cluster import another
from tests.cluster.cluster import DIRECTORY, Cluster
from tests.cluster.images import built, of_another_version
from tests.cluster.installed import DEADLINE_SECONDS, ON_NODES, PINS, SERVICES, audit, doctor
from tests.cluster.network import NODES, Node
from tests.cluster.table import Table
from tests.cluster.traffic import SECONDS, Traffic
from tests.k8s.rendered import CHART
from tests.support.services import eventually

# By the images that each brings.
_STEPS = {
    "enrichers and flow log": ("zonemeter-history",),
    "collectors and the others": ("zonemeter", "zonemeter-collector"),
}
# Of these, pods of both versions run at once; of the others there is one pod.
_SIDE_BY_SIDE = {"zonemeter-collector", "zonemeter-enricher", "zonemeter-metrics"}


def upgrade(cluster: Cluster, table: Table) -> None:
    """Evict, upgrade and roll back under load, then look at what was counted."""
    begun = time.monotonic()
    traffic = Traffic(cluster)
    traffic.go()
    for name in ("zonemeter-enricher", "zonemeter-metrics"):
        table.add(f"both of {name} evicted at once", ["evicted", "refused"], _evict_all(cluster, name))
        cluster.wait_for(SERVICES)
    now = {name.partition(":")[0]: name for name in built()}
    programs = [_programs(cluster)]
    both: set[str] = set()
    for what, names in _STEPS.items():
        time.sleep(SECONDS)
        wanted = now | {name: of_another_version(now[name]) for name in names}
        both |= _changed(cluster, table, f"upgrade: {what}", _upgrade_words(wanted), wanted)
        now = wanted
    _compare(traffic, table, "after the upgrade", both)
    programs.append(_programs(cluster))
    traffic.go()
    now = {name.partition(":")[0]: name for name in built()}
    both = _changed(cluster, table, "rollback", ["rollback", "zonemeter", "1"], now)
    _compare(traffic, table, "after the rollback", both)
    programs.append(_programs(cluster))
    replaced = [sum(not a & b for a, b in zip(old, new, strict=True)) for old, new in pairwise(programs)]
    table.add("nodes whose program was replaced, there and back", [len(NODES)] * 2, replaced)
    audit(cluster, table, "after the rollback", begun)
    _look_into_archive(table)
    doctor(cluster, table, "after the rollback")


def _upgrade_words(images: dict[str, str]) -> list[str]:
    """Return the words of docs/kubernetes.md, with these images."""
    tags = {name.removeprefix("zonemeter-"): image.partition(":")[2] for name, image in images.items()}
    flags = [f"--set=images.{name}.tag={tag}" for name, tag in tags.items()]
    return ["upgrade", "zonemeter", str(CHART), "--reset-then-reuse-values", *flags]


def _changed(cluster: Cluster, table: Table, what: str, words: list[str], images: dict[str, str]) -> set[str]:
    """Let Helm change it, wait until all pods have these images; name the workloads that had others, too, at a time."""
    begun = time.monotonic()
    both: set[str] = set()
    states = cluster.pods_by_change(SERVICES, ON_NODES)
    next(states)
    cluster.api.helm(*words, "-n", SERVICES)
    for state in states:
        pods = [pod for pod in state if _images(pod)]
        found: dict[str, set[frozenset[str]]] = defaultdict(set)
        for pod in pods:
            if pod["status"]["phase"] == "Running":
                found[pod["metadata"]["labels"]["app.kubernetes.io/name"]].add(_images(pod))
        both.update(name for name, of_pods in found.items() if len(of_pods) > 1)
        if all(_is_ready(pod) and _images(pod) <= set(images.values()) for pod in pods):
            break
        assert time.monotonic() < begun + DEADLINE_SECONDS, f"{what}: not within {DEADLINE_SECONDS} s"
    cluster.wait_for(SERVICES, ON_NODES)
    table.within(f"{what}: everything ready again", DEADLINE_SECONDS, time.monotonic() - begun)
    return both


def _is_ready(pod: dict[str, Any]) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", []))


def _images(pod: dict[str, Any]) -> frozenset[str]:
    """Return which of zonemeter's images a pod has; none of those that stay: what has ended, and Kafka's."""
    containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    stays = pod["spec"]["restartPolicy"] != "Always" or pod["metadata"]["name"] == "zonemeter-kafka-0"
    return frozenset(each["image"] for each in containers if each["image"].startswith("zonemeter") and not stays)


def _compare(traffic: Traffic, table: Table, when: str, both: set[str]) -> None:
    time.sleep(SECONDS)
    traffic.pause()
    traffic.compare(table, when)
    table.add(
        f"{when}: both versions ran at once, at least", sorted(_SIDE_BY_SIDE), sorted(both), both >= _SIDE_BY_SIDE
    )


def _evict_all(cluster: Cluster, name: str) -> list[str]:
    """Ask for the eviction of all pods of a name, as a node's drain does; return what became of each."""
    found = []
    for pod in cluster.pods(SERVICES):
        meta = {key: pod["metadata"][key] for key in ("name", "namespace")}
        if meta["name"].startswith(name):
            url = f"/api/v1/namespaces/{SERVICES}/pods/{meta['name']}/eviction"
            eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
            try:
                cluster.api.kubectl("create", "--raw", url, "-f", "-", objects=[eviction])
                found.append("evicted")
            except AssertionError as error:
                found.append("refused" if "disruption budget" in str(error) else str(error))
    return found


def _programs(cluster: Cluster) -> list[set[str]]:
    """Return the one generation that is pinned on each node, once all that earlier ones counted is published."""

    def pinned(node: Node) -> set[str]:
        return {name for name in cluster.output(node, "ls", f"{PINS}/node").split() if name.startswith("gen_")}

    eventually(lambda: all(len(pinned(node)) == 1 for node in NODES))
    return [pinned(node) for node in NODES]


def _look_into_archive(table: Table) -> None:
    """Read the flow log's files as another program would: every flow once, by either version."""
    archive = next(DIRECTORY.glob("nodes/*/var-lib/volume/flowlog"))
    flows = f"read_parquet('{archive}/flows/*/*/*.parquet', union_by_name=true)"
    query = f"select count(*), count(distinct id), count({another.COLUMN}) from {flows}"
    rows, ids, of_another = duckdb.connect().execute(query).fetchall()[0]
    seen = f"{ids:,} of {rows:,}; {of_another:,} by {another.VERSION}"
    table.add("flows in the archive that are there once", "all, some by either", seen, rows == ids > of_another > 0)
