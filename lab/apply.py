# SPDX-License-Identifier: Apache-2.0
"""Applies manifests to a lab's plan, as `kubectl apply --server-side` would to a cluster: each names what it changes.

Pure. What the lab can change: a Service's trafficDistribution, and a workload that is scaled to none.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from lab.errors import LabError
from lab.plan import Plan

_CLOSE = ("PreferClose", "PreferSameZone")


def applied(plan: Plan, manifests: Iterable[dict[str, Any]]) -> Plan:
    """Return the plan with these changes; raises `LabError` for what it has not, or what the lab cannot change."""
    for manifest in manifests:
        kind, meta, spec = manifest["kind"], manifest["metadata"], manifest["spec"]
        key = f"{meta['namespace']}/{meta['name']}"
        if kind == "Service" and spec.keys() == {"trafficDistribution"} and spec["trafficDistribution"] in _CLOSE:
            plan = _close(plan, key)
        elif kind in ("Deployment", "StatefulSet") and spec == {"replicas": 0}:
            if not any((workload.kind, workload.key) == (kind, key) for workload in plan.workloads):
                raise LabError(f"{kind} {key}: the lab has none")
            plan = plan.without({key})
        else:
            raise LabError(f"{kind} {key}: the lab cannot apply {spec}")
    return plan


def _close(plan: Plan, key: str) -> Plan:
    try:
        found = plan.service(key)
    except KeyError:
        raise LabError(f"Service {key}: the lab has none") from None
    services = tuple(replace(each, prefer_close=True) if each is found else each for each in plan.services)
    return replace(plan, services=services)
