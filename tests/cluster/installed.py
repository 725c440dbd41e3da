# SPDX-License-Identifier: Apache-2.0
"""zonemeter in the cluster: installed and taken away as docs/kubernetes.md says, by the chart or by kustomize."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster.cluster import Cluster
from tests.cluster.network import NODES, VARIATION
from tests.cluster.table import Table
from tests.k8s.rendered import CHART, K8S
from tests.support.services import eventually

SERVICES, ON_NODES = "zonemeter", "zonemeter-node"
FIRST_REPORT_SECONDS = 180.0
DEADLINE_SECONDS = 300.0
ARCHIVE = "/var/lib/zonemeter/flowlog"
PINS = "/sys/fs/bpf/zonemeter"


class Zonemeter:
    """An installed zonemeter. Commands run in the enricher's pod, or another's."""

    def __init__(self, cluster: Cluster, place: str = "deploy/zonemeter-enricher") -> None:
        self.cluster = cluster
        self._place = place

    def run(self, *words: str) -> str:
        """Run a command there; raise `AssertionError` with its words if it fails."""
        return self.cluster.api.kubectl("-n", SERVICES, "exec", self._place, "--", "zonemeter", *words)

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
    """Install by the chart, as a trial with volumes and what can be two, and let `helm test` look."""
    files = (CHART / "values-trial.yaml", Path(__file__).with_name("values.yaml"))
    values = [*(f"--values={file}" for file in files), "-n", SERVICES, "--create-namespace"]
    if "tc" in VARIATION:
        values.append("--set=collector.hook=tc")
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


def audit(cluster: Cluster, table: Table, when: str, since: float) -> None:
    """Reconcile all since then, by `time.monotonic`: what the ledger says, the topics and the flow log's files."""
    zonemeter = Zonemeter(cluster, "sts/zonemeter-flowlog")
    words = ["audit", "--since", f"{time.monotonic() - since + 60:.0f}s", "--deep", f"--archive={ARCHIVE}"]
    try:
        found = eventually(lambda: zonemeter.document(*words), DEADLINE_SECONDS)
    except AssertionError:
        zonemeter.run(*words)  # fails with its words
        raise
    verdict = "closes" if found["closes"] else found["shortfalls"]
    table.add(f"{when}: audit", "1.000000, closes", f"{found['ratio']:.6f}, {verdict}")
    faults = [each["what"] for each in found["deep"]["findings"] if each["fault"]]
    seen = f"{len(faults)} in {found['deep']['read']['archive']['rows']:,} flows"
    table.add(f"{when}: faults in topics and archive", 0, "; ".join([seen, *faults[:5]]), not faults)


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
    pins = sum(len(cluster.output(node, "find", PINS, "-type", "f").split()) for node in NODES)
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
    paths = cluster.output(node, "find", PINS, "-type", "f", "-name", "link*").split()
    return {json.loads(cluster.output(node, "bpftool", "-j", "link", "show", "pinned", path))["id"] for path in paths}


def _all_links(cluster: Cluster, node: Any) -> set[int]:
    return {link["id"] for link in json.loads(cluster.output(node, "bpftool", "-j", "link", "show"))}


def _running(cluster: Cluster) -> list[str]:
    """Name the pods that have not ended: Helm leaves that of its test."""
    pods = [pod for place in (SERVICES, ON_NODES) for pod in cluster.api.get("-n", place, "pods")["items"]]
    return [pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] not in ("Succeeded", "Failed")]
