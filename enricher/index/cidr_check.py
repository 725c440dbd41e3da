# SPDX-License-Identifier: Apache-2.0
"""What of a CIDR map may not be meant, held against the cluster's nodes: said, never refused. Pure.

A file that cannot be read as a map at all is cidrs.py's business. Here everything is legal; a finding with `wrong` is
almost certainly a mistake (a zone that is one letter away from one that exists), the others are worth knowing.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from enricher.index.addresses import Prefix, pack, parse_prefix, shortened
from enricher.index.cidrs import Cidr
from schemas.topology import TopologyState

# How like a zone must be to one that exists to be taken for it misspelt.
_LIKE = 0.75


@dataclass(frozen=True, slots=True)
class CidrFinding:
    """One thing about one entry."""

    entry: Cidr
    text: str
    wrong: bool = False

    def __str__(self) -> str:
        return f"{self.entry.cidr} ({self.entry.name}): {self.text}"


def findings(entries: Sequence[Cidr], nodes: Iterable[TopologyState]) -> list[CidrFinding]:
    """Return the findings about a map, entry by entry; without nodes, only what the map itself shows."""
    known = list(nodes)
    parsed = [(entry, prefix) for entry in entries if (prefix := parse_prefix(entry.cidr)) is not None]
    by_prefix = {prefix: entry for entry, prefix in parsed}
    found: list[CidrFinding] = []
    for entry, prefix in parsed:
        if entry.external:
            continue  # a cloud publishes ten thousand, and none of them is near a node
        found += _place(entry, known)
        found += _overlap(entry, prefix, by_prefix)
        found += _shadow(entry, prefix, known)
    return found


def _place(entry: Cidr, nodes: Sequence[TopologyState]) -> Iterator[CidrFinding]:
    if entry.zone is None and entry.zone_id is None and not entry.ours:
        yield CidrFinding(entry, "no zone, so that its traffic stays unknown")
    of_zone = {node.zone: node for node in nodes if node.zone}
    of_id = {node.zone_id: node for node in nodes if node.zone_id}
    for name, value, known in (("zone", entry.zone, of_zone), ("zone_id", entry.zone_id, of_id)):
        if value is not None and known and value not in known:
            yield _unknown(entry, name, value, sorted(map(str, known)))
    node = of_zone.get(entry.zone or "")
    if entry.zone is None or node is None:
        return
    if entry.region is None and node.region:
        yield CidrFinding(entry, f"no region; the nodes of {entry.zone} say {node.region}")
    for name in ("region", "zone_id"):
        said, has = getattr(entry, name), getattr(node, name)
        if said is not None and has and said != has:
            yield CidrFinding(entry, f"{name} {said!r}, but the nodes of {entry.zone} say {has}", wrong=True)


def _unknown(entry: Cidr, name: str, value: str, known: list[str]) -> CidrFinding:
    near = difflib.get_close_matches(value, known, n=1, cutoff=_LIKE)
    if any(value[:-1] == other[:-1] for other in known):
        # A sister of a zone that exists: a database may be in a zone that no node is in.
        return CidrFinding(entry, f"no node is in {name} {value!r}; near it: {near[0]}")
    meant = f"did you mean {near[0]}?" if near else f"the nodes' are {', '.join(known)}"
    return CidrFinding(entry, f"no node is in {name} {value!r}; {meant}", wrong=True)


def _overlap(entry: Cidr, prefix: Prefix, by_prefix: dict[Prefix, Cidr]) -> Iterator[CidrFinding]:
    """Look for the longest other entry that holds this one."""
    for length in range(prefix.length - 1, -1, -1):
        wider = by_prefix.get(shortened(prefix, length))
        if wider is None:
            continue
        if _says(wider) == _says(entry):
            yield CidrFinding(entry, f"says the same as {wider.cidr}, which holds it: leave it out", wrong=True)
        else:
            yield CidrFinding(entry, f"is taken out of {wider.cidr} ({wider.name}, {_zone(wider)}) for {_zone(entry)}")
        return


def _shadow(entry: Cidr, prefix: Prefix, nodes: Sequence[TopologyState]) -> Iterator[CidrFinding]:
    for node in nodes:
        for text in node.pod_cidrs:
            pods = parse_prefix(text)
            if pods is not None and _holds(pods, prefix):
                yield CidrFinding(
                    entry, f"never applies: {node.name}'s podCIDR {text} holds it, and pods come first", True
                )
                return
    hosts = [node for node in nodes if any(_holds(prefix, _host(address)) for address in node.addresses)]
    zones = sorted({node.zone or "no zone" for node in hosts})
    if hosts and not entry.ours and (len(zones) > 1 or (entry.zone and zones != [entry.zone])):
        yield CidrFinding(entry, f"holds nodes of {', '.join(zones)} ({hosts[0].name}, ...); nodes come first")


def _host(address: str) -> Prefix:
    packed = pack(address) or bytes(4)
    return Prefix(8 * len(packed), 8 * len(packed), int.from_bytes(packed))


def _holds(wider: Prefix, other: Prefix) -> bool:
    return wider.bits == other.bits and wider.length <= other.length and shortened(other, wider.length) == wider


def _says(entry: Cidr) -> tuple[str | bool | None, ...]:
    return entry.name, entry.zone, entry.region, entry.zone_id, entry.ours


def _zone(entry: Cidr) -> str:
    return entry.zone or entry.zone_id or "no zone"
