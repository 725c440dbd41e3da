# SPDX-License-Identifier: Apache-2.0
"""No pod can do more than its work needs."""

import pytest

from tests.k8s.rendered import OVERLAYS, Container, containers, find, render, workloads

ALL = [pytest.param(each, id=each.title) for each in containers()]
PINS, SPOOL = "/sys/fs/bpf/zonemeter", "/var/lib/zonemeter"


def is_on_the_node(container: Container) -> bool:
    """Tell the DaemonSet's containers, the collector's and detach's, from the rest."""
    return bool(container.workload["kind"] == "DaemonSet")


@pytest.mark.parametrize("container", ALL)
def test_a_container_has_no_privileges(container: Container) -> None:
    context = container.spec["securityContext"]
    assert context["privileged"] is False
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"]["drop"] == ["ALL"]
    wanted = {"collector": {"BPF", "NET_ADMIN", "PERFMON"}, "detach": {"BPF", "NET_ADMIN"}}
    assert set(context["capabilities"].get("add", [])) == wanted.get(container.spec["name"], set())
    assert container.pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostPID", "hostIPC", "shareProcessNamespace"} & container.pod.keys()
    assert container.pod["enableServiceLinks"] is False


@pytest.mark.parametrize("container", ALL)
def test_a_container_writes_only_where_a_volume_is(container: Container) -> None:
    # Kafka's image writes its settings beside its programs.
    expected = container.spec["name"] != "kafka"
    assert container.spec["securityContext"]["readOnlyRootFilesystem"] is expected


@pytest.mark.parametrize("container", ALL)
def test_only_what_is_on_the_node_is_root_and_sees_directories_of_the_host(container: Container) -> None:
    paths = {volume["hostPath"]["path"] for volume in container.pod.get("volumes", []) if "hostPath" in volume}
    if is_on_the_node(container):
        assert container.spec["securityContext"]["runAsUser"] == 0
        detaches = container.overlay == "uninstall"
        assert paths == ({PINS} if detaches else {PINS, SPOOL})
    else:
        assert container.pod["securityContext"]["runAsNonRoot"] is True
        assert container.pod["securityContext"]["runAsUser"] > 0
        assert not paths


@pytest.mark.parametrize("container", ALL)
def test_a_container_has_requests_and_a_limit_of_memory_but_none_of_cpu(container: Container) -> None:
    resources = container.spec["resources"]
    assert resources["requests"].keys() == {"cpu", "memory"}
    # A limit of CPU would throttle a service that has to catch up.
    assert resources["limits"].keys() == {"memory"}


def test_only_the_collector_is_on_the_hosts_network() -> None:
    on_host = {w["metadata"]["name"] for _, w in workloads() if w["spec"]["template"]["spec"].get("hostNetwork")}
    assert on_host == {"zonemeter-collector"}


def test_only_the_enricher_has_a_token() -> None:
    for _, workload in workloads():
        token = workload["spec"]["template"]["spec"]["automountServiceAccountToken"]
        assert token is (workload["metadata"]["name"] == "zonemeter-enricher")
    for overlay in OVERLAYS:
        for each in render(overlay):
            if each["kind"] == "ServiceAccount":
                assert each["automountServiceAccountToken"] is False


@pytest.mark.parametrize("overlay", ["base", "trial", "production"])
def test_the_one_role_reads_pods_nodes_and_services(overlay: str) -> None:
    (rule,) = find(overlay, "ClusterRole", "zonemeter-enricher")["rules"]
    assert rule["apiGroups"] == [""]
    assert set(rule["resources"]) == {"pods", "nodes", "services"}
    assert set(rule["verbs"]) == {"list", "watch"}
    roles = [each["metadata"]["name"] for each in render(overlay) if "Role" in each["kind"]]
    assert roles == ["zonemeter-enricher", "zonemeter-enricher"]
    (subject,) = find(overlay, "ClusterRoleBinding", "zonemeter-enricher")["subjects"]
    assert (subject["name"], subject["namespace"]) == ("zonemeter-enricher", "zonemeter")


@pytest.mark.parametrize("overlay", ["base", "trial", "production"])
def test_everything_is_denied_first(overlay: str) -> None:
    policy = find(overlay, "NetworkPolicy", "zonemeter-default-deny")["spec"]
    assert policy == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for each in render(overlay):
        if each["kind"] == "NetworkPolicy":
            # What is allowed names its ports.
            spec = each["spec"]
            assert all(rule.get("ports") for rule in [*spec.get("ingress", []), *spec.get("egress", [])])


def test_nothing_secret_is_in_a_variable() -> None:
    for overlay in OVERLAYS:
        assert not [each for each in render(overlay) if each["kind"] == "Secret"]
    for container in containers():
        for variable in container.spec.get("env", []):
            assert "secretKeyRef" not in variable.get("valueFrom", {})


@pytest.mark.parametrize("container", ALL)
def test_images_are_pinned(container: Container) -> None:
    _, _, tag = container.spec["image"].rpartition(":")
    assert tag[:1].isdigit() or tag[:1] == "v"
