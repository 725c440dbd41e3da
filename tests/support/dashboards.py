# SPDX-License-Identifier: Apache-2.0
"""The Grafana dashboards: what their panels ask, with the variables filled in as Grafana fills them.

Namespace and workload narrow the first dashboard to traffic that has such an end, either one. Series by pair of
workloads are thousands, those by pair of zones a few; so a query asks for the first only if something is chosen. It
tells by `all=~"$namespace$workload"`: no series has a label `all`, and *All* is `.*`, the only choice that matches the
empty string too. Of what was sent and what was received `or` takes a series that is both once.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

ROOT = Path(__file__).resolve().parents[2]
FILES = (ROOT / "k8s/monitoring/dashboard.json", ROOT / "k8s/monitoring/health.json")
DASHBOARDS: dict[str, dict[str, Any]] = {path.stem: orjson.loads(path.read_bytes()) for path in FILES}
# The label that no series has.
NO_LABEL = "all"
ALL = ".*"


@dataclass(frozen=True)
class Query:
    """One query of one panel. `instant`: Prometheus is asked for one moment, else for all of the time shown."""

    place: str
    expression: str
    instant: bool

    def filled(self, seconds: int, **chosen: str) -> str:
        """Put in the time shown and what is chosen; what is not, is All."""
        text = self.expression.replace("$__rate_interval", "1m").replace("$__range", f"{seconds}s")
        return re.sub(r"\$(cluster|namespace|workload)", lambda found: chosen.get(found[1], ALL), text)


def queries() -> Iterator[Query]:
    """Return those of all panels."""
    for name, dashboard in DASHBOARDS.items():
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                yield Query(f"{name}: {panel['title']} {target['refId']}", target["expr"], target["instant"])
