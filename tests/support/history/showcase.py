# SPDX-License-Identifier: Apache-2.0
"""A week of a made-up shop, for the pictures of pages in docs/ and for the tests that look at them.

A day has its hours, a Sunday is quiet, nodes were away for a while, and in the middle of the week replicas moved.
"""

import math

from audit.entry import Coverage
from audit.result import Audit, Gap, HopTotal
from history.advise.advice import Advice
from history.model.bill import price_summary
from history.model.evidence import Cell
from history.model.party import MeterTraffic
from history.model.states.events import events
from history.page.bounds import Bounds
from history.report.data import Range, Report
from prices.file import shipped
from schemas.amount import Amount
from schemas.topology import Routing
from tests.support.history.scenario import BEGIN_MS, GB, HOUR_MS, Scenario

DAYS = 7
_AWAY = range(64, 66)
_NODES = [f"ip-10-0-{zone}-{number}" for zone in range(3) for number in range(11, 15)]


def week() -> tuple[Report, Advice]:
    """Return the report of the week and what is advised on it."""
    scenario = _scenario()
    summary, book = scenario.summary(), shipped("aws")
    summary.clusters = {"shop-eu"}
    summary.windows = {
        (BEGIN_MS + hour * HOUR_MS, BEGIN_MS + (hour + 1) * HOUR_MS) for hour in range(DAYS * 24) if hour not in _AWAY
    }
    summary.flows = 41_872_306
    report = Report(
        Range(scenario.evidence.span, summary, price_summary(summary, book)),
        ["archive s3://traffic/zonemeter"],
        "by the zones' names",
        MeterTraffic("zonemeter"),
        Bounds().rows,
        audit=_books(summary.bytes),
        range_flags="--since 7d",
        events=events(scenario.states, scenario.evidence.span),
    )
    return report, scenario.advice()


def _scenario() -> Scenario:
    made = Scenario(hours=DAYS * 24)
    half = BEGIN_MS + 74 * HOUR_MS
    run = made.workload
    run("shop/StatefulSet/postgres", {"a": 1})
    run("shop/Deployment/api", {"a": 2, "b": 2, "c": 2})
    run("shop/Deployment/web", {"a": 2, "b": 2, "c": 1})
    run("shop/Deployment/cart", {"a": 1, "b": 1}, to_ms=half)
    run("shop/Deployment/cart", {"a": 1, "b": 1, "c": 1}, from_ms=half)
    run("shop/Deployment/search", {"b": 2})
    run("monitoring/StatefulSet/prometheus-a", {"a": 1})
    run("monitoring/StatefulSet/prometheus-b", {"b": 1})
    run("data/Deployment/reports", {"c": 1}, from_ms=BEGIN_MS + 30 * HOUR_MS)
    run("kafka/StatefulSet/broker", dict.fromkeys("abc", 1))
    for name, label, port in (
        ("api", "shop/Deployment/api", 8080),
        ("cart", "shop/Deployment/cart", 8080),
        ("search", "shop/Deployment/search", 9200),
        ("postgres", "shop/StatefulSet/postgres", 5432),
    ):
        made.service(name, label, port, Routing())
    made.exchange("shop/Deployment/web", "api", 8080, 310 * GB, 2_900 * GB)
    made.exchange("shop/Deployment/api", "cart", 8080, 90 * GB, 640 * GB)
    made.exchange("shop/Deployment/api", "search", 9200, 60 * GB, 880 * GB)
    made.exchange("shop/Deployment/api", "postgres", 5432, 240 * GB, 3_400 * GB)
    targets = ("shop/Deployment/api", "shop/Deployment/web", "shop/Deployment/search")
    for server, at in (("monitoring/StatefulSet/prometheus-a", "a"), ("monitoring/StatefulSet/prometheus-b", "b")):
        for target in targets:
            for zone in made.places(target):
                made.say((server, at), (target, zone), 9100, 3 * GB, 95 * GB)
    for one, other in ("ab", "bc", "ca", "ba", "cb", "ac"):
        broker = "kafka/StatefulSet/broker"
        made.say((broker, one), (broker, other), 9092, 4 * GB, 150 * GB)
        made.say(("data/Deployment/reports", "c"), (broker, other), 9092, GB, 70 * GB, hours=range(30, 168))
    made.say(("shop/Deployment/api", "a"), ("cidr/orders-db", "b"), 5432, 35 * GB, 410 * GB)
    made.say(("shop/Deployment/web", "a"), ("external/cdn", ""), 443, 40 * GB, 60 * GB)
    made.unknown = 21 * GB
    cells = {cell: int(size * _busy(cell)) for cell, size in made.evidence.cells.items() if _hour(cell) not in _AWAY}
    made.evidence.cells.clear()
    made.evidence.cells.update(cells)
    return made


def _hour(cell: Cell) -> int:
    return (cell.at_ms - BEGIN_MS) // HOUR_MS


def _busy(cell: Cell) -> float:
    """Return how busy an hour is: nights have a third of the evening's, weekends seven tenths."""
    hour = _hour(cell)
    day = 0.65 - 0.4 * math.cos((hour % 24 - 4) * math.pi / 12)
    return day * (0.7 if hour // 24 in (5, 6) else 1.0) * (1.0 + 0.04 * math.sin(hour * 2.3))


def _books(seen: int) -> Audit:
    away = (BEGIN_MS + _AWAY.start * HOUR_MS, BEGIN_MS + _AWAY.stop * HOUR_MS)
    some = [Gap(node, BEGIN_MS + 110 * HOUR_MS, BEGIN_MS + 113 * HOUR_MS, "a new boot") for node in _NODES[:2]]
    return Audit(
        hops={"collector": HopTotal(Amount(seen, 10, 1))},
        windows=DAYS * 8640 * len(_NODES),
        nodes_metered={*_NODES},
        nodes_in_cluster={*_NODES, "fargate-ip-10-0-2-77"},
        coverage={node: Coverage(99_870, 100_000, 99_910, 100_000) for node in _NODES},
        gaps=[*(Gap(node, *away, "no window") for node in _NODES), *some],
    )
