# SPDX-License-Identifier: Apache-2.0
"""docs/metrics.md says what the code exports: nothing missing, nothing stale, each with a query about it."""

import re

import pytest

from tests.docs.code_metrics import ROOT, code_metrics

PAGE = (ROOT / "docs/metrics.md").read_text()
ROW = re.compile(
    r"^\| `([a-z_]+)(?:\{([a-z_,]+)\})?` \| (counter|gauge|histogram) \| ([^|]+) \| ((?:[^|]|\\\|)+) \| `(.+?)`",
    re.MULTILINE,
)
DOCUMENTED = {
    name: (kind, tuple(labels.split(",")) if labels else (), unit, meaning, query)
    for name, labels, kind, unit, meaning, query in ROW.findall(PAGE)
}


def test_every_row_is_understood() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert len(rows) == len(DOCUMENTED)


def test_nothing_is_missing() -> None:
    missing = [metric for metric in code_metrics() if not any(metric.fits(name) for name in DOCUMENTED)]
    assert not missing, "add them to docs/metrics.md"


def test_nothing_is_stale() -> None:
    metrics = code_metrics()
    stale = [name for name in DOCUMENTED if not any(metric.fits(name) for metric in metrics)]
    assert not stale, "the code exports no such metric any more"


@pytest.mark.parametrize("name", DOCUMENTED)
def test_type_and_labels_are_the_codes(name: str) -> None:
    kind, labels, *_ = DOCUMENTED[name]
    for metric in code_metrics():
        if metric.fits(name):
            assert metric.kind == kind, metric.place
            assert metric.labels in (None, labels), metric.place


def test_a_query_asks_for_documented_metrics_only() -> None:
    for query in [query for *_, query in DOCUMENTED.values()]:
        asked = re.findall(r"\b((?:zonemeter|pod_cross|kubecost)_[a-z_]+)", query)
        assert asked
        for name in asked:
            assert re.sub(r"_(bucket|sum|count)$", "", name) in DOCUMENTED, query
