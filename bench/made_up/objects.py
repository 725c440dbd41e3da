# SPDX-License-Identifier: Apache-2.0
"""A large cluster's objects as a real API server lists them: every field that kubelet and controllers fill in. Pure.

A pod is about 7 kB of JSON, a third of it managedFields and most of the rest what the enricher has no use for.
"""

from typing import Any

from bench.made_up.cluster import address_of

Object = dict[str, Any]

NODES, PODS_A_NODE, SERVICES = 5000, 20, 2000
STARTED = "2026-11-01T09:00:00Z"
_APPS = 500


def node_object(number: int) -> Object:
    """Return a Ready node in one of three zones."""
    zone, name = "abc"[number % 3], f"node-{number}"
    labels = {
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "node.kubernetes.io/instance-type": "m6i.4xlarge",
        "topology.kubernetes.io/region": "eu-west-1",
        "topology.kubernetes.io/zone": f"eu-west-1{zone}",
        "topology.k8s.aws/zone-id": f"euw1-az{'abc'.index(zone) + 1}",
    }
    address = {"type": "InternalIP", "address": f"192.168.{number // 250}.{number % 250 + 1}"}
    conditions = ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
    images = [{"names": [f"registry.example/app-{i}@sha256:{'0' * 64}"], "sizeBytes": 250_000_000} for i in range(50)]
    return {
        "metadata": _metadata(name, f"node-uid-{number}", None, labels, "kubelet"),
        "spec": {
            "podCIDR": f"10.{number // 250}.{number % 250}.0/24",
            "providerID": f"aws:///eu-west-1{zone}/i-{number}",
        },
        "status": {
            "addresses": [address, {"type": "Hostname", "address": name}],
            "allocatable": {"cpu": "15890m", "memory": "58567632Ki", "pods": "234"},
            "conditions": [_condition(each, STARTED) for each in conditions],
            "images": images,
        },
    }


def service_object(number: int) -> Object:
    """Return a ClusterIP service; those of the first `_APPS` select a workload's pods, the others none."""
    name = f"service-{number}"
    return {
        "metadata": _metadata(name, f"service-uid-{number}", f"team-{number % 50}", {"app": name}, "kubectl"),
        "spec": {
            "clusterIP": f"172.20.{number // 250}.{number % 250 + 1}",
            "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}],
            "selector": {"app": f"app-{number}"},
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    }


def pod_object(node: int, place: int, life: int = 0, at: str = STARTED, *, ready: bool = True) -> Object:
    """Return a running pod. Each `life` is another pod, of another uid, at the same address; `at`: RFC 3339."""
    app = f"app-{(node * PODS_A_NODE + place) % _APPS}"
    namespace = f"team-{(node * PODS_A_NODE + place) % _APPS % 50}"
    hash_ = "7d9f8b6c5"
    labels = {"app": app, "pod-template-hash": hash_, "app.kubernetes.io/part-of": "shop", "version": "v42"}
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{app}-{hash_}", "uid": f"rs-{app}"}
    uid = f"{node:08x}-{place:04x}-4a52-8f1f-{life:012x}"
    metadata = _metadata(f"{app}-{hash_}-{node:04x}{place:x}{life:x}", uid, namespace, labels, "kubelet", at)
    metadata["ownerReferences"] = [owner | {"controller": True, "blockOwnerDeletion": True}]
    metadata["annotations"] = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "9090",
        "checksum/config": "0" * 64,
    }
    conditions = [_condition(each, at) for each in ("PodReadyToStartContainers", "Initialized", "PodScheduled")]
    conditions += [_condition(each, at, "True" if ready else "False") for each in ("Ready", "ContainersReady")]
    address = address_of(node, place)
    return {
        "metadata": metadata,
        "spec": _POD_SPEC | {"nodeName": f"node-{node}"},
        "status": {
            "phase": "Running",
            "startTime": at,
            "hostIP": f"192.168.{node // 250}.{node % 250 + 1}",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": conditions,
            "containerStatuses": [_container_status(name, at, ready=ready) for name in _CONTAINERS],
            "qosClass": "Burstable",
        },
    }


def _metadata(
    name: str, uid: str, namespace: str | None, labels: dict[str, str], manager: str, at: str = STARTED
) -> dict[str, Any]:
    managed = {"operation": "Update", "apiVersion": "v1", "time": at, "fieldsType": "FieldsV1"}
    return {
        "name": name,
        **({"namespace": namespace} if namespace else {}),
        "uid": uid,
        "resourceVersion": "1000",
        "creationTimestamp": at,
        "labels": labels,
        "managedFields": [
            managed | {"manager": "kube-controller-manager", "fieldsV1": _SPEC_FIELDS},
            managed | {"manager": manager, "subresource": "status", "fieldsV1": _STATUS_FIELDS},
        ],
    }


def _condition(name: str, at: str, status: str = "True") -> Object:
    return {"type": name, "status": status, "lastProbeTime": None, "lastTransitionTime": at}


def _container_status(name: str, at: str, *, ready: bool) -> Object:
    return {
        "name": name,
        "image": f"registry.example/{name}:v42",
        "imageID": f"registry.example/{name}@sha256:{'0' * 64}",
        "containerID": f"containerd://{'1' * 64}",
        "ready": ready,
        "restartCount": 0,
        "started": True,
        "state": {"running": {"startedAt": at}},
    }


def _fields(names: list[str]) -> Object:
    return {f"f:{name}": {".": {}, "f:name": {}, "f:value": {}} for name in names}


_CONTAINERS = ("app", "sidecar")
_ENVIRONMENT = [f"SETTING_{number}" for number in range(12)]
_SPEC_FIELDS = {
    "f:metadata": {"f:generateName": {}, "f:labels": _fields(["app", "version"]), "f:ownerReferences": {".": {}}},
    "f:spec": {"f:containers": {f'k:{{"name":"{name}"}}': {"f:env": _fields(_ENVIRONMENT)} for name in _CONTAINERS}},
}
_STATUS_FIELDS = {
    "f:status": {
        "f:conditions": _fields(["Ready", "Initialized", "ContainersReady", "PodScheduled"]),
        **_fields(["containerStatuses", "hostIP", "phase", "podIP", "podIPs", "startTime"]),
    }
}
_PROBE = {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10, "failureThreshold": 3}
_POD_SPEC: Object = {
    "containers": [
        {
            "name": name,
            "image": f"registry.example/{name}:v42",
            "ports": [{"containerPort": 8080, "protocol": "TCP"}],
            "env": [{"name": each, "value": f"value of {each.lower()}"} for each in _ENVIRONMENT],
            "resources": {"limits": {"memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "256Mi"}},
            "volumeMounts": [{"name": "kube-api-access", "readOnly": True, "mountPath": "/var/run/secrets"}],
            "livenessProbe": _PROBE,
            "readinessProbe": _PROBE,
        }
        for name in _CONTAINERS
    ],
    "volumes": [{"name": "kube-api-access", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
    "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}],
    "dnsPolicy": "ClusterFirst",
    "restartPolicy": "Always",
    "serviceAccountName": "default",
}
