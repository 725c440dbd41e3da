# SPDX-License-Identifier: Apache-2.0
"""Who owned which address, when: intervals [from, to) of ownership by pods, nodes and services. Pure.

States come in any order and from anywhere (the topology topic, the watch, a file) and the answer depends only on
which were given: a uid's states are ordered by `from_ms` and each is cut at the next; where several objects held
one address, tenancy.py says who may have held it when. Times are Unix milliseconds. What an owner means for a flow
is resolve.py's business.
"""

import bisect
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Set
from types import MappingProxyType

import msgspec

from enricher.index.addresses import Prefix, pack, parse_prefix, prefix_of, shortened
from enricher.index.cidrs import is_public
from enricher.index.parts import parts
from enricher.index.tenancy import FOREVER, Claim, Stretch, acquired, claims, order, stretches
from schemas.topology import TopologyState

# An IPv6 site is at most this long; what shares it with a node or a pod is not the internet.
SITE_LENGTH = 56
# The prefix that stands for IPv4 addresses where a node folds them.
FOLDED_LENGTH = 24
SLICE = "endpointslice"

# What can be owned: an address, the name of a node, or a prefix that a node hands out to its pods.
Slot = tuple[str, bytes | str | Prefix]


class Index:
    """The interval index. Not thread-safe: the event loop owns it."""

    def __init__(self) -> None:
        self._states: dict[str, list[TopologyState]] = {}
        self._claims: dict[Slot, tuple[Claim, ...]] = {}
        self._cidr_lengths: dict[int, list[int]] = {32: [], 128: []}
        self._cidrs_of_length: Counter[tuple[int, int]] = Counter()
        self._pod_cidrs: set[Prefix] = set()
        self._sites: Counter[int] = Counter()
        self._folds: Counter[int] = Counter()
        self._size = 0
        self._listeners: list[Callable[[Slot], None]] = []

    def listen(self, changed: Callable[[Slot], None]) -> None:
        """Call `changed` with every slot whose owners change, and with a site or a public /24 that comes or goes."""
        self._listeners.append(changed)

    @property
    def states(self) -> int:
        """How many states are held."""
        return self._size

    @property
    def slots(self) -> int:
        """How many addresses, node names and podCIDRs have at least one owner on record."""
        return len(self._claims)

    def apply(self, state: TopologyState) -> bool:
        """Take in one state; return whether anything changed."""
        object_key = f"{state.kind}/{state.uid}"
        known = self._states.get(object_key, [])
        position = next((i for i, s in enumerate(known) if s.resource_version == state.resource_version), None)
        if position is None:
            merged, rest = state, known
        else:
            merged, rest = merge(known[position], state), known[:position] + known[position + 1 :]
            if merged == known[position]:
                return False
        updated = list(rest)
        bisect.insort(updated, merged, key=order)
        self._states[object_key] = updated
        self._size += len(updated) - len(known)
        # A state has an end of its own or the beginning of the next: of others only those before it change.
        place = bisect.bisect_left(updated, order(merged), key=order)
        changed = [merged, *updated[place - 1 : place]]
        if position is not None:
            changed += known[max(position - 1, 0) : position + 1]
        touched = {slot for s in changed for slot in slots_of(s)}
        # What owns nothing may have thousands of states.
        own = self._stretches_by_slot(object_key, touched) if touched else {}
        for slot in touched:
            others = {f"{claim.state.kind}/{claim.state.uid}" for claim in self._claims.get(slot, ())} - {object_key}
            self._put(slot, claims([*own[slot], *self._stretches_on(slot, others)]))
        return True

    def owners(self, slot: Slot, start_ms: int, end_ms: int) -> list[TopologyState]:
        """Return the states that held the slot at any time of [start_ms, end_ms), oldest first."""
        return [
            claim.state
            for claim in self._claims.get(slot, ())
            if claim.from_ms < end_ms and start_ms < claim.to_ms and claim.from_ms < claim.to_ms
        ]

    def edges(self, slot: Slot) -> Iterator[int]:
        """Yield the times at which the slot's owners may change, in no order."""
        for claim in self._claims.get(slot, ()):
            yield claim.from_ms
            yield claim.to_ms

    def cidr_slots(self, packed: bytes) -> list[Slot]:
        """Return the slots of the podCIDRs that may hold an address, the longest first."""
        return [("cidr", prefix_of(packed, length)) for length in self._cidr_lengths[8 * len(packed)]]

    def shares_site(self, packed: bytes) -> bool:
        """Return whether an IPv6 address is in a /56 that holds a pod or a node on record."""
        return len(packed) == 16 and prefix_of(packed, SITE_LENGTH).network in self._sites

    def shares_fold(self, prefix: Prefix) -> bool:
        """Return whether an IPv4 /24 holds an address of a pod, a node or a service on record."""
        return (prefix.bits, prefix.length) == (32, FOLDED_LENGTH) and prefix.network in self._folds

    @property
    def pod_cidrs(self) -> Set[Prefix]:
        """The podCIDRs on record."""
        return self._pod_cidrs

    def shares_pod_cidrs(self, prefixes: Iterable[Prefix]) -> bool:
        """Return whether a podCIDR on record holds all of one of these."""
        return any(
            shortened(prefix, length) in self._pod_cidrs
            for prefix in prefixes
            for length in self._cidr_lengths[prefix.bits]
            if length <= prefix.length
        )

    def states_of(self, object_key: str) -> Sequence[TopologyState]:
        """Return the states on record of an object, oldest first; its key is `kind/uid`."""
        return self._states.get(object_key, ())

    def objects(self) -> list[Sequence[TopologyState]]:
        """Return the states on record of each object, oldest first, as they are now: later changes are not in it."""
        return list(self._states.values())

    def current(self) -> Iterator[TopologyState]:
        """Yield the last state on record of each object, closed ones too."""
        for states in self._states.values():
            yield states[-1]

    def shrink(self, most: int) -> int:
        """Forget what ended longest ago until at most `most` states are left, or all others still hold.

        EndpointSlices first: but for the API servers' they own no address, and each rollout makes many states of them.
        Returns how many were forgotten. Questions about the time before they ended find no owner from now on.
        """
        forgotten = 0
        for kind in (SLICE, None):
            excess = self._size - most
            if excess <= 0:
                break
            ends = sorted(
                end
                for states in self._states.values()
                if kind in (None, states[-1].kind)
                for state, cut in stretches(states)
                if (end := max(self._end(state, cut), state.from_ms + 1)) < FOREVER
            )
            if ends:
                last = ends[min(excess, len(ends)) - 1]
                forgotten += len(self.prune(last) if kind is None else self.prune(0, {kind: last}))
        return forgotten

    def pruning(
        self, before_ms: int, of_kind: Mapping[str, int] = MappingProxyType({})
    ) -> Generator[None, None, list[TopologyState]]:
        """Do what `prune` does. It yields after each part, so that an event loop can do something else."""
        found = []
        for keys in parts(list(self._states)):
            found += [key for key in keys if any(True for _ in self._ended(key, before_ms, of_kind))]
            yield
        return self.prune(before_ms, of_kind, found)

    def prune(
        self, before_ms: int, of_kind: Mapping[str, int] = MappingProxyType({}), keys: Iterable[str] | None = None
    ) -> list[TopologyState]:
        """Forget states that say nothing about any time from `before_ms` on; return them.

        `of_kind`: the same of a kind, where that is another time. `keys`: of these objects alone.

        A state stays as long as an older one stays that it closes: else the older would live again. One that begins
        at `before_ms` or later, or says that its object got its addresses no sooner, stays whatever its end says: it
        may close another that is still to come.
        """
        ended = [
            (acquired(state).by_ms, order(state), key, state)
            for key in (self._states if keys is None else keys)
            for state in self._ended(key, before_ms, of_kind)
        ]
        ended.sort(key=lambda item: item[:2])
        dropped: dict[int, TopologyState] = {}
        gone: dict[str, set[int]] = {}
        for _, _, key, state in ended:
            # Older states of the object that stay would live again without this one, and so would earlier tenants.
            place = bisect.bisect_left(self._states[key], order(state), key=order)
            if place == len(gone.get(key, ())) and all(id(older) in dropped for older in self._before(state)):
                dropped[id(state)] = state
                gone.setdefault(key, set()).add(id(state))
        for key, ids in gone.items():
            self._drop(key, ids)
        return list(dropped.values())

    def _ended(self, key: str, before_ms: int, of_kind: Mapping[str, int]) -> Iterator[TopologyState]:
        for state, cut in stretches(self._states.get(key, ())):
            limit = of_kind.get(state.kind, before_ms)
            if max(state.from_ms, acquired(state).from_ms) < limit and self._end(state, cut) <= limit:
                yield state

    def _end(self, state: TopologyState, cut: int) -> int:
        ends = [c.to_ms for slot in slots_of(state) for c in self._claims.get(slot, ()) if c.state is state]
        return max(ends, default=cut)

    def _before(self, state: TopologyState) -> Iterator[TopologyState]:
        """Yield the earlier tenants of what a state owns."""
        by_ms = acquired(state).by_ms
        for slot in slots_of(state):
            yield from (c.state for c in self._claims.get(slot, ()) if acquired(c.state).by_ms < by_ms)

    def _drop(self, key: str, ids: set[int]) -> None:
        states = self._states[key]
        kept = [state for state in states if id(state) not in ids]
        self._size -= len(states) - len(kept)
        if kept:
            self._states[key] = kept
        else:
            del self._states[key]
        for slot in {slot for state in states for slot in slots_of(state)}:
            self._put(slot, tuple(claim for claim in self._claims.get(slot, ()) if id(claim.state) not in ids))

    def _stretches_by_slot(self, object_key: str, wanted: set[Slot]) -> dict[Slot, list[Stretch]]:
        found: dict[Slot, list[Stretch]] = {slot: [] for slot in wanted}
        for stretch in stretches(self._states[object_key]):
            for slot in wanted.intersection(slots_of(stretch.state)):
                found[slot].append(stretch)
        return found

    def _stretches_on(self, slot: Slot, object_keys: Iterable[str]) -> list[Stretch]:
        return [
            stretch
            for key in object_keys
            for stretch in stretches(self._states.get(key, []))
            if slot in slots_of(stretch.state)
        ]

    def _put(self, slot: Slot, claims: tuple[Claim, ...]) -> None:
        had = slot in self._claims
        self._tell(slot)
        if claims:
            self._claims[slot] = claims
        elif had:
            del self._claims[slot]
        if had != bool(claims):
            self._count(slot, 1 if claims else -1)

    def _count(self, slot: Slot, change: int) -> None:
        what, value = slot
        if isinstance(value, bytes) and len(value) == 4:
            if _counted(self._folds, prefix_of(value, FOLDED_LENGTH).network, change) and is_public(value):
                self._tell(("fold", value))
        elif isinstance(value, bytes):
            if what in ("pod", "node") and _counted(self._sites, prefix_of(value, SITE_LENGTH).network, change):
                self._tell(("site", value))
        elif isinstance(value, Prefix):
            (self._pod_cidrs.add if change > 0 else self._pod_cidrs.discard)(value)
            self._cidrs_of_length[value.bits, value.length] += change
            lengths = {
                length for (bits, length), count in self._cidrs_of_length.items() if bits == value.bits and count
            }
            self._cidr_lengths[value.bits] = sorted(lengths, reverse=True)

    def _tell(self, slot: Slot) -> None:
        for changed in self._listeners:
            changed(slot)


