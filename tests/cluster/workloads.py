# SPDX-License-Identifier: Apache-2.0
"""Who sends what to whom in the cluster: every kind of workload, a pod of each on every node, and a Service's ways."""

from pathlib import Path
from typing import Any

from lab.traffic import server
from tests.cluster.network import NODES

NAMESPACE = "traffic"
NODE_PORT, HOST_PORT, PORT = 30080, 9100, 8080
CLIENT, JOB, FROM_OUTSIDE, ON_HOST_PORT = "client", "batch", "web", "agent"
# As `report` names the workloads, by the pods' label.
LABELS = {
    "web": f"{NAMESPACE}/Deployment/web",
    "db": f"{NAMESPACE}/StatefulSet/db",
    ON_HOST_PORT: f"{NAMESPACE}/DaemonSet/agent",
    CLIENT: f"{NAMESPACE}/Deployment/client",
    JOB: f"{NAMESPACE}/Job/batch",
}
_TARGETS = ["web:80", f"db:{PORT}"]
_HOSTS = [f"{node.addresses[0]}:{HOST_PORT}" for node in NODES]
# Where Python looks for them first, whatever the image has.
_FILES = [{"key": "in_pod.py", "path": "in_pod.py"}, {"key": "server.py", "path": "lab/traffic/server.py"}]
_ALL_FAMILIES = {"ipFamilyPolicy": "PreferDualStack"}


def standing() -> list[dict[str, Any]]:
    """Return all but the Job: servers, and clients that wait until they are told."""
    program = {
        file.name: file.read_text() for file in (Path(__file__).with_name("in_pod.py"), Path(str(server.__file__)))
    }
    ports = [{"name": each.lower(), "protocol": each, "port": 80, "targetPort": PORT} for each in ("TCP", "UDP")]
    edge = {"name": "tcp", "port": 80, "targetPort": PORT, "nodePort": NODE_PORT}
    host_ports = [{"containerPort": PORT, "hostPort": HOST_PORT, "protocol": each} for each in ("TCP", "UDP")]
    serve = ["serve", str(PORT)]
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _named("traffic"), "data": program},
        _workload("Deployment", "web", serve),
        _service("web", ports, **_ALL_FAMILIES),
        _service("edge", [edge], app="web", type="NodePort", externalTrafficPolicy="Local", **_ALL_FAMILIES),
        _workload("StatefulSet", "db", serve, serviceName="db"),
        _service("db", [{"name": "tcp", "port": PORT}], clusterIP="None"),
        _workload("DaemonSet", ON_HOST_PORT, serve, ports=host_ports),
        _workload("Deployment", CLIENT, ["ask", *_TARGETS, *_HOSTS]),
    ]


def job() -> dict[str, Any]:
    """Return the Job, whose pods send as soon as they are there."""
    return _workload("Job", JOB, ["ask", *_TARGETS, "--rounds", "20"])


def _named(name: str) -> dict[str, str]:
    return {"name": name, "namespace": NAMESPACE}


def _service(name: str, ports: list[dict[str, Any]], app: str = "", **more: Any) -> dict[str, Any]:
    spec = {"selector": {"app": app or name}, "ports": ports, **more}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _named(name), "spec": spec}


def _workload(kind: str, name: str, words: list[str], ports: Any = (), **more: Any) -> dict[str, Any]:
    selector = {"matchLabels": {"app": name}}
    container: dict[str, Any] = {
        "name": "main",
        "image": "zonemeter:0.1.0",
        "imagePullPolicy": "Never",
        "command": ["python", "/traffic/in_pod.py", *words],
        "ports": list(ports),
        "volumeMounts": [{"name": "traffic", "mountPath": "/traffic"}],
    }
    if words[0] == "serve":
        container["readinessProbe"] = {"tcpSocket": {"port": PORT}, "periodSeconds": 2}
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
    pod: dict[str, Any] = {
        "terminationGracePeriodSeconds": 0,
        "topologySpreadConstraints": [spread | {"labelSelector": selector}],
        "containers": [container],
        "volumes": [{"name": "traffic", "configMap": {"name": "traffic", "items": _FILES}}],
    }
    spec: dict[str, Any] = {"template": {"metadata": {"labels": {"app": name}}, "spec": pod}, **more}
    if kind == "Job":
        pod["restartPolicy"] = "Never"
        return {
            "apiVersion": "batch/v1",
            "kind": kind,
            "metadata": _named(name),
            "spec": spec | {"completions": len(NODES), "parallelism": len(NODES)},
        }
    spec["selector"] = selector
    if kind != "DaemonSet":
        spec["replicas"] = len(NODES)
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": _named(name), "spec": spec}
