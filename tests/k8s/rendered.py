# SPDX-License-Identifier: Apache-2.0
"""The manifests as kustomize 5 and Helm render them, and what the tests look for in them."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
WORKLOADS = ("DaemonSet", "Deployment", "StatefulSet", "Job")
# The overlay that docs/kubernetes.md shows: the base with both components.
PRODUCTION = "production"
OVERLAYS = ("base", "trial", "uninstall", PRODUCTION)
HELM = ROOT / ".cache/bin/helm-v3.22.0"  # scripts/setup builds it
CHART = ROOT / "charts/zonemeter"
# The chart with these values. What it renders by default and for a trial is what k8s/ has: test_chart.py.
CHARTS = {
    "chart-production": CHART / "values-production.yaml",
    "chart-kubezonnet": CHART / "values-kubezonnet.yaml",
    "chart-options": ROOT / "tests/k8s/values-options.yaml",
}
# All that is a whole pipeline, and all.
PIPELINES = ("base", "trial", PRODUCTION, *CHARTS)
RENDERED = (*OVERLAYS, *CHARTS)

Object = dict[str, Any]


@cache
def kustomize() -> tuple[str, ...]:
    """Return the command that renders a directory: kustomize 5, kubectl with it built in, or what setup built."""
    for command, version in (
        (["kustomize", "build"], ["version"]),
        (["kubectl", "kustomize"], ["version", "--client"]),
    ):
        if shutil.which(command[0]):
            said = subprocess.run([command[0], *version], capture_output=True, text=True).stdout
            if re.search(r"v5\.\d+\.\d+", said):
                return tuple(command)
    return (str(ROOT / ".cache/bin/kustomize"), "build")


@cache
def render(overlay: str) -> list[Object]:
    """Return the objects of an overlay, or of the chart; fails with kustomize's, or Helm's, own words."""
    if overlay in CHARTS:
        return chart("--values", str(CHARTS[overlay]))
    if overlay != PRODUCTION:
        return _build(K8S / overlay)
    with tempfile.TemporaryDirectory(dir=K8S, prefix=".production-") as made:
        Path(made, "kustomization.yaml").write_text(_documented())
        return _build(Path(made))


@cache
def with_component(name: str, patches: str = "") -> list[Object]:
    """Return the objects of the base with one component; `patches`: that part of a kustomization.yaml."""
    with tempfile.TemporaryDirectory(dir=K8S, prefix=".component-") as made:
        lines = ["apiVersion: kustomize.config.k8s.io/v1beta1", "kind: Kustomization", "resources: [../base]"]
        Path(made, "kustomization.yaml").write_text("\n".join([*lines, f"components: [../{name}]", patches]))
        return _build(Path(made))


@cache
def chart(*flags: str, hooks: bool = False) -> list[Object]:
    """Return the chart's objects with these flags of `helm template`, and if asked for with those of `helm test`."""
    done = template(str(CHART), "-n", "zonemeter", *(() if hooks else ("--no-hooks",)), *flags)
    assert done.returncode == 0, done.stderr
    return _objects(done.stdout)


def template(*words: str, release: str = "zonemeter") -> subprocess.CompletedProcess[str]:
    """Run `helm template`; what it prints and its exit status are the answer."""
    # Helm built by `go install` takes a Kubernetes for granted that is older than the chart wants.
    command = [str(HELM), "template", release, "--kube-version", "1.28", *words]
    return subprocess.run(command, capture_output=True, text=True)


def _build(directory: Path) -> list[Object]:
    done = subprocess.run([*kustomize(), str(directory)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return _objects(done.stdout)


def _objects(text: str) -> list[Object]:
    """Return the documents of a stream that are not empty; by libyaml, as this is half a megabyte."""
    return [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]


def _documented() -> str:
    """Return the kustomization.yaml that docs/kubernetes.md tells its reader to write."""
    page = (ROOT / "docs/kubernetes.md").read_text()
    shown = re.search(r"^# k8s/mine/kustomization\.yaml\n.*?(?=^```)", page, re.MULTILINE | re.DOTALL)
    assert shown is not None
    return shown[0]


def find(overlay: str, kind: str, name: str, namespace: str | None = None) -> Object:
    """Return one object, of any namespace or of this one; a generated name may end in a hash."""
    found = [
        each
        for each in render(overlay)
        if each["kind"] == kind
        and re.fullmatch(rf"{name}(-[a-z0-9]{{10}})?", each["metadata"]["name"])
        and namespace in (None, each["metadata"].get("namespace"))
    ]
    assert len(found) == 1, (overlay, kind, name, found)
    return found[0]


@dataclass(frozen=True)
class Container:
    """A container with the workload and the pod around it."""

    overlay: str
    workload: Object
    pod: Object
    spec: Object

    @property
    def title(self) -> str:
        """Name it in a failed test."""
        return f"{self.overlay}/{self.workload['metadata']['name']}/{self.spec['name']}"

    @property
    def is_ours(self) -> bool:
        """Whether its image is one of zonemeter's, in whichever registry."""
        return str(self.spec["image"]).rpartition("/")[2].startswith("zonemeter")


def workloads() -> Iterator[tuple[str, Object]]:
    """Yield every workload of every overlay and of the chart."""
    for overlay in RENDERED:
        for each in render(overlay):
            if each["kind"] in WORKLOADS:
                yield overlay, each


def containers() -> list[Container]:
    """Return every container of every overlay and of the chart, those that run first included."""
    return [
        Container(overlay, workload, pod, spec)
        for overlay, workload in workloads()
        for pod in [workload["spec"]["template"]["spec"]]
        for spec in [*pod.get("initContainers", []), *pod["containers"]]
    ]
