# SPDX-License-Identifier: Apache-2.0
"""Joins one raw chunk with the index: a JSON value per flow, and the books of what was put aside. Pure.

The shape is what makes it fast: addresses are resolved once per chunk, an end point's JSON is made once per
(address, port), numpy groups the rows, and a flow is a concatenation of parts. No object exists per flow.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress

import numpy as np

from enricher.index.cidrs import Cidr, may_be_pods
from enricher.index.endpoints import Location, Resolved, Watcher, scope_of
from enricher.index.resolve import Resolver
from enricher.join.columns import EGRESS, INGRESS, RELAY, Columns, Ints, Mask, Rows
from enricher.join.flow_json import FlowsJson
from enricher.join.policy import DEFAULT, NodeNames, Policy
from enricher.join.rollup import roll_up
from enricher.join.serving import Sides
from enricher.join.values import Parts, Values
from schemas.amount import NOTHING, Amount
from schemas.flow import SCOPES, UNKNOWN_REASONS
from schemas.raw import RawChunk

_SAME_NODE, _SAME_ZONE = SCOPES.index("same_node"), SCOPES.index("same_zone")
_UNKNOWN = SCOPES.index("unknown")
_NO_ROWS = np.empty(0, np.intp)
# In place of the name of a node that is not known; no Kubernetes name holds it (RFC 1123).
NO_NODE = "?"


@dataclass(slots=True)
class ResolvedChunk:
    """A chunk's addresses resolved as of its window, in the chunk's order, and its observer."""

    addresses: list[Resolved]
    watcher: Watcher


# Of one chunk: each time its numbers go on beyond the rows (see `_write`).
MOST_RESUMED = 1000


@dataclass(slots=True)
class Out:
    """What of one chunk is out: the greatest number of its flows' ids, their rows, and what they come to."""

    last: int = -1
    amount: Amount = NOTHING
    rows: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, number: int, rows: Iterable[int], size: int, packets: int) -> None:
        """Take in one flow. One whose number is not greater than the last is another writer's repeat."""
        if number > self.last:
            self.last = number
            self.amount += Amount(size, packets, 1)
            self.rows.extend(rows)

    def fits(self, chunk: RawChunk) -> bool:
        """Return whether it is of this chunk: each row once at most, and what they come to.

        What others wrote in its name must not stand for what is not out.
        """
        columns = Columns(chunk)
        if not self.rows:
            return True
        if self.last >= MOST_RESUMED * columns.rows:
            return False
        rows = np.unique(np.array(self.rows) % columns.rows)
        found = columns.amount(rows)
        return len(rows) == len(self.rows) and (found.bytes, found.packets) == (self.amount.bytes, self.amount.packets)


@dataclass(slots=True)
class Joined:
    """What one chunk became.

    `values`: one JSON object per flow given out, and `numbers` the last parts of their ids, ascending. `taken` = what
    was out before + `given` + the sum of `aside`, in bytes and packets. `by_scope` and `by_reason` (why a zone is
    unknown) split what is given. `senders` splits aside's `sender_in_cluster` by the node that counts it; not so
    `sender_in_other_cluster`: of these nodes that cluster's own ledger tells. `unmetered` is what was given of senders
    on nodes without a collector. `late` is what was given with an end that is a pod the index does not know
    (`late_index`), whatever its scope. `rolled_up` are the rows that were summed up. `by_rule`: what was given that an
    entry of the CIDR map named an end of, by its network.
    `foreign_source` is what the chunk's node says it sent from addresses that are another node's, by that node.
    """

    values: FlowsJson
    numbers: list[int]
    taken: Amount
    given: Amount
    aside: dict[str, Amount]
    by_scope: dict[str, Amount]
    by_reason: dict[str, Amount]
    senders: dict[str, Amount]
    unmetered: dict[str, Amount]
    late: Amount
    rolled_up: Amount
    by_rule: dict[str, Amount]
    foreign_source: dict[str, Amount]


def resolve(chunk: RawChunk, resolver: Resolver) -> ResolvedChunk:
    """Resolve every address of a chunk as of its window.

    What the node says is its own is, and a sender from it is on it, known or not. One that came in as well, from
    elsewhere, within the same window, has moved: of it nothing more is said.
    """
    window = resolver.window(chunk.start_ms, chunk.end_ms)
    ends = [window.resolve(address) for address in chunk.addresses]
    for number in chunk.own:
        ends[number] = window.own(chunk.addresses[number], chunk.node)
    sources = _sources(chunk, EGRESS)
    if elsewhere := {number for number in sources if ends[number].node != chunk.node}:
        for number in elsewhere - _sources(chunk, INGRESS) - _sources(chunk, RELAY):
            ends[number] = window.sent_here(chunk.addresses[number], chunk.node)
    return ResolvedChunk(ends, window.watcher(chunk.node))


