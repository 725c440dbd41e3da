# SPDX-License-Identifier: Apache-2.0
"""A life of a release of the chart: installed, upgraded, detached, uninstalled, by Helm at a real API server."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.k8s.rendered import CHART
from tests.support.kubernetes.api_server import ApiServer

# Namespaces that no overlay has: what is in those was not made by Helm, and Helm takes over nothing.
PLACE, ON_NODES = "tools", "tools-node"
# As docs/kubernetes.md has it: what the user set, and of all else the new chart's defaults.
KEEP = "--reset-then-reuse-values"


def release(server: ApiServer) -> Iterator[str]:
    """Yield what each step left."""
    before = _another_version(server.directory)
    said = _helm(server, "install", str(before), "--create-namespace", "--set", f"nodeNamespace.name={ON_NODES}")
    assert f"kubectl -n {PLACE} exec deploy/zonemeter-enricher -- zonemeter report" in said
    assert _jobs(server) == ["zonemeter-topics-1"]
    yield f"installed: {len(_workloads(server))} workloads"
    # As after a wrong address: the Job that waits there cannot be changed, and must not hold up what mends it.
    _helm(server, "upgrade", str(CHART), KEEP, "--set", "kafka.bootstrap=elsewhere.example.com:9092")
    assert _jobs(server) == ["zonemeter-topics-2"]
    yield "upgraded: the Job that waited is replaced"
    _helm(server, "upgrade", str(CHART), KEEP, "--set", "detach=true")
    pod = server.get("-n", ON_NODES, "daemonset", "zonemeter-collector")["spec"]["template"]["spec"]
    assert [each["name"] for each in (*pod["initContainers"], *pod["containers"])] == ["detach", "detached"]
    assert [each["name"] for each in pod["volumes"]] == ["bpf"]
    yield "detached: the collectors give way"
    _helm(server, "uninstall")
    assert _workloads(server) == []
    yield "uninstalled: nothing runs"


def _another_version(directory: Path) -> Path:
    """Return a chart with a value that this one does not have, as one of another version has."""
    made = directory / "zonemeter"
    shutil.copytree(CHART, made)
    schema = json.loads((made / "values.schema.json").read_text())
    schema["properties"]["dropped"] = {"type": "boolean"}
    (made / "values.schema.json").write_text(json.dumps(schema))
    with (made / "values.yaml").open("a") as values:
        values.write("dropped: true\n")
    return made


def _helm(server: ApiServer, verb: str, *words: str) -> str:
    return server.helm(verb, "zonemeter", *words, "-n", PLACE)


def _workloads(server: ApiServer) -> list[str]:
    kinds = "daemonsets,deployments,statefulsets"
    return [each["metadata"]["name"] for place in (PLACE, ON_NODES) for each in server.get("-n", place, kinds)["items"]]


def _jobs(server: ApiServer) -> list[str]:
    """Return the Jobs that are not being deleted: an API server alone collects nothing that was orphaned."""
    jobs = server.get("-n", PLACE, "jobs")["items"]
    return [each["metadata"]["name"] for each in jobs if "deletionTimestamp" not in each["metadata"]]
