# SPDX-License-Identifier: Apache-2.0
from typing import Any

import msgspec
import orjson
import pytest

from enricher.index.ownership import Index
from enricher.kube.cluster import ClusterView
from enricher.kube.states import nodes, pods, services
from enricher.kube.states.fields import changed_ms, milliseconds
from enricher.kube.states.nodes import node_state
from enricher.kube.states.objects import Node, Pod, Service
from enricher.kube.states.pods import pod_state
from enricher.kube.states.services import service_state
from schemas.flow import Workload
from schemas.topology import Routing, decode_topology, encode_topology
from tests.support.enricher.api_objects import NOW, STARTED, STARTED_MS, owner, pod_json, pod_of


@pytest.mark.parametrize(
    ("fields", "workload"),
    [
        pytest.param(
            {"owners": owner("ReplicaSet", "api-7d9f8b6c5"), "labels": {"pod-template-hash": "7d9f8b6c5"}},
            Workload("Deployment", "api"),
            id="deployment",
        ),
        pytest.param(
            {"owners": owner("ReplicaSet", "api-7d9f8b6c5"), "labels": {"pod-template-hash": "other"}},
            Workload("ReplicaSet", "api-7d9f8b6c5"),
            id="replica set whose name does not end in the hash",
        ),
        pytest.param(
            {"owners": owner("ReplicaSet", "api-7d9f8b6c5")},
            Workload("ReplicaSet", "api-7d9f8b6c5"),
            id="bare replica set",
        ),
        pytest.param({"owners": owner("Job", "backup-29922826")}, Workload("CronJob", "backup"), id="cron job"),
        pytest.param(
            {"owners": owner("Job", "backup-29921386")},
            Workload("CronJob", "backup"),
            id="retry of yesterday's cron job",
        ),
        pytest.param(
            {"owners": owner("Job", "db-migrate-20261128")},
            Workload("Job", "db-migrate-20261128"),
            id="job named by date",
        ),
        pytest.param(
            {"owners": owner("Job", "load-1795369599")}, Workload("Job", "load-1795369599"), id="job named by seconds"
        ),
        pytest.param(
            {"owners": owner("Job", "backup-29922829")}, Workload("Job", "backup-29922829"), id="minutes yet to come"
        ),
        pytest.param(
            {"owners": owner("Job", "order-29102030")}, Workload("Job", "order-29102030"), id="minutes of another year"
        ),
        pytest.param({"owners": owner("Job", "backup-7")}, Workload("Job", "backup-7"), id="job"),
        pytest.param(
            {"owners": owner("StatefulSet", "postgres")}, Workload("StatefulSet", "postgres"), id="stateful set"
        ),
        pytest.param({"owners": owner("DaemonSet", "fluentd")}, Workload("DaemonSet", "fluentd"), id="daemon set"),
        pytest.param(
            {"owners": owner("SparkApplication", "etl")}, Workload("SparkApplication", "etl"), id="custom kind"
        ),
        pytest.param(
            {"owners": owner("ReplicaSet", "web-5c9f4d7"), "labels": {"rollouts-pod-template-hash": "5c9f4d7"}},
            Workload("Rollout", "web"),
            id="argo rollout",
        ),
        pytest.param(
            {"owners": owner("Backup", "b", controller=False) + owner("ReplicationController", "old")},
            Workload("ReplicationController", "old"),
            id="the controller among several owners",
        ),
        pytest.param(
            {
                "owners": owner("ReplicationController", "frontend-7"),
                "labels": {"deploymentconfig": "frontend", "deployment": "frontend-7"},
                "annotations": {"openshift.io/deployment-config.name": "frontend"},
            },
            Workload("DeploymentConfig", "frontend"),
            id="deployment config",
        ),
        pytest.param(
            {
                "name": "frontend-7-deploy",
                "owners": owner("ReplicationController", "frontend-7", controller=False),
                "labels": {"openshift.io/deployer-pod-for.name": "frontend-7"},
                "annotations": {"openshift.io/deployment-config.name": "frontend"},
            },
            Workload("DeploymentConfig", "frontend"),
            id="deployer of a deployment config",
        ),
        pytest.param(
            {
                "owners": owner("ReplicationController", "mine-7"),
                "annotations": {"openshift.io/deployment-config.name": "frontend"},
            },
            Workload("ReplicationController", "mine-7"),
            id="another deployment config's controller",
        ),
        pytest.param(
            {
                "owners": owner("ReplicaSet", "api-7d9f8b6c5"),
                "labels": {"pod-template-hash": "7d9f8b6c5"},
                "annotations": {"openshift.io/deployment-config.name": "frontend"},
            },
            Workload("Deployment", "api"),
            id="a template copied from a deployment config",
        ),
        pytest.param({}, Workload("Pod", "api-7d9f8b6c5-x2x9q"), id="no owner"),
        pytest.param(
            {"owners": owner("Backup", "b", controller=False)},
            Workload("Pod", "api-7d9f8b6c5-x2x9q"),
            id="not its controller",
        ),
        pytest.param(
            {
                "name": "etcd-node-a1",
                "owners": owner("Node", "node-a1"),
                "annotations": {"kubernetes.io/config.mirror": "a1"},
            },
            Workload("Pod", "etcd"),
            id="static pod",
        ),
    ],
)
def test_workload(fields: dict[str, Any], workload: Workload) -> None:
    state = pod_state(pod_of(**fields), NOW)
    assert state is not None
    assert state.workload == workload


