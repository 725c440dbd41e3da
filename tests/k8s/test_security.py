# SPDX-License-Identifier: Apache-2.0
"""No pod can do more than its work needs."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from common.kafka.auth import credentials
from common.settings import KafkaSettings
from tests.k8s.rendered import (
    CHARTS,
    K8S,
    PIPELINES,
    RENDERED,
    WORKLOADS,
    Container,
    Object,
    chart,
    containers,
    find,
    render,
    with_component,
    workloads,
)

ALL = [pytest.param(each, id=each.title) for each in containers()]
# The API server writes it of itself.
ITS_OWN_SLICE = {
    "apiGroups": ["discovery.k8s.io"],
    "resources": ["endpointslices"],
    "resourceNames": ["kubernetes"],
    "verbs": ["list", "watch"],
}
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
    wanted = {
        "load": {"BPF", "NET_ADMIN", "PERFMON"},
        "collector": {"BPF", "NET_ADMIN"},
        "detach": {"BPF", "NET_ADMIN"},
    }
    assert set(context["capabilities"].get("add", [])) == wanted.get(container.spec["name"], set())
    assert container.pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostPID", "hostIPC", "shareProcessNamespace"} & container.pod.keys()
    assert container.pod["enableServiceLinks"] is False


def test_a_collector_that_is_told_to_count_at_netfilter_needs_one_capability() -> None:
    (collectors,) = (each for each in chart("--set", "collector.hook=netfilter") if each["kind"] == "DaemonSet")
    (container,) = collectors["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["BPF"]}


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
    for overlay in RENDERED:
        for each in render(overlay):
            if each["kind"] == "ServiceAccount":
                assert each["automountServiceAccountToken"] is False


@pytest.mark.parametrize("overlay", [each for each in PIPELINES if each != "chart-options"])
def test_the_one_role_reads_pods_nodes_services_and_the_api_servers_addresses(overlay: str) -> None:
    rule, slices = find(overlay, "ClusterRole", "zonemeter-enricher")["rules"]
    assert slices == ITS_OWN_SLICE
    assert rule["apiGroups"] == [""]
    assert set(rule["resources"]) == {"pods", "nodes", "services"}
    assert set(rule["verbs"]) == {"list", "watch"}
    roles = [each["metadata"]["name"] for each in render(overlay) if "Role" in each["kind"]]
    assert roles == ["zonemeter-enricher", "zonemeter-enricher"]
    (subject,) = find(overlay, "ClusterRoleBinding", "zonemeter-enricher")["subjects"]
    assert (subject["name"], subject["namespace"]) == ("zonemeter-enricher", "zonemeter")


def test_namespaces_are_read_only_where_their_labels_are_asked_for() -> None:
    (role,) = (each for each in with_component("namespace-labels") if each["kind"] == "ClusterRole")
    rule, slices = role["rules"]
    assert slices == ITS_OWN_SLICE
    assert set(rule["resources"]) == {"pods", "nodes", "services", "namespaces"}
    assert set(rule["verbs"]) == {"list", "watch"}


def test_endpoint_slices_are_read_only_where_they_are_asked_for() -> None:
    (role,) = (each for each in with_component("endpoint-slices") if each["kind"] == "ClusterRole")
    core, own, discovery = role["rules"]
    assert own == ITS_OWN_SLICE
    assert set(core["resources"]) == {"pods", "nodes", "services"}
    assert discovery == {
        "apiGroups": ["discovery.k8s.io"],
        "resources": ["endpointslices"],
        "verbs": ["list", "watch"],
    }


@pytest.mark.parametrize("overlay", PIPELINES)
def test_everything_is_denied_first(overlay: str) -> None:
    policy = find(overlay, "NetworkPolicy", "zonemeter-default-deny")["spec"]
    assert policy == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    # What is allowed names its ports, and where to; but for what has no address that a manifest could name.
    nowhere_in_particular = {
        ("zonemeter-to-api", 443),
        ("zonemeter-to-object-store", 443),
        ("zonemeter-prometheus", 9460),
    }
    for name, rule, way in rules(overlay):
        assert rule["ports"], name
        peer = rule.get("to" if way == "egress" else "from")
        if not peer and way == "egress":
            assert (name, rule["ports"][0]["port"]) in nowhere_in_particular
        assert peer or way == "egress" or name == "zonemeter-kafka", name


def rules(overlay: str) -> Iterator[tuple[str, Object, str]]:
    """Yield every rule of every network policy, with the policy's name and the way that traffic goes."""
    for each in render(overlay):
        if each["kind"] == "NetworkPolicy":
            for way in ("ingress", "egress"):
                for rule in each["spec"].get(way, []):
                    yield each["metadata"]["name"], rule, way


