# SPDX-License-Identifier: Apache-2.0
"""The metrics and labels that a PromQL expression or a text names, and whether the code has them."""

import re

from tests.docs.code_metrics import code_metrics

# What Prometheus adds to every series, or has itself.
TARGET_LABELS = {"job", "instance", "pod", "namespace"}
FOREIGN = {"up"}
# `zonemeter_workload_*` is several.
_NAME = re.compile(r"\b(?:zonemeter_[a-z0-9_]+|pod_cross_zone_[a-z_]+|kubecost_[a-z_]+)\b(?!\*)")


def named(text: str) -> set[str]:
    """Return the metrics that are named; a recording rule's name has a colon and is none."""
    return set(_NAME.findall(re.sub(r"\bzonemeter:[a-z0-9_:]+", "", text)))


def is_exported(name: str) -> bool:
    """Return whether the code exports it, or one of its parts if it is a histogram."""
    bare = re.sub(r"_(bucket|sum|count)$", "", name)
    return any(metric.fits(name) or metric.fits(bare) for metric in code_metrics())


def labels_of(name: str) -> set[str] | None:
    """Return the labels of a metric; None where the code's syntax does not tell."""
    found = [metric.labels for metric in code_metrics() if metric.fits(name)]
    if not found or None in found:
        return None
    return {label for labels in found for label in labels or ()} | TARGET_LABELS


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
