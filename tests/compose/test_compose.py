# SPDX-License-Identifier: Apache-2.0
"""docker-compose.yml: what it tells our programs they understand, and what its parts say of each other agrees."""

import re
from typing import Any

import pytest
import yaml

from cli.main import COMMANDS
from common.service.lifecycle import CLOSING_SECONDS
from common.settings import load
from compose.names import DEMO_PODS
from compose.node import NUMBERS
from tests.compose.test_images import COMPOSE
from tests.k8s.rendered import ROOT
from tests.k8s.test_settings import CLASSES

SERVICES = ("collector", "enricher", "metrics", "flowlog", "audit", "topics")
# The demo's, one on each of its nodes.
COLLECTORS = {name: pod for pod in DEMO_PODS for name in [f"collector-{pod.node.removeprefix('demo-')}"]}
OURS = {name: service for name, service in COMPOSE.items() if service["image"].startswith("zonemeter")}


def filled(value: Any) -> Any:
    """Put the defaults in place of ${NAME:-default}, as compose does."""
    if isinstance(value, dict):
        return {key: filled(each) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each) for each in value]
    return re.sub(r"\$\{\w+:-([^}]*)}", r"\1", value) if isinstance(value, str) else value


@pytest.mark.parametrize("name", [*SERVICES, *COLLECTORS])
def test_every_flag_and_variable_is_understood(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service = filled(COMPOSE[name])
    for variable, value in service["environment"].items():
        assert variable.removeprefix("ZONEMETER_").lower() in CLASSES["run collector"].model_fields
        monkeypatch.setenv(variable, value)
    words = service["command"]
    settings: Any = load(CLASSES[" ".join(words[:2])], " ".join(words[:2]), words[2:])
    assert settings.kafka_bootstrap == f"{filled(COMPOSE['kafka'])['networks']['inside']['ipv4_address']}:19092"
    if name != "topics":
        assert int(service["stop_grace_period"].removesuffix("s")) > settings.drain_seconds + CLOSING_SECONDS


def test_prometheus_scrapes_where_each_service_listens() -> None:
    scraped = yaml.safe_load((ROOT / "compose/prometheus.yml").read_text())["scrape_configs"]
    targets = {each["job_name"]: each["static_configs"][0]["targets"] for each in scraped}
    for name in SERVICES[:5]:
        (listen,) = (w.removeprefix("--listen=") for w in filled(COMPOSE[name])["command"] if w.startswith("--listen="))
        host, _, port = listen.rpartition(":")
        (target,) = targets[f"zonemeter-{name}"]
        assert target == f"{'host.zonemeter' if name == 'collector' else name}:{port}"
        if name == "collector":
            assert filled(COMPOSE["prometheus"])["extra_hosts"] == [f"host.zonemeter:{host}"]


def test_containers_have_the_least_rights() -> None:
    for name, service in COMPOSE.items():
        if name == "kafka":
            continue  # its image's own affair
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service
    for name, service in OURS.items():
        assert service["read_only"] is True, name
    assert set(filled(COMPOSE["collector"])["cap_add"]) == {"BPF", "NET_ADMIN", "PERFMON"}
    added = {name for name, service in COMPOSE.items() if "cap_add" in service}
    assert set(filled(COMPOSE["detach"])["cap_add"]) == {"BPF", "NET_ADMIN"}
    assert added == {"collector", "detach", *COLLECTORS} | {name.replace("collector", "node") for name in COLLECTORS}
    on_host = {name for name, service in COMPOSE.items() if service.get("network_mode") == "host"}
    assert on_host == {"collector", "detach", "names"}


def test_ports_are_open_to_this_host_alone() -> None:
    published = [port for service in COMPOSE.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_collector_and_detach_mean_the_same_pins() -> None:
    collector, detach = COMPOSE["collector"], COMPOSE["detach"]
    pins = detach["entrypoint"][-1]
    assert f"--pin-dir={pins}" in collector["command"]
    for name, pod in COLLECTORS.items():
        node = pod.node.removeprefix("demo-")
        assert COMPOSE[name]["environment"]["ZONEMETER_PIN_DIR"] == f"{pins}-{node}"
        assert COMPOSE[name]["volumes"] == detach["volumes"]
    assert detach["volumes"] == collector["volumes"][:1]  # it does not touch the spool
    assert "zonemeter detach --pin-dir=" in detach["entrypoint"][2]
    assert ("detach",) in COMMANDS


def test_a_node_of_the_demo_has_its_collector() -> None:
    common = filled(COMPOSE["collector"])
    for name, pod in COLLECTORS.items():
        service = filled(COMPOSE[name])
        node = name.replace("collector", "node")
        assert service["network_mode"] == filled(COMPOSE[pod.name])["network_mode"] == f"service:{node}"
        assert service["environment"] == common["environment"] | {
            "ZONEMETER_NODE": pod.node,
            "ZONEMETER_PIN_DIR": service["environment"]["ZONEMETER_PIN_DIR"],
        }
        assert set(service["cap_add"]) == set(common["cap_add"])
    scraped = yaml.safe_load((ROOT / "compose/prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["dns_sd_configs"][0]["names"] == [name.replace("collector", "node") for name in COLLECTORS]


def test_the_demos_pods_have_the_addresses_that_the_names_say() -> None:
    names = filled(COMPOSE["names"])["environment"]
    numbers = {str(pod.number) for pod in DEMO_PODS}
    assert numbers == {str(number) for number in NUMBERS}
    for pod in DEMO_PODS:
        service = filled(COMPOSE[pod.name])
        node = filled(COMPOSE[service["network_mode"].removeprefix("service:")])
        assert node["command"] == [str(pod.number)]
        assert node["networks"]["nodes"]["ipv4_address"] == f"{names['NODE_NET']}.{pod.number}"
        assert node["environment"].items() <= names.items()
        assert service["environment"].items() <= names.items()
        assert {peer.partition(":")[0] for peer in service["command"]} <= numbers


def test_what_is_mounted_is_there() -> None:
    for service in COMPOSE.values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
