# SPDX-License-Identifier: Apache-2.0
"""Every object is one that the API server would take, and everything that an object refers to is there.

The schemas are the API server's own OpenAPI documents, in strict form (an unknown field is an error), as the package
kubernetes-validate carries them for each minor version: they need no network, and no cluster.
"""

from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.k8s.rendered import K8S, PIPELINES, RENDERED, ROOT, find, render, workloads

# The oldest that has the StatefulSet's pod-index label, and the newest that the package knows.
VERSIONS = ("1.28", kubernetes_validate.latest_version())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", RENDERED)
def test_every_object_is_what_its_schema_says(overlay: str, version: str) -> None:
    assert render(overlay)
    for each in render(overlay):
        # Kinds of the Prometheus operator's: test_chart.py looks at them.
        if each["apiVersion"] != "monitoring.coreos.com/v1":
            kubernetes_validate.validate(each, version, strict=True)


def test_the_schemas_are_strict() -> None:
    wrong = find("base", "DaemonSet", "zonemeter-collector") | {"spec": {"templat": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


@pytest.mark.parametrize("overlay", RENDERED)
def test_names_are_unique_and_only_what_runs_on_nodes_is_in_its_namespace(overlay: str) -> None:
    names = [key(each) for each in render(overlay)]
    assert len(set(names)) == len(names)
    on_nodes = {name for _, name, namespace in names if namespace == "zonemeter-node"}
    assert all(name.startswith(("zonemeter-collector", "zonemeter-settings")) for name in on_nodes)
    without = {kind for kind, _, namespace in names if namespace is None}
    assert without <= {"Namespace", "ClusterRole", "ClusterRoleBinding"}
    assert {namespace for _, _, namespace in names} <= {"zonemeter", "zonemeter-node", None}


def key(each: Any) -> tuple[str, str, str | None]:
    """Return what tells one object from all others."""
    return each["kind"], each["metadata"]["name"], each["metadata"].get("namespace")


@pytest.mark.parametrize("overlay", PIPELINES)
def test_what_a_pod_refers_to_is_there(overlay: str) -> None:
    there = {key(each) for each in render(overlay)}
    for where, workload in workloads():
        if where != overlay:
            continue
        namespace = workload["metadata"]["namespace"]
        pod = workload["spec"]["template"]["spec"]
        assert ("ServiceAccount", pod["serviceAccountName"], namespace) in there
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        claims = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"], namespace) in there
        for container in pod["containers"]:
            for source in container.get("envFrom", []):
                assert ("ConfigMap", source["configMapRef"]["name"], namespace) in there
            for mount in container["volumeMounts"]:
                assert mount["name"] in volumes.keys() | claims


@pytest.mark.parametrize("overlay", PIPELINES)
def test_services_and_policies_select_pods_that_exist(overlay: str) -> None:
    templates = [w["spec"]["template"]["metadata"]["labels"] for where, w in workloads() if where == overlay]
    names = {labels["app.kubernetes.io/name"] for labels in templates}
    names |= {each["metadata"]["name"] for each in render(overlay) if each["kind"] == "CronJob"}
    names.add("zonemeter-doctor")  # the pod of `helm test`
    for each in render(overlay):
        if each["kind"] == "Service":
            assert each["spec"]["selector"]["app.kubernetes.io/name"] in names
        if each["kind"] == "NetworkPolicy":
            selector = each["spec"]["podSelector"]
            wanted = set(selector.get("matchLabels", {}).values())
            wanted |= {value for term in selector.get("matchExpressions", []) for value in term["values"]}
            assert wanted <= names, each["metadata"]["name"]
    for where, workload in workloads():
        if where == overlay and workload["kind"] != "Job":
            selected = workload["spec"]["selector"]["matchLabels"].items()
            assert selected <= workload["spec"]["template"]["metadata"]["labels"].items()


def test_one_file_of_rules_serves_compose_and_kubernetes() -> None:
    rules = (K8S / "monitoring/alerts.yml").read_text()
    assert find("trial", "ConfigMap", "zonemeter-alerts")["data"] == {"alerts.yml": rules}
    compose = yaml.safe_load((K8S.parent / "docker-compose.yml").read_text())
    mounts = compose["services"]["prometheus"]["volumes"]
    assert "./k8s/monitoring/alerts.yml:/etc/prometheus/alerts.yml:ro" in mounts


def test_uninstall_stands_alone_and_changes_nothing_of_what_is_there() -> None:
    """Who deletes first has no namespace and no account left, and the program in every kernel."""
    kinds = ("Namespace", "ServiceAccount")
    theirs = {each["metadata"]["name"]: each for each in render("base") if each["kind"] in kinds}
    ours = [each for each in render("uninstall") if each["kind"] in kinds]
    assert [each["kind"] for each in ours] == list(kinds)
    assert all(each == theirs[each["metadata"]["name"]] for each in ours)


def test_what_is_deleted_by_a_documented_command_may_be_gone_before_its_turn() -> None:
    """With a namespace goes what is in it; then kubectl ends with an error, and does not wait."""
    said = [*(ROOT / "docs").glob("*.md"), *K8S.rglob("*.yaml")]
    lines = [line for path in said for line in path.read_text().splitlines() if "kubectl delete -k" in line]
    assert len(lines) == 3
    assert all("--ignore-not-found" in line for line in lines)


def test_uninstall_takes_the_collectors_place_on_every_node() -> None:
    collector, detach = (find(o, "DaemonSet", "zonemeter-collector") for o in ("base", "uninstall"))
    assert detach["metadata"]["namespace"] == collector["metadata"]["namespace"]
    assert detach["spec"]["selector"] == collector["spec"]["selector"]
    ours, theirs = (each["spec"]["template"]["spec"] for each in (detach, collector))
    for same in ("tolerations", "nodeSelector", "serviceAccountName"):
        assert ours[same] == theirs[same]
    # Its pods come only where the collector's have ended: none is added beforehand.
    assert "maxSurge" not in detach["spec"]["updateStrategy"]["rollingUpdate"]

    def host_paths(pod: dict[str, Any]) -> list[Any]:
        return [volume for volume in pod["volumes"] if "hostPath" in volume]

    # The spool is not its business: what waits there is published when a collector comes again.
    assert host_paths(ours) == [volume for volume in host_paths(theirs) if volume["name"] == "bpf"]
    (container,) = ours["initContainers"]
    for variable in container["env"]:
        assert variable in theirs["containers"][0]["env"]
