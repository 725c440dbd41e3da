# SPDX-License-Identifier: Apache-2.0
"""What of the traffic is the meter's own, where that can be told: its namespace, and nodes talking to its Kafka."""

import asyncio
import ipaddress
import socket

from common.errors import Refusal
from common.kafka.topic_admin import admin_client
from common.settings import KafkaSettings
from history.model.party import MeterTraffic


async def find_own(settings: KafkaSettings, namespace: str, named: str | None) -> MeterTraffic:
    """Return how to tell it. `named`: Kafka as the collectors reach it; else as Kafka calls itself, if it answers."""
    places = _split(named) if named else await _brokers(settings)
    loop = asyncio.get_running_loop()
    found: set[tuple[str, int]] = set()
    for host, port in places:
        try:
            answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            continue  # a name of the cluster's own, asked from outside: then it cannot be told
        found |= {(str(ipaddress.ip_address(answer[4][0])), port) for answer in answers}
    return MeterTraffic(namespace, frozenset(found))


async def _brokers(settings: KafkaSettings) -> list[tuple[str, int]]:
    try:
        async with admin_client(settings) as admin:
            cluster = await admin.describe_cluster()
    except Refusal:
        return []
    return [(broker["host"], broker["port"]) for broker in cluster["brokers"]]


def _split(named: str) -> list[tuple[str, int]]:
    parts = (part.rpartition(":") for part in named.split(","))
    return [(host.strip("[]"), int(port)) for host, _, port in parts]
