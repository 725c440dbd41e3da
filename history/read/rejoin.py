# SPDX-License-Identifier: Apache-2.0
"""What a join of history needs: who owned what then, a CIDR map, a policy; and raw chunks out of records."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from aiokafka.structs import ConsumerRecord
from pydantic import Field

from common.errors import Refusal
from common.input.clusters import OtherClusters, other_clusters
from common.settings import KafkaSettings
from enricher.delivery.topology_topic import read_states
from enricher.index.cidrs import CidrMap, load_cidr_map
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join.join import Joined, ResolvedChunk, join, resolve
from enricher.join.policy import UNMETERED, Policy, policy_of
from history.read.topic import Reading, read_topic
from schemas.codec import Unreadable
from schemas.errors import DecodeError
from schemas.raw import RawChunk, decode_chunk
from schemas.topology import TopologyState, read_state

# Is told of a record that cannot be read, and why.
Refused = Callable[[ConsumerRecord, DecodeError], None]


class JoinSettings(KafkaSettings):
    """What raw flows are joined with again."""

    topology: Path | None = Field(
        None, description="for raw flows: a file of states to join with instead of the topology topic"
    )
    other_clusters: OtherClusters = Field(
        "", description="for raw flows: other clusters, NAME=TOPIC_PREFIX, comma-separated, as the enricher was told"
    )
    unmetered_nodes: str = Field(
        UNMETERED, description="for raw flows: names of nodes that have no collector, as the enricher was told"
    )


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


async def read_joiner(settings: JoinSettings, cidr_map: Path | None, taken: ReadTally) -> Joiner:
    """Return the join by who owned what according to a file, or to the topology topic; raises `Refusal`."""
    states = await known_states(settings, settings.topology, taken)
    others = await other_indexes(settings, taken)
    return Joiner(resolver_of(states, load_cidr_map(cidr_map), others), policy_of(settings.unmetered_nodes))


async def other_indexes(settings: JoinSettings, taken: ReadTally) -> dict[str, Index]:
    """Return who owned what in other clusters, by their names, according to their topology topics; raises `Refusal`."""
    prefixes = other_clusters(settings.other_clusters, settings.topic_prefix)
    theirs = {name: settings.model_copy(update={"topic_prefix": prefix}) for name, prefix in prefixes.items()}
    return {name: index_of(await known_states(kafka, None, taken)) for name, kafka in theirs.items()}


def index_of(states: Iterable[TopologyState]) -> Index:
    """Return the enricher's index over these states."""
    index = Index()
    for state in states:
        index.apply(state)
    return index


def resolver_of(
    states: Iterable[TopologyState], cidrs: CidrMap, others: Mapping[str, Index] = MappingProxyType({})
) -> Resolver:
    """Return the enricher's resolver over these states."""
    return Resolver(index_of(states), cidrs, others)
