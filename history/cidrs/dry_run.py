# SPDX-License-Identifier: Apache-2.0
"""What history says about a CIDR map: what each entry would take, and which networks no entry names.

Raw chunks of a time range go once more through the enricher's own join, as of their own time, each once.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass, field

from common import clock
from common.settings import KafkaSettings
from enricher.delivery.incoming.earlier import why_not
from enricher.delivery.incoming.repeats import BootMemory, came_before
from enricher.index.addresses import Prefix, pack, prefix_of
from enricher.index.endpoints import Resolved
from enricher.join.join import ResolvedChunk, given_rows, outer_rows
from history.model.time_range import TimeRange
from history.read.rejoin import Joiner, ReadTally, raw_chunk
from history.read.topic import read_topic
from schemas.amount import NOTHING, Amount
from schemas.raw import RawChunk
from schemas.topology import TopologyState

# A subnet is seldom smaller; of IPv6 it is exactly that (RFC 4291, 2.5.1).
LENGTHS = {32: 24, 128: 64}
_TRANSPORTS = {6: "tcp", 17: "udp", 132: "sctp"}


@dataclass
class DryRun:
    """What a map would make of history, beside another map: by scope, and what each of its entries would take.

    As in `Joined`: an overlay's outer packets are apart.
    """

    chunks: int = 0
    before: dict[str, Amount] = field(default_factory=dict)
    after: dict[str, Amount] = field(default_factory=dict)
    by_rule: dict[str, Amount] = field(default_factory=dict)


@dataclass
class Unmapped:
    """A network that no entry names. `ports`: served, and called in the cluster; by bytes, as `peers`."""

    network: Prefix
    sent: int = 0
    received: int = 0
    flows: int = 0
    addresses: set[str] = field(default_factory=set)
    serves: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    peers: Counter[str] = field(default_factory=Counter)

    @property
    def bytes(self) -> int:
        """Both ways."""
        return self.sent + self.received


async def dry_run(
    settings: KafkaSettings,
    span: TimeRange,
    clusters: Collection[str],
    joiners: tuple[Joiner, Joiner],
    taken: ReadTally,
) -> DryRun:
    """Join history with one joiner and with another; raises `Refusal`."""
    found = DryRun()
    before, after = joiners
    async for chunk in chunks(settings, span, clusters, taken):
        found.chunks += 1
        joined = after.join(chunk)
        _add(found.before, before.join(chunk).by_scope)
        _add(found.after, joined.by_scope)
        _add(found.by_rule, joined.by_rule)
    return found


async def unmapped(
    settings: KafkaSettings, span: TimeRange, clusters: Collection[str], joiner: Joiner, taken: ReadTally
) -> tuple[int, list[Unmapped]]:
    """Return how many chunks there were and the networks nobody names, by descending bytes; raises `Refusal`."""
    found: dict[Prefix, Unmapped] = {}
    read = 0
    async for chunk in chunks(settings, span, clusters, taken):
        read += 1
        _note(chunk, joiner.resolve(chunk), joiner, found)
    return read, sorted(found.values(), key=lambda network: (-network.bytes, network.network))


async def chunks(
    settings: KafkaSettings, span: TimeRange, clusters: Collection[str], taken: ReadTally
) -> AsyncGenerator[RawChunk, None]:
    """Yield the raw chunks of windows that start in `span`, each once; raises `Refusal`."""
    # As the enricher tells them: what it remembers of a boot does not grow with the range, as ids would.
    memories: defaultdict[int, BootMemory] = defaultdict(BootMemory)
    now_ms = clock.now_ms()
    async for records in read_topic(settings, settings.topics.raw, span.from_ms, reading=taken.reading):
        memory = memories[records[0].partition]
        for record in records:
            chunk = raw_chunk(record, taken.refused)
            if chunk is None or not span.holds(chunk.start_ms) or (clusters and chunk.cluster not in clusters):
                continue
            life = memory.life(chunk.origin)
            if why_not(chunk, life, now_ms) is not None:
                taken.refused["implausible"] += 1
            elif life is not None and came_before(chunk, life):
                taken.repeats += 1
            else:
                memory.note(chunk, now_ms)
                yield chunk


def nodes_within(network: Prefix, nodes: Collection[TopologyState]) -> list[TopologyState]:
    """Return the nodes that have an address in a network: where they are, what else is there may be."""
    return [node for node in nodes if any(_network(address) == network for address in node.addresses)]


def _add(sums: dict[str, Amount], more: dict[str, Amount]) -> None:
    for name, amount in more.items():
        sums[name] = sums.get(name, NOTHING) + amount


def _note(chunk: RawChunk, ends: ResolvedChunk, joiner: Joiner, found: dict[Prefix, Unmapped]) -> None:
    wanted = {number for number, end in enumerate(ends.addresses) if end.reason == "vpc_unmapped"}
    if not wanted:
        return
    given = given_rows(chunk, ends, joiner.policy)
    outer = frozenset(outer_rows(chunk, given))
    for row in (row for row in given if row not in outer):
        src, dst = chunk.src[row], chunk.dst[row]
        for own, other, sends in ((src, dst, True), (dst, src, False)):
            if own in wanted:
                network = _network(chunk.addresses[own])
                if network is not None:
                    entry = found.setdefault(network, Unmapped(network))
                    _note_row(entry, chunk, row, chunk.addresses[own], ends.addresses[other], sends)


def _note_row(entry: Unmapped, chunk: RawChunk, row: int, address: str, peer: Resolved, sends: bool) -> None:
    size = chunk.bytes[row]
    if sends:
        entry.sent += size
    else:
        entry.received += size
    entry.flows += 1
    entry.addresses.add(address)
    entry.peers[_name(peer)] += size
    own, other = (chunk.src_port, chunk.dst_port) if sends else (chunk.dst_port, chunk.src_port)
    transport = _TRANSPORTS.get(chunk.protocol[row], str(chunk.protocol[row]))
    if own[row]:
        entry.serves[f"{transport}/{own[row]}"] += size
    elif other[row]:
        entry.calls[f"{transport}/{other[row]}"] += size


def _network(address: str) -> Prefix | None:
    packed = pack(address)
    return None if packed is None else prefix_of(packed, LENGTHS[8 * len(packed)])


def _name(end: Resolved) -> str:
    owner = end.made_of[0]
    if end.kind == "pod" and isinstance(owner, TopologyState) and owner.workload is not None:
        return f"{owner.namespace}/{owner.workload.name}"
    return f"node/{end.node}" if end.kind == "node" else end.kind
