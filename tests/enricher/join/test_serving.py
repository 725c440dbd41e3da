# SPDX-License-Identifier: Apache-2.0
"""The service of the end that serves."""

from typing import Any

import msgspec
import pytest

from enricher.index.ownership import Index
from schemas.flow import Flow
from schemas.topology import Served
from tests.support.enricher.build import END, START, pod, row
from tests.support.enricher.joined import A1, A2, B1, flows, index

DB: Any = ("postgres", "tcp", 5432)
HEADLESS: Any = ("postgres-hl", "tcp", 5432, True)
REQUEST, REPLY = {"server": 1}, {"src_port": 5432, "dst_port": 0, "server": 2}


def served_by(*ports: Any) -> Index:
    made = index()
    made.apply(pod("db-0", B1, "node-b1", resource_version="101", served=tuple(Served(*each) for each in ports)))
    return made


def services_of(flow: Flow) -> tuple[str | None, ...]:
    ends = (flow.source.k8s, flow.destination.k8s)
    return tuple(k8s.service.name if k8s and k8s.service else None for k8s in ends)


@pytest.mark.parametrize(
    ("ports", "fields", "service"),
    [
        pytest.param([DB], {}, "postgres", id="one"),
        pytest.param([DB], {"dnat": 1}, "postgres", id="reached by its address"),
        pytest.param([DB, ("metrics", "tcp", 9187)], {}, "postgres", id="another's is another port"),
        pytest.param([DB, ("web", "udp", 5432)], {}, "postgres", id="or of another protocol"),
        pytest.param([HEADLESS], {}, "postgres-hl", id="only a headless one"),
        pytest.param([HEADLESS, DB], {}, "postgres", id="one with an address goes before it"),
        pytest.param([DB, ("postgres-ro", "tcp", 5432)], {}, None, id="two: neither"),
        pytest.param([HEADLESS, ("db-hl", "tcp", 5432, True)], {}, None, id="two headless ones: neither"),
        pytest.param([DB], {"protocol": 17}, None, id="none of this protocol"),
        pytest.param([], {}, None, id="none"),
    ],
)
def test_both_legs_name_the_server_and_its_service(
    ports: list[Any], fields: dict[str, Any], service: str | None
) -> None:
    rows = [row(A1, B1, **REQUEST, **fields), row(B1, A1, **REPLY, **fields), row(A2, A1, **REQUEST)]
    request, reply, plain = flows(rows, states=served_by(*ports))
    assert (request.server, reply.server, plain.server) == ("destination", "source", "destination")
    assert services_of(request) == (None, service)
    assert services_of(reply) == (service, None)
    assert services_of(plain) == (None, None)
    assert request.destination.port == reply.source.port == 5432
    [unnamed] = flows([row(A1, B1)])
    both = (request.destination, unnamed.destination)
    assert both[0].k8s, both[1].k8s
    assert msgspec.structs.replace(both[0].k8s, service=msgspec.UNSET) == both[1].k8s
    assert (both[0].address, both[0].cloud) == (both[1].address, both[1].cloud)


@pytest.mark.parametrize("fields", [{}, {"server": 0}, {"server": 2}, {"server": 1, "dst_port": 9187}])
def test_no_service_is_named_of_who_is_not_known_to_serve_at_that_port(fields: dict[str, Any]) -> None:
    found = flows([row(A1, B1, **fields), row(A2, A1, server=1)], states=served_by(DB))[0]
    assert services_of(found) == (None, None)
    assert found.server == (msgspec.UNSET, "destination", "source")[fields.get("server", 0)]


def test_a_service_that_came_within_the_window_is_not_named_of_all_of_it() -> None:
    made = index()
    made.apply(pod("db-0", B1, "node-b1", resource_version="101", from_ms=START + 5000, served=(Served(*DB),)))
    rows = [row(A1, B1, **REQUEST)]
    assert services_of(flows(rows, states=made)[0]) == (None, None)
    later = flows(rows, states=made, start_ms=END, end_ms=END + 10_000)
    assert services_of(later[0]) == (None, "postgres")
