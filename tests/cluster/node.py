# SPDX-License-Identifier: Apache-2.0
"""A node's process 1: `python -m tests.cluster.node NAME DIRECTORY`, in namespaces of its own.

It gives the node its own /sys, /run, /etc, /tmp, /var/lib, /var/log and bpffs below the directory, starts containerd,
kubelet and kube-proxy, and starts again whichever ends. When it is killed all ends with it, as when the power goes.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.cluster.network import DNS_ADDRESS, NODES, POD_CIDRS, POD_MTU, VARIATION, Node
from tests.support.kubernetes.programs import PROGRAMS

PAUSE_IMAGE = "zonemeter-cluster/pause:1"
_CGROUPS = Path("/sys/fs/cgroup")
_CONTROLLERS = _CGROUPS / "cgroup.controllers"  # version 2


def main() -> None:
    """Be process 1."""
    name, directory = sys.argv[1], Path(sys.argv[2])
    node = next(each for each in NODES if each.name == name)
    mount_all(directory)
    make_cgroups(node)
    write_files(node)
    commands = daemons(node, directory)
    running = {start(what, command): what for what, command in commands.items()}
    while True:
        pid, _ = os.wait()  # of containers' shims, too, whose parent it becomes
        if what := running.pop(pid, None):
            time.sleep(1)
            running[start(what, commands[what])] = what


def start(what: str, command: list[str]) -> int:
    """Start a daemon, with its log in /var/log; return its pid."""
    with Path(f"/var/log/{what}.log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log).pid


def mount_all(directory: Path) -> None:
    """Give the node what is its own."""
    for part in ("var-lib", "var-log", "tmp", "etc", "etc.work", "cgroups"):
        (directory / part).mkdir(parents=True, exist_ok=True)
    (directory / "tmp").chmod(0o1777)
    for words in (
        "--make-rprivate /",
        f"--rbind /sys/fs/cgroup {directory}/cgroups",
        "-t sysfs sysfs /sys",
        f"--rbind {directory}/cgroups /sys/fs/cgroup",
        "-t bpf bpf /sys/fs/bpf",
        f"-t overlay overlay -o lowerdir=/etc,upperdir={directory}/etc,workdir={directory}/etc.work /etc",
        "-t tmpfs tmpfs /run",
        f"--bind {directory}/var-log /var/log",
        f"--bind {directory}/tmp /tmp",
        f"--bind {directory}/var-lib /var/lib",
        "--make-rshared /",
    ):
        subprocess.run(["mount", *words.split()], check=True)


def cgroups(node: Node) -> list[Path]:
    """Return the node's cgroups: one, or with version 1 one for each controller."""
    if _CONTROLLERS.exists():
        return [_CGROUPS / node.namespace]
    return [each / node.namespace for each in _CGROUPS.iterdir() if (each / "cgroup.procs").exists()]


def make_cgroups(node: Node) -> None:
    """Make them, without what a node whose power went left there."""
    remove_cgroups(node)
    if _CONTROLLERS.exists():
        wanted = " ".join(f"+{name}" for name in _CONTROLLERS.read_text().split())
        (_CGROUPS / "cgroup.subtree_control").write_text(wanted)
    for each in cgroups(node):
        each.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):  # version 1 lets nothing in before these are set
            if each.parent.name == "cpuset":
                (each / name).write_text((each.parent / name).read_text())


def remove_cgroups(node: Node) -> None:
    """Remove what is left of a node's cgroups."""
    for each in cgroups(node):
        for inner, *_ in os.walk(each, topdown=False):
            Path(inner).rmdir()


def write_files(node: Node) -> None:
    """Write the settings of the node and of its daemons."""
    socket.sethostname(node.name)
    files = {
        "/etc/hostname": node.name,
        "/etc/hosts": f"127.0.0.1 localhost\n{node.addresses[0]} {node.name}\n",
        "/etc/resolv.conf": "",
        "/etc/machine-id": f"{node.number:032x}\n",
        "/etc/cni/net.d/10-pods.conflist": json.dumps(cni(node)),
        "/run/containerd.toml": CONTAINERD,
        "/run/kubelet.yaml": json.dumps(kubelet(node)),
        "/run/lock/.keep": "",
    }
    for path, text in files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)


CONTAINERD = f"""
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/{PAUSE_IMAGE}"
  restrict_oom_score_adj = true # a root without CAP_SYS_RESOURCE may not lower it
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
"""


def cni(node: Node) -> dict[str, object]:
    """Return the pods' network; an address is given to another pod as late as can be."""
    ranges = [[{"subnet": cidr}] for cidr in node.pod_cidrs]
    everywhere = ["::/0" if ":" in cidr else "0.0.0.0/0" for cidr in node.pod_cidrs]
    ipam = {"type": "host-local", "ranges": ranges, "routes": [{"dst": cidr} for cidr in everywhere]}
    links: dict[str, object] = {"type": "ptp"}
    if "bridge" in VARIATION:
        links = {"type": "bridge", "bridge": "pods", "isGateway": True, "hairpinMode": True}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [links | {"mtu": POD_MTU, "ipam": ipam}, ports]}


def kubelet(node: Node) -> dict[str, object]:
    """Return the kubelet's settings; the control plane is trusted by its place."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.namespace}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "address": "::",
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "volumePluginDir": "/var/lib/kubelet/plugins",
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    }


def daemons(node: Node, directory: Path) -> dict[str, list[str]]:
    """Return the commands; kube-proxy's mode is in a file, and what another mode left is taken away first."""
    config, mode = directory.parent / "kubeconfig", directory / "proxy-mode"
    proxy = f"{PROGRAMS}/kube-proxy"
    flags = f"--kubeconfig={config} --hostname-override={node.name} --cluster-cidr={','.join(POD_CIDRS)}"
    flags += " --metrics-bind-address=127.0.0.1:10249"
    # What these would set is the machine's.
    flags += " --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0s --conntrack-tcp-timeout-close-wait=0s"
    return {
        "containerd": ["containerd", "--config=/run/containerd.toml"],
        "kubelet": [
            f"{PROGRAMS}/kubelet",
            "--config=/run/kubelet.yaml",
            f"--kubeconfig={config}",
            f"--hostname-override={node.name}",
            f"--node-ip={','.join(node.addresses)}",
        ],
        "kube-proxy": ["sh", "-c", f"{proxy} --cleanup; exec {proxy} {flags} --proxy-mode=$(cat {mode})"],
    }


if __name__ == "__main__":
    main()
