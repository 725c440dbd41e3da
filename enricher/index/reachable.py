# SPDX-License-Identifier: Apache-2.0
"""By which addresses nodes are reached, beside those in Node.status: what their collectors say, as states. Pure.

A node that receives from another's second card cannot know whose it is, and would count once more what was counted
where it was sent. So what raw chunks tell becomes history, as what the Kubernetes API tells does: one object per node,
of kind `addresses`. An address that came within a window counts from its beginning, one that went until its end.

What is said may be made up. So only nodes that Kubernetes knows are believed, of what nobody else is known to have
(resolve.py), so many addresses of a node at most, and so many changes a day.
"""

from collections.abc import Callable, Iterable

import msgspec

from enricher.index.addresses import pack
from enricher.index.ownership import Index
from enricher.index.tenancy import FOREVER
from schemas.raw import RawChunk
from schemas.topology import TopologyState

# Of one node.
MOST_ADDRESSES = 32
MOST_A_DAY = 24
_DAY_MS = 86_400_000
# A window that ends further ahead by our clock is not believed.
_AHEAD_MS = 60_000


def heard(
    index: Index, chunk: RawChunk, now_ms: int, tell_unheard: Callable[[str], None] = lambda _: None
) -> list[TopologyState]:
    """Return the states that a chunk closes and opens; none where it says nothing new.

    `tell_unheard` is told what is beyond the bounds: `addresses` of the node, a `change` of them.
    """
    if chunk.node_addresses is None or chunk.end_ms > now_ms + _AHEAD_MS:
        return []
    known = index.states_of(_key(chunk.node))
    last = known[-1] if known else None
    if last is not None and (chunk.start_ms < last.from_ms or chunk.start_ms <= _said_at(last)):
        return []
    nodes = index.owners(("name", chunk.node), chunk.start_ms, chunk.end_ms)
    if not nodes or _is_gone(index, chunk.node, now_ms):
        return []  # nobody would end it
    beside = _beside(chunk.node_addresses, nodes[-1])
    said = beside[:MOST_ADDRESSES]
    if len(beside) > MOST_ADDRESSES:
        tell_unheard("addresses")
    before = last.addresses if last is not None and last.to_ms is None else []
    if said == before:
        return []
    if len(known) >= MOST_A_DAY and known[-MOST_A_DAY].from_ms > chunk.start_ms - _DAY_MS:
        tell_unheard("change")
        return []
    came = [address for address in said if address not in before]
    from_ms = chunk.start_ms if came else chunk.end_ms
    # What is gone had been there when the window began: if it is, the next window says so again.
    addresses = [*said, *(address for address in before if came and address not in said)][: 2 * MOST_ADDRESSES]
    closed = [] if last is None or not before else [_closed(last, from_ms)]
    if not addresses:
        return closed
    opened = TopologyState(
        kind="addresses",
        uid=chunk.node,
        resource_version=str(chunk.start_ms),
        name=chunk.node,
        addresses=addresses,
        from_ms=from_ms,
        acquired_by_ms=chunk.end_ms if came else None,
    )
    return [*closed, opened]


def gone(index: Index, changes: Iterable[TopologyState]) -> list[TopologyState]:
    """Return the states that end with the nodes that are gone after these changes."""
    ended = {state.name: state.to_ms for state in changes if state.kind == "node" and state.to_ms is not None}
    return [
        _closed(last, to_ms)
        for name, to_ms in ended.items()
        if _is_gone(index, name, to_ms) and (last := _last(index, name)) is not None and last.to_ms is None
    ]


def _beside(said: Iterable[str], node: TopologyState) -> list[str]:
    """Return which of the addresses Node.status does not have, each once."""
    known = {pack(address) for address in (*node.addresses, "")}
    found = {packed: address for address in said if (packed := pack(address)) not in known}
    return list(found.values())


def _said_at(state: TopologyState) -> int:
    """Return the beginning of the window that said it; none says it again."""
    version = state.resource_version
    return int(version) if version.isascii() and version.isdigit() else state.from_ms


def _closed(state: TopologyState, to_ms: int) -> TopologyState:
    return msgspec.structs.replace(state, to_ms=max(to_ms, state.from_ms))


def _is_gone(index: Index, node: str, since_ms: int) -> bool:
    return not index.owners(("name", node), since_ms, FOREVER)


def _last(index: Index, node: str) -> TopologyState | None:
    return next(reversed(index.states_of(_key(node))), None)


def _key(node: str) -> str:
    return f"addresses/{node}"
