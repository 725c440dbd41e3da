# SPDX-License-Identifier: Apache-2.0
"""Joins one raw chunk with the index: a JSON value per flow, and the books of what was put aside. Pure.

The shape is what makes it fast: addresses are resolved once per chunk, an end point's JSON is made once per address,
and a flow is a concatenation of parts. No object exists per flow.
"""

from array import array
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from typing import TypeVar, cast

from enricher.index.cidrs import Cidr, may_be_pods
from enricher.index.endpoints import Location, Resolved, Watcher, scope_of
from enricher.index.resolve import Resolver
from enricher.join.flow_json import FlowsJson
from enricher.join.policy import DEFAULT, NodeNames, Policy
from enricher.join.rollup import roll_up
from enricher.join.rows import EGRESS, INGRESS, RELAY, Rows, amount_of, amounts_by
from enricher.join.serving import Sides
from enricher.join.values import Values
from schemas.amount import NOTHING, Amount
from schemas.flow import OUTER, Scope, why_unknown
from schemas.raw import RawChunk

T = TypeVar("T")

# What stays there is free of charge.
_FREE: tuple[Scope, ...] = ("same_node", "same_zone")
# Addresses that are looked up at a stretch: some 10 ms, if nobody asked for them lately.
PART = 500
# In place of the name of a node that is not known; no Kubernetes name holds it (RFC 1123).
NO_NODE = "?"


@dataclass(slots=True)
class ResolvedChunk:
    """A chunk's addresses resolved as of its window, in the chunk's order, and its observer.

    `foreign`: those that the observer sent from although they are known to be on another node.
    """

    addresses: list[Resolved]
    watcher: Watcher
    foreign: Collection[int]


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
        count = len(chunk.src)
        if not self.rows:
            return True
        if self.last >= MOST_RESUMED * count:
            return False
        rows = {row % count for row in self.rows}
        found = amount_of(chunk, list(rows))
        return len(rows) == len(self.rows) and (found.bytes, found.packets) == (self.amount.bytes, self.amount.packets)


@dataclass(slots=True)
class Joined:
    """What one chunk became.

    `values`: one JSON object per flow given out, and `numbers` the last parts of their ids, ascending. `taken` = what
    was out before + `given` + the sum of `aside`, in bytes and packets. `by_scope` splits what is given, an overlay's
    outer packets apart (`OUTER`), since their inner ones are counted too; `by_reason` (why a zone is unknown) splits
    its `unknown`. `senders` splits aside's `sender_in_cluster` by the node that counts it; not so
    `sender_in_other_cluster`: of these nodes that cluster's own ledger tells. `unmetered` is what was given of senders
    on nodes without a collector. `late` is what was given with an end that is a pod the index does not know
    (`late_index`), whatever its scope. `rolled_up` are the rows that were summed up. `by_rule`: what was given that an
    entry of the CIDR map named an end of, by its network; of outer packets alone it is `NOTHING`.
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
    """Resolve every address of a chunk as of its window, all at a stretch."""
    work = resolving(chunk, resolver)
    while True:
        try:
            next(work)
        except StopIteration as done:
            return cast(ResolvedChunk, done.value)


def resolving(chunk: RawChunk, resolver: Resolver) -> Generator[None, None, ResolvedChunk]:
    """Resolve every address of a chunk as of its window; between parts of many the index may change.

    What the node says is its own is, and a sender from it is on it, known or not. One that came in as well, from
    elsewhere, within the same window, has moved: of it nothing more is said.
    """
    window = partial(resolver.window, chunk.start_ms, chunk.end_ms)
    addresses, node, ends = chunk.addresses, chunk.node, list[Resolved]()

    def own(numbers: Sequence[int]) -> None:
        now = window()
        for number in numbers:
            ends[number] = now.own(ends[number], addresses[number], node)

    def sent_here(numbers: Sequence[int]) -> None:
        now = window()
        for number in numbers:
            ends[number] = now.sent_here(ends[number], addresses[number], node)

    yield from _parts(addresses, lambda texts: ends.extend(window().resolve_all(texts)))
    yield from _parts([*{*chunk.own}], own)
    sources = _sources(chunk, EGRESS)
    if elsewhere := {number for number in sources if ends[number].node != node}:
        yield from _parts([*(elsewhere - _sources(chunk, INGRESS) - _sources(chunk, RELAY))], sent_here)
    # A podCIDR alone does not say on which node an address is.
    here = (None, node)
    foreign = {number for number in elsewhere if ends[number].node not in here and not ends[number].reason}
    return ResolvedChunk(ends, window().watcher(node), foreign)


def _parts(items: Sequence[T], do: Callable[[Sequence[T]], None]) -> Generator[None, None, None]:
    for first in range(0, len(items), PART):
        if first:
            yield
        do(items[first : first + PART])


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
    out = out or Out()
    every = range(len(chunk.src))
    new = _not_out(every, out)
    ingress = _of_direction(chunk, new, INGRESS)
    metered = _metered(chunk, ends, ingress, policy.unmetered)
    rows = _without(new, metered)
    scopes, reason = _classify(chunk, ends)
    outer = outer_rows(chunk, rows)
    inner = _without(rows, outer)
    of_inner: list[str] = [scopes[row] for row in inner]
    unknown = [row for row in inner if scopes[row] == "unknown"] if "unknown" in of_inner else []
    free = [row for row in rows if scopes[row] in _FREE] if policy.detail == "workload" else []
    values, numbers = _write(chunk, ends, (partition, offset), scopes, _without(rows, free), free, out.last)
    given = amount_of(chunk, rows)
    elsewhere = [row for row in metered if ends.addresses[chunk.src[row]].is_elsewhere]
    here = _without(metered, elsewhere)
    aside = {"sender_in_cluster": here, "sender_in_other_cluster": elsewhere}
    return Joined(
        values=values,
        numbers=numbers,
        taken=amount_of(chunk, every),
        given=Amount(given.bytes, given.packets, len(values)),
        aside={why: amount_of(chunk, of) for why, of in aside.items() if of},
        by_scope=amounts_by(chunk, inner, of_inner) | ({OUTER: amount_of(chunk, outer)} if outer else {}),
        by_reason=amounts_by(chunk, unknown, [reason(row) for row in unknown]),
        senders=_by_node(chunk, ends, here),
        unmetered=_by_node(chunk, ends, _in_cluster(chunk, ends, _without(ingress, metered))),
        late=_late(chunk, ends, rows),
        rolled_up=amount_of(chunk, free),
        by_rule=_by_rule(chunk, ends, rows, outer),
        foreign_source=_by_node(chunk, ends, _foreign(chunk, ends)),
    )


def given_rows(chunk: RawChunk, ends: ResolvedChunk, policy: Policy = DEFAULT) -> Rows:
    """Return the rows of a chunk that become flows: all but those from senders that are metered themselves."""
    every = range(len(chunk.src))
    return _without(every, _metered(chunk, ends, _of_direction(chunk, every, INGRESS), policy.unmetered))


def outer_rows(chunk: RawChunk, rows: Rows) -> Rows:
    """Return those of the rows that are an overlay's outer packets."""
    return [row for row in rows if chunk.encapsulation[row]] if any(chunk.encapsulation) else ()


