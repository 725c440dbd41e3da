# SPDX-License-Identifier: Apache-2.0
"""EndpointSlices as history: ready end points by zone, and which have hints; the join never waits for them."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest

from enricher.index.cidrs import Cidr, CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.kube.cluster import ClusterView
from enricher.kube.observed import Observed
from enricher.kube.states.endpoint_slices import SERVICE_LABEL, left_out
from enricher.kube.states.fields import milliseconds
from enricher.kube.states.objects import EndpointSlice
from lab.kube.api import serve
from schemas.topology import ZoneEndPoints, decode_topology, encode_topology
from tests.support.enricher.build import node
from tests.support.enricher.followed import api_with_everything, following

AT, LATER = "2026-11-22T09:00:00Z", "2026-11-22T10:00:00Z"
NOW = milliseconds("2026-11-22T12:00:00Z") or 0
A, B = "eu-west-1a", "eu-west-1b"


def end_point(zone: str | None, *, ready: bool | None = True, **hints: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"addresses": ["10.244.0.1"], "conditions": {"ready": ready}}
    return made | ({"zone": zone} if zone else {}) | ({"hints": hints} if hints else {})


def api_servers(*addresses: str, rv: str = "100", changed: str = AT) -> dict[str, Any]:
    """Return the slice that the API servers write of themselves; they give no zones."""
    made = slice_json({"addresses": list(addresses)}, rv=rv, changed=changed, **{SERVICE_LABEL: "kubernetes"})
    return made | {"metadata": made["metadata"] | {"name": "kubernetes", "namespace": "default", "uid": "e-api"}}


def slice_json(*end_points: dict[str, Any], rv: str = "100", changed: str = AT, **labels: str) -> dict[str, Any]:
    named = labels or {"kubernetes.io/service-name": "api"}
    managed = [{"manager": "kube-controller-manager", "time": changed}]
    meta = {"name": "api-x", "namespace": "shop", "uid": "e-1", "resourceVersion": rv, "labels": named}
    return {"metadata": meta | {"managedFields": managed}, "endpoints": list(end_points)}


def slice_of(*end_points: dict[str, Any], **more: Any) -> EndpointSlice:
    return msgspec.json.decode(orjson.dumps(slice_json(*end_points, **more)), type=EndpointSlice)


def test_ready_end_points_and_their_hints_by_zone() -> None:
    for_zone: dict[str, Any] = {"forZones": [{"name": A}]}
    for_node: dict[str, Any] = {"forNodes": [{"name": "node-1"}]}
    found = slice_of(
        end_point(A, **for_zone),
        end_point(A),
        end_point(A, ready=False, **for_zone),
        end_point(B, ready=None, **for_node),
        end_point(None),
    )
    [state] = Observed().take(found, "1", NOW)
    assert (state.kind, state.namespace, state.services) == ("endpointslice", "shop", ("api",))
    assert state.end_points == (ZoneEndPoints("", 1, 0), ZoneEndPoints(A, 2, 1), ZoneEndPoints(B, 1, 1))
    assert (state.from_ms, state.addresses) == (milliseconds(AT), [])
    assert decode_topology(encode_topology(state)) == state


def test_a_pod_that_another_replaces_says_nothing_and_another_zone_holds_from_its_own_time() -> None:
    observed = Observed()
    observed.take(slice_of(end_point(A), end_point(B)), "1", NOW)
    assert observed.take(slice_of(end_point(B), end_point(A), rv="101", changed=LATER), "1", NOW) == []
    closed, opened = observed.take(slice_of(end_point(A), rv="102", changed=LATER), "1", NOW)
    assert (closed.to_ms, opened.from_ms) == (milliseconds(LATER),) * 2
    assert opened.end_points == (ZoneEndPoints(A, 1, 0),)
    [ended] = observed.drop(slice_of(end_point(A), rv="103"), NOW + 5)
    assert ended.to_ms == NOW + 5


@pytest.mark.parametrize("labels", [{"app": "api"}, {"kubernetes.io/service-name": "x" * 254}])
def test_a_slice_of_no_service_has_no_state(labels: dict[str, str]) -> None:
    assert Observed().take(slice_of(end_point(A), **labels), "1", NOW) == []


@pytest.mark.parametrize(
    "end_points",
    [
        [end_point(A)] * 1001,
        [end_point(f"zone-{number}") for number in range(64)],
        [end_point("x" * 254)],
    ],
    ids=["end points", "zones", "a name"],
)
def test_what_no_slice_can_have_is_left_out_and_told(end_points: list[dict[str, Any]]) -> None:
    found, told = slice_of(*end_points), list[str]()
    view = ClusterView(Index(), live=True, tell_left_out=told.append, watches_slices=True)
    view.take(found, "1")
    [state] = view.index.current()
    assert (state.end_points, told, left_out(found)) == ((), ["end_points"], ["end_points"])


def test_what_nobody_watches_any_more_does_not_hold_on() -> None:
    [state] = Observed().take(slice_of(end_point(A)), "1", NOW)
    for watches, ends in ((True, None), (False, NOW + 1_000)):
        view = ClusterView(Index(), live=True, clock=lambda: NOW + 1_000, watches_slices=watches)
        view.load([state])
        view.begin()
        assert [known.to_ms for known in view.index.current()] == [ends]


def test_slices_are_followed(tmp_path: Path) -> None:
    async def inside() -> None:
        api, faults = api_with_everything()
        api.store.put("endpointslices", slice_json(end_point(A)))
        async with asyncio.timeout(120), serve(api) as port:
            server = f"http://127.0.0.1:{port}"
            async with following(api, faults, tmp_path / "kubeconfig", server, watches_slices=True) as made:
                await made.agrees()
                api.store.put("endpointslices", slice_json(end_point(A), end_point(B, forZones=[{"name": B}])))
                await api.changed()
                await made.agrees()
                assert {state.kind for state in made.index.current()} >= {"endpointslice"}

    asyncio.run(inside())


def test_the_api_servers_addresses_are_named_as_of_their_time_and_by_nothing_better_known() -> None:
    observed, index = Observed(), Index()
    for made in (api_servers("10.9.0.7", "10.9.0.8"), api_servers("10.9.0.8", rv="101", changed=LATER)):
        found = msgspec.json.decode(orjson.dumps(made), type=EndpointSlice)
        for state in observed.take(found, "1", NOW):
            index.apply(state)
            assert decode_topology(encode_topology(state)) == state
    mapped = Cidr(cidr="10.9.0.8/32", name="eks", zone="eu-west-1a")
    at, later = (milliseconds(text) or 0 for text in (AT, LATER))

    def said(address: str, when: int, *cidrs: Cidr) -> tuple[str, str | None, bool]:
        end = Resolver(index, CidrMap(list(cidrs))).window(when, when + 10_000).resolve(address)
        assert ('"service":{"name":"kubernetes"}' in end.json(443)) == (end.kind == "service")
        return end.kind, end.reason, end.in_cluster

    named, unknown = ("service", "api_server", False), ("unknown", "vpc_unmapped", False)
    assert (said("10.9.0.7", at), said("10.9.0.7", at - 60_000), said("10.9.0.7", later)) == (named, unknown, unknown)
    assert said("10.9.0.8", later) == named
    assert said("10.9.0.8", later, mapped) == ("cidr", None, False)
    index.apply(node("node-1", "10.9.0.8"))
    assert said("10.9.0.8", later)[0] == "node"


def test_of_all_slices_only_the_api_servers_is_followed_unless_all_are_asked_for(tmp_path: Path) -> None:
    async def inside() -> None:
        api, faults = api_with_everything()
        api.store.put("endpointslices", slice_json(end_point(A)))
        api.store.put("endpointslices", api_servers("10.9.0.7"))
        async with asyncio.timeout(120), serve(api) as port:
            server = f"http://127.0.0.1:{port}"
            async with following(api, faults, tmp_path / "kubeconfig", server) as made:
                await made.agrees()
                api.store.put("endpointslices", slice_json(end_point(B), rv="102"))
                api.store.put("endpointslices", api_servers("10.9.0.8"))
                await api.changed()
                await made.agrees()
                last = [state for state in made.index.current() if state.kind == "endpointslice"]
                assert [(state.name, state.addresses, state.to_ms) for state in last] == [
                    ("kubernetes", ["10.9.0.8"], None)
                ]

    asyncio.run(inside())


def test_an_enricher_that_starts_again_goes_on_with_the_api_servers() -> None:
    found = msgspec.json.decode(orjson.dumps(api_servers("10.9.0.7")), type=EndpointSlice)
    view = ClusterView(Index(), live=True)
    view.load(Observed().take(found, "1", NOW))
    view.begin()
    assert [state.to_ms for state in view.index.current()] == [None]
