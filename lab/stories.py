# SPDX-License-Identifier: Apache-2.0
"""The clusters the lab can be: data only.

`shop` is small, with some of everything: the tests' and `zonemeter lab up`'s. `found` is the case that the demo
tells: a database's replicas that are read across zones, since their Service looks at none, and a monitoring stack that
exists twice. All else of it is as it should be, so advice has two things to say. `mended` is the same after both
changes.
"""

from dataclasses import replace

from lab.plan import Node, Outside, Plan, Service, Stream, Workload

REGION = "lab-1"


def shop(prefix: str = "zm", fabric: int = 50) -> Plan:
    """Return a shop in three zones: its database in one of them, a managed database, and clients of the internet."""
    return Plan(
        story="shop",
        prefix=prefix,
        fabric=fabric,
        cluster="lab",
        nodes=tuple(
            Node(name, number, f"{REGION}{name[-2]}", REGION, f"192.168.{fabric}.{number}", f"fd50::{number}")
            for number, name in enumerate(_NODES, start=1)
        ),
        workloads=_WORKLOADS,
        services=_SERVICES,
        outsides=_OUTSIDES,
        streams=_STREAMS,
    )


def found(prefix: str = "zm", fabric: int = 50) -> Plan:
    """Return the shop as it was found, paying for two mistakes."""
    return replace(
        shop(prefix, fabric),
        story="found",
        workloads=_FOUND_WORKLOADS,
        services=_FOUND_SERVICES,
        streams=(*_FOUND_STREAMS, *(stream for stack in _STACKS for stream in _scrapes(stack.key))),
    )


def mended(prefix: str = "zm", fabric: int = 50) -> Plan:
    """Return the shop after both changes."""
    plan = found(prefix, fabric).without({_STACKS[-1].key})
    return replace(
        plan, story="mended", services=tuple(replace(service, prefer_close=True) for service in plan.services)
    )


def make(story: str, prefix: str, fabric: int) -> Plan:
    """Return a story by its name; raises `KeyError` for one that is not told here."""
    return {"shop": shop, "found": found, "mended": mended}[story](prefix, fabric)


_NODES = ("node-a1", "node-a2", "node-b1", "node-c1")
_EXPORTER = Workload("monitoring", "DaemonSet", "node-exporter", _NODES, (9100,), host_network=True)

# What the shop has in each story.
_SHOP = (
    Workload("shop", "Deployment", "web", ("node-a1", "node-b1", "node-c1"), (8080,)),
    Workload("shop", "Deployment", "api", ("node-a2", "node-b1", "node-c1"), (8080,)),
    Workload("shop", "Deployment", "cart", ("node-b1", "node-c1"), (8080,)),
    Workload("shop", "StatefulSet", "postgres", ("node-a1",), (5432,)),
)

_WORKLOADS = (
    *_SHOP,
    Workload("shop", "Deployment", "worker", ("node-a1", "node-b1"), (8080,)),
    Workload("monitoring", "StatefulSet", "prometheus", ("node-a2",), (9090,)),
    _EXPORTER,
)

_SERVICES = (
    Service("shop", "api", "shop/api", "10.96.0.10", "fd96::10", 80, 8080),
    Service("shop", "postgres", "shop/postgres", "10.96.0.11", "fd96::11", 5432, 5432),
    Service("shop", "cart", "shop/cart", "10.96.0.12", "fd96::12", 80, 8080, "udp"),
)

# The internet's addresses are globally routable by the IANA registries, and exist in its namespace only.
_OUTSIDES = (
    Outside("orders-db", "192.168.60.10", "fd60::10", "192.168.60.0/24", "fd60::/64", (3306,), f"{REGION}b"),
    Outside("internet", "11.0.0.10", "2c0f:ff00::10", "11.0.0.0/24", "2c0f:ff00::/64", (443,), None),
)

_STREAMS = (
    Stream("shop/web", "service:shop/api", 80, 400, 12_000, 20),
    Stream("shop/web", "shop/api", 8080, 400, 6_000, 10, family=6),
    Stream("shop/web", "shop/cart", 8080, 300, 4_000, 15),
    Stream("shop/web", "service:shop/cart", 80, 600, 600, 20, protocol="udp"),
    Stream("shop/api", "service:shop/postgres", 5432, 500, 40_000, 12),
    Stream("shop/api", "shop/worker", 8080, 2_000, 500, 10, protocol="udp", family=6),
    Stream("shop/worker", "outside:orders-db", 3306, 800, 30_000, 10),
    Stream("shop/worker", "outside:internet", 443, 1_000, 8_000, 5),
    Stream("shop/worker", "outside:internet", 443, 1_000, 8_000, 2, family=6),
    Stream("monitoring/prometheus", "shop/web", 8080, 300, 30_000, 1),
    Stream("monitoring/prometheus", "shop/api", 8080, 300, 30_000, 1),
    Stream("monitoring/prometheus", "monitoring/node-exporter", 9100, 300, 60_000, 1),
)

# The second stack comes last, so nobody's address changes when it goes.
_STACKS = (
    Workload("monitoring", "StatefulSet", "prometheus-a", ("node-a2",), (9090,)),
    Workload("monitoring", "StatefulSet", "prometheus-b", ("node-b1",), (9090,)),
)

_FOUND_WORKLOADS = (
    *_SHOP,
    Workload("shop", "StatefulSet", "postgres-replica", ("node-a2", "node-b1", "node-c1"), (5432,)),
    Workload("shop", "Deployment", "worker", ("node-b1",), (8080,)),  # in the zone of the managed database
    _EXPORTER,
    *_STACKS,
)

_FOUND_SERVICES = (
    *(replace(service, prefer_close=True) for service in _SERVICES),
    Service("shop", "postgres-read", "shop/postgres-replica", "10.96.0.13", "fd96::13", 5432, 5432),
)

_FOUND_STREAMS = (
    Stream("shop/web", "service:shop/api", 80, 2_000, 30_000, 20),
    Stream("shop/web", "shop/api", 8080, 2_000, 30_000, 5, family=6),
    Stream("shop/web", "service:shop/cart", 80, 600, 600, 20, protocol="udp"),
    Stream("shop/web", "shop/cart", 8080, 300, 25_000, 10),
    Stream("shop/api", "service:shop/postgres", 5432, 8_000, 500, 5),  # writes: always to the primary
    Stream("shop/api", "service:shop/postgres-read", 5432, 500, 200_000, 10),
    Stream("shop/postgres", "shop/postgres-replica", 5432, 30_000, 100, 3),  # replication
    Stream("shop/worker", "outside:orders-db", 3306, 800, 120_000, 6),
    Stream("shop/worker", "outside:internet", 443, 1_000, 20_000, 5),
    Stream("shop/worker", "outside:internet", 443, 1_000, 20_000, 2, family=6),
)


def _scrapes(stack: str) -> tuple[Stream, ...]:
    shop = (("shop/web", 8080), ("shop/api", 8080), ("shop/cart", 8080))
    return (
        *(Stream(stack, target, port, 300, 150_000, 2) for target, port in shop),
        Stream(stack, "monitoring/node-exporter", 9100, 300, 250_000, 2),
    )
