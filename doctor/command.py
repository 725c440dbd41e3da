# SPDX-License-Identifier: Apache-2.0
"""`zonemeter doctor`: runs the node's and the pipeline's checks side by side and shows what they found."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from collector.settings import CollectorSettings, PinDir, TunnelPorts, parse_ports
from common import clock
from common.amounts import wrapped
from common.entry_point import entry_point
from common.input.durations import Duration, parse_duration
from common.input.sizes import Size
from common.settings import KafkaSettings
from common.terminal import say, write_json
from doctor.checks import Check, Finding, run_checks
from doctor.node import node_checks
from doctor.pipeline import Group, pipeline_checks
from enricher.settings import EnricherSettings
from history.model.time_range import TimeRange, timestamp
from sinks.flowlog.settings import FlowlogSettings
from sinks.metrics.settings import MetricsSettings

# Beyond a look's own deadline: what closing its clients may take.
_CLOSING_SECONDS = 6.0


class DoctorSettings(KafkaSettings):
    """Look at this node and at the pipeline; say what is wrong and what to do. Changes nothing."""

    node_only: bool = Field(False, description="only this node: kernel, rights, network, what is pinned")
    pipeline_only: bool = Field(False, description="only the pipeline: Kafka, topics, lag, ledger, dead letters")
    output: Literal["table", "json"] = Field("table", description="how to print the findings")
    kafka_deadline_seconds: float = Field(5.0, gt=0, le=300, description="time limit for each check of the pipeline")
    since: Duration = Field("10m", description="how far back ledger and dead letters are read, such as 10m or 1h")
    lag_seconds: float = Field(120.0, gt=0, description="a group that has not taken records older than this is behind")
    cut_seconds: float = Field(
        FlowlogSettings.model_fields["cut_seconds"].default, gt=0, description="as the flow log has it"
    )
    enricher_group: str | None = Field(None, description="the enricher's --group, if it was given one")
    metrics_group: str | None = Field(None, description="the metrics sink's --group, if it was given one")
    flowlog_group: str | None = Field(None, description="the flow log's --group, if it was given one")
    pin_dir: PinDir = Field(CollectorSettings.model_fields["pin_dir"].default, description="as the collector has it")
    spool_dir: Path = Field(CollectorSettings.model_fields["spool_dir"].default, description="as the collector has it")
    spool_size: Size = Field(
        CollectorSettings.model_fields["spool_size"].default, description="as the collector has it"
    )
    uplinks: str = Field("", description="as the collector has it; empty: found over rtnetlink")

    tunnel_ports: TunnelPorts = Field("", description="as the collector has it")
    load: Literal["start", "only", "never"] = Field(
        CollectorSettings.model_fields["load"].default, description="as the collector has it"
    )

    @model_validator(mode="after")
    def _something_to_look_at(self) -> Self:
        if self.node_only and self.pipeline_only:
            raise ValueError("--node-only and --pipeline-only leave nothing to look at; give one of them")
        return self

    def groups(self) -> list[Group]:
        """Return the consumer groups to look at."""
        enricher = EnricherSettings.model_construct(topic_prefix=self.topic_prefix, group=self.enricher_group)
        metrics = MetricsSettings.model_construct(topic_prefix=self.topic_prefix, group=self.metrics_group)
        flowlog = FlowlogSettings.model_construct(topic_prefix=self.topic_prefix, group=self.flowlog_group)
        return [
            Group(enricher.group_id, self.topics.raw, joins=True, optional=False),
            Group(metrics.group_id, self.topics.enriched, joins=False, optional=True),
            Group(flowlog.group_id, self.topics.enriched, joins=True, optional=True, holds_seconds=self.cut_seconds),
        ]


@entry_point("doctor", DoctorSettings)
def main(settings: DoctorSettings) -> int:
    """Run the command; return 1 if a fault was found."""
    now_ms = clock.now_ms()
    span = TimeRange(max(now_ms - parse_duration(settings.since), 0), now_ms)
    parts: dict[str, Sequence[Check]] = {}
    if not settings.pipeline_only:
        patterns = [pattern.strip() for pattern in settings.uplinks.split(",") if pattern.strip()]
        ports = parse_ports(settings.tunnel_ports)
        loads = settings.load != "never"
        place = settings.spool_dir, settings.spool_size
        parts["node"] = node_checks(settings.pin_dir, patterns, *place, ports, loads=loads)
    if not settings.node_only:
        parts["pipeline"] = pipeline_checks(settings, settings.groups(), span, settings.lag_seconds)
    found = _look(parts, settings.kafka_deadline_seconds + _CLOSING_SECONDS)
    if settings.output == "json":
        write_json(_as_dict(found, now_ms))
    else:
        _print(found, now_ms)
    return 1 if _count(found, "no") else 0


def _look(parts: dict[str, Sequence[Check]], deadline_seconds: float) -> dict[str, list[Finding]]:
    """Run all parts' checks at once."""
    tagged = [(part, check) for part, checks in parts.items() for check in checks]
    names = {check.name: part for part, check in tagged}
    found: dict[str, list[Finding]] = {part: [] for part in parts}
    for name, finding in run_checks([check for _, check in tagged], deadline_seconds):
        found[names[name]].append(finding)
    return found


def _count(found: dict[str, list[Finding]], status: str) -> int:
    return sum(finding.status == status for findings in found.values() for finding in findings)


def _print(found: dict[str, list[Finding]], now_ms: int) -> None:
    say(f"zonemeter doctor   {platform.node()}   {timestamp(now_ms)} UTC")
    for part, findings in found.items():
        say(part)
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            say(*_lines(finding, width))
    faults, unclear = _count(found, "no"), _count(found, "??")
    say(f"{faults} fault{'s' if faults != 1 else ''}, {unclear} that cannot be told from here")


def _lines(finding: Finding, width: int) -> list[str]:
    """Return a finding and what to do about it, as wide as the page where its words allow."""
    indent = " " * (width + 8)
    lines = wrapped(finding.found, f"  {finding.status}  {finding.check:<{width}}  ", indent)
    return lines + (wrapped(finding.todo, f"{indent}-> ", f"{indent}   ") if finding.todo else [])


def _as_dict(found: dict[str, list[Finding]], now_ms: int) -> dict[str, object]:
    return {
        "host": platform.node(),
        "time_ms": now_ms,
        "faults": _count(found, "no"),
        "unclear": _count(found, "??"),
        "findings": [
            {"part": part, "check": each.check, "status": each.status, "found": each.found, "todo": each.todo}
            for part, findings in found.items()
            for each in findings
        ],
    }
