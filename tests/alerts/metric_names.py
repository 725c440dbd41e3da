# SPDX-License-Identifier: Apache-2.0
"""The metrics that the code exports, with their labels; and those that a PromQL expression or a text names."""

import ast
import re
from functools import cache
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from collector.metrics import Metrics as CollectorMetrics
from enricher.index import Index
from enricher.metrics import Metrics as EnricherMetrics
from sinks.metrics import families
from sinks.metrics.exposition import Exposition
from sinks.self_metrics import SelfMetrics

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("cli", "collector", "common", "enricher", "replay", "sinks")
# In rules and dashboard already, in the code with the price files and the audit's own service.
ANNOUNCED = {"zonemeter_zone_cost_usd_total", "zonemeter_workload_cost_usd_total", "zonemeter_audit_ratio"}
# Prometheus's own.
FOREIGN = {"up"}
# What Prometheus adds to every series.
TARGET_LABELS = {"job", "instance", "pod", "namespace"}
_NAME = re.compile(r"\b(?:zonemeter_[a-z0-9_]+|pod_cross_zone_[a-z_]+)\b")
_EXPORTERS = ("Counter", "Gauge", "Histogram")


@cache
def exported() -> dict[str, set[str] | None]:
    """Return every metric's name as Prometheus sees it, with its labels (None: not known here)."""
    found: dict[str, set[str] | None] = {}
    for registry in _registries():
        for metric in list(registry._collector_to_names):
            names = registry._collector_to_names[metric]
            found |= {name: set(metric._labelnames) for name in names}  # type: ignore[attr-defined]
    specs = [each for each in vars(families).values() if isinstance(each, families.Spec)]
    found |= {spec.name: set(spec.labels) for spec in specs}
    for family in text_string_to_metric_families(Exposition([], 1).render(0).decode()):
        found |= {sample.name: set(sample.labels) for sample in family.samples}
    return dict.fromkeys(_literals() | ANNOUNCED) | found


def _registries() -> list[CollectorRegistry]:
    registries = [CollectorRegistry() for _ in range(4)]
    CollectorMetrics(registries[0], 1)
    EnricherMetrics(registries[1], Index())
    SelfMetrics(registries[2], "checkpoint")
    SelfMetrics(registries[3], "cut")
    return registries


def _literals() -> set[str]:
    """Return what stands as a first argument of a client library's class anywhere in the rooms."""
    found = set()
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _EXPORTERS:
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    found.add(f"{first.value}_total" if node.func.id == "Counter" else first.value)
    return found


def named(text: str) -> set[str]:
    """Return the metrics that an expression or a text names; a recording rule's name has a colon and is none."""
    return set(_NAME.findall(re.sub(r"\bzonemeter:[a-z0-9_:]+", "", text)))


def labels_used(expression: str) -> dict[str, set[str]]:
    """Return, for each metric, the labels that its selectors name."""
    found: dict[str, set[str]] = {}
    for name, selectors in re.findall(r"(\w+)\{([^}]*)\}", expression):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selectors))
    return found


def grouped_by(expression: str) -> set[str]:
    """Return the labels that an expression groups by."""
    lists = re.findall(r"\bby \(([^)]*)\)", expression)
    return {label.strip() for each in lists for label in each.split(",")}
