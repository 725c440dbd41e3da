# SPDX-License-Identifier: Apache-2.0
"""`zonemeter cidrs check FILE` and `zonemeter cidrs suggest`.

Exit status of check: 0 if every entry is sound and took something, 1 if one is not or did not, 2 for wrong use.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from common import clock, terminal
from common.entry_point import entry_point
from enricher.index.cidr_check import findings
from enricher.index.cidrs import load_cidr_map
from enricher.join.policy import policy_of
from history.cidrs import text
from history.cidrs.dry_run import dry_run, nodes_within, unmapped
from history.cidrs.text import Checked, Suggested
from history.model.time_range import Since, TimeRange
from history.range_settings import SpanSettings, Words
from history.read import interrupts
from history.read.rejoin import Joiner, JoinSettings, ReadTally, known_states, other_indexes, resolver_of
from schemas.topology import TopologyState

_DEFAULT_SINCE = "24h"


class CidrsSettings(SpanSettings, JoinSettings):
    """What both commands read."""

    since: Since | None = Field(
        None, description="how far back, such as 1h, or since when, such as yesterday (default: 24h)"
    )
    cluster: Words = Field([], description="only these clusters, comma-separated")


class CidrsCheckSettings(CidrsSettings):
    """Try a CIDR map on history: what each entry would take, what would become of unknown bytes, what looks wrong."""

    file: CliPositionalArg[Path] = Field(description="the map, TOML or JSON")
    current: Path | None = Field(None, description="the map in force, to compare with (default: no map)")
    output: Literal["table", "json"] = Field("table", description="how to print the answer")


class CidrsSuggestSettings(CidrsSettings):
    """List the networks that nobody names, /24 and /64, by bytes, with what is known about them."""

    cidr_map: Path | None = Field(None, description="the map in force: what it names is not listed")
    top: int = Field(20, ge=1, description="how many of the largest to list")
    output: Literal["table", "json", "csv", "toml"] = Field(
        "table", description="how to print the answer; toml: entries of a map, to be completed"
    )


@entry_point("cidrs check", CidrsCheckSettings)
def check(settings: CidrsCheckSettings) -> int:
    """Check a map; return the exit status."""
    checked = interrupts.run(_check(settings, _span(settings, "zonemeter cidrs check")))
    terminal.answer(settings.output, json=lambda: text.checked_dict(checked), table=lambda: text.checked_lines(checked))
    return 0 if checked.sound else 1


@entry_point("cidrs suggest", CidrsSuggestSettings)
def suggest(settings: CidrsSuggestSettings) -> int:
    """List what no entry names; return the exit status."""
    suggested = interrupts.run(_suggest(settings, _span(settings, "zonemeter cidrs suggest")))
    shown = suggested.networks[: settings.top]
    terminal.answer(
        settings.output,
        json=lambda: text.suggested_dicts(shown),
        csv=lambda: text.suggested_csv(shown),
        toml=lambda: text.suggested_toml(shown, suggested.span),
        table=lambda: text.suggested_lines(suggested, shown),
    )
    return 0


async def _check(settings: CidrsCheckSettings, span: TimeRange) -> Checked:
    taken = ReadTally()
    wanted, current = load_cidr_map(settings.file, "file"), load_cidr_map(settings.current, "current")
    states, others = await known_states(settings, settings.topology, taken), await other_indexes(settings, taken)
    policy = policy_of(settings.unmetered_nodes)
    before, after = (Joiner(resolver_of(states, cidrs, others), policy) for cidrs in (current, wanted))
    run = await dry_run(settings, span, settings.cluster, (before, after), taken)
    said = findings(wanted.entries, _nodes(states, span))
    return Checked(span, str(settings.file), wanted.entries, run, said, taken, settings.current is not None)


async def _suggest(settings: CidrsSuggestSettings, span: TimeRange) -> Suggested:
    taken = ReadTally()
    states, others = await known_states(settings, settings.topology, taken), await other_indexes(settings, taken)
    resolver = resolver_of(states, load_cidr_map(settings.cidr_map), others)
    joiner = Joiner(resolver, policy_of(settings.unmetered_nodes))
    read, found = await unmapped(settings, span, settings.cluster, joiner, taken)
    nodes = _nodes(states, span)
    networks = [(network, nodes_within(network.network, nodes)) for network in found]
    return Suggested(span, networks, read, taken, settings.cidr_map is not None)


def _span(settings: CidrsSettings, prog: str) -> TimeRange:
    return settings.span(prog, clock.now_ms(), _DEFAULT_SINCE)


def _nodes(states: Sequence[TopologyState], span: TimeRange) -> list[TopologyState]:
    """Return the nodes of a range, each as it was last."""
    last: dict[str, TopologyState] = {}
    for state in sorted(states, key=lambda state: state.from_ms):
        if state.kind == "node" and span.meets(state.from_ms, state.to_ms):
            last[state.name] = state
    return list(last.values())
