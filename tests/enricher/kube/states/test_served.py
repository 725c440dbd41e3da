# SPDX-License-Identifier: Apache-2.0
"""By which ports Services reach a pod, as Kubernetes reads their target ports."""

from typing import Any

import pytest

from enricher.kube.states.served import named_ports, offer_of, served
from schemas.topology import Served
from tests.support.enricher.api_objects import pod_of, service_of

CONTAINERS = [
    {"name": "a", "ports": [{"name": "web", "containerPort": 8080}, {"containerPort": 9}]},
    {"name": "b", "ports": [{"name": "web", "containerPort": 8081}, {"name": "dns", "containerPort": 53}]},
    {"name": "c", "ports": [{"name": "dns", "containerPort": 5353, "protocol": "UDP"}]},
]
INITIAL = [
    {"name": "once", "ports": [{"name": "setup", "containerPort": 1}]},
    {"name": "sidecar", "restartPolicy": "Always", "ports": [{"name": "proxy", "containerPort": 15001}]},
]


@pytest.mark.parametrize(
    ("ports", "found"),
    [
        pytest.param(None, [], id="no ports"),
        pytest.param([{"port": 80, "targetPort": 8080}], [("tcp", 8080)], id="a number"),
        pytest.param([{"port": 80}], [("tcp", 80)], id="none is the Service's own"),
        pytest.param([{"port": 80, "targetPort": 0}], [("tcp", 80)], id="so is 0"),
        pytest.param([{"port": 80, "targetPort": "web"}], [("tcp", 8080)], id="the first of a name"),
        pytest.param([{"port": 53, "targetPort": "dns", "protocol": "UDP"}], [("udp", 5353)], id="of the protocol"),
        pytest.param([{"port": 80, "targetPort": "proxy"}], [("tcp", 15001)], id="a sidecar's"),
        pytest.param([{"port": 80, "targetPort": "setup"}], [], id="of a container that has ended"),
        pytest.param([{"port": 80, "targetPort": "other"}], [], id="a name that nobody has"),
        pytest.param([{"port": 80, "targetPort": 65536}, {"port": -1}, {}], [], id="no port"),
        pytest.param([{"port": 80, "protocol": "ICMP"}], [], id="no protocol"),
        pytest.param(
            [{"port": 443, "targetPort": 8080}, {"port": 80, "targetPort": "web"}], [("tcp", 8080)], id="two for one"
        ),
        pytest.param(
            [{"port": 80}, {"port": 80, "protocol": "UDP"}, {"port": 36412, "protocol": "SCTP"}],
            [("sctp", 36412), ("tcp", 80), ("udp", 80)],
            id="all protocols",
        ),
    ],
)
def test_target_ports(ports: list[dict[str, Any]] | None, found: list[tuple[str, int]]) -> None:
    pod = pod_of(containers=CONTAINERS, init_containers=INITIAL)
    offer = offer_of(service_of({"app": "api"}, ports=ports))
    assert served([offer], named_ports(pod)) == tuple(Served("api", *each) for each in found)  # type: ignore[arg-type]


def test_services_without_an_address_say_so() -> None:
    offer = offer_of(service_of({"app": "api"}, clusterIP="None", clusterIPs=["None"], ports=[{"port": 80}]))
    assert served([offer], {}) == (Served("api", "tcp", 80, headless=True),)


def test_services_do_not_depend_on_their_order() -> None:
    offers = [offer_of(service_of({"app": "api"}, name=name, ports=[{"port": 80}, {"port": 53}])) for name in "ab"]
    found = served(offers, {})
    assert len(found) == 4
    assert found == served(offers[::-1], {})
