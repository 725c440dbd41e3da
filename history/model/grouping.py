# SPDX-License-Identifier: Apache-2.0
"""What `zonemeter report --by` sums up by, as SQL over the flow log's columns. Pure.

A namespace, a workload and a zone show in the ends that a summary keeps anyway. What is finer than these is kept
beside them: a text for each end, "" where there is none.
"""

from typing import Literal, assert_never

from history.model.party import Party
from history.model.time_range import timestamp

By = Literal["namespace", "workload", "pod", "node", "zone", "port", "service", "hour", "day"]
# These have two ends, and a flow is sent by one and received by the other; all else is of the flow.
OF_ENDS: tuple[By, ...] = ("namespace", "workload", "pod", "node", "zone")
OF_TIME: tuple[By, ...] = ("hour", "day")

Groups = tuple[str, str]

_LONG_MS = {"hour": 3_600_000, "day": 86_400_000}


def groups_sql(by: By | None) -> Groups:
    """Return what a flow's two ends are summed up by beside what `Party` says of them, as expressions."""
    if by is None or by in ("namespace", "workload", "zone"):
        return "''", "''"
    if by == "pod":
        return f"coalesce({_FULL_SQL.format('src', 'pod')}, '')", f"coalesce({_FULL_SQL.format('dst', 'pod')}, '')"
    if by == "node":
        return "coalesce(src_node, '')", "coalesce(dst_node, '')"
    if by == "port":
        found = "coalesce(dst_port, src_port)::VARCHAR"
    elif by == "service":
        found = f"coalesce({_FULL_SQL.format('dst', 'service')}, {_FULL_SQL.format('src', 'service')})"
    else:
        found = f"(epoch_ms(window_start) // {_LONG_MS[by]})::VARCHAR"
    return f"coalesce({found}, '')", f"coalesce({found}, '')"


_FULL_SQL = "{0}_namespace || '/' || {0}_{1}"


def title_of(by: By, group: str, end: Party) -> str:
    """Return what a report calls the sum that this end goes into; in brackets what has no such thing."""
    if by == "workload":
        return end.label
    if by == "pod":
        return group or end.label
    if by == "namespace":
        return end.namespace or f"({end.kind})"
    if by == "node":
        return group or f"({end.kind})"
    if by == "zone":
        return end.zone or ("(external)" if end.kind == "external" else "(unknown)")
    if by == "port" or by == "service":
        return group or f"(no {by})"
    if by == "hour" or by == "day":
        return timestamp(int(group) * _LONG_MS[by])[: 16 if by == "hour" else 10]
    assert_never(by)