def late_sources(chunk: RawChunk, ends: ResolvedChunk) -> set[str]:
    """Return the senders on the observing node that may yet turn out to be pods.

    Where podCIDRs are known they are inside; where pods get addresses of the VPC (a cloud's own CNI), or public ones,
    they are anything that is not a node's, also what the CIDR map names: it may name the subnet that pods are in.
    """
    late = {
        number
        for number, end in enumerate(ends.addresses)
        if (end.kind == "cidr" or end.reason == "late_index") and end.node == chunk.node
    }
    found = (chunk.addresses[number] for number in late & _sources(chunk, EGRESS))
    return {address for address in found if may_be_pods(address)}


def _sources(chunk: RawChunk, direction: int) -> set[int]:
    return set(compress(chunk.src, map(direction.__eq__, chunk.direction)))


def join(
    chunk: RawChunk, ends: ResolvedChunk, partition: int, offset: int, out: Out | None = None, policy: Policy = DEFAULT
) -> Joined:
    """Return the chunk's flows; those in `out` went out before, and their rows are in `taken` only.

    `partition` and `offset` say where the raw chunk stands. Ingress counts only if its sender is not metered
    itself; a relayed flow takes the observer as its sending side.
    """
    columns = Columns(chunk)
    out = out or Out()
    new = _not_out(columns, out)
    ingress = new & (columns.direction == INGRESS)
    metered = ingress & _metered(ends, policy.unmetered)[columns.src]
    rows = np.flatnonzero(new & ~metered)
    scopes, reasons = _classify(columns, ends)
    of_rows = scopes[rows]
    unknown = rows[of_rows == _UNKNOWN]
    free = _within_a_zone(of_rows) if policy.detail == "workload" else np.zeros(len(rows), np.bool_)
    values, numbers = _write(chunk, columns, ends, (partition, offset), scopes, rows[~free], rows[free], out.last)
    given = columns.amount(rows)
    elsewhere = np.fromiter((end.is_elsewhere for end in ends.addresses), np.bool_, len(ends.addresses))[columns.src]
    aside = {
        "sender_in_cluster": np.flatnonzero(metered & ~elsewhere),
        "sender_in_other_cluster": np.flatnonzero(metered & elsewhere),
    }
    return Joined(
        values=values,
        numbers=numbers,
        taken=columns.amount(np.arange(columns.rows)),
        given=Amount(given.bytes, given.packets, len(values)),
        aside={reason: columns.amount(those) for reason, those in aside.items() if len(those)},
        by_scope=_split(columns, rows, of_rows, SCOPES),
        by_reason=_split(columns, unknown, reasons[unknown], UNKNOWN_REASONS),
        senders=_by_node(columns, ends, aside["sender_in_cluster"]),
        unmetered=_by_node(columns, ends, np.flatnonzero(ingress & ~metered & _in_cluster(ends)[columns.src])),
        late=_late(columns, ends, rows),
        rolled_up=columns.amount(rows[free]),
        by_rule=_by_rule(columns, ends, rows),
        foreign_source=_by_node(columns, ends, _foreign_rows(columns, ends, chunk.node)),
    )


def given_rows(columns: Columns, ends: ResolvedChunk, policy: Policy = DEFAULT) -> Rows:
    """Return the rows of a chunk that become flows: all but those from senders that are metered themselves."""
    return np.flatnonzero((columns.direction != INGRESS) | ~_metered(ends, policy.unmetered)[columns.src])


def _late(columns: Columns, ends: ResolvedChunk, rows: Rows) -> Amount:
    late = [number for number, end in enumerate(ends.addresses) if end.reason == "late_index"]
    if not late:
        return NOTHING
    either = np.isin(columns.src[rows], late) | np.isin(columns.dst[rows], late)
    return columns.amount(rows[either])


def _not_out(columns: Columns, out: Out) -> Mask:
    new = np.ones(columns.rows, np.bool_)
    if out.rows and columns.rows:
        # A number beyond the rows is that of a row which was written late (see `_write`).
        new[np.array(out.rows) % columns.rows] = False
    return new


def _in_cluster(ends: ResolvedChunk) -> Mask:
    return np.fromiter((end.in_cluster for end in ends.addresses), np.bool_, len(ends.addresses))


def _foreign_rows(columns: Columns, ends: ResolvedChunk, node: str) -> Rows:
    """Return the egress rows whose source is known to be on another node; a podCIDR alone does not say so."""
    foreign = np.fromiter((end.node not in (None, node) and not end.reason for end in ends.addresses), np.bool_)
    return np.flatnonzero((columns.direction == EGRESS) & foreign[columns.src]) if foreign.any() else _NO_ROWS


def _metered(ends: ResolvedChunk, unmetered: NodeNames) -> Mask:
    """Return of each address whether what it sends is counted at its own node."""
    metered = (end.in_cluster and end.node not in unmetered for end in ends.addresses)
    return np.fromiter(metered, np.bool_, len(ends.addresses))


def _within_a_zone(scopes: Ints) -> Mask:
    within: Mask = (scopes == _SAME_NODE) | (scopes == _SAME_ZONE)
    return within


