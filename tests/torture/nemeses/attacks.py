# SPDX-License-Identifier: Apache-2.0
"""Nemeses that mean harm to a service, not to its books: they cost it memory and time, and must not cost others any."""

import contextlib
import resource
import socket
from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from schemas.ledger import encode_ledger
from tests.support.services import eventually
from tests.torture.content import NODES, WINDOW_MS
from tests.torture.world import World

_MEBIBYTE = 1024 * 1024

# Of raw records, of a partition that nothing is wrong with: what comes in a few seconds.
MOST_BEHIND = 200
# Under what the manifests let any of them have (k8s/base/services).
MOST_BYTES = 400 * _MEBIBYTE

LONG_ROWS = 9_000
IDLE, UNFINISHED, UNREAD = 1_130, 1_000, 100
FORGED = 20_000


def unharmed(world: World, struck: int | None = None) -> None:
    """Hold that nothing fails, that no partition but the one that was struck is behind, and that memory is bounded."""
    for service in world.fleet.running.values():
        samples = service.samples()
        failing = [labels for (name, labels), on in samples.items() if name == "zonemeter_partition_failing" and on]
        assert not failing, failing
        lags = {labels[0]: n for (name, labels), n in samples.items() if name == "zonemeter_enricher_lag_records"}
        lags.pop(str(struck), None)
        assert max(lags.values(), default=0) < MOST_BEHIND, f"another partition is behind: {lags}"
    peaks = {role: service.peak_bytes() for role, service in world.fleet.running.items()}
    assert max(peaks.values()) < MOST_BYTES, peaks


def long_names(world: World, times: int) -> None:
    """Chunks of as many flows as fit, all of them between pods whose names are as long as Kubernetes allows."""
    for _ in range(times):
        node = world.rng.choice(NODES)
        with world.still():
            world.feeder.publish(world.feeder.number(node, LONG_ROWS, long=True))
        world.nap()
        unharmed(world, world.content.partition(node))
        world.recover()


def hoard(world: World, times: int) -> None:
    """Connections to a service that lie idle, whose headers do not end, that ask for metrics and do not read them."""
    roles = list(world.fleet.running)
    for number in range(times):
        role = roles[number % len(roles)]
        made_room = _made_room(world, role)
        with contextlib.ExitStack() as held:
            for sent, count in ((b"", IDLE), (_HEADER, UNFINISHED), (_HEADER + b"x\r\n\r\n", UNREAD)):
                for _ in range(count):
                    held.enter_context(_connected(world.fleet.running[role].listen, sent))
            world.fleet.ready(role)
            unharmed(world)
            world.recover()
        assert _made_room(world, role) - made_room >= IDLE + UNFINISHED, "nobody had to go"


def _made_room(world: World, role: str) -> float:
    return world.fleet.running[role].samples()["zonemeter_http_closed_connections_total", ("full",)]


_HEADER = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: "


@contextlib.contextmanager
def _connected(listen: str, sent: bytes) -> Iterator[None]:
    """Hold a connection while the context lasts, or as long as the service lets it be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    host, _, port = listen.rpartition(":")
    with socket.socket() as held:
        held.settimeout(10)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with contextlib.suppress(OSError):
            held.connect((host, int(port)))
            held.sendall(sent)
        yield


def clusters(world: World, times: int) -> None:
    """Thousands of clusters in the ledger that nobody has: the audit goes on, and ends when it is told to."""
    [audit] = world.fleet.roles("audit")
    for number in range(times):
        with world.still():
            like = world.feeder.feed(world.rng.choice(NODES))
            # Before what the check at the end asks for, and within what the service looks at.
            start = world.content.start_ms - 48 * 360 * WINDOW_MS
            entries: list[Any] = [
                replace(
                    like.ledger,
                    id=like.ledger.id.replace("/", f"-{number}-{cluster}/", 1),
                    start_ms=start,
                    end_ms=start + WINDOW_MS,
                )
                for cluster in range(FORGED)
            ]
            records = [(entry.key, encode_ledger(entry)) for entry in entries]
            world.feeder.append(world.settings.topics.ledger, entries[0].partition, records)
        world.recover()
        service = world.fleet.running[audit]
        eventually(lambda: any("_other_" in labels for _, labels in service.samples()))  # noqa: B023
        unharmed(world)
        assert world.fleet.terminate(audit) == {audit: 0}
        world.fleet.start(audit)
        world.fleet.ready(audit)
        unharmed(world)
