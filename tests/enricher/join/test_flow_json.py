# SPDX-License-Identifier: Apache-2.0
"""A chunk's flows are written when they are asked for: memory does not grow with its rows times their names' length."""

import asyncio
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.kafka import publish
from common.kafka.publish import Run
from enricher.index.cidrs import CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join import flow_json as flows_module
from enricher.join.flow_json import FlowsJson
from enricher.join.join import join, resolve
from enricher.join.policy import DEFAULT, Policy
from enricher.kube.states.pods import pod_state
from schemas.flow import Workload
from schemas.raw import RawChunk
from tests.enricher.join.test_rollup import API_1, API_2, API_3, DB, FAR, ROLLED
from tests.enricher.join.test_rollup import states as rolled_states
from tests.support.enricher.api_objects import owner, pod_of
from tests.support.enricher.build import START, chunk, node, pod, row
from tests.support.enricher.joined import joined

LONG, HERE, THERE = "n" * 253, "10.42.1.17", "10.42.2.9"


def long_names() -> Resolver:
    """Two pods whose names, and whose nodes' and workloads' names, are as long as Kubernetes lets them be."""
    index = Index()
    for number, (address, zone) in enumerate(((HERE, "eu-west-1a"), (THERE, "eu-west-1b"))):
        where = f"{number}{LONG[1:]}"
        index.apply(node(where, f"192.168.0.{number + 11}", zone))
        workload = Workload("Deployment", f"{number}{LONG[1:]}")
        index.apply(pod(f"{number}{LONG[1:]}", address, where, namespace="s" * 63, workload=workload))
    return Resolver(index, CidrMap([]))


class _Broker:
    """Takes batches and keeps none."""

    def __init__(self) -> None:
        self.records = self.bytes = 0

    async def send_batch(self, batch: Any, _topic: str, *, partition: int) -> "asyncio.Future[Any]":
        self.records += batch.record_count()
        self.bytes += batch.size()
        sent = asyncio.get_running_loop().create_future()
        sent.set_result(type("Sent", (), {"offset": self.records})())
        return sent


def peak(raw: RawChunk, of: Resolver, policy: Policy) -> tuple[int, _Broker]:
    """Join a chunk and publish what it becomes; return the most bytes held meanwhile, and what the broker got."""
    broker = _Broker()
    ends = resolve(raw, of)
    tracemalloc.start()
    try:
        run = Run("flows", 0, b"key", join(raw, ends, 0, 0, None, policy).values, 0)
        asyncio.run(publish._send(broker, "flows", 0, [run], 64 * 1024))
        return tracemalloc.get_traced_memory()[1], broker
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("policy", [DEFAULT, Policy(detail="workload")], ids=["pod", "workload"])
def test_what_is_held_does_not_grow_with_rows_times_names(policy: Policy) -> None:
    of = long_names()
    # In the policy `workload` what differs in its port is a sum of its own, and stays within a zone.
    there = THERE if policy is DEFAULT else HERE
    rows = [row(HERE, there, dst_port=1 + i) for i in range(8 * flows_module.BLOCK_ROWS)]
    small, few = peak(chunk(rows[: len(rows) // 2]), of, policy)
    large, many = peak(chunk(rows), of, policy)
    assert many.records == len(rows) == 2 * few.records
    flow_bytes = many.bytes / many.records
    assert flow_bytes > 1000
    # Numbers of rows, and no more.
    assert large - small < len(rows) / 2 * flow_bytes / 3


def test_an_owner_of_200_kb_is_in_no_flow() -> None:
    index = Index()
    state = pod_state(pod_of(ips=[HERE], owners=owner("ReplicaSet", "x" * 200_000)), START)
    assert state is not None
    index.apply(node("node-b1", "192.168.0.12", "eu-west-1b", pod_cidrs=("10.42.2.0/24",)))
    index.apply(state)
    raw = chunk(
        [row(HERE, THERE, dst_port=1 + i) for i in range(9000)], start_ms=state.from_ms, end_ms=state.from_ms + 1
    )
    most, broker = peak(raw, Resolver(index, CidrMap([])), DEFAULT)
    assert broker.records == 9000
    assert most < 8 * 1024 * 1024


def values_of(rows: list[dict[str, Any]], policy: Policy) -> FlowsJson:
    return joined(rows, None, policy, rolled_states()).values


ADDRESSES = [API_1, API_2, API_3, DB, FAR]
ENDS = st.sampled_from(ADDRESSES)
ROWS = st.lists(st.tuples(ENDS, ENDS, st.sampled_from([80, 443])), max_size=30)


@given(ROWS, st.booleans(), st.lists(st.integers(-40, 40), max_size=20), st.integers(0, 40))
@settings(max_examples=60)
def test_in_whatever_order_they_are_asked_for_they_are_the_same(
    made: list[tuple[str, str, int]], rolled: bool, asked: list[int], cut: int
) -> None:
    rows = [row(src, dst, dst_port=port) for src, dst, port in made]
    policy = ROLLED if rolled else DEFAULT
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flows_module, "BLOCK_ROWS", 10_000)
        whole = list(values_of(rows, policy))
        patch.setattr(flows_module, "BLOCK_ROWS", 3)
        values = values_of(rows, policy)
        assert len(values) == len(whole)
        assert whole == list(values)
        for at in asked:
            if -len(whole) <= at < len(whole):
                assert values[at] == whole[at]
            else:
                with pytest.raises(IndexError):
                    values[at]
        assert list(values[cut:]) == whole[cut:]