def _counted(counter: Counter[int], network: int, change: int) -> bool:
    """Count up or down; return whether the network came or went."""
    before = network in counter
    counter[network] += change
    if not counter[network]:
        del counter[network]
    return before != (network in counter)


def merge(one: TopologyState, other: TopologyState) -> TopologyState:
    """Join two accounts of the same state: the earlier beginning and the earlier end, and the tighter bounds.

    The first to see it saw it nearest to its time. Should they differ in more, which one wins does not depend on
    their order.
    """
    if one == other:
        return one
    ends = [state.to_ms for state in (one, other) if state.to_ms is not None]
    let_go = [state.released_from_ms for state in (one, other) if state.released_from_ms is not None]
    from_ms = min(one.from_ms, other.from_ms)
    acquired_from = min(acquired(one).from_ms, acquired(other).from_ms)
    acquired_by = min(acquired(one).by_ms, acquired(other).by_ms)
    return msgspec.structs.replace(
        max(one, other, key=_content),
        from_ms=from_ms,
        to_ms=min(ends, default=None),
        acquired_from_ms=None if acquired_from == from_ms else acquired_from,
        acquired_by_ms=None if acquired_by == from_ms else acquired_by,
        released_from_ms=max(let_go, default=None),
    )


def _content(state: TopologyState) -> tuple[bool, bytes]:
    # A version that knew nothing of `served` may be running still, and say the same without it.
    bare = {"from_ms": 0, "to_ms": None, "acquired_from_ms": None, "acquired_by_ms": None, "released_from_ms": None}
    return bool(state.served), msgspec.json.encode(msgspec.structs.replace(state, **bare))


def slots_of(state: TopologyState) -> list[Slot]:
    """Return what a state owns. A pod on the host's network owns nothing: its address is its node's."""
    if state.kind == "pod" and state.host_network:
        return []
    packed = [(state.kind, address) for text in state.addresses if (address := pack(text)) is not None]
    slots: list[Slot] = list(dict.fromkeys(packed))
    if state.kind == "node":
        slots.append(("name", state.name))
        prefixes = dict.fromkeys(parse_prefix(text) for text in state.pod_cidrs)
        slots += [("cidr", prefix) for prefix in prefixes if prefix is not None]
    return slots