def _write(
    chunk: RawChunk,
    columns: Columns,
    ends: ResolvedChunk,
    raw: tuple[int, int],
    scopes: Ints,
    single: Rows,
    free: Rows,
    last: int,
) -> tuple[FlowsJson, list[int]]:
    """Return the flows of rows that stay single and of those that are free of charge, and their ascending numbers.

    A single row's flow has its row's number. Where that would not come after `last` (before a crash the row was to
    be rolled up or put aside), and for sums, it is a multiple of the chunk's rows more, so that numbers ascend,
    none comes twice, and the row can be told from it.
    """
    sides = Sides(chunk, columns, ends.addresses)
    values, parts = Values(chunk, columns, sides, ends.watcher, raw), Parts(sides.ends)
    beyond = columns.rows * max(1, last // max(columns.rows, 1) + 1)
    late = single <= last
    numbers = np.concatenate([single[~late], single[late] + beyond])
    rows = np.concatenate([single[~late], single[late]])

    def of_rows(places: Ints) -> list[bytes]:
        return values.of_rows(rows[places], numbers[places], scopes[rows[places]], parts)

    if not len(free):
        return FlowsJson(of_rows, np.arange(len(rows))), numbers.tolist()
    groups = roll_up(free, sides, values, scopes)
    sums = beyond + np.array([each[-1] for each in groups.rows], np.int64)

    def of_both(places: Ints) -> list[bytes]:
        single = places < len(rows)
        ones = iter(of_rows(places[single]))
        wanted = places[~single] - len(rows)
        many = iter(values.of_groups(groups.picked(wanted), sums[wanted], scopes))
        return [next(ones if is_one else many) for is_one in single.tolist()]

    every = np.concatenate([numbers, sums])
    order = np.argsort(every)
    return FlowsJson(of_both, order), every[order].tolist()


def _split(columns: Columns, rows: Rows, codes: Ints, names: Sequence[str]) -> dict[str, Amount]:
    return {names[code]: columns.amount(rows[codes == code]) for code in np.unique(codes).tolist()}


def _by_rule(columns: Columns, ends: ResolvedChunk, rows: Rows) -> dict[str, Amount]:
    """Return what each entry of the CIDR map took; what one named both ends of counts once."""
    rules = [end.made_of[0] if end.kind == "cidr" else None for end in ends.addresses]
    names = {rule.cidr: None for rule in rules if isinstance(rule, Cidr)}
    if not names:
        return {}
    numbers = {name: number for number, name in enumerate(names)}
    of_address = np.array([numbers[r.cidr] if isinstance(r, Cidr) else -1 for r in rules], np.int64)
    src, dst = of_address[columns.src[rows]], of_address[columns.dst[rows]]
    return {
        name: columns.amount(rows[(src == number) | (dst == number)])
        for name, number in numbers.items()
        if ((src == number) | (dst == number)).any()
    }


def _by_node(columns: Columns, ends: ResolvedChunk, rows: Rows) -> dict[str, Amount]:
    """Split rows by the node that their source is on."""
    if not len(rows):
        return {}
    numbers: dict[str, int] = {}
    of_address = [numbers.setdefault(end.node or NO_NODE, len(numbers)) for end in ends.addresses]
    return _split(columns, rows, np.array(of_address, np.int64)[columns.src[rows]], list(numbers))


def _classify(columns: Columns, ends: ResolvedChunk) -> tuple[Ints, Ints]:
    """Return each row's scope as an index into SCOPES, and why it is unknown as one into UNKNOWN_REASONS.

    The observer, last of `everyone`, takes the place of a relay's source.
    """
    places: dict[Location, int] = {}
    nodes: dict[str, int] = {}
    everyone = [(e.place, e.node, e.reason) for e in ends.addresses]
    everyone.append((ends.watcher.place, ends.watcher.node, None))
    place = np.array([places.setdefault(p, len(places)) for p, _, _ in everyone], np.int64)
    node = np.array([-1 if n is None else nodes.setdefault(n, len(nodes)) for _, n, _ in everyone], np.int64)
    why = np.array([UNKNOWN_REASONS.index(reason or "zone_missing") for _, _, reason in everyone], np.int64)
    placed = np.array([bool(p.zone or p.zone_id) for p, _, _ in everyone], np.bool_)
    sender = np.where(columns.direction == RELAY, len(everyone) - 1, columns.src)
    pairs, inverse = np.unique(place[sender] * len(places) + place[columns.dst], return_inverse=True)
    known = list(places)
    table = [SCOPES.index(scope_of(known[code // len(known)], known[code % len(known)])) for code in pairs.tolist()]
    same_node = (node[sender] == node[columns.dst]) & (node[sender] >= 0)
    scopes = np.where(same_node, _SAME_NODE, np.array(table, np.int64)[inverse])
    return scopes, np.where(placed[sender], why[columns.dst], why[sender])
