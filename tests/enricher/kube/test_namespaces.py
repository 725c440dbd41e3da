# SPDX-License-Identifier: Apache-2.0
"""Labels of namespaces as history: which are kept, from when on they hold, and that the join never waits for them."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from aiohttp import web

from common.input.kube_labels import label_names
from enricher.index.ownership import Index
from enricher.kube.cluster import ClusterView
from enricher.kube.observed import Observed
from enricher.kube.states.fields import milliseconds
from enricher.kube.states.objects import Namespace
from lab.kube.answers import ApiError
from lab.kube.api import serve
from schemas.topology import TopologyState, decode_topology, encode_topology
from tests.support.enricher.followed import Followed, api_with_everything, following

AT = "2026-11-22T09:00:00Z"
LATER = "2026-11-22T10:00:00Z"
NOW = milliseconds("2026-11-22T12:00:00Z") or 0


def namespace_json(labels: dict[str, str] | None, rv: str = "100", changed: str | None = AT) -> dict[str, Any]:
    managed = {} if changed is None else {"managedFields": [{"manager": "kubectl", "time": changed}]}
    return {"metadata": {"name": "shop", "uid": "ns-1", "resourceVersion": rv, "labels": labels, **managed}}


def namespace(labels: dict[str, str] | None, rv: str = "100", changed: str | None = AT) -> Namespace:
    return msgspec.json.decode(orjson.dumps(namespace_json(labels, rv, changed)), type=Namespace)


def observed(*names: str) -> Observed:
    return Observed(namespace_labels=names)


def test_only_the_labels_asked_for_are_kept_from_the_last_change_on() -> None:
    [state] = observed("team", "tier").take(namespace({"team": "a", "secret": "x"}), "1", NOW)
    assert (state.kind, state.name, state.labels) == ("namespace", "shop", {"team": "a", "tier": None})
    assert (state.from_ms, state.to_ms, state.addresses) == (milliseconds(AT), None, [])
    assert decode_topology(encode_topology(state)) == state


@pytest.mark.parametrize("labels", [None, {}, {"other": "x"}])
def test_a_namespace_without_the_label_says_so(labels: dict[str, str] | None) -> None:
    [state] = observed("team").take(namespace(labels, changed=None), "1", NOW)
    assert (state.labels, state.from_ms) == ({"team": None}, NOW)


def test_an_empty_value_is_a_value() -> None:
    [state] = observed("team").take(namespace({"team": ""}), "1", NOW)
    assert state.labels == {"team": ""}


def test_another_value_holds_from_its_own_time_and_other_changes_say_nothing() -> None:
    view = observed("team")
    view.take(namespace({"team": "a"}), "1", NOW)
    assert view.take(namespace({"team": "a", "x": "y"}, "101", LATER), "1", NOW) == []
    closed, opened = view.take(namespace({"team": "b"}, "102", LATER), "1", NOW)
    assert (closed.labels, closed.to_ms) == ({"team": "a"}, milliseconds(LATER))
    assert (opened.labels, opened.from_ms) == ({"team": "b"}, milliseconds(LATER))


def test_a_label_that_is_gone_was_there_until_now() -> None:
    """To take a label off leaves no time behind: what the managed fields say is older than that."""
    view = observed("team")
    view.take(namespace({"team": "a"}), "1", NOW)
    closed, opened = view.take(namespace({}, "101", AT), "1", NOW)
    assert (closed.to_ms, opened.from_ms, opened.labels) == (NOW, NOW, {"team": None})


def test_a_deleted_namespace_ends() -> None:
    view = observed("team")
    view.take(namespace({"team": "a"}), "1", NOW)
    [ended] = view.drop(namespace({"team": "a"}, "105"), NOW + 5)
    assert (ended.to_ms, ended.labels) == (NOW + 5, {"team": "a"})


def test_another_choice_of_labels_holds_from_now_on() -> None:
    [before] = observed("team").take(namespace({"team": "a", "tier": "1"}), "1", NOW - 60_000)
    view = observed("team", "tier")
    view.seed([before])
    closed, opened = view.take(namespace({"team": "a", "tier": "1"}), "9", NOW)
    assert (closed.to_ms, opened.from_ms, opened.labels) == (NOW, NOW, {"team": "a", "tier": "1"})


def test_a_value_that_no_label_can_have_is_left_out_and_told() -> None:
    told: list[str] = []
    view = ClusterView(Index(), live=True, tell_left_out=told.append, namespace_labels=("team", "tier"))
    view.take(namespace({"team": "x" * 64, "tier": "1"}), "1")
    [state] = view.index.current()
    assert (state.labels, told) == ({"tier": "1"}, ["labels"])


def test_what_nobody_watches_any_more_does_not_hold_on() -> None:
    [state] = observed("team").take(namespace({"team": "a"}), "1", NOW)
    for names, ends in ((("team",), None), ((), NOW + 1_000)):
        view = ClusterView(Index(), live=True, clock=lambda: NOW + 1_000, namespace_labels=names)
        view.load([state])
        view.begin()
        assert [known.to_ms for known in view.index.current()] == [ends]


def test_a_namespace_is_remembered_longer_than_a_pod() -> None:
    index = Index()
    index.apply(TopologyState(kind="namespace", uid="n", resource_version="1", name="shop", from_ms=10, to_ms=20))
    index.apply(TopologyState(kind="pod", uid="p", resource_version="1", name="api-0", from_ms=10, to_ms=20))
    assert [state.kind for state in index.prune(30, {"namespace": 20 - 1})] == ["pod"]
    assert [state.kind for state in index.prune(30, {"namespace": 30})] == ["namespace"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("team", ("team",)),
        ("team, cost-center,team", ("team", "cost-center")),
        ("example.com/team", ("example.com/team",)),
        ("kubernetes.io/metadata.name", ("kubernetes.io/metadata.name",)),
        (f"{'d' * 63}.{'e' * 63}/{'n' * 63}", (f"{'d' * 63}.{'e' * 63}/{'n' * 63}",)),
    ],
)
def test_names_of_labels(text: str, names: tuple[str, ...]) -> None:
    assert label_names(text) == names


@pytest.mark.parametrize(
    "text", [",", "team,", "-team", "te am", "=1+1", "a/b/c", "/team", "Ex.com/team", "n" * 64, "d" * 254 + "/n", "é"]
)
def test_what_no_label_is_called(text: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a label"):
        label_names(text)


def test_too_many_labels() -> None:
    with pytest.raises(ValueError, match="17 labels; expected at most 16"):
        label_names(",".join(f"l{number}" for number in range(17)))


def test_namespaces_are_followed_and_the_join_does_not_wait_for_them(tmp_path: Path) -> None:
    """Without the right to list them everything else goes on; with it the labels come."""

    async def inside() -> None:
        api, faults = api_with_everything()
        api.store.put("namespaces", namespace_json({"team": "a"}))
        allowed, usual = False, api.authorize

        def authorize(request: web.Request) -> None:
            if request.path.endswith("/namespaces") and not allowed:
                raise ApiError(403, "Forbidden", "namespaces is forbidden")
            usual(request)

        api.authorize = authorize  # type: ignore[method-assign]
        async with asyncio.timeout(120), serve(api) as port:
            server = f"http://127.0.0.1:{port}"
            async with following(api, faults, tmp_path / "kubeconfig", server, namespace_labels="team") as made:
                await made.follower.all_listed(asyncio.Event())
                await made.until(lambda: made.failures("namespaces", "403"))
                assert made.service.health.reasons.keys() == {"start"}
                assert not _labels(made)
                allowed = True
                await made.until(lambda: _labels(made) == [{"team": "a"}])
                api.store.put("namespaces", namespace_json({"team": "b"}))
                await api.changed()
                await made.until(lambda: _labels(made) == [{"team": "b"}])

    asyncio.run(inside())


def _labels(made: Followed) -> list[dict[str, str | None]]:
    return [state.labels or {} for state in made.index.current() if state.kind == "namespace"]
