# SPDX-License-Identifier: Apache-2.0
"""What docs/kubernetes.md offers beside the overlay that it prints, rendered, and taken by the services."""

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.settings import load
from enricher.index.cidrs import read_cidr_map
from tests.k8s.rendered import K8S, ROOT, Object, _build, find
from tests.k8s.test_settings import CLASSES

PAGE = (ROOT / "docs/kubernetes.md").read_text()
MAP = '[[cidr]]\ncidr = "10.9.0.0/24"\nname = "orders-db"\nzone = "eu-west-1a"\n'
# Each as the page words it.
OPTIONS = """\
resources: [../base]
components: [../object-store, ../archive-upkeep, ../namespace-labels, ../endpoint-slices]
configMapGenerator:
  - {name: zonemeter-cidrs, namespace: zonemeter, behavior: replace, files: [cidrs.toml]}
  - {name: zonemeter-settings, namespace: zonemeter-node, behavior: merge, literals: [ZONEMETER_HOOK=tc]}
replicas: [{name: zonemeter-metrics, count: 3}]
patches:
  - target: {kind: StatefulSet, name: zonemeter-metrics}
    patch: |
      - {op: add, path: /spec/template/spec/containers/0/args/-, value: --replicas=3}
  - target: {kind: StatefulSet, name: zonemeter-flowlog}
    patch: |
      - {op: add, path: /spec/template/spec/containers/0/args/-, value: --output=s3://bucket/path}
  - target: {kind: CronJob, name: zonemeter-archive-upkeep}
    patch: |
      - {op: replace, path: /spec/jobTemplate/spec/template/spec/initContainers/0/args/2, value: --archive=s3://bucket/path}
      - {op: replace, path: /spec/jobTemplate/spec/template/spec/containers/0/args/2, value: --archive=s3://bucket/path}
      - {op: replace, path: /spec/jobTemplate/spec/template/spec/volumes/0, value: {name: archive, emptyDir: {}}}
      - {op: remove, path: /spec/jobTemplate/spec/template/spec/affinity}
  - target: {kind: Deployment, name: zonemeter-enricher}
    patch: |
      - {op: add, path: /spec/template/spec/containers/0/args/-, value: '--namespace-labels=team,cost-center'}
  - target: {kind: DaemonSet, name: zonemeter-collector}
    patch: |
      - {op: add, path: /spec/template/spec/containers/0/securityContext/seccompProfile, value: {type: Unconfined}}
      - {op: add, path: /spec/template/spec/containers/0/securityContext/seLinuxOptions, value: {type: spc_t}}
"""


@pytest.fixture(scope="module")
def chosen() -> list[Object]:
    with tempfile.TemporaryDirectory(dir=K8S, prefix=".options-") as made:
        Path(made, "kustomization.yaml").write_text(OPTIONS)
        Path(made, "cidrs.toml").write_text(MAP)
        return _build(Path(made))


def one(objects: list[Object], kind: str, name: str, namespace: str = "zonemeter") -> Any:
    [found] = [
        each
        for each in objects
        if (each["kind"], each["metadata"].get("namespace")) == (kind, namespace)
        and re.fullmatch(rf"{name}(-[a-z0-9]{{10}})?", each["metadata"]["name"])
    ]
    return found


def settings(workload: Object) -> Any:
    """Return what the program of a workload would work with."""
    words = [re.sub(r"\$\(HOST_IP\)", "::1", w) for w in workload["spec"]["template"]["spec"]["containers"][0]["args"]]
    words = [re.sub(r"\$\(\w+\)", "0", word) for word in words]
    return load(CLASSES[" ".join(words[:2])], " ".join(words[:2]), words[2:])


def test_what_the_page_offers_is_worded_as_here() -> None:
    for words in (
        "components: [../object-store]",
        "components: [../archive-upkeep]",
        *re.findall(r"^ +(- {op: .*jobTemplate.*})$", OPTIONS, re.MULTILINE),
        "components: [../namespace-labels]",
        "components: [../endpoint-slices]",
        "--namespace-labels=team,cost-center",
        "--output=s3://bucket/path",
        "`cidrs.toml` in a ConfigMap `zonemeter-cidrs`\n  with `behavior: replace`",
        "`replicas` and the flag `--replicas`",
        "seccompProfile: {type: Unconfined}",
        "seLinuxOptions: {type: spc_t}",
        "ZONEMETER_HOOK=tc",
    ):
        assert words in PAGE


def test_services_take_what_is_chosen(chosen: list[Object], monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(one(chosen, "StatefulSet", "zonemeter-flowlog")).output == "s3://bucket/path"
    enricher = settings(one(chosen, "Deployment", "zonemeter-enricher"))
    assert (enricher.label_names, enricher.kube_endpoint_slices) == (("team", "cost-center"), True)
    upkeep = one(chosen, "CronJob", "zonemeter-archive-upkeep")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    for container in (*upkeep["initContainers"], *upkeep["containers"]):
        assert "--archive=s3://bucket/path" in container["args"]
    assert [volume for volume in upkeep["volumes"] if "persistentVolumeClaim" in volume] == []
    metrics = one(chosen, "StatefulSet", "zonemeter-metrics")
    assert settings(metrics).replicas == metrics["spec"]["replicas"] == 3
    data = one(chosen, "ConfigMap", "zonemeter-settings", "zonemeter-node")["data"]
    for name, value in data.items():
        monkeypatch.setenv(name, value)
    collector = settings(one(chosen, "DaemonSet", "zonemeter-collector", "zonemeter-node"))
    assert (collector.hook, collector.listen) == ("tc", "[::1]:9460")


def test_the_cidr_map_is_replaced_and_mounted(chosen: list[Object]) -> None:
    replaced = one(chosen, "ConfigMap", "zonemeter-cidrs")
    assert replaced["data"] == {"cidrs.toml": MAP}
    read_cidr_map(MAP.encode(), "cidrs.toml")
    volumes = one(chosen, "Deployment", "zonemeter-enricher")["spec"]["template"]["spec"]["volumes"]
    assert replaced["metadata"]["name"] in [volume.get("configMap", {}).get("name") for volume in volumes]


def test_services_listen_where_the_page_says() -> None:
    assert "`zonemeter-collector.zonemeter-node.svc` on 9460" in PAGE
    names = re.search(r"`zonemeter-{([\w,]+)}\.zonemeter\.svc` on ([\d, \nand]+);", PAGE)
    assert names is not None
    there = dict(zip(names[1].split(","), re.findall(r"\d+", names[2]), strict=True)) | {"collector": "9460"}
    for name, port in there.items():
        namespace = "zonemeter-node" if name == "collector" else "zonemeter"
        service = find("base", "Service", f"zonemeter-{name}", namespace)
        assert [each["port"] for each in service["spec"]["ports"]] == [int(port)]
    jobs = yaml.safe_load((K8S / "trial/prometheus.yml").read_text())["scrape_configs"]
    assert {f"zonemeter-{name}" for name in there} <= {job["job_name"] for job in jobs}
