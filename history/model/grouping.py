# SPDX-License-Identifier: Apache-2.0
"""What `zonemeter report --by` sums up by, as SQL over the flow log's columns. Pure.

A namespace, a workload and a zone show in the ends that a summary keeps anyway. What is finer than these is kept
beside them: a text for each end, "" where there is none. Of a showback (`--per`) the period is kept as well. A label
of namespaces is not in the flows: it is joined from the topology's history, as of the window
(history/model/states/labels.py).
"""

from datetime import UTC, datetime
from typing import Literal, NamedTuple, assert_never, cast, get_args

from common.input.kube_labels import label_name
from history.model.party import Party
from history.model.time_range import timestamp

By = Literal["namespace", "workload", "pod", "node", "zone", "port", "service", "cluster", "hour", "day", "label"]
# These have two ends, and a flow is sent by one and received by the other; all else is of the flow.
OF_ENDS: tuple[By, ...] = ("namespace", "workload", "pod", "node", "zone", "cluster", "label")
OF_TIME: tuple[By, ...] = ("hour", "day")
# What traffic can be billed on to, and for what periods: of the calendar, UTC.
OWNERS: tuple[By, ...] = ("namespace", "workload", "node", "label")
Per = Literal["hour", "day", "month"]

Groups = tuple[str, str]

_LONG_MS = {"hour": 3_600_000, "day": 86_400_000}


def parse_by(text: str) -> tuple[By, str]:
    """Return what to sum up by, and the label's name after `label:`; raise `ValueError` for anything else."""
    what, colon, label = text.partition(":")
    if what not in get_args(By) or bool(colon) != (what == "label"):
        *names, _ = get_args(By)
        raise ValueError(f"{text!r}: expected {', '.join(names)} or label:NAME")
    return cast(By, what), label_name(label) if colon else ""


def groups_sql(by: By | None) -> Groups:
    """Return what a flow's two ends are summed up by beside what `Party` says of them, as expressions."""
    if by is None or by in ("namespace", "workload", "zone"):
        return "''", "''"
    if by == "pod":
        return f"coalesce({_FULL_SQL.format('src', 'pod')}, '')", f"coalesce({_FULL_SQL.format('dst', 'pod')}, '')"
    if by == "node":
        return "coalesce(src_node, '')", "coalesce(dst_node, '')"
    if by == "label":
        return _LABEL_SQL.format("src"), _LABEL_SQL.format("dst")
    if by == "cluster":
        return _CLUSTER_SQL.format("src"), _CLUSTER_SQL.format("dst")
    if by == "port":
        found = "coalesce(dst_port, src_port)::VARCHAR"
    elif by == "service":
        found = f"coalesce({_FULL_SQL.format('dst', 'service')}, {_FULL_SQL.format('src', 'service')})"
    else:
        found = f"(epoch_ms(window_start) // {_LONG_MS[by]})::VARCHAR"
    return f"coalesce({found}, '')", f"coalesce({found}, '')"


def joins_sql(by: By | None, slot_ms: int) -> str:
    """Return what the flows are to be joined with: with `LABEL_TIMES`, whose columns are those of `SlotLabel`.

    `slot_ms`: how long a slot is in that table.
    """
    return "" if by != "label" else "".join(_LABEL_JOIN.format(side, slot_ms) for side in ("src", "dst"))


LABEL_TIMES = "label_times"
LABEL_COLUMNS = ("label_slot", "label_namespace", "label_from_ms", "label_to_ms", "label_value")
# A window is of the stretch that holds all of it, and there is one such stretch at most. By slot, because a row is set
# beside each stretch of its namespace: of a label that somebody changes all day there are thousands.
_LABEL_JOIN = f"""
    LEFT JOIN {LABEL_TIMES} {{0}}_label ON {{0}}_namespace = {{0}}_label.label_namespace
        AND {{0}}_label.label_slot = epoch_ms(window_start) // {{1}}
        AND {{0}}_label.label_from_ms <= epoch_ms(window_start) AND epoch_ms(window_end) <= {{0}}_label.label_to_ms
"""
# "=" and the value, or why there is none.
_LABEL_SQL = """CASE WHEN {0}_namespace IS NULL THEN '' WHEN {0}_label.label_namespace IS NULL THEN 'label not known'
    ELSE coalesce('=' || {0}_label.label_value, 'no label') END"""


# Of a pod and a Service the namespace says it, of a node its name (`told_apart` in schemas/flow.py): rollups have both.
_CLUSTER_SQL = """CASE WHEN {0}_kind NOT IN ('pod', 'service', 'node') THEN ''
    WHEN contains(CASE {0}_kind WHEN 'node' THEN {0}_node ELSE {0}_namespace END, '/')
    THEN split_part(CASE {0}_kind WHEN 'node' THEN {0}_node ELSE {0}_namespace END, '/', 1) ELSE cluster END"""


def period_sql(per: Per | None) -> str:
    """Return when the period of a flow begins, by its window's start, in Unix milliseconds; 0 without periods."""
    # Of a time without a zone: of one with a zone DuckDB would load an extension.
    start = "make_timestamp(epoch_ms(window_start) * 1000)"
    return "0" if per is None else f"epoch_ms(date_trunc('{per}', {start}))"


def period_end(per: Per, begin_ms: int) -> int:
    """Return when the period ends that begins then, in Unix milliseconds."""
    if per != "month":
        return begin_ms + _LONG_MS[per]
    begin = datetime.fromtimestamp(begin_ms / 1000, UTC)
    after = begin.replace(year=begin.year + begin.month // 12, month=begin.month % 12 + 1)
    return int(after.timestamp() * 1000)


def period_title(per: Per, begin_ms: int) -> str:
    """Return what people call a period: 2026-11, 2026-11-22 or 2026-11-22 21:00."""
    return timestamp(begin_ms)[: {"hour": 16, "day": 10, "month": 7}[per]]


class Owner(NamedTuple):
    """Who is to bear one side of traffic: `name`, or nobody, and then `why` says why not."""

    name: str
    why: str = ""


def owner_of(by: By, group: str, end: Party) -> Owner:
    """Return to whom an end's side is attributed, by one of `OWNERS`.

    A node, a network of the CIDR map, the internet and what is unknown belong to no namespace and no workload. Why
    not: the kind of the end; `no label`, `empty label` or `label not known`.
    """
    if by == "label" and group:
        return Owner(group[1:], "" if group[1:] else "empty label") if group[0] == "=" else Owner("", group)
    if by == "namespace":
        name = end.namespace
    elif by == "workload":
        name = end.label if end.kind == "pod" else ""
    else:
        name = group if by == "node" else ""
    return Owner(name) if name else Owner("", end.kind)


_FULL_SQL = "{0}_namespace || '/' || {0}_{1}"


def title_of(by: By, group: str, end: Party) -> str:
    """Return what a report calls the sum that this end goes into; in brackets what has no such thing."""
    if by == "workload":
        return end.label
    if by == "pod":
        return group or end.label
    if by == "namespace":
        return end.namespace or f"({end.kind})"
    if by == "node" or by == "cluster":
        return group or f"({end.kind})"
    if by == "label":
        owner = owner_of(by, group, end)
        return owner.name or f"({owner.why})"
    if by == "zone":
        return end.zone or ("(external)" if end.kind == "external" else "(unknown)")
    if by == "port" or by == "service":
        return group or f"(no {by})"
    if by == "hour" or by == "day":
        return timestamp(int(group) * _LONG_MS[by])[: 16 if by == "hour" else 10]
    assert_never(by)
