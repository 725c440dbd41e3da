# SPDX-License-Identifier: Apache-2.0
"""OpenCost's own queries, evaluated by promtool over what the sink serves: they say what the flows came to."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from schemas.flow import Endpoint
from sinks.intake import Intake, Lane
from sinks.metrics.aggregate import Aggregate
from sinks.metrics.ends import Ends
from sinks.metrics.exposition import Exposition
from tests.support.sinks.flows import END_MS, EXTERNAL, encoded, flow, flow_id, node, other, pod, records

NAME = "kubecost_pod_network_egress_bytes_total"
GIB = 1024**3
# As opencost/opencost asks (pkg/costmodel/allocation.go of 2024, and its later form with a resolution), with no filter
# for a cluster and the name of the cluster's label that is the default.
QUERIES = {
    "zone": 'sum(increase(kubecost_pod_network_egress_bytes_total{internet="false", same_zone="false", '
    'same_region="true", }[1m])) by (pod_name, namespace, cluster_id) / 1024 / 1024 / 1024',
    "region": 'sum(increase(kubecost_pod_network_egress_bytes_total{internet="false", same_zone="false", '
    'same_region="false", }[1m])) by (pod_name, namespace, cluster_id) / 1024 / 1024 / 1024',
    "internet": 'sum(increase(kubecost_pod_network_egress_bytes_total{internet="true", }[1m])) by (pod_name, '
    "namespace, cluster_id) / 1024 / 1024 / 1024",
    "internet, later": 'sum(increase(kubecost_pod_network_egress_bytes_total{internet="true", }[1m:1m])) by (pod_name, '
    "namespace, uid, cluster_id) / 1024 / 1024 / 1024",
}
S3 = other("external", name="aws-s3")
FOLDED = other("external", address="203.0.113.0", name="203.0.113.0/24")
FAR = Endpoint(kind="pod", address="10.9.0.1", k8s=pod("far", "z").k8s, cloud=pod("far", "z").cloud)


class Served:
    """A sink's counters, and what it serves of them."""

    def __init__(self, most: int | None = 100) -> None:
        self.aggregate = Aggregate(100, None, opencost_max_series=most)
        self.shown = Exposition([each.spec for each in self.aggregate.families.values()], 30_000)
        self.intake, self.lane, self.rows = Intake(Ends().make), Lane(0), 0

    def after(self, *flows: dict[str, Any]) -> dict[str, int]:
        """Return the samples of OpenCost's metric, by their series, once these flows have been counted."""
        values = [encoded(flow(id=flow_id(1, self.rows + row), **fields)) for row, fields in enumerate(flows)]
        self.rows += len(values)
        self.aggregate.add(self.intake.take(self.lane, records(values), END_MS).rows, self.lane.books)
        self.shown.apply(self.aggregate.fold(END_MS).samples, [])
        lines = self.shown.render(END_MS).decode().splitlines()
        return {line.rpartition(" ")[0]: int(line.rpartition(" ")[2]) for line in lines if line.startswith(NAME)}


def sent(times: int) -> list[dict[str, Any]]:
    """Return flows of each kind that OpenCost asks for or does not, each of so many GiB times a number of its own."""
    size = times * GIB
    return [
        {"bytes": 1 * size},
        {"bytes": 2 * size, "source": pod("web", "a")},
        {"bytes": 4 * size, "scope": "cross_region", "destination": FAR},
        {"bytes": 8 * size, "scope": "external", "destination": EXTERNAL},
        {"bytes": 16 * size, "scope": "external", "destination": S3},
        {"bytes": 32 * size, "scope": "external", "destination": FOLDED},
        {"bytes": 64 * size, "scope": "same_zone", "destination": pod("web", "a")},
        {"bytes": 128 * size, "scope": "unknown", "destination": other("unknown", reason="late_index")},
        {"bytes": 256 * size, "source": node("node-a1", "a")},
        {"bytes": 512 * size, "source": other("cidr", "c", name="rds"), "direction": "ingress"},
        {"bytes": 1024 * size, "encapsulation": "vxlan"},
    ]


def test_opencosts_own_queries_say_what_was_sent(tmp_path: Path) -> None:
    served = Served()
    first, second = served.after(*sent(1)), served.after(*sent(2))
    assert first.keys() == second.keys()
    api, web = '{namespace="shop", pod_name="api-0"}', '{namespace="shop", pod_name="web-0"}'
    host = '{namespace="_node_", pod_name="node-a1"}'
    expected = {
        "zone": {api: 2.0, web: 4.0, host: 512.0},
        "region": {api: 8.0},
        "internet": {api: 112.0},
        "internet, later": {api: 112.0},
    }
    tests = [
        {
            "expr": query,
            "eval_time": "1m",
            "exp_samples": [{"labels": k, "value": v} for k, v in expected[name].items()],
        }
        for name, query in QUERIES.items()
    ]
    series = [{"series": labels, "values": f"{first[labels]} {second[labels]}"} for labels in first]
    path = tmp_path / "opencost.test.yml"
    path.write_text(json.dumps({"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}]}))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_name_on_the_internet_is_the_service_and_a_prefix_is_not() -> None:
    internet = [labels for labels in Served().after(*sent(1)) if 'internet="true"' in labels]
    assert {re.findall(r'service="(.*?)"', labels)[0] for labels in internet} == {"", "aws-s3"}


@pytest.mark.parametrize("most", [None, 1, 2])
def test_it_is_off_by_default_and_bounded(most: int | None) -> None:
    served = Served(most).after(*[{"source": pod(f"app-{number}", "a")} for number in range(4)])
    named = [labels for labels in served if "_other_" not in labels]
    assert len(named) == (most or 0)
    assert sum(served.values()) == (4000 if most else 0)