def test_the_flow_log_and_what_looks_after_it_may_reach_an_object_store_where_the_documentation_says_so() -> None:
    (policy,) = yaml.safe_load_all((K8S / "object-store/network-policy.yaml").read_text())
    flowlog = find("base", "StatefulSet", "zonemeter-flowlog")["spec"]["template"]["metadata"]["labels"]
    (upkeep,) = (each for each in with_component("archive-upkeep") if each["kind"] == "CronJob")
    labels = upkeep["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    (selected,) = policy["spec"]["podSelector"]["matchExpressions"]
    assert (selected["key"], selected["operator"]) == ("app.kubernetes.io/name", "In")
    assert selected["values"] == [flowlog[selected["key"]], labels[selected["key"]]]
    assert {"protocol": "TCP", "port": 443} in [port for rule in policy["spec"]["egress"] for port in rule["ports"]]
    assert policy["metadata"]["namespace"] == "zonemeter"


@pytest.mark.parametrize("overlay", PIPELINES)
def test_only_the_collectors_namespace_allows_more_than_restricted(overlay: str) -> None:
    """As the API server enforces it: kubernetes.io/docs/concepts/security/pod-security-standards."""
    enforce = "pod-security.kubernetes.io/enforce"
    levels = {
        e["metadata"]["name"]: e["metadata"]["labels"][enforce] for e in render(overlay) if e["kind"] == "Namespace"
    }
    # The chart leaves the release's namespace to Helm; docs/kubernetes.md says how it gets its label.
    expected = {"zonemeter": "restricted", "zonemeter-node": "privileged"}
    assert levels == ({"zonemeter-node": "privileged"} if overlay in CHARTS else expected)
    placed = {w["metadata"]["name"]: w["metadata"]["namespace"] for o, w in workloads() if o == overlay}
    assert {name for name, namespace in placed.items() if namespace != "zonemeter"} == {"zonemeter-collector"}
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for container in containers():
        if container.overlay == overlay and container.workload["metadata"]["namespace"] == "zonemeter":
            kinds = {key for volume in container.pod.get("volumes", []) for key in volume if key != "name"}
            assert kinds <= allowed
            assert not {"hostNetwork", "hostPID", "hostIPC"} & container.pod.keys()
            assert not any("hostPort" in port for port in container.spec.get("ports", []))


def test_each_service_has_a_certificate_of_its_own() -> None:
    secrets: dict[str, str] = {}
    for container in containers():
        if container.overlay == "production":
            (volume,) = (each for each in container.pod["volumes"] if each["name"] == "kafka-tls")
            assert volume["secret"]["defaultMode"] == 0o440
            secrets[container.workload["metadata"]["name"]] = volume["secret"]["secretName"]
    assert secrets == {name: f"{name}-kafka-tls" for name in secrets}
    assert len(secrets) == 6


def test_with_tokens_each_service_shows_kafka_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = with_component("kafka-oauth")
    accounts: dict[str, str] = {}
    for each in [each for each in objects if each["kind"] in WORKLOADS]:
        pod = each["spec"]["template"]["spec"]
        (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "kafka-token")
        token = volume["projected"]["sources"][0]["serviceAccountToken"]
        assert (token["audience"], token["path"]) == ("kafka", "token")
        (mount,) = (mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "kafka-token")
        # What is mounted by subPath is never renewed.
        assert mount == {"name": "kafka-token", "mountPath": "/etc/zonemeter-kafka", "readOnly": True}
        accounts[each["metadata"]["name"]] = pod["serviceAccountName"]
    assert len(accounts) == len(set(accounts.values())) == 6
    for settings in (each for each in objects if each["metadata"]["name"].startswith("zonemeter-settings")):
        (tmp_path / "token").write_text("a.b.c")
        for name, value in settings["data"].items():
            monkeypatch.setenv(name, value.replace("/etc/zonemeter-kafka/token", str(tmp_path / "token")))
        monkeypatch.delenv("ZONEMETER_KAFKA_SSL_CA_FILE")
        assert asyncio.run(credentials.of(KafkaSettings()).token()) == "a.b.c"


def test_nothing_secret_is_in_a_variable() -> None:
    for overlay in RENDERED:
        assert not [each for each in render(overlay) if each["kind"] == "Secret"]
    for container in containers():
        for variable in container.spec.get("env", []):
            assert "secretKeyRef" not in variable.get("valueFrom", {})


@pytest.mark.parametrize("container", ALL)
def test_images_are_pinned(container: Container) -> None:
    _, _, tag = container.spec["image"].rpartition(":")
    assert tag[:1].isdigit() or tag[:1] == "v"
