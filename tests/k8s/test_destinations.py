# SPDX-License-Identifier: Apache-2.0
"""Every destination that the documentation offers can be reached where network policies are enforced."""

import ipaddress
import re
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.rendered import K8S, PRODUCTION, ROOT, Object, _build, find, render, with_component

CLIENTS = ("enricher", "metrics", "flowlog", "audit", "topics")
PAGE = (ROOT / "docs/kubernetes.md").read_text()
# Where the credentials of docs/archive.md come from, by what each cloud documents.
CREDENTIALS = {
    "AWS: instance": ("169.254.169.254", 80),
    "AWS: instance, IPv6": ("fd00:ec2::254", 80),
    "AWS: EKS Pod Identity": ("169.254.170.23", 80),
    "AWS: EKS Pod Identity, IPv6": ("fd00:ec2::23", 80),
    "Google: metadata server, Dataplane V2": ("169.254.169.254", 80),
    "Google: metadata server of GKE": ("169.254.169.252", 988),
    "Azure: managed identity": ("169.254.169.254", 80),
}


@pytest.fixture(scope="module")
def patched() -> list[Object]:
    """The base with the components that reach out, and with every patch that the page shows by itself."""
    blocks = [
        textwrap.dedent(found) for found in re.findall(r"^  ```yaml\n(.*?)^  ```", PAGE, re.MULTILINE | re.DOTALL)
    ]
    overlay = {
        "resources": ["../base"],
        "components": ["../object-store", "../archive-upkeep"],
        "patches": [patch for block in blocks for patch in yaml.safe_load(block)["patches"]],
    }
    with tempfile.TemporaryDirectory(dir=K8S, prefix=".patched-") as made:
        Path(made, "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        return _build(Path(made))


def rules(objects: list[Object], client: str) -> Iterator[Object]:
    """Yield what a pod may reach: the rules of all policies that select it."""
    labels = {"app.kubernetes.io/name": f"zonemeter-{client}"}
    for policy in objects:
        if policy["kind"] == "NetworkPolicy" and _selects(policy["spec"]["podSelector"], labels):
            yield from policy["spec"].get("egress", ())


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    terms = selector.get("matchExpressions", [])
    assert all(term["operator"] == "In" for term in terms)
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(term["key"]) in term["values"] for term in terms
    )


def reaches(objects: list[Object], client: str, port: int, address: str | None = None) -> bool:
    """Return whether a pod reaches a TCP port there; without an address: wherever it is."""
    return any(_opens(rule, port) and _leads(rule.get("to"), address) for rule in rules(objects, client))


def _opens(rule: Object, port: int) -> bool:
    return any(
        each["protocol"] == "TCP" and each["port"] <= port <= each.get("endPort", each["port"])
        for each in rule["ports"]
    )


def _leads(peers: list[Any] | None, address: str | None) -> bool:
    if not peers:
        return True
    blocks = [ipaddress.ip_network(each["ipBlock"]["cidr"]) for each in peers if "ipBlock" in each]
    return address is not None and any(ipaddress.ip_address(address) in block for block in blocks)


@pytest.mark.parametrize("client", ["flowlog", "archive-upkeep"])
def test_object_stores(patched: list[Object], client: str) -> None:
    assert reaches(patched, client, 443), "the clouds' own"
    (port,) = re.findall(r"endpoint_override=[^:\s]+:(\d+)", (ROOT / "docs/archive.md").read_text())
    assert reaches(patched, client, int(port)), "a server of one's own"
    for source, (address, number) in CREDENTIALS.items():
        assert reaches(patched, client, number, address), source


@pytest.mark.parametrize("client", CLIENTS)
def test_kafka(patched: list[Object], client: str) -> None:
    production = render(PRODUCTION)
    bootstrap = find(PRODUCTION, "ConfigMap", "zonemeter-settings", "zonemeter")["data"]["ZONEMETER_KAFKA_BOOTSTRAP"]
    (block,) = set(re.findall(r"ipBlock: \{cidr: (10[0-9./]+)\}", PAGE))
    inside = str(ipaddress.ip_network(block)[1])
    # 9098: what MSK listens on for IAM.
    for port in (*(int(each.rpartition(":")[2]) for each in bootstrap.split(",")), 9098):
        assert reaches(production, client, port, inside)
    assert reaches(patched, client, 443), "with IAM: the token service"
    assert reaches(patched, client, 80, "169.254.170.23"), "with IAM: EKS Pod Identity"


@pytest.mark.parametrize("port", [443, 6443, 8443, 16443])
def test_the_api_server(port: int) -> None:
    assert reaches(render("base"), "enricher", port)
    assert not reaches(render("base"), "audit", port)


def test_commands_that_read_the_archive_are_run_where_it_can_be_read() -> None:
    """The page's own lines: for a volume, and for an object store."""
    volume, store = re.findall(
        r"^kubectl -n zonemeter exec (\S+) -- zonemeter \w+ .*--archive (\S+)$", PAGE, re.MULTILINE
    )
    assert volume[0] == store[0] == "sts/zonemeter-flowlog"
    pod = find("base", "StatefulSet", "zonemeter-flowlog")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["image"].startswith("zonemeter-history:")
    assert volume[1] in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert store[1].startswith("s3://")
    assert reaches(with_component("object-store"), "flowlog", 443)
    assert not reaches(with_component("object-store"), "metrics", 443)
    # What is run in an enricher's pod says nothing of an archive.
    assert not re.search(r"deploy/zonemeter-enricher.*--archive", PAGE)