def _not_out(every: Rows, out: Out) -> Rows:
    # A number beyond the rows is that of a row which was written late (see `_write`).
    return _without(every, {row % len(every) for row in out.rows} if every else ())


def _without(rows: Rows, some: Collection[int]) -> Rows:
    if not some:
        return rows
    gone = frozenset(some)
    return [row for row in rows if row not in gone]


def _of_direction(chunk: RawChunk, rows: Rows, direction: int) -> Rows:
    return [row for row in rows if chunk.direction[row] == direction] if direction in chunk.direction else ()


def _metered(chunk: RawChunk, ends: ResolvedChunk, rows: Rows, unmetered: NodeNames) -> Rows:
    """Return those of the rows whose source is counted at its own node."""
    return [row for row in _in_cluster(chunk, ends, rows) if ends.addresses[chunk.src[row]].node not in unmetered]


def _in_cluster(chunk: RawChunk, ends: ResolvedChunk, rows: Rows) -> Rows:
    return [row for row in rows if ends.addresses[chunk.src[row]].in_cluster]


def _foreign(chunk: RawChunk, ends: ResolvedChunk) -> Rows:
    """Return the egress rows whose source is known to be on another node."""
    if not ends.foreign:
        return ()
    return [row for row in _of_direction(chunk, range(len(chunk.src)), EGRESS) if chunk.src[row] in ends.foreign]


def _late(chunk: RawChunk, ends: ResolvedChunk, rows: Rows) -> Amount:
    late = {number for number, end in enumerate(ends.addresses) if end.reason == "late_index"}
    if not late:
        return NOTHING
    return amount_of(chunk, [row for row in rows if chunk.src[row] in late or chunk.dst[row] in late])


