# SPDX-License-Identifier: Apache-2.0
import dataclasses
import ipaddress
import re

import pytest

from lab.network import script
from lab.plan import Stream, check_prefix, pod_name
from lab.stories import shop
from lab.traffic.streams import targets

PLAN = shop()


def test_the_shop_covers_three_zones_and_four_nodes() -> None:
    assert [node.name for node in PLAN.nodes] == ["node-a1", "node-a2", "node-b1", "node-c1"]
    assert {node.zone for node in PLAN.nodes} == {"lab-1a", "lab-1b", "lab-1c"}
    assert {PLAN.node(pod.node).zone for pod in PLAN.pods_of("shop/api")} == {"lab-1a", "lab-1b", "lab-1c"}
    assert {PLAN.node(pod.node).zone for pod in PLAN.pods_of("shop/postgres")} == {"lab-1a"}


def test_every_pod_has_addresses_of_its_own_out_of_its_nodes_cidrs() -> None:
    own = [pod for pod in PLAN.pods if not pod.workload.host_network]
    assert len(own) == 12
    assert len({pod.address_v4 for pod in own}) == len({pod.address_v6 for pod in own}) == len(own)
    for pod in own:
        node = PLAN.node(pod.node)
        assert ipaddress.ip_address(pod.address_v4) in ipaddress.ip_network(node.pod_cidr_v4)
        assert ipaddress.ip_address(pod.address_v6) in ipaddress.ip_network(node.pod_cidr_v6)


def test_host_network_pods_have_their_nodes_address_and_namespace() -> None:
    pod = PLAN.pods_of("monitoring/node-exporter")[0]
    assert (pod.address_v4, pod.address_v6) == ("192.168.50.1", "fd50::1")
    assert script.pod_namespace("zm", pod) == script.node_namespace("zm", "node-a1")


def test_pods_are_named_as_their_controllers_would() -> None:
    assert re.fullmatch(r"api-[b-z2-9]{10}-[b-z2-9]{5}", PLAN.pods_of("shop/api")[0].name)
    assert PLAN.pods_of("shop/postgres")[0].name == "postgres-0"
    assert re.fullmatch(r"node-exporter-[b-z2-9]{5}", PLAN.pods_of("monitoring/node-exporter")[0].name)
    assert len({pod.key for pod in PLAN.pods}) == len(PLAN.pods)
    assert pod_name(PLAN.pods[0].workload, 0) == shop("other", 60 + 1).pods[0].name


@pytest.mark.parametrize("prefix", ["", "a-b", "Zm", "9a", "toolonggg", "../x"])
def test_a_prefix_that_could_name_something_else_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        check_prefix(prefix)


@pytest.mark.parametrize("fabric", [-1, 256, 60])
def test_a_fabric_outside_its_range_or_on_the_managed_databases_subnet_is_refused(fabric: int) -> None:
    with pytest.raises(ValueError, match="fabric"):
        shop("zm", fabric)


def test_every_stream_of_the_shop_has_sources_and_targets() -> None:
    for stream in PLAN.streams:
        assert PLAN.pods_of(stream.source)
        assert targets(PLAN, stream)


@pytest.mark.parametrize(
    ("target", "family", "expected"),
    [
        pytest.param("shop/postgres", 4, [("10.42.1.11", 80)], id="pods"),
        pytest.param("service:shop/api", 6, [("fd96::10", 80)], id="service"),
        pytest.param("outside:internet", 4, [("11.0.0.10", 80)], id="internet"),
        pytest.param("node:node-b1", 6, [("fd50::3", 80)], id="node"),
    ],
)
def test_targets(target: str, family: int, expected: list[tuple[str, int]]) -> None:
    assert targets(PLAN, Stream("shop/web", target, 80, 1, 1, 1, family=4 if family == 4 else 6)) == expected


def test_names_of_links_fit_the_kernel() -> None:
    plan = dataclasses.replace(PLAN, prefix="abcdefgh")
    names = [script.control_link(plan.prefix), *script.fabric_ports(plan), *map(script.pod_link, plan.pods)]
    assert max(map(len, names)) < 16  # IFNAMSIZ
