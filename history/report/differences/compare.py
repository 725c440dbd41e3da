# SPDX-License-Identifier: Apache-2.0
"""What makes two ranges differ, pair by pair, and what changed then at the ends of each pair. Pure.

More of a pair crosses zones because more is sent, or because more of what is sent crosses zones: the two add up to the
difference. Beside it stand changes of the topology that concern one of the pair's ends and fit: those that can be. That
they are the cause is not said, because nobody knows.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from common.amounts import per_hour
from history.model.states.events import Event, known_events
from history.model.states.ready import Group, services_of
from history.model.summary import IN_REGION
from history.model.time_range import TimeRange
from history.report.data import Difference, Differences, PairLine, Range, Report, pair_of
from schemas.topology import TopologyState

# What changes where pods are or which of them is chosen, and what changes what is sent.
_PLACES = ("moved", "scaled", "new", "gone", "policy")
_SENDS = ("new", "gone", "scaled", "rollout")


@dataclass(slots=True)
class _Sent:
    """What a pair sends within the region in both ranges, across zones or not, and whose pods its ends are."""

    now: int = 0
    before: int = 0
    ends: set[Group] = field(default_factory=set)


def differences(report: Report, before: Range, states: Sequence[TopologyState], note: str = "") -> Differences:
    """Return the pairs that differ most between the report's range and the one before, by bytes an hour across zones.

    `states`: of the topology, none where it is not known; `note` says why then.
    """
    sent = _sent(report.now, before)
    changed, forgotten = known_events(states, TimeRange(before.span.from_ms, report.now.span.to_ms))
    of_subject: defaultdict[Group, list[Event]] = defaultdict(list)
    for event in changed:
        of_subject[event.subject].append(event)
    services = services_of(states)
    found = [_difference(pair, sent[pair.source, pair.destination], report, before) for pair in report.pairs()]
    found = [each for each in found if each.change]
    found.sort(key=lambda each: (-abs(each.change), each.source, each.destination))
    shown = []
    for each in found[: report.top]:
        ends = sent[each.source, each.destination].ends
        subjects = ends.union(*(services[end] for end in ends))
        fitting = _fitting(each, [event for subject in subjects for event in of_subject[subject]])
        shown.append(each._replace(changed=fitting))
    return Differences(shown, len(found) - len(shown), note or forgotten)


def _sent(now: Range, before: Range) -> defaultdict[tuple[str, str], _Sent]:
    sums: defaultdict[tuple[str, str], _Sent] = defaultdict(_Sent)
    for part in (now, before):
        for traffic, size in part.summary.traffic.items():
            if traffic.scope in IN_REGION:
                sums_of = sums[pair_of(traffic)]
                sums_of.now += size if part is now else 0
                sums_of.before += size if part is before else 0
                ends = (traffic.source, traffic.destination)
                sums_of.ends.update(group for end in ends if (group := end.workload))
    return sums


def _difference(pair: PairLine, sent: _Sent, report: Report, before: Range) -> Difference:
    now_ms, before_ms = report.summary.metered_ms, before.summary.metered_ms
    rates = per_hour(pair.bytes, now_ms), per_hour(pair.before, before_ms)
    change = rates[0] - rates[1]
    if "scope" in report.filters:
        return Difference(pair.source, pair.destination, *rates, None, None, [])
    by_zones = 0
    if sent.now and sent.before:
        # At the volume of now: the part that crosses, less what would cross with the part of before.
        by_zones = rates[0] - round(per_hour(sent.now, now_ms) * pair.before / sent.before)
    return Difference(pair.source, pair.destination, *rates, change - by_zones, by_zones, [])


def _fitting(difference: Difference, changed: Iterable[Event]) -> list[Event]:
    """Return the changes that can be, those that touch what differs first, of these the latest.

    An end that is new takes nothing from its own pairs, and one that is gone adds nothing to them.
    """
    impossible = "gone" if difference.change > 0 else "new"
    more_by_zones = abs(difference.by_zones or 0) >= abs(difference.by_volume or 0)
    likely = _PLACES if more_by_zones else _SENDS
    fitting = [each for each in changed if each.what != impossible]
    return sorted(fitting, key=lambda each: (each.what not in likely, -each.at_ms, each.subject, each.what))
