# SPDX-License-Identifier: Apache-2.0
"""A page of the audit's metrics is of one check, whenever it is rendered."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest

from audit.books import Reconciler
from audit.metrics import AuditMetrics
from audit.rolling import Rolling
from tests.support.builders import END_MS, collector_entry


class Nodes(Mapping[str, set[str]]):
    """The nodes of one cluster; to ask of which, as is done between two gauges, has the page rendered."""

    def __init__(self, registry: CollectorRegistry, nodes: set[str]) -> None:
        self.registry = registry
        self.nodes = nodes
        self.pages: list[bytes] = []

    def __iter__(self) -> Iterator[str]:
        self.pages.append(generate_latest(self.registry))
        return iter(["lab"])

    def __getitem__(self, cluster: str) -> set[str]:
        return self.nodes

    def __len__(self) -> int:
        return 1


def test_a_page_that_is_rendered_while_the_gauges_are_set_is_the_one_before() -> None:
    registry = CollectorRegistry()
    metrics, rolling = AuditMetrics(registry), Rolling(3_600_000)
    rolling.move(END_MS + 60_000)
    books = Reconciler(rolling.sums_of, rolling.wants)
    pages = [generate_latest(registry)]
    for number in range(2):
        books.take(collector_entry(number, 100))
        asked = Nodes(registry, {f"node-{each}" for each in range(number + 5)})
        metrics.show(rolling.recent(books, END_MS + 60_000), books, asked)
        assert set(asked.pages) == {pages[-1]}
        pages.append(generate_latest(registry))
    shown = [b'zonemeter_audit_nodes{cluster="lab",state="in_cluster"} %d.0' % number for number in (5, 6)]
    assert [line in page for line in shown for page in pages] == [False, True, False, False, False, True]
