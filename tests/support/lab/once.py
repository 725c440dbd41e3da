# SPDX-License-Identifier: Apache-2.0
"""Exactly so much traffic once, then silence, so that counts can be compared at rest; and one pod more."""

import asyncio

from lab.network import script, setup
from lab.network.namespaces import enter, ip_batch, write_sysctls
from lab.plan import Plan, Pod
from lab.traffic.server import request
from lab.traffic.streams import Address, connect, connected_udp, exchange
from tests.support.services import DEADLINE_SECONDS


async def tcp_once(namespace: str, target: Address, request_bytes: int, response_bytes: int = 0) -> None:
    """Open a connection, send and receive exactly so much payload, close it; both sides are done on return."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        reader, writer = await connect(namespace, target)
        try:
            await exchange(reader, writer, request_bytes, response_bytes)
            writer.write_eof()
            await reader.read()  # the server's end: everything is acknowledged
        finally:
            writer.close()
            await writer.wait_closed()


async def udp_once(namespace: str, target: Address, datagrams: int, datagram_bytes: int) -> None:
    """Send so many datagrams of so much payload that want no answer."""
    loop = asyncio.get_running_loop()
    with connected_udp(namespace, target) as sender:
        for _ in range(datagrams):
            await loop.sock_sendall(sender, request(datagram_bytes, 0))
            await asyncio.sleep(0)


def add_pod(plan: Plan, pod: Pod) -> None:
    """Give a running lab one more pod; Services do not learn of it here (`apply_services`)."""
    namespace = script.pod_namespace(plan.prefix, pod)
    ip_batch([f"netns add {namespace}"])
    with enter(namespace):
        write_sysctls(script.QUIET)
    ip_batch([script.pod_cable(plan.prefix, pod)])
    setup._make_pod(plan, pod)
    node = plan.node(pod.node)
    ip_batch(script.node_side(node, pod), script.node_namespace(plan.prefix, node.name))
    with enter(script.node_namespace(plan.prefix, node.name)):
        setup._finish_pod_link(pod)
