# SPDX-License-Identifier: Apache-2.0
"""What `zonemeter report --by` sums up by: of a flow as it comes in, and as SQL over the archive. Pure.

A namespace, a workload and a zone show in the ends that a summary keeps anyway. What is finer than these is kept
beside them: a text for each end, "" where there is none.
"""

from typing import Literal, assert_never

from history.model.party import Party
from history.model.time_range import timestamp
from schemas.flow import FlowHead
from sinks.flowlog.columns import END_COLUMNS, FlatEnd

By = Literal["namespace", "workload", "pod", "node", "zone", "port", "service", "hour", "day"]
# These have two ends, and a flow is sent by one and received by the other; all else is of the flow.
OF_ENDS: tuple[By, ...] = ("namespace", "workload", "pod", "node", "zone")
OF_TIME: tuple[By, ...] = ("hour", "day")

Groups = tuple[str, str]
NO_GROUPS: Groups = ("", "")

_LONG_MS = {"hour": 3_600_000, "day": 86_400_000}
_AT = {name: place for place, name in enumerate(END_COLUMNS)}


def groups_of(by: By | None, flow: FlowHead, source: FlatEnd, destination: FlatEnd) -> Groups:
    """Return what a flow's two ends are summed up by, beside what `Party` says of them."""
    if by is None or by in ("namespace", "workload", "zone"):
        return NO_GROUPS
    if by == "pod":
        return _full(source, "pod"), _full(destination, "pod")
    if by == "node":
        return _text(source, "node"), _text(destination, "node")
    if by == "port":
        found = _text(destination, "port") or _text(source, "port")
    elif by == "service":
        found = _full(destination, "service") or _full(source, "service")
    else:
        found = str(flow.start_ms // _LONG_MS[by])
    return found, found


def groups_sql(by: By | None) -> Groups:
    """Return the same as two expressions over the flow log's columns."""
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


def _text(end: FlatEnd, name: str) -> str:
    value = end.values[_AT[name]]
    return "" if value is None else str(value)


def _full(end: FlatEnd, name: str) -> str:
    namespace, value = _text(end, "namespace"), _text(end, name)
    return f"{namespace}/{value}" if namespace and value else ""
