# SPDX-License-Identifier: Apache-2.0
"""Every flow is joined as of its own window, from the topology topic: after an hour without an enricher, on an empty
disk, with the pods gone meanwhile; and whatever changed stands in the history.
"""

import dataclasses
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.kube.objects import objects, rfc3339
from lab.plan import Pod
from schemas.flow import Flow
from schemas.topology import TopologyState, decode_topology
from tests.support.enricher.api_process import AT, PLAN, POSTGRES, Api, api_at
from tests.support.enricher.build import encoded, pod, row
from tests.support.enricher.processes import running, topology_file
from tests.support.enricher.topics import Topics
from tests.support.services import eventually

NODE = POSTGRES.node
MINUTE = 60_000


def beside(name: str, last: int) -> Pod:
    """Return a pod on the same node with an address of its own."""
    return dataclasses.replace(
        POSTGRES,
        name=name,
        address_v4=f"{POSTGRES.address_v4.rpartition('.')[0]}.{last}",
        address_v6=f"{POSTGRES.address_v6.rpartition(':')[0]}:{last:x}",
    )


def ago(minutes: float) -> datetime:
    return datetime.fromtimestamp(time.time() // 10 * 10 - minutes * 60, UTC)


def window(sequence: int, source: Pod, minutes_ago: float) -> bytes:
    start = int(ago(minutes_ago).timestamp() * 1000)
    rows = [row(source.address_v4, "10.200.0.1")]
    return encoded(rows, sequence=sequence, node=NODE, start_ms=start, end_ms=start + 10_000)


def ended(at: datetime) -> dict[str, Any]:
    times = {"startedAt": rfc3339(AT), "finishedAt": rfc3339(at), "exitCode": 0}
    return {"phase": "Succeeded", "containerStatuses": [{"name": "c", "state": {"terminated": times}}]}


def who(flow: Flow) -> tuple[str | None, str | None]:
    """Return the sender's name, or why there is none, and its zone."""
    source: Any = flow.source
    name = source.k8s.pod.name if source.kind == "pod" else source.reason
    return name, source.cloud.availability_zone


def test_an_hour_of_lag_on_an_empty_disk_is_joined_as_of_then(topics: Topics, tmp_path: Path) -> None:
    job, vanished = beside("job-0", 201), beside("vanished-0", 202)
    successor = dataclasses.replace(POSTGRES, name="successor-0")
    with api_at(tmp_path) as api:
        api.start()
        for each in (job, vanished):
            api.put(each, AT)
        flags = [*topics.flags, "--kubeconfig", str(api.kubeconfig)]
        with running(flags, tmp_path / "one") as first:
            eventually(first.ready)
            eventually(lambda: len(topics.topology()) >= len(list(objects(PLAN, AT))) + 2)
            first.kill()
        # An hour passes, as the objects and the windows tell it.
        api.delete(POSTGRES)
        api.put(successor, ago(30))
        api.put(job, AT, **ended(ago(40)))
        api.delete(vanished)
        api.relabel(NODE, "zone-moved", ago(20))
        sent = [(POSTGRES, 55), (vanished, 50), (job, 45), (job, 35), (POSTGRES, 31), (POSTGRES, 25), (POSTGRES, 10)]
        topics.produce([window(n, *each) for n, each in enumerate(sent, 1)], key=NODE.encode())
        with running(flags, tmp_path / "two") as second:
            eventually(second.ready)
            eventually(lambda: len(topics.flows()) == len(sent))
    before = PLAN.node(NODE).zone
    assert [who(flow) for flow in topics.flows()] == [
        ("postgres-0", before),
        ("vanished-0", before),
        ("job-0", before),
        ("late_index", before),
        ("postgres-0", before),
        ("successor-0", before),
        ("successor-0", "zone-moved"),
    ]


def states_of(topics: Topics, uid: str) -> list[TopologyState]:
    """Return an object's states as a reader of the compacted topic has them, in the order of their time."""
    newest = {record.key: record.value for record in topics.records(topics.settings.topics.topology)}
    found = [decode_topology(value) for value in newest.values() if value is not None]
    return sorted((state for state in found if state.uid == uid), key=lambda state: state.from_ms)


def in_a_row(states: list[TopologyState]) -> bool:
    """Whether each state ends where the next begins, and the last still holds."""
    ends = [state.to_ms for state in states]
    return ends == [state.from_ms for state in states[1:]] + [None]


def test_each_state_of_what_changes_is_in_the_history(topics: Topics, tmp_path: Path) -> None:
    def ready(api: Api, status: str) -> None:
        api.put(POSTGRES, AT, conditions=[{"type": "Ready", "status": status, "lastTransitionTime": rfc3339(AT)}])

    with api_at(tmp_path) as api:
        api.start()
        with running([*topics.flags, "--kubeconfig", str(api.kubeconfig)], tmp_path / "log") as enricher:
            eventually(enricher.ready)
            eventually(lambda: len(topics.topology()) == len(list(objects(PLAN, AT))))
            uid = next(state.uid for state in topics.topology() if state.name == "postgres-0")
            node_uid = next(state.uid for state in topics.topology() if state.name == NODE)
            for number, status in enumerate(("False", "True", "False"), 2):
                ready(api, status)
                eventually(lambda: len(states_of(topics, uid)) == number)  # noqa: B023 - called before the next turn
            service = next(each.name for each in PLAN.services if each.workload.endswith("/postgres"))
            api.select(service, {"app": "nobody"})
            eventually(lambda: len(states_of(topics, uid)) == 5)
            api.select(service, {"app": "postgres"})
            eventually(lambda: len(states_of(topics, uid)) == 6)
            api.relabel(NODE, "zone-2", datetime.now(UTC))
            eventually(lambda: len(states_of(topics, node_uid)) == 2)
            api.relabel(NODE, "zone-3", datetime.now(UTC))
            eventually(lambda: len(states_of(topics, node_uid)) == 3)
    pods, nodes = states_of(topics, uid), states_of(topics, node_uid)
    assert [state.ready for state in pods] == [True, False, True, False, False, False]
    assert [state.services for state in pods] == [*[(service,)] * 4, (), (service,)]
    assert [state.zone for state in nodes] == [PLAN.node(NODE).zone, "zone-2", "zone-3"]
    assert in_a_row(pods)
    assert in_a_row(nodes)


def test_a_pod_that_outlives_every_retention_keeps_its_record_and_what_ended_long_ago_goes(
    topics: Topics, tmp_path: Path
) -> None:
    old = int(ago(60 * 24 * 400).timestamp() * 1000)
    gone = pod("gone", "10.42.9.9", NODE, from_ms=old, to_ms=old + MINUTE)
    topics.produce_topology([gone])
    eternal = beside("eternal-0", 203)
    with api_at(tmp_path) as api:
        api.start()
        api.put(eternal, ago(60 * 24 * 400))
        flags = [*topics.flags, "--kubeconfig", str(api.kubeconfig), "--history-hours", "0.01"]
        for sequence in (1, 2):
            with running(flags, tmp_path / "log") as enricher:
                eventually(enricher.ready)
                topics.produce([window(sequence, eternal, 1)], key=NODE.encode())
                eventually(lambda: len(topics.flows()) == sequence)  # noqa: B023 - called before the next turn
                if sequence == 1:
                    eventually(lambda: enricher.metric("topology_tombstones_total") == 1)
                assert enricher.terminate() == 0
    newest = {record.key: record.value for record in topics.records(topics.settings.topics.topology)}
    assert [key for key, value in newest.items() if value is None] == [gone.key]
    assert {who(flow)[0] for flow in topics.flows()} == {"eternal-0"}


def test_records_that_were_gone_before_they_were_read_are_counted(topics: Topics, tmp_path: Path) -> None:
    flags = [*topics.flags, "--topology", str(topology_file(tmp_path)), "--group-instance-id", "one"]
    chunks = [encoded([row("10.42.1.17", "10.42.2.9")], sequence=sequence) for sequence in range(1, 10)]
    topics.produce(chunks[:2])
    with running(flags, tmp_path / "log") as enricher:
        eventually(lambda: len(topics.ledger()) == 2)
        assert enricher.terminate() == 0
    topics.produce(chunks[2:8])
    topics.delete_raw_before(7)
    with running(flags, tmp_path / "log") as enricher:
        eventually(lambda: len(topics.ledger()) == 3)
        assert enricher.metric("raw_gap_records_total") == 5
