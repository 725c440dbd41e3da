# SPDX-License-Identifier: Apache-2.0
"""How the answers of `zonemeter cidrs` are shown: tables for people, JSON and CSV for programs, TOML to go on with."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common import page, terminal
from common.amounts import duration, first_few, fitted, human, labelled, shorten
from common.terminal import command
from enricher.index.addresses import Prefix
from enricher.index.cidr_check import CidrFinding
from enricher.index.cidrs import Cidr
from history.cidrs.dry_run import DryRun, Unmapped
from history.model.time_range import TimeRange
from history.read.rejoin import ReadTally
from schemas.amount import NOTHING
from schemas.flow import OUTER, SCOPES
from schemas.topology import TopologyState

_MOST_NAMED = 3
# What usually listens there. A hint, never an attribution.
_USUALLY = {
    "tcp/53": "DNS",
    "udp/53": "DNS",
    "tcp/443": "HTTPS",
    "tcp/1433": "SQL Server",
    "tcp/2049": "NFS",
    "tcp/3306": "MySQL",
    "tcp/5432": "PostgreSQL",
    "tcp/5439": "Redshift",
    "tcp/6379": "Redis",
    "tcp/9092": "Kafka",
    "tcp/9098": "MSK",
    "tcp/9200": "OpenSearch",
    "tcp/11211": "memcached",
    "tcp/27017": "MongoDB",
}


@dataclass(frozen=True)
class Checked:
    """A map tried on history. `against_current`: `run.before` is of the map in force, else of none."""

    span: TimeRange
    source: str
    entries: Sequence[Cidr]
    run: DryRun
    findings: Sequence[CidrFinding]
    taken: ReadTally
    against_current: bool

    @property
    def idle(self) -> list[Cidr]:
        """Entries that took nothing."""
        return [entry for entry in self.entries if entry.cidr not in self.run.by_rule and not entry.external]

    @property
    def sound(self) -> bool:
        """Whether nothing looks wrong and every entry took something."""
        return not self.idle and not any(finding.wrong for finding in self.findings)


@dataclass(frozen=True)
class Suggested:
    """Networks that no entry names, greatest first, each with the nodes in it. `with_map`: a map in force was given."""

    span: TimeRange
    networks: Sequence[tuple[Unmapped, Sequence[TopologyState]]]
    chunks: int
    taken: ReadTally
    with_map: bool


def checked_lines(checked: Checked) -> list[str]:
    """Return the answer of `check` for people."""
    run = checked.run
    lines = [*labelled("zonemeter cidrs check", [str(checked.span), shorten(checked.source, 24)], 24), ""]
    body: list[Sequence[str]] = [("network", "name", "zone", "bytes", "flows")]
    for entry in checked.entries:
        amount = run.by_rule.get(entry.cidr)
        took = (human(amount.bytes), f"{amount.rows:,}") if amount else ("took nothing", "")
        body.append((entry.cidr, entry.name, entry.zone or entry.zone_id or "-", *took))
    lines += [*fitted(body, "<<<>>", (1, 2)), ""] if checked.entries else ["the map has no entry", ""]
    body = [("scope", "with the map in force" if checked.against_current else "with no map", "with this one")]
    for scope in (*SCOPES, OUTER):
        before, after = run.before.get(scope, NOTHING).bytes, run.after.get(scope, NOTHING).bytes
        if before or after:
            body.append(("overlay's outer packets" if scope == OUTER else scope, human(before), human(after)))
    lines += fitted(body, "<>>") if run.chunks else [_nothing(checked.span, checked.taken)]
    return lines + [f"{'wrong' if finding.wrong else 'note'}   {finding}" for finding in checked.findings]


Networks = Sequence[tuple[Unmapped, Sequence[TopologyState]]]


def suggested_dicts(shown: Networks) -> list[dict[str, Any]]:
    """Return the answer of `suggest` as plain JSON types."""
    return [_network(*each) for each in shown]


def suggested_csv(shown: Networks) -> str:
    """Return it as CSV."""
    rows = (_network(*each).values() for each in shown)
    cells = ([terminal.cell(" ".join(map(str, v))) if isinstance(v, list) else v for v in row] for row in rows)
    return terminal.csv_text([_network(Unmapped(Prefix(32, 24, 0)), ()).keys(), *cells])


def suggested_toml(shown: Networks, span: TimeRange) -> list[str]:
    """Return it as lines of a map, to be completed."""
    return [line for each in shown for line in _toml(*each, span)]


def suggested_lines(suggested: Suggested, shown: Networks) -> list[str]:
    """Return it for people."""
    lines = [f"zonemeter cidrs suggest   {suggested.span}", ""]
    if not shown:
        # Nothing unknown, or nothing at all: both are an answer, and not the same.
        empty = _nothing(suggested.span, suggested.taken)
        lines.append("no private address is unknown" if suggested.chunks else empty)
    body: list[Sequence[str]] = [("network", "bytes", "sent", "received", "addresses")]
    for network, _ in shown:
        amounts = (human(amount) for amount in (network.bytes, network.sent, network.received))
        body.append((str(network.network), *amounts, str(len(network.addresses))))
    table = fitted(body, "<>>>>") if shown else []
    lines += table[:1]
    for line, (network, nodes) in zip(table[1:], shown, strict=True):
        lines += [line, *(f"    {shorten(fact, page.current().table - 4)}" for fact in _facts(network, nodes))]
    rest = suggested.networks[len(shown) :]
    if rest:
        lines.append(f"and {len(rest)} more, {human(sum(network.bytes for network, _ in rest))}")
    if shown:
        lines += [
            "",
            f"zones are for you to say: {command('cidrs suggest -o toml')} begins the file, cidrs check FILE tries it",
        ]
    if shown and not suggested.with_map:
        lines.append("no --cidr-map was given: what a map in force names is listed too")
    return lines


def _facts(network: Unmapped, nodes: Sequence[TopologyState]) -> list[str]:
    facts = []
    if network.serves:
        facts.append(f"serves {_ports(network.serves)}")
    if network.calls:
        facts.append(f"calls {_ports(network.calls)}")
    facts.append(f"with {first_few([name for name, _ in network.peers.most_common()], _MOST_NAMED)}")
    if nodes:
        zones = sorted({node.zone or "no zone" for node in nodes})
        facts.append(f"{len(nodes)} nodes have addresses in it: {nodes[0].name}, ... in {', '.join(zones)}")
    return facts


def _toml(network: Unmapped, nodes: Sequence[TopologyState], span: TimeRange) -> list[str]:
    text = str(network.network)
    zones = sorted({node.zone for node in nodes if node.zone})
    hint = zones[0] if len(zones) == 1 else ""
    comments = [f"{human(network.bytes)} in {duration(span.to_ms - span.from_ms)}", *_facts(network, nodes)]
    return [
        *(f"# {comment}" for comment in comments),
        "[[cidr]]",
        f'cidr = "{text}"',
        f'name = "{text.replace("/", "-")}"',
        f'# zone = "{hint}"',
        "",
    ]


def _ports(ports: Counter[str]) -> str:
    texts = [f"{port} ({_USUALLY[port]})" if port in _USUALLY else port for port, _ in ports.most_common()]
    return first_few(texts, _MOST_NAMED)


def _network(network: Unmapped, nodes: Sequence[TopologyState]) -> dict[str, Any]:
    return {
        "network": str(network.network),
        "bytes": network.bytes,
        "sent": network.sent,
        "received": network.received,
        "flows": network.flows,
        "addresses": sorted(network.addresses),
        "serves": [port for port, _ in network.serves.most_common()],
        "calls": [port for port, _ in network.calls.most_common()],
        "peers": [name for name, _ in network.peers.most_common()],
        "node_zones": sorted({node.zone for node in nodes if node.zone}),
    }


def checked_dict(checked: Checked) -> dict[str, Any]:
    """Return the answer of `check` as plain JSON types."""
    run = checked.run
    entries = []
    for entry in checked.entries:
        amount = run.by_rule.get(entry.cidr, NOTHING)
        said = [
            {"text": finding.text, "wrong": finding.wrong} for finding in checked.findings if finding.entry is entry
        ]
        named = {"cidr": entry.cidr, "name": entry.name, "zone": entry.zone, "zone_id": entry.zone_id}
        entries.append(named | {"bytes": amount.bytes, "flows": amount.rows, "findings": said})
    scopes = {
        scope: [run.before.get(scope, NOTHING).bytes, run.after.get(scope, NOTHING).bytes]
        for scope in SCOPES
        if scope in run.before or scope in run.after
    }
    outer = [sums.get(OUTER, NOTHING).bytes for sums in (run.before, run.after)]
    return {
        "sound": checked.sound,
        "entries": entries,
        "bytes_before_after": scopes,
        "overlay_outer_before_after": outer,
    }


def _nothing(span: TimeRange, taken: ReadTally) -> str:
    gone = " (the topic's oldest records are gone)" if taken.reading.cut_off else ""
    return f"no raw window in {span}{gone}; try a longer --since"
