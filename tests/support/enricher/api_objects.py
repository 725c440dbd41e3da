# SPDX-License-Identifier: Apache-2.0
"""Pods and services as the Kubernetes API gives them; a test overrides the fields that it is about."""

from typing import Any

import msgspec
import orjson

from enricher.kube.states.objects import Pod, Service

NOW = 1_795_384_060_000
STARTED = "2026-11-22T17:46:40Z"
STARTED_MS = 1_795_369_600_000


def pod_json(**overrides: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": "api-7d9f8b6c5-x2x9q",
        "namespace": "shop",
        "uid": "u1",
        "rv": "100",
        "node": "node-a1",
        "labels": {},
        "annotations": None,
        "owners": None,
        "ips": ["10.42.1.17"],
        "phase": "Running",
        "ready": "True",
        "host_network": False,
        "ended": None,
        "containers": [{"name": "c"}],
        "init_containers": None,
    } | overrides
    terminated = {"state": {"terminated": {"finishedAt": fields["ended"], "exitCode": 0}}}
    return {
        "metadata": {
            "name": fields["name"],
            "namespace": fields["namespace"],
            "uid": fields["uid"],
            "resourceVersion": fields["rv"],
            "creationTimestamp": "2026-11-22T17:46:39Z",
            "labels": fields["labels"],
            "annotations": fields["annotations"],
            "ownerReferences": fields["owners"],
            "managedFields": [
                {"manager": "kubelet", "time": overrides.get("changed", STARTED), "fieldsV1": {"f:x": {}}}
            ],
        },
        "spec": {
            "nodeName": fields["node"],
            "hostNetwork": fields["host_network"],
            "containers": fields["containers"],
            "initContainers": fields["init_containers"],
        },
        "status": {
            "phase": fields["phase"],
            "startTime": STARTED,
            "podIP": fields["ips"][0] if fields["ips"] else None,
            "podIPs": [{"ip": ip} for ip in fields["ips"]] or None,
            "conditions": [{"type": "Ready", "status": fields["ready"], "lastTransitionTime": STARTED}],
            "containerStatuses": [terminated] if fields["ended"] else None,
        },
    }


def pod_of(**overrides: Any) -> Pod:
    return msgspec.json.decode(orjson.dumps(pod_json(**overrides)), type=Pod)


def owner(kind: str, name: str, *, controller: bool = True) -> list[dict[str, Any]]:
    return [{"apiVersion": "v1", "kind": kind, "name": name, "uid": "o", "controller": controller}]


def service_of(
    selector: dict[str, str] | None, rv: str = "200", name: str = "api", uid: str | None = None, **spec: Any
) -> Service:
    found: dict[str, Any] = {
        "metadata": {"name": name, "namespace": "shop", "uid": uid or f"s-{name}", "resourceVersion": rv},
        "spec": {"clusterIP": "10.96.0.9", "selector": selector, **spec},
    }
    return msgspec.json.decode(orjson.dumps(found), type=Service)