def test_running_pod() -> None:
    state = pod_state(pod_of(ips=["10.42.1.17", "fd00:42::17"]), NOW)
    assert state is not None
    assert (state.addresses, state.node, state.from_ms, state.to_ms) == (
        ["10.42.1.17", "fd00:42::17"],
        "node-a1",
        STARTED_MS,
        None,
    )
    assert (state.ready, state.host_network, state.key) == (True, False, b"pod/u1/100")


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_finished_pod_gives_its_address_back_in_the_second_in_which_its_last_container_ended(phase: str) -> None:
    state = pod_state(pod_of(phase=phase, ended="2026-11-22T17:50:00Z"), NOW)
    assert state is not None
    assert (state.released_from_ms, state.to_ms) == (STARTED_MS + 200_000, STARTED_MS + 201_000)


def test_finished_pod_that_does_not_say_when_ends_as_seen() -> None:
    state = pod_state(pod_of(phase="Failed"), NOW)
    assert state is not None
    assert (state.released_from_ms, state.to_ms) == (None, NOW)


def container(state: str, last: str | None = None, **times: str) -> dict[str, Any]:
    stamps = {"startedAt": times.get("started"), "finishedAt": times.get("finished")}
    found: dict[str, Any] = {"state": {state: stamps if state != "waiting" else {"reason": "CrashLoopBackOff"}}}
    return found | ({"lastState": {"terminated": {"finishedAt": last}}} if last else {})


@pytest.mark.parametrize(
    ("containers", "released", "to"),
    [
        pytest.param([container("terminated", finished="2026-11-22T17:50:00Z")], 200_000, 201_000, id="ended"),
        pytest.param(
            [container("terminated", finished="2026-11-22T17:50:00Z"), container("running", started=STARTED)],
            None,
            None,
            id="one still runs",
        ),
        pytest.param(
            [
                container("terminated", finished="2026-11-22T17:49:00Z"),
                container("waiting", last="2026-11-22T17:50:00Z"),
            ],
            200_000,
            201_000,
            id="one ended in an earlier life",
        ),
        pytest.param([container("waiting")], None, None, id="one never ran"),
    ],
)
def test_a_pod_deleted_in_any_phase_ends_with_its_last_container(
    containers: list[dict[str, Any]], released: int | None, to: int | None
) -> None:
    found = pod_json()
    found["status"]["containerStatuses"] = containers
    state = pod_state(msgspec.json.decode(orjson.dumps(found), type=Pod), NOW, deleted=True)
    assert state is not None
    assert state.released_from_ms == (None if released is None else STARTED_MS + released)
    assert state.to_ms == (None if to is None else STARTED_MS + to)


