# SPDX-License-Identifier: Apache-2.0
"""Reads what advice and changes are made of: a range's report and evidence, and the topology of its time."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import Refusal
from history.model.evidence import Evidence
from history.model.time_range import TimeRange
from history.range_settings import EvidenceSettings
from history.read.rejoin import ReadTally, known_states
from history.report.data import Report
from history.report.make import make_report
from schemas.topology import TopologyState

DEFAULT_SINCE = "7d"


@dataclass(frozen=True, repr=False)
class Gathered:
    """What was read."""

    report: Report
    evidence: Evidence
    states: Sequence[TopologyState]


async def gather(settings: EvidenceSettings, span: TimeRange, now_ms: int) -> Gathered:
    """Return what was read; raises `Nothing`, `Refusal`."""
    evidence = Evidence(span)
    report = await make_report(settings, [span], now_ms, since=DEFAULT_SINCE, evidence=evidence)
    clusters = sorted(report.summary.clusters)
    if len(clusters) > 1:
        raise Refusal(f"the range holds clusters {', '.join(clusters)}, and the topology is of one; say --cluster NAME")
    taken = ReadTally()
    states = await known_states(settings, settings.topology, taken)
    report.refused += taken.refused.total()
    return Gathered(report, evidence, states)