def _write(
    chunk: RawChunk,
    ends: ResolvedChunk,
    raw: tuple[int, int],
    scopes: Sequence[Scope],
    single: Rows,
    free: Rows,
    last: int,
) -> tuple[FlowsJson, list[int]]:
    """Return the flows of rows that stay single and of those that are free of charge, and their ascending numbers.

    A single row's flow has its row's number. Where that would not come after `last` (before a crash the row was to
    be rolled up or put aside), and for sums, it is a multiple of the chunk's rows more, so that numbers ascend,
    none comes twice, and the row can be told from it.
    """
    sides, count = Sides(chunk, ends.addresses), len(chunk.src)
    values = Values(chunk, sides, ends.watcher, raw, scopes)
    if last < 0 and not free:
        return FlowsJson(lambda rows: values.of_rows(rows, rows), single), [*single]
    beyond = count * max(1, last // max(count, 1) + 1)
    rows, numbers = [*single], [*single]
    if last >= 0:
        late = [row for row in single if row <= last]
        rows = [*(row for row in single if row > last), *late]
        numbers = [*rows[: len(rows) - len(late)], *(row + beyond for row in late)]

    def of_rows(places: Sequence[int]) -> list[bytes]:
        return values.of_rows([rows[place] for place in places], [numbers[place] for place in places])

    if not free:
        return FlowsJson(of_rows, range(len(rows))), numbers
    groups = roll_up(chunk, free, sides, values.kinds, scopes)
    every = [*numbers, *(beyond + group.rows[-1] for group in groups)]

    def of_both(places: Sequence[int]) -> list[bytes]:
        ones = iter(of_rows([place for place in places if place < len(rows)]))
        return [
            next(ones) if place < len(rows) else values.of_group(groups[place - len(rows)], every[place])
            for place in places
        ]

    order = sorted(range(len(every)), key=every.__getitem__)
    return FlowsJson(of_both, order), sorted(every)


def _by_rule(chunk: RawChunk, ends: ResolvedChunk, rows: Rows, outer: Rows) -> dict[str, Amount]:
    """Return what each entry of the CIDR map took; what one named both ends of counts once."""
    rules = {number: end.made_of[0] for number, end in enumerate(ends.addresses) if end.kind == "cidr"}
    named = {number: rule.cidr for number, rule in rules.items() if isinstance(rule, Cidr)}
    if not named:
        return {}
    src, dst = chunk.src, chunk.dst
    apart = frozenset(outer)  # made once: a chunk may have as many rules as outer rows
    found: dict[str, list[int]] = {}
    for row in [row for row in rows if src[row] in named or dst[row] in named]:
        for name in {named[number] for number in (src[row], dst[row]) if number in named}:
            found.setdefault(name, []).append(row)
    return {name: amount_of(chunk, _without(of, apart)) for name, of in found.items()}


def _by_node(chunk: RawChunk, ends: ResolvedChunk, rows: Rows) -> dict[str, Amount]:
    """Split rows by the node that their source is on."""
    return amounts_by(chunk, rows, [ends.addresses[chunk.src[row]].node or NO_NODE for row in rows])


def _classify(chunk: RawChunk, ends: ResolvedChunk) -> tuple[list[Scope], Callable[[int], str]]:
    """Return each row's scope, and what says of a row why that is unknown. A relay's observer is its source."""
    everyone: list[Resolved | Watcher] = [*ends.addresses, ends.watcher]
    numbers: dict[Location, int] = {}
    place = [numbers.setdefault(each.place, len(numbers)) for each in everyone]
    node = [each.node for each in everyone]
    between = _Between(list(numbers))
    src = chunk.src
    if RELAY in chunk.direction:
        src = [len(node) - 1 if way == RELAY else of for of, way in zip(src, chunk.direction, strict=True)]

    def is_one_node(*numbers: int) -> bool:
        """Return whether ends on nodes of one name are on one machine: a name may come back in another zone."""
        ends = (everyone[number] for number in numbers)
        return not any(isinstance(end, Resolved) and end.is_of_two_nodes for end in ends)

    scopes: list[Scope] = [
        "same_node"
        if node[of] == node[to] and node[of] is not None and (place[of] == place[to] or is_one_node(of, to))
        else between[place[of], place[to]]
        for of, to in zip(src, chunk.dst, strict=True)
    ]

    def reason(row: int) -> str:
        both = (everyone[src[row]], everyone[chunk.dst[row]])
        said = (end.reason if isinstance(end, Resolved) else None for end in both)
        return why_unknown(*((end.place.zone or end.place.zone_id, why) for end, why in zip(both, said, strict=True)))

    return scopes, reason


class _Between(dict[tuple[int, int], Scope]):
    """The scope of traffic between two places, by their numbers."""

    def __init__(self, places: Sequence[Location]) -> None:
        self._places = places

    def __missing__(self, pair: tuple[int, int]) -> Scope:
        scope = self[pair] = scope_of(self._places[pair[0]], self._places[pair[1]])
        return scope