@pytest.mark.parametrize(
    ("conditions", "containers", "by_ms"),
    [
        pytest.param([], [], NOW, id="seen only"),
        pytest.param([("Ready", "False", STARTED)], [], NOW, id="not ready says nothing"),
        pytest.param([("PodReadyToStartContainers", "True", STARTED)], [], STARTED_MS + 1000, id="its sandbox"),
        pytest.param(
            [("Ready", "True", "2026-11-22T17:46:50Z")],
            [container("running", started="2026-11-22T17:46:45Z")],
            STARTED_MS + 6000,
            id="a container, before it was ready",
        ),
        pytest.param(
            [],
            [container("terminated", started="2026-11-22T17:46:41.250000Z", finished="2026-11-22T17:46:42Z")],
            STARTED_MS + 1250,
            id="a container that has ended, to the microsecond",
        ),
        pytest.param([], [container("waiting", last=STARTED)], NOW, id="an earlier life may have had another address"),
    ],
)
def test_a_pod_surely_has_its_address_once_something_runs_in_it(
    conditions: list[tuple[str, str, str]], containers: list[dict[str, Any]], by_ms: int
) -> None:
    found = pod_json()
    found["status"]["conditions"] = [{"type": t, "status": s, "lastTransitionTime": at} for t, s, at in conditions]
    found["status"]["containerStatuses"] = containers
    state = pod_state(msgspec.json.decode(orjson.dumps(found), type=Pod), NOW)
    assert state is not None
    assert (state.from_ms, state.acquired_by_ms) == (STARTED_MS, by_ms)


def test_a_node_whose_clock_is_ahead_keeps_its_times_for_it_measures_the_flows_with_it() -> None:
    state = pod_state(pod_of(), STARTED_MS - 3_600_000)
    assert state is not None
    assert (state.from_ms, state.acquired_by_ms) == (STARTED_MS, STARTED_MS + 1000)


def test_pod_without_address_is_nothing_yet() -> None:
    assert pod_state(pod_of(ips=[]), NOW) is None


def test_only_pod_ip_given() -> None:
    found = pod_json()
    found["status"]["podIPs"] = None
    state = pod_state(msgspec.json.decode(orjson.dumps(found), type=Pod), NOW)
    assert state is not None
    assert state.addresses == ["10.42.1.17"]


def test_node() -> None:
    found = {
        "metadata": {
            "name": "node-a1",
            "uid": "n1",
            "resourceVersion": "7",
            "creationTimestamp": STARTED,
            "annotations": {"projectcalico.org/IPv4VXLANTunnelAddr": "10.42.1.0", "other": "10.42.1.1"},
            "labels": {
                "topology.kubernetes.io/zone": "eu-west-1a",
                "topology.kubernetes.io/region": "eu-west-1",
                "topology.k8s.aws/zone-id": "euw1-az3",
                "node.kubernetes.io/instance-type": "m7g.large",
            },
        },
        "spec": {
            "podCIDR": "10.42.1.0/24",
            "podCIDRs": ["10.42.1.0/24", "fd00:42:1::/64"],
            "providerID": "aws:///eu-west-1a/i-0a1b2c3d4e5f60718",
        },
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": "192.168.0.11"},
                {"type": "ExternalIP", "address": "203.0.113.9"},
                {"type": "Hostname", "address": "node-a1"},
            ]
        },
    }
    state = node_state(msgspec.json.decode(orjson.dumps(found), type=Node), NOW)
    assert state.addresses == ["192.168.0.11", "203.0.113.9", "10.42.1.0"]
    assert (state.zone, state.region, state.zone_id) == ("eu-west-1a", "eu-west-1", "euw1-az3")
    assert (state.pod_cidrs, state.from_ms) == (("10.42.1.0/24", "fd00:42:1::/64"), STARTED_MS)
    assert (state.provider_id, state.instance_type) == ("aws:///eu-west-1a/i-0a1b2c3d4e5f60718", "m7g.large")


def test_node_without_labels_and_spec_has_no_zone() -> None:
    found = {"metadata": {"name": "n", "uid": "n1", "resourceVersion": "7", "labels": None}}
    state = node_state(msgspec.json.decode(orjson.dumps(found), type=Node), NOW)
    assert (state.zone, state.addresses, state.from_ms) == (None, [], NOW)


