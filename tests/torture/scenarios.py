# SPDX-License-Identifier: Apache-2.0
"""Every scenario of `make torture`, and how often its nemesis strikes."""

from functools import partial

from tests.torture import kafka
from tests.torture.nemeses import archives, attacks, brokers, packets, processes, rubbish, stores
from tests.torture.scenario import Scenario

_WITH_AUDIT = {"enricher": 1, "metrics": 1, "flowlog": 1, "audit": 1}
_SMALL_DISKS = kafka.beside_small_disks

# On the lab, with real packets: the collector's.
PACKETS: dict[str, tuple[packets.Nemesis, int]] = {
    "kill -9 collector": (packets.kill_collector, 30),
    "SIGSTOP collector": (packets.pause_collector, 4),
    "pins removed under the collector": (packets.remove_pins, 10),
    "broker and collector kill -9, windows spooled": (packets.kill_kafka, 6),
    "disk full at spool, broker kill -9": (packets.fill_spool, 4),
}

SCENARIOS = [
    *(Scenario(f"kill -9 {room}", partial(processes.kill, room), 30) for room in ("enricher", "metrics", "flowlog")),
    *(Scenario(f"SIGSTOP {room}", partial(processes.pause, room), 4) for room in ("enricher", "metrics", "flowlog")),
    Scenario("SIGTERM of each", processes.restart, 5),
    Scenario("rebalances all the while, kill -9", processes.rebalance, 8),
    Scenario("metrics replicas 2 to 3 to 2", processes.rescale, 3),
    Scenario("broker kill -9", brokers.kill, 6),
    Scenario("of three brokers, the leader kill -9", brokers.kill_leader, 4, kafka=kafka.three),
    Scenario("of three brokers, two kill -9", brokers.kill_two, 3, kafka=kafka.three),
    Scenario("network delays, is silent, cuts", brokers.cut, 15, kafka=kafka.proxied),
    Scenario("SIGTERM while Kafka is silent", brokers.end_in_silence, 4, kafka=kafka.proxied),
    Scenario("rights withdrawn mid-run", brokers.withdraw, 6, kafka=kafka.guarded),
    Scenario("password and certificates rotated", brokers.rotate, 4, kafka=kafka.encrypted),
    Scenario("sessions and tokens that expire", brokers.expire, 4, kafka=kafka.with_tokens),
    Scenario("smaller messages allowed", brokers.smaller_messages, 4),
    Scenario("partitions added by hand", brokers.grown, 2),
    Scenario("topic deleted and recreated", brokers.made_anew, 4),
    Scenario("retention overtakes a reader", brokers.overtaken, 4),
    Scenario("broker's disk full", brokers.fill(brokers.data_directory), 3, kafka=kafka.on_a_small_disk),
    Scenario("metrics' disk full", brokers.fill(lambda world: world.directory / "state"), 4, kafka=_SMALL_DISKS),
    Scenario("flow log's disk full", brokers.fill(lambda world: world.output), 4, kafka=_SMALL_DISKS),
    Scenario("kill -9 compaction", archives.kill_compaction, 20),
    Scenario("object store fails, cuts, lags", stores.trouble, 14, kafka=kafka.beside_an_object_store),
    Scenario("rubbish of every kind in raw", rubbish.rubbish, 3),
    Scenario("batches that unpack to 40 MiB", rubbish.bombs, 20),
    Scenario("chunks of the longest names", attacks.long_names, 10),
    Scenario("connections that cost a service", attacks.hoard, 8),
    Scenario("clusters made up in the ledger", attacks.clusters, 4, counts=_WITH_AUDIT),
    Scenario("windows repeated and late", rubbish.repeats, 10),
    Scenario("windows behind later ones", rubbish.late, 6),
    Scenario("sequence gaps, new boots", rubbish.gaps, 10),
    Scenario("two boots of a node interleaved", rubbish.two_boots, 10),
    Scenario("numbers and ledger entries made up", rubbish.made_up, 6),
    Scenario("names and times made up", rubbish.names, 4),
    Scenario("clock steps on a node", rubbish.clocks, 8),
]
