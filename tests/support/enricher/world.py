# SPDX-License-Identifier: Apache-2.0
"""A small world in which it is known who held which address when, and what the Kubernetes API shows of it.

The truth is made first: pods start, get an address some time later, run, end, and give it back; an address has one
holder at a time. Only then is it told as kubelets tell it: late, in whole seconds, and not at all of what happened
on a node that died. Times are Unix milliseconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec
import orjson
from hypothesis import strategies as st

from enricher.index.ownership import Index
from enricher.kube.observed import LINGER_MS, Observed
from enricher.kube.states.objects import Pod
from schemas.topology import TopologyState, decode_topology, encode_topology

T0 = 1_795_384_000_000
ADDRESSES = ("10.42.1.17", "10.42.1.18")
Fate = Literal["completes", "deleted", "forced", "lost"]


@dataclass(frozen=True)
class Life:
    """One pod's life. It can send from `acquired` up to `ended`; its address is another's from `released` on.

    `completes`: a finished phase is told, `deleted_at` may be never. `deleted`: told with its containers' ends.
    `forced`: its object goes while it may run on, until its kubelet hears of it. `lost`: its node died, and nobody
    ever tells.
    """

    name: str
    address: str
    fate: Fate
    started: int
    acquired: int
    running: int
    told: int
    ended: int
    released: int
    deleted_at: int | None
    says_sandbox: bool
    ready_at: tuple[int, ...]


class Event(NamedTuple):
    """What the API shows at a time; `body` of a deleted object is its last."""

    at: int
    deleted: bool
    uid: str
    body: dict[str, Any]


@st.composite
def lives(draw: st.DrawFn) -> list[Life]:
    """Return pods whose tenancies of an address do not overlap, though their lives do."""

    def after(at: int, longest: int) -> int:
        return at + draw(st.integers(0, longest // 250)) * 250

    made, free = [], dict.fromkeys(ADDRESSES, T0)
    for number in range(draw(st.integers(1, 6))):
        address = draw(st.sampled_from(ADDRESSES))
        fate: Fate = draw(st.sampled_from(("completes", "deleted", "forced", "lost")))
        started = after(max(T0, free[address] - 20_000), 30_000)
        acquired = after(max(started, free[address]), 5_000)
        running = after(acquired + 250, 3_000)
        told = after(running, 3_000)
        ended = after(told, 30_000)
        released = free[address] = after(ended, 3_000)
        deleted_at: int | None = after(released, 20_000)
        if fate == "forced":
            deleted_at = max(after(told, 30_000), ended - LINGER_MS + 1000)
        elif fate == "lost" or (fate == "completes" and draw(st.booleans())):
            deleted_at = None
        ready_at = tuple(sorted(after(told, ended - told) for _ in range(draw(st.integers(0, 2)))))
        made.append(
            Life(
                f"pod-{number}",
                address,
                fate,
                started,
                acquired,
                running,
                told,
                ended,
                released,
                deleted_at,
                draw(st.booleans()),
                ready_at,
            )
        )
    return made


def events(made: list[Life]) -> list[Event]:
    """Return what the API shows of them, in its order."""
    return sorted((event for life in made for event in _events(life)), key=lambda event: (event.at, event.uid))


def _events(life: Life) -> Iterator[Event]:
    yield Event(life.started, False, life.name, _body(life, life.started, phase="Pending", address=False))
    yield Event(life.told, False, life.name, _body(life, life.told))
    ready = False
    for at in life.ready_at:
        ready = not ready
        if life.deleted_at is None or at < life.deleted_at:
            yield Event(at, False, life.name, _body(life, at, ready=ready))
    last = _body(life, life.ended, phase="Running", ended=life.fate == "deleted")
    if life.fate == "completes":
        last = _body(life, life.ended, phase="Succeeded", ended=True)
        yield Event(life.released, False, life.name, last)
    if life.deleted_at is not None:
        yield Event(life.deleted_at, True, life.name, last)


def _body(
    life: Life, at: int, *, phase: str = "Running", address: bool = True, ready: bool = False, ended: bool = False
) -> dict[str, Any]:
    state: dict[str, Any] = {"running": {"startedAt": _stamp(life.running)}}
    if ended:
        state = {"terminated": {"startedAt": _stamp(life.running), "finishedAt": _stamp(life.ended)}}
    conditions = [{"type": "Ready", "status": str(ready), "lastTransitionTime": _stamp(at)}]
    if life.says_sandbox and address:
        sandbox = {"type": "PodReadyToStartContainers", "lastTransitionTime": _stamp(life.acquired)}
        conditions.append(sandbox | {"status": "False" if ended else "True"})
    status: dict[str, Any] = {"phase": phase, "startTime": _stamp(life.started), "conditions": conditions}
    if address:
        status |= {"podIPs": [{"ip": life.address}], "containerStatuses": [{"state": state}]}
    metadata = {"name": life.name, "namespace": "shop", "uid": life.name, "managedFields": [{"time": _stamp(at)}]}
    return {"metadata": metadata, "spec": {"nodeName": "node-a1"}, "status": status}


def _stamp(at: int) -> str:
    seconds = (at - T0) // 1000
    # T0 is 2026-11-22T21:46:40Z.
    minutes, seconds = divmod(46 * 60 + 40 + seconds, 60)
    return f"2026-11-22T{21 + minutes // 60:02}:{minutes % 60:02}:{seconds:02}Z"


class Enricher:
    """What an enricher makes of events; it survives restarts by what it wrote."""

    def __init__(self) -> None:
        self.index = Index()
        self.topic: dict[bytes, bytes] = {}
        self.seen: set[str] = set()
        self._observed = Observed()
        self._version = 0

    def take(self, event: Event, now: int) -> None:
        self._version += 1
        body = event.body | {"metadata": event.body["metadata"] | {"resourceVersion": str(self._version)}}
        pod = msgspec.json.decode(orjson.dumps(body), type=Pod)
        if pod.status.pod_ips:
            self.seen.add(event.uid)
        self._write(self._observed.drop(pod, now) if event.deleted else self._observed.take(pod, "list", now))

    def list_anew(self, present: list[Event], now: int, *, restarted: bool) -> None:
        """Take in a list after a time in which nothing was heard; `restarted`: with no memory but the topic."""
        if restarted:
            self.index, self._observed = Index(), Observed()
            for value in self.topic.values():
                self.index.apply(decode_topology(value))
            self._observed.seed(self.index.current())
        for event in present:
            self.take(event, now)
        self._version += 1
        self._write(self._observed.retain("pod", {event.uid for event in present}, f"l{self._version}", now))

    def _write(self, states: list[TopologyState]) -> None:
        for state in states:
            self.index.apply(state)
            self.topic[state.key] = encode_topology(state)
