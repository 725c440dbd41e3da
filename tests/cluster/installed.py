# SPDX-License-Identifier: Apache-2.0
"""zonemeter in the cluster: installed and taken away as docs/kubernetes.md says, by the chart or by kustomize."""

import json
import time
from collections.abc import Callable
from typing import Any

from tests.cluster.cluster import Cluster
from tests.cluster.network import NODES
from tests.cluster.table import Table
from tests.k8s.rendered import CHART, K8S
from tests.support.services import eventually

SERVICES, ON_NODES = "zonemeter", "zonemeter-node"
FIRST_REPORT_SECONDS = 180.0
DEADLINE_SECONDS = 300.0
_PINS = "/sys/fs/bpf/zonemeter"


class Zonemeter:
    """An installed zonemeter."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def run(self, *words: str) -> str:
        """Run a command in the enricher's pod; raise `AssertionError` with its words if it fails."""
        return self.cluster.api.kubectl(
            "-n", SERVICES, "exec", "deploy/zonemeter-enricher", "-c", "enricher", "--", "zonemeter", *words
        )

    def document(self, *words: str) -> Any:
        """Return what a command says as JSON; None if it does not say it, or not yet."""
        try:
            return json.loads(self.run(*words, "-o", "json"))
        except AssertionError:
            return None

    def collectors(self) -> list[str]:
        """Name the collectors' pods."""
        return [pod["metadata"]["name"] for pod in self.cluster.pods(ON_NODES)]


def chart(cluster: Cluster, table: Table) -> None:
    """Install by the chart, with the values of a trial, and let `helm test` look."""
    values = ["-f", str(CHART / "values-trial.yaml"), "-n", SERVICES, "--create-namespace"]
    _installed(cluster, table, "chart", lambda: cluster.api.helm("install", "zonemeter", str(CHART), *values))
    said = cluster.api.helm("test", "zonemeter", "-n", SERVICES)
    table.add("chart: helm test", "Succeeded", "Succeeded" if "Succeeded" in said else said)


def chart_away(cluster: Cluster, table: Table) -> None:
    """Detach and uninstall the chart."""
    upgrade = ["--reset-then-reuse-values", "--set", "detach=true"]
    _uninstalled(
        cluster,
        table,
        "chart",
        lambda: cluster.api.helm("upgrade", "zonemeter", str(CHART), "-n", SERVICES, *upgrade),
        lambda: cluster.api.helm("uninstall", "zonemeter", "-n", SERVICES, "--wait"),
    )
    cluster.api.kubectl("delete", "namespace", SERVICES, "--ignore-not-found", "--timeout=180s")


def kustomize(cluster: Cluster, table: Table) -> None:
    """Install k8s/trial."""
    _installed(cluster, table, "k8s/trial", lambda: cluster.api.kubectl("apply", "-k", str(K8S / "trial")))


def kustomize_away(cluster: Cluster, table: Table) -> None:
    """Detach and delete k8s/trial."""
    delete = ["delete", "-k", str(K8S / "trial"), "--ignore-not-found", "--timeout=300s"]
    _uninstalled(
        cluster,
        table,
        "k8s/trial",
        lambda: cluster.api.kubectl("apply", "-k", str(K8S / "uninstall")),
        lambda: cluster.api.kubectl(*delete),
    )


def doctor(cluster: Cluster, table: Table, when: str) -> None:
    """Let `zonemeter doctor` look at the pipeline, and on each node from the collector's pod."""
    zonemeter = Zonemeter(cluster)
    eventually(lambda: (zonemeter.document("doctor") or {"faults": None})["faults"] == 0, DEADLINE_SECONDS)
    found = {"pipeline": zonemeter.run("doctor")}
    for pod in zonemeter.collectors():
        found[pod] = cluster.api.kubectl("-n", ON_NODES, "exec", pod, "--", "zonemeter", "doctor")
    table.add(
        f"{when}: doctor in the enricher's pod and on each node",
        "exit status 0",
        f"exit status 0 in {len(found)}",
        True,
    )


def _installed(cluster: Cluster, table: Table, how: str, install: Callable[[], object]) -> None:
    begun = time.monotonic()
    install()
    cluster.wait_for(SERVICES, ON_NODES)
    table.within(f"{how}: from install to every pod ready", FIRST_REPORT_SECONDS, time.monotonic() - begun)
    zonemeter = Zonemeter(cluster)
    eventually(lambda: (zonemeter.document("report", "--since", "10m") or {"flows": 0})["flows"], DEADLINE_SECONDS)
    table.within(f"{how}: from install to the first report", FIRST_REPORT_SECONDS, time.monotonic() - begun)
    doctor(cluster, table, how)


def _uninstalled(
    cluster: Cluster, table: Table, how: str, detach: Callable[[], object], delete: Callable[[], object]
) -> None:
    held = {node: _links(cluster, node) for node in NODES}
    table.add(f"{how}: nodes with links of zonemeter's in their kernel", len(NODES), sum(map(bool, held.values())))
    detach()
    limit = f"--timeout={DEADLINE_SECONDS:.0f}s"
    cluster.api.kubectl("-n", ON_NODES, "rollout", "status", "daemonset/zonemeter-collector", limit)
    delete()
    pins = sum(len(cluster.output(node, "find", _PINS, "-type", "f").split()) for node in NODES)
    table.add(f"{how}: pins left after uninstall", 0, pins)
    links = sum(len(before & _all_links(cluster, node)) for node, before in held.items())
    table.add(f"{how}: links of those left in the kernel", 0, links)
    eventually(lambda: not _running(cluster), DEADLINE_SECONDS)
    kinds = "daemonsets,deployments,statefulsets,jobs,services,configmaps"
    left = [
        each["metadata"]["name"]
        for place in (SERVICES, ON_NODES)
        for each in cluster.api.get("-n", place, kinds)["items"]
    ]
    table.add(
        f"{how}: workloads, services and settings left", [], [name for name in left if name != "kube-root-ca.crt"]
    )


def _links(cluster: Cluster, node: Any) -> set[int]:
    """Return the ids of the links that are pinned on a node."""
    paths = cluster.output(node, "find", _PINS, "-type", "f", "-name", "link*").split()
    return {json.loads(cluster.output(node, "bpftool", "-j", "link", "show", "pinned", path))["id"] for path in paths}


def _all_links(cluster: Cluster, node: Any) -> set[int]:
    return {link["id"] for link in json.loads(cluster.output(node, "bpftool", "-j", "link", "show"))}


def _running(cluster: Cluster) -> list[str]:
    """Name the pods that have not ended: Helm leaves that of its test."""
    pods = [pod for place in (SERVICES, ON_NODES) for pod in cluster.api.get("-n", place, "pods")["items"]]
    return [pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] not in ("Succeeded", "Failed")]
