# SPDX-License-Identifier: Apache-2.0
"""When the enricher says that it is ready, and that its own metrics say what happened."""

import time
from pathlib import Path

from lab.kube.objects import objects
from tests.support.enricher.api_process import AT, PLAN, POSTGRES, api_at
from tests.support.enricher.build import END, encoded, pod, row
from tests.support.enricher.processes import STATES, Enricher, running, topology_file
from tests.support.enricher.topics import Topics
from tests.support.services import eventually

_HISTORY = 3000
_RESOURCES = ("services", "nodes", "pods")


class Asked:
    """What /readyz answered, from the first answer on."""

    def __init__(self, enricher: Enricher) -> None:
        self._enricher = enricher
        self.statuses: list[int] = []

    def body(self) -> str:
        """Ask once more; nothing before it listens."""
        status, body = self._enricher.get("/readyz")
        if status:
            self.statuses.append(status)
        return body


def test_not_ready_from_the_first_moment_until_all_is_listed_and_the_history_read(
    topics: Topics, tmp_path: Path
) -> None:
    now = time.time_ns() // 1_000_000
    times = {"from_ms": now - 3_600_000, "to_ms": now - 60_000}
    topics.produce_topology(
        [pod(f"gone-{n}", f"10.99.{n // 250}.{n % 250}", POSTGRES.node, **times) for n in range(_HISTORY)]
    )
    with api_at(tmp_path) as api:
        api.start()
        api.begin_fault("503")
        flags = [*topics.flags, "--kubeconfig", str(api.kubeconfig)]
        with running(flags, tmp_path / "log") as enricher:
            asked = Asked(enricher)
            body = eventually(lambda: found if "503" in (found := asked.body()) else None)
            assert all(f"kube-{resource}: " in body for resource in _RESOURCES)
            assert [enricher.metric("kube_lists_total", resource) for resource in _RESOURCES] == [0, 0, 0]
            api.heal()
            eventually(lambda: asked.body() == "ok\n")
            assert set(asked.statuses[:-1]) == {503}
            # What is scraped within a second of another scrape is the same rendering.
            eventually(lambda: [enricher.metric("kube_lists_total", each) for each in _RESOURCES] == [1, 1, 1])
            assert enricher.metric("index_states") == _HISTORY + len(list(objects(PLAN, AT)))
            silences = [enricher.metric("kube_silence_seconds", resource) for resource in _RESOURCES]
            assert all(0 < silence < time.time() - now / 1000 for silence in silences)


def test_the_metrics_say_what_came_in_what_went_out_and_how_far_behind_it_is(topics: Topics, tmp_path: Path) -> None:
    pod_a, database, unmapped = "10.42.1.17", "10.42.2.9", "10.250.1.1"
    rows = [row(pod_a, database, bytes=1000), row(pod_a, database, dst_port=81, bytes=500)]
    rows += [row(pod_a, unmapped, bytes=70), row(database, pod_a, src_port=5432, direction=1, bytes=7)]
    topics.produce([encoded(rows, sequence=1)])
    topics.produce([encoded(rows[2:3], sequence=2)], partition=1)
    with running([*topics.flags, "--topology", str(topology_file(tmp_path))], tmp_path / "log") as enricher:
        eventually(lambda: len(topics.ledger()) == 2 and enricher.metric("chunks_total", "enriched") == 2)
        at_most = time.time() - END / 1000
        lags = [("zonemeter_enricher_lag_records", (partition,)) for partition in ("0", "1")]
        # The lag is looked at now and then, not with each chunk: it may still say what there was before.
        found = eventually(lambda: every if all((every := enricher.samples()).get(lag) == 0 for lag in lags) else None)

    def of(name: str, *labels: str) -> float:
        return found[f"zonemeter_enricher_{name}", labels]

    assert (of("raw_flows_total"), of("raw_bytes_total")) == (5, 1647)
    assert (of("flows_total", "cross_zone"), of("bytes_total", "cross_zone")) == (2, 1500)
    assert (of("flows_total", "unknown"), of("bytes_total", "unknown")) == (2, 140)
    assert of("unknown_bytes_total", "vpc_unmapped") == 140
    assert of("aside_bytes_total", "sender_in_cluster") == 7
    assert of("index_states") == len(STATES)
    # Two pods and two nodes with an address each, the nodes' names and their podCIDRs.
    assert of("index_slots") == 8
    for partition in ("0", "1"):
        # As of the moment it was taken in, which was since this test began and before the scrape.
        assert 0 < of("behind_seconds", partition) <= at_most
