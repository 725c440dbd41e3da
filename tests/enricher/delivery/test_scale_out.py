# SPDX-License-Identifier: Apache-2.0
"""Several enrichers: a restart of one leaves the others alone, one more takes its share, nothing is done twice."""

from dataclasses import replace
from pathlib import Path

from schemas.amount import NOTHING
from tests.enricher.delivery.test_delivery import produce_windows
from tests.support.enricher.api_process import POSTGRES, api_at
from tests.support.enricher.processes import running, topology_file
from tests.support.enricher.topics import Topics, given
from tests.support.services import eventually

ROWS = 300


def flags_of(topics: Topics, directory: Path, name: str) -> list[str]:
    return [*topics.flags, "--topology", str(topology_file(directory)), "--group-instance-id", name]


def taken_over(log: Path) -> int:
    return log.read_text().count("took over a partition")


def check_whole(topics: Topics, windows: int) -> None:
    flows = topics.flows()
    assert len({flow.id for flow in flows}) == len(flows) == 3 * windows * ROWS
    assert sum((record.given for record in topics.ledger().values()), NOTHING) == given(flows)


def test_a_static_member_comes_back_to_its_partitions_and_one_more_takes_its_share(
    topics: Topics, tmp_path: Path
) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    with running(flags_of(topics, tmp_path, "one"), first) as one:
        produce_windows(topics, range(1, 11))
        eventually(lambda: one.metric("chunks_total", "enriched") > 3)
        # One more joins in the middle of the work: what the first has under way it finishes, and is ready all along.
        with running(flags_of(topics, tmp_path, "two"), second) as two:
            eventually(lambda: taken_over(second) > 0)
            assert one.ready()
            produce_windows(topics, range(11, 21))
            eventually(lambda: len(topics.ledger()) == 60)
            assert two.metric("chunks_total", "enriched") > 0
            before = taken_over(first)
            assert two.terminate() == 0
        produce_windows(topics, range(21, 26))
        with running(flags_of(topics, tmp_path, "two"), second):
            eventually(lambda: len(topics.ledger()) == 75)
            assert taken_over(first) == before
            assert one.ready()
        assert one.terminate() == 0
    check_whole(topics, 25)


def test_whoever_has_the_first_partition_writes_the_topology(topics: Topics, tmp_path: Path) -> None:
    with api_at(tmp_path) as api:
        api.start()
        flags = [*topics.flags, "--kubeconfig", str(api.kubeconfig), "--session-seconds", "6"]
        with running([*flags, "--group-instance-id", "one"], tmp_path / "one") as one:
            eventually(lambda: one.metric("topology_writes_total") > 0)
            with running([*flags, "--group-instance-id", "two"], tmp_path / "two") as two:
                eventually(lambda: taken_over(tmp_path / "two") > 0)
                one.kill()
                api.put(replace(POSTGRES, name="postgres-9", address_v4="10.42.1.99", address_v6="fd42:1::99"))
                eventually(lambda: "postgres-9" in {state.name for state in topics.topology()})
                eventually(lambda: two.metric("topology_writes_total") > 0)
