# SPDX-License-Identifier: Apache-2.0
"""Each part of the pipeline and of the cluster killed while traffic flows; afterwards the books close."""

import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tests.cluster.cluster import Cluster
from tests.cluster.installed import DEADLINE_SECONDS, ON_NODES, SERVICES, audit, doctor
from tests.cluster.network import NODES
from tests.cluster.table import Table
from tests.cluster.traffic import SECONDS, Traffic
from tests.cluster.workloads import NAMESPACE
from tests.support.services import eventually

# The pods' names without what Kubernetes adds. With each goes its sandbox, so that it has another address after.
_PODS = ("zonemeter-enricher", "zonemeter-metrics", "zonemeter-flowlog", "zonemeter-audit", "zonemeter-kafka")
_AWAY_SECONDS = 5.0


def kills(cluster: Cluster, table: Table) -> None:
    """Kill each under load; then a node's power, at rest, as what it has not published yet is lost with it."""
    begun = time.monotonic()
    traffic = Traffic(cluster)
    traffic.go()
    victims: dict[str, Callable[[], None]] = {
        **{name: lambda name=name: _kill_pod(cluster, SERVICES, name) for name in _PODS},  # type: ignore[misc]
        "a collector": lambda: _kill_pod(cluster, ON_NODES, "zonemeter-collector"),
        "a kubelet": lambda: _kill_daemon(cluster, "kubelet"),
        "a containerd": lambda: _kill_daemon(cluster, "containerd"),
        "the API server": lambda: _kill_control(cluster, "kube-apiserver", cluster.api.start_server),
        "etcd": lambda: _kill_control(cluster, "etcd", cluster.api.start_etcd),
    }
    for what, kill in victims.items():
        killed = time.monotonic()
        kill()
        cluster.wait_for(SERVICES, ON_NODES)
        table.within(f"{what} killed: everything ready again", DEADLINE_SECONDS, time.monotonic() - killed)
    time.sleep(SECONDS)
    traffic.pause()
    traffic.compare(table, "after the kills")
    _cut_power(cluster, table)
    traffic.meet()
    traffic.go()
    time.sleep(SECONDS)
    traffic.pause()
    traffic.compare(table, "after the power cut")
    audit(cluster, table, "after the kills", begun)
    doctor(cluster, table, "after the kills")


def _kill_pod(cluster: Cluster, namespace: str, prefix: str) -> None:
    """Kill all processes of the first pod of a name, and wait until it is another's turn."""
    pod = next(each for each in cluster.pods(namespace) if each["metadata"]["name"].startswith(prefix))
    since = datetime.now(UTC)
    for pid in cluster.pids_of(pod):
        os.kill(pid, signal.SIGKILL)
    name = pod["metadata"]["name"]
    eventually(lambda: _is_new(cluster.api.get("-n", namespace, "pod", name), since), DEADLINE_SECONDS)


def _kill_daemon(cluster: Cluster, daemon: str) -> None:
    pid = cluster.pid(NODES[1], daemon)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: cluster.pid(NODES[1], daemon) not in (0, pid))
    time.sleep(_AWAY_SECONDS)  # nothing says that a kubelet has looked at its node once more
    cluster.wait_for_nodes()


def _kill_control(cluster: Cluster, name: str, start: Callable[[], None]) -> None:
    cluster.api.kill(name)
    time.sleep(_AWAY_SECONDS)
    start()
    eventually(lambda: _answers(cluster))


def _cut_power(cluster: Cluster, table: Table) -> None:
    node, since = NODES[2], datetime.now(UTC)
    cut = time.monotonic()
    cluster.cut_power(node)
    time.sleep(_AWAY_SECONDS)
    cluster.start_node(node)

    def is_back() -> bool:
        pods = [pod for place in (SERVICES, ON_NODES, NAMESPACE) for pod in cluster.pods(place)]
        return all(_is_new(pod, since) for pod in pods if pod["spec"]["nodeName"] == node.name and _stands(pod))

    eventually(is_back, DEADLINE_SECONDS)
    cluster.wait_for_nodes()
    cluster.wait_for(SERVICES, ON_NODES, NAMESPACE)
    table.within("a node's power cut: everything ready again", DEADLINE_SECONDS, time.monotonic() - cut)


def _stands(pod: dict[str, Any]) -> bool:
    return bool(pod["spec"]["restartPolicy"] == "Always")


def _is_new(pod: dict[str, Any], since: datetime) -> bool:
    """Return whether each of a pod's containers has started since then, and is ready."""
    found = pod["status"].get("containerStatuses", [])
    return bool(found) and all(_started(each["state"], since) and each["ready"] for each in found)


def _started(state: dict[str, Any], since: datetime) -> bool:
    # Kubernetes has whole seconds.
    return "running" in state and datetime.fromisoformat(state["running"]["startedAt"]) >= since.replace(microsecond=0)


def _answers(cluster: Cluster) -> bool:
    try:
        return cluster.api.kubectl("get", "--raw", "/readyz") == "ok"
    except AssertionError:
        return False
