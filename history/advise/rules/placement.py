# SPDX-License-Identifier: Apache-2.0
"""Servers that are not where their clients are: zones without a replica, stores read across zones, Kafka. Pure."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from common.amounts import first_few, human
from history.advise.finding import Case, Finding, manifest
from history.advise.rules.balancing import KEEPS_LOCAL
from history.advise.service_use import last_zones
from history.model.evidence import Cell
from history.model.states.ready import Group, least, workload_of

# Of what reads much and writes little: the server sends so many times what it is sent.
READ_MOSTLY = 3
# Ports of databases and caches, as IANA and their manuals have them.
STORES = {
    1433: "SQL Server",
    1521: "Oracle",
    3306: "MySQL",
    5432: "PostgreSQL",
    5433: "YugabyteDB",
    6379: "Redis",
    8123: "ClickHouse",
    9000: "ClickHouse",
    9042: "Cassandra",
    9200: "Elasticsearch",
    11211: "memcached",
    27017: "MongoDB",
}
KAFKA = (9092, 9093, 9094)


def findings(case: Case) -> Iterator[Finding]:
    """Yield what is found of each Service and of each server."""
    for service in sorted(case.by_service):
        yield from _no_end_point(case, service)
    for (label, port), cells in sorted(case.by_server.items(), key=lambda item: item[0]):
        if port in KAFKA:
            yield from _kafka(case, label, port, cells)
        elif port in STORES:
            yield from _store(case, label, port, cells)


def _no_end_point(case: Case, service: Group) -> Iterator[Finding]:
    """Yield where a Deployment's Service is used from zones in which it has nothing ready."""
    routing, _ = case.routing(service)
    use = case.use(service)
    servers = [group for label in use.servers if (group := workload_of(label)) and group.kind == "Deployment"]
    zones = last_zones(case.ready.get(service, ()))
    # A zone that has got one since needs no change.
    lacked = {cell: size for cell, size in use.lacking.items() if cell.client.zone not in zones}
    if not lacked or len(servers) != len(use.servers) or not zones:
        return
    lacking: defaultdict[str, int] = defaultdict(int)
    for cell, size in lacked.items():
        lacking[cell.client.zone] += size
    each = ", ".join(f"{zone} ({human(size)})" for zone, size in sorted(lacking.items()))
    replicas = sum(zones.values())
    selector = case.selector(service)
    local = routing is not None and routing.traffic_distribution in KEEPS_LOCAL
    yield Finding(
        kind="no_end_point",
        title="used from zones that have no replica",
        subject=str(service),
        # Whether one replica is to become three, or the client is to move, is not for traffic to say.
        sure="likely" if replicas > 1 else "ask",
        fates={cell: case.kept(cell, size) for cell, size in lacked.items()},
        facts=[
            f"clients in zones without a ready end point: {each}",
            f"replicas: {', '.join(f'{zone} {count}' for zone, count in sorted(zones.items()))}",
        ],
        conditions=[
            "a node with room in each of these zones (ScheduleAnyway: where there is none, it is not kept)",
            *([] if local else ["the Service keeps traffic in its zone: trafficDistribution: PreferClose"]),
        ],
        costs=[f"a replica more in {len(lacking)} zone(s), and what the replicas exchange among themselves"],
        manifests=[_spread(server, selector) for server in sorted(servers)] if selector else [],
        steps=[
            f"at least {len(zones) + len(lacking)} replicas, so that each zone gets one",
            *([] if selector else ["topologySpreadConstraints by zone, with the workload's own labelSelector"]),
        ],
        ready=case.ready[service],
    )


def _store(case: Case, label: str, port: int, cells: Sequence[tuple[Cell, int]]) -> Iterator[Finding]:
    """Yield where a database is mostly read, and from zones in which it is not."""
    asked, answered = _both_ways(cells)
    if answered < READ_MOSTLY * asked:
        return
    group = workload_of(label)
    steps = case.ready.get(group, []) if group is not None else []
    now = last_zones(steps)
    remote: dict[Cell, int] = {}
    for cell, size in cells:
        away = cell.crosses and cell.client.label != label and cell.client.zone
        if not away or away in now or not case.holds(group, cell):
            continue
        if not least(steps, *case.evidence.slot_of(cell)).get(away):
            remote[cell] = size
    zones = {cell.client.zone for cell in remote}
    replication = asked * len(zones)
    read = {cell: size for cell, size in remote.items() if not cell.is_request}
    if sum(read.values()) <= replication:
        return
    yield Finding(
        kind="store_read_across",
        title=f"{STORES[port]} read from zones in which it has no replica",
        subject=f"{label}:{port}",
        sure="ask",
        # Writes go to where the primary is, whatever reads do.
        fates={cell: case.within(cell, size) for cell, size in read.items()},
        facts=[
            f"it sends {human(answered)} and is sent {human(asked)}: mostly read",
            f"readers without a replica in their zone: {', '.join(sorted(zones))}",
        ],
        conditions=["readers that can bear a replica's lag, and a driver that is told which replica is near"],
        costs=[
            f"replication of what is written: at most {human(replication)} over this range, "
            f"into {len(zones)} zone(s); the replicas' rent"
        ],
        steps=[
            "a read replica in each of these zones, and reads sent to the near one (a Service of the replicas with "
            "trafficDistribution: PreferClose; Valkey and Redis clients: AZ affinity)"
        ],
        ready=steps,
    )


def _kafka(case: Case, label: str, port: int, cells: Sequence[tuple[Cell, int]]) -> Iterator[Finding]:
    """Yield where consumers fetch from brokers in other zones though there are brokers in theirs."""
    asked, answered = _both_ways([(cell, size) for cell, size in cells if cell.client.label != label])
    group = workload_of(label)
    steps = case.ready.get(group, []) if group is not None else []
    if answered < 2 * asked or len(last_zones(steps)) < 2:
        return
    fetched = {
        cell: size
        for cell, size in cells
        if cell.crosses
        and not cell.is_request
        and cell.client.label != label
        and least(steps, *case.evidence.slot_of(cell)).get(cell.client.zone)
    }
    if not fetched:
        return
    yield Finding(
        kind="kafka_fetch",
        title="consumers fetch from brokers in other zones",
        subject=f"{label}:{port}",
        sure="likely",
        fates={cell: case.within(cell, size) for cell, size in fetched.items()},
        facts=[
            f"brokers send {human(answered)} and are sent {human(asked)}: most of it is fetched",
            f"consumers: {first_few(sorted({cell.client.label for cell in fetched}))}",
        ],
        conditions=[
            "a replica of each partition in each zone (broker.rack set, as many replicas as zones)",
            "Kafka 2.4 or later on both sides (KIP-392); Amazon MSK names racks by zone id (use1-az1)",
        ],
        costs=["consumers lag by the followers' replication; producers still send to leaders"],
        steps=[
            "brokers: replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector",
            "consumers: client.rack=<their zone>, from the node's label topology.kubernetes.io/zone",
        ],
        ready=steps,
    )


def _both_ways(cells: Sequence[tuple[Cell, int]]) -> tuple[int, int]:
    """Return what servers were asked and what they answered, in bytes."""
    asked = sum(size for cell, size in cells if cell.is_request)
    return asked, sum(size for _, size in cells) - asked


def _spread(workload: Group, selector: dict[str, str]) -> dict[str, object]:
    # The Service's selector: the pods that are to be spread are those that it sends to.
    constraint = {
        "topologyKey": "topology.kubernetes.io/zone",
        "maxSkew": 1,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector},
    }
    return manifest(workload, {"template": {"spec": {"topologySpreadConstraints": [constraint]}}})
