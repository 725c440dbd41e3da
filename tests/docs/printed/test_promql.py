# SPDX-License-Identifier: Apache-2.0
"""Every query that a document prints is one that Prometheus parses, about metrics and labels that there are.

What they answer is asked of a real Prometheus by tests/e2e.
"""

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.alerts.metric_names import grouped_by, is_exported, labels_of, labels_used, named
from tests.docs.printed.promql import Printed, printed_queries

QUERIES = printed_queries()


def test_prometheus_parses_them(tmp_path: Path) -> None:
    assert {query.place for query in QUERIES} >= {"metrics.md", "alerts.md", "operations.md"}
    rules = [{"record": f"printed:{number}", "expr": query.expression} for number, query in enumerate(QUERIES)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "printed", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.place} {query.expression}")
def test_they_name_metrics_and_labels_that_there_are(query: Printed) -> None:
    metrics = named(query.expression)
    assert [name for name in metrics if not is_exported(name)] == []
    for metric, labels in labels_used(query.expression).items():
        possible = labels_of(metric)
        assert possible is None or labels <= possible, metric
    known = [labels_of(metric) for metric in metrics]
    if None not in known:
        assert grouped_by(query.expression) <= {"le"}.union(*(labels or () for labels in known))
