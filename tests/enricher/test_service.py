# SPDX-License-Identifier: Apache-2.0
"""The enricher as a service: wrong settings, parts that are away, and a Kubernetes API to follow."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from enricher.kube.observed import LINGER_MS
from enricher.main import main
from lab.kafka.broker import Broker, free_port
from lab.kube.objects import objects
from schemas.amount import Amount
from tests.support.enricher.api_process import AT, LATE, PLAN, POSTGRES, api_at
from tests.support.enricher.build import encoded, pod, row
from tests.support.enricher.processes import running, topology_file
from tests.support.enricher.topics import Topics
from tests.support.services import DEADLINE_SECONDS, eventually


def refused(argv: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """Return the one line with which the enricher refuses."""
    try:
        code: Any = main(["--listen", f"127.0.0.1:{free_port()}", *argv])
    except SystemExit as error:
        code = error.code
    assert code == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if "stopped" not in line]
    return line


@pytest.mark.parametrize(
    ("flag", "content", "says"),
    [
        pytest.param("--topology", None, "No such file", id="no topology file"),
        pytest.param("--topology", b"[{", "JSON array of topology states", id="topology that is no JSON"),
        pytest.param("--topology", b'[{"kind":"pod"}]', "missing required field", id="topology that lacks fields"),
        pytest.param("--topology", b"[]", "holds no node", id="topology without nodes"),
        pytest.param("--kubeconfig", None, "No such file", id="no kubeconfig"),
    ],
)
def test_a_file_with_an_error_is_one_line_and_exit_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], flag: str, content: bytes | None, says: str
) -> None:
    file = tmp_path / "file.json"
    if content is not None:
        file.write_bytes(content)
    line = refused([flag, str(file)], capfd)
    assert says.lower() in line.lower()
    assert str(file) in line


def test_a_cidr_map_with_an_error_is_one_line_and_exit_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cidrs.toml"
    topology = ["--topology", str(topology_file(tmp_path))]
    assert "No such file" in refused([*topology, "--cidr-map", str(file)], capfd)
    file.write_text("[[cidr]]\ncidr='10.0.0.1/8'\nname='x'\n")
    assert "entry 1" in refused([*topology, "--cidr-map", str(file)], capfd)


def test_a_cidr_map_that_may_not_be_meant_is_said_and_every_rule_is_counted(topics: Topics, tmp_path: Path) -> None:
    file = tmp_path / "cidrs.toml"
    file.write_text(
        "[[cidr]]\ncidr='10.9.0.0/16'\nname='db'\nzone='eu-wst-1b'\n[[cidr]]\ncidr='10.8.0.0/16'\nname='never'\n"
    )
    topics.produce([encoded([row("10.42.1.17", "10.9.1.1", bytes=77)])])
    flags = [*topics.flags, "--topology", str(topology_file(tmp_path)), "--cidr-map", str(file)]
    with running(flags, tmp_path / "log") as enricher:
        eventually(lambda: enricher.metric("cidr_bytes_total", "10.9.0.0/16", "db") == 77)
        assert ("zonemeter_enricher_cidr_bytes_total", ("10.8.0.0/16", "never")) in enricher.samples()
    said = (tmp_path / "log").read_text()
    assert "10.9.0.0/16 (db): no node is in zone 'eu-wst-1b'; did you mean eu-west-1b?" in said
    assert "10.8.0.0/16 (never): no zone" in said


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--topology", "a", "--kubeconfig", "b"], "not both"),
        (["--kube", "in-cluster", "--kubeconfig", "b"], "leave one of them out"),
        (["--late-seconds", "-1"], "late_seconds"),
        (["--kube", "somewhere"], "kube"),
        (["--namespace-labels", "team,=1+1"], "'=1+1' is not the name of a label; expected, for example, team"),
    ],
)
def test_settings_that_make_no_sense(flags: list[str], says: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert says in refused(flags, capfd)


def test_kafka_and_topics_may_come_late_go_and_come_back(tmp_path: Path) -> None:
    port = free_port()
    broker = Broker(tmp_path / "kafka", port=port)
    flags = ["--kafka-bootstrap", f"127.0.0.1:{port}", "--partitions", "3", "--cluster", "prod-eu"]
    flags += ["--topology", str(topology_file(tmp_path)), "--kafka-deadline-seconds", "3", "--topic-prefix", "late."]
    try:
        with running(flags, tmp_path / "log") as enricher:
            eventually(lambda: f"kafka: Kafka at 127.0.0.1:{port}" in enricher.get("/readyz")[1])
            asyncio.run(broker.start())
            names = "late.flows.raw.v1, late.flows.enriched.v1, late.ledger.v1, late.topology.v1"
            eventually(lambda: f"topics {names} do not exist: zonemeter topics apply" in enricher.get("/readyz")[1])
            topics = Topics.at(broker.bootstrap, "late.")
            eventually(enricher.ready)
            topics.produce([window(1)])
            eventually(lambda: len(topics.ledger()) == 1)
            broker.kill()
            time.sleep(4)  # longer than the deadline, so that what is awaited fails
            asyncio.run(broker.start())
            topics.produce([window(2)])
            eventually(lambda: len(topics.ledger()) == 2)
            assert [flow.id.split("/")[4] for flow in topics.flows()] == ["1", "2"]
            assert enricher.terminate() == 0
    finally:
        broker.kill()


def test_topics_with_another_number_of_partitions_are_one_line(topics: Topics, tmp_path: Path) -> None:
    flags = [*topics.flags, "--topology", str(topology_file(tmp_path)), "--partitions", "4"]
    with running(flags, tmp_path / "log") as enricher:
        eventually(lambda: "has 3 partitions, the setting partitions says 4" in enricher.get("/readyz")[1])


def window(sequence: int, source: str = "10.42.1.17", **overrides: Any) -> bytes:
    return encoded([row(source, "10.42.2.9")], sequence=sequence, **overrides)


def ready_pods(samples: Mapping[tuple[str, tuple[str, ...]], float]) -> dict[tuple[str, ...], float]:
    return {labels: value for (name, labels), value in samples.items() if name == "zonemeter_enricher_ready_pods"}


def ready_pods_of_the_plan() -> dict[tuple[str, ...], int]:
    """Return the pods of each Deployment and zone; what is not a Deployment is a DaemonSet, or in one zone."""
    deployed = [each for each in PLAN.pods if each.workload.kind == "Deployment"]
    # Labels as the client library shows them: by their names.
    labels = ((each.workload.name, "Deployment", each.namespace, PLAN.node(each.node).zone) for each in deployed)
    return dict(Counter(labels))


def test_follows_a_cluster_and_keeps_its_history(topics: Topics, tmp_path: Path) -> None:
    with api_at(tmp_path) as api:
        flags = [*topics.flags, "--kubeconfig", str(api.kubeconfig), "--group-instance-id", "one"]
        with running(flags, tmp_path / "log") as enricher:
            eventually(lambda: "Kubernetes API at" in enricher.get("/readyz")[1])
            api.start()
            eventually(enricher.ready)
            eventually(lambda: len(topics.topology()) == len(list(objects(PLAN, AT))))
            assert ready_pods(enricher.samples()) == ready_pods_of_the_plan()
            assert enricher.terminate() == 0
        first = topics.topology()
        assert {state.kind for state in first} == {"pod", "node", "service"}
        with running(flags, tmp_path / "log") as enricher:
            eventually(enricher.ready)
            deleted = time.time()
            api.delete(POSTGRES)
            eventually(lambda: len(topics.topology()) == len(first) + 1)
        closed = topics.topology()[-1]
        assert (closed.name, closed.key in {state.key for state in first}) == ("postgres-0", True)
        assert closed.to_ms is not None
        assert deleted * 1000 <= closed.to_ms <= time.time() * 1000 + LINGER_MS


def test_labels_of_namespaces_are_kept_as_long_as_they_are_asked_for(topics: Topics, tmp_path: Path) -> None:
    with api_at(tmp_path) as api:
        api.start()
        api.label("shop", {"team": "payments", "secret": "x"})
        flags = [*topics.flags, "--kubeconfig", str(api.kubeconfig)]
        with running([*flags, "--namespace-labels", "team"], tmp_path / "log") as enricher:
            eventually(lambda: _of_namespaces(topics) == [({"team": "payments"}, True)])
            api.label("shop", {"team": "core"})
            eventually(lambda: _of_namespaces(topics) == [({"team": "core"}, True), ({"team": "payments"}, False)])
            assert enricher.terminate() == 0
        with running(flags, tmp_path / "log") as enricher:
            eventually(lambda: not any(holds for _, holds in _of_namespaces(topics)))
            assert enricher.terminate() == 0


def _of_namespaces(topics: Topics) -> list[tuple[dict[str, str | None], bool]]:
    """Return the labels of each state of a namespace, and whether it still holds."""
    last = {state.key: state for state in topics.topology() if state.kind == "namespace"}
    return sorted(
        ((state.labels or {}, state.to_ms is None) for state in last.values()), key=lambda each: str(each[0]["team"])
    )


def test_a_chunk_waits_for_a_pod_that_is_just_coming_up_and_once_only(topics: Topics, tmp_path: Path) -> None:
    with api_at(tmp_path) as api:
        api.start()
        flags = [*topics.flags, "--kubeconfig", str(api.kubeconfig), "--late-seconds", "60"]
        with running(flags, tmp_path / "log") as enricher:
            eventually(enricher.ready)
            start = time.time_ns() // 1_000_000
            # The chunk waits until after the end of its window, however long it takes to bring the pod up here.
            times = {"start_ms": start, "end_ms": start + int(DEADLINE_SECONDS * 1000), "node": LATE.node}
            ends = [POSTGRES, LATE, POSTGRES]
            windows = [window(number, each.address_v4, **times) for number, each in enumerate(ends, 1)]
            topics.produce(windows, key=LATE.node.encode())
            eventually(lambda: len(topics.flows()) == 1)
            time.sleep(0.5)  # the next chunk must be waiting, and nothing shows that it does
            assert len(topics.flows()) == 1
            api.put(LATE, datetime.fromtimestamp(start / 1000, UTC))
            eventually(lambda: len(topics.flows()) == 3)
            flow = topics.flows()[1]
            assert (flow.source.kind, flow.source.k8s.pod.name) == ("pod", "postgres-1")  # type: ignore[union-attr]
            assert enricher.metric("index_waits_total", "known") == 1


def test_a_gateway_inside_a_pod_cidr_is_waited_for_once(topics: Topics, tmp_path: Path) -> None:
    with api_at(tmp_path) as api:
        api.start()
        flags = [*topics.flags, "--kubeconfig", str(api.kubeconfig), "--late-seconds", "1"]
        gateway = POSTGRES.address_v4.rpartition(".")[0] + ".1"
        with running(flags, tmp_path / "log") as enricher:
            eventually(enricher.ready)
            for sequence in itertools.count(1):
                # One that comes here more than a second after its end is not waited for, nor are those after the first.
                waited = enricher.metric("index_waits_total", "late")
                end = time.time_ns() // 1_000_000
                times = {"start_ms": end - 1000, "end_ms": end, "node": POSTGRES.node}
                topics.produce([window(sequence, gateway, **times)], key=POSTGRES.node.encode())
                eventually(lambda: enricher.metric("chunks_total", "enriched") == sequence)  # noqa: B023 - called now
                if waited:
                    break
            assert enricher.metric("index_waits_total", "late") == 1
    assert {flow.source.reason for flow in topics.flows()} == {"late_index"}
    assert {flow.source.k8s.node.name for flow in topics.flows()} == {POSTGRES.node}  # type: ignore[union-attr]


def test_what_a_node_sends_from_its_second_card_counts_once(topics: Topics, tmp_path: Path) -> None:
    card, receiver = "172.20.0.11", next(node.name for node in PLAN.nodes if node.name != POSTGRES.node)
    with api_at(tmp_path) as api:
        api.start()
        with running([*topics.flags, "--kubeconfig", str(api.kubeconfig)], tmp_path / "log") as enricher:
            eventually(enricher.ready)
            end = time.time_ns() // 1_000_000
            times = {"start_ms": end - 1000, "end_ms": end}
            said = window(1, card, **times, node=POSTGRES.node, own=[0], node_addresses=[card])
            topics.produce([said], key=POSTGRES.node.encode())
            eventually(lambda: len(topics.flows()) == 1)
            key = f"addresses/{POSTGRES.node}/{end - 1000}".encode()
            eventually(lambda: key in {state.key for state in topics.topology()})
            received = encoded([row(card, "10.42.2.9", direction=1)], **times, node=receiver)
            topics.produce([received], key=receiver.encode())
            eventually(lambda: len(topics.ledger()) == 2)
    [flow] = topics.flows()
    assert (flow.source.kind, flow.source.k8s.node.name) == ("node", POSTGRES.node)  # type: ignore[union-attr]
    senders = [entry.senders for entry in topics.ledger().values() if entry.node == receiver]
    assert senders == [{POSTGRES.node: Amount(1000, 10, 1)}]


def test_the_history_names_a_pod_that_went_before_the_enricher_came(topics: Topics, tmp_path: Path) -> None:
    gone = pod("gone", POSTGRES.address_v4, POSTGRES.node, from_ms=1000, to_ms=2_000_000_000_000)
    topics.produce_topology([gone])
    with api_at(tmp_path) as api:
        api.start()
        with running([*topics.flags, "--kubeconfig", str(api.kubeconfig)], tmp_path / "log") as enricher:
            eventually(enricher.ready)
            times = {"start_ms": 1_600_000_000_000, "end_ms": 1_600_000_010_000, "node": POSTGRES.node}
            topics.produce([window(1, POSTGRES.address_v4, **times)], key=POSTGRES.node.encode())
            eventually(lambda: len(topics.flows()) == 1)
    assert topics.flows()[0].source.k8s.pod.name == "gone"  # type: ignore[union-attr]
