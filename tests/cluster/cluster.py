# SPDX-License-Identifier: Apache-2.0
"""A real Kubernetes cluster on this machine: control plane, three nodes, DNS; no virtual machine, no image registry.

A node is a network namespace and a process 1 in namespaces of its own (node.py). The control plane is on none of them,
as in a managed cluster. All files are below one directory, and all processes are found again by their records in it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lab.network.namespaces import enter
from lab.processes import Process, Processes
from tests.cluster import images, network
from tests.cluster.network import CONTROL, CONTROL_ADDRESS, DNS_ADDRESS, FAMILIES, NODES, SERVICE_CIDRS, Node
from tests.cluster.node import cgroups, remove_cgroups
from tests.support.enricher.followed import write_kubeconfig
from tests.support.kubernetes.api_server import TOKEN, ApiServer
from tests.support.kubernetes.programs import HOME, PROGRAMS
from tests.support.services import ROOT, eventually

DIRECTORY = HOME / "cluster"
_FAMILY = {"ip": "IPv4", "ip6": "IPv6"}  # as kube-proxy calls them
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "iptables": "iptables",
    "nft": "nftables",
    "conntrack": "conntrack",
    "ethtool": "ethtool",
    "ipset": "ipset",
    "dockerd": "docker.io",
}
START_SECONDS = 300.0
STORAGE_CLASS = "cluster-test"
# What a kubelet sets for the whole machine.
_SYSCTLS = ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"]
_SYSCTLS += ["kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"]


class Cluster:
    """The cluster; there is one on a machine."""

    def __init__(self) -> None:
        flags = [
            f"--service-cluster-ip-range={','.join(SERVICE_CIDRS)}",
            "--kubelet-preferred-address-types=InternalIP",
        ]
        self.api = ApiServer(DIRECTORY / "control", CONTROL, CONTROL_ADDRESS, flags)
        self._nodes = Processes(DIRECTORY / "nodes", {"PYTHONPATH": str(ROOT)})

    def up(self) -> None:
        """Bring it up, with all images on every node; what a killed run left goes first."""
        self.down()
        DIRECTORY.mkdir(parents=True)
        (DIRECTORY / "sysctls").write_text(json.dumps({name: _sysctl(name).read_text() for name in _SYSCTLS}))
        images.save(DIRECTORY / "images.tar")
        network.make()
        self.api.start()
        config = DIRECTORY / "nodes/kubeconfig"
        config.parent.mkdir()
        write_kubeconfig(config, self.api.address, TOKEN, self.api.authority)
        self.start_controllers()
        self.api.kubectl(
            "create", "-f", "-", objects=[each for node in NODES for each in (_object(node), _volume(node))]
        )
        _write_proxy_mode("iptables")
        for node in NODES:
            (_home(node) / "var-lib/volume").mkdir(parents=True)
            self.start_node(node)
        self._load_images()
        self.api.kubectl("apply", "-f", "-", objects=_dns())
        self.wait_for_nodes()

    def down(self) -> None:
        """End everything and delete it."""
        for process in self._nodes.recorded():
            self._nodes.kill(process)
        self.api.stop()
        for node in NODES:
            eventually(lambda node=node: _try_to_remove(node))  # type: ignore[misc]
        network.remove()
        before = DIRECTORY / "sysctls"
        for name, value in json.loads(before.read_text()).items() if before.exists() else ():
            _sysctl(name).write_text(value)
        # Some hundred thousand files: `rm` is faster than shutil.
        subprocess.run(["rm", "-rf", "--one-file-system", DIRECTORY], check=True)

    @property
    def kubectl(self) -> str:
        """The words of a shell that reach it."""
        return f"nsenter --net=/run/netns/{CONTROL} {PROGRAMS}/kubectl --kubeconfig {DIRECTORY}/nodes/kubeconfig"

    def start_controllers(self) -> None:
        """Start what else a control plane has."""
        config = f"--kubeconfig={DIRECTORY / 'nodes/kubeconfig'}"
        self.api.run(
            "kube-controller-manager",
            config,
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--service-account-private-key-file={self.api.directory / 'sa.key'}",
            f"--root-ca-file={self.api.authority}",
        )
        self.api.run("kube-scheduler", config, "--leader-elect=false", "--bind-address=127.0.0.1")

    def start_node(self, node: Node) -> None:
        """Switch a node on."""
        words = ["nsenter", f"--net=/run/netns/{node.namespace}"]
        words += ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._nodes.start(node.name, [*words, sys.executable, "-m", "tests.cluster.node", node.name, str(_home(node))])

    def cut_power(self, node: Node) -> None:
        """Switch a node off, as if its power went."""
        self._nodes.kill(self._process(node))

    def wait_for_nodes(self) -> None:
        """Wait until every node is ready, and the cluster's DNS."""
        self.api.kubectl("wait", "nodes", "--all", "--for=condition=Ready", f"--timeout={START_SECONDS:.0f}s")
        self.wait_for("kube-system")

    def wait_for(self, *namespaces: str) -> None:
        """Wait until all workloads of these namespaces are ready."""
        for namespace in namespaces:
            for each in self.api.get("-n", namespace, "daemonsets,deployments,statefulsets")["items"]:
                what = ["rollout", "status"]
                if each["spec"].get("updateStrategy") == {"type": "OnDelete"}:  # there is no roll-out to wait for
                    what = ["wait", f"--for=jsonpath={{.status.readyReplicas}}={each['spec']['replicas']}"]
                name = f"{each['kind']}/{each['metadata']['name']}"
                self.api.kubectl("-n", namespace, *what, name, f"--timeout={START_SECONDS:.0f}s")

    def pods(self, namespace: str) -> list[dict[str, Any]]:
        """Return a namespace's pods that are not being deleted."""
        found = self.api.get("-n", namespace, "pods")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def pods_by_change(self, *namespaces: str) -> Iterator[list[dict[str, Any]]]:
        """Yield namespaces' pods that are not being deleted: as they are, and as of each change and each second after.

        Nothing is between two looks: each goes on from the version at which the one before ended.
        """
        listed = json.loads(self.api.kubectl("get", "--raw", "/api/v1/pods"))
        version = listed["metadata"]["resourceVersion"]
        pods = {pod["metadata"]["uid"]: pod for pod in listed["items"]}

        def stay() -> list[dict[str, Any]]:
            every = ((pod, pod["metadata"]) for pod in pods.values())
            return [pod for pod, of in every if of["namespace"] in namespaces and "deletionTimestamp" not in of]

        while True:
            yield stay()
            watch = f"/api/v1/pods?watch=true&timeoutSeconds=1&resourceVersion={version}"
            for event in map(json.loads, self.api.kubectl("get", "--raw", watch).splitlines()):
                assert event["type"] != "ERROR", event
                pod = event["object"]
                version, pods[pod["metadata"]["uid"]] = pod["metadata"]["resourceVersion"], pod
                if event["type"] == "DELETED":
                    del pods[pod["metadata"]["uid"]]
                yield stay()

    def on_node(self, node: Node, *words: str, stdin: int | None = None) -> subprocess.Popen[str]:
        """Start a command in all of a node's namespaces."""
        spaces = ["--mount", "--uts", "--ipc", "--pid", "--net"]
        command = ["nsenter", "--target", str(self._init(node)), *spaces, *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=stdin, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    def output(self, node: Node, *words: str) -> str:
        """Run a command on a node and return its output; raise `AssertionError` with it if it fails."""
        process = self.on_node(node, *words)
        said, _ = process.communicate()
        assert process.returncode == 0, f"{node.name}: {' '.join(words)}: {said[-2000:]}"
        return said

    def pid(self, node: Node, daemon: str) -> int:
        """Return the pid, as this machine has it, of one of a node's daemons; 0 while it does not run."""
        return next((pid for pid in _children(self._init(node)) if _command(pid) == daemon), 0)

    def change_proxy_mode(self, mode: str) -> None:
        """Restart every kube-proxy in a mode, and wait until it has written its rules."""
        _write_proxy_mode(mode)
        for node in NODES:
            os.kill(self.pid(node, "kube-proxy"), signal.SIGKILL)
        for node in NODES:
            eventually(lambda node=node: _proxy_mode(node) == mode)  # type: ignore[misc]

    def pids_of(self, pod: dict[str, Any]) -> list[int]:
        """Return the pids of all of a pod's processes, its sandbox's included."""
        node = next(each for each in NODES if each.name == pod["spec"]["nodeName"])
        uid = pod["metadata"]["uid"]
        files = (path for place in cgroups(node) for path in place.glob(f"kubepods/**/pod{uid}/*/cgroup.procs"))
        return sorted({int(pid) for file in files for pid in file.read_text().split()})

    def _load_images(self) -> None:
        importing = []
        for node in NODES:
            eventually(lambda node=node: self.on_node(node, "ctr", "version").wait() == 0)  # type: ignore[misc]
            with (DIRECTORY / "images.tar").open("rb") as tar:
                importing.append(self.on_node(node, "sh", "-c", images.load_command(), stdin=tar.fileno()))
        for process in importing:
            said, _ = process.communicate()
            assert process.returncode == 0, said[-2000:]
        (DIRECTORY / "images.tar").unlink()

    def _process(self, node: Node) -> Process:
        return next(each for each in self._nodes.recorded() if each.role == node.name)

    def _init(self, node: Node) -> int:
        return eventually(lambda: next(iter(_children(self._process(node).pid)), None))


def install_packages() -> None:
    """Install what is missing of Debian's packages."""
    missing = [package for name, package in PACKAGES.items() if not (Path(name).exists() or shutil.which(name))]
    if missing:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        words = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
        for command in (["apt-get", "update", "-qq"], words):
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def _object(node: Node) -> dict[str, Any]:
    labels = {"topology.kubernetes.io/zone": node.zone, "topology.kubernetes.io/region": network.REGION}
    spec = {"podCIDR": node.pod_cidrs[0], "podCIDRs": list(node.pod_cidrs)}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "labels": labels}, "spec": spec}


