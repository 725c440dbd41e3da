# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' own programs, built once from their Go modules into a directory that all checkouts share."""

import os
import shutil
import subprocess
from pathlib import Path

from common import terminal

# Root's alone: what lies in it is run.
HOME = Path(os.environ.get("ZONEMETER_KUBERNETES", "/var/cache/zonemeter-kubernetes"))
_SOURCES = Path(__file__).parent
VERSION = next(
    line.split()[1]
    for line in (_SOURCES / "go.mod").read_text().splitlines()
    if line.strip().startswith("k8s.io/kubernetes v")
)
PROGRAMS = HOME / VERSION
# Package by program; Go names a program after its directory, and etcd's is its module's.
API_SERVER = {
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "etcd": "go.etcd.io/etcd/server/v3",
}
# CoreDNS wants other versions of the same modules: it is installed as a module of its own.
CLUSTER = API_SERVER | {
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kubelet": "k8s.io/kubernetes/cmd/kubelet",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
    "coredns": "github.com/coredns/coredns@v1.12.1",
}


def build(programs: dict[str, str]) -> None:
    """Build what is missing of these programs; raise `RuntimeError` without Go."""
    missing = [name for name in programs if not (PROGRAMS / name).exists()]
    if not missing:
        return
    if not shutil.which("go"):
        raise RuntimeError("no Go: 1.24 or later builds Kubernetes' programs")
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    major, minor, _ = VERSION.removeprefix("v").split(".")
    stamp = "k8s.io/component-base/version"
    flags = f"-s -w -X {stamp}.gitVersion={VERSION} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}"
    for name in missing:
        terminal.complain(f"kubernetes: builds {name} into {PROGRAMS}")
        package = programs[name]
        made = PROGRAMS / ".building"  # a build that was interrupted leaves nothing that looks whole
        action = ["install"] if "@" in package else ["build", "-o", str(made / name)]
        subprocess.run(
            ["go", *action, "-trimpath", "-ldflags", flags, package],
            cwd=_SOURCES,
            check=True,
            env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOBIN": str(made)},
        )
        (made / name).rename(PROGRAMS / name)
        made.rmdir()