@pytest.mark.parametrize(
    ("provider", "label", "zone"),
    [
        pytest.param("azure:///subscriptions/s/resourceGroups/g/virtualMachines/vm", "0", None, id="fault domain 0"),
        pytest.param("azure:///subscriptions/s/resourceGroups/g/virtualMachines/vm", "1", None, id="fault domain 1"),
        pytest.param("azure:///subscriptions/s/resourceGroups/g/virtualMachines/vm", "eastus-1", "eastus-1", id="zone"),
        pytest.param(None, "1", "1", id="a label of one's own"),
        pytest.param("kind://docker/kind/kind-worker", "0", "0", id="another provider's"),
    ],
)
def test_an_azure_fault_domain_is_no_zone(provider: str | None, label: str, zone: str | None) -> None:
    labels = {"topology.kubernetes.io/zone": label, "topology.kubernetes.io/region": "eastus"}
    found = {
        "metadata": {"name": "n", "uid": "n1", "resourceVersion": "7", "labels": labels},
        "spec": {"providerID": provider},
    }
    state = node_state(msgspec.json.decode(orjson.dumps(found), type=Node), NOW)
    assert (state.zone, state.region) == (zone, "eastus")


@pytest.mark.parametrize(
    ("spec", "addresses"),
    [
        ({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00:96::9"]}, ["10.96.0.9", "fd00:96::9"]),
        ({"clusterIP": "10.96.0.9"}, ["10.96.0.9"]),
        ({"clusterIP": "None", "clusterIPs": ["None"]}, []),
        ({"type": "ExternalName"}, []),
    ],
)
def test_service(spec: dict[str, Any], addresses: list[str]) -> None:
    found = {"metadata": {"name": "api", "namespace": "shop", "uid": "s", "resourceVersion": "7"}, "spec": spec}
    assert service_state(msgspec.json.decode(orjson.dumps(found), type=Service), NOW).addresses == addresses


@pytest.mark.parametrize(
    ("spec", "annotations", "routing"),
    [
        ({}, {}, Routing()),
        ({"type": "ClusterIP", "internalTrafficPolicy": "Cluster", "sessionAffinity": "None"}, {}, Routing()),
        ({"clusterIP": "None", "clusterIPs": ["None"]}, {}, Routing(headless=True)),
        ({"trafficDistribution": "PreferClose"}, {}, Routing(traffic_distribution="PreferClose")),
        ({"internalTrafficPolicy": "Local"}, {}, Routing(internal_traffic_policy="Local")),
        (
            {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP"},
            {},
            Routing(type="LoadBalancer", external_traffic_policy="Local", session_affinity="ClientIP"),
        ),
        ({}, {"service.kubernetes.io/topology-mode": "Auto"}, Routing(topology_mode="Auto")),
        ({}, {"service.kubernetes.io/topology-aware-hints": "auto"}, Routing(topology_mode="auto")),
        pytest.param({}, {"service.kubernetes.io/topology-mode": "x" * 200_000}, Routing(), id="refused"),
    ],
)
def test_a_service_says_how_it_chooses_end_points(
    spec: dict[str, Any], annotations: dict[str, str], routing: Routing
) -> None:
    meta = {"name": "api", "namespace": "shop", "uid": "s", "resourceVersion": "7", "annotations": annotations}
    found = {"metadata": meta, "spec": {"clusterIP": "10.96.0.9", **spec}}
    service = msgspec.json.decode(orjson.dumps(found), type=Service)
    assert service_state(service, NOW).routing == routing
    assert services.left_out(service) == ["routing"] * any(len(note) > 253 for note in annotations.values())


def test_a_provider_id_that_no_cloud_gives_is_left_out() -> None:
    found = {
        "metadata": {"name": "n", "uid": "n1", "resourceVersion": "7"},
        "spec": {"providerID": "x" * 100_000},
    }
    node = msgspec.json.decode(orjson.dumps(found), type=Node)
    assert node_state(node, NOW).provider_id is None
    assert nodes.left_out(node) == ["provider_id"]


def test_changed_is_the_newest_stamp_but_never_after_it_was_seen() -> None:
    assert changed_ms(pod_of(changed="2026-11-22T17:50:00Z"), NOW) == STARTED_MS + 200_000
    assert changed_ms(pod_of(changed="2030-01-01T00:00:00Z"), NOW) == NOW


@pytest.mark.parametrize(
    ("stamp", "time"),
    [
        ("1970-01-01T00:00:01Z", 1000),
        ("1970-01-01T00:00:01.250000Z", 1250),
        ("1970-01-01T01:00:01+01:00", 1000),
        ("rubbish", None),
        ("", None),
        (None, None),
    ],
)
def test_milliseconds(stamp: str | None, time: int | None) -> None:
    assert milliseconds(stamp) == time


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("ReplicaSet", "x" * 200_000),
        ("ReplicaSet", "x" * 254),
        ("K" * 254, "api"),
        ("Job", "a b"),
        ("Job", "\x00" * 200),
    ],
)
def test_an_owner_that_no_object_can_be_is_none(kind: str, name: str) -> None:
    """The API server asks only that an owner's name is not empty; it would stand in each of the pod's flows."""
    state = pod_state(pod_of(owners=owner(kind, name)), NOW)
    assert state is not None
    assert state.workload == Workload("Pod", "api-7d9f8b6c5-x2x9q")
    assert pods.left_out(pod_of(owners=owner(kind, name))) == ["owner"]


def test_what_can_be_is_not_left_out() -> None:
    addresses = [{"type": "InternalIP", "address": "10.0.0.1"}]
    value = {"metadata": {"name": "n", "uid": "u", "resourceVersion": "1"}, "status": {"addresses": addresses}}
    assert pods.left_out(pod_of(owners=owner("ReplicaSet", "x" * 253))) == []
    assert pods.left_out(pod_of()) == []
    assert nodes.left_out(msgspec.json.decode(orjson.dumps(value), type=Node)) == []


def test_what_is_left_out_is_told_each_time_that_it_is_shown() -> None:
    told: list[str] = []
    cluster = ClusterView(Index(), live=True, tell_left_out=told.append)
    for version, name in (("100", "api-7d9f8b6c5"), ("101", "x" * 254), ("102", "x" * 254)):
        cluster.take(pod_of(rv=version, owners=owner("ReplicaSet", name)), version)
    assert told == ["owner", "owner"]


def test_a_node_has_no_more_addresses_than_a_node_can_have() -> None:
    found = [{"type": "InternalIP", "address": f"10.0.{n // 256}.{n % 256}"} for n in range(10_000)]
    found.append({"type": "InternalIP", "address": "1" * 100_000})
    value = {
        "metadata": {"name": "n", "uid": "u", "resourceVersion": "1", "creationTimestamp": STARTED},
        "spec": {"podCIDRs": ["10.0.0.0/24", "f" * 100_000]},
        "status": {"addresses": found},
    }
    found_node = msgspec.json.decode(orjson.dumps(value), type=Node)
    assert nodes.left_out(found_node) == ["address"]
    state = node_state(found_node, NOW)
    assert len(encode_topology(state)) < 16_384
    assert decode_topology(encode_topology(state)) == state
    assert state.pod_cidrs == ("10.0.0.0/24",)


@pytest.mark.parametrize(
    ("selector", "kept"),
    [
        ({"app": "api", "a.example.com/tier": ""}, True),
        ({}, True),
        (None, True),
        ({"app": "x" * 64}, False),
        ({"x" * 318: "api"}, False),
        ({f"l{number}": "x" for number in range(17)}, False),
    ],
)
def test_a_service_says_which_pods_it_selects(selector: dict[str, str] | None, kept: bool) -> None:
    meta = {"name": "api", "namespace": "shop", "uid": "s", "resourceVersion": "7"}
    found = {"metadata": meta, "spec": {"clusterIP": "10.96.0.9", "selector": selector}}
    service = msgspec.json.decode(orjson.dumps(found), type=Service)
    assert service_state(service, NOW).selector == ((selector or None) if kept else None)
    assert services.left_out(service) == ([] if kept else ["selector"])