def _volume(node: Node) -> dict[str, Any]:
    """Return a volume on a node's disk, of the class `STORAGE_CLASS`; a claim takes it whole."""
    there = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node.name]}]}
    spec = {
        "capacity": {"storage": "20Gi"},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": STORAGE_CLASS,
        "local": {"path": "/var/lib/volume"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [there]}},
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": node.name}, "spec": spec}


def _dns() -> list[dict[str, Any]]:
    text = Path(__file__).with_name("dns.yaml").read_text()
    for name, value in {"ADDRESS": DNS_ADDRESS, "IMAGE": images.DNS_IMAGE}.items():
        text = text.replace(f"${name}", value)
    return list(yaml.safe_load_all(text))


def _home(node: Node) -> Path:
    return DIRECTORY / "nodes" / node.name


def _write_proxy_mode(mode: str) -> None:
    for node in NODES:
        _home(node).mkdir(parents=True, exist_ok=True)
        (_home(node) / "proxy-mode").write_text(mode)


def _proxy_mode(node: Node) -> str:
    """Return the mode that a node's kube-proxy runs in; "" while it does not, or has not written its rules.

    It says that it is healthy before it has, and has a status of a family once it has written that one's
    (pkg/proxy/healthcheck/proxy_health.go). Until then nobody translates a Service's address.
    """
    try:
        with (
            enter(node.namespace),
            urllib.request.urlopen("http://127.0.0.1:10256/healthz", timeout=5) as health,
            urllib.request.urlopen("http://127.0.0.1:10249/proxyMode", timeout=5) as answer,
        ):
            written = json.load(health).get("status", {})
            return str(answer.read().decode()) if {_FAMILY[each] for each in FAMILIES} <= set(written) else ""
    except OSError:
        return ""


def _sysctl(name: str) -> Path:
    return Path("/proc/sys", name)


def _try_to_remove(node: Node) -> bool:
    """Remove a node's cgroups; its processes take a moment to leave them."""
    try:
        remove_cgroups(node)
    except OSError:
        return False
    return True


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""  # it has just ended
