# SPDX-License-Identifier: Apache-2.0
"""A plan as Kubernetes objects, with the fields a real API server fills in. Pure.

As in lists: without `kind` and `apiVersion`. The store adds `metadata.resourceVersion`.
"""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from lab.kube.store import Object
from lab.plan import Node, Plan, Pod, Service, Workload, template_hash

_UIDS = uuid.UUID("8f1f4a52-6c0b-4c4e-9f0e-0c9e7a5d3b11")
_OWNER_API = "apps/v1"


def objects(plan: Plan, at: datetime) -> Iterator[tuple[str, Object]]:
    """Yield (resource, object) for a cluster whose pods all started at one moment."""
    for node in plan.nodes:
        yield "nodes", node_object(plan, node, at)
    for service in plan.services:
        yield "services", service_object(plan, service, at)
    for pod in plan.pods:
        yield "pods", pod_object(plan, pod, at)


def node_object(plan: Plan, node: Node, at: datetime) -> Object:
    """Return a Ready node."""
    labels = {
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": node.name,
        "kubernetes.io/os": "linux",
        "topology.kubernetes.io/region": node.region,
        "topology.kubernetes.io/zone": node.zone,
    }
    return {
        "metadata": _metadata(plan, "node", node.name, at, manager="kubelet") | {"labels": labels},
        "spec": {
            "podCIDR": node.pod_cidr_v4,
            "podCIDRs": [node.pod_cidr_v4, node.pod_cidr_v6],
            "providerID": f"lab:///{node.zone}/{plan.prefix}-{node.name}",
        },
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": node.address_v4},
                {"type": "InternalIP", "address": node.address_v6},
                {"type": "Hostname", "address": node.name},
            ],
            "conditions": [_condition("Ready", at, reason="KubeletReady")],
            "nodeInfo": {
                "architecture": "amd64",
                "bootID": _uid(plan.prefix, "boot", node.name, at.isoformat()),
                "containerRuntimeVersion": "containerd://2.1.4",
                "kernelVersion": "6.18.0",
                "kubeProxyVersion": "",
                "kubeletVersion": "v1.34.1",
                "machineID": _uid(plan.prefix, "machine", node.name),
                "operatingSystem": "linux",
                "osImage": "Debian GNU/Linux 12 (bookworm)",
                "systemUUID": _uid(plan.prefix, "machine", node.name),
            },
        },
    }


def service_object(plan: Plan, service: Service, at: datetime) -> Object:
    """Return a ClusterIP service of both families that selects its workload's pods by `app`."""
    metadata = _metadata(plan, "service", service.name, at, service.namespace, manager="kubectl")
    port = {"port": service.port, "targetPort": service.target_port, "protocol": service.protocol.upper()}
    return {
        "metadata": metadata | {"labels": {"app": service.name}},
        "spec": {
            "clusterIP": service.cluster_ip_v4,
            "clusterIPs": [service.cluster_ip_v4, service.cluster_ip_v6],
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "PreferDualStack",
            "ports": [port],
            "selector": {"app": service.workload.partition("/")[2]},
            "sessionAffinity": "None",
            **({"trafficDistribution": "PreferClose"} if service.prefer_close else {}),
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    }


def pod_object(plan: Plan, pod: Pod, at: datetime) -> Object:
    """Return a running, ready pod."""
    node, workload = plan.node(pod.node), pod.workload
    metadata = _metadata(plan, "pod", pod.name, at, pod.namespace, manager="kubelet")
    owner, labels = _owner(plan, workload)
    ports = [{"containerPort": port, "protocol": "TCP"} for port in workload.ports]
    conditions = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    addresses = [pod.address_v4, pod.address_v6]
    return {
        "metadata": metadata | {"labels": {"app": workload.name} | labels, "ownerReferences": [owner]},
        "spec": {
            "containers": [{"name": workload.name, "image": f"lab/{workload.name}:1", "ports": ports}],
            "dnsPolicy": "ClusterFirst",
            "nodeName": pod.node,
            "restartPolicy": "Always",
            "serviceAccountName": "default",
            **({"hostNetwork": True} if workload.host_network else {}),
        },
        "status": {
            "phase": "Running",
            "startTime": rfc3339(at),
            "hostIP": node.address_v4,
            "hostIPs": [{"ip": node.address_v4}, {"ip": node.address_v6}],
            "podIP": addresses[0],
            "podIPs": [{"ip": address} for address in addresses],
            "conditions": [_condition(name, at) for name in conditions],
            "containerStatuses": [
                {
                    "name": workload.name,
                    "image": f"lab/{workload.name}:1",
                    "imageID": f"lab/{workload.name}@sha256:{'0' * 64}",
                    "ready": True,
                    "restartCount": 0,
                    "started": True,
                    "state": {"running": {"startedAt": rfc3339(at)}},
                }
            ],
            "qosClass": "BestEffort",
        },
    }


def rfc3339(at: datetime) -> str:
    """Format a time as Kubernetes does: UTC, whole seconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _owner(plan: Plan, workload: Workload) -> tuple[Object, dict[str, str]]:
    kind: str = workload.kind
    name = workload.name
    if workload.kind == "Deployment":
        labels = {"pod-template-hash": template_hash(workload)}
        kind, name = "ReplicaSet", f"{workload.name}-{template_hash(workload)}"
    elif workload.kind == "StatefulSet":
        labels = {"controller-revision-hash": f"{workload.name}-{template_hash(workload)}"}
    else:
        labels = {"controller-revision-hash": template_hash(workload)}
    uid = _uid(plan.prefix, kind, workload.namespace, name)
    owner = {"apiVersion": _OWNER_API, "kind": kind, "name": name, "uid": uid}
    return owner | {"controller": True, "blockOwnerDeletion": True}, labels


def _metadata(plan: Plan, kind: str, name: str, at: datetime, namespace: str = "", *, manager: str) -> dict[str, Any]:
    managed = {"manager": manager, "operation": "Update", "apiVersion": "v1", "time": rfc3339(at)}
    return {
        "name": name,
        **({"namespace": namespace} if namespace else {}),
        "uid": _uid(plan.prefix, kind, namespace, name, at.isoformat()),
        "creationTimestamp": rfc3339(at),
        "managedFields": [managed | {"fieldsType": "FieldsV1", "fieldsV1": {"f:status": {}}}],
    }


def _condition(name: str, at: datetime, **fields: str) -> dict[str, Any]:
    return {"type": name, "status": "True", "lastProbeTime": None, "lastTransitionTime": rfc3339(at)} | fields


def _uid(*parts: str) -> str:
    return str(uuid.uuid5(_UIDS, "/".join(parts)))
