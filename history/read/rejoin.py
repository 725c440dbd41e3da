# SPDX-License-Identifier: Apache-2.0
"""What a join of history needs: who owned what then, a CIDR map, a policy; and raw chunks out of records."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka.structs import ConsumerRecord

from common.errors import Refusal
from common.settings import KafkaSettings
from enricher.delivery.topology_topic import read_states
from enricher.index.cidrs import CidrMap, load_cidr_map
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join.join import Joined, ResolvedChunk, join, resolve
from enricher.join.policy import Policy, policy_of
from history.read.topic import Reading, read_topic
from schemas.codec import Unreadable
from schemas.errors import DecodeError
from schemas.raw import RawChunk, decode_chunk
from schemas.topology import TopologyState, read_state

# Is told of a record that cannot be read, and why.
Refused = Callable[[ConsumerRecord, DecodeError], None]


@dataclass(slots=True)
class ReadTally:
    """What came of reading beside the flows themselves: records refused, by reason, and repeats skipped."""

    refused: Counter[str] = field(default_factory=Counter)
    repeats: int = 0
    reading: Reading = field(default_factory=Reading)


@dataclass(frozen=True, slots=True)
class Joiner:
    """The enricher's own join, over what is known of a time that has passed."""

    resolver: Resolver
    policy: Policy

    def resolve(self, chunk: RawChunk) -> ResolvedChunk:
        """Return a chunk's ends as of its window."""
        return resolve(chunk, self.resolver)

    def join(self, chunk: RawChunk, partition: int = 0, offset: int = 0) -> Joined:
        """Return what a chunk becomes; `partition` and `offset` say where it stands."""
        return join(chunk, self.resolve(chunk), partition, offset, policy=self.policy)


def raw_chunk(record: ConsumerRecord, refused: Counter[str]) -> RawChunk | None:
    """Decode a raw record; None for one that the enricher put among the dead letters, counted by its reason."""
    try:
        chunk = decode_chunk(record.value)
        if record.key != chunk.node.encode():
            raise DecodeError("inconsistent", "the key is not the node")
    except DecodeError as error:
        refused[error.reason] += 1
        return None
    return chunk


async def known_states(settings: KafkaSettings, path: Path | None, taken: ReadTally) -> list[TopologyState]:
    """Return the states of a file, or of the topology topic if there is none; raises `Refusal`."""
    if path is not None:
        return read_states(path)
    states = await read_topology(settings, taken)
    if not any(state.kind == "node" for state in states):
        topic = settings.topics.topology
        raise Refusal(f"topic {topic} holds no node, so no zone could be known; say --topology FILE")
    return states


async def read_topology(settings: KafkaSettings, taken: ReadTally) -> list[TopologyState]:
    """Return the states that the topology topic holds; raises `Refusal`."""

    def refused(_: ConsumerRecord, error: DecodeError) -> None:
        taken.refused[f"topology {error.reason}"] += 1

    return [state async for state in _states(settings, b"", refused)]


def states_of(settings: KafkaSettings, kind: str, refused: Refused) -> AsyncIterator[TopologyState]:
    """Yield the states of one kind that the topology topic holds; `refused` is told of what cannot be read."""
    return _states(settings, f"{kind}/".encode(), refused)  # most are pods'; a key begins with its kind


async def _states(settings: KafkaSettings, keys: bytes, refused: Refused) -> AsyncIterator[TopologyState]:
    async for records in read_topic(settings, settings.topics.topology):
        for record in records:
            wanted = (record.key or b"").startswith(keys) or isinstance(record.value, Unreadable)
            if record.value is not None and wanted:
                try:
                    state = read_state(record.value, record.key)
                except DecodeError as error:
                    refused(record, error)
                else:
                    yield state


async def read_joiner(
    settings: KafkaSettings, topology: Path | None, cidr_map: Path | None, unmetered_nodes: str, taken: ReadTally
) -> Joiner:
    """Return the join by who owned what according to a file, or to the topology topic; raises `Refusal`."""
    states = await known_states(settings, topology, taken)
    return Joiner(resolver_of(states, load_cidr_map(cidr_map)), policy_of(unmetered_nodes))


def resolver_of(states: Iterable[TopologyState], cidrs: CidrMap) -> Resolver:
    """Return the enricher's resolver over these states."""
    index = Index()
    for state in states:
        index.apply(state)
    return Resolver(index, cidrs)
