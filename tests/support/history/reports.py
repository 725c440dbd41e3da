# SPDX-License-Identifier: Apache-2.0
"""Reports of flows made by hand."""

from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from audit.entry import Coverage
from audit.result import Audit, Gap, HopTotal
from history.model.bill import price_summary
from history.model.party import MeterTraffic, Parties
from history.model.time_range import TimeRange
from history.report.data import Range, Report
from prices.book import PriceBook
from schemas.amount import Amount
from schemas.flow import SCOPES, Flow, Kubernetes, Named
from tests.support.history.rows import summed
from tests.support.sinks.flows import START_MS, flow, node, other, pod

GB = 10**9
DAY_MS = 86_400_000
KAFKA = ("10.0.9.9", 9092)
OWN = MeterTraffic("zonemeter", frozenset({KAFKA}))
# Flows of a quarter of an hour of a day, in the zones of one region.
WINDOW = {"start_ms": START_MS, "end_ms": START_MS + 900_000}


def report(flows: Iterable[Flow], book: PriceBook | None = None, **overrides: Any) -> Report:
    """Report flows of half an hour, or of `span`; `before`: those of the same time a week before."""
    span = overrides.pop("span", TimeRange(START_MS, START_MS + 1_800_000))
    ends = Parties(OWN.brokers)
    labels = overrides.pop("labels", ())
    before = overrides.pop("before", None)
    if before is not None:
        ago = span.earlier(7 * DAY_MS)
        earlier = summed(before, ends, overrides.get("by"), labels=labels)
        overrides["before"] = Range(ago, earlier, price_summary(earlier, book))
        overrides["compare"] = "7d"
    summary = summed(flows, ends, overrides.get("by"), span, overrides.get("per"), labels)
    fields: dict[str, Any] = {
        "now": Range(span, summary, price_summary(summary, book)),
        "sources": ["topic zonemeter.flows.enriched.v1"],
        "prices_why": "as asked",
        "own": OWN,
        "top": 3,
        "audit": audit(),
        "range_flags": "--since 30m",
    }
    return Report(**(fields | overrides))


def audit(**overrides: Any) -> Audit:
    """Return what the books say of it."""
    fields: dict[str, Any] = {
        "hops": {"collector": HopTotal(Amount(GB, 10, 1))},
        "windows": 90,
        "nodes_metered": {"node-a", "node-b"},
        "nodes_in_cluster": {"node-a", "node-b", "fargate-1"},
        "coverage": {"node-a": Coverage(99_999, 100_000, 500, 500), "node-b": Coverage(500, 500, 700, 500)},
        "gaps": [Gap("node-b", START_MS, START_MS + 27_000, "a new boot")],
    }
    return Audit(**(fields | overrides))


def a_day() -> list[Flow]:
    """Every kind of traffic once or twice."""
    api, web, db = pod("api", "eu-west-1a"), pod("web", "eu-west-1b"), pod("postgres", "eu-west-1a")
    meter = pod("enricher", "eu-west-1b", k8s=Kubernetes(namespace=Named("zonemeter"), pod=Named("enricher-0")))
    kafka = pod("kafka", "eu-west-1b", address=KAFKA[0], port=KAFKA[1])
    rds = other("cidr", "eu-west-1b", name="orders-db", address="10.60.0.7")
    rows: list[dict[str, Any]] = [
        {"source": db, "destination": web, "bytes": 640 * GB},
        {"source": db, "destination": pod("web", "eu-west-1c"), "bytes": 310 * GB},
        {"source": rds, "destination": api, "bytes": 200 * GB, "direction": "ingress"},
        {"source": web, "destination": api, "bytes": 90 * GB},
        {"source": pod("cart", "eu-west-1c"), "destination": api, "bytes": 40 * GB},
        {"source": node("node-a", "eu-west-1a"), "destination": web, "bytes": 5 * GB},
        {"source": node("node-a2", "eu-west-1a"), "destination": web, "bytes": 5 * GB},
        {"source": node("node-a", "eu-west-1a"), "destination": kafka, "bytes": 2 * GB},
        {"source": meter, "destination": api, "bytes": GB},
        {"source": api, "destination": db, "bytes": 1_100 * GB, "scope": "same_zone"},
        {"source": api, "destination": db, "bytes": 300 * GB, "scope": "same_node"},
        {"source": web, "destination": other("external"), "bytes": 61 * GB, "scope": "external"},
        {"source": web, "destination": pod("far", "us-east-1a"), "bytes": 2 * GB, "scope": "cross_region"},
        {
            "source": web,
            "destination": other("unknown", None, reason="vpc_unmapped"),
            "bytes": 3 * GB,
            "scope": "unknown",
        },
        {"source": pod("x", None, reason="zone_missing"), "destination": web, "bytes": 123_456_789, "scope": "unknown"},
        {"source": node("n", None), "destination": node("m", None), "bytes": 99 * GB, "encapsulation": "vxlan"},
    ]
    return [flow(**WINDOW, **row) for row in rows]


ENDS = st.sampled_from(
    [
        *(pod(name, zone) for name in ("api", "web") for zone in ("a", "b", "c", None)),
        node("node-a", "a"),
        other("external"),
        other("cidr", "b", name="orders-db"),
        other("unknown", None, reason="vpc_unmapped"),
    ]
)
FLOWS = st.lists(
    st.builds(
        lambda source, destination, scope, size, direction, outer: flow(
            source=source,
            destination=destination,
            scope=scope,
            bytes=size,
            direction=direction,
            **({"encapsulation": "vxlan"} if outer else {}),
        ),
        ENDS,
        ENDS,
        st.sampled_from(SCOPES),
        st.integers(0, 2**50),
        st.sampled_from(("egress", "ingress", "relay")),
        st.booleans(),
    ),
    max_size=30,
)
