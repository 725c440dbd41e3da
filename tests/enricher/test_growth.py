# SPDX-License-Identifier: Apache-2.0
"""What a pod costs after a restart, and a flow in the join, does not depend on how many there are. Counted in calls."""

from collections.abc import Callable

import pytest

from enricher.index.cidrs import CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join.join import join, resolve
from schemas.topology import encode_topology, read_state
from tests.support.counted import calls
from tests.support.enricher.build import chunk, node, pod, row, service

NODES = 10


def address(number: int) -> str:
    return f"10.42.{number // 250}.{number % 250}"


def states(pods: int) -> list[tuple[bytes, bytes]]:
    """Return the topology topic of so many pods, and a service to each ten of them."""
    made = [node(f"node-{number}", f"192.168.0.{number}") for number in range(NODES)]
    made += [pod(f"web-{number}", address(number), f"node-{number % NODES}") for number in range(pods)]
    made += [service(f"web-{n}", f"10.96.{n // 250}.{n % 250}") for n in range(pods // 10)]
    return [(state.key, encode_topology(state)) for state in made]


def restarted(topic: list[tuple[bytes, bytes]]) -> Index:
    """Return the index that an enricher makes of the topology topic."""
    index = Index()
    for key, value in topic:
        index.apply(read_state(value, key))
    return index


def restart_calls(pods: int) -> int:
    topic = states(pods)
    return calls(lambda: restarted(topic))


def join_calls(flows: int) -> int:
    resolver = Resolver(restarted(states(flows)), CidrMap([]))
    made = chunk([row(address(number), address((number + 1) % flows)) for number in range(flows)], node="node-0")
    return calls(lambda: list(join(made, resolve(made, resolver), 0, 0).values))


@pytest.mark.parametrize(("counted", "most"), [(restart_calls, 80), (join_calls, 90)])
def test_twice_as_many_are_twice_the_work(counted: Callable[[int], int], most: int) -> None:
    once, twice = counted(400), counted(800)
    assert twice <= 2.2 * once
    assert once / 400 <= most


def test_a_chunk_of_35_rows_costs_so_many_calls() -> None:
    """A usual node's. All that it costs but for its rows is divided by few; its addresses were met before."""
    resolver = Resolver(restarted(states(350)), CidrMap([]))
    made = chunk([row(address(NODES * n), address(n)) for n in range(35)], node="node-0")

    def work() -> None:
        list(join(made, resolve(made, resolver), 0, 0).values)

    work()
    assert calls(work) / 35 <= 13
